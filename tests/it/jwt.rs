//! JSON Web Tokens with keys from an HTTPS server that changes them.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use signalpost::grpc::proto::v1;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tonic::{Code, Status};

use crate::harness::{Authority, PATIENCE, Pair, Server, call_any, eventually, naming, with_token};

const LIST: &str = "signalpost.v1.DestinationAdmin/ListDestinations";
const CREATE: &str = "signalpost.v1.DestinationAdmin/CreateDestination";

pub struct SigningKey {
    id: &'static str,
    pair: Ed25519KeyPair,
}

impl SigningKey {
    pub fn new(id: &'static str) -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self { id, pair: Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap() }
    }

    pub fn public(&self) -> Value {
        let x = URL_SAFE_NO_PAD.encode(self.pair.public_key());
        json!({"kty": "OKP", "crv": "Ed25519", "kid": self.id, "use": "sig", "x": x})
    }

    pub fn token(&self, role: &str) -> String {
        self.sign(&json!({"alg": "EdDSA", "typ": "JWT", "kid": self.id}), role)
    }

    /// A token that does not say with which key it was signed.
    fn nameless_token(&self, role: &str) -> String {
        self.sign(&json!({"alg": "EdDSA", "typ": "JWT"}), role)
    }

    fn sign(&self, header: &Value, role: &str) -> String {
        let claims = json!({
            "iss": "https://issuer.example", "aud": "signalpost", "sub": "svc", "exp": 4_102_444_800_i64,
            "groups": [role], "orgs": ["org_own"],
        });
        let [header, claims] = [header, &claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
        let signed = URL_SAFE_NO_PAD.encode(self.pair.sign(format!("{header}.{claims}").as_bytes()));
        format!("{header}.{claims}.{signed}")
    }
}

/// An issuer that serves its keys over HTTPS, and counts how often it is asked.
struct KeyServer {
    address: SocketAddr,
    authority: Authority,
    state: Arc<State>,
    tasks: JoinSet<()>,
}

struct State {
    asked: AtomicUsize,
    /// `None` while it is out of order.
    keys: Mutex<Option<String>>,
}

impl KeyServer {
    async fn start(keys: &[&SigningKey]) -> Self {
        let authority = Authority::new();
        let tls = acceptor(&authority.sign(&["127.0.0.1"]));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State { asked: AtomicUsize::new(0), keys: Mutex::new(None) });
        let (mut tasks, shared) = (JoinSet::new(), Arc::clone(&state));
        tasks.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if let Ok(stream) = tls.accept(stream).await {
                    let answer = service_fn(|_| {
                        shared.asked.fetch_add(1, Ordering::SeqCst);
                        let keys = shared.keys.lock().unwrap().clone();
                        let status = if keys.is_some() { 200 } else { 500 };
                        let body = Full::new(Bytes::from(keys.unwrap_or_default()));
                        std::future::ready(http::Response::builder().status(status).body(body))
                    });
                    let mut builder = http1::Builder::new();
                    builder.keep_alive(false).serve_connection(TokioIo::new(stream), answer).await.ok();
                }
            }
        });
        let server = Self { address, authority, state, tasks };
        server.serve(keys);
        server
    }

    fn serve(&self, keys: &[&SigningKey]) {
        let keys: Vec<Value> = keys.iter().map(|key| key.public()).collect();
        *self.state.keys.lock().unwrap() = Some(json!({"keys": keys}).to_string());
    }

    fn fail(&self) {
        *self.state.keys.lock().unwrap() = None;
    }

    fn asked(&self) -> usize {
        assert!(!self.tasks.is_empty());
        self.state.asked.load(Ordering::SeqCst)
    }
}

fn acceptor(pair: &Pair) -> TlsAcceptor {
    let chain = CertificateDer::pem_slice_iter(pair.certificate.as_bytes()).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

async fn server(issuer: &KeyServer) -> (Server, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &issuer.authority.pem).unwrap();
    let (url, ca) = (format!("\"https://{}/keys\"", issuer.address), format!("{:?}", file.path()));
    let settings = [
        ("auth.jwt_issuer", r#""https://issuer.example""#),
        ("auth.jwt_audiences", r#"["signalpost"]"#),
        ("auth.jwt_roles_claim", r#""groups""#),
        ("auth.jwt_organizations_claim", r#""orgs""#),
        ("auth.jwt_roles", r#"["hooks-readers=viewer", "hooks-admins=admin"]"#),
        ("auth.jwks_url", url.as_str()),
        ("auth.jwks_ca_file", ca.as_str()),
        ("auth.jwks_min_refresh", r#""500ms""#),
        ("auth.jwks_refresh", r#""1s""#),
        ("auth.reload", r#""50ms""#),
    ];
    (Server::with(&settings).await, file)
}

async fn call(server: &Server, token: &str, method: &str, organization_id: &str) -> Result<(), Status> {
    call_any(&server.channel(), method, with_token(token, naming(organization_id))).await
}

#[tokio::test]
async fn claims_become_rights_and_new_keys_are_fetched_when_a_token_names_one() {
    let (one, two, unknown) = (SigningKey::new("one"), SigningKey::new("two"), SigningKey::new("three"));
    let issuer = KeyServer::start(&[&one]).await;
    let (server, _ca) = server(&issuer).await;
    let reader = one.token("hooks-readers");
    call(&server, &reader, LIST, "org_own").await.unwrap();
    for (method, organization) in [(CREATE, "org_own"), (LIST, "org_other")] {
        let denied = call(&server, &reader, method, organization).await.unwrap_err();
        assert_eq!(denied.code(), Code::PermissionDenied, "{method} {organization}");
    }
    let admin = call(&server, &one.token("hooks-admins"), CREATE, "org_own").await.unwrap_err();
    assert_eq!(admin.code(), Code::InvalidArgument);

    // Keys that nobody has do not make us ask the issuer for each of them.
    for _ in 0..100 {
        let refused = call(&server, &unknown.token("hooks-readers"), LIST, "org_own").await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
    }
    assert!(issuer.asked() < 30, "{} times", issuer.asked());
    issuer.serve(&[&one, &two]);
    eventually("the new key is believed", async || {
        call(&server, &two.token("hooks-readers"), LIST, "org_own").await.ok()
    })
    .await;
    // While the issuer is away, the last keys go on.
    issuer.fail();
    let asked = issuer.asked();
    let away = async {
        eventually("the issuer is asked in vain", async || {
            call(&server, &unknown.token("hooks-readers"), LIST, "org_own").await.unwrap_err();
            (issuer.asked() > asked + 1).then_some(())
        })
        .await;
    };
    tokio::time::timeout(PATIENCE, away).await.unwrap();
    call(&server, &reader, LIST, "org_own").await.unwrap();
}

#[tokio::test]
async fn streams_end_with_the_key_of_their_token_whether_the_token_names_it_or_not() {
    let (old, stays) = (SigningKey::new("old"), SigningKey::new("stays"));
    let issuer = KeyServer::start(&[&old, &stays]).await;
    let (server, _ca) = server(&issuer).await;
    let watch = async |token: String| {
        let request = v1::WatchDeliveriesRequest { organization_id: "org_own".into(), ..Default::default() };
        server.deliveries().watch_deliveries(with_token(&token, request)).await.unwrap().into_inner()
    };
    let mut ending =
        [watch(old.nameless_token("hooks-readers")).await, watch(old.token("hooks-readers")).await];
    let mut going_on = watch(stays.nameless_token("hooks-readers")).await;
    issuer.serve(&[&stays]);
    for stream in &mut ending {
        let ended = tokio::time::timeout(PATIENCE, stream.message()).await.unwrap().unwrap_err();
        assert_eq!(ended.code(), Code::Unauthenticated);
    }
    // The same id for another key does not keep the old one's streams alive.
    let mut renamed = watch(stays.token("hooks-readers")).await;
    let other = SigningKey::new("stays");
    issuer.serve(&[&other]);
    for stream in [&mut renamed, &mut going_on] {
        let ended = tokio::time::timeout(PATIENCE, stream.message()).await.unwrap().unwrap_err();
        assert_eq!(ended.code(), Code::Unauthenticated);
    }
}

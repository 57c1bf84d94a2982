//! TLS and client certificates over real sockets.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::HandshakeKind;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use signalpost::clock::{Clock, SystemClock};
use signalpost::grpc::proto::v1;
use signalpost::grpc::proto::v1::event_ingest_client::EventIngestClient;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::harness::{
    Authority, Refusal, Server, TlsFolder, call_any, event, eventually, naming, secure_endpoint, swap,
};

const OWN: &str = "org_own";
const EMIT: &str = "signalpost.v1.EventIngest/Emit";

async fn server(tls: &TlsFolder, changes: &[(&str, &str)]) -> Server {
    let (certificate, key) = (tls.setting("certificate.pem"), tls.setting("key.pem"));
    let mut settings = vec![
        ("listen.tls_certificate", certificate.as_str()),
        ("listen.tls_key", key.as_str()),
        ("auth.reload", r#""50ms""#),
    ];
    settings.extend_from_slice(changes);
    Server::with(&settings).await
}

async fn emit(channel: &Channel) -> Result<(), Status> {
    let event = Some(event("agent.offline").data("{}").0);
    let request = v1::EmitRequest { organization_id: OWN.into(), event };
    EventIngestClient::new(channel.clone()).emit(request).await.map(|_| ())
}

#[tokio::test]
async fn a_client_that_trusts_the_authority_is_served_and_plaintext_and_other_protocols_are_not() {
    let authority = Authority::new();
    let tls = TlsFolder::new(&authority.sign(&["localhost"]), &authority.pem);
    let server = server(&tls, &[]).await;
    let address = server.grpc_address();
    let channel = secure_endpoint(address, &authority.pem, None).connect().await.unwrap();
    emit(&channel).await.unwrap();
    assert!(secure_endpoint(address, &Authority::new().pem, None).connect().await.is_err());
    // A plaintext client gets no answer that it could take for one.
    let mut plain = TcpStream::connect(address).await.unwrap();
    plain.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    plain.read_to_end(&mut answer).await.ok();
    assert!(!answer.starts_with(&[0, 0]), "{answer:?}");
    // Health stays in plaintext on a port of its own.
    let health = Channel::from_shared(format!("http://{}", server.health_address())).unwrap();
    let health = health.connect().await.unwrap();
    call_any(&health, "grpc.health.v1.Health/Check", Request::new(Bytes::new())).await.unwrap();
    let refused = call_any(&health, EMIT, Request::new(naming(OWN))).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
}

#[tokio::test]
async fn the_names_of_a_client_certificate_decide_what_it_may_do() {
    let (authority, other) = (Authority::new(), Authority::new());
    let tls = TlsFolder::new(&authority.sign(&["localhost"]), &authority.pem);
    let ca = tls.setting("clients.pem");
    for mode in [r#""required""#, r#""optional""#] {
        let server = server(
            &tls,
            &[
                ("listen.client_ca", ca.as_str()),
                ("listen.client_certificates", mode),
                (
                    "auth.certificates",
                    r#"["dns:backend.example.com=emitter@org_own", "uri:spiffe://example.com/ops=operator"]"#,
                ),
            ],
        )
        .await;
        let address = server.grpc_address();
        let as_whom = async |identity: Option<&crate::harness::Pair>| {
            let channel = secure_endpoint(address, &authority.pem, identity).connect().await;
            // With TLS 1.3 a client learns of a refused certificate from its first call.
            match channel {
                Ok(channel) => emit(&channel).await,
                Err(_) => Err(Status::unavailable("no connection")),
            }
        };
        as_whom(Some(&authority.sign(&["backend.example.com"]))).await.unwrap();
        as_whom(Some(&authority.sign(&["spiffe://example.com/ops"]))).await.unwrap();
        let stranger = as_whom(Some(&authority.sign(&["stranger.example.com"]))).await.unwrap_err();
        assert_eq!(Refusal::from(stranger).reason, "CREDENTIALS_INVALID", "{mode}");
        let forged = as_whom(Some(&other.sign(&["backend.example.com"]))).await.unwrap_err();
        assert_ne!(forged.code(), Code::Ok);
        assert_ne!(forged.code(), Code::Unauthenticated, "{mode}: {forged:?}");
        let nobody = as_whom(None).await.unwrap_err();
        if mode.contains("optional") {
            assert_eq!(Refusal::from(nobody).reason, "CREDENTIALS_MISSING");
        } else {
            assert!(matches!(nobody.code(), Code::Unavailable | Code::Unknown), "{nobody:?}");
        }
    }
}

#[tokio::test]
async fn an_open_connection_does_not_outlive_its_authority() {
    let (authority, next) = (Authority::new(), Authority::new());
    let tls = TlsFolder::new(&authority.sign(&["localhost"]), &authority.pem);
    let ca = tls.setting("clients.pem");
    let rules = ("auth.certificates", r#"["dns:backend.example.com=admin@org_own"]"#);
    let server = server(&tls, &[("listen.client_ca", ca.as_str()), rules]).await;
    let backend = authority.sign(&["backend.example.com"]);
    let endpoint = secure_endpoint(server.grpc_address(), &authority.pem, Some(&backend));
    let channel = endpoint.connect().await.unwrap();
    emit(&channel).await.unwrap();
    swap(&tls.path("clients.pem"), &next.pem);
    let refused = eventually("the authority is gone", async || emit(&channel).await.err()).await;
    assert_eq!(Refusal::from(refused).reason, "CREDENTIALS_INVALID");
}

#[tokio::test]
async fn a_certificate_is_rotated_under_load_without_a_failed_call_and_a_broken_pair_changes_nothing() {
    let (old, new) = (Authority::new(), Authority::new());
    let tls = TlsFolder::new(&old.sign(&["localhost"]), &old.pem);
    let server = server(&tls, &[]).await;
    let address = server.grpc_address();
    let both = format!("{}{}", old.pem, new.pem);
    let (done, mut told) = tokio::sync::watch::channel(false);
    let made = std::cell::Cell::new(0);
    let load = async {
        while !*told.borrow_and_update() {
            // A connection of its own for each call, so that each makes a handshake.
            let channel = secure_endpoint(address, &both, None).connect().await.unwrap();
            emit(&channel).await.unwrap();
            made.set(made.get() + 1);
        }
    };
    let goes_on = async || {
        let before = made.get();
        eventually("calls go on", async || (made.get() > before + 3).then_some(())).await;
    };
    let rotate = async {
        for authority in [&new, &old, &new] {
            // Key and certificate that do not belong together: the old pair stays.
            swap(&tls.path("key.pem"), &authority.sign(&["localhost"]).key);
            goes_on().await;
            tls.replace(&authority.sign(&["localhost"]));
            eventually("the new certificate is served", async || {
                let channel = secure_endpoint(address, &authority.pem, None).connect().await.ok()?;
                emit(&channel).await.ok()
            })
            .await;
            goes_on().await;
        }
        done.send(true).unwrap();
    };
    tokio::join!(load, rotate);
}

#[tokio::test]
async fn a_revoked_certificate_is_refused_also_on_a_connection_that_is_open() {
    let authority = Authority::new();
    let far = rcgen::date_time_ymd(4096, 1, 1);
    let tls = TlsFolder::new(&authority.sign(&["localhost"]), &authority.pem);
    swap(&tls.path("revoked.pem"), &authority.revocation_list(&[], far));
    let (ca, lists) = (tls.setting("clients.pem"), format!("[{}]", tls.setting("revoked.pem")));
    let rules = ("auth.certificates", r#"["dns:backend.example.com=admin@org_own"]"#);
    let settings =
        [("listen.client_ca", ca.as_str()), ("listen.client_revocation_lists", lists.as_str()), rules];
    let server = server(&tls, &settings).await;
    let (thief, good) = (authority.sign(&["backend.example.com"]), authority.sign(&["backend.example.com"]));
    let open = async |pair| {
        let channel = secure_endpoint(server.grpc_address(), &authority.pem, Some(pair)).connect().await;
        let channel = channel.map_err(|_| Status::unavailable("no connection"))?;
        emit(&channel).await.map(|()| channel)
    };
    let (stolen, kept) = (open(&thief).await.unwrap(), open(&good).await.unwrap());
    swap(&tls.path("revoked.pem"), &authority.revocation_list(&[&thief], far));
    let refused = eventually("it is revoked", async || emit(&stolen).await.err()).await;
    assert_eq!(Refusal::from(refused).reason, "CREDENTIALS_INVALID");
    assert_ne!(open(&thief).await.unwrap_err().code(), Code::Ok, "nor does it open a new connection");
    emit(&kept).await.unwrap();
    // A broken list changes nothing …
    swap(&tls.path("revoked.pem"), "no list");
    open(&good).await.unwrap();
    assert!(open(&thief).await.is_err());
    // … and one that is past its time, or of somebody else, lets nobody in.
    for list in [
        authority.revocation_list(&[&thief], rcgen::date_time_ymd(2021, 1, 1)),
        Authority::new().revocation_list(&[], far),
    ] {
        swap(&tls.path("revoked.pem"), &list);
        eventually("the status is not known", async || open(&good).await.err()).await;
        swap(&tls.path("revoked.pem"), &authority.revocation_list(&[&thief], far));
        eventually("the status is known again", async || open(&good).await.ok()).await;
    }
}

/// Calls over a TLS connection of its own: how the handshake went, and what the call was answered.
async fn call_over(
    server: &Server,
    config: &Arc<rustls::ClientConfig>,
) -> std::io::Result<(HandshakeKind, http::HeaderMap)> {
    let stream = TcpStream::connect(server.grpc_address()).await?;
    let connector = tokio_rustls::TlsConnector::from(Arc::clone(config));
    let stream = connector.connect("localhost".try_into().unwrap(), stream).await?;
    let kind = stream.get_ref().1.handshake_kind().unwrap();
    let failed = std::io::Error::other::<hyper::Error>;
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut client, connection) = handshake.map_err(failed)?;
    let request = http::Request::post(format!("https://localhost/{EMIT}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(Bytes::from_static(&[0; 5])))
        .unwrap();
    tokio::select! {
        answer = client.send_request(request) => Ok((kind, answer.map_err(failed)?.headers().clone())),
        _ = connection => Err(std::io::Error::other("the connection ended")),
    }
}

#[tokio::test]
async fn a_resumed_session_proves_nothing_that_is_no_longer_true() {
    let authority = Authority::new();
    let tls = TlsFolder::new(&authority.sign(&["localhost"]), &authority.pem);
    let ca = tls.setting("clients.pem");
    let rules = ("auth.certificates", r#"["dns:backend.example.com=admin@org_own"]"#);
    let server = server(&tls, &[("listen.client_ca", ca.as_str()), rules]).await;
    // A certificate that is good for a few seconds, and a client that resumes its sessions.
    let end = SystemClock.now().as_millis() / 1000 + 3;
    let end = time::OffsetDateTime::from_unix_timestamp(end).unwrap();
    let pair = authority.sign_until(&["backend.example.com"], end);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap()).unwrap();
    let chain = vec![CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let config = Arc::new(config);
    let (kind, headers) = call_over(&server, &config).await.unwrap();
    assert_eq!(kind, HandshakeKind::Full);
    let answer = Status::from_header_map(&headers).unwrap();
    assert_eq!(answer.code(), Code::InvalidArgument, "it may call, and has sent nothing: {answer:?}");
    let (kind, answer) = eventually("the certificate's time is over", async || {
        let (kind, headers) = call_over(&server, &config).await.unwrap();
        let answer = Status::from_header_map(&headers).unwrap();
        (answer.code() == Code::Unauthenticated).then_some((kind, answer))
    })
    .await;
    assert_eq!(kind, HandshakeKind::Resumed, "no handshake looked at the certificate again");
    assert_eq!(Refusal::from(answer).reason, "CREDENTIALS_INVALID");
}

#[tokio::test]
async fn metrics_tell_when_certificates_and_lists_end_and_learn_of_new_ones() {
    let authority = Authority::new();
    let until = |year| authority.sign_until(&["localhost"], rcgen::date_time_ymd(year, 1, 1));
    let tls = TlsFolder::new(&until(2100), &authority.pem);
    let list = authority.revocation_list(&[], rcgen::date_time_ymd(2090, 1, 1));
    swap(&tls.path("revoked.pem"), &list);
    let (ca, lists) = (tls.setting("clients.pem"), format!("[{}]", tls.setting("revoked.pem")));
    let server = server(&tls, &[("listen.client_ca", &ca), ("listen.client_revocation_lists", &lists)]).await;
    let ends = async |certificate: &str| {
        let name =
            format!(r#"signalpost_certificate_expiry_timestamp_seconds{{certificate="{certificate}"}}"#);
        server.scrape().await.value(&name)
    };
    assert_eq!(ends("server").await, 4_102_444_800.0);
    assert_eq!(ends("revocation_list").await, 3_786_912_000.0);
    // rcgen's authorities end in the year 4096.
    assert!(ends("client_authority").await > 6e10);
    tls.replace(&until(2050));
    eventually("the new one is told", async || (ends("server").await == 2_524_608_000.0).then_some(())).await;
    assert_eq!(
        Server::start()
            .await
            .scrape()
            .await
            .value(r#"signalpost_certificate_expiry_timestamp_seconds{certificate="server"}"#),
        0.0
    );
}

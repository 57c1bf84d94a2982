//! TLS and client certificates over real sockets.

use std::time::Duration;

use bytes::Bytes;
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
    let load = async {
        let mut made = 0;
        while !*told.borrow_and_update() {
            // A connection of its own for each call, so that each makes a handshake.
            let channel = secure_endpoint(address, &both, None).connect().await.unwrap();
            emit(&channel).await.unwrap();
            made += 1;
        }
        made
    };
    let rotate = async {
        for authority in [&new, &old, &new] {
            // Key and certificate that do not belong together: the old pair stays.
            swap(&tls.path("key.pem"), &authority.sign(&["localhost"]).key);
            tokio::time::sleep(Duration::from_millis(150)).await;
            tls.replace(&authority.sign(&["localhost"]));
            eventually("the new certificate is served", async || {
                let channel = secure_endpoint(address, &authority.pem, None).connect().await.ok()?;
                emit(&channel).await.ok()
            })
            .await;
        }
        done.send(true).unwrap();
    };
    let (made, ()) = tokio::join!(load, rotate);
    assert!(made > 10, "{made} calls");
}

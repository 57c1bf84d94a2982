//! The receiver on real sockets.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use http::StatusCode;
use http::header::RETRY_AFTER;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::clock::TokioClock;
use crate::domain::contract::Contract;
use crate::domain::time::Timestamp;

const SOON: Duration = Duration::from_secs(10);

fn post(path: &str, headers: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nhost: x\r\n{headers}content-length: {}\r\n\r\n{body}", body.len())
}

async fn plain(behaviour: Arc<dyn Behaviour>) -> Receiver {
    Receiver::start(ReceiverOptions::local(behaviour)).await.unwrap()
}

/// Sends and reads one answer (the whole text of it), or what came until the connection was closed.
async fn ask(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&answer).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                return text;
            }
        }
        match stream.read_buf(&mut answer).await {
            Ok(0) | Err(_) => return text,
            Ok(_) => {}
        }
    }
}

async fn ask_once(receiver: &Receiver, request: &str) -> String {
    let mut stream = TcpStream::connect(receiver.address()).await.unwrap();
    ask(&mut stream, request).await
}

#[tokio::test]
async fn what_comes_is_kept_as_it_came_and_connections_are_told_apart() {
    let receiver = plain(always(StatusCode::NO_CONTENT)).await;
    let mut stream = TcpStream::connect(receiver.address()).await.unwrap();
    for body in ["one", "two"] {
        let answer = ask(&mut stream, &post("/a?b=c", "x-mine: 1\r\n", body)).await;
        assert!(answer.starts_with("HTTP/1.1 204 No Content\r\n"), "{answer}");
    }
    ask_once(&receiver, &post("/d", "", "three")).await;
    let all = receiver.wait_for(|all| all.len() == 3, SOON).await.unwrap();
    let facts: Vec<_> =
        all.iter().map(|one| (one.path.as_str(), &one.body[..], one.sequence, one.connection)).collect();
    assert_eq!(facts, [("/a", &b"one"[..], 1, 1), ("/a", b"two", 2, 1), ("/d", b"three", 3, 2)]);
    assert_eq!((all[0].query.as_deref(), all[0].headers["x-mine"].to_str().unwrap()), (Some("b=c"), "1"));
}

#[tokio::test]
async fn https_works_for_a_sender_that_trusts_the_certificate_and_for_no_other() {
    let identity = TlsIdentity::self_signed(["localhost"]).unwrap();
    let certificate = CertificateDer::from_pem_slice(identity.certificate_pem().as_bytes()).unwrap();
    let options = ReceiverOptions { tls: Some(identity), ..ReceiverOptions::local(always(StatusCode::OK)) };
    let receiver = Receiver::start(options).await.unwrap();
    assert!(receiver.url("/x").starts_with("https://127.0.0.1:"));

    for trusted in [true, false] {
        let mut roots = rustls::RootCertStore::empty();
        if trusted {
            roots.add(certificate.clone()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(receiver.address()).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let connected = connector.connect(ServerName::try_from("localhost").unwrap(), stream).await;
        assert_eq!(connected.is_ok(), trusted);
        if let Ok(mut stream) = connected {
            assert!(ask(&mut stream, &post("/", "", "{}")).await.starts_with("HTTP/1.1 200 OK"));
        }
    }
    assert_eq!(receiver.received().len(), 1);
    receiver.stop().await;
}

#[tokio::test]
async fn a_script_is_followed_for_each_path_and_then_all_is_well() {
    let slow_down = Answer::from(StatusCode::TOO_MANY_REQUESTS).with_header(RETRY_AFTER, 7.into());
    let script =
        Script::new().on("/a", [StatusCode::BAD_GATEWAY]).on("/a", [slow_down]).on("/b", [Answer::cut()]);
    let receiver = plain(Arc::new(script)).await;
    let first = ask_once(&receiver, &post("/a", "", "")).await;
    assert!(first.starts_with("HTTP/1.1 502"), "{first}");
    let second = ask_once(&receiver, &post("/a", "", "")).await;
    assert!(second.starts_with("HTTP/1.1 429") && second.contains("retry-after: 7"), "{second}");
    assert_eq!(ask_once(&receiver, &post("/b", "", "")).await, "");
    for path in ["/a", "/b", "/c"] {
        assert!(ask_once(&receiver, &post(path, "", "")).await.starts_with("HTTP/1.1 200"), "{path}");
    }
    assert_eq!(receiver.received().len(), 6);
}

#[tokio::test]
async fn the_verifying_behaviour_answers_200_401_or_404_and_records_what_it_verified() {
    let id_secret = ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned(), "ovos-moles".to_owned());
    let by_path = [
        ("/standard".to_owned(), (Contract::StandardWebhooks, id_secret.0)),
        ("/stalwart".to_owned(), (Contract::Stalwart, id_secret.1)),
    ];
    let clock = Arc::new(TokioClock::starting_at(Timestamp::from_millis(1_614_265_330_000)));
    let verifying = Arc::new(Verifying::new(by_path.into(), clock));
    let receiver = plain(Arc::clone(&verifying) as Arc<dyn Behaviour>).await;

    let right = "X-Signature: PNOx3tLAh3dahXjNLPPa8fD2M5xvwa6vW/dH1sczQAA=\r\nsignalpost-attempt: 4\r\n";
    let genuine = ask_once(&receiver, &post("/stalwart", right, r#"{"events":[]}"#)).await;
    assert!(genuine.starts_with("HTTP/1.1 200"), "{genuine}");
    let forged = ask_once(&receiver, &post("/standard", "webhook-id: m\r\n", "{}")).await;
    assert!(
        forged.starts_with("HTTP/1.1 401") && forged.contains("webhook-timestamp is missing"),
        "{forged}"
    );
    let elsewhere = ask_once(&receiver, &post("/other", right, r#"{"events":[]}"#)).await;
    assert!(elsewhere.starts_with("HTTP/1.1 404"), "{elsewhere}");

    let expected = Verified { events: vec![], attempt: Some(4) };
    assert_eq!(verifying.verified(), [("/stalwart".to_owned(), expected)]);
    let rejection = Err(Rejection::MissingHeader("webhook-timestamp"));
    assert_eq!(verifying.verdicts()[1], Verdict { sequence: 2, path: "/standard".into(), result: rejection });
}

#[tokio::test]
async fn too_large_a_body_is_refused_before_it_is_read_and_only_posts_are_taken() {
    let receiver = plain(always(StatusCode::OK)).await;
    let limit = server::MAX_BODY_BYTES;
    let announced = format!("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", limit + 1);
    assert!(ask_once(&receiver, &announced).await.starts_with("HTTP/1.1 413"));
    let chunk = format!("{:x}\r\n{}", limit + 1, "x".repeat(limit + 1));
    let chunked = format!("POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n{chunk}");
    assert!(ask_once(&receiver, &chunked).await.starts_with("HTTP/1.1 413"));
    let got = ask_once(&receiver, "GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(got.starts_with("HTTP/1.1 405") && got.contains("allow: POST"), "{got}");
    assert!(receiver.received().is_empty());
    let largest = post("/", "", &"x".repeat(limit));
    assert!(ask_once(&receiver, &largest).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn stopping_ends_idle_connections_and_requests_that_wait_for_their_answer() {
    let late = Answer::from(StatusCode::OK).after(Duration::from_secs(3600));
    let receiver = Arc::new(plain(Arc::new(Script::new().on("/late", [late]))).await);
    let mut idle = TcpStream::connect(receiver.address()).await.unwrap();
    assert!(ask(&mut idle, &post("/", "", "")).await.starts_with("HTTP/1.1 200"));
    let mut waiting = TcpStream::connect(receiver.address()).await.unwrap();
    let request = post("/late", "", "");
    let (answer, ()) = tokio::join!(ask(&mut waiting, &request), async {
        receiver.wait_for(|all| all.iter().any(|one| one.path == "/late"), SOON).await.unwrap();
        tokio::time::timeout(SOON, receiver.stop()).await.unwrap();
    });
    assert_eq!(answer, "");
    assert_eq!(ask(&mut idle, "").await, "");
    assert!(TcpStream::connect(receiver.address()).await.is_err());
    assert_eq!(receiver.received().len(), 2);
}

#[tokio::test]
async fn a_delayed_answer_comes_after_its_delay() {
    let delay = Duration::from_millis(30);
    let receiver = plain(always(Answer::from(StatusCode::OK).with_body("done").after(delay))).await;
    let begun = tokio::time::Instant::now();
    assert!(ask_once(&receiver, &post("/", "", "")).await.ends_with("done"));
    assert!(begun.elapsed() >= delay);
}

/// The headers of a Standard Webhooks request with this key, signed at this time.
fn standard_headers(key: &[u8], content_type: &str, seconds: i64, body: &str) -> http::HeaderMap {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key);
    let tag = ring::hmac::sign(&key, format!("evt_1.{seconds}.{body}").as_bytes());
    let signature = format!("v1,{}", base64::engine::general_purpose::STANDARD.encode(tag));
    let list = [
        ("content-type", content_type.to_owned()),
        ("webhook-id", "evt_1".to_owned()),
        ("webhook-timestamp", seconds.to_string()),
        ("webhook-signature", signature),
    ];
    list.into_iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
}

#[test]
fn both_contracts_of_the_standard_are_verified_and_read_and_nothing_in_them_can_be_changed() {
    let standard = r#"{"type":"a.b","timestamp":"2025-01-15T10:30:00.000Z","data":{"n":1}}"#;
    let envelope = r#"{"specversion":"1.0","id":"evt_1","source":"/s","type":"a.b","time":"2025-01-15T10:30:00.000Z","data":{"n":1}}"#;
    let cases = [
        (Contract::StandardWebhooks, "application/json", standard),
        (Contract::CloudEvents, "application/cloudevents+json", envelope),
    ];
    let now = Timestamp::from_millis(1_750_000_000_999);
    let secret = format!("whsec_{}", base64::engine::general_purpose::STANDARD.encode([7; 24]));
    for (contract, content_type, body) in cases {
        let headers = standard_headers(&[7; 24], content_type, 1_750_000_000, body);
        let verified = verify(contract, &secret, &headers, body.as_bytes(), now).unwrap();
        let event = &verified.events[0];
        let facts = (event.id.as_deref(), event.event_type.as_str(), event.data.as_str());
        assert_eq!(facts, (Some("evt_1"), "a.b", r#"{"n":1}"#), "{contract}");

        let changed = body.replace("\"n\":1", "\"n\":2");
        let mut later = headers.clone();
        later.insert("webhook-timestamp", "1750000001".parse().unwrap());
        let other_key = standard_headers(&[8; 24], content_type, 1_750_000_000, body);
        for (headers, body) in [(&headers, changed.as_str()), (&later, body), (&other_key, body)] {
            let answer = verify(contract, &secret, headers, body.as_bytes(), now);
            assert_eq!(answer, Err(Rejection::SignatureMismatch), "{contract}");
        }
    }
}

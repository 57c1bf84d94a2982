//! Bad receivers, each on a real socket: what the record of the attempt says of them, as callers read it.
//!
//! Each row is a receiver, written out byte for byte, and what the API must tell of it.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use signalpost::domain::contract::Contract;
use signalpost::grpc::proto::v1;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::harness::{
    Authority, DestinationDraft, Pair, Receiver, Server, destination, event, eventually, millis,
};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
/// The pace of receivers that dawdle: much faster than any time limit here.
const PACE: Duration = Duration::from_millis(20);

type Served = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What a receiver does with each connection.
struct Manner(Box<dyn Fn(TcpStream) -> Served + Send + Sync>);

impl Manner {
    fn of<F: Future<Output = ()> + Send + 'static>(
        serve: impl Fn(TcpStream) -> F + Send + Sync + 'static,
    ) -> Self {
        Self(Box::new(move |stream| Box::pin(serve(stream))))
    }

    /// Answers each request with these bytes, and closes the connection.
    fn answers(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        Self::of(move |mut stream| {
            let bytes = bytes.clone();
            async move {
                read_request(&mut stream).await;
                stream.write_all(&bytes).await.ok();
            }
        })
    }
}

/// A receiver on a free port of loopback, until it is dropped.
struct Hostile {
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Hostile {
    async fn serving(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn((manner.0)(stream));
            }
        });
        Self { address, _tasks: tasks }
    }
}

/// One request with its body; whether it was whole.
async fn read_request(stream: &mut (impl AsyncReadExt + Unpin)) -> bool {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return false,
        }
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0");
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).await.is_ok()
}

/// Writes these bytes one by one, for ever, until the other side has closed.
async fn drip(stream: &mut TcpStream, bytes: &[u8]) {
    for byte in bytes.iter().cycle() {
        tokio::time::sleep(PACE).await;
        if stream.write_all(&[*byte]).await.is_err() {
            return;
        }
    }
}

/// Closes with a reset, as a program does that is killed with data unread.
fn reset(stream: TcpStream) {
    stream.set_zero_linger().unwrap();
}

/// What the API tells of an attempt: its kind, its status, and words that are in its error.
type Told = (v1::OutcomeKind, Option<i32>, &'static str);

/// Receivers that break off.
fn breaking() -> Vec<(&'static str, Manner, Told)> {
    let broke_off = (v1::OutcomeKind::ConnectionReset, None, "connection before answering");
    vec![
        (
            "resets during the request",
            Manner::of(|mut stream| async move {
                stream.read_exact(&mut [0; 10]).await.ok();
                reset(stream);
            }),
            broke_off,
        ),
        (
            "resets after the request",
            Manner::of(|mut stream| async move {
                read_request(&mut stream).await;
                reset(stream);
            }),
            broke_off,
        ),
        ("closes within the head of the answer", Manner::answers("HTTP/1.1 200 OK\r\nx-"), broke_off),
    ]
}

/// Receivers that take their time, or break HTTP.
fn manners() -> Vec<(&'static str, Manner, Told)> {
    use v1::OutcomeKind::{Answered, InvalidResponse, TimedOut};
    let slowly = |head: &'static [u8], rest: &'static [u8]| {
        Manner::of(move |mut stream| async move {
            read_request(&mut stream).await;
            stream.write_all(head).await.ok();
            drip(&mut stream, rest).await;
        })
    };
    let redirect = "HTTP/1.1 307 Again\r\nlocation: /\r\ncontent-length: 0\r\n\r\n";
    let hints = format!("HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n{OK}");
    let huge = format!("HTTP/1.1 200 OK\r\nx-huge: {}\r\n\r\n", "x".repeat(1 << 20));
    vec![
        (
            "accepts and never answers",
            Manner::of(|mut stream| async move { drop(stream.read_to_end(&mut Vec::new()).await) }),
            (TimedOut, None, "no answer within 2 s"),
        ),
        (
            "answers byte by byte",
            slowly(b"HTTP/1.1 200 OK\r\nx-slow: ", b"a"),
            (TimedOut, None, "no answer within 2 s"),
        ),
        (
            "sends interim answers without end",
            slowly(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
            (TimedOut, None, "no answer within 2 s"),
        ),
        (
            "has a body without end",
            slowly(b"HTTP/1.1 500 Oh\r\n\r\n", b"ab"),
            (Answered, Some(500), "answered 500"),
        ),
        (
            "has huge headers",
            Manner::answers(huge),
            (InvalidResponse, None, "headers of the answer are too large"),
        ),
        (
            "speaks something else",
            Manner::answers("SSH-2.0-OpenSSH_9.9\r\n"),
            (InvalidResponse, None, "not HTTP"),
        ),
        ("redirects in a circle", Manner::answers(redirect), (Answered, Some(307), "set the final URL")),
        ("gives hints first", Manner::answers(hints), (Answered, Some(200), "")),
    ]
}

/// Receivers that answer, with whatever status.
fn statuses() -> Vec<(&'static str, Manner, Told)> {
    let answer = |status: i32, words| {
        let length = if matches!(status, 204 | 304) { "" } else { "content-length: 0\r\n" };
        let manner = Manner::answers(format!("HTTP/1.1 {status} X\r\n{length}\r\n"));
        ("answers", manner, (v1::OutcomeKind::Answered, Some(status), words))
    };
    vec![
        answer(204, ""),
        answer(205, ""),
        answer(304, "answered 304: redirects are never followed"),
        answer(308, "answered 308: redirects are never followed"),
        answer(400, "answered 400"),
        answer(404, "answered 404"),
        answer(500, "answered 500"),
        answer(599, "answered 599"),
    ]
}

fn stalwart(address: SocketAddr) -> DestinationDraft {
    let draft = destination(Contract::Stalwart).url(format!("http://{address}/")).one_attempt();
    draft.settings(|settings| {
        settings.throttle = Some(millis(0));
        settings.timeout = Some(millis(2000));
    })
}

async fn start() -> Server {
    Server::with(&[("delivery.plain_http_contracts", r#"["STALWART"]"#)]).await
}

/// The first attempt for a destination, as its delivery tells of it.
async fn first_attempt(server: &Server, destination: &v1::Destination) -> v1::Attempt {
    let filter =
        || v1::DeliveryFilter { destination_id: destination.destination_id.clone(), ..Default::default() };
    let delivery = eventually("an attempt is on the record", async || {
        server.list(filter()).await.pop().filter(|delivery| delivery.attempt_count > 0)
    })
    .await;
    server.delivery(&delivery.delivery_id).await.attempts.swap_remove(0)
}

fn assert_told(name: &str, attempt: &v1::Attempt, (kind, status, words): Told) {
    assert_eq!((attempt.outcome_kind(), attempt.status_code), (kind, status), "{name}: {attempt:?}");
    assert_eq!(attempt.succeeded, words.is_empty(), "{name}");
    assert_eq!(attempt.error.is_empty(), words.is_empty(), "{name}: {}", attempt.error);
    assert!(attempt.error.contains(words), "{name}: {}", attempt.error);
    assert!(!attempt.error.contains("127.0.0.1"), "{name}: {}", attempt.error);
    assert!(attempt.start_time.is_some() && attempt.round_trip.is_some(), "{name}");
}

#[tokio::test]
async fn whatever_a_receiver_does_the_record_says_what_and_in_words_that_help() {
    let server = start().await;
    let mut cast = Vec::new();
    for (name, manner, told) in breaking().into_iter().chain(manners()).chain(statuses()) {
        let receiver = Hostile::serving(manner).await;
        let destination = server.create(stalwart(receiver.address)).await;
        cast.push((name, receiver, destination, told));
    }
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let refusing = server.create(stalwart(closed)).await;
    let nowhere = stalwart(closed).url("http://no-such-receiver.invalid/".to_owned());
    let nameless = server.create(nowhere).await;
    let at_once = Hostile::serving(Manner::of(|stream| async move { reset(stream) })).await;
    let hasty = server.create(stalwart(at_once.address)).await;
    server.emit(event("auth.success")).await;
    for (name, _receiver, destination, told) in &cast {
        assert_told(name, &first_attempt(&server, destination).await, *told);
    }
    let told = (v1::OutcomeKind::ConnectionRefused, None, "connection refused");
    assert_told("refuses", &first_attempt(&server, &refusing).await, told);
    let told = (v1::OutcomeKind::DnsFailed, None, "the host name could not be resolved");
    assert_told("has no address", &first_attempt(&server, &nameless).await, told);
    // Whether the connection was there for a moment, the network decides.
    let attempt = first_attempt(&server, &hasty).await;
    let kinds = [v1::OutcomeKind::ConnectionReset, v1::OutcomeKind::ConnectionFailed];
    let kind = *kinds.iter().find(|kind| **kind == attempt.outcome_kind()).unwrap_or(&kinds[0]);
    assert_told("resets before the request", &attempt, (kind, None, "connection"));
}

/// A receiver over TLS with this certificate.
async fn with_certificate(pair: &Pair) -> Hostile {
    let certificate = CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider);
    let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let acceptor = TlsAcceptor::from(Arc::new(config.with_single_cert(vec![certificate], key).unwrap()));
    let manner = Manner::of(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            read_request(&mut stream).await;
            stream.write_all(OK.as_bytes()).await.ok();
        }
    });
    Hostile::serving(manner).await
}

/// Cuts the connection after the client's hello, with the beginning of an answer to it.
fn cut_in_the_handshake() -> Manner {
    Manner::of(|mut stream| async move {
        let mut head = [0; 5];
        stream.read_exact(&mut head).await.unwrap();
        let mut hello = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
        stream.read_exact(&mut hello).await.unwrap();
        stream.write_all(&[22, 3, 3, 0, 122, 2, 0, 0, 118, 3, 3]).await.unwrap();
    })
}

/// Answers as a server of plain HTTP answers to what is no HTTP.
fn plain_http() -> Manner {
    Manner::of(|mut stream| async move {
        stream.read_exact(&mut [0; 5]).await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        drop(stream.read_to_end(&mut Vec::new()).await);
    })
}

#[tokio::test]
async fn what_is_wrong_with_a_certificate_or_a_handshake_is_on_the_record() {
    let authority = Authority::new();
    let mut server = start().await;
    let file = server.write_file("authority.pem", &authority.pem);
    server.restart_with(&[("egress.ca_file", &format!("{file:?}"))]).await;
    let tls = v1::OutcomeKind::TlsFailed;
    let names = ["127.0.0.1"];
    let expired = authority.sign_until(&names, rcgen::date_time_ymd(2020, 1, 1));
    let stranger = Authority::new().sign(&names);
    let cast = [
        (
            "trusted",
            with_certificate(&authority.sign(&names)).await,
            (v1::OutcomeKind::Answered, Some(200), ""),
        ),
        (
            "another name",
            with_certificate(&authority.sign(&["other.example"])).await,
            (tls, None, "for another name"),
        ),
        ("expired", with_certificate(&expired).await, (tls, None, "the certificate has expired")),
        ("unknown issuer", with_certificate(&stranger).await, (tls, None, "certificate not trusted")),
        ("cut", Hostile::serving(cut_in_the_handshake()).await, (tls, None, "before TLS was agreed")),
        ("plain", Hostile::serving(plain_http()).await, (tls, None, "plain http")),
    ];
    let self_signed = Receiver::untrusted().await;
    let draft = |url: String| destination(Contract::Workspace).url(url).one_attempt();
    let mut destinations = Vec::new();
    for (_, receiver, _) in &cast {
        destinations.push(server.create(draft(format!("https://{}/", receiver.address))).await);
    }
    let untrusted = server.create(draft(self_signed.url("/"))).await;
    server.emit(event("kpi.alert")).await;
    for ((name, _, told), destination) in cast.iter().zip(&destinations) {
        assert_told(name, &first_attempt(&server, destination).await, *told);
    }
    let told = (tls, None, "certificate not trusted (self-signed or unknown issuer)");
    assert_told("self-signed", &first_attempt(&server, &untrusted).await, told);
}

#[tokio::test]
async fn a_kept_connection_that_closes_at_the_worst_moment_costs_one_attempt_on_the_record_and_no_phantom() {
    // The second request on a connection is read whole, and then the connection is closed without a word.
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&requests);
    let manner = Manner::of(move |mut stream| {
        let counted = Arc::clone(&counted);
        async move {
            for answers in [true, false] {
                if !read_request(&mut stream).await {
                    return;
                }
                counted.fetch_add(1, Ordering::SeqCst);
                if answers {
                    stream.write_all(OK.as_bytes()).await.unwrap();
                }
            }
        }
    });
    let (server, receiver) = (start().await, Hostile::serving(manner).await);
    server.create(stalwart(receiver.address).retry_after(&[50])).await;
    let first = server.emit(event("auth.success")).await.event_id;
    let first = server.until(&first, v1::DeliveryState::Succeeded).await;
    let second = server.emit(event("auth.success")).await.event_id;
    let second = server.until(&second, v1::DeliveryState::Succeeded).await;
    assert_eq!((first.attempt_count, second.attempt_count), (1, 2));
    let told =
        (v1::OutcomeKind::ConnectionReset, None, "the receiver closed the connection before answering");
    assert_told("closes", &second.attempts[0], told);
    assert_eq!(requests.load(Ordering::SeqCst), 3, "nothing was sent that is not on the record");
}

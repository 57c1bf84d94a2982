//! The HTTP transport against real sockets on loopback, friendly and hostile ones.
//!
//! Receivers are plain blocking threads: what they do on the wire is written out, byte for byte, and
//! nothing of the code under test takes part in it.

mod corpus;
mod dns;
mod hostile;
mod http;
mod kept;
mod proxy;
mod tls;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use ::http::HeaderMap;
use bytes::Bytes;
use url::Url;

use super::http::{HttpOptions, HttpTransport};
use super::{SendOptions, Sent, Transport};
use crate::clock::TokioClock;
use crate::contract::RenderedRequest;
use crate::domain::attempt::{Failure, Outcome, Refusal, ResponseBodies};
use crate::domain::time::Timestamp;
use crate::policy::address::AddressPolicy;

/// Longer than any test should take.
const LONG: Duration = Duration::from_secs(20);
/// Short enough to wait for.
const SHORT: Duration = Duration::from_millis(200);

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A receiver on a free port of loopback, with the count of its connections.
struct Receiver {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Receiver {
    /// Hands each connection to `serve`, one after the other.
    fn serving(serve: impl FnMut(TcpStream) + Send + 'static) -> Self {
        Self::serving_at("127.0.0.1:0", serve)
    }

    fn serving_at(at: &str, mut serve: impl FnMut(TcpStream) + Send + 'static) -> Self {
        let listener = TcpListener::bind(at).unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        thread::spawn(move || {
            for stream in listener.incoming() {
                counted.fetch_add(1, Ordering::SeqCst);
                serve(stream.unwrap());
            }
        });
        Self { address, connections }
    }

    /// Answers each request on each connection with these bytes, then waits for the next one.
    fn answering(answer: impl Into<Vec<u8>>) -> Self {
        let answer = answer.into();
        Self::serving(move |mut stream| {
            while read_request(&mut stream).is_some() {
                if stream.write_all(&answer).is_err() {
                    return;
                }
            }
        })
    }

    /// Answers the first request with these bytes and closes the connection.
    fn answering_once(answer: impl Into<Vec<u8>>) -> Self {
        let answer = answer.into();
        Self::serving(move |mut stream| {
            read_request(&mut stream);
            stream.write_all(&answer).unwrap();
        })
    }

    fn url(&self) -> String {
        format!("http://{}/hook?token=planted", self.address)
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// One request with its body; `None` where the connection ends instead.
fn read_request(stream: &mut impl Read) -> Option<String> {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        request.extend(byte);
    }
    let head = String::from_utf8(request).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0");
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).ok()?;
    Some(head + std::str::from_utf8(&body).unwrap())
}

/// Waits until the other side closes.
fn hold(stream: &mut impl Read) {
    let mut rest = [0; 256];
    while matches!(stream.read(&mut rest), Ok(1..)) {}
}

/// What the tests need: loopback and plain http.
fn options() -> HttpOptions {
    let allow = vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
    let policy = AddressPolicy { allow, ..AddressPolicy::default() };
    let response_bodies = ResponseBodies::Always;
    HttpOptions {
        address_policy: Arc::new(policy),
        plain_http: true,
        response_bodies,
        ..HttpOptions::default()
    }
}

/// Sun, 06 Nov 1994 08:49:37 GMT.
fn transport(options: HttpOptions) -> HttpTransport {
    let clock = TokioClock::starting_at(Timestamp::from_millis(784_111_777_000));
    HttpTransport::new(options, Arc::new(clock)).unwrap()
}

fn request(url: &str) -> RenderedRequest {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", "application/json".parse().unwrap());
    headers.insert("webhook-id", "msg_1".parse().unwrap());
    RenderedRequest::for_test(Url::parse(url).unwrap(), headers, Bytes::from_static(b"{\"a\":1}"))
}

const fn within(timeout: Duration) -> SendOptions {
    SendOptions { timeout, spent: Duration::ZERO, allow_invalid_certificates: false }
}

async fn send(url: &str, timeout: Duration) -> Sent {
    transport(options()).send(request(url), within(timeout)).await
}

/// The failure and its words, which never show the URL.
#[track_caller]
fn no_answer(sent: Sent) -> (Failure, String) {
    let Outcome::NoAnswer { failure, detail } = sent.outcome else { panic!("{:?}", sent.outcome) };
    assert!(!detail.contains("planted") && !detail.contains("127.0.0.1"), "{detail}");
    (failure, detail)
}

/// The words of a refusal of the address.
#[track_caller]
fn refused(sent: Sent) -> String {
    let Outcome::NotSent { refusal: Refusal::AddressNotAllowed, detail } = sent.outcome else {
        panic!("{:?}", sent.outcome)
    };
    assert!(!detail.contains("planted") && !detail.contains("127.0.0.1"), "{detail}");
    detail
}

/// The status and the kept body.
#[track_caller]
fn answer(sent: Sent) -> (u16, Bytes) {
    let Outcome::Answered { status, body, .. } = sent.outcome else { panic!("{:?}", sent.outcome) };
    (status, body)
}

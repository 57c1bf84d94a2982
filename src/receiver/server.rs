//! The sockets of a receiver: HTTP/1.1, with TLS where wanted.
//!
//! Every task is tracked and ends with [`Receiver::stop`], or when the receiver is dropped; requests
//! that wait for their answer are cut off then.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::behaviour::{Answer, Behaviour};
use super::log::{Log, NotSeen, Received};
use super::tls::TlsIdentity;

/// The largest body that is read, in bytes; larger ones are answered 413.
pub const MAX_BODY_BYTES: usize = 8 * 1024 * 1024;
/// A peer that says nothing must not hold a connection before it has even begun.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait when the system has no more file handles.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How a receiver is started.
pub struct ReceiverOptions {
    /// Where to listen; port 0 takes a free one.
    pub address: SocketAddr,
    /// The certificate; without one it is plain HTTP.
    pub tls: Option<TlsIdentity>,
    /// What is answered.
    pub behaviour: Arc<dyn Behaviour>,
}

impl ReceiverOptions {
    /// Plain HTTP on a free port of the loopback interface.
    #[must_use]
    pub fn local(behaviour: Arc<dyn Behaviour>) -> Self {
        Self { address: SocketAddr::from(([127, 0, 0, 1], 0)), tls: None, behaviour }
    }
}

/// A running receiver.
pub struct Receiver {
    address: SocketAddr,
    shared: Arc<Shared>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// What all connections use.
struct Shared {
    acceptor: Option<TlsAcceptor>,
    behaviour: Arc<dyn Behaviour>,
    log: Log,
    requests: AtomicU64,
}

impl Receiver {
    /// Listens, and answers from now on.
    ///
    /// # Errors
    /// The address can't be listened on.
    pub async fn start(options: ReceiverOptions) -> io::Result<Self> {
        let listener = TcpListener::bind(options.address).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            acceptor: options.tls.map(|tls| TlsAcceptor::from(tls.config())),
            behaviour: options.behaviour,
            log: Log::new(),
            requests: AtomicU64::new(0),
        });
        let receiver = Self { address, shared, tasks: TaskTracker::new(), stop: CancellationToken::new() };
        let (shared, tasks, stop) = (&receiver.shared, receiver.tasks.clone(), receiver.stop.clone());
        receiver.tasks.spawn(accept(listener, Arc::clone(shared), tasks, stop));
        Ok(receiver)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of a path that begins with `/`.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        let scheme = if self.shared.acceptor.is_some() { "https" } else { "http" };
        format!("{scheme}://{}{path}", self.address)
    }

    /// The last requests: a request is here once its answer is decided.
    #[must_use]
    pub fn received(&self) -> Vec<Received> {
        self.shared.log.all()
    }

    /// Waits until the predicate is true of the last requests, and returns them.
    ///
    /// # Errors
    /// [`NotSeen`] when that takes too long.
    pub async fn wait_for(
        &self,
        predicate: impl FnMut(&[Received]) -> bool,
        within: Duration,
    ) -> Result<Vec<Received>, NotSeen> {
        self.shared.log.wait_for(predicate, within).await
    }

    /// Closes all connections and waits for all tasks; what was received can still be read.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, tasks: TaskTracker, stop: CancellationToken) {
    let mut connections = 0;
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                connections += 1;
                let (shared, stop) = (Arc::clone(&shared), stop.clone());
                tasks.spawn(async move {
                    stop.run_until_cancelled(shared.serve(stream, connections)).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the receiver can't accept a connection");
                stop.run_until_cancelled(tokio::time::sleep(ACCEPT_PAUSE)).await;
            }
        }
    }
}

/// The connection is to be closed without an answer.
#[derive(Debug, thiserror::Error)]
#[error("cut off")]
struct Cut;

impl Shared {
    async fn serve(self: Arc<Self>, stream: TcpStream, connection: u64) {
        // Small answers should not wait for more to come; where that can't be set they still arrive.
        stream.set_nodelay(true).ok();
        let Some(acceptor) = &self.acceptor else {
            return self.serve_http(stream, connection).await;
        };
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => self.serve_http(stream, connection).await,
            Ok(Err(error)) => self.failed(connection, &format!("TLS handshake failed: {error}")),
            Err(_) => self.failed(connection, "TLS handshake failed: it took too long"),
        }
    }

    async fn serve_http(self: &Arc<Self>, stream: impl AsyncRead + AsyncWrite + Unpin, connection: u64) {
        let begun = AtomicBool::new(false);
        let service = service_fn(|request| {
            begun.store(true, Ordering::Relaxed);
            Arc::clone(self).handle(connection, request)
        });
        let ended = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        // After a request a connection may end in any way: peers drop idle ones, behaviours cut them.
        if let (Err(error), false) = (ended, begun.load(Ordering::Relaxed)) {
            self.failed(connection, &format!("no HTTP request came: {error}"));
        }
    }

    fn failed(&self, connection: u64, problem: &str) {
        tracing::debug!(connection, problem, "a connection to the receiver failed");
        self.behaviour.connection_failed(connection, problem);
    }

    async fn handle(
        self: Arc<Self>,
        connection: u64,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Cut> {
        if request.method() != Method::POST {
            let only_post = Answer::from(StatusCode::METHOD_NOT_ALLOWED).with_body("webhooks are POSTs\n");
            return Ok(response(only_post.with_header(ALLOW, HeaderValue::from_static("POST"))));
        }
        let (parts, body) = request.into_parts();
        let Some(body) = read_body(body).await? else {
            let too_large = format!("at most {MAX_BODY_BYTES} bytes are read\n");
            let answer = Answer::from(StatusCode::PAYLOAD_TOO_LARGE).with_body(too_large);
            return Ok(response(answer.with_header(CONNECTION, HeaderValue::from_static("close"))));
        };
        let received = Received {
            path: parts.uri.path().to_owned(),
            query: parts.uri.query().map(str::to_owned),
            headers: Arc::new(parts.headers),
            body,
            at: Instant::now(),
            sequence: self.requests.fetch_add(1, Ordering::Relaxed) + 1,
            connection,
        };
        let answer = self.behaviour.answer(&received);
        self.log.push(received);
        if let Some(delay) = answer.delay {
            tokio::time::sleep(delay).await;
        }
        if answer.cut { Err(Cut) } else { Ok(response(answer)) }
    }
}

/// The whole body; `None` when it is too large, without reading on.
async fn read_body(body: Incoming) -> Result<Option<Bytes>, Cut> {
    if body.size_hint().lower() > MAX_BODY_BYTES as u64 {
        return Ok(None);
    }
    match Limited::new(body, MAX_BODY_BYTES).collect().await {
        Ok(collected) => Ok(Some(collected.to_bytes())),
        Err(error) if error.is::<LengthLimitError>() => Ok(None),
        Err(_) => Err(Cut),
    }
}

fn response(answer: Answer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(answer.body));
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    response
}

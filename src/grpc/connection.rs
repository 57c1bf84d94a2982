//! One connection, from its first byte to its last.
//!
//! It is closed when it does not begin in time, when it has no calls for too long, when it is old enough to be
//! spread anew, when a call of it is stuck because the caller takes no answer, and when the server stops. As far
//! as the caller takes part in it, it is told first (GOAWAY), so that no call is lost.

use std::collections::BTreeMap;
use std::future::pending;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::frames::{Io, Metered};
use super::front::Front;
use super::options::ConnectionOptions;
use super::shares::Share;
use crate::auth::certificate::PeerCertificate;

/// A connection that is told to end earlier or later by this part of its age, so that not all end at once.
const AGE_JITTER: f64 = 0.1;
/// The most streams that a peer may have reset before they were taken up; beyond, the connection is closed.
const PENDING_RESETS_MAX: usize = 20;
/// The same for streams that we reset because of the peer's mistakes.
const ERROR_RESETS_MAX: usize = 256;
/// The most bytes that wait for the peer on one stream.
const SEND_BUFFER_BYTES: usize = 256 * 1024;

/// What is known of a connection while it lives.
pub struct ConnectionState {
    peer: SocketAddr,
    certificate: Option<Arc<dyn PeerCertificate>>,
    began: AtomicBool,
    calls: Mutex<Calls>,
    /// Calls that are worked on at a time.
    pub(super) working: Semaphore,
    /// Held until the connection has begun.
    handshake: Mutex<Option<Share>>,
}

struct Calls {
    active: usize,
    quiet_since: Instant,
    next_id: u64,
    /// Since when each call runs that has a deadline.
    bounded: BTreeMap<u64, Instant>,
}

impl ConnectionState {
    /// A connection that was just opened.
    pub(super) fn new(
        peer: SocketAddr,
        certificate: Option<Arc<dyn PeerCertificate>>,
        handshake: Share,
        options: &ConnectionOptions,
    ) -> Arc<Self> {
        let quiet_since = Instant::now();
        let calls = Calls { active: 0, quiet_since, next_id: 0, bounded: BTreeMap::new() };
        Arc::new(Self {
            peer,
            certificate,
            began: AtomicBool::new(false),
            calls: Mutex::new(calls),
            working: Semaphore::new(options.calls.min(Semaphore::MAX_PERMITS)),
            handshake: Mutex::new(Some(handshake)),
        })
    }

    /// The other end.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Its certificate, if it showed one.
    pub fn certificate(&self) -> Option<&Arc<dyn PeerCertificate>> {
        self.certificate.as_ref()
    }

    /// The peer speaks HTTP/2.
    pub fn began(&self) {
        self.began.store(true, Ordering::Relaxed);
        drop(self.handshake.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// A call begins; it ends when the guard is dropped.
    pub fn call(self: &Arc<Self>, is_bounded: bool) -> CallGuard {
        let mut calls = self.calls();
        calls.active += 1;
        let id = calls.next_id;
        calls.next_id += 1;
        if is_bounded {
            calls.bounded.insert(id, Instant::now());
        }
        CallGuard { state: Arc::clone(self), id }
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to be done now, and when to ask again.
    fn judge(&self, since: Since, options: &ConnectionOptions, now: Instant) -> (Verdict, Instant) {
        let grace = options.handshake_timeout;
        let begin_by = since.opened + grace;
        if !self.began.load(Ordering::Relaxed) {
            return (if now >= begin_by { Verdict::Drop } else { Verdict::Keep }, begin_by);
        }
        let calls = self.calls();
        let stuck_at = calls.bounded.values().next().map(|since| *since + options.call_max + grace);
        if stuck_at.is_some_and(|at| now >= at) {
            return (Verdict::Drop, now);
        }
        let quiet_since = if calls.active == 0 { calls.quiet_since } else { now };
        let (end_at, ending) = match since.ending {
            // Nobody waits for an answer, so nobody is hurt when the peer does not take part.
            Some(told) => (quiet_since.max(told) + grace, Verdict::Drop),
            None => (quiet_since + options.idle, Verdict::End),
        };
        let verdict = if now >= end_at { ending } else { Verdict::Keep };
        (verdict, stuck_at.map_or(end_at, |at| at.min(end_at)))
    }
}

/// Since when a connection is what it is.
#[derive(Debug, Clone, Copy)]
struct Since {
    opened: Instant,
    /// When it was told to end.
    ending: Option<Instant>,
}

/// What becomes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Keep,
    /// It is told to end, and ends when its calls have.
    End,
    /// It is closed at once.
    Drop,
}

/// A call of a connection.
pub struct CallGuard {
    state: Arc<ConnectionState>,
    id: u64,
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        let mut calls = self.state.calls();
        calls.active = calls.active.saturating_sub(1);
        calls.quiet_since = Instant::now();
        calls.bounded.remove(&self.id);
    }
}

/// The body of an answer; the call ends with it.
pub struct GuardedBody {
    inner: tonic::body::Body,
    _held: (CallGuard, Option<Share>),
}

impl GuardedBody {
    /// A body that ends the call when it is dropped, and gives the place free that the call has, if it has one.
    #[must_use]
    pub fn new(inner: tonic::body::Body, guard: CallGuard, place: Option<Share>) -> Self {
        Self { inner, _held: (guard, place) }
    }
}

impl Body for GuardedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.inner).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Serves one connection until it ends.
pub(super) async fn serve(
    io: Box<dyn Io>,
    state: Arc<ConnectionState>,
    front: Arc<Front>,
    stop: CancellationToken,
) {
    let options = front.connection;
    let refusals = Arc::clone(&front.refusals);
    let metered = Metered::new(io, options.control_frames, Arc::clone(&state), refusals);
    let calls = hyper::service::service_fn({
        let (state, front) = (Arc::clone(&state), Arc::clone(&front));
        move |request| Arc::clone(&front).answer(request, Arc::clone(&state))
    });
    let mut connection = pin!(builder(&options).serve_connection(TokioIo::new(metered), calls));
    let mut since = Since { opened: Instant::now(), ending: None };
    let mut age = pin!(after(options.age.map(jittered)));
    loop {
        let (verdict, ask_at) = state.judge(since, &options, Instant::now());
        let is_told = since.ending.is_some();
        let told = match verdict {
            Verdict::Drop => return,
            Verdict::End => true,
            Verdict::Keep => tokio::select! {
                ended = &mut connection => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, peer = %state.peer, "a connection ended by an error");
                    }
                    return;
                }
                () = &mut age, if !is_told => true,
                () = stop.cancelled(), if !is_told => true,
                () = tokio::time::sleep_until(ask_at) => false,
            },
        };
        if told {
            since.ending = Some(Instant::now());
            connection.as_mut().graceful_shutdown();
        }
    }
}

fn builder(options: &ConnectionOptions) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_header_list_size(options.header_bytes)
        .max_concurrent_streams(options.streams)
        .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
        .max_local_error_reset_streams(ERROR_RESETS_MAX)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .keep_alive_interval(options.keepalive_interval)
        .keep_alive_timeout(options.keepalive_timeout);
    builder
}

fn jittered(age: Duration) -> Duration {
    age.mul_f64(1.0 - AGE_JITTER + 2.0 * AGE_JITTER * fastrand::f64())
}

async fn after(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => pending().await,
    }
}

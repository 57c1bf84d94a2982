//! What a receiver got, for those who want to look or to wait.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;
use tokio::sync::watch;

/// How many requests are kept; the oldest go first.
pub const KEPT_REQUESTS: usize = 10_000;
/// How many bytes of bodies are kept, in all.
pub const KEPT_BYTES: usize = 64 * 1024 * 1024;

/// One request, as it came. Clones share headers and body.
#[derive(Debug, Clone)]
pub struct Received {
    /// The path of the request, without the query.
    pub path: String,
    /// What stands after the `?`.
    pub query: Option<String>,
    /// All headers.
    pub headers: Arc<HeaderMap>,
    /// The exact bytes.
    pub body: Bytes,
    /// When the body was complete.
    pub at: Instant,
    /// Counts the requests of the receiver, from 1.
    pub sequence: u64,
    /// Counts the connections of the receiver, from 1; requests of one connection have the same.
    pub connection: u64,
}

/// What was waited for did not come in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not seen within {within:?}; {received} requests are in the log")]
pub struct NotSeen {
    /// How long was waited.
    pub within: Duration,
    /// How many requests the log has.
    pub received: usize,
}

/// The last requests of a receiver.
pub(super) struct Log {
    kept: Mutex<Kept>,
    news: watch::Sender<()>,
}

#[derive(Default)]
struct Kept {
    requests: VecDeque<Received>,
    bytes: usize,
}

impl Log {
    pub(super) fn new() -> Self {
        Self { kept: Mutex::default(), news: watch::Sender::new(()) }
    }

    pub(super) fn push(&self, received: Received) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).push(received);
        self.news.send_replace(());
    }

    pub(super) fn all(&self) -> Vec<Received> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).requests.iter().cloned().collect()
    }

    pub(super) async fn wait_for(
        &self,
        mut predicate: impl FnMut(&[Received]) -> bool,
        within: Duration,
    ) -> Result<Vec<Received>, NotSeen> {
        // Subscribed before the first look, so that nothing can come unnoticed between the two.
        let mut news = self.news.subscribe();
        let seen = async {
            loop {
                let all = self.all();
                if predicate(&all) {
                    return Some(all);
                }
                news.changed().await.ok()?;
            }
        };
        let seen = tokio::time::timeout(within, seen).await;
        seen.ok().flatten().ok_or_else(|| NotSeen { within, received: self.all().len() })
    }
}

impl Kept {
    fn push(&mut self, received: Received) {
        self.bytes += received.body.len();
        self.requests.push_back(received);
        while self.requests.len() > KEPT_REQUESTS || self.bytes > KEPT_BYTES {
            let Some(oldest) = self.requests.pop_front() else { return };
            self.bytes = self.bytes.saturating_sub(oldest.body.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(sequence: u64, bytes: usize) -> Received {
        Received {
            path: "/".into(),
            query: None,
            headers: Arc::default(),
            body: Bytes::from(vec![0; bytes]),
            at: Instant::now(),
            sequence,
            connection: 1,
        }
    }

    #[test]
    fn the_log_forgets_the_oldest_when_it_has_too_many_requests_or_bytes() {
        let log = Log::new();
        for sequence in 0..=KEPT_REQUESTS as u64 {
            log.push(request(sequence, 0));
        }
        assert_eq!((log.all().len(), log.all()[0].sequence), (KEPT_REQUESTS, 1));
        log.push(request(77, KEPT_BYTES));
        log.push(request(78, 1));
        assert_eq!(log.all().iter().map(|one| one.sequence).collect::<Vec<_>>(), [78]);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_ends_with_what_was_waited_for_or_says_that_it_did_not_come() {
        let log = Log::new();
        let (seen, ()) = tokio::join!(log.wait_for(|all| all.len() == 2, Duration::from_secs(5)), async {
            log.push(request(1, 0));
            tokio::task::yield_now().await;
            log.push(request(2, 0));
        });
        assert_eq!(seen.unwrap().len(), 2);
        let never = log.wait_for(|_| false, Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(never, NotSeen { within: Duration::from_secs(5), received: 2 });
    }
}

//! The keys of an issuer, from a file or from a URL, as they change.
//!
//! From a URL they are fetched every so often, and when a token names a key that is not among them, at most every
//! so often again: nobody can make us ask the issuer by sending tokens with made-up keys. While the URL can't be
//! reached, the last keys stay in force.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::jwt::KeySet;
use super::reload::{ReloadError, Reloaded};

/// What names the file.
const SETTING: &str = "auth.jwks_file";
/// How long a call waits for new keys, whose token names an unknown one.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// Fetches the key set once, as JSON.
pub type Fetch = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Result<Vec<u8>, String>> + Send>> + Send + Sync>;

/// Where the keys come from.
#[derive(Clone)]
pub enum KeySource {
    /// A file, which is read again when it changes.
    File(Reloaded<KeySet>),
    /// A URL.
    Url(Arc<FetchedKeys>),
}

/// Keys that are fetched.
pub struct FetchedKeys {
    fetch: Fetch,
    keys: ArcSwap<KeySet>,
    /// Somebody needs a key that is not there.
    wanted: Notify,
    /// How often they were fetched, with or without success.
    rounds: watch::Sender<u64>,
    fetched_at: Mutex<Option<Instant>>,
    /// How often they are fetched without need, and at most in need.
    every: Duration,
    at_most_every: Duration,
}

/// Opens a file of keys, for good: it is read again when it changes.
///
/// # Errors
/// [`ReloadError`]: it can't be read, or holds no key.
pub fn open(path: &Path) -> Result<Reloaded<KeySet>, ReloadError> {
    Reloaded::open(SETTING, vec![(SETTING, path.to_owned())], |contents| {
        KeySet::parse(contents.first().map(|content| content.as_slice()).unwrap_or_default())
    })
}

impl KeySource {
    /// The keys in force.
    pub(super) fn current(&self) -> Arc<KeySet> {
        match self {
            KeySource::File(file) => file.current(),
            KeySource::Url(fetched) => fetched.keys.load_full(),
        }
    }

    /// Asks for keys that are not there, where that is allowed again; whether it was worth waiting.
    pub(super) async fn ask_for_more(&self) -> bool {
        match self {
            // It is looked at often enough.
            KeySource::File(_) => false,
            KeySource::Url(fetched) => fetched.ask_for_more().await,
        }
    }
}

impl FetchedKeys {
    /// Keys that are not fetched yet; [`run`](Self::run) does that.
    #[must_use]
    pub fn new(fetch: Fetch, every: Duration, at_most_every: Duration) -> Arc<Self> {
        Arc::new(Self {
            fetch,
            keys: ArcSwap::from_pointee(KeySet::default()),
            wanted: Notify::new(),
            rounds: watch::Sender::new(0),
            fetched_at: Mutex::new(None),
            every,
            at_most_every,
        })
    }

    /// Fetches them again and again until it is told to stop.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        loop {
            self.fetch_once().await;
            let sooner = async {
                tokio::time::sleep(self.at_most_every).await;
                self.wanted.notified().await;
            };
            let pause = if self.keys.load().is_empty() { self.at_most_every } else { self.every };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
                () = sooner => {}
            }
        }
    }

    async fn fetch_once(&self) {
        *self.fetched_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        let fetched = (self.fetch)().await;
        match fetched.and_then(|json| KeySet::parse(&json)) {
            Ok(keys) => self.keys.store(Arc::new(keys)),
            Err(why) => {
                tracing::error!(why, "auth.jwks_url: no new keys; the last ones stay in force");
            }
        }
        self.rounds.send_modify(|rounds| *rounds += 1);
    }

    async fn ask_for_more(&self) -> bool {
        let mut rounds = self.rounds.subscribe();
        let seen = *rounds.borrow_and_update();
        let fetched_at = *self.fetched_at.lock().unwrap_or_else(PoisonError::into_inner);
        // The first fetch of all is under way, or soon will be.
        if seen > 0 {
            if fetched_at.is_some_and(|at| at.elapsed() < self.at_most_every) {
                return false;
            }
            self.wanted.notify_one();
        }
        tokio::time::timeout(WAIT_MAX, rounds.changed()).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    const KEY: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"KID","use":"sig",
        "x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

    type Answer = Arc<Mutex<Result<String, String>>>;

    fn issuer() -> (Arc<FetchedKeys>, Arc<AtomicU64>, Answer) {
        let (asked, answer) =
            (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(Ok(KEY.replace("KID", "1")))));
        let (count, given) = (Arc::clone(&asked), Arc::clone(&answer));
        let fetch: Fetch = Arc::new(move || {
            count.fetch_add(1, Ordering::SeqCst);
            let answer = given.lock().unwrap().clone();
            Box::pin(async move { answer.map(String::into_bytes) })
        });
        (FetchedKeys::new(fetch, Duration::from_secs(600), Duration::from_secs(30)), asked, answer)
    }

    #[tokio::test(start_paused = true)]
    async fn an_unknown_key_asks_the_issuer_but_not_more_often_than_allowed_and_old_keys_live_on() {
        let (keys, asked, answer) = issuer();
        let source = KeySource::Url(Arc::clone(&keys));
        let stop = CancellationToken::new();
        let tracker = tokio_util::task::TaskTracker::new();
        tracker.spawn(Arc::clone(&keys).run(stop.clone()));
        assert!(source.ask_for_more().await);
        assert!(source.current().has(Some("1")) && !source.current().has(Some("2")));
        *answer.lock().unwrap() = Ok(KEY.replace("KID", "2"));
        for _ in 0..1000 {
            assert!(!source.ask_for_more().await);
        }
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        tokio::time::sleep(Duration::from_secs(31)).await;
        assert!(source.ask_for_more().await);
        assert!(source.current().has(Some("2")));
        *answer.lock().unwrap() = Err("the URL can't be reached".into());
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert!(asked.load(Ordering::SeqCst) > 4 && source.current().has(Some("2")));
        stop.cancel();
        tracker.close();
        tracker.wait().await;
    }
}

//! What a receiver answers.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::log::{KEPT_REQUESTS, Received};
use super::verify::{Rejection, Verified, verify};
use crate::clock::SharedClock;
use crate::domain::contract::Contract;

/// Decides what is answered. Any `Fn(&Received) -> Answer` is one.
pub trait Behaviour: Send + Sync {
    /// The answer to a request; called once for each, possibly by several threads at once.
    fn answer(&self, received: &Received) -> Answer;

    /// A connection ended before any request came, for example in the TLS handshake.
    fn connection_failed(&self, _connection: u64, _problem: &str) {}
}

impl<F: Fn(&Received) -> Answer + Send + Sync> Behaviour for F {
    fn answer(&self, received: &Received) -> Answer {
        self(received)
    }
}

/// What goes back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: StatusCode,
    /// Headers besides those that HTTP needs.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// How long to wait first.
    pub delay: Option<Duration>,
    /// Close the connection instead of answering.
    pub cut: bool,
}

impl From<StatusCode> for Answer {
    /// Nothing but the status.
    fn from(status: StatusCode) -> Self {
        Self { status, headers: HeaderMap::new(), body: Bytes::new(), delay: None, cut: false }
    }
}

impl Answer {
    /// The connection is closed without an answer.
    #[must_use]
    pub fn cut() -> Self {
        Self { cut: true, ..StatusCode::OK.into() }
    }

    /// The same with this body.
    #[must_use]
    pub fn with_body(self, body: impl Into<Bytes>) -> Self {
        Self { body: body.into(), ..self }
    }

    /// The same with one more header.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.append(name, value);
        self
    }

    /// The same, this much later.
    #[must_use]
    pub fn after(self, delay: Duration) -> Self {
        Self { delay: Some(delay), ..self }
    }
}

/// Always the same answer.
#[must_use]
pub fn always(answer: impl Into<Answer>) -> Arc<dyn Behaviour> {
    let answer = answer.into();
    Arc::new(move |_: &Received| answer.clone())
}

/// A list of answers for each path, one after the other; then, and elsewhere, 200.
#[derive(Debug, Default)]
pub struct Script(Mutex<HashMap<String, VecDeque<Answer>>>);

impl Script {
    /// An empty script.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends answers for a path.
    #[must_use]
    pub fn on<A: Into<Answer>>(self, path: &str, answers: impl IntoIterator<Item = A>) -> Self {
        self.push(path, answers);
        self
    }

    /// Appends answers for a path, also while the receiver runs.
    pub fn push<A: Into<Answer>>(&self, path: &str, answers: impl IntoIterator<Item = A>) {
        let mut lists = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lists.entry(path.to_owned()).or_default().extend(answers.into_iter().map(Into::into));
    }
}

impl Behaviour for Script {
    fn answer(&self, received: &Received) -> Answer {
        let mut lists = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let next = lists.get_mut(&received.path).and_then(VecDeque::pop_front);
        next.unwrap_or_else(|| StatusCode::OK.into())
    }
}

/// What verification said of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Which request of the receiver.
    pub sequence: u64,
    /// Its path.
    pub path: String,
    /// What it carries, or why it was turned away.
    pub result: Result<Verified, Rejection>,
}

/// Verifies: 401 with the reason for what is not genuine, 404 for paths that it does not know.
pub struct Verifying {
    by_path: HashMap<String, (Contract, String)>,
    clock: SharedClock,
    genuine: Arc<dyn Behaviour>,
    verdicts: Mutex<VecDeque<Verdict>>,
}

impl Verifying {
    /// Knows contract and secret of each path, and answers 200 to what is genuine.
    #[must_use]
    pub fn new(by_path: HashMap<String, (Contract, String)>, clock: SharedClock) -> Self {
        Self { by_path, clock, genuine: always(StatusCode::OK), verdicts: Mutex::default() }
    }

    /// The same, but what is genuine is answered as `behaviour` says: it can still fail.
    #[must_use]
    pub fn then(self, behaviour: Arc<dyn Behaviour>) -> Self {
        Self { genuine: behaviour, ..self }
    }

    /// What was said of the last requests, in the order they came.
    #[must_use]
    pub fn verdicts(&self) -> Vec<Verdict> {
        self.verdicts.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// The genuine ones among the last requests, each with its path.
    #[must_use]
    pub fn verified(&self) -> Vec<(String, Verified)> {
        let genuine = |one: Verdict| one.result.ok().map(|verified| (one.path, verified));
        self.verdicts().into_iter().filter_map(genuine).collect()
    }

    fn record(&self, verdict: Verdict) {
        let mut verdicts = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        if verdicts.len() >= KEPT_REQUESTS {
            verdicts.pop_front();
        }
        verdicts.push_back(verdict);
    }
}

impl Behaviour for Verifying {
    fn answer(&self, received: &Received) -> Answer {
        let Some((contract, secret)) = self.by_path.get(&received.path) else {
            return Answer::from(StatusCode::NOT_FOUND).with_body("nothing is expected on this path\n");
        };
        let now = self.clock.now();
        let result = verify(*contract, secret, &received.headers, &received.body, now);
        let refusal = result.as_ref().err().map(unauthorized);
        self.record(Verdict { sequence: received.sequence, path: received.path.clone(), result });
        refusal.unwrap_or_else(|| self.genuine.answer(received))
    }
}

/// 401 with the reason as a sentence.
pub(super) fn unauthorized(rejection: &Rejection) -> Answer {
    Answer::from(StatusCode::UNAUTHORIZED).with_body(format!("{rejection}\n"))
}

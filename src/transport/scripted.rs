//! A transport that sends nothing: it answers as a test's script says, and remembers what it was given.
//!
//! It is part of the library, so that tests of the whole process may use it as well.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{SendOptions, Sent, Transport};
use crate::contract::RenderedRequest;
use crate::domain::attempt::{Failure, Outcome};

/// What the transport was given.
#[derive(Clone)]
pub struct Recorded {
    /// The request.
    pub request: RenderedRequest,
    /// How it was to be sent.
    pub options: SendOptions,
    /// When.
    pub at: Instant,
}

type Rule = Box<dyn Fn(&RenderedRequest) -> Sent + Send + Sync>;

/// Answers from a queue per host, and where that is empty by a rule.
pub struct ScriptedTransport {
    queues: Mutex<HashMap<String, VecDeque<Sent>>>,
    rule: Rule,
    recorded: Mutex<Vec<Recorded>>,
    held: watch::Sender<bool>,
    in_flight: watch::Sender<usize>,
}

impl Default for ScriptedTransport {
    fn default() -> Self {
        Self::new()
    }
}

impl ScriptedTransport {
    /// Answers 200 to all for which nothing else is queued.
    #[must_use]
    pub fn new() -> Self {
        Self::with_rule(|_| answered(200))
    }

    /// Answers by this rule to all for which nothing is queued.
    #[must_use]
    pub fn with_rule(rule: impl Fn(&RenderedRequest) -> Sent + Send + Sync + 'static) -> Self {
        Self {
            queues: Mutex::default(),
            rule: Box::new(rule),
            recorded: Mutex::default(),
            held: watch::Sender::new(false),
            in_flight: watch::Sender::new(0),
        }
    }

    /// Queues what becomes of the next request to this host.
    pub fn push(&self, host: &str, sent: Sent) {
        lock(&self.queues).entry(host.to_owned()).or_default().push_back(sent);
    }

    /// All requests so far, in the order in which they began.
    #[must_use]
    pub fn requests(&self) -> Vec<Recorded> {
        lock(&self.recorded).clone()
    }

    /// Lets requests begin but not end, until [`release`](Self::release).
    pub fn hold(&self) {
        self.held.send_replace(true);
    }

    /// Lets all held requests end.
    pub fn release(&self) {
        self.held.send_replace(false);
    }

    /// How many requests have begun and not ended.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        *self.in_flight.borrow()
    }

    /// Waits until exactly so many requests are in flight.
    pub async fn wait_for_in_flight(&self, count: usize) {
        // The sender lives as long as `self`, so the wait can't end early.
        self.in_flight.subscribe().wait_for(|now| *now == count).await.map(drop).unwrap_or_default();
    }

    fn next_for(&self, request: &RenderedRequest) -> Sent {
        let host = request.url().host_str().unwrap_or_default();
        let queued = lock(&self.queues).get_mut(host).and_then(VecDeque::pop_front);
        queued.unwrap_or_else(|| (self.rule)(request))
    }
}

#[async_trait]
impl Transport for ScriptedTransport {
    async fn send(&self, request: RenderedRequest, options: SendOptions) -> Sent {
        let sent = self.next_for(&request);
        lock(&self.recorded).push(Recorded { request, options, at: Instant::now() });
        let _flight = Flight::begin(&self.in_flight);
        let mut held = self.held.subscribe();
        match tokio::time::timeout(options.timeout, held.wait_for(|held| !held)).await {
            Ok(_) => sent,
            Err(_) => no_answer(Failure::Timeout, "no answer in time"),
        }
    }
}

/// Counts a request for as long as its future lives, dropped ones included.
struct Flight<'a>(&'a watch::Sender<usize>);

impl<'a> Flight<'a> {
    fn begin(count: &'a watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count)
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}

/// An answer with this status and nothing else.
#[must_use]
pub fn answered(status: u16) -> Sent {
    let outcome = Outcome::Answered { status, retry_after: None, body: Bytes::new() };
    Sent { outcome, remote_address: None }
}

/// No answer, for this reason.
#[must_use]
pub fn no_answer(failure: Failure, detail: &str) -> Sent {
    Sent { outcome: Outcome::NoAnswer { failure, detail: detail.into() }, remote_address: None }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! The gate: how many requests of a lane may be under way, and which deliveries may be among them.
//!
//! While the circuit is open, deliveries are held and one request at a time probes. Held means: no attempt,
//! and nothing else changes; what grows too old is discarded as ever. Two things keep an open circuit from
//! bending what a contract promises. One delivery, the *scout*, is retried on its own schedule, whatever the
//! circuit says: the one whose failure opened it. So a delivery that is alone is never late. And an
//! ordered lane goes on with its retries, since it has only one delivery under way at any time.

use std::time::Duration;

use crate::domain::circuit::CircuitState;
use crate::domain::id::EventKey;
use crate::domain::settings::EffectivePolicy;
use crate::domain::time::Timestamp;
use crate::engine::pick::Passage;
use crate::engine::window::Window;
use crate::policy::breaker::Breaker;
use crate::policy::concurrency::Concurrency;
use crate::policy::standing::{SLOW, Standing};

/// What is known of a destination when its lane is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Past {
    /// So many failed requests in a row open its circuit.
    pub opens_after: u32,
    /// Failed requests since the last success.
    pub failures: u32,
    /// Whether any request ever succeeded.
    pub proven: bool,
    /// When its last request ended, as far as that is remembered.
    pub last_request_at: Option<Timestamp>,
}

/// A request that has ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ended {
    /// Whether the receiver took it.
    pub success: bool,
    /// Its duration.
    pub took: Duration,
    /// When it ended.
    pub at: Timestamp,
    /// A random number, 0.0 to 1.0.
    pub draw: f64,
}

/// The requests of one lane: how many there are, and how many and which there may be.
#[derive(Debug)]
pub struct Gate {
    requests: u32,
    concurrency: Concurrency,
    breaker: Breaker,
    /// The delivery whose retries pass an open circuit.
    scout: Option<EventKey>,
    /// Requests are under way, and none was answered since.
    unanswered_since: Option<Timestamp>,
}

impl Gate {
    /// Nothing is under way yet.
    #[must_use]
    pub fn new(max_concurrency: u32, past: Past) -> Self {
        Self {
            requests: 0,
            concurrency: Concurrency::new(max_concurrency, past.failures, past.proven),
            breaker: Breaker::new(past.opens_after, past.failures),
            scout: None,
            unanswered_since: None,
        }
    }

    // === What happened ===

    /// The destination was changed. An open circuit probes at once: the change may be what it takes.
    pub fn configure(&mut self, max_concurrency: u32, now: Timestamp) {
        self.concurrency.set_max(max_concurrency);
        self.breaker.probe_by(now);
    }

    /// Somebody asks for this delivery, to know now whether it works: it passes an open circuit.
    pub fn let_pass(&mut self, key: EventKey) {
        self.scout = Some(key);
    }

    /// A request begins.
    pub fn begin(&mut self, now: Timestamp) {
        self.requests += 1;
        self.unanswered_since.get_or_insert(now);
    }

    /// A request that was begun was not sent, for a reason of ours.
    pub fn take_back(&mut self) {
        self.requests = self.requests.saturating_sub(1);
        self.unanswered_since = self.unanswered_since.filter(|_| self.requests > 0);
    }

    /// A request has ended.
    pub fn end(&mut self, ended: Ended, timeout: Duration) {
        self.requests = self.requests.saturating_sub(1);
        self.unanswered_since = (self.requests > 0).then_some(ended.at);
        if ended.success {
            self.concurrency.succeeded(ended.took, timeout);
            self.breaker.succeeded();
            return;
        }
        self.concurrency.failed();
        self.breaker.failed(ended.at, ended.draw);
        if self.is_open() {
            self.concurrency.start_over();
        }
    }

    /// A scout stays until its delivery has ended or the circuit is no longer open; then it is the delivery
    /// that failed, if it waits for a retry.
    pub fn choose_scout(&mut self, failed: Option<EventKey>, window: &Window) {
        let is_open = self.is_open();
        let waits = |key: &EventKey| is_open && window.due_of(*key).is_some();
        self.scout = self.scout.filter(waits).or(failed.filter(waits));
    }

    // === What may be sent ===

    /// Whether there may be no further request.
    #[must_use]
    pub fn is_full(&self, policy: &EffectivePolicy) -> bool {
        self.requests >= self.limit(policy)
    }

    /// Requests that may be under way at once.
    #[must_use]
    pub fn limit(&self, policy: &EffectivePolicy) -> u32 {
        if policy.ordered || self.is_open() { 1 } else { self.concurrency.limit() }
    }

    /// What the circuit lets through.
    ///
    /// # Errors
    /// From when on it lets something through, if it is nothing now.
    pub fn passage(
        &self,
        policy: &EffectivePolicy,
        window: &Window,
        now: Timestamp,
    ) -> Result<Passage, Timestamp> {
        let Some(probe_at) = self.breaker.probe_at().filter(|probe_at| now < *probe_at) else {
            return Ok(Passage::Everything);
        };
        if policy.ordered && window.first_due(true).is_some() {
            return Ok(Passage::Retries);
        }
        match self.scout.and_then(|key| Some((key, window.due_of(key)?))) {
            Some((key, due)) if due <= now => Ok(Passage::Scout(key)),
            Some((_, due)) => Err(due.min(probe_at)),
            None => Err(probe_at),
        }
    }

    /// The delivery that goes next where a lossy destination drops all others: the scout, if its time has come, or
    /// else the newest.
    #[must_use]
    pub fn spared(&self, window: &Window, now: Timestamp) -> Option<EventKey> {
        let is_due = |key: &EventKey| window.due_of(*key).is_some_and(|due| due <= now);
        self.scout.filter(is_due).or_else(|| window.newest())
    }

    /// When what waits may pass, as far as the circuit is concerned: the first fresh delivery and the first
    /// due one, if there are any.
    #[must_use]
    pub fn earliest(&self, policy: &EffectivePolicy, window: &Window) -> [Option<Timestamp>; 2] {
        let probe_at = self.breaker.probe_at();
        let always = Timestamp::from_millis(i64::MIN);
        // In an ordered lane, what failed comes first.
        let is_held = policy.ordered && window.first_due(true).is_some();
        let fresh = window.find_fresh(|_| !is_held).map(|_| probe_at.unwrap_or(always));
        let held = |due: Timestamp| probe_at.filter(|_| !policy.ordered).map_or(due, |probe| due.max(probe));
        let due = window.first_due(policy.ordered).map(held);
        let scout = self.scout.and_then(|key| window.due_of(key));
        [fresh, due.into_iter().chain(scout).min()]
    }

    // === What it is like ===

    /// Requests under way.
    #[must_use]
    pub fn requests(&self) -> u32 {
        self.requests
    }

    /// The state of the circuit.
    #[must_use]
    pub fn circuit(&self) -> CircuitState {
        self.breaker.state()
    }

    /// When the next probe is due; `None` unless the circuit is open.
    #[must_use]
    pub fn probe_at(&self) -> Option<Timestamp> {
        self.breaker.probe_at()
    }

    fn is_open(&self) -> bool {
        self.circuit() == CircuitState::Open
    }

    /// How much room the requests deserve.
    #[must_use]
    pub fn standing(&self, now: Timestamp) -> Standing {
        let is_silent = self.unanswered_since.is_some_and(|since| now.since(since) > SLOW);
        match self.concurrency.standing() {
            _ if self.is_open() => Standing::Failing,
            Standing::Prompt if is_silent => Standing::Slow,
            standing => standing,
        }
    }

    /// Whether there is nothing to remember. An open circuit is remembered until its probe: from then on the
    /// next delivery is the probe anyway.
    #[must_use]
    pub fn is_idle(&self, now: Timestamp) -> bool {
        self.requests == 0 && self.probe_at().is_none_or(|probe_at| now >= probe_at)
    }
}

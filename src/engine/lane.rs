//! The lane: the run-time line of one destination, as a pure state machine.
//!
//! A lane is told what happened and is asked what to do next; it reads no clock and starts nothing. What
//! waits is in its [`Window`], whose memory is bounded; the lane decides what of it is sent when: hold,
//! circuit, pace, concurrency, order, batches, age.
//!
//! While the circuit is open, deliveries are held and one request at a time probes. Held means: no attempt,
//! and nothing else changes; what grows too old is discarded as ever. Two things keep an open circuit from
//! bending what a contract promises. One delivery, the *scout*, is retried on its own schedule, whatever the
//! circuit says: the one whose failure opened it. So a delivery that is alone is never late. And an
//! ordered lane goes on with its retries, since it has only one delivery under way at any time.

use std::sync::Arc;
use std::time::Duration;

use crate::domain::delivery::{CycleCause, EndReason};
use crate::domain::event::Event;
use crate::domain::id::EventKey;
use crate::domain::settings::{EffectivePolicy, Guarantee};
use crate::domain::time::Timestamp;
use crate::engine::item::Item;
use crate::engine::pick::{Passage, Pick};
use crate::engine::window::{Wanted, Window};
use crate::policy::breaker::Breaker;
use crate::policy::concurrency::Concurrency;
use crate::policy::retry::discard_at;
use crate::policy::standing::{SLOW, Standing};
use crate::store::directory::LaneStatus;
use crate::store::{DueEntry, Page, Stage};

/// What the lane wants to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Send these in one request.
    Attempt(Vec<Item>),
    /// Record these as discarded; no request.
    Discard(Vec<Item>, EndReason),
    /// Read a page from the store.
    Load(Wanted),
    /// Nothing before this moment.
    WaitUntil(Timestamp),
    /// Nothing until something happens.
    Idle,
}

/// Why a lane sends nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// It sends.
    Open,
    /// The destination is paused or disabled, or delivery is switched off: everything is kept.
    Held,
    /// The destination is gone: everything that waits is discarded.
    Closed,
    /// The process stops: only what is in memory alone is still sent.
    Flushing,
}

/// What is known of a destination when its lane is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Past {
    /// So many failed requests in a row open its circuit.
    pub opens_after: u32,
    /// Failed requests since the last success.
    pub failures: u32,
    /// Whether any request ever succeeded.
    pub proven: bool,
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

/// The line of one destination.
#[derive(Debug)]
pub struct Lane {
    policy: Arc<EffectivePolicy>,
    hold: Hold,
    window: Window,
    /// Requests under way.
    requests: u32,
    /// Best-effort items that found the window full.
    refused: Vec<Item>,
    /// The next request begins no earlier.
    next_start: Timestamp,
    /// The store could not answer; it is asked again no earlier.
    next_load: Timestamp,
    concurrency: Concurrency,
    breaker: Breaker,
    /// The delivery whose retries pass an open circuit.
    scout: Option<EventKey>,
    /// Requests are under way, and none was answered since.
    unanswered_since: Option<Timestamp>,
    prefer_due: bool,
}

impl Lane {
    /// A lane without work. `backlog`: whether the store may hold some.
    #[must_use]
    pub fn new(policy: Arc<EffectivePolicy>, hold: Hold, window: usize, backlog: bool, past: Past) -> Self {
        Self {
            concurrency: Concurrency::new(policy.max_concurrency, past.failures, past.proven),
            breaker: Breaker::new(past.opens_after, past.failures),
            scout: None,
            unanswered_since: None,
            policy,
            hold,
            window: Window::new(window, backlog),
            requests: 0,
            refused: Vec::new(),
            next_start: Timestamp::from_millis(i64::MIN),
            next_load: Timestamp::from_millis(i64::MIN),
            prefer_due: false,
        }
    }

    // === What happened ===

    /// An event for this destination was committed.
    pub fn accepted(&mut self, event: Arc<Event>, guarantee: Guarantee) {
        self.refused.extend(self.window.accept(Item::fresh(event, guarantee)));
    }

    /// Events up to this key were committed, but not handed over; they are in the store.
    pub fn missed(&mut self, key: EventKey) {
        self.window.missed(key);
    }

    /// The page of [`Wanted::Fresh`] is here.
    pub fn loaded_fresh(&mut self, page: Page<Arc<Event>>) {
        self.window.loaded_fresh(page);
    }

    /// The page of [`Wanted::Due`] is here.
    pub fn loaded_due(&mut self, page: Page<DueEntry>) {
        self.window.loaded_due(page);
    }

    /// A page of fresh deliveries could not be read; the lane will ask again after `retry_at`.
    pub fn load_fresh_failed(&mut self, retry_at: Timestamp) {
        self.window.load_fresh_failed();
        self.next_load = retry_at;
    }

    /// The same for a page of due deliveries.
    pub fn load_due_failed(&mut self, retry_at: Timestamp) {
        self.window.load_due_failed();
        self.next_load = retry_at;
    }

    /// A resend or a replay made this delivery wait again. A resend is somebody who wants to know now: it
    /// passes an open circuit.
    pub fn requeued(&mut self, entry: DueEntry) {
        if entry.cycle.cause == CycleCause::Resend {
            self.scout = Some(entry.id.event_key);
        }
        self.window.requeue(entry);
    }

    /// A caller ended this delivery; an attempt under way goes on.
    pub fn ended(&mut self, key: EventKey) {
        self.window.forget(key);
    }

    /// Settings or state of the destination changed; they are in force from the next attempt on. An open
    /// circuit probes at once: the change may be what it takes.
    pub fn configure(&mut self, policy: Arc<EffectivePolicy>, hold: Hold, now: Timestamp) {
        self.breaker.probe_by(now);
        self.concurrency.set_max(policy.max_concurrency);
        if policy.throttle < self.policy.throttle {
            // The old gap may be hours long; the new one counts from now on.
            self.next_start = Timestamp::from_millis(i64::MIN);
        }
        self.policy = policy;
        self.hold = hold;
    }

    /// Changes only whether the lane sends.
    pub fn set_hold(&mut self, hold: Hold) {
        self.hold = hold;
    }

    /// A request has ended. `items` are those that [`Step::Attempt`] gave out, with the time from which
    /// on they wait again, if they do. `request` is what came of it, if one was sent.
    pub fn finished(&mut self, items: Vec<(Item, Option<Timestamp>)>, request: Option<Ended>) {
        self.requests = self.requests.saturating_sub(1);
        self.unanswered_since = self.unanswered_since.filter(|_| self.requests > 0);
        if let Some(ended) = request {
            self.answered(ended);
        }
        let first = items.first().map(|(item, _)| item.key);
        let success = request.is_some_and(|ended| ended.success);
        for (item, again) in items {
            self.window.end(item, again, success);
        }
        self.choose_scout(first);
    }

    /// A scout stays until its delivery has ended or the circuit is no longer open.
    fn choose_scout(&mut self, failed: Option<EventKey>) {
        let is_open = self.breaker.probe_at().is_some();
        let waits = |key: &EventKey| is_open && self.window.due_of(*key).is_some();
        self.scout = self.scout.filter(waits).or(failed.filter(waits));
    }

    fn answered(&mut self, ended: Ended) {
        self.unanswered_since = (self.requests > 0).then_some(ended.at);
        if ended.success {
            self.concurrency.succeeded(ended.took, self.policy.timeout);
            self.breaker.succeeded();
            return;
        }
        self.concurrency.failed();
        self.breaker.failed(ended.at, ended.draw);
        if self.breaker.probe_at().is_some() {
            self.concurrency.start_over();
        }
    }

    /// Nothing was sent for these items, for a reason of ours; they wait until `due` as if never started.
    pub fn put_back(&mut self, items: Vec<Item>, due: Timestamp) {
        self.requests = self.requests.saturating_sub(1);
        self.unanswered_since = self.unanswered_since.filter(|_| self.requests > 0);
        self.window.put_back(items, due);
    }

    /// The settlements of these deliveries are stored.
    pub fn settled(&mut self, keys: &[EventKey]) {
        self.window.settled(keys);
    }

    // === What to do ===

    /// What to do next. [`Step::Attempt`] counts as begun: its end must be told by [`Lane::finished`].
    pub fn step(&mut self, now: Timestamp) -> Step {
        // A clock that was set back must not hold the lane for longer than the gap is.
        self.next_start = self.next_start.min(now + self.policy.throttle);
        match self.decide(now) {
            Step::Idle if now < self.next_load => Step::WaitUntil(self.next_load),
            Step::WaitUntil(moment) if now < self.next_load => Step::WaitUntil(moment.min(self.next_load)),
            step => step,
        }
    }

    fn decide(&mut self, now: Timestamp) -> Step {
        if !self.refused.is_empty() {
            return Step::Discard(std::mem::take(&mut self.refused), EndReason::WindowFull);
        }
        if self.hold == Hold::Closed {
            return self.discard_everything(now);
        }
        if let Some(step) = self.discard_overdue(now).or_else(|| self.read_on(now)) {
            return step;
        }
        match self.hold {
            Hold::Held | Hold::Closed => return self.wait_for_discard(),
            Hold::Open if now < self.next_start => return self.wait_or(self.next_start),
            Hold::Open | Hold::Flushing => {}
        }
        // An ordered lane must know its oldest before it sends any.
        let blind = self.policy.ordered && (self.window.is_reading_due() || now < self.next_load);
        if blind || self.requests >= self.limit() {
            return self.wait_for_discard();
        }
        let passage = match self.passage(now) {
            Ok(passage) => passage,
            Err(moment) => return self.wait_or(moment),
        };
        let flushing = self.hold == Hold::Flushing;
        let pick = Pick { policy: &self.policy, now, passage, flushing };
        let batch = pick.take(&mut self.window, &mut self.prefer_due);
        if batch.is_empty() {
            return self.wait_for_due(passage);
        }
        self.unanswered_since.get_or_insert(now);
        self.requests += 1;
        self.next_start = now + self.policy.throttle;
        self.window.begin(&batch);
        Step::Attempt(batch)
    }

    fn limit(&self) -> u32 {
        let is_probing = self.breaker.probe_at().is_some();
        if self.policy.ordered || is_probing { 1 } else { self.concurrency.limit() }
    }

    /// What the circuit lets through, or from when on it lets something through.
    fn passage(&self, now: Timestamp) -> Result<Passage, Timestamp> {
        let Some(probe_at) = self.breaker.probe_at() else { return Ok(Passage::Everything) };
        if now >= probe_at || self.hold == Hold::Flushing {
            return Ok(Passage::Everything);
        }
        if self.policy.ordered && self.window.first_due().is_some() {
            return Ok(Passage::Retries);
        }
        match self.scout.and_then(|key| Some((key, self.window.due_of(key)?))) {
            Some((key, due)) if due <= now => Ok(Passage::Scout(key)),
            Some((_, due)) => Err(due.min(probe_at)),
            None => Err(probe_at),
        }
    }

    fn discard_everything(&mut self, now: Timestamp) -> Step {
        let items = self.window.take_all(|_| true, false);
        if items.is_empty() {
            let wanted = if now < self.next_load { None } else { self.window.read_on() };
            return wanted.map_or(Step::Idle, Step::Load);
        }
        self.discard(items, EndReason::DestinationDeleted)
    }

    fn discard_overdue(&mut self, now: Timestamp) -> Option<Step> {
        self.next_discard().filter(|limit| now >= *limit)?;
        let policy = Arc::clone(&self.policy);
        let overdue = |item: &Item| discard_at(&policy, item.key.made_at()).is_some_and(|limit| now >= limit);
        let items = self.window.take_all(overdue, true);
        (!items.is_empty()).then(|| self.discard(items, EndReason::TooOld))
    }

    fn discard(&mut self, items: Vec<Item>, reason: EndReason) -> Step {
        for item in &items {
            self.window.note_unsettled(item);
        }
        Step::Discard(items, reason)
    }

    /// A held lane reads on, too, where deliveries can grow too old: they are discarded while they wait.
    fn read_on(&mut self, now: Timestamp) -> Option<Step> {
        let wanted = match self.hold {
            Hold::Open => now >= self.next_start || self.window.is_empty(),
            Hold::Held => self.policy.discard_after.is_some(),
            Hold::Flushing | Hold::Closed => false,
        };
        if wanted && now >= self.next_load { self.window.read_on().map(Step::Load) } else { None }
    }

    fn wait_for_due(&self, passage: Passage) -> Step {
        let due = self.window.first_due().filter(|_| self.hold == Hold::Open);
        let probe = self.breaker.probe_at().filter(|_| passage != Passage::Everything);
        due.into_iter()
            .chain(probe)
            .min()
            .map_or_else(|| self.wait_for_discard(), |moment| self.wait_or(moment))
    }

    fn wait_or(&self, moment: Timestamp) -> Step {
        Step::WaitUntil(self.next_discard().map_or(moment, |limit| limit.min(moment)))
    }

    fn wait_for_discard(&self) -> Step {
        self.next_discard().map_or(Step::Idle, Step::WaitUntil)
    }

    /// When the oldest delivery in memory grows too old.
    fn next_discard(&self) -> Option<Timestamp> {
        self.policy.discard_after?;
        discard_at(&self.policy, self.window.oldest()?.made_at())
    }

    // === What it is like ===

    /// The policy in force.
    #[must_use]
    pub fn policy(&self) -> &Arc<EffectivePolicy> {
        &self.policy
    }

    /// The earliest start of the next request, as far as the lane knows; `None` while it is held or empty.
    #[must_use]
    pub fn next_attempt_at(&self) -> Option<Timestamp> {
        if self.hold != Hold::Open {
            return None;
        }
        let probe_at = self.breaker.probe_at();
        let through_circuit = |moment: Timestamp| probe_at.map_or(moment, |probe_at| moment.max(probe_at));
        let fresh = self.window.find_fresh(|_| true).map(|_| through_circuit(self.next_start));
        let first_due = self.window.first_due();
        let due = first_due.map(|due| if self.policy.ordered { due } else { through_circuit(due) });
        let scout = self.scout.and_then(|key| self.window.due_of(key));
        let retry = due.into_iter().chain(scout).min().map(|due| due.max(self.next_start));
        fresh.into_iter().chain(retry).min().filter(|moment| moment.as_millis() > i64::MIN)
    }

    /// Where the lane stands, as callers may see it.
    #[must_use]
    pub fn status(&self) -> LaneStatus {
        LaneStatus {
            in_flight: self.requests,
            waiting_in_memory: u32::try_from(self.window.len()).unwrap_or(u32::MAX),
            more_in_store: self.window.has_more_in_store(),
            next_attempt_at: self.next_attempt_at(),
            circuit: self.breaker.state(),
            next_probe_at: self.breaker.probe_at(),
            concurrency: self.limit(),
        }
    }

    /// How much room its requests deserve.
    #[must_use]
    pub fn standing(&self, now: Timestamp) -> Standing {
        let is_silent = self.unanswered_since.is_some_and(|since| now.since(since) > SLOW);
        match self.concurrency.standing() {
            _ if self.breaker.probe_at().is_some() => Standing::Failing,
            Standing::Prompt if is_silent => Standing::Slow,
            standing => standing,
        }
    }

    /// Whether the lane has nothing to do and nothing to remember, so that it may be dropped. An open
    /// circuit is remembered until its probe: from then on the next delivery is the probe anyway.
    #[must_use]
    pub fn is_idle(&self, now: Timestamp) -> bool {
        self.requests == 0
            && self.refused.is_empty()
            && self.window.is_idle()
            && self.breaker.probe_at().is_none_or(|probe_at| now >= probe_at)
    }

    /// Whether the lane, before the process stops, still has to send what is in memory alone.
    #[must_use]
    pub fn must_flush(&self) -> bool {
        self.hold == Hold::Flushing && self.window.any(|item| item.stage == Stage::InMemory)
    }

    /// Takes out what is in memory alone, when there is no time left to send it.
    pub fn give_up_memory(&mut self) -> Vec<Item> {
        let mut items = std::mem::take(&mut self.refused);
        items.extend(self.window.take_alone());
        items
    }
}

#[cfg(test)]
#[path = "lane_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "circuit_tests.rs"]
mod circuit_tests;

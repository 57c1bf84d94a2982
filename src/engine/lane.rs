//! The lane: the run-time line of one destination, as a pure state machine.
//!
//! A lane is told what happened and is asked what to do next; it reads no clock and starts nothing. What
//! waits is in its [`Window`], whose memory is bounded; the lane decides what of it is sent when: hold,
//! pace, concurrency, order, batches, age.

use std::sync::Arc;
use std::time::Duration;

use crate::domain::delivery::EndReason;
use crate::domain::event::Event;
use crate::domain::id::EventKey;
use crate::domain::settings::{EffectivePolicy, Guarantee};
use crate::domain::time::Timestamp;
use crate::engine::item::Item;
use crate::engine::window::{Position, Wanted, Window};
use crate::policy::concurrency::Concurrency;
use crate::policy::retry::discard_at;
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
    prefer_due: bool,
}

impl Lane {
    /// A lane without work. `backlog`: whether the store may hold some.
    #[must_use]
    pub fn new(policy: Arc<EffectivePolicy>, hold: Hold, window: usize, backlog: bool) -> Self {
        Self {
            concurrency: Concurrency::new(policy.max_concurrency),
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

    /// A resend or a replay made this delivery wait again.
    pub fn requeued(&mut self, entry: DueEntry) {
        self.window.requeue(entry);
    }

    /// A caller ended this delivery; an attempt under way goes on.
    pub fn ended(&mut self, key: EventKey) {
        self.window.forget(key);
    }

    /// Settings or state of the destination changed; they are in force from the next attempt on.
    pub fn configure(&mut self, policy: Arc<EffectivePolicy>, hold: Hold) {
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
    /// on they wait again, if they do. `request` is its success and its duration, if one was sent.
    pub fn finished(&mut self, items: Vec<(Item, Option<Timestamp>)>, request: Option<(bool, Duration)>) {
        self.requests = self.requests.saturating_sub(1);
        match request {
            Some((true, took)) => self.concurrency.succeeded(took, self.policy.timeout),
            Some((false, _)) => self.concurrency.failed(),
            None => {}
        }
        let success = request.is_some_and(|(success, _)| success);
        for (item, again) in items {
            self.window.end(item, again, success);
        }
    }

    /// Nothing was sent for these items, for a reason of ours; they wait until `due` as if never started.
    pub fn put_back(&mut self, items: Vec<Item>, due: Timestamp) {
        self.requests = self.requests.saturating_sub(1);
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
        let batch = self.take_batch(now);
        if batch.is_empty() {
            return self.wait_for_due();
        }
        self.requests += 1;
        self.next_start = now + self.policy.throttle;
        self.window.begin(&batch);
        Step::Attempt(batch)
    }

    fn limit(&self) -> u32 {
        if self.policy.ordered { 1 } else { self.concurrency.limit() }
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

    fn take_batch(&mut self, now: Timestamp) -> Vec<Item> {
        let max_events = usize::try_from(self.policy.max_batch_events).unwrap_or(1).max(1);
        let max_bytes = usize::try_from(self.policy.max_batch_bytes).unwrap_or(usize::MAX);
        let mut batch: Vec<Item> = Vec::new();
        let mut bytes = 0_usize;
        while batch.len() < max_events {
            let room = if batch.is_empty() { usize::MAX } else { max_bytes.saturating_sub(bytes) };
            let Some(item) = self.take_next(now, !batch.is_empty(), room) else { break };
            bytes = bytes.saturating_add(item.bytes());
            batch.push(item);
        }
        batch
    }

    /// The next item to send, unless it has more bytes than there is room for.
    fn take_next(&mut self, now: Timestamp, batch_begun: bool, room: usize) -> Option<Item> {
        let flushing = self.hold == Hold::Flushing;
        let mine = |item: &Item| !flushing || item.stage == Stage::InMemory;
        // At a stop a retry in memory is due at once: there is no later.
        let is_due = |at: Timestamp| at <= now || flushing;
        let ordered = self.policy.ordered;
        let due = self.window.find_due(|at, item| mine(item) && (is_due(at) || ordered));
        let fresh = self.window.find_fresh(mine);
        match (due, fresh) {
            (None, Some((place, item))) => {
                let fits = item.bytes() <= room;
                if fits { self.take_fresh(place) } else { None }
            }
            (Some(_), Some((place, item))) if !(ordered || batch_begun || self.prefer_due) => {
                let fits = item.bytes() <= room;
                if fits { self.take_fresh(place) } else { None }
            }
            (Some((position, item)), _) => {
                let fits = is_due(position.0) && item.bytes() <= room;
                if fits { self.take_due(position) } else { None }
            }
            (None, None) => None,
        }
    }

    // Retries and first attempts take turns, so that neither can starve the other.

    fn take_fresh(&mut self, place: usize) -> Option<Item> {
        self.prefer_due = true;
        self.window.take_fresh(place)
    }

    fn take_due(&mut self, position: Position) -> Option<Item> {
        self.prefer_due = false;
        self.window.take_due(position)
    }

    fn wait_for_due(&self) -> Step {
        match self.window.first_due() {
            Some(due) if self.hold == Hold::Open => self.wait_or(due),
            _ => self.wait_for_discard(),
        }
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

    /// Requests under way.
    #[must_use]
    pub fn requests(&self) -> u32 {
        self.requests
    }

    /// Deliveries in memory that wait.
    #[must_use]
    pub fn in_memory(&self) -> usize {
        self.window.len()
    }

    /// The earliest start of the next request, as far as the lane knows; `None` while it is held or empty.
    #[must_use]
    pub fn next_attempt_at(&self) -> Option<Timestamp> {
        if self.hold != Hold::Open {
            return None;
        }
        let fresh = self.window.find_fresh(|_| true).map(|_| self.next_start);
        let due = self.window.first_due().map(|due| due.max(self.next_start));
        fresh.into_iter().chain(due).min().filter(|moment| moment.as_millis() > i64::MIN)
    }

    /// Whether the store holds deliveries that are not in memory.
    #[must_use]
    pub fn has_more_in_store(&self) -> bool {
        self.window.has_more_in_store()
    }

    /// Whether the last requests failed, so that the lane should not take room from healthy ones.
    #[must_use]
    pub fn is_suspect(&self) -> bool {
        self.concurrency.is_suspect()
    }

    /// Whether the lane has nothing to do and nothing to remember, so that it may be dropped.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.requests == 0 && self.refused.is_empty() && self.window.is_idle()
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

//! The lane: the run-time line of one destination, as a pure state machine.
//!
//! A lane is told what happened and is asked what to do next; it reads no clock and starts nothing. What
//! waits is in its [`Window`], whose memory is bounded; its [`Gate`] says how many requests there may be.
//! `decision` says what is sent when, `view` what the lane is like.

mod decision;
mod view;

use std::sync::Arc;

use crate::domain::circuit::CircuitState;
use crate::domain::delivery::CycleCause;
use crate::domain::id::EventKey;
use crate::domain::settings::EffectivePolicy;
use crate::domain::time::Timestamp;
use crate::engine::gate::{Ended, Gate, Past};
use crate::engine::item::Item;
use crate::engine::pick::Turns;
use crate::engine::window::{Wanted, Window};
use crate::policy::retry::Ending;
use crate::store::{DueEntry, Page};

/// What the lane wants to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Send these in one request.
    Attempt(Vec<Item>),
    /// Record these as ended so; no request.
    End(Vec<Item>, Ending),
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
    /// The process stops: only what is in memory alone, and what has gathered, is still sent.
    Flushing,
}

/// The line of one destination.
#[derive(Debug)]
pub struct Lane {
    policy: Arc<EffectivePolicy>,
    hold: Hold,
    window: Window,
    gate: Gate,
    /// Best-effort items that found the window full.
    refused: Vec<Item>,
    /// The next request begins no earlier.
    next_start: Timestamp,
    /// The store could not answer; it is asked again no earlier.
    next_load: Timestamp,
    turns: Turns,
    /// While the process stops: the latest start of a last request with what gathers for the next one.
    last_start: Option<Timestamp>,
}

impl Lane {
    /// A lane without work. `backlog`: whether the store may hold some.
    #[must_use]
    pub fn new(policy: Arc<EffectivePolicy>, hold: Hold, window: usize, backlog: bool, past: Past) -> Self {
        let never = Timestamp::from_millis(i64::MIN);
        Self {
            gate: Gate::new(policy.max_concurrency, past),
            // The gap is kept also over a restart; it is counted from the end of a request then.
            next_start: past.last_request_at.map_or(never, |last| last + policy.throttle),
            policy,
            hold,
            window: Window::new(window, backlog),
            refused: Vec::new(),
            next_load: never,
            turns: Turns::default(),
            last_start: None,
        }
    }

    // === What happened ===

    /// An event for this destination was committed.
    pub fn accepted(&mut self, mut item: Item) {
        if !self.may_send_soon() {
            item.let_go_of_data();
        }
        self.refused.extend(self.window.accept(item));
    }

    /// Events up to this key were committed, but not handed over; they are in the store.
    pub fn missed(&mut self, key: EventKey) {
        self.window.missed(key);
    }

    /// The page of [`Wanted::Fresh`] is here.
    pub fn loaded_fresh(&mut self, page: Page<Item>) {
        self.window.loaded_fresh(page);
        self.let_go_of_idle_data();
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
        if entry.cycle.cause == CycleCause::Resend {
            self.gate.let_pass(entry.id.event_key);
        }
        self.window.requeue(entry);
    }

    /// A caller ended this delivery; an attempt under way goes on.
    pub fn ended(&mut self, key: EventKey) {
        self.window.forget(key);
    }

    /// Settings or state of the destination changed; they are in force from the next attempt on.
    pub fn configure(&mut self, policy: Arc<EffectivePolicy>, hold: Hold, now: Timestamp) {
        self.gate.configure(policy.max_concurrency, now);
        if policy.throttle < self.policy.throttle {
            // The old gap may be hours long; the new one counts from now on.
            self.next_start = Timestamp::from_millis(i64::MIN);
        }
        self.policy = policy;
        self.set_hold(hold);
    }

    /// Holds so many waiting deliveries in memory from now on.
    pub fn resize(&mut self, window: usize) {
        self.window.resize(window);
    }

    /// Changes only whether the lane sends.
    pub fn set_hold(&mut self, hold: Hold) {
        self.hold = hold;
        self.let_go_of_idle_data();
    }

    /// Data that is not sent for a while is memory that others can use; the store has it, too.
    fn let_go_of_idle_data(&mut self) {
        if !self.may_send_soon() {
            self.window.let_go_of_data();
        }
    }

    fn may_send_soon(&self) -> bool {
        self.hold == Hold::Open && self.gate.circuit() != CircuitState::Open
    }

    /// The process stops. What is in memory alone is sent at once. Where events gather for their next
    /// request, those that have gathered go out in a last one, if the throttle lets it begin by `last_start`.
    pub fn begin_flush(&mut self, last_start: Timestamp) {
        self.hold = Hold::Flushing;
        let gathers = self.policy.max_batch_events > 1 && !self.policy.throttle.is_zero();
        self.last_start = Some(last_start).filter(|_| gathers && self.window.has_fresh());
    }

    /// A request has ended. `items` are those that [`Step::Attempt`] gave out, with the time from which
    /// on they wait again, if they do. `request` is what came of it, if one was sent.
    pub fn finished(&mut self, items: Vec<(Item, Option<Timestamp>)>, request: Option<Ended>) {
        match request {
            Some(ended) => self.gate.end(ended, self.policy.timeout),
            None => self.gate.take_back(),
        }
        let first = items.first().map(|(item, _)| item.key);
        let succeeded_at = request.filter(|ended| ended.success).map(|ended| ended.at);
        for (item, again) in items {
            self.window.end(item, again, succeeded_at);
        }
        self.gate.choose_scout(first, &self.window);
        self.let_go_of_idle_data();
    }

    /// These items of a request were not sent with it; they wait until `due` as if never started.
    pub fn spare(&mut self, items: Vec<Item>, due: Timestamp) {
        self.window.put_back(items, due);
    }

    /// Nothing was sent for these items, for a reason of ours; they wait until `due` as if never started.
    pub fn put_back(&mut self, items: Vec<Item>, due: Timestamp) {
        self.gate.take_back();
        self.window.put_back(items, due);
    }

    /// The settlements of these deliveries are stored.
    pub fn settled(&mut self, keys: &[EventKey]) {
        self.window.settled(keys);
    }

    /// Takes out what is in memory alone, when there is no time left to send it.
    pub fn give_up_memory(&mut self) -> Vec<Item> {
        let mut items = std::mem::take(&mut self.refused);
        items.extend(self.window.take_alone());
        items
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod circuit_tests;

#[cfg(test)]
mod unsettled_tests;

//! The lane: the run-time line of one destination, as a pure state machine.
//!
//! A lane is told what happened and is asked what to do next; it reads no clock and starts nothing. What
//! waits is in its [`Window`], whose memory is bounded; its [`Gate`] says how many requests there may be. The
//! lane decides what is sent when: hold, circuit, pace, concurrency, order, batches, age.

use std::sync::Arc;

use crate::domain::circuit::CircuitState;
use crate::domain::delivery::{CycleCause, EndReason};
use crate::domain::id::EventKey;
use crate::domain::settings::EffectivePolicy;
use crate::domain::time::Timestamp;
use crate::engine::gate::{Ended, Gate, Past};
use crate::engine::item::Item;
use crate::engine::pick::{Passage, Pick, Turns};
use crate::engine::window::{Wanted, Window};
use crate::policy::retry::{Ending, ends_waiting};
use crate::policy::standing::Standing;
use crate::store::directory::LaneStatus;
use crate::store::{DueEntry, Page, Stage};

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
        let success = request.is_some_and(|ended| ended.success);
        for (item, again) in items {
            self.window.end(item, again, success);
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
            let refused = std::mem::take(&mut self.refused);
            return Step::End(refused, Ending::Discard(EndReason::WindowFull));
        }
        if self.hold == Hold::Closed {
            return self.discard_everything(now);
        }
        if let Some(step) = self.end_overdue(now).or_else(|| self.read_on(now)) {
            return step;
        }
        match self.hold {
            Hold::Held | Hold::Closed => self.wait_for_ending(),
            Hold::Open if now < self.next_start => self.wait_or(self.next_start),
            Hold::Open => self.send(now),
            Hold::Flushing if self.has_alone() => self.flush_alone(now),
            Hold::Flushing => self.flush_gathered(now),
        }
    }

    fn send(&mut self, now: Timestamp) -> Step {
        if self.is_blind(now) || self.gate.is_full(&self.policy) {
            return self.wait_for_ending();
        }
        let passage = match self.gate.passage(&self.policy, &self.window, now) {
            Ok(passage) => passage,
            Err(moment) => return self.wait_or(moment),
        };
        self.attempt(now, passage, false).unwrap_or_else(|| self.wait_for_due(passage))
    }

    /// Sends what is in memory alone, whatever throttle and circuit say: there is no later.
    fn flush_alone(&mut self, now: Timestamp) -> Step {
        if self.gate.is_full(&self.policy) {
            return self.wait_for_ending();
        }
        self.attempt(now, Passage::Everything, true).unwrap_or_else(|| self.wait_for_ending())
    }

    /// Sends what has gathered for the next request, as ever: after the throttle, in order, if the circuit
    /// is not open. Whatever does not fit into that waits in the store for the next start.
    fn flush_gathered(&mut self, now: Timestamp) -> Step {
        let Some(last_start) = self.last_start else { return self.wait_for_ending() };
        if self.gate.is_full(&self.policy) {
            return self.wait_for_ending();
        }
        if now < self.next_start && self.next_start <= last_start {
            return self.wait_or(self.next_start);
        }
        self.last_start = None;
        let may_send = now >= self.next_start && now <= last_start && !self.is_blind(now);
        let passage = self.gate.passage(&self.policy, &self.window, now);
        let attempt = match passage {
            Ok(Passage::Everything) if may_send => self.attempt(now, Passage::Everything, false),
            _ => None,
        };
        attempt.unwrap_or_else(|| self.wait_for_ending())
    }

    /// An ordered lane must know its oldest before it sends any.
    fn is_blind(&self, now: Timestamp) -> bool {
        let reads = self.window.is_reading_due() || now < self.next_load;
        let will_not_read = self.hold == Hold::Flushing && self.window.has_more_due_in_store();
        self.policy.ordered && (reads || will_not_read)
    }

    fn attempt(&mut self, now: Timestamp, passage: Passage, alone: bool) -> Option<Step> {
        let pick = Pick { policy: &self.policy, now, passage, flushing: alone };
        let batch = pick.take(&mut self.window, &mut self.turns);
        if batch.is_empty() {
            return None;
        }
        self.gate.begin(now);
        self.next_start = now + self.policy.throttle;
        self.window.begin(&batch);
        Some(Step::Attempt(batch))
    }

    fn has_alone(&self) -> bool {
        self.window.any(|item| item.stage == Stage::InMemory)
    }

    fn discard_everything(&mut self, now: Timestamp) -> Step {
        let items = self.window.take_all(|_| true, false);
        if items.is_empty() {
            let wanted = if now < self.next_load { None } else { self.window.read_on() };
            return wanted.map_or(Step::Idle, Step::Load);
        }
        self.end(items, Ending::Discard(EndReason::DestinationDeleted))
    }

    /// What has come to its end while it waited: too old, or beyond the time after which it is given up. Nothing
    /// stops that clock, neither a pause nor an open circuit.
    fn end_overdue(&mut self, now: Timestamp) -> Option<Step> {
        let (_, ending) = self.next_ending().filter(|(at, _)| now >= *at)?;
        let policy = Arc::clone(&self.policy);
        let overdue =
            |item: &Item| ending_of(&policy, item).is_some_and(|(at, other)| now >= at && other == ending);
        let items = self.window.take_all(overdue, true);
        (!items.is_empty()).then(|| self.end(items, ending))
    }

    fn end(&mut self, items: Vec<Item>, ending: Ending) -> Step {
        for item in &items {
            self.window.note_unsettled(item);
        }
        Step::End(items, ending)
    }

    /// A held lane reads on, too, where deliveries can come to their end while they wait.
    fn read_on(&mut self, now: Timestamp) -> Option<Step> {
        let wanted = match self.hold {
            Hold::Open => now >= self.next_start || self.window.is_empty(),
            Hold::Held => ends_by_time(&self.policy),
            Hold::Flushing | Hold::Closed => false,
        };
        if wanted && now >= self.next_load { self.window.read_on().map(Step::Load) } else { None }
    }

    fn wait_for_due(&self, passage: Passage) -> Step {
        let due = self.window.first_due().filter(|_| self.hold == Hold::Open);
        let probe = self.gate.probe_at().filter(|_| passage != Passage::Everything);
        due.into_iter()
            .chain(probe)
            .min()
            .map_or_else(|| self.wait_for_ending(), |moment| self.wait_or(moment))
    }

    fn wait_or(&self, moment: Timestamp) -> Step {
        Step::WaitUntil(self.next_ending().map_or(moment, |(at, _)| at.min(moment)))
    }

    fn wait_for_ending(&self) -> Step {
        self.next_ending().map_or(Step::Idle, |(at, _)| Step::WaitUntil(at))
    }

    /// When and how a delivery in memory comes to its end next, if it goes on waiting.
    fn next_ending(&self) -> Option<(Timestamp, Ending)> {
        if !ends_by_time(&self.policy) {
            return None;
        }
        let endings = self.window.candidates().filter_map(|item| ending_of(&self.policy, item));
        endings.min_by_key(|(at, _)| *at)
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
        let earliest = self.gate.earliest(&self.policy, &self.window).into_iter().flatten().min();
        let moment = earliest?.max(self.next_start);
        (moment.as_millis() > i64::MIN).then_some(moment)
    }

    /// Whether a request would begin now, as far as can be told without taking anything out.
    #[must_use]
    pub fn may_start(&self, now: Timestamp) -> bool {
        let sends = matches!(self.hold, Hold::Open | Hold::Flushing);
        let is_free = sends && now >= self.next_start && !self.gate.is_full(&self.policy);
        is_free
            && self
                .gate
                .earliest(&self.policy, &self.window)
                .into_iter()
                .flatten()
                .any(|moment| moment <= now)
    }

    /// About how many bytes its next request has: as many as a batch may, where several may go together.
    #[must_use]
    pub fn next_bytes(&self) -> usize {
        let one = self.window.next_bytes();
        let batches = self.policy.max_batch_events > 1 && self.window.len() > 1;
        if batches {
            one.max(usize::try_from(self.policy.max_batch_bytes).unwrap_or(usize::MAX))
        } else {
            one
        }
    }

    /// Where the lane stands, as callers may see it.
    #[must_use]
    pub fn status(&self) -> LaneStatus {
        LaneStatus {
            in_flight: self.gate.requests(),
            waiting_in_memory: u32::try_from(self.window.len()).unwrap_or(u32::MAX),
            oldest_fresh_at: self.window.oldest_fresh_at(),
            oldest_key: self.window.oldest(),
            more_in_store: self.window.has_more_in_store(),
            next_attempt_at: self.next_attempt_at(),
            host_turn_at: None,
            circuit: self.gate.circuit(),
            next_probe_at: self.gate.probe_at(),
            concurrency: self.gate.limit(&self.policy),
        }
    }

    /// The state of its circuit.
    #[must_use]
    pub fn circuit(&self) -> CircuitState {
        self.gate.circuit()
    }

    /// How much room its requests deserve.
    #[must_use]
    pub fn standing(&self, now: Timestamp) -> Standing {
        self.gate.standing(now)
    }

    /// Whether the lane has nothing to do and nothing to remember, so that it may be dropped.
    #[must_use]
    pub fn is_idle(&self, now: Timestamp) -> bool {
        // What is not sent to has no use for its circuit.
        let gate_is_idle = match self.hold {
            Hold::Open => self.gate.is_idle(now) && now >= self.next_start,
            Hold::Held | Hold::Closed | Hold::Flushing => self.gate.requests() == 0,
        };
        gate_is_idle && self.refused.is_empty() && self.window.is_idle()
    }

    /// Whether the lane still has something to send before the process stops.
    #[must_use]
    pub fn must_flush(&self) -> bool {
        self.hold == Hold::Flushing && (self.has_alone() || self.last_start.is_some())
    }

    /// Takes out what is in memory alone, when there is no time left to send it.
    pub fn give_up_memory(&mut self) -> Vec<Item> {
        let mut items = std::mem::take(&mut self.refused);
        items.extend(self.window.take_alone());
        items
    }
}

fn ends_by_time(policy: &EffectivePolicy) -> bool {
    policy.discard_after.is_some() || policy.retry.give_up_after.is_some()
}

fn ending_of(policy: &EffectivePolicy, item: &Item) -> Option<(Timestamp, Ending)> {
    ends_waiting(policy, item.guarantee_in(policy), item.cycle, item.key.made_at())
}

#[cfg(test)]
#[path = "lane_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "circuit_tests.rs"]
mod circuit_tests;

//! The lane: the run-time line of one destination, as a pure state machine.
//!
//! A lane is told what happened and is asked what to do next; it reads no clock and starts nothing. Its
//! memory is bounded by its window. Past the window it only remembers where in the store to read on:
//!
//! * *fresh* deliveries (first attempts) wait in order of their keys. When the window is full, newly
//!   accepted ones are dropped from memory and read from the store later, after the last key that the
//!   lane has seen.
//! * *due* deliveries (retries, resends, replays) wait in order of their due time. The lane holds the
//!   earliest; the others are in the store beyond the horizon.
//!
//! What keeps this right is that fresh keys grow in commit order, and that a delivery which is beyond
//! the horizon is offered again once its settlement is stored (see [`Lane::settled`]).

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::domain::delivery::{Cycle, CycleCause, EndReason};
use crate::domain::event::Event;
use crate::domain::id::EventKey;
use crate::domain::settings::{EffectivePolicy, Guarantee};
use crate::domain::time::Timestamp;
use crate::policy::concurrency::Concurrency;
use crate::policy::retry::discard_at;
use crate::store::{DueEntry, Page, Stage};

/// Rough size of an event's envelope around its data, for the byte cap of a batch.
const ENVELOPE_BYTES: usize = 256;

/// A delivery in a lane's memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Which event.
    pub key: EventKey,
    /// Its data, where it is in memory; retries are reloaded, so that waiting for hours costs little.
    pub event: Option<Arc<Event>>,
    /// How it waits in the store.
    pub stage: Stage,
    /// What it was promised.
    pub guarantee: Guarantee,
    /// Attempts in all so far.
    pub attempt_count: u32,
    /// The present cycle of attempts.
    pub cycle: Cycle,
}

impl Item {
    /// The first attempt of an accepted event.
    #[must_use]
    pub fn fresh(event: Arc<Event>, guarantee: Guarantee) -> Self {
        let stage = match guarantee {
            Guarantee::AtLeastOnce => Stage::Fresh,
            Guarantee::BestEffort => Stage::InMemory,
        };
        let cycle = Cycle { cause: CycleCause::Routed, started_at: event.accepted_at, attempts: 0 };
        Self { key: event.key, event: Some(event), stage, guarantee, attempt_count: 0, cycle }
    }

    /// A delivery that the store has waiting for a due time.
    #[must_use]
    pub fn due(entry: DueEntry) -> Self {
        Self {
            key: entry.id.event_key,
            event: None,
            stage: Stage::Due(entry.due),
            guarantee: Guarantee::AtLeastOnce,
            attempt_count: entry.attempt_count,
            cycle: entry.cycle,
        }
    }

    fn is_stored_as_due(&self) -> bool {
        matches!(self.stage, Stage::Due(_))
    }

    fn bytes(&self) -> usize {
        self.event.as_ref().map_or(0, |event| event.data.as_bytes().len()) + ENVELOPE_BYTES
    }
}

/// What the lane wants to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Send these in one request.
    Attempt(Vec<Item>),
    /// Record these as discarded; no request.
    Discard(Vec<Item>, EndReason),
    /// Read fresh deliveries from the store, after this key.
    LoadFresh {
        /// The last key that the lane has seen.
        after: Option<EventKey>,
        /// At most so many.
        limit: usize,
    },
    /// Read due deliveries from the store, after this position.
    LoadDue {
        /// The horizon.
        after: Option<(Timestamp, EventKey)>,
        /// At most so many.
        limit: usize,
    },
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

/// A delivery whose outcomes are on their way to the store.
#[derive(Debug, Default)]
struct Unsettled {
    /// How many: a retry may end before the outcome before it is stored.
    outcomes: u32,
    /// The delivery, where it waits beyond the horizon.
    item: Option<Item>,
}

/// Where reading on from the store would begin; `None` when the store holds nothing more.
type Tail<K> = Option<Option<K>>;

/// The line of one destination.
#[derive(Debug)]
pub struct Lane {
    policy: Arc<EffectivePolicy>,
    hold: Hold,
    window: usize,
    fresh: VecDeque<Item>,
    due: BTreeMap<(Timestamp, EventKey), Item>,
    due_index: HashMap<EventKey, Timestamp>,
    in_flight: HashSet<EventKey>,
    requests: u32,
    /// Best-effort items that found the window full.
    refused: Vec<Item>,
    /// Fresh deliveries beyond the window: after this key.
    fresh_tail: Tail<EventKey>,
    /// The last fresh key that was in memory, so that no delivery comes in twice.
    last_fresh: Option<EventKey>,
    /// The largest fresh key that was dropped while the store was to be read anyway.
    dropped_up_to: Option<EventKey>,
    /// Due deliveries beyond the horizon: after this position.
    due_tail: Tail<(Timestamp, EventKey)>,
    /// Deliveries whose settlement is not stored yet, so that the store still shows them as they were.
    /// Retries beyond the horizon are kept here until it is.
    unsettled: HashMap<EventKey, Unsettled>,
    /// Retries that were stored while a page was being read, which may or may not hold them.
    reoffer: Vec<Item>,
    /// Deliveries that were settled while a page was being read: what the page says of them is stale.
    stale: HashSet<EventKey>,
    loading_fresh: bool,
    /// The horizon from which a page of due deliveries is being read.
    loading_due: Tail<(Timestamp, EventKey)>,
    next_start: Timestamp,
    concurrency: Concurrency,
    prefer_due: bool,
}

impl Lane {
    /// A lane without work, whose store holds nothing either.
    #[must_use]
    pub fn new(policy: Arc<EffectivePolicy>, hold: Hold, window: usize) -> Self {
        let concurrency = Concurrency::new(policy.max_concurrency);
        Self {
            policy,
            hold,
            window: window.max(1),
            fresh: VecDeque::new(),
            due: BTreeMap::new(),
            due_index: HashMap::new(),
            in_flight: HashSet::new(),
            requests: 0,
            refused: Vec::new(),
            fresh_tail: None,
            last_fresh: None,
            dropped_up_to: None,
            due_tail: None,
            unsettled: HashMap::new(),
            reoffer: Vec::new(),
            stale: HashSet::new(),
            loading_fresh: false,
            loading_due: None,
            next_start: Timestamp::from_millis(i64::MIN),
            concurrency,
            prefer_due: false,
        }
    }

    /// The lane of a destination for which the store may hold anything.
    #[must_use]
    pub fn with_backlog(policy: Arc<EffectivePolicy>, hold: Hold, window: usize) -> Self {
        Self { fresh_tail: Some(None), due_tail: Some(None), ..Self::new(policy, hold, window) }
    }

    // === What happened ===

    /// An event for this destination was committed.
    pub fn accepted(&mut self, event: Arc<Event>, guarantee: Guarantee) {
        let item = Item::fresh(event, guarantee);
        match guarantee {
            Guarantee::BestEffort if self.in_memory() >= self.window => self.refused.push(item),
            Guarantee::BestEffort => self.fresh.push_back(item),
            Guarantee::AtLeastOnce => self.accepted_durable(item),
        }
    }

    /// Events up to this key were committed, but not handed over; they are in the store.
    pub fn missed(&mut self, key: EventKey) {
        if self.last_fresh.is_some_and(|last| key <= last) {
            return;
        }
        self.fresh_tail.get_or_insert(self.last_fresh);
        self.dropped_up_to = self.dropped_up_to.max(Some(key));
    }

    fn accepted_durable(&mut self, item: Item) {
        if self.last_fresh.is_some_and(|last| item.key <= last) {
            return;
        }
        if self.fresh_tail.is_some() || self.fresh.len() >= self.window {
            self.missed(item.key);
            return;
        }
        self.last_fresh = Some(item.key);
        self.fresh.push_back(item);
    }

    /// The page asked for by [`Step::LoadFresh`] is here.
    pub fn loaded_fresh(&mut self, page: Page<Arc<Event>>) {
        self.loading_fresh = false;
        for event in page.rows {
            if self.last_fresh.is_some_and(|last| event.key <= last) {
                continue;
            }
            self.last_fresh = Some(event.key);
            if !self.in_flight.contains(&event.key) && !self.due_index.contains_key(&event.key) {
                self.fresh.push_back(Item::fresh(event, Guarantee::AtLeastOnce));
            }
        }
        // What was dropped while the page was read may be missing in it.
        let missing = self.dropped_up_to > self.last_fresh;
        self.fresh_tail = (page.more || missing).then_some(self.last_fresh);
        if !missing {
            self.dropped_up_to = None;
        }
    }

    /// The page asked for by [`Step::LoadDue`] is here.
    pub fn loaded_due(&mut self, page: Page<DueEntry>) {
        let asked = self.loading_due.take();
        let stale = std::mem::take(&mut self.stale);
        // Where the horizon has come nearer meanwhile, the page begins too far out: it is read again.
        if asked == self.due_tail {
            let horizon = page.rows.last().map(|entry| (entry.due, entry.id.event_key));
            self.due_tail = page.more.then_some(horizon);
            for entry in page.rows {
                if !self.knows(entry.id.event_key) && !stale.contains(&entry.id.event_key) {
                    self.insert_due(entry.due, Item::due(entry));
                }
            }
        }
        for item in std::mem::take(&mut self.reoffer) {
            if !self.knows(item.key) {
                self.offer_due(item);
            }
        }
    }

    /// A page could not be read; the lane will ask again after `retry_at`.
    pub fn load_failed(&mut self, retry_at: Timestamp) {
        self.loading_fresh = false;
        self.loading_due = None;
        self.next_start = self.next_start.max(retry_at);
    }

    /// A resend or a replay made this delivery wait again.
    pub fn requeued(&mut self, entry: DueEntry) {
        let key = entry.id.event_key;
        if self.in_flight.contains(&key) {
            return;
        }
        self.forget(key);
        self.insert_due(entry.due, Item::due(entry));
    }

    /// A caller ended this delivery; an attempt under way goes on.
    pub fn ended(&mut self, key: EventKey) {
        self.forget(key);
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
        for (item, again) in items {
            self.in_flight.remove(&item.key);
            self.note_unsettled(&item);
            if let Some(due) = again {
                self.wait_again(item, due);
            }
        }
    }

    /// Nothing was sent for these items, for a reason of ours; they wait until `due` as if never started.
    pub fn put_back(&mut self, items: Vec<Item>, due: Timestamp) {
        self.requests = self.requests.saturating_sub(1);
        for item in items {
            self.in_flight.remove(&item.key);
            self.insert_due(due, item);
        }
    }

    fn note_unsettled(&mut self, item: &Item) {
        if item.stage != Stage::InMemory {
            self.unsettled.entry(item.key).or_default().outcomes += 1;
        }
    }

    fn wait_again(&mut self, mut item: Item, due: Timestamp) {
        if item.stage == Stage::InMemory {
            self.insert_due(due, item);
            return;
        }
        item.stage = Stage::Due(due);
        // Only best effort keeps its data in memory: it is nowhere else in the order of the lane.
        item.event = None;
        if self.is_beyond(due, item.key) {
            let key = item.key;
            self.unsettled.entry(key).or_default().item = Some(item);
        } else {
            self.insert_due(due, item);
        }
    }

    fn is_beyond(&self, due: Timestamp, key: EventKey) -> bool {
        self.due_tail.is_some_and(|horizon| horizon.is_none_or(|horizon| (due, key) > horizon))
    }

    /// The settlements of these deliveries are stored.
    ///
    /// A retry beyond the horizon is in the store from here on, so that reading on finds it, unless a
    /// page that was read before passes its place: then it must come back into memory.
    pub fn settled(&mut self, keys: &[EventKey]) {
        if self.loading_due.is_some() {
            self.stale.extend(keys);
        }
        for key in keys {
            let Some(item) = self.settled_one(*key) else { continue };
            if self.loading_due.is_some() {
                self.reoffer.push(item);
            } else {
                self.offer_due(item);
            }
        }
    }

    /// Counts down; with the last outcome, the delivery that waits beyond the horizon comes back.
    fn settled_one(&mut self, key: EventKey) -> Option<Item> {
        let unsettled = self.unsettled.get_mut(&key)?;
        unsettled.outcomes = unsettled.outcomes.saturating_sub(1);
        if unsettled.outcomes > 0 {
            return None;
        }
        self.unsettled.remove(&key)?.item
    }

    fn offer_due(&mut self, item: Item) {
        let Stage::Due(due) = item.stage else { return };
        if !self.is_beyond(due, item.key) {
            self.insert_due(due, item);
        }
    }

    fn insert_due(&mut self, due: Timestamp, item: Item) {
        self.due_index.insert(item.key, due);
        self.due.insert((due, item.key), item);
        self.shrink_due();
    }

    /// Keeps the earliest; what is stored and beyond the window is dropped, and the horizon moves there.
    fn shrink_due(&mut self) {
        while self.due.len() > self.window {
            let droppable = self.due.iter().next_back().filter(|(_, item)| item.is_stored_as_due());
            let Some((&position, _)) = droppable else { return };
            let dropped = self.due.remove(&position);
            self.due_index.remove(&position.1);
            if let Some(unsettled) = self.unsettled.get_mut(&position.1) {
                unsettled.item = dropped;
            }
            let retained = self.due.keys().next_back().copied();
            self.due_tail = Some(match self.due_tail {
                Some(horizon) => horizon.min(retained),
                None => retained,
            });
        }
    }

    fn forget(&mut self, key: EventKey) {
        if let Some(due) = self.due_index.remove(&key) {
            self.due.remove(&(due, key));
        } else if let Some(position) = self.fresh.iter().position(|item| item.key == key) {
            self.fresh.remove(position);
        }
        if let Some(unsettled) = self.unsettled.get_mut(&key) {
            unsettled.item = None;
        }
        self.reoffer.retain(|item| item.key != key);
    }

    fn knows(&self, key: EventKey) -> bool {
        self.in_flight.contains(&key)
            || self.due_index.contains_key(&key)
            || self.unsettled.contains_key(&key)
    }

    // === What to do ===

    /// What to do next. [`Step::Attempt`] counts as begun: its end must be told by [`Lane::finished`].
    pub fn step(&mut self, now: Timestamp) -> Step {
        if !self.refused.is_empty() {
            return Step::Discard(std::mem::take(&mut self.refused), EndReason::WindowFull);
        }
        if self.hold == Hold::Closed {
            return self.discard_everything();
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
        let blind = self.policy.ordered && self.loading_due.is_some();
        if blind || self.requests >= self.limit() {
            return self.wait_for_discard();
        }
        let batch = self.take_batch(now);
        if batch.is_empty() {
            return self.wait_for_due();
        }
        self.requests += 1;
        self.next_start = now + self.policy.throttle;
        self.in_flight.extend(batch.iter().map(|item| item.key));
        Step::Attempt(batch)
    }

    fn limit(&self) -> u32 {
        if self.policy.ordered { 1 } else { self.concurrency.limit() }
    }

    fn discard_everything(&mut self) -> Step {
        let mut items: Vec<Item> = self.fresh.drain(..).collect();
        items.extend(std::mem::take(&mut self.due).into_values());
        self.due_index.clear();
        if !items.is_empty() {
            items.iter().for_each(|item| self.note_unsettled(item));
            return Step::Discard(items, EndReason::DestinationDeleted);
        }
        self.load_step().unwrap_or(Step::Idle)
    }

    fn discard_overdue(&mut self, now: Timestamp) -> Option<Step> {
        self.policy.discard_after?;
        let policy = Arc::clone(&self.policy);
        let overdue = |item: &Item| discard_at(&policy, item.key.made_at()).is_some_and(|limit| now >= limit);
        let mut items = Vec::new();
        // Fresh ones are in order of age, so the first that is young enough ends the search.
        while self.fresh.front().is_some_and(overdue) {
            items.extend(self.fresh.pop_front());
        }
        let late: Vec<_> = self.due.iter().filter(|(_, item)| overdue(item)).map(|(at, _)| *at).collect();
        for position in late {
            items.extend(self.due.remove(&position));
            self.due_index.remove(&position.1);
        }
        items.iter().for_each(|item| self.note_unsettled(item));
        (!items.is_empty()).then_some(Step::Discard(items, EndReason::TooOld))
    }

    /// Reads on when less than half of the window is left. A held lane reads too where deliveries can
    /// grow too old, since those must be discarded while they wait.
    fn read_on(&mut self, now: Timestamp) -> Option<Step> {
        let wanted = match self.hold {
            Hold::Open => now >= self.next_start || self.in_memory() == 0,
            Hold::Held => self.policy.discard_after.is_some(),
            Hold::Flushing | Hold::Closed => false,
        };
        if wanted { self.load_step() } else { None }
    }

    fn load_step(&mut self) -> Option<Step> {
        let (window, half) = (self.window, self.window / 2);
        if let Some(after) = self.due_tail
            && self.loading_due.is_none()
            && self.due.len() <= half
        {
            self.loading_due = Some(after);
            return Some(Step::LoadDue { after, limit: window - self.due.len() });
        }
        if let Some(after) = self.fresh_tail
            && !self.loading_fresh
            && self.fresh.len() <= half
        {
            self.loading_fresh = true;
            return Some(Step::LoadFresh { after, limit: window - self.fresh.len() });
        }
        None
    }

    fn take_batch(&mut self, now: Timestamp) -> Vec<Item> {
        let max_events = usize::try_from(self.policy.max_batch_events).unwrap_or(1).max(1);
        let max_bytes = usize::try_from(self.policy.max_batch_bytes).unwrap_or(usize::MAX);
        let mut batch = Vec::new();
        let mut bytes = 0_usize;
        while batch.len() < max_events {
            let Some(item) = self.take_next(now, bytes, max_bytes) else { break };
            bytes = bytes.saturating_add(item.bytes());
            batch.push(item);
        }
        batch
    }

    /// The next item to send, unless it would make the batch larger than allowed.
    fn take_next(&mut self, now: Timestamp, bytes: usize, max_bytes: usize) -> Option<Item> {
        let fits = |item: &Item| bytes == 0 || bytes.saturating_add(item.bytes()) <= max_bytes;
        let mine = |item: &Item| self.hold != Hold::Flushing || item.stage == Stage::InMemory;
        // At a stop a retry in memory is due at once: there is no later.
        let due_now = |at: Timestamp| at <= now || self.hold == Hold::Flushing;
        let ready_due = self
            .due
            .iter()
            .find(|((at, _), item)| (due_now(*at) && mine(item)) || self.policy.ordered)
            .map(|(position, _)| *position);
        let ready_fresh = self.fresh.iter().position(mine);
        let due_first = match (ready_due, ready_fresh) {
            (Some(_), None) => true,
            (Some(_), Some(_)) => self.policy.ordered || bytes > 0 || self.prefer_due,
            (None, _) => false,
        };
        if !due_first {
            let position = ready_fresh.filter(|at| self.fresh.get(*at).is_some_and(fits))?;
            self.prefer_due = true;
            return self.fresh.remove(position);
        }
        let position = ready_due.filter(|(at, _)| due_now(*at))?;
        if !self.due.get(&position).is_some_and(fits) {
            return None;
        }
        // Retries and first attempts take turns, so that neither can starve the other.
        self.prefer_due = false;
        self.due_index.remove(&position.1);
        self.due.remove(&position)
    }

    fn wait_for_due(&self) -> Step {
        match self.due.keys().next() {
            Some((due, _)) if self.hold == Hold::Open => self.wait_or(*due),
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
        let oldest_due = self.due.values().map(|item| item.key).min();
        let oldest = self.fresh.front().map(|item| item.key).into_iter().chain(oldest_due).min()?;
        discard_at(&self.policy, oldest.made_at())
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
        self.fresh.len() + self.due.len()
    }

    /// The earliest start of the next request, as far as the lane knows; `None` while it is held or empty.
    #[must_use]
    pub fn next_attempt_at(&self) -> Option<Timestamp> {
        if self.hold != Hold::Open {
            return None;
        }
        let fresh = self.fresh.front().map(|_| self.next_start);
        let due = self.due.keys().next().map(|(due, _)| (*due).max(self.next_start));
        fresh.into_iter().chain(due).min().filter(|moment| moment.as_millis() > i64::MIN)
    }

    /// Whether the lane still sends what is in memory alone, before the process stops.
    #[must_use]
    pub fn is_flushing(&self) -> bool {
        self.hold == Hold::Flushing
    }

    /// Whether the store holds deliveries that are not in memory.
    #[must_use]
    pub fn has_more_in_store(&self) -> bool {
        self.fresh_tail.is_some() || self.due_tail.is_some()
    }

    /// Whether the last requests failed, so that the lane should not take room from healthy ones.
    #[must_use]
    pub fn is_suspect(&self) -> bool {
        self.concurrency.is_suspect()
    }

    /// Whether the lane has nothing to do and nothing to remember, so that it may be dropped.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.requests == 0
            && self.in_memory() == 0
            && !self.has_more_in_store()
            && self.unsettled.is_empty()
            && self.reoffer.is_empty()
            && self.refused.is_empty()
    }

    /// Whether deliveries that are in memory alone still wait or are under way.
    #[must_use]
    pub fn must_flush(&self) -> bool {
        let waits = |item: &Item| item.stage == Stage::InMemory;
        self.fresh.iter().any(waits) || self.due.values().any(waits)
    }

    /// Takes out what is in memory alone, when there is no time left to send it.
    pub fn give_up_memory(&mut self) -> Vec<Item> {
        let is_memory = |item: &Item| item.stage == Stage::InMemory;
        let (mut lost, kept): (Vec<Item>, Vec<Item>) = self.fresh.drain(..).partition(is_memory);
        self.fresh = kept.into();
        let late: Vec<_> =
            self.due.iter().filter(|(_, item)| is_memory(item)).map(|(position, _)| *position).collect();
        for position in late {
            lost.extend(self.due.remove(&position));
            self.due_index.remove(&position.1);
        }
        lost
    }
}

#[cfg(test)]
#[path = "lane_tests.rs"]
mod tests;

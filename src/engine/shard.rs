//! A shard: the lanes of some destinations, and the one loop that serves them.
//!
//! The loop fetches what happened, lets lanes decide, and starts what they want. It never waits for the
//! network, for the store or for a single lane: all of that runs in tasks that it owns and that end
//! before it does. Room for requests is given out one at a time, in turn: by the standing of
//! destinations (`room`), then by organization (`turns`), then by lane.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::clock::SharedClock;
use crate::domain::attempt::Attempt;
use crate::domain::delivery::{DeliveryState, EndReason};
use crate::domain::destination::{DestinationHealth, DisabledReason};
use crate::domain::event::Event;
use crate::domain::id::{DestinationId, EventKey};
use crate::domain::operational::{OPERATIONAL_PREFIX, OperationalEvent};
use crate::domain::settings::EffectivePolicy;
use crate::domain::time::Timestamp;
use crate::engine::agenda::Agenda;
use crate::engine::announce::announce;
use crate::engine::disable::disable_destination;
use crate::engine::gate::Ended;
use crate::engine::inbox::{Inbox, News};
use crate::engine::item::Item;
use crate::engine::lane::{Lane, Step};
use crate::engine::room::{Place, Room};
use crate::engine::rules::{Rules, ShardOptions};
use crate::engine::window::Wanted;
use crate::engine::worker::{Attempted, Worker, conclude, give_up};
use crate::policy::retry::disables;
use crate::policy::standing::Standing;
use crate::store::directory::{DestinationEntry, LaneStatus};
use crate::store::{DueEntry, Page, Settlement, Stage, StoreError};

/// How long a lane waits after the store could not answer it.
const STORE_RETRY: Duration = Duration::from_millis(500);
/// The loop looks at its timers at least this often, so that a clock that was set is noticed.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// How a shard is told to end.
#[derive(Debug, Clone, Default)]
pub struct StopSignals {
    /// Start nothing new, flush best effort, finish what runs.
    pub soft: CancellationToken,
    /// Drop what still runs.
    pub hard: CancellationToken,
}

/// A lane and the destination it belongs to; no destination when that was deleted.
struct Slot {
    lane: Lane,
    entry: Option<Arc<DestinationEntry>>,
}

/// What a task of the shard comes back with.
enum Done {
    Attempted { id: DestinationId, place: Place, result: Result<Attempted, (Vec<Item>, StoreError)> },
    Fresh(DestinationId, Result<Page<Arc<Event>>, StoreError>),
    Due(DestinationId, Result<Page<DueEntry>, StoreError>),
    Settled(HashMap<DestinationId, Vec<EventKey>>, Result<(), StoreError>),
    Disabled(DestinationId, DisabledReason, Result<(), StoreError>),
    Announced(Result<(), StoreError>),
}

/// The lanes of some destinations.
pub struct Shard {
    worker: Worker,
    clock: SharedClock,
    inbox: Arc<Inbox>,
    rules: Rules,
    lanes: HashMap<DestinationId, Slot>,
    agenda: Agenda,
    running: JoinSet<Done>,
    room: Room,
    settling: bool,
    settlements: Vec<Settlement>,
    health: HashMap<DestinationId, DestinationHealth>,
}

impl Shard {
    /// A shard without lanes.
    #[must_use]
    pub fn new(worker: Worker, clock: SharedClock, inbox: Arc<Inbox>, options: ShardOptions) -> Self {
        let rules = Rules { store: Arc::clone(&worker.store), options, stopping: false };
        Self {
            worker,
            clock,
            inbox,
            rules,
            lanes: HashMap::new(),
            agenda: Agenda::default(),
            running: JoinSet::new(),
            room: Room::new(options.max_in_flight, options.max_bytes_in_flight),
            settling: false,
            settlements: Vec::new(),
            health: HashMap::new(),
        }
    }

    /// Makes lanes for destinations for which the store has waiting deliveries.
    pub fn open_backlog(&mut self, destination_ids: impl IntoIterator<Item = DestinationId>) {
        for id in destination_ids {
            let (lane, entry) = self.rules.open_lane(id, true);
            self.lanes.insert(id, Slot { lane, entry });
            self.queue(id);
        }
    }

    /// Serves the lanes until it is told to stop, and records what could not be flushed.
    pub async fn run(mut self, stop: StopSignals) {
        loop {
            self.give_out_room();
            self.settle();
            if self.rules.stopping && self.is_flushed() {
                break;
            }
            let pause = self.until_next_timer();
            tokio::select! {
                () = stop.hard.cancelled() => break,
                () = stop.soft.cancelled(), if !self.rules.stopping => self.begin_stop(),
                () = self.inbox.arrival() => self.take_inbox(),
                Some(done) = self.running.join_next(), if !self.running.is_empty() => self.take_done(done),
                () = tokio::time::sleep(pause) => {}
            }
            for id in self.agenda.take_due(self.clock.now()) {
                self.queue(id);
            }
        }
        self.finish().await;
    }

    fn until_next_timer(&self) -> Duration {
        let now = self.clock.now();
        // Rounded up by a millisecond: a timer that fires early would only be set again.
        let pause = |moment: Timestamp| moment.since(now) + Duration::from_millis(1);
        let silence = self.room.next_silence().filter(|_| self.agenda.is_anybody_waiting());
        let next = self.agenda.first_wake().into_iter().chain(silence).min();
        next.map_or(LONGEST_SLEEP, pause).min(LONGEST_SLEEP)
    }

    // === What happened ===

    fn take_inbox(&mut self) {
        let (news, missed) = self.inbox.take();
        for item in news {
            let id = match item {
                News::Accepted(id, event, guarantee) => {
                    self.slot(id).lane.accepted(event, guarantee);
                    id
                }
                News::Requeued(entry) => {
                    self.slot(entry.id.destination_id).lane.requeued(entry);
                    entry.id.destination_id
                }
                News::Ended(delivery) => {
                    self.slot(delivery.destination_id).lane.ended(delivery.event_key);
                    delivery.destination_id
                }
                News::DestinationChanged(id) => {
                    self.reconfigure(id);
                    id
                }
            };
            self.queue(id);
        }
        for (id, key) in missed {
            self.slot(id).lane.missed(key);
            self.queue(id);
        }
    }

    /// The lane of a destination, made where there is none.
    fn slot(&mut self, id: DestinationId) -> &mut Slot {
        match self.lanes.entry(id) {
            Entry::Occupied(slot) => slot.into_mut(),
            Entry::Vacant(place) => {
                let (lane, entry) = self.rules.open_lane(id, false);
                place.insert(Slot { lane, entry })
            }
        }
    }

    fn reconfigure(&mut self, id: DestinationId) {
        if self.lanes.contains_key(&id) {
            let (entry, policy, hold) = self.rules.look_up(id);
            let now = self.clock.now();
            let slot = self.slot(id);
            slot.lane.configure(policy, hold, now);
            slot.entry = entry;
        }
    }

    fn take_done(&mut self, done: Result<Done, JoinError>) {
        // A task that panicked is a fault of ours; it must not be mistaken for an idle lane.
        let done = match done {
            Ok(done) => done,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        match done {
            Done::Attempted { id, place, result } => {
                self.room.give_back(place);
                match result {
                    Ok(attempted) => self.attempted(id, attempted),
                    Err((items, error)) => self.attempt_failed(id, items, &error),
                }
                self.queue(id);
            }
            Done::Fresh(id, page) => self.loaded(id, page, Lane::loaded_fresh, Lane::load_fresh_failed),
            Done::Due(id, page) => self.loaded(id, page, Lane::loaded_due, Lane::load_due_failed),
            Done::Settled(keys, result) => self.settled(&keys, result),
            Done::Disabled(id, reason, Ok(())) => {
                tracing::info!(destination.id = %id, reason = reason.as_sentence(), "destination disabled");
                self.announce(id, OperationalEvent::DestinationDisabled { destination_id: id, reason });
            }
            Done::Announced(Ok(())) => {}
            Done::Announced(Err(error)) => tracing::warn!(%error, "an operational event was not accepted"),
            Done::Disabled(id, _, Err(error)) => {
                tracing::error!(destination.id = %id, %error, "destination could not be disabled");
            }
        }
    }

    fn loaded<T>(
        &mut self,
        id: DestinationId,
        page: Result<Page<T>, StoreError>,
        take: impl FnOnce(&mut Lane, Page<T>),
        fail: impl FnOnce(&mut Lane, Timestamp),
    ) {
        let retry_at = self.clock.now() + STORE_RETRY;
        let slot = self.slot(id);
        match page {
            Ok(page) => take(&mut slot.lane, page),
            Err(error) => {
                tracing::error!(destination.id = %id, %error, "waiting deliveries could not be read");
                fail(&mut slot.lane, retry_at);
            }
        }
        self.queue(id);
    }

    fn attempted(&mut self, id: DestinationId, attempted: Attempted) {
        let now = self.clock.now();
        for item in &attempted.gone {
            self.settlements.push(give_up(id, item, EndReason::EventGone, now));
        }
        let Some(attempt) = attempted.attempt else {
            let gone = attempted.gone.into_iter().map(|item| (item, None)).collect();
            self.slot(id).lane.finished(gone, None);
            return;
        };
        let policy = Arc::clone(self.slot(id).lane.policy());
        let mut finished: Vec<_> = attempted.gone.into_iter().map(|item| (item, None)).collect();
        // One draw for the request: a batch that fails keeps its order.
        let draw = fastrand::f64();
        let mut after = now;
        for mut item in attempted.items {
            let (mut again, mut settlement) = conclude(id, &policy, &mut item, &attempt, (now, draw));
            // At a stop, what is in memory alone gets one more attempt and no retry: there is no later.
            if self.rules.stopping && again.is_some() && item.stage == Stage::InMemory {
                again = None;
                settlement.state = DeliveryState::Discarded { at: now, reason: EndReason::Stopped };
            }
            // One with fewer attempts behind it has a shorter delay, but must not overtake the others.
            if policy.ordered
                && let Some(due) = again.as_mut()
            {
                after = after.max(*due);
                *due = after;
                settlement.state = DeliveryState::Waiting { due: after };
            }
            if let Some(event) = &item.event {
                self.announce_dead_letter(event, &settlement);
            }
            self.settlements.push(settlement);
            finished.push((item, again));
        }
        let success = attempt.outcome.is_success();
        let ended = Ended { success, took: attempt.round_trip, at: now, draw };
        self.slot(id).lane.finished(finished, Some(ended));
        self.note_health(id, &policy, &attempt);
    }

    fn note_health(&mut self, id: DestinationId, policy: &EffectivePolicy, attempt: &Attempt) {
        let Some(entry) = self.slot(id).entry.clone() else { return };
        let ended_at = self.clock.now();
        let health = entry.status.update_health(|health| match attempt.outcome.error() {
            None => health.succeeded(ended_at),
            Some(error) => health.failed(ended_at, error),
        });
        let disable_after = policy.disable_after;
        let too_long = health
            .failing_since
            .zip(disable_after)
            .is_some_and(|(since, limit)| ended_at.since(since) >= limit);
        self.health.insert(id, health);
        let reason = if disables(policy, &attempt.outcome) {
            DisabledReason::Gone
        } else if too_long {
            DisabledReason::Failing
        } else {
            return;
        };
        let store = Arc::clone(&self.worker.store);
        let change = async move {
            Done::Disabled(id, reason, disable_destination(&*store, id, reason, ended_at).await)
        };
        self.running.spawn(change);
    }

    /// Tells the organization of a new dead letter; but not where the delivery itself told something.
    fn announce_dead_letter(&mut self, event: &Event, settlement: &Settlement) {
        let DeliveryState::DeadLettered { reason, .. } = settlement.state else { return };
        if event.event_type.as_str().starts_with(OPERATIONAL_PREFIX) {
            return;
        }
        let last_error = settlement.attempt.as_ref().and_then(|attempt| attempt.outcome.error());
        let told = OperationalEvent::DeliveryDeadLettered {
            delivery_id: settlement.id,
            event_id: event.id.clone(),
            reason,
            attempt_count: settlement.attempt.as_ref().map_or(0, |attempt| attempt.number),
            last_error: last_error.unwrap_or_default(),
        };
        self.announce(settlement.id.destination_id, told);
    }

    fn announce(&mut self, about: DestinationId, told: OperationalEvent) {
        let Some(entry) = self.slot(about).entry.clone() else { return };
        let store = Arc::clone(&self.worker.store);
        self.running.spawn(async move {
            Done::Announced(announce(&*store, &entry.destination.organization_id, &told).await)
        });
    }

    fn attempt_failed(&mut self, id: DestinationId, items: Vec<Item>, error: &StoreError) {
        tracing::error!(destination.id = %id, %error, "events could not be read for an attempt");
        let due = self.clock.now() + STORE_RETRY;
        let keys: Vec<EventKey> = items.iter().map(|item| item.key).collect();
        self.end_flight(id, &keys);
        self.slot(id).lane.put_back(items, due);
    }

    // === What to do ===

    /// Lets a lane decide at its next turn.
    fn queue(&mut self, id: DestinationId) {
        let Some(slot) = self.lanes.get(&id) else { return };
        let organization_id = slot.entry.as_ref().map(|entry| entry.destination.organization_id.clone());
        self.agenda.queue(id, organization_id, slot.lane.standing(self.clock.now()));
    }

    fn give_out_room(&mut self) {
        self.room.notice_silence(self.clock.now());
        while !self.is_behind_with_settling() {
            let room = &self.room;
            let Some((id, queued_as)) = self.agenda.next(|standing| room.has(standing)) else { return };
            let Some(slot) = self.lanes.get(&id) else { continue };
            let standing = slot.lane.standing(self.clock.now());
            // Since it was put in line, it may have come to deserve less room than there is.
            if standing == queued_as || self.room.has(standing) {
                self.serve(id, standing);
            } else {
                self.queue(id);
            }
        }
    }

    /// Whether outcomes pile up faster than the store takes them.
    fn is_behind_with_settling(&self) -> bool {
        self.settlements.len() > self.rules.options.max_in_flight * 16
    }

    /// Does what the lane wants, up to one request, and notes when to ask it again.
    fn serve(&mut self, id: DestinationId, standing: Standing) {
        let now = self.clock.now();
        loop {
            let Some(slot) = self.lanes.get_mut(&id) else { return };
            match slot.lane.step(now) {
                Step::Attempt(items) => {
                    self.start_attempt(id, standing, items);
                    self.queue(id);
                    break;
                }
                Step::Discard(items, reason) => {
                    let records = items.iter().map(|item| give_up(id, item, reason, now));
                    self.settlements.extend(records);
                }
                Step::Load(wanted) => self.load(id, wanted),
                Step::WaitUntil(moment) => {
                    self.agenda.wake_at(id, moment);
                    break;
                }
                Step::Idle => {
                    self.agenda.let_sleep(id);
                    break;
                }
            }
        }
        self.note_lane(id, now);
    }

    fn load(&mut self, id: DestinationId, wanted: Wanted) {
        let store = Arc::clone(&self.worker.store);
        self.running.spawn(async move {
            match wanted {
                Wanted::Fresh(after, limit) => Done::Fresh(id, store.load_fresh(id, after, limit).await),
                Wanted::Due(after, limit) => Done::Due(id, store.load_due(id, after, limit).await),
            }
        });
    }

    fn start_attempt(&mut self, id: DestinationId, standing: Standing, items: Vec<Item>) {
        let Some(slot) = self.lanes.get_mut(&id) else { return };
        let Some(entry) = slot.entry.clone() else {
            slot.lane.put_back(items, Timestamp::default());
            return;
        };
        let policy = Arc::clone(slot.lane.policy());
        entry.status.begin_flight(items.iter().map(|item| (item.key, item.attempt_count)));
        let worker = self.worker.clone();
        let place = self.room.take(standing, items.iter().map(Item::bytes_in_flight).sum(), self.clock.now());
        self.running.spawn(async move {
            let result = worker.attempt(&entry.destination, &policy, items).await;
            Done::Attempted { id, place, result }
        });
    }

    /// Shows callers where the lane stands, and drops it when there is nothing to remember.
    fn note_lane(&mut self, id: DestinationId, now: Timestamp) {
        let Some(slot) = self.lanes.get(&id) else { return };
        let is_idle = slot.lane.is_idle(now);
        if let Some(entry) = &slot.entry {
            entry.status.set_lane(if is_idle { LaneStatus::default() } else { slot.lane.status() });
        }
        if is_idle {
            self.lanes.remove(&id);
            self.agenda.let_sleep(id);
        }
    }

    // === Outcomes to the store ===

    /// Hands all outcomes to the store, one group at a time: what ends meanwhile is the next group.
    fn settle(&mut self) {
        if self.settling || (self.settlements.is_empty() && self.health.is_empty()) {
            return;
        }
        self.settling = true;
        let settlements = std::mem::take(&mut self.settlements);
        let health = std::mem::take(&mut self.health).into_iter().collect();
        let mut keys: HashMap<DestinationId, Vec<EventKey>> = HashMap::new();
        for settlement in &settlements {
            keys.entry(settlement.id.destination_id).or_default().push(settlement.id.event_key);
        }
        let store = Arc::clone(&self.worker.store);
        self.running.spawn(async move { Done::Settled(keys, store.settle(settlements, health).await) });
    }

    fn settled(&mut self, keys: &HashMap<DestinationId, Vec<EventKey>>, result: Result<(), StoreError>) {
        self.settling = false;
        if let Err(error) = result {
            // What was delivered will be delivered again after the restart that a failed store brings.
            tracing::error!(%error, "outcomes could not be recorded");
        }
        for (id, keys) in keys {
            self.end_flight(*id, keys);
            if let Some(slot) = self.lanes.get_mut(id) {
                slot.lane.settled(keys);
                self.queue(*id);
            }
        }
    }

    /// Only once outcomes are stored, so that callers never see a delivery wait again in between.
    fn end_flight(&self, id: DestinationId, keys: &[EventKey]) {
        if let Some(entry) = self.rules.store.directory().destination(id) {
            entry.status.end_flight(keys);
        }
    }

    // === The end ===

    fn begin_stop(&mut self) {
        self.rules.stopping = true;
        // What was accepted before the stop may still be there, and best effort is nowhere else.
        self.take_inbox();
        for id in self.lanes.keys().copied().collect::<Vec<_>>() {
            let hold = self.rules.hold_of(self.lanes.get(&id).and_then(|slot| slot.entry.as_deref()));
            self.slot(id).lane.set_hold(hold);
            self.queue(id);
        }
    }

    fn is_flushed(&self) -> bool {
        self.room.is_empty() && !self.lanes.values().any(|slot| slot.lane.must_flush())
    }

    /// Records what was not flushed, and waits until the store has all outcomes.
    async fn finish(mut self) {
        // An attempt that has ended by now counts.
        while let Some(done) = self.running.try_join_next() {
            self.take_done(done);
        }
        while self.settling
            && let Some(done) = self.running.join_next().await
        {
            self.take_done(done);
        }
        self.take_inbox();
        let now = self.clock.now();
        let lanes = std::mem::take(&mut self.lanes);
        for (id, mut slot) in lanes {
            let lost = slot.lane.give_up_memory();
            self.settlements.extend(lost.iter().map(|item| give_up(id, item, EndReason::Stopped, now)));
        }
        let health = std::mem::take(&mut self.health).into_iter().collect();
        let settlements = std::mem::take(&mut self.settlements);
        if let Err(error) = self.worker.store.settle(settlements, health).await {
            tracing::error!(%error, "the last outcomes could not be recorded");
        }
        // Attempts that still run are dropped with the set; they are not counted.
    }
}

#[cfg(test)]
#[path = "shard_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "isolation_tests.rs"]
mod isolation_tests;

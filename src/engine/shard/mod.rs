//! A shard: the lanes of some destinations, and the one loop that serves them.
//!
//! The loop fetches what happened, lets lanes decide, and starts what they want. It never waits for the
//! network, for the store or for a single lane: all of that runs in tasks that it owns and that end
//! before it does. `serving` lets lanes decide, `outcomes` takes what became of attempts, `ending` is the
//! stop.

mod ending;
mod losing;
mod outcomes;
mod serving;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::clock::SharedClock;
use crate::domain::destination::DisabledReason;
use crate::domain::event::Event;
use crate::domain::id::DestinationId;
use crate::domain::settings::Guarantee;
use crate::domain::time::Timestamp;
use crate::engine::agenda::Agenda;
use crate::engine::hosts::HostLines;
use crate::engine::inbox::{Inbox, News};
use crate::engine::item::Item;
use crate::engine::lane::Lane;
use crate::engine::ledger::{Group, Ledger};
use crate::engine::memory::Memory;
use crate::engine::room::Claim;
use crate::engine::room::entrance::{Entrance, Seat};
use crate::engine::rules::{Rules, ShardOptions};
use crate::engine::worker::{Attempted, Worker};
use crate::policy::host_rate::SharedRates;
use crate::store::directory::DestinationEntry;
use crate::store::{DueEntry, Page, Settlement, StoreError};

/// The loop looks at its timers at least this often, so that a clock that was set is noticed.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// So many pages of events are read at once; each is bounded in bytes.
const LOADS_AT_ONCE: usize = 4;

/// How a shard is told to end.
#[derive(Debug, Clone, Default)]
pub struct StopSignals {
    /// Start nothing new, flush what must not wait, finish what runs.
    pub soft: CancellationToken,
    /// Drop what still runs.
    pub hard: CancellationToken,
}

/// A lane and the destination it belongs to; no destination when that was deleted.
struct Slot {
    lane: Lane,
    entry: Option<Arc<DestinationEntry>>,
    /// Another replica has it, and it goes with the last request that is under way.
    lost: bool,
    /// What its events may take of the memory of all lanes.
    memory: Arc<Memory>,
}

/// An attempt that has ended, or could not begin.
struct Made {
    id: DestinationId,
    /// Its place in the room until here.
    seat: Seat,
    result: Result<Attempted, (Vec<Item>, StoreError)>,
}

/// What a task of the shard comes back with.
enum Done {
    Attempted(Box<Made>),
    Fresh(DestinationId, Result<Page<Arc<Event>>, StoreError>, OwnedSemaphorePermit),
    Due(DestinationId, Result<Page<DueEntry>, StoreError>),
    Settled(Group, Result<(), StoreError>),
    Ended(Vec<Settlement>),
    Disabled(DestinationId, DisabledReason, Result<bool, StoreError>),
}

/// What a shard has in common with others.
pub struct Shared {
    /// What it is told from outside.
    pub inbox: Arc<Inbox>,
    /// The memory for events that wait.
    pub memory: Arc<Memory>,
    /// The room for requests.
    pub room: Entrance,
    /// By which lanes are held back; `None` is not at all.
    pub rates: Option<SharedRates>,
}

/// The lanes of some destinations.
pub struct Shard {
    worker: Worker,
    clock: SharedClock,
    inbox: Arc<Inbox>,
    rules: Rules,
    lanes: HashMap<DestinationId, Slot>,
    memory: Arc<Memory>,
    loads: Arc<Semaphore>,
    agenda: Agenda,
    running: JoinSet<Done>,
    room: Entrance,
    hosts: HostLines,
    ledger: Ledger,
}

impl Shard {
    /// A shard without lanes.
    #[must_use]
    pub fn new(worker: Worker, clock: SharedClock, shared: Shared, options: ShardOptions) -> Self {
        let rules = Rules { store: Arc::clone(&worker.store), options, stopping: false };
        Self {
            worker,
            clock,
            inbox: shared.inbox,
            rules,
            lanes: HashMap::new(),
            memory: shared.memory,
            loads: Arc::new(Semaphore::new(LOADS_AT_ONCE)),
            agenda: Agenda::default(),
            running: JoinSet::new(),
            room: shared.room,
            hosts: HostLines::new(shared.rates),
            ledger: Ledger::default(),
        }
    }

    /// Makes lanes for destinations for which the store has waiting deliveries.
    pub fn open_backlog(&mut self, destination_ids: impl IntoIterator<Item = DestinationId>) {
        for id in destination_ids {
            let (lane, entry) = self.rules.open_lane(id, true);
            let memory = self.memory.part(self.rules.options.window_bytes);
            self.lanes.insert(id, Slot { lane, entry, memory, lost: false });
            self.queue(id);
        }
    }

    /// Serves the lanes until it is told to stop, and records what could not be flushed.
    pub async fn run(mut self, stop: StopSignals) {
        loop {
            self.use_room();
            self.settle();
            if self.rules.stopping && self.is_flushed() {
                break;
            }
            let pause = self.until_next_timer();
            tokio::select! {
                () = stop.hard.cancelled() => break,
                () = stop.soft.cancelled(), if !self.rules.stopping => self.begin_stop(),
                () = self.inbox.arrival() => self.take_inbox(),
                () = self.room.bell() => {}
                Some(done) = self.running.join_next(), if !self.running.is_empty() => self.take_done(done),
                () = tokio::time::sleep(pause) => {}
            }
            let now = self.clock.now();
            for id in self.agenda.take_due(now).into_iter().chain(self.hosts.take_due(now)) {
                self.queue(id);
            }
        }
        self.finish().await;
    }

    fn until_next_timer(&self) -> Duration {
        let now = self.clock.now();
        // Rounded up by a millisecond: a timer that fires early would only be set again.
        let pause = |moment: Timestamp| moment.since(now) + Duration::from_millis(1);
        let waits = self.agenda.is_anybody_waiting();
        let room = waits.then(|| self.room.next_change(now)).flatten();
        let outcomes = self.ledger.again_at();
        let next =
            self.agenda.first_wake().into_iter().chain(self.hosts.first_wake()).chain(room).chain(outcomes);
        let next = next.min();
        next.map_or(LONGEST_SLEEP, pause).min(LONGEST_SLEEP)
    }

    // === What happened ===

    fn take_inbox(&mut self) {
        let (news, missed) = self.inbox.take();
        for item in news {
            self.take_news(item);
        }
        for (id, key) in missed {
            if self.rules.store.owns(id) {
                self.slot(id).lane.missed(key);
                self.queue(id);
            }
        }
    }

    fn take_news(&mut self, news: News) {
        let id = match &news {
            News::Accepted(id, ..) | News::DestinationChanged(id) | News::LaneGained(id) => *id,
            News::Requeued(entry) => entry.id.destination_id,
            News::Ended(delivery) => delivery.destination_id,
            News::LanesLost(lost) => return self.lose_lanes(lost),
        };
        // Another replica hears of it, too, and does what is to be done.
        if !self.rules.store.owns(id) {
            return;
        }
        match news {
            News::Accepted(_, item) => {
                let slot = self.slot(id);
                slot.lane.accepted(item.moved_into(&slot.memory));
            }
            News::Requeued(entry) => self.slot(id).lane.requeued(entry),
            News::Ended(delivery) => self.slot(id).lane.ended(delivery.event_key),
            News::DestinationChanged(_) => self.reconfigure(id),
            News::LaneGained(_) => self.open_backlog([id]),
            News::LanesLost(_) => {}
        }
        self.queue(id);
    }

    /// The lane of a destination, made where there is none.
    fn slot(&mut self, id: DestinationId) -> &mut Slot {
        match self.lanes.entry(id) {
            Entry::Occupied(slot) => slot.into_mut(),
            Entry::Vacant(place) => {
                let (lane, entry) = self.rules.open_lane(id, false);
                let memory = self.memory.part(self.rules.options.window_bytes);
                place.insert(Slot { lane, entry, memory, lost: false })
            }
        }
    }

    fn reconfigure(&mut self, id: DestinationId) {
        let Some(slot) = self.lanes.get_mut(&id) else { return };
        let (entry, policy, hold) = self.rules.look_up(id);
        // What is under way to a destination that was deleted is judged as it was until then.
        let policy = if entry.is_some() { policy } else { Arc::clone(slot.lane.policy()) };
        slot.lane.resize(self.rules.options.window_of(&policy));
        slot.lane.configure(policy, hold, self.clock.now());
        slot.entry = entry;
    }

    fn take_done(&mut self, done: Result<Done, JoinError>) {
        // A task that panicked is a fault of ours; it must not be mistaken for an idle lane.
        let done = match done {
            Ok(done) => done,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        match done {
            Done::Attempted(made) => {
                let Made { id, seat, result } = *made;
                drop(seat);
                match result {
                    Ok(attempted) => self.attempted(id, attempted),
                    Err((items, error)) => self.attempt_failed(id, items, &error),
                }
                self.queue(id);
            }
            Done::Fresh(id, page, _permit) => {
                let memory = Arc::clone(&self.slot(id).memory);
                let item = |event: Arc<Event>| Item::fresh(&event, Guarantee::AtLeastOnce, &memory);
                let page = page
                    .map(|page| Page { rows: page.rows.into_iter().map(item).collect(), more: page.more });
                self.loaded(id, page, Lane::loaded_fresh, Lane::load_fresh_failed);
            }
            Done::Due(id, page) => self.loaded(id, page, Lane::loaded_due, Lane::load_due_failed),
            Done::Settled(group, result) => self.settled(group, result),
            Done::Ended(settlements) => self.ledger.add(settlements),
            Done::Disabled(id, reason, result) => Self::disabled(id, reason, result),
        }
    }

    /// Lets a lane decide at its next turn.
    fn queue(&mut self, id: DestinationId) {
        if self.lanes.contains_key(&id) {
            self.agenda.queue(id);
        }
    }

    /// What a lane needs for its next turn.
    fn claim_of(&self, id: DestinationId, now: Timestamp) -> Option<Claim> {
        let slot = self.lanes.get(&id)?;
        let organization_id = slot.entry.as_ref().map(|entry| entry.destination.organization_id.clone());
        let (standing, bytes) = (slot.lane.standing(now), slot.lane.next_bytes());
        Some(Claim { thread: self.room.thread(), id, organization_id, standing, bytes })
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod isolation_tests;

#[cfg(test)]
mod ending_tests;

#[cfg(test)]
mod keeping_tests;

#[cfg(test)]
mod memory_tests;

#[cfg(test)]
mod room_tests;

#[cfg(test)]
mod stop_tests;

#[cfg(test)]
mod telling_tests;

#[cfg(test)]
mod clock_tests;

#[cfg(test)]
mod storm;

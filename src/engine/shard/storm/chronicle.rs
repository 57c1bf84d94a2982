//! The chronicle: all that happened in a storm, as everybody saw it who took part.
//!
//! It hears of commits as the engine does, of requests from the receivers, and of settlements from the store. What
//! is written down has a number besides its time, because much happens in the same moment.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::clock::SharedClock;
use crate::contract::effective_policy;
use crate::domain::attempt::Outcome;
use crate::domain::destination::{Destination, DestinationHealth};
use crate::domain::event::Event;
use crate::domain::id::{DeliveryId, DestinationId, EventKey, ReplayId};
use crate::domain::settings::{EffectivePolicy, Guarantee};
use crate::domain::time::Timestamp;
use crate::store::{CommitListener, DueEntry, Settlement, Store};

/// When something happened: the time, and its place among what happened at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment {
    pub(super) at: Timestamp,
    number: u64,
}

/// A request as its receiver saw it.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) destination_id: DestinationId,
    pub(super) events: Vec<EventKey>,
    pub(super) bytes: usize,
    pub(super) began: Moment,
    /// When and how it ended; `None` while it is under way, or when it was dropped.
    pub(super) ended: Option<(Moment, Outcome)>,
}

impl Request {
    pub(super) fn is_success(&self) -> bool {
        self.ended.as_ref().is_some_and(|(_, outcome)| outcome.is_success())
    }
}

/// A settlement that the store has, and whether it took the state.
#[derive(Debug, Clone)]
pub(super) struct Settled {
    pub(super) at: Moment,
    pub(super) settlement: Settlement,
    pub(super) taken: bool,
}

/// What callers and the store did with a delivery.
#[derive(Debug, Clone)]
pub(super) struct Fate {
    pub(super) begun: Moment,
    pub(super) guarantee: Guarantee,
    /// Whether it tells of what became of another one.
    pub(super) is_operational: bool,
    /// When it was put back by a resend or a replay.
    pub(super) wishes: Vec<Moment>,
    /// When it was ended without the lane's doing.
    pub(super) ended: Vec<Moment>,
}

/// A destination from a moment on.
#[derive(Debug, Clone)]
pub(super) struct Version {
    pub(super) from: Timestamp,
    pub(super) policy: EffectivePolicy,
    /// Whether it is sent to; a deleted one is not.
    pub(super) is_active: bool,
    pub(super) is_deleted: bool,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// In its own time.
    Stopped,
    /// At once, but with all on record that it knew.
    Hurried,
    /// Like a power cut.
    Killed,
}

/// A process that ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Halt {
    pub(super) ending: Ending,
    pub(super) from: Timestamp,
    pub(super) until: Timestamp,
}

/// All of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Record {
    last: u64,
    pub(super) requests: Vec<Request>,
    pub(super) settled: Vec<Settled>,
    pub(super) fates: BTreeMap<DeliveryId, Fate>,
    pub(super) versions: BTreeMap<DestinationId, Vec<Version>>,
    pub(super) halts: Vec<Halt>,
    pub(super) events: HashMap<String, Arc<Event>>,
    pub(super) replays: Vec<ReplayId>,
    /// Events whose data was erased.
    pub(super) erased: HashSet<EventKey>,
    /// What a process finds of the health of destinations when it starts.
    pub(super) health: HashMap<DestinationId, DestinationHealth>,
}

impl Record {
    /// What was in force at some time from `from` until `until`, both included.
    pub(super) fn in_force(&self, id: DestinationId, from: Timestamp, until: Timestamp) -> Vec<&Version> {
        let versions = self.versions.get(&id).map(Vec::as_slice).unwrap_or_default();
        let ends =
            versions.iter().skip(1).map(|version| version.from).chain([Timestamp::from_millis(i64::MAX)]);
        let overlaps = |(version, end): &(&Version, Timestamp)| version.from <= until && *end >= from;
        versions.iter().zip(ends).filter(overlaps).map(|(version, _)| version).collect()
    }

    /// Whether a process ended so from `from` until `until`.
    pub(super) fn halted(&self, endings: &[Ending], from: Timestamp, until: Timestamp) -> bool {
        let fits = |halt: &Halt| endings.contains(&halt.ending) && halt.from <= until && halt.until >= from;
        self.halts.iter().any(fits)
    }
}

/// Where everybody writes.
pub(super) struct Chronicle {
    clock: SharedClock,
    record: Mutex<Record>,
}

impl Chronicle {
    pub(super) fn new(clock: SharedClock) -> Self {
        Self { clock, record: Mutex::default() }
    }

    pub(super) fn read(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> (MutexGuard<'_, Record>, Moment) {
        let mut record = self.read();
        record.last += 1;
        let moment = Moment { at: self.clock.now(), number: record.last };
        (record, moment)
    }

    /// A request with these events has arrived; answers its number.
    pub(super) fn began(&self, destination_id: DestinationId, ids: &[String], bytes: usize) -> usize {
        let (mut record, began) = self.write();
        let events = ids.iter().map(|id| record.events[id].key).collect();
        record.requests.push(Request { destination_id, events, bytes, began, ended: None });
        record.requests.len() - 1
    }

    pub(super) fn ended(&self, number: usize, outcome: Outcome) {
        let (mut record, at) = self.write();
        record.requests[number].ended = Some((at, outcome));
    }

    pub(super) fn settled(&self, settlement: Settlement, taken: bool) {
        let (mut record, at) = self.write();
        record.settled.push(Settled { at, settlement, taken });
    }

    pub(super) fn halted(&self, ending: Ending, from: Timestamp) {
        let (mut record, moment) = self.write();
        record.halts.push(Halt { ending, from, until: moment.at });
    }
}

/// Writes down what a store tells, and tells the engine of the present process.
pub(super) struct Scribe {
    pub(super) chronicle: Arc<Chronicle>,
    pub(super) store: Arc<dyn Store>,
    pub(super) engine: Mutex<Arc<dyn CommitListener>>,
}

impl Scribe {
    fn engine(&self) -> Arc<dyn CommitListener> {
        Arc::clone(&self.engine.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn note_accepted(&self, event: &Arc<Event>) {
        let (mut record, begun) = self.chronicle.write();
        record.events.insert(event.id.as_str().to_owned(), Arc::clone(event));
        let is_operational = crate::domain::operational::is_operational(&event.event_type);
        for route in &event.routes {
            let id = DeliveryId::new(event.key, route.destination_id);
            let (wishes, ended) = (Vec::new(), Vec::new());
            let fate = Fate { begun, guarantee: route.guarantee, is_operational, wishes, ended };
            record.fates.insert(id, fate);
        }
    }

    fn note_changed(&self, id: DestinationId) {
        let entry = self.store.directory().destination(id);
        let (mut record, moment) = self.chronicle.write();
        let version = |destination: &Destination| Version {
            from: moment.at,
            policy: effective_policy(destination),
            is_active: destination.state.is_active(),
            is_deleted: false,
        };
        let versions = record.versions.entry(id).or_default();
        let new = match (entry, versions.last()) {
            (Some(entry), _) => version(&entry.destination),
            (None, Some(last)) => {
                Version { from: moment.at, is_active: false, is_deleted: true, ..last.clone() }
            }
            (None, None) => return,
        };
        versions.push(new);
    }
}

impl CommitListener for Scribe {
    fn accepted(&self, events: &[Arc<Event>]) {
        events.iter().for_each(|event| self.note_accepted(event));
        self.engine().accepted(events);
    }

    fn requeued(&self, entries: &[DueEntry]) {
        for entry in entries {
            let (mut record, moment) = self.chronicle.write();
            let (guarantee, is_operational) = (Guarantee::AtLeastOnce, false);
            // A replay of what was missed makes deliveries that were not there before.
            let new =
                Fate { begun: moment, guarantee, is_operational, wishes: Vec::new(), ended: Vec::new() };
            record.fates.entry(entry.id).or_insert(new).wishes.push(moment);
        }
        self.engine().requeued(entries);
    }

    fn ended(&self, ids: &[DeliveryId]) {
        for id in ids {
            let (mut record, moment) = self.chronicle.write();
            if let Some(fate) = record.fates.get_mut(id) {
                fate.ended.push(moment);
            }
        }
        self.engine().ended(ids);
    }

    fn destination_changed(&self, id: DestinationId) {
        self.note_changed(id);
        self.engine().destination_changed(id);
    }

    fn replay_changed(&self, id: ReplayId) {
        let (mut record, _) = self.chronicle.write();
        if !record.replays.contains(&id) {
            record.replays.push(id);
        }
        drop(record);
        self.engine().replay_changed(id);
    }
}

//! A group commit while it is built: what calls have written so far, over what the tree holds.
//!
//! Each call writes into `pending` first. When it succeeds, its writes, effects and answer join the
//! group; when it fails, they are dropped and only the error is answered. So a call is there as a whole
//! or not at all, and later calls of the group see the earlier ones.

use std::collections::HashMap;
use std::sync::Arc;

use sled::{IVec, Tree};

use super::backup::Writes as Batched;
use super::{Shared, audit, keys, size, unavailable};
use crate::domain::audit::AuditEntry;
use crate::domain::delivery::Delivery;
use crate::domain::destination::Destination;
use crate::domain::event::Event;
use crate::domain::id::{DeliveryId, DestinationId, EventKey, OrganizationId, ReplayId};
use crate::domain::organization::Organization;
use crate::store::retention::RemovedEarly;
use crate::store::{DueEntry, StoreError};

type Writes = HashMap<Vec<u8>, Option<IVec>>;

/// What becomes visible after the commit: in the directory and to the listener.
pub(super) enum Effect {
    Accepted(Vec<Arc<Event>>),
    /// For those who watch; as the feed holds it.
    Changed(Box<Delivery>),
    Requeued(Vec<DueEntry>),
    Ended(Vec<DeliveryId>),
    DestinationPut(Arc<Destination>),
    DestinationRemoved(DestinationId),
    OrganizationPut(Arc<Organization>),
    ReplayChanged(ReplayId),
    ErasureBegun(OrganizationId),
    ErasureEnded(OrganizationId),
    RemovedEarly(RemovedEarly),
}

/// How many deliveries more are in the orders of those that wait, and among the dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Tally {
    pub(super) waiting: i64,
    pub(super) dead_letters: i64,
}

impl Tally {
    /// The stored form: both as big-endian numbers.
    pub(super) fn encode(self) -> Vec<u8> {
        [self.waiting.to_be_bytes(), self.dead_letters.to_be_bytes()].concat()
    }

    /// Both together.
    pub(super) fn merge(&mut self, other: Tally) {
        self.waiting += other.waiting;
        self.dead_letters += other.dead_letters;
    }

    /// Out of the stored form.
    pub(super) fn decode(stored: &[u8]) -> Option<Self> {
        let (parts, _) = stored.as_chunks::<8>();
        let mut numbers = parts.iter().map(|part| i64::from_be_bytes(*part));
        Some(Self { waiting: numbers.next()?, dead_letters: numbers.next()? })
    }

    /// A key was written (1) or removed (-1).
    pub(super) fn add(&mut self, key: &[u8], by: i64) {
        match key.first() {
            Some(&(keys::FRESH | keys::DUE)) => self.waiting += by,
            Some(&keys::DEAD) => self.dead_letters += by,
            _ => {}
        }
    }
}

/// Answers a call; it runs after the commit.
type Answer = Box<dyn FnOnce() + Send>;

/// A group commit while it is built.
pub(super) struct Group {
    tree: Tree,
    shared: Arc<Shared>,
    /// The last event before the group.
    newest: EventKey,
    /// Which opening of the store it belongs to.
    pub(super) opening: u64,
    joined: Writes,
    pending: Writes,
    /// What the audit log is to say of the call.
    trail: Option<AuditEntry>,
    /// Whether the call has changed anything.
    changed: bool,
    pending_effects: Vec<Effect>,
    effects: Vec<Effect>,
    answers: Vec<Answer>,
    durable: bool,
    events: usize,
    bytes: usize,
    pending_tally: Tally,
    tally: Tally,
}

/// A group that is to be committed.
pub(super) struct Finished {
    pub(super) writes: Option<Batched>,
    /// By how many bytes it changes what is stored.
    pub(super) grows_by: i64,
    /// Whether it must be durable before anybody hears of it.
    pub(super) durable: bool,
    /// How many events it accepts.
    pub(super) events: usize,
    /// Young deliveries that wait from now on.
    pub(super) born: Vec<DeliveryId>,
    /// Young deliveries that are fresh no more.
    pub(super) gone: Vec<DeliveryId>,
    pub(super) tally: Tally,
    pub(super) effects: Vec<Effect>,
    pub(super) answers: Vec<Answer>,
}

impl Group {
    pub(super) fn new(tree: Tree, shared: Arc<Shared>, newest: EventKey, opening: u64) -> Self {
        Self {
            tree,
            shared,
            newest,
            opening,
            joined: Writes::new(),
            pending: Writes::new(),
            trail: None,
            changed: false,
            pending_effects: Vec::new(),
            effects: Vec::new(),
            answers: Vec::new(),
            durable: false,
            events: 0,
            bytes: 0,
            pending_tally: Tally::default(),
            tally: Tally::default(),
        }
    }

    /// The value as this call sees it.
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<IVec>, StoreError> {
        match self.pending.get(key).or_else(|| self.joined.get(key)) {
            Some(written) => Ok(written.clone()),
            None if Self::young_of(key).is_some_and(|id| self.shared.young.contains(id)) => {
                Ok(Some(IVec::default()))
            }
            None => self.tree.get(key).map_err(|error| unavailable(&error)),
        }
    }

    /// The delivery of a key in the order of fresh ones.
    fn young_of(key: &[u8]) -> Option<DeliveryId> {
        key.first().filter(|table| **table == keys::FRESH).and_then(|_| keys::delivery_of(key))
    }

    /// Whether there is a value.
    pub(super) fn contains(&self, key: &[u8]) -> Result<bool, StoreError> {
        Ok(self.get(key)?.is_some())
    }

    pub(super) fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.bytes = self.bytes.saturating_add(key.len() + value.len());
        self.pending_tally.add(&key, 1);
        self.pending.insert(key, Some(value.into()));
    }

    /// For keys of orders that are mostly there already, and are not to be counted twice.
    pub(super) fn rewrite(&mut self, key: Vec<u8>, value: Vec<u8>) -> Result<(), StoreError> {
        if self.contains(&key)? {
            self.pending_tally.add(&key, -1);
        }
        self.put(key, value);
        Ok(())
    }

    pub(super) fn remove(&mut self, key: Vec<u8>) {
        self.pending_tally.add(&key, -1);
        self.pending.insert(key, None);
    }

    /// For keys that are mostly not there: looking is cheaper than deleting.
    pub(super) fn remove_if_present(&mut self, key: Vec<u8>) -> Result<(), StoreError> {
        if self.contains(&key)? {
            self.remove(key);
        }
        Ok(())
    }

    /// Something to do after the commit.
    pub(super) fn effect(&mut self, effect: Effect) {
        self.pending_effects.push(effect);
    }

    /// Begins a call: what the audit log is to say of it, if it changes anything.
    pub(super) fn begin(&mut self, trail: Option<AuditEntry>) {
        self.trail = trail;
        self.changed = false;
    }

    /// Whether the call has changed anything, now that it is taken into the group.
    pub(super) fn has_changed(&self) -> bool {
        self.changed
    }

    /// Of how many things the call's change is.
    pub(super) fn counts(&mut self, things: usize) {
        if let Some(entry) = &mut self.trail {
            entry.count = u64::try_from(things).unwrap_or(u64::MAX);
        }
    }

    /// Takes the call's writes into the group, and its entry of the audit log with them.
    pub(super) fn keep(&mut self, durable: bool) -> Result<(), StoreError> {
        if let Some(entry) = self.trail.take().filter(|_| !self.pending.is_empty()) {
            audit::write(self, &entry)?;
        }
        self.changed = !self.pending.is_empty();
        self.durable |= durable && self.changed;
        self.joined.extend(self.pending.drain());
        self.tally.merge(std::mem::take(&mut self.pending_tally));
        for effect in self.pending_effects.drain(..) {
            match (self.effects.last_mut(), effect) {
                (Some(Effect::Accepted(before)), Effect::Accepted(events)) => {
                    self.events += events.len();
                    before.extend(events);
                }
                (_, effect) => {
                    if let Effect::Accepted(events) = &effect {
                        self.events += events.len();
                    }
                    self.effects.push(effect);
                }
            }
        }
        Ok(())
    }

    /// Forgets the call's writes.
    pub(super) fn discard(&mut self) {
        self.pending.clear();
        self.pending_tally = Tally::default();
        self.pending_effects.clear();
        self.trail = None;
    }

    /// Answers after the commit.
    pub(super) fn answer(&mut self, answer: impl FnOnce() + Send + 'static) {
        self.answers.push(Box::new(answer));
    }

    /// How large the group is: events, bytes, keys.
    pub(super) fn size(&self) -> (usize, usize, usize) {
        (self.events, self.bytes, self.joined.len())
    }

    /// No more calls join.
    pub(super) fn finish(self) -> Result<Finished, StoreError> {
        let mut batch = (!self.joined.is_empty()).then(Batched::default);
        let mut grows_by = 0_i64;
        let (mut born, mut gone) = (Vec::new(), Vec::new());
        for (key, value) in self.joined {
            if let Some(id) = Self::young_of(&key) {
                match value {
                    Some(_) => born.push(id),
                    None if self.shared.young.contains(id) => gone.push(id),
                    None => batch.iter_mut().for_each(|batch| batch.remove(key.as_slice())),
                }
                continue;
            }
            let before = || self.tree.get(&key).map_err(|error| unavailable(&error));
            let change = size::change((&key, value.as_ref()), self.newest, before)?;
            grows_by = grows_by.saturating_add(change);
            let Some(batch) = &mut batch else { continue };
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        let Self { durable, events, tally, effects, answers, .. } = self;
        Ok(Finished { writes: batch, grows_by, durable, events, born, gone, tally, effects, answers })
    }
}

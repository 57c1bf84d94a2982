//! The store in memory: ordered maps under one lock. For tests, and for trying things out; a restart
//! forgets everything.
//!
//! It shares no storage code with the embedded store, so that the conformance suite compares two
//! implementations that can't have the same mistake.

mod retention;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use async_trait::async_trait;

use super::changes::{ChangeFeed, slim};
use super::directory::Directory;
use super::lifecycle;
use super::record::{EventHead, content_digest};
use super::retention::{Footprint, RemovedEarly};
use super::{
    Backlog, CommitListener, DeliveryPage, DeliveryQuery, DeliveryStore, DestinationStore, DueEntry,
    EventStore, OrganizationStore, Page, Settlement, Stage, Store, StoreError,
};
use crate::clock::SharedClock;
use crate::domain::delivery::{CycleCause, Delivery, DeliveryState, StateKind};
use crate::domain::destination::{Destination, DestinationHealth};
use crate::domain::event::{Acceptance, Event, NewEvent};
use crate::domain::id::{DeliveryId, DestinationId, EventId, EventKey, OrganizationId, ReplayId};
use crate::domain::organization::Organization;
use crate::domain::replay::Replay;
use crate::domain::settings::Guarantee;
use crate::domain::time::Timestamp;

type Digest = [u8; 16];

/// A store that keeps everything in memory.
pub struct MemoryStore {
    clock: SharedClock,
    directory: Arc<Directory>,
    changes: Arc<ChangeFeed>,
    listener: OnceLock<Arc<dyn CommitListener>>,
    tables: Mutex<Tables>,
}

pub(super) struct Tables {
    erasing: BTreeSet<OrganizationId>,
    changes: Arc<ChangeFeed>,
    last_key: EventKey,
    pub(super) events: BTreeMap<EventKey, Arc<Event>>,
    by_id: HashMap<(OrganizationId, EventId), (EventKey, Digest)>,
    /// Fresh at-least-once deliveries; these have no entry in `deliveries`.
    fresh: BTreeMap<(DestinationId, EventKey), ()>,
    due: BTreeMap<(DestinationId, Timestamp, EventKey), DueEntry>,
    deliveries: BTreeMap<(DestinationId, EventKey), Delivery>,
    pub(super) replays: BTreeMap<ReplayId, Replay>,
    removed_early: Option<RemovedEarly>,
}

impl MemoryStore {
    /// An empty store that gives times by this clock.
    #[must_use]
    pub fn new(clock: SharedClock) -> Self {
        let changes = Arc::new(ChangeFeed::default());
        let tables = Tables {
            erasing: BTreeSet::new(),
            changes: Arc::clone(&changes),
            last_key: EventKey::MIN,
            events: BTreeMap::new(),
            by_id: HashMap::new(),
            fresh: BTreeMap::new(),
            due: BTreeMap::new(),
            deliveries: BTreeMap::new(),
            replays: BTreeMap::new(),
            removed_early: None,
        };
        Self {
            clock,
            directory: Arc::new(Directory::new()),
            changes: Arc::clone(&changes),
            listener: OnceLock::new(),
            tables: Mutex::new(tables),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Called under the lock of the tables, so that listeners see commits in order.
    pub(super) fn tell(&self, what: impl FnOnce(&dyn CommitListener)) {
        if let Some(listener) = self.listener.get() {
            what(listener.as_ref());
        }
    }
}

impl Tables {
    fn accept(&mut self, event: NewEvent, now: Timestamp) -> Acceptance {
        let digest = content_digest(&event);
        if let Some(id) = &event.event_id
            && let Some(known) = self.known(&event, id, digest)
        {
            return known;
        }
        let key = self.last_key.next(now, fastrand::u64(..));
        self.last_key = key;
        let named = event.event_id.is_some();
        let event = Arc::new(event.into_event(key));
        if named {
            self.by_id.insert((event.organization_id.clone(), event.id.clone()), (key, digest));
        }
        for route in event.routes.iter().filter(|route| route.guarantee == Guarantee::AtLeastOnce) {
            self.fresh.insert((route.destination_id, key), ());
        }
        self.changes.publish(lifecycle::begun(&event));
        self.events.insert(key, Arc::clone(&event));
        Acceptance::Accepted(event)
    }

    fn known(&self, event: &NewEvent, id: &EventId, digest: Digest) -> Option<Acceptance> {
        if let Some((key, first)) = self.by_id.get(&(event.organization_id.clone(), id.clone())) {
            let first_event = self.events.get(key)?;
            let same = *first == digest;
            return Some(if same {
                Acceptance::Duplicate(Arc::clone(first_event))
            } else {
                Acceptance::Conflict
            });
        }
        let first = self.events.get(&id.as_key()?)?;
        let named = first.organization_id == event.organization_id && first.id == *id;
        named.then(|| compare(first, event))
    }

    pub(super) fn head(&self, key: EventKey) -> Option<EventHead> {
        self.events.get(&key).map(|event| EventHead::from(event.as_ref()))
    }

    pub(super) fn delivery(&self, id: DeliveryId) -> Option<Delivery> {
        let key = (id.destination_id, id.event_key);
        if let Some(delivery) = self.deliveries.get(&key) {
            return Some(delivery.clone());
        }
        self.fresh.get(&key)?;
        Some(lifecycle::fresh(&self.head(id.event_key)?, id.destination_id, Guarantee::AtLeastOnce))
    }

    fn settle(&mut self, settlement: Settlement) {
        let (id, stage) = (settlement.id, settlement.stage);
        let fresh = || {
            let head = self.head(id.event_key)?;
            Some(lifecycle::fresh(&head, id.destination_id, settlement.guarantee))
        };
        let Some(mut delivery) = self.delivery(id).or_else(fresh) else { return };
        let old = delivery.state.clone();
        if lifecycle::settle(&mut delivery, settlement) {
            self.count_for_replay(&mut delivery);
            self.place(&old, &delivery, stage != Stage::InMemory);
        }
        self.deliveries.insert((id.destination_id, id.event_key), delivery);
    }

    /// Moves the delivery between the orders of waiting ones.
    fn place(&mut self, old: &DeliveryState, new: &Delivery, durable: bool) {
        let DeliveryId { destination_id, event_key } = new.id;
        self.changes.publish([slim(new)]);
        self.fresh.remove(&(destination_id, event_key));
        if let DeliveryState::Waiting { due } = old {
            self.due.remove(&(destination_id, *due, event_key));
        }
        if let (DeliveryState::Waiting { due }, true) = (&new.state, durable) {
            self.due.insert((destination_id, *due, event_key), lifecycle::due_entry(new, *due));
        }
    }

    fn requeue(&mut self, id: DeliveryId, cause: CycleCause, now: Timestamp) -> Option<DueEntry> {
        let delivery = self.delivery(id)?;
        self.events.get(&id.event_key).filter(|event| event.erased_at.is_none())?;
        Some(self.begin(delivery, cause, now))
    }

    /// Begins a new cycle of attempts, due now.
    pub(super) fn begin(&mut self, mut delivery: Delivery, cause: CycleCause, now: Timestamp) -> DueEntry {
        let (id, old) = (delivery.id, delivery.state.clone());
        let entry = lifecycle::requeue(&mut delivery, cause, now);
        self.place(&old, &delivery, true);
        self.deliveries.insert((id.destination_id, id.event_key), delivery);
        entry
    }

    fn end(&mut self, id: DeliveryId, from: StateKind, into: &DeliveryState) -> Option<DeliveryId> {
        let mut delivery = self.delivery(id).filter(|delivery| delivery.state.kind() == from)?;
        let old = std::mem::replace(&mut delivery.state, into.clone());
        self.count_for_replay(&mut delivery);
        self.place(&old, &delivery, true);
        self.deliveries.insert((id.destination_id, id.event_key), delivery);
        Some(id)
    }
}

/// Compares with an event whose id was made from its key, for which no digest is kept.
fn compare(first: &Arc<Event>, again: &NewEvent) -> Acceptance {
    let same = first.event_type == again.event_type
        && first.level == again.level
        && first.data == again.data
        && first.occurred_at == again.occurred_at.unwrap_or(first.accepted_at);
    if same { Acceptance::Duplicate(Arc::clone(first)) } else { Acceptance::Conflict }
}

fn page<T>(mut rows: Vec<T>, limit: usize) -> Page<T> {
    let more = rows.len() > limit;
    rows.truncate(limit);
    Page { rows, more }
}

impl Store for MemoryStore {
    fn directory(&self) -> &Arc<Directory> {
        &self.directory
    }

    fn footprint(&self) -> Footprint {
        let tables = self.lock();
        Footprint { bytes: tables.stored_bytes(), removed_early: tables.removed_early }
    }

    fn changes(&self) -> &Arc<ChangeFeed> {
        &self.changes
    }

    fn listen(&self, listener: Arc<dyn CommitListener>) {
        drop(self.listener.set(listener));
    }
}

#[async_trait]
impl EventStore for MemoryStore {
    async fn accept(&self, events: Vec<NewEvent>) -> Result<Vec<Acceptance>, StoreError> {
        let mut tables = self.lock();
        if events.iter().any(|event| tables.erasing.contains(&event.organization_id)) {
            return Err(StoreError::Erasing);
        }
        let now = self.clock.now();
        let answers: Vec<_> = events.into_iter().map(|event| tables.accept(event, now)).collect();
        let new = answers.iter().filter_map(|answer| match answer {
            Acceptance::Accepted(event) => Some(Arc::clone(event)),
            Acceptance::Duplicate(_) | Acceptance::Conflict => None,
        });
        let new: Vec<_> = new.collect();
        if !new.is_empty() {
            self.tell(|listener| listener.accepted(&new));
        }
        Ok(answers)
    }

    async fn load_events(&self, keys: Vec<EventKey>) -> Result<Vec<Option<Arc<Event>>>, StoreError> {
        let tables = self.lock();
        Ok(keys.iter().map(|key| tables.events.get(key).cloned()).collect())
    }

    async fn find_event(
        &self,
        organization_id: &OrganizationId,
        event_id: &EventId,
    ) -> Result<Option<Arc<Event>>, StoreError> {
        let tables = self.lock();
        let given = tables.by_id.get(&(organization_id.clone(), event_id.clone())).map(|(key, _)| *key);
        let found = given.or_else(|| event_id.as_key()).and_then(|key| tables.events.get(&key));
        Ok(found.filter(|event| event.organization_id == *organization_id && event.id == *event_id).cloned())
    }
}

#[async_trait]
impl DeliveryStore for MemoryStore {
    async fn load_fresh(
        &self,
        destination_id: DestinationId,
        after: Option<EventKey>,
        limit: usize,
    ) -> Result<Page<Arc<Event>>, StoreError> {
        let tables = self.lock();
        let start =
            after.map_or(Included((destination_id, EventKey::MIN)), |key| Excluded((destination_id, key)));
        let keys = tables.fresh.range((start, Included((destination_id, EventKey::MAX))));
        let events = keys.filter_map(|((_, key), ())| tables.events.get(key).cloned());
        Ok(page(events.take(limit.saturating_add(1)).collect(), limit))
    }

    async fn load_due(
        &self,
        destination_id: DestinationId,
        after: Option<(Timestamp, EventKey)>,
        limit: usize,
    ) -> Result<Page<DueEntry>, StoreError> {
        let tables = self.lock();
        let first = (destination_id, Timestamp::from_millis(i64::MIN), EventKey::MIN);
        let last = (destination_id, Timestamp::from_millis(i64::MAX), EventKey::MAX);
        let start = after.map_or(Included(first), |(due, key)| Excluded((destination_id, due, key)));
        let entries = tables.due.range((start, Included(last))).map(|(_, entry)| *entry);
        Ok(page(entries.take(limit.saturating_add(1)).collect(), limit))
    }

    async fn settle(
        &self,
        settlements: Vec<Settlement>,
        _health: Vec<(DestinationId, DestinationHealth)>,
    ) -> Result<(), StoreError> {
        let mut tables = self.lock();
        for settlement in settlements {
            tables.settle(settlement);
        }
        // Health is only ever read back at open, which this store does not have.
        Ok(())
    }

    async fn delivery(&self, id: DeliveryId) -> Result<Option<Delivery>, StoreError> {
        Ok(self.lock().delivery(id))
    }

    async fn deliveries(&self, query: DeliveryQuery) -> Result<DeliveryPage, StoreError> {
        let tables = self.lock();
        let keys = tables.deliveries.keys().chain(tables.fresh.keys());
        let mut ids: Vec<_> = keys
            .filter(|(destination_id, _)| query.destination_ids.contains(destination_id))
            .map(|(destination_id, key)| (std::cmp::Reverse(*key), *destination_id))
            .collect();
        ids.sort_unstable();
        if let Some(after) = query.after {
            ids.retain(|id| *id > (std::cmp::Reverse(after.event_key), after.destination_id));
        }
        let rows = ids
            .into_iter()
            .filter_map(|(key, destination_id)| tables.delivery(DeliveryId::new(key.0, destination_id)));
        let rows = rows.filter(|delivery| lifecycle::fits(&query, delivery));
        let Page { rows, more } = page(rows.take(query.limit.saturating_add(1)).collect(), query.limit);
        let next = rows.last().map(|row: &Delivery| row.id).filter(|_| more);
        Ok(DeliveryPage { rows, next })
    }

    async fn requeue(
        &self,
        ids: Vec<DeliveryId>,
        cause: CycleCause,
        now: Timestamp,
    ) -> Result<Vec<DueEntry>, StoreError> {
        let mut tables = self.lock();
        let entries: Vec<_> =
            lifecycle::distinct(&ids).filter_map(|id| tables.requeue(id, cause, now)).collect();
        if !entries.is_empty() {
            self.tell(|listener| listener.requeued(&entries));
        }
        Ok(entries)
    }

    async fn end(
        &self,
        ids: Vec<DeliveryId>,
        from: StateKind,
        into: DeliveryState,
    ) -> Result<Vec<DeliveryId>, StoreError> {
        let mut tables = self.lock();
        let ended: Vec<_> = lifecycle::distinct(&ids).filter_map(|id| tables.end(id, from, &into)).collect();
        if !ended.is_empty() {
            self.tell(|listener| listener.ended(&ended));
        }
        Ok(ended)
    }

    async fn destinations_with_work(&self) -> Result<Vec<DestinationId>, StoreError> {
        let tables = self.lock();
        let fresh = tables.fresh.keys().map(|(id, _)| *id);
        let due = tables.due.keys().map(|(id, ..)| *id);
        Ok(fresh.chain(due).collect::<BTreeSet<_>>().into_iter().collect())
    }

    async fn backlog(&self, destination_id: DestinationId, cap: usize) -> Result<Backlog, StoreError> {
        let tables = self.lock();
        let fresh = (destination_id, EventKey::MIN)..=(destination_id, EventKey::MAX);
        let oldest = tables.fresh.range(fresh.clone()).next();
        let oldest = oldest.and_then(|((_, key), ())| Some(tables.events.get(key)?.accepted_at));
        let due = tables
            .due
            .range((Excluded((destination_id, Timestamp::from_millis(i64::MIN), EventKey::MIN)), Unbounded));
        let due = due.take_while(|((id, ..), _)| *id == destination_id).count();
        let count = tables.fresh.range(fresh).count() + due;
        let all = (destination_id, EventKey::MIN)..=(destination_id, EventKey::MAX);
        let is_dead = |delivery: &&Delivery| delivery.state.kind() == StateKind::DeadLettered;
        let dead_letters = tables.deliveries.range(all).map(|(_, delivery)| delivery).filter(is_dead).count();
        Ok(Backlog {
            count: count.min(cap),
            capped: count > cap,
            oldest,
            dead_letters: dead_letters.min(cap),
        })
    }

    async fn ahead(&self, id: DeliveryId, due: Option<Timestamp>, cap: usize) -> Result<usize, StoreError> {
        let tables = self.lock();
        let DeliveryId { destination_id, event_key } = id;
        let first = Timestamp::from_millis(i64::MIN);
        let count = match due {
            None => tables.fresh.range((destination_id, EventKey::MIN)..(destination_id, event_key)).count(),
            Some(due) => {
                let start = (destination_id, first, EventKey::MIN);
                tables.due.range(start..(destination_id, due, event_key)).count()
            }
        };
        Ok(count.min(cap))
    }
}

#[async_trait]
impl DestinationStore for MemoryStore {
    async fn create_destination(
        &self,
        destination: Destination,
        limit: Option<u32>,
    ) -> Result<Arc<Destination>, StoreError> {
        let commit = self.lock();
        if commit.erasing.contains(&destination.organization_id) {
            return Err(StoreError::Erasing);
        }
        if self.directory.destination(destination.id).is_some() {
            return Err(StoreError::AlreadyExists);
        }
        let siblings = self.directory.destinations(&destination.organization_id).len();
        let usage = u32::try_from(siblings).unwrap_or(u32::MAX);
        if let Some(limit) = limit.filter(|limit| usage >= *limit) {
            return Err(StoreError::LimitReached { limit, usage });
        }
        let destination = Arc::new(destination);
        self.directory.put_destination(Arc::clone(&destination), DestinationHealth::default());
        self.tell(|listener| listener.destination_changed(destination.id));
        Ok(destination)
    }

    async fn update_destination(
        &self,
        mut destination: Destination,
        expected: u64,
    ) -> Result<Arc<Destination>, StoreError> {
        let _commit = self.lock();
        let present = self.directory.destination(destination.id).ok_or(StoreError::NotFound)?;
        if present.destination.organization_id != destination.organization_id {
            return Err(StoreError::NotFound);
        }
        destination.revision = next_revision(present.destination.revision, Some(expected))?;
        let destination = Arc::new(destination);
        self.directory.put_destination(Arc::clone(&destination), DestinationHealth::default());
        self.tell(|listener| listener.destination_changed(destination.id));
        Ok(destination)
    }

    async fn delete_destination(&self, id: DestinationId, expected: Option<u64>) -> Result<(), StoreError> {
        let _commit = self.lock();
        let present = self.directory.destination(id).ok_or(StoreError::NotFound)?;
        next_revision(present.destination.revision, expected)?;
        self.directory.remove_destination(id);
        self.tell(|listener| listener.destination_changed(id));
        Ok(())
    }
}

#[async_trait]
impl OrganizationStore for MemoryStore {
    async fn create_organization(&self, organization: Organization) -> Result<Arc<Organization>, StoreError> {
        let commit = self.lock();
        if commit.erasing.contains(&organization.id) {
            return Err(StoreError::Erasing);
        }
        if self.directory.organization(&organization.id).is_some() {
            return Err(StoreError::AlreadyExists);
        }
        let organization = Arc::new(organization);
        self.directory.put_organization(Arc::clone(&organization));
        Ok(organization)
    }

    async fn update_organization(
        &self,
        mut organization: Organization,
        expected: u64,
    ) -> Result<Arc<Organization>, StoreError> {
        let _commit = self.lock();
        let present = self.directory.organization(&organization.id).ok_or(StoreError::NotFound)?;
        organization.revision = next_revision(present.revision, Some(expected))?;
        let organization = Arc::new(organization);
        self.directory.put_organization(Arc::clone(&organization));
        Ok(organization)
    }
}

fn next_revision(found: u64, expected: Option<u64>) -> Result<u64, StoreError> {
    match expected {
        Some(expected) if expected != found => Err(StoreError::Stale { expected, found }),
        _ => Ok(found.saturating_add(1)),
    }
}

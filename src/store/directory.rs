//! The in-memory snapshot of organizations and destinations, and the live status of each destination.
//!
//! Every event is routed through it, so reads take a short lock and clone one `Arc`. The store loads it
//! at open and changes it with each commit; nobody else writes to it, but for the live status, which the
//! engine keeps.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::domain::circuit::CircuitState;
use crate::domain::destination::{Destination, DestinationHealth};
use crate::domain::id::{DestinationId, EventKey, OrganizationId};
use crate::domain::organization::Organization;
use crate::domain::time::Timestamp;

/// A destination and what is going on with it.
#[derive(Debug)]
pub struct DestinationEntry {
    /// The destination as it was last committed.
    pub destination: Arc<Destination>,
    /// Shared by all versions of the entry.
    pub status: Arc<DestinationStatus>,
}

/// What is going on with a destination; kept by the engine, read by callers.
#[derive(Debug, Default)]
pub struct DestinationStatus {
    inner: Mutex<(DestinationHealth, LaneStatus)>,
    /// The events of requests that are under way, and of those whose outcome is not stored yet. The bounds of
    /// the engine on both bound it.
    in_flight: Mutex<HashMap<EventKey, Flights>>,
}

/// The flights of one event: a resend may begin one before the outcome of another is stored.
#[derive(Debug, Clone, Copy, Default)]
struct Flights {
    count: u32,
    /// How many attempts there were before the latest one.
    attempts_before: u32,
}

/// The run-time line of a destination, as callers may see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LaneStatus {
    /// Requests under way.
    pub in_flight: u32,
    /// Deliveries in the lane's memory window that wait.
    pub waiting_in_memory: u32,
    /// When the event of the oldest delivery was accepted that is in memory and was never attempted.
    pub oldest_fresh_at: Option<Timestamp>,
    /// The event of the oldest delivery in the lane's memory window that waits.
    pub oldest_key: Option<EventKey>,
    /// Whether the store holds more than the window.
    pub more_in_store: bool,
    /// When the next attempt may begin, if that is known.
    pub next_attempt_at: Option<Timestamp>,
    /// Where the organization sends to the host as fast as it may: when the lane's turn comes, at the earliest.
    pub host_turn_at: Option<Timestamp>,
    /// Whether the lane sends, judged by recent outcomes.
    pub circuit: CircuitState,
    /// When the next probe is due, while the circuit is open.
    pub next_probe_at: Option<Timestamp>,
    /// Requests that may be under way at once; 0 where there is no lane, since nothing waits.
    pub concurrency: u32,
}

impl DestinationStatus {
    /// A status with this health and an idle lane.
    #[must_use]
    pub fn new(health: DestinationHealth) -> Self {
        Self { inner: Mutex::new((health, LaneStatus::default())), in_flight: Mutex::default() }
    }

    /// Whether the event's delivery is in flight.
    #[must_use]
    pub fn is_in_flight(&self, key: EventKey) -> bool {
        self.in_flight().contains_key(&key)
    }

    /// Whether a delivery with so many attempts on record is in flight: one whose outcome the record has
    /// already is not, although the engine may not know yet that it is stored.
    #[must_use]
    pub fn is_in_flight_after(&self, key: EventKey, attempt_count: u32) -> bool {
        self.in_flight().get(&key).is_some_and(|flights| flights.attempts_before >= attempt_count)
    }

    /// Whether a delivery of an earlier event is in flight or waits in the lane's memory.
    #[must_use]
    pub fn has_earlier_than(&self, key: EventKey) -> bool {
        self.lane().oldest_key.is_some_and(|oldest| oldest < key)
            || self.in_flight().keys().any(|other| *other < key)
    }

    /// Notes that a request with these events has begun, each with the number of its attempts before.
    pub fn begin_flight(&self, events: impl IntoIterator<Item = (EventKey, u32)>) {
        let mut in_flight = self.in_flight();
        for (key, attempts_before) in events {
            let flights = in_flight.entry(key).or_default();
            *flights = Flights { count: flights.count + 1, attempts_before };
        }
    }

    /// Notes that the outcomes for these events are stored, or that nothing was sent for them.
    pub fn end_flight(&self, keys: &[EventKey]) {
        let mut in_flight = self.in_flight();
        for key in keys {
            if let Entry::Occupied(mut flights) = in_flight.entry(*key) {
                flights.get_mut().count -= 1;
                if flights.get().count == 0 {
                    flights.remove();
                }
            }
        }
    }

    /// Whether any request is under way, or the outcome of one not stored yet.
    #[must_use]
    pub fn has_flights(&self) -> bool {
        !self.in_flight().is_empty()
    }

    /// The health.
    #[must_use]
    pub fn health(&self) -> DestinationHealth {
        self.lock().0.clone()
    }

    /// The lane.
    #[must_use]
    pub fn lane(&self) -> LaneStatus {
        self.lock().1
    }

    /// Changes the health and answers the new one.
    pub fn update_health(&self, change: impl FnOnce(&mut DestinationHealth)) -> DestinationHealth {
        let mut guard = self.lock();
        change(&mut guard.0);
        guard.0.clone()
    }

    /// Notes where the lane stands.
    pub fn set_lane(&self, lane: LaneStatus) {
        self.lock().1 = lane;
    }

    fn in_flight(&self) -> std::sync::MutexGuard<'_, HashMap<EventKey, Flights>> {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (DestinationHealth, LaneStatus)> {
        // No code panics while it holds the lock, and the data has no invariant that a panic could break.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All destinations of one organization, in order of creation.
pub type OrganizationDestinations = Arc<Vec<Arc<DestinationEntry>>>;

#[derive(Debug, Default)]
struct Tables {
    organizations: BTreeMap<OrganizationId, Arc<Organization>>,
    by_organization: HashMap<OrganizationId, OrganizationDestinations>,
    by_id: HashMap<DestinationId, Arc<DestinationEntry>>,
    erasing: BTreeSet<OrganizationId>,
}

/// The snapshot of organizations and destinations.
#[derive(Debug, Default)]
pub struct Directory {
    tables: RwLock<Tables>,
    version: AtomicU64,
}

impl Directory {
    /// An empty directory.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Which version of a shared store's directory this is, so that routes by an older one can be told. Read it
    /// before the destinations. A store that nobody shares has one version only.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Store implementations only: the directory is as of this version from here on.
    pub fn set_version(&self, version: u64) {
        self.version.store(version, Ordering::Release);
    }

    /// One organization.
    #[must_use]
    pub fn organization(&self, id: &OrganizationId) -> Option<Arc<Organization>> {
        self.read().organizations.get(id).cloned()
    }

    /// Organizations in order of their ids, after `after`, at most `limit`.
    #[must_use]
    pub fn organizations(&self, after: Option<&OrganizationId>, limit: usize) -> Vec<Arc<Organization>> {
        use std::ops::Bound::{Excluded, Unbounded};
        let start = after.map_or(Unbounded, Excluded);
        let tables = self.read();
        let rows = tables.organizations.range::<OrganizationId, _>((start, Unbounded));
        rows.take(limit).map(|(_, organization)| Arc::clone(organization)).collect()
    }

    /// The destinations of an organization, oldest first.
    #[must_use]
    pub fn destinations(&self, organization_id: &OrganizationId) -> OrganizationDestinations {
        self.read().by_organization.get(organization_id).cloned().unwrap_or_default()
    }

    /// One destination.
    #[must_use]
    pub fn destination(&self, id: DestinationId) -> Option<Arc<DestinationEntry>> {
        self.read().by_id.get(&id).cloned()
    }

    /// All destinations of all organizations, in no order.
    #[must_use]
    pub fn entries(&self) -> Vec<Arc<DestinationEntry>> {
        self.read().by_id.values().cloned().collect()
    }

    /// The ids of all destinations of all organizations.
    #[must_use]
    pub fn destination_ids(&self) -> Vec<DestinationId> {
        self.read().by_id.keys().copied().collect()
    }

    /// Whether an organization is being erased.
    #[must_use]
    pub fn is_erasing(&self, id: &OrganizationId) -> bool {
        self.read().erasing.contains(id)
    }

    /// The organizations that are being erased.
    #[must_use]
    pub fn erasing(&self) -> Vec<OrganizationId> {
        self.read().erasing.iter().cloned().collect()
    }

    /// Store implementations only: the erasure of an organization was begun.
    pub fn begin_erasure(&self, id: OrganizationId) {
        let mut tables = self.write();
        tables.organizations.remove(&id);
        tables.erasing.insert(id);
    }

    /// Store implementations only: nothing of an organization is left.
    pub fn end_erasure(&self, id: &OrganizationId) {
        let mut tables = self.write();
        tables.by_organization.remove(id);
        tables.erasing.remove(id);
    }

    /// Store implementations only: an organization was committed.
    pub fn put_organization(&self, organization: Arc<Organization>) {
        self.write().organizations.insert(organization.id.clone(), organization);
    }

    /// Store implementations only: a destination was committed. `health` is what was stored, at open.
    pub fn put_destination(&self, destination: Arc<Destination>, health: DestinationHealth) {
        let mut tables = self.write();
        let status = match tables.by_id.get(&destination.id) {
            Some(entry) => Arc::clone(&entry.status),
            None => Arc::new(DestinationStatus::new(health)),
        };
        let id = destination.id;
        let organization_id = destination.organization_id.clone();
        let entry = Arc::new(DestinationEntry { destination, status });
        tables.by_id.insert(id, Arc::clone(&entry));
        let list = Arc::make_mut(tables.by_organization.entry(organization_id).or_default());
        match list.iter_mut().find(|known| known.destination.id == id) {
            Some(known) => *known = entry,
            None => list.push(entry),
        }
        list.sort_by_key(|known| known.destination.id);
    }

    /// Store implementations only: the removal of a destination was committed.
    pub fn remove_destination(&self, id: DestinationId) {
        let mut tables = self.write();
        let Some(entry) = tables.by_id.remove(&id) else { return };
        if let Some(list) = tables.by_organization.get_mut(&entry.destination.organization_id) {
            Arc::make_mut(list).retain(|known| known.destination.id != id);
        }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Tables> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Tables> {
        self.tables.write().unwrap_or_else(PoisonError::into_inner)
    }
}

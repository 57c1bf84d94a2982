//! The store in memory: ordered maps under one lock. For tests, and for trying things out; a restart
//! forgets everything.
//!
//! It shares no storage code with the embedded store, so that the conformance suite compares two
//! implementations that can't have the same mistake.

mod audit;
mod config;
mod deliveries;
#[cfg(test)]
pub(crate) mod faults;
mod replay;
mod retention;
mod tables;

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use async_trait::async_trait;

use super::changes::ChangeFeed;
use super::directory::Directory;
use super::retention::Footprint;
use super::riders::Riders;
use super::{CommitListener, EventStore, Store, StoreError};
use crate::clock::SharedClock;
use crate::domain::audit::AuditEntry;
use crate::domain::event::{Acceptance, Event, NewEvent};
#[cfg(test)]
use crate::domain::id::DestinationId;
use crate::domain::id::{EventId, EventKey, OrganizationId};
use tables::Tables;

/// A store that keeps everything in memory.
#[derive(Clone)]
pub struct MemoryStore {
    clock: SharedClock,
    directory: Arc<Directory>,
    changes: Arc<ChangeFeed>,
    listener: Arc<OnceLock<Arc<dyn CommitListener>>>,
    tables: Arc<Mutex<Tables>>,
    /// What rides on the next change.
    riders: Riders,
    /// What a test has it do wrong, and whose lanes are somebody else's.
    #[cfg(test)]
    pub(crate) faults: Arc<faults::Faults>,
}

impl MemoryStore {
    /// An empty store that gives times by this clock.
    #[must_use]
    pub fn new(clock: SharedClock) -> Self {
        let changes = Arc::new(ChangeFeed::default());
        Self {
            clock,
            directory: Arc::new(Directory::new()),
            changes: Arc::clone(&changes),
            listener: Arc::default(),
            tables: Arc::new(Mutex::new(Tables::new(changes))),
            riders: Riders::default(),
            #[cfg(test)]
            faults: Arc::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Commits what rides on a change of so many things, under the lock under which the change is made.
    fn ride(&self, tables: &mut Tables, things: usize) {
        if let Some(entry) = &self.riders.entry {
            tables.note(entry, things);
        }
        self.accept_told(tables, self.riders.told.iter().cloned());
    }

    /// Accepts events that tell of a change, but not again.
    fn accept_told(&self, tables: &mut Tables, told: impl IntoIterator<Item = NewEvent>) {
        let now = self.clock.now();
        let mut new = Vec::new();
        for event in told {
            if !tables.erasing.contains(&event.organization_id)
                && let Acceptance::Accepted(event) = tables.accept(event, now)
            {
                new.push(event);
            }
        }
        if !new.is_empty() {
            self.tell(|listener| listener.accepted(&new));
        }
    }

    /// Called under the lock of the tables, so that listeners see commits in order.
    fn tell(&self, what: impl FnOnce(&dyn CommitListener)) {
        if let Some(listener) = self.listener.get() {
            what(listener.as_ref());
        }
    }
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

    #[cfg(test)]
    fn owns(&self, id: DestinationId) -> bool {
        self.faults.owns(id)
    }

    #[cfg(test)]
    fn leads(&self) -> bool {
        self.faults.leads()
    }

    fn noting(&self, entry: AuditEntry) -> Arc<dyn Store> {
        Arc::new(Self { riders: self.riders.noting(entry), ..self.clone() })
    }

    fn telling(&self, events: Vec<NewEvent>) -> Arc<dyn Store> {
        Arc::new(Self { riders: self.riders.telling(events), ..self.clone() })
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

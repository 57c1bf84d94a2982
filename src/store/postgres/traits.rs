//! The store's traits, by what does the work.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::oneshot;

use super::start::closed;
use super::{PostgresStore, accept, settle};
use crate::domain::audit::AuditEntry;
use crate::domain::delivery::{CycleCause, Delivery, DeliveryState, StateKind};
use crate::domain::destination::{Destination, DestinationHealth};
use crate::domain::event::{Acceptance, Event, NewEvent};
use crate::domain::id::{DeliveryId, DestinationId, EventId, EventKey, OrganizationId, ReplayId};
use crate::domain::organization::Organization;
use crate::domain::replay::Replay;
use crate::domain::time::Timestamp;
use crate::store::changes::ChangeFeed;
use crate::store::directory::Directory;
use crate::store::retention::{Cuts, EraseFrom, ErasedEvent, Footprint, SweepFrom, Swept};
use crate::store::{
    Backlog, CommitListener, CoverPage, CoverQuery, DeliveryPage, DeliveryQuery, DeliveryStore,
    DestinationQuota, DestinationStore, DueEntry, EventStore, OrganizationStore, Page, ReplayPage,
    ReplayQuery, ReplayStep, ReplayStore, RetentionStore, Settlement, Store, StoreError,
};

impl PostgresStore {
    async fn submit(
        &self,
        events: Vec<NewEvent>,
        routed_at: Option<u64>,
    ) -> Result<Vec<Acceptance>, StoreError> {
        if self.core.closed.is_cancelled() {
            return Err(closed());
        }
        let (reply, answer) = oneshot::channel();
        match self.accepting.try_send(accept::Submitted::new(events, routed_at, reply)) {
            Ok(()) => answer.await.unwrap_or_else(|_| Err(closed())),
            Err(TrySendError::Full(_)) => Err(self.core.failed(StoreError::Busy.into())),
            Err(TrySendError::Closed(_)) => Err(closed()),
        }
    }

    /// Shows how the store stands, in its metrics. Nothing is asked of the database.
    pub fn observe(&self) {
        let depth = self.accepting.max_capacity();
        self.core.metrics.queued(depth - self.accepting.capacity(), depth);
        let data = self.core.size.footprint().bytes;
        self.core.metrics.room(crate::metrics::Room { data, size: 0, free: 0, free_least: 0 });
    }
}

impl Store for PostgresStore {
    fn directory(&self) -> &Arc<Directory> {
        &self.core.directory
    }

    fn changes(&self) -> &Arc<ChangeFeed> {
        &self.core.changes
    }

    fn footprint(&self) -> Footprint {
        self.core.size.footprint()
    }

    fn noting(&self, entry: AuditEntry) -> Arc<dyn Store> {
        Arc::new(Self { riders: self.riders.noting(entry), ..self.clone() })
    }

    fn telling(&self, events: Vec<NewEvent>) -> Arc<dyn Store> {
        Arc::new(Self { riders: self.riders.telling(events), ..self.clone() })
    }

    fn listen(&self, listener: Arc<dyn CommitListener>) {
        drop(self.core.listener.set(listener));
        self.core.lease_call.notify_one();
    }

    fn owns(&self, id: DestinationId) -> bool {
        self.core.leases.owns(id)
    }

    fn leads(&self) -> bool {
        self.core.leases.leads()
    }
}

#[async_trait]
impl EventStore for PostgresStore {
    async fn accept(&self, events: Vec<NewEvent>) -> Result<Vec<Acceptance>, StoreError> {
        self.submit(events, None).await
    }

    async fn accept_routed(
        &self,
        events: Vec<NewEvent>,
        directory_version: u64,
    ) -> Result<Vec<Acceptance>, StoreError> {
        self.submit(events, Some(directory_version)).await
    }

    async fn load_events(&self, keys: Vec<EventKey>) -> Result<Vec<Option<Arc<Event>>>, StoreError> {
        self.attempt(|| self.core.load_events(&keys)).await
    }

    async fn find_event(
        &self,
        organization_id: &OrganizationId,
        event_id: &EventId,
    ) -> Result<Option<Arc<Event>>, StoreError> {
        self.attempt(|| self.core.find_event(organization_id, event_id)).await
    }
}

#[async_trait]
impl DeliveryStore for PostgresStore {
    async fn load_fresh(
        &self,
        destination_id: DestinationId,
        after: Option<EventKey>,
        limit: usize,
    ) -> Result<Page<Arc<Event>>, StoreError> {
        self.attempt(|| self.core.load_fresh(destination_id, after, limit)).await
    }

    async fn load_due(
        &self,
        destination_id: DestinationId,
        after: Option<(Timestamp, EventKey)>,
        limit: usize,
    ) -> Result<Page<DueEntry>, StoreError> {
        self.attempt(|| self.core.load_due(destination_id, after, limit)).await
    }

    async fn settle(
        &self,
        settlements: Vec<Settlement>,
        health: Vec<(DestinationId, DestinationHealth)>,
    ) -> Result<(), StoreError> {
        if self.core.closed.is_cancelled() {
            return Err(closed());
        }
        let (reply, answer) = oneshot::channel();
        let told = self.riders.told.to_vec();
        let call = settle::Submitted { settlements, health, told, reply };
        self.settling.send(call).await.map_err(|_| closed())?;
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    async fn delivery(&self, id: DeliveryId) -> Result<Option<Delivery>, StoreError> {
        self.attempt(|| self.core.delivery(id)).await
    }

    async fn deliveries(&self, query: DeliveryQuery) -> Result<DeliveryPage, StoreError> {
        self.attempt(|| self.core.deliveries(&query)).await
    }

    async fn requeue(
        &self,
        ids: Vec<DeliveryId>,
        cause: CycleCause,
        now: Timestamp,
    ) -> Result<Vec<DueEntry>, StoreError> {
        self.attempt(|| self.core.requeue(&ids, (cause, now), &self.riders)).await
    }

    async fn end(
        &self,
        ids: Vec<DeliveryId>,
        from: StateKind,
        into: DeliveryState,
    ) -> Result<Vec<DeliveryId>, StoreError> {
        self.attempt(|| self.core.end(&ids, (from, &into), &self.riders)).await
    }

    async fn destinations_with_work(&self) -> Result<Vec<DestinationId>, StoreError> {
        self.attempt(|| self.core.destinations_with_work()).await
    }

    async fn backlog(&self, destination_id: DestinationId, cap: usize) -> Result<Backlog, StoreError> {
        self.attempt(|| self.core.backlog(destination_id, cap)).await
    }

    async fn ahead(&self, id: DeliveryId, due: Option<Timestamp>, cap: usize) -> Result<usize, StoreError> {
        self.attempt(|| self.core.ahead(id, due, cap)).await
    }
}

#[async_trait]
impl DestinationStore for PostgresStore {
    async fn create_destination(
        &self,
        destination: Destination,
        quota: Option<DestinationQuota>,
    ) -> Result<Arc<Destination>, StoreError> {
        self.attempt(|| self.core.create_destination(&destination, quota.as_ref(), &self.riders)).await
    }

    async fn update_destination(
        &self,
        destination: Destination,
        expected: u64,
    ) -> Result<Arc<Destination>, StoreError> {
        self.attempt(|| self.core.update_destination(&destination, expected, &self.riders)).await
    }

    async fn delete_destination(&self, id: DestinationId, expected: Option<u64>) -> Result<(), StoreError> {
        self.attempt(|| self.core.delete_destination(id, expected, &self.riders)).await
    }
}

#[async_trait]
impl OrganizationStore for PostgresStore {
    async fn create_organization(&self, organization: Organization) -> Result<Arc<Organization>, StoreError> {
        self.attempt(|| self.core.create_organization(&organization, &self.riders)).await
    }

    async fn update_organization(
        &self,
        organization: Organization,
        expected: u64,
    ) -> Result<Arc<Organization>, StoreError> {
        self.attempt(|| self.core.update_organization(&organization, expected, &self.riders)).await
    }
}

#[async_trait]
impl ReplayStore for PostgresStore {
    async fn create_replay(&self, replay: Replay) -> Result<Replay, StoreError> {
        self.attempt(|| self.core.create_replay(&replay, &self.riders)).await
    }

    async fn replay(&self, id: ReplayId) -> Result<Option<Replay>, StoreError> {
        self.attempt(|| self.core.replay(id)).await
    }

    async fn replays(&self, query: ReplayQuery) -> Result<ReplayPage, StoreError> {
        self.attempt(|| self.core.replays(&query)).await
    }

    async fn running_replays(&self) -> Result<Vec<Replay>, StoreError> {
        self.attempt(|| self.core.running_replays()).await
    }

    async fn step_replay(
        &self,
        id: ReplayId,
        step: ReplayStep,
        now: Timestamp,
    ) -> Result<Replay, StoreError> {
        self.attempt(|| self.core.step_replay(id, &step, now)).await
    }

    async fn cancel_replay(&self, id: ReplayId, now: Timestamp) -> Result<Replay, StoreError> {
        self.attempt(|| self.core.cancel_replay(id, now, &self.riders)).await
    }

    async fn covered(&self, query: CoverQuery) -> Result<CoverPage, StoreError> {
        self.attempt(|| self.core.covered(&query)).await
    }
}

#[async_trait]
impl RetentionStore for PostgresStore {
    async fn sweep(&self, cuts: Arc<Cuts>, from: SweepFrom, budget: usize) -> Result<Swept, StoreError> {
        self.attempt(|| self.core.sweep(&cuts, from, budget)).await
    }

    async fn erase_event(&self, key: EventKey, now: Timestamp) -> Result<Option<ErasedEvent>, StoreError> {
        self.attempt(|| self.core.erase_event(key, now, &self.riders)).await
    }

    async fn begin_erasure(
        &self,
        organization_id: &OrganizationId,
        expected: Option<u64>,
    ) -> Result<Vec<DestinationId>, StoreError> {
        self.attempt(|| self.core.begin_erasure(organization_id, expected, &self.riders)).await
    }

    async fn erase_step(
        &self,
        organization_id: &OrganizationId,
        from: Option<EraseFrom>,
        budget: usize,
    ) -> Result<Option<EraseFrom>, StoreError> {
        self.attempt(|| self.core.erase_step(organization_id, from.clone(), budget)).await
    }
}

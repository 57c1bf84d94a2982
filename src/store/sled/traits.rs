//! The traits of the store: thin, each call either a command to the writer or a read.

use std::sync::Arc;

use async_trait::async_trait;

use super::accept::Submission;
use super::backup::SledBackup;
use super::replay::ReplayCommand;
use super::writer::Command;
use super::{Patience, SledStore, listing};
use crate::domain::audit::AuditEntry;
use crate::domain::delivery::{CycleCause, Delivery, DeliveryState, StateKind};
use crate::domain::destination::{Destination, DestinationHealth};
use crate::domain::event::{Acceptance, Event, NewEvent};
use crate::domain::id::{DeliveryId, DestinationId, EventId, EventKey, OrganizationId, ReplayId};
use crate::domain::organization::Organization;
use crate::domain::replay::Replay;
use crate::domain::time::Timestamp;
use crate::store::backup::Backup;
use crate::store::changes::ChangeFeed;
use crate::store::directory::Directory;
use crate::store::retention::{Cuts, EraseFrom, ErasedEvent, Footprint, SweepFrom, Swept};
use crate::store::{
    Backlog, CommitListener, CoverPage, CoverQuery, DeliveryPage, DeliveryQuery, DeliveryStore,
    DestinationQuota, DestinationStore, DueEntry, EventStore, OrganizationStore, Page, ReplayPage,
    ReplayQuery, ReplayStep, ReplayStore, RetentionStore, Settlement, Store, StoreError,
};

impl Store for SledStore {
    fn directory(&self) -> &Arc<Directory> {
        &self.shared.directory
    }

    fn footprint(&self) -> Footprint {
        self.shared.footprint()
    }

    fn changes(&self) -> &Arc<ChangeFeed> {
        &self.shared.changes
    }

    fn listen(&self, listener: Arc<dyn CommitListener>) {
        drop(self.shared.listener.set(listener));
    }

    fn back_up(&self) -> Option<Result<Box<dyn Backup>, StoreError>> {
        let backup = SledBackup::begin(self.clone(), Arc::clone(&self.clock));
        Some(backup.map(|backup| Box::new(backup) as _))
    }

    fn noting(&self, entry: AuditEntry) -> Arc<dyn Store> {
        Arc::new(Self { riders: self.riders.noting(entry), ..self.clone() })
    }

    fn telling(&self, events: Vec<NewEvent>) -> Arc<dyn Store> {
        Arc::new(Self { riders: self.riders.telling(events), ..self.clone() })
    }
}

#[async_trait]
impl EventStore for SledStore {
    async fn accept(&self, events: Vec<NewEvent>) -> Result<Vec<Acceptance>, StoreError> {
        // Hashed here, not on the writer's thread, which is the scarce one.
        let submissions = events.into_iter().map(Submission::from).collect();
        self.submit(Patience::Refuse, |reply| Command::Accept(submissions, reply)).await
    }

    async fn load_events(&self, keys: Vec<EventKey>) -> Result<Vec<Option<Arc<Event>>>, StoreError> {
        self.read(move |reader| keys.into_iter().map(|key| reader.event(key)).collect()).await
    }

    async fn find_event(
        &self,
        organization_id: &OrganizationId,
        event_id: &EventId,
    ) -> Result<Option<Arc<Event>>, StoreError> {
        let (organization_id, event_id) = (organization_id.clone(), event_id.clone());
        self.read(move |reader| reader.find_event(&organization_id, &event_id)).await
    }
}

#[async_trait]
impl DeliveryStore for SledStore {
    async fn load_fresh(
        &self,
        destination_id: DestinationId,
        after: Option<EventKey>,
        limit: usize,
    ) -> Result<Page<Arc<Event>>, StoreError> {
        self.read(move |reader| reader.fresh(destination_id, after, limit)).await
    }

    async fn load_due(
        &self,
        destination_id: DestinationId,
        after: Option<(Timestamp, EventKey)>,
        limit: usize,
    ) -> Result<Page<DueEntry>, StoreError> {
        self.read(move |reader| reader.due(destination_id, after, limit)).await
    }

    async fn settle(
        &self,
        settlements: Vec<Settlement>,
        health: Vec<(DestinationId, DestinationHealth)>,
    ) -> Result<(), StoreError> {
        self.submit(Patience::Wait, |reply| Command::Settle(settlements, health, reply)).await
    }

    async fn delivery(&self, id: DeliveryId) -> Result<Option<Delivery>, StoreError> {
        self.read(move |reader| reader.delivery(id)).await
    }

    async fn deliveries(&self, query: DeliveryQuery) -> Result<DeliveryPage, StoreError> {
        self.read(move |reader| reader.deliveries(&query, listing::ROWS_SCANNED)).await
    }

    async fn requeue(
        &self,
        ids: Vec<DeliveryId>,
        cause: CycleCause,
        now: Timestamp,
    ) -> Result<Vec<DueEntry>, StoreError> {
        self.submit(Patience::Refuse, |reply| Command::Requeue(ids, (cause, now), reply)).await
    }

    async fn end(
        &self,
        ids: Vec<DeliveryId>,
        from: StateKind,
        into: DeliveryState,
    ) -> Result<Vec<DeliveryId>, StoreError> {
        self.submit(Patience::Refuse, |reply| Command::End(ids, (from, into), reply)).await
    }

    async fn destinations_with_work(&self) -> Result<Vec<DestinationId>, StoreError> {
        self.read(|reader| reader.destinations_with_work()).await
    }

    async fn backlog(&self, destination_id: DestinationId, cap: usize) -> Result<Backlog, StoreError> {
        self.read(move |reader| reader.backlog(destination_id, cap)).await
    }

    async fn ahead(&self, id: DeliveryId, due: Option<Timestamp>, cap: usize) -> Result<usize, StoreError> {
        self.read(move |reader| reader.ahead(id, due, cap)).await
    }
}

#[async_trait]
impl DestinationStore for SledStore {
    async fn create_destination(
        &self,
        destination: Destination,
        quota: Option<DestinationQuota>,
    ) -> Result<Arc<Destination>, StoreError> {
        let destination = Box::new(destination);
        self.submit(Patience::Wait, |reply| Command::CreateDestination(destination, quota, reply)).await
    }

    async fn update_destination(
        &self,
        destination: Destination,
        expected: u64,
    ) -> Result<Arc<Destination>, StoreError> {
        let destination = Box::new(destination);
        self.submit(Patience::Wait, |reply| Command::UpdateDestination(destination, expected, reply)).await
    }

    async fn delete_destination(&self, id: DestinationId, expected: Option<u64>) -> Result<(), StoreError> {
        self.submit(Patience::Wait, |reply| Command::DeleteDestination(id, expected, reply)).await
    }
}

#[async_trait]
impl OrganizationStore for SledStore {
    async fn create_organization(&self, organization: Organization) -> Result<Arc<Organization>, StoreError> {
        self.submit(Patience::Wait, |reply| Command::CreateOrganization(organization, reply)).await
    }

    async fn update_organization(
        &self,
        organization: Organization,
        expected: u64,
    ) -> Result<Arc<Organization>, StoreError> {
        self.submit(Patience::Wait, |reply| Command::UpdateOrganization(organization, expected, reply)).await
    }
}

#[async_trait]
impl ReplayStore for SledStore {
    async fn create_replay(&self, replay: Replay) -> Result<Replay, StoreError> {
        let replay = Box::new(replay);
        let create = |reply| Command::Replay(ReplayCommand::Create(replay, reply));
        self.submit(Patience::Wait, create).await
    }

    async fn replay(&self, id: ReplayId) -> Result<Option<Replay>, StoreError> {
        self.read(move |reader| reader.replay(id)).await
    }

    async fn replays(&self, query: ReplayQuery) -> Result<ReplayPage, StoreError> {
        self.read(move |reader| reader.replays(&query)).await
    }

    async fn running_replays(&self) -> Result<Vec<Replay>, StoreError> {
        self.read(|reader| reader.running_replays()).await
    }

    async fn step_replay(
        &self,
        id: ReplayId,
        step: ReplayStep,
        now: Timestamp,
    ) -> Result<Replay, StoreError> {
        let step = Box::new(step);
        let step = |reply| Command::Replay(ReplayCommand::Step(id, step, now, reply));
        self.submit(Patience::Wait, step).await
    }

    async fn cancel_replay(&self, id: ReplayId, now: Timestamp) -> Result<Replay, StoreError> {
        self.submit(Patience::Wait, |reply| Command::Replay(ReplayCommand::Cancel(id, now, reply))).await
    }

    async fn covered(&self, query: CoverQuery) -> Result<CoverPage, StoreError> {
        self.read(move |reader| reader.covered(&query, listing::ROWS_SCANNED)).await
    }
}

#[async_trait]
impl RetentionStore for SledStore {
    async fn sweep(&self, cuts: Arc<Cuts>, from: SweepFrom, budget: usize) -> Result<Swept, StoreError> {
        let looked = Arc::clone(&cuts);
        let found = self.read(move |reader| reader.sweepable(&looked, from, budget)).await?;
        if found.is_empty() {
            return Ok(Swept { expiring: found.expiring, next: found.next, ..Swept::default() });
        }
        let found = Box::new(found);
        self.submit(Patience::Refuse, |reply| Command::Sweep(cuts, found, reply)).await
    }

    async fn erase_event(&self, key: EventKey, now: Timestamp) -> Result<Option<ErasedEvent>, StoreError> {
        self.submit(Patience::Refuse, |reply| Command::EraseEvent(key, now, reply)).await
    }

    async fn begin_erasure(
        &self,
        organization_id: &OrganizationId,
        expected: Option<u64>,
    ) -> Result<Vec<DestinationId>, StoreError> {
        let id = organization_id.clone();
        self.submit(Patience::Wait, |reply| Command::BeginErasure(id, expected, reply)).await
    }

    async fn erase_step(
        &self,
        organization_id: &OrganizationId,
        from: Option<EraseFrom>,
        budget: usize,
    ) -> Result<Option<EraseFrom>, StoreError> {
        let (id, looked) = (organization_id.clone(), organization_id.clone());
        let doomed = self.read(move |reader| reader.doomed(&looked, from, budget)).await?;
        let doomed = Box::new(doomed);
        self.submit(Patience::Refuse, |reply| Command::EraseRows(id, doomed, reply)).await
    }
}

//! A store under strain: slow, late with what it read, and sometimes out of order. It fails before a change, or after
//! it, when nobody hears that it was made.
//!
//! Everything is handed on to a real store. What callers ask for themselves does not come through here.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use super::chronicle::Chronicle;
use crate::domain::audit::AuditEntry;
use crate::domain::delivery::{CycleCause, Delivery, DeliveryState, StateKind};
use crate::domain::destination::{Destination, DestinationHealth};
use crate::domain::event::{Acceptance, Event, NewEvent};
use crate::domain::id::{
    AuditEntryId, DeliveryId, DestinationId, EventId, EventKey, OrganizationId, ReplayId,
};
use crate::domain::organization::Organization;
use crate::domain::replay::Replay;
use crate::domain::time::Timestamp;
use crate::store::changes::ChangeFeed;
use crate::store::directory::Directory;
use crate::store::retention::{Cuts, EraseFrom, ErasedEvent, Footprint, SweepFrom, Swept};
use crate::store::{
    AuditPage, AuditQuery, AuditStore, Backlog, CommitListener, CoverPage, CoverQuery, DeliveryPage,
    DeliveryQuery, DeliveryStore, DestinationQuota, DestinationStore, DueEntry, EventStore,
    OrganizationStore, Page, ReplayPage, ReplayQuery, ReplayStep, ReplayStore, RetentionStore, Settlement,
    Store, StoreError,
};

/// One call in so many fails, and one in so many changes is made without an answer.
const FAILS: u8 = 25;
/// The longest time that a call takes, in milliseconds.
pub(super) const SLOWEST: u64 = 500;

/// How hard it has it; the same for all handles of one store.
pub(super) struct Strain {
    random: Mutex<fastrand::Rng>,
    pub(super) is_slow: AtomicBool,
    pub(super) fails: AtomicBool,
}

impl Strain {
    pub(super) fn new(seed: u64) -> Self {
        let (is_slow, fails) = (AtomicBool::new(true), AtomicBool::new(true));
        Self { random: Mutex::new(fastrand::Rng::with_seed(seed)), is_slow, fails }
    }

    /// The store is as it should be from here on.
    pub(super) fn end(&self) {
        self.is_slow.store(false, Ordering::Relaxed);
        self.fails.store(false, Ordering::Relaxed);
    }

    fn draw<T>(&self, does: &AtomicBool, draw: impl FnOnce(&mut fastrand::Rng) -> T) -> Option<T> {
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        does.load(Ordering::Relaxed).then(|| draw(&mut random))
    }

    /// Takes its time, mostly none.
    async fn pass_time(&self) {
        let millis =
            self.draw(&self.is_slow, |random| if random.bool() { 0 } else { random.u64(0..SLOWEST) });
        if let Some(millis @ 1..) = millis {
            tokio::time::sleep(Duration::from_millis(millis)).await;
        }
    }

    fn fail(&self) -> Result<(), StoreError> {
        match self.draw(&self.fails, |random| random.u8(0..FAILS) == 0) {
            Some(true) => Err(StoreError::Unavailable("planted".into())),
            _ => Ok(()),
        }
    }
}

/// The store under strain.
#[derive(Clone)]
pub(super) struct StrainedStore {
    pub(super) inner: Arc<dyn Store>,
    pub(super) strain: Arc<Strain>,
    pub(super) chronicle: Arc<Chronicle>,
}

impl StrainedStore {
    /// What was read is as old as the answer is late.
    async fn read<T>(&self, read: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let answer = read.await?;
        self.strain.pass_time().await;
        self.strain.fail()?;
        Ok(answer)
    }

    async fn change<T>(&self, change: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        self.strain.pass_time().await;
        self.strain.fail()?;
        let answer = change.await?;
        self.strain.fail()?;
        Ok(answer)
    }

    async fn record(&self, settlements: &[Settlement], health: &[(DestinationId, DestinationHealth)]) {
        for settlement in settlements {
            let delivery = self.inner.delivery(settlement.id).await.unwrap();
            let taken = delivery.is_some_and(|delivery| {
                (delivery.state, delivery.cycle) == (settlement.state.clone(), settlement.cycle)
            });
            self.chronicle.settled(settlement.clone(), taken);
        }
        self.chronicle.read().health.extend(health.iter().cloned());
    }

    fn handle(&self, inner: Arc<dyn Store>) -> Arc<dyn Store> {
        Arc::new(Self { inner, ..self.clone() })
    }
}

impl Store for StrainedStore {
    fn directory(&self) -> &Arc<Directory> {
        self.inner.directory()
    }

    fn changes(&self) -> &Arc<ChangeFeed> {
        self.inner.changes()
    }

    fn footprint(&self) -> Footprint {
        self.inner.footprint()
    }

    fn noting(&self, entry: AuditEntry) -> Arc<dyn Store> {
        self.handle(self.inner.noting(entry))
    }

    fn telling(&self, events: Vec<NewEvent>) -> Arc<dyn Store> {
        self.handle(self.inner.telling(events))
    }

    fn listen(&self, listener: Arc<dyn CommitListener>) {
        self.inner.listen(listener);
    }
}

#[async_trait]
impl EventStore for StrainedStore {
    async fn accept(&self, events: Vec<NewEvent>) -> Result<Vec<Acceptance>, StoreError> {
        self.inner.accept(events).await
    }

    async fn load_events(&self, keys: Vec<EventKey>) -> Result<Vec<Option<Arc<Event>>>, StoreError> {
        self.read(self.inner.load_events(keys)).await
    }

    async fn find_event(
        &self,
        organization_id: &OrganizationId,
        event_id: &EventId,
    ) -> Result<Option<Arc<Event>>, StoreError> {
        self.inner.find_event(organization_id, event_id).await
    }
}

#[async_trait]
impl DeliveryStore for StrainedStore {
    async fn load_fresh(
        &self,
        id: DestinationId,
        after: Option<EventKey>,
        limit: usize,
    ) -> Result<Page<Arc<Event>>, StoreError> {
        self.read(self.inner.load_fresh(id, after, limit)).await
    }

    async fn load_due(
        &self,
        id: DestinationId,
        after: Option<(Timestamp, EventKey)>,
        limit: usize,
    ) -> Result<Page<DueEntry>, StoreError> {
        self.read(self.inner.load_due(id, after, limit)).await
    }

    async fn settle(
        &self,
        settlements: Vec<Settlement>,
        health: Vec<(DestinationId, DestinationHealth)>,
    ) -> Result<(), StoreError> {
        self.change(async {
            self.inner.settle(settlements.clone(), health.clone()).await?;
            self.record(&settlements, &health).await;
            Ok(())
        })
        .await
    }

    async fn delivery(&self, id: DeliveryId) -> Result<Option<Delivery>, StoreError> {
        self.inner.delivery(id).await
    }

    async fn deliveries(&self, query: DeliveryQuery) -> Result<DeliveryPage, StoreError> {
        self.inner.deliveries(query).await
    }

    async fn requeue(
        &self,
        ids: Vec<DeliveryId>,
        cause: CycleCause,
        now: Timestamp,
    ) -> Result<Vec<DueEntry>, StoreError> {
        self.inner.requeue(ids, cause, now).await
    }

    async fn end(
        &self,
        ids: Vec<DeliveryId>,
        from: StateKind,
        into: DeliveryState,
    ) -> Result<Vec<DeliveryId>, StoreError> {
        self.inner.end(ids, from, into).await
    }

    async fn destinations_with_work(&self) -> Result<Vec<DestinationId>, StoreError> {
        self.inner.destinations_with_work().await
    }

    async fn backlog(&self, id: DestinationId, cap: usize) -> Result<Backlog, StoreError> {
        self.inner.backlog(id, cap).await
    }

    async fn ahead(&self, id: DeliveryId, due: Option<Timestamp>, cap: usize) -> Result<usize, StoreError> {
        self.inner.ahead(id, due, cap).await
    }
}

#[async_trait]
impl DestinationStore for StrainedStore {
    async fn create_destination(
        &self,
        destination: Destination,
        quota: Option<DestinationQuota>,
    ) -> Result<Arc<Destination>, StoreError> {
        self.inner.create_destination(destination, quota).await
    }

    async fn update_destination(
        &self,
        destination: Destination,
        expected: u64,
    ) -> Result<Arc<Destination>, StoreError> {
        self.inner.update_destination(destination, expected).await
    }

    async fn delete_destination(&self, id: DestinationId, expected: Option<u64>) -> Result<(), StoreError> {
        self.inner.delete_destination(id, expected).await
    }
}

#[async_trait]
impl OrganizationStore for StrainedStore {
    async fn create_organization(&self, organization: Organization) -> Result<Arc<Organization>, StoreError> {
        self.inner.create_organization(organization).await
    }

    async fn update_organization(
        &self,
        organization: Organization,
        expected: u64,
    ) -> Result<Arc<Organization>, StoreError> {
        self.inner.update_organization(organization, expected).await
    }
}

#[async_trait]
impl ReplayStore for StrainedStore {
    async fn create_replay(&self, replay: Replay) -> Result<Replay, StoreError> {
        self.inner.create_replay(replay).await
    }

    async fn replay(&self, id: ReplayId) -> Result<Option<Replay>, StoreError> {
        self.inner.replay(id).await
    }

    async fn replays(&self, query: ReplayQuery) -> Result<ReplayPage, StoreError> {
        self.inner.replays(query).await
    }

    async fn running_replays(&self) -> Result<Vec<Replay>, StoreError> {
        self.read(self.inner.running_replays()).await
    }

    async fn step_replay(
        &self,
        id: ReplayId,
        step: ReplayStep,
        now: Timestamp,
    ) -> Result<Replay, StoreError> {
        self.change(self.inner.step_replay(id, step, now)).await
    }

    async fn cancel_replay(&self, id: ReplayId, now: Timestamp) -> Result<Replay, StoreError> {
        self.inner.cancel_replay(id, now).await
    }

    async fn covered(&self, query: CoverQuery) -> Result<CoverPage, StoreError> {
        self.read(self.inner.covered(query)).await
    }
}

#[async_trait]
impl RetentionStore for StrainedStore {
    async fn sweep(&self, cuts: Arc<Cuts>, from: SweepFrom, budget: usize) -> Result<Swept, StoreError> {
        self.inner.sweep(cuts, from, budget).await
    }

    async fn erase_event(&self, key: EventKey, now: Timestamp) -> Result<Option<ErasedEvent>, StoreError> {
        self.inner.erase_event(key, now).await
    }

    async fn begin_erasure(
        &self,
        id: &OrganizationId,
        expected: Option<u64>,
    ) -> Result<Vec<DestinationId>, StoreError> {
        self.inner.begin_erasure(id, expected).await
    }

    async fn erase_step(
        &self,
        id: &OrganizationId,
        from: Option<EraseFrom>,
        budget: usize,
    ) -> Result<Option<EraseFrom>, StoreError> {
        self.inner.erase_step(id, from, budget).await
    }
}

#[async_trait]
impl AuditStore for StrainedStore {
    async fn record_audit(&self, entries: Vec<AuditEntry>) -> Result<(), StoreError> {
        self.inner.record_audit(entries).await
    }

    async fn audit(&self, query: AuditQuery) -> Result<AuditPage, StoreError> {
        self.inner.audit(query).await
    }

    async fn expire_audit(&self, before: Timestamp, budget: usize) -> Result<usize, StoreError> {
        self.inner.expire_audit(before, budget).await
    }

    async fn forget_audit_contents(
        &self,
        id: &OrganizationId,
        after: Option<AuditEntryId>,
        budget: usize,
    ) -> Result<Option<AuditEntryId>, StoreError> {
        self.inner.forget_audit_contents(id, after, budget).await
    }
}

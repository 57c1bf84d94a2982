//! The store: traits in domain verbs, each call atomic, and their implementations.
//!
//! Callers see no keys, no scans and no transactions. Whatever a call changes is either all there
//! after a crash or not there at all. [`EventStore::accept`] returns only when the events and their
//! deliveries are durable (fsynced); [`DeliveryStore::settle`] may return before that, because a crash
//! that forgets an outcome repeats a delivery and never loses one.
//!
//! Lanes learn of new work through a [`CommitListener`], which is called after the commit, so that
//! the hot path never reads back what it has just written.
//!
//! `conformance` holds the one suite of tests that every implementation passes.

pub mod audit;
pub mod backup;
pub mod changes;
#[cfg(test)]
pub(crate) mod conformance;
pub mod directory;
mod error;
pub mod key_file;
pub mod keyring;
mod lifecycle;
pub mod memory;
pub mod postgres;
mod query;
mod quota;
pub mod record;
mod replay;
pub mod retention;
mod riders;
pub mod seals;
mod settlement;
pub mod sled;
pub mod survey;
pub mod unfinished;

use std::sync::Arc;

use async_trait::async_trait;

use crate::domain::audit::AuditEntry;
use crate::domain::delivery::{CycleCause, Delivery, DeliveryState, StateKind};
use crate::domain::destination::{Destination, DestinationHealth};
use crate::domain::event::{Acceptance, Event, NewEvent};
use crate::domain::id::{DeliveryId, DestinationId, EventId, EventKey, OrganizationId, ReplayId};
use crate::domain::organization::Organization;
use crate::domain::time::Timestamp;
pub use audit::{AuditPage, AuditQuery, AuditStore};
use changes::ChangeFeed;
use directory::Directory;
pub use error::StoreError;
pub use query::{Backlog, DeliveryPage, DeliveryQuery, Page};
pub use quota::DestinationQuota;
pub use replay::{
    CoverPage, CoverQuery, ReplayAction, ReplayPage, ReplayQuery, ReplayStep, ReplayStore, Wants,
};
use retention::{Cuts, EraseFrom, ErasedEvent, Footprint, SweepFrom, Swept};
pub use settlement::{DueEntry, Settlement, Stage};

/// Everything that a running service needs to be kept.
pub trait Store:
    EventStore + DeliveryStore + DestinationStore + OrganizationStore + ReplayStore + RetentionStore + AuditStore
{
    /// The in-memory snapshot of organizations and destinations; it changes with each commit.
    fn directory(&self) -> &Arc<Directory>;

    /// The latest changes of deliveries; it grows with each commit, and after each settlement.
    fn changes(&self) -> &Arc<ChangeFeed>;

    /// How much is stored, as of the last commit; it costs nothing to ask.
    fn footprint(&self) -> Footprint;

    /// The same store, whose next change commits this entry of the audit log together with itself: both are
    /// there after a crash, or neither. A call that changes nothing leaves no entry. Where the change is of
    /// several things, the entry says of how many.
    fn noting(&self, entry: AuditEntry) -> Arc<dyn Store>;

    /// The same store, whose next change accepts these events together with itself: all of them are there
    /// after a crash, or nothing. They tell of the change. A call that changes nothing accepts none; an event
    /// whose id is taken is passed over, so that telling something once more does no harm. The free-space
    /// watermark does not count for them: what they tell of happens in any case.
    fn telling(&self, events: Vec<NewEvent>) -> Arc<dyn Store>;

    /// Begins a backup; `None` where the store is a database that has backups of its own. Everything acknowledged
    /// before is inside.
    ///
    /// # Errors
    /// [`StoreError::Busy`] where one is being made.
    fn back_up(&self) -> Option<Result<Box<dyn backup::Backup>, StoreError>> {
        None
    }

    /// Names the one who is told of commits. It is called on the store's own thread, in commit order,
    /// and may block to hold ingest back. May be set once, before the first write.
    fn listen(&self, listener: Arc<dyn CommitListener>);

    /// Whether this process may run the lane of a destination now. Where replicas share a store, lanes are leased:
    /// what it answers may change at any moment, and the listener is told.
    fn owns(&self, _id: DestinationId) -> bool {
        true
    }

    /// Whether this process does what one of all replicas must do: retention and the steps of replays.
    fn leads(&self) -> bool {
        true
    }
}

/// Which lanes were lost.
#[derive(Clone)]
pub struct LostLanes(Arc<dyn Fn(DestinationId) -> bool + Send + Sync>);

impl LostLanes {
    /// The lanes of the destinations for which this is true.
    pub fn of(is_lost: impl Fn(DestinationId) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(is_lost))
    }

    /// Whether the lane of a destination was lost.
    #[must_use]
    pub fn has(&self, id: DestinationId) -> bool {
        (self.0)(id)
    }
}

impl std::fmt::Debug for LostLanes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LostLanes(…)")
    }
}

/// Who is told of commits, after they are durable.
pub trait CommitListener: Send + Sync {
    /// These events are new and durable, in order of their keys.
    fn accepted(&self, events: &[Arc<Event>]);
    /// These deliveries wait again, because of a resend or a replay.
    fn requeued(&self, entries: &[DueEntry]);
    /// These deliveries are finished without the lane's doing (cancelled, dead letter deleted).
    fn ended(&self, ids: &[DeliveryId]);
    /// A destination was created, changed, paused, resumed or deleted.
    fn destination_changed(&self, id: DestinationId);
    /// A replay was started or cancelled.
    fn replay_changed(&self, _id: ReplayId) {}
    /// Lanes are this process's from here on; these destinations have deliveries that wait in the store.
    fn lanes_gained(&self, _ids: &[DestinationId]) {}
    /// These lanes are no longer this process's.
    fn lanes_lost(&self, _lost: &LostLanes) {}
}

/// So many bytes of data end a page of events, however few they are: what is read must fit into memory.
pub const EVENT_PAGE_BYTES: usize = 1 << 20;

/// Events: accepted once, never changed.
#[async_trait]
pub trait EventStore: Send + Sync {
    /// Makes the events and their at-least-once deliveries durable, in one step, and returns one answer
    /// each, in the same order. Keys are given here, so that they grow in commit order.
    ///
    /// The same id in the same organization with the same type, time, level and data is a duplicate of
    /// the first; with anything else in it, a conflict. Both write nothing. Ids are also compared within
    /// the call and with calls under way.
    ///
    /// # Errors
    /// [`StoreError::Busy`] when too much waits to be written, [`StoreError::Full`] below the free-space
    /// watermark, [`StoreError::Unavailable`]. Nothing of the call was written then.
    async fn accept(&self, events: Vec<NewEvent>) -> Result<Vec<Acceptance>, StoreError>;

    /// The same for events that were routed by this version of the [`Directory`]. A store that others change, too,
    /// refuses them where that is not the latest version any more.
    ///
    /// # Errors
    /// The same, and [`StoreError::RoutedByOldDirectory`]; the directory is as of a later version then.
    async fn accept_routed(
        &self,
        events: Vec<NewEvent>,
        _directory_version: u64,
    ) -> Result<Vec<Acceptance>, StoreError> {
        self.accept(events).await
    }

    /// The events with these keys, in the same order; `None` where there is none (any more).
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] or [`StoreError::Corrupt`].
    async fn load_events(&self, keys: Vec<EventKey>) -> Result<Vec<Option<Arc<Event>>>, StoreError>;

    /// The event of an organization by the id that callers know.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] or [`StoreError::Corrupt`].
    async fn find_event(
        &self,
        organization_id: &OrganizationId,
        event_id: &EventId,
    ) -> Result<Option<Arc<Event>>, StoreError>;
}

/// Deliveries and their history.
///
/// A waiting at-least-once delivery is *fresh* until its first attempt is settled: it waits in order of
/// its key. After that it is *due*: it waits in order of its due time.
#[async_trait]
pub trait DeliveryStore: Send + Sync {
    /// The events of fresh deliveries of a destination in order of their keys, after `after`; at most `limit`,
    /// and none after the one with which the page has [`EVENT_PAGE_BYTES`] of data.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] or [`StoreError::Corrupt`].
    async fn load_fresh(
        &self,
        destination_id: DestinationId,
        after: Option<EventKey>,
        limit: usize,
    ) -> Result<Page<Arc<Event>>, StoreError>;

    /// Deliveries of a destination that wait for a due time, in order of (due, key), after `after`.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] or [`StoreError::Corrupt`].
    async fn load_due(
        &self,
        destination_id: DestinationId,
        after: Option<(Timestamp, EventKey)>,
        limit: usize,
    ) -> Result<Page<DueEntry>, StoreError>;

    /// Records outcomes: state, attempt, due order, dead letters, health and what is told of them change
    /// together.
    ///
    /// A delivery that was finished meanwhile by a caller (cancelled, say) keeps that state and gets the
    /// attempt on its record; only a success overrides it. Visible to reads when the call returns;
    /// durable with the next commit, at the latest half a second later, and on return where something is
    /// told. The same outcomes once more change nothing.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]; the outcomes were not recorded then, or nobody heard that they were.
    async fn settle(
        &self,
        settlements: Vec<Settlement>,
        health: Vec<(DestinationId, DestinationHealth)>,
    ) -> Result<(), StoreError>;

    /// One delivery with its attempts.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] or [`StoreError::Corrupt`].
    async fn delivery(&self, id: DeliveryId) -> Result<Option<Delivery>, StoreError>;

    /// Deliveries that fit the query, newest event first; those of one event in order of destination id.
    ///
    /// A call looks at a bounded number of rows. Where that does not fill the page,
    /// [`DeliveryPage::next`] says where to go on, even if the page is empty.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] or [`StoreError::Corrupt`].
    async fn deliveries(&self, query: DeliveryQuery) -> Result<DeliveryPage, StoreError>;

    /// Begins a new cycle of attempts for each of these deliveries, due now, whatever their state, and
    /// tells the listener. Durable on return. Ids that are unknown, or whose event is gone, are left out.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Busy`].
    async fn requeue(
        &self,
        ids: Vec<DeliveryId>,
        cause: CycleCause,
        now: Timestamp,
    ) -> Result<Vec<DueEntry>, StoreError>;

    /// Ends those of these deliveries whose state is of kind `from`, and tells the listener. Durable on
    /// return; answers the ids that were ended.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Busy`].
    async fn end(
        &self,
        ids: Vec<DeliveryId>,
        from: StateKind,
        into: DeliveryState,
    ) -> Result<Vec<DeliveryId>, StoreError>;

    /// The destinations for which deliveries wait in the store, deleted ones too; for the start.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn destinations_with_work(&self) -> Result<Vec<DestinationId>, StoreError>;

    /// How many deliveries of a destination wait in the store, since when the oldest, and how many dead
    /// letters it has; each count stops at `cap`.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn backlog(&self, destination_id: DestinationId, cap: usize) -> Result<Backlog, StoreError>;

    /// How many deliveries of its destination come before this one, which waits: of the fresh ones where
    /// `due` is `None`, otherwise of those that wait for a due time. Counting stops at `cap`.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn ahead(&self, id: DeliveryId, due: Option<Timestamp>, cap: usize) -> Result<usize, StoreError>;
}

/// Destinations. Reads go to the [`Directory`].
#[async_trait]
pub trait DestinationStore: Send + Sync {
    /// Stores a new destination, durable on return, unless the organization has as many as its quota allows.
    ///
    /// # Errors
    /// [`StoreError::LimitReached`], [`StoreError::Full`], [`StoreError::Unavailable`].
    async fn create_destination(
        &self,
        destination: Destination,
        quota: Option<DestinationQuota>,
    ) -> Result<Arc<Destination>, StoreError>;

    /// Replaces a destination whose revision is `expected`; the new one has the next revision.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Stale`], [`StoreError::Unavailable`].
    async fn update_destination(
        &self,
        destination: Destination,
        expected: u64,
    ) -> Result<Arc<Destination>, StoreError>;

    /// Removes a destination and its health; its deliveries stay on record until retention.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Stale`], [`StoreError::Unavailable`].
    async fn delete_destination(&self, id: DestinationId, expected: Option<u64>) -> Result<(), StoreError>;
}

/// Organizations. Reads go to the [`Directory`].
#[async_trait]
pub trait OrganizationStore: Send + Sync {
    /// Stores a new organization; durable on return.
    ///
    /// # Errors
    /// [`StoreError::AlreadyExists`], [`StoreError::Full`], [`StoreError::Unavailable`].
    async fn create_organization(&self, organization: Organization) -> Result<Arc<Organization>, StoreError>;

    /// Replaces an organization whose revision is `expected`; the new one has the next revision.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Stale`], [`StoreError::Unavailable`].
    async fn update_organization(
        &self,
        organization: Organization,
        expected: u64,
    ) -> Result<Arc<Organization>, StoreError>;
}

/// Removing what is too old or must go. Each call is a small step, so that it never holds up others.
#[async_trait]
pub trait RetentionStore: Send + Sync {
    /// One step through dead letters, events and replays, from `from` on: what is too old goes, at most
    /// `budget` of it. An event goes with all its deliveries and its id, and only when none of them waits or
    /// is a dead letter; early, with its dead letters. An expired dead letter is discarded first, and the
    /// listener told.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Busy`].
    async fn sweep(&self, cuts: Arc<Cuts>, from: SweepFrom, budget: usize) -> Result<Swept, StoreError>;

    /// Erases the data of an event and what receivers answered to it, ends its deliveries that wait, and
    /// tells the listener. Durable on return; `None` where there is no such event.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Busy`].
    async fn erase_event(&self, key: EventKey, now: Timestamp) -> Result<Option<ErasedEvent>, StoreError>;

    /// Removes an organization and its destinations, and marks it as being erased until
    /// [`RetentionStore::erase_step`] has removed the rest: nothing of it can be written meanwhile. Durable
    /// on return, also over a crash. Answers its destinations; none where it is being erased already.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Stale`], [`StoreError::Unavailable`].
    async fn begin_erasure(
        &self,
        organization_id: &OrganizationId,
        expected: Option<u64>,
    ) -> Result<Vec<DestinationId>, StoreError>;

    /// Removes at most `budget` records of an organization that is being erased, and answers where to go
    /// on. After the last step, `None`, its id is free again.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Busy`].
    async fn erase_step(
        &self,
        organization_id: &OrganizationId,
        from: Option<EraseFrom>,
        budget: usize,
    ) -> Result<Option<EraseFrom>, StoreError>;
}

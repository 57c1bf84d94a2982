//! Keeping replays: what they cover, how far they are, and the step that puts deliveries back.

use std::sync::Arc;

use async_trait::async_trait;

use super::{DueEntry, StoreError};
use crate::domain::event::{EventType, Level};
use crate::domain::id::{DeliveryId, DestinationId, OrganizationId, ReplayId};
use crate::domain::replay::{Replay, ReplayScope, ReplayState, ReplayStateKind};
use crate::domain::time::Timestamp;

/// Replays, which go on after a restart.
#[async_trait]
pub trait ReplayStore: Send + Sync {
    /// Stores a new replay, durable on return, and tells the listener.
    ///
    /// # Errors
    /// [`StoreError::ReplayRunning`] where one that runs in the same organization overlaps with it,
    /// [`StoreError::Full`], [`StoreError::Unavailable`].
    async fn create_replay(&self, replay: Replay) -> Result<Replay, StoreError>;

    /// One replay.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] or [`StoreError::Corrupt`].
    async fn replay(&self, id: ReplayId) -> Result<Option<Replay>, StoreError>;

    /// Replays that fit the query, the latest first. A call looks at a bounded number of them; where that
    /// does not fill the page, [`ReplayPage::next`] says where to go on, even if the page is empty.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] or [`StoreError::Corrupt`].
    async fn replays(&self, query: ReplayQuery) -> Result<ReplayPage, StoreError>;

    /// All replays that run, of all organizations, the oldest first.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn running_replays(&self) -> Result<Vec<Replay>, StoreError>;

    /// Does a step of a replay and records it in the same commit, so that after a crash each delivery was
    /// put back once or not at all; answers the replay as it is then. A step from where the replay does
    /// not stand (any more) does nothing. The listener hears of what waits again. Durable on return where
    /// deliveries were put back.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Full`] where deliveries would be created,
    /// [`StoreError::Unavailable`].
    async fn step_replay(&self, id: ReplayId, step: ReplayStep, now: Timestamp)
    -> Result<Replay, StoreError>;

    /// Stops a replay that runs, durable on return, and tells the listener; one that does not run stays
    /// as it is. Answers the replay.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Unavailable`].
    async fn cancel_replay(&self, id: ReplayId, now: Timestamp) -> Result<Replay, StoreError>;

    /// The deliveries that a scope covers, in order of their ids. A call looks at a bounded number of
    /// rows; [`CoverPage::next`] says where to go on, even if the page is empty.
    ///
    /// A missed event is covered where the destination has no delivery of it, or one that ended without
    /// success; an operational event only in the second case. What still waits is not covered; nor is a best-effort delivery without a record, which may
    /// be in memory.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn covered(&self, query: CoverQuery) -> Result<CoverPage, StoreError>;
}

/// One step of a replay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayStep {
    /// Where the replay must stand.
    pub from: ReplayState,
    /// What to do.
    pub action: ReplayAction,
}

/// What a step does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplayAction {
    /// So many more are covered, up to `next`; `None`: all are counted.
    Count {
        /// How many.
        found: u64,
        /// Where counting goes on.
        next: Option<DeliveryId>,
    },
    /// Begins a new cycle of attempts for these, due now; those that the replay does not take any more are
    /// passed over. For a missed event without a delivery one is created.
    Send {
        /// Which.
        ids: Vec<DeliveryId>,
        /// Where sending goes on; `None`: that was all.
        next: Option<DeliveryId>,
    },
    /// The replay can't go on, for this reason.
    Fail(String),
}

/// Does a step in the replay's record: `send` puts deliveries back and answers those that it took. Answers
/// them, or none where the replay does not stand where the step begins (any more).
pub(super) fn take_step(
    replay: &mut Replay,
    step: ReplayStep,
    now: Timestamp,
    send: impl FnOnce(&Replay, &[DeliveryId]) -> Result<Vec<DueEntry>, StoreError>,
) -> Result<Option<Vec<DueEntry>>, StoreError> {
    if replay.state != step.from {
        return Ok(None);
    }
    match step.action {
        ReplayAction::Count { found, next } => replay.counted(found, next),
        ReplayAction::Fail(error) => replay.fail(error, now),
        ReplayAction::Send { ids, next } => {
            let entries = send(replay, &ids)?;
            replay.sent((ids.len() as u64, entries.len() as u64), next, now);
            return Ok(Some(entries));
        }
    }
    Ok(Some(Vec::new()))
}

/// Which replays to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayQuery {
    /// Whose.
    pub organization_id: OrganizationId,
    /// In one of these states; empty means any.
    pub states: Vec<ReplayStateKind>,
    /// Only replays that come after this one in the list.
    pub after: Option<ReplayId>,
    /// The most rows.
    pub limit: usize,
}

/// Some replays of a list, and where the list goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayPage {
    /// The rows.
    pub rows: Vec<Replay>,
    /// The `after` of the next page; `None` at the end of the list.
    pub next: Option<ReplayId>,
}

/// Whether a destination wants an event of this type and level.
pub type Wants = Arc<dyn Fn(&EventType, Level) -> bool + Send + Sync>;

/// Which deliveries a scope covers.
#[derive(Clone)]
pub struct CoverQuery {
    /// Whose.
    pub organization_id: OrganizationId,
    /// What is covered.
    pub scope: ReplayScope,
    /// Of these destinations; the caller names all where it means all, and exactly one for missed events.
    pub destination_ids: Vec<DestinationId>,
    /// Which missed events the destination wants; others need none.
    pub wants: Wants,
    /// What came to its end later is not covered.
    pub by: Timestamp,
    /// Only deliveries whose ids come after this one.
    pub after: Option<DeliveryId>,
    /// The most rows.
    pub limit: usize,
}

/// Some deliveries that are covered, and where to go on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CoverPage {
    /// The deliveries, in order of their ids; missed ones need not exist.
    pub ids: Vec<DeliveryId>,
    /// The `after` of the next page; `None` at the end.
    pub next: Option<DeliveryId>,
}

impl CoverQuery {
    /// The destinations that are still to come, in order, each once.
    pub(super) fn destinations_to_come(&self) -> Vec<DestinationId> {
        let mut ids = self.destination_ids.clone();
        ids.retain(|id| self.after.is_none_or(|after| *id >= after.destination_id));
        ids.sort_unstable();
        ids.dedup();
        ids
    }
}

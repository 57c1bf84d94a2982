//! Replays: runs that put many deliveries back in their lanes, at a pace.

use super::delivery::{Delivery, StateKind};
use super::event::EventType;
use super::id::{DeliveryId, DestinationId, EventKey, OrganizationId, ReplayId};
use super::time::Timestamp;

/// The slowest pace, in deliveries a second.
pub const PER_SECOND_MIN: u32 = 1;
/// The fastest pace.
pub const PER_SECOND_MAX: u32 = 10_000;
/// The pace where the caller does not say.
pub const PER_SECOND_DEFAULT: u32 = 100;

/// What a replay replays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplayKind {
    /// Dead letters.
    DeadLetters,
    /// Deliveries that succeeded, once more.
    Succeeded,
    /// Events that the destination wants and never got.
    Missed,
}

impl ReplayKind {
    /// Whether it takes a delivery that is in such a state.
    #[must_use]
    pub const fn takes(self, state: StateKind) -> bool {
        match self {
            ReplayKind::DeadLetters => matches!(state, StateKind::DeadLettered),
            ReplayKind::Succeeded => matches!(state, StateKind::Succeeded),
            ReplayKind::Missed => {
                matches!(state, StateKind::DeadLettered | StateKind::Discarded | StateKind::Cancelled)
            }
        }
    }
}

/// What a replay covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayScope {
    /// What it replays.
    pub kind: ReplayKind,
    /// For this destination; `None` means all of the organization, for dead letters only.
    pub destination_id: Option<DestinationId>,
    /// Of one of these types; empty means any.
    pub event_types: Vec<EventType>,
    /// Of this event alone.
    pub event_key: Option<EventKey>,
    /// From this moment on: for dead letters when they became one, else when the event was accepted.
    pub from: Option<Timestamp>,
    /// Before this moment, in the same sense.
    pub until: Option<Timestamp>,
}

impl ReplayScope {
    /// Whether both may concern the same destination.
    #[must_use]
    pub fn overlaps(&self, other: &ReplayScope) -> bool {
        match (self.destination_id, other.destination_id) {
            (Some(one), Some(another)) => one == another,
            _ => true,
        }
    }

    /// Whether an event of this type can be covered.
    #[must_use]
    pub fn has_type(&self, event_type: &EventType) -> bool {
        self.event_types.is_empty() || self.event_types.contains(event_type)
    }

    /// Whether a moment, in the sense of the scope, is in its range.
    #[must_use]
    pub fn has_moment(&self, moment: Timestamp) -> bool {
        self.from.is_none_or(|from| moment >= from) && self.until.is_none_or(|until| moment < until)
    }

    /// Whether it covers this delivery, for a replay that was started at `by`. What has come to its end
    /// since then is not covered, so that nothing is put back twice by one replay.
    #[must_use]
    pub fn covers(&self, delivery: &Delivery, by: Timestamp) -> bool {
        let Some(ended_at) = delivery.state.finished_at() else { return false };
        let moment = match self.kind {
            ReplayKind::DeadLetters => ended_at,
            ReplayKind::Succeeded | ReplayKind::Missed => delivery.created_at,
        };
        self.kind.takes(delivery.state.kind())
            && ended_at <= by
            && self.has_moment(moment)
            && self.has_type(&delivery.event_type)
            && self.event_key.is_none_or(|key| key == delivery.id.event_key)
    }
}

/// Where a replay stands. Only one that runs has a place where it goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplayState {
    /// Finds out how many deliveries it covers; those up to `after` are counted.
    Counting {
        /// The last one that was looked at.
        after: Option<DeliveryId>,
    },
    /// Puts deliveries in their lanes; those up to `after` are.
    Sending {
        /// The last one that was looked at.
        after: Option<DeliveryId>,
    },
    /// Has put all in their lanes.
    Completed {
        /// When.
        at: Timestamp,
    },
    /// Stopped by a caller.
    Cancelled {
        /// When.
        at: Timestamp,
    },
    /// Could not go on.
    Failed {
        /// When.
        at: Timestamp,
        /// Why, for people.
        error: String,
    },
}

/// A [`ReplayState`] without its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReplayStateKind {
    /// Counting or sending.
    Running,
    /// See [`ReplayState::Completed`].
    Completed,
    /// See [`ReplayState::Cancelled`].
    Cancelled,
    /// See [`ReplayState::Failed`].
    Failed,
}

impl ReplayState {
    /// The kind alone.
    #[must_use]
    pub const fn kind(&self) -> ReplayStateKind {
        match self {
            ReplayState::Counting { .. } | ReplayState::Sending { .. } => ReplayStateKind::Running,
            ReplayState::Completed { .. } => ReplayStateKind::Completed,
            ReplayState::Cancelled { .. } => ReplayStateKind::Cancelled,
            ReplayState::Failed { .. } => ReplayStateKind::Failed,
        }
    }

    /// Whether it goes on.
    #[must_use]
    pub const fn is_running(&self) -> bool {
        matches!(self.kind(), ReplayStateKind::Running)
    }

    /// When it came to its end.
    #[must_use]
    pub const fn finished_at(&self) -> Option<Timestamp> {
        match self {
            ReplayState::Counting { .. } | ReplayState::Sending { .. } => None,
            ReplayState::Completed { at }
            | ReplayState::Cancelled { at }
            | ReplayState::Failed { at, .. } => Some(*at),
        }
    }
}

/// A run that puts deliveries back in their lanes, and how far it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replay {
    /// Made by us, never changes; grows with time.
    pub id: ReplayId,
    /// Whose it is.
    pub organization_id: OrganizationId,
    /// What it covers.
    pub scope: ReplayScope,
    /// The pace, in deliveries a second.
    pub per_second: u32,
    /// Who started it.
    pub started_by: String,
    /// When it was started; what came to its end later is not covered.
    pub created_at: Timestamp,
    /// Where it stands.
    pub state: ReplayState,
    /// How many deliveries it covers, as far as it has counted.
    pub total: u64,
    /// How many it has put in a lane.
    pub replayed: u64,
    /// How many of those have succeeded since.
    pub succeeded: u64,
    /// How many of those have ended without success since.
    pub failed: u64,
    /// How many it passed over.
    pub skipped: u64,
}

impl Replay {
    /// So many more are covered, up to `next`; `None` means that all are counted.
    pub fn counted(&mut self, found: u64, next: Option<DeliveryId>) {
        self.total = self.total.saturating_add(found);
        self.state = match next {
            Some(after) => ReplayState::Counting { after: Some(after) },
            None => ReplayState::Sending { after: None },
        };
    }

    /// Of so many that it found, it put some in their lanes, up to `next`; `None` means that it is done.
    pub fn sent(&mut self, (found, replayed): (u64, u64), next: Option<DeliveryId>, now: Timestamp) {
        self.replayed = self.replayed.saturating_add(replayed);
        self.skipped = self.skipped.saturating_add(found.saturating_sub(replayed));
        if let Some(after) = next {
            self.state = ReplayState::Sending { after: Some(after) };
            return;
        }
        // What was counted and not found any more was passed over, too.
        self.total = self.total.max(self.replayed.saturating_add(self.skipped));
        self.skipped = self.total.saturating_sub(self.replayed);
        self.state = ReplayState::Completed { at: now };
    }

    /// A caller stops it; answers whether that was possible.
    pub fn cancel(&mut self, now: Timestamp) -> bool {
        let running = self.state.is_running();
        if running {
            self.state = ReplayState::Cancelled { at: now };
        }
        running
    }

    /// It can't go on.
    pub fn fail(&mut self, error: String, now: Timestamp) {
        self.state = ReplayState::Failed { at: now, error };
    }

    /// A delivery that it put in a lane has come to its end.
    pub fn ended(&mut self, success: bool) {
        let count = if success { &mut self.succeeded } else { &mut self.failed };
        *count = count.saturating_add(1);
    }
}

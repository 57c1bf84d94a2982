//! Deliveries: one event for one destination, with a state.

use super::attempt::Attempt;
use super::event::EventType;
use super::id::{DeliveryId, EventId, OrganizationId, ReplayId};
use super::settings::Guarantee;
use super::time::Timestamp;

/// How many of its latest attempts a delivery keeps; the count goes on.
pub const ATTEMPTS_KEPT: usize = 16;

/// Where a delivery stands. A finished one has no due time, so none can be forgotten there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeliveryState {
    /// Waits for an attempt, not before `due`.
    Waiting {
        /// The earliest time of the next attempt.
        due: Timestamp,
    },
    /// The receiver took it.
    Succeeded {
        /// When.
        at: Timestamp,
    },
    /// It ran out of attempts and waits for a decision.
    DeadLettered {
        /// When.
        at: Timestamp,
        /// Why no further attempt is made.
        reason: EndReason,
    },
    /// It was given up on purpose.
    Discarded {
        /// When.
        at: Timestamp,
        /// Why.
        reason: EndReason,
    },
    /// A caller cancelled it.
    Cancelled {
        /// When.
        at: Timestamp,
    },
}

/// Why a delivery ended without success.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndReason {
    /// The last attempt that the retry policy allows failed.
    AttemptsExhausted,
    /// The policy's give-up time has passed, or would before the next attempt.
    GaveUp,
    /// The receiver answered with a status that is final.
    FinalStatus,
    /// It grew older than the destination's discard time.
    TooOld,
    /// The destination is lossy and its receiver was failing.
    Lossy,
    /// A best-effort delivery found the destination's memory window full.
    WindowFull,
    /// A best-effort delivery was not flushed before the process had to stop.
    Stopped,
    /// The destination was deleted.
    DestinationDeleted,
    /// Its dead letter was deleted.
    DeadLetterDeleted,
    /// Nobody acted on its dead letter before it expired.
    DeadLetterExpired,
    /// The event's data is no longer there.
    EventGone,
}

impl EndReason {
    /// All of them.
    pub const ALL: [EndReason; 11] = [
        EndReason::AttemptsExhausted,
        EndReason::GaveUp,
        EndReason::FinalStatus,
        EndReason::TooOld,
        EndReason::Lossy,
        EndReason::WindowFull,
        EndReason::Stopped,
        EndReason::DestinationDeleted,
        EndReason::DeadLetterDeleted,
        EndReason::DeadLetterExpired,
        EndReason::EventGone,
    ];

    /// The lower-case word for logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            EndReason::AttemptsExhausted => "attempts_exhausted",
            EndReason::GaveUp => "gave_up",
            EndReason::FinalStatus => "final_status",
            EndReason::TooOld => "too_old",
            EndReason::Lossy => "lossy",
            EndReason::WindowFull => "window_full",
            EndReason::Stopped => "stopped",
            EndReason::DestinationDeleted => "destination_deleted",
            EndReason::DeadLetterDeleted => "dead_letter_deleted",
            EndReason::DeadLetterExpired => "dead_letter_expired",
            EndReason::EventGone => "event_gone",
        }
    }

    /// A sentence for people.
    #[must_use]
    pub const fn as_sentence(self) -> &'static str {
        match self {
            EndReason::AttemptsExhausted => "all attempts that the retry policy allows have failed",
            EndReason::GaveUp => "no attempt may begin after the retry policy's give-up time",
            EndReason::FinalStatus => "the receiver answered with a status that ends the delivery",
            EndReason::TooOld => "older than the destination's discard time",
            EndReason::Lossy => "dropped while the receiver was failing, as the lossy setting asks",
            EndReason::WindowFull => "the best-effort window of the destination was full",
            EndReason::Stopped => "best effort, and the process stopped before it could be delivered",
            EndReason::DestinationDeleted => "the destination was deleted",
            EndReason::DeadLetterDeleted => "its dead letter was deleted",
            EndReason::DeadLetterExpired => "its dead letter expired before anybody acted on it",
            EndReason::EventGone => "the event's data is no longer stored",
        }
    }
}

impl DeliveryState {
    /// Whether no further attempt will be made by itself.
    #[must_use]
    pub const fn is_finished(&self) -> bool {
        !matches!(self, DeliveryState::Waiting { .. })
    }

    /// Why it ended without success, where it did and nobody asked for it.
    #[must_use]
    pub const fn reason(&self) -> Option<EndReason> {
        match self {
            DeliveryState::DeadLettered { reason, .. } | DeliveryState::Discarded { reason, .. } => {
                Some(*reason)
            }
            DeliveryState::Waiting { .. }
            | DeliveryState::Succeeded { .. }
            | DeliveryState::Cancelled { .. } => None,
        }
    }

    /// The kind alone, for filters.
    #[must_use]
    pub const fn kind(&self) -> StateKind {
        match self {
            DeliveryState::Waiting { .. } => StateKind::Waiting,
            DeliveryState::Succeeded { .. } => StateKind::Succeeded,
            DeliveryState::DeadLettered { .. } => StateKind::DeadLettered,
            DeliveryState::Discarded { .. } => StateKind::Discarded,
            DeliveryState::Cancelled { .. } => StateKind::Cancelled,
        }
    }

    /// When it was finished.
    #[must_use]
    pub const fn finished_at(&self) -> Option<Timestamp> {
        match self {
            DeliveryState::Waiting { .. } => None,
            DeliveryState::Succeeded { at }
            | DeliveryState::DeadLettered { at, .. }
            | DeliveryState::Discarded { at, .. }
            | DeliveryState::Cancelled { at } => Some(*at),
        }
    }
}

/// A [`DeliveryState`] without its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StateKind {
    /// See [`DeliveryState::Waiting`].
    Waiting,
    /// See [`DeliveryState::Succeeded`].
    Succeeded,
    /// See [`DeliveryState::DeadLettered`].
    DeadLettered,
    /// See [`DeliveryState::Discarded`].
    Discarded,
    /// See [`DeliveryState::Cancelled`].
    Cancelled,
}

/// One event for one destination, with its attempts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Which event, which destination.
    pub id: DeliveryId,
    /// Whose it is.
    pub organization_id: OrganizationId,
    /// The event's id, as receivers know it.
    pub event_id: EventId,
    /// The event's type.
    pub event_type: EventType,
    /// When the event was accepted.
    pub created_at: Timestamp,
    /// Durable or in memory.
    pub guarantee: Guarantee,
    /// Where it stands.
    pub state: DeliveryState,
    /// Attempts in all.
    pub attempt_count: u32,
    /// Where the present cycle of attempts stands; a resend or a replay begins a new one.
    pub cycle: Cycle,
    /// The latest attempts, oldest first, at most [`ATTEMPTS_KEPT`].
    pub attempts: Vec<Attempt>,
    /// The replay that put it in its lane and waits to hear how it ends.
    pub replay_id: Option<ReplayId>,
}

/// One run through the retry policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cycle {
    /// Why the cycle began.
    pub cause: CycleCause,
    /// When it began; the give-up time counts from here.
    pub started_at: Timestamp,
    /// Attempts made in it.
    pub attempts: u32,
}

/// Why a cycle of attempts began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CycleCause {
    /// The event was routed to the destination.
    Routed,
    /// A caller asked for a resend.
    Resend,
    /// A replay, of a dead letter or of many deliveries.
    Replay,
}

impl Delivery {
    /// What went wrong last, if the last attempt failed.
    #[must_use]
    pub fn last_error(&self) -> Option<String> {
        self.attempts.last().and_then(|attempt| attempt.outcome.error())
    }

    /// Adds an attempt to the record, unless it is there, and drops the oldest beyond [`ATTEMPTS_KEPT`].
    pub fn record(&mut self, attempt: Attempt) {
        let same = |known: &Attempt| (known.number, known.started_at) == (attempt.number, attempt.started_at);
        if self.attempts.iter().any(same) {
            return;
        }
        self.attempt_count = self.attempt_count.max(attempt.number);
        self.attempts.push(attempt);
        if self.attempts.len() > ATTEMPTS_KEPT {
            self.attempts.remove(0);
        }
    }
}

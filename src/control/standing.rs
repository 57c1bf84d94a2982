//! What is true of a delivery at this moment, beyond what the store has of it: whether an attempt is under
//! way, what it waits for, and when a dead letter expires.

use std::time::Duration;

use super::Control;
use crate::contract::effective_policy;
use crate::domain::delivery::{Delivery, DeliveryState};
use crate::domain::destination::DestinationState;
use crate::domain::time::Timestamp;
use crate::store::directory::DestinationEntry;

/// What a delivery waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitReason {
    /// Its next attempt is not due.
    RetryNotDue,
    /// Others of its lane, the throttle or the concurrency limit come first.
    LaneBusy,
    /// The destination is paused.
    Paused,
    /// The destination is disabled.
    Disabled,
    /// An earlier event of an ordered destination is not finished.
    OrderHeld,
    /// The organization sends to the host as fast as the operator allows.
    HostRate,
    /// The destination was deleted; the delivery is about to be discarded.
    Deleted,
}

impl WaitReason {
    /// A sentence for people.
    #[must_use]
    pub const fn as_sentence(self) -> &'static str {
        match self {
            WaitReason::RetryNotDue => "the last attempt failed and the next one is not due",
            WaitReason::LaneBusy => "others of the lane, the throttle or the concurrency limit come first",
            WaitReason::Paused => "the destination is paused; resume it",
            WaitReason::Disabled => "the destination is disabled; resume it",
            WaitReason::OrderHeld => "the destination is ordered, and an earlier event of it is not finished",
            WaitReason::HostRate => "the organization sends to this host as fast as the operator allows",
            WaitReason::Deleted => "the destination was deleted; the delivery is about to be discarded",
        }
    }
}

/// How a delivery stands at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standing {
    /// Whether an attempt is under way.
    pub in_flight: bool,
    /// What it waits for, if it waits.
    pub wait: Option<WaitReason>,
    /// The earliest time of the next attempt, if one is planned.
    pub next_attempt_at: Option<Timestamp>,
    /// For a dead letter, when it is removed unless somebody acts.
    pub expires_at: Option<Timestamp>,
}

/// Judges a delivery by its record and by its destination, which is absent when it was deleted.
#[must_use]
pub fn standing(
    delivery: &Delivery,
    entry: Option<&DestinationEntry>,
    dead_letters_kept: Duration,
    now: Timestamp,
) -> Standing {
    let due = match &delivery.state {
        DeliveryState::Waiting { due } => *due,
        DeliveryState::DeadLettered { at, .. } => {
            return Standing { expires_at: Some(*at + dead_letters_kept), ..Standing::default() };
        }
        DeliveryState::Succeeded { .. }
        | DeliveryState::Discarded { .. }
        | DeliveryState::Cancelled { .. } => return Standing::default(),
    };
    let Some(entry) = entry else {
        return Standing { wait: Some(WaitReason::Deleted), ..Standing::default() };
    };
    if entry.status.is_in_flight_after(delivery.id.event_key, delivery.attempt_count) {
        return Standing { in_flight: true, ..Standing::default() };
    }
    let (wait, planned) = match &entry.destination.state {
        DestinationState::Paused { .. } => (WaitReason::Paused, false),
        DestinationState::Disabled { .. } => (WaitReason::Disabled, false),
        DestinationState::Active if due > now => (WaitReason::RetryNotDue, true),
        DestinationState::Active if effective_policy(&entry.destination).ordered => {
            (WaitReason::OrderHeld, true)
        }
        DestinationState::Active if entry.status.lane().host_turn_at.is_some() => {
            (WaitReason::HostRate, true)
        }
        DestinationState::Active => (WaitReason::LaneBusy, true),
    };
    // A delivery that is due is sent when its lane sends again.
    let lane = entry.status.lane();
    let lane = lane.next_attempt_at.max(lane.host_turn_at).unwrap_or(due);
    let next_attempt_at = planned.then_some(if due > now { due } else { due.max(lane) });
    Standing { wait: Some(wait), next_attempt_at, ..Standing::default() }
}

impl Control {
    /// How a delivery stands at this moment.
    #[must_use]
    pub fn standing(&self, delivery: &Delivery) -> Standing {
        let entry = self.directory().destination(delivery.id.destination_id);
        standing(delivery, entry.as_deref(), self.settings.retention.dead_letters, self.clock.now())
    }
}

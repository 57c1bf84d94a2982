//! What is true of a delivery at this moment, beyond what the store has of it: whether an attempt is under
//! way, what it waits for, and when a dead letter expires.

use super::{Control, ControlSettings, Error};
use crate::contract::effective_policy;
use crate::domain::circuit::CircuitState;
use crate::domain::delivery::{Delivery, DeliveryState};
use crate::domain::destination::DestinationState;
use crate::domain::id::{DeliveryId, EventKey};
use crate::domain::time::Timestamp;
use crate::store::directory::DestinationEntry;

/// So many pages of retries are looked at for one that is earlier.
const RETRY_PAGES: usize = 8;
const RETRY_PAGE: usize = 512;

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
    /// The circuit is open; only probes are sent.
    CircuitOpen,
    /// The operator has switched delivering off, for all contracts or for the destination's.
    SwitchedOff,
    /// The destination was deleted; the delivery is about to be discarded.
    Deleted,
}

impl WaitReason {
    /// All of them.
    pub const ALL: [WaitReason; 9] = [
        WaitReason::RetryNotDue,
        WaitReason::LaneBusy,
        WaitReason::Paused,
        WaitReason::Disabled,
        WaitReason::OrderHeld,
        WaitReason::HostRate,
        WaitReason::CircuitOpen,
        WaitReason::SwitchedOff,
        WaitReason::Deleted,
    ];

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
            WaitReason::CircuitOpen => "requests fail, and the circuit is open: one at a time probes",
            WaitReason::SwitchedOff => "the operator has switched delivering off for it",
            WaitReason::Deleted => "the destination was deleted; the delivery is about to be discarded",
        }
    }
}

/// How a delivery stands at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standing {
    /// Whether an attempt is under way, of a delivery that has not ended.
    pub in_flight: bool,
    /// Whether one is under way of a delivery that was cancelled: a success still counts.
    pub cancel_pending: bool,
    /// What it waits for, if it waits.
    pub wait: Option<WaitReason>,
    /// The earliest time of the next attempt, if one is planned.
    pub next_attempt_at: Option<Timestamp>,
    /// For a dead letter, when it is removed unless somebody acts.
    pub expires_at: Option<Timestamp>,
}

impl Standing {
    /// It waits for this, and is sent at that time at the earliest, if that is known.
    #[must_use]
    pub fn waiting((wait, next_attempt_at): (WaitReason, Option<Timestamp>)) -> Self {
        Self { wait: Some(wait), next_attempt_at, ..Self::default() }
    }
}

/// Judges a delivery by its record and by its destination, which is absent when it was deleted.
#[must_use]
pub fn standing(
    delivery: &Delivery,
    entry: Option<&DestinationEntry>,
    settings: &ControlSettings,
    now: Timestamp,
) -> Standing {
    let key = delivery.id.event_key;
    let flies = entry.is_some_and(|entry| entry.status.is_in_flight_after(key, delivery.attempt_count));
    match (&delivery.state, entry) {
        (DeliveryState::DeadLettered { at, .. }, _) => {
            let expires_at = Some(*at + settings.retention.dead_letters);
            Standing { expires_at, ..Standing::default() }
        }
        (DeliveryState::Succeeded { .. } | DeliveryState::Discarded { .. }, _) => Standing::default(),
        (DeliveryState::Cancelled { .. }, _) => Standing { cancel_pending: flies, ..Standing::default() },
        (DeliveryState::Waiting { .. }, None) => Standing::waiting((WaitReason::Deleted, None)),
        (DeliveryState::Waiting { .. }, Some(_)) if flies => {
            Standing { in_flight: true, ..Standing::default() }
        }
        (DeliveryState::Waiting { due }, Some(entry)) => {
            Standing::waiting(waits_for(entry, (key, *due), settings, now))
        }
    }
}

/// What a delivery that is due at `due` waits for, and when it is sent at the earliest, if it is.
#[must_use]
pub fn waits_for(
    entry: &DestinationEntry,
    (key, due): (EventKey, Timestamp),
    settings: &ControlSettings,
    now: Timestamp,
) -> (WaitReason, Option<Timestamp>) {
    let (destination, lane) = (&entry.destination, entry.status.lane());
    let is_ordered = effective_policy(destination).ordered;
    match &destination.state {
        DestinationState::Paused { .. } => return (WaitReason::Paused, None),
        DestinationState::Disabled { .. } => return (WaitReason::Disabled, None),
        DestinationState::Active => {}
    }
    if settings.unavailable(destination.contract).is_some() {
        return (WaitReason::SwitchedOff, None);
    }
    if is_ordered && entry.status.has_earlier_than(key) {
        return (WaitReason::OrderHeld, Some(due.max(lane.next_attempt_at.unwrap_or(due))));
    }
    if due > now {
        return (WaitReason::RetryNotDue, Some(due));
    }
    // An ordered lane goes on with its retries, whatever the circuit says.
    if let Some(probe_at) = lane.next_probe_at.filter(|_| lane.circuit == CircuitState::Open) {
        return (WaitReason::CircuitOpen, Some(due.max(probe_at)));
    }
    if let Some(turn_at) = lane.host_turn_at {
        return (WaitReason::HostRate, Some(due.max(turn_at)));
    }
    // A delivery that is due is sent when its lane sends again.
    (WaitReason::LaneBusy, Some(due.max(lane.next_attempt_at.unwrap_or(due))))
}

impl Control {
    /// How a delivery stands at this moment.
    #[must_use]
    pub fn standing(&self, delivery: &Delivery) -> Standing {
        let entry = self.directory().destination(delivery.id.destination_id);
        standing(delivery, entry.as_deref(), &self.settings, self.clock.now())
    }

    /// The same, and of an ordered destination the store is asked as well what comes first: not all that waits is
    /// in the lane's memory, and the lane may be another replica's.
    ///
    /// # Errors
    /// What the store answers.
    pub async fn standing_in_line(&self, delivery: &Delivery) -> Result<Standing, Error> {
        let standing = self.standing(delivery);
        let may_be_held = match standing.wait {
            Some(
                WaitReason::RetryNotDue
                | WaitReason::LaneBusy
                | WaitReason::HostRate
                | WaitReason::CircuitOpen,
            ) => true,
            Some(
                WaitReason::OrderHeld
                | WaitReason::Paused
                | WaitReason::Disabled
                | WaitReason::SwitchedOff
                | WaitReason::Deleted,
            )
            | None => false,
        };
        let entry = self.directory().destination(delivery.id.destination_id);
        let is_ordered = entry.is_some_and(|entry| effective_policy(&entry.destination).ordered);
        if may_be_held && is_ordered && self.has_earlier_in_store(delivery.id).await? {
            return Ok(Standing { wait: Some(WaitReason::OrderHeld), ..standing });
        }
        Ok(standing)
    }

    /// Whether an earlier delivery of the destination waits in the store. Of its retries, the first ones are looked at:
    /// an ordered lane has few.
    async fn has_earlier_in_store(&self, id: DeliveryId) -> Result<bool, Error> {
        if self.store.ahead(id, None, 1).await? > 0 {
            return Ok(true);
        }
        let mut after = None;
        for _ in 0..RETRY_PAGES {
            let page = self.store.load_due(id.destination_id, after, RETRY_PAGE).await?;
            if page.rows.iter().any(|row| row.id.event_key < id.event_key) {
                return Ok(true);
            }
            after = page.rows.last().map(|row| (row.due, row.id.event_key));
            if !page.more {
                break;
            }
        }
        Ok(false)
    }
}

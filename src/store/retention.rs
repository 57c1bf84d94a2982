//! What is removed: by age, and by erasure. Pure, and the same for every store.

use std::collections::HashMap;

use super::StoreError;
use crate::domain::delivery::{Delivery, DeliveryState, EndReason};
use crate::domain::event::Event;
use crate::domain::id::{DeliveryId, EventKey, OrganizationId};
use crate::domain::settings::Guarantee;
use crate::domain::time::Timestamp;

/// Which age is too old, at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cuts {
    /// The moment.
    pub now: Timestamp,
    /// History that ended at or before this is removed …
    pub history: Timestamp,
    /// … but for these organizations, which have times of their own.
    pub exceptions: HashMap<OrganizationId, Timestamp>,
    /// Dead letters that became one at or before this expire.
    pub dead_letters: Timestamp,
}

impl Cuts {
    /// The cut of an organization's history.
    #[must_use]
    pub fn history_of(&self, id: &OrganizationId) -> Timestamp {
        self.exceptions.get(id).copied().unwrap_or(self.history)
    }

    /// Events accepted after this are too young in any organization.
    #[must_use]
    pub fn latest(&self) -> Timestamp {
        self.exceptions.values().copied().fold(self.history, Timestamp::max)
    }
}

/// Where sweeping goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SweepFrom {
    /// Dead letters after this one.
    DeadLetters(Option<DeliveryId>),
    /// Events after this one, oldest first.
    Events(Option<EventKey>),
}

/// What one step of sweeping did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// How many dead letters expired.
    pub expired: usize,
    /// How many events were removed, with their deliveries.
    pub removed: usize,
    /// Where to go on; `None` when everything was looked at.
    pub next: Option<SweepFrom>,
}

/// What came of erasing an event's data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErasedEvent {
    /// When, now or by an earlier call.
    pub at: Timestamp,
    /// The deliveries that waited and were ended by this call.
    pub ended: Vec<DeliveryId>,
}

/// Where erasing an organization goes on; only the store that made it knows what it means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EraseFrom(pub(super) Vec<u8>);

/// What is on record of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trace {
    /// Nothing.
    Absent,
    /// Nothing, and it may wait in memory.
    InMemory,
    /// It waits for its first attempt.
    Fresh,
    /// A record.
    Recorded(Box<Delivery>),
}

/// Whether an event and all its deliveries are over and old enough to be removed.
pub(super) fn is_over(
    event: &Event,
    cuts: &Cuts,
    mut trace: impl FnMut(DeliveryId, Guarantee) -> Result<Trace, StoreError>,
) -> Result<bool, StoreError> {
    let cut = cuts.history_of(&event.organization_id);
    if event.accepted_at > cut {
        return Ok(false);
    }
    for route in &event.routes {
        let id = DeliveryId::new(event.key, route.destination_id);
        let over = match trace(id, route.guarantee)? {
            Trace::Absent => true,
            Trace::InMemory | Trace::Fresh => false,
            Trace::Recorded(delivery) => is_past(&delivery.state, cut),
        };
        if !over {
            return Ok(false);
        }
    }
    Ok(true)
}

const fn is_past(state: &DeliveryState, cut: Timestamp) -> bool {
    match state {
        DeliveryState::Waiting { .. } | DeliveryState::DeadLettered { .. } => false,
        // It had its time as a dead letter.
        DeliveryState::Discarded { reason: EndReason::DeadLetterExpired, .. } => true,
        DeliveryState::Succeeded { at }
        | DeliveryState::Discarded { at, .. }
        | DeliveryState::Cancelled { at } => at.as_millis() <= cut.as_millis(),
    }
}

/// The event without its data.
pub(super) fn without_data(event: &Event, now: Timestamp) -> Event {
    let data = crate::domain::payload::Payload::from_stored(bytes::Bytes::new());
    Event { data, erased_at: Some(now), ..event.clone() }
}

/// Takes what receivers answered out of the record.
pub(super) fn forget_answers(delivery: &mut Delivery) {
    for attempt in &mut delivery.attempts {
        if let crate::domain::attempt::Outcome::Answered { body, .. } = &mut attempt.outcome {
            *body = bytes::Bytes::new();
        }
    }
}

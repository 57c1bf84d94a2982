//! What is removed: by age, and by erasure. Pure, and the same for every store.

use std::collections::HashMap;

use super::StoreError;
use crate::domain::delivery::{Delivery, DeliveryState, EndReason, StateKind};
use crate::domain::event::Event;
use crate::domain::id::{DeliveryId, DestinationId, EventKey, OrganizationId, ReplayId};
use crate::domain::operational::OPERATIONAL_PREFIX;
use crate::domain::replay::Replay;
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
    /// Dead letters that became one at or before this are reported as expiring; `None`: none.
    pub notice: Option<Timestamp>,
    /// Whether the store is too large: an event then goes before its time, and its dead letters with it.
    pub early: bool,
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
    /// Replays after this one, oldest first.
    Replays(Option<ReplayId>),
}

/// A dead letter that expires soon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expiring {
    /// Whose.
    pub organization_id: OrganizationId,
    /// Of which destination.
    pub destination_id: DestinationId,
    /// When it became one.
    pub since: Timestamp,
}

/// How much is stored, and what it cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Footprint {
    /// The bytes of events, deliveries and ids, keys included. The files take up more.
    pub bytes: u64,
    /// What was removed before its time, because there was too much.
    pub removed_early: Option<RemovedEarly>,
}

/// How far the removal of what was not yet too old has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemovedEarly {
    /// The youngest event that was removed was accepted then.
    pub accepted: Timestamp,
    /// The latest change that was removed with one happened then.
    pub changed: Timestamp,
}

impl RemovedEarly {
    /// Both taken together.
    #[must_use]
    pub fn and(self, other: Option<RemovedEarly>) -> Self {
        let Some(other) = other else { return self };
        Self { accepted: self.accepted.max(other.accepted), changed: self.changed.max(other.changed) }
    }
}

/// What one step of sweeping did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Swept {
    /// How many dead letters expired.
    pub expired: usize,
    /// Dead letters that were looked at and expire soon. Those of operational events are left out.
    pub expiring: Vec<Expiring>,
    /// How many events were removed, with their deliveries.
    pub removed: usize,
    /// How many replays were removed.
    pub replays: usize,
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

/// What is left of an event that is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Remains {
    /// Dead letters that go with it, before their time.
    pub(super) dead_letters: Vec<DeliveryId>,
    /// When the event or one of its deliveries changed last.
    pub(super) changed: Timestamp,
}

impl Remains {
    /// What removing it means for those who ask for what was.
    pub(super) fn removed_early(&self, event: &Event) -> RemovedEarly {
        RemovedEarly { accepted: event.accepted_at, changed: self.changed }
    }
}

/// What is left of an event where it and all its deliveries are over and old enough to be removed.
pub(super) fn remains_of(
    event: &Event,
    cuts: &Cuts,
    mut trace: impl FnMut(DeliveryId, Guarantee) -> Result<Trace, StoreError>,
) -> Result<Option<Remains>, StoreError> {
    let cut = cuts.history_of(&event.organization_id);
    if event.accepted_at > cut {
        return Ok(None);
    }
    let mut remains = Remains { dead_letters: Vec::new(), changed: event.accepted_at };
    for route in &event.routes {
        let id = DeliveryId::new(event.key, route.destination_id);
        let state = match trace(id, route.guarantee)? {
            Trace::Absent => continue,
            Trace::InMemory | Trace::Fresh => return Ok(None),
            Trace::Recorded(delivery) => delivery.state,
        };
        if !is_past(&state, cut, cuts.early) {
            return Ok(None);
        }
        if state.kind() == StateKind::DeadLettered {
            remains.dead_letters.push(id);
        }
        remains.changed = state.finished_at().unwrap_or_default().max(remains.changed);
    }
    Ok(Some(remains))
}

const fn is_past(state: &DeliveryState, cut: Timestamp, early: bool) -> bool {
    match state {
        DeliveryState::Waiting { .. } => false,
        DeliveryState::DeadLettered { at, .. } => early && at.as_millis() <= cut.as_millis(),
        // It had its time as a dead letter.
        DeliveryState::Discarded { reason: EndReason::DeadLetterExpired, .. } => true,
        DeliveryState::Succeeded { at }
        | DeliveryState::Discarded { at, .. }
        | DeliveryState::Cancelled { at } => at.as_millis() <= cut.as_millis(),
    }
}

/// The dead letter as one that expires soon, if it does and somebody should know.
pub(super) fn expiring(delivery: &Delivery, cuts: &Cuts) -> Option<Expiring> {
    let DeliveryState::DeadLettered { at, .. } = delivery.state else { return None };
    // What tells of dead letters must not be told of in turn.
    let ours = delivery.event_type.as_str().starts_with(OPERATIONAL_PREFIX);
    let soon = cuts.notice.is_some_and(|notice| at <= notice) && at > cuts.dead_letters;
    (soon && !ours).then(|| Expiring {
        organization_id: delivery.organization_id.clone(),
        destination_id: delivery.id.destination_id,
        since: at,
    })
}

/// Whether a replay is over and old enough to be removed.
pub(super) fn is_replay_over(replay: &Replay, cuts: &Cuts) -> bool {
    let cut = cuts.history_of(&replay.organization_id);
    replay.state.finished_at().is_some_and(|at| at <= cut)
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

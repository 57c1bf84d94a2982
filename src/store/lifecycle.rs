//! What settling, requeueing and ending make of a delivery: pure, and the same for every store.

use std::collections::HashSet;

use super::record::EventHead;
use super::{DeliveryQuery, DueEntry, Settlement};
use crate::domain::delivery::{Cycle, CycleCause, Delivery, DeliveryState, StateKind};
use crate::domain::event::Event;
use crate::domain::id::{DeliveryId, DestinationId};
use crate::domain::settings::Guarantee;
use crate::domain::time::Timestamp;

/// The delivery of an event before anything was attempted.
pub(super) fn fresh(head: &EventHead, destination_id: DestinationId, guarantee: Guarantee) -> Delivery {
    Delivery {
        id: DeliveryId::new(head.key, destination_id),
        organization_id: head.organization_id.clone(),
        event_id: head.id.clone(),
        event_type: head.event_type.clone(),
        created_at: head.accepted_at,
        guarantee,
        state: DeliveryState::Waiting { due: head.accepted_at },
        attempt_count: 0,
        cycle: Cycle { cause: CycleCause::Routed, started_at: head.accepted_at, attempts: 0 },
        attempts: Vec::new(),
        replay_id: None,
    }
}

/// The deliveries that begin with an event.
pub(super) fn begun(event: &Event) -> impl Iterator<Item = Delivery> {
    let head = EventHead::from(event);
    event.routes.iter().map(move |route| fresh(&head, route.destination_id, route.guarantee))
}

/// Takes a settlement into the delivery, and answers whether its state and cycle were taken, too.
///
/// The attempt goes on the record in any case. The state is not taken where a caller has meanwhile
/// finished the delivery or begun a new cycle; only a success overrides that, unless the cycle was begun after it.
pub(super) fn settle(delivery: &mut Delivery, settlement: Settlement) -> bool {
    if let Some(attempt) = settlement.attempt {
        delivery.record(attempt);
    }
    let is_newer = is_newer(&delivery.cycle, &settlement.cycle);
    let overrides = match settlement.state {
        DeliveryState::Succeeded { at } => !is_newer || delivery.cycle.started_at <= at,
        _ => false,
    };
    if (delivery.state.is_finished() || is_newer) && !overrides {
        return false;
    }
    delivery.state = settlement.state;
    delivery.cycle = settlement.cycle;
    true
}

/// Begins a new cycle of attempts, due now.
pub(super) fn requeue(delivery: &mut Delivery, cause: CycleCause, now: Timestamp) -> DueEntry {
    delivery.state = DeliveryState::Waiting { due: now };
    delivery.cycle = Cycle { cause, started_at: now, attempts: 0 };
    due_entry(delivery, now)
}

/// The delivery's entry among those that wait for a due time.
pub(super) fn due_entry(delivery: &Delivery, due: Timestamp) -> DueEntry {
    DueEntry { id: delivery.id, due, attempt_count: delivery.attempt_count, cycle: delivery.cycle }
}

/// Whether the delivery fits the query, apart from its place in the list.
pub(super) fn fits(query: &DeliveryQuery, delivery: &Delivery) -> bool {
    let moment = match delivery.state.finished_at() {
        Some(ended_at) if asks_for_dead_letters(query) => ended_at,
        _ => delivery.created_at,
    };
    delivery.organization_id == query.organization_id
        && (query.states.is_empty() || query.states.contains(&delivery.state.kind()))
        && (query.event_types.is_empty() || query.event_types.contains(&delivery.event_type))
        && query.from.is_none_or(|from| moment >= from)
        && query.until.is_none_or(|until| moment < until)
}

/// Whether the query asks for dead letters alone, whose range of time is when they became one.
pub(super) fn asks_for_dead_letters(query: &DeliveryQuery) -> bool {
    query.states == [StateKind::DeadLettered]
}

/// The ids, each once, in their order.
pub(super) fn distinct(ids: &[DeliveryId]) -> impl Iterator<Item = DeliveryId> {
    let mut seen = HashSet::new();
    ids.iter().copied().filter(move |id| seen.insert(*id))
}

fn is_newer(present: &Cycle, settled: &Cycle) -> bool {
    // A cycle is known by its cause and its beginning; one that a caller began never is `Routed`.
    let same = present.cause == settled.cause && present.started_at == settled.started_at;
    !same && present.cause != CycleCause::Routed && present.started_at >= settled.started_at
}

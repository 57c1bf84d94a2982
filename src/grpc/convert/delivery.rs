//! Deliveries out, filters in.

use super::attempt::{begins_cycle, write_attempts};
use super::settings::write_guarantee;
use super::subscription::read_event_types;
use super::time::{read_range, write_timestamp};
use super::{count, states};
use crate::control::delivery::DeliveryFilter;
use crate::domain::attempt::{Attempt, OutcomeClass};
use crate::domain::delivery::{CycleCause, Delivery, DeliveryState, EndReason, StateKind};
use crate::domain::violation::{Rule, Violations};
use crate::grpc::proto::v1;

/// The most event types in a filter.
const EVENT_TYPES_MAX: usize = 100;

/// Which attempts of a delivery are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempts {
    /// None.
    None,
    /// The latest one.
    Latest,
    /// All that are kept.
    All {
        /// With the beginnings of the answers' bodies.
        with_bodies: bool,
    },
}

/// Writes a delivery, without its event.
pub fn write_delivery(delivery: &Delivery, attempts: Attempts) -> v1::Delivery {
    let (state, reason) = write_state(delivery);
    let due = match &delivery.state {
        DeliveryState::Waiting { due } => Some(write_timestamp(*due)),
        DeliveryState::Succeeded { .. }
        | DeliveryState::DeadLettered { .. }
        | DeliveryState::Discarded { .. }
        | DeliveryState::Cancelled { .. } => None,
    };
    let written = match attempts {
        Attempts::None => Vec::new(),
        Attempts::Latest => {
            let mut all = write_attempts(&delivery.attempts, false);
            all.split_off(all.len().saturating_sub(1))
        }
        Attempts::All { with_bodies } => write_attempts(&delivery.attempts, with_bodies),
    };
    v1::Delivery {
        delivery_id: delivery.id.to_string(),
        event_id: delivery.event_id.to_string(),
        event_type: delivery.event_type.to_string(),
        destination_id: delivery.id.destination_id.to_string(),
        state: state.into(),
        reason: reason.into(),
        attempt_count: count(delivery.attempt_count),
        cycle: count(cycle_number(delivery)),
        create_time: Some(write_timestamp(delivery.created_at)),
        next_attempt_time: due,
        finish_time: delivery.state.finished_at().map(write_timestamp),
        last_error: last_error(delivery),
        guarantee: write_guarantee(delivery.guarantee).into(),
        expire_time: None,
        attempts: written,
        event: None,
    }
}

/// Counted over the attempts that are kept, and the cycle that has not had its first one yet.
fn cycle_number(delivery: &Delivery) -> u32 {
    let begun = delivery.attempts.iter().filter(|attempt: &&Attempt| begins_cycle(attempt)).count();
    let fresh = delivery.cycle.attempts == 0 && delivery.cycle.cause != CycleCause::Routed;
    u32::try_from(begun).unwrap_or(u32::MAX).saturating_add(1 + u32::from(fresh))
}

fn last_error(delivery: &Delivery) -> String {
    let of_this_cycle = delivery.last_error().filter(|_| delivery.cycle.attempts > 0);
    let of_the_end = match &delivery.state {
        DeliveryState::DeadLettered { reason, .. } | DeliveryState::Discarded { reason, .. } => {
            Some(reason.as_sentence().to_owned())
        }
        DeliveryState::Waiting { .. } | DeliveryState::Succeeded { .. } | DeliveryState::Cancelled { .. } => {
            None
        }
    };
    of_this_cycle.or(of_the_end).unwrap_or_default()
}

/// Whether its last attempt failed because the event can't be put in the contract's shape.
fn was_not_renderable(delivery: &Delivery) -> bool {
    let last = delivery.attempts.last().map(|attempt| attempt.outcome.class());
    last == Some(OutcomeClass::NotRenderable)
}

fn write_state(delivery: &Delivery) -> (v1::DeliveryState, v1::DeliveryReason) {
    use v1::{DeliveryReason as Reason, DeliveryState as State};
    match &delivery.state {
        DeliveryState::Waiting { .. } if delivery.cycle.attempts > 0 => (State::Waiting, Reason::RetryNotDue),
        DeliveryState::Waiting { .. } => (State::Waiting, Reason::Unspecified),
        DeliveryState::Succeeded { .. } => (State::Succeeded, Reason::Unspecified),
        DeliveryState::DeadLettered { .. } if was_not_renderable(delivery) => {
            (State::DeadLettered, Reason::NotRenderable)
        }
        DeliveryState::DeadLettered { reason, .. } => (State::DeadLettered, write_reason(*reason)),
        DeliveryState::Discarded { reason, .. } => (State::Discarded, write_reason(*reason)),
        DeliveryState::Cancelled { .. } => (State::Cancelled, Reason::CancelledByCaller),
    }
}

/// How a delivery ended, as in the API.
pub(super) const fn write_reason(reason: EndReason) -> v1::DeliveryReason {
    match reason {
        EndReason::AttemptsExhausted => v1::DeliveryReason::AttemptsExhausted,
        EndReason::GaveUp => v1::DeliveryReason::GivenUp,
        EndReason::FinalStatus => v1::DeliveryReason::FinalStatus,
        EndReason::TooOld => v1::DeliveryReason::TooOld,
        EndReason::Lossy => v1::DeliveryReason::Lossy,
        EndReason::WindowFull | EndReason::Stopped => v1::DeliveryReason::BestEffortEnded,
        EndReason::DestinationDeleted => v1::DeliveryReason::DestinationDeleted,
        EndReason::EventGone => v1::DeliveryReason::EventDataErased,
        EndReason::DeadLetterDeleted => v1::DeliveryReason::DeadLetterDeleted,
        EndReason::DeadLetterExpired => v1::DeliveryReason::DeadLetterExpired,
    }
}

/// The name of a state as in the API, without the enum's prefix.
pub const fn state_name(kind: StateKind) -> &'static str {
    match kind {
        StateKind::Waiting => "WAITING",
        StateKind::Succeeded => "SUCCEEDED",
        StateKind::DeadLettered => "DEAD_LETTERED",
        StateKind::Discarded => "DISCARDED",
        StateKind::Cancelled => "CANCELLED",
    }
}

/// Reads a filter; paths begin with `filter`.
pub fn read_filter(filter: Option<v1::DeliveryFilter>, found: &mut Violations) -> DeliveryFilter {
    let Some(filter) = filter else { return DeliveryFilter::default() };
    let in_flight = read_in_flight(&filter.states);
    let states = states(&filter.states, "filter.states", found, read_state);
    let event_types = read_event_types(&filter.event_types, EVENT_TYPES_MAX, "filter.event_types", found);
    let (from, until) = read_range((filter.start_time, filter.end_time), "filter", found);
    let given = |text: String| Some(text).filter(|text| !text.is_empty());
    DeliveryFilter {
        destination_id: given(filter.destination_id),
        states,
        in_flight,
        event_types,
        event_id: given(filter.event_id),
        from,
        until,
    }
}

/// Reads a filter of dead letters, which leaves no choice of states.
pub fn read_dead_letter_filter(filter: Option<v1::DeliveryFilter>, found: &mut Violations) -> DeliveryFilter {
    let mut filter = filter;
    if let Some(filter) = filter.as_mut().filter(|filter| !filter.states.is_empty()) {
        let description = "must be empty, because only dead letters are meant; leave it out";
        found.add_as(Rule::NotAllowed, "filter.states", description);
        filter.states.clear();
    }
    read_filter(filter, found)
}

/// Which of those that wait are meant, where the filter names only one of the two states.
fn read_in_flight(states: &[i32]) -> Option<bool> {
    let named = |state: v1::DeliveryState| states.contains(&state.into());
    match (named(v1::DeliveryState::InFlight), named(v1::DeliveryState::Waiting)) {
        (true, false) => Some(true),
        (false, true) => Some(false),
        (true, true) | (false, false) => None,
    }
}

const fn read_state(state: v1::DeliveryState) -> Option<StateKind> {
    match state {
        // The store does not tell the two apart; control does.
        v1::DeliveryState::Waiting | v1::DeliveryState::InFlight => Some(StateKind::Waiting),
        v1::DeliveryState::Succeeded => Some(StateKind::Succeeded),
        v1::DeliveryState::DeadLettered => Some(StateKind::DeadLettered),
        v1::DeliveryState::Discarded => Some(StateKind::Discarded),
        v1::DeliveryState::Cancelled => Some(StateKind::Cancelled),
        v1::DeliveryState::Unspecified => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::delivery::Cycle;
    use crate::domain::event::EventType;
    use crate::domain::id::{DeliveryId, DestinationId, EventId, EventKey, OrganizationId};
    use crate::domain::settings::Guarantee;
    use crate::domain::time::Timestamp;

    fn delivery(state: DeliveryState) -> Delivery {
        let at = Timestamp::from_millis(1000);
        Delivery {
            id: DeliveryId::new(EventKey::MAX, DestinationId::make(at, [7; 10])),
            organization_id: OrganizationId::parse("org_a").unwrap(),
            event_id: EventId::parse("evt-7").unwrap(),
            event_type: EventType::parse("kpi.alert").unwrap(),
            created_at: at,
            guarantee: Guarantee::AtLeastOnce,
            state,
            attempt_count: 0,
            cycle: Cycle { cause: CycleCause::Replay, started_at: at, attempts: 0 },
            attempts: Vec::new(),
            replay_id: None,
        }
    }

    #[test]
    fn each_state_is_written_with_its_reason_and_its_times() {
        let at = Timestamp::from_millis(5000);
        let waiting = write_delivery(&delivery(DeliveryState::Waiting { due: at }), Attempts::Latest);
        assert_eq!(waiting.state(), v1::DeliveryState::Waiting);
        assert_eq!((waiting.next_attempt_time.unwrap().seconds, waiting.finish_time), (5, None));
        assert_eq!((waiting.cycle, waiting.attempts.len()), (2, 0));
        let dead = DeliveryState::DeadLettered { at, reason: EndReason::GaveUp };
        let dead = write_delivery(&delivery(dead), Attempts::All { with_bodies: true });
        assert_eq!(
            (dead.state(), dead.reason()),
            (v1::DeliveryState::DeadLettered, v1::DeliveryReason::GivenUp)
        );
        assert_eq!((dead.finish_time.unwrap().seconds, dead.next_attempt_time), (5, None));
        assert!(dead.last_error.contains("give-up time"));
    }

    #[test]
    fn every_violation_of_a_filter_is_named() {
        let mut found = Violations::new();
        let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        let filter = v1::DeliveryFilter {
            states: vec![1, 0, 77],
            event_types: vec!["a b".into()],
            start_time: at(9),
            end_time: at(3),
            ..v1::DeliveryFilter::default()
        };
        let read = read_filter(Some(filter.clone()), &mut found);
        assert_eq!((read.states, read.in_flight), (vec![StateKind::Waiting], Some(false)));
        let fields: Vec<&str> = found.iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!(
            fields,
            ["filter.states[1]", "filter.states[2]", "filter.event_types[0]", "filter.end_time"]
        );
        let mut found = Violations::new();
        read_dead_letter_filter(Some(filter), &mut found);
        assert!(found.to_string().starts_with("filter.states: must be empty"));
    }
}

//! What is to be replayed, and replays.

use super::delivery::read_dead_letter_filter;
use super::selection::{read_all, read_some};
use super::subscription::read_event_types;
use super::time::{read_range, write_timestamp};
use super::{count, required, states};
use crate::control::delivery::DeliveryFilter;
use crate::control::replay::{ReplayOrder, ReplayRange};
use crate::domain::replay::{
    PER_SECOND_MAX, PER_SECOND_MIN, Replay, ReplayKind, ReplayState, ReplayStateKind,
};
use crate::domain::time::Timestamp;
use crate::domain::violation::{Rule, Violations};
use crate::grpc::proto::v1;
use crate::grpc::proto::v1::replay_dead_letters_request::Selection as DeadLetters;
use crate::grpc::proto::v1::replay_deliveries_request::Selection as Deliveries;

/// The most event types in a selection.
const EVENT_TYPES_MAX: usize = 100;

/// Reads which dead letters to replay.
pub fn read_dead_letters(selection: Option<DeadLetters>, found: &mut Violations) -> DeliveryFilter {
    match selection {
        Some(DeadLetters::All(all)) => read_all(all, found),
        Some(DeadLetters::Filter(filter)) => read_some(filter, found),
        None => {
            required("selection", "give either `all` or `filter`", found);
            read_dead_letter_filter(None, found)
        }
    }
}

/// Reads what of a destination to replay.
pub fn read_deliveries(selection: Option<Deliveries>, found: &mut Violations) -> ReplayRange {
    let (kind, path, times, event_types) = match selection {
        Some(Deliveries::Succeeded(chosen)) => {
            if chosen.end_time.is_none() {
                required("succeeded.end_time", "give the end of the range", found);
            }
            let times = (chosen.start_time, chosen.end_time);
            (ReplayKind::Succeeded, "succeeded", times, chosen.event_types)
        }
        Some(Deliveries::Missed(chosen)) => {
            (ReplayKind::Missed, "missed", (chosen.start_time, chosen.end_time), chosen.event_types)
        }
        None => {
            required("selection", "give either `succeeded` or `missed`", found);
            let from = Timestamp::default();
            return ReplayRange { kind: ReplayKind::Missed, from, until: None, event_types: Vec::new() };
        }
    };
    if times.0.is_none() {
        required(&format!("{path}.start_time"), "give the beginning of the range", found);
    }
    let (from, until) = read_range(times, path, found);
    let event_types = read_event_types(&event_types, EVENT_TYPES_MAX, &format!("{path}.event_types"), found);
    ReplayRange { kind, from: from.unwrap_or_default(), until, event_types }
}

/// Reads how a replay is to run.
pub fn read_order(per_second: Option<i32>, validate_only: bool, found: &mut Violations) -> ReplayOrder {
    let checked = per_second.and_then(|given| u32::try_from(given).ok());
    let checked = checked.filter(|given| (PER_SECOND_MIN..=PER_SECOND_MAX).contains(given));
    if let Some(given) = per_second.filter(|_| checked.is_none()) {
        let description =
            format!("is {given}; give {PER_SECOND_MIN} to {PER_SECOND_MAX}, or leave it out for the default");
        found.add_as(Rule::OutOfRange, "deliveries_per_second", description);
    }
    ReplayOrder { per_second: checked, validate_only }
}

/// Reads the states of a list.
pub fn read_states(raw: &[i32], found: &mut Violations) -> Vec<ReplayStateKind> {
    states(raw, "states", found, |state| match state {
        v1::ReplayState::Running => Some(ReplayStateKind::Running),
        v1::ReplayState::Completed => Some(ReplayStateKind::Completed),
        v1::ReplayState::Cancelled => Some(ReplayStateKind::Cancelled),
        v1::ReplayState::Failed => Some(ReplayStateKind::Failed),
        v1::ReplayState::Unspecified => None,
    })
}

/// Writes a replay.
pub fn write_replay(replay: &Replay) -> v1::Replay {
    let error = match &replay.state {
        ReplayState::Failed { error, .. } => error.clone(),
        ReplayState::Counting { .. }
        | ReplayState::Sending { .. }
        | ReplayState::Completed { .. }
        | ReplayState::Cancelled { .. } => String::new(),
    };
    let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    v1::Replay {
        replay_id: replay.id.to_string(),
        kind: write_kind(replay.scope.kind).into(),
        destination_id: replay.scope.destination_id.map(|id| id.to_string()).unwrap_or_default(),
        state: write_state(replay.state.kind()).into(),
        total_count: number(replay.total),
        counting: matches!(replay.state, ReplayState::Counting { .. }),
        replayed_count: number(replay.replayed),
        succeeded_count: number(replay.succeeded),
        failed_count: number(replay.failed),
        skipped_count: number(replay.skipped),
        deliveries_per_second: count(replay.per_second),
        started_by: replay.started_by.clone(),
        create_time: Some(write_timestamp(replay.created_at)),
        finish_time: replay.state.finished_at().map(write_timestamp),
        error,
    }
}

/// Writes the answer to a check: what a replay would cover, of which none was started.
pub fn write_check(replay: &Replay) -> v1::Replay {
    v1::Replay {
        replay_id: String::new(),
        state: v1::ReplayState::Unspecified.into(),
        counting: false,
        create_time: None,
        ..write_replay(replay)
    }
}

const fn write_kind(kind: ReplayKind) -> v1::ReplayKind {
    match kind {
        ReplayKind::DeadLetters => v1::ReplayKind::DeadLetters,
        ReplayKind::Succeeded => v1::ReplayKind::Succeeded,
        ReplayKind::Missed => v1::ReplayKind::Missed,
    }
}

const fn write_state(kind: ReplayStateKind) -> v1::ReplayState {
    match kind {
        ReplayStateKind::Running => v1::ReplayState::Running,
        ReplayStateKind::Completed => v1::ReplayState::Completed,
        ReplayStateKind::Cancelled => v1::ReplayState::Cancelled,
        ReplayStateKind::Failed => v1::ReplayState::Failed,
    }
}

/// The name of a state as in the API, without the enum's prefix.
pub const fn state_name(kind: ReplayStateKind) -> &'static str {
    match kind {
        ReplayStateKind::Running => "RUNNING",
        ReplayStateKind::Completed => "COMPLETED",
        ReplayStateKind::Cancelled => "CANCELLED",
        ReplayStateKind::Failed => "FAILED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(read: impl FnOnce(&mut Violations)) -> Vec<String> {
        let mut found = Violations::new();
        read(&mut found);
        found.iter().map(|violation| violation.field.clone()).collect()
    }

    #[test]
    fn nobody_replays_all_by_leaving_something_out() {
        let read = |selection| fields(|found| drop(read_dead_letters(selection, found)));
        assert_eq!(read(None), ["selection"]);
        assert_eq!(read(Some(DeadLetters::All(false))), ["all"]);
        assert_eq!(read(Some(DeadLetters::Filter(v1::DeliveryFilter::default()))), ["filter"]);
        assert!(read(Some(DeadLetters::All(true))).is_empty());
        let filter = v1::DeliveryFilter { destination_id: "dest_1".into(), ..Default::default() };
        assert!(read(Some(DeadLetters::Filter(filter))).is_empty());
    }

    #[test]
    fn a_range_has_a_beginning_and_for_succeeded_ones_an_end() {
        let read = |selection| fields(|found| drop(read_deliveries(selection, found)));
        assert_eq!(read(None), ["selection"]);
        assert_eq!(
            read(Some(Deliveries::Succeeded(v1::SucceededDeliveries::default()))),
            ["succeeded.end_time", "succeeded.start_time"]
        );
        assert_eq!(read(Some(Deliveries::Missed(v1::MissedEvents::default()))), ["missed.start_time"]);
    }

    #[test]
    fn a_pace_is_1_to_10_000_a_second() {
        let read = |given| {
            fields(|found| {
                read_order(given, false, found);
            })
        };
        for given in [None, Some(1), Some(10_000)] {
            assert!(read(given).is_empty(), "{given:?}");
        }
        for given in [Some(0), Some(-1), Some(10_001)] {
            assert_eq!(read(given), ["deliveries_per_second"], "{given:?}");
        }
    }
}

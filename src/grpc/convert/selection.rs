//! Which dead letters a call is for, and what came of replaying them.

use super::delivery::read_dead_letter_filter;
use super::{not_yet, required};
use crate::control::dead_letter::{DeadLetters, IDS_MAX, Replayed};
use crate::control::delivery::DeliveryFilter;
use crate::domain::violation::{Rule, Violations};
use crate::grpc::proto::v1;
use crate::grpc::proto::v1::delete_dead_letters_request::Selection as DeleteSelection;
use crate::grpc::proto::v1::replay_dead_letters_request::Selection as ReplaySelection;

/// Reads which dead letters to replay.
pub fn read_replay_selection(
    selection: Option<ReplaySelection>,
    deliveries_per_second: Option<i32>,
    found: &mut Violations,
) -> DeliveryFilter {
    if deliveries_per_second.is_some() {
        not_yet("deliveries_per_second", found);
    }
    match selection {
        Some(ReplaySelection::All(all)) => read_all(all, found),
        Some(ReplaySelection::Filter(filter)) => read_some(filter, found),
        None => {
            required("selection", "give either `all` or `filter`", found);
            DeliveryFilter::default()
        }
    }
}

/// Reads which dead letters to delete.
pub fn read_delete_selection(selection: Option<DeleteSelection>, found: &mut Violations) -> DeadLetters {
    let filter = match selection {
        Some(DeleteSelection::All(all)) => read_all(all, found),
        Some(DeleteSelection::Filter(filter)) => read_some(filter, found),
        Some(DeleteSelection::Ids(v1::DeliveryIds { delivery_ids })) => {
            let size = delivery_ids.len();
            if !(1..=IDS_MAX).contains(&size) {
                let description = format!("has {size} entries; give 1 to {IDS_MAX}");
                found.add_as(Rule::BatchSize, "ids.delivery_ids", description);
            }
            return DeadLetters::Ids(delivery_ids);
        }
        None => {
            required("selection", "give one of `all`, `filter` and `ids`", found);
            DeliveryFilter::default()
        }
    };
    DeadLetters::Matching(filter)
}

fn read_all(all: bool, found: &mut Violations) -> DeliveryFilter {
    if !all {
        found.add_as(Rule::OutOfRange, "all", "is false; set it to true for all, or give a filter");
    }
    DeliveryFilter::default()
}

/// A filter that leaves everything open would mean all, which has to be said.
fn read_some(filter: v1::DeliveryFilter, found: &mut Violations) -> DeliveryFilter {
    let open = v1::DeliveryFilter { states: filter.states.clone(), ..v1::DeliveryFilter::default() };
    if filter == open {
        required("filter", "set something in it, or give `all`", found);
    }
    read_dead_letter_filter(Some(filter), found)
}

/// Writes what came of a replay. It is done when it is answered, so it has no id to ask for it again.
pub fn write_replay(replayed: Replayed, validate_only: bool) -> v1::Replay {
    let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let state = if validate_only { v1::ReplayState::Unspecified } else { v1::ReplayState::Completed };
    v1::Replay {
        kind: v1::ReplayKind::DeadLetters.into(),
        state: state.into(),
        total_count: number(replayed.replayed.saturating_add(replayed.skipped)),
        replayed_count: if validate_only { 0 } else { number(replayed.replayed) },
        skipped_count: number(replayed.skipped),
        ..v1::Replay::default()
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
        let read = |selection| fields(|found| drop(read_replay_selection(selection, None, found)));
        assert_eq!(read(None), ["selection"]);
        assert_eq!(read(Some(ReplaySelection::All(false))), ["all"]);
        assert_eq!(read(Some(ReplaySelection::Filter(v1::DeliveryFilter::default()))), ["filter"]);
        assert!(read(Some(ReplaySelection::All(true))).is_empty());
        let filter = v1::DeliveryFilter { destination_id: "dest_1".into(), ..Default::default() };
        assert!(read(Some(ReplaySelection::Filter(filter))).is_empty());
        assert_eq!(
            fields(|found| drop(read_replay_selection(Some(ReplaySelection::All(true)), Some(5), found))),
            ["deliveries_per_second"]
        );
    }

    #[test]
    fn a_list_of_ids_has_1_to_1000_entries() {
        for (size, ok) in [(0, false), (1, true), (IDS_MAX, true), (IDS_MAX + 1, false)] {
            let ids = v1::DeliveryIds { delivery_ids: vec!["dlv_1".to_owned(); size] };
            let found = fields(|found| drop(read_delete_selection(Some(DeleteSelection::Ids(ids)), found)));
            assert_eq!(found.is_empty(), ok, "{size}");
        }
    }

    #[test]
    fn a_check_alone_counts_and_replays_nothing() {
        let replayed = Replayed { replayed: 5, skipped: 2 };
        let checked = write_replay(replayed, true);
        assert_eq!((checked.total_count, checked.replayed_count, checked.replay_id.as_str()), (7, 0, ""));
        let done = write_replay(replayed, false);
        assert_eq!((done.state(), done.replayed_count), (v1::ReplayState::Completed, 5));
    }
}

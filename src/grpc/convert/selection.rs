//! Which dead letters a call is for.

use super::delivery::read_dead_letter_filter;
use super::required;
use crate::control::dead_letter::{DeadLetters, IDS_MAX};
use crate::control::delivery::DeliveryFilter;
use crate::domain::violation::{Rule, Violations};
use crate::grpc::proto::v1;
use crate::grpc::proto::v1::delete_dead_letters_request::Selection as DeleteSelection;

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

/// Reads the word that all are meant.
pub fn read_all(all: bool, found: &mut Violations) -> DeliveryFilter {
    if !all {
        found.add_as(Rule::OutOfRange, "all", "is false; set it to true for all, or give a filter");
    }
    DeliveryFilter::default()
}

/// A filter that leaves everything open would mean all, which has to be said.
pub fn read_some(filter: v1::DeliveryFilter, found: &mut Violations) -> DeliveryFilter {
    let open = v1::DeliveryFilter { states: filter.states.clone(), ..v1::DeliveryFilter::default() };
    if filter == open {
        required("filter", "set something in it, or give `all`", found);
    }
    read_dead_letter_filter(Some(filter), found)
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
    fn a_list_of_ids_has_1_to_1000_entries() {
        for (size, ok) in [(0, false), (1, true), (IDS_MAX, true), (IDS_MAX + 1, false)] {
            let ids = v1::DeliveryIds { delivery_ids: vec!["dlv_1".to_owned(); size] };
            let found = fields(|found| drop(read_delete_selection(Some(DeleteSelection::Ids(ids)), found)));
            assert_eq!(found.is_empty(), ok, "{size}");
        }
    }
}

//! Between the generated messages and the domain: a file a noun.
//!
//! Reading notes every violated field with its path in the words of the proto files and goes on, so that
//! a caller learns all of them at once; the value that a bad field leaves behind is never used, because
//! the caller of these functions stops at the first [`Violations`] that is not empty. Writing can't fail,
//! and has no access to the text of a secret.

pub mod attempt;
pub mod audit;
pub mod contract;
pub mod delivery;
pub mod destination;
pub mod destination_mask;
pub mod destination_request;
pub mod event;
pub mod explain;
pub mod organization;
pub mod policy;
pub mod replay;
pub mod secret;
pub mod selection;
pub mod settings;
pub mod structure;
pub mod subscription;
pub mod time;

use crate::domain::violation::{Rule, Violations};

/// The value of an enum field; a number that this server does not know is a violation.
pub fn known<E: TryFrom<i32>>(raw: i32, path: &str, violations: &mut Violations) -> Option<E> {
    let value = E::try_from(raw).ok();
    if value.is_none() {
        let description = format!("has the value {raw}, which this server does not know; use a known name");
        violations.add_as(Rule::OutOfRange, path, description);
    }
    value
}

/// More states than there are make no sense, and would make the answer large.
const STATES_MAX: usize = 10;

/// Reads a filter of states; `read` answers none for the one that is unspecified.
pub fn states<E: TryFrom<i32>, K>(
    raw: &[i32],
    path: &str,
    found: &mut Violations,
    read: impl Fn(E) -> Option<K>,
) -> Vec<K> {
    if raw.len() > STATES_MAX {
        let description = format!("has {} entries; at most {STATES_MAX} are allowed", raw.len());
        found.add_as(Rule::TooLong, path, description);
        return Vec::new();
    }
    let mut kinds = Vec::with_capacity(raw.len());
    for (position, state) in raw.iter().enumerate() {
        let path = format!("{path}[{position}]");
        let Some(state) = known::<E>(*state, &path, found) else { continue };
        match read(state) {
            Some(kind) => kinds.push(kind),
            None => found.add_as(Rule::OutOfRange, path, "is unspecified; name a state, or leave it out"),
        }
    }
    kinds
}

/// Notes that a field is needed.
pub fn required(path: &str, remedy: &str, violations: &mut Violations) {
    violations.add_as(Rule::Required, path, format!("is missing; {remedy}"));
}

/// A count for an `int32` field.
pub fn count(value: impl TryInto<i32>) -> i32 {
    value.try_into().unwrap_or(i32::MAX)
}

/// A whole number of an `int32` field that may not be negative.
pub fn unsigned(value: i32, path: &str, violations: &mut Violations) -> Option<u32> {
    let checked = u32::try_from(value).ok();
    if checked.is_none() {
        violations.add_as(Rule::OutOfRange, path, format!("is {value}; give 0 or more"));
    }
    checked
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::proto::v1;

    #[test]
    fn a_filter_of_states_names_each_that_is_wrong_and_is_bounded() {
        let read = |raw: &[i32]| {
            let mut found = Violations::new();
            let named = |state: v1::ReplayState| (state != v1::ReplayState::Unspecified).then_some(state);
            (states(raw, "states", &mut found, named).len(), found.to_string())
        };
        assert_eq!(read(&[1, 4]), (2, String::new()));
        let (kinds, problems) = read(&[1, 0, 77]);
        assert!(kinds == 1 && problems.contains("states[1]") && problems.contains("states[2]"), "{problems}");
        let (kinds, problems) = read(&[1; 11]);
        assert!(kinds == 0 && problems.contains("at most 10"), "{problems}");
    }

    #[test]
    fn an_unknown_enum_value_is_a_violation_and_a_known_one_is_read() {
        let mut violations = Violations::new();
        assert_eq!(known::<v1::Level>(4, "event.level", &mut violations), Some(v1::Level::Warn));
        assert!(violations.is_empty());
        assert_eq!(known::<v1::Level>(99, "event.level", &mut violations), None);
        assert!(violations.to_string().contains("event.level: has the value 99"));
    }
}

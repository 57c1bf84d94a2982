//! The API's enums in the words of the command line: without their prefix, in lower case, with hyphens.

use crate::grpc::proto::v1;

/// `DELIVERY_STATE_DEAD_LETTERED` is `dead-lettered`.
fn word(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_lowercase().replace('_', "-")
}

/// A state.
pub fn state(state: v1::DeliveryState) -> String {
    word(state.as_str_name(), "DELIVERY_STATE_")
}

/// A reason; empty where the state says it all.
pub fn reason(reason: v1::DeliveryReason) -> String {
    match reason {
        v1::DeliveryReason::Unspecified => String::new(),
        reason => word(reason.as_str_name(), "DELIVERY_REASON_"),
    }
}

/// What became of an event at a destination.
pub fn verdict(verdict: v1::EventVerdict) -> String {
    word(verdict.as_str_name(), "EVENT_VERDICT_")
}

/// How an attempt ended.
pub fn outcome(attempt: &v1::Attempt) -> String {
    match attempt.status_code {
        Some(status) => status.to_string(),
        None => word(attempt.outcome_kind().as_str_name(), "OUTCOME_KIND_"),
    }
}

/// Where a replay stands.
pub fn replay_state(state: v1::ReplayState) -> String {
    word(state.as_str_name(), "REPLAY_STATE_")
}

/// The state of a word; the message says what would be right.
///
/// # Errors
/// There is none.
pub fn parse_state(text: &str) -> Result<v1::DeliveryState, String> {
    let name = format!("DELIVERY_STATE_{}", text.to_uppercase().replace('-', "_"));
    let known = v1::DeliveryState::from_str_name(&name).filter(|one| *one != v1::DeliveryState::Unspecified);
    known.ok_or_else(|| {
        "write waiting, in-flight, succeeded, dead-lettered, discarded or cancelled".to_owned()
    })
}

/// The level of a word.
///
/// # Errors
/// There is none.
pub fn parse_level(text: &str) -> Result<v1::Level, String> {
    let known = v1::Level::from_str_name(&format!("LEVEL_{}", text.to_uppercase()));
    let known = known.filter(|level| *level != v1::Level::Unspecified);
    known.ok_or_else(|| "write trace, debug, info, warn or error".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_the_api_and_are_read_back() {
        assert_eq!(state(v1::DeliveryState::DeadLettered), "dead-lettered");
        assert_eq!(parse_state("in-flight"), Ok(v1::DeliveryState::InFlight));
        assert!(parse_state("unspecified").unwrap_err().contains("dead-lettered"));
        assert_eq!(reason(v1::DeliveryReason::Unspecified), "");
        assert_eq!(parse_level("warn"), Ok(v1::Level::Warn));
        assert!(parse_level("loud").is_err());
    }
}

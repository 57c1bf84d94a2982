//! SEMAPHOR: one flat object an event, best effort (seed 000).
//!
//! The documented keys come in the documented order. All but four of them are taken out of the event's
//! data, value by value as it was written; the four that are the event's own can't be overwritten from
//! there, in no spelling. Where data has a key twice, its last value counts, as in most JSON parsers.

use std::time::Duration;

use super::json::ObjectWriter;
use super::members::Members;
use super::{Content, RenderProblem, TestOrder, baseline};
use crate::domain::event::Event;
use crate::domain::settings::{EffectivePolicy, Guarantee, RetrySchedule};

/// The nine types (seed 000, "Event Subscriptions").
pub(super) const EVENT_TYPES: [&str; 9] = [
    "query_failed",
    "dashboard_load_failed",
    "token_generation_failed",
    "assistant_request_failed",
    "assistant_request_aborted",
    "assistant_tool_failed",
    "assistant_provider_error",
    "assistant_dynamic_visual_failed",
    "export_failed",
];

/// The User-Agent that receivers may look for (seed 000, "Delivery Behavior").
pub(super) const USER_AGENT: &str = "Semaphor-Enterprise-Telemetry/1.0";

/// The keys that are the event's own.
const PROTECTED: [&str; 4] = ["event_id", "event_type", "occurred_at", "org_id"];
/// The keys out of data that come before `org_id`, in their order.
const BEFORE_ORG: [&str; 4] = ["status", "category", "component", "message"];
/// The keys out of data that come after `org_id`, in their order.
const AFTER_ORG: [&str; 8] = [
    "actor_type",
    "actor_id",
    "org_user_id",
    "operation",
    "stage",
    "error_code",
    "error_message",
    "error_details",
];

/// Two attempts of ten seconds, 250 ms apart and doubling, in memory (seed 000, "Delivery Behavior").
pub(super) fn defaults() -> EffectivePolicy {
    let schedule = RetrySchedule::Exponential {
        base: Duration::from_millis(250),
        factor: 2.0,
        // Two attempts never reach it; the seed names no cap, so it is the longest `Retry-After`.
        cap: baseline::HOUR,
    };
    let mut retry = baseline::retry(schedule, Some(2));
    retry.jitter = 0.0;
    let policy = baseline::policy(Duration::from_secs(10), retry);
    EffectivePolicy { guarantee: Guarantee::BestEffort, ..policy }
}

/// The flat object.
pub(super) fn content(event: &Event) -> Result<Content, RenderProblem> {
    let mut members = Members::read(event.data.as_bytes())?;
    for key in PROTECTED {
        members.take(key);
    }
    let mut body = ObjectWriter::with_capacity(event.data.as_bytes().len() + 384)
        .string("event_id", event.id.as_str())
        .string("event_type", event.event_type.as_str())
        .string("occurred_at", &event.occurred_at.to_rfc3339_millis());
    for key in BEFORE_ORG {
        body = documented(&mut members, body, key);
    }
    body = body.string("org_id", event.organization_id.as_str());
    for key in AFTER_ORG {
        body = documented(&mut members, body, key);
    }
    let rest = members.into_rest();
    body = rest.fold(body, |body, (key, value)| body.raw_member(key, value));
    Ok(Content::json(body.finish()))
}

/// Moves a documented key out of data into the body; `null` is no value, so it is left out.
fn documented(members: &mut Members<'_>, body: ObjectWriter, key: &str) -> ObjectWriter {
    match members.take(key) {
        None | Some("null") => body,
        // Receivers parse this one out of a string, so whatever is no string is put into one.
        Some(value) if key == "error_details" && !value.starts_with('"') => body.string(key, value),
        Some(value) => body.raw(key, value.as_bytes()),
    }
}

/// The sample of seed 000, "Testing Your Webhook", with the caller as the actor.
pub(super) fn test_event(order: TestOrder<'_>) -> Event {
    let details = ObjectWriter::with_capacity(128)
        .string("destinationId", &order.destination_id.to_string())
        .string("destinationUrl", order.url)
        .finish();
    let data = ObjectWriter::with_capacity(512)
        .string("status", "test")
        .string("category", "webhook")
        .string("component", "telemetry-webhook-delivery")
        .string("message", "This is a test event from Semaphor.")
        .string("actor_type", "org_user")
        .string("actor_id", order.actor_id)
        .string("org_user_id", order.actor_id)
        .string("operation", "webhook_test")
        .string("stage", "webhook_test")
        .string("error_code", "test_event")
        .string("error_message", "This is a test event sent from the telemetry settings page.")
        .raw("error_details", &details)
        .finish();
    baseline::test_event_of("webhook_test", data, order)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::fixtures;

    fn body(data: &str) -> String {
        let event = fixtures::event("evt_1", "query_failed", data);
        String::from_utf8(content(&event).unwrap().body.to_vec()).unwrap()
    }

    /// What `body` adds around the members out of data.
    fn expected(before_org: &str, after_org: &str) -> String {
        format!(
            "{{\"event_id\":\"evt_1\",\"event_type\":\"query_failed\",\
             \"occurred_at\":\"2025-06-15T14:32:08.491Z\"{before_org},\"org_id\":\"org_abc123\"{after_org}}}"
        )
    }

    #[test]
    fn documented_keys_come_in_the_documented_order_and_others_after_them_in_their_own() {
        let data = r#"{"zeta":1,"stage":"s","alpha":[ ],"status":"failed","error_details":"{}"}"#;
        let after = r#","stage":"s","error_details":"{}","zeta":1,"alpha":[ ]"#;
        assert_eq!(body(data), expected(r#","status":"failed""#, after));
    }

    #[test]
    fn keys_without_a_value_are_left_out() {
        assert_eq!(body("{}"), expected("", ""));
        assert_eq!(body(r#"{"status":null,"extra":null}"#), expected("", r#","extra":null"#));
    }

    #[test]
    fn error_details_is_a_string_with_the_exact_json_text() {
        let data = r#"{"error_details":{ "n": 1.10, "q":"\"" }}"#;
        assert_eq!(body(data), expected("", r#","error_details":"{ \"n\": 1.10, \"q\":\"\\\"\" }""#));
        assert_eq!(body(r#"{"error_details":[1]}"#), expected("", r#","error_details":"[1]""#));
        assert_eq!(body(r#"{"error_details":"a\/b"}"#), expected("", r#","error_details":"a\/b""#));
    }

    #[test]
    fn the_four_keys_of_the_event_cannot_be_overwritten_in_any_spelling() {
        let data =
            r#"{"event_id":"x","org_id":"other","event\u005ftype":"x","occurred_at":null,"\u006frg_id":1}"#;
        assert_eq!(body(data), expected("", ""));
    }

    #[test]
    fn of_a_key_that_comes_twice_the_last_value_counts() {
        let data = r#"{"status":"a","x":1,"y":2,"st\u0061tus":"b","x":3}"#;
        assert_eq!(body(data), expected(r#","status":"b""#, r#","x":3,"y":2"#));
    }

    #[test]
    fn numbers_and_odd_keys_stay_as_they_were_written() {
        let data = r#"{"n":12345678901234567890123,"e":1e999,"\ud800":1,"\ud800":2,"":0}"#;
        let after = r#","n":12345678901234567890123,"e":1e999,"\ud800":2,"":0"#;
        assert_eq!(body(data), expected("", after));
    }

    #[test]
    fn data_that_is_no_object_is_a_problem_and_not_a_panic() {
        for data in ["", "[1]", "{", "{\"a\":}"] {
            assert!(content(&fixtures::event("evt_1", "query_failed", data)).is_err(), "{data}");
        }
    }
}

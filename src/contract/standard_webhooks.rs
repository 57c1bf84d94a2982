//! STANDARD_WEBHOOKS: the body and the schedule of Standard Webhooks 1.0.0; `key` has its signatures.

use std::time::Duration;

use super::json::ObjectWriter;
use super::{Content, baseline};
use crate::domain::event::Event;
use crate::domain::settings::{EffectivePolicy, RetryPolicy, RetrySchedule};

/// Examples; the specification asks for dotted types and names none.
pub(super) const EVENT_TYPES: [&str; 2] = ["invoice.paid", "user.created"];

/// The header with the event's id.
pub(super) const ID_HEADER: &str = "webhook-id";
/// The header with the time of the attempt, in Unix seconds.
pub(super) const TIMESTAMP_HEADER: &str = "webhook-timestamp";
/// The header with the signatures.
pub(super) const SIGNATURE_HEADER: &str = "webhook-signature";

/// The delays between the ten attempts, in seconds; the first attempt is at once.
const DELAYS: [u64; 9] =
    [5, 5 * 60, 30 * 60, 2 * 60 * 60, 5 * 60 * 60, 10 * 60 * 60, 14 * 60 * 60, 20 * 60 * 60, 24 * 60 * 60];

/// Ten attempts over three days; 410 disables the destination (the specification's operational advice).
pub(super) fn defaults() -> EffectivePolicy {
    EffectivePolicy { gone_disables: true, ..baseline::policy(Duration::from_secs(20), retry()) }
}

fn retry() -> RetryPolicy {
    baseline::retry(RetrySchedule::Fixed(DELAYS.map(Duration::from_secs).to_vec()), Some(10))
}

/// `type`, `timestamp` and `data`; the timestamp is the event's, not the attempt's.
pub(super) fn content(event: &Event) -> Content {
    let body = ObjectWriter::with_capacity(event.data.as_bytes().len() + 224)
        .string("type", event.event_type.as_str())
        .string("timestamp", &event.occurred_at.to_rfc3339_millis())
        .raw("data", event.data.as_bytes())
        .finish();
    Content::json(body)
}

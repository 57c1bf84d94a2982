//! WORKSPACE: retries after one, five and fifteen minutes, then the dead letters (seed 002).

use std::time::Duration;

use super::json::ObjectWriter;
use super::{Content, baseline};
use crate::domain::event::Event;
use crate::domain::settings::{EffectivePolicy, RetrySchedule};

/// The six types (seed 002, "Event Types").
pub(super) const EVENT_TYPES: [&str; 6] = [
    "ingestion.completed",
    "ingestion.failed",
    "kpi.computed",
    "kpi.alert",
    "analysis.completed",
    "dashboard.ready",
];

/// Three retries after the first attempt (seed 002, "Retry policy").
pub(super) fn defaults() -> EffectivePolicy {
    let schedule = RetrySchedule::Fixed([1, 5, 15].map(|minutes| baseline::MINUTE * minutes).to_vec());
    baseline::policy(Duration::from_secs(15), baseline::retry(schedule, Some(4)))
}

/// `event`, `timestamp`, `tenantId` and `data` (seed 002, "Payload Format").
///
/// The body has no id of its own there; receivers find it in `Signalpost-Event-Id`.
pub(super) fn content(event: &Event) -> Content {
    let body = ObjectWriter::with_capacity(event.data.as_bytes().len() + 256)
        .string("event", event.event_type.as_str())
        .string("timestamp", &event.occurred_at.to_rfc3339_seconds())
        .string("tenantId", event.organization_id.as_str())
        .raw("data", event.data.as_bytes())
        .finish();
    Content::json(body)
}

//! OBSERVER: status events with exponential backoff (seed 003).
//!
//! The seed refers to a payload reference that it does not include, so the shape of the body is ours.

use std::time::Duration;

use super::json::ObjectWriter;
use super::{Content, baseline};
use crate::domain::event::Event;
use crate::domain::settings::{EffectivePolicy, RetrySchedule};

/// The six types (seed 003, "Available event types").
pub(super) const EVENT_TYPES: [&str; 6] = [
    "metric.status_changed",
    "metric.no_data",
    "page.status_changed",
    "slo.burn_started",
    "slo.burn_resolved",
    "agent.offline",
];

/// Eight attempts, five seconds to an hour apart; the seed promises exponential backoff without numbers.
pub(super) fn defaults() -> EffectivePolicy {
    let schedule =
        RetrySchedule::Exponential { base: Duration::from_secs(5), factor: 4.0, cap: baseline::HOUR };
    baseline::policy(Duration::from_secs(10), baseline::retry(schedule, Some(8)))
}

/// `id`, `type`, `occurredAt`, `orgId` and `data`.
pub(super) fn content(event: &Event) -> Content {
    let body = ObjectWriter::with_capacity(event.data.as_bytes().len() + 320)
        .string("id", event.id.as_str())
        .string("type", event.event_type.as_str())
        .string("occurredAt", &event.occurred_at.to_rfc3339_millis())
        .string("orgId", event.organization_id.as_str())
        .raw("data", event.data.as_bytes())
        .finish();
    Content::json(body)
}

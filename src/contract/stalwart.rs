//! STALWART: batches of events, paced by a throttle, until they are too old (seed 001).

use std::time::Duration;

use super::json::{self, ObjectWriter};
use super::{Content, baseline};
use crate::domain::event::{Event, Level};
use crate::domain::settings::{EffectivePolicy, RetrySchedule};
use crate::domain::subscription::Subscription;

/// The two that the seed names; some 600 exist upstream and change from release to release.
pub(super) const EVENT_TYPES: [&str; 2] = ["auth.success", "store.ingest"];

/// The defaults of the `WebHook` object (seed 001, "Configuration"); the caps are ours.
///
/// A failed batch keeps its order, so there is one request at a time.
pub(super) fn defaults() -> EffectivePolicy {
    let throttle = Duration::from_secs(1);
    let schedule = RetrySchedule::Exponential { base: throttle, factor: 2.0, cap: Duration::from_secs(30) };
    EffectivePolicy {
        throttle,
        max_batch_events: 100,
        discard_after: Some(baseline::MINUTE * 5),
        ordered: true,
        max_concurrency: 1,
        ..baseline::policy(Duration::from_secs(30), baseline::retry(schedule, None))
    }
}

/// Everything from `info` on, as upstream's defaults `exclude` of nothing and `info` say.
pub(super) fn default_subscription() -> Subscription {
    Subscription { minimum_level: Some(Level::Info), ..Subscription::default() }
}

/// `{"events":[…]}` (seed 001, "Response object").
pub(super) fn content(events: &[&Event]) -> Content {
    let elements: Vec<_> = events.iter().map(|event| element(event)).collect();
    let list = json::array(&elements);
    Content::json(ObjectWriter::with_capacity(list.len() + 16).raw("events", &list).finish())
}

fn element(event: &Event) -> bytes::Bytes {
    ObjectWriter::with_capacity(event.data.as_bytes().len() + 192)
        .string("id", event.id.as_str())
        .string("createdAt", &event.occurred_at.to_rfc3339_seconds())
        .string("type", event.event_type.as_str())
        .raw("data", event.data.as_bytes())
        .finish()
}

//! What most contracts have in common: the policy that they vary, the test event, the subscription.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;

use super::TestOrder;
use super::json::ObjectWriter;
use crate::domain::contract::CloudEventsMode;
use crate::domain::event::{Event, EventType, Level};
use crate::domain::id::{EventId, EventKey};
use crate::domain::payload::Payload;
use crate::domain::settings::{EffectivePolicy, Guarantee, RetryPolicy, RetrySchedule};
use crate::domain::subscription::Subscription;

/// The most requests in flight at once, where the order does not matter.
const MAX_CONCURRENCY: u32 = 8;
/// The most body bytes in one request: 1 MiB.
const MAX_BATCH_BYTES: u32 = 1024 * 1024;

/// One minute.
pub(super) const MINUTE: Duration = Duration::from_secs(60);
/// One hour.
pub(super) const HOUR: Duration = Duration::from_secs(60 * 60);
/// The jitter of every contract but SEMAPHOR: a tenth of the delay, only ever later.
pub(super) const JITTER: f64 = 0.1;

/// At least once, one event a request, unthrottled, eight at a time: what a contract says otherwise, it
/// overrides.
pub(super) fn policy(timeout: Duration, retry: RetryPolicy) -> EffectivePolicy {
    EffectivePolicy {
        timeout,
        retry,
        throttle: Duration::ZERO,
        max_batch_events: 1,
        max_batch_bytes: MAX_BATCH_BYTES,
        discard_after: None,
        lossy: false,
        guarantee: Guarantee::AtLeastOnce,
        ordered: false,
        max_concurrency: MAX_CONCURRENCY,
        allow_invalid_certificates: false,
        cloudevents_mode: CloudEventsMode::Structured,
        cloudevents_source: None,
        disable_after: None,
        gone_disables: false,
        keep_response_bodies: true,
    }
}

/// A retry policy that ends with its attempts and knows no final status.
pub(super) fn retry(schedule: RetrySchedule, max_attempts: Option<u32>) -> RetryPolicy {
    RetryPolicy {
        schedule,
        max_attempts,
        give_up_after: None,
        jitter: JITTER,
        final_statuses: BTreeSet::new(),
    }
}

/// A subscription to exactly the types of a closed catalogue.
pub(super) fn subscription_to(types: &'static [&'static str]) -> Subscription {
    Subscription::include(types.iter().copied().map(constant_type))
}

/// `webhook.test`, with what was tested and by whom.
pub(super) fn test_event(order: TestOrder<'_>) -> Event {
    let data = ObjectWriter::with_capacity(256)
        .string("message", "This is a test event from Signalpost.")
        .string("destinationId", &order.destination_id.to_string())
        .string("destinationUrl", order.url)
        .string("actorId", order.actor_id)
        .finish();
    test_event_of("webhook.test", data, order)
}

/// A test event of that type with that data, which must be a JSON object.
pub(super) fn test_event_of(event_type: &'static str, data: Bytes, order: TestOrder<'_>) -> Event {
    let key = EventKey::MIN.next(order.now, order.draw);
    Event {
        erased_at: None,
        trace: None,
        key,
        id: EventId::from_key(key),
        organization_id: order.organization_id.clone(),
        event_type: constant_type(event_type),
        occurred_at: order.now,
        accepted_at: order.now,
        level: Level::Info,
        data: Payload::from_stored(data),
        routes: Vec::new(),
    }
}

#[expect(clippy::expect_used, reason = "only constants come here, and a test parses every one of them")]
fn constant_type(text: &'static str) -> EventType {
    EventType::parse(text).expect("a constant event type is valid")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::fixtures::{self, Setup};
    use crate::contract::{Catalogue, catalogue, default_subscription, defaults, has_levels};
    use crate::domain::contract::Contract;
    use crate::domain::payload::PayloadLimits;

    #[test]
    fn the_test_event_of_every_contract_is_valid_and_names_what_was_tested() {
        let organization_id = fixtures::organization();
        let order = TestOrder {
            organization_id: &organization_id,
            destination_id: fixtures::destination_id(),
            url: "https://example.com/a\"b",
            actor_id: "usr_\"x",
            now: fixtures::moment(),
            draw: 0,
        };
        for contract in Contract::ALL {
            let event = super::super::test_event(contract, order);
            assert_eq!(event.id.as_key(), Some(event.key));
            assert!(event.routes.is_empty());
            let parsed = Payload::parse(event.data.bytes(), PayloadLimits::default()).unwrap();
            assert_eq!(parsed, event.data);
            let data = String::from_utf8(event.data.as_bytes().to_vec()).unwrap();
            assert!(data.contains(&order.destination_id.to_string()) && data.contains("usr_"), "{data}");
            Setup::new(contract).render(&[&event]).unwrap();
        }
    }

    #[test]
    fn semaphors_test_event_is_the_sample_of_its_documentation() {
        let organization_id = fixtures::organization();
        let order = TestOrder {
            organization_id: &organization_id,
            destination_id: fixtures::destination_id(),
            url: "https://example.com/webhooks",
            actor_id: "usr_def456",
            now: fixtures::moment(),
            draw: 0,
        };
        let mut event = super::super::test_event(Contract::Semaphor, order);
        event.id = EventId::parse("a1b2c3d4-e5f6-7890-abcd-ef1234567890").unwrap();
        let request = Setup::new(Contract::Semaphor).render(&[&event]).unwrap();
        // Copied out of seed 000, key by key; only the form of the destination's id is ours.
        let sample = r#"{
  "event_id": "a1b2c3d4-e5f6-7890-abcd-ef1234567890",
  "event_type": "webhook_test",
  "occurred_at": "2025-06-15T14:32:08.491Z",
  "status": "test",
  "category": "webhook",
  "component": "telemetry-webhook-delivery",
  "message": "This is a test event from Semaphor.",
  "org_id": "org_abc123",
  "actor_type": "org_user",
  "actor_id": "usr_def456",
  "org_user_id": "usr_def456",
  "operation": "webhook_test",
  "stage": "webhook_test",
  "error_code": "test_event",
  "error_message": "This is a test event sent from the telemetry settings page.",
  "error_details": "{\"destinationId\":\"dest_ghi789\",\"destinationUrl\":\"https://example.com/webhooks\"}"
}"#;
        let sample = sample.replace("dest_ghi789", &order.destination_id.to_string());
        // Keys keep their order (`preserve_order`), so the compact texts are equal only if the order is.
        let sample: serde_json::Value = serde_json::from_str(&sample).unwrap();
        assert_eq!(std::str::from_utf8(request.body()).unwrap(), sample.to_string());
    }

    #[test]
    fn catalogues_and_subscriptions_are_those_of_the_documentation() {
        let sizes = Contract::ALL.map(|contract| match catalogue(contract) {
            Catalogue::Closed(types) => (true, types.len(), default_subscription(contract).event_types.len()),
            Catalogue::Open(types) => (false, types.len(), default_subscription(contract).event_types.len()),
        });
        let open = (false, 2, 0);
        assert_eq!(sizes, [(true, 9, 9), open, (true, 6, 6), (true, 6, 6), open, open]);
        let levels = Contract::ALL.map(has_levels);
        assert_eq!(levels, [false, true, false, false, false, false]);
    }

    #[test]
    fn the_defaults_are_those_of_the_table() {
        let all = Contract::ALL.map(defaults);
        let timeouts = all.each_ref().map(|policy| policy.timeout.as_secs());
        assert_eq!(timeouts, [10, 30, 15, 10, 20, 20]);
        let attempts = all.each_ref().map(|policy| policy.retry.max_attempts);
        assert_eq!(attempts, [Some(2), None, Some(4), Some(8), Some(10), Some(10)]);
        let jitters = all.each_ref().map(|policy| policy.retry.jitter);
        assert_eq!(jitters, [0.0, 0.1, 0.1, 0.1, 0.1, 0.1]);
        let best_effort = all.each_ref().map(|policy| policy.guarantee == Guarantee::BestEffort);
        assert_eq!(best_effort, [true, false, false, false, false, false]);
        let gone_disables = all.each_ref().map(|policy| policy.gone_disables);
        assert_eq!(gone_disables, [false, false, false, false, true, true]);
        let concurrency = all.each_ref().map(|policy| (policy.max_concurrency, policy.ordered));
        let free = (8, false);
        assert_eq!(concurrency, [free, (1, true), free, free, free, free]);
        let batches = all.each_ref().map(|policy| policy.max_batch_events);
        assert_eq!(batches, [1, 100, 1, 1, 1, 100]);
        let seconds = Duration::from_secs;
        assert_eq!(all[1].throttle, seconds(1));
        assert_eq!(all[1].discard_after, Some(seconds(300)));
        assert_eq!(all[1].max_batch_bytes, 1_048_576);
        let exponential = |base, factor, cap| RetrySchedule::Exponential { base, factor, cap };
        assert_eq!(all[0].retry.schedule, exponential(Duration::from_millis(250), 2.0, seconds(3600)));
        assert_eq!(all[1].retry.schedule, exponential(seconds(1), 2.0, seconds(30)));
        assert_eq!(all[2].retry.schedule, RetrySchedule::Fixed([60, 300, 900].map(seconds).to_vec()));
        assert_eq!(all[3].retry.schedule, exponential(seconds(5), 4.0, seconds(3600)));
        let RetrySchedule::Fixed(delays) = &all[4].retry.schedule else { panic!("a list") };
        // 75 h 35 min 5 s in all, as the specification's schedule adds up.
        assert_eq!((delays.len(), delays.iter().sum::<Duration>()), (9, seconds(75 * 3600 + 35 * 60 + 5)));
        assert_eq!(all[5].retry, all[4].retry);
    }
}

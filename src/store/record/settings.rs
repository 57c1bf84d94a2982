//! A destination's settings and its subscription.

use std::collections::BTreeSet;
use std::time::Duration;

use prost::Message;

use super::{codes, guarantee, guarantee_code, level, level_code, nanos};
use crate::domain::contract::CloudEventsMode;
use crate::domain::event::EventType;
use crate::domain::settings::{DeliverySettings, RetryPolicy, RetrySchedule};
use crate::domain::subscription::{Subscription, SubscriptionPolicy};

#[derive(Clone, PartialEq, Message)]
pub(super) struct SubscriptionRecord {
    #[prost(uint32, tag = "1")]
    policy: u32,
    #[prost(string, repeated, tag = "2")]
    event_types: Vec<String>,
    #[prost(uint32, optional, tag = "3")]
    minimum_level: Option<u32>,
    #[prost(string, repeated, tag = "4")]
    operational: Vec<String>,
}

/// Durations are in nanoseconds.
#[derive(Clone, PartialEq, Message)]
pub(super) struct SettingsRecord {
    #[prost(uint64, optional, tag = "1")]
    timeout: Option<u64>,
    #[prost(message, optional, tag = "2")]
    retry: Option<RetryRecord>,
    #[prost(uint64, optional, tag = "3")]
    throttle: Option<u64>,
    #[prost(uint32, optional, tag = "4")]
    max_batch_events: Option<u32>,
    #[prost(uint32, optional, tag = "5")]
    max_batch_bytes: Option<u32>,
    #[prost(uint64, optional, tag = "6")]
    discard_after: Option<u64>,
    #[prost(bool, optional, tag = "7")]
    lossy: Option<bool>,
    #[prost(uint32, optional, tag = "8")]
    guarantee: Option<u32>,
    #[prost(bool, optional, tag = "9")]
    ordered: Option<bool>,
    #[prost(uint32, optional, tag = "10")]
    max_concurrency: Option<u32>,
    #[prost(bool, optional, tag = "11")]
    allow_invalid_certificates: Option<bool>,
    #[prost(uint32, optional, tag = "12")]
    cloudevents_mode: Option<u32>,
    #[prost(string, optional, tag = "13")]
    cloudevents_source: Option<String>,
    #[prost(uint64, optional, tag = "14")]
    disable_after: Option<u64>,
    #[prost(bool, optional, tag = "15")]
    disable_on_gone: Option<bool>,
    #[prost(bool, optional, tag = "16")]
    keep_response_bodies: Option<bool>,
}

#[derive(Clone, PartialEq, Message)]
struct RetryRecord {
    /// The delays of a fixed schedule.
    #[prost(uint64, repeated, tag = "1")]
    delays: Vec<u64>,
    /// Present where the schedule is exponential.
    #[prost(message, optional, tag = "2")]
    exponential: Option<ExponentialRecord>,
    #[prost(uint32, optional, tag = "3")]
    max_attempts: Option<u32>,
    #[prost(uint64, optional, tag = "4")]
    give_up_after: Option<u64>,
    #[prost(double, tag = "5")]
    jitter: f64,
    #[prost(uint32, repeated, tag = "6")]
    final_statuses: Vec<u32>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct ExponentialRecord {
    #[prost(uint64, tag = "1")]
    base: u64,
    #[prost(double, tag = "2")]
    factor: f64,
    #[prost(uint64, tag = "3")]
    cap: u64,
}

codes!(policy_code, policy, SubscriptionPolicy, {
    SubscriptionPolicy::Include = 1, SubscriptionPolicy::Exclude = 2,
});
codes!(mode_code, mode, CloudEventsMode, {
    CloudEventsMode::Structured = 1, CloudEventsMode::Binary = 2, CloudEventsMode::Batch = 3,
});

pub(super) fn encode_subscription(subscription: &Subscription) -> SubscriptionRecord {
    SubscriptionRecord {
        policy: policy_code(subscription.policy),
        event_types: subscription.event_types.iter().map(ToString::to_string).collect(),
        minimum_level: subscription.minimum_level.map(level_code),
        operational: subscription.operational.iter().map(ToString::to_string).collect(),
    }
}

pub(super) fn restore_subscription(record: &SubscriptionRecord) -> Result<Subscription, String> {
    let types = |texts: &[String]| -> Result<BTreeSet<EventType>, String> {
        texts.iter().map(|text| EventType::parse(text)).collect()
    };
    Ok(Subscription {
        policy: policy(record.policy)?,
        event_types: types(&record.event_types)?,
        minimum_level: record.minimum_level.map(level).transpose()?,
        operational: types(&record.operational)?,
    })
}

pub(super) fn encode_settings(settings: &DeliverySettings) -> SettingsRecord {
    SettingsRecord {
        timeout: settings.timeout.map(nanos),
        retry: settings.retry.as_ref().map(encode_retry),
        throttle: settings.throttle.map(nanos),
        max_batch_events: settings.max_batch_events,
        max_batch_bytes: settings.max_batch_bytes,
        discard_after: settings.discard_after.map(nanos),
        lossy: settings.lossy,
        guarantee: settings.guarantee.map(guarantee_code),
        ordered: settings.ordered,
        max_concurrency: settings.max_concurrency,
        allow_invalid_certificates: settings.allow_invalid_certificates,
        cloudevents_mode: settings.cloudevents_mode.map(mode_code),
        cloudevents_source: settings.cloudevents_source.clone(),
        disable_after: settings.disable_after.map(nanos),
        disable_on_gone: settings.disable_on_gone,
        keep_response_bodies: settings.keep_response_bodies,
    }
}

pub(super) fn restore_settings(record: SettingsRecord) -> Result<DeliverySettings, String> {
    Ok(DeliverySettings {
        timeout: record.timeout.map(Duration::from_nanos),
        retry: record.retry.map(restore_retry).transpose()?,
        throttle: record.throttle.map(Duration::from_nanos),
        max_batch_events: record.max_batch_events,
        max_batch_bytes: record.max_batch_bytes,
        discard_after: record.discard_after.map(Duration::from_nanos),
        lossy: record.lossy,
        guarantee: record.guarantee.map(guarantee).transpose()?,
        ordered: record.ordered,
        max_concurrency: record.max_concurrency,
        allow_invalid_certificates: record.allow_invalid_certificates,
        cloudevents_mode: record.cloudevents_mode.map(mode).transpose()?,
        cloudevents_source: record.cloudevents_source,
        disable_after: record.disable_after.map(Duration::from_nanos),
        disable_on_gone: record.disable_on_gone,
        keep_response_bodies: record.keep_response_bodies,
    })
}

fn encode_retry(retry: &RetryPolicy) -> RetryRecord {
    let (delays, exponential) = match &retry.schedule {
        RetrySchedule::Fixed(delays) => (delays.iter().copied().map(nanos).collect(), None),
        RetrySchedule::Exponential { base, factor, cap } => {
            let record = ExponentialRecord { base: nanos(*base), factor: *factor, cap: nanos(*cap) };
            (Vec::new(), Some(record))
        }
    };
    RetryRecord {
        delays,
        exponential,
        max_attempts: retry.max_attempts,
        give_up_after: retry.give_up_after.map(nanos),
        jitter: retry.jitter,
        final_statuses: retry.final_statuses.iter().copied().map(u32::from).collect(),
    }
}

fn restore_retry(record: RetryRecord) -> Result<RetryPolicy, String> {
    let schedule = match record.exponential {
        Some(ExponentialRecord { base, factor, cap }) => RetrySchedule::Exponential {
            base: Duration::from_nanos(base),
            factor,
            cap: Duration::from_nanos(cap),
        },
        None => RetrySchedule::Fixed(record.delays.into_iter().map(Duration::from_nanos).collect()),
    };
    let statuses = record.final_statuses.into_iter().map(u16::try_from).collect::<Result<_, _>>();
    Ok(RetryPolicy {
        schedule,
        max_attempts: record.max_attempts,
        give_up_after: record.give_up_after.map(Duration::from_nanos),
        jitter: record.jitter,
        final_statuses: statuses.map_err(|_| "a final status is none")?,
    })
}

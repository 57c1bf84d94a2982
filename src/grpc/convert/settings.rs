//! Delivery settings and retry policies.

use std::collections::BTreeSet;
use std::time::Duration;

use super::time::{read_duration, write_duration};
use super::{count, known, required, unsigned};
use crate::domain::contract::CloudEventsMode;
use crate::domain::settings::{DeliverySettings, Guarantee, RetryPolicy, RetrySchedule};
use crate::domain::violation::{Rule, Violations};
use crate::grpc::proto::v1;
use crate::grpc::proto::v1::retry_policy::Schedule;

/// What each delay of a growing schedule is multiplied by, where the caller does not say.
const DEFAULT_FACTOR: f64 = 2.0;
/// The most entries of a list that are looked at, so that the answer to a bad one stays small.
const LIST_MAX: usize = 100;

/// Reads settings; paths begin with `path`.
pub fn read_settings(settings: v1::DeliverySettings, path: &str, found: &mut Violations) -> DeliverySettings {
    let at = |field: &str| format!("{path}.{field}");
    let guarantee = known(settings.guarantee, &at("guarantee"), found).and_then(read_guarantee);
    let mode = known(settings.cloud_events_mode, &at("cloud_events_mode"), found);
    DeliverySettings {
        timeout: read_duration(settings.timeout, &at("timeout"), found),
        retry: settings.retry_policy.and_then(|retry| read_retry(retry, &at("retry_policy"), found)),
        throttle: read_duration(settings.throttle, &at("throttle"), found),
        max_batch_events: read_count(settings.max_batch_events, &at("max_batch_events"), found),
        max_batch_bytes: read_count(settings.max_batch_bytes, &at("max_batch_bytes"), found),
        discard_after: read_duration(settings.discard_after, &at("discard_after"), found),
        lossy: settings.lossy,
        guarantee,
        ordered: settings.ordered,
        max_concurrency: read_count(settings.max_concurrency, &at("max_concurrency"), found),
        allow_invalid_certificates: settings.allow_invalid_certificates,
        cloudevents_mode: mode.and_then(read_mode),
        cloudevents_source: settings.cloud_events_source,
        disable_after: read_duration(settings.disable_after, &at("disable_after"), found),
        disable_on_gone: settings.disable_on_gone,
        keep_response_bodies: settings.keep_response_bodies,
    }
}

fn read_count(value: Option<i32>, path: &str, found: &mut Violations) -> Option<u32> {
    value.and_then(|value| unsigned(value, path, found))
}

fn read_retry(retry: v1::RetryPolicy, path: &str, found: &mut Violations) -> Option<RetryPolicy> {
    let schedule = match retry.schedule {
        Some(Schedule::Fixed(fixed)) => read_fixed(&fixed, &format!("{path}.fixed.delays"), found),
        Some(Schedule::Exponential(growing)) => {
            read_exponential(growing, &format!("{path}.exponential"), found)
        }
        None => {
            required(path, "give either `fixed` or `exponential`", found);
            None
        }
    };
    let final_statuses = read_statuses(&retry.final_status_codes, path, found);
    let max_attempts = read_count(retry.max_attempts, &format!("{path}.max_attempts"), found);
    let give_up_after = read_duration(retry.give_up_after, &format!("{path}.give_up_after"), found);
    let jitter = retry.jitter.unwrap_or_default();
    schedule.map(|schedule| RetryPolicy { schedule, max_attempts, give_up_after, jitter, final_statuses })
}

fn read_fixed(fixed: &v1::FixedDelays, path: &str, found: &mut Violations) -> Option<RetrySchedule> {
    if fixed.delays.is_empty() {
        required(path, "give 1 or more delays, or max_attempts 1 with `exponential` for none", found);
        return None;
    }
    let too_long = check_length(fixed.delays.len(), path, found);
    let delays: Vec<Duration> = fixed
        .delays
        .iter()
        .take(LIST_MAX)
        .enumerate()
        .filter_map(|(position, delay)| read_duration(Some(*delay), &format!("{path}[{position}]"), found))
        .collect();
    (!too_long).then_some(RetrySchedule::Fixed(delays))
}

fn read_exponential(
    growing: v1::ExponentialBackoff,
    path: &str,
    found: &mut Violations,
) -> Option<RetrySchedule> {
    for (field, value) in [("base", &growing.base), ("cap", &growing.cap)] {
        if value.is_none() {
            required(&format!("{path}.{field}"), "give a duration, for example \"5s\"", found);
        }
    }
    let base = read_duration(growing.base, &format!("{path}.base"), found);
    let cap = read_duration(growing.cap, &format!("{path}.cap"), found);
    let factor = growing.factor.unwrap_or(DEFAULT_FACTOR);
    Some(RetrySchedule::Exponential { base: base?, factor, cap: cap? })
}

fn read_statuses(codes: &[i32], path: &str, found: &mut Violations) -> BTreeSet<u16> {
    let path = format!("{path}.final_status_codes");
    check_length(codes.len(), &path, found);
    let mut statuses = BTreeSet::new();
    for (position, code) in codes.iter().take(LIST_MAX).enumerate() {
        match u16::try_from(*code) {
            Ok(status) => {
                statuses.insert(status);
            }
            Err(_) => {
                let path = format!("{path}[{position}]");
                found.add_as(Rule::OutOfRange, path, format!("is {code}; give a status from 300 to 599"));
            }
        }
    }
    statuses
}

fn check_length(length: usize, path: &str, found: &mut Violations) -> bool {
    let too_long = length > LIST_MAX;
    if too_long {
        let description = format!("has {length} entries; at most {LIST_MAX} are allowed");
        found.add_as(Rule::TooLong, path, description);
    }
    too_long
}

/// Reads a guarantee; unspecified is `None`.
pub const fn read_guarantee(guarantee: v1::Guarantee) -> Option<Guarantee> {
    match guarantee {
        v1::Guarantee::Unspecified => None,
        v1::Guarantee::AtLeastOnce => Some(Guarantee::AtLeastOnce),
        v1::Guarantee::BestEffort => Some(Guarantee::BestEffort),
    }
}

/// Writes a guarantee.
pub const fn write_guarantee(guarantee: Guarantee) -> v1::Guarantee {
    match guarantee {
        Guarantee::AtLeastOnce => v1::Guarantee::AtLeastOnce,
        Guarantee::BestEffort => v1::Guarantee::BestEffort,
    }
}

const fn read_mode(mode: v1::CloudEventsMode) -> Option<CloudEventsMode> {
    match mode {
        v1::CloudEventsMode::Unspecified => None,
        v1::CloudEventsMode::Structured => Some(CloudEventsMode::Structured),
        v1::CloudEventsMode::Binary => Some(CloudEventsMode::Binary),
        v1::CloudEventsMode::Batch => Some(CloudEventsMode::Batch),
    }
}

/// Writes a mode of CloudEvents.
pub const fn write_mode(mode: CloudEventsMode) -> v1::CloudEventsMode {
    match mode {
        CloudEventsMode::Structured => v1::CloudEventsMode::Structured,
        CloudEventsMode::Binary => v1::CloudEventsMode::Binary,
        CloudEventsMode::Batch => v1::CloudEventsMode::Batch,
    }
}

/// Writes what is set on a destination.
pub fn write_settings(settings: &DeliverySettings) -> v1::DeliverySettings {
    v1::DeliverySettings {
        timeout: settings.timeout.map(write_duration),
        retry_policy: settings.retry.as_ref().map(write_retry),
        throttle: settings.throttle.map(write_duration),
        max_batch_events: settings.max_batch_events.map(count),
        max_batch_bytes: settings.max_batch_bytes.map(count),
        discard_after: settings.discard_after.map(write_duration),
        lossy: settings.lossy,
        guarantee: settings.guarantee.map_or(v1::Guarantee::Unspecified, write_guarantee).into(),
        ordered: settings.ordered,
        max_concurrency: settings.max_concurrency.map(count),
        allow_invalid_certificates: settings.allow_invalid_certificates,
        cloud_events_mode: settings
            .cloudevents_mode
            .map_or(v1::CloudEventsMode::Unspecified, write_mode)
            .into(),
        cloud_events_source: settings.cloudevents_source.clone(),
        disable_after: settings.disable_after.map(write_duration),
        disable_on_gone: settings.disable_on_gone,
        keep_response_bodies: settings.keep_response_bodies,
    }
}

/// Writes a retry policy.
pub fn write_retry(retry: &RetryPolicy) -> v1::RetryPolicy {
    let schedule = match &retry.schedule {
        RetrySchedule::Fixed(delays) => {
            Schedule::Fixed(v1::FixedDelays { delays: delays.iter().copied().map(write_duration).collect() })
        }
        RetrySchedule::Exponential { base, factor, cap } => Schedule::Exponential(v1::ExponentialBackoff {
            base: Some(write_duration(*base)),
            factor: Some(*factor),
            cap: Some(write_duration(*cap)),
        }),
    };
    v1::RetryPolicy {
        schedule: Some(schedule),
        max_attempts: retry.max_attempts.map(count),
        give_up_after: retry.give_up_after.map(write_duration),
        jitter: Some(retry.jitter),
        final_status_codes: retry.final_statuses.iter().copied().map(i32::from).collect(),
    }
}

/// The paths within the settings that a destination sets itself.
pub fn overridden_fields(settings: &DeliverySettings) -> Vec<String> {
    [
        ("timeout", settings.timeout.is_some()),
        ("retry_policy", settings.retry.is_some()),
        ("throttle", settings.throttle.is_some()),
        ("max_batch_events", settings.max_batch_events.is_some()),
        ("max_batch_bytes", settings.max_batch_bytes.is_some()),
        ("discard_after", settings.discard_after.is_some()),
        ("lossy", settings.lossy.is_some()),
        ("guarantee", settings.guarantee.is_some()),
        ("ordered", settings.ordered.is_some()),
        ("max_concurrency", settings.max_concurrency.is_some()),
        ("allow_invalid_certificates", settings.allow_invalid_certificates.is_some()),
        ("cloud_events_mode", settings.cloudevents_mode.is_some()),
        ("cloud_events_source", settings.cloudevents_source.is_some()),
        ("disable_after", settings.disable_after.is_some()),
        ("disable_on_gone", settings.disable_on_gone.is_some()),
        ("keep_response_bodies", settings.keep_response_bodies.is_some()),
    ]
    .into_iter()
    .filter(|(_, set)| *set)
    .map(|(field, _)| field.to_owned())
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> DeliverySettings {
        DeliverySettings {
            timeout: Some(Duration::from_millis(1500)),
            retry: Some(RetryPolicy {
                schedule: RetrySchedule::Exponential {
                    base: Duration::from_secs(5),
                    factor: 4.0,
                    cap: Duration::from_secs(3600),
                },
                max_attempts: Some(8),
                give_up_after: Some(Duration::from_secs(86_400)),
                jitter: 0.1,
                final_statuses: [400, 410].into(),
            }),
            throttle: Some(Duration::ZERO),
            max_batch_events: Some(10),
            max_batch_bytes: Some(4096),
            discard_after: Some(Duration::from_secs(300)),
            lossy: Some(false),
            guarantee: Some(Guarantee::BestEffort),
            ordered: Some(true),
            max_concurrency: Some(1),
            allow_invalid_certificates: Some(false),
            cloudevents_mode: Some(CloudEventsMode::Batch),
            cloudevents_source: Some("/shop".into()),
            disable_after: Some(Duration::from_secs(7200)),
            disable_on_gone: Some(true),
            keep_response_bodies: Some(false),
        }
    }

    fn read(settings: v1::DeliverySettings) -> (DeliverySettings, Vec<String>) {
        let mut found = Violations::new();
        let read = read_settings(settings, "destination.settings", &mut found);
        (read, found.iter().map(|violation| violation.field.clone()).collect())
    }

    #[test]
    fn settings_read_back_as_they_are_written() {
        let mut fixed = full();
        fixed.retry = fixed.retry.map(|retry| RetryPolicy {
            schedule: RetrySchedule::Fixed(vec![Duration::ZERO, Duration::from_secs(60)]),
            ..retry
        });
        for settings in [DeliverySettings::default(), full(), fixed] {
            assert_eq!(read(write_settings(&settings)), (settings, vec![]));
        }
        assert_eq!(overridden_fields(&full()).len(), 16);
        assert!(overridden_fields(&DeliverySettings::default()).is_empty());
    }

    #[test]
    fn every_setting_that_cannot_be_read_is_named_by_its_path() {
        let negative = Some(prost_types::Duration { seconds: -1, nanos: 0 });
        let settings = v1::DeliverySettings {
            timeout: negative,
            retry_policy: Some(v1::RetryPolicy {
                schedule: Some(Schedule::Exponential(v1::ExponentialBackoff {
                    base: None,
                    factor: None,
                    cap: negative,
                })),
                max_attempts: Some(-1),
                final_status_codes: vec![500, -7],
                ..v1::RetryPolicy::default()
            }),
            max_concurrency: Some(-3),
            guarantee: 9,
            ..v1::DeliverySettings::default()
        };
        let (_, fields) = read(settings);
        for field in [
            "timeout",
            "retry_policy.exponential.base",
            "retry_policy.exponential.cap",
            "retry_policy.max_attempts",
            "retry_policy.final_status_codes[1]",
            "max_concurrency",
            "guarantee",
        ] {
            assert!(fields.contains(&format!("destination.settings.{field}")), "{field}: {fields:?}");
        }
    }

    #[test]
    fn a_retry_policy_without_a_schedule_or_with_no_delays_is_refused() {
        let (_, fields) = read(v1::DeliverySettings {
            retry_policy: Some(v1::RetryPolicy::default()),
            ..v1::DeliverySettings::default()
        });
        assert_eq!(fields, ["destination.settings.retry_policy"]);
        let empty = Schedule::Fixed(v1::FixedDelays::default());
        let (_, fields) = read(v1::DeliverySettings {
            retry_policy: Some(v1::RetryPolicy { schedule: Some(empty), ..v1::RetryPolicy::default() }),
            ..v1::DeliverySettings::default()
        });
        assert_eq!(fields, ["destination.settings.retry_policy.fixed.delays"]);
    }
}

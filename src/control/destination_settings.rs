//! What values delivery settings may have. Pure.
//!
//! The bounds keep one destination from costing much more than others, and a typing error (milliseconds
//! for seconds, say) from being taken for a wish.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::contract;
use crate::domain::contract::{CloudEventsMode, Contract};
use crate::domain::settings::{DeliverySettings, RetryPolicy, RetrySchedule};
use crate::domain::violation::{Rule, Violations};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const MONTH: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// How long an attempt may take.
pub const TIMEOUT: RangeInclusive<Duration> = SECOND..=Duration::from_secs(120);
/// The gap between two requests.
pub const THROTTLE: RangeInclusive<Duration> = Duration::ZERO..=HOUR;
/// When an undelivered event is discarded.
pub const DISCARD_AFTER: RangeInclusive<Duration> = SECOND..=MONTH;
/// When a failing destination is disabled.
pub const DISABLE_AFTER: RangeInclusive<Duration> = HOUR..=MONTH;
/// How many events a request may carry.
pub const BATCH_EVENTS: RangeInclusive<u32> = 1..=1000;
/// How large the body of a batch may be.
pub const BATCH_BYTES: RangeInclusive<u32> = 1024..=16 * 1024 * 1024;
/// How many requests may be under way.
pub const CONCURRENCY: RangeInclusive<u32> = 1..=256;
/// How long a single retry delay may be.
pub const RETRY_DELAY: RangeInclusive<Duration> = Duration::ZERO..=DAY;
/// The base and the cap of growing delays; a base of zero would never grow.
pub const BACKOFF: RangeInclusive<Duration> = Duration::from_millis(10)..=DAY;
/// How many delays a fixed list may have.
pub const RETRY_STEPS_MAX: usize = 32;
/// What growing delays may be multiplied by.
pub const BACKOFF_FACTOR: RangeInclusive<f64> = 1.0..=10.0;
/// How many attempts a cycle may have.
pub const ATTEMPTS: RangeInclusive<u32> = 1..=1000;
/// How long a cycle may last.
pub const GIVE_UP_AFTER: RangeInclusive<Duration> = SECOND..=MONTH;
/// Which statuses may be final.
pub const FINAL_STATUS: RangeInclusive<u16> = 300..=599;
/// The longest `source` of CloudEvents, in characters.
pub const CLOUDEVENTS_SOURCE_MAX_CHARS: usize = 1024;

/// Checks settings for a contract; paths are relative to the settings.
#[must_use]
pub fn check(settings: &DeliverySettings, contract: Contract) -> Violations {
    let mut found = Violations::new();
    check_range(&mut found, "timeout", settings.timeout, TIMEOUT);
    check_range(&mut found, "throttle", settings.throttle, THROTTLE);
    check_range(&mut found, "discard_after", settings.discard_after, DISCARD_AFTER);
    check_range(&mut found, "disable_after", settings.disable_after, DISABLE_AFTER);
    check_range(&mut found, "max_concurrency", settings.max_concurrency, CONCURRENCY);
    if settings.ordered == Some(true) && settings.max_concurrency.is_some_and(|most| most > 1) {
        found.add_as(Rule::NotAllowed, "max_concurrency", "must be 1 or absent where `ordered` is set");
    }
    check_batches(&mut found, settings, contract);
    check_cloudevents(&mut found, settings, contract);
    if let Some(retry) = &settings.retry {
        found.extend_under("retry_policy", check_retry(retry, settings, contract));
    }
    found
}

fn check_batches(found: &mut Violations, settings: &DeliverySettings, contract: Contract) {
    let mode = settings.cloudevents_mode.unwrap_or_default();
    let fields = [
        ("max_batch_events", settings.max_batch_events, BATCH_EVENTS),
        ("max_batch_bytes", settings.max_batch_bytes, BATCH_BYTES),
    ];
    for (field, value, range) in fields {
        if value.is_some() && !contract::groups(contract, mode) {
            let hint = match contract {
                Contract::CloudEvents => "; set the CloudEvents mode to batch, or leave it out",
                _ => "; leave it out",
            };
            found.add_as(
                Rule::NotSupported,
                field,
                format!("has no meaning: {contract} sends one event a request{hint}"),
            );
        } else {
            check_range(found, field, value, range);
        }
    }
}

fn check_cloudevents(found: &mut Violations, settings: &DeliverySettings, contract: Contract) {
    let foreign = contract != Contract::CloudEvents;
    if foreign && settings.cloudevents_mode.is_some_and(|mode| mode != CloudEventsMode::Structured) {
        found.add_as(
            Rule::NotSupported,
            "cloud_events_mode",
            format!("is for CLOUDEVENTS only, not for {contract}; leave it out"),
        );
    }
    let Some(source) = &settings.cloudevents_source else { return };
    let length = source.chars().count();
    if foreign {
        found
            .add("cloud_events_source", format!("is for CLOUDEVENTS only, not for {contract}; leave it out"));
    } else if length == 0 || length > CLOUDEVENTS_SOURCE_MAX_CHARS {
        let bounds = format!("1 to {CLOUDEVENTS_SOURCE_MAX_CHARS}");
        found.add("cloud_events_source", format!("has {length} characters; give {bounds}"));
    } else if !source.chars().all(is_uri_character) {
        found.add("cloud_events_source", "is no URI reference; percent-encode what is not allowed in one");
    }
}

/// RFC 3986: unreserved, reserved and the percent sign.
fn is_uri_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-._~:/?#[]@!$&'()*+,;=%".contains(c)
}

fn check_retry(retry: &RetryPolicy, settings: &DeliverySettings, contract: Contract) -> Violations {
    let mut found = Violations::new();
    check_schedule(&mut found, &retry.schedule);
    check_range(&mut found, "max_attempts", retry.max_attempts, ATTEMPTS);
    check_range(&mut found, "give_up_after", retry.give_up_after, GIVE_UP_AFTER);
    if !(0.0..=1.0).contains(&retry.jitter) {
        found.add("jitter", format!("is {}; give a share from 0.0 to 1.0", retry.jitter));
    }
    if let Some(status) = retry.final_statuses.iter().find(|status| !FINAL_STATUS.contains(status)) {
        found.add("final_status_codes", format!("contains {status}; give statuses from 300 to 599"));
    }
    let endless = matches!(retry.schedule, RetrySchedule::Exponential { .. })
        && retry.max_attempts.is_none()
        && retry.give_up_after.is_none();
    let discards = settings.discard_after.is_some() || contract::defaults(contract).discard_after.is_some();
    if endless && !discards {
        found.add("max_attempts", "is absent, and nothing else ends the attempts; give it or give_up_after");
    }
    found
}

fn check_schedule(found: &mut Violations, schedule: &RetrySchedule) {
    match schedule {
        RetrySchedule::Fixed(delays) => {
            if delays.len() > RETRY_STEPS_MAX {
                let length = delays.len();
                found.add(
                    "fixed.delays",
                    format!("has {length} delays; at most {RETRY_STEPS_MAX} are allowed"),
                );
            }
            for (position, delay) in delays.iter().enumerate() {
                check_range(found, &format!("fixed.delays[{position}]"), Some(*delay), RETRY_DELAY);
            }
        }
        RetrySchedule::Exponential { base, factor, cap } => {
            check_range(found, "exponential.base", Some(*base), BACKOFF);
            check_range(found, "exponential.cap", Some(*cap), BACKOFF);
            if cap < base {
                found.add("exponential.cap", "is shorter than the base; give the base or more");
            }
            if !BACKOFF_FACTOR.contains(factor) {
                found.add("exponential.factor", format!("is {factor}; give 1.0 to 10.0"));
            }
        }
    }
}

fn check_range<T>(found: &mut Violations, field: &str, value: Option<T>, range: RangeInclusive<T>)
where
    T: PartialOrd + std::fmt::Debug,
{
    if let Some(value) = value
        && !range.contains(&value)
    {
        found.add_as(
            Rule::OutOfRange,
            field,
            format!("is {value:?}; give {:?} to {:?}", range.start(), range.end()),
        );
        let debug = |bound: &T| format!("{bound:?}");
        found.with("minimum", debug(range.start())).with("maximum", debug(range.end()));
        found.with("actual", debug(&value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(settings: &DeliverySettings, contract: Contract) -> Vec<String> {
        check(settings, contract).iter().map(|violation| violation.field.clone()).collect()
    }

    fn exponential(base_ms: u64, factor: f64, cap_ms: u64) -> RetryPolicy {
        let (base, cap) = (Duration::from_millis(base_ms), Duration::from_millis(cap_ms));
        RetryPolicy {
            schedule: RetrySchedule::Exponential { base, factor, cap },
            max_attempts: Some(3),
            give_up_after: None,
            jitter: 0.0,
            final_statuses: [410].into(),
        }
    }

    #[test]
    fn every_setting_out_of_its_bounds_is_named() {
        let settings = DeliverySettings {
            timeout: Some(Duration::from_millis(999)),
            throttle: Some(HOUR + SECOND),
            discard_after: Some(Duration::ZERO),
            disable_after: Some(SECOND),
            max_batch_events: Some(0),
            max_batch_bytes: Some(1023),
            max_concurrency: Some(257),
            ..DeliverySettings::default()
        };
        let expected = [
            "timeout",
            "throttle",
            "discard_after",
            "disable_after",
            "max_concurrency",
            "max_batch_events",
            "max_batch_bytes",
        ];
        assert_eq!(fields(&settings, Contract::Stalwart), expected);
    }

    #[test]
    fn settings_without_meaning_for_the_contract_are_refused() {
        let settings = DeliverySettings {
            max_batch_events: Some(10),
            cloudevents_mode: Some(CloudEventsMode::Binary),
            cloudevents_source: Some("/x".into()),
            ..DeliverySettings::default()
        };
        let expected = ["max_batch_events", "cloud_events_mode", "cloud_events_source"];
        assert_eq!(fields(&settings, Contract::Observer), expected);
        let batches = DeliverySettings { cloudevents_mode: Some(CloudEventsMode::Batch), ..settings };
        assert_eq!(fields(&batches, Contract::CloudEvents), [""; 0]);
    }

    #[test]
    fn a_retry_policy_is_judged_as_a_whole_with_its_paths() {
        let mut retry = exponential(5, 0.5, 1);
        retry.max_attempts = Some(0);
        retry.jitter = f64::NAN;
        retry.final_statuses = [200].into();
        let settings = DeliverySettings { retry: Some(retry), ..DeliverySettings::default() };
        let expected = [
            "retry_policy.exponential.base",
            "retry_policy.exponential.cap",
            "retry_policy.exponential.cap",
            "retry_policy.exponential.factor",
            "retry_policy.max_attempts",
            "retry_policy.jitter",
            "retry_policy.final_status_codes",
        ];
        assert_eq!(fields(&settings, Contract::Observer), expected);
    }

    #[test]
    fn attempts_that_nothing_ends_are_refused() {
        let mut retry = exponential(1000, 2.0, 60_000);
        retry.max_attempts = None;
        let mut settings = DeliverySettings { retry: Some(retry), ..DeliverySettings::default() };
        assert_eq!(fields(&settings, Contract::Observer), ["retry_policy.max_attempts"]);
        settings.discard_after = Some(HOUR);
        assert_eq!(fields(&settings, Contract::Observer), [""; 0]);
    }

    #[test]
    fn a_fixed_list_has_at_most_32_delays_of_a_day_each() {
        let delays = vec![DAY + SECOND; 33];
        let retry = RetryPolicy { schedule: RetrySchedule::Fixed(delays), ..exponential(1, 1.0, 1) };
        let settings = DeliverySettings { retry: Some(retry), ..DeliverySettings::default() };
        let fields = fields(&settings, Contract::Workspace);
        assert_eq!(fields.len(), 34);
        assert_eq!(fields[1], "retry_policy.fixed.delays[0]");
    }
}

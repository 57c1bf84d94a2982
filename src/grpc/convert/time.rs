//! Moments and durations.

use std::time::Duration;

use prost_types::{Duration as ProtoDuration, Timestamp as ProtoTimestamp};

use crate::domain::time::Timestamp;
use crate::domain::violation::{Rule, Violations};

/// 0001-01-01T00:00:00Z, the first moment that `google.protobuf.Timestamp` has.
const FIRST_SECOND: i64 = -62_135_596_800;
/// 9999-12-31T23:59:59Z, the last one.
const LAST_SECOND: i64 = 253_402_300_799;
/// The longest `google.protobuf.Duration`: about 10,000 years.
const LONGEST_SECONDS: i64 = 315_576_000_000;
const NANOS_OF_A_SECOND: i32 = 999_999_999;

/// Reads a moment; finer fractions than milliseconds are cut off.
pub fn read_timestamp(
    value: Option<ProtoTimestamp>,
    path: &str,
    violations: &mut Violations,
) -> Option<Timestamp> {
    let ProtoTimestamp { seconds, nanos } = value?;
    if !(FIRST_SECOND..=LAST_SECOND).contains(&seconds) || !(0..=NANOS_OF_A_SECOND).contains(&nanos) {
        let description = format!(
            "is {seconds} s and {nanos} ns from 1970; give a time of the years 0001 to 9999, with 0 to {NANOS_OF_A_SECOND} ns"
        );
        violations.add_as(Rule::OutOfRange, path, description);
        return None;
    }
    Some(Timestamp::from_millis(seconds.saturating_mul(1000).saturating_add(i64::from(nanos / 1_000_000))))
}

/// Writes a moment; beyond the years that the form has it is the first or the last one of them.
pub fn write_timestamp(moment: Timestamp) -> ProtoTimestamp {
    let seconds = moment.as_seconds().clamp(FIRST_SECOND, LAST_SECOND);
    let millis = i32::try_from(moment.as_millis().rem_euclid(1000)).unwrap_or(0);
    ProtoTimestamp { seconds, nanos: millis * 1_000_000 }
}

/// Reads a duration that is not negative.
pub fn read_duration(
    value: Option<ProtoDuration>,
    path: &str,
    violations: &mut Violations,
) -> Option<Duration> {
    let ProtoDuration { seconds, nanos } = value?;
    let whole = u64::try_from(seconds).ok().filter(|_| seconds <= LONGEST_SECONDS);
    let part = u32::try_from(nanos).ok().filter(|_| nanos <= NANOS_OF_A_SECOND);
    if let (Some(whole), Some(part)) = (whole, part) {
        return Some(Duration::new(whole, part));
    }
    let description = if seconds < 0 || nanos < 0 {
        "is negative; give 0 or more, for example \"30s\"".to_owned()
    } else {
        format!("is out of range; give at most {LONGEST_SECONDS} s, with 0 to {NANOS_OF_A_SECOND} ns")
    };
    violations.add_as(Rule::OutOfRange, path, description);
    None
}

/// Writes a duration.
pub fn write_duration(duration: Duration) -> ProtoDuration {
    let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX).min(LONGEST_SECONDS);
    ProtoDuration { seconds, nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0) }
}

/// Reads a range of time: from the first moment on, before the second.
pub fn read_range(
    (start, end): (Option<ProtoTimestamp>, Option<ProtoTimestamp>),
    path: &str,
    violations: &mut Violations,
) -> (Option<Timestamp>, Option<Timestamp>) {
    let start = read_timestamp(start, &format!("{path}.start_time"), violations);
    let end = read_timestamp(end, &format!("{path}.end_time"), violations);
    if let (Some(start), Some(end)) = (start, end)
        && end <= start
    {
        let description = format!("is {end}, which is not after start_time {start}; put the two in order");
        violations.add_as(Rule::TimeRange, format!("{path}.end_time"), description);
    }
    (start, end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn violations_of(read: impl FnOnce(&mut Violations)) -> String {
        let mut violations = Violations::new();
        read(&mut violations);
        violations.to_string()
    }

    #[test]
    fn moments_read_back_as_they_are_written_also_before_1970() {
        for millis in [-62_135_596_800_000, -1, 0, 1, 1_749_997_928_491, 253_402_300_799_999] {
            let mut violations = Violations::new();
            let written = write_timestamp(Timestamp::from_millis(millis));
            let read = read_timestamp(Some(written), "t", &mut violations);
            assert_eq!(read, Some(Timestamp::from_millis(millis)), "{written:?}");
        }
    }

    #[test]
    fn moments_beyond_the_years_1_to_9999_are_refused() {
        for (seconds, nanos) in [(FIRST_SECOND - 1, 0), (LAST_SECOND + 1, 0), (0, -1), (0, 1_000_000_000)] {
            let text = violations_of(|violations| {
                let value = ProtoTimestamp { seconds, nanos };
                assert_eq!(read_timestamp(Some(value), "event.occurred_at", violations), None);
            });
            assert!(text.starts_with("event.occurred_at: "), "{text}");
        }
        assert_eq!(write_timestamp(Timestamp::from_millis(i64::MAX)).seconds, LAST_SECOND);
    }

    #[test]
    fn negative_and_endless_durations_are_refused() {
        for (seconds, nanos, part) in [
            (-1, 0, "negative"),
            (0, -1, "negative"),
            (i64::MAX, 0, "out of range"),
            (1, i32::MAX, "out of range"),
        ] {
            let text = violations_of(|violations| {
                assert_eq!(read_duration(Some(ProtoDuration { seconds, nanos }), "d", violations), None);
            });
            assert!(text.contains(part), "{text}");
        }
        let mut violations = Violations::new();
        let read = read_duration(Some(write_duration(Duration::from_millis(1500))), "d", &mut violations);
        assert_eq!(read, Some(Duration::from_millis(1500)));
    }

    #[test]
    fn a_range_that_ends_before_it_begins_is_refused() {
        let at = |seconds| Some(ProtoTimestamp { seconds, nanos: 0 });
        let text = violations_of(|violations| {
            read_range((at(5), at(5)), "filter", violations);
        });
        assert!(text.starts_with("filter.end_time: "), "{text}");
        assert_eq!(
            violations_of(|violations| {
                read_range((at(4), at(5)), "filter", violations);
            }),
            ""
        );
    }
}

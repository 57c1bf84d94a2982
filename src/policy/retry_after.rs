//! The `Retry-After` header (RFC 9110, section 10.2.3).

use std::time::{Duration, UNIX_EPOCH};

use crate::domain::time::Timestamp;

/// How long the header asks to wait: seconds, or a date in one of the three forms of RFC 9110.
///
/// A date that has passed is no wait at all; what is neither number nor date is no request to wait. How
/// much of it is honoured is the retry policy's to say.
#[must_use]
pub fn parse(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim_matches([' ', '\t']);
    let is_number = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    if is_number {
        // More digits than fit still mean: very long.
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let date = httpdate::parse_http_date(value).ok()?.duration_since(UNIX_EPOCH).ok()?;
    let date = Timestamp::from_millis(i64::try_from(date.as_millis()).ok()?);
    Some(date.since(now))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Sun, 06 Nov 1994 08:49:37 GMT, the example of RFC 9110.
    const NOW: Timestamp = Timestamp::from_millis(784_111_777_000);

    #[test]
    fn seconds_and_all_three_forms_of_a_date_are_read() {
        for (value, seconds) in [
            ("0", 0),
            ("120", 120),
            (" 7\t", 7),
            ("0007", 7),
            ("99999999999999999999999", u64::MAX),
            ("Sun, 06 Nov 1994 08:50:37 GMT", 60),
            ("Sunday, 06-Nov-94 08:50:37 GMT", 60),
            ("Sun Nov  6 08:50:37 1994", 60),
            ("Sun, 06 Nov 1994 08:49:37 GMT", 0),
            ("Sun, 06 Nov 1983 08:49:37 GMT", 0),
        ] {
            assert_eq!(parse(value, NOW), Some(Duration::from_secs(seconds)), "{value}");
        }
    }

    #[test]
    fn what_is_neither_number_nor_date_asks_for_nothing() {
        for value in ["", " ", "soon", "-1", "+1", "1.5", "1e3", "120s", "1 2", "2025-01-15T10:30:00Z", "٣"]
        {
            assert_eq!(parse(value, NOW), None, "{value}");
        }
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic(value in ".{0,64}", now in any::<i64>()) {
            let _wait = parse(&value, Timestamp::from_millis(now));
        }
    }
}

//! Moments: UTC, milliseconds since the Unix epoch.

use std::fmt;
use std::time::Duration;

use ::time::format_description::well_known::Rfc3339;
use ::time::{OffsetDateTime, UtcOffset};

/// A moment in UTC with millisecond precision.
///
/// Arithmetic saturates, so that no configured duration can overflow into the past.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The moment so many milliseconds after the Unix epoch.
    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// Whole seconds since the Unix epoch, rounded down.
    #[must_use]
    pub const fn as_seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// How long after `earlier` this moment is; zero if it is not after it.
    #[must_use]
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// RFC 3339 in UTC with seconds: `2025-01-15T10:30:00Z`.
    #[must_use]
    pub fn to_rfc3339_seconds(self) -> String {
        let moment = self.to_offset();
        format!(
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
            moment.year(),
            u8::from(moment.month()),
            moment.day(),
            moment.hour(),
            moment.minute(),
            moment.second()
        )
    }

    /// RFC 3339 in UTC with milliseconds: `2025-06-15T14:32:08.491Z`.
    #[must_use]
    pub fn to_rfc3339_millis(self) -> String {
        let seconds = self.to_rfc3339_seconds();
        format!("{}.{:03}Z", seconds.trim_end_matches('Z'), self.0.rem_euclid(1000))
    }

    /// Reads any RFC 3339 text; finer fractions than milliseconds are cut off.
    ///
    /// # Errors
    /// A sentence that says what would be right.
    pub fn parse_rfc3339(text: &str) -> Result<Self, String> {
        let parsed = OffsetDateTime::parse(text, &Rfc3339)
            .map_err(|_| format!("`{text}` is no RFC 3339 time; write for example 2025-01-15T10:30:00Z"))?;
        let nanos = parsed.to_offset(UtcOffset::UTC).unix_timestamp_nanos();
        Ok(Self(i64::try_from(nanos.div_euclid(1_000_000)).unwrap_or(i64::MAX)))
    }

    fn to_offset(self) -> OffsetDateTime {
        // Years beyond 9999 have no RFC 3339 form; the edge refuses such times, so the fallback is
        // only there to have no panic here.
        OffsetDateTime::from_unix_timestamp(self.as_seconds()).unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }
}

impl std::ops::Add<Duration> for Timestamp {
    type Output = Timestamp;

    fn add(self, duration: Duration) -> Timestamp {
        Self(self.0.saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }
}

impl std::ops::Sub<Duration> for Timestamp {
    type Output = Timestamp;

    fn sub(self, duration: Duration) -> Timestamp {
        Self(self.0.saturating_sub(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_rfc3339_millis())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_have_the_precision_their_name_says() {
        let moment = Timestamp::from_millis(1_749_997_928_491);
        assert_eq!(moment.to_rfc3339_millis(), "2025-06-15T14:32:08.491Z");
        assert_eq!(moment.to_rfc3339_seconds(), "2025-06-15T14:32:08Z");
    }

    #[test]
    fn any_rfc3339_offset_is_read_as_utc() {
        let parsed = Timestamp::parse_rfc3339("2025-06-15T16:32:08.4919+02:00").unwrap();
        assert_eq!(parsed.to_rfc3339_millis(), "2025-06-15T14:32:08.491Z");
        assert!(Timestamp::parse_rfc3339("yesterday").unwrap_err().contains("RFC 3339"));
    }

    #[test]
    fn arithmetic_saturates_instead_of_wrapping() {
        let late = Timestamp::from_millis(i64::MAX) + Duration::from_secs(1);
        assert_eq!(late.as_millis(), i64::MAX);
        assert_eq!(Timestamp::from_millis(5).since(Timestamp::from_millis(9)), Duration::ZERO);
    }
}

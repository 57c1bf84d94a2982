//! How many events a second an organization may emit, where its plan says so.

use std::time::Duration;

use crate::domain::time::Timestamp;

/// A token bucket that holds at most one second's worth.
///
/// It begins full, so that a caller that was quiet may send a second's worth at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenBucket {
    tokens: f64,
    filled_at: Timestamp,
}

impl TokenBucket {
    /// A full bucket.
    #[must_use]
    pub fn full(per_second: u32, now: Timestamp) -> Self {
        Self { tokens: f64::from(per_second), filled_at: now }
    }

    /// Whether it holds as much as it can, so that a new one would be the same.
    #[must_use]
    pub fn is_full(&self, per_second: u32, now: Timestamp) -> bool {
        let rate = f64::from(per_second);
        self.tokens + now.since(self.filled_at).as_secs_f64() * rate >= rate
    }

    /// Takes one token, if there is one.
    ///
    /// # Errors
    /// How long to wait until there is one. A rate of zero never has any; the wait is a day then.
    pub fn take(&mut self, per_second: u32, now: Timestamp) -> Result<(), Duration> {
        let rate = f64::from(per_second);
        // A clock that goes back adds nothing; `since` is zero then.
        let gained = now.since(self.filled_at).as_secs_f64() * rate;
        self.tokens = (self.tokens + gained).min(rate);
        self.filled_at = self.filled_at.max(now);
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        if per_second == 0 {
            return Err(Duration::from_secs(24 * 60 * 60));
        }
        Err(Duration::from_secs_f64((1.0 - self.tokens) / rate).max(Duration::from_millis(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn a_second_worth_may_come_at_once_and_then_as_many_as_the_rate_says() {
        let mut bucket = TokenBucket::full(10, at(0));
        let taken = (0..20).filter(|_| bucket.take(10, at(0)).is_ok()).count();
        assert_eq!(taken, 10);
        assert_eq!(bucket.take(10, at(0)), Err(Duration::from_millis(100)));
        assert_eq!(bucket.take(10, at(100)), Ok(()));
        assert!(bucket.take(10, at(150)).is_err());
    }

    #[test]
    fn a_long_silence_saves_up_no_more_than_a_second_worth() {
        let mut bucket = TokenBucket::full(3, at(0));
        let taken = (0..20).filter(|_| bucket.take(3, at(1_000_000)).is_ok()).count();
        assert_eq!(taken, 3);
    }

    #[test]
    fn a_clock_that_goes_back_gives_nothing_away() {
        let mut bucket = TokenBucket::full(1, at(10_000));
        assert_eq!(bucket.take(1, at(10_000)), Ok(()));
        assert!(bucket.take(1, at(0)).is_err());
        assert!(bucket.take(1, at(10_500)).is_err());
        assert_eq!(bucket.take(1, at(11_000)), Ok(()));
    }

    #[test]
    fn a_rate_of_zero_lets_nothing_through() {
        let mut bucket = TokenBucket::full(0, at(0));
        assert!(bucket.take(0, at(0)).is_err());
        assert!(bucket.take(0, at(90_000)).is_err());
    }
}

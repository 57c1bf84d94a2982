//! How many requests a destination may have in flight: grows with success, shrinks with failure.

use std::time::Duration;

/// So many failed requests in a row make a destination suspect.
const SUSPECT_AFTER: u32 = 3;

/// The adaptive limit of one lane: additive increase, multiplicative decrease, never below one.
#[derive(Debug, Clone, PartialEq)]
pub struct Concurrency {
    max: u32,
    limit: f64,
    failures_in_a_row: u32,
}

impl Concurrency {
    /// Starts at the full width: a destination is healthy until it shows otherwise.
    #[must_use]
    pub fn new(max: u32) -> Self {
        let max = max.max(1);
        Self { max, limit: f64::from(max), failures_in_a_row: 0 }
    }

    /// Changes the upper bound.
    pub fn set_max(&mut self, max: u32) {
        self.max = max.max(1);
        self.limit = self.limit.min(f64::from(self.max));
    }

    /// A request succeeded. One that took more than half of the time it had is no reason to grow.
    pub fn succeeded(&mut self, took: Duration, timeout: Duration) {
        self.failures_in_a_row = 0;
        if took < timeout / 2 {
            self.limit = (self.limit + 1.0 / self.limit).min(f64::from(self.max));
        }
    }

    /// A request failed: half the width.
    pub fn failed(&mut self) {
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        self.limit = (self.limit / 2.0).max(1.0);
    }

    /// Requests that may be in flight at once, at least one.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the limit lies between 1 and a u32"
    )]
    pub fn limit(&self) -> u32 {
        self.limit as u32
    }

    /// Whether the last requests all failed.
    #[must_use]
    pub fn is_suspect(&self) -> bool {
        self.failures_in_a_row >= SUSPECT_AFTER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAST: Duration = Duration::from_millis(5);
    const TIMEOUT: Duration = Duration::from_secs(10);

    #[test]
    fn failures_narrow_the_lane_to_one_request_and_successes_widen_it_again() {
        let mut concurrency = Concurrency::new(8);
        assert_eq!(concurrency.limit(), 8);
        for expected in [4, 2, 1, 1] {
            concurrency.failed();
            assert_eq!(concurrency.limit(), expected);
        }
        assert!(concurrency.is_suspect());
        for _ in 0..100 {
            concurrency.succeeded(FAST, TIMEOUT);
        }
        assert_eq!(concurrency.limit(), 8);
        assert!(!concurrency.is_suspect());
    }

    #[test]
    fn slow_successes_do_not_widen_the_lane() {
        let mut concurrency = Concurrency::new(8);
        concurrency.failed();
        for _ in 0..100 {
            concurrency.succeeded(Duration::from_secs(6), TIMEOUT);
        }
        assert_eq!(concurrency.limit(), 4);
    }
}

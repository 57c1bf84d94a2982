//! How many requests a destination may have in flight: grows with success, shrinks with failure or slowness.

use std::time::Duration;

use crate::policy::standing::{SLOW, Standing};

/// What a destination that has answered before may have in flight before its next answer: enough not to wait
/// for a lost packet, too little to take much room from others if nobody answers.
pub const INITIAL: u32 = 2;
/// So many failed requests in a row make a destination a failing one.
const FAILING_AFTER: u32 = 3;
/// What is left of the width after as many slow answers as it is wide: slowness is a hint, failure is certain.
const SLOW_NARROWS_TO: f64 = 0.75;

/// The adaptive limit of one lane: it doubles at first, then additive increase, multiplicative decrease,
/// never below one.
#[derive(Debug, Clone, PartialEq)]
pub struct Concurrency {
    max: u32,
    limit: f64,
    failures_in_a_row: u32,
    /// Whether any request ever succeeded.
    proven: bool,
    /// Whether the limit still grows by one with each success; ends with the first failure or slowness.
    doubling: bool,
    slow: bool,
    /// Slow answers since the limit last shrank, less the quick ones among them.
    slow_answers: u32,
}

impl Concurrency {
    /// Starts with [`INITIAL`], or with one where nobody knows whether it will be answered. `failures`: how many requests have failed since the last success;
    /// `proven`: whether there ever was one.
    #[must_use]
    pub fn new(max: u32, failures: u32, proven: bool) -> Self {
        let max = max.max(1);
        let limit = if failures > 0 || !proven { 1 } else { INITIAL.min(max) };
        let doubling = failures == 0;
        Self {
            max,
            limit: f64::from(limit),
            failures_in_a_row: failures,
            proven,
            doubling,
            slow: false,
            slow_answers: 0,
        }
    }

    /// Changes the upper bound.
    pub fn set_max(&mut self, max: u32) {
        self.max = max.max(1);
        self.limit = self.limit.min(f64::from(self.max));
    }

    /// A request succeeded. One that took half of the time it had, or more, is slow: no reason to grow, and as many
    /// of them as there may be requests are a reason to shrink. A quick one makes up for a slow one.
    pub fn succeeded(&mut self, took: Duration, timeout: Duration) {
        self.failures_in_a_row = 0;
        self.proven = true;
        self.slow = took > SLOW;
        if took < timeout / 2 {
            let growth = if self.doubling { 1.0 } else { 1.0 / self.limit };
            self.limit = (self.limit + growth).min(f64::from(self.max));
            self.slow_answers = self.slow_answers.saturating_sub(1);
            return;
        }
        self.slow_answers += 1;
        if self.slow_answers >= self.limit() {
            self.shrink_to(self.limit * SLOW_NARROWS_TO);
        }
    }

    /// A request failed: half the width.
    pub fn failed(&mut self) {
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        self.shrink_to(self.limit / 2.0);
    }

    /// Begins again with one request at a time.
    pub fn start_over(&mut self) {
        self.shrink_to(1.0);
    }

    fn shrink_to(&mut self, limit: f64) {
        self.doubling = false;
        self.slow_answers = 0;
        self.limit = limit.max(1.0);
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

    /// How much room the destination deserves.
    #[must_use]
    pub fn standing(&self) -> Standing {
        match self.failures_in_a_row {
            FAILING_AFTER.. => Standing::Failing,
            1.. if !self.proven => Standing::Failing,
            _ if !self.proven => Standing::Unproven,
            _ if self.slow => Standing::Slow,
            _ => Standing::Prompt,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAST: Duration = Duration::from_millis(5);
    const TIMEOUT: Duration = Duration::from_secs(10);

    fn grown() -> Concurrency {
        let mut concurrency = Concurrency::new(8, 0, true);
        for _ in 0..6 {
            concurrency.succeeded(FAST, TIMEOUT);
        }
        concurrency
    }

    #[test]
    fn a_new_lane_begins_narrow_and_has_its_width_after_a_few_successes() {
        assert_eq!(Concurrency::new(8, 0, true).limit(), 2);
        assert_eq!(Concurrency::new(1, 0, true).limit(), 1);
        assert_eq!(Concurrency::new(8, 0, false).limit(), 1);
        assert_eq!(Concurrency::new(8, 4, true).limit(), 1);
        assert_eq!(grown().limit(), 8);
    }

    #[test]
    fn failures_narrow_the_lane_to_one_request_and_successes_widen_it_again() {
        let mut concurrency = grown();
        for expected in [4, 2, 1, 1] {
            concurrency.failed();
            assert_eq!(concurrency.limit(), expected);
        }
        assert_eq!(concurrency.standing(), Standing::Failing);
        concurrency.succeeded(FAST, TIMEOUT);
        assert_eq!(concurrency.limit(), 2, "one by one, not at once");
        for _ in 0..100 {
            concurrency.succeeded(FAST, TIMEOUT);
        }
        assert_eq!((concurrency.limit(), concurrency.standing()), (8, Standing::Prompt));
    }

    #[test]
    fn slow_successes_narrow_the_lane_once_for_as_many_as_it_is_wide_and_down_to_one_request() {
        let slow = Duration::from_secs(6);
        let mut concurrency = grown();
        let widths: Vec<u32> = std::iter::repeat_with(|| {
            concurrency.succeeded(slow, TIMEOUT);
            concurrency.limit()
        })
        .take(22)
        .collect();
        let expected = [vec![8; 7], vec![6; 6], vec![4; 4], vec![3; 3], vec![2; 2]].concat();
        assert_eq!(widths, expected);
        for _ in 0..100 {
            concurrency.succeeded(slow, TIMEOUT);
        }
        assert_eq!((concurrency.limit(), concurrency.standing()), (1, Standing::Slow));
        concurrency.succeeded(FAST, TIMEOUT);
        assert_eq!((concurrency.limit(), concurrency.standing()), (2, Standing::Prompt));
    }

    #[test]
    fn a_slow_answer_among_quick_ones_costs_nothing() {
        let mut concurrency = grown();
        for number in 0..1000 {
            let took = if number % 3 == 0 { Duration::from_secs(6) } else { FAST };
            concurrency.succeeded(took, TIMEOUT);
            assert_eq!(concurrency.limit(), 8, "{number}");
        }
    }

    #[test]
    fn a_smaller_bound_narrows_the_lane_at_once_and_a_larger_one_lets_it_grow() {
        let mut concurrency = grown();
        concurrency.set_max(3);
        assert_eq!(concurrency.limit(), 3);
        concurrency.set_max(0);
        assert_eq!(concurrency.limit(), 1);
        concurrency.set_max(5);
        assert_eq!(concurrency.limit(), 1);
        for _ in 0..9 {
            concurrency.succeeded(FAST, TIMEOUT);
        }
        assert_eq!(concurrency.limit(), 5);
    }

    #[test]
    fn after_a_failure_the_lane_grows_by_one_for_as_many_successes_as_it_is_wide() {
        let mut concurrency = grown();
        concurrency.failed();
        let widths: Vec<u32> = std::iter::repeat_with(|| {
            concurrency.succeeded(FAST, TIMEOUT);
            concurrency.limit()
        })
        .take(10)
        .collect();
        assert_eq!(widths, [4, 4, 4, 4, 5, 5, 5, 5, 5, 6]);
    }

    #[test]
    fn a_lane_that_starts_over_is_narrow_and_grows_slowly() {
        let mut concurrency = grown();
        concurrency.start_over();
        assert_eq!(concurrency.limit(), 1);
        concurrency.succeeded(FAST, TIMEOUT);
        concurrency.succeeded(FAST, TIMEOUT);
        assert_eq!(concurrency.limit(), 2);
    }

    #[test]
    fn an_answer_at_exactly_the_bounds_is_prompt_and_no_reason_to_grow() {
        let mut concurrency = Concurrency::new(8, 0, true);
        concurrency.succeeded(SLOW, SLOW * 2);
        assert_eq!((concurrency.limit(), concurrency.standing()), (2, Standing::Prompt));
    }

    #[test]
    fn a_destination_is_failing_after_three_failures_or_where_it_never_succeeded_after_one() {
        let mut unknown = Concurrency::new(8, 0, false);
        assert_eq!(unknown.standing(), Standing::Unproven);
        unknown.failed();
        assert_eq!(unknown.standing(), Standing::Failing);
        let mut known = Concurrency::new(8, 0, true);
        assert_eq!(known.standing(), Standing::Prompt);
        known.failed();
        known.failed();
        assert_eq!(known.standing(), Standing::Prompt);
        known.failed();
        assert_eq!(known.standing(), Standing::Failing);
    }
}

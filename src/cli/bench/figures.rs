//! The arithmetic of a benchmark; pure.

use std::time::Duration;

/// How many things a second; nothing where no time passed.
#[must_use]
pub fn per_second(count: u64, took: Duration) -> f64 {
    if took.is_zero() { 0.0 } else { count as f64 / took.as_secs_f64() }
}

/// A rate in relation to its ceiling; `None` where the ceiling is not positive.
#[must_use]
pub fn ratio(rate: f64, ceiling: f64) -> Option<f64> {
    (ceiling > 0.0).then(|| rate / ceiling)
}

/// A cost spread over things, in microseconds each; `None` for no things.
#[must_use]
pub fn micros_each(cost: Duration, count: u64) -> Option<f64> {
    (count > 0).then(|| cost.as_secs_f64() * 1e6 / count as f64)
}

/// The value that `percent` of all values do not exceed (nearest rank); `None` of nothing.
#[must_use]
pub fn percentile(sorted: &[Duration], percent: u32) -> Option<Duration> {
    let rank = (sorted.len() * percent as usize).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

/// A whole number with a comma after each three digits.
#[must_use]
pub fn grouped(number: f64) -> String {
    let digits = format!("{:.0}", number.max(0.0));
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A latency in milliseconds.
#[must_use]
pub fn millis(duration: Duration) -> String {
    format!("{:.2} ms", duration.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(millis: impl IntoIterator<Item = u64>) -> Vec<Duration> {
        millis.into_iter().map(Duration::from_millis).collect()
    }

    #[test]
    fn a_percentile_is_a_value_that_was_measured() {
        let hundred = values(1..=100);
        for (percent, expected) in [(0, 1), (1, 1), (50, 50), (99, 99), (100, 100)] {
            assert_eq!(percentile(&hundred, percent), Some(Duration::from_millis(expected)), "p{percent}");
        }
        assert_eq!(percentile(&values([7]), 50), Some(Duration::from_millis(7)));
        assert_eq!(percentile(&values([1, 9]), 99), Some(Duration::from_millis(9)));
        assert_eq!(percentile(&[], 50), None);
    }

    #[test]
    fn a_ratio_to_no_ceiling_is_none_rather_than_infinite() {
        assert_eq!(ratio(5.0, 10.0), Some(0.5));
        assert_eq!(ratio(5.0, 0.0), None);
    }

    #[test]
    fn rates_and_costs_of_nothing_are_no_division_by_zero() {
        assert!((per_second(50, Duration::from_millis(500)) - 100.0).abs() < 1e-9);
        assert!(per_second(50, Duration::ZERO).abs() < f64::EPSILON);
        assert_eq!(micros_each(Duration::from_secs(1), 0), None);
        assert_eq!(micros_each(Duration::from_secs(1), 1000), Some(1000.0));
    }

    #[test]
    fn thousands_are_told_apart() {
        for (number, text) in [(0.0, "0"), (999.4, "999"), (1000.0, "1,000"), (1_234_567.0, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
        assert_eq!(millis(Duration::from_micros(1234)), "1.23 ms");
    }
}

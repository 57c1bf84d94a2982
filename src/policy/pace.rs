//! The pace of a replay: how many deliveries are due, and when the next ones are.

use std::time::Duration;

use crate::domain::time::Timestamp;

/// Deliveries are put back in groups, about this often: each group is a commit.
const GROUPS_PER_SECOND: u32 = 10;
/// The largest group, so that ingest waits for no long commit.
const GROUP_MAX: u32 = 64;
const MICROS: i64 = 1_000_000;
const MILLISECOND: i64 = 1000;

/// Hands out deliveries evenly; what was not taken in time is not made up for, but for one group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    group: i64,
    /// Microseconds from one delivery to the next.
    gap: i64,
    /// When the next delivery is due, in microseconds since 1970.
    next: i64,
}

impl Pace {
    /// The pace of so many a second, of which the first is due now.
    #[must_use]
    pub fn new(per_second: u32, now: Timestamp) -> Self {
        let per_second = per_second.max(1);
        let group = (per_second / GROUPS_PER_SECOND).clamp(1, GROUP_MAX);
        // Rounded up, so that it is never faster than it was asked to be.
        let gap = (MICROS + i64::from(per_second) - 1) / i64::from(per_second);
        Self { group: group.into(), gap, next: micros(now) }
    }

    /// How many are due now, at most one group.
    #[must_use]
    pub fn due(&self, now: Timestamp) -> usize {
        let late = micros(now).saturating_sub(self.next);
        let due = if late < 0 { 0 } else { (late / self.gap).saturating_add(1).min(self.group) };
        usize::try_from(due).unwrap_or(0)
    }

    /// So many were put back.
    pub fn take(&mut self, count: usize, now: Timestamp) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        // A group is asked for up to a millisecond after it is due, which is no lateness of the caller.
        let group = self.gap.saturating_mul(self.group - 1).saturating_add(MILLISECOND);
        let earliest = micros(now).saturating_sub(group);
        self.next = self.next.max(earliest).saturating_add(self.gap.saturating_mul(count));
    }

    /// When a whole group is due.
    #[must_use]
    pub fn group_due_at(&self) -> Timestamp {
        let full = self.next.saturating_add(self.gap.saturating_mul(self.group - 1));
        // Rounded up: a moment earlier one would be missing.
        Timestamp::from_millis(full.saturating_add(999).div_euclid(1000))
    }

    /// How long after `now` a whole group is due.
    #[must_use]
    pub fn wait(&self, now: Timestamp) -> Duration {
        self.group_due_at().since(now)
    }
}

const fn micros(moment: Timestamp) -> i64 {
    moment.as_millis().saturating_mul(1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::from_millis(1_750_000_000_000);

    /// How many come within so many milliseconds, when each group is taken as soon as it is due, and in
    /// how many groups.
    fn within(per_second: u32, millis: u64) -> (usize, usize) {
        let (mut pace, mut now, end) =
            (Pace::new(per_second, START), START, START + Duration::from_millis(millis));
        let (mut total, mut groups) = (0, 0);
        while now < end {
            let due = pace.due(now);
            pace.take(due, now);
            total += due;
            groups += usize::from(due > 0);
            now = now + pace.wait(now);
        }
        (total, groups)
    }

    #[test]
    fn so_many_come_in_so_long() {
        // Per second, milliseconds, how many at least and at most, how many groups at most.
        let table = [
            (1, 1, 1, 1, 1),
            (1, 10_000, 10, 10, 10),
            (3, 10_000, 30, 30, 30),
            (10, 1_000, 10, 10, 10),
            (15, 10_000, 149, 150, 150),
            (100, 1_000, 91, 100, 11),
            (100, 60_000, 5_990, 6_000, 601),
            (999, 10_000, 9_900, 9_990, 160),
            (10_000, 1_000, 9_700, 10_000, 160),
            (10_000, 10_000, 97_000, 100_000, 1600),
        ];
        for (per_second, millis, least, most, groups) in table {
            let (total, in_groups) = within(per_second, millis);
            assert!((least..=most).contains(&total), "{per_second}/s for {millis} ms: {total}");
            assert!(in_groups <= groups, "{per_second}/s for {millis} ms: {in_groups} groups");
        }
    }

    #[test]
    fn a_long_wait_is_made_up_for_by_one_group_only() {
        let mut pace = Pace::new(100, START);
        pace.take(pace.due(START), START);
        let later = START + Duration::from_secs(3600);
        assert_eq!(pace.due(later), 10);
        pace.take(10, later);
        assert_eq!(pace.due(later), 0);
        assert!(pace.wait(later) >= Duration::from_millis(90));
    }

    #[test]
    fn a_clock_that_goes_back_gives_nothing_away() {
        let mut pace = Pace::new(10, START);
        pace.take(pace.due(START), START);
        assert_eq!(pace.due(Timestamp::from_millis(0)), 0);
        assert_eq!(pace.due(START + Duration::from_millis(100)), 1);
    }

    #[test]
    fn a_group_that_was_not_filled_leaves_the_rest_due() {
        let mut pace = Pace::new(100, START);
        let later = START + Duration::from_secs(1);
        pace.take(4, later);
        assert_eq!(pace.due(later), 6);
    }
}

//! The database's time, followed: what replicas write to each other must not depend on whose clock is wrong.

use std::sync::atomic::{AtomicI64, Ordering};

use crate::clock::{Clock, SharedClock};
use crate::domain::time::Timestamp;

/// A difference that is not larger is left: it is within what a round trip hides.
const TOLERANCE_MILLIS: i64 = 5;
/// A difference that is larger is worth a line in the log.
const WORTH_TELLING_MILLIS: i64 = 1000;

/// The machine's clock, corrected by how far it is from the database's.
pub struct FollowingClock {
    machine: SharedClock,
    offset: AtomicI64,
}

impl FollowingClock {
    /// A clock that shows the machine's time until it hears another.
    #[must_use]
    pub fn new(machine: SharedClock) -> Self {
        Self { machine, offset: AtomicI64::new(0) }
    }

    /// The machine's own time.
    #[must_use]
    pub fn machine_time(&self) -> Timestamp {
        self.machine.now()
    }

    /// The database's time was `theirs` at some moment between these two of the machine.
    pub fn heard(&self, (before, after): (Timestamp, Timestamp), theirs: Timestamp) {
        let middle = i64::midpoint(before.as_millis(), after.as_millis());
        let offset = theirs.as_millis() - middle;
        let known = self.offset.load(Ordering::Relaxed);
        let uncertain = (after.as_millis() - before.as_millis()) / 2 + TOLERANCE_MILLIS;
        if (offset - known).abs() > uncertain {
            if (offset - known).abs() > WORTH_TELLING_MILLIS {
                tracing::warn!(
                    milliseconds = offset,
                    "this machine's clock differs from the database's, which counts"
                );
            }
            self.offset.store(offset, Ordering::Relaxed);
        }
    }
}

impl Clock for FollowingClock {
    fn now(&self) -> Timestamp {
        let machine = self.machine.now().as_millis();
        Timestamp::from_millis(machine.saturating_add(self.offset.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    struct Fixed(i64);

    impl Clock for Fixed {
        fn now(&self) -> Timestamp {
            Timestamp::from_millis(self.0)
        }
    }

    #[test]
    fn a_clock_that_is_an_hour_wrong_shows_the_databases_time() {
        let at = Timestamp::from_millis;
        let hour = 3_600_000;
        let clock = FollowingClock::new(Arc::new(Fixed(10 * hour)));
        assert_eq!(clock.now(), at(10 * hour));
        clock.heard((at(10 * hour), at(10 * hour + 4)), at(9 * hour + 2));
        assert_eq!(clock.now(), at(9 * hour));
        // What a slow round trip can't tell changes nothing.
        clock.heard((at(10 * hour), at(10 * hour + 2000)), at(9 * hour + 1300));
        assert_eq!(clock.now(), at(9 * hour));
    }
}

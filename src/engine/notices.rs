//! What is told of dead letters that expire soon: once for a destination and a stretch of time, with a count.
//!
//! Pure. The janitor shows it every dead letter that expires within the notice, at each of its passes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::domain::id::{DestinationId, OrganizationId};
use crate::domain::operational::OperationalEvent;
use crate::domain::retention::Retention;
use crate::domain::time::Timestamp;
use crate::store::retention::Expiring;

/// The longest stretch of time that is told of together.
const PERIOD_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// The shortest one.
const PERIOD_MIN: Duration = Duration::from_secs(1);

/// The stretch of time, by its beginning, and the destination that a notice is about.
pub type Subject = (Timestamp, DestinationId);

/// One notice that is to be given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Whom to tell.
    pub organization_id: OrganizationId,
    /// What the notice is about; to be handed to [`Notices::told`].
    pub subject: Subject,
    /// What to tell.
    pub event: OperationalEvent,
}

/// The dead letters of one subject.
#[derive(Debug, Clone)]
struct Letters {
    organization_id: OrganizationId,
    count: u64,
    first: Timestamp,
    last: Timestamp,
}

/// Gathers dead letters into notices, and remembers which were given.
#[derive(Debug, Clone)]
pub struct Notices {
    kept: Duration,
    notice: Duration,
    period: Duration,
    gathered: BTreeMap<Subject, Letters>,
    told: BTreeSet<Subject>,
}

impl Notices {
    /// Notices by these times. The stretches are so short that all dead letters of one have become dead
    /// letters when it is told of: at most a day, the notice, or what the notice leaves of the time kept.
    #[must_use]
    pub fn new(retention: &Retention) -> Self {
        let Retention { dead_letters: kept, dead_letter_notice: notice, .. } = *retention;
        let period = PERIOD_MAX.min(notice).min(kept.saturating_sub(notice)).max(PERIOD_MIN);
        Self { kept, notice, period, gathered: BTreeMap::new(), told: BTreeSet::new() }
    }

    /// Dead letters that became one at or before this are to be shown; `None`: none.
    #[must_use]
    pub fn cut(&self, now: Timestamp) -> Option<Timestamp> {
        let end = self.beginning_of(now + self.notice) + self.period;
        (!self.notice.is_zero()).then(|| end - self.kept - Duration::from_millis(1))
    }

    fn beginning_of(&self, moment: Timestamp) -> Timestamp {
        let period = i64::try_from(self.period.as_millis()).unwrap_or(i64::MAX).max(1);
        Timestamp::from_millis(moment.as_millis().div_euclid(period).saturating_mul(period))
    }

    /// Shows dead letters.
    pub fn gather(&mut self, expiring: Vec<Expiring>) {
        for Expiring { organization_id, destination_id, since } in expiring {
            let expires = since + self.kept;
            let subject = (self.beginning_of(expires), destination_id);
            if self.told.contains(&subject) {
                continue;
            }
            let letters = self.gathered.entry(subject).or_insert(Letters {
                organization_id,
                count: 0,
                first: expires,
                last: expires,
            });
            letters.count += 1;
            letters.first = letters.first.min(expires);
            letters.last = letters.last.max(expires);
        }
    }

    /// The notices of all that was shown since the last call.
    pub fn take(&mut self, now: Timestamp) -> Vec<Notice> {
        let passed = self.beginning_of(now);
        self.told.retain(|(beginning, _)| *beginning >= passed);
        let notice = |(subject, letters): (Subject, Letters)| Notice {
            organization_id: letters.organization_id,
            subject,
            event: OperationalEvent::DeadLettersExpiring {
                destination_id: subject.1,
                count: letters.count,
                first: letters.first,
                last: letters.last,
                period: subject.0,
            },
        };
        std::mem::take(&mut self.gathered).into_iter().map(notice).collect()
    }

    /// The notice was given.
    pub fn told(&mut self, subject: Subject) {
        self.told.insert(subject);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(60 * 60);
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn notices(dead_letters: Duration, dead_letter_notice: Duration) -> Notices {
        Notices::new(&Retention { dead_letters, dead_letter_notice, ..Retention::default() })
    }

    fn start() -> Timestamp {
        Timestamp::default() + DAY * 20_000
    }

    fn letter(number: u8, since: Timestamp) -> Expiring {
        Expiring {
            organization_id: OrganizationId::parse("acme").unwrap(),
            destination_id: DestinationId::from_bytes([number; 16]),
            since,
        }
    }

    #[test]
    fn a_million_dead_letters_of_a_destination_and_a_day_are_one_notice() {
        let mut notices = notices(DAY * 30, DAY * 3);
        let since = start() - DAY * 27;
        for number in 0..1_000_000_u32 {
            notices.gather(vec![letter(1, since + Duration::from_millis(u64::from(number)))]);
        }
        notices.gather(vec![letter(2, since), letter(1, since + DAY)]);
        let told = notices.take(start());
        let counts = told.iter().map(|notice| match &notice.event {
            OperationalEvent::DeadLettersExpiring { count, first, .. } => (*count, *first),
            other => panic!("{other:?}"),
        });
        let first = start() + DAY * 3;
        assert_eq!(counts.collect::<Vec<_>>(), [(1_000_000, first), (1, first), (1, first + DAY)]);
    }

    #[test]
    fn a_notice_that_was_given_is_not_given_again_and_one_that_was_not_is() {
        let mut notices = notices(DAY * 30, DAY * 3);
        let since = start() - DAY * 27;
        for given in [false, true] {
            notices.gather(vec![letter(1, since)]);
            let told = notices.take(start());
            assert_eq!(told.len(), 1);
            if given {
                notices.told(told[0].subject);
            }
        }
        notices.gather(vec![letter(1, since)]);
        assert_eq!(notices.take(start()), []);
        assert!(notices.take(start() + DAY * 5).is_empty() && notices.told.is_empty());
    }

    #[test]
    fn everything_is_told_of_in_time_and_only_when_all_of_it_is_there() {
        for (kept, notice) in [(DAY * 30, DAY * 3), (DAY, HOUR * 20), (HOUR, HOUR / 2), (HOUR * 9, HOUR)] {
            let notices = notices(kept, notice);
            for minute in 0..3000_u32 {
                let now = start() + Duration::from_secs(60) * minute;
                let cut = notices.cut(now).unwrap();
                // What expires within the notice is shown, and what is shown exists.
                assert!(cut >= now + notice - kept, "{kept:?} {notice:?} {minute}");
                assert!(cut <= now, "{kept:?} {notice:?} {minute}");
            }
        }
        assert_eq!(notices(DAY, Duration::ZERO).cut(start()), None);
    }
}

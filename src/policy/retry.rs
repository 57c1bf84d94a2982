//! When, if ever, a delivery is attempted again.

use std::time::Duration;

use crate::domain::attempt::Outcome;
use crate::domain::delivery::{Cycle, DeliveryState, EndReason};
use crate::domain::settings::{EffectivePolicy, Guarantee, RetrySchedule};
use crate::domain::time::Timestamp;

/// The longest wait that `Retry-After` can ask for: a receiver may slow us down, but never park a
/// delivery for as long as it likes.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(60 * 60);

/// The status that says "do not send here any more" (RFC 9110, 15.5.11).
const GONE: u16 = 410;

/// What is known when an attempt has ended.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// What is in force at the destination.
    pub policy: &'a EffectivePolicy,
    /// Whether the delivery becomes a dead letter at its end.
    pub guarantee: Guarantee,
    /// The present cycle, this attempt included.
    pub cycle: Cycle,
    /// When the event was accepted.
    pub created_at: Timestamp,
    /// What the receiver did.
    pub outcome: &'a Outcome,
    /// The end of the attempt.
    pub now: Timestamp,
    /// A random number, 0.0 to 1.0, for the jitter.
    pub draw: f64,
}

/// What becomes of the delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The receiver took it.
    Succeeded,
    /// Try again, not before this.
    Retry(Timestamp),
    /// Keep it for a decision.
    DeadLetter(EndReason),
    /// Give it up.
    Discard(EndReason),
}

/// How a delivery ends that is not attempted again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It is kept for a decision.
    DeadLetter(EndReason),
    /// It is given up.
    Discard(EndReason),
}

impl Ending {
    /// The state that it has from then on.
    #[must_use]
    pub const fn at(self, at: Timestamp) -> DeliveryState {
        match self {
            Ending::DeadLetter(reason) => DeliveryState::DeadLettered { at, reason },
            Ending::Discard(reason) => DeliveryState::Discarded { at, reason },
        }
    }
}

impl From<Ending> for Verdict {
    fn from(ending: Ending) -> Self {
        match ending {
            Ending::DeadLetter(reason) => Verdict::DeadLetter(reason),
            Ending::Discard(reason) => Verdict::Discard(reason),
        }
    }
}

/// Judges an attempt.
#[must_use]
pub fn judge(facts: Facts<'_>) -> Verdict {
    if facts.outcome.is_success() {
        return Verdict::Succeeded;
    }
    if facts.policy.lossy {
        return Verdict::Discard(EndReason::Lossy);
    }
    if is_final(facts.policy, facts.outcome) {
        return end(facts.guarantee, EndReason::FinalStatus).into();
    }
    let Some(delay) = next_delay(facts.policy, facts.cycle.attempts, facts.draw) else {
        return end(facts.guarantee, EndReason::AttemptsExhausted).into();
    };
    let due = facts.now + delay.max(asked_delay(facts.outcome));
    if give_up_at(facts.policy, facts.cycle).is_some_and(|limit| due >= limit) {
        return end(facts.guarantee, EndReason::GaveUp).into();
    }
    match discard_at(facts.policy, facts.created_at) {
        Some(limit) if facts.now >= limit => Verdict::Discard(EndReason::TooOld),
        Some(limit) => Verdict::Retry(due.min(limit)),
        None => Verdict::Retry(due),
    }
}

/// Whether this answer disables the destination.
#[must_use]
pub fn disables(policy: &EffectivePolicy, outcome: &Outcome) -> bool {
    policy.gone_disables && outcome.status() == Some(GONE)
}

/// From when on a delivery that still waits is discarded.
#[must_use]
pub fn discard_at(policy: &EffectivePolicy, created_at: Timestamp) -> Option<Timestamp> {
    policy.discard_after.map(|limit| created_at + limit)
}

/// From when on no attempt of a cycle begins any more.
fn give_up_at(policy: &EffectivePolicy, cycle: Cycle) -> Option<Timestamp> {
    policy.retry.give_up_after.map(|limit| cycle.started_at + limit)
}

/// When a delivery that waits comes to its end, whatever it waits for, and how; `None`: it waits for as long as it
/// takes. Where both times come together, too old is too old.
#[must_use]
pub fn ends_waiting(
    policy: &EffectivePolicy,
    guarantee: Guarantee,
    cycle: Cycle,
    created_at: Timestamp,
) -> Option<(Timestamp, Ending)> {
    let discarded = discard_at(policy, created_at).map(|at| (at, Ending::Discard(EndReason::TooOld)));
    let given_up = give_up_at(policy, cycle).map(|at| (at, end(guarantee, EndReason::GaveUp)));
    discarded.into_iter().chain(given_up).min_by_key(|(at, _)| *at)
}

/// The delay after so many attempts of a cycle, jitter included; `None` when there is no further attempt.
#[must_use]
pub fn next_delay(policy: &EffectivePolicy, attempts: u32, draw: f64) -> Option<Duration> {
    if policy.retry.max_attempts.is_some_and(|limit| attempts >= limit) {
        return None;
    }
    let retries_before = attempts.saturating_sub(1);
    let delay = match &policy.retry.schedule {
        RetrySchedule::Fixed(delays) => *delays.get(usize::try_from(retries_before).ok()?)?,
        RetrySchedule::Exponential { base, factor, cap } => exponential(*base, *factor, *cap, retries_before),
    };
    Some(delay + delay.mul_f64(policy.retry.jitter.clamp(0.0, 1.0) * draw.clamp(0.0, 1.0)))
}

fn exponential(base: Duration, factor: f64, cap: Duration, power: u32) -> Duration {
    let grown = base.as_secs_f64() * factor.powf(f64::from(power));
    // A product beyond what a Duration holds (or infinite) is the cap anyway.
    Duration::try_from_secs_f64(grown).map_or(cap, |delay| delay.min(cap))
}

fn asked_delay(outcome: &Outcome) -> Duration {
    match outcome {
        Outcome::Answered { status: 429 | 503, retry_after: Some(wait), .. } => (*wait).min(RETRY_AFTER_MAX),
        _ => Duration::ZERO,
    }
}

fn is_final(policy: &EffectivePolicy, outcome: &Outcome) -> bool {
    outcome.status().is_some_and(|status| policy.retry.final_statuses.contains(&status))
        || disables(policy, outcome)
}

/// Best effort promises no dead letters (seed 000), so it ends on the record as discarded.
fn end(guarantee: Guarantee, reason: EndReason) -> Ending {
    match guarantee {
        Guarantee::AtLeastOnce => Ending::DeadLetter(reason),
        Guarantee::BestEffort => Ending::Discard(reason),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::domain::contract::CloudEventsMode;
    use crate::domain::delivery::CycleCause;
    use crate::domain::settings::RetryPolicy;

    fn policy(schedule: RetrySchedule) -> EffectivePolicy {
        EffectivePolicy {
            timeout: Duration::from_secs(15),
            retry: RetryPolicy {
                schedule,
                max_attempts: None,
                give_up_after: None,
                jitter: 0.0,
                final_statuses: BTreeSet::new(),
            },
            throttle: Duration::ZERO,
            max_batch_events: 1,
            max_batch_bytes: 1 << 20,
            discard_after: None,
            lossy: false,
            guarantee: Guarantee::AtLeastOnce,
            ordered: false,
            max_concurrency: 8,
            allow_invalid_certificates: false,
            cloudevents_mode: CloudEventsMode::Structured,
            cloudevents_source: None,
            disable_after: None,
            gone_disables: true,
            keep_response_bodies: true,
        }
    }

    fn answered(status: u16, retry_after: Option<u64>) -> Outcome {
        Outcome::Answered { status, retry_after: retry_after.map(Duration::from_secs), body: Bytes::new() }
    }

    const NOW: Timestamp = Timestamp::from_millis(1_000_000_000);

    fn judged(policy: &EffectivePolicy, attempts: u32, outcome: &Outcome) -> Verdict {
        let cycle = Cycle { cause: CycleCause::Routed, started_at: NOW, attempts };
        let guarantee = policy.guarantee;
        judge(Facts { policy, guarantee, cycle, created_at: NOW, outcome, now: NOW, draw: 1.0 })
    }

    fn minutes(list: &[u64]) -> RetrySchedule {
        RetrySchedule::Fixed(list.iter().map(|m| Duration::from_secs(m * 60)).collect())
    }

    #[test]
    fn a_fixed_schedule_is_followed_step_by_step_and_then_ends_in_a_dead_letter() {
        let policy = policy(minutes(&[1, 5, 15]));
        for (attempts, wait) in [(1, 60), (2, 300), (3, 900)] {
            let expected = Verdict::Retry(NOW + Duration::from_secs(wait));
            assert_eq!(judged(&policy, attempts, &answered(500, None)), expected);
        }
        let end = Verdict::DeadLetter(EndReason::AttemptsExhausted);
        assert_eq!(judged(&policy, 4, &answered(500, None)), end);
    }

    #[test]
    fn an_exponential_schedule_grows_to_its_cap_and_stops_at_the_attempts() {
        let mut policy = policy(RetrySchedule::Exponential {
            base: Duration::from_secs(5),
            factor: 4.0,
            cap: Duration::from_secs(3600),
        });
        policy.retry.max_attempts = Some(8);
        let waits: Vec<u64> = (1..8).map(|n| next_delay(&policy, n, 0.0).unwrap().as_secs()).collect();
        assert_eq!(waits, [5, 20, 80, 320, 1280, 3600, 3600]);
        assert_eq!(next_delay(&policy, 8, 0.0), None);
    }

    #[test]
    fn any_2xx_is_a_success_and_a_redirect_is_not() {
        let policy = policy(minutes(&[1]));
        assert_eq!(judged(&policy, 1, &answered(299, None)), Verdict::Succeeded);
        assert!(matches!(judged(&policy, 1, &answered(302, None)), Verdict::Retry(_)));
    }

    #[test]
    fn gone_ends_the_delivery_and_disables_only_where_the_contract_says_so() {
        let mut policy = policy(minutes(&[1]));
        let gone = answered(410, None);
        assert!(disables(&policy, &gone));
        assert_eq!(judged(&policy, 1, &gone), Verdict::DeadLetter(EndReason::FinalStatus));
        policy.gone_disables = false;
        assert!(!disables(&policy, &gone));
        assert!(matches!(judged(&policy, 1, &gone), Verdict::Retry(_)));
    }

    #[test]
    fn a_best_effort_delivery_is_discarded_and_never_dead_lettered() {
        let mut policy = policy(minutes(&[]));
        policy.guarantee = Guarantee::BestEffort;
        let verdict = judged(&policy, 1, &answered(500, None));
        assert_eq!(verdict, Verdict::Discard(EndReason::AttemptsExhausted));
    }

    #[test]
    fn a_lossy_destination_drops_what_fails() {
        let mut policy = policy(minutes(&[1]));
        policy.lossy = true;
        assert_eq!(judged(&policy, 1, &answered(500, None)), Verdict::Discard(EndReason::Lossy));
        assert_eq!(judged(&policy, 1, &answered(200, None)), Verdict::Succeeded);
    }

    #[test]
    fn a_retry_that_would_come_too_late_is_brought_to_the_discard_time_and_then_discarded() {
        let mut policy = policy(minutes(&[10]));
        policy.discard_after = Some(Duration::from_secs(300));
        let at_limit = Verdict::Retry(NOW + Duration::from_secs(300));
        assert_eq!(judged(&policy, 1, &answered(500, None)), at_limit);
        let cycle = Cycle { cause: CycleCause::Routed, started_at: NOW, attempts: 1 };
        let now = NOW + Duration::from_secs(300);
        let outcome = answered(500, None);
        let guarantee = Guarantee::AtLeastOnce;
        let late =
            Facts { policy: &policy, guarantee, cycle, created_at: NOW, outcome: &outcome, now, draw: 0.0 };
        assert_eq!(judge(late), Verdict::Discard(EndReason::TooOld));
    }

    #[test]
    fn retry_after_is_honoured_on_429_and_503_only_and_up_to_an_hour() {
        let policy = policy(minutes(&[1]));
        for (status, asked, wait) in [(429, 600, 600), (503, 86_400, 3600), (500, 600, 60), (429, 5, 60)] {
            let verdict = judged(&policy, 1, &answered(status, Some(asked)));
            assert_eq!(verdict, Verdict::Retry(NOW + Duration::from_secs(wait)), "{status} {asked}");
        }
    }

    #[test]
    fn nothing_is_attempted_after_the_give_up_time() {
        let mut policy = policy(minutes(&[10]));
        policy.retry.give_up_after = Some(Duration::from_secs(500));
        let verdict = judged(&policy, 1, &answered(500, None));
        assert_eq!(verdict, Verdict::DeadLetter(EndReason::GaveUp));
    }

    #[test]
    fn what_waits_ends_at_the_earlier_of_its_two_times_as_its_guarantee_says() {
        let (dead, gone) = (Ending::DeadLetter(EndReason::GaveUp), Ending::Discard(EndReason::GaveUp));
        let old = Ending::Discard(EndReason::TooOld);
        // Seconds from the acceptance of the event and from the beginning of the cycle, a minute later.
        for (discard, give_up, guarantee, expected) in [
            (None, None, Guarantee::AtLeastOnce, None),
            (Some(500), None, Guarantee::AtLeastOnce, Some((500, old))),
            (None, Some(500), Guarantee::AtLeastOnce, Some((560, dead))),
            (None, Some(500), Guarantee::BestEffort, Some((560, gone))),
            (Some(500), Some(500), Guarantee::AtLeastOnce, Some((500, old))),
            (Some(600), Some(500), Guarantee::AtLeastOnce, Some((560, dead))),
            (Some(560), Some(500), Guarantee::AtLeastOnce, Some((560, old))),
        ] {
            let mut policy = policy(minutes(&[1]));
            policy.discard_after = discard.map(Duration::from_secs);
            policy.retry.give_up_after = give_up.map(Duration::from_secs);
            let started_at = NOW + Duration::from_secs(60);
            let cycle = Cycle { cause: CycleCause::Replay, started_at, attempts: 0 };
            let ends = ends_waiting(&policy, guarantee, cycle, NOW);
            let expected = expected.map(|(after, ending)| (NOW + Duration::from_secs(after), ending));
            assert_eq!(ends, expected, "{discard:?} {give_up:?}");
        }
    }

    proptest! {
        #[test]
        fn jitter_and_retry_after_only_ever_make_later(
            attempts in 1_u32..40, draw in 0.0_f64..=1.0, jitter in 0.0_f64..=1.0, asked in 0_u64..100_000
        ) {
            let mut policy = policy(RetrySchedule::Exponential {
                base: Duration::from_millis(250), factor: 2.0, cap: Duration::from_secs(30),
            });
            let plain = next_delay(&policy, attempts, draw).unwrap();
            policy.retry.jitter = jitter;
            let jittered = next_delay(&policy, attempts, draw).unwrap();
            prop_assert!(jittered >= plain && jittered <= plain * 2);
            let cycle = Cycle { cause: CycleCause::Routed, started_at: NOW, attempts };
            let outcome = answered(503, Some(asked));
            let guarantee = Guarantee::AtLeastOnce;
            let facts =
                Facts { policy: &policy, guarantee, cycle, created_at: NOW, outcome: &outcome, now: NOW, draw };
            let Verdict::Retry(due) = judge(facts) else { panic!("a retry was expected") };
            prop_assert!(due >= NOW + plain);
            prop_assert!(due <= NOW + RETRY_AFTER_MAX);
        }
    }
}

//! Verdicts: what a policy means for an attempt, worked out from the documentation and not from the code.

use std::time::Duration;

use super::chronicle::Record;
use crate::domain::attempt::{Attempt, Outcome};
use crate::domain::delivery::{DeliveryState, EndReason};
use crate::domain::id::DestinationId;
use crate::domain::settings::{EffectivePolicy, Guarantee, RetrySchedule};
use crate::domain::time::Timestamp;
use crate::store::{Settlement, Stage};

/// Times are recorded in milliseconds, and each end of a span may be cut.
const ROUNDING: Duration = Duration::from_millis(2);
const HOUR: Duration = Duration::from_secs(60 * 60);

/// Whether, under this policy, the attempt means what was settled. `is_stopping`: whether a process was.
pub(super) fn explains(
    policy: &EffectivePolicy,
    settlement: &Settlement,
    attempt: &Attempt,
    is_stopping: bool,
) -> bool {
    let ended = attempt.started_at + attempt.round_trip;
    let (outcome, attempts) = (&attempt.outcome, settlement.cycle.attempts);
    let in_memory = settlement.stage == Stage::InMemory;
    let is_best_effort = if in_memory { true } else { policy.guarantee == Guarantee::BestEffort };
    let success = matches!(outcome.status(), Some(200..=299));
    let ends_as = |wanted: EndReason| match settlement.state {
        DeliveryState::DeadLettered { reason, .. } => !is_best_effort && reason == wanted,
        DeliveryState::Discarded { reason, .. } => is_best_effort && reason == wanted,
        _ => false,
    };
    let discarded = |wanted: EndReason| matches!(settlement.state, DeliveryState::Discarded { reason, .. } if reason == wanted);
    if success {
        return matches!(settlement.state, DeliveryState::Succeeded { .. });
    }
    if policy.lossy {
        return discarded(EndReason::Lossy);
    }
    if is_final(policy, outcome) {
        return ends_as(EndReason::FinalStatus);
    }
    let Some((earliest, latest)) = wait_after(policy, attempts, outcome) else {
        return ends_as(EndReason::AttemptsExhausted);
    };
    let too_old = policy.discard_after.map(|limit| settlement.id.event_key.made_at() + limit);
    let given_up = policy.retry.give_up_after.map(|limit| settlement.cycle.started_at + limit);
    match settlement.state {
        DeliveryState::Waiting { due } => {
            let bounded = |moment: Timestamp| too_old.map_or(moment, |limit| moment.min(limit));
            // In an ordered lane, a batch that fails keeps its order, whatever that takes.
            let is_late = due > bounded(ended + latest + ROUNDING) && !policy.ordered;
            due + ROUNDING >= bounded(ended + earliest) && !is_late
        }
        DeliveryState::Discarded { reason: EndReason::Stopped, .. } => in_memory && is_stopping,
        DeliveryState::Discarded { reason: EndReason::TooOld, .. } => {
            too_old.is_some_and(|limit| ended + ROUNDING >= limit)
        }
        _ => ends_as(EndReason::GaveUp) && given_up.is_some_and(|limit| ended + latest + ROUNDING >= limit),
    }
}

/// Whether a destination was failing at that time: of the requests that had ended, the last was a failure. That is
/// so for as long as a circuit is open, and the least that a lossy destination needs to drop what it never tried.
pub(super) fn is_failing(record: &Record, id: DestinationId, at: Timestamp) -> bool {
    let settlements =
        record.settled.iter().map(|one| &one.settlement).filter(|one| one.id.destination_id == id);
    let sent = |attempt: &&Attempt| !attempt.outcome.is_fault();
    let ended = settlements.filter_map(|one| one.attempt.as_ref()).filter(sent);
    let ended = ended.map(|attempt| (attempt.started_at + attempt.round_trip, attempt.outcome.is_success()));
    let before: Vec<(Timestamp, bool)> = ended.filter(|(ended, _)| *ended <= at).collect();
    let last = before.iter().map(|(ended, _)| *ended).max();
    before.iter().any(|(ended, success)| !success && Some(*ended + ROUNDING) >= last)
}

fn is_final(policy: &EffectivePolicy, outcome: &Outcome) -> bool {
    let Some(status) = outcome.status() else { return false };
    policy.retry.final_statuses.contains(&status) || (status == 410 && policy.gone_disables)
}

/// The shortest and the longest wait after so many attempts; `None` where there is no further one.
fn wait_after(policy: &EffectivePolicy, attempts: u32, outcome: &Outcome) -> Option<(Duration, Duration)> {
    let number = usize::try_from(attempts).unwrap();
    if policy.retry.max_attempts.is_some_and(|most| attempts >= most) {
        return None;
    }
    let delay = match &policy.retry.schedule {
        RetrySchedule::Fixed(delays) => *delays.get(number - 1)?,
        RetrySchedule::Exponential { base, factor, cap } => {
            let mut delay = base.as_secs_f64();
            for _ in 1..number {
                delay = (delay * factor).min(cap.as_secs_f64());
            }
            Duration::from_secs_f64(delay.min(cap.as_secs_f64()))
        }
    };
    let asked = match outcome {
        Outcome::Answered { status: 429 | 503, retry_after: Some(asked), .. } => (*asked).min(HOUR),
        _ => Duration::ZERO,
    };
    let longest = delay.mul_f64(1.0 + policy.retry.jitter);
    Some((delay.max(asked), longest.max(asked)))
}

//! Attempts, out.

use bytes::Bytes;

use super::count;
use super::time::{write_duration, write_timestamp};
use crate::domain::attempt::{Attempt, Failure, Outcome, RESPONSE_KEPT_BYTES, Refusal, Trigger};
use crate::grpc::proto::v1;
use crate::policy::address::is_public;

/// Writes an attempt of the given cycle, with the beginning of the answer's body or without.
pub fn write_attempt(attempt: &Attempt, cycle: u32, with_body: bool) -> v1::Attempt {
    let (body, retry_after) = match &attempt.outcome {
        Outcome::Answered { body, retry_after, .. } => (body.clone(), *retry_after),
        Outcome::NoAnswer { .. } | Outcome::NotSent { .. } => (Bytes::new(), None),
    };
    v1::Attempt {
        number: count(attempt.number),
        start_time: Some(write_timestamp(attempt.started_at)),
        round_trip: Some(write_duration(attempt.round_trip)),
        outcome_kind: kind_of(&attempt.outcome).into(),
        succeeded: attempt.outcome.is_success(),
        status_code: attempt.outcome.status().map(i32::from),
        error: attempt.outcome.error().unwrap_or_default(),
        response_body_truncated: body.len() >= RESPONSE_KEPT_BYTES,
        response_body: if with_body { body } else { Bytes::new() },
        trigger: trigger_of(attempt.trigger).into(),
        cycle: count(cycle),
        batch_id: attempt.batch.map(|batch| batch.id.to_string()).unwrap_or_default(),
        batch_size: count(attempt.batch_size),
        batch_position: attempt.batch.map_or(1, |batch| count(batch.position)),
        remote_address: shown_address(attempt).unwrap_or_default(),
        retry_after: retry_after.map(write_duration),
    }
}

/// An address inside a network that the operator has opened is not for callers: a name may lead there that
/// they could not look up themselves.
fn shown_address(attempt: &Attempt) -> Option<String> {
    let public = attempt.remote_address.filter(|address| is_public(address.ip()));
    public.map(|address| address.to_string())
}

/// Writes the attempts of a delivery, in their order, each with the cycle that it belongs to.
pub fn write_attempts(attempts: &[Attempt], with_bodies: bool) -> Vec<v1::Attempt> {
    let mut cycle = 1;
    let mut written = Vec::with_capacity(attempts.len());
    for attempt in attempts {
        cycle += u32::from(begins_cycle(attempt));
        written.push(write_attempt(attempt, cycle, with_bodies));
    }
    written
}

/// Whether an attempt is the first one after a resend or a replay.
pub const fn begins_cycle(attempt: &Attempt) -> bool {
    matches!(attempt.trigger, Trigger::Resend | Trigger::Replay)
}

const fn kind_of(outcome: &Outcome) -> v1::OutcomeKind {
    match outcome {
        Outcome::Answered { .. } => v1::OutcomeKind::Answered,
        Outcome::NoAnswer { failure, .. } => match failure {
            Failure::Dns => v1::OutcomeKind::DnsFailed,
            Failure::Refused => v1::OutcomeKind::ConnectionRefused,
            Failure::Connect => v1::OutcomeKind::ConnectionFailed,
            Failure::Tls => v1::OutcomeKind::TlsFailed,
            Failure::Timeout => v1::OutcomeKind::TimedOut,
            Failure::Reset => v1::OutcomeKind::ConnectionReset,
            Failure::InvalidResponse => v1::OutcomeKind::InvalidResponse,
        },
        Outcome::NotSent { refusal, .. } => match refusal {
            Refusal::AddressNotAllowed => v1::OutcomeKind::AddressNotAllowed,
            Refusal::SecretUnavailable => v1::OutcomeKind::SecretUnavailable,
            Refusal::NotRenderable | Refusal::Fault => v1::OutcomeKind::NotSent,
        },
    }
}

const fn trigger_of(trigger: Trigger) -> v1::AttemptTrigger {
    match trigger {
        Trigger::Routed => v1::AttemptTrigger::Routed,
        Trigger::Retry => v1::AttemptTrigger::Retry,
        Trigger::Resend => v1::AttemptTrigger::Resend,
        Trigger::Replay => v1::AttemptTrigger::Replay,
        Trigger::Test => v1::AttemptTrigger::Test,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::time::Timestamp;

    fn attempt(number: u32, trigger: Trigger, outcome: Outcome) -> Attempt {
        Attempt {
            number,
            started_at: Timestamp::from_millis(1000),
            round_trip: Duration::from_millis(42),
            trigger,
            outcome,
            batch_size: 1,
            batch: None,
            remote_address: Some("9.9.9.9:443".parse().unwrap()),
        }
    }

    fn answered(status: u16, body: Vec<u8>) -> Outcome {
        Outcome::Answered { status, retry_after: Some(Duration::from_secs(9)), body: body.into() }
    }

    #[test]
    fn bodies_come_out_only_where_they_are_asked_for() {
        let attempt = attempt(1, Trigger::Routed, answered(500, vec![b'x'; RESPONSE_KEPT_BYTES]));
        let (basic, full) = (write_attempt(&attempt, 1, false), write_attempt(&attempt, 1, true));
        assert_eq!((basic.response_body.len(), full.response_body.len()), (0, RESPONSE_KEPT_BYTES));
        assert!(basic.response_body_truncated);
        assert_eq!(
            (full.status_code, full.succeeded, full.error.as_str()),
            (Some(500), false, "answered 500")
        );
        assert_eq!(full.remote_address, "9.9.9.9:443");
    }

    #[test]
    fn addresses_inside_the_operators_networks_are_not_shown() {
        for inside in ["10.0.0.7:443", "127.0.0.1:8443", "[fd00::7]:443", "[::ffff:10.0.0.7]:443"] {
            let mut attempt = attempt(1, Trigger::Routed, answered(200, vec![]));
            attempt.remote_address = Some(inside.parse().unwrap());
            assert_eq!(write_attempt(&attempt, 1, true).remote_address, "", "{inside}");
        }
    }

    #[test]
    fn a_request_without_an_answer_has_its_kind_and_its_error() {
        let outcome = Outcome::NoAnswer { failure: Failure::Timeout, detail: "no answer within 10s".into() };
        let written = write_attempt(&attempt(1, Trigger::Retry, outcome), 1, true);
        assert_eq!(written.outcome_kind(), v1::OutcomeKind::TimedOut);
        assert_eq!((written.status_code, written.error.as_str()), (None, "no answer within 10s"));
    }

    #[test]
    fn a_resend_begins_another_cycle() {
        let attempts = [
            attempt(1, Trigger::Routed, answered(500, vec![])),
            attempt(2, Trigger::Retry, answered(500, vec![])),
            attempt(3, Trigger::Resend, answered(500, vec![])),
            attempt(4, Trigger::Retry, answered(200, vec![])),
        ];
        let cycles: Vec<i32> = write_attempts(&attempts, false).iter().map(|attempt| attempt.cycle).collect();
        assert_eq!(cycles, [1, 1, 2, 2]);
    }
}

//! When to try again. Pure but for the jitter.

use std::error::Error as _;
use std::time::Duration;

use tonic::{Code, Status};

/// The first pause; each further one is twice as long.
const FIRST: Duration = Duration::from_millis(50);
/// The longest pause that is not asked for by the server.
const LONGEST: Duration = Duration::from_secs(2);

/// Pauses that grow with each failure in a row.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The next pause: at least as long as the server asks for, and otherwise at random between half of the
    /// present step and the whole, so that many clients do not come back as one.
    pub(crate) fn next(&mut self, asked: Option<Duration>) -> Duration {
        let step = FIRST.saturating_mul(1 << self.failures.min(10)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        step.mul_f64(0.5 + fastrand::f64() / 2.0).max(asked.unwrap_or_default())
    }

    /// Something worked.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

/// Whether a call that writes by event id is worth repeating unchanged: the server says so, or the
/// connection broke before it could say anything.
pub(crate) fn may_repeat(status: &Status) -> bool {
    let broken = matches!(status.code(), Code::Unknown | Code::Internal | Code::Cancelled);
    status.code() == Code::Unavailable || (broken && status.source().is_some())
}

/// Whether a stream that ended so is worth opening again: everything but what a person has to change.
pub(crate) fn may_reopen(status: &Status) -> bool {
    !matches!(
        status.code(),
        Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Unimplemented
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_limit_and_begin_anew_after_success() {
        let mut backoff = Backoff::default();
        let pauses: Vec<_> = (0..20).map(|_| backoff.next(None)).collect();
        assert!(pauses[0] <= FIRST && pauses[0] >= FIRST / 2);
        assert!(pauses[19] <= LONGEST && pauses[19] >= LONGEST / 2);
        backoff.reset();
        assert!(backoff.next(None) <= FIRST);
    }

    #[test]
    fn the_server_may_ask_for_a_longer_pause() {
        assert_eq!(Backoff::default().next(Some(Duration::from_secs(30))), Duration::from_secs(30));
    }

    #[test]
    fn what_a_person_has_to_change_is_not_repeated() {
        for code in [Code::InvalidArgument, Code::Unauthenticated, Code::PermissionDenied, Code::NotFound] {
            let status = Status::new(code, "");
            assert!(!may_repeat(&status) && !may_reopen(&status), "{code:?}");
        }
        assert!(may_repeat(&Status::unavailable("")) && may_reopen(&Status::unavailable("")));
        let broken = Status::from_error(Box::new(std::io::Error::other("cut")));
        assert!(may_repeat(&broken), "the connection broke: {broken:?}");
        assert!(!may_repeat(&Status::internal("a fault")), "the server answered");
    }
}

//! The circuit breaker: when a destination that only fails is left alone, and how it is tried again.
//!
//! *Closed*: everything is sent. After so many failed requests in a row it *opens*: deliveries are held,
//! and one request at a time *probes*, at moments that lie further and further apart. The first success
//! makes it *half-open*: requests go out again, few at first; some more successes close it, and any
//! failure opens it again, with the wait that it had reached.
//!
//! It decides on requests, never on deliveries: what is held keeps its attempts, its retry time and its
//! discard time.

use std::time::Duration;

use crate::domain::circuit::CircuitState;
use crate::domain::time::Timestamp;

/// The wait before the first probe; it doubles with each probe that fails.
pub const PROBE_FIRST: Duration = Duration::from_secs(5);
/// The longest wait between two probes.
pub const PROBE_LONGEST: Duration = Duration::from_secs(5 * 60);
/// The largest share of a wait that a draw takes away, so that circuits which opened together do not
/// probe together.
const PROBE_JITTER: f64 = 0.2;
/// So many successes in a row close a half-open circuit, the probe's included.
const CLOSES_AFTER: u32 = 3;

/// The circuit of one lane.
#[derive(Debug, Clone, PartialEq)]
pub struct Breaker {
    opens_after: u32,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    Closed { failures: u32 },
    Open { failed_probes: u32, probe_at: Timestamp },
    HalfOpen { failed_probes: u32, successes: u32 },
}

impl Breaker {
    /// A closed circuit that opens after so many failures in a row, `failures` of which have happened.
    ///
    /// Where all have happened already, the next request is in effect the probe.
    #[must_use]
    pub fn new(opens_after: u32, failures: u32) -> Self {
        Self { opens_after: opens_after.max(1), state: State::Closed { failures } }
    }

    /// A request succeeded.
    pub fn succeeded(&mut self) {
        self.state = match self.state {
            // The lane of a destination that is known to fail was made again: that was the probe.
            State::Closed { failures } if failures >= self.opens_after => {
                State::HalfOpen { failed_probes: 0, successes: 1 }
            }
            State::Closed { .. } => State::Closed { failures: 0 },
            State::Open { failed_probes, .. } => State::HalfOpen { failed_probes, successes: 1 },
            State::HalfOpen { successes, .. } if successes + 1 >= CLOSES_AFTER => {
                State::Closed { failures: 0 }
            }
            State::HalfOpen { failed_probes, successes } => {
                State::HalfOpen { failed_probes, successes: successes + 1 }
            }
        };
    }

    /// A request failed. `draw`: a random number, 0.0 to 1.0.
    pub fn failed(&mut self, now: Timestamp, draw: f64) {
        self.state = match self.state {
            State::Closed { failures } if failures.saturating_add(1) < self.opens_after => {
                State::Closed { failures: failures.saturating_add(1) }
            }
            State::Closed { .. } => open(0, now, draw),
            State::HalfOpen { failed_probes, .. } => open(failed_probes.saturating_add(1), now, draw),
            State::Open { failed_probes, probe_at } if now >= probe_at => {
                open(failed_probes.saturating_add(1), now, draw)
            }
            // A request that began before the circuit opened, or a retry that came before the probe:
            // neither puts the probe off, or a single bad delivery could hold up all others for ever.
            still_open @ State::Open { .. } => still_open,
        };
    }

    /// Brings the probe of an open circuit forward to this moment.
    pub fn probe_by(&mut self, moment: Timestamp) {
        if let State::Open { probe_at, .. } = &mut self.state {
            *probe_at = moment.min(*probe_at);
        }
    }

    /// The state, as callers may see it.
    #[must_use]
    pub fn state(&self) -> CircuitState {
        match self.state {
            State::Closed { .. } => CircuitState::Closed,
            State::Open { .. } => CircuitState::Open,
            State::HalfOpen { .. } => CircuitState::HalfOpen,
        }
    }

    /// When the next probe is due; `None` unless the circuit is open.
    #[must_use]
    pub fn probe_at(&self) -> Option<Timestamp> {
        match self.state {
            State::Open { probe_at, .. } => Some(probe_at),
            State::Closed { .. } | State::HalfOpen { .. } => None,
        }
    }
}

fn open(failed_probes: u32, now: Timestamp, draw: f64) -> State {
    let doubled = PROBE_FIRST.saturating_mul(1_u32.checked_shl(failed_probes).unwrap_or(u32::MAX));
    let wait = doubled.min(PROBE_LONGEST);
    let wait = wait - wait.mul_f64(PROBE_JITTER * draw.clamp(0.0, 1.0));
    State::Open { failed_probes, probe_at: now + wait }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    fn opened() -> Breaker {
        let mut breaker = Breaker::new(3, 0);
        for _ in 0..3 {
            breaker.failed(NOW, 0.0);
        }
        breaker
    }

    #[test]
    fn only_failures_in_a_row_open_it() {
        let mut breaker = Breaker::new(3, 0);
        for _ in 0..5 {
            breaker.failed(NOW, 0.0);
            breaker.failed(NOW, 0.0);
            breaker.succeeded();
        }
        assert_eq!((breaker.state(), breaker.probe_at()), (CircuitState::Closed, None));
        assert_eq!(opened().state(), CircuitState::Open);
        assert_eq!(opened().probe_at(), Some(NOW + PROBE_FIRST));
    }

    #[test]
    fn a_circuit_that_is_known_to_have_failed_opens_with_the_next_failure() {
        let mut breaker = Breaker::new(3, 700);
        assert_eq!(breaker.state(), CircuitState::Closed);
        breaker.failed(NOW, 0.0);
        assert_eq!(breaker.state(), CircuitState::Open);
    }

    #[test]
    fn a_first_success_of_what_is_known_to_have_failed_counts_as_its_probe() {
        for (known, expected) in
            [(2, CircuitState::Closed), (3, CircuitState::HalfOpen), (700, CircuitState::HalfOpen)]
        {
            let mut breaker = Breaker::new(3, known);
            breaker.succeeded();
            assert_eq!(breaker.state(), expected, "{known}");
        }
    }

    #[test]
    fn probes_that_fail_lie_further_and_further_apart_up_to_five_minutes() {
        let mut breaker = opened();
        let mut waits = Vec::new();
        let mut now = NOW;
        for _ in 0..40 {
            let probe_at = breaker.probe_at().unwrap();
            waits.push(probe_at.since(now).as_secs());
            now = probe_at;
            breaker.failed(now, 0.0);
        }
        assert_eq!(&waits[..8], [5, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(waits[39], 300);
    }

    #[test]
    fn what_fails_before_the_probe_does_not_put_it_off() {
        let mut breaker = opened();
        let probe_at = breaker.probe_at();
        breaker.failed(NOW + Duration::from_secs(1), 0.5);
        assert_eq!(breaker.probe_at(), probe_at);
    }

    #[test]
    fn a_probe_is_brought_forward_and_never_put_off() {
        let mut breaker = opened();
        let planned = breaker.probe_at().unwrap();
        for (moment, expected) in [(planned + PROBE_FIRST, planned), (NOW, NOW), (planned, NOW)] {
            breaker.probe_by(moment);
            assert_eq!(breaker.probe_at(), Some(expected));
        }
        breaker.succeeded();
        breaker.probe_by(NOW);
        assert_eq!(breaker.probe_at(), None, "only an open circuit is probed");
    }

    #[test]
    fn a_success_half_opens_it_and_a_few_more_close_it() {
        let mut breaker = opened();
        breaker.succeeded();
        assert_eq!((breaker.state(), breaker.probe_at()), (CircuitState::HalfOpen, None));
        breaker.succeeded();
        assert_eq!(breaker.state(), CircuitState::HalfOpen);
        breaker.succeeded();
        assert_eq!(breaker.state(), CircuitState::Closed);
    }

    #[test]
    fn a_failure_in_the_half_open_state_goes_on_with_the_wait_that_was_reached() {
        let mut breaker = opened();
        let later = breaker.probe_at().unwrap();
        breaker.failed(later, 0.0);
        breaker.succeeded();
        breaker.failed(later, 0.0);
        assert_eq!(breaker.probe_at(), Some(later + PROBE_FIRST * 4));
    }

    proptest! {
        #[test]
        fn a_probe_is_always_due_within_five_minutes(
            steps in prop::collection::vec((any::<bool>(), 0_u64..1_000_000, 0.0_f64..=1.0), 1..80),
            opens_after in 0_u32..5,
        ) {
            let (mut breaker, mut now) = (Breaker::new(opens_after, 0), NOW);
            for (success, wait, draw) in steps {
                now = now + Duration::from_millis(wait);
                if success { breaker.succeeded() } else { breaker.failed(now, draw) }
                prop_assert_eq!(breaker.probe_at().is_some(), breaker.state() == CircuitState::Open);
                prop_assert!(breaker.probe_at().is_none_or(|at| at <= now + PROBE_LONGEST));
            }
        }
    }
}

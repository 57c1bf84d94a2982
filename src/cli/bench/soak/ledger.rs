//! What was acknowledged, what was taken, and what that comes to. Pure: moments are since the beginning.

use std::collections::HashMap;
use std::time::Duration;

use serde::Serialize;

/// What an outcome needs to be durable, and a request to end: a delivery that was taken so long before a
/// kill may come again after it.
const SHADOW: Duration = Duration::from_secs(4);
/// A receiver that answers slowly takes what it was sent before a kill so long after it.
const TAIL: Duration = Duration::from_secs(2);
/// How many of what went wrong are named.
const EXAMPLES: usize = 10;

/// The events of an organization are numbered; its destinations all get them all.
pub type Number = u64;

/// What happened to the events.
#[derive(Debug)]
pub struct Ledger {
    /// For each destination: to which organization it belongs, and whether it keeps the order.
    destinations: Vec<(usize, bool)>,
    acknowledged: Vec<HashMap<Number, Duration>>,
    duplicates: u64,
    taken: Vec<HashMap<Number, Vec<Duration>>>,
    /// The greatest number that each destination took, and how many came after a greater one.
    greatest: Vec<Option<Number>>,
    out_of_order: u64,
}

/// What it comes to.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// Events that were acknowledged.
    pub acknowledged: u64,
    /// Acknowledgements of events that the server had accepted before.
    pub duplicates: u64,
    /// Deliveries of acknowledged events that arrived.
    pub delivered: u64,
    /// Deliveries of acknowledged events that did not.
    pub missing: u64,
    /// Some of those: destination and event.
    pub missing_examples: Vec<(usize, Number)>,
    /// Deliveries that were taken again after a kill, having been taken shortly before it.
    pub doubled_around_kills: u64,
    /// Deliveries that were taken more than once otherwise.
    pub doubled_otherwise: u64,
    /// Some of those: destination and event, and when they were taken, in milliseconds.
    pub doubled_examples: Vec<(usize, Number, Vec<u128>)>,
    /// Deliveries that an ordered destination took after a later one.
    pub out_of_order: u64,
    /// Deliveries that arrived only after a kill, whose event had been acknowledged before it.
    pub late: u64,
}

impl Ledger {
    /// An empty ledger for these destinations: organization, and whether in order.
    #[must_use]
    pub fn new(organizations: usize, destinations: Vec<(usize, bool)>) -> Self {
        Self {
            acknowledged: vec![HashMap::new(); organizations],
            duplicates: 0,
            taken: vec![HashMap::new(); destinations.len()],
            greatest: vec![None; destinations.len()],
            destinations,
            out_of_order: 0,
        }
    }

    /// The server acknowledged an event.
    pub fn acknowledge(&mut self, organization: usize, number: Number, duplicate: bool, at: Duration) {
        if let Some(acknowledged) = self.acknowledged.get_mut(organization) {
            acknowledged.insert(number, at);
            self.duplicates += u64::from(duplicate);
        }
    }

    /// A destination took these events with one request.
    pub fn take(&mut self, destination: usize, numbers: &[Number], at: Duration) {
        let Some(taken) = self.taken.get_mut(destination) else { return };
        let is_ordered = self.destinations.get(destination).is_some_and(|(_, ordered)| *ordered);
        for number in numbers {
            let times = taken.entry(*number).or_default();
            times.push(at);
            let Some(greatest) = self.greatest.get_mut(destination) else { continue };
            // One that comes again was in order when it came first.
            let is_late = is_ordered && times.len() == 1 && greatest.is_some_and(|most| most > *number);
            self.out_of_order += u64::from(is_late);
            *greatest = (*greatest).max(Some(*number));
        }
    }

    /// Acknowledged events, and deliveries that were taken at least once.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        let acknowledged: usize = self.acknowledged.iter().map(HashMap::len).sum();
        let taken: usize = self.taken.iter().map(HashMap::len).sum();
        (acknowledged as u64, taken as u64)
    }

    /// Whether everything that was acknowledged has arrived.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.judge(&[]).missing == 0
    }

    /// What it comes to; `kills` are the moments at which the server was killed.
    #[must_use]
    pub fn judge(&self, kills: &[Duration]) -> Outcome {
        let mut outcome = Outcome {
            acknowledged: self.counts().0,
            duplicates: self.duplicates,
            out_of_order: self.out_of_order,
            ..Outcome::default()
        };
        for (place, ((organization, _), taken)) in self.destinations.iter().zip(&self.taken).enumerate() {
            for (number, acknowledged) in self.acknowledged.get(*organization).into_iter().flatten() {
                if let Some(times) = taken.get(number) {
                    let came = times.first().unwrap_or(acknowledged);
                    let is_between = |kill: &Duration| acknowledged <= kill && kill < came;
                    outcome.late += u64::from(kills.iter().any(is_between));
                    outcome.delivered += 1;
                    continue;
                }
                outcome.missing += 1;
                if outcome.missing_examples.len() < EXAMPLES {
                    outcome.missing_examples.push((place, *number));
                }
            }
            for (number, times) in taken.iter().filter(|(_, times)| times.len() > 1) {
                outcome.note_doubled((place, *number), times, kills);
            }
        }
        outcome
    }
}

impl Outcome {
    fn note_doubled(&mut self, (place, number): (usize, Number), times: &[Duration], kills: &[Duration]) {
        let explained = times.windows(2).all(|pair| {
            let [first, again] = pair else { return false };
            kills.iter().any(|kill| *first + SHADOW >= *kill && *first <= *kill + TAIL && again > kill)
        });
        if explained {
            self.doubled_around_kills += 1;
            return;
        }
        self.doubled_otherwise += 1;
        if self.doubled_examples.len() < EXAMPLES {
            let millis = times.iter().map(Duration::as_millis).collect();
            self.doubled_examples.push((place, number, millis));
        }
    }

    /// Whether the promises held: nothing missing, nothing twice but around a kill, nothing out of order.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.missing == 0 && self.doubled_otherwise == 0 && self.out_of_order == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn ledger() -> Ledger {
        Ledger::new(2, vec![(0, false), (0, true), (1, false)])
    }

    #[test]
    fn what_one_of_the_destinations_did_not_get_is_missing() {
        let mut ledger = ledger();
        ledger.acknowledge(0, 1, false, at(1));
        ledger.acknowledge(1, 1, true, at(1));
        ledger.take(0, &[1], at(2));
        assert!(!ledger.is_complete());
        ledger.take(2, &[1], at(2));
        let outcome = ledger.judge(&[]);
        assert_eq!((outcome.acknowledged, outcome.delivered, outcome.missing), (2, 2, 1));
        assert_eq!((outcome.missing_examples.as_slice(), outcome.duplicates), (&[(1, 1)][..], 1));
        ledger.take(1, &[1], at(3));
        assert!(ledger.is_complete() && ledger.judge(&[]).holds());
    }

    #[test]
    fn what_was_acknowledged_before_a_kill_and_came_after_it_is_late_and_not_missing() {
        let mut ledger = Ledger::new(1, vec![(0, false)]);
        for (number, acknowledged, taken) in [(1, 10, 11), (2, 10, 13), (3, 13, 14)] {
            ledger.acknowledge(0, number, false, at(acknowledged));
            ledger.take(0, &[number], at(taken));
        }
        let outcome = ledger.judge(&[at(12)]);
        assert_eq!((outcome.late, outcome.delivered, outcome.missing), (1, 3, 0));
    }

    #[test]
    fn what_arrives_without_an_acknowledgement_is_neither_missing_nor_delivered() {
        let mut ledger = ledger();
        ledger.take(0, &[5], at(1));
        assert_eq!(ledger.judge(&[]), Outcome::default());
    }

    #[test]
    fn a_double_is_excused_only_by_a_kill_between_that_came_soon_after_the_first() {
        for (times, kills, excused) in [
            (vec![10, 20], vec![12], true),
            (vec![10, 20], vec![15], false),
            (vec![10, 20], vec![9], true),
            (vec![10, 20], vec![7], false),
            (vec![10, 20], vec![21], false),
            (vec![10, 20, 30], vec![12], false),
            (vec![10, 20, 30], vec![12, 21], true),
        ] {
            let mut ledger = ledger();
            for time in &times {
                ledger.take(0, &[1], at(*time));
            }
            let kills: Vec<_> = kills.into_iter().map(at).collect();
            let outcome = ledger.judge(&kills);
            let expected = if excused { (1, 0) } else { (0, 1) };
            assert_eq!(
                (outcome.doubled_around_kills, outcome.doubled_otherwise),
                expected,
                "{times:?} {kills:?}"
            );
            assert_eq!(outcome.holds(), excused);
        }
    }

    #[test]
    fn only_the_first_time_counts_for_the_order_and_only_where_order_was_promised() {
        let mut ledger = ledger();
        for number in [1, 2, 1, 3] {
            ledger.take(1, &[number], at(number));
        }
        assert_eq!(ledger.judge(&[]).out_of_order, 0);
        ledger.take(0, &[9, 8], at(9));
        assert_eq!(ledger.judge(&[]).out_of_order, 0);
        ledger.take(1, &[9, 8], at(9));
        assert_eq!(ledger.judge(&[]).out_of_order, 1);
        assert!(!ledger.judge(&[]).holds());
    }
}

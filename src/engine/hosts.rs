//! Lines before hosts: lanes that wait because their organization sends to one host as fast as it may.
//!
//! The rates are shared by all delivery threads, the lines are the shard's own. Whoever is held back stands
//! in the line of its host and is called when its turn has come; nobody asks in between, so a thousand
//! lanes before one host cost no more than one.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::PoisonError;
use std::time::Duration;

use crate::domain::id::DestinationId;
use crate::domain::time::Timestamp;
use crate::policy::host_rate::{HostKey, HostRates, SharedRates};

/// Timers have milliseconds.
const TICK: Duration = Duration::from_millis(1);

/// The lines of one shard; without rates nobody is ever held back.
#[derive(Debug, Default)]
pub struct HostLines {
    rates: Option<SharedRates>,
    lines: HashMap<HostKey, VecDeque<DestinationId>>,
    waiting: HashSet<DestinationId>,
    /// Those whose turn it is, and where.
    called: HashMap<DestinationId, HostKey>,
    wakes: BTreeSet<(Timestamp, HostKey)>,
}

/// A lane that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Until when at least.
    pub until: Timestamp,
    /// Whose turn it is instead, at a host where it was this lane's.
    pub next: Option<DestinationId>,
}

impl HostLines {
    /// Empty lines before these rates.
    #[must_use]
    pub fn new(rates: Option<SharedRates>) -> Self {
        Self { rates, ..Self::default() }
    }

    /// Whether anybody can be held back at all.
    #[must_use]
    pub fn are_limited(&self) -> bool {
        self.rates.is_some()
    }

    /// Puts a lane in line if one of its hosts may not be called now, or others wait for one.
    pub fn hold_back(&mut self, id: DestinationId, keys: &[HostKey], now: Timestamp) -> Option<Held> {
        let slowest = |rates: &mut HostRates| keys.iter().map(|key| (rates.free_at(*key, now), *key)).max();
        let (free_at, slowest) = self.with_rates(slowest)??;
        let until = free_at.max(now + TICK);
        if self.waiting.contains(&id) {
            return Some(Held { until, next: None });
        }
        let called = self.called.remove(&id);
        let behind = keys.iter().find(|key| called.is_none() && self.lines.contains_key(key));
        let key = if free_at > now { slowest } else { *behind? };
        let line = self.lines.entry(key).or_default();
        if line.is_empty() {
            self.wakes.insert((free_at, key));
        }
        // Another thread was faster than whoever was called: it is still the first of this one.
        if called == Some(key) {
            line.push_front(id)
        } else {
            line.push_back(id)
        }
        self.waiting.insert(id);
        // Its turn at another host is somebody else's.
        let next = called.filter(|called| *called != key).and_then(|key| self.call_next(key, now));
        Some(Held { until, next })
    }

    /// Somebody who was called has nothing to send any more: the next one's turn has come.
    pub fn pass_turn_on(&mut self, id: DestinationId, now: Timestamp) -> Option<DestinationId> {
        let key = self.called.remove(&id)?;
        self.call_next(key, now)
    }

    fn call_next(&mut self, key: HostKey, now: Timestamp) -> Option<DestinationId> {
        self.with_rates(|rates| rates.available(key, now)).filter(|available| *available > 0)?;
        let line = self.lines.get_mut(&key)?;
        let next = line.pop_front()?;
        if line.is_empty() {
            self.lines.remove(&key);
        }
        self.waiting.remove(&next);
        self.called.insert(next, key);
        Some(next)
    }

    /// A request to these hosts begins.
    pub fn take(&self, keys: &[HostKey], now: Timestamp) {
        self.with_rates(|rates| keys.iter().for_each(|key| rates.take(*key, now)));
    }

    /// When somebody's turn comes next.
    #[must_use]
    pub fn first_wake(&self) -> Option<Timestamp> {
        self.wakes.first().map(|(moment, _)| *moment)
    }

    /// Calls those whose turn has come.
    pub fn take_due(&mut self, now: Timestamp) -> Vec<DestinationId> {
        let mut due = Vec::new();
        while let Some(key) = self.pop_wake(now) {
            let available = self.with_rates(|rates| rates.available(key, now)).unwrap_or(usize::MAX);
            let Some(line) = self.lines.get_mut(&key) else { continue };
            let called: Vec<_> = line.drain(..available.min(line.len())).collect();
            if line.is_empty() {
                self.lines.remove(&key);
            } else {
                let next = self.with_rates(|rates| rates.free_at(key, now)).unwrap_or(now);
                self.wakes.insert((next.max(now + TICK), key));
            }
            for id in called {
                self.waiting.remove(&id);
                self.called.insert(id, key);
                due.push(id);
            }
        }
        due
    }

    fn pop_wake(&mut self, now: Timestamp) -> Option<HostKey> {
        self.wakes.first().filter(|(moment, _)| *moment <= now)?;
        self.wakes.pop_first().map(|(_, key)| key)
    }

    fn with_rates<T>(&self, ask: impl FnOnce(&mut HostRates) -> T) -> Option<T> {
        let rates = self.rates.as_ref()?;
        Some(ask(&mut rates.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::domain::id::OrganizationId;
    use crate::policy::host_rate::Host;

    const NOW: Timestamp = Timestamp::from_millis(1_750_000_000_000);

    fn id(number: u8) -> DestinationId {
        DestinationId::from_bytes([number; 16])
    }

    fn key(host: &str) -> HostKey {
        HostKey::new(&OrganizationId::parse("acme").unwrap(), &Host::Name(host.into()))
    }

    fn lines(per_second: u32) -> (HostLines, SharedRates) {
        let rates = Arc::new(Mutex::new(HostRates::new(per_second)));
        (HostLines::new(Some(Arc::clone(&rates))), rates)
    }

    #[test]
    fn without_a_rate_nobody_is_held_back() {
        let mut lines = HostLines::default();
        for _ in 0..10_000 {
            assert_eq!(lines.hold_back(id(1), &[key("a")], NOW), None);
            lines.take(&[key("a")], NOW);
        }
        assert_eq!((lines.first_wake(), lines.are_limited()), (None, false));
    }

    #[test]
    fn whoever_is_held_back_is_called_in_turn_and_other_hosts_are_not_touched() {
        let (mut lines, _) = lines(1);
        assert_eq!(lines.hold_back(id(1), &[key("a")], NOW), None);
        lines.take(&[key("a")], NOW);
        let second = NOW + Duration::from_secs(1);
        for number in [1, 2, 2, 3] {
            assert_eq!(
                lines.hold_back(id(number), &[key("a")], NOW),
                Some(Held { until: second, next: None }),
                "{number}"
            );
        }
        assert_eq!(lines.hold_back(id(4), &[key("b")], NOW), None);
        assert_eq!((lines.first_wake(), lines.take_due(NOW)), (Some(second), vec![]));
        for (number, moment) in [(1, second), (2, second + Duration::from_secs(1))] {
            assert_eq!(lines.take_due(moment), [id(number)]);
            // A newcomer goes behind those who wait, also while it is free.
            assert!(lines.hold_back(id(9), &[key("a")], moment).is_some());
            assert_eq!(lines.hold_back(id(number), &[key("a")], moment), None);
            lines.take(&[key("a")], moment);
            assert_eq!(lines.take_due(moment + TICK), []);
        }
    }

    #[test]
    fn who_was_called_and_has_nothing_to_send_passes_the_turn_on() {
        let (mut lines, _) = lines(1);
        lines.take(&[key("a")], NOW);
        for number in [1, 2, 3] {
            lines.hold_back(id(number), &[key("a")], NOW);
        }
        let second = NOW + Duration::from_secs(1);
        assert_eq!(lines.take_due(second), [id(1)]);
        assert_eq!(lines.pass_turn_on(id(3), second), None, "it was not called");
        assert_eq!(lines.pass_turn_on(id(1), second), Some(id(2)));
        assert_eq!(lines.hold_back(id(2), &[key("a")], second), None);
        lines.take(&[key("a")], second);
        assert_eq!(lines.take_due(second + Duration::from_secs(1)), [id(3)]);
        assert_eq!(lines.pass_turn_on(id(3), second + Duration::from_secs(1)), None, "nobody else waits");
        assert!(lines.lines.is_empty() && lines.waiting.is_empty() && lines.called.is_empty());
    }

    #[test]
    fn whoever_has_several_hosts_waits_for_the_slowest_and_keeps_nobodys_turn_meanwhile() {
        let (mut lines, _) = lines(1);
        let both = [key("a"), key("b")];
        let second = NOW + Duration::from_secs(1);
        lines.take(&[key("a")], NOW);
        for number in [1, 2] {
            let keys = if number == 1 { both.as_slice() } else { &both[..1] };
            assert_eq!(lines.hold_back(id(number), keys, NOW), Some(Held { until: second, next: None }));
        }
        // Somebody else calls the other host meanwhile, so the first one's turn at `a` is the second one's.
        let late = NOW + Duration::from_millis(900);
        lines.take(&[key("b")], late);
        assert_eq!(lines.take_due(second), [id(1)]);
        let held = lines.hold_back(id(1), &both, second).unwrap();
        assert_eq!(held, Held { until: late + Duration::from_secs(1), next: Some(id(2)) });
        assert_eq!(lines.hold_back(id(2), &both[..1], second), None);
        lines.take(&both[..1], second);
        assert_eq!(lines.take_due(held.until), [id(1)]);
        // Now it is `a` that is the slower one.
        let held = lines.hold_back(id(1), &both, held.until).unwrap();
        assert_eq!(held, Held { until: second + Duration::from_secs(1), next: None });
        assert_eq!(lines.take_due(held.until), [id(1)]);
        assert_eq!(lines.hold_back(id(1), &both, held.until), None);
    }

    #[test]
    fn who_was_called_and_came_too_late_stays_the_first() {
        let (mut lines, rates) = lines(1);
        lines.take(&[key("a")], NOW);
        for number in [1, 2] {
            lines.hold_back(id(number), &[key("a")], NOW);
        }
        let second = NOW + Duration::from_secs(1);
        assert_eq!(lines.take_due(second), [id(1)]);
        // Another thread.
        rates.lock().unwrap().take(key("a"), second);
        assert!(lines.hold_back(id(1), &[key("a")], second).is_some());
        assert_eq!(lines.take_due(second + Duration::from_secs(1)), [id(1)]);
    }
}

//! Whose turn it is: the lanes of a shard that may start something now, and those that wait for a moment.
//!
//! Each turn is one request. For a turn a lane needs a place in the room, which all shards share; here is what
//! is not yet in line there, and who is.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::domain::id::DestinationId;
use crate::domain::time::Timestamp;

/// The turns and the timers of a shard.
#[derive(Debug, Default)]
pub struct Agenda {
    /// Those that will claim a place.
    next: Vec<DestinationId>,
    /// Those, and those that have claimed one.
    queued: HashSet<DestinationId>,
    timers: BTreeSet<(Timestamp, DestinationId)>,
    wake_times: HashMap<DestinationId, Timestamp>,
}

impl Agenda {
    /// Lets a lane claim its next turn, unless it does already.
    pub fn queue(&mut self, id: DestinationId) {
        if self.queued.insert(id) {
            self.next.push(id);
        }
    }

    /// Takes out the lanes that claim a place from here on.
    pub fn take_next(&mut self) -> Vec<DestinationId> {
        std::mem::take(&mut self.next)
    }

    /// It is the turn of a lane.
    pub fn called(&mut self, id: DestinationId) {
        self.queued.remove(&id);
    }

    /// Whether a lane waits for its turn.
    #[must_use]
    pub fn is_anybody_waiting(&self) -> bool {
        !self.queued.is_empty()
    }

    /// Wakes a lane at a moment instead of at whatever moment it had.
    pub fn wake_at(&mut self, id: DestinationId, moment: Timestamp) {
        self.let_sleep(id);
        self.wake_times.insert(id, moment);
        self.timers.insert((moment, id));
    }

    /// A lane needs no wake-up.
    pub fn let_sleep(&mut self, id: DestinationId) {
        if let Some(moment) = self.wake_times.remove(&id) {
            self.timers.remove(&(moment, id));
        }
    }

    /// The first moment at which a lane must be woken.
    #[must_use]
    pub fn first_wake(&self) -> Option<Timestamp> {
        self.timers.first().map(|(moment, _)| *moment)
    }

    /// Takes out the lanes whose moment has come.
    pub fn take_due(&mut self, now: Timestamp) -> Vec<DestinationId> {
        let mut due = Vec::new();
        while let Some((moment, id)) = self.timers.first().copied().filter(|(moment, _)| *moment <= now) {
            self.timers.remove(&(moment, id));
            self.wake_times.remove(&id);
            due.push(id);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u8) -> DestinationId {
        DestinationId::from_bytes([number; 16])
    }

    #[test]
    fn a_lane_claims_one_turn_at_a_time() {
        let mut agenda = Agenda::default();
        for number in [1, 2, 1] {
            agenda.queue(id(number));
        }
        assert_eq!(agenda.take_next(), [id(1), id(2)]);
        agenda.queue(id(2));
        assert!(agenda.take_next().is_empty() && agenda.is_anybody_waiting());
        agenda.called(id(2));
        agenda.queue(id(2));
        assert_eq!(agenda.take_next(), [id(2)]);
        agenda.called(id(1));
        agenda.called(id(2));
        assert!(!agenda.is_anybody_waiting());
    }

    #[test]
    fn a_lane_has_one_moment_and_the_last_one_counts() {
        let mut agenda = Agenda::default();
        let at = Timestamp::from_millis;
        agenda.wake_at(id(1), at(10));
        agenda.wake_at(id(1), at(5));
        agenda.wake_at(id(2), at(7));
        assert_eq!(agenda.first_wake(), Some(at(5)));
        assert_eq!(agenda.take_due(at(6)), [id(1)]);
        agenda.let_sleep(id(2));
        assert_eq!(agenda.first_wake(), None);
    }
}

//! Whose turn it is: the lanes that may start something now, and those that wait for a moment.
//!
//! Lanes take turns, one request each. Lanes whose last requests failed stand in a ring of their own, so
//! that they can be given less room.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

use crate::domain::id::DestinationId;
use crate::domain::time::Timestamp;

/// The rings and the timers of a shard.
#[derive(Debug, Default)]
pub struct Agenda {
    healthy: VecDeque<DestinationId>,
    suspects: VecDeque<DestinationId>,
    queued: HashSet<DestinationId>,
    timers: BTreeSet<(Timestamp, DestinationId)>,
    wake_times: HashMap<DestinationId, Timestamp>,
}

impl Agenda {
    /// Puts a lane at the end of its ring, unless it stands in one already.
    pub fn queue(&mut self, id: DestinationId, is_suspect: bool) {
        if self.queued.insert(id) {
            let ring = if is_suspect { &mut self.suspects } else { &mut self.healthy };
            ring.push_back(id);
        }
    }

    /// The lane whose turn it is; healthy ones first.
    pub fn next(&mut self, room_for_suspects: bool) -> Option<DestinationId> {
        let healthy = self.healthy.pop_front();
        let id = healthy.or_else(|| room_for_suspects.then(|| self.suspects.pop_front()).flatten())?;
        self.queued.remove(&id);
        Some(id)
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
    fn lanes_take_turns_and_suspects_come_after_the_healthy() {
        let mut agenda = Agenda::default();
        agenda.queue(id(1), true);
        agenda.queue(id(2), false);
        agenda.queue(id(3), false);
        agenda.queue(id(2), false);
        let turns: Vec<_> = std::iter::from_fn(|| agenda.next(true)).collect();
        assert_eq!(turns, [id(2), id(3), id(1)]);
        agenda.queue(id(1), true);
        assert_eq!(agenda.next(false), None);
        assert_eq!(agenda.next(true), Some(id(1)));
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

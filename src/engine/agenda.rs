//! Whose turn it is: the lanes that may start something now, and those that wait for a moment.
//!
//! Each turn is one request. Lanes stand in line by the standing of their destinations, since each standing
//! has a share of the room; the lines take turns, too, so that none waits for another one to be empty.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::domain::id::{DestinationId, OrganizationId};
use crate::domain::time::Timestamp;
use crate::engine::turns::Turns;
use crate::policy::standing::Standing;

/// The lines and the timers of a shard.
#[derive(Debug, Default)]
pub struct Agenda {
    lines: [Turns; Standing::ALL.len()],
    /// Which line comes next.
    next_line: usize,
    /// Whether the next turn of those that never answered yet is that of the newest one.
    newest_first: bool,
    queued: HashSet<DestinationId>,
    timers: BTreeSet<(Timestamp, DestinationId)>,
    wake_times: HashMap<DestinationId, Timestamp>,
}

impl Agenda {
    /// Puts a lane in line, unless it stands in one already.
    pub fn queue(&mut self, id: DestinationId, organization_id: Option<OrganizationId>, standing: Standing) {
        if self.queued.insert(id)
            && let Some(line) = self.lines.get_mut(standing.index())
        {
            line.push(organization_id, id);
        }
    }

    /// The lane whose turn it is, out of the lines for which there is room, and the standing it had when it
    /// was put there.
    pub fn next(&mut self, has_room: impl Fn(Standing) -> bool) -> Option<(DestinationId, Standing)> {
        for offset in 0..Standing::ALL.len() {
            let position = (self.next_line + offset) % Standing::ALL.len();
            let standing = *Standing::ALL.get(position)?;
            let line = self.lines.get_mut(position)?;
            if line.is_empty() || !has_room(standing) {
                continue;
            }
            self.next_line = position + 1;
            let id = match standing {
                // Nobody knows which of them will answer. Where many come at once that never do, the oldest
                // first would mean a long wait for whoever comes after them.
                Standing::Unproven => {
                    self.newest_first = !self.newest_first;
                    if self.newest_first { line.pop_newest() } else { line.pop() }
                }
                Standing::Prompt | Standing::Slow | Standing::Failing => line.pop(),
            };
            let id = id?;
            self.queued.remove(&id);
            return Some((id, standing));
        }
        None
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
    fn lanes_take_turns_and_so_do_the_lines_for_which_there_is_room() {
        let mut agenda = Agenda::default();
        agenda.queue(id(1), None, Standing::Failing);
        for number in [2, 3, 2, 4] {
            agenda.queue(id(number), None, Standing::Prompt);
        }
        let turns: Vec<_> = std::iter::from_fn(|| agenda.next(|_| true)).map(|(id, _)| id).collect();
        assert_eq!(turns, [id(2), id(1), id(3), id(4)]);
        agenda.queue(id(1), None, Standing::Failing);
        assert_eq!(agenda.next(|standing| standing != Standing::Failing), None);
        assert_eq!(agenda.next(|_| true), Some((id(1), Standing::Failing)));
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

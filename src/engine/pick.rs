//! The pick: which of the waiting deliveries go into the next request.

use crate::domain::id::EventKey;
use crate::domain::settings::EffectivePolicy;
use crate::domain::time::Timestamp;
use crate::engine::item::Item;
use crate::engine::window::{Position, Window};
use crate::store::Stage;

/// What the circuit lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    /// Whatever comes next.
    Everything,
    /// What was attempted before.
    Retries,
    /// This delivery, and retries that fit into its request.
    Scout(EventKey),
}

/// How to pick.
#[derive(Debug, Clone, Copy)]
pub struct Pick<'a> {
    /// What is in force.
    pub policy: &'a EffectivePolicy,
    /// The moment.
    pub now: Timestamp,
    /// What may be sent at all.
    pub passage: Passage,
    /// Whether the process stops: only what is in memory alone is sent, and at once.
    pub flushing: bool,
}

impl Pick<'_> {
    /// Takes the deliveries of the next request out of the window; none if nothing may be sent now.
    ///
    /// First attempts go first, so that none waits behind a storm of retries, and every fourth place is a retry's,
    /// so that those come forward, too. What was picked goes out in order of age.
    pub fn take(&self, window: &mut Window, turns: &mut Turns) -> Vec<Item> {
        let max_events = usize::try_from(self.policy.max_batch_events).unwrap_or(1).max(1);
        let max_bytes = usize::try_from(self.policy.max_batch_bytes).unwrap_or(usize::MAX);
        let mut batch: Vec<Item> = Vec::new();
        let mut bytes = 0_usize;
        while batch.len() < max_events {
            let room = if batch.is_empty() { usize::MAX } else { max_bytes.saturating_sub(bytes) };
            let choice = self.choose(window, !batch.is_empty(), turns.is_for_retries());
            let Some((choice, _)) = choice.filter(|(_, bytes)| *bytes <= room) else { break };
            turns.note(matches!(choice, Choice::Fresh(_)));
            let taken = match choice {
                Choice::Fresh(place) => window.take_fresh(place),
                Choice::Due(position) => window.take_due(position),
            };
            let Some(item) = taken else { break };
            bytes = bytes.saturating_add(item.bytes());
            batch.push(item);
        }
        batch.sort_by_key(|item| item.key);
        batch
    }

    /// The next delivery, and how many bytes it has.
    fn choose(&self, window: &Window, batch_begun: bool, retries_turn: bool) -> Option<(Choice, usize)> {
        let mine = |item: &Item| !self.flushing || item.stage == Stage::InMemory;
        // At a stop a retry in memory is due at once: there is no later.
        let is_due = |at: Timestamp| at <= self.now || self.flushing;
        let ordered = self.policy.ordered;
        let due = match self.passage {
            Passage::Scout(key) if !batch_begun => window.find_due(|_, item| item.key == key),
            _ if ordered => window.find_due_in_order(mine),
            _ => window.find_due(|at, item| mine(item) && is_due(at)),
        };
        // What failed before comes first in an ordered lane, also where it is not in memory.
        let must_read = ordered && !self.flushing && due.is_none() && window.has_more_due_in_store();
        let may_be_fresh = self.passage == Passage::Everything && !must_read;
        let fresh = window.find_fresh(|item| mine(item) && may_be_fresh);
        let retry_first = ordered || retries_turn;
        match (due, fresh) {
            (Some((position, item)), None) => {
                is_due(position.0).then_some((Choice::Due(position), item.bytes()))
            }
            (Some((position, item)), Some(_)) if retry_first => {
                is_due(position.0).then_some((Choice::Due(position), item.bytes()))
            }
            (_, Some((place, item))) => Some((Choice::Fresh(place), item.bytes())),
            (None, None) => None,
        }
    }
}

/// After so many first attempts in a row it is a retry's turn, if one is due.
const FIRST_ATTEMPTS_IN_A_ROW: u32 = 3;

/// Whose turn it is, first attempts or retries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Turns {
    /// First attempts since the last retry.
    first_attempts: u32,
}

impl Turns {
    /// Whether a retry that is due goes before a first attempt.
    #[must_use]
    pub const fn is_for_retries(self) -> bool {
        self.first_attempts >= FIRST_ATTEMPTS_IN_A_ROW
    }

    /// One was picked.
    pub const fn note(&mut self, is_first_attempt: bool) {
        self.first_attempts = if is_first_attempt { self.first_attempts.saturating_add(1) } else { 0 };
    }
}

/// Where a delivery waits in the window.
#[derive(Debug, Clone, Copy)]
enum Choice {
    Fresh(usize),
    Due(Position),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_attempts_go_first_and_retries_have_a_quarter_of_the_places_where_both_wait() {
        // What waits (first attempts, retries), and the order in which they go.
        for (first_attempts, retries, expected) in [
            (8, 0, "ffffffff"),
            (0, 4, "rrrr"),
            (9, 3, "fffrfffrfffr"),
            (1, 3, "frrr"),
            (4, 9, "fffrfrrrrrrrr"),
        ] {
            let (mut left, mut turns, mut order) =
                ((first_attempts, retries), Turns::default(), String::new());
            while left != (0, 0) {
                let is_first = left.1 == 0 || (left.0 > 0 && !turns.is_for_retries());
                turns.note(is_first);
                if is_first {
                    left.0 -= 1
                } else {
                    left.1 -= 1
                }
                order.push(if is_first { 'f' } else { 'r' });
            }
            assert_eq!(order, expected);
        }
    }
}

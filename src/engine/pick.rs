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
    /// Retries and first attempts take turns, so that neither can starve the other: `prefer_due` says
    /// whose turn it is.
    pub fn take(&self, window: &mut Window, prefer_due: &mut bool) -> Vec<Item> {
        let max_events = usize::try_from(self.policy.max_batch_events).unwrap_or(1).max(1);
        let max_bytes = usize::try_from(self.policy.max_batch_bytes).unwrap_or(usize::MAX);
        let mut batch: Vec<Item> = Vec::new();
        let mut bytes = 0_usize;
        while batch.len() < max_events {
            let room = if batch.is_empty() { usize::MAX } else { max_bytes.saturating_sub(bytes) };
            let choice = self.choose(window, !batch.is_empty(), *prefer_due);
            let Some((choice, _)) = choice.filter(|(_, bytes)| *bytes <= room) else { break };
            *prefer_due = matches!(choice, Choice::Fresh(_));
            let taken = match choice {
                Choice::Fresh(place) => window.take_fresh(place),
                Choice::Due(position) => window.take_due(position),
            };
            let Some(item) = taken else { break };
            bytes = bytes.saturating_add(item.bytes());
            batch.push(item);
        }
        batch
    }

    /// The next delivery, and how many bytes it has.
    fn choose(&self, window: &Window, batch_begun: bool, prefer_due: bool) -> Option<(Choice, usize)> {
        let mine = |item: &Item| !self.flushing || item.stage == Stage::InMemory;
        // At a stop a retry in memory is due at once: there is no later.
        let is_due = |at: Timestamp| at <= self.now || self.flushing;
        let ordered = self.policy.ordered;
        let due = match self.passage {
            Passage::Scout(key) if !batch_begun => window.find_due(|_, item| item.key == key),
            _ => window.find_due(|at, item| mine(item) && (is_due(at) || ordered)),
        };
        let fresh = window.find_fresh(|item| mine(item) && self.passage == Passage::Everything);
        let take_turns = !(ordered || batch_begun || prefer_due);
        match (due, fresh) {
            (Some((position, item)), None) => {
                is_due(position.0).then_some((Choice::Due(position), item.bytes()))
            }
            (Some((position, item)), Some(_)) if !take_turns => {
                is_due(position.0).then_some((Choice::Due(position), item.bytes()))
            }
            (_, Some((place, item))) => Some((Choice::Fresh(place), item.bytes())),
            (None, None) => None,
        }
    }
}

/// Where a delivery waits in the window.
#[derive(Debug, Clone, Copy)]
enum Choice {
    Fresh(usize),
    Due(Position),
}

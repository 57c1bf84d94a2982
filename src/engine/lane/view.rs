//! What a lane is like, seen from outside.

use std::sync::Arc;

use super::{Hold, Lane};
use crate::domain::circuit::CircuitState;
use crate::domain::settings::EffectivePolicy;
use crate::domain::time::Timestamp;
use crate::policy::standing::Standing;
use crate::store::Stage;
use crate::store::directory::LaneStatus;

impl Lane {
    /// The policy in force.
    #[must_use]
    pub fn policy(&self) -> &Arc<EffectivePolicy> {
        &self.policy
    }

    /// The earliest start of the next request, as far as the lane knows; `None` while it is held or empty.
    #[must_use]
    pub fn next_attempt_at(&self) -> Option<Timestamp> {
        if self.hold != Hold::Open {
            return None;
        }
        let earliest = self.gate.earliest(&self.policy, &self.window).into_iter().flatten().min();
        let moment = earliest?.max(self.next_start);
        (moment.as_millis() > i64::MIN).then_some(moment)
    }

    /// Whether a request would begin now, as far as can be told without taking anything out.
    #[must_use]
    pub fn may_start(&self, now: Timestamp) -> bool {
        let sends = matches!(self.hold, Hold::Open | Hold::Flushing);
        let is_free = sends && now >= self.next_start && !self.gate.is_full(&self.policy);
        is_free
            && self
                .gate
                .earliest(&self.policy, &self.window)
                .into_iter()
                .flatten()
                .any(|moment| moment <= now)
    }

    /// About how many bytes its next request has: as many as a batch may, where several may go together.
    #[must_use]
    pub fn next_bytes(&self) -> usize {
        let one = self.window.next_bytes();
        let batches = self.policy.max_batch_events > 1 && self.window.len() > 1;
        if batches {
            one.max(usize::try_from(self.policy.max_batch_bytes).unwrap_or(usize::MAX))
        } else {
            one
        }
    }

    /// Where the lane stands, as callers may see it.
    #[must_use]
    pub fn status(&self) -> LaneStatus {
        LaneStatus {
            in_flight: self.gate.requests(),
            waiting_in_memory: u32::try_from(self.window.len()).unwrap_or(u32::MAX),
            oldest_fresh_at: self.window.oldest_fresh_at(),
            oldest_key: self.window.oldest(),
            more_in_store: self.window.has_more_in_store(),
            next_attempt_at: self.next_attempt_at(),
            host_turn_at: None,
            circuit: self.gate.circuit(),
            next_probe_at: self.gate.probe_at(),
            concurrency: self.gate.limit(&self.policy),
        }
    }

    /// The state of its circuit.
    #[must_use]
    pub fn circuit(&self) -> CircuitState {
        self.gate.circuit()
    }

    /// How much room its requests deserve.
    #[must_use]
    pub fn standing(&self, now: Timestamp) -> Standing {
        self.gate.standing(now)
    }

    /// Whether the lane has nothing to do and nothing to remember, so that it may be dropped.
    #[must_use]
    pub fn is_idle(&self, now: Timestamp) -> bool {
        // What is not sent to has no use for its circuit.
        let gate_is_idle = match self.hold {
            Hold::Open => self.gate.is_idle(now) && now >= self.next_start,
            Hold::Held | Hold::Closed | Hold::Flushing => self.gate.requests() == 0,
        };
        gate_is_idle && self.refused.is_empty() && self.window.is_idle()
    }

    /// Whether something waits in memory and nowhere else.
    pub(super) fn has_alone(&self) -> bool {
        self.window.any(|item| item.stage == Stage::InMemory)
    }

    /// Whether the lane still has something to send before the process stops.
    #[must_use]
    pub fn must_flush(&self) -> bool {
        self.hold == Hold::Flushing && (self.has_alone() || self.last_start.is_some())
    }
}

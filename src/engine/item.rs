//! A delivery in a lane's memory.

use std::sync::Arc;

use crate::domain::delivery::{Cycle, CycleCause};
use crate::domain::event::Event;
use crate::domain::id::EventKey;
use crate::domain::settings::{EffectivePolicy, Guarantee};
use crate::engine::memory::{Kept, Memory};
use crate::store::{DueEntry, Stage};

/// Rough size of an event's envelope around its data, for the byte cap of a batch.
const ENVELOPE_BYTES: usize = 256;
/// What data is taken for that was not seen since the store was opened: more than most events have.
const UNSEEN_DATA_BYTES: usize = 16 * 1024;

/// A delivery in a lane's memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Which event.
    pub key: EventKey,
    /// Its data, where it is in memory; retries are reloaded, so that waiting for hours costs little.
    pub event: Option<Arc<Event>>,
    /// The memory that the data takes while it waits; `None` where it was read for an attempt.
    pub kept: Option<Arc<Kept>>,
    /// How large the data is, if it was ever seen; known also while the data itself is not in memory.
    pub data_bytes: Option<usize>,
    /// How it waits in the store.
    pub stage: Stage,
    /// What it was promised.
    pub guarantee: Guarantee,
    /// Attempts in all so far.
    pub attempt_count: u32,
    /// The present cycle of attempts.
    pub cycle: Cycle,
}

impl Item {
    /// The first attempt of an accepted event; without its data where `memory` has no room for it.
    #[must_use]
    pub fn fresh(event: &Arc<Event>, guarantee: Guarantee, memory: &Arc<Memory>) -> Self {
        let bytes = event.data.as_bytes().len();
        let (stage, kept) = match guarantee {
            Guarantee::AtLeastOnce => (Stage::Fresh, memory.keep_copy(bytes + ENVELOPE_BYTES)),
            Guarantee::BestEffort => (Stage::InMemory, memory.keep_only(bytes + ENVELOPE_BYTES)),
        };
        Self {
            key: event.key,
            event: kept.is_some().then(|| Arc::clone(event)),
            kept: kept.map(Arc::new),
            data_bytes: Some(bytes),
            stage,
            guarantee,
            attempt_count: 0,
            cycle: Cycle { cause: CycleCause::Routed, started_at: event.accepted_at, attempts: 0 },
        }
    }

    /// The same, with its data in that memory instead, where there is room.
    #[must_use]
    pub fn moved_into(self, memory: &Arc<Memory>) -> Self {
        let Some(event) = self.event else { return self };
        // What it took where it was must not stand in its own way.
        drop(self.kept);
        Self::fresh(&event, self.guarantee, memory)
    }

    /// A delivery that the store has waiting for a due time.
    #[must_use]
    pub fn due(entry: DueEntry) -> Self {
        Self {
            key: entry.id.event_key,
            event: None,
            kept: None,
            data_bytes: None,
            stage: Stage::Due(entry.due),
            guarantee: Guarantee::AtLeastOnce,
            attempt_count: entry.attempt_count,
            cycle: entry.cycle,
        }
    }

    /// What it is promised now. What waits in the store ends as the destination's guarantee is at that time; what
    /// never did has no dead letter.
    #[must_use]
    pub fn guarantee_in(&self, policy: &EffectivePolicy) -> Guarantee {
        if self.stage == Stage::InMemory { self.guarantee } else { policy.guarantee }
    }

    /// Keeps only the key, if the store has the data.
    pub fn let_go_of_data(&mut self) {
        if self.stage != Stage::InMemory {
            (self.event, self.kept) = (None, None);
        }
    }

    /// About how many bytes it adds to a request.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.data_bytes.unwrap_or(0) + ENVELOPE_BYTES
    }

    /// About how many bytes of memory a request with it takes.
    #[must_use]
    pub fn bytes_in_flight(&self) -> usize {
        self.data_bytes.unwrap_or(UNSEEN_DATA_BYTES) + ENVELOPE_BYTES
    }
}

//! A delivery in a lane's memory.

use std::sync::Arc;

use crate::domain::delivery::{Cycle, CycleCause};
use crate::domain::event::Event;
use crate::domain::id::EventKey;
use crate::domain::settings::Guarantee;
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
    /// The first attempt of an accepted event.
    #[must_use]
    pub fn fresh(event: Arc<Event>, guarantee: Guarantee) -> Self {
        let stage = match guarantee {
            Guarantee::AtLeastOnce => Stage::Fresh,
            Guarantee::BestEffort => Stage::InMemory,
        };
        let cycle = Cycle { cause: CycleCause::Routed, started_at: event.accepted_at, attempts: 0 };
        let data_bytes = Some(event.data.as_bytes().len());
        Self { key: event.key, event: Some(event), data_bytes, stage, guarantee, attempt_count: 0, cycle }
    }

    /// A delivery that the store has waiting for a due time.
    #[must_use]
    pub fn due(entry: DueEntry) -> Self {
        Self {
            key: entry.id.event_key,
            event: None,
            data_bytes: None,
            stage: Stage::Due(entry.due),
            guarantee: Guarantee::AtLeastOnce,
            attempt_count: entry.attempt_count,
            cycle: entry.cycle,
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

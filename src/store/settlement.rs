//! How deliveries wait, and what lanes say of them.

use crate::domain::attempt::Attempt;
use crate::domain::delivery::{Cycle, DeliveryState};
use crate::domain::event::NewEvent;
use crate::domain::id::DeliveryId;
use crate::domain::settings::Guarantee;
use crate::domain::time::Timestamp;

/// A delivery that waits for its due time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DueEntry {
    /// Which delivery.
    pub id: DeliveryId,
    /// Not before this.
    pub due: Timestamp,
    /// Attempts in all so far.
    pub attempt_count: u32,
    /// The present cycle.
    pub cycle: Cycle,
}

/// How a delivery waits at present; the lane knows, so that the store need not look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It waits in order of its key, without a record of its own.
    Fresh,
    /// It waits for this due time, with a record.
    Due(Timestamp),
    /// Best effort: in memory only.
    InMemory,
}

/// What became of a delivery.
#[derive(Debug, Clone, PartialEq)]
pub struct Settlement {
    /// Which delivery.
    pub id: DeliveryId,
    /// How it waited until now.
    pub stage: Stage,
    /// What it was promised.
    pub guarantee: Guarantee,
    /// The attempt that was made, if one was.
    pub attempt: Option<Attempt>,
    /// The cycle, this attempt included.
    pub cycle: Cycle,
    /// The state from now on.
    pub state: DeliveryState,
    /// An event that tells of it: accepted together with the state, and only if that is taken.
    pub told: Option<Box<NewEvent>>,
}

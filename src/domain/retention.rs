//! How long things are kept.

use std::time::Duration;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How long what is finished is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Finished deliveries and their events, counted from when the last of an event's was finished.
    pub history: Duration,
    /// Dead letters, counted from when they became one.
    pub dead_letters: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        Self { history: DAY * 30, dead_letters: DAY * 30 }
    }
}

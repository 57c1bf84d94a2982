//! How long, and how much, is kept.

use std::time::Duration;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How long what is finished is kept, and how much may be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Finished deliveries, their events and the ids of those, counted from when the last of an event's
    /// deliveries was finished.
    pub history: Duration,
    /// Dead letters, counted from when they became one.
    pub dead_letters: Duration,
    /// How long before a dead letter expires its organization is told; zero: never. Shorter than
    /// `dead_letters`.
    pub dead_letter_notice: Duration,
    /// The most bytes of events and deliveries; above it the oldest finished ones go early. `None`: any.
    pub max_bytes: Option<u64>,
    /// Entries of the audit log.
    pub audit: Duration,
}

impl Retention {
    /// How long before they expire dead letters are told of, where the operator does not say.
    #[must_use]
    pub fn usual_notice(dead_letters: Duration) -> Duration {
        dead_letters / 10
    }
}

impl Default for Retention {
    fn default() -> Self {
        let dead_letters = DAY * 30;
        let dead_letter_notice = Self::usual_notice(dead_letters);
        Self { history: DAY * 30, dead_letters, dead_letter_notice, max_bytes: None, audit: DAY * 365 }
    }
}

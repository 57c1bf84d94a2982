//! Plans: the operator's named sets of limits.

use std::time::Duration;

/// What an organization on this plan may do; what is absent is not limited by the plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The name that organizations refer to.
    pub name: String,
    /// The most destinations. A downgrade keeps what exists and blocks new ones (seed 003).
    pub max_destinations: Option<u32>,
    /// The most events accepted a second.
    pub max_events_per_second: Option<u32>,
    /// The most calls a second about the organization.
    pub max_calls_per_second: Option<u32>,
    /// The largest payload, in bytes; never above the server's own limit.
    pub max_payload_bytes: Option<u32>,
    /// How long finished deliveries and their events are kept, instead of the server's own time.
    pub retention: Option<Duration>,
}

/// A limit of a plan that usage may reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Quota {
    /// How many destinations an organization has.
    Destinations,
    /// How many events a second it emits.
    EventsPerSecond,
    /// How many calls a second are about it.
    CallsPerSecond,
}

impl Quota {
    /// What the limit counts, in words.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Quota::Destinations => "destinations",
            Quota::EventsPerSecond => "events per second",
            Quota::CallsPerSecond => "calls per second",
        }
    }

    /// From how much on so much is nearly used up: four fifths, and at least one.
    #[must_use]
    pub const fn near(limit: u32) -> u32 {
        let near = limit - limit / 5;
        if near == 0 { 1 } else { near }
    }
}

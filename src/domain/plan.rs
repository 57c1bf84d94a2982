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

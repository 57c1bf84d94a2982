//! The rules of a shard: what decides how a destination is served.

use std::sync::Arc;
use std::time::Duration;

use crate::contract::effective_policy;
use crate::domain::contract::Contract;
use crate::domain::id::DestinationId;
use crate::domain::settings::{EffectivePolicy, Guarantee};
use crate::domain::time::Timestamp;
use crate::engine::gate::Past;
use crate::engine::lane::{Hold, Lane};
use crate::store::Store;
use crate::store::directory::DestinationEntry;

/// Bounds of the shards.
#[derive(Debug, Clone, Copy)]
pub struct ShardOptions {
    /// The most requests in flight, of all shards together.
    pub max_in_flight: usize,
    /// The most bytes of events in flight, of all shards together.
    pub max_bytes_in_flight: usize,
    /// So many failed requests in a row open the circuit of a destination.
    pub circuit_opens_after: u32,
    /// The most waiting deliveries in memory, for each destination.
    pub window: usize,
    /// The same for best-effort destinations, whose deliveries are nowhere else.
    pub best_effort_window: usize,
    /// The most bytes of events that wait in memory, for each destination.
    pub window_bytes: usize,
    /// How long a stop may take.
    pub stop_deadline: Duration,
    /// Whether anything is delivered at all.
    pub delivery_enabled: bool,
    /// Whether SEMAPHOR destinations are delivered to (seed 000).
    pub semaphor_enabled: bool,
}

impl ShardOptions {
    /// How many deliveries of a destination may be in memory.
    #[must_use]
    pub fn window_of(&self, policy: &EffectivePolicy) -> usize {
        match policy.guarantee {
            Guarantee::AtLeastOnce => self.window,
            Guarantee::BestEffort => self.best_effort_window,
        }
    }
}

/// What decides how a destination is served: its settings, the operator's switches, and a stop.
pub struct Rules {
    /// Where destinations are looked up.
    pub store: Arc<dyn Store>,
    /// The operator's switches and bounds.
    pub options: ShardOptions,
    /// Whether the process stops.
    pub stopping: bool,
}

impl Rules {
    /// The destination, if it is not deleted, with what is in force for it.
    #[must_use]
    pub fn look_up(&self, id: DestinationId) -> (Option<Arc<DestinationEntry>>, Arc<EffectivePolicy>, Hold) {
        let entry = self.store.directory().destination(id);
        let policy = match &entry {
            Some(entry) => effective_policy(&entry.destination),
            // The contract does not matter: whatever waits is discarded.
            None => crate::contract::defaults(Contract::StandardWebhooks),
        };
        let hold = self.hold_of(entry.as_deref());
        (entry, Arc::new(policy), hold)
    }

    /// A new lane for a destination; `backlog`: whether the store may hold deliveries for it.
    #[must_use]
    pub fn open_lane(&self, id: DestinationId, backlog: bool) -> (Lane, Option<Arc<DestinationEntry>>) {
        let (entry, policy, hold) = self.look_up(id);
        let health = entry.as_ref().map(|entry| entry.status.health()).unwrap_or_default();
        let past = Past {
            opens_after: self.options.circuit_opens_after,
            failures: health.consecutive_failures,
            proven: health.last_success_at.is_some(),
            last_request_at: health.last_success_at.max(health.last_failure_at),
        };
        let window = self.options.window_of(&policy);
        (Lane::new(policy, hold, window, backlog, past), entry)
    }

    /// The latest moment at which a stop begins a request that can wait for the next start: the second half
    /// of its time is for the answer.
    #[must_use]
    pub fn last_start(&self, stopped_at: Timestamp) -> Timestamp {
        stopped_at + self.options.stop_deadline / 2
    }

    /// Whether a destination is sent to.
    #[must_use]
    pub fn hold_of(&self, entry: Option<&DestinationEntry>) -> Hold {
        let Some(entry) = entry else { return Hold::Closed };
        let semaphor = entry.destination.contract == Contract::Semaphor;
        let switched_on = self.options.delivery_enabled && (self.options.semaphor_enabled || !semaphor);
        match (entry.destination.state.is_active() && switched_on, self.stopping) {
            (false, _) => Hold::Held,
            (true, true) => Hold::Flushing,
            (true, false) => Hold::Open,
        }
    }
}

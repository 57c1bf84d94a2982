//! Destinations and their lanes, as they stand when somebody asks.

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::each::{Each, Label, Words};
use crate::domain::circuit::CircuitState;

/// What a lane is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LaneState {
    /// Nothing waits.
    Idle,
    /// Requests are under way.
    Sending,
    /// Something waits, for its retry time or for room.
    Waiting,
    /// Something waits, and the circuit is open.
    Blocked,
    /// The destination is paused.
    Paused,
    /// The destination is disabled.
    Disabled,
}

impl Words for LaneState {
    const LABEL: &'static str = "state";
    const ALL: &'static [Self] =
        &[Self::Idle, Self::Sending, Self::Waiting, Self::Blocked, Self::Paused, Self::Disabled];

    fn word(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Sending => "sending",
            Self::Waiting => "waiting",
            Self::Blocked => "blocked",
            Self::Paused => "paused",
            Self::Disabled => "disabled",
        }
    }
}

impl Words for CircuitState {
    const LABEL: &'static str = "state";
    const ALL: &'static [Self] = &CircuitState::ALL;

    fn word(self) -> &'static str {
        match self {
            CircuitState::Closed => "closed",
            CircuitState::Open => "open",
            CircuitState::HalfOpen => "half_open",
        }
    }
}

/// Destinations and their lanes. Clones share everything.
#[derive(Debug, Clone, Default)]
pub struct LaneMetrics {
    lanes: Each<LaneState, Gauge>,
    circuits: Each<CircuitState, Gauge>,
    in_memory: Gauge,
    oldest: Gauge<f64, AtomicU64>,
}

/// How all lanes stand.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LaneCounts {
    lanes: [i64; LaneState::ALL.len()],
    circuits: [i64; CircuitState::ALL.len()],
    in_memory: i64,
    oldest: Duration,
}

impl LaneCounts {
    /// Adds the lane of a destination: with so many deliveries in memory, and since when the oldest of those
    /// waits that nothing but us holds up.
    pub fn add(&mut self, state: LaneState, circuit: CircuitState, in_memory: u32, oldest: Option<Duration>) {
        if let Some(count) = self.lanes.get_mut(state.index()) {
            *count += 1;
        }
        if let Some(count) = self.circuits.get_mut(circuit.index()) {
            *count += 1;
        }
        self.in_memory += i64::from(in_memory);
        self.oldest = self.oldest.max(oldest.unwrap_or_default());
    }
}

impl LaneMetrics {
    /// Shows how all lanes stand.
    pub fn set(&self, counts: &LaneCounts) {
        for (&state, count) in LaneState::ALL.iter().zip(counts.lanes) {
            self.lanes.with(state, |gauge| gauge.set(count));
        }
        for (state, count) in CircuitState::ALL.into_iter().zip(counts.circuits) {
            self.circuits.with(state, |gauge| gauge.set(count));
        }
        self.in_memory.set(counts.in_memory);
        self.oldest.set(counts.oldest.as_secs_f64());
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        self.lanes.register(registry, "lanes", "Lanes, one for each destination, by what they are doing");
        self.circuits.register(registry, "circuits", "Circuits, one for each destination, by state");
        let help = "Deliveries that wait in the memory of lanes, best effort included";
        registry.register("lane_deliveries_in_memory", help, self.in_memory.clone());
        let help = "Age of the oldest delivery that was never attempted, whose destination is active and whose \
                    circuit is closed; 0 where there is none";
        registry.register("oldest_first_attempt_age_seconds", help, self.oldest.clone());
    }
}

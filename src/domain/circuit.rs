//! Whether a destination is sent to, judged by what its receiver did lately.

/// The state of a destination's circuit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum CircuitState {
    /// Sends normally.
    #[default]
    Closed,
    /// Holds deliveries and only probes now and then.
    Open,
    /// A probe succeeded; sends slowly at first.
    HalfOpen,
}

impl CircuitState {
    /// All three.
    pub const ALL: [CircuitState; 3] = [CircuitState::Closed, CircuitState::Open, CircuitState::HalfOpen];
}

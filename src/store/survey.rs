//! How all destinations and their lanes stand, for the metrics: read from memory, never from what is stored.

use super::directory::{DestinationEntry, Directory};
use crate::domain::circuit::CircuitState;
use crate::domain::destination::DestinationState;
use crate::domain::time::Timestamp;
use crate::metrics::{LaneCounts, LaneState};

/// Counts the lanes of all destinations. About a tenth of a microsecond each.
#[must_use]
pub fn survey(directory: &Directory, now: Timestamp) -> LaneCounts {
    let mut counts = LaneCounts::default();
    for entry in directory.entries() {
        let lane = entry.status.lane();
        let state = state_of(&entry);
        // Old ones of a held or blocked lane tell of its receiver; these tell of us.
        let is_ours = matches!(state, LaneState::Sending | LaneState::Waiting);
        let oldest = lane.oldest_fresh_at.filter(|_| is_ours && lane.circuit == CircuitState::Closed);
        counts.add(state, lane.circuit, lane.waiting_in_memory, oldest.map(|since| now.since(since)));
    }
    counts
}

fn state_of(entry: &DestinationEntry) -> LaneState {
    let lane = entry.status.lane();
    match entry.destination.state {
        DestinationState::Paused { .. } => LaneState::Paused,
        DestinationState::Disabled { .. } => LaneState::Disabled,
        DestinationState::Active if lane.in_flight > 0 => LaneState::Sending,
        DestinationState::Active if lane.waiting_in_memory == 0 && !lane.more_in_store => LaneState::Idle,
        DestinationState::Active if lane.circuit == CircuitState::Open => LaneState::Blocked,
        DestinationState::Active => LaneState::Waiting,
    }
}

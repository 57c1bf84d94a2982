//! The ledger: outcomes on their way to the store, one group at a time.
//!
//! What ends while one group is being stored is the next group: load makes groups larger, not slower, up to
//! a size. All other calls of the store wait while a group is written, so a thousand outcomes at once go
//! in many groups, between which others have their turn.

use std::collections::HashMap;

use crate::domain::destination::DestinationHealth;
use crate::domain::id::{DestinationId, EventKey};
use crate::store::Settlement;

/// Outcomes of one group, and destinations whose health goes with them; about 2 ms of writing.
const GROUP_MAX: usize = 64;

/// Which deliveries of which destinations a group is about.
pub type GroupKeys = HashMap<DestinationId, Vec<EventKey>>;

/// Outcomes that go to the store together.
#[derive(Debug, Default)]
pub struct Group {
    /// What became of deliveries.
    pub settlements: Vec<Settlement>,
    /// What became of destinations.
    pub health: Vec<(DestinationId, DestinationHealth)>,
}

impl Group {
    /// The deliveries that it is about.
    #[must_use]
    pub fn keys(&self) -> GroupKeys {
        let mut keys = GroupKeys::new();
        for settlement in &self.settlements {
            keys.entry(settlement.id.destination_id).or_default().push(settlement.id.event_key);
        }
        keys
    }
}

/// Outcomes that the store does not have yet.
#[derive(Debug, Default)]
pub struct Ledger {
    settlements: Vec<Settlement>,
    health: HashMap<DestinationId, DestinationHealth>,
    is_storing: bool,
}

impl Ledger {
    /// Something became of these deliveries.
    pub fn add(&mut self, settlements: impl IntoIterator<Item = Settlement>) {
        self.settlements.extend(settlements);
    }

    /// The health of a destination, instead of what was noted of it before.
    pub fn note_health(&mut self, id: DestinationId, health: DestinationHealth) {
        self.health.insert(id, health);
    }

    /// Outcomes of deliveries that wait for their group.
    #[must_use]
    pub fn len(&self) -> usize {
        self.settlements.len()
    }

    /// Whether nothing waits for its group.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.settlements.is_empty() && self.health.is_empty()
    }

    /// Whether a group is on its way to the store.
    #[must_use]
    pub fn is_storing(&self) -> bool {
        self.is_storing
    }

    /// The group to store now, until [`Ledger::stored`]; none while another one is on its way.
    pub fn next_group(&mut self) -> Option<Group> {
        if self.is_storing || self.is_empty() {
            return None;
        }
        self.is_storing = true;
        let settlements = self.settlements.drain(..self.settlements.len().min(GROUP_MAX)).collect();
        let ids: Vec<DestinationId> = self.health.keys().copied().take(GROUP_MAX).collect();
        let health = ids.into_iter().filter_map(|id| self.health.remove_entry(&id)).collect();
        Some(Group { settlements, health })
    }

    /// The store has answered for the group that was on its way.
    pub fn stored(&mut self) {
        self.is_storing = false;
    }

    /// All that is left, at the end.
    pub fn take_rest(&mut self) -> Group {
        Group {
            settlements: std::mem::take(&mut self.settlements),
            health: std::mem::take(&mut self.health).into_iter().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_at_once_go_in_groups_that_hold_up_nobody_for_long() {
        let mut ledger = Ledger::default();
        for number in 0..1000_u32 {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&number.to_be_bytes());
            ledger.note_health(DestinationId::from_bytes(bytes), DestinationHealth::default());
        }
        let mut seen = std::collections::HashSet::new();
        while let Some(group) = ledger.next_group() {
            assert!(group.health.len() <= GROUP_MAX);
            seen.extend(group.health.into_iter().map(|(id, _)| id));
            ledger.stored();
        }
        assert_eq!(seen.len(), 1000);
    }

    #[test]
    fn one_group_at_a_time_is_on_its_way_and_the_next_one_has_what_came_meanwhile() {
        let id = DestinationId::from_bytes([1; 16]);
        let health = |consecutive_failures| DestinationHealth { consecutive_failures, ..Default::default() };
        let mut ledger = Ledger::default();
        assert!(ledger.next_group().is_none());
        ledger.note_health(id, health(1));
        assert_eq!(ledger.next_group().unwrap().health, [(id, health(1))]);
        ledger.note_health(id, health(2));
        ledger.note_health(id, health(3));
        assert!(ledger.is_storing() && ledger.next_group().is_none());
        ledger.stored();
        assert_eq!(ledger.next_group().unwrap().health, [(id, health(3))]);
    }
}

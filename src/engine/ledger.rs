//! The ledger: outcomes on their way to the store, one group at a time.
//!
//! What ends while one group is being stored is the next group: load makes groups larger, not slower, up to
//! a size. All other calls of the store wait while a group is written, so a thousand outcomes at once go
//! in many groups, between which others have their turn.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::domain::destination::DestinationHealth;
use crate::domain::event::NewEvent;
use crate::domain::id::{DestinationId, EventKey};
use crate::domain::time::Timestamp;
use crate::store::{Settlement, Store, StoreError};

/// Outcomes of one group, and destinations whose health goes with them; about 2 ms of writing.
const GROUP_MAX: usize = 64;

/// Which deliveries of which destinations a group is about.
pub type GroupKeys = HashMap<DestinationId, Vec<EventKey>>;

/// Outcomes that go to the store together.
#[derive(Debug, Clone, Default)]
pub struct Group {
    settlements: Vec<Settlement>,
    health: Vec<(DestinationId, Note)>,
}

/// What became of a destination.
#[derive(Debug, Clone, PartialEq)]
struct Note {
    health: DestinationHealth,
    /// Events that tell of it.
    told: Vec<NewEvent>,
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

    /// Records all of it, in one step.
    ///
    /// # Errors
    /// As [`DeliveryStore::settle`](crate::store::DeliveryStore::settle).
    pub async fn store(self, store: &dyn Store) -> Result<(), StoreError> {
        let mut told = Vec::new();
        let mut health = Vec::with_capacity(self.health.len());
        for (id, note) in self.health {
            told.extend(note.told);
            health.push((id, note.health));
        }
        if told.is_empty() {
            return store.settle(self.settlements, health).await;
        }
        store.telling(told).settle(self.settlements, health).await
    }
}

/// Outcomes that the store does not have yet.
#[derive(Debug, Default)]
pub struct Ledger {
    settlements: Vec<Settlement>,
    health: HashMap<DestinationId, Note>,
    is_storing: bool,
    /// The store could not take a group, and is asked again then.
    again_at: Option<Timestamp>,
}

impl Ledger {
    /// Something became of these deliveries.
    pub fn add(&mut self, settlements: impl IntoIterator<Item = Settlement>) {
        self.settlements.extend(settlements);
    }

    /// The health of a destination, instead of what was noted of it before; and what tells of it, besides.
    pub fn note_health(&mut self, id: DestinationId, health: DestinationHealth, told: Option<NewEvent>) {
        let before = self.health.remove(&id).map(|note| note.told).unwrap_or_default();
        let told = before.into_iter().chain(told).collect();
        self.health.insert(id, Note { health, told });
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

    /// When the store is asked again that could not take a group.
    #[must_use]
    pub fn again_at(&self) -> Option<Timestamp> {
        self.again_at
    }

    /// The group to store now, until [`Ledger::stored`] or [`Ledger::not_stored`]; none while another one is
    /// on its way.
    pub fn next_group(&mut self, now: Timestamp) -> Option<Group> {
        if self.is_storing || self.is_empty() || self.again_at.is_some_and(|moment| now < moment) {
            return None;
        }
        (self.is_storing, self.again_at) = (true, None);
        let settlements = self.settlements.drain(..self.settlements.len().min(GROUP_MAX)).collect();
        let ids: Vec<DestinationId> = self.health.keys().copied().take(GROUP_MAX).collect();
        let health = ids.into_iter().filter_map(|id| self.health.remove_entry(&id)).collect();
        Some(Group { settlements, health })
    }

    /// The store has the group that was on its way.
    pub fn stored(&mut self) {
        self.is_storing = false;
    }

    /// The store could not take it: it goes again before all others, at this time.
    pub fn not_stored(&mut self, group: Group, again_at: Timestamp) {
        (self.is_storing, self.again_at) = (false, Some(again_at));
        self.settlements.splice(..0, group.settlements);
        for (id, note) in group.health {
            match self.health.entry(id) {
                // Its health is older than what came since; what tells of it is not told yet.
                Entry::Occupied(mut later) => {
                    later.get_mut().told.splice(..0, note.told);
                }
                Entry::Vacant(place) => {
                    place.insert(note);
                }
            }
        }
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

    fn health(consecutive_failures: u32) -> DestinationHealth {
        DestinationHealth { consecutive_failures, ..Default::default() }
    }

    fn told(name: &str) -> NewEvent {
        crate::store::conformance::new_event(name, &[])
    }

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn a_thousand_at_once_go_in_groups_that_hold_up_nobody_for_long() {
        let mut ledger = Ledger::default();
        for number in 0..1000_u32 {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&number.to_be_bytes());
            ledger.note_health(DestinationId::from_bytes(bytes), DestinationHealth::default(), None);
        }
        let mut seen = std::collections::HashSet::new();
        while let Some(group) = ledger.next_group(at(0)) {
            assert!(group.health.len() <= GROUP_MAX);
            seen.extend(group.health.into_iter().map(|(id, _)| id));
            ledger.stored();
        }
        assert_eq!(seen.len(), 1000);
    }

    #[test]
    fn one_group_at_a_time_is_on_its_way_and_the_next_one_has_what_came_meanwhile() {
        let id = DestinationId::from_bytes([1; 16]);
        let mut ledger = Ledger::default();
        assert!(ledger.next_group(at(0)).is_none());
        ledger.note_health(id, health(1), None);
        assert_eq!(
            ledger.next_group(at(0)).unwrap().health,
            [(id, Note { health: health(1), told: vec![] })]
        );
        ledger.note_health(id, health(2), Some(told("a")));
        ledger.note_health(id, health(3), Some(told("b")));
        assert!(ledger.is_storing() && ledger.next_group(at(0)).is_none());
        ledger.stored();
        let both = Note { health: health(3), told: vec![told("a"), told("b")] };
        assert_eq!(ledger.next_group(at(0)).unwrap().health, [(id, both)]);
    }

    #[test]
    fn what_the_store_could_not_take_goes_again_with_what_came_since_and_nothing_is_told_less() {
        let (id, other) = (DestinationId::from_bytes([1; 16]), DestinationId::from_bytes([2; 16]));
        let mut ledger = Ledger::default();
        ledger.note_health(id, health(1), Some(told("a")));
        ledger.note_health(other, health(7), Some(told("c")));
        let group = ledger.next_group(at(0)).unwrap();
        ledger.note_health(id, health(2), Some(told("b")));
        ledger.not_stored(group, at(500));
        assert!(!ledger.is_storing() && ledger.next_group(at(499)).is_none());
        assert_eq!(ledger.again_at(), Some(at(500)));
        let mut again = ledger.next_group(at(500)).unwrap().health;
        again.sort_by_key(|(id, _)| *id);
        let both = Note { health: health(2), told: vec![told("a"), told("b")] };
        assert_eq!(again, [(id, both), (other, Note { health: health(7), told: vec![told("c")] })]);
        assert_eq!(ledger.again_at(), None);
    }
}

//! A fair line: organizations take turns, and within each of them its lanes do.
//!
//! An organization with a thousand lanes waits for its turn as one with a single lane does.

use std::collections::{HashMap, VecDeque};

use crate::domain::id::{DestinationId, OrganizationId};

/// Lanes that wait for their turn. A lane of a deleted destination belongs to no organization.
#[derive(Debug, Default)]
pub struct Turns {
    organizations: VecDeque<Option<OrganizationId>>,
    lanes: HashMap<Option<OrganizationId>, VecDeque<DestinationId>>,
}

impl Turns {
    /// Puts a lane at the end of its organization's line.
    pub fn push(&mut self, organization_id: Option<OrganizationId>, id: DestinationId) {
        let lanes = self.lanes.entry(organization_id.clone()).or_default();
        if lanes.is_empty() {
            self.organizations.push_back(organization_id);
        }
        lanes.push_back(id);
    }

    /// Takes out the lane whose turn it is.
    pub fn pop(&mut self) -> Option<DestinationId> {
        let organization_id = self.organizations.pop_front()?;
        let lanes = self.lanes.get_mut(&organization_id)?;
        let id = lanes.pop_front();
        if lanes.is_empty() {
            self.lanes.remove(&organization_id);
        } else {
            self.organizations.push_back(organization_id);
        }
        id
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.organizations.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u8) -> DestinationId {
        DestinationId::from_bytes([number; 16])
    }

    #[test]
    fn organizations_take_turns_however_many_lanes_they_have() {
        let organization = |name: &str| Some(OrganizationId::parse(name).unwrap());
        let mut turns = Turns::default();
        for number in 1..=4 {
            turns.push(organization("large"), id(number));
        }
        turns.push(organization("small"), id(11));
        turns.push(None, id(21));
        turns.push(organization("small"), id(12));
        let order: Vec<_> = std::iter::from_fn(|| turns.pop()).collect();
        assert_eq!(order, [1, 11, 21, 2, 12, 3, 4].map(id));
        assert!(turns.is_empty() && turns.lanes.is_empty(), "nothing is kept of those who wait no more");
    }
}

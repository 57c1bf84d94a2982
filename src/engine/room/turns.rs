//! A fair line: organizations take turns, and within each of them its lanes do.
//!
//! An organization with a thousand lanes waits for its turn as one with a single lane does.

use std::collections::{HashMap, VecDeque};

use crate::domain::id::OrganizationId;

/// Lanes that wait for their turn. A lane of a deleted destination belongs to no organization.
#[derive(Debug)]
pub struct Turns<T> {
    /// Organizations in the order in which they came, or had their last turn.
    organizations: VecDeque<(u64, Option<OrganizationId>)>,
    /// Those of them that had no turn since they came.
    newcomers: VecDeque<(u64, Option<OrganizationId>)>,
    lanes: HashMap<Option<OrganizationId>, VecDeque<T>>,
    next_number: u64,
}

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Self {
            organizations: VecDeque::new(),
            newcomers: VecDeque::new(),
            lanes: HashMap::new(),
            next_number: 0,
        }
    }
}

impl<T> Turns<T> {
    /// Puts a lane at the end of its organization's line.
    pub fn push(&mut self, organization_id: Option<OrganizationId>, lane: T) {
        let lanes = self.lanes.entry(organization_id.clone()).or_default();
        if lanes.is_empty() {
            self.next_number += 1;
            self.newcomers.push_back((self.next_number, organization_id));
        }
        lanes.push_back(lane);
    }

    /// Takes out the lane whose turn it is: of the organization that has waited longest.
    pub fn pop(&mut self) -> Option<T> {
        let number = |line: &VecDeque<(u64, _)>| line.front().map_or(u64::MAX, |(number, _)| *number);
        let is_newcomer = number(&self.newcomers) < number(&self.organizations);
        let line = if is_newcomer { &mut self.newcomers } else { &mut self.organizations };
        let (_, organization_id) = line.pop_front()?;
        self.pop_of(organization_id)
    }

    /// Takes out a lane of the organization that came last and had no turn since, if there is one; otherwise
    /// of the one that has waited longest.
    pub fn pop_newest(&mut self) -> Option<T> {
        match self.newcomers.pop_back() {
            Some((_, organization_id)) => self.pop_of(organization_id),
            None => self.pop(),
        }
    }

    fn pop_of(&mut self, organization_id: Option<OrganizationId>) -> Option<T> {
        let lanes = self.lanes.get_mut(&organization_id)?;
        let lane = lanes.pop_front();
        if lanes.is_empty() {
            self.lanes.remove(&organization_id);
        } else {
            self.next_number += 1;
            self.organizations.push_back((self.next_number, organization_id));
        }
        lane
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn organizations_take_turns_however_many_lanes_they_have() {
        let organization = |name: &str| Some(OrganizationId::parse(name).unwrap());
        let mut turns = Turns::<u8>::default();
        for number in 1..=4 {
            turns.push(organization("large"), number);
        }
        turns.push(organization("small"), 11);
        turns.push(None, 21);
        turns.push(organization("small"), 12);
        let order: Vec<_> = std::iter::from_fn(|| turns.pop()).collect();
        assert_eq!(order, [1, 11, 21, 2, 12, 3, 4]);
        assert!(
            turns.is_empty() && turns.organizations.is_empty(),
            "nothing is kept of those who wait no more"
        );
    }

    #[test]
    fn the_newest_organization_is_one_that_had_no_turn_yet() {
        let organization = |name: &str| Some(OrganizationId::parse(name).unwrap());
        let mut turns = Turns::<u8>::default();
        for number in 1..=3 {
            turns.push(organization("large"), number);
        }
        turns.push(organization("old"), 11);
        turns.push(organization("new"), 21);
        let order: Vec<_> = [Turns::pop, Turns::pop_newest, Turns::pop_newest, Turns::pop_newest, Turns::pop]
            .into_iter()
            .map_while(|pop| pop(&mut turns))
            .collect();
        assert_eq!(order, [1, 21, 11, 2, 3]);
        assert_eq!(turns.pop_newest(), None);
    }
}

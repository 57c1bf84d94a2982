//! How many destinations an organization may have.

use crate::domain::event::NewEvent;

/// How many destinations an organization may have, and what it is told when it nearly has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DestinationQuota {
    /// The most of them.
    pub most: u32,
    /// An event that is accepted together with the destination that makes it so many: once each time that
    /// their number rises to it.
    pub near: Option<(u32, Box<NewEvent>)>,
}

impl DestinationQuota {
    /// At most so many; nothing is told.
    #[must_use]
    pub const fn at_most(most: u32) -> Self {
        Self { most, near: None }
    }

    /// What is told when there are so many.
    pub(super) fn told_at(self, count: u32) -> Option<NewEvent> {
        self.near.filter(|(number, _)| *number == count).map(|(_, event)| *event)
    }
}

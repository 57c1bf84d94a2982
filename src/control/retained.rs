//! What is still retained, and what an organization asks for in vain.

use std::time::Duration;

use super::{Control, Error};
use crate::domain::id::OrganizationId;
use crate::domain::time::Timestamp;

/// A beginning that a caller is told of stays good for so long.
const GRACE: Duration = Duration::from_secs(60);

impl Control {
    /// How long the history of an organization is kept.
    pub(super) fn history_of(&self, id: &OrganizationId) -> Duration {
        let organization = self.directory().organization(id);
        let plan = self.settings.plan_of(organization.as_deref());
        plan.and_then(|plan| plan.retention).unwrap_or(self.settings.retention.history)
    }

    /// Refuses a range of events that begins before what is retained: some of them may be gone, by age or
    /// because more was stored than may be. Before an organization was made it had none, so nothing is gone.
    pub(super) fn check_retained(&self, id: &OrganizationId, from: Timestamp) -> Result<(), Error> {
        let (now, history) = (self.clock.now(), self.history_of(id));
        let early = self.store.footprint().removed_early.map(|early| just_after(early.accepted));
        let retained_from = early.map_or(now - history, |early| early.max(now - history));
        let made_at = self.directory().organization(id).map(|organization| organization.created_at);
        if made_at.map_or(from, |made_at| made_at.max(from)) >= retained_from {
            return Ok(());
        }
        // What is said must still be true when the caller comes back with it.
        let retained_from = (retained_from + GRACE.min(history / 10)).min(now);
        Err(Error::RetentionExceeded { retained_from })
    }

    /// Refuses a moment from which on not all changes are retained; `in_memory` where the feed has all that
    /// came since.
    pub(super) fn check_cursor(
        &self,
        id: &OrganizationId,
        since: Timestamp,
        in_memory: bool,
    ) -> Result<(), Error> {
        let oldest = self.clock.now() - self.history_of(id);
        let early = self.store.footprint().removed_early.filter(|_| !in_memory);
        let retained_from = early.map_or(oldest, |early| just_after(early.changed).max(oldest));
        if since < retained_from { Err(Error::CursorExpired { since, retained_from }) } else { Ok(()) }
    }
}

fn just_after(moment: Timestamp) -> Timestamp {
    moment + Duration::from_millis(1)
}

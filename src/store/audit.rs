//! The audit log: written with what it tells of, read in pages, removed by age.

use async_trait::async_trait;

use super::StoreError;
use crate::domain::audit::{AuditEntry, AuditOutcome};
use crate::domain::id::{AuditEntryId, OrganizationId};
use crate::domain::time::Timestamp;

/// The audit log. What a change leaves there is written with the change itself: see
/// [`super::Store::noting`].
#[async_trait]
pub trait AuditStore: Send + Sync {
    /// Adds entries that tell of no change: denied calls.
    ///
    /// # Errors
    /// [`StoreError::Full`] below the free-space watermark, [`StoreError::Busy`],
    /// [`StoreError::Unavailable`].
    async fn record_audit(&self, entries: Vec<AuditEntry>) -> Result<(), StoreError>;

    /// Entries that fit the query, the latest first. A call looks at a bounded number of them; where that
    /// does not fill the page, [`AuditPage::next`] says where to go on.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] or [`StoreError::Corrupt`].
    async fn audit(&self, query: AuditQuery) -> Result<AuditPage, StoreError>;

    /// Removes the oldest entries that were made before a moment, at most `budget`, and answers how many.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Busy`].
    async fn expire_audit(&self, before: Timestamp, budget: usize) -> Result<usize, StoreError>;

    /// Takes out of entries of an organization what it had for names and contents: values before and
    /// after. It looks at `budget` entries after `after`, and answers where to go on.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Busy`].
    async fn forget_audit_contents(
        &self,
        organization_id: &OrganizationId,
        after: Option<AuditEntryId>,
        budget: usize,
    ) -> Result<Option<AuditEntryId>, StoreError>;
}

/// Which entries to list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AuditQuery {
    /// That concern this organization; absent: all.
    pub organization_id: Option<OrganizationId>,
    /// Of this principal; empty: any.
    pub principal: String,
    /// Of this method; empty: any.
    pub method: String,
    /// About this thing; empty: any.
    pub resource_id: String,
    /// Whether they tell of denied calls, or of changes; absent: both.
    pub denied: Option<bool>,
    /// Of this time or later.
    pub from: Option<Timestamp>,
    /// Before this time.
    pub until: Option<Timestamp>,
    /// Only those that come after this one in the list.
    pub after: Option<AuditEntryId>,
    /// The most entries.
    pub limit: usize,
}

impl AuditQuery {
    /// Whether the entry fits, apart from its place in the list.
    #[must_use]
    pub fn fits(&self, entry: &AuditEntry) -> bool {
        let is = |wanted: &str, found: &str| wanted.is_empty() || wanted == found;
        let denied = matches!(entry.outcome, AuditOutcome::Denied(_));
        self.organization_id.as_ref().is_none_or(|id| id.as_str() == entry.organization_id)
            && is(&self.principal, &entry.principal)
            && is(&self.method, &entry.method)
            && is(&self.resource_id, &entry.resource_id)
            && self.denied.is_none_or(|wanted| wanted == denied)
            && self.from.is_none_or(|from| entry.at >= from)
            && self.until.is_none_or(|until| entry.at < until)
    }
}

/// Some entries, and where the list goes on.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AuditPage {
    /// The entries; there may be none although the list goes on.
    pub rows: Vec<AuditEntry>,
    /// The `after` of the next page; `None` at the end of the list.
    pub next: Option<AuditEntryId>,
}

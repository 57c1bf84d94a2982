//! Organizations: the unit of isolation, plan and quota.

use super::id::OrganizationId;
use super::time::Timestamp;

/// An organization.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Organization {
    /// Chosen by the caller, never changes.
    pub id: OrganizationId,
    /// A name for people; may be empty.
    pub display_name: String,
    /// The name of its plan; empty means the default plan, whatever that is at the time.
    pub plan: String,
    /// When it was created, by call or by first use.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
    /// Grows with each change; the etag.
    pub revision: u64,
}

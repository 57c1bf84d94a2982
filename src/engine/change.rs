//! What the audit log says of a destination that the server changed by itself.

use crate::domain::audit::{AuditEntry, AuditOutcome, SERVER_PRINCIPAL};
use crate::domain::destination::Destination;
use crate::domain::facts;
use crate::domain::id::AuditEntryId;

/// The entry for a change that nobody asked for.
#[must_use]
pub fn changed_by_server(before: &Destination, after: &Destination, description: &str) -> AuditEntry {
    let at = after.updated_at;
    let (old, new) = (facts::of_destination(before), facts::of_destination(after));
    AuditEntry {
        id: AuditEntryId::make(at, std::array::from_fn(|_| fastrand::u8(..))),
        at,
        organization_id: after.organization_id.to_string(),
        principal: SERVER_PRINCIPAL.to_owned(),
        remote_address: None,
        method: String::new(),
        resource_id: after.id.to_string(),
        outcome: AuditOutcome::Changed,
        request_id: String::new(),
        change: facts::change(Some(&old), Some(&new)),
        count: 1,
        description: description.to_owned(),
    }
}

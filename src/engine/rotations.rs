//! The end of rotations: a signing secret that no longer signs is not kept.

use crate::domain::audit::{AuditEntry, AuditOutcome, SERVER_PRINCIPAL};
use crate::domain::destination::Destination;
use crate::domain::facts;
use crate::domain::id::AuditEntryId;
use crate::domain::secret::SigningSecrets;
use crate::domain::time::Timestamp;
use crate::store::{Store, StoreError};

/// Removes secrets whose overlap has ended, and answers how many. One whose destination is changed by a caller in the
/// same moment is left for the next time.
///
/// # Errors
/// What the store says.
pub async fn end_rotations(store: &dyn Store, now: Timestamp) -> Result<usize, StoreError> {
    let mut ended = 0;
    for entry in store.directory().entries() {
        let stored = &entry.destination;
        let Some(changed) = without_retired(stored, now) else { continue };
        let noting = store.noting(noted(stored, &changed));
        match noting.update_destination(changed, stored.revision).await {
            Ok(_) => ended += 1,
            Err(StoreError::Stale { .. } | StoreError::NotFound) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(ended)
}

/// The destination without the secret that was replaced, where that is no longer in force.
fn without_retired(stored: &Destination, now: Timestamp) -> Option<Destination> {
    stored.signing.retiring.as_ref().filter(|retiring| retiring.until <= now)?;
    let signing = SigningSecrets { current: stored.signing.current.clone(), retiring: None };
    Some(Destination { signing, updated_at: now, ..stored.clone() })
}

/// What the audit log is to say of it.
fn noted(before: &Destination, after: &Destination) -> AuditEntry {
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
        description: "the replaced signing secret removed, its overlap being over".to_owned(),
    }
}

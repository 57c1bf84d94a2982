//! The end of rotations: a signing secret that no longer signs is not kept.

use crate::domain::destination::Destination;
use crate::domain::secret::SigningSecrets;
use crate::domain::time::Timestamp;
use crate::engine::change::changed_by_server;
use crate::store::{Store, StoreError};

/// What the audit log says of it.
const ENDED: &str = "the replaced signing secret removed, its overlap being over";

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
        let noting = store.noting(changed_by_server(stored, &changed, ENDED));
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

//! Disabling a destination because of what its receiver does.

use crate::domain::destination::{Destination, DestinationState, DisabledReason};
use crate::domain::id::DestinationId;
use crate::domain::operational::OperationalEvent;
use crate::domain::time::Timestamp;
use crate::engine::announce::routed;
use crate::engine::change::changed_by_server;
use crate::store::{Store, StoreError};

/// How often the change is tried against concurrent changes by callers.
const TRIES: u32 = 5;

/// Disables a destination that is active, tells its organization in the same commit, and answers whether it
/// did; one that is gone or not active any more stays as it is.
///
/// # Errors
/// [`StoreError::Stale`] when callers change it all the time, or what the store says.
pub async fn disable_destination(
    store: &dyn Store,
    id: DestinationId,
    reason: DisabledReason,
    since: Timestamp,
) -> Result<bool, StoreError> {
    for remaining in (0..TRIES).rev() {
        let Some(entry) = store.directory().destination(id) else { return Ok(false) };
        if !entry.destination.state.is_active() {
            return Ok(false);
        }
        let state = DestinationState::Disabled { since, reason };
        let changed = Destination { state, updated_at: since, ..Destination::clone(&entry.destination) };
        let told = OperationalEvent::DestinationDisabled { destination_id: id, reason, since };
        let told = routed(store.directory(), &changed.organization_id, &told);
        let noted = changed_by_server(&entry.destination, &changed, "destination disabled by the server");
        let store = store.noting(noted).telling(Vec::from_iter(told));
        match store.update_destination(changed, entry.destination.revision).await {
            Err(StoreError::Stale { .. }) if remaining > 0 => {}
            Err(error) => return Err(error),
            Ok(_) => return Ok(true),
        }
    }
    Ok(false)
}

//! Telling an organization what happened to its deliveries, by events of our own.

use crate::contract::operational_event;
use crate::domain::event::Event;
use crate::domain::id::OrganizationId;
use crate::domain::operational::{OPERATIONAL_PREFIX, OperationalEvent};
use crate::store::{Store, StoreError};

/// Accepts the operational event, where a destination of the organization listens for it.
///
/// # Errors
/// What the store says; the organization is not told then.
pub async fn announce(
    store: &dyn Store,
    organization_id: &OrganizationId,
    told: &OperationalEvent,
) -> Result<(), StoreError> {
    let destinations = store.directory().destinations(organization_id);
    let listed = destinations.iter().map(|entry| entry.destination.as_ref());
    match operational_event(organization_id, told, listed) {
        Some(event) => store.accept(vec![event]).await.map(drop),
        None => Ok(()),
    }
}

/// Whether an event told something itself. What becomes of it is told to nobody, or there would be no end.
#[must_use]
pub fn is_operational(event: &Event) -> bool {
    event.event_type.as_str().starts_with(OPERATIONAL_PREFIX)
}

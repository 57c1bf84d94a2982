//! Telling an organization what happened to its deliveries, by events of our own.
//!
//! What tells of a change is committed together with it: so it is told if and only if it happened.

use crate::contract::operational_event;
use crate::domain::event::{Event, NewEvent};
use crate::domain::id::OrganizationId;
use crate::domain::operational::{self, OperationalEvent};
use crate::store::directory::Directory;

/// The event for those destinations of the organization that listen for it; `None` where there is none.
#[must_use]
pub fn routed(
    directory: &Directory,
    organization_id: &OrganizationId,
    told: &OperationalEvent,
) -> Option<NewEvent> {
    let destinations = directory.destinations(organization_id);
    operational_event(organization_id, told, destinations.iter().map(|entry| entry.destination.as_ref()))
}

/// Whether an event told something itself. What becomes of it is told to nobody, or there would be no end.
#[must_use]
pub fn is_operational(event: &Event) -> bool {
    operational::is_operational(&event.event_type)
}

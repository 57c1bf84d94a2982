//! Operational events as events to accept: who gets them.

use super::{Catalogue, catalogue, effective_policy};
use crate::domain::destination::Destination;
use crate::domain::event::{EventType, NewEvent, Route};
use crate::domain::id::OrganizationId;
use crate::domain::operational::OperationalEvent;
use crate::domain::payload::Payload;

/// The event for the destinations of the organization that list its type; `None` where there is none.
#[must_use]
pub fn operational_event<'a>(
    organization_id: &OrganizationId,
    told: &OperationalEvent,
    destinations: impl Iterator<Item = &'a Destination>,
) -> Option<NewEvent> {
    let event_type = EventType::parse(told.event_type()).ok()?;
    let listens = |destination: &&Destination| {
        destination.state.is_routed_to()
            && destination.subscription.operational.contains(&event_type)
            && Some(destination.id) != told.about()
            && matches!(catalogue(destination.contract), Catalogue::Open(_))
    };
    let route = |destination: &Destination| Route {
        destination_id: destination.id,
        guarantee: effective_policy(destination).guarantee,
    };
    let routes: Vec<Route> = destinations.filter(listens).map(route).collect();
    (!routes.is_empty()).then(|| NewEvent {
        organization_id: organization_id.clone(),
        event_id: told.event_id(),
        event_type,
        occurred_at: None,
        trace: None,
        level: told.level(),
        data: Payload::from_stored(told.data()),
        routes,
    })
}

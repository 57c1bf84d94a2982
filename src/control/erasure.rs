//! Erasing for good: the data of an event, or all that is an organization's.

use super::audit::{Act, Action};
use super::{Condition, Control, Error, Resource};
use crate::auth::{Caller, Role};
use crate::domain::audit::AuditChange;
use crate::domain::id::{DeliveryId, OrganizationId};
use crate::domain::time::Timestamp;

/// Counting what waits for a destination stops here.
const COUNT_CAP: usize = 10_000;

/// What came of erasing the data of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataErased {
    /// When, now or by an earlier call.
    pub at: Timestamp,
    /// How many waiting deliveries this call ended.
    pub ended: usize,
}

/// What came of erasing an organization.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OrganizationErased {
    /// How many destinations it had.
    pub destinations: usize,
    /// How many deliveries waited, each destination counted up to 10,000.
    pub waiting: usize,
}

impl Control {
    /// Erases the data of an event and what receivers answered to it. Ids, type, times and outcomes stay.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Precondition`] while an attempt for the event is under way.
    pub async fn erase_event_data(
        &self,
        caller: &Caller,
        organization_id: &str,
        event_id: &str,
    ) -> Result<DataErased, Error> {
        let id = self.enter(caller, Role::Admin, organization_id)?;
        let event = self.find_event(&id, event_id).await?;
        let in_flight = event.routes.iter().find(|route| {
            let entry = self.directory().destination(route.destination_id);
            entry.is_some_and(|entry| entry.status.is_in_flight(event.key))
        });
        if let Some(route) = in_flight {
            return Err(Error::Precondition {
                kind: Condition::DeliveryInFlight,
                subject: DeliveryId::new(event.key, route.destination_id).to_string(),
                message: "an attempt is under way; try again after the destination's timeout".into(),
            });
        }
        let act = Act::new(caller, Action::EraseEventData);
        let store = self.noting(act, &id, event_id, AuditChange::default())?;
        let erased = store.erase_event(event.key, self.clock.now()).await?;
        let erased = erased.ok_or_else(|| Error::not_found(Resource::Event, event_id))?;
        Ok(DataErased { at: erased.at, ended: erased.ended.len() })
    }

    /// Begins to erase an organization. From the answer on nothing of it is sent or readable; its records
    /// are removed in the minutes that follow, also over a restart.
    ///
    /// # Errors
    /// [`Error::Invalid`] without a confirmation, [`Error::NotFound`], [`Error::Stale`].
    pub async fn delete_organization(
        &self,
        caller: &Caller,
        organization_id: &str,
        confirmation: &str,
        expected: Option<u64>,
    ) -> Result<OrganizationErased, Error> {
        caller.require(Role::Operator, None)?;
        let id = OrganizationId::parse(organization_id)
            .map_err(|problem| Error::invalid("organization_id", problem))?;
        let confirmed =
            if confirmation.is_empty() { expected.is_some() } else { confirmation == id.as_str() };
        if !confirmed {
            return Err(Error::Unconfirmed { id: id.to_string() });
        }
        let mut erased = OrganizationErased::default();
        for entry in self.directory().destinations(&id).iter() {
            erased.waiting += self.store.backlog(entry.destination.id, COUNT_CAP).await?.count;
        }
        let act = Act::new(caller, Action::DeleteOrganization);
        let store = self.noting(act, &id, &id, AuditChange::default())?;
        let begun = store.begin_erasure(&id, expected).await;
        erased.destinations = begun.map_err(Error::about(Resource::Organization, &id))?.len();
        Ok(erased)
    }
}

//! Deliveries: list, read, resend, cancel.

use std::sync::Arc;

use super::audit::{Act, Action};
use super::{Condition, Control, Error, Listing, PageRequest, Resource};
use crate::auth::{Caller, Role};
use crate::domain::audit::AuditChange;
use crate::domain::delivery::{CycleCause, Delivery, DeliveryState, StateKind};
use crate::domain::destination::DestinationState;
use crate::domain::event::{Event, EventType};
use crate::domain::id::{DeliveryId, DestinationId, EventId, OrganizationId};
use crate::domain::time::Timestamp;
use crate::domain::violation::Violations;
use crate::store::DeliveryQuery;

/// Which deliveries are meant; what is absent does not restrict.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeliveryFilter {
    /// Of this destination; the id as the caller wrote it.
    pub destination_id: Option<String>,
    /// In one of these states.
    pub states: Vec<StateKind>,
    /// Of those that wait, only those with an attempt under way, or only those without; absent means both.
    pub in_flight: Option<bool>,
    /// Of one of these types.
    pub event_types: Vec<EventType>,
    /// Of this event; the id as the caller wrote it.
    pub event_id: Option<String>,
    /// Of events accepted at or after this; dead letters that became one then.
    pub from: Option<Timestamp>,
    /// Of events accepted before this; dead letters that became one before.
    pub until: Option<Timestamp>,
}

/// A page of deliveries.
pub type Deliveries = Listing<Delivery, DeliveryId>;

impl Control {
    /// Lists deliveries, newest event first.
    ///
    /// # Errors
    /// [`Error::Invalid`] for the filter, with paths below `filter`; [`Error::NotFound`] for its destination,
    /// or for an organization that must be created first.
    pub async fn list_deliveries(
        &self,
        caller: &Caller,
        organization_id: &str,
        filter: DeliveryFilter,
        page: PageRequest<DeliveryId>,
    ) -> Result<Deliveries, Error> {
        let id = self.enter_known(caller, Role::Viewer, organization_id)?;
        self.check_destination(&id, &filter).await?;
        self.find_deliveries(&id, &filter, page).await
    }

    /// Refuses a filter by a destination that does not exist. Deliveries outlive their destination: one that
    /// was deleted exists as long as any of them is on record, and for its own organization only.
    pub(super) async fn check_destination(
        &self,
        id: &OrganizationId,
        filter: &DeliveryFilter,
    ) -> Result<(), Error> {
        let Some(text) = &filter.destination_id else { return Ok(()) };
        let unknown = || Error::not_found(Resource::Destination, text);
        let destination_id = DestinationId::parse(text).map_err(|_| unknown())?;
        let exists = match self.directory().destination(destination_id) {
            Some(entry) => entry.destination.organization_id == *id,
            None => !self.store.deliveries(any_of(id, destination_id)).await?.rows.is_empty(),
        };
        if exists { Ok(()) } else { Err(unknown()) }
    }

    pub(super) async fn find_deliveries(
        &self,
        id: &OrganizationId,
        filter: &DeliveryFilter,
        page: PageRequest<DeliveryId>,
    ) -> Result<Deliveries, Error> {
        check_times(filter)?;
        if let Some(event_id) = &filter.event_id {
            return self.deliveries_of_event(id, event_id, filter, page).await;
        }
        let query = DeliveryQuery {
            organization_id: id.clone(),
            destination_ids: self.destinations_of(id, filter),
            states: filter.states.clone(),
            event_types: filter.event_types.clone(),
            from: filter.from,
            until: filter.until,
            after: page.after,
            limit: page.limit,
        };
        if query.destination_ids.is_empty() {
            return Ok(Listing { rows: Vec::new(), next: None });
        }
        let page = self.store.deliveries(query).await?;
        let mut rows = page.rows;
        rows.retain(|delivery| delivery.organization_id == *id && self.flies_as_asked(filter, delivery));
        Ok(Listing { rows, next: page.next })
    }

    fn flies_as_asked(&self, filter: &DeliveryFilter, delivery: &Delivery) -> bool {
        let Some(asked) = filter.in_flight else { return true };
        delivery.state.is_finished() || self.standing(delivery).in_flight == asked
    }

    /// Those of a deleted destination are found by its id only.
    fn destinations_of(&self, id: &OrganizationId, filter: &DeliveryFilter) -> Vec<DestinationId> {
        match &filter.destination_id {
            Some(text) => DestinationId::parse(text).ok().into_iter().collect(),
            None => self.directory().destinations(id).iter().map(|entry| entry.destination.id).collect(),
        }
    }

    /// The deliveries of one event, in order of their destinations.
    async fn deliveries_of_event(
        &self,
        id: &OrganizationId,
        event_id: &str,
        filter: &DeliveryFilter,
        page: PageRequest<DeliveryId>,
    ) -> Result<Deliveries, Error> {
        let mut found = Listing { rows: Vec::new(), next: None };
        let Ok(event_id) = EventId::parse(event_id) else { return Ok(found) };
        let Some(event) = self.store.find_event(id, &event_id).await? else { return Ok(found) };
        // A replay may have created deliveries to destinations that the event was not routed to.
        let present = self.directory().destinations(id);
        let present = present.iter().map(|entry| entry.destination.id);
        let routed = event.routes.iter().map(|route| route.destination_id);
        let mut ids: Vec<DeliveryId> =
            routed.chain(present).map(|to| DeliveryId::new(event.key, to)).collect();
        ids.sort_unstable();
        ids.dedup();
        ids.retain(|id| page.after.is_none_or(|after| *id > after));
        for delivery_id in ids {
            let Some(delivery) = self.store.delivery(delivery_id).await? else { continue };
            if !filter.fits(&delivery) || !self.flies_as_asked(filter, &delivery) {
                continue;
            }
            if found.rows.len() == page.limit {
                found.next = found.rows.last().map(|delivery: &Delivery| delivery.id);
                break;
            }
            found.rows.push(delivery);
        }
        Ok(found)
    }

    /// Reads one delivery with its attempts.
    ///
    /// # Errors
    /// [`Error::NotFound`], also for another organization's.
    pub async fn get_delivery(
        &self,
        caller: &Caller,
        organization_id: &str,
        delivery_id: &str,
    ) -> Result<Delivery, Error> {
        let id = self.enter(caller, Role::Viewer, organization_id)?;
        self.find_delivery(&id, delivery_id).await
    }

    /// The event of a delivery that was read; `None` where it is no longer stored.
    ///
    /// # Errors
    /// What the store answers.
    pub async fn event_of(&self, delivery: &Delivery) -> Result<Option<Arc<Event>>, Error> {
        Ok(self.store.find_event(&delivery.organization_id, &delivery.event_id).await?)
    }

    /// Sends a delivery again, whatever its state, with a fresh cycle of attempts.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the delivery or its destination; [`Error::Precondition`] where nothing is
    /// delivered, the destination is disabled, or the event is no longer stored.
    pub async fn resend_delivery(
        &self,
        caller: &Caller,
        organization_id: &str,
        delivery_id: &str,
    ) -> Result<Delivery, Error> {
        let delivery = self.delivery_to_change(caller, organization_id, delivery_id).await?;
        self.send_again(Act::new(caller, Action::ResendDelivery), &delivery, CycleCause::Resend).await
    }

    /// A delivery, for a caller that may change it.
    pub(super) async fn delivery_to_change(
        &self,
        caller: &Caller,
        organization_id: &str,
        delivery_id: &str,
    ) -> Result<Delivery, Error> {
        let id = self.enter(caller, Role::Admin, organization_id)?;
        self.find_delivery(&id, delivery_id).await
    }

    pub(super) async fn send_again(
        &self,
        act: Act<'_>,
        delivery: &Delivery,
        cause: CycleCause,
    ) -> Result<Delivery, Error> {
        self.check_receptive(&delivery.organization_id, delivery.id.destination_id)?;
        let store = self.noting(act, &delivery.organization_id, delivery.id, AuditChange::default())?;
        let requeued = store.requeue(vec![delivery.id], cause, self.clock.now()).await?;
        if requeued.is_empty() {
            return Err(Error::Precondition {
                kind: Condition::EventGone,
                subject: delivery.event_id.to_string(),
                message: "the event's data is no longer stored, so it cannot be sent again; emit a new event"
                    .into(),
            });
        }
        self.find_delivery(&delivery.organization_id, &delivery.id.to_string()).await
    }

    /// Refuses what could not be sent: the destination must exist, not be disabled, and be delivered to.
    pub(super) fn check_receptive(
        &self,
        organization_id: &OrganizationId,
        destination_id: DestinationId,
    ) -> Result<(), Error> {
        let entry = self.find_destination(organization_id, &destination_id.to_string())?;
        self.available(entry.destination.contract, destination_id)?;
        match &entry.destination.state {
            DestinationState::Active | DestinationState::Paused { .. } => Ok(()),
            DestinationState::Disabled { reason, .. } => Err(Error::Precondition {
                kind: Condition::DestinationDisabled,
                subject: destination_id.to_string(),
                message: format!("the destination is disabled ({}); resume it first", reason.as_sentence()),
            }),
        }
    }

    /// Ends a delivery that waits, for good. Cancelling a cancelled one changes nothing.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Precondition`] for a delivery that is finished otherwise.
    pub async fn cancel_delivery(
        &self,
        caller: &Caller,
        organization_id: &str,
        delivery_id: &str,
    ) -> Result<Delivery, Error> {
        let delivery = self.delivery_to_change(caller, organization_id, delivery_id).await?;
        let cancelled = DeliveryState::Cancelled { at: self.clock.now() };
        let act = Act::new(caller, Action::CancelDelivery);
        let store = self.noting(act, &delivery.organization_id, delivery.id, AuditChange::default())?;
        store.end(vec![delivery.id], StateKind::Waiting, cancelled).await?;
        // Whoever finished it first, the record now says how it ended.
        let delivery = self.find_delivery(&delivery.organization_id, delivery_id).await?;
        match delivery.state.kind() {
            StateKind::Cancelled => Ok(delivery),
            state => Err(Error::Precondition {
                kind: Condition::DeliveryFinished { state },
                subject: delivery_id.to_owned(),
                message: "the delivery is finished already, so it cannot be cancelled".into(),
            }),
        }
    }

    /// A delivery of this organization. An id that can't be one is as unknown as any other.
    pub(super) async fn find_delivery(
        &self,
        organization_id: &OrganizationId,
        delivery_id: &str,
    ) -> Result<Delivery, Error> {
        if delivery_id.is_empty() {
            return Err(Error::invalid("delivery_id", "is empty; give the delivery's id"));
        }
        let found = match DeliveryId::parse(delivery_id) {
            Ok(id) => self.store.delivery(id).await?,
            Err(_) => None,
        };
        found
            .filter(|delivery| delivery.organization_id == *organization_id)
            .ok_or_else(|| Error::not_found(Resource::Delivery, delivery_id))
    }
}

impl DeliveryFilter {
    pub(super) fn fits(&self, delivery: &Delivery) -> bool {
        let destination = self.destination_id.as_ref();
        destination.is_none_or(|id| *id == delivery.id.destination_id.to_string())
            && (self.states.is_empty() || self.states.contains(&delivery.state.kind()))
            && (self.event_types.is_empty() || self.event_types.contains(&delivery.event_type))
            && self.from.is_none_or(|from| self.moment(delivery) >= from)
            && self.until.is_none_or(|until| self.moment(delivery) < until)
    }
}

impl DeliveryFilter {
    /// What the range of time is about: for dead letters when they became one.
    fn moment(&self, delivery: &Delivery) -> Timestamp {
        let ended_at = delivery.state.finished_at().filter(|_| self.states == [StateKind::DeadLettered]);
        ended_at.unwrap_or(delivery.created_at)
    }
}

/// Whatever there is of a destination.
fn any_of(organization_id: &OrganizationId, destination_id: DestinationId) -> DeliveryQuery {
    DeliveryQuery {
        organization_id: organization_id.clone(),
        destination_ids: vec![destination_id],
        states: Vec::new(),
        event_types: Vec::new(),
        from: None,
        until: None,
        after: None,
        limit: 1,
    }
}

pub(super) fn check_times(filter: &DeliveryFilter) -> Result<(), Violations> {
    match (filter.from, filter.until) {
        (Some(from), Some(until)) if until <= from => {
            Err(Violations::one("filter.end_time", "is not after start_time; give a later time"))
        }
        _ => Ok(()),
    }
}

//! The maps of the store in memory, and what one change does to all of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::domain::audit::AuditEntry;
use crate::domain::delivery::{CycleCause, Delivery, DeliveryState, StateKind};
use crate::domain::event::{Acceptance, Event, NewEvent};
use crate::domain::id::{
    AuditEntryId, DeliveryId, DestinationId, EventId, EventKey, OrganizationId, ReplayId,
};
use crate::domain::replay::Replay;
use crate::domain::settings::Guarantee;
use crate::domain::time::Timestamp;
use crate::store::changes::{ChangeFeed, slim};
use crate::store::record::{EventHead, content_digest};
use crate::store::retention::RemovedEarly;
use crate::store::{DueEntry, Settlement, Stage, lifecycle};

pub(super) type Digest = [u8; 16];

pub(super) struct Tables {
    pub(super) erasing: BTreeSet<OrganizationId>,
    pub(super) changes: Arc<ChangeFeed>,
    pub(super) last_key: EventKey,
    pub(super) events: BTreeMap<EventKey, Arc<Event>>,
    pub(super) by_id: HashMap<(OrganizationId, EventId), (EventKey, Digest)>,
    /// Fresh at-least-once deliveries; these have no entry in `deliveries`.
    pub(super) fresh: BTreeMap<(DestinationId, EventKey), ()>,
    pub(super) due: BTreeMap<(DestinationId, Timestamp, EventKey), DueEntry>,
    pub(super) deliveries: BTreeMap<(DestinationId, EventKey), Delivery>,
    pub(super) replays: BTreeMap<ReplayId, Replay>,
    pub(super) removed_early: Option<RemovedEarly>,
    pub(super) audit: BTreeMap<AuditEntryId, AuditEntry>,
}

impl Tables {
    pub(super) fn new(changes: Arc<ChangeFeed>) -> Self {
        Self {
            erasing: BTreeSet::new(),
            changes,
            last_key: EventKey::MIN,
            events: BTreeMap::new(),
            by_id: HashMap::new(),
            fresh: BTreeMap::new(),
            due: BTreeMap::new(),
            deliveries: BTreeMap::new(),
            replays: BTreeMap::new(),
            removed_early: None,
            audit: BTreeMap::new(),
        }
    }

    pub(super) fn accept(&mut self, event: NewEvent, now: Timestamp) -> Acceptance {
        let digest = content_digest(&event);
        if let Some(id) = &event.event_id
            && let Some(known) = self.known(&event, id, digest)
        {
            return known;
        }
        let key = self.last_key.next(now, fastrand::u64(..));
        self.last_key = key;
        let named = event.event_id.is_some();
        let event = Arc::new(event.into_event(key));
        if named {
            self.by_id.insert((event.organization_id.clone(), event.id.clone()), (key, digest));
        }
        for route in event.routes.iter().filter(|route| route.guarantee == Guarantee::AtLeastOnce) {
            self.fresh.insert((route.destination_id, key), ());
        }
        self.changes.publish(lifecycle::begun(&event));
        self.events.insert(key, Arc::clone(&event));
        Acceptance::Accepted(event)
    }

    fn known(&self, event: &NewEvent, id: &EventId, digest: Digest) -> Option<Acceptance> {
        if let Some((key, first)) = self.by_id.get(&(event.organization_id.clone(), id.clone())) {
            let first_event = self.events.get(key)?;
            let same = *first == digest;
            return Some(if same {
                Acceptance::Duplicate(Arc::clone(first_event))
            } else {
                Acceptance::Conflict
            });
        }
        let first = self.events.get(&id.as_key()?)?;
        let named = first.organization_id == event.organization_id && first.id == *id;
        named.then(|| compare(first, event))
    }

    pub(super) fn head(&self, key: EventKey) -> Option<EventHead> {
        self.events.get(&key).map(|event| EventHead::from(event.as_ref()))
    }

    pub(super) fn delivery(&self, id: DeliveryId) -> Option<Delivery> {
        let key = (id.destination_id, id.event_key);
        if let Some(delivery) = self.deliveries.get(&key) {
            return Some(delivery.clone());
        }
        self.fresh.get(&key)?;
        Some(lifecycle::fresh(&self.head(id.event_key)?, id.destination_id, Guarantee::AtLeastOnce))
    }

    /// Answers whether the delivery has the state now that the settlement says.
    pub(super) fn settle(&mut self, settlement: Settlement) -> bool {
        let (id, stage) = (settlement.id, settlement.stage);
        let fresh = || {
            let head = self.head(id.event_key)?;
            Some(lifecycle::fresh(&head, id.destination_id, settlement.guarantee))
        };
        let Some(mut delivery) = self.delivery(id).or_else(fresh) else { return false };
        let old = delivery.state.clone();
        let taken = lifecycle::settle(&mut delivery, settlement);
        if taken {
            self.count_for_replay(&mut delivery);
            self.place(&old, &delivery, stage != Stage::InMemory);
        } else if let DeliveryState::Waiting { due } = delivery.state {
            // A caller's cycle goes on counting where this attempt has ended.
            let entry = lifecycle::due_entry(&delivery, due);
            self.due.insert((id.destination_id, due, id.event_key), entry);
        }
        self.deliveries.insert((id.destination_id, id.event_key), delivery);
        taken
    }

    /// Moves the delivery between the orders of waiting ones.
    pub(super) fn place(&mut self, old: &DeliveryState, new: &Delivery, durable: bool) {
        let DeliveryId { destination_id, event_key } = new.id;
        self.changes.publish([slim(new)]);
        self.fresh.remove(&(destination_id, event_key));
        if let DeliveryState::Waiting { due } = old {
            self.due.remove(&(destination_id, *due, event_key));
        }
        if let (DeliveryState::Waiting { due }, true) = (&new.state, durable) {
            self.due.insert((destination_id, *due, event_key), lifecycle::due_entry(new, *due));
        }
    }

    pub(super) fn requeue(&mut self, id: DeliveryId, cause: CycleCause, now: Timestamp) -> Option<DueEntry> {
        let delivery = self.delivery(id)?;
        self.events.get(&id.event_key).filter(|event| event.erased_at.is_none())?;
        Some(self.begin(delivery, cause, now))
    }

    /// Begins a new cycle of attempts, due now.
    pub(super) fn begin(&mut self, mut delivery: Delivery, cause: CycleCause, now: Timestamp) -> DueEntry {
        let (id, old) = (delivery.id, delivery.state.clone());
        let entry = lifecycle::requeue(&mut delivery, cause, now);
        self.place(&old, &delivery, true);
        self.deliveries.insert((id.destination_id, id.event_key), delivery);
        entry
    }

    pub(super) fn end(
        &mut self,
        id: DeliveryId,
        from: StateKind,
        into: &DeliveryState,
    ) -> Option<DeliveryId> {
        let mut delivery = self.delivery(id).filter(|delivery| delivery.state.kind() == from)?;
        let old = std::mem::replace(&mut delivery.state, into.clone());
        self.count_for_replay(&mut delivery);
        self.place(&old, &delivery, true);
        self.deliveries.insert((id.destination_id, id.event_key), delivery);
        Some(id)
    }
}

/// Compares with an event whose id was made from its key, for which no digest is kept.
fn compare(first: &Arc<Event>, again: &NewEvent) -> Acceptance {
    let same = first.event_type == again.event_type
        && first.level == again.level
        && first.data == again.data
        && first.occurred_at == again.occurred_at.unwrap_or(first.accepted_at);
    if same { Acceptance::Duplicate(Arc::clone(first)) } else { Acceptance::Conflict }
}

//! Removing: what is too old, the data of an event, and all that is an organization's.
//!
//! Readers look for what may go, in steps of a bounded number of rows; the writer looks again and removes
//! it, so that what was requeued in between stays. Removals ride on other commits: a crash brings them back,
//! and the next pass removes them again.

use std::ops::Bound::{Excluded, Included};

use super::accept::load;
use super::group::{Effect, Group};
use super::keys::{self, DEAD, DELIVERY, FRESH, REPLAY};
use super::reader::Reader;
use super::settle::{Order, place, stored};
use super::unavailable;
use super::writer::Writer;
use crate::domain::delivery::{DeliveryState, EndReason};
use crate::domain::event::Event;
use crate::domain::id::{DeliveryId, DestinationId, EventKey, OrganizationId};
use crate::domain::settings::Guarantee;
use crate::domain::time::Timestamp;
use crate::store::StoreError;
use crate::store::record::{
    Idempotency, decode_delivery, decode_event, decode_head, decode_idempotency, encode_delivery,
    encode_event, encode_idempotency,
};
use crate::store::retention::{
    Cuts, EraseFrom, ErasedEvent, SweepFrom, Swept, Trace, forget_answers, is_over, without_data,
};

/// How many rows one step looks at.
const ROWS_LOOKED_AT: usize = 1000;

/// What a step of sweeping found.
pub(super) struct Found {
    pub(super) expired: Vec<DeliveryId>,
    pub(super) events: Vec<EventKey>,
    pub(super) next: Option<SweepFrom>,
}

/// What a step of erasing found.
pub(super) struct Doomed {
    pub(super) events: Vec<EventKey>,
    pub(super) deliveries: Vec<DeliveryId>,
    pub(super) keys: Vec<Vec<u8>>,
    pub(super) next: Option<EraseFrom>,
}

impl Reader {
    pub(super) fn sweepable(&self, cuts: &Cuts, from: SweepFrom, budget: usize) -> Result<Found, StoreError> {
        match from {
            SweepFrom::DeadLetters(after) => self.expired(cuts, after, budget),
            SweepFrom::Events(after) => self.outlived(cuts, after, budget),
        }
    }

    fn expired(&self, cuts: &Cuts, after: Option<DeliveryId>, budget: usize) -> Result<Found, StoreError> {
        let start = after.map_or(Included(vec![DEAD]), |id| Excluded(keys::by_destination(DEAD, id)));
        let mut found = Found { expired: Vec::new(), events: Vec::new(), next: None };
        let rows = self.db.range::<Vec<u8>, _>((start, Excluded(vec![DEAD + 1]))).keys();
        for (position, key) in rows.enumerate() {
            let key = key.map_err(|error| unavailable(&error))?;
            let (Some(event_key), Some(owner)) = (keys::event_of(&key), keys::owner_of(&key)) else {
                continue;
            };
            let id = DeliveryId::new(event_key, owner);
            let state = self.recorded(id)?.map(|delivery| delivery.state);
            if matches!(state, Some(DeliveryState::DeadLettered { at, .. }) if at <= cuts.dead_letters) {
                found.expired.push(id);
            }
            if found.expired.len() >= budget || position + 1 >= ROWS_LOOKED_AT {
                found.next = Some(SweepFrom::DeadLetters(Some(id)));
                return Ok(found);
            }
        }
        found.next = Some(SweepFrom::Events(None));
        Ok(found)
    }

    fn outlived(&self, cuts: &Cuts, after: Option<EventKey>, budget: usize) -> Result<Found, StoreError> {
        let start = after.map_or(Included(keys::event(EventKey::MIN)), |key| Excluded(keys::event(key)));
        let end = Timestamp::from_millis(cuts.latest().as_millis().saturating_add(1));
        let end = Excluded(keys::event(EventKey::lower_bound(end)));
        let mut found = Found { expired: Vec::new(), events: Vec::new(), next: None };
        if let (Excluded(start), Excluded(end)) = (&start, &end)
            && start >= end
        {
            return Ok(found);
        }
        for (position, row) in self.db.range::<Vec<u8>, _>((start, end)).enumerate() {
            let (key, stored) = row.map_err(|error| unavailable(&error))?;
            let Some(key) = keys::event_of(&key) else { continue };
            match decode_event(key, &stored, |number| self.get(&keys::chunk(key, number))) {
                Ok(event) if is_over(&event, cuts, |id, guarantee| self.trace(id, guarantee))? => {
                    found.events.push(key);
                }
                Err(error @ StoreError::Unavailable(_)) => return Err(error),
                // What is damaged stays, for whoever looks into it.
                Ok(_) | Err(_) => {}
            }
            if found.events.len() >= budget || position + 1 >= ROWS_LOOKED_AT {
                found.next = Some(SweepFrom::Events(Some(key)));
                return Ok(found);
            }
        }
        Ok(found)
    }

    fn trace(&self, id: DeliveryId, guarantee: Guarantee) -> Result<Trace, StoreError> {
        let recorded = self.recorded(id)?;
        let fresh = self.get(&keys::by_destination(FRESH, id))?.is_some();
        let busy = || self.shared.may_hold(id.destination_id);
        Ok(match recorded {
            Some(delivery) if delivery.state.is_finished() => Trace::Recorded(Box::new(delivery)),
            Some(_) | None if guarantee == Guarantee::BestEffort && busy() => Trace::InMemory,
            Some(_) if guarantee == Guarantee::BestEffort => Trace::Absent,
            Some(delivery) => Trace::Recorded(Box::new(delivery)),
            None if fresh => Trace::Fresh,
            None => Trace::Absent,
        })
    }

    /// Goes through events, then deliveries, then ids of events.
    pub(super) fn doomed(
        &self,
        organization_id: &OrganizationId,
        from: Option<EraseFrom>,
        budget: usize,
    ) -> Result<Doomed, StoreError> {
        let mut doomed = Doomed { events: Vec::new(), deliveries: Vec::new(), keys: Vec::new(), next: None };
        let start = from.map_or_else(|| keys::EVENTS.to_vec(), |EraseFrom(start)| start);
        let table = start.first().copied().unwrap_or_default();
        let notes = keys::idempotency_of(organization_id);
        let rows = match table {
            b'I' => self.db.scan_prefix(&notes),
            REPLAY => self.db.scan_prefix(keys::replays_of(organization_id)),
            _ => self.db.range(start..vec![table + 1]),
        };
        for (position, row) in rows.enumerate() {
            let (key, stored) = row.map_err(|error| unavailable(&error))?;
            self.doom(&mut doomed, organization_id, &key, &stored);
            let found = doomed.events.len() + doomed.deliveries.len() + doomed.keys.len();
            if found >= budget || position + 1 >= ROWS_LOOKED_AT {
                // Right behind this key.
                doomed.next = Some(EraseFrom([&key, [0].as_slice()].concat()));
                return Ok(doomed);
            }
        }
        doomed.next = match table {
            b'E' => Some(EraseFrom(vec![DELIVERY])),
            DELIVERY => Some(EraseFrom(vec![b'I'])),
            b'I' => Some(EraseFrom(vec![REPLAY])),
            _ => None,
        };
        Ok(doomed)
    }

    fn doom(&self, doomed: &mut Doomed, organization_id: &OrganizationId, key: &[u8], stored: &[u8]) {
        let event_key = keys::event_of(key).unwrap_or(EventKey::MIN);
        match key.first() {
            Some(b'E') => {
                if decode_head(event_key, stored).is_ok_and(|head| head.organization_id == *organization_id) {
                    doomed.events.push(event_key);
                }
            }
            Some(&DELIVERY) => {
                let Some(owner) = keys::owner_of(key) else { return };
                let id = DeliveryId::new(event_key, owner);
                if decode_delivery(id, key, stored).is_ok_and(|one| one.organization_id == *organization_id) {
                    doomed.deliveries.push(id);
                }
            }
            Some(&REPLAY) => {
                doomed.keys.push(key.to_vec());
                let Some(id) = keys::replay_id_of(key) else { return };
                doomed.keys.push(keys::running_replay(id));
                doomed
                    .keys
                    .extend(self.db.scan_prefix(keys::replay(id)).keys().flatten().map(|key| key.to_vec()));
            }
            _ => doomed.keys.push(key.to_vec()),
        }
    }
}

impl Writer {
    pub(super) fn sweep(
        &mut self,
        group: &mut Group,
        cuts: &Cuts,
        found: &Found,
    ) -> Result<Swept, StoreError> {
        let into = DeliveryState::Discarded { at: cuts.now, reason: EndReason::DeadLetterExpired };
        let change = (crate::domain::delivery::StateKind::DeadLettered, into);
        let expired = self.end(group, &found.expired, change)?.len();
        let mut removed = 0;
        for key in &found.events {
            let Some(event) = load(group, *key)? else { continue };
            let trace = |id, guarantee| self.trace(group, id, guarantee);
            if is_over(&event, cuts, trace)? {
                self.remove_event(group, &event)?;
                removed += 1;
            }
        }
        Ok(Swept { expired, removed, next: found.next })
    }

    fn trace(&self, group: &Group, id: DeliveryId, guarantee: Guarantee) -> Result<Trace, StoreError> {
        if group.contains(&keys::by_destination(FRESH, id))? {
            return Ok(Trace::Fresh);
        }
        Ok(match stored(group, id)? {
            Some(delivery) if guarantee == Guarantee::AtLeastOnce || delivery.state.is_finished() => {
                Trace::Recorded(Box::new(delivery))
            }
            _ if guarantee == Guarantee::BestEffort && self.shared.may_hold(id.destination_id) => {
                Trace::InMemory
            }
            _ => Trace::Absent,
        })
    }

    /// Removes an event, its data, its deliveries, and its id.
    fn remove_event(&mut self, group: &mut Group, event: &Event) -> Result<(), StoreError> {
        let key = event.key;
        group.remove(keys::event(key));
        remove_chunks(group, key, 0)?;
        for route in &event.routes {
            let id = DeliveryId::new(key, route.destination_id);
            remove_delivery(group, id)?;
            group.remove_if_present(keys::by_destination(FRESH, id))?;
        }
        let note_key = keys::idempotency(&event.organization_id, &event.id);
        if let Some(note) = group.get(&note_key)?
            && decode_idempotency(&note_key, &note).is_ok_and(|note| note.event_key == key)
        {
            group.remove(note_key);
        }
        self.heads.remove(key);
        Ok(())
    }

    pub(super) fn erase_event(
        &mut self,
        group: &mut Group,
        key: EventKey,
        now: Timestamp,
    ) -> Result<Option<ErasedEvent>, StoreError> {
        let Some(event) = load(group, key)? else { return Ok(None) };
        if let Some(at) = event.erased_at {
            return Ok(Some(ErasedEvent { at, ended: Vec::new() }));
        }
        let erased = encode_event(&without_data(&event, now));
        let mut next = 0_u16;
        group.put(keys::event(key), erased.record);
        for chunk in erased.chunks {
            group.put(keys::chunk(key, next), chunk);
            next = next.saturating_add(1);
        }
        remove_chunks(group, key, next)?;
        let note_key = keys::idempotency(&event.organization_id, &event.id);
        if group.contains(&note_key)? {
            // A digest of the data would let the data be guessed.
            group.put(note_key, encode_idempotency(&Idempotency { event_key: key, digest: [0; 16] }));
        }
        let mut ended = Vec::new();
        for route in &event.routes {
            let id = DeliveryId::new(key, route.destination_id);
            let Some((mut delivery, order)) = self.present(group, id)? else { continue };
            forget_answers(&mut delivery);
            if delivery.state.is_finished() {
                group.put(keys::by_destination(DELIVERY, id), encode_delivery(&delivery));
            } else {
                delivery.state = DeliveryState::Discarded { at: now, reason: EndReason::EventGone };
                place(group, order, &delivery, true)?;
                ended.push(id);
            }
        }
        if !ended.is_empty() {
            group.effect(Effect::Ended(ended.clone()));
        }
        Ok(Some(ErasedEvent { at: now, ended }))
    }

    /// Marks an organization as being erased and takes its destinations away, in one step.
    pub(super) fn begin_erasure(
        &mut self,
        group: &mut Group,
        id: &OrganizationId,
        expected: Option<u64>,
    ) -> Result<Vec<DestinationId>, StoreError> {
        if self.erasing.contains(id) {
            return Ok(Vec::new());
        }
        let present = self.organizations.get(id).ok_or(StoreError::NotFound)?;
        super::config::next_revision(present.revision, expected)?;
        group.put(keys::erasure(id), Vec::new());
        super::config::put_chunks(group, &keys::organization(id), Vec::new())?;
        let destinations = self.destinations.values().filter(|one| one.organization_id == *id);
        let destinations: Vec<DestinationId> = destinations.map(|one| one.id).collect();
        for destination_id in &destinations {
            self.delete_destination(group, *destination_id, None)?;
        }
        self.organizations.remove(id);
        self.erasing.insert(id.clone());
        group.effect(Effect::ErasureBegun(id.clone()));
        Ok(destinations)
    }

    pub(super) fn erase_rows(
        &mut self,
        group: &mut Group,
        id: &OrganizationId,
        doomed: Doomed,
    ) -> Result<Option<EraseFrom>, StoreError> {
        for key in doomed.events {
            if let Some(event) = load(group, key)? {
                self.remove_event(group, &event)?;
            }
        }
        for delivery_id in doomed.deliveries {
            remove_delivery(group, delivery_id)?;
        }
        for key in doomed.keys {
            group.remove(key);
        }
        if doomed.next.is_none() {
            group.remove(keys::erasure(id));
            self.erasing.remove(id);
            group.effect(Effect::ErasureEnded(id.clone()));
        }
        Ok(doomed.next)
    }

    /// Whether an event can be sent again.
    pub(super) fn is_sendable(group: &Group, key: EventKey) -> Result<bool, StoreError> {
        let Some(stored) = group.get(&keys::event(key))? else { return Ok(false) };
        Ok(!crate::store::record::is_erased(key, &stored)?)
    }
}

fn remove_delivery(group: &mut Group, id: DeliveryId) -> Result<(), StoreError> {
    // A damaged record goes like any other; its places in the orders are then skipped by those who read.
    if let Ok(Some(delivery)) = stored(group, id) {
        match Order::of(&delivery.state) {
            Order::Due(due) => group.remove_if_present(keys::due(id, due))?,
            Order::Dead => group.remove(keys::by_destination(DEAD, id)),
            Order::Fresh | Order::Unlisted => {}
        }
    }
    group.remove_if_present(keys::by_destination(DELIVERY, id))
}

fn remove_chunks(group: &mut Group, key: EventKey, from: u16) -> Result<(), StoreError> {
    let mut number = from;
    while group.contains(&keys::chunk(key, number))? {
        group.remove(keys::chunk(key, number));
        number = number.saturating_add(1);
    }
    Ok(())
}

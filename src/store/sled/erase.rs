//! Erasing: the data of an event, and all that is an organization's, in steps.

use super::accept::load;
use super::group::{Effect, Group};
use super::keys::{self, DELIVERY, REPLAY};
use super::reader::Reader;
use super::retention::{ROWS_LOOKED_AT, remove_chunks, remove_delivery};
use super::settle::place;
use super::unavailable;
use super::writer::Writer;
use crate::domain::delivery::{DeliveryState, EndReason};
use crate::domain::id::{DeliveryId, DestinationId, EventKey, OrganizationId};
use crate::domain::time::Timestamp;
use crate::store::StoreError;
use crate::store::record::{
    Idempotency, decode_delivery, decode_head, encode_delivery, encode_event, encode_idempotency,
};
use crate::store::retention::{EraseFrom, ErasedEvent, forget_answers, without_data};

/// What a step of erasing found.
pub(super) struct Doomed {
    pub(super) events: Vec<EventKey>,
    pub(super) deliveries: Vec<DeliveryId>,
    pub(super) keys: Vec<Vec<u8>>,
    pub(super) next: Option<EraseFrom>,
}

impl Reader {
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

//! Removing what is too old, and what is one too many.
//!
//! Readers look for what may go, in steps of a bounded number of rows; the writer looks again and removes
//! it, so that what was requeued in between stays. Removals ride on other commits: a crash brings them back,
//! and the next pass removes them again.

use std::ops::Bound::{Excluded, Included};

use super::accept::load;
use super::config::put_chunks;
use super::group::{Effect, Group};
use super::keys::{self, DEAD, DELIVERY, FRESH};
use super::reader::Reader;
use super::settle::{Order, stored};
use super::writer::Writer;
use super::{replay, unavailable};
use crate::domain::delivery::{DeliveryState, EndReason, StateKind};
use crate::domain::event::Event;
use crate::domain::id::{DeliveryId, EventKey, ReplayId};
use crate::domain::settings::Guarantee;
use crate::domain::time::Timestamp;
use crate::store::StoreError;
use crate::store::record::{decode_event, decode_idempotency};
use crate::store::retention::{
    Cuts, Expiring, Remains, RemovedEarly, SweepFrom, Swept, Trace, expiring, is_replay_over, remains_of,
};

/// How many rows one step looks at.
pub(super) const ROWS_LOOKED_AT: usize = 1000;

/// What a step of sweeping found.
#[derive(Default)]
pub(super) struct Found {
    pub(super) expired: Vec<DeliveryId>,
    pub(super) expiring: Vec<Expiring>,
    pub(super) events: Vec<EventKey>,
    pub(super) replays: Vec<ReplayId>,
    pub(super) next: Option<SweepFrom>,
}

impl Found {
    /// Whether there is nothing to write.
    pub(super) fn is_empty(&self) -> bool {
        self.expired.is_empty() && self.events.is_empty() && self.replays.is_empty()
    }
}

impl Reader {
    pub(super) fn sweepable(&self, cuts: &Cuts, from: SweepFrom, budget: usize) -> Result<Found, StoreError> {
        match from {
            SweepFrom::DeadLetters(after) => self.expired(cuts, after, budget),
            SweepFrom::Events(after) => self.outlived(cuts, after, budget),
            SweepFrom::Replays(after) => self.ended_replays(cuts, after, budget),
        }
    }

    fn expired(&self, cuts: &Cuts, after: Option<DeliveryId>, budget: usize) -> Result<Found, StoreError> {
        let start = after.map_or(Included(vec![DEAD]), |id| Excluded(keys::by_destination(DEAD, id)));
        let mut found = Found::default();
        let rows = self.db.range::<Vec<u8>, _>((start, Excluded(vec![DEAD + 1]))).keys();
        for (position, key) in rows.enumerate() {
            let key = key.map_err(|error| unavailable(&error))?;
            let (Some(event_key), Some(owner)) = (keys::event_of(&key), keys::owner_of(&key)) else {
                continue;
            };
            let id = DeliveryId::new(event_key, owner);
            let delivery = match self.recorded(id) {
                // What is damaged stays, for whoever looks into it.
                Err(StoreError::Corrupt(_)) => None,
                read => read?,
            };
            if let Some(delivery) = delivery {
                found.expiring.extend(expiring(&delivery, cuts));
                let DeliveryState::DeadLettered { at, .. } = delivery.state else { continue };
                found.expired.extend((at <= cuts.dead_letters).then_some(id));
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
        let mut found = Found { next: Some(SweepFrom::Replays(None)), ..Found::default() };
        if let (Excluded(start), Excluded(end)) = (&start, &end)
            && start >= end
        {
            return Ok(found);
        }
        for (position, row) in self.db.range::<Vec<u8>, _>((start, end)).enumerate() {
            let (key, stored) = row.map_err(|error| unavailable(&error))?;
            let Some(key) = keys::event_of(&key) else { continue };
            match decode_event(key, &stored, |number| self.get(&keys::chunk(key, number))) {
                Ok(event) => match remains_of(&event, cuts, |id, guarantee| self.trace(id, guarantee)) {
                    Ok(remains) => found.events.extend(remains.map(|_| key)),
                    Err(error @ StoreError::Unavailable(_)) => return Err(error),
                    Err(_) => {}
                },
                Err(error @ StoreError::Unavailable(_)) => return Err(error),
                // What is damaged stays, for whoever looks into it.
                Err(_) => {}
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
        let fresh = self.is_fresh(id)?;
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

    fn ended_replays(
        &self,
        cuts: &Cuts,
        after: Option<ReplayId>,
        budget: usize,
    ) -> Result<Found, StoreError> {
        let past = |id| [keys::replay(id).as_slice(), &[u8::MAX; 2]].concat();
        let start = after.map_or(Included(keys::REPLAYS.to_vec()), |id| Excluded(past(id)));
        let mut found = Found::default();
        let mut last = None;
        let rows = self.db.range::<Vec<u8>, _>((start, Excluded(keys::ALL_REPLAYS_END.to_vec()))).keys();
        for (position, key) in rows.enumerate() {
            let key = key.map_err(|error| unavailable(&error))?;
            let Some(id) = keys::replay_of_chunk(&key).filter(|id| Some(*id) != last) else { continue };
            if found.replays.len() >= budget || position >= ROWS_LOOKED_AT {
                found.next = Some(SweepFrom::Replays(last));
                return Ok(found);
            }
            last = Some(id);
            match self.replay(id) {
                Ok(replay) => found
                    .replays
                    .extend(replay.filter(|replay| is_replay_over(replay, cuts)).map(|replay| replay.id)),
                Err(StoreError::Corrupt(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }
}

impl Writer {
    pub(super) fn sweep(
        &mut self,
        group: &mut Group,
        cuts: &Cuts,
        found: Found,
    ) -> Result<Swept, StoreError> {
        let mut expired = self.expire(group, &found.expired, cuts)?;
        let mut removed = 0;
        for key in &found.events {
            let Some(event) = load(group, *key)? else { continue };
            let Some(remains) = remains_of(&event, cuts, |id, guarantee| self.trace(group, id, guarantee))?
            else {
                continue;
            };
            expired += self.expire(group, &remains.dead_letters, cuts)?;
            if cuts.early {
                self.note_early(group, &event, &remains);
            }
            self.remove_event(group, &event)?;
            removed += 1;
        }
        let mut replays = 0;
        for id in &found.replays {
            replays += usize::from(Self::remove_replay(group, *id, cuts)?);
        }
        Ok(Swept { expired, expiring: found.expiring, removed, replays, next: found.next })
    }

    fn expire(&mut self, group: &mut Group, ids: &[DeliveryId], cuts: &Cuts) -> Result<usize, StoreError> {
        let into = DeliveryState::Discarded { at: cuts.now, reason: EndReason::DeadLetterExpired };
        Ok(self.end(group, ids, (StateKind::DeadLettered, into))?.len())
    }

    /// Notes how far early removal has come, with the removal itself.
    fn note_early(&mut self, group: &mut Group, event: &Event, remains: &Remains) {
        let early = remains.removed_early(event).and(self.removed_early);
        if self.removed_early != Some(early) {
            self.removed_early = Some(early);
            group.put(keys::EARLY_KEY.to_vec(), encode_early(early));
            group.effect(Effect::RemovedEarly(early));
        }
    }

    fn remove_replay(group: &mut Group, id: ReplayId, cuts: &Cuts) -> Result<bool, StoreError> {
        let Some(replay) = replay::stored(group, id)?.filter(|replay| is_replay_over(replay, cuts)) else {
            return Ok(false);
        };
        group.remove(keys::replay_of(&replay.organization_id, id));
        put_chunks(group, &keys::replay(id), Vec::new())?;
        Ok(true)
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
    pub(super) fn remove_event(&mut self, group: &mut Group, event: &Event) -> Result<(), StoreError> {
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
}

pub(super) fn remove_delivery(group: &mut Group, id: DeliveryId) -> Result<(), StoreError> {
    // A damaged record goes like any other; its places in the orders are then skipped by those who read.
    if let Ok(Some(delivery)) = stored(group, id) {
        match Order::of(&delivery.state) {
            Order::Due(due) => {
                group.remove_if_present(keys::due(id, due))?;
                group.remove_if_present(keys::held(group.opening, id))?;
            }
            Order::Dead => group.remove(keys::by_destination(DEAD, id)),
            Order::Fresh | Order::Unlisted => {}
        }
    }
    group.remove_if_present(keys::by_destination(DELIVERY, id))
}

pub(super) fn remove_chunks(group: &mut Group, key: EventKey, from: u16) -> Result<(), StoreError> {
    let mut number = from;
    while group.contains(&keys::chunk(key, number))? {
        group.remove(keys::chunk(key, number));
        number = number.saturating_add(1);
    }
    Ok(())
}

/// The stored form of how far early removal has come.
fn encode_early(early: RemovedEarly) -> Vec<u8> {
    [early.accepted, early.changed].iter().flat_map(|moment| moment.as_millis().to_be_bytes()).collect()
}

/// How far early removal has come, out of its stored form.
pub(super) fn decode_early(stored: &[u8]) -> Option<RemovedEarly> {
    let (parts, _) = stored.as_chunks::<8>();
    let mut moments = parts.iter().map(|part| Timestamp::from_millis(i64::from_be_bytes(*part)));
    Some(RemovedEarly { accepted: moments.next()?, changed: moments.next()? })
}

//! Removing from the store in memory.

use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

use async_trait::async_trait;

use super::MemoryStore;
use super::config::next_revision;
use super::tables::{Digest, Tables};
use crate::domain::delivery::{Delivery, DeliveryState, EndReason, StateKind};
use crate::domain::event::Event;
use crate::domain::id::{DeliveryId, DestinationId, EventKey, OrganizationId};
use crate::domain::settings::Guarantee;
use crate::domain::time::Timestamp;
use crate::store::directory::Directory;
use crate::store::retention::{
    Cuts, EraseFrom, ErasedEvent, Expiring, SweepFrom, Swept, Trace, expiring, forget_answers,
    is_replay_over, remains_of, without_data,
};
use crate::store::{RetentionStore, StoreError};

/// What a row is taken to cost besides the data of an event.
const ROW_BYTES: usize = 100;

#[async_trait]
impl RetentionStore for MemoryStore {
    async fn sweep(&self, cuts: Arc<Cuts>, from: SweepFrom, budget: usize) -> Result<Swept, StoreError> {
        let mut tables = self.lock();
        match from {
            SweepFrom::DeadLetters(after) => {
                let expiring = if after.is_none() { tables.expiring(&cuts) } else { Vec::new() };
                let (expired, next) = tables.expire(&cuts, after, budget);
                if !expired.is_empty() {
                    self.tell(|listener| listener.ended(&expired));
                }
                Ok(Swept { expired: expired.len(), expiring, next: Some(next), ..Swept::default() })
            }
            SweepFrom::Events(after) => {
                let (swept, expired) = tables.outlive(&cuts, after, budget, &self.directory)?;
                if !expired.is_empty() {
                    self.tell(|listener| listener.ended(&expired));
                }
                Ok(swept)
            }
            SweepFrom::Replays(_) => {
                let before = tables.replays.len();
                tables.replays.retain(|_, replay| !is_replay_over(replay, &cuts));
                Ok(Swept { replays: before - tables.replays.len(), ..Swept::default() })
            }
        }
    }

    async fn erase_event(&self, key: EventKey, now: Timestamp) -> Result<Option<ErasedEvent>, StoreError> {
        let mut tables = self.lock();
        let before = tables.events.get(&key).and_then(|event| event.erased_at);
        let erased = tables.erase_event(key, now);
        if erased.is_some() && before.is_none() {
            self.ride(&mut tables, 1);
        }
        if let Some(ErasedEvent { ended, .. }) = erased.as_ref().filter(|erased| !erased.ended.is_empty()) {
            self.tell(|listener| listener.ended(ended));
        }
        Ok(erased)
    }

    async fn begin_erasure(
        &self,
        organization_id: &OrganizationId,
        expected: Option<u64>,
    ) -> Result<Vec<DestinationId>, StoreError> {
        let mut tables = self.lock();
        if tables.erasing.contains(organization_id) {
            return Ok(Vec::new());
        }
        let present = self.directory.organization(organization_id).ok_or(StoreError::NotFound)?;
        next_revision(present.revision, expected)?;
        tables.erasing.insert(organization_id.clone());
        self.ride(&mut tables, 1);
        let destinations = self.directory.destinations(organization_id);
        let ids: Vec<DestinationId> = destinations.iter().map(|entry| entry.destination.id).collect();
        for id in &ids {
            self.directory.remove_destination(*id);
            self.tell(|listener| listener.destination_changed(*id));
        }
        self.directory.begin_erasure(organization_id.clone());
        Ok(ids)
    }

    async fn erase_step(
        &self,
        organization_id: &OrganizationId,
        _from: Option<EraseFrom>,
        budget: usize,
    ) -> Result<Option<EraseFrom>, StoreError> {
        let mut tables = self.lock();
        let mine = |event: &&Arc<Event>| event.organization_id == *organization_id;
        let doomed: Vec<_> = tables.events.values().filter(mine).take(budget).cloned().collect();
        for event in &doomed {
            tables.remove_event(event);
        }
        if doomed.len() == budget {
            return Ok(Some(EraseFrom(Vec::new())));
        }
        tables.deliveries.retain(|_, delivery| delivery.organization_id != *organization_id);
        tables.by_id.retain(|(organization, _), _| organization != organization_id);
        tables.erasing.remove(organization_id);
        self.directory.end_erasure(organization_id);
        Ok(None)
    }
}

impl Tables {
    fn expire(
        &mut self,
        cuts: &Cuts,
        after: Option<DeliveryId>,
        budget: usize,
    ) -> (Vec<DeliveryId>, SweepFrom) {
        let is_expired = |state: &DeliveryState| matches!(state, DeliveryState::DeadLettered { at, .. } if *at <= cuts.dead_letters);
        let start = after.map_or(Unbounded, |id| Excluded((id.destination_id, id.event_key)));
        let rows = self.deliveries.range((start, Unbounded));
        let ids: Vec<DeliveryId> = rows
            .filter(|(_, delivery)| is_expired(&delivery.state))
            .map(|(_, delivery)| delivery.id)
            .take(budget)
            .collect();
        let into = DeliveryState::Discarded { at: cuts.now, reason: EndReason::DeadLetterExpired };
        for id in &ids {
            self.end(*id, StateKind::DeadLettered, &into);
        }
        let last = ids.last().copied().filter(|_| ids.len() == budget);
        (ids, last.map_or(SweepFrom::Events(None), |last| SweepFrom::DeadLetters(Some(last))))
    }

    fn outlive(
        &mut self,
        cuts: &Cuts,
        after: Option<EventKey>,
        budget: usize,
        directory: &Directory,
    ) -> Result<(Swept, Vec<DeliveryId>), StoreError> {
        let start = after.map_or(Unbounded, Excluded);
        let mut doomed = Vec::new();
        for (_, event) in self.events.range((start, Unbounded)) {
            let remains = remains_of(event, cuts, |id, guarantee| Ok(self.trace(id, guarantee, directory)))?;
            doomed.extend(remains.map(|remains| (Arc::clone(event), remains)));
            if doomed.len() == budget {
                break;
            }
        }
        let into = DeliveryState::Discarded { at: cuts.now, reason: EndReason::DeadLetterExpired };
        let mut expired = Vec::new();
        for (event, remains) in &doomed {
            let letters = remains.dead_letters.iter();
            expired.extend(letters.filter_map(|id| self.end(*id, StateKind::DeadLettered, &into)));
            if cuts.early {
                self.removed_early = Some(remains.removed_early(event).and(self.removed_early));
            }
            self.remove_event(event);
        }
        let last = doomed.last().map(|(event, _)| event.key).filter(|_| doomed.len() == budget);
        let next = last.map_or(SweepFrom::Replays(None), |key| SweepFrom::Events(Some(key)));
        let (expired_count, removed) = (expired.len(), doomed.len());
        Ok((Swept { expired: expired_count, removed, next: Some(next), ..Swept::default() }, expired))
    }

    fn expiring(&self, cuts: &Cuts) -> Vec<Expiring> {
        self.deliveries.values().filter_map(|delivery| expiring(delivery, cuts)).collect()
    }

    pub(super) fn stored_bytes(&self) -> u64 {
        let event = |event: &Arc<Event>| event.data.as_bytes().len() + event.routes.len() * 17 + ROW_BYTES;
        let events: usize = self.events.values().map(event).sum();
        let rows = self.deliveries.len() + self.by_id.len();
        events.saturating_add(rows * ROW_BYTES) as u64
    }

    fn trace(&self, id: DeliveryId, guarantee: Guarantee, directory: &Directory) -> Trace {
        let key = (id.destination_id, id.event_key);
        let lane =
            directory.destination(id.destination_id).map(|entry| entry.status.lane()).unwrap_or_default();
        let busy = lane.waiting_in_memory > 0 || lane.in_flight > 0;
        match self.deliveries.get(&key) {
            Some(delivery) if delivery.state.is_finished() || guarantee == Guarantee::AtLeastOnce => {
                Trace::Recorded(Box::new(delivery.clone()))
            }
            _ if guarantee == Guarantee::BestEffort && busy => Trace::InMemory,
            None if self.fresh.contains_key(&key) => Trace::Fresh,
            _ => Trace::Absent,
        }
    }

    fn remove_event(&mut self, event: &Event) {
        self.events.remove(&event.key);
        for route in &event.routes {
            let key = (route.destination_id, event.key);
            self.fresh.remove(&key);
            if let Some(Delivery { state: DeliveryState::Waiting { due }, .. }) = self.deliveries.remove(&key)
            {
                self.due.remove(&(route.destination_id, due, event.key));
            }
        }
        let name = (event.organization_id.clone(), event.id.clone());
        if self.by_id.get(&name).is_some_and(|(key, _)| *key == event.key) {
            self.by_id.remove(&name);
        }
    }

    fn erase_event(&mut self, key: EventKey, now: Timestamp) -> Option<ErasedEvent> {
        let event = Arc::clone(self.events.get(&key)?);
        if let Some(at) = event.erased_at {
            return Some(ErasedEvent { at, ended: Vec::new() });
        }
        self.events.insert(key, Arc::new(without_data(&event, now)));
        if let Some((_, digest)) = self.by_id.get_mut(&(event.organization_id.clone(), event.id.clone())) {
            *digest = Digest::default();
        }
        let into = DeliveryState::Discarded { at: now, reason: EndReason::EventGone };
        let ids = event.routes.iter().map(|route| DeliveryId::new(key, route.destination_id));
        let ended = ids.filter_map(|id| {
            if let Some(delivery) = self.deliveries.get_mut(&(id.destination_id, key)) {
                forget_answers(delivery);
            }
            self.end(id, StateKind::Waiting, &into)
        });
        Some(ErasedEvent { at: now, ended: ended.collect() })
    }
}

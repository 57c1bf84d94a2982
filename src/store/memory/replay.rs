//! Replays in the store in memory.

use std::collections::BTreeSet;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

use async_trait::async_trait;

use super::MemoryStore;
use super::tables::Tables;
use crate::domain::delivery::{CycleCause, Delivery, StateKind};
use crate::domain::event::{Event, Route};
use crate::domain::id::{DeliveryId, DestinationId, ReplayId};
use crate::domain::replay::{Replay, ReplayKind, ReplayScope};
use crate::domain::settings::Guarantee;
use crate::domain::time::Timestamp;
use crate::store::replay::take_step;
use crate::store::{
    CoverPage, CoverQuery, DueEntry, ReplayPage, ReplayQuery, ReplayStep, ReplayStore, StoreError, lifecycle,
};

impl Tables {
    /// Tells the replay that put the delivery in its lane how it has ended, if it has.
    pub(super) fn count_for_replay(&mut self, delivery: &mut Delivery) {
        let success = delivery.state.kind() == StateKind::Succeeded;
        if let Some(id) = delivery.replay_id.take_if(|_| delivery.state.is_finished())
            && let Some(replay) = self.replays.get_mut(&id)
        {
            replay.ended(success);
        }
    }

    fn send(&mut self, replay: &Replay, id: DeliveryId, now: Timestamp) -> Option<DueEntry> {
        let head = self.head(id.event_key)?;
        self.events.get(&id.event_key).filter(|event| event.erased_at.is_none())?;
        let mut delivery = match self.delivery(id) {
            Some(delivery) if replay.scope.kind.takes(delivery.state.kind()) => delivery,
            None if replay.scope.kind == ReplayKind::Missed => {
                lifecycle::fresh(&head, id.destination_id, Guarantee::AtLeastOnce)
            }
            Some(_) | None => return None,
        };
        delivery.replay_id = Some(replay.id);
        if let Some(event) = self.events.get_mut(&id.event_key)
            && event.routes.iter().all(|route| route.destination_id != id.destination_id)
        {
            let route = Route { destination_id: id.destination_id, guarantee: Guarantee::AtLeastOnce };
            Arc::make_mut(event).routes.push(route);
        }
        Some(self.begin(delivery, CycleCause::Replay, now))
    }

    fn is_missed(&self, query: &CoverQuery, event: &Event, destination_id: DestinationId) -> bool {
        let fits = event.organization_id == query.organization_id
            && query.scope.has_moment(event.accepted_at)
            && query.scope.has_type(&event.event_type)
            && (query.wants)(&event.event_type, event.level);
        match self.delivery(DeliveryId::new(event.key, destination_id)) {
            Some(delivery) => fits && query.scope.covers(&delivery, query.by),
            None if !ReplayScope::makes_up_for(&event.event_type) => false,
            None => fits && event.routes.iter().all(|route| route.destination_id != destination_id),
        }
    }

    fn covered_by(&self, query: &CoverQuery) -> BTreeSet<DeliveryId> {
        let mut ids = BTreeSet::new();
        for destination_id in &query.destination_ids {
            for event in self.events.values() {
                let id = DeliveryId::new(event.key, *destination_id);
                let covered = match query.scope.kind {
                    ReplayKind::Missed => self.is_missed(query, event, *destination_id),
                    ReplayKind::DeadLetters | ReplayKind::Succeeded => {
                        let delivery = self.delivery(id);
                        let mine = delivery.filter(|one| one.organization_id == query.organization_id);
                        mine.is_some_and(|delivery| query.scope.covers(&delivery, query.by))
                    }
                };
                if covered {
                    ids.insert(id);
                }
            }
        }
        ids
    }
}

#[async_trait]
impl ReplayStore for MemoryStore {
    async fn create_replay(&self, replay: Replay) -> Result<Replay, StoreError> {
        let mut tables = self.lock();
        let mut running = tables.replays.values().filter(|other| other.state.is_running());
        let rival = running.find(|other| {
            other.organization_id == replay.organization_id && other.scope.overlaps(&replay.scope)
        });
        if let Some(rival) = rival {
            return Err(StoreError::ReplayRunning(rival.id));
        }
        tables.replays.insert(replay.id, replay.clone());
        self.ride(&mut tables, 1);
        self.tell(|listener| listener.replay_changed(replay.id));
        Ok(replay)
    }

    async fn replay(&self, id: ReplayId) -> Result<Option<Replay>, StoreError> {
        Ok(self.lock().replays.get(&id).cloned())
    }

    async fn replays(&self, query: ReplayQuery) -> Result<ReplayPage, StoreError> {
        let tables = self.lock();
        let end = query.after.map_or(Unbounded, Excluded);
        let fits = |replay: &&Replay| {
            replay.organization_id == query.organization_id
                && (query.states.is_empty() || query.states.contains(&replay.state.kind()))
        };
        let rows = tables.replays.range((Unbounded, end)).rev().map(|(_, replay)| replay).filter(fits);
        let mut rows: Vec<Replay> = rows.take(query.limit.saturating_add(1)).cloned().collect();
        let more = rows.len() > query.limit;
        rows.truncate(query.limit);
        let next = rows.last().map(|replay| replay.id).filter(|_| more);
        Ok(ReplayPage { rows, next })
    }

    async fn running_replays(&self) -> Result<Vec<Replay>, StoreError> {
        let tables = self.lock();
        Ok(tables.replays.values().filter(|replay| replay.state.is_running()).cloned().collect())
    }

    async fn step_replay(
        &self,
        id: ReplayId,
        step: ReplayStep,
        now: Timestamp,
    ) -> Result<Replay, StoreError> {
        let mut tables = self.lock();
        let mut replay = tables.replays.get(&id).cloned().ok_or(StoreError::NotFound)?;
        let send = |replay: &Replay, ids: &[DeliveryId]| {
            Ok(ids.iter().filter_map(|id| tables.send(replay, *id, now)).collect())
        };
        let Some(sent) = take_step(&mut replay, step, now, send)? else { return Ok(replay) };
        if !sent.is_empty() {
            self.tell(|listener| listener.requeued(&sent));
        }
        tables.replays.insert(id, replay.clone());
        Ok(replay)
    }

    async fn cancel_replay(&self, id: ReplayId, now: Timestamp) -> Result<Replay, StoreError> {
        let mut tables = self.lock();
        let replay = tables.replays.get_mut(&id).ok_or(StoreError::NotFound)?;
        let cancelled = replay.cancel(now);
        let replay = replay.clone();
        if cancelled {
            self.ride(&mut tables, 1);
            self.tell(|listener| listener.replay_changed(id));
        }
        Ok(replay)
    }

    async fn covered(&self, query: CoverQuery) -> Result<CoverPage, StoreError> {
        let mut ids = self.lock().covered_by(&query);
        ids.retain(|id| query.after.is_none_or(|after| *id > after));
        let more = ids.len() > query.limit;
        let ids: Vec<_> = ids.into_iter().take(query.limit).collect();
        let next = ids.last().copied().filter(|_| more);
        Ok(CoverPage { ids, next })
    }
}

//! Deliveries in the store in memory.

use std::collections::BTreeSet;
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::sync::Arc;

use async_trait::async_trait;

use super::MemoryStore;
use crate::domain::delivery::{CycleCause, Delivery, DeliveryState, StateKind};
use crate::domain::destination::DestinationHealth;
use crate::domain::event::Event;
use crate::domain::id::{DeliveryId, DestinationId, EventKey};
use crate::domain::time::Timestamp;
use crate::store::{
    Backlog, DeliveryPage, DeliveryQuery, DeliveryStore, DueEntry, EVENT_PAGE_BYTES, Page, Settlement,
    StoreError, lifecycle,
};

fn page<T>(mut rows: Vec<T>, limit: usize) -> Page<T> {
    let more = rows.len() > limit;
    rows.truncate(limit);
    Page { rows, more }
}

#[async_trait]
impl DeliveryStore for MemoryStore {
    async fn load_fresh(
        &self,
        destination_id: DestinationId,
        after: Option<EventKey>,
        limit: usize,
    ) -> Result<Page<Arc<Event>>, StoreError> {
        let tables = self.lock();
        let start =
            after.map_or(Included((destination_id, EventKey::MIN)), |key| Excluded((destination_id, key)));
        let keys = tables.fresh.range((start, Included((destination_id, EventKey::MAX))));
        let (mut rows, mut bytes) = (Vec::new(), 0);
        for event in keys.filter_map(|((_, key), ())| tables.events.get(key)) {
            if rows.len() == limit || bytes >= EVENT_PAGE_BYTES {
                return Ok(Page { rows, more: true });
            }
            bytes += event.data.as_bytes().len();
            rows.push(Arc::clone(event));
        }
        Ok(Page { rows, more: false })
    }

    async fn load_due(
        &self,
        destination_id: DestinationId,
        after: Option<(Timestamp, EventKey)>,
        limit: usize,
    ) -> Result<Page<DueEntry>, StoreError> {
        let tables = self.lock();
        let first = (destination_id, Timestamp::from_millis(i64::MIN), EventKey::MIN);
        let last = (destination_id, Timestamp::from_millis(i64::MAX), EventKey::MAX);
        let start = after.map_or(Included(first), |(due, key)| Excluded((destination_id, due, key)));
        let entries = tables.due.range((start, Included(last))).map(|(_, entry)| *entry);
        Ok(page(entries.take(limit.saturating_add(1)).collect(), limit))
    }

    async fn settle(
        &self,
        settlements: Vec<Settlement>,
        health: Vec<(DestinationId, DestinationHealth)>,
    ) -> Result<(), StoreError> {
        #[cfg(test)]
        self.faults.settle()?;
        let mut tables = self.lock();
        let changes = settlements.len() + health.len();
        for mut settlement in settlements {
            let told = settlement.told.take();
            if tables.settle(settlement) {
                self.accept_told(&mut tables, told.map(|event| *event));
            }
        }
        if changes > 0 {
            self.ride(&mut tables, changes);
        }
        // Health is only ever read back at open, which this store does not have.
        Ok(())
    }

    async fn delivery(&self, id: DeliveryId) -> Result<Option<Delivery>, StoreError> {
        Ok(self.lock().delivery(id))
    }

    async fn deliveries(&self, query: DeliveryQuery) -> Result<DeliveryPage, StoreError> {
        let tables = self.lock();
        let keys = tables.deliveries.keys().chain(tables.fresh.keys());
        let mut ids: Vec<_> = keys
            .filter(|(destination_id, _)| query.destination_ids.contains(destination_id))
            .map(|(destination_id, key)| (std::cmp::Reverse(*key), *destination_id))
            .collect();
        ids.sort_unstable();
        if let Some(after) = query.after {
            ids.retain(|id| *id > (std::cmp::Reverse(after.event_key), after.destination_id));
        }
        let rows = ids
            .into_iter()
            .filter_map(|(key, destination_id)| tables.delivery(DeliveryId::new(key.0, destination_id)));
        let rows = rows.filter(|delivery| lifecycle::fits(&query, delivery));
        let Page { rows, more } = page(rows.take(query.limit.saturating_add(1)).collect(), query.limit);
        let next = rows.last().map(|row: &Delivery| row.id).filter(|_| more);
        Ok(DeliveryPage { rows, next })
    }

    async fn requeue(
        &self,
        ids: Vec<DeliveryId>,
        cause: CycleCause,
        now: Timestamp,
    ) -> Result<Vec<DueEntry>, StoreError> {
        let mut tables = self.lock();
        let entries: Vec<_> =
            lifecycle::distinct(&ids).filter_map(|id| tables.requeue(id, cause, now)).collect();
        if !entries.is_empty() {
            self.ride(&mut tables, entries.len());
            self.tell(|listener| listener.requeued(&entries));
        }
        Ok(entries)
    }

    async fn end(
        &self,
        ids: Vec<DeliveryId>,
        from: StateKind,
        into: DeliveryState,
    ) -> Result<Vec<DeliveryId>, StoreError> {
        let mut tables = self.lock();
        let ended: Vec<_> = lifecycle::distinct(&ids).filter_map(|id| tables.end(id, from, &into)).collect();
        if !ended.is_empty() {
            self.ride(&mut tables, ended.len());
            self.tell(|listener| listener.ended(&ended));
        }
        Ok(ended)
    }

    async fn destinations_with_work(&self) -> Result<Vec<DestinationId>, StoreError> {
        let tables = self.lock();
        let fresh = tables.fresh.keys().map(|(id, _)| *id);
        let due = tables.due.keys().map(|(id, ..)| *id);
        Ok(fresh.chain(due).collect::<BTreeSet<_>>().into_iter().collect())
    }

    async fn backlog(&self, destination_id: DestinationId, cap: usize) -> Result<Backlog, StoreError> {
        let tables = self.lock();
        let fresh = (destination_id, EventKey::MIN)..=(destination_id, EventKey::MAX);
        let oldest = tables.fresh.range(fresh.clone()).next();
        let oldest = oldest.and_then(|((_, key), ())| Some(tables.events.get(key)?.accepted_at));
        let due = tables
            .due
            .range((Excluded((destination_id, Timestamp::from_millis(i64::MIN), EventKey::MIN)), Unbounded));
        let due = due.take_while(|((id, ..), _)| *id == destination_id).count();
        let count = tables.fresh.range(fresh).count() + due;
        let all = (destination_id, EventKey::MIN)..=(destination_id, EventKey::MAX);
        let is_dead = |delivery: &&Delivery| delivery.state.kind() == StateKind::DeadLettered;
        let dead_letters = tables.deliveries.range(all).map(|(_, delivery)| delivery).filter(is_dead).count();
        Ok(Backlog {
            count: count.min(cap),
            capped: count > cap,
            oldest,
            dead_letters: dead_letters.min(cap),
        })
    }

    async fn ahead(&self, id: DeliveryId, due: Option<Timestamp>, cap: usize) -> Result<usize, StoreError> {
        let tables = self.lock();
        let DeliveryId { destination_id, event_key } = id;
        let first = Timestamp::from_millis(i64::MIN);
        let count = match due {
            None => tables.fresh.range((destination_id, EventKey::MIN)..(destination_id, event_key)).count(),
            Some(due) => {
                let start = (destination_id, first, EventKey::MIN);
                tables.due.range(start..(destination_id, due, event_key)).count()
            }
        };
        Ok(count.min(cap))
    }
}

//! Reads. They run on blocking threads, because every sled call may wait for a batch that is applied.

use std::fs::File;
use std::ops::Bound::{Excluded, Included};
use std::sync::Arc;

use sled::{Db, IVec};

use super::keys::{self, DEAD, DELIVERY};
use super::{Shared, unavailable};
use crate::domain::delivery::Delivery;
use crate::domain::event::Event;
use crate::domain::id::{DeliveryId, DestinationId, EventId, EventKey, OrganizationId};
use crate::domain::settings::Guarantee;
use crate::domain::time::Timestamp;
use crate::store::record::{
    EventHead, Place, decode_delivery, decode_due, decode_event, decode_head, decode_idempotency,
};
use crate::store::{Backlog, DueEntry, Page, StoreError, lifecycle};

/// What reading needs.
pub(super) struct Reader {
    pub(super) db: Db,
    pub(super) shared: Arc<Shared>,
    /// Held while any read may be under way.
    pub(super) _lock: Arc<File>,
}

impl Reader {
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<IVec>, StoreError> {
        self.db.get(key).map_err(|error| unavailable(&error))
    }

    pub(super) fn event(&self, key: EventKey) -> Result<Option<Arc<Event>>, StoreError> {
        let Some(stored) = self.get(&keys::event(key))? else { return Ok(None) };
        let event = decode_event(key, &stored, |number| self.get(&keys::chunk(key, number)))?;
        Ok(Some(Arc::new(event)))
    }

    /// The event, unless it is gone or damaged: one damaged record must not hold up all that wait behind it.
    pub(super) fn readable(&self, key: EventKey) -> Result<Option<Arc<Event>>, StoreError> {
        match self.event(key) {
            Err(StoreError::Corrupt(problem)) => {
                tracing::error!(event.key = %key, problem, "a damaged event is passed over");
                Ok(None)
            }
            read => read,
        }
    }

    pub(super) fn head(&self, key: EventKey) -> Result<Option<EventHead>, StoreError> {
        self.get(&keys::event(key))?.map(|stored| decode_head(key, &stored)).transpose()
    }

    pub(super) fn find_event(
        &self,
        organization_id: &OrganizationId,
        event_id: &EventId,
    ) -> Result<Option<Arc<Event>>, StoreError> {
        let note_key = keys::idempotency(organization_id, event_id);
        let key = match self.get(&note_key)? {
            Some(stored) => Some(decode_idempotency(&note_key, &stored)?.event_key),
            None => event_id.as_key(),
        };
        let Some(key) = key else { return Ok(None) };
        let event = self.event(key)?;
        Ok(event.filter(|event| event.organization_id == *organization_id && event.id == *event_id))
    }

    pub(super) fn due(
        &self,
        destination_id: DestinationId,
        after: Option<(Timestamp, EventKey)>,
        limit: usize,
    ) -> Result<Page<DueEntry>, StoreError> {
        let at = |(due, key)| keys::due(DeliveryId::new(key, destination_id), due);
        let first = (Timestamp::from_millis(i64::MIN), EventKey::MIN);
        let last = (Timestamp::from_millis(i64::MAX), EventKey::MAX);
        let start = after.map_or(Included(at(first)), |after| Excluded(at(after)));
        let mut rows = Vec::new();
        for row in self.db.range::<Vec<u8>, _>((start, Included(at(last)))) {
            let (key, stored) = row.map_err(|error| unavailable(&error))?;
            if rows.len() == limit {
                return Ok(Page { rows, more: true });
            }
            let parts = keys::due_of(&key).zip(keys::event_of(&key));
            let parts = parts.ok_or_else(|| Place::new("due", &key).corrupt("its key is too short"));
            let (due, event_key) = parts?;
            match decode_due(DeliveryId::new(event_key, destination_id), due, &key, &stored) {
                Ok(entry) => rows.push(entry),
                Err(error) => tracing::error!(%error, "a damaged entry is passed over"),
            }
        }
        Ok(Page { rows, more: false })
    }

    pub(super) fn delivery(&self, id: DeliveryId) -> Result<Option<Delivery>, StoreError> {
        if let Some(delivery) = self.recorded(id)? {
            return Ok(Some(delivery));
        }
        if self.is_fresh(id)?
            && let Some(head) = self.head(id.event_key)?
        {
            return Ok(Some(lifecycle::fresh(&head, id.destination_id, Guarantee::AtLeastOnce)));
        }
        // It may have got its first record between the two looks, but never the other way round.
        self.recorded(id)
    }

    pub(super) fn recorded(&self, id: DeliveryId) -> Result<Option<Delivery>, StoreError> {
        let key = keys::by_destination(DELIVERY, id);
        self.get(&key)?.map(|stored| decode_delivery(id, &key, &stored)).transpose()
    }

    pub(super) fn backlog(&self, destination_id: DestinationId, cap: usize) -> Result<Backlog, StoreError> {
        let mut backlog = Backlog::default();
        let mut fresh = self.fresh_keys(destination_id, None, EventKey::MAX).peekable();
        if let Some(Ok(key)) = fresh.peek() {
            backlog.oldest = self.head(*key)?.map(|head| head.accepted_at);
        }
        let due = self.db.scan_prefix(keys::due_of_destination(destination_id)).keys();
        let due = due.map(|key| key.map(drop).map_err(|error| unavailable(&error)));
        for one in fresh.map(|key| key.map(drop)).chain(due) {
            one?;
            if backlog.count == cap {
                backlog.capped = true;
                break;
            }
            backlog.count += 1;
        }
        let dead = self.db.scan_prefix(keys::of_destination(DEAD, destination_id)).keys();
        backlog.dead_letters = dead.take(cap).filter(Result::is_ok).count();
        Ok(backlog)
    }

    pub(super) fn ahead(
        &self,
        id: DeliveryId,
        due: Option<Timestamp>,
        cap: usize,
    ) -> Result<usize, StoreError> {
        let mut count = 0;
        let Some(due) = due else {
            for key in self.fresh_keys(id.destination_id, None, id.event_key).take(cap) {
                count += usize::from(key? != id.event_key);
            }
            return Ok(count);
        };
        let (first, end) = (keys::due_of_destination(id.destination_id), keys::due(id, due));
        for key in self.db.range(first..end).keys().take(cap) {
            key.map_err(|error| unavailable(&error))?;
            count += 1;
        }
        Ok(count)
    }
}

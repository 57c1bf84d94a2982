//! Reading which deliveries are fresh: the order `W`, and the young ones in memory, as one order.

use std::collections::BTreeSet;
use std::iter::Peekable;
use std::ops::Bound::{Excluded, Included};
use std::sync::Arc;
use std::vec::IntoIter;

use super::keys::{self, DUE, FRESH};
use super::reader::Reader;
use super::unavailable;
use crate::domain::event::Event;
use crate::domain::id::{DeliveryId, DestinationId, EventKey};
use crate::store::record::Place;
use crate::store::{EVENT_PAGE_BYTES, Page, StoreError};

/// The keys of a destination's fresh deliveries, in order, each once.
pub(super) struct FreshKeys {
    young: Peekable<IntoIter<EventKey>>,
    stored: Option<Peekable<sled::Iter>>,
}

impl Iterator for FreshKeys {
    type Item = Result<EventKey, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        let stored = match self.stored.as_mut().and_then(Peekable::peek) {
            Some(Ok((key, _))) => keys::event_of(key),
            Some(Err(error)) => return Some(Err(unavailable(error))),
            None => None,
        };
        let next = stored.into_iter().chain(self.young.peek().copied()).min();
        if stored == next
            && let Some(rows) = &mut self.stored
        {
            rows.next();
        }
        self.young.next_if(|key| Some(*key) == next);
        next.map(Ok)
    }
}

impl Reader {
    /// Whether a delivery waits for its first attempt.
    pub(super) fn is_fresh(&self, id: DeliveryId) -> Result<bool, StoreError> {
        // In this order: one that gets old meanwhile is in both rather than in neither.
        if self.shared.young.contains(id) {
            return Ok(true);
        }
        Ok(self.get(&keys::by_destination(FRESH, id))?.is_some())
    }

    /// The keys of a destination's fresh deliveries after one key and up to another.
    pub(super) fn fresh_keys(
        &self,
        destination_id: DestinationId,
        after: Option<EventKey>,
        until: EventKey,
    ) -> FreshKeys {
        if after.is_some_and(|after| after >= until) {
            return FreshKeys { young: Vec::new().into_iter().peekable(), stored: None };
        }
        let start = after.map_or(Included(EventKey::MIN), Excluded);
        // First, for the same reason.
        let young = self.shared.young.of_destination(destination_id, (start, Included(until)));
        let at = |key| keys::by_destination(FRESH, DeliveryId::new(key, destination_id));
        let stored = self.db.range::<Vec<u8>, _>((start.map(at), Included(at(until))));
        FreshKeys { young: young.into_iter().peekable(), stored: Some(stored.peekable()) }
    }

    pub(super) fn fresh(
        &self,
        destination_id: DestinationId,
        after: Option<EventKey>,
        limit: usize,
    ) -> Result<Page<Arc<Event>>, StoreError> {
        let (mut rows, mut bytes) = (Vec::new(), 0);
        // What is applied but not yet durable is not shown: the listener tells of it in a moment.
        for key in self.fresh_keys(destination_id, after, self.shared.durable_key()) {
            let Some(event) = self.readable(key?)? else { continue };
            if rows.len() == limit || bytes >= EVENT_PAGE_BYTES {
                return Ok(Page { rows, more: true });
            }
            bytes += event.data.as_bytes().len();
            rows.push(event);
        }
        Ok(Page { rows, more: false })
    }

    /// Looks at one key a destination and table, however much waits there.
    pub(super) fn destinations_with_work(&self) -> Result<Vec<DestinationId>, StoreError> {
        let mut found: BTreeSet<DestinationId> = self.shared.young.destinations();
        for table in [FRESH, DUE] {
            let mut start = vec![table];
            while let Some(row) = self.db.range(start..vec![table + 1]).keys().next() {
                let key = row.map_err(|error| unavailable(&error))?;
                let id = keys::owner_of(&key);
                let id = id.ok_or_else(|| Place::new("waiting", &key).corrupt("its key is too short"))?;
                found.insert(id);
                start = keys::past_destination(table, id);
            }
        }
        Ok(found.into_iter().collect())
    }
}

//! Lists of deliveries: the orders of several destinations merged into one, newest event first.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Bound::{self, Excluded, Included};
use std::vec::IntoIter;

use sled::IVec;

use super::keys::{self, DEAD, DELIVERY, FRESH};
use super::reader::Reader;
use super::unavailable;
use crate::domain::delivery::{Delivery, StateKind};
use crate::domain::id::{DeliveryId, DestinationId, EventKey};
use crate::domain::settings::Guarantee;
use crate::store::record::decode_delivery;
use crate::store::{DeliveryPage, DeliveryQuery, StoreError, lifecycle};

/// How many rows one call looks at; about 50 ms of reading.
pub(super) const ROWS_SCANNED: usize = 20_000;

/// From so many destinations on it is found out first which of them have any rows.
const MANY: usize = 8;

/// The keys of one table for one destination, from the newest on.
struct Source {
    table: u8,
    destination_id: DestinationId,
    rows: Rows,
}

impl Source {
    /// Of two rows of one delivery the record is the later one, and comes first.
    fn rank(&self) -> u8 {
        match (&self.rows, self.table) {
            (Rows::Young(_), _) => 2,
            (Rows::Stored(_), FRESH) => 1,
            (Rows::Stored(_), _) => 0,
        }
    }
}

enum Rows {
    Stored(Box<sled::Iter>),
    /// Fresh ones that are in memory.
    Young(IntoIter<EventKey>),
}

impl Rows {
    fn next_back(&mut self) -> Option<Result<(EventKey, IVec), StoreError>> {
        let stored = match self {
            Rows::Young(keys) => return keys.next_back().map(|key| Ok((key, IVec::default()))),
            Rows::Stored(rows) => rows,
        };
        loop {
            match stored.next_back()? {
                Ok((key, value)) => match keys::event_of(&key) {
                    Some(event_key) => return Some(Ok((event_key, value))),
                    None => continue,
                },
                Err(error) => return Some(Err(unavailable(&error))),
            }
        }
    }
}

/// The next row of a source, with the rank and the position of the source. The largest one is next in the list.
type Candidate = (EventKey, Reverse<DestinationId>, Reverse<u8>, usize, IVec);

struct Merge {
    sources: Vec<Source>,
    heap: BinaryHeap<Candidate>,
}

impl Reader {
    pub(super) fn deliveries(
        &self,
        query: &DeliveryQuery,
        rows_scanned: usize,
    ) -> Result<DeliveryPage, StoreError> {
        let mut merge = self.merge(query)?;
        let mut rows: Vec<Delivery> = Vec::new();
        let mut last = query.after;
        for _ in 0..rows_scanned {
            let Some((id, table, stored)) = merge.next()? else {
                return Ok(DeliveryPage { rows, next: None });
            };
            // While one is settled for the first time, both of its rows may be seen.
            let again = last == Some(id);
            let found = if again { None } else { self.listed(id, table, &stored)? };
            if let Some(delivery) = found.filter(|delivery| lifecycle::fits(query, delivery)) {
                if rows.len() >= query.limit {
                    let next = rows.last().map(|row| row.id).or(query.after);
                    return Ok(DeliveryPage { rows, next });
                }
                rows.push(delivery);
            }
            last = Some(id);
        }
        Ok(DeliveryPage { rows, next: last })
    }

    fn merge(&self, query: &DeliveryQuery) -> Result<Merge, StoreError> {
        let wants = |kind| query.states.is_empty() || query.states.contains(&kind);
        let tables: &[u8] = match query.states.as_slice() {
            [StateKind::DeadLettered] => &[DEAD],
            _ if wants(StateKind::Waiting) => &[FRESH, DELIVERY],
            _ => &[DELIVERY],
        };
        let mut merge = Merge { sources: Vec::new(), heap: BinaryHeap::new() };
        let mut ids = query.destination_ids.clone();
        ids.sort_unstable();
        ids.dedup();
        // In the order in which deliveries move on: one that does so meanwhile is seen twice rather than never.
        if tables.contains(&FRESH) {
            self.add_young(&mut merge, query, &ids)?;
        }
        for table in tables.iter().copied() {
            for destination_id in self.with_rows(table, &ids)? {
                let Some(range) = range_of(query, destination_id) else { continue };
                let at = |key| keys::by_destination(table, DeliveryId::new(key, destination_id));
                let rows = self.db.range::<Vec<u8>, _>((range.0.map(at), range.1.map(at)));
                merge.add(Source { table, destination_id, rows: Rows::Stored(Box::new(rows)) })?;
            }
        }
        Ok(merge)
    }

    fn add_young(
        &self,
        merge: &mut Merge,
        query: &DeliveryQuery,
        ids: &[DestinationId],
    ) -> Result<(), StoreError> {
        for destination_id in ids.iter().copied() {
            let Some(range) = range_of(query, destination_id) else { continue };
            let young = self.shared.young.of_destination(destination_id, range);
            merge.add(Source { table: FRESH, destination_id, rows: Rows::Young(young.into_iter()) })?;
        }
        Ok(())
    }

    /// Those of these destinations, which are in order, that have rows in a table. A look into the tree passes over
    /// all that have none up to the next one that has, so what does not deliver costs nothing.
    fn with_rows(&self, table: u8, ids: &[DestinationId]) -> Result<Vec<DestinationId>, StoreError> {
        if ids.len() < MANY {
            return Ok(ids.to_vec());
        }
        let (mut found, mut rest) = (Vec::new(), ids);
        while let Some(first) = rest.first() {
            let rows = keys::of_destination(table, *first)..vec![table + 1];
            let Some(row) = self.db.range(rows).keys().next() else { break };
            let key = row.map_err(|error| unavailable(&error))?;
            let Some(owner) = keys::owner_of(&key) else { return Ok(ids.to_vec()) };
            rest = rest.get(rest.partition_point(|id| *id < owner)..).unwrap_or_default();
            if let Some((id, others)) = rest.split_first()
                && *id == owner
            {
                found.push(*id);
                rest = others;
            }
        }
        Ok(found)
    }

    /// The delivery that a row stands for; `None` if it has just changed its place.
    fn listed(&self, id: DeliveryId, table: u8, stored: &[u8]) -> Result<Option<Delivery>, StoreError> {
        match table {
            DELIVERY => {
                let key = keys::by_destination(DELIVERY, id);
                decode_delivery(id, &key, stored).map(Some)
            }
            FRESH => {
                let head = self.head(id.event_key)?;
                Ok(head.map(|head| lifecycle::fresh(&head, id.destination_id, Guarantee::AtLeastOnce)))
            }
            _ => self.recorded(id),
        }
    }
}

impl Merge {
    fn next(&mut self) -> Result<Option<(DeliveryId, u8, IVec)>, StoreError> {
        let Some((key, _, _, position, stored)) = self.heap.pop() else { return Ok(None) };
        let Some(source) = self.sources.get(position) else { return Ok(None) };
        let (id, table) = (DeliveryId::new(key, source.destination_id), source.table);
        self.advance(position)?;
        Ok(Some((id, table, stored)))
    }

    fn add(&mut self, source: Source) -> Result<(), StoreError> {
        self.sources.push(source);
        self.advance(self.sources.len() - 1)
    }

    fn advance(&mut self, position: usize) -> Result<(), StoreError> {
        let Some(source) = self.sources.get_mut(position) else { return Ok(()) };
        if let Some(row) = source.rows.next_back() {
            let (event_key, stored) = row?;
            let rank = Reverse(source.rank());
            self.heap.push((event_key, Reverse(source.destination_id), rank, position, stored));
        }
        Ok(())
    }
}

/// The keys of a destination that can be in the list; `None` if none can.
fn range_of(
    query: &DeliveryQuery,
    destination_id: DestinationId,
) -> Option<(Bound<EventKey>, Bound<EventKey>)> {
    let (first, last, inclusive) = bounds(query, destination_id)?;
    Some((Included(first), if inclusive { Included(last) } else { Excluded(last) }))
}

/// The first and the last key that can be in the list, and whether the last one can; `None` if none can.
fn bounds(query: &DeliveryQuery, destination_id: DestinationId) -> Option<(EventKey, EventKey, bool)> {
    // Keys have 48 bits of milliseconds; a later time than that bounds nothing.
    let expressible = |millis: i64| millis < 1 << 48;
    // A dead letter is younger than its event, so its time bounds no key from below.
    let from = query.from.filter(|_| !lifecycle::asks_for_dead_letters(query));
    let first = from.map_or(EventKey::MIN, EventKey::lower_bound);
    let until = query.until.filter(|until| expressible(until.as_millis())).map(EventKey::lower_bound);
    let mut last = until.map_or((EventKey::MAX, true), |until| (until, false));
    if let Some(after) = query.after {
        // Of the event listed last, destinations with larger ids are still to come.
        last = last.min((after.event_key, destination_id > after.destination_id));
    }
    let nothing = from.is_some_and(|from| !expressible(from.as_millis()))
        || first > last.0
        || (first == last.0 && !last.1);
    (!nothing).then_some((first, last.0, last.1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::delivery::DeliveryState;
    use crate::store::Stage;
    use crate::store::conformance::{at, destination_id, durable, new_event, settlement};
    use crate::store::sled::tests::open_bench;

    #[tokio::test]
    async fn only_destinations_with_rows_are_looked_into_however_many_there_are() {
        let folder = tempfile::TempDir::new().unwrap();
        let (bench, store) = open_bench(folder.path());
        let ids: Vec<DestinationId> = (0..=250).map(destination_id).collect();
        let found = async |table| {
            let ids = ids.clone();
            store.read(move |reader| reader.with_rows(table, &ids)).await.unwrap()
        };
        assert_eq!(found(DELIVERY).await, []);
        let event = bench.accept(new_event("a", &[durable(0), durable(7), durable(250), durable(251)])).await;
        for number in [0, 7, 250, 251] {
            let done = settlement(&event, number, Stage::Fresh, DeliveryState::Succeeded { at: at(9) });
            bench.store.settle(vec![done], Vec::new()).await.unwrap();
        }
        assert_eq!(found(DELIVERY).await, [0, 7, 250].map(destination_id));
        assert_eq!(found(DEAD).await, []);
    }
}

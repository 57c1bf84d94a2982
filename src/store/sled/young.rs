//! Fresh deliveries of the latest events, in memory instead of in the order `W`.
//!
//! Most deliveries are settled soon after their events were accepted, so a key that is written for each and
//! removed again is most of their cost. What is fresh follows from what is stored anyway: the event with its
//! routes is there, and no record of the delivery. So a fresh delivery gets its key in `W` only when so many
//! events came behind it that finding it again at a start would take long. Up to which event that was done is
//! kept with it (`Mindexed`); a start looks at the events behind that one.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::ops::RangeBounds;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use sled::Db;

use super::keys::{self, DELIVERY};
use super::unavailable;
use crate::domain::event::Event;
use crate::domain::id::{DeliveryId, DestinationId, EventKey};
use crate::domain::settings::Guarantee;
use crate::store::StoreError;
use crate::store::record::decode_event;

/// How many get old at once, so that the mark is written seldom.
const STEP: usize = 128;

/// The young deliveries that wait for their first attempt, for whoever reads and for the writer.
#[derive(Default)]
pub(super) struct Young(RwLock<BTreeSet<DeliveryId>>);

impl Young {
    pub(super) fn contains(&self, id: DeliveryId) -> bool {
        self.read().contains(&id)
    }

    /// Those of a destination in a range that is not empty, in order.
    pub(super) fn of_destination(
        &self,
        id: DestinationId,
        range: impl RangeBounds<EventKey>,
    ) -> Vec<EventKey> {
        let at = |key: &EventKey| DeliveryId::new(*key, id);
        let start = match range.start_bound() {
            Unbounded => Included(at(&EventKey::MIN)),
            bound => bound.map(at),
        };
        let set = self.read();
        set.range((start, range.end_bound().map(at)))
            .take_while(|one| one.destination_id == id)
            .map(|one| one.event_key)
            .collect()
    }

    /// The destinations that have any.
    pub(super) fn destinations(&self) -> BTreeSet<DestinationId> {
        self.read().iter().map(|id| id.destination_id).collect()
    }

    pub(super) fn add(&self, ids: &[DeliveryId]) {
        if !ids.is_empty() {
            self.0.write().unwrap_or_else(PoisonError::into_inner).extend(ids);
        }
    }

    pub(super) fn remove(&self, ids: &[DeliveryId]) {
        if !ids.is_empty() {
            let mut set = self.0.write().unwrap_or_else(PoisonError::into_inner);
            for id in ids {
                set.remove(id);
            }
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeSet<DeliveryId>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The at-least-once deliveries that begin with an event.
pub(super) fn begun_by(event: &Event) -> impl Iterator<Item = DeliveryId> {
    let durable = event.routes.iter().filter(|route| route.guarantee == Guarantee::AtLeastOnce);
    durable.map(|route| DeliveryId::new(event.key, route.destination_id))
}

/// The events behind the mark, oldest first, with the deliveries that began with them. The writer's own.
pub(super) struct Nursery {
    /// How many deliveries the latest events have, before the oldest of them that still wait get keys.
    max: usize,
    events: VecDeque<(EventKey, Vec<DeliveryId>)>,
    /// How many deliveries that are; an event without any counts as one.
    size: usize,
}

impl Nursery {
    fn new(max: usize) -> Self {
        Self { max, events: VecDeque::new(), size: 0 }
    }

    pub(super) fn take(&mut self, key: EventKey, begun: Vec<DeliveryId>) {
        self.size += begun.len().max(1);
        self.events.push_back((key, begun));
    }

    /// The deliveries that get old, and the last of their events, once there are enough of them. At most
    /// `at_once`, and at least those of one event.
    pub(super) fn grow_up(&mut self, at_once: usize) -> Option<(EventKey, Vec<DeliveryId>)> {
        if self.size < self.max.saturating_add(STEP.min(self.max)).max(1) {
            return None;
        }
        let (mut last, mut old) = (None, Vec::new());
        while self.size > self.max && old.len() < at_once {
            let Some((key, begun)) = self.events.pop_front() else { break };
            self.size = self.size.saturating_sub(begun.len().max(1));
            last = Some(key);
            old.extend(begun);
        }
        last.map(|key| (key, old))
    }
}

/// Finds the events behind the mark again, and which of their deliveries are fresh.
pub(super) fn find(db: &Db, max: usize) -> Result<(Nursery, Vec<DeliveryId>), StoreError> {
    let mark = db.get(keys::INDEXED_KEY).map_err(|error| unavailable(&error))?;
    let mark = mark.and_then(|stored| keys::event_of(&stored));
    let start = mark.map_or(Included(keys::event(EventKey::MIN)), |key| Excluded(keys::event(key)));
    let (mut nursery, mut fresh) = (Nursery::new(max), Vec::new());
    for row in db.range::<Vec<u8>, _>((start, Included(keys::event(EventKey::MAX)))) {
        let (key, stored) = row.map_err(|error| unavailable(&error))?;
        let Some(key) = keys::event_of(&key) else { continue };
        let chunk = |number| db.get(keys::chunk(key, number)).map_err(|error| unavailable(&error));
        let event = match decode_event(key, &stored, chunk) {
            Ok(event) => event,
            Err(StoreError::Corrupt(problem)) => {
                tracing::error!(event.key = %key, problem, "a damaged event is not delivered");
                continue;
            }
            Err(error) => return Err(error),
        };
        let begun: Vec<_> = begun_by(&event).collect();
        for id in &begun {
            let recorded = db.contains_key(keys::by_destination(DELIVERY, *id));
            if !recorded.map_err(|error| unavailable(&error))? {
                fresh.push(*id);
            }
        }
        nursery.take(key, begun);
    }
    Ok((nursery, fresh))
}

#[cfg(test)]
mod tests {
    use std::ops::Bound;

    use super::*;

    fn id(number: u128) -> DeliveryId {
        DeliveryId::new(EventKey::from_bytes(number.to_be_bytes()), DestinationId::from_bytes([1; 16]))
    }

    #[test]
    fn the_oldest_events_get_old_when_there_are_too_many_and_not_one_by_one() {
        let mut nursery = Nursery::new(300 - STEP);
        for number in 0..300 {
            assert!(nursery.grow_up(usize::MAX).is_none());
            let begun = if number % 2 == 0 { vec![id(number)] } else { Vec::new() };
            nursery.take(id(number).event_key, begun);
        }
        let (last, old) = nursery.grow_up(30).unwrap();
        assert_eq!((last, old.len()), (id(58).event_key, 30));
        nursery.take(id(300).event_key, (0..500).map(id).collect());
        let (last, old) = nursery.grow_up(usize::MAX).unwrap();
        assert_eq!((last, old.len()), (id(300).event_key, 120 + 500));
        assert!(nursery.grow_up(usize::MAX).is_none());
    }

    #[test]
    fn those_of_one_destination_come_in_order_between_their_bounds() {
        let young = Young::default();
        young.add(&[id(3), id(1), id(2), id(5)]);
        let keys = |range: (Bound<u128>, Bound<u128>)| {
            let range = (range.0.map(|one| id(one).event_key), range.1.map(|one| id(one).event_key));
            young.of_destination(DestinationId::from_bytes([1; 16]), range)
        };
        assert_eq!(keys((Excluded(1), Included(3))), [id(2).event_key, id(3).event_key]);
        assert_eq!(keys((Unbounded, Excluded(3))), [id(1).event_key, id(2).event_key]);
        assert!(keys((Excluded(5), Included(5))).is_empty());
        young.remove(&[id(1), id(2), id(3)]);
        assert_eq!(keys((Unbounded, Included(9))), [id(5).event_key]);
        assert_eq!(young.destinations().len(), 1);
    }
}

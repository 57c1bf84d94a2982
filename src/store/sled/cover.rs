//! Reading replays, and what they cover.

use std::ops::Bound::{Excluded, Included};

use sled::IVec;

use super::keys::{self, DEAD, DELIVERY};
use super::reader::Reader;
use super::{replay, unavailable};
use crate::domain::delivery::Delivery;
use crate::domain::id::{DeliveryId, DestinationId, EventKey, ReplayId};
use crate::domain::replay::{Replay, ReplayKind, ReplayScope};
use crate::store::record::{Place, decode_delivery, decode_outline, decode_replay};
use crate::store::{CoverPage, CoverQuery, ReplayPage, ReplayQuery, StoreError};

/// How many replays one call looks at.
const REPLAYS_SCANNED: usize = 2000;

/// What a call may still look at, and how far it came.
struct Scan<'a> {
    query: &'a CoverQuery,
    rows_left: usize,
    page: CoverPage,
    last: Option<DeliveryId>,
}

impl Scan<'_> {
    /// Whether there is room for another row; if not, the page ends here.
    fn goes_on(&mut self) -> bool {
        let goes_on = self.rows_left > 0 && self.page.ids.len() < self.query.limit;
        self.rows_left = self.rows_left.saturating_sub(1);
        if !goes_on {
            self.page.next = self.last;
        }
        goes_on
    }

    fn look(&mut self, id: DeliveryId, covered: bool) {
        self.last = Some(id);
        if covered {
            self.page.ids.push(id);
        }
    }
}

impl Reader {
    pub(super) fn covered(&self, query: &CoverQuery, rows_scanned: usize) -> Result<CoverPage, StoreError> {
        let mut scan = Scan { query, rows_left: rows_scanned, page: CoverPage::default(), last: query.after };
        for destination_id in query.destinations_to_come() {
            // A destination costs a look into the tree, even if nothing is there.
            if !scan.goes_on() {
                break;
            }
            let whole = match query.scope.kind {
                ReplayKind::Missed => self.scan_events(&mut scan, destination_id)?,
                ReplayKind::DeadLetters => self.scan_deliveries(&mut scan, destination_id, DEAD)?,
                ReplayKind::Succeeded => self.scan_deliveries(&mut scan, destination_id, DELIVERY)?,
            };
            if !whole {
                break;
            }
            scan.last = Some(DeliveryId::new(EventKey::MAX, destination_id));
        }
        Ok(scan.page)
    }

    /// Looks at the deliveries of a destination; answers whether that were all.
    fn scan_deliveries(
        &self,
        scan: &mut Scan<'_>,
        destination_id: DestinationId,
        table: u8,
    ) -> Result<bool, StoreError> {
        let query = scan.query;
        let at = |key| keys::by_destination(table, DeliveryId::new(key, destination_id));
        // A dead letter is younger than its event, so its time bounds no key from below.
        let from =
            query.scope.from.filter(|_| table == DELIVERY).map_or(EventKey::MIN, EventKey::lower_bound);
        let (first, last) = query.scope.event_key.map_or((from, EventKey::MAX), |key| (key, key));
        let after = query.after.filter(|after| after.destination_id == destination_id);
        let start = match after.filter(|after| after.event_key >= first) {
            Some(after) => Excluded(at(after.event_key)),
            None => Included(at(first)),
        };
        if after.is_some_and(|after| after.event_key >= last) {
            return Ok(true);
        }
        for row in self.db.range::<Vec<u8>, _>((start, Included(at(last)))) {
            let (key, stored) = row.map_err(|error| unavailable(&error))?;
            let Some(event_key) = keys::event_of(&key) else { continue };
            if !scan.goes_on() {
                return Ok(false);
            }
            let id = DeliveryId::new(event_key, destination_id);
            let covered = match self.ended(id, table, &stored) {
                Ok(delivery) => delivery.is_some_and(|delivery| is_covered(query, &delivery)),
                // The step that would put it back passes over it and counts it.
                Err(StoreError::Corrupt(_)) => true,
                Err(error) => return Err(error),
            };
            scan.look(id, covered);
        }
        Ok(true)
    }

    fn ended(&self, id: DeliveryId, table: u8, stored: &IVec) -> Result<Option<Delivery>, StoreError> {
        if table == DEAD {
            return self.recorded(id);
        }
        decode_delivery(id, &keys::by_destination(DELIVERY, id), stored).map(Some)
    }

    /// Looks at the events of all organizations in order of time; answers whether that were all.
    fn scan_events(&self, scan: &mut Scan<'_>, destination_id: DestinationId) -> Result<bool, StoreError> {
        let query = scan.query;
        let from = query.scope.from.map_or(EventKey::MIN, EventKey::lower_bound);
        let start = match query.after.filter(|after| after.event_key >= from) {
            Some(after) => Excluded(keys::event(after.event_key)),
            None => Included(keys::event(from)),
        };
        // What is applied but not yet durable is not shown.
        let last = self.shared.durable_key();
        if from > last || query.after.is_some_and(|after| after.event_key >= last) {
            return Ok(true);
        }
        for row in self.db.range::<Vec<u8>, _>((start, Included(keys::event(last)))) {
            let (key, stored) = row.map_err(|error| unavailable(&error))?;
            let Some(event_key) = keys::event_of(&key) else { continue };
            if query.scope.until.is_some_and(|until| event_key.made_at() >= until) {
                break;
            }
            if !scan.goes_on() {
                return Ok(false);
            }
            let id = DeliveryId::new(event_key, destination_id);
            let missed = match self.is_missed(query, id, &stored) {
                Ok(missed) => missed,
                Err(StoreError::Corrupt(problem)) => {
                    tracing::error!(problem, "a replay passes over an unreadable event");
                    false
                }
                Err(error) => return Err(error),
            };
            scan.look(id, missed);
        }
        Ok(true)
    }

    fn is_missed(&self, query: &CoverQuery, id: DeliveryId, stored: &IVec) -> Result<bool, StoreError> {
        let (head, level) = decode_outline(id.event_key, stored)?;
        let fits = head.organization_id == query.organization_id
            && query.scope.has_moment(head.accepted_at)
            && query.scope.has_type(&head.event_type)
            && (query.wants)(&head.event_type, level);
        if !fits {
            return Ok(false);
        }
        if let Some(delivery) = self.recorded(id)? {
            return Ok(is_covered(query, &delivery));
        }
        if self.is_fresh(id)? || !ReplayScope::makes_up_for(&head.event_type) {
            return Ok(false);
        }
        let event = self.event(id.event_key)?;
        let routed = event.map(|event| event.routes.iter().any(|to| to.destination_id == id.destination_id));
        // One that was routed here has its record by now, is best effort, or had its record deleted.
        Ok(routed == Some(false))
    }

    pub(super) fn replay(&self, id: ReplayId) -> Result<Option<Replay>, StoreError> {
        let mut chunks = self.replay_chunks(id)?;
        // Chunks of different versions don't fit together, so several are read until they stay the same.
        while chunks.len() > 1 {
            let again = self.replay_chunks(id)?;
            let same = again == chunks;
            chunks = again;
            if same {
                break;
            }
        }
        if chunks.is_empty() { Ok(None) } else { decode_replay(id, &chunks).map(Some) }
    }

    fn replay_chunks(&self, id: ReplayId) -> Result<Vec<IVec>, StoreError> {
        replay::chunks(id, |key| self.get(key))
    }

    pub(super) fn replays(&self, query: &ReplayQuery) -> Result<ReplayPage, StoreError> {
        let prefix = keys::replays_of(&query.organization_id);
        let end = match query.after {
            Some(after) => Excluded(keys::replay_of(&query.organization_id, after)),
            None => Included(keys::replay_of(&query.organization_id, ReplayId::from_bytes([u8::MAX; 16]))),
        };
        let mut page = ReplayPage { rows: Vec::new(), next: None };
        let mut last = query.after;
        for (position, row) in self.db.range((Included(prefix), end)).keys().rev().enumerate() {
            let key = row.map_err(|error| unavailable(&error))?;
            if position == REPLAYS_SCANNED || page.rows.len() == query.limit {
                page.next = last;
                break;
            }
            let id = replay_of(&key)?;
            last = Some(id);
            let fits =
                |replay: &Replay| query.states.is_empty() || query.states.contains(&replay.state.kind());
            page.rows.extend(self.replay(id)?.filter(fits));
        }
        Ok(page)
    }

    pub(super) fn running_replays(&self) -> Result<Vec<Replay>, StoreError> {
        let mut running = Vec::new();
        for row in self.db.scan_prefix(keys::RUNNING_REPLAYS).keys() {
            let key = row.map_err(|error| unavailable(&error))?;
            match replay_of(&key).and_then(|id| self.replay(id)) {
                Ok(replay) => running.extend(replay.filter(|replay| replay.state.is_running())),
                Err(StoreError::Corrupt(problem)) => {
                    tracing::error!(problem, "a replay can't be read, so it does not go on");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(running)
    }
}

fn is_covered(query: &CoverQuery, delivery: &Delivery) -> bool {
    delivery.organization_id == query.organization_id && query.scope.covers(delivery, query.by)
}

fn replay_of(key: &[u8]) -> Result<ReplayId, StoreError> {
    let id = keys::replay_id_of(key);
    id.ok_or_else(|| Place::new("replay", key).corrupt("its key is too short"))
}

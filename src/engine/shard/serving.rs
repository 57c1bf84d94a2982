//! Serving: lanes decide, one request at a time, in turn: by the standing of destinations (`room`), then
//! by organization (`turns`), then by lane.

use std::sync::Arc;
use std::time::Duration;

use super::{Done, Made, Shard, Slot};
use crate::domain::id::{DeliveryId, DestinationId};
use crate::domain::time::Timestamp;
use crate::engine::ending::{Waited, settle_waited};
use crate::engine::hosts::Held;
use crate::engine::item::Item;
use crate::engine::lane::{Lane, Step};
use crate::engine::room::entrance::Seat;
use crate::engine::window::Wanted;
use crate::engine::worker::give_up;
use crate::policy::host_rate::HostKey;
use crate::policy::retry::Ending;
use crate::store::directory::LaneStatus;
use crate::store::{Page, StoreError};

/// How long a lane waits after the store could not answer it.
pub(super) const STORE_RETRY: Duration = Duration::from_millis(500);
/// Where more outcomes than so many times the requests in flight wait for the store, nothing is begun.
const OUTCOMES_BEHIND: usize = 16;

impl Shard {
    /// Serves the lanes for which there is room.
    pub(super) fn use_room(&mut self) {
        if self.agenda.is_anybody_waiting() {
            self.room.notice_silence();
        }
        loop {
            if self.is_behind_with_settling() {
                return self.make_way();
            }
            let now = self.clock.now();
            let mut claims = Vec::new();
            for id in self.agenda.take_next() {
                match self.claim_of(id, now) {
                    Some(claim) => claims.push(claim),
                    None => self.agenda.called(id),
                }
            }
            let seats = self.room.claim(claims);
            if seats.is_empty() {
                return;
            }
            for (id, seat) in seats {
                self.take_turn(id, seat);
            }
        }
    }

    /// Leaves to others what was granted. Whoever had it claims again once outcomes are stored.
    fn make_way(&mut self) {
        loop {
            let seats = self.room.claim([]);
            if seats.is_empty() {
                return;
            }
            for (id, seat) in seats {
                drop(seat);
                self.agenda.called(id);
                self.queue(id);
            }
        }
    }

    fn take_turn(&mut self, id: DestinationId, seat: Seat) {
        self.agenda.called(id);
        let now = self.clock.now();
        let Some(Slot { lane, .. }) = self.lanes.get(&id) else { return };
        let (standing, bytes) = (lane.standing(now), lane.next_bytes());
        if self.is_held_by_its_host(id, now) {
            return;
        }
        // Since it was put in line, it may have come to deserve less room than there is.
        match seat.for_standing(standing, bytes) {
            Some(seat) => self.serve(id, seat),
            None => self.queue(id),
        }
    }

    /// Whether the organization sends to the lane's host as fast as it may. Then the lane stands in line, and
    /// callers can see it.
    fn is_held_by_its_host(&mut self, id: DestinationId, now: Timestamp) -> bool {
        let keys = self.hosts_of(id);
        if keys.is_empty() {
            return false;
        }
        // Who has nothing to send takes nobody's turn.
        if !self.lanes.get(&id).is_some_and(|slot| slot.lane.may_start(now)) {
            self.pass_turn_on(id, now);
            return false;
        }
        let Some(Held { until, next }) = self.hosts.hold_back(id, &keys, now) else { return false };
        if let Some(next) = next {
            self.queue(next);
        }
        if let Some(Slot { lane, entry: Some(entry), .. }) = self.lanes.get(&id) {
            entry.status.set_lane(LaneStatus { host_turn_at: Some(until), ..lane.status() });
        }
        true
    }

    pub(super) fn pass_turn_on(&mut self, id: DestinationId, now: Timestamp) {
        if let Some(next) = self.hosts.pass_turn_on(id, now) {
            self.queue(next);
        }
    }

    /// Whose rates the lane's requests count against, as far as it is known where they go.
    fn hosts_of(&self, id: DestinationId) -> Vec<HostKey> {
        let entry = self.lanes.get(&id).and_then(|slot| slot.entry.as_ref());
        let Some(entry) = entry.filter(|_| self.hosts.are_limited()) else { return Vec::new() };
        let hosts = self.worker.courier.transport.known_third_parties(entry.destination.url.as_url());
        hosts.iter().map(|host| HostKey::new(&entry.destination.organization_id, host)).collect()
    }

    /// Whether outcomes pile up faster than the store takes them.
    fn is_behind_with_settling(&self) -> bool {
        self.ledger.len() > self.rules.options.max_in_flight.saturating_mul(OUTCOMES_BEHIND)
    }

    /// Does what the lane wants, up to one request, and notes when to ask it again.
    fn serve(&mut self, id: DestinationId, seat: Seat) {
        // Asked right before anything is begun: a process may have stood still for longer than its lease.
        let was_lost = self.lanes.get(&id).is_some_and(|slot| slot.lost);
        if was_lost || !self.rules.store.owns(id) {
            return self.lose(id);
        }
        let now = self.clock.now();
        loop {
            let Some(slot) = self.lanes.get_mut(&id) else { return };
            match slot.lane.step(now) {
                Step::Attempt(items) => {
                    self.start_attempt(id, seat, items);
                    self.queue(id);
                    break;
                }
                Step::End(items, Ending::Discard(reason)) => {
                    self.ledger.add(items.iter().map(|item| give_up(id, item, reason, now)));
                }
                Step::End(items, ending) => self.end_waiting(id, &items, ending, now),
                Step::Load(wanted) => self.load(id, wanted),
                Step::WaitUntil(moment) => {
                    self.agenda.wake_at(id, moment);
                    break;
                }
                Step::Idle => {
                    self.agenda.let_sleep(id);
                    break;
                }
            }
        }
        self.note_lane(id, now);
    }

    /// Dead letters are told of, and what is told is read from the store.
    fn end_waiting(&mut self, id: DestinationId, items: &[Item], ending: Ending, now: Timestamp) {
        let store = Arc::clone(&self.worker.store);
        let waited = |item: &Item| Waited {
            id: DeliveryId::new(item.key, id),
            stage: item.stage,
            guarantee: item.guarantee,
            cycle: item.cycle,
        };
        let all: Vec<Waited> = items.iter().map(waited).collect();
        self.running.spawn(async move {
            let mut settlements = Vec::with_capacity(all.len());
            for waited in all {
                settlements.push(settle_waited(&*store, waited, ending, now).await);
            }
            Done::Ended(settlements)
        });
    }

    fn load(&mut self, id: DestinationId, wanted: Wanted) {
        let (store, loads) = (Arc::clone(&self.worker.store), Arc::clone(&self.loads));
        match wanted {
            Wanted::Fresh(after, limit) => self.running.spawn(async move {
                match loads.acquire_owned().await {
                    Ok(permit) => Done::Fresh(id, store.load_fresh(id, after, limit).await, permit),
                    // Nobody closes it.
                    Err(_) => std::future::pending().await,
                }
            }),
            Wanted::Due(after, limit) => {
                self.running.spawn(async move { Done::Due(id, store.load_due(id, after, limit).await) })
            }
        };
    }

    pub(super) fn loaded<T>(
        &mut self,
        id: DestinationId,
        page: Result<Page<T>, StoreError>,
        take: impl FnOnce(&mut Lane, Page<T>),
        fail: impl FnOnce(&mut Lane, Timestamp),
    ) {
        let retry_at = self.clock.now() + STORE_RETRY;
        let slot = self.slot(id);
        match page {
            Ok(page) => take(&mut slot.lane, page),
            Err(error) => {
                tracing::error!(destination.id = %id, %error, "waiting deliveries could not be read");
                fail(&mut slot.lane, retry_at);
            }
        }
        self.queue(id);
    }

    fn start_attempt(&mut self, id: DestinationId, mut seat: Seat, items: Vec<Item>) {
        let hosts = self.hosts_of(id);
        let Some(slot) = self.lanes.get_mut(&id) else { return };
        let Some(entry) = slot.entry.clone() else {
            slot.lane.put_back(items, Timestamp::default());
            return;
        };
        let policy = Arc::clone(slot.lane.policy());
        entry.status.begin_flight(items.iter().map(|item| (item.key, item.attempt_count)));
        self.hosts.take(&hosts, self.clock.now());
        let worker = self.worker.clone();
        let bytes = items.iter().map(Item::bytes_in_flight).sum();
        seat.begin(bytes, policy.timeout);
        self.running.spawn(async move {
            let result = worker.attempt(&entry.destination, &policy, items, &hosts).await;
            Done::Attempted(Box::new(Made { id, seat, result }))
        });
    }

    /// Shows callers where the lane stands, and drops it when there is nothing to remember.
    fn note_lane(&mut self, id: DestinationId, now: Timestamp) {
        let Some(slot) = self.lanes.get(&id) else { return };
        let is_idle = slot.lane.is_idle(now);
        if let Some(entry) = &slot.entry {
            entry.status.set_lane(if is_idle { LaneStatus::default() } else { slot.lane.status() });
        }
        if is_idle {
            self.lanes.remove(&id);
            self.agenda.let_sleep(id);
        }
    }
}

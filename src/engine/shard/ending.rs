//! Ending: outcomes go to the store, and nothing is left half-done at a stop.

use std::sync::Arc;

use super::serving::STORE_RETRY;
use super::{Done, Shard};
use crate::domain::delivery::EndReason;
use crate::domain::id::{DestinationId, EventKey};
use crate::engine::lane::Hold;
use crate::engine::ledger::Group;
use crate::engine::worker::give_up;
use crate::store::StoreError;

impl Shard {
    /// Hands all outcomes to the store, one group at a time.
    pub(super) fn settle(&mut self) {
        let Some(group) = self.ledger.next_group(self.clock.now()) else { return };
        let store = Arc::clone(&self.worker.store);
        self.running.spawn(async move {
            let result = group.clone().store(&*store).await;
            Done::Settled(group, result)
        });
    }

    pub(super) fn settled(&mut self, group: Group, result: Result<(), StoreError>) {
        if let Err(StoreError::LeaseLost) = result {
            // Whoever has the lane now makes these deliveries again.
            tracing::warn!("outcomes came after their lanes were lost");
        } else if let Err(error) = result {
            // Where the store has failed for good, what was delivered will be delivered again after the restart.
            tracing::error!(%error, "outcomes could not be recorded, and will be once more");
            self.ledger.not_stored(group, self.clock.now() + STORE_RETRY);
            return;
        }
        self.ledger.stored();
        for (id, keys) in group.keys() {
            self.end_flight(id, &keys);
            if let Some(slot) = self.lanes.get_mut(&id) {
                slot.lane.settled(&keys);
                self.queue(id);
            }
        }
    }

    /// Only once outcomes are stored, so that callers never see a delivery wait again in between.
    pub(super) fn end_flight(&self, id: DestinationId, keys: &[EventKey]) {
        if let Some(entry) = self.rules.store.directory().destination(id) {
            entry.status.end_flight(keys);
        }
    }

    pub(super) fn begin_stop(&mut self) {
        self.rules.stopping = true;
        // What was accepted before the stop may still be there, and best effort is nowhere else.
        self.take_inbox();
        let last_start = self.rules.last_start(self.clock.now());
        for id in self.lanes.keys().copied().collect::<Vec<_>>() {
            let hold = self.rules.hold_of(self.lanes.get(&id).and_then(|slot| slot.entry.as_deref()));
            let lane = &mut self.slot(id).lane;
            match hold {
                Hold::Flushing => lane.begin_flush(last_start),
                Hold::Open | Hold::Held | Hold::Closed => lane.set_hold(hold),
            }
            self.queue(id);
        }
    }

    /// Whether nothing runs any more and nothing is left to send: what a delivery has caused is stored, too.
    pub(super) fn is_flushed(&self) -> bool {
        self.running.is_empty() && !self.lanes.values().any(|slot| slot.lane.must_flush())
    }

    /// Records what was not flushed, and waits until the store has all outcomes.
    pub(super) async fn finish(mut self) {
        // An attempt that has ended by now counts.
        while let Some(done) = self.running.try_join_next() {
            self.take_done(done);
        }
        while self.ledger.is_storing()
            && let Some(done) = self.running.join_next().await
        {
            self.take_done(done);
        }
        self.take_inbox();
        let now = self.clock.now();
        let lanes = std::mem::take(&mut self.lanes);
        for (id, mut slot) in lanes {
            let lost = slot.lane.give_up_memory();
            self.ledger.add(lost.iter().map(|item| give_up(id, item, EndReason::Stopped, now)));
        }
        if let Err(error) = self.ledger.take_rest().store(&*self.worker.store).await {
            tracing::error!(%error, "the last outcomes could not be recorded");
        }
        // Attempts that still run are dropped with the set; they are not counted.
    }
}

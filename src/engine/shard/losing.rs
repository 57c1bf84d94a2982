//! Losing lanes: another replica runs them from here on, or nobody knows until the store answers again.

use super::Shard;
use crate::domain::delivery::EndReason;
use crate::domain::id::DestinationId;
use crate::engine::worker::give_up;
use crate::store::LostLanes;
use crate::store::directory::LaneStatus;

impl Shard {
    /// Drops the lanes that are not ours any more. They may be again by now, but others had them meanwhile.
    pub(super) fn lose_lanes(&mut self, lost: &LostLanes) {
        let ids: Vec<DestinationId> = self.lanes.keys().copied().filter(|id| lost.has(*id)).collect();
        for id in ids {
            self.lose(id);
        }
    }

    /// Drops a lane, unless requests of it are under way: then it begins nothing, and goes with the last of them.
    /// What was in memory alone is given up, on the record; the rest is in the store.
    pub(super) fn lose(&mut self, id: DestinationId) {
        let now = self.clock.now();
        self.agenda.let_sleep(id);
        self.pass_turn_on(id, now);
        let Some(slot) = self.lanes.get_mut(&id) else { return };
        if slot.lane.status().in_flight > 0 {
            slot.lost = true;
            return;
        }
        let lost = slot.lane.give_up_memory();
        self.ledger.add(lost.iter().map(|item| give_up(id, item, EndReason::Stopped, now)));
        if let Some(entry) = &slot.entry {
            entry.status.set_lane(LaneStatus::default());
        }
        self.lanes.remove(&id);
    }
}

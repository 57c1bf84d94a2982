//! What an earlier process held in memory when it ended without an orderly stop: best-effort deliveries whose
//! first attempts had failed. Nobody will send them, so they must not show as waiting.

use super::group::Group;
use super::keys::{self, HELD};
use super::replay::count_for_replay;
use super::settle::{Order, place, stored};
use super::unavailable;
use super::writer::Writer;
use crate::domain::delivery::{DeliveryState, EndReason};
use crate::domain::id::DeliveryId;
use crate::domain::settings::Guarantee;
use crate::store::StoreError;

/// How many are ended in one commit.
const STEP: usize = 256;

impl Writer {
    /// Ends all that earlier processes held. There are at most as many as their windows had room for.
    pub(super) fn abandon_held(&mut self) -> Result<(), StoreError> {
        let mut ended = 0;
        loop {
            let keys = self.db.scan_prefix([HELD]).keys();
            let earlier =
                |key: &sled::IVec| keys::held_of(key).is_none_or(|(opening, _)| opening != self.opening);
            let keys = keys.filter(|key| key.as_ref().map_or(true, earlier)).take(STEP);
            let keys = keys.collect::<Result<Vec<_>, _>>().map_err(|error| unavailable(&error))?;
            if keys.is_empty() {
                break;
            }
            let mut group = self.group();
            for key in keys {
                if let Some((_, id)) = keys::held_of(&key) {
                    ended += usize::from(self.abandon(&mut group, id)?);
                }
                group.remove(key.to_vec());
            }
            group.keep(false)?;
            self.commit(group)?;
        }
        if ended > 0 {
            tracing::info!(deliveries = ended, "best-effort deliveries were lost with the last process");
        }
        Ok(())
    }

    fn abandon(&self, group: &mut Group, id: DeliveryId) -> Result<bool, StoreError> {
        let mut delivery = match stored(group, id) {
            Ok(Some(delivery)) => delivery,
            Ok(None) => return Ok(false),
            Err(StoreError::Corrupt(problem)) => {
                tracing::error!(problem, "a damaged delivery stays as it is");
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        // One that was sent again by a caller waits in the store.
        let DeliveryState::Waiting { due } = delivery.state else { return Ok(false) };
        if delivery.guarantee != Guarantee::BestEffort || group.contains(&keys::due(id, due))? {
            return Ok(false);
        }
        delivery.state = DeliveryState::Discarded { at: self.clock.now(), reason: EndReason::Stopped };
        count_for_replay(group, &mut delivery)?;
        place(group, Order::Unlisted, &delivery, true)?;
        Ok(true)
    }
}

//! Replays: writing them, and the step that puts deliveries back in their lanes.
//!
//! The replay's record is written in the same batch as the deliveries of a step, so that a crash can
//! neither repeat the step nor lose it.

use sled::IVec;

use super::accept::load;
use super::config::put_chunks;
use super::group::{Effect, Group};
use super::keys;
use super::settle::{Order, place};
use super::writer::{Reply, Writer, join};
use crate::domain::delivery::{CycleCause, Delivery, StateKind};
use crate::domain::event::Route;
use crate::domain::id::{DeliveryId, OrganizationId, ReplayId};
use crate::domain::replay::{Replay, ReplayKind, ReplayScope};
use crate::domain::settings::Guarantee;
use crate::domain::time::Timestamp;
use crate::store::record::{decode_replay, encode_event, encode_replay, is_erased};
use crate::store::replay::take_step;
use crate::store::{DueEntry, ReplayAction, ReplayStep, StoreError, lifecycle};

/// What callers ask of the writer about replays.
pub(super) enum ReplayCommand {
    Create(Box<Replay>, Reply<Replay>),
    Step(ReplayId, Box<ReplayStep>, Timestamp, Reply<Replay>),
    Cancel(ReplayId, Timestamp, Reply<Replay>),
}

/// A replay that runs, as far as another one may be in its way.
pub(super) struct Running {
    pub(super) organization_id: OrganizationId,
    pub(super) scope: ReplayScope,
}

impl From<&Replay> for Running {
    fn from(replay: &Replay) -> Self {
        Self { organization_id: replay.organization_id.clone(), scope: replay.scope.clone() }
    }
}

impl Writer {
    pub(super) fn take_replay(
        &mut self,
        group: &mut Group,
        command: ReplayCommand,
    ) -> Result<(), StoreError> {
        match command {
            ReplayCommand::Create(replay, reply) => {
                let result = self.create_replay(group, *replay);
                join(group, true, result, reply)
            }
            ReplayCommand::Step(id, step, now, reply) => {
                // Counting may be forgotten in a crash; it is done again then.
                let sends = matches!(&step.action, ReplayAction::Send { ids, .. } if !ids.is_empty());
                let result = self.step_replay(group, id, *step, now);
                join(group, sends, result, reply)
            }
            ReplayCommand::Cancel(id, now, reply) => {
                let result = self.cancel_replay(group, id, now);
                join(group, true, result, reply)
            }
        }
    }

    fn create_replay(&mut self, group: &mut Group, replay: Replay) -> Result<Replay, StoreError> {
        self.watermark.check()?;
        let rival = self.running_replays.iter().find(|(_, other)| {
            other.organization_id == replay.organization_id && other.scope.overlaps(&replay.scope)
        });
        if let Some((id, _)) = rival {
            return Err(StoreError::ReplayRunning(*id));
        }
        group.put(keys::replay_of(&replay.organization_id, replay.id), Vec::new());
        group.put(keys::running_replay(replay.id), Vec::new());
        put_chunks(group, &keys::replay(replay.id), encode_replay(&replay))?;
        group.effect(Effect::ReplayChanged(replay.id));
        self.running_replays.insert(replay.id, Running::from(&replay));
        Ok(replay)
    }

    fn step_replay(
        &mut self,
        group: &mut Group,
        id: ReplayId,
        step: ReplayStep,
        now: Timestamp,
    ) -> Result<Replay, StoreError> {
        let mut replay = stored(group, id)?.ok_or(StoreError::NotFound)?;
        let send = |replay: &Replay, ids: &[DeliveryId]| {
            if replay.scope.kind == ReplayKind::Missed {
                self.watermark.check()?;
            }
            let mut entries = Vec::with_capacity(ids.len());
            for id in ids {
                entries.extend(self.send(group, replay, *id, now)?);
            }
            Ok(entries)
        };
        let Some(entries) = take_step(&mut replay, step, now, send)? else { return Ok(replay) };
        if !entries.is_empty() {
            group.effect(Effect::Requeued(entries));
        }
        self.put_replay(group, &replay)?;
        Ok(replay)
    }

    /// Puts one delivery in its lane, if the replay still takes it.
    fn send(
        &mut self,
        group: &mut Group,
        replay: &Replay,
        id: DeliveryId,
        now: Timestamp,
    ) -> Result<Option<DueEntry>, StoreError> {
        let taken = match self.taken(group, replay, id) {
            Ok(taken) => taken,
            Err(StoreError::Corrupt(problem)) => {
                tracing::error!(problem, "a replay passes over a damaged delivery");
                None
            }
            Err(error) => return Err(error),
        };
        let Some((mut delivery, order)) = taken else { return Ok(None) };
        if replay.scope.kind == ReplayKind::Missed {
            add_route(group, id)?;
        }
        delivery.replay_id = Some(replay.id);
        let entry = lifecycle::requeue(&mut delivery, CycleCause::Replay, now);
        place(group, order, &delivery, true)?;
        Ok(Some(entry))
    }

    fn taken(
        &mut self,
        group: &Group,
        replay: &Replay,
        id: DeliveryId,
    ) -> Result<Option<(Delivery, Order)>, StoreError> {
        let kind = replay.scope.kind;
        let Some(head) = self.head(group, id.event_key)? else { return Ok(None) };
        let stored_event = group.get(&keys::event(id.event_key))?;
        if stored_event.is_none_or(|stored| is_erased(id.event_key, &stored).unwrap_or(true)) {
            return Ok(None);
        }
        match self.present(group, id)? {
            Some((delivery, order)) => Ok(Some((delivery, order)).filter(|(delivery, _)| {
                kind.takes(delivery.state.kind()) && delivery.organization_id == replay.organization_id
            })),
            None if kind == ReplayKind::Missed => {
                let delivery = lifecycle::fresh(&head, id.destination_id, Guarantee::AtLeastOnce);
                Ok(Some((delivery, Order::Unlisted)))
            }
            None => Ok(None),
        }
    }

    fn cancel_replay(
        &mut self,
        group: &mut Group,
        id: ReplayId,
        now: Timestamp,
    ) -> Result<Replay, StoreError> {
        let mut replay = stored(group, id)?.ok_or(StoreError::NotFound)?;
        if replay.cancel(now) {
            self.put_replay(group, &replay)?;
            group.effect(Effect::ReplayChanged(id));
        }
        Ok(replay)
    }

    fn put_replay(&mut self, group: &mut Group, replay: &Replay) -> Result<(), StoreError> {
        put_chunks(group, &keys::replay(replay.id), encode_replay(replay))?;
        if !replay.state.is_running() {
            group.remove_if_present(keys::running_replay(replay.id))?;
            self.running_replays.remove(&replay.id);
        }
        Ok(())
    }
}

/// Notes with the event that it goes to this destination, too: what removes events finds deliveries by it.
fn add_route(group: &mut Group, id: DeliveryId) -> Result<(), StoreError> {
    let Some(mut event) = load(group, id.event_key)? else { return Ok(()) };
    if event.routes.iter().any(|route| route.destination_id == id.destination_id) {
        return Ok(());
    }
    event.routes.push(Route { destination_id: id.destination_id, guarantee: Guarantee::AtLeastOnce });
    let stored = encode_event(&event);
    group.put(keys::event(event.key), stored.record);
    for (number, chunk) in (0_u16..).zip(stored.chunks) {
        group.put(keys::chunk(event.key, number), chunk);
    }
    Ok(())
}

/// Tells the replay that put the delivery in its lane how it has ended, if it has.
pub(super) fn count_for_replay(group: &mut Group, delivery: &mut Delivery) -> Result<(), StoreError> {
    let success = delivery.state.kind() == StateKind::Succeeded;
    let Some(id) = delivery.replay_id.take_if(|_| delivery.state.is_finished()) else { return Ok(()) };
    match stored(group, id) {
        Ok(Some(mut replay)) => {
            replay.ended(success);
            put_chunks(group, &keys::replay(id), encode_replay(&replay))
        }
        Ok(None) => Ok(()),
        // What becomes of deliveries matters more than how many they are.
        Err(StoreError::Corrupt(problem)) => {
            tracing::error!(problem, "an outcome is not counted for its replay");
            Ok(())
        }
        Err(error) => Err(error),
    }
}

pub(super) fn stored(group: &Group, id: ReplayId) -> Result<Option<Replay>, StoreError> {
    let chunks = chunks(id, |key| group.get(key))?;
    if chunks.is_empty() { Ok(None) } else { decode_replay(id, &chunks).map(Some) }
}

/// The chunks of a replay, in order.
pub(super) fn chunks(
    id: ReplayId,
    get: impl Fn(&[u8]) -> Result<Option<IVec>, StoreError>,
) -> Result<Vec<IVec>, StoreError> {
    let mut found = Vec::new();
    for number in 0..u16::MAX {
        match get(&keys::numbered(&keys::replay(id), number))? {
            Some(chunk) => found.push(chunk),
            None => break,
        }
    }
    Ok(found)
}

//! Replays: kept, listed, and stepped. A step writes the replay and the deliveries that it puts back in one
//! transaction, and only from where the replay stands.

use std::collections::HashMap;

use tokio_postgres::Row;
use uuid::Uuid;

use super::connect::{Tx, query};
use super::fault::Fault;
use super::rows::{self, limit, of_key};
use super::write::Placed;
use super::{Core, listen};
use crate::domain::delivery::CycleCause;
use crate::domain::event::{Event, Route};
use crate::domain::id::{DeliveryId, EventKey, ReplayId};
use crate::domain::replay::{Replay, ReplayKind};
use crate::domain::settings::Guarantee;
use crate::domain::time::Timestamp;
use crate::store::record::{EventHead, decode_replay, encode_replay, encode_whole_event};
use crate::store::replay::take_step;
use crate::store::riders::Riders;
use crate::store::{DueEntry, ReplayAction, ReplayPage, ReplayQuery, ReplayStep, StoreError, lifecycle};

/// How many replays one call looks at.
const REPLAYS_SCANNED: i64 = 2000;

impl Core {
    pub(super) async fn create_replay(&self, replay: &Replay, riders: &Riders) -> Result<Replay, Fault> {
        let tx = Tx::begun(&self.writes).await?;
        // One after the other, over all replicas.
        tx.query("SELECT 1 FROM sequencer FOR UPDATE", &[]).await?;
        let organization_id = replay.organization_id.as_str();
        for row in tx.query(RUNNING_OF, &[&organization_id]).await? {
            let other = replay_of(&row)?;
            if other.scope.overlaps(&replay.scope) {
                return Err(StoreError::ReplayRunning(other.id).into());
            }
        }
        let (id, running, record) = (of_id(replay.id), replay.state.is_running(), encode_replay(replay));
        tx.query(PUT, &[&id, &organization_id, &running, &record]).await?;
        tx.query("INSERT INTO replay_ends (replay_id) VALUES ($1)", &[&id]).await?;
        let told = self.ride(&tx, riders, 1).await?;
        self.notify(&tx, vec![listen::replay_changed(&self.leases, replay.id)]).await?;
        tx.commit().await?;
        self.told(told).await;
        self.tell(|listener| listener.replay_changed(replay.id));
        Ok(replay.clone())
    }

    pub(super) async fn replay(&self, id: ReplayId) -> Result<Option<Replay>, Fault> {
        let client = self.reads.get().await?;
        let rows = query(&client, ONE, &[&of_id(id)]).await?;
        Ok(rows.first().map(replay_of).transpose()?)
    }

    pub(super) async fn replays(&self, asked: &ReplayQuery) -> Result<ReplayPage, Fault> {
        let client = self.reads.get().await?;
        let after = asked.after.map_or(Uuid::max(), of_id);
        let rows = query(&client, LIST, &[&asked.organization_id.as_str(), &after, &REPLAYS_SCANNED]).await?;
        let mut page = ReplayPage { rows: Vec::new(), next: None };
        for row in &rows {
            if page.rows.len() == asked.limit {
                page.next = page.rows.last().map(|replay: &Replay| replay.id);
                return Ok(page);
            }
            let replay = replay_of(row)?;
            if asked.states.is_empty() || asked.states.contains(&replay.state.kind()) {
                page.rows.push(replay);
            }
        }
        if limit(rows.len()) == REPLAYS_SCANNED {
            page.next = rows.last().map(|row| id_of(row.get(0)));
        }
        Ok(page)
    }

    pub(super) async fn running_replays(&self) -> Result<Vec<Replay>, Fault> {
        let client = self.reads.get().await?;
        let rows = query(&client, RUNNING, &[]).await?;
        let replays = rows.iter().filter_map(|row| match replay_of(row) {
            Ok(replay) => Some(replay),
            Err(error) => {
                tracing::error!(%error, "a replay can't be read, so it does not go on");
                None
            }
        });
        Ok(replays.collect())
    }

    pub(super) async fn step_replay(
        &self,
        id: ReplayId,
        step: &ReplayStep,
        now: Timestamp,
    ) -> Result<Replay, Fault> {
        let tx = Tx::begun(&self.writes).await?;
        let rows = tx.query(LOCK, &[&of_id(id)]).await?;
        let mut replay = replay_of(rows.first().ok_or_else(super::change::gone)?)?;
        let mut sent = Sent::default();
        if let ReplayAction::Send { ids, .. } = &step.action
            && replay.state == step.from
        {
            sent = self.send(&tx, &replay, ids, now).await?;
        }
        let entries = std::mem::take(&mut sent.entries);
        let taken = take_step(&mut replay, step.clone(), now, |_, _| Ok(entries))?;
        let Some(entries) = taken else {
            tx.roll_back().await;
            return Ok(replay);
        };
        let bytes = self.write_deliveries(&tx, &sent.placed).await?;
        tx.query(SET, &[&of_id(id), &replay.state.is_running(), &encode_replay(&replay)]).await?;
        self.notify(&tx, listen::requeued(&self.leases, &entries)).await?;
        tx.commit().await?;
        self.publish(&sent.placed, bytes);
        self.tell_requeued(&entries).await;
        Ok(replay)
    }

    /// Begins a cycle for those that the replay takes; each comes back once, however often it is named.
    async fn send(
        &self,
        tx: &Tx,
        replay: &Replay,
        ids: &[DeliveryId],
        now: Timestamp,
    ) -> Result<Sent, Fault> {
        let ids: Vec<DeliveryId> = lifecycle::distinct(ids).collect();
        let kind = replay.scope.kind;
        // Only missed events get another route.
        let sql = if kind == ReplayKind::Missed { LOCK_EVENTS } else { super::change::EVENTS };
        let events = events_of(tx, &ids, sql).await?;
        let mut present = self.present(tx, &ids).await?;
        let mut sent = Sent::default();
        for id in &ids {
            let Some(event) = events.get(&id.event_key).filter(|event| event.erased_at.is_none()) else {
                continue;
            };
            let one = match present.remove(id) {
                Some(one) if !kind.takes(one.delivery.state.kind()) => continue,
                Some(one) if one.delivery.organization_id != replay.organization_id => continue,
                Some(one) => one.placed(),
                None if kind == ReplayKind::Missed => {
                    let head = EventHead::from(event);
                    let new = lifecycle::fresh(&head, id.destination_id, Guarantee::AtLeastOnce);
                    Placed::new(new, None, false)
                }
                None => continue,
            };
            if kind == ReplayKind::Missed {
                add_route(tx, event, *id).await?;
            }
            sent.add(one, replay.id, now);
        }
        Ok(sent)
    }

    pub(super) async fn cancel_replay(
        &self,
        id: ReplayId,
        now: Timestamp,
        riders: &Riders,
    ) -> Result<Replay, Fault> {
        let tx = Tx::begun(&self.writes).await?;
        let rows = tx.query(LOCK, &[&of_id(id)]).await?;
        let mut replay = replay_of(rows.first().ok_or_else(super::change::gone)?)?;
        if !replay.cancel(now) {
            tx.roll_back().await;
            return Ok(replay);
        }
        tx.query(SET, &[&of_id(id), &false, &encode_replay(&replay)]).await?;
        let told = self.ride(&tx, riders, 1).await?;
        self.notify(&tx, vec![listen::replay_changed(&self.leases, id)]).await?;
        tx.commit().await?;
        self.told(told).await;
        self.tell(|listener| listener.replay_changed(id));
        Ok(replay)
    }
}

/// What a step puts back.
#[derive(Default)]
struct Sent {
    entries: Vec<DueEntry>,
    placed: Vec<Placed>,
}

impl Sent {
    fn add(&mut self, mut one: Placed, replay: ReplayId, now: Timestamp) {
        one.ends = None;
        one.delivery.replay_id = Some(replay);
        self.entries.push(lifecycle::requeue(&mut one.delivery, CycleCause::Replay, now));
        self.placed.push(one);
    }
}

async fn events_of(tx: &Tx, ids: &[DeliveryId], sql: &str) -> Result<HashMap<EventKey, Event>, Fault> {
    let keys: Vec<Uuid> = ids.iter().map(|id| of_key(id.event_key)).collect();
    let mut events = HashMap::with_capacity(keys.len());
    for row in tx.query(sql, &[&keys]).await? {
        let key = rows::key(row.get(0));
        match rows::event(key, row.get(1)) {
            Ok(event) => drop(events.insert(key, event)),
            Err(error) => tracing::error!(%error, "a replay passes over a damaged event"),
        }
    }
    Ok(events)
}

/// Notes with the event that it goes to this destination, too: what removes events finds deliveries by it.
async fn add_route(tx: &Tx, event: &Event, id: DeliveryId) -> Result<(), Fault> {
    if event.routes.iter().any(|route| route.destination_id == id.destination_id) {
        return Ok(());
    }
    let mut event = event.clone();
    event.routes.push(Route { destination_id: id.destination_id, guarantee: Guarantee::AtLeastOnce });
    let sql = "UPDATE events SET record = $2, bucket = NULL WHERE event_key = $1";
    tx.query(sql, &[&of_key(event.key), &encode_whole_event(&event)]).await.map(drop)
}

/// The replay of a row, with the ends that are counted beside it.
pub(super) fn replay_of(row: &Row) -> Result<Replay, StoreError> {
    let mut replay = decode_replay(id_of(row.get(0)), &row.get::<_, Vec<Vec<u8>>>(1))?;
    let count = |column: usize| u64::try_from(row.get::<_, i64>(column)).unwrap_or(0);
    (replay.succeeded, replay.failed) = (count(2), count(3));
    Ok(replay)
}

pub(super) fn of_id(id: ReplayId) -> Uuid {
    Uuid::from_bytes(*id.as_bytes())
}

pub(super) fn id_of(value: Uuid) -> ReplayId {
    ReplayId::from_bytes(*value.as_bytes())
}

const PUT: &str = "INSERT INTO replays (id, organization_id, running, record) VALUES ($1, $2, $3, $4)";
const SET: &str = "UPDATE replays SET running = $2, record = $3 WHERE id = $1";
const ONE: &str = "SELECT r.id, r.record, n.succeeded, n.failed FROM replays r
    JOIN replay_ends n ON n.replay_id = r.id WHERE r.id = $1";
const LOCK: &str = "SELECT r.id, r.record, n.succeeded, n.failed FROM replays r
    JOIN replay_ends n ON n.replay_id = r.id WHERE r.id = $1 FOR UPDATE OF r";
const LIST: &str = "SELECT r.id, r.record, n.succeeded, n.failed FROM replays r
    JOIN replay_ends n ON n.replay_id = r.id WHERE r.organization_id = $1 AND r.id < $2 ORDER BY r.id DESC LIMIT $3";
const RUNNING: &str = "SELECT r.id, r.record, n.succeeded, n.failed FROM replays r
    JOIN replay_ends n ON n.replay_id = r.id WHERE r.running ORDER BY r.id";
const RUNNING_OF: &str = "SELECT r.id, r.record, n.succeeded, n.failed FROM replays r
    JOIN replay_ends n ON n.replay_id = r.id WHERE r.running AND r.organization_id = $1";
const LOCK_EVENTS: &str =
    "SELECT event_key, record FROM events WHERE event_key = ANY($1::uuid[]) ORDER BY event_key FOR UPDATE";

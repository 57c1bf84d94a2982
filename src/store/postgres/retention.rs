//! Removing what is too old: days of events as a whole where nothing in them is needed any more, and single events
//! where that has not come about in time, or where somebody's events are kept for a shorter time than the others'.

use std::collections::HashMap;

use tokio_postgres::Row;
use uuid::Uuid;

use super::Core;
use super::change::{Present, ending};
use super::connect::{Tx, query};
use super::fault::Fault;
use super::partitions::{self, first_key};
use super::replay::{id_of, of_id, replay_of};
use super::rows::{self, delivery_id, limit, of_destination, of_key, split};
use super::size::ROW_BYTES;
use crate::domain::delivery::{DeliveryState, EndReason, StateKind};
use crate::domain::event::Event;
use crate::domain::id::{DeliveryId, EventKey, ReplayId};
use crate::domain::settings::Guarantee;
use crate::domain::time::Timestamp;
use crate::store::retention::{
    Cuts, Remains, RemovedEarly, SweepFrom, Swept, Trace, expiring, is_replay_over, remains_of,
};

/// How many rows one step looks at.
const ROWS_LOOKED_AT: usize = 1000;
/// How many ids of dropped events go in one statement.
const IDS_AT_ONCE: i64 = 5000;

impl Core {
    pub(super) async fn sweep(&self, cuts: &Cuts, from: SweepFrom, budget: usize) -> Result<Swept, Fault> {
        match from {
            SweepFrom::DeadLetters(after) => self.sweep_dead_letters(cuts, after, budget).await,
            SweepFrom::Events(after) => {
                let dropped = if after.is_none() && !cuts.early { self.drop_days(cuts).await? } else { 0 };
                let swept = self.sweep_events(cuts, after, budget).await?;
                Ok(Swept { removed: swept.removed + dropped, ..swept })
            }
            SweepFrom::Replays(after) => self.sweep_replays(cuts, after, budget).await,
        }
    }

    // === Dead letters ===

    async fn sweep_dead_letters(
        &self,
        cuts: &Cuts,
        after: Option<DeliveryId>,
        budget: usize,
    ) -> Result<Swept, Fault> {
        let (owner, key) = after.map_or((Uuid::nil(), Uuid::nil()), |id| {
            (of_destination(id.destination_id), of_key(id.event_key))
        });
        let client = self.reads.get().await?;
        let rows = query(&client, DEAD_LETTERS, &[&owner, &key, &limit(ROWS_LOOKED_AT)]).await?;
        drop(client);
        let mut swept = Swept { next: Some(SweepFrom::Events(None)), ..Swept::default() };
        let mut expired = Vec::new();
        for row in &rows {
            let id = delivery_id(row);
            // What is damaged stays, for whoever looks into it.
            let Ok(delivery) = rows::delivery(id, row.get(2)) else { continue };
            swept.expiring.extend(expiring(&delivery, cuts));
            if matches!(delivery.state, DeliveryState::DeadLettered { at, .. } if at <= cuts.dead_letters) {
                expired.push(id);
            }
            if expired.len() >= budget {
                swept.next = Some(SweepFrom::DeadLetters(Some(id)));
                break;
            }
        }
        if rows.len() == ROWS_LOOKED_AT && expired.len() < budget {
            swept.next = rows.last().map(|row| SweepFrom::DeadLetters(Some(delivery_id(row))));
        }
        if !expired.is_empty() {
            let into = expired_at(cuts.now);
            swept.expired = self
                .end(&expired, (StateKind::DeadLettered, &into), &crate::store::riders::Riders::default())
                .await?
                .len();
        }
        Ok(swept)
    }

    // === Events ===

    async fn sweep_events(
        &self,
        cuts: &Cuts,
        after: Option<EventKey>,
        budget: usize,
    ) -> Result<Swept, Fault> {
        let mut swept = Swept { next: Some(SweepFrom::Replays(None)), ..Swept::default() };
        let end = Timestamp::from_millis(self.single_cuts(cuts).latest().as_millis().saturating_add(1));
        let (after, end) = (after.map_or(Uuid::nil(), of_key), of_key(EventKey::lower_bound(end)));
        let client = self.reads.get().await?;
        let rows = query(&client, EVENTS_BETWEEN, &[&after, &end, &limit(ROWS_LOOKED_AT)]).await?;
        drop(client);
        let single = self.single_cuts(cuts);
        let mut old = Vec::new();
        for row in &rows {
            let key = rows::key(row.get(0));
            // What is damaged stays, for whoever looks into it.
            let event = rows::event(key, row.get(1)).ok();
            old.extend(event.filter(|event| event.accepted_at <= single.history_of(&event.organization_id)));
            if old.len() >= budget {
                swept.next = Some(SweepFrom::Events(Some(key)));
                break;
            }
        }
        if rows.len() == ROWS_LOOKED_AT && old.len() < budget {
            swept.next = rows.last().map(|row| SweepFrom::Events(Some(rows::key(row.get(0)))));
        }
        if !old.is_empty() {
            (swept.removed, swept.expired) = self.remove_old(&old, cuts).await?;
        }
        Ok(swept)
    }

    /// When single events are too old: those that go with their days in the end are left for a while.
    fn single_cuts(&self, cuts: &Cuts) -> Cuts {
        let earliest = earliest(cuts);
        if cuts.early {
            return cuts.clone();
        }
        let shift = |cut: Timestamp| if cut == earliest { cut - self.whole_days } else { cut };
        let exceptions = cuts.exceptions.iter().map(|(id, cut)| (id.clone(), shift(*cut))).collect();
        Cuts { history: shift(cuts.history), exceptions, ..cuts.clone() }
    }

    /// Removes those of the events that are over; answers how many, and how many dead letters went with them.
    async fn remove_old(&self, old: &[Event], cuts: &Cuts) -> Result<(usize, usize), Fault> {
        let tx = Tx::begun(&self.writes).await?;
        let ids: Vec<DeliveryId> = old.iter().flat_map(deliveries_of).collect();
        let mut present = self.present(&tx, &ids).await?;
        let mut doomed = Vec::new();
        for event in old {
            let trace = |id, guarantee| Ok(self.trace(&present, id, guarantee));
            if let Some(remains) = remains_of(event, cuts, trace)? {
                doomed.push((event, remains));
            }
        }
        if doomed.is_empty() {
            tx.roll_back().await;
            return Ok((0, 0));
        }
        let letters: Vec<DeliveryId> =
            doomed.iter().flat_map(|(_, remains)| remains.dead_letters.clone()).collect();
        present.retain(|id, _| letters.contains(id));
        let (expired, placed) = ending(&letters, present, (StateKind::DeadLettered, &expired_at(cuts.now)));
        let events: Vec<&Event> = doomed.iter().map(|(event, _)| *event).collect();
        let bytes = remove_events(&tx, &events).await?;
        let early = if cuts.early { note_early(&tx, &doomed).await? } else { None };
        self.notify(&tx, super::listen::ended(&self.leases, &expired)).await?;
        tx.commit().await?;
        self.size.note_removed(early);
        self.heads.forget(&events.iter().map(|event| event.key).collect::<Vec<_>>());
        self.publish(&placed, -bytes);
        self.tell_ended(&expired).await;
        Ok((events.len(), expired.len()))
    }

    fn trace(&self, present: &HashMap<DeliveryId, Present>, id: DeliveryId, guarantee: Guarantee) -> Trace {
        let best_effort = guarantee == Guarantee::BestEffort;
        match present.get(&id) {
            Some(Present { stored: None, .. }) => Trace::Fresh,
            Some(one) if one.delivery.state.is_finished() || !best_effort => {
                Trace::Recorded(Box::new(one.delivery.clone()))
            }
            Some(_) | None if best_effort && self.may_hold(id) => Trace::InMemory,
            Some(_) | None => Trace::Absent,
        }
    }

    /// Whether a lane may hold the delivery in memory only. What another replica holds can't be known.
    fn may_hold(&self, id: DeliveryId) -> bool {
        let entry = self.directory.destination(id.destination_id);
        let lane = entry.map(|entry| entry.status.lane()).unwrap_or_default();
        lane.waiting_in_memory > 0 || lane.in_flight > 0 || !self.leases.owns(id.destination_id)
    }

    // === Days ===

    /// Drops the days in which nothing is needed any more; answers how many events went.
    async fn drop_days(&self, cuts: &Cuts) -> Result<usize, Fault> {
        let client = self.writes.get().await?;
        let cut = earliest(cuts);
        let mut events = 0;
        for day in partitions::days(&client).await? {
            if partitions::begins(day + 1) > cut {
                break;
            }
            let (first, end) = (of_key(first_key(day)), of_key(first_key(day + 1)));
            let needed = query(&client, NEEDED, &[&first, &end, &cut.as_millis()]).await?;
            if needed.first().is_none_or(|row| row.get(0)) {
                continue;
            }
            let weighed = query(&client, WEIGH, &[&first, &end]).await?;
            self.partitions.drop_day(&client, day).await?;
            let (count, bytes): (i64, i64) = weighed.first().map_or((0, 0), |row| (row.get(0), row.get(1)));
            let mut ids = 0;
            loop {
                let gone = query(&client, DROP_IDS, &[&first, &end, &IDS_AT_ONCE]).await?;
                ids += limit(gone.len());
                if limit(gone.len()) < IDS_AT_ONCE {
                    break;
                }
            }
            self.size.add(-bytes - ids * ROW_BYTES);
            events += usize::try_from(count).unwrap_or(0);
            tracing::info!(day, events = count, bytes, "a day of events was removed");
        }
        Ok(events)
    }

    // === Replays ===

    async fn sweep_replays(
        &self,
        cuts: &Cuts,
        after: Option<ReplayId>,
        budget: usize,
    ) -> Result<Swept, Fault> {
        let client = self.writes.get().await?;
        let after = after.map_or(Uuid::nil(), of_id);
        let rows = query(&client, ENDED_REPLAYS, &[&after, &limit(ROWS_LOOKED_AT)]).await?;
        let mut swept = Swept::default();
        let mut over = Vec::new();
        for row in &rows {
            if over.len() >= budget {
                break;
            }
            swept.next = Some(SweepFrom::Replays(Some(id_of(row.get(0)))));
            over.extend(
                replay_of(row)
                    .ok()
                    .filter(|replay| is_replay_over(replay, cuts))
                    .map(|replay| of_id(replay.id)),
            );
        }
        if rows.len() < ROWS_LOOKED_AT && over.len() < budget {
            swept.next = None;
        }
        if !over.is_empty() {
            swept.replays = query(&client, REMOVE_REPLAYS, &[&over]).await?.len();
            query(&client, "DELETE FROM replay_ends WHERE replay_id = ANY($1::uuid[])", &[&over]).await?;
        }
        Ok(swept)
    }
}

/// The earliest of all cuts: what came before it is too old for everybody.
fn earliest(cuts: &Cuts) -> Timestamp {
    cuts.exceptions.values().copied().fold(cuts.history, Timestamp::min)
}

const fn expired_at(now: Timestamp) -> DeliveryState {
    DeliveryState::Discarded { at: now, reason: EndReason::DeadLetterExpired }
}

/// The deliveries that an event may have.
pub(super) fn deliveries_of(event: &Event) -> impl Iterator<Item = DeliveryId> + '_ {
    event.routes.iter().map(|route| DeliveryId::new(event.key, route.destination_id))
}

/// Removes events with all that belongs to them, and answers how many bytes that were.
pub(super) async fn remove_events(tx: &Tx, events: &[&Event]) -> Result<i64, Fault> {
    let keys: Vec<Uuid> = events.iter().map(|event| of_key(event.key)).collect();
    let (owners, of) = split(events.iter().flat_map(|event| deliveries_of(event)));
    let mut bytes = weight(&tx.query(REMOVE_DELIVERIES, &[&owners, &of]).await?);
    tx.query(REMOVE_WAITING, &[&owners, &of]).await?;
    tx.query(REMOVE_DUE, &[&owners, &of]).await?;
    bytes += weight(&tx.query(REMOVE_EVENTS, &[&keys]).await?);
    let ids =
        tx.query("DELETE FROM event_ids WHERE event_key = ANY($1::uuid[]) RETURNING 0", &[&keys]).await?;
    Ok(bytes + limit(ids.len()) * ROW_BYTES)
}

fn weight(removed: &[Row]) -> i64 {
    removed.iter().map(|row| i64::from(row.get::<_, i32>(0)) + ROW_BYTES).sum()
}

/// Notes how far early removal has come, with the removal itself.
async fn note_early(tx: &Tx, doomed: &[(&Event, Remains)]) -> Result<Option<RemovedEarly>, Fault> {
    let removed = doomed.iter().map(|(event, remains)| remains.removed_early(event));
    let Some(early) = removed.reduce(|one, other| one.and(Some(other))) else { return Ok(None) };
    tx.query(NOTE_EARLY, &[&early.accepted.as_millis(), &early.changed.as_millis()]).await?;
    Ok(Some(early))
}

const DEAD_LETTERS: &str = "SELECT destination_id, event_key, record FROM deliveries
    WHERE state = 3 AND (destination_id, event_key) > ($1, $2) ORDER BY destination_id, event_key LIMIT $3";
const EVENTS_BETWEEN: &str = "SELECT event_key, record FROM events
    WHERE event_key > $1 AND event_key < $2 ORDER BY event_key LIMIT $3";
const NEEDED: &str = "SELECT
    EXISTS (SELECT 1 FROM waiting WHERE event_key >= $1 AND event_key < $2)
    OR EXISTS (SELECT 1 FROM due WHERE event_key >= $1 AND event_key < $2)
    OR EXISTS (SELECT 1 FROM deliveries WHERE event_key >= $1 AND event_key < $2
               AND (state IN (1, 3) OR (ended_at > $3 AND state <> 6)))";
const WEIGH: &str = "SELECT
    (SELECT count(*) FROM events WHERE event_key >= $1 AND event_key < $2),
    (SELECT coalesce(sum(octet_length(record) + 100), 0)::bigint FROM events WHERE event_key >= $1 AND event_key < $2)
    + (SELECT coalesce(sum(octet_length(record) + 100), 0)::bigint FROM deliveries
       WHERE event_key >= $1 AND event_key < $2)";
const DROP_IDS: &str = "DELETE FROM event_ids WHERE (organization_id, event_id) IN
    (SELECT organization_id, event_id FROM event_ids WHERE event_key >= $1 AND event_key < $2 LIMIT $3) RETURNING 0";
const ENDED_REPLAYS: &str = "SELECT r.id, r.record, n.succeeded, n.failed FROM replays r
    JOIN replay_ends n ON n.replay_id = r.id WHERE r.id > $1 ORDER BY r.id LIMIT $2";
const REMOVE_REPLAYS: &str = "DELETE FROM replays WHERE id = ANY($1::uuid[]) AND NOT running RETURNING 0";
const REMOVE_EVENTS: &str =
    "DELETE FROM events WHERE event_key = ANY($1::uuid[]) RETURNING octet_length(record)";
const REMOVE_DELIVERIES: &str = "DELETE FROM deliveries d USING unnest($1::uuid[], $2::uuid[]) AS gone (d, k)
    WHERE d.destination_id = gone.d AND d.event_key = gone.k RETURNING octet_length(d.record)";
const REMOVE_WAITING: &str = "DELETE FROM waiting w USING unnest($1::uuid[], $2::uuid[]) AS gone (d, k)
    WHERE w.destination_id = gone.d AND w.event_key = gone.k";
const REMOVE_DUE: &str = "DELETE FROM due USING unnest($1::uuid[], $2::uuid[]) AS gone (d, k)
    WHERE due.destination_id = gone.d AND due.event_key = gone.k";
const NOTE_EARLY: &str = "UPDATE installation SET removed_accepted = greatest(removed_accepted, $1),
    removed_changed = greatest(removed_changed, $2)";

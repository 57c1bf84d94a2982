//! Writing deliveries: the record, the order in which it waits, the replay that hears of its end.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::Core;
use super::connect::Tx;
use super::fault::Fault;
use super::rows::{limit, of_destination, of_key, split, state_column};
use super::size::cost;
use crate::domain::delivery::{Delivery, DeliveryState, StateKind};
use crate::domain::id::ReplayId;
use crate::store::changes::slim;
use crate::store::record::{encode_delivery, encode_due};

/// A delivery after a change.
pub(super) struct Placed {
    pub(super) delivery: Delivery,
    /// The bytes of the record that it replaces; absent where it had none.
    pub(super) replaces: Option<usize>,
    /// Whether it has waited as a fresh one until now, and its row is still there.
    pub(super) was_fresh: bool,
    /// Whether it waits in the store, where it waits.
    pub(super) durable: bool,
    /// Whether others are told.
    pub(super) changed: bool,
    /// Which replay is told of its end, and whether it succeeded.
    pub(super) ends: Option<(ReplayId, bool)>,
}

impl Placed {
    /// The delivery as it is now, and how it was stored until now.
    pub(super) fn new(mut delivery: Delivery, replaces: Option<usize>, was_fresh: bool) -> Self {
        let success = delivery.state.kind() == StateKind::Succeeded;
        let replay = delivery.replay_id.take_if(|_| delivery.state.is_finished());
        let ends = replay.map(|id| (id, success));
        Self { delivery, replaces, was_fresh, durable: true, changed: true, ends }
    }

    fn due(&self) -> Option<i64> {
        match self.delivery.state {
            DeliveryState::Waiting { due } if self.durable => Some(due.as_millis()),
            _ => None,
        }
    }

    fn is_held(&self) -> bool {
        !self.durable && !self.delivery.state.is_finished()
    }
}

/// Columns of deliveries.
#[derive(Default)]
struct Records {
    destinations: Vec<Uuid>,
    keys: Vec<Uuid>,
    states: Vec<i16>,
    ended: Vec<Option<i64>>,
    holders: Vec<Option<Uuid>>,
    records: Vec<Vec<u8>>,
}

/// Columns of entries that wait for a due time.
#[derive(Default)]
struct Dues {
    destinations: Vec<Uuid>,
    keys: Vec<Uuid>,
    due: Vec<i64>,
    requeued: Vec<Option<i64>>,
    records: Vec<Vec<u8>>,
}

impl Core {
    /// Writes the deliveries in the transaction, and answers how many bytes more are stored then.
    pub(super) async fn write_deliveries(&self, tx: &Tx, placed: &[Placed]) -> Result<i64, Fault> {
        let (records, bytes) = self.records(placed);
        let dues = dues(placed);
        let fresh = split(placed.iter().filter(|one| one.was_fresh).map(|one| one.delivery.id));
        // A delivery without a record has never waited for a due time.
        let undue = placed.iter().filter(|one| one.due().is_none() && one.replaces.is_some());
        let undue = split(undue.map(|one| one.delivery.id));
        if !fresh.0.is_empty() {
            tx.query(REMOVE_WAITING, &[&fresh.0, &fresh.1]).await?;
        }
        if !undue.0.is_empty() {
            tx.query(REMOVE_DUE, &[&undue.0, &undue.1]).await?;
        }
        if !dues.keys.is_empty() {
            let params: [&(dyn tokio_postgres::types::ToSql + Sync); 5] =
                [&dues.destinations, &dues.keys, &dues.due, &dues.requeued, &dues.records];
            tx.query(PUT_DUE, &params).await?;
        }
        if !records.keys.is_empty() {
            let Records { destinations, keys, states, ended, holders, records } = &records;
            tx.query(PUT_DELIVERIES, &[destinations, keys, states, ended, holders, records]).await?;
        }
        for (id, (succeeded, failed)) in ends(placed) {
            let id = Uuid::from_bytes(*id.as_bytes());
            tx.query(COUNT_ENDS, &[&id, &limit(succeeded), &limit(failed)]).await?;
        }
        Ok(bytes)
    }

    /// Tells of the deliveries, after the commit.
    pub(super) fn publish(&self, placed: &[Placed], bytes: i64) {
        self.size.add(bytes);
        let changed = placed.iter().filter(|one| one.changed);
        self.changes.publish(changed.clone().map(|one| slim(&one.delivery)));
        for one in changed {
            let state = &one.delivery.state;
            self.metrics.became(state.kind(), state.reason());
        }
    }

    fn records(&self, placed: &[Placed]) -> (Records, i64) {
        let mut columns = Records::default();
        let mut bytes = 0;
        for one in placed {
            let record = encode_delivery(&one.delivery);
            bytes += match one.replaces {
                Some(replaced) => limit(record.len()) - limit(replaced),
                None => cost(&record),
            };
            columns.destinations.push(of_destination(one.delivery.id.destination_id));
            columns.keys.push(of_key(one.delivery.id.event_key));
            columns.states.push(state_column(&one.delivery.state));
            columns.ended.push(one.delivery.state.finished_at().map(|at| at.as_millis()));
            columns.holders.push(one.is_held().then(|| self.leases.holder()));
            columns.records.push(record);
        }
        (columns, bytes)
    }
}

fn dues(placed: &[Placed]) -> Dues {
    let mut columns = Dues::default();
    for (one, due) in placed.iter().filter_map(|one| Some((one, one.due()?))) {
        let Delivery { id, cycle, attempt_count, .. } = &one.delivery;
        let by_caller = cycle.cause != crate::domain::delivery::CycleCause::Routed;
        columns.destinations.push(of_destination(id.destination_id));
        columns.keys.push(of_key(id.event_key));
        columns.due.push(due);
        columns.requeued.push(by_caller.then(|| cycle.started_at.as_millis()));
        columns.records.push(encode_due(*attempt_count, cycle));
    }
    columns
}

/// How many deliveries of each replay succeeded and failed.
fn ends(placed: &[Placed]) -> BTreeMap<ReplayId, (usize, usize)> {
    let mut ends = BTreeMap::new();
    for (id, success) in placed.iter().filter_map(|one| one.ends) {
        let counts: &mut (usize, usize) = ends.entry(id).or_default();
        if success { counts.0 += 1 } else { counts.1 += 1 }
    }
    ends
}

const REMOVE_WAITING: &str = "DELETE FROM waiting w USING unnest($1::uuid[], $2::uuid[]) AS gone (d, k)
    WHERE w.destination_id = gone.d AND w.event_key = gone.k";
pub(super) const REMOVE_DUE: &str = "DELETE FROM due USING unnest($1::uuid[], $2::uuid[]) AS gone (d, k)
    WHERE due.destination_id = gone.d AND due.event_key = gone.k";
const PUT_DUE: &str = "INSERT INTO due (destination_id, event_key, due_at, requeued_at, record)
    SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::bigint[], $5::bytea[])
    ON CONFLICT (destination_id, event_key) DO UPDATE
    SET due_at = excluded.due_at, requeued_at = excluded.requeued_at, record = excluded.record";
const PUT_DELIVERIES: &str = "INSERT INTO deliveries (destination_id, event_key, state, ended_at, holder, record)
    SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::smallint[], $4::bigint[], $5::uuid[], $6::bytea[])
    ON CONFLICT (destination_id, event_key) DO UPDATE
    SET state = excluded.state, ended_at = excluded.ended_at, holder = excluded.holder, record = excluded.record";
const COUNT_ENDS: &str =
    "UPDATE replay_ends SET succeeded = succeeded + $2, failed = failed + $3 WHERE replay_id = $1";

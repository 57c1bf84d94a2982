//! Settling: one task takes whatever outcomes wait, and writes them as one group.
//!
//! The first round trip proves that the lanes are still this replica's and takes the deliveries; the second writes
//! what they are now. A database that is away is waited for: outcomes are in memory until they are stored, and lanes
//! begin nothing new when too many are.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::Core;
use super::change::LOCK_DELIVERIES;
use super::connect::Tx;
use super::fault::{Fault, again};
use super::rows::{self, bucket_number, delivery_id, of_destination, split};
use super::write::Placed;
use crate::domain::delivery::Delivery;
use crate::domain::destination::DestinationHealth;
use crate::domain::event::NewEvent;
use crate::domain::id::{DeliveryId, DestinationId, EventKey};
use crate::store::record::{EventHead, encode_health};
use crate::store::{Settlement, Stage, StoreError, lifecycle};

/// The most outcomes of a group.
const GROUP: usize = 512;
/// How long to wait before a database that is away is tried again, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// How often it is still tried while the store closes.
const TRIES_AT_CLOSE: u32 = 5;

type Health = Vec<(DestinationId, DestinationHealth)>;

/// A call that waits for the next group.
pub(super) struct Submitted {
    pub(super) settlements: Vec<Settlement>,
    pub(super) health: Health,
    /// What tells of the change as a whole.
    pub(super) told: Vec<NewEvent>,
    pub(super) reply: oneshot::Sender<Result<(), StoreError>>,
}

/// Takes calls until the store is closed and none waits any more.
pub(super) async fn run(core: Arc<Core>, mut calls: mpsc::Receiver<Submitted>) {
    while let Some(first) = calls.recv().await {
        let mut size = first.settlements.len();
        let mut group = vec![first];
        while size < GROUP {
            let Ok(next) = calls.try_recv() else { break };
            size += next.settlements.len();
            group.push(next);
        }
        core.settle_calls(group).await;
    }
}

/// What of a group may be written.
struct Outcomes {
    settlements: Vec<Settlement>,
    health: Health,
    told: Vec<NewEvent>,
}

impl Core {
    async fn settle_calls(&self, calls: Vec<Submitted>) {
        let (mut replies, mut outcomes) =
            (Vec::new(), Outcomes { settlements: Vec::new(), health: Vec::new(), told: Vec::new() });
        for call in calls {
            let buckets: BTreeSet<i16> = buckets_of(&call.settlements, &call.health).into_iter().collect();
            replies.push((call.reply, buckets));
            if !buckets_of(&call.settlements, &call.health).is_empty() {
                outcomes.told.extend(call.told);
            }
            outcomes.settlements.extend(call.settlements);
            outcomes.health.extend(call.health);
        }
        match self.settle_until_stored(outcomes).await {
            Ok(lost) => {
                for (reply, buckets) in replies {
                    let is_lost = buckets.iter().any(|bucket| lost.contains(bucket));
                    drop(reply.send(if is_lost { Err(StoreError::LeaseLost) } else { Ok(()) }));
                }
            }
            Err(fault) => {
                let error = self.failed(fault).to_string();
                for (reply, _) in replies {
                    drop(reply.send(Err(StoreError::Unavailable(error.clone()))));
                }
            }
        }
    }

    /// Writes the outcomes, however long it takes. Answers the buckets whose lanes were lost meanwhile: of those
    /// nothing was written.
    async fn settle_until_stored(&self, mut outcomes: Outcomes) -> Result<BTreeSet<i16>, Fault> {
        let (mut pause, mut tries_at_close, mut lost) = (RETRY.0, 0, BTreeSet::new());
        loop {
            let fault = match self.in_time(async { again!(self.settle_once(&outcomes)) }).await {
                Ok(now_lost) if now_lost.is_empty() => return Ok(lost),
                Ok(now_lost) => {
                    outcomes.leave_out(&now_lost);
                    lost.extend(now_lost);
                    continue;
                }
                Err(fault) => fault,
            };
            tries_at_close += u32::from(self.closing.is_cancelled());
            if !is_passing(&fault) || tries_at_close > TRIES_AT_CLOSE {
                return Err(fault);
            }
            tracing::warn!(%fault, "outcomes wait for the database");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY.1);
        }
    }

    async fn settle_once(&self, outcomes: &Outcomes) -> Result<BTreeSet<i16>, Fault> {
        let settlements = &outcomes.settlements;
        let tx = Tx::on(&self.writes).await?;
        let (lost, known) = self.take(&tx, outcomes).await?;
        if !lost.is_empty() {
            tx.roll_back().await;
            return Ok(lost);
        }
        let (placed, told) = self.apply(&tx, settlements, known).await?;
        let bytes = self.write_deliveries(&tx, &placed).await?;
        write_health(&tx, &outcomes.health).await?;
        let told =
            self.accept_told(&tx, told.into_iter().chain(outcomes.told.iter().cloned()).collect()).await?;
        tx.commit().await?;
        self.told(told).await;
        self.publish(&placed, bytes);
        let retried = |one: &&Settlement| one.attempt.is_some() && !one.state.is_finished();
        settlements.iter().filter(retried).for_each(|_| self.metrics.retried());
        Ok(lost)
    }

    /// Proves that the lanes are ours, takes fresh deliveries off the queue and locks the others.
    async fn take(
        &self,
        tx: &Tx,
        outcomes: &Outcomes,
    ) -> Result<(BTreeSet<i16>, HashMap<DeliveryId, Known>), Fault> {
        let is_fresh = |one: &&Settlement| one.stage == Stage::Fresh;
        let fresh = outcomes.settlements.iter().filter(is_fresh).map(|one| one.id);
        let fresh: BTreeSet<DeliveryId> = fresh.collect();
        let others = outcomes.settlements.iter().map(|one| one.id).filter(|id| !fresh.contains(id));
        let others: BTreeSet<DeliveryId> = others.collect();
        let (fresh_columns, other_columns) = (split(fresh.iter().copied()), split(others));
        let buckets = buckets_of(&outcomes.settlements, &outcomes.health);
        let (prove, own) = (tx.prepare(PROVE).await?, tx.prepare(OWN).await?);
        let (take, lock) = (tx.prepare(TAKE_WAITING).await?, tx.prepare(LOCK_DELIVERIES).await?);
        let holder = self.leases.holder();
        let leased = self.leases.are_shared();
        let (me, mine): ([&(dyn ToSql + Sync); 1], [&(dyn ToSql + Sync); 2]) =
            ([&holder], [&holder, &buckets]);
        let takes: [&(dyn ToSql + Sync); 2] = [&fresh_columns.0, &fresh_columns.1];
        let locks: [&(dyn ToSql + Sync); 2] = [&other_columns.0, &other_columns.1];
        let (_, member, owned, taken, locked) = tokio::try_join!(biased;
            tx.begin(),
            some(leased, tx.run(&prove, &me)),
            some(leased, tx.run(&own, &mine)),
            some(!fresh.is_empty(), tx.run(&take, &takes)),
            some(!other_columns.0.is_empty(), tx.run(&lock, &locks))
        )?;
        let mut lost: BTreeSet<i16> = if leased { buckets.into_iter().collect() } else { BTreeSet::new() };
        if !member.is_empty() {
            lost.retain(|bucket| owned.iter().all(|row| row.get::<_, i16>(0) != *bucket));
        }
        let mut known = HashMap::with_capacity(outcomes.settlements.len());
        for row in &taken {
            known.insert(delivery_id(row), Known::Fresh);
        }
        for row in &locked {
            known.insert(delivery_id(row), Known::read(row));
        }
        // A caller has ended these or sent them again, so there are records of them.
        let missing: Vec<DeliveryId> = fresh.into_iter().filter(|id| !known.contains_key(id)).collect();
        if lost.is_empty() && !missing.is_empty() {
            let (destinations, keys) = split(missing);
            for row in &tx.run(&lock, &[&destinations, &keys]).await? {
                known.insert(delivery_id(row), Known::read(row));
            }
        }
        Ok((lost, known))
    }

    /// What the deliveries are after their outcomes, in the order of these.
    async fn apply(
        &self,
        tx: &Tx,
        settlements: &[Settlement],
        mut known: HashMap<DeliveryId, Known>,
    ) -> Result<(Vec<Placed>, Vec<NewEvent>), Fault> {
        let mut told = Vec::new();
        let heads = self.heads_for(tx, settlements, &known).await?;
        let mut placed: HashMap<DeliveryId, Placed> = HashMap::with_capacity(settlements.len());
        for settlement in settlements {
            let (id, in_memory) = (settlement.id, settlement.stage == Stage::InMemory);
            let fresh = || {
                let head = heads.get(&id.event_key)?;
                Some(lifecycle::fresh(head, id.destination_id, settlement.guarantee))
            };
            let before = match (placed.remove(&id), known.remove(&id)) {
                (Some(earlier), _) => Some((earlier.delivery, earlier.replaces, earlier.ends)),
                (None, Some(Known::Recorded(delivery, bytes))) => Some((*delivery, Some(bytes), None)),
                (None, Some(Known::Fresh) | None) => fresh().map(|delivery| (delivery, None, None)),
            };
            let Some((mut delivery, replaces, ends)) = before else { continue };
            let taken = lifecycle::settle(&mut delivery, settlement.clone());
            if taken {
                told.extend(settlement.told.as_deref().cloned());
            }
            let mut one = Placed::new(delivery, replaces, false);
            one.durable = !(taken && in_memory);
            one.changed = taken;
            one.ends = one.ends.or(ends);
            placed.insert(id, one);
        }
        let mut placed: Vec<Placed> = placed.into_values().collect();
        placed.sort_unstable_by_key(|one| one.delivery.id);
        Ok((placed, told))
    }

    /// The heads that are needed. Where neither the queue nor a record knows the delivery, only an event that is
    /// still stored counts, but for those that were in memory alone.
    async fn heads_for(
        &self,
        tx: &Tx,
        settlements: &[Settlement],
        known: &HashMap<DeliveryId, Known>,
    ) -> Result<HashMap<EventKey, EventHead>, Fault> {
        let (mut sure, mut unsure) = (BTreeSet::new(), BTreeSet::new());
        for settlement in settlements {
            match known.get(&settlement.id) {
                Some(Known::Recorded(..)) => {}
                Some(Known::Fresh) => drop(sure.insert(settlement.id.event_key)),
                None if settlement.stage == Stage::InMemory => drop(sure.insert(settlement.id.event_key)),
                None => drop(unsure.insert(settlement.id)),
            }
        }
        let mut heads = self.heads_of(tx, sure.iter().copied()).await?;
        if !unsure.is_empty() {
            let unsure: Vec<DeliveryId> = unsure.into_iter().collect();
            let there = self.sendable(tx, &unsure).await?;
            heads.extend(self.heads_of(tx, there.iter().copied()).await?);
        }
        Ok(heads)
    }
}

/// A delivery as the store knows it before it is settled.
enum Known {
    /// It waited for its first attempt, and was taken off the queue.
    Fresh,
    /// It has a record of so many bytes.
    Recorded(Box<Delivery>, usize),
}

impl Known {
    fn read(row: &Row) -> Self {
        let id = delivery_id(row);
        let record: &[u8] = row.get(2);
        match rows::delivery(id, record) {
            Ok(delivery) => Self::Recorded(Box::new(delivery), record.len()),
            // Outcomes go on; what was damaged is written anew, without its earlier attempts.
            Err(error) => {
                tracing::error!(%error, "delivery record replaced");
                Self::Fresh
            }
        }
    }
}

impl Outcomes {
    fn leave_out(&mut self, lost: &BTreeSet<i16>) {
        self.settlements.retain(|one| !lost.contains(&bucket_number(one.id.destination_id)));
        self.health.retain(|(id, _)| !lost.contains(&bucket_number(*id)));
    }
}

fn buckets_of(settlements: &[Settlement], health: &Health) -> Vec<i16> {
    let settled = settlements.iter().map(|one| one.id.destination_id);
    let ids = settled.chain(health.iter().map(|(id, _)| *id));
    ids.map(bucket_number).collect::<BTreeSet<_>>().into_iter().collect()
}

async fn some(
    there_is: bool,
    work: impl Future<Output = Result<Vec<Row>, Fault>>,
) -> Result<Vec<Row>, Fault> {
    if there_is { work.await } else { Ok(Vec::new()) }
}

async fn write_health(tx: &Tx, health: &Health) -> Result<(), Fault> {
    // The last one of a destination counts.
    let latest: HashMap<DestinationId, &DestinationHealth> =
        health.iter().map(|(id, one)| (*id, one)).collect();
    let mut latest: Vec<_> = latest.into_iter().collect();
    latest.sort_unstable_by_key(|(id, _)| *id);
    if latest.is_empty() {
        return Ok(());
    }
    let (ids, records): (Vec<Uuid>, Vec<Vec<u8>>) =
        latest.into_iter().map(|(id, health)| (of_destination(id), encode_health(health))).unzip();
    tx.query(PUT_HEALTH, &[&ids, &records]).await.map(drop)
}

/// Whether the same may succeed later: the database is away, full, or overburdened.
fn is_passing(fault: &Fault) -> bool {
    match fault {
        Fault::Silent | Fault::NoConnection(_) => true,
        Fault::Store(_) => false,
        Fault::Database(error) => match error.code() {
            // The connection itself.
            None => true,
            // Connection, resources, intervention, conflict, a transaction that was ended, read-only after a failover.
            Some(code) => {
                ["08", "53", "57", "40", "25", "55", "28", "3D"]
                    .iter()
                    .any(|class| code.code().starts_with(class))
                    || *code == SqlState::IO_ERROR
            }
        },
    }
}

const PROVE: &str = "SELECT 1 FROM members WHERE id = $1 FOR KEY SHARE";
const OWN: &str = "SELECT bucket FROM buckets WHERE owner = $1 AND bucket = ANY($2::smallint[])";
pub(super) const TAKE_WAITING: &str =
    "DELETE FROM waiting w USING unnest($1::uuid[], $2::uuid[]) AS taken (d, k)
    WHERE w.destination_id = taken.d AND w.event_key = taken.k RETURNING w.destination_id, w.event_key";
// A lane may settle its last attempts after its destination was deleted.
const PUT_HEALTH: &str = "INSERT INTO health (destination_id, record)
    SELECT u.id, u.record FROM unnest($1::uuid[], $2::bytea[]) AS u (id, record) JOIN destinations d ON d.id = u.id
    ON CONFLICT (destination_id) DO UPDATE SET record = excluded.record";

//! Sending deliveries again, and ending them, at a caller's wish.

use std::collections::HashMap;

use super::connect::Tx;
use super::fault::Fault;
use super::rows::{self, delivery_id, of_key, split};
use super::write::Placed;
use super::{Core, listen};
use crate::domain::delivery::{CycleCause, Delivery, DeliveryState, StateKind};
use crate::domain::id::{DeliveryId, EventKey};
use crate::domain::settings::Guarantee;
use crate::domain::time::Timestamp;
use crate::store::record::{EventHead, decode_head, is_erased};
use crate::store::riders::Riders;
use crate::store::{DueEntry, StoreError, lifecycle};

/// A delivery as it is stored, locked until the transaction ends.
pub(super) struct Present {
    pub(super) delivery: Delivery,
    /// The bytes of its record, where it has one.
    pub(super) stored: Option<usize>,
}

impl Present {
    pub(super) fn placed(self) -> Placed {
        let was_fresh = self.stored.is_none();
        Placed::new(self.delivery, self.stored, was_fresh)
    }
}

impl Core {
    /// The deliveries as callers mean them: with a record, or fresh. Locked in the order of their ids.
    pub(super) async fn present(
        &self,
        tx: &Tx,
        ids: &[DeliveryId],
    ) -> Result<HashMap<DeliveryId, Present>, Fault> {
        let (destinations, keys) = split(ids.iter().copied());
        let waiting = tx.query(LOCK_WAITING, &[&destinations, &keys]).await?;
        // After the rows that wait: whoever had them locked may have made records of them.
        let stored = tx.query(LOCK_DELIVERIES, &[&destinations, &keys]).await?;
        let mut present = HashMap::with_capacity(ids.len());
        for row in &stored {
            let id = delivery_id(row);
            let record: &[u8] = row.get(2);
            let delivery = rows::delivery(id, record)?;
            present.insert(id, Present { delivery, stored: Some(record.len()) });
        }
        let fresh: Vec<DeliveryId> = waiting.iter().map(delivery_id).collect();
        let heads = self.heads_of(tx, fresh.iter().map(|id| id.event_key)).await?;
        for id in fresh {
            if let Some(head) = heads.get(&id.event_key) {
                let delivery = lifecycle::fresh(head, id.destination_id, Guarantee::AtLeastOnce);
                present.entry(id).or_insert(Present { delivery, stored: None });
            }
        }
        Ok(present)
    }

    /// What deliveries repeat of these events, out of memory or the store.
    pub(super) async fn heads_of(
        &self,
        tx: &Tx,
        keys: impl Iterator<Item = EventKey> + Clone,
    ) -> Result<HashMap<EventKey, EventHead>, Fault> {
        let mut heads = self.heads.get(keys.clone());
        let missing: Vec<_> = keys.filter(|key| !heads.contains_key(key)).map(of_key).collect();
        if !missing.is_empty() {
            for row in tx.query(EVENTS, &[&missing]).await? {
                let key = rows::key(row.get(0));
                match decode_head(key, row.get(1)) {
                    Ok(head) => drop(heads.insert(key, head)),
                    Err(error) => tracing::error!(%error, "an unreadable event is passed over"),
                }
            }
        }
        Ok(heads)
    }

    /// Which of these events are there and not erased, so that they can be sent again.
    pub(super) async fn sendable(&self, tx: &Tx, ids: &[DeliveryId]) -> Result<Vec<EventKey>, Fault> {
        let keys: Vec<_> = ids.iter().map(|id| of_key(id.event_key)).collect();
        let rows = tx.query(EVENTS, &[&keys]).await?;
        let events = rows.iter().map(|row| (rows::key(row.get(0)), row));
        let sendable = events.filter(|(key, row)| !is_erased(*key, row.get(1)).unwrap_or(true));
        Ok(sendable.map(|(key, _)| key).collect())
    }

    pub(super) async fn requeue(
        &self,
        ids: &[DeliveryId],
        (cause, now): (CycleCause, Timestamp),
        riders: &Riders,
    ) -> Result<Vec<DueEntry>, Fault> {
        let ids: Vec<DeliveryId> = lifecycle::distinct(ids).collect();
        let tx = Tx::begun(&self.writes).await?;
        let sendable = self.sendable(&tx, &ids).await?;
        let mut present = self.present(&tx, &ids).await?;
        let (mut entries, mut placed) = (Vec::new(), Vec::new());
        for id in ids.iter().filter(|id| sendable.contains(&id.event_key)) {
            let Some(mut one) = present.remove(id) else { continue };
            entries.push(lifecycle::requeue(&mut one.delivery, cause, now));
            placed.push(one.placed());
        }
        if entries.is_empty() {
            tx.roll_back().await;
            return Ok(entries);
        }
        let bytes = self.write_deliveries(&tx, &placed).await?;
        let told = self.ride(&tx, riders, entries.len()).await?;
        self.notify(&tx, listen::requeued(&self.leases, &entries)).await?;
        tx.commit().await?;
        self.told(told).await;
        self.publish(&placed, bytes);
        self.tell_requeued(&entries).await;
        Ok(entries)
    }

    pub(super) async fn end(
        &self,
        ids: &[DeliveryId],
        change: (StateKind, &DeliveryState),
        riders: &Riders,
    ) -> Result<Vec<DeliveryId>, Fault> {
        let ids: Vec<DeliveryId> = lifecycle::distinct(ids).collect();
        let tx = Tx::begun(&self.writes).await?;
        let present = self.present(&tx, &ids).await?;
        let (ended, placed) = ending(&ids, present, change);
        if ended.is_empty() {
            tx.roll_back().await;
            return Ok(ended);
        }
        let bytes = self.write_deliveries(&tx, &placed).await?;
        let told = self.ride(&tx, riders, ended.len()).await?;
        self.notify(&tx, listen::ended(&self.leases, &ended)).await?;
        tx.commit().await?;
        self.told(told).await;
        self.publish(&placed, bytes);
        self.tell_ended(&ended).await;
        Ok(ended)
    }
}

/// Those of the deliveries that are in the asked state, and what they are from now on.
pub(super) fn ending(
    ids: &[DeliveryId],
    mut present: HashMap<DeliveryId, Present>,
    (from, into): (StateKind, &DeliveryState),
) -> (Vec<DeliveryId>, Vec<Placed>) {
    let (mut ended, mut placed) = (Vec::new(), Vec::new());
    for id in ids {
        let Some(mut one) = present.remove(id).filter(|one| one.delivery.state.kind() == from) else {
            continue;
        };
        one.delivery.state = into.clone();
        placed.push(one.placed());
        ended.push(*id);
    }
    (ended, placed)
}

/// What an event that can't be found makes of a call about it.
pub(super) fn gone() -> Fault {
    Fault::Store(StoreError::NotFound)
}

const LOCK_WAITING: &str = "SELECT w.destination_id, w.event_key FROM waiting w
    JOIN unnest($1::uuid[], $2::uuid[]) AS asked (d, k) ON w.destination_id = asked.d AND w.event_key = asked.k
    ORDER BY w.destination_id, w.event_key FOR UPDATE OF w";
pub(super) const LOCK_DELIVERIES: &str = "SELECT d.destination_id, d.event_key, d.record FROM deliveries d
    JOIN unnest($1::uuid[], $2::uuid[]) AS asked (d, k) ON d.destination_id = asked.d AND d.event_key = asked.k
    ORDER BY d.destination_id, d.event_key FOR UPDATE OF d";
pub(super) const EVENTS: &str = "SELECT event_key, record FROM events WHERE event_key = ANY($1::uuid[])";

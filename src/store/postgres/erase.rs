//! Erasing: the data of an event, and all that is an organization's, in steps.

use uuid::Uuid;

use super::change::Present;
use super::connect::{Tx, query};
use super::fault::Fault;
use super::retention::{deliveries_of, remove_events};
use super::rows::{self, limit, of_key};
use super::size::ROW_BYTES;
use super::write::Placed;
use super::{Core, listen};
use crate::domain::delivery::{DeliveryState, EndReason};
use crate::domain::event::Event;
use crate::domain::id::{DeliveryId, EventKey, OrganizationId};
use crate::domain::time::Timestamp;
use crate::store::record::{decode_head, encode_whole_event};
use crate::store::retention::{EraseFrom, ErasedEvent, forget_answers, without_data};
use crate::store::riders::Riders;

/// How many events one step looks at.
const ROWS_LOOKED_AT: usize = 1000;

impl Core {
    pub(super) async fn erase_event(
        &self,
        key: EventKey,
        now: Timestamp,
        riders: &Riders,
    ) -> Result<Option<ErasedEvent>, Fault> {
        let tx = Tx::begun(&self.writes).await?;
        let rows =
            tx.query("SELECT record FROM events WHERE event_key = $1 FOR UPDATE", &[&of_key(key)]).await?;
        let Some(stored) = rows.first().map(|row| row.get::<_, &[u8]>(0)) else {
            tx.roll_back().await;
            return Ok(None);
        };
        let event = rows::event(key, stored)?;
        if let Some(at) = event.erased_at {
            tx.roll_back().await;
            return Ok(Some(ErasedEvent { at, ended: Vec::new() }));
        }
        let record = encode_whole_event(&without_data(&event, now));
        tx.query("UPDATE events SET record = $2 WHERE event_key = $1", &[&of_key(key), &record]).await?;
        // A digest of the data would let the data be guessed.
        tx.query("UPDATE event_ids SET digest = '' WHERE event_key = $1", &[&of_key(key)]).await?;
        let (ended, placed) = self.forget(&tx, &event, now).await?;
        let bytes = self.write_deliveries(&tx, &placed).await? + limit(record.len()) - limit(stored.len());
        let told = self.ride(&tx, riders, 1).await?;
        self.notify(&tx, listen::ended(&self.leases, &ended)).await?;
        tx.commit().await?;
        self.told(told).await;
        self.publish(&placed, bytes);
        self.tell_ended(&ended).await;
        Ok(Some(ErasedEvent { at: now, ended }))
    }

    /// What becomes of the deliveries of an event whose data goes.
    async fn forget(
        &self,
        tx: &Tx,
        event: &Event,
        now: Timestamp,
    ) -> Result<(Vec<DeliveryId>, Vec<Placed>), Fault> {
        let ids: Vec<DeliveryId> = deliveries_of(event).collect();
        let mut present = self.present(tx, &ids).await?;
        let (mut ended, mut placed) = (Vec::new(), Vec::new());
        for id in ids {
            let Some(Present { mut delivery, stored }) = present.remove(&id) else { continue };
            forget_answers(&mut delivery);
            let is_over = delivery.state.is_finished();
            if !is_over {
                delivery.state = DeliveryState::Discarded { at: now, reason: EndReason::EventGone };
                ended.push(id);
            }
            let mut one = Present { delivery, stored }.placed();
            one.changed = !is_over;
            placed.push(one);
        }
        Ok((ended, placed))
    }

    pub(super) async fn erase_step(
        &self,
        organization_id: &OrganizationId,
        from: Option<EraseFrom>,
        budget: usize,
    ) -> Result<Option<EraseFrom>, Fault> {
        let from = from.map(|EraseFrom(place)| place).unwrap_or_default();
        let after = match <[u8; 16]>::try_from(from) {
            Ok(key) => EventKey::from_bytes(key),
            Err(_) => EventKey::MIN,
        };
        if after < EventKey::MAX {
            return self.erase_events(organization_id, after, budget).await.map(Some);
        }
        let client = self.writes.get().await?;
        let ids = query(&client, REMOVE_IDS, &[&organization_id.as_str(), &limit(budget)]).await?;
        self.size.add(-limit(ids.len()) * ROW_BYTES);
        if ids.len() >= budget {
            return Ok(Some(end_of_events()));
        }
        query(&client, REMOVE_REPLAYS, &[&organization_id.as_str()]).await?;
        drop(client);
        self.end_erasure(organization_id).await?;
        Ok(None)
    }

    async fn erase_events(
        &self,
        organization_id: &OrganizationId,
        after: EventKey,
        budget: usize,
    ) -> Result<EraseFrom, Fault> {
        let tx = Tx::begun(&self.writes).await?;
        let rows = tx.query(EVENTS_AFTER, &[&of_key(after), &limit(ROWS_LOOKED_AT)]).await?;
        let (mut doomed, mut last) = (Vec::new(), after);
        for row in &rows {
            last = rows::key(row.get(0));
            let record: &[u8] = row.get(1);
            if decode_head(last, record).is_ok_and(|head| head.organization_id == *organization_id) {
                doomed.extend(rows::event(last, record).ok());
            }
            if doomed.len() >= budget {
                break;
            }
        }
        let is_end = rows.len() < ROWS_LOOKED_AT && doomed.len() < budget;
        let events: Vec<&Event> = doomed.iter().collect();
        let bytes = if events.is_empty() { 0 } else { remove_events(&tx, &events).await? };
        tx.commit().await?;
        self.size.add(-bytes);
        self.heads.forget(&events.iter().map(|event| event.key).collect::<Vec<_>>());
        Ok(if is_end { end_of_events() } else { EraseFrom(last.as_bytes().to_vec()) })
    }

    /// Ends what a replica that is gone had in memory alone: nobody will send it.
    pub(super) async fn abandon(&self, holder: Uuid) -> Result<(), Fault> {
        let mut ended = 0;
        loop {
            let tx = Tx::begun(&self.writes).await?;
            let mut placed = Vec::new();
            for row in tx.query(HELD, &[&holder]).await? {
                let id = rows::delivery_id(&row);
                let record: &[u8] = row.get(2);
                let Ok(mut delivery) = rows::delivery(id, record) else { continue };
                if !delivery.state.is_finished() {
                    delivery.state = DeliveryState::Discarded { at: self.now(), reason: EndReason::Stopped };
                }
                placed.push(Placed::new(delivery, Some(record.len()), false));
            }
            if placed.is_empty() {
                tx.roll_back().await;
                break;
            }
            let bytes = self.write_deliveries(&tx, &placed).await?;
            tx.commit().await?;
            ended += placed.len();
            self.publish(&placed, bytes);
        }
        if ended > 0 {
            tracing::info!(deliveries = ended, "best-effort deliveries were lost with their replica");
        }
        Ok(())
    }
}

fn end_of_events() -> EraseFrom {
    EraseFrom(EventKey::MAX.as_bytes().to_vec())
}

const EVENTS_AFTER: &str =
    "SELECT event_key, record FROM events WHERE event_key > $1 ORDER BY event_key LIMIT $2";
const REMOVE_IDS: &str = "DELETE FROM event_ids WHERE (organization_id, event_id) IN
    (SELECT organization_id, event_id FROM event_ids WHERE organization_id = $1 LIMIT $2) RETURNING 0";
const REMOVE_REPLAYS: &str = "WITH gone AS (DELETE FROM replays WHERE organization_id = $1 RETURNING id)
    DELETE FROM replay_ends WHERE replay_id IN (SELECT id FROM gone)";
const HELD: &str = "SELECT destination_id, event_key, record FROM deliveries WHERE holder = $1
    ORDER BY destination_id, event_key LIMIT 256 FOR UPDATE";

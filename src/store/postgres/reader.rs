//! Reading: what lanes ask for, and single things.

use std::collections::HashMap;
use std::sync::Arc;

use uuid::Uuid;

use super::Core;
use super::connect::query;
use super::fault::Fault;
use super::rows::{self, destination, limit, of_destination, of_key};
use crate::domain::delivery::Delivery;
use crate::domain::event::Event;
use crate::domain::id::{DeliveryId, DestinationId, EventId, EventKey, OrganizationId};
use crate::domain::settings::Guarantee;
use crate::domain::time::Timestamp;
use crate::store::record::{EventHead, decode_head};
use crate::store::{Backlog, DueEntry, EVENT_PAGE_BYTES, Page, lifecycle};

impl Core {
    pub(super) async fn load_fresh(
        &self,
        destination_id: DestinationId,
        after: Option<EventKey>,
        rows: usize,
    ) -> Result<Page<Arc<Event>>, Fault> {
        let client = self.reads.get().await?;
        let (id, after) = (of_destination(destination_id), after.map(of_key));
        let (at_most, bytes) = (limit(rows.saturating_add(1)), limit(EVENT_PAGE_BYTES));
        let found = query(&client, FRESH, &[&id, &after, &at_most, &bytes]).await?;
        let mut events = Vec::with_capacity(found.len());
        for row in found.iter().take(rows) {
            let Some(record) = row.get::<_, Option<&[u8]>>(1) else { break };
            events.push(Arc::new(rows::event(rows::key(row.get(0)), record)?));
        }
        let more = found.len() > events.len();
        self.heads.add(events.iter().map(|event| EventHead::from(event.as_ref())));
        Ok(Page { rows: events, more })
    }

    pub(super) async fn load_due(
        &self,
        destination_id: DestinationId,
        after: Option<(Timestamp, EventKey)>,
        rows: usize,
    ) -> Result<Page<DueEntry>, Fault> {
        let client = self.reads.get().await?;
        let id = of_destination(destination_id);
        let (due, key) = after.map_or((i64::MIN, Uuid::nil()), |(due, key)| (due.as_millis(), of_key(key)));
        let found = query(&client, DUE, &[&id, &due, &key, &limit(rows.saturating_add(1))]).await?;
        let more = found.len() > rows;
        let mut entries = Vec::with_capacity(found.len());
        for row in found.iter().take(rows) {
            let id = DeliveryId::new(rows::key(row.get(0)), destination_id);
            entries.push(rows::due_entry(id, Timestamp::from_millis(row.get(1)), row.get(2))?);
        }
        Ok(Page { rows: entries, more })
    }

    /// The entries that callers put there at or after a moment, of lanes in these buckets.
    pub(super) async fn requeued_since(&self, moment: Timestamp) -> Result<Vec<DueEntry>, Fault> {
        let client = self.reads.get().await?;
        let mut entries = Vec::new();
        for row in query(&client, REQUEUED, &[&moment.as_millis()]).await? {
            let id = rows::delivery_id(&row);
            entries.push(rows::due_entry(id, Timestamp::from_millis(row.get(2)), row.get(3))?);
        }
        Ok(entries)
    }

    /// The entries of these deliveries, where they wait for a due time.
    pub(super) async fn due_entries(&self, ids: &[DeliveryId]) -> Result<Vec<DueEntry>, Fault> {
        let client = self.reads.get().await?;
        let (destinations, keys) = rows::split(ids.iter().copied());
        let mut entries = Vec::new();
        for row in query(&client, DUE_OF, &[&destinations, &keys]).await? {
            let id = rows::delivery_id(&row);
            entries.push(rows::due_entry(id, Timestamp::from_millis(row.get(2)), row.get(3))?);
        }
        Ok(entries)
    }

    pub(super) async fn load_events(&self, keys: &[EventKey]) -> Result<Vec<Option<Arc<Event>>>, Fault> {
        let client = self.reads.get().await?;
        let asked: Vec<Uuid> = keys.iter().copied().map(of_key).collect();
        let mut found = HashMap::with_capacity(keys.len());
        for row in query(&client, super::change::EVENTS, &[&asked]).await? {
            let key = rows::key(row.get(0));
            found.insert(key, Arc::new(rows::event(key, row.get(1))?));
        }
        Ok(keys.iter().map(|key| found.get(key).cloned()).collect())
    }

    pub(super) async fn find_event(
        &self,
        organization_id: &OrganizationId,
        event_id: &EventId,
    ) -> Result<Option<Arc<Event>>, Fault> {
        let client = self.reads.get().await?;
        let rows = query(&client, BY_ID, &[&organization_id.as_str(), &event_id.as_str()]).await?;
        let given = rows.first().map(|row| rows::key(row.get(0)));
        drop(client);
        let Some(key) = given.or_else(|| event_id.as_key()) else { return Ok(None) };
        let found = self.load_events(&[key]).await?.pop().flatten();
        Ok(found.filter(|event| event.organization_id == *organization_id && event.id == *event_id))
    }

    pub(super) async fn delivery(&self, id: DeliveryId) -> Result<Option<Delivery>, Fault> {
        let client = self.reads.get().await?;
        let (owner, key) = (of_destination(id.destination_id), of_key(id.event_key));
        // Both in one statement: between two of them a first outcome could come in.
        let rows = query(&client, DELIVERY, &[&owner, &key]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        if let Some(record) = row.get::<_, Option<&[u8]>>(0) {
            return Ok(Some(rows::delivery(id, record)?));
        }
        let Some(event) = row.get::<_, Option<&[u8]>>(1) else { return Ok(None) };
        let head = decode_head(id.event_key, event)?;
        Ok(Some(lifecycle::fresh(&head, id.destination_id, Guarantee::AtLeastOnce)))
    }

    /// The destinations of our lanes for which something waits.
    pub(super) async fn destinations_with_work(&self) -> Result<Vec<DestinationId>, Fault> {
        let client = self.reads.get().await?;
        let rows = query(&client, WITH_WORK, &[]).await?;
        let ids = rows.iter().map(|row| destination(row.get(0)));
        Ok(ids.filter(|id| self.leases.owns(*id)).collect())
    }

    pub(super) async fn backlog(&self, id: DestinationId, cap: usize) -> Result<Backlog, Fault> {
        let client = self.reads.get().await?;
        let (id, capped) = (of_destination(id), limit(cap.saturating_add(1)));
        let rows = query(&client, BACKLOG, &[&id, &capped]).await?;
        let Some(row) = rows.first() else { return Ok(Backlog::default()) };
        let count = |column: usize| usize::try_from(row.get::<_, i64>(column)).unwrap_or(usize::MAX);
        let (waiting, dead_letters) = (count(0) + count(1), count(2));
        let oldest: Option<Uuid> = row.get(3);
        Ok(Backlog {
            count: waiting.min(cap),
            capped: waiting > cap,
            // The time in the key is the time of acceptance.
            oldest: oldest.map(|key| rows::key(key).made_at()),
            dead_letters: dead_letters.min(cap),
        })
    }

    pub(super) async fn ahead(
        &self,
        id: DeliveryId,
        due: Option<Timestamp>,
        cap: usize,
    ) -> Result<usize, Fault> {
        let client = self.reads.get().await?;
        let (owner, key, cap) = (of_destination(id.destination_id), of_key(id.event_key), limit(cap));
        let rows = match due {
            None => query(&client, AHEAD_FRESH, &[&owner, &key, &cap]).await?,
            Some(due) => query(&client, AHEAD_DUE, &[&owner, &key, &cap, &due.as_millis()]).await?,
        };
        let count = rows.first().map_or(0, |row| row.get::<_, i64>(0));
        Ok(usize::try_from(count).unwrap_or(usize::MAX))
    }
}

// Events behind the one with which the page is large enough come without their records: there is more.
pub(super) const FRESH: &str = "SELECT event_key, CASE WHEN bytes_before < $4::bigint THEN record END FROM
    (SELECT event_key, record,
            sum(octet_length(record)) OVER (ORDER BY event_key) - octet_length(record) AS bytes_before
     FROM (SELECT w.event_key, e.record FROM waiting w JOIN events e ON e.event_key = w.event_key
           WHERE w.destination_id = $1
             AND w.event_key > coalesce($2, '00000000-0000-0000-0000-000000000000'::uuid)
           ORDER BY w.event_key LIMIT $3) AS page) AS weighed
    ORDER BY event_key";
pub(super) const DUE: &str = "SELECT event_key, due_at, record FROM due
    WHERE destination_id = $1 AND (due_at, event_key) > ($2, $3) ORDER BY due_at, event_key LIMIT $4";
const REQUEUED: &str = "SELECT destination_id, event_key, due_at, record FROM due WHERE requeued_at >= $1";
const DUE_OF: &str = "SELECT due.destination_id, due.event_key, due.due_at, due.record FROM due
    JOIN unnest($1::uuid[], $2::uuid[]) AS asked (d, k) ON due.destination_id = asked.d AND due.event_key = asked.k";
const BY_ID: &str = "SELECT event_key FROM event_ids WHERE organization_id = $1 AND event_id = $2";
pub(super) const DELIVERY: &str = "SELECT d.record, e.record FROM (SELECT 1) AS one
    LEFT JOIN deliveries d ON d.destination_id = $1 AND d.event_key = $2
    LEFT JOIN waiting w ON w.destination_id = $1 AND w.event_key = $2
    LEFT JOIN events e ON e.event_key = w.event_key";
// Hops from one destination to the next, instead of reading every row that waits.
pub(super) const WITH_WORK: &str = "WITH RECURSIVE fresh AS (
        (SELECT destination_id FROM waiting ORDER BY destination_id LIMIT 1)
        UNION ALL
        SELECT (SELECT w.destination_id FROM waiting w WHERE w.destination_id > fresh.destination_id
                ORDER BY w.destination_id LIMIT 1)
        FROM fresh WHERE fresh.destination_id IS NOT NULL
    ), later AS (
        (SELECT destination_id FROM due ORDER BY destination_id LIMIT 1)
        UNION ALL
        SELECT (SELECT d.destination_id FROM due d WHERE d.destination_id > later.destination_id
                ORDER BY d.destination_id LIMIT 1)
        FROM later WHERE later.destination_id IS NOT NULL
    )
    SELECT destination_id FROM fresh WHERE destination_id IS NOT NULL
    UNION SELECT destination_id FROM later WHERE destination_id IS NOT NULL ORDER BY 1";
const BACKLOG: &str = "SELECT
    (SELECT count(*) FROM (SELECT 1 FROM waiting WHERE destination_id = $1 LIMIT $2) AS w),
    (SELECT count(*) FROM (SELECT 1 FROM due WHERE destination_id = $1 LIMIT $2) AS d),
    (SELECT count(*) FROM (SELECT 1 FROM deliveries WHERE destination_id = $1 AND state = 3 LIMIT $2) AS x),
    (SELECT event_key FROM waiting WHERE destination_id = $1 ORDER BY event_key LIMIT 1)";
const AHEAD_FRESH: &str = "SELECT count(*) FROM
    (SELECT 1 FROM waiting WHERE destination_id = $1 AND event_key < $2 LIMIT $3) AS before";
const AHEAD_DUE: &str = "SELECT count(*) FROM (SELECT 1 FROM due
    WHERE destination_id = $1 AND (due_at, event_key) < ($4, $2) LIMIT $3) AS before";

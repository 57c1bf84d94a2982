//! Lists of deliveries: records and fresh ones merged, newest event first.

use std::cmp::Reverse;

use deadpool_postgres::Object;
use uuid::Uuid;

use super::Core;
use super::connect::query;
use super::fault::Fault;
use super::rows::{self, columns_of, delivery_id, limit, of_destination, of_key, shifted};
use crate::domain::delivery::{Delivery, StateKind};
use crate::domain::id::{DeliveryId, DestinationId, EventKey};
use crate::domain::settings::Guarantee;
use crate::store::record::decode_head;
use crate::store::{DeliveryPage, DeliveryQuery, lifecycle};

/// How many rows one call looks at.
const ROWS_SCANNED: usize = 4000;
/// How many rows are read at once, at least.
const CHUNK: usize = 200;

/// The place of a delivery in the list.
type Position = (Reverse<EventKey>, DestinationId);

fn position(id: DeliveryId) -> Position {
    (Reverse(id.event_key), id.destination_id)
}

/// Some rows of one table in the order of the list.
struct Source {
    rows: Vec<Delivery>,
    /// Behind this place the table may have more.
    until: Option<Position>,
}

impl Core {
    pub(super) async fn deliveries(&self, asked: &DeliveryQuery) -> Result<DeliveryPage, Fault> {
        let client = self.reads.get().await?;
        let mut page = DeliveryPage { rows: Vec::new(), next: None };
        let (mut after, mut scanned) = (asked.after, 0);
        while scanned < ROWS_SCANNED {
            let chunk = CHUNK.max(asked.limit.saturating_add(1)).min(ROWS_SCANNED);
            let (rows, is_end) = merged(&client, asked, after, chunk).await?;
            scanned += rows.len().max(1);
            for delivery in rows {
                if lifecycle::fits(asked, &delivery) {
                    if page.rows.len() >= asked.limit {
                        page.next = page.rows.last().map(|row| row.id).or(asked.after);
                        return Ok(page);
                    }
                    after = Some(delivery.id);
                    page.rows.push(delivery);
                } else {
                    after = Some(delivery.id);
                }
            }
            if is_end {
                return Ok(page);
            }
        }
        page.next = after;
        Ok(page)
    }
}

/// The next rows of the list, and whether they are the last ones.
async fn merged(
    client: &Object,
    asked: &DeliveryQuery,
    after: Option<DeliveryId>,
    chunk: usize,
) -> Result<(Vec<Delivery>, bool), Fault> {
    let bounds: Vec<_> = asked.destination_ids.iter().filter_map(|id| bounds(asked, after, *id)).collect();
    if bounds.is_empty() {
        return Ok((Vec::new(), true));
    }
    // Fresh ones first: one that gets its record in between is then seen twice, and not missed.
    let wants_fresh = asked.states.is_empty() || asked.states.contains(&StateKind::Waiting);
    let fresh = if wants_fresh {
        fresh(client, &bounds, chunk).await?
    } else {
        Source { rows: Vec::new(), until: None }
    };
    let recorded = recorded(client, asked, &bounds, chunk).await?;
    let until = fresh.until.into_iter().chain(recorded.until).min();
    let mut rows = recorded.rows;
    rows.extend(fresh.rows);
    // Stable, so that of two the record comes first.
    rows.sort_by_key(|delivery| position(delivery.id));
    rows.dedup_by_key(|delivery| delivery.id);
    if let Some(until) = until {
        rows.retain(|delivery| position(delivery.id) <= until);
    }
    Ok((rows, until.is_none()))
}

/// A destination and the first and last key that can be in the list.
type Bounds = (Uuid, Uuid, Uuid);

fn columns(bounds: &[Bounds]) -> (Vec<Uuid>, Vec<Uuid>, Vec<Uuid>) {
    let mut columns = (Vec::new(), Vec::new(), Vec::new());
    for (id, first, last) in bounds {
        columns.0.push(*id);
        columns.1.push(*first);
        columns.2.push(*last);
    }
    columns
}

async fn recorded(
    client: &Object,
    asked: &DeliveryQuery,
    bounds: &[Bounds],
    chunk: usize,
) -> Result<Source, Fault> {
    let (ids, first, last) = columns(bounds);
    let states: Vec<i16> = asked.states.iter().copied().flat_map(columns_of).collect();
    let found = if lifecycle::asks_for_dead_letters(asked) {
        query(client, DEAD_LETTERS, &[&ids, &first, &last, &limit(chunk)]).await?
    } else {
        query(client, RECORDED, &[&ids, &first, &last, &limit(chunk), &states]).await?
    };
    let mut rows = Vec::with_capacity(found.len());
    for row in &found {
        rows.push(rows::delivery(delivery_id(row), row.get(2))?);
    }
    let until = (found.len() >= chunk).then(|| found.last().map(|row| position(delivery_id(row)))).flatten();
    Ok(Source { rows, until })
}

async fn fresh(client: &Object, bounds: &[Bounds], chunk: usize) -> Result<Source, Fault> {
    let (ids, first, last) = columns(bounds);
    let found = query(client, FRESH, &[&ids, &first, &last, &limit(chunk)]).await?;
    let mut rows = Vec::with_capacity(found.len());
    for row in &found {
        let id = delivery_id(row);
        if let Some(record) = row.get::<_, Option<&[u8]>>(2) {
            let head = decode_head(id.event_key, record)?;
            rows.push(lifecycle::fresh(&head, id.destination_id, Guarantee::AtLeastOnce));
        }
    }
    let until = (found.len() >= chunk).then(|| found.last().map(|row| position(delivery_id(row)))).flatten();
    Ok(Source { rows, until })
}

/// The first and the last key of a destination that can be in the list; `None` if none can.
fn bounds(asked: &DeliveryQuery, after: Option<DeliveryId>, id: DestinationId) -> Option<Bounds> {
    // Keys have 48 bits of milliseconds; a later time than that bounds nothing.
    let expressible = |millis: i64| millis < 1 << 48;
    // A dead letter is younger than its event, so its time bounds no key from below.
    let from = asked.from.filter(|_| !lifecycle::asks_for_dead_letters(asked));
    if from.is_some_and(|from| !expressible(from.as_millis())) {
        return None;
    }
    let first = from.map_or(EventKey::MIN, EventKey::lower_bound);
    let mut last = match asked.until.filter(|until| expressible(until.as_millis())) {
        Some(until) => shifted(EventKey::lower_bound(until), -1)?,
        None => EventKey::MAX,
    };
    if let Some(after) = after {
        // Of the event listed last, destinations with larger ids are still to come.
        let behind =
            if id > after.destination_id { Some(after.event_key) } else { shifted(after.event_key, -1) };
        last = last.min(behind?);
    }
    (first <= last).then(|| (of_destination(id), of_key(first), of_key(last)))
}

pub(super) const RECORDED: &str = "SELECT x.destination_id, x.event_key, x.record
    FROM unnest($1::uuid[], $2::uuid[], $3::uuid[]) AS asked (d, first, last)
    CROSS JOIN LATERAL (SELECT destination_id, event_key, record FROM deliveries
        WHERE destination_id = asked.d AND event_key >= asked.first AND event_key <= asked.last
          AND (cardinality($5::smallint[]) = 0 OR state = ANY($5::smallint[]))
        ORDER BY event_key DESC LIMIT $4) AS x
    ORDER BY x.event_key DESC, x.destination_id LIMIT $4";
pub(super) const DEAD_LETTERS: &str = "SELECT x.destination_id, x.event_key, x.record
    FROM unnest($1::uuid[], $2::uuid[], $3::uuid[]) AS asked (d, first, last)
    CROSS JOIN LATERAL (SELECT destination_id, event_key, record FROM deliveries
        WHERE destination_id = asked.d AND event_key >= asked.first AND event_key <= asked.last AND state = 3
        ORDER BY event_key DESC LIMIT $4) AS x
    ORDER BY x.event_key DESC, x.destination_id LIMIT $4";
pub(super) const FRESH: &str = "SELECT x.destination_id, x.event_key, e.record
    FROM (SELECT y.destination_id, y.event_key
          FROM unnest($1::uuid[], $2::uuid[], $3::uuid[]) AS asked (d, first, last)
          CROSS JOIN LATERAL (SELECT destination_id, event_key FROM waiting
              WHERE destination_id = asked.d AND event_key >= asked.first AND event_key <= asked.last
              ORDER BY event_key DESC LIMIT $4) AS y
          ORDER BY y.event_key DESC, y.destination_id LIMIT $4) AS x
    LEFT JOIN events e ON e.event_key = x.event_key
    ORDER BY x.event_key DESC, x.destination_id";

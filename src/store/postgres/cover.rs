//! Which deliveries a replay covers, in order of their ids.

use std::collections::HashSet;

use deadpool_postgres::Object;
use tokio_postgres::Row;

use super::Core;
use super::connect::query;
use super::fault::Fault;
use super::rows::{self, delivery_id, limit, of_destination, of_key, shifted};
use crate::domain::delivery::Delivery;
use crate::domain::id::{DeliveryId, DestinationId, EventKey};
use crate::domain::replay::{ReplayKind, ReplayScope};
use crate::store::record::decode_outline;
use crate::store::{CoverPage, CoverQuery, StoreError};

/// How many rows one call looks at, about.
const ROWS_SCANNED: usize = 4000;
/// How many are read at once.
const CHUNK: usize = 500;

impl Core {
    pub(super) async fn covered(&self, asked: &CoverQuery) -> Result<CoverPage, Fault> {
        let client = self.reads.get().await?;
        let mut scan = Scan { page: CoverPage::default(), last: asked.after, rows: 0 };
        for destination_id in asked.destinations_to_come() {
            // A destination costs a look, even if nothing is there.
            if !scan.goes_on(asked) {
                return Ok(scan.page);
            }
            if !self.scan_destination(&client, asked, destination_id, &mut scan).await? {
                return Ok(scan.page);
            }
            scan.last = Some(DeliveryId::new(EventKey::MAX, destination_id));
        }
        Ok(scan.page)
    }

    /// Looks at what a destination has; answers whether that was all.
    async fn scan_destination(
        &self,
        client: &Object,
        asked: &CoverQuery,
        id: DestinationId,
        scan: &mut Scan,
    ) -> Result<bool, Fault> {
        let Some((mut first, last)) = bounds(asked, id) else { return Ok(true) };
        loop {
            let params: [&(dyn tokio_postgres::types::ToSql + Sync); 4] =
                [&of_destination(id), &of_key(first), &of_key(last), &limit(CHUNK)];
            let rows = query(client, statement(asked.scope.kind), &params).await?;
            for row in &rows {
                if !scan.goes_on(asked) {
                    return Ok(false);
                }
                let (delivery, covered) = is_covered(asked, id, row)?;
                scan.look(delivery, covered);
            }
            let Some(next) = rows.last().map(|row| rows::key(row.get(1))).and_then(|key| shifted(key, 1))
            else {
                return Ok(true);
            };
            if rows.len() < CHUNK || next > last {
                return Ok(true);
            }
            first = next;
        }
    }
}

/// What a call has found, and how far it came.
struct Scan {
    page: CoverPage,
    last: Option<DeliveryId>,
    rows: usize,
}

impl Scan {
    /// Whether there is room for another row; if not, the page ends here.
    fn goes_on(&mut self, asked: &CoverQuery) -> bool {
        let goes_on = self.rows < ROWS_SCANNED && self.page.ids.len() < asked.limit;
        self.rows += 1;
        if !goes_on {
            self.page.next = self.last;
        }
        goes_on
    }

    fn look(&mut self, id: DeliveryId, covered: bool) {
        self.last = Some(id);
        if covered {
            self.page.ids.push(id);
        }
    }
}

/// The first and the last key to look at.
fn bounds(asked: &CoverQuery, id: DestinationId) -> Option<(EventKey, EventKey)> {
    let scope = &asked.scope;
    // A dead letter is younger than its event, so its time bounds no key.
    let by_event = scope.kind != ReplayKind::DeadLetters;
    let from = scope.from.filter(|_| by_event).map_or(EventKey::MIN, EventKey::lower_bound);
    let until = match scope.until.filter(|until| by_event && until.as_millis() < 1 << 48) {
        Some(until) => shifted(EventKey::lower_bound(until), -1)?,
        None => EventKey::MAX,
    };
    let (first, last) = scope.event_key.map_or((from, until), |key| (key, key));
    let after = asked.after.filter(|after| after.destination_id == id);
    let first = match after {
        Some(after) => first.max(shifted(after.event_key, 1)?),
        None => first,
    };
    (first <= last).then_some((first, last))
}

fn is_covered(asked: &CoverQuery, id: DestinationId, row: &Row) -> Result<(DeliveryId, bool), StoreError> {
    let key = rows::key(row.get(1));
    let id = DeliveryId::new(key, id);
    let record: Option<&[u8]> = row.get(2);
    if asked.scope.kind != ReplayKind::Missed {
        let delivery = record.map(|record| rows::delivery(delivery_id(row), record));
        return Ok((
            id,
            match delivery {
                Some(Ok(delivery)) => covers(asked, &delivery),
                // The step that would put it back passes over it and counts it.
                Some(Err(_)) => true,
                None => false,
            },
        ));
    }
    match is_missed(asked, id, row) {
        Ok(missed) => Ok((id, missed)),
        Err(StoreError::Corrupt(problem)) => {
            tracing::error!(problem, "a replay passes over an unreadable event");
            Ok((id, false))
        }
        Err(error) => Err(error),
    }
}

fn is_missed(asked: &CoverQuery, id: DeliveryId, row: &Row) -> Result<bool, StoreError> {
    let stored: &[u8] = row.get(3);
    let (head, level) = decode_outline(id.event_key, stored)?;
    let fits = head.organization_id == asked.organization_id
        && asked.scope.has_moment(head.accepted_at)
        && asked.scope.has_type(&head.event_type)
        && (asked.wants)(&head.event_type, level);
    if !fits {
        return Ok(false);
    }
    if let Some(record) = row.get::<_, Option<&[u8]>>(2) {
        return Ok(covers(asked, &rows::delivery(id, record)?));
    }
    if row.get::<_, bool>(4) || !ReplayScope::makes_up_for(&head.event_type) {
        return Ok(false);
    }
    // One that was routed here has its record by now, is best effort, or had its record deleted.
    let event = rows::event(id.event_key, stored)?;
    let routed: HashSet<_> = event.routes.iter().map(|route| route.destination_id).collect();
    Ok(!routed.contains(&id.destination_id))
}

fn covers(asked: &CoverQuery, delivery: &Delivery) -> bool {
    delivery.organization_id == asked.organization_id && asked.scope.covers(delivery, asked.by)
}

const fn statement(kind: ReplayKind) -> &'static str {
    match kind {
        ReplayKind::DeadLetters => DEAD_LETTERS,
        ReplayKind::Succeeded => SUCCEEDED,
        ReplayKind::Missed => MISSED,
    }
}

const DEAD_LETTERS: &str = "SELECT destination_id, event_key, record FROM deliveries
    WHERE destination_id = $1 AND event_key >= $2 AND event_key <= $3 AND state = 3 ORDER BY event_key LIMIT $4";
const SUCCEEDED: &str = "SELECT destination_id, event_key, record FROM deliveries
    WHERE destination_id = $1 AND event_key >= $2 AND event_key <= $3 ORDER BY event_key LIMIT $4";
const MISSED: &str = "SELECT $1::uuid, e.event_key, d.record, e.record, w.event_key IS NOT NULL
    FROM (SELECT event_key, record FROM events WHERE event_key >= $2 AND event_key <= $3
          ORDER BY event_key LIMIT $4) AS e
    LEFT JOIN deliveries d ON d.destination_id = $1 AND d.event_key = e.event_key
    LEFT JOIN waiting w ON w.destination_id = $1 AND w.event_key = e.event_key
    ORDER BY e.event_key";

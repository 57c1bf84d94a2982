//! Accepting events: one task takes whatever waits, and commits it as one group in two round trips.
//!
//! The first takes the sequencer's row and looks for ids that came before; the second writes and commits. Load
//! makes groups larger, not slower; no group ever waits to be filled.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::connect::Tx;
use super::fault::Fault;
use super::partitions::day_of;
use super::rows::{self, bucket_number, of_destination, of_key};
use super::size::{ROW_BYTES, cost};
use super::{Core, listen};
use crate::domain::event::{Acceptance, Event, NewEvent};
use crate::domain::id::{EventId, EventKey, OrganizationId};
use crate::domain::settings::Guarantee;
use crate::domain::time::Timestamp;
use crate::store::record::{EventHead, content_digest, encode_whole_event};
use crate::store::{StoreError, lifecycle};

/// A group takes no further call once it has so many bytes.
const GROUP_BYTES: usize = 4 * 1024 * 1024;

/// An event, and the digest of its content if its caller gave it an id.
type Submission = (NewEvent, Option<[u8; 16]>);

/// Events by the ids that they have taken, with the digests of their contents.
type Known = HashMap<(OrganizationId, EventId), (Arc<Event>, Option<[u8; 16]>)>;

/// A call that waits for the next group.
pub(super) struct Submitted {
    events: Vec<Submission>,
    /// The version of the directory that the events were routed by; absent where that does not matter.
    routed_at: Option<u64>,
    reply: oneshot::Sender<Result<Vec<Acceptance>, StoreError>>,
}

impl Submitted {
    pub(super) fn new(
        events: Vec<NewEvent>,
        routed_at: Option<u64>,
        reply: oneshot::Sender<Result<Vec<Acceptance>, StoreError>>,
    ) -> Self {
        // The digest is made by the caller's thread, and only where it is needed.
        let digested = |event: NewEvent| {
            let digest = event.event_id.as_ref().map(|_| content_digest(&event));
            (event, digest)
        };
        Self { events: events.into_iter().map(digested).collect(), routed_at, reply }
    }

    fn bytes(&self) -> usize {
        self.events.iter().map(|(event, _)| event.data.as_bytes().len()).sum()
    }
}

/// Takes calls until the store is closed and none waits any more.
pub(super) async fn run(core: Arc<Core>, mut calls: mpsc::Receiver<Submitted>) {
    while let Some(first) = calls.recv().await {
        let group = gather(&core, first, &mut calls);
        let begun = Instant::now();
        let events = group.iter().map(|call| call.events.len()).sum();
        core.accept_group(group).await;
        core.metrics.committed(events, begun.elapsed());
    }
}

fn gather(core: &Core, first: Submitted, calls: &mut mpsc::Receiver<Submitted>) -> Vec<Submitted> {
    let (mut events, mut bytes) = (first.events.len(), first.bytes());
    let mut group = vec![first];
    while events < core.group_events && bytes < GROUP_BYTES {
        let Ok(next) = calls.try_recv() else { break };
        events += next.events.len();
        bytes += next.bytes();
        group.push(next);
    }
    group
}

/// What the sequencer's row says.
struct Turn {
    last_key: EventKey,
    config_version: u64,
    /// Events that took ids of this group before, with their digests.
    by_id: Known,
}

/// What is to be written for a group.
#[derive(Default)]
struct Written {
    events: Vec<Arc<Event>>,
    keys: Vec<Uuid>,
    buckets: Vec<Option<i16>>,
    records: Vec<Vec<u8>>,
    waiting: (Vec<Uuid>, Vec<Uuid>),
    ids: (Vec<String>, Vec<String>, Vec<Uuid>, Vec<Vec<u8>>),
    bytes: i64,
}

/// What was accepted together with a change.
pub(super) struct Told {
    /// The last key before it.
    before: EventKey,
    written: Written,
}

type Answers = Vec<Result<Vec<Acceptance>, StoreError>>;

impl Core {
    async fn accept_group(&self, group: Vec<Submitted>) {
        match self.in_time(self.accept_in_turn(&group)).await {
            Ok(answers) => {
                for (call, answer) in group.into_iter().zip(answers) {
                    // A caller that is gone needs no answer.
                    drop(call.reply.send(answer));
                }
            }
            Err(fault) => {
                // Whether it was committed may be unknown: whatever was, is found by looking.
                self.lease_call.notify_one();
                let error = self.failed(fault);
                for call in group {
                    drop(call.reply.send(Err(copy(&error))));
                }
            }
        }
    }

    async fn accept_in_turn(&self, group: &[Submitted]) -> Result<Answers, Fault> {
        loop {
            self.ensure_day(day_of(self.clock.now())).await?;
            let tx = Tx::on(&self.writes).await?;
            let turn = self.take_turn(&tx, group).await?;
            if turn.config_version > self.directory.version() {
                self.refresh().await?;
            }
            let now = self.clock.now();
            let day = day_of(turn.last_key.made_at().max(now));
            if !self.partitions.has(day) {
                tx.roll_back().await;
                self.ensure_day(day).await?;
                continue;
            }
            let (answers, written) = self.judge(group, &turn, now);
            let Some(last) = written.events.last().map(|event| event.key) else {
                tx.roll_back().await;
                return Ok(answers);
            };
            self.write_group(tx, &written, last).await?;
            self.accepted(turn.last_key, &written).await;
            return Ok(answers);
        }
    }

    async fn ensure_day(&self, day: i64) -> Result<(), Fault> {
        if self.partitions.has(day) {
            return Ok(());
        }
        let client = self.writes.get().await?;
        self.partitions.ensure(&client, day).await
    }

    /// Takes the sequencer's row, and with it the right to draw keys, and looks for ids that came before: after the row
    /// was taken, so that no other replica can come in between.
    async fn take_turn(&self, tx: &Tx, group: &[Submitted]) -> Result<Turn, Fault> {
        let named = group.iter().flat_map(|call| &call.events);
        let named = named.filter_map(|(event, _)| Some((event, event.event_id.as_ref()?)));
        let (organizations, ids): (Vec<&str>, Vec<&str>) =
            named.clone().map(|(event, id)| (event.organization_id.as_str(), id.as_str())).unzip();
        let keys: Vec<Uuid> = named.filter_map(|(_, id)| Some(of_key(id.as_key()?))).collect();
        let (lock, by_id, by_key) =
            (tx.prepare(LOCK).await?, tx.prepare(BY_ID).await?, tx.prepare(BY_KEY).await?);
        let (row, known, keyed) = if ids.is_empty() {
            let (_, row) = tokio::try_join!(biased; tx.begin(), tx.run(&lock, &[]))?;
            (row, Vec::new(), Vec::new())
        } else {
            let (ids, keys): ([&(dyn ToSql + Sync); 2], [&(dyn ToSql + Sync); 1]) =
                ([&organizations, &ids], [&keys]);
            let (_, row, known, keyed) = tokio::try_join!(biased;
                tx.begin(),
                tx.run(&lock, &[]),
                tx.run(&by_id, &ids),
                tx.run(&by_key, &keys)
            )?;
            (row, known, keyed)
        };
        turn_of(&row, &known, &keyed)
    }

    /// Accepts events that tell of a change in the transaction of the change: those whose ids are not taken. What came of
    /// it is to be told by [`Core::told`] after the commit.
    pub(super) async fn accept_told(&self, tx: &Tx, told: Vec<NewEvent>) -> Result<Option<Told>, Fault> {
        if told.is_empty() {
            return Ok(None);
        }
        let row = tx.query(LOCK, &[]).await?;
        let named = told.iter().filter_map(|event| Some((event, event.event_id.as_ref()?)));
        let (organizations, ids): (Vec<&str>, Vec<&str>) =
            named.clone().map(|(event, id)| (event.organization_id.as_str(), id.as_str())).unzip();
        let keys: Vec<Uuid> = named.filter_map(|(_, id)| Some(of_key(id.as_key()?))).collect();
        let known = tx.query(BY_ID, &[&organizations, &ids]).await?;
        let keyed = tx.query(BY_KEY, &[&keys]).await?;
        let turn = turn_of(&row, &known, &keyed)?;
        if turn.config_version > self.directory.version() {
            self.refresh().await?;
        }
        let now = self.clock.now();
        self.ensure_day(day_of(turn.last_key.made_at().max(now))).await?;
        let (mut written, mut last_key, mut new) = (Written::default(), turn.last_key, Known::new());
        for event in told.into_iter().filter(|event| !self.directory.is_erasing(&event.organization_id)) {
            let digest = event.event_id.as_ref().map(|_| content_digest(&event));
            let name = event.event_id.clone().map(|id| (event.organization_id.clone(), id));
            if name.as_ref().is_some_and(|name| turn.by_id.contains_key(name) || new.contains_key(name)) {
                continue;
            }
            last_key = last_key.next(now, fastrand::u64(..));
            let event = Arc::new(event.into_event(last_key));
            written.add(&event, digest);
            new.extend(name.map(|name| (name, (event, digest))));
        }
        if written.events.is_empty() {
            return Ok(None);
        }
        self.put_group(tx, &written, last_key).await?;
        Ok(Some(Told { before: turn.last_key, written }))
    }

    async fn put_group(&self, tx: &Tx, written: &Written, last: EventKey) -> Result<(), Fault> {
        let (organizations, ids, id_keys, digests) = &written.ids;
        tx.query(PUT_EVENTS, &[&written.keys, &written.buckets, &written.records]).await?;
        tx.query(PUT_WAITING, &[&written.waiting.0, &written.waiting.1]).await?;
        tx.query(PUT_IDS, &[organizations, ids, id_keys, digests]).await?;
        tx.query(MOVE_ON, &[&of_key(last)]).await?;
        self.notify(tx, vec![listen::accepted(&self.leases, last)]).await
    }

    /// Tells of what was accepted together with a change, after the commit.
    pub(super) async fn told(&self, told: Option<Told>) {
        if let Some(Told { before, written }) = told {
            self.accepted(before, &written).await;
        }
    }

    async fn accepted(&self, before: EventKey, written: &Written) {
        self.size.add(written.bytes);
        self.heads.add(written.events.iter().map(|event| EventHead::from(event.as_ref())));
        self.changes.publish(written.events.iter().flat_map(|event| lifecycle::begun(event)));
        self.hand_over(before, &written.events).await;
    }

    /// What becomes of each event, and what is to be written.
    fn judge(&self, group: &[Submitted], turn: &Turn, now: Timestamp) -> (Answers, Written) {
        let mut written = Written::default();
        let mut last_key = turn.last_key;
        let mut new = Known::new();
        let mut answers = Vec::with_capacity(group.len());
        for call in group {
            if call.routed_at.is_some_and(|routed_at| routed_at != turn.config_version) {
                answers.push(Err(StoreError::RoutedByOldDirectory));
                continue;
            }
            if call.events.iter().any(|(event, _)| self.directory.is_erasing(&event.organization_id)) {
                answers.push(Err(StoreError::Erasing));
                continue;
            }
            let mut accepted = Vec::with_capacity(call.events.len());
            for (event, digest) in &call.events {
                let name = event.event_id.clone().map(|id| (event.organization_id.clone(), id));
                let known = name.as_ref().and_then(|name| turn.by_id.get(name).or_else(|| new.get(name)));
                if let Some((first, first_digest)) = known {
                    accepted.push(compare(first, *first_digest, event, *digest));
                    continue;
                }
                last_key = last_key.next(now, fastrand::u64(..));
                let event = Arc::new(event.clone().into_event(last_key));
                written.add(&event, *digest);
                if let Some(name) = name {
                    new.insert(name, (Arc::clone(&event), *digest));
                }
                accepted.push(Acceptance::Accepted(event));
            }
            answers.push(Ok(accepted));
        }
        (answers, written)
    }

    async fn write_group(&self, tx: Tx, written: &Written, last: EventKey) -> Result<(), Fault> {
        let statements = (
            tx.prepare(PUT_EVENTS).await?,
            tx.prepare(PUT_WAITING).await?,
            tx.prepare(PUT_IDS).await?,
            tx.prepare(MOVE_ON).await?,
            tx.prepare(listen::NOTIFY).await?,
        );
        let last_key = of_key(last);
        let (destinations, waiting_keys) = &written.waiting;
        let (organizations, ids, id_keys, digests) = &written.ids;
        let news =
            if self.leases.has_company() { listen::accepted(&self.leases, last) } else { String::new() };
        let events: [&(dyn ToSql + Sync); 3] = [&written.keys, &written.buckets, &written.records];
        let waiting: [&(dyn ToSql + Sync); 2] = [destinations, waiting_keys];
        let names: [&(dyn ToSql + Sync); 4] = [organizations, ids, id_keys, digests];
        let (last, news_of): ([&(dyn ToSql + Sync); 1], [&(dyn ToSql + Sync); 2]) =
            ([&last_key], [&self.channel, &news]);
        tokio::try_join!(biased;
            tx.run(&statements.0, &events),
            some(!destinations.is_empty(), tx.run(&statements.1, &waiting)),
            some(!ids.is_empty(), tx.run(&statements.2, &names)),
            tx.run(&statements.3, &last),
            some(!news.is_empty(), tx.run(&statements.4, &news_of)),
            tx.send_commit()
        )?;
        tx.over();
        Ok(())
    }
}

/// What the sequencer's row and what was found beside it say.
fn turn_of(row: &[Row], known: &[Row], keyed: &[Row]) -> Result<Turn, Fault> {
    let row = row.first().ok_or_else(|| StoreError::Corrupt("the sequencer's row is missing".into()))?;
    let mut turn = Turn {
        last_key: rows::key(row.get(0)),
        config_version: u64::try_from(row.get::<_, i64>(1)).unwrap_or(0),
        by_id: HashMap::new(),
    };
    for row in keyed {
        let event = event_of(row)?;
        turn.by_id.insert((event.organization_id.clone(), event.id.clone()), (event, None));
    }
    for row in known {
        let digest: Vec<u8> = row.get(2);
        let event = event_of(row)?;
        // A digest that is no longer kept is like no other.
        let digest = Some(digest.try_into().unwrap_or_default());
        turn.by_id.insert((event.organization_id.clone(), event.id.clone()), (event, digest));
    }
    Ok(turn)
}

/// The work, where there is any.
async fn some(
    there_is: bool,
    work: impl Future<Output = Result<Vec<Row>, Fault>>,
) -> Result<Vec<Row>, Fault> {
    if there_is { work.await } else { Ok(Vec::new()) }
}

impl Written {
    fn add(&mut self, event: &Arc<Event>, digest: Option<[u8; 16]>) {
        let record = encode_whole_event(event);
        let key = of_key(event.key);
        self.bytes += cost(&record);
        self.keys.push(key);
        self.buckets.push(match event.routes.as_slice() {
            [only] => Some(bucket_number(only.destination_id)),
            _ => None,
        });
        self.records.push(record);
        for route in event.routes.iter().filter(|route| route.guarantee == Guarantee::AtLeastOnce) {
            self.waiting.0.push(of_destination(route.destination_id));
            self.waiting.1.push(key);
        }
        if let Some(digest) = digest {
            self.bytes += ROW_BYTES;
            self.ids.0.push(event.organization_id.as_str().to_owned());
            self.ids.1.push(event.id.as_str().to_owned());
            self.ids.2.push(key);
            self.ids.3.push(digest.to_vec());
        }
        self.events.push(Arc::clone(event));
    }
}

fn event_of(row: &Row) -> Result<Arc<Event>, StoreError> {
    rows::event(rows::key(row.get(0)), row.get(1)).map(Arc::new)
}

fn compare(
    first: &Arc<Event>,
    first_digest: Option<[u8; 16]>,
    again: &NewEvent,
    digest: Option<[u8; 16]>,
) -> Acceptance {
    let same = match first_digest {
        Some(_) => first_digest == digest,
        // An event whose id was made from its key; no digest is kept for it.
        None => {
            first.event_type == again.event_type
                && first.level == again.level
                && first.data == again.data
                && first.occurred_at == again.occurred_at.unwrap_or(first.accepted_at)
        }
    };
    if same { Acceptance::Duplicate(Arc::clone(first)) } else { Acceptance::Conflict }
}

/// The same error for another caller of the group.
fn copy(error: &StoreError) -> StoreError {
    match error {
        StoreError::Full { free_bytes, needed_bytes } => {
            StoreError::Full { free_bytes: *free_bytes, needed_bytes: *needed_bytes }
        }
        StoreError::Corrupt(problem) => StoreError::Corrupt(problem.clone()),
        StoreError::Unavailable(problem) => StoreError::Unavailable(problem.clone()),
        other => StoreError::Unavailable(other.to_string()),
    }
}

const LOCK: &str = "SELECT last_key, config_version FROM sequencer FOR UPDATE";
pub(super) const BY_ID: &str = "SELECT i.event_key, e.record, i.digest
    FROM unnest($1::text[], $2::text[]) AS asked (organization_id, event_id)
    JOIN event_ids i USING (organization_id, event_id) JOIN events e ON e.event_key = i.event_key";
const BY_KEY: &str = "SELECT event_key, record FROM events WHERE event_key = ANY($1::uuid[])";
const PUT_EVENTS: &str = "INSERT INTO events (event_key, bucket, record)
    SELECT * FROM unnest($1::uuid[], $2::smallint[], $3::bytea[])";
const PUT_WAITING: &str =
    "INSERT INTO waiting (destination_id, event_key) SELECT * FROM unnest($1::uuid[], $2::uuid[])";
// An id whose event is gone is free again; its row may still be there.
const PUT_IDS: &str = "INSERT INTO event_ids (organization_id, event_id, event_key, digest)
    SELECT * FROM unnest($1::text[], $2::text[], $3::uuid[], $4::bytea[])
    ON CONFLICT (organization_id, event_id) DO UPDATE SET event_key = excluded.event_key, digest = excluded.digest";
const MOVE_ON: &str = "UPDATE sequencer SET last_key = $1";

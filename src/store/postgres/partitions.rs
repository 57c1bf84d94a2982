//! Partitions of events and deliveries: one for each day of event keys, made before it is needed and dropped
//! when nothing in it is needed any more.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use deadpool_postgres::Object;

use super::connect::query;
use super::fault::Fault;
use crate::domain::id::EventKey;
use crate::domain::time::Timestamp;

/// How much time a partition holds: a day.
const WIDTH_MILLIS: i64 = 24 * 60 * 60 * 1000;
/// Both tables have the same partitions.
pub(super) const TABLES: [&str; 2] = ["events", "deliveries"];
/// Serializes making and dropping over all replicas.
const LOCK: i64 = 0x7369_676e_616c_7061;

/// The day of a moment, counted from 1970; names a partition.
pub(super) fn day_of(moment: Timestamp) -> i64 {
    moment.as_millis().div_euclid(WIDTH_MILLIS)
}

/// The first key of a day.
pub(super) fn first_key(day: i64) -> EventKey {
    EventKey::lower_bound(Timestamp::from_millis(day.saturating_mul(WIDTH_MILLIS)))
}

/// When a day begins.
pub(super) fn begins(day: i64) -> Timestamp {
    Timestamp::from_millis(day.saturating_mul(WIDTH_MILLIS))
}

/// The days that are known to have partitions.
#[derive(Default)]
pub(super) struct Partitions {
    known: Mutex<BTreeSet<i64>>,
}

impl Partitions {
    pub(super) fn has(&self, day: i64) -> bool {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).contains(&day)
    }

    /// Makes the partitions of a day where they are missing. Attaching needs no lock that readers or writers of
    /// other partitions would wait for.
    pub(super) async fn ensure(&self, client: &Object, day: i64) -> Result<(), Fault> {
        if self.has(day) {
            return Ok(());
        }
        let mut sql =
            format!("SET client_min_messages = warning; BEGIN; SELECT pg_advisory_xact_lock({LOCK});");
        let (from, to) = (uuid_text(first_key(day)), uuid_text(first_key(day + 1)));
        let there = query(client, EXISTS, &[&name(TABLES[0], day)]).await?;
        if there.is_empty() {
            for table in TABLES {
                let partition = name(table, day);
                sql += &format!(
                    "CREATE TABLE IF NOT EXISTS {partition} (LIKE {table} INCLUDING DEFAULTS INCLUDING CONSTRAINTS);
                     DO $$ BEGIN
                         IF NOT EXISTS (SELECT 1 FROM pg_inherits WHERE inhrelid = '{partition}'::regclass) THEN
                             ALTER TABLE {table} ATTACH PARTITION {partition} FOR VALUES FROM ('{from}') TO ('{to}');
                         END IF;
                     END $$;"
                );
            }
            sql += "COMMIT";
            if let Err(error) = client.batch_execute(&sql).await {
                client.batch_execute("ROLLBACK").await?;
                return Err(error.into());
            }
        }
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(day);
        Ok(())
    }

    /// Drops the partitions of a day.
    pub(super) async fn drop_day(&self, client: &Object, day: i64) -> Result<(), Fault> {
        let [events, deliveries] = TABLES.map(|table| name(table, day));
        let sql = format!(
            "BEGIN; SELECT pg_advisory_xact_lock({LOCK}); DROP TABLE IF EXISTS {events}, {deliveries}; COMMIT"
        );
        if let Err(error) = client.batch_execute(&sql).await {
            client.batch_execute("ROLLBACK").await?;
            return Err(error.into());
        }
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(&day);
        Ok(())
    }
}

/// The days that have partitions, the oldest first.
pub(super) async fn days(client: &Object) -> Result<Vec<i64>, Fault> {
    let rows = query(client, DAYS, &[]).await?;
    let names = rows.iter().map(|row| row.get::<_, String>(0));
    let mut days: Vec<i64> = names.filter_map(|name| name.rsplit_once("_d")?.1.parse().ok()).collect();
    days.sort_unstable();
    Ok(days)
}

const EXISTS: &str = "SELECT 1 FROM pg_inherits WHERE inhrelid = to_regclass($1::text)";
const DAYS: &str = "SELECT c.relname::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
                    WHERE i.inhparent = 'events'::regclass";

/// The name of a day's partition of a table.
pub(super) fn name(table: &str, day: i64) -> String {
    format!("{table}_d{day}")
}

fn uuid_text(key: EventKey) -> String {
    uuid::Uuid::from_bytes(*key.as_bytes()).hyphenated().to_string()
}

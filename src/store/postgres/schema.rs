//! The schema and its versions. Migrations are embedded and run one by one, each in a transaction, under a
//! lock that the database holds for one replica at a time.
//!
//! A migration only ever adds (*expand*), so that replicas of the version before go on working on it; what
//! they needed and nobody needs any more is removed by a later version (*contract*). A schema that is newer than
//! this version knows is refused, unless that version said that it is compatible (`oldest_reader`).

use deadpool_postgres::Object;

use super::connect::query;
use super::fault::Fault;
use crate::clock::{Clock, SystemClock};
use crate::domain::audit::AuditEntry;
use crate::domain::id::AuditEntryId;
use crate::store::StoreError;
use crate::store::record::encode_audit;

/// The migrations in order; the number of one is its place, from 1.
const MIGRATIONS: &[&str] = &[include_str!("migrations/0001.sql"), include_str!("migrations/0002.sql")];
/// The oldest version that can work on the newest schema.
const OLDEST_READER: i32 = 1;
/// Whose lock it is: "signalpost" as bytes, cut to a number.
const LOCK: i64 = 0x7369_676e_616c_706f;

/// The version that this program makes and reads.
pub(super) fn newest() -> i32 {
    i32::try_from(MIGRATIONS.len()).unwrap_or(i32::MAX)
}

/// Brings the schema to the newest version, and answers from which.
pub(super) async fn migrate(client: &Object) -> Result<i32, Fault> {
    client
        .batch_execute(&format!(
            "SET statement_timeout = 0; SET lock_timeout = 0; SELECT pg_advisory_lock({LOCK})"
        ))
        .await?;
    let migrated = migrate_locked(client).await;
    let unlock = format!("SELECT pg_advisory_unlock({LOCK}); RESET statement_timeout; RESET lock_timeout");
    client.batch_execute(&unlock).await?;
    migrated
}

async fn migrate_locked(client: &Object) -> Result<i32, Fault> {
    let table =
        "CREATE TABLE IF NOT EXISTS signalpost_schema (version int NOT NULL, oldest_reader int NOT NULL)";
    client.batch_execute(&format!("SET client_min_messages = warning; {table}")).await?;
    let found = check(client).await?;
    for (number, migration) in (1..).zip(MIGRATIONS) {
        if number > found {
            let note = format!(
                "DELETE FROM signalpost_schema; INSERT INTO signalpost_schema VALUES ({number}, {OLDEST_READER})"
            );
            client.batch_execute(&format!("BEGIN; {migration}; {note}")).await?;
            // That a database came into being is no change of anything.
            if found > 0 {
                record(client, number).await?;
            }
            client.batch_execute("COMMIT").await?;
            tracing::info!(version = number, "the database's schema was migrated");
        }
    }
    Ok(found)
}

/// Who reads the audit log sees when the schema was changed. A failure ends the transaction with the connection.
async fn record(client: &Object, number: i32) -> Result<(), Fault> {
    let at = SystemClock.now();
    let id = AuditEntryId::make(at, std::array::from_fn(|_| fastrand::u8(..)));
    let text = format!("the database's schema was brought to version {number}");
    let entry = AuditEntry::of_server(id, at, text, 1);
    let (id, record) = (uuid::Uuid::from_bytes(*id.as_bytes()), encode_audit(&entry));
    query(client, super::audit::PUT, &[&id, &entry.organization_id, &record]).await.map(drop)
}

/// The version that is there, if this program can work on it.
async fn check(client: &Object) -> Result<i32, Fault> {
    let rows = query(client, "SELECT version, oldest_reader FROM signalpost_schema", &[]).await?;
    let Some(row) = rows.first() else { return Ok(0) };
    let (found, oldest_reader): (i32, i32) = (row.get(0), row.get(1));
    if oldest_reader > newest() {
        return Err(Fault::Store(StoreError::CannotOpen(format!(
            "the database was migrated by a newer version of Signalpost (schema {found}, which versions before {oldest_reader} \
             can't work on; this one knows {}); run that version",
            newest()
        ))));
    }
    Ok(found)
}

//! The audit log.

use async_trait::async_trait;
use uuid::Uuid;

use super::accept::Told;
use super::connect::{Tx, query};
use super::fault::Fault;
use super::rows::limit;
use super::{Core, PostgresStore};
use crate::domain::audit::AuditEntry;
use crate::domain::id::{AuditEntryId, OrganizationId};
use crate::domain::time::Timestamp;
use crate::store::record::{decode_audit, encode_audit};
use crate::store::riders::Riders;
use crate::store::{AuditPage, AuditQuery, AuditStore, StoreError};

/// How many entries one call looks at.
const ROWS_SCANNED: usize = 5000;

impl Core {
    /// Writes what rides on a change of so many things, in the transaction of the change. What it answers is to be told
    /// after the commit.
    pub(super) async fn ride(&self, tx: &Tx, riders: &Riders, things: usize) -> Result<Option<Told>, Fault> {
        if let Some(entry) = &riders.entry {
            let count = u64::try_from(things).unwrap_or(u64::MAX);
            put(tx, &[AuditEntry { count, ..AuditEntry::clone(entry) }]).await?;
        }
        self.accept_told(tx, riders.told.to_vec()).await
    }

    async fn record_audit(&self, entries: &[AuditEntry]) -> Result<(), Fault> {
        let tx = Tx::begun(&self.writes).await?;
        put(&tx, entries).await?;
        tx.commit().await
    }

    async fn read_audit(&self, asked: &AuditQuery) -> Result<AuditPage, Fault> {
        let client = self.reads.get().await?;
        let (of, after) =
            (asked.organization_id.as_ref().map(OrganizationId::as_str), asked.after.map(of_id));
        let sql = if of.is_some() { LIST_OF } else { LIST };
        let scanned = limit(ROWS_SCANNED);
        let rows = match of {
            Some(of) => query(&client, sql, &[&after, &scanned, &of]).await?,
            None => query(&client, sql, &[&after, &scanned]).await?,
        };
        let mut page = AuditPage::default();
        for row in &rows {
            let entry = entry(row)?;
            if page.rows.len() == asked.limit {
                if asked.fits(&entry) {
                    page.next = page.rows.last().map(|last| last.id);
                    return Ok(page);
                }
                continue;
            }
            if asked.fits(&entry) {
                page.rows.push(entry);
            }
        }
        if rows.len() == ROWS_SCANNED {
            page.next = rows.last().map(|row| id(row.get(0)));
        }
        Ok(page)
    }

    async fn forget_contents(
        &self,
        organization_id: &OrganizationId,
        after: Option<AuditEntryId>,
        budget: usize,
    ) -> Result<Option<AuditEntryId>, Fault> {
        let tx = Tx::begun(&self.writes).await?;
        let (after, rows) = (after.map(of_id), limit(budget));
        let rows = tx.query(FORGET, &[&organization_id.as_str(), &after, &rows]).await?;
        let mut entries = Vec::with_capacity(rows.len());
        for row in &rows {
            let mut entry = entry(row)?;
            entry.forget_contents();
            entries.push(entry);
        }
        put(&tx, &entries).await?;
        tx.commit().await?;
        Ok(entries.last().map(|entry| entry.id))
    }
}

pub(super) async fn put(tx: &Tx, entries: &[AuditEntry]) -> Result<(), Fault> {
    for entry in entries {
        let record = encode_audit(entry);
        tx.query(PUT, &[&of_id(entry.id), &entry.organization_id, &record]).await?;
    }
    Ok(())
}

fn entry(row: &tokio_postgres::Row) -> Result<AuditEntry, StoreError> {
    decode_audit(id(row.get(0)), &row.get::<_, Vec<Vec<u8>>>(1))
}

fn of_id(id: AuditEntryId) -> Uuid {
    Uuid::from_bytes(*id.as_bytes())
}

fn id(value: Uuid) -> AuditEntryId {
    AuditEntryId::from_bytes(*value.as_bytes())
}

#[async_trait]
impl AuditStore for PostgresStore {
    async fn record_audit(&self, entries: Vec<AuditEntry>) -> Result<(), StoreError> {
        self.attempt(|| self.core.record_audit(&entries)).await
    }

    async fn audit(&self, query: AuditQuery) -> Result<AuditPage, StoreError> {
        self.attempt(|| self.core.read_audit(&query)).await
    }

    async fn expire_audit(&self, before: Timestamp, budget: usize) -> Result<usize, StoreError> {
        let (before, budget) = (of_id(AuditEntryId::lower_bound(before)), limit(budget));
        let expire = async || {
            let client = self.core.writes.get().await?;
            let gone: Result<_, Fault> = query(&client, EXPIRE, &[&before, &budget]).await;
            Ok(gone?.len())
        };
        self.attempt(expire).await
    }

    async fn forget_audit_contents(
        &self,
        organization_id: &OrganizationId,
        after: Option<AuditEntryId>,
        budget: usize,
    ) -> Result<Option<AuditEntryId>, StoreError> {
        self.attempt(|| self.core.forget_contents(organization_id, after, budget)).await
    }
}

pub(super) const PUT: &str = "INSERT INTO audit (id, organization_id, record) VALUES ($1, $2, $3)
    ON CONFLICT (id) DO UPDATE SET record = excluded.record";
const LIST: &str =
    "SELECT id, record FROM audit WHERE id < coalesce($1, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid)
    ORDER BY id DESC LIMIT $2";
const LIST_OF: &str = "SELECT id, record FROM audit
    WHERE organization_id = $3 AND id < coalesce($1, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid)
    ORDER BY id DESC LIMIT $2";
const EXPIRE: &str =
    "DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE id < $1 ORDER BY id LIMIT $2) RETURNING id";
const FORGET: &str = "SELECT id, record FROM audit
    WHERE organization_id = $1 AND id > coalesce($2, '00000000-0000-0000-0000-000000000000'::uuid)
    ORDER BY id LIMIT $3 FOR UPDATE";

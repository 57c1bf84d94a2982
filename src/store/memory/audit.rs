//! The audit log in memory.

use std::ops::Bound::{Excluded, Unbounded};

use async_trait::async_trait;

use super::MemoryStore;
use super::tables::Tables;
use crate::domain::audit::AuditEntry;
use crate::domain::id::{AuditEntryId, OrganizationId};
use crate::domain::time::Timestamp;
use crate::store::StoreError;
use crate::store::audit::{AuditPage, AuditQuery, AuditStore};

impl Tables {
    /// Adds what the log is to say of a change of so many things.
    pub(super) fn note(&mut self, entry: &AuditEntry, things: usize) {
        let count = u64::try_from(things).unwrap_or(u64::MAX);
        self.audit.insert(entry.id, AuditEntry { count, ..entry.clone() });
    }
}

#[async_trait]
impl AuditStore for MemoryStore {
    async fn record_audit(&self, entries: Vec<AuditEntry>) -> Result<(), StoreError> {
        self.lock().audit.extend(entries.into_iter().map(|entry| (entry.id, entry)));
        Ok(())
    }

    async fn audit(&self, query: AuditQuery) -> Result<AuditPage, StoreError> {
        let tables = self.lock();
        let end = query.after.map_or(Unbounded, Excluded);
        let rows = tables.audit.range((Unbounded, end)).rev().map(|(_, entry)| entry);
        let mut rows: Vec<_> =
            rows.filter(|entry| query.fits(entry)).take(query.limit + 1).cloned().collect();
        let more = rows.len() > query.limit;
        rows.truncate(query.limit);
        let next = rows.last().filter(|_| more).map(|entry| entry.id);
        Ok(AuditPage { rows, next })
    }

    async fn expire_audit(&self, before: Timestamp, budget: usize) -> Result<usize, StoreError> {
        let mut tables = self.lock();
        let old = tables.audit.range(..AuditEntryId::lower_bound(before)).map(|(id, _)| *id);
        let old: Vec<_> = old.take(budget).collect();
        for id in &old {
            tables.audit.remove(id);
        }
        Ok(old.len())
    }

    async fn forget_audit_contents(
        &self,
        organization_id: &OrganizationId,
        after: Option<AuditEntryId>,
        budget: usize,
    ) -> Result<Option<AuditEntryId>, StoreError> {
        let mut tables = self.lock();
        let start = after.map_or(Unbounded, Excluded);
        let entries = tables.audit.range_mut((start, Unbounded)).map(|(_, entry)| entry);
        let theirs = entries.filter(|entry| entry.organization_id == organization_id.as_str());
        Ok(theirs.take(budget).fold(None, |_, entry| {
            entry.forget_contents();
            Some(entry.id)
        }))
    }
}

//! The audit log: entries in order of time, and a list of them for each organization.

use std::ops::Bound::{Excluded, Included};

use async_trait::async_trait;

use super::config::{chunks, put_chunks};
use super::group::Group;
use super::listing::ROWS_SCANNED;
use super::reader::Reader;
use super::writer::{Command, Reply, Writer, join};
use super::{Patience, SledStore, keys, unavailable};
use crate::domain::audit::AuditEntry;
use crate::domain::id::{AuditEntryId, OrganizationId};
use crate::domain::time::Timestamp;
use crate::store::StoreError;
use crate::store::audit::{AuditPage, AuditQuery, AuditStore};
use crate::store::record::{decode_audit, encode_audit};

/// What callers ask of the writer.
pub(super) enum AuditCommand {
    Record(Vec<AuditEntry>, Reply<()>),
    Remove(Vec<AuditEntry>, Reply<usize>),
    Forget(Vec<AuditEntryId>, Reply<()>),
}

/// Writes an entry with whatever else the call writes.
pub(super) fn write(group: &mut Group, entry: &AuditEntry) -> Result<(), StoreError> {
    put_chunks(group, &keys::audit(entry.id), encode_audit(entry))?;
    if let Some(organization_id) = entry.organization() {
        group.put(keys::audit_of(&organization_id, entry.id), Vec::new());
    }
    Ok(())
}

impl Writer {
    pub(super) fn take_audit(&mut self, group: &mut Group, command: AuditCommand) -> Result<(), StoreError> {
        match command {
            AuditCommand::Record(entries, reply) => {
                let full = self.watermark.check();
                let written = full.and_then(|()| entries.iter().try_for_each(|entry| write(group, entry)));
                join(group, false, written, reply)
            }
            AuditCommand::Remove(entries, reply) => {
                let removed = entries.iter().try_for_each(|entry| remove(group, entry));
                join(group, false, removed.map(|()| entries.len()), reply)
            }
            AuditCommand::Forget(ids, reply) => {
                let forgotten = ids.iter().try_for_each(|id| forget(group, *id));
                join(group, true, forgotten, reply)
            }
        }
    }
}

fn remove(group: &mut Group, entry: &AuditEntry) -> Result<(), StoreError> {
    put_chunks(group, &keys::audit(entry.id), Vec::new())?;
    if let Some(organization_id) = entry.organization() {
        group.remove(keys::audit_of(&organization_id, entry.id));
    }
    Ok(())
}

fn forget(group: &mut Group, id: AuditEntryId) -> Result<(), StoreError> {
    let stored = chunks(group, &keys::audit(id))?;
    // It may have been removed for its age meanwhile.
    if stored.is_empty() {
        return Ok(());
    }
    let mut entry = decode_audit(id, &stored)?;
    entry.forget_contents();
    put_chunks(group, &keys::audit(id), encode_audit(&entry))
}

impl Reader {
    fn audit(&self, query: &AuditQuery, rows_scanned: usize) -> Result<AuditPage, StoreError> {
        let prefix = match &query.organization_id {
            Some(id) => keys::audits_of(id),
            None => keys::AUDIT.to_vec(),
        };
        let at = |id: AuditEntryId| [prefix.as_slice(), id.as_bytes()].concat();
        let first = at(query.from.map_or(AuditEntryId::from_bytes([0; 16]), AuditEntryId::lower_bound));
        let end = query.until.map_or(AuditEntryId::from_bytes([u8::MAX; 16]), AuditEntryId::lower_bound);
        let end = at(query.after.map_or(end, |after| end.min(after)));
        let mut page = AuditPage::default();
        if first >= end {
            return Ok(page);
        }
        let rows = self.db.range::<Vec<u8>, _>((Included(first), Excluded(end))).keys().rev();
        for (position, key) in rows.enumerate() {
            let key = key.map_err(|error| unavailable(&error))?;
            let Some(id) = keys::audit_id_of(&prefix, &key) else { continue };
            let full = page.rows.len() == query.limit || position >= rows_scanned;
            if full && page.next.is_some() {
                return Ok(page);
            }
            page.next = Some(id);
            page.rows.extend(self.audit_entry(id)?.filter(|entry| query.fits(entry)));
        }
        page.next = None;
        Ok(page)
    }

    fn audit_entry(&self, id: AuditEntryId) -> Result<Option<AuditEntry>, StoreError> {
        let chunks: Result<Vec<_>, _> = self.db.scan_prefix(keys::audit(id)).values().collect();
        let chunks = chunks.map_err(|error| unavailable(&error))?;
        // Removed for its age since its key was read.
        if chunks.is_empty() {
            return Ok(None);
        }
        match decode_audit(id, &chunks) {
            Ok(entry) => Ok(Some(entry)),
            Err(error) => {
                tracing::error!(%error, "a damaged entry of the audit log is passed over");
                Ok(None)
            }
        }
    }

    fn oldest_audit(&self, before: Timestamp, budget: usize) -> Result<Vec<AuditEntry>, StoreError> {
        let end = keys::audit(AuditEntryId::lower_bound(before));
        let mut oldest = Vec::new();
        for key in self.db.range(keys::AUDIT.to_vec()..end).keys() {
            let key = key.map_err(|error| unavailable(&error))?;
            let Some(id) = keys::audit_id_of(keys::AUDIT, &key) else { continue };
            oldest.extend(self.audit_entry(id)?);
            if oldest.len() >= budget {
                break;
            }
        }
        Ok(oldest)
    }

    fn audit_ids(
        &self,
        organization_id: &OrganizationId,
        after: Option<AuditEntryId>,
        budget: usize,
    ) -> Result<Vec<AuditEntryId>, StoreError> {
        let prefix = keys::audits_of(organization_id);
        let last = AuditEntryId::from_bytes([u8::MAX; 16]);
        let start = match after {
            Some(after) => Excluded(keys::audit_of(organization_id, after)),
            None => Included(prefix.clone()),
        };
        let rows = self.db.range((start, Included(keys::audit_of(organization_id, last)))).keys();
        let ids = rows
            .take(budget)
            .map(|key| key.map(|key| keys::audit_id_of(&prefix, &key)).map_err(|error| unavailable(&error)));
        ids.filter_map(Result::transpose).collect()
    }
}

#[async_trait]
impl AuditStore for SledStore {
    async fn record_audit(&self, entries: Vec<AuditEntry>) -> Result<(), StoreError> {
        let record = |reply| Command::Audit(AuditCommand::Record(entries, reply));
        self.submit(Patience::Refuse, record).await
    }

    async fn audit(&self, query: AuditQuery) -> Result<AuditPage, StoreError> {
        self.read(move |reader| reader.audit(&query, ROWS_SCANNED)).await
    }

    async fn expire_audit(&self, before: Timestamp, budget: usize) -> Result<usize, StoreError> {
        let oldest = self.read(move |reader| reader.oldest_audit(before, budget)).await?;
        if oldest.is_empty() {
            return Ok(0);
        }
        let remove = |reply| Command::Audit(AuditCommand::Remove(oldest, reply));
        self.submit(Patience::Refuse, remove).await
    }

    async fn forget_audit_contents(
        &self,
        organization_id: &OrganizationId,
        after: Option<AuditEntryId>,
        budget: usize,
    ) -> Result<Option<AuditEntryId>, StoreError> {
        let id = organization_id.clone();
        let ids = self.read(move |reader| reader.audit_ids(&id, after, budget)).await?;
        let Some(last) = ids.last().copied() else { return Ok(None) };
        let forget = |reply| Command::Audit(AuditCommand::Forget(ids, reply));
        self.submit(Patience::Refuse, forget).await?;
        Ok(Some(last))
    }
}

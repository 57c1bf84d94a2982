//! A backup while the writer goes on: all keys are copied in order, and what commits change meanwhile is copied
//! after them.
//!
//! Why this is consistent: from the moment the journal is on, each commit is noted in it, as a whole, after it was
//! applied and under one lock. A key that the copy read before a commit changed it comes again with the journal,
//! behind it. When the copy has come to its end, the journal is taken once more under the same lock: so nothing that
//! the copy has seen of a commit is without the rest of it.

use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use sled::{Batch, IVec};

use super::open::SCHEMA;
use super::{Shared, SledStore, unavailable};
use crate::clock::SharedClock;
use crate::domain::time::Timestamp;
use crate::store::StoreError;
use crate::store::backup::{Backup, BackupEntry, BackupHeader, BackupPart};

/// How many keys, and about how many bytes, one part has. Reading it holds up no commit for long.
const PART_KEYS: usize = 512;
const PART_BYTES: usize = 256 * 1024;
/// How much the journal may hold of what commits change while nobody takes the parts.
const JOURNAL_BYTES: usize = 64 * 1024 * 1024;

/// The writes of one commit.
#[derive(Debug, Clone, Default)]
pub(super) struct Writes(Vec<(IVec, Option<IVec>)>);

impl Writes {
    pub(super) fn insert(&mut self, key: impl Into<IVec>, value: impl Into<IVec>) {
        self.0.push((key.into(), Some(value.into())));
    }

    pub(super) fn remove(&mut self, key: impl Into<IVec>) {
        self.0.push((key.into(), None));
    }

    /// For sled. Later writes of a key replace earlier ones, there as here.
    pub(super) fn into_batch(self) -> Batch {
        let mut batch = Batch::default();
        for (key, value) in self.0 {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        batch
    }

    fn bytes(&self) -> usize {
        self.0.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, |value| value.len())).sum()
    }
}

/// What commits change while a backup is made; off while there is none.
#[derive(Debug, Default)]
pub(super) struct Journal(Mutex<Option<Changes>>);

#[derive(Debug, Default)]
struct Changes {
    writes: Vec<(IVec, Option<IVec>)>,
    bytes: usize,
    /// More than was allowed came together; what is here is not all.
    overflowed: bool,
}

/// Held while a commit is applied, so that it is noted as a whole.
pub(super) struct Noting<'a>(MutexGuard<'a, Option<Changes>>);

impl Journal {
    /// Before a commit is applied.
    pub(super) fn lock(&self) -> Noting<'_> {
        Noting(self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn begin(&self) -> Result<(), StoreError> {
        let mut changes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if changes.is_some() {
            return Err(StoreError::Busy);
        }
        *changes = Some(Changes::default());
        Ok(())
    }

    fn take(&self) -> Result<Vec<(IVec, Option<IVec>)>, StoreError> {
        let mut changes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = changes.as_mut().map(std::mem::take).unwrap_or_default();
        if taken.overflowed { Err(StoreError::Busy) } else { Ok(taken.writes) }
    }

    fn end(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Noting<'_> {
    /// Whether anybody wants to know.
    pub(super) fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// After it was applied.
    pub(super) fn note(&mut self, writes: Writes) {
        let Some(changes) = self.0.as_mut() else { return };
        changes.bytes += writes.bytes();
        if changes.bytes > JOURNAL_BYTES {
            *changes = Changes { overflowed: true, bytes: changes.bytes, writes: Vec::new() };
        } else {
            changes.writes.extend(writes.0);
        }
    }
}

enum Stage {
    Header,
    /// Copies keys behind this one.
    Copying(Option<IVec>),
    /// All keys are copied; what changed since is to follow.
    Rest,
    /// All is told, as of this moment.
    End(Timestamp),
    Ended,
}

/// A backup that is being made.
pub(super) struct SledBackup {
    store: SledStore,
    shared: Arc<Shared>,
    clock: SharedClock,
    begun_at: Timestamp,
    stage: Stage,
    entries: u64,
    /// Whether the journal is on for us; it is another backup's after that.
    journaling: bool,
}

impl SledBackup {
    pub(super) fn begin(store: SledStore, clock: SharedClock) -> Result<Self, StoreError> {
        let shared = Arc::clone(&store.shared);
        // Before the first key is read. A commit that is under way is waited for.
        shared.journal.begin()?;
        let begun_at = clock.now();
        Ok(Self { store, shared, clock, begun_at, stage: Stage::Header, entries: 0, journaling: true })
    }

    async fn header(&self) -> Result<BackupPart, StoreError> {
        let seals = self.store.seals().await?;
        Ok(BackupPart::Header(BackupHeader {
            layout: SCHEMA,
            begun_at: self.begun_at,
            sealing_keys: seals.by_key.keys().map(ToString::to_string).collect(),
            sealed_secrets: seals.by_key.values().sum(),
        }))
    }

    /// Some keys behind this one, in order; none at the end.
    async fn copy(&self, after: Option<IVec>) -> Result<Vec<(IVec, Option<IVec>)>, StoreError> {
        self.store
            .read(move |reader| {
                let from = after.map_or(Bound::Unbounded, Bound::Excluded);
                let (mut rows, mut bytes) = (Vec::new(), 0);
                for row in reader.db.range::<IVec, _>((from, Bound::Unbounded)) {
                    let (key, value) = row.map_err(|error| unavailable(&error))?;
                    bytes += key.len() + value.len();
                    rows.push((key, Some(value)));
                    if rows.len() >= PART_KEYS || bytes >= PART_BYTES {
                        break;
                    }
                }
                Ok(rows)
            })
            .await
    }

    fn end(&mut self) {
        if std::mem::take(&mut self.journaling) {
            self.shared.journal.end();
        }
    }

    fn part(&mut self, writes: Vec<(IVec, Option<IVec>)>) -> BackupPart {
        self.entries += writes.len() as u64;
        let entry = |(key, value): (IVec, Option<IVec>)| BackupEntry {
            key: key.to_vec(),
            value: value.map(|value| value.to_vec()),
        };
        BackupPart::Entries(writes.into_iter().map(entry).collect())
    }
}

#[async_trait]
impl Backup for SledBackup {
    async fn next(&mut self) -> Result<Option<BackupPart>, StoreError> {
        match std::mem::replace(&mut self.stage, Stage::Ended) {
            Stage::Header => {
                self.stage = Stage::Copying(None);
                self.header().await.map(Some)
            }
            Stage::Copying(after) => {
                // What changed first, then what is read now: never an older value behind a newer one.
                let mut writes = self.shared.journal.take()?;
                let rows = self.copy(after).await?;
                self.stage = rows.last().map_or(Stage::Rest, |(key, _)| Stage::Copying(Some(key.clone())));
                writes.extend(rows);
                Ok(Some(self.part(writes)))
            }
            Stage::Rest => {
                let rest = self.shared.journal.take()?;
                self.end();
                self.stage = Stage::End(self.clock.now());
                Ok(Some(self.part(rest)))
            }
            Stage::End(as_of) => Ok(Some(BackupPart::End { entries: self.entries, as_of })),
            Stage::Ended => Ok(None),
        }
    }
}

impl Drop for SledBackup {
    fn drop(&mut self) {
        self.end();
    }
}

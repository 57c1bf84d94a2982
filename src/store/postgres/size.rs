//! How much is stored: the bytes of records of events, deliveries and ids, counted as they change.
//!
//! Each replica counts what it writes and adds it to the installation's figure about once a second; a crash loses
//! the last second's count.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::Core;
use super::connect::query;
use super::fault::Fault;
use crate::domain::time::Timestamp;
use crate::store::retention::{Footprint, RemovedEarly};

/// What a row is taken to cost besides its record: keys, headers, index entries.
pub(super) const ROW_BYTES: i64 = 100;

/// The figure, and what is not in it yet.
#[derive(Default)]
pub(super) struct Size {
    stored: AtomicI64,
    unwritten: AtomicI64,
    removed_early: Mutex<Option<RemovedEarly>>,
}

impl Size {
    pub(super) fn add(&self, bytes: i64) {
        self.unwritten.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn footprint(&self) -> Footprint {
        let bytes = self.stored.load(Ordering::Relaxed) + self.unwritten.load(Ordering::Relaxed);
        let removed_early = *self.removed_early.lock().unwrap_or_else(PoisonError::into_inner);
        Footprint { bytes: u64::try_from(bytes).unwrap_or(0), removed_early }
    }

    pub(super) fn note_removed(&self, removed: Option<RemovedEarly>) {
        let mut known = self.removed_early.lock().unwrap_or_else(PoisonError::into_inner);
        *known = removed.map(|removed| removed.and(*known)).or(*known);
    }
}

/// What a record costs with its row.
pub(super) fn cost(record: &[u8]) -> i64 {
    i64::try_from(record.len()).unwrap_or(i64::MAX).saturating_add(ROW_BYTES)
}

impl Core {
    /// Adds what this replica counted to the installation's figure, and learns the others'.
    pub(super) async fn write_size(&self) -> Result<(), Fault> {
        let client = self.writes.get().await?;
        let delta = self.size.unwritten.swap(0, Ordering::Relaxed);
        let sql = if delta == 0 { READ } else { ADD };
        let params: &[&(dyn tokio_postgres::types::ToSql + Sync)] = if delta == 0 { &[] } else { &[&delta] };
        let rows = match query(&client, sql, params).await {
            Ok(rows) => rows,
            Err(fault) => {
                self.size.add(delta);
                return Err(fault);
            }
        };
        if let Some(row) = rows.first() {
            self.size.stored.store(row.get(0), Ordering::Relaxed);
            let (accepted, changed): (Option<i64>, Option<i64>) = (row.get(1), row.get(2));
            self.size.note_removed(accepted.zip(changed).map(|(accepted, changed)| RemovedEarly {
                accepted: Timestamp::from_millis(accepted),
                changed: Timestamp::from_millis(changed),
            }));
        }
        Ok(())
    }
}

const READ: &str = "SELECT stored_bytes, removed_accepted, removed_changed FROM installation";
const ADD: &str = "UPDATE installation SET stored_bytes = stored_bytes + $1
                   RETURNING stored_bytes, removed_accepted, removed_changed";

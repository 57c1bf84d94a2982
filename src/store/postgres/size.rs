//! How much is stored: the bytes of records of events, deliveries and ids, counted as they change.
//!
//! Each replica counts what it writes and adds it to the installation's figure about once a second; a crash loses
//! the last second's count.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Core;
use super::connect::query;
use super::fault::Fault;
use crate::domain::time::Timestamp;
use crate::store::retention::{Footprint, RemovedEarly};

/// What a row is taken to cost besides its record: keys, headers, index entries.
pub(super) const ROW_BYTES: i64 = 100;

#[derive(Default, Clone, Copy)]
struct Bytes {
    stored: i64,
    unwritten: i64,
}

/// The figure, and what is not in it yet.
#[derive(Default)]
pub(super) struct Size {
    bytes: Mutex<Bytes>,
    removed_early: Mutex<Option<RemovedEarly>>,
}

impl Size {
    pub(super) fn add(&self, bytes: i64) {
        self.lock().unwritten += bytes;
    }

    pub(super) fn footprint(&self) -> Footprint {
        let Bytes { stored, unwritten } = *self.lock();
        let removed_early = *self.removed_early.lock().unwrap_or_else(PoisonError::into_inner);
        Footprint { bytes: u64::try_from(stored + unwritten).unwrap_or(0), removed_early }
    }

    fn lock(&self) -> MutexGuard<'_, Bytes> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
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
        let delta = self.size.lock().unwritten;
        let sql = if delta == 0 { READ } else { ADD };
        let params: &[&(dyn tokio_postgres::types::ToSql + Sync)] = if delta == 0 { &[] } else { &[&delta] };
        let rows = query(&client, sql, params).await?;
        if let Some(row) = rows.first() {
            {
                // Both at once: nobody sees a part counted twice, or not at all.
                let mut bytes = self.size.lock();
                bytes.stored = row.get(0);
                bytes.unwritten -= delta;
            }
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

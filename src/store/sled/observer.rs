//! How the store stands, for the metrics: counted where it happens, or looked up without reading a key.

use std::path::PathBuf;
use std::sync::atomic::Ordering;

use tokio::sync::Semaphore;

use super::{Shared, disk};
use crate::metrics::{Room, StoreErrorKind, StoreMetrics};
use crate::store::StoreError;

/// What watches one store.
pub(super) struct Observer {
    pub(super) metrics: StoreMetrics,
    pub(super) queue_depth: usize,
    pub(super) folder: PathBuf,
    /// Below so many bytes of free disk, new events are refused.
    pub(super) free_least: u64,
}

impl Observer {
    /// Shows how the store stands: its queue, its condition, its room. A few system calls.
    pub(super) fn look(&self, shared: &Shared, queue: &Semaphore) {
        self.metrics.queued(self.queue_depth.saturating_sub(queue.available_permits()), self.queue_depth);
        self.metrics.is_up(shared.condition.check().is_ok());
        self.metrics.room(Room {
            data: shared.stored_bytes.load(Ordering::Relaxed),
            size: disk::size_of(&self.folder),
            free: disk::free_bytes(&self.folder).unwrap_or(0),
            free_least: self.free_least,
        });
    }

    /// Counts a call that the store did not do.
    pub(super) fn count<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(error) = &result
            && let Some(kind) = kind_of(error)
        {
            self.metrics.failed(kind);
        }
        result
    }
}

/// What an error counts as; what callers asked for and may not have is no failure of the store.
const fn kind_of(error: &StoreError) -> Option<StoreErrorKind> {
    match error {
        StoreError::Busy => Some(StoreErrorKind::Busy),
        StoreError::Full { .. } => Some(StoreErrorKind::Full),
        StoreError::Corrupt(_) => Some(StoreErrorKind::Corrupt),
        StoreError::CannotOpen(_) | StoreError::Unavailable(_) => Some(StoreErrorKind::Unavailable),
        _ => None,
    }
}

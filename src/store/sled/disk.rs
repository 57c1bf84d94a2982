//! The disk below the store: the extra fsync and the free-space watermark.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::store::StoreError;

/// Free space is looked up at most this often: it changes slowly, and a look costs a system call.
const CHECK_EVERY: Duration = Duration::from_millis(100);

/// What must stay free, where the operator does not say otherwise and the disk is small.
const LEAST_FREE: u64 = 1024 * 1024 * 1024;

/// A second handle on sled's file. On Linux sled's own flush neither flushes file-system metadata nor
/// the device's cache, and a power cut then loses acknowledged data or all of it.
#[derive(Debug)]
pub(super) struct SyncHandle {
    file: File,
    count: Arc<AtomicU64>,
}

impl SyncHandle {
    /// Opens the file that sled has in this folder.
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        let file = File::options().read(true).write(true).open(folder.join("db"))?;
        Ok(Self { file, count: Arc::new(AtomicU64::new(0)) })
    }

    /// Makes all that was flushed durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()?;
        self.count.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// How often that was done, shared.
    pub(super) fn counter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.count)
    }
}

/// Makes entries of the folder, and the folder's own entry in its parent, durable.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()?;
    match folder.canonicalize()?.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// Refuses new data while less than so much is free.
#[derive(Debug)]
pub(super) struct Watermark {
    folder: PathBuf,
    needed_bytes: u64,
    checked: Option<(Instant, u64)>,
    was_full: bool,
}

impl Watermark {
    /// Watches the file system that this folder is on. Without a figure, 1 GiB or a tenth of it must stay
    /// free, whichever is more: room for outcomes and for the store's own housekeeping.
    pub(super) fn new(folder: &Path, needed_bytes: Option<u64>) -> Self {
        let needed_bytes = needed_bytes.unwrap_or_else(|| {
            let size =
                rustix::fs::statvfs(folder).map_or(0, |stat| stat.f_blocks.saturating_mul(stat.f_frsize));
            (size / 10).max(LEAST_FREE)
        });
        Self { folder: folder.to_owned(), needed_bytes, checked: None, was_full: false }
    }

    /// What must stay free.
    pub(super) const fn needed_bytes(&self) -> u64 {
        self.needed_bytes
    }

    /// Whether there is room for new data.
    pub(super) fn check(&mut self) -> Result<(), StoreError> {
        let free_bytes = match self.checked {
            Some((at, free)) if at.elapsed() < CHECK_EVERY => free,
            _ => {
                let free = free_bytes(&self.folder)?;
                self.checked = Some((Instant::now(), free));
                free
            }
        };
        let is_full = free_bytes < self.needed_bytes;
        if is_full != self.was_full {
            self.was_full = is_full;
            let needed_bytes = self.needed_bytes;
            if is_full {
                tracing::warn!(free_bytes, needed_bytes, "the disk is too full: new events are refused");
            } else {
                tracing::info!(free_bytes, needed_bytes, "the disk has room again: new events are taken");
            }
        }
        if is_full {
            return Err(StoreError::Full { free_bytes, needed_bytes: self.needed_bytes });
        }
        Ok(())
    }
}

/// The bytes that the files of a folder have on the disk; a file that goes meanwhile has none.
pub(super) fn size_of(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    // sled keeps a few files and one folder for values that are too large, which ours never are.
    entries.filter_map(|entry| entry.metadata().ok()).map(|file| file.blocks().saturating_mul(512)).sum()
}

pub(super) fn free_bytes(folder: &Path) -> Result<u64, StoreError> {
    let stat = rustix::fs::statvfs(folder)
        .map_err(|error| StoreError::Unavailable(format!("the free space can't be read: {error}")))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

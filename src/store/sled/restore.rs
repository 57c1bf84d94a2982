//! A store from a backup: built in a folder beside, and put in its place by one rename when it is whole.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sled::{Batch, Db};

use super::disk::{SyncHandle, sync_folder};
use super::open::{SCHEMA, explain};
use super::unavailable;
use crate::store::StoreError;
use crate::store::backup::{BackupEntry, BackupHeader};
use crate::store::unfinished::{Held, sweep};

/// For building; the store itself has its configured cache.
const CACHE_BYTES: u64 = 64 * 1024 * 1024;

/// A store that is being restored. Dropped before [`Restore::finish`], it leaves nothing.
pub struct Restore {
    folder: PathBuf,
    /// Beside the folder, so that a rename does.
    building: PathBuf,
    db: Option<Db>,
    _held: Held,
}

impl Restore {
    /// Begins to restore into this folder, which must be empty or not there.
    ///
    /// # Errors
    /// [`StoreError::CannotOpen`]: the folder is not empty or can't be written, or the backup is of a newer version.
    pub fn begin(folder: &Path, header: &BackupHeader) -> Result<Self, StoreError> {
        let cannot = |problem: String| {
            StoreError::CannotOpen(format!("nothing can be restored into {}: {problem}", folder.display()))
        };
        if header.layout > SCHEMA {
            return Err(cannot(format!(
                "the backup is of a newer version of Signalpost (schema {}; this one reads {SCHEMA}); use that version",
                header.layout
            )));
        }
        check_empty(folder).map_err(cannot)?;
        let wrong = |error| cannot(explain("a folder beside it can't be made", &error));
        let building = beside(folder).map_err(wrong)?;
        let held = Held::at(&building).map_err(wrong)?;
        let mut restore = Self { folder: folder.to_owned(), building, db: None, _held: held };
        let config = sled::Config::new().path(&restore.building).cache_capacity(CACHE_BYTES);
        restore.db = Some(config.open().map_err(|error| unavailable(&error))?);
        Ok(restore)
    }

    /// Writes the next entries.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], for example of a full disk.
    pub fn write(&mut self, entries: Vec<BackupEntry>) -> Result<(), StoreError> {
        let Some(db) = &self.db else { return Ok(()) };
        let mut batch = Batch::default();
        for BackupEntry { key, value } in entries {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        db.apply_batch(batch).map_err(|error| unavailable(&error))
    }

    /// Makes all durable and puts it in its place.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], and [`StoreError::CannotOpen`] where the folder was filled meanwhile.
    pub fn finish(mut self) -> Result<(), StoreError> {
        let wrong = |error: io::Error| {
            StoreError::Unavailable(explain("the restored store can't be put in its place", &error))
        };
        if let Some(db) = self.db.take() {
            db.flush().map_err(|error| unavailable(&error))?;
            drop(db);
        }
        SyncHandle::open(&self.building).and_then(|sync| sync.sync()).map_err(wrong)?;
        sync_folder(&self.building).map_err(wrong)?;
        // Replaces an empty folder, and fails for one that is not.
        fs::rename(&self.building, &self.folder).map_err(wrong)?;
        sync_folder(&self.folder).map_err(wrong)
    }
}

impl Drop for Restore {
    fn drop(&mut self) {
        drop(self.db.take());
        if self.building.exists()
            && let Err(error) = fs::remove_dir_all(&self.building)
        {
            tracing::warn!(folder = %self.building.display(), %error, "an unfinished restore can't be removed");
        }
    }
}

fn check_empty(folder: &Path) -> Result<(), String> {
    match fs::read_dir(folder).map(|mut entries| entries.next().is_some()) {
        Ok(false) => Ok(()),
        Ok(true) => {
            Err("it is not empty; give an empty or a new one, and move what is there away first".into())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(explain("it can't be read", &error)),
    }
}

/// A new folder beside this one. What a restore to the same place left that was killed is removed.
fn beside(folder: &Path) -> io::Result<PathBuf> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let beginning = format!(".{name}.restoring-");
    let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent)?;
    sweep(parent, &beginning, "");
    let building = parent.join(format!("{beginning}{}", std::process::id()));
    // Never into one that is there: another process may have our id, in another container.
    fs::create_dir(&building)?;
    Ok(building)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::time::Timestamp;

    fn header() -> BackupHeader {
        let begun_at = Timestamp::from_millis(0);
        BackupHeader { layout: SCHEMA, begun_at, sealing_keys: Vec::new(), sealed_secrets: 0 }
    }

    #[test]
    fn what_a_killed_restore_left_is_removed_by_the_next_one_and_never_built_upon() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("store");
        let left = place.path().join(format!(".store.restoring-{}", std::process::id()));
        let killed = sled::Config::new().path(&left).open().unwrap();
        killed.insert("of another backup", "1").unwrap();
        drop(killed);
        let mut restore = Restore::begin(&folder, &header()).unwrap();
        let other = Restore::begin(&folder, &header());
        assert!(matches!(other, Err(StoreError::CannotOpen(_))), "one that runs is left alone");
        restore.write(vec![BackupEntry { key: b"own".into(), value: Some(b"2".into()) }]).unwrap();
        restore.finish().unwrap();
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1, "the store and nothing besides");
        let db = sled::Config::new().path(&folder).open().unwrap();
        assert_eq!(db.iter().keys().collect::<Result<Vec<_>, _>>().unwrap(), [b"own"]);
    }
}

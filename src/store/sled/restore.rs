//! A store from a backup: built in a folder beside, and put in its place by one rename when it is whole.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sled::{Batch, Db};

use super::disk::{SyncHandle, sync_folder};
use super::open::{SCHEMA, explain};
use super::{keys, unavailable};
use crate::domain::audit::AuditEntry;
use crate::store::StoreError;
use crate::store::backup::{BackupEntry, BackupHeader};
use crate::store::record::encode_audit;
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

    /// Writes an entry into the restored audit log.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], for example of a full disk.
    pub fn record_audit(&mut self, entry: &AuditEntry) -> Result<(), StoreError> {
        let key = keys::audit(entry.id);
        let chunks = (0_u16..).zip(encode_audit(entry));
        let entries = chunks
            .map(|(number, chunk)| BackupEntry { key: keys::numbered(&key, number), value: Some(chunk) });
        self.write(entries.collect())
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
    use tempfile::TempDir;

    use super::*;
    use crate::domain::delivery::DeliveryState;
    use crate::domain::event::{Acceptance, NewEvent};
    use crate::domain::id::{AuditEntryId, EventId};
    use crate::domain::time::Timestamp;
    use crate::store::backup::BackupPart;
    use crate::store::conformance::{
        at, destination_id, durable, full_of_secrets, manual_clock, new_event, organization, query,
        settlement,
    };
    use crate::store::keyring::{Keyring, SealingKey};
    use crate::store::sled::{SledOptions, SledStore};
    use crate::store::{
        AuditQuery, AuditStore, DeliveryStore, DestinationStore, EventStore, OrganizationStore, Stage, Store,
    };

    fn open(folder: &Path, keyring: &Keyring) -> Result<SledStore, StoreError> {
        let (_, clock) = manual_clock();
        let keyring = Some(keyring.clone());
        SledStore::open(folder, SledOptions { min_free_bytes: Some(0), keyring, ..SledOptions::new(clock) })
    }

    async fn backup_of(store: &SledStore) -> (BackupHeader, Vec<BackupEntry>) {
        let mut backup = store.back_up().unwrap().unwrap();
        let (mut first, mut all) = (None, Vec::new());
        while let Some(part) = backup.next().await.unwrap() {
            match part {
                BackupPart::Header(header) => first = Some(header),
                BackupPart::Entries(entries) => all.extend(entries),
                BackupPart::End { .. } => {}
            }
        }
        (first.unwrap(), all)
    }

    /// The same with other values of stored destinations.
    fn forged(entries: &[BackupEntry], forge: impl Fn(u8, Vec<u8>) -> Vec<u8>) -> Vec<BackupEntry> {
        let mut entries = entries.to_vec();
        for entry in &mut entries {
            let of =
                [1, 2].into_iter().find(|of| entry.key.starts_with(&keys::destination(destination_id(*of))));
            if let Some(of) = of {
                entry.value = entry.value.take().map(|value| forge(of, value));
            }
        }
        entries
    }

    /// A backup that is as whole as its own digest says opens only where what is sealed in it is in its place.
    #[tokio::test]
    async fn a_backup_with_a_secret_that_was_moved_or_changed_is_not_opened() {
        let keyring = Keyring::new(SealingKey::generate().unwrap());
        let home = TempDir::new().unwrap();
        let store = open(&home.path().join("store"), &keyring).unwrap();
        for number in [1, 2] {
            store.create_destination(full_of_secrets(number), None).await.unwrap();
        }
        let (header, entries) = backup_of(&store).await;
        let restored = |name: &str, entries: Vec<BackupEntry>| {
            let folder = home.path().join(name);
            let mut restore = Restore::begin(&folder, &header).unwrap();
            restore.write(entries).unwrap();
            restore.finish().unwrap();
            open(&folder, &keyring)
        };
        assert_eq!(restored("as-it-was", entries.clone()).unwrap().directory().destination_ids().len(), 2);
        let values = std::sync::Mutex::new(std::collections::BTreeMap::new());
        forged(&entries, |of, value| {
            values.lock().unwrap().insert(of, value.clone());
            value
        });
        let values = values.into_inner().unwrap();
        let moved = restored("moved", forged(&entries, |of, _| values[&(3 - of)].clone()));
        let problem = moved.err().unwrap().to_string();
        assert!(problem.contains("another place") && !problem.contains("planted"), "{problem}");
        let changed = forged(&entries, |_, mut value| {
            let last = value.len() - 1;
            value[last / 2] ^= 1;
            value
        });
        let problem = restored("changed", changed).err().unwrap().to_string();
        assert!(!problem.contains("planted"), "{problem}");
    }

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

    /// One store with something of every kind, as a backup.
    async fn backup_with_everything(folder: &Path, keyring: &Keyring) -> (BackupHeader, Vec<BackupEntry>) {
        let store = open(folder, keyring).unwrap();
        store.create_organization(organization()).await.unwrap();
        store.create_destination(full_of_secrets(1), None).await.unwrap();
        let id = AuditEntryId::make(at(1), [7; 10]);
        store.record_audit(vec![AuditEntry::of_server(id, at(1), "noted".into(), 1)]).await.unwrap();
        let named =
            |id: &str| NewEvent { event_id: EventId::parse(id).ok(), ..new_event("a", &[durable(1)]) };
        let events: Vec<NewEvent> = (0..4).map(|number| named(&format!("evt-{number}"))).collect();
        let accepted = store.accept(events).await.unwrap();
        let states = [DeliveryState::Cancelled { at: at(3) }, DeliveryState::Waiting { due: at(9) }];
        for (acceptance, state) in accepted.iter().zip(states) {
            let Acceptance::Accepted(event) = acceptance else { panic!("{acceptance:?}") };
            store.settle(vec![settlement(event, 1, Stage::Fresh, state)], Vec::new()).await.unwrap();
        }
        backup_of(&store).await
    }

    /// Changes, cuts, moves or takes away something, at any place.
    fn make_up(random: &mut fastrand::Rng, entries: &mut Vec<BackupEntry>) {
        let (one, other) = (random.usize(..entries.len()), random.usize(..entries.len()));
        let flip = |random: &mut fastrand::Rng, bytes: &mut [u8]| {
            if !bytes.is_empty() {
                bytes[random.usize(..bytes.len())] ^= random.u8(1..);
            }
        };
        match random.u8(..5) {
            0 => flip(random, &mut entries[one].key),
            1 => flip(random, entries[one].value.as_mut().unwrap()),
            2 => entries[one].value.as_mut().unwrap().truncate(random.usize(..40)),
            3 => entries[one].value = entries[other].value.clone(),
            _ => drop(entries.remove(one)),
        }
    }

    /// Whatever somebody makes of a backup, digest and all: the store is refused with a reason, or opens and can be read.
    #[tokio::test]
    async fn a_store_of_made_up_entries_is_refused_or_opens_and_never_panics() {
        let keyring = Keyring::new(SealingKey::generate().unwrap());
        let home = TempDir::new().unwrap();
        let (header, entries) = backup_with_everything(&home.path().join("store"), &keyring).await;
        let (mut opened, mut refused) = (0, 0);
        for case in 0..60 {
            let (mut random, mut entries) = (fastrand::Rng::with_seed(case), entries.clone());
            (0..random.usize(1..4)).for_each(|_| make_up(&mut random, &mut entries));
            let folder = home.path().join(format!("made-up-{case}"));
            let mut restore = Restore::begin(&folder, &header).unwrap();
            restore.write(entries).unwrap();
            restore.finish().unwrap();
            match open(&folder, &keyring) {
                Ok(store) => {
                    opened += 1;
                    drop(store.audit(AuditQuery { limit: 10, ..AuditQuery::default() }).await);
                    drop(store.deliveries(query(&[1], 10)).await);
                    drop(store.load_fresh(destination_id(1), None, 10).await);
                }
                Err(error) => {
                    refused += 1;
                    // Panics while it is opened are caught and told with their words.
                    let told = error.to_string();
                    let panics = ["called `", "out of range", "out of bounds", "attempt to"];
                    assert!(!panics.iter().any(|words| told.contains(words)), "{case}: {told}");
                }
            }
            fs::remove_dir_all(&folder).unwrap();
        }
        assert!(opened > 5 && refused > 5, "{opened} opened, {refused} refused");
    }
}

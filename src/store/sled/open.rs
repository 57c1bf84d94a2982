//! Opening the store: every known way in which it can go wrong has a message, and nothing is ever wiped.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use sled::{Db, IVec};

use super::disk::{SyncHandle, sync_folder};
use super::group::Tally;
use super::mark::{self, Mark};
use super::retention::decode_early;
use super::writer::panic_text;
use super::young::{self, Nursery};
use super::{SledOptions, keys, seals, size};
use crate::domain::destination::{Destination, DestinationHealth};
use crate::domain::id::{DeliveryId, DestinationId, EventKey, OrganizationId};
use crate::domain::organization::Organization;
use crate::store::StoreError;
use crate::store::keyring::Keyring;
use crate::store::record::{Place, decode_destination, decode_health, decode_organization};
use crate::store::retention::RemovedEarly;

/// The layout of keys and values that this version reads and writes.
pub(super) const SCHEMA: u32 = 2;
/// In this one all fresh deliveries are in `W`; it is taken over at open.
const ALL_INDEXED: u32 = 1;
/// Locked while the store is open; not empty once a store was created here.
const LOCK_FILE: &str = "signalpost.lock";
/// What sled writes into each of its folders first.
const SLED_FILE: &str = "conf";
/// There while the store is closed in an orderly way, with what it ended with: sled recovers from a damaged log by
/// forgetting what it can't read, and only somebody outside of it can tell.
const CLOSED_FILE: &str = "signalpost.closed";
/// sled's own background flush. It does not make anything durable, but only its thread cleans segments.
const FLUSH_EVERY_MS: u64 = 500;

/// How long a lock may be held by a store that is on its way out: sled's by one of this process that was just dropped,
/// ours by a child that this process is just starting, which has a copy of the handle until it is another program.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// An open store.
pub(super) struct Opened {
    pub(super) db: Db,
    pub(super) sync: SyncHandle,
    pub(super) lock: File,
    pub(super) contents: Contents,
    pub(super) keyring: Keyring,
    pub(super) mark: Mark,
}

/// What is kept in memory besides.
pub(super) struct Contents {
    pub(super) last_key: Option<EventKey>,
    pub(super) organizations: BTreeMap<OrganizationId, Arc<Organization>>,
    pub(super) destinations: BTreeMap<DestinationId, Arc<Destination>>,
    pub(super) health: BTreeMap<DestinationId, DestinationHealth>,
    pub(super) erasing: BTreeSet<OrganizationId>,
    /// How many deliveries wait, and how many dead letters there are.
    pub(super) tally: Tally,
    pub(super) stored_bytes: u64,
    pub(super) removed_early: Option<RemovedEarly>,
    /// The latest events, and which of their deliveries are fresh.
    pub(super) nursery: Nursery,
    pub(super) young: Vec<DeliveryId>,
}

impl Contents {
    fn new(nursery: Nursery, young: Vec<DeliveryId>, tally: Tally) -> Self {
        Self {
            last_key: None,
            organizations: BTreeMap::new(),
            destinations: BTreeMap::new(),
            health: BTreeMap::new(),
            erasing: BTreeSet::new(),
            tally,
            stored_bytes: 0,
            removed_early: None,
            nursery,
            young,
        }
    }
}

/// Opens the store in this folder, or creates one there.
pub(super) fn open(folder: &Path, options: &SledOptions) -> Result<Opened, StoreError> {
    let cannot = |what: &str, error: &io::Error| cannot_open(folder, &explain(what, error));
    fs::create_dir_all(folder).map_err(|error| cannot("the folder can't be created", &error))?;
    let (db, mut lock, marker) = recover(folder, options.cache_bytes)?;
    let sync = SyncHandle::open(folder).map_err(|error| cannot("its file can't be opened", &error))?;
    sync_folder(folder).map_err(|error| cannot("the folder can't be synced", &error))?;
    let destinations = guarded(folder, || {
        prepare(&db, !marker.is_empty())?;
        grouped(&db, keys::DESTINATIONS).map_err(|error| error.to_string())
    })?;
    let keyring = seals::complete(folder, options.keyring.clone(), &destinations)
        .map_err(|problem| cannot_open(folder, &problem))?;
    let contents = guarded(folder, || {
        load(&db, &destinations, &keyring, options.young_deliveries).map_err(|error| error.to_string())
    })?;
    check_end(folder, &db).map_err(|problem| cannot_open(folder, &problem))?;
    reopen(folder).map_err(|problem| cannot_open(folder, &problem))?;
    finish(&db, &sync, &mut lock, marker.is_empty()).map_err(|problem| cannot_open(folder, &problem))?;
    let mark = Mark::open(folder, &db)
        .map_err(|error| cannot("the mark of how far it has come can't be written", &error))?;
    Ok(Opened { db, sync, lock, contents, keyring, mark })
}

/// Opens a store that is there, for `look`, and leaves what it says of itself as it is.
pub(super) fn existing<T>(
    folder: &Path,
    cache_bytes: u64,
    look: impl FnOnce(&Db) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    // One that was restored and never started has sled's own files alone.
    if ![LOCK_FILE, SLED_FILE].iter().any(|name| folder.join(name).exists()) {
        return Err(cannot_open(folder, "there is no store; give the folder that store.path names"));
    }
    let (db, lock, marker) = recover(folder, cache_bytes)?;
    let looked = guarded(folder, || {
        prepare(&db, !marker.is_empty())?;
        check_end(folder, &db)?;
        look(&db).map_err(|error| error.to_string())
    });
    drop((db, lock));
    looked
}

/// Locks the folder and has sled recover what is there; answers the text of the lock file, too.
fn recover(folder: &Path, cache_bytes: u64) -> Result<(Db, File, String), StoreError> {
    let cannot = |what: &str, error: &io::Error| cannot_open(folder, &explain(what, error));
    let mut lock = lock(folder)?;
    let mut marker = String::new();
    lock.read_to_string(&mut marker).map_err(|error| cannot("its lock file can't be read", &error))?;
    remove_unfinished_snapshots(folder)
        .map_err(|error| cannot("an unfinished snapshot can't be removed", &error))?;
    let db = guarded(folder, || open_sled(folder, cache_bytes))?;
    Ok((db, lock, marker))
}

/// Our own lock is held, so if sled's is taken, its holder is a store of this process that is on its way
/// out: sled's background thread lets go of it a moment after the store was dropped.
fn open_sled(folder: &Path, cache_bytes: u64) -> Result<Db, String> {
    let config = sled::Config::new().path(folder).cache_capacity(cache_bytes);
    let config = config.flush_every_ms(Some(FLUSH_EVERY_MS));
    let begun = Instant::now();
    loop {
        match config.open() {
            Err(error) if is_locked(&error) && begun.elapsed() < LOCK_PATIENCE => {
                std::thread::sleep(Duration::from_millis(5));
            }
            opened => return opened.map_err(|error| explain_sled(&error)),
        }
    }
}

fn is_locked(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(error) if error.to_string().contains("could not acquire lock"))
}

fn lock(folder: &Path) -> Result<File, StoreError> {
    let options = File::options().read(true).append(true).create(true).open(folder.join(LOCK_FILE));
    let file =
        options.map_err(|error| cannot_open(folder, &explain("its lock file can't be written", &error)))?;
    let begun = Instant::now();
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) if begun.elapsed() < LOCK_PATIENCE => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let why =
                    "it is in use by another process; only one may have it open, so stop that one first";
                return Err(cannot_open(folder, why));
            }
            Err(error) => return Err(cannot_open(folder, &explain("it can't be locked", &error.into()))),
        }
    }
}

/// A process that is killed while it opens leaves such a file, and sled takes it for its newest snapshot
/// from then on: every later open fails. The log has all that the snapshot would have had.
fn remove_unfinished_snapshots(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            tracing::warn!(file = %name, "removing a snapshot that an earlier start left unfinished");
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// sled panics on damaged files; here that is an error like any other.
fn guarded<T>(folder: &Path, work: impl FnOnce() -> Result<T, String>) -> Result<T, StoreError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(problem)) => Err(cannot_open(folder, &problem)),
        Err(panic) => Err(cannot_open(folder, &damaged(&panic_text(panic.as_ref())))),
    }
}

/// Checks that the tree is one of ours and not of a later version.
fn prepare(db: &Db, existed: bool) -> Result<(), String> {
    let schema = db.get(keys::SCHEMA_KEY).map_err(|error| explain_sled(&error))?;
    let Some(schema) = schema else {
        let is_empty = db.first().map_err(|error| explain_sled(&error))?.is_none();
        return match (existed, is_empty) {
            (false, true) => {
                let mut first = sled::Batch::default();
                first.insert(keys::SCHEMA_KEY, &SCHEMA.to_be_bytes());
                first.insert(keys::COMMIT_KEY, mark::commit(0, 0));
                db.apply_batch(first).map_err(|error| explain_sled(&error))
            }
            (true, true) => Err(damaged("it was used before and is empty now")),
            (_, false) => Err("it holds a sled database that is not a store of Signalpost".into()),
        };
    };
    match schema.as_ref().try_into().map(u32::from_be_bytes) {
        Ok(SCHEMA) => Ok(()),
        Ok(ALL_INDEXED) => upgrade(db).map_err(|error| explain_sled(&error)),
        Ok(newer) if newer > SCHEMA => Err(format!(
            "it was written by a newer version of Signalpost (schema {newer}; this one reads {SCHEMA}); \
             run that version"
        )),
        Ok(other) => Err(damaged(&format!("there is no schema {other}"))),
        Err(_) => Err(damaged("its schema version is unreadable")),
    }
}

/// Takes over a store of the first layout. One step, there after a crash or not at all.
fn upgrade(db: &Db) -> Result<(), sled::Error> {
    let mut batch = sled::Batch::default();
    if let Some((last, _)) = db.scan_prefix(keys::EVENTS).next_back().transpose()? {
        batch.insert(keys::INDEXED_KEY, last.get(keys::EVENTS.len()..).unwrap_or_default());
    }
    batch.insert(keys::SCHEMA_KEY, &SCHEMA.to_be_bytes());
    tracing::info!(from = ALL_INDEXED, to = SCHEMA, "the store's layout is upgraded");
    db.apply_batch(batch)
}

fn load(db: &Db, destinations: &Rows, keyring: &Keyring, young_max: usize) -> Result<Contents, StoreError> {
    let (nursery, young) = young::find(db, young_max)?;
    let tally = tally(db, young.len())?;
    let mut contents = Contents::new(nursery, young, tally);
    if let Some((key, _)) = db.scan_prefix(keys::EVENTS).next_back().transpose().map_err(sled_error)? {
        contents.last_key = keys::event_of(&key);
    }
    for (prefix, chunks) in grouped(db, keys::ORGANIZATIONS)? {
        let organization = decode_organization(&prefix, &chunks)?;
        contents.organizations.insert(organization.id.clone(), Arc::new(organization));
    }
    for (prefix, chunks) in destinations {
        let id = destination_of(prefix)?;
        contents.destinations.insert(id, Arc::new(decode_destination(id, chunks, keyring)?));
    }
    for key in db.scan_prefix(keys::ERASURES).keys() {
        let key = key.map_err(sled_error)?;
        let name = key.get(keys::ERASURES.len()..).map(String::from_utf8_lossy).unwrap_or_default();
        let id = OrganizationId::parse(&name);
        contents.erasing.insert(id.map_err(|problem| Place::new("erasure", &key).corrupt(problem))?);
    }
    for row in db.scan_prefix(keys::HEALTH) {
        let (key, stored) = row.map_err(sled_error)?;
        if let Some(id) = keys::destination_of(&key) {
            contents.health.insert(id, decode_health(id, &stored)?);
        }
    }
    contents.stored_bytes = match mark::stored_bytes(db).map_err(sled_error)? {
        Some(bytes) => bytes,
        None => match db.get(keys::SIZE_KEY).map_err(sled_error)? {
            Some(stored) => u64::from_be_bytes(stored.as_ref().try_into().unwrap_or_default()),
            None => size::measure(db)?,
        },
    };
    let early = db.get(keys::EARLY_KEY).map_err(sled_error)?;
    contents.removed_early = early.and_then(|stored| decode_early(&stored));
    Ok(contents)
}

/// How much waits: as noted at an orderly close, or counted; from here on the writer keeps count.
fn tally(db: &Db, young: usize) -> Result<Tally, StoreError> {
    let is_clean = db.contains_key(keys::CLEAN_KEY).map_err(sled_error)?;
    let noted = db.get(keys::TALLY_KEY).map_err(sled_error)?;
    if let Some(tally) = noted.filter(|_| is_clean).and_then(|noted| Tally::decode(&noted)) {
        return Ok(tally);
    }
    let mut tally = count(db)?;
    tally.waiting += i64::try_from(young).unwrap_or(i64::MAX);
    Ok(tally)
}

/// Counts the keys of what waits. Keys alone, and in order: about one and a half seconds for a million that are
/// not in the cache yet.
fn count(db: &Db) -> Result<Tally, StoreError> {
    let mut tally = Tally::default();
    for table in [keys::FRESH, keys::DUE, keys::DEAD] {
        for key in db.scan_prefix([table]).keys() {
            tally.add(&key.map_err(sled_error)?, 1);
        }
    }
    Ok(tally)
}

/// Which destination the chunks with this beginning are.
pub(super) fn destination_of(prefix: &[u8]) -> Result<DestinationId, StoreError> {
    let id = keys::destination_of(prefix);
    id.ok_or_else(|| Place::new("destination", prefix).corrupt("its key is too short"))
}

/// The chunks of a table, by what their keys begin with.
pub(super) type Rows = BTreeMap<Vec<u8>, Vec<IVec>>;

/// The rows of a chunked table, by what their keys begin with.
pub(super) fn grouped(db: &Db, table: &[u8]) -> Result<Rows, StoreError> {
    let mut groups = Rows::new();
    for row in db.scan_prefix(table) {
        let (key, stored) = row.map_err(sled_error)?;
        groups.entry(keys::without_number(&key).to_vec()).or_default().push(stored);
    }
    Ok(groups)
}

fn sled_error(error: sled::Error) -> StoreError {
    StoreError::Unavailable(explain_sled(&error))
}

/// Makes durable that the store exists and is open now.
fn finish(db: &Db, sync: &SyncHandle, lock: &mut File, is_new: bool) -> Result<(), String> {
    let was_clean = db.remove(keys::CLEAN_KEY).map_err(|error| explain_sled(&error))?.is_some();
    db.flush().map_err(|error| explain_sled(&error))?;
    sync.sync().map_err(|error| explain("it can't be synced", &error))?;
    if is_new {
        let text = format!("Signalpost store, schema {SCHEMA}\n");
        let written = lock.write_all(text.as_bytes()).and_then(|()| lock.sync_all());
        written.map_err(|error| explain("its lock file can't be written", &error))?;
    } else if !was_clean {
        tracing::info!("the store was not closed in an orderly way; it recovered by itself");
    }
    Ok(())
}

/// Refuses a store that has lost what was at its end.
fn check_end(folder: &Path, db: &Db) -> Result<(), String> {
    let missing = mark::missing(folder, db)
        .map_err(|error| explain("the mark of how far it has come can't be read", &error))?;
    if missing > 0 {
        return Err(damaged(&format!("{missing} commits that it had are missing at its end")));
    }
    check_closed(folder, db)
}

/// Refuses a store that was closed with another last event or another last commit than it has now.
fn check_closed(folder: &Path, db: &Db) -> Result<(), String> {
    let noted = match fs::read_to_string(folder.join(CLOSED_FILE)) {
        Ok(noted) => noted,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(explain("its mark of an orderly end can't be read", &error)),
    };
    if noted.trim() == closed_note(db).map_err(|error| explain_sled(&error))? {
        return Ok(());
    }
    Err(damaged("what it had when it was closed is not all there"))
}

/// From here on it is open.
fn reopen(folder: &Path) -> Result<(), String> {
    match fs::remove_file(folder.join(CLOSED_FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.and_then(|()| sync_folder(folder)),
    }
    .map_err(|error| explain("its mark of an orderly end can't be removed", &error))
}

/// Writes the mark of an orderly end. It is there as a whole or not at all, also after a power cut right behind
/// it: a mark that is cut off would keep the store from being opened.
pub(super) fn note_closed(folder: &Path, db: &Db) -> io::Result<()> {
    let (path, half) = (folder.join(CLOSED_FILE), folder.join(CLOSED_FILE).with_extension("closing"));
    let note = closed_note(db).map_err(io::Error::other)?;
    let mut file = File::create(&half)?;
    file.write_all(note.as_bytes())?;
    file.sync_all()?;
    fs::rename(&half, &path)?;
    sync_folder(folder)
}

/// What the mark of an orderly end says: the last event, and which end it was. The last commit of that end has it,
/// too ([`keys::CLEAN_KEY`]; stores of earlier versions have nothing there), so whatever is missing from the end of
/// sled's log is missed, be it an event or not.
fn closed_note(db: &Db) -> Result<String, sled::Error> {
    let last = db.scan_prefix(keys::EVENTS).next_back().transpose()?;
    let last = last.and_then(|(key, _)| keys::event_of(&key)).unwrap_or(EventKey::MIN);
    let end = db.get(keys::CLEAN_KEY)?.filter(|end| !end.is_empty());
    let end = end.map(|end| format!("\nend {}", hex::encode(end))).unwrap_or_default();
    Ok(format!("last event {last}{end}"))
}

fn cannot_open(folder: &Path, problem: &str) -> StoreError {
    StoreError::CannotOpen(format!("the store in {} can't be opened: {problem}", folder.display()))
}

fn damaged(problem: &str) -> String {
    format!("it is damaged ({problem}); copy the folder before anything else, then restore a backup")
}

fn explain_sled(error: &sled::Error) -> String {
    match error {
        error if is_locked(error) => "its file is locked by another process; stop that one first".into(),
        sled::Error::Io(error) => explain("its files can't be used", error),
        sled::Error::Unsupported(problem) => format!("its files have a format of another sled: {problem}"),
        sled::Error::CollectionNotFound(_)
        | sled::Error::ReportableBug(_)
        | sled::Error::Corruption { .. } => damaged(&error.to_string()),
    }
}

/// What an error of the system means for the operator.
pub(super) fn explain(what: &str, error: &io::Error) -> String {
    let remedy = match error.kind() {
        io::ErrorKind::PermissionDenied => "; give this process the right to write there",
        io::ErrorKind::ReadOnlyFilesystem => "; the file system is read-only, mount it for writing",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; the disk is full: free some space and start again, nothing is lost"
        }
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => "; the path must be a folder",
        _ => "",
    };
    format!("{what}: {error}{remedy}")
}

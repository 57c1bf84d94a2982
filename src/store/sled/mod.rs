//! The embedded store: sled 0.34.7, with its hazards handled.
//!
//! One thread writes (`writer`), reads run on blocking threads (`reader`, `listing`), and no sled call is
//! ever made on an asynchronous thread. What must stay true:
//!
//! - sled's flush is no fsync: each durable commit ends with one `sync_data` on a handle of our own.
//! - No stored value is over 4 KiB, or sled leaks files (`record`).
//! - A panic or an input/output error of sled fails the store for good; the process must end, so that
//!   the next one opens it again. [`SledStore::failed`] tells.
//! - Opening removes a snapshot that was left unfinished, and refuses with a message rather than to
//!   wipe anything (`open`).
//! - `Tree::len` walks the tree and is never called.

mod accept;
mod audit;
mod backup;
mod config;
mod cover;
#[cfg(test)]
mod damage_tests;
mod disk;
mod erase;
mod fresh;
mod group;
mod held;
mod inspection;
mod keys;
mod listing;
mod mark;
mod observer;
mod open;
#[cfg(test)]
mod power_cut_tests;
mod reader;
mod replay;
mod restore;
mod retention;
mod seals;
mod settle;
mod size;
#[cfg(test)]
mod tests;
mod traits;
#[cfg(test)]
mod upkeep_tests;
#[cfg(test)]
mod wreck;
mod writer;
mod young;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::thread::JoinHandle;

use tokio::sync::{Semaphore, oneshot, watch};

use super::changes::ChangeFeed;
use super::directory::Directory;
use super::keyring::Keyring;
use super::retention::{Footprint, RemovedEarly};
use super::riders::Riders;
use super::{CommitListener, StoreError};
use crate::clock::SharedClock;
use crate::domain::id::{DestinationId, EventKey};
use crate::metrics::StoreMetrics;
use backup::Journal;
use disk::Watermark;
pub use inspection::Inspection;
use observer::Observer;
use reader::Reader;
use replay::Running;
pub use restore::Restore;
use writer::{Command, Heads, Queued, Reply, Writer};
use young::Young;

/// How many reads run at once; more would only wait for each other inside sled.
const READS_AT_ONCE: usize = 8;

/// How the embedded store is run.
#[derive(Clone)]
pub struct SledOptions {
    /// sled's cache. The process takes up to 2.2 times this, and 40 bytes a key.
    pub cache_bytes: u64,
    /// Below this much free space new events and destinations are refused; `None`: 1 GiB or a tenth of
    /// the disk, whichever is more.
    pub min_free_bytes: Option<u64>,
    /// How many calls may wait to be written before further ones are answered Busy.
    pub queue_depth: usize,
    /// How many events a group commit gathers at most; beyond 64 it gets no faster.
    pub group_events: usize,
    /// How many deliveries the latest events may have before the oldest of them that still wait for their first
    /// attempt are indexed one by one. A start after a crash looks at so many, about 100,000 a second.
    pub young_deliveries: usize,
    /// Gives the times of events.
    pub clock: SharedClock,
    /// What is counted and measured.
    pub metrics: StoreMetrics,
    /// Under which secrets are sealed; `None`: a key of the store's own, made in its folder where there is
    /// none.
    pub keyring: Option<Keyring>,
}

impl SledOptions {
    /// The defaults: 256 MiB cache, the watermark by the size of the disk, 4096 waiting calls, groups of 64.
    #[must_use]
    pub fn new(clock: SharedClock) -> Self {
        Self {
            cache_bytes: 256 * 1024 * 1024,
            min_free_bytes: None,
            queue_depth: 4096,
            group_events: 64,
            young_deliveries: 16_384,
            clock,
            metrics: StoreMetrics::default(),
            keyring: None,
        }
    }
}

/// The embedded store.
#[derive(Clone)]
pub struct SledStore {
    shared: Arc<Shared>,
    writing: Arc<Writing>,
    queue: Arc<Semaphore>,
    reads: Arc<Semaphore>,
    reader: Arc<Reader>,
    syncs: Arc<AtomicU64>,
    observer: Arc<Observer>,
    keyring: Arc<Keyring>,
    clock: SharedClock,
    /// What rides on the next change.
    riders: Riders,
}

/// The way to the writer, and its thread.
struct Writing {
    commands: Mutex<Option<mpsc::Sender<Queued>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the writer, the readers and the store share.
struct Shared {
    directory: Arc<Directory>,
    changes: Arc<ChangeFeed>,
    listener: OnceLock<Arc<dyn CommitListener>>,
    condition: Condition,
    durable_key: Mutex<EventKey>,
    stored_bytes: AtomicU64,
    removed_early: Mutex<Option<RemovedEarly>>,
    journal: Journal,
    young: Young,
}

impl Shared {
    fn of(contents: &open::Contents, last_key: EventKey) -> Self {
        Self {
            directory: Arc::new(directory_of(contents)),
            changes: Arc::default(),
            listener: OnceLock::new(),
            condition: Condition(watch::Sender::new(State::Working)),
            durable_key: Mutex::new(last_key),
            stored_bytes: AtomicU64::new(contents.stored_bytes),
            removed_early: Mutex::new(contents.removed_early),
            journal: Journal::default(),
            young: Young::default(),
        }
    }

    /// The key up to which all events are durable.
    fn durable_key(&self) -> EventKey {
        *self.durable_key.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn footprint(&self) -> Footprint {
        let removed_early = *self.removed_early.lock().unwrap_or_else(PoisonError::into_inner);
        Footprint { bytes: self.stored_bytes.load(Ordering::Relaxed), removed_early }
    }

    /// Whether the lane of a destination may hold deliveries that are in memory only.
    fn may_hold(&self, id: DestinationId) -> bool {
        let entry = self.directory.destination(id);
        let lane = entry.map(|entry| entry.status.lane()).unwrap_or_default();
        lane.waiting_in_memory > 0 || lane.in_flight > 0
    }

    fn set_durable_key(&self, key: EventKey) {
        *self.durable_key.lock().unwrap_or_else(PoisonError::into_inner) = key;
    }
}

/// Whether the store works.
struct Condition(watch::Sender<State>);

#[derive(Clone)]
enum State {
    Working,
    Closed,
    Failed(String),
}

impl Condition {
    fn fail(&self, problem: String) {
        tracing::error!(problem, "the store failed");
        self.0.send_if_modified(|state| match state {
            // The first problem is the cause of the others.
            State::Failed(_) => false,
            State::Working | State::Closed => {
                *state = State::Failed(problem);
                true
            }
        });
    }

    fn close(&self) {
        self.0.send_replace(State::Closed);
    }

    fn check(&self) -> Result<(), StoreError> {
        match &*self.0.borrow() {
            State::Working => Ok(()),
            State::Closed => Err(StoreError::Unavailable("it is closed".into())),
            State::Failed(problem) => Err(StoreError::Unavailable(problem.clone())),
        }
    }

    /// Why the writer has dropped a call; it is about to say so.
    async fn why(&self) -> StoreError {
        let mut state = self.0.subscribe();
        // The sender is ours, so this can't fail; and it waits only for the writer's last step.
        drop(state.wait_for(|state| !matches!(state, State::Working)).await);
        self.check().err().unwrap_or_else(|| StoreError::Unavailable("its writer has ended".into()))
    }
}

/// What to do when too much waits to be written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Patience {
    Refuse,
    Wait,
}

fn start(writer: Writer, queued: mpsc::Receiver<Queued>) -> Result<JoinHandle<()>, StoreError> {
    let thread = std::thread::Builder::new().name("store.writer".into());
    let started = thread.spawn(move || writer.run(queued));
    started.map_err(|error| StoreError::CannotOpen(format!("the store's thread can't start: {error}")))
}

fn unavailable(error: &::sled::Error) -> StoreError {
    StoreError::Unavailable(error.to_string())
}

impl SledStore {
    /// Opens the store in this folder, or creates one there. It blocks while sled recovers: up to some
    /// seconds per million waiting deliveries after a crash.
    ///
    /// # Errors
    /// [`StoreError::CannotOpen`], with what the operator can do.
    pub fn open(folder: &Path, options: SledOptions) -> Result<Self, StoreError> {
        let open::Opened { db, sync, lock, contents, keyring, mark } = open::open(folder, &options)?;
        let keyring = Arc::new(keyring);
        options.metrics.moved(contents.tally.waiting, contents.tally.dead_letters);
        options.metrics.is_up(true);
        let last_key = contents.last_key.unwrap_or(EventKey::MIN);
        let shared = Arc::new(Shared::of(&contents, last_key));
        shared.young.add(&contents.young);
        let reader = Reader { db: db.clone(), shared: Arc::clone(&shared), _lock: Arc::new(lock) };
        let running_replays = reader.running_replays()?;
        let running_replays =
            running_replays.iter().map(|replay| (replay.id, Running::from(replay))).collect();
        let syncs = sync.counter();
        let watermark = Watermark::new(folder, options.min_free_bytes);
        let (queue_depth, free_least) =
            (options.queue_depth.min(Semaphore::MAX_PERMITS), watermark.needed_bytes());
        let metrics = options.metrics.clone();
        let observer = Observer { metrics, queue_depth, folder: folder.to_owned(), free_least };
        let mut writer = Writer {
            db,
            sync,
            mark,
            shared: Arc::clone(&shared),
            clock: Arc::clone(&options.clock),
            metrics: options.metrics,
            watermark,
            folder: folder.to_owned(),
            group_events: options.group_events,
            last_key,
            heads: Heads::default(),
            nursery: contents.nursery,
            tally: contents.tally,
            destinations: contents.destinations,
            organizations: contents.organizations,
            running_replays,
            erasing: contents.erasing,
            keyring: Arc::clone(&keyring),
            unsynced_since: None,
            stored_bytes: contents.stored_bytes,
            removed_early: contents.removed_early,
            opening: fastrand::u64(..),
        };
        // Before anybody can read.
        writer.abandon_held()?;
        let (commands, queued) = mpsc::channel();
        let thread = start(writer, queued)?;
        Ok(Self {
            shared,
            writing: Arc::new(Writing {
                commands: Mutex::new(Some(commands)),
                thread: Mutex::new(Some(thread)),
            }),
            queue: Arc::new(Semaphore::new(queue_depth)),
            reads: Arc::new(Semaphore::new(READS_AT_ONCE)),
            reader: Arc::new(reader),
            syncs,
            observer: Arc::new(observer),
            keyring,
            clock: options.clock,
            riders: Riders::default(),
        })
    }

    /// Completes with the reason once the store can't go on; the process should end then. It does not
    /// complete when the store is closed in an orderly way.
    pub fn failed(&self) -> impl Future<Output = String> + Send + 'static {
        let mut state = self.shared.condition.0.subscribe();
        async move {
            loop {
                if let State::Failed(problem) = state.borrow_and_update().clone() {
                    return problem;
                }
                if state.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        }
    }

    /// Writes what waits, makes everything durable, and ends the writer. All later calls answer
    /// Unavailable. The folder is free for another process when the store is dropped, too.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if it failed before or fails now.
    pub async fn close(&self) -> Result<(), StoreError> {
        let thread = self.writing.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(thread) = thread else { return self.shared.condition.check() };
        let result = self.submit(Patience::Wait, Command::Close).await;
        let joined = tokio::task::spawn_blocking(move || thread.join()).await;
        if !matches!(joined, Ok(Ok(()))) {
            return Err(StoreError::Unavailable("its writer did not end".into()));
        }
        result
    }

    /// How many times data was fsynced since the store was opened.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }

    /// Shows how the store stands, in its metrics. A few system calls; no key is read.
    pub fn observe(&self) {
        self.observer.look(&self.shared, &self.queue);
    }

    async fn submit<T>(
        &self,
        patience: Patience,
        command: impl FnOnce(Reply<T>) -> Command,
    ) -> Result<T, StoreError> {
        self.observer.count(self.try_submit(patience, command).await)
    }

    async fn try_submit<T>(
        &self,
        patience: Patience,
        command: impl FnOnce(Reply<T>) -> Command,
    ) -> Result<T, StoreError> {
        self.shared.condition.check()?;
        let queue = Arc::clone(&self.queue);
        let place = match patience {
            Patience::Refuse => queue.try_acquire_owned().map_err(|_| StoreError::Busy)?,
            Patience::Wait => queue.acquire_owned().await.map_err(|_| StoreError::Busy)?,
        };
        let (reply, answer) = oneshot::channel();
        let queued = Queued { command: command(reply), place, riders: self.riders.clone() };
        let commands = self.writing.commands.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // A writer that has ended drops what is sent to it, and with it the reply.
        if let Some(commands) = commands {
            drop(commands.send(queued));
        }
        match answer.await {
            Ok(result) => result,
            Err(_) => Err(self.shared.condition.why().await),
        }
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Reader) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.observer.count(self.try_read(work).await)
    }

    async fn try_read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Reader) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.shared.condition.check()?;
        let permit = Arc::clone(&self.reads).acquire_owned().await.map_err(|_| StoreError::Busy)?;
        let reader = Arc::clone(&self.reader);
        let task = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work(&reader)
        });
        let result = match task.await {
            Ok(result) => result,
            Err(error) if error.is_panic() => {
                let text = writer::panic_text(error.into_panic().as_ref());
                Err(StoreError::Unavailable(format!("a read panicked: {text}")))
            }
            // The runtime is stopping; the store itself is well.
            Err(_) => return Err(StoreError::Unavailable("the process is stopping".into())),
        };
        if let Err(StoreError::Unavailable(problem)) = &result {
            self.shared.condition.fail(problem.clone());
        }
        result
    }
}

fn directory_of(contents: &open::Contents) -> Directory {
    let directory = Directory::new();
    for organization in contents.organizations.values() {
        directory.put_organization(Arc::clone(organization));
    }
    for (id, destination) in &contents.destinations {
        let health = contents.health.get(id).cloned().unwrap_or_default();
        directory.put_destination(Arc::clone(destination), health);
    }
    for id in &contents.erasing {
        directory.begin_erasure(id.clone());
    }
    directory
}

impl Drop for Writing {
    /// Waits for the writer, so that the folder is free when the store is gone.
    fn drop(&mut self) {
        drop(self.commands.lock().unwrap_or_else(PoisonError::into_inner).take());
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(thread.map(JoinHandle::join));
    }
}

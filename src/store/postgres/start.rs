//! Opening and closing.

use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use deadpool_postgres::Object;
use tokio::runtime::{Builder, Handle};
use tokio::sync::{Mutex, Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::clock::FollowingClock;
use super::connect::{Connector, query};
use super::conveyor::Conveyor;
use super::fault::Fault;
use super::lease::Leases;
use super::size::Size;
use super::{Core, PostgresOptions, PostgresStore, accept, keeper, keys, listen, rows, schema, settle};
use crate::clock::{SharedClock, SystemClock};
use crate::domain::time::Timestamp;
use crate::store::StoreError;
use crate::store::directory::Directory;
use crate::store::riders::Riders;

/// Connections for what writes: groups of events, groups of outcomes, leases, and a few calls beside them.
const WRITERS: usize = 6;

/// The store's own thread, which drives its connections.
pub(super) struct Thread {
    closed: CancellationToken,
    handle: Option<JoinHandle<()>>,
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.closed.cancel();
        // Not waited for: whoever drops the store may be on an asynchronous thread.
        drop(self.handle.take());
    }
}

/// What the store needs before anything else of it can be made.
pub(super) struct Ground {
    connector: Connector,
    pub(super) writes: deadpool_postgres::Pool,
    reads: deadpool_postgres::Pool,
}

impl PostgresStore {
    /// Connects, and brings the schema to this version. It blocks while it does.
    ///
    /// # Errors
    /// [`StoreError::CannotOpen`], with what the operator can do.
    pub fn open(options: PostgresOptions) -> Result<Self, StoreError> {
        let (thread, runtime) = start_thread()?;
        let (answer, opened) = std::sync::mpsc::channel();
        let driver = runtime.clone();
        runtime.spawn(async move {
            drop(answer.send(open(options, driver).await));
        });
        let (core, accepting, settling) = opened.recv().map_err(|_| cannot("its thread has ended"))??;
        let closed = core.closed.clone();
        // The thread ends with the store, and the store's tasks with the thread.
        runtime.spawn({
            let ended = thread.closed.clone();
            async move {
                ended.cancelled().await;
                closed.cancel();
            }
        });
        Ok(Self { core, accepting, settling, _thread: Arc::new(thread), riders: Riders::default() })
    }

    /// Brings the schema to this version and does nothing else; answers from which version to which.
    ///
    /// # Errors
    /// [`StoreError::CannotOpen`], with what the operator can do.
    pub fn migrate(options: &PostgresOptions) -> Result<(i32, i32), StoreError> {
        let (thread, runtime) = start_thread()?;
        let (answer, migrated) = std::sync::mpsc::channel();
        let (options, driver) = (options.clone(), runtime.clone());
        runtime.spawn(async move {
            let migrate = async {
                let ground = ground(&options, driver)?;
                let client = ground.writes.get().await.map_err(|error| explain(error.into()))?;
                schema::migrate(&client).await.map_err(explain)
            };
            drop(answer.send(migrate.await));
        });
        let from = migrated.recv().map_err(|_| cannot("its thread has ended"))??;
        drop(thread);
        Ok((from, schema::newest()))
    }

    /// The clock that follows the database, or the one that the store was given.
    #[must_use]
    pub fn clock(&self) -> SharedClock {
        Arc::clone(&self.core.clock)
    }

    /// Writes what waits, gives the leases back, and closes. All later calls answer Unavailable.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] where outcomes could not be written; they are delivered again.
    pub async fn close(&self) -> Result<(), StoreError> {
        self.core.closing.cancel();
        // Calls are taken in their order, so whatever came before is stored when this one is answered.
        let (reply, answer) = oneshot::channel();
        let last = settle::Submitted { settlements: Vec::new(), health: Vec::new(), told: Vec::new(), reply };
        let settled = match self.settling.send(last).await {
            Ok(()) => answer.await.unwrap_or_else(|_| Err(closed())),
            Err(_) => Err(closed()),
        };
        let left = self.core.in_time(self.core.leave()).await.map_err(|fault| self.core.failed(fault));
        let written =
            self.core.in_time(self.core.write_size()).await.map_err(|fault| self.core.failed(fault));
        self.core.closed.cancel();
        settled.and(left).and(written)
    }
}

pub(super) fn closed() -> StoreError {
    StoreError::Unavailable("it is closed".into())
}

pub(super) fn cannot(problem: &str) -> StoreError {
    StoreError::CannotOpen(format!("the database can't be used: {problem}"))
}

/// A fault while opening is for the operator.
pub(super) fn explain(fault: Fault) -> StoreError {
    match StoreError::from(fault) {
        StoreError::Unavailable(problem) => cannot(&problem),
        other => other,
    }
}

pub(super) fn start_thread() -> Result<(Thread, Handle), StoreError> {
    let runtime =
        Builder::new_current_thread().enable_all().build().map_err(|error| cannot(&error.to_string()))?;
    let handle = runtime.handle().clone();
    let closed = CancellationToken::new();
    let until = closed.clone();
    let thread = std::thread::Builder::new().name("store.postgres".into());
    let thread = thread.spawn(move || runtime.block_on(until.cancelled()));
    let thread = thread.map_err(|error| cannot(&error.to_string()))?;
    Ok((Thread { closed, handle: Some(thread) }, handle))
}

pub(super) fn ground(options: &PostgresOptions, runtime: Handle) -> Result<Ground, StoreError> {
    let connector = Connector::new(options.url.expose(), &options.roots, options.statement_timeout, runtime)?;
    Ok(Ground { writes: connector.pool(WRITERS)?, reads: connector.pool(options.connections)?, connector })
}

type Opened = (Arc<Core>, mpsc::Sender<accept::Submitted>, mpsc::Sender<settle::Submitted>);

async fn open(options: PostgresOptions, runtime: Handle) -> Result<Opened, StoreError> {
    let ground = ground(&options, runtime.clone())?;
    let client = ground.writes.get().await.map_err(|error| explain(error.into()))?;
    schema::migrate(&client).await.map_err(explain)?;
    let keyring = keys::complete(&client, options.keyring.clone()).await?.ring;
    if options.lease.is_some() {
        keys::check_company(&client, &keyring).await?;
    }
    let (channel, last_key) = installation(&client).await.map_err(explain)?;
    let following = options.clock.is_none().then(|| Arc::new(FollowingClock::new(Arc::new(SystemClock))));
    let clock: SharedClock = match (&options.clock, &following) {
        (Some(given), _) => Arc::clone(given),
        (None, Some(following)) => Arc::clone(following) as SharedClock,
        (None, None) => Arc::new(SystemClock),
    };
    let core = Core {
        connector: ground.connector,
        writes: ground.writes,
        reads: ground.reads,
        clock,
        metrics: options.metrics,
        directory: Arc::new(Directory::new()),
        changes: Arc::default(),
        listener: OnceLock::new(),
        keyring: Arc::new(keyring),
        heads: Default::default(),
        size: Size::default(),
        partitions: Default::default(),
        version: Mutex::new(()),
        conveyor: Conveyor::behind(last_key),
        leases: Leases::new(options.lease),
        lease_call: Notify::new(),
        channel,
        statement_timeout: options.statement_timeout,
        group_events: options.group_events,
        queue_depth: options.queue_depth,
        whole_days: options.whole_days,
        closing: CancellationToken::new(),
        closed: CancellationToken::new(),
    };
    core.load_directory(&client).await.map_err(explain)?;
    drop(client);
    core.write_size().await.map_err(explain)?;
    if let Some(following) = &following {
        core.follow_time(following).await.map_err(explain)?;
    }
    Ok(run(Arc::new(core), following, &runtime))
}

/// Starts the store's tasks. They end when the store is closed or dropped.
fn run(core: Arc<Core>, clock: Option<Arc<FollowingClock>>, runtime: &Handle) -> Opened {
    let (accepting, accepted) = mpsc::channel(core.queue_depth);
    let (settling, settled) = mpsc::channel(core.queue_depth);
    core.metrics.is_up(true);
    runtime.spawn(accept::run(Arc::clone(&core), accepted));
    runtime.spawn(settle::run(Arc::clone(&core), settled));
    runtime.spawn(keeper::run(Arc::clone(&core), clock));
    if core.leases.are_shared() {
        runtime.spawn(listen::run(Arc::clone(&core)));
    }
    (core, accepting, settling)
}

/// The name of the installation's channel, and the last key that was given.
async fn installation(client: &Object) -> Result<(String, crate::domain::id::EventKey), Fault> {
    let rows = query(client, "SELECT i.id, s.last_key FROM installation i, sequencer s", &[]).await?;
    let row = rows.first().ok_or_else(|| StoreError::Corrupt("the installation's row is missing".into()))?;
    let id: uuid::Uuid = row.get(0);
    Ok((format!("signalpost_{}", id.simple()), rows::key(row.get(1))))
}

impl Core {
    /// The time that counts.
    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

//! The shared store: PostgreSQL, for as many replicas as one database carries.
//!
//! All connections and the store's own tasks live on one runtime of its own (`connect`). Two tasks write what is
//! hot, each in groups of whatever waits: `accept` takes events, `settle` takes outcomes. Everything else is a short
//! transaction of its own. What must stay true:
//!
//! - Keys of events grow in commit order over all replicas: who accepts holds the one row of `sequencer` from drawing
//!   keys until the commit. So "read on after key K" misses nothing, and a replica that has handed over everything up to
//!   K finds what others accepted behind K (`conveyor`).
//! - Organizations and destinations have one version, which is a column of that row: an event that was routed by an
//!   older one is routed again (`refresh`).
//! - Who settles looks for the row of its own membership in the same transaction. A replica that was declared dead
//!   has none (`lease`).
//! - Times are the database's: the clock of a replica follows it (`clock`).
//! - A database that is slow or away is an error for callers and a pause for lanes; the process lives on.

mod accept;
mod audit;
mod change;
pub mod clock;
mod config;
mod connect;
mod conveyor;
mod cover;
mod erase;
mod fault;
mod heads;
mod keeper;
mod keys;
mod lease;
mod listen;
mod listing;
mod partitions;
#[cfg(test)]
mod plan_tests;
mod reader;
mod refresh;
mod replay;
mod retention;
mod rows;
mod schema;
mod seals;
#[cfg(test)]
mod seals_tests;
mod settle;
mod size;
mod start;
#[cfg(test)]
pub(crate) mod test_server;
#[cfg(test)]
mod tests;
mod traits;
mod write;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use deadpool_postgres::Pool;
use rustls::pki_types::CertificateDer;
use tokio::sync::{Mutex, Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::changes::ChangeFeed;
use super::directory::Directory;
use super::keyring::Keyring;
use super::riders::Riders;
use super::{CommitListener, StoreError};
use crate::clock::SharedClock;
use crate::domain::secret::Secret;
use crate::metrics::{StoreErrorKind, StoreMetrics};
use connect::Connector;
use conveyor::Conveyor;
use fault::Fault;
use heads::Heads;
use lease::Leases;
use partitions::Partitions;
pub use seals::Sealer;
use size::Size;

/// How the shared store is run.
#[derive(Clone)]
pub struct PostgresOptions {
    /// The connection string; there may be a password in it.
    pub url: Secret,
    /// Authorities that are trusted besides Mozilla's.
    pub roots: Vec<CertificateDer<'static>>,
    /// The most connections for reads; there are a handful more for the rest.
    pub connections: usize,
    /// How long a statement may take.
    pub statement_timeout: Duration,
    /// How many calls may wait to be written before further ones are answered Busy.
    pub queue_depth: usize,
    /// How many events a group commit gathers at most.
    pub group_events: usize,
    /// How long events are kept beyond their time so that they can go with their whole day.
    pub whole_days: Duration,
    /// Whether lanes are shared with other replicas; `None`: this process has them all.
    pub lease: Option<LeaseOptions>,
    /// Gives the times of events; `None`: the database's time.
    pub clock: Option<SharedClock>,
    /// What is counted and measured.
    pub metrics: StoreMetrics,
    /// Under which secrets are sealed; `None`: a key that the store makes for itself and keeps in the database.
    pub keyring: Option<Keyring>,
}

/// How lanes are shared by replicas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseOptions {
    /// How this replica is called in logs.
    pub name: String,
    /// After so long without a sign of life a replica's lanes are taken over.
    pub duration: Duration,
}

/// The shared store.
#[derive(Clone)]
pub struct PostgresStore {
    core: Arc<Core>,
    accepting: mpsc::Sender<accept::Submitted>,
    settling: mpsc::Sender<settle::Submitted>,
    /// Ends the store's thread when the last clone is gone.
    _thread: Arc<start::Thread>,
    /// What rides on the next change.
    riders: Riders,
}

/// What all parts of the store share.
struct Core {
    connector: Connector,
    writes: Pool,
    reads: Pool,
    clock: SharedClock,
    metrics: StoreMetrics,
    directory: Arc<Directory>,
    changes: Arc<ChangeFeed>,
    listener: OnceLock<Arc<dyn CommitListener>>,
    keyring: Arc<Keyring>,
    heads: Heads,
    size: Size,
    partitions: Partitions,
    /// The version of the directory; held while it is brought to a newer one.
    version: Mutex<()>,
    conveyor: Conveyor,
    leases: Leases,
    /// Wakes whoever looks after leases.
    lease_call: Notify,
    /// On which replicas of this installation wake each other.
    channel: String,
    statement_timeout: Duration,
    group_events: usize,
    queue_depth: usize,
    whole_days: Duration,
    /// Nothing is retried any more.
    closing: CancellationToken,
    /// The store's tasks end.
    closed: CancellationToken,
}

impl Core {
    fn tell(&self, what: impl FnOnce(&dyn CommitListener)) {
        if let Some(listener) = self.listener.get() {
            what(listener.as_ref());
        }
    }

    /// Gives up work that gets no answer: the database has its own limit for each statement, but the way to it
    /// has none.
    async fn in_time<T>(&self, work: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
        let limit = self.statement_timeout * 2 + Duration::from_secs(1);
        tokio::time::timeout(limit, work).await.unwrap_or(Err(Fault::Silent))
    }

    /// The error for the caller, counted and, where it is the database's, shown.
    fn failed(&self, fault: Fault) -> StoreError {
        let error = StoreError::from(fault);
        let kind = match &error {
            StoreError::Busy => Some(StoreErrorKind::Busy),
            StoreError::Full { .. } => Some(StoreErrorKind::Full),
            StoreError::Corrupt(_) => Some(StoreErrorKind::Corrupt),
            StoreError::CannotOpen(_) | StoreError::Unavailable(_) => Some(StoreErrorKind::Unavailable),
            _ => None,
        };
        if let Some(kind) = kind {
            self.metrics.failed(kind);
        }
        error
    }
}

impl PostgresStore {
    /// Does a piece of work in time, and again where another transaction is in its way.
    async fn attempt<T, W>(&self, mut work: impl FnMut() -> W) -> Result<T, StoreError>
    where
        W: Future<Output = Result<T, Fault>>,
    {
        let done = self.core.in_time(async { fault::again!(work()) }).await;
        done.map_err(|fault| self.core.failed(fault))
    }
}

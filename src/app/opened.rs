//! The store that the configuration names: the embedded one, or one that replicas share.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use super::files::{check_store_folder, sealing_keys, store_roots, store_url};
use super::mistake::Mistake;
use crate::clock::SharedClock;
use crate::config::{Config, SharedStoreConfig};
use crate::metrics::StoreMetrics;
use crate::shutdown::{OnExit, Tasks};
use crate::store::Store;
use crate::store::postgres::{LeaseOptions, PostgresOptions, PostgresStore};
use crate::store::sled::{SledOptions, SledStore};

/// Events that are kept for long go with their whole day, and up to so much later. Where they are kept for less than
/// twice of it, they go one by one.
const WHOLE_DAYS: Duration = Duration::from_secs(25 * 60 * 60);

/// An open store.
#[derive(Clone)]
pub enum OpenStore {
    /// In a folder of this process.
    Embedded(Arc<SledStore>),
    /// In a database.
    Shared(Arc<PostgresStore>),
}

impl OpenStore {
    /// Opens the store as the configuration describes it.
    ///
    /// # Errors
    /// Where it can't be opened, or keys are missing.
    pub async fn open(config: &Config, clock: &SharedClock, metrics: StoreMetrics) -> anyhow::Result<Self> {
        let Some(shared) = &config.store.shared else {
            return open_embedded(config, clock, metrics).await.map(Self::Embedded);
        };
        let options = shared_options(config, shared, metrics)?;
        // Opening waits for the database; nothing else runs yet, so nothing is held up.
        let store = tokio::task::spawn_blocking(move || PostgresStore::open(options)).await??;
        Ok(Self::Shared(Arc::new(store)))
    }

    /// The store itself.
    #[must_use]
    pub fn store(&self) -> Arc<dyn Store> {
        match self {
            Self::Embedded(store) => Arc::<SledStore>::clone(store),
            Self::Shared(store) => Arc::<PostgresStore>::clone(store),
        }
    }

    /// The time that counts: the machine's, or that of the database.
    #[must_use]
    pub fn clock(&self, machine: &SharedClock) -> SharedClock {
        match self {
            Self::Embedded(_) => Arc::clone(machine),
            Self::Shared(store) => store.clock(),
        }
    }

    /// Ends the process when the store can't go on. A database may come back, so it is waited for.
    pub fn watch(&self, tasks: &Tasks) {
        let Self::Embedded(store) = self else { return };
        let (failed, stop, tasks_to_fail) = (store.failed(), tasks.soft(), tasks.clone());
        tasks.spawn("store watch", OnExit::Ignore, async move {
            tokio::select! {
                reason = failed => tasks_to_fail.fail("store", &reason),
                () = stop.cancelled() => {}
            }
        });
    }

    /// Shows how the store stands, in its metrics.
    pub fn observe(&self) {
        match self {
            Self::Embedded(store) => store.observe(),
            Self::Shared(store) => store.observe(),
        }
    }

    /// Makes everything durable and closes.
    ///
    /// # Errors
    /// Where the last outcomes could not be made durable; they will be delivered again.
    pub async fn close(&self) -> anyhow::Result<()> {
        let closed = match self {
            Self::Embedded(store) => store.close().await,
            Self::Shared(store) => store.close().await,
        };
        closed.context("closing the store")
    }
}

/// How the shared store is run.
///
/// # Errors
/// Where a file can't be read, or keys are missing.
pub fn shared_options(
    config: &Config,
    shared: &SharedStoreConfig,
    metrics: StoreMetrics,
) -> Result<PostgresOptions, Mistake> {
    let (url, roots) = (store_url(shared)?, store_roots(shared)?);
    let machine = rustix::system::uname().nodename().to_string_lossy().into_owned();
    Ok(PostgresOptions {
        url,
        roots,
        connections: shared.connections,
        statement_timeout: shared.statement_timeout,
        queue_depth: config.store.queue_depth,
        group_events: config.store.group_events,
        whole_days: if config.retention.history < WHOLE_DAYS * 2 { Duration::ZERO } else { WHOLE_DAYS },
        lease: Some(LeaseOptions { name: shared.replica.clone().unwrap_or(machine), duration: shared.lease }),
        clock: None,
        metrics,
        keyring: sealing_keys(config)?,
    })
}

/// Opens the embedded store as the configuration describes it.
///
/// # Errors
/// Where it can't be opened, or keys are missing, or the configuration names a shared store.
pub async fn open_embedded(
    config: &Config,
    clock: &SharedClock,
    metrics: StoreMetrics,
) -> anyhow::Result<Arc<SledStore>> {
    if config.store.shared.is_some() {
        let text = "store.url names a shared store, and this command is for the embedded one only; take store.url away \
                    and set store.path, if that is the store you mean";
        return Err(Mistake::new(text).into());
    }
    check_store_folder(&config.store.path)?;
    let options = SledOptions {
        cache_bytes: config.store.cache_bytes,
        min_free_bytes: config.store.min_free_bytes,
        queue_depth: config.store.queue_depth,
        group_events: config.store.group_events,
        metrics,
        keyring: sealing_keys(config)?,
        ..SledOptions::new(Arc::clone(clock))
    };
    let path = config.store.path.clone();
    // Opening reads the disk for as long as it takes; nothing else runs yet, so nothing is held up.
    let store = tokio::task::spawn_blocking(move || SledStore::open(&path, options)).await??;
    Ok(Arc::new(store))
}

//! The store that the configuration names: the embedded one, or one that replicas share.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use zeroize::Zeroizing;

use super::couriers::read_roots;
use crate::clock::SharedClock;
use crate::config::{self, Config, SharedStoreConfig, StoreUrl};
use crate::domain::secret::Secret;
use crate::metrics::StoreMetrics;
use crate::shutdown::{OnExit, Tasks};
use crate::store::keyring::Keyring;
use crate::store::postgres::{LeaseOptions, PostgresOptions, PostgresStore};
use crate::store::sled::{SledOptions, SledStore};
use crate::store::{Store, key_file};

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
) -> anyhow::Result<PostgresOptions> {
    let url = match &shared.url {
        StoreUrl::Given(url) => url.clone(),
        StoreUrl::File(path) => {
            let read = std::fs::read_to_string(path).map(Zeroizing::new);
            let text = read.with_context(|| format!("store.url_file: cannot read {}", path.display()))?;
            Secret::new(text.trim())
        }
    };
    let roots = shared.ca_file.as_deref().map_or(Ok(Vec::new()), |path| read_roots("store.ca_file", path))?;
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

/// The sealing keys that the operator gave: in a file, or in the environment.
///
/// # Errors
/// Where there are none in it, or both were given.
fn sealing_keys(config: &Config) -> anyhow::Result<Option<Keyring>> {
    let variable = config::sealing_keys().map_err(anyhow::Error::msg)?;
    match (&config.secrets.key_file, variable) {
        (None, None) => Ok(None),
        (Some(path), None) => {
            key_file::read(path).map(Some).map_err(anyhow::Error::msg).context("secrets.key_file")
        }
        (None, Some(keys)) => {
            Keyring::parse(&keys).map(Some).map_err(anyhow::Error::msg).context("SIGNALPOST_SEALING_KEYS")
        }
        (Some(_), Some(_)) => {
            anyhow::bail!("secrets.key_file and SIGNALPOST_SEALING_KEYS are both set; give one of them")
        }
    }
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
    anyhow::ensure!(
        config.store.shared.is_none(),
        "store.url names a shared store, and this command is for the embedded one only; take store.url away and set \
         store.path, if that is the store you mean"
    );
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

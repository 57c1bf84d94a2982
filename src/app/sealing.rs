//! The stored secrets of whichever store the configuration names, for sealing them anew.

use std::sync::Arc;

use super::opened::{open_embedded, shared_options};
use crate::clock::SharedClock;
use crate::config::Config;
use crate::domain::audit::AuditEntry;
use crate::metrics::StoreMetrics;
use crate::store::StoreError;
use crate::store::audit::AuditStore;
use crate::store::keyring::KeyId;
use crate::store::postgres::Sealer;
use crate::store::record::Seals;
use crate::store::seals::Resealed;
use crate::store::sled::SledStore;

/// A store that is open for nothing but sealing its secrets anew.
pub enum StoredSecrets {
    /// In a folder of this process: no server has it open.
    Embedded(Arc<SledStore>),
    /// In a database: replicas may run.
    Shared(Sealer),
}

impl StoredSecrets {
    /// Opens the store that the configuration names.
    ///
    /// # Errors
    /// Where it can't be opened, keys are missing, or replicas seal under another key.
    pub async fn open(config: &Config, clock: &SharedClock) -> anyhow::Result<Self> {
        let Some(shared) = &config.store.shared else {
            return open_embedded(config, clock, StoreMetrics::default()).await.map(Self::Embedded);
        };
        let sealer = Sealer::open(shared_options(config, shared, StoreMetrics::default())?).await?;
        sealer.check_replicas().await?;
        Ok(Self::Shared(sealer))
    }

    /// The key that seals.
    #[must_use]
    pub fn sealing_key(&self) -> KeyId {
        match self {
            Self::Embedded(store) => store.sealing_key(),
            Self::Shared(sealer) => sealer.sealing_key(),
        }
    }

    /// What stored secrets are sealed under.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] or [`StoreError::Corrupt`].
    pub async fn seals(&self) -> Result<Seals, StoreError> {
        match self {
            Self::Embedded(store) => store.seals().await,
            Self::Shared(sealer) => sealer.seals().await,
        }
    }

    /// Seals all secrets anew under the key that seals, while `may_go_on` answers so; what was done stays done.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Corrupt`], and for a shared store [`StoreError::CannotOpen`] where a
    /// replica seals under another key.
    pub async fn reseal(&self, may_go_on: impl FnMut(&Resealed) -> bool) -> Result<Resealed, StoreError> {
        match self {
            Self::Embedded(store) => store.reseal(may_go_on).await,
            Self::Shared(sealer) => sealer.reseal(may_go_on).await,
        }
    }

    /// Writes an entry into the audit log.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn record_audit(&self, entry: AuditEntry) -> Result<(), StoreError> {
        match self {
            Self::Embedded(store) => store.record_audit(vec![entry]).await,
            Self::Shared(sealer) => sealer.record_audit(vec![entry]).await,
        }
    }

    /// Makes everything durable and closes.
    ///
    /// # Errors
    /// Where it could not be made durable.
    pub async fn close(&self) -> Result<(), StoreError> {
        match self {
            Self::Embedded(store) => store.close().await,
            // Each step was a commit of its own.
            Self::Shared(_) => Ok(()),
        }
    }
}

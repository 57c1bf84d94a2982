//! Sealing all secrets of the shared store anew, while replicas run.
//!
//! Each step is a transaction that holds the row of the installation, so that nobody becomes a member meanwhile, and looks
//! whether every replica that lives seals under the key, too: then all of them open what the step has written, and
//! none writes anything under another key behind it. A replica that comes later without the key is refused
//! (`keys`), because the first step says which key it is.

use std::sync::Arc;

use deadpool_postgres::Pool;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::audit;
use super::connect::Tx;
use super::fault::{Fault, again};
use super::keys::{self, Keys, Neighbour};
use super::rows::destination;
use super::start::{Thread, cannot, explain, ground, start_thread};
use super::{PostgresOptions, schema};
use crate::domain::audit::AuditEntry;
use crate::store::StoreError;
use crate::store::keyring::{KeyId, Keyring};
use crate::store::record::{Seals, decode_destination, encode_destination};
use crate::store::seals::{RESEALED_AT_ONCE, Resealed};

/// What seals the secrets of a shared store anew. It delivers nothing and is no replica.
pub struct Sealer {
    pool: Pool,
    keys: Keys,
    /// Drives the connections.
    _thread: Arc<Thread>,
}

impl Sealer {
    /// Connects, and brings the schema to this version.
    ///
    /// # Errors
    /// [`StoreError::CannotOpen`], with what the operator can do.
    pub async fn open(options: PostgresOptions) -> Result<Self, StoreError> {
        let (thread, runtime) = start_thread()?;
        let (answer, opened) = oneshot::channel();
        let driver = runtime.clone();
        runtime.spawn(async move {
            drop(answer.send(connect(&options, driver).await));
        });
        let (pool, keys) = opened.await.map_err(|_| cannot("its thread has ended"))??;
        Ok(Self { pool, keys, _thread: Arc::new(thread) })
    }

    /// The key that seals.
    #[must_use]
    pub const fn sealing_key(&self) -> KeyId {
        self.keys.ring.active()
    }

    /// What stored secrets are sealed under.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] or [`StoreError::Corrupt`].
    pub async fn seals(&self) -> Result<Seals, StoreError> {
        Ok(self.all_seals().await?.total)
    }

    /// Refuses where a replica lives that does not seal under the key: what it wrote would be sealed under another
    /// one, or it could not open what was sealed anew.
    ///
    /// # Errors
    /// [`StoreError::CannotOpen`], which names the replica, and [`StoreError::Unavailable`].
    pub async fn check_replicas(&self) -> Result<(), StoreError> {
        let look = async || {
            let tx = self.begin().await?;
            tx.commit().await
        };
        again!(look()).map_err(StoreError::from)
    }

    /// Seals all secrets under the active key that are not, some destinations at a time, each time durably. It goes
    /// on while `may_go_on`, which is told how far it has come, answers so; what was done stays done, and a later
    /// call does the rest. The key that the store had made for itself is removed at the end, if it is another one.
    ///
    /// # Errors
    /// As [`Sealer::check_replicas`], at each step; and [`StoreError::Corrupt`].
    pub async fn reseal(&self, mut may_go_on: impl FnMut(&Resealed) -> bool) -> Result<Resealed, StoreError> {
        let others = self.all_seals().await?.without(self.sealing_key());
        let mut done = Resealed { remaining: others.len(), ..Resealed::default() };
        for ids in others.chunks(RESEALED_AT_ONCE) {
            if !may_go_on(&done) {
                return Ok(done);
            }
            let before = again!(self.reseal_some(ids)).map_err(StoreError::from)?;
            done.destinations += ids.len();
            done.remaining -= ids.len();
            done.secrets.extend(&before);
        }
        done.removed_key = again!(self.remove_own_key()).map_err(StoreError::from)?;
        Ok(done)
    }

    /// Writes entries into the audit log.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn record_audit(&self, entries: Vec<AuditEntry>) -> Result<(), StoreError> {
        let write = async || {
            let tx = Tx::begun(&self.pool).await?;
            audit::put(&tx, &entries).await?;
            tx.commit().await
        };
        again!(write()).map_err(StoreError::from)
    }

    async fn all_seals(&self) -> Result<keys::AllSeals, StoreError> {
        let client = self.pool.get().await.map_err(|error| StoreError::from(Fault::from(error)))?;
        keys::all_seals(&client).await.map_err(StoreError::from)
    }

    /// Begins a step: nobody becomes a member until it ends, and those that are fit.
    async fn begin(&self) -> Result<Tx, Fault> {
        let tx = Tx::begun(&self.pool).await?;
        keys::hold_installation(&tx).await?;
        // Nobody has the nil id.
        let replicas = keys::neighbours(&tx, Uuid::nil()).await?;
        all_seal_under(&self.keys.ring, &replicas).map_err(StoreError::CannotOpen)?;
        Ok(tx)
    }

    /// Writes these destinations once more, and answers what their secrets were sealed under. Nothing else of them
    /// changes, and nobody is told.
    async fn reseal_some(&self, ids: &[Uuid]) -> Result<Seals, Fault> {
        let tx = self.begin().await?;
        let under = self.sealing_key().to_string();
        tx.query("UPDATE installation SET sealed_under = $1", &[&under]).await?;
        let mut before = Seals::default();
        // Those that were deleted meanwhile are not found.
        for row in tx.query(LOCK, &[&ids]).await? {
            before.extend(&keys::seals_of(&row)?);
            let id: Uuid = row.get(0);
            let stored: Vec<Vec<u8>> = row.get(1);
            let whole = decode_destination(destination(id), &stored, &self.keys.ring)?;
            let record = encode_destination(&whole, &self.keys.ring)?;
            tx.query("UPDATE destinations SET record = $2 WHERE id = $1", &[&id, &record]).await?;
        }
        tx.commit().await?;
        Ok(before)
    }

    /// Removes the key that the store made for itself, where another one seals and nothing needs it.
    async fn remove_own_key(&self) -> Result<Option<KeyId>, Fault> {
        let active = self.sealing_key();
        let Some(own) = self.keys.own.filter(|own| *own != active) else { return Ok(None) };
        let tx = self.begin().await?;
        // Nobody seals under it: all that live seal under the other one, and what comes must fit to them.
        if self.all_seals().await?.total.by_key.contains_key(&own) {
            tx.roll_back().await;
            return Ok(None);
        }
        tx.query("UPDATE installation SET own_key = NULL, sealed_under = $1", &[&active.to_string()]).await?;
        tx.commit().await?;
        Ok(Some(own))
    }
}

async fn connect(options: &PostgresOptions, runtime: Handle) -> Result<(Pool, Keys), StoreError> {
    let pool = ground(options, runtime)?.writes;
    let client = pool.get().await.map_err(|error| explain(error.into()))?;
    schema::migrate(&client).await.map_err(explain)?;
    let keys = keys::complete(&client, options.keyring.clone()).await?;
    drop(client);
    Ok((pool, keys))
}

/// Whether all of these replicas seal under the ring's first key. Pure.
fn all_seal_under(ring: &Keyring, replicas: &[Neighbour]) -> Result<(), String> {
    let active = ring.active().to_string();
    let Some(other) = replicas.iter().find(|one| one.active() != Some(active.as_str())) else {
        return Ok(());
    };
    let how = match other.active() {
        Some(key) => format!("seals under the key {key}"),
        None => "is of an earlier version and does not say which keys it has".to_owned(),
    };
    Err(format!(
        "nothing more is sealed anew: the replica {} {how}; every replica must seal under the key {active} before all is \
         sealed under it, so give it to each of them as the first one, restart them, and run this again (a replica that \
         has ended without a word counts until its lease has lapsed)",
        other.name
    ))
}

const LOCK: &str = "SELECT id, record FROM destinations WHERE id = ANY($1::uuid[]) ORDER BY id FOR UPDATE";

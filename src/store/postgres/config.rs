//! Organizations and destinations. A change takes the sequencer's row, so that it has its place among accepted
//! events, and leaves an entry in the log that replicas read.

use std::sync::Arc;

use tokio_postgres::Row;
use uuid::Uuid;

use super::connect::Tx;
use super::fault::Fault;
use super::refresh::{DESTINATION, ERASURE, LOG_KEPT, ORGANIZATION};
use super::rows::{destination, of_destination};
use super::{Core, listen};
use crate::domain::destination::Destination;
use crate::domain::id::{DestinationId, OrganizationId};
use crate::domain::organization::Organization;
use crate::store::record::{decode_destination, encode_destination, encode_organization};
use crate::store::riders::Riders;
use crate::store::{DestinationQuota, StoreError};

/// A change of organizations and destinations, at its turn.
pub(super) struct ConfigTx {
    tx: Tx,
    version: i64,
}

impl Core {
    /// Begins a change: nobody accepts an event or changes another thing meanwhile. What others have changed is in the
    /// directory by then, so a caller who is refused for it finds it there.
    pub(super) async fn change_config(&self) -> Result<ConfigTx, Fault> {
        let tx = Tx::begun(&self.writes).await?;
        let rows = tx.query("SELECT config_version FROM sequencer FOR UPDATE", &[]).await?;
        let version: i64 = rows.first().map_or(0, |row| row.get(0));
        if u64::try_from(version).is_ok_and(|version| version > self.directory.version()) {
            self.refresh().await?;
        }
        Ok(ConfigTx { tx, version })
    }

    /// Commits the change, and takes it into the directory.
    async fn commit_config(&self, mut config: ConfigTx, riders: &Riders) -> Result<(), Fault> {
        let sql = "UPDATE sequencer SET config_version = $1";
        config.tx.query(sql, &[&config.version]).await?;
        config.version -= LOG_KEPT;
        config.tx.query("DELETE FROM config_log WHERE version <= $1", &[&config.version]).await?;
        let told = self.ride(&config.tx, riders, 1).await?;
        self.notify(&config.tx, vec![listen::configured(&self.leases)]).await?;
        config.tx.commit().await?;
        self.refresh().await?;
        self.told(told).await;
        Ok(())
    }

    pub(super) async fn create_destination(
        &self,
        new: &Destination,
        quota: Option<&DestinationQuota>,
        riders: &Riders,
    ) -> Result<Arc<Destination>, Fault> {
        let mut config = self.change_config().await?;
        config.refuse_erasing(&new.organization_id).await?;
        let id = of_destination(new.id);
        if !config.tx.query("SELECT 1 FROM destinations WHERE id = $1", &[&id]).await?.is_empty() {
            return Err(StoreError::AlreadyExists.into());
        }
        let sql = "SELECT count(*) FROM destinations WHERE organization_id = $1";
        let rows = config.tx.query(sql, &[&new.organization_id.as_str()]).await?;
        let usage = rows.first().map_or(0, |row| row.get::<_, i64>(0));
        let usage = u32::try_from(usage).unwrap_or(u32::MAX);
        if let Some(limit) = quota.map(|quota| quota.most).filter(|limit| usage >= *limit) {
            return Err(StoreError::LimitReached { limit, usage }.into());
        }
        self.put_destination_row(&mut config, new, PUT_DESTINATION).await?;
        let near = quota.cloned().and_then(|quota| quota.told_at(usage.saturating_add(1)));
        let riders = Riders { told: riders.told.iter().cloned().chain(near).collect(), ..riders.clone() };
        self.commit_config(config, &riders).await?;
        Ok(Arc::new(new.clone()))
    }

    pub(super) async fn update_destination(
        &self,
        new: &Destination,
        expected: u64,
        riders: &Riders,
    ) -> Result<Arc<Destination>, Fault> {
        let mut config = self.change_config().await?;
        let sql = "SELECT revision FROM destinations WHERE id = $1 AND organization_id = $2";
        let rows = config.tx.query(sql, &[&of_destination(new.id), &new.organization_id.as_str()]).await?;
        let revision = next_revision(rows.first(), Some(expected))?;
        let new = Destination { revision, ..new.clone() };
        self.put_destination_row(&mut config, &new, SET_DESTINATION).await?;
        self.commit_config(config, riders).await?;
        Ok(Arc::new(new))
    }

    pub(super) async fn delete_destination(
        &self,
        id: DestinationId,
        expected: Option<u64>,
        riders: &Riders,
    ) -> Result<(), Fault> {
        let mut config = self.change_config().await?;
        let sql = "SELECT revision FROM destinations WHERE id = $1";
        let rows = config.tx.query(sql, &[&of_destination(id)]).await?;
        next_revision(rows.first(), expected)?;
        config.remove_destination(of_destination(id)).await?;
        self.commit_config(config, riders).await
    }

    async fn put_destination_row(
        &self,
        config: &mut ConfigTx,
        new: &Destination,
        sql: &str,
    ) -> Result<(), Fault> {
        let record = encode_destination(new, &self.keyring)?;
        // One that could not be read back would keep every replica from starting; better refuse it now.
        decode_destination(new.id, &record, &self.keyring)?;
        let id = of_destination(new.id);
        let organization_id = new.organization_id.as_str();
        config.tx.query(sql, &[&id, &organization_id, &number(new.revision), &record]).await?;
        config.log(DESTINATION, &id.to_string()).await
    }

    pub(super) async fn create_organization(
        &self,
        new: &Organization,
        riders: &Riders,
    ) -> Result<Arc<Organization>, Fault> {
        let mut config = self.change_config().await?;
        config.refuse_erasing(&new.id).await?;
        let sql = "SELECT 1 FROM organizations WHERE id = $1";
        if !config.tx.query(sql, &[&new.id.as_str()]).await?.is_empty() {
            return Err(StoreError::AlreadyExists.into());
        }
        config.put_organization(new, PUT_ORGANIZATION).await?;
        self.commit_config(config, riders).await?;
        Ok(Arc::new(new.clone()))
    }

    pub(super) async fn update_organization(
        &self,
        new: &Organization,
        expected: u64,
        riders: &Riders,
    ) -> Result<Arc<Organization>, Fault> {
        let mut config = self.change_config().await?;
        let sql = "SELECT revision FROM organizations WHERE id = $1";
        let rows = config.tx.query(sql, &[&new.id.as_str()]).await?;
        let revision = next_revision(rows.first(), Some(expected))?;
        let new = Organization { revision, ..new.clone() };
        config.put_organization(&new, SET_ORGANIZATION).await?;
        self.commit_config(config, riders).await?;
        Ok(Arc::new(new))
    }

    /// Marks an organization as being erased and takes its destinations away, in one step.
    pub(super) async fn begin_erasure(
        &self,
        id: &OrganizationId,
        expected: Option<u64>,
        riders: &Riders,
    ) -> Result<Vec<DestinationId>, Fault> {
        let mut config = self.change_config().await?;
        if config.is_erasing(id).await? {
            return Ok(Vec::new());
        }
        let rows =
            config.tx.query("SELECT revision FROM organizations WHERE id = $1", &[&id.as_str()]).await?;
        next_revision(rows.first(), expected)?;
        let sql = "SELECT id FROM destinations WHERE organization_id = $1 ORDER BY id";
        let rows = config.tx.query(sql, &[&id.as_str()]).await?;
        let ids: Vec<Uuid> = rows.iter().map(|row| row.get(0)).collect();
        for id in &ids {
            config.remove_destination(*id).await?;
        }
        config.tx.query("DELETE FROM organizations WHERE id = $1", &[&id.as_str()]).await?;
        config.tx.query("INSERT INTO erasures (organization_id) VALUES ($1)", &[&id.as_str()]).await?;
        config.log(ERASURE, id.as_str()).await?;
        self.commit_config(config, riders).await?;
        Ok(ids.into_iter().map(destination).collect())
    }

    /// Nothing of an organization is left: its id is free again.
    pub(super) async fn end_erasure(&self, id: &OrganizationId) -> Result<(), Fault> {
        let mut config = self.change_config().await?;
        config.tx.query("DELETE FROM erasures WHERE organization_id = $1", &[&id.as_str()]).await?;
        config.log(ERASURE, id.as_str()).await?;
        self.commit_config(config, &Riders::default()).await
    }
}

impl ConfigTx {
    async fn log(&mut self, kind: i16, id: &str) -> Result<(), Fault> {
        self.version += 1;
        let sql = "INSERT INTO config_log (version, kind, id) VALUES ($1, $2, $3)";
        self.tx.query(sql, &[&self.version, &kind, &id]).await.map(drop)
    }

    async fn is_erasing(&self, id: &OrganizationId) -> Result<bool, Fault> {
        let sql = "SELECT 1 FROM erasures WHERE organization_id = $1";
        Ok(!self.tx.query(sql, &[&id.as_str()]).await?.is_empty())
    }

    async fn refuse_erasing(&self, id: &OrganizationId) -> Result<(), Fault> {
        if self.is_erasing(id).await? { Err(StoreError::Erasing.into()) } else { Ok(()) }
    }

    async fn remove_destination(&mut self, id: Uuid) -> Result<(), Fault> {
        self.tx.query("DELETE FROM destinations WHERE id = $1", &[&id]).await?;
        self.tx.query("DELETE FROM health WHERE destination_id = $1", &[&id]).await?;
        self.log(DESTINATION, &id.to_string()).await
    }

    async fn put_organization(&mut self, new: &Organization, sql: &str) -> Result<(), Fault> {
        let record = encode_organization(new);
        self.tx.query(sql, &[&new.id.as_str(), &number(new.revision), &record]).await?;
        self.log(ORGANIZATION, new.id.as_str()).await
    }
}

fn next_revision(row: Option<&Row>, expected: Option<u64>) -> Result<u64, StoreError> {
    let found: i64 = row.ok_or(StoreError::NotFound)?.get(0);
    let found = u64::try_from(found).unwrap_or(0);
    match expected {
        Some(expected) if expected != found => Err(StoreError::Stale { expected, found }),
        _ => Ok(found.saturating_add(1)),
    }
}

fn number(revision: u64) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

const PUT_DESTINATION: &str =
    "INSERT INTO destinations (id, organization_id, revision, record) VALUES ($1, $2, $3, $4)";
const SET_DESTINATION: &str =
    "UPDATE destinations SET revision = $3, record = $4 WHERE id = $1 AND organization_id = $2";
const PUT_ORGANIZATION: &str = "INSERT INTO organizations (id, revision, record) VALUES ($1, $2, $3)";
const SET_ORGANIZATION: &str = "UPDATE organizations SET revision = $2, record = $3 WHERE id = $1";

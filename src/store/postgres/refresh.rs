//! The directory, brought to the version that the database has. Whoever changes an organization or a destination
//! leaves an entry in a log, so that replicas read no more than what changed.

use std::collections::BTreeSet;
use std::sync::Arc;

use deadpool_postgres::Object;
use tokio_postgres::Row;
use uuid::Uuid;

use super::Core;
use super::connect::query;
use super::fault::Fault;
use super::rows::{destination, of_destination};
use crate::domain::destination::DestinationHealth;
use crate::domain::id::{DestinationId, OrganizationId};
use crate::store::record::{
    Place, decode_destination, decode_health, decode_organization, seals_of_destination,
};
use crate::store::{StoreError, seals};

/// What an entry of the log is about.
pub(super) const DESTINATION: i16 = 1;
pub(super) const ORGANIZATION: i16 = 2;
pub(super) const ERASURE: i16 = 3;

/// How many entries of the log are kept.
pub(super) const LOG_KEPT: i64 = 10_000;

impl Core {
    /// Brings the directory to the database's version, and tells of destinations that have changed.
    pub(super) async fn refresh(&self) -> Result<(), Fault> {
        let _one_at_a_time = self.version.lock().await;
        let client = self.reads.get().await?;
        let known = i64::try_from(self.directory.version()).unwrap_or(i64::MAX);
        let entries = query(&client, LOG, &[&known]).await?;
        let Some(first) = entries.first() else { return Ok(()) };
        if first.get::<_, i64>(0) > known + 1 {
            return self.load_directory(&client).await;
        }
        let last: i64 = entries.last().map_or(known, |row| row.get(0));
        let of_kind = |kind: i16| {
            let mine = entries.iter().filter(move |row| row.get::<_, i16>(1) == kind);
            mine.map(|row| row.get::<_, String>(2)).collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>()
        };
        self.refresh_organizations(&client, &of_kind(ORGANIZATION)).await?;
        let ids = of_kind(DESTINATION);
        let ids: Vec<Uuid> = ids.iter().filter_map(|id| Uuid::try_parse(id).ok()).collect();
        self.refresh_destinations(&client, &ids).await?;
        self.refresh_erasures(&client, &of_kind(ERASURE)).await?;
        self.directory.set_version(u64::try_from(last).unwrap_or(0));
        ids.iter().for_each(|id| self.tell(|listener| listener.destination_changed(destination(*id))));
        Ok(())
    }

    /// Reads everything. The version comes first, so that what changes meanwhile is read again.
    pub(super) async fn load_directory(&self, client: &Object) -> Result<(), Fault> {
        let rows = query(client, "SELECT config_version FROM sequencer", &[]).await?;
        let version = rows.first().map_or(0, |row| row.get::<_, i64>(0));
        for row in query(client, "SELECT id, record FROM organizations", &[]).await? {
            self.put_organization(&row)?;
        }
        let mut gone: BTreeSet<DestinationId> = self.directory.destination_ids().into_iter().collect();
        let mut there = Vec::new();
        for row in query(client, ALL_DESTINATIONS, &[]).await? {
            let id = self.put_destination(&row)?;
            gone.remove(&id);
            there.push(id);
        }
        for id in &gone {
            self.directory.remove_destination(*id);
        }
        for row in query(client, "SELECT organization_id FROM erasures", &[]).await? {
            self.directory.begin_erasure(organization_id(row.get(0))?);
        }
        self.directory.set_version(u64::try_from(version).unwrap_or(0));
        for id in there.into_iter().chain(gone) {
            self.tell(|listener| listener.destination_changed(id));
        }
        Ok(())
    }

    async fn refresh_organizations(&self, client: &Object, ids: &[String]) -> Result<(), Fault> {
        if !ids.is_empty() {
            let sql = "SELECT id, record FROM organizations WHERE id = ANY($1::text[])";
            for row in query(client, sql, &[&ids]).await? {
                self.put_organization(&row)?;
            }
        }
        Ok(())
    }

    async fn refresh_destinations(&self, client: &Object, ids: &[Uuid]) -> Result<(), Fault> {
        if ids.is_empty() {
            return Ok(());
        }
        let mut gone: BTreeSet<DestinationId> = ids.iter().copied().map(destination).collect();
        for row in query(client, SOME_DESTINATIONS, &[&ids]).await? {
            let id = self.put_destination(&row)?;
            gone.remove(&id);
        }
        gone.into_iter().for_each(|id| self.directory.remove_destination(id));
        Ok(())
    }

    async fn refresh_erasures(&self, client: &Object, ids: &[String]) -> Result<(), Fault> {
        if ids.is_empty() {
            return Ok(());
        }
        let sql = "SELECT organization_id FROM erasures WHERE organization_id = ANY($1::text[])";
        let rows = query(client, sql, &[&ids]).await?;
        let begun: BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect();
        for text in ids {
            let id = organization_id(text)?;
            if begun.contains(text) {
                self.directory.begin_erasure(id)
            } else {
                self.directory.end_erasure(&id)
            }
        }
        Ok(())
    }

    fn put_organization(&self, row: &Row) -> Result<(), StoreError> {
        let id: &str = row.get(0);
        let organization = decode_organization(id.as_bytes(), &row.get::<_, Vec<Vec<u8>>>(1))?;
        self.directory.put_organization(Arc::new(organization));
        Ok(())
    }

    fn put_destination(&self, row: &Row) -> Result<DestinationId, StoreError> {
        let id = destination(row.get(0));
        let stored: Vec<Vec<u8>> = row.get(1);
        // A missing key is no damage; it is told like at the start.
        let missing = seals::check(&seals_of_destination(id, &stored)?, &self.keyring);
        missing.map_err(StoreError::Unavailable)?;
        let health: Option<&[u8]> = row.get(2);
        let health = health.map(|stored| decode_health(id, stored)).transpose()?;
        let destination = decode_destination(id, &stored, &self.keyring)?;
        self.directory.put_destination(Arc::new(destination), health.unwrap_or_default());
        Ok(id)
    }

    /// Takes over what another replica knows of the health of these destinations.
    pub(super) async fn refresh_health(&self, ids: &[DestinationId]) -> Result<(), Fault> {
        let asked: Vec<Uuid> = ids.iter().copied().map(of_destination).collect();
        let client = self.reads.get().await?;
        let sql = "SELECT destination_id, record FROM health WHERE destination_id = ANY($1::uuid[])";
        for row in query(&client, sql, &[&asked]).await? {
            let id = destination(row.get(0));
            let stored: DestinationHealth = decode_health(id, row.get(1))?;
            if let Some(entry) = self.directory.destination(id) {
                entry.status.update_health(|health| *health = stored);
            }
        }
        Ok(())
    }
}

fn organization_id(text: &str) -> Result<OrganizationId, StoreError> {
    OrganizationId::parse(text).map_err(|problem| Place::new("erasure", text.as_bytes()).corrupt(problem))
}

const LOG: &str = "SELECT version, kind, id FROM config_log WHERE version > $1 ORDER BY version";
const ALL_DESTINATIONS: &str = "SELECT d.id, d.record, h.record FROM destinations d
    LEFT JOIN health h ON h.destination_id = d.id";
const SOME_DESTINATIONS: &str = "SELECT d.id, d.record, h.record FROM destinations d
    LEFT JOIN health h ON h.destination_id = d.id WHERE d.id = ANY($1::uuid[])";

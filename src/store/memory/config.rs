//! Destinations and organizations in the store in memory.

use std::sync::Arc;

use async_trait::async_trait;

use super::MemoryStore;
use crate::domain::destination::{Destination, DestinationHealth};
use crate::domain::id::DestinationId;
use crate::domain::organization::Organization;
use crate::store::{DestinationQuota, DestinationStore, OrganizationStore, StoreError};

#[async_trait]
impl DestinationStore for MemoryStore {
    async fn create_destination(
        &self,
        destination: Destination,
        quota: Option<DestinationQuota>,
    ) -> Result<Arc<Destination>, StoreError> {
        let mut commit = self.lock();
        if commit.erasing.contains(&destination.organization_id) {
            return Err(StoreError::Erasing);
        }
        if self.directory.destination(destination.id).is_some() {
            return Err(StoreError::AlreadyExists);
        }
        let siblings = self.directory.destinations(&destination.organization_id).len();
        let usage = u32::try_from(siblings).unwrap_or(u32::MAX);
        if let Some(limit) = quota.as_ref().map(|quota| quota.most).filter(|limit| usage >= *limit) {
            return Err(StoreError::LimitReached { limit, usage });
        }
        let destination = Arc::new(destination);
        self.directory.put_destination(Arc::clone(&destination), DestinationHealth::default());
        self.ride(&mut commit, 1);
        self.accept_told(&mut commit, quota.and_then(|quota| quota.told_at(usage.saturating_add(1))));
        self.tell(|listener| listener.destination_changed(destination.id));
        Ok(destination)
    }

    async fn update_destination(
        &self,
        mut destination: Destination,
        expected: u64,
    ) -> Result<Arc<Destination>, StoreError> {
        let mut commit = self.lock();
        let present = self.directory.destination(destination.id).ok_or(StoreError::NotFound)?;
        if present.destination.organization_id != destination.organization_id {
            return Err(StoreError::NotFound);
        }
        destination.revision = next_revision(present.destination.revision, Some(expected))?;
        let destination = Arc::new(destination);
        self.directory.put_destination(Arc::clone(&destination), DestinationHealth::default());
        self.ride(&mut commit, 1);
        self.tell(|listener| listener.destination_changed(destination.id));
        Ok(destination)
    }

    async fn delete_destination(&self, id: DestinationId, expected: Option<u64>) -> Result<(), StoreError> {
        let mut commit = self.lock();
        let present = self.directory.destination(id).ok_or(StoreError::NotFound)?;
        next_revision(present.destination.revision, expected)?;
        self.directory.remove_destination(id);
        self.ride(&mut commit, 1);
        self.tell(|listener| listener.destination_changed(id));
        Ok(())
    }
}

#[async_trait]
impl OrganizationStore for MemoryStore {
    async fn create_organization(&self, organization: Organization) -> Result<Arc<Organization>, StoreError> {
        let mut commit = self.lock();
        if commit.erasing.contains(&organization.id) {
            return Err(StoreError::Erasing);
        }
        if self.directory.organization(&organization.id).is_some() {
            return Err(StoreError::AlreadyExists);
        }
        let organization = Arc::new(organization);
        self.directory.put_organization(Arc::clone(&organization));
        self.ride(&mut commit, 1);
        Ok(organization)
    }

    async fn update_organization(
        &self,
        mut organization: Organization,
        expected: u64,
    ) -> Result<Arc<Organization>, StoreError> {
        let mut commit = self.lock();
        let present = self.directory.organization(&organization.id).ok_or(StoreError::NotFound)?;
        organization.revision = next_revision(present.revision, Some(expected))?;
        let organization = Arc::new(organization);
        self.directory.put_organization(Arc::clone(&organization));
        self.ride(&mut commit, 1);
        Ok(organization)
    }
}

pub(super) fn next_revision(found: u64, expected: Option<u64>) -> Result<u64, StoreError> {
    match expected {
        Some(expected) if expected != found => Err(StoreError::Stale { expected, found }),
        _ => Ok(found.saturating_add(1)),
    }
}

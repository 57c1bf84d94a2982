//! Destinations and organizations. All of them are in memory too, so checks need no reads.

use std::sync::Arc;

use sled::IVec;

use super::group::{Effect, Group};
use super::keys;
use super::writer::Writer;
use crate::domain::destination::Destination;
use crate::domain::id::DestinationId;
use crate::domain::organization::Organization;
use crate::store::record::{decode_destination, encode_destination, encode_organization};
use crate::store::{DestinationQuota, StoreError};

impl Writer {
    pub(super) fn create_destination(
        &mut self,
        group: &mut Group,
        destination: Destination,
        quota: Option<DestinationQuota>,
    ) -> Result<Arc<Destination>, StoreError> {
        self.watermark.check()?;
        if self.erasing.contains(&destination.organization_id) {
            return Err(StoreError::Erasing);
        }
        if self.destinations.contains_key(&destination.id) {
            return Err(StoreError::AlreadyExists);
        }
        let organization_id = &destination.organization_id;
        let siblings = self.destinations.values().filter(|other| other.organization_id == *organization_id);
        let usage = u32::try_from(siblings.count()).unwrap_or(u32::MAX);
        if let Some(limit) = quota.as_ref().map(|quota| quota.most).filter(|limit| usage >= *limit) {
            return Err(StoreError::LimitReached { limit, usage });
        }
        let created = self.put_destination(group, destination)?;
        self.tell(group, quota.and_then(|quota| quota.told_at(usage.saturating_add(1))))?;
        Ok(created)
    }

    pub(super) fn update_destination(
        &mut self,
        group: &mut Group,
        mut destination: Destination,
        expected: u64,
    ) -> Result<Arc<Destination>, StoreError> {
        let present = self.destinations.get(&destination.id).ok_or(StoreError::NotFound)?;
        if present.organization_id != destination.organization_id {
            return Err(StoreError::NotFound);
        }
        destination.revision = next_revision(present.revision, Some(expected))?;
        self.put_destination(group, destination)
    }

    pub(super) fn delete_destination(
        &mut self,
        group: &mut Group,
        id: DestinationId,
        expected: Option<u64>,
    ) -> Result<(), StoreError> {
        let present = self.destinations.get(&id).ok_or(StoreError::NotFound)?;
        next_revision(present.revision, expected)?;
        put_chunks(group, &keys::destination(id), Vec::new())?;
        group.remove_if_present(keys::health(id))?;
        group.effect(Effect::DestinationRemoved(id));
        self.destinations.remove(&id);
        Ok(())
    }

    fn put_destination(
        &mut self,
        group: &mut Group,
        destination: Destination,
    ) -> Result<Arc<Destination>, StoreError> {
        let chunks = encode_destination(&destination, &self.keyring)?;
        // One that could not be read back would keep the store from opening; better refuse it now.
        decode_destination(destination.id, &chunks, &self.keyring)?;
        put_chunks(group, &keys::destination(destination.id), chunks)?;
        let destination = Arc::new(destination);
        group.effect(Effect::DestinationPut(Arc::clone(&destination)));
        self.destinations.insert(destination.id, Arc::clone(&destination));
        Ok(destination)
    }

    pub(super) fn create_organization(
        &mut self,
        group: &mut Group,
        organization: Organization,
    ) -> Result<Arc<Organization>, StoreError> {
        self.watermark.check()?;
        if self.erasing.contains(&organization.id) {
            return Err(StoreError::Erasing);
        }
        if self.organizations.contains_key(&organization.id) {
            return Err(StoreError::AlreadyExists);
        }
        self.put_organization(group, organization)
    }

    pub(super) fn update_organization(
        &mut self,
        group: &mut Group,
        mut organization: Organization,
        expected: u64,
    ) -> Result<Arc<Organization>, StoreError> {
        let present = self.organizations.get(&organization.id).ok_or(StoreError::NotFound)?;
        organization.revision = next_revision(present.revision, Some(expected))?;
        self.put_organization(group, organization)
    }

    fn put_organization(
        &mut self,
        group: &mut Group,
        organization: Organization,
    ) -> Result<Arc<Organization>, StoreError> {
        put_chunks(group, &keys::organization(&organization.id), encode_organization(&organization))?;
        let organization = Arc::new(organization);
        group.effect(Effect::OrganizationPut(Arc::clone(&organization)));
        self.organizations.insert(organization.id.clone(), Arc::clone(&organization));
        Ok(organization)
    }
}

/// Writes the chunks and removes those that an earlier, larger version left.
pub(super) fn put_chunks(group: &mut Group, prefix: &[u8], chunks: Vec<Vec<u8>>) -> Result<(), StoreError> {
    let mut next = 0_u16;
    for chunk in chunks {
        group.put(keys::numbered(prefix, next), chunk);
        next = next.saturating_add(1);
    }
    while group.contains(&keys::numbered(prefix, next))? {
        group.remove(keys::numbered(prefix, next));
        next = next.saturating_add(1);
    }
    Ok(())
}

/// The chunks with this beginning, as the group sees them.
pub(super) fn chunks(group: &Group, prefix: &[u8]) -> Result<Vec<IVec>, StoreError> {
    let mut chunks = Vec::new();
    for number in 0..u16::MAX {
        match group.get(&keys::numbered(prefix, number))? {
            Some(chunk) => chunks.push(chunk),
            None => break,
        }
    }
    Ok(chunks)
}

pub(super) fn next_revision(found: u64, expected: Option<u64>) -> Result<u64, StoreError> {
    match expected {
        Some(expected) if expected != found => Err(StoreError::Stale { expected, found }),
        _ => Ok(found.saturating_add(1)),
    }
}

//! Organizations: create, read, change, usage.

use std::sync::Arc;
use std::time::Duration;

use super::audit::{Act, Action};
use super::destination_draft::check_display_name;
use super::event_draft::payload_limits;
use super::{Control, Error, Listing, PageRequest, Quota, Resource};
use crate::auth::{Caller, Role};
use crate::domain::facts;
use crate::domain::id::OrganizationId;
use crate::domain::operational::OperationalEvent;
use crate::domain::organization::Organization;
use crate::domain::time::Timestamp;
use crate::domain::violation::{Rule, Violations};

/// Counting what waits for a destination stops here.
const WAITING_CAP: usize = 10_000;

/// What to change about an organization, or to create it with.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OrganizationPatch {
    /// `display_name`.
    pub display_name: Option<String>,
    /// `plan`; empty returns to the default plan.
    pub plan: Option<String>,
}

/// What an organization uses of what its plan allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// The name of the plan in force.
    pub plan: String,
    /// How many destinations there are.
    pub destination_count: usize,
    /// How many there may be; below the count after a downgrade.
    pub destination_limit: Option<u32>,
    /// How many events it may emit a second.
    pub events_per_second_limit: Option<u32>,
    /// The largest data of an event, in bytes.
    pub payload_bytes_limit: usize,
    /// How long its history is kept.
    pub history: Duration,
    /// How many deliveries wait; each destination is counted up to 10,000.
    pub waiting: usize,
    /// When that was counted.
    pub measured_at: Timestamp,
}

impl Control {
    /// Creates an organization.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::AlreadyExists`], and what the store answers.
    pub async fn create_organization(
        &self,
        caller: &Caller,
        organization_id: &str,
        patch: OrganizationPatch,
    ) -> Result<Arc<Organization>, Error> {
        caller.require(Role::Operator, None)?;
        let mut found = Violations::new();
        let id = found.check("organization_id", OrganizationId::parse(organization_id));
        found.extend_under("organization", self.check_patch(&patch));
        let Some(id) = id.filter(|_| found.is_empty()) else { return Err(found.into()) };
        if self.directory().is_erasing(&id) {
            return Err(Error::being_deleted(id));
        }
        let fresh = Organization {
            display_name: patch.display_name.unwrap_or_default(),
            plan: patch.plan.unwrap_or_default(),
            ..self.fresh_organization(id.clone())
        };
        let created = facts::change(None, Some(&facts::of_organization(&fresh)));
        let store = self.noting(Act::new(caller, Action::CreateOrganization), &id, &id, created)?;
        store.create_organization(fresh).await.map_err(Error::about(Resource::Organization, id))
    }

    /// Reads an organization.
    ///
    /// # Errors
    /// [`Error::NotFound`], also where it was never used.
    pub fn get_organization(
        &self,
        caller: &Caller,
        organization_id: &str,
    ) -> Result<Arc<Organization>, Error> {
        let id = self.enter(caller, Role::Viewer, organization_id)?;
        self.find_organization(&id)
    }

    /// Lists the organizations that the caller may see, in order of their ids.
    ///
    /// # Errors
    /// None so far.
    pub fn list_organizations(
        &self,
        caller: &Caller,
        page: PageRequest<OrganizationId>,
    ) -> Result<Listing<Arc<Organization>, OrganizationId>, Error> {
        let limit = page.limit.saturating_add(1);
        let mut rows = self.directory().organizations(page.after.as_ref(), limit);
        let more = rows.len() > page.limit;
        rows.truncate(page.limit);
        let next = rows.last().filter(|_| more).map(|organization| organization.id.clone());
        rows.retain(|organization| caller.require(Role::Viewer, Some(&organization.id)).is_ok());
        Ok(Listing { rows, next })
    }

    /// Changes what the patch names. A smaller plan takes nothing away.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::NotFound`], [`Error::Stale`].
    pub async fn update_organization(
        &self,
        caller: &Caller,
        organization_id: &str,
        patch: OrganizationPatch,
        expected: Option<u64>,
    ) -> Result<Arc<Organization>, Error> {
        let id = self.enter(caller, Role::Admin, organization_id)?;
        if patch.plan.is_some() {
            caller.require(Role::Operator, None)?;
        }
        let mut found = Violations::new();
        found.extend_under("organization", self.check_patch(&patch));
        if !found.is_empty() {
            return Err(found.into());
        }
        let stored = Organization::clone(&*self.find_organization(&id)?);
        let expected = expected.unwrap_or(stored.revision);
        let changed = Organization {
            display_name: patch.display_name.unwrap_or_else(|| stored.display_name.clone()),
            plan: patch.plan.unwrap_or_else(|| stored.plan.clone()),
            updated_at: self.clock.now(),
            ..stored.clone()
        };
        let (before, after) = (facts::of_organization(&stored), facts::of_organization(&changed));
        let told = self.told_of_plan(&stored, &changed);
        let act = Act::new(caller, Action::UpdateOrganization).telling(told.as_ref());
        let store = self.noting(act, &id, &id, facts::change(Some(&before), Some(&after)))?;
        let updated = store.update_organization(changed, expected).await;
        updated.map_err(Error::about(Resource::Organization, id))
    }

    /// What a change of plan means for the quota of destinations: told, where it is nearly used up now and was
    /// not before.
    fn told_of_plan(&self, before: &Organization, after: &Organization) -> Option<OperationalEvent> {
        let usage = u32::try_from(self.directory().destinations(&after.id).len()).unwrap_or(u32::MAX);
        let limit_of = |one| self.settings.plan_of(Some(one)).and_then(|plan| plan.max_destinations);
        let is_near = |limit: &u32| usage >= Quota::near(*limit);
        let limit = limit_of(after).filter(is_near)?;
        let told = OperationalEvent::QuotaNear { limit, usage, at: after.updated_at };
        limit_of(before).filter(is_near).is_none().then_some(told)
    }

    /// Reads what an organization uses of what its plan allows.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn usage(&self, caller: &Caller, organization_id: &str) -> Result<Usage, Error> {
        let id = self.enter(caller, Role::Viewer, organization_id)?;
        let organization = self.find_organization(&id)?;
        let plan = self.settings.plan_of(Some(&organization));
        let destinations = self.directory().destinations(&id);
        let mut waiting = 0;
        for entry in destinations.iter() {
            waiting += self.store.backlog(entry.destination.id, WAITING_CAP).await?.count;
        }
        Ok(Usage {
            history: self.history_of(&id),
            waiting,
            measured_at: self.clock.now(),
            plan: plan.map(|plan| plan.name.clone()).unwrap_or_default(),
            destination_count: destinations.len(),
            destination_limit: plan.and_then(|plan| plan.max_destinations),
            events_per_second_limit: plan.and_then(|plan| plan.max_events_per_second),
            payload_bytes_limit: payload_limits(self.settings.payload, plan).max_bytes,
        })
    }

    fn find_organization(&self, id: &OrganizationId) -> Result<Arc<Organization>, Error> {
        self.directory().organization(id).ok_or_else(|| Error::not_found(Resource::Organization, id))
    }

    fn check_patch(&self, patch: &OrganizationPatch) -> Violations {
        let mut found = Violations::new();
        check_display_name(&mut found, patch.display_name.as_deref().unwrap_or_default());
        if let Some(plan) = patch.plan.as_ref().filter(|plan| !plan.is_empty())
            && !self.settings.plans.contains_key(plan)
        {
            let known: Vec<&str> = self.settings.plans.keys().map(String::as_str).collect();
            found.add_as(
                Rule::PlanUnknown,
                "plan",
                format!("`{plan}` is not configured; use one of {}", known.join(", ")),
            );
        }
        found
    }
}

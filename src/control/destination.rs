//! Destinations: create, read, change, pause, resume, delete.
//!
//! A change without an expected revision is one read and one write; if somebody else wrote in between, it
//! answers [`Error::Stale`] rather than trying again behind the caller's back.

use std::sync::Arc;

use super::audit::{Act, Action};
use super::destination_draft::{self, CheckedDraft, DraftRules, draft_of};
use super::destination_patch::DestinationPatch;
use super::{Condition, Control, Error, Listing, PageRequest, Quota, Resource, random};
use crate::auth::{Caller, Role};
use crate::contract;
use crate::domain::destination::{
    Destination, DestinationDraft, DestinationHealth, DestinationState, DestinationUrl,
};
use crate::domain::facts;
use crate::domain::id::{DestinationId, OrganizationId};
use crate::domain::operational::OperationalEvent;
use crate::domain::plan::Plan;
use crate::domain::secret::SecretSource;
use crate::domain::settings::EffectivePolicy;
use crate::domain::time::Timestamp;
use crate::domain::violation::Violations;
use crate::store::directory::{DestinationEntry, LaneStatus};
use crate::store::{Backlog, DestinationQuota, StoreError};
use crate::transport::resolve::vet;

/// Counting what waits for a destination stops here, so that reading a destination stays cheap.
const BACKLOG_CAP: usize = 10_000;

/// A destination as callers read it.
#[derive(Debug, Clone, PartialEq)]
pub struct DestinationView {
    /// The destination itself.
    pub destination: Arc<Destination>,
    /// What is in force: its settings over the contract's defaults.
    pub policy: EffectivePolicy,
    /// How delivering goes.
    pub health: DestinationHealth,
    /// Where its lane stands.
    pub lane: LaneStatus,
    /// What waits in the store; only where one destination is read.
    pub backlog: Option<Backlog>,
}

impl DestinationView {
    fn of(entry: &DestinationEntry) -> Self {
        Self {
            health: entry.status.health(),
            lane: entry.status.lane(),
            ..Self::unknown(Arc::clone(&entry.destination))
        }
    }

    /// One that has no history: it is new, or it is only what would be.
    fn unknown(destination: Arc<Destination>) -> Self {
        let policy = contract::effective_policy(&destination);
        let (health, lane) = (DestinationHealth::default(), LaneStatus::default());
        Self { destination, policy, health, lane, backlog: None }
    }
}

/// Which destination a change is for, and under which condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target<'a> {
    /// Whose.
    pub organization_id: &'a str,
    /// Which; the id as the caller wrote it.
    pub destination_id: &'a str,
    /// The revision that the caller has read, if it insists on it.
    pub expected: Option<u64>,
}

impl Control {
    /// Creates a destination; with `validate_only` everything is checked and nothing changed.
    ///
    /// # Errors
    /// [`Error::Invalid`] with paths below `destination`, [`Error::NotFound`] for an organization that
    /// must be created first, [`Error::QuotaExceeded`], and what the store answers.
    pub async fn create_destination(
        &self,
        caller: &Caller,
        organization_id: &str,
        draft: DestinationDraft,
        validate_only: bool,
    ) -> Result<DestinationView, Error> {
        let asker = OrganizationId::parse(organization_id).ok();
        let checked = self.check_draft(asker.as_ref(), draft).map_err(under_destination);
        let id = match (self.enter(caller, Role::Admin, organization_id), &checked) {
            (Err(Error::Invalid(mut found)), Err(Error::Invalid(more))) => {
                found.extend(more.clone());
                return Err(Error::Invalid(found));
            }
            (entered, _) => entered?,
        };
        self.store_new(Act::new(caller, Action::CreateDestination), id, checked?, validate_only).await
    }

    pub(super) async fn store_new(
        &self,
        act: Act<'_>,
        organization_id: OrganizationId,
        checked: CheckedDraft,
        validate_only: bool,
    ) -> Result<DestinationView, Error> {
        let organization = self.known(&organization_id)?;
        let plan = self.settings.plan_of(organization.as_deref());
        let limit = plan.and_then(|plan| plan.max_destinations);
        let usage = self.directory().destinations(&organization_id).len();
        let usage = u32::try_from(usage).unwrap_or(u32::MAX);
        if let Some(limit) = limit.filter(|limit| usage >= *limit) {
            return Err(quota_exceeded(&organization_id, plan, limit, usage));
        }
        let now = self.clock.now();
        let destination_id = DestinationId::make(now, random()?);
        let destination = checked.into_new(destination_id, organization_id.clone(), now);
        if validate_only {
            return Ok(DestinationView::unknown(Arc::new(destination)));
        }
        self.used(act, &organization_id).await?;
        let created = facts::change(None, Some(&facts::of_destination(&destination)));
        let store = self.noting(act, &organization_id, destination_id, created)?;
        let quota = limit.map(|most| self.destination_quota(&organization_id, most, now));
        match store.create_destination(destination, quota).await {
            Ok(created) => Ok(DestinationView::unknown(created)),
            Err(StoreError::LimitReached { limit, usage }) => {
                Err(quota_exceeded(&organization_id, plan, limit, usage))
            }
            Err(error) => Err(Error::about(Resource::Destination, destination_id)(error)),
        }
    }

    /// The plan's quota of destinations, and what the organization is told when it is nearly used up: once each
    /// time that the number of destinations rises to four fifths.
    fn destination_quota(
        &self,
        organization_id: &OrganizationId,
        most: u32,
        now: Timestamp,
    ) -> DestinationQuota {
        let near = Quota::near(most);
        let told = OperationalEvent::QuotaNear { limit: most, usage: near, at: now };
        let near = self.routed(organization_id, &told).map(|event| (near, Box::new(event)));
        DestinationQuota { most, near }
    }

    /// Reads a destination with its effective policy, its health and what waits for it.
    ///
    /// # Errors
    /// [`Error::NotFound`], also for another organization's.
    pub async fn get_destination(
        &self,
        caller: &Caller,
        organization_id: &str,
        destination_id: &str,
    ) -> Result<DestinationView, Error> {
        let id = self.enter(caller, Role::Viewer, organization_id)?;
        let entry = self.find_destination(&id, destination_id)?;
        let backlog = self.store.backlog(entry.destination.id, BACKLOG_CAP).await?;
        Ok(DestinationView { backlog: Some(backlog), ..DestinationView::of(&entry) })
    }

    /// Lists destinations in order of their ids.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an organization that must be created first.
    pub fn list_destinations(
        &self,
        caller: &Caller,
        organization_id: &str,
        page: PageRequest<DestinationId>,
    ) -> Result<Listing<DestinationView, DestinationId>, Error> {
        let id = self.enter_known(caller, Role::Viewer, organization_id)?;
        let mut entries: Vec<_> = self.directory().destinations(&id).iter().cloned().collect();
        entries.sort_by_key(|entry| entry.destination.id);
        entries.retain(|entry| page.after.is_none_or(|after| entry.destination.id > after));
        let more = entries.len() > page.limit;
        entries.truncate(page.limit);
        let next = entries.last().filter(|_| more).map(|entry| entry.destination.id);
        let rows = entries.iter().map(|entry| DestinationView::of(entry)).collect();
        Ok(Listing { rows, next })
    }

    /// Changes what the patch names; with `validate_only` everything is checked and nothing changed.
    ///
    /// # Errors
    /// [`Error::Invalid`] with paths below `destination`, [`Error::NotFound`], [`Error::Stale`].
    pub async fn update_destination(
        &self,
        caller: &Caller,
        target: Target<'_>,
        patch: DestinationPatch,
        validate_only: bool,
    ) -> Result<DestinationView, Error> {
        let entry = self.find_target(caller, target)?;
        let draft = patch.apply(draft_of(&entry.destination)).map_err(under_destination)?;
        let checked = self.check_draft(Some(&entry.destination.organization_id), draft);
        let changed = checked.map_err(under_destination)?.into_changed(&entry.destination, self.clock.now());
        self.store_changed(Act::new(caller, Action::UpdateDestination), &entry, changed, validate_only).await
    }

    pub(super) async fn store_changed(
        &self,
        act: Act<'_>,
        entry: &DestinationEntry,
        changed: Destination,
        validate_only: bool,
    ) -> Result<DestinationView, Error> {
        let destination = if validate_only {
            Arc::new(changed)
        } else {
            let (id, expected) = (changed.id, entry.destination.revision);
            let before = facts::of_destination(&entry.destination);
            let change = facts::change(Some(&before), Some(&facts::of_destination(&changed)));
            let store = self.noting(act, &changed.organization_id, id, change)?;
            let stored = store.update_destination(changed, expected).await;
            let stored = stored.map_err(Error::about(Resource::Destination, id))?;
            self.reset_health(entry, &stored).await?;
            stored
        };
        let (health, lane) = (entry.status.health(), entry.status.lane());
        Ok(DestinationView { health, lane, ..DestinationView::unknown(destination) })
    }

    /// What deliveries said of another URL says nothing of this one; and a destination that was switched on
    /// again gets a new start.
    async fn reset_health(&self, before: &DestinationEntry, after: &Destination) -> Result<(), Error> {
        let moved = before.destination.url != after.url;
        let revived = !before.destination.state.is_routed_to() && after.state.is_routed_to();
        if !moved && !revived {
            return Ok(());
        }
        let health = before.status.update_health(|health| {
            if moved {
                *health = DestinationHealth::default();
            }
            (health.consecutive_failures, health.failing_since) = (0, None);
        });
        Ok(self.store.settle(Vec::new(), vec![(after.id, health)]).await?)
    }

    /// Deletes a destination with its secrets, and answers how many deliveries waited for it (counting stops
    /// at 10,000); the engine ends them as discarded.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Stale`].
    pub async fn delete_destination(&self, caller: &Caller, target: Target<'_>) -> Result<usize, Error> {
        let destination = Arc::clone(&self.find_target(caller, target)?.destination);
        let id = destination.id;
        let backlog = self.store.backlog(id, BACKLOG_CAP).await?;
        let change = facts::change(Some(&facts::of_destination(&destination)), None);
        let act = Act::new(caller, Action::DeleteDestination);
        let store = self.noting(act, &destination.organization_id, id, change)?;
        let deleted = store.delete_destination(id, target.expected).await;
        deleted.map_err(Error::about(Resource::Destination, id))?;
        Ok(backlog.count)
    }

    /// Holds a destination: its events are kept and none is sent. Pausing a paused one changes nothing.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Stale`], [`Error::Precondition`] for one that we hold already.
    pub async fn pause_destination(
        &self,
        caller: &Caller,
        target: Target<'_>,
    ) -> Result<DestinationView, Error> {
        let entry = self.find_target(caller, target)?;
        match &entry.destination.state {
            DestinationState::Paused { .. } => Ok(DestinationView::of(&entry)),
            DestinationState::Disabled { reason, .. } => Err(Error::Precondition {
                kind: Condition::DestinationDisabled,
                subject: entry.destination.id.to_string(),
                message: format!(
                    "the destination is disabled already ({}); resume it first",
                    reason.as_sentence()
                ),
            }),
            DestinationState::Active => {
                let since = self.clock.now();
                let act = Act::new(caller, Action::PauseDestination);
                self.store_state(act, &entry, DestinationState::Paused { since }, since).await
            }
        }
    }

    /// Makes a paused or disabled destination active again; what waits is sent. Resuming an active one
    /// changes nothing.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Stale`].
    pub async fn resume_destination(
        &self,
        caller: &Caller,
        target: Target<'_>,
    ) -> Result<DestinationView, Error> {
        let entry = self.find_target(caller, target)?;
        if entry.destination.state.is_active() {
            return Ok(DestinationView::of(&entry));
        }
        let act = Act::new(caller, Action::ResumeDestination);
        self.store_state(act, &entry, DestinationState::Active, self.clock.now()).await
    }

    async fn store_state(
        &self,
        act: Act<'_>,
        entry: &DestinationEntry,
        state: DestinationState,
        now: Timestamp,
    ) -> Result<DestinationView, Error> {
        let stored = Destination::clone(&entry.destination);
        self.store_changed(act, entry, Destination { state, updated_at: now, ..stored }, false).await
    }

    /// The destination that an admin wants to change, at the revision that is expected.
    pub(super) fn find_target(
        &self,
        caller: &Caller,
        target: Target<'_>,
    ) -> Result<Arc<DestinationEntry>, Error> {
        let id = self.enter(caller, Role::Admin, target.organization_id)?;
        let entry = self.find_destination(&id, target.destination_id)?;
        let found = entry.destination.revision;
        if target.expected.is_some_and(|expected| expected != found) {
            let id = entry.destination.id.to_string();
            return Err(Error::Stale { kind: Resource::Destination, id, found });
        }
        Ok(entry)
    }

    /// A destination of this organization. An id that can't be one is as unknown as any other.
    pub(super) fn find_destination(
        &self,
        organization_id: &OrganizationId,
        destination_id: &str,
    ) -> Result<Arc<DestinationEntry>, Error> {
        if destination_id.is_empty() {
            return Err(Error::invalid("destination_id", "is empty; give the destination's id"));
        }
        let entry = DestinationId::parse(destination_id).ok().and_then(|id| self.directory().destination(id));
        entry
            .filter(|entry| entry.destination.organization_id == *organization_id)
            .ok_or_else(|| Error::not_found(Resource::Destination, destination_id))
    }

    /// Checks a draft for a destination of this organization; `None` where the request names none that can be.
    pub(super) fn check_draft(
        &self,
        organization_id: Option<&OrganizationId>,
        draft: DestinationDraft,
    ) -> Result<CheckedDraft, Violations> {
        let secret_allowed = |source: &SecretSource| self.secrets.check_allowed(organization_id, source);
        let address_allowed = |url: &DestinationUrl| {
            let judged = vet(url.as_url(), &self.settings.address_policy);
            judged.map_err(|refused| format!("can't be called: {refused}; ask the operator to allow it"))
        };
        let rules = DraftRules {
            plain_http_contracts: &self.settings.plain_http_contracts,
            secret_allowed: &secret_allowed,
            address_allowed: &address_allowed,
        };
        destination_draft::check(draft, rules)
    }
}

pub(super) fn under_destination(violations: Violations) -> Error {
    let mut found = Violations::new();
    found.extend_under("destination", violations);
    Error::Invalid(found)
}

fn quota_exceeded(id: &OrganizationId, plan: Option<&Plan>, limit: u32, usage: u32) -> Error {
    Error::QuotaExceeded {
        subject: format!("organization:{id}"),
        plan: plan.map(|plan| plan.name.clone()).unwrap_or_default(),
        what: Quota::Destinations,
        limit: limit.into(),
        usage: usage.into(),
        retry_after: None,
    }
}

//! Control: what callers may ask for, in domain words.
//!
//! Each use case takes a [`Caller`] first, checks its input completely, and then calls the store or the
//! courier. It starts no tasks and knows nothing of gRPC; the engine learns of changes through the store's
//! listener. A file is a noun: `event` (emit), `destination` with its draft, patch, secret, test and
//! Stalwart object, `delivery`, `dead_letter`, `replay`, `organization`.
//!
//! Whatever belongs to another organization is answered exactly like what does not exist.

pub mod audit;
pub mod backup;
pub mod dead_letter;
pub mod delivery;
pub mod denials;
pub mod destination;
pub mod destination_draft;
pub mod destination_patch;
pub mod destination_settings;
pub mod destination_test;
pub mod erasure;
pub mod error;
pub mod event;
pub mod event_draft;
pub mod exchange;
pub mod explain;
pub mod organization;
mod rates;
pub mod replay;
mod retained;
pub mod secret;
pub mod stalwart;
pub mod standing;
#[cfg(test)]
mod use_case_tests;
pub mod watch;

use std::collections::BTreeMap;
use std::sync::Arc;

use ring::rand::{SecureRandom, SystemRandom};

use crate::auth::{Caller, Role};
use crate::clock::SharedClock;
use crate::contract;
use crate::domain::contract::Contract;
use crate::domain::event::NewEvent;
use crate::domain::facts;
use crate::domain::id::OrganizationId;
use crate::domain::operational::OperationalEvent;
use crate::domain::organization::Organization;
use crate::domain::payload::PayloadLimits;
use crate::domain::plan::Plan;
use crate::domain::retention::Retention;
use crate::metrics::IngestMetrics;
use crate::policy::address::AddressPolicy;
use crate::spans::Spans;
use crate::store::directory::Directory;
use crate::store::{Store, StoreError};
use crate::transport::courier::Courier;
use crate::transport::secrets::SecretReader;
use audit::Act;
pub use error::{Condition, Error, Quota, Resource};
use rates::Rates;

/// The variable of seed 000 without which nothing is delivered to `SEMAPHOR` destinations.
pub const ENTERPRISE_TELEMETRY_SETTING: &str = "ENTERPRISE_TELEMETRY_ENABLED";
/// The setting that switches delivering off for all contracts.
pub const DELIVERY_SETTING: &str = "delivery.enabled";

/// What the operator configured that use cases need to know.
#[derive(Debug, Clone)]
pub struct ControlSettings {
    /// The plans, by name.
    pub plans: BTreeMap<String, Plan>,
    /// The plan of organizations that name none; one of `plans`.
    pub default_plan: String,
    /// The server's own limits on the data of an event.
    pub payload: PayloadLimits,
    /// Whether organizations must be created before they are used.
    pub require_organizations: bool,
    /// The contracts whose destinations may use `http://`.
    pub plain_http_contracts: Vec<Contract>,
    /// Where requests may go; checked here for what a URL tells by itself, and at each attempt for all.
    pub address_policy: Arc<AddressPolicy>,
    /// Whether anything is delivered at all.
    pub delivery_enabled: bool,
    /// Whether anything is delivered to `SEMAPHOR` destinations (seed 000).
    pub enterprise_telemetry_enabled: bool,
    /// The most events in one call.
    pub batch_max_events: usize,
    /// How long what is finished is kept, unless a plan says otherwise.
    pub retention: Retention,
}

impl ControlSettings {
    /// The setting that stands against delivering to destinations of this contract, if one does.
    #[must_use]
    pub fn unavailable(&self, contract: Contract) -> Option<&'static str> {
        if !self.delivery_enabled {
            return Some(DELIVERY_SETTING);
        }
        let telemetry = contract == Contract::Semaphor && !self.enterprise_telemetry_enabled;
        telemetry.then_some(ENTERPRISE_TELEMETRY_SETTING)
    }

    /// The plan in force for an organization. A plan that is no longer configured counts as the default
    /// one, so that a renamed plan stops nobody's webhooks.
    #[must_use]
    pub fn plan_of(&self, organization: Option<&Organization>) -> Option<&Plan> {
        let named = organization.filter(|organization| !organization.plan.is_empty());
        let named = named.and_then(|organization| self.plans.get(&organization.plan));
        named.or_else(|| self.plans.get(&self.default_plan))
    }
}

/// The use cases. Each noun's file adds its own.
pub struct Control {
    store: Arc<dyn Store>,
    courier: Arc<Courier>,
    secrets: Arc<SecretReader>,
    clock: SharedClock,
    settings: ControlSettings,
    rates: Rates,
    metrics: IngestMetrics,
    spans: Spans,
}

/// Which rows of a list to return.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRequest<T> {
    /// Only rows after this one.
    pub after: Option<T>,
    /// The most rows.
    pub limit: usize,
}

/// Some rows of a list, and where the next page begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing<T, K> {
    /// The rows; there may be fewer than asked for, even none, although there is a next page.
    pub rows: Vec<T>,
    /// What to ask for as [`PageRequest::after`] to go on; `None` at the end.
    pub next: Option<K>,
}

impl Control {
    /// Puts the use cases over their parts.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        courier: Arc<Courier>,
        secrets: Arc<SecretReader>,
        clock: SharedClock,
        settings: ControlSettings,
    ) -> Self {
        let (rates, metrics, spans) = (Rates::default(), IngestMetrics::default(), Spans::default());
        Self { store, courier, secrets, clock, settings, rates, metrics, spans }
    }

    /// The same, counting where others see it and telling spans to whoever wants them.
    #[must_use]
    pub fn watched_by(self, metrics: IngestMetrics, spans: Spans) -> Self {
        Self { metrics, spans, ..self }
    }

    /// Where events are counted; refusals are counted by whoever words them for callers.
    #[must_use]
    pub fn metrics(&self) -> &IngestMetrics {
        &self.metrics
    }

    /// What the operator configured.
    #[must_use]
    pub fn settings(&self) -> &ControlSettings {
        &self.settings
    }

    fn directory(&self) -> &Directory {
        self.store.directory()
    }

    /// Reads the organization's id and asks the caller for a role in it.
    fn enter(&self, caller: &Caller, role: Role, organization_id: &str) -> Result<OrganizationId, Error> {
        let id = OrganizationId::parse(organization_id)
            .map_err(|problem| Error::invalid("organization_id", problem))?;
        caller.require(role, Some(&id))?;
        match role {
            _ if !self.directory().is_erasing(&id) => Ok(id),
            // Nothing of it can be read any more.
            Role::Viewer => Err(Error::not_found(Resource::Organization, id)),
            Role::Emitter | Role::Admin | Role::Operator => Err(Error::being_deleted(id)),
        }
    }

    /// The organization, unless the operator wants it to be created first and it was not.
    fn known(&self, id: &OrganizationId) -> Result<Option<Arc<Organization>>, Error> {
        let organization = self.directory().organization(id);
        if organization.is_none() && self.settings.require_organizations {
            return Err(Error::not_found(Resource::Organization, id));
        }
        Ok(organization)
    }

    /// Reads the organization's id, asks the caller for a role in it, and that it was created where it must be.
    fn enter_known(
        &self,
        caller: &Caller,
        role: Role,
        organization_id: &str,
    ) -> Result<OrganizationId, Error> {
        let id = self.enter(caller, role, organization_id)?;
        self.known(&id)?;
        Ok(id)
    }

    /// The organization, which comes into being with its first use where that is allowed.
    async fn used(&self, act: Act<'_>, id: &OrganizationId) -> Result<Arc<Organization>, Error> {
        if let Some(organization) = self.known(id)? {
            return Ok(organization);
        }
        let fresh = self.fresh_organization(id.clone());
        let store = self.noting(act, id, id, facts::change(None, Some(&facts::of_organization(&fresh))))?;
        let created = store.create_organization(fresh).await;
        match created {
            // Another call was the first to use it.
            Err(StoreError::AlreadyExists) => self
                .directory()
                .organization(id)
                .ok_or_else(|| Error::internal("an organization exists but is not in the directory")),
            other => other.map_err(Error::about(Resource::Organization, id)),
        }
    }

    fn fresh_organization(&self, id: OrganizationId) -> Organization {
        let now = self.clock.now();
        Organization {
            id,
            display_name: String::new(),
            plan: String::new(),
            created_at: now,
            updated_at: now,
            revision: 1,
        }
    }

    /// The event that tells the organization of something; `None` where no destination listens for it.
    fn routed(&self, id: &OrganizationId, told: &OperationalEvent) -> Option<NewEvent> {
        let destinations = self.directory().destinations(id);
        contract::operational_event(id, told, destinations.iter().map(|entry| entry.destination.as_ref()))
    }

    /// Refuses a call that would deliver to a destination to which nothing is delivered.
    fn available(&self, contract: Contract, subject: impl ToString) -> Result<(), Error> {
        match self.settings.unavailable(contract) {
            Some(setting) => Err(Error::not_available(setting, subject)),
            None => Ok(()),
        }
    }
}

/// Random bytes that are good enough for secrets.
fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0_u8; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| Error::internal("the operating system gives no random bytes"))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(name: &str) -> (String, Plan) {
        let plan = Plan {
            name: name.into(),
            max_destinations: None,
            max_events_per_second: None,
            max_calls_per_second: None,
            max_payload_bytes: None,
            retention: None,
        };
        (name.into(), plan)
    }

    pub(super) fn settings() -> ControlSettings {
        ControlSettings {
            plans: [plan("free"), plan("team")].into(),
            default_plan: "free".into(),
            payload: PayloadLimits::default(),
            require_organizations: false,
            plain_http_contracts: Vec::new(),
            address_policy: Arc::default(),
            delivery_enabled: true,
            enterprise_telemetry_enabled: false,
            batch_max_events: 1000,
            retention: crate::domain::retention::Retention::default(),
        }
    }

    #[test]
    fn without_the_variable_only_semaphor_destinations_are_unavailable() {
        let mut settings = settings();
        assert_eq!(settings.unavailable(Contract::Semaphor), Some("ENTERPRISE_TELEMETRY_ENABLED"));
        assert_eq!(settings.unavailable(Contract::Observer), None);
        settings.enterprise_telemetry_enabled = true;
        assert_eq!(settings.unavailable(Contract::Semaphor), None);
        settings.delivery_enabled = false;
        assert_eq!(settings.unavailable(Contract::Observer), Some("delivery.enabled"));
    }

    #[test]
    fn an_organization_whose_plan_is_gone_is_on_the_default_plan() {
        let settings = settings();
        let mut organization = Organization {
            id: OrganizationId::parse("org_a").unwrap(),
            display_name: String::new(),
            plan: "team".into(),
            created_at: crate::domain::time::Timestamp::from_millis(0),
            updated_at: crate::domain::time::Timestamp::from_millis(0),
            revision: 1,
        };
        assert_eq!(settings.plan_of(Some(&organization)).unwrap().name, "team");
        organization.plan = "gone".into();
        assert_eq!(settings.plan_of(Some(&organization)).unwrap().name, "free");
        assert_eq!(settings.plan_of(None).unwrap().name, "free");
    }
}

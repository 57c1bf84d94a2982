//! What callers leave in the audit log, and reading it.

use super::{Control, Error, Listing, PageRequest, random};
use crate::auth::{Caller, Role};
use crate::domain::audit::{AuditChange, AuditEntry, AuditOutcome};
use crate::domain::id::{AuditEntryId, OrganizationId};
use crate::domain::operational::OperationalEvent;
use crate::domain::time::Timestamp;
use crate::domain::violation::{Rule, Violations};
use crate::store::{AuditQuery, Store};

/// Names all actions with their methods, so that none can miss one.
macro_rules! actions {
    ($($name:ident = $method:literal, $what:literal;)+) => {
        /// What a caller does that changes something, takes all that is stored, or has a request sent.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Action {
            $(
                #[doc = $what]
                $name,
            )+
        }

        impl Action {
            /// All of them.
            pub const ALL: &[Action] = &[$(Action::$name),+];

            /// The method, as the audit log names it.
            #[must_use]
            pub const fn method(self) -> &'static str {
                match self {
                    $(Action::$name => concat!("signalpost.v1.", $method),)+
                }
            }

            /// What it does, for people.
            #[must_use]
            pub const fn description(self) -> &'static str {
                match self {
                    $(Action::$name => $what,)+
                }
            }
        }
    };
}

actions! {
    Emit = "EventIngest/Emit", "the organization came into being with its first use";
    CreateDestination = "DestinationAdmin/CreateDestination", "destination created";
    UpdateDestination = "DestinationAdmin/UpdateDestination", "destination changed";
    DeleteDestination = "DestinationAdmin/DeleteDestination", "destination deleted";
    PauseDestination = "DestinationAdmin/PauseDestination", "destination paused";
    ResumeDestination = "DestinationAdmin/ResumeDestination", "destination resumed";
    TestDestination = "DestinationAdmin/TestDestination", "test event sent to a destination";
    RotateSecret = "DestinationAdmin/RotateSecret", "signing secret rotated";
    ImportDestination = "DestinationAdmin/ImportDestination", "destination imported";
    ResendDelivery = "DeliveryAdmin/ResendDelivery", "delivery sent again";
    CancelDelivery = "DeliveryAdmin/CancelDelivery", "delivery cancelled";
    ReplayDeadLetter = "DeliveryAdmin/ReplayDeadLetter", "dead letter sent again";
    ReplayDeadLetters = "DeliveryAdmin/ReplayDeadLetters", "replay of dead letters started";
    ReplayDeliveries = "DeliveryAdmin/ReplayDeliveries", "replay of deliveries started";
    CancelReplay = "DeliveryAdmin/CancelReplay", "replay cancelled";
    DeleteDeadLetters = "DeliveryAdmin/DeleteDeadLetters", "dead letters deleted";
    EraseEventData = "DeliveryAdmin/EraseEventData", "data of an event erased";
    CreateOrganization = "OrganizationAdmin/CreateOrganization", "organization created";
    UpdateOrganization = "OrganizationAdmin/UpdateOrganization", "organization changed";
    DeleteOrganization = "OrganizationAdmin/DeleteOrganization", "organization deleted; its data is being erased";
    BackUpStore = "StoreAdmin/BackUpStore", "a backup of everything that is stored was begun";
}

/// Who does what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Act<'a> {
    pub(super) caller: &'a Caller,
    pub(super) action: Action,
    /// What the organization is told of it.
    told: Option<&'a OperationalEvent>,
}

impl<'a> Act<'a> {
    pub(super) const fn new(caller: &'a Caller, action: Action) -> Self {
        Self { caller, action, told: None }
    }

    /// The organization is told of it, together with the change.
    pub(super) const fn telling(self, told: Option<&'a OperationalEvent>) -> Self {
        Self { told, ..self }
    }
}

/// Which entries a caller wants to see.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AuditFilter {
    /// Of this principal; empty: any.
    pub principal: String,
    /// Of this method; empty: any.
    pub method: String,
    /// About this thing; empty: any.
    pub resource_id: String,
    /// Whether they tell of denied calls, or of changes; absent: both.
    pub denied: Option<bool>,
    /// Of this time or later.
    pub from: Option<Timestamp>,
    /// Before this time.
    pub until: Option<Timestamp>,
}

impl Control {
    /// The store, whose next change leaves an entry, and tells of itself where it is to.
    pub(super) fn noting(
        &self,
        act: Act<'_>,
        organization_id: &OrganizationId,
        resource_id: impl ToString,
        change: AuditChange,
    ) -> Result<std::sync::Arc<dyn Store>, Error> {
        let entry = AuditEntry {
            organization_id: organization_id.to_string(),
            resource_id: resource_id.to_string(),
            change,
            ..self.entry_of(act)?
        };
        let noting = self.store.noting(entry);
        let told = act.told.and_then(|told| self.routed(organization_id, told));
        Ok(if told.is_some() { noting.telling(Vec::from_iter(told)) } else { noting })
    }

    /// The entry of an act that is about no organization in particular.
    pub(super) fn entry_of(&self, act: Act<'_>) -> Result<AuditEntry, Error> {
        let Act { caller, action, told: _ } = act;
        let at = self.clock.now();
        Ok(AuditEntry {
            id: AuditEntryId::make(at, random()?),
            at,
            organization_id: String::new(),
            principal: caller.principal().to_owned(),
            remote_address: caller.peer(),
            method: action.method().to_owned(),
            resource_id: String::new(),
            outcome: AuditOutcome::Changed,
            request_id: caller.request_id().unwrap_or_default().to_owned(),
            change: AuditChange::default(),
            count: 1,
            description: action.description().to_owned(),
        })
    }

    /// Lists the audit log, the latest entry first: of an organization, or, for operators, of all.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a range that ends before it begins.
    pub async fn list_audit_entries(
        &self,
        caller: &Caller,
        organization_id: &str,
        filter: AuditFilter,
        page: PageRequest<AuditEntryId>,
    ) -> Result<Listing<AuditEntry, AuditEntryId>, Error> {
        let organization_id = if organization_id.is_empty() {
            caller.require(Role::Operator, None)?;
            None
        } else {
            let id = OrganizationId::parse(organization_id);
            let id = id.map_err(|problem| Error::invalid("organization_id", problem))?;
            caller.require(Role::Admin, Some(&id))?;
            Some(id)
        };
        let AuditFilter { principal, method, resource_id, denied, from, until } = filter;
        if from.zip(until).is_some_and(|(from, until)| until <= from) {
            let mut violations = Violations::new();
            let problem = "is not after start_time; give a later time";
            violations.add_as(Rule::TimeRange, "filter.end_time", problem);
            return Err(violations.into());
        }
        let (after, limit) = (page.after, page.limit);
        let query =
            AuditQuery { organization_id, principal, method, resource_id, denied, from, until, after, limit };
        let page = self.store.audit(query).await?;
        Ok(Listing { rows: page.rows, next: page.next })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::access::{Access, METHODS};

    /// Methods that callers need the rights to change something for, and that change nothing.
    const CHANGE_NOTHING: [&str; 1] = ["signalpost.v1.OrganizationAdmin/ListAuditEntries"];

    #[test]
    fn every_method_that_changes_something_is_an_action() {
        let needs_rights =
            |access: &Access| matches!(access, Access::Role { role: Role::Admin | Role::Operator, .. });
        for (method, _) in METHODS.iter().filter(|(_, access)| needs_rights(access)) {
            let is_action = Action::ALL.iter().any(|action| action.method() == *method);
            assert!(is_action != CHANGE_NOTHING.contains(method), "{method}");
        }
        for action in Action::ALL {
            assert!(METHODS.iter().any(|(method, _)| *method == action.method()), "{action:?}");
        }
    }
}

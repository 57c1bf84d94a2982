//! The audit log: who changed what, and who was not allowed to.

use std::net::SocketAddr;

use serde_json::{Map, Value};

use super::id::{AuditEntryId, OrganizationId};
use super::time::Timestamp;

/// Who stands behind what the server decides itself.
pub const SERVER_PRINCIPAL: &str = "signalpost";

/// How a call ended, or what the server did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditOutcome {
    /// Something was changed.
    Changed,
    /// The caller was not allowed to.
    Denied(AuditDenial),
}

/// Why a caller was not allowed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditDenial {
    /// It had no credentials.
    CredentialsMissing,
    /// Its credentials were not accepted.
    CredentialsInvalid,
    /// It has not got the role.
    RoleMissing,
}

/// Fields by their paths; secrets are told of and not shown.
pub type Fields = Map<String, Value>;

/// What a change made of what was before.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AuditChange {
    /// The paths that changed, for example `settings.timeout`.
    pub changed_fields: Vec<String>,
    /// The changed fields before; `None` for a creation.
    pub before: Option<Fields>,
    /// The changed fields after; `None` for a deletion.
    pub after: Option<Fields>,
}

/// One line of the audit log. It is written once and never changed, but for an organization that is erased.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditEntry {
    /// Rising with time.
    pub id: AuditEntryId,
    /// When it happened.
    pub at: Timestamp,
    /// The organization concerned, as the caller wrote it; empty if none was named.
    pub organization_id: String,
    /// Who called; [`SERVER_PRINCIPAL`] for what the server decided itself.
    pub principal: String,
    /// Where the call came from; `None` for the server itself.
    pub remote_address: Option<SocketAddr>,
    /// The method; empty for the server itself.
    pub method: String,
    /// The id of the thing concerned; empty if none.
    pub resource_id: String,
    /// How it ended.
    pub outcome: AuditOutcome,
    /// The id of the call; empty if it has none.
    pub request_id: String,
    /// What it changed.
    pub change: AuditChange,
    /// How many things were changed, or how many denied calls the entry stands for.
    pub count: u64,
    /// What happened, for people.
    pub description: String,
}

impl AuditEntry {
    /// What the server did by itself, or an operator with it, about no organization in particular.
    #[must_use]
    pub fn of_server(id: AuditEntryId, at: Timestamp, description: String, count: u64) -> Self {
        Self {
            id,
            at,
            organization_id: String::new(),
            principal: SERVER_PRINCIPAL.to_owned(),
            remote_address: None,
            method: String::new(),
            resource_id: String::new(),
            outcome: AuditOutcome::Changed,
            request_id: String::new(),
            change: AuditChange::default(),
            count,
            description,
        }
    }

    /// The organization concerned, if what was named is an id of one.
    #[must_use]
    pub fn organization(&self) -> Option<OrganizationId> {
        OrganizationId::parse(&self.organization_id).ok()
    }

    /// Takes out what its organization had for names and contents.
    pub fn forget_contents(&mut self) {
        self.change.before = None;
        self.change.after = None;
    }
}

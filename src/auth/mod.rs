//! Who is calling, and what they may ask for.
//!
//! A [`Caller`] is a proof: it can be made only here, and every use case takes one first and asks it with
//! [`Caller::require`] before it does anything. How callers prove who they are (tokens, JWT, certificates)
//! changes how a `Caller` is made, and no use case.

use std::fmt;
use std::sync::Arc;

use crate::domain::id::OrganizationId;

/// What a caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Emits events.
    Emitter,
    /// Reads, but never secrets.
    Viewer,
    /// Manages destinations and deliveries; includes emitting and reading.
    Admin,
    /// Manages organizations and plans; includes everything.
    Operator,
}

impl Role {
    /// The lower-case name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::Emitter => "emitter",
            Role::Viewer => "viewer",
            Role::Admin => "admin",
            Role::Operator => "operator",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The caller has not got the role that the call needs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this call needs the role {role}; ask the operator for credentials that have it")]
pub struct Denied {
    /// The role that the call needs.
    pub role: Role,
    /// In which organization; `None` where the call is about the whole installation.
    pub organization_id: Option<OrganizationId>,
}

/// Who is calling, with what they may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    subject: Arc<str>,
    rights: Rights,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rights {
    Everything,
}

impl Caller {
    /// The caller of a server without authentication, which is reachable from its own machine only.
    #[must_use]
    pub fn local() -> Self {
        Self { subject: "local".into(), rights: Rights::Everything }
    }

    /// The name that stands for the caller in logs and in test events.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Asks for a role in an organization, or in the whole installation with `None`.
    ///
    /// # Errors
    /// [`Denied`], where the caller has not got it.
    pub fn require(&self, _role: Role, _organization_id: Option<&OrganizationId>) -> Result<(), Denied> {
        match self.rights {
            Rights::Everything => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_local_caller_may_do_everything_everywhere() {
        let caller = Caller::local();
        let organization = OrganizationId::parse("org_a").unwrap();
        for role in [Role::Emitter, Role::Viewer, Role::Admin, Role::Operator] {
            assert_eq!(caller.require(role, Some(&organization)), Ok(()));
            assert_eq!(caller.require(role, None), Ok(()));
        }
        assert_eq!(caller.subject(), "local");
    }
}

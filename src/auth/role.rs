//! Roles: what a caller may do, apart from where.

use std::fmt;
use std::str::FromStr;

/// What a caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Emits events.
    Emitter,
    /// Reads, but never secrets.
    Viewer,
    /// Manages destinations and deliveries; includes emitting and reading.
    Admin,
    /// Manages organizations and plans; includes everything, everywhere.
    Operator,
}

impl Role {
    /// All of them, the least first.
    pub const ALL: [Role; 4] = [Role::Emitter, Role::Viewer, Role::Admin, Role::Operator];

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

    /// Whether somebody with this role may do what needs the other one.
    #[must_use]
    pub const fn includes(self, needed: Role) -> bool {
        match self {
            Role::Operator => true,
            Role::Admin => !matches!(needed, Role::Operator),
            Role::Viewer => matches!(needed, Role::Viewer),
            Role::Emitter => matches!(needed, Role::Emitter),
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Role::ALL.into_iter().find(|role| role.as_str() == text);
        found.ok_or_else(|| format!("`{text}` is no role; write emitter, viewer, admin or operator"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_includes_what_the_documents_say_and_no_more() {
        use Role::{Admin, Emitter, Operator, Viewer};
        let included = [
            (Emitter, vec![Emitter]),
            (Viewer, vec![Viewer]),
            (Admin, vec![Emitter, Viewer, Admin]),
            (Operator, Role::ALL.to_vec()),
        ];
        for (role, all) in included {
            for needed in Role::ALL {
                assert_eq!(role.includes(needed), all.contains(&needed), "{role} {needed}");
            }
            assert_eq!(role.as_str().parse(), Ok(role));
        }
        assert!("Admin".parse::<Role>().unwrap_err().contains("write emitter, viewer, admin or operator"));
    }
}

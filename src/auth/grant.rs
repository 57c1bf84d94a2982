//! Grants: a role, and where it holds. The texts of the token file and of the configuration.
//!
//! `emitter@acme`, `viewer@acme+globex`, `admin@*`, `operator`. The place is never left out where there can
//! be one, so that nobody gets a role everywhere by forgetting to say where.

use std::fmt;
use std::str::FromStr;

use super::Role;
use crate::domain::id::OrganizationId;
use crate::domain::place::Place;

/// A role, and where it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// What may be done.
    pub role: Role,
    /// Where.
    pub place: Place,
}

impl Grant {
    /// The role of an operator, which is not about organizations.
    pub const OPERATOR: Grant = Grant { role: Role::Operator, place: Place::Everywhere };

    /// Whether the grant allows what needs a role in an organization, or in the whole installation (`None`).
    #[must_use]
    pub fn allows(&self, needed: Role, organization_id: Option<&OrganizationId>) -> bool {
        let here = match organization_id {
            Some(id) => self.place.covers(id),
            None => self.place == Place::Everywhere,
        };
        here && self.role.includes(needed)
    }
}

impl FromStr for Grant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (role, place) = match text.split_once('@') {
            Some((role, place)) => (role.parse()?, Some(place)),
            None => (text.parse()?, None),
        };
        match (role, place) {
            (Role::Operator, None) => Ok(Grant::OPERATOR),
            (Role::Operator, Some(_)) => {
                Err(format!("`{text}`: an operator is one everywhere; write operator alone"))
            }
            (role, None) => Err(format!(
                "`{text}` does not say where; write for example {role}@acme, {role}@acme+globex or {role}@*"
            )),
            (role, Some(place)) => {
                let place = place.parse().map_err(|why| format!("`{text}`: {why}"))?;
                Ok(Grant { role, place })
            }
        }
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.role {
            Role::Operator => write!(f, "{}", self.role),
            role => write!(f, "{role}@{}", self.place),
        }
    }
}

/// Reads grants that are separated by commas; at least one.
///
/// # Errors
/// What is wrong with the first wrong one.
pub fn parse_grants(text: &str) -> Result<Vec<Grant>, String> {
    text.split(',').map(str::parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> OrganizationId {
        OrganizationId::parse(text).unwrap()
    }

    #[test]
    fn a_grant_reads_back_as_it_was_written() {
        for text in ["emitter@acme", "viewer@acme+globex", "admin@*", "operator", "viewer@a:b.c-d_e"] {
            assert_eq!(text.parse::<Grant>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_grant_that_does_not_say_where_or_says_it_wrongly_is_refused_with_the_remedy() {
        for (text, part) in [
            ("admin", "does not say where; write for example admin@acme"),
            ("operator@acme", "operator alone"),
            ("admin@", "the organization ``"),
            ("admin@acme+", "the organization ``"),
            ("admin@ac me", "the organization `ac me`"),
            ("root@acme", "`root` is no role"),
            ("", "`` is no role"),
        ] {
            let why = text.parse::<Grant>().unwrap_err();
            assert!(why.contains(part), "{text}: {why}");
        }
        assert_eq!(parse_grants("emitter@acme,viewer@*").unwrap().len(), 2);
        assert!(parse_grants("emitter@acme,").is_err());
    }

    #[test]
    fn a_role_holds_where_it_was_given_and_nowhere_else() {
        let here: Grant = "admin@acme".parse().unwrap();
        assert!(here.allows(Role::Viewer, Some(&id("acme"))));
        assert!(!here.allows(Role::Viewer, Some(&id("acme2"))));
        assert!(!here.allows(Role::Viewer, None));
        let everywhere: Grant = "admin@*".parse().unwrap();
        assert!(
            everywhere.allows(Role::Admin, Some(&id("anything"))) && everywhere.allows(Role::Admin, None)
        );
        assert!(!everywhere.allows(Role::Operator, None));
        assert!(Grant::OPERATOR.allows(Role::Operator, None));
    }
}

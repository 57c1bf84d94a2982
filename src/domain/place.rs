//! Where something holds: in all organizations, or in named ones. For grants, and for secrets of the machine.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use super::id::OrganizationId;

/// Where something holds. As text `*`, or ids with `+` between them: `acme+globex`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In all organizations, also those that do not exist yet.
    Everywhere,
    /// In these.
    Organizations(BTreeSet<OrganizationId>),
}

impl Place {
    /// Whether the organization is one of them.
    #[must_use]
    pub fn covers(&self, organization_id: &OrganizationId) -> bool {
        match self {
            Place::Everywhere => true,
            Place::Organizations(named) => named.contains(organization_id),
        }
    }
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Place::Everywhere);
        }
        let read = |name: &str| {
            OrganizationId::parse(name).map_err(|why| format!("the organization `{name}` {why}"))
        };
        text.split('+').map(read).collect::<Result<_, _>>().map(Place::Organizations)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Everywhere => f.write_str("*"),
            Place::Organizations(named) => {
                let names: Vec<&str> = named.iter().map(OrganizationId::as_str).collect();
                f.write_str(&names.join("+"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_reads_back_as_it_was_written_and_covers_what_it_names() {
        for text in ["*", "acme", "acme+globex"] {
            assert_eq!(text.parse::<Place>().unwrap().to_string(), text);
        }
        let covers = |place: &str, name: &str| {
            place.parse::<Place>().unwrap().covers(&OrganizationId::parse(name).unwrap())
        };
        assert!(covers("*", "acme") && covers("acme+globex", "globex"));
        assert!(!covers("acme", "acme2") && !covers("acme+globex", "initech"));
        for text in ["", "acme+", "ac me", "*+acme"] {
            assert!(text.parse::<Place>().unwrap_err().contains("the organization `"), "{text}");
        }
    }
}

//! Client certificates: which names in them stand for which callers.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::caller::{CallerKind, Identity};
use super::grant::Grant;

/// A name in a certificate (subject alternative name). The common name is no name: nobody checks it any more.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CertificateName {
    /// A DNS name, in lower case.
    Dns(String),
    /// A URI, for example a SPIFFE id, exactly as it stands there.
    Uri(String),
}

impl fmt::Display for CertificateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CertificateName::Dns(name) => write!(f, "dns:{name}"),
            CertificateName::Uri(uri) => write!(f, "uri:{uri}"),
        }
    }
}

impl FromStr for CertificateName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let visible = |name: &&str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic());
        match text.split_once(':') {
            Some(("dns", name)) if visible(&name) && !name.contains('*') => {
                Ok(CertificateName::Dns(name.to_ascii_lowercase()))
            }
            Some(("uri", uri)) if visible(&uri) => Ok(CertificateName::Uri(uri.to_owned())),
            _ => Err(format!(
                "`{text}` is no name of a certificate; write for example dns:backend.example.com or \
                 uri:spiffe://example.com/backend, without wildcards"
            )),
        }
    }
}

/// A certificate of a connection, whose chain and possession were verified when it was opened.
pub trait PeerCertificate: Send + Sync {
    /// Its names.
    fn names(&self) -> &[CertificateName];

    /// Whether it would still be accepted: by its dates, and by the authorities that are trusted now.
    fn is_trusted(&self) -> bool;
}

/// A name and what its holder may do: `dns:backend.example.com=emitter@acme`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateRule {
    /// The name.
    pub name: CertificateName,
    /// What its holder may do.
    pub grant: Grant,
}

impl FromStr for CertificateRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, grant) = text.rsplit_once('=').ok_or_else(|| {
            format!("`{text}` grants nothing; write for example dns:backend.example.com=emitter@acme")
        })?;
        Ok(Self { name: name.parse()?, grant: grant.parse()? })
    }
}

/// All rules, by name.
#[derive(Debug, Clone, Default)]
pub struct CertificateRules {
    by_name: HashMap<CertificateName, Arc<Identity>>,
}

impl CertificateRules {
    /// The rules; several of one name add up.
    #[must_use]
    pub fn new(rules: &[CertificateRule]) -> Self {
        let mut grants: HashMap<&CertificateName, Vec<Grant>> = HashMap::new();
        for rule in rules {
            grants.entry(&rule.name).or_default().push(rule.grant.clone());
        }
        let identity = |(name, grants): (&CertificateName, Vec<Grant>)| {
            let identity = Identity::named(CallerKind::Certificate, name.to_string(), grants);
            (name.clone(), Arc::new(identity))
        };
        Self { by_name: grants.into_iter().map(identity).collect() }
    }

    /// Whether certificates stand for nobody.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// The caller that the first name with a rule stands for.
    pub(super) fn find(&self, names: &[CertificateName]) -> Option<&Arc<Identity>> {
        names.iter().find_map(|name| self.by_name.get(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stands_for_what_its_rules_say_together() {
        let rules = [
            "dns:Backend.example.com=emitter@acme",
            "dns:backend.example.com=viewer@acme",
            "uri:spiffe://example.com/ns/ops?a=b=operator",
        ];
        let rules: Vec<CertificateRule> = rules.iter().map(|rule| rule.parse().unwrap()).collect();
        let rules = CertificateRules::new(&rules);
        let find = |name: &str| rules.find(&[name.parse().unwrap()]).cloned();
        let backend = find("dns:backend.example.com").unwrap();
        assert_eq!((backend.subject.as_str(), backend.grants.len()), ("dns:backend.example.com", 2));
        assert_eq!(find("uri:spiffe://example.com/ns/ops?a=b").unwrap().grants, [Grant::OPERATOR]);
        for stranger in ["dns:other.example.com", "uri:backend.example.com", "uri:spiffe://example.com"] {
            assert!(find(stranger).is_none(), "{stranger}");
        }
    }

    #[test]
    fn rules_that_mean_nothing_are_refused_with_an_example() {
        for (text, part) in [
            ("dns:a.example", "grants nothing"),
            ("cn:a.example=operator", "is no name of a certificate"),
            ("dns:*.example=operator", "without wildcards"),
            ("dns:=operator", "is no name"),
            ("dns:a.example=admin", "does not say where"),
        ] {
            assert!(text.parse::<CertificateRule>().unwrap_err().contains(part), "{text}");
        }
    }
}

//! The caller of a call: a proof of who it is and what it may do.

use std::net::SocketAddr;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::Role;
use super::grant::Grant;
use crate::domain::id::OrganizationId;
use crate::domain::place::Place;

/// The caller has not got the role that the call needs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this call needs the role {role}{}; ask the operator for credentials that have it",
    if organization_id.is_some() { " in this organization" } else { "" })]
pub struct Denied {
    /// The role that the call needs.
    pub role: Role,
    /// In which organization; `None` where the call is about the whole installation. Not part of the message,
    /// which is the same whether the organization exists or not.
    pub organization_id: Option<OrganizationId>,
}

/// How a caller proved who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CallerKind {
    /// Not at all: the server has no authentication and is reachable from its own machine only, or the
    /// operator said that the network is closed.
    Local,
    /// With a token of the token file.
    Token,
    /// With a JWT.
    Jwt,
    /// With a client certificate.
    Certificate,
    /// It did not: a call without credentials, or with wrong ones. Such a caller may do nothing.
    Anonymous,
}

impl CallerKind {
    /// The lower-case name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            CallerKind::Local => "local",
            CallerKind::Token => "token",
            CallerKind::Jwt => "jwt",
            CallerKind::Certificate => "certificate",
            CallerKind::Anonymous => "anonymous",
        }
    }
}

/// Who is calling, with what they may do. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    identity: Arc<Identity>,
    peer: Option<SocketAddr>,
    request_id: Option<Arc<str>>,
}

/// What credentials stand for, apart from a single call.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) kind: CallerKind,
    pub(super) subject: String,
    pub(super) principal: String,
    pub(super) grants: Vec<Grant>,
}

/// The longest subject that is told as it is, in characters.
const SUBJECT_MAX_CHARS: usize = 128;
/// How much is told of a longer one.
const SUBJECT_SHOWN_CHARS: usize = 80;

impl Identity {
    pub(super) fn local() -> Self {
        Self::without_credentials(CallerKind::Local, vec![Grant::OPERATOR])
    }

    /// Names without a colon are the server's own: nobody with credentials has one.
    fn without_credentials(kind: CallerKind, grants: Vec<Grant>) -> Self {
        let name = kind.as_str().to_owned();
        Self { kind, subject: name.clone(), principal: name, grants }
    }

    /// Whom the operator has named: a token or a name of a certificate.
    pub(super) fn named(kind: CallerKind, subject: String, grants: Vec<Grant>) -> Self {
        let principal = format!("{}:{subject}", kind.as_str());
        Self { kind, subject, principal, grants }
    }

    /// Whom an issuer of JWT has named. What is too long to be told keeps a digest of all of it, under another
    /// word, so that no two subjects become one.
    pub(super) fn issued(issuer: &str, subject: &str, grants: Vec<Grant>) -> Self {
        let kind = CallerKind::Jwt;
        let shown = subject.escape_debug().to_string();
        if shown.chars().count() <= SUBJECT_MAX_CHARS {
            let principal = format!("{}:{issuer}#{shown}", kind.as_str());
            return Self { kind, subject: shown, principal, grants };
        }
        let start: String = shown.chars().take(SUBJECT_SHOWN_CHARS).collect();
        let digest = Sha256::digest(subject);
        let digest = hex::encode(digest.get(..16).unwrap_or_default());
        let principal = format!("{}-digest:{issuer}#{digest}:{start}", kind.as_str());
        Self { kind, subject: format!("{start}~{digest}"), principal, grants }
    }
}

impl Caller {
    /// The caller of a server without authentication, which is reachable from its own machine only.
    #[must_use]
    pub fn local() -> Self {
        Self::of(Identity::local().into())
    }

    /// Somebody who has not proved who it is, and may do nothing. For what is recorded of refused calls.
    #[must_use]
    pub fn anonymous() -> Self {
        Self::of(Identity::without_credentials(CallerKind::Anonymous, Vec::new()).into())
    }

    /// A caller with these grants, for tests of use cases.
    #[cfg(test)]
    pub fn with_grants(subject: &str, grants: &str) -> Self {
        let grants = super::grant::parse_grants(grants).unwrap();
        Self::of(Identity::named(CallerKind::Token, subject.into(), grants).into())
    }

    pub(super) fn of(identity: Arc<Identity>) -> Self {
        Self { identity, peer: None, request_id: None }
    }

    /// The same, with where the call came from and the id that its caller gave it.
    #[must_use]
    pub fn calling_from(self, peer: Option<SocketAddr>, request_id: Option<Arc<str>>) -> Self {
        Self { peer, request_id, ..self }
    }

    /// Who it is for certain, by the way in: `token:NAME`, `jwt:ISSUER#SUBJECT`, `certificate:dns:NAME` or
    /// `certificate:uri:URI`; `local` and `anonymous` without credentials. A subject of more than 128 characters is
    /// `jwt-digest:ISSUER#DIGEST:START`, with 128 bits of its SHA-256. At most about 2 KiB, as long as the issuer or URI.
    #[must_use]
    pub fn principal(&self) -> &str {
        &self.identity.principal
    }

    /// The name that stands for the caller in logs and test events: the token's name, the JWT's subject, the
    /// certificate's name. Others may have the same.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.identity.subject
    }

    /// How the caller proved who it is.
    #[must_use]
    pub fn kind(&self) -> CallerKind {
        self.identity.kind
    }

    /// Where the call came from; `None` for calls that came over no socket.
    #[must_use]
    pub fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// The caller's own id of the call (`x-request-id`), at most 128 visible ASCII characters.
    #[must_use]
    pub fn request_id(&self) -> Option<&str> {
        self.request_id.as_deref()
    }

    /// Asks for a role in an organization, or in the whole installation with `None`.
    ///
    /// # Errors
    /// [`Denied`], where the caller has not got it.
    pub fn require(&self, role: Role, organization_id: Option<&OrganizationId>) -> Result<(), Denied> {
        let allowed = self.identity.grants.iter().any(|grant| grant.allows(role, organization_id));
        if allowed { Ok(()) } else { Err(Denied { role, organization_id: organization_id.cloned() }) }
    }

    /// Whether the caller has the role in any organization at all.
    #[must_use]
    pub fn has_anywhere(&self, role: Role) -> bool {
        self.identity.grants.iter().any(|grant| match &grant.place {
            Place::Organizations(named) if named.is_empty() => false,
            Place::Everywhere | Place::Organizations(_) => grant.role.includes(role),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> OrganizationId {
        OrganizationId::parse(text).unwrap()
    }

    #[test]
    fn the_local_caller_may_do_everything_everywhere() {
        let caller = Caller::local();
        for role in Role::ALL {
            assert_eq!(caller.require(role, Some(&id("org_a"))), Ok(()));
            assert_eq!(caller.require(role, None), Ok(()));
        }
        assert_eq!((caller.subject(), caller.kind()), ("local", CallerKind::Local));
    }

    #[test]
    fn a_caller_may_do_what_any_of_its_grants_allows() {
        let caller = Caller::with_grants("backend", "emitter@acme+globex,viewer@acme");
        for (role, organization, allowed) in [
            (Role::Emitter, "acme", true),
            (Role::Emitter, "globex", true),
            (Role::Viewer, "acme", true),
            (Role::Viewer, "globex", false),
            (Role::Admin, "acme", false),
            (Role::Emitter, "initech", false),
        ] {
            let asked = caller.require(role, Some(&id(organization)));
            assert_eq!(asked.is_ok(), allowed, "{role} {organization}");
        }
        assert!(caller.has_anywhere(Role::Viewer) && !caller.has_anywhere(Role::Admin));
        assert!(caller.require(Role::Viewer, None).is_err());
    }

    #[test]
    fn a_refusal_reads_the_same_for_every_organization() {
        let caller = Caller::with_grants("backend", "viewer@acme");
        let of = |name: &str| caller.require(Role::Viewer, Some(&id(name))).unwrap_err().to_string();
        assert_eq!(of("globex"), of("no-such-organization"));
        assert!(!of("globex").contains("globex"));
    }

    #[test]
    fn no_two_callers_have_one_principal_and_nobody_has_the_servers_names() {
        let issuer = "https://issuer.example";
        let long = |end: &str| format!("{}{end}", "x".repeat(300));
        let jwt = |subject: &str| Identity::issued(issuer, subject, Vec::new()).principal;
        let shortened = Identity::issued(issuer, &long("a"), Vec::new());
        let mut principals = vec![
            Identity::local().principal,
            Caller::anonymous().principal().to_owned(),
            "signalpost".to_owned(),
            jwt("ops"),
            jwt("signalpost"),
            jwt("anonymous"),
            jwt(&long("a")),
            jwt(&long("b")),
            jwt(&shortened.subject),
            jwt(&shortened.principal),
            jwt("a\nb"),
            jwt("a\\nb"),
        ];
        for (kind, subject) in [
            (CallerKind::Token, "ops"),
            (CallerKind::Token, "signalpost"),
            (CallerKind::Token, "local"),
            (CallerKind::Token, "dns:ops"),
            (CallerKind::Certificate, "dns:ops"),
            (CallerKind::Certificate, "uri:https://issuer.example#ops"),
        ] {
            principals.push(Identity::named(kind, subject.into(), Vec::new()).principal);
        }
        let count = principals.len();
        assert!(principals.iter().all(|principal| principal.len() < 200 && !principal.contains('\n')));
        principals.sort();
        principals.dedup();
        assert_eq!(principals.len(), count, "{principals:#?}");
        assert_eq!(jwt("ops"), "jwt:https://issuer.example#ops");
    }

    #[test]
    fn nobody_may_do_nothing() {
        let caller = Caller::anonymous();
        for role in Role::ALL {
            assert!(caller.require(role, Some(&id("acme"))).is_err() && !caller.has_anywhere(role));
        }
    }

    #[test]
    fn a_caller_knows_where_its_call_came_from() {
        let peer = "192.0.2.1:1234".parse().unwrap();
        let caller = Caller::local().calling_from(Some(peer), Some("req-1".into()));
        assert_eq!((caller.peer(), caller.request_id()), (Some(peer), Some("req-1")));
    }
}

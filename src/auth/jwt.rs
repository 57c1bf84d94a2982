//! JSON Web Tokens: which are believed, and what their claims mean.
//!
//! Pure, with the keys and the time given: `jwks` has the keys.

use std::collections::BTreeSet;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::jwk::{AlgorithmParameters, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::Role;
use super::caller::Identity;
use super::grant::Grant;
use super::jwt_ring;
use crate::domain::id::OrganizationId;
use crate::domain::place::Place;
use crate::domain::time::Timestamp;

/// The longest token, in bytes.
const TOKEN_MAX_BYTES: usize = 8 * 1024;
/// The most organizations that a token may name.
const ORGANIZATIONS_MAX: usize = 1000;

/// The algorithms that may be allowed: signatures with public keys alone.
pub const ALGORITHMS: [&str; 9] =
    ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"];

/// An algorithm that may be allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JwtAlgorithm(Algorithm);

impl FromStr for JwtAlgorithm {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = ALGORITHMS.contains(&text).then(|| text.parse().ok()).flatten();
        known.map(Self).ok_or_else(|| {
            format!("`{text}` is no algorithm that may be allowed; use {}", ALGORITHMS.join(", "))
        })
    }
}

/// What a value of the roles claim means: `webhook-admins=admin`, `sre=viewer@*`, `root=operator`. Without a
/// place, the organizations are those of the token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleRule {
    value: String,
    role: Role,
    /// `None`: the organizations that the token names.
    place: Option<Place>,
}

impl FromStr for RoleRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (value, grant) = text
            .rsplit_once('=')
            .filter(|(value, _)| !value.is_empty())
            .ok_or_else(|| format!("`{text}` maps nothing; write for example webhook-admins=admin"))?;
        let value = value.to_owned();
        if grant == Role::Operator.as_str() || grant.contains('@') {
            let Grant { role, place } = grant.parse()?;
            return Ok(Self { value, role, place: Some(place) });
        }
        Ok(Self { value, role: grant.parse()?, place: None })
    }
}

/// Which tokens are believed, and what they mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtRules {
    /// `iss` must be this.
    pub issuer: String,
    /// `aud` must have one of these.
    pub audiences: Vec<String>,
    /// `alg` must be one of these.
    pub algorithms: Vec<JwtAlgorithm>,
    /// How far the issuer's clock may be from ours.
    pub leeway: Duration,
    /// The claim with the roles: a name, or a path with dots.
    pub roles_claim: String,
    /// What its values mean.
    pub roles: Vec<RoleRule>,
    /// The claim with the organizations: a name, or a path with dots.
    pub organizations_claim: String,
}

/// What tells a key from all others, whatever it is called: a digest of its public part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KeyPrint([u8; 32]);

/// The keys of an issuer.
#[derive(Default)]
pub struct KeySet {
    keys: Vec<Key>,
}

struct Key {
    id: Option<String>,
    print: KeyPrint,
    algorithm: Option<KeyAlgorithm>,
    key: DecodingKey,
}

impl KeySet {
    /// Reads a JSON Web Key Set. Keys that are for something else, or of a kind that we do not know, are passed
    /// over.
    ///
    /// # Errors
    /// It is none, or has no key that could be used.
    pub fn parse(json: &[u8]) -> Result<Self, String> {
        let set: Map<String, Value> =
            serde_json::from_slice(json).map_err(|error| format!("it is no JSON object: {error}"))?;
        let keys = set.get("keys").and_then(Value::as_array).ok_or("it has no list `keys`")?;
        let keys: Vec<Key> = keys.iter().filter_map(Key::read).collect();
        if keys.is_empty() { Err("it has no public key for signatures".into()) } else { Ok(Self { keys }) }
    }

    /// The keys that a token may have been signed with.
    fn candidates<'a>(&'a self, id: Option<&'a str>, algorithm: Algorithm) -> impl Iterator<Item = &'a Key> {
        let fits = move |key: &&Key| {
            (id.is_none() || key.id.as_deref() == id)
                && key.key.family() == algorithm.family()
                && key.algorithm.is_none_or(|own| own == KeyAlgorithm::from(algorithm))
        };
        self.keys.iter().filter(fits)
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether exactly this key is there.
    pub(super) fn holds(&self, print: KeyPrint) -> bool {
        self.keys.iter().any(|key| key.print == print)
    }

    /// Whether there is a key with this id.
    #[must_use]
    pub fn has(&self, id: Option<&str>) -> bool {
        id.is_none() || self.keys.iter().any(|key| key.id.as_deref() == id)
    }
}

impl Key {
    fn read(json: &Value) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(json.clone()).ok()?;
        let is_secret = matches!(jwk.algorithm, AlgorithmParameters::OctetKey(_));
        let for_signatures =
            jwk.common.public_key_use.as_ref().is_none_or(|r#use| *r#use == PublicKeyUse::Signature);
        if is_secret || !for_signatures {
            return None;
        }
        let key = DecodingKey::from_jwk(&jwk).ok()?;
        let print = KeyPrint(Sha256::digest(serde_json::to_vec(&jwk.algorithm).ok()?).into());
        Some(Self { id: jwk.common.key_id, print, algorithm: jwk.common.key_algorithm, key })
    }
}

/// A token that is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Believed {
    pub(super) identity: Arc<Identity>,
    /// From when on it is no longer.
    pub(super) expires_at: Timestamp,
    /// The key that it was signed with.
    pub(super) key: KeyPrint,
}

/// Why a token is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doubt {
    /// It names a key that we do not have, or none, and none of ours fits; perhaps there is a new one.
    UnknownKey,
    /// Whatever else.
    Wrong,
}

/// Decides about tokens by rules.
pub(super) struct JwtJudge {
    rules: JwtRules,
    validation: Validation,
}

impl JwtJudge {
    pub(super) fn new(rules: JwtRules) -> Self {
        jwt_ring::install();
        let mut validation = Validation::new(Algorithm::RS256);
        validation.set_issuer(&[&rules.issuer]);
        validation.set_audience(&rules.audiences);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        // Times are checked by our own clock, which tests can set.
        validation.validate_exp = false;
        Self { rules, validation }
    }

    /// Whether a token is believed, and what it means.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn judge(&self, token: &str, keys: &KeySet, now: Timestamp) -> Result<Believed, Doubt> {
        if token.len() > TOKEN_MAX_BYTES {
            return Err(Doubt::Wrong);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| Doubt::Wrong)?;
        let is_allowed = self.rules.algorithms.iter().any(|allowed| allowed.0 == header.alg);
        let typ = header.typ.as_deref().unwrap_or("JWT");
        let is_access = typ.eq_ignore_ascii_case("JWT") || typ.eq_ignore_ascii_case("at+jwt");
        if !is_allowed || !is_access || header.crit.is_some() {
            return Err(Doubt::Wrong);
        }
        if !keys.has(header.kid.as_deref()) {
            return Err(Doubt::UnknownKey);
        }
        let validation = Validation { algorithms: vec![header.alg], ..self.validation.clone() };
        let read = |key: &Key| {
            let token = jsonwebtoken::decode::<Map<String, Value>>(token, &key.key, &validation).ok()?;
            Some((token.claims, key.print))
        };
        let mut candidates = keys.candidates(header.kid.as_deref(), header.alg);
        // Where the token names none, it may be for a key that is newer than ours.
        let otherwise = if header.kid.is_none() { Doubt::UnknownKey } else { Doubt::Wrong };
        let (claims, key) = candidates.find_map(read).ok_or(otherwise)?;
        let expires_at = self.check_times(&claims, now).ok_or(Doubt::Wrong)?;
        let identity = self.identity(&claims).ok_or(Doubt::Wrong)?;
        Ok(Believed { identity: Arc::new(identity), expires_at, key })
    }

    /// When the token ends, where it has begun and not ended.
    fn check_times(&self, claims: &Map<String, Value>, now: Timestamp) -> Option<Timestamp> {
        let moment = |value: &Value| {
            let seconds = value.as_i64().or_else(|| value.as_f64().map(|seconds| seconds as i64))?;
            Some(Timestamp::from_millis(seconds.checked_mul(1000)?))
        };
        let expires_at = moment(claims.get("exp")?)? + self.rules.leeway;
        let begins_at = claims.get("nbf").map(|value| moment(value).unwrap_or(expires_at));
        let has_begun = begins_at.is_none_or(|begin| begin - self.rules.leeway <= now);
        (has_begun && now < expires_at).then_some(expires_at)
    }

    fn identity(&self, claims: &Map<String, Value>) -> Option<Identity> {
        let subject = claims.get("sub")?.as_str().filter(|subject| !subject.is_empty())?;
        let values = words(claim(claims, &self.rules.roles_claim));
        let named: BTreeSet<OrganizationId> = words(claim(claims, &self.rules.organizations_claim))
            .into_iter()
            .take(ORGANIZATIONS_MAX)
            .filter_map(|id| OrganizationId::parse(id).ok())
            .collect();
        let rules = self.rules.roles.iter().filter(|rule| values.contains(&rule.value.as_str()));
        let grant = |rule: &RoleRule| Grant {
            role: rule.role,
            place: rule.place.clone().unwrap_or_else(|| Place::Organizations(named.clone())),
        };
        Some(Identity::issued(&self.rules.issuer, subject, rules.map(grant).collect()))
    }
}

/// A claim by its name, or by a path with dots.
fn claim<'a>(claims: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    claims.get(path).or_else(|| {
        let mut steps = path.split('.');
        let first = claims.get(steps.next()?)?;
        steps.try_fold(first, |value, step| value.get(step))
    })
}

/// The texts of a list, or of one text with spaces between them (as in `scope`).
fn words(value: Option<&Value>) -> Vec<&str> {
    match value {
        Some(Value::String(text)) => text.split_ascii_whitespace().collect(),
        Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
#[path = "jwt_tests.rs"]
mod tests;

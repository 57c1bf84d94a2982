//! The part of `[auth]` that is about JSON Web Tokens.

use std::time::Duration;

use url::Url;

use super::accepts::{Accepts, Known};
use super::reader::Reader;
use super::resolved::{JwtConfig, KeysConfig};
use super::units::{duration, or_word, path};
use crate::auth::jwt::{self, JwtAlgorithm, JwtRules};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// What is allowed where nothing is said.
const ALGORITHMS: [&str; 3] = ["RS256", "ES256", "EdDSA"];

/// Reads the settings: the outer `None` where a problem was noted, the inner one without an issuer.
pub(super) fn jwt(reader: &mut Reader<'_>) -> Option<Option<JwtConfig>> {
    let text = |text: &str| Ok(text.to_owned());
    let issuer = reader.one("auth.jwt_issuer", "", text);
    let audiences = reader.many("auth.jwt_audiences", text);
    let algorithms = reader.many(
        "auth.jwt_algorithms",
        Known(Accepts::Words(jwt::ALGORITHMS.into()), |text: &str| text.parse()),
    );
    let leeway = reader.one("auth.jwt_leeway", "30s", duration(Duration::ZERO, 600 * SECOND));
    let roles_claim = reader.one("auth.jwt_roles_claim", "roles", named);
    let roles = reader.many("auth.jwt_roles", |text: &str| text.parse());
    let organizations_claim = reader.one("auth.jwt_organizations_claim", "organizations", named);
    let keys = keys(reader);
    let issuer = issuer?;
    if issuer.is_empty() {
        return nothing_alone(reader).then_some(None);
    }
    let algorithms = algorithms.map(or_usual)?;
    let (audiences, roles) = (audiences?, roles?);
    if audiences.is_empty() {
        reader.problem("auth.jwt_audiences", "is empty: tokens for anybody would do; name this service");
    }
    if roles.is_empty() {
        reader.problem(
            "auth.jwt_roles",
            "is empty: tokens mean nothing; write for example webhook-admins=admin",
        );
    }
    let rules = JwtRules {
        issuer,
        audiences,
        algorithms,
        leeway: leeway?,
        roles_claim: roles_claim?,
        roles,
        organizations_claim: organizations_claim?,
    };
    Some(Some(JwtConfig { rules, keys: keys? }))
}

fn or_usual(given: Vec<JwtAlgorithm>) -> Vec<JwtAlgorithm> {
    if given.is_empty() { ALGORITHMS.iter().filter_map(|name| name.parse().ok()).collect() } else { given }
}

/// Without an issuer, the rest would have no effect.
fn nothing_alone(reader: &mut Reader<'_>) -> bool {
    let keys = ["auth.jwt_audiences", "auth.jwt_roles", "auth.jwks_file", "auth.jwks_url"];
    let alone: Vec<&str> = keys.into_iter().filter(|key| reader.is_filled(key)).collect();
    for key in &alone {
        reader.problem(key, "has no effect alone; set auth.jwt_issuer as well");
    }
    alone.is_empty()
}

fn named(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("is empty; give the claim's name".into()) } else { Ok(text.to_owned()) }
}

fn https(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).ok().filter(|url| url.scheme() == "https" && url.has_host());
    url.ok_or_else(|| "is no https:// URL; write for example https://issuer.example.com/keys".into())
}

fn keys(reader: &mut Reader<'_>) -> Option<KeysConfig> {
    let file = reader.one("auth.jwks_file", "", or_word("", path));
    let url = reader.one("auth.jwks_url", "", or_word("", https));
    let ca_file = reader.one("auth.jwks_ca_file", "", or_word("", path));
    let refresh = reader.one("auth.jwks_refresh", "10m", duration(SECOND, DAY));
    let min_refresh = reader.one("auth.jwks_min_refresh", "30s", duration(SECOND / 10, DAY));
    let (file, url) = (file?, url?);
    match (file, url) {
        (Some(file), None) => Some(KeysConfig::File(file)),
        (None, Some(url)) => {
            let (ca_file, every, at_most_every) = (ca_file?, refresh?, min_refresh?);
            Some(KeysConfig::Url { url, ca_file, every, at_most_every })
        }
        (Some(_), Some(_)) => {
            reader.problem("auth.jwks_file", "is set beside auth.jwks_url; keep one of them");
            None
        }
        (None, None) => {
            if reader.is_filled("auth.jwt_issuer") {
                reader.problem("auth.jwt_issuer", "has no keys; set auth.jwks_url or auth.jwks_file");
            }
            None
        }
    }
}

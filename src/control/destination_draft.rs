//! Destination drafts: what makes one valid. Pure.
//!
//! All violations are found at once; paths are relative to the destination, in the API's words. A
//! [`CheckedDraft`] can be made only by [`check`], and only from one can a destination be made.

use std::collections::BTreeSet;

use super::destination_settings;
use crate::contract::{self, Catalogue};
use crate::domain::contract::Contract;
use crate::domain::destination::{
    DISPLAY_NAME_MAX_CHARS, Destination, DestinationDraft, DestinationState, DestinationUrl, DisabledReason,
    HEADERS_MAX, Header,
};
use crate::domain::id::{DestinationId, OrganizationId};
use crate::domain::operational::OperationalEvent;
use crate::domain::secret::{HttpAuth, SECRET_MAX_BYTES, SecretSource, SigningSecrets};
use crate::domain::subscription::{Subscription, SubscriptionPolicy};
use crate::domain::time::Timestamp;
use crate::domain::violation::{Rule, Violations};

/// The most event types in a subscription.
pub const EVENT_TYPES_MAX: usize = 1000;
/// The longest user name of Basic authentication, in characters.
pub const USERNAME_MAX_CHARS: usize = 255;

/// What the operator allows.
#[derive(Clone, Copy)]
pub struct DraftRules<'a> {
    /// The contracts whose destinations may use `http://`.
    pub plain_http_contracts: &'a [Contract],
    /// Whether a secret may be read from there.
    pub secret_allowed: &'a dyn Fn(&SecretSource) -> Result<(), String>,
    /// Whether requests may go where the URL says by itself: its port, and its address if it is one.
    pub address_allowed: &'a dyn Fn(&DestinationUrl) -> Result<(), String>,
}

/// A draft that keeps all rules.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckedDraft {
    draft: DestinationDraft,
    url: DestinationUrl,
    subscription: Subscription,
}

/// Checks a draft completely.
///
/// # Errors
/// Every violated field.
pub fn check(draft: DestinationDraft, rules: DraftRules<'_>) -> Result<CheckedDraft, Violations> {
    let mut found = Violations::new();
    check_display_name(&mut found, &draft.display_name);
    let plain_http = rules.plain_http_contracts.contains(&draft.contract);
    let url = found.check_as(url_rule(&draft.url), "url", DestinationUrl::parse(&draft.url, plain_http));
    let subscription = draft.subscription.clone();
    let default = contract::default_subscription(draft.contract);
    let mut subscription = subscription.unwrap_or_else(|| default.clone());
    subscription.minimum_level = subscription.minimum_level.or(default.minimum_level);
    if let Some(url) = &url
        && let Err(problem) = (rules.address_allowed)(url)
    {
        found.add_as(Rule::UrlAddress, "url", problem);
        found.with("host", url.as_url().host_str().unwrap_or_default());
    }
    found.extend_under("subscription", check_subscription(&subscription, draft.contract));
    found.extend_under("settings", destination_settings::check(&draft.settings, draft.contract));
    if let Some(secret) = &draft.signing_secret {
        check_signing_secret(&mut found, secret, draft.contract, rules);
    }
    check_http_auth(&mut found, &draft.http_auth, rules);
    check_headers(&mut found, &draft.headers, draft.contract);
    match url {
        Some(url) if found.is_empty() => Ok(CheckedDraft { draft, url, subscription }),
        _ => Err(found),
    }
}

impl CheckedDraft {
    /// The destination that the draft asks for.
    #[must_use]
    pub fn into_new(self, id: DestinationId, organization_id: OrganizationId, now: Timestamp) -> Destination {
        let state = state_of(self.draft.enabled, now);
        let headers = normal_headers(self.draft.headers);
        Destination {
            id,
            organization_id,
            display_name: self.draft.display_name,
            url: self.url,
            contract: self.draft.contract,
            subscription: self.subscription,
            settings: self.draft.settings,
            signing: SigningSecrets { current: self.draft.signing_secret, retiring: None },
            http_auth: self.draft.http_auth,
            headers,
            state,
            created_at: now,
            updated_at: now,
            revision: 1,
        }
    }

    /// The stored destination, changed to what the draft asks for. A secret that stays the same keeps its
    /// rotation; another one takes effect at once.
    #[must_use]
    pub fn into_changed(self, stored: &Destination, now: Timestamp) -> Destination {
        let same_secret = self.draft.signing_secret == stored.signing.current;
        let same_state = self.draft.enabled == stored.state.is_routed_to();
        let mut changed = self.into_new(stored.id, stored.organization_id.clone(), now);
        if same_secret {
            changed.signing = stored.signing.clone();
        }
        if same_state {
            changed.state = stored.state.clone();
        }
        Destination { created_at: stored.created_at, revision: stored.revision, ..changed }
    }
}

/// The draft that would make the destination as it is.
#[must_use]
pub fn draft_of(stored: &Destination) -> DestinationDraft {
    DestinationDraft {
        display_name: stored.display_name.clone(),
        url: stored.url.as_str().to_owned(),
        contract: stored.contract,
        subscription: Some(stored.subscription.clone()),
        settings: stored.settings.clone(),
        signing_secret: stored.signing.current.clone(),
        http_auth: stored.http_auth.clone(),
        headers: stored.headers.clone(),
        enabled: stored.state.is_routed_to(),
    }
}

fn state_of(enabled: bool, now: Timestamp) -> DestinationState {
    let reason = DisabledReason::ByCaller;
    if enabled { DestinationState::Active } else { DestinationState::Disabled { since: now, reason } }
}

fn normal_headers(headers: Vec<Header>) -> Vec<Header> {
    let lower = |header: Header| Header { name: header.name.to_ascii_lowercase(), value: header.value };
    headers.into_iter().map(lower).collect()
}

/// One rule for the names of destinations and organizations.
pub(super) fn check_display_name(found: &mut Violations, name: &str) {
    let length = name.chars().count();
    if length > DISPLAY_NAME_MAX_CHARS {
        let limit = DISPLAY_NAME_MAX_CHARS;
        found.add_as(
            Rule::TooLong,
            "display_name",
            format!("has {length} characters; at most {limit} are allowed"),
        );
        found.with("limit", limit).with("actual", length);
    }
    if name.chars().any(char::is_control) {
        found.add_as(Rule::Malformed, "display_name", "contains a control character; remove it");
    }
}

fn check_subscription(subscription: &Subscription, contract: Contract) -> Violations {
    let mut found = Violations::new();
    let listed = &subscription.event_types;
    if listed.len() > EVENT_TYPES_MAX {
        let length = listed.len();
        let problem = format!("has {length} types; at most {EVENT_TYPES_MAX} are allowed");
        found.add_as(Rule::TooLong, "event_types", problem);
        found.with("limit", EVENT_TYPES_MAX).with("actual", length);
    }
    check_operational(&mut found, subscription, contract);
    let nothing = listed.is_empty() && subscription.operational.is_empty();
    if subscription.policy == SubscriptionPolicy::Include && nothing {
        let problem = "is empty, so nothing would be delivered; include at least one type";
        found.add_as(Rule::SubscriptionEmpty, "event_types", problem);
    }
    if let Catalogue::Closed(known) = contract::catalogue(contract) {
        let names: BTreeSet<&str> = listed.iter().map(|listed| listed.as_str()).collect();
        for stranger in names.iter().filter(|name| !known.contains(name)) {
            let list = known.join(", ");
            let problem = format!("contains `{stranger}`, which {contract} does not have; use {list}");
            found.add_as(Rule::NotInCatalogue, "event_types", problem);
            found.with("event_type", stranger).with("known_event_types", known.join(","));
        }
        let nothing_left = known.iter().all(|name| names.contains(name));
        if subscription.policy == SubscriptionPolicy::Exclude && nothing_left {
            let problem = "excludes every type; at least one must stay: pause it instead";
            found.add_as(Rule::SubscriptionEmpty, "event_types", problem);
        }
    }
    if subscription.minimum_level.is_some() && !contract::has_levels(contract) {
        found.add_as(
            Rule::NotSupported,
            "minimum_level",
            format!("has no meaning: events of {contract} have no level; leave it out"),
        );
    }
    found
}

fn check_operational(found: &mut Violations, subscription: &Subscription, contract: Contract) {
    let field = "operational_event_types";
    if matches!(contract::catalogue(contract), Catalogue::Closed(_)) && !subscription.operational.is_empty() {
        let problem = format!("is not for {contract}, whose receivers were promised a closed catalogue");
        found.add_as(Rule::NotSupported, field, problem);
        return;
    }
    let known = OperationalEvent::TYPES;
    for stranger in subscription.operational.iter().filter(|one| !known.contains(&one.as_str())) {
        let problem = format!("contains `{stranger}`, which is none; use {}", known.join(", "));
        found.add_as(Rule::NotInCatalogue, field, problem);
        found.with("event_type", stranger).with("known_event_types", known.join(","));
    }
}

fn check_signing_secret(
    found: &mut Violations,
    secret: &SecretSource,
    contract: Contract,
    rules: DraftRules<'_>,
) {
    match secret {
        SecretSource::Value(value) => {
            let checked = contract::check_signing_secret(contract, value);
            found.check_as(Rule::SecretMalformed, "signing_secret", checked);
        }
        SecretSource::EnvironmentVariable(_) | SecretSource::File(_) => {
            found.check_as(Rule::SecretSourceNotAllowed, "signing_secret", (rules.secret_allowed)(secret));
        }
    }
}

fn check_http_auth(found: &mut Violations, http_auth: &HttpAuth, rules: DraftRules<'_>) {
    match http_auth {
        HttpAuth::Unauthenticated => {}
        HttpAuth::Basic { username, secret } => {
            found.check_as(Rule::Malformed, "http_auth.basic.username", check_username(username));
            let checked = check_credential(secret, no_control, rules);
            found.check_as(rule_of_secret(secret), "http_auth.basic.password", checked);
        }
        HttpAuth::Bearer { token } => {
            let checked = check_credential(token, visible_ascii, rules);
            found.check_as(rule_of_secret(token), "http_auth.bearer.token", checked);
        }
    }
}

const fn rule_of_secret(secret: &SecretSource) -> Rule {
    match secret {
        SecretSource::Value(_) => Rule::SecretMalformed,
        SecretSource::EnvironmentVariable(_) | SecretSource::File(_) => Rule::SecretSourceNotAllowed,
    }
}

/// The rule that a URL breaks, if it breaks one.
fn url_rule(text: &str) -> Rule {
    match url::Url::parse(text) {
        _ if text.is_empty() => Rule::Required,
        Ok(url) if url.scheme() != "https" => Rule::UrlScheme,
        Ok(_) | Err(_) => Rule::UrlMalformed,
    }
}

fn check_username(username: &str) -> Result<(), String> {
    let length = username.chars().count();
    if length == 0 || length > USERNAME_MAX_CHARS {
        return Err(format!("has {length} characters; give 1 to {USERNAME_MAX_CHARS}"));
    }
    if username.contains(|c: char| c == ':' || c.is_control()) {
        return Err("contains a colon or a control character; neither can be sent by HTTP Basic".into());
    }
    Ok(())
}

/// Nothing of the secret is repeated in a message.
fn check_credential(
    secret: &SecretSource,
    rule: fn(&str) -> Result<(), &'static str>,
    rules: DraftRules<'_>,
) -> Result<(), String> {
    let SecretSource::Value(value) = secret else { return (rules.secret_allowed)(secret) };
    let value = value.expose();
    match value.len() {
        0 => Err("is empty; give the secret".into()),
        length if length > SECRET_MAX_BYTES => {
            Err(format!("has {length} bytes; at most {SECRET_MAX_BYTES} are allowed"))
        }
        _ => rule(value).map_err(str::to_owned),
    }
}

fn no_control(text: &str) -> Result<(), &'static str> {
    if text.chars().any(char::is_control) { Err("contains a control character; remove it") } else { Ok(()) }
}

fn visible_ascii(text: &str) -> Result<(), &'static str> {
    if text.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(())
    } else {
        Err("contains something else than visible ASCII characters; remove it")
    }
}

fn check_headers(found: &mut Violations, headers: &[Header], contract: Contract) {
    if headers.len() > HEADERS_MAX {
        let length = headers.len();
        let problem = format!("has {length} headers; at most {HEADERS_MAX} are allowed");
        found.add_as(Rule::TooLong, "headers", problem);
        found.with("limit", HEADERS_MAX).with("actual", length);
    }
    let mut seen = BTreeSet::new();
    for (position, header) in headers.iter().enumerate() {
        let path = format!("headers[{position}]");
        let checked = contract::check_header(contract, &header.name, header.value.expose());
        if found.check_as(Rule::HeaderNotAllowed, &path, checked).is_none() {
            found.with("header", &header.name);
        }
        if !seen.insert(header.name.to_ascii_lowercase()) {
            let problem = "occurs twice, regardless of case; give each name once";
            found.add_as(Rule::HeaderNotAllowed, format!("{path}.name"), problem);
        }
    }
}

#[cfg(test)]
#[path = "destination_draft_tests.rs"]
mod tests;

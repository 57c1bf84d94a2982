//! Changes to a destination, path by path: what a caller names changes, everything else stays. Pure.
//!
//! Secrets and header values that a caller can't read back may be left out of a change; they then keep
//! their stored values, unless requests would go to another host from now on.

use std::collections::BTreeSet;
use std::time::Duration;

use url::Url;

use crate::domain::contract::CloudEventsMode;
use crate::domain::destination::{DestinationDraft, Header};
use crate::domain::event::{EventType, Level};
use crate::domain::secret::{HttpAuth, Secret, SecretSource};
use crate::domain::settings::{DeliverySettings, Guarantee, RetryPolicy};
use crate::domain::subscription::{Subscription, SubscriptionPolicy};
use crate::domain::violation::{Rule, Violations};

/// What to change; `None` leaves a path as it is.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DestinationPatch {
    /// `display_name`.
    pub display_name: Option<String>,
    /// `url`.
    pub url: Option<String>,
    /// `subscription` and the paths below it.
    pub subscription: Option<SubscriptionChange>,
    /// The paths below `settings`.
    pub settings: SettingsPatch,
    /// `signing_secret`.
    pub signing_secret: SecretChange,
    /// `http_auth`.
    pub http_auth: Option<HttpAuthChange>,
    /// `headers`, as a whole.
    pub headers: Option<Vec<HeaderChange>>,
    /// `enabled`.
    pub enabled: Option<bool>,
}

/// What to change about the subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubscriptionChange {
    /// Back to the contract's default.
    Default,
    /// Another one.
    Replace(Subscription),
    /// Parts of it; `None` stays.
    Parts {
        /// `subscription.policy`.
        policy: Option<SubscriptionPolicy>,
        /// `subscription.event_types`.
        event_types: Option<BTreeSet<EventType>>,
        /// `subscription.minimum_level`.
        minimum_level: Option<Option<Level>>,
        /// `subscription.operational_event_types`.
        operational: Option<BTreeSet<EventType>>,
    },
}

/// What to change about the signing secret.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum SecretChange {
    /// Nothing.
    #[default]
    Untouched,
    /// Nothing, but there must be one.
    Stored,
    /// No signatures any more.
    Remove,
    /// Another secret, at once.
    Set(SecretSource),
}

/// What to change about the authentication of requests; a secret of `None` is the stored one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HttpAuthChange {
    /// See [`HttpAuth::Unauthenticated`].
    Unauthenticated,
    /// See [`HttpAuth::Basic`].
    Basic {
        /// The user name.
        username: String,
        /// The password.
        secret: Option<SecretSource>,
    },
    /// See [`HttpAuth::Bearer`].
    Bearer {
        /// The token.
        token: Option<SecretSource>,
    },
}

/// A header as a caller wants it to be; a value of `None` is the stored one of that name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderChange {
    /// The name, in any case.
    pub name: String,
    /// The value.
    pub value: Option<Secret>,
}

/// What to change about the settings: `None` stays, `Some(None)` returns to the contract's default.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SettingsPatch {
    /// `settings.timeout`.
    pub timeout: Option<Option<Duration>>,
    /// `settings.retry_policy`.
    pub retry: Option<Option<RetryPolicy>>,
    /// `settings.throttle`.
    pub throttle: Option<Option<Duration>>,
    /// `settings.max_batch_events`.
    pub max_batch_events: Option<Option<u32>>,
    /// `settings.max_batch_bytes`.
    pub max_batch_bytes: Option<Option<u32>>,
    /// `settings.discard_after`.
    pub discard_after: Option<Option<Duration>>,
    /// `settings.lossy`.
    pub lossy: Option<Option<bool>>,
    /// `settings.guarantee`.
    pub guarantee: Option<Option<Guarantee>>,
    /// `settings.ordered`.
    pub ordered: Option<Option<bool>>,
    /// `settings.max_concurrency`.
    pub max_concurrency: Option<Option<u32>>,
    /// `settings.allow_invalid_certificates`.
    pub allow_invalid_certificates: Option<Option<bool>>,
    /// `settings.cloud_events_mode`.
    pub cloudevents_mode: Option<Option<CloudEventsMode>>,
    /// `settings.cloud_events_source`.
    pub cloudevents_source: Option<Option<String>>,
    /// `settings.disable_after`.
    pub disable_after: Option<Option<Duration>>,
    /// `settings.disable_on_gone`.
    pub disable_on_gone: Option<Option<bool>>,
    /// `settings.keep_response_bodies`.
    pub keep_response_bodies: Option<Option<bool>>,
}

impl SettingsPatch {
    /// The change of `settings` as a whole.
    #[must_use]
    pub fn replace(settings: DeliverySettings) -> Self {
        Self {
            timeout: Some(settings.timeout),
            retry: Some(settings.retry),
            throttle: Some(settings.throttle),
            max_batch_events: Some(settings.max_batch_events),
            max_batch_bytes: Some(settings.max_batch_bytes),
            discard_after: Some(settings.discard_after),
            lossy: Some(settings.lossy),
            guarantee: Some(settings.guarantee),
            ordered: Some(settings.ordered),
            max_concurrency: Some(settings.max_concurrency),
            allow_invalid_certificates: Some(settings.allow_invalid_certificates),
            cloudevents_mode: Some(settings.cloudevents_mode),
            cloudevents_source: Some(settings.cloudevents_source),
            disable_after: Some(settings.disable_after),
            disable_on_gone: Some(settings.disable_on_gone),
            keep_response_bodies: Some(settings.keep_response_bodies),
        }
    }

    fn apply(self, old: DeliverySettings) -> DeliverySettings {
        DeliverySettings {
            timeout: self.timeout.unwrap_or(old.timeout),
            retry: self.retry.unwrap_or(old.retry),
            throttle: self.throttle.unwrap_or(old.throttle),
            max_batch_events: self.max_batch_events.unwrap_or(old.max_batch_events),
            max_batch_bytes: self.max_batch_bytes.unwrap_or(old.max_batch_bytes),
            discard_after: self.discard_after.unwrap_or(old.discard_after),
            lossy: self.lossy.unwrap_or(old.lossy),
            guarantee: self.guarantee.unwrap_or(old.guarantee),
            ordered: self.ordered.unwrap_or(old.ordered),
            max_concurrency: self.max_concurrency.unwrap_or(old.max_concurrency),
            allow_invalid_certificates: self
                .allow_invalid_certificates
                .unwrap_or(old.allow_invalid_certificates),
            cloudevents_mode: self.cloudevents_mode.unwrap_or(old.cloudevents_mode),
            cloudevents_source: self.cloudevents_source.unwrap_or(old.cloudevents_source),
            disable_after: self.disable_after.unwrap_or(old.disable_after),
            disable_on_gone: self.disable_on_gone.unwrap_or(old.disable_on_gone),
            keep_response_bodies: self.keep_response_bodies.unwrap_or(old.keep_response_bodies),
        }
    }
}

impl DestinationPatch {
    /// The draft, changed; it is yet to be checked.
    ///
    /// # Errors
    /// Each secret or header value that was left out and is not stored, or must be given again because
    /// the requests would go to somebody who has not got it yet.
    pub fn apply(self, old: DestinationDraft) -> Result<DestinationDraft, Violations> {
        let mut found = Violations::new();
        let url = self.url.unwrap_or_else(|| old.url.clone());
        let moved = is_elsewhere(&old.url, &url);
        let http_auth = apply_http_auth(&mut found, self.http_auth, old.http_auth, moved);
        let headers = apply_headers(&mut found, self.headers, old.headers, moved);
        let draft = DestinationDraft {
            display_name: self.display_name.unwrap_or(old.display_name),
            url,
            contract: old.contract,
            subscription: apply_subscription(self.subscription, old.subscription),
            settings: self.settings.apply(old.settings),
            signing_secret: apply_secret(&mut found, self.signing_secret, old.signing_secret),
            http_auth,
            headers,
            enabled: self.enabled.unwrap_or(old.enabled),
        };
        found.into_result(draft)
    }
}

/// Whether requests would go to another scheme, host or port.
fn is_elsewhere(old: &str, new: &str) -> bool {
    match (Url::parse(old), Url::parse(new)) {
        (Ok(old), Ok(new)) => old.origin() != new.origin(),
        // One of them is refused anyway, or there was none.
        _ => false,
    }
}

fn apply_subscription(change: Option<SubscriptionChange>, old: Option<Subscription>) -> Option<Subscription> {
    match change {
        None => old,
        Some(SubscriptionChange::Default) => None,
        Some(SubscriptionChange::Replace(subscription)) => Some(subscription),
        Some(SubscriptionChange::Parts { policy, event_types, minimum_level, operational }) => {
            let old = old.unwrap_or_default();
            Some(Subscription {
                policy: policy.unwrap_or(old.policy),
                event_types: event_types.unwrap_or(old.event_types),
                minimum_level: minimum_level.unwrap_or(old.minimum_level),
                operational: operational.unwrap_or(old.operational),
            })
        }
    }
}

fn apply_secret(
    found: &mut Violations,
    change: SecretChange,
    old: Option<SecretSource>,
) -> Option<SecretSource> {
    match change {
        SecretChange::Untouched => old,
        SecretChange::Remove => None,
        SecretChange::Set(source) => Some(source),
        SecretChange::Stored => {
            if old.is_none() {
                found.add("signing_secret", "is left out, and none is stored; give the secret");
            }
            old
        }
    }
}

const GIVE_AGAIN: &str =
    "keeps stored secrets, but the URL now leads to another host; give them again or remove them";

fn apply_http_auth(
    found: &mut Violations,
    change: Option<HttpAuthChange>,
    old: HttpAuth,
    moved: bool,
) -> HttpAuth {
    let Some(change) = change else {
        if moved && old != HttpAuth::Unauthenticated {
            found.add_as(Rule::CredentialsNeededAgain, "http_auth", GIVE_AGAIN);
        }
        return old;
    };
    let (field, kept) = match (change, &old) {
        (HttpAuthChange::Unauthenticated, _) => return HttpAuth::Unauthenticated,
        (HttpAuthChange::Basic { username, secret: Some(secret) }, _) => {
            return HttpAuth::Basic { username, secret };
        }
        (HttpAuthChange::Bearer { token: Some(token) }, _) => return HttpAuth::Bearer { token },
        (HttpAuthChange::Basic { username, secret: None }, HttpAuth::Basic { secret, .. }) => {
            ("http_auth.basic.password", Some(HttpAuth::Basic { username, secret: secret.clone() }))
        }
        (HttpAuthChange::Bearer { token: None }, HttpAuth::Bearer { token }) => {
            ("http_auth.bearer.token", Some(HttpAuth::Bearer { token: token.clone() }))
        }
        (HttpAuthChange::Basic { secret: None, .. }, _) => ("http_auth.basic.password", None),
        (HttpAuthChange::Bearer { token: None }, _) => ("http_auth.bearer.token", None),
    };
    match kept {
        None => found.add(field, "is left out, and none is stored; give the secret"),
        Some(_) if moved => found.add_as(Rule::CredentialsNeededAgain, "http_auth", GIVE_AGAIN),
        Some(_) => {}
    }
    kept.unwrap_or(old)
}

fn apply_headers(
    found: &mut Violations,
    change: Option<Vec<HeaderChange>>,
    old: Vec<Header>,
    moved: bool,
) -> Vec<Header> {
    let Some(changes) = change else {
        if moved && !old.is_empty() {
            found.add_as(Rule::CredentialsNeededAgain, "headers", GIVE_AGAIN);
        }
        return old;
    };
    let mut headers = Vec::with_capacity(changes.len());
    for (position, HeaderChange { name, value }) in changes.into_iter().enumerate() {
        let kept = value.is_none();
        let stored = || old.iter().find(|header| header.name.eq_ignore_ascii_case(&name));
        match value.or_else(|| stored().map(|header| header.value.clone())) {
            None => found.add(
                format!("headers[{position}].value"),
                "is left out, and no header of this name is stored; give the value",
            ),
            Some(_) if kept && moved => {
                let field = format!("headers[{position}].value");
                found.add_as(Rule::CredentialsNeededAgain, field, GIVE_AGAIN);
            }
            Some(value) => headers.push(Header { name, value }),
        }
    }
    headers
}

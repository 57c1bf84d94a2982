//! What the audit log says of destinations and organizations: their fields by the API's paths, with secrets
//! and header values hidden, and how two states of one differ. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};

use super::audit::{AuditChange, Fields};
use super::contract::CloudEventsMode;
use super::destination::{Destination, DestinationState};
use super::event::EventType;
use super::organization::Organization;
use super::secret::{HttpAuth, Secret, SecretSource};
use super::settings::{DeliverySettings, Guarantee, RetryPolicy, RetrySchedule};
use super::subscription::{Subscription, SubscriptionPolicy};

/// How many items of a list are shown.
const ITEMS_SHOWN: usize = 100;

/// A field of something.
#[derive(Debug, Clone, PartialEq)]
enum Fact {
    /// Anybody who may read the log may see it.
    Shown(Value),
    /// Only that it is there, and whether it changed.
    Hidden(Secret),
}

/// The fields of something that are not at their default, by path.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Facts(BTreeMap<String, Fact>);

impl Facts {
    fn show(&mut self, path: &str, value: impl Into<Value>) {
        self.0.insert(path.to_owned(), Fact::Shown(value.into()));
    }

    fn show_some(&mut self, path: &str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.show(path, value);
        }
    }

    fn secret(&mut self, path: &str, source: &SecretSource) {
        let fact = match source {
            SecretSource::Value(secret) => Fact::Hidden(secret.clone()),
            SecretSource::EnvironmentVariable(name) => Fact::Shown(json!({ "environmentVariable": name })),
            SecretSource::File(path) => Fact::Shown(json!({ "file": path.display().to_string() })),
        };
        self.0.insert(path.to_owned(), fact);
    }
}

/// What became of something: created where there is nothing before, deleted where there is nothing after.
#[must_use]
pub fn change(before: Option<&Facts>, after: Option<&Facts>) -> AuditChange {
    let none = Facts::default();
    let (old, new) = (&before.unwrap_or(&none).0, &after.unwrap_or(&none).0);
    let paths: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let changed: Vec<&String> = paths.into_iter().filter(|path| old.get(*path) != new.get(*path)).collect();
    let fields = |facts: &BTreeMap<String, Fact>, other: &BTreeMap<String, Fact>, hidden: &str| -> Fields {
        let shown = changed.iter().filter_map(|path| {
            let value = match facts.get(*path)? {
                Fact::Shown(value) => value.clone(),
                Fact::Hidden(_) if other.contains_key(*path) => hidden.into(),
                Fact::Hidden(_) => "set".into(),
            };
            Some(((*path).clone(), value))
        });
        shown.collect()
    };
    AuditChange {
        before: before.map(|_| fields(old, new, "set")),
        after: after.map(|_| fields(new, old, "changed")),
        changed_fields: changed.into_iter().cloned().collect(),
    }
}

/// What is said of an organization.
#[must_use]
pub fn of_organization(organization: &Organization) -> Facts {
    let mut facts = Facts::default();
    show_text(&mut facts, "display_name", &organization.display_name);
    show_text(&mut facts, "plan", &organization.plan);
    facts
}

/// What is said of a destination.
#[must_use]
pub fn of_destination(destination: &Destination) -> Facts {
    let mut facts = Facts::default();
    show_text(&mut facts, "display_name", &destination.display_name);
    facts.show("url", destination.url.to_string());
    facts.show("contract", destination.contract.to_string());
    facts.show("state", state(&destination.state));
    add_subscription(&mut facts, &destination.subscription);
    add_settings(&mut facts, &destination.settings);
    if let Some(current) = &destination.signing.current {
        facts.secret("signing_secret", current);
    }
    if let Some(retiring) = &destination.signing.retiring {
        facts.show("secret_summary.rotation_end_time", retiring.until.to_rfc3339_millis());
    }
    match &destination.http_auth {
        HttpAuth::Unauthenticated => {}
        HttpAuth::Basic { username, secret } => {
            facts.show("http_auth.basic.username", username.as_str());
            facts.secret("http_auth.basic.password", secret);
        }
        HttpAuth::Bearer { token } => facts.secret("http_auth.bearer.token", token),
    }
    for (position, header) in destination.headers.iter().enumerate() {
        let earlier = destination.headers.iter().take(position);
        let same = earlier.filter(|earlier| earlier.name == header.name).count();
        let again = if same == 0 { String::new() } else { format!("#{}", same + 1) };
        facts.0.insert(format!("headers.{}{again}", header.name), Fact::Hidden(header.value.clone()));
    }
    facts
}

fn show_text(facts: &mut Facts, path: &str, text: &str) {
    facts.show_some(path, Some(text).filter(|text| !text.is_empty()));
}

fn state(state: &DestinationState) -> String {
    match state {
        DestinationState::Active => "active".into(),
        DestinationState::Paused { .. } => "paused".into(),
        DestinationState::Disabled { reason, .. } => format!("disabled: {}", reason.as_sentence()),
    }
}

fn add_subscription(facts: &mut Facts, subscription: &Subscription) {
    let policy = match subscription.policy {
        SubscriptionPolicy::Include => "include",
        SubscriptionPolicy::Exclude => "exclude",
    };
    facts.show("subscription.policy", policy);
    show_types(facts, "subscription.event_types", &subscription.event_types);
    show_types(facts, "subscription.operational_event_types", &subscription.operational);
    facts.show_some("subscription.minimum_level", subscription.minimum_level.map(|level| level.as_str()));
}

fn show_types(facts: &mut Facts, path: &str, types: &BTreeSet<EventType>) {
    if types.is_empty() {
        return;
    }
    let mut shown: Vec<String> = types.iter().take(ITEMS_SHOWN).map(|one| one.as_str().to_owned()).collect();
    if let Some(more) = types.len().checked_sub(ITEMS_SHOWN).filter(|more| *more > 0) {
        shown.push(format!("and {more} more"));
    }
    facts.show(path, shown);
}

fn add_settings(facts: &mut Facts, settings: &DeliverySettings) {
    facts.show_some("settings.timeout", settings.timeout.map(duration));
    facts.show_some("settings.retry_policy", settings.retry.as_ref().map(retry));
    facts.show_some("settings.throttle", settings.throttle.map(duration));
    facts.show_some("settings.max_batch_events", settings.max_batch_events);
    facts.show_some("settings.max_batch_bytes", settings.max_batch_bytes);
    facts.show_some("settings.discard_after", settings.discard_after.map(duration));
    facts.show_some("settings.lossy", settings.lossy);
    let guarantee = settings.guarantee.map(|guarantee| match guarantee {
        Guarantee::AtLeastOnce => "at least once",
        Guarantee::BestEffort => "best effort",
    });
    facts.show_some("settings.guarantee", guarantee);
    facts.show_some("settings.ordered", settings.ordered);
    facts.show_some("settings.max_concurrency", settings.max_concurrency);
    facts.show_some("settings.allow_invalid_certificates", settings.allow_invalid_certificates);
    let mode = settings.cloudevents_mode.map(|mode| match mode {
        CloudEventsMode::Structured => "structured",
        CloudEventsMode::Binary => "binary",
        CloudEventsMode::Batch => "batch",
    });
    facts.show_some("settings.cloud_events_mode", mode);
    facts.show_some("settings.cloud_events_source", settings.cloudevents_source.as_deref());
    facts.show_some("settings.disable_after", settings.disable_after.map(duration));
}

fn duration(duration: Duration) -> String {
    format!("{}s", duration.as_secs_f64())
}

fn retry(policy: &RetryPolicy) -> Value {
    let schedule = match &policy.schedule {
        RetrySchedule::Fixed(delays) => {
            let delays: Vec<String> = delays.iter().copied().map(duration).collect();
            json!({ "fixed": delays })
        }
        RetrySchedule::Exponential { base, factor, cap } => json!({
            "exponential": { "base": duration(*base), "factor": factor, "cap": duration(*cap) },
        }),
    };
    json!({
        "schedule": schedule,
        "maxAttempts": policy.max_attempts,
        "giveUpAfter": policy.give_up_after.map(duration),
        "jitter": policy.jitter,
        "finalStatuses": policy.final_statuses,
    })
}

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
    /// A part of it, and whether any of it changed.
    InPart(String, Secret),
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
                Fact::InPart(part, _) => part.clone().into(),
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
    facts.0.insert(
        "url".to_owned(),
        Fact::InPart(destination.url.redacted(), Secret::new(destination.url.as_str())),
    );
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
    facts.show_some("settings.disable_on_gone", settings.disable_on_gone);
    facts.show_some("settings.keep_response_bodies", settings.keep_response_bodies);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::destination::{DestinationUrl, Header};
    use crate::domain::event::Level;
    use crate::domain::id::{DestinationId, OrganizationId};
    use crate::domain::secret::{RetiringSecret, SigningSecrets};
    use crate::domain::time::Timestamp;

    fn plain() -> Destination {
        Destination {
            id: DestinationId::from_bytes([1; 16]),
            organization_id: OrganizationId::parse("acme").unwrap(),
            display_name: "name".into(),
            url: DestinationUrl::parse("https://example.com/", false).unwrap(),
            contract: crate::domain::contract::Contract::Workspace,
            subscription: Subscription::default(),
            settings: DeliverySettings::default(),
            signing: SigningSecrets::default(),
            http_auth: HttpAuth::Unauthenticated,
            headers: Vec::new(),
            state: DestinationState::Active,
            created_at: Timestamp::from_millis(0),
            updated_at: Timestamp::from_millis(0),
            revision: 1,
        }
    }

    fn value(text: &str) -> SecretSource {
        SecretSource::Value(Secret::new(text))
    }

    fn full(planted: &str) -> Destination {
        let retiring = Some(RetiringSecret { source: value(planted), until: Timestamp::from_millis(0) });
        let header = |name: &str| Header { name: name.into(), value: Secret::new(planted) };
        Destination {
            signing: SigningSecrets { current: Some(value(planted)), retiring },
            http_auth: HttpAuth::Basic { username: "user".into(), secret: value(planted) },
            headers: vec![header("x-a"), header("x-b"), header("x-a")],
            ..plain()
        }
    }

    fn between(before: Option<&Destination>, after: Option<&Destination>) -> AuditChange {
        let facts = |one: Option<&Destination>| one.map(of_destination);
        change(facts(before).as_ref(), facts(after).as_ref())
    }

    #[test]
    fn secrets_are_told_of_and_never_shown() {
        let (old, new) = (full("planted-old"), full("planted-new"));
        for (before, after) in [(None, Some(&new)), (Some(&old), Some(&new)), (Some(&old), None)] {
            let told = between(before, after);
            assert!(!format!("{told:?}").contains("planted"), "{told:?}");
            for path in ["signing_secret", "http_auth.basic.password", "headers.x-a", "headers.x-a#2"] {
                assert!(told.changed_fields.iter().any(|field| field == path), "{path}: {told:?}");
            }
        }
        let told = between(Some(&old), Some(&new));
        assert_eq!(told.before.unwrap()["signing_secret"], "set");
        assert_eq!(told.after.unwrap()["signing_secret"], "changed");
        let told = between(Some(&plain()), Some(&new));
        assert_eq!(told.after.unwrap()["headers.x-b"], "set");
        assert_eq!(
            between(Some(&old), Some(&old)),
            AuditChange { before: Some(Fields::new()), after: Some(Fields::new()), ..AuditChange::default() }
        );
    }

    #[test]
    fn only_what_changed_is_told_by_the_paths_of_the_api() {
        let mut changed = plain();
        changed.display_name = "new".into();
        changed.settings.timeout = Some(Duration::from_millis(1500));
        changed.subscription.minimum_level = Some(Level::Warn);
        changed.state = DestinationState::Paused { since: Timestamp::from_millis(9) };
        changed.signing.current = Some(SecretSource::EnvironmentVariable("KEY".into()));
        let told = between(Some(&plain()), Some(&changed));
        let paths =
            ["display_name", "settings.timeout", "signing_secret", "state", "subscription.minimum_level"];
        assert_eq!(told.changed_fields, paths);
        let (before, after) = (told.before.unwrap(), told.after.unwrap());
        assert_eq!(Value::Object(before), json!({ "display_name": "name", "state": "active" }));
        assert_eq!(
            Value::Object(after),
            json!({
                "display_name": "new", "settings.timeout": "1.5s", "state": "paused",
                "signing_secret": { "environmentVariable": "KEY" }, "subscription.minimum_level": "warn",
            })
        );
        let created = between(None, Some(&plain()));
        assert!(created.before.is_none() && created.changed_fields.contains(&"url".to_owned()));
    }

    #[test]
    fn of_a_long_list_the_beginning_is_shown() {
        let mut many = plain();
        let types = (0..1000).map(|number| EventType::parse(&format!("t{number:03}")).unwrap());
        many.subscription.event_types = types.collect();
        let told = between(Some(&plain()), Some(&many)).after.unwrap();
        let shown = told["subscription.event_types"].as_array().unwrap();
        assert_eq!((shown.len(), shown.last().unwrap()), (101, &json!("and 900 more")));
    }
}

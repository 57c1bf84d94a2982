use super::*;
use crate::control::destination_patch::{
    DestinationPatch, HeaderChange, HttpAuthChange, SecretChange, SettingsPatch, SubscriptionChange,
};
use crate::domain::event::{EventType, Level};
use crate::domain::secret::Secret;
use crate::domain::settings::DeliverySettings;
use std::time::Duration;

fn draft(contract: Contract) -> DestinationDraft {
    DestinationDraft::new(contract, "https://example.com/hook")
}

fn value(text: &str) -> SecretSource {
    SecretSource::Value(Secret::new(text))
}

fn header(name: &str, value: &str) -> Header {
    Header { name: name.into(), value: Secret::new(value) }
}

fn types(names: &[&str]) -> Subscription {
    Subscription::include(names.iter().map(|name| EventType::parse(name).unwrap()))
}

fn judge(draft: DestinationDraft) -> Result<CheckedDraft, Violations> {
    let secret_allowed = |_: &SecretSource| Err("is not allowed by the operator".to_owned());
    let rules = DraftRules {
        plain_http_contracts: &[Contract::Stalwart],
        secret_allowed: &secret_allowed,
        address_allowed: &|_| Ok(()),
    };
    check(draft, rules)
}

fn problems(draft: DestinationDraft) -> String {
    judge(draft).unwrap_err().to_string()
}

fn stored(draft: DestinationDraft) -> Destination {
    let id = DestinationId::from_bytes([1; 16]);
    let organization_id = OrganizationId::parse("org_a").unwrap();
    judge(draft).unwrap().into_new(id, organization_id, Timestamp::from_millis(5))
}

#[test]
fn every_violated_field_of_a_destination_is_named_at_once() {
    let mut bad = draft(Contract::Observer);
    bad.display_name = "x\n".into();
    bad.url = "http://example.com/".into();
    bad.subscription = Some(Subscription { minimum_level: Some(Level::Warn), ..types(&["nonsense"]) });
    bad.settings.timeout = Some(Duration::ZERO);
    bad.signing_secret = Some(SecretSource::EnvironmentVariable("HOME".into()));
    bad.http_auth = HttpAuth::Basic { username: "a:b".into(), secret: value("") };
    let violations = judge(bad).unwrap_err();
    let fields: Vec<&str> = violations.iter().map(|violation| violation.field.as_str()).collect();
    let expected = [
        "display_name",
        "url",
        "subscription.event_types",
        "subscription.minimum_level",
        "settings.timeout",
        "signing_secret",
        "http_auth.basic.username",
        "http_auth.basic.password",
    ];
    assert_eq!(fields, expected);
}

#[test]
fn an_unknown_type_of_a_closed_catalogue_is_refused_with_the_list() {
    let mut bad = draft(Contract::Observer);
    bad.subscription = Some(types(&["slo.burn_started", "slo.burned"]));
    let problems = problems(bad);
    assert!(problems.contains("`slo.burned`") && problems.contains("agent.offline"), "{problems}");
}

#[test]
fn a_subscription_must_leave_at_least_one_type() {
    let mut bad = draft(Contract::Stalwart);
    bad.subscription = Some(types(&[]));
    assert!(problems(bad).contains("subscription.event_types"));
    let Catalogue::Closed(known) = contract::catalogue(Contract::Semaphor) else { panic!("it is closed") };
    let mut bad = draft(Contract::Semaphor);
    bad.subscription = Some(Subscription { policy: SubscriptionPolicy::Exclude, ..types(known) });
    assert!(problems(bad).contains("at least one must stay"));
}

#[test]
fn plain_http_is_for_the_contracts_that_the_operator_names() {
    let mut plain = draft(Contract::Stalwart);
    plain.url = "http://example.com/".into();
    assert!(judge(plain).is_ok());
}

#[test]
fn a_header_may_occur_once_in_any_case_and_there_are_at_most_32() {
    let mut bad = draft(Contract::Observer);
    bad.headers = vec![header("X-One", "1"), header("x-one", "2")];
    assert!(problems(bad).contains("headers[1].name"));
    let mut many = draft(Contract::Observer);
    many.headers = (0..33).map(|number| header(&format!("x-{number}"), "v")).collect();
    assert!(problems(many).contains("at most 32"));
}

#[test]
fn a_message_about_a_secret_repeats_nothing_of_it() {
    let mut bad = draft(Contract::Observer);
    bad.http_auth = HttpAuth::Bearer { token: value("planted secret") };
    let problems = problems(bad);
    assert!(problems.contains("visible ASCII") && !problems.contains("planted"), "{problems}");
}

#[test]
fn a_change_touches_what_it_names_and_nothing_else() {
    let mut old = draft(Contract::Stalwart);
    old.settings.timeout = Some(Duration::from_secs(5));
    old.settings.throttle = Some(Duration::from_secs(2));
    old.headers = vec![header("X-One", "1")];
    let patch = DestinationPatch {
        display_name: Some("new".into()),
        settings: SettingsPatch { timeout: Some(None), ..SettingsPatch::default() },
        subscription: Some(SubscriptionChange::Replace(types(&["auth.success"]))),
        headers: Some(vec![HeaderChange { name: "x-one".into(), value: None }]),
        ..DestinationPatch::default()
    };
    let new = patch.apply(old.clone()).unwrap();
    assert_eq!((new.display_name.as_str(), new.settings.timeout), ("new", None));
    assert_eq!(new.settings.throttle, old.settings.throttle);
    assert_eq!(new.headers[0].value, old.headers[0].value);
    assert_eq!(DestinationPatch::default().apply(old.clone()).unwrap(), old);
}

#[test]
fn a_change_of_settings_as_a_whole_returns_what_it_leaves_out_to_the_default() {
    let mut old = draft(Contract::Stalwart);
    old.settings.throttle = Some(Duration::from_secs(2));
    let settings = SettingsPatch::replace(DeliverySettings::default());
    let patch = DestinationPatch { settings, ..DestinationPatch::default() };
    assert_eq!(patch.apply(old).unwrap().settings, DeliverySettings::default());
}

#[test]
fn stored_credentials_never_follow_the_url_to_another_host() {
    let mut old = draft(Contract::Observer);
    old.http_auth = HttpAuth::Bearer { token: value("token") };
    old.headers = vec![header("x-key", "1")];
    let to = |url: &str| DestinationPatch { url: Some(url.into()), ..DestinationPatch::default() };
    assert!(to("https://example.com/other").apply(old.clone()).is_ok());
    let problems = to("https://example.org/hook").apply(old.clone()).unwrap_err().to_string();
    assert!(problems.contains("http_auth") && problems.contains("headers"), "{problems}");
    let again = DestinationPatch {
        http_auth: Some(HttpAuthChange::Bearer { token: Some(value("token")) }),
        headers: Some(Vec::new()),
        ..to("https://example.org/hook")
    };
    assert!(again.apply(old).is_ok());
}

#[test]
fn a_secret_that_is_left_out_must_be_stored() {
    let patch = DestinationPatch {
        signing_secret: SecretChange::Stored,
        http_auth: Some(HttpAuthChange::Bearer { token: None }),
        headers: Some(vec![HeaderChange { name: "x-key".into(), value: None }]),
        ..DestinationPatch::default()
    };
    let violations = patch.apply(draft(Contract::Observer)).unwrap_err();
    let fields: Vec<&str> = violations.iter().map(|violation| violation.field.as_str()).collect();
    assert_eq!(fields, ["http_auth.bearer.token", "headers[0].value", "signing_secret"]);
}

#[test]
fn a_change_keeps_state_and_rotation_unless_it_is_about_them() {
    let mut first = draft(Contract::Observer);
    first.signing_secret = Some(value("one"));
    let mut before = stored(first);
    let since = Timestamp::from_millis(6);
    before.state = DestinationState::Disabled { since, reason: DisabledReason::Gone };
    before.signing.retiring =
        Some(crate::domain::secret::RetiringSecret { source: value("zero"), until: since });
    before.revision = 4;
    let now = Timestamp::from_millis(9);
    let same = judge(draft_of(&before)).unwrap().into_changed(&before, now);
    assert_eq!(same, Destination { updated_at: now, ..before.clone() });
    let mut other = draft_of(&before);
    other.signing_secret = Some(value("two"));
    other.enabled = true;
    let changed = judge(other).unwrap().into_changed(&before, now);
    assert_eq!((changed.state, changed.signing.retiring), (DestinationState::Active, None));
}

use std::sync::Arc;

use super::*;
use crate::domain::destination::{DestinationHealth, DestinationUrl};
use crate::domain::id::{DestinationId, OrganizationId};
use crate::domain::secret::{Secret, SigningSecrets};
use crate::domain::settings::DeliverySettings;
use crate::domain::subscription::Subscription;
use crate::grpc::proto::v1::http_auth::Method;
use crate::grpc::proto::v1::secret_ref::Source;

fn form() -> v1::Destination {
    let secret = |text: &str| Some(v1::SecretRef { source: Some(Source::Value(text.to_owned())) });
    v1::Destination {
        display_name: "shop".into(),
        url: "https://example.com/hooks".into(),
        contract: v1::Contract::Workspace.into(),
        signing_secret: secret("planted-signing"),
        http_auth: Some(v1::HttpAuth {
            method: Some(Method::Bearer(v1::BearerAuth { token: secret("planted-token") })),
        }),
        headers: vec![v1::Header { name: "X-Key".into(), value: Some("planted-header".into()) }],
        ..v1::Destination::default()
    }
}

fn view(state: DestinationState) -> DestinationView {
    let planted = || SecretSource::Value(Secret::new("planted"));
    let at = Timestamp::from_millis(1_700_000_000_000);
    let destination = Destination {
        id: DestinationId::make(at, [7; 10]),
        organization_id: OrganizationId::parse("org_a").unwrap(),
        display_name: "shop".into(),
        url: DestinationUrl::parse("https://example.com/hooks", false).unwrap(),
        contract: Contract::Workspace,
        subscription: Subscription::default(),
        settings: DeliverySettings::default(),
        signing: SigningSecrets { current: Some(planted()), retiring: None },
        http_auth: HttpAuth::Bearer { token: planted() },
        headers: vec![Header { name: "x-key".into(), value: Secret::new("planted") }],
        state,
        created_at: at,
        updated_at: at,
        revision: 7,
    };
    DestinationView {
        policy: contract::defaults(destination.contract),
        destination: Arc::new(destination),
        health: DestinationHealth::default(),
        lane: Default::default(),
        backlog: None,
    }
}

#[test]
fn a_form_becomes_a_draft_with_its_secrets() {
    let mut found = Violations::new();
    let draft = read_draft(form(), &mut found).unwrap();
    assert!(found.is_empty(), "{found}");
    assert_eq!((draft.contract, draft.enabled, draft.subscription), (Contract::Workspace, true, None));
    assert_eq!(draft.signing_secret, Some(SecretSource::Value(Secret::new("planted-signing"))));
    assert_eq!(draft.headers[0].value, Secret::new("planted-header"));
    let token = SecretSource::Value(Secret::new("planted-token"));
    assert_eq!(draft.http_auth, HttpAuth::Bearer { token });
}

#[test]
fn every_field_that_cannot_be_read_is_named_at_once() {
    let mut bad = form();
    bad.contract = 0;
    bad.http_auth = Some(v1::HttpAuth { method: Some(Method::Bearer(v1::BearerAuth { token: None })) });
    bad.headers.push(v1::Header { name: "X-Other".into(), value: None });
    bad.subscription = Some(v1::Subscription { event_types: vec!["a b".into()], ..Default::default() });
    bad.settings = Some(v1::DeliverySettings { max_concurrency: Some(-1), ..Default::default() });
    let mut found = Violations::new();
    assert_eq!(read_draft(bad, &mut found), None);
    let fields: Vec<&str> = found.iter().map(|violation| violation.field.as_str()).collect();
    let expected = [
        "contract",
        "subscription.event_types[0]",
        "settings.max_concurrency",
        "http_auth.bearer.token",
        "headers[1].value",
    ];
    assert_eq!(fields, expected.map(|field| format!("destination.{field}")));
}

#[test]
fn a_destination_is_written_with_its_policy_and_without_its_secrets() {
    let written = write_destination(&view(DestinationState::Active));
    assert!(!format!("{written:?}").contains("planted"), "{written:?}");
    assert_eq!((written.etag.as_str(), written.enabled), ("\"7\"", Some(true)));
    let policy = written.effective_policy.unwrap();
    assert_eq!(policy.subscription.unwrap().event_types.len(), 6);
    assert_eq!((policy.retry_delays.len(), policy.signed), (3, true));
    assert_eq!(written.signing_secret_summary.unwrap().source(), v1::SecretSource::Value);
}

#[test]
fn each_state_is_written_with_its_reason() {
    let since = Timestamp::from_millis(1000);
    for (state, expected, reason) in [
        (DestinationState::Paused { since }, v1::DestinationState::Paused, v1::DisabledReason::Unspecified),
        (
            DestinationState::Disabled { since, reason: DisabledReason::Gone },
            v1::DestinationState::Disabled,
            v1::DisabledReason::Gone,
        ),
    ] {
        let written = write_destination(&view(state));
        assert_eq!((written.state(), written.disabled_reason()), (expected, reason));
        assert_eq!(written.state_time.unwrap().seconds, 1);
    }
}

#[test]
fn an_etag_is_read_as_it_was_written() {
    let mut found = Violations::new();
    assert_eq!(read_etag(&etag(7), "etag", &mut found), Some(7));
    assert_eq!(read_etag("", "etag", &mut found), None);
    assert!(found.is_empty());
    assert_eq!(read_etag("7", "etag", &mut found), None);
    assert!(found.to_string().contains("quotes"));
}

#[test]
fn the_circuit_and_the_concurrency_are_read_back() {
    let mut view = view(DestinationState::Active);
    let health = write_health(&view);
    assert_eq!((health.circuit_state(), health.next_probe_time), (v1::CircuitState::Closed, None));
    assert_eq!(health.current_concurrency, 2, "what a lane would begin with");
    let probe_at = Timestamp::from_millis(5000);
    view.lane.circuit = CircuitState::Open;
    view.lane.next_probe_at = Some(probe_at);
    view.lane.concurrency = 1;
    let health = write_health(&view);
    assert_eq!(health.circuit_state(), v1::CircuitState::Open);
    assert_eq!(health.next_probe_time, Some(write_timestamp(probe_at)));
    assert_eq!(health.current_concurrency, 1);
    view.lane.circuit = CircuitState::HalfOpen;
    assert_eq!(write_health(&view).circuit_state(), v1::CircuitState::HalfOpen);
}

//! Destinations: what may be created and changed, what reads back, and what never comes out.

use http::StatusCode;
use signalpost::domain::contract::Contract;
use signalpost::grpc::proto::v1;
use signalpost::grpc::proto::v1::secret_ref::Source;
use tonic::Code;

use crate::harness::{
    ORGANIZATION, Receiver, Refusal, Server, destination, event, eventually, genuine, header, millis,
    number_of,
};

/// The object of seed 001, "Example", to the byte.
const STALWART_OBJECT: &str = include_str!("../golden/stalwart/destination.json");

async fn import(server: &Server, json: &str, destination_id: &str) -> Result<v1::Destination, Refusal> {
    let request = v1::ImportDestinationRequest {
        organization_id: ORGANIZATION.into(),
        json_document: json.as_bytes().to_vec().into(),
        destination_id: destination_id.into(),
        ..v1::ImportDestinationRequest::default()
    };
    Ok(server.destinations().import_destination(request).await?.into_inner().destination.unwrap())
}

async fn export(server: &Server, destination_id: &str) -> Result<v1::ExportDestinationResponse, Refusal> {
    let request = v1::ExportDestinationRequest {
        organization_id: ORGANIZATION.into(),
        destination_id: destination_id.into(),
    };
    Ok(server.destinations().export_destination(request).await?.into_inner())
}

async fn delete(server: &Server, destination_id: &str, etag: &str) -> Result<(), Refusal> {
    let request = v1::DeleteDestinationRequest {
        organization_id: ORGANIZATION.into(),
        destination_id: destination_id.into(),
        etag: etag.into(),
    };
    server.destinations().delete_destination(request).await?;
    Ok(())
}

#[tokio::test]
async fn a_created_destination_reads_back_with_its_contracts_promises() {
    let server = Server::start().await;
    let created =
        server.create(destination(Contract::Workspace).name("Ops").url("https://example.com/x")).await;
    assert!(created.destination_id.starts_with("dest_") && !created.etag.is_empty());
    assert_eq!((created.display_name.as_str(), created.url.as_str()), ("Ops", "https://example.com/x"));
    assert_eq!((created.state(), created.enabled), (v1::DestinationState::Active, Some(true)));
    assert_eq!(created.create_time, created.update_time);
    let health = created.health.clone().unwrap();
    assert_eq!(health.reachability(), v1::Reachability::Unconfirmed);
    assert_eq!((health.last_error.as_str(), health.last_failure_time), ("", None));

    let policy = created.effective_policy.clone().unwrap();
    let minutes = |minutes: i64| millis(minutes * 60_000);
    assert_eq!(policy.retry_delays, [minutes(1), minutes(5), minutes(15)]);
    assert_eq!(policy.overridden_fields, Vec::<String>::new());
    let settings = policy.settings.unwrap();
    assert_eq!(settings.timeout, Some(millis(15_000)));
    assert_eq!(settings.guarantee(), v1::Guarantee::AtLeastOnce);
    let subscription = policy.subscription.unwrap();
    assert_eq!(subscription.policy(), v1::SubscriptionPolicy::Include);
    assert_eq!(subscription.event_types.len(), 6);
    assert_eq!(server.get(&created.destination_id).await, created);
}

#[tokio::test]
async fn every_contracts_defaults_are_those_of_its_document() {
    let server = Server::start().await;
    let request = v1::ListContractsRequest::default();
    let contracts = server.destinations().list_contracts(request).await.unwrap().into_inner().contracts;
    let says = |contract: Contract| {
        let info = contracts.iter().find(|info| info.contract == number_of(contract)).unwrap();
        let defaults = info.defaults.clone().unwrap();
        let settings = defaults.settings.unwrap();
        let retry = settings.retry_policy.clone().unwrap();
        (settings.timeout.unwrap().seconds, retry.max_attempts, defaults.retry_delays, settings)
    };
    let seconds = |list: &[i64]| list.iter().map(|one| millis(one * 1000)).collect::<Vec<_>>();
    let (timeout, attempts, delays, settings) = says(Contract::Semaphor);
    assert_eq!((timeout, attempts, delays), (10, Some(2), vec![millis(250)]));
    assert_eq!(settings.guarantee(), v1::Guarantee::BestEffort);
    let (timeout, attempts, _, settings) = says(Contract::Stalwart);
    assert_eq!((timeout, attempts, settings.discard_after), (30, None, Some(millis(300_000))));
    assert_eq!((settings.throttle, settings.max_batch_events), (Some(millis(1000)), Some(100)));
    let (timeout, _, delays, _) = says(Contract::Workspace);
    assert_eq!((timeout, delays), (15, seconds(&[60, 300, 900])));
    let (timeout, attempts, delays, _) = says(Contract::Observer);
    assert_eq!((timeout, attempts), (10, Some(8)));
    assert_eq!(delays, seconds(&[5, 20, 80, 320, 1280, 3600, 3600]));
    for contract in [Contract::StandardWebhooks, Contract::CloudEvents] {
        let (timeout, _, delays, _) = says(contract);
        assert_eq!(timeout, 20);
        let hours = |hours: i64| hours * 3600;
        let schedule = [5, 300, 1800, hours(2), hours(5), hours(10), hours(14), hours(20), hours(24)];
        assert_eq!(delays, seconds(&schedule), "{contract}");
    }
    let types: Vec<usize> =
        contracts.iter().filter(|one| one.closed_catalogue).map(|one| one.event_types.len()).collect();
    assert_eq!((contracts.len(), types), (6, vec![9, 6, 6]));
}

#[tokio::test]
async fn every_mistake_of_a_destination_is_told_at_once_with_its_path_and_remedy() {
    let server = Server::start().await;
    let draft = destination(Contract::Observer)
        .name(&"x".repeat(64))
        .url("http://user:pw@example.com/hook#part")
        .include(&["metric.unknown"])
        .header("Content-Type", "text/plain")
        .header("X-Observer-Signature", "forged")
        .settings(|settings| {
            settings.timeout = Some(millis(600_000));
            settings.max_batch_events = Some(7);
            settings.max_concurrency = Some(100_000);
        });
    let refusal = server.try_create(draft).await.unwrap_err();
    assert_eq!(refusal.code, Code::InvalidArgument);
    let mut fields = refusal.fields();
    fields.sort_unstable();
    fields.dedup();
    assert_eq!(
        fields,
        [
            "destination.display_name",
            "destination.headers[0]",
            "destination.headers[1]",
            "destination.settings.max_batch_events",
            "destination.settings.max_concurrency",
            "destination.settings.timeout",
            "destination.subscription.event_types",
            "destination.url",
        ]
    );
    let types = refusal.about("destination.subscription.event_types");
    for known in ["metric.status_changed", "page.status_changed", "slo.burn_resolved", "agent.offline"] {
        assert!(types.contains(known), "{types}");
    }
    let listed = v1::ListDestinationsRequest { organization_id: ORGANIZATION.into(), ..Default::default() };
    let listed = server.destinations().list_destinations(listed).await.unwrap().into_inner();
    assert_eq!(listed.destinations, [], "nothing was written");
}

#[tokio::test]
async fn urls_that_are_no_safe_https_addresses_are_refused_with_the_reason() {
    let server = Server::start().await;
    let long = format!("https://example.com/{}", "x".repeat(2048));
    for (url, hint) in [
        ("", ""),
        ("example.com", ""),
        ("/path", ""),
        ("http://example.com/", "https"),
        ("ftp://example.com/", "https"),
        ("https://user:pw@example.com/", ""),
        ("https://user@example.com/", ""),
        ("https://example.com/#fragment", "fragment"),
        ("https:///", ""),
        ("https://example.com:0/", "port"),
        ("https://exa mple.com/", ""),
        (&long, "2048"),
    ] {
        let refusal = server.try_create(destination(Contract::Observer).url(url)).await.unwrap_err();
        assert_eq!(
            (refusal.code, refusal.fields()),
            (Code::InvalidArgument, vec!["destination.url"]),
            "{url}"
        );
        let said = refusal.about("destination.url");
        assert!(said.contains(hint), "{url}: {said}");
        assert!(!said.contains("pw"), "what may be a password is not repeated: {said}");
    }
}

#[tokio::test]
async fn plain_http_is_for_stalwart_where_the_operator_allows_it_and_for_nobody_else() {
    let mut server = Server::start().await;
    let receiver = Receiver::plain().await;
    let draft = |contract| destination(contract).url(receiver.url("/hook"));
    assert!(server.try_create(draft(Contract::Stalwart)).await.is_err());
    server.restart_with(&[("delivery.plain_http_contracts", r#"["STALWART"]"#)]).await;
    for contract in Contract::ALL.into_iter().filter(|one| *one != Contract::Stalwart) {
        assert!(server.try_create(draft(contract)).await.is_err(), "{contract}");
    }
    server.create(draft(Contract::Stalwart).settings(|settings| settings.throttle = Some(millis(0)))).await;
    server.emit(event("auth.success")).await;
    receiver.first("/hook").await;
}

#[tokio::test]
async fn at_least_one_type_must_stay_in_a_subscription() {
    let server = Server::start().await;
    let all = ["ingestion.completed", "ingestion.failed", "kpi.computed", "kpi.alert", "analysis.completed"];
    let draft = || destination(Contract::Workspace).url("https://example.com/");
    server.create(draft().exclude(&all)).await;
    let nothing_left = [&all[..], &["dashboard.ready"]].concat();
    for draft in [draft().exclude(&nothing_left), draft().include(&[])] {
        let refusal = server.try_create(draft).await.unwrap_err();
        assert_eq!(refusal.fields(), ["destination.subscription.event_types"], "{refusal:?}");
    }
}

#[tokio::test]
async fn validate_only_checks_everything_and_changes_nothing() {
    let server = Server::start().await;
    let draft = destination(Contract::Observer).url("https://example.com/");
    let request = v1::CreateDestinationRequest {
        organization_id: ORGANIZATION.into(),
        destination: Some(draft.clone().0),
        validate_only: true,
    };
    let would_be = server.destinations().create_destination(request).await.unwrap().into_inner();
    assert_eq!(would_be.destination.unwrap().destination_id, "");
    let created = server.create(draft).await;
    let request = v1::UpdateDestinationRequest {
        organization_id: ORGANIZATION.into(),
        destination: Some(v1::Destination { display_name: "new".into(), ..created.clone() }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["display_name".into()] }),
        validate_only: true,
    };
    let would_be = server.destinations().update_destination(request).await.unwrap().into_inner();
    assert_eq!(would_be.destination.unwrap().display_name, "new");
    assert_eq!(server.get(&created.destination_id).await, created);
}

#[tokio::test]
async fn a_list_is_paged_in_order_and_complete() {
    let server = Server::start().await;
    let mut created = Vec::new();
    for number in 0..7 {
        let draft = destination(Contract::Observer).url(format!("https://example.com/{number}"));
        created.push(server.create(draft).await.destination_id);
    }
    created.sort();
    let (mut listed, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = v1::ListDestinationsRequest {
            organization_id: ORGANIZATION.into(),
            page_size: 3,
            page_token,
            ..v1::ListDestinationsRequest::default()
        };
        let page = server.destinations().list_destinations(request).await.unwrap().into_inner();
        assert!(page.destinations.len() <= 3);
        listed.extend(page.destinations.into_iter().map(|one| one.destination_id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(listed, created);
}

#[tokio::test]
async fn an_update_changes_what_its_mask_names_and_nothing_else() {
    let server = Server::start().await;
    let draft = destination(Contract::Observer).name("old").url("https://example.com/").secret("s3cret");
    let draft = draft.header("X-Key", "value").settings(|settings| settings.timeout = Some(millis(3000)));
    let created = server.create(draft).await;
    let changed = v1::Destination {
        destination_id: created.destination_id.clone(),
        display_name: "new".into(),
        url: "https://ignored.example.com/".into(),
        settings: Some(v1::DeliverySettings { throttle: Some(millis(50)), ..Default::default() }),
        ..v1::Destination::default()
    };
    let updated = server.update(changed, &["display_name", "settings.throttle"]).await;
    let settings = updated.settings.clone().unwrap();
    assert_eq!((updated.display_name.as_str(), updated.url), ("new", created.url.clone()));
    assert_eq!((settings.timeout, settings.throttle), (Some(millis(3000)), Some(millis(50))));
    assert_eq!(updated.headers, created.headers);
    assert!(updated.effective_policy.unwrap().signed, "the secret stays where it is not named");
    assert_ne!(updated.etag, created.etag);
    // A path without a value returns to its default.
    let bare = v1::Destination { destination_id: created.destination_id.clone(), ..Default::default() };
    let reset = server.update(bare, &["settings"]).await;
    assert_eq!(reset.effective_policy.unwrap().overridden_fields, Vec::<String>::new());
}

#[tokio::test]
async fn masks_that_are_empty_or_name_what_cannot_be_changed_are_refused() {
    let server = Server::start().await;
    let created = server.create(destination(Contract::Observer).url("https://example.com/")).await;
    for paths in
        [&[][..], &["*"], &["contract"], &["health"], &["etag"], &["nonsense"], &["settings.nonsense"]]
    {
        let refusal = server.try_update(created.clone(), paths).await.unwrap_err();
        assert_eq!((refusal.code, refusal.reason.as_str()), (Code::InvalidArgument, "UPDATE_MASK_INVALID"));
        assert_eq!(refusal.fields(), ["update_mask"], "{paths:?}");
    }
    assert_eq!(server.get(&created.destination_id).await, created);
}

#[tokio::test]
async fn a_stale_etag_is_aborted_and_nothing_changes() {
    let server = Server::start().await;
    let created = server.create(destination(Contract::Observer).url("https://example.com/")).await;
    let renamed = |name: &str| v1::Destination { display_name: name.into(), ..created.clone() };
    let updated = server.update(renamed("first"), &["display_name"]).await;
    let refusal = server.try_update(renamed("second"), &["display_name"]).await.unwrap_err();
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::Aborted, "ETAG_MISMATCH"));
    assert_eq!(refusal.metadata.get("etag"), Some(&updated.etag));
    let refusal = delete(&server, &created.destination_id, &created.etag).await.unwrap_err();
    assert_eq!(refusal.code, Code::Aborted);
    assert_eq!(server.get(&created.destination_id).await, updated);
    delete(&server, &created.destination_id, &updated.etag).await.unwrap();
}

#[tokio::test]
async fn of_two_updates_with_the_same_etag_one_wins() {
    let server = Server::start().await;
    let created = server.create(destination(Contract::Observer).url("https://example.com/")).await;
    let renamed = |name: &str| v1::Destination { display_name: name.into(), ..created.clone() };
    let (one, other) = tokio::join!(
        server.try_update(renamed("one"), &["display_name"]),
        server.try_update(renamed("other"), &["display_name"]),
    );
    let refusal = match (one, other) {
        (Ok(_), Err(refusal)) | (Err(refusal), Ok(_)) => refusal,
        both => panic!("exactly one wins: {both:?}"),
    };
    assert_eq!(refusal.code, Code::Aborted);
}

#[tokio::test]
async fn a_deleted_destination_is_gone_and_gets_nothing_more() {
    let (mut server, receiver) = (Server::start().await, Receiver::start().await);
    let created = server.create(destination(Contract::Observer).url(receiver.url("/gone"))).await;
    server.pause(&created.destination_id).await;
    let event_id = server.emit(event("agent.offline")).await.event_id;
    delete(&server, &created.destination_id, "").await.unwrap();
    let id = created.destination_id.as_str();
    server.try_get(id).await.unwrap_err().assert_not_found("destination", id);
    delete(&server, id, "").await.unwrap_err().assert_not_found("destination", id);
    assert_eq!(server.emit(event("agent.offline")).await.delivery_count, 0);
    eventually("what waited has ended", async || {
        let left = server.deliveries_of(&event_id).await;
        left.iter().all(|one| one.state() != v1::DeliveryState::Waiting).then_some(())
    })
    .await;
    server.restart().await;
    server.try_get(id).await.unwrap_err().assert_not_found("destination", id);
    server.stop().await;
    assert_eq!(receiver.got("/gone").len(), 0);
}

#[tokio::test]
async fn pausing_keeps_and_resuming_sends_and_both_can_be_repeated() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    let created = server.create(destination(Contract::Observer).url(receiver.url("/hook"))).await;
    let id = created.destination_id.as_str();
    let paused = server.pause(id).await;
    assert_eq!((paused.state(), paused.enabled), (v1::DestinationState::Paused, Some(true)));
    assert!(paused.state_time.is_some());
    assert_eq!(server.pause(id).await.etag, paused.etag);
    let resumed = server.resume_destination(id).await;
    assert_eq!(resumed.state(), v1::DestinationState::Active);
    assert_eq!(server.resume_destination(id).await.etag, resumed.etag);
}

#[tokio::test]
async fn a_disabled_destination_gets_no_events_until_it_is_resumed() {
    let server = Server::start().await;
    let draft = destination(Contract::Observer).url("https://example.com/");
    let created = server.create(draft.with(|one| one.enabled = Some(false))).await;
    assert_eq!((created.state(), created.enabled), (v1::DestinationState::Disabled, Some(false)));
    assert_eq!(created.disabled_reason(), v1::DisabledReason::ByCaller);
    assert_eq!(server.emit(event("agent.offline")).await.delivery_count, 0);
    let request = v1::PauseDestinationRequest {
        organization_id: ORGANIZATION.into(),
        destination_id: created.destination_id.clone(),
    };
    let refusal = Refusal::from(server.destinations().pause_destination(request).await.unwrap_err());
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::FailedPrecondition, "DESTINATION_DISABLED"));
    let resumed = server.resume_destination(&created.destination_id).await;
    assert_eq!((resumed.state(), resumed.enabled), (v1::DestinationState::Active, Some(true)));
    server.pause(&created.destination_id).await;
    assert_eq!(server.emit(event("agent.offline")).await.delivery_count, 1);
}

#[tokio::test]
async fn secrets_and_header_values_never_come_back_in_any_answer() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    let planted =
        ["planted-signing", "planted-password", "planted-header", "planted-rotated", "planted-token"];
    let password = v1::SecretRef { source: Some(Source::Value("planted-password".into())) };
    let basic = v1::BasicAuth { username: "account".into(), password: Some(password) };
    let basic = v1::HttpAuth { method: Some(v1::http_auth::Method::Basic(basic)) };
    let draft = destination(Contract::Stalwart).url(receiver.url("/hook")).secret("planted-signing");
    let draft = draft.header("X-Key", "planted-header").with(|one| one.http_auth = Some(basic));
    let mut answers = Vec::new();
    let created = server.create(draft.clone()).await;
    answers.push(format!("{created:?}"));
    let id = created.destination_id.clone();
    answers.push(format!("{:?}", server.get(&id).await));
    let listed = v1::ListDestinationsRequest { organization_id: ORGANIZATION.into(), ..Default::default() };
    answers.push(format!("{:?}", server.destinations().list_destinations(listed).await.unwrap()));
    answers.push(format!("{:?}", server.update(created.clone(), &["display_name"]).await));
    answers.push(format!("{:?}", server.pause(&id).await));
    answers.push(format!("{:?}", server.resume_destination(&id).await));
    let rotate = v1::RotateSecretRequest {
        organization_id: ORGANIZATION.into(),
        destination_id: id.clone(),
        new_secret: Some(v1::SecretRef { source: Some(Source::Value("planted-rotated".into())) }),
        ..v1::RotateSecretRequest::default()
    };
    answers.push(format!("{:?}", server.destinations().rotate_secret(rotate).await.unwrap()));
    let exported = export(&server, &id).await.unwrap();
    answers.push(String::from_utf8(exported.json_document.to_vec()).unwrap());
    let subject = v1::test_destination_request::Subject::DestinationId(id.clone());
    answers.push(format!("{:?}", server.try_test(subject, "").await.unwrap()));
    let event_id = server.emit(event("auth.success")).await.event_id;
    receiver.wait_for("/hook", 2).await;
    answers.push(format!("{:?}", server.until(&event_id, v1::DeliveryState::Succeeded).await));
    // Refusals repeat what was wrong, but not what may be a secret.
    let token = v1::SecretRef { source: Some(Source::Value("planted-token\n".into())) };
    let bearer =
        v1::HttpAuth { method: Some(v1::http_auth::Method::Bearer(v1::BearerAuth { token: Some(token) })) };
    let broken =
        destination(Contract::StandardWebhooks).url("https://example.com/").secret("planted-signing");
    let broken = broken.header("X-Key", "planted-header\u{7f}").with(|one| one.http_auth = Some(bearer));
    let refusal = server.try_create(broken).await.unwrap_err();
    assert_eq!(refusal.violations.len(), 3, "{refusal:?}");
    answers.push(format!("{refusal:?}"));
    for answer in &answers {
        let leaked = planted.into_iter().find(|secret| answer.contains(secret));
        assert_eq!(leaked, None, "{answer}");
    }
    // And the receiver, who is meant to have them, did get them.
    let request = receiver.first("/hook").await;
    assert_eq!(header(&request, "x-key"), "planted-header");
}

#[tokio::test]
async fn the_object_of_stalwarts_documentation_is_imported_as_it_stands() {
    let server = Server::start().await;
    let created = import(&server, STALWART_OBJECT, "").await.unwrap();
    assert_eq!(
        (created.contract, created.url.as_str()),
        (number_of(Contract::Stalwart), "https://example.com/webhook")
    );
    let subscription = created.subscription.clone().unwrap();
    assert_eq!(subscription.event_types, ["auth.success", "store.ingest"]);
    assert_eq!(subscription.policy(), v1::SubscriptionPolicy::Include);
    let settings = created.effective_policy.clone().unwrap().settings.unwrap();
    assert_eq!((settings.timeout, settings.throttle), (Some(millis(30_000)), Some(millis(1000))));
    assert_eq!((settings.discard_after, settings.lossy), (Some(millis(300_000)), Some(false)));
    assert_eq!(settings.allow_invalid_certificates, Some(false));
    assert_eq!(created.headers.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["x-my-header"]);

    let exported = export(&server, &created.destination_id).await.unwrap();
    let mut expected: serde_json::Value = serde_json::from_str(STALWART_OBJECT).unwrap();
    let object: serde_json::Value = serde_json::from_slice(&exported.json_document).unwrap();
    expected["signatureKey"]["secret"] = "".into();
    expected["httpAuth"]["secret"]["secret"] = "".into();
    expected["httpHeaders"] = serde_json::json!({ "x-my-header": "" });
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&object[key], value, "{key}");
    }
    assert_eq!((&object["discardAfter"], &object["lossy"]), (&"5m".into(), &false.into()));
    assert_eq!(exported.omitted_fields, Vec::<String>::new());
}

#[tokio::test]
async fn an_exported_object_imported_again_keeps_every_stored_secret() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    let object = STALWART_OBJECT.replace("https://example.com", &receiver.url(""));
    let created = import(&server, &object, "").await.unwrap();
    let exported = export(&server, &created.destination_id).await.unwrap().json_document;
    let exported = String::from_utf8(exported.to_vec()).unwrap();
    let again = import(&server, &exported, &created.destination_id).await.unwrap();
    assert_eq!(again.destination_id, created.destination_id);
    server.emit(event("store.ingest")).await;
    let request = receiver.first("/webhook").await;
    genuine(Contract::Stalwart, "my-secret-key", &request).unwrap();
    assert_eq!(header(&request, "x-my-header"), "my-value");
    assert_eq!(header(&request, "authorization"), "Basic YWNjb3VudDpwYXNzd29yZA==");
}

#[tokio::test]
async fn documents_that_are_not_stalwarts_are_refused_key_by_key() {
    let server = Server::start().await;
    let refusal = import(&server, "{", "").await.unwrap_err();
    assert_eq!((refusal.code, refusal.fields()), (Code::InvalidArgument, vec!["json_document"]));
    let wrong = r#"{"url":"https://example.com/","eventsPolicy":"maybe","timeout":"soon","surprise":1}"#;
    let refusal = import(&server, wrong, "").await.unwrap_err();
    let mut fields = refusal.fields();
    fields.sort_unstable();
    assert_eq!(fields, ["json_document.eventsPolicy", "json_document.surprise", "json_document.timeout"]);

    let other = server.create(destination(Contract::Observer).url("https://example.com/")).await;
    let exported = export(&server, &other.destination_id).await.unwrap_err();
    let imported = import(&server, STALWART_OBJECT, &other.destination_id).await.unwrap_err();
    for refusal in [exported, imported] {
        assert_eq!((refusal.code, refusal.reason.as_str()), (Code::FailedPrecondition, "CONTRACT_MISMATCH"));
    }
}

#[tokio::test]
async fn a_plan_caps_destinations_and_a_downgrade_takes_nothing_away() {
    let receiver = Receiver::start().await;
    let server = Server::with(&[
        ("plans.free.max_destinations", "1"),
        ("plans.team.max_destinations", "3"),
        ("organizations.default_plan", r#""team""#),
    ])
    .await;
    let draft = |path: &str| destination(Contract::Observer).url(receiver.url(path));
    let mut created = Vec::new();
    for path in ["/a", "/b", "/c"] {
        created.push(server.create(draft(path)).await.destination_id);
    }
    let refusal = server.try_create(draft("/d")).await.unwrap_err();
    assert_eq!(refusal.code, Code::ResourceExhausted);
    assert_eq!(refusal.reason, "DESTINATION_QUOTA_EXCEEDED");
    let (subject, description) = &refusal.quota[0];
    assert_eq!(subject, "organization:org_test");
    assert!(description.contains('3'), "{description}");
    assert_eq!(refusal.metadata["limit"], "3");
    assert_eq!(refusal.metadata["usage"], "3");

    let downgrade = v1::UpdateOrganizationRequest {
        organization_id: ORGANIZATION.into(),
        organization: Some(v1::Organization { plan: "free".into(), ..Default::default() }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["plan".into()] }),
    };
    server.organizations().update_organization(downgrade).await.unwrap();
    let usage = v1::GetUsageRequest { organization_id: ORGANIZATION.into() };
    let usage = server.organizations().get_usage(usage).await.unwrap().into_inner().usage.unwrap();
    assert_eq!((usage.plan.as_str(), usage.destination_count, usage.destination_limit), ("free", 3, Some(1)));
    // What is there works on, and can be changed.
    assert_eq!(server.emit(event("agent.offline")).await.delivery_count, 3);
    for path in ["/a", "/b", "/c"] {
        receiver.first(path).await;
    }
    let first = server.get(&created[0]).await;
    server.update(v1::Destination { display_name: "kept".into(), ..first }, &["display_name"]).await;
    // Creating needs room below the new cap.
    for id in &created {
        assert_eq!(server.try_create(draft("/d")).await.unwrap_err().code, Code::ResourceExhausted);
        delete(&server, id, "").await.unwrap();
    }
    server.create(draft("/d")).await;
}

#[tokio::test]
async fn health_tells_failures_and_the_next_success_clears_them() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    let draft = destination(Contract::Observer).url(receiver.url("/hook")).retry_after(&[10, 10]);
    let id = server.create(draft).await.destination_id;
    receiver.will_answer("/hook", [StatusCode::SERVICE_UNAVAILABLE; 3]);
    server.emit(event("agent.offline")).await;
    let failing = server.until_health(&id, "three failures", |one| one.consecutive_failure_count == 3).await;
    assert!(failing.last_error.contains("503"), "{failing:?}");
    assert!(failing.last_failure_time.is_some() && failing.last_success_time.is_none());
    assert_eq!(failing.reachability(), v1::Reachability::Unconfirmed);
    server.emit(event("agent.offline")).await;
    let well = server.until_health(&id, "a success", |one| one.last_success_time.is_some()).await;
    assert_eq!((well.last_error.as_str(), well.last_failure_time), ("", None));
    assert_eq!(well.consecutive_failure_count, 0);
    assert_eq!(well.reachability(), v1::Reachability::Confirmed);
    assert!(well.reachability_confirm_time.is_some());
}

#[tokio::test]
async fn health_tells_an_open_circuit_and_a_change_of_the_destination_is_tried_at_once() {
    let few = ("delivery.circuit_opens_after", "2");
    let (server, receiver) = (Server::with(&[few]).await, Receiver::start().await);
    let draft = destination(Contract::Observer).url(receiver.url("/hook"));
    let id = server.create(draft).await.destination_id;
    receiver.always_answers("/hook", StatusCode::INTERNAL_SERVER_ERROR);
    for _ in 0..2 {
        server.emit(event("agent.offline")).await;
    }
    let is_open = |health: &v1::DestinationHealth| health.circuit_state() == v1::CircuitState::Open;
    let open = server.until_health(&id, "an open circuit", is_open).await;
    assert!(open.next_probe_time.is_some());
    assert_eq!((open.current_concurrency, receiver.got("/hook").len()), (1, 2));
    receiver.recovers("/hook");
    let held = server.emit(event("agent.offline")).await.event_id;
    let changed = server.get(&id).await;
    server.update(v1::Destination { display_name: "changed".into(), ..changed }, &["display_name"]).await;
    let delivered = server.until(&held, v1::DeliveryState::Succeeded).await;
    assert_eq!(delivered.attempt_count, 1, "holding it took no attempt");
    let health = server.until_health(&id, "no open circuit", |health| !is_open(health)).await;
    assert_eq!((health.next_probe_time, health.consecutive_failure_count), (None, 0));
}

#[tokio::test]
async fn a_url_that_names_a_private_address_is_refused_when_it_is_saved() {
    let server = Server::start().await;
    for url in
        ["https://10.0.0.1/", "https://169.254.169.254/latest", "https://[fd00::1]/", "https://0x0a.1/"]
    {
        let refusal = server.try_create(destination(Contract::Observer).url(url)).await.unwrap_err();
        assert_eq!(refusal.reason, "URL_ADDRESS_NOT_ALLOWED", "{url}: {}", refusal.message);
    }
}

#[tokio::test]
async fn another_url_is_unconfirmed_until_its_own_first_success() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    let created = server.create(destination(Contract::Observer).url(receiver.url("/one"))).await;
    let id = created.destination_id.clone();
    server.emit(event("agent.offline")).await;
    server.until_health(&id, "a success", |one| one.last_success_time.is_some()).await;
    let moved = v1::Destination { destination_id: id.clone(), url: receiver.url("/two"), ..created };
    let moved = v1::Destination { etag: String::new(), ..moved };
    let health = server.update(moved, &["url"]).await.health.unwrap();
    assert_eq!(health.reachability(), v1::Reachability::Unconfirmed);
    assert_eq!(health.last_success_time, None);
    server.emit(event("agent.offline")).await;
    let health = server.until_health(&id, "a success", |one| one.last_success_time.is_some()).await;
    assert_eq!(health.reachability(), v1::Reachability::Confirmed);
}

#[tokio::test]
async fn health_counts_what_waits_and_since_when() {
    let server = Server::start().await;
    let id = server.create(destination(Contract::Observer).url("https://example.com/")).await.destination_id;
    server.pause(&id).await;
    let first = server.emit(event("agent.offline")).await;
    server.emit(event("agent.offline")).await;
    let health = server.until_health(&id, "two wait", |one| one.waiting_count == 2).await;
    assert_eq!(health.oldest_waiting_time, first.accept_time);
}

#[tokio::test]
async fn secrets_are_read_from_files_at_each_use_and_a_missing_one_is_on_the_record() {
    let (mut server, receiver) = (Server::start().await, Receiver::start().await);
    let file = server.write_file("secrets/key", "first-key\n");
    let draft = || {
        let draft = destination(Contract::Observer).url(receiver.url("/hook"));
        draft.secret_from(Source::File(file.display().to_string())).retry_after(&[50])
    };
    let refusal = server.try_create(draft()).await.unwrap_err();
    assert_eq!(refusal.fields(), ["destination.signing_secret"], "only what the operator allows");
    let folder = format!("[\"{}@{ORGANIZATION}\"]", server.folder().join("secrets").display());
    server.restart_with(&[("secrets.folders", &folder)]).await;
    let stranger = server.try_create_in("org_other", draft()).await.unwrap_err();
    assert_eq!(stranger, refusal, "what is for others is as closed as what is for nobody");
    let created = server.create(draft()).await;
    let summary = created.signing_secret_summary.unwrap();
    assert_eq!(summary.source(), v1::SecretSource::File);
    assert_eq!(summary.reference, file.display().to_string());

    server.emit(event("agent.offline")).await;
    genuine(Contract::Observer, "first-key", &receiver.first("/hook").await).unwrap();
    server.write_file("secrets/key", "second-key");
    server.emit(event("agent.offline")).await;
    let requests = receiver.wait_for("/hook", 2).await;
    genuine(Contract::Observer, "second-key", &requests[1]).unwrap();
    std::fs::remove_file(&file).unwrap();
    let event_id = server.emit(event("agent.offline")).await.event_id;
    let delivery = server.until(&event_id, v1::DeliveryState::DeadLettered).await;
    assert_eq!(delivery.attempts[0].outcome_kind(), v1::OutcomeKind::SecretUnavailable);
    assert_eq!(receiver.got("/hook").len(), 2, "nothing goes out unsigned, or signed with an empty key");
}

#[tokio::test]
async fn secrets_are_read_from_the_environment_where_the_operator_allows_the_name() {
    // PATH is in every environment, and what it holds is a fine key for a test.
    let receiver = Receiver::start().await;
    let server = Server::with(&[("secrets.environment", r#"["PATH@org_test"]"#)]).await;
    let draft = |name: &str| {
        let draft = destination(Contract::Workspace).url(receiver.url("/hook"));
        draft.secret_from(Source::EnvironmentVariable(name.into()))
    };
    let refusal = server.try_create(draft("HOME")).await.unwrap_err();
    assert_eq!(refusal.fields(), ["destination.signing_secret"]);
    let stranger = server.try_create_in("org_other", draft("PATH")).await.unwrap_err();
    assert_eq!(stranger.message.replace("PATH", "HOME"), refusal.message);
    let created = server.create(draft("PATH")).await;
    assert_eq!(created.signing_secret_summary.unwrap().source(), v1::SecretSource::EnvironmentVariable);
    server.emit(event("kpi.alert")).await;
    let path = std::env::vars_os().find(|(name, _)| name == "PATH").unwrap().1;
    let request = receiver.first("/hook").await;
    genuine(Contract::Workspace, path.to_str().unwrap(), &request).unwrap();
}

async fn rotate(server: &Server, destination_id: &str, new: &str, overlap: i64) -> v1::RotateSecretResponse {
    let request = v1::RotateSecretRequest {
        organization_id: ORGANIZATION.into(),
        destination_id: destination_id.into(),
        new_secret: (!new.is_empty()).then(|| v1::SecretRef { source: Some(Source::Value(new.into())) }),
        overlap: Some(millis(overlap)),
        ..v1::RotateSecretRequest::default()
    };
    server.destinations().rotate_secret(request).await.unwrap().into_inner()
}

#[tokio::test]
async fn while_a_secret_rotates_standard_webhooks_are_signed_with_both() {
    const OLD: &str = "whsec_b2xkIHNlY3JldCBvZiBhdCBsZWFzdCAyNCBieXRlcw==";
    const NEW: &str = "whsec_bmV3IHNlY3JldCBvZiBhdCBsZWFzdCAyNCBieXRlcw==";
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    for (contract, path) in [(Contract::StandardWebhooks, "/standard"), (Contract::CloudEvents, "/cloud")] {
        let id =
            server.create(destination(contract).url(receiver.url(path)).secret(OLD)).await.destination_id;
        let rotated = rotate(&server, &id, NEW, 3_600_000).await;
        assert_eq!(rotated.generated_secret, "");
        let summary = rotated.destination.unwrap().signing_secret_summary.unwrap();
        assert!(summary.rotation_end_time.is_some());
        server.emit(event("invoice.paid")).await;
        let request = receiver.first(path).await;
        for secret in [OLD, NEW] {
            genuine(contract, secret, &request).unwrap();
        }
        assert_eq!(header(&request, "webhook-signature").split(' ').count(), 2);
        let generated = rotate(&server, &id, "", 0).await;
        assert!(generated.generated_secret.starts_with("whsec_"));
        let before = receiver.got(path).len();
        server.emit(event("invoice.paid")).await;
        let request = receiver.wait_for(path, before + 1).await.swap_remove(before);
        genuine(contract, &generated.generated_secret, &request).unwrap();
        assert!(genuine(contract, NEW, &request).is_err(), "without an overlap the old one ends at once");
    }
}

#[tokio::test]
async fn contracts_with_room_for_one_signature_keep_the_old_secret_until_the_overlap_ends() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    let draft = destination(Contract::Observer).url(receiver.url("/hook")).secret("old");
    let id = server.create(draft).await.destination_id;
    rotate(&server, &id, "new", 3_600_000).await;
    server.emit(event("agent.offline")).await;
    genuine(Contract::Observer, "old", &receiver.first("/hook").await).unwrap();
    rotate(&server, &id, "newest", 0).await;
    server.emit(event("agent.offline")).await;
    genuine(Contract::Observer, "newest", &receiver.wait_for("/hook", 2).await[1]).unwrap();
}

#[tokio::test]
async fn every_range_that_the_api_documents_is_accepted_to_its_ends_and_refused_beyond() {
    type Change = fn(&mut v1::DeliverySettings, i64);
    const DAY: i64 = 24 * 60 * 60 * 1000;
    let server = Server::start().await;
    let ranges: [(&str, Change, i64, i64); 7] = [
        ("timeout", |settings, value| settings.timeout = Some(millis(value)), 1000, 120_000),
        ("throttle", |settings, value| settings.throttle = Some(millis(value)), 0, 3_600_000),
        ("discard_after", |settings, value| settings.discard_after = Some(millis(value)), 1000, 30 * DAY),
        (
            "disable_after",
            |settings, value| settings.disable_after = Some(millis(value)),
            3_600_000,
            30 * DAY,
        ),
        (
            "max_batch_events",
            |settings, value| settings.max_batch_events = i32::try_from(value).ok(),
            1,
            1000,
        ),
        (
            "max_batch_bytes",
            |settings, value| settings.max_batch_bytes = i32::try_from(value).ok(),
            1024,
            16_777_216,
        ),
        ("max_concurrency", |settings, value| settings.max_concurrency = i32::try_from(value).ok(), 1, 256),
    ];
    let draft = || destination(Contract::Stalwart).url("https://example.com/");
    for (field, change, least, most) in ranges {
        for value in [least, most] {
            let created = server.try_create(draft().settings(|settings| change(settings, value))).await;
            assert!(created.is_ok(), "{field} = {value}: {created:?}");
        }
        for value in [least - 1, most + 1] {
            let refusal = server.try_create(draft().settings(|settings| change(settings, value))).await;
            let refusal = refusal.expect_err(field);
            assert_eq!(refusal.fields(), [format!("destination.settings.{field}")], "{value}");
        }
    }
}

#[tokio::test]
async fn ids_of_organizations_have_the_documented_characters_and_length() {
    let server = Server::start().await;
    let longest = "x".repeat(128);
    for id in ["org_abc123", "a.b:c-D_9", longest.as_str()] {
        server.try_emit_in(id, event("a")).await.unwrap();
    }
    let too_long = "x".repeat(129);
    assert_eq!(server.try_emit_in(&too_long, event("a")).await.unwrap_err().fields(), ["organization_id"]);
}

#[tokio::test]
async fn credentials_never_follow_a_url_to_another_host() {
    let server = Server::start().await;
    let password = v1::SecretRef { source: Some(v1::secret_ref::Source::Value("password".into())) };
    let basic = v1::BasicAuth { username: "account".into(), password: Some(password) };
    let basic = v1::HttpAuth { method: Some(v1::http_auth::Method::Basic(basic)) };
    let draft = destination(Contract::Observer).url("https://example.com/").header("X-Key", "value");
    let created = server.create(draft.with(|one| one.http_auth = Some(basic))).await;
    let moved = v1::Destination { url: "https://elsewhere.example.com/".into(), ..created.clone() };
    let refusal = server.try_update(moved, &["url"]).await.unwrap_err();
    let mut fields = refusal.fields();
    fields.sort_unstable();
    assert_eq!(
        (refusal.code, fields),
        (Code::InvalidArgument, vec!["destination.headers", "destination.http_auth"])
    );
    let same_host = v1::Destination { url: "https://example.com/other".into(), ..created };
    server.update(same_host, &["url"]).await;
}

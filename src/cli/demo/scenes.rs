//! The scenes of the demo.

use anyhow::Context;
use http::StatusCode;

use crate::cli::demo::page::Page;
use crate::cli::demo::stage::{PATHS, Stage};
use crate::domain::contract::Contract;
use crate::grpc::proto::v1;

/// Plays all scenes.
///
/// # Errors
/// The first thing that did not happen as it should; what was merely wrong is on the page.
pub async fn play(stage: &Stage, page: &mut Page) -> anyhow::Result<()> {
    six_contracts(stage, page).await?;
    same_id_again(stage, page).await?;
    retry(stage, page).await?;
    dead_letter_and_replay(stage, page).await?;
    bad_input(stage, page).await
}

/// An event that each contract would carry: its type and its data.
fn sample(contract: Contract) -> (&'static str, &'static str) {
    match contract {
        Contract::Semaphor => (
            "query_failed",
            r#"{"status":"failed","category":"query","component":"query-engine","message":"Division by zero","error_code":"22012"}"#,
        ),
        Contract::Stalwart => ("auth.success", r#"{"accountName":"john","remoteIp":"192.0.2.7"}"#),
        Contract::Workspace => (
            "ingestion.completed",
            r#"{"jobId":"job_xyz","table":"sales_data","rowsIngested":15234,"duration":3200}"#,
        ),
        Contract::Observer => {
            ("slo.burn_started", r#"{"slo":"checkout-latency","target":99.90,"current":99.71}"#)
        }
        Contract::StandardWebhooks => {
            ("invoice.paid", r#"{"invoice":"in_42","amount":12345678901234567890.10}"#)
        }
        Contract::CloudEvents => ("device.connected", r#"{"device":"sensor-7","firmware":"1.10"}"#),
    }
}

fn contract_number(contract: Contract) -> i32 {
    match contract {
        Contract::Semaphor => v1::Contract::Semaphor.into(),
        Contract::Stalwart => v1::Contract::Stalwart.into(),
        Contract::Workspace => v1::Contract::Workspace.into(),
        Contract::Observer => v1::Contract::Observer.into(),
        Contract::StandardWebhooks => v1::Contract::StandardWebhooks.into(),
        Contract::CloudEvents => v1::Contract::Cloudevents.into(),
    }
}

async fn six_contracts(stage: &Stage, page: &mut Page) -> anyhow::Result<()> {
    page.scene(1, "One event for each of the six contracts")?;
    for (contract, path, secret) in PATHS {
        let (event_type, _) = sample(contract);
        create(stage, contract, path, secret, event_type).await?;
    }
    for (contract, path, _) in PATHS {
        let (event_type, data) = sample(contract);
        let result = emit(stage, event_type, data, None).await?;
        let requests = stage.wait_for(path, 1).await?;
        let request = requests.first().context("a request")?;
        let verified = stage.verified(path);
        let body = String::from_utf8_lossy(&request.body);
        page.check(
            verified.len() == 1,
            &format!("{contract:<17} accepted, durable, delivered; signature verified"),
        )?;
        page.row("id", &result.event_id)?;
        if let Some((name, value)) = signature_of(request) {
            page.row("header", &format!("{name}: {}", shortened(&value, 56)))?;
        }
        page.row("body", &shortened(&body, 320))?;
        if !arrived_as_sent(&body, data) {
            page.check(false, "the data did not arrive byte for byte")?;
        }
    }
    Ok(())
}

/// Whether each member of the data stands in the body, number spelling and all; SEMAPHOR puts its own
/// keys between them.
fn arrived_as_sent(body: &str, data: &str) -> bool {
    data.trim_matches(['{', '}']).split(',').all(|member| body.contains(member))
}

async fn same_id_again(stage: &Stage, page: &mut Page) -> anyhow::Result<()> {
    page.scene(2, "The same event id twice is one event")?;
    let data = r#"{"kpi":"churn","value":0.07}"#;
    let first = emit(stage, "kpi.computed", data, Some("evt_demo_1")).await?;
    let second = emit(stage, "kpi.computed", data, Some("evt_demo_1")).await?;
    page.check(
        !first.duplicate && second.duplicate,
        "the second call answers duplicate = true and sends nothing",
    )?;
    let conflict = emit(stage, "kpi.computed", r#"{"kpi":"other"}"#, Some("evt_demo_1")).await;
    let refused = conflict.is_err_and(|error| format!("{error:#}").contains("lready"));
    page.check(refused, "the same id with other data is refused: ALREADY_EXISTS")?;
    Ok(())
}

async fn retry(stage: &Stage, page: &mut Page) -> anyhow::Result<()> {
    page.scene(3, "A receiver that fails once gets a retry")?;
    let path = "/observer";
    let before = stage.wait_for(path, 1).await?.len();
    set_delays(stage, Contract::Observer, &[200, 200]).await?;
    stage.script().push(path, [StatusCode::SERVICE_UNAVAILABLE]);
    let result = emit(stage, "agent.offline", r#"{"agent":"eu-west-1"}"#, None).await?;
    let requests = stage.wait_for(path, before + 2).await?;
    let numbers: Vec<String> =
        requests.iter().skip(before).filter_map(|one| header(one, "signalpost-attempt")).collect();
    page.check(numbers == ["1", "2"], &format!("two attempts, numbered {}", numbers.join(" and ")))?;
    let delivery = finished(stage, &result.event_id).await?;
    for attempt in &delivery.attempts {
        let verdict = if attempt.error.is_empty() { "delivered" } else { attempt.error.as_str() };
        page.row(&format!("attempt {}", attempt.number), &format!("{} · {verdict}", took(attempt)))?;
    }
    page.check(
        delivery.state() == v1::DeliveryState::Succeeded,
        "the history has both, and the delivery SUCCEEDED",
    )?;
    Ok(())
}

async fn dead_letter_and_replay(stage: &Stage, page: &mut Page) -> anyhow::Result<()> {
    page.scene(4, "A receiver that stays down: dead letter, then replay")?;
    let path = "/workspace";
    let before = stage.wait_for(path, 1).await?.len();
    set_delays(stage, Contract::Workspace, &[100, 200, 300]).await?;
    stage.script().push(path, [StatusCode::INTERNAL_SERVER_ERROR; 4]);
    let result =
        emit(stage, "ingestion.failed", r#"{"jobId":"job_dead","error":"no such table"}"#, None).await?;
    stage.wait_for(path, before + 4).await?;
    let delivery = finished(stage, &result.event_id).await?;
    let is_dead = delivery.state() == v1::DeliveryState::DeadLettered;
    page.check(
        is_dead,
        &format!("after {} attempts it is a dead letter: {}", delivery.attempt_count, delivery.last_error),
    )?;

    let request = v1::ReplayDeadLetterRequest {
        organization_id: stage.organization().into(),
        delivery_id: delivery.delivery_id.clone(),
    };
    stage.deliveries().replay_dead_letter(request).await?;
    let requests = stage.wait_for(path, before + 5).await?;
    let ids: Vec<_> =
        requests.iter().skip(before).filter_map(|one| header(one, "signalpost-event-id")).collect();
    let one_id = ids.iter().all(|id| *id == result.event_id);
    page.check(one_id, &format!("replayed with the same event id: {}", result.event_id))?;
    let delivery = succeeded(stage, &delivery.delivery_id).await?;
    page.check(
        true,
        &format!("SUCCEEDED on attempt {}; the dead letters are empty again", delivery.attempt_count),
    )?;
    Ok(())
}

async fn bad_input(stage: &Stage, page: &mut Page) -> anyhow::Result<()> {
    page.scene(5, "Bad input is refused with the field and the remedy")?;
    let destination = v1::Destination {
        url: "http://example.com/hook".into(),
        display_name: "x".repeat(200),
        contract: v1::Contract::Observer.into(),
        subscription: Some(v1::Subscription {
            policy: v1::SubscriptionPolicy::Include.into(),
            event_types: vec!["metric.unknown".into()],
            ..v1::Subscription::default()
        }),
        ..v1::Destination::default()
    };
    let request = v1::CreateDestinationRequest {
        organization_id: stage.organization().into(),
        destination: Some(destination),
        validate_only: true,
    };
    let refusal = stage.destinations().create_destination(request).await.err().context("a refusal")?;
    page.check(refusal.code() == tonic::Code::InvalidArgument, "INVALID_ARGUMENT, all fields at once")?;
    for violation in tonic_types::StatusExt::get_error_details(&refusal)
        .bad_request()
        .into_iter()
        .flat_map(|bad| &bad.field_violations)
    {
        page.row("", &format!("{} {}", violation.field, violation.description))?;
    }
    Ok(())
}

async fn create(
    stage: &Stage,
    contract: Contract,
    path: &str,
    secret: &str,
    event_type: &str,
) -> anyhow::Result<v1::Destination> {
    // The two open contracts take what they name; the closed ones take their whole catalogue.
    let is_open = matches!(contract, Contract::Stalwart | Contract::StandardWebhooks | Contract::CloudEvents);
    let subscription = is_open.then(|| v1::Subscription {
        policy: v1::SubscriptionPolicy::Include.into(),
        event_types: vec![event_type.into()],
        ..v1::Subscription::default()
    });
    let destination = v1::Destination {
        display_name: format!("demo {contract}"),
        url: stage.url(path),
        contract: contract_number(contract),
        subscription,
        signing_secret: Some(v1::SecretRef { source: Some(v1::secret_ref::Source::Value(secret.into())) }),
        ..v1::Destination::default()
    };
    let request = v1::CreateDestinationRequest {
        organization_id: stage.organization().into(),
        destination: Some(destination),
        validate_only: false,
    };
    let created = stage.destinations().create_destination(request).await?.into_inner();
    created.destination.context("the created destination")
}

/// Short delays, so that nobody has to watch the contract's minutes.
async fn set_delays(stage: &Stage, contract: Contract, millis: &[i32]) -> anyhow::Result<()> {
    let request =
        v1::ListDestinationsRequest { organization_id: stage.organization().into(), ..Default::default() };
    let listed = stage.destinations().list_destinations(request).await?.into_inner();
    let mine = listed.destinations.into_iter().find(|one| one.contract == contract_number(contract));
    let found = mine.context("the destination of the contract")?;
    let delays =
        millis.iter().map(|ms| prost_types::Duration { seconds: 0, nanos: ms * 1_000_000 }).collect();
    let retry_policy = v1::RetryPolicy {
        schedule: Some(v1::retry_policy::Schedule::Fixed(v1::FixedDelays { delays })),
        ..v1::RetryPolicy::default()
    };
    let changed = v1::Destination {
        destination_id: found.destination_id,
        settings: Some(v1::DeliverySettings { retry_policy: Some(retry_policy), ..Default::default() }),
        etag: found.etag,
        ..v1::Destination::default()
    };
    let request = v1::UpdateDestinationRequest {
        organization_id: stage.organization().into(),
        destination: Some(changed),
        update_mask: Some(prost_types::FieldMask { paths: vec!["settings.retry_policy".into()] }),
        validate_only: false,
    };
    stage.destinations().update_destination(request).await?;
    Ok(())
}

async fn emit(
    stage: &Stage,
    event_type: &str,
    data: &str,
    id: Option<&str>,
) -> anyhow::Result<v1::EmitResult> {
    let event = v1::Event {
        event_id: id.map(str::to_owned),
        r#type: event_type.into(),
        data: Some(v1::event::Data::JsonData(data.to_owned().into())),
        ..v1::Event::default()
    };
    let request = v1::EmitRequest { organization_id: stage.organization().into(), event: Some(event) };
    let response = stage.events().emit(request).await?.into_inner();
    response.result.context("the result")
}

/// The delivery of an event, once it is finished.
async fn finished(stage: &Stage, event_id: &str) -> anyhow::Result<v1::Delivery> {
    let filter = v1::DeliveryFilter { event_id: event_id.into(), ..Default::default() };
    let request = v1::ListDeliveriesRequest {
        organization_id: stage.organization().into(),
        filter: Some(filter),
        ..Default::default()
    };
    let delivery = stage
        .eventually("the end of the delivery", || async {
            let listed = stage.deliveries().list_deliveries(request.clone()).await?.into_inner();
            Ok(listed.deliveries.into_iter().find(|one| one.finish_time.is_some()))
        })
        .await?;
    get(stage, &delivery.delivery_id).await
}

async fn succeeded(stage: &Stage, delivery_id: &str) -> anyhow::Result<v1::Delivery> {
    stage
        .eventually("the success of the replay", || async {
            let delivery = get(stage, delivery_id).await?;
            Ok((delivery.state() == v1::DeliveryState::Succeeded).then_some(delivery))
        })
        .await
}

async fn get(stage: &Stage, delivery_id: &str) -> anyhow::Result<v1::Delivery> {
    let request = v1::GetDeliveryRequest {
        organization_id: stage.organization().into(),
        delivery_id: delivery_id.into(),
        view: v1::DeliveryView::Full.into(),
    };
    let response = stage.deliveries().get_delivery(request).await?.into_inner();
    response.delivery.context("the delivery")
}

fn signature_of(request: &crate::receiver::Received) -> Option<(String, String)> {
    let is_signature = |name: &str| name.ends_with("-signature") || name == "webhook-signature";
    let found = request.headers.iter().find(|(name, _)| is_signature(name.as_str()))?;
    Some((found.0.to_string(), found.1.to_str().ok()?.to_owned()))
}

fn header(request: &crate::receiver::Received, name: &str) -> Option<String> {
    request.headers.get(name)?.to_str().ok().map(str::to_owned)
}

fn took(attempt: &v1::Attempt) -> String {
    let round_trip = attempt.round_trip.unwrap_or_default();
    format!("{:.1} ms", round_trip.seconds as f64 * 1e3 + f64::from(round_trip.nanos) / 1e6)
}

fn shortened(text: &str, max_chars: usize) -> String {
    if text.chars().count() <= max_chars {
        return text.to_owned();
    }
    text.chars().take(max_chars).chain(['…']).collect()
}

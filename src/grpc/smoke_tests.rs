//! The whole surface over loopback, with a real client, on the in-memory store.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt;

use super::proto::v1;
use super::proto::v1::delivery_admin_client::DeliveryAdminClient;
use super::proto::v1::destination_admin_client::DestinationAdminClient;
use super::proto::v1::emit_batch_result::Result as BatchResult;
use super::proto::v1::event::Data;
use super::proto::v1::event_ingest_client::EventIngestClient;
use super::proto::v1::organization_admin_client::OrganizationAdminClient;
use super::*;
use crate::clock::{SharedClock, SystemClock};
use crate::control::{Control, ControlSettings};
use crate::domain::payload::PayloadLimits;
use crate::domain::plan::Plan;
use crate::store::memory::MemoryStore;
use crate::transport::courier::Courier;
use crate::transport::scripted::ScriptedTransport;
use crate::transport::secrets::SecretReader;

const ORG: &str = "org_a";

fn control(max_events_per_second: Option<u32>) -> Arc<Control> {
    let clock: SharedClock = Arc::new(SystemClock);
    let plan = Plan {
        name: "free".into(),
        max_destinations: Some(2),
        max_events_per_second,
        max_calls_per_second: None,
        max_payload_bytes: None,
        retention: None,
    };
    let settings = ControlSettings {
        plans: BTreeMap::from([("free".to_owned(), plan)]),
        default_plan: "free".into(),
        payload: PayloadLimits::default(),
        require_organizations: false,
        plain_http_contracts: Vec::new(),
        address_policy: Arc::default(),
        delivery_enabled: true,
        enterprise_telemetry_enabled: false,
        batch_max_events: 1000,
        retention: crate::domain::retention::Retention::default(),
    };
    let secrets = Arc::new(SecretReader::new(Vec::new(), Vec::new()));
    let courier = Courier {
        transport: Arc::new(ScriptedTransport::new()),
        secrets: Arc::clone(&secrets),
        clock: Arc::clone(&clock),
        account: crate::transport::account::Account::default(),
        rates: None,
    };
    let store = Arc::new(MemoryStore::new(Arc::clone(&clock)));
    Arc::new(Control::new(store, Arc::new(courier), secrets, clock, settings))
}

struct House {
    channel: Channel,
    health: HealthState,
    stop: CancellationToken,
    tasks: TaskTracker,
}

async fn house_with(max_events_per_second: Option<u32>) -> House {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let health = HealthState::new();
    let server = GrpcServer::new(control(max_events_per_second), health.clone(), Limits::default());
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let stopped = stop.clone().cancelled_owned();
    tasks.spawn(async move { server.serve(listener, stopped).await.unwrap() });
    tasks.close();
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    House { channel, health, stop, tasks }
}

async fn house() -> House {
    house_with(None).await
}

fn event(id: &str, event_type: &str) -> v1::Event {
    v1::Event {
        event_id: Some(id.into()),
        r#type: event_type.into(),
        data: Some(Data::JsonData(bytes::Bytes::from_static(b"{\"a\":1.10}"))),
        ..v1::Event::default()
    }
}

fn form(contract: v1::Contract) -> v1::Destination {
    v1::Destination {
        display_name: "shop".into(),
        url: "https://example.com/hook".into(),
        contract: contract.into(),
        ..v1::Destination::default()
    }
}

impl House {
    fn events(&self) -> EventIngestClient<Channel> {
        EventIngestClient::new(self.channel.clone())
    }

    fn destinations(&self) -> DestinationAdminClient<Channel> {
        DestinationAdminClient::new(self.channel.clone())
    }

    async fn create(&self, destination: v1::Destination) -> Result<v1::Destination, tonic::Status> {
        let request = v1::CreateDestinationRequest {
            organization_id: ORG.into(),
            destination: Some(destination),
            validate_only: false,
        };
        let created = self.destinations().create_destination(request).await?;
        Ok(created.into_inner().destination.unwrap())
    }

    async fn emit(&self, event: v1::Event) -> Result<v1::EmitResult, tonic::Status> {
        let request = v1::EmitRequest { organization_id: ORG.into(), event: Some(event) };
        Ok(self.events().emit(request).await?.into_inner().result.unwrap())
    }

    async fn stream(&self) -> (mpsc::Sender<v1::EmitStreamRequest>, Streaming<v1::EmitStreamResponse>) {
        let (sender, receiver) = mpsc::channel(1024);
        let opened = self.events().emit_stream(ReceiverStream::new(receiver)).await.unwrap();
        (sender, opened.into_inner())
    }
}

fn message(sequence: i64, event: v1::Event) -> v1::EmitStreamRequest {
    v1::EmitStreamRequest {
        organization_id: if sequence == 1 { ORG.into() } else { String::new() },
        sequence,
        event: Some(event),
        acknowledgement_mode: 0,
    }
}

fn reason(status: &tonic::Status) -> String {
    status.get_error_details().error_info().unwrap().reason.clone()
}

#[tokio::test]
async fn an_event_is_accepted_once_and_its_delivery_can_be_read() {
    let house = house().await;
    let destination = house.create(form(v1::Contract::Workspace)).await.unwrap();
    let first = house.emit(event("evt-1", "kpi.alert")).await.unwrap();
    assert_eq!((first.duplicate, first.delivery_count), (false, 1));
    assert!(house.emit(event("evt-1", "kpi.alert")).await.unwrap().duplicate);
    let conflict = house.emit(event("evt-1", "kpi.computed")).await.unwrap_err();
    assert_eq!((conflict.code(), reason(&conflict).as_str()), (Code::AlreadyExists, "EVENT_ID_CONFLICT"));

    let mut deliveries = DeliveryAdminClient::new(house.channel.clone());
    let list = v1::ListDeliveriesRequest { organization_id: ORG.into(), ..Default::default() };
    let listed = deliveries.list_deliveries(list).await.unwrap().into_inner().deliveries;
    assert_eq!((listed.len(), &listed[0].destination_id), (1, &destination.destination_id));
    let get = v1::GetDeliveryRequest {
        organization_id: ORG.into(),
        delivery_id: listed[0].delivery_id.clone(),
        view: v1::DeliveryView::Full.into(),
    };
    let read = deliveries.get_delivery(get).await.unwrap().into_inner().delivery.unwrap();
    assert_eq!((read.state(), read.event_id.as_str()), (v1::DeliveryState::Waiting, "evt-1"));
}

#[tokio::test]
async fn one_bad_event_of_a_batch_does_not_spoil_the_others() {
    let house = house().await;
    let mut bad = event("a.b", "kpi alert");
    bad.level = 77;
    let mut large = event("evt-3", "kpi.alert");
    large.data = Some(Data::JsonData(bytes::Bytes::from_static(b"[1]")));
    let request = v1::EmitBatchRequest {
        organization_id: ORG.into(),
        events: vec![event("evt-1", "kpi.alert"), bad, large],
    };
    let results = house.events().emit_batch(request).await.unwrap().into_inner().results;
    assert!(matches!(results[0].result, Some(BatchResult::Accepted(_))));
    let fields: Vec<Vec<String>> = results[1..]
        .iter()
        .map(|result| match &result.result {
            Some(BatchResult::Error(error)) => {
                error.field_violations.iter().map(|violation| violation.field.clone()).collect()
            }
            _ => vec![],
        })
        .collect();
    assert_eq!(fields[0], ["events[1].level", "events[1].event_id", "events[1].type"]);
    assert_eq!(fields[1], ["events[2].json_data"]);
    let empty = v1::EmitBatchRequest { organization_id: ORG.into(), events: vec![] };
    let refused = house.events().emit_batch(empty).await.unwrap_err();
    assert_eq!(reason(&refused), "BATCH_SIZE_INVALID");
}

#[tokio::test]
async fn a_stream_acknowledges_in_order_and_tells_errors_and_duplicates() {
    let house = house().await;
    let (sender, mut answers) = house.stream().await;
    for sequence in 1..=600 {
        let event_type = if sequence == 300 { "not a type" } else { "kpi.alert" };
        let id = format!("evt-{}", if sequence == 400 { 1 } else { sequence });
        sender.send(message(sequence, event(&id, event_type))).await.unwrap();
    }
    drop(sender);
    let (mut acknowledged, mut told) = (0, Vec::new());
    while let Some(answer) = answers.next().await {
        let answer = answer.unwrap();
        assert!(answer.acknowledged_sequence > acknowledged);
        acknowledged = answer.acknowledged_sequence;
        told.extend(answer.results.iter().map(|result| result.sequence));
    }
    assert_eq!((acknowledged, told), (600, vec![300, 400]));
}

#[tokio::test]
async fn a_broken_rule_ends_the_stream_after_what_came_before_it() {
    let house = house().await;
    let (sender, mut answers) = house.stream().await;
    sender.send(message(1, event("evt-1", "kpi.alert"))).await.unwrap();
    sender.send(message(2, event("evt-2", "kpi.alert"))).await.unwrap();
    sender.send(message(2, event("evt-3", "kpi.alert"))).await.unwrap();
    let mut acknowledged = 0;
    let ended = loop {
        match answers.next().await.unwrap() {
            Ok(answer) => acknowledged = answer.acknowledged_sequence,
            Err(status) => break status,
        }
    };
    assert_eq!((acknowledged, ended.code()), (2, Code::InvalidArgument));
    assert_eq!(reason(&ended), "STREAM_SEQUENCE_INVALID");
}

#[tokio::test]
async fn the_rate_of_the_plan_slows_a_stream_and_loses_nothing() {
    let house = house_with(Some(100)).await;
    let (sender, mut answers) = house.stream().await;
    for sequence in 1..=130 {
        sender.send(message(sequence, event(&format!("evt-{sequence}"), "kpi.alert"))).await.unwrap();
    }
    drop(sender);
    let mut acknowledged = 0;
    while let Some(answer) = answers.next().await {
        let answer = answer.unwrap();
        assert!(answer.results.is_empty(), "{answer:?}");
        acknowledged = answer.acknowledged_sequence;
    }
    assert_eq!(acknowledged, 130);
    let mut limited = None;
    for attempt in 0..150 {
        limited = house.emit(event(&format!("single-{attempt}"), "kpi.alert")).await.err();
        if limited.is_some() {
            break;
        }
    }
    assert_eq!(reason(&limited.unwrap()), "RATE_LIMIT_EXCEEDED");
}

#[tokio::test]
async fn a_stop_ends_streams_and_watches_and_the_server() {
    let house = house().await;
    house.health.set_ready(true);
    let mut watch = HealthClient::new(house.channel.clone())
        .watch(HealthCheckRequest { service: String::new() })
        .await
        .unwrap()
        .into_inner();
    let (sender, mut answers) = house.stream().await;
    sender.send(message(1, event("evt-1", "kpi.alert"))).await.unwrap();
    assert_eq!(answers.next().await.unwrap().unwrap().acknowledged_sequence, 1);
    house.stop.cancel();
    let ended = answers.next().await.unwrap().unwrap_err();
    assert_eq!((ended.code(), reason(&ended).as_str()), (Code::Unavailable, "SHUTTING_DOWN"));
    assert!(watch.next().await.unwrap().is_ok());
    assert_eq!(watch.next().await.unwrap().unwrap_err().code(), Code::Unavailable);
    tokio::time::timeout(std::time::Duration::from_secs(5), house.tasks.wait()).await.unwrap();
}

#[tokio::test]
async fn every_violation_of_a_destination_is_told_at_once() {
    let house = house().await;
    let mut bad = form(v1::Contract::Workspace);
    bad.url = "http://user:pw@example.com/#top".into();
    bad.settings = Some(v1::DeliverySettings {
        timeout: Some(prost_types::Duration { seconds: -1, nanos: 0 }),
        max_concurrency: Some(1000),
        ..Default::default()
    });
    bad.display_name = "x".repeat(200);
    let status = house.create(bad).await.unwrap_err();
    let details = status.get_error_details();
    let violations = &details.bad_request().unwrap().field_violations;
    let fields: Vec<&str> = violations.iter().map(|violation| violation.field.as_str()).collect();
    for field in ["settings.timeout", "settings.max_concurrency", "url", "display_name"] {
        assert!(fields.contains(&format!("destination.{field}").as_str()), "{field}: {fields:?}");
    }
}

#[tokio::test]
async fn a_destination_is_changed_by_mask_and_etag_and_its_quota_holds() {
    let house = house().await;
    let created = house.create(form(v1::Contract::Workspace)).await.unwrap();
    let update = |etag: &str, paths: &[&str]| v1::UpdateDestinationRequest {
        organization_id: ORG.into(),
        destination: Some(v1::Destination {
            display_name: "renamed".into(),
            enabled: Some(false),
            etag: etag.to_owned(),
            ..created.clone()
        }),
        update_mask: Some(prost_types::FieldMask { paths: paths.iter().map(ToString::to_string).collect() }),
        validate_only: false,
    };
    let mut client = house.destinations();
    let renamed = client.update_destination(update(&created.etag, &["display_name"])).await.unwrap();
    let renamed = renamed.into_inner().destination.unwrap();
    assert_eq!((renamed.display_name.as_str(), renamed.state()), ("renamed", v1::DestinationState::Active));
    let stale = client.update_destination(update(&created.etag, &["enabled"])).await.unwrap_err();
    assert_eq!((stale.code(), reason(&stale).as_str()), (Code::Aborted, "ETAG_MISMATCH"));
    let disabled = client.update_destination(update("", &["enabled"])).await.unwrap().into_inner();
    let disabled = disabled.destination.unwrap();
    assert_eq!((disabled.enabled, disabled.disabled_reason()), (Some(false), v1::DisabledReason::ByCaller));

    house.create(form(v1::Contract::Observer)).await.unwrap();
    let full = house.create(form(v1::Contract::Observer)).await.unwrap_err();
    assert_eq!(reason(&full), "DESTINATION_QUOTA_EXCEEDED");
    let mut seen = Vec::new();
    let mut page_token = String::new();
    loop {
        let organization_id = ORG.into();
        let request =
            v1::ListDestinationsRequest { organization_id, page_size: 1, page_token, ..Default::default() };
        let page = client.list_destinations(request).await.unwrap().into_inner();
        seen.extend(page.destinations.into_iter().map(|destination| destination.destination_id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(seen.len(), 2);
    let garbage = v1::ListDestinationsRequest {
        organization_id: ORG.into(),
        page_token: "x".into(),
        ..Default::default()
    };
    assert_eq!(reason(&client.list_destinations(garbage).await.unwrap_err()), "PAGE_TOKEN_INVALID");
}

#[tokio::test]
async fn a_generated_secret_is_told_once_and_never_read_back() {
    let house = house().await;
    let created = house.create(form(v1::Contract::StandardWebhooks)).await.unwrap();
    let mut client = house.destinations();
    let rotate = v1::RotateSecretRequest {
        organization_id: ORG.into(),
        destination_id: created.destination_id.clone(),
        ..Default::default()
    };
    let rotated = client.rotate_secret(rotate).await.unwrap().into_inner();
    assert!(rotated.generated_secret.starts_with("whsec_"));
    let get =
        v1::GetDestinationRequest { organization_id: ORG.into(), destination_id: created.destination_id };
    let read = client.get_destination(get).await.unwrap().into_inner();
    assert!(!format!("{read:?}").contains(&rotated.generated_secret));
    let missing =
        v1::GetDestinationRequest { organization_id: "org_b".into(), destination_id: "dest_x".into() };
    let missing = client.get_destination(missing).await.unwrap_err();
    assert_eq!(missing.get_error_details().resource_info().unwrap().resource_type, "destination");
}

#[tokio::test]
async fn organizations_come_into_being_and_what_is_not_there_yet_says_so() {
    let house = house().await;
    house.emit(event("evt-1", "kpi.alert")).await.unwrap();
    let mut client = OrganizationAdminClient::new(house.channel.clone());
    let usage = v1::GetUsageRequest { organization_id: ORG.into() };
    let usage = client.get_usage(usage).await.unwrap().into_inner().usage.unwrap();
    assert_eq!((usage.plan.as_str(), usage.destination_limit), ("free", Some(2)));
    let contracts = house.destinations().list_contracts(v1::ListContractsRequest::default()).await.unwrap();
    assert_eq!(contracts.into_inner().contracts.len(), 6);
    let log = client.list_audit_entries(v1::ListAuditEntriesRequest::default()).await.unwrap().into_inner();
    assert!(log.audit_entries.iter().all(|entry| entry.principal == "local"), "{log:?}");
}

#[tokio::test]
async fn the_port_for_probes_answers_health_and_nothing_else() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (health, stop, tasks) = (HealthState::new(), CancellationToken::new(), TaskTracker::new());
    tasks.spawn(serve_health(health.clone(), listener, Limits::default(), stop.clone().cancelled_owned()));
    tasks.close();
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    health.set_ready(true);
    let request = HealthCheckRequest { service: "signalpost.readiness".into() };
    let answer = HealthClient::new(channel.clone()).check(request).await.unwrap().into_inner();
    assert_eq!(answer.status, 1);
    let refused = EventIngestClient::new(channel.clone()).emit(v1::EmitRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
    stop.cancel();
    tokio::time::timeout(std::time::Duration::from_secs(5), tasks.wait()).await.unwrap();
}

#[tokio::test]
async fn reflection_lists_every_service() {
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    use tonic_reflection::pb::v1::{ListServiceResponse, ServerReflectionRequest};

    let house = house().await;
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(house.channel.clone());
    let mut answers = client.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
    let answer = answers.next().await.unwrap().unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(ListServiceResponse { service })) = answer else {
        panic!("no list of services: {answer:?}");
    };
    for name in health::SERVICES.iter().chain(&["grpc.health.v1.Health"]) {
        assert!(service.iter().any(|listed| listed.name == *name), "{name}: {service:?}");
    }
}

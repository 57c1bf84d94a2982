//! What operators and curious callers rely on: health, reflection, and answers that give nothing away.

use std::time::Duration;

use signalpost::domain::contract::Contract;
use signalpost::grpc::proto::v1;
use signalpost::receiver::Answer;
use tonic::Code;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::harness::{ORGANIZATION, Receiver, Refusal, Server, destination, event, eventually};

const SERVICES: [&str; 5] = [
    "signalpost.v1.EventIngest",
    "signalpost.v1.DestinationAdmin",
    "signalpost.v1.DeliveryAdmin",
    "signalpost.v1.OrganizationAdmin",
    "signalpost.v1.StoreAdmin",
];

async fn connect(address: std::net::SocketAddr) -> Channel {
    Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap()
}

#[tokio::test]
async fn health_is_told_for_every_service_on_both_ports_and_for_no_other() {
    let server = Server::start().await;
    for address in [server.grpc_address(), server.health_address()] {
        let mut health = HealthClient::new(connect(address).await);
        for service in SERVICES.into_iter().chain([""]) {
            let request = HealthCheckRequest { service: service.into() };
            let answer = health.check(request).await.unwrap().into_inner();
            assert_eq!(answer.status(), ServingStatus::Serving, "{address} {service}");
        }
        let unknown = HealthCheckRequest { service: "signalpost.v1.Nothing".into() };
        assert_eq!(health.check(unknown).await.unwrap_err().code(), Code::NotFound);
    }
}

#[tokio::test]
async fn a_health_watch_tells_the_stop_before_the_server_is_gone() {
    let mut server = Server::start().await;
    let mut health = HealthClient::new(connect(server.health_address()).await);
    let request = HealthCheckRequest { service: SERVICES[0].into() };
    let mut watch = health.watch(request).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    let rest = async {
        let mut seen = Vec::new();
        while let Ok(Some(answer)) = watch.message().await {
            seen.push(answer.status());
        }
        seen
    };
    let (seen, ()) = tokio::join!(rest, server.stop());
    assert_eq!(seen, [ServingStatus::NotServing]);
}

#[tokio::test]
async fn while_it_drains_a_server_says_that_it_lives_and_that_nothing_should_be_sent_to_it() {
    let (mut server, receiver) = (Server::start().await, Receiver::start().await);
    server.create(destination(Contract::Observer).url(receiver.url("/hook"))).await;
    let slow = Answer::from(http::StatusCode::OK).after(Duration::from_millis(700));
    receiver.always_answers("/hook", slow);
    server.emit(event("agent.offline")).await;
    receiver.first("/hook").await;
    let address = server.health_address();
    let check = async |service: &str| {
        // A connection of its own each time, as probes have.
        let request = HealthCheckRequest { service: service.into() };
        HealthClient::new(connect(address).await).check(request).await.unwrap().into_inner().status()
    };
    let probes = async {
        eventually("it is not ready", async || {
            (check("signalpost.readiness").await == ServingStatus::NotServing).then_some(())
        })
        .await;
        assert_eq!(check("signalpost.liveness").await, ServingStatus::Serving);
    };
    tokio::join!(probes, server.stop());
}

#[tokio::test]
async fn reflection_lists_every_service_in_both_of_its_versions() {
    use tonic_reflection::pb::v1 as stable;
    use tonic_reflection::pb::v1alpha as alpha;
    let server = Server::start().await;
    let request = stable::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(stable::server_reflection_request::MessageRequest::ListServices(String::new())),
    };
    let mut client = stable::server_reflection_client::ServerReflectionClient::new(server.channel());
    let mut answers = client.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response;
    let Some(stable::server_reflection_response::MessageResponse::ListServicesResponse(list)) = answer else {
        panic!("{answer:?}")
    };
    let names: Vec<String> = list.service.into_iter().map(|one| one.name).collect();
    for service in SERVICES.into_iter().chain(["grpc.health.v1.Health"]) {
        assert!(names.iter().any(|name| name == service), "{service}: {names:?}");
    }

    let symbol = "signalpost.v1.EventIngest.EmitStream".to_owned();
    let request = alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(alpha::server_reflection_request::MessageRequest::FileContainingSymbol(symbol)),
    };
    let mut client = alpha::server_reflection_client::ServerReflectionClient::new(server.channel());
    let mut answers = client.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response;
    let files = alpha::server_reflection_response::MessageResponse::FileDescriptorResponse;
    assert!(
        matches!(answer, Some(answer) if std::mem::discriminant(&answer) == std::mem::discriminant(&files(Default::default())))
    );
}

#[tokio::test]
async fn unknown_ids_are_not_found_with_the_kind_and_the_name_that_was_asked_for() {
    let server = Server::start().await;
    let unknown_destination = format!("dest_{}", "0".repeat(32));
    for id in [unknown_destination.as_str(), "dest_x", "größe"] {
        server.try_get(id).await.unwrap_err().assert_not_found("destination", id);
        let changed = v1::Destination { destination_id: id.into(), ..v1::Destination::default() };
        let refusal = server.try_update(changed, &["display_name"]).await.unwrap_err();
        refusal.assert_not_found("destination", id);
    }
    let unknown_delivery = format!("dlv_{}", "0".repeat(64));
    for id in [unknown_delivery.as_str(), "dlv_x", "dlv_\0"] {
        server.try_delivery(id).await.unwrap_err().assert_not_found("delivery", id);
        server.try_resend(id).await.unwrap_err().assert_not_found("delivery", id);
        server.try_replay(id).await.unwrap_err().assert_not_found("delivery", id);
        server.try_cancel(id).await.unwrap_err().assert_not_found("delivery", id);
    }
    let request = v1::GetOrganizationRequest { organization_id: "org_never_used".into() };
    let refusal = Refusal::from(server.organizations().get_organization(request).await.unwrap_err());
    refusal.assert_not_found("organization", "org_never_used");
}

#[tokio::test]
async fn another_organizations_things_look_exactly_like_unknown_ones() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    let draft = destination(Contract::Observer).url(receiver.url("/hook")).one_attempt();
    receiver.always_answers("/hook", http::StatusCode::INTERNAL_SERVER_ERROR);
    let theirs = server.try_create_in("org_theirs", draft).await.unwrap().destination_id;
    let event_id = server.try_emit_in("org_theirs", event("agent.offline")).await.unwrap().event_id;
    receiver.first("/hook").await;
    let list = |organization_id: &str| v1::ListDeliveriesRequest {
        organization_id: organization_id.into(),
        filter: Some(v1::DeliveryFilter { event_id: event_id.clone(), ..v1::DeliveryFilter::default() }),
        ..v1::ListDeliveriesRequest::default()
    };
    let seen = server.deliveries().list_deliveries(list("org_theirs")).await.unwrap().into_inner().deliveries;
    let delivery = seen[0].delivery_id.as_str();

    server.try_get(&theirs).await.unwrap_err().assert_not_found("destination", &theirs);
    server.try_delivery(delivery).await.unwrap_err().assert_not_found("delivery", delivery);
    server.try_resend(delivery).await.unwrap_err().assert_not_found("delivery", delivery);
    server.try_replay(delivery).await.unwrap_err().assert_not_found("delivery", delivery);
    server.try_cancel(delivery).await.unwrap_err().assert_not_found("delivery", delivery);
    let mine = server.deliveries().list_deliveries(list(ORGANIZATION)).await.unwrap().into_inner();
    assert_eq!(mine.deliveries, []);
    let of_theirs = v1::DeliveryFilter { destination_id: theirs.clone(), ..v1::DeliveryFilter::default() };
    let list = v1::ListDeliveriesRequest { filter: Some(of_theirs), ..list(ORGANIZATION) };
    let refusal = Refusal::from(server.deliveries().list_deliveries(list).await.unwrap_err());
    refusal.assert_not_found("destination", &theirs);
    assert_eq!(server.dead_letters().await, []);
    let request = v1::DeleteDeadLettersRequest {
        organization_id: ORGANIZATION.into(),
        selection: Some(v1::delete_dead_letters_request::Selection::Ids(v1::DeliveryIds {
            delivery_ids: vec![delivery.to_owned()],
        })),
        validate_only: false,
    };
    let deleted = server.deliveries().delete_dead_letters(request).await.unwrap().into_inner();
    assert_eq!(deleted.deleted_count, 0);
    let still_there = v1::GetDeliveryRequest {
        organization_id: "org_theirs".into(),
        delivery_id: delivery.into(),
        view: 0,
    };
    server.deliveries().get_delivery(still_there).await.unwrap();
}

#[tokio::test]
async fn page_tokens_that_are_made_up_damaged_or_borrowed_are_refused() {
    let server = Server::start().await;
    for number in 0..3 {
        server.create(destination(Contract::Observer).url(format!("https://example.com/{number}"))).await;
    }
    let list = |page_token: &str, organization_id: &str| v1::ListDestinationsRequest {
        organization_id: organization_id.into(),
        page_size: 1,
        page_token: page_token.into(),
        ..v1::ListDestinationsRequest::default()
    };
    let first = server.destinations().list_destinations(list("", ORGANIZATION)).await.unwrap().into_inner();
    let token = first.next_page_token;
    let damaged: String = token.chars().rev().collect();
    for (token, organization) in [
        ("garbage", ORGANIZATION),
        ("../../etc/passwd\0", ORGANIZATION),
        (damaged.as_str(), ORGANIZATION),
        (token.as_str(), "org_other"),
    ] {
        let status = server.destinations().list_destinations(list(token, organization)).await.unwrap_err();
        let refusal = Refusal::from(status);
        assert_eq!((refusal.code, refusal.reason.as_str()), (Code::InvalidArgument, "PAGE_TOKEN_INVALID"));
        assert_eq!(refusal.fields(), ["page_token"]);
    }
    server.destinations().list_destinations(list(&token, ORGANIZATION)).await.unwrap();
}

#[tokio::test]
async fn organizations_are_created_read_changed_and_listed() {
    let server = Server::with(&[("plans.team.max_destinations", "3")]).await;
    let create = |id: &str, plan: &str| v1::CreateOrganizationRequest {
        organization_id: id.into(),
        organization: Some(v1::Organization { plan: plan.into(), ..v1::Organization::default() }),
    };
    let created = server.organizations().create_organization(create("org_a", "team")).await.unwrap();
    let created = created.into_inner().organization.unwrap();
    assert_eq!((created.organization_id.as_str(), created.plan.as_str()), ("org_a", "team"));
    let again = server.organizations().create_organization(create("org_a", "team")).await.unwrap_err();
    let again = Refusal::from(again);
    assert_eq!((again.code, again.reason.as_str()), (Code::AlreadyExists, "ORGANIZATION_ALREADY_EXISTS"));
    let unknown = server.organizations().create_organization(create("org_b", "gold")).await.unwrap_err();
    assert_eq!(unknown.code(), Code::InvalidArgument);
    // The first use makes one, too.
    server.try_emit_in("org_c", event("a")).await.unwrap();
    let list =
        server.organizations().list_organizations(v1::ListOrganizationsRequest::default()).await.unwrap();
    let ids: Vec<String> =
        list.into_inner().organizations.into_iter().map(|one| one.organization_id).collect();
    assert_eq!(ids, ["org_a", "org_c"]);
}

//! Lists by destination: what does not exist is said to not exist, everywhere in the same words.

use http::StatusCode;
use signalpost::domain::contract::Contract;
use signalpost::grpc::proto::v1;
use signalpost::grpc::proto::v1::delete_dead_letters_request::Selection as Deleted;
use signalpost::grpc::proto::v1::replay_dead_letters_request::Selection as Replayed;

use crate::harness::{ORGANIZATION, Receiver, Refusal, Server, destination, event};

const ELSEWHERE: &str = "org_else";

fn of(destination_id: &str) -> v1::DeliveryFilter {
    v1::DeliveryFilter { destination_id: destination_id.into(), ..v1::DeliveryFilter::default() }
}

/// Asks for a destination by every call that takes one to restrict what it answers.
async fn ask_all(
    server: &Server,
    organization_id: &str,
    destination_id: &str,
) -> Vec<(&'static str, Option<Refusal>)> {
    let (organization_id, filter) = (organization_id.to_owned(), Some(of(destination_id)));
    let mut calls = server.deliveries();
    let list = v1::ListDeliveriesRequest {
        organization_id: organization_id.clone(),
        filter: filter.clone(),
        ..v1::ListDeliveriesRequest::default()
    };
    let by_event = v1::DeliveryFilter { event_id: "evt-1".into(), ..of(destination_id) };
    let of_event = v1::ListDeliveriesRequest { filter: Some(by_event), ..list.clone() };
    let letters = v1::ListDeadLettersRequest {
        organization_id: organization_id.clone(),
        filter: filter.clone(),
        ..v1::ListDeadLettersRequest::default()
    };
    let delete = v1::DeleteDeadLettersRequest {
        organization_id: organization_id.clone(),
        selection: Some(Deleted::Filter(of(destination_id))),
        validate_only: true,
    };
    let watch = v1::WatchDeliveriesRequest { organization_id, filter, cursor: String::new() };
    vec![
        ("list", calls.list_deliveries(list).await.err().map(Refusal::from)),
        ("list of an event", calls.list_deliveries(of_event).await.err().map(Refusal::from)),
        ("dead letters", calls.list_dead_letters(letters).await.err().map(Refusal::from)),
        ("delete", calls.delete_dead_letters(delete).await.err().map(Refusal::from)),
        ("watch", calls.watch_deliveries(watch).await.err().map(Refusal::from)),
    ]
}

#[tokio::test]
async fn a_list_by_a_destination_that_does_not_exist_says_so() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    let hook = destination(Contract::Observer).url(receiver.url("/hook"));
    let mine = server.create(hook.one_attempt()).await.destination_id;
    receiver.always_answers("/hook", StatusCode::INTERNAL_SERVER_ERROR);
    server.emit(event("agent.offline").id("evt-1")).await;
    server.until("evt-1", v1::DeliveryState::DeadLettered).await;
    let never = "dest_00000000000000000000000000";
    let without = server
        .create(destination(Contract::Observer).url("https://example.com/").include(&["slo.burn_started"]));
    let without = without.await.destination_id;
    for destination_id in [&mine, &without] {
        let request = v1::DeleteDestinationRequest {
            organization_id: ORGANIZATION.into(),
            destination_id: destination_id.clone(),
            ..v1::DeleteDestinationRequest::default()
        };
        for (call, refusal) in ask_all(&server, ORGANIZATION, destination_id).await {
            assert!(refusal.is_none(), "{call}: {refusal:?}");
        }
        for (call, refusal) in ask_all(&server, ELSEWHERE, destination_id).await {
            refusal.unwrap_or_else(|| panic!("{call}")).assert_not_found("destination", destination_id);
        }
        server.destinations().delete_destination(request).await.unwrap();
    }
    // What is on record of a deleted one can be listed by its organization, and by nobody else.
    for (call, refusal) in ask_all(&server, ORGANIZATION, &mine).await {
        assert!(refusal.is_none(), "{call}: {refusal:?}");
    }
    assert_eq!(server.list(of(&mine)).await.len(), 1);
    let unknown =
        [(ELSEWHERE, mine.as_str()), (ORGANIZATION, &without), (ORGANIZATION, never), (ORGANIZATION, "x")];
    for (organization_id, destination_id) in unknown {
        for (call, refusal) in ask_all(&server, organization_id, destination_id).await {
            refusal.unwrap_or_else(|| panic!("{call}")).assert_not_found("destination", destination_id);
        }
    }
    // A replay needs a destination that can still be sent to.
    let replay = v1::ReplayDeadLettersRequest {
        organization_id: ORGANIZATION.into(),
        selection: Some(Replayed::Filter(of(&mine))),
        ..v1::ReplayDeadLettersRequest::default()
    };
    let refusal: Refusal = server.deliveries().replay_dead_letters(replay).await.unwrap_err().into();
    refusal.assert_not_found("destination", &mine);
}

#[tokio::test]
async fn explaining_an_event_for_an_unknown_destination_says_that_it_is_unknown() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    server.create(destination(Contract::Observer).url(receiver.url("/hook"))).await;
    server.emit(event("agent.offline").id("evt-1")).await;
    let request = v1::ExplainEventRequest {
        organization_id: ORGANIZATION.into(),
        event_id: "evt-1".into(),
        destination_id: "dest_00000000000000000000000000".into(),
        ..v1::ExplainEventRequest::default()
    };
    let refusal: Refusal = server.deliveries().explain_event(request).await.unwrap_err().into();
    refusal.assert_not_found("destination", "dest_00000000000000000000000000");
}

//! Operational events: what Signalpost itself tells an organization, and whom it does not tell.

use std::collections::{BTreeSet, HashMap};

use http::StatusCode;
use signalpost::domain::contract::Contract;
use signalpost::domain::time::Timestamp;
use signalpost::grpc::proto::v1;
use tonic::Code;

use crate::binary::Home;
use crate::harness::{DestinationDraft, ORGANIZATION, Receiver, Server, destination, event, header};

const DEAD_LETTERED: &str = "signalpost.delivery.dead_lettered";
const EXPIRING: &str = "signalpost.dead_letter.expiring";
const ROTATED: &str = "signalpost.secret.rotated";

/// A destination that wants nothing but operational events.
fn listener(receiver: &Receiver, path: &str, types: &[&str]) -> DestinationDraft {
    let draft = destination(Contract::StandardWebhooks).url(receiver.url(path)).include(&[]);
    let types: Vec<String> = types.iter().map(ToString::to_string).collect();
    draft.with(|one| {
        one.subscription.get_or_insert_default().operational_event_types = types;
    })
}

#[tokio::test]
async fn a_dead_letter_is_told_to_those_who_listen_and_never_to_the_destination_it_is_about() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    server.create(listener(&receiver, "/ops", &[DEAD_LETTERED])).await;
    receiver.always_answers("/broken", StatusCode::INTERNAL_SERVER_ERROR);
    let broken = listener(&receiver, "/broken", &[DEAD_LETTERED]).one_attempt();
    let broken = server.create(broken.with(|one| {
        one.subscription.get_or_insert_default().event_types = vec!["agent.offline".into()];
    }));
    let broken = broken.await.destination_id;
    let event_id = server.emit(event("agent.offline")).await.event_id;
    let delivery = server.until(&event_id, v1::DeliveryState::DeadLettered).await;
    let told = receiver.wait_for("/ops", 1).await;
    let body: serde_json::Value = serde_json::from_slice(&told[0].body).unwrap();
    assert_eq!(body["type"], DEAD_LETTERED);
    assert_eq!(body["data"]["deliveryId"], delivery.delivery_id.as_str());
    assert_eq!(body["data"]["destinationId"], broken.as_str());
    assert_eq!(body["data"]["eventId"], event_id.as_str());
    assert_eq!(body["data"]["lastError"], "answered 500");
    assert_eq!(receiver.got("/broken").len(), 1, "it heard of its own dead letter");
}

#[tokio::test]
async fn an_operational_event_that_becomes_a_dead_letter_is_told_to_nobody() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    receiver.always_answers("/ops", StatusCode::INTERNAL_SERVER_ERROR);
    server.create(listener(&receiver, "/ops", &[ROTATED]).one_attempt()).await;
    server.create(listener(&receiver, "/others", &[DEAD_LETTERED])).await;
    let rotated = server
        .create(destination(Contract::Observer).url("https://example.com/").secret("one"))
        .await
        .destination_id;
    let request = v1::RotateSecretRequest {
        organization_id: ORGANIZATION.into(),
        destination_id: rotated,
        ..v1::RotateSecretRequest::default()
    };
    server.destinations().rotate_secret(request).await.unwrap();
    receiver.wait_for("/ops", 1).await;
    // Once the failure is on the record, everything that it could cause has been decided.
    let request = v1::ListDeadLettersRequest { organization_id: ORGANIZATION.into(), ..Default::default() };
    crate::harness::eventually("the dead letter", || async {
        let listed = server.deliveries().list_dead_letters(request.clone()).await.unwrap().into_inner();
        (listed.dead_letters.len() == 1).then_some(())
    })
    .await;
    assert!(receiver.got("/others").is_empty());
}

#[tokio::test]
async fn dead_letters_are_told_of_before_they_expire_all_of_a_destination_together() {
    let short = [
        ("retention.dead_letters", r#""6s""#),
        ("retention.dead_letter_notice", r#""3s""#),
        ("delivery.circuit_opens_after", "1000"),
    ];
    let (server, receiver) = (Server::with(&short).await, Receiver::start().await);
    server.create(listener(&receiver, "/ops", &[EXPIRING])).await;
    receiver.always_answers("/broken", StatusCode::INTERNAL_SERVER_ERROR);
    let broken = listener(&receiver, "/broken", &[EXPIRING]).one_attempt();
    let broken = server.create(broken.with(|one| {
        one.subscription.get_or_insert_default().event_types = vec!["agent.offline".into()];
    }));
    let broken = broken.await.destination_id;
    for _ in 0..3 {
        let event_id = server.emit(event("agent.offline")).await.event_id;
        server.until(&event_id, v1::DeliveryState::DeadLettered).await;
    }
    let letters = server.dead_letters().await;
    let mut counted = 0;
    let mut first_expires = Vec::new();
    // The three may lie on both sides of the line between two stretches of time.
    for number in 1.. {
        let told = receiver.wait_for("/ops", number).await;
        let body: serde_json::Value = serde_json::from_slice(&told[number - 1].body).unwrap();
        assert_eq!(
            (&body["type"], &body["data"]["destinationId"]),
            (&EXPIRING.into(), &broken.as_str().into())
        );
        counted += body["data"]["count"].as_u64().unwrap();
        first_expires.push(body["data"]["firstExpires"].as_str().unwrap().to_owned());
        if counted == 3 {
            break;
        }
    }
    let expected = letters.iter().map(|letter| letter.expire_time.unwrap()).map(|time| {
        Timestamp::from_millis(time.seconds * 1000 + i64::from(time.nanos) / 1_000_000).to_rfc3339_millis()
    });
    assert_eq!(first_expires.into_iter().min(), expected.min());
    crate::harness::eventually("they expired", async || server.dead_letters().await.is_empty().then_some(()))
        .await;
    assert_eq!(receiver.got("/broken").len(), 3, "it heard of its own dead letters");
}

#[tokio::test]
async fn what_happened_before_a_kill_is_told_after_it_and_each_thing_under_one_id() {
    const LETTERS: usize = 40;
    let receiver = Receiver::start().await;
    let home = Home::with(&[("delivery.circuit_opens_after", "1000")]);
    let mut process = home.start().await;
    process.create(listener(&receiver, "/ops", &[DEAD_LETTERED])).await;
    receiver.always_answers("/broken", StatusCode::INTERNAL_SERVER_ERROR);
    let broken = destination(Contract::StandardWebhooks).url(receiver.url("/broken")).one_attempt();
    process.create(broken).await;
    for number in 0..LETTERS {
        process.emit(event("agent.offline").id(&format!("evt-{number}"))).await;
        if number % 10 == 9 {
            // Some are dead letters by now, some are under way, and of some it is being told.
            process.kill();
            process = home.start().await;
        }
    }
    let mut told: HashMap<String, BTreeSet<String>> = HashMap::new();
    crate::harness::eventually("all of them are told", async || {
        told.clear();
        for request in receiver.got("/ops") {
            let body: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
            let about = body["data"]["eventId"].as_str().unwrap().to_owned();
            told.entry(about).or_default().insert(header(&request, "webhook-id").to_owned());
        }
        (told.len() == LETTERS).then_some(())
    })
    .await;
    for (about, ids) in told {
        assert_eq!(ids.len(), 1, "{about} was told as {ids:?}");
    }
    assert_eq!(process.terminate().await, Some(0));
}

#[tokio::test]
async fn a_quota_that_is_nearly_used_up_is_told_of_each_time_that_usage_rises_to_it() {
    let (server, receiver) =
        (Server::with(&[("plans.default.max_destinations", "5")]).await, Receiver::start().await);
    server.create(listener(&receiver, "/ops", &["signalpost.quota.near"])).await;
    let another = async || {
        server.create(destination(Contract::Observer).url("https://example.com/")).await.destination_id
    };
    let mut created = vec![another().await, another().await];
    assert!(receiver.got("/ops").is_empty());
    created.push(another().await);
    created.push(another().await);
    let told = receiver.wait_for("/ops", 1).await;
    let body: serde_json::Value = serde_json::from_slice(&told[0].body).unwrap();
    assert_eq!(body["type"], "signalpost.quota.near");
    assert_eq!(body["data"], serde_json::json!({"quota": "destinations", "limit": 5, "usage": 4}));
    for destination_id in created.drain(2..) {
        let organization_id = ORGANIZATION.into();
        let request = v1::DeleteDestinationRequest { organization_id, destination_id, ..Default::default() };
        server.destinations().delete_destination(request).await.unwrap();
    }
    another().await;
    let told = receiver.wait_for("/ops", 2).await;
    // The fifth destination told nothing: what it would have told came before this.
    assert_eq!(told.len(), 2);
    assert_ne!(header(&told[0], "webhook-id"), header(&told[1], "webhook-id"));
}

#[tokio::test]
async fn operational_types_are_known_by_name_and_not_for_closed_catalogues() {
    let server = Server::start().await;
    let wants = |draft: DestinationDraft, name: &str| {
        let types = vec![name.to_owned()];
        draft.with(|one| one.subscription.get_or_insert_default().operational_event_types = types)
    };
    let path = "destination.subscription.operational_event_types";
    let closed = wants(destination(Contract::Observer).url("https://example.com/"), DEAD_LETTERED);
    let refusal = server.try_create(closed).await.unwrap_err();
    assert_eq!((refusal.code, refusal.fields()), (Code::InvalidArgument, vec![path]));
    let unknown =
        wants(destination(Contract::StandardWebhooks).url("https://example.com/"), "signalpost.nonsense");
    let refusal = server.try_create(unknown).await.unwrap_err();
    assert!(refusal.about(path).contains(DEAD_LETTERED), "{}", refusal.about(path));
}

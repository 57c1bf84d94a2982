//! The Rust client and the example receiver against the real server.

#[path = "../../clients/rust/examples/receive/verify.rs"]
mod verify;

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use http::StatusCode;
use signalpost::clock::{Clock, SystemClock};
use signalpost::domain::contract::Contract;
use signalpost::receiver::Answer;
use signalpost_client::proto::v1;
use signalpost_client::{Client, Code, Error, ErrorReason, Event, StreamOptions};
use tokio::task::JoinSet;

use crate::binary::Home;
use crate::harness::{ORGANIZATION, Receiver, Server, destination};

const PLAIN: &str = "my-secret-key";
const CURRENT: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const OLD: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const KEY_PAIR: &str =
    "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==";
const PUBLIC: &str = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=";

fn client(address: SocketAddr) -> Client {
    Client::builder(format!("http://{address}")).organization(ORGANIZATION).build().unwrap()
}

/// A port that nobody listens on.
fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

async fn create(client: &Client, contract: v1::Contract, url: String, secret: &str) -> v1::Destination {
    let source = v1::secret_ref::Source::Value(secret.into());
    let destination = v1::Destination {
        url,
        contract: contract.into(),
        signing_secret: Some(v1::SecretRef { source: Some(source) }),
        ..v1::Destination::default()
    };
    let request = v1::CreateDestinationRequest {
        organization_id: ORGANIZATION.into(),
        destination: Some(destination),
        validate_only: false,
    };
    client.destinations().create_destination(request).await.unwrap().into_inner().destination.unwrap()
}

fn now() -> u64 {
    u64::try_from(SystemClock.now().as_seconds()).unwrap()
}

/// Contract, as the example receiver calls it; the secret that signs, the one that verifies; a type of event
/// that every destination of it wants.
const CONTRACTS: [(v1::Contract, verify::Contract, &str, &str, &str); 7] = [
    (v1::Contract::Semaphor, verify::Contract::Semaphor, PLAIN, PLAIN, "query_failed"),
    (v1::Contract::Stalwart, verify::Contract::Stalwart, PLAIN, PLAIN, "auth.success"),
    (v1::Contract::Workspace, verify::Contract::Workspace, PLAIN, PLAIN, "kpi.alert"),
    (v1::Contract::Observer, verify::Contract::Observer, PLAIN, PLAIN, "slo.burn_started"),
    (v1::Contract::StandardWebhooks, verify::Contract::StandardWebhooks, CURRENT, CURRENT, "invoice.paid"),
    (v1::Contract::StandardWebhooks, verify::Contract::StandardWebhooks, KEY_PAIR, PUBLIC, "invoice.paid"),
    (v1::Contract::Cloudevents, verify::Contract::CloudEvents, CURRENT, CURRENT, "com.example.paid"),
];

#[tokio::test]
async fn what_the_client_emits_the_example_receiver_verifies_for_every_contract() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    let client = client(server.grpc_address());
    for (number, (contract, expected, signs, verifies, event_type)) in CONTRACTS.into_iter().enumerate() {
        let (path, id) = (format!("/{number}"), format!("evt-{number}"));
        let made = create(&client, contract, receiver.url(&path), signs).await;
        let event = Event::new(event_type).id(&id).json(r#"{"digits":12345678901234567890}"#);
        let accepted = client.emit(event).await.unwrap();
        assert_eq!((accepted.event_id.as_str(), accepted.delivery_count), (id.as_str(), 1));
        let request = receiver.first(&path).await;
        let events = verify::verify(expected, &[verifies], &request.headers, &request.body, now());
        let received = verify::Received { id, event_type: event_type.into() };
        assert_eq!(events.unwrap(), [received], "{expected:?}");
        let delete = v1::DeleteDestinationRequest {
            organization_id: ORGANIZATION.into(),
            destination_id: made.destination_id,
            ..v1::DeleteDestinationRequest::default()
        };
        client.destinations().delete_destination(delete).await.unwrap();
    }
}

#[tokio::test]
async fn while_secrets_rotate_the_example_receiver_verifies_with_either_one() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    let client = client(server.grpc_address());
    let made = create(&client, v1::Contract::StandardWebhooks, receiver.url("/hook"), CURRENT).await;
    let rotate = v1::RotateSecretRequest {
        organization_id: ORGANIZATION.into(),
        destination_id: made.destination_id,
        new_secret: Some(v1::SecretRef { source: Some(v1::secret_ref::Source::Value(OLD.into())) }),
        ..v1::RotateSecretRequest::default()
    };
    client.destinations().rotate_secret(rotate).await.unwrap();
    client.emit(Event::new("invoice.paid")).await.unwrap();
    let request = receiver.first("/hook").await;
    for known in [CURRENT, OLD] {
        let contract = verify::Contract::StandardWebhooks;
        assert!(verify::verify(contract, &[known], &request.headers, &request.body, now()).is_ok());
    }
}

#[tokio::test]
async fn a_refusal_tells_every_field_and_a_batch_tells_each_event() {
    let server = Server::start().await;
    let client = client(server.grpc_address());
    let error = client.emit(Event::new("no spaces").id("no.dots").json("[1]")).await.unwrap_err();
    let refusal = error.refusal().unwrap();
    assert_eq!(refusal.code, Code::InvalidArgument);
    let fields: Vec<&str> = refusal.violations.iter().map(|one| one.field.as_str()).collect();
    assert!(fields.contains(&"event.event_id") && fields.contains(&"event.type"), "{fields:?}");

    let batch = [Event::new("fine").id("one"), Event::new("fine").json("{")];
    let results = client.emit_batch(batch).await.unwrap();
    assert_eq!(results[0].as_ref().unwrap().event_id, "one");
    assert_eq!(results[1].as_ref().unwrap_err().reason, Some(ErrorReason::PayloadNotJson));

    assert!(client.emit(Event::new("fine").id("one")).await.unwrap().duplicate);
    let conflict = client.emit(Event::new("other").id("one")).await.unwrap_err();
    assert_eq!(conflict.refusal().unwrap().reason, Some(ErrorReason::EventIdConflict));
}

#[tokio::test]
async fn a_server_that_is_not_there_is_waited_for_until_the_deadline() {
    let address = free_address();
    let builder = Client::builder(format!("http://{address}")).organization(ORGANIZATION);
    let hasty = builder.clone().deadline(Duration::from_millis(300)).build().unwrap();
    let error = hasty.emit(Event::new("fine")).await.unwrap_err();
    assert_eq!(error.refusal().unwrap().code, Code::DeadlineExceeded, "{error}");
    assert!(error.to_string().contains("the last answer was"), "{error}");

    let patient = builder.build().unwrap();
    let mut emitting = JoinSet::new();
    emitting.spawn(async move { patient.emit(Event::new("fine").id("patient")).await });
    let home = Home::with(&[("listen.grpc", &format!("{:?}", address.to_string()))]);
    let process = home.start().await;
    assert_eq!(emitting.join_next().await.unwrap().unwrap().unwrap().event_id, "patient");
    process.kill();
}

#[tokio::test]
async fn a_stream_holds_the_sender_back_and_answers_everyone_in_the_end() {
    let server = Server::start().await;
    let options = StreamOptions { max_in_flight: 10, ..StreamOptions::default() };
    let stream = client(server.grpc_address()).stream_with(options);
    let mut waiting = Vec::new();
    for number in 0..100 {
        waiting.push(stream.send(Event::new("fine").id(format!("e{number}"))).await.unwrap());
    }
    let refused = stream.send(Event::new("not fine")).await.unwrap();
    stream.close().await.unwrap();
    for (number, acknowledgement) in waiting.into_iter().enumerate() {
        assert_eq!(acknowledgement.await.unwrap().event_id, format!("e{number}"));
    }
    assert_eq!(refused.await.unwrap_err().refusal().unwrap().code, Code::InvalidArgument);
}

#[tokio::test]
async fn a_stream_that_gives_up_answers_everyone_and_takes_nothing_more() {
    let options = StreamOptions { patience: Duration::from_millis(200), ..StreamOptions::default() };
    let stream = client(free_address()).stream_with(options);
    let acknowledgement = stream.send(Event::new("fine")).await.unwrap();
    let error = acknowledgement.await.unwrap_err();
    assert_eq!(error.refusal().unwrap().code, Code::Unavailable);
    assert!(matches!(stream.send(Event::new("fine")).await, Err(Error::Closed)));
    assert!(stream.close().await.unwrap_err().refusal().is_some());
}

#[derive(Debug, Clone, Copy)]
enum Restart {
    Terminate,
    Kill,
}

#[tokio::test]
async fn a_stream_outlives_stops_and_kills_of_the_server_and_nothing_acknowledged_is_missing() {
    const EVENTS: usize = 600;
    let (address, receiver) = (free_address(), Receiver::start().await);
    receiver.always_answers("/hook", Answer::from(StatusCode::OK));
    let home = Home::with(&[("listen.grpc", &format!("{:?}", address.to_string()))]);
    let mut process = home.start().await;
    process.create(destination(Contract::Observer).url(receiver.url("/hook"))).await;

    let options = StreamOptions { max_in_flight: 50, ..StreamOptions::default() };
    let stream = client(address).stream_with(options);
    let mut waiting = Vec::new();
    for number in 0..EVENTS {
        let restart = match number {
            100 | 400 => Some(Restart::Terminate),
            250 | 500 => Some(Restart::Kill),
            _ => None,
        };
        // Up to 50 events are on their way, with and without an answer.
        if let Some(restart) = restart {
            match restart {
                Restart::Terminate => assert_eq!(process.terminate().await, Some(0)),
                Restart::Kill => process.kill(),
            }
            process = home.start().await;
        }
        waiting.push(stream.send(Event::new("agent.offline").id(format!("e{number}"))).await.unwrap());
    }
    stream.close().await.unwrap();
    let mut acknowledged = BTreeSet::new();
    for acknowledgement in waiting {
        acknowledged.insert(acknowledgement.await.unwrap().event_id);
    }
    assert_eq!(acknowledged.len(), EVENTS);
    let arrived = crate::harness::eventually("every acknowledged event arrives", async || {
        let requests = receiver.got("/hook");
        let ids: BTreeSet<String> = requests
            .iter()
            .map(|one| crate::harness::header(one, "signalpost-event-id").to_owned())
            .collect();
        (ids.len() == EVENTS).then_some(ids)
    });
    assert_eq!(arrived.await, acknowledged);
    assert_eq!(process.terminate().await, Some(0));
}

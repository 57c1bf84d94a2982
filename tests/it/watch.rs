//! Watching: changes of state as they happen, from now on or behind a cursor.

use std::time::Duration;

use http::StatusCode;
use signalpost::domain::contract::Contract;
use signalpost::grpc::proto::v1;
use tonic::{Code, Streaming};

use crate::harness::{
    DestinationDraft, ORGANIZATION, PATIENCE, Receiver, Refusal, Server, destination, event,
};

type Changes = Streaming<v1::WatchDeliveriesResponse>;

fn observer(receiver: &Receiver) -> DestinationDraft {
    destination(Contract::Observer).url(receiver.url("/hook"))
}

fn watch(cursor: &str) -> v1::WatchDeliveriesRequest {
    v1::WatchDeliveriesRequest {
        organization_id: ORGANIZATION.into(),
        cursor: cursor.into(),
        ..v1::WatchDeliveriesRequest::default()
    }
}

fn final_states() -> Option<v1::DeliveryFilter> {
    let states = vec![v1::DeliveryState::Succeeded.into(), v1::DeliveryState::DeadLettered.into()];
    Some(v1::DeliveryFilter { states, ..v1::DeliveryFilter::default() })
}

impl Server {
    async fn watch(&self, request: v1::WatchDeliveriesRequest) -> Result<Changes, Refusal> {
        Ok(self.deliveries().watch_deliveries(request).await?.into_inner())
    }
}

/// The next change: event, state, and the cursor behind it.
async fn next(changes: &mut Changes) -> (String, v1::DeliveryState, String) {
    let told = tokio::time::timeout(PATIENCE, changes.message()).await.unwrap().unwrap().unwrap();
    let delivery = told.delivery.unwrap();
    assert!(told.change_time.is_some() && delivery.attempts.len() <= 1);
    (delivery.event_id.clone(), delivery.state(), told.cursor)
}

#[tokio::test]
async fn changes_come_as_they_happen_and_go_on_behind_a_cursor() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    server.create(observer(&receiver).one_attempt()).await;
    server.emit(event("agent.offline").id("before")).await;
    server.until("before", v1::DeliveryState::Succeeded).await;
    let mut changes = server.watch(watch("")).await.unwrap();
    server.emit(event("agent.offline").id("evt-1")).await;
    let (id, state, behind_waiting) = next(&mut changes).await;
    assert_eq!((id.as_str(), state), ("evt-1", v1::DeliveryState::Waiting));
    let (id, state, behind_first) = next(&mut changes).await;
    assert_eq!((id.as_str(), state), ("evt-1", v1::DeliveryState::Succeeded));
    drop(changes);
    receiver.will_answer("/hook", [StatusCode::INTERNAL_SERVER_ERROR]);
    server.emit(event("agent.offline").id("evt-2")).await;
    server.until("evt-2", v1::DeliveryState::DeadLettered).await;
    let mut again = server.watch(watch(&behind_first)).await.unwrap();
    let told = [next(&mut again).await, next(&mut again).await].map(|(id, state, _)| (id, state));
    let expected = [v1::DeliveryState::Waiting, v1::DeliveryState::DeadLettered];
    assert_eq!(told, expected.map(|state| ("evt-2".to_owned(), state)));
    let mut again = server.watch(watch(&behind_waiting)).await.unwrap();
    assert_eq!(next(&mut again).await.1, v1::DeliveryState::Succeeded);
}

#[tokio::test]
async fn a_filter_lets_only_its_changes_through_and_other_organizations_see_none() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    server.create(observer(&receiver)).await;
    let filtered = v1::WatchDeliveriesRequest { filter: final_states(), ..watch("") };
    let mut changes = server.watch(filtered).await.unwrap();
    let elsewhere = v1::WatchDeliveriesRequest { organization_id: "org_else".into(), ..watch("") };
    let mut elsewhere = server.watch(elsewhere).await.unwrap();
    for id in ["evt-1", "evt-2"] {
        server.emit(event("agent.offline").id(id)).await;
        let (told, state, _) = next(&mut changes).await;
        assert_eq!((told.as_str(), state), (id, v1::DeliveryState::Succeeded));
    }
    let nothing = tokio::time::timeout(Duration::from_millis(50), elsewhere.message()).await;
    assert!(nothing.is_err());
}

#[tokio::test]
async fn a_watch_goes_on_after_a_restart_from_the_store() {
    let (mut server, receiver) = (Server::start().await, Receiver::start().await);
    server.create(observer(&receiver)).await;
    let request = v1::WatchDeliveriesRequest { filter: final_states(), ..watch("") };
    let mut changes = server.watch(request.clone()).await.unwrap();
    server.emit(event("agent.offline").id("evt-1")).await;
    let cursor = next(&mut changes).await.2;
    server.emit(event("agent.offline").id("evt-2")).await;
    next(&mut changes).await;
    server.stop().await;
    let ended: Refusal = changes.message().await.unwrap_err().into();
    assert_eq!((ended.code, ended.reason.as_str()), (Code::Unavailable, "SHUTTING_DOWN"));
    server.resume_with(&[]).await;
    let mut changes = server.watch(v1::WatchDeliveriesRequest { cursor, ..request }).await.unwrap();
    // What was told shortly before the cursor may be told again.
    let caught_up = [next(&mut changes).await.0, next(&mut changes).await.0];
    assert_eq!(caught_up, ["evt-2", "evt-1"]);
    server.emit(event("agent.offline").id("evt-3")).await;
    assert_eq!(next(&mut changes).await.0, "evt-3");
}

#[tokio::test]
async fn a_damaged_a_strange_and_an_expired_cursor_are_refused() {
    let (server, receiver) =
        (Server::with(&[("retention.history", r#""1s""#)]).await, Receiver::start().await);
    server.create(observer(&receiver)).await;
    let mut changes = server.watch(watch("")).await.unwrap();
    server.emit(event("agent.offline")).await;
    let cursor = next(&mut changes).await.2;
    for request in [
        watch("nonsense"),
        v1::WatchDeliveriesRequest { filter: final_states(), ..watch(&cursor) },
        v1::WatchDeliveriesRequest { organization_id: "org_else".into(), ..watch(&cursor) },
    ] {
        let refusal = server.watch(request).await.unwrap_err();
        assert_eq!((refusal.code, refusal.reason.as_str()), (Code::InvalidArgument, "CURSOR_INVALID"));
    }
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let refusal = server.watch(watch(&cursor)).await.unwrap_err();
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::OutOfRange, "CURSOR_EXPIRED"));
    assert!(refusal.metadata.contains_key("retained_from"));
}

#[tokio::test]
async fn a_watcher_that_reads_nothing_slows_nobody_and_misses_nothing_when_it_reads_on() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    let held = server.create(observer(&receiver)).await;
    server.pause(&held.destination_id).await;
    server
        .create(destination(Contract::Observer).url(receiver.url("/live")).include(&["slo.burn_started"]))
        .await;
    let mut changes = server.watch(watch("")).await.unwrap();
    // More than the server holds in memory and the connection holds besides.
    let mut missing = std::collections::BTreeSet::new();
    for _ in 0..10 {
        let drafts = (0..1000).map(|_| event("agent.offline")).collect();
        for result in server.emit_batch(drafts).await {
            let v1::emit_batch_result::Result::Accepted(accepted) = result else { panic!("{result:?}") };
            missing.insert(accepted.event_id);
        }
    }
    missing.insert(server.emit(event("slo.burn_started")).await.event_id);
    receiver.first("/live").await;
    while !missing.is_empty() {
        missing.remove(&next(&mut changes).await.0);
    }
}

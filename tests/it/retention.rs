//! What is finished is removed by age; what waits is not.

use http::StatusCode;
use signalpost::domain::contract::Contract;
use signalpost::grpc::proto::v1;

use crate::harness::{DestinationDraft, ORGANIZATION, Receiver, Server, destination, event, eventually};

const SHORT: [(&str, &str); 2] = [("retention.history", r#""1s""#), ("retention.dead_letters", r#""2s""#)];

fn observer(receiver: &Receiver, path: &str) -> DestinationDraft {
    destination(Contract::Observer).url(receiver.url(path)).include(&["agent.offline"])
}

#[tokio::test]
async fn history_and_dead_letters_go_by_age_and_paused_deliveries_stay() {
    let (server, receiver) = (Server::with(&SHORT).await, Receiver::start().await);
    server.create(observer(&receiver, "/dead").one_attempt()).await;
    receiver.always_answers("/dead", StatusCode::INTERNAL_SERVER_ERROR);
    server.emit(event("agent.offline").id("dead")).await;
    server.until("dead", v1::DeliveryState::DeadLettered).await;
    let letter = server.dead_letters().await.remove(0);
    let (expires, became) = (letter.expire_time.unwrap(), letter.finish_time.unwrap());
    assert_eq!(expires.seconds, became.seconds + 2);
    let held = server.create(observer(&receiver, "/held").include(&["slo.burn_started"])).await;
    server.pause(&held.destination_id).await;
    server.emit(event("slo.burn_started").id("held")).await;
    eventually("the dead letter is gone", async || server.dead_letters().await.is_empty().then_some(()))
        .await;
    eventually("its record is gone", async || {
        server.try_delivery(&letter.delivery_id).await.err().filter(|one| one.reason == "DELIVERY_NOT_FOUND")
    })
    .await;
    // Its id is free again.
    assert!(!server.emit(event("agent.offline").id("dead")).await.duplicate);
    server.resume_destination(&held.destination_id).await;
    receiver.first("/held").await;
}

#[tokio::test]
async fn usage_tells_what_waits_and_how_long_history_is_kept() {
    let plans = [("plans.default.retention", r#""48h""#)];
    let (server, receiver) = (Server::with(&plans).await, Receiver::start().await);
    let held = server.create(observer(&receiver, "/held")).await;
    server.pause(&held.destination_id).await;
    server.emit(event("agent.offline")).await;
    let request = v1::GetUsageRequest { organization_id: ORGANIZATION.into() };
    let usage = server.organizations().get_usage(request).await.unwrap().into_inner().usage.unwrap();
    assert_eq!((usage.retention_hours, usage.waiting_count), (48, 1));
    assert!(usage.measure_time.is_some());
}

//! Ends that come while a delivery waits, on paused time: given up, too old, and what a pause changes of that: nothing.

use std::time::Duration;

use super::tests::{Stage, no_jitter};
use super::*;
use crate::domain::contract::Contract;
use crate::domain::delivery::{CycleCause, Delivery, DeliveryState, EndReason};
use crate::domain::destination::DestinationState;
use crate::domain::id::{DeliveryId, EventId};
use crate::domain::settings::{DeliverySettings, Guarantee, RetryPolicy, RetrySchedule};
use crate::store::DeliveryStore;
use crate::transport::scripted::{ScriptedTransport, answered};

const HOUR: Duration = Duration::from_secs(3600);

fn giving_up_after(limit: Duration) -> DeliverySettings {
    let retry = no_jitter(Contract::Observer).retry.unwrap();
    let retry = RetryPolicy { give_up_after: Some(limit), ..retry };
    DeliverySettings { retry: Some(retry), ..DeliverySettings::default() }
}

async fn pause(stage: &Stage, id: DestinationId) {
    let paused = DestinationState::Paused { since: stage.clock.now() };
    stage.change(id, |destination| destination.state = paused).await;
}

/// A given-up dead letter, and how long after its cycle began.
fn given_up_after(delivery: &Delivery) -> Duration {
    let DeliveryState::DeadLettered { at, reason: EndReason::GaveUp } = delivery.state else {
        panic!("{:?}", delivery.state)
    };
    at.since(delivery.cycle.started_at)
}

#[tokio::test(start_paused = true)]
async fn a_paused_delivery_is_given_up_in_time_without_an_attempt_and_its_replay_has_the_whole_time_again() {
    let stage = Stage::set();
    let id = stage.destination(Contract::Observer, giving_up_after(HOUR)).await;
    pause(&stage, id).await;
    let waiting = stage.emit(id).await;
    let delivery = stage.finished(waiting).await;
    assert_eq!((given_up_after(&delivery), delivery.attempt_count), (HOUR, 0));
    let now = stage.clock.now();
    stage.store.requeue(vec![waiting], CycleCause::Replay, now).await.unwrap();
    tokio::time::sleep(HOUR / 2).await;
    stage.change(id, |destination| destination.state = DestinationState::Active).await;
    let delivery = stage.finished(waiting).await;
    assert!(matches!(delivery.state, DeliveryState::Succeeded { .. }), "{:?}", delivery.state);
}

#[tokio::test(start_paused = true)]
async fn more_than_the_window_is_given_up_in_time_while_paused_over_a_restart() {
    let stage = Stage::set();
    let id = stage.destination(Contract::Observer, giving_up_after(HOUR)).await;
    pause(&stage, id).await;
    let mut waiting = Vec::new();
    for _ in 0..50 {
        waiting.push(stage.emit(id).await);
    }
    let stage = stage.restart(false).await;
    for id in waiting {
        let delivery = stage.finished(id).await;
        let took = given_up_after(&delivery);
        assert!(took >= HOUR && took < HOUR + Duration::from_secs(1), "{took:?}");
    }
    assert_eq!(stage.transport.requests().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_held_behind_an_open_circuit_is_given_up_in_time() {
    let transport = Arc::new(ScriptedTransport::with_rule(|_| answered(500)));
    let stage = Stage::scripted(transport);
    let limit = Duration::from_secs(600);
    let id = stage.destination(Contract::Observer, giving_up_after(limit)).await;
    let mut waiting: Vec<DeliveryId> = Vec::new();
    for _ in 0..60 {
        waiting.push(stage.emit(id).await);
    }
    let mut held = 0;
    for id in waiting {
        let delivery = stage.finished(id).await;
        assert!(given_up_after(&delivery) <= limit + Duration::from_secs(1));
        held += usize::from(delivery.attempt_count == 0);
    }
    assert!(held > 30, "{held} of 60 never had an attempt");
}

#[tokio::test(start_paused = true)]
async fn best_effort_that_is_given_up_while_it_waits_is_discarded() {
    let stage = Stage::set();
    let settings = DeliverySettings { guarantee: Some(Guarantee::BestEffort), ..giving_up_after(HOUR) };
    let id = stage.destination(Contract::Observer, settings).await;
    pause(&stage, id).await;
    let waiting = stage.emit(id).await;
    tokio::time::sleep(HOUR * 2).await;
    let state = stage.store.delivery(waiting).await.unwrap().unwrap().state;
    assert!(matches!(state, DeliveryState::Discarded { reason: EndReason::GaveUp, .. }), "{state:?}");
}

#[tokio::test(start_paused = true)]
async fn no_attempt_begins_after_the_give_up_time_and_the_last_one_that_fails_ends_it() {
    let stage = Stage::set();
    stage.answer([500; 9]);
    // Attempts after 5, 25, 105 and 425 seconds; the next would come after 1705.
    let id = stage.destination(Contract::Observer, giving_up_after(Duration::from_secs(500))).await;
    let delivery = stage.emit(id).await;
    let delivery = stage.finished(delivery).await;
    assert_eq!((delivery.attempt_count, given_up_after(&delivery).as_secs()), (5, 425));
}

#[tokio::test(start_paused = true)]
async fn a_final_status_ends_a_delivery_at_once_and_other_failures_do_not() {
    for (status, attempts, reason) in
        [(422, 1, EndReason::FinalStatus), (500, 8, EndReason::AttemptsExhausted)]
    {
        let stage = Stage::set();
        stage.answer([status; 9]);
        let retry = no_jitter(Contract::Observer).retry.unwrap();
        let retry = RetryPolicy { final_statuses: [422, 400].into(), ..retry };
        let settings = DeliverySettings { retry: Some(retry), ..DeliverySettings::default() };
        let id = stage.destination(Contract::Observer, settings).await;
        let delivery = stage.finished(stage.emit(id).await).await;
        assert_eq!((delivery.attempt_count, delivery.state.reason()), (attempts, Some(reason)));
        assert!(matches!(delivery.state, DeliveryState::DeadLettered { .. }));
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_goes_to_the_changed_url_and_is_signed_with_the_rotated_secret() {
    use crate::domain::destination::DestinationUrl;
    use crate::domain::secret::{Secret, SecretSource, SigningSecrets};
    let secret = |text: &str| SigningSecrets {
        current: Some(SecretSource::Value(Secret::new(text))),
        ..SigningSecrets::default()
    };
    let stage = Stage::set();
    stage.answer([500, 500]);
    let id = stage.destination(Contract::Workspace, no_jitter(Contract::Workspace)).await;
    stage.change(id, |destination| destination.signing = secret("first-secret-of-the-test")).await;
    let waiting = stage.emit(id).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    stage.change(id, |destination| destination.signing = secret("second-secret-of-the-test")).await;
    tokio::time::sleep(Duration::from_secs(100)).await;
    let url = DestinationUrl::parse("https://elsewhere.example/hook", false).unwrap();
    stage.change(id, |destination| destination.url = url).await;
    stage.finished(waiting).await;
    let requests = stage.transport.requests();
    let hosts: Vec<_> =
        requests.iter().map(|sent| sent.request.url().host_str().unwrap().to_owned()).collect();
    assert_eq!(hosts, ["receiver.example", "receiver.example", "elsewhere.example"]);
    let signature = |at: usize| requests[at].request.headers()["x-webhook-signature"].clone();
    assert_eq!(requests[0].request.body(), requests[1].request.body());
    assert_ne!(signature(0), signature(1), "the same bytes under another secret");
    assert_eq!(signature(1), signature(2));
}

#[tokio::test(start_paused = true)]
async fn first_attempts_of_a_lane_do_not_wait_behind_its_retries() {
    // Half of what is answered fails at once, so that many retries are due at any time.
    let stage = Stage::set();
    let schedule = RetrySchedule::Fixed(vec![Duration::from_secs(1)]);
    let retry = RetryPolicy { schedule, jitter: 0.0, ..crate::contract::defaults(Contract::Observer).retry };
    let settings =
        DeliverySettings { retry: Some(retry), max_concurrency: Some(1), ..DeliverySettings::default() };
    let id = stage.destination(Contract::Observer, settings).await;
    stage.answer([500, 200].into_iter().cycle().take(14));
    let mut old = Vec::new();
    for _ in 0..14 {
        old.push(stage.emit(id).await);
    }
    // Seven retries are about to be due; then four first attempts come, and all are sent one by one.
    tokio::time::sleep(Duration::from_millis(900)).await;
    stage.transport.hold();
    let blocker = stage.emit(id).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut young = Vec::new();
    for _ in 0..4 {
        young.push(stage.emit(id).await);
    }
    let sent_before = stage.transport.requests().len();
    stage.transport.release();
    for id in young.iter().chain(&old).chain([&blocker]) {
        stage.finished(*id).await;
    }
    let key_of = |at: usize| {
        let request = &stage.transport.requests()[at].request;
        request.headers()["signalpost-event-id"].to_str().unwrap().to_owned()
    };
    let is_young = |at: usize| young.iter().any(|id| EventId::from_key(id.event_key).as_str() == key_of(at));
    let order: Vec<bool> = (sent_before..sent_before + 6).map(is_young).collect();
    assert_eq!(order.iter().filter(|young| **young).count(), 4, "all four are among the next six: {order:?}");
    assert!(order.contains(&false), "a retry came forward, too: {order:?}");
}

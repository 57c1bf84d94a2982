//! Stop and start: what is sent at a stop, what is counted, and what the next process does.

use std::time::Duration;

use super::tests::{HOST, START, Stage, no_jitter};
use super::*;
use crate::domain::contract::Contract;
use crate::domain::delivery::DeliveryState;
use crate::domain::id::DeliveryId;
use crate::domain::settings::{DeliverySettings, Guarantee};
use crate::store::{DeliveryStore, Store};
use crate::transport::scripted::answered;

async fn stalwart(stage: &Stage, throttle: Duration) -> DestinationId {
    let settings = DeliverySettings { throttle: Some(throttle), ..DeliverySettings::default() };
    stage.destination(Contract::Stalwart, settings).await
}

/// One delivery that has arrived, and two that gather for the next request.
async fn gathering(stage: &Stage, id: DestinationId) -> [DeliveryId; 2] {
    let first = stage.emit(id).await;
    stage.finished(first).await;
    [stage.emit(id).await, stage.emit(id).await]
}

async fn state(stage: &Stage, id: DeliveryId) -> DeliveryState {
    stage.store.delivery(id).await.unwrap().unwrap().state
}

#[tokio::test(start_paused = true)]
async fn what_has_gathered_for_a_request_is_sent_at_a_stop_and_the_throttle_is_kept() {
    let stage = Stage::set();
    let id = stalwart(&stage, Duration::from_secs(8)).await;
    let waiting = gathering(&stage, id).await;
    let transport = Arc::clone(&stage.transport);
    let store = stage.stop().await;
    for delivery in waiting {
        let delivery = store.delivery(delivery).await.unwrap().unwrap();
        assert!(matches!(delivery.state, DeliveryState::Succeeded { .. }), "{:?}", delivery.state);
        assert_eq!(delivery.attempts[0].batch_size, 2);
    }
    let at: Vec<_> = transport.requests().iter().map(|request| request.at).collect();
    assert_eq!(at.len(), 2);
    assert!(at[1] - at[0] >= Duration::from_secs(8));
}

#[tokio::test(start_paused = true)]
async fn what_has_gathered_waits_for_the_next_start_where_the_throttle_is_too_long_for_the_stop() {
    let stage = Stage::set();
    let id = stalwart(&stage, Duration::from_secs(60)).await;
    let waiting = gathering(&stage, id).await;
    let begun = tokio::time::Instant::now();
    let stage = stage.restart(false).await;
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    for delivery in waiting {
        assert_eq!(stage.finished(delivery).await.attempts[0].batch_size, 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_sends_nothing_that_gathered_past_a_failing_delivery_or_an_open_circuit() {
    let stage = Stage::set();
    stage.answer([500; 20]);
    let id = stalwart(&stage, Duration::from_secs(1)).await;
    let failing = stage.emit(id).await;
    // The third attempt has failed; the fourth is due four seconds later.
    while stage.transport.requests().len() < 3 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let behind = stage.emit(id).await;
    let stage = stage.restart(false).await;
    assert_eq!(stage.transport.requests().len(), 3);
    for delivery in [failing, behind] {
        assert!(matches!(state(&stage, delivery).await, DeliveryState::Waiting { .. }));
    }
}

#[tokio::test(start_paused = true)]
async fn at_a_hard_stop_an_unfinished_attempt_is_not_counted_and_is_made_again() {
    let stage = Stage::set();
    let id = stage.destination(Contract::Observer, no_jitter(Contract::Observer)).await;
    stage.transport.hold();
    let delivery = stage.emit(id).await;
    stage.transport.wait_for_in_flight(1).await;
    let begun = tokio::time::Instant::now();
    let stage = stage.restart(true).await;
    assert!(
        begun.elapsed() < Duration::from_millis(1),
        "a hard stop waits for nobody: {:?}",
        begun.elapsed()
    );
    let record = stage.store.delivery(delivery).await.unwrap().unwrap();
    assert_eq!((record.attempt_count, record.attempts.len()), (0, 0));
    stage.transport.release();
    assert_eq!(stage.finished(delivery).await.attempt_count, 1);
    assert_eq!(stage.transport.requests().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_soft_stop_waits_for_the_attempt_under_way_and_counts_it_and_the_next_start_sends_nothing_twice() {
    let stage = Stage::set();
    let id = stage.destination(Contract::Observer, no_jitter(Contract::Observer)).await;
    stage.transport.hold();
    let delivery = stage.emit(id).await;
    stage.transport.wait_for_in_flight(1).await;
    let transport = Arc::clone(&stage.transport);
    let release = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        transport.release();
    };
    let (stage, ()) = tokio::join!(stage.restart(false), release);
    assert_eq!(stage.finished(delivery).await.attempt_count, 1);
    tokio::time::sleep(Duration::from_secs(7200)).await;
    assert_eq!(stage.transport.requests().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_restart_sends_no_retry_before_its_time() {
    let stage = Stage::set();
    stage.answer([500]);
    let id = stage.destination(Contract::Workspace, no_jitter(Contract::Workspace)).await;
    let delivery = stage.emit(id).await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    let stage = stage.restart(false).await;
    let delivery = stage.finished(delivery).await;
    let second = delivery.attempts[1].started_at.since(START).as_secs();
    assert_eq!((delivery.attempts.len(), second), (2, 60));
}

#[tokio::test(start_paused = true)]
async fn the_window_of_a_lane_follows_a_change_of_the_guarantee() {
    let best_effort = DeliverySettings { guarantee: Some(Guarantee::BestEffort), ..Default::default() };
    for (settings, wider) in [(DeliverySettings::default(), true), (best_effort, false)] {
        let transport: Arc<dyn crate::transport::Transport> =
            Arc::new(crate::transport::scripted::ScriptedTransport::new());
        let stage = Stage::with(transport, |options| {
            (options.window, options.best_effort_window) = (2, 50);
        });
        let id = stage.destination(Contract::Observer, settings).await;
        // A waiting delivery keeps the lane; nothing is sent while it is paused.
        stage.change(id, |destination| destination.state = paused()).await;
        stage.emit(id).await;
        let guarantee = if wider { Guarantee::BestEffort } else { Guarantee::AtLeastOnce };
        stage.change(id, |destination| destination.settings.guarantee = Some(guarantee)).await;
        for _ in 0..30 {
            stage.emit(id).await;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let lane = stage.store.directory().destination(id).unwrap().status.lane();
        let expected = if wider { (31, false) } else { (2, true) };
        assert_eq!((lane.waiting_in_memory, lane.more_in_store), expected, "wider: {wider}");
    }
}

fn paused() -> crate::domain::destination::DestinationState {
    crate::domain::destination::DestinationState::Paused { since: START }
}

#[tokio::test(start_paused = true)]
async fn all_deliveries_of_a_batch_name_the_same_batch_and_their_places_in_it() {
    let stage = Stage::set();
    stage.transport.push(HOST, answered(200));
    let id = stalwart(&stage, Duration::from_secs(1)).await;
    let first = stage.emit(id).await;
    let alone = stage.finished(first).await;
    assert_eq!((alone.attempts[0].batch_size, alone.attempts[0].batch), (1, None));
    stage.answer([500]);
    let ids = [stage.emit(id).await, stage.emit(id).await, stage.emit(id).await];
    let mut batches = Vec::new();
    for (position, id) in (1..).zip(ids) {
        let delivery = stage.finished(id).await;
        let each: Vec<_> = delivery.attempts.iter().map(|attempt| attempt.batch.unwrap()).collect();
        assert!(each.iter().all(|batch| batch.position == position), "{each:?}");
        assert!(delivery.attempts.iter().all(|attempt| attempt.batch_size == 3));
        batches.push(each.iter().map(|batch| batch.id).collect::<Vec<_>>());
    }
    assert_eq!((&batches[0], &batches[0]), (&batches[1], &batches[2]));
    assert_ne!(batches[0][0], batches[0][1], "a retry is another request");
}

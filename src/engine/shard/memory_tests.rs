//! Memory is bounded in bytes, however much waits for however many: counted, not estimated.

use std::time::Duration;

use super::tests::{MEMORY, Stage, organization};
use super::*;
use crate::domain::contract::Contract;
use crate::domain::delivery::{DeliveryState, EndReason};
use crate::domain::destination::DestinationState;
use crate::domain::id::{DeliveryId, EventKey};
use crate::domain::payload::Payload;
use crate::domain::settings::{DeliverySettings, Guarantee};
use crate::store::{EventStore, Store};
use crate::transport::scripted::ScriptedTransport;

const EVENT: usize = 100_000;
/// One request a lane in flight, and all of them at once.
const IN_FLIGHT: usize = 16;

fn big() -> Payload {
    Payload::from_stored(format!("{{\"d\":\"{}\"}}", "x".repeat(EVENT - 8)).into())
}

/// Bytes of events that anybody but the store has in memory.
async fn held(stage: &Stage, keys: &[EventKey]) -> usize {
    let events = stage.store.load_events(keys.to_vec()).await.unwrap();
    // One is the store's, one is ours.
    events.iter().flatten().filter(|event| Arc::strong_count(event) > 2).count() * EVENT
}

fn set(change: impl FnOnce(&mut ShardOptions)) -> (Stage, Arc<ScriptedTransport>) {
    let transport = Arc::new(ScriptedTransport::new());
    let shared: Arc<dyn crate::transport::Transport> = Arc::<ScriptedTransport>::clone(&transport);
    let stage = Stage::with(shared, |options| {
        options.max_in_flight = IN_FLIGHT;
        options.window = 512;
        options.best_effort_window = 512;
        change(options);
    });
    (stage, transport)
}

async fn crowd(stage: &Stage, count: usize) -> Vec<DestinationId> {
    let mut ids = Vec::new();
    for number in 0..count {
        ids.push(stage.destination_at(&format!("org-{number}"), "receiver.example", number).await);
    }
    ids
}

#[tokio::test(start_paused = true)]
async fn many_lanes_with_large_events_hold_no_more_than_is_allowed_and_deliver_all_of_them() {
    let (stage, transport) = set(|_| {});
    let ids = crowd(&stage, 40).await;
    transport.hold();
    let (mut deliveries, mut most) = (Vec::new(), 0);
    for _ in 0..10 {
        for id in &ids {
            deliveries.push(stage.emit_data(*id, big()).await);
        }
        let keys: Vec<_> = deliveries.iter().map(|id| id.event_key).collect();
        most = most.max(held(&stage, &keys).await);
        assert!(stage.memory.held() <= MEMORY, "{}", stage.memory.held());
    }
    assert!(most <= MEMORY + IN_FLIGHT * EVENT, "{most} bytes of 40 MB");
    assert!(most > MEMORY / 2, "{most}: what there is room for is held");
    transport.release();
    for id in deliveries {
        let delivery = stage.finished(id).await;
        assert!(matches!(delivery.state, DeliveryState::Succeeded { .. }), "{:?}", delivery.state);
        assert_eq!(delivery.attempt_count, 1);
    }
    assert_eq!(stage.memory.held(), 0, "all of it was given back");
}

#[tokio::test(start_paused = true)]
async fn one_lane_takes_no_more_than_its_part() {
    let (stage, transport) = set(|options| options.window_bytes = 500_000);
    let id = crowd(&stage, 1).await[0];
    transport.hold();
    for _ in 0..30 {
        stage.emit_data(id, big()).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let held = stage.memory.held();
    assert!((200_000..=500_000).contains(&held), "{held}");
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_is_not_sent_to_holds_no_data_and_gets_it_all_later() {
    let (stage, _) = set(|_| {});
    let id = crowd(&stage, 1).await[0];
    let paused = DestinationState::Paused { since: stage.clock.now() };
    stage.change(id, |destination| destination.state = paused).await;
    let mut deliveries: Vec<DeliveryId> = Vec::new();
    for _ in 0..20 {
        deliveries.push(stage.emit_data(id, big()).await);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let keys: Vec<_> = deliveries.iter().map(|id| id.event_key).collect();
    assert_eq!((stage.memory.held(), held(&stage, &keys).await), (0, 0));
    let stage = stage.restart(false).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((stage.memory.held(), held(&stage, &keys).await), (0, 0));
    stage.change(id, |destination| destination.state = DestinationState::Active).await;
    for delivery in deliveries {
        assert!(matches!(stage.finished(delivery).await.state, DeliveryState::Succeeded { .. }));
    }
}

#[tokio::test(start_paused = true)]
async fn best_effort_beyond_the_memory_is_dropped_on_the_record() {
    let (stage, transport) = set(|options| options.window_bytes = 8 << 20);
    let settings = DeliverySettings { guarantee: Some(Guarantee::BestEffort), ..Default::default() };
    let id = stage.destination(Contract::Observer, settings).await;
    transport.hold();
    let mut deliveries = Vec::new();
    for _ in 0..60 {
        deliveries.push(stage.emit_data(id, big()).await);
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(stage.memory.held() <= MEMORY);
    transport.release();
    let mut dropped = 0;
    for delivery in deliveries {
        match stage.finished(delivery).await.state {
            DeliveryState::Succeeded { .. } => {}
            DeliveryState::Discarded { reason: EndReason::WindowFull, .. } => dropped += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!((15..25).contains(&dropped), "{dropped} of 6 MB did not fit into 4 MiB");
    assert_eq!(stage.store.directory().destination(id).unwrap().destination.organization_id, organization());
}

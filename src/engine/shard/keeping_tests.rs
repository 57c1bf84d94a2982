//! What lies between a lane and the store: outcomes that it refuses, and data that is read when its turn comes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;

use super::tests::{Stage, no_jitter};
use super::*;
use crate::domain::contract::{CloudEventsMode, Contract};
use crate::domain::delivery::DeliveryState;
use crate::domain::payload::{Payload, PayloadLimits};
use crate::domain::settings::DeliverySettings;
use crate::store::DeliveryStore;
use crate::transport::scripted::{ScriptedTransport, answered};

#[tokio::test(start_paused = true)]
async fn outcomes_that_the_store_refuses_are_kept_and_handed_over_again_and_none_is_lost_or_doubled() {
    let stage = Stage::set();
    let id = stage.destination(Contract::Observer, no_jitter(Contract::Observer)).await;
    stage.answer([500]);
    stage.store.faults.refuse_settlements(3);
    let mut deliveries = Vec::new();
    for _ in 0..20 {
        deliveries.push(stage.emit(id).await);
    }
    // While the store refuses, what was sent is on no record, and is not sent again for that.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(stage.store.faults.refused() >= 2);
    for delivery in &deliveries {
        assert_eq!(stage.store.delivery(*delivery).await.unwrap().unwrap().attempt_count, 0);
    }
    for delivery in deliveries {
        let delivery = stage.finished(delivery).await;
        assert!(matches!(delivery.state, DeliveryState::Succeeded { .. }), "{:?}", delivery.state);
        assert_eq!(delivery.attempts.len(), delivery.attempt_count as usize);
    }
    assert_eq!(stage.store.faults.refused(), 3);
    assert_eq!(stage.transport.requests().len(), 21, "one of them twice, because its first attempt failed");
}

#[tokio::test(start_paused = true)]
async fn a_batch_whose_events_turn_out_to_be_too_large_together_is_split_after_a_restart() {
    let down = Arc::new(AtomicBool::new(true));
    let is_down = Arc::clone(&down);
    let stage = Stage::scripted(Arc::new(ScriptedTransport::with_rule(move |_| {
        answered(if is_down.load(Ordering::SeqCst) { 500 } else { 200 })
    })));
    let limit = 1 << 20;
    let settings = DeliverySettings {
        max_batch_bytes: Some(limit),
        cloudevents_mode: Some(CloudEventsMode::Batch),
        ..no_jitter(Contract::CloudEvents)
    };
    let id = stage.destination(Contract::CloudEvents, settings).await;
    let data = || {
        let text = format!("{{\"text\":\"{}\"}}", "x".repeat(300 << 10));
        let limits = PayloadLimits { max_bytes: 1 << 20, max_depth: 2 };
        Payload::parse(Bytes::from(text), limits).unwrap()
    };
    let mut deliveries = Vec::new();
    for _ in 0..5 {
        deliveries.push(stage.emit_data(id, data()).await);
    }
    for delivery in &deliveries {
        while stage.store.delivery(*delivery).await.unwrap().unwrap().attempt_count == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    // The next process knows the keys of what waits, and how large it is only once it has read it.
    let stage = stage.restart(false).await;
    let before = stage.transport.requests().len();
    down.store(false, Ordering::SeqCst);
    for delivery in deliveries {
        let delivery = stage.finished(delivery).await;
        assert!(matches!(delivery.state, DeliveryState::Succeeded { .. }), "{:?}", delivery.state);
        let successes = delivery.attempts.iter().filter(|attempt| attempt.outcome.is_success()).count();
        assert_eq!(successes, 1);
    }
    let sizes: Vec<usize> =
        stage.transport.requests()[before..].iter().map(|sent| sent.request.body().len()).collect();
    assert!(sizes.iter().all(|size| *size <= limit as usize), "{sizes:?}");
    assert!(sizes.len() <= 3, "and none smaller than it must be: {sizes:?}");
}

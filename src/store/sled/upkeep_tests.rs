//! What the embedded store counts and mends by itself.

use std::sync::Arc;

use tempfile::TempDir;

use super::tests::open_bench;
use super::{SledStore, size};
use crate::domain::delivery::{DeliveryState, EndReason};
use crate::domain::event::{NewEvent, Route};
use crate::domain::id::EventId;
use crate::domain::settings::Guarantee;
use crate::store::conformance::{at, big_event, destination_id, durable, id_of, new_event, settlement};
use crate::store::retention::{Cuts, SweepFrom};
use crate::store::{DeliveryStore, RetentionStore, Settlement, Stage, Store};

fn early(history: i64) -> Arc<Cuts> {
    let exceptions = std::collections::HashMap::new();
    let (now, history, dead_letters) = (at(history), at(history), at(history));
    Arc::new(Cuts { now, history, exceptions, dead_letters, notice: None, early: true })
}

fn counted(store: &SledStore) -> u64 {
    assert_eq!(store.footprint().bytes, size::measure(&store.reader.db).unwrap());
    store.footprint().bytes
}

#[tokio::test]
async fn the_count_of_what_is_stored_is_exact_and_outlives_a_restart() {
    let folder = TempDir::new().unwrap();
    let (bench, store) = open_bench(folder.path());
    let mut last = 0;
    for number in 0..40_usize {
        let name = (number % 3 == 0).then(|| EventId::parse(&format!("evt-{number}")).unwrap());
        let routes = vec![durable(1), durable(2)];
        let event = bench.accept(NewEvent { event_id: name, routes, ..big_event(100 + number * 400) }).await;
        assert!(counted(&store) > last);
        let waiting = DeliveryState::Waiting { due: at(70_000) };
        store.settle(vec![settlement(&event, 1, Stage::Fresh, waiting)], Vec::new()).await.unwrap();
        let done = DeliveryState::Succeeded { at: at(1) };
        let settled = [(1, Stage::Due(at(70_000))), (2, Stage::Fresh)];
        let settled = settled.map(|(to, stage)| settlement(&event, to, stage, done.clone()));
        store.settle(settled.to_vec(), Vec::new()).await.unwrap();
        if number == 20 {
            store.erase_event(event.key, at(2)).await.unwrap();
        }
        last = counted(&store);
    }
    let swept = store.sweep(early(1_000_000), SweepFrom::Events(None), 25).await.unwrap();
    assert_eq!(swept.removed, 25);
    let before = (counted(&store), store.footprint());
    assert!(before.0 < last);
    drop((bench, store));
    let (_bench, store) = open_bench(folder.path());
    assert_eq!((counted(&store), store.footprint()), before);
}

#[tokio::test]
async fn best_effort_deliveries_that_a_dead_process_held_do_not_wait_for_ever() {
    let folder = TempDir::new().unwrap();
    let (bench, store) = open_bench(folder.path());
    let routes =
        [1, 2].map(|to| Route { destination_id: destination_id(to), guarantee: Guarantee::BestEffort });
    let event = bench.accept(new_event("a", &routes)).await;
    let held = |to, state| Settlement {
        guarantee: Guarantee::BestEffort,
        ..settlement(&event, to, Stage::InMemory, state)
    };
    let waiting = DeliveryState::Waiting { due: at(9) };
    store.settle(vec![held(1, waiting.clone()), held(2, waiting.clone())], Vec::new()).await.unwrap();
    // One was finished, the other was still held when the process died.
    store.settle(vec![held(2, DeliveryState::Succeeded { at: at(5) })], Vec::new()).await.unwrap();
    assert_eq!(store.delivery(id_of(&event, 1)).await.unwrap().unwrap().state, waiting);
    drop((bench, store));
    let (bench, store) = open_bench(folder.path());
    let ended = DeliveryState::Discarded { at: at(0), reason: EndReason::Stopped };
    let lost = store.delivery(id_of(&event, 1)).await.unwrap().unwrap();
    assert_eq!((lost.state, lost.attempts.len()), (ended, 1));
    let kept = store.delivery(id_of(&event, 2)).await.unwrap().unwrap();
    assert_eq!(kept.state, DeliveryState::Succeeded { at: at(5) });
    assert_eq!(store.reader.db.scan_prefix([super::keys::HELD]).count(), 0);
    drop(bench);
}

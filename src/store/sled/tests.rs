//! What only the embedded store promises: each hazard of sled, held by a test.

use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::{Duration, Instant};
use std::{fs, io};

use tempfile::TempDir;
use tokio::task::JoinSet;

use super::{SledOptions, SledStore, keys, open};
use crate::clock::SharedClock;
use crate::domain::delivery::{CycleCause, DeliveryState, EndReason, StateKind};
use crate::domain::destination::{Destination, DestinationHealth, Header};
use crate::domain::event::{Event, EventType};
use crate::domain::id::{DeliveryId, DestinationId, EventKey};
use crate::domain::replay::ReplayKind;
use crate::domain::secret::Secret;
use crate::store::conformance::replays::{self, cover, scope};
use crate::store::conformance::{
    Bench, at, big_event, conformance, destination, destination_id, durable, id_of, manual_clock, new_event,
    organization, organization_id, query, settlement,
};
use crate::store::{
    CommitListener, DeliveryQuery, DeliveryStore, DestinationStore, DueEntry, EventStore, OrganizationStore,
    ReplayAction, ReplayStep, ReplayStore, RetentionStore, Stage, Store, StoreError,
};

fn options(clock: SharedClock) -> SledOptions {
    SledOptions { cache_bytes: 16 << 20, min_free_bytes: Some(0), ..SledOptions::new(clock) }
}

fn open_in(folder: &Path) -> Result<SledStore, StoreError> {
    SledStore::open(folder, options(manual_clock().1))
}

pub(super) fn open_bench(folder: &Path) -> (Bench, Arc<SledStore>) {
    let (clock, shared) = manual_clock();
    let store = Arc::new(SledStore::open(folder, options(shared)).unwrap());
    (Bench { store: Arc::clone(&store) as Arc<dyn Store>, clock }, store)
}

fn problem(result: Result<SledStore, StoreError>) -> String {
    match result {
        Err(StoreError::CannotOpen(problem)) => problem,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it opened"),
    }
}

fn ended() -> DeliveryState {
    DeliveryState::Cancelled { at: at(3) }
}

/// The tree without a store around it.
fn raw(folder: &Path) -> sled::Db {
    sled::Config::new().path(folder).cache_capacity(1 << 20).open().unwrap()
}

/// A store that is looked through when its test has ended: whatever was done, all must fit together.
struct Inspected(TempDir);

impl Drop for Inspected {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let found = SledStore::inspect(self.0.path()).unwrap();
            assert_eq!((found.problems, &found.examples), (0, &Vec::new()));
        }
    }
}

mod promises {
    use super::*;

    fn open(clock: SharedClock) -> (Arc<dyn Store>, Inspected) {
        let folder = TempDir::new().unwrap();
        (Arc::new(SledStore::open(folder.path(), options(clock)).unwrap()), Inspected(folder))
    }

    conformance!(open);
}

/// The same, where each fresh delivery gets old at once.
mod promises_of_what_lingers {
    use super::*;

    fn open(clock: SharedClock) -> (Arc<dyn Store>, Inspected) {
        let folder = TempDir::new().unwrap();
        let options = SledOptions { young_deliveries: 0, ..options(clock) };
        (Arc::new(SledStore::open(folder.path(), options).unwrap()), Inspected(folder))
    }

    conformance!(open);
}

#[tokio::test]
async fn what_waits_is_found_again_after_a_crash_whether_it_is_young_or_old() {
    for young_deliveries in [0, 3, 100] {
        let folder = TempDir::new().unwrap();
        let open = || {
            let (clock, shared) = manual_clock();
            let options = SledOptions { young_deliveries, ..options(shared) };
            let store = Arc::new(SledStore::open(folder.path(), options).unwrap());
            (Bench { store: Arc::clone(&store) as Arc<dyn Store>, clock }, store)
        };
        let (bench, store) = open();
        let mut waiting = Vec::new();
        for number in 0..40_u32 {
            let event = bench.accept(new_event("a", &[durable(1), durable(2)])).await;
            match number % 4 {
                0 => bench.settle_failed(&event).await,
                1 => drop(store.end(vec![id_of(&event, 1)], StateKind::Waiting, ended()).await.unwrap()),
                _ => waiting.push(event.key),
            }
        }
        let before = store.deliveries(query(&[1, 2], 100)).await.unwrap();
        drop((bench, store));
        for _ in 0..2 {
            let (bench, store) = open();
            let fresh = store.load_fresh(destination_id(1), None, 100).await.unwrap();
            assert_eq!(fresh.rows.iter().map(|event| event.key).collect::<Vec<_>>(), waiting);
            assert_eq!(store.deliveries(query(&[1, 2], 100)).await.unwrap(), before);
            let backlog = store.backlog(destination_id(2), 100).await.unwrap();
            assert_eq!((backlog.count, store.backlog(destination_id(1), 100).await.unwrap().count), (40, 30));
            let last = store.load_events(vec![waiting[19]]).await.unwrap().pop().flatten().unwrap();
            assert_eq!(store.ahead(id_of(&last, 1), None, 100).await.unwrap(), 19);
            drop(bench);
        }
    }
}

#[tokio::test]
async fn a_delivery_that_is_settled_soon_costs_two_keys() {
    let folder = TempDir::new().unwrap();
    let (bench, store) = open_bench(folder.path());
    let before = store.reader.db.iter().count();
    let event = bench.accept(new_event("a", &[durable(1)])).await;
    assert_eq!(store.reader.db.iter().count(), before + 1);
    store
        .settle(vec![settlement(&event, 1, Stage::Fresh, DeliveryState::Succeeded { at: at(1) })], Vec::new())
        .await
        .unwrap();
    assert_eq!(store.reader.db.iter().count(), before + 2);
}

#[tokio::test]
async fn a_store_of_the_first_layout_is_taken_over() {
    let folder = TempDir::new().unwrap();
    let (bench, store) = open_bench(folder.path());
    let mut events = Vec::new();
    for _ in 0..3 {
        events.push(bench.accept(new_event("a", &[durable(1)])).await);
    }
    bench.settle_failed(&events[0]).await;
    store.close().await.unwrap();
    drop((bench, store));
    // As the first layout had it: each fresh delivery has a key, and nothing else tells of it.
    let db = raw(folder.path());
    db.insert(keys::SCHEMA_KEY, &1_u32.to_be_bytes()).unwrap();
    db.insert(keys::by_destination(keys::FRESH, id_of(&events[2], 1)), &[]).unwrap();
    drop(db);
    for _ in 0..2 {
        let (bench, store) = open_bench(folder.path());
        let fresh = store.load_fresh(destination_id(1), None, 9).await.unwrap();
        assert_eq!(fresh.rows.iter().map(|event| event.key).collect::<Vec<_>>(), [events[2].key]);
        assert_eq!(store.load_due(destination_id(1), None, 9).await.unwrap().rows.len(), 1);
        drop(bench);
    }
    let stored = raw(folder.path()).get(keys::SCHEMA_KEY).unwrap().unwrap();
    assert_eq!(stored.as_ref(), open::SCHEMA.to_be_bytes());
}

#[tokio::test]
async fn everything_is_there_again_after_a_restart() {
    let folder = TempDir::new().unwrap();
    let headers = vec![Header { name: "x".into(), value: Secret::new("s".repeat(4096)) }; 32];
    let large = Destination { headers, ..destination(1) };
    let mut health = DestinationHealth::default();
    health.failed(at(7), "answered 500".into());
    let (bench, store) = open_bench(folder.path());
    store.create_organization(organization()).await.unwrap();
    let large = store.create_destination(large, None).await.unwrap();
    store.create_destination(destination(2), None).await.unwrap();
    store.delete_destination(destination_id(2), None).await.unwrap();
    let first = bench.accept(new_event("a", &[durable(1)])).await;
    let last = bench.accept(big_event(100_000)).await;
    let failed = settlement(&first, 1, Stage::Fresh, DeliveryState::Waiting { due: at(9) });
    store.settle(vec![failed], vec![(destination_id(1), health.clone())]).await.unwrap();
    let before = store.deliveries(query(&[1], 10)).await.unwrap();
    store.close().await.unwrap();
    drop((bench, store));
    for _ in 0..2 {
        let (bench, store) = open_bench(folder.path());
        assert_eq!(store.deliveries(query(&[1], 10)).await.unwrap(), before);
        assert_eq!(store.load_events(vec![last.key]).await.unwrap(), [Some(Arc::clone(&last))]);
        assert_eq!(store.load_fresh(destination_id(1), None, 9).await.unwrap().rows, [Arc::clone(&last)]);
        assert_eq!(store.load_due(destination_id(1), None, 9).await.unwrap().rows.len(), 1);
        let entry = store.directory().destination(destination_id(1)).unwrap();
        assert_eq!((&entry.destination, entry.status.health()), (&large, health.clone()));
        assert_eq!(store.directory().destination_ids().len(), 1);
        assert_eq!(store.directory().organization(&organization_id()).unwrap().as_ref(), &organization());
        assert!(bench.accept(new_event("later", &[])).await.key > last.key);
    }
}

#[tokio::test]
async fn a_large_destination_that_shrinks_leaves_no_chunks() {
    let folder = TempDir::new().unwrap();
    let store = open_in(folder.path()).unwrap();
    let headers = vec![Header { name: "x".into(), value: Secret::new("s".repeat(4096)) }; 8];
    store.create_destination(Destination { headers, ..destination(1) }, None).await.unwrap();
    assert!(store.reader.db.scan_prefix(keys::DESTINATIONS).count() > 8);
    store.update_destination(destination(1), 1).await.unwrap();
    assert_eq!(store.reader.db.scan_prefix(keys::DESTINATIONS).count(), 1);
}

#[test]
fn a_snapshot_that_a_killed_start_left_unfinished_is_removed() {
    let folder = TempDir::new().unwrap();
    drop(open_in(folder.path()).unwrap());
    let unfinished = folder.path().join("snap.00000000000FFFFF.generating");
    fs::write(&unfinished, b"half").unwrap();
    open_in(folder.path()).unwrap();
    assert!(!unfinished.exists());
}

#[test]
fn a_store_of_a_newer_version_is_refused() {
    let folder = TempDir::new().unwrap();
    drop(open_in(folder.path()).unwrap());
    let db = raw(folder.path());
    db.insert(keys::SCHEMA_KEY, &(open::SCHEMA + 1).to_be_bytes()).unwrap();
    drop(db);
    let problem = problem(open_in(folder.path()));
    assert!(problem.contains("newer version") && problem.contains("schema 3"), "{problem}");
}

#[test]
fn a_second_open_is_refused_with_what_to_do() {
    let folder = TempDir::new().unwrap();
    let first = open_in(folder.path()).unwrap();
    let refused = problem(open_in(folder.path()));
    assert!(refused.contains("another process"), "{refused}");
    drop(first);
    let other = raw(folder.path());
    let refused = problem(open_in(folder.path()));
    assert!(refused.contains("locked by another process"), "{refused}");
    drop(other);
    open_in(folder.path()).unwrap();
}

#[test]
fn a_store_that_lost_its_files_is_refused_and_not_begun_anew() {
    let folder = TempDir::new().unwrap();
    drop(open_in(folder.path()).unwrap());
    for entry in fs::read_dir(folder.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() && !path.ends_with("signalpost.lock") {
            fs::remove_file(path).unwrap();
        }
    }
    let problem = problem(open_in(folder.path()));
    assert!(problem.contains("empty now") && problem.contains("backup"), "{problem}");
}

#[test]
fn damaged_files_are_a_message_and_no_panic() {
    let folder = TempDir::new().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for _ in 0..2 {
        let store = open_in(folder.path()).unwrap();
        runtime.block_on(store.accept(vec![new_event("a", &[durable(1)]); 500])).unwrap();
        runtime.block_on(store.close()).unwrap();
    }
    let snapshot = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
    let snapshot = snapshot.filter(|path| path.to_string_lossy().contains("snap.")).max().unwrap();
    let mut bytes = fs::read(&snapshot).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    fs::write(&snapshot, bytes).unwrap();
    let problem = problem(open_in(folder.path()));
    assert!(problem.contains("damaged") && problem.contains("copy the folder"), "{problem}");
}

#[test]
fn a_store_that_lost_events_since_it_was_closed_is_refused_and_not_opened_quietly() {
    let folder = TempDir::new().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let store = open_in(folder.path()).unwrap();
    for _ in 0..50 {
        runtime.block_on(store.accept(vec![new_event("a", &[durable(1)]); 3])).unwrap();
    }
    runtime.block_on(store.close()).unwrap();
    drop(store);
    let path = folder.path().join("db");
    let mut bytes = fs::read(&path).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[used / 2] ^= 0xff;
    fs::write(&path, bytes).unwrap();
    let problem = problem(open_in(folder.path()));
    assert!(problem.contains("damaged") && problem.contains("copy the folder"), "{problem}");
}

#[test]
fn system_errors_say_what_the_operator_can_do() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, b"").unwrap();
    assert!(problem(open_in(&file)).contains("must be a folder"));
    for (kind, remedy) in [
        (io::ErrorKind::PermissionDenied, "the right to write"),
        (io::ErrorKind::ReadOnlyFilesystem, "read-only"),
        (io::ErrorKind::StorageFull, "free some space"),
    ] {
        assert!(open::explain("it failed", &kind.into()).contains(remedy));
    }
}

#[tokio::test]
async fn a_damaged_value_is_never_served() {
    let folder = TempDir::new().unwrap();
    let (bench, store) = open_bench(folder.path());
    let events = [bench.accept(new_event("a", &[durable(1)])).await, bench.accept(big_event(9000)).await];
    let lost = bench.accept(big_event(9000)).await;
    let newer = bench.accept(new_event("a", &[])).await;
    bench.settle_failed(&events[0]).await;
    drop((bench, store));
    let db = raw(folder.path());
    let delivery = keys::by_destination(keys::DELIVERY, id_of(&events[0], 1));
    for key in [keys::event(events[0].key), keys::chunk(events[1].key, 1), delivery] {
        let mut value = db.get(&key).unwrap().unwrap().to_vec();
        *value.last_mut().unwrap() ^= 1;
        db.insert(key, value).unwrap();
    }
    db.remove(keys::chunk(lost.key, 2)).unwrap();
    let mut value = db.get(keys::event(newer.key)).unwrap().unwrap().to_vec();
    value[0] = 2;
    db.insert(keys::event(newer.key), value).unwrap();
    drop(db);
    let (bench, store) = open_bench(folder.path());
    for (event, reason) in
        [(&events[0], "checksum"), (&events[1], "checksum"), (&lost, "missing"), (&newer, "format 2")]
    {
        match store.load_events(vec![event.key]).await {
            Err(StoreError::Corrupt(problem)) => {
                assert!(problem.starts_with("event/") && problem.contains(reason), "{problem}");
            }
            other => panic!("{other:?}"),
        }
    }
    let id = id_of(&events[0], 1);
    assert!(matches!(store.delivery(id).await, Err(StoreError::Corrupt(_))));
    bench.accept(new_event("later", &[])).await;
}

#[tokio::test]
async fn every_durable_commit_is_fsynced_exactly_once() {
    let folder = TempDir::new().unwrap();
    let (bench, store) = open_bench(folder.path());
    let mut expected = store.syncs();
    let mut step = async |what: &str, grows: u64| {
        expected += grows;
        assert_eq!(store.syncs(), expected, "{what}");
    };
    let event = bench.accept(new_event("a", &[durable(1)])).await;
    step("accept", 1).await;
    let id = id_of(&event, 1);
    store.requeue(vec![id], CycleCause::Resend, at(1)).await.unwrap();
    step("requeue", 1).await;
    store.end(vec![id], StateKind::Waiting, DeliveryState::Cancelled { at: at(2) }).await.unwrap();
    step("end", 1).await;
    store.create_destination(destination(1), None).await.unwrap();
    step("create", 1).await;
    store.delete_destination(destination_id(9), None).await.unwrap_err();
    store.end(vec![id], StateKind::Waiting, DeliveryState::Cancelled { at: at(2) }).await.unwrap();
    step("calls that change nothing", 0).await;
    store.close().await.unwrap();
    step("close", 1).await;
}

#[tokio::test]
async fn settlements_become_durable_soon_without_another_commit() {
    let folder = TempDir::new().unwrap();
    let (bench, store) = open_bench(folder.path());
    let event = bench.accept(new_event("a", &[durable(1)])).await;
    let before = store.syncs();
    bench.settle_failed(&event).await;
    assert_eq!(store.syncs(), before, "settling does not wait for the disk");
    let began = Instant::now();
    while store.syncs() == before {
        assert!(began.elapsed() < Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(store.syncs(), before + 1);
}

#[tokio::test]
async fn concurrent_callers_share_commits() {
    let folder = TempDir::new().unwrap();
    let (_, store) = open_bench(folder.path());
    let before = store.syncs();
    let mut callers = JoinSet::new();
    for _ in 0..64 {
        let store = Arc::clone(&store);
        callers.spawn(async move {
            for _ in 0..20 {
                store.accept(vec![new_event("a", &[durable(1)])]).await.unwrap();
            }
        });
    }
    callers.join_all().await;
    let syncs = store.syncs() - before;
    assert!(syncs < 64 * 20 / 4, "{syncs} fsyncs for 1280 events");
    assert_eq!(store.backlog(destination_id(1), 2000).await.unwrap().count, 1280);
}

#[tokio::test]
async fn below_the_watermark_nothing_new_is_taken_and_outcomes_go_on() {
    let folder = TempDir::new().unwrap();
    let (bench, store) = open_bench(folder.path());
    let event = bench.accept(new_event("a", &[durable(1)])).await;
    store.create_destination(destination(1), None).await.unwrap();
    drop((bench, store));
    let full = SledOptions { min_free_bytes: Some(u64::MAX), ..options(manual_clock().1) };
    let store = Arc::new(SledStore::open(folder.path(), full).unwrap());
    let refused = store.accept(vec![new_event("a", &[])]).await;
    assert!(matches!(refused, Err(StoreError::Full { needed_bytes: u64::MAX, .. })));
    assert!(matches!(store.create_destination(destination(2), None).await, Err(StoreError::Full { .. })));
    assert!(matches!(store.create_organization(organization()).await, Err(StoreError::Full { .. })));
    let failed = settlement(&event, 1, Stage::Fresh, DeliveryState::Waiting { due: at(1) });
    store.settle(vec![failed], Vec::new()).await.unwrap();
    let id = id_of(&event, 1);
    assert_eq!(store.requeue(vec![id], CycleCause::Resend, at(2)).await.unwrap().len(), 1);
    let into = DeliveryState::Cancelled { at: at(3) };
    assert_eq!(store.end(vec![id], StateKind::Waiting, into).await.unwrap(), [id]);
    store.update_destination(destination(1), 1).await.unwrap();
}

#[tokio::test]
#[expect(clippy::await_holding_lock, reason = "the lock is what holds the writer back")]
async fn a_full_queue_refuses_events_and_keeps_outcomes_waiting() {
    let folder = TempDir::new().unwrap();
    let (clock, shared) = manual_clock();
    let small = SledOptions { queue_depth: 1, ..options(shared) };
    let store = Arc::new(SledStore::open(folder.path(), small).unwrap());
    let bench = Bench { store: Arc::clone(&store) as Arc<dyn Store>, clock };
    let gate = Arc::new(Gate::default());
    store.listen(Arc::clone(&gate) as Arc<dyn CommitListener>);
    let closed = gate.0.lock().unwrap();
    let first = store.accept(vec![new_event("a", &[durable(1)])]);
    let second = store.accept(vec![new_event("b", &[durable(1)])]);
    let (mut first, mut second) = (Box::pin(first), Box::pin(second));
    assert!(is_pending(&mut first).await);
    while store.queue.available_permits() == 0 {
        std::thread::yield_now();
    }
    assert!(is_pending(&mut second).await);
    assert!(matches!(store.accept(vec![new_event("c", &[])]).await, Err(StoreError::Busy)));
    let mut settled = Box::pin(store.settle(Vec::new(), Vec::new()));
    assert!(is_pending(&mut settled).await);
    drop(closed);
    assert!(first.await.is_ok() && second.await.is_ok() && settled.await.is_ok());
    drop(bench);
}

#[tokio::test]
async fn a_panic_on_the_writers_thread_fails_the_store_for_good() {
    struct Faulty;
    impl CommitListener for Faulty {
        fn accepted(&self, _: &[Arc<Event>]) {
            panic!("planted");
        }
        fn requeued(&self, _: &[DueEntry]) {}
        fn ended(&self, _: &[DeliveryId]) {}
        fn destination_changed(&self, _: DestinationId) {}
    }
    let folder = TempDir::new().unwrap();
    let (_, store) = open_bench(folder.path());
    store.listen(Arc::new(Faulty));
    let failed = store.failed();
    for _ in 0..2 {
        match store.accept(vec![new_event("a", &[durable(1)])]).await {
            Err(StoreError::Unavailable(problem)) => assert!(problem.contains("planted"), "{problem}"),
            other => panic!("{other:?}"),
        }
    }
    assert!(failed.await.contains("planted"));
    assert!(store.delivery(DeliveryId::new(EventKey::MIN, destination_id(1))).await.is_err());
    assert!(store.close().await.is_err());
}

#[tokio::test]
async fn a_closed_store_answers_unavailable_and_has_not_failed() {
    let folder = TempDir::new().unwrap();
    let (_, store) = open_bench(folder.path());
    store.close().await.unwrap();
    let refused = store.accept(vec![new_event("a", &[])]).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(problem)) if problem.contains("closed")));
    assert!(is_pending(&mut Box::pin(store.failed())).await);
    assert!(store.reader.db.contains_key(keys::CLEAN_KEY).unwrap());
}

#[tokio::test]
async fn large_payloads_leave_no_files_of_their_own() {
    let folder = TempDir::new().unwrap();
    let (bench, store) = open_bench(folder.path());
    for round in 0..6 {
        for size in [65_536, 262_144, 1_048_576] {
            let event = bench.accept(big_event(size + round)).await;
            bench.settle_failed(&event).await;
        }
    }
    let longest = store.reader.db.iter().map(|row| row.unwrap().1.len()).max().unwrap();
    assert!(longest <= crate::store::record::VALUE_MAX_BYTES, "{longest}");
    drop((bench, store));
    let blobs = fs::read_dir(folder.path().join("blobs")).map_or(0, Iterator::count);
    assert_eq!(blobs, 0);
}

#[tokio::test]
async fn a_list_that_finds_nothing_stops_and_says_where_to_go_on() {
    let folder = TempDir::new().unwrap();
    let (bench, store) = open_bench(folder.path());
    let wanted = bench.accept(new_event("wanted", &[durable(1)])).await;
    for _ in 0..50 {
        bench.accept(new_event("other", &[durable(1), durable(2)])).await;
    }
    let event_types = vec![wanted.event_type.clone()];
    let mut next = DeliveryQuery { event_types, ..query(&[1, 2], 5) };
    let (mut rows, mut pages) = (Vec::new(), 0);
    loop {
        let page = store.reader.deliveries(&next, 10).unwrap();
        rows.extend(page.rows);
        pages += 1;
        if page.next.is_none() {
            break;
        }
        next.after = page.next;
    }
    assert_eq!(rows.iter().map(|row| row.id).collect::<Vec<_>>(), [id_of(&wanted, 1)]);
    assert_eq!(pages, 11);
}

#[tokio::test]
async fn a_replay_goes_on_after_a_restart_from_where_it_was() {
    let folder = TempDir::new().unwrap();
    let (bench, store) = open_bench(folder.path());
    let dead = DeliveryState::DeadLettered { at: at(1), reason: EndReason::AttemptsExhausted };
    let mut ids = Vec::new();
    for _ in 0..3 {
        let event = bench.accept(new_event("a", &[durable(1)])).await;
        let settled = settlement(&event, 1, Stage::Fresh, dead.clone());
        store.settle(vec![settled], Vec::new()).await.unwrap();
        ids.push(id_of(&event, 1));
    }
    let mut replay = replays::replay(1, scope(ReplayKind::DeadLetters, None));
    // Long enough for several chunks.
    let long = |number| EventType::parse(&format!("{number:0>128}")).unwrap();
    replay.scope.event_types = (0..100).map(long).collect();
    let replay = store.create_replay(replay).await.unwrap();
    let action = ReplayAction::Send { ids: ids[..2].to_vec(), next: Some(ids[1]) };
    let step = ReplayStep { from: replay.state.clone(), action };
    let replay = store.step_replay(replay.id, step.clone(), at(2)).await.unwrap();
    store.close().await.unwrap();
    drop((bench, store));
    let (_, store) = open_bench(folder.path());
    assert_eq!(store.running_replays().await.unwrap(), std::slice::from_ref(&replay));
    assert_eq!(store.step_replay(replay.id, step, at(3)).await.unwrap(), replay);
    let rival = store.create_replay(replays::replay(2, scope(ReplayKind::Missed, Some(1)))).await;
    assert!(matches!(rival, Err(StoreError::ReplayRunning(id)) if id == replay.id));
    assert_eq!(store.load_due(destination_id(1), None, 9).await.unwrap().rows.len(), 2);
    let last = ReplayAction::Send { ids: ids[2..].to_vec(), next: None };
    let step = ReplayStep { from: replay.state.clone(), action: last };
    let replay = store.step_replay(replay.id, step, at(4)).await.unwrap();
    assert_eq!((replay.replayed, replay.skipped), (3, 0));
    assert!(store.running_replays().await.unwrap().is_empty());
    store.create_replay(replays::replay(2, scope(ReplayKind::Missed, Some(1)))).await.unwrap();
}

#[tokio::test]
async fn a_search_for_what_a_replay_covers_looks_at_few_rows_a_call() {
    let folder = TempDir::new().unwrap();
    let (bench, store) = open_bench(folder.path());
    for _ in 0..50 {
        bench.accept(new_event("unwanted", &[])).await;
    }
    let missed = bench.accept(new_event("a", &[])).await;
    let missed = id_of(&missed, 1);
    let mut query = cover(scope(ReplayKind::Missed, Some(1)), &[1], 5);
    let (mut ids, mut pages) = (Vec::new(), 0);
    loop {
        let page = store.reader.covered(&query, 11).unwrap();
        ids.extend(page.ids);
        pages += 1;
        if page.next.is_none() {
            break;
        }
        query.after = page.next;
    }
    assert_eq!((ids, pages), (vec![missed], 6));
}

#[derive(Default)]
struct Gate(Mutex<()>);

impl CommitListener for Gate {
    fn accepted(&self, _: &[Arc<Event>]) {
        drop(self.0.lock().unwrap());
    }
    fn requeued(&self, _: &[DueEntry]) {}
    fn ended(&self, _: &[DeliveryId]) {}
    fn destination_changed(&self, _: DestinationId) {}
}

/// Whether the future is not ready when it is polled once.
async fn is_pending<F: Future + Unpin>(future: &mut F) -> bool {
    std::future::poll_fn(|context| Poll::Ready(Pin::new(&mut *future).poll(context).is_pending())).await
}

#[tokio::test]
async fn an_erasure_goes_on_after_a_restart() {
    let folder = TempDir::new().unwrap();
    {
        let (bench, store) = open_bench(folder.path());
        store.create_organization(organization()).await.unwrap();
        store.create_destination(destination(1), None).await.unwrap();
        for _ in 0..5 {
            bench.accept(new_event("a", &[durable(1)])).await;
        }
        store.begin_erasure(&organization_id(), None).await.unwrap();
        assert!(store.erase_step(&organization_id(), None, 2).await.unwrap().is_some());
        store.close().await.unwrap();
    }
    let (_bench, store) = open_bench(folder.path());
    assert_eq!(store.directory().erasing(), [organization_id()]);
    assert!(store.directory().organization(&organization_id()).is_none());
    let mut from = None;
    loop {
        from = store.erase_step(&organization_id(), from, 2).await.unwrap();
        if from.is_none() {
            break;
        }
    }
    assert!(store.destinations_with_work().await.unwrap().is_empty());
    store.close().await.unwrap();
    drop((_bench, store));
    assert!(raw(folder.path()).iter().keys().all(|key| key.unwrap().starts_with(b"M")));
}

//! The shared store on a real server.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::test_server::{FAST, TestServer};
use super::{LeaseOptions, PostgresOptions, PostgresStore};
use crate::clock::SharedClock;
use crate::domain::delivery::{DeliveryState, StateKind};
use crate::domain::event::{Acceptance, Event, NewEvent};
use crate::domain::id::EventId;
use crate::domain::secret::Secret;
use crate::metrics::StoreMetrics;
use crate::store::conformance::{
    self, Bench, at, destination_id, durable, id_of, manual_clock, new_event, settlement,
};
use crate::store::keyring::{Keyring, SealingKey};
use crate::store::retention::{Cuts, SweepFrom};
use crate::store::{
    AuditQuery, AuditStore, CommitListener, DeliveryStore, DestinationStore, EventStore, Stage, Store,
    StoreError,
};

/// One server for all tests of the process.
pub(super) fn server() -> &'static TestServer {
    static SERVER: OnceLock<TestServer> = OnceLock::new();
    SERVER.get_or_init(|| TestServer::start(FAST))
}

pub(super) fn options(url: String, clock: Option<SharedClock>) -> PostgresOptions {
    PostgresOptions {
        url: Secret::new(url),
        roots: Vec::new(),
        connections: 4,
        statement_timeout: Duration::from_secs(10),
        queue_depth: 1024,
        group_events: 64,
        whole_days: Duration::ZERO,
        lease: None,
        clock,
        metrics: StoreMetrics::default(),
        keyring: None,
    }
}

mod suite {
    use super::*;
    use crate::store::conformance::conformance;

    fn open(clock: SharedClock) -> (Arc<dyn Store>, ()) {
        let store = PostgresStore::open(options(server().database(), Some(clock))).unwrap();
        (Arc::new(store), ())
    }

    conformance!(open);
}

#[tokio::test]
async fn a_store_whose_key_is_missing_is_refused_and_no_new_key_is_made() {
    let url = server().database();
    let opened = |keyring| PostgresStore::open(PostgresOptions { keyring, ..options(url.clone(), None) });
    let operators = Keyring::parse(&SealingKey::generate().unwrap().to_text()).unwrap();
    let id = operators.active().to_string();
    let store = opened(Some(operators.clone())).unwrap();
    store.create_destination(conformance::destination(1), None).await.unwrap();
    store.close().await.unwrap();
    for _ in 0..2 {
        let refused = opened(None).err().unwrap().to_string();
        for part in ["3 of its secrets are sealed", "no key is configured", "secrets.key_file", &id] {
            assert!(refused.contains(part), "{part}: {refused}");
        }
    }
    opened(Some(operators)).unwrap().close().await.unwrap();
}

/// How a database is called in its connection string.
pub(super) fn name_of(url: &str) -> &str {
    url.rsplit_once('/').unwrap().1
}

const fn succeeded(millis: i64) -> DeliveryState {
    DeliveryState::Succeeded { at: crate::domain::time::Timestamp::from_millis(conformance::START + millis) }
}

#[tokio::test]
async fn outcomes_wait_for_a_database_that_is_away_and_callers_are_told() {
    let server = TestServer::start(FAST);
    let (clock, shared) = manual_clock();
    let store = Arc::new(PostgresStore::open(options(server.database(), Some(shared))).unwrap());
    let bench = Bench { store: Arc::clone(&store) as Arc<dyn Store>, clock };
    let event = bench.accept(new_event("a", &[durable(1)])).await;
    server.crash();
    let refused = store.accept(vec![new_event("a", &[durable(1)])]).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    let settling = bench.store.settle(vec![settlement(&event, 1, Stage::Fresh, succeeded(5))], Vec::new());
    let again = async {
        tokio::task::yield_now().await;
        server.start_again();
    };
    let (settled, ()) = tokio::join!(settling, again);
    settled.unwrap();
    let delivery = store.delivery(id_of(&event, 1)).await.unwrap().unwrap();
    assert_eq!(delivery.state, succeeded(5));
}

#[tokio::test]
async fn a_full_disk_of_the_database_is_said_and_no_event_is_half_accepted() {
    let server = TestServer::on_small_disk();
    let (clock, shared) = manual_clock();
    let store = Arc::new(PostgresStore::open(options(server.database(), Some(shared))).unwrap());
    let bench = Bench { store: Arc::clone(&store) as Arc<dyn Store>, clock };
    let first = bench.accept(new_event("a", &[durable(1)])).await;
    server.fill_disk();
    let refused = store.accept(vec![conformance::big_event(200_000)]).await;
    assert!(matches!(refused, Err(StoreError::Full { .. })), "{refused:?}");
    server.empty_disk();
    let second = bench.accept(conformance::big_event(200_000)).await;
    assert!(second.key > first.key);
    assert_eq!(server.sql("t0", "SELECT count(*) FROM events"), "2");
}

#[tokio::test]
async fn a_newer_schema_is_refused_unless_it_says_that_this_version_can_work_on_it() {
    let url = server().database();
    drop(PostgresStore::open(options(url.clone(), None)).unwrap());
    server().sql(name_of(&url), "UPDATE signalpost_schema SET version = 99");
    drop(PostgresStore::open(options(url.clone(), None)).unwrap());
    server().sql(name_of(&url), "UPDATE signalpost_schema SET oldest_reader = 99");
    let refused = PostgresStore::open(options(url.clone(), None)).err().unwrap();
    assert!(refused.to_string().contains("newer version of Signalpost"), "{refused}");
    assert_eq!(server().sql(name_of(&url), "SELECT version FROM signalpost_schema"), "99");
}

#[tokio::test]
async fn replicas_that_start_at_once_migrate_once() {
    let url = server().database();
    let open = || {
        let url = url.clone();
        std::thread::spawn(move || PostgresStore::open(options(url, None)).map(drop))
    };
    let opening: Vec<_> = (0..4).map(|_| open()).collect();
    for opened in opening {
        opened.join().unwrap().unwrap();
    }
    assert_eq!(server().sql(name_of(&url), "SELECT count(*) FROM buckets"), "256");
}

#[tokio::test]
async fn a_database_of_an_earlier_version_is_brought_to_this_one_once_and_that_is_on_the_record() {
    let url = server().database();
    drop(PostgresStore::open(options(url.clone(), None)).unwrap());
    let back = "ALTER TABLE members DROP COLUMN keys; ALTER TABLE installation DROP COLUMN sealed_under;
        UPDATE signalpost_schema SET version = 1";
    server().sql(name_of(&url), back);
    for _ in 0..2 {
        let store = PostgresStore::open(options(url.clone(), None)).unwrap();
        let audited = store.audit(AuditQuery { limit: 10, ..AuditQuery::default() }).await.unwrap().rows;
        let told: Vec<&str> = audited.iter().map(|entry| entry.description.as_str()).collect();
        assert_eq!(told, ["the database's schema was brought to version 2"]);
    }
}

/// Everything that ended so many milliseconds after the start is too old.
fn cuts(millis: i64) -> Arc<Cuts> {
    let exceptions = std::collections::HashMap::new();
    let (history, dead_letters) = (at(millis), at(millis));
    Arc::new(Cuts { now: at(millis), history, exceptions, dead_letters, notice: None, early: false })
}

const DAY: i64 = 24 * 60 * 60 * 1000;

#[tokio::test]
async fn a_day_of_events_goes_as_a_whole_once_nothing_in_it_is_needed() {
    let url = server().database();
    let (clock, shared) = manual_clock();
    let whole_days = Duration::from_millis(10 * DAY.unsigned_abs());
    let store =
        PostgresStore::open(PostgresOptions { whole_days, ..options(url.clone(), Some(shared)) }).unwrap();
    let bench = Bench { store: Arc::new(store), clock };
    let mut events = Vec::new();
    for number in 0..3 {
        let event_id = Some(EventId::parse(&format!("evt-{number}")).unwrap());
        let event = bench.accept(NewEvent { event_id, ..new_event("a", &[durable(1)]) }).await;
        let state =
            if number == 1 { DeliveryState::Waiting { due: at(9 * DAY) } } else { succeeded(number * DAY) };
        bench.store.settle(vec![settlement(&event, 1, Stage::Fresh, state)], Vec::new()).await.unwrap();
        events.push(event);
        bench.clock.advance(DAY);
    }
    let sweep = async || {
        let swept = bench.store.sweep(cuts(4 * DAY), SweepFrom::Events(None), 100).await.unwrap();
        (swept.removed, stored(&bench, &events).await)
    };
    assert_eq!(sweep().await, (2, vec![false, true, false]), "the second still waits");
    let partitions = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'events'::regclass";
    assert_eq!(server().sql(name_of(&url), partitions), "1");
    assert_eq!(server().sql(name_of(&url), "SELECT count(*) FROM event_ids"), "1");
    bench.store.end(vec![id_of(&events[1], 1)], StateKind::Waiting, succeeded(DAY)).await.unwrap();
    assert_eq!(sweep().await, (1, vec![false, false, false]));
    assert_eq!(bench.store.footprint().bytes, 0);
    // Days come back when they are needed.
    bench.accept(new_event("a", &[durable(1)])).await;
}

async fn stored(bench: &Bench, events: &[Arc<Event>]) -> Vec<bool> {
    let loaded = bench.store.load_events(events.iter().map(|event| event.key).collect()).await.unwrap();
    loaded.iter().map(Option::is_some).collect()
}

/// Hears nothing.
pub(super) struct Deaf;

impl CommitListener for Deaf {
    fn accepted(&self, _events: &[Arc<Event>]) {}
    fn requeued(&self, _entries: &[crate::store::DueEntry]) {}
    fn ended(&self, _ids: &[crate::domain::id::DeliveryId]) {}
    fn destination_changed(&self, _id: crate::domain::id::DestinationId) {}
}

#[tokio::test]
async fn a_replica_that_was_declared_dead_settles_nothing() {
    let url = server().database();
    let lease = LeaseOptions { name: "one".into(), duration: Duration::from_secs(60) };
    let store =
        PostgresStore::open(PostgresOptions { lease: Some(lease), ..options(url.clone(), None) }).unwrap();
    store.listen(Arc::new(Deaf));
    while !store.owns(destination_id(1)) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let answers =
        store.accept(vec![new_event("a", &[durable(1)]), new_event("a", &[durable(1)])]).await.unwrap();
    let events: Vec<Arc<Event>> = answers
        .into_iter()
        .filter_map(|answer| match answer {
            Acceptance::Accepted(event) => Some(event),
            Acceptance::Duplicate(_) | Acceptance::Conflict => None,
        })
        .collect();
    let settle = async |event: &Event| {
        store.settle(vec![settlement(event, 1, Stage::Fresh, succeeded(1))], Vec::new()).await
    };
    settle(&events[0]).await.unwrap();
    // Another one has taken over, and this one has not noticed.
    let taken = "WITH gone AS (DELETE FROM members),
        other AS (INSERT INTO members (id, name, expires_at)
                  VALUES (gen_random_uuid(), 'other', now() + interval '1 hour') RETURNING id)
        UPDATE buckets SET owner = (SELECT id FROM other), epoch = epoch + 1";
    server().sql(name_of(&url), taken);
    let refused = settle(&events[1]).await;
    assert!(matches!(refused, Err(StoreError::LeaseLost)), "{refused:?}");
    let delivery = store.delivery(id_of(&events[1], 1)).await.unwrap().unwrap();
    assert_eq!(delivery.state.kind(), StateKind::Waiting);
    assert!(delivery.attempts.is_empty());
}

#[tokio::test]
async fn an_event_that_was_routed_before_a_destination_came_is_routed_again() {
    let url = server().database();
    let (_, clock) = manual_clock();
    let open = || PostgresStore::open(options(url.clone(), Some(Arc::clone(&clock)))).unwrap();
    let (one, other) = (open(), open());
    let version = other.directory().version();
    one.create_destination(conformance::destination(1), None).await.unwrap();
    let refused = other.accept_routed(vec![new_event("a", &[])], version).await;
    assert!(matches!(refused, Err(StoreError::RoutedByOldDirectory)), "{refused:?}");
    assert!(
        other.directory().destination(destination_id(1)).is_some(),
        "and the destination is known from then on"
    );
    let version = other.directory().version();
    other.accept_routed(vec![new_event("a", &[durable(1)])], version).await.unwrap();
}

#[tokio::test]
async fn of_two_replicas_that_accept_one_id_exactly_one_does_and_keys_grow_over_both() {
    let url = server().database();
    let (_, clock) = manual_clock();
    let open = || Arc::new(PostgresStore::open(options(url.clone(), Some(Arc::clone(&clock)))).unwrap());
    let stores = [open(), open()];
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..60_usize {
        let store = Arc::clone(&stores[number % 2]);
        let event_id = Some(EventId::parse(&format!("evt-{}", number / 3)).unwrap());
        let event = NewEvent { event_id, ..new_event("a", &[durable(1)]) };
        calls.spawn(async move { store.accept(vec![event]).await.unwrap().remove(0) });
    }
    let answers = calls.join_all().await;
    let accepted = answers.iter().filter(|answer| matches!(answer, Acceptance::Accepted(_))).count();
    assert_eq!(accepted, 20);
    let page = stores[0].load_fresh(destination_id(1), None, 100).await.unwrap();
    assert_eq!(page.rows.len(), 20);
}

//! Several replicas on one database, each a process of its own: who has which lane, and what bad days can't take away.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use signalpost::domain::contract::Contract;
use signalpost::grpc::proto::v1;
use signalpost::grpc::proto::v1::event_ingest_client::EventIngestClient;
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tonic_types::StatusExt;

use crate::binary::{Home, Process};
use crate::harness::{
    DestinationDraft, FAST, ORGANIZATION, PATIENCE, Receiver, TestServer, destination, event, eventually,
    header, millis,
};

/// The lease of most tests: short, so that a take-over is soon.
const LEASE: Duration = Duration::from_secs(2);

/// Replicas of one installation.
struct Fleet {
    database: Arc<TestServer>,
    url: String,
    replicas: Vec<(Home, Option<Process>)>,
}

impl Fleet {
    async fn start(size: usize) -> Self {
        let database = Arc::new(TestServer::start(FAST));
        let url = format!("{:?}", database.database());
        let mut fleet = Self { database, url, replicas: Vec::new() };
        for _ in 0..size {
            fleet.add().await;
        }
        fleet.balanced().await;
        fleet
    }

    async fn add(&mut self) {
        let lease = format!("\"{}ms\"", LEASE.as_millis());
        let name = format!("\"replica-{}\"", self.replicas.len());
        let settings: [(&str, &str); 4] = [
            ("store.url", &self.url),
            ("store.lease", &lease),
            ("store.replica", &name),
            ("store.statement_timeout", r#""2s""#),
        ];
        let home = Home::with(&settings);
        let process = home.start().await;
        self.replicas.push((home, Some(process)));
    }

    async fn start_again(&mut self, number: usize) {
        let process = self.replicas[number].0.start().await;
        self.replicas[number].1 = Some(process);
    }

    fn process(&self, number: usize) -> &Process {
        self.replicas[number].1.as_ref().unwrap()
    }

    fn take(&mut self, number: usize) -> Process {
        self.replicas[number].1.take().unwrap()
    }

    fn channels(&self) -> Vec<Channel> {
        let running = self.replicas.iter().filter_map(|(_, process)| process.as_ref());
        running.map(|process| process.channel.clone()).collect()
    }

    async fn sql(&self, sql: &'static str) -> String {
        self.database(move |database| database.sql("t0", sql)).await
    }

    /// Does something with the database's server; the receiver goes on meanwhile.
    async fn database<T: Send + 'static>(&self, work: impl FnOnce(&TestServer) -> T + Send + 'static) -> T {
        let database = Arc::clone(&self.database);
        tokio::task::spawn_blocking(move || work(&database)).await.unwrap()
    }

    /// How many buckets each member has.
    async fn shares(&self) -> Vec<usize> {
        let rows = self
            .sql("SELECT count(b.bucket) FROM members m LEFT JOIN buckets b ON b.owner = m.id GROUP BY m.id")
            .await;
        rows.lines().map(|line| line.parse().unwrap()).collect()
    }

    /// Waits until each running replica has its share.
    async fn balanced(&self) {
        let running = self.channels().len();
        let least = 256 / running - 1;
        let is_fair = async || {
            let shares = self.shares().await;
            (shares.len() == running
                && shares.iter().sum::<usize>() == 256
                && shares.iter().all(|one| *one >= least))
            .then_some(())
        };
        eventually("lanes are spread over the replicas", is_fair).await;
    }

    async fn create(&self, number: usize, draft: DestinationDraft) -> v1::Destination {
        self.process(number).create(draft).await
    }

    fn logs(&self) -> String {
        let logs =
            self.replicas.iter().map(|(home, _)| std::fs::read_to_string(home.log()).unwrap_or_default());
        logs.collect::<Vec<_>>().join("\n-----\n")
    }
}

/// An ordered destination: one event a request, in order of acceptance, for as long as it takes.
fn ordered(receiver: &Receiver, path: &str) -> DestinationDraft {
    destination(Contract::Stalwart).url(receiver.url(path)).include(&[&event_type(path)]).settings(
        |settings| {
            settings.max_batch_events = Some(1);
            settings.throttle = Some(millis(0));
            settings.timeout = Some(millis(2000));
        },
    )
}

fn event_type(path: &str) -> String {
    format!("order{}.made", path.replace('/', "-"))
}

/// What callers were told, and when.
#[derive(Default)]
struct Load {
    /// By path: the ids that were acknowledged, in their order, and when.
    acknowledged: Mutex<BTreeMap<String, Vec<(String, Instant)>>>,
    refused: AtomicUsize,
    stop: AtomicBool,
    /// Where calls go; changes when replicas come and go.
    channels: Mutex<Vec<Channel>>,
}

impl Load {
    fn new(fleet: &Fleet) -> Arc<Self> {
        Arc::new(Self { channels: Mutex::new(fleet.channels()), ..Self::default() })
    }

    fn follow(&self, fleet: &Fleet) {
        *self.channels.lock().unwrap() = fleet.channels();
    }

    /// Emits to a path, one event after the other, each through another replica, until it is told to stop. An event
    /// that is refused is sent again with the same id, so that there is an order.
    async fn emit(self: Arc<Self>, path: String) {
        let mut number = 0;
        while !self.stop.load(Ordering::Relaxed) {
            let id = format!("evt{}-{number:05}", path.replace('/', "-"));
            number += 1;
            while !self.emit_once(&path, &id).await {
                self.refused.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let now = Instant::now();
            self.acknowledged.lock().unwrap().entry(path.clone()).or_default().push((id, now));
        }
    }

    async fn emit_once(&self, path: &str, id: &str) -> bool {
        let channels = self.channels.lock().unwrap().clone();
        let channel = channels[fastrand::usize(..channels.len())].clone();
        let event = event(&event_type(path)).id(id).data(format!("{{\"id\":\"{id}\"}}"));
        let mut request = tonic::Request::new(v1::EmitRequest {
            organization_id: ORGANIZATION.into(),
            event: Some(event.0),
        });
        request.set_timeout(Duration::from_secs(3));
        let call = async move { EventIngestClient::new(channel).emit(request).await };
        matches!(tokio::time::timeout(Duration::from_secs(4), call).await, Ok(Ok(_)))
    }

    fn count(&self) -> usize {
        self.acknowledged.lock().unwrap().values().map(Vec::len).sum()
    }
}

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
struct Account {
    acknowledged: usize,
    lost: usize,
    doubled: usize,
    out_of_order: usize,
}

/// Waits until everything that was acknowledged has arrived, and counts.
async fn account(load: &Load, receiver: &Receiver) -> Account {
    let acknowledged = load.acknowledged.lock().unwrap().clone();
    let wanted: BTreeSet<String> = acknowledged.values().flatten().map(|(id, _)| id.clone()).collect();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let arrived: BTreeSet<String> = arrivals(receiver).into_values().flatten().collect();
        if wanted.is_subset(&arrived) || Instant::now() > deadline {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let arrived = arrivals(receiver);
    let (mut lost, mut doubled, mut out_of_order) = (0, 0, 0);
    for (path, ids) in &acknowledged {
        let came = arrived.get(path).cloned().unwrap_or_default();
        let mut counts: HashMap<&String, usize> = HashMap::new();
        let mut first = Vec::new();
        for id in &came {
            let count = counts.entry(id).or_default();
            *count += 1;
            if *count == 1 {
                first.push(id);
            }
        }
        lost += ids.iter().filter(|(id, _)| !counts.contains_key(id)).count();
        doubled += counts.values().map(|count| count - 1).sum::<usize>();
        out_of_order += first.windows(2).filter(|pair| pair[0] > pair[1]).count();
    }
    assert!(!wanted.is_empty());
    Account { acknowledged: wanted.len(), lost, doubled, out_of_order }
}

/// The ids that came to each path, in order of arrival.
fn arrivals(receiver: &Receiver) -> BTreeMap<String, Vec<String>> {
    let mut arrivals: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for request in receiver.all() {
        let id = header(&request, "signalpost-event-id").to_owned();
        arrivals.entry(request.path.clone()).or_default().push(id);
    }
    arrivals
}

#[tokio::test]
async fn an_event_accepted_by_any_replica_arrives_once_whoever_has_the_lane() {
    let (fleet, receiver) = (Fleet::start(3).await, Receiver::start().await);
    let mut sent = 0;
    for number in 0..12 {
        let path = format!("/hook-{number}");
        fleet.create(number % 3, ordered(&receiver, &path)).await;
        // The next event that any other replica accepts goes there.
        let emitted = fleet.process((number + 1) % 3).emit(event(&event_type(&path))).await;
        assert_eq!(emitted.delivery_count, 1, "destination {number}");
        sent += 1;
    }
    for round in 0..10 {
        for number in 0..12 {
            let path = format!("/hook-{number}");
            fleet.process((number + round) % 3).emit(event(&event_type(&path))).await;
            sent += 1;
        }
    }
    eventually("everything arrives", async || (receiver.all().len() >= sent).then_some(())).await;
    assert_eq!(receiver.all().len(), sent);
    let owners = fleet.sql("SELECT count(DISTINCT owner) FROM buckets").await;
    assert_eq!(owners, "3");
    for (_, process) in fleet.replicas {
        assert_eq!(process.unwrap().terminate().await, Some(0));
    }
    assert_eq!(
        fleet.database.sql("t0", "SELECT count(*) FROM members"),
        "0",
        "leases are given back at a stop"
    );
}

#[tokio::test]
async fn killing_replicas_under_load_loses_nothing_and_keeps_the_order() {
    let (mut fleet, receiver) = (Fleet::start(3).await, Receiver::start().await);
    let paths: Vec<String> = (0..8).map(|number| format!("/hook-{number}")).collect();
    for path in &paths {
        fleet.create(0, ordered(&receiver, path)).await;
    }
    let load = Load::new(&fleet);
    let emitters: JoinSet<()> = paths.iter().map(|path| Arc::clone(&load).emit(path.clone())).collect();
    let mut longest = Duration::ZERO;
    for round in 0..6 {
        let victim = round % 3;
        let before = load.count();
        eventually("events are accepted", async || (load.count() > before + 100).then_some(())).await;
        let killed_at = Instant::now();
        fleet.take(victim).kill();
        load.follow(&fleet);
        // All lanes of the victim run elsewhere before it is back.
        let everywhere = async || {
            (fleet.shares().await.iter().sum::<usize>() == 256 && fleet.shares().await.len() == 2)
                .then_some(())
        };
        eventually("the lanes are taken over", everywhere).await;
        longest = longest.max(killed_at.elapsed());
        fleet.start_again(victim).await;
        load.follow(&fleet);
        fleet.balanced().await;
    }
    load.stop.store(true, Ordering::Relaxed);
    emitters.join_all().await;
    let account = account(&load, &receiver).await;
    println!("{account:?}, longest take-over {longest:?}, refused {}", load.refused.load(Ordering::Relaxed));
    assert_eq!((account.lost, account.out_of_order), (0, 0), "{account:?}\n{}", fleet.logs());
    // What was under way, and what had come to its end and was not stored yet.
    assert!(account.doubled <= 6 * 4 * paths.len(), "{account:?}");
    assert!(longest < LEASE * 3, "{longest:?}");
}

#[tokio::test]
async fn a_replica_that_stood_still_for_longer_than_its_lease_settles_nothing_and_comes_back() {
    let (fleet, receiver) = (Fleet::start(2).await, Receiver::start().await);
    let paths: Vec<String> = (0..8).map(|number| format!("/hook-{number}")).collect();
    for path in &paths {
        fleet.create(0, ordered(&receiver, path)).await;
    }
    let load = Load::new(&fleet);
    let emitters: JoinSet<()> = paths.iter().map(|path| Arc::clone(&load).emit(path.clone())).collect();
    eventually("events are accepted", async || (load.count() > 200).then_some(())).await;
    for _ in 0..3 {
        fleet.process(1).send("-STOP");
        *load.channels.lock().unwrap() = vec![fleet.process(0).channel.clone()];
        eventually("the other has all lanes", async || (fleet.shares().await == [256]).then_some(())).await;
        let before = load.count();
        eventually("ingest goes on", async || (load.count() > before + 100).then_some(())).await;
        fleet.process(1).send("-CONT");
        load.follow(&fleet);
        fleet.balanced().await;
    }
    load.stop.store(true, Ordering::Relaxed);
    emitters.join_all().await;
    let account = account(&load, &receiver).await;
    println!("{account:?}");
    assert_eq!((account.lost, account.out_of_order), (0, 0), "{account:?}\n{}", fleet.logs());
    // What was under way, and what had come to its end and was not stored yet.
    assert!(account.doubled <= 3 * 4 * paths.len(), "{account:?}");
    assert!(fleet.logs().contains("the leases of this replica have lapsed and were taken over"));
}

#[tokio::test]
async fn a_database_that_goes_away_is_an_error_for_callers_and_a_pause_for_lanes() {
    let (fleet, receiver) = (Fleet::start(2).await, Receiver::start().await);
    let paths: Vec<String> = (0..8).map(|number| format!("/hook-{number}")).collect();
    for path in &paths {
        fleet.create(0, ordered(&receiver, path)).await;
    }
    let load = Load::new(&fleet);
    let emitters: JoinSet<()> = paths.iter().map(|path| Arc::clone(&load).emit(path.clone())).collect();
    let go_on = async || {
        let before = load.count();
        eventually("events are accepted", async || (load.count() > before + 100).then_some(())).await;
    };
    go_on().await;
    // A crash and a recovery.
    fleet.database(TestServer::crash).await;
    let mut client = EventIngestClient::new(fleet.process(0).channel.clone());
    let request =
        v1::EmitRequest { organization_id: ORGANIZATION.into(), event: Some(event("order-x.made").0) };
    let refused = client.emit(request).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable);
    assert!(refused.get_error_details().retry_info().is_some(), "the answer says when to come back");
    fleet.database(TestServer::start_again).await;
    go_on().await;
    // Like a fail-over of a proxy: every connection ends at once.
    for _ in 0..3 {
        fleet
            .database(|database| {
                database.sql(
                    "postgres",
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 't0'",
                )
            })
            .await;
        go_on().await;
    }
    // Somebody holds locks for longer than a statement may take.
    let held = "BEGIN; LOCK TABLE waiting IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(3); COMMIT";
    fleet.sql(held).await;
    go_on().await;
    load.stop.store(true, Ordering::Relaxed);
    emitters.join_all().await;
    let account = account(&load, &receiver).await;
    println!("{account:?}, refused {}", load.refused.load(Ordering::Relaxed));
    assert_eq!((account.lost, account.out_of_order), (0, 0), "{account:?}\n{}", fleet.logs());
    for (_, process) in fleet.replicas {
        assert_eq!(process.unwrap().terminate().await, Some(0));
    }
}

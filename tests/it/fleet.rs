//! Replicas of one installation as processes of their own, a load on them, and the account of what came of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use signalpost::domain::contract::Contract;
use signalpost::grpc::proto::v1;
use signalpost::grpc::proto::v1::event_ingest_client::EventIngestClient;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::binary::{Home, Process};
use crate::harness::{
    DestinationDraft, FAST, ORGANIZATION, PATIENCE, Receiver, TestServer, destination, event, eventually,
    header, millis,
};

/// The lease of most tests: short, so that a take-over is soon.
pub const LEASE: Duration = Duration::from_secs(2);

/// The ordered destinations of a load.
pub const ORDERED: usize = 8;

/// Replicas of one installation.
pub struct Fleet {
    pub database: Arc<TestServer>,
    pub url: String,
    pub replicas: Vec<(Home, Option<Process>)>,
}

impl Fleet {
    pub async fn start(size: usize) -> Self {
        let mut fleet = Self::empty(TestServer::start(FAST));
        for _ in 0..size {
            fleet.add(&[]).await;
        }
        fleet.balanced().await;
        fleet
    }

    /// Nobody, on a database of this server.
    pub fn empty(server: TestServer) -> Self {
        let url = server.database();
        Self { database: Arc::new(server), url, replicas: Vec::new() }
    }

    /// Starts one more, with these variables in its environment.
    pub async fn add(&mut self, variables: &[(&str, &str)]) {
        let url = self.url.clone();
        self.add_on(&url, variables).await;
    }

    /// Starts one more that reaches the database by another URL.
    pub async fn add_on(&mut self, url: &str, variables: &[(&str, &str)]) {
        let lease = format!("\"{}ms\"", LEASE.as_millis());
        let url = format!("{url:?}");
        let name = format!("\"replica-{}\"", self.replicas.len());
        let settings: [(&str, &str); 4] = [
            ("store.url", &url),
            ("store.lease", &lease),
            ("store.replica", &name),
            ("store.statement_timeout", r#""2s""#),
        ];
        let home = Home::with(&settings);
        let process = home.start_with(variables).await;
        self.replicas.push((home, Some(process)));
    }

    pub async fn start_again(&mut self, number: usize) {
        let process = self.replicas[number].0.start().await;
        self.replicas[number].1 = Some(process);
    }

    pub fn process(&self, number: usize) -> &Process {
        self.replicas[number].1.as_ref().unwrap()
    }

    pub fn take(&mut self, number: usize) -> Process {
        self.replicas[number].1.take().unwrap()
    }

    pub fn channels(&self) -> Vec<Channel> {
        let running = self.replicas.iter().filter_map(|(_, process)| process.as_ref());
        running.map(|process| process.channel.clone()).collect()
    }

    pub async fn sql(&self, sql: &'static str) -> String {
        self.database(move |database| database.sql("t0", sql)).await
    }

    /// Does something with the database's server; the receiver goes on meanwhile.
    pub async fn database<T: Send + 'static>(
        &self,
        work: impl FnOnce(&TestServer) -> T + Send + 'static,
    ) -> T {
        let database = Arc::clone(&self.database);
        tokio::task::spawn_blocking(move || work(&database)).await.unwrap()
    }

    /// How many buckets each member has.
    pub async fn shares(&self) -> Vec<usize> {
        let rows = self
            .sql("SELECT count(b.bucket) FROM members m LEFT JOIN buckets b ON b.owner = m.id GROUP BY m.id")
            .await;
        rows.lines().map(|line| line.parse().unwrap()).collect()
    }

    /// Waits until each running replica has its share.
    pub async fn balanced(&self) {
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

    pub async fn create(&self, number: usize, draft: DestinationDraft) -> v1::Destination {
        self.process(number).create(draft).await
    }

    pub fn log(&self, number: usize) -> String {
        std::fs::read_to_string(self.replicas[number].0.log()).unwrap_or_default()
    }

    pub fn logs(&self) -> String {
        let logs =
            self.replicas.iter().map(|(home, _)| std::fs::read_to_string(home.log()).unwrap_or_default());
        logs.collect::<Vec<_>>().join("\n-----\n")
    }
}

/// An ordered destination: one event a request, in order of acceptance, for as long as it takes.
pub fn ordered(receiver: &Receiver, path: &str) -> DestinationDraft {
    destination(Contract::Stalwart).url(receiver.url(path)).include(&[&event_type(path)]).settings(
        |settings| {
            settings.max_batch_events = Some(1);
            settings.throttle = Some(millis(0));
            settings.timeout = Some(millis(2000));
        },
    )
}

pub fn event_type(path: &str) -> String {
    format!("order{}.made", path.replace('/', "-"))
}

/// Eight ordered destinations, and a caller for each, who repeats what is refused.
pub async fn ordered_load(fleet: &Fleet, receiver: &Receiver) -> (Arc<Load>, JoinSet<()>) {
    let paths: Vec<String> = (0..ORDERED).map(|number| format!("/hook-{number}")).collect();
    for path in &paths {
        fleet.create(0, ordered(receiver, path)).await;
    }
    let load = Load::new(fleet);
    let emitters = paths.iter().map(|path| Arc::clone(&load).emit(path.clone())).collect();
    (load, emitters)
}

/// What callers were told, and when.
#[derive(Default)]
pub struct Load {
    /// By path: the ids that were acknowledged, in their order, and when.
    pub acknowledged: Mutex<BTreeMap<String, Vec<(String, Instant)>>>,
    pub refused: AtomicUsize,
    pub stop: AtomicBool,
    /// Where calls go; changes when replicas come and go.
    pub channels: Mutex<Vec<Channel>>,
}

impl Load {
    pub fn new(fleet: &Fleet) -> Arc<Self> {
        Arc::new(Self { channels: Mutex::new(fleet.channels()), ..Self::default() })
    }

    pub fn follow(&self, fleet: &Fleet) {
        *self.channels.lock().unwrap() = fleet.channels();
    }

    /// Emits to a path, one event after the other, each through another replica, until it is told to stop. An event
    /// that is refused is sent again with the same id, so that there is an order.
    pub async fn emit(self: Arc<Self>, path: String) {
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

    pub async fn emit_once(&self, path: &str, id: &str) -> bool {
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

    /// Waits until so many more are accepted.
    pub async fn goes_on(&self, by: usize) {
        let before = self.count();
        eventually("events are accepted", async || (self.count() > before + by).then_some(())).await;
    }

    pub fn count(&self) -> usize {
        self.acknowledged.lock().unwrap().values().map(Vec::len).sum()
    }
}

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub struct Account {
    pub acknowledged: usize,
    pub lost: usize,
    pub doubled: usize,
    pub out_of_order: usize,
}

/// Ends the load, waits until everything that was acknowledged has arrived, and counts. Nothing is lost and all is in
/// order, or the test fails.
pub async fn accounted(
    fleet: &Fleet,
    receiver: &Receiver,
    (load, emitters): (&Load, JoinSet<()>),
) -> Account {
    load.stop.store(true, Ordering::Relaxed);
    emitters.join_all().await;
    let account = account(load, receiver).await;
    println!("{account:?}, refused {}", load.refused.load(Ordering::Relaxed));
    assert_eq!((account.lost, account.out_of_order), (0, 0), "{account:?}\n{}", fleet.logs());
    account
}

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

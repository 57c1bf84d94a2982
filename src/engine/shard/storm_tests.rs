//! A storm: many destinations of all contracts, receivers that do what they like, callers who change, pause,
//! cancel and resend, and processes that stop and crash; on paused time, out of one seed.
//!
//! A failing seed is printed; `SIGNALPOST_TEST_SEED=… cargo test storm` plays it again. What happens at the same moment
//! may be interleaved by the runtime in its own way, which is the same for the same seed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;

use super::tests::{START, Stage};
use super::*;
use crate::contract::RenderedRequest;
use crate::domain::attempt::Failure;
use crate::domain::contract::{CloudEventsMode, Contract};
use crate::domain::delivery::{CycleCause, Delivery, DeliveryState, EndReason, StateKind};
use crate::domain::destination::DestinationState;
use crate::domain::id::DeliveryId;
use crate::domain::settings::{DeliverySettings, Guarantee, RetryPolicy, RetrySchedule};
use crate::store::{DeliveryStore, Store};
use crate::transport::scripted::{answered, no_answer};
use crate::transport::{SendOptions, Sent, Transport};

/// How many storms one run of the tests has.
const STORMS: u64 = 12;
/// What callers do in one storm.
const ACTS: usize = 250;

/// A receiver that answers by chance, late or never, and remembers what it was sent.
struct Weather {
    random: Mutex<fastrand::Rng>,
    calm: Mutex<bool>,
    sent: Mutex<Vec<Request>>,
}

struct Request {
    path: String,
    at: Timestamp,
    events: Vec<String>,
    /// Whether it was answered with a success; `None` while it is under way, or when it was dropped.
    success: Option<bool>,
}

impl Weather {
    fn new(seed: u64) -> Self {
        Self {
            random: Mutex::new(fastrand::Rng::with_seed(seed)),
            calm: Mutex::new(false),
            sent: Mutex::default(),
        }
    }

    fn draw(&self) -> (Duration, Sent) {
        let mut random = self.random.lock().unwrap();
        if *self.calm.lock().unwrap() {
            return (Duration::from_millis(random.u64(1..50)), answered(200));
        }
        let wait = Duration::from_millis(random.u64(0..4000));
        match random.u8(0..10) {
            0 => (wait, answered(500)),
            1 => (wait, answered(429)),
            2 => (Duration::ZERO, no_answer(Failure::Refused, "connection refused")),
            3 => (Duration::MAX, answered(200)),
            _ => (wait, answered(200)),
        }
    }
}

/// The transport of a storm, with the clock that the stage has.
struct StormTransport {
    weather: Weather,
    origin: tokio::time::Instant,
}

#[async_trait]
impl Transport for StormTransport {
    async fn send(&self, request: RenderedRequest, options: SendOptions) -> Sent {
        let number = {
            let mut sent = self.weather.sent.lock().unwrap();
            let (path, at) = (request.url().path().to_owned(), START + self.origin.elapsed());
            sent.push(Request { path, at, events: ids_in(&request), success: None });
            sent.len() - 1
        };
        let (wait, sent) = self.weather.draw();
        let sent = if wait < options.timeout {
            tokio::time::sleep(wait).await;
            sent
        } else {
            tokio::time::sleep(options.timeout).await;
            no_answer(Failure::Timeout, "no answer in time")
        };
        self.weather.sent.lock().unwrap()[number].success = Some(sent.outcome.is_success());
        sent
    }
}

/// The ids of the events in a request: those of a batch are in its body, that of a single one in a header.
fn ids_in(request: &RenderedRequest) -> Vec<String> {
    if let Some(id) = request.headers().get("signalpost-event-id") {
        return vec![id.to_str().unwrap().to_owned()];
    }
    let body: serde_json::Value = serde_json::from_slice(request.body()).unwrap();
    let events = body.get("events").unwrap_or(&body).as_array().unwrap().clone();
    events.iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect()
}

/// One storm, and what the callers know.
struct Storm {
    stage: Stage,
    transport: Arc<StormTransport>,
    random: fastrand::Rng,
    destinations: Vec<DestinationId>,
    accepted: Vec<DeliveryId>,
    cancelled: HashSet<DeliveryId>,
    /// How often callers asked for it again.
    resent: HashMap<DeliveryId, usize>,
    /// Deliveries that were in flight when a process was ended the hard way.
    crashed: HashSet<DeliveryId>,
    seed: u64,
}

impl Storm {
    async fn set(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let transport = Arc::new(StormTransport {
            weather: Weather::new(random.u64(..)),
            origin: tokio::time::Instant::now(),
        });
        let shared: Arc<dyn Transport> = Arc::<StormTransport>::clone(&transport);
        let stage = Stage::with(shared, |options| {
            options.window = random.usize(1..12);
            options.best_effort_window = 1000;
            options.max_in_flight = random.usize(1..12);
            options.circuit_opens_after = random.u32(2..6);
        });
        let mut destinations = Vec::new();
        for contract in Contract::ALL {
            let settings = settings(contract, &mut random);
            destinations.push(stage.destination(contract, settings).await);
        }
        Self {
            stage,
            transport,
            random,
            destinations,
            accepted: Vec::new(),
            cancelled: HashSet::new(),
            resent: HashMap::new(),
            crashed: HashSet::new(),
            seed,
        }
    }

    async fn act(mut self) -> Self {
        let id = self.destinations[self.random.usize(0..self.destinations.len())];
        match self.random.u8(0..30) {
            0..=17 => self.accepted.push(self.stage.emit(id).await),
            18 | 19 => self.cancel().await,
            20 | 21 => self.resend().await,
            22 | 23 => self.change(id).await,
            24 | 25 => self.pause_or_resume(id).await,
            26 => return self.restart(false).await,
            27 => return self.restart(true).await,
            _ => {
                let pause = self.random.u64(0..20_000);
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(self.random.u64(0..400))).await;
        self
    }

    fn any(&mut self) -> Option<DeliveryId> {
        (!self.accepted.is_empty()).then(|| self.accepted[self.random.usize(0..self.accepted.len())])
    }

    async fn cancel(&mut self) {
        let Some(id) = self.any() else { return };
        let into = DeliveryState::Cancelled { at: self.stage.clock.now() };
        let ended = self.stage.store.end(vec![id], StateKind::Waiting, into).await.unwrap();
        self.cancelled.extend(ended);
    }

    async fn resend(&mut self) {
        let Some(id) = self.any() else { return };
        let now = self.stage.clock.now();
        let entries = self.stage.store.requeue(vec![id], CycleCause::Resend, now).await.unwrap();
        for entry in entries {
            *self.resent.entry(entry.id).or_default() += 1;
        }
    }

    async fn change(&mut self, id: DestinationId) {
        let concurrency = self.random.u32(1..6);
        let throttle = Duration::from_millis(self.random.u64(0..3000));
        self.stage
            .change(id, |destination| {
                destination.settings.max_concurrency = Some(concurrency);
                if destination.settings.throttle.is_some() {
                    destination.settings.throttle = Some(throttle);
                }
            })
            .await;
    }

    async fn pause_or_resume(&mut self, id: DestinationId) {
        let since = self.stage.clock.now();
        let pauses = self.random.bool();
        let state = if pauses { DestinationState::Paused { since } } else { DestinationState::Active };
        self.stage.change(id, |destination| destination.state = state).await;
    }

    async fn restart(mut self, hard: bool) -> Self {
        if hard {
            for id in &self.accepted {
                let entry = self.stage.store.directory().destination(id.destination_id).unwrap();
                while entry.status.is_in_flight(id.event_key) {
                    self.crashed.insert(*id);
                    entry.status.end_flight(&[id.event_key]);
                }
            }
        }
        let stopped_at = self.stage.clock.now();
        self.stage = self.stage.restart(hard).await;
        if hard {
            self.note_begun_at(stopped_at).await;
        }
        self
    }

    /// A request that begins in the very moment of a hard stop is under way then, too.
    async fn note_begun_at(&mut self, stopped_at: Timestamp) {
        for id in self.accepted.clone() {
            let delivery = self.stage.store.delivery(id).await.unwrap();
            let requests = delivery.map(|delivery| self.requests_of(&delivery)).unwrap_or_default();
            if requests.iter().any(|(at, _)| *at == stopped_at) {
                self.crashed.insert(id);
            }
        }
    }

    /// Everything is switched on and answers, until nothing waits any more.
    async fn calm_down(&mut self) -> Vec<Delivery> {
        *self.transport.weather.calm.lock().unwrap() = true;
        for id in self.destinations.clone() {
            self.stage.change(id, |destination| destination.state = DestinationState::Active).await;
        }
        let mut ended = Vec::new();
        for id in self.accepted.clone() {
            ended.push(self.stage.finished(id).await);
        }
        ended
    }

    fn requests_of(&self, delivery: &Delivery) -> Vec<(Timestamp, Option<bool>)> {
        let entry = self.stage.store.directory().destination(delivery.id.destination_id).unwrap();
        let path = entry.destination.url.as_url().path();
        let sent = self.transport.weather.sent.lock().unwrap();
        let mine = sent.iter().filter(|request| {
            request.path == path && request.events.iter().any(|id| id == delivery.event_id.as_str())
        });
        mine.map(|request| (request.at, request.success)).collect()
    }

    fn check(&self, delivery: &Delivery) {
        let seed = self.seed;
        let requests = self.requests_of(delivery);
        let answered = requests.iter().filter(|(_, success)| success.is_some()).count();
        let dropped = requests.len() - answered;
        let successes = requests.iter().filter(|(_, success)| *success == Some(true)).count();
        let about = format!("seed {seed}: {:?} {:?}", delivery.id, delivery.state);
        // Counters add up: what was answered is counted, but for what a hard stop had under way.
        let counted = delivery.attempt_count as usize;
        let crashed = self.crashed.contains(&delivery.id);
        assert!(counted <= answered, "{about}: {counted} attempts of {answered} requests");
        assert!(crashed || counted == answered, "{about}: {counted} attempts of {answered} requests");
        assert!(crashed || dropped == 0, "{about}: {dropped} requests were dropped");
        // None is doubled without a crash or a caller's wish.
        let wanted = 1 + self.resent.get(&delivery.id).copied().unwrap_or_default();
        assert!(crashed || successes <= wanted, "{about}: {successes} successes, {wanted} were asked for");
        self.check_end(delivery, successes, &about);
        self.check_times(delivery, &about);
    }

    /// None is lost: each ends as its contract and its callers say.
    fn check_end(&self, delivery: &Delivery, successes: usize, about: &str) {
        match &delivery.state {
            DeliveryState::Succeeded { .. } => assert!(successes > 0, "{about}: no success"),
            DeliveryState::Cancelled { .. } => assert!(self.cancelled.contains(&delivery.id), "{about}"),
            DeliveryState::DeadLettered { reason, .. } => {
                assert_eq!(*reason, EndReason::AttemptsExhausted, "{about}");
                assert_eq!(delivery.guarantee, Guarantee::AtLeastOnce, "{about}");
            }
            DeliveryState::Discarded { at, reason: EndReason::TooOld } => {
                assert!(at.since(delivery.created_at) >= Duration::from_secs(120), "{about}");
            }
            DeliveryState::Discarded { .. } => {
                assert_eq!(delivery.guarantee, Guarantee::BestEffort, "{about}")
            }
            DeliveryState::Waiting { .. } => panic!("{about}: it waits for ever"),
        }
    }

    /// None is early: a retry comes a second after the attempt before at the soonest, as all schedules here say,
    /// unless a caller asked for it or the process stops.
    fn check_times(&self, delivery: &Delivery, about: &str) {
        if self.resent.contains_key(&delivery.id) || delivery.guarantee == Guarantee::BestEffort {
            return;
        }
        for pair in delivery.attempts.windows(2) {
            let ended = pair[0].started_at + pair[0].round_trip;
            let gap = pair[1].started_at.since(ended);
            assert!(gap >= Duration::from_secs(1), "{about}: a retry came after {gap:?}");
        }
    }

    /// What an ordered destination was sent first is in order, but for what callers moved themselves.
    fn check_order(&self, ended: &[Delivery]) {
        let mut last: BTreeMap<DestinationId, (Timestamp, DeliveryId)> = BTreeMap::new();
        for delivery in ended {
            let entry = self.stage.store.directory().destination(delivery.id.destination_id).unwrap();
            let policy = crate::contract::effective_policy(&entry.destination);
            let moved = self.resent.contains_key(&delivery.id) || self.crashed.contains(&delivery.id);
            let Some((first, _)) = self.requests_of(delivery).first().copied() else { continue };
            if !policy.ordered || moved || delivery.guarantee == Guarantee::BestEffort {
                continue;
            }
            if let Some((before, other)) = last.insert(delivery.id.destination_id, (first, delivery.id)) {
                assert!(before <= first, "seed {}: {} overtook {other}", self.seed, delivery.id);
            }
        }
    }
}

/// Delays of a second and more, few attempts, and whatever else the contract may be asked for.
fn settings(contract: Contract, random: &mut fastrand::Rng) -> DeliverySettings {
    let delays: Vec<_> = (0..random.usize(1..8)).map(|_| Duration::from_secs(random.u64(1..40))).collect();
    let schedule = if random.bool() {
        RetrySchedule::Fixed(delays)
    } else {
        let (base, cap) = (Duration::from_secs(1), Duration::from_secs(30));
        RetrySchedule::Exponential { base, factor: 2.0, cap }
    };
    let retry = RetryPolicy {
        schedule,
        max_attempts: Some(random.u32(1..9)),
        give_up_after: None,
        jitter: random.f64(),
        final_statuses: [].into(),
    };
    let groups = contract == Contract::Stalwart || contract == Contract::CloudEvents;
    DeliverySettings {
        retry: Some(retry),
        ordered: random.bool().then_some(true),
        throttle: groups.then(|| Duration::from_millis(random.u64(0..3000))),
        max_batch_events: groups.then(|| random.u32(1..6)),
        cloudevents_mode: (contract == Contract::CloudEvents).then_some(CloudEventsMode::Batch),
        discard_after: (contract == Contract::Stalwart).then_some(Duration::from_secs(120)),
        ..DeliverySettings::default()
    }
}

async fn storm(seed: u64) {
    let mut storm = Storm::set(seed).await;
    for _ in 0..ACTS {
        storm = storm.act().await;
    }
    let ended = storm.calm_down().await;
    ended.iter().for_each(|delivery| storm.check(delivery));
    storm.check_order(&ended);
    assert!(ended.len() > ACTS / 3, "seed {seed}: too little happened");
    storm.stage.stop().await;
}

/// The seed that `SIGNALPOST_TEST_SEED` names, or a new one.
fn first_seed() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "the seed of a test is no configuration of the service")]
    let named = std::env::var("SIGNALPOST_TEST_SEED").ok().and_then(|text| text.parse().ok());
    named.unwrap_or_else(|| fastrand::u64(..u64::MAX - STORMS))
}

#[test]
fn in_a_storm_nothing_is_lost_nothing_is_doubled_nothing_is_early_and_counters_add_up() {
    let first = first_seed();
    for seed in first..first + STORMS {
        // Printed by the test runner if the storm fails.
        println!("SIGNALPOST_TEST_SEED={seed}");
        // Draws of the engine itself, on this thread, come from the same seed.
        fastrand::seed(seed);
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().start_paused(true).build().unwrap();
        runtime.block_on(storm(seed));
    }
}

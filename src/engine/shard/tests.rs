use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinHandle;

use super::*;
use crate::clock::TokioClock;
use crate::contract::effective_policy;
use crate::domain::attempt::Failure;
use crate::domain::contract::Contract;
use crate::domain::delivery::{Delivery, DeliveryState, EndReason};
use crate::domain::destination::{Destination, DestinationState, DestinationUrl, DisabledReason};
use crate::domain::event::{Acceptance, EventType, Level, NewEvent, Route};
use crate::domain::id::{DeliveryId, OrganizationId};
use crate::domain::payload::Payload;
use crate::domain::secret::{HttpAuth, SigningSecrets};
use crate::domain::settings::{DeliverySettings, RetryPolicy, RetrySchedule};
use crate::domain::subscription::Subscription;
use crate::engine::Engine;
use crate::engine::memory::Memory;
use crate::policy::host_rate::HostRates;
use crate::store::memory::MemoryStore;
use crate::store::{CommitListener, DeliveryStore, DestinationStore, EventStore, Store};
use crate::transport::Transport;
use crate::transport::account::Account;
use crate::transport::courier::Courier;
use crate::transport::scripted::{ScriptedTransport, answered, no_answer};
use crate::transport::secrets::SecretReader;

pub(super) const HOST: &str = "receiver.example";
/// For events that wait.
pub(super) const MEMORY: usize = 4 << 20;
pub(super) const START: Timestamp = Timestamp::from_millis(1_750_000_000_000);

/// A shard with a store in memory and a scripted receiver, on paused time.
pub(super) struct Stage {
    pub(super) store: Arc<MemoryStore>,
    pub(super) transport: Arc<ScriptedTransport>,
    pub(super) clock: SharedClock,
    pub(super) stop: StopSignals,
    /// For events that wait, in the present process.
    pub(super) memory: Arc<Memory>,
    running: JoinHandle<()>,
    courier: Arc<Courier>,
    options: ShardOptions,
    relay: Arc<Relay>,
}

/// Tells the engine of the present process; a store has one listener in its life.
struct Relay(Mutex<Arc<dyn CommitListener>>);

impl Relay {
    fn listener(&self) -> Arc<dyn CommitListener> {
        Arc::clone(&self.0.lock().unwrap())
    }
}

impl CommitListener for Relay {
    fn accepted(&self, events: &[Arc<Event>]) {
        self.listener().accepted(events);
    }

    fn requeued(&self, entries: &[DueEntry]) {
        self.listener().requeued(entries);
    }

    fn ended(&self, ids: &[DeliveryId]) {
        self.listener().ended(ids);
    }

    fn destination_changed(&self, id: DestinationId) {
        self.listener().destination_changed(id);
    }
}

impl Stage {
    pub(super) fn set() -> Self {
        Self::scripted(Arc::new(ScriptedTransport::new()))
    }

    pub(super) fn scripted(transport: Arc<ScriptedTransport>) -> Self {
        let shared: Arc<dyn Transport> = Arc::<ScriptedTransport>::clone(&transport);
        Self { transport, ..Self::with(shared, |_| {}) }
    }

    /// A stage on another transport, with other bounds.
    pub(super) fn with(transport: Arc<dyn Transport>, change: impl FnOnce(&mut ShardOptions)) -> Self {
        let clock: SharedClock = Arc::new(TokioClock::starting_at(START));
        let store = Arc::new(MemoryStore::new(Arc::clone(&clock)));
        let secrets = Arc::new(SecretReader::new(Vec::new(), Vec::new()));
        let (account, rates) = (Account::default(), None);
        let courier = Courier { transport, secrets, clock: Arc::clone(&clock), account, rates };
        Self::with_courier((store, clock), courier, change)
    }

    /// A stage with a clock of its own.
    pub(super) fn on_clock(transport: Arc<ScriptedTransport>, clock: SharedClock) -> Self {
        let store = Arc::new(MemoryStore::new(Arc::clone(&clock)));
        let secrets = Arc::new(SecretReader::new(Vec::new(), Vec::new()));
        let (account, rates) = (Account::default(), None);
        let shared: Arc<dyn Transport> = Arc::<ScriptedTransport>::clone(&transport);
        let courier = Courier { transport: shared, secrets, clock: Arc::clone(&clock), account, rates };
        Self { transport, ..Self::with_courier((store, clock), courier, |_| {}) }
    }

    /// A stage whose organizations send so many requests a second to one host.
    pub(super) fn with_host_rate(transport: Arc<dyn Transport>, per_second: u32) -> Self {
        let clock: SharedClock = Arc::new(TokioClock::starting_at(START));
        let store = Arc::new(MemoryStore::new(Arc::clone(&clock)));
        let rates = Some(Arc::new(Mutex::new(HostRates::new(per_second))));
        let (secrets, account) = (Arc::default(), Account::default());
        let courier = Courier { transport, secrets, clock: Arc::clone(&clock), account, rates };
        Self::with_courier((store, clock), courier, |options| options.max_in_flight = 256)
    }

    fn with_courier(
        (store, clock): (Arc<MemoryStore>, SharedClock),
        courier: Courier,
        change: impl FnOnce(&mut ShardOptions),
    ) -> Self {
        let courier = Arc::new(courier);
        let mut options = ShardOptions {
            max_in_flight: 16,
            max_bytes_in_flight: 64 << 20,
            circuit_opens_after: 10,
            window: 8,
            best_effort_window: 8,
            window_bytes: 1 << 20,
            stop_deadline: Duration::from_secs(25),
            delivery_enabled: true,
            semaphor_enabled: true,
        };
        change(&mut options);
        let engine = Engine::new(1, MEMORY);
        let relay = Arc::new(Relay(Mutex::new(engine.listener())));
        store.listen(Arc::<Relay>::clone(&relay));
        let (stop, running) = run(&engine, (&store, &clock), options, &[], &courier);
        let (transport, memory) = (Arc::default(), Arc::clone(engine.memory()));
        Self { store, transport, clock, stop, memory, running, courier, options, relay }
    }

    /// The next process on the same store, after this one has ended.
    pub(super) async fn restart(mut self, hard: bool) -> Self {
        if hard {
            self.stop.hard.cancel();
        } else {
            self.stop.soft.cancel();
        }
        self.running.await.unwrap();
        let engine = Engine::new(1, MEMORY);
        *self.relay.0.lock().unwrap() = engine.listener();
        self.memory = Arc::clone(engine.memory());
        let backlog = self.store.destinations_with_work().await.unwrap();
        let (store, clock) = (&self.store, &self.clock);
        (self.stop, self.running) = run(&engine, (store, clock), self.options, &backlog, &self.courier);
        self
    }

    /// Changes a destination as a caller would.
    pub(super) async fn change(&self, id: DestinationId, change: impl FnOnce(&mut Destination)) {
        let entry = self.store.directory().destination(id).unwrap();
        let mut destination = Destination::clone(&entry.destination);
        change(&mut destination);
        self.store.update_destination(destination, entry.destination.revision).await.unwrap();
    }

    pub(super) async fn destination(&self, contract: Contract, settings: DeliverySettings) -> DestinationId {
        let url = format!("https://{HOST}/{contract}");
        let now = self.clock.now();
        let destination = Destination {
            settings,
            contract,
            ..destination(DestinationId::make(now, [contract as u8; 10]), &url, now)
        };
        self.store.create_destination(destination, None).await.unwrap().id
    }

    /// A WORKSPACE destination of an organization; `number` tells it from others.
    pub(super) async fn destination_at(
        &self,
        organization: &str,
        host: &str,
        number: usize,
    ) -> DestinationId {
        let now = self.clock.now();
        let mut random = [0; 10];
        random[2..].copy_from_slice(&number.to_be_bytes());
        let id = DestinationId::make(now, random);
        let destination = Destination {
            organization_id: OrganizationId::parse(organization).unwrap(),
            ..destination(id, &format!("https://{host}/"), now)
        };
        self.store.create_destination(destination, None).await.unwrap().id
    }

    pub(super) async fn emit(&self, destination_id: DestinationId) -> DeliveryId {
        self.emit_data(destination_id, Payload::empty()).await
    }

    pub(super) async fn emit_data(&self, destination_id: DestinationId, data: Payload) -> DeliveryId {
        let entry = self.store.directory().destination(destination_id).unwrap();
        let guarantee = effective_policy(&entry.destination).guarantee;
        let event = NewEvent {
            organization_id: entry.destination.organization_id.clone(),
            event_id: None,
            event_type: EventType::parse("a.b").unwrap(),
            occurred_at: None,
            trace: None,
            level: Level::Info,
            data,
            routes: vec![Route { destination_id, guarantee }],
        };
        match self.store.accept(vec![event]).await.unwrap().remove(0) {
            Acceptance::Accepted(event) => DeliveryId::new(event.key, destination_id),
            other => panic!("{other:?}"),
        }
    }

    /// The delivery, once it is finished; paused time runs on by itself meanwhile.
    pub(super) async fn finished(&self, id: DeliveryId) -> Delivery {
        for _ in 0..100_000 {
            if let Some(delivery) = self.store.delivery(id).await.unwrap()
                && delivery.state.is_finished()
            {
                return delivery;
            }
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
        panic!("{id} did not finish")
    }

    pub(super) fn answer(&self, statuses: impl IntoIterator<Item = u16>) {
        for status in statuses {
            self.transport.push(HOST, answered(status));
        }
    }

    pub(super) async fn stop(self) -> Arc<MemoryStore> {
        self.stop.soft.cancel();
        self.running.await.unwrap();
        self.store
    }
}

/// A shard on its way, and how to end it.
fn run(
    engine: &Engine,
    (store, clock): (&Arc<MemoryStore>, &SharedClock),
    options: ShardOptions,
    backlog: &[DestinationId],
    courier: &Arc<Courier>,
) -> (StopSignals, JoinHandle<()>) {
    let shared_store: Arc<dyn Store> = Arc::<MemoryStore>::clone(store);
    let mut shards = engine.shards((&shared_store, clock), options, backlog, vec![Arc::clone(courier)]);
    let stop = StopSignals::default();
    #[expect(clippy::disallowed_methods, reason = "the test owns the shard and awaits it")]
    let running = tokio::spawn(shards.remove(0).run(stop.clone()));
    (stop, running)
}

fn destination(id: DestinationId, url: &str, now: Timestamp) -> Destination {
    Destination {
        id,
        organization_id: organization(),
        display_name: String::new(),
        url: DestinationUrl::parse(url, false).unwrap(),
        contract: Contract::Workspace,
        subscription: Subscription::default(),
        settings: DeliverySettings::default(),
        signing: SigningSecrets::default(),
        http_auth: HttpAuth::default(),
        headers: Vec::new(),
        state: DestinationState::Active,
        created_at: now,
        updated_at: now,
        revision: 0,
    }
}

pub(super) fn organization() -> OrganizationId {
    OrganizationId::parse("org").unwrap()
}

/// Seconds between the attempts of a delivery, rounded down.
pub(super) fn gaps(delivery: &Delivery) -> Vec<u64> {
    let starts: Vec<Timestamp> = delivery.attempts.iter().map(|attempt| attempt.started_at).collect();
    starts.windows(2).map(|pair| pair[1].since(pair[0]).as_secs()).collect()
}

pub(super) fn no_jitter(contract: Contract) -> DeliverySettings {
    let retry = RetryPolicy { jitter: 0.0, ..crate::contract::defaults(contract).retry };
    DeliverySettings { retry: Some(retry), ..DeliverySettings::default() }
}

#[tokio::test(start_paused = true)]
async fn each_contract_is_retried_on_its_own_schedule_and_then_ends_as_it_promises() {
    let hours = |list: &[f64]| list.iter().map(|h| (h * 3600.0) as u64).collect::<Vec<_>>();
    let standard = [vec![5, 300, 1800], hours(&[2.0, 5.0, 10.0, 14.0, 20.0, 24.0])].concat();
    let table = [
        (Contract::Semaphor, vec![0], "discarded"),
        (Contract::Workspace, vec![60, 300, 900], "dead"),
        (Contract::Observer, vec![5, 20, 80, 320, 1280, 3600, 3600], "dead"),
        (Contract::StandardWebhooks, standard.clone(), "dead"),
        (Contract::CloudEvents, standard, "dead"),
    ];
    for (contract, expected, end) in table {
        let stage = Stage::set();
        stage.answer(vec![500; 20]);
        let id = stage.destination(contract, no_jitter(contract)).await;
        let delivery = stage.finished(stage.emit(id).await).await;
        assert_eq!(gaps(&delivery), expected, "{contract}");
        let is_dead = matches!(delivery.state, DeliveryState::DeadLettered { .. });
        let is_discarded = matches!(delivery.state, DeliveryState::Discarded { .. });
        assert_eq!((is_dead, is_discarded), (end == "dead", end == "discarded"), "{contract}");
    }
}

#[tokio::test(start_paused = true)]
async fn stalwart_goes_on_until_five_minutes_have_passed_and_then_discards() {
    let stage = Stage::set();
    stage.answer(vec![500; 50]);
    let id = stage.destination(Contract::Stalwart, no_jitter(Contract::Stalwart)).await;
    let delivery = stage.finished(stage.emit(id).await).await;
    assert_eq!(&gaps(&delivery)[..6], [1, 2, 4, 8, 16, 30]);
    let DeliveryState::Discarded { at, reason: EndReason::TooOld } = delivery.state else {
        panic!("{:?}", delivery.state)
    };
    assert_eq!(at.since(delivery.created_at).as_secs(), 300);
}

#[tokio::test(start_paused = true)]
async fn the_health_has_the_last_error_until_a_success_clears_it() {
    let stage = Stage::set();
    stage.transport.push(HOST, no_answer(Failure::Refused, "connection refused"));
    stage.answer([200]);
    let id = stage.destination(Contract::Observer, DeliverySettings::default()).await;
    let delivery = stage.emit(id).await;
    let status = Arc::clone(&stage.store.directory().destination(id).unwrap().status);
    while status.health().last_error.is_none() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(status.health().last_error.as_deref(), Some("connection refused"));
    assert_eq!(stage.finished(delivery).await.attempt_count, 2);
    let health = status.health();
    assert_eq!((health.last_error, health.last_failure_at, health.consecutive_failures), (None, None, 0));
    assert!(health.confirmed_at.is_some());
}

#[tokio::test(start_paused = true)]
async fn gone_disables_a_standard_webhooks_destination_and_holds_what_waits() {
    let stage = Stage::set();
    stage.answer([410]);
    let id = stage.destination(Contract::StandardWebhooks, DeliverySettings::default()).await;
    let delivery = stage.finished(stage.emit(id).await).await;
    assert!(matches!(delivery.state, DeliveryState::DeadLettered { reason: EndReason::FinalStatus, .. }));
    let is_disabled = || {
        let state = stage.store.directory().destination(id).unwrap().destination.state.clone();
        matches!(state, DestinationState::Disabled { reason: DisabledReason::Gone, .. })
    };
    while !is_disabled() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let held = stage.emit(id).await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(stage.transport.requests().len(), 1);
    let state = stage.store.delivery(held).await.unwrap().unwrap().state;
    assert!(matches!(state, DeliveryState::Waiting { .. }));
}

#[tokio::test(start_paused = true)]
async fn many_more_deliveries_than_the_window_all_arrive_once_through_failures() {
    let stage = Stage::set();
    let id = stage
        .destination(
            Contract::Observer,
            DeliverySettings {
                retry: Some(RetryPolicy {
                    schedule: RetrySchedule::Exponential {
                        base: Duration::from_secs(1),
                        factor: 1.5,
                        cap: Duration::from_secs(60),
                    },
                    ..crate::contract::defaults(Contract::Observer).retry
                }),
                ..DeliverySettings::default()
            },
        )
        .await;
    // The first answers fail, so that first attempts and retries mix in a lane whose window is 8.
    stage.answer([500, 200, 503, 500, 200].into_iter().cycle().take(100));
    stage.answer(vec![200; 300]);
    let mut ids = Vec::new();
    for _ in 0..100 {
        ids.push(stage.emit(id).await);
    }
    for id in ids {
        let delivery = stage.finished(id).await;
        assert!(matches!(delivery.state, DeliveryState::Succeeded { .. }), "{:?}", delivery.state);
        let successes = delivery.attempts.iter().filter(|attempt| attempt.outcome.is_success()).count();
        assert_eq!(successes, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_flushes_best_effort_deliveries_and_leaves_the_others_to_the_next_process() {
    let stage = Stage::set();
    let semaphor = stage.destination(Contract::Semaphor, no_jitter(Contract::Semaphor)).await;
    let observer = stage.destination(Contract::Observer, no_jitter(Contract::Observer)).await;
    stage.answer([500, 500]);
    let (flushed, kept) = (stage.emit(semaphor).await, stage.emit(observer).await);
    // Both have failed once, and both wait for their retries.
    while stage.transport.requests().len() < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    stage.answer([200]);
    let store = stage.stop().await;
    let state = store.delivery(flushed).await.unwrap().unwrap().state;
    assert!(matches!(state, DeliveryState::Succeeded { .. }), "{state:?}");
    let delivery = store.delivery(kept).await.unwrap().unwrap();
    assert!(matches!(delivery.state, DeliveryState::Waiting { .. }), "{:?}", delivery.state);
    assert_eq!(delivery.attempt_count, 1);
}

#[tokio::test(start_paused = true)]
async fn a_best_effort_delivery_that_is_accepted_right_before_a_stop_is_flushed_or_on_record() {
    for _ in 0..20 {
        let stage = Stage::set();
        let id = stage.destination(Contract::Semaphor, no_jitter(Contract::Semaphor)).await;
        // The shard has not run since; it finds the delivery and the stop at once.
        let delivery = stage.emit(id).await;
        let store = stage.stop().await;
        let state = store.delivery(delivery).await.unwrap().map(|delivery| delivery.state);
        assert!(matches!(state, Some(DeliveryState::Succeeded { .. })), "{state:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_hard_stop_puts_best_effort_deliveries_under_way_on_record() {
    let stage = Stage::set();
    let id = stage.destination(Contract::Semaphor, no_jitter(Contract::Semaphor)).await;
    stage.transport.hold();
    let delivery = stage.emit(id).await;
    stage.transport.wait_for_in_flight(1).await;
    stage.stop.hard.cancel();
    let store = stage.stop().await;
    let state = store.delivery(delivery).await.unwrap().map(|delivery| delivery.state);
    let reason = EndReason::Stopped;
    assert!(matches!(state, Some(DeliveryState::Discarded { reason: r, .. }) if r == reason), "{state:?}");
}

#[tokio::test(start_paused = true)]
async fn in_a_batch_that_fails_a_later_delivery_does_not_overtake_an_earlier_one() {
    let stage = Stage::set();
    stage.answer([500, 500, 500]);
    let id = stage.destination(Contract::Stalwart, no_jitter(Contract::Stalwart)).await;
    let first = stage.emit(id).await;
    while stage.transport.requests().len() < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // The first one has failed twice; the second one joins its third attempt.
    let second = stage.emit(id).await;
    let first = stage.finished(first).await;
    let second = stage.finished(second).await;
    assert_eq!(first.attempts.last().map(|attempt| attempt.batch_size), Some(2));
    assert_eq!(first.state, second.state);
    assert_eq!((first.attempt_count, second.attempt_count), (4, 2));
}

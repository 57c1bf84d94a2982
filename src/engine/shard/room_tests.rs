//! Two delivery threads and the room that they share, on paused time.

use super::tests::START;
use super::*;
use crate::clock::TokioClock;
use crate::domain::contract::Contract;
use crate::domain::delivery::DeliveryState;
use crate::domain::destination::{Destination, DestinationState, DestinationUrl};
use crate::domain::event::{Acceptance, EventType, Level, NewEvent, Route};
use crate::domain::id::{DeliveryId, OrganizationId};
use crate::domain::payload::Payload;
use crate::domain::secret::{HttpAuth, SigningSecrets};
use crate::domain::settings::DeliverySettings;
use crate::domain::subscription::Subscription;
use crate::engine::{Engine, shard_of};
use crate::store::memory::MemoryStore;
use crate::store::{DeliveryStore, DestinationStore, EventStore, Store};
use crate::transport::Transport;
use crate::transport::account::Account;
use crate::transport::courier::Courier;
use crate::transport::scripted::ScriptedTransport;

const THREADS: usize = 2;
const ROOM: usize = 8;

/// Two shards of one engine.
struct Pair {
    store: Arc<MemoryStore>,
    transport: Arc<ScriptedTransport>,
    made: u64,
    _running: JoinSet<()>,
}

impl Pair {
    fn set() -> Self {
        let clock: SharedClock = Arc::new(TokioClock::starting_at(START));
        let store = Arc::new(MemoryStore::new(Arc::clone(&clock)));
        let transport = Arc::new(ScriptedTransport::new());
        let courier = || {
            let transport: Arc<dyn Transport> = Arc::<ScriptedTransport>::clone(&transport);
            let (secrets, account, rates) = (Arc::default(), Account::default(), None);
            Arc::new(Courier { transport, secrets, clock: Arc::clone(&clock), account, rates })
        };
        let options = ShardOptions {
            max_in_flight: ROOM,
            max_bytes_in_flight: 64 << 20,
            circuit_opens_after: 10,
            window: 8,
            best_effort_window: 8,
            window_bytes: 1 << 20,
            stop_deadline: Duration::from_secs(25),
            delivery_enabled: true,
            semaphor_enabled: true,
        };
        let engine = Engine::new(THREADS, 4 << 20);
        store.listen(engine.listener());
        let shared: Arc<dyn Store> = Arc::<MemoryStore>::clone(&store);
        let mut running = JoinSet::new();
        for shard in engine.shards((&shared, &clock), options, &[], vec![courier(), courier()]) {
            running.spawn(shard.run(StopSignals::default()));
        }
        Self { store, transport, made: 0, _running: running }
    }

    /// A destination whose lane is on that thread.
    async fn destination_on(&mut self, thread: usize, organization: &str) -> DestinationId {
        let id = loop {
            self.made += 1;
            let mut random = [0; 10];
            random[2..].copy_from_slice(&self.made.to_be_bytes());
            let id = DestinationId::make(START, random);
            if shard_of(id, THREADS) == thread {
                break id;
            }
        };
        let destination = Destination {
            id,
            organization_id: OrganizationId::parse(organization).unwrap(),
            display_name: String::new(),
            url: DestinationUrl::parse("https://receiver.example/", false).unwrap(),
            contract: Contract::Workspace,
            subscription: Subscription::default(),
            settings: DeliverySettings::default(),
            signing: SigningSecrets::default(),
            http_auth: HttpAuth::default(),
            headers: Vec::new(),
            state: DestinationState::Active,
            created_at: START,
            updated_at: START,
            revision: 0,
        };
        self.store.create_destination(destination, None).await.unwrap().id
    }

    async fn emit(&self, destination_id: DestinationId) -> DeliveryId {
        let entry = self.store.directory().destination(destination_id).unwrap();
        let event = NewEvent {
            organization_id: entry.destination.organization_id.clone(),
            event_id: None,
            event_type: EventType::parse("a.b").unwrap(),
            occurred_at: None,
            trace: None,
            level: Level::Info,
            data: Payload::empty(),
            routes: vec![Route { destination_id, guarantee: Guarantee::AtLeastOnce }],
        };
        match self.store.accept(vec![event]).await.unwrap().remove(0) {
            Acceptance::Accepted(event) => DeliveryId::new(event.key, destination_id),
            other => panic!("{other:?}"),
        }
    }

    async fn emit_and_wait(&self, destinations: &[DestinationId]) {
        let mut deliveries = Vec::new();
        for id in destinations {
            deliveries.push(self.emit(*id).await);
        }
        self.all_succeed(deliveries).await;
    }

    async fn all_succeed(&self, deliveries: impl IntoIterator<Item = DeliveryId>) {
        for id in deliveries {
            let state = async || self.store.delivery(id).await.unwrap().unwrap().state;
            while !matches!(state().await, DeliveryState::Succeeded { .. }) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn one_thread_may_use_the_whole_room_and_all_together_never_more() {
    let mut pair = Pair::set();
    let mut busy = Vec::new();
    for _ in 0..ROOM + 4 {
        busy.push(pair.destination_on(0, "busy").await);
    }
    let quiet = pair.destination_on(1, "quiet").await;
    // Whoever has answered once may use all of the room.
    pair.emit_and_wait(&busy).await;
    pair.emit_and_wait(&[quiet]).await;
    pair.transport.hold();
    let mut deliveries = Vec::new();
    for id in &busy {
        deliveries.push(pair.emit(*id).await);
    }
    pair.transport.wait_for_in_flight(ROOM).await;
    deliveries.push(pair.emit(quiet).await);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(pair.transport.in_flight(), ROOM, "the other thread waits for a place of this one");
    pair.transport.release();
    pair.all_succeed(deliveries).await;
}

#[tokio::test(start_paused = true)]
async fn a_thread_is_woken_when_the_place_that_it_waits_for_becomes_free() {
    let mut pair = Pair::set();
    let mut busy = Vec::new();
    for _ in 0..ROOM {
        busy.push(pair.destination_on(0, "busy").await);
    }
    let quiet = pair.destination_on(1, "quiet").await;
    pair.emit_and_wait(&busy).await;
    pair.emit_and_wait(&[quiet]).await;
    for _ in 0..20 {
        pair.transport.hold();
        let mut deliveries = Vec::new();
        for id in &busy {
            deliveries.push(pair.emit(*id).await);
        }
        pair.transport.wait_for_in_flight(ROOM).await;
        let waiting = pair.emit(quiet).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        let released = tokio::time::Instant::now();
        pair.transport.release();
        pair.all_succeed([waiting]).await;
        assert!(released.elapsed() <= Duration::from_millis(5), "{:?}", released.elapsed());
        pair.all_succeed(deliveries).await;
    }
}

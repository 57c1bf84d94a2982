use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use super::*;
use crate::clock::TokioClock;
use crate::domain::delivery::{Cycle, CycleCause, DeliveryState, EndReason, StateKind};
use crate::domain::destination::{DestinationUrl, DisabledReason};
use crate::domain::event::{Acceptance, EventType, Level, NewEvent, Route};
use crate::domain::id::OrganizationId;
use crate::domain::payload::Payload;
use crate::domain::replay::{ReplayKind, ReplayScope};
use crate::domain::secret::{HttpAuth, SigningSecrets};
use crate::domain::settings::{DeliverySettings, Guarantee};
use crate::domain::subscription::Subscription;
use crate::engine::Engine;
use crate::store::memory::MemoryStore;
use crate::store::{DeliveryStore, DestinationStore, EventStore, ReplayStore, Settlement, Stage};

const START: Timestamp = Timestamp::from_millis(1_750_000_000_000);

/// A store in memory whose replays are stepped on paused time; nothing is sent.
struct Theatre {
    store: Arc<MemoryStore>,
    clock: SharedClock,
    engine: Engine,
    running: Option<(CancellationToken, JoinHandle<()>)>,
}

impl Theatre {
    fn set() -> Self {
        let clock: SharedClock = Arc::new(TokioClock::starting_at(START));
        let store = Arc::new(MemoryStore::new(Arc::clone(&clock)));
        let engine = Engine::new(1, 1 << 20);
        store.listen(engine.listener());
        let mut stage = Self { store, clock, engine, running: None };
        stage.start();
        stage
    }

    fn start(&mut self) {
        let shared: Arc<dyn Store> = Arc::<MemoryStore>::clone(&self.store);
        let replayer = self.engine.replayer(&shared, &self.clock, true);
        let stop = CancellationToken::new();
        #[expect(clippy::disallowed_methods, reason = "the test owns the replayer and awaits it")]
        let running = tokio::spawn(replayer.run(stop.clone()));
        self.running = Some((stop, running));
    }

    async fn stop(&mut self) {
        let (stop, running) = self.running.take().unwrap();
        stop.cancel();
        running.await.unwrap();
    }

    async fn destination(&self, number: u8) -> DestinationId {
        let destination = Destination {
            id: DestinationId::from_bytes([number; 16]),
            organization_id: organization(),
            display_name: String::new(),
            url: DestinationUrl::parse("https://receiver.example/", false).unwrap(),
            contract: Contract::Observer,
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

    /// So many deliveries that are dead letters.
    async fn dead(&self, destination_id: DestinationId, count: usize) -> Vec<DeliveryId> {
        let mut ids = Vec::with_capacity(count);
        for _ in 0..count {
            let id = self.emit("agent.offline", Some(destination_id)).await;
            let id = DeliveryId::new(id, destination_id);
            let now = self.clock.now();
            let settlement = Settlement {
                id,
                stage: Stage::Fresh,
                guarantee: Guarantee::AtLeastOnce,
                attempt: None,
                cycle: Cycle { cause: CycleCause::Routed, started_at: now, attempts: 1 },
                told: None,
                state: DeliveryState::DeadLettered { at: now, reason: EndReason::AttemptsExhausted },
            };
            self.store.settle(vec![settlement], Vec::new()).await.unwrap();
            ids.push(id);
        }
        ids
    }

    async fn emit(&self, event_type: &str, to: Option<DestinationId>) -> crate::domain::id::EventKey {
        let route = |destination_id| Route { destination_id, guarantee: Guarantee::AtLeastOnce };
        let event = NewEvent {
            organization_id: organization(),
            event_id: None,
            event_type: EventType::parse(event_type).unwrap(),
            occurred_at: None,
            trace: None,
            level: Level::Info,
            data: Payload::empty(),
            routes: to.map(route).into_iter().collect(),
        };
        match self.store.accept(vec![event]).await.unwrap().remove(0) {
            Acceptance::Accepted(event) => event.key,
            other => panic!("{other:?}"),
        }
    }

    async fn replay(&self, kind: ReplayKind, only: Option<DestinationId>, per_second: u32) -> ReplayId {
        let scope = ReplayScope {
            kind,
            destination_id: only,
            event_types: Vec::new(),
            event_key: None,
            from: None,
            until: None,
        };
        let now = self.clock.now();
        let replay = Replay {
            id: ReplayId::make(now, fastrand::u128(..).to_be_bytes()[..10].try_into().unwrap()),
            organization_id: organization(),
            scope,
            per_second,
            started_by: String::new(),
            created_at: now,
            state: ReplayState::Counting { after: None },
            total: 0,
            replayed: 0,
            succeeded: 0,
            failed: 0,
            skipped: 0,
        };
        self.store.create_replay(replay).await.unwrap().id
    }

    async fn read(&self, id: ReplayId) -> Replay {
        self.store.replay(id).await.unwrap().unwrap()
    }

    async fn waiting(&self, ids: &[DeliveryId]) -> usize {
        let mut count = 0;
        for id in ids {
            let delivery = self.store.delivery(*id).await.unwrap();
            count += usize::from(delivery.is_some_and(|one| one.state.kind() == StateKind::Waiting));
        }
        count
    }

    async fn finished(&self, id: ReplayId) -> Replay {
        for _ in 0..100_000 {
            let replay = self.read(id).await;
            if !replay.state.is_running() {
                return replay;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{id} did not finish")
    }
}

fn organization() -> OrganizationId {
    OrganizationId::parse("org").unwrap()
}

async fn seconds(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn the_pace_is_kept_and_progress_can_be_read() {
    let stage = Theatre::set();
    let destination_id = stage.destination(1).await;
    let ids = stage.dead(destination_id, 1000).await;
    let id = stage.replay(ReplayKind::DeadLetters, None, 100).await;
    let mut before = 0;
    for second in 1..=9 {
        seconds(1).await;
        let replay = stage.read(id).await;
        assert_eq!((replay.total, replay.state.is_running()), (1000, true));
        let due = second * 100;
        assert!((due - 20..=due).contains(&replay.replayed), "{} after {second} s", replay.replayed);
        assert!(replay.replayed - before <= 110);
        assert_eq!(stage.waiting(&ids).await as u64, replay.replayed);
        before = replay.replayed;
    }
    let replay = stage.finished(id).await;
    assert_eq!((replay.total, replay.replayed, replay.skipped), (1000, 1000, 0));
    assert_eq!(stage.waiting(&ids).await, 1000);
    let took = replay.state.finished_at().unwrap().since(START);
    assert!(took >= Duration::from_millis(9900) && took < Duration::from_millis(10_500), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_replay_stops_and_leaves_the_rest_as_it_was() {
    let stage = Theatre::set();
    let destination_id = stage.destination(1).await;
    let ids = stage.dead(destination_id, 300).await;
    let id = stage.replay(ReplayKind::DeadLetters, Some(destination_id), 50).await;
    seconds(2).await;
    let cancelled = stage.store.cancel_replay(id, stage.clock.now()).await.unwrap();
    seconds(60).await;
    assert_eq!(stage.read(id).await, cancelled);
    assert!((90..=100).contains(&cancelled.replayed), "{}", cancelled.replayed);
    assert_eq!(stage.waiting(&ids).await as u64, cancelled.replayed);
}

#[tokio::test(start_paused = true)]
async fn a_replay_goes_on_after_restarts_and_puts_each_back_once() {
    let mut stage = Theatre::set();
    let (first, second) = (stage.destination(1).await, stage.destination(2).await);
    let mut ids = stage.dead(first, 150).await;
    ids.extend(stage.dead(second, 150).await);
    let id = stage.replay(ReplayKind::DeadLetters, None, 40).await;
    for pause in [0, 700, 33, 1900, 3, 250] {
        tokio::time::sleep(Duration::from_millis(pause)).await;
        stage.stop().await;
        let stopped = stage.read(id).await;
        seconds(100).await;
        assert_eq!(stage.read(id).await, stopped, "nothing moves while nobody steps");
        stage.start();
    }
    let replay = stage.finished(id).await;
    assert_eq!((replay.total, replay.replayed, replay.skipped), (300, 300, 0));
    for id in &ids {
        let delivery = stage.store.delivery(*id).await.unwrap().unwrap();
        assert_eq!((delivery.state.kind(), delivery.cycle.cause), (StateKind::Waiting, CycleCause::Replay));
    }
    let mut entries = Vec::new();
    for destination_id in [first, second] {
        entries.extend(stage.store.load_due(destination_id, None, 1000).await.unwrap().rows);
    }
    assert_eq!(entries.len(), 300, "none doubled, none lost");
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_is_disabled_is_passed_over_and_alone_it_ends_the_replay() {
    let stage = Theatre::set();
    let (healthy, disabled) = (stage.destination(1).await, stage.destination(2).await);
    stage.dead(healthy, 10).await;
    let held = stage.dead(disabled, 7).await;
    let entry = stage.store.directory().destination(disabled).unwrap();
    let state = DestinationState::Disabled { since: START, reason: DisabledReason::Gone };
    let changed = Destination { state, ..Destination::clone(&entry.destination) };
    stage.store.update_destination(changed, entry.destination.revision).await.unwrap();
    let id = stage.replay(ReplayKind::DeadLetters, None, 10_000).await;
    let replay = stage.finished(id).await;
    assert_eq!((replay.total, replay.replayed, replay.skipped), (17, 10, 7));
    assert_eq!(stage.waiting(&held).await, 0);
    let alone = stage.replay(ReplayKind::DeadLetters, Some(disabled), 10).await;
    let ReplayState::Failed { error, .. } = stage.finished(alone).await.state else { panic!() };
    assert!(error.contains("disabled"), "{error}");
    stage.store.delete_destination(disabled, None).await.unwrap();
    let gone = stage.replay(ReplayKind::Missed, Some(disabled), 10).await;
    let ReplayState::Failed { error, .. } = stage.finished(gone).await.state else { panic!() };
    assert!(error.contains("deleted"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn what_a_destination_missed_is_what_it_wants_and_never_got() {
    let stage = Theatre::set();
    let mut missed = Vec::new();
    for _ in 0..25 {
        missed.push(stage.emit("agent.offline", None).await);
        // Observer's catalogue is closed: this type never goes there.
        stage.emit("not.of.observer", None).await;
        stage.emit("signalpost.quota.near", None).await;
    }
    let destination_id = stage.destination(1).await;
    stage.emit("agent.offline", Some(destination_id)).await;
    let id = stage.replay(ReplayKind::Missed, Some(destination_id), 10).await;
    let replay = stage.finished(id).await;
    assert_eq!((replay.total, replay.replayed), (25, 25));
    let due = stage.store.load_due(destination_id, None, 100).await.unwrap().rows;
    assert_eq!(due.iter().map(|entry| entry.id.event_key).collect::<Vec<_>>(), missed, "in order of time");
    let again = stage.replay(ReplayKind::Missed, Some(destination_id), 10).await;
    assert_eq!(stage.finished(again).await.total, 0);
}

#[tokio::test(start_paused = true)]
async fn replays_of_two_destinations_run_beside_each_other() {
    let stage = Theatre::set();
    let (first, second) = (stage.destination(1).await, stage.destination(2).await);
    stage.dead(first, 1000).await;
    stage.dead(second, 20).await;
    let slow = stage.replay(ReplayKind::DeadLetters, Some(first), 1).await;
    let quick = stage.replay(ReplayKind::DeadLetters, Some(second), 10).await;
    assert_eq!(stage.finished(quick).await.replayed, 20);
    assert!((2..=4).contains(&stage.read(slow).await.replayed));
}

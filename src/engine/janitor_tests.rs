use std::collections::BTreeMap;

use super::*;
use crate::clock::TokioClock;
use crate::domain::contract::Contract;
use crate::domain::delivery::{Cycle, CycleCause, DeliveryState, EndReason, StateKind};
use crate::domain::event::{Acceptance, Event, EventType, Level, NewEvent, Route};
use crate::domain::id::{DeliveryId, DestinationId};
use crate::domain::organization::Organization;
use crate::domain::payload::Payload;
use crate::domain::retention::Retention;
use crate::domain::secret::{RetiringSecret, Secret, SecretSource, SigningSecrets};
use crate::domain::settings::{DeliverySettings, Guarantee, RetryPolicy};
use crate::domain::time::Timestamp;
use crate::engine::keeping::EARLIEST;
use crate::store::conformance::destination;
use crate::store::directory::LaneStatus;
use crate::store::memory::MemoryStore;
use crate::store::{
    DeliveryStore, DestinationStore, EventStore, OrganizationStore, RetentionStore, Settlement, Stage,
};

const START: Timestamp = Timestamp::from_millis(1_750_000_000_000);
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A janitor at work on paused time.
struct House {
    store: Arc<MemoryStore>,
    clock: SharedClock,
}

impl House {
    fn with(retention: Retention, plans: &[(&str, Duration)]) -> Self {
        let clock: SharedClock = Arc::new(TokioClock::starting_at(START));
        let store = Arc::new(MemoryStore::new(Arc::clone(&clock)));
        let options = JanitorOptions {
            retention,
            plans: plans.iter().map(|(name, kept)| ((*name).to_owned(), *kept)).collect(),
            default_plan: "default".into(),
            known_plans: plans.iter().map(|(name, _)| (*name).to_owned()).chain(["default".into()]).collect(),
        };
        let shared: Arc<dyn Store> = Arc::<MemoryStore>::clone(&store);
        let janitor = Janitor::new(shared, Arc::clone(&clock), options);
        #[expect(clippy::disallowed_methods, reason = "it ends with the test's runtime")]
        drop(tokio::spawn(janitor.run(CancellationToken::new())));
        Self { store, clock }
    }

    async fn event(&self, organization: &str) -> Arc<Event> {
        self.event_to(organization, 1).await
    }

    async fn event_to(&self, organization: &str, number: u8) -> Arc<Event> {
        let destination_id = DestinationId::from_bytes([number; 16]);
        let event = NewEvent {
            organization_id: OrganizationId::parse(organization).unwrap(),
            event_id: None,
            event_type: EventType::parse("a.b").unwrap(),
            occurred_at: None,
            trace: None,
            level: Level::Info,
            data: Payload::empty(),
            routes: vec![Route { destination_id, guarantee: Guarantee::AtLeastOnce }],
        };
        match self.store.accept(vec![event]).await.unwrap().remove(0) {
            Acceptance::Accepted(event) => event,
            other => panic!("{other:?}"),
        }
    }

    async fn settle(&self, event: &Event, state: DeliveryState) -> DeliveryId {
        let id = DeliveryId::new(event.key, event.routes[0].destination_id);
        let cycle = Cycle { cause: CycleCause::Routed, started_at: event.accepted_at, attempts: 1 };
        let guarantee = Guarantee::AtLeastOnce;
        let settlement =
            Settlement { id, stage: Stage::Fresh, guarantee, attempt: None, cycle, state, told: None };
        self.store.settle(vec![settlement], Vec::new()).await.unwrap();
        id
    }

    async fn kind(&self, id: DeliveryId) -> Option<StateKind> {
        self.store.delivery(id).await.unwrap().map(|delivery| delivery.state.kind())
    }
}

/// Takes what is told of dead letters that expire: how many each event counts.
async fn notices(house: &House, listener: u8) -> Vec<u64> {
    let told = house.store.load_fresh(DestinationId::from_bytes([listener; 16]), None, 100).await.unwrap();
    let count = |event: &Arc<Event>| {
        assert_eq!(event.event_type.as_str(), "signalpost.dead_letter.expiring");
        let data: serde_json::Value = serde_json::from_slice(event.data.as_bytes()).unwrap();
        data["count"].as_u64().unwrap()
    };
    told.rows.iter().map(count).collect()
}

fn kept(history: Duration, dead_letters: Duration) -> Retention {
    Retention { history, dead_letters, ..Retention::default() }
}

#[tokio::test(start_paused = true)]
async fn history_goes_when_it_is_old_enough_and_what_waits_never_does() {
    let house = House::with(kept(DAY, DAY), &[]);
    let (done, waits) = (house.event("acme").await, house.event("acme").await);
    let done = house.settle(&done, DeliveryState::Succeeded { at: house.clock.now() }).await;
    let waits = house.settle(&waits, DeliveryState::Waiting { due: START + DAY * 9 }).await;
    tokio::time::sleep(DAY - HOUR).await;
    assert_eq!(house.kind(done).await, Some(StateKind::Succeeded));
    tokio::time::sleep(HOUR * 2).await;
    assert_eq!(house.kind(done).await, None);
    tokio::time::sleep(DAY * 4).await;
    assert_eq!(house.kind(waits).await, Some(StateKind::Waiting));
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_outlives_the_history_and_goes_when_it_expires() {
    let house = House::with(kept(DAY, DAY * 3), &[]);
    let event = house.event("acme").await;
    let reason = EndReason::AttemptsExhausted;
    let id = house.settle(&event, DeliveryState::DeadLettered { at: START, reason }).await;
    tokio::time::sleep(DAY * 3 - HOUR).await;
    assert_eq!(house.kind(id).await, Some(StateKind::DeadLettered));
    tokio::time::sleep(HOUR * 3).await;
    assert_eq!(house.kind(id).await, None);
    assert!(house.store.load_events(vec![event.key]).await.unwrap()[0].is_none());
}

#[tokio::test(start_paused = true)]
async fn a_plan_may_keep_history_longer_or_shorter() {
    let house = House::with(kept(DAY, DAY), &[("long", DAY * 5), ("short", HOUR)]);
    let mut ids = Vec::new();
    for name in ["long", "short", "default"] {
        let organization = Organization {
            id: OrganizationId::parse(name).unwrap(),
            display_name: String::new(),
            plan: name.into(),
            created_at: START,
            updated_at: START,
            revision: 1,
        };
        house.store.create_organization(organization).await.unwrap();
        let event = house.event(name).await;
        ids.push(house.settle(&event, DeliveryState::Cancelled { at: START }).await);
    }
    for (wait, left) in [(HOUR * 2, [true, false, true]), (DAY, [true, false, false]), (DAY * 5, [false; 3])]
    {
        tokio::time::sleep(wait).await;
        for (id, left) in ids.iter().zip(left) {
            assert_eq!(house.kind(*id).await.is_some(), left, "after {wait:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_organization_that_is_being_erased_is_gone_soon() {
    let house = House::with(kept(DAY, DAY), &[]);
    let organization = Organization {
        id: OrganizationId::parse("acme").unwrap(),
        display_name: String::new(),
        plan: String::new(),
        created_at: START,
        updated_at: START,
        revision: 1,
    };
    house.store.create_organization(organization.clone()).await.unwrap();
    for _ in 0..500 {
        house.event("acme").await;
    }
    let other = house.event("other").await;
    house.store.begin_erasure(&organization.id, None).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(!house.store.directory().is_erasing(&organization.id));
    let left = house.store.load_fresh(DestinationId::from_bytes([1; 16]), None, 1000).await.unwrap();
    assert_eq!(left.rows.iter().map(|event| event.key).collect::<Vec<_>>(), [other.key]);
}

#[tokio::test(start_paused = true)]
async fn dead_letters_that_expire_are_told_of_once_and_never_to_their_own_destination() {
    let retention = Retention { dead_letter_notice: HOUR * 3, ..kept(HOUR * 40, HOUR * 30) };
    let house = House::with(retention, &[]);
    for number in [1, 2] {
        let mut listener = destination(number);
        listener.organization_id = OrganizationId::parse("acme").unwrap();
        listener.contract = Contract::StandardWebhooks;
        let expiring = EventType::parse("signalpost.dead_letter.expiring").unwrap();
        listener.subscription.operational = [expiring].into();
        house.store.create_destination(listener, None).await.unwrap();
    }
    let reason = EndReason::AttemptsExhausted;
    for _ in 0..100 {
        let event = house.event("acme").await;
        house.settle(&event, DeliveryState::DeadLettered { at: house.clock.now(), reason }).await;
    }
    tokio::time::sleep(HOUR * 23).await;
    assert_eq!(notices(&house, 2).await, Vec::<u64>::new());
    tokio::time::sleep(HOUR * 5).await;
    assert_eq!(notices(&house, 2).await, [100]);
    tokio::time::sleep(HOUR).await;
    assert_eq!(notices(&house, 2).await, [100]);
    assert_eq!(notices(&house, 1).await, Vec::<u64>::new(), "it heard of its own dead letters");
    // Another process, which has told nobody yet, repeats nothing.
    let options = JanitorOptions {
        retention,
        plans: BTreeMap::new(),
        default_plan: "default".into(),
        known_plans: vec!["default".into()],
    };
    let store: Arc<dyn Store> = Arc::<MemoryStore>::clone(&house.store);
    Janitor::new(store, Arc::clone(&house.clock), options).pass().await;
    assert_eq!(notices(&house, 2).await, [100]);
}

#[tokio::test(start_paused = true)]
async fn more_than_may_be_stored_goes_oldest_first_and_what_waits_stays() {
    let most = 100_000;
    let house = House::with(Retention { max_bytes: Some(most), ..kept(DAY, DAY) }, &[]);
    let waits = house.event("acme").await;
    let waits = house.settle(&waits, DeliveryState::Waiting { due: START + DAY * 9 }).await;
    let mut ids = Vec::new();
    for _ in 0..60 {
        for _ in 0..20 {
            let event = house.event("acme").await;
            ids.push(house.settle(&event, DeliveryState::Succeeded { at: house.clock.now() }).await);
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
        // What is younger than a minute is kept besides: 13 groups of 20.
        let stored = house.store.footprint().bytes;
        assert!(stored <= most + 13 * 20 * 320, "{stored}");
    }
    assert_eq!(house.kind(waits).await, Some(StateKind::Waiting));
    let mut left = Vec::new();
    for id in &ids {
        left.push(house.kind(*id).await.is_some());
    }
    let first_left = left.iter().position(|is_left| *is_left).unwrap();
    assert!(first_left > 100 && left[first_left..].iter().all(|is_left| *is_left));
    let early = house.store.footprint().removed_early.unwrap();
    assert!(early.accepted < house.clock.now() - EARLIEST);
}

#[tokio::test(start_paused = true)]
async fn what_waits_beyond_a_window_is_given_up_and_what_is_in_one_is_left_to_its_lane() {
    for more_in_store in [true, false] {
        let house = House::with(Retention::default(), &[]);
        let retry = crate::contract::defaults(Contract::Workspace).retry.clone();
        let retry = RetryPolicy { give_up_after: Some(HOUR), ..retry };
        let mut waits_at = destination(1);
        waits_at.contract = Contract::Workspace;
        waits_at.settings = DeliverySettings { retry: Some(retry), ..DeliverySettings::default() };
        let organization = waits_at.organization_id.to_string();
        let created = house.store.create_destination(waits_at, None).await.unwrap();
        let entry = house.store.directory().destination(created.id).unwrap();
        entry.status.set_lane(LaneStatus { more_in_store, ..LaneStatus::default() });
        let event = house.event(&organization).await;
        let id = house.settle(&event, DeliveryState::Waiting { due: START + DAY * 9 }).await;
        tokio::time::sleep(HOUR - Duration::from_secs(1)).await;
        assert_eq!(house.kind(id).await, Some(StateKind::Waiting));
        tokio::time::sleep(HOUR / 2).await;
        let expected = if more_in_store { StateKind::DeadLettered } else { StateKind::Waiting };
        assert_eq!(house.kind(id).await, Some(expected));
        let letters = house.store.backlog(created.id, 9).await.unwrap().dead_letters;
        assert_eq!(letters, usize::from(more_in_store));
    }
}

#[tokio::test(start_paused = true)]
async fn each_replica_ends_what_waits_beyond_the_windows_of_its_lanes_and_of_those_that_it_takes_over() {
    let house = House::with(Retention::default(), &[]);
    // Whoever leads has other lanes, and knows nothing of these windows.
    house.store.faults.follow();
    let retry = crate::contract::defaults(Contract::Workspace).retry.clone();
    let retry = RetryPolicy { give_up_after: Some(HOUR), ..retry };
    let mut waiting = Vec::new();
    for number in [1, 2] {
        let mut draft = destination(number);
        draft.settings = DeliverySettings { retry: Some(retry.clone()), ..DeliverySettings::default() };
        let created = house.store.create_destination(draft, None).await.unwrap();
        let entry = house.store.directory().destination(created.id).unwrap();
        entry.status.set_lane(LaneStatus { more_in_store: true, ..LaneStatus::default() });
        let event = house.event_to(created.organization_id.as_str(), number).await;
        waiting.push(house.settle(&event, DeliveryState::Waiting { due: START + DAY * 9 }).await);
    }
    let foreign = waiting[1].destination_id;
    house.store.faults.set_foreign(foreign, true);
    tokio::time::sleep(HOUR * 2).await;
    assert_eq!(house.kind(waiting[0]).await, Some(StateKind::DeadLettered));
    assert_eq!(house.kind(waiting[1]).await, Some(StateKind::Waiting));
    // Its replica is gone, and the lane is ours.
    house.store.faults.set_foreign(foreign, false);
    tokio::time::sleep(HOUR).await;
    assert_eq!(house.kind(waiting[1]).await, Some(StateKind::DeadLettered));
}

#[tokio::test(start_paused = true)]
async fn a_replaced_secret_is_kept_as_long_as_it_signs_and_no_longer_and_that_is_on_the_record() {
    let house = House::with(kept(DAY, DAY), &[]);
    let value = |text: &str| SecretSource::Value(Secret::new(text));
    for (number, until) in [(1, START + HOUR), (2, START + HOUR * 3)] {
        let retiring = Some(RetiringSecret { source: value("old"), until });
        let signing = SigningSecrets { current: Some(value("new")), retiring };
        let rotating = crate::domain::destination::Destination { signing, ..destination(number) };
        house.store.create_destination(rotating, None).await.unwrap();
    }
    let signing = |number| {
        let id = crate::store::conformance::destination_id(number);
        house.store.directory().destination(id).unwrap().destination.signing.clone()
    };
    tokio::time::sleep(HOUR - Duration::from_secs(1)).await;
    assert!(signing(1).retiring.is_some());
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert!(signing(1).retiring.is_none() && signing(2).retiring.is_some());
    assert_eq!(signing(1).current, Some(value("new")));
    tokio::time::sleep(HOUR * 3).await;
    assert!(signing(2).retiring.is_none());
    let query = crate::store::AuditQuery { limit: 9, ..Default::default() };
    let entries = crate::store::audit::AuditStore::audit(&*house.store, query).await.unwrap().rows;
    assert_eq!(entries.len(), 2);
    assert!(entries.iter().all(|entry| {
        entry.principal == "signalpost" && entry.change.changed_fields == ["secret_summary.rotation_end_time"]
    }));
}

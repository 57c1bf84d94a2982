use super::*;
use crate::clock::TokioClock;
use crate::domain::delivery::{Cycle, CycleCause, DeliveryState, EndReason, StateKind};
use crate::domain::event::{Acceptance, Event, EventType, Level, NewEvent, Route};
use crate::domain::id::{DeliveryId, DestinationId};
use crate::domain::organization::Organization;
use crate::domain::payload::Payload;
use crate::domain::settings::Guarantee;
use crate::domain::time::Timestamp;
use crate::store::memory::MemoryStore;
use crate::store::{DeliveryStore, EventStore, OrganizationStore, RetentionStore, Settlement, Stage};

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
        let destination_id = DestinationId::from_bytes([1; 16]);
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
        let settlement = Settlement { id, stage: Stage::Fresh, guarantee, attempt: None, cycle, state };
        self.store.settle(vec![settlement], Vec::new()).await.unwrap();
        id
    }

    async fn kind(&self, id: DeliveryId) -> Option<StateKind> {
        self.store.delivery(id).await.unwrap().map(|delivery| delivery.state.kind())
    }
}

fn kept(history: Duration, dead_letters: Duration) -> Retention {
    Retention { history, dead_letters }
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

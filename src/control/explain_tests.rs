use super::*;
use crate::control::standing::standing;
use crate::control::tests::settings;
use crate::domain::circuit::CircuitState;
use crate::domain::contract::Contract;
use crate::domain::delivery::{Cycle, CycleCause, EndReason};
use crate::domain::destination::{DestinationHealth, DisabledReason};
use crate::domain::event::{EventType, Level, Route};
use crate::domain::id::EventKey;
use crate::domain::operational::OperationalEvent;
use crate::domain::payload::Payload;
use crate::domain::time::Timestamp;
use crate::store::conformance::{at, destination, destination_id, organization_id};
use crate::store::directory::{DestinationStatus, LaneStatus};

/// The time of all questions.
fn now() -> Timestamp {
    at(1000)
}

fn event(routes: Vec<Route>) -> Event {
    Event {
        key: EventKey::MIN.next(at(100), 7),
        id: EventId::parse("evt-1").unwrap(),
        organization_id: organization_id(),
        event_type: EventType::parse("a.b").unwrap(),
        occurred_at: at(100),
        accepted_at: at(100),
        level: Level::Info,
        data: Payload::empty(),
        routes,
        erased_at: None,
        trace: None,
    }
}

fn entry(change: impl FnOnce(&mut Destination)) -> DestinationEntry {
    let mut destination = Destination { contract: Contract::StandardWebhooks, ..destination(1) };
    change(&mut destination);
    let status = Arc::new(DestinationStatus::new(DestinationHealth::default()));
    DestinationEntry { destination: Arc::new(destination), status }
}

fn delivery(state: DeliveryState) -> Delivery {
    let event = event(Vec::new());
    Delivery {
        id: DeliveryId::new(event.key, destination_id(1)),
        organization_id: organization_id(),
        event_id: event.id,
        event_type: event.event_type,
        created_at: at(100),
        guarantee: Guarantee::AtLeastOnce,
        state,
        attempt_count: 1,
        cycle: Cycle { cause: CycleCause::Routed, started_at: at(100), attempts: 1 },
        attempts: Vec::new(),
        replay_id: None,
    }
}

fn due(millis: i64) -> Delivery {
    delivery(DeliveryState::Waiting { due: at(millis) })
}

fn disabled(since: i64) -> DestinationState {
    DestinationState::Disabled { since: at(since), reason: DisabledReason::Failing }
}

/// What is told of an event without a route to the destination.
fn unrouted(event: &Event, entry: Option<&DestinationEntry>) -> Told {
    explain(&Known { event, destination_id: destination_id(1), entry, delivery: None, standing: None })
}

/// What is told of a delivery.
fn of(delivery: &Delivery, entry: &DestinationEntry) -> Told {
    let event = event(Vec::new());
    let standing = standing(delivery, Some(entry), &settings(), now());
    let (entry, delivery) = (Some(entry), Some(delivery));
    let known =
        Known { event: &event, destination_id: destination_id(1), entry, delivery, standing: Some(standing) };
    explain(&known)
}

/// An operational event about the destination.
fn about_itself() -> Event {
    let told = OperationalEvent::DestinationDisabled {
        destination_id: destination_id(1),
        reason: DisabledReason::Failing,
        since: at(100),
    };
    let event_type = EventType::parse(told.event_type()).unwrap();
    Event { event_type, data: Payload::from_stored(told.data()), ..event(Vec::new()) }
}

fn ended(reason: EndReason) -> DeliveryState {
    DeliveryState::Discarded { at: at(500), reason }
}

/// A case of each verdict.
fn cases() -> Vec<(Verdict, Told)> {
    let plain = entry(|_| {});
    let excluding = entry(|one| {
        one.subscription.policy = SubscriptionPolicy::Include;
        one.subscription.event_types = [EventType::parse("c.d").unwrap()].into();
    });
    let picky = entry(|one| {
        one.contract = Contract::Stalwart;
        one.subscription.minimum_level = Some(Level::Error);
    });
    let young = entry(|one| one.created_at = at(101));
    let off = entry(|one| one.state = disabled(99));
    let paused = entry(|one| one.state = DestinationState::Paused { since: at(50) });
    let listening = entry(|one| one.subscription.operational = [about_itself().event_type].into());
    let flying = entry(|_| {});
    flying.status.begin_flight([(event(Vec::new()).key, 1)]);
    let dead = DeliveryState::DeadLettered { at: at(500), reason: EndReason::AttemptsExhausted };
    let routed = event(vec![Route { destination_id: destination_id(1), guarantee: Guarantee::AtLeastOnce }]);
    vec![
        (Verdict::NotSubscribed, unrouted(&event(Vec::new()), Some(&excluding))),
        (Verdict::NotSubscribed, unrouted(&about_itself(), Some(&plain))),
        (Verdict::BelowLevel, unrouted(&event(Vec::new()), Some(&picky))),
        (Verdict::CreatedLater, unrouted(&event(Vec::new()), Some(&young))),
        (Verdict::Disabled, unrouted(&event(Vec::new()), Some(&off))),
        (Verdict::Disabled, of(&due(500), &off)),
        (Verdict::SubscribedLater, unrouted(&event(Vec::new()), Some(&plain))),
        (
            Verdict::SubscribedLater,
            unrouted(&event(Vec::new()), Some(&entry(|one| one.state = disabled(101)))),
        ),
        (Verdict::AboutItself, unrouted(&about_itself(), Some(&listening))),
        (Verdict::Paused, of(&due(500), &paused)),
        (Verdict::Waiting, of(&due(500), &plain)),
        (Verdict::InFlight, of(&due(500), &flying)),
        (Verdict::Succeeded, of(&delivery(DeliveryState::Succeeded { at: at(500) }), &plain)),
        (Verdict::Discarded, of(&delivery(ended(EndReason::Lossy)), &plain)),
        (Verdict::DeadLettered, of(&delivery(dead), &plain)),
        (Verdict::Cancelled, of(&delivery(DeliveryState::Cancelled { at: at(500) }), &plain)),
        (Verdict::RecordDeleted, unrouted(&routed, Some(&plain))),
    ]
}

#[test]
fn each_verdict_has_a_case_and_each_case_its_verdict() {
    let cases = cases();
    for (expected, told) in &cases {
        assert_eq!(told.verdict, *expected, "{}", told.sentence);
        assert!(!told.sentence.is_empty());
    }
    for verdict in Verdict::ALL {
        assert!(cases.iter().any(|(expected, _)| *expected == verdict), "no case of {verdict:?}");
    }
}

#[test]
fn each_reason_to_wait_has_a_case_with_the_time_of_the_next_attempt() {
    let plain = || entry(|_| {});
    let lane = |change: fn(&mut LaneStatus)| {
        let entry = plain();
        let mut lane = LaneStatus { waiting_in_memory: 2, ..LaneStatus::default() };
        change(&mut lane);
        entry.status.set_lane(lane);
        entry
    };
    let ordered = |oldest| {
        let entry = entry(|one| one.settings.ordered = Some(true));
        entry.status.set_lane(LaneStatus {
            oldest_key: Some(oldest),
            next_attempt_at: Some(at(4000)),
            ..LaneStatus::default()
        });
        entry
    };
    let open = |lane: &mut LaneStatus| {
        (lane.circuit, lane.next_probe_at) = (CircuitState::Open, Some(at(5000)));
        // The scout's, which is another one.
        lane.next_attempt_at = Some(at(1500));
    };
    let semaphor = entry(|one| one.contract = Contract::Semaphor);
    let key = event(Vec::new()).key;
    let cases = [
        (WaitReason::RetryNotDue, due(3000), Some(plain()), Some(3000)),
        (WaitReason::RetryNotDue, due(3000), Some(lane(open)), Some(3000)),
        (WaitReason::RetryNotDue, due(3000), Some(ordered(key)), Some(3000)),
        (WaitReason::LaneBusy, due(500), Some(plain()), Some(500)),
        (
            WaitReason::LaneBusy,
            due(500),
            Some(lane(|lane| lane.next_attempt_at = Some(at(2000)))),
            Some(2000),
        ),
        (WaitReason::LaneBusy, due(500), Some(ordered(key)), Some(4000)),
        (
            WaitReason::Paused,
            due(500),
            Some(entry(|one| one.state = DestinationState::Paused { since: at(1) })),
            None,
        ),
        (WaitReason::Disabled, due(3000), Some(entry(|one| one.state = disabled(1))), None),
        (WaitReason::OrderHeld, due(500), Some(ordered(EventKey::MIN.next(at(50), 1))), Some(4000)),
        (WaitReason::HostRate, due(500), Some(lane(|lane| lane.host_turn_at = Some(at(1200)))), Some(1200)),
        (WaitReason::CircuitOpen, due(500), Some(lane(open)), Some(5000)),
        (WaitReason::SwitchedOff, due(500), Some(semaphor), None),
        (WaitReason::Deleted, due(500), None, None),
    ];
    for (reason, delivery, entry, next) in &cases {
        let standing = standing(delivery, entry.as_ref(), &settings(), now());
        assert_eq!((standing.wait, standing.next_attempt_at), (Some(*reason), next.map(at)));
    }
    for reason in WaitReason::ALL {
        assert!(cases.iter().any(|(known, ..)| *known == reason), "no case of {reason:?}");
    }
}

#[test]
fn a_cancelled_delivery_under_way_may_still_succeed_and_says_so() {
    let flying = entry(|_| {});
    flying.status.begin_flight([(event(Vec::new()).key, 1)]);
    let told = of(&delivery(DeliveryState::Cancelled { at: at(500) }), &flying);
    assert_eq!(told.verdict, Verdict::Cancelled);
    assert!(told.sentence.contains("still under way"), "{}", told.sentence);
}

#[test]
fn a_route_without_a_record_is_told_by_its_guarantee() {
    let to = |guarantee| event(vec![Route { destination_id: destination_id(1), guarantee }]);
    let best_effort = to(Guarantee::BestEffort);
    let told = |entry: Option<&DestinationEntry>, standing| {
        let (event, destination_id) = (&best_effort, destination_id(1));
        explain(&Known { event, destination_id, entry, delivery: None, standing }).verdict
    };
    let entry = entry(|_| {});
    let waiting = |reason| Some(Standing::waiting((reason, None)));
    assert_eq!(told(Some(&entry), Some(Standing::default())), Verdict::RecordDeleted);
    assert_eq!(
        told(Some(&entry), Some(Standing { in_flight: true, ..Standing::default() })),
        Verdict::InFlight
    );
    assert_eq!(told(Some(&entry), waiting(WaitReason::Paused)), Verdict::Paused);
    assert_eq!(told(Some(&entry), waiting(WaitReason::LaneBusy)), Verdict::Waiting);
    assert_eq!(told(None, None), Verdict::RecordDeleted);
}

//! What an organization is told of its destinations, and faults of ours that stay with their events.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use std::time::Duration;

use super::tests::{Stage, no_jitter, organization};
use super::*;
use crate::domain::attempt::{Outcome, Refusal};
use crate::domain::contract::Contract;
use crate::domain::delivery::{DeliveryState, EndReason, StateKind};
use crate::domain::destination::DestinationState;
use crate::domain::event::EventType;
use crate::domain::operational::OperationalEvent;
use crate::domain::settings::{DeliverySettings, RetryPolicy, RetrySchedule};
use crate::store::{DeliveryQuery, DeliveryStore, Store};
use crate::transport::scripted::{ScriptedTransport, answered};

/// A destination that hears of everything.
async fn listener(stage: &Stage) -> DestinationId {
    let id = stage.destination(Contract::StandardWebhooks, DeliverySettings::default()).await;
    let types = OperationalEvent::TYPES.iter().map(|name| EventType::parse(name).unwrap()).collect();
    stage.change(id, |destination| destination.subscription.operational = types).await;
    id
}

/// The operational events that it was sent, oldest first, each with its data.
async fn told(stage: &Stage, id: DestinationId) -> Vec<String> {
    let query = DeliveryQuery {
        organization_id: organization(),
        destination_ids: vec![id],
        states: vec![StateKind::Succeeded],
        event_types: Vec::new(),
        from: None,
        until: None,
        after: None,
        limit: 100,
    };
    let page = stage.store.deliveries(query).await.unwrap();
    let mut types: Vec<_> =
        page.rows.iter().map(|delivery| delivery.event_type.as_str().to_owned()).collect();
    types.reverse();
    types
}

fn every(delay: Duration) -> DeliverySettings {
    let schedule = RetrySchedule::Exponential { base: delay, factor: 1.0, cap: delay };
    let defaults = crate::contract::defaults(Contract::Observer).retry;
    let retry =
        RetryPolicy { schedule, max_attempts: Some(1000), give_up_after: None, jitter: 0.0, ..defaults };
    DeliverySettings { retry: Some(retry), ..DeliverySettings::default() }
}

/// What each contract's destination answers, and 200 when that has run out.
#[derive(Clone, Default)]
struct Script(Arc<Mutex<HashMap<String, VecDeque<u16>>>>);

impl Script {
    fn answer(&self, contract: Contract, statuses: impl IntoIterator<Item = u16>) {
        self.0.lock().unwrap().entry(format!("/{contract}")).or_default().extend(statuses);
    }

    fn transport(&self) -> Arc<ScriptedTransport> {
        let script = self.clone();
        Arc::new(ScriptedTransport::with_rule(move |request| {
            let mut answers = script.0.lock().unwrap();
            let next = answers.get_mut(request.url().path()).and_then(VecDeque::pop_front);
            answered(next.unwrap_or(200))
        }))
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_told_of_once_when_the_circuit_opens_and_once_when_it_has_closed_again() {
    let script = Script::default();
    let stage = Stage::scripted(script.transport());
    let listening = listener(&stage).await;
    let id = stage.destination(Contract::Observer, every(Duration::from_secs(1))).await;
    script.answer(Contract::Observer, [500; 14]);
    let mut last = stage.emit(id).await;
    // Told while it is down, and not again by the next process.
    tokio::time::sleep(Duration::from_secs(11)).await;
    let opened = "signalpost.destination.circuit_opened";
    assert_eq!(told(&stage, listening).await, [opened]);
    let stage = stage.restart(false).await;
    for _ in 0..5 {
        stage.finished(last).await;
        last = stage.emit(id).await;
    }
    stage.finished(last).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(told(&stage, listening).await, [opened, "signalpost.destination.recovered"]);
    let health = stage.store.directory().destination(id).unwrap().status.health();
    assert_eq!(health.circuit_opened_at, None);
}

#[tokio::test(start_paused = true)]
async fn what_becomes_of_an_operational_event_is_told_to_nobody() {
    let script = Script::default();
    let stage = Stage::scripted(script.transport());
    let id = stage.destination(Contract::Observer, every(Duration::from_secs(1))).await;
    // Both listen for everything, and neither answers: each would hear of the other for ever.
    let mut listeners = Vec::new();
    for contract in [Contract::StandardWebhooks, Contract::CloudEvents] {
        let listening = stage.destination(contract, every(Duration::from_secs(1))).await;
        let types = OperationalEvent::TYPES.iter().map(|name| EventType::parse(name).unwrap()).collect();
        stage.change(listening, |destination| destination.subscription.operational = types).await;
        listeners.push(listening);
    }
    script.answer(Contract::Observer, [500; 100]);
    script.answer(Contract::StandardWebhooks, [500; 50]);
    script.answer(Contract::CloudEvents, [500; 50]);
    stage.emit(id).await;
    tokio::time::sleep(Duration::from_secs(900)).await;
    for listening in listeners {
        assert_eq!(told(&stage, listening).await, ["signalpost.destination.circuit_opened"]);
        let health = stage.store.directory().destination(listening).unwrap().status.health();
        assert_eq!(health.circuit_opened_at, None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_fails_unbroken_for_its_disable_after_is_disabled_and_that_is_told() {
    let script = Script::default();
    let stage = Stage::scripted(script.transport());
    let listening = listener(&stage).await;
    let settings =
        DeliverySettings { disable_after: Some(Duration::from_secs(600)), ..every(Duration::from_secs(60)) };
    let id = stage.destination(Contract::Observer, settings).await;
    script.answer(Contract::Observer, [500; 11]);
    let begun = stage.clock.now();
    let delivery = stage.emit(id).await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let state = stage.store.directory().destination(id).unwrap().destination.state.clone();
    let DestinationState::Disabled { since, reason: DisabledReason::Failing } = state else {
        panic!("{state:?}")
    };
    assert_eq!(since.since(begun).as_secs(), 600);
    assert!(told(&stage, listening).await.contains(&"signalpost.destination.disabled".to_owned()));
    // It is held, not lost, and goes on when somebody switches the destination on again.
    let held = stage.store.delivery(delivery).await.unwrap().unwrap();
    assert!(matches!(held.state, DeliveryState::Waiting { .. }));
    let attempts = held.attempt_count;
    stage.change(id, |destination| destination.state = DestinationState::Active).await;
    assert_eq!(stage.finished(delivery).await.attempt_count, attempts + 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_given_up_while_it_waits_is_told_of_as_any_dead_letter_is_and_once() {
    let stage = Stage::set();
    let listening = listener(&stage).await;
    let retry = no_jitter(Contract::Observer).retry.unwrap();
    let retry = RetryPolicy { give_up_after: Some(Duration::from_secs(600)), ..retry };
    let settings = DeliverySettings { retry: Some(retry), ..DeliverySettings::default() };
    let id = stage.destination(Contract::Observer, settings).await;
    let since = stage.clock.now();
    stage.change(id, |destination| destination.state = DestinationState::Paused { since }).await;
    // One of them never had an attempt in this process, and one not in the one before.
    let first = stage.emit(id).await;
    let stage = stage.restart(false).await;
    let second = stage.emit(id).await;
    for delivery in [first, second] {
        let delivery = stage.finished(delivery).await;
        let given_up = DeliveryState::DeadLettered {
            at: delivery.state.finished_at().unwrap(),
            reason: EndReason::GaveUp,
        };
        assert_eq!((delivery.state, delivery.attempt_count), (given_up, 0));
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(told(&stage, listening).await, ["signalpost.delivery.dead_lettered"; 2]);
}

#[tokio::test(start_paused = true)]
async fn a_success_in_between_means_that_nothing_is_disabled() {
    let stage = Stage::set();
    let settings =
        DeliverySettings { disable_after: Some(Duration::from_secs(600)), ..every(Duration::from_secs(60)) };
    let id = stage.destination(Contract::Observer, settings).await;
    for _ in 0..4 {
        stage.answer([500, 500, 500, 500, 500, 500, 500, 500, 200]);
        let delivery = stage.emit(id).await;
        stage.finished(delivery).await;
    }
    assert!(stage.store.directory().destination(id).unwrap().destination.state.is_active());
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_a_failed_attempt_on_the_record_and_others_go_on() {
    let transport = Arc::new(ScriptedTransport::with_rule(|request| {
        assert!(request.url().path() != "/OBSERVER", "planted");
        answered(200)
    }));
    let stage = Stage::scripted(transport);
    let bad = stage.destination(Contract::Observer, no_jitter(Contract::Observer)).await;
    let good = stage.destination(Contract::Workspace, DeliverySettings::default()).await;
    let (poisonous, healthy) = (stage.emit(bad).await, stage.emit(good).await);
    stage.finished(healthy).await;
    // It is there again after each start, and does no more harm then.
    let stage = stage.restart(false).await;
    let delivery = stage.finished(poisonous).await;
    assert!(matches!(delivery.state, DeliveryState::DeadLettered { .. }));
    assert_eq!(delivery.attempt_count, 8);
    let last = &delivery.attempts.last().unwrap().outcome;
    assert!(matches!(last, Outcome::NotSent { refusal: Refusal::Fault, .. }), "{last:?}");
    assert!(last.error().unwrap().contains("internal error"));
    let health = stage.store.directory().destination(bad).unwrap().status.health();
    assert_eq!(health.consecutive_failures, 0, "a fault of ours says nothing about the receiver");
    let after = stage.emit(good).await;
    assert!(matches!(stage.finished(after).await.state, DeliveryState::Succeeded { .. }));
}

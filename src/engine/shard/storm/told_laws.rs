//! What must hold for what organizations are told, for replays, and for the process itself when all is quiet.

use std::collections::BTreeMap;

use super::Storm;
use super::chronicle::Record;
use crate::domain::delivery::DeliveryState;
use crate::domain::id::DestinationId;
use crate::store::{ReplayStore, Store};

/// Checks all of it.
pub(super) async fn check(storm: &Storm, record: &Record) {
    every_dead_letter_is_told_of_once(storm, record);
    outages_are_told_of_in_turn(record);
    replays_add_up(storm, record).await;
    nothing_is_held_when_all_is_quiet(storm, record);
}

/// The ids of the events of a type that were told to the listener, each once by their making.
fn told<'a>(storm: &Storm, record: &'a Record, event_type: &str) -> Vec<&'a str> {
    let heard = |id: &&&crate::domain::event::Event| {
        id.routes.iter().any(|route| route.destination_id == storm.listener)
    };
    let events = record.events.values().map(AsRef::as_ref).collect::<Vec<_>>();
    let mut ids: Vec<&str> = Vec::new();
    for event in events.iter().filter(heard).filter(|event| event.event_type.as_str() == event_type) {
        let id = record.events.keys().find(|id| id.as_str() == event.id.as_str()).unwrap();
        ids.push(id);
    }
    ids.sort_unstable();
    ids
}

fn every_dead_letter_is_told_of_once(storm: &Storm, record: &Record) {
    let mut expected: Vec<String> = Vec::new();
    for settled in record.settled.iter().filter(|settled| settled.taken) {
        let settlement = &settled.settlement;
        let DeliveryState::DeadLettered { .. } = settlement.state else { continue };
        if !record.fates[&settlement.id].is_operational {
            let since = settlement.cycle.started_at.as_millis();
            expected.push(format!("dead_lettered:{}:{since}", settlement.id));
        }
    }
    expected.sort_unstable();
    // What is settled once more, because nobody heard that it was, is told of no second time.
    expected.dedup();
    assert_eq!(told(storm, record, "signalpost.delivery.dead_lettered"), expected);
}

/// An outage that is told of has an end before the next one is.
fn outages_are_told_of_in_turn(record: &Record) {
    let mut told: BTreeMap<DestinationId, Vec<_>> = BTreeMap::new();
    for event in record.events.values() {
        let what = event.event_type.as_str();
        let opened = what == "signalpost.destination.circuit_opened";
        if opened || what == "signalpost.destination.recovered" {
            let id = crate::domain::operational::told_about(event).unwrap();
            told.entry(id).or_default().push((event.key, opened));
        }
    }
    for (id, mut changes) in told {
        changes.sort_unstable();
        let opened: Vec<bool> = changes.iter().map(|(_, opened)| *opened).collect();
        assert!(opened[0], "{id} recovered from nothing");
        assert!(opened.windows(2).all(|pair| pair[0] != pair[1]), "{id} was told of twice: {changes:?}");
    }
}

async fn replays_add_up(storm: &Storm, record: &Record) {
    for id in &record.replays {
        let replay = storm.ground.store.replay(*id).await.unwrap().unwrap();
        assert!(!replay.state.is_running(), "{replay:?}");
        assert_eq!(replay.replayed, replay.succeeded + replay.failed, "{replay:?}");
        assert!(replay.replayed + replay.skipped <= replay.total, "{replay:?}");
    }
}

/// No bytes are kept, no lane is left, and nobody is in flight.
fn nothing_is_held_when_all_is_quiet(storm: &Storm, record: &Record) {
    let process = storm.process.as_ref().unwrap();
    assert_eq!(process.engine.memory().held(), 0);
    for entry in storm.ground.store.directory().entries() {
        let (id, lane) = (entry.destination.id, entry.status.lane());
        assert_eq!((lane.in_flight, lane.waiting_in_memory, lane.more_in_store), (0, 0, false), "{id}");
        assert!(!entry.status.has_flights(), "{id}");
    }
    assert!(!record.requests.is_empty());
}

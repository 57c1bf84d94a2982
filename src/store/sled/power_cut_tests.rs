//! Power cuts under load: what was acknowledged is there, whatever else reached the disk or did not.
//!
//! A killed process leaves its pages to the kernel, so kills can't show a missing fsync. Here the files are copied
//! right after acknowledgements, which is the least that an fsync leaves, and again later; a power cut leaves the
//! first copy and what was written behind it up to some moment. For longer, and again:
//! `SIGNALPOST_TEST_ROUNDS=500 SIGNALPOST_TEST_SEED=7 cargo test --lib power_cut -- --nocapture`

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::SledStore;
use super::tests::open_bench;
use super::wreck::{Files, chance, rounds};
use crate::domain::delivery::DeliveryState;
use crate::domain::event::{Acceptance, Event};
use crate::domain::id::{DeliveryId, EventKey};
use crate::store::conformance::{Bench, at, big_event, durable, new_event, settlement};
use crate::store::retention::{Cuts, SweepFrom};
use crate::store::{DeliveryStore, EventStore, Stage};

/// So many events wait at least, so that some are always there to be missed.
const WAITING: usize = 50;

/// What callers know.
#[derive(Default)]
struct Known {
    /// Acknowledged events that wait.
    waiting: Mutex<BTreeMap<EventKey, Arc<Event>>>,
    commits: AtomicU64,
    /// Held by the load while it writes.
    writing: tokio::sync::Mutex<()>,
    is_over: AtomicBool,
}

impl Known {
    fn now(&self) -> BTreeMap<EventKey, Arc<Event>> {
        self.waiting.lock().unwrap().clone()
    }

    /// The files at one moment: nobody writes meanwhile but sled's own thread, and that is looked for.
    fn files(&self, folder: &Path) -> Files {
        let _still = self.writing.blocking_lock();
        let mut files = Files::read(folder);
        loop {
            let again = Files::read(folder);
            if again == files {
                return files;
            }
            files = again;
        }
    }

    /// Until so many more calls were answered.
    fn wait(&self, calls: u64) {
        let until = self.commits.load(Ordering::SeqCst) + calls;
        while self.commits.load(Ordering::SeqCst) < until && !self.is_over.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
    }
}

/// Events come, are delivered and are removed, until it is over.
async fn load(bench: Bench, known: Arc<Known>, seed: u64) {
    let mut chance = fastrand::Rng::with_seed(seed);
    while !known.is_over.load(Ordering::SeqCst) {
        let writing = known.writing.lock().await;
        let events = (0..chance.usize(1..20)).map(|_| match chance.u8(..10) {
            0 => big_event(chance.usize(3_000..12_000)),
            _ => new_event("a", &[durable(1), durable(2)][..chance.usize(1..=2)]),
        });
        let accepted = bench.store.accept(events.collect()).await.unwrap();
        let accepted = accepted.into_iter().map(|one| match one {
            Acceptance::Accepted(event) => event,
            other => panic!("{other:?}"),
        });
        known.waiting.lock().unwrap().extend(accepted.map(|event| (event.key, event)));
        known.commits.fetch_add(1, Ordering::SeqCst);
        deliver(&bench, &known).await;
        if chance.u8(..8) == 0 {
            remove(&bench).await;
        }
        drop(writing);
        // Whoever waits to copy the files comes first.
        tokio::task::yield_now().await;
    }
}

/// The oldest ones are delivered; from here on they may be removed at any time.
async fn deliver(bench: &Bench, known: &Known) {
    let mut delivered = Vec::new();
    {
        let mut waiting = known.waiting.lock().unwrap();
        while waiting.len() > WAITING {
            delivered.extend(waiting.pop_first().map(|(_, event)| event));
        }
    }
    let each = delivered.iter().flat_map(|event| event.routes.iter().map(move |route| (event, route)));
    let settled = each.map(|(event, route)| {
        let number = route.destination_id.as_bytes()[0];
        settlement(event, number, Stage::Fresh, DeliveryState::Succeeded { at: at(1) })
    });
    bench.store.settle(settled.collect(), Vec::new()).await.unwrap();
}

async fn remove(bench: &Bench) {
    let (now, exceptions) = (at(1_000_000), HashMap::new());
    let cuts = Cuts { now, history: now, exceptions, dead_letters: now, notice: None, early: false };
    let mut next = Some(SweepFrom::Events(None));
    while let Some(from) = next {
        next = bench.store.sweep(Arc::new(cuts.clone()), from, 128).await.unwrap().next;
    }
}

/// A load on a thread of its own; it ends when this is dropped.
struct Loaded {
    known: Arc<Known>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Loaded {
    fn start(folder: &Path, seed: u64) -> Self {
        let known = Arc::new(Known::default());
        let (bench, _) = open_bench(folder);
        let of_load = Arc::clone(&known);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(load(bench, of_load, seed));
        });
        Self { known, thread: Some(thread) }
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        self.known.is_over.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// Which of the events that must be there are not, or are not as they were.
fn missing(folder: &Path, expected: &BTreeMap<EventKey, Arc<Event>>) -> Vec<EventKey> {
    let (_, store) = open_bench(folder);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let there = runtime.block_on(store.load_events(expected.keys().copied().collect())).unwrap();
    let pairs = expected.iter().zip(there);
    let wrong = pairs.filter(|((_, expected), there)| there.as_ref() != Some(expected));
    let mut missing: Vec<EventKey> = wrong.map(|((key, _), _)| *key).collect();
    for (key, event) in expected {
        let id = DeliveryId::new(*key, event.routes[0].destination_id);
        let waits = runtime.block_on(async { store.delivery(id).await.unwrap() });
        if waits.is_none_or(|delivery| delivery.state.is_finished()) {
            missing.push(*key);
        }
    }
    missing
}

#[test]
fn after_a_power_cut_all_that_was_acknowledged_is_there_and_fits_together() {
    let mut chance = chance();
    let folder = tempfile::TempDir::new().unwrap();
    let loaded = Loaded::start(folder.path(), chance.u64(..));
    for round in 0..rounds(12) {
        loaded.known.wait(chance.u64(1..40));
        let before = loaded.known.now();
        let durable = loaded.known.files(folder.path());
        loaded.known.wait(chance.u64(0..40));
        let later = loaded.known.files(folder.path());
        let after = loaded.known.now();
        let expected = before.into_iter().filter(|(key, _)| after.contains_key(key)).collect();
        let image = durable.cut(&later, &mut chance).write();
        assert_eq!(missing(image.path(), &expected), [], "round {round}, {} events", expected.len());
        let found = SledStore::inspect(image.path()).unwrap();
        assert_eq!((found.problems, &found.examples), (0, &Vec::new()), "round {round}");
    }
}

#[tokio::test]
async fn an_event_that_was_not_yet_synced_is_missed_by_these_tests() {
    let folder = tempfile::TempDir::new().unwrap();
    let (bench, _store) = open_bench(folder.path());
    let before = Files::read(folder.path());
    let event = bench.accept(new_event("a", &[durable(1)])).await;
    let expected = BTreeMap::from([(event.key, Arc::clone(&event))]);
    let (cut, whole) = (before.write(), Files::read(folder.path()).write());
    let both = tokio::task::spawn_blocking(move || {
        (missing(cut.path(), &expected), missing(whole.path(), &expected))
    });
    assert_eq!(both.await.unwrap(), (vec![event.key, event.key], Vec::new()));
}

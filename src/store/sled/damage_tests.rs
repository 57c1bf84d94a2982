//! Torn and flipped bytes in the files of a stopped store: said, or harmless, and never served.
//!
//! Each round damages one file of a copy. For longer, and again:
//! `SIGNALPOST_TEST_ROUNDS=2000 SIGNALPOST_TEST_SEED=7 cargo test --lib damage_tests -- --nocapture`

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use tempfile::TempDir;

use super::tests::open_bench;
use super::wreck::{Files, chance, damage, rounds};
use super::{SledStore, keys};
use crate::domain::delivery::{DeliveryState, EndReason};
use crate::store::conformance::{at, big_event, destination, durable, new_event, organization, settlement};
use crate::store::{DestinationStore, OrganizationStore, Stage, StoreError};

/// What the store notes of itself and changes at each start.
const OWN: &[u8] = b"M";

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// A store with something of most kinds, opened and closed a few times; in order, if so.
fn store(closed: bool) -> TempDir {
    let folder = TempDir::new().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for time in 0..3 {
        let (bench, store) = open_bench(folder.path());
        runtime.block_on(async {
            if time == 0 {
                store.create_organization(organization()).await.unwrap();
                store.create_destination(destination(1), None).await.unwrap();
            }
            for number in 0..60 {
                let event = match number % 10 {
                    0 => big_event(9_000),
                    _ => new_event("a", &[durable(1), durable(2)]),
                };
                let event = bench.accept(event).await;
                let state = match number % 3 {
                    0 => DeliveryState::Waiting { due: at(60_000) },
                    1 => DeliveryState::DeadLettered { at: at(1), reason: EndReason::GaveUp },
                    _ => DeliveryState::Succeeded { at: at(1) },
                };
                bench
                    .store
                    .settle(vec![settlement(&event, 1, Stage::Fresh, state)], Vec::new())
                    .await
                    .unwrap();
            }
            if closed || time < 2 {
                store.close().await.unwrap();
            } else {
                bench.accept(new_event("last", &[durable(1)])).await;
            }
        });
        if !closed && time == 2 {
            // As a kill leaves it: what the end of this process writes comes too late.
            return Files::read(folder.path()).write();
        }
    }
    folder
}

/// All rows but the store's notes of itself, read through a store that opens.
fn rows(folder: &Path) -> Result<Rows, String> {
    let options = super::SledOptions {
        cache_bytes: 16 << 20,
        min_free_bytes: Some(0),
        ..super::SledOptions::new(crate::store::conformance::manual_clock().1)
    };
    let store = match SledStore::open(folder, options) {
        Ok(store) => store,
        Err(StoreError::CannotOpen(problem)) => return Err(problem),
        Err(other) => panic!("{other}"),
    };
    // The store's readers do the same: a panic of sled is an error, and ends the process.
    let read = catch_unwind(AssertUnwindSafe(|| {
        let rows = store.reader.db.iter().map(|row| row.map(|(key, value)| (key.to_vec(), value.to_vec())));
        rows.collect::<Result<Rows, _>>().map_err(|error| error.to_string())
    }));
    let mut rows = read.unwrap_or_else(|panic| Err(super::writer::panic_text(panic.as_ref())))?;
    rows.retain(|key, _| !key.starts_with(OWN));
    Ok(rows)
}

/// What came of many rounds.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    refused: u64,
    harmless: u64,
    /// Rounds in which rows were gone or other ones than before, and nobody said so.
    lost: Vec<String>,
    /// Rounds in which a row had a value that it never had.
    invented: Vec<String>,
}

fn wreck(folder: &Path, rounds: u64) -> Tally {
    let (files, mut chance, mut tally) = (Files::read(folder), chance(), Tally::default());
    let whole = rows(files.write().path()).unwrap();
    let names: Vec<&String> =
        files.0.iter().filter(|(_, bytes)| !bytes.is_empty()).map(|(name, _)| name).collect();
    for _ in 0..rounds {
        let mut wrecked = files.clone();
        // The log is where most of the bytes are.
        let name = if chance.u8(..3) > 0 { "db" } else { names[chance.usize(..names.len())].as_str() };
        let bytes = wrecked.0.get_mut(name).unwrap();
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        bytes.truncate(used);
        let what = format!("{name} {}", damage(bytes, &mut chance));
        match rows(wrecked.write().path()) {
            Err(problem) => {
                tally.refused += 1;
                assert!(!problem.is_empty(), "{what}");
            }
            Ok(found) if found == whole => tally.harmless += 1,
            Ok(found) => {
                let gone = whole.keys().filter(|key| !found.contains_key(*key)).count();
                let other = found.iter().filter(|(key, value)| whole.get(*key) != Some(*value)).count();
                tally.lost.push(format!("{what}: {gone} rows gone, {other} other"));
                if found.keys().any(|key| !whole.contains_key(key) && key.first() == Some(&b'E')) {
                    tally.invented.push(what);
                }
            }
        }
    }
    println!("{tally:#?}");
    tally
}

#[test]
fn damage_to_a_store_that_was_closed_is_said_or_harmless() {
    let folder = store(true);
    let tally = wreck(folder.path(), rounds(60));
    assert!(tally.refused > 0, "{tally:?}");
    assert_eq!((tally.lost, tally.invented), (Vec::new(), Vec::new()));
}

#[test]
fn damage_to_a_store_that_was_killed_is_said_or_harmless() {
    let folder = store(false);
    let tally = wreck(folder.path(), rounds(40));
    assert!(tally.refused > 0, "{tally:?}");
    assert_eq!((tally.lost, tally.invented), (Vec::new(), Vec::new()));
}

/// Damages a store.
type Plant = Box<dyn Fn(&sled::Db)>;

#[test]
fn what_an_inspection_looks_for_is_found() {
    let folder = store(true);
    let whole = SledStore::inspect(folder.path()).unwrap();
    assert_eq!((whole.problems, &whole.examples), (0, &Vec::new()));
    assert_eq!((whole.events, whole.deliveries, whole.waiting, whole.dead_letters), (180, 180, 222, 60));
    assert!(whole.was_closed && whole.bytes > 100_000);
    let first = |table: &'static [u8]| move |db: &sled::Db| db.scan_prefix(table).next().unwrap().unwrap();
    let plants: [(&str, Plant); 7] = [
        (
            "checksum",
            Box::new(move |db| {
                let (key, mut value) = first(b"D")(db);
                *value.last_mut().unwrap() ^= 1;
                db.insert(key, value).unwrap();
            }),
        ),
        ("its event is not there", Box::new(move |db| drop(db.remove(first(keys::EVENTS)(db).0).unwrap()))),
        ("no order has it", Box::new(move |db| drop(db.remove(first(b"X")(db).0).unwrap()))),
        ("another state", Box::new(move |db| drop(db.remove(first(b"D")(db).0).unwrap()))),
        (
            "does not wait",
            Box::new(move |db| {
                let last = db.scan_prefix(keys::EVENTS).next_back().unwrap().unwrap().0;
                db.insert(keys::INDEXED_KEY, &last[1..]).unwrap();
            }),
        ),
        ("a chunk of it is missing", Box::new(move |db| drop(db.remove(first(b"B")(db).0).unwrap()))),
        ("counts", Box::new(move |db| drop(db.insert(keys::TALLY_KEY, &[0; 16]).unwrap()))),
    ];
    for (expected, plant) in plants {
        let copy = Files::read(folder.path()).write();
        let db = sled::open(copy.path()).unwrap();
        plant(&db);
        drop(db);
        // What sled itself wrote last must be the last event for the store to be opened at all.
        std::fs::remove_file(copy.path().join("signalpost.closed")).unwrap();
        let found = SledStore::inspect(copy.path()).unwrap();
        assert!(found.problems > 0, "{expected}: nothing was found");
        assert!(found.examples.iter().any(|one| one.contains(expected)), "{expected}: {found:?}");
    }
}

#[test]
fn a_folder_without_a_store_is_not_made_one_by_looking() {
    let folder = TempDir::new().unwrap();
    let refused = SledStore::inspect(folder.path()).unwrap_err().to_string();
    assert!(refused.contains("there is no store"), "{refused}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

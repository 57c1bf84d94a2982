//! Sealing on a real server: what is in a dump, what a missing key does, and sealing anew while replicas run.

use std::sync::Arc;
use std::time::Duration;

use super::connect::Tx;
use super::tests::{Deaf, name_of, options, server};
use super::{LeaseOptions, PostgresOptions, PostgresStore, Sealer, keys};
use crate::domain::destination::Destination;
use crate::store::conformance::{destination_id, full_of_secrets, new_event};
use crate::store::keyring::{Keyring, SealingKey};
use crate::store::seals::Resealed;
use crate::store::{DestinationStore, EventStore, Store, StoreError};

fn key() -> SealingKey {
    SealingKey::generate().unwrap()
}

fn ring(keys: &[&SealingKey]) -> Option<Keyring> {
    let mut ring = Keyring::new(keys[0].clone());
    keys.iter().for_each(|key| ring.add((*key).clone()));
    Some(ring)
}

fn with(url: &str, keyring: Option<Keyring>) -> PostgresOptions {
    PostgresOptions { keyring, ..options(url.to_owned(), None) }
}

fn open(url: &str, keyring: Option<Keyring>) -> Result<PostgresStore, StoreError> {
    PostgresStore::open(with(url, keyring))
}

async fn sealer(url: &str, keyring: Option<Keyring>) -> Sealer {
    Sealer::open(with(url, keyring)).await.unwrap()
}

/// A replica that others see.
async fn replica(name: &str, url: &str, keyring: Option<Keyring>) -> Arc<PostgresStore> {
    let lease = Some(LeaseOptions { name: name.into(), duration: Duration::from_secs(60) });
    let store = Arc::new(PostgresStore::open(PostgresOptions { lease, ..with(url, keyring) }).unwrap());
    store.listen(Arc::new(Deaf));
    let member = format!("SELECT count(*) FROM members WHERE name = '{name}'");
    while server().sql(name_of(url), &member) != "1" {
        tokio::task::yield_now().await;
    }
    store
}

fn contains(bytes: &[u8], planted: &str) -> bool {
    bytes.windows(planted.len()).any(|part| part == planted.as_bytes())
}

fn destination_in(store: &PostgresStore, number: u8) -> Destination {
    Destination::clone(&store.directory().destination(destination_id(number)).unwrap().destination)
}

#[tokio::test]
async fn a_dump_of_the_database_has_no_secret_and_opens_nothing_without_the_operators_key() {
    let url = server().database();
    let key = key();
    let store = open(&url, ring(&[&key])).unwrap();
    store.create_destination(full_of_secrets(1), None).await.unwrap();
    store.accept(vec![new_event("type-in-the-dump", &[])]).await.unwrap();
    store.close().await.unwrap();
    let dump = server().dump(name_of(&url));
    assert!(contains(&dump, "type-in-the-dump"), "the values of the dump are looked into");
    let key_text = key.to_text();
    for secret in ["planted", "https://example.com/hook", key_text.as_str()] {
        assert!(!contains(&dump, secret), "{secret}");
    }
    let refused = open(&url, None).err().unwrap().to_string();
    for part in ["5 of its secrets are sealed", "no key is configured", &key.id().to_string()] {
        assert!(refused.contains(part), "{part}: {refused}");
    }
}

#[tokio::test]
async fn a_missing_key_is_told_with_its_id_and_how_many_secrets_need_it() {
    let url = server().database();
    let (old, new) = (key(), key());
    let store = open(&url, ring(&[&old])).unwrap();
    store.create_destination(full_of_secrets(1), None).await.unwrap();
    let refused = open(&url, ring(&[&new])).err().unwrap().to_string();
    for part in ["5 of its secrets", &old.id().to_string(), "is not configured", &new.id().to_string()] {
        assert!(refused.contains(part), "{part}: {refused}");
    }
    // A process that runs is told in the same words, and reads nothing of it.
    let other = open(&url, ring(&[&new, &old])).unwrap();
    other.create_destination(full_of_secrets(2), None).await.unwrap();
    let told = StoreError::from(store.core.refresh().await.unwrap_err()).to_string();
    for part in ["5 of its secrets", &new.id().to_string(), "is not configured", &old.id().to_string()] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(store.directory().destination(destination_id(2)).is_none());
}

#[tokio::test]
async fn secrets_are_sealed_anew_in_steps_and_what_was_done_stays_done() {
    let url = server().database();
    let (old, new) = (key(), key());
    let store = open(&url, ring(&[&old])).unwrap();
    for number in 1..=80 {
        store.create_destination(full_of_secrets(number), None).await.unwrap();
    }
    store.close().await.unwrap();
    let mut steps = 0;
    let two_steps = |_: &Resealed| {
        steps += 1;
        steps <= 2
    };
    let stopped = sealer(&url, ring(&[&new, &old])).await.reseal(two_steps).await.unwrap();
    assert_eq!((stopped.destinations, stopped.remaining), (64, 16));
    assert_eq!(stopped.secrets.by_key, [(old.id(), 320)].into());
    let refused = open(&url, ring(&[&new])).err().unwrap().to_string();
    assert!(refused.contains("80 of its secrets"), "{refused}");
    let sealer = sealer(&url, ring(&[&new, &old])).await;
    let rest = sealer.reseal(|_| true).await.unwrap();
    assert_eq!((rest.destinations, rest.remaining), (16, 0));
    assert_eq!(sealer.reseal(|_| true).await.unwrap(), Resealed::default());
    let store = open(&url, ring(&[&new])).unwrap();
    for number in 1..=80 {
        assert_eq!(destination_in(&store, number), full_of_secrets(number), "nothing else of it changed");
    }
}

#[tokio::test]
async fn replicas_that_seal_under_the_key_go_on_while_all_is_sealed_anew() {
    let url = server().database();
    let (old, new) = (key(), key());
    let before = open(&url, ring(&[&old])).unwrap();
    for number in 1..=40 {
        before.create_destination(full_of_secrets(number), None).await.unwrap();
    }
    before.close().await.unwrap();
    let (one, other) =
        (replica("one", &url, ring(&[&new, &old])).await, replica("other", &url, ring(&[&new, &old])).await);
    let sealer = sealer(&url, ring(&[&new, &old])).await;
    let change = async |number: u8, revision: u64| {
        let named = Destination { display_name: "changed".into(), ..full_of_secrets(number) };
        one.update_destination(named, revision).await.unwrap();
    };
    let changes = async {
        for number in 1..=40 {
            change(number, 1).await;
        }
    };
    let (resealed, ()) = tokio::join!(sealer.reseal(|_| true), changes);
    assert_eq!(resealed.unwrap().remaining, 0);
    assert!(sealer.seals().await.unwrap().are_under(new.id()));
    other.core.refresh().await.unwrap();
    for number in 1..=40 {
        let expected = Destination { display_name: "changed".into(), revision: 2, ..full_of_secrets(number) };
        assert_eq!(destination_in(&other, number), expected);
    }
    let store = open(&url, ring(&[&new])).unwrap();
    assert_eq!(destination_in(&store, 40).revision, 2);
}

#[tokio::test]
async fn nothing_is_sealed_anew_beside_a_replica_that_seals_under_another_key() {
    let url = server().database();
    let (old, new) = (key(), key());
    let running = replica("behind", &url, ring(&[&old])).await;
    running.create_destination(full_of_secrets(1), None).await.unwrap();
    let sealer = sealer(&url, ring(&[&new, &old])).await;
    for refused in [sealer.check_replicas().await, sealer.reseal(|_| true).await.map(drop)] {
        let refused = refused.unwrap_err().to_string();
        for part in ["the replica behind seals under the key", &old.id().to_string(), &new.id().to_string()] {
            assert!(refused.contains(part), "{part}: {refused}");
        }
    }
    assert!(sealer.seals().await.unwrap().are_under(old.id()));
    // Nor does a replica start that would seal under a key which the running one has not got.
    let lease = Some(LeaseOptions { name: "ahead".into(), duration: Duration::from_secs(60) });
    let ahead = PostgresStore::open(PostgresOptions { lease, ..with(&url, ring(&[&new, &old])) });
    let refused = ahead.err().unwrap().to_string();
    assert!(refused.contains("the replica behind has not got"), "{refused}");
    server().sql(name_of(&url), "UPDATE members SET keys = NULL");
    let refused = sealer.check_replicas().await.unwrap_err().to_string();
    assert!(refused.contains("behind is of an earlier version"), "{refused}");
    running.close().await.unwrap();
    assert_eq!(sealer.reseal(|_| true).await.unwrap().destinations, 1);
    // Whoever was open without the key becomes no member behind that.
    let tx = Tx::begun(&running.core.writes).await.unwrap();
    let refused = keys::check_joining(&tx, &running.core.keyring, uuid::Uuid::nil()).await.unwrap_err();
    assert!(refused.to_string().contains(&new.id().to_string()), "{refused}");
}

#[tokio::test]
async fn the_key_that_the_store_made_for_itself_leaves_the_database_when_nothing_needs_it() {
    let url = server().database();
    let store = open(&url, None).unwrap();
    store.create_destination(full_of_secrets(1), None).await.unwrap();
    store.close().await.unwrap();
    let own = store.core.keyring.active();
    assert!(contains(&server().dump(name_of(&url)), "signalpost-key-"));
    let given = key();
    let sealer = sealer(&url, ring(&[&given])).await;
    assert_eq!(sealer.reseal(|_| true).await.unwrap().removed_key, Some(own));
    assert!(!contains(&server().dump(name_of(&url)), "signalpost-key-"));
    assert_eq!(destination_in(&open(&url, ring(&[&given])).unwrap(), 1), full_of_secrets(1));
    assert!(open(&url, None).err().unwrap().to_string().contains("no key is configured"));
}

#[tokio::test]
async fn a_key_that_nothing_needs_any_more_is_asked_for_by_nobody() {
    let url = server().database();
    let (old, new) = (key(), key());
    let store = open(&url, ring(&[&old])).unwrap();
    store.create_destination(full_of_secrets(1), None).await.unwrap();
    sealer(&url, ring(&[&new, &old])).await.reseal(|_| true).await.unwrap();
    let store = open(&url, ring(&[&new])).unwrap();
    store.delete_destination(destination_id(1), None).await.unwrap();
    let later = replica("later", &url, ring(&[&key()])).await;
    later.create_destination(full_of_secrets(2), None).await.unwrap();
}

#[tokio::test]
async fn what_the_database_says_of_rows_is_not_logged() {
    let url = server().database();
    let store = open(&url, None).unwrap();
    let client = store.core.writes.get().await.unwrap();
    let twice = "INSERT INTO erasures VALUES ('planted'), ('planted')";
    let fault = super::connect::query(&client, twice, &[]).await.unwrap_err();
    let said = format!("{fault} {fault:?}") + &StoreError::from(fault).to_string();
    assert!(said.contains("duplicate key") && said.contains("23505"), "{said}");
    assert!(!said.contains("planted"), "{said}");
}

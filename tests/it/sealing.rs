//! Keys of the real binary: making them, rotating them, and what it says when one is missing.

use std::fs;
use std::process::Output;

use signalpost::domain::contract::Contract;
use signalpost::grpc::proto::v1;
use signalpost::grpc::proto::v1::organization_admin_client::OrganizationAdminClient;
use tempfile::TempDir;

use crate::binary::{Home, Process, said};
use crate::harness::{Receiver, database, destination, event, genuine};

const SECRET: &str = "planted-signing-secret";

fn config_of(home: &Home) -> String {
    home.path("signalpost.toml").to_str().unwrap().to_owned()
}

fn printed(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// A home whose settings name the key file, with a first key in it.
fn home_with_key() -> Home {
    let home = Home::with(&[("secrets.key_file", r#""keys""#)]);
    let made = home.run(&["key", "new", "--file", "keys"], &[]);
    assert!(made.status.success(), "{}", said(&made));
    home
}

fn rekey(home: &Home) -> Output {
    home.run(&["rekey", "--config", &config_of(home)], &[])
}

async fn signed_destination(process: &Process, receiver: &Receiver) {
    process.create(destination(Contract::Workspace).url(receiver.url("/hooks")).secret(SECRET)).await;
}

async fn one_arrives_signed(process: &Process, receiver: &Receiver) {
    let count = receiver.got("/hooks").len();
    process.emit(event("kpi.alert").data(r#"{"a":1}"#)).await;
    let received = receiver.wait_for("/hooks", count + 1).await;
    genuine(Contract::Workspace, SECRET, &received[count]).unwrap();
}

#[tokio::test]
async fn keys_are_rotated_by_a_new_first_line_a_rekey_and_taking_the_old_line_away() {
    let (home, receiver) = (home_with_key(), Receiver::start().await);
    let old = fs::read_to_string(home.path("keys")).unwrap();
    let process = home.start().await;
    signed_destination(&process, &receiver).await;
    one_arrives_signed(&process, &receiver).await;
    let busy = rekey(&home);
    assert_eq!(busy.status.code(), Some(1));
    assert!(said(&busy).contains("another process"), "{}", said(&busy));
    process.kill();

    let new = printed(&home.run(&["key", "new"], &[]));
    fs::write(home.path("keys"), &new).unwrap();
    let refused = home.fails();
    assert_eq!(refused.status.code(), Some(1));
    let id = old.lines().next().unwrap().rsplit(' ').next().unwrap();
    for part in ["2 of its secrets", id, "is not configured"] {
        assert!(said(&refused).contains(part), "{part}: {}", said(&refused));
    }

    fs::write(home.path("keys"), format!("{new}{old}")).unwrap();
    let done = rekey(&home);
    assert!(done.status.success(), "{}", said(&done));
    let told = printed(&done);
    assert!(told.contains("Sealed 2 secrets of 1 destinations anew"), "{told}");
    assert!(told.contains(&format!("No secret needs the key {id} any more.")), "{told}");
    let again = printed(&rekey(&home));
    assert!(again.contains("Sealed 0 secrets") && again.contains("2 secrets are stored in all"), "{again}");

    fs::write(home.path("keys"), &new).unwrap();
    let process = home.start().await;
    one_arrives_signed(&process, &receiver).await;
    let filter = v1::AuditFilter { principal: "signalpost".into(), ..Default::default() };
    let request = v1::ListAuditEntriesRequest { filter: Some(filter), ..Default::default() };
    let mut client = OrganizationAdminClient::new(process.channel.clone());
    let entries = client.list_audit_entries(request).await.unwrap().into_inner().audit_entries;
    let told: Vec<_> = entries.iter().map(|entry| (entry.description.as_str(), entry.count)).collect();
    let [(ended, 2), (begun, 2)] = told.as_slice() else { panic!("{told:?}") };
    assert!(begun.contains("has begun") && ended.contains("secrets of 1 destinations have been sealed anew"));
    assert_eq!(process.terminate().await, Some(0));
}

#[tokio::test]
async fn keys_come_from_a_file_or_a_variable_and_not_from_both() {
    let home = home_with_key();
    let keys = fs::read_to_string(home.path("keys")).unwrap();
    let key = keys.lines().last().unwrap();
    let config = config_of(&home);
    let both = home.run(&["serve", "--config", &config], &[("SIGNALPOST_SEALING_KEYS", key)]);
    assert_eq!(both.status.code(), Some(2));
    assert!(said(&both).contains("give one of them") && !said(&both).contains(key), "{}", said(&both));
    let variables = [("SIGNALPOST_SEALING_KEYS", key), ("SIGNALPOST_STORE_PATH", "other")];
    let shown = printed(&home.run(&["config", "print"], &variables));
    assert!(shown.contains("key_file") && !shown.contains(key), "{shown}");
    let done = home.run(&["rekey"], &variables);
    assert!(done.status.success(), "{}", said(&done));
    assert!(!home.path("other/signalpost.key").exists());
    let wrong = home.run(&["rekey"], &[("SIGNALPOST_SEALING_KEYS", "planted")]);
    assert!(said(&wrong).contains("SIGNALPOST_SEALING_KEYS") && !said(&wrong).contains("planted"));
}

/// Replicas of a shared store, whose keys are in one file.
struct Replicas {
    url: String,
    folder: TempDir,
}

impl Replicas {
    fn new() -> Self {
        Self { url: database(), folder: TempDir::new().unwrap() }
    }

    fn give(&self, keys: &[&str]) {
        fs::write(self.folder.path().join("keys"), keys.concat()).unwrap();
    }

    fn home(&self, name: &str) -> Home {
        let (url, file) = (format!("{:?}", self.url), format!("{:?}", self.folder.path().join("keys")));
        let name = format!("{name:?}");
        Home::with(&[("store.url", &url), ("store.replica", &name), ("secrets.key_file", &file)])
    }

    /// What the audit log has of sealing, the oldest first.
    async fn trail(&self, process: &Process) -> Vec<String> {
        let filter = v1::AuditFilter { principal: "signalpost".into(), ..Default::default() };
        let request = v1::ListAuditEntriesRequest { filter: Some(filter), ..Default::default() };
        let mut client = OrganizationAdminClient::new(process.channel.clone());
        let entries = client.list_audit_entries(request).await.unwrap().into_inner().audit_entries;
        let told = entries.into_iter().rev().map(|entry| entry.description);
        told.filter(|words| words.contains("seal")).collect()
    }
}

async fn rekeyed(home: &Home) -> Output {
    home.call(&["rekey", "--config", &config_of(home)], &[]).await
}

#[tokio::test]
async fn keys_of_a_shared_store_go_round_replica_by_replica_and_all_is_sealed_anew_while_they_run() {
    let (replicas, receiver) = (Replicas::new(), Receiver::start().await);
    let (one, other) = (replicas.home("one"), replicas.home("other"));
    let new_key = || printed(&one.run(&["key", "new"], &[]));
    let (old, new) = (new_key(), new_key());
    let id_of = |key: &str| key.lines().next().unwrap().rsplit(' ').next().unwrap().to_owned();
    replicas.give(&[&old]);
    let (first, second) = (one.start().await, other.start().await);
    signed_destination(&first, &receiver).await;
    one_arrives_signed(&second, &receiver).await;

    // In one step it is refused, and nothing has changed.
    replicas.give(&[&new, &old]);
    let hasty = replicas.home("hasty").fails();
    assert_eq!(hasty.status.code(), Some(1));
    assert!(said(&hasty).contains("has not got") && said(&hasty).contains(&id_of(&new)), "{}", said(&hasty));
    let early = rekeyed(&one).await;
    assert_eq!(early.status.code(), Some(1));
    assert!(
        said(&early).contains("seals under the key") && said(&early).contains(&id_of(&old)),
        "{}",
        said(&early)
    );
    one_arrives_signed(&first, &receiver).await;

    // All get it, all seal under it, and then everything is sealed under it.
    let mut running = [first, second];
    for keys in [[&old, &new], [&new, &old]] {
        replicas.give(&[keys[0], keys[1]]);
        let [first, second] = running;
        assert_eq!(first.terminate().await, Some(0));
        let first = one.start().await;
        one_arrives_signed(&second, &receiver).await;
        assert_eq!(second.terminate().await, Some(0));
        running = [first, other.start().await];
    }
    let done = rekeyed(&one).await;
    assert!(done.status.success(), "{}", said(&done));
    assert!(printed(&done).contains("Sealed 2 secrets of 1 destinations anew"), "{}", printed(&done));
    assert!(printed(&done).contains(&format!("No secret needs the key {} any more.", id_of(&old))));
    replicas.give(&[&new]);
    let [first, second] = running;
    assert_eq!(first.terminate().await, Some(0));
    let first = one.start().await;
    one_arrives_signed(&first, &receiver).await;
    one_arrives_signed(&second, &receiver).await;
    let [begun, ended] = replicas.trail(&first).await.try_into().unwrap();
    assert!(begun.contains("has begun") && ended.contains("secrets of 1 destinations have been sealed anew"));

    // The old key alone opens nothing any more.
    replicas.give(&[&old]);
    let behind = replicas.home("behind").fails();
    for part in ["2 of its secrets", &id_of(&new), "is not configured"] {
        assert!(said(&behind).contains(part), "{part}: {}", said(&behind));
    }
    for process in [first, second] {
        assert_eq!(process.terminate().await, Some(0));
    }
}

#[test]
fn the_password_of_a_shared_store_is_not_repeated_when_the_database_is_away() {
    let home = Home::new();
    let variables = [("SIGNALPOST_STORE_URL", "postgres://signalpost:planted@127.0.0.1:1/none")];
    let refused = home.run(&["rekey"], &variables);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        said(&refused).contains("the database") && !said(&refused).contains("planted"),
        "{}",
        said(&refused)
    );
    let shown = home.run(&["config", "print"], &variables);
    assert!(printed(&shown).contains("url") && !printed(&shown).contains("planted"), "{}", printed(&shown));
    assert!(!home.path("signalpost-data").exists());
}

#[test]
fn a_key_file_that_is_there_already_is_not_overwritten() {
    let home = home_with_key();
    let before = fs::read(home.path("keys")).unwrap();
    let again = home.run(&["key", "new", "--file", "keys"], &[]);
    assert_eq!(again.status.code(), Some(2));
    assert!(said(&again).contains("keys is not written"), "{}", said(&again));
    assert_eq!(fs::read(home.path("keys")).unwrap(), before);
}

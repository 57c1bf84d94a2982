//! Backups and what is made of them, by the real binary: whole or nothing, whatever goes wrong.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use http::StatusCode;
use signalpost::domain::contract::Contract;
use signalpost::grpc::proto::v1;
use signalpost::grpc::proto::v1::back_up_store_response::Part;
use signalpost::grpc::proto::v1::event_ingest_client::EventIngestClient;
use signalpost::grpc::proto::v1::organization_admin_client::OrganizationAdminClient;
use signalpost::grpc::proto::v1::store_admin_client::StoreAdminClient;

use crate::binary::{Home, Process, said};
use crate::commands::{call, succeeds};
use crate::harness::{ORGANIZATION, Receiver, Refusal, database, destination, event, eventually};

/// Emits events with so many bytes of data each, together.
async fn emit_large(process: &Process, count: usize, bytes: usize) {
    let data = format!(r#"{{"filler":"{}"}}"#, "x".repeat(bytes));
    let events = (0..count).map(|_| event("metric.no_data").data(&data).0).collect();
    let request = v1::EmitBatchRequest { organization_id: ORGANIZATION.into(), events };
    let mut client = EventIngestClient::new(process.channel.clone()).max_encoding_message_size(usize::MAX);
    client.emit_batch(request).await.unwrap();
}

/// Runs a command on a disk that is full behind so many KiB of a file.
async fn on_a_full_disk(home: &Home, process: &Process, kib: u32, arguments: &[&str]) -> Output {
    let mut command = Command::new("bash");
    let script = format!("trap '' XFSZ; ulimit -f {kib}; exec \"$0\" \"$@\"");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_signalpost")]).args(arguments);
    command.env_clear().env("SIGNALPOST_SERVER", &process.url).current_dir(home.path(""));
    command.stdin(Stdio::null());
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// The names in a folder, hidden ones too.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = entries.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_full_disk_leaves_nothing_of_a_backup_or_of_a_restore_and_is_said() {
    let home = Home::new();
    let process = home.start().await;
    emit_large(&process, 40, 100_000).await;
    let before = names(&home.path(""));
    let full = on_a_full_disk(&home, &process, 100, &["backup", "store.backup"]).await;
    assert_eq!(full.status.code(), Some(1), "{}", said(&full));
    for part in ["store.backup is not written, and nothing is left of it", "File too large"] {
        assert!(said(&full).contains(part), "{part}: {}", said(&full));
    }
    assert_eq!(names(&home.path("")), before, "nothing is left");

    succeeds(&home, &process, &["backup", "store.backup"]).await;
    let before = names(&home.path(""));
    let full = on_a_full_disk(&home, &process, 600, &["restore", "store.backup", "restored"]).await;
    assert_eq!(full.status.code(), Some(1), "{}", said(&full));
    for part in ["the backup is not restored, and nothing is left of it", "File too large"] {
        assert!(said(&full).contains(part), "{part}: {}", said(&full));
    }
    assert_eq!(names(&home.path("")), before, "nothing is left");
    succeeds(&home, &process, &["restore", "store.backup", "restored"]).await;
}

#[tokio::test]
async fn a_backup_that_falls_too_far_behind_ends_with_an_error_and_the_next_one_is_whole() {
    let home = Home::new();
    let process = home.start().await;
    let emit_mib = async |mib: usize| {
        for _ in 0..mib {
            emit_large(&process, 10, 104_000).await;
        }
    };
    // More than waits on the way to a client that takes nothing.
    emit_mib(8).await;
    let mut client = StoreAdminClient::new(process.channel.clone()).max_decoding_message_size(usize::MAX);
    let mut parts = client.back_up_store(v1::BackUpStoreRequest::default()).await.unwrap().into_inner();
    let first = parts.message().await.unwrap().unwrap();
    assert!(matches!(first.part, Some(Part::Header(_))));
    emit_mib(66).await;
    let status = loop {
        match parts.message().await {
            Ok(Some(part)) => assert!(!matches!(part.part, Some(Part::Summary(_))), "it is not whole"),
            Ok(None) => panic!("it ended as if it were whole"),
            Err(status) => break status,
        }
    };
    let refusal = Refusal::from(status.clone());
    assert_eq!((status.code(), refusal.reason.as_str()), (tonic::Code::ResourceExhausted, "QUEUE_FULL"));
    assert!(status.message().contains("quieter time"), "{}", status.message());

    succeeds(&home, &process, &["backup", "store.backup"]).await;
    succeeds(&home, &process, &["restore", "--check", "store.backup"]).await;
}

#[tokio::test]
async fn a_server_on_a_database_says_what_makes_its_backups_and_nothing_is_written() {
    let url = format!("{:?}", database());
    let home = Home::with(&[("store.url", url.as_str())]);
    let process = home.start().await;
    let before = names(&home.path(""));
    let refused = call(&home, &process, &["backup", "store.backup"]).await;
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    assert!(said(&refused).contains("pg_dump"), "{}", said(&refused));
    assert_eq!(names(&home.path("")), before);
}

#[tokio::test]
async fn a_restore_never_touches_a_folder_with_something_in_it() {
    let home = Home::new();
    let process = home.start().await;
    succeeds(&home, &process, &["backup", "store.backup"]).await;
    let foreign = home.path("foreign");
    std::fs::create_dir(&foreign).unwrap();
    std::fs::write(foreign.join("db"), "of another program").unwrap();
    let before = names(&home.path(""));
    let refused = call(&home, &process, &["restore", "store.backup", "foreign"]).await;
    assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
    assert!(said(&refused).contains("foreign: it is not empty"), "{}", said(&refused));
    assert_eq!(names(&foreign), ["db"]);
    assert_eq!(std::fs::read_to_string(foreign.join("db")).unwrap(), "of another program");
    assert_eq!(names(&home.path("")), before);
}

#[tokio::test]
async fn a_backup_under_load_has_everything_that_was_acknowledged_before_it_began() {
    let (home, receiver) = (Home::new(), Receiver::start().await);
    receiver.always_answers("/hook", StatusCode::OK);
    let process = home.start().await;
    let draft = destination(Contract::Observer).url(receiver.url("/hook")).name("hook").secret("planted-5");
    process.create(draft).await;
    let mut acknowledged = Vec::new();
    for number in 0..150 {
        let event = event("metric.no_data").id(&format!("before-{number}"));
        acknowledged.push(process.emit(event).await.event_id);
    }
    let file = home.path("store.backup");
    let name = file.to_str().unwrap();
    let (done, mut told) = tokio::sync::watch::channel(false);
    let load = async {
        let mut made = 0;
        while !*told.borrow_and_update() {
            process.emit(event("metric.no_data")).await;
            made += 1;
        }
        made
    };
    let backup = async {
        let text = succeeds(&home, &process, &["backup", name]).await;
        done.send(true).unwrap();
        text
    };
    let (made, text) = tokio::join!(load, backup);
    assert!(made > 0, "events came in meanwhile");
    assert!(text.contains("entries") && text.contains("not inside"), "{text}");
    assert!(!String::from_utf8_lossy(&std::fs::read(&file).unwrap()).contains("planted-5"));
    let again = call(&home, &process, &["backup", name]).await;
    assert_eq!(again.status.code(), Some(2), "{}", said(&again));
    assert_eq!(process.terminate().await, Some(0));

    assert_eq!(home.run(&["restore", "--check", name], &[]).status.code(), Some(0));
    let refused = home.run(&["restore", name, home.store().to_str().unwrap()], &[]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(said(&refused).contains("not empty"), "{}", said(&refused));
    // The key is not in the backup; it is kept elsewhere.
    let key = std::fs::read(home.store().join("signalpost.key")).unwrap();
    std::fs::remove_dir_all(home.store()).unwrap();
    let restored = home.run(&["restore", name, home.store().to_str().unwrap()], &[]);
    assert_eq!(restored.status.code(), Some(0), "{}", said(&restored));
    that_it_is_whole(&home);
    let locked = home.fails();
    assert!(said(&locked).contains("key"), "{}", said(&locked));
    std::fs::write(home.store().join("signalpost.key"), key).unwrap();

    let process = home.start().await;
    that_it_was_restored_is_on_the_record(&process).await;
    for id in &acknowledged {
        let text = succeeds(&home, &process, &["explain", id, "-o", "json"]).await;
        assert!(text.contains("EVENT_VERDICT_"), "{id}: {text}");
    }
    process.emit(event("metric.no_data").id("after-the-restore")).await;
    eventually("it delivers", async || {
        let got = receiver.got("/hook");
        got.iter()
            .any(|one| crate::harness::header(one, "signalpost-event-id") == "after-the-restore")
            .then_some(())
    })
    .await;
    assert_eq!(process.terminate().await, Some(0));
}

/// Before any server has opened it.
fn that_it_is_whole(home: &Home) {
    let looked = home.run(&["check", home.store().to_str().unwrap()], &[]);
    assert_eq!(looked.status.code(), Some(0), "{}", said(&looked));
}

async fn that_it_was_restored_is_on_the_record(process: &Process) {
    let by_us = v1::AuditFilter { principal: "signalpost".into(), ..Default::default() };
    let request = v1::ListAuditEntriesRequest { filter: Some(by_us), ..Default::default() };
    let mut client = OrganizationAdminClient::new(process.channel.clone());
    let entries = client.list_audit_entries(request).await.unwrap().into_inner().audit_entries;
    let [entry] = entries.as_slice() else { panic!("{entries:?}") };
    assert!(entry.description.starts_with("the store was restored from a backup of 2"), "{entry:?}");
    assert!(entry.count > 150, "{entry:?}");
}

#[tokio::test]
async fn what_is_no_whole_backup_is_refused_and_leaves_nothing() {
    let home = Home::new();
    let process = home.start().await;
    let file = home.path("store.backup");
    succeeds(&home, &process, &["backup", file.to_str().unwrap()]).await;
    let whole = std::fs::read(&file).unwrap();
    let folder = home.path("restored");
    let restore = |bytes: &[u8]| {
        let name = home.path("tried");
        std::fs::write(&name, bytes).unwrap();
        home.run(&["restore", name.to_str().unwrap(), folder.to_str().unwrap()], &[])
    };
    let newer = [b"signalpost backup 2\n", &whole[20..]].concat();
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    for (bytes, part) in [
        (&b"something else altogether"[..], "no backup"),
        (&newer, "newer"),
        (&damaged, "damaged"),
        (&whole[..whole.len() - 1], "damaged"),
    ] {
        let output = restore(bytes);
        assert_eq!(output.status.code(), Some(2), "{part}");
        assert!(said(&output).contains(part), "{part}: {}", said(&output));
        let left = std::fs::read_dir(home.path("")).unwrap();
        let left: Vec<_> = left.map(|one| one.unwrap().file_name().into_string().unwrap()).collect();
        assert!(left.iter().all(|name| !name.contains("restor")), "{left:?}");
    }
    assert_eq!(restore(&whole).status.code(), Some(0));
    let unwritable = call(&home, &process, &["backup", "/dev/null/store.backup"]).await;
    assert_eq!(unwritable.status.code(), Some(2));
    for part in ["nothing is left", "check the path"] {
        assert!(said(&unwritable).contains(part), "{}", said(&unwritable));
    }
}

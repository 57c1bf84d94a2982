//! When the machine has no more of something: disk, file descriptors, memory. It is said, nothing that was
//! acknowledged is lost, and it goes on when there is enough again.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use http::StatusCode;
use signalpost::domain::contract::Contract;
use signalpost::grpc::proto::v1;
use signalpost::grpc::proto::v1::event_ingest_client::EventIngestClient;
use tonic::Code;

use crate::binary::{Home, Process};
use crate::harness::{
    DestinationDraft, EventDraft, ORGANIZATION, Receiver, Refusal, destination, event, eventually, header,
};

/// A small disk in memory, which only its holder and who enters its mounts can see.
struct Disk {
    holder: Child,
    folder: PathBuf,
}

impl Disk {
    /// A disk of so many MiB on this folder; `None` where this user may not mount.
    fn on(folder: &Path, mebibytes: u32) -> Option<Self> {
        std::fs::create_dir_all(folder).unwrap();
        let script = "mount -t tmpfs -o size=\"$1\"m none \"$2\" && echo mounted && exec cat";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script, "sh", &mebibytes.to_string()]).arg(folder);
        // It ends with its standard input, so it can't outlive the test.
        let mut holder = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().ok()?;
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let disk = Self { holder, folder: folder.to_owned() };
        if line != "mounted\n" {
            println!("skipped: a small disk can't be mounted here; run it as root");
            return None;
        }
        Some(disk)
    }

    /// What a command has before it, to see the disk.
    fn entered(&self) -> Vec<String> {
        ["nsenter", "--mount", "--target"]
            .map(str::to_owned)
            .into_iter()
            .chain([self.holder.id().to_string()])
            .collect()
    }

    fn file(&self) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.holder.id()));
        root.join(self.folder.strip_prefix("/").unwrap()).join("something-else")
    }

    /// Something else takes the disk, down to so many bytes.
    fn fill(&self, down_to: u64) {
        let mut file = std::fs::File::create(self.file()).unwrap();
        let piece = vec![7; 64 << 10];
        loop {
            if bytes_free(&file) < down_to || file.write_all(&piece).is_err() {
                return;
            }
        }
    }

    fn free(&self) {
        std::fs::remove_file(self.file()).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.holder.kill().ok();
        self.holder.wait().ok();
    }
}

fn bytes_free(file: &std::fs::File) -> u64 {
    let stat = rustix::fs::fstatvfs(file).unwrap();
    stat.f_bavail * stat.f_frsize
}

async fn try_emit(process: &Process, draft: EventDraft) -> Result<v1::EmitResult, Refusal> {
    let request = v1::EmitRequest { organization_id: ORGANIZATION.into(), event: Some(draft.0) };
    let answer = EventIngestClient::new(process.channel.clone()).emit(request).await?;
    Ok(answer.into_inner().result.unwrap())
}

/// Emits until that many are accepted; answers their ids.
async fn emit_some(process: &Process, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for _ in 0..count {
        ids.push(process.emit(event("agent.offline")).await.event_id);
    }
    ids
}

async fn all_arrive(receiver: &Receiver, ids: &[String]) {
    eventually("all that was acknowledged arrives", async || {
        let got = receiver.got("/hook");
        let there = |id: &String| got.iter().any(|one| header(one, "signalpost-event-id") == id);
        ids.iter().all(there).then_some(())
    })
    .await;
}

/// Retries every tenth of a second, for as long as a test may take.
fn persistent(receiver: &Receiver) -> DestinationDraft {
    destination(Contract::Observer).url(receiver.url("/hook")).retry_after(&[100; 30])
}

#[tokio::test]
async fn a_full_disk_refuses_new_events_and_goes_on_when_there_is_room() {
    let (home, receiver) = (Home::new(), Receiver::start().await);
    let Some(disk) = Disk::on(&home.store(), 64) else { return };
    let process = home.start_behind(&disk.entered()).await;
    process.create(persistent(&receiver)).await;
    receiver.always_answers("/hook", StatusCode::SERVICE_UNAVAILABLE);
    let mut ids = emit_some(&process, 20).await;
    disk.fill(12 << 20);
    let refused = eventually("new events are refused", async || {
        match try_emit(&process, event("agent.offline")).await {
            Ok(accepted) => {
                ids.push(accepted.event_id);
                None
            }
            Err(refusal) => Some(refusal),
        }
    })
    .await;
    assert_eq!(
        (refused.code, refused.reason.as_str()),
        (Code::ResourceExhausted, "STORE_FULL"),
        "{refused:?}"
    );
    // Outcomes and deliveries go on, out of the reserve.
    receiver.recovers("/hook");
    all_arrive(&receiver, &ids).await;
    disk.free();
    let accepted =
        eventually("events are taken again", async || try_emit(&process, event("agent.offline")).await.ok());
    let last = accepted.await.event_id;
    all_arrive(&receiver, &[last]).await;
    assert_eq!(process.terminate().await, Some(0));
}

#[tokio::test]
async fn a_disk_that_is_full_to_the_last_byte_ends_the_process_and_loses_nothing() {
    let (home, receiver) = (Home::new(), Receiver::start().await);
    let Some(disk) = Disk::on(&home.store(), 64) else { return };
    let process = home.start_behind(&disk.entered()).await;
    process.create(persistent(&receiver)).await;
    receiver.always_answers("/hook", StatusCode::SERVICE_UNAVAILABLE);
    let ids = emit_some(&process, 60).await;
    disk.fill(0);
    assert_eq!(process.until_it_ends().await, Some(1), "outcomes can't be written any more");
    let log = std::fs::read_to_string(home.log()).unwrap();
    assert!(log.contains("No space left on device"), "{log}");
    disk.free();
    receiver.recovers("/hook");
    let process = home.start_behind(&disk.entered()).await;
    all_arrive(&receiver, &ids).await;
    assert_eq!(process.terminate().await, Some(0));
}

#[tokio::test]
async fn without_file_descriptors_it_is_said_and_deliveries_come_when_there_are_some() {
    let (home, receiver) = (Home::with(&[("delivery.circuit_opens_after", "3")]), Receiver::start().await);
    let process = home.start_behind(&limited("ulimit -n 48")).await;
    process.create(persistent(&receiver)).await;
    let address = process.url.strip_prefix("http://").unwrap();
    let mut idle = Vec::new();
    eventually("file descriptors are used up", async || {
        idle.push(tokio::net::TcpStream::connect(address).await.unwrap());
        std::fs::read_to_string(home.log()).unwrap().contains("Too many open files").then_some(())
    })
    .await;
    // What is open already goes on.
    let ids = emit_some(&process, 10).await;
    let failed = eventually("an attempt says why it failed", async || {
        let delivery = process.delivery_of(&ids[0]).await;
        delivery.attempts.first().map(|attempt| attempt.error.clone())
    })
    .await;
    assert!(failed.contains("file descriptors"), "{failed}");
    drop(idle);
    all_arrive(&receiver, &ids).await;
    assert_eq!(process.terminate().await, Some(0));
}

#[tokio::test]
async fn a_backlog_larger_than_the_memory_does_not_end_the_process() {
    let home = Home::with(&[("delivery.max_bytes_waiting", r#""8MiB""#)]);
    let receiver = Receiver::start().await;
    // About 60 MB are needed without any event.
    let process = home.start_behind(&limited("ulimit -d 160000")).await;
    process.create(persistent(&receiver)).await;
    receiver.always_answers("/hook", StatusCode::SERVICE_UNAVAILABLE);
    let text = "x".repeat(200 << 10);
    let mut ids = Vec::new();
    for _ in 0..1000 {
        let draft = event("agent.offline").data(format!(r#"{{"text":"{text}"}}"#));
        ids.push(process.emit(draft).await.event_id);
    }
    receiver.recovers("/hook");
    all_arrive(&receiver, &ids[..100]).await;
    assert_eq!(process.terminate().await, Some(0), "{}", std::fs::read_to_string(home.log()).unwrap());
}

/// What a command has before it, to run under a limit of the shell.
fn limited(limit: &str) -> Vec<String> {
    ["sh", "-c", &format!("{limit}; exec \"$0\" \"$@\"")].map(str::to_owned).into()
}

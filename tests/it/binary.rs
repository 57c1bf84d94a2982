//! The real binary: what it says when it can't start, how it stops, and what `kill -9` can't take away.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::Duration;

use http::StatusCode;
use signalpost::domain::contract::Contract;
use signalpost::grpc::proto::v1;
use signalpost::grpc::proto::v1::delivery_admin_client::DeliveryAdminClient;
use signalpost::grpc::proto::v1::destination_admin_client::DestinationAdminClient;
use signalpost::grpc::proto::v1::event_ingest_client::EventIngestClient;
use signalpost::receiver::Answer;
use tempfile::TempDir;
use tonic::transport::Channel;

use crate::harness::{DestinationDraft, EventDraft, ORGANIZATION, TestIdentity, destination, event};
use crate::harness::{Receiver, eventually, header};

/// A folder with a configuration, a store and the output of the processes.
pub struct Home {
    folder: TempDir,
    config: PathBuf,
}

impl Home {
    pub fn new() -> Self {
        Self::with(&[])
    }

    /// A configuration with these settings besides or instead: full keys and values in TOML.
    pub fn with(changes: &[(&str, &str)]) -> Self {
        let folder = tempfile::Builder::new().prefix("signalpost-it-").tempdir().unwrap();
        let certificate = folder.path().join("receiver.pem");
        std::fs::write(&certificate, TestIdentity::certificate_pem()).unwrap();
        let (store, certificate) = (format!("{:?}", folder.path().join("store")), format!("{certificate:?}"));
        let mut settings = BTreeMap::from([
            ("listen.grpc", r#""127.0.0.1:0""#),
            ("listen.health", r#""127.0.0.1:0""#),
            ("listen.metrics", r#""127.0.0.1:0""#),
            ("listen.stop_notice", r#""0s""#),
            ("store.path", store.as_str()),
            ("store.cache", r#""16MiB""#),
            ("store.min_free", r#""16MiB""#),
            ("delivery.threads", "1"),
            ("egress.allow", r#"["127.0.0.0/8"]"#),
            ("egress.ca_file", certificate.as_str()),
        ]);
        settings.extend(changes.iter().copied());
        if settings.contains_key("store.url") {
            settings.remove("store.path");
        }
        let text: String = settings.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
        let config = folder.path().join("signalpost.toml");
        std::fs::write(&config, text).unwrap();
        Self { folder, config }
    }

    pub fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_signalpost"));
        command.env_clear().current_dir(self.folder.path()).args(["serve", "--config"]).arg(&self.config);
        command.stdin(Stdio::null());
        command
    }

    /// Another command of the binary, with nothing in its environment but these variables.
    pub fn run(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_signalpost"));
        command.env_clear().envs(variables.iter().copied()).current_dir(self.folder.path()).args(arguments);
        command.stdin(Stdio::null()).output().unwrap()
    }

    /// The same beside other work of this thread, as servers and receivers of a test have.
    pub async fn call(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_signalpost"));
        command.env_clear().envs(variables.iter().copied()).current_dir(self.folder.path()).args(arguments);
        command.stdin(Stdio::null());
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }

    /// A file of the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs a server that is expected not to start.
    pub fn fails(&self) -> Output {
        self.command().output().unwrap()
    }

    /// Starts a server and does not wait for it.
    fn spawn(&self, variables: &[(&str, &str)]) -> Child {
        let mut command = self.command();
        command.envs(variables.iter().copied());
        self.spawn_by(command)
    }

    fn spawn_by(&self, mut command: Command) -> Child {
        let log = File::options().create(true).append(true).open(self.log()).unwrap();
        command.stdout(Stdio::piped()).stderr(log).spawn().unwrap()
    }

    pub fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// Starts a server behind another command, which must become it by `exec`.
    pub async fn start_behind(&self, before: &[String]) -> Process {
        let (program, arguments) = before.split_first().unwrap();
        let mut command = Command::new(program);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").current_dir(self.folder.path());
        command.args(arguments).arg(env!("CARGO_BIN_EXE_signalpost")).args(["serve", "--config"]);
        command.arg(&self.config).stdin(Stdio::null());
        self.ready(self.spawn_by(command)).await
    }

    /// Starts a server and waits until it says that it is ready.
    pub async fn start(&self) -> Process {
        self.start_with(&[]).await
    }

    /// The same, with these variables in its environment.
    pub async fn start_with(&self, variables: &[(&str, &str)]) -> Process {
        self.ready(self.spawn(variables)).await
    }

    async fn ready(&self, mut child: Child) -> Process {
        let stdout = child.stdout.take().unwrap();
        let read = tokio::task::spawn_blocking(move || {
            let (mut line, mut stdout) = (String::new(), BufReader::new(stdout));
            stdout.read_line(&mut line).unwrap();
            (line, stdout)
        });
        let (line, stdout) = read.await.unwrap();
        let address = line.split(' ').find_map(|word| word.strip_prefix("grpc=")).map(str::to_owned);
        let metrics = line.split_whitespace().find_map(|word| word.strip_prefix("metrics="));
        let metrics = metrics.map(|address| address.parse().unwrap());
        let Some(address) = address else {
            let log = std::fs::read_to_string(self.log()).unwrap();
            panic!("not ready: {line:?}, exit {:?}\n{log}", child.wait())
        };
        let endpoint = Channel::from_shared(format!("http://{address}")).unwrap();
        let channel = endpoint.connect().await.unwrap();
        Process { child, url: format!("http://{address}"), channel, metrics, _stdout: stdout }
    }
}

/// A server in a process of its own; killed when it is dropped.
pub struct Process {
    child: Child,
    /// The gRPC port, for commands.
    pub url: String,
    pub channel: Channel,
    /// Where metrics are served.
    pub metrics: Option<SocketAddr>,
    _stdout: BufReader<ChildStdout>,
}

impl Process {
    pub async fn create(&self, draft: DestinationDraft) -> v1::Destination {
        let request = v1::CreateDestinationRequest {
            organization_id: ORGANIZATION.into(),
            destination: Some(draft.0),
            validate_only: false,
        };
        let mut client = DestinationAdminClient::new(self.channel.clone());
        client.create_destination(request).await.unwrap().into_inner().destination.unwrap()
    }

    pub async fn emit(&self, draft: EventDraft) -> v1::EmitResult {
        self.emit_in(ORGANIZATION, draft).await
    }

    pub async fn emit_in(&self, organization: &str, draft: EventDraft) -> v1::EmitResult {
        let request = v1::EmitRequest { organization_id: organization.into(), event: Some(draft.0) };
        let mut client = EventIngestClient::new(self.channel.clone());
        client.emit(request).await.unwrap().into_inner().result.unwrap()
    }

    /// The only delivery of an event, with its attempts.
    pub async fn delivery_of(&self, event_id: &str) -> v1::Delivery {
        let filter = v1::DeliveryFilter { event_id: event_id.into(), ..v1::DeliveryFilter::default() };
        let request = v1::ListDeliveriesRequest {
            organization_id: ORGANIZATION.into(),
            filter: Some(filter),
            ..v1::ListDeliveriesRequest::default()
        };
        let mut client = DeliveryAdminClient::new(self.channel.clone());
        let mut found = client.list_deliveries(request).await.unwrap().into_inner().deliveries;
        let request = v1::GetDeliveryRequest {
            organization_id: ORGANIZATION.into(),
            delivery_id: found.remove(0).delivery_id,
            view: v1::DeliveryView::Full.into(),
        };
        client.get_delivery(request).await.unwrap().into_inner().delivery.unwrap()
    }

    /// All replays, the latest first.
    pub async fn replays(&self) -> Vec<v1::Replay> {
        let request = v1::ListReplaysRequest {
            organization_id: ORGANIZATION.into(),
            ..v1::ListReplaysRequest::default()
        };
        let mut client = DeliveryAdminClient::new(self.channel.clone());
        client.list_replays(request).await.unwrap().into_inner().replays
    }

    /// `kill -9`, and gone.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// `kill -STOP` or `kill -CONT`.
    pub fn send(&self, signal: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
    }

    /// SIGTERM; the exit code.
    pub async fn terminate(mut self) -> Option<i32> {
        self.signal();
        self.ended().await
    }

    /// Waits until it has ended by itself; the exit code.
    pub async fn until_it_ends(mut self) -> Option<i32> {
        self.ended().await
    }

    fn signal(&self) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    }

    async fn ended(&mut self) -> Option<i32> {
        eventually("the process ends", async || self.child.try_wait().unwrap()).await.code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be gone already; then there is nothing to do.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn all_mistakes_of_a_configuration_are_told_at_once_before_anything_is_started() {
    let home = Home::with(&[
        ("listen.grpc", r#""0.0.0.0:8080""#),
        ("store.cache", r#""much""#),
        ("delivery.treads", "3"),
    ]);
    let output = home.command().env("SIGNALPOST_LIMITS_PAYLOAD", "-1").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = said(&output);
    for key in
        ["listen.grpc", "store.cache", "delivery.treads", "delivery.threads", "SIGNALPOST_LIMITS_PAYLOAD"]
    {
        assert!(said.contains(key), "{key}: {said}");
    }
    assert!(said.contains("5 mistakes"), "{said}");
    assert!(!home.store().exists());
}

#[test]
fn a_configuration_file_that_is_not_there_is_named() {
    let mut home = Home::new();
    home.config = "/nowhere/signalpost.toml".into();
    let output = home.fails();
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("/nowhere/signalpost.toml"), "{}", said(&output));
}

#[tokio::test]
async fn a_store_that_another_process_has_open_is_refused_with_a_clear_message() {
    let home = Home::new();
    let process = home.start().await;
    let output = home.fails();
    assert_eq!(output.status.code(), Some(1));
    let said = said(&output);
    assert!(said.contains("another process") && said.contains(home.store().to_str().unwrap()), "{said}");
    assert_eq!(process.terminate().await, Some(0), "the first one is not disturbed");
}

#[tokio::test]
async fn a_store_of_a_newer_version_is_refused_and_left_as_it_is() {
    let home = Home::new();
    assert_eq!(home.start().await.terminate().await, Some(0));
    let schema = |value: Option<u32>| {
        let db = sled::open(home.store()).unwrap();
        if let Some(value) = value {
            db.insert(b"Mschema", &value.to_be_bytes()).unwrap();
        }
        db.flush().unwrap();
        db.get(b"Mschema").unwrap().unwrap().to_vec()
    };
    schema(Some(77));
    let output = home.fails();
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("newer version") && said(&output).contains("77"), "{}", said(&output));
    assert_eq!(schema(None), 77_u32.to_be_bytes());
}

#[test]
fn a_store_that_cannot_be_written_is_refused_with_a_clear_message() {
    let home = Home::new();
    std::fs::create_dir(home.store()).unwrap();
    let mut permissions = std::fs::metadata(home.store()).unwrap().permissions();
    permissions.set_readonly(true);
    std::fs::set_permissions(home.store(), permissions).unwrap();
    // Root may write everywhere, and then there is nothing to refuse.
    if File::create(home.store().join("probe")).is_err() {
        let output = home.fails();
        assert_eq!(output.status.code(), Some(2));
        for part in ["store.path", home.store().to_str().unwrap(), "give another folder"] {
            assert!(said(&output).contains(part), "{part}: {}", said(&output));
        }
    }
}

#[test]
fn a_damaged_store_is_refused_with_a_message_and_not_with_a_panic() {
    let home = Home::new();
    std::fs::create_dir(home.store()).unwrap();
    std::fs::write(home.store().join("conf"), "no configuration of sled").unwrap();
    std::fs::write(home.store().join("db"), vec![0xa5; 100_000]).unwrap();
    let output = home.fails();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains(home.store().to_str().unwrap()), "{}", said(&output));
}

#[tokio::test]
async fn a_stopped_store_is_looked_through_and_damage_is_named() {
    let home = Home::new();
    let process = home.start().await;
    process.emit(event("auth.success")).await;
    let check = || home.run(&["check", "--config", home.config.to_str().unwrap()], &[]);
    let refused = check();
    assert_eq!(refused.status.code(), Some(1));
    assert!(said(&refused).contains("in use by another process"), "{}", said(&refused));
    assert_eq!(process.terminate().await, Some(0));

    let output = check();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{text} {}", said(&output));
    assert!(text.contains("1 events") && text.contains("No problem was found"), "{text}");

    let db = sled::open(home.store()).unwrap();
    let (key, mut value) = db.scan_prefix(b"E").next().unwrap().unwrap();
    *value.last_mut().unwrap() ^= 1;
    db.insert(key, value).unwrap();
    drop(db);
    let output = check();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text} {}", said(&output));
    assert!(text.contains("its checksum is wrong") && text.contains("1 problem was found"), "{text}");
}

#[test]
fn a_port_that_is_taken_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let home = Home::with(&[("listen.grpc", &format!("{address:?}"))]);
    let output = home.fails();
    assert_eq!(output.status.code(), Some(1));
    let said = said(&output);
    assert!(said.contains("listen.grpc") && said.contains(&address), "{said}");
}

#[tokio::test]
async fn sigterm_finishes_what_is_under_way_and_exits_with_success() {
    let (home, receiver) = (Home::new(), Receiver::start().await);
    let process = home.start().await;
    process.create(destination(Contract::Observer).url(receiver.url("/hook"))).await;
    receiver.always_answers("/hook", Answer::from(StatusCode::OK).after(Duration::from_millis(300)));
    let event_id = process.emit(event("agent.offline")).await.event_id;
    receiver.first("/hook").await;
    assert_eq!(process.terminate().await, Some(0));
    let process = home.start().await;
    let sent = process.emit(event("agent.offline")).await.event_id;
    let requests = receiver.wait_for("/hook", 2).await;
    let ids: Vec<&str> = requests.iter().map(|one| header(one, "signalpost-event-id")).collect();
    assert_eq!(ids, [event_id, sent], "the outcome was recorded, so nothing is sent twice");
    assert_eq!(process.terminate().await, Some(0));
}

#[tokio::test]
async fn a_second_signal_ends_the_process_quickly_and_what_was_under_way_is_not_counted() {
    let (home, receiver) = (Home::new(), Receiver::start().await);
    let mut process = home.start().await;
    process.create(destination(Contract::Observer).url(receiver.url("/hook"))).await;
    receiver.will_answer("/hook", [Answer::from(StatusCode::OK).after(Duration::from_secs(3600))]);
    let event_id = process.emit(event("agent.offline")).await.event_id;
    receiver.first("/hook").await;
    process.signal();
    // The first one waits for the attempt; its timeout alone is longer than what is asserted below.
    tokio::time::timeout(Duration::from_millis(300), process.ended()).await.unwrap_err();
    let begun = std::time::Instant::now();
    process.signal();
    process.ended().await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    drop(process);
    let process = home.start().await;
    let requests = receiver.wait_for("/hook", 2).await;
    let again = requests.last().unwrap();
    assert_eq!(header(again, "signalpost-event-id"), event_id);
    assert_eq!(header(again, "signalpost-attempt"), "1", "the unfinished attempt is not counted");
    assert_eq!(process.terminate().await, Some(0));
}

#[tokio::test]
async fn no_acknowledged_delivery_is_missing_after_kills_at_any_moment() {
    let (home, seed) = (Home::new(), fastrand::u64(..1_000_000).to_string());
    // The same by hand, and for longer: `signalpost bench crash --rounds 300`.
    let output = home.call(&["bench", "crash", "--rounds", "10", "--seed", &seed, "--json"], &[]).await;
    assert_eq!(output.status.code(), Some(0), "seed {seed}: {}", said(&output));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    println!("{report:#}");
    let outcome = &report["outcome"];
    assert_eq!((&report["killed_under_load"], &outcome["missing"]), (&10.into(), &0.into()), "seed {seed}");
    assert!(outcome["acknowledged"].as_u64().unwrap() > 100, "seed {seed}: {report:#}");
    assert_eq!(report["inspections"], 11, "seed {seed}");
}

#[test]
fn help_and_version_are_answers_and_unknown_commands_are_mistakes() {
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_signalpost"));
        command.env_clear().current_dir(Path::new("/")).args(arguments).output().unwrap()
    };
    assert_eq!(run(&["--help"]).status.code(), Some(0));
    let version = run(&["--version"]);
    assert!(String::from_utf8_lossy(&version.stdout).contains(env!("CARGO_PKG_VERSION")));
    assert_eq!(run(&["sevre"]).status.code(), Some(2));
}

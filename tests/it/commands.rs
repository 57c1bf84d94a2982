//! The operators' commands, by the real binary against a real server: what they say, and their exit codes.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Output, Stdio};

use http::StatusCode;
use serde_json::Value;
use signalpost::domain::contract::Contract;
use tokio::sync::mpsc;

use crate::binary::{Home, Process, said};
use crate::harness::{
    Authority, DestinationDraft, ORGANIZATION, PATIENCE, Receiver, TlsFolder, destination, event, eventually,
};

pub fn shown(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a command against a server, for the tests' organization.
pub async fn call(home: &Home, process: &Process, arguments: &[&str]) -> Output {
    let variables = [("SIGNALPOST_SERVER", process.url.as_str()), ("SIGNALPOST_ORGANIZATION", ORGANIZATION)];
    home.call(arguments, &variables).await
}

pub async fn succeeds(home: &Home, process: &Process, arguments: &[&str]) -> String {
    let output = call(home, process, arguments).await;
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", said(&output));
    shown(&output)
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// One attempt, then a dead letter.
fn fragile(receiver: &Receiver, path: &str) -> DestinationDraft {
    destination(Contract::Observer).url(receiver.url(path)).one_attempt().name("fragile")
}

#[test]
fn a_server_that_is_not_there_is_told_with_its_address_what_was_tried_and_what_helps() {
    let home = Home::new();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let server = format!("http://127.0.0.1:{port}");
    for command in [&["health"][..], &["explain", "evt", "-O", "acme"], &["tail", "-O", "acme"]] {
        let output = home.run(&[command, &["--server", &server]].concat(), &[]);
        assert_eq!(output.status.code(), Some(3), "{command:?}");
        let said = said(&output);
        for part in [server.as_str(), &format!("tried: 127.0.0.1:{port}"), "signalpost serve", "--server"] {
            assert!(said.contains(part), "{part}: {said}");
        }
    }
    let nameless = home.run(&["health", "--server", "http://nowhere.invalid:1"], &[]);
    assert_eq!(nameless.status.code(), Some(3));
    assert!(said(&nameless).contains("nowhere.invalid"), "{}", said(&nameless));
}

#[test]
fn a_wrong_flag_file_or_value_is_told_with_what_would_be_right_and_exit_code_2() {
    let home = Home::new();
    for (arguments, part) in [
        (&["health", "--server", "127.0.0.1:8080"][..], "http://HOST:PORT"),
        (&["health", "--timeout", "soon"], "30s"),
        (&["health", "--token-file", "/nowhere/token"], "/nowhere/token"),
        (&["health", "--ca", "/nowhere/ca.pem", "--server", "https://localhost:1"], "/nowhere/ca.pem"),
        (&["explain", "evt"], "--organization <ID>"),
        (&["explain", "evt"], "-O or --organization, or for all commands with SIGNALPOST_ORGANIZATION=…"),
        (&["tail", "-O", "acme", "--state", "lost"], "dead-lettered"),
        (&["tail", "-O", "acme", "--since", "yesterday"], "2h"),
        (&["dead-letters", "replay", "-O", "acme"], "--all"),
        (&["import", "/nowhere/file", "-O", "acme"], "/nowhere/file"),
        (&["emit", "kpi.alert", "-O", "acme", "--data", "@/nowhere/data"], "/nowhere/data"),
    ] {
        let output = home.run(arguments, &[]);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", said(&output));
        assert!(said(&output).contains(part), "{arguments:?}: {}", said(&output));
    }
}

#[tokio::test]
async fn health_tells_each_service_and_waits_where_asked_to() {
    let home = Home::new();
    let process = home.start().await;
    let text = succeeds(&home, &process, &["health", "--wait", "10s"]).await;
    assert!(text.contains("signalpost.readiness") && text.contains("serving"), "{text}");
    assert!(!text.contains('\u{1b}'), "no colours where there is no terminal: {text:?}");
    let json = lines(&succeeds(&home, &process, &["health", "readiness", "-o", "json"]).await);
    assert_eq!(json, [serde_json::json!({"service": "signalpost.readiness", "status": "SERVING"})]);
    assert_eq!(succeeds(&home, &process, &["health", "-q"]).await, "");
    let unknown = call(&home, &process, &["health", "nonsense"]).await;
    assert_eq!(unknown.status.code(), Some(1));
}

#[tokio::test]
async fn an_event_is_emitted_and_explained_with_verdicts_and_reasons() {
    let (home, receiver) = (Home::new(), Receiver::start().await);
    let process = home.start().await;
    process.create(destination(Contract::Observer).url(receiver.url("/hook")).name("wants")).await;
    let other = destination(Contract::Observer).url(receiver.url("/other")).name("wants not");
    process.create(other.include(&["agent.offline"])).await;
    let emit = ["emit", "metric.no_data", "--id", "evt-1", "--data", r#"{"a":1}"#];
    assert!(succeeds(&home, &process, &emit).await.contains("evt-1 is accepted, for 1 destination\n"));
    assert!(succeeds(&home, &process, &emit).await.contains("accepted before"));
    receiver.first("/hook").await;
    eventually("the outcome is on record", async || {
        let text = succeeds(&home, &process, &["explain", "evt-1"]).await;
        let has = |parts: &[&str]| text.lines().any(|line| parts.iter().all(|part| line.contains(part)));
        (has(&["wants", "succeeded", "200"]) && has(&["wants not", "not-subscribed"])).then_some(())
    })
    .await;
    let json = lines(&succeeds(&home, &process, &["explain", "evt-1", "-o", "json"]).await);
    assert_eq!(json[0]["explanations"].as_array().unwrap().len(), 2);
    let unknown = call(&home, &process, &["explain", "evt-2"]).await;
    assert_eq!(unknown.status.code(), Some(1));
    assert!(said(&unknown).contains("EVENT_NOT_FOUND"), "{}", said(&unknown));
    let refused = call(&home, &process, &["emit", "no spaces", "--id", "no.dots"]).await;
    assert_eq!(refused.status.code(), Some(2));
    assert!(said(&refused).contains("event.type") && said(&refused).contains("event.event_id"));
}

/// A command that goes on, whose lines are read as they come.
struct Running(Child, mpsc::Receiver<String>);

impl Running {
    fn start(arguments: &[&str], server: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_signalpost"));
        command.env_clear().args(arguments).args(["-O", ORGANIZATION, "--server", server]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let (stdout, (sender, lines)) = (child.stdout.take().unwrap(), mpsc::channel(100));
        std::thread::spawn(move || {
            let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
            lines.all(|line| sender.blocking_send(line).is_ok())
        });
        Self(child, lines)
    }

    async fn line(&mut self) -> String {
        tokio::time::timeout(PATIENCE, self.1.recv()).await.unwrap().unwrap()
    }

    async fn interrupt(mut self) -> Option<i32> {
        let id = self.0.id().to_string();
        assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
        eventually("the command ends", async || self.0.try_wait().unwrap()).await.code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may be gone already; then there is nothing to do.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[tokio::test]
async fn a_tail_shows_changes_and_goes_on_behind_its_cursor_over_a_restart() {
    let receiver = Receiver::start().await;
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let home = Home::with(&[("listen.grpc", &format!("{:?}", port.to_string()))]);
    let process = home.start().await;
    process.create(destination(Contract::Observer).url(receiver.url("/hook")).name("hook")).await;
    let url = process.url.clone();
    let mut people = Running::start(&["tail"], &url);
    let mut json = Running::start(&["tail", "-o", "json", "--state", "succeeded"], &url);
    // Whoever watches from now on may come after the first events, and one of the two after the other.
    let (mut shown, mut first) = (None, None);
    eventually("both have seen an event", async || {
        process.emit(event("metric.no_data")).await;
        shown = shown.take().or_else(|| people.1.try_recv().ok());
        first = first.take().or_else(|| json.1.try_recv().ok());
        (shown.is_some() && first.is_some()).then_some(())
    })
    .await;
    let (shown, first) = (shown.unwrap(), first.unwrap());
    assert!(shown.contains("metric.no_data") && shown.contains("→ hook"), "{shown}");
    let first: Value = serde_json::from_str(&first).unwrap();
    assert_eq!(first["delivery"]["state"], "DELIVERY_STATE_SUCCEEDED");
    assert_eq!(process.terminate().await, Some(0));
    let process = home.start().await;
    let id = process.emit(event("metric.no_data").id("after-the-restart")).await.event_id;
    loop {
        let line: Value = serde_json::from_str(&json.line().await).unwrap();
        if line["delivery"]["eventId"] == id.as_str() {
            break;
        }
    }
    assert_eq!(people.interrupt().await, Some(0));
    assert_eq!(json.interrupt().await, Some(0));
}

#[tokio::test]
async fn dead_letters_are_listed_counted_replayed_and_deleted() {
    let (home, receiver) = (Home::new(), Receiver::start().await);
    let process = home.start().await;
    receiver.always_answers("/hook", StatusCode::INTERNAL_SERVER_ERROR);
    process.create(fragile(&receiver, "/hook")).await;
    for number in 0..3 {
        process.emit(event("metric.no_data").id(&format!("dead-{number}"))).await;
    }
    let listed = eventually("three dead letters", async || {
        let json = lines(&succeeds(&home, &process, &["dead-letters", "list", "-o", "json"]).await);
        (json.len() == 3).then_some(json)
    })
    .await;
    let text = succeeds(&home, &process, &["dead-letters", "list", "--event", "dead-1"]).await;
    assert!(text.contains("dead-1") && !text.contains("dead-2"), "{text}");
    assert!(text.contains("attempts-exhausted"), "{text}");

    let dry = succeeds(&home, &process, &["dead-letters", "replay", "--all", "--dry-run"]).await;
    assert_eq!(dry, "Would replay 3 dead letters.\n");
    receiver.recovers("/hook");
    let one = listed[0]["deliveryId"].as_str().unwrap();
    assert!(succeeds(&home, &process, &["dead-letters", "replay", one]).await.contains("waits again"));
    let done = succeeds(&home, &process, &["dead-letters", "replay", "--event", "dead-0", "--wait"]).await;
    assert!(done.contains("completed: 1 of 1 put back"), "{done}");

    let left = call(&home, &process, &["dead-letters", "delete", "--all"]).await;
    assert_eq!(left.status.code(), Some(2));
    assert!(said(&left).contains("--yes") && shown(&left).contains("Would delete"), "{}", said(&left));
    let gone = succeeds(&home, &process, &["dead-letters", "delete", "--all", "--yes"]).await;
    assert!(gone.contains("Deleted 1 dead letters"), "{gone}");
    assert_eq!(succeeds(&home, &process, &["dead-letters", "list"]).await, "No dead letters.\n");
}

#[tokio::test]
async fn ctrl_c_cancels_a_replay_and_what_was_not_put_back_stays_a_dead_letter() {
    let home = Home::with(&[("delivery.circuit_opens_after", "1000")]);
    let receiver = Receiver::start().await;
    let process = home.start().await;
    receiver.always_answers("/hook", StatusCode::INTERNAL_SERVER_ERROR);
    process.create(fragile(&receiver, "/hook")).await;
    for _ in 0..200 {
        process.emit(event("metric.no_data")).await;
    }
    let count = async || {
        let dry = ["dead-letters", "replay", "--all", "--dry-run", "-o", "json"];
        let json = lines(&succeeds(&home, &process, &dry).await);
        json[0]["totalCount"].as_str().unwrap_or("0").parse::<u64>().unwrap()
    };
    eventually("all are dead letters", async || (count().await == 200).then_some(())).await;
    let running =
        Running::start(&["dead-letters", "replay", "--all", "--rate", "1", "-o", "json"], &process.url);
    let list = async || process.replays().await;
    eventually("the replay runs", async || (!list().await.is_empty()).then_some(())).await;
    assert_eq!(running.interrupt().await, Some(130));
    let replay = list().await.remove(0);
    assert_eq!(replay.state(), signalpost::grpc::proto::v1::ReplayState::Cancelled);
    assert!(count().await > 100);
}

#[tokio::test]
async fn destinations_are_exported_without_secrets_and_imported_all_or_none() {
    let (home, receiver) = (Home::new(), Receiver::start().await);
    let process = home.start().await;
    let draft = destination(Contract::Observer).url(receiver.url("/hook")).name("first").secret("planted-1");
    let made = process.create(draft.header("X-Key", "planted-2")).await;
    process.create(destination(Contract::Workspace).url(receiver.url("/two")).name("second")).await;
    let exported = succeeds(&home, &process, &["export"]).await;
    assert_eq!(exported.lines().count(), 2);
    assert!(!exported.contains("planted"), "{exported}");
    let file = home.path("destinations.jsonl");
    std::fs::write(&file, &exported).unwrap();
    let file = file.to_str().unwrap();

    let open = call(&home, &process, &["import", file, "-O", "copy"]).await;
    assert_eq!(open.status.code(), Some(2));
    for part in ["line 1", "signing_secret", "headers.x-key", "--secrets"] {
        assert!(said(&open).contains(part), "{part}: {}", said(&open));
    }
    let secrets = home.path("secrets.json");
    let id = &made.destination_id;
    let text = serde_json::json!({id: {"signing_secret": "planted-3", "headers.x-key": "planted-4"}});
    std::fs::write(&secrets, text.to_string()).unwrap();
    let secrets = ["--secrets", secrets.to_str().unwrap()];

    let broken = home.path("broken.jsonl");
    let wrong = exported.replace("/two", "/two#fragment").replacen("{", "{\"urll\":1,", 0);
    std::fs::write(&broken, wrong).unwrap();
    let refused =
        call(&home, &process, &[&["import", broken.to_str().unwrap(), "-O", "copy"], &secrets[..]].concat())
            .await;
    assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
    assert!(said(&refused).contains("line 2 (second)") && said(&refused).contains("destination.url"));
    assert_eq!(succeeds(&home, &process, &["export", "-O", "copy"]).await, "", "nothing was created");

    let done = succeeds(&home, &process, &[&["import", file, "-O", "copy"], &secrets[..]].concat()).await;
    assert_eq!(done.lines().count(), 2);
    let again = succeeds(&home, &process, &["export", "-O", "copy"]).await;
    let without_ids = |text: &str| {
        let mut all: Vec<Value> = lines(text);
        all.iter_mut().for_each(|one| drop(one.as_object_mut().unwrap().remove("destinationId")));
        all.sort_by_key(|one| one["displayName"].as_str().unwrap().to_owned());
        all
    };
    assert_eq!(without_ids(&again), without_ids(&exported));
}

/// A command at a terminal, which is typed into as soon as it asks.
struct Terminal(Child);

impl Terminal {
    /// `script` makes the terminal.
    fn start(home: &Home, variables: &[(&str, &str)], arguments: &[&str]) -> Self {
        let line = format!("{} {}", env!("CARGO_BIN_EXE_signalpost"), arguments.join(" "));
        let mut command = Command::new("script");
        command.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
        command.env_clear().envs(variables.iter().copied()).current_dir(home.path(""));
        Self(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap())
    }

    /// Waits for each question, and answers it; all that was shown, and the exit code.
    fn answer(mut self, answers: &[(&str, &str)]) -> (String, Option<i32>) {
        let (mut shown, mut stdin) = (Vec::new(), self.0.stdin.take().unwrap());
        let mut stdout = self.0.stdout.take().unwrap();
        for (question, answer) in answers {
            let mut byte = [0];
            while !String::from_utf8_lossy(&shown).ends_with(question) {
                let count = stdout.read(&mut byte).unwrap();
                assert!(count > 0, "{question} was never asked: {}", String::from_utf8_lossy(&shown));
                shown.extend(byte);
            }
            writeln!(stdin, "{answer}").unwrap();
        }
        stdout.read_to_end(&mut shown).unwrap();
        let code = self.0.wait().unwrap().code();
        (String::from_utf8_lossy(&shown).into_owned(), code)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may be gone already; then there is nothing to do.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[tokio::test]
async fn an_import_at_a_terminal_asks_for_the_secrets_that_the_export_does_not_have() {
    let (home, receiver) = (Home::new(), Receiver::start().await);
    let process = home.start().await;
    let draft = destination(Contract::Observer).url(receiver.url("/hook")).name("first").secret("planted-1");
    process.create(draft.header("X-Key", "planted-2")).await;
    let exported = succeeds(&home, &process, &["export"]).await;
    std::fs::write(home.path("destinations.jsonl"), format!("{exported}{{\n")).unwrap();
    let variables = [("SIGNALPOST_SERVER", process.url.as_str()), ("SIGNALPOST_ORGANIZATION", "copy")];
    let import = async |answers: &'static [(&str, &str)]| {
        let terminal = Terminal::start(&home, &variables, &["import", "destinations.jsonl"]);
        tokio::task::spawn_blocking(move || terminal.answer(answers)).await.unwrap()
    };
    let (shown, code) = import(&[]).await;
    assert_eq!(code, Some(2), "{shown}");
    assert!(
        shown.contains("line 2: ") && !shown.contains("type them"),
        "a broken file asks nothing: {shown}"
    );
    std::fs::write(home.path("destinations.jsonl"), &exported).unwrap();
    let (shown, code) = import(&[("signing_secret: ", "planted-3"), ("headers.x-key: ", "")]).await;
    assert_eq!(code, Some(2), "{shown}");
    assert!(shown.contains("headers.x-key has no value") && !shown.contains("signing_secret has"), "{shown}");
    assert_eq!(succeeds(&home, &process, &["export", "-O", "copy"]).await, "", "nothing was created");
    let (shown, code) = import(&[("signing_secret: ", "planted-3"), ("headers.x-key: ", "planted-4")]).await;
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.contains("line 1 (first): created as"), "{shown}");
    process.emit_in("copy", event("metric.no_data")).await;
    let got = receiver.first("/hook").await;
    assert_eq!(crate::harness::header(&got, "x-key"), "planted-4");
}

#[tokio::test]
async fn tls_and_tokens_are_given_by_files_and_what_is_missing_is_said() {
    let authority = Authority::new();
    let tls = TlsFolder::new(&authority.sign(&["localhost"]), &authority.pem);
    let mut tokens = crate::harness::TokenFile::new();
    let token = tokens.add("operations", &format!("admin@{ORGANIZATION}"));
    let (certificate, key, file) = (tls.setting("certificate.pem"), tls.setting("key.pem"), tokens.setting());
    let server = crate::harness::Server::with(&[
        ("listen.tls_certificate", certificate.as_str()),
        ("listen.tls_key", key.as_str()),
        ("auth.tokens_file", file.as_str()),
    ])
    .await;
    let (home, url) = (Home::new(), format!("https://localhost:{}", server.grpc_address().port()));
    let ca = home.path("ca.pem");
    std::fs::write(&ca, &authority.pem).unwrap();
    let token_file = home.path("token");
    std::fs::write(&token_file, format!("{token}\n")).unwrap();
    let run = async |arguments: &[&str], variables: &[(&str, &str)]| {
        home.call(&[&["dead-letters", "list", "-O", ORGANIZATION], arguments].concat(), variables).await
    };
    let (ca, token_file) = (ca.to_str().unwrap(), token_file.to_str().unwrap());
    let secure = ["--server", url.as_str(), "--ca", ca];
    let done = run(&[&secure[..], &["--token-file", token_file]].concat(), &[]).await;
    assert_eq!(done.status.code(), Some(0), "{}", said(&done));
    let done = run(&secure, &[("SIGNALPOST_TOKEN", token.as_str())]).await;
    assert_eq!(done.status.code(), Some(0), "{}", said(&done));
    let nobody = run(&secure, &[]).await;
    assert_eq!(nobody.status.code(), Some(4));
    assert!(said(&nobody).contains("--token-file"), "{}", said(&nobody));
    let untrusted = run(&["--server", &url], &[]).await;
    assert_eq!(untrusted.status.code(), Some(3));
    assert!(said(&untrusted).contains("--ca"), "{}", said(&untrusted));
    let plain = run(&["--server", &url.replace("https", "http")], &[]).await;
    assert_eq!(plain.status.code(), Some(3));
    assert!(said(&plain).contains("https://"), "{}", said(&plain));
}

#[test]
fn completions_and_manual_pages_know_every_command() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = shown(&home.run(&["completions", shell], &[]));
        assert!(script.contains("dead-letters") && script.contains("explain"), "{shell}");
    }
    let page = shown(&home.run(&["man"], &[]));
    assert!(page.contains(".TH signalpost") && page.contains("Exit codes"), "{page}");
    let folder = home.path("man");
    let output = home.run(&["man", "--folder", folder.to_str().unwrap()], &[]);
    assert_eq!(output.status.code(), Some(0));
    assert!(folder.join("signalpost-dead-letters-replay.1").exists());
}

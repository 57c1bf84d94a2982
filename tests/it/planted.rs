//! A run of the real binary full of planted secrets, at the most talkative log level, and then a search for
//! them in everything that is left of it: log, store files, history, exports, audit log, answers, metrics and
//! exported spans. On the embedded store and its backup, and on a database and its dump.

use std::fs;
use std::path::Path;

use base64::Engine;
use signalpost::auth::token::Token;
use signalpost::domain::contract::Contract;
use signalpost::domain::destination::DestinationUrl;
use signalpost::domain::secret::{Secret, SecretSource};
use signalpost::grpc::proto::v1;
use signalpost::grpc::proto::v1::delivery_admin_client::DeliveryAdminClient;
use signalpost::grpc::proto::v1::destination_admin_client::DestinationAdminClient;
use signalpost::grpc::proto::v1::event_ingest_client::EventIngestClient;
use signalpost::grpc::proto::v1::organization_admin_client::OrganizationAdminClient;
use signalpost::grpc::proto::v1::secret_ref::Source;
use signalpost::store::keyring::SealingKey;

use crate::binary::{Home, Process, said};
use crate::harness::{
    Collector, ORGANIZATION, Receiver, Scrape, TokenFile, call_any, database, destination, dump, event,
    eventually, header, naming, with_token,
};

/// Everything that must be found nowhere.
const PLANTED: [&str; 14] = [
    "planted-signing-secret",
    "planted-rotated-secret",
    "planted-updated-secret",
    "planted-basic-password",
    "planted-bearer-token",
    "planted-header-value",
    "planted-replaced-header",
    "planted-environment-secret",
    "planted-file-secret",
    "planted-imported-key",
    "planted-imported-password",
    "planted-imported-header",
    "planted-url-password",
    "planted-refused-token",
];

/// Tokens of receivers in URLs: who may read the destination sees them, and nobody finds them anywhere else.
const PLANTED_IN_URLS: [&str; 3] = ["planted-path-token", "planted-query-token", "planted-moved-token"];

/// The organization whose destinations have such URLs.
const URLS: &str = "org_urls";

fn value(text: &str) -> Option<v1::SecretRef> {
    Some(v1::SecretRef { source: Some(Source::Value(text.into())) })
}

fn basic(password: &str) -> v1::HttpAuth {
    let basic = v1::BasicAuth { username: "account".into(), password: value(password) };
    v1::HttpAuth { method: Some(v1::http_auth::Method::Basic(basic)) }
}

fn bearer(token: &str) -> v1::HttpAuth {
    let bearer = v1::BearerAuth { token: value(token) };
    v1::HttpAuth { method: Some(v1::http_auth::Method::Bearer(bearer)) }
}

/// What base64 makes of the password of Basic authentication.
fn basic_credentials() -> String {
    base64::engine::general_purpose::STANDARD.encode("account:planted-basic-password")
}

fn found_in(what: &str, bytes: &[u8]) {
    let credentials = basic_credentials();
    none_of(PLANTED.iter().copied().chain([credentials.as_str()]), what, bytes);
}

fn none_of<'a>(planted: impl IntoIterator<Item = &'a str>, what: &str, bytes: &[u8]) {
    for planted in planted {
        let is_there = bytes.windows(planted.len()).any(|part| part == planted.as_bytes());
        assert!(!is_there, "{planted} is in {what}");
    }
}

fn search_folder(folder: &Path) -> usize {
    let mut files = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files += search_folder(&path);
        } else {
            nothing_in(&path.display().to_string(), &fs::read(&path).unwrap());
            files += 1;
        }
    }
    files
}

/// All answers of a run, as text and as bytes.
#[derive(Default)]
struct Answers(Vec<String>);

impl Answers {
    fn keep<T: std::fmt::Debug + prost::Message>(
        &mut self,
        answer: Result<tonic::Response<T>, tonic::Status>,
    ) {
        let text = match answer {
            Ok(answer) => {
                let bytes = answer.get_ref().encode_to_vec();
                format!("{answer:?} {}", String::from_utf8_lossy(&bytes))
            }
            Err(status) => format!("{status:?} {}", String::from_utf8_lossy(status.details())),
        };
        self.0.push(text);
    }
}

struct Run<'a> {
    process: &'a Process,
    answers: Answers,
    /// Answers that are about no destination's URL.
    without_urls: Answers,
}

impl Run<'_> {
    fn destinations(&self) -> DestinationAdminClient<tonic::transport::Channel> {
        DestinationAdminClient::new(self.process.channel.clone())
    }

    /// All that is done with secrets, and all that can be read of it.
    async fn everything(&mut self, receiver: &Receiver, file: &str) {
        let id = self.create_all(receiver, file).await;
        let imported = self.import(receiver).await;
        self.process.emit(event("auth.success").id("evt").data(r#"{"a":1}"#)).await;
        // Receivers get what they are to have.
        let credentials = basic_credentials();
        for (name, wanted) in [
            ("x-key", "planted-header-value"),
            ("authorization", "planted-bearer-token"),
            ("authorization", credentials.as_str()),
        ] {
            eventually(wanted, async || {
                receiver.got("/hook").iter().any(|one| header(one, name).contains(wanted)).then_some(())
            })
            .await;
        }
        self.change(&id).await;
        self.read_when_settled(&imported).await;
        self.plant_urls(receiver).await;
        self.read_urls().await;
    }

    async fn create(&mut self, draft: v1::Destination) -> Option<String> {
        let request = v1::CreateDestinationRequest {
            organization_id: ORGANIZATION.into(),
            destination: Some(draft),
            validate_only: false,
        };
        let created = self.destinations().create_destination(request).await;
        let id = created.as_ref().ok().and_then(|one| one.get_ref().destination.as_ref());
        let id = id.map(|one| one.destination_id.clone());
        self.answers.keep(created);
        id
    }

    /// Destinations with secrets of every kind and from every source.
    async fn create_all(&mut self, receiver: &Receiver, file: &str) -> String {
        let draft = || destination(Contract::Stalwart).url(receiver.url("/hook")).one_attempt();
        let full = draft().secret("planted-signing-secret").header("X-Key", "planted-header-value");
        let full = full.with(|one| one.http_auth = Some(basic("planted-basic-password")));
        let id = self.create(full.0).await.unwrap();
        let token = draft().with(|one| one.http_auth = Some(bearer("planted-bearer-token")));
        self.create(token.0).await.unwrap();
        let variable = draft().secret_from(Source::EnvironmentVariable("PLANTED".into()));
        self.create(variable.0).await.unwrap();
        self.create(draft().secret_from(Source::File(file.into())).0).await.unwrap();
        for refused in [
            draft().url("https://account:planted-url-password@example.com/"),
            draft().with(|one| one.http_auth = Some(bearer("planted-refused-token\n"))),
            draft().header("X-Key", "planted-header-value\u{7f}"),
            draft().header("Host", "planted-header-value"),
        ] {
            assert_eq!(self.create(refused.0).await, None);
        }
        id
    }

    async fn import(&mut self, receiver: &Receiver) -> String {
        let object = format!(
            r#"{{"url": {:?}, "signatureKey": {{"@type": "Value", "secret": "planted-imported-key"}},
            "httpHeaders": {{"X-My-Header": "planted-imported-header"}}, "httpAuth": {{"@type": "Basic",
            "username": "account", "secret": {{"@type": "Value", "secret": "planted-imported-password"}}}}}}"#,
            receiver.url("/hook")
        );
        for broken in [
            object.replace("\"Basic\"", "\"planted-imported-key\""),
            object.replace("\"httpHeaders\"", "\"planted-imported-header\""),
            object.replace("}}", "planted-imported-password"),
        ] {
            let refused = self.destinations().import_destination(import_of(&broken)).await;
            // What is no object of Stalwart may be repeated as the name of what is wrong; values may not.
            drop(refused.unwrap_err());
        }
        let imported = self.destinations().import_destination(import_of(&object)).await;
        let id = imported.as_ref().unwrap().get_ref().destination.clone().unwrap().destination_id;
        self.answers.keep(imported);
        id
    }

    async fn change(&mut self, id: &str) {
        let organization_id = ORGANIZATION.to_owned();
        let get = v1::GetDestinationRequest { organization_id, destination_id: id.into() };
        let present = self.destinations().get_destination(get).await.unwrap().into_inner();
        let draft = crate::harness::DestinationDraft(present.destination.unwrap());
        let draft = draft.with(|one| one.headers.clear()).header("X-Key", "planted-replaced-header");
        let draft = draft.secret("planted-updated-secret");
        let paths = vec!["headers".into(), "signing_secret".into()];
        let request = v1::UpdateDestinationRequest {
            organization_id: ORGANIZATION.into(),
            destination: Some(draft.0),
            update_mask: Some(prost_types::FieldMask { paths }),
            validate_only: false,
        };
        let updated = self.destinations().update_destination(request).await;
        updated.as_ref().unwrap();
        self.answers.keep(updated);
        let rotate = v1::RotateSecretRequest {
            organization_id: ORGANIZATION.into(),
            destination_id: id.into(),
            new_secret: value("planted-rotated-secret"),
            ..v1::RotateSecretRequest::default()
        };
        let rotated = self.destinations().rotate_secret(rotate).await;
        rotated.as_ref().unwrap();
        self.answers.keep(rotated);
        let test = v1::TestDestinationRequest {
            organization_id: ORGANIZATION.into(),
            subject: Some(v1::test_destination_request::Subject::DestinationId(id.into())),
            ..v1::TestDestinationRequest::default()
        };
        let tested = self.destinations().test_destination(test).await;
        self.answers.keep(tested);
    }

    fn destination_in_urls(&self, url: &str) -> v1::CreateDestinationRequest {
        let draft = destination(Contract::Stalwart).url(url).one_attempt();
        v1::CreateDestinationRequest {
            organization_id: URLS.into(),
            destination: Some(draft.0),
            validate_only: false,
        }
    }

    /// Destinations with tokens in their URLs: one that works and moves, and some that fail in every way.
    async fn plant_urls(&mut self, receiver: &Receiver) {
        receiver.echoes("/url/planted-path-token");
        let works = receiver.url("/url/planted-path-token?key=planted-query-token");
        for url in [
            works.as_str(),
            "https://127.0.0.1:1/planted-path-token",
            "https://nowhere.invalid/planted-path-token?key=planted-query-token",
        ] {
            self.destinations().create_destination(self.destination_in_urls(url)).await.unwrap();
        }
        for refused in [
            "https://10.0.0.1/planted-path-token",
            "http://example.com/planted-path-token",
            "https://exa mple.com/planted-path-token",
            "https://[::/planted-path-token",
            "https://example.com/planted-path-token#planted-query-token",
        ] {
            let refused = self.destinations().create_destination(self.destination_in_urls(refused)).await;
            assert!(refused.is_err());
            self.without_urls.keep(refused);
        }
        let list = v1::ListDestinationsRequest { organization_id: URLS.into(), ..Default::default() };
        let listed = self.destinations().list_destinations(list).await.unwrap().into_inner().destinations;
        let mut moving =
            listed.into_iter().find(|one| one.url == works).expect("whoever may read it sees it");
        let mut events = EventIngestClient::new(self.process.channel.clone());
        let emit = |id: &str| v1::EmitRequest {
            organization_id: URLS.into(),
            event: Some(event("auth.success").id(id).data(r#"{"a":1}"#).0),
        };
        let mut traced = tonic::Request::new(emit("first"));
        let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        traced.metadata_mut().insert("traceparent", traceparent.parse().unwrap());
        events.emit(traced).await.unwrap();
        receiver.wait_for("/url/planted-path-token", 1).await;
        moving.url = receiver.url("/url/planted-moved-token");
        let request = v1::UpdateDestinationRequest {
            organization_id: URLS.into(),
            destination: Some(moving),
            update_mask: Some(prost_types::FieldMask { paths: vec!["url".into()] }),
            validate_only: false,
        };
        self.destinations().update_destination(request).await.unwrap();
        events.emit(emit("second")).await.unwrap();
        receiver.wait_for("/url/planted-moved-token", 1).await;
    }

    /// What is told of their deliveries, and who changed what.
    async fn read_urls(&mut self) {
        let mut deliveries = DeliveryAdminClient::new(self.process.channel.clone());
        let list = v1::ListDeliveriesRequest { organization_id: URLS.into(), ..Default::default() };
        let ids = eventually("all attempts are on record", async || {
            let listed = deliveries.list_deliveries(list.clone()).await.unwrap().into_inner().deliveries;
            let all = listed.len() == 6 && listed.iter().all(|one| one.attempt_count > 0);
            all.then(|| listed.into_iter().map(|one| one.delivery_id).collect::<Vec<_>>())
        })
        .await;
        for delivery_id in ids {
            let view = v1::DeliveryView::Full.into();
            let get = v1::GetDeliveryRequest { organization_id: URLS.into(), delivery_id, view };
            self.without_urls.keep(deliveries.get_delivery(get).await);
        }
        let is_kept = self.without_urls.0.iter().any(|answer| answer.contains("you sent POST [secret]; "));
        assert!(is_kept, "the answer is on record, without the target that it repeats");
        let explain = v1::ExplainEventRequest {
            organization_id: URLS.into(),
            event_id: "first".into(),
            ..v1::ExplainEventRequest::default()
        };
        self.without_urls.keep(deliveries.explain_event(explain).await);
        let mut organizations = OrganizationAdminClient::new(self.process.channel.clone());
        let audit = v1::ListAuditEntriesRequest { organization_id: URLS.into(), ..Default::default() };
        let audited = organizations.list_audit_entries(audit).await.unwrap();
        let moved = audited.get_ref().audit_entries.iter().find(|entry| entry.changed_fields == ["url"]);
        assert!(format!("{moved:?}").contains("/…"), "that it moved is on the record: {moved:?}");
        self.without_urls.keep(Ok(audited));
    }

    /// Waits until every delivery has its attempt on record, and reads everything then.
    async fn read_when_settled(&mut self, imported: &str) {
        let deliveries = DeliveryAdminClient::new(self.process.channel.clone());
        let list = v1::ListDeliveriesRequest { organization_id: ORGANIZATION.into(), ..Default::default() };
        eventually("all attempts are on record", async || {
            let listed = deliveries.clone().list_deliveries(list.clone()).await.unwrap().into_inner();
            listed.deliveries.iter().all(|one| one.attempt_count > 0).then_some(())
        })
        .await;
        self.read(imported).await;
    }

    /// Reads everything that can be read.
    async fn read(&mut self, imported: &str) {
        let organization_id = || ORGANIZATION.to_owned();
        let list = v1::ListDestinationsRequest { organization_id: organization_id(), ..Default::default() };
        let listed = self.destinations().list_destinations(list).await;
        self.answers.keep(listed);
        let export = v1::ExportDestinationRequest {
            organization_id: organization_id(),
            destination_id: imported.into(),
        };
        let exported = self.destinations().export_destination(export).await;
        exported.as_ref().unwrap();
        self.answers.keep(exported);
        let mut deliveries = DeliveryAdminClient::new(self.process.channel.clone());
        let list = v1::ListDeliveriesRequest { organization_id: organization_id(), ..Default::default() };
        let listed = deliveries.list_deliveries(list).await.unwrap();
        let ids: Vec<_> = listed.get_ref().deliveries.iter().map(|one| one.delivery_id.clone()).collect();
        self.answers.keep(Ok(listed));
        for delivery_id in ids {
            let get = v1::GetDeliveryRequest {
                organization_id: organization_id(),
                delivery_id,
                view: v1::DeliveryView::Full.into(),
            };
            let got = deliveries.get_delivery(get).await;
            self.answers.keep(got);
            let last = self.answers.0.last().unwrap();
            assert!(last.contains("you sent"), "the answer is on record: {last}");
        }
        let explain = v1::ExplainEventRequest {
            organization_id: organization_id(),
            event_id: "evt".into(),
            ..v1::ExplainEventRequest::default()
        };
        let explained = deliveries.explain_event(explain).await;
        self.answers.keep(explained);
        let mut organizations = OrganizationAdminClient::new(self.process.channel.clone());
        let audit = v1::ListAuditEntriesRequest { page_size: 1000, ..Default::default() };
        let audited = organizations.list_audit_entries(audit).await;
        assert!(audited.as_ref().unwrap().get_ref().audit_entries.len() > 6);
        self.answers.keep(audited);
    }
}

fn import_of(object: &str) -> v1::ImportDestinationRequest {
    v1::ImportDestinationRequest {
        organization_id: ORGANIZATION.into(),
        json_document: object.as_bytes().to_vec().into(),
        ..v1::ImportDestinationRequest::default()
    }
}

/// What is stored after a run, and what is made of it to be kept elsewhere.
enum Stored {
    Embedded,
    /// In this database, with this key given from outside of it.
    Shared(String, Secret),
}

impl Stored {
    fn home(&self, endpoint: &str, folders: &str) -> Home {
        let mut settings = vec![
            ("log.level", r#""trace""#),
            ("traces.endpoint", endpoint),
            ("secrets.environment", r#"["PLANTED@*"]"#),
            ("secrets.folders", folders),
            ("egress.response_bodies", r#""always""#),
        ];
        let url;
        if let Self::Shared(database, _) = self {
            url = format!("{database:?}");
            settings.push(("store.url", &url));
        }
        Home::with(&settings)
    }

    fn variables(&self) -> Vec<(&str, &str)> {
        let mut variables = vec![("PLANTED", "planted-environment-secret")];
        if let Self::Shared(_, key) = self {
            variables.push(("SIGNALPOST_SEALING_KEYS", key.expose()));
        }
        variables
    }

    /// Beside a server that runs: a backup, and the store that is made of it.
    async fn back_up(&self, home: &Home, process: &Process) {
        if matches!(self, Self::Embedded) {
            let (file, restored) = (home.path("store.backup"), home.path("restored"));
            let (name, folder) = (file.to_str().unwrap(), restored.to_str().unwrap());
            let made = home.call(&["backup", name, "--server", &process.url], &[]).await;
            assert!(made.status.success(), "{}", said(&made));
            let checked = home.call(&["restore", name, folder], &[]).await;
            assert!(checked.status.success(), "{}", said(&checked));
            nothing_in("the backup", &fs::read(&file).unwrap());
            assert!(search_folder(&restored) > 1);
        }
    }

    fn search(&self, home: &Home) {
        match self {
            Self::Embedded => assert!(search_folder(&home.store()) > 3),
            Self::Shared(url, key) => {
                let dump = dump(url);
                assert!(dump.windows(12).any(|part| part == b"auth.success"), "its values are looked into");
                nothing_in("the dump", &dump);
                none_of([key.expose()], "the dump", &dump);
            }
        }
    }
}

fn nothing_in(what: &str, bytes: &[u8]) {
    found_in(what, bytes);
    none_of(PLANTED_IN_URLS, what, bytes);
}

#[tokio::test]
async fn no_planted_secret_is_found_in_anything_that_a_run_leaves() {
    run_and_search(&Stored::Embedded).await;
}

#[tokio::test]
async fn no_planted_secret_is_found_in_a_database_its_dump_or_anything_that_a_run_on_it_leaves() {
    run_and_search(&Stored::Shared(database(), sealing_key())).await;
}

/// A sealing key, as an operator makes one.
fn sealing_key() -> Secret {
    Secret::new(SealingKey::generate().unwrap().to_text().as_str())
}

async fn run_and_search(stored: &Stored) {
    let receiver = Receiver::start().await;
    receiver.echoes("/hook");
    let secrets = tempfile::tempdir().unwrap();
    let file = secrets.path().join("key");
    fs::write(&file, "planted-file-secret\n").unwrap();
    let folders = format!("[\"{}@{ORGANIZATION}\"]", secrets.path().display());
    let collector = Collector::start().await;
    let endpoint = format!("\"http://{}\"", collector.address);
    let home = stored.home(&endpoint, &folders);
    let process = home.start_with(&stored.variables()).await;
    let mut run = Run { process: &process, answers: Answers::default(), without_urls: Answers::default() };
    run.everything(&receiver, file.to_str().unwrap()).await;
    let (answers, without_urls) = (run.answers.0.join("\n"), run.without_urls.0.join("\n"));
    let metrics = Scrape::of(process.metrics.unwrap()).await.text;
    assert!(metrics.contains("signalpost_attempts_total"), "{metrics}");
    stored.back_up(&home, &process).await;
    assert_eq!(process.terminate().await, Some(0));

    found_in("an answer", answers.as_bytes());
    nothing_in("an answer", without_urls.as_bytes());
    nothing_in("the metrics", metrics.as_bytes());
    let spans = collector.taken();
    assert!(spans.windows(15).any(|part| part == b"webhook attempt"), "spans were exported");
    nothing_in("the spans", &spans);
    stored.search(&home);
    let log = fs::read(home.log()).unwrap();
    assert!(String::from_utf8_lossy(&log).contains("TRACE"), "the log says everything");
    nothing_in("the log", &log);
    if let Stored::Shared(_, key) = stored {
        none_of([key.expose()], "the log", &log);
    }
}

#[tokio::test]
async fn no_credential_of_a_caller_is_found_in_what_a_run_leaves() {
    call_and_search(&[]).await;
}

#[tokio::test]
async fn no_credential_of_a_caller_is_found_in_a_database_its_dump_or_what_a_run_on_it_leaves() {
    let url = database();
    let planted = call_and_search(&[("store.url", &format!("{url:?}"))]).await;
    let dump = dump(&url);
    assert!(
        dump.windows(9).any(|part| part == b"anonymous"),
        "denied calls are in it, and its values are looked into"
    );
    none_of(planted.iter().map(String::as_str), "the dump", &dump);
}

/// Calls with credentials of all kinds, and looks for them in all that is left but a database; what was planted.
async fn call_and_search(store: &[(&str, &str)]) -> Vec<String> {
    let mut tokens = TokenFile::new();
    let (admin, viewer) = (tokens.add("admin", "admin@org_test"), tokens.add("viewer", "viewer@org_test"));
    let unknown = Token::generate().unwrap();
    let tokens_file = tokens.setting();
    let settings = [("log.level", r#""trace""#), ("auth.tokens_file", tokens_file.as_str())];
    let home = Home::with(&[&settings, store].concat());
    let process = home.start().await;
    let method = "signalpost.v1.DestinationAdmin/CreateDestination";
    let mut answers = String::new();
    // Good, without the right, unknown, no token at all, a JWT, and one in the wrong place.
    let jwt = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJwbGFudGVkIn0.cGxhbnRlZC1zaWduYXR1cmU";
    for token in [&admin, &viewer, unknown.expose(), "planted-guess", jwt, "two planted-words"] {
        let mut request = with_token(token, naming(ORGANIZATION));
        request.metadata_mut().insert("x-request-id", "req-1".parse().unwrap());
        let refused = call_any(&process.channel, method, request).await.unwrap_err();
        answers += &format!("{refused:?}");
    }
    let metrics = Scrape::of(process.metrics.unwrap()).await.text;
    assert_eq!(process.terminate().await, Some(0));
    let planted =
        [&admin, &viewer, unknown.expose(), "planted-guess", jwt, "planted-words", "cGxhbnRlZC1zaWduYXR1cmU"];
    let log = fs::read(home.log()).unwrap();
    assert!(
        String::from_utf8_lossy(&log).contains("TRACE") && String::from_utf8_lossy(&log).contains("req-1")
    );
    none_of(planted, "the log", &log);
    none_of(planted, "the metrics", metrics.as_bytes());
    none_of(planted, "an answer", answers.as_bytes());
    assert_eq!(home.store().exists(), store.is_empty());
    for entry in fs::read_dir(home.store()).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_file() {
            none_of(planted, &path.display().to_string(), &fs::read(&path).unwrap());
        }
    }
    planted.map(str::to_owned).to_vec()
}

/// What the child of the next test panics with.
const PANICS: &str = "SIGNALPOST_TEST_PANICS";

#[test]
fn no_secret_is_found_in_a_panic_and_its_backtrace() {
    let secret = Secret::new("planted-signing-secret");
    let url = DestinationUrl::parse("https://example.com/planted-path-token", false).unwrap();
    let source = SecretSource::Value(secret.clone());
    if std::env::vars_os().any(|(name, _)| name == PANICS) {
        panic!("{secret:?} {source:?} {url:?} {:?}", Token::generate());
    }
    let this = std::env::current_exe().unwrap();
    let child = std::process::Command::new(this)
        .args(["--exact", "planted::no_secret_is_found_in_a_panic_and_its_backtrace", "--nocapture"])
        .envs([(PANICS, "1"), ("RUST_BACKTRACE", "full")])
        .output()
        .unwrap();
    let said = [child.stdout, child.stderr].concat();
    let text = String::from_utf8_lossy(&said);
    assert!(
        !child.status.success() && text.contains("stack backtrace") && text.contains("example.com"),
        "{text}"
    );
    assert!(!text.contains("spt1_"), "{text}");
    found_in("a panic", &said);
    none_of(PLANTED_IN_URLS, "a panic", &said);
}

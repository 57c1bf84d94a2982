//! Golden requests: what receivers get, byte for byte, in `tests/golden/<contract>/`.
//!
//! Each file is a whole request: request line, headers in alphabetical order, an empty line, and the
//! body without a line feed after it. Only the version of the crate is written as `<version>`.
//! A change there is a change for every receiver. To accept one:
//!
//! ```text
//! SIGNALPOST_BLESS=1 cargo test --lib contract::golden
//! ```
//!
//! The signatures were checked with independent code, Python's `hmac` and the `cryptography` package:
//!
//! ```text
//! python3 tests/golden/verify.py
//! ```

use std::fmt::Write;
use std::path::PathBuf;

use super::fixtures::{self, Setup, event};
use super::{RenderedRequest, TestOrder, test_event};
use crate::domain::contract::{CloudEventsMode, Contract};
use crate::domain::event::Event;
use crate::domain::id::OrganizationId;
use crate::domain::secret::{HttpAuth, Secret, SecretSource};
use crate::domain::time::Timestamp;

/// Another secret for Standard Webhooks, and an Ed25519 one: those of the published vectors.
const OLD_SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const ED25519_SECRET: &str =
    "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==";

#[test]
fn semaphor_requests_are_those_of_the_golden_files() {
    let failed = event(
        "a1b2c3d4-e5f6-7890-abcd-ef1234567890",
        "query_failed",
        r#"{"error_details":{"queryId": "q_1", "ms": 30000.0},"status":"failed","category":"query","component":"query-runner","message":"The query timed out.","actor_type":"org_user","actor_id":"usr_def456","org_user_id":"usr_def456","operation":"execute_query","stage":"run","error_code":"timeout","org_id":"org_other","dashboard":"Größe \"A\""}"#,
    );
    let setup = Setup::new(Contract::Semaphor);
    compare("semaphor/event", &setup.render(&[&failed]).unwrap());
    compare("semaphor/test", &setup.render(&[&test_of(Contract::Semaphor)]).unwrap());
}

#[test]
fn stalwart_requests_are_those_of_the_golden_files() {
    // The object of seed 001's example, and the event of its response.
    let source = SecretSource::Value(Secret::new("password"));
    let auth = HttpAuth::Basic { username: "account".into(), secret: source };
    let setup =
        Setup::new(Contract::Stalwart).with_header("x-my-header", "my-value").with_auth(auth, "password");
    let first = at(event("12345", "auth.success", "{}"), "2023-06-21T14:55:00Z");
    let second = at(
        event("12346", "store.ingest", r#"{ "size": 12345678901234567890, "from": "a@example.com" }"#),
        "2023-06-21T14:55:00.999Z",
    );
    compare("stalwart/event", &setup.render(&[&first]).unwrap());
    compare("stalwart/batch", &setup.render(&[&first, &second]).unwrap());
    compare("stalwart/test", &setup.render(&[&test_of(Contract::Stalwart)]).unwrap());
}

#[test]
fn workspace_requests_are_those_of_the_golden_files() {
    let data = r#"{"jobId":"job_xyz","table":"sales_data","rowsIngested":15234,"duration":3200}"#;
    let mut ingested = at(event("evt_1", "ingestion.completed", data), "2025-01-15T10:30:00Z");
    ingested.organization_id = OrganizationId::parse("tenant_abc123").unwrap();
    let setup = Setup::new(Contract::Workspace);
    compare("workspace/event", &setup.render(&[&ingested]).unwrap());
    compare("workspace/test", &setup.render(&[&test_of(Contract::Workspace)]).unwrap());
}

#[test]
fn observer_requests_are_those_of_the_golden_files() {
    let data = r#"{"sloId":"slo_7","target":99.90,"current":99.85}"#;
    let setup = Setup::new(Contract::Observer);
    compare("observer/event", &setup.render(&[&event("evt_1", "slo.burn_started", data)]).unwrap());
    compare("observer/test", &setup.render(&[&test_of(Contract::Observer)]).unwrap());
}

#[test]
fn standard_webhooks_requests_are_those_of_the_golden_files() {
    let paid = event("msg_p5jXN8AQM9LWM0D4loKWxJek", "invoice.paid", r#"{"invoice":"inv_1","total":10.00}"#);
    let setup = Setup::new(Contract::StandardWebhooks);
    let current = fixtures::signing_secret(Contract::StandardWebhooks);
    compare("standard_webhooks/event", &setup.render(&[&paid]).unwrap());
    compare("standard_webhooks/test", &setup.render(&[&test_of(Contract::StandardWebhooks)]).unwrap());
    let rotating = Setup::new(Contract::StandardWebhooks).with_secrets(&[current, OLD_SECRET]);
    compare("standard_webhooks/rotation", &rotating.render(&[&paid]).unwrap());
    let asymmetric = Setup::new(Contract::StandardWebhooks).with_secrets(&[ED25519_SECRET]);
    compare("standard_webhooks/ed25519", &asymmetric.render(&[&paid]).unwrap());
}

#[test]
fn cloudevents_requests_are_those_of_the_golden_files() {
    let paid = event("evt_1", "com.example.invoice.paid", r#"{"invoice":"inv_1","total":10.00}"#);
    let created = event("evt_2", "com.example.user.created", "{}");
    let unsigned = Setup::new(Contract::CloudEvents).with_secrets(&[]);
    compare("cloudevents/event", &unsigned.render(&[&paid]).unwrap());
    compare("cloudevents/test", &unsigned.render(&[&test_of(Contract::CloudEvents)]).unwrap());
    let mut binary = Setup::new(Contract::CloudEvents).with_mode(CloudEventsMode::Binary);
    binary.policy.cloudevents_source = Some("https://example.com/a \"Größe\" 100%".into());
    compare("cloudevents/binary", &binary.render(&[&paid]).unwrap());
    let batch = Setup::new(Contract::CloudEvents).with_mode(CloudEventsMode::Batch);
    compare("cloudevents/batch", &batch.render(&[&paid, &created]).unwrap());
}

fn at(mut event: Event, moment: &str) -> Event {
    event.occurred_at = Timestamp::parse_rfc3339(moment).unwrap();
    event
}

fn test_of(contract: Contract) -> Event {
    let order = TestOrder {
        organization_id: &fixtures::organization(),
        destination_id: fixtures::destination_id(),
        url: "https://example.com/webhooks",
        actor_id: "usr_def456",
        now: fixtures::moment(),
        draw: 0,
    };
    test_event(contract, order)
}

fn compare(name: &str, request: &RenderedRequest) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{name}.http"));
    let text = text_of(request);
    if blessed() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(golden == text, "{name} changed; it was:\n{golden}\n\nand is now:\n{text}\n");
}

#[expect(clippy::disallowed_methods, reason = "a switch of the test alone")]
fn blessed() -> bool {
    std::env::var("SIGNALPOST_BLESS").is_ok_and(|value| value == "1")
}

fn text_of(request: &RenderedRequest) -> String {
    let mut lines: Vec<_> = request
        .headers()
        .iter()
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
        .collect();
    lines.sort();
    let url = request.url();
    let target = &url[url::Position::BeforePath..];
    let mut text = format!("POST {target} HTTP/1.1\n{}\n\n", lines.join("\n"));
    text = text.replace(concat!("Signalpost/", env!("CARGO_PKG_VERSION")), "Signalpost/<version>");
    write!(text, "{}", std::str::from_utf8(request.body()).unwrap()).unwrap();
    text
}

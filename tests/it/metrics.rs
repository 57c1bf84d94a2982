//! Metrics: what the port says after what happened.

use std::collections::{BTreeMap, BTreeSet};

use http::StatusCode;
use signalpost::domain::contract::Contract;
use signalpost::grpc::proto::v1::DeliveryState;
use tokio::net::TcpStream;

use crate::harness::{Page, Receiver, Server, destination, event, eventually};

const SECRET: &str = "s3cret-of-the-workspace";

#[tokio::test]
async fn what_happens_to_events_calls_and_attempts_is_counted_once_each() {
    let (server, receiver) = (Server::embedded().await, Receiver::start().await);
    let hook = destination(Contract::Workspace).url(receiver.url("/ok")).secret(SECRET);
    server.create(hook.include(&["kpi.alert"])).await;
    let failing = destination(Contract::Workspace).url(receiver.url("/bad")).secret(SECRET).one_attempt();
    server.create(failing.include(&["ingestion.failed"])).await;
    receiver.always_answers("/bad", StatusCode::SERVICE_UNAVAILABLE);

    let good = event("kpi.alert").id("evt-good").data(r#"{"a":1}"#);
    server.emit(good.clone()).await;
    assert!(server.emit(good).await.duplicate);
    server.emit(event("ingestion.failed").id("evt-bad")).await;
    server.try_emit(event("not a type")).await.unwrap_err();
    server.until("evt-good", DeliveryState::Succeeded).await;
    server.until("evt-bad", DeliveryState::DeadLettered).await;

    let scrape = server.scrape().await;
    for (sample, value) in [
        (r#"signalpost_ingest_events_total"#, 2.0),
        (r#"signalpost_ingest_deliveries_total"#, 2.0),
        (r#"signalpost_ingest_bytes_total"#, 9.0),
        (r#"signalpost_ingest_duplicates_total"#, 1.0),
        (r#"signalpost_ingest_refused_total{reason="FIELD_MALFORMED"}"#, 1.0),
        (r#"signalpost_attempts_total{contract="WORKSPACE",outcome="success"}"#, 1.0),
        (r#"signalpost_attempts_total{contract="WORKSPACE",outcome="server_error"}"#, 1.0),
        (r#"signalpost_attempts_total{contract="OBSERVER",outcome="success"}"#, 0.0),
        (r#"signalpost_attempts_by_trigger_total{trigger="routed"}"#, 2.0),
        (r#"signalpost_attempted_deliveries_total{contract="WORKSPACE"}"#, 2.0),
        (r#"signalpost_attempt_duration_seconds_count{contract="WORKSPACE"}"#, 2.0),
        (r#"signalpost_attempts_in_flight"#, 0.0),
        (r#"signalpost_delivery_first_attempt_seconds_count"#, 2.0),
        (r#"signalpost_delivery_success_seconds_count"#, 1.0),
        (r#"signalpost_deliveries_finished_total{state="succeeded"}"#, 1.0),
        (r#"signalpost_deliveries_finished_total{state="dead_lettered"}"#, 1.0),
        (r#"signalpost_deliveries_unsuccessful_total{reason="attempts_exhausted"}"#, 1.0),
        (r#"signalpost_deliveries_waiting"#, 0.0),
        (r#"signalpost_dead_letters"#, 1.0),
        (r#"signalpost_lanes{state="idle"}"#, 2.0),
        (r#"signalpost_circuits{state="closed"}"#, 2.0),
        (r#"signalpost_store_up"#, 1.0),
    ] {
        assert_eq!(scrape.value(sample), value, "{sample}\n{}", scrape.text);
    }
    let call = |method: &str, code: &str| {
        let sample = "signalpost_rpc_calls_total{service=\"signalpost.v1.EventIngest\"";
        scrape.value(&format!("{sample},method=\"{method}\",code=\"{code}\"}}"))
    };
    assert_eq!((call("Emit", "OK"), call("Emit", "INVALID_ARGUMENT")), (3.0, 1.0));
    assert!(scrape.value("signalpost_store_fsync_duration_seconds_count") >= 3.0);
    assert!(scrape.value("signalpost_store_size_bytes") > 0.0);
    assert!(scrape.value("signalpost_store_free_bytes") > scrape.value("signalpost_store_free_limit_bytes"));
    assert!(scrape.value("process_resident_memory_bytes") > 1e6);
    // One, or two where the requests were under way together.
    assert!((1.0..=2.0).contains(&scrape.value("signalpost_receiver_connections")), "{}", scrape.text);
}

#[tokio::test]
async fn what_waits_is_counted_and_a_restart_counts_it_again() {
    let (mut server, receiver) = (Server::embedded().await, Receiver::start().await);
    let hook = destination(Contract::Observer).url(receiver.url("/held")).secret(SECRET);
    let held = server.create(hook).await;
    server.pause(&held.destination_id).await;
    let one = destination(Contract::Workspace).url(receiver.url("/bad")).secret(SECRET).one_attempt();
    server.create(one).await;
    receiver.always_answers("/bad", StatusCode::BAD_REQUEST);
    for number in 0..3 {
        server.emit(event("agent.offline").id(&format!("evt-{number}"))).await;
    }
    server.emit(event("kpi.alert").id("evt-dead")).await;
    server.until("evt-dead", DeliveryState::DeadLettered).await;
    for _ in 0..2 {
        let scrape = server.scrape().await;
        assert_eq!(scrape.value("signalpost_deliveries_waiting"), 3.0, "{}", scrape.text);
        assert_eq!(scrape.value("signalpost_dead_letters"), 1.0);
        assert_eq!(scrape.value(r#"signalpost_lanes{state="paused"}"#), 1.0);
        // A paused destination is its owner's affair.
        assert_eq!(scrape.value("signalpost_oldest_first_attempt_age_seconds"), 0.0);
        server.restart().await;
    }
    server.resume_destination(&held.destination_id).await;
    let drained =
        async || Some(server.scrape().await).filter(|one| one.value("signalpost_deliveries_waiting") == 0.0);
    eventually("nothing waits any more", drained).await;
}

#[tokio::test]
async fn connections_are_counted_while_they_are_open_and_so_are_those_that_a_limit_refused() {
    let server = Server::with(&[("limits.connections_per_address", "3")]).await;
    let open = async || server.scrape().await.value("signalpost_connections");
    let before = open().await;
    let connect = async || TcpStream::connect(server.grpc_address()).await.unwrap();
    let mut connections = Vec::new();
    for _ in 0..4 {
        connections.push(connect().await);
    }
    let refused = r#"signalpost_connections_refused_total{limit="connections_per_address"}"#;
    let refused = async || server.scrape().await.value(refused);
    eventually("the others are refused", async || (refused().await == before + 1.0).then_some(())).await;
    assert_eq!(open().await, 3.0);
    drop(connections);
    eventually("they are closed", async || (open().await == before).then_some(())).await;
}

#[tokio::test]
async fn the_port_has_one_page_in_two_formats() {
    let server = Server::start().await;
    let address = server.metrics_address();
    let plain = Page::ask(address, "GET", "/metrics", "").await;
    assert!(plain.headers.contains("content-type: text/plain; version=0.0.4"), "{}", plain.headers);
    let accept = "accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n";
    let open = Page::ask(address, "GET", "/metrics", accept).await;
    assert!(open.headers.contains("content-type: application/openmetrics-text"), "{}", open.headers);
    assert!(open.body.ends_with("# EOF\n"));
    assert_eq!(Page::ask(address, "GET", "/", "").await.status, 404);
    assert_eq!(Page::ask(address, "DELETE", "/metrics", "").await.status, 405);
    assert_eq!(Page::ask(address, "HEAD", "/metrics", "").await.body, "");
}

#[tokio::test]
async fn no_label_names_an_organization_a_destination_or_an_event() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    let hook = destination(Contract::StandardWebhooks).url(receiver.url("/planted"));
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let created = server.try_create_in("org_planted", hook.secret(secret)).await.unwrap();
    server.try_emit_in("org_planted", event("planted.type").id("evt-planted")).await.unwrap();
    receiver.first("/planted").await;
    let text = server.scrape().await.text;
    assert!(!text.contains("planted") && !text.contains(&created.destination_id), "{text}");
}

/// A row of the table of metrics: type and labels, by name.
fn documented() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let rows = include_str!("../../docs/TELEMETRY.md").lines().filter(|line| line.starts_with("| `"));
    let rows = rows.map(|row| row.split('|').map(str::trim).collect::<Vec<_>>());
    let bare = |cell: &str| cell.trim_matches('`').to_owned();
    let labels = |cell: &str| cell.split(", ").filter(|label| !label.is_empty()).map(bare).collect();
    rows.map(|cells| (bare(cells[1]), (cells[2].to_owned(), labels(cells[3])))).collect()
}

#[tokio::test]
async fn every_metric_is_documented_with_its_type_and_labels_and_none_besides() {
    let scrape = Server::start().await.scrape().await;
    let live = scrape.families().into_iter().map(|(name, kind)| {
        let labels = scrape.labels(&name);
        (name, (kind, labels))
    });
    assert_eq!(documented(), live.collect::<BTreeMap<_, _>>());
}

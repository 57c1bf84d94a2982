//! Each contract on the wire: the exact body, the headers, a signature that a stranger verifies, and the
//! test event.

use http::StatusCode;
use signalpost::domain::contract::Contract;
use signalpost::grpc::proto::v1;
use signalpost::grpc::proto::v1::test_destination_request::Subject;
use signalpost::receiver::{Received, Rejection};

use crate::harness::{DestinationDraft, Receiver, Server, destination, event, event_ids, genuine, header};

const STANDARD_SECRET: &str = "whsec_c2lnbmFscG9zdCB0ZXN0cyBzaWduIHdpdGggdGhpcw==";
/// 2025-06-15T14:32:08.491Z.
const MOMENT: i64 = 1_749_997_928_491;

/// What a contract is asked to carry, and what has to arrive.
struct Case {
    contract: Contract,
    secret: &'static str,
    event_type: &'static str,
    data: &'static str,
    body: &'static str,
    content_type: &'static str,
}

/// Numbers, key order, white space and repeated keys of the data are the caller's, to the byte.
const CASES: [Case; 6] = [
    Case {
        contract: Contract::Semaphor,
        secret: "semaphor-secret",
        event_type: "query_failed",
        data: r#"{"error_details":{"ms": 30000.0},"status":"failed","actor_id":"usr_1","extra":1.10,"event_id":"forged"}"#,
        body: r#"{"event_id":"evt:ID","event_type":"query_failed","occurred_at":"2025-06-15T14:32:08.491Z","status":"failed","org_id":"org_test","actor_id":"usr_1","error_details":"{\"ms\": 30000.0}","extra":1.10}"#,
        content_type: "application/json",
    },
    Case {
        contract: Contract::Stalwart,
        secret: "my-secret-key",
        event_type: "auth.success",
        data: r#"{"n":12345678901234567890.10}"#,
        body: r#"{"events":[{"id":"evt:ID","createdAt":"2025-06-15T14:32:08Z","type":"auth.success","data":{"n":12345678901234567890.10}}]}"#,
        content_type: "application/json",
    },
    Case {
        contract: Contract::Workspace,
        secret: "workspace-secret",
        event_type: "ingestion.completed",
        data: r#"{"b": 1.0, "a": 2}"#,
        body: r#"{"event":"ingestion.completed","timestamp":"2025-06-15T14:32:08Z","tenantId":"org_test","data":{"b": 1.0, "a": 2}}"#,
        content_type: "application/json",
    },
    Case {
        contract: Contract::Observer,
        secret: "observer-secret",
        event_type: "slo.burn_started",
        data: r#"{"a":1,"a":2,"e":1E400}"#,
        body: r#"{"id":"evt:ID","type":"slo.burn_started","occurredAt":"2025-06-15T14:32:08.491Z","orgId":"org_test","data":{"a":1,"a":2,"e":1E400}}"#,
        content_type: "application/json",
    },
    Case {
        contract: Contract::StandardWebhooks,
        secret: STANDARD_SECRET,
        event_type: "invoice.paid",
        data: r#"{"name":"Größe \u00df"}"#,
        body: r#"{"type":"invoice.paid","timestamp":"2025-06-15T14:32:08.491Z","data":{"name":"Größe \u00df"}}"#,
        content_type: "application/json",
    },
    Case {
        contract: Contract::CloudEvents,
        secret: STANDARD_SECRET,
        event_type: "device.connected",
        data: r#"{"firmware":"1.10"}"#,
        body: r#"{"specversion":"1.0","id":"evt:ID","source":"SOURCE","type":"device.connected","time":"2025-06-15T14:32:08.491Z","datacontenttype":"application/json","data":{"firmware":"1.10"}}"#,
        content_type: "application/cloudevents+json",
    },
];

impl Case {
    fn path(&self) -> String {
        format!("/{}", self.contract)
    }

    fn draft(&self, receiver: &Receiver) -> DestinationDraft {
        destination(self.contract).url(receiver.url(&self.path())).secret(self.secret)
    }

    fn user_agent(&self) -> String {
        match self.contract {
            Contract::Semaphor => "Semaphor-Enterprise-Telemetry/1.0".into(),
            _ => format!("Signalpost/{}", env!("CARGO_PKG_VERSION")),
        }
    }
}

fn body(request: &Received) -> &str {
    std::str::from_utf8(&request.body).unwrap()
}

#[tokio::test]
async fn every_contract_arrives_byte_for_byte_and_a_stranger_can_verify_it() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    for case in &CASES {
        server.create(case.draft(&receiver).include(&[case.event_type])).await;
        let id = format!("evt:{}", case.contract);
        server.emit(event(case.event_type).id(&id).data(case.data).occurred_at(MOMENT)).await;

        let request = receiver.first(&case.path()).await;
        let expected = case.body.replace("evt:ID", &id).replace("SOURCE", "signalpost/org_test");
        assert_eq!(body(&request), expected, "{}", case.contract);
        let verified = genuine(case.contract, case.secret, &request).unwrap();
        assert_eq!((verified.events.len(), verified.attempt), (1, Some(1)));
        assert_eq!(event_ids(case.contract, &request), [id.as_str()]);
        assert_eq!(header(&request, "content-type"), case.content_type);
        assert_eq!(header(&request, "user-agent"), case.user_agent());
        assert_eq!(header(&request, "signalpost-event-id"), id);
    }
}

#[tokio::test]
async fn a_wrong_secret_or_a_changed_byte_is_found_out_for_every_contract() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    for case in &CASES {
        server.create(case.draft(&receiver).include(&[case.event_type])).await;
        server.emit(event(case.event_type).data(case.data)).await;
        let mut request = receiver.first(&case.path()).await;
        let other = "whsec_YW5vdGhlciBzZWNyZXQgdGhhbiB0aGUgcmlnaHQ=";
        assert_eq!(genuine(case.contract, other, &request), Err(Rejection::SignatureMismatch));
        request.body = [&request.body[..], b" "].concat().into();
        assert_eq!(genuine(case.contract, case.secret, &request), Err(Rejection::SignatureMismatch));
    }
}

#[tokio::test]
async fn without_a_secret_requests_carry_no_signature_at_all() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    for case in &CASES {
        let draft = destination(case.contract).url(receiver.url(&case.path())).include(&[case.event_type]);
        let created = server.create(draft).await;
        assert!(!created.effective_policy.unwrap().signed);
        server.emit(event(case.event_type).data(case.data)).await;
        let request = receiver.first(&case.path()).await;
        let signed = request.headers.keys().any(|name| name.as_str().ends_with("signature"));
        assert!(!signed, "{}: {:?}", case.contract, request.headers);
    }
}

#[tokio::test]
async fn closed_catalogues_never_get_a_type_that_their_receivers_were_not_promised() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    for contract in [Contract::Semaphor, Contract::Workspace, Contract::Observer] {
        server.create(destination(contract).url(receiver.url("/closed"))).await;
    }
    assert_eq!(server.emit(event("invoice.paid")).await.delivery_count, 0);
    assert_eq!(server.emit(event("query_failed")).await.delivery_count, 1);
    assert_eq!(server.emit(event("kpi.alert")).await.delivery_count, 1);
    assert_eq!(server.emit(event("agent.offline")).await.delivery_count, 1);
}

#[tokio::test]
async fn semaphors_test_event_is_the_documented_sample_saved_or_not() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    let saved =
        server.create(destination(Contract::Semaphor).url(receiver.url("/saved")).secret("old")).await;
    let form = destination(Contract::Semaphor).url(receiver.url("/form")).secret("new");
    let form = form.with(|one| one.destination_id = saved.destination_id.clone());
    for (path, secret, subject) in [
        ("/saved", "old", Subject::DestinationId(saved.destination_id.clone())),
        ("/form", "new", Subject::Destination(form.0)),
    ] {
        let tested = server.try_test(subject, "usr_def456").await.unwrap();
        assert!(tested.attempt.unwrap().succeeded);
        let request = receiver.first(path).await;
        assert_eq!(genuine(Contract::Semaphor, secret, &request).unwrap().attempt, Some(1));
        let at = serde_json::from_slice::<serde_json::Value>(&request.body).unwrap()["occurred_at"].clone();
        let (id, destination_id, url) = (tested.event_id, &saved.destination_id, receiver.url(path));
        let expected = format!(
            r#"{{"event_id":"{id}","event_type":"webhook_test","occurred_at":{at},"status":"test","category":"webhook","component":"telemetry-webhook-delivery","message":"This is a test event from Semaphor.","org_id":"org_test","actor_type":"org_user","actor_id":"usr_def456","org_user_id":"usr_def456","operation":"webhook_test","stage":"webhook_test","error_code":"test_event","error_message":"This is a test event sent from the telemetry settings page.","error_details":"{{\"destinationId\":\"{destination_id}\",\"destinationUrl\":\"{url}\"}}"}}"#
        );
        assert_eq!(body(&request), expected);
        assert_eq!(header(&request, "user-agent"), "Semaphor-Enterprise-Telemetry/1.0");
    }
}

#[tokio::test]
async fn a_test_uses_what_is_in_the_request_and_leaves_no_trace_on_what_is_saved() {
    let (mut server, receiver) = (Server::start().await, Receiver::start().await);
    for case in &CASES {
        let saved = server.create(case.draft(&receiver)).await;
        let form_path = format!("/form{}", case.path());
        let form = destination(case.contract).url(receiver.url(&form_path)).secret(case.secret);
        receiver.will_answer(&form_path, [StatusCode::INTERNAL_SERVER_ERROR]);
        let failed = server.try_test(Subject::Destination(form.0), "usr_1").await.unwrap().attempt.unwrap();
        assert_eq!((failed.status_code, failed.succeeded, failed.number), (Some(500), false, 0));
        assert_eq!(failed.trigger(), v1::AttemptTrigger::Test);
        genuine(case.contract, case.secret, &receiver.first(&form_path).await).unwrap();

        let subject = Subject::DestinationId(saved.destination_id.clone());
        receiver.will_answer(&case.path(), [StatusCode::INTERNAL_SERVER_ERROR]);
        let failed = server.try_test(subject, "").await.unwrap().attempt.unwrap();
        assert!(failed.error.contains("500"), "{failed:?}");
        let after = server.get(&saved.destination_id).await;
        assert_eq!((after.etag, after.health), (saved.etag, saved.health), "{}", case.contract);
    }
    assert_eq!(server.list(v1::DeliveryFilter::default()).await, []);
    // Nothing may still be on its way after an orderly stop: a retry would have to be counted here.
    server.stop().await;
    for case in &CASES {
        assert_eq!(receiver.got(&case.path()).len(), 1, "{}: a test is not retried", case.contract);
        assert_eq!(receiver.got(&format!("/form{}", case.path())).len(), 1);
    }
}

#[tokio::test]
async fn a_test_of_a_form_is_refused_with_all_its_mistakes_before_anything_is_sent() {
    let server = Server::start().await;
    let form =
        destination(Contract::StandardWebhooks).url("http://user:pw@example.com").secret("not base64!");
    let refusal = server.try_test(Subject::Destination(form.0), "usr_1").await.unwrap_err();
    assert_eq!(refusal.fields(), ["destination.url", "destination.signing_secret"], "{refusal:?}");
}

#[tokio::test]
async fn a_test_tells_a_receiver_that_is_not_there_from_one_that_cannot_be_trusted() {
    let server = Server::start().await;
    let untrusted = Receiver::untrusted().await;
    let kind_of = async |url: String| {
        let form = destination(Contract::Observer).url(url);
        let attempt = server.try_test(Subject::Destination(form.0), "").await.unwrap().attempt.unwrap();
        assert!(!attempt.succeeded && !attempt.error.is_empty());
        attempt.outcome_kind()
    };
    assert_eq!(kind_of(untrusted.url("/")).await, v1::OutcomeKind::TlsFailed);
    assert_eq!(kind_of("https://127.0.0.1:1/".into()).await, v1::OutcomeKind::ConnectionRefused);
    let private = destination(Contract::Observer).url("https://10.0.0.1/");
    let refusal = server.try_test(Subject::Destination(private.0), "").await.unwrap_err();
    assert_eq!(refusal.reason, "URL_ADDRESS_NOT_ALLOWED");
}

#[tokio::test]
async fn invalid_certificates_are_accepted_only_where_the_destination_says_so() {
    let (server, untrusted) = (Server::start().await, Receiver::untrusted().await);
    let draft = destination(Contract::Observer).url(untrusted.url("/hook"));
    let draft = draft.settings(|settings| settings.allow_invalid_certificates = Some(true));
    server.create(draft).await;
    server.emit(event("agent.offline")).await;
    untrusted.first("/hook").await;
}

#[tokio::test]
async fn cloud_events_come_in_binary_mode_and_in_batches_where_asked_to() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    let draft = |path: &str, mode: v1::CloudEventsMode| {
        let draft = destination(Contract::CloudEvents).url(receiver.url(path)).secret(STANDARD_SECRET);
        draft.settings(|settings| {
            settings.cloud_events_mode = mode.into();
            settings.cloud_events_source = Some("/shop".into());
        })
    };
    server.create(draft("/binary", v1::CloudEventsMode::Binary)).await;
    server.create(draft("/batch", v1::CloudEventsMode::Batch)).await;
    let data = r#"{"n": 1.0}"#;
    server.emit(event("a.b").id("evt:b").data(data).occurred_at(MOMENT)).await;

    let binary = receiver.first("/binary").await;
    assert_eq!(body(&binary), data);
    let attributes = ["ce-specversion", "ce-id", "ce-source", "ce-type", "ce-time"];
    let values = attributes.map(|name| header(&binary, name));
    assert_eq!(values, ["1.0", "evt:b", "/shop", "a.b", "2025-06-15T14:32:08.491Z"]);
    genuine(Contract::CloudEvents, STANDARD_SECRET, &binary).unwrap();

    let batch = receiver.first("/batch").await;
    assert_eq!(header(&batch, "content-type"), "application/cloudevents-batch+json");
    assert!(body(&batch).starts_with('[') && body(&batch).contains(data));
    assert_eq!(event_ids(Contract::CloudEvents, &batch), ["evt:b"]);
    genuine(Contract::CloudEvents, STANDARD_SECRET, &batch).unwrap();
}

#[tokio::test]
async fn standard_webhooks_are_signed_with_ed25519_where_the_key_is_one() {
    const PRIVATE: &str =
        "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==";
    const PUBLIC: &str = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=";
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    server.create(destination(Contract::StandardWebhooks).url(receiver.url("/hook")).secret(PRIVATE)).await;
    server.emit(event("invoice.paid")).await;
    let request = receiver.first("/hook").await;
    assert!(header(&request, "webhook-signature").starts_with("v1a,"));
    genuine(Contract::StandardWebhooks, PUBLIC, &request).unwrap();
}

#[tokio::test]
async fn authentication_and_custom_headers_go_with_every_request() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    let value = |text: &str| Some(v1::SecretRef { source: Some(v1::secret_ref::Source::Value(text.into())) });
    let basic = v1::BasicAuth { username: "account".into(), password: value("password") };
    let bearer = v1::BearerAuth { token: value("token-1") };
    for (path, method) in
        [("/basic", v1::http_auth::Method::Basic(basic)), ("/bearer", v1::http_auth::Method::Bearer(bearer))]
    {
        let draft = destination(Contract::Observer).url(receiver.url(path)).header("X-My-Header", "my-value");
        server.create(draft.with(|one| one.http_auth = Some(v1::HttpAuth { method: Some(method) }))).await;
    }
    server.emit(event("agent.offline")).await;
    let (basic, bearer) = (receiver.first("/basic").await, receiver.first("/bearer").await);
    assert_eq!(header(&basic, "authorization"), "Basic YWNjb3VudDpwYXNzd29yZA==");
    assert_eq!(header(&bearer, "authorization"), "Bearer token-1");
    assert_eq!(header(&basic, "x-my-header"), "my-value");
}

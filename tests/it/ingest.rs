//! Emit, EmitBatch and EmitStream: what is accepted, what is refused, and what an answer means.

use std::time::Duration;

use signalpost::domain::contract::Contract;
use signalpost::grpc::proto::v1;
use signalpost::grpc::proto::v1::emit_batch_result::Result as BatchResult;
use signalpost::grpc::proto::v1::emit_stream_result::Result as StreamResult;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};
use tonic_types::StatusExt;

use crate::harness::{EventDraft, ORGANIZATION, Receiver, Refusal, Server, destination, event, header};

fn accepted(result: &BatchResult) -> &v1::EmitResult {
    match result {
        BatchResult::Accepted(result) => result,
        BatchResult::Error(error) => panic!("not accepted: {error:?}"),
    }
}

fn refused(result: &BatchResult) -> &v1::EventError {
    match result {
        BatchResult::Error(error) => error,
        BatchResult::Accepted(result) => panic!("accepted: {result:?}"),
    }
}

#[tokio::test]
async fn an_accepted_event_is_delivered_after_a_restart_too() {
    let (mut server, receiver) = (Server::start().await, Receiver::start().await);
    server.create(destination(Contract::Observer).url(receiver.url("/hook"))).await;
    receiver.always_answers("/hook", http::StatusCode::SERVICE_UNAVAILABLE);
    let result = server.emit(event("agent.offline").data(r#"{"a":1}"#)).await;
    assert_eq!((result.delivery_count, result.best_effort_count, result.duplicate), (1, 0, false));
    server.stop().await;
    let before = receiver.got("/hook").len();
    receiver.recovers("/hook");
    server.resume_with(&[]).await;
    let again = server.emit(event("agent.offline").id(&result.event_id).data(r#"{"a":1}"#)).await;
    assert!(again.duplicate, "the id is remembered over a restart");
    let delivery = server.deliveries_of(&result.event_id).await.swap_remove(0);
    server.try_resend(&delivery.delivery_id).await.unwrap();
    let requests = receiver.wait_for("/hook", before + 1).await;
    assert_eq!(header(requests.last().unwrap(), "signalpost-event-id"), result.event_id);
}

#[tokio::test]
async fn an_event_without_an_id_gets_a_uuid_and_its_time_of_acceptance() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    server.create(destination(Contract::Observer).url(receiver.url("/hook"))).await;
    let first = server.emit(event("agent.offline")).await;
    let second = server.emit(event("agent.offline")).await;
    assert_eq!(uuid::Uuid::parse_str(&first.event_id).unwrap().get_version_num(), 7);
    assert!(first.event_id < second.event_id);
    let request = receiver.first("/hook").await;
    assert!(request.body.ends_with(br#","orgId":"org_test","data":{}}"#), "{:?}", request.body);
}

#[tokio::test]
async fn the_same_event_twice_is_one_event_and_answers_the_first_result() {
    let (mut server, receiver) = (Server::start().await, Receiver::start().await);
    server.create(destination(Contract::Observer).url(receiver.url("/hook"))).await;
    let draft = event("agent.offline").id("evt-7").data(r#"{"a":1}"#);
    let first = server.emit(draft.clone()).await;
    // Another destination later changes nothing about what was accepted.
    server.create(destination(Contract::Observer).url(receiver.url("/later"))).await;
    let second = server.emit(draft).await;
    assert_eq!(second, v1::EmitResult { duplicate: true, ..first });
    assert_eq!(server.deliveries_of("evt-7").await.len(), 1);
    receiver.first("/hook").await;
    server.stop().await;
    assert_eq!((receiver.got("/hook").len(), receiver.got("/later").len()), (1, 0));
}

#[tokio::test]
async fn the_same_id_with_any_other_content_is_a_conflict() {
    let server = Server::start().await;
    let draft = || event("kpi.alert").id("evt-7").data(r#"{"a":1}"#).occurred_at(1_700_000_000_000);
    server.emit(draft()).await;
    let others = [
        draft().data(r#"{"a":2}"#),
        draft().data(r#"{"a": 1}"#),
        draft().with(|one| one.r#type = "kpi.computed".into()),
        draft().level(v1::Level::Error),
        draft().occurred_at(1_700_000_000_001),
    ];
    for other in others {
        let refusal = server.try_emit(other.clone()).await.unwrap_err();
        assert_eq!((refusal.code, refusal.reason.as_str()), (Code::AlreadyExists, "EVENT_ID_CONFLICT"));
        assert_eq!(refusal.resource, Some(("event".into(), "evt-7".into())), "{other:?}");
    }
    assert!(server.emit(draft()).await.duplicate);
    // Another organization's ids are its own.
    assert!(!server.try_emit_in("org_other", draft()).await.unwrap().duplicate);
}

#[tokio::test]
async fn struct_data_is_accepted_for_callers_that_write_json_anyway() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    server.create(destination(Contract::Observer).url(receiver.url("/hook"))).await;
    let number = |value| prost_types::Value { kind: Some(prost_types::value::Kind::NumberValue(value)) };
    let data = prost_types::Struct { fields: [("n".to_owned(), number(42.0))].into() };
    server.emit(event("agent.offline").with(|one| one.data = Some(v1::event::Data::StructData(data)))).await;
    let request = receiver.first("/hook").await;
    assert!(request.body.ends_with(br#""data":{"n":42}}"#), "{:?}", request.body);
}

#[tokio::test]
async fn every_mistake_of_an_event_is_told_at_once_with_its_path() {
    let server = Server::start().await;
    let bad = event("kpi alert").id("a.b").data("[1]").occurred_at(-1000);
    let refusal = server.try_emit(bad).await.unwrap_err();
    assert_eq!(refusal.code, Code::InvalidArgument);
    let mut fields = refusal.fields();
    fields.sort_unstable();
    assert_eq!(fields, ["event.event_id", "event.json_data", "event.occurred_at", "event.type"]);
    let nothing = v1::EmitRequest { organization_id: String::new(), event: None };
    let refusal = Refusal::from(server.events().emit(nothing).await.unwrap_err());
    assert_eq!(refusal.code, Code::InvalidArgument, "{refusal:?}");
}

#[tokio::test]
async fn bad_ids_types_and_times_are_refused_before_anything_is_written() {
    let server = Server::start().await;
    let tomorrow = now_millis() + 25 * 60 * 60 * 1000;
    let long = "x".repeat(129);
    for (draft, field) in [
        (event("a").id(""), "event.event_id"),
        (event("a").id("a.b"), "event.event_id"),
        (event("a").id(&long), "event.event_id"),
        (event("a").id("nul\0"), "event.event_id"),
        (event(""), "event.type"),
        (event(&long), "event.type"),
        (event("größe"), "event.type"),
        (event("signalpost.test"), "event.type"),
        (event("a").occurred_at(tomorrow), "event.occurred_at"),
        (event("a").with(|one| one.level = 99), "event.level"),
    ] {
        let refusal = server.try_emit(draft.clone()).await.unwrap_err();
        assert_eq!((refusal.code, refusal.fields()), (Code::InvalidArgument, vec![field]), "{draft:?}");
        assert!(!refusal.about(field).is_empty());
    }
    for organization in ["", "a b", "größe", "a/b"] {
        let refusal = server.try_emit_in(organization, event("a")).await.unwrap_err();
        assert_eq!(refusal.fields(), ["organization_id"], "{organization:?}");
    }
}

fn now_millis() -> i64 {
    use signalpost::clock::{Clock, SystemClock};
    SystemClock.now().as_millis()
}

#[tokio::test]
async fn data_that_is_no_json_object_is_refused_with_the_byte_where_it_goes_wrong() {
    let server = Server::start().await;
    for (data, offset) in [
        (&br#"{"a":1,}"#[..], Some("byte 7")),
        (br#"{"a":1"#, Some("byte 6")),
        (b"{\"a\":NaN}", Some("byte 5")),
        (b"{\"a\":\"\xff\"}", Some("byte 6")),
        (b"{\"a\":\"nul\0\"}", Some("byte 9")),
        (b"{\"a\":1}\0", Some("byte 7")),
        (b"{} {}", Some("byte 3")),
        (b"\xef\xbb\xbf{}", Some("byte 0")),
        (b"[1]", None),
        (b"null", None),
        (b"\"text\"", None),
    ] {
        let refusal = server.try_emit(event("a").data(data)).await.unwrap_err();
        assert_eq!((refusal.code, refusal.fields()), (Code::InvalidArgument, vec!["event.json_data"]));
        let said = refusal.about("event.json_data");
        let fits = offset.map_or(said.contains("object"), |offset| said.contains(offset));
        assert!(fits, "{:?} ({offset:?}): {said}", String::from_utf8_lossy(data));
    }
}

#[tokio::test]
async fn data_that_is_too_large_is_refused_with_both_sizes_and_the_largest_is_delivered() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    server.create(destination(Contract::Observer).url(receiver.url("/hook"))).await;
    let of_size = |size: usize| format!(r#"{{"a":"{}"}}"#, "x".repeat(size - 8));
    let largest = of_size(256 * 1024);
    server.emit(event("agent.offline").data(&largest)).await;
    let request = receiver.first("/hook").await;
    assert!(std::str::from_utf8(&request.body).unwrap().contains(&largest));
    let refusal = server.try_emit(event("a").data(of_size(256 * 1024 + 1))).await.unwrap_err();
    let said = refusal.about("event.json_data");
    assert_eq!(refusal.code, Code::InvalidArgument);
    assert!(said.contains("262145") && said.contains("262144"), "{said}");
}

#[tokio::test]
async fn nesting_is_accepted_up_to_the_limit_and_refused_beyond_it() {
    let server = Server::start().await;
    let nested = |depth: usize| format!("{}{{}}{}", r#"{"a":"#.repeat(depth - 1), "}".repeat(depth - 1));
    server.emit(event("a").data(nested(64))).await;
    for depth in [65, 20_000] {
        let refusal = server.try_emit(event("a").data(nested(depth))).await.unwrap_err();
        let said = refusal.about("event.json_data");
        assert!(refusal.code == Code::InvalidArgument && said.contains("64 levels"), "{said}");
    }
}

#[tokio::test]
async fn an_organization_must_be_created_first_only_where_the_operator_says_so() {
    let server = Server::with(&[("organizations.require_create", "true")]).await;
    server.try_emit(event("a")).await.unwrap_err().assert_not_found("organization", ORGANIZATION);
    let batch = server.try_emit_batch(vec![event("a")]).await.unwrap_err();
    batch.assert_not_found("organization", ORGANIZATION);
    let draft = destination(Contract::Observer).url("https://example.com/");
    server.try_create(draft).await.unwrap_err().assert_not_found("organization", ORGANIZATION);
    let mut stream = Stream::open(&server).await;
    stream.send(1, event("a")).await;
    stream.failure().await.assert_not_found("organization", ORGANIZATION);

    let request = v1::CreateOrganizationRequest { organization_id: ORGANIZATION.into(), organization: None };
    server.organizations().create_organization(request).await.unwrap();
    server.emit(event("a")).await;
}

#[tokio::test]
async fn one_bad_event_of_a_batch_does_not_spoil_the_others() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    server.create(destination(Contract::Observer).url(receiver.url("/hook"))).await;
    let good = |id: &str| event("agent.offline").id(id);
    let results = server
        .emit_batch(vec![
            good("one"),
            event("bad type").id("a.b"),
            good("two"),
            good("one"),
            good("two").data(r#"{"other":true}"#),
            event("a").data("{"),
        ])
        .await;
    assert_eq!(results.len(), 6);
    assert!(!accepted(&results[0]).duplicate && !accepted(&results[2]).duplicate);
    assert!(accepted(&results[3]).duplicate, "an id that occurs again is a repetition");
    let bad = refused(&results[1]);
    assert_eq!(bad.code, i32::from(Code::InvalidArgument));
    let mut fields: Vec<&str> = bad.field_violations.iter().map(|one| one.field.as_str()).collect();
    fields.sort_unstable();
    assert_eq!(fields, ["events[1].event_id", "events[1].type"]);
    assert_eq!(refused(&results[4]).code, i32::from(Code::AlreadyExists));
    assert_eq!(refused(&results[4]).reason(), v1::ErrorReason::EventIdConflict);
    assert_eq!(refused(&results[5]).field_violations[0].field, "events[5].json_data");
    let requests = receiver.wait_for("/hook", 2).await;
    let mut ids: Vec<&str> = requests.iter().map(|one| header(one, "signalpost-event-id")).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["one", "two"]);
}

#[tokio::test]
async fn a_batch_has_one_to_a_thousand_events() {
    let server = Server::start().await;
    let many = |count: usize| (0..count).map(|_| event("a")).collect::<Vec<_>>();
    assert_eq!(server.emit_batch(many(1000)).await.len(), 1000);
    for count in [0, 1001] {
        let refusal = server.try_emit_batch(many(count)).await.unwrap_err();
        assert_eq!(refusal.code, Code::InvalidArgument, "{refusal:?}");
        assert_eq!(refusal.fields(), ["events"]);
    }
}

/// One open `EmitStream`.
struct Stream {
    sender: mpsc::Sender<v1::EmitStreamRequest>,
    answers: Streaming<v1::EmitStreamResponse>,
}

impl Stream {
    async fn open(server: &Server) -> Self {
        let (sender, receiver) = mpsc::channel(64);
        let answers = server.events().emit_stream(ReceiverStream::new(receiver)).await.unwrap().into_inner();
        Self { sender, answers }
    }

    async fn send(&self, sequence: i64, draft: EventDraft) {
        self.send_as(sequence, draft, ORGANIZATION, v1::AcknowledgementMode::Unspecified).await;
    }

    async fn send_as(
        &self,
        sequence: i64,
        draft: EventDraft,
        organization_id: &str,
        mode: v1::AcknowledgementMode,
    ) {
        let request = v1::EmitStreamRequest {
            organization_id: organization_id.into(),
            sequence,
            event: Some(draft.0),
            acknowledgement_mode: mode.into(),
        };
        self.sender.send(request).await.unwrap();
    }

    /// Reads until everything up to a sequence is acknowledged; returns the results on the way.
    async fn acknowledged(&mut self, sequence: i64) -> Vec<v1::EmitStreamResult> {
        let (mut results, mut reached) = (Vec::new(), 0);
        while reached < sequence {
            let answer = self.answers.message().await.unwrap().unwrap();
            assert!(answer.acknowledged_sequence >= reached, "acknowledgements never go back");
            reached = answer.acknowledged_sequence;
            results.extend(answer.results);
        }
        assert_eq!(reached, sequence);
        results
    }

    /// Why the stream ended.
    async fn failure(&mut self) -> Refusal {
        loop {
            match self.answers.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the stream ended without an error"),
                Err(status) => return status.into(),
            }
        }
    }

    /// Closes the sending side; the rest of the answers, to the end that must be in order.
    async fn close(mut self) -> Vec<v1::EmitStreamResponse> {
        drop(self.sender);
        let mut rest = Vec::new();
        while let Some(answer) = self.answers.message().await.unwrap() {
            rest.push(answer);
        }
        rest
    }
}

#[tokio::test]
async fn a_stream_acknowledges_cumulatively_and_tells_only_errors_and_duplicates() {
    let server = Server::start().await;
    let mut stream = Stream::open(&server).await;
    for sequence in 1..=50 {
        stream.send(sequence * 10, event("a").id(&format!("evt-{sequence}"))).await;
    }
    assert_eq!(stream.acknowledged(500).await, []);
    stream.send(501, event("a").id("evt-1")).await;
    stream.send(502, event("bad type")).await;
    stream.send(503, event("a").id("evt-51")).await;
    let results = stream.acknowledged(503).await;
    let sequences: Vec<i64> = results.iter().map(|result| result.sequence).collect();
    assert_eq!(sequences, [501, 502]);
    assert!(matches!(&results[0].result, Some(StreamResult::Accepted(result)) if result.duplicate));
    let Some(StreamResult::Error(error)) = &results[1].result else { panic!("{results:?}") };
    assert_eq!(error.field_violations[0].field, "event.type");
    assert_eq!(stream.close().await, []);
    assert!(server.emit(event("a").id("evt-51")).await.duplicate);
}

#[tokio::test]
async fn a_stream_in_per_event_mode_answers_every_event_in_order() {
    let server = Server::start().await;
    let mut stream = Stream::open(&server).await;
    let mode = v1::AcknowledgementMode::PerEvent;
    stream.send_as(1, event("a").id("evt-1"), ORGANIZATION, mode).await;
    // Later messages may leave out what the first one said.
    stream.send_as(2, event("b").id("evt-2"), "", v1::AcknowledgementMode::Unspecified).await;
    stream.send_as(7, event("bad type"), ORGANIZATION, mode).await;
    let results = stream.acknowledged(7).await;
    let sequences: Vec<i64> = results.iter().map(|result| result.sequence).collect();
    assert_eq!(sequences, [1, 2, 7]);
    assert!(matches!(&results[1].result, Some(StreamResult::Accepted(result)) if result.event_id == "evt-2"));
    assert!(matches!(&results[2].result, Some(StreamResult::Error(_))));
    assert_eq!(stream.close().await, []);
}

#[tokio::test]
async fn closing_a_stream_answers_what_is_left_and_ends_it_in_order() {
    let server = Server::start().await;
    let stream = Stream::open(&server).await;
    for sequence in 1..=20 {
        stream.send(sequence, event("a")).await;
    }
    let rest = stream.close().await;
    assert_eq!(rest.last().map(|answer| answer.acknowledged_sequence), Some(20));
}

#[tokio::test]
async fn protocol_errors_end_a_stream_and_what_was_acknowledged_stays() {
    let server = Server::start().await;
    let per_event = v1::AcknowledgementMode::PerEvent;
    let unspecified = v1::AcknowledgementMode::Unspecified;
    for (sequence, organization, mode, reason) in [
        (7, ORGANIZATION, unspecified, "STREAM_SEQUENCE_INVALID"),
        (6, ORGANIZATION, unspecified, "STREAM_SEQUENCE_INVALID"),
        (8, "org_b", unspecified, "STREAM_ORGANIZATION_CHANGED"),
        (8, ORGANIZATION, per_event, "STREAM_MODE_CHANGED"),
    ] {
        let mut stream = Stream::open(&server).await;
        let id = format!("evt-{sequence}-{reason}");
        stream.send(7, event("a").id(&id)).await;
        stream.acknowledged(7).await;
        stream.send_as(sequence, event("a"), organization, mode).await;
        let refusal = stream.failure().await;
        assert_eq!((refusal.code, refusal.reason.as_str()), (Code::InvalidArgument, reason));
        assert!(server.emit(event("a").id(&id)).await.duplicate);
    }
    let mut stream = Stream::open(&server).await;
    stream.send_as(1, event("a"), "", unspecified).await;
    assert_eq!(
        stream.failure().await.code,
        Code::InvalidArgument,
        "the first message names the organization"
    );
    let mut stream = Stream::open(&server).await;
    stream.send(0, event("a")).await;
    assert_eq!(stream.failure().await.reason, "STREAM_SEQUENCE_INVALID");
}

#[tokio::test]
async fn an_orderly_stop_ends_streams_after_acknowledging_what_it_took() {
    let mut server = Server::start().await;
    let mut stream = Stream::open(&server).await;
    stream.send(1, event("a").id("evt-1")).await;
    stream.acknowledged(1).await;
    let (refusal, ()) = tokio::join!(stream.failure(), server.stop());
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::Unavailable, "SHUTTING_DOWN"));
    server.resume_with(&[]).await;
    assert!(server.emit(event("a").id("evt-1")).await.duplicate);
}

#[tokio::test]
async fn an_organizations_rate_is_limited_by_its_plan_and_the_answer_says_when_to_come_back() {
    let server = Server::with(&[("plans.default.events_per_second", "5")]).await;
    let results = server.emit_batch((0..50).map(|_| event("a")).collect()).await;
    let refusals: Vec<_> =
        results.iter().filter(|one| matches!(one, BatchResult::Error(_))).map(refused).collect();
    assert!(refusals.len() >= 40, "{} refused", refusals.len());
    assert_eq!(refusals[0].reason(), v1::ErrorReason::RateLimitExceeded);
    assert_eq!(refusals[0].code, i32::from(Code::ResourceExhausted));
    let mut single = None;
    for _ in 0..50 {
        let request = v1::EmitRequest { organization_id: ORGANIZATION.into(), event: Some(event("a").0) };
        single = single.or(server.events().emit(request).await.err());
    }
    let status = single.expect("fifty more events fit into five a second");
    let wait = status.get_error_details().retry_info().unwrap().retry_delay.unwrap();
    assert!(wait > Duration::ZERO && wait <= Duration::from_secs(1), "{wait:?}");
    assert_eq!(Refusal::from(status).reason, "RATE_LIMIT_EXCEEDED");
}

#[tokio::test]
async fn below_the_disks_watermark_ingest_is_refused_and_deliveries_go_on() {
    let (mut server, receiver) = (Server::embedded().await, Receiver::start().await);
    server.create(destination(Contract::Observer).url(receiver.url("/hook")).retry_after(&[300; 9])).await;
    receiver.will_answer("/hook", [http::StatusCode::SERVICE_UNAVAILABLE]);
    let event_id = server.emit(event("agent.offline")).await.event_id;
    receiver.first("/hook").await;
    server.restart_with(&[("store.min_free", r#""1000TiB""#)]).await;
    let refusal = server.try_emit(event("agent.offline").id("evt-2")).await.unwrap_err();
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::ResourceExhausted, "STORE_FULL"));
    assert!(refusal.metadata.contains_key("free_bytes") && refusal.metadata.contains_key("required_bytes"));
    let delivery = server.until(&event_id, v1::DeliveryState::Succeeded).await;
    assert_eq!(delivery.attempt_count, 2);
    server.restart_with(&[("store.min_free", r#""16MiB""#)]).await;
    assert!(!server.emit(event("agent.offline").id("evt-2")).await.duplicate, "nothing of it was written");
}

//! Traces: a caller's trace goes on in the webhooks of its events, over retries and restarts.

use http::StatusCode;
use signalpost::domain::contract::Contract;
use signalpost::domain::trace::TraceContext;
use signalpost::grpc::proto::v1::{self, DeliveryState};
use tonic::Request;

use crate::harness::{ORGANIZATION, Receiver, Server, destination, event, header};

const SECRET: &str = "s3cret-of-the-workspace";
const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

fn traced<T>(message: T, traceparent: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("traceparent", traceparent.parse().unwrap());
    request
}

async fn emit(server: &Server, id: &str, traceparent: &str) {
    let message =
        v1::EmitRequest { organization_id: ORGANIZATION.into(), event: Some(event("kpi.alert").id(id).0) };
    server.events().emit(traced(message, traceparent)).await.unwrap();
}

/// A place where two requests may be in the same trace.
fn context(request: &signalpost::receiver::Received) -> TraceContext {
    TraceContext::parse(header(request, "traceparent")).unwrap()
}

#[tokio::test]
async fn each_attempt_carries_the_callers_trace_with_a_span_of_its_own_also_after_a_restart() {
    let (mut server, receiver) = (Server::start().await, Receiver::start().await);
    let hook = destination(Contract::Workspace).url(receiver.url("/hook")).secret(SECRET);
    server.create(hook.retry_after(&[1, 1])).await;
    receiver.will_answer("/hook", [StatusCode::BAD_GATEWAY, StatusCode::BAD_GATEWAY]);
    emit(&server, "evt-1", TRACEPARENT).await;
    let delivery = server.until("evt-1", DeliveryState::Succeeded).await;
    server.restart().await;
    server.try_resend(&delivery.delivery_id).await.unwrap();
    let requests = receiver.wait_for("/hook", 4).await;
    let contexts: Vec<TraceContext> = requests.iter().map(context).collect();
    let mut spans: Vec<_> = contexts.iter().map(|context| context.span_id()).collect();
    spans.push(TraceContext::parse(TRACEPARENT).unwrap().span_id());
    spans.sort_unstable();
    spans.dedup();
    assert_eq!(spans.len(), 5, "{contexts:?}");
    assert!(contexts.iter().all(|one| one.trace_id_text() == TRACE && one.is_sampled()), "{contexts:?}");
}

#[tokio::test]
async fn a_webhook_has_no_trace_where_its_caller_sent_none_or_a_broken_one() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    server.create(destination(Contract::Workspace).url(receiver.url("/hook")).secret(SECRET)).await;
    server.emit(event("kpi.alert").id("evt-none")).await;
    emit(&server, "evt-broken", "00-00000000000000000000000000000000-00f067aa0ba902b7-01").await;
    for request in receiver.wait_for("/hook", 2).await {
        assert!(!request.headers.contains_key("traceparent"), "{:?}", request.headers);
    }
}

#[tokio::test]
async fn batches_and_streams_carry_the_trace_of_their_call() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    server.create(destination(Contract::Workspace).url(receiver.url("/hook")).secret(SECRET)).await;
    let batch = v1::EmitBatchRequest {
        organization_id: ORGANIZATION.into(),
        events: vec![event("kpi.alert").0, event("kpi.alert").0],
    };
    server.events().emit_batch(traced(batch, TRACEPARENT)).await.unwrap();
    let message = v1::EmitStreamRequest {
        organization_id: ORGANIZATION.into(),
        sequence: 1,
        event: Some(event("kpi.alert").0),
        ..v1::EmitStreamRequest::default()
    };
    let stream = traced(tokio_stream::once(message), TRACEPARENT);
    let mut answers = server.events().emit_stream(stream).await.unwrap().into_inner();
    assert_eq!(answers.message().await.unwrap().unwrap().acknowledged_sequence, 1);
    for request in receiver.wait_for("/hook", 3).await {
        assert_eq!(context(&request).trace_id_text(), TRACE);
    }
}

#[tokio::test]
async fn an_operator_may_keep_traces_from_receivers() {
    let server = Server::with(&[("traces.webhook_header", "false")]).await;
    let receiver = Receiver::start().await;
    server.create(destination(Contract::Workspace).url(receiver.url("/hook")).secret(SECRET)).await;
    emit(&server, "evt-1", TRACEPARENT).await;
    assert!(!receiver.first("/hook").await.headers.contains_key("traceparent"));
}

//! What is not sent, although it could be: the record, the explanation and the refusal say why.

use signalpost::domain::contract::Contract;
use signalpost::grpc::proto::v1;
use signalpost::grpc::proto::v1::secret_ref::Source;
use signalpost::grpc::proto::v1::test_destination_request::Subject;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tonic::Code;

use crate::harness::{ORGANIZATION, Receiver, Server, destination, event, eventually, millis};

/// A signing secret of Standard Webhooks.
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

#[tokio::test]
async fn a_signing_secret_that_is_none_of_its_contract_any_more_keeps_the_event_from_being_sent_on_the_record()
 {
    let (mut server, receiver) = (Server::start().await, Receiver::start().await);
    let file = server.write_file("secrets/key", SECRET);
    let folder = format!("[\"{}@{ORGANIZATION}\"]", server.folder().join("secrets").display());
    server.restart_with(&[("secrets.folders", &folder)]).await;
    let draft = destination(Contract::StandardWebhooks).url(receiver.url("/hook")).one_attempt();
    server.create(draft.secret_from(Source::File(file.display().to_string()))).await;
    server.write_file("secrets/key", "planted, and no key");
    let emitted = server.emit(event("invoice.paid")).await;
    let delivery = server.until(&emitted.event_id, v1::DeliveryState::DeadLettered).await;
    let attempt = &delivery.attempts[0];
    assert_eq!((attempt.outcome_kind(), attempt.status_code), (v1::OutcomeKind::NotSent, None));
    assert!(
        attempt.error.contains("signing secret") && !attempt.error.contains("planted"),
        "{}",
        attempt.error
    );
    assert!(receiver.got("/hook").is_empty(), "nothing goes out unsigned");
    // The receiver has the fault of nothing, but the destination does not work: its health says so.
    server.write_file("secrets/key", SECRET);
    server.try_resend(&delivery.delivery_id).await.unwrap();
    server.until(&emitted.event_id, v1::DeliveryState::Succeeded).await;
    assert_eq!(receiver.got("/hook").len(), 1);
}

/// A proxy of the operator that answers every request itself, with 200.
async fn proxy() -> (std::net::SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, mut tasks) = (listener.local_addr().unwrap(), JoinSet::new());
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            connections.spawn(async move {
                let mut request = [0; 4096];
                while stream.read(&mut request).await.is_ok_and(|read| read > 0) {
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                    if stream.write_all(answer).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, tasks)
}

#[tokio::test]
async fn who_sends_to_a_host_of_others_as_fast_as_the_operator_allows_waits_and_a_test_is_refused_both_by_name()
 {
    let (proxy, _tasks) = proxy().await;
    let server = Server::with(&[
        ("delivery.plain_http_contracts", r#"["STALWART"]"#),
        ("egress.proxy", &format!("\"http://{proxy}\"")),
        ("egress.per_host_rate", "1"),
    ])
    .await;
    // Nobody can look this name up (RFC 6761): only the proxy knows where it leads. So it is somebody else's.
    let mut last = v1::Destination::default();
    for number in 0..20 {
        let draft = destination(Contract::Stalwart).url(format!("http://receiver.invalid/{number}"));
        last = server.create(draft.settings(|settings| settings.throttle = Some(millis(0)))).await;
    }
    let emitted = server.emit(event("auth.success")).await;
    let request = || v1::ExplainEventRequest {
        organization_id: ORGANIZATION.into(),
        event_id: emitted.event_id.clone(),
        page_size: 100,
        ..v1::ExplainEventRequest::default()
    };
    let waiting = eventually("a lane waits for the host's rate", async || {
        let rows = server.deliveries().explain_event(request()).await.unwrap().into_inner().explanations;
        let held = |row: &v1::DestinationExplanation| {
            row.delivery.as_ref().is_some_and(|one| one.reason() == v1::DeliveryReason::HostRate)
        };
        rows.into_iter().find(held)
    })
    .await;
    assert!(waiting.explanation.contains("as fast as the operator allows"), "{}", waiting.explanation);
    assert!(waiting.delivery.unwrap().next_attempt_time.is_some());
    let refusal = server.try_test(Subject::DestinationId(last.destination_id), "usr").await.unwrap_err();
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::ResourceExhausted, "RATE_LIMIT_EXCEEDED"));
    assert_eq!(refusal.metadata["scope"], "host");
    assert_eq!(refusal.metadata["limit_per_second"], "1");
    assert!(refusal.message.contains("host"), "{}", refusal.message);
}

//! Delivering: retries, dead letters, windows, and what a stop leaves behind.

use std::time::Duration;

use http::header::{LOCATION, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use signalpost::domain::contract::Contract;
use signalpost::grpc::proto::v1;
use signalpost::grpc::proto::v1::test_destination_request::Subject;
use signalpost::receiver::{Answer, Received};
use tonic::Code;

use crate::harness::{
    DestinationDraft, ORGANIZATION, Receiver, Refusal, Server, destination, event, event_ids, eventually,
    header, millis,
};

const DOWN: StatusCode = StatusCode::SERVICE_UNAVAILABLE;
const BROKEN: StatusCode = StatusCode::INTERNAL_SERVER_ERROR;

fn observer(receiver: &Receiver) -> DestinationDraft {
    destination(Contract::Observer).url(receiver.url("/hook"))
}

fn stalwart(receiver: &Receiver, throttle: i64) -> DestinationDraft {
    let draft = destination(Contract::Stalwart).url(receiver.url("/hook"));
    draft.settings(|settings| settings.throttle = Some(millis(throttle)))
}

/// The time between a request and the next.
fn gaps(requests: &[Received]) -> Vec<Duration> {
    requests.windows(2).map(|pair| pair[1].at.duration_since(pair[0].at)).collect()
}

fn attempt_numbers(requests: &[Received]) -> Vec<&str> {
    requests.iter().map(|one| header(one, "signalpost-attempt")).collect()
}

fn ids_in(requests: &[Received]) -> Vec<&str> {
    requests.iter().map(|one| header(one, "signalpost-event-id")).collect()
}

/// The ids of each request of a contract that batches.
fn batches(requests: &[Received]) -> Vec<Vec<String>> {
    requests.iter().map(|one| event_ids(Contract::Stalwart, one)).collect()
}

/// A delivery that has become a dead letter after one attempt, and its destination.
async fn dead_letter(server: &Server, receiver: &Receiver) -> v1::Delivery {
    server.create(observer(receiver).one_attempt()).await;
    receiver.will_answer("/hook", [BROKEN]);
    let event_id = server.emit(event("agent.offline")).await.event_id;
    server.until(&event_id, v1::DeliveryState::DeadLettered).await
}

#[tokio::test]
async fn failed_attempts_are_repeated_after_the_delays_of_the_schedule() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    server.create(observer(&receiver).secret("s3cret").retry_after(&[100, 300])).await;
    receiver.will_answer("/hook", [DOWN, BROKEN]);
    let event_id = server.emit(event("agent.offline").data(r#"{"n":1.0}"#)).await.event_id;
    let requests = receiver.wait_for("/hook", 3).await;
    let waited = gaps(&requests);
    assert!(waited[0] >= Duration::from_millis(100) && waited[1] >= Duration::from_millis(300), "{waited:?}");
    assert_eq!(attempt_numbers(&requests), ["1", "2", "3"]);
    assert_eq!(ids_in(&requests), [event_id.as_str(); 3]);
    assert!(requests.iter().all(|one| one.body == requests[0].body), "the body never changes");

    let delivery = server.until(&event_id, v1::DeliveryState::Succeeded).await;
    assert_eq!((delivery.attempt_count, delivery.cycle, delivery.last_error.as_str()), (3, 1, ""));
    assert!(delivery.finish_time.is_some() && delivery.next_attempt_time.is_none());
    let told: Vec<_> =
        delivery.attempts.iter().map(|one| (one.number, one.status_code, one.trigger())).collect();
    let (routed, retry) = (v1::AttemptTrigger::Routed, v1::AttemptTrigger::Retry);
    assert_eq!(told, [(1, Some(503), routed), (2, Some(500), retry), (3, Some(200), retry)]);
    assert!(delivery.attempts.iter().all(|one| one.round_trip.is_some() && one.start_time.is_some()));
    assert!(delivery.attempts[0].error.contains("503") && delivery.attempts[2].error.is_empty());
}

#[tokio::test]
async fn a_redirect_is_a_failure_and_is_never_followed() {
    let (mut server, receiver) = (Server::start().await, Receiver::start().await);
    server.create(observer(&receiver).one_attempt()).await;
    let elsewhere = HeaderValue::from_str(&receiver.url("/elsewhere")).unwrap();
    let redirect = Answer::from(StatusCode::TEMPORARY_REDIRECT).with_header(LOCATION, elsewhere);
    receiver.will_answer("/hook", [redirect]);
    let event_id = server.emit(event("agent.offline")).await.event_id;
    let delivery = server.until(&event_id, v1::DeliveryState::DeadLettered).await;
    assert_eq!(delivery.attempts[0].status_code, Some(307));
    assert!(!delivery.attempts[0].succeeded);
    server.stop().await;
    assert_eq!(receiver.got("/elsewhere").len(), 0);
}

#[tokio::test]
async fn every_2xx_is_a_success_and_every_other_answer_a_failure() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    server.create(observer(&receiver).one_attempt()).await;
    for (status, state) in [
        (StatusCode::CREATED, v1::DeliveryState::Succeeded),
        (StatusCode::NO_CONTENT, v1::DeliveryState::Succeeded),
        (StatusCode::NOT_MODIFIED, v1::DeliveryState::DeadLettered),
        (StatusCode::BAD_REQUEST, v1::DeliveryState::DeadLettered),
        (StatusCode::GONE, v1::DeliveryState::DeadLettered),
    ] {
        receiver.will_answer("/hook", [status]);
        let event_id = server.emit(event("agent.offline")).await.event_id;
        let delivery = server.until(&event_id, state).await;
        assert_eq!(delivery.attempts[0].status_code, Some(i32::from(status.as_u16())));
    }
}

#[tokio::test]
async fn retry_after_delays_the_next_attempt_where_the_receiver_may_ask_for_it() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    server.create(observer(&receiver).retry_after(&[10])).await;
    let asking = |status| Answer::from(status).with_header(RETRY_AFTER, HeaderValue::from_static("1"));
    for status in [DOWN, StatusCode::TOO_MANY_REQUESTS] {
        let before = receiver.got("/hook").len();
        receiver.will_answer("/hook", [asking(status)]);
        server.emit(event("agent.offline")).await;
        let requests = receiver.wait_for("/hook", before + 2).await;
        let waited = gaps(&requests[before..])[0];
        assert!(waited >= Duration::from_secs(1), "{status}: {waited:?}");
    }
    // Other statuses can't slow anything down.
    let long = Answer::from(BROKEN).with_header(RETRY_AFTER, HeaderValue::from_static("3600"));
    receiver.will_answer("/hook", [long]);
    let event_id = server.emit(event("agent.offline")).await.event_id;
    server.until(&event_id, v1::DeliveryState::Succeeded).await;
}

#[tokio::test]
async fn a_destination_says_otherwise_what_the_answer_410_means() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    for (contract, disables) in [(Contract::StandardWebhooks, false), (Contract::Observer, true)] {
        let path = format!("/{contract}");
        let draft = destination(contract).url(receiver.url(&path)).include(&["agent.offline"]);
        let draft = draft.retry_after(&[10]).settings(|settings| settings.disable_on_gone = Some(disables));
        let created = server.create(draft).await;
        let policy = created.effective_policy.unwrap();
        assert_eq!(policy.settings.unwrap().disable_on_gone, Some(disables));
        assert!(policy.overridden_fields.contains(&"disable_on_gone".to_owned()));
        receiver.will_answer(&path, [StatusCode::GONE]);
        server.emit(event("agent.offline")).await;
        let id = created.destination_id;
        if disables {
            eventually("it is disabled", async || {
                Some(server.get(&id).await).filter(|one| one.state() == v1::DestinationState::Disabled)
            })
            .await;
        } else {
            server.until_health(&id, "a retry", |health| health.last_success_time.is_some()).await;
            assert_eq!(server.get(&id).await.state(), v1::DestinationState::Active);
        }
    }
}

#[tokio::test]
async fn the_answer_410_disables_a_destination_where_the_contract_says_so() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    for contract in [Contract::StandardWebhooks, Contract::CloudEvents, Contract::Observer] {
        let path = format!("/{contract}");
        let draft = destination(contract).url(receiver.url(&path)).include(&["agent.offline"]);
        let id = server.create(draft.retry_after(&[10])).await.destination_id;
        receiver.will_answer(&path, [StatusCode::GONE]);
        let event_id = server.emit(event("agent.offline")).await.event_id;
        if contract == Contract::Observer {
            server.until_health(&id, "a retry", |health| health.last_success_time.is_some()).await;
            assert_eq!(server.get(&id).await.state(), v1::DestinationState::Active);
            continue;
        }
        let disabled = eventually("it is disabled", async || {
            Some(server.get(&id).await).filter(|one| one.state() == v1::DestinationState::Disabled)
        });
        let disabled = disabled.await;
        assert_eq!(disabled.disabled_reason(), v1::DisabledReason::Gone, "{contract}");
        assert_eq!(disabled.enabled, Some(false));
        let delivery = server.until(&event_id, v1::DeliveryState::DeadLettered).await;
        assert_eq!(delivery.reason(), v1::DeliveryReason::FinalStatus);
        let refusal = server.try_replay(&delivery.delivery_id).await.unwrap_err();
        assert_eq!(
            (refusal.code, refusal.reason.as_str()),
            (Code::FailedPrecondition, "DESTINATION_DISABLED")
        );
        server.resume_destination(&id).await;
        server.try_replay(&delivery.delivery_id).await.unwrap();
        server.until(&event_id, v1::DeliveryState::Succeeded).await;
        let request = v1::DeleteDestinationRequest {
            organization_id: ORGANIZATION.into(),
            destination_id: id,
            etag: String::new(),
        };
        server.destinations().delete_destination(request).await.unwrap();
    }
}

#[tokio::test]
async fn a_delivery_that_runs_out_of_attempts_is_a_dead_letter_with_its_history() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    let id = server.create(observer(&receiver).retry_after(&[10, 10])).await.destination_id;
    receiver.will_answer("/hook", [DOWN, BROKEN, BROKEN]);
    let event_id = server.emit(event("agent.offline")).await.event_id;
    let delivery = server.until(&event_id, v1::DeliveryState::DeadLettered).await;
    assert_eq!(delivery.reason(), v1::DeliveryReason::AttemptsExhausted);
    assert_eq!((delivery.attempt_count, delivery.attempts.len()), (3, 3));
    assert!(delivery.last_error.contains("500"), "{}", delivery.last_error);
    let listed = server.dead_letters().await;
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (listed[0].delivery_id.as_str(), listed[0].attempts.len()),
        (delivery.delivery_id.as_str(), 1)
    );
    assert_eq!(listed[0].destination_id, id);
}

#[tokio::test]
async fn a_replay_sends_a_dead_letter_again_with_the_same_id_and_a_fresh_cycle() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    let dead = dead_letter(&server, &receiver).await;
    // Paused, so that what the answer says can be looked at before it is history.
    server.pause(&dead.destination_id).await;
    let waiting = server.try_replay(&dead.delivery_id).await.unwrap();
    assert_eq!((waiting.state(), waiting.cycle), (v1::DeliveryState::Waiting, 2));
    assert_eq!(server.dead_letters().await, []);
    let refusal = server.try_replay(&dead.delivery_id).await.unwrap_err();
    assert_eq!(refusal.code, Code::FailedPrecondition);
    assert_eq!(refusal.reason, "DELIVERY_NOT_DEAD_LETTERED");
    server.resume_destination(&dead.destination_id).await;
    let delivery = server.until(&dead.event_id, v1::DeliveryState::Succeeded).await;
    assert_eq!((delivery.delivery_id, delivery.attempt_count), (dead.delivery_id, 2));
    assert_eq!(delivery.attempts[1].trigger(), v1::AttemptTrigger::Replay);
    let requests = receiver.got("/hook");
    assert_eq!(ids_in(&requests), [dead.event_id.as_str(); 2]);
    assert_eq!(attempt_numbers(&requests), ["1", "2"]);
    assert_eq!(requests[0].body, requests[1].body);
}

#[tokio::test]
async fn dead_letters_are_deleted_by_id_by_filter_or_all() {
    use v1::delete_dead_letters_request::Selection;
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    server.create(observer(&receiver).one_attempt()).await;
    receiver.always_answers("/hook", BROKEN);
    let mut dead = Vec::new();
    for event_type in ["agent.offline", "agent.offline", "metric.no_data", "slo.burn_started"] {
        let event_id = server.emit(event(event_type)).await.event_id;
        dead.push(server.until(&event_id, v1::DeliveryState::DeadLettered).await);
    }
    let delete = async |selection: Selection, validate_only: bool| {
        let request = v1::DeleteDeadLettersRequest {
            organization_id: ORGANIZATION.into(),
            selection: Some(selection),
            validate_only,
        };
        server.deliveries().delete_dead_letters(request).await.unwrap().into_inner().deleted_count
    };
    let ids = v1::DeliveryIds { delivery_ids: vec![dead[0].delivery_id.clone(), "dlv_unknown".into()] };
    assert_eq!(delete(Selection::Ids(ids.clone()), true).await, 1);
    assert_eq!(server.dead_letters().await.len(), 4);
    assert_eq!(delete(Selection::Ids(ids), false).await, 1);
    let no_data = v1::DeliveryFilter { event_types: vec!["metric.no_data".into()], ..Default::default() };
    assert_eq!(delete(Selection::Filter(no_data), false).await, 1);
    assert_eq!(server.dead_letters().await.len(), 2);
    assert_eq!(delete(Selection::All(true), false).await, 2);
    assert_eq!(server.dead_letters().await, []);
    let refusal = server.try_replay(&dead[0].delivery_id).await.unwrap_err();
    assert!(matches!(refusal.code, Code::NotFound | Code::FailedPrecondition), "{refusal:?}");
}

#[tokio::test]
async fn nobody_replays_or_deletes_all_by_leaving_something_out() {
    let server = Server::start().await;
    let replay = v1::ReplayDeadLettersRequest { organization_id: ORGANIZATION.into(), ..Default::default() };
    let delete = v1::DeleteDeadLettersRequest { organization_id: ORGANIZATION.into(), ..Default::default() };
    let replay = server.deliveries().replay_dead_letters(replay).await.unwrap_err();
    let delete = server.deliveries().delete_dead_letters(delete).await.unwrap_err();
    assert_eq!((replay.code(), delete.code()), (Code::InvalidArgument, Code::InvalidArgument));
}

#[tokio::test]
async fn a_resend_sends_a_finished_delivery_once_more_with_the_same_id() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    let id = server.create(observer(&receiver)).await.destination_id;
    let event_id = server.emit(event("agent.offline")).await.event_id;
    let delivery = server.until(&event_id, v1::DeliveryState::Succeeded).await;
    server.pause(&id).await;
    let waiting = server.try_resend(&delivery.delivery_id).await.unwrap();
    assert_eq!((waiting.state(), waiting.cycle), (v1::DeliveryState::Waiting, 2));
    server.resume_destination(&id).await;
    let requests = receiver.wait_for("/hook", 2).await;
    assert_eq!(ids_in(&requests), [event_id.as_str(); 2]);
    assert_eq!(attempt_numbers(&requests), ["1", "2"]);
    let delivery = server.until(&event_id, v1::DeliveryState::Succeeded).await;
    assert_eq!(delivery.attempts[1].trigger(), v1::AttemptTrigger::Resend);
}

#[tokio::test]
async fn a_resend_brings_a_waiting_delivery_forward_to_now() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    server.create(observer(&receiver).retry_after(&[3_600_000])).await;
    receiver.will_answer("/hook", [DOWN]);
    let event_id = server.emit(event("agent.offline")).await.event_id;
    let delivery = eventually("one attempt has failed", async || {
        server.deliveries_of(&event_id).await.pop().filter(|one| one.attempt_count == 1)
    });
    let delivery = delivery.await;
    assert_eq!(delivery.reason(), v1::DeliveryReason::RetryNotDue);
    assert!(delivery.next_attempt_time.is_some());
    server.try_resend(&delivery.delivery_id).await.unwrap();
    server.until(&event_id, v1::DeliveryState::Succeeded).await;
}

#[tokio::test]
async fn a_cancelled_delivery_is_never_sent_and_can_be_cancelled_again() {
    let (mut server, receiver) = (Server::start().await, Receiver::start().await);
    let id = server.create(observer(&receiver)).await.destination_id;
    server.pause(&id).await;
    let event_id = server.emit(event("agent.offline")).await.event_id;
    let delivery_id = server.deliveries_of(&event_id).await.swap_remove(0).delivery_id;
    for _ in 0..2 {
        let cancelled = server.try_cancel(&delivery_id).await.unwrap();
        assert_eq!(cancelled.state(), v1::DeliveryState::Cancelled);
        assert_eq!(cancelled.reason(), v1::DeliveryReason::CancelledByCaller);
    }
    server.resume_destination(&id).await;
    let sent = server.emit(event("agent.offline")).await.event_id;
    let delivery = server.until(&sent, v1::DeliveryState::Succeeded).await;
    let refusal = server.try_cancel(&delivery.delivery_id).await.unwrap_err();
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::FailedPrecondition, "DELIVERY_FINISHED"));
    server.stop().await;
    assert_eq!(ids_in(&receiver.got("/hook")), [sent.as_str()]);
}

#[tokio::test]
async fn what_comes_while_a_destination_is_paused_is_kept_and_sent_in_order_afterwards() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    let draft = observer(&receiver).settings(|settings| settings.ordered = Some(true));
    let id = server.create(draft).await.destination_id;
    server.pause(&id).await;
    let mut emitted = Vec::new();
    for _ in 0..20 {
        emitted.push(server.emit(event("agent.offline")).await.event_id);
    }
    assert_eq!(receiver.got("/hook").len(), 0);
    server.resume_destination(&id).await;
    assert_eq!(ids_in(&receiver.wait_for("/hook", 20).await), emitted);
}

#[tokio::test]
async fn an_ordered_destination_holds_later_events_behind_a_failing_one() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    let draft = observer(&receiver).retry_after(&[50, 50]);
    let id = server.create(draft.settings(|settings| settings.ordered = Some(true))).await.destination_id;
    server.pause(&id).await;
    receiver.will_answer("/hook", [DOWN, DOWN]);
    for id in ["one", "two", "three"] {
        server.emit(event("agent.offline").id(id)).await;
    }
    server.resume_destination(&id).await;
    assert_eq!(ids_in(&receiver.wait_for("/hook", 5).await), ["one", "one", "one", "two", "three"]);
}

#[tokio::test]
async fn a_changed_url_takes_effect_with_the_next_request_also_for_what_waits() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    let created = server.create(observer(&receiver).retry_after(&[300; 20])).await;
    receiver.always_answers("/hook", DOWN);
    let event_id = server.emit(event("agent.offline")).await.event_id;
    receiver.first("/hook").await;
    server.update(v1::Destination { url: receiver.url("/new"), ..created }, &["url"]).await;
    let request = receiver.first("/new").await;
    assert_eq!(header(&request, "signalpost-event-id"), event_id);
    server.until(&event_id, v1::DeliveryState::Succeeded).await;
}

#[tokio::test]
async fn a_timeout_and_a_cut_connection_are_told_apart_and_repeated() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    let draft = observer(&receiver).retry_after(&[10, 10]);
    server.create(draft.settings(|settings| settings.timeout = Some(millis(1000)))).await;
    let slow = Answer::from(StatusCode::OK).after(Duration::from_secs(60));
    receiver.will_answer("/hook", [slow, Answer::cut()]);
    let event_id = server.emit(event("agent.offline")).await.event_id;
    let delivery = server.until(&event_id, v1::DeliveryState::Succeeded).await;
    let kinds: Vec<_> = delivery.attempts.iter().map(v1::Attempt::outcome_kind).collect();
    let (timed_out, reset) = (v1::OutcomeKind::TimedOut, v1::OutcomeKind::ConnectionReset);
    assert_eq!(kinds, [timed_out, reset, v1::OutcomeKind::Answered]);
}

#[tokio::test]
async fn the_first_kib_of_an_answer_is_kept_and_shown_only_in_full_view() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    server.create(observer(&receiver).one_attempt()).await;
    receiver.will_answer("/hook", [Answer::from(BROKEN).with_body("x".repeat(1500))]);
    let event_id = server.emit(event("agent.offline").data(r#"{"a": 1}"#)).await.event_id;
    let full = server.until(&event_id, v1::DeliveryState::DeadLettered).await;
    assert_eq!(full.attempts[0].response_body, "x".repeat(1024));
    assert!(full.attempts[0].response_body_truncated);
    let Some(v1::event::Data::JsonData(data)) = full.event.unwrap().data else { panic!("the event's data") };
    assert_eq!(data, r#"{"a": 1}"#);
    let request = v1::GetDeliveryRequest {
        organization_id: ORGANIZATION.into(),
        delivery_id: full.delivery_id,
        view: v1::DeliveryView::Basic.into(),
    };
    let basic = server.deliveries().get_delivery(request).await.unwrap().into_inner().delivery.unwrap();
    assert_eq!((basic.attempts[0].response_body.len(), basic.event), (0, None));
}

#[tokio::test]
async fn one_hanging_destination_costs_the_others_nothing() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    let hanging = destination(Contract::Observer).url(receiver.url("/hanging"));
    server.create(hanging.settings(|settings| settings.timeout = Some(millis(2000)))).await;
    server.create(observer(&receiver)).await;
    let never = Answer::from(StatusCode::OK).after(Duration::from_secs(3600));
    receiver.always_answers("/hanging", never);
    for _ in 0..100 {
        server.emit(event("agent.offline")).await;
    }
    receiver.wait_for("/hook", 100).await;
    assert!(receiver.got("/hanging").len() < 50, "its own lane waits");
}

#[tokio::test]
async fn stalwart_events_of_one_window_go_out_together_and_the_next_batch_waits_for_the_next() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    let draft = stalwart(&receiver, 250).settings(|settings| settings.max_batch_events = Some(2));
    let id = server.create(draft).await.destination_id;
    server.pause(&id).await;
    for number in 1..=5 {
        server.emit(event("auth.success").id(&format!("evt-{number}"))).await;
    }
    server.resume_destination(&id).await;
    let requests = receiver.wait_for("/hook", 3).await;
    assert_eq!(batches(&requests), [vec!["evt-1", "evt-2"], vec!["evt-3", "evt-4"], vec!["evt-5"]]);
    let waited = gaps(&requests);
    // A request that is late itself is closer to the next; the gap between starts is exact on paused time.
    assert!(waited.iter().all(|gap| *gap >= Duration::from_millis(150)), "{waited:?}");
}

#[tokio::test]
async fn a_batch_stays_below_its_size_and_an_event_that_is_larger_alone_goes_alone() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    let draft = stalwart(&receiver, 0).settings(|settings| settings.max_batch_bytes = Some(2048));
    let id = server.create(draft).await.destination_id;
    server.pause(&id).await;
    let data = |size: usize| format!(r#"{{"a":"{}"}}"#, "x".repeat(size));
    for (id, size) in [("a", 300), ("b", 300), ("huge", 5000), ("c", 300), ("d", 300)] {
        server.emit(event("auth.success").id(id).data(data(size))).await;
    }
    server.resume_destination(&id).await;
    let requests = receiver.wait_for("/hook", 3).await;
    assert_eq!(batches(&requests).concat(), ["a", "b", "huge", "c", "d"]);
    for request in &requests {
        let ids = event_ids(Contract::Stalwart, request);
        assert!(request.body.len() <= 2048 || ids == ["huge"], "{ids:?}: {} bytes", request.body.len());
    }
}

#[tokio::test]
async fn a_stalwart_batch_that_fails_is_repeated_in_its_order() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    let id = server.create(stalwart(&receiver, 50).retry_after(&[50; 5])).await.destination_id;
    server.pause(&id).await;
    receiver.will_answer("/hook", [DOWN, BROKEN]);
    for number in 1..=3 {
        server.emit(event("auth.success").id(&format!("evt-{number}"))).await;
    }
    server.resume_destination(&id).await;
    let requests = receiver.wait_for("/hook", 3).await;
    assert_eq!(batches(&requests), [["evt-1", "evt-2", "evt-3"]; 3]);
    let delivery = server.until("evt-2", v1::DeliveryState::Succeeded).await;
    assert_eq!((delivery.attempt_count, delivery.attempts[0].batch_size), (3, 3));
}

#[tokio::test]
async fn stalwart_events_are_discarded_when_they_are_too_old_also_while_they_wait() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    let discarding =
        |draft: DestinationDraft| draft.settings(|settings| settings.discard_after = Some(millis(1000)));
    let failing = stalwart(&receiver, 0).include(&["auth.failure"]).retry_after(&[100; 30]);
    server.create(discarding(failing)).await;
    let held = server.create(discarding(stalwart(&receiver, 0).include(&["auth.success"]))).await;
    server.pause(&held.destination_id).await;
    receiver.always_answers("/hook", DOWN);
    for event_type in ["auth.failure", "auth.success"] {
        let event_id = server.emit(event(event_type)).await.event_id;
        let delivery = server.until(&event_id, v1::DeliveryState::Discarded).await;
        assert_eq!(delivery.reason(), v1::DeliveryReason::TooOld, "{event_type}");
    }
    assert_eq!(server.dead_letters().await, []);
}

#[tokio::test]
async fn a_lossy_destination_drops_on_the_record_while_it_fails_and_keeps_nothing_back_afterwards() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    let draft = stalwart(&receiver, 0).settings(|settings| settings.lossy = Some(true));
    server.create(draft).await;
    receiver.will_answer("/hook", [DOWN]);
    let lost = server.emit(event("auth.success")).await.event_id;
    let delivery = server.until(&lost, v1::DeliveryState::Discarded).await;
    assert_eq!((delivery.reason(), delivery.attempt_count), (v1::DeliveryReason::Lossy, 1));
    let kept = server.emit(event("auth.success")).await.event_id;
    server.until(&kept, v1::DeliveryState::Succeeded).await;
}

#[tokio::test]
async fn a_minimum_level_really_filters() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    let draft = stalwart(&receiver, 0).with(|one| {
        one.subscription.get_or_insert_default().minimum_level = v1::Level::Warn.into();
    });
    server.create(draft).await;
    for (level, count) in [
        (v1::Level::Trace, 0),
        (v1::Level::Debug, 0),
        (v1::Level::Unspecified, 0),
        (v1::Level::Info, 0),
        (v1::Level::Warn, 1),
        (v1::Level::Error, 1),
    ] {
        let result = server.emit(event("auth.success").level(level)).await;
        assert_eq!(result.delivery_count, count, "{level:?}");
    }
}

#[tokio::test]
async fn include_and_exclude_are_taken_word_by_word() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    let draft = |path: &str| destination(Contract::StandardWebhooks).url(receiver.url(path));
    server.create(draft("/include").include(&["a.b"])).await;
    server.create(draft("/exclude").exclude(&["a.b"])).await;
    server.create(draft("/all")).await;
    let count = async |event_type: &str| server.emit(event(event_type)).await.delivery_count;
    // There are no wildcards and no prefixes.
    assert_eq!(
        [count("a.b").await, count("a.b.c").await, count("a").await, count("A.B").await],
        [2, 2, 2, 2]
    );
    assert_eq!(receiver.wait_for("/include", 1).await.len(), 1);
    assert_eq!(receiver.wait_for("/exclude", 3).await.len(), 3);
    assert_eq!(receiver.wait_for("/all", 4).await.len(), 4);
}

#[tokio::test]
async fn best_effort_deliveries_are_counted_and_flushed_at_a_clean_stop() {
    let (mut server, receiver) = (Server::start().await, Receiver::start().await);
    let draft = destination(Contract::Semaphor).url(receiver.url("/hook"));
    server.create(draft.settings(|settings| settings.max_concurrency = Some(1))).await;
    receiver.always_answers("/hook", Answer::from(StatusCode::OK).after(Duration::from_millis(20)));
    let mut emitted = Vec::new();
    for _ in 0..20 {
        let result = server.emit(event("query_failed")).await;
        assert_eq!((result.delivery_count, result.best_effort_count), (1, 1));
        emitted.push(result.event_id);
    }
    server.stop().await;
    assert_eq!(ids_in(&receiver.got("/hook")), emitted);
}

#[tokio::test]
async fn a_best_effort_delivery_ends_discarded_on_the_record_and_is_no_dead_letter() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    server.create(destination(Contract::Semaphor).url(receiver.url("/hook"))).await;
    receiver.always_answers("/hook", BROKEN);
    let event_id = server.emit(event("query_failed")).await.event_id;
    let delivery = server.until(&event_id, v1::DeliveryState::Discarded).await;
    assert_eq!(delivery.attempt_count, 2);
    let waited = gaps(&receiver.got("/hook"))[0];
    assert!(waited >= Duration::from_millis(250), "{waited:?}");
    assert_eq!(server.dead_letters().await, []);
}

#[tokio::test]
async fn without_the_variable_semaphors_webhooks_are_not_available_and_nothing_is_sent() {
    let off = ("delivery.enterprise_telemetry_enabled", "false");
    let (mut server, receiver) = (Server::with(&[off]).await, Receiver::start().await);
    let id = server.create(destination(Contract::Semaphor).url(receiver.url("/hook"))).await.destination_id;
    server.create(observer(&receiver)).await;
    let emitted = server.try_emit(event("query_failed")).await.unwrap_err();
    let tested = server.try_test(Subject::DestinationId(id), "").await.unwrap_err();
    for refusal in [emitted, tested] {
        assert_eq!(
            (refusal.code, refusal.reason.as_str()),
            (Code::FailedPrecondition, "DELIVERY_NOT_AVAILABLE")
        );
        assert!(refusal.message.contains("Webhook delivery is not available"), "{}", refusal.message);
        assert!(refusal.message.contains("ENTERPRISE_TELEMETRY_ENABLED"), "{}", refusal.message);
        assert_eq!(refusal.metadata["setting"], "ENTERPRISE_TELEMETRY_ENABLED");
    }
    server.emit(event("agent.offline")).await;
    receiver.first("/hook").await;
    server.stop().await;
    assert_eq!(receiver.got("/hook").len(), 1, "the other contracts go on");
}

#[tokio::test]
async fn a_restart_continues_where_it_was_and_attempt_numbers_go_on() {
    let (mut server, receiver) = (Server::start().await, Receiver::start().await);
    let id = server.create(observer(&receiver).retry_after(&[1500, 10])).await.destination_id;
    receiver.will_answer("/hook", [DOWN]);
    let event_id = server.emit(event("agent.offline").data(r#"{"n":1.0}"#)).await.event_id;
    eventually("one attempt is on the record", async || {
        server.deliveries_of(&event_id).await.pop().filter(|one| one.attempt_count == 1)
    })
    .await;
    server.restart().await;
    assert!(server.health(&id).await.last_error.contains("503"), "health is kept too");
    let requests = receiver.wait_for("/hook", 2).await;
    assert_eq!(attempt_numbers(&requests), ["1", "2"]);
    assert_eq!(requests[0].body, requests[1].body);
    assert!(gaps(&requests)[0] >= Duration::from_millis(1500), "a restart is no reason to hurry");
    let delivery = server.until(&event_id, v1::DeliveryState::Succeeded).await;
    assert_eq!((delivery.attempt_count, delivery.attempts.len()), (2, 2));
}

#[tokio::test]
async fn what_waits_beyond_the_window_in_memory_is_delivered_too_in_order_after_a_restart() {
    let (mut server, receiver) = (Server::with(&[("delivery.window", "4")]).await, Receiver::start().await);
    let draft = observer(&receiver).settings(|settings| settings.ordered = Some(true));
    let id = server.create(draft).await.destination_id;
    server.pause(&id).await;
    let many = (0..60).map(|number| event("agent.offline").id(&format!("evt-{number}"))).collect();
    server.emit_batch(many).await;
    server.restart().await;
    assert_eq!(server.get(&id).await.state(), v1::DestinationState::Paused);
    server.resume_destination(&id).await;
    let expected: Vec<String> = (0..60).map(|number| format!("evt-{number}")).collect();
    assert_eq!(ids_in(&receiver.wait_for("/hook", 60).await), expected);
    server.until("evt-59", v1::DeliveryState::Succeeded).await;
    server.restart().await;
    server.stop().await;
    assert_eq!(receiver.got("/hook").len(), 60, "an orderly stop repeats nothing");
}

#[tokio::test]
async fn deliveries_are_listed_latest_first_by_every_filter_and_page_by_page() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    let id = server.create(observer(&receiver).one_attempt()).await.destination_id;
    let mut emitted = Vec::new();
    for number in 0..5 {
        let (event_type, answer) =
            if number == 2 { ("metric.no_data", BROKEN) } else { ("agent.offline", StatusCode::OK) };
        receiver.will_answer("/hook", [answer]);
        let event_id = server.emit(event(event_type)).await.event_id;
        let state = if number == 2 { v1::DeliveryState::DeadLettered } else { v1::DeliveryState::Succeeded };
        emitted.push(server.until(&event_id, state).await);
    }
    let latest_first: Vec<String> = emitted.iter().rev().map(|one| one.event_id.clone()).collect();
    let ids = |list: Vec<v1::Delivery>| list.into_iter().map(|one| one.event_id).collect::<Vec<_>>();
    let any = v1::DeliveryFilter::default;
    assert_eq!(ids(server.list(any()).await), latest_first);
    assert_eq!(ids(server.list(v1::DeliveryFilter { destination_id: id, ..any() }).await), latest_first);
    let dead = [latest_first[2].clone()];
    let states = vec![v1::DeliveryState::DeadLettered.into()];
    assert_eq!(ids(server.list(v1::DeliveryFilter { states, ..any() }).await), dead);
    let event_types = vec!["metric.no_data".to_owned()];
    assert_eq!(ids(server.list(v1::DeliveryFilter { event_types, ..any() }).await), dead);
    let start_time = emitted[3].create_time;
    assert_eq!(ids(server.list(v1::DeliveryFilter { start_time, ..any() }).await), latest_first[..2]);
    let end_time = emitted[3].create_time;
    assert_eq!(ids(server.list(v1::DeliveryFilter { end_time, ..any() }).await), latest_first[2..]);

    let (mut paged, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = v1::ListDeliveriesRequest {
            organization_id: ORGANIZATION.into(),
            page_size: 2,
            page_token,
            ..v1::ListDeliveriesRequest::default()
        };
        let page = server.deliveries().list_deliveries(request).await.unwrap().into_inner();
        assert!(page.deliveries.len() <= 2);
        paged.extend(ids(page.deliveries));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(paged, latest_first);
}

#[tokio::test]
async fn a_range_of_time_that_ends_before_it_begins_is_refused() {
    let server = Server::start().await;
    let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    let filter = v1::DeliveryFilter { start_time: at(9), end_time: at(3), ..v1::DeliveryFilter::default() };
    let request = v1::ListDeliveriesRequest {
        organization_id: ORGANIZATION.into(),
        filter: Some(filter),
        ..v1::ListDeliveriesRequest::default()
    };
    let refusal = Refusal::from(server.deliveries().list_deliveries(request).await.unwrap_err());
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::InvalidArgument, "TIME_RANGE_INVALID"));
}

#[tokio::test]
async fn what_was_delivered_stays_readable_after_its_destination_is_deleted() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    let id = server.create(destination(Contract::Observer).url(receiver.url("/hook"))).await.destination_id;
    let event_id = server.emit(event("agent.offline")).await.event_id;
    let delivery = server.until(&event_id, v1::DeliveryState::Succeeded).await;
    let request = v1::DeleteDestinationRequest {
        organization_id: ORGANIZATION.into(),
        destination_id: id.clone(),
        etag: String::new(),
    };
    server.destinations().delete_destination(request).await.unwrap();
    assert_eq!(server.delivery(&delivery.delivery_id).await.state(), v1::DeliveryState::Succeeded);
    let of_it = v1::DeliveryFilter { destination_id: id.clone(), ..v1::DeliveryFilter::default() };
    assert_eq!(server.list(of_it).await.len(), 1, "by destination");
    assert_eq!(server.deliveries_of(&event_id).await.len(), 1, "by event");
    server.try_resend(&delivery.delivery_id).await.unwrap_err().assert_not_found("destination", &id);
}

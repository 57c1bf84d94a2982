//! Explaining: what became of an event at each destination, by which rule, and what happens next.

use std::time::Duration;

use http::StatusCode;
use signalpost::domain::contract::Contract;
use signalpost::grpc::proto::v1;
use signalpost::receiver::Answer;

use crate::harness::{
    DestinationDraft, ORGANIZATION, Receiver, Refusal, Server, destination, event, eventually,
};

fn observer(receiver: &Receiver, name: &str) -> DestinationDraft {
    destination(Contract::Observer).url(receiver.url(&format!("/{name}"))).name(name)
}

fn request(event_id: &str) -> v1::ExplainEventRequest {
    v1::ExplainEventRequest {
        organization_id: ORGANIZATION.into(),
        event_id: event_id.into(),
        ..v1::ExplainEventRequest::default()
    }
}

impl Server {
    async fn explain(&self, event_id: &str) -> v1::ExplainEventResponse {
        self.deliveries().explain_event(request(event_id)).await.unwrap().into_inner()
    }

    /// What is told of one destination, once it is that.
    async fn explained(
        &self,
        event_id: &str,
        destination: &v1::Destination,
        verdict: v1::EventVerdict,
    ) -> v1::DestinationExplanation {
        eventually(verdict.as_str_name(), async || {
            let rows = self.explain(event_id).await.explanations;
            let row = rows.into_iter().find(|row| row.destination_id == destination.destination_id);
            row.filter(|row| row.verdict() == verdict)
        })
        .await
    }
}

#[tokio::test]
async fn every_destination_is_told_by_the_rule_that_decided() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    let ok = server.create(observer(&receiver, "ok")).await;
    let other = server.create(observer(&receiver, "other").include(&["page.status_changed"])).await;
    let dead = server.create(observer(&receiver, "dead").one_attempt()).await;
    let retried = server.create(observer(&receiver, "retried").retry_after(&[3_600_000])).await;
    let paused = server.create(observer(&receiver, "paused")).await;
    let foreign = server.create(destination(Contract::Workspace).url(receiver.url("/workspace"))).await;
    let stalwart = destination(Contract::Stalwart).url(receiver.url("/stalwart")).with(|one| {
        one.subscription.get_or_insert_default().minimum_level = v1::Level::Error.into();
    });
    let quiet = server.create(stalwart).await;
    server.pause(&paused.destination_id).await;
    receiver.always_answers("/dead", StatusCode::INTERNAL_SERVER_ERROR);
    receiver.always_answers("/retried", StatusCode::INTERNAL_SERVER_ERROR);
    server.emit(event("agent.offline").id("before")).await;
    server.emit(event("agent.offline").id("evt-1")).await;
    let late = server.create(observer(&receiver, "late")).await;

    let row = server.explained("evt-1", &ok, v1::EventVerdict::Succeeded).await;
    assert_eq!((row.display_name.as_str(), row.delivery.unwrap().attempts.len()), ("ok", 1));
    let row = server.explained("evt-1", &other, v1::EventVerdict::NotSubscribed).await;
    assert_eq!(row.deciding_field, "subscription.event_types");
    assert_eq!(row.explanation, "the subscription includes only page.status_changed");
    assert!(row.delivery.is_none() && !row.changed_since);
    let row = server.explained("evt-1", &foreign, v1::EventVerdict::NotSubscribed).await;
    assert_eq!(row.deciding_field, "contract");
    let row = server.explained("evt-1", &quiet, v1::EventVerdict::BelowLevel).await;
    assert_eq!(row.explanation, "the event's level info is below the minimum error");
    server.explained("evt-1", &dead, v1::EventVerdict::DeadLettered).await;
    let row = server.explained("evt-1", &retried, v1::EventVerdict::Waiting).await;
    let delivery = row.delivery.unwrap();
    assert_eq!(delivery.reason(), v1::DeliveryReason::RetryNotDue);
    assert!(delivery.next_attempt_time.is_some() && row.explanation.contains("not before"));
    let row = server.explained("evt-1", &paused, v1::EventVerdict::Paused).await;
    assert_eq!((row.ahead_count, row.changed_since), (Some(1), false));
    let delivery = row.delivery.unwrap();
    assert_eq!(delivery.reason(), v1::DeliveryReason::DestinationPaused);
    assert_eq!(delivery.next_attempt_time, None);
    server.explained("evt-1", &late, v1::EventVerdict::CreatedLater).await;

    let mut all = server.explain("evt-1").await;
    assert_eq!(all.event.unwrap().event_id.as_deref(), Some("evt-1"));
    assert!(all.accept_time.is_some() && all.erase_time.is_none());
    let mut paged = Vec::new();
    let mut page = v1::ExplainEventRequest { page_size: 2, ..request("evt-1") };
    loop {
        let answer = server.deliveries().explain_event(page.clone()).await.unwrap().into_inner();
        paged.extend(answer.explanations.into_iter().map(|row| row.destination_id));
        page.page_token = answer.next_page_token;
        if page.page_token.is_empty() {
            break;
        }
    }
    assert_eq!(paged, all.explanations.iter().map(|row| row.destination_id.clone()).collect::<Vec<_>>());
    all.explanations.retain(|row| row.destination_id == ok.destination_id);
    let one = v1::ExplainEventRequest { destination_id: ok.destination_id.clone(), ..request("evt-1") };
    let one = server.deliveries().explain_event(one).await.unwrap().into_inner();
    assert_eq!(one.explanations, all.explanations);
}

#[tokio::test]
async fn an_attempt_under_way_shows_as_in_flight_everywhere() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    let to = server.create(observer(&receiver, "slow")).await;
    receiver.will_answer("/slow", [Answer::from(StatusCode::OK).after(Duration::from_secs(9))]);
    server.emit(event("agent.offline").id("evt-1")).await;
    receiver.wait_for("/slow", 1).await;
    let row = server.explained("evt-1", &to, v1::EventVerdict::InFlight).await;
    let delivery = row.delivery.unwrap();
    assert_eq!(delivery.state(), v1::DeliveryState::InFlight);
    assert_eq!(server.delivery(&delivery.delivery_id).await.state(), v1::DeliveryState::InFlight);
    for (state, count) in [(v1::DeliveryState::InFlight, 1), (v1::DeliveryState::Waiting, 0)] {
        let states = vec![state.into()];
        let filter = v1::DeliveryFilter { states, ..v1::DeliveryFilter::default() };
        assert_eq!(server.list(filter).await.len(), count, "{}", state.as_str_name());
    }
}

#[tokio::test]
async fn a_deleted_destination_is_told_by_its_delivery_and_a_strange_event_is_not_found() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    let to = server.create(observer(&receiver, "gone")).await;
    server.emit(event("agent.offline").id("evt-1")).await;
    server.explained("evt-1", &to, v1::EventVerdict::Succeeded).await;
    let request_to_delete = v1::DeleteDestinationRequest {
        organization_id: ORGANIZATION.into(),
        destination_id: to.destination_id.clone(),
        ..v1::DeleteDestinationRequest::default()
    };
    server.destinations().delete_destination(request_to_delete).await.unwrap();
    let row = server.explained("evt-1", &to, v1::EventVerdict::Succeeded).await;
    assert!(row.changed_since && row.display_name.is_empty());
    let refusal: Refusal = server.deliveries().explain_event(request("evt-2")).await.unwrap_err().into();
    refusal.assert_not_found("event", "evt-2");
}

/// The reason and the time of what waits, once the reason is that.
async fn waits(
    server: &Server,
    event_id: &str,
    to: &v1::Destination,
    reason: v1::DeliveryReason,
) -> v1::DestinationExplanation {
    eventually(reason.as_str_name(), async || {
        let rows = server.explain(event_id).await.explanations;
        let row = rows.into_iter().find(|row| row.destination_id == to.destination_id);
        row.filter(|row| row.delivery.as_ref().is_some_and(|delivery| delivery.reason() == reason))
    })
    .await
}

#[tokio::test]
async fn what_an_open_circuit_holds_says_so_and_when_it_is_probed() {
    let (server, receiver) =
        (Server::with(&[("delivery.circuit_opens_after", "1")]).await, Receiver::start().await);
    let to = server.create(observer(&receiver, "down").retry_after(&[3_600_000])).await;
    receiver.always_answers("/down", StatusCode::INTERNAL_SERVER_ERROR);
    server.emit(event("agent.offline").id("first")).await;
    waits(&server, "first", &to, v1::DeliveryReason::RetryNotDue).await;
    server.emit(event("agent.offline").id("held")).await;
    let row = waits(&server, "held", &to, v1::DeliveryReason::CircuitOpen).await;
    assert_eq!(row.verdict(), v1::EventVerdict::Waiting);
    let probe = server.health(&to.destination_id).await.next_probe_time;
    assert_eq!(row.delivery.unwrap().next_attempt_time, probe);
}

#[tokio::test]
async fn of_an_ordered_destination_only_those_behind_the_first_are_held_by_order() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    let draft = observer(&receiver, "ordered").retry_after(&[3_600_000]);
    let to = server.create(draft.settings(|settings| settings.ordered = Some(true))).await;
    receiver.always_answers("/ordered", StatusCode::INTERNAL_SERVER_ERROR);
    for id in ["first", "second"] {
        server.emit(event("agent.offline").id(id)).await;
    }
    let first = waits(&server, "first", &to, v1::DeliveryReason::RetryNotDue).await;
    let second = waits(&server, "second", &to, v1::DeliveryReason::OrderHeld).await;
    assert_eq!(second.deciding_field, "settings.ordered");
    let next = |row: v1::DestinationExplanation| row.delivery.unwrap().next_attempt_time.unwrap();
    assert!(next(second).seconds >= next(first).seconds - 1);
}

#[tokio::test]
async fn what_waits_at_a_disabled_destination_and_what_ended_is_told_as_that() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    let gone = destination(Contract::StandardWebhooks).url(receiver.url("/gone")).retry_after(&[3_600_000]);
    let gone = server.create(gone).await;
    let cancelled = server.create(observer(&receiver, "cancelled")).await;
    let lossy = destination(Contract::Stalwart).url(receiver.url("/lossy"));
    let lossy = server
        .create(lossy.settings(|settings| settings.discard_after = Some(crate::harness::millis(1_000))))
        .await;
    server.pause(&cancelled.destination_id).await;
    receiver.will_answer("/gone", [StatusCode::INTERNAL_SERVER_ERROR, StatusCode::GONE]);
    receiver.always_answers("/lossy", StatusCode::INTERNAL_SERVER_ERROR);
    server.emit(event("agent.offline").id("evt-1")).await;
    receiver.wait_for("/gone", 1).await;
    server.emit(event("agent.offline").id("evt-2")).await;
    let row = server.explained("evt-1", &cancelled, v1::EventVerdict::Paused).await;
    server.try_cancel(&row.delivery.unwrap().delivery_id).await.unwrap();
    let row = server.explained("evt-1", &cancelled, v1::EventVerdict::Cancelled).await;
    assert_eq!(row.delivery.unwrap().reason(), v1::DeliveryReason::CancelledByCaller);
    let row = server.explained("evt-1", &lossy, v1::EventVerdict::Discarded).await;
    assert_eq!(row.delivery.unwrap().reason(), v1::DeliveryReason::TooOld);
    // The answer to the second event disables the destination, and the first one is held there.
    let row = server.explained("evt-1", &gone, v1::EventVerdict::Disabled).await;
    let delivery = row.delivery.unwrap();
    assert_eq!(delivery.reason(), v1::DeliveryReason::DestinationDisabled);
    assert_eq!((delivery.next_attempt_time, row.ahead_count.is_some()), (None, true));
}

#[tokio::test]
async fn where_the_operator_has_switched_delivering_off_what_waits_says_so() {
    let home = crate::binary::Home::new();
    let receiver = Receiver::start().await;
    let process = home.start_with(&[("ENTERPRISE_TELEMETRY_ENABLED", "true")]).await;
    receiver.always_answers("/off", StatusCode::INTERNAL_SERVER_ERROR);
    let draft = destination(Contract::Semaphor).url(receiver.url("/off")).retry_after(&[3_600_000]);
    let draft = draft.settings(|settings| settings.guarantee = v1::Guarantee::AtLeastOnce.into());
    process.create(draft).await;
    process.emit(event("query_failed").id("evt-1")).await;
    receiver.wait_for("/off", 1).await;
    process.terminate().await;
    let process = home.start().await;
    let mut client = v1::delivery_admin_client::DeliveryAdminClient::new(process.channel.clone());
    let row = client.explain_event(request("evt-1")).await.unwrap().into_inner().explanations.remove(0);
    let delivery = row.delivery.unwrap();
    assert_eq!(
        (row.verdict, delivery.reason()),
        (v1::EventVerdict::Waiting.into(), v1::DeliveryReason::SwitchedOff)
    );
    assert_eq!(delivery.next_attempt_time, None);
}

#[tokio::test]
async fn an_operational_event_about_a_destination_that_listens_for_it_says_why_it_is_not_sent_there() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    let rotated = "signalpost.secret.rotated";
    let listener = |name: &str| {
        let draft =
            destination(Contract::StandardWebhooks).url(receiver.url(&format!("/{name}"))).include(&[]);
        draft.with(|one| {
            one.subscription.get_or_insert_default().operational_event_types = vec![rotated.into()];
        })
    };
    let (one, other) = (server.create(listener("one")).await, server.create(listener("other")).await);
    let request = v1::RotateSecretRequest {
        organization_id: ORGANIZATION.into(),
        destination_id: one.destination_id.clone(),
        ..v1::RotateSecretRequest::default()
    };
    server.destinations().rotate_secret(request).await.unwrap();
    let told = receiver.first("/other").await;
    let event_id = crate::harness::header(&told, "webhook-id").to_owned();
    server.explained(&event_id, &other, v1::EventVerdict::Succeeded).await;
    server.explained(&event_id, &one, v1::EventVerdict::AboutItself).await;
}

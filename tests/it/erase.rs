//! Erasing: the data of an event, an organization; and what waits for a destination that is deleted.

use std::time::Duration;

use http::StatusCode;
use signalpost::domain::contract::Contract;
use signalpost::grpc::proto::v1;
use signalpost::receiver::Answer;
use tonic::Code;

use crate::harness::{
    DestinationDraft, ORGANIZATION, Receiver, Refusal, Server, destination, event, eventually,
};

fn observer(receiver: &Receiver) -> DestinationDraft {
    destination(Contract::Observer).url(receiver.url("/hook"))
}

impl Server {
    async fn erase(&self, event_id: &str) -> Result<v1::EraseEventDataResponse, Refusal> {
        let request =
            v1::EraseEventDataRequest { organization_id: ORGANIZATION.into(), event_id: event_id.into() };
        Ok(self.deliveries().erase_event_data(request).await?.into_inner())
    }

    async fn delete_organization(
        &self,
        confirmation: &str,
    ) -> Result<v1::DeleteOrganizationResponse, Refusal> {
        let request = v1::DeleteOrganizationRequest {
            organization_id: ORGANIZATION.into(),
            confirm_organization_id: confirmation.into(),
            etag: String::new(),
        };
        Ok(self.organizations().delete_organization(request).await?.into_inner())
    }

    async fn delete(&self, destination_id: &str) {
        let request = v1::DeleteDestinationRequest {
            organization_id: ORGANIZATION.into(),
            destination_id: destination_id.into(),
            ..v1::DeleteDestinationRequest::default()
        };
        self.destinations().delete_destination(request).await.unwrap();
    }
}

#[tokio::test]
async fn erased_data_is_never_read_or_sent_again() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    server.create(observer(&receiver).name("done")).await;
    server.emit(event("agent.offline").id("evt-1").data(r#"{"secret":"planted"}"#)).await;
    let delivery = server.until("evt-1", v1::DeliveryState::Succeeded).await;
    let held = server.create(observer(&receiver).url(receiver.url("/held"))).await;
    server.pause(&held.destination_id).await;
    server.emit(event("agent.offline").id("evt-2").data(r#"{"secret":"planted"}"#)).await;
    receiver.wait_for("/hook", 2).await;
    let erased = eventually("evt-2 is not in flight", async || server.erase("evt-2").await.ok()).await;
    assert_eq!(erased.cancelled_count, 1);
    let first = server.erase("evt-1").await.unwrap();
    assert_eq!(first.cancelled_count, 0);
    assert_eq!(server.erase("evt-1").await.unwrap().erase_time, first.erase_time);

    let delivery = server.delivery(&delivery.delivery_id).await;
    assert_eq!((delivery.state(), delivery.event.unwrap().data), (v1::DeliveryState::Succeeded, None));
    let refusal = server.try_resend(&delivery.delivery_id).await.unwrap_err();
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::FailedPrecondition, "EVENT_DATA_ERASED"));
    let waited = server.deliveries_of("evt-2").await;
    let ended = waited.iter().find(|one| one.destination_id == held.destination_id).unwrap();
    assert_eq!(ended.state(), v1::DeliveryState::Discarded);
    assert_eq!(ended.reason(), v1::DeliveryReason::EventDataErased);
    server.resume_destination(&held.destination_id).await;
    server.emit(event("agent.offline").id("evt-3")).await;
    let request = receiver.first("/held").await;
    assert_eq!(request.headers.get("signalpost-event-id").unwrap(), "evt-3");
    server.erase("evt-9").await.unwrap_err().assert_not_found("event", "evt-9");
}

#[tokio::test]
async fn data_in_flight_is_not_erased() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    server.create(observer(&receiver)).await;
    receiver.will_answer("/hook", [Answer::from(StatusCode::OK).after(Duration::from_secs(9))]);
    server.emit(event("agent.offline").id("evt-1")).await;
    receiver.first("/hook").await;
    let refusal = server.erase("evt-1").await.unwrap_err();
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::FailedPrecondition, "DELIVERY_IN_FLIGHT"));
}

#[tokio::test]
async fn an_erased_organization_is_gone_at_once_and_its_id_is_free_in_the_end() {
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    let held = server.create(observer(&receiver)).await;
    server.pause(&held.destination_id).await;
    let other = server.try_create_in("org_other", observer(&receiver)).await.unwrap();
    for number in 0..200 {
        server.emit(event("agent.offline").id(&format!("evt-{number}"))).await;
    }
    let delivery = server.deliveries_of("evt-0").await.remove(0);
    for confirmation in ["", "org_other"] {
        let refusal = server.delete_organization(confirmation).await.unwrap_err();
        assert_eq!(refusal.reason, "CONFIRMATION_MISSING");
    }
    let erased = server.delete_organization(ORGANIZATION).await.unwrap();
    assert_eq!((erased.destination_count, erased.cancelled_count), (1, 200));
    assert_eq!(server.try_get(&held.destination_id).await.unwrap_err().code, Code::NotFound);
    assert_eq!(server.try_delivery(&delivery.delivery_id).await.unwrap_err().code, Code::NotFound);
    eventually("the id is free again", async || match server.delete_organization(ORGANIZATION).await {
        Ok(_) => None,
        Err(refusal) => {
            refusal.assert_not_found("organization", ORGANIZATION);
            Some(())
        }
    })
    .await;
    assert!(!server.emit(event("agent.offline").id("evt-0")).await.duplicate);
    assert_eq!(server.try_delivery(&delivery.delivery_id).await.unwrap_err().code, Code::NotFound);
    server.try_emit_in("org_other", event("agent.offline").id("theirs")).await.unwrap();
    assert_eq!(receiver.first("/hook").await.headers.get("signalpost-event-id").unwrap(), "theirs");
    assert!(!other.destination_id.is_empty());
}

#[tokio::test]
async fn what_waits_for_a_deleted_destination_is_discarded_also_after_a_restart() {
    let (mut server, receiver) = (Server::start().await, Receiver::start().await);
    receiver.always_answers("/hook", StatusCode::INTERNAL_SERVER_ERROR);
    let to = server.create(observer(&receiver).retry_after(&[3_600_000])).await;
    server.emit(event("agent.offline").id("retried")).await;
    receiver.first("/hook").await;
    eventually("the retry waits", async || {
        let one = server.deliveries_of("retried").await.remove(0);
        (one.reason() == v1::DeliveryReason::RetryNotDue).then_some(())
    })
    .await;
    server.pause(&to.destination_id).await;
    server.emit(event("agent.offline").id("fresh")).await;
    // Deleted without a lane that could do anything about it: nothing is delivered at all.
    server.restart_with(&[("delivery.enabled", "false")]).await;
    server.delete(&to.destination_id).await;
    server.restart_with(&[("delivery.enabled", "true")]).await;
    for event_id in ["retried", "fresh"] {
        let ended = server.until(event_id, v1::DeliveryState::Discarded).await;
        assert_eq!(ended.reason(), v1::DeliveryReason::DestinationDeleted);
    }
    assert_eq!(receiver.got("/hook").len(), 1);
}

//! `DeliveryAdmin`: what happened to events, and acting on it.

use std::pin::Pin;
use std::sync::Arc;

use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::context::Context;
use super::convert::delivery::{Attempts, read_dead_letter_filter, read_filter, write_delivery};
use super::convert::explain::{add_standing, write_event_head, write_explained};
use super::convert::replay::{
    read_dead_letters, read_deliveries, read_order, read_states, write_check, write_replay,
};
use super::convert::selection::read_delete_selection;
use super::convert::time::write_timestamp;
use super::convert::{count, known};
use super::interceptor::{admission, caller};
use super::page::Pages;
use super::proto::v1;
use super::proto::v1::delivery_admin_server::DeliveryAdmin;
use super::status::{invalid, status};
use super::watch;
use crate::domain::delivery::Delivery;
use crate::domain::id::{DeliveryId, DestinationId, ReplayId};
use crate::domain::violation::Violations;

/// The service.
pub struct DeliveryAdminService {
    context: Context,
}

impl DeliveryAdminService {
    /// The service over the use cases.
    #[must_use]
    pub fn new(context: Context) -> Self {
        Self { context }
    }

    fn write(&self, delivery: &Delivery, attempts: Attempts) -> v1::Delivery {
        add_standing(write_delivery(delivery, attempts), self.context.control.standing(delivery))
    }
}

#[tonic::async_trait]
impl DeliveryAdmin for DeliveryAdminService {
    async fn list_deliveries(
        &self,
        request: Request<v1::ListDeliveriesRequest>,
    ) -> Result<Response<v1::ListDeliveriesResponse>, Status> {
        let caller = caller(&request)?;
        let mut request = request.into_inner();
        let mut found = Violations::new();
        let (pages, page) = Pages::open::<_, DeliveryId>(&mut request, &mut found);
        let filter = read_filter(request.filter, &mut found);
        found.into_result(()).map_err(invalid)?;
        let control = &self.context.control;
        let listed = control.list_deliveries(&caller, &request.organization_id, filter, page).await;
        let listed = listed.map_err(status)?;
        Ok(Response::new(v1::ListDeliveriesResponse {
            deliveries: listed.rows.iter().map(|row| self.write(row, Attempts::None)).collect(),
            next_page_token: pages.next_token(listed.next),
        }))
    }

    async fn get_delivery(
        &self,
        request: Request<v1::GetDeliveryRequest>,
    ) -> Result<Response<v1::GetDeliveryResponse>, Status> {
        let caller = caller(&request)?;
        let v1::GetDeliveryRequest { organization_id, delivery_id, view } = request.into_inner();
        let mut found = Violations::new();
        let with_bodies = known(view, "view", &mut found) == Some(v1::DeliveryView::Full);
        found.into_result(()).map_err(invalid)?;
        let control = &self.context.control;
        let delivery = control.get_delivery(&caller, &organization_id, &delivery_id).await.map_err(status)?;
        let mut written = self.write(&delivery, Attempts::All { with_bodies });
        if with_bodies {
            let event = control.event_of(&delivery).await.map_err(status)?;
            written.event = event.as_deref().map(|event| write_event_head(event, true));
        }
        Ok(Response::new(v1::GetDeliveryResponse { delivery: Some(written) }))
    }

    type WatchDeliveriesStream =
        Pin<Box<dyn Stream<Item = Result<v1::WatchDeliveriesResponse, Status>> + Send>>;

    async fn watch_deliveries(
        &self,
        request: Request<v1::WatchDeliveriesRequest>,
    ) -> Result<Response<Self::WatchDeliveriesStream>, Status> {
        let (caller, admission) = (caller(&request)?, admission(&request)?);
        let answers = watch::open(&self.context, (&caller, admission), request.into_inner()).await?;
        Ok(Response::new(Box::pin(answers)))
    }

    async fn resend_delivery(
        &self,
        request: Request<v1::ResendDeliveryRequest>,
    ) -> Result<Response<v1::ResendDeliveryResponse>, Status> {
        let caller = caller(&request)?;
        let v1::ResendDeliveryRequest { organization_id, delivery_id } = request.into_inner();
        let control = Arc::clone(&self.context.control);
        let resend = async move { control.resend_delivery(&caller, &organization_id, &delivery_id).await };
        let delivery = Some(self.write(&self.context.finish(resend).await?, Attempts::None));
        Ok(Response::new(v1::ResendDeliveryResponse { delivery }))
    }

    async fn cancel_delivery(
        &self,
        request: Request<v1::CancelDeliveryRequest>,
    ) -> Result<Response<v1::CancelDeliveryResponse>, Status> {
        let caller = caller(&request)?;
        let v1::CancelDeliveryRequest { organization_id, delivery_id } = request.into_inner();
        let control = Arc::clone(&self.context.control);
        let cancel = async move { control.cancel_delivery(&caller, &organization_id, &delivery_id).await };
        let delivery = Some(self.write(&self.context.finish(cancel).await?, Attempts::None));
        Ok(Response::new(v1::CancelDeliveryResponse { delivery }))
    }

    async fn list_dead_letters(
        &self,
        request: Request<v1::ListDeadLettersRequest>,
    ) -> Result<Response<v1::ListDeadLettersResponse>, Status> {
        let caller = caller(&request)?;
        let mut request = request.into_inner();
        let mut found = Violations::new();
        let (pages, page) = Pages::open::<_, DeliveryId>(&mut request, &mut found);
        let filter = read_dead_letter_filter(request.filter, &mut found);
        found.into_result(()).map_err(invalid)?;
        let control = &self.context.control;
        let listed = control.list_dead_letters(&caller, &request.organization_id, filter, page).await;
        let listed = listed.map_err(status)?;
        Ok(Response::new(v1::ListDeadLettersResponse {
            dead_letters: listed.rows.iter().map(|row| self.write(row, Attempts::Latest)).collect(),
            next_page_token: pages.next_token(listed.next),
        }))
    }

    async fn replay_dead_letter(
        &self,
        request: Request<v1::ReplayDeadLetterRequest>,
    ) -> Result<Response<v1::ReplayDeadLetterResponse>, Status> {
        let caller = caller(&request)?;
        let v1::ReplayDeadLetterRequest { organization_id, delivery_id } = request.into_inner();
        let control = Arc::clone(&self.context.control);
        let replay = async move { control.replay_dead_letter(&caller, &organization_id, &delivery_id).await };
        let delivery = Some(self.write(&self.context.finish(replay).await?, Attempts::None));
        Ok(Response::new(v1::ReplayDeadLetterResponse { delivery }))
    }

    async fn replay_dead_letters(
        &self,
        request: Request<v1::ReplayDeadLettersRequest>,
    ) -> Result<Response<v1::ReplayDeadLettersResponse>, Status> {
        let caller = caller(&request)?;
        let v1::ReplayDeadLettersRequest { organization_id, selection, deliveries_per_second, validate_only } =
            request.into_inner();
        let mut found = Violations::new();
        let filter = read_dead_letters(selection, &mut found);
        let order = read_order(deliveries_per_second, validate_only, &mut found);
        found.into_result(()).map_err(invalid)?;
        let control = Arc::clone(&self.context.control);
        let replay =
            async move { control.replay_dead_letters(&caller, &organization_id, filter, order).await };
        let replay = self.context.finish(replay).await?;
        let replay = if validate_only { write_check(&replay) } else { write_replay(&replay) };
        Ok(Response::new(v1::ReplayDeadLettersResponse { replay: Some(replay) }))
    }

    async fn replay_deliveries(
        &self,
        request: Request<v1::ReplayDeliveriesRequest>,
    ) -> Result<Response<v1::ReplayDeliveriesResponse>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        let validate_only = request.validate_only;
        let mut found = Violations::new();
        let range = read_deliveries(request.selection, &mut found);
        let order = read_order(request.deliveries_per_second, validate_only, &mut found);
        found.into_result(()).map_err(invalid)?;
        let (organization_id, destination_id) = (request.organization_id, request.destination_id);
        let control = Arc::clone(&self.context.control);
        let replay = async move {
            control.replay_deliveries(&caller, &organization_id, &destination_id, (range, order)).await
        };
        let replay = self.context.finish(replay).await?;
        let replay = if validate_only { write_check(&replay) } else { write_replay(&replay) };
        Ok(Response::new(v1::ReplayDeliveriesResponse { replay: Some(replay) }))
    }

    async fn get_replay(
        &self,
        request: Request<v1::GetReplayRequest>,
    ) -> Result<Response<v1::GetReplayResponse>, Status> {
        let caller = caller(&request)?;
        let v1::GetReplayRequest { organization_id, replay_id } = request.into_inner();
        let control = &self.context.control;
        let replay = control.get_replay(&caller, &organization_id, &replay_id).await.map_err(status)?;
        Ok(Response::new(v1::GetReplayResponse { replay: Some(write_replay(&replay)) }))
    }

    async fn list_replays(
        &self,
        request: Request<v1::ListReplaysRequest>,
    ) -> Result<Response<v1::ListReplaysResponse>, Status> {
        let caller = caller(&request)?;
        let mut request = request.into_inner();
        let mut found = Violations::new();
        let (pages, page) = Pages::open::<_, ReplayId>(&mut request, &mut found);
        let states = read_states(&request.states, &mut found);
        found.into_result(()).map_err(invalid)?;
        let control = &self.context.control;
        let listed = control.list_replays(&caller, &request.organization_id, states, page).await;
        let listed = listed.map_err(status)?;
        Ok(Response::new(v1::ListReplaysResponse {
            replays: listed.rows.iter().map(write_replay).collect(),
            next_page_token: pages.next_token(listed.next),
        }))
    }

    async fn cancel_replay(
        &self,
        request: Request<v1::CancelReplayRequest>,
    ) -> Result<Response<v1::CancelReplayResponse>, Status> {
        let caller = caller(&request)?;
        let v1::CancelReplayRequest { organization_id, replay_id } = request.into_inner();
        let control = Arc::clone(&self.context.control);
        let cancel = async move { control.cancel_replay(&caller, &organization_id, &replay_id).await };
        let replay = Some(write_replay(&self.context.finish(cancel).await?));
        Ok(Response::new(v1::CancelReplayResponse { replay }))
    }

    async fn delete_dead_letters(
        &self,
        request: Request<v1::DeleteDeadLettersRequest>,
    ) -> Result<Response<v1::DeleteDeadLettersResponse>, Status> {
        let caller = caller(&request)?;
        let v1::DeleteDeadLettersRequest { organization_id, selection, validate_only } = request.into_inner();
        let mut found = Violations::new();
        let which = read_delete_selection(selection, &mut found);
        found.into_result(()).map_err(invalid)?;
        let control = Arc::clone(&self.context.control);
        let delete =
            async move { control.delete_dead_letters(&caller, &organization_id, which, validate_only).await };
        let deleted = self.context.finish(delete).await?;
        let deleted_count = i64::try_from(deleted).unwrap_or(i64::MAX);
        Ok(Response::new(v1::DeleteDeadLettersResponse { deleted_count }))
    }

    async fn explain_event(
        &self,
        request: Request<v1::ExplainEventRequest>,
    ) -> Result<Response<v1::ExplainEventResponse>, Status> {
        let caller = caller(&request)?;
        let mut request = request.into_inner();
        let mut found = Violations::new();
        let (pages, page) = Pages::open::<_, DestinationId>(&mut request, &mut found);
        let with_bodies = known(request.view, "view", &mut found) == Some(v1::DeliveryView::Full);
        found.into_result(()).map_err(invalid)?;
        let control = &self.context.control;
        let destination_id = Some(request.destination_id.as_str()).filter(|id| !id.is_empty());
        let subject = (request.organization_id.as_str(), request.event_id.as_str());
        let explained = control.explain_event(&caller, subject, destination_id, page).await;
        let explained = explained.map_err(status)?;
        let written = write_explained(&explained, with_bodies, |delivery| control.standing(delivery));
        let next_page_token = pages.next_token(explained.next);
        Ok(Response::new(v1::ExplainEventResponse { next_page_token, ..written }))
    }

    async fn erase_event_data(
        &self,
        request: Request<v1::EraseEventDataRequest>,
    ) -> Result<Response<v1::EraseEventDataResponse>, Status> {
        let caller = caller(&request)?;
        let v1::EraseEventDataRequest { organization_id, event_id } = request.into_inner();
        let control = Arc::clone(&self.context.control);
        let erase = async move { control.erase_event_data(&caller, &organization_id, &event_id).await };
        let erased = self.context.finish(erase).await?;
        Ok(Response::new(v1::EraseEventDataResponse {
            erase_time: Some(write_timestamp(erased.at)),
            cancelled_count: count(erased.ended),
        }))
    }
}

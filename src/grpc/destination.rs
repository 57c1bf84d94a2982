//! `DestinationAdmin`: where events go.

use std::sync::Arc;

use prost_types::FieldMask;
use tonic::{Request, Response, Status};

use super::context::Context;
use super::convert::attempt::write_attempt;
use super::convert::contract::write_contract_info;
use super::convert::destination::{read_contract_filter, read_draft, read_etag, write_destination};
use super::convert::destination_mask::read_patch;
use super::convert::destination_request::{read_actor, read_import, read_states, read_subject};
use super::convert::secret::read_needed_secret;
use super::convert::time::read_duration;
use super::convert::{known, required};
use super::interceptor::caller;
use super::page::{Pages, Position};
use super::proto::v1;
use super::proto::v1::destination_admin_server::DestinationAdmin;
use super::status::{invalid, status};
use crate::control::Error;
use crate::control::destination::{DestinationView, Target};
use crate::control::exchange::ImportInto;
use crate::control::secret::Rotation;
use crate::domain::contract::Contract;
use crate::domain::id::DestinationId;
use crate::domain::violation::Violations;

/// The service.
pub struct DestinationAdminService {
    context: Context,
}

impl DestinationAdminService {
    /// The service over the use cases.
    #[must_use]
    pub fn new(context: Context) -> Self {
        Self { context }
    }
}

fn written(view: &DestinationView) -> Option<v1::Destination> {
    Some(write_destination(view))
}

/// What would be has no id yet.
fn written_new(view: &DestinationView, validate_only: bool) -> Option<v1::Destination> {
    let mut destination = write_destination(view);
    if validate_only {
        destination.destination_id.clear();
        destination.etag.clear();
    }
    Some(destination)
}

/// All that is wrong with a request: what could not be read, and what control says of the rest.
fn all_violations<T>(mut found: Violations, checked: Result<T, Error>) -> Status {
    if let Err(Error::Invalid(more)) = checked {
        let fields: Vec<String> = found.iter().map(|violation| violation.field.clone()).collect();
        for violation in more.iter().filter(|violation| !fields.contains(&violation.field)) {
            found.add_as(violation.rule, violation.field.clone(), violation.description.clone());
        }
    }
    invalid(found)
}

#[tonic::async_trait]
impl DestinationAdmin for DestinationAdminService {
    async fn create_destination(
        &self,
        request: Request<v1::CreateDestinationRequest>,
    ) -> Result<Response<v1::CreateDestinationResponse>, Status> {
        let caller = caller(&request)?;
        let v1::CreateDestinationRequest { organization_id, destination, validate_only } =
            request.into_inner();
        let mut found = Violations::new();
        if destination.is_none() {
            required("destination", "give the destination", &mut found);
            return Err(invalid(found));
        }
        let control = Arc::clone(&self.context.control);
        let Some(draft) = read_draft(destination.unwrap_or_default(), &mut found) else {
            return Err(invalid(found));
        };
        if !found.is_empty() {
            let checked = control.create_destination(&caller, &organization_id, draft, true).await;
            return Err(all_violations(found, checked));
        }
        let create =
            async move { control.create_destination(&caller, &organization_id, draft, validate_only).await };
        let view = self.context.finish(create).await?;
        let destination = written_new(&view, validate_only);
        Ok(Response::new(v1::CreateDestinationResponse { destination }))
    }

    async fn get_destination(
        &self,
        request: Request<v1::GetDestinationRequest>,
    ) -> Result<Response<v1::GetDestinationResponse>, Status> {
        let caller = caller(&request)?;
        let v1::GetDestinationRequest { organization_id, destination_id } = request.into_inner();
        let view = self.context.control.get_destination(&caller, &organization_id, &destination_id).await;
        let destination = written(&view.map_err(status)?);
        Ok(Response::new(v1::GetDestinationResponse { destination }))
    }

    async fn list_destinations(
        &self,
        request: Request<v1::ListDestinationsRequest>,
    ) -> Result<Response<v1::ListDestinationsResponse>, Status> {
        let caller = caller(&request)?;
        let mut request = request.into_inner();
        let mut found = Violations::new();
        let (pages, page) = Pages::open::<_, DestinationId>(&mut request, &mut found);
        let contract = known(request.contract, "contract", &mut found).and_then(read_contract_filter);
        let states = read_states(&request.states, &mut found);
        found.into_result(()).map_err(invalid)?;
        let listed = self.context.control.list_destinations(&caller, &request.organization_id, page);
        let listed = listed.map_err(status)?;
        let of_contract = |view: &&DestinationView| contract.is_none_or(|it| it == view.destination.contract);
        let destinations = listed.rows.iter().filter(of_contract).map(write_destination);
        let in_state =
            |destination: &v1::Destination| states.is_empty() || states.contains(&destination.state());
        Ok(Response::new(v1::ListDestinationsResponse {
            destinations: destinations.filter(in_state).collect(),
            next_page_token: pages.next_token(listed.next),
        }))
    }

    async fn update_destination(
        &self,
        request: Request<v1::UpdateDestinationRequest>,
    ) -> Result<Response<v1::UpdateDestinationResponse>, Status> {
        let caller = caller(&request)?;
        let v1::UpdateDestinationRequest { organization_id, destination, update_mask, validate_only } =
            request.into_inner();
        let mut found = Violations::new();
        let Some(destination) = destination else {
            required("destination", "give the destination with its id and the new values", &mut found);
            return Err(invalid(found));
        };
        let destination_id = destination.destination_id.clone();
        if destination_id.is_empty() {
            required("destination.destination_id", "name the destination", &mut found);
            return Err(invalid(found));
        }
        let expected = read_etag(&destination.etag, "destination.etag", &mut found);
        let FieldMask { paths } = update_mask.unwrap_or_default();
        let patch = read_patch(destination, &paths, &mut found);
        let control = Arc::clone(&self.context.control);
        let only_check = validate_only || !found.is_empty();
        let update = async move {
            let target =
                Target { organization_id: &organization_id, destination_id: &destination_id, expected };
            control.update_destination(&caller, target, patch, only_check).await
        };
        if !found.is_empty() {
            return Err(all_violations(found, update.await));
        }
        let destination = written(&self.context.finish(update).await?);
        Ok(Response::new(v1::UpdateDestinationResponse { destination }))
    }

    async fn delete_destination(
        &self,
        request: Request<v1::DeleteDestinationRequest>,
    ) -> Result<Response<v1::DeleteDestinationResponse>, Status> {
        let caller = caller(&request)?;
        let v1::DeleteDestinationRequest { organization_id, destination_id, etag } = request.into_inner();
        let mut found = Violations::new();
        let expected = read_etag(&etag, "etag", &mut found);
        found.into_result(()).map_err(invalid)?;
        let control = Arc::clone(&self.context.control);
        let delete = async move {
            let target =
                Target { organization_id: &organization_id, destination_id: &destination_id, expected };
            control.delete_destination(&caller, target).await
        };
        let waited = self.context.finish(delete).await?;
        let discarded_count = i64::try_from(waited).unwrap_or(i64::MAX);
        Ok(Response::new(v1::DeleteDestinationResponse { discarded_count }))
    }

    async fn pause_destination(
        &self,
        request: Request<v1::PauseDestinationRequest>,
    ) -> Result<Response<v1::PauseDestinationResponse>, Status> {
        let caller = caller(&request)?;
        let v1::PauseDestinationRequest { organization_id, destination_id } = request.into_inner();
        let control = Arc::clone(&self.context.control);
        let pause = async move {
            let target =
                Target { organization_id: &organization_id, destination_id: &destination_id, expected: None };
            control.pause_destination(&caller, target).await
        };
        let destination = written(&self.context.finish(pause).await?);
        Ok(Response::new(v1::PauseDestinationResponse { destination }))
    }

    async fn resume_destination(
        &self,
        request: Request<v1::ResumeDestinationRequest>,
    ) -> Result<Response<v1::ResumeDestinationResponse>, Status> {
        let caller = caller(&request)?;
        let v1::ResumeDestinationRequest { organization_id, destination_id } = request.into_inner();
        let control = Arc::clone(&self.context.control);
        let resume = async move {
            let target =
                Target { organization_id: &organization_id, destination_id: &destination_id, expected: None };
            control.resume_destination(&caller, target).await
        };
        let destination = written(&self.context.finish(resume).await?);
        Ok(Response::new(v1::ResumeDestinationResponse { destination }))
    }

    async fn test_destination(
        &self,
        request: Request<v1::TestDestinationRequest>,
    ) -> Result<Response<v1::TestDestinationResponse>, Status> {
        let caller = caller(&request)?;
        let v1::TestDestinationRequest { organization_id, subject, actor_id } = request.into_inner();
        let mut found = Violations::new();
        let actor = read_actor(&actor_id, &mut found);
        let subject = read_subject(subject, &mut found);
        found.into_result(()).map_err(invalid)?;
        // Nothing has to be finished for a caller that is gone: a test changes nothing, and is on the record first.
        let control = &self.context.control;
        let Some(subject) = subject else { return Err(invalid(Violations::new())) };
        let tested =
            control.test_destination(&caller, &organization_id, subject, actor).await.map_err(status)?;
        let attempt = v1::Attempt { number: 0, cycle: 0, ..write_attempt(&tested.attempt, 0, true) };
        let event_id = tested.event_id.to_string();
        Ok(Response::new(v1::TestDestinationResponse { attempt: Some(attempt), event_id }))
    }

    async fn rotate_secret(
        &self,
        request: Request<v1::RotateSecretRequest>,
    ) -> Result<Response<v1::RotateSecretResponse>, Status> {
        let caller = caller(&request)?;
        let v1::RotateSecretRequest { organization_id, destination_id, new_secret, overlap, etag } =
            request.into_inner();
        let mut found = Violations::new();
        let rotation = Rotation {
            new_secret: read_needed_secret(new_secret, "new_secret", &mut found),
            overlap: read_duration(overlap, "overlap", &mut found),
        };
        let expected = read_etag(&etag, "etag", &mut found);
        found.into_result(()).map_err(invalid)?;
        let control = Arc::clone(&self.context.control);
        let rotate = async move {
            let target =
                Target { organization_id: &organization_id, destination_id: &destination_id, expected };
            control.rotate_secret(&caller, target, rotation).await
        };
        let rotated = self.context.finish(rotate).await?;
        // The one place where a secret goes out: it was made a moment ago, and nobody else has it.
        let generated_secret = rotated.generated.map(|secret| secret.expose().to_owned());
        Ok(Response::new(v1::RotateSecretResponse {
            destination: written(&rotated.view),
            generated_secret: generated_secret.unwrap_or_default(),
        }))
    }

    async fn import_destination(
        &self,
        request: Request<v1::ImportDestinationRequest>,
    ) -> Result<Response<v1::ImportDestinationResponse>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        let validate_only = request.validate_only;
        let is_new = request.destination_id.is_empty();
        let expected = read_import(&request).map_err(invalid)?;
        let control = Arc::clone(&self.context.control);
        let import = async move {
            let organization_id = request.organization_id.as_str();
            let into = if is_new {
                ImportInto::New { organization_id, display_name: request.display_name.clone() }
            } else {
                let destination_id = request.destination_id.as_str();
                ImportInto::Existing(Target { organization_id, destination_id, expected })
            };
            control.import_destination(&caller, into, &request.json_document, validate_only).await
        };
        let view = self.context.finish(import).await?;
        let destination = written_new(&view, validate_only && is_new);
        Ok(Response::new(v1::ImportDestinationResponse { destination }))
    }

    async fn export_destination(
        &self,
        request: Request<v1::ExportDestinationRequest>,
    ) -> Result<Response<v1::ExportDestinationResponse>, Status> {
        let caller = caller(&request)?;
        let v1::ExportDestinationRequest { organization_id, destination_id } = request.into_inner();
        let exported = self.context.control.export_destination(&caller, &organization_id, &destination_id);
        let exported = exported.map_err(status)?;
        Ok(Response::new(v1::ExportDestinationResponse {
            json_document: exported.json.into(),
            omitted_fields: exported.omitted_fields.into_iter().map(str::to_owned).collect(),
        }))
    }

    async fn list_contracts(
        &self,
        request: Request<v1::ListContractsRequest>,
    ) -> Result<Response<v1::ListContractsResponse>, Status> {
        // The contracts are part of the server and no secret, so every caller may see them.
        caller(&request)?;
        let mut request = request.into_inner();
        let mut found = Violations::new();
        let (pages, page) = Pages::open::<_, Position>(&mut request, &mut found);
        found.into_result(()).map_err(invalid)?;
        let begin = page.after.map_or(0, |Position(shown)| usize::try_from(shown).unwrap_or(usize::MAX));
        let shown = Contract::ALL.into_iter().skip(begin).take(page.limit);
        let contracts: Vec<_> = shown.map(write_contract_info).collect();
        let end = begin.saturating_add(contracts.len());
        let next = u32::try_from(end).ok().filter(|_| end < Contract::ALL.len()).map(Position);
        Ok(Response::new(v1::ListContractsResponse { contracts, next_page_token: pages.next_token(next) }))
    }
}

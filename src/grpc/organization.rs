//! `OrganizationAdmin`: organizations and their usage.

use std::sync::Arc;

use prost_types::FieldMask;
use tonic::{Request, Response, Status};

use super::context::Context;
use super::convert::audit::{read_audit_filter, write_audit_entry};
use super::convert::destination::read_etag;
use super::convert::organization::{read_new, read_patch, write_organization, write_usage};
use super::convert::{count, required};
use super::interceptor::caller;
use super::page::Pages;
use super::proto::v1;
use super::proto::v1::organization_admin_server::OrganizationAdmin;
use super::status::{invalid, status};
use crate::control::Error;
use crate::domain::id::{AuditEntryId, OrganizationId};
use crate::domain::violation::Violations;

/// The service.
pub struct OrganizationAdminService {
    context: Context,
}

impl OrganizationAdminService {
    /// The service over the use cases.
    #[must_use]
    pub fn new(context: Context) -> Self {
        Self { context }
    }
}

#[tonic::async_trait]
impl OrganizationAdmin for OrganizationAdminService {
    async fn create_organization(
        &self,
        request: Request<v1::CreateOrganizationRequest>,
    ) -> Result<Response<v1::CreateOrganizationResponse>, Status> {
        let caller = caller(&request)?;
        let v1::CreateOrganizationRequest { organization_id, organization } = request.into_inner();
        let mut found = Violations::new();
        let patch = read_new(organization, &organization_id, &mut found);
        found.into_result(()).map_err(invalid)?;
        let control = Arc::clone(&self.context.control);
        let create = async move { control.create_organization(&caller, &organization_id, patch).await };
        let created = self.context.finish(create).await?;
        Ok(Response::new(v1::CreateOrganizationResponse { organization: Some(write_organization(&created)) }))
    }

    async fn get_organization(
        &self,
        request: Request<v1::GetOrganizationRequest>,
    ) -> Result<Response<v1::GetOrganizationResponse>, Status> {
        let caller = caller(&request)?;
        let id = request.into_inner().organization_id;
        let organization = self.context.control.get_organization(&caller, &id).map_err(status)?;
        Ok(Response::new(v1::GetOrganizationResponse {
            organization: Some(write_organization(&organization)),
        }))
    }

    async fn list_organizations(
        &self,
        request: Request<v1::ListOrganizationsRequest>,
    ) -> Result<Response<v1::ListOrganizationsResponse>, Status> {
        let caller = caller(&request)?;
        let mut request = request.into_inner();
        let mut found = Violations::new();
        let (pages, page) = Pages::open::<_, OrganizationId>(&mut request, &mut found);
        found.into_result(()).map_err(invalid)?;
        if !request.organization_id.is_empty() {
            let one = self.context.control.get_organization(&caller, &request.organization_id);
            let rows = match one {
                Ok(organization) => vec![organization],
                Err(Error::NotFound { .. }) => Vec::new(),
                Err(error) => return Err(status(error)),
            };
            return Ok(Response::new(list_of(&rows, &request.plan, String::new())));
        }
        let listed = self.context.control.list_organizations(&caller, page).map_err(status)?;
        let next_page_token = pages.next_token(listed.next);
        Ok(Response::new(list_of(&listed.rows, &request.plan, next_page_token)))
    }

    async fn update_organization(
        &self,
        request: Request<v1::UpdateOrganizationRequest>,
    ) -> Result<Response<v1::UpdateOrganizationResponse>, Status> {
        let caller = caller(&request)?;
        let v1::UpdateOrganizationRequest { organization_id, organization, update_mask } =
            request.into_inner();
        let mut found = Violations::new();
        if organization.is_none() {
            required("organization", "give the new values", &mut found);
        }
        let organization = organization.unwrap_or_default();
        let expected = read_etag(&organization.etag, "organization.etag", &mut found);
        let FieldMask { paths } = update_mask.unwrap_or_default();
        let patch = read_patch(organization, &organization_id, &paths, &mut found);
        found.into_result(()).map_err(invalid)?;
        let control = Arc::clone(&self.context.control);
        let update =
            async move { control.update_organization(&caller, &organization_id, patch, expected).await };
        let updated = self.context.finish(update).await?;
        Ok(Response::new(v1::UpdateOrganizationResponse { organization: Some(write_organization(&updated)) }))
    }

    async fn delete_organization(
        &self,
        request: Request<v1::DeleteOrganizationRequest>,
    ) -> Result<Response<v1::DeleteOrganizationResponse>, Status> {
        let caller = caller(&request)?;
        let v1::DeleteOrganizationRequest { organization_id, confirm_organization_id, etag } =
            request.into_inner();
        let mut found = Violations::new();
        let expected = read_etag(&etag, "etag", &mut found);
        found.into_result(()).map_err(invalid)?;
        let control = Arc::clone(&self.context.control);
        let delete = async move {
            let confirmation = confirm_organization_id.as_str();
            control.delete_organization(&caller, &organization_id, confirmation, expected).await
        };
        let erased = self.context.finish(delete).await?;
        Ok(Response::new(v1::DeleteOrganizationResponse {
            destination_count: count(erased.destinations),
            cancelled_count: i64::try_from(erased.waiting).unwrap_or(i64::MAX),
        }))
    }

    async fn get_usage(
        &self,
        request: Request<v1::GetUsageRequest>,
    ) -> Result<Response<v1::GetUsageResponse>, Status> {
        let caller = caller(&request)?;
        let id = request.into_inner().organization_id;
        let usage = self.context.control.usage(&caller, &id).await.map_err(status)?;
        Ok(Response::new(v1::GetUsageResponse { usage: Some(write_usage(&usage)) }))
    }

    async fn list_audit_entries(
        &self,
        request: Request<v1::ListAuditEntriesRequest>,
    ) -> Result<Response<v1::ListAuditEntriesResponse>, Status> {
        let caller = caller(&request)?;
        let mut request = request.into_inner();
        let mut found = Violations::new();
        let (pages, page) = Pages::open::<_, AuditEntryId>(&mut request, &mut found);
        let filter = read_audit_filter(request.filter.unwrap_or_default(), &mut found);
        found.into_result(()).map_err(invalid)?;
        let id = request.organization_id.as_str();
        let listed = self.context.control.list_audit_entries(&caller, id, filter, page).await;
        let listed = listed.map_err(status)?;
        Ok(Response::new(v1::ListAuditEntriesResponse {
            audit_entries: listed.rows.into_iter().map(write_audit_entry).collect(),
            next_page_token: pages.next_token(listed.next),
        }))
    }
}

fn list_of(
    rows: &[Arc<crate::domain::organization::Organization>],
    plan: &str,
    next_page_token: String,
) -> v1::ListOrganizationsResponse {
    let fits = |organization: &&Arc<_>| is_on(organization, plan);
    let organizations = rows.iter().filter(fits).map(|organization| write_organization(organization));
    v1::ListOrganizationsResponse { organizations: organizations.collect(), next_page_token }
}

fn is_on(organization: &crate::domain::organization::Organization, plan: &str) -> bool {
    plan.is_empty() || organization.plan == plan
}

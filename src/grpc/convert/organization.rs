//! Organizations and their usage.

use super::count;
use super::time::write_timestamp;
use crate::control::organization::{OrganizationPatch, Usage};
use crate::domain::organization::Organization;
use crate::domain::violation::{Rule, Violations};
use crate::grpc::proto::v1;
use crate::grpc::status::etag;

/// Reads what an organization is created with.
pub fn read_new(
    organization: Option<v1::Organization>,
    id: &str,
    found: &mut Violations,
) -> OrganizationPatch {
    let Some(organization) = organization else { return OrganizationPatch::default() };
    check_same_id(&organization.organization_id, id, found);
    OrganizationPatch { display_name: Some(organization.display_name), plan: Some(organization.plan) }
}

/// Reads the fields that the mask names.
pub fn read_patch(
    organization: v1::Organization,
    id: &str,
    mask: &[String],
    found: &mut Violations,
) -> OrganizationPatch {
    check_same_id(&organization.organization_id, id, found);
    let mut patch = OrganizationPatch::default();
    for path in mask {
        match path.as_str() {
            "display_name" => patch.display_name = Some(organization.display_name.clone()),
            "plan" => patch.plan = Some(organization.plan.clone()),
            _ => {
                let description = format!("names `{path}`; name `display_name`, `plan` or both");
                found.add_as(Rule::UpdateMask, "update_mask", description);
            }
        }
    }
    if mask.is_empty() {
        found.add_as(Rule::UpdateMask, "update_mask", "is empty; name `display_name`, `plan` or both");
    }
    patch
}

fn check_same_id(inner: &str, outer: &str, found: &mut Violations) {
    if !inner.is_empty() && inner != outer {
        let description = format!("is `{inner}`, and the request is for `{outer}`; leave it out");
        found.add_as(Rule::NotAllowed, "organization.organization_id", description);
    }
}

/// Writes an organization.
pub fn write_organization(organization: &Organization) -> v1::Organization {
    v1::Organization {
        organization_id: organization.id.to_string(),
        display_name: organization.display_name.clone(),
        plan: organization.plan.clone(),
        create_time: Some(write_timestamp(organization.created_at)),
        update_time: Some(write_timestamp(organization.updated_at)),
        etag: etag(organization.revision),
    }
}

/// Writes the usage; what this server does not count yet stays zero.
pub fn write_usage(usage: &Usage) -> v1::Usage {
    v1::Usage {
        plan: usage.plan.clone(),
        destination_count: count(usage.destination_count),
        destination_limit: usage.destination_limit.map(count),
        events_per_second_limit: usage.events_per_second_limit.map(f64::from),
        payload_bytes_limit: count(usage.payload_bytes_limit),
        retention_hours: count(usage.history.as_secs() / 3600),
        waiting_count: i64::try_from(usage.waiting).unwrap_or(i64::MAX),
        measure_time: Some(write_timestamp(usage.measured_at)),
        ..v1::Usage::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(mask: &[&str], id: &str) -> Vec<String> {
        let mut found = Violations::new();
        let organization = v1::Organization { organization_id: id.to_owned(), ..Default::default() };
        let mask: Vec<String> = mask.iter().map(ToString::to_string).collect();
        read_patch(organization, "org_a", &mask, &mut found);
        found.iter().map(|violation| violation.field.clone()).collect()
    }

    #[test]
    fn a_mask_that_names_nothing_or_something_else_is_refused() {
        assert_eq!(fields(&[], ""), ["update_mask"]);
        assert_eq!(fields(&["*", "etag"], "org_a"), ["update_mask", "update_mask"]);
        assert!(fields(&["plan", "display_name"], "org_a").is_empty());
        assert_eq!(fields(&["plan"], "org_b"), ["organization.organization_id"]);
    }
}

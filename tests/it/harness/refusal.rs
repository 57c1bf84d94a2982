//! What a failed call says, taken apart.

use std::collections::HashMap;

use tonic::{Code, Status};
use tonic_types::StatusExt;

/// A failed call with its details.
#[derive(Debug, PartialEq)]
pub struct Refusal {
    pub code: Code,
    pub message: String,
    /// Of `ErrorInfo`; a name of `error_reason.proto` without its prefix.
    pub reason: String,
    pub metadata: HashMap<String, String>,
    /// Of `BadRequest`: path and description.
    pub violations: Vec<(String, String)>,
    /// Of `ResourceInfo`: type and name.
    pub resource: Option<(String, String)>,
    /// Of `QuotaFailure`: subject and description.
    pub quota: Vec<(String, String)>,
}

impl Refusal {
    /// The paths of the violated fields.
    pub fn fields(&self) -> Vec<&str> {
        self.violations.iter().map(|(field, _)| field.as_str()).collect()
    }

    /// Everything that is said of a field.
    pub fn about(&self, field: &str) -> String {
        let said = self.violations.iter().filter(|(path, _)| path == field).map(|(_, words)| words.as_str());
        said.collect::<Vec<_>>().join("; ")
    }

    /// Checks that the call failed because there is no such thing, and says so in all forms.
    pub fn assert_not_found(&self, kind: &str, name: &str) {
        assert_eq!(self.code, Code::NotFound, "{self:?}");
        assert_eq!(self.reason, format!("{}_NOT_FOUND", kind.to_uppercase()), "{self:?}");
        assert_eq!(self.resource, Some((kind.to_owned(), name.to_owned())), "{self:?}");
    }
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info();
        let bad = details.bad_request().map(|bad| bad.field_violations.as_slice()).unwrap_or_default();
        let quota = details.quota_failure().map(|quota| quota.violations.as_slice()).unwrap_or_default();
        if let Some(info) = info {
            assert_eq!(info.domain, "signalpost", "{status:?}");
        }
        Self {
            code: status.code(),
            message: status.message().to_owned(),
            reason: info.map(|info| info.reason.clone()).unwrap_or_default(),
            metadata: info.map(|info| info.metadata.clone()).unwrap_or_default(),
            violations: bad.iter().map(|one| (one.field.clone(), one.description.clone())).collect(),
            resource: details
                .resource_info()
                .map(|one| (one.resource_type.clone(), one.resource_name.clone())),
            quota: quota.iter().map(|one| (one.subject.clone(), one.description.clone())).collect(),
        }
    }
}

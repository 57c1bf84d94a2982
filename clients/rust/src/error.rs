//! Why something did not work, for programs and for people.

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::proto::v1::{self, ErrorReason};

/// Why a call, or one event of a call, did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The client can't be made from these settings: which, and what would be right.
    #[error("{0}")]
    Configuration(String),
    /// The server refused, or could not be reached until the deadline.
    #[error(transparent)]
    Refused(#[from] Box<Refusal>),
    /// The stream was closed, or ended by an error that its acknowledgements tell.
    #[error("the stream is closed")]
    Closed,
}

/// A refusal, by the server or by the way to it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} ({code:?}{})", reason.map(|reason| format!(", {}", reason.as_str_name())).unwrap_or_default())]
pub struct Refusal {
    /// The status code.
    pub code: Code,
    /// The reason, for programs; none where the server was not reached, or is not Signalpost.
    pub reason: Option<ErrorReason>,
    /// The problem and its remedy, for people.
    pub message: String,
    /// Every violated field.
    pub violations: Vec<FieldViolation>,
    /// How long the server asks to wait before the call is repeated.
    pub retry_after: Option<Duration>,
}

/// A field that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldViolation {
    /// Its path in the request, for example `event.type`.
    pub field: String,
    /// What is wrong and what would be right.
    pub description: String,
}

impl Error {
    /// The refusal, where there is one.
    #[must_use]
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            Self::Configuration(_) | Self::Closed => None,
        }
    }
}

impl Refusal {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { code, reason: None, message, violations: Vec::new(), retry_after: None }
    }

    /// Whether the same event may be accepted when it is sent again.
    pub(crate) fn is_transient(&self) -> bool {
        matches!(self.code, Code::Unavailable | Code::ResourceExhausted)
    }
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        let name = details.error_info().map(|info| format!("ERROR_REASON_{}", info.reason));
        let violations = details.bad_request().map(|bad| bad.field_violations.as_slice()).unwrap_or_default();
        Self {
            code: status.code(),
            reason: name.as_deref().and_then(ErrorReason::from_str_name),
            message: status.message().to_owned(),
            violations: violations
                .iter()
                .map(|one| FieldViolation { field: one.field.clone(), description: one.description.clone() })
                .collect(),
            retry_after: details.retry_info().and_then(|info| info.retry_delay),
        }
    }
}

impl From<v1::EventError> for Refusal {
    fn from(error: v1::EventError) -> Self {
        Self {
            code: Code::from_i32(error.code),
            reason: ErrorReason::try_from(error.reason).ok(),
            message: error.message,
            violations: error
                .field_violations
                .into_iter()
                .map(|one| FieldViolation { field: one.field, description: one.description })
                .collect(),
            retry_after: None,
        }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(Box::new(refusal))
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        Refusal::from(status).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic_types::ErrorDetails;

    #[test]
    fn a_status_tells_its_reason_its_fields_and_when_to_come_again() {
        let mut details = ErrorDetails::new();
        details.set_error_info("QUEUE_FULL", "signalpost", std::collections::HashMap::new());
        details.add_bad_request_violation("event.type", "is empty; give one");
        details.set_retry_info(Some(Duration::from_secs(2)));
        let refusal = Refusal::from(Status::with_error_details(Code::ResourceExhausted, "full", details));
        assert_eq!(refusal.reason, Some(ErrorReason::QueueFull));
        assert_eq!(refusal.violations[0].field, "event.type");
        assert_eq!(refusal.retry_after, Some(Duration::from_secs(2)));
        assert_eq!(refusal.to_string(), "full (ResourceExhausted, ERROR_REASON_QUEUE_FULL)");
    }

    #[test]
    fn a_status_of_somebody_else_is_told_as_it_is() {
        let refusal = Refusal::from(Status::unavailable("no route"));
        assert_eq!(refusal, Refusal::new(Code::Unavailable, "no route"));
        assert_eq!(Error::from(refusal).to_string(), "no route (Unavailable)");
    }
}

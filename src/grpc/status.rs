//! Errors as callers see them: a status code, a sentence that says what to do, and `google.rpc` details.
//!
//! The only map from [`Error`] to gRPC. Every status has exactly one `ErrorInfo`, whose reason is part of
//! the API (`error_reason.proto`). What is for the log alone is logged here and goes nowhere else.

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use crate::control::{Condition, Error, Quota, Resource};
use crate::domain::violation::{Rule, Violation, Violations};
use crate::grpc::proto::v1::{self, ErrorReason};

/// The domain of every reason.
pub const ERROR_DOMAIN: &str = "signalpost";
/// Under which name a denial tells the role that it asks for.
pub(super) const REQUIRED_ROLE: &str = "required_role";
/// The most field violations in a status. Details travel in trailers, for which common clients have a
/// limit of 8 KiB in base64.
pub const VIOLATIONS_MAX: usize = 20;
/// About how large the violations of a status may be in all.
const DETAILS_MAX_BYTES: usize = 3 * 1024;
/// The longest message or description, in bytes.
const TEXT_MAX_BYTES: usize = 512;
/// The longest path of a field, in bytes.
const PATH_MAX_BYTES: usize = 128;
/// When a call that found no room in the store is worth repeating: rooms are made by people and janitors.
const STORE_FULL_RETRY_AFTER: Duration = Duration::from_secs(30);
/// When a call is worth repeating that found the store or the server away.
const UNAVAILABLE_RETRY_AFTER: Duration = Duration::from_secs(1);

/// Why a call, or one event of it, failed: all that any form of the answer needs.
#[derive(Debug, Clone)]
pub struct Problem {
    code: Code,
    reason: ErrorReason,
    message: String,
    details: Box<Details>,
}

#[derive(Debug, Clone, Default)]
struct Details {
    metadata: Vec<(&'static str, String)>,
    violations: Violations,
    resource: Option<(&'static str, String)>,
    quota: Option<String>,
    precondition: Option<String>,
    retry_after: Option<Duration>,
    request_id: Option<String>,
}

impl Problem {
    /// A problem without details.
    pub fn new(code: Code, reason: ErrorReason, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: Box::default() }
    }

    /// With a value that programs may read.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl ToString) -> Self {
        self.details.metadata.push((key, value.to_string()));
        self
    }

    /// The reason, as programs read it.
    pub fn reason_name(&self) -> &'static str {
        reason_name(self.reason)
    }

    fn of_quota(mut self, subject: String) -> Self {
        self.details.quota = Some(subject);
        self
    }

    pub(super) fn after(mut self, wait: Option<Duration>) -> Self {
        self.details.retry_after = wait;
        self
    }

    /// A method that nobody knows.
    pub fn unknown_method(method: &str) -> Self {
        let message = "this server does not offer the method; check its name, or use a newer server";
        Self::new(Code::Unimplemented, ErrorReason::MethodNotAvailable, message).with("method", method)
    }

    /// The call has no credentials.
    pub fn credentials_missing() -> Self {
        let message = "this call has no credentials; send `authorization: Bearer` with a token, or a client \
                       certificate that the operator knows";
        Self::new(Code::Unauthenticated, ErrorReason::CredentialsMissing, message)
    }

    /// The call has credentials that are not accepted. Which part of them is wrong is not said.
    pub fn credentials_invalid() -> Self {
        let message = "the credentials are not valid, or no longer; get new ones from the operator";
        Self::new(Code::Unauthenticated, ErrorReason::CredentialsInvalid, message)
    }

    /// The call's deadline passed.
    pub fn timed_out() -> Self {
        let message = "the call's deadline passed before its answer; repeat it with the same event ids and a \
                       longer deadline";
        Self::new(Code::DeadlineExceeded, ErrorReason::CallTimedOut, message)
    }

    /// As many streams of this kind are open as there may be in this scope, by this setting.
    pub(super) fn too_many_streams(kind: &str, (scope, setting): (&str, &str), limit: usize) -> Self {
        let message = format!(
            "{limit} {kind} are open, the limit of this {scope} (limits.{setting}); close some, or share one"
        );
        Self::new(Code::ResourceExhausted, ErrorReason::StreamLimitExceeded, message)
            .with("limit", limit)
            .with("scope", scope)
    }

    /// The server, or the caller's address, has as many streams without credentials as there may be.
    pub(super) fn too_many_open_streams(scope: &str, limit: usize) -> Self {
        let message =
            format!("{limit} streams without credentials are open, the limit of this {scope}; close some");
        Self::new(Code::ResourceExhausted, ErrorReason::StreamLimitExceeded, message)
            .with("limit", limit)
            .with("scope", scope)
    }

    /// The server stops.
    pub fn shutting_down() -> Self {
        let message =
            "the server is stopping; repeat what was not acknowledged at another one or in a moment";
        Self::new(Code::Unavailable, ErrorReason::ShuttingDown, message).after(Some(UNAVAILABLE_RETRY_AFTER))
    }

    /// A fault of ours; the detail is logged under the request id that the caller gets.
    pub fn internal(detail: &str) -> Self {
        let request_id = format!("{:032x}", fastrand::u128(..));
        tracing::error!(request.id = %request_id, error.detail = detail, "a call failed by a fault of the server");
        let message = "the server has a fault; report the request id to the operator";
        let mut problem = Self::new(Code::Internal, ErrorReason::InternalFailure, message);
        problem.details.request_id = Some(request_id);
        problem
    }

    fn invalid(violations: Violations) -> Self {
        let reason = common_reason(&violations);
        let mut problem = Self::new(Code::InvalidArgument, reason, summary(&violations));
        if let Some(first) = violations.iter().next() {
            problem = match reason {
                ErrorReason::FieldsInvalid => problem.with("violation_count", violations.len()),
                ErrorReason::PageTokenInvalid => problem,
                ErrorReason::UpdateMaskInvalid => problem.with("path", clip(&first.field, PATH_MAX_BYTES)),
                _ => problem.with("field", clip(&first.field, PATH_MAX_BYTES)),
            };
            if reason != ErrorReason::FieldsInvalid {
                problem.details.metadata.extend(first.facts.iter().cloned());
            }
        }
        problem.details.violations = violations;
        problem
    }

    /// The problem as the error of one event in a batch or a stream.
    pub fn into_event_error(self) -> v1::EventError {
        let violation = |violation: &Violation| v1::FieldViolation {
            field: violation.field.clone(),
            description: violation.description.clone(),
            reason: reason_of(violation.rule).into(),
        };
        v1::EventError {
            reason: self.reason.into(),
            code: self.code.into(),
            message: clip(&self.message, TEXT_MAX_BYTES),
            field_violations: self.details.violations.iter().map(violation).collect(),
        }
    }

    /// The problem as the end of a call.
    pub fn into_status(self) -> Status {
        let mut details = ErrorDetails::new();
        let ours = &self.details;
        let metadata = ours.metadata.iter();
        let metadata = metadata.map(|(key, value)| ((*key).to_owned(), clip(value, TEXT_MAX_BYTES)));
        details.set_error_info(
            reason_name(self.reason),
            ERROR_DOMAIN,
            metadata.collect::<std::collections::HashMap<_, _>>(),
        );
        if !ours.violations.is_empty() {
            details.set_bad_request(capped(&ours.violations));
        }
        if let Some((kind, id)) = &ours.resource {
            details.set_resource_info(*kind, clip(id, PATH_MAX_BYTES), "", "");
        }
        if let Some(subject) = &ours.quota {
            details.add_quota_failure_violation(subject, clip(&self.message, TEXT_MAX_BYTES));
        }
        if let Some(subject) = &ours.precondition {
            let description = clip(&self.message, TEXT_MAX_BYTES);
            details.add_precondition_failure_violation(reason_name(self.reason), subject, description);
        }
        if ours.retry_after.is_some() {
            details.set_retry_info(ours.retry_after);
        }
        if let Some(request_id) = &ours.request_id {
            details.set_request_info(request_id, "");
        }
        Status::with_error_details(self.code, clip(&self.message, TEXT_MAX_BYTES), details)
    }
}

impl From<Problem> for Status {
    fn from(problem: Problem) -> Self {
        problem.into_status()
    }
}

impl From<Violations> for Problem {
    fn from(violations: Violations) -> Self {
        Self::invalid(violations)
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::Invalid(violations) => Self::invalid(violations),
            Error::Denied(denied) => Self::new(Code::PermissionDenied, ErrorReason::RoleMissing, message)
                .with(REQUIRED_ROLE, denied.role),
            Error::NotFound { kind, id } => {
                about(Code::NotFound, not_found_reason(kind), message, (kind, id))
            }
            Error::AlreadyExists { kind, id } => {
                about(Code::AlreadyExists, exists_reason(kind), message, (kind, id))
            }
            Error::Stale { found, .. } => {
                Self::new(Code::Aborted, ErrorReason::EtagMismatch, message).with("etag", etag(found))
            }
            Error::QuotaExceeded { subject, plan, what, limit, usage, retry_after } => {
                quota(what, message, (&plan, limit, usage)).of_quota(subject).after(retry_after)
            }
            Error::HostRateExceeded { organization_id, per_second, retry_after } => {
                Self::new(Code::ResourceExhausted, ErrorReason::RateLimitExceeded, message)
                    .with("limit_per_second", per_second)
                    .with("scope", "host")
                    .of_quota(format!("organization:{organization_id}"))
                    .after(Some(retry_after))
            }
            Error::Unconfirmed { id } => {
                Self::new(Code::InvalidArgument, ErrorReason::ConfirmationMissing, message)
                    .with("organization_id", id)
            }
            Error::CursorExpired { retained_from, .. } => {
                Self::new(Code::OutOfRange, ErrorReason::CursorExpired, message)
                    .with("retained_from", retained_from)
            }
            Error::RetentionExceeded { retained_from } => {
                Self::new(Code::OutOfRange, ErrorReason::RetentionExceeded, message)
                    .with("retained_from", retained_from)
            }
            Error::Precondition { kind, subject, message } => precondition(kind, subject, message),
            Error::ReplayRunning { running } => {
                Self::new(Code::Aborted, ErrorReason::ReplayRunning, message).with("replay_id", running)
            }
            Error::Busy { retry_after } => {
                Self::new(Code::ResourceExhausted, ErrorReason::QueueFull, message).after(Some(retry_after))
            }
            Error::StoreFull { free_bytes, needed_bytes } => {
                Self::new(Code::ResourceExhausted, ErrorReason::StoreFull, message)
                    .with("free_bytes", free_bytes)
                    .with("required_bytes", needed_bytes)
                    .of_quota("store".to_owned())
                    .after(Some(STORE_FULL_RETRY_AFTER))
            }
            Error::Unavailable { detail } => {
                tracing::error!(error.detail = detail, "a call failed because the store can't be used");
                Self::new(Code::Unavailable, ErrorReason::StoreUnavailable, message)
                    .after(Some(UNAVAILABLE_RETRY_AFTER))
            }
            Error::Internal { detail } => Self::internal(&detail),
        }
    }
}

/// The status of a use case's error.
pub fn status(error: Error) -> Status {
    Problem::from(error).into_status()
}

/// The status of a request that can't be read.
pub fn invalid(violations: Violations) -> Status {
    Problem::from(violations).into_status()
}

/// The etag of a revision.
pub fn etag(revision: u64) -> String {
    format!("\"{revision}\"")
}

fn about(code: Code, reason: ErrorReason, message: String, (kind, id): (Resource, String)) -> Problem {
    let key = match kind {
        Resource::Organization => "organization_id",
        Resource::Destination => "destination_id",
        Resource::Event => "event_id",
        Resource::Delivery => "delivery_id",
        Resource::Replay => "replay_id",
    };
    let mut problem = Problem::new(code, reason, message).with(key, &id);
    problem.details.resource = Some((kind.as_str(), id));
    problem
}

const fn not_found_reason(kind: Resource) -> ErrorReason {
    match kind {
        Resource::Organization => ErrorReason::OrganizationNotFound,
        Resource::Destination => ErrorReason::DestinationNotFound,
        Resource::Event => ErrorReason::EventNotFound,
        Resource::Delivery => ErrorReason::DeliveryNotFound,
        Resource::Replay => ErrorReason::ReplayNotFound,
    }
}

const fn exists_reason(kind: Resource) -> ErrorReason {
    match kind {
        Resource::Organization => ErrorReason::OrganizationAlreadyExists,
        Resource::Event => ErrorReason::EventIdConflict,
        // Their ids are made by the server and never given twice.
        Resource::Destination | Resource::Delivery | Resource::Replay => ErrorReason::InternalFailure,
    }
}

fn quota(what: Quota, message: String, (plan, limit, usage): (&str, u64, u64)) -> Problem {
    match what {
        Quota::Destinations => {
            Problem::new(Code::ResourceExhausted, ErrorReason::DestinationQuotaExceeded, message)
                .with("plan", plan)
                .with("limit", limit)
                .with("usage", usage)
        }
        Quota::EventsPerSecond | Quota::CallsPerSecond => {
            let scope = if what == Quota::EventsPerSecond { "events" } else { "calls" };
            Problem::new(Code::ResourceExhausted, ErrorReason::RateLimitExceeded, message)
                .with("limit_per_second", limit)
                .with("scope", scope)
        }
    }
}

fn precondition(kind: Condition, subject: String, message: String) -> Problem {
    let failed = |reason| Problem::new(Code::FailedPrecondition, reason, message);
    let mut problem = match kind {
        Condition::DeliveryNotAvailable { setting } => {
            failed(ErrorReason::DeliveryNotAvailable).with("setting", setting)
        }
        Condition::DeliveryFinished { state } => failed(ErrorReason::DeliveryFinished)
            .with("delivery_id", &subject)
            .with("state", super::convert::delivery::state_name(state)),
        Condition::NotDeadLettered { state } => failed(ErrorReason::DeliveryNotDeadLettered)
            .with("delivery_id", &subject)
            .with("state", super::convert::delivery::state_name(state)),
        Condition::DestinationDisabled => {
            failed(ErrorReason::DestinationDisabled).with("destination_id", &subject)
        }
        Condition::ContractMismatch { contract } => {
            failed(ErrorReason::ContractMismatch).with("destination_id", &subject).with("contract", contract)
        }
        Condition::ReplayFinished { state } => failed(ErrorReason::ReplayFinished)
            .with("replay_id", &subject)
            .with("state", super::convert::replay::state_name(state)),
        Condition::DeliveryInFlight => failed(ErrorReason::DeliveryInFlight).with("delivery_id", &subject),
        Condition::OrganizationBeingDeleted => {
            failed(ErrorReason::OrganizationBeingDeleted).with("organization_id", &subject)
        }
        Condition::EventGone => failed(ErrorReason::EventDataErased).with("event_id", &subject),
    };
    problem.details.precondition = Some(clip(&subject, PATH_MAX_BYTES));
    problem
}

pub(super) fn reason_name(reason: ErrorReason) -> &'static str {
    reason.as_str_name().trim_start_matches("ERROR_REASON_")
}

const fn reason_of(rule: Rule) -> ErrorReason {
    match rule {
        Rule::Other => ErrorReason::FieldsInvalid,
        Rule::Required => ErrorReason::FieldRequired,
        Rule::Malformed => ErrorReason::FieldMalformed,
        Rule::TooLong => ErrorReason::FieldTooLong,
        Rule::OutOfRange => ErrorReason::FieldOutOfRange,
        Rule::NotAllowed => ErrorReason::FieldNotAllowed,
        Rule::UpdateMask => ErrorReason::UpdateMaskInvalid,
        Rule::PageToken => ErrorReason::PageTokenInvalid,
        Rule::TimeRange => ErrorReason::TimeRangeInvalid,
        Rule::BatchSize => ErrorReason::BatchSizeInvalid,
        Rule::NotSupported => ErrorReason::SettingNotSupported,
        Rule::EventTypeReserved => ErrorReason::EventTypeReserved,
        Rule::PayloadTooLarge => ErrorReason::PayloadTooLarge,
        Rule::PayloadNotJson => ErrorReason::PayloadNotJson,
        Rule::PayloadNotObject => ErrorReason::PayloadNotObject,
        Rule::PayloadTooDeep => ErrorReason::PayloadTooDeep,
        Rule::UrlMalformed => ErrorReason::UrlMalformed,
        Rule::UrlScheme => ErrorReason::UrlSchemeNotAllowed,
        Rule::UrlAddress => ErrorReason::UrlAddressNotAllowed,
        Rule::NotInCatalogue => ErrorReason::EventTypeNotInCatalogue,
        Rule::SubscriptionEmpty => ErrorReason::SubscriptionEmpty,
        Rule::SecretMalformed => ErrorReason::SecretMalformed,
        Rule::SecretSourceNotAllowed => ErrorReason::SecretSourceNotAllowed,
        Rule::CredentialsNeededAgain => ErrorReason::CredentialsNeededAgain,
        Rule::HeaderNotAllowed => ErrorReason::HeaderNotAllowed,
        Rule::DocumentInvalid => ErrorReason::DocumentInvalid,
        Rule::PlanUnknown => ErrorReason::PlanUnknown,
    }
}

/// The reason of all violations where they have the same.
fn common_reason(violations: &Violations) -> ErrorReason {
    let mut reasons = violations.iter().map(|violation| reason_of(violation.rule));
    let first = reasons.next().unwrap_or(ErrorReason::FieldsInvalid);
    if reasons.all(|reason| reason == first) { first } else { ErrorReason::FieldsInvalid }
}

fn summary(violations: &Violations) -> String {
    let Some(first) = violations.iter().next() else { return "the request is not valid".to_owned() };
    let first =
        format!("{} {}", clip(&first.field, PATH_MAX_BYTES), clip(&first.description, TEXT_MAX_BYTES / 2));
    match violations.len() {
        0 | 1 => first,
        2 => format!("{first}; 1 more field is not valid: see the details"),
        count => format!("{first}; {} more fields are not valid: see the details", count - 1),
    }
}

/// The violations for a trailer: the first ones, and how many more there are.
fn capped(violations: &Violations) -> Vec<FieldViolation> {
    let mut shown = Vec::new();
    let mut bytes = 0;
    for violation in violations.iter() {
        let field = clip(&violation.field, PATH_MAX_BYTES);
        let description = clip(&violation.description, TEXT_MAX_BYTES);
        bytes += field.len() + description.len();
        if shown.len() == VIOLATIONS_MAX || bytes > DETAILS_MAX_BYTES {
            let rest = violations.len() - shown.len();
            let description = format!("{rest} more fields are not valid; mend these first");
            shown.push(FieldViolation::new("…", description));
            break;
        }
        shown.push(FieldViolation::new(field, description));
    }
    shown
}

/// The text, or its beginning where it is longer than so many bytes.
fn clip(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(most.saturating_sub('…'.len_utf8()));
    let (head, _) = text.split_at_checked(end).unwrap_or_default();
    format!("{head}…")
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;

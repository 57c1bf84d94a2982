//! Why a command for a server did not work: in words for people, with an exit code for scripts.

use std::fmt;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::cli::exit::Exit;

use super::reach::Target;

/// Why a command did not do what it was asked to do.
#[derive(Debug)]
pub enum Failure {
    /// Mistakes of who called; each says what would be right.
    Usage(Vec<String>),
    /// The server was not reached.
    Unreachable {
        /// The server, as it was given.
        server: String,
        /// The addresses that were tried.
        tried: Vec<String>,
        /// What happened.
        why: String,
        /// What may help.
        remedy: String,
    },
    /// The server answered, and not with what was asked for.
    Refused(Box<Refusal>),
}

/// An answer that is an error.
#[derive(Debug)]
pub struct Refusal {
    /// The kind of error.
    pub code: Code,
    /// For programs; empty where the answer is not one of Signalpost's.
    pub reason: String,
    message: String,
    violations: Vec<(String, String)>,
    retry_after: Option<Duration>,
}

impl Failure {
    /// One mistake of who called.
    pub fn usage(mistake: impl Into<String>) -> Self {
        Self::Usage(vec![mistake.into()])
    }

    /// What a status means: an answer of the server, or that there was none.
    pub(super) fn of_status(status: Status, target: &Target) -> Self {
        let details = status.get_error_details();
        let reason = details.error_info().map(|info| info.reason.clone()).unwrap_or_default();
        if let (true, Some(source)) = (reason.is_empty(), std::error::Error::source(&status)) {
            let (why, remedy) = target.judge(source);
            return Self::Unreachable { server: target.to_string(), tried: Vec::new(), why, remedy };
        }
        let violations = details.bad_request().map(|bad| bad.field_violations.as_slice()).unwrap_or_default();
        let violations = violations.iter().map(|one| (one.field.clone(), one.description.clone()));
        Self::Refused(Box::new(Refusal {
            code: status.code(),
            reason,
            message: status.message().to_owned(),
            violations: violations.collect(),
            retry_after: details.retry_info().and_then(|info| info.retry_delay),
        }))
    }

    /// The exit code that goes with it.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) => Exit::Usage,
            Self::Unreachable { .. } => Exit::Unreachable,
            Self::Refused(refusal) => match refusal.code {
                Code::InvalidArgument | Code::OutOfRange => Exit::Usage,
                Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => Exit::Unreachable,
                Code::Unauthenticated | Code::PermissionDenied => Exit::Denied,
                _ => Exit::Failure,
            },
        }
    }

    /// Whether the same may work in a moment.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Usage(_) => false,
            Self::Unreachable { .. } => true,
            Self::Refused(refusal) => matches!(refusal.code, Code::Unavailable | Code::ResourceExhausted),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(mistakes) => match mistakes.as_slice() {
                [one] => f.write_str(one),
                several => {
                    write!(f, "{} mistakes:", several.len())?;
                    several.iter().try_for_each(|mistake| write!(f, "\n  - {mistake}"))
                }
            },
            Self::Unreachable { server, tried, why, remedy } => {
                write!(f, "can't reach the server at {server}: {why}")?;
                if !tried.is_empty() {
                    write!(f, "\n  tried: {}", tried.join(", "))?;
                }
                write!(f, "\n  help:  {remedy}")
            }
            Self::Refused(refusal) => refusal.fmt(f),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message = if self.message.is_empty() { "the server gave no reason" } else { &self.message };
        let word = match self.reason.as_str() {
            "" => format!("{:?}", self.code),
            reason => reason.to_owned(),
        };
        write!(f, "{message} ({word})")?;
        for (field, description) in &self.violations {
            write!(f, "\n  - {field} {description}")?;
        }
        match (self.retry_after, self.code) {
            (Some(wait), _) => write!(f, "\n  help:  try again in {wait:?}"),
            (None, Code::Unauthenticated | Code::PermissionDenied) => {
                write!(f, "\n  help:  give a token with --token-file FILE or SIGNALPOST_TOKEN")
            }
            (None, Code::DeadlineExceeded) => write!(f, "\n  help:  --timeout waits longer"),
            (None, _) => Ok(()),
        }
    }
}

impl std::error::Error for Failure {}

impl Refusal {
    /// Whether another request would have been answered otherwise.
    pub fn is_about_the_request(&self) -> bool {
        let codes = [Code::InvalidArgument, Code::FailedPrecondition, Code::AlreadyExists, Code::NotFound];
        codes.contains(&self.code)
            || (self.code == Code::ResourceExhausted && self.reason == "DESTINATION_QUOTA_EXCEEDED")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::transport::Uri;
    use tonic_types::ErrorDetails;

    fn target() -> Target {
        Target::new(Uri::from_static("http://127.0.0.1:1"), None, Duration::from_secs(1)).unwrap()
    }

    #[test]
    fn every_answer_has_the_exit_code_that_the_table_says() {
        for (code, exit) in [
            (Code::InvalidArgument, Exit::Usage),
            (Code::NotFound, Exit::Failure),
            (Code::Unauthenticated, Exit::Denied),
            (Code::PermissionDenied, Exit::Denied),
            (Code::Unavailable, Exit::Unreachable),
            (Code::DeadlineExceeded, Exit::Unreachable),
            (Code::FailedPrecondition, Exit::Failure),
        ] {
            assert_eq!(Failure::of_status(Status::new(code, "why"), &target()).exit(), exit, "{code:?}");
        }
    }

    #[test]
    fn an_answer_tells_its_reason_and_every_field() {
        let mut details = ErrorDetails::new();
        details.set_error_info("URL_MALFORMED", "signalpost", std::collections::HashMap::new());
        details.add_bad_request_violation("destination.url", "has a fragment; take it away");
        let status = Status::with_error_details(Code::InvalidArgument, "two fields are wrong", details);
        let said = Failure::of_status(status, &target()).to_string();
        assert!(said.contains("URL_MALFORMED") && said.contains("destination.url has a fragment"), "{said}");
    }
}

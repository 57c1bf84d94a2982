//! Why a use case did not do what it was asked, with all that a caller needs to do better.
//!
//! Messages say what to do and hold no inner detail; that is in `detail`, for the log.

use std::time::Duration;

use crate::auth::Denied;
use crate::domain::contract::Contract;
use crate::domain::delivery::StateKind;
use crate::domain::id::{OrganizationId, ReplayId};
pub use crate::domain::plan::Quota;
use crate::domain::replay::ReplayStateKind;
use crate::domain::time::Timestamp;
use crate::domain::violation::Violations;
use crate::store::StoreError;

/// How long a caller should wait when the store's queue is full: a few group commits.
const BUSY_RETRY_AFTER: Duration = Duration::from_millis(200);

/// What an error is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// An organization.
    Organization,
    /// A destination.
    Destination,
    /// An event.
    Event,
    /// A delivery.
    Delivery,
    /// A replay.
    Replay,
}

impl Resource {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Resource::Organization => "organization",
            Resource::Destination => "destination",
            Resource::Event => "event",
            Resource::Delivery => "delivery",
            Resource::Replay => "replay",
        }
    }
}

impl std::fmt::Display for Resource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a caller may do when a quota is used up.
const fn remedy(quota: Quota) -> &'static str {
    match quota {
        Quota::Destinations => "delete a destination, or get a larger plan",
        Quota::EventsPerSecond | Quota::CallsPerSecond => "wait and send it again, or get a larger plan",
    }
}

impl std::fmt::Display for Quota {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What would have to be otherwise for a call to be possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// The installation has delivering switched off; this is the setting's name.
    DeliveryNotAvailable {
        /// `ENTERPRISE_TELEMETRY_ENABLED` or `delivery.enabled`.
        setting: &'static str,
    },
    /// The delivery is finished already.
    DeliveryFinished {
        /// In which state.
        state: StateKind,
    },
    /// The delivery is no dead letter.
    NotDeadLettered {
        /// In which state it is.
        state: StateKind,
    },
    /// The destination is held by Signalpost.
    DestinationDisabled,
    /// The destination is not of the contract that the call is for.
    ContractMismatch {
        /// Of which it is.
        contract: Contract,
    },
    /// The event's data is no longer stored.
    EventGone,
    /// The replay has come to its end.
    ReplayFinished {
        /// In which state.
        state: ReplayStateKind,
    },
    /// An attempt of the delivery is under way.
    DeliveryInFlight,
    /// The organization is being erased.
    OrganizationBeingDeleted,
}

/// Why a use case did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The input breaks rules; all of them are named, by path.
    #[error("the request is not valid: {0}")]
    Invalid(Violations),
    /// The caller may not do it.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// There is no such thing in this organization.
    #[error("there is no {kind} `{id}`{}; check the id", if *kind == Resource::Organization { "" } else { " in this organization" })]
    NotFound {
        /// What kind of thing.
        kind: Resource,
        /// The id as the caller wrote it.
        id: String,
    },
    /// It was changed since it was read.
    #[error("the {kind} `{id}` was changed since it was read; read it again and decide again")]
    Stale {
        /// What kind of thing.
        kind: Resource,
        /// Which one.
        id: String,
        /// The revision that is there now.
        found: u64,
    },
    /// There is one already.
    #[error("there is another {kind} `{id}` already; choose another id")]
    AlreadyExists {
        /// What kind of thing.
        kind: Resource,
        /// Which one.
        id: String,
    },
    /// The organization's plan does not allow more.
    #[error("the plan `{plan}` of {subject} allows {limit} {what}, and {usage} are in use; {}", remedy(*what))]
    QuotaExceeded {
        /// Whose limit: `organization:<id>`.
        subject: String,
        /// The name of the plan in force.
        plan: String,
        /// What the limit counts.
        what: Quota,
        /// The limit.
        limit: u64,
        /// What is in use.
        usage: u64,
        /// When to try again, where time alone helps.
        retry_after: Option<Duration>,
    },
    /// The organization sends to a host of somebody else as fast as it may.
    #[error(
        "{per_second} requests a second to this host is the limit, and others are ahead; wait and test again"
    )]
    HostRateExceeded {
        /// Whose requests are counted.
        organization_id: OrganizationId,
        /// The limit.
        per_second: u32,
        /// When to try again.
        retry_after: Duration,
    },
    /// Erasing an organization was not confirmed.
    #[error("erasing the organization `{id}` needs a confirmation: give its id once more, or its etag")]
    Unconfirmed {
        /// Which organization.
        id: String,
    },
    /// The cursor of a watch lies before what is retained.
    #[error("changes since {since} are not all retained; watch from now on, and list what came before")]
    CursorExpired {
        /// When the cursor was made.
        since: Timestamp,
        /// From when on changes are retained.
        retained_from: Timestamp,
    },
    /// The range of a replay begins before what is retained.
    #[error(
        "the range begins before {retained_from}, and older events are not all retained; begin then or later"
    )]
    RetentionExceeded {
        /// From when on everything is retained; true for another minute at least.
        retained_from: Timestamp,
    },
    /// The call makes no sense in the present state.
    #[error("{message}")]
    Precondition {
        /// Which state would be needed.
        kind: Condition,
        /// The id of the thing concerned.
        subject: String,
        /// What to do.
        message: String,
    },
    /// Another replay covers the same destination.
    #[error("the replay `{running}` covers the same destination; wait for it, or cancel it")]
    ReplayRunning {
        /// The one that runs.
        running: ReplayId,
    },
    /// Too much waits to be written; nothing of the call was.
    #[error("the server has more work than it can queue; repeat the call after a short while")]
    Busy {
        /// When to try again.
        retry_after: Duration,
    },
    /// The store has no room; what was accepted is safe and deliveries go on.
    #[error("the store has no room; repeat the call when the operator has made some")]
    StoreFull {
        /// What is free, in bytes.
        free_bytes: u64,
        /// What must stay free, in bytes.
        needed_bytes: u64,
    },
    /// The store can't be used at present.
    #[error("the store cannot be used at present; repeat the call, with the same event ids")]
    Unavailable {
        /// Why, for the log.
        detail: String,
    },
    /// We have a fault.
    #[error("the server has a fault; report the request id to the operator")]
    Internal {
        /// Which, for the log.
        detail: String,
    },
}

impl Error {
    /// One violated field.
    #[must_use]
    pub fn invalid(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self::Invalid(Violations::one(field, description))
    }

    /// No such thing.
    #[must_use]
    pub fn not_found(kind: Resource, id: impl ToString) -> Self {
        Self::NotFound { kind, id: id.to_string() }
    }

    /// Seed 000's words, with the setting that would have to be changed.
    #[must_use]
    pub fn not_available(setting: &'static str, subject: impl ToString) -> Self {
        Self::Precondition {
            kind: Condition::DeliveryNotAvailable { setting },
            subject: subject.to_string(),
            message: format!("Webhook delivery is not available: set {setting}=true on the server"),
        }
    }

    pub(super) fn being_deleted(id: impl ToString) -> Self {
        Self::Precondition {
            kind: Condition::OrganizationBeingDeleted,
            subject: id.to_string(),
            message: "the organization is being erased; its id is free again after some minutes".into(),
        }
    }

    pub(super) fn internal(detail: impl Into<String>) -> Self {
        Self::Internal { detail: detail.into() }
    }

    /// What the store says about a certain thing.
    pub(super) fn about(kind: Resource, id: impl ToString) -> impl FnOnce(StoreError) -> Error {
        move |error| match error {
            StoreError::NotFound => Error::not_found(kind, id),
            StoreError::AlreadyExists => Error::AlreadyExists { kind, id: id.to_string() },
            StoreError::Stale { found, .. } => Error::Stale { kind, id: id.to_string(), found },
            other => other.into(),
        }
    }
}

impl From<Violations> for Error {
    fn from(violations: Violations) -> Self {
        Self::Invalid(violations)
    }
}

impl From<StoreError> for Error {
    /// For errors that are about no thing in particular; the others go through `Error::about`.
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Busy => Self::Busy { retry_after: BUSY_RETRY_AFTER },
            StoreError::ReplayRunning(running) => Self::ReplayRunning { running },
            StoreError::Full { free_bytes, needed_bytes } => Self::StoreFull { free_bytes, needed_bytes },
            StoreError::Unavailable(detail) | StoreError::CannotOpen(detail) => Self::Unavailable { detail },
            error @ (StoreError::RoutedByOldDirectory | StoreError::LeaseLost) => {
                Self::Unavailable { detail: error.to_string() }
            }
            StoreError::Erasing => Self::being_deleted("this organization"),
            error @ (StoreError::NotFound
            | StoreError::AlreadyExists
            | StoreError::Stale { .. }
            | StoreError::LimitReached { .. }
            | StoreError::Corrupt(_)) => Self::internal(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_store_says_of_a_thing_names_the_thing() {
        let stale =
            Error::about(Resource::Destination, "dest_1")(StoreError::Stale { expected: 1, found: 3 });
        assert_eq!(stale, Error::Stale { kind: Resource::Destination, id: "dest_1".into(), found: 3 });
        let missing = Error::about(Resource::Delivery, "dlv_1")(StoreError::NotFound);
        assert!(missing.to_string().contains("no delivery `dlv_1`"));
    }

    #[test]
    fn messages_show_nothing_of_the_inner_detail() {
        for error in [StoreError::Corrupt("planted".into()), StoreError::Unavailable("planted".into())] {
            assert!(!Error::from(error).to_string().contains("planted"));
        }
    }

    #[test]
    fn unavailable_delivery_is_said_in_the_seeds_words_with_the_settings_name() {
        let message = Error::not_available("ENTERPRISE_TELEMETRY_ENABLED", "dest_1").to_string();
        assert!(message.starts_with("Webhook delivery is not available"));
        assert!(message.contains("ENTERPRISE_TELEMETRY_ENABLED"));
    }
}

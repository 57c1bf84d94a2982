use super::*;
use crate::auth::{Denied, Role};
use crate::domain::contract::Contract;
use crate::domain::delivery::StateKind;

fn many(count: usize) -> Violations {
    let mut violations = Violations::new();
    for position in 0..count {
        violations.add_as(
            Rule::Malformed,
            format!("events[{position}].type"),
            "has a character that is not allowed",
        );
    }
    violations
}

/// One of each variant, with the code and the reason that the API promises.
fn table() -> Vec<(Error, Code, &'static str)> {
    let id = || "dest_1".to_owned();
    let precondition =
        |kind| Error::Precondition { kind, subject: "dlv_1".to_owned(), message: "do this".to_owned() };
    let quota = |what, retry_after| Error::QuotaExceeded {
        subject: "organization:org_a".to_owned(),
        plan: "free".to_owned(),
        what,
        limit: 1,
        usage: 1,
        retry_after,
    };
    let wait = Some(Duration::from_millis(100));
    vec![
        (Error::Invalid(many(1)), Code::InvalidArgument, "FIELD_MALFORMED"),
        (Denied { role: Role::Admin, organization_id: None }.into(), Code::PermissionDenied, "ROLE_MISSING"),
        (Error::not_found(Resource::Destination, "dest_1"), Code::NotFound, "DESTINATION_NOT_FOUND"),
        (Error::not_found(Resource::Organization, "org_a"), Code::NotFound, "ORGANIZATION_NOT_FOUND"),
        (Error::not_found(Resource::Event, "evt"), Code::NotFound, "EVENT_NOT_FOUND"),
        (Error::not_found(Resource::Delivery, "dlv_1"), Code::NotFound, "DELIVERY_NOT_FOUND"),
        (Error::AlreadyExists { kind: Resource::Event, id: id() }, Code::AlreadyExists, "EVENT_ID_CONFLICT"),
        (Error::Stale { kind: Resource::Destination, id: id(), found: 7 }, Code::Aborted, "ETAG_MISMATCH"),
        (quota(Quota::Destinations, None), Code::ResourceExhausted, "DESTINATION_QUOTA_EXCEEDED"),
        (quota(Quota::EventsPerSecond, wait), Code::ResourceExhausted, "RATE_LIMIT_EXCEEDED"),
        (
            precondition(Condition::DeliveryNotAvailable { setting: "delivery.enabled" }),
            Code::FailedPrecondition,
            "DELIVERY_NOT_AVAILABLE",
        ),
        (
            precondition(Condition::NotDeadLettered { state: StateKind::Waiting }),
            Code::FailedPrecondition,
            "DELIVERY_NOT_DEAD_LETTERED",
        ),
        (
            precondition(Condition::ContractMismatch { contract: Contract::Observer }),
            Code::FailedPrecondition,
            "CONTRACT_MISMATCH",
        ),
        (Error::Busy { retry_after: Duration::from_millis(200) }, Code::ResourceExhausted, "QUEUE_FULL"),
        (Error::StoreFull { free_bytes: 1, needed_bytes: 2 }, Code::ResourceExhausted, "STORE_FULL"),
        (Error::Unavailable { detail: "planted".to_owned() }, Code::Unavailable, "STORE_UNAVAILABLE"),
        (Error::Internal { detail: "planted".to_owned() }, Code::Internal, "INTERNAL_FAILURE"),
    ]
}

#[test]
fn every_error_has_its_code_and_one_error_info_with_its_reason() {
    for (error, code, reason) in table() {
        let status = status(error.clone());
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!((status.code(), info.reason.as_str()), (code, reason), "{error:?}");
        assert_eq!(info.domain, "signalpost");
        assert!(!status.message().is_empty() && !format!("{status:?}").contains("planted"), "{status:?}");
        assert_eq!(details.resource_info().is_some(), matches!(code, Code::NotFound | Code::AlreadyExists));
        assert_eq!(details.bad_request().is_some(), code == Code::InvalidArgument);
        assert_eq!(details.precondition_failure().is_some(), code == Code::FailedPrecondition);
        assert_eq!(details.request_info().is_some(), code == Code::Internal);
    }
}

#[test]
fn what_can_be_repeated_says_when_and_a_quota_names_limit_and_usage() {
    let error = table().into_iter().find(|row| row.2 == "DESTINATION_QUOTA_EXCEEDED").unwrap().0;
    let details = status(error).get_error_details();
    let info = details.error_info().unwrap();
    assert_eq!((info.metadata["limit"].as_str(), info.metadata["usage"].as_str()), ("1", "1"));
    assert_eq!(details.quota_failure().unwrap().violations[0].subject, "organization:org_a");
    let busy = status(Error::Busy { retry_after: Duration::from_millis(200) }).get_error_details();
    assert_eq!(busy.retry_info().unwrap().retry_delay, Some(Duration::from_millis(200)));
    let stale = table().into_iter().find(|row| row.2 == "ETAG_MISMATCH").unwrap().0;
    assert_eq!(status(stale).get_error_details().error_info().unwrap().metadata["etag"], "\"7\"");
}

#[test]
fn violations_of_different_rules_share_the_general_reason() {
    let mut violations = many(1);
    violations.add_as(Rule::Required, "organization_id", "is missing");
    let status = invalid(violations);
    let details = status.get_error_details();
    let info = details.error_info().unwrap();
    assert_eq!((info.reason.as_str(), info.metadata["violation_count"].as_str()), ("FIELDS_INVALID", "2"));
    assert_eq!(details.bad_request().unwrap().field_violations.len(), 2);
    assert!(status.message().starts_with("events[0].type has a character"), "{}", status.message());
}

#[test]
fn details_stay_within_what_clients_take_in_trailers() {
    for (count, length) in [(VIOLATIONS_MAX, 10), (500, 10), (5000, 100_000)] {
        let mut violations = Violations::new();
        for position in 0..count {
            violations.add(format!("f{position}.{}", "p".repeat(length)), "d".repeat(length));
        }
        let status = invalid(violations);
        assert!(status.details().len() <= 4096, "{count}: {}", status.details().len());
        assert!(status.message().len() <= TEXT_MAX_BYTES);
        let details = status.get_error_details();
        let shown = &details.bad_request().unwrap().field_violations;
        let last = shown.last().unwrap();
        assert_eq!(last.description.contains("more fields"), count > VIOLATIONS_MAX, "{last:?}");
    }
}

#[test]
fn the_error_of_one_event_has_code_reason_and_all_violations() {
    let error = Problem::from(Error::Invalid(many(30))).into_event_error();
    assert_eq!((error.code, error.reason()), (3, ErrorReason::FieldMalformed));
    assert_eq!(error.field_violations.len(), 30);
    assert_eq!(error.field_violations[29].field, "events[29].type");
}

//! Event drafts: what makes one valid, and where it goes. Pure.

use std::time::Duration;

use crate::contract;
use crate::domain::destination::Destination;
use crate::domain::event::{EVENT_TYPE_MAX_CHARS, EventDraft, EventType, NewEvent, Route};
use crate::domain::id::{EVENT_ID_MAX_CHARS, EventId, OrganizationId};
use crate::domain::payload::{Payload, PayloadLimits};
use crate::domain::plan::Plan;
use crate::domain::time::Timestamp;
use crate::domain::violation::{Rule, Violations};

/// How far ahead of our clock an event may have happened, so that a wrong clock is noticed.
pub const OCCURRED_AHEAD_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Types that begin so are the server's own.
pub const RESERVED_TYPE_PREFIX: &str = "signalpost.";

/// The payload limits in force on a plan: the tighter of the plan's and the server's.
#[must_use]
pub fn payload_limits(server: PayloadLimits, plan: Option<&Plan>) -> PayloadLimits {
    let planned = plan.and_then(|plan| plan.max_payload_bytes);
    let planned = planned.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(usize::MAX);
    PayloadLimits { max_bytes: server.max_bytes.min(planned), ..server }
}

/// Checks a draft; the event that comes out goes nowhere yet.
///
/// # Errors
/// Every violated field, by its path within the event.
pub fn validate(
    draft: EventDraft,
    organization_id: &OrganizationId,
    limits: PayloadLimits,
    now: Timestamp,
) -> Result<NewEvent, Violations> {
    let mut violations = Violations::new();
    let event_id = draft.event_id.and_then(|id| {
        violations.check_as(Rule::of_name(&id, EVENT_ID_MAX_CHARS), "event_id", EventId::parse(&id))
    });
    let event_type = check_type(&mut violations, &draft.event_type);
    if let Some(moment) = draft.occurred_at {
        violations.check_as(Rule::OutOfRange, "occurred_at", check_occurred_at(moment, now));
    }
    let data = Payload::parse(draft.data, limits);
    let data = data.map_err(|problem| problem.note(&mut violations, "json_data")).ok();
    match (event_type, data) {
        (Some(event_type), Some(data)) if violations.is_empty() => Ok(NewEvent {
            organization_id: organization_id.clone(),
            event_id,
            event_type,
            occurred_at: draft.occurred_at,
            trace: draft.trace,
            level: draft.level,
            data,
            routes: Vec::new(),
        }),
        _ => Err(violations),
    }
}

fn check_type(violations: &mut Violations, text: &str) -> Option<EventType> {
    if text.starts_with(RESERVED_TYPE_PREFIX) {
        let problem = format!(
            "begins with `{RESERVED_TYPE_PREFIX}`, which is for the server's own; choose another type"
        );
        violations.add_as(Rule::EventTypeReserved, "type", problem);
        violations.with("event_type", text);
        return None;
    }
    violations.check_as(Rule::of_name(text, EVENT_TYPE_MAX_CHARS), "type", EventType::parse(text))
}

fn check_occurred_at(moment: Timestamp, now: Timestamp) -> Result<(), String> {
    if moment < Timestamp::from_millis(0) {
        return Err("is before the year 1970; give the time at which it happened".into());
    }
    if moment > now + OCCURRED_AHEAD_MAX {
        return Err(format!(
            "is {moment}, more than 24 hours ahead of the server's clock ({now}); check the clock"
        ));
    }
    Ok(())
}

/// The route to a destination, with the guarantee that is in force there.
#[must_use]
pub fn route_to(destination: &Destination) -> Route {
    // The guarantee alone: every event comes through here, and the whole policy has lists to copy.
    let guarantee = destination.settings.guarantee;
    let guarantee = guarantee.unwrap_or_else(|| contract::defaults(destination.contract).guarantee);
    Route { destination_id: destination.id, guarantee }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::control::destination_draft::{self, DraftRules};
    use crate::domain::contract::Contract;
    use crate::domain::destination::DestinationDraft;
    use crate::domain::event::Level;
    use crate::domain::id::DestinationId;

    fn draft(event_type: &str, data: &str) -> EventDraft {
        EventDraft {
            event_id: None,
            event_type: event_type.into(),
            occurred_at: None,
            trace: None,
            level: Level::Info,
            data: Bytes::copy_from_slice(data.as_bytes()),
        }
    }

    fn check(draft: EventDraft) -> Result<NewEvent, Violations> {
        let organization_id = OrganizationId::parse("org_a").unwrap();
        let now = Timestamp::from_millis(1_700_000_000_000);
        validate(draft, &organization_id, PayloadLimits::default(), now)
    }

    #[test]
    fn every_violated_field_of_an_event_is_named_at_once() {
        let mut bad = draft("kpi alert", "[1]");
        bad.event_id = Some("a.b".into());
        bad.occurred_at = Some(Timestamp::from_millis(-1));
        let violations = check(bad).unwrap_err();
        let fields: Vec<&str> = violations.iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!(fields, ["event_id", "type", "occurred_at", "json_data"]);
    }

    #[test]
    fn a_valid_event_keeps_its_bytes_and_its_id() {
        let mut good = draft("kpi.alert", r#"{"a":1.10}"#);
        good.event_id = Some("evt-7".into());
        let event = check(good).unwrap();
        assert_eq!(event.data.as_bytes(), br#"{"a":1.10}"#);
        assert_eq!(event.event_id, Some(EventId::parse("evt-7").unwrap()));
        assert_eq!(check(draft("kpi.alert", "")).unwrap().data.as_bytes(), b"{}");
    }

    #[test]
    fn the_servers_own_types_and_far_futures_are_refused() {
        assert!(check(draft("signalpost.test", "{}")).unwrap_err().to_string().contains("server's own"));
        let mut late = draft("kpi.alert", "{}");
        late.occurred_at = Some(Timestamp::from_millis(1_700_000_000_000) + OCCURRED_AHEAD_MAX);
        assert!(check(late.clone()).is_ok());
        late.occurred_at = late.occurred_at.map(|moment| moment + Duration::from_millis(1));
        assert!(check(late).unwrap_err().to_string().contains("24 hours"));
    }

    #[test]
    fn a_minimum_level_is_looked_at_only_where_the_contract_has_levels() {
        let draft = DestinationDraft::new(Contract::StandardWebhooks, "https://example.com/");
        let rules = DraftRules {
            plain_http_contracts: &[],
            secret_allowed: &|_| Ok(()),
            address_allowed: &|_| Ok(()),
        };
        let organization_id = OrganizationId::parse("org_a").unwrap();
        let id = DestinationId::from_bytes([1; 16]);
        let checked = destination_draft::check(draft, rules).unwrap();
        let mut destination = checked.into_new(id, organization_id, Timestamp::from_millis(0));
        destination.subscription.minimum_level = Some(Level::Warn);
        let event_type = EventType::parse("auth.success").unwrap();
        assert!(contract::wants(&destination, &event_type, Level::Info));
        destination.contract = Contract::Stalwart;
        assert!(!contract::wants(&destination, &event_type, Level::Info));
        assert!(contract::wants(&destination, &event_type, Level::Error));
        destination.contract = Contract::Observer;
        assert!(!contract::wants(&destination, &event_type, Level::Error));
        destination.contract = Contract::StandardWebhooks;
        let operational = EventType::parse("signalpost.quota.near").unwrap();
        assert!(!contract::wants(&destination, &operational, Level::Error), "not listed");
    }

    #[test]
    fn a_plan_can_only_tighten_the_servers_payload_limit() {
        let server = PayloadLimits { max_bytes: 1000, max_depth: 8 };
        let mut plan = Plan {
            name: "free".into(),
            max_destinations: None,
            max_events_per_second: None,
            max_calls_per_second: None,
            max_payload_bytes: Some(10),
            retention: None,
        };
        assert_eq!(payload_limits(server, Some(&plan)).max_bytes, 10);
        plan.max_payload_bytes = Some(5000);
        assert_eq!(payload_limits(server, Some(&plan)).max_bytes, 1000);
        assert_eq!(payload_limits(server, None), server);
    }
}

//! The bodies of the contracts, as receivers read them.

use http::HeaderMap;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::cloud_events;
use super::verify::{ReceivedEvent, Rejection, single};
use crate::domain::contract::Contract;
use crate::domain::time::Timestamp;

/// The events of a request.
pub(super) fn read(
    contract: Contract,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Vec<ReceivedEvent>, Rejection> {
    let text = std::str::from_utf8(body).map_err(|error| unreadable(format!("it is not UTF-8: {error}")));
    let events = match contract {
        Contract::Semaphor => vec![semaphor(text?)?],
        Contract::Stalwart => stalwart(text?)?,
        Contract::Workspace => vec![workspace(optional(headers, "Signalpost-Event-Id")?, text?)?],
        Contract::Observer => vec![observer(text?)?],
        Contract::StandardWebhooks => vec![standard(single(headers, "webhook-id")?.value, text?)?],
        Contract::CloudEvents => cloud_events::read(headers, body)?,
    };
    for time in events.iter().filter_map(|event| event.occurred_at.as_deref()) {
        Timestamp::parse_rfc3339(time).map_err(unreadable)?;
    }
    Ok(events)
}

/// With a reason out of the body, or out of a parser.
pub(super) fn unreadable(why: impl ToString) -> Rejection {
    Rejection::UnreadableBody(why.to_string())
}

pub(super) fn parse<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Rejection> {
    serde_json::from_str(text).map_err(unreadable)
}

/// The value of a header that may be there once.
pub(super) fn optional<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<Option<&'a str>, Rejection> {
    match single(headers, name) {
        Ok(header) => Ok(Some(header.value)),
        Err(Rejection::MissingHeader(_)) => Ok(None),
        Err(other) => Err(other),
    }
}

#[derive(Deserialize)]
struct SemaphorBody {
    event_id: String,
    event_type: String,
    occurred_at: String,
    #[serde(rename = "org_id")]
    _org_id: String,
}

fn semaphor(text: &str) -> Result<ReceivedEvent, Rejection> {
    let body: SemaphorBody = parse(text)?;
    Ok(ReceivedEvent {
        id: Some(body.event_id),
        event_type: body.event_type,
        occurred_at: Some(body.occurred_at),
        data: text.to_owned(),
    })
}

#[derive(Deserialize)]
struct StalwartBody<'a> {
    #[serde(borrow)]
    events: Vec<StalwartEvent<'a>>,
}

#[derive(Deserialize)]
struct StalwartEvent<'a> {
    id: String,
    #[serde(rename = "createdAt")]
    created_at: String,
    #[serde(rename = "type")]
    event_type: String,
    #[serde(borrow)]
    data: &'a RawValue,
}

fn stalwart(text: &str) -> Result<Vec<ReceivedEvent>, Rejection> {
    let body: StalwartBody<'_> = parse(text)?;
    let event = |event: StalwartEvent<'_>| ReceivedEvent {
        id: Some(event.id),
        event_type: event.event_type,
        occurred_at: Some(event.created_at),
        data: event.data.get().to_owned(),
    };
    Ok(body.events.into_iter().map(event).collect())
}

#[derive(Deserialize)]
struct WorkspaceBody<'a> {
    event: String,
    timestamp: String,
    #[serde(rename = "tenantId")]
    _tenant_id: String,
    #[serde(borrow)]
    data: &'a RawValue,
}

/// The body has no id; receivers that need one take it from the header.
fn workspace(id: Option<&str>, text: &str) -> Result<ReceivedEvent, Rejection> {
    let body: WorkspaceBody<'_> = parse(text)?;
    Ok(ReceivedEvent {
        id: id.map(str::to_owned),
        event_type: body.event,
        occurred_at: Some(body.timestamp),
        data: body.data.get().to_owned(),
    })
}

#[derive(Deserialize)]
struct ObserverBody<'a> {
    id: String,
    #[serde(rename = "type")]
    event_type: String,
    #[serde(rename = "occurredAt")]
    occurred_at: String,
    #[serde(rename = "orgId")]
    _org_id: String,
    #[serde(borrow)]
    data: &'a RawValue,
}

fn observer(text: &str) -> Result<ReceivedEvent, Rejection> {
    let body: ObserverBody<'_> = parse(text)?;
    Ok(ReceivedEvent {
        id: Some(body.id),
        event_type: body.event_type,
        occurred_at: Some(body.occurred_at),
        data: body.data.get().to_owned(),
    })
}

#[derive(Deserialize)]
struct StandardBody<'a> {
    #[serde(rename = "type")]
    event_type: String,
    timestamp: String,
    #[serde(borrow)]
    data: &'a RawValue,
}

fn standard(id: &str, text: &str) -> Result<ReceivedEvent, Rejection> {
    let body: StandardBody<'_> = parse(text)?;
    Ok(ReceivedEvent {
        id: Some(id.to_owned()),
        event_type: body.event_type,
        occurred_at: Some(body.timestamp),
        data: body.data.get().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: Option<&str>, event_type: &str, occurred_at: &str, data: &str) -> ReceivedEvent {
        ReceivedEvent {
            id: id.map(str::to_owned),
            event_type: event_type.into(),
            occurred_at: Some(occurred_at.into()),
            data: data.into(),
        }
    }

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        list.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn the_bodies_of_the_products_documentation_are_read() {
        let flat = r#"{"event_id": "a1b2", "event_type": "webhook_test",
            "occurred_at": "2025-06-15T14:32:08.491Z", "status": "test", "org_id": "org_abc123"}"#;
        let none = HeaderMap::new();
        let read_flat = read(Contract::Semaphor, &none, flat.as_bytes()).unwrap();
        assert_eq!(read_flat, [event(Some("a1b2"), "webhook_test", "2025-06-15T14:32:08.491Z", flat)]);

        let batch = br#"{"events":[{"id":"12345","createdAt":"2023-06-21T14:55:00Z","type":"auth.success","data":{}}]}"#;
        let read_batch = read(Contract::Stalwart, &none, batch).unwrap();
        assert_eq!(read_batch, [event(Some("12345"), "auth.success", "2023-06-21T14:55:00Z", "{}")]);

        let tenant = br#"{"event": "ingestion.completed", "timestamp": "2025-01-15T10:30:00Z",
            "tenantId": "tenant_abc123", "data": {"rowsIngested": 1.50}}"#;
        let expected =
            |id| [event(id, "ingestion.completed", "2025-01-15T10:30:00Z", r#"{"rowsIngested": 1.50}"#)];
        assert_eq!(read(Contract::Workspace, &none, tenant).unwrap(), expected(None));
        let with_id = headers(&[("signalpost-event-id", "evt_1")]);
        assert_eq!(read(Contract::Workspace, &with_id, tenant).unwrap(), expected(Some("evt_1")));

        let slo = br#"{"id":"e","type":"slo.burn_started","occurredAt":"2025-01-15T10:30:00.000Z","orgId":"o","data":{"a":1,"a":2}}"#;
        let read_slo = read(Contract::Observer, &none, slo).unwrap();
        let expected = event(Some("e"), "slo.burn_started", "2025-01-15T10:30:00.000Z", r#"{"a":1,"a":2}"#);
        assert_eq!(read_slo, [expected]);

        let body = br#"{"type":"invoice.paid","timestamp":"2025-01-15T10:30:00.000Z","data":{}}"#;
        let read_body = read(Contract::StandardWebhooks, &headers(&[("webhook-id", "m")]), body).unwrap();
        assert_eq!(read_body, [event(Some("m"), "invoice.paid", "2025-01-15T10:30:00.000Z", "{}")]);
    }

    #[test]
    fn a_body_that_breaks_the_promise_is_unreadable() {
        let none = HeaderMap::new();
        for contract in [Contract::Semaphor, Contract::Stalwart, Contract::Workspace, Contract::Observer] {
            for body in [&b"\xff"[..], b"", b"{}", b"[]", b"{\"events\":{}}"] {
                let answer = read(contract, &none, body);
                assert!(matches!(answer, Err(Rejection::UnreadableBody(_))), "{contract} {answer:?}");
            }
        }
        let twice = br#"{"event_id":"a","event_id":"b","event_type":"t","occurred_at":"2025-01-15T10:30:00Z","org_id":"o"}"#;
        assert!(read(Contract::Semaphor, &none, twice).is_err());
        let undated = br#"{"event":"t","timestamp":"yesterday","tenantId":"t","data":{}}"#;
        assert!(read(Contract::Workspace, &none, undated).is_err());
    }
}

//! CloudEvents 1.0 over HTTP: structured, batched, or binary.

use http::HeaderMap;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::events::{optional, parse, unreadable};
use super::verify::{ReceivedEvent, Rejection, single};

#[derive(Deserialize)]
struct Envelope<'a> {
    specversion: String,
    id: String,
    #[serde(rename = "source")]
    _source: String,
    #[serde(rename = "type")]
    event_type: String,
    time: Option<String>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(rename = "data_base64")]
    _data_base64: Option<IgnoredAny>,
}

/// The content type tells the mode: one envelope, several, or attributes in the headers.
pub(super) fn read(headers: &HeaderMap, body: &[u8]) -> Result<Vec<ReceivedEvent>, Rejection> {
    let content_type = optional(headers, "Content-Type")?.unwrap_or_default().to_ascii_lowercase();
    let utf8 = || std::str::from_utf8(body).map_err(unreadable);
    match content_type.split(';').next().unwrap_or_default().trim() {
        "application/cloudevents+json" => Ok(vec![opened(parse(utf8()?)?)?]),
        "application/cloudevents-batch+json" => {
            let envelopes: Vec<Envelope<'_>> = parse(utf8()?)?;
            envelopes.into_iter().map(opened).collect()
        }
        _ => Ok(vec![binary(headers, body)?]),
    }
}

fn opened(envelope: Envelope<'_>) -> Result<ReceivedEvent, Rejection> {
    check_version(&envelope.specversion)?;
    Ok(ReceivedEvent {
        id: Some(envelope.id),
        event_type: envelope.event_type,
        occurred_at: envelope.time,
        data: envelope.data.map(RawValue::get).unwrap_or_default().to_owned(),
    })
}

fn binary(headers: &HeaderMap, body: &[u8]) -> Result<ReceivedEvent, Rejection> {
    let attribute = |name| single(headers, name).map(|header| percent_decoded(header.value));
    check_version(&attribute("ce-specversion")?)?;
    attribute("ce-source")?;
    Ok(ReceivedEvent {
        id: Some(attribute("ce-id")?),
        event_type: attribute("ce-type")?,
        occurred_at: optional(headers, "ce-time")?.map(percent_decoded),
        data: String::from_utf8_lossy(body).into_owned(),
    })
}

fn check_version(version: &str) -> Result<(), Rejection> {
    match version {
        "1.0" => Ok(()),
        _ => Err(unreadable("its specversion is not 1.0")),
    }
}

/// Header values of CloudEvents are percent-encoded; a `%` that begins no code stands for itself.
fn percent_decoded(text: &str) -> String {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let code = after.get(..2).filter(|_| *first == b'%').and_then(|digits| hex::decode(digits).ok());
        decoded.push(code.as_ref().and_then(|code| code.first()).copied().unwrap_or(*first));
        rest = after.get(if code.is_some() { 2 } else { 0 }..).unwrap_or_default();
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: &str = "2025-01-15T10:30:00.000Z";

    fn event(id: &str, data: &str) -> ReceivedEvent {
        ReceivedEvent {
            id: Some(id.into()),
            event_type: "a.b".into(),
            occurred_at: Some(TIME.into()),
            data: data.into(),
        }
    }

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        list.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn cloud_events_are_read_in_all_three_modes() {
        let one = |id: &str| {
            format!(
                r#"{{"specversion":"1.0","id":"{id}","source":"/s","type":"a.b","time":"{TIME}","data":[1]}}"#
            )
        };
        let structured = headers(&[("content-type", "application/cloudevents+json; charset=utf-8")]);
        let events = read(&structured, one("x").as_bytes()).unwrap();
        assert_eq!(events, [event("x", "[1]")]);

        let batch = headers(&[("content-type", "application/cloudevents-batch+json")]);
        let body = format!("[{},{}]", one("x"), one("y"));
        let events = read(&batch, body.as_bytes()).unwrap();
        assert_eq!(events, [event("x", "[1]"), event("y", "[1]")]);

        let binary = headers(&[
            ("content-type", "application/json"),
            ("ce-specversion", "1.0"),
            ("ce-id", "x%20%C3%A9%"),
            ("ce-source", "/s"),
            ("ce-type", "a.b"),
            ("ce-time", TIME),
        ]);
        let events = read(&binary, b"[1]").unwrap();
        assert_eq!(events, [event("x é%", "[1]")]);
    }

    #[test]
    fn another_version_or_none_is_unreadable() {
        let old = br#"{"specversion":"0.3","id":"1","source":"s","type":"t"}"#;
        let structured = headers(&[("content-type", "application/cloudevents+json")]);
        assert!(read(&structured, old).is_err());
        assert_eq!(read(&HeaderMap::new(), b"{}"), Err(Rejection::MissingHeader("ce-specversion")));
    }
}

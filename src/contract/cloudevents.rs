//! CLOUDEVENTS: CloudEvents 1.0 over HTTP, structured, binary or in batches.
//!
//! The attributes are those of the core specification, the envelope is the JSON event format, the three
//! modes are those of the HTTP protocol binding. Signatures, where a secret is set, are those of
//! Standard Webhooks: CloudEvents has none.

use std::fmt::Write;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};

use super::json::{self, ObjectWriter};
use super::{Content, RenderProblem, headers, standard_webhooks};
use crate::domain::contract::CloudEventsMode;
use crate::domain::event::Event;
use crate::domain::settings::EffectivePolicy;

/// Examples; the specification only recommends a reverse-DNS prefix.
pub(super) const EVENT_TYPES: [&str; 2] = ["com.example.invoice.paid", "com.example.user.created"];

/// What every attribute's header begins with (HTTP binding, section 3.1.3.1).
pub(super) const ATTRIBUTE_PREFIX: &str = "ce-";

const SPEC_VERSION: &str = "1.0";
const DATA_CONTENT_TYPE: &str = "application/json";

/// As STANDARD_WEBHOOKS, with room for a hundred events in a batch, where that mode is chosen.
pub(super) fn defaults() -> EffectivePolicy {
    EffectivePolicy { max_batch_events: 100, ..standard_webhooks::defaults() }
}

/// The request in the destination's mode.
pub(super) fn content(
    policy: &EffectivePolicy,
    first: &Event,
    events: &[&Event],
) -> Result<Content, RenderProblem> {
    match policy.cloudevents_mode {
        CloudEventsMode::Structured => Ok(Content {
            content_type: "application/cloudevents+json",
            attributes: Vec::new(),
            body: envelope(policy, first),
        }),
        CloudEventsMode::Binary => Ok(Content {
            content_type: DATA_CONTENT_TYPE,
            attributes: attributes(policy, first)?,
            body: first.data.bytes(),
        }),
        CloudEventsMode::Batch => {
            let envelopes: Vec<_> = events.iter().map(|event| envelope(policy, event)).collect();
            Ok(Content {
                content_type: "application/cloudevents-batch+json",
                attributes: Vec::new(),
                body: json::array(&envelopes),
            })
        }
    }
}

fn envelope(policy: &EffectivePolicy, event: &Event) -> Bytes {
    ObjectWriter::with_capacity(event.data.as_bytes().len() + 384)
        .string("specversion", SPEC_VERSION)
        .string("id", event.id.as_str())
        .string("source", &source(policy, event))
        .string("type", event.event_type.as_str())
        .string("time", &event.occurred_at.to_rfc3339_millis())
        .string("datacontenttype", DATA_CONTENT_TYPE)
        .raw("data", event.data.as_bytes())
        .finish()
}

/// The attributes as headers; `datacontenttype` is `Content-Type` (HTTP binding, section 3.1.1).
fn attributes(
    policy: &EffectivePolicy,
    event: &Event,
) -> Result<Vec<(HeaderName, HeaderValue)>, RenderProblem> {
    let time = event.occurred_at.to_rfc3339_millis();
    let source = source(policy, event);
    let attribute = |name, value: &str| {
        Ok((HeaderName::from_static(name), headers::value(name, &percent_encoded(value))?))
    };
    Ok(vec![
        attribute("ce-specversion", SPEC_VERSION)?,
        attribute("ce-id", event.id.as_str())?,
        attribute("ce-source", &source)?,
        attribute("ce-type", event.event_type.as_str())?,
        attribute("ce-time", &time)?,
    ])
}

/// The `source` attribute, a URI-reference that must not be empty.
fn source(policy: &EffectivePolicy, event: &Event) -> String {
    let chosen = policy.cloudevents_source.clone().filter(|source| !source.is_empty());
    chosen.unwrap_or_else(|| format!("signalpost/{}", event.organization_id))
}

/// Encodes what a header value can't carry (HTTP binding, section 3.1.3.2): the space, the double quote,
/// the percent sign and all beyond printable ASCII, byte by byte in UTF-8.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'"' | b'%' => push_encoded(&mut encoded, byte),
            0x21..=0x7e => encoded.push(char::from(byte)),
            _ => push_encoded(&mut encoded, byte),
        }
    }
    encoded
}

fn push_encoded(encoded: &mut String, byte: u8) {
    // Writing to a String can't fail.
    write!(encoded, "%{byte:02X}").unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_values_are_percent_encoded_as_the_http_binding_says() {
        // The example of the HTTP binding, section 3.1.3.2.
        assert_eq!(percent_encoded("Euro € 😀"), "Euro%20%E2%82%AC%20%F0%9F%98%80");
        assert_eq!(percent_encoded("a\"b%c\r\n\u{7f}~!"), "a%22b%25c%0D%0A%7F~!");
        assert_eq!(percent_encoded("https://example.com/a?b=c&d#e"), "https://example.com/a?b=c&d#e");
    }
}

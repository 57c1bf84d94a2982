//! Headers: who owns which, and all of a request but its signature.
//!
//! Custom headers come first and what is ours is inserted after them, so that no setting can forge an
//! id, a signature, or the framing of the request. The transport adds `host` and `content-length`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue};
use zeroize::Zeroizing;

use super::standard_webhooks::{ID_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER};
use super::{Content, RenderContext, RenderProblem, cloudevents, semaphor, signature};
use crate::domain::contract::Contract;
use crate::domain::destination::Destination;
use crate::domain::event::Event;
use crate::domain::secret::{HttpAuth, Secret};
use crate::domain::trace;

const NAME_MAX_BYTES: usize = 128;
const VALUE_MAX_BYTES: usize = 4096;

const EVENT_ID: HeaderName = HeaderName::from_static("signalpost-event-id");
const ATTEMPT: HeaderName = HeaderName::from_static("signalpost-attempt");
/// Only in requests for events whose callers have a trace; everything else is as the contract says.
const TRACEPARENT: HeaderName = HeaderName::from_static(trace::TRACEPARENT);
/// What all headers of ours begin with, those to come included.
const OUR_PREFIX: &str = "signalpost-";

/// Who we say we are, but in SEMAPHOR.
const OUR_USER_AGENT: &str = concat!("Signalpost/", env!("CARGO_PKG_VERSION"));

/// Headers that frame the message, belong to the connection (RFC 9110, section 7.6.1) or say of the body
/// what is not so.
const FRAMING: [&str; 15] = [
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// See [`super::check_header`].
pub(super) fn check(contract: Contract, name: &str, value: &str) -> Result<(), String> {
    if name.len() > NAME_MAX_BYTES {
        return Err(format!("has a name of {} bytes; at most {NAME_MAX_BYTES} are allowed", name.len()));
    }
    if value.len() > VALUE_MAX_BYTES {
        return Err(format!("has a value of {} bytes; at most {VALUE_MAX_BYTES} are allowed", value.len()));
    }
    let parsed = HeaderName::from_bytes(name.as_bytes()).map_err(|_| {
        format!("{name:?} is no header name; use ASCII letters, digits and any of !#$%&'*+-.^_`|~ only")
    })?;
    HeaderValue::from_str(value).map_err(|_| {
        format!("`{name}` has a value with a line break or another control character; remove it")
    })?;
    if FRAMING.contains(&parsed.as_str()) {
        return Err(format!("`{name}` is set by the HTTP connection itself; remove it"));
    }
    if is_owned(contract, parsed.as_str()) {
        return Err(format!("`{name}` belongs to the {contract} contract and can't be set; remove it"));
    }
    Ok(())
}

/// Whether the contract or its signature says what the header has; the name is in lower case.
fn is_owned(contract: Contract, name: &str) -> bool {
    let of_contract = match contract {
        Contract::Semaphor => name == USER_AGENT,
        Contract::StandardWebhooks => [ID_HEADER, TIMESTAMP_HEADER].contains(&name),
        // Any `ce-` header would be read as an attribute of the event.
        Contract::CloudEvents => {
            [ID_HEADER, TIMESTAMP_HEADER, SIGNATURE_HEADER].contains(&name)
                || name.starts_with(cloudevents::ATTRIBUTE_PREFIX)
        }
        Contract::Stalwart | Contract::Workspace | Contract::Observer => false,
    };
    of_contract
        || name.starts_with(OUR_PREFIX)
        || name.eq_ignore_ascii_case(signature::header(contract))
        // Upstream lets it be overridden there (seed 001, `httpHeaders`).
        || (name == CONTENT_TYPE && contract != Contract::Stalwart)
}

/// All headers but those of the signature.
pub(super) fn of_request(
    context: RenderContext<'_>,
    events: &[&Event],
    content: &Content,
) -> Result<HeaderMap, RenderProblem> {
    let contract = context.destination.contract;
    let mut headers = custom(context.destination)?;
    let agent = if contract == Contract::Semaphor { semaphor::USER_AGENT } else { OUR_USER_AGENT };
    // Where these two may be set, the custom header is there by now; elsewhere it was left out.
    headers.entry(USER_AGENT).or_insert(HeaderValue::from_static(agent));
    headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static(content.content_type));
    if let Some(authorization) = authorization(context)? {
        headers.insert(AUTHORIZATION, authorization);
    }
    headers.extend(content.attributes.iter().cloned());
    headers.insert(ATTEMPT, HeaderValue::from(context.attempt_number));
    if let Some(trace) = context.trace {
        headers.insert(TRACEPARENT, value(trace::TRACEPARENT, &trace.to_string())?);
    }
    if let [event] = events {
        headers.insert(EVENT_ID, value("signalpost-event-id", event.id.as_str())?);
    }
    Ok(headers)
}

/// The custom headers, without those that a change of contract has made ours since they were checked.
fn custom(destination: &Destination) -> Result<HeaderMap, RenderProblem> {
    let mut headers = HeaderMap::with_capacity(destination.headers.len() + 10);
    for header in &destination.headers {
        let name = HeaderName::from_bytes(header.name.as_bytes())
            .map_err(|_| RenderProblem(format!("{:?} is no header name", header.name)))?;
        if FRAMING.contains(&name.as_str()) || is_owned(destination.contract, name.as_str()) {
            continue;
        }
        let value = secret_value(&header.name, header.sent_value())?;
        // A request has one of these; the last one counts. Of any other there may be several.
        if [AUTHORIZATION, CONTENT_TYPE, USER_AGENT].contains(&name) {
            headers.insert(name, value);
        } else {
            headers.append(name, value);
        }
    }
    Ok(headers)
}

/// `Basic` (RFC 7617, in UTF-8) or `Bearer` (RFC 6750), where the destination asks for it.
fn authorization(context: RenderContext<'_>) -> Result<Option<HeaderValue>, RenderProblem> {
    let secret = || context.secrets.http_auth.as_ref().map(Secret::expose);
    let text = match (&context.destination.http_auth, secret()) {
        (HttpAuth::Unauthenticated, _) => return Ok(None),
        (HttpAuth::Basic { username, .. }, Some(password)) => {
            wiped(&["Basic ", &basic_credentials(username, password)])
        }
        (HttpAuth::Bearer { .. }, Some(token)) if !token.is_empty() => wiped(&["Bearer ", token]),
        (HttpAuth::Basic { .. } | HttpAuth::Bearer { .. }, _) => {
            return Err(RenderProblem("the secret of http_auth is missing or empty".into()));
        }
    };
    secret_value("authorization", &text).map(Some)
}

/// What Basic authentication makes of a name and a password (RFC 7617), wiped when dropped.
#[must_use]
pub fn basic_credentials(username: &str, password: &str) -> Zeroizing<String> {
    Zeroizing::new(STANDARD.encode(wiped(&[username, ":", password]).as_bytes()))
}

/// The parts as one text, which is wiped when dropped. It is made in one piece: a text that grows leaves copies.
fn wiped(parts: &[&str]) -> Zeroizing<String> {
    Zeroizing::new(parts.concat())
}

/// A text as a header value.
pub(super) fn value(name: &str, text: &str) -> Result<HeaderValue, RenderProblem> {
    HeaderValue::from_str(text).map_err(|_| {
        RenderProblem(format!("the value of header `{name}` has characters that HTTP can't carry"))
    })
}

/// A value that stays out of logs and of HTTP/2's header tables.
fn secret_value(name: &str, text: &str) -> Result<HeaderValue, RenderProblem> {
    let mut value = value(name, text)?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_frames_the_request_or_belongs_to_us_is_refused_in_every_spelling() {
        for contract in Contract::ALL {
            for name in FRAMING {
                assert!(check(contract, name, "x").is_err(), "{contract} {name}");
                assert!(check(contract, &name.to_uppercase(), "x").is_err(), "{contract} {name}");
            }
            let owned = ["Signalpost-Event-Id", "signalpost-attempt", "Signalpost-Later"];
            for name in owned.into_iter().chain([signature::header(contract)]) {
                assert!(check(contract, name, "x").unwrap_err().contains("contract"), "{contract} {name}");
            }
        }
        for name in ["webhook-id", "Webhook-Timestamp", "webhook-signature"] {
            assert!(check(Contract::StandardWebhooks, name, "x").is_err(), "{name}");
            assert!(check(Contract::CloudEvents, name, "x").is_err(), "{name}");
        }
        assert!(check(Contract::CloudEvents, "CE-Anything", "x").is_err());
    }

    #[test]
    fn content_type_and_user_agent_may_be_set_where_the_contract_leaves_them_open() {
        for contract in Contract::ALL {
            let content_type = check(contract, "Content-Type", "application/json; charset=utf-8");
            assert_eq!(content_type.is_ok(), contract == Contract::Stalwart, "{contract}");
            let agent = check(contract, "User-Agent", "ours/1");
            assert_eq!(agent.is_ok(), contract != Contract::Semaphor, "{contract}");
            check(contract, "Authorization", "ApiKey abc").unwrap();
            check(contract, "X-My-Header", "my-value").unwrap();
        }
    }

    #[test]
    fn names_and_values_that_http_cannot_carry_are_refused_without_showing_the_value() {
        let check = |name: &str, value: &str| check(Contract::Workspace, name, value);
        for name in ["", " ", "x y", "x:", ":path", "x\r\ny", "é", &"x".repeat(129)] {
            assert!(check(name, "v").is_err(), "{name:?}");
        }
        for value in ["planted\r\nx: y", "planted\n", "planted\0", "planted\u{7f}", &"planted".repeat(600)] {
            assert!(!check("x-name", value).unwrap_err().contains("planted"), "{value:?}");
        }
        check(&"x".repeat(128), &"v".repeat(4096)).unwrap();
        check("x-empty", "").unwrap();
    }
}

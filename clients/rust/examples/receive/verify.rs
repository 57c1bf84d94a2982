//! Is a webhook genuine, and what does it say? One function for all six contracts.
//!
//! Copy this file into your receiver and keep the arms of your contract. Three rules matter more than the
//! rest: verify the bytes as they came and parse them afterwards; compare in constant time (`ring` does);
//! remember event ids, because a delivery can come more than once.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use ring::{hmac, signature};
use serde_json::Value;

/// How far the clocks of sender and receiver may be apart, in seconds. Older requests may be recordings.
pub const TOLERANCE: u64 = 300;

/// What the destination was created with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contract {
    Semaphor,
    Stalwart,
    Workspace,
    Observer,
    StandardWebhooks,
    CloudEvents,
}

/// An event that was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// The same for every repetition.
    pub id: String,
    pub event_type: String,
}

/// Verifies a request and then reads its events.
///
/// `secrets` are all that are valid at present: one, or two while they rotate. `now` is in seconds since 1970.
pub fn verify(
    contract: Contract,
    secrets: &[&str],
    headers: &HeaderMap,
    body: &[u8],
    now: u64,
) -> Result<Vec<Received>, &'static str> {
    let secrets: Vec<&str> = secrets.iter().copied().filter(|secret| !secret.is_empty()).collect();
    match contract {
        Contract::Semaphor => plain(&secrets, hex_signature(headers, "x-semaphor-signature")?, body)?,
        Contract::Workspace => plain(&secrets, hex_signature(headers, "x-webhook-signature")?, body)?,
        Contract::Observer => plain(&secrets, hex_signature(headers, "x-observer-signature")?, body)?,
        Contract::Stalwart => plain(&secrets, base64_signature(headers, "x-signature")?, body)?,
        Contract::StandardWebhooks | Contract::CloudEvents => standard(&secrets, headers, body, now)?,
    }
    read(contract, headers, body)
}

// [plain]
/// HMAC-SHA256 of the body, with the bytes of the secret's text as the key.
fn plain(secrets: &[&str], signature: Vec<u8>, body: &[u8]) -> Result<(), &'static str> {
    let holds = |secret: &&str| {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        hmac::verify(&key, body, &signature).is_ok()
    };
    if secrets.iter().any(holds) { Ok(()) } else { Err("the signature does not match") }
}
// [/plain]

// [standard]
/// Standard Webhooks: HMAC-SHA256 (`v1`, secret `whsec_…`) or Ed25519 (`v1a`, public key `whpk_…`) of id, time
/// and body. One of several signatures has to match, as two secrets sign while they rotate.
fn standard(secrets: &[&str], headers: &HeaderMap, body: &[u8], now: u64) -> Result<(), &'static str> {
    let (id, time) = (header(headers, "webhook-id")?, header(headers, "webhook-timestamp")?);
    let seconds: u64 = time.parse().map_err(|_| "the timestamp is not a number")?;
    if seconds.abs_diff(now) > TOLERANCE {
        return Err("the timestamp is too old or too new");
    }
    let signed = [format!("{id}.{time}.").as_bytes(), body].concat();
    for entry in header(headers, "webhook-signature")?.split(' ') {
        let Some((version, text)) = entry.split_once(',') else { continue };
        let Ok(signature) = STANDARD.decode(text) else { continue };
        if secrets.iter().any(|secret| entry_holds(version, secret, &signature, &signed)) {
            return Ok(());
        }
    }
    Err("the signature does not match")
}

fn entry_holds(version: &str, secret: &str, signature: &[u8], signed: &[u8]) -> bool {
    let key = |prefix| STANDARD.decode(secret.strip_prefix(prefix)?).ok();
    match version {
        "v1" => key("whsec_").is_some_and(|key| {
            hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, &key), signed, signature).is_ok()
        }),
        "v1a" => key("whpk_").is_some_and(|key| {
            signature::UnparsedPublicKey::new(&signature::ED25519, key).verify(signed, signature).is_ok()
        }),
        _ => false,
    }
}
// [/standard]

fn hex_signature(headers: &HeaderMap, name: &str) -> Result<Vec<u8>, &'static str> {
    let digest = header(headers, name)?.strip_prefix("sha256=").ok_or("the signature has no sha256=")?;
    let digit = |character: char| character.to_digit(16);
    let digits: Option<Vec<u32>> = digest.chars().map(digit).collect();
    let pairs = digits.ok_or("the signature is not hexadecimal")?;
    Ok(pairs.chunks(2).map(|pair| pair.iter().fold(0, |byte, digit| byte * 16 + *digit as u8)).collect())
}

fn base64_signature(headers: &HeaderMap, name: &str) -> Result<Vec<u8>, &'static str> {
    STANDARD.decode(header(headers, name)?).map_err(|_| "the signature is not base64")
}

/// A header that is there once: of two, another program may believe the other one.
fn header<'a>(headers: &'a HeaderMap, name: &str) -> Result<&'a str, &'static str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().map_err(|_| "a header is not text"),
        (None, _) => Err("a header is missing"),
        (Some(_), Some(_)) => Err("a header is there twice"),
    }
}

/// The events of a request that is genuine.
fn read(contract: Contract, headers: &HeaderMap, body: &[u8]) -> Result<Vec<Received>, &'static str> {
    let body: Value = serde_json::from_slice(body).map_err(|_| "the body is not JSON")?;
    let event = |id: Option<&str>, event_type: Option<&str>| match (id, event_type) {
        (Some(id), Some(event_type)) => Ok(Received { id: id.into(), event_type: event_type.into() }),
        _ => Err("an event has no id or no type"),
    };
    let named = |value: &Value, id: &str, event_type: &str| {
        event(value.get(id).and_then(Value::as_str), value.get(event_type).and_then(Value::as_str))
    };
    let all = |events: Option<&Vec<Value>>| {
        events.ok_or("the body has no events")?.iter().map(|one| named(one, "id", "type")).collect()
    };
    match contract {
        Contract::Semaphor => Ok(vec![named(&body, "event_id", "event_type")?]),
        Contract::Stalwart => all(body.get("events").and_then(Value::as_array)),
        // This body has no id of its own.
        Contract::Workspace => {
            let id = header(headers, "signalpost-event-id")?;
            Ok(vec![event(Some(id), body.get("event").and_then(Value::as_str))?])
        }
        Contract::Observer => Ok(vec![named(&body, "id", "type")?]),
        Contract::StandardWebhooks => {
            let id = header(headers, "webhook-id")?;
            Ok(vec![event(Some(id), body.get("type").and_then(Value::as_str))?])
        }
        // Batch, binary or structured, told apart by the content type.
        Contract::CloudEvents => match header(headers, "content-type")? {
            "application/cloudevents-batch+json" => all(body.as_array()),
            "application/cloudevents+json" => Ok(vec![named(&body, "id", "type")?]),
            _ => Ok(vec![event(Some(header(headers, "ce-id")?), Some(header(headers, "ce-type")?))?]),
        },
    }
}

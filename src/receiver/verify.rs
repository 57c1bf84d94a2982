//! Is a request genuine? Each contract's check, as its product's documentation describes it.
//!
//! Pure: the time is an argument. Comparisons take the same time for every wrong signature. A header
//! that is there twice is refused, because two programs in a row may each believe another one.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;

use super::{events, standard};
use crate::domain::contract::Contract;
use crate::domain::time::Timestamp;

/// A genuine request, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The events, in the order of the body.
    pub events: Vec<ReceivedEvent>,
    /// The number in `Signalpost-Attempt`, where it is there.
    pub attempt: Option<u32>,
}

/// One event, as a receiver reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedEvent {
    /// The id by which a receiver recognises repetitions.
    pub id: Option<String>,
    /// The event's type.
    pub event_type: String,
    /// When it happened, in RFC 3339.
    pub occurred_at: Option<String>,
    /// The text of the data, byte for byte; for `SEMAPHOR`, whose object is flat, the whole body.
    pub data: String,
}

/// Why a receiver turns a request away.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The receiver's own secret can't verify anything.
    #[error("the receiver's secret {0}")]
    UnusableSecret(&'static str),
    /// A header that verification needs is not there.
    #[error("the header {0} is missing")]
    MissingHeader(&'static str),
    /// A header is there more than once.
    #[error("the header {0} is there more than once")]
    RepeatedHeader(&'static str),
    /// A header has another form than documented.
    #[error("the header {name} is malformed: it has to be {expected}")]
    MalformedHeader {
        /// The header.
        name: &'static str,
        /// The form that is documented.
        expected: &'static str,
    },
    /// Signed too long ago: it may be a recording.
    #[error("the timestamp is {seconds} s old; at most {limit} s are accepted")]
    TimestampTooOld {
        /// The age.
        seconds: u64,
        /// The tolerance.
        limit: u64,
    },
    /// Signed in the future.
    #[error("the timestamp is {seconds} s in the future; at most {limit} s are accepted")]
    TimestampTooNew {
        /// How far ahead.
        seconds: u64,
        /// The tolerance.
        limit: u64,
    },
    /// Signatures are there, but none of a version that the secret can verify.
    #[error("the header webhook-signature has no entry of version {0}, which the secret verifies")]
    NoSuchVersion(&'static str),
    /// The signature is not the one of this body with this secret.
    #[error("the signature is not that of this body with this secret")]
    SignatureMismatch,
    /// Genuine or not: the body is not what the contract promises.
    #[error("the body can't be read: {0}")]
    UnreadableBody(String),
}

/// Checks the signature and then reads the events.
///
/// # Errors
/// The first reason for which a receiver of this contract would turn the request away.
pub fn verify(
    contract: Contract,
    secret: &str,
    headers: &HeaderMap,
    body: &[u8],
    now: Timestamp,
) -> Result<Verified, Rejection> {
    check_signature(contract, secret, headers, body, now)?;
    read(contract, headers, body)
}

/// Checks the signature only, whatever the body is.
///
/// # Errors
/// The first reason for which a receiver of this contract would turn the request away.
pub fn check_signature(
    contract: Contract,
    secret: &str,
    headers: &HeaderMap,
    body: &[u8],
    now: Timestamp,
) -> Result<(), Rejection> {
    if secret.is_empty() {
        // An empty key is one that everybody has.
        return Err(Rejection::UnusableSecret("is empty"));
    }
    match contract {
        Contract::Semaphor => check_hex(secret, single(headers, "X-Semaphor-Signature")?, body),
        Contract::Stalwart => check_base64(secret, single(headers, "X-Signature")?, body),
        Contract::Workspace => check_hex(secret, single(headers, "X-Webhook-Signature")?, body),
        Contract::Observer => check_hex(secret, single(headers, "X-Observer-Signature")?, body),
        Contract::StandardWebhooks | Contract::CloudEvents => standard::check(secret, headers, body, now),
    }
}

/// Reads the events without any check of who sent them, as a receiver without a secret does.
///
/// # Errors
/// [`Rejection::UnreadableBody`], or a header that has part of an event is missing.
pub fn read(contract: Contract, headers: &HeaderMap, body: &[u8]) -> Result<Verified, Rejection> {
    let events = events::read(contract, headers, body)?;
    let attempt = headers.get("Signalpost-Attempt").and_then(|value| value.to_str().ok());
    Ok(Verified { events, attempt: attempt.and_then(|text| text.parse().ok()) })
}

/// A header and its only value.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header<'a> {
    pub(super) name: &'static str,
    pub(super) value: &'a str,
}

impl Header<'_> {
    pub(super) fn malformed(self, expected: &'static str) -> Rejection {
        Rejection::MalformedHeader { name: self.name, expected }
    }
}

/// The one value of a header that has to be there once.
pub(super) fn single<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<Header<'a>, Rejection> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().ok_or(Rejection::MissingHeader(name))?;
    if values.next().is_some() {
        return Err(Rejection::RepeatedHeader(name));
    }
    let value =
        value.to_str().map_err(|_| Rejection::MalformedHeader { name, expected: "printable ASCII" })?;
    Ok(Header { name, value })
}

/// `sha256=` and the lower-case hexadecimal HMAC-SHA256 of the body, keyed with the secret's bytes.
fn check_hex(secret: &str, header: Header<'_>, body: &[u8]) -> Result<(), Rejection> {
    // Documented receivers compare texts, so upper case and a bare digest fail there as well.
    let expected = "`sha256=` and 64 lower-case hexadecimal digits";
    let digits = header.value.strip_prefix("sha256=").ok_or_else(|| header.malformed(expected))?;
    let right_form = digits.len() == 64 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if !right_form {
        return Err(header.malformed(expected));
    }
    let signature = hex::decode(digits).map_err(|_| header.malformed(expected))?;
    check_hmac(secret.as_bytes(), body, &signature)
}

/// The padded base64 HMAC-SHA256 of the body, keyed with the secret's bytes.
fn check_base64(secret: &str, header: Header<'_>, body: &[u8]) -> Result<(), Rejection> {
    let signature =
        STANDARD.decode(header.value).map_err(|_| header.malformed("an HMAC-SHA256 in padded base64"))?;
    check_hmac(secret.as_bytes(), body, &signature)
}

pub(super) fn check_hmac(key: &[u8], signed: &[u8], signature: &[u8]) -> Result<(), Rejection> {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key);
    ring::hmac::verify(&key, signed, signature).map_err(|_| Rejection::SignatureMismatch)
}

#[cfg(test)]
mod tests {
    use ring::hmac;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_750_000_000_000);

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    fn hex_of(secret: &str, body: &str) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        format!("sha256={}", hex::encode(hmac::sign(&key, body.as_bytes())))
    }

    const HEX_CONTRACTS: [(Contract, &str); 3] = [
        (Contract::Semaphor, "x-semaphor-signature"),
        (Contract::Workspace, "x-webhook-signature"),
        (Contract::Observer, "x-observer-signature"),
    ];

    #[test]
    fn the_hexadecimal_contracts_pass_the_published_vector_of_github() {
        let signature = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
        for (contract, name) in HEX_CONTRACTS {
            let headers = headers(&[(name, signature)]);
            let secret = "It's a Secret to Everybody";
            assert_eq!(check_signature(contract, secret, &headers, b"Hello, World!", NOW), Ok(()));
        }
    }

    #[test]
    fn the_stalwart_contract_passes_its_vector_and_an_empty_batch_has_no_events() {
        let headers = headers(&[("X-Signature", "PNOx3tLAh3dahXjNLPPa8fD2M5xvwa6vW/dH1sczQAA=")]);
        let verified = verify(Contract::Stalwart, "ovos-moles", &headers, br#"{"events":[]}"#, NOW).unwrap();
        assert_eq!(verified, Verified { events: vec![], attempt: None });
    }

    #[test]
    fn a_tampered_body_or_another_secret_is_turned_away() {
        for (contract, name) in HEX_CONTRACTS {
            let headers = headers(&[(name, &hex_of("right", "{}"))]);
            for (secret, body) in [("right", "{} "), ("wrong", "{}"), ("right", "")] {
                let answer = check_signature(contract, secret, &headers, body.as_bytes(), NOW);
                assert_eq!(answer, Err(Rejection::SignatureMismatch), "{contract} {secret} {body:?}");
            }
        }
        let headers = headers(&[("x-signature", "PNOx3tLAh3dahXjNLPPa8fD2M5xvwa6vW/dH1sczQAA=")]);
        for (secret, body) in [("ovos-moles", r#"{"events":[] }"#), ("ovos-mole", r#"{"events":[]}"#)] {
            let answer = check_signature(Contract::Stalwart, secret, &headers, body.as_bytes(), NOW);
            assert_eq!(answer, Err(Rejection::SignatureMismatch), "{secret} {body}");
        }
    }

    #[test]
    fn a_signature_in_another_form_is_turned_away_even_when_its_bytes_are_right() {
        let right = hex_of("right", "{}");
        let bare = right.trim_start_matches("sha256=").to_owned();
        let wrong = [
            bare.clone(),
            format!("sha256={}", bare.to_uppercase()),
            right[..right.len() - 2].to_owned(),
            format!("sha1={bare}"),
            "sha256=".to_owned(),
            String::new(),
        ];
        for value in &wrong {
            for (contract, name) in HEX_CONTRACTS {
                let answer = check_signature(contract, "right", &headers(&[(name, value)]), b"{}", NOW);
                assert!(matches!(answer, Err(Rejection::MalformedHeader { .. })), "{value} {answer:?}");
            }
        }
        let unpadded = headers(&[("x-signature", "PNOx3tLAh3dahXjNLPPa8fD2M5xvwa6vW/dH1sczQAA")]);
        let answer = check_signature(Contract::Stalwart, "ovos-moles", &unpadded, br#"{"events":[]}"#, NOW);
        assert!(matches!(answer, Err(Rejection::MalformedHeader { .. })));
    }

    #[test]
    fn a_missing_or_repeated_signature_and_an_empty_secret_are_turned_away() {
        for contract in Contract::ALL {
            let none = HeaderMap::new();
            let answer = check_signature(contract, "c2VjcmV0", &none, b"{}", NOW);
            assert!(matches!(answer, Err(Rejection::MissingHeader(_))), "{contract} {answer:?}");
            let answer = check_signature(contract, "", &none, b"{}", NOW);
            assert_eq!(answer, Err(Rejection::UnusableSecret("is empty")));
        }
        for (contract, name) in HEX_CONTRACTS {
            let right = hex_of("right", "{}");
            let twice = headers(&[(name, &right), (name, &right)]);
            let answer = check_signature(contract, "right", &twice, b"{}", NOW);
            assert!(matches!(answer, Err(Rejection::RepeatedHeader(_))), "{answer:?}");
        }
    }

    #[test]
    fn the_attempt_number_is_read_from_its_header() {
        let body = br#"{"events":[]}"#;
        for (text, number) in [("3", Some(3)), ("three", None), ("-1", None)] {
            let headers = headers(&[("Signalpost-Attempt", text)]);
            assert_eq!(read(Contract::Stalwart, &headers, body).unwrap().attempt, number);
        }
    }
}

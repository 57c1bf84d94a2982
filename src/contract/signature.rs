//! Signatures: which contract signs how, over the exact bytes of the body.
//!
//! SEMAPHOR, WORKSPACE and OBSERVER send `sha256=` and hexadecimal digits (seeds 000, 002, 003),
//! STALWART sends base64 (seed 001); their key is the secret's text. They have room for one signature,
//! so while a rotation overlaps the old secret signs. STANDARD_WEBHOOKS and CLOUDEVENTS sign as
//! Standard Webhooks 1.0.0 says, with every secret in force.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, HeaderName};
use sha2::{Digest, Sha256};

use super::key::{Key, SYMMETRIC_PREFIX};
use super::standard_webhooks::{ID_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER};
use super::{RenderContext, RenderProblem, headers};
use crate::domain::contract::Contract;
use crate::domain::event::Event;
use crate::domain::secret::{SECRET_MAX_BYTES, Secret};

/// The header that has the signature, spelled as in the contract's source.
pub(super) const fn header(contract: Contract) -> &'static str {
    match contract {
        Contract::Semaphor => "X-Semaphor-Signature",
        Contract::Stalwart => "X-Signature",
        Contract::Workspace => "X-Webhook-Signature",
        Contract::Observer => "X-Observer-Signature",
        Contract::StandardWebhooks | Contract::CloudEvents => SIGNATURE_HEADER,
    }
}

/// Adds the headers of the contract's signature scheme.
pub(super) fn sign(
    headers: &mut HeaderMap,
    context: RenderContext<'_>,
    events: &[&Event],
    body: &[u8],
) -> Result<(), RenderProblem> {
    let contract = context.destination.contract;
    let secrets = context.secrets.signing.as_slice();
    match contract {
        // Id and time help receivers against duplicates even where nothing is signed.
        Contract::StandardWebhooks => sign_as_standard(headers, context, events, body),
        Contract::CloudEvents if secrets.is_empty() => Ok(()),
        Contract::CloudEvents => sign_as_standard(headers, context, events, body),
        Contract::Semaphor | Contract::Stalwart | Contract::Workspace | Contract::Observer => {
            match secrets.first() {
                Some(secret) => insert(headers, header(contract), &plain(contract, secret, body)?),
                None => Ok(()),
            }
        }
    }
}

/// The signature of a contract whose key is the text of the secret.
fn plain(contract: Contract, secret: &Secret, body: &[u8]) -> Result<String, RenderProblem> {
    check_secret(contract, secret).map_err(unusable)?;
    let digest = hmac_sha256(secret.expose().as_bytes(), &[body])?;
    Ok(match contract {
        Contract::Stalwart => STANDARD.encode(digest),
        _ => format!("sha256={}", hex::encode(digest)),
    })
}

/// The three headers of Standard Webhooks: id, time of the attempt, one signature for each secret.
fn sign_as_standard(
    headers: &mut HeaderMap,
    context: RenderContext<'_>,
    events: &[&Event],
    body: &[u8],
) -> Result<(), RenderProblem> {
    let id = message_id(events);
    let timestamp = context.now.as_seconds().to_string();
    let parts: [&[u8]; 5] = [id.as_bytes(), b".", timestamp.as_bytes(), b".", body];
    let mut signatures = Vec::with_capacity(context.secrets.signing.len());
    for secret in &context.secrets.signing {
        signatures.push(Key::parse(secret).map_err(unusable)?.sign(&parts)?);
    }
    insert(headers, ID_HEADER, &id)?;
    insert(headers, TIMESTAMP_HEADER, &timestamp)?;
    if signatures.is_empty() { Ok(()) } else { insert(headers, SIGNATURE_HEADER, &signatures.join(" ")) }
}

/// The event's id; for several, a name made of their ids.
///
/// The same batch has the same name at each attempt, and a batch with other events has another one:
/// a receiver that drops what it has seen must not drop the newcomers.
fn message_id(events: &[&Event]) -> String {
    if let [event] = events {
        return event.id.as_str().to_owned();
    }
    // Ids contain no line feed, so no two lists give the same text.
    let mut digest = Sha256::new();
    for event in events {
        digest.update(event.id.as_str());
        digest.update(b"\n");
    }
    let hexadecimal = hex::encode(digest.finalize());
    format!("batch_{}", hexadecimal.get(..32).unwrap_or_default())
}

/// HMAC-SHA256 of the concatenated parts (RFC 2104, which takes keys of any length).
pub(super) fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> Result<[u8; 32], RenderProblem> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key)
        .map_err(|_| RenderProblem("the signing secret has a length that HMAC can't use".into()))?;
    parts.iter().for_each(|part| mac.update(part));
    Ok(mac.finalize().into_bytes().into())
}

/// See [`super::check_signing_secret`].
pub(super) fn check_secret(contract: Contract, secret: &Secret) -> Result<(), String> {
    let length = secret.expose().len();
    if length == 0 {
        return Err("is empty; give a secret, or none at all to send unsigned requests".into());
    }
    if length > SECRET_MAX_BYTES {
        return Err(format!("has {length} bytes; at most {SECRET_MAX_BYTES} are allowed"));
    }
    match contract {
        Contract::StandardWebhooks | Contract::CloudEvents => Key::parse(secret).map(|_| ()),
        Contract::Semaphor | Contract::Stalwart | Contract::Workspace | Contract::Observer => Ok(()),
    }
}

/// See [`super::generate_secret`].
pub(super) fn generate_secret(contract: Contract, random: [u8; 32]) -> Secret {
    match contract {
        Contract::StandardWebhooks | Contract::CloudEvents => {
            Secret::new(format!("{SYMMETRIC_PREFIX}{}", STANDARD.encode(random)))
        }
        Contract::Semaphor | Contract::Stalwart | Contract::Workspace | Contract::Observer => {
            Secret::new(hex::encode(random))
        }
    }
}

fn insert(headers: &mut HeaderMap, name: &'static str, text: &str) -> Result<(), RenderProblem> {
    let header = HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| RenderProblem(format!("`{name}` is no header name")))?;
    headers.insert(header, headers::value(name, text)?);
    Ok(())
}

fn unusable(problem: String) -> RenderProblem {
    RenderProblem(format!("the signing secret {problem}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::fixtures;

    #[test]
    fn the_vector_that_github_publishes_holds() {
        let secret = Secret::new("It's a Secret to Everybody");
        assert_eq!(
            plain(Contract::Semaphor, &secret, b"Hello, World!").unwrap(),
            "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
        );
    }

    #[test]
    fn the_vector_of_stalwarts_own_test_key_holds() {
        let signature = plain(Contract::Stalwart, &Secret::new("ovos-moles"), br#"{"events":[]}"#).unwrap();
        assert_eq!(signature, "PNOx3tLAh3dahXjNLPPa8fD2M5xvwa6vW/dH1sczQAA=");
    }

    #[test]
    fn keys_of_any_length_sign_as_rfc_2104_says() {
        // ring is the independent implementation here.
        for length in [1, 31, 32, 63, 64, 65, 128, 4096] {
            let key = vec![0xa5; length];
            let ring = ring::hmac::sign(&ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &key), b"ab");
            assert_eq!(hmac_sha256(&key, &[b"a", b"b"]).unwrap().as_slice(), ring.as_ref(), "{length}");
        }
    }

    #[test]
    fn an_empty_or_endless_secret_is_refused_by_every_contract() {
        for contract in Contract::ALL {
            assert!(check_secret(contract, &Secret::new("")).unwrap_err().contains("empty"));
            let long = Secret::new("x".repeat(SECRET_MAX_BYTES + 1));
            assert!(check_secret(contract, &long).unwrap_err().contains("4096"));
        }
    }

    #[test]
    fn the_longest_secret_is_taken() {
        let longest = Secret::new("x".repeat(SECRET_MAX_BYTES));
        check_secret(Contract::Workspace, &longest).unwrap();
    }

    #[test]
    fn a_generated_secret_is_one_that_the_contract_takes() {
        for contract in Contract::ALL {
            check_secret(contract, &generate_secret(contract, [7; 32])).unwrap();
        }
        let secret = generate_secret(Contract::CloudEvents, [0; 32]);
        assert_eq!(secret.expose(), "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
    }

    #[test]
    fn the_name_of_a_batch_tells_its_events_and_their_order_and_has_no_dot() {
        let [a, b, ab] = ["a", "b", "ab"].map(|id| fixtures::event(id, "user.created", "{}"));
        assert_eq!(message_id(&[&a]), "a");
        let names = [message_id(&[&a, &b]), message_id(&[&b, &a]), message_id(&[&ab, &a])];
        assert!(names[0] != names[1] && names[1] != names[2] && names[0] != names[2]);
        assert!(names.iter().all(|name| name.len() == 38 && !name.contains('.')));
    }
}

//! The example receiver against the requests that destinations get, byte for byte.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that can't read its golden files fails"
)]

#[path = "../examples/receive/verify.rs"]
mod verify;

use std::path::Path;

use http::{HeaderMap, HeaderName};
use verify::{Contract, TOLERANCE, verify};

const PLAIN: &str = "my-secret-key";
const CURRENT: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const OLD: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const PUBLIC: &str = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=";
/// When the golden requests were signed.
const SIGNED_AT: u64 = 1_749_997_929;

struct Golden {
    headers: HeaderMap,
    body: Vec<u8>,
}

fn golden(name: &str) -> Golden {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
    let request = std::fs::read(folder.join(format!("{name}.http"))).unwrap();
    let split = request.windows(2).position(|pair| pair == b"\n\n").unwrap();
    let head = std::str::from_utf8(&request[..split]).unwrap();
    let headers = head.lines().skip(1).map(|line| {
        let (name, value) = line.split_once(": ").unwrap();
        (name.parse::<HeaderName>().unwrap(), value.parse().unwrap())
    });
    Golden { headers: headers.collect(), body: request[split + 2..].to_vec() }
}

/// Each golden request, its contract, the secret that verifies it, and the id and type of its first event.
const GENUINE: &[(&str, Contract, &str, &str, &str)] = &[
    ("semaphor/event", Contract::Semaphor, PLAIN, "a1b2c3d4-e5f6-7890-abcd-ef1234567890", "query_failed"),
    ("semaphor/test", Contract::Semaphor, PLAIN, "01977401-402b-7000-8000-000000000000", "webhook_test"),
    ("stalwart/event", Contract::Stalwart, PLAIN, "12345", "auth.success"),
    ("stalwart/batch", Contract::Stalwart, PLAIN, "12345", "auth.success"),
    ("stalwart/test", Contract::Stalwart, PLAIN, "01977401-402b-7000-8000-000000000000", "webhook.test"),
    ("workspace/event", Contract::Workspace, PLAIN, "evt_1", "ingestion.completed"),
    ("workspace/test", Contract::Workspace, PLAIN, "01977401-402b-7000-8000-000000000000", "webhook.test"),
    ("observer/event", Contract::Observer, PLAIN, "evt_1", "slo.burn_started"),
    ("observer/test", Contract::Observer, PLAIN, "01977401-402b-7000-8000-000000000000", "webhook.test"),
    (
        "standard_webhooks/event",
        Contract::StandardWebhooks,
        CURRENT,
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "invoice.paid",
    ),
    (
        "standard_webhooks/rotation",
        Contract::StandardWebhooks,
        OLD,
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "invoice.paid",
    ),
    (
        "standard_webhooks/ed25519",
        Contract::StandardWebhooks,
        PUBLIC,
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "invoice.paid",
    ),
    (
        "standard_webhooks/test",
        Contract::StandardWebhooks,
        CURRENT,
        "01977401-402b-7000-8000-000000000000",
        "webhook.test",
    ),
    ("cloudevents/binary", Contract::CloudEvents, CURRENT, "evt_1", "com.example.invoice.paid"),
    ("cloudevents/batch", Contract::CloudEvents, CURRENT, "evt_1", "com.example.invoice.paid"),
];

#[test]
fn every_golden_request_is_verified_and_read() {
    for &(name, contract, secret, id, event_type) in GENUINE {
        let Golden { headers, body } = golden(name);
        let events = verify(contract, &[secret], &headers, &body, SIGNED_AT);
        let events = events.unwrap_or_else(|why| panic!("{name}: {why}"));
        assert_eq!((events[0].id.as_str(), events[0].event_type.as_str()), (id, event_type), "{name}");
        assert_eq!(events.len(), if name.ends_with("batch") { 2 } else { 1 }, "{name}");
    }
}

#[test]
fn a_changed_byte_another_secret_and_no_secret_are_refused() {
    for &(name, contract, secret, ..) in GENUINE {
        let Golden { headers, mut body } = golden(name);
        let other = if secret == PLAIN { "another" } else { "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA" };
        for wrong in [&[other][..], &[""], &[]] {
            assert!(verify(contract, wrong, &headers, &body, SIGNED_AT).is_err(), "{name}: {wrong:?}");
        }
        assert!(
            verify(contract, &[other, secret], &headers, &body, SIGNED_AT).is_ok(),
            "{name}: while rotating"
        );
        body[10] ^= 1;
        assert!(verify(contract, &[secret], &headers, &body, SIGNED_AT).is_err(), "{name}: another body");
    }
}

#[test]
fn a_request_without_signature_or_with_two_is_refused() {
    let Golden { headers, body } = golden("cloudevents/event");
    assert!(verify(Contract::CloudEvents, &[CURRENT], &headers, &body, SIGNED_AT).is_err());
    let Golden { mut headers, body } = golden("stalwart/event");
    headers.append("x-signature", "AAAA".parse().unwrap());
    assert!(verify(Contract::Stalwart, &[PLAIN], &headers, &body, SIGNED_AT).is_err());
}

#[test]
fn a_recording_is_refused_when_the_tolerance_is_over() {
    let Golden { headers, body } = golden("standard_webhooks/event");
    let at = |now| verify(Contract::StandardWebhooks, &[CURRENT], &headers, &body, now);
    for now in [SIGNED_AT - TOLERANCE, SIGNED_AT + TOLERANCE] {
        assert!(at(now).is_ok());
    }
    for now in [SIGNED_AT - TOLERANCE - 1, SIGNED_AT + TOLERANCE + 1] {
        assert!(at(now).is_err());
    }
}

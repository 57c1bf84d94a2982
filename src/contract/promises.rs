//! What all contracts promise about a request, as properties over any event.

use bytes::Bytes;
use proptest::prelude::*;

use super::fixtures::{self, Setup, event};
use super::*;
use crate::domain::payload::Payload;
use crate::domain::secret::{HttpAuth, SecretSource, SigningSecrets};

fn any_contract() -> impl Strategy<Value = Contract> {
    proptest::sample::select(Contract::ALL.to_vec())
}

/// An object with hostile keys and values, protected and documented ones among them.
fn any_data() -> impl Strategy<Value = String> {
    let key = prop_oneof![
        any::<String>(),
        proptest::sample::select(vec!["event_id", "event_type", "occurred_at", "org_id"])
            .prop_map(Into::into),
        proptest::sample::select(vec!["status", "error_details", "stage", "data"]).prop_map(Into::into),
    ];
    let value = prop_oneof![
        any::<String>().prop_map(serde_json::Value::from),
        any::<i64>().prop_map(serde_json::Value::from),
        Just(serde_json::json!({"a": [null, {"b": "\u{0}\""}]})),
        Just(serde_json::Value::Null),
    ];
    proptest::collection::vec((key, value), 0..8).prop_map(|members| {
        let members: Vec<_> = members
            .iter()
            .map(|(key, value)| format!("{} : {value}", serde_json::Value::from(key.as_str())))
            .collect();
        format!("{{ {} }}", members.join(" ,"))
    })
}

fn any_mode() -> impl Strategy<Value = CloudEventsMode> {
    let modes = [CloudEventsMode::Structured, CloudEventsMode::Binary, CloudEventsMode::Batch];
    proptest::sample::select(modes.to_vec())
}

/// Signs again with ring, from what a receiver sees.
fn independent_signature(contract: Contract, request: &RenderedRequest) -> String {
    let header = |name: &str| request.headers()[name].to_str().unwrap().to_owned();
    let secret = fixtures::signing_secret(contract);
    let hmac = |key: &[u8], text: &[u8]| {
        ring::hmac::sign(&ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key), text).as_ref().to_vec()
    };
    let base64 = |bytes: Vec<u8>| base64::Engine::encode(&base64::prelude::BASE64_STANDARD, bytes);
    match contract {
        Contract::Stalwart => base64(hmac(secret.as_bytes(), request.body())),
        Contract::StandardWebhooks | Contract::CloudEvents => {
            let key = base64::Engine::decode(&base64::prelude::BASE64_STANDARD, &secret[6..]).unwrap();
            let mut text = format!("{}.{}.", header("webhook-id"), header("webhook-timestamp")).into_bytes();
            text.extend_from_slice(request.body());
            format!("v1,{}", base64(hmac(&key, &text)))
        }
        _ => format!("sha256={}", hex::encode(hmac(secret.as_bytes(), request.body()))),
    }
}

proptest! {
    #[test]
    fn the_signature_covers_the_exact_bytes_of_the_body(
        contract in any_contract(), mode in any_mode(), data in any_data(),
    ) {
        let event = event("evt_1", "some.type", &data);
        let request = Setup::new(contract).with_mode(mode).render(&[&event]).unwrap();
        let signature = request.headers()[signature_header(contract)].to_str().unwrap();
        prop_assert_eq!(signature, independent_signature(contract, &request));
    }

    #[test]
    fn every_body_is_valid_json_with_the_payload_in_it_byte_for_byte(
        contract in any_contract(), mode in any_mode(), data in any_data(),
    ) {
        let mut setup = Setup::new(contract).with_mode(mode);
        setup.policy.cloudevents_source = Some("a\"\\\u{1}é".into());
        let event = event("evt_1", "some.type", &data);
        let request = setup.render(&[&event]).unwrap();
        serde_json::from_slice::<serde_json::Value>(request.body()).unwrap();
        let body = std::str::from_utf8(request.body()).unwrap();
        // SEMAPHOR's members are taken apart; its own tests look at each.
        prop_assert!(contract == Contract::Semaphor || body.contains(&data), "{}", body);
    }

    #[test]
    fn over_attempts_body_and_ids_stay_as_they_are(
        contract in any_contract(), mode in any_mode(), data in any_data(), number: u32, millis in 0..i64::MAX / 2,
    ) {
        let [one, two] = ["evt_1", "evt_2"].map(|id| event(id, "some.type", &data));
        let events: &[&Event] = if groups(contract, mode) { &[&one, &two] } else { &[&one] };
        let now = Timestamp::from_millis(millis % 253_402_300_799_000);
        let first = Setup::new(contract).with_mode(mode).render(events).unwrap();
        let later = Setup::new(contract).with_mode(mode).at_attempt(number, now).render(events).unwrap();
        prop_assert_eq!(first.body(), later.body());
        prop_assert_eq!(&later.headers()["signalpost-attempt"], &number.to_string());
        let of_attempt = ["signalpost-attempt", "webhook-timestamp", "webhook-signature"];
        for (name, value) in first.headers().iter().filter(|(name, _)| !of_attempt.contains(&name.as_str())) {
            prop_assert_eq!(Some(value), later.headers().get(name));
        }
        prop_assert_eq!(first.headers().len(), later.headers().len());
    }

    #[test]
    fn semaphors_four_keys_are_those_of_the_event_whatever_the_data_says(data in any_data()) {
        let event = event("evt_1", "query_failed", &data);
        let request = Setup::new(Contract::Semaphor).render(&[&event]).unwrap();
        let body = std::str::from_utf8(request.body()).unwrap();
        let read: serde_json::Map<String, serde_json::Value> = serde_json::from_str(body).unwrap();
        prop_assert_eq!(&read["event_id"], "evt_1");
        prop_assert_eq!(&read["event_type"], "query_failed");
        prop_assert_eq!(&read["occurred_at"], "2025-06-15T14:32:08.491Z");
        prop_assert_eq!(&read["org_id"], "org_abc123");
        // A receiver whose parser takes the first of two keys sees the same.
        let start = r#"{"event_id":"evt_1","event_type":"query_failed","occurred_at":"2025-06-15T14:32:08.491Z""#;
        prop_assert!(body.starts_with(start));
        prop_assert_eq!(body.matches(r#""org_id":"org_abc123""#).count(), 1);
        prop_assert!(read.get("error_details").is_none_or(serde_json::Value::is_string));
    }

    #[test]
    fn a_trace_adds_one_header_and_changes_nothing_else(contract in any_contract(), mode in any_mode()) {
        let event = event("evt_1", "some.type", "{}");
        let plain = Setup::new(contract).with_mode(mode).render(&[&event]).unwrap();
        let mut traced = Setup::new(contract).with_mode(mode).with_header("traceparent", "forged");
        let context = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        traced.trace = TraceContext::parse(context);
        let traced = traced.render(&[&event]).unwrap();
        let mut headers = traced.headers().clone();
        let all: Vec<_> = headers.get_all("traceparent").iter().cloned().collect();
        prop_assert_eq!(all, [context]);
        headers.remove("traceparent");
        prop_assert_eq!((&headers, traced.body()), (plain.headers(), plain.body()));
    }

    #[test]
    fn a_custom_header_never_overrides_one_of_ours(contract in any_contract(), mode in any_mode()) {
        let event = event("evt_1", "some.type", "{}");
        let plain = Setup::new(contract).with_mode(mode).render(&[&event]).unwrap();
        for name in plain.headers().keys() {
            let forged = Setup::new(contract).with_mode(mode).with_header(name.as_str(), "forged");
            let request = forged.render(&[&event]).unwrap();
            let allowed = check_header(contract, name.as_str(), "forged").is_ok();
            prop_assert_eq!(request.headers().get_all(name).iter().count(), 1);
            prop_assert_eq!(&request.headers()[name] == "forged", allowed, "{} {}", contract, name);
        }
    }
}

#[test]
fn an_unsigned_request_carries_no_signature_header_not_even_a_forged_one() {
    let event = event("evt_1", "some.type", "{}");
    for contract in Contract::ALL {
        let name = signature_header(contract);
        let setup = Setup::new(contract).with_secrets(&[]).with_header(name, "forged");
        assert!(setup.render(&[&event]).unwrap().headers().get(name).is_none(), "{contract}");
    }
}

#[test]
fn a_destination_with_a_secret_never_gets_an_unsigned_request() {
    let event = event("evt_1", "some.type", "{}");
    for contract in Contract::ALL {
        let mut setup = Setup::new(contract).with_secrets(&[]);
        let current = Some(SecretSource::EnvironmentVariable("MISSING".into()));
        setup.destination.signing = SigningSecrets { current, retiring: None };
        assert!(setup.render(&[&event]).is_err(), "{contract}");
        assert!(Setup::new(contract).with_secrets(&[""]).render(&[&event]).is_err(), "{contract}");
    }
}

#[test]
fn while_a_rotation_overlaps_contracts_with_room_for_one_signature_use_the_current_secret() {
    let event = event("evt_1", "some.type", "{}");
    for contract in [Contract::Semaphor, Contract::Stalwart, Contract::Workspace, Contract::Observer] {
        let rotating =
            Setup::new(contract).with_secrets(&["my-secret-key", "old"]).render(&[&event]).unwrap();
        let expected = independent_signature(contract, &rotating);
        assert_eq!(rotating.headers()[signature_header(contract)], expected, "{contract}");
    }
}

#[test]
fn authentication_of_the_destination_wins_over_a_custom_header_and_is_never_sent_empty() {
    let event = event("evt_1", "some.type", "{}");
    let source = || SecretSource::Value(Secret::new("unused"));
    let bearer = || Setup::new(Contract::Observer).with_header("authorization", "ApiKey custom");
    let request = bearer().render(&[&event]).unwrap();
    assert_eq!(request.headers()["authorization"], "ApiKey custom");
    let request = bearer().with_auth(HttpAuth::Bearer { token: source() }, "abc").render(&[&event]).unwrap();
    assert_eq!(request.headers().get_all("authorization").iter().collect::<Vec<_>>(), ["Bearer abc"]);
    assert!(request.headers()["authorization"].is_sensitive());
    for token in ["", "a\r\nb"] {
        let setup = bearer().with_auth(HttpAuth::Bearer { token: source() }, token);
        assert!(setup.render(&[&event]).is_err(), "{token:?}");
    }
    let mut unresolved = bearer().with_auth(HttpAuth::Bearer { token: source() }, "abc");
    unresolved.secrets.http_auth = None;
    assert!(unresolved.render(&[&event]).is_err());
}

#[test]
fn only_a_grouping_contract_carries_several_events_and_none_carries_no_event() {
    let event = event("evt_1", "some.type", "{}");
    for contract in Contract::ALL {
        for mode in [CloudEventsMode::Structured, CloudEventsMode::Binary, CloudEventsMode::Batch] {
            let setup = Setup::new(contract).with_mode(mode);
            assert!(setup.render(&[]).is_err());
            let single = setup.render(&[&event]).unwrap();
            assert_eq!(single.headers()["signalpost-event-id"], "evt_1");
            let several = setup.render(&[&event, &event]);
            assert_eq!(several.is_ok(), groups(contract, mode), "{contract} {mode:?}");
            assert!(several.is_err() || several.unwrap().headers().get("signalpost-event-id").is_none());
        }
    }
}

#[test]
fn the_user_agent_is_the_documented_one() {
    let event = event("evt_1", "some.type", "{}");
    for contract in Contract::ALL {
        let ours = concat!("Signalpost/", env!("CARGO_PKG_VERSION"));
        let expected =
            if contract == Contract::Semaphor { "Semaphor-Enterprise-Telemetry/1.0" } else { ours };
        let request = Setup::new(contract).render(&[&event]).unwrap();
        assert_eq!(request.headers()["user-agent"], expected);
    }
}

#[test]
fn stored_data_that_is_no_json_is_a_problem_on_the_record_and_no_panic() {
    let mut broken = event("evt_1", "query_failed", "{}");
    broken.data = Payload::from_stored(Bytes::from_static(b"\xff"));
    assert!(Setup::new(Contract::Semaphor).render(&[&broken]).is_err());
}

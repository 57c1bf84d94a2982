use super::*;
use crate::control::destination_draft::{DraftRules, check, draft_of};
use crate::domain::contract::Contract;
use crate::domain::destination::DestinationDraft;
use crate::domain::event::Level;
use crate::domain::id::{DestinationId, OrganizationId};
use crate::domain::settings::DeliverySettings;
use crate::domain::subscription::Subscription;
use crate::domain::time::Timestamp;

/// As the seed prints it.
const SEED: &str = include_str!("../../tests/golden/stalwart/destination.json");

fn blank() -> DestinationDraft {
    DestinationDraft::new(Contract::Stalwart, "")
}

fn import(json: &str, onto: DestinationDraft) -> Result<Destination, Violations> {
    let draft = parse(json.as_bytes())?.apply(onto)?;
    let rules =
        DraftRules { plain_http_contracts: &[], secret_allowed: &|_| Ok(()), address_allowed: &|_| Ok(()) };
    let organization_id = OrganizationId::parse("org_a").unwrap();
    let id = DestinationId::from_bytes([1; 16]);
    Ok(check(draft, rules)?.into_new(id, organization_id, Timestamp::from_millis(0)))
}

fn fields(json: &str) -> Vec<String> {
    parse(json.as_bytes()).unwrap_err().iter().map(|violation| violation.field.clone()).collect()
}

#[test]
fn the_seeds_object_is_understood_as_it_is_printed() {
    let destination = import(SEED, blank()).unwrap();
    assert_eq!(destination.url.as_str(), "https://example.com/webhook");
    assert_eq!(destination.subscription.policy, SubscriptionPolicy::Include);
    assert_eq!(destination.subscription.event_types.len(), 2);
    assert_eq!(destination.settings.timeout, Some(Duration::from_secs(30)));
    assert_eq!(destination.signing.current, Some(SecretSource::Value(Secret::new("my-secret-key"))));
    assert_eq!(destination.headers[0].value.expose(), "my-value");
    let HttpAuth::Basic { username, .. } = &destination.http_auth else { panic!("it is Basic") };
    assert_eq!(username, "account");
    assert!(destination.state.is_active());
}

#[test]
fn the_export_has_all_keys_in_the_seeds_order_and_no_secret() {
    let json = write(&import(SEED, blank()).unwrap());
    let value: Value = serde_json::from_str(&json).unwrap();
    let keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, KEYS);
    for planted in ["my-secret-key", "my-value", "password\""] {
        assert!(!json.contains(planted), "{planted} is in {json}");
    }
    assert_eq!(value["timeout"], "30s");
    assert_eq!(value["discardAfter"], "5m");
    assert_eq!(value["signatureKey"], json!({"@type": "Value", "secret": ""}));
}

#[test]
fn an_export_read_back_keeps_every_stored_secret() {
    let before = import(SEED, blank()).unwrap();
    let after = import(&write(&before), draft_of(&before)).unwrap();
    assert_eq!((&after.signing, &after.http_auth), (&before.signing, &before.http_auth));
    assert_eq!(after.headers, before.headers);
    assert_eq!(write(&after), write(&before));
}

#[test]
fn references_to_secrets_are_written_in_full() {
    let json = r#"{"url":"https://example.com/",
        "signatureKey":{"@type":"EnvironmentVariable","variableName":"HOOK_KEY"},
        "httpAuth":{"@type":"Bearer","bearerToken":{"@type":"File","filePath":"/run/secrets/token"}}}"#;
    let destination = import(json, blank()).unwrap();
    let value: Value = serde_json::from_str(&write(&destination)).unwrap();
    assert_eq!(value["signatureKey"]["variableName"], "HOOK_KEY");
    assert_eq!(value["httpAuth"]["bearerToken"]["filePath"], "/run/secrets/token");
    assert_eq!(import(&write(&destination), blank()).unwrap().http_auth, destination.http_auth);
}

#[test]
fn missing_keys_mean_their_defaults() {
    let mut old = import(SEED, blank()).unwrap();
    old.settings.timeout = Some(Duration::from_secs(7));
    let destination = import(r#"{"url":"https://example.com/"}"#, draft_of(&old)).unwrap();
    assert_eq!(destination.settings, DeliverySettings::default());
    let default = Subscription { minimum_level: Some(Level::Info), ..Subscription::default() };
    assert_eq!(destination.subscription, default);
    assert_eq!((destination.signing.current, destination.http_auth), (None, HttpAuth::Unauthenticated));
    assert!(destination.headers.is_empty() && destination.state.is_active());
}

#[test]
fn every_wrong_key_is_named_by_its_path() {
    let json = r#"{"url":1,"colour":"red","events":["auth.success","a b",3],"eventsPolicy":"some",
        "timeout":"30","level":"loud","enable":"yes","httpHeaders":{"X":1},
        "signatureKey":{"@type":"Value","secret":"x","more":1},
        "httpAuth":{"@type":"Basic","secret":{"@type":"Vault"}}}"#;
    let mut found = fields(json);
    found.sort_by_key(|field| field.to_lowercase());
    let expected = [
        "colour",
        "enable",
        "events[1]",
        "events[2]",
        "eventsPolicy",
        "httpAuth.secret",
        "httpAuth.username",
        "httpHeaders.X",
        "level",
        "signatureKey.more",
        "timeout",
        "url",
    ];
    assert_eq!(found, expected);
}

#[test]
fn what_is_no_document_is_refused_as_a_whole() {
    for json in ["", "{", "[]", "null"] {
        assert_eq!(fields(json), [""], "{json}");
    }
    assert_eq!(fields(&" ".repeat(DOCUMENT_MAX_BYTES + 1)), [""]);
}

#[test]
fn including_nothing_is_refused() {
    let json = r#"{"url":"https://example.com/","eventsPolicy":"include"}"#;
    assert!(import(json, blank()).unwrap_err().to_string().contains("subscription.event_types"));
}

#[test]
fn durations_read_back_as_they_are_written() {
    for (text, millis) in
        [("30s", 30_000), ("5m", 300_000), ("1h", 3_600_000), ("250ms", 250), ("2d", 172_800_000)]
    {
        let duration = parse_duration(&json!(text)).unwrap();
        assert_eq!(duration.as_millis(), millis);
        assert_eq!(write_duration(duration), text);
    }
    assert_eq!(parse_duration(&json!(1500)).unwrap(), Duration::from_millis(1500));
    for wrong in ["", "s", "5", "5 m", "-5s", "5w", "99999999999999999999s", "18446744073709551615d", "ä"] {
        assert!(parse_duration(&json!(wrong)).is_err(), "{wrong}");
    }
}

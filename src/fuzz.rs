//! Fuzzing of all that strangers can feed us: URLs, headers, JSON, events to be rendered, stored records that
//! were damaged, page tokens. Nothing may panic, and what is accepted must keep its promises.
//!
//! Each property runs a few hundred cases in the ordinary tests. For longer:
//! `PROPTEST_CASES=1000000 cargo test --release --lib fuzz::`

use bytes::Bytes;
use proptest::prelude::*;
use url::{Host, Url};

use crate::contract::{self, RenderContext, ResolvedSecrets};
use crate::domain::contract::{CloudEventsMode, Contract};
use crate::domain::destination::{Destination, DestinationState, DestinationUrl, Header};
use crate::domain::event::{Event, EventType, Level};
use crate::domain::id::{
    AuditEntryId, DeliveryId, DestinationId, EventId, EventKey, OrganizationId, ReplayId,
};
use crate::domain::payload::{Payload, PayloadLimits};
use crate::domain::secret::{HttpAuth, Secret, SigningSecrets};
use crate::domain::settings::DeliverySettings;
use crate::domain::subscription::Subscription;
use crate::domain::time::Timestamp;
use crate::domain::violation::Violations;
use crate::grpc::page::{Pages, Position};
use crate::grpc::proto::v1;
use crate::policy::address::{AddressPolicy, is_public};
use crate::store::keyring::{Keyring, SealingKey};
use crate::store::record;
use crate::transport::resolve::vet;

/// Parts of which hostile URLs are made.
const URL_PARTS: [&str; 48] = [
    "https://",
    "http://",
    "HTTPS:",
    "//",
    "/",
    "\\",
    "@",
    ":",
    "?",
    "#",
    "%",
    "%2e",
    "%00",
    "%31",
    "%25",
    "[",
    "]",
    "::1",
    "::ffff:",
    "127.0.0.1",
    "0x7f",
    "0177",
    "2130706433",
    "169.254.169.254",
    "10.1",
    "example.com",
    "localhost",
    ".",
    "。",
    "｡",
    "１２７",
    "①",
    "\u{ad}",
    "\u{200b}",
    "\t",
    "\n",
    " ",
    "\u{0}",
    "xn--",
    "-",
    "_",
    "a",
    "0",
    "65536",
    "443",
    "fe80::1%25lo",
    "user:pw",
    "é",
];

fn url_text() -> impl Strategy<Value = String> {
    let parts =
        prop::collection::vec(prop::sample::select(&URL_PARTS[..]), 0..12).prop_map(|parts| parts.concat());
    let host = prop::collection::vec(prop::sample::select(&URL_PARTS[4..]), 1..6)
        .prop_map(|parts| format!("https://{}/hook", parts.concat()));
    prop_oneof![parts, host, any::<String>(), "https://[0-9a-fx.:\\[\\]%]{1,40}/"]
}

fn contract() -> impl Strategy<Value = Contract> {
    prop::sample::select(Contract::ALL.to_vec())
}

/// Texts that are JSON, nearly JSON, or nothing of the kind.
fn json_like() -> impl Strategy<Value = Vec<u8>> {
    let leaf = prop_oneof![
        "-?[0-9]{1,25}(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,4})?",
        any::<String>().prop_map(|text| serde_json::Value::from(text).to_string()),
        Just("null".to_owned()),
        "\"(\\\\u[0-9a-fA-F]{4}|[ -~])*\"",
    ];
    let value = leaf.prop_recursive(6, 64, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(|items| format!("[{}]", items.join(","))),
            prop::collection::vec(("[a-z\\\\]{0,4}", inner), 0..6).prop_map(|members| {
                let members: Vec<_> =
                    members.iter().map(|(name, value)| format!("{name:?}: {value}")).collect();
                format!("{{{}}}", members.join(" , "))
            }),
        ]
    });
    let deep = (0_usize..200).prop_map(|depth| "[".repeat(depth) + &"]".repeat(depth));
    prop_oneof![value.prop_map(String::into_bytes), deep.prop_map(String::into_bytes), any::<Vec<u8>>()]
}

fn destination(contract: Contract, headers: Vec<(String, String)>, now: Timestamp) -> Destination {
    let headers =
        headers.into_iter().map(|(name, value)| Header { name, value: Secret::new(value) }).collect();
    Destination {
        id: DestinationId::make(now, [7; 10]),
        organization_id: OrganizationId::parse("acme").unwrap(),
        display_name: String::new(),
        url: DestinationUrl::parse("https://receiver.example/hook", false).unwrap(),
        contract,
        subscription: Subscription::default(),
        settings: DeliverySettings::default(),
        signing: SigningSecrets::default(),
        http_auth: HttpAuth::Unauthenticated,
        headers,
        state: DestinationState::Active,
        created_at: now,
        updated_at: now,
        revision: 1,
    }
}

fn event(data: Payload, now: Timestamp) -> Event {
    let key = EventKey::lower_bound(now);
    Event {
        trace: None,
        erased_at: None,
        key,
        id: EventId::from_key(key),
        organization_id: OrganizationId::parse("acme").unwrap(),
        event_type: EventType::parse("invoice.paid").unwrap(),
        occurred_at: now,
        accepted_at: now,
        level: Level::Info,
        data,
        routes: Vec::new(),
    }
}

/// The stored form of any bytes, with the checksum that they ought to have.
fn sealed(body: &[u8]) -> Vec<u8> {
    [&[1], &crc32fast::hash(body).to_be_bytes()[..], body].concat()
}

proptest! {
    #[test]
    fn a_url_that_is_accepted_means_the_same_to_everybody(text in url_text()) {
        let Ok(accepted) = DestinationUrl::parse(&text, false) else { return Ok(()) };
        let url = accepted.as_url();
        prop_assert_eq!(url.scheme(), "https");
        prop_assert!(url.username().is_empty() && url.password().is_none() && url.fragment().is_none());
        // What is stored and read again is the same URL.
        let again = DestinationUrl::parse(url.as_str(), false);
        prop_assert_eq!(again.as_ref().map(DestinationUrl::as_url), Ok(url));
        // The HTTP client's parser sees the same host, and so does whoever splits the text by hand.
        let uri: http::Uri = url.as_str().parse().map_err(|_| TestCaseError::fail("no URI"))?;
        prop_assert_eq!(uri.host(), url.host_str());
        prop_assert_eq!(uri.port_u16(), url.port());
        let by_hand = url.as_str().strip_prefix("https://").unwrap().split(['/', '?']).next().unwrap();
        prop_assert!(by_hand.starts_with(url.host_str().unwrap()) && !by_hand.contains('@'));
    }

    #[test]
    fn a_url_that_may_be_called_is_a_name_or_a_public_address(text in url_text()) {
        let Ok(url) = Url::parse(&text) else { return Ok(()) };
        if vet(&url, &AddressPolicy::default()).is_err() {
            return Ok(());
        }
        match url.host() {
            Some(Host::Ipv4(ip)) => prop_assert!(is_public(ip.into()), "{ip}"),
            Some(Host::Ipv6(ip)) => prop_assert!(is_public(ip.into()), "{ip}"),
            Some(Host::Domain(name)) => {
                // A name that some resolver could take for an address is none to us.
                prop_assert!(name.parse::<std::net::IpAddr>().is_err(), "{name}");
                let name = name.trim_end_matches('.');
                prop_assert!(name != "localhost" && !name.ends_with(".localhost"), "{name}");
            }
            None => prop_assert!(false, "no host"),
        }
    }

    #[test]
    fn json_that_is_accepted_is_json_within_its_limits_and_kept_as_it_came(bytes in json_like()) {
        let limits = PayloadLimits { max_bytes: 4096, max_depth: 16 };
        let Ok(payload) = Payload::parse(Bytes::from(bytes.clone()), limits) else { return Ok(()) };
        prop_assert!(payload.as_bytes().len() <= 4096);
        let value: Result<&serde_json::value::RawValue, _> = serde_json::from_slice(payload.as_bytes());
        prop_assert!(value.is_ok(), "{:?}", String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn headers_that_are_accepted_forge_nothing_and_rendering_never_panics(
        contract in contract(),
        headers in prop::collection::vec(("[ -~]{0,24}", any::<String>()), 0..4),
        known in prop::sample::select(vec!["Host", "Content-Length", "webhook-id", "X-Signature", "TE", "Signalpost-X"]),
        bytes in json_like(),
        batch in prop::sample::select(vec![CloudEventsMode::Structured, CloudEventsMode::Binary, CloudEventsMode::Batch]),
    ) {
        let now = Timestamp::from_millis(1_736_937_000_000);
        let headers: Vec<(String, String)> = headers.into_iter().chain([(known.to_owned(), "1".to_owned())]).collect();
        let fit = headers.iter().filter(|(name, value)| contract::check_header(contract, name, value).is_ok());
        let accepted: Vec<_> = fit.cloned().collect();
        let data = Payload::parse(Bytes::from(bytes), PayloadLimits { max_bytes: 65_536, max_depth: 128 });
        let event = event(data.unwrap_or_else(|_| Payload::empty()), now);
        let secrets = ResolvedSecrets { signing: Vec::new(), http_auth: None };
        let mut policy = contract::defaults(contract);
        policy.cloudevents_mode = batch;
        for (headers, all_fit) in [(headers, false), (accepted, true)] {
            let destination = destination(contract, headers, now);
            let context = RenderContext {
                trace: None,
                destination: &destination, policy: &policy, secrets: &secrets, now, attempt_number: 1,
            };
            let rendered = contract::render(context, &[&event]);
            let Ok(request) = rendered else {
                // Whether data fits a contract is another question; headers that were accepted always do.
                continue;
            };
            for forged in ["host", "content-length", "transfer-encoding", "connection", "te"] {
                prop_assert!(!request.headers().contains_key(forged), "{forged}, accepted: {all_fit}");
            }
            prop_assert_eq!(request.headers().get_all("content-type").iter().count(), 1);
            if contract != Contract::CloudEvents || batch != CloudEventsMode::Binary {
                let whole: Result<&serde_json::value::RawValue, _> = serde_json::from_slice(request.body());
                prop_assert!(whole.is_ok(), "{:?}", request.body());
            }
        }
    }

    #[test]
    fn no_stored_record_panics_however_it_is_damaged(
        body in prop::collection::vec(any::<u8>(), 0..200),
        flip in any::<prop::sample::Index>(),
        bits in 1_u8..,
    ) {
        let now = Timestamp::from_millis(1_736_937_000_000);
        let key = EventKey::lower_bound(now);
        let delivery = DeliveryId::new(key, DestinationId::make(now, [7; 10]));
        let destination = destination(Contract::Observer, vec![("x-a".into(), "b".into())], now);
        // A real record with one byte that is wrong, and bytes that never were one; checksums are right.
        let keyring = Keyring::new(SealingKey::generate().unwrap());
        let real = record::encode_destination(&destination, &keyring).unwrap().concat();
        let mut damaged = real.get(5..).unwrap_or_default().to_vec();
        let place = flip.index(damaged.len());
        damaged[place] ^= bits;
        for stored in [sealed(&body), sealed(&damaged), body.clone()] {
            let chunks = [stored.as_slice()];
            let framed = record::split(&stored);
            drop(record::decode_event(key, &stored, |_| Ok(Some(&stored))));
            drop(record::decode_event(key, &stored, |number| Ok(framed.get(usize::from(number)))));
            drop(record::decode_head(key, &stored));
            drop(record::decode_outline(key, &stored));
            drop(record::is_erased(key, &stored));
            drop(record::decode_idempotency(&stored, &stored));
            drop(record::decode_delivery(delivery, b"key", &stored));
            drop(record::decode_due(delivery, now, b"key", &stored));
            drop(record::decode_destination(delivery.destination_id, &chunks, &keyring));
            drop(record::decode_destination(delivery.destination_id, &framed, &keyring));
            drop(record::decode_health(delivery.destination_id, &stored));
            drop(record::decode_organization(b"key", &chunks));
            drop(record::decode_organization(b"key", &framed));
            drop(record::decode_replay(ReplayId::from_bytes([7; 16]), &chunks));
            drop(record::decode_replay(ReplayId::from_bytes([7; 16]), &framed));
            drop(record::seals_of_destination(delivery.destination_id, &framed));
            drop(record::decode_audit(AuditEntryId::from_bytes([7; 16]), &chunks));
            drop(record::decode_audit(AuditEntryId::from_bytes([7; 16]), &framed));
        }
    }

    #[test]
    fn a_page_token_that_somebody_made_up_opens_nothing(
        token in prop_oneof![any::<String>(), "[A-Za-z0-9_-]{0,200}"],
        position in any::<u32>(),
        place in any::<prop::sample::Index>(),
        other in "[A-Za-z0-9_-]",
    ) {
        let request = |organization: &str, token: &str| v1::ListDestinationsRequest {
            organization_id: organization.into(),
            page_token: token.into(),
            ..Default::default()
        };
        let opens = |organization: &str, token: &str| {
            let mut violations = Violations::new();
            let (_, page) = Pages::open::<_, Position>(&mut request(organization, token), &mut violations);
            page.after.filter(|_| violations.is_empty())
        };
        prop_assert_eq!(opens("acme", &token), None);
        let mut violations = Violations::new();
        let (pages, _) = Pages::open::<_, Position>(&mut request("acme", ""), &mut violations);
        let real = pages.next_token(Some(Position(position)));
        prop_assert_eq!(opens("acme", &real), Some(Position(position)));
        prop_assert_eq!(opens("other", &real), None);
        let mut changed = real.clone();
        let place = place.index(changed.len());
        changed.replace_range(place..=place, &other);
        if changed != real {
            prop_assert_eq!(opens("acme", &changed), None, "{} for {}", changed, real);
        }
    }
}

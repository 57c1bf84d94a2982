//! Whatever the domain can express survives being stored.

use std::net::SocketAddr;
use std::path::PathBuf;

use proptest::collection::{btree_set, vec};
use proptest::option;
use proptest::prelude::*;

use super::delivery::DELIVERY_MAX_BYTES;
use super::*;
use crate::domain::attempt::{Attempt, Failure, InBatch, Outcome, Refusal, Trigger};
use crate::domain::contract::{CloudEventsMode, Contract};
use crate::domain::delivery::{Cycle, CycleCause, Delivery, DeliveryState, EndReason};
use crate::domain::destination::{
    Destination, DestinationHealth, DestinationState, DestinationUrl, DisabledReason, Header,
};
use crate::domain::event::{Event, EventType, NewEvent, Route};
use crate::domain::id::{BatchId, DeliveryId, DestinationId, EventId, EventKey, OrganizationId, ReplayId};
use crate::domain::organization::Organization;
use crate::domain::payload::Payload;
use crate::domain::replay::{Replay, ReplayKind, ReplayScope, ReplayState};
use crate::domain::secret::{HttpAuth, RetiringSecret, Secret, SecretSource, SigningSecrets};
use crate::domain::settings::{DeliverySettings, RetryPolicy, RetrySchedule};
use crate::domain::subscription::{Subscription, SubscriptionPolicy};
use crate::domain::time::Timestamp;
use crate::domain::trace::TraceContext;
use crate::store::keyring::{Keyring, SealingKey};

fn keyring() -> Keyring {
    Keyring::new(SealingKey::generate().unwrap())
}

fn key() -> impl Strategy<Value = EventKey> {
    any::<[u8; 16]>().prop_map(EventKey::from_bytes)
}

fn destination_id() -> impl Strategy<Value = DestinationId> {
    any::<[u8; 16]>().prop_map(DestinationId::from_bytes)
}

fn moment() -> impl Strategy<Value = Timestamp> {
    any::<i64>().prop_map(Timestamp::from_millis)
}

fn duration() -> impl Strategy<Value = Duration> {
    any::<u64>().prop_map(Duration::from_nanos)
}

fn organization_id() -> impl Strategy<Value = OrganizationId> {
    "[A-Za-z0-9_.-]{1,64}".prop_map(|text| OrganizationId::parse(&text).unwrap())
}

fn event_type() -> impl Strategy<Value = EventType> {
    "[A-Za-z0-9_.-]{1,128}".prop_map(|text| EventType::parse(&text).unwrap())
}

fn event_id(key: EventKey) -> impl Strategy<Value = EventId> {
    let given = "[A-Za-z0-9_:-]{1,128}".prop_map(|text| EventId::parse(&text).unwrap());
    prop_oneof![Just(EventId::from_key(key)), given]
}

fn level() -> impl Strategy<Value = Level> {
    proptest::sample::select(&Level::ALL)
}

fn guarantee() -> impl Strategy<Value = Guarantee> {
    prop_oneof![Just(Guarantee::AtLeastOnce), Just(Guarantee::BestEffort)]
}

fn event() -> impl Strategy<Value = Event> {
    let route = (destination_id(), guarantee())
        .prop_map(|(destination_id, guarantee)| Route { destination_id, guarantee });
    let body = prop_oneof![vec(any::<u8>(), 0..4000), vec(any::<u8>(), 4000..20_000)];
    let names = key().prop_flat_map(|key| (Just(key), event_id(key)));
    let rest = (organization_id(), event_type(), moment(), moment(), level());
    let trace = proptest::option::of(any::<[u8; TraceContext::BYTES]>());
    let all = (names, rest, body, vec(route, 0..80), trace);
    all.prop_map(|((key, id), rest, body, routes, trace)| Event {
        erased_at: None,
        trace: trace.and_then(|bytes| TraceContext::from_bytes(&bytes)),
        key,
        id,
        organization_id: rest.0,
        event_type: rest.1,
        occurred_at: rest.2,
        accepted_at: rest.3,
        level: rest.4,
        data: Payload::from_stored(body.into()),
        routes,
    })
}

fn reason() -> impl Strategy<Value = EndReason> {
    proptest::sample::select(vec![
        EndReason::AttemptsExhausted,
        EndReason::GaveUp,
        EndReason::FinalStatus,
        EndReason::TooOld,
        EndReason::Lossy,
        EndReason::WindowFull,
        EndReason::Stopped,
        EndReason::DestinationDeleted,
        EndReason::DeadLetterDeleted,
        EndReason::EventGone,
    ])
}

fn state() -> impl Strategy<Value = DeliveryState> {
    prop_oneof![
        moment().prop_map(|due| DeliveryState::Waiting { due }),
        moment().prop_map(|at| DeliveryState::Succeeded { at }),
        (moment(), reason()).prop_map(|(at, reason)| DeliveryState::DeadLettered { at, reason }),
        (moment(), reason()).prop_map(|(at, reason)| DeliveryState::Discarded { at, reason }),
        moment().prop_map(|at| DeliveryState::Cancelled { at }),
    ]
}

fn cycle() -> impl Strategy<Value = Cycle> {
    let causes = vec![CycleCause::Routed, CycleCause::Resend, CycleCause::Replay];
    (proptest::sample::select(causes), moment(), any::<u32>())
        .prop_map(|(cause, started_at, attempts)| Cycle { cause, started_at, attempts })
}

fn outcome(text_bytes: usize) -> impl Strategy<Value = Outcome> {
    let failures = vec![
        Failure::Dns,
        Failure::Refused,
        Failure::Connect,
        Failure::Tls,
        Failure::Timeout,
        Failure::Reset,
        Failure::InvalidResponse,
    ];
    let refusals =
        vec![Refusal::AddressNotAllowed, Refusal::SecretUnavailable, Refusal::NotRenderable, Refusal::Fault];
    let detail = || vec(any::<char>(), 0..=text_bytes / 4).prop_map(|chars| chars.iter().collect());
    let answered = (any::<u16>(), option::of(duration()), vec(any::<u8>(), 0..=text_bytes));
    prop_oneof![
        answered.prop_map(|(status, retry_after, body)| Outcome::Answered {
            status,
            retry_after,
            body: body.into()
        }),
        (proptest::sample::select(failures), detail())
            .prop_map(|(failure, detail)| Outcome::NoAnswer { failure, detail }),
        (proptest::sample::select(refusals), detail())
            .prop_map(|(refusal, detail)| Outcome::NotSent { refusal, detail }),
    ]
}

fn in_batch() -> impl Strategy<Value = InBatch> {
    (any::<[u8; 16]>(), any::<u32>())
        .prop_map(|(id, position)| InBatch { id: BatchId::from_bytes(id), position })
}

fn attempt(text_bytes: usize) -> impl Strategy<Value = Attempt> {
    let triggers = vec![Trigger::Routed, Trigger::Retry, Trigger::Resend, Trigger::Replay, Trigger::Test];
    let address = any::<(std::net::IpAddr, u16)>().prop_map(|(ip, port)| SocketAddr::new(ip, port));
    (
        (any::<u32>(), moment(), duration(), proptest::sample::select(triggers)),
        outcome(text_bytes),
        (any::<u32>(), option::of(in_batch())),
        option::of(address),
    )
        .prop_map(|(head, outcome, (batch_size, batch), remote_address)| Attempt {
            number: head.0,
            started_at: head.1,
            round_trip: head.2,
            trigger: head.3,
            outcome,
            batch_size,
            batch,
            remote_address,
        })
}

fn delivery(attempts: usize, text_bytes: usize) -> impl Strategy<Value = Delivery> {
    let names =
        (key(), destination_id()).prop_flat_map(|(key, id)| (Just(DeliveryId::new(key, id)), event_id(key)));
    let replay_id = option::of(any::<[u8; 16]>().prop_map(ReplayId::from_bytes));
    let rest =
        (organization_id(), event_type(), moment(), guarantee(), state(), any::<u32>(), cycle(), replay_id);
    (names, rest, vec(attempt(text_bytes), 0..=attempts)).prop_map(|((id, event_id), rest, attempts)| {
        Delivery {
            id,
            event_id,
            organization_id: rest.0,
            event_type: rest.1,
            created_at: rest.2,
            guarantee: rest.3,
            state: rest.4,
            attempt_count: rest.5,
            cycle: rest.6,
            attempts,
            replay_id: rest.7,
        }
    })
}

fn source() -> impl Strategy<Value = SecretSource> {
    prop_oneof![
        ".{0,200}".prop_map(|text| SecretSource::Value(Secret::new(text))),
        "[A-Z_]{1,20}".prop_map(SecretSource::EnvironmentVariable),
        ".{0,40}".prop_map(|text| SecretSource::File(PathBuf::from(text))),
    ]
}

fn retry() -> impl Strategy<Value = RetryPolicy> {
    let schedule = prop_oneof![
        vec(duration(), 0..20).prop_map(RetrySchedule::Fixed),
        (duration(), 1.0..10.0, duration()).prop_map(|(base, factor, cap)| RetrySchedule::Exponential {
            base,
            factor,
            cap
        }),
    ];
    let rest = (option::of(any::<u32>()), option::of(duration()), 0.0..1.0, btree_set(any::<u16>(), 0..5));
    (schedule, rest).prop_map(|(schedule, rest)| RetryPolicy {
        schedule,
        max_attempts: rest.0,
        give_up_after: rest.1,
        jitter: rest.2,
        final_statuses: rest.3,
    })
}

fn settings() -> impl Strategy<Value = DeliverySettings> {
    let modes = vec![CloudEventsMode::Structured, CloudEventsMode::Binary, CloudEventsMode::Batch];
    let times = (option::of(duration()), option::of(duration()), option::of(duration()));
    let numbers = (option::of(any::<u32>()), option::of(any::<u32>()), option::of(any::<u32>()));
    let flag = || option::of(any::<bool>());
    let flags = (flag(), flag(), flag(), flag(), flag());
    let cloudevents = (option::of(proptest::sample::select(modes)), option::of(".{0,50}"));
    let others = (option::of(retry()), option::of(guarantee()), option::of(duration()), cloudevents);
    (times, numbers, flags, others).prop_map(|(times, numbers, flags, others)| DeliverySettings {
        timeout: times.0,
        retry: others.0,
        throttle: times.1,
        max_batch_events: numbers.0,
        max_batch_bytes: numbers.1,
        discard_after: times.2,
        lossy: flags.0,
        guarantee: others.1,
        ordered: flags.1,
        max_concurrency: numbers.2,
        allow_invalid_certificates: flags.2,
        cloudevents_mode: others.3.0,
        cloudevents_source: others.3.1,
        disable_after: others.2,
        disable_on_gone: flags.3,
        keep_response_bodies: flags.4,
    })
}

fn subscription() -> impl Strategy<Value = Subscription> {
    let policy = prop_oneof![Just(SubscriptionPolicy::Include), Just(SubscriptionPolicy::Exclude)];
    (policy, btree_set(event_type(), 0..60), option::of(level()), btree_set(event_type(), 0..3)).prop_map(
        |(policy, event_types, minimum_level, operational)| Subscription {
            policy,
            event_types,
            minimum_level,
            operational,
        },
    )
}

fn destination() -> impl Strategy<Value = Destination> {
    let url = "https?://[a-z]{1,20}\\.example/[a-z/]{0,300}(\\?[a-z=&]{0,50})?";
    let retiring = (source(), moment()).prop_map(|(source, until)| RetiringSecret { source, until });
    let signing = (option::of(source()), option::of(retiring))
        .prop_map(|(current, retiring)| SigningSecrets { current, retiring });
    let http_auth = prop_oneof![
        Just(HttpAuth::Unauthenticated),
        ("[^:]{0,20}", source()).prop_map(|(username, secret)| HttpAuth::Basic { username, secret }),
        source().prop_map(|token| HttpAuth::Bearer { token }),
    ];
    let header =
        ("[a-z-]{1,30}", ".{0,600}").prop_map(|(name, value)| Header { name, value: Secret::new(value) });
    let state = prop_oneof![
        Just(DestinationState::Active),
        moment().prop_map(|since| DestinationState::Paused { since }),
        (
            moment(),
            proptest::sample::select(vec![
                DisabledReason::ByCaller,
                DisabledReason::Gone,
                DisabledReason::Failing
            ])
        )
            .prop_map(|(since, reason)| DestinationState::Disabled { since, reason }),
    ];
    let names = (destination_id(), organization_id(), ".{0,128}", url);
    let what = (proptest::sample::select(&Contract::ALL), subscription(), settings());
    let access = (signing, http_auth, vec(header, 0..32), state);
    let times = (moment(), moment(), any::<u64>());
    (names, what, access, times).prop_map(|(names, what, access, times)| Destination {
        id: names.0,
        organization_id: names.1,
        display_name: names.2,
        url: DestinationUrl::parse(&names.3, true).unwrap(),
        contract: what.0,
        subscription: what.1,
        settings: what.2,
        signing: access.0,
        http_auth: access.1,
        headers: access.2,
        state: access.3,
        created_at: times.0,
        updated_at: times.1,
        revision: times.2,
    })
}

fn stored_event(event: &Event) -> Result<Event, StoreError> {
    let StoredEvent { record, chunks } = encode_event(event);
    assert!(chunks.iter().chain([&record]).all(|value| value.len() <= VALUE_MAX_BYTES));
    assert_eq!(decode_head(event.key, &record).unwrap(), EventHead::from(event));
    decode_event(event.key, &record, |number| Ok(chunks.get(usize::from(number))))
}

fn replay() -> impl Strategy<Value = Replay> {
    let kinds = [ReplayKind::DeadLetters, ReplayKind::Succeeded, ReplayKind::Missed];
    let range = (option::of(moment()), option::of(moment()));
    let types = vec(event_type(), 0..100);
    let kind = proptest::sample::select(kinds.to_vec());
    let scope = (kind, option::of(destination_id()), types, option::of(key()), range);
    let scope = scope.prop_map(|(kind, destination_id, event_types, event_key, (from, until))| ReplayScope {
        kind,
        destination_id,
        event_types,
        event_key,
        from,
        until,
    });
    let place = || {
        let id = (key(), destination_id()).prop_map(|(key, id)| DeliveryId::new(key, id));
        option::of(id)
    };
    let state = prop_oneof![
        place().prop_map(|after| ReplayState::Counting { after }),
        place().prop_map(|after| ReplayState::Sending { after }),
        moment().prop_map(|at| ReplayState::Completed { at }),
        moment().prop_map(|at| ReplayState::Cancelled { at }),
        (moment(), ".{0,200}").prop_map(|(at, error)| ReplayState::Failed { at, error }),
    ];
    let rest = (organization_id(), any::<u32>(), ".{0,40}", moment(), any::<[u64; 5]>());
    (any::<[u8; 16]>(), scope, state, rest).prop_map(|(id, scope, state, rest)| Replay {
        id: ReplayId::from_bytes(id),
        organization_id: rest.0,
        scope,
        per_second: rest.1,
        started_by: rest.2,
        created_at: rest.3,
        state,
        total: rest.4[0],
        replayed: rest.4[1],
        succeeded: rest.4[2],
        failed: rest.4[3],
        skipped: rest.4[4],
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn an_event_survives(event in event()) {
        prop_assert_eq!(stored_event(&event).unwrap(), event);
    }

    #[test]
    fn a_delivery_survives(delivery in delivery(16, 100)) {
        let stored = encode_delivery(&delivery);
        prop_assert_eq!(decode_delivery(delivery.id, b"key", &stored).unwrap(), delivery);
    }

    #[test]
    fn a_delivery_with_long_answers_stays_small_and_keeps_the_latest_whole(
        delivery in delivery(16, 1024)
    ) {
        let stored = encode_delivery(&delivery);
        prop_assert!(stored.len() <= DELIVERY_MAX_BYTES);
        let restored = decode_delivery(delivery.id, b"key", &stored).unwrap();
        prop_assert_eq!(restored.attempts.len(), delivery.attempts.len());
        let bodies = |delivery: &Delivery| delivery.attempts.last().map(|last| match &last.outcome {
            Outcome::Answered { body, .. } => body.clone(),
            Outcome::NoAnswer { .. } | Outcome::NotSent { .. } => Bytes::new(),
        });
        prop_assert_eq!(bodies(&restored), bodies(&delivery));
    }

    #[test]
    fn a_replay_survives_in_small_chunks(replay in replay()) {
        let chunks = encode_replay(&replay);
        prop_assert!(chunks.iter().all(|chunk| chunk.len() <= VALUE_MAX_BYTES));
        prop_assert_eq!(decode_replay(replay.id, &chunks).unwrap(), replay);
    }

    #[test]
    fn a_destination_survives(destination in destination()) {
        let keyring = keyring();
        let chunks = encode_destination(&destination, &keyring).unwrap();
        prop_assert!(chunks.iter().all(|chunk| chunk.len() <= VALUE_MAX_BYTES));
        let seals = seals_of_destination(destination.id, &chunks).unwrap();
        prop_assert!(seals.are_under(keyring.active()) && seals.total() >= destination.headers.len());
        prop_assert_eq!(decode_destination(destination.id, &chunks, &keyring).unwrap(), destination);
    }

    #[test]
    fn an_organization_survives(
        id in organization_id(),
        display_name in ".{0,2000}",
        plan in ".{0,50}",
        (created_at, updated_at, revision) in (moment(), moment(), any::<u64>()),
    ) {
        let organization = Organization { id, display_name, plan, created_at, updated_at, revision };
        let chunks = encode_organization(&organization);
        prop_assert_eq!(decode_organization(b"key", &chunks).unwrap(), organization);
    }

    #[test]
    fn health_survives(
        last_error in option::of(".{0,100}"),
        times in prop::array::uniform5(option::of(moment())),
        consecutive_failures in any::<u32>(),
        id in destination_id(),
    ) {
        let health = DestinationHealth {
            last_error,
            last_failure_at: times[0],
            last_success_at: times[1],
            consecutive_failures,
            failing_since: times[2],
            confirmed_at: times[3],
            circuit_opened_at: times[4],
        };
        prop_assert_eq!(decode_health(id, &encode_health(&health)).unwrap(), health);
    }

    #[test]
    fn a_due_entry_and_an_idempotency_note_survive(
        (key, to, due, count) in (key(), destination_id(), moment(), any::<u32>()),
        cycle in cycle(),
        digest in any::<[u8; 16]>(),
    ) {
        let id = DeliveryId::new(key, to);
        let entry = decode_due(id, due, b"key", &encode_due(count, &cycle)).unwrap();
        prop_assert_eq!((entry.id, entry.due, entry.attempt_count, entry.cycle), (id, due, count, cycle));
        let note = Idempotency { event_key: key, digest };
        prop_assert_eq!(decode_idempotency(b"key", &encode_idempotency(&note)).unwrap(), note);
    }

    #[test]
    fn one_flipped_bit_is_always_noticed(event in event(), place in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let StoredEvent { mut record, chunks } = encode_event(&event);
        let position = place.index(record.len());
        record[position] ^= 1 << bit;
        let read = decode_event(event.key, &record, |number| Ok(chunks.get(usize::from(number))));
        prop_assert!(matches!(read, Err(StoreError::Corrupt(_))));
    }
}

#[test]
fn damage_is_named_with_table_and_key() {
    let place = Place::new("event", b"\x01\x02");
    let problem = unseal::<Chunk>(place, b"").unwrap_err().to_string();
    assert_eq!(problem, "a stored record is damaged: event/0102: it is too short");
    let mut stored = seal(&Chunk { count: 1, part: Bytes::from_static(b"x") });
    stored[0] = 9;
    let problem = unseal::<Chunk>(place, &stored).unwrap_err().to_string();
    assert!(problem.ends_with("event/0102: it has format 9, this version reads 1"), "{problem}");
}

#[test]
fn the_digest_tells_all_parts_of_the_content_apart_and_nothing_else() {
    let base = NewEvent {
        organization_id: OrganizationId::parse("a").unwrap(),
        event_id: None,
        event_type: EventType::parse("t").unwrap(),
        occurred_at: None,
        trace: None,
        level: Level::Info,
        data: Payload::empty(),
        routes: Vec::new(),
    };
    let trace = TraceContext::from_bytes(&[7; TraceContext::BYTES]);
    let same = NewEvent { organization_id: OrganizationId::parse("b").unwrap(), trace, ..base.clone() };
    assert_eq!(content_digest(&same), content_digest(&base));
    for other in [
        NewEvent { event_type: EventType::parse("u").unwrap(), ..base.clone() },
        NewEvent { occurred_at: Some(Timestamp::default()), ..base.clone() },
        NewEvent { level: Level::Warn, ..base.clone() },
        NewEvent { data: Payload::from_stored(Bytes::from_static(b"{ }")), ..base.clone() },
    ] {
        assert_ne!(content_digest(&other), content_digest(&base));
    }
}

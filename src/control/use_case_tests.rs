//! The use cases on the in-memory store, with a scripted receiver.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::dead_letter::DeadLetters;
use super::delivery::DeliveryFilter;
use super::destination::{DestinationView, Target};
use super::destination_patch::DestinationPatch;
use super::destination_test::TestSubject;
use super::exchange::ImportInto;
use super::organization::OrganizationPatch;
use super::replay::ReplayOrder;
use super::secret::Rotation;
use super::*;
use crate::clock::SystemClock;
use crate::domain::delivery::{Cycle, CycleCause, DeliveryState, EndReason, StateKind};
use crate::domain::destination::{DestinationDraft, DestinationState};
use crate::domain::event::{EventDraft, EventType, Level};
use crate::domain::id::{DeliveryId, DestinationId};
use crate::domain::secret::{Secret, SecretSource};
use crate::domain::settings::Guarantee;
use crate::domain::subscription::Subscription;
use crate::domain::time::Timestamp;
use crate::store::memory::MemoryStore;
use crate::store::{Settlement, Stage};
use crate::transport::scripted::{ScriptedTransport, answered};

const ORG: &str = "org_a";

struct House {
    control: Control,
    transport: Arc<ScriptedTransport>,
    caller: Caller,
}

fn plan(max_destinations: Option<u32>, max_events_per_second: Option<u32>) -> Plan {
    Plan {
        name: "free".into(),
        max_destinations,
        max_events_per_second,
        max_calls_per_second: None,
        max_payload_bytes: None,
        retention: None,
    }
}

fn house_with(change: impl FnOnce(&mut ControlSettings)) -> House {
    let clock: SharedClock = Arc::new(SystemClock);
    let mut settings = ControlSettings {
        plans: BTreeMap::from([("free".to_owned(), plan(None, None))]),
        default_plan: "free".into(),
        payload: PayloadLimits::default(),
        require_organizations: false,
        plain_http_contracts: Vec::new(),
        address_policy: Arc::default(),
        delivery_enabled: true,
        enterprise_telemetry_enabled: false,
        batch_max_events: 1000,
        retention: crate::domain::retention::Retention::default(),
    };
    change(&mut settings);
    let transport = Arc::new(ScriptedTransport::new());
    let secrets = Arc::new(SecretReader::new(Vec::new(), Vec::new()));
    let courier = Courier {
        transport: Arc::clone(&transport) as Arc<dyn crate::transport::Transport>,
        secrets: Arc::clone(&secrets),
        clock: Arc::clone(&clock),
        account: crate::transport::account::Account::default(),
        rates: Some(Arc::new(std::sync::Mutex::new(crate::policy::host_rate::HostRates::new(1)))),
    };
    let store = Arc::new(MemoryStore::new(Arc::clone(&clock)));
    let control = Control::new(store, Arc::new(courier), secrets, clock, settings);
    House { control, transport, caller: Caller::local() }
}

fn house() -> House {
    house_with(|_| {})
}

fn draft(contract: Contract) -> DestinationDraft {
    DestinationDraft::new(contract, "https://example.com/hook")
}

fn event(event_type: &str) -> EventDraft {
    EventDraft {
        event_id: None,
        event_type: event_type.into(),
        occurred_at: None,
        trace: None,
        level: Level::Info,
        data: Bytes::new(),
    }
}

fn first_page<T>() -> PageRequest<T> {
    PageRequest { after: None, limit: 50 }
}

#[tokio::test]
async fn an_event_behind_one_that_is_in_the_store_alone_is_told_to_be_held_by_its_order() {
    // No lane runs here: as on a replica that has it not, or before it has read what waits.
    let house = house();
    let mut workspace = draft(Contract::Workspace);
    workspace.settings.ordered = Some(true);
    let created = house.control.create_destination(&house.caller, ORG, workspace, false).await.unwrap();
    let to = created.destination.id;
    let org = OrganizationId::parse(ORG).unwrap();
    let emitted = async || {
        let accepted = house.emit("kpi.alert").await.unwrap();
        house.control.store.find_event(&org, &accepted.event_id).await.unwrap().unwrap()
    };
    let (first, second) = (emitted().await, emitted().await);
    let told = async |event: &crate::domain::event::Event| {
        let (id, page) = (event.id.as_str().to_owned(), first_page());
        let explained = house.control.explain_event(&house.caller, (ORG, &id), None, page).await.unwrap();
        explained.rows.into_iter().map(|row| (row.deciding_field, row.ahead)).collect::<Vec<_>>()
    };
    assert_eq!(told(&first).await, [("", Some(0))]);
    assert_eq!(told(&second).await, [("settings.ordered", Some(1))]);
    // The first one fails, and still comes first.
    let due = house.control.clock.now() + Duration::from_secs(600);
    let cycle = Cycle { cause: CycleCause::Routed, started_at: first.accepted_at, attempts: 1 };
    let settlement = Settlement {
        id: DeliveryId::new(first.key, to),
        stage: Stage::Fresh,
        guarantee: Guarantee::AtLeastOnce,
        attempt: None,
        cycle,
        state: DeliveryState::Waiting { due },
        told: None,
    };
    house.control.store.settle(vec![settlement], Vec::new()).await.unwrap();
    assert_eq!(told(&first).await, [("settings.retry_policy", Some(0))]);
    assert_eq!(told(&second).await, [("settings.ordered", Some(0))]);
}

impl House {
    async fn create(&self, contract: Contract) -> DestinationView {
        let created = self.control.create_destination(&self.caller, ORG, draft(contract), false).await;
        created.unwrap()
    }

    async fn emit(&self, event_type: &str) -> Result<super::event::Accepted, Error> {
        let results = self.control.emit(&self.caller, ORG, vec![event(event_type)]).await.unwrap();
        results.into_iter().next().unwrap()
    }

    /// Gives up every waiting delivery.
    async fn give_up_all(&self) -> Vec<DeliveryId> {
        let all = self.control.list_deliveries(&self.caller, ORG, DeliveryFilter::default(), first_page());
        let ids: Vec<DeliveryId> = all.await.unwrap().rows.iter().map(|delivery| delivery.id).collect();
        let at = self.control.clock.now();
        let give_up = |id: &DeliveryId| Settlement {
            id: *id,
            stage: Stage::Fresh,
            guarantee: Guarantee::AtLeastOnce,
            attempt: None,
            cycle: Cycle { cause: CycleCause::Routed, started_at: at, attempts: 1 },
            told: None,
            state: DeliveryState::DeadLettered { at, reason: EndReason::AttemptsExhausted },
        };
        self.control.store.settle(ids.iter().map(give_up).collect(), Vec::new()).await.unwrap();
        ids
    }
}

fn target(view: &str) -> Target<'_> {
    Target { organization_id: ORG, destination_id: view, expected: None }
}

#[tokio::test]
async fn one_bad_event_of_a_batch_does_not_spoil_the_others() {
    let house = house();
    house.create(Contract::Workspace).await;
    let drafts = vec![event("kpi.alert"), event("no good"), event("kpi.computed")];
    let results = house.control.emit(&house.caller, ORG, drafts).await.unwrap();
    assert_eq!(results[0].as_ref().unwrap().delivery_count, 1);
    assert!(matches!(&results[1], Err(Error::Invalid(found)) if found.to_string().starts_with("type")));
    assert!(results[2].is_ok());
}

#[tokio::test]
async fn the_same_id_is_a_duplicate_with_the_same_content_and_a_conflict_with_another() {
    let house = house();
    let with_id = |event_type: &str| EventDraft { event_id: Some("evt-7".into()), ..event(event_type) };
    let drafts = vec![with_id("a"), with_id("a"), with_id("b")];
    let results = house.control.emit(&house.caller, ORG, drafts).await.unwrap();
    assert!(!results[0].as_ref().unwrap().duplicate);
    assert!(results[1].as_ref().unwrap().duplicate);
    let conflict = Error::AlreadyExists { kind: Resource::Event, id: "evt-7".into() };
    assert_eq!(results[2], Err(conflict));
}

#[tokio::test]
async fn an_event_for_semaphor_is_refused_without_the_variable_and_goes_nowhere() {
    let house = house();
    house.create(Contract::Semaphor).await;
    house.create(Contract::StandardWebhooks).await;
    let refused = house.emit("query_failed").await.unwrap_err();
    assert!(refused.to_string().contains("ENTERPRISE_TELEMETRY_ENABLED"), "{refused}");
    assert_eq!(house.emit("something.else").await.unwrap().delivery_count, 1);
    let all = house.control.list_deliveries(&house.caller, ORG, DeliveryFilter::default(), first_page());
    assert_eq!(all.await.unwrap().rows.len(), 1);
}

#[tokio::test]
async fn best_effort_deliveries_are_counted_in_the_answer() {
    let house = house_with(|settings| settings.enterprise_telemetry_enabled = true);
    house.create(Contract::Semaphor).await;
    house.create(Contract::CloudEvents).await;
    let accepted = house.emit("query_failed").await.unwrap();
    assert_eq!((accepted.delivery_count, accepted.best_effort_count), (2, 1));
}

#[tokio::test]
async fn the_level_counts_only_where_the_contract_has_levels_and_a_closed_catalogue_always() {
    let house = house();
    let mut wants_warnings = draft(Contract::Stalwart);
    wants_warnings.subscription =
        Some(Subscription { minimum_level: Some(Level::Warn), ..Subscription::default() });
    house.control.create_destination(&house.caller, ORG, wants_warnings, false).await.unwrap();
    let mut excludes = draft(Contract::Observer);
    excludes.subscription = Some(Subscription::default());
    house.control.create_destination(&house.caller, ORG, excludes, false).await.unwrap();
    assert_eq!(house.emit("auth.success").await.unwrap().delivery_count, 0);
    let loud = EventDraft { level: Level::Error, ..event("agent.offline") };
    let results = house.control.emit(&house.caller, ORG, vec![loud]).await.unwrap();
    assert_eq!(results[0].as_ref().unwrap().delivery_count, 2);
}

#[tokio::test]
async fn a_held_destination_still_gets_its_deliveries() {
    let house = house();
    let id = house.create(Contract::Workspace).await.destination.id.to_string();
    let paused = house.control.pause_destination(&house.caller, target(&id)).await.unwrap();
    assert!(matches!(paused.destination.state, DestinationState::Paused { .. }));
    assert_eq!(house.emit("kpi.alert").await.unwrap().delivery_count, 1);
    let resumed = house.control.resume_destination(&house.caller, target(&id)).await.unwrap();
    assert!(resumed.destination.state.is_active());
}

#[tokio::test]
async fn an_organization_comes_into_being_with_its_first_use_unless_it_must_be_created() {
    let house = house();
    assert!(house.control.get_organization(&house.caller, ORG).is_err());
    house.emit("not good").await.unwrap_err();
    assert!(house.control.get_organization(&house.caller, ORG).is_err());
    house.emit("good").await.unwrap();
    assert!(house.control.get_organization(&house.caller, ORG).is_ok());
    let strict = house_with(|settings| settings.require_organizations = true);
    let refused = strict.control.emit(&strict.caller, ORG, vec![event("good")]).await.unwrap_err();
    assert_eq!(refused, Error::not_found(Resource::Organization, ORG));
    let patch = OrganizationPatch { plan: Some("gold".into()), display_name: None };
    let refused = strict.control.create_organization(&strict.caller, ORG, patch).await.unwrap_err();
    assert!(refused.to_string().contains("organization.plan"), "{refused}");
}

#[tokio::test]
async fn a_full_plan_blocks_new_destinations_and_keeps_the_old() {
    let house = house_with(|settings| {
        settings.plans.insert("free".into(), plan(Some(1), Some(2)));
    });
    let id = house.create(Contract::Workspace).await.destination.id.to_string();
    let another = house.control.create_destination(&house.caller, ORG, draft(Contract::Observer), true);
    let Err(Error::QuotaExceeded { what: Quota::Destinations, limit: 1, usage: 1, .. }) = another.await
    else {
        panic!("the plan allows one")
    };
    let usage = house.control.usage(&house.caller, ORG).await.unwrap();
    assert_eq!((usage.destination_count, usage.destination_limit), (1, Some(1)));
    house.control.delete_destination(&house.caller, target(&id)).await.unwrap();
    house.create(Contract::Observer).await;
    let drafts = vec![event("a"), event("b"), event("c")];
    let results = house.control.emit(&house.caller, ORG, drafts).await.unwrap();
    let Err(Error::QuotaExceeded { what: Quota::EventsPerSecond, retry_after: Some(_), .. }) = &results[2]
    else {
        panic!("two a second")
    };
}

#[tokio::test]
async fn another_organizations_things_are_as_unknown_as_what_does_not_exist() {
    let house = house();
    let id = house.create(Contract::Workspace).await.destination.id.to_string();
    house.emit("kpi.alert").await.unwrap();
    let delivery = house.give_up_all().await[0].to_string();
    let (caller, control) = (&house.caller, &house.control);
    let unknown = |kind, id: &str| Err(Error::not_found(kind, id));
    let got = control.get_destination(caller, "org_b", &id).await.map(|_| ());
    assert_eq!(got, unknown(Resource::Destination, &id));
    let got = control.get_destination(caller, ORG, "nonsense").await.map(|_| ());
    assert_eq!(got, unknown(Resource::Destination, "nonsense"));
    for got in [
        control.get_delivery(caller, "org_b", &delivery).await,
        control.resend_delivery(caller, "org_b", &delivery).await,
        control.cancel_delivery(caller, "org_b", &delivery).await,
    ] {
        assert_eq!(got.map(|_| ()), unknown(Resource::Delivery, &delivery));
    }
    let ids = DeadLetters::Ids(vec![delivery.clone()]);
    assert_eq!(control.delete_dead_letters(caller, "org_b", ids, false).await, Ok(0));
    let filter = DeliveryFilter { destination_id: Some(id.clone()), ..DeliveryFilter::default() };
    let listed = control.list_deliveries(caller, "org_b", filter, first_page()).await.map(|_| ());
    assert_eq!(listed, unknown(Resource::Destination, &id));
}

#[tokio::test]
async fn a_change_with_a_stale_revision_changes_nothing() {
    let house = house();
    let view = house.create(Contract::Workspace).await;
    let id = view.destination.id.to_string();
    let rename = || DestinationPatch { display_name: Some("new".into()), ..DestinationPatch::default() };
    let dry = house.control.update_destination(&house.caller, target(&id), rename(), true).await.unwrap();
    assert_eq!(dry.destination.display_name, "new");
    let expected = Some(view.destination.revision);
    let first = Target { expected, ..target(&id) };
    let changed = house.control.update_destination(&house.caller, first, rename(), false).await.unwrap();
    assert!(changed.destination.revision > view.destination.revision);
    let again = house.control.update_destination(&house.caller, first, rename(), false).await;
    assert!(matches!(again, Err(Error::Stale { found, .. }) if found == changed.destination.revision));
}

#[tokio::test]
async fn a_rotation_keeps_the_secret_before_until_its_overlap_ends() {
    let house = house();
    for contract in [Contract::StandardWebhooks, Contract::Observer] {
        let id = house.create(contract).await.destination.id.to_string();
        let rotate = || house.control.rotate_secret(&house.caller, target(&id), Rotation::default());
        let first = rotate().await.unwrap();
        let second = rotate().await.unwrap();
        assert!(first.generated.is_some() && first.generated != second.generated);
        let signing = &second.view.destination.signing;
        assert_eq!(signing.current, second.generated.map(SecretSource::Value));
        let retiring = signing.retiring.clone().map(|retiring| retiring.source);
        assert_eq!(retiring, first.generated.map(SecretSource::Value), "{contract}");
    }
    let id = house.create(Contract::CloudEvents).await.destination.id.to_string();
    let overlap = Some(Duration::from_secs(8 * 24 * 60 * 60));
    let rotation = Rotation { overlap, new_secret: None };
    let refused = house.control.rotate_secret(&house.caller, target(&id), rotation).await.unwrap_err();
    assert!(refused.to_string().contains("overlap"));
}

#[tokio::test]
async fn a_test_sends_once_and_leaves_no_trace() {
    let house = house();
    house.transport.push("example.com", answered(500));
    let form = TestSubject::Form { draft: Box::new(draft(Contract::Observer)), destination_id: None };
    let tested = house.control.test_destination(&house.caller, ORG, form, None).await.unwrap();
    assert_eq!(tested.attempt.outcome.status(), Some(500));
    assert_eq!(house.transport.requests().len(), 1);
    let none = house.control.list_destinations(&house.caller, ORG, first_page()).unwrap();
    assert!(none.rows.is_empty());
    let form = TestSubject::Form { draft: Box::new(draft(Contract::Semaphor)), destination_id: None };
    let refused = house.control.test_destination(&house.caller, ORG, form, None).await.unwrap_err();
    assert!(refused.to_string().starts_with("Webhook delivery is not available"));
    assert_eq!(house.transport.requests().len(), 1);
}

#[tokio::test]
async fn tests_count_for_the_rate_of_a_host_and_are_told_when_to_come_back() {
    let house = house();
    let (mut sent, mut refused) = (0, Vec::new());
    for _ in 0..20 {
        let form = TestSubject::Form { draft: Box::new(draft(Contract::Observer)), destination_id: None };
        match house.control.test_destination(&house.caller, ORG, form, None).await {
            Ok(_) => sent += 1,
            Err(error) => refused.push(error),
        }
    }
    assert_eq!(house.transport.requests().len(), sent);
    let told = |error: &Error| {
        matches!(error, Error::HostRateExceeded { per_second: 1, retry_after, .. }
            if !retry_after.is_zero() && *retry_after <= std::time::Duration::from_secs(1))
    };
    assert!(!refused.is_empty() && refused.iter().all(told), "{refused:?}");
}

#[tokio::test]
async fn destinations_are_listed_page_by_page_without_gaps() {
    let house = house();
    for _ in 0..3 {
        house.create(Contract::Workspace).await;
    }
    let mut seen: Vec<DestinationId> = Vec::new();
    let mut after = None;
    loop {
        let page = PageRequest { after, limit: 2 };
        let listing = house.control.list_destinations(&house.caller, ORG, page).unwrap();
        seen.extend(listing.rows.iter().map(|view| view.destination.id));
        after = listing.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen.len(), 3);
    assert!(seen.is_sorted());
}

#[tokio::test]
async fn dead_letters_are_counted_replayed_once_and_deleted() {
    let house = house();
    house.create(Contract::Workspace).await;
    for _ in 0..3 {
        house.emit("kpi.alert").await.unwrap();
    }
    let ids = house.give_up_all().await;
    let (caller, control) = (&house.caller, &house.control);
    let all = DeliveryFilter::default;
    let check = ReplayOrder { validate_only: true, ..ReplayOrder::default() };
    let counted = control.replay_dead_letters(caller, ORG, all(), check).await.unwrap();
    assert_eq!((counted.total, counted.skipped), (3, 0));
    let one = control.replay_dead_letter(caller, ORG, &ids[0].to_string()).await.unwrap();
    assert_eq!((one.state.kind(), one.cycle.cause), (StateKind::Waiting, CycleCause::Replay));
    let again = control.replay_dead_letter(caller, ORG, &ids[0].to_string()).await;
    let kind = Condition::NotDeadLettered { state: StateKind::Waiting };
    assert!(matches!(again, Err(Error::Precondition { kind: found, .. }) if found == kind));
    let which = DeadLetters::Ids(vec![ids[1].to_string(), "unknown".into()]);
    assert_eq!(control.delete_dead_letters(caller, ORG, which, false).await, Ok(1));
    let counted = control.replay_dead_letters(caller, ORG, all(), check).await.unwrap();
    assert_eq!(counted.total, 1);
    let order = ReplayOrder::default();
    let replay = control.replay_dead_letters(caller, ORG, all(), order).await.unwrap();
    assert_eq!((replay.per_second, replay.state.is_running()), (100, true));
    let second = control.replay_dead_letters(caller, ORG, all(), order).await;
    assert_eq!(second, Err(Error::ReplayRunning { running: replay.id }));
    let replay_id = replay.id.to_string();
    assert_eq!(control.get_replay(caller, ORG, &replay_id).await.as_ref(), Ok(&replay));
    let stranger = control.get_replay(caller, "org_b", &replay_id).await;
    assert_eq!(stranger, Err(Error::not_found(super::Resource::Replay, &replay_id)));
    let cancelled = control.cancel_replay(caller, ORG, &replay_id).await.unwrap();
    assert_eq!(control.cancel_replay(caller, ORG, &replay_id).await, Ok(cancelled));
    let left = control.list_dead_letters(caller, ORG, all(), first_page()).await.unwrap();
    assert_eq!(left.rows.len(), 1);
}

#[tokio::test]
async fn a_cancelled_delivery_stays_cancelled_and_a_finished_one_cannot_be() {
    let house = house();
    house.create(Contract::Workspace).await;
    let event_id = house.emit("kpi.alert").await.unwrap().event_id.to_string();
    let (caller, control) = (&house.caller, &house.control);
    let of_event = DeliveryFilter { event_id: Some(event_id), ..DeliveryFilter::default() };
    let found = control.list_deliveries(caller, ORG, of_event, first_page()).await.unwrap();
    let id = found.rows[0].id.to_string();
    for _ in 0..2 {
        let cancelled = control.cancel_delivery(caller, ORG, &id).await.unwrap();
        assert_eq!(cancelled.state.kind(), StateKind::Cancelled);
    }
    let resent = control.resend_delivery(caller, ORG, &id).await.unwrap();
    assert_eq!((resent.state.kind(), resent.cycle.cause), (StateKind::Waiting, CycleCause::Resend));
    house.emit("kpi.alert").await.unwrap();
    let id = house.give_up_all().await[0].to_string();
    let refused = control.cancel_delivery(caller, ORG, &id).await.unwrap_err();
    assert!(matches!(refused, Error::Precondition { kind: Condition::DeliveryFinished { .. }, .. }));
}

#[tokio::test]
async fn an_import_tells_what_is_wrong_in_the_documents_own_keys() {
    let house = house();
    let into = || ImportInto::New { organization_id: ORG, display_name: String::new() };
    let json = br#"{"url":"http://example.com/","timeout":"1h","discardAfter":"1ms"}"#;
    let refused = house.control.import_destination(&house.caller, into(), json, false).await.unwrap_err();
    let Error::Invalid(found) = refused else { panic!("it is invalid") };
    let fields: Vec<&str> = found.iter().map(|violation| violation.field.as_str()).collect();
    assert_eq!(fields, ["json_document.url", "json_document.timeout", "json_document.discardAfter"]);
    let json = br#"{"url":"https://example.com/","signatureKey":{"@type":"Value","secret":"planted"}}"#;
    let view = house.control.import_destination(&house.caller, into(), json, false).await.unwrap();
    let id = view.destination.id.to_string();
    let exported = house.control.export_destination(&house.caller, ORG, &id).unwrap();
    assert!(!exported.json.contains("planted") && exported.omitted_fields.is_empty());
    let existing = ImportInto::Existing(target(&id));
    let json = exported.json.as_bytes();
    let kept = house.control.import_destination(&house.caller, existing, json, false).await.unwrap();
    let secret = SecretSource::Value(Secret::new("planted"));
    assert_eq!(kept.destination.signing.current, Some(secret));
    let other = house.create(Contract::Observer).await.destination.id.to_string();
    let refused = house.control.export_destination(&house.caller, ORG, &other).unwrap_err();
    assert!(matches!(refused, Error::Precondition { kind: Condition::ContractMismatch { .. }, .. }));
}

#[tokio::test]
async fn a_range_of_time_that_ends_before_it_begins_is_refused() {
    let house = house();
    let at = |millis| Some(Timestamp::from_millis(millis));
    let filter = DeliveryFilter {
        from: at(5),
        until: at(5),
        event_types: vec![EventType::parse("a").unwrap()],
        ..DeliveryFilter::default()
    };
    let refused = house.control.list_deliveries(&house.caller, ORG, filter, first_page()).await;
    assert!(matches!(refused, Err(Error::Invalid(_))));
}

#[tokio::test]
async fn a_watch_that_goes_on_after_a_restart_gets_also_what_it_had_not_read_for_long() {
    let house = house();
    house.create(Contract::Workspace).await;
    let control = Arc::new(house.control);
    let filter = DeliveryFilter::default;
    let mut watch = control.watch_deliveries(&house.caller, ORG, filter(), None).await.unwrap();
    for _ in 0..300 {
        control.emit(&house.caller, ORG, vec![event("kpi.alert")]).await.unwrap();
    }
    let changed = watch.next().await.unwrap();
    assert!(changed.len() < 300, "some are not read yet");
    for one in &changed {
        assert!(one.cursor.since <= one.at, "what changed after it, read or not, is asked for again");
    }
}

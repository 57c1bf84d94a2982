//! The promises of the store traits, as tests that run on every implementation.
//!
//! An implementation calls `conformance!` with a function that opens an empty store by a given clock.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;

use super::directory::DestinationEntry;
use super::{
    Backlog, CommitListener, DeliveryQuery, DestinationQuota, DueEntry, Settlement, Stage, Store, StoreError,
};
use crate::clock::{Clock, SharedClock};
use crate::domain::attempt::{Attempt, Failure, Outcome, Trigger};
use crate::domain::contract::Contract;
use crate::domain::delivery::{Cycle, CycleCause, DeliveryState, EndReason, StateKind};
use crate::domain::destination::{Destination, DestinationHealth, DestinationState, DestinationUrl, Header};
use crate::domain::event::{Acceptance, Event, EventType, Level, NewEvent, Route};
use crate::domain::id::{DeliveryId, DestinationId, EventId, EventKey, OrganizationId};
use crate::domain::organization::Organization;
use crate::domain::payload::Payload;
use crate::domain::secret::{HttpAuth, RetiringSecret, Secret, SecretSource, SigningSecrets};
use crate::domain::settings::{DeliverySettings, Guarantee};
use crate::domain::subscription::Subscription;
use crate::domain::time::Timestamp;

/// A clock that stands still until it is moved.
pub struct ManualClock(AtomicI64);

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::SeqCst))
    }
}

impl ManualClock {
    pub fn advance(&self, millis: i64) {
        self.0.fetch_add(millis, Ordering::SeqCst);
    }
}

/// When the tests begin.
pub const START: i64 = 1_750_000_000_000;

/// A clock at the beginning, and the same one as a store takes it.
pub fn manual_clock() -> (Arc<ManualClock>, SharedClock) {
    let clock = Arc::new(ManualClock(AtomicI64::new(START)));
    (Arc::clone(&clock), clock)
}

/// What a test works with.
pub struct Bench {
    pub store: Arc<dyn Store>,
    pub clock: Arc<ManualClock>,
}

pub fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(START + millis)
}

pub fn organization_id() -> OrganizationId {
    OrganizationId::parse("acme").unwrap()
}

pub fn destination_id(number: u8) -> DestinationId {
    DestinationId::from_bytes([number; 16])
}

pub fn durable(number: u8) -> Route {
    Route { destination_id: destination_id(number), guarantee: Guarantee::AtLeastOnce }
}

fn best_effort(number: u8) -> Route {
    Route { destination_id: destination_id(number), guarantee: Guarantee::BestEffort }
}

pub fn new_event(event_type: &str, routes: &[Route]) -> NewEvent {
    NewEvent {
        organization_id: organization_id(),
        event_id: None,
        event_type: EventType::parse(event_type).unwrap(),
        occurred_at: None,
        trace: None,
        level: Level::Info,
        data: Payload::from_stored(Bytes::from_static(b"{\"a\":1}")),
        routes: routes.to_vec(),
    }
}

fn named_event(id: &str) -> NewEvent {
    NewEvent { event_id: Some(EventId::parse(id).unwrap()), ..new_event("a.b", &[durable(1)]) }
}

pub fn big_event(bytes: usize) -> NewEvent {
    let data = format!("{{\"d\":\"{}\"}}", "x".repeat(bytes - 8));
    NewEvent { data: Payload::from_stored(data.into()), ..new_event("big", &[durable(1)]) }
}

pub fn destination(number: u8) -> Destination {
    Destination {
        id: destination_id(number),
        organization_id: organization_id(),
        display_name: format!("number {number}"),
        url: DestinationUrl::parse("https://example.com/hook", false).unwrap(),
        contract: Contract::Workspace,
        subscription: Subscription::default(),
        settings: DeliverySettings::default(),
        signing: SigningSecrets {
            current: Some(SecretSource::Value(Secret::new("hunter2"))),
            retiring: None,
        },
        http_auth: HttpAuth::Unauthenticated,
        headers: vec![Header { name: "x-key".into(), value: Secret::new("value") }],
        state: DestinationState::Active,
        created_at: at(0),
        updated_at: at(0),
        revision: 1,
    }
}

/// A destination with five secrets of every kind, its URL counted; each but the URL has `planted` in it.
pub fn full_of_secrets(number: u8) -> Destination {
    let planted = |what: &str| SecretSource::Value(Secret::new(format!("planted-{what}")));
    let retiring = Some(RetiringSecret { source: planted("retiring"), until: at(9) });
    let signing = SigningSecrets { current: Some(planted("signing")), retiring };
    let http_auth = HttpAuth::Basic { username: "user".into(), secret: planted("password") };
    let mut full = Destination { signing, http_auth, ..destination(number) };
    full.headers[0].value = Secret::new("planted-header");
    full
}

pub fn organization() -> Organization {
    Organization {
        id: organization_id(),
        display_name: "Acme".into(),
        plan: String::new(),
        created_at: at(0),
        updated_at: at(0),
        revision: 1,
    }
}

pub fn attempt(number: u32, status: u16) -> Attempt {
    Attempt {
        number,
        started_at: at(i64::from(number)),
        round_trip: Duration::from_millis(12),
        trigger: if number == 1 { Trigger::Routed } else { Trigger::Retry },
        outcome: Outcome::Answered { status, retry_after: None, body: Bytes::from_static(b"body") },
        batch_size: 1,
        batch: None,
        remote_address: Some("192.0.2.1:443".parse().unwrap()),
    }
}

fn routed(event: &Event, attempts: u32) -> Cycle {
    Cycle { cause: CycleCause::Routed, started_at: event.accepted_at, attempts }
}

pub fn id_of(event: &Event, destination: u8) -> DeliveryId {
    DeliveryId::new(event.key, destination_id(destination))
}

pub fn settlement(event: &Event, destination: u8, stage: Stage, state: DeliveryState) -> Settlement {
    let (number, status) = match (stage, state.kind()) {
        (_, StateKind::Succeeded) => (1, 204),
        (Stage::Due(_), _) => (2, 500),
        _ => (1, 500),
    };
    Settlement {
        id: id_of(event, destination),
        stage,
        guarantee: Guarantee::AtLeastOnce,
        attempt: Some(attempt(number, status)),
        cycle: routed(event, number),
        state,
        told: None,
    }
}

fn dead(millis: i64) -> DeliveryState {
    DeliveryState::DeadLettered { at: at(millis), reason: EndReason::AttemptsExhausted }
}

fn waiting(millis: i64) -> DeliveryState {
    DeliveryState::Waiting { due: at(millis) }
}

fn succeeded(millis: i64) -> DeliveryState {
    DeliveryState::Succeeded { at: at(millis) }
}

fn cancelled(millis: i64) -> DeliveryState {
    DeliveryState::Cancelled { at: at(millis) }
}

pub fn query(destinations: &[u8], limit: usize) -> DeliveryQuery {
    DeliveryQuery {
        organization_id: organization_id(),
        destination_ids: destinations.iter().copied().map(destination_id).collect(),
        states: Vec::new(),
        event_types: Vec::new(),
        from: None,
        until: None,
        after: None,
        limit,
    }
}

impl Bench {
    pub async fn accept(&self, event: NewEvent) -> Arc<Event> {
        match self.store.accept(vec![event]).await.unwrap().pop().unwrap() {
            Acceptance::Accepted(event) => event,
            other => panic!("not accepted: {other:?}"),
        }
    }

    /// The delivery to the first destination failed and is due again.
    pub async fn settle_failed(&self, event: &Event) {
        self.settle(settlement(event, 1, Stage::Fresh, waiting(60_000))).await;
    }

    async fn settle(&self, settlement: Settlement) {
        self.store.settle(vec![settlement], Vec::new()).await.unwrap();
    }

    async fn state(&self, id: DeliveryId) -> DeliveryState {
        self.store.delivery(id).await.unwrap().unwrap().state
    }

    async fn fresh(&self, destination: u8) -> Vec<EventKey> {
        let page = self.store.load_fresh(destination_id(destination), None, 100).await.unwrap();
        page.rows.iter().map(|event| event.key).collect()
    }

    async fn due(&self, destination: u8) -> Vec<DueEntry> {
        self.store.load_due(destination_id(destination), None, 100).await.unwrap().rows
    }

    async fn list(&self, query: DeliveryQuery) -> Vec<DeliveryId> {
        let page = self.store.deliveries(query).await.unwrap();
        page.rows.iter().map(|delivery| delivery.id).collect()
    }

    /// All pages of the query, one after the other.
    async fn list_all(&self, mut query: DeliveryQuery) -> Vec<DeliveryId> {
        let mut all = Vec::new();
        loop {
            let page = self.store.deliveries(query.clone()).await.unwrap();
            assert!(page.rows.len() <= query.limit);
            all.extend(page.rows.iter().map(|delivery| delivery.id));
            if page.next.is_none() {
                return all;
            }
            query.after = page.next;
        }
    }
}

#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

impl Notes {
    fn add(&self, note: String) {
        self.0.lock().unwrap().push(note);
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl CommitListener for Notes {
    fn accepted(&self, events: &[Arc<Event>]) {
        events.iter().for_each(|event| self.add(format!("accepted {}", event.key)));
    }
    fn requeued(&self, entries: &[DueEntry]) {
        entries.iter().for_each(|entry| self.add(format!("requeued {}", entry.id)));
    }
    fn ended(&self, ids: &[DeliveryId]) {
        ids.iter().for_each(|id| self.add(format!("ended {id}")));
    }
    fn destination_changed(&self, id: DestinationId) {
        self.add(format!("changed {id}"));
    }
}

pub mod audit;
pub mod config;
pub mod deliveries;
pub mod events;
pub mod lists;
pub mod replays;
pub mod retention;
pub mod telling;

/// Runs all promises on one implementation.
macro_rules! conformance {
    ($open:path) => {
        conformance!(@tests $open;
            events: answers_come_in_the_order_of_the_events
            events: the_same_id_with_the_same_content_is_a_duplicate_of_the_first
            events: the_same_id_with_other_content_is_a_conflict
            events: ids_are_compared_within_one_call
            events: the_id_of_an_event_without_a_callers_id_is_taken_too
            events: ids_of_other_organizations_do_not_matter
            events: of_concurrent_calls_with_one_id_exactly_one_is_accepted
            events: large_payloads_come_back_byte_for_byte
            events: many_routes_come_back
            events: an_event_is_found_by_either_kind_of_id
            events: unknown_events_are_none_at_their_place
            events: keys_grow_and_times_never_go_back_with_the_clock
            events: the_listener_hears_of_commits_in_order_of_keys
            deliveries: fresh_deliveries_come_in_order_of_keys_page_by_page
            deliveries: a_page_of_large_events_ends_early_and_goes_on
            deliveries: a_success_takes_a_fresh_delivery_off_the_queue
            deliveries: what_waits_may_become_a_dead_letter_without_an_attempt
            deliveries: a_failure_makes_a_fresh_delivery_due
            deliveries: due_deliveries_come_in_order_of_time_page_by_page
            deliveries: a_due_delivery_moves_with_each_failure_until_it_is_finished
            deliveries: a_cancelled_delivery_stays_cancelled_unless_it_succeeds
            deliveries: a_resend_survives_the_failure_of_an_attempt_under_way
            deliveries: a_success_that_is_settled_again_takes_nothing_from_a_resend_begun_since
            deliveries: a_best_effort_delivery_has_a_record_only_from_its_first_settlement_on
            deliveries: requeueing_begins_a_new_cycle_whatever_the_state
            deliveries: requeueing_leaves_out_what_is_unknown
            deliveries: ending_ends_only_what_is_in_the_asked_state
            deliveries: only_the_latest_attempts_are_kept_and_all_are_counted
            deliveries: a_settlement_of_an_unknown_event_changes_nothing
            deliveries: the_backlog_counts_up_to_its_cap
            lists: an_event_shows_as_waiting_before_any_attempt
            lists: filters_of_state_type_and_time_are_kept
            lists: dead_letters_are_listed_newest_first
            lists: the_time_of_dead_letters_is_when_they_became_one
            lists: pages_are_complete_without_gaps_or_repeats
            config: a_destination_is_in_the_directory_when_it_is_committed
            config: the_limit_of_destinations_holds_under_concurrency
            config: a_stale_revision_changes_nothing
            config: a_deleted_destination_is_gone_and_its_deliveries_stay
            config: an_organization_is_created_once_and_changed_by_revision
            replays: a_replay_is_read_and_listed_latest_first
            replays: one_replay_at_a_time_runs_for_a_destination
            replays: a_step_puts_back_what_the_replay_takes_and_records_how_far_it_is
            replays: what_was_counted_and_is_gone_is_skipped_in_the_end
            replays: a_step_from_where_the_replay_does_not_stand_does_nothing
            replays: a_replay_that_fails_says_why
            replays: a_replay_hears_once_how_each_of_its_deliveries_ends
            replays: dead_letters_are_covered_page_by_page_by_the_time_at_which_they_became_one
            replays: succeeded_deliveries_are_covered_by_the_time_of_their_event
            replays: missed_events_are_those_without_a_delivery_or_with_one_that_ended_in_vain
            replays: a_missed_event_gets_a_delivery_of_its_own_and_is_missed_no_more
            telling: a_settlement_tells_of_itself_in_the_same_step
            telling: what_is_not_taken_tells_nothing
            telling: the_same_is_told_once_however_often_it_is_settled
            telling: a_change_tells_of_itself_and_a_call_that_changes_nothing_does_not
            telling: the_destination_that_brings_the_quota_near_tells_of_it_each_time_it_comes_near
            telling: an_organization_that_is_being_erased_is_told_nothing
            audit: a_change_leaves_its_entry_and_a_call_that_changes_nothing_leaves_none
            audit: an_entry_says_of_how_many_deliveries_it_tells
            audit: the_log_is_listed_latest_first_by_pages_and_filters
            audit: entries_go_by_age_alone_the_oldest_first
            audit: of_an_erased_organization_the_log_keeps_that_and_not_what
            retention: finished_events_go_by_age_with_their_deliveries_and_ids
            retention: events_that_wait_are_never_removed
            retention: dead_letters_expire_and_go_with_the_history
            retention: organizations_may_have_times_of_their_own
            retention: too_much_goes_before_its_time_and_what_waits_does_not
            retention: what_is_stored_is_counted_up_and_down
            retention: dead_letters_that_expire_soon_are_reported_until_they_do
            retention: replays_go_with_the_history_and_those_that_run_stay
            retention: erased_data_is_gone_and_the_history_stays
            retention: an_erased_organization_leaves_nothing_and_harms_nobody_else
            retention: changes_are_in_the_feed_in_their_order
            retention: what_comes_before_a_delivery_is_counted
        );
    };
    (@tests $open:path; $($group:ident: $name:ident)+) => {
        $(
            #[tokio::test]
            async fn $name() {
                let (clock, shared) = $crate::store::conformance::manual_clock();
                let (store, _keep) = $open(shared);
                let bench = $crate::store::conformance::Bench { store, clock };
                $crate::store::conformance::$group::$name(&bench).await;
            }
        )+
    };
}
pub(crate) use conformance;

mod memory {
    use super::*;

    fn open(clock: SharedClock) -> (Arc<dyn Store>, ()) {
        (Arc::new(crate::store::memory::MemoryStore::new(clock)), ())
    }

    conformance!(open);
}

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::domain::circuit::CircuitState;
use crate::domain::contract::CloudEventsMode;
use crate::domain::delivery::{Cycle, CycleCause, EndReason};
use crate::domain::event::{Event, EventType, Level, Route};
use crate::domain::id::{DeliveryId, DestinationId, EventId, OrganizationId};
use crate::domain::payload::Payload;
use crate::domain::settings::{Guarantee, RetryPolicy, RetrySchedule};
use crate::engine::memory::Memory;
use crate::store::Stage;

/// A destination that is known to work, whose circuit hardly opens.
const PROVEN: Past = Past { opens_after: 1000, failures: 0, proven: true, last_request_at: None };
pub(super) const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);
const DESTINATION: DestinationId = DestinationId::from_bytes([1; 16]);

pub(super) fn after(millis: u64) -> Timestamp {
    START + Duration::from_millis(millis)
}

pub(super) fn policy() -> EffectivePolicy {
    EffectivePolicy {
        timeout: Duration::from_secs(10),
        retry: RetryPolicy {
            schedule: RetrySchedule::Fixed(Vec::new()),
            max_attempts: None,
            give_up_after: None,
            jitter: 0.0,
            final_statuses: BTreeSet::new(),
        },
        throttle: Duration::ZERO,
        max_batch_events: 1,
        max_batch_bytes: 1 << 20,
        discard_after: None,
        lossy: false,
        guarantee: Guarantee::AtLeastOnce,
        ordered: false,
        max_concurrency: 4,
        allow_invalid_certificates: false,
        cloudevents_mode: CloudEventsMode::Structured,
        cloudevents_source: None,
        disable_after: None,
        gone_disables: false,
        keep_response_bodies: true,
    }
}

fn lane(change: impl FnOnce(&mut EffectivePolicy), window: usize) -> Lane {
    let mut policy = policy();
    change(&mut policy);
    let past = PROVEN;
    Lane::new(Arc::new(policy), Hold::Open, window, false, past)
}

pub(super) fn event(key: EventKey) -> Arc<Event> {
    Arc::new(Event {
        erased_at: None,
        trace: None,
        key,
        id: EventId::from_key(key),
        organization_id: OrganizationId::parse("org").unwrap(),
        event_type: EventType::parse("a.b").unwrap(),
        occurred_at: key.made_at(),
        accepted_at: key.made_at(),
        level: Level::Info,
        data: Payload::empty(),
        routes: vec![Route { destination_id: DESTINATION, guarantee: Guarantee::AtLeastOnce }],
    })
}

/// A first attempt with its data in memory.
pub(super) fn item(key: EventKey, guarantee: Guarantee) -> Item {
    Item::fresh(&event(key), guarantee, &Memory::new(usize::MAX))
}

/// Keys made one millisecond apart.
pub(super) fn keys(count: u64) -> Vec<EventKey> {
    (0..count).map(|n| EventKey::lower_bound(after(n))).collect()
}

pub(super) fn entry(key: EventKey, due: Timestamp) -> DueEntry {
    let cycle = Cycle { cause: CycleCause::Resend, started_at: due, attempts: 0 };
    DueEntry { id: DeliveryId::new(key, DESTINATION), due, attempt_count: 1, cycle }
}

fn attempt_keys(step: Step) -> Vec<EventKey> {
    match step {
        Step::Attempt(items) => items.iter().map(|item| item.key).collect(),
        other => panic!("an attempt was expected, not {other:?}"),
    }
}

pub(super) fn attempt_items(step: Step) -> Vec<Item> {
    match step {
        Step::Attempt(items) => items,
        other => panic!("an attempt was expected, not {other:?}"),
    }
}

const OK: Option<Ended> = Some(Ended { success: true, took: Duration::from_millis(1), at: START, draw: 0.0 });
const FAILED: Option<Ended> =
    Some(Ended { success: false, took: Duration::from_millis(1), at: START, draw: 0.0 });

#[test]
fn first_attempts_go_out_in_order_of_acceptance_few_at_first_and_then_up_to_the_concurrency() {
    let mut lane = lane(|_| {}, 100);
    let keys = keys(20);
    for key in &keys {
        lane.accepted(item(*key, Guarantee::AtLeastOnce));
    }
    let mut order = Vec::new();
    let mut widths = Vec::new();
    while order.len() < keys.len() {
        let mut flying = Vec::new();
        while let Step::Attempt(items) = lane.step(after(100)) {
            flying.extend(items);
        }
        widths.push(flying.len());
        order.extend(flying.iter().map(|item| item.key));
        flying.into_iter().for_each(|item| lane.finished(vec![(item, None)], OK));
    }
    assert_eq!(order, keys);
    assert_eq!(&widths[..3], [2, 4, 4]);
}

#[test]
fn the_throttle_is_the_least_gap_between_two_requests_and_groups_what_came_meanwhile() {
    let mut lane = lane(
        |p| {
            p.throttle = Duration::from_secs(1);
            p.max_batch_events = 3;
        },
        100,
    );
    let keys = keys(6);
    lane.accepted(item(keys[0], Guarantee::AtLeastOnce));
    assert_eq!(attempt_keys(lane.step(after(100))), &keys[..1]);
    for key in &keys[1..] {
        lane.accepted(item(*key, Guarantee::AtLeastOnce));
    }
    assert_eq!(lane.step(after(101)), Step::WaitUntil(after(1100)));
    let items = attempt_items(lane.step(after(1100)));
    assert_eq!(items.iter().map(|item| item.key).collect::<Vec<_>>(), &keys[1..4]);
    lane.finished(items.into_iter().map(|item| (item, None)).collect(), OK);
    assert_eq!(attempt_keys(lane.step(after(2100))), &keys[4..]);
}

#[test]
fn a_batch_is_never_larger_than_its_byte_cap_but_one_event_always_goes() {
    let mut lane = lane(
        |p| {
            p.max_batch_events = 100;
            p.max_batch_bytes = 2 * (256 + 2);
        },
        100,
    );
    let keys = keys(3);
    for key in &keys {
        lane.accepted(item(*key, Guarantee::AtLeastOnce));
    }
    assert_eq!(attempt_keys(lane.step(after(10))), &keys[..2]);
    assert_eq!(attempt_keys(lane.step(after(10))), &keys[2..]);
}

#[test]
fn an_ordered_lane_sends_nothing_past_a_failing_delivery() {
    let mut lane = lane(|p| p.ordered = true, 100);
    let keys = keys(2);
    for key in &keys {
        lane.accepted(item(*key, Guarantee::AtLeastOnce));
    }
    let items = attempt_items(lane.step(after(10)));
    assert_eq!(lane.step(after(10)), Step::Idle);
    lane.finished(items.into_iter().map(|item| (item, Some(after(5000)))).collect(), FAILED);
    assert_eq!(lane.step(after(20)), Step::WaitUntil(after(5000)));
    let items = attempt_items(lane.step(after(5000)));
    assert_eq!(items[0].key, keys[0]);
    lane.finished(items.into_iter().map(|item| (item, None)).collect(), OK);
    assert_eq!(attempt_keys(lane.step(after(5001))), &keys[1..]);
}

#[test]
fn a_held_lane_keeps_everything_and_sends_nothing() {
    let mut lane = lane(|_| {}, 100);
    lane.accepted(item(keys(1)[0], Guarantee::AtLeastOnce));
    lane.set_hold(Hold::Held);
    assert_eq!(lane.step(after(10)), Step::Idle);
    assert!(!lane.is_idle(after(20)));
    lane.set_hold(Hold::Open);
    assert_eq!(attempt_keys(lane.step(after(11))), keys(1));
}

#[test]
fn a_delivery_that_grows_too_old_while_it_waits_is_discarded_also_when_held() {
    let mut lane = lane(|p| p.discard_after = Some(Duration::from_secs(300)), 100);
    lane.accepted(item(keys(1)[0], Guarantee::AtLeastOnce));
    lane.set_hold(Hold::Held);
    let limit = after(300_000);
    assert_eq!(lane.step(after(10)), Step::WaitUntil(limit));
    let Step::End(items, Ending::Discard(EndReason::TooOld)) = lane.step(limit) else {
        panic!("a discard was expected")
    };
    assert_eq!(items.len(), 1);
    lane.settled(&keys(1));
    assert!(lane.is_idle(limit));
}

#[test]
fn a_delivery_that_is_given_up_while_it_waits_is_a_dead_letter_also_when_held_or_behind_an_open_circuit() {
    for (hold, opens_after) in [(Hold::Held, 1000), (Hold::Open, 1)] {
        let mut policy = policy();
        policy.retry.give_up_after = Some(Duration::from_secs(2));
        let past = Past { opens_after, failures: 3, ..PROVEN };
        let mut lane = Lane::new(Arc::new(policy), Hold::Open, 100, false, past);
        let keys = keys(3);
        for key in &keys[..2] {
            lane.accepted(item(*key, Guarantee::AtLeastOnce));
        }
        lane.set_hold(hold);
        if opens_after == 1 {
            let items = attempt_items(lane.step(after(10)));
            lane.finished(items.into_iter().map(|item| (item, Some(after(900_000)))).collect(), FAILED);
        }
        // A replay of an older one began later and counts from there.
        lane.requeued(DueEntry {
            cycle: Cycle { cause: CycleCause::Replay, started_at: after(500), attempts: 0 },
            ..entry(keys[2], after(500))
        });
        let mut ended = Vec::new();
        for _ in 0..8 {
            match lane.step(after(2001)) {
                Step::End(items, Ending::DeadLetter(EndReason::GaveUp)) => {
                    ended.extend(items.into_iter().map(|item| item.key));
                }
                Step::WaitUntil(moment) => {
                    assert!(moment <= after(2500), "{hold:?}: the timer is that of the next end: {moment:?}");
                    break;
                }
                Step::Attempt(_) | Step::Idle | Step::Load(_) | Step::End(..) => break,
            }
        }
        ended.sort();
        assert_eq!(ended, keys[..2], "{hold:?}");
    }
}

#[test]
fn a_closed_lane_discards_all_that_waits_in_memory_and_in_the_store() {
    let mut lane = lane(|_| {}, 2);
    let keys = keys(3);
    for key in &keys {
        lane.accepted(item(*key, Guarantee::AtLeastOnce));
    }
    lane.set_hold(Hold::Closed);
    let Step::End(items, Ending::Discard(EndReason::DestinationDeleted)) = lane.step(after(10)) else {
        panic!("discard")
    };
    assert_eq!(items.len(), 2);
    assert_eq!(lane.step(after(10)), Step::Load(Wanted::Fresh(Some(keys[1]), 2)));
    lane.loaded_fresh(Page { rows: vec![item(keys[2], Guarantee::AtLeastOnce)], more: false });
    assert!(matches!(lane.step(after(10)), Step::End(items, _) if items.len() == 1));
    lane.settled(&keys);
    assert!(lane.is_idle(after(20)));
}

#[test]
fn a_best_effort_delivery_that_finds_the_window_full_is_put_on_record() {
    let mut lane = lane(|p| p.guarantee = Guarantee::BestEffort, 1);
    let keys = keys(2);
    for key in &keys {
        lane.accepted(item(*key, Guarantee::BestEffort));
    }
    let Step::End(items, Ending::Discard(EndReason::WindowFull)) = lane.step(after(10)) else {
        panic!("discard")
    };
    assert_eq!(items[0].key, keys[1]);
}

#[test]
fn at_a_stop_only_what_is_in_memory_alone_is_sent_and_at_once() {
    let mut lane = lane(|_| {}, 10);
    let keys = keys(2);
    lane.accepted(item(keys[0], Guarantee::AtLeastOnce));
    lane.accepted(item(keys[1], Guarantee::BestEffort));
    lane.set_hold(Hold::Flushing);
    let items = attempt_items(lane.step(after(10)));
    assert_eq!(items[0].key, keys[1]);
    lane.finished(items.into_iter().map(|item| (item, Some(after(60_000)))).collect(), FAILED);
    assert_eq!(attempt_keys(lane.step(after(11))), &keys[1..]);
    assert!(!lane.must_flush());
}

#[test]
fn a_stop_starts_no_retry_that_is_kept_in_the_store_also_of_an_ordered_lane() {
    let mut lane = lane(|p| p.ordered = true, 10);
    lane.accepted(item(keys(1)[0], Guarantee::AtLeastOnce));
    let items = attempt_items(lane.step(after(10)));
    lane.finished(items.into_iter().map(|item| (item, Some(after(60_000)))).collect(), FAILED);
    lane.set_hold(Hold::Flushing);
    assert_eq!(lane.step(after(11)), Step::Idle);
    assert_eq!(lane.step(after(70_000)), Step::Idle);
}

#[test]
fn a_cancelled_delivery_is_not_attempted_any_more() {
    let mut lane = lane(|_| {}, 10);
    let keys = keys(2);
    lane.accepted(item(keys[0], Guarantee::AtLeastOnce));
    lane.requeued(entry(keys[1], after(5)));
    lane.ended(keys[0]);
    lane.ended(keys[1]);
    assert_eq!(lane.step(after(10)), Step::Idle);
    assert!(lane.is_idle(after(20)));
}

#[test]
fn a_delivery_that_is_cancelled_during_an_attempt_is_not_tried_again() {
    let mut lane = lane(|_| {}, 10);
    let key = keys(1)[0];
    lane.accepted(item(key, Guarantee::AtLeastOnce));
    let items = attempt_items(lane.step(after(10)));
    lane.ended(key);
    lane.finished(items.into_iter().map(|item| (item, Some(after(20)))).collect(), FAILED);
    lane.settled(&[key]);
    assert_eq!(lane.step(after(30)), Step::Idle);
    assert!(lane.is_idle(after(1_000_000)));
}

#[test]
fn a_delivery_that_is_cancelled_while_a_page_with_it_is_read_is_not_attempted() {
    let mut lane = Lane::new(Arc::new(policy()), Hold::Open, 10, true, PROVEN);
    let keys = keys(2);
    assert_eq!(lane.step(after(10)), Step::Load(Wanted::Due(None, 10)));
    assert_eq!(lane.step(after(10)), Step::Load(Wanted::Fresh(None, 10)));
    lane.ended(keys[0]);
    lane.ended(keys[1]);
    lane.loaded_due(Page { rows: vec![entry(keys[0], after(5))], more: false });
    lane.loaded_fresh(Page { rows: vec![item(keys[1], Guarantee::AtLeastOnce)], more: false });
    assert_eq!(lane.step(after(10)), Step::Idle);
    assert!(lane.is_idle(after(1_000_000)));
}

#[test]
fn a_resend_that_comes_during_an_attempt_counts_if_the_attempt_fails_and_only_then() {
    for success in [false, true] {
        let mut lane = lane(|_| {}, 10);
        let key = keys(1)[0];
        lane.accepted(item(key, Guarantee::AtLeastOnce));
        let items = attempt_items(lane.step(after(10)));
        lane.requeued(entry(key, after(11)));
        let again = (!success).then(|| after(60_000));
        let ended = items.into_iter().map(|item| (item, again)).collect();
        let request = if success { OK } else { FAILED };
        lane.finished(ended, request.map(|request| Ended { at: after(11), ..request }));
        match lane.step(after(12)) {
            Step::Attempt(items) => assert!(!success && items[0].cycle.cause == CycleCause::Resend),
            Step::Idle => assert!(success),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn first_attempts_go_first_and_every_fourth_is_a_retry() {
    let mut lane = lane(|p| p.max_concurrency = 64, 100);
    let keys = keys(8);
    for key in &keys[..4] {
        lane.requeued(entry(*key, after(0)));
    }
    for key in &keys[4..] {
        lane.accepted(item(*key, Guarantee::AtLeastOnce));
    }
    let mut order = Vec::new();
    for _ in 0..4 {
        let items = attempt_items(lane.step(after(100)));
        order.extend(items.iter().map(|item| item.key));
        lane.finished(items.into_iter().map(|item| (item, None)).collect(), OK);
    }
    assert_eq!(order, [keys[4], keys[5], keys[6], keys[0]]);
}

#[test]
fn a_delivery_that_is_cancelled_beyond_the_window_does_not_make_the_lane_read_for_ever() {
    let mut lane = lane(|_| {}, 1);
    let keys = keys(2);
    for key in &keys {
        lane.accepted(item(*key, Guarantee::AtLeastOnce));
    }
    let items = attempt_items(lane.step(after(10)));
    lane.ended(keys[1]);
    assert_eq!(lane.step(after(10)), Step::Load(Wanted::Fresh(Some(keys[0]), 1)));
    lane.loaded_fresh(Page { rows: Vec::new(), more: false });
    assert_eq!(lane.step(after(10)), Step::Idle);
    lane.finished(items.into_iter().map(|item| (item, None)).collect(), OK);
    lane.settled(&keys[..1]);
    assert!(lane.is_idle(after(1_000_000)));
}

#[test]
fn a_store_that_cannot_be_read_is_asked_again_after_a_pause_whatever_the_hold() {
    let retry_at = after(510);
    for hold in [Hold::Open, Hold::Held, Hold::Closed] {
        let policy = EffectivePolicy { discard_after: Some(Duration::from_secs(300)), ..policy() };
        let mut lane = Lane::new(Arc::new(policy), hold, 10, true, PROVEN);
        assert_eq!(lane.step(after(10)), Step::Load(Wanted::Due(None, 10)), "{hold:?}");
        assert_eq!(lane.step(after(10)), Step::Load(Wanted::Fresh(None, 10)), "{hold:?}");
        lane.load_due_failed(retry_at);
        assert_eq!(lane.step(after(11)), Step::WaitUntil(retry_at), "{hold:?}");
        // The page that is still being read is not asked for twice.
        assert_eq!(lane.step(retry_at), Step::Load(Wanted::Due(None, 10)), "{hold:?}");
        assert_eq!(lane.step(retry_at), Step::Idle, "{hold:?}");
    }
}

#[test]
fn an_ordered_lane_sends_nothing_before_its_due_deliveries_could_be_read() {
    let policy = EffectivePolicy { ordered: true, ..policy() };
    let mut lane = Lane::new(Arc::new(policy), Hold::Open, 10, true, PROVEN);
    let keys = keys(2);
    assert_eq!(lane.step(after(10)), Step::Load(Wanted::Due(None, 10)));
    assert_eq!(lane.step(after(10)), Step::Load(Wanted::Fresh(None, 10)));
    lane.load_due_failed(after(510));
    lane.loaded_fresh(Page { rows: vec![item(keys[1], Guarantee::AtLeastOnce)], more: false });
    assert_eq!(lane.step(after(11)), Step::WaitUntil(after(510)));
    assert_eq!(lane.step(after(510)), Step::Load(Wanted::Due(None, 10)));
    lane.loaded_due(Page { rows: vec![entry(keys[0], after(5))], more: false });
    assert_eq!(attempt_keys(lane.step(after(511))), &keys[..1]);
}

#[test]
fn a_clock_that_is_set_back_holds_a_lane_for_no_longer_than_its_throttle() {
    for (throttle, start) in [(0, 10), (1000, 1010)] {
        let mut lane = lane(|p| p.throttle = Duration::from_millis(throttle), 10);
        let keys = keys(2);
        for key in &keys {
            lane.accepted(item(*key, Guarantee::AtLeastOnce));
        }
        assert_eq!(attempt_keys(lane.step(after(3_600_000))), &keys[..1]);
        if throttle > 0 {
            assert_eq!(lane.step(after(10)), Step::WaitUntil(after(start)));
        }
        assert_eq!(attempt_keys(lane.step(after(start))), &keys[1..]);
    }
}

#[test]
fn resends_that_overflow_the_window_while_the_backlog_is_read_are_not_lost() {
    let mut lane = Lane::new(Arc::new(policy()), Hold::Open, 1, true, PROVEN);
    let keys = keys(2);
    assert_eq!(lane.step(after(10)), Step::Load(Wanted::Due(None, 1)));
    assert_eq!(lane.step(after(10)), Step::Load(Wanted::Fresh(None, 1)));
    lane.requeued(entry(keys[0], after(10)));
    lane.requeued(entry(keys[1], after(11)));
    // The pages were read before the resends were stored.
    lane.loaded_due(Page { rows: Vec::new(), more: false });
    lane.loaded_fresh(Page { rows: Vec::new(), more: false });
    assert_eq!(attempt_keys(lane.step(after(20))), &keys[..1]);
    assert!(matches!(lane.step(after(20)), Step::Load(Wanted::Due(..))));
    lane.loaded_due(Page { rows: vec![entry(keys[0], after(10)), entry(keys[1], after(11))], more: false });
    assert_eq!(attempt_keys(lane.step(after(20))), &keys[1..]);
}

#[test]
fn what_was_put_back_is_not_dropped_for_the_store_has_it_in_another_place() {
    let mut lane = lane(|_| {}, 1);
    let keys = keys(2);
    lane.requeued(entry(keys[0], after(5)));
    let items = attempt_items(lane.step(after(10)));
    lane.put_back(items, after(510));
    lane.requeued(entry(keys[1], after(20)));
    assert_eq!(attempt_keys(lane.step(after(510))), &keys[1..]);
    assert_eq!(attempt_keys(lane.step(after(510))), &keys[..1]);
}

// === A model: the lane against a store that answers late, in any order ===

#[derive(Default)]
struct ModelStore {
    fresh: BTreeMap<EventKey, Item>,
    due: BTreeMap<(Timestamp, EventKey), DueEntry>,
}

impl ModelStore {
    fn fresh_page(&self, after: Option<EventKey>, limit: usize) -> Page<Item> {
        let later = self.fresh.iter().filter(|(key, _)| after.is_none_or(|a| **key > a));
        let mut rows: Vec<_> = later.take(limit + 1).map(|(_, item)| item.clone()).collect();
        let more = rows.len() > limit;
        rows.truncate(limit);
        Page { rows, more }
    }

    fn due_page(&self, after: Option<(Timestamp, EventKey)>, limit: usize) -> Page<DueEntry> {
        let later = self.due.iter().filter(|(at, _)| after.is_none_or(|a| **at > a));
        let mut rows: Vec<_> = later.take(limit + 1).map(|(_, entry)| *entry).collect();
        let more = rows.len() > limit;
        rows.truncate(limit);
        Page { rows, more }
    }
}

/// An outcome on its way to the store.
struct ModelSettlement {
    item: Item,
    again: Option<Timestamp>,
}

struct Model {
    lane: Lane,
    store: ModelStore,
    random: fastrand::Rng,
    now: Timestamp,
    last_key: EventKey,
    accepted: usize,
    /// Committed, but the lane has not been told yet.
    announced: VecDeque<EventKey>,
    flying: Vec<Item>,
    unsettled: Vec<ModelSettlement>,
    settled_untold: Vec<EventKey>,
    fresh_pages: Vec<Page<Item>>,
    due_pages: Vec<Page<DueEntry>>,
    due_times: HashMap<EventKey, Timestamp>,
    succeeded: HashSet<EventKey>,
    /// The receiver fails everything until this moment.
    outage_until: Timestamp,
    /// Attempts that were made, by the model's own count.
    attempts: HashMap<EventKey, u32>,
}

impl Model {
    fn new(seed: u64, window: usize) -> Self {
        Self {
            lane: {
                let policy = Arc::new(EffectivePolicy { max_concurrency: 5, ..policy() });
                let past = Past { opens_after: 3, failures: 0, proven: false, last_request_at: None };
                Lane::new(policy, Hold::Open, window, false, past)
            },
            store: ModelStore::default(),
            random: fastrand::Rng::with_seed(seed),
            now: START,
            last_key: EventKey::MIN,
            accepted: 0,
            announced: VecDeque::new(),
            flying: Vec::new(),
            unsettled: Vec::new(),
            settled_untold: Vec::new(),
            fresh_pages: Vec::new(),
            due_pages: Vec::new(),
            due_times: HashMap::new(),
            succeeded: HashSet::new(),
            outage_until: START,
            attempts: HashMap::new(),
        }
    }

    fn act(&mut self, may_accept: bool) {
        self.now = self.now + Duration::from_millis(self.random.u64(0..4));
        if may_accept && self.random.u8(0..60) == 0 {
            self.outage_until = self.now + Duration::from_millis(self.random.u64(1..20_000));
        }
        match self.random.u8(0..8) {
            0 | 1 if may_accept => self.commit(),
            2 => self.announce(),
            3 => self.finish_one(),
            4 => self.settle_some(),
            5 => self.tell_settled(),
            6 => self.deliver_pages(),
            _ => self.step(),
        }
    }

    fn commit(&mut self) {
        for _ in 0..self.random.u8(1..6) {
            self.last_key = self.last_key.next(self.now, self.random.u64(..));
            self.store.fresh.insert(self.last_key, item(self.last_key, Guarantee::AtLeastOnce));
            self.announced.push_back(self.last_key);
            self.accepted += 1;
        }
    }

    fn announce(&mut self) {
        for _ in 0..self.random.usize(0..=self.announced.len()) {
            let Some(key) = self.announced.pop_front() else { return };
            if self.random.u8(0..10) == 0 {
                self.lane.missed(key);
            } else {
                self.lane.accepted(item(key, Guarantee::AtLeastOnce));
            }
        }
    }

    fn finish_one(&mut self) {
        if self.flying.is_empty() {
            return;
        }
        let mut item = self.flying.swap_remove(self.random.usize(0..self.flying.len()));
        let fails = self.now < self.outage_until || self.random.u8(0..3) == 0;
        let again = fails.then(|| self.now + Duration::from_millis(self.random.u64(1..200)));
        item.attempt_count += 1;
        if let Some(due) = again {
            self.due_times.insert(item.key, due);
        } else {
            assert!(self.succeeded.insert(item.key), "{:?} was delivered twice", item.key);
        }
        self.unsettled.push(ModelSettlement { item: item.clone(), again });
        let took = Duration::from_millis(self.random.u64(0..2000));
        let ended = Ended { success: !fails, took, at: self.now, draw: self.random.f64() };
        self.lane.finished(vec![(item, again)], Some(ended));
    }

    /// The store records some outcomes; the lane is told later.
    fn settle_some(&mut self) {
        for ModelSettlement { item, again } in self.unsettled.drain(..) {
            match item.stage {
                Stage::Fresh => drop(self.store.fresh.remove(&item.key)),
                Stage::Due(due) => drop(self.store.due.remove(&(due, item.key))),
                Stage::InMemory => {}
            }
            if let Some(due) = again {
                self.store.due.insert((due, item.key), entry(item.key, due));
            }
            self.settled_untold.push(item.key);
        }
    }

    fn tell_settled(&mut self) {
        self.lane.settled(&std::mem::take(&mut self.settled_untold));
    }

    fn deliver_pages(&mut self) {
        if let Some(page) = self.fresh_pages.pop() {
            self.lane.loaded_fresh(page);
        }
        if let Some(page) = self.due_pages.pop() {
            self.lane.loaded_due(page);
        }
    }

    fn step(&mut self) {
        match self.lane.step(self.now) {
            Step::Attempt(items) => {
                let is_open = self.lane.status().circuit == CircuitState::Open;
                assert!(!is_open || self.flying.is_empty(), "an open circuit has one request at a time");
                for item in &items {
                    let made = self.attempts.entry(item.key).or_default();
                    assert!(item.attempt_count <= *made, "{:?} was charged what it did not make", item.key);
                    *made += 1;
                    assert!(!self.succeeded.contains(&item.key), "{:?} is sent after its success", item.key);
                    let in_flight_already = self.flying.iter().any(|other| other.key == item.key);
                    assert!(!in_flight_already, "{:?} is in flight twice", item.key);
                    let due = self.due_times.get(&item.key).copied().unwrap_or(START);
                    assert!(due <= self.now, "{:?} is sent too early", item.key);
                }
                self.flying.extend(items);
            }
            Step::Load(Wanted::Fresh(after, limit)) => {
                self.fresh_pages.push(self.store.fresh_page(after, limit))
            }
            Step::Load(Wanted::Due(after, limit)) => self.due_pages.push(self.store.due_page(after, limit)),
            Step::WaitUntil(moment) if self.flying.is_empty() && self.unsettled.is_empty() => {
                assert!(moment > self.now, "a wait for what is past would turn in circles");
                self.now = moment;
            }
            Step::WaitUntil(_) | Step::Idle => {}
            Step::End(items, reason) => panic!("{items:?} were ended: {reason:?}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn whatever_the_interleaving_every_delivery_succeeds_once_and_none_is_early(
        seed in any::<u64>(), window in 1_usize..12
    ) {
        let mut model = Model::new(seed, window); // proptest prints the seed of a failure
        for _ in 0..400 {
            model.act(true);
            prop_assert!(model.lane.status().waiting_in_memory as usize <= 3 * window + 8, "the window is not kept");
        }
        let mut patience = 200_000;
        while model.succeeded.len() < model.accepted {
            model.act(false);
            patience -= 1;
            prop_assert!(patience > 0, "{} of {} were lost", model.accepted - model.succeeded.len(), model.accepted);
        }
    }
}

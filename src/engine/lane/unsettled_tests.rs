//! Lanes while outcomes are on their way to the store: what callers do in that time, and what an ordered lane does.

use super::tests::{entry, item, keys, policy};
use super::*;
use crate::domain::settings::Guarantee;
use crate::engine::window::Position;
use std::time::Duration;

const PAST: Past = Past { opens_after: 1000, failures: 0, proven: true, last_request_at: None };

fn after(millis: u64) -> Timestamp {
    super::tests::after(millis)
}

fn lane(change: impl FnOnce(&mut EffectivePolicy), window: usize, backlog: bool) -> Lane {
    let mut policy = policy();
    change(&mut policy);
    Lane::new(Arc::new(policy), Hold::Open, window, backlog, PAST)
}

fn attempt(step: Step) -> Vec<Item> {
    match step {
        Step::Attempt(items) => items,
        other => panic!("an attempt was expected, not {other:?}"),
    }
}

/// The request of these has failed; each waits until then.
fn fail(lane: &mut Lane, items: Vec<Item>, at: Timestamp, again: Timestamp) {
    let ended = Ended { success: false, took: Duration::from_millis(1), at, draw: 0.0 };
    let items = items.into_iter().map(|mut item| {
        item.attempt_count += 1;
        (item, Some(again))
    });
    lane.finished(items.collect(), Some(ended));
}

fn due_page(rows: Vec<DueEntry>, more: bool) -> Page<DueEntry> {
    Page { rows, more }
}

#[test]
fn a_resend_before_the_outcome_is_stored_counts_on_from_the_attempt_that_the_store_does_not_know_of() {
    for guarantee in [Guarantee::AtLeastOnce, Guarantee::BestEffort] {
        let mut lane = lane(|_| {}, 10, false);
        let key = keys(1)[0];
        lane.accepted(item(key, guarantee));
        let items = attempt(lane.step(after(10)));
        fail(&mut lane, items, after(20), after(60_000));
        lane.requeued(DueEntry { attempt_count: 0, ..entry(key, after(30)) });
        assert_eq!(attempt(lane.step(after(30)))[0].attempt_count, 1, "{guarantee:?}");
    }
}

#[test]
fn a_resend_after_a_success_whose_end_is_not_known_yet_is_made() {
    let mut lane = lane(|_| {}, 10, false);
    let key = keys(1)[0];
    lane.accepted(item(key, Guarantee::AtLeastOnce));
    let items = attempt(lane.step(after(10)));
    // Its news is here before that of the answer.
    lane.requeued(entry(key, after(30)));
    let ended = Ended { success: true, took: Duration::from_millis(1), at: after(20), draw: 0.0 };
    lane.finished(items.into_iter().map(|item| (item, None)).collect(), Some(ended));
    assert_eq!(attempt(lane.step(after(31)))[0].cycle.cause, CycleCause::Resend);
}

#[test]
fn a_batch_of_an_ordered_lane_takes_no_first_attempt_while_the_store_has_retries_beyond_the_window() {
    let batches = |policy: &mut EffectivePolicy| (policy.ordered, policy.max_batch_events) = (true, 10);
    let mut lane = lane(batches, 1, true);
    let keys = keys(3);
    assert_eq!(lane.step(after(10)), Step::Load(Wanted::Due(None, 1)));
    lane.loaded_due(due_page(vec![entry(keys[0], after(5))], true));
    assert_eq!(lane.step(after(10)), Step::Load(Wanted::Fresh(None, 1)));
    lane.loaded_fresh(Page { rows: vec![item(keys[2], Guarantee::AtLeastOnce)], more: false });
    let items = attempt(lane.step(after(10)));
    assert_eq!(items.iter().map(|item| item.key).collect::<Vec<_>>(), &keys[..1]);
    let horizon: Position = (after(5), keys[0]);
    assert_eq!(lane.step(after(10)), Step::Load(Wanted::Due(Some(horizon), 1)));
}

#[test]
fn a_retry_of_an_ordered_lane_whose_outcome_is_not_stored_when_the_store_has_no_more_is_not_overtaken() {
    let mut lane = lane(|policy| policy.ordered = true, 1, true);
    let keys = keys(2);
    assert_eq!(lane.step(after(10)), Step::Load(Wanted::Due(None, 1)));
    lane.loaded_due(due_page(vec![entry(keys[0], after(5))], true));
    assert_eq!(lane.step(after(10)), Step::Load(Wanted::Fresh(None, 1)));
    lane.loaded_fresh(Page { rows: vec![item(keys[1], Guarantee::AtLeastOnce)], more: false });
    let items = attempt(lane.step(after(10)));
    assert!(matches!(lane.step(after(10)), Step::Load(Wanted::Due(Some(_), 1))));
    // It waits for later than all that was read, and its outcome is still on its way when there is no more to read.
    fail(&mut lane, items, after(12), after(5000));
    lane.loaded_due(due_page(Vec::new(), false));
    assert_eq!(lane.step(after(12)), Step::WaitUntil(after(5000)));
    assert_eq!(attempt(lane.step(after(5000)))[0].key, keys[0]);
}

#[test]
fn what_is_left_out_of_a_smaller_batch_that_fails_again_does_not_overtake_it() {
    let mut lane = lane(|policy| (policy.ordered, policy.max_batch_events) = (true, 3), 10, false);
    let keys = keys(3);
    for key in &keys {
        lane.accepted(item(*key, Guarantee::AtLeastOnce));
    }
    let items = attempt(lane.step(after(10)));
    fail(&mut lane, items, after(20), after(1000));
    let smaller = EffectivePolicy { ordered: true, max_batch_events: 2, ..policy() };
    lane.configure(Arc::new(smaller), Hold::Open, after(30));
    let items = attempt(lane.step(after(1000)));
    assert_eq!(items.iter().map(|item| item.key).collect::<Vec<_>>(), &keys[..2]);
    fail(&mut lane, items, after(1010), after(9000));
    // The third one is due since a while.
    assert_eq!(lane.step(after(1011)), Step::WaitUntil(after(9000)));
    assert_eq!(lane.next_attempt_at(), Some(after(9000)));
    let items = attempt(lane.step(after(9000)));
    assert_eq!(items.iter().map(|item| item.key).collect::<Vec<_>>(), &keys[..2]);
}

//! The lane and its circuit: what is held, what passes, and what never changes.

use std::time::Duration;

use super::tests::*;
use super::*;
use crate::domain::delivery::EndReason;
use crate::domain::settings::Guarantee;
use crate::policy::breaker::PROBE_FIRST;
use crate::policy::standing::Standing;

/// Opens after three failures in a row.
const OPENS_AFTER: u32 = 3;

fn failed(at: Timestamp) -> Option<Ended> {
    Some(Ended { success: false, took: Duration::from_millis(1), at, draw: 0.0 })
}

fn succeeded(at: Timestamp) -> Option<Ended> {
    Some(Ended { success: true, took: Duration::from_millis(1), at, draw: 0.0 })
}

fn narrow(change: impl FnOnce(&mut EffectivePolicy)) -> Lane {
    let mut policy = policy();
    change(&mut policy);
    let past = Past { opens_after: OPENS_AFTER, failures: 0, proven: true, last_request_at: None };
    Lane::new(Arc::new(policy), Hold::Open, 100, false, past)
}

fn one(step: Step) -> Item {
    let mut items = attempt_items(step);
    assert_eq!(items.len(), 1);
    items.remove(0)
}

/// A lane of so many deliveries, of which the first three have failed at `after(100)`, to be retried in an
/// hour; the circuit is open, and the first probe is due at `after(5100)`.
fn opened(count: u64) -> (Lane, Vec<EventKey>) {
    let mut lane = narrow(|_| {});
    let keys = keys(count);
    for key in &keys {
        lane.accepted(item(*key, Guarantee::AtLeastOnce));
    }
    for _ in 0..OPENS_AFTER {
        let item = one(lane.step(after(100)));
        lane.finished(vec![(item, Some(after(3_600_000)))], failed(after(100)));
    }
    assert_eq!(lane.status().circuit, CircuitState::Open);
    (lane, keys)
}

#[test]
fn an_open_circuit_holds_deliveries_until_the_probe_and_their_attempts_stay_as_they_are() {
    let (mut lane, keys) = opened(6);
    let probe_at = after(100) + PROBE_FIRST;
    assert_eq!(lane.status().next_probe_at, Some(probe_at));
    assert_eq!(lane.step(after(101)), Step::WaitUntil(probe_at));
    let probe = one(lane.step(probe_at));
    assert_eq!((probe.key, probe.attempt_count), (keys[3], 0), "the oldest that was never attempted");
    assert_eq!(lane.step(probe_at), Step::Idle, "one probe at a time");
    lane.finished(vec![(probe, Some(after(3_600_000)))], failed(probe_at));
    assert_eq!(lane.step(probe_at), Step::WaitUntil(probe_at + PROBE_FIRST * 2));
    assert_eq!(lane.standing(probe_at), Standing::Failing);
}

#[test]
fn a_probe_that_succeeds_sends_slowly_at_first_and_then_as_ever() {
    let (mut lane, _) = opened(60);
    let now = after(100) + PROBE_FIRST;
    let probe = one(lane.step(now));
    lane.finished(vec![(probe, None)], succeeded(now));
    assert_eq!((lane.status().circuit, lane.status().next_probe_at), (CircuitState::HalfOpen, None));
    let mut widths = Vec::new();
    for _ in 0..12 {
        let mut flying = Vec::new();
        while let Step::Attempt(items) = lane.step(now) {
            flying.extend(items);
        }
        widths.push(flying.len());
        for item in flying {
            lane.finished(vec![(item, None)], succeeded(now));
        }
    }
    assert_eq!(&widths[..2], [2, 2]);
    assert_eq!(widths.iter().max(), Some(&4));
    assert_eq!((lane.status().circuit, lane.status().concurrency), (CircuitState::Closed, 4));
}

#[test]
fn a_failure_after_the_probe_opens_the_circuit_again_at_once() {
    let (mut lane, _) = opened(10);
    let now = after(100) + PROBE_FIRST;
    let probe = one(lane.step(now));
    lane.finished(vec![(probe, None)], succeeded(now));
    let item = one(lane.step(now));
    lane.finished(vec![(item, Some(after(3_600_000)))], failed(now));
    assert_eq!(lane.status().circuit, CircuitState::Open);
    assert_eq!(lane.step(now), Step::WaitUntil(now + PROBE_FIRST * 2));
}

#[test]
fn a_delivery_that_is_alone_is_retried_on_its_schedule_whatever_the_circuit_says() {
    let mut lane = narrow(|_| {});
    lane.accepted(item(keys(1)[0], Guarantee::AtLeastOnce));
    let mut due = after(10);
    for retry in 1..20 {
        let item = one(lane.step(due));
        let next = due + Duration::from_secs(retry % 4 + 1);
        lane.finished(vec![(item, Some(next))], failed(due));
        assert_eq!(lane.step(due), Step::WaitUntil(next), "retry {retry}");
        due = next;
    }
    assert_eq!(lane.status().circuit, CircuitState::Open);
}

#[test]
fn only_the_scout_passes_and_other_retries_that_are_due_wait_for_the_probe() {
    let mut lane = narrow(|_| {});
    let keys = keys(3);
    for key in &keys {
        lane.accepted(item(*key, Guarantee::AtLeastOnce));
    }
    for _ in 0..OPENS_AFTER {
        let item = one(lane.step(after(100)));
        lane.finished(vec![(item, Some(after(1100)))], failed(after(100)));
    }
    // All three are due; the last one opened the circuit.
    let scout = one(lane.step(after(1100)));
    assert_eq!(scout.key, keys[2]);
    lane.finished(vec![(scout, None)], failed(after(1100)));
    let probe_at = after(100) + PROBE_FIRST;
    assert_eq!(lane.step(after(1100)), Step::WaitUntil(probe_at), "the scout's failure puts nothing off");
    assert_eq!(one(lane.step(probe_at)).key, keys[0]);
}

#[test]
fn an_ordered_lane_goes_on_with_its_retries_and_holds_the_rest() {
    let mut lane = narrow(|p| p.ordered = true);
    let keys = keys(2);
    for key in &keys {
        lane.accepted(item(*key, Guarantee::AtLeastOnce));
    }
    let mut now = after(10);
    for _ in 0..6 {
        let item = one(lane.step(now));
        assert_eq!(item.key, keys[0]);
        lane.finished(vec![(item, Some(now + Duration::from_secs(1)))], failed(now));
        now = now + Duration::from_secs(1);
    }
    let item = one(lane.step(now));
    lane.finished(vec![(item, None)], failed(now));
    let Step::WaitUntil(probe_at) = lane.step(now) else { panic!("the next delivery is held") };
    assert!(probe_at > now);
    assert_eq!(one(lane.step(probe_at)).key, keys[1]);
}

#[test]
fn what_is_held_grows_too_old_as_ever() {
    let mut lane = narrow(|p| p.discard_after = Some(Duration::from_secs(2)));
    for key in keys(4) {
        lane.accepted(item(key, Guarantee::AtLeastOnce));
    }
    for _ in 0..OPENS_AFTER {
        let item = one(lane.step(after(100)));
        lane.finished(vec![(item, None)], failed(after(100)));
    }
    assert_eq!(lane.step(after(100)), Step::WaitUntil(after(2003)));
    assert!(
        matches!(lane.step(after(2003)), Step::End(items, Ending::Discard(EndReason::TooOld)) if items.len() == 1)
    );
}

#[test]
fn a_resend_and_a_change_of_the_destination_are_tried_at_once() {
    let (mut lane, keys) = opened(6);
    lane.requeued(entry(keys[1], after(200)));
    let resent = one(lane.step(after(200)));
    assert_eq!(resent.key, keys[1]);
    lane.finished(vec![(resent, None)], failed(after(200)));
    assert!(matches!(lane.step(after(200)), Step::WaitUntil(_)));
    lane.configure(Arc::clone(lane.policy()), Hold::Open, after(300));
    assert_eq!(one(lane.step(after(300))).key, keys[3]);
}

#[test]
fn a_stop_flushes_past_an_open_circuit() {
    let (mut lane, _) = opened(3);
    let key = keys(9)[8];
    lane.accepted(item(key, Guarantee::BestEffort));
    lane.set_hold(Hold::Flushing);
    assert_eq!(one(lane.step(after(200))).key, key);
}

#[test]
fn an_open_circuit_is_remembered_until_its_probe_and_then_forgotten() {
    let mut lane = narrow(|_| {});
    let keys = keys(3);
    for key in &keys {
        lane.accepted(item(*key, Guarantee::AtLeastOnce));
    }
    for _ in 0..OPENS_AFTER {
        let item = one(lane.step(after(100)));
        lane.finished(vec![(item, None)], failed(after(100)));
    }
    lane.settled(&keys);
    let probe_at = after(100) + PROBE_FIRST;
    assert_eq!((lane.is_idle(after(101)), lane.step(after(101))), (false, Step::WaitUntil(probe_at)));
    assert_eq!((lane.is_idle(probe_at), lane.step(probe_at)), (true, Step::Idle));
    lane.set_hold(Hold::Closed);
    assert!(lane.is_idle(after(101)), "a deleted destination needs no circuit");
}

#[test]
fn the_next_attempt_is_told_as_the_circuit_has_it() {
    let (lane, _) = opened(6);
    assert_eq!(lane.next_attempt_at(), lane.status().next_probe_at);
    let (lane, _) = opened(3);
    assert_eq!(lane.next_attempt_at(), Some(after(3_600_000)));
}

#[test]
fn a_lane_that_was_prompt_and_does_not_answer_any_more_is_slow() {
    let mut lane = narrow(|_| {});
    for key in keys(2) {
        lane.accepted(item(key, Guarantee::AtLeastOnce));
    }
    let item = one(lane.step(after(10)));
    assert_eq!(lane.standing(after(1000)), Standing::Prompt);
    assert_eq!(lane.standing(after(1011)), Standing::Slow);
    lane.finished(vec![(item, None)], succeeded(after(1012)));
    assert_eq!(lane.standing(after(9000)), Standing::Prompt);
}

/// A lossy lane with an open circuit, whose failed deliveries have ended, and the keys of what still waits.
fn opened_lossy(count: u64, change: impl FnOnce(&mut EffectivePolicy)) -> (Lane, Vec<EventKey>) {
    let mut lane = narrow(|policy| {
        policy.lossy = true;
        change(policy);
    });
    let keys = keys(count);
    for key in &keys {
        lane.accepted(item(*key, Guarantee::AtLeastOnce));
    }
    for _ in 0..OPENS_AFTER {
        let item = one(lane.step(after(100)));
        lane.finished(vec![(item, None)], failed(after(100)));
    }
    assert_eq!(lane.status().circuit, CircuitState::Open);
    (lane, keys[3..].to_vec())
}

fn dropped(step: Step) -> Vec<EventKey> {
    match step {
        Step::End(items, Ending::Discard(EndReason::Lossy)) => items.iter().map(|item| item.key).collect(),
        other => panic!("a drop was expected, not {other:?}"),
    }
}

#[test]
fn a_lossy_lane_drops_what_waits_behind_an_open_circuit_and_probes_with_the_newest() {
    for ordered in [false, true] {
        let (mut lane, waiting) = opened_lossy(7, |policy| policy.ordered = ordered);
        let probe_at = after(100) + PROBE_FIRST;
        assert_eq!(dropped(lane.step(after(101))), waiting[..3]);
        assert_eq!(lane.step(after(101)), Step::WaitUntil(probe_at));
        let newer = EventKey::lower_bound(after(200));
        lane.accepted(item(newer, Guarantee::BestEffort));
        assert_eq!(dropped(lane.step(after(200))), waiting[3..]);
        let probe = one(lane.step(probe_at));
        assert_eq!(probe.key, newer);
        // While the probe is under way, nobody knows yet: the newest waits for what comes of it.
        let later = [300, 301].map(|millis| EventKey::lower_bound(after(millis)));
        for key in later {
            lane.accepted(item(key, Guarantee::AtLeastOnce));
        }
        assert_eq!(dropped(lane.step(probe_at)), later[..1]);
        lane.finished(vec![(probe, None)], succeeded(probe_at));
        assert_eq!(one(lane.step(probe_at)).key, later[1]);
    }
}

#[test]
fn a_lossy_lane_that_has_recovered_drops_nothing_any_more() {
    let (mut lane, _) = opened_lossy(4, |_| {});
    let now = after(100) + PROBE_FIRST;
    let probe = one(lane.step(now));
    lane.finished(vec![(probe, None)], succeeded(now));
    let new: Vec<EventKey> = (6000..6005).map(|millis| EventKey::lower_bound(after(millis))).collect();
    for key in &new {
        lane.accepted(item(*key, Guarantee::AtLeastOnce));
    }
    for key in new {
        let item = one(lane.step(after(6010)));
        assert_eq!(item.key, key);
        lane.finished(vec![(item, None)], succeeded(after(6010)));
    }
}

#[test]
fn a_resend_is_tried_before_a_lossy_lane_drops_it() {
    let (mut lane, waiting) = opened_lossy(5, |_| {});
    let resent = keys(1)[0];
    lane.requeued(entry(resent, after(200)));
    assert_eq!(dropped(lane.step(after(200))), waiting);
    assert_eq!(one(lane.step(after(200))).key, resent);
}

#[test]
fn a_lossy_lane_drops_what_is_in_the_store_as_it_reads_on() {
    let (mut lane, waiting) = opened_lossy(5, |_| {});
    let missed = EventKey::lower_bound(after(150));
    lane.missed(missed);
    assert_eq!(dropped(lane.step(after(160))), waiting[..1]);
    assert!(matches!(lane.step(after(160)), Step::Load(Wanted::Fresh(..))));
    let rows = vec![item(missed, Guarantee::AtLeastOnce)];
    lane.loaded_fresh(Page { rows, more: false });
    assert_eq!(dropped(lane.step(after(160))), waiting[1..]);
}

#[test]
fn a_lossy_lane_that_is_paused_or_stops_keeps_what_waits() {
    for hold in [Hold::Held, Hold::Flushing] {
        let (mut lane, _) = opened_lossy(7, |_| {});
        lane.set_hold(hold);
        assert_eq!(lane.step(after(200)), Step::Idle, "{hold:?}");
    }
}

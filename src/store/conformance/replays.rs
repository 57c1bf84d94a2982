//! Promises about replays.

use super::*;
use crate::domain::id::ReplayId;
use crate::domain::replay::{Replay, ReplayKind, ReplayScope, ReplayState, ReplayStateKind};
use crate::store::{CoverPage, CoverQuery, ReplayAction, ReplayQuery, ReplayStep};

pub fn scope(kind: ReplayKind, destination: Option<u8>) -> ReplayScope {
    let destination_id = destination.map(destination_id);
    ReplayScope { kind, destination_id, event_types: Vec::new(), event_key: None, from: None, until: None }
}

pub fn replay(number: u8, scope: ReplayScope) -> Replay {
    Replay {
        id: ReplayId::from_bytes([number; 16]),
        organization_id: organization_id(),
        scope,
        per_second: 100,
        started_by: "somebody".into(),
        created_at: at(1000),
        state: ReplayState::Sending { after: None },
        total: 0,
        replayed: 0,
        succeeded: 0,
        failed: 0,
        skipped: 0,
    }
}

pub fn cover(scope: ReplayScope, destinations: &[u8], limit: usize) -> CoverQuery {
    CoverQuery {
        organization_id: organization_id(),
        scope,
        destination_ids: destinations.iter().copied().map(destination_id).collect(),
        wants: Arc::new(|event_type, _| event_type.as_str() != "unwanted"),
        by: at(1000),
        after: None,
        limit,
    }
}

fn list(limit: usize) -> ReplayQuery {
    ReplayQuery { organization_id: organization_id(), states: Vec::new(), after: None, limit }
}

impl Bench {
    async fn covered(&self, mut query: CoverQuery) -> Vec<DeliveryId> {
        let mut all = Vec::new();
        loop {
            let CoverPage { ids, next } = self.store.covered(query.clone()).await.unwrap();
            assert!(ids.len() <= query.limit);
            all.extend(ids);
            if next.is_none() {
                return all;
            }
            query.after = next;
        }
    }

    async fn step(&self, replay: &Replay, action: ReplayAction) -> Replay {
        let step = ReplayStep { from: replay.state.clone(), action };
        self.store.step_replay(replay.id, step, at(2000)).await.unwrap()
    }

    async fn send(&self, replay: &Replay, ids: &[DeliveryId], next: Option<DeliveryId>) -> Replay {
        self.step(replay, ReplayAction::Send { ids: ids.to_vec(), next }).await
    }

    /// An event with a delivery to each of the destinations, which is in that state.
    async fn ended(&self, destinations: &[u8], state: DeliveryState) -> Arc<Event> {
        let routes: Vec<Route> = destinations.iter().copied().map(durable).collect();
        let event = self.accept(new_event("a", &routes)).await;
        for destination in destinations {
            self.settle(settlement(&event, *destination, Stage::Fresh, state.clone())).await;
        }
        event
    }
}

pub async fn a_replay_is_read_and_listed_latest_first(bench: &Bench) {
    let mut stored = Vec::new();
    for number in 1..=5 {
        let replay = replay(number, scope(ReplayKind::Succeeded, Some(number)));
        stored.insert(0, bench.store.create_replay(replay).await.unwrap());
    }
    let other = Replay {
        organization_id: OrganizationId::parse("acme.other").unwrap(),
        ..replay(6, scope(ReplayKind::DeadLetters, None))
    };
    bench.store.create_replay(other.clone()).await.unwrap();
    assert_eq!(bench.store.replay(stored[2].id).await.unwrap().as_ref(), Some(&stored[2]));
    assert_eq!(bench.store.replay(ReplayId::from_bytes([9; 16])).await.unwrap(), None);
    stored[1] = bench.store.cancel_replay(stored[1].id, at(3000)).await.unwrap();
    let (mut read, mut query) = (Vec::new(), list(2));
    loop {
        let page = bench.store.replays(query.clone()).await.unwrap();
        read.extend(page.rows);
        if page.next.is_none() {
            break;
        }
        query.after = page.next;
    }
    assert_eq!(read, stored);
    let cancelled = ReplayQuery { states: vec![ReplayStateKind::Cancelled], ..list(10) };
    assert_eq!(bench.store.replays(cancelled).await.unwrap().rows, [stored.remove(1)]);
    let running: Vec<_> = stored.into_iter().rev().chain([other]).collect();
    assert_eq!(bench.store.running_replays().await.unwrap(), running);
}

pub async fn one_replay_at_a_time_runs_for_a_destination(bench: &Bench) {
    let first = replay(1, scope(ReplayKind::Succeeded, Some(1)));
    bench.store.create_replay(first.clone()).await.unwrap();
    for rival in [scope(ReplayKind::Missed, Some(1)), scope(ReplayKind::DeadLetters, None)] {
        let refused = bench.store.create_replay(replay(2, rival)).await;
        assert!(matches!(refused, Err(StoreError::ReplayRunning(id)) if id == first.id), "{refused:?}");
    }
    assert_eq!(bench.store.replay(ReplayId::from_bytes([2; 16])).await.unwrap(), None);
    bench.store.create_replay(replay(3, scope(ReplayKind::Missed, Some(3)))).await.unwrap();
    bench.store.cancel_replay(first.id, at(1)).await.unwrap();
    bench.store.create_replay(replay(4, scope(ReplayKind::Missed, Some(1)))).await.unwrap();
}

#[expect(clippy::cognitive_complexity, reason = "one replay, looked at from many sides")]
pub async fn a_step_puts_back_what_the_replay_takes_and_records_how_far_it_is(bench: &Bench) {
    let notes = Arc::new(Notes::default());
    bench.store.listen(Arc::clone(&notes) as Arc<dyn CommitListener>);
    let (one, two) = (bench.ended(&[1], dead(1)).await, bench.ended(&[1], dead(2)).await);
    let (done, fresh) = (bench.ended(&[1], succeeded(1)).await, bench.ended(&[], dead(1)).await);
    let replay = replay(1, scope(ReplayKind::DeadLetters, Some(1)));
    let counting = Replay { state: ReplayState::Counting { after: None }, ..replay };
    let replay = bench.store.create_replay(counting).await.unwrap();
    notes.take();
    let replay = bench.step(&replay, ReplayAction::Count { found: 3, next: Some(id_of(&two, 1)) }).await;
    assert_eq!(replay.state, ReplayState::Counting { after: Some(id_of(&two, 1)) });
    let replay = bench.step(&replay, ReplayAction::Count { found: 1, next: None }).await;
    assert_eq!((replay.total, &replay.state), (4, &ReplayState::Sending { after: None }));
    let replay = bench.send(&replay, &[id_of(&one, 1)], Some(id_of(&one, 1))).await;
    assert_eq!((replay.replayed, replay.skipped), (1, 0));
    assert_eq!(replay.state, ReplayState::Sending { after: Some(id_of(&one, 1)) });
    assert_eq!(bench.store.replay(replay.id).await.unwrap().as_ref(), Some(&replay));
    assert_eq!(notes.take(), [format!("requeued {}", id_of(&one, 1))]);
    let delivery = bench.store.delivery(id_of(&one, 1)).await.unwrap().unwrap();
    assert_eq!(delivery.cycle, Cycle { cause: CycleCause::Replay, started_at: at(2000), attempts: 0 });
    assert_eq!((delivery.state, delivery.attempt_count), (waiting(2000), 1));
    let rest = [id_of(&one, 1), id_of(&two, 1), id_of(&done, 1), id_of(&fresh, 1)];
    let replay = bench.send(&replay, &rest, None).await;
    assert_eq!((replay.total, replay.replayed, replay.skipped), (5, 2, 3));
    assert_eq!(replay.state, ReplayState::Completed { at: at(2000) });
    assert_eq!(bench.due(1).await.len(), 2);
    assert!(bench.store.running_replays().await.unwrap().is_empty());
}

pub async fn what_was_counted_and_is_gone_is_skipped_in_the_end(bench: &Bench) {
    let replay = replay(1, scope(ReplayKind::DeadLetters, None));
    let counting = Replay { state: ReplayState::Counting { after: None }, ..replay };
    let replay = bench.store.create_replay(counting).await.unwrap();
    let replay = bench.step(&replay, ReplayAction::Count { found: 7, next: None }).await;
    let replay = bench.send(&replay, &[], None).await;
    assert_eq!((replay.total, replay.replayed, replay.skipped), (7, 0, 7));
}

pub async fn a_step_from_where_the_replay_does_not_stand_does_nothing(bench: &Bench) {
    let event = bench.ended(&[1], dead(1)).await;
    let replay = replay(1, scope(ReplayKind::DeadLetters, Some(1)));
    let first = bench.store.create_replay(replay).await.unwrap();
    let second = bench.send(&first, &[], Some(id_of(&event, 1))).await;
    assert_eq!(bench.send(&first, &[id_of(&event, 1)], None).await, second);
    assert_eq!(bench.state(id_of(&event, 1)).await, dead(1));
    let cancelled = bench.store.cancel_replay(second.id, at(9)).await.unwrap();
    assert_eq!(cancelled.state, ReplayState::Cancelled { at: at(9) });
    assert_eq!(bench.send(&second, &[id_of(&event, 1)], None).await, cancelled);
    assert_eq!(bench.state(id_of(&event, 1)).await, dead(1));
    assert_eq!(bench.store.cancel_replay(second.id, at(10)).await.unwrap(), cancelled);
    let unknown = bench.store.cancel_replay(ReplayId::from_bytes([7; 16]), at(1)).await;
    assert!(matches!(unknown, Err(StoreError::NotFound)), "{unknown:?}");
}

pub async fn a_replay_that_fails_says_why(bench: &Bench) {
    let replay = replay(1, scope(ReplayKind::Missed, Some(1)));
    let replay = bench.store.create_replay(replay).await.unwrap();
    let failed = bench.step(&replay, ReplayAction::Fail("no more".into())).await;
    assert_eq!(failed.state, ReplayState::Failed { at: at(2000), error: "no more".into() });
    assert_eq!(bench.store.replay(replay.id).await.unwrap(), Some(failed));
    assert!(bench.store.running_replays().await.unwrap().is_empty());
}

pub async fn a_replay_hears_once_how_each_of_its_deliveries_ends(bench: &Bench) {
    let events = [bench.ended(&[1], dead(1)).await, bench.ended(&[1], dead(1)).await];
    let last = bench.ended(&[1], dead(1)).await;
    let ids = [id_of(&events[0], 1), id_of(&events[1], 1), id_of(&last, 1)];
    let replay = replay(1, scope(ReplayKind::DeadLetters, Some(1)));
    let replay = bench.store.create_replay(replay).await.unwrap();
    let replay = bench.send(&replay, &ids, None).await;
    let counts = async || {
        let replay = bench.store.replay(replay.id).await.unwrap().unwrap();
        (replay.succeeded, replay.failed)
    };
    let again = |event: &Event, attempts: u32, state: DeliveryState| Settlement {
        attempt: Some(attempt(attempts + 1, 500)),
        cycle: Cycle { cause: CycleCause::Replay, started_at: at(2000), attempts },
        ..settlement(event, 1, Stage::Due(at(2000)), state)
    };
    bench.settle(again(&events[0], 1, waiting(3000))).await;
    assert_eq!(counts().await, (0, 0));
    let second = Settlement { stage: Stage::Due(at(3000)), ..again(&events[0], 2, succeeded(3000)) };
    bench.settle(second).await;
    bench.settle(again(&events[1], 1, dead(3000))).await;
    assert_eq!(counts().await, (1, 1));
    bench.store.end(vec![ids[2]], StateKind::Waiting, cancelled(3000)).await.unwrap();
    assert_eq!(counts().await, (1, 2));
    bench.store.requeue(vec![ids[1]], CycleCause::Resend, at(4000)).await.unwrap();
    let resent = Settlement { stage: Stage::Due(at(4000)), ..again(&events[1], 2, succeeded(5000)) };
    bench.settle(resent).await;
    assert_eq!(counts().await, (1, 2));
}

pub async fn dead_letters_are_covered_page_by_page_by_the_time_at_which_they_became_one(bench: &Bench) {
    let mut expected = Vec::new();
    for number in 0..9_i64 {
        let event = bench.ended(&[1, 2, 3], dead(number * 100)).await;
        expected.extend([1, 2, 3].map(|to| id_of(&event, to)));
        bench.ended(&[1, 3], succeeded(1)).await;
        bench.clock.advance(number % 2);
    }
    let times: Vec<_> =
        expected.iter().enumerate().map(|(place, id)| (*id, place as i64 / 3 * 100)).collect();
    let pick = |wanted: &dyn Fn(DeliveryId, i64) -> bool| {
        let picked = times.iter().filter(|(id, time)| wanted(*id, *time)).map(|(id, _)| *id);
        let mut picked: Vec<_> = picked.collect();
        picked.sort_unstable();
        picked
    };
    let all = scope(ReplayKind::DeadLetters, None);
    for limit in [1, 2, 9, 27, 1000] {
        let found = bench.covered(cover(all.clone(), &[3, 1, 2], limit)).await;
        assert_eq!(found, pick(&|_, _| true), "pages of {limit}");
    }
    let found = bench.covered(cover(all.clone(), &[2], 100)).await;
    assert_eq!(found, pick(&|id, _| id.destination_id == destination_id(2)));
    let early = CoverQuery { by: at(300), ..cover(all.clone(), &[1, 2, 3], 100) };
    assert_eq!(bench.covered(early).await, pick(&|_, time| time <= 300));
    let timed = ReplayScope { from: Some(at(200)), until: Some(at(500)), ..all.clone() };
    let found = bench.covered(cover(timed, &[1, 2, 3], 2)).await;
    assert_eq!(found, pick(&|_, time| (200..500).contains(&time)));
    let of_one = ReplayScope { event_key: Some(expected[4].event_key), ..all.clone() };
    let found = bench.covered(cover(of_one, &[1, 2, 3], 1)).await;
    assert_eq!(found, pick(&|id, _| id.event_key == expected[4].event_key));
    let typed = ReplayScope { event_types: vec![EventType::parse("b").unwrap()], ..all.clone() };
    assert!(bench.covered(cover(typed, &[1, 2, 3], 10)).await.is_empty());
    let foreign = OrganizationId::parse("other").unwrap();
    let foreign = CoverQuery { organization_id: foreign, ..cover(all, &[1, 2, 3], 10) };
    assert!(bench.covered(foreign).await.is_empty());
}

pub async fn succeeded_deliveries_are_covered_by_the_time_of_their_event(bench: &Bench) {
    let mut ids = Vec::new();
    for _ in 0..8 {
        let event = bench.ended(&[1], succeeded(900)).await;
        ids.push(id_of(&event, 1));
        bench.ended(&[1], dead(900)).await;
        bench.accept(new_event("a", &[durable(1)])).await;
        bench.clock.advance(10);
    }
    let all = scope(ReplayKind::Succeeded, Some(1));
    assert_eq!(bench.covered(cover(all.clone(), &[1], 3)).await, ids);
    let timed = ReplayScope { from: Some(at(20)), until: Some(at(50)), ..all.clone() };
    assert_eq!(bench.covered(cover(timed, &[1], 2)).await, ids[2..5]);
    let later = CoverQuery { by: at(899), ..cover(all, &[1], 10) };
    assert!(bench.covered(later).await.is_empty());
}

pub async fn missed_events_are_those_without_a_delivery_or_with_one_that_ended_in_vain(bench: &Bench) {
    let never = bench.accept(new_event("a", &[durable(2)])).await;
    bench.accept(new_event("unwanted", &[])).await;
    bench.clock.advance(10);
    let nowhere = bench.accept(new_event("b", &[])).await;
    let foreign = OrganizationId::parse("other").unwrap();
    bench.accept(NewEvent { organization_id: foreign, ..new_event("a", &[]) }).await;
    let vain = bench.ended(&[1], dead(20)).await;
    bench.ended(&[1], succeeded(20)).await;
    bench.accept(new_event("a", &[durable(1)])).await;
    bench.accept(new_event("a", &[best_effort(1)])).await;
    bench.clock.advance(10);
    let large = NewEvent { routes: vec![durable(2)], ..big_event(9000) };
    let large = bench.accept(large).await;
    let missed = [&never, &nowhere, &vain, &large].map(|event| id_of(event, 1));
    let all = scope(ReplayKind::Missed, Some(1));
    for limit in [1, 2, 3, 100] {
        assert_eq!(bench.covered(cover(all.clone(), &[1], limit)).await, missed, "pages of {limit}");
    }
    let timed = ReplayScope { from: Some(at(10)), until: Some(at(20)), ..all.clone() };
    assert_eq!(bench.covered(cover(timed, &[1], 10)).await, missed[1..3]);
    let typed = ReplayScope { event_types: vec![EventType::parse("a").unwrap()], ..all.clone() };
    assert_eq!(bench.covered(cover(typed, &[1], 10)).await, [missed[0], missed[2]]);
    let early = CoverQuery { by: at(19), ..cover(all, &[1], 10) };
    assert_eq!(bench.covered(early).await, [missed[0], missed[1], missed[3]]);
}

pub async fn a_missed_event_gets_a_delivery_of_its_own_and_is_missed_no_more(bench: &Bench) {
    let event = bench.accept(new_event("a", &[durable(2)])).await;
    let id = id_of(&event, 1);
    let replay = replay(1, scope(ReplayKind::Missed, Some(1)));
    let replay = bench.store.create_replay(replay).await.unwrap();
    let unknown = DeliveryId::new(EventKey::MAX, destination_id(1));
    let replay = bench.send(&replay, &[id, id, unknown], None).await;
    assert_eq!((replay.replayed, replay.skipped), (1, 2));
    let delivery = bench.store.delivery(id).await.unwrap().unwrap();
    assert_eq!((delivery.state, delivery.attempt_count), (waiting(2000), 0));
    assert_eq!((delivery.event_id, delivery.created_at), (event.id.clone(), event.accepted_at));
    assert_eq!(delivery.guarantee, Guarantee::AtLeastOnce);
    assert_eq!(bench.due(1).await.iter().map(|entry| entry.id).collect::<Vec<_>>(), [id]);
    assert_eq!(bench.list(query(&[1], 10)).await, [id]);
    assert!(bench.fresh(1).await.is_empty());
    let all = scope(ReplayKind::Missed, Some(1));
    assert!(bench.covered(cover(all, &[1], 10)).await.is_empty());
    assert_eq!(bench.fresh(2).await, [event.key]);
}

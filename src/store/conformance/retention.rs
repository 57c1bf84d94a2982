//! Promises about what is removed.

use super::replays::{replay, scope};
use super::*;
use crate::domain::replay::ReplayKind;
use crate::store::ReplayQuery;
use crate::store::retention::{Cuts, Expiring, RemovedEarly, SweepFrom, Swept};

/// History and dead letters that ended at or before this are too old.
fn cuts(millis: i64) -> Arc<Cuts> {
    let exceptions = std::collections::HashMap::new();
    let (history, dead_letters) = (at(millis), at(millis));
    Arc::new(Cuts { now: at(millis + 1), history, exceptions, dead_letters, notice: None, early: false })
}

impl Bench {
    /// One pass in steps of `budget`: how many dead letters expired, how many events were removed.
    async fn sweep(&self, cuts: &Arc<Cuts>, budget: usize) -> (usize, usize) {
        let (mut expired, mut removed) = (0, 0);
        let mut next = Some(SweepFrom::DeadLetters(None));
        while let Some(from) = next {
            let swept: Swept = self.store.sweep(Arc::clone(cuts), from, budget).await.unwrap();
            assert!(swept.expired <= budget && swept.removed <= budget);
            expired += swept.expired;
            removed += swept.removed;
            next = swept.next;
        }
        (expired, removed)
    }

    async fn is_stored(&self, event: &Event) -> bool {
        self.store.load_events(vec![event.key]).await.unwrap()[0].is_some()
    }
}

#[expect(clippy::cognitive_complexity, reason = "one removal, looked at from many sides")]
pub async fn finished_events_go_by_age_with_their_deliveries_and_ids(bench: &Bench) {
    let mut events = Vec::new();
    for number in 0..5 {
        let name = EventId::parse(&format!("evt-{number}")).unwrap();
        let event = bench.accept(NewEvent { event_id: Some(name), ..big_event(9000) }).await;
        bench.settle(settlement(&event, 1, Stage::Fresh, succeeded(number * 10 + 5))).await;
        bench.clock.advance(10);
        events.push(event);
    }
    assert_eq!(bench.sweep(&cuts(4), 2).await, (0, 0));
    assert_eq!(bench.sweep(&cuts(35), 2).await, (0, 4));
    for event in &events[..4] {
        assert!(!bench.is_stored(event).await);
        assert_eq!(bench.store.delivery(id_of(event, 1)).await.unwrap(), None);
        assert_eq!(bench.store.find_event(&organization_id(), &event.id).await.unwrap(), None);
    }
    assert!(bench.is_stored(&events[4]).await);
    assert_eq!(bench.list(query(&[1], 10)).await, [id_of(&events[4], 1)]);
    // An outcome that comes too late finds nothing, and its id is free again.
    bench.settle(settlement(&events[0], 1, Stage::Fresh, succeeded(99))).await;
    assert_eq!(bench.store.delivery(id_of(&events[0], 1)).await.unwrap(), None);
    bench.accept(NewEvent { event_id: Some(events[0].id.clone()), ..big_event(9000) }).await;
}

pub async fn events_that_wait_are_never_removed(bench: &Bench) {
    let fresh = bench.accept(new_event("a", &[durable(1)])).await;
    let due = bench.accept(new_event("a", &[durable(1)])).await;
    bench.settle(settlement(&due, 1, Stage::Fresh, waiting(50))).await;
    let half = bench.accept(new_event("a", &[durable(1), durable(2)])).await;
    bench.settle(settlement(&half, 1, Stage::Fresh, succeeded(1))).await;
    let again = bench.accept(new_event("a", &[durable(1)])).await;
    bench.settle(settlement(&again, 1, Stage::Fresh, succeeded(1))).await;
    bench.store.requeue(vec![id_of(&again, 1)], CycleCause::Resend, at(2)).await.unwrap();
    assert_eq!(bench.sweep(&cuts(1_000_000), 10).await, (0, 0));
    for event in [&fresh, &due, &half, &again] {
        assert!(bench.is_stored(event).await);
    }
    bench.settle(settlement(&half, 2, Stage::Fresh, succeeded(2))).await;
    assert_eq!(bench.sweep(&cuts(1_000_000), 10).await, (0, 1));
}

pub async fn dead_letters_expire_and_go_with_the_history(bench: &Bench) {
    let mut events = Vec::new();
    for number in 0..3 {
        let event = bench.accept(new_event("a", &[durable(1)])).await;
        bench.settle(settlement(&event, 1, Stage::Fresh, dead(number * 10))).await;
        events.push(event);
    }
    let notes = Arc::new(Notes::default());
    bench.store.listen(Arc::clone(&notes) as Arc<dyn CommitListener>);
    let mut kept = (*cuts(10)).clone();
    kept.history = at(-1_000_000);
    assert_eq!(bench.sweep(&Arc::new(kept), 1).await, (2, 0));
    let expired = DeliveryState::Discarded { at: at(11), reason: EndReason::DeadLetterExpired };
    assert_eq!(bench.state(id_of(&events[0], 1)).await, expired);
    assert_eq!(notes.take().len(), 2);
    let letters = DeliveryQuery { states: vec![StateKind::DeadLettered], ..query(&[1], 10) };
    assert_eq!(bench.list(letters).await, [id_of(&events[2], 1)]);
    assert_eq!(bench.sweep(&cuts(10), 1).await, (0, 2));
    assert!(!bench.is_stored(&events[1]).await && bench.is_stored(&events[2]).await);
}

pub async fn organizations_may_have_times_of_their_own(bench: &Bench) {
    let other = OrganizationId::parse("other").unwrap();
    let event = bench.accept(new_event("a", &[durable(1)])).await;
    let theirs =
        bench.accept(NewEvent { organization_id: other.clone(), ..new_event("a", &[durable(2)]) }).await;
    bench.settle(settlement(&event, 1, Stage::Fresh, succeeded(1))).await;
    bench.settle(settlement(&theirs, 2, Stage::Fresh, succeeded(1))).await;
    let mut shorter = (*cuts(-5)).clone();
    shorter.exceptions.insert(other, at(100));
    assert_eq!(bench.sweep(&Arc::new(shorter), 10).await, (0, 1));
    assert!(bench.is_stored(&event).await && !bench.is_stored(&theirs).await);
}

pub async fn too_much_goes_before_its_time_and_what_waits_does_not(bench: &Bench) {
    let mut events = Vec::new();
    for number in 0..6 {
        let event = bench.accept(NewEvent { event_id: None, ..big_event(5000) }).await;
        let state = match number {
            2 => waiting(99_999),
            3 => dead(number),
            _ => succeeded(number),
        };
        bench.settle(settlement(&event, 1, Stage::Fresh, state)).await;
        events.push(event);
        bench.clock.advance(10);
    }
    let before = bench.store.footprint();
    assert!(before.bytes > 6 * 5000 && before.removed_early.is_none());
    let notes = Arc::new(Notes::default());
    bench.store.listen(Arc::clone(&notes) as Arc<dyn CommitListener>);
    let changes = bench.store.changes().now();
    let mut early = (*cuts(4)).clone();
    (early.early, early.history, early.dead_letters) = (true, at(45), at(-1_000_000));
    let swept = bench.store.sweep(Arc::new(early), SweepFrom::Events(None), 10).await.unwrap();
    assert_eq!((swept.removed, swept.expired), (4, 1));
    // The dead letter did not go in silence.
    assert_eq!(notes.take(), [format!("ended {}", id_of(&events[3], 1))]);
    let told = bench.store.changes().after(changes, 10).unwrap();
    let expired = DeliveryState::Discarded { at: at(5), reason: EndReason::DeadLetterExpired };
    assert_eq!(told.iter().map(|change| change.delivery.state.clone()).collect::<Vec<_>>(), [expired]);
    for (event, stored) in events.iter().zip([false, false, true, false, false, true]) {
        assert_eq!(bench.is_stored(event).await, stored);
    }
    let after = bench.store.footprint();
    assert!(after.bytes < before.bytes / 2, "{after:?}");
    let accepted = events[4].accepted_at;
    assert_eq!(after.removed_early, Some(RemovedEarly { accepted, changed: accepted.max(at(4)) }));
}

pub async fn what_is_stored_is_counted_up_and_down(bench: &Bench) {
    assert_eq!(bench.store.footprint().bytes, 0);
    let named = NewEvent { event_id: Some(EventId::parse("evt-1").unwrap()), ..big_event(20_000) };
    let event = bench.accept(named.clone()).await;
    let accepted = bench.store.footprint().bytes;
    assert!(accepted > 20_000);
    bench.store.accept(vec![named]).await.unwrap();
    assert_eq!(bench.store.footprint().bytes, accepted, "a duplicate is not stored");
    bench.settle(settlement(&event, 1, Stage::Fresh, waiting(9))).await;
    bench.settle(settlement(&event, 1, Stage::Due(at(9)), succeeded(9))).await;
    assert!(bench.store.footprint().bytes > accepted);
    assert_eq!(bench.sweep(&cuts(1_000_000), 10).await, (0, 1));
    assert_eq!(bench.store.footprint().bytes, 0);
}

pub async fn dead_letters_that_expire_soon_are_reported_until_they_do(bench: &Bench) {
    for number in 0..4 {
        let event = bench.accept(new_event("a", &[durable(1)])).await;
        bench.settle(settlement(&event, 1, Stage::Fresh, dead(number * 10))).await;
    }
    let ours = bench.accept(new_event("signalpost.secret.rotated", &[durable(1)])).await;
    bench.settle(settlement(&ours, 1, Stage::Fresh, dead(10))).await;
    let mut soon = (*cuts(5)).clone();
    (soon.notice, soon.history) = (Some(at(20)), at(-1_000_000));
    let swept = bench.store.sweep(Arc::new(soon), SweepFrom::DeadLetters(None), 10).await.unwrap();
    assert_eq!(swept.expired, 1);
    let expected = |millis| Expiring {
        organization_id: organization_id(),
        destination_id: destination_id(1),
        since: at(millis),
    };
    assert_eq!(swept.expiring, [expected(10), expected(20)]);
}

pub async fn replays_go_with_the_history_and_those_that_run_stay(bench: &Bench) {
    for (number, ended) in [(1, Some(at(5))), (2, None), (3, Some(at(50)))] {
        let replay = replay(number, scope(ReplayKind::DeadLetters, Some(number)));
        bench.store.create_replay(replay.clone()).await.unwrap();
        if let Some(ended) = ended {
            bench.store.cancel_replay(replay.id, ended).await.unwrap();
        }
    }
    bench.sweep(&cuts(20), 1).await;
    let list = ReplayQuery { organization_id: organization_id(), states: Vec::new(), after: None, limit: 10 };
    let left = bench.store.replays(list).await.unwrap().rows;
    assert_eq!(left.iter().map(|replay| replay.id.as_bytes()[0]).collect::<Vec<_>>(), [3, 2]);
    let first = replay(1, scope(ReplayKind::DeadLetters, Some(1)));
    assert_eq!(bench.store.replay(first.id).await.unwrap(), None);
}

#[expect(clippy::cognitive_complexity, reason = "one removal, looked at from many sides")]
pub async fn erased_data_is_gone_and_the_history_stays(bench: &Bench) {
    let name = Some(EventId::parse("evt-1").unwrap());
    let routes = vec![durable(1), durable(2)];
    let event =
        bench.accept(NewEvent { event_id: name.clone(), routes: routes.clone(), ..big_event(9000) }).await;
    bench.settle(settlement(&event, 1, Stage::Fresh, succeeded(1))).await;
    let erased = bench.store.erase_event(event.key, at(9)).await.unwrap().unwrap();
    assert_eq!((erased.at, erased.ended), (at(9), vec![id_of(&event, 2)]));
    let stored = bench.store.find_event(&organization_id(), &event.id).await.unwrap().unwrap();
    assert_eq!((stored.erased_at, stored.data.as_bytes().len()), (Some(at(9)), 0));
    assert_eq!((&stored.routes, &stored.event_type), (&event.routes, &event.event_type));
    let delivery = bench.store.delivery(id_of(&event, 1)).await.unwrap().unwrap();
    assert_eq!(delivery.state, succeeded(1));
    assert!(matches!(&delivery.attempts[0].outcome, Outcome::Answered { body, .. } if body.is_empty()));
    let gone = DeliveryState::Discarded { at: at(9), reason: EndReason::EventGone };
    assert_eq!(bench.state(id_of(&event, 2)).await, gone);
    assert!(bench.fresh(2).await.is_empty());
    let ids = vec![id_of(&event, 1), id_of(&event, 2)];
    assert!(bench.store.requeue(ids, CycleCause::Resend, at(10)).await.unwrap().is_empty());
    let again = NewEvent { event_id: name, routes, ..big_event(9000) };
    assert_eq!(bench.store.accept(vec![again]).await.unwrap(), [Acceptance::Conflict]);
    let again = bench.store.erase_event(event.key, at(20)).await.unwrap().unwrap();
    assert_eq!((again.at, again.ended.len()), (at(9), 0));
    assert_eq!(bench.store.erase_event(EventKey::MAX, at(20)).await.unwrap(), None);
}

#[expect(clippy::cognitive_complexity, reason = "one removal, looked at from many sides")]
pub async fn an_erased_organization_leaves_nothing_and_harms_nobody_else(bench: &Bench) {
    let other = OrganizationId::parse("other").unwrap();
    bench.store.create_organization(organization()).await.unwrap();
    bench.store.create_destination(destination(1), None).await.unwrap();
    let mut events = Vec::new();
    for number in 0..5 {
        let name = Some(EventId::parse(&format!("evt-{number}")).unwrap());
        let event = bench.accept(NewEvent { event_id: name, ..new_event("a", &[durable(1)]) }).await;
        match number {
            0 => bench.settle(settlement(&event, 1, Stage::Fresh, succeeded(1))).await,
            1 => bench.settle(settlement(&event, 1, Stage::Fresh, dead(1))).await,
            2 => bench.settle(settlement(&event, 1, Stage::Fresh, waiting(99))).await,
            _ => {}
        }
        events.push(event);
    }
    let theirs = bench.accept(NewEvent { organization_id: other, ..new_event("a", &[durable(2)]) }).await;
    let stale = bench.store.begin_erasure(&organization_id(), Some(7)).await;
    assert!(matches!(stale, Err(StoreError::Stale { .. })));
    let destinations = bench.store.begin_erasure(&organization_id(), Some(1)).await.unwrap();
    assert_eq!(destinations, [destination_id(1)]);
    assert!(bench.store.begin_erasure(&organization_id(), None).await.unwrap().is_empty());
    assert!(bench.store.directory().is_erasing(&organization_id()));
    assert!(bench.store.directory().destination(destination_id(1)).is_none());
    let refused = bench.store.accept(vec![new_event("a", &[durable(1)])]).await;
    assert!(matches!(refused, Err(StoreError::Erasing)));
    assert!(matches!(bench.store.create_organization(organization()).await, Err(StoreError::Erasing)));
    assert!(matches!(bench.store.create_destination(destination(1), None).await, Err(StoreError::Erasing)));
    let mut from = None;
    loop {
        from = bench.store.erase_step(&organization_id(), from, 2).await.unwrap();
        if from.is_none() {
            break;
        }
    }
    for event in &events {
        bench.settle(settlement(event, 1, Stage::Fresh, succeeded(50))).await;
        assert!(!bench.is_stored(event).await);
        assert_eq!(bench.store.delivery(id_of(event, 1)).await.unwrap(), None);
    }
    assert!(bench.fresh(1).await.is_empty() && bench.due(1).await.is_empty());
    assert_eq!(bench.fresh(2).await, [theirs.key]);
    assert!(!bench.store.directory().is_erasing(&organization_id()));
    let unknown = bench.store.begin_erasure(&organization_id(), None).await;
    assert!(matches!(unknown, Err(StoreError::NotFound)));
    bench.store.create_organization(organization()).await.unwrap();
}

pub async fn changes_are_in_the_feed_in_their_order(bench: &Bench) {
    let start = bench.store.changes().now();
    let event = bench.accept(new_event("a", &[durable(1), best_effort(2)])).await;
    bench.settle(settlement(&event, 1, Stage::Fresh, waiting(50))).await;
    bench.store.requeue(vec![id_of(&event, 1)], CycleCause::Resend, at(60)).await.unwrap();
    bench.store.end(vec![id_of(&event, 1)], StateKind::Waiting, cancelled(70)).await.unwrap();
    let told = bench.store.changes().after(start, 10).unwrap();
    let told: Vec<_> = told.iter().map(|one| (one.delivery.id, one.delivery.state.clone())).collect();
    let first = waiting(0);
    let expected = [
        (id_of(&event, 1), first.clone()),
        (id_of(&event, 2), first),
        (id_of(&event, 1), waiting(50)),
        (id_of(&event, 1), waiting(60)),
        (id_of(&event, 1), cancelled(70)),
    ];
    assert_eq!(told, expected);
}

pub async fn what_comes_before_a_delivery_is_counted(bench: &Bench) {
    let mut events = Vec::new();
    for _ in 0..4 {
        events.push(bench.accept(new_event("a", &[durable(1)])).await);
    }
    assert_eq!(bench.store.ahead(id_of(&events[3], 1), None, 10).await.unwrap(), 3);
    assert_eq!(bench.store.ahead(id_of(&events[3], 1), None, 2).await.unwrap(), 2);
    for (event, due) in [(&events[0], 30), (&events[1], 20)] {
        bench.settle(settlement(event, 1, Stage::Fresh, waiting(due))).await;
    }
    assert_eq!(bench.store.ahead(id_of(&events[0], 1), Some(at(30)), 10).await.unwrap(), 1);
    assert_eq!(bench.store.ahead(id_of(&events[3], 1), None, 10).await.unwrap(), 1);
}

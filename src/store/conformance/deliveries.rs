//! Promises about deliveries.

use super::*;
use crate::store::EVENT_PAGE_BYTES;

pub async fn fresh_deliveries_come_in_order_of_keys_page_by_page(bench: &Bench) {
    let mut keys = Vec::new();
    for number in 0..7 {
        let other = if number % 2 == 0 { durable(2) } else { best_effort(2) };
        keys.push(bench.accept(new_event("a", &[durable(1), other])).await.key);
        bench.clock.advance(number % 3);
    }
    assert_eq!(bench.fresh(1).await, keys);
    assert_eq!(bench.fresh(2).await.len(), 4);
    let (mut after, mut read) = (None, Vec::new());
    loop {
        let page = bench.store.load_fresh(destination_id(1), after, 3).await.unwrap();
        read.extend(page.rows.iter().map(|event| event.key));
        after = read.last().copied();
        if !page.more {
            break;
        }
    }
    assert_eq!(read, keys);
    let page = bench.store.load_fresh(destination_id(1), after, 3).await.unwrap();
    assert!(page.rows.is_empty() && !page.more);
    let exact = bench.store.load_fresh(destination_id(1), None, 7).await.unwrap();
    assert!(exact.rows.len() == 7 && !exact.more);
}

pub async fn a_page_of_large_events_ends_early_and_goes_on(bench: &Bench) {
    let mut keys = Vec::new();
    for _ in 0..7 {
        keys.push(bench.accept(big_event(EVENT_PAGE_BYTES / 3)).await.key);
    }
    let first = bench.store.load_fresh(destination_id(1), None, 100).await.unwrap();
    assert!((3..=4).contains(&first.rows.len()) && first.more, "{}", first.rows.len());
    let rest = bench.store.load_fresh(destination_id(1), first.rows.last().map(|event| event.key), 100);
    let rest = rest.await.unwrap();
    let read: Vec<_> = first.rows.iter().chain(&rest.rows).map(|event| event.key).collect();
    assert_eq!(read[..], keys[..read.len()]);
    assert!(read.len() >= 6);
}

pub async fn a_success_takes_a_fresh_delivery_off_the_queue(bench: &Bench) {
    let event = bench.accept(new_event("a", &[durable(1), durable(2)])).await;
    bench.settle(settlement(&event, 1, Stage::Fresh, succeeded(5))).await;
    assert!(bench.fresh(1).await.is_empty() && bench.due(1).await.is_empty());
    assert_eq!(bench.fresh(2).await, [event.key]);
    let delivery = bench.store.delivery(id_of(&event, 1)).await.unwrap().unwrap();
    assert_eq!((delivery.state, delivery.attempt_count), (succeeded(5), 1));
    assert_eq!(delivery.attempts, [attempt(1, 204)]);
    assert_eq!((delivery.event_id, delivery.event_type), (event.id.clone(), event.event_type.clone()));
    assert_eq!((delivery.created_at, delivery.cycle), (event.accepted_at, routed(&event, 1)));
}

pub async fn what_waits_may_become_a_dead_letter_without_an_attempt(bench: &Bench) {
    let event = bench.accept(new_event("a", &[durable(1), durable(2)])).await;
    let dead = DeliveryState::DeadLettered { at: at(9), reason: EndReason::GaveUp };
    let waiting = DeliveryState::Waiting { due: at(5) };
    bench.settle(settlement(&event, 2, Stage::Fresh, waiting)).await;
    for (destination, stage) in [(1, Stage::Fresh), (2, Stage::Due(at(5)))] {
        let settlement = Settlement { attempt: None, ..settlement(&event, destination, stage, dead.clone()) };
        bench.settle(settlement).await;
        assert!(bench.fresh(destination).await.is_empty() && bench.due(destination).await.is_empty());
        let delivery = bench.store.delivery(id_of(&event, destination)).await.unwrap().unwrap();
        assert_eq!(delivery.state, dead);
        let backlog = bench.store.backlog(destination_id(destination), 9).await.unwrap();
        assert_eq!((backlog.count, backlog.dead_letters), (0, 1));
    }
}

pub async fn a_failure_makes_a_fresh_delivery_due(bench: &Bench) {
    let event = bench.accept(new_event("a", &[durable(1)])).await;
    bench.settle(settlement(&event, 1, Stage::Fresh, waiting(500))).await;
    assert!(bench.fresh(1).await.is_empty());
    let entry = DueEntry { id: id_of(&event, 1), due: at(500), attempt_count: 1, cycle: routed(&event, 1) };
    assert_eq!(bench.due(1).await, [entry]);
    assert_eq!(bench.state(id_of(&event, 1)).await, waiting(500));
}

pub async fn due_deliveries_come_in_order_of_time_page_by_page(bench: &Bench) {
    let mut expected = Vec::new();
    for due in [300, 100, -START - 5, 200, 100] {
        let event = bench.accept(new_event("a", &[durable(1)])).await;
        bench.settle(settlement(&event, 1, Stage::Fresh, waiting(due))).await;
        expected.push((at(due), event.key));
    }
    expected.sort_unstable();
    let mut read: Vec<(Timestamp, EventKey)> = Vec::new();
    loop {
        let page = bench.store.load_due(destination_id(1), read.last().copied(), 2).await.unwrap();
        read.extend(page.rows.iter().map(|entry| (entry.due, entry.id.event_key)));
        if !page.more {
            break;
        }
    }
    assert_eq!(read, expected);
}

pub async fn a_due_delivery_moves_with_each_failure_until_it_is_finished(bench: &Bench) {
    let event = bench.accept(new_event("a", &[durable(1)])).await;
    bench.settle(settlement(&event, 1, Stage::Fresh, waiting(100))).await;
    bench.settle(settlement(&event, 1, Stage::Due(at(100)), waiting(200))).await;
    let due = bench.due(1).await;
    assert_eq!(due.iter().map(|entry| (entry.due, entry.attempt_count)).collect::<Vec<_>>(), [(at(200), 2)]);
    let last = settlement(&event, 1, Stage::Due(at(200)), dead(300));
    bench.settle(Settlement { attempt: Some(attempt(3, 500)), ..last }).await;
    assert!(bench.due(1).await.is_empty());
    let delivery = bench.store.delivery(id_of(&event, 1)).await.unwrap().unwrap();
    assert_eq!((delivery.state, delivery.attempts.len()), (dead(300), 3));
}

pub async fn a_cancelled_delivery_stays_cancelled_unless_it_succeeds(bench: &Bench) {
    let mut ids = Vec::new();
    for (stage, outcome, expected) in [
        (Stage::Fresh, waiting(9), cancelled(5)),
        (Stage::Fresh, dead(9), cancelled(5)),
        (Stage::Fresh, succeeded(9), succeeded(9)),
        (Stage::Due(at(1)), waiting(9), cancelled(5)),
        (Stage::Due(at(1)), succeeded(9), succeeded(9)),
    ] {
        let event = bench.accept(new_event("a", &[durable(1)])).await;
        let id = id_of(&event, 1);
        if stage != Stage::Fresh {
            bench.settle(settlement(&event, 1, Stage::Fresh, waiting(1))).await;
        }
        let ended = bench.store.end(vec![id], StateKind::Waiting, cancelled(5)).await.unwrap();
        assert_eq!(ended, [id]);
        bench.settle(settlement(&event, 1, stage, outcome)).await;
        let delivery = bench.store.delivery(id).await.unwrap().unwrap();
        assert_eq!(delivery.state, expected);
        assert!(!delivery.attempts.is_empty(), "the attempt is on the record all the same");
        ids.push(id);
    }
    assert!(bench.fresh(1).await.is_empty() && bench.due(1).await.is_empty());
    ids.reverse();
    assert_eq!(bench.list(query(&[1], 10)).await, ids);
}

pub async fn a_resend_survives_the_failure_of_an_attempt_under_way(bench: &Bench) {
    for (outcome, still_due) in [(waiting(9000), true), (dead(9000), true), (succeeded(9000), false)] {
        let event = bench.accept(new_event("a", &[durable(1)])).await;
        let id = id_of(&event, 1);
        let entry = bench.store.requeue(vec![id], CycleCause::Resend, at(50)).await.unwrap();
        assert!(bench.fresh(1).await.is_empty());
        bench.settle(settlement(&event, 1, Stage::Fresh, outcome)).await;
        let due = bench.due(1).await;
        assert_eq!(due.iter().any(|row| row.id == id && row.due == entry[0].due), still_due);
        assert_eq!(due.len(), usize::from(still_due));
        assert!(due.iter().all(|row| row.attempt_count == 1), "the attempt under way was counted: {due:?}");
        bench.store.end(vec![id], StateKind::Waiting, cancelled(1)).await.unwrap();
    }
}

pub async fn a_success_that_is_settled_again_takes_nothing_from_a_resend_begun_since(bench: &Bench) {
    let event = bench.accept(new_event("a", &[durable(1)])).await;
    let id = id_of(&event, 1);
    let success = settlement(&event, 1, Stage::Fresh, succeeded(40));
    bench.settle(success.clone()).await;
    bench.store.requeue(vec![id], CycleCause::Resend, at(50)).await.unwrap();
    // Nobody heard that it was stored.
    bench.settle(success).await;
    assert_eq!(bench.state(id).await, waiting(50));
    let due = bench.due(1).await;
    assert_eq!(due.iter().map(|row| (row.id, row.attempt_count)).collect::<Vec<_>>(), [(id, 1)]);
}

pub async fn a_best_effort_delivery_has_a_record_only_from_its_first_settlement_on(bench: &Bench) {
    let event = bench.accept(new_event("a", &[best_effort(1)])).await;
    let id = id_of(&event, 1);
    assert!(bench.fresh(1).await.is_empty());
    assert_eq!(bench.store.delivery(id).await.unwrap(), None);
    let guarantee = Guarantee::BestEffort;
    let in_memory = |state| Settlement { guarantee, ..settlement(&event, 1, Stage::InMemory, state) };
    bench.settle(in_memory(waiting(50))).await;
    assert!(bench.due(1).await.is_empty());
    let delivery = bench.store.delivery(id).await.unwrap().unwrap();
    assert_eq!((delivery.state, delivery.guarantee), (waiting(50), guarantee));
    bench.settle(in_memory(dead(60))).await;
    assert_eq!(bench.state(id).await, dead(60));
    bench.store.requeue(vec![id], CycleCause::Replay, at(70)).await.unwrap();
    assert_eq!(bench.due(1).await.len(), 1);
    bench.settle(in_memory(succeeded(80))).await;
    assert!(bench.due(1).await.is_empty());
}

pub async fn requeueing_begins_a_new_cycle_whatever_the_state(bench: &Bench) {
    for state in [waiting(100), succeeded(1), dead(1), cancelled(1)] {
        let event = bench.accept(new_event("a", &[durable(1)])).await;
        bench.settle(settlement(&event, 1, Stage::Fresh, state)).await;
        let id = id_of(&event, 1);
        let entries = bench.store.requeue(vec![id, id], CycleCause::Replay, at(20)).await.unwrap();
        let cycle = Cycle { cause: CycleCause::Replay, started_at: at(20), attempts: 0 };
        let entry = DueEntry { id, due: at(20), attempt_count: 1, cycle };
        assert_eq!(entries, [entry]);
        assert_eq!(bench.due(1).await, [entry]);
        let delivery = bench.store.delivery(id).await.unwrap().unwrap();
        assert_eq!((delivery.state, delivery.cycle), (waiting(20), cycle));
        let mut dead_letters = query(&[1], 10);
        dead_letters.states = vec![StateKind::DeadLettered];
        assert!(bench.list(dead_letters).await.is_empty());
        bench.store.end(vec![id], StateKind::Waiting, cancelled(1)).await.unwrap();
        assert!(bench.due(1).await.is_empty());
    }
}

pub async fn requeueing_leaves_out_what_is_unknown(bench: &Bench) {
    let event = bench.accept(new_event("a", &[durable(1)])).await;
    let unknown = [id_of(&event, 2), DeliveryId::new(EventKey::MAX, destination_id(1))];
    let ids = vec![unknown[0], id_of(&event, 1), unknown[1]];
    let entries = bench.store.requeue(ids, CycleCause::Resend, at(3)).await.unwrap();
    assert_eq!(entries.iter().map(|entry| entry.id).collect::<Vec<_>>(), [id_of(&event, 1)]);
}

pub async fn ending_ends_only_what_is_in_the_asked_state(bench: &Bench) {
    let fresh = bench.accept(new_event("a", &[durable(1)])).await;
    let due = bench.accept(new_event("a", &[durable(1)])).await;
    bench.settle(settlement(&due, 1, Stage::Fresh, waiting(100))).await;
    let lost = bench.accept(new_event("a", &[durable(1)])).await;
    bench.settle(settlement(&lost, 1, Stage::Fresh, dead(100))).await;
    let ids: Vec<_> = [&fresh, &due, &lost].map(|event| id_of(event, 1)).to_vec();
    let ended = bench.store.end(ids.clone(), StateKind::Waiting, cancelled(5)).await.unwrap();
    assert_eq!(ended, ids[..2]);
    assert!(bench.fresh(1).await.is_empty() && bench.due(1).await.is_empty());
    let gone = DeliveryState::Discarded { at: at(6), reason: EndReason::DeadLetterDeleted };
    let ended = bench.store.end(ids.clone(), StateKind::DeadLettered, gone.clone()).await.unwrap();
    assert_eq!(ended, ids[2..]);
    assert_eq!(bench.state(ids[2]).await, gone);
    assert_eq!(bench.state(ids[0]).await, cancelled(5));
}

pub async fn only_the_latest_attempts_are_kept_and_all_are_counted(bench: &Bench) {
    let event = bench.accept(new_event("a", &[durable(1)])).await;
    let mut stage = Stage::Fresh;
    for number in 1..=40 {
        let due = i64::from(number);
        let body = Bytes::from(vec![b'x'; 1024]);
        let outcome = Outcome::Answered { status: 500, retry_after: None, body };
        let failed = Attempt { outcome, ..attempt(number, 500) };
        let base = settlement(&event, 1, stage, waiting(due));
        bench.settle(Settlement { attempt: Some(failed), cycle: routed(&event, number), ..base }).await;
        stage = Stage::Due(at(due));
    }
    let failure = Outcome::NoAnswer { failure: Failure::Timeout, detail: "no answer in 10 s".into() };
    let last = Attempt { outcome: failure, ..attempt(41, 500) };
    let base = settlement(&event, 1, stage, dead(50));
    bench.settle(Settlement { attempt: Some(last.clone()), ..base }).await;
    let delivery = bench.store.delivery(id_of(&event, 1)).await.unwrap().unwrap();
    assert_eq!((delivery.attempt_count, delivery.attempts.len()), (41, 16));
    assert_eq!(delivery.attempts.last(), Some(&last));
    assert_eq!(delivery.last_error().as_deref(), Some("no answer in 10 s"));
    assert_eq!(delivery.attempts.iter().map(|a| a.number).collect::<Vec<_>>(), (26..=41).collect::<Vec<_>>());
}

pub async fn a_settlement_of_an_unknown_event_changes_nothing(bench: &Bench) {
    let event = bench.accept(new_event("a", &[durable(1)])).await;
    let unknown = Event { key: EventKey::MAX, ..event.as_ref().clone() };
    bench.settle(settlement(&unknown, 1, Stage::Fresh, dead(1))).await;
    bench.settle(settlement(&unknown, 1, Stage::Due(at(1)), waiting(1))).await;
    assert_eq!(bench.store.delivery(id_of(&unknown, 1)).await.unwrap(), None);
    assert_eq!((bench.fresh(1).await, bench.due(1).await), (vec![event.key], Vec::new()));
}

pub async fn the_backlog_counts_up_to_its_cap(bench: &Bench) {
    let none = bench.store.backlog(destination_id(1), 10).await.unwrap();
    assert_eq!(none, Backlog::default());
    let mut events = Vec::new();
    for _ in 0..6 {
        events.push(bench.accept(new_event("a", &[durable(1)])).await);
        bench.clock.advance(10);
    }
    bench.settle(settlement(&events[0], 1, Stage::Fresh, waiting(500))).await;
    bench.settle(settlement(&events[1], 1, Stage::Fresh, succeeded(500))).await;
    let backlog = bench.store.backlog(destination_id(1), 10).await.unwrap();
    assert_eq!(backlog, Backlog { count: 5, capped: false, oldest: Some(at(20)), dead_letters: 0 });
    let backlog = bench.store.backlog(destination_id(1), 5).await.unwrap();
    assert_eq!((backlog.count, backlog.capped), (5, false));
    let backlog = bench.store.backlog(destination_id(1), 4).await.unwrap();
    assert_eq!((backlog.count, backlog.capped), (4, true));
}

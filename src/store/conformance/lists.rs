//! Promises about lists of deliveries.

use super::*;

pub async fn an_event_shows_as_waiting_before_any_attempt(bench: &Bench) {
    let event = bench.accept(new_event("a", &[durable(1), best_effort(2)])).await;
    let page = bench.store.deliveries(query(&[1, 2], 10)).await.unwrap();
    assert_eq!(page.rows.len(), 1);
    let delivery = &page.rows[0];
    assert_eq!((delivery.id, &delivery.state), (id_of(&event, 1), &waiting(0)));
    assert_eq!((delivery.attempt_count, delivery.cycle), (0, routed(&event, 0)));
    assert_eq!(bench.store.delivery(delivery.id).await.unwrap().as_ref(), Some(delivery));
}

#[expect(clippy::cognitive_complexity, reason = "one list, looked at from many sides")]
pub async fn filters_of_state_type_and_time_are_kept(bench: &Bench) {
    let mut ids = Vec::new();
    for number in 0..12_i64 {
        let event = bench.accept(new_event(["a", "b", "c"][number as usize % 3], &[durable(1)])).await;
        match number % 4 {
            0 => {}
            1 => bench.settle(settlement(&event, 1, Stage::Fresh, succeeded(1))).await,
            2 => bench.settle(settlement(&event, 1, Stage::Fresh, waiting(900))).await,
            _ => bench.settle(settlement(&event, 1, Stage::Fresh, dead(1))).await,
        }
        ids.push(id_of(&event, 1));
        bench.clock.advance(10);
    }
    let pick = |wanted: fn(usize) -> bool| -> Vec<_> {
        (0..12).rev().filter(|number| wanted(*number)).map(|number| ids[number]).collect()
    };
    let base = query(&[1], 100);
    let states = |states: &[StateKind]| DeliveryQuery { states: states.to_vec(), ..base.clone() };
    assert_eq!(bench.list(base.clone()).await, pick(|_| true));
    assert_eq!(bench.list(states(&[StateKind::Waiting])).await, pick(|n| n % 4 == 0 || n % 4 == 2));
    assert_eq!(bench.list(states(&[StateKind::DeadLettered])).await, pick(|n| n % 4 == 3));
    let finished = states(&[StateKind::Succeeded, StateKind::DeadLettered, StateKind::Cancelled]);
    assert_eq!(bench.list(finished).await, pick(|n| n % 4 == 1 || n % 4 == 3));
    let event_types = vec![EventType::parse("a").unwrap(), EventType::parse("c").unwrap()];
    assert_eq!(bench.list(DeliveryQuery { event_types, ..base.clone() }).await, pick(|n| n % 3 != 1));
    let timed = DeliveryQuery { from: Some(at(30)), until: Some(at(70)), ..base.clone() };
    assert_eq!(bench.list(timed).await, pick(|n| (3..7).contains(&n)));
    let until = Some(Timestamp::from_millis(i64::MAX));
    let from = Some(Timestamp::from_millis(i64::MIN));
    assert_eq!(bench.list(DeliveryQuery { from, until, ..base.clone() }).await.len(), 12);
    assert!(bench.list(DeliveryQuery { from: until, ..base.clone() }).await.is_empty());
    let organization_id = OrganizationId::parse("other").unwrap();
    assert!(bench.list(DeliveryQuery { organization_id, ..base.clone() }).await.is_empty());
    assert!(bench.list(query(&[2], 10)).await.is_empty() && bench.list(query(&[], 10)).await.is_empty());
}

pub async fn dead_letters_are_listed_newest_first(bench: &Bench) {
    let mut ids = Vec::new();
    for number in 0..9 {
        let event = bench.accept(new_event("a", &[durable(1), durable(2)])).await;
        let destination = 1 + number % 2;
        bench.settle(settlement(&event, destination, Stage::Fresh, dead(1))).await;
        ids.insert(0, id_of(&event, destination));
    }
    let dead_letters =
        |limit| DeliveryQuery { states: vec![StateKind::DeadLettered], ..query(&[1, 2], limit) };
    assert_eq!(bench.list_all(dead_letters(2)).await, ids);
    let gone = DeliveryState::Discarded { at: at(6), reason: EndReason::DeadLetterDeleted };
    bench.store.end(vec![ids[3]], StateKind::DeadLettered, gone).await.unwrap();
    bench.store.requeue(vec![ids[5]], CycleCause::Replay, at(7)).await.unwrap();
    let removed = [ids[3], ids[5]];
    ids.retain(|id| !removed.contains(id));
    assert_eq!(bench.list_all(dead_letters(100)).await, ids);
}

pub async fn the_time_of_dead_letters_is_when_they_became_one(bench: &Bench) {
    let mut ids = Vec::new();
    for number in 0..6_i64 {
        let event = bench.accept(new_event("a", &[durable(1)])).await;
        bench.settle(settlement(&event, 1, Stage::Fresh, dead(1000 + number * 10))).await;
        ids.insert(0, id_of(&event, 1));
    }
    let range = DeliveryQuery { from: Some(at(1010)), until: Some(at(1040)), ..query(&[1], 10) };
    assert!(bench.list(range.clone()).await.is_empty());
    let range = DeliveryQuery { states: vec![StateKind::DeadLettered], ..range };
    assert_eq!(bench.list(range).await, ids[2..5]);
}

pub async fn pages_are_complete_without_gaps_or_repeats(bench: &Bench) {
    let mut expected = BTreeSet::new();
    for number in 0..60_u8 {
        let routes: Vec<_> = (1..=3).filter(|d| (number / d) % 2 == 0).map(durable).collect();
        let event = bench.accept(new_event(["a", "b"][usize::from(number % 2)], &routes)).await;
        for route in &routes {
            let to = route.destination_id.as_bytes()[0];
            expected.insert((std::cmp::Reverse(event.key), destination_id(to), number % 2));
            match number % 5 {
                0 | 1 => bench.settle(settlement(&event, to, Stage::Fresh, succeeded(1))).await,
                2 => bench.settle(settlement(&event, to, Stage::Fresh, waiting(99))).await,
                _ => {}
            }
        }
        bench.clock.advance(i64::from(number % 3));
    }
    let ids = |kind: Option<u8>| -> Vec<_> {
        let rows = expected.iter().filter(|(.., a_or_b)| kind.is_none_or(|kind| kind == *a_or_b));
        rows.map(|(key, destination_id, _)| DeliveryId::new(key.0, *destination_id)).collect()
    };
    for limit in [1, 2, 3, 7, 50, 1000] {
        assert_eq!(bench.list_all(query(&[3, 1, 2], limit)).await, ids(None), "pages of {limit}");
        let event_types = vec![EventType::parse("b").unwrap()];
        let typed = DeliveryQuery { event_types, ..query(&[1, 2, 3], limit) };
        assert_eq!(bench.list_all(typed).await, ids(Some(1)), "pages of {limit}");
    }
    let first = DeliveryQuery { after: Some(ids(None)[4]), ..query(&[1, 2, 3], 5) };
    assert_eq!(bench.list(first).await, ids(None)[5..10]);
}

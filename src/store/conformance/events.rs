//! Promises about events.

use super::*;
use tokio::task::JoinSet;

pub async fn answers_come_in_the_order_of_the_events(bench: &Bench) {
    bench.accept(named_event("first")).await;
    let conflict = NewEvent { level: Level::Warn, ..named_event("first") };
    let events = vec![new_event("a", &[]), named_event("first"), conflict, new_event("b", &[])];
    let answers = bench.store.accept(events).await.unwrap();
    let [
        Acceptance::Accepted(a),
        Acceptance::Duplicate(first),
        Acceptance::Conflict,
        Acceptance::Accepted(b),
    ] = answers.as_slice()
    else {
        panic!("{answers:?}");
    };
    assert_eq!((a.event_type.as_str(), first.id.as_str(), b.event_type.as_str()), ("a", "first", "b"));
    assert!(first.key < a.key && a.key < b.key);
}

pub async fn the_same_id_with_the_same_content_is_a_duplicate_of_the_first(bench: &Bench) {
    let first = bench.accept(named_event("one")).await;
    bench.clock.advance(5000);
    let answers = bench.store.accept(vec![named_event("one")]).await.unwrap();
    assert_eq!(answers, [Acceptance::Duplicate(Arc::clone(&first))]);
    assert_eq!(bench.fresh(1).await, [first.key]);
}

pub async fn the_same_id_with_other_content_is_a_conflict(bench: &Bench) {
    let first = bench.accept(named_event("one")).await;
    let base = named_event("one");
    for other in [
        NewEvent { event_type: EventType::parse("x").unwrap(), ..base.clone() },
        NewEvent { occurred_at: Some(at(0)), ..base.clone() },
        NewEvent { level: Level::Error, ..base.clone() },
        NewEvent { data: Payload::empty(), ..base },
    ] {
        assert_eq!(bench.store.accept(vec![other]).await.unwrap(), [Acceptance::Conflict]);
    }
    assert_eq!(bench.fresh(1).await, [first.key]);
}

pub async fn ids_are_compared_within_one_call(bench: &Bench) {
    let conflict = NewEvent { level: Level::Error, ..named_event("one") };
    let events = vec![named_event("one"), named_event("one"), conflict];
    let answers = bench.store.accept(events).await.unwrap();
    let [Acceptance::Accepted(first), Acceptance::Duplicate(again), Acceptance::Conflict] =
        answers.as_slice()
    else {
        panic!("{answers:?}");
    };
    assert_eq!(first, again);
}

pub async fn the_id_of_an_event_without_a_callers_id_is_taken_too(bench: &Bench) {
    let first = bench.accept(new_event("a.b", &[durable(1)])).await;
    let again = named_event(first.id.as_str());
    let other = NewEvent { level: Level::Error, ..again.clone() };
    let answers = bench.store.accept(vec![again, other]).await.unwrap();
    assert_eq!(answers, [Acceptance::Duplicate(first), Acceptance::Conflict]);
}

pub async fn ids_of_other_organizations_do_not_matter(bench: &Bench) {
    let named = bench.accept(named_event("one")).await;
    let unnamed = bench.accept(new_event("a", &[])).await;
    let theirs = OrganizationId::parse("other").unwrap();
    for id in [&named.id, &unnamed.id] {
        let event = named_event(id.as_str());
        let event = NewEvent { organization_id: theirs.clone(), level: Level::Error, ..event };
        let answer = bench.store.accept(vec![event]).await.unwrap();
        assert!(matches!(answer.as_slice(), [Acceptance::Accepted(_)]), "{id}");
    }
}

pub async fn of_concurrent_calls_with_one_id_exactly_one_is_accepted(bench: &Bench) {
    let mut calls = JoinSet::new();
    for _ in 0..32 {
        let store = Arc::clone(&bench.store);
        calls.spawn(async move { store.accept(vec![named_event("one")]).await.unwrap() });
    }
    let answers = calls.join_all().await;
    let accepted = answers.iter().flatten().filter(|answer| matches!(answer, Acceptance::Accepted(_)));
    assert_eq!(accepted.count(), 1);
    assert_eq!(bench.fresh(1).await.len(), 1);
}

pub async fn large_payloads_come_back_byte_for_byte(bench: &Bench) {
    for size in [3000, 3072, 3073, 4000, 4096, 8001, 65_536, 262_144, 1_048_576] {
        let event = bench.accept(big_event(size)).await;
        assert_eq!(event.data.as_bytes().len(), size);
        let loaded = bench.store.load_events(vec![event.key]).await.unwrap();
        assert_eq!(loaded, [Some(event)], "{size} bytes");
    }
}

pub async fn many_routes_come_back(bench: &Bench) {
    let routes: Vec<_> = (0..=255).map(durable).collect();
    for event in [new_event("many", &routes), NewEvent { routes: routes.clone(), ..big_event(5000) }] {
        let event = bench.accept(event).await;
        assert_eq!(bench.store.load_events(vec![event.key]).await.unwrap(), [Some(event)]);
    }
    assert_eq!(bench.fresh(255).await.len(), 2);
}

pub async fn an_event_is_found_by_either_kind_of_id(bench: &Bench) {
    let named = bench.accept(named_event("one")).await;
    let unnamed = bench.accept(new_event("a", &[])).await;
    for event in [&named, &unnamed] {
        let found = bench.store.find_event(&organization_id(), &event.id).await.unwrap();
        assert_eq!(found.as_ref(), Some(event));
    }
    let foreign = OrganizationId::parse("other").unwrap();
    assert_eq!(bench.store.find_event(&foreign, &unnamed.id).await.unwrap(), None);
    let by_key = EventId::from_key(named.key);
    assert_eq!(bench.store.find_event(&organization_id(), &by_key).await.unwrap(), None);
}

pub async fn unknown_events_are_none_at_their_place(bench: &Bench) {
    let event = bench.accept(new_event("a", &[])).await;
    let loaded = bench.store.load_events(vec![EventKey::MAX, event.key, EventKey::MIN]).await.unwrap();
    assert_eq!(loaded, [None, Some(event), None]);
}

pub async fn keys_grow_and_times_never_go_back_with_the_clock(bench: &Bench) {
    let first = bench.accept(new_event("a", &[])).await;
    assert_eq!((first.accepted_at, first.occurred_at), (at(0), at(0)));
    bench.clock.advance(-60_000);
    let second = bench.accept(new_event("a", &[])).await;
    assert!(second.key > first.key && second.accepted_at >= first.accepted_at);
    bench.clock.advance(120_000);
    let third = bench.accept(NewEvent { occurred_at: Some(at(7)), ..new_event("a", &[]) }).await;
    assert_eq!((third.accepted_at, third.occurred_at), (at(60_000), at(7)));
}

pub async fn the_listener_hears_of_commits_in_order_of_keys(bench: &Bench) {
    let notes = Arc::new(Notes::default());
    bench.store.listen(Arc::clone(&notes) as Arc<dyn CommitListener>);
    let mut calls = JoinSet::new();
    for _ in 0..20 {
        let store = Arc::clone(&bench.store);
        calls.spawn(async move { store.accept(vec![new_event("a", &[durable(1)]); 3]).await.unwrap() });
    }
    calls.join_all().await;
    let heard = notes.take();
    assert!(heard.len() == 60 && heard.is_sorted());
    let expected: Vec<_> = bench.fresh(1).await.iter().map(|key| format!("accepted {key}")).collect();
    assert_eq!(heard, expected);
    let answers = bench.store.accept(vec![named_event("x"), named_event("x")]).await.unwrap();
    assert_eq!((answers.len(), notes.take().len()), (2, 1));
    let event = bench.accept(new_event("a", &[durable(1)])).await;
    let id = id_of(&event, 1);
    bench.store.requeue(vec![id], CycleCause::Resend, at(1)).await.unwrap();
    bench.store.end(vec![id], StateKind::Waiting, cancelled(2)).await.unwrap();
    bench.store.create_destination(destination(1), None).await.unwrap();
    let expected = [
        format!("accepted {}", event.key),
        format!("requeued {id}"),
        format!("ended {id}"),
        format!("changed {}", destination_id(1)),
    ];
    assert_eq!(notes.take(), expected);
}

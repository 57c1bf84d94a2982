//! Promises about events that tell of changes: accepted together with them, or not at all.

use super::*;

/// An event for the second destination that tells of something.
fn telling(id: &str) -> NewEvent {
    NewEvent { event_id: Some(EventId::parse(id).unwrap()), ..new_event("signalpost.told", &[durable(2)]) }
}

fn tells(settlement: Settlement, id: &str) -> Settlement {
    Settlement { told: Some(Box::new(telling(id))), ..settlement }
}

impl Bench {
    /// The ids of what was told, in order.
    async fn told(&self) -> Vec<String> {
        let page = self.store.load_fresh(destination_id(2), None, 100).await.unwrap();
        page.rows.iter().map(|event| event.id.to_string()).collect()
    }
}

pub async fn a_settlement_tells_of_itself_in_the_same_step(bench: &Bench) {
    let notes = Arc::new(Notes::default());
    bench.store.listen(Arc::clone(&notes) as Arc<dyn CommitListener>);
    let event = bench.accept(new_event("a", &[durable(1)])).await;
    notes.take();
    bench.settle(tells(settlement(&event, 1, Stage::Fresh, dead(5)), "one")).await;
    assert_eq!(bench.told().await, ["one"]);
    let told = bench.store.find_event(&organization_id(), &EventId::parse("one").unwrap()).await.unwrap();
    let told = told.unwrap();
    assert!(told.key > event.key, "it comes after what it tells of");
    assert_eq!(notes.take(), [format!("accepted {}", told.key)], "its lane hears of it");
}

pub async fn what_is_not_taken_tells_nothing(bench: &Bench) {
    let event = bench.accept(new_event("a", &[durable(1)])).await;
    let id = id_of(&event, 1);
    assert_eq!(bench.store.end(vec![id], StateKind::Waiting, cancelled(3)).await.unwrap(), [id]);
    bench.settle(tells(settlement(&event, 1, Stage::Fresh, dead(5)), "one")).await;
    assert_eq!(bench.state(id).await, cancelled(3));
    let unknown = Event { key: EventKey::MIN.next(at(1), 1), ..Event::clone(&event) };
    bench.settle(tells(settlement(&unknown, 1, Stage::Fresh, dead(5)), "two")).await;
    assert!(bench.told().await.is_empty());
}

pub async fn the_same_is_told_once_however_often_it_is_settled(bench: &Bench) {
    let event = bench.accept(new_event("a", &[durable(1)])).await;
    let settled = tells(settlement(&event, 1, Stage::Fresh, dead(5)), "one");
    // As somebody does who did not hear the first answer.
    bench.settle(settled.clone()).await;
    bench.settle(settled).await;
    assert_eq!(bench.told().await, ["one"]);
    let delivery = bench.store.delivery(id_of(&event, 1)).await.unwrap().unwrap();
    assert_eq!((delivery.attempts.len(), delivery.attempt_count), (1, 1));
    let other = bench.accept(new_event("b", &[durable(1)])).await;
    let settled = tells(settlement(&other, 1, Stage::Fresh, waiting(9)), "one");
    bench.settle(settled).await;
    assert_eq!(bench.told().await, ["one"], "an id that is taken tells nothing new");
    assert_eq!(bench.state(id_of(&other, 1)).await, waiting(9), "and keeps nothing from being settled");
}

pub async fn a_change_tells_of_itself_and_a_call_that_changes_nothing_does_not(bench: &Bench) {
    bench.store.create_destination(destination(1), None).await.unwrap();
    let store = bench.store.telling(vec![telling("one"), telling("two")]);
    store.update_destination(destination(1), 7).await.unwrap_err();
    let event = bench.accept(new_event("a", &[])).await;
    store.requeue(vec![id_of(&event, 1)], CycleCause::Resend, at(1)).await.unwrap();
    assert!(bench.told().await.is_empty());
    store.update_destination(destination(1), 1).await.unwrap();
    assert_eq!(bench.told().await, ["one", "two"]);
    let health = vec![(destination_id(1), DestinationHealth::default())];
    bench.store.telling(vec![telling("three")]).settle(Vec::new(), health).await.unwrap();
    assert_eq!(bench.told().await, ["one", "two", "three"]);
}

pub async fn the_destination_that_brings_the_quota_near_tells_of_it_each_time_it_comes_near(bench: &Bench) {
    let create = async |number: u8, told: &str| {
        let quota = DestinationQuota { most: 4, near: Some((3, Box::new(telling(told)))) };
        bench.store.create_destination(destination(number), Some(quota)).await.map(drop)
    };
    create(1, "one").await.unwrap();
    create(2, "two").await.unwrap();
    assert!(bench.told().await.is_empty());
    create(3, "three").await.unwrap();
    create(4, "four").await.unwrap();
    create(5, "five").await.unwrap_err();
    assert_eq!(bench.told().await, ["three"]);
    for number in [3, 4] {
        bench.store.delete_destination(destination_id(number), None).await.unwrap();
    }
    create(6, "six").await.unwrap();
    assert_eq!(bench.told().await, ["three", "six"]);
}

pub async fn an_organization_that_is_being_erased_is_told_nothing(bench: &Bench) {
    bench.store.create_organization(organization()).await.unwrap();
    let event = bench.accept(new_event("a", &[durable(1)])).await;
    bench.store.begin_erasure(&organization_id(), None).await.unwrap();
    bench.settle(tells(settlement(&event, 1, Stage::Fresh, dead(5)), "one")).await;
    assert!(bench.told().await.is_empty());
}

//! Promises about destinations and organizations.

use super::*;
use tokio::task::JoinSet;

fn entry(bench: &Bench, number: u8) -> Option<Arc<DestinationEntry>> {
    bench.store.directory().destination(destination_id(number))
}

pub async fn a_destination_is_in_the_directory_when_it_is_committed(bench: &Bench) {
    let created = bench.store.create_destination(destination(1), None).await.unwrap();
    assert_eq!(created.as_ref(), &destination(1));
    assert_eq!(entry(bench, 1).unwrap().destination, created);
    assert_eq!(bench.store.directory().destinations(&organization_id()).len(), 1);
    let again = bench.store.create_destination(destination(1), None).await;
    assert!(matches!(again, Err(StoreError::AlreadyExists)));
    let status = Arc::clone(&entry(bench, 1).unwrap().status);
    status.update_health(|health| health.failed(at(1), "answered 500".into()));
    let paused = Destination { state: DestinationState::Paused { since: at(1) }, ..destination(1) };
    let updated = bench.store.update_destination(paused, 1).await.unwrap();
    assert_eq!((updated.revision, updated.state.is_active()), (2, false));
    let present = entry(bench, 1).unwrap();
    assert_eq!(present.destination, updated);
    assert_eq!(present.status.health().consecutive_failures, 1, "all versions share the live status");
}

pub async fn the_limit_of_destinations_holds_under_concurrency(bench: &Bench) {
    let mut calls = JoinSet::new();
    for number in 0..20 {
        let store = Arc::clone(&bench.store);
        calls.spawn(async move {
            store.create_destination(destination(number), Some(DestinationQuota::at_most(5))).await
        });
    }
    let results = calls.join_all().await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 5);
    for refused in results.iter().filter_map(|result| result.as_ref().err()) {
        assert!(matches!(refused, StoreError::LimitReached { limit: 5, usage: 5 }), "{refused}");
    }
    assert_eq!(bench.store.directory().destination_ids().len(), 5);
}

pub async fn a_stale_revision_changes_nothing(bench: &Bench) {
    let missing = bench.store.update_destination(destination(1), 1).await;
    assert!(matches!(missing, Err(StoreError::NotFound)));
    bench.store.create_destination(destination(1), None).await.unwrap();
    bench.store.update_destination(destination(1), 1).await.unwrap();
    let named = Destination { display_name: "late".into(), ..destination(1) };
    let late = bench.store.update_destination(named, 1).await;
    assert!(matches!(late, Err(StoreError::Stale { expected: 1, found: 2 })));
    let late = bench.store.delete_destination(destination_id(1), Some(1)).await;
    assert!(matches!(late, Err(StoreError::Stale { expected: 1, found: 2 })));
    let present = entry(bench, 1).unwrap();
    assert_eq!((present.destination.revision, present.destination.display_name.as_str()), (2, "number 1"));
}

pub async fn a_deleted_destination_is_gone_and_its_deliveries_stay(bench: &Bench) {
    bench.store.create_destination(destination(1), None).await.unwrap();
    let event = bench.accept(new_event("a", &[durable(1)])).await;
    bench.store.delete_destination(destination_id(1), None).await.unwrap();
    assert!(entry(bench, 1).is_none());
    assert!(bench.store.directory().destinations(&organization_id()).is_empty());
    let again = bench.store.delete_destination(destination_id(1), None).await;
    assert!(matches!(again, Err(StoreError::NotFound)));
    assert_eq!(bench.list(query(&[1], 10)).await, [id_of(&event, 1)]);
    let health = vec![(destination_id(1), DestinationHealth::default())];
    bench.store.settle(Vec::new(), health).await.unwrap();
    bench.store.create_destination(destination(1), Some(DestinationQuota::at_most(1))).await.unwrap();
}

pub async fn an_organization_is_created_once_and_changed_by_revision(bench: &Bench) {
    let missing = bench.store.update_organization(organization(), 1).await;
    assert!(matches!(missing, Err(StoreError::NotFound)));
    bench.store.create_organization(organization()).await.unwrap();
    let again = bench.store.create_organization(organization()).await;
    assert!(matches!(again, Err(StoreError::AlreadyExists)));
    let renamed = Organization { plan: "large".into(), ..organization() };
    let updated = bench.store.update_organization(renamed.clone(), 1).await.unwrap();
    assert_eq!((updated.revision, updated.plan.as_str()), (2, "large"));
    let late = bench.store.update_organization(renamed, 1).await;
    assert!(matches!(late, Err(StoreError::Stale { expected: 1, found: 2 })));
    assert_eq!(bench.store.directory().organization(&organization_id()), Some(updated));
}

//! Promises about the audit log.

use super::*;
use crate::domain::audit::{AuditChange, AuditDenial, AuditEntry, AuditOutcome};
use crate::domain::id::AuditEntryId;
use crate::store::replay::ReplayStore;
use crate::store::{AuditQuery, DeliveryStore, DestinationStore, OrganizationStore, RetentionStore};

/// An entry of the millisecond, about `acme`, with values.
pub fn noted(number: i64) -> AuditEntry {
    let fields = |value: &str| serde_json::json!({ "url": value }).as_object().cloned();
    AuditEntry {
        id: AuditEntryId::make(at(number), [7; 10]),
        at: at(number),
        organization_id: organization_id().to_string(),
        principal: "ops".into(),
        remote_address: Some("192.0.2.1:99".parse().unwrap()),
        method: "m".into(),
        resource_id: "r".into(),
        outcome: AuditOutcome::Changed,
        request_id: "req".into(),
        change: AuditChange {
            changed_fields: vec!["url".into()],
            before: fields("https://old.example/"),
            after: fields("https://new.example/"),
        },
        count: 1,
        description: "changed".into(),
    }
}

fn denied(number: i64) -> AuditEntry {
    let outcome = AuditOutcome::Denied(AuditDenial::RoleMissing);
    AuditEntry {
        outcome,
        principal: "stranger".into(),
        organization_id: "no such id/".into(),
        ..noted(number)
    }
}

async fn all(bench: &Bench) -> Vec<AuditEntry> {
    let page = bench.store.audit(AuditQuery { limit: 1000, ..AuditQuery::default() }).await.unwrap();
    assert_eq!(page.next, None);
    page.rows
}

/// The numbers of things that the log tells of, the latest first.
async fn counts(bench: &Bench) -> Vec<u64> {
    all(bench).await.iter().map(|entry| entry.count).collect()
}

pub async fn a_change_leaves_its_entry_and_a_call_that_changes_nothing_leaves_none(bench: &Bench) {
    let store = |number| bench.store.noting(noted(number));
    store(1).create_organization(organization()).await.unwrap();
    store(2).create_organization(organization()).await.unwrap_err();
    store(3).update_organization(organization(), 1).await.unwrap();
    store(4).create_destination(destination(1), None).await.unwrap();
    store(5).create_destination(destination(2), Some(1)).await.unwrap_err();
    store(6).update_destination(destination(1), 1).await.unwrap();
    store(7).update_destination(destination(1), 1).await.unwrap_err();
    let events = [
        bench.accept(new_event("a", &[durable(1)])).await,
        bench.accept(new_event("a", &[durable(1)])).await,
    ];
    let ids: Vec<_> = events.iter().map(|event| id_of(event, 1)).collect();
    store(8).requeue(ids.clone(), CycleCause::Resend, at(8)).await.unwrap();
    let cancelled = || DeliveryState::Cancelled { at: at(9) };
    store(9).end(ids.clone(), StateKind::Waiting, cancelled()).await.unwrap();
    store(10).end(ids.clone(), StateKind::Waiting, cancelled()).await.unwrap();
    store(11).erase_event(events[0].key, at(11)).await.unwrap();
    store(12).erase_event(events[0].key, at(12)).await.unwrap();
    let scope = replays::scope(crate::domain::replay::ReplayKind::Missed, Some(1));
    let replay = store(13).create_replay(replays::replay(1, scope)).await.unwrap();
    store(14).cancel_replay(replay.id, at(14)).await.unwrap();
    store(15).cancel_replay(replay.id, at(15)).await.unwrap();
    store(16).delete_destination(destination_id(1), None).await.unwrap();
    store(17).delete_destination(destination_id(1), None).await.unwrap_err();
    store(18).begin_erasure(&organization_id(), None).await.unwrap();
    store(19).begin_erasure(&organization_id(), None).await.unwrap();
    // A change without an entry is no change of the log.
    bench
        .store
        .create_destination(Destination { organization_id: other(), ..destination(3) }, None)
        .await
        .unwrap();
    let left = all(bench).await;
    let numbers: Vec<i64> = left.iter().map(|entry| entry.at.as_millis() - at(0).as_millis()).collect();
    assert_eq!(numbers, [18, 16, 14, 13, 11, 9, 8, 6, 4, 3, 1]);
    assert_eq!(left[7], noted(6));
    assert_eq!(counts(bench).await, [1, 1, 1, 1, 1, 2, 2, 1, 1, 1, 1]);
}

fn other() -> OrganizationId {
    OrganizationId::parse("other").unwrap()
}

pub async fn the_log_is_listed_latest_first_by_pages_and_filters(bench: &Bench) {
    let theirs = AuditEntry { organization_id: "other".into(), method: "n".into(), ..noted(3) };
    let entries = vec![noted(1), denied(2), theirs, noted(4), noted(5)];
    bench.store.record_audit(entries.clone()).await.unwrap();
    let ask = async |query: AuditQuery| {
        let (mut rows, mut next) = (Vec::new(), AuditQuery { limit: 2, ..query });
        loop {
            let page = bench.store.audit(next.clone()).await.unwrap();
            assert!(page.rows.len() <= 2);
            rows.extend(page.rows.iter().map(|entry| entry.at.as_millis() - at(0).as_millis()));
            next.after = page.next;
            if page.next.is_none() {
                return rows;
            }
        }
    };
    let any = AuditQuery::default;
    assert_eq!(ask(any()).await, [5, 4, 3, 2, 1]);
    assert_eq!(ask(AuditQuery { organization_id: Some(organization_id()), ..any() }).await, [5, 4, 1]);
    assert_eq!(ask(AuditQuery { organization_id: Some(other()), ..any() }).await, [3]);
    assert_eq!(ask(AuditQuery { principal: "stranger".into(), ..any() }).await, [2]);
    assert_eq!(ask(AuditQuery { method: "n".into(), ..any() }).await, [3]);
    assert_eq!(ask(AuditQuery { resource_id: "q".into(), ..any() }).await, [0; 0]);
    assert_eq!(ask(AuditQuery { denied: Some(true), ..any() }).await, [2]);
    assert_eq!(ask(AuditQuery { denied: Some(false), ..any() }).await, [5, 4, 3, 1]);
    assert_eq!(ask(AuditQuery { from: Some(at(2)), until: Some(at(4)), ..any() }).await, [3, 2]);
    let mine = AuditQuery { organization_id: Some(organization_id()), from: Some(at(2)), ..any() };
    assert_eq!(ask(mine).await, [5, 4]);
}

pub async fn entries_go_by_age_alone_the_oldest_first(bench: &Bench) {
    let large = vec!["x".repeat(100); 200];
    let change = AuditChange { changed_fields: large, ..AuditChange::default() };
    let entries = vec![AuditEntry { change, ..noted(1) }, denied(2), noted(3)];
    bench.store.record_audit(entries).await.unwrap();
    assert_eq!(bench.store.expire_audit(at(1), 9).await.unwrap(), 0);
    assert_eq!(bench.store.expire_audit(at(3), 1).await.unwrap(), 1);
    assert_eq!(all(bench).await, [noted(3), denied(2)]);
    assert_eq!(bench.store.expire_audit(at(3), 9).await.unwrap(), 1);
    assert_eq!(all(bench).await, [noted(3)]);
    let mine = AuditQuery { organization_id: Some(organization_id()), limit: 9, ..AuditQuery::default() };
    assert_eq!(bench.store.audit(mine).await.unwrap().rows, [noted(3)]);
}

pub async fn of_an_erased_organization_the_log_keeps_that_and_not_what(bench: &Bench) {
    let theirs = AuditEntry { organization_id: "other".into(), ..noted(3) };
    bench.store.record_audit(vec![noted(1), noted(2), theirs.clone(), noted(4)]).await.unwrap();
    let mut after = None;
    for _ in 0..2 {
        after = bench.store.forget_audit_contents(&organization_id(), after, 2).await.unwrap();
    }
    let end = bench.store.forget_audit_contents(&organization_id(), after, 2).await.unwrap();
    assert_eq!(end, None);
    let left = all(bench).await;
    assert_eq!(left.len(), 4);
    for entry in left {
        if entry.organization_id == "other" {
            assert_eq!(entry, theirs);
        } else {
            assert!(entry.change.before.is_none() && entry.change.after.is_none());
            assert_eq!(entry.change.changed_fields, ["url"]);
        }
    }
}

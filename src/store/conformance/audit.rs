//! Promises about the audit log.

use super::*;
use crate::domain::audit::{AuditChange, AuditDenial, AuditEntry, AuditOutcome};
use crate::domain::id::AuditEntryId;
use crate::store::AuditQuery;

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

/// Which entries are left, by their numbers, the latest first, and of how many things each tells.
async fn left(bench: &Bench) -> Vec<(i64, u64)> {
    all(bench).await.iter().map(|entry| (entry.at.as_millis() - START, entry.count)).collect()
}

fn other() -> OrganizationId {
    OrganizationId::parse("other").unwrap()
}

pub async fn a_change_leaves_its_entry_and_a_call_that_changes_nothing_leaves_none(bench: &Bench) {
    let store = |number| bench.store.noting(noted(number));
    store(1).create_organization(organization()).await.unwrap();
    store(2).create_organization(organization()).await.unwrap_err();
    store(3).update_organization(organization(), 1).await.unwrap();
    store(4).create_destination(destination(1), None).await.unwrap();
    store(5).create_destination(destination(2), Some(DestinationQuota::at_most(1))).await.unwrap_err();
    store(6).update_destination(destination(1), 1).await.unwrap();
    store(7).update_destination(destination(1), 1).await.unwrap_err();
    store(8).delete_destination(destination_id(1), None).await.unwrap();
    store(9).delete_destination(destination_id(1), None).await.unwrap_err();
    store(10).begin_erasure(&organization_id(), None).await.unwrap();
    store(11).begin_erasure(&organization_id(), None).await.unwrap();
    // A change without an entry is no change of the log.
    let unnoted = Destination { organization_id: other(), ..destination(3) };
    bench.store.create_destination(unnoted, None).await.unwrap();
    assert_eq!(left(bench).await, [(10, 1), (8, 1), (6, 1), (4, 1), (3, 1), (1, 1)]);
    assert_eq!(all(bench).await[2], noted(6));
}

pub async fn an_entry_says_of_how_many_deliveries_it_tells(bench: &Bench) {
    let store = |number| bench.store.noting(noted(number));
    let routes = [durable(1)];
    let events = [bench.accept(new_event("a", &routes)).await, bench.accept(new_event("a", &routes)).await];
    let ids: Vec<_> = events.iter().map(|event| id_of(event, 1)).collect();
    store(1).requeue(ids.clone(), CycleCause::Resend, at(1)).await.unwrap();
    let cancelled = || DeliveryState::Cancelled { at: at(9) };
    store(2).end(ids.clone(), StateKind::Waiting, cancelled()).await.unwrap();
    store(3).end(ids.clone(), StateKind::Waiting, cancelled()).await.unwrap();
    store(4).erase_event(events[0].key, at(4)).await.unwrap();
    store(5).erase_event(events[0].key, at(5)).await.unwrap();
    let scope = replays::scope(crate::domain::replay::ReplayKind::Missed, Some(1));
    let replay = store(6).create_replay(replays::replay(1, scope)).await.unwrap();
    store(7).cancel_replay(replay.id, at(7)).await.unwrap();
    store(8).cancel_replay(replay.id, at(8)).await.unwrap();
    assert_eq!(left(bench).await, [(7, 1), (6, 1), (4, 1), (2, 2), (1, 2)]);
}

/// The numbers of the entries that fit, read in pages of two.
async fn ask(bench: &Bench, query: AuditQuery) -> Vec<i64> {
    let (mut rows, mut next) = (Vec::new(), AuditQuery { limit: 2, ..query });
    loop {
        let page = bench.store.audit(next.clone()).await.unwrap();
        assert!(page.rows.len() <= 2);
        rows.extend(page.rows.iter().map(|entry| entry.at.as_millis() - START));
        next.after = page.next;
        if page.next.is_none() {
            return rows;
        }
    }
}

pub async fn the_log_is_listed_latest_first_by_pages_and_filters(bench: &Bench) {
    let theirs = AuditEntry { organization_id: "other".into(), method: "n".into(), ..noted(3) };
    bench.store.record_audit(vec![noted(1), denied(2), theirs, noted(4), noted(5)]).await.unwrap();
    let any = AuditQuery::default;
    let of = |id: OrganizationId| AuditQuery { organization_id: Some(id), ..any() };
    let cases: [(AuditQuery, &[i64]); 10] = [
        (any(), &[5, 4, 3, 2, 1]),
        (of(organization_id()), &[5, 4, 1]),
        (of(other()), &[3]),
        (AuditQuery { principal: "stranger".into(), ..any() }, &[2]),
        (AuditQuery { method: "n".into(), ..any() }, &[3]),
        (AuditQuery { resource_id: "q".into(), ..any() }, &[]),
        (AuditQuery { denied: Some(true), ..any() }, &[2]),
        (AuditQuery { denied: Some(false), ..any() }, &[5, 4, 3, 1]),
        (AuditQuery { from: Some(at(2)), until: Some(at(4)), ..any() }, &[3, 2]),
        (AuditQuery { from: Some(at(2)), ..of(organization_id()) }, &[5, 4]),
    ];
    for (query, wanted) in cases {
        assert_eq!(ask(bench, query.clone()).await, wanted, "{query:?}");
    }
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

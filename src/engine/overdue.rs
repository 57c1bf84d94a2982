//! What has come to its end while it waited and is in no lane's window.
//!
//! A lane ends by itself what it knows of, and reads on where that leaves room. What it does not see is a retry
//! that waits for a later time than all that are in its window, and was begun before them. Where replicas share a
//! store, each looks at the lanes that it owns; those of one that is gone are soon somebody's, who does it then.

use std::time::Duration;

use tokio::time::Instant;

use crate::clock::SharedClock;
use crate::contract::effective_policy;
use crate::domain::id::DestinationId;
use crate::domain::settings::EffectivePolicy;
use crate::domain::time::Timestamp;
use crate::engine::ending::{Waited, settle_waited};
use crate::engine::janitor::{BUDGET, note, pause_after};
use crate::policy::retry::{Ending, ends_waiting};
use crate::store::directory::DestinationEntry;
use crate::store::{DueEntry, Settlement, Stage, Store, StoreError};

/// What ends while it waits is left to its lane for so long.
const LANES_TURN: Duration = Duration::from_secs(60);

/// Looks at each destination of ours that has more in the store than in its window.
pub(super) async fn end_overdue(store: &dyn Store, clock: &SharedClock) {
    let destinations = match store.destinations_with_work().await {
        Ok(destinations) => destinations,
        Err(error) => return note(&error, "what has waited too long could not be looked for"),
    };
    for id in destinations {
        let Some(entry) = store.directory().destination(id).filter(|_| store.owns(id)) else { continue };
        let policy = effective_policy(&entry.destination);
        let ends_by_time = policy.discard_after.is_some() || policy.retry.give_up_after.is_some();
        if ends_by_time
            && entry.status.lane().more_in_store
            && let Err(error) = end_of(store, clock, (id, &entry), &policy).await
        {
            note(&error, "what has waited too long could not be ended");
        }
    }
}

async fn end_of(
    store: &dyn Store,
    clock: &SharedClock,
    (id, entry): (DestinationId, &DestinationEntry),
    policy: &EffectivePolicy,
) -> Result<(), StoreError> {
    let mut after = None;
    loop {
        let (begun, now) = (Instant::now(), clock.now());
        let page = store.load_due(id, after, BUDGET).await?;
        let mut settlements: Vec<Settlement> = Vec::new();
        for row in page.rows.iter().filter(|row| !entry.status.is_in_flight(row.id.event_key)) {
            if let Some(ending) = overdue(policy, row, now) {
                let (stage, guarantee) = (Stage::Due(row.due), policy.guarantee);
                let waited = Waited { id: row.id, stage, guarantee, cycle: row.cycle };
                settlements.push(settle_waited(store, waited, ending, now).await);
            }
        }
        // It may be somebody else's by now.
        if !settlements.is_empty() && store.owns(id) {
            store.settle(settlements, Vec::new()).await?;
        }
        after = page.rows.last().map(|row| (row.due, row.id.event_key));
        if !page.more {
            return Ok(());
        }
        pause_after(begun).await;
    }
}

/// How what waits has ended, if it has for so long that its lane can't know of it.
fn overdue(policy: &EffectivePolicy, row: &DueEntry, now: Timestamp) -> Option<Ending> {
    let (at, ending) = ends_waiting(policy, policy.guarantee, row.cycle, row.id.event_key.made_at())?;
    (now >= at + LANES_TURN).then_some(ending)
}

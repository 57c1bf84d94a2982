//! The latest changes of deliveries, in memory, for those who watch.
//!
//! The store adds to the feed after each commit and never waits for anybody: the feed holds a bounded number
//! of changes, and a watcher that is slower than that reads what it missed from the store.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::domain::attempt::{Attempt, Outcome};
use crate::domain::delivery::Delivery;
use crate::domain::time::Timestamp;

/// How many changes are held; some megabytes.
const HELD: usize = 8192;

/// A delivery after a change of its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Counts the changes since the store was opened, from 1.
    pub sequence: u64,
    /// The delivery, with the latest attempt only, and without the body of its answer.
    pub delivery: Delivery,
}

/// A place in the feed: behind the change with this sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Which opening of the store it belongs to.
    pub epoch: u64,
    /// The last change that was seen.
    pub sequence: u64,
}

/// The changes behind a place are no longer all here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overtaken;

/// The latest changes.
#[derive(Debug)]
pub struct ChangeFeed {
    epoch: u64,
    changes: Mutex<VecDeque<Arc<Change>>>,
    last: watch::Sender<u64>,
}

impl Default for ChangeFeed {
    fn default() -> Self {
        Self { epoch: fastrand::u64(..), changes: Mutex::default(), last: watch::Sender::new(0) }
    }
}

impl ChangeFeed {
    /// The place behind all changes so far.
    #[must_use]
    pub fn now(&self) -> Place {
        Place { epoch: self.epoch, sequence: *self.last.borrow() }
    }

    /// The changes behind a place, at most `limit`.
    ///
    /// # Errors
    /// [`Overtaken`] where some of them are gone, or the place is of another opening of the store.
    pub fn after(&self, place: Place, limit: usize) -> Result<Vec<Arc<Change>>, Overtaken> {
        let changes = self.lock();
        if place.epoch != self.epoch {
            return Err(Overtaken);
        }
        let last = changes.back().map_or(0, |change| change.sequence);
        let missing = last.saturating_sub(place.sequence);
        let missing = usize::try_from(missing).unwrap_or(usize::MAX);
        let Some(skip) = changes.len().checked_sub(missing) else { return Err(Overtaken) };
        Ok(changes.iter().skip(skip).take(limit).map(Arc::clone).collect())
    }

    /// Waits until there is a change behind a place.
    pub async fn changed(&self, place: Place) {
        let mut last = self.last.subscribe();
        // The sender is ours, so this can't fail.
        drop(last.wait_for(|last| *last > place.sequence).await);
    }

    /// Store implementations only: these deliveries have changed, in this order.
    pub fn publish(&self, deliveries: impl IntoIterator<Item = Delivery>) {
        let mut changes = self.lock();
        let mut sequence = *self.last.borrow();
        for delivery in deliveries {
            sequence += 1;
            if changes.len() == HELD {
                changes.pop_front();
            }
            changes.push_back(Arc::new(Change { sequence, delivery }));
        }
        drop(changes);
        self.last.send_replace(sequence);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<Change>>> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A delivery as the feed holds it.
#[must_use]
pub fn slim(delivery: &Delivery) -> Delivery {
    let latest = delivery.attempts.last().map(without_body);
    Delivery {
        id: delivery.id,
        organization_id: delivery.organization_id.clone(),
        event_id: delivery.event_id.clone(),
        event_type: delivery.event_type.clone(),
        created_at: delivery.created_at,
        guarantee: delivery.guarantee,
        state: delivery.state.clone(),
        attempt_count: delivery.attempt_count,
        cycle: delivery.cycle,
        attempts: latest.into_iter().collect(),
        replay_id: delivery.replay_id,
    }
}

fn without_body(attempt: &Attempt) -> Attempt {
    let outcome = match &attempt.outcome {
        Outcome::Answered { status, retry_after, .. } => {
            Outcome::Answered { status: *status, retry_after: *retry_after, body: bytes::Bytes::new() }
        }
        other => other.clone(),
    };
    Attempt { outcome, ..attempt.clone() }
}

/// When a delivery changed last, as far as its record tells.
#[must_use]
pub fn changed_at(delivery: &Delivery) -> Timestamp {
    let ended = delivery.attempts.last().map(|attempt| attempt.started_at + attempt.round_trip);
    let finished = delivery.state.finished_at();
    let known = [ended, finished, Some(delivery.cycle.started_at)];
    known.into_iter().flatten().fold(delivery.created_at, Timestamp::max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::delivery::{Cycle, CycleCause, DeliveryState};
    use crate::domain::event::EventType;
    use crate::domain::id::{DeliveryId, DestinationId, EventId, EventKey, OrganizationId};
    use crate::domain::settings::Guarantee;

    fn delivery() -> Delivery {
        let at = Timestamp::from_millis(1000);
        Delivery {
            id: DeliveryId::new(EventKey::MAX, DestinationId::make(at, [7; 10])),
            organization_id: OrganizationId::parse("org_a").unwrap(),
            event_id: EventId::parse("evt-7").unwrap(),
            event_type: EventType::parse("kpi.alert").unwrap(),
            created_at: at,
            guarantee: Guarantee::AtLeastOnce,
            state: DeliveryState::Waiting { due: at },
            attempt_count: 0,
            cycle: Cycle { cause: CycleCause::Routed, started_at: at, attempts: 0 },
            attempts: Vec::new(),
            replay_id: None,
        }
    }

    #[tokio::test]
    async fn a_watcher_reads_on_behind_its_place_and_learns_that_it_was_overtaken() {
        let feed = ChangeFeed::default();
        let start = feed.now();
        assert_eq!(feed.after(start, 10), Ok(Vec::new()));
        feed.publish([delivery(), delivery(), delivery()]);
        feed.changed(start).await;
        let sequences = |place, limit| -> Vec<u64> {
            feed.after(place, limit).unwrap().iter().map(|change| change.sequence).collect()
        };
        assert_eq!(sequences(start, 2), [1, 2]);
        assert_eq!(sequences(Place { sequence: 2, ..start }, 2), [3]);
        feed.publish((0..HELD - 3).map(|_| delivery()));
        assert_eq!(sequences(start, 1), [1]);
        feed.publish([delivery()]);
        assert_eq!(feed.after(start, 1), Err(Overtaken));
        assert_eq!(sequences(Place { sequence: 1, ..start }, 1), [2]);
        assert_eq!(feed.after(Place { epoch: start.epoch ^ 1, sequence: 1 }, 1), Err(Overtaken));
    }
}

//! The replayer: moves the deliveries of replays back to where deliveries wait, at each replay's pace.
//!
//! Where a replay stands is in the store, and each step is recorded in the commit that does it. So this
//! task may stop at any moment; whoever looks next goes on from there. What a replay may do now is decided
//! in [`Course::turn`], purely.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::clock::SharedClock;
use crate::contract;
use crate::domain::contract::Contract;
use crate::domain::destination::{Destination, DestinationState};
use crate::domain::id::{DeliveryId, DestinationId, ReplayId};
use crate::domain::replay::{Replay, ReplayState};
use crate::domain::time::Timestamp;
use crate::policy::pace::Pace;
use crate::store::{CoverPage, CoverQuery, ReplayAction, ReplayStep, Store, StoreError, Wants};

/// How many deliveries are counted at a time.
const COUNT_PAGE: usize = 5000;
/// How long a replay waits after the store could not do its step.
const STORE_RETRY: Duration = Duration::from_secs(1);
/// How soon a replica that does not lead looks whether it does.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// The loop looks at its timers at least this often, so that a clock that was set is noticed.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// A replay that runs, and its pace.
#[derive(Debug, Clone)]
pub struct Course {
    replay: Replay,
    pace: Pace,
    /// After an error of the store, nothing before this.
    not_before: Timestamp,
}

/// What a replay may do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Count on after this one.
    Count(Option<DeliveryId>),
    /// Put so many back that come after this one.
    Send(Option<DeliveryId>, usize),
    /// Nothing before this moment.
    WaitUntil(Timestamp),
    /// Nothing ever: it does not run any more.
    End,
}

impl Course {
    /// The course of a replay that goes on now.
    #[must_use]
    pub fn new(replay: Replay, now: Timestamp) -> Self {
        let pace = Pace::new(replay.per_second, now);
        Self { replay, pace, not_before: now }
    }

    /// What it may do now.
    #[must_use]
    pub fn turn(&self, now: Timestamp) -> Turn {
        if now < self.not_before {
            return Turn::WaitUntil(self.not_before);
        }
        match self.replay.state {
            ReplayState::Counting { after } => Turn::Count(after),
            ReplayState::Sending { after } => match self.pace.due(now) {
                0 => Turn::WaitUntil(self.pace.group_due_at()),
                due => Turn::Send(after, due),
            },
            ReplayState::Completed { .. } | ReplayState::Cancelled { .. } | ReplayState::Failed { .. } => {
                Turn::End
            }
        }
    }

    /// When it should be asked again: not for each single delivery, but for groups.
    fn wake_at(&self, now: Timestamp) -> Timestamp {
        match self.turn(now) {
            Turn::Send(..) => self.pace.group_due_at().max(self.not_before),
            Turn::WaitUntil(moment) => moment,
            Turn::Count(_) | Turn::End => now,
        }
    }
}

/// Steps all replays of a store.
pub struct Replayer {
    store: Arc<dyn Store>,
    clock: SharedClock,
    changed: Arc<Notify>,
    semaphor_enabled: bool,
    courses: BTreeMap<ReplayId, Course>,
    /// Whether the store could not say which replays run.
    unread: bool,
}

impl Replayer {
    /// One that knows of no replay yet; `changed` wakes it when one is started or cancelled.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        clock: SharedClock,
        changed: Arc<Notify>,
        semaphor_enabled: bool,
    ) -> Self {
        Self { store, clock, changed, semaphor_enabled, courses: BTreeMap::new(), unread: false }
    }

    /// Steps replays until it is told to stop, which it does after the step that it is doing.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut pause = self.look_up().await;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.changed.notified() => pause = self.look_up().await,
                () = tokio::time::sleep(pause) => pause = self.take_turns(&stop).await,
            }
        }
    }

    /// Finds out which replays run.
    async fn look_up(&mut self) -> Duration {
        if !self.store.leads() {
            // Whoever leads hears of the same changes.
            self.courses.clear();
            self.unread = true;
            return LOOK_AGAIN;
        }
        let now = self.clock.now();
        let running = match self.store.running_replays().await {
            Ok(running) => running,
            Err(error) => {
                tracing::error!(%error, "replays could not be read");
                self.unread = true;
                return STORE_RETRY;
            }
        };
        self.unread = false;
        let mut known = std::mem::take(&mut self.courses);
        for replay in running {
            let course = match known.remove(&replay.id) {
                Some(course) => Course { replay, ..course },
                None => Course::new(replay, now),
            };
            self.courses.insert(course.replay.id, course);
        }
        self.until_next_turn()
    }

    fn until_next_turn(&self) -> Duration {
        let now = self.clock.now();
        let moments = self.courses.values().map(|course| course.wake_at(now));
        moments.min().map_or(LONGEST_SLEEP, |moment| moment.since(now)).min(LONGEST_SLEEP)
    }

    /// Lets each replay do one step, if it may.
    async fn take_turns(&mut self, stop: &CancellationToken) -> Duration {
        if self.unread || !self.store.leads() {
            return self.look_up().await;
        }
        let ids: Vec<ReplayId> = self.courses.keys().copied().collect();
        for id in ids {
            let Some(course) = self.courses.remove(&id) else { continue };
            if stop.is_cancelled() {
                return Duration::ZERO;
            }
            let course = self.take_turn(course).await;
            if course.replay.state.is_running() {
                self.courses.insert(id, course);
            } else {
                log_end(&course.replay);
            }
        }
        self.until_next_turn()
    }

    async fn take_turn(&self, mut course: Course) -> Course {
        let now = self.clock.now();
        let (step, taken) = match course.turn(now) {
            Turn::Count(after) => (self.count(&course.replay, after).await, 0),
            Turn::Send(after, due) => {
                let step = self.send(&course.replay, after, due).await;
                let taken = step.as_ref().map_or(0, sent);
                (step, taken)
            }
            Turn::WaitUntil(_) | Turn::End => return course,
        };
        course.pace.take(taken, now);
        match self.record(&course.replay, step).await {
            Ok(replay) => course.replay = replay,
            Err(error) => {
                tracing::error!(replay.id = %course.replay.id, %error, "a step of a replay failed; it is tried again");
                course.not_before = now + STORE_RETRY;
            }
        }
        course
    }

    async fn record(
        &self,
        replay: &Replay,
        action: Result<ReplayAction, StoreError>,
    ) -> Result<Replay, StoreError> {
        let step = ReplayStep { from: replay.state.clone(), action: action? };
        self.store.step_replay(replay.id, step, self.clock.now()).await
    }

    async fn count(&self, replay: &Replay, after: Option<DeliveryId>) -> Result<ReplayAction, StoreError> {
        let destinations: Vec<_> = match replay.scope.destination_id {
            Some(id) => vec![id],
            None => self.destinations_of(replay, |_| true),
        };
        match self.covered(replay, destinations, after, COUNT_PAGE).await? {
            Ok(CoverPage { ids, next }) => Ok(ReplayAction::Count { found: ids.len() as u64, next }),
            Err(problem) => Ok(ReplayAction::Fail(problem)),
        }
    }

    async fn send(
        &self,
        replay: &Replay,
        after: Option<DeliveryId>,
        due: usize,
    ) -> Result<ReplayAction, StoreError> {
        let destinations = match replay.scope.destination_id {
            Some(id) => match self.obstacle(id) {
                Some(problem) => return Ok(ReplayAction::Fail(problem)),
                None => vec![id],
            },
            // Those of the others are what is left in the end: passed over.
            None => self.destinations_of(replay, |destination| self.hindrance(destination).is_none()),
        };
        match self.covered(replay, destinations, after, due).await? {
            Ok(CoverPage { ids, next }) => Ok(ReplayAction::Send { ids, next }),
            Err(problem) => Ok(ReplayAction::Fail(problem)),
        }
    }

    fn destinations_of(
        &self,
        replay: &Replay,
        is_meant: impl Fn(&Destination) -> bool,
    ) -> Vec<DestinationId> {
        let entries = self.store.directory().destinations(&replay.organization_id);
        let meant = entries.iter().filter(|entry| is_meant(&entry.destination));
        meant.map(|entry| entry.destination.id).collect()
    }

    async fn covered(
        &self,
        replay: &Replay,
        destination_ids: Vec<DestinationId>,
        after: Option<DeliveryId>,
        limit: usize,
    ) -> Result<Result<CoverPage, String>, StoreError> {
        let wants: Wants = match replay.scope.destination_id.map(|id| self.store.directory().destination(id))
        {
            Some(None) => return Ok(Err(DELETED.to_owned())),
            Some(Some(entry)) => {
                Arc::new(move |event_type, level| contract::wants(&entry.destination, event_type, level))
            }
            None => Arc::new(|_, _| true),
        };
        let query = CoverQuery {
            organization_id: replay.organization_id.clone(),
            scope: replay.scope.clone(),
            destination_ids,
            wants,
            by: replay.created_at,
            after,
            limit,
        };
        self.store.covered(query).await.map(Ok)
    }

    /// Why nothing can be put back for the one destination of a replay.
    fn obstacle(&self, id: DestinationId) -> Option<String> {
        match self.store.directory().destination(id) {
            Some(entry) => self.hindrance(&entry.destination),
            None => Some(DELETED.to_owned()),
        }
    }

    fn hindrance(&self, destination: &Destination) -> Option<String> {
        if let DestinationState::Disabled { reason, .. } = &destination.state {
            return Some(format!("the destination was disabled: {}", reason.as_sentence()));
        }
        let off = destination.contract == Contract::Semaphor && !self.semaphor_enabled;
        off.then(|| format!("delivery to {} destinations was switched off", destination.contract))
    }
}

const DELETED: &str = "the destination was deleted";

fn sent(action: &ReplayAction) -> usize {
    match action {
        ReplayAction::Send { ids, .. } => ids.len(),
        ReplayAction::Count { .. } | ReplayAction::Fail(_) => 0,
    }
}

fn log_end(replay: &Replay) {
    let Replay { id, total, replayed, skipped, state, .. } = replay;
    match state {
        ReplayState::Failed { error, .. } => {
            tracing::warn!(replay.id = %id, total, replayed, error, "replay failed");
        }
        _ => tracing::info!(replay.id = %id, total, replayed, skipped, "replay ended"),
    }
}

#[cfg(test)]
#[path = "replayer_tests.rs"]
mod tests;

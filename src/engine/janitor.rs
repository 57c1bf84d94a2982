//! The janitor: removes what is too old or one too many, tells of dead letters before they expire, and erases
//! organizations.
//!
//! It works in small steps behind everybody else: it pauses after each step for as long as the step took,
//! and longer when the store is busy. What it has not done when the process stops, the next one does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::SharedClock;
use crate::domain::id::OrganizationId;
use crate::domain::retention::Retention;
use crate::engine::announce::announce;
use crate::engine::notices::{Notice, Notices};
use crate::store::retention::{Cuts, SweepFrom, Swept};
use crate::store::{Store, StoreError};

/// How many events or records go in one step.
const BUDGET: usize = 64;
/// The pause after a step is at least and at most this.
const PAUSE: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(250));
/// How long it waits when the store is busy or can't be used.
const BUSY_PAUSE: Duration = Duration::from_secs(1);
/// How often it looks for organizations to erase.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The time between two passes is a part of the shortest retention, within these bounds.
const PASS_PART: u32 = 24;
const PASS_EVERY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15 * 60));
/// Removing early ends when so much less than the limit is stored: a twentieth of it.
const RELIEF_PART: u64 = 20;
/// What is younger is never removed early, so that a call that is repeated at once finds its first.
const EARLIEST: Duration = Duration::from_secs(60);
/// How long it waits when there was not enough to remove early.
const RELIEF_AGAIN: Duration = Duration::from_secs(10);
/// How often early removal is logged.
const RELIEF_LOGGED_EVERY: Duration = Duration::from_secs(60);
/// How many organizations are looked at together for their plans.
const ORGANIZATIONS: usize = 1000;

/// What the janitor goes by.
#[derive(Debug, Clone)]
pub struct JanitorOptions {
    /// The server's own times.
    pub retention: Retention,
    /// The history of the plans that have a time of their own.
    pub plans: BTreeMap<String, Duration>,
    /// The plan of organizations that name none, or one that is gone.
    pub default_plan: String,
    /// The names of all plans.
    pub known_plans: Vec<String>,
}

/// Removes what is too old, and what is one too many.
pub struct Janitor {
    store: Arc<dyn Store>,
    clock: SharedClock,
    options: JanitorOptions,
    notices: Notices,
    relief: Relief,
}

/// What removing early has come to.
#[derive(Debug, Default)]
struct Relief {
    /// Nothing more can be removed before this.
    not_before: Option<Instant>,
    /// What was removed since it was last logged, and when that was.
    unlogged: Swept,
    logged_at: Option<Instant>,
}

impl Janitor {
    /// A janitor of a store.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, clock: SharedClock, options: JanitorOptions) -> Self {
        let notices = Notices::new(&options.retention);
        Self { store, clock, options, notices, relief: Relief::default() }
    }

    /// Works until it is stopped. It may be dropped at any time: each step is whole by itself.
    pub async fn run(mut self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.work() => {}
        }
    }

    async fn work(&mut self) {
        let mut next_pass = Instant::now();
        loop {
            for id in self.store.directory().erasing() {
                self.erase(&id).await;
            }
            if Instant::now() >= next_pass {
                self.pass().await;
                next_pass = Instant::now() + self.pass_every();
            }
            self.relieve().await;
            let pause = next_pass.saturating_duration_since(Instant::now());
            tokio::time::sleep(pause.min(LOOK_EVERY)).await;
        }
    }

    fn pass_every(&self) -> Duration {
        let Retention { history, dead_letters, .. } = self.options.retention;
        let shortest = self.options.plans.values().copied().fold(history.min(dead_letters), Duration::min);
        (shortest / PASS_PART).clamp(PASS_EVERY.0, PASS_EVERY.1)
    }

    /// Looks at everything once.
    async fn pass(&mut self) {
        let cuts = Arc::new(self.cuts());
        let mut total = Swept::default();
        let mut next = Some(SweepFrom::DeadLetters(None));
        while let Some(from) = next {
            // A pass over much may take long.
            self.relieve().await;
            let mut swept = self.step(&cuts, from).await;
            next = swept.next.take();
            self.notices.gather(std::mem::take(&mut swept.expiring));
            if !matches!(next, Some(SweepFrom::DeadLetters(_))) {
                self.give_notice().await;
            }
            add(&mut total, &swept);
        }
        let Swept { expired, removed, replays, .. } = total;
        if expired + removed + replays > 0 {
            tracing::info!(events = removed, dead_letters = expired, replays, "removed what was too old");
        }
    }

    /// One step, and the pause after it; where the store is busy the same step comes again.
    async fn step(&self, cuts: &Arc<Cuts>, from: SweepFrom) -> Swept {
        let begun = Instant::now();
        let swept = match self.store.sweep(Arc::clone(cuts), from, BUDGET).await {
            Ok(swept) => swept,
            Err(error) => {
                note(&error, "what is to go could not be removed");
                tokio::time::sleep(BUSY_PAUSE).await;
                Swept { next: Some(from), ..Swept::default() }
            }
        };
        pause_after(begun).await;
        swept
    }

    /// Tells organizations of dead letters that expire soon.
    async fn give_notice(&mut self) {
        for Notice { organization_id, subject, event } in self.notices.take(self.clock.now()) {
            // With its destination gone, nothing can be done about a dead letter.
            if self.store.directory().destination(subject.1).is_none() {
                continue;
            }
            match announce(&*self.store, &organization_id, &event).await {
                Ok(()) => self.notices.told(subject),
                Err(error) => note(&error, "dead letters that expire were not told of"),
            }
        }
    }

    /// Removes the oldest of what is finished while more is stored than may be.
    async fn relieve(&mut self) {
        let Some(most) = self.options.retention.max_bytes else { return };
        let waits = self.relief.not_before.is_some_and(|moment| Instant::now() < moment);
        if waits || self.store.footprint().bytes <= most {
            return;
        }
        let goal = most - most / RELIEF_PART;
        let cuts = Arc::new(self.early_cuts());
        let mut next = SweepFrom::Events(None);
        loop {
            let mut swept = self.step(&cuts, next).await;
            let place = swept.next.take();
            add(&mut self.relief.unlogged, &swept);
            if self.store.footprint().bytes <= goal {
                break;
            }
            match place {
                Some(from @ SweepFrom::Events(_)) => next = from,
                Some(SweepFrom::DeadLetters(_) | SweepFrom::Replays(_)) | None => {
                    self.relief.not_before = Some(Instant::now() + RELIEF_AGAIN);
                    break;
                }
            }
        }
        self.log_relief(most);
    }

    fn early_cuts(&self) -> Cuts {
        let now = self.clock.now();
        Cuts {
            now,
            history: now - EARLIEST.min(self.options.retention.history),
            exceptions: std::collections::HashMap::new(),
            dead_letters: now - self.options.retention.dead_letters,
            notice: None,
            early: true,
        }
    }

    fn log_relief(&mut self, most: u64) {
        if self.relief.logged_at.is_some_and(|at| at.elapsed() < RELIEF_LOGGED_EVERY) {
            return;
        }
        self.relief.logged_at = Some(Instant::now());
        let Swept { expired, removed, .. } = std::mem::take(&mut self.relief.unlogged);
        let stored_bytes = self.store.footprint().bytes;
        if stored_bytes > most {
            tracing::warn!(
                stored_bytes,
                max_size = most,
                "more is stored than retention.max_size, and the rest of it waits or is too young to be removed"
            );
        }
        if removed > 0 {
            let (events, dead_letters) = (removed, expired);
            tracing::warn!(
                events,
                dead_letters,
                stored_bytes,
                max_size = most,
                "removed before its time, because more was stored than retention.max_size"
            );
        }
    }

    async fn erase(&mut self, id: &OrganizationId) {
        let mut from = None;
        loop {
            self.relieve().await;
            let begun = Instant::now();
            match self.store.erase_step(id, from.clone(), BUDGET).await {
                Ok(None) => break,
                Ok(next) => from = next,
                Err(error) => {
                    note(&error, "an organization could not be erased further");
                    tokio::time::sleep(BUSY_PAUSE).await;
                }
            }
            pause_after(begun).await;
        }
        tracing::info!(organization.id = %id, "organization erased");
    }

    fn cuts(&self) -> Cuts {
        let now = self.clock.now();
        let Retention { history, dead_letters, .. } = self.options.retention;
        let mut cuts = Cuts {
            now,
            history: now - self.default_history().unwrap_or(history),
            exceptions: std::collections::HashMap::new(),
            dead_letters: now - dead_letters,
            notice: self.notices.cut(now),
            early: false,
        };
        if self.options.plans.is_empty() {
            return cuts;
        }
        let mut after = None;
        loop {
            let page = self.store.directory().organizations(after.as_ref(), ORGANIZATIONS);
            for organization in &page {
                let kept = self.history_of(&organization.plan).unwrap_or(history);
                if now - kept != cuts.history {
                    cuts.exceptions.insert(organization.id.clone(), now - kept);
                }
            }
            after = page.last().map(|organization| organization.id.clone());
            if after.is_none() {
                return cuts;
            }
        }
    }

    fn default_history(&self) -> Option<Duration> {
        self.options.plans.get(&self.options.default_plan).copied()
    }

    fn history_of(&self, plan: &str) -> Option<Duration> {
        let known = self.options.known_plans.iter().any(|name| name == plan);
        if known { self.options.plans.get(plan).copied() } else { self.default_history() }
    }
}

fn add(total: &mut Swept, swept: &Swept) {
    total.expired += swept.expired;
    total.removed += swept.removed;
    total.replays += swept.replays;
}

fn note(error: &StoreError, what: &str) {
    match error {
        // Ingest comes first.
        StoreError::Busy => tracing::debug!("{what}: the store is busy"),
        error => tracing::warn!(%error, "{what}"),
    }
}

async fn pause_after(begun: Instant) {
    tokio::time::sleep(begun.elapsed().clamp(PAUSE.0, PAUSE.1)).await;
}

#[cfg(test)]
#[path = "janitor_tests.rs"]
mod tests;

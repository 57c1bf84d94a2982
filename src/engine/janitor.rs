//! The janitor: removes what is too old, and all that is of organizations which are being erased.
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
use crate::store::retention::{Cuts, SweepFrom};
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

/// Removes what is too old.
pub struct Janitor {
    store: Arc<dyn Store>,
    clock: SharedClock,
    options: JanitorOptions,
}

impl Janitor {
    /// A janitor of a store.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, clock: SharedClock, options: JanitorOptions) -> Self {
        Self { store, clock, options }
    }

    /// Works until it is stopped. It may be dropped at any time: each step is whole by itself.
    pub async fn run(self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.work() => {}
        }
    }

    async fn work(&self) {
        let mut next_pass = Instant::now();
        loop {
            for id in self.store.directory().erasing() {
                self.erase(&id).await;
            }
            if Instant::now() >= next_pass {
                self.pass().await;
                next_pass = Instant::now() + self.pass_every();
            }
            let pause = next_pass.saturating_duration_since(Instant::now());
            tokio::time::sleep(pause.min(LOOK_EVERY)).await;
        }
    }

    fn pass_every(&self) -> Duration {
        let Retention { history, dead_letters } = self.options.retention;
        let shortest = self.options.plans.values().copied().fold(history.min(dead_letters), Duration::min);
        (shortest / PASS_PART).clamp(PASS_EVERY.0, PASS_EVERY.1)
    }

    /// Looks at everything once.
    async fn pass(&self) {
        let cuts = Arc::new(self.cuts());
        let (mut expired, mut removed) = (0, 0);
        let mut next = Some(SweepFrom::DeadLetters(None));
        while let Some(from) = next {
            let begun = Instant::now();
            match self.store.sweep(Arc::clone(&cuts), from, BUDGET).await {
                Ok(swept) => {
                    expired += swept.expired;
                    removed += swept.removed;
                    next = swept.next;
                }
                Err(error) => {
                    note(&error, "what is too old could not be removed");
                    tokio::time::sleep(BUSY_PAUSE).await;
                }
            }
            pause_after(begun).await;
        }
        if expired + removed > 0 {
            tracing::info!(events = removed, dead_letters = expired, "removed what was too old");
        }
    }

    async fn erase(&self, id: &OrganizationId) {
        let mut from = None;
        loop {
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
        let Retention { history, dead_letters } = self.options.retention;
        let mut cuts = Cuts {
            now,
            history: now - self.default_history().unwrap_or(history),
            exceptions: std::collections::HashMap::new(),
            dead_letters: now - dead_letters,
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

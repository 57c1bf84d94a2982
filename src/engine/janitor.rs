//! The janitor: removes what is too old or one too many, secrets that no longer sign among it, ends what has waited
//! too long beyond the windows, tells of dead letters before they expire, and erases organizations.
//!
//! It works in small steps behind everybody else: it pauses after each step, and longer when the store is busy. What it has not done when the process stops, the next one does.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::SharedClock;
use crate::domain::id::OrganizationId;
use crate::engine::announce::routed;
pub use crate::engine::keeping::JanitorOptions;
use crate::engine::notices::{Notice, Notices};
use crate::engine::overdue::end_overdue;
use crate::engine::rotations::end_rotations;
use crate::store::retention::{Cuts, SweepFrom, Swept};
use crate::store::{Store, StoreError};

/// How many events or records go in one step.
pub(super) const BUDGET: usize = 128;
/// The pause after a step is this part of what the step took: mostly waiting for others, so that what is removed
/// keeps up with what is accepted, however much that is.
const PAUSE_PART: u32 = 4;
/// The pause is at least and at most this.
const PAUSE: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(250));
/// How long it waits when the store is busy or can't be used.
const BUSY_PAUSE: Duration = Duration::from_secs(1);
/// How often it looks for organizations to erase.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often it looks for secrets whose overlap has ended.
const ROTATIONS_EVERY: Duration = Duration::from_secs(60);
/// Removing early ends when so much less than the limit is stored: a twentieth of it.
const RELIEF_PART: u64 = 20;
/// How long it waits when there was not enough to remove early.
const RELIEF_AGAIN: Duration = Duration::from_secs(10);
/// How often early removal is logged.
const RELIEF_LOGGED_EVERY: Duration = Duration::from_secs(60);

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
        let (mut next_pass, mut next_rotations) = (Instant::now(), Instant::now());
        let mut next_overdue = Instant::now();
        loop {
            // Everybody for its own lanes: who runs a lane knows what is beyond its window.
            if Instant::now() >= next_overdue {
                end_overdue(&*self.store, &self.clock).await;
                next_overdue = Instant::now() + self.options.pass_every();
            }
            if !self.store.leads() {
                tokio::time::sleep(LOOK_EVERY).await;
                continue;
            }
            for id in self.store.directory().erasing() {
                self.erase(&id).await;
            }
            if Instant::now() >= next_pass {
                self.pass().await;
                next_pass = Instant::now() + self.options.pass_every();
            }
            if Instant::now() >= next_rotations {
                self.end_rotations().await;
                next_rotations = Instant::now() + ROTATIONS_EVERY;
            }
            self.relieve().await;
            self.expire_audit().await;
            let pause = next_pass.min(next_overdue).saturating_duration_since(Instant::now());
            tokio::time::sleep(pause.min(LOOK_EVERY)).await;
        }
    }

    /// Looks at everything once.
    async fn pass(&mut self) {
        let now = self.clock.now();
        let cuts = self.options.cuts(self.store.directory(), now, self.notices.cut(now));
        let cuts = Arc::new(cuts);
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
            let told = Vec::from_iter(routed(self.store.directory(), &organization_id, &event));
            match self.store.accept(told).await {
                Ok(_) => self.notices.told(subject),
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
        let cuts = Arc::new(self.options.early_cuts(self.clock.now()));
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

    /// Removes signing secrets that no longer sign.
    async fn end_rotations(&self) {
        if let Err(error) = end_rotations(&*self.store, self.clock.now()).await {
            note(&error, "secrets whose overlap has ended could not be removed");
        }
    }

    /// Removes entries of the audit log that are too old.
    async fn expire_audit(&self) {
        let before = self.clock.now() - self.options.retention.audit;
        loop {
            let begun = Instant::now();
            match self.store.expire_audit(before, BUDGET).await {
                Ok(removed) if removed == BUDGET => pause_after(begun).await,
                Ok(_) => return,
                Err(error) => return note(&error, "the audit log could not be shortened"),
            }
        }
    }

    /// Takes names and contents out of what the audit log says of an organization; the entries stay.
    async fn forget_audit(&self, id: &OrganizationId) {
        let mut after = None;
        loop {
            let begun = Instant::now();
            match self.store.forget_audit_contents(id, after, BUDGET).await {
                Ok(None) => return,
                Ok(last) => after = last,
                Err(error) => {
                    note(&error, "the audit log of an organization could not be emptied further");
                    tokio::time::sleep(BUSY_PAUSE).await;
                }
            }
            pause_after(begun).await;
        }
    }

    async fn erase(&mut self, id: &OrganizationId) {
        // First, because an organization is being erased until its last record is gone.
        self.forget_audit(id).await;
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
}

fn add(total: &mut Swept, swept: &Swept) {
    total.expired += swept.expired;
    total.removed += swept.removed;
    total.replays += swept.replays;
}

pub(super) fn note(error: &StoreError, what: &str) {
    match error {
        // Ingest comes first.
        StoreError::Busy => tracing::debug!("{what}: the store is busy"),
        error => tracing::warn!(%error, "{what}"),
    }
}

pub(super) async fn pause_after(begun: Instant) {
    tokio::time::sleep((begun.elapsed() / PAUSE_PART).clamp(PAUSE.0, PAUSE.1)).await;
}

#[cfg(test)]
#[path = "janitor_tests.rs"]
mod tests;

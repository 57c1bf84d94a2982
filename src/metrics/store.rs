//! The store: commits, fsyncs, room, and what waits in it.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::buckets;
use super::each::{Each, Words};
use crate::domain::delivery::{EndReason, StateKind};

/// In which way the store did not do what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreErrorKind {
    /// Too much waited to be written.
    Busy,
    /// The disk is below the watermark.
    Full,
    /// A stored record can't be read.
    Corrupt,
    /// It does not work any more.
    Unavailable,
}

impl Words for StoreErrorKind {
    const LABEL: &'static str = "kind";
    const ALL: &'static [Self] = &[Self::Busy, Self::Full, Self::Corrupt, Self::Unavailable];

    fn word(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::Full => "full",
            Self::Corrupt => "corrupt",
            Self::Unavailable => "unavailable",
        }
    }
}

/// A finished delivery: its state, as far as that is an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Succeeded,
    DeadLettered,
    Discarded,
    Cancelled,
}

impl End {
    const fn of(state: StateKind) -> Option<Self> {
        match state {
            StateKind::Waiting => None,
            StateKind::Succeeded => Some(Self::Succeeded),
            StateKind::DeadLettered => Some(Self::DeadLettered),
            StateKind::Discarded => Some(Self::Discarded),
            StateKind::Cancelled => Some(Self::Cancelled),
        }
    }
}

impl Words for End {
    const LABEL: &'static str = "state";
    const ALL: &'static [Self] = &[Self::Succeeded, Self::DeadLettered, Self::Discarded, Self::Cancelled];

    fn word(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::DeadLettered => "dead_lettered",
            Self::Discarded => "discarded",
            Self::Cancelled => "cancelled",
        }
    }
}

impl Words for EndReason {
    const LABEL: &'static str = "reason";
    const ALL: &'static [Self] = &EndReason::ALL;

    fn word(self) -> &'static str {
        self.as_str()
    }
}

/// The store. Clones share everything.
#[derive(Debug, Clone)]
pub struct StoreMetrics {
    group: Histogram,
    committed: Histogram,
    fsynced: Histogram,
    errors: Each<StoreErrorKind, Counter>,
    finished: Each<End, Counter>,
    unsuccessful: Each<EndReason, Counter>,
    retries: Counter,
    waiting: Gauge,
    dead_letters: Gauge,
    queue: Gauge,
    queue_limit: Gauge,
    up: Gauge,
    data: Gauge,
    size: Gauge,
    free: Gauge,
    free_least: Gauge,
}

impl Default for StoreMetrics {
    fn default() -> Self {
        Self {
            group: buckets::groups(),
            committed: buckets::work(),
            fsynced: buckets::work(),
            errors: Each::default(),
            finished: Each::default(),
            unsuccessful: Each::default(),
            retries: Counter::default(),
            waiting: Gauge::default(),
            dead_letters: Gauge::default(),
            queue: Gauge::default(),
            queue_limit: Gauge::default(),
            up: Gauge::default(),
            data: Gauge::default(),
            size: Gauge::default(),
            free: Gauge::default(),
            free_least: Gauge::default(),
        }
    }
}

/// How full the store is, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Room {
    /// Keys and values.
    pub data: u64,
    /// The files of the store.
    pub size: u64,
    /// What is free on its disk.
    pub free: u64,
    /// What must stay free for new events to be taken.
    pub free_least: u64,
}

impl StoreMetrics {
    /// A group of so many events was written in this time, its fsync included where it had one.
    pub fn committed(&self, events: usize, took: Duration) {
        // Groups are small: a figure that f64 can't hold can't occur.
        self.group.observe(u32::try_from(events).map_or(f64::MAX, f64::from));
        self.committed.observe(took.as_secs_f64());
    }

    /// An fsync took this long.
    pub fn fsynced(&self, took: Duration) {
        self.fsynced.observe(took.as_secs_f64());
    }

    /// A call failed.
    pub fn failed(&self, kind: StoreErrorKind) {
        self.errors.with(kind, Counter::inc);
    }

    /// A delivery came to this state after an attempt or by a decision; `reason` where it ended badly.
    pub fn became(&self, state: StateKind, reason: Option<EndReason>) {
        if let Some(end) = End::of(state) {
            self.finished.with(end, Counter::inc);
        }
        if let Some(reason) = reason {
            self.unsuccessful.with(reason, Counter::inc);
        }
    }

    /// An attempt failed, and another one follows.
    pub fn retried(&self) {
        self.retries.inc();
    }

    /// So many deliveries more wait, and so many dead letters more are there; less where negative.
    pub fn moved(&self, waiting: i64, dead_letters: i64) {
        self.waiting.inc_by(waiting);
        self.dead_letters.inc_by(dead_letters);
    }

    /// So many calls wait for the writer, of so many that may.
    pub fn queued(&self, waiting: usize, limit: usize) {
        self.queue.set(gauge(waiting as u64));
        self.queue_limit.set(gauge(limit as u64));
    }

    /// Whether the store works.
    pub fn is_up(&self, up: bool) {
        self.up.set(up.into());
    }

    /// How full it is.
    pub fn room(&self, room: Room) {
        self.data.set(gauge(room.data));
        self.size.set(gauge(room.size));
        self.free.set(gauge(room.free));
        self.free_least.set(gauge(room.free_least));
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        self.register_work(registry);
        self.register_deliveries(registry);
        let help = "Calls that wait for the store's writer";
        registry.register("store_queue_calls", help, self.queue.clone());
        let help = "Calls that may wait for the store's writer before more are refused";
        registry.register("store_queue_limit_calls", help, self.queue_limit.clone());
        registry.register("store_up", "Whether the store works: 1, or 0 once it has failed", self.up.clone());
        let help = "Size of what is stored, keys and values, which retention by size goes by";
        registry.register("store_data_bytes", help, self.data.clone());
        registry.register("store_size_bytes", "Size of the store's files", self.size.clone());
        let help = "Free space on the store's disk";
        registry.register("store_free_bytes", help, self.free.clone());
        let help = "Free space below which new events are refused";
        registry.register("store_free_limit_bytes", help, self.free_least.clone());
    }

    fn register_work(&self, registry: &mut Registry) {
        let help = "Events in each group commit; groups of outcomes alone have none";
        registry.register("store_commit_events", help, self.group.clone());
        let help = "Time that a group commit took, with its fsync where it had one";
        registry.register("store_commit_duration_seconds", help, self.committed.clone());
        let help = "Time that each fsync took, the store's own flush included";
        registry.register("store_fsync_duration_seconds", help, self.fsynced.clone());
        self.errors.register(registry, "store_errors", "Calls that the store did not do, by kind");
    }

    fn register_deliveries(&self, registry: &mut Registry) {
        let help = "Deliveries that came to an end, by state; one that is sent again can end again";
        self.finished.register(registry, "deliveries_finished", help);
        let help = "Deliveries that became a dead letter or were discarded, by reason";
        self.unsuccessful.register(registry, "deliveries_unsuccessful", help);
        let help = "Attempts that failed and are followed by another one";
        registry.register("delivery_retries", help, self.retries.clone());
        let help = "Deliveries that wait in the store, retries included; best effort is not in it";
        registry.register("deliveries_waiting", help, self.waiting.clone());
        registry.register("dead_letters", "Dead letters that wait for a decision", self.dead_letters.clone());
    }
}

fn gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

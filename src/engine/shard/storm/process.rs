//! A process of the service: what starts, stops and dies together, on a store that outlives it.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::chronicle::{Chronicle, Ending, Scribe};
use super::strained::{Strain, StrainedStore};
use crate::clock::SharedClock;
use crate::domain::retention::Retention;
use crate::engine::Engine;
use crate::engine::keeping::JanitorOptions;
use crate::engine::overdue::end_overdue;
use crate::engine::rules::ShardOptions;
use crate::engine::shard::StopSignals;
use crate::store::directory::LaneStatus;
use crate::store::memory::MemoryStore;
use crate::store::retention::SweepFrom;
use crate::store::{DeliveryStore, Store};
use crate::transport::courier::Courier;

/// For events that wait.
const MEMORY: usize = 64 << 10;
/// How often too old is looked for.
const HOUSEKEEPING: Duration = Duration::from_secs(10 * 60);
/// How much goes in one step of it.
const BUDGET: usize = 16;

/// What all processes of a storm have in common.
pub(super) struct Ground {
    pub(super) store: Arc<MemoryStore>,
    pub(super) clock: SharedClock,
    pub(super) strain: Arc<Strain>,
    pub(super) chronicle: Arc<Chronicle>,
    pub(super) scribe: Arc<Scribe>,
    pub(super) courier: Courier,
    pub(super) options: ShardOptions,
    pub(super) shards: usize,
    pub(super) retention: Retention,
}

/// A process that runs.
pub(super) struct Process {
    pub(super) engine: Engine,
    stop: StopSignals,
    others: CancellationToken,
    tasks: JoinSet<()>,
}

impl Ground {
    /// Starts a process, as the service starts.
    pub(super) async fn start(&self) -> Process {
        let engine = Engine::new(self.shards, MEMORY);
        *self.scribe.engine.lock().unwrap_or_else(PoisonError::into_inner) = engine.listener();
        let inner: Arc<dyn Store> = Arc::<MemoryStore>::clone(&self.store);
        let (strain, chronicle) = (Arc::clone(&self.strain), Arc::clone(&self.chronicle));
        let store: Arc<dyn Store> = Arc::new(StrainedStore { inner, strain, chronicle });
        let backlog = self.store.destinations_with_work().await.unwrap();
        let couriers = (0..self.shards).map(|_| Arc::new(self.courier.clone())).collect();
        let (stop, others, mut tasks) = (StopSignals::default(), CancellationToken::new(), JoinSet::new());
        for shard in engine.shards((&store, &self.clock), self.options, &backlog, couriers) {
            tasks.spawn(shard.run(stop.clone()));
        }
        tasks.spawn(engine.replayer(&store, &self.clock, true).run(others.clone()));
        let housekeeping = keep_house(store, Arc::clone(&self.clock), self.retention);
        let until_stopped = others.clone();
        tasks.spawn(async move {
            until_stopped.run_until_cancelled(housekeeping).await;
        });
        Process { engine, stop, others, tasks }
    }

    /// Ends a process, and leaves what the next one finds.
    pub(super) async fn end(&self, process: Process, ending: Ending) {
        let from = self.clock.now();
        // What the store can't take at the end is lost; that has a test of its own.
        let failed = self.strain.fails.swap(false, Ordering::Relaxed);
        let ending = match ending {
            Ending::Stopped => process.stop(self.options.stop_deadline).await,
            Ending::Hurried => process.hurry().await,
            Ending::Killed => process.die().await,
        };
        self.strain.fails.store(failed, Ordering::Relaxed);
        // What was dropped is gone when the runtime has looked at it.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        self.chronicle.halted(ending, from);
        self.forget_what_was_in_memory();
    }

    /// Who was in flight, and health that was not stored yet, nobody knows after a start.
    fn forget_what_was_in_memory(&self) {
        let record = self.chronicle.read();
        for entry in self.store.directory().entries() {
            entry.status.set_lane(LaneStatus::default());
            for event in record.events.values() {
                while entry.status.is_in_flight(event.key) {
                    entry.status.end_flight(&[event.key]);
                }
            }
            let health = record.health.get(&entry.destination.id).cloned().unwrap_or_default();
            entry.status.update_health(|known| *known = health);
        }
    }
}

impl Process {
    async fn stop(mut self, deadline: Duration) -> Ending {
        self.stop.soft.cancel();
        self.others.cancel();
        if tokio::time::timeout(deadline, self.join()).await.is_ok() {
            Ending::Stopped
        } else {
            self.hurry().await
        }
    }

    async fn hurry(mut self) -> Ending {
        self.stop.hard.cancel();
        self.others.cancel();
        self.join().await;
        Ending::Hurried
    }

    async fn die(mut self) -> Ending {
        self.tasks.shutdown().await;
        Ending::Killed
    }

    /// Waits for the ends of all tasks; none of them may have panicked.
    async fn join(&mut self) {
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
    }
}

/// What the janitor does, less often: its own pace is of seconds, and a storm lasts for days.
async fn keep_house(store: Arc<dyn Store>, clock: SharedClock, retention: Retention) {
    let (plans, known_plans) = (BTreeMap::new(), Vec::new());
    let options = JanitorOptions { retention, plans, default_plan: "default".into(), known_plans };
    loop {
        tokio::time::sleep(HOUSEKEEPING).await;
        end_overdue(&*store, &clock).await;
        let cuts = Arc::new(options.cuts(store.directory(), clock.now(), None));
        let mut next = Some(SweepFrom::DeadLetters(None));
        while let Some(from) = next {
            next = store.sweep(Arc::clone(&cuts), from, BUDGET).await.unwrap().next;
        }
    }
}

/// A listener that tells the engine of the process that runs.
pub(super) fn scribe(chronicle: &Arc<Chronicle>, store: &Arc<MemoryStore>) -> Arc<Scribe> {
    let nobody = Engine::new(1, MEMORY).listener();
    let shared: Arc<dyn Store> = Arc::<MemoryStore>::clone(store);
    let scribe =
        Arc::new(Scribe { chronicle: Arc::clone(chronicle), store: shared, engine: Mutex::new(nobody) });
    store.listen(Arc::<Scribe>::clone(&scribe));
    scribe
}

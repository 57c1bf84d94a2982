//! The engine: what happens by itself after an event was accepted.
//!
//! The way of one delivery:
//!
//! 1. The store's writer has made it durable and tells [`Engine::listener`], which puts it into the inbox
//!    of the shard that its destination belongs to.
//! 2. The shard gives it to the destination's [`lane`], which decides, purely, what is sent when.
//! 3. The [`worker`] makes the attempt; `policy::retry` judges what came of it.
//! 4. The shard hands the outcome to the store, in groups, and the lane goes on.
//!
//! Replays are stepped by the [`replayer`], which only moves deliveries back to where they wait.
//!
//! Each shard is a thread with a `current_thread` runtime, an HTTP client and lanes of its own;
//! destinations are spread over the shards by their ids. What lanes share is the [`room`] for requests.

pub mod agenda;
mod announce;
mod caught;
mod change;
mod disable;
mod ending;
pub mod gate;
pub mod hosts;
pub mod inbox;
pub mod item;
pub mod janitor;
mod keeping;
pub mod lane;
pub mod ledger;
pub mod memory;
mod notices;
mod overdue;
pub mod pick;
pub mod replayer;
pub mod room;
mod rotations;
pub mod rules;
pub mod shard;
pub mod window;
pub mod worker;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::{Notify, oneshot};

use crate::clock::SharedClock;
use crate::domain::event::Event;
use crate::domain::id::{DeliveryId, DestinationId, ReplayId};
use crate::store::{CommitListener, DueEntry, LostLanes, Store};
use crate::transport::courier::Courier;
use inbox::{Inbox, News};
use memory::Memory;
use replayer::Replayer;
use room::entrance::SharedRoom;
use rules::ShardOptions;
use shard::{Shard, Shared, StopSignals};
use worker::Worker;

/// The delivery threads.
pub struct Engine {
    inboxes: Arc<[Arc<Inbox>]>,
    memory: Arc<Memory>,
    replays: Arc<Notify>,
}

/// The delivery threads while they run.
pub struct RunningEngine {
    threads: Vec<JoinHandle<()>>,
    ended: Vec<oneshot::Receiver<()>>,
}

impl Engine {
    /// An engine of so many delivery threads, none of which runs yet, whose lanes together hold at most so
    /// many bytes of events that wait.
    #[must_use]
    pub fn new(threads: usize, max_bytes_waiting: usize) -> Self {
        let memory = Memory::new(max_bytes_waiting);
        let inbox = |_| Arc::new(Inbox::new(Arc::clone(&memory)));
        Self { inboxes: (0..threads.max(1)).map(inbox).collect(), memory, replays: Arc::default() }
    }

    /// The memory for events that wait.
    #[must_use]
    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// Who must be told of the store's commits, from the first write on.
    #[must_use]
    pub fn listener(&self) -> Arc<dyn CommitListener> {
        Arc::new(Listener { inboxes: Arc::clone(&self.inboxes), replays: Arc::clone(&self.replays) })
    }

    /// The shards, one for each of the couriers, with the lanes of `backlog` that belong to it. Each has a
    /// courier of its own, since connections belong to the runtime that opened them.
    #[must_use]
    pub fn shards(
        &self,
        (store, clock): (&Arc<dyn Store>, &SharedClock),
        options: ShardOptions,
        backlog: &[DestinationId],
        couriers: Vec<Arc<Courier>>,
    ) -> Vec<Shard> {
        let mut shards = Vec::new();
        let bounds = (options.max_in_flight, options.max_bytes_in_flight);
        let entrances = SharedRoom::of_threads(self.inboxes.len(), bounds, clock);
        for (number, ((inbox, courier), room)) in self.inboxes.iter().zip(couriers).zip(entrances).enumerate()
        {
            let rates = courier.rates.clone();
            let worker = Worker { store: Arc::clone(store), courier };
            let shared = Shared { inbox: Arc::clone(inbox), memory: Arc::clone(&self.memory), room, rates };
            let mut shard = Shard::new(worker, Arc::clone(clock), shared, options);
            let mine = |id: &&DestinationId| shard_of(**id, self.inboxes.len()) == number;
            shard.open_backlog(backlog.iter().filter(mine).copied());
            shards.push(shard);
        }
        shards
    }

    /// Who steps the replays of this store; it goes on with those that were running.
    #[must_use]
    pub fn replayer(&self, store: &Arc<dyn Store>, clock: &SharedClock, semaphor_enabled: bool) -> Replayer {
        Replayer::new(Arc::clone(store), Arc::clone(clock), Arc::clone(&self.replays), semaphor_enabled)
    }
}

impl RunningEngine {
    /// Runs each shard on a thread of its own.
    ///
    /// # Errors
    /// Where a thread or its runtime can't be made.
    pub fn start(shards: impl Iterator<Item = Shard>, stop: &StopSignals) -> io::Result<Self> {
        let mut running = Self { threads: Vec::new(), ended: Vec::new() };
        for (number, shard) in shards.enumerate() {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let (ending, ended) = oneshot::channel();
            let stop = stop.clone();
            let thread = std::thread::Builder::new().name(format!("delivery-{number}")).spawn(move || {
                runtime.block_on(shard.run(stop));
                // The receiver may be gone when the process is ending anyway.
                ending.send(()).ok();
            })?;
            running.threads.push(thread);
            running.ended.push(ended);
        }
        Ok(running)
    }

    /// The ends of the delivery threads, each to be waited for by itself: one that panics must be noticed
    /// while the others run. An error says which thread panicked.
    pub fn ends(self) -> impl Iterator<Item = impl Future<Output = Result<(), String>> + Send + 'static> {
        self.threads.into_iter().zip(self.ended).enumerate().map(|(number, (thread, ended))| async move {
            ended.await.map_err(|_| format!("the delivery thread {number} has panicked"))?;
            thread.join().map_err(|_| format!("the delivery thread {number} has panicked at its end"))
        })
    }
}

fn shard_of(id: DestinationId, shards: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    usize::try_from(hasher.finish() % shards.max(1) as u64).unwrap_or(0)
}

/// Spreads the news of commits over the shards, and wakes the replayer.
struct Listener {
    inboxes: Arc<[Arc<Inbox>]>,
    replays: Arc<Notify>,
}

impl Listener {
    fn inbox(&self, id: DestinationId) -> Option<&Inbox> {
        self.inboxes.get(shard_of(id, self.inboxes.len())).map(Arc::as_ref)
    }

    fn add(&self, id: DestinationId, news: News) {
        if let Some(inbox) = self.inbox(id) {
            inbox.add(news);
            inbox.ring();
        }
    }
}

impl CommitListener for Listener {
    fn accepted(&self, events: &[Arc<Event>]) {
        for event in events {
            for route in &event.routes {
                if let Some(inbox) = self.inbox(route.destination_id) {
                    inbox.accepted(route.destination_id, event, route.guarantee);
                }
            }
        }
        for inbox in self.inboxes.iter() {
            inbox.ring();
        }
    }

    fn requeued(&self, entries: &[DueEntry]) {
        for entry in entries {
            self.add(entry.id.destination_id, News::Requeued(*entry));
        }
    }

    fn ended(&self, ids: &[DeliveryId]) {
        for id in ids {
            self.add(id.destination_id, News::Ended(*id));
        }
    }

    fn destination_changed(&self, id: DestinationId) {
        self.add(id, News::DestinationChanged(id));
    }

    fn replay_changed(&self, _id: ReplayId) {
        self.replays.notify_one();
    }

    fn lanes_gained(&self, ids: &[DestinationId]) {
        for id in ids {
            self.add(*id, News::LaneGained(*id));
        }
        // Whoever leads steps the replays.
        self.replays.notify_one();
    }

    fn lanes_lost(&self, lost: &LostLanes) {
        for inbox in self.inboxes.iter() {
            inbox.add(News::LanesLost(lost.clone()));
            inbox.ring();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_delivery_thread_that_panics_is_noticed_while_the_others_run() {
        let mut running = RunningEngine { threads: Vec::new(), ended: Vec::new() };
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let (first_ending, first_ended) = oneshot::channel();
        running.threads.push(std::thread::spawn(move || {
            stopped.recv().ok();
            first_ending.send(()).ok();
        }));
        let (second_ending, second_ended) = oneshot::channel::<()>();
        running.threads.push(std::thread::spawn(move || {
            let _ending = second_ending;
            panic!("planted");
        }));
        running.ended.extend([first_ended, second_ended]);
        let mut ends: Vec<_> = running.ends().collect();
        let second = ends.pop().unwrap().await;
        assert_eq!(second, Err("the delivery thread 1 has panicked".into()));
        drop(stop);
        assert_eq!(ends.pop().unwrap().await, Ok(()));
    }
}

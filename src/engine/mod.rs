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
//! Each shard is a thread with a `current_thread` runtime, an HTTP client and lanes of its own;
//! destinations are spread over the shards by their ids, so that lanes share nothing.

pub mod agenda;
mod disable;
pub mod inbox;
pub mod item;
pub mod janitor;
pub mod lane;
pub mod shard;
pub mod window;
pub mod worker;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::oneshot;

use crate::clock::SharedClock;
use crate::domain::event::Event;
use crate::domain::id::{DeliveryId, DestinationId};
use crate::store::{CommitListener, DueEntry, Store};
use crate::transport::courier::Courier;
use inbox::{Inbox, News};
use shard::{Shard, ShardOptions, StopSignals};
use worker::Worker;

/// The delivery threads.
pub struct Engine {
    inboxes: Arc<[Arc<Inbox>]>,
}

/// The delivery threads while they run.
pub struct RunningEngine {
    threads: Vec<JoinHandle<()>>,
    ended: Vec<oneshot::Receiver<()>>,
}

impl Engine {
    /// An engine of so many delivery threads, none of which runs yet.
    #[must_use]
    pub fn new(threads: usize) -> Self {
        Self { inboxes: (0..threads.max(1)).map(|_| Arc::default()).collect() }
    }

    /// Who must be told of the store's commits, from the first write on.
    #[must_use]
    pub fn listener(&self) -> Arc<dyn CommitListener> {
        Arc::new(Listener { inboxes: Arc::clone(&self.inboxes) })
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
        for (number, (inbox, courier)) in self.inboxes.iter().zip(couriers).enumerate() {
            let worker = Worker { store: Arc::clone(store), courier };
            let mut shard = Shard::new(worker, Arc::clone(clock), Arc::clone(inbox), options);
            let mine = |id: &&DestinationId| shard_of(**id, self.inboxes.len()) == number;
            shard.open_backlog(backlog.iter().filter(mine).copied());
            shards.push(shard);
        }
        shards
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

    /// Waits until all delivery threads have ended, after a stop or because one panicked.
    ///
    /// # Errors
    /// The name of a thread that panicked.
    pub async fn ended(self) -> Result<(), String> {
        for (number, ended) in self.ended.into_iter().enumerate() {
            ended.await.map_err(|_| format!("the delivery thread {number} has panicked"))?;
        }
        for thread in self.threads {
            thread.join().map_err(|_| "a delivery thread has panicked at its end".to_owned())?;
        }
        Ok(())
    }
}

fn shard_of(id: DestinationId, shards: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    usize::try_from(hasher.finish() % shards.max(1) as u64).unwrap_or(0)
}

/// Spreads the news of commits over the shards.
struct Listener {
    inboxes: Arc<[Arc<Inbox>]>,
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
}

//! What a delivery thread is told from outside: commits and changes of destinations.
//!
//! The store's writer must never wait for a delivery thread, and memory must stay bounded. So an inbox
//! that overflows keeps only the last key for each destination; the lane then reads the rest from the
//! store, as it does past its window. Data is kept only as far as the memory for what waits has room.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::domain::event::Event;
use crate::domain::id::{DeliveryId, DestinationId, EventKey};
use crate::domain::settings::Guarantee;
use crate::engine::item::Item;
use crate::engine::memory::Memory;
use crate::store::{DueEntry, LostLanes};

/// From so many handed-over deliveries on, only their keys are kept.
const HANDED_OVER_MAX: usize = 16_384;

/// One thing that happened.
#[derive(Debug)]
pub enum News {
    /// An event for this destination is durable.
    Accepted(DestinationId, Item),
    /// A delivery waits again.
    Requeued(DueEntry),
    /// A caller ended a delivery.
    Ended(DeliveryId),
    /// A destination was created, changed or deleted.
    DestinationChanged(DestinationId),
    /// The lane of this destination is ours from here on, and something waits for it in the store.
    LaneGained(DestinationId),
    /// Some lanes are not ours any more.
    LanesLost(LostLanes),
}

#[derive(Debug, Default)]
struct Content {
    news: Vec<News>,
    missed: HashMap<DestinationId, EventKey>,
}

/// The inbox of one delivery thread.
#[derive(Debug)]
pub struct Inbox {
    content: Mutex<Content>,
    arrived: Notify,
    memory: Arc<Memory>,
}

impl Inbox {
    /// An empty one, whose data is part of what this memory holds.
    #[must_use]
    pub fn new(memory: Arc<Memory>) -> Self {
        Self { content: Mutex::default(), arrived: Notify::new(), memory }
    }

    /// Hands over a committed delivery, or only its key when too many wait.
    pub fn accepted(&self, destination_id: DestinationId, event: &Arc<Event>, guarantee: Guarantee) {
        let mut content = self.lock();
        // Best effort is nowhere else, so it is handed over in any case; ingest bounds its rate, and the
        // lane refuses what is more than its window.
        if guarantee == Guarantee::AtLeastOnce && content.news.len() >= HANDED_OVER_MAX {
            content.missed.insert(destination_id, event.key);
        } else {
            let item = Item::fresh(event, guarantee, &self.memory);
            content.news.push(News::Accepted(destination_id, item));
        }
    }

    /// Adds something that is rare.
    pub fn add(&self, news: News) {
        self.lock().news.push(news);
    }

    /// Wakes the delivery thread.
    pub fn ring(&self) {
        self.arrived.notify_one();
    }

    /// Waits until somebody rings.
    pub async fn arrival(&self) {
        self.arrived.notified().await;
    }

    /// Takes all that is there: the news in order, and the keys of what was not handed over.
    pub fn take(&self) -> (Vec<News>, HashMap<DestinationId, EventKey>) {
        let mut content = self.lock();
        (std::mem::take(&mut content.news), std::mem::take(&mut content.missed))
    }

    fn lock(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

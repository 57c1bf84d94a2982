//! Deliveries of a window that are in a request, and what happened to them meanwhile.

use std::collections::{HashMap, HashSet};

use crate::domain::id::EventKey;
use crate::engine::item::Item;
use crate::store::{DueEntry, Stage};

/// The deliveries of a lane that are in a request.
#[derive(Debug, Default)]
pub(super) struct Flights {
    keys: HashSet<EventKey>,
    /// Those of them that are nowhere else.
    alone: HashMap<EventKey, Item>,
    /// Resends and replays that came meanwhile; they count if the attempt fails.
    requeued: HashMap<EventKey, DueEntry>,
    /// Deliveries that a caller ended meanwhile; they do not wait again.
    ended: HashSet<EventKey>,
}

/// What callers did to a delivery while it was in a request.
#[derive(Debug)]
pub(super) struct Meanwhile {
    pub(super) requeued: Option<DueEntry>,
    pub(super) ended: bool,
}

impl Flights {
    pub(super) fn begin(&mut self, batch: &[Item]) {
        self.keys.extend(batch.iter().map(|item| item.key));
        let alone = batch.iter().filter(|item| item.stage == Stage::InMemory);
        self.alone.extend(alone.map(|item| (item.key, item.clone())));
    }

    pub(super) fn end(&mut self, key: EventKey) -> Meanwhile {
        self.keys.remove(&key);
        self.alone.remove(&key);
        Meanwhile { requeued: self.requeued.remove(&key), ended: self.ended.remove(&key) }
    }

    pub(super) fn contains(&self, key: EventKey) -> bool {
        self.keys.contains(&key)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// A caller wants it again; what was ended before does not count any more.
    pub(super) fn requeue(&mut self, entry: DueEntry) {
        self.ended.remove(&entry.id.event_key);
        self.requeued.insert(entry.id.event_key, entry);
    }

    /// A caller has ended it: the attempt under way is the last.
    pub(super) fn forget(&mut self, key: EventKey) {
        if self.keys.contains(&key) {
            self.ended.insert(key);
        }
        self.requeued.remove(&key);
    }

    /// Takes out what is in memory alone.
    pub(super) fn take_alone(&mut self) -> impl Iterator<Item = Item> {
        self.alone.drain().map(|(_, item)| item)
    }
}

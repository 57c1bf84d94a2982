//! Fresh deliveries of a window: first attempts, in order of their keys.
//!
//! When the line is full, newly accepted ones are dropped from memory and read from the store later, after
//! the last key seen. Keys grow in commit order, so that this misses nothing.

use std::collections::{HashSet, VecDeque};

use super::Tail;
use crate::domain::id::EventKey;
use crate::engine::item::Item;
use crate::store::Page;

/// The first attempts that are in memory, and where in the store they go on.
#[derive(Debug)]
pub(super) struct FreshLine {
    items: VecDeque<Item>,
    /// Deliveries beyond the window: after this key.
    tail: Tail<EventKey>,
    /// The last key that was in memory, so that no delivery comes in twice.
    last: Option<EventKey>,
    /// The largest key that was dropped since the last page was asked for, which may not hold it.
    dropped_up_to: Option<EventKey>,
    loading: bool,
    /// Deliveries that were requeued or ended while a page was being read, which may still hold them.
    stale: HashSet<EventKey>,
}

impl FreshLine {
    pub(super) fn new(backlog: bool) -> Self {
        Self {
            items: VecDeque::new(),
            tail: backlog.then_some(None),
            last: None,
            dropped_up_to: None,
            loading: false,
            stale: HashSet::new(),
        }
    }

    // === What came ===

    /// Adds one that is nowhere else.
    pub(super) fn push_alone(&mut self, item: Item) {
        self.items.push_back(item);
    }

    /// Adds one that the store has, too, where the line is no longer than `size`.
    pub(super) fn push(&mut self, item: Item, size: usize) {
        if self.tail.is_some() || self.items.len() >= size {
            self.missed(item.key);
        } else if self.last.is_none_or(|last| item.key > last) {
            self.last = Some(item.key);
            self.items.push_back(item);
        }
    }

    /// Deliveries up to this key were committed, but are not in memory; they are in the store.
    pub(super) fn missed(&mut self, key: EventKey) {
        if self.last.is_none_or(|last| key > last) {
            self.tail.get_or_insert(self.last);
            self.dropped_up_to = self.dropped_up_to.max(Some(key));
        }
    }

    /// From which key on to read, where the line is no longer than `at_most`; counts as being read.
    pub(super) fn read_on(&mut self, at_most: usize) -> Option<Option<EventKey>> {
        let after = self.tail.filter(|_| !self.loading && self.items.len() <= at_most)?;
        self.loading = true;
        // A page that is read from here on holds what was dropped before, unless a caller ended it.
        self.dropped_up_to = None;
        Some(after)
    }

    /// The page that was asked for. What `is_known` is in memory in another place.
    pub(super) fn loaded(&mut self, page: Page<Item>, is_known: impl Fn(EventKey) -> bool) {
        self.loading = false;
        let stale = std::mem::take(&mut self.stale);
        for item in page.rows {
            if self.last.is_some_and(|last| item.key <= last) {
                continue;
            }
            self.last = Some(item.key);
            if !is_known(item.key) && !stale.contains(&item.key) {
                self.items.push_back(item);
            }
        }
        // What was dropped while the page was read may be missing in it.
        let missing = self.dropped_up_to > self.last;
        self.tail = (page.more || missing).then_some(self.last);
    }

    /// No page comes; it may be asked for again.
    pub(super) fn load_failed(&mut self) {
        self.loading = false;
        self.stale.clear();
    }

    /// A delivery is no first attempt any more.
    pub(super) fn forget(&mut self, key: EventKey) {
        if self.loading {
            self.stale.insert(key);
        }
        if let Some(place) = self.items.iter().position(|item| item.key == key) {
            self.items.remove(place);
        }
    }

    // === What waits ===

    /// The first one that fits, and its place.
    pub(super) fn find(&self, fits: impl Fn(&Item) -> bool) -> Option<(usize, &Item)> {
        self.items.iter().enumerate().find(|(_, item)| fits(item))
    }

    pub(super) fn take(&mut self, place: usize) -> Option<Item> {
        self.items.remove(place)
    }

    /// Takes out all that fit. They are in order of age: where `by_age`, the first that does not fit ends
    /// the search.
    pub(super) fn take_all(&mut self, fits: impl Fn(&Item) -> bool, by_age: bool) -> Vec<Item> {
        if !by_age {
            let (out, kept): (Vec<Item>, Vec<Item>) = self.items.drain(..).partition(fits);
            self.items = kept.into();
            return out;
        }
        let mut taken = Vec::new();
        while self.items.front().is_some_and(&fits) {
            taken.extend(self.items.pop_front());
        }
        taken
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Item> {
        self.items.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Item> {
        self.items.iter_mut()
    }

    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether the store holds more of them.
    pub(super) fn has_more(&self) -> bool {
        self.tail.is_some()
    }
}

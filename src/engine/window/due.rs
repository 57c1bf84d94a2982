//! Due deliveries of a window: retries, resends and replays, in order of their due time.
//!
//! The line holds the earliest; the others are in the store beyond the horizon. One that moves beyond the
//! horizon stays here until its outcome is stored, since reading on finds it only from then on. And what a
//! page says of a delivery whose outcome was stored while the page was read is ignored.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{Position, Tail};
use crate::domain::delivery::CycleCause;
use crate::domain::id::EventKey;
use crate::domain::time::Timestamp;
use crate::engine::item::Item;
use crate::store::{DueEntry, Page, Stage};

/// A delivery whose outcomes are on their way to the store, which still shows it as it was.
#[derive(Debug, Default)]
struct Unsettled {
    /// How many: a retry may end before the outcome before it is stored.
    outcomes: u32,
    /// Attempts in all, those among them that the store does not know of yet.
    attempt_count: u32,
    /// The delivery, where it waits beyond the horizon.
    item: Option<Item>,
}

/// Whether a place is behind the last one that is in memory, for sure.
fn is_beyond(tail: Tail<Position>, place: Position) -> bool {
    tail.is_some_and(|horizon| horizon.is_none_or(|horizon| place > horizon))
}

/// The due deliveries that are in memory, and where in the store they go on.
#[derive(Debug)]
pub(super) struct DueLine {
    size: usize,
    items: BTreeMap<Position, Item>,
    index: HashMap<EventKey, Timestamp>,
    /// Deliveries beyond the horizon: after this position.
    tail: Tail<Position>,
    unsettled: HashMap<EventKey, Unsettled>,
    /// Retries that were stored while a page was being read, which may or may not hold them.
    reoffer: Vec<Item>,
    /// Deliveries that were settled, requeued or ended while a page was being read: what the page says of
    /// them is stale.
    stale: HashSet<EventKey>,
    /// The horizon from which a page is being read.
    loading: Tail<Position>,
    /// Something was dropped beyond the horizon while a page was read, which may not hold it.
    horizon_moved: bool,
}

impl DueLine {
    pub(super) fn new(size: usize, backlog: bool) -> Self {
        Self {
            size,
            items: BTreeMap::new(),
            index: HashMap::new(),
            tail: backlog.then_some(None),
            unsettled: HashMap::new(),
            reoffer: Vec::new(),
            stale: HashSet::new(),
            loading: None,
            horizon_moved: false,
        }
    }

    /// Keeps so many from now on.
    pub(super) fn resize(&mut self, size: usize) {
        self.size = size;
        self.shrink();
    }

    // === Waiting ===

    pub(super) fn insert(&mut self, due: Timestamp, item: Item) {
        self.index.insert(item.key, due);
        self.items.insert((due, item.key), item);
        self.shrink();
    }

    /// Keeps the earliest; what is stored and beyond the window is dropped, and the horizon moves there.
    fn shrink(&mut self) {
        while self.items.len() > self.size {
            let last = self.items.iter().next_back();
            // What the store has in another place, or not at all, would not be found again.
            let in_place = |position: &Position, item: &Item| item.stage == Stage::Due(position.0);
            let Some((&position, _)) = last.filter(|(at, item)| in_place(at, item)) else { return };
            let dropped = self.items.remove(&position);
            self.index.remove(&position.1);
            if let Some(unsettled) = self.unsettled.get_mut(&position.1) {
                unsettled.item = dropped;
            }
            let retained = self.items.keys().next_back().copied();
            self.horizon_moved |= self.loading.is_some();
            self.tail = Some(match self.tail {
                Some(horizon) => horizon.min(retained),
                None => retained,
            });
        }
    }

    /// A delivery waits for a retry, whose place in the store it knows.
    pub(super) fn wait(&mut self, due: Timestamp, item: Item) {
        if self.is_beyond(due, item.key) {
            let key = item.key;
            self.unsettled.entry(key).or_default().item = Some(item);
        } else {
            self.insert(due, item);
        }
    }

    fn is_beyond(&self, due: Timestamp, key: EventKey) -> bool {
        is_beyond(self.tail, (due, key))
    }

    fn offer(&mut self, item: Item) {
        let Stage::Due(due) = item.stage else { return };
        if !self.is_beyond(due, item.key) {
            self.insert(due, item);
        }
    }

    /// A delivery does not wait any more.
    pub(super) fn forget(&mut self, key: EventKey) {
        if self.loading.is_some() {
            self.stale.insert(key);
        }
        if let Some(due) = self.index.remove(&key) {
            self.items.remove(&(due, key));
        }
        if let Some(unsettled) = self.unsettled.get_mut(&key) {
            unsettled.item = None;
        }
        self.reoffer.retain(|item| item.key != key);
    }

    // === Outcomes ===

    /// The outcome of a delivery is on its way to the store.
    pub(super) fn note_unsettled(&mut self, item: &Item) {
        let unsettled = self.unsettled.entry(item.key).or_default();
        unsettled.outcomes += 1;
        unsettled.attempt_count = unsettled.attempt_count.max(item.attempt_count);
    }

    /// A delivery as the store has it, with the attempts that it does not know of yet.
    pub(super) fn counted(&self, entry: DueEntry) -> DueEntry {
        let unsettled =
            self.unsettled.get(&entry.id.event_key).map_or(0, |unsettled| unsettled.attempt_count);
        DueEntry { attempt_count: entry.attempt_count.max(unsettled), ..entry }
    }

    /// The outcomes of these deliveries are stored. A retry beyond the horizon is in the store from here
    /// on, unless a page that was read before passes its place: then it comes back into memory.
    pub(super) fn settled(&mut self, keys: &[EventKey]) {
        if self.loading.is_some() {
            self.stale.extend(keys);
        }
        for key in keys {
            let Some(item) = self.settled_one(*key) else { continue };
            if self.loading.is_some() {
                self.reoffer.push(item);
            } else {
                self.offer(item);
            }
        }
    }

    fn settled_one(&mut self, key: EventKey) -> Option<Item> {
        let unsettled = self.unsettled.get_mut(&key)?;
        unsettled.outcomes = unsettled.outcomes.saturating_sub(1);
        if unsettled.outcomes > 0 {
            return None;
        }
        self.unsettled.remove(&key)?.item
    }

    // === Reading on ===

    /// From which position on to read, where the line is no longer than `at_most`; counts as being read.
    pub(super) fn read_on(&mut self, at_most: usize) -> Option<Option<Position>> {
        let after = self.tail.filter(|_| self.loading.is_none() && self.items.len() <= at_most)?;
        self.loading = Some(after);
        Some(after)
    }

    /// The page that was asked for. What is `in_flight` does not wait.
    pub(super) fn loaded(&mut self, page: Page<DueEntry>, in_flight: impl Fn(EventKey) -> bool) {
        let asked = self.loading.take();
        let stale = std::mem::take(&mut self.stale);
        // Where the horizon has come nearer meanwhile, the page begins too far out: it is read again.
        if !std::mem::take(&mut self.horizon_moved) && asked == self.tail {
            let horizon = page.rows.last().map(|entry| (entry.due, entry.id.event_key));
            self.tail = page.more.then_some(horizon);
            for entry in page.rows {
                let key = entry.id.event_key;
                if !in_flight(key) && !self.knows(key) && !stale.contains(&key) {
                    self.insert(entry.due, Item::due(entry));
                }
            }
        }
        for item in std::mem::take(&mut self.reoffer) {
            if !in_flight(item.key) && !self.knows(item.key) {
                self.offer(item);
            }
        }
        self.unpark();
    }

    /// The horizon has moved on: what was beyond it, and no longer is, waits here, also while its outcome is not
    /// stored yet. An ordered lane would send what comes behind it otherwise.
    fn unpark(&mut self) {
        let tail = self.tail;
        let is_here =
            |item: &mut Item| matches!(item.stage, Stage::Due(due) if !is_beyond(tail, (due, item.key)));
        let parked: Vec<Item> =
            self.unsettled.values_mut().filter_map(|unsettled| unsettled.item.take_if(is_here)).collect();
        for item in parked {
            if let Stage::Due(due) = item.stage {
                self.wait(due, item);
            }
        }
    }

    /// No page comes; it may be asked for again.
    pub(super) fn load_failed(&mut self) {
        self.loading = None;
        self.horizon_moved = false;
        self.stale.clear();
        for item in std::mem::take(&mut self.reoffer) {
            self.offer(item);
        }
    }

    /// Whether the earliest are not known yet.
    pub(super) fn is_reading(&self) -> bool {
        self.loading.is_some()
    }

    // === What waits ===

    fn knows(&self, key: EventKey) -> bool {
        self.index.contains_key(&key) || self.unsettled.contains_key(&key)
    }

    /// When this delivery is due, where it waits in memory.
    pub(super) fn due_of(&self, key: EventKey) -> Option<Timestamp> {
        self.index.get(&key).copied()
    }

    /// The first one that fits, and its position.
    pub(super) fn find(&self, fits: impl Fn(Timestamp, &Item) -> bool) -> Option<(Position, &Item)> {
        let found = self.items.iter().find(|((at, _), item)| fits(*at, item));
        found.map(|(position, item)| (*position, item))
    }

    /// The first one where order matters: the oldest, whenever it is due, unless a caller has moved one before it. A
    /// batch that fails may be smaller than the one before, and what was left out is due earlier then.
    pub(super) fn find_in_order(&self, fits: impl Fn(&Item) -> bool) -> Option<(Position, &Item)> {
        let in_line = |item: &&Item| item.cycle.cause == CycleCause::Routed && fits(item);
        let oldest = self.items.values().filter(in_line).map(|item| item.key).min();
        self.find(|_, item| {
            fits(item) && (item.cycle.cause != CycleCause::Routed || Some(item.key) == oldest)
        })
    }

    pub(super) fn take(&mut self, position: Position) -> Option<Item> {
        self.index.remove(&position.1);
        self.items.remove(&position)
    }

    /// Takes out all that fit.
    pub(super) fn take_all(&mut self, fits: impl Fn(&Item) -> bool) -> Vec<Item> {
        let fitting = self.items.iter().filter(|(_, item)| fits(item));
        let positions: Vec<Position> = fitting.map(|(at, _)| *at).collect();
        positions.into_iter().filter_map(|position| self.take(position)).collect()
    }

    /// When the first one is due; where order matters, the first in order.
    pub(super) fn first(&self, ordered: bool) -> Option<Timestamp> {
        let first = if ordered { self.find_in_order(|_| true) } else { self.find(|_, _| true) };
        first.map(|((due, _), _)| due)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Item> {
        self.items.values()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Item> {
        self.items.values_mut()
    }

    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether the store holds more of them.
    pub(super) fn has_more(&self) -> bool {
        self.tail.is_some()
    }

    /// Whether there is nothing to remember besides what waits in memory.
    pub(super) fn is_settled(&self) -> bool {
        self.unsettled.is_empty() && self.reoffer.is_empty()
    }
}

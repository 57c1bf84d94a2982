//! The window: the deliveries of a lane that are in memory, and where the store goes on.
//!
//! * *Fresh* deliveries (first attempts) wait in order of their keys. When the window is full, newly
//!   accepted ones are dropped from memory and read from the store later, after the last key seen.
//! * *Due* deliveries (retries, resends, replays) wait in order of their due time. The window holds the
//!   earliest; the others are in the store beyond the horizon.
//!
//! The store answers late, so three things keep this right. Fresh keys grow in commit order, so that
//! "after the last key seen" misses nothing. A delivery that moves beyond the horizon stays here until its
//! outcome is stored, since reading on finds it only from then on. And what a page says of a delivery
//! whose outcome was stored while the page was read is ignored.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use crate::domain::event::Event;
use crate::domain::id::EventKey;
use crate::domain::settings::Guarantee;
use crate::domain::time::Timestamp;
use crate::engine::item::Item;
use crate::store::{DueEntry, Page, Stage};

/// A place in the order of due deliveries.
pub type Position = (Timestamp, EventKey);

/// Where reading on from the store would begin; `None` when the store holds nothing more.
type Tail<K> = Option<Option<K>>;

/// A delivery whose outcomes are on their way to the store, which still shows it as it was.
#[derive(Debug, Default)]
struct Unsettled {
    /// How many: a retry may end before the outcome before it is stored.
    outcomes: u32,
    /// The delivery, where it waits beyond the horizon.
    item: Option<Item>,
}

/// A page that the window would like to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Fresh deliveries after this key.
    Fresh(Option<EventKey>, usize),
    /// Due deliveries after this position.
    Due(Option<Position>, usize),
}

/// The deliveries of a lane that are in memory.
#[derive(Debug)]
pub struct Window {
    size: usize,
    fresh: VecDeque<Item>,
    due: BTreeMap<Position, Item>,
    due_index: HashMap<EventKey, Timestamp>,
    in_flight: HashSet<EventKey>,
    /// Those of them that are nowhere else.
    in_flight_alone: HashMap<EventKey, Item>,
    /// Resends and replays that came while an attempt was under way; they count if it fails.
    requeued: HashMap<EventKey, DueEntry>,
    /// Deliveries that a caller ended while an attempt was under way; they do not wait again.
    ended: HashSet<EventKey>,
    /// Fresh deliveries beyond the window: after this key.
    fresh_tail: Tail<EventKey>,
    /// The last fresh key that was in memory, so that no delivery comes in twice.
    last_fresh: Option<EventKey>,
    /// The largest fresh key that was dropped since the last page was asked for, which may not hold it.
    dropped_up_to: Option<EventKey>,
    /// Due deliveries beyond the horizon: after this position.
    due_tail: Tail<Position>,
    unsettled: HashMap<EventKey, Unsettled>,
    /// Retries that were stored while a page was being read, which may or may not hold them.
    reoffer: Vec<Item>,
    /// Deliveries that were settled, requeued or ended while a page was being read: what the page says of
    /// them is stale.
    stale: HashSet<EventKey>,
    /// The same for a page of fresh deliveries.
    stale_fresh: HashSet<EventKey>,
    loading_fresh: bool,
    /// The horizon from which a page of due deliveries is being read.
    loading_due: Tail<Position>,
    /// Something was dropped beyond the horizon while a page was read, which may not hold it.
    horizon_moved: bool,
}

impl Window {
    /// An empty window of that many deliveries. `backlog`: whether the store may hold some already.
    #[must_use]
    pub fn new(size: usize, backlog: bool) -> Self {
        Self {
            size: size.max(1),
            fresh: VecDeque::new(),
            due: BTreeMap::new(),
            due_index: HashMap::new(),
            in_flight: HashSet::new(),
            in_flight_alone: HashMap::new(),
            requeued: HashMap::new(),
            ended: HashSet::new(),
            fresh_tail: backlog.then_some(None),
            last_fresh: None,
            dropped_up_to: None,
            due_tail: backlog.then_some(None),
            unsettled: HashMap::new(),
            reoffer: Vec::new(),
            stale: HashSet::new(),
            stale_fresh: HashSet::new(),
            loading_fresh: false,
            loading_due: None,
            horizon_moved: false,
        }
    }

    // === Fresh deliveries ===

    /// A delivery was committed; hands a best-effort one back that finds the window full.
    pub fn accept(&mut self, item: Item) -> Option<Item> {
        if item.guarantee == Guarantee::BestEffort {
            if self.len() >= self.size {
                return Some(item);
            }
            self.fresh.push_back(item);
        } else if self.fresh_tail.is_some() || self.fresh.len() >= self.size {
            self.missed(item.key);
        } else if self.last_fresh.is_none_or(|last| item.key > last) {
            self.last_fresh = Some(item.key);
            self.fresh.push_back(item);
        }
        None
    }

    /// Deliveries up to this key were committed, but are not in memory; they are in the store.
    pub fn missed(&mut self, key: EventKey) {
        if self.last_fresh.is_none_or(|last| key > last) {
            self.fresh_tail.get_or_insert(self.last_fresh);
            self.dropped_up_to = self.dropped_up_to.max(Some(key));
        }
    }

    /// The page of [`Wanted::Fresh`] is here.
    pub fn loaded_fresh(&mut self, page: Page<Arc<Event>>) {
        self.loading_fresh = false;
        let stale = std::mem::take(&mut self.stale_fresh);
        for event in page.rows {
            if self.last_fresh.is_some_and(|last| event.key <= last) {
                continue;
            }
            self.last_fresh = Some(event.key);
            let is_known = self.in_flight.contains(&event.key) || self.due_index.contains_key(&event.key);
            if !is_known && !stale.contains(&event.key) {
                self.fresh.push_back(Item::fresh(event, Guarantee::AtLeastOnce));
            }
        }
        // What was dropped while the page was read may be missing in it.
        let missing = self.dropped_up_to > self.last_fresh;
        self.fresh_tail = (page.more || missing).then_some(self.last_fresh);
    }

    /// When the event of the first of the fresh deliveries in memory was accepted.
    #[must_use]
    pub fn oldest_fresh_at(&self) -> Option<Timestamp> {
        self.fresh.front().map(|item| item.key.made_at())
    }

    // === Due deliveries ===

    /// The page of [`Wanted::Due`] is here.
    pub fn loaded_due(&mut self, page: Page<DueEntry>) {
        let asked = self.loading_due.take();
        let stale = std::mem::take(&mut self.stale);
        // Where the horizon has come nearer meanwhile, the page begins too far out: it is read again.
        if !std::mem::take(&mut self.horizon_moved) && asked == self.due_tail {
            let horizon = page.rows.last().map(|entry| (entry.due, entry.id.event_key));
            self.due_tail = page.more.then_some(horizon);
            for entry in page.rows {
                if !self.knows(entry.id.event_key) && !stale.contains(&entry.id.event_key) {
                    self.insert_due(entry.due, Item::due(entry));
                }
            }
        }
        for item in std::mem::take(&mut self.reoffer) {
            if !self.knows(item.key) {
                self.offer(item);
            }
        }
    }

    /// A resend or a replay made this delivery wait again.
    pub fn requeue(&mut self, entry: DueEntry) {
        let key = entry.id.event_key;
        if self.in_flight.contains(&key) {
            self.ended.remove(&key);
            self.requeued.insert(key, entry);
            return;
        }
        self.forget(key);
        self.insert_due(entry.due, Item::due(entry));
    }

    /// Takes a delivery out of memory that a caller has ended; an attempt under way goes on, but is the last.
    pub fn forget(&mut self, key: EventKey) {
        if self.in_flight.contains(&key) {
            self.ended.insert(key);
        }
        if self.loading_due.is_some() {
            self.stale.insert(key);
        }
        if self.loading_fresh {
            self.stale_fresh.insert(key);
        }
        if let Some(due) = self.due_index.remove(&key) {
            self.due.remove(&(due, key));
        } else if let Some(place) = self.fresh.iter().position(|item| item.key == key) {
            self.fresh.remove(place);
        }
        if let Some(unsettled) = self.unsettled.get_mut(&key) {
            unsettled.item = None;
        }
        self.requeued.remove(&key);
        self.reoffer.retain(|item| item.key != key);
    }

    fn knows(&self, key: EventKey) -> bool {
        self.in_flight.contains(&key)
            || self.due_index.contains_key(&key)
            || self.unsettled.contains_key(&key)
    }

    fn is_beyond(&self, due: Timestamp, key: EventKey) -> bool {
        self.due_tail.is_some_and(|horizon| horizon.is_none_or(|horizon| (due, key) > horizon))
    }

    fn offer(&mut self, item: Item) {
        let Stage::Due(due) = item.stage else { return };
        if !self.is_beyond(due, item.key) {
            self.insert_due(due, item);
        }
    }

    fn insert_due(&mut self, due: Timestamp, item: Item) {
        self.due_index.insert(item.key, due);
        self.due.insert((due, item.key), item);
        self.shrink();
    }

    /// Keeps the earliest; what is stored and beyond the window is dropped, and the horizon moves there.
    fn shrink(&mut self) {
        while self.due.len() > self.size {
            let last = self.due.iter().next_back();
            // What the store has in another place, or not at all, would not be found again.
            let in_place = |position: &Position, item: &Item| item.stage == Stage::Due(position.0);
            let Some((&position, _)) = last.filter(|(at, item)| in_place(at, item)) else { return };
            let dropped = self.due.remove(&position);
            self.due_index.remove(&position.1);
            if let Some(unsettled) = self.unsettled.get_mut(&position.1) {
                unsettled.item = dropped;
            }
            let retained = self.due.keys().next_back().copied();
            self.horizon_moved |= self.loading_due.is_some();
            self.due_tail = Some(match self.due_tail {
                Some(horizon) => horizon.min(retained),
                None => retained,
            });
        }
    }

    // === Attempts and outcomes ===

    /// These deliveries are in a request from here on.
    pub fn begin(&mut self, batch: &[Item]) {
        self.in_flight.extend(batch.iter().map(|item| item.key));
        let alone = batch.iter().filter(|item| item.stage == Stage::InMemory);
        self.in_flight_alone.extend(alone.map(|item| (item.key, item.clone())));
    }

    /// The attempt of a delivery has ended; its outcome is on its way to the store. `again` is when it
    /// waits for, if it does.
    pub fn end(&mut self, item: Item, again: Option<Timestamp>, success: bool) {
        self.in_flight.remove(&item.key);
        self.in_flight_alone.remove(&item.key);
        self.note_unsettled(&item);
        let is_ended = self.ended.remove(&item.key);
        match (self.requeued.remove(&item.key), again) {
            // What a caller asked for meanwhile comes before what policy says of a failure.
            (Some(entry), _) if !success => {
                let attempt_count = item.attempt_count.max(entry.attempt_count);
                self.wait(Item::due(DueEntry { attempt_count, ..entry }), entry.due);
            }
            (_, Some(due)) if !is_ended => self.wait(item, due),
            (_, _) => {}
        }
    }

    /// Nothing was sent for these deliveries, for a reason of ours; they wait as if never started.
    pub fn put_back(&mut self, items: Vec<Item>, due: Timestamp) {
        for item in items {
            self.in_flight.remove(&item.key);
            self.in_flight_alone.remove(&item.key);
            if !self.ended.remove(&item.key) {
                self.insert_due(due, item);
            }
        }
    }

    /// The outcome of a delivery that was taken out is on its way to the store.
    pub fn note_unsettled(&mut self, item: &Item) {
        if item.stage != Stage::InMemory {
            self.unsettled.entry(item.key).or_default().outcomes += 1;
        }
    }

    fn wait(&mut self, mut item: Item, due: Timestamp) {
        if item.stage == Stage::InMemory {
            self.insert_due(due, item);
            return;
        }
        item.stage = Stage::Due(due);
        // Only best effort keeps its data in memory: its order is nowhere else.
        item.event = None;
        if self.is_beyond(due, item.key) {
            let key = item.key;
            self.unsettled.entry(key).or_default().item = Some(item);
        } else {
            self.insert_due(due, item);
        }
    }

    /// The outcomes of these deliveries are stored. A retry beyond the horizon is in the store from here
    /// on, unless a page that was read before passes its place: then it comes back into memory.
    pub fn settled(&mut self, keys: &[EventKey]) {
        if self.loading_due.is_some() {
            self.stale.extend(keys);
        }
        for key in keys {
            let Some(item) = self.settled_one(*key) else { continue };
            if self.loading_due.is_some() {
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

    /// The page to read next, where less than half of the window is in memory; counts as being read.
    pub fn read_on(&mut self) -> Option<Wanted> {
        let half = self.size / 2;
        if let Some(after) = self.due_tail
            && self.loading_due.is_none()
            && self.due.len() <= half
        {
            self.loading_due = Some(after);
            return Some(Wanted::Due(after, self.size - self.due.len()));
        }
        if let Some(after) = self.fresh_tail
            && !self.loading_fresh
            && self.fresh.len() <= half
        {
            self.loading_fresh = true;
            // A page that is read from here on holds what was dropped before, unless a caller ended it.
            self.dropped_up_to = None;
            return Some(Wanted::Fresh(after, self.size - self.fresh.len()));
        }
        None
    }

    /// No page of fresh deliveries comes; it may be asked for again.
    pub fn load_fresh_failed(&mut self) {
        self.loading_fresh = false;
        self.stale_fresh.clear();
    }

    /// No page of due deliveries comes; it may be asked for again.
    pub fn load_due_failed(&mut self) {
        self.loading_due = None;
        self.horizon_moved = false;
        self.stale.clear();
        for item in std::mem::take(&mut self.reoffer) {
            self.offer(item);
        }
    }

    /// Whether the earliest due deliveries are not known yet.
    #[must_use]
    pub fn is_reading_due(&self) -> bool {
        self.loading_due.is_some()
    }

    // === What waits ===

    /// The first fresh delivery that fits, and its place.
    #[must_use]
    pub fn find_fresh(&self, fits: impl Fn(&Item) -> bool) -> Option<(usize, &Item)> {
        self.fresh.iter().enumerate().find(|(_, item)| fits(item))
    }

    /// The first due delivery that fits, and its position.
    #[must_use]
    pub fn find_due(&self, fits: impl Fn(Timestamp, &Item) -> bool) -> Option<(Position, &Item)> {
        let mut due = self.due.iter();
        due.find(|((at, _), item)| fits(*at, item)).map(|(position, item)| (*position, item))
    }

    /// Takes a fresh delivery out.
    pub fn take_fresh(&mut self, place: usize) -> Option<Item> {
        self.fresh.remove(place)
    }

    /// Takes a due delivery out.
    pub fn take_due(&mut self, position: Position) -> Option<Item> {
        self.due_index.remove(&position.1);
        self.due.remove(&position)
    }

    /// Takes everything out that fits. Fresh deliveries are in order of age: where `by_age`, the first
    /// that does not fit ends the search among them.
    pub fn take_all(&mut self, fits: impl Fn(&Item) -> bool, by_age: bool) -> Vec<Item> {
        let mut taken = Vec::new();
        if by_age {
            while self.fresh.front().is_some_and(&fits) {
                taken.extend(self.fresh.pop_front());
            }
        } else {
            let (out, kept): (Vec<Item>, Vec<Item>) = self.fresh.drain(..).partition(&fits);
            self.fresh = kept.into();
            taken = out;
        }
        let due: Vec<Position> = self.due.iter().filter(|(_, item)| fits(item)).map(|(at, _)| *at).collect();
        taken.extend(due.into_iter().filter_map(|position| self.take_due(position)));
        taken
    }

    /// Takes out what is in memory alone, also what is in a request that will not be waited for.
    pub fn take_alone(&mut self) -> Vec<Item> {
        let mut taken = self.take_all(|item| item.stage == Stage::InMemory, false);
        taken.extend(self.in_flight_alone.drain().map(|(_, item)| item));
        taken
    }

    /// The key of the oldest delivery in memory.
    #[must_use]
    pub fn oldest(&self) -> Option<EventKey> {
        let fresh = self.fresh.front().map(|item| item.key);
        fresh.into_iter().chain(self.due.values().map(|item| item.key)).min()
    }

    /// The first due time in memory.
    #[must_use]
    pub fn first_due(&self) -> Option<Timestamp> {
        self.due.keys().next().map(|(due, _)| *due)
    }

    /// When this delivery is due; `None` unless it waits for a due time in memory.
    #[must_use]
    pub fn due_of(&self, key: EventKey) -> Option<Timestamp> {
        self.due_index.get(&key).copied()
    }

    /// Deliveries in memory that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.fresh.len() + self.due.len()
    }

    /// Whether nothing waits in memory.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the store holds deliveries that are not in memory.
    #[must_use]
    pub fn has_more_in_store(&self) -> bool {
        self.fresh_tail.is_some() || self.due_tail.is_some()
    }

    /// Whether there is nothing in memory and nothing to remember.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.is_empty()
            && !self.has_more_in_store()
            && self.in_flight.is_empty()
            && self.unsettled.is_empty()
            && self.reoffer.is_empty()
    }

    /// Whether something that fits waits in memory.
    pub fn any(&self, fits: impl Fn(&Item) -> bool) -> bool {
        self.fresh.iter().any(&fits) || self.due.values().any(&fits)
    }
}

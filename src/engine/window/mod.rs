//! The window: the deliveries of a lane that are in memory, and where the store goes on.
//!
//! * *Fresh* deliveries (first attempts) wait in order of their keys: `fresh`.
//! * *Due* deliveries (retries, resends, replays) wait in order of their due time: `due`.
//! * Those that are in a request wait in neither: `flights`.
//!
//! Each line is bounded by the size of the window, and remembers where in the store it goes on.

mod due;
mod flights;
mod fresh;

use crate::domain::id::EventKey;
use crate::domain::settings::Guarantee;
use crate::domain::time::Timestamp;
use crate::engine::item::Item;
use crate::store::{DueEntry, Page, Stage};
use due::DueLine;
use flights::Flights;
use fresh::FreshLine;

/// A place in the order of due deliveries.
pub type Position = (Timestamp, EventKey);

/// Where reading on from the store would begin; `None` when the store holds nothing more.
type Tail<K> = Option<Option<K>>;

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
    fresh: FreshLine,
    due: DueLine,
    flights: Flights,
}

impl Window {
    /// An empty window of that many deliveries. `backlog`: whether the store may hold some already.
    #[must_use]
    pub fn new(size: usize, backlog: bool) -> Self {
        let size = size.max(1);
        Self {
            size,
            fresh: FreshLine::new(backlog),
            due: DueLine::new(size, backlog),
            flights: Flights::default(),
        }
    }

    /// Holds so many from now on. First attempts that are in memory already stay there.
    pub fn resize(&mut self, size: usize) {
        self.size = size.max(1);
        self.due.resize(self.size);
    }

    /// When the event of the first of the fresh deliveries in memory was accepted.
    #[must_use]
    pub fn oldest_fresh_at(&self) -> Option<Timestamp> {
        self.fresh.iter().next().map(|item| item.key.made_at())
    }

    // === What came ===

    /// A delivery was committed; hands a best-effort one back that finds the window or the memory full.
    pub fn accept(&mut self, item: Item) -> Option<Item> {
        if item.guarantee == Guarantee::AtLeastOnce {
            self.fresh.push(item, self.size);
        } else if self.len() >= self.size || item.event.is_none() {
            return Some(item);
        } else {
            self.fresh.push_alone(item);
        }
        None
    }

    /// Deliveries up to this key were committed, but are not in memory; they are in the store.
    pub fn missed(&mut self, key: EventKey) {
        self.fresh.missed(key);
    }

    /// A resend or a replay made this delivery wait again.
    pub fn requeue(&mut self, entry: DueEntry) {
        let key = entry.id.event_key;
        if self.flights.contains(key) {
            self.flights.requeue(entry);
            return;
        }
        self.forget(key);
        self.due.insert(entry.due, Item::due(self.due.counted(entry)));
    }

    /// Takes a delivery out of memory that a caller has ended; an attempt under way goes on, but is the last.
    pub fn forget(&mut self, key: EventKey) {
        self.flights.forget(key);
        self.due.forget(key);
        self.fresh.forget(key);
    }

    // === Attempts and outcomes ===

    /// These deliveries are in a request from here on.
    pub fn begin(&mut self, batch: &[Item]) {
        self.flights.begin(batch);
    }

    /// The attempt of a delivery has ended; its outcome is on its way to the store. `again` is when it
    /// waits for, if it does, and `succeeded_at` when the receiver took it.
    pub fn end(&mut self, item: Item, again: Option<Timestamp>, succeeded_at: Option<Timestamp>) {
        let meanwhile = self.flights.end(item.key);
        self.note_unsettled(&item);
        // As the store sees it: who asks for it again after it succeeded, gets it again.
        let counts = |entry: &DueEntry| succeeded_at.is_none_or(|at| entry.cycle.started_at > at);
        match (meanwhile.requeued.filter(counts), again) {
            // What a caller asked for meanwhile comes before what policy says of a failure.
            (Some(entry), _) => {
                let attempt_count = item.attempt_count.max(entry.attempt_count);
                self.wait(Item::due(DueEntry { attempt_count, ..entry }), entry.due);
            }
            (None, Some(due)) if !meanwhile.ended => self.wait(item, due),
            (None, _) => {}
        }
    }

    fn wait(&mut self, mut item: Item, due: Timestamp) {
        if item.stage == Stage::InMemory {
            self.due.insert(due, item);
            return;
        }
        item.stage = Stage::Due(due);
        // Only best effort keeps its data in memory: its order is nowhere else.
        item.let_go_of_data();
        self.due.wait(due, item);
    }

    /// Nothing was sent for these deliveries, for a reason of ours; they wait as if never started.
    pub fn put_back(&mut self, items: Vec<Item>, due: Timestamp) {
        for mut item in items {
            let meanwhile = self.flights.end(item.key);
            if item.kept.is_none() {
                item.let_go_of_data();
            }
            if let Some(entry) = meanwhile.requeued {
                self.due.insert(entry.due, Item::due(entry));
            } else if !meanwhile.ended {
                self.due.insert(due, item);
            }
        }
    }

    /// The outcome of a delivery that was taken out is on its way to the store.
    pub fn note_unsettled(&mut self, item: &Item) {
        self.due.note_unsettled(item);
    }

    /// The outcomes of these deliveries are stored.
    pub fn settled(&mut self, keys: &[EventKey]) {
        self.due.settled(keys);
    }

    /// Keeps only the keys of what the store has, too.
    pub fn let_go_of_data(&mut self) {
        self.fresh.iter_mut().chain(self.due.iter_mut()).for_each(Item::let_go_of_data);
    }

    // === Reading on ===

    /// The page to read next, where less than half of the window is in memory; counts as being read.
    pub fn read_on(&mut self) -> Option<Wanted> {
        let half = self.size / 2;
        if let Some(after) = self.due.read_on(half) {
            return Some(Wanted::Due(after, self.size - self.due.len()));
        }
        let after = self.fresh.read_on(half)?;
        Some(Wanted::Fresh(after, self.size - self.fresh.len()))
    }

    /// The page of [`Wanted::Fresh`] is here.
    pub fn loaded_fresh(&mut self, page: Page<Item>) {
        let (flights, due) = (&self.flights, &self.due);
        self.fresh.loaded(page, |key| flights.contains(key) || due.due_of(key).is_some());
    }

    /// The page of [`Wanted::Due`] is here.
    pub fn loaded_due(&mut self, page: Page<DueEntry>) {
        let flights = &self.flights;
        self.due.loaded(page, |key| flights.contains(key));
    }

    /// No page of fresh deliveries comes; it may be asked for again.
    pub fn load_fresh_failed(&mut self) {
        self.fresh.load_failed();
    }

    /// No page of due deliveries comes; it may be asked for again.
    pub fn load_due_failed(&mut self) {
        self.due.load_failed();
    }

    /// Whether the earliest due deliveries are not known yet.
    #[must_use]
    pub fn is_reading_due(&self) -> bool {
        self.due.is_reading()
    }

    // === What waits ===

    /// The first fresh delivery that fits, and its place.
    #[must_use]
    pub fn find_fresh(&self, fits: impl Fn(&Item) -> bool) -> Option<(usize, &Item)> {
        self.fresh.find(fits)
    }

    /// The first due delivery that fits, and its position.
    #[must_use]
    pub fn find_due(&self, fits: impl Fn(Timestamp, &Item) -> bool) -> Option<(Position, &Item)> {
        self.due.find(fits)
    }

    /// The first due delivery that fits, where order matters.
    #[must_use]
    pub fn find_due_in_order(&self, fits: impl Fn(&Item) -> bool) -> Option<(Position, &Item)> {
        self.due.find_in_order(fits)
    }

    /// Takes a fresh delivery out.
    pub fn take_fresh(&mut self, place: usize) -> Option<Item> {
        self.fresh.take(place)
    }

    /// Takes a due delivery out.
    pub fn take_due(&mut self, position: Position) -> Option<Item> {
        self.due.take(position)
    }

    /// Takes everything out that fits. Fresh deliveries are in order of age: where `by_age`, the first
    /// that does not fit ends the search among them.
    pub fn take_all(&mut self, fits: impl Fn(&Item) -> bool, by_age: bool) -> Vec<Item> {
        let mut taken = self.fresh.take_all(&fits, by_age);
        taken.extend(self.due.take_all(fits));
        taken
    }

    /// Takes out what is in memory alone, also what is in a request that will not be waited for.
    pub fn take_alone(&mut self) -> Vec<Item> {
        let mut taken = self.take_all(|item| item.stage == Stage::InMemory, false);
        taken.extend(self.flights.take_alone());
        taken
    }

    /// Those among which is whatever comes to its end by time first: fresh ones are in order of age, the others
    /// are not.
    pub fn candidates(&self) -> impl Iterator<Item = &Item> {
        self.fresh.iter().take(1).chain(self.due.iter())
    }

    /// The key of the oldest delivery in memory.
    #[must_use]
    pub fn oldest(&self) -> Option<EventKey> {
        let fresh = self.fresh.iter().next();
        fresh.into_iter().chain(self.due.iter()).map(|item| item.key).min()
    }

    /// The key of the newest first attempt in memory; where there is none, of the newest of the others.
    #[must_use]
    pub fn newest(&self) -> Option<EventKey> {
        let newest_fresh = self.fresh.iter().map(|item| item.key).max();
        newest_fresh.or_else(|| self.due.iter().map(|item| item.key).max())
    }

    /// When the first in memory is due; where order matters, the first in order.
    #[must_use]
    pub fn first_due(&self, ordered: bool) -> Option<Timestamp> {
        self.due.first(ordered)
    }

    /// When this delivery is due; `None` unless it waits for a due time in memory.
    #[must_use]
    pub fn due_of(&self, key: EventKey) -> Option<Timestamp> {
        self.due.due_of(key)
    }

    /// How many bytes of memory a request with the next delivery takes: the first fresh or the first due one,
    /// whichever is larger.
    #[must_use]
    pub fn next_bytes(&self) -> usize {
        let (fresh, due) = (self.fresh.iter().next(), self.due.iter().next());
        fresh.into_iter().chain(due).map(Item::bytes_in_flight).max().unwrap_or(0)
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

    /// Whether a first attempt waits in memory.
    #[must_use]
    pub fn has_fresh(&self) -> bool {
        self.fresh.len() > 0
    }

    /// Whether the store holds deliveries that are not in memory.
    #[must_use]
    pub fn has_more_in_store(&self) -> bool {
        self.fresh.has_more() || self.due.has_more()
    }

    /// Whether the store holds due deliveries that are not in memory.
    #[must_use]
    pub fn has_more_due_in_store(&self) -> bool {
        self.due.has_more()
    }

    /// Whether there is nothing in memory and nothing to remember.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.is_empty() && !self.has_more_in_store() && self.flights.is_empty() && self.due.is_settled()
    }

    /// Whether something that fits waits in memory.
    pub fn any(&self, fits: impl Fn(&Item) -> bool) -> bool {
        self.fresh.iter().any(&fits) || self.due.iter().any(&fits)
    }
}

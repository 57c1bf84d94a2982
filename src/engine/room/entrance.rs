//! The room behind one lock: how delivery threads come to places, and give them back.
//!
//! Whoever changes the room wakes the threads to which something was granted by that. The lock is held for
//! some hash look-ups and never while anything waits, so threads that find room pay for little else.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::{Claim, Grant, Place, Room};
use crate::clock::SharedClock;
use crate::domain::id::DestinationId;
use crate::domain::time::Timestamp;
use crate::policy::standing::Standing;

/// The room of the process.
pub struct SharedRoom {
    room: Mutex<Room>,
    /// One for each thread: something was granted to it.
    bells: Vec<Notify>,
    clock: SharedClock,
}

impl SharedRoom {
    /// Room for so many requests and so many bytes of events, shared by so many threads: the end of each.
    #[must_use]
    pub fn of_threads(
        threads: usize,
        (max_requests, max_bytes): (usize, usize),
        clock: &SharedClock,
    ) -> Vec<Entrance> {
        let bells = std::iter::repeat_with(Notify::new).take(threads).collect();
        let room = Mutex::new(Room::new(max_requests, max_bytes, threads));
        let shared = Arc::new(Self { room, bells, clock: Arc::clone(clock) });
        (0..threads).map(|thread| Entrance { shared: Arc::clone(&shared), thread }).collect()
    }

    /// Changes the room for a thread, and wakes the others that have got something by it.
    fn change<T>(&self, thread: usize, change: impl FnOnce(&mut Room, Timestamp) -> T) -> T {
        let now = self.clock.now();
        let mut room = self.lock();
        let result = change(&mut room, now);
        let to_tell = room.take_to_tell();
        drop(room);
        for other in to_tell.into_iter().filter(|other| *other != thread) {
            if let Some(bell) = self.bells.get(other) {
                bell.notify_one();
            }
        }
        result
    }

    fn lock(&self) -> MutexGuard<'_, Room> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The room as one thread sees it. Who drops it gets nothing any more.
pub struct Entrance {
    shared: Arc<SharedRoom>,
    thread: usize,
}

impl Entrance {
    /// A claim of this thread.
    #[must_use]
    pub fn thread(&self) -> usize {
        self.thread
    }

    /// Puts lanes of this thread in line, and fetches what was granted to it. Whatever is granted later is
    /// fetched by the next call; [`Entrance::bell`] says when.
    pub fn claim(&self, claims: impl IntoIterator<Item = Claim>) -> Vec<(DestinationId, Seat)> {
        let grants = self.shared.change(self.thread, |room, now| {
            room.claim(claims, now);
            room.take_grants(self.thread)
        });
        let seat = |place| Seat { shared: Arc::clone(&self.shared), thread: self.thread, place: Some(place) };
        grants.into_iter().map(|Grant { id, place }| (id, seat(place))).collect()
    }

    /// Waits until another thread has made way for a lane of this one.
    pub async fn bell(&self) {
        match self.shared.bells.get(self.thread) {
            Some(bell) => bell.notified().await,
            None => std::future::pending().await,
        }
    }

    /// Counts requests that have been silent for a while as what they are.
    pub fn notice_silence(&self) {
        self.shared.change(self.thread, Room::look);
    }

    /// When there may next be room by the passing of time alone, after `now`.
    #[must_use]
    pub fn next_change(&self, now: Timestamp) -> Option<Timestamp> {
        self.shared.lock().next_change(now)
    }
}

impl Drop for Entrance {
    fn drop(&mut self) {
        self.shared.change(self.thread, |room, now| room.leave(self.thread, now));
    }
}

/// A place in the room, for as long as it is not dropped.
#[must_use = "dropping it gives the place back"]
pub struct Seat {
    shared: Arc<SharedRoom>,
    thread: usize,
    place: Option<Place>,
}

impl Seat {
    /// The request begins: it has so many bytes and ends within `timeout`.
    pub fn begin(&mut self, bytes: usize, timeout: Duration) {
        let place = self.place.take();
        self.place = place
            .map(|place| self.shared.change(self.thread, |room, now| room.begin(place, bytes, timeout, now)));
    }

    /// The same for a lane of that standing, where there is room for it.
    #[must_use]
    pub fn for_standing(mut self, standing: Standing, bytes: usize) -> Option<Self> {
        let place = self.place.take()?;
        if place.standing() == standing {
            self.place = Some(place);
        } else {
            self.place =
                self.shared.change(self.thread, |room, now| room.change(place, (standing, bytes), now));
        }
        self.place.is_some().then_some(self)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            self.shared.change(self.thread, |room, now| room.give_back(place, now));
        }
    }
}

impl fmt::Debug for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seat").field("thread", &self.thread).field("place", &self.place).finish()
    }
}

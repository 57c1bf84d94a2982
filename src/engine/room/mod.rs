//! The room: what all delivery threads share, sockets and bytes in flight, and who gets them.
//!
//! [`Room`] is a pure state machine. Lanes of all threads stand in one line (`lines`); where there is space
//! (`space`), whoever is next is granted a place, and its thread is told. So one busy thread may use what the
//! others leave, and where places are scarce they go by organization first, then by lane, whichever thread
//! they belong to. `entrance` puts the machine behind one lock and wakes the threads.
//!
//! Places are given out after each change. So a claim waits only while there is no space for it, and no
//! wake-up can be lost: who comes next is known at the moment in which a place becomes free.

mod doorway;
pub mod entrance;
mod lines;
mod space;
mod turns;

use std::time::Duration;

pub use self::lines::Claim;
use self::lines::Lines;
pub use self::space::Place;
use self::space::Space;
use crate::domain::id::DestinationId;
use crate::domain::time::Timestamp;
use crate::policy::standing::Standing;

/// A place for a lane.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the place must be given back"]
pub struct Grant {
    /// Which lane.
    pub id: DestinationId,
    /// Its place.
    pub place: Place,
}

/// What is granted to one thread and not yet fetched.
#[derive(Debug, Default)]
struct Desk {
    grants: Vec<Grant>,
    /// The thread has ended.
    closed: bool,
}

/// Sockets and bytes in flight of the whole process, and the lanes that wait for some.
#[derive(Debug)]
pub struct Room {
    space: Space,
    lines: Lines,
    desks: Vec<Desk>,
    /// Threads to be told of grants.
    to_tell: Vec<usize>,
}

impl Room {
    /// Room for so many requests and so many bytes of events, shared by so many threads.
    #[must_use]
    pub fn new(max_requests: usize, max_bytes: usize, threads: usize) -> Self {
        let desks = std::iter::repeat_with(Desk::default).take(threads).collect();
        Self {
            space: Space::new(max_requests, max_bytes),
            lines: Lines::default(),
            desks,
            to_tell: Vec::new(),
        }
    }

    /// Puts lanes in line. Each claim is granted once, at once or when its turn has come.
    pub fn claim(&mut self, claims: impl IntoIterator<Item = Claim>, now: Timestamp) {
        claims.into_iter().for_each(|claim| self.lines.push(claim));
        self.give_out(now);
    }

    /// What was granted to a thread since it asked last.
    pub fn take_grants(&mut self, thread: usize) -> Vec<Grant> {
        self.desks.get_mut(thread).map(|desk| std::mem::take(&mut desk.grants)).unwrap_or_default()
    }

    /// The request of a place begins: it has so many bytes and ends within `timeout`.
    pub fn begin(&mut self, place: Place, bytes: usize, timeout: Duration, now: Timestamp) -> Place {
        let place = self.space.begin(place, bytes, timeout, now);
        // It may be smaller than it was taken for.
        self.give_out(now);
        place
    }

    /// A request has ended, or does not begin.
    pub fn give_back(&mut self, place: Place, now: Timestamp) {
        self.space.give_back(place);
        self.give_out(now);
    }

    /// A place for a lane that has come to deserve other room since it was put in line; none where there is
    /// no such space. The old place is given back.
    pub fn change(
        &mut self,
        place: Place,
        (standing, bytes): (Standing, usize),
        now: Timestamp,
    ) -> Option<Place> {
        self.space.give_back(place);
        let changed = self.space.has(standing, now).then(|| self.space.take(standing, bytes, now));
        self.give_out(now);
        changed
    }

    /// Time has passed: those that have been silent count as what they are.
    pub fn look(&mut self, now: Timestamp) {
        self.space.notice_silence(now);
        self.give_out(now);
    }

    /// When there may next be room by the passing of time alone, after `now`.
    #[must_use]
    pub fn next_change(&self, now: Timestamp) -> Option<Timestamp> {
        self.space.next_change(now)
    }

    /// A thread has ended: nothing is granted to it any more, and what it did not fetch goes to others.
    pub fn leave(&mut self, thread: usize, now: Timestamp) {
        let Some(desk) = self.desks.get_mut(thread) else { return };
        desk.closed = true;
        for Grant { place, .. } in std::mem::take(&mut desk.grants) {
            self.space.give_back(place);
        }
        self.give_out(now);
    }

    /// Takes out the threads to which something was granted since this was asked last.
    pub fn take_to_tell(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.to_tell)
    }

    fn give_out(&mut self, now: Timestamp) {
        while let Some(claim) = self.lines.next(|standing| self.space.has(standing, now)) {
            let Some(desk) = self.desks.get_mut(claim.thread).filter(|desk| !desk.closed) else { continue };
            if desk.grants.is_empty() {
                self.to_tell.push(claim.thread);
            }
            let place = self.space.take(claim.standing, claim.bytes, now);
            desk.grants.push(Grant { id: claim.id, place });
        }
    }
}

#[cfg(test)]
mod tests;

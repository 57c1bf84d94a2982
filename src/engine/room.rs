//! The room of a delivery thread: how many requests and how many bytes may be in flight, and whose.
//!
//! Who is counted as what is decided when a request begins, and once more when it has been silent for a
//! while: it is no longer a prompt one then, and the room that is kept for newcomers is free for the next.

use std::collections::{HashSet, VecDeque};

use crate::domain::time::Timestamp;
use crate::policy::standing::{SLOW, Standing, share_of_others};

/// What one request takes of the room, until it is given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "what is taken must be given back"]
pub struct Place {
    number: u64,
    standing: Standing,
    bytes: usize,
}

impl Place {
    /// As what it is counted once it has been silent for a while.
    const fn when_silent(self) -> Standing {
        match self.standing {
            Standing::Prompt | Standing::Slow => Standing::Slow,
            Standing::Unproven | Standing::Failing => Standing::Failing,
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Taken {
    requests: usize,
    bytes: usize,
}

impl Taken {
    fn is_within(self, requests: usize, bytes: usize) -> bool {
        self.requests < requests && self.bytes < bytes
    }
}

/// Requests and bytes in flight, by the standing that their destinations had when they began.
#[derive(Debug)]
pub struct Room {
    max_requests: usize,
    max_bytes: usize,
    taken: [Taken; Standing::ALL.len()],
    /// Places that may turn out to be silent, in the order in which they were taken.
    young: VecDeque<(Timestamp, Place)>,
    /// Those of them that have not ended.
    answerable: HashSet<u64>,
    next_number: u64,
}

impl Room {
    /// Room for so many requests, and for so many bytes of events.
    #[must_use]
    pub fn new(max_requests: usize, max_bytes: usize) -> Self {
        Self {
            max_requests,
            max_bytes,
            taken: [Taken::default(); Standing::ALL.len()],
            young: VecDeque::new(),
            answerable: HashSet::new(),
            next_number: 0,
        }
    }

    /// Whether a request of such a destination may begin. It may be larger than what is left of the bytes,
    /// since even the largest must be sent one day: at most one request is ever beyond.
    #[must_use]
    pub fn has(&self, standing: Standing) -> bool {
        let prompt = self.of(Standing::Prompt);
        let all = self.sum(Standing::ALL);
        let others = Taken { requests: all.requests - prompt.requests, bytes: all.bytes - prompt.bytes };
        let within_others = standing == Standing::Prompt
            || others.is_within(share_of_others(self.max_requests), share_of_others(self.max_bytes));
        within_others
            && all.is_within(self.max_requests, self.max_bytes)
            && self.of(standing).is_within(standing.share(self.max_requests), standing.share(self.max_bytes))
    }

    /// A request begins.
    pub fn take(&mut self, standing: Standing, bytes: usize, now: Timestamp) -> Place {
        self.next_number += 1;
        let place = Place { number: self.next_number, standing, bytes };
        self.add(standing, bytes);
        if place.when_silent() != standing {
            self.answerable.insert(place.number);
            self.young.push_back((now, place));
        }
        place
    }

    /// A request has ended.
    pub fn give_back(&mut self, place: Place) {
        let is_young = self.answerable.remove(&place.number);
        self.subtract(if is_young { place.standing } else { place.when_silent() }, place.bytes);
    }

    /// Counts requests that have been silent for a while as what they are.
    pub fn notice_silence(&mut self, now: Timestamp) {
        while let Some((_, place)) = self.young.pop_front_if(|(begun, _)| now.since(*begun) > SLOW) {
            if self.answerable.remove(&place.number) {
                self.subtract(place.standing, place.bytes);
                self.add(place.when_silent(), place.bytes);
            }
        }
    }

    /// When the next request may turn out to be silent.
    #[must_use]
    pub fn next_silence(&self) -> Option<Timestamp> {
        self.young.front().map(|(begun, _)| *begun + SLOW)
    }

    fn add(&mut self, standing: Standing, bytes: usize) {
        if let Some(taken) = self.taken.get_mut(standing.index()) {
            taken.requests += 1;
            taken.bytes = taken.bytes.saturating_add(bytes);
        }
    }

    fn subtract(&mut self, standing: Standing, bytes: usize) {
        if let Some(taken) = self.taken.get_mut(standing.index()) {
            taken.requests = taken.requests.saturating_sub(1);
            taken.bytes = taken.bytes.saturating_sub(bytes);
        }
    }

    /// Whether nothing is in flight.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.taken.iter().all(|taken| taken.requests == 0)
    }

    fn of(&self, standing: Standing) -> Taken {
        self.taken.get(standing.index()).copied().unwrap_or_default()
    }

    fn sum(&self, standings: impl IntoIterator<Item = Standing>) -> Taken {
        let each = standings.into_iter().map(|standing| self.of(standing));
        each.fold(Taken::default(), |sum, one| Taken {
            requests: sum.requests + one.requests,
            bytes: sum.bytes.saturating_add(one.bytes),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    fn fill(room: &mut Room, standing: Standing, bytes: usize) -> Vec<Place> {
        std::iter::from_fn(|| room.has(standing).then(|| room.take(standing, bytes, NOW))).collect()
    }

    #[test]
    fn whatever_others_take_a_quarter_is_left_for_prompt_destinations() {
        let mut room = Room::new(256, 1 << 20);
        let failing = fill(&mut room, Standing::Failing, 0);
        assert_eq!(failing.len(), 64);
        assert_eq!(fill(&mut room, Standing::Slow, 0).len(), 128);
        assert_eq!(fill(&mut room, Standing::Unproven, 0).len(), 0, "others have three quarters together");
        assert_eq!(fill(&mut room, Standing::Prompt, 0).len(), 64);
        for place in failing {
            room.give_back(place);
        }
        assert_eq!(fill(&mut room, Standing::Unproven, 0).len(), 64);
    }

    #[test]
    fn bytes_are_bounded_as_requests_are_and_one_request_always_goes() {
        let mut room = Room::new(100, 1000);
        assert_eq!(fill(&mut room, Standing::Failing, 100).len(), 3, "the third one is beyond 250");
        assert_eq!(fill(&mut room, Standing::Prompt, 100).len(), 7);
        let mut room = Room::new(100, 1000);
        let huge = fill(&mut room, Standing::Prompt, 5000);
        assert_eq!(huge.len(), 1);
        huge.into_iter().for_each(|place| room.give_back(place));
        assert!(room.is_empty() && room.has(Standing::Prompt));
    }

    #[test]
    fn the_room_of_newcomers_that_stay_silent_is_free_for_the_next_ones() {
        let mut room = Room::new(256, 1 << 20);
        let mut places = fill(&mut room, Standing::Unproven, 10);
        assert_eq!((places.len(), room.next_silence()), (64, Some(NOW + SLOW)));
        room.give_back(places.remove(0));
        let later = NOW + SLOW + Duration::from_millis(1);
        room.notice_silence(later);
        assert_eq!(
            fill(&mut room, Standing::Failing, 10).into_iter().map(|place| room.give_back(place)).count(),
            1
        );
        places.extend(fill(&mut room, Standing::Unproven, 10));
        assert_eq!(places.len(), 63 + 64);
        assert!(room.has(Standing::Prompt));
        places.into_iter().for_each(|place| room.give_back(place));
        assert!(room.is_empty() && room.answerable.is_empty());
        assert_eq!(room.sum(Standing::ALL), Taken::default());
    }

    #[test]
    fn the_smallest_room_serves_every_standing() {
        let mut room = Room::new(1, 1);
        for standing in Standing::ALL {
            let places = fill(&mut room, standing, 10);
            assert_eq!(places.len(), 1);
            places.into_iter().for_each(|place| room.give_back(place));
        }
    }
}

//! The room of a delivery thread: how many requests and how many bytes may be in flight, and whose.

use crate::policy::standing::{Standing, share_of_others};

/// What one request takes of the room, until it is given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "what is taken must be given back"]
pub struct Place {
    standing: Standing,
    bytes: usize,
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
}

impl Room {
    /// Room for so many requests, and for so many bytes of events.
    #[must_use]
    pub fn new(max_requests: usize, max_bytes: usize) -> Self {
        Self { max_requests, max_bytes, taken: [Taken::default(); Standing::ALL.len()] }
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
    pub fn take(&mut self, standing: Standing, bytes: usize) -> Place {
        if let Some(taken) = self.taken.get_mut(standing.index()) {
            taken.requests += 1;
            taken.bytes = taken.bytes.saturating_add(bytes);
        }
        Place { standing, bytes }
    }

    /// A request has ended.
    pub fn give_back(&mut self, place: Place) {
        if let Some(taken) = self.taken.get_mut(place.standing.index()) {
            taken.requests = taken.requests.saturating_sub(1);
            taken.bytes = taken.bytes.saturating_sub(place.bytes);
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
    use super::*;

    fn fill(room: &mut Room, standing: Standing, bytes: usize) -> Vec<Place> {
        std::iter::from_fn(|| room.has(standing).then(|| room.take(standing, bytes))).collect()
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
    fn the_smallest_room_serves_every_standing() {
        let mut room = Room::new(1, 1);
        for standing in Standing::ALL {
            let places = fill(&mut room, standing, 10);
            assert_eq!(places.len(), 1);
            places.into_iter().for_each(|place| room.give_back(place));
        }
    }
}

//! The space in the room: how many requests and how many bytes may be in flight, and whose.
//!
//! Who is counted as what is decided when a place is taken, and once more when its request has been silent for
//! a while: it is no longer a prompt one then, and the space that is kept for newcomers is free for the next.
//! Where silent ones have taken all of that, newcomers come in by the doorway, one after the other.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use super::doorway::Doorway;
use crate::domain::time::Timestamp;
use crate::policy::standing::{SLOW, Standing, doorway_of, share_of_others};

/// What one request takes of the space, until it is given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "what is taken must be given back"]
pub struct Place {
    number: u64,
    standing: Standing,
    bytes: usize,
    at_the_door: bool,
    begun: bool,
}

impl Place {
    /// As what it was taken.
    #[must_use]
    pub const fn standing(self) -> Standing {
        self.standing
    }

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

    fn add(&mut self, bytes: usize) {
        self.requests += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }

    fn subtract(&mut self, bytes: usize) {
        self.requests = self.requests.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    fn resize(&mut self, before: usize, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(before).saturating_add(bytes);
    }
}

/// Requests and bytes in flight, by the standing that their destinations had when they began.
#[derive(Debug)]
pub struct Space {
    max_requests: usize,
    max_bytes: usize,
    /// All of them, those at the door included.
    all: Taken,
    /// Those that did not come in by the door.
    by_standing: [Taken; Standing::ALL.len()],
    doorway: Doorway,
    /// Places whose requests may turn out to be silent, in the order in which these began.
    young: VecDeque<(Timestamp, Place)>,
    /// Those of them that have not ended.
    answerable: HashSet<u64>,
    next_number: u64,
}

impl Space {
    /// Space for so many requests, and for so many bytes of events.
    #[must_use]
    pub fn new(max_requests: usize, max_bytes: usize) -> Self {
        Self {
            max_requests,
            max_bytes,
            all: Taken::default(),
            by_standing: [Taken::default(); Standing::ALL.len()],
            doorway: Doorway::new(doorway_of(max_requests)),
            young: VecDeque::new(),
            answerable: HashSet::new(),
            next_number: 0,
        }
    }

    /// Whether a request of such a destination may begin. It may be larger than what is left of the bytes,
    /// since even the largest must be sent one day: at most one request is ever beyond.
    #[must_use]
    pub fn has(&self, standing: Standing, now: Timestamp) -> bool {
        let by_the_door = standing == Standing::Unproven && self.doorway.is_open(now);
        self.all.is_within(self.max_requests, self.max_bytes) && (self.has_share(standing) || by_the_door)
    }

    /// Whether there is space without the doorway.
    fn has_share(&self, standing: Standing) -> bool {
        let others = Standing::ALL.into_iter().filter(|other| *other != Standing::Prompt);
        let within_others = standing == Standing::Prompt
            || self
                .sum(others)
                .is_within(share_of_others(self.max_requests), share_of_others(self.max_bytes));
        within_others
            && self.of(standing).is_within(standing.share(self.max_requests), standing.share(self.max_bytes))
    }

    /// Takes a place for a request of about so many bytes that is about to begin.
    pub fn take(&mut self, standing: Standing, bytes: usize, now: Timestamp) -> Place {
        self.next_number += 1;
        let at_the_door = standing == Standing::Unproven && !self.has_share(standing);
        let place = Place { number: self.next_number, standing, bytes, at_the_door, begun: false };
        self.all.add(bytes);
        if at_the_door {
            // Nobody takes longer to begin.
            self.doorway.enter(place.number, now + SLOW);
        } else {
            self.count(standing, |taken| taken.add(bytes));
        }
        place
    }

    /// The request of a place begins: it has so many bytes and ends within `timeout`.
    pub fn begin(&mut self, place: Place, bytes: usize, timeout: Duration, now: Timestamp) -> Place {
        let about = place.bytes;
        let place = Place { bytes, begun: true, ..place };
        self.all.resize(about, bytes);
        if place.at_the_door {
            self.doorway.stay(place.number, timeout, now);
            return place;
        }
        self.count(place.standing, |taken| taken.resize(about, bytes));
        if place.when_silent() != place.standing {
            self.answerable.insert(place.number);
            self.young.push_back((now, place));
        }
        place
    }

    /// A request has ended, or does not begin.
    pub fn give_back(&mut self, place: Place) {
        self.all.subtract(place.bytes);
        if place.at_the_door {
            self.doorway.leave(place.number);
            return;
        }
        let was_silent = place.begun && !self.answerable.remove(&place.number);
        let standing = if was_silent { place.when_silent() } else { place.standing };
        self.count(standing, |taken| taken.subtract(place.bytes));
    }

    /// Counts requests that have been silent for a while as what they are.
    pub fn notice_silence(&mut self, now: Timestamp) {
        while let Some((_, place)) = self.young.pop_front_if(|(begun, _)| now.since(*begun) > SLOW) {
            if self.answerable.remove(&place.number) {
                self.count(place.standing, |taken| taken.subtract(place.bytes));
                self.count(place.when_silent(), |taken| taken.add(place.bytes));
            }
        }
    }

    /// When there may next be room by the passing of time alone, after `now`.
    #[must_use]
    pub fn next_change(&self, now: Timestamp) -> Option<Timestamp> {
        let silence = self.young.front().map(|(begun, _)| *begun + SLOW);
        silence.into_iter().chain(self.doorway.opens_at(now)).min()
    }

    fn count(&mut self, standing: Standing, change: impl FnOnce(&mut Taken)) {
        if let Some(taken) = self.by_standing.get_mut(standing.index()) {
            change(taken);
        }
    }

    fn of(&self, standing: Standing) -> Taken {
        self.by_standing.get(standing.index()).copied().unwrap_or_default()
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

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);
    const TIMEOUT: Duration = Duration::from_secs(32);

    fn fill_at(space: &mut Space, standing: Standing, bytes: usize, now: Timestamp) -> Vec<Place> {
        let take = || {
            space.has(standing, now).then(|| {
                let place = space.take(standing, bytes, now);
                space.begin(place, bytes, TIMEOUT, now)
            })
        };
        std::iter::from_fn(take).collect()
    }

    fn fill(space: &mut Space, standing: Standing, bytes: usize) -> Vec<Place> {
        fill_at(space, standing, bytes, NOW)
    }

    #[test]
    fn whatever_others_take_a_quarter_is_left_for_prompt_destinations() {
        let mut space = Space::new(256, 1 << 20);
        let failing = fill(&mut space, Standing::Failing, 0);
        assert_eq!(failing.len(), 64);
        assert_eq!(fill(&mut space, Standing::Slow, 0).len(), 96);
        assert_eq!(
            fill(&mut space, Standing::Unproven, 0).len(),
            1,
            "the others' share is taken but for the door"
        );
        assert_eq!(fill(&mut space, Standing::Prompt, 0).len(), 95);
        assert_eq!(space.all.requests, 256);
        for place in failing {
            space.give_back(place);
        }
        assert_eq!(fill(&mut space, Standing::Unproven, 0).len(), 64);
    }

    #[test]
    fn newcomers_come_in_by_the_doorway_one_after_the_other_and_never_fill_the_room() {
        let mut space = Space::new(256, 1 << 20);
        let mut now = NOW;
        let mut places = Vec::new();
        // A thousand that never answer: after the rush, one goes in each second, as one times out.
        for second in 0..200_u64 {
            now = NOW + Duration::from_millis(1001 * second);
            space.notice_silence(now);
            let ended = |(begun, _): &(Timestamp, Place)| now.since(*begun) >= TIMEOUT;
            places.extract_if(.., |entry| ended(entry)).for_each(|(_, place)| space.give_back(place));
            let entered = fill_at(&mut space, Standing::Unproven, 0, now);
            assert!(!entered.is_empty(), "second {second}");
            places.extend(entered.into_iter().map(|place| (now, place)));
            assert!(places.len() <= 192, "{}", places.len());
        }
        assert!(space.has(Standing::Prompt, now));
        places.into_iter().for_each(|(_, place)| space.give_back(place));
        assert_eq!((space.all, space.sum(Standing::ALL)), (Taken::default(), Taken::default()));
    }

    #[test]
    fn bytes_are_bounded_as_requests_are_and_one_request_always_goes() {
        let mut space = Space::new(100, 1000);
        assert_eq!(fill(&mut space, Standing::Failing, 100).len(), 3, "the third one is beyond 250");
        assert_eq!(fill(&mut space, Standing::Prompt, 100).len(), 7);
        let mut space = Space::new(100, 1000);
        let huge = fill(&mut space, Standing::Prompt, 5000);
        assert_eq!(huge.len(), 1);
        huge.into_iter().for_each(|place| space.give_back(place));
        assert!(space.has(Standing::Prompt, NOW));
    }

    #[test]
    fn the_room_of_newcomers_that_stay_silent_is_free_for_the_next_ones() {
        let mut space = Space::new(256, 1 << 20);
        let mut places = fill(&mut space, Standing::Unproven, 10);
        assert_eq!((places.len(), space.next_change(NOW)), (65, Some(NOW + SLOW)));
        space.give_back(places.remove(0));
        let later = NOW + SLOW + Duration::from_millis(1);
        space.notice_silence(later);
        assert_eq!(
            fill(&mut space, Standing::Failing, 10).into_iter().map(|place| space.give_back(place)).count(),
            1
        );
        places.extend(fill_at(&mut space, Standing::Unproven, 10, later));
        assert_eq!(places.len(), 64 + 65);
        places.into_iter().for_each(|place| space.give_back(place));
        assert!(space.answerable.is_empty());
        assert_eq!((space.all, space.sum(Standing::ALL)), (Taken::default(), Taken::default()));
    }

    #[test]
    fn the_smallest_room_serves_every_standing() {
        let mut space = Space::new(1, 1);
        for standing in Standing::ALL {
            let places = fill(&mut space, standing, 10);
            assert_eq!(places.len(), 1);
            places.into_iter().for_each(|place| space.give_back(place));
        }
    }
}

//! The doorway: the way into the room for destinations that never answered yet, when silent ones have taken
//! what is there for newcomers.
//!
//! It has few places, and behind each that enters it stays shut for a while: for the request's timeout,
//! divided by the places. So the places can't be taken all at once and then be missing for a whole timeout:
//! as fast as they are taken, they are given back. One that answers opens it at once.

use std::time::Duration;

use crate::domain::time::Timestamp;

/// Places for newcomers, given out one after the other.
#[derive(Debug)]
pub struct Doorway {
    places: u32,
    taken: u32,
    /// Behind which request it is shut, and until when.
    shut: Option<(u64, Timestamp)>,
}

impl Doorway {
    /// A doorway with so many places; with none nobody comes in.
    #[must_use]
    pub fn new(places: usize) -> Self {
        Self { places: u32::try_from(places).unwrap_or(u32::MAX), taken: 0, shut: None }
    }

    /// Whether a newcomer may enter.
    #[must_use]
    pub fn is_open(&self, now: Timestamp) -> bool {
        self.taken < self.places && self.shut.is_none_or(|(_, until)| now >= until)
    }

    /// Somebody enters whose request begins by then.
    pub fn enter(&mut self, number: u64, begins_by: Timestamp) {
        self.taken += 1;
        self.shut = Some((number, begins_by));
    }

    /// The request of whoever entered last begins; it ends within `timeout`.
    pub fn stay(&mut self, number: u64, timeout: Duration, now: Timestamp) {
        let until = now + timeout / self.places.max(1);
        self.shut = self.shut.map(|(behind, by)| (behind, if behind == number { until } else { by }));
    }

    /// Whoever entered leaves: the request has ended, or does not begin.
    pub fn leave(&mut self, number: u64) {
        self.taken = self.taken.saturating_sub(1);
        self.shut = self.shut.filter(|(behind, _)| *behind != number);
    }

    /// When it opens by the passing of time alone, if that is after `now`.
    #[must_use]
    pub fn opens_at(&self, now: Timestamp) -> Option<Timestamp> {
        let (_, until) = self.shut.filter(|_| self.taken < self.places)?;
        (until > now).then_some(until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    #[test]
    fn one_that_stays_silent_shuts_it_for_its_share_of_the_time_and_one_that_answers_does_not() {
        let (mut doorway, timeout) = (Doorway::new(2), Duration::from_secs(10));
        doorway.enter(1, NOW + timeout);
        doorway.stay(1, timeout, NOW);
        assert_eq!((doorway.is_open(NOW), doorway.opens_at(NOW)), (false, Some(NOW + timeout / 2)));
        doorway.leave(1);
        assert_eq!((doorway.is_open(NOW), doorway.opens_at(NOW)), (true, None));
        doorway.enter(2, NOW + timeout);
        doorway.stay(2, timeout, NOW);
        let later = NOW + timeout / 2;
        assert!(doorway.is_open(later));
        doorway.enter(3, later + timeout);
        doorway.stay(3, timeout, later);
        doorway.stay(2, timeout * 9, later);
        let full = later + timeout / 2;
        assert_eq!((doorway.is_open(full), doorway.opens_at(full)), (false, None));
        doorway.leave(2);
        assert!(doorway.is_open(full));
    }

    #[test]
    fn a_doorway_without_places_stays_shut() {
        let doorway = Doorway::new(0);
        assert_eq!((doorway.is_open(NOW), doorway.opens_at(NOW)), (false, None));
    }
}

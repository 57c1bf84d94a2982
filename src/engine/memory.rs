//! Memory for the data of events that wait: so many bytes for all lanes together, and for each of them.
//!
//! Whoever holds data has a [`Kept`] for it, which gives the bytes back when it is dropped. Where there is no
//! room, only the key of a delivery is kept, and its data is read from the store when its turn comes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The part of the room that is for best effort alone, whose data is nowhere else.
const RESERVED_PART: usize = 4;

/// Room for so many bytes, within larger room if there is any.
#[derive(Debug)]
pub struct Memory {
    max: usize,
    held: AtomicUsize,
    within: Option<Arc<Memory>>,
}

impl Memory {
    /// Room for all.
    #[must_use]
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, held: AtomicUsize::new(0), within: None })
    }

    /// Room for one, out of that for all.
    #[must_use]
    pub fn part(self: &Arc<Self>, max: usize) -> Arc<Self> {
        Arc::new(Self { max, held: AtomicUsize::new(0), within: Some(Arc::clone(self)) })
    }

    /// Bytes that are held now.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Room for data that the store has, too; a part is left for data that is nowhere else.
    #[must_use]
    pub fn keep_copy(self: &Arc<Self>, bytes: usize) -> Option<Kept> {
        self.take(bytes, &|memory| memory.max - memory.max / RESERVED_PART)
    }

    /// Room for data that is nowhere else.
    #[must_use]
    pub fn keep_only(self: &Arc<Self>, bytes: usize) -> Option<Kept> {
        self.take(bytes, &|memory| memory.max)
    }

    /// What is larger than the room is taken where nothing else is: even the largest must be sent one day.
    fn take(self: &Arc<Self>, bytes: usize, limit: &dyn Fn(&Self) -> usize) -> Option<Kept> {
        let most = limit(self);
        let fits = |held: usize| {
            let sum = held.saturating_add(bytes);
            (held == 0 || sum <= most).then_some(sum)
        };
        self.held.try_update(Ordering::Relaxed, Ordering::Relaxed, fits).ok()?;
        // From here on it is given back in any case.
        let mut kept = Kept { memory: Arc::clone(self), bytes, within: None };
        if let Some(larger) = &self.within {
            kept.within = Some(Box::new(larger.take(bytes, limit)?));
        }
        Some(kept)
    }
}

/// So many bytes of memory, until it is dropped.
#[derive(Debug)]
#[must_use = "what is dropped is given back"]
pub struct Kept {
    memory: Arc<Memory>,
    bytes: usize,
    within: Option<Box<Kept>>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.memory.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl PartialEq for Kept {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Kept {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_bounded_for_one_and_for_all_and_come_back_when_they_are_dropped() {
        let all = Memory::new(100);
        let (one, other) = (all.part(60), all.part(60));
        let first = one.keep_only(60).unwrap();
        assert!(one.keep_only(1).is_none(), "its own room is full");
        assert!(other.keep_only(41).is_none(), "the room for all is");
        assert_eq!((other.held(), all.held()), (0, 60), "what was refused took nothing");
        let second = other.keep_only(40).unwrap();
        assert_eq!(all.held(), 100);
        drop((first, second));
        assert_eq!((one.held(), other.held(), all.held()), (0, 0, 0));
    }

    #[test]
    fn a_quarter_is_for_what_is_nowhere_else() {
        let all = Memory::new(100);
        let copies: Vec<_> = std::iter::from_fn(|| all.keep_copy(5)).collect();
        assert_eq!(copies.len(), 15);
        assert!(all.keep_only(25).is_some());
    }

    #[test]
    fn what_is_larger_than_the_room_is_taken_alone() {
        let all = Memory::new(10);
        let huge = all.keep_copy(1000).unwrap();
        assert!(all.keep_only(1).is_none());
        drop(huge);
        assert!(all.keep_only(1).is_some());
    }
}

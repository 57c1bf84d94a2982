//! How much room the requests of a destination deserve, by how it behaved.
//!
//! Room for requests is what destinations share. One that answers at once gives it back at once; one that
//! never does keeps it for as long as its timeout. So each kind of behaviour has a share of its own that it
//! can't exceed, and a part of the room is there for prompt destinations alone.

use std::time::Duration;

/// A destination that takes longer to answer keeps its room too long to be called prompt.
pub const SLOW: Duration = Duration::from_secs(1);

/// How a destination behaved lately.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Standing {
    /// It answers, and quickly.
    Prompt,
    /// It has not answered yet.
    Unproven,
    /// It answers, and takes its time.
    Slow,
    /// Its last requests failed.
    Failing,
}

impl Standing {
    /// All of them.
    pub const ALL: [Standing; 4] = [Standing::Prompt, Standing::Unproven, Standing::Slow, Standing::Failing];

    /// The position in [`Standing::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// How much of `all` destinations of this standing may take together, at least one.
    #[must_use]
    pub const fn share(self, all: usize) -> usize {
        let share = match self {
            Standing::Prompt => all,
            Standing::Slow => all / 2,
            Standing::Unproven | Standing::Failing => all / 4,
        };
        if share == 0 { 1 } else { share }
    }
}

/// How much of `all` is the doorway, by which destinations that have not answered yet come in one after the
/// other when there is no other room for them.
#[must_use]
pub const fn doorway_of(all: usize) -> usize {
    all / 8
}

/// How much of `all` the destinations that are not prompt may take together without the doorway, at least
/// one. A quarter is for prompt ones alone.
#[must_use]
pub const fn share_of_others(all: usize) -> usize {
    let share = all - all / 4 - doorway_of(all);
    if share == 0 { 1 } else { share }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_of_the_room_is_for_prompt_destinations_alone() {
        assert_eq!(Standing::ALL.map(|standing| standing.share(256)), [256, 64, 128, 64]);
        assert_eq!((share_of_others(256), doorway_of(256)), (160, 32));
    }

    #[test]
    fn nobody_is_shut_out_of_the_smallest_room() {
        assert_eq!(Standing::ALL.map(|standing| standing.share(1)), [1; 4]);
        assert_eq!((share_of_others(0), share_of_others(1)), (1, 1));
    }

    #[test]
    fn the_index_is_the_position() {
        for (position, standing) in Standing::ALL.into_iter().enumerate() {
            assert_eq!(standing.index(), position);
        }
    }
}

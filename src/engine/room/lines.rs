//! The lines before the room: lanes of all delivery threads that wait for a place.
//!
//! Each standing has a line of its own, since each has a share of the room; the lines take turns, so that none
//! waits for another one to be empty. Within a line organizations take turns, then their lanes, whichever
//! thread they belong to.

use super::turns::Turns;
use crate::domain::id::{DestinationId, OrganizationId};
use crate::policy::standing::Standing;

/// A lane that would like to begin something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The delivery thread that it belongs to.
    pub thread: usize,
    /// Which lane.
    pub id: DestinationId,
    /// Whose; `None` where the destination is deleted.
    pub organization_id: Option<OrganizationId>,
    /// How much room it deserves.
    pub standing: Standing,
    /// About how many bytes its next request has.
    pub bytes: usize,
}

/// Claims in line.
#[derive(Debug, Default)]
pub struct Lines {
    by_standing: [Turns<Claim>; Standing::ALL.len()],
    /// Which line comes next.
    next_line: usize,
    /// Whether the next turn of those that never answered yet is that of the newest one.
    newest_first: bool,
}

impl Lines {
    /// Puts a claim in line.
    pub fn push(&mut self, claim: Claim) {
        if let Some(line) = self.by_standing.get_mut(claim.standing.index()) {
            line.push(claim.organization_id.clone(), claim);
        }
    }

    /// Takes out the claim whose turn it is, out of the lines for which there is room.
    pub fn next(&mut self, has_room: impl Fn(Standing) -> bool) -> Option<Claim> {
        for offset in 0..Standing::ALL.len() {
            let position = (self.next_line + offset) % Standing::ALL.len();
            let standing = *Standing::ALL.get(position)?;
            let line = self.by_standing.get_mut(position)?;
            if line.is_empty() || !has_room(standing) {
                continue;
            }
            self.next_line = position + 1;
            return match standing {
                // Nobody knows which of them will answer. Where many come at once that never do, the oldest
                // first would mean a long wait for whoever comes after them.
                Standing::Unproven => {
                    self.newest_first = !self.newest_first;
                    if self.newest_first { line.pop_newest() } else { line.pop() }
                }
                Standing::Prompt | Standing::Slow | Standing::Failing => line.pop(),
            };
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(number: u8, standing: Standing) -> Claim {
        let id = DestinationId::from_bytes([number; 16]);
        Claim { thread: 0, id, organization_id: None, standing, bytes: 0 }
    }

    #[test]
    fn lanes_take_turns_and_so_do_the_lines_for_which_there_is_room() {
        let mut lines = Lines::default();
        lines.push(claim(1, Standing::Failing));
        for number in [2, 3, 4] {
            lines.push(claim(number, Standing::Prompt));
        }
        let turns: Vec<_> = std::iter::from_fn(|| lines.next(|_| true)).map(|claim| claim.id).collect();
        assert_eq!(turns, [2, 1, 3, 4].map(|number| DestinationId::from_bytes([number; 16])));
        lines.push(claim(1, Standing::Failing));
        assert_eq!(lines.next(|standing| standing != Standing::Failing), None);
        assert_eq!(lines.next(|_| true), Some(claim(1, Standing::Failing)));
    }
}

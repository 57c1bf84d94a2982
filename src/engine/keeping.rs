//! What the janitor goes by: which age is too old for whom, and how often to look. Pure.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::domain::retention::Retention;
use crate::domain::time::Timestamp;
use crate::store::directory::Directory;
use crate::store::retention::Cuts;

/// The time between two passes is a part of the shortest retention, within these bounds.
const PASS_PART: u32 = 24;
const PASS_EVERY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15 * 60));
/// What is younger is never removed early, so that a call that is repeated at once finds its first.
pub(super) const EARLIEST: Duration = Duration::from_secs(60);
/// How many organizations are looked at together for their plans.
const ORGANIZATIONS: usize = 1000;

/// What the janitor goes by.
#[derive(Debug, Clone)]
pub struct JanitorOptions {
    /// The server's own times.
    pub retention: Retention,
    /// The history of the plans that have a time of their own.
    pub plans: BTreeMap<String, Duration>,
    /// The plan of organizations that name none, or one that is gone.
    pub default_plan: String,
    /// The names of all plans.
    pub known_plans: Vec<String>,
}

impl JanitorOptions {
    /// The time between two passes.
    #[must_use]
    pub fn pass_every(&self) -> Duration {
        let Retention { history, dead_letters, .. } = self.retention;
        let shortest = self.plans.values().copied().fold(history.min(dead_letters), Duration::min);
        (shortest / PASS_PART).clamp(PASS_EVERY.0, PASS_EVERY.1)
    }

    /// What is too old, and which dead letters are to be told of.
    #[must_use]
    pub fn cuts(&self, directory: &Directory, now: Timestamp, notice: Option<Timestamp>) -> Cuts {
        let Retention { history, dead_letters, .. } = self.retention;
        let mut cuts = Cuts {
            now,
            history: now - self.default_history().unwrap_or(history),
            exceptions: HashMap::new(),
            dead_letters: now - dead_letters,
            notice,
            early: false,
        };
        if self.plans.is_empty() {
            return cuts;
        }
        let mut after = None;
        loop {
            let page = directory.organizations(after.as_ref(), ORGANIZATIONS);
            for organization in &page {
                let kept = self.history_of(&organization.plan).unwrap_or(history);
                if now - kept != cuts.history {
                    cuts.exceptions.insert(organization.id.clone(), now - kept);
                }
            }
            after = page.last().map(|organization| organization.id.clone());
            if after.is_none() {
                return cuts;
            }
        }
    }

    /// What may go where more is stored than may be, whoever's it is.
    #[must_use]
    pub fn early_cuts(&self, now: Timestamp) -> Cuts {
        Cuts {
            now,
            history: now - EARLIEST.min(self.retention.history),
            exceptions: HashMap::new(),
            dead_letters: now - self.retention.dead_letters,
            notice: None,
            early: true,
        }
    }

    fn default_history(&self) -> Option<Duration> {
        self.plans.get(&self.default_plan).copied()
    }

    fn history_of(&self, plan: &str) -> Option<Duration> {
        let known = self.known_plans.iter().any(|name| name == plan);
        if known { self.plans.get(plan).copied() } else { self.default_history() }
    }
}

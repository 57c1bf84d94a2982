//! Which events a destination wants.

use std::collections::BTreeSet;

use super::event::{EventType, Level};

/// How the listed types are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SubscriptionPolicy {
    /// Only the listed types.
    Include,
    /// All types but the listed ones.
    #[default]
    Exclude,
}

/// Which events a destination wants; no wildcards (seed 001).
///
/// The default is everything: exclude nothing, from the lowest level on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Subscription {
    /// How `event_types` is meant.
    pub policy: SubscriptionPolicy,
    /// The listed types.
    pub event_types: BTreeSet<EventType>,
    /// Events below this level are not delivered, where the contract has levels.
    pub minimum_level: Option<Level>,
    /// The operational events that it wants besides, each by its type, whatever `policy` says.
    pub operational: BTreeSet<EventType>,
}

/// Why a destination gets an event, or why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// The type is in the include list.
    Included,
    /// The type is not in the exclude list.
    NotExcluded,
    /// The type is not in the include list.
    NotIncluded,
    /// The type is in the exclude list.
    Excluded,
    /// The event's level is below the minimum.
    BelowLevel,
}

impl Match {
    /// Whether the destination gets the event.
    #[must_use]
    pub const fn is_wanted(self) -> bool {
        matches!(self, Match::Included | Match::NotExcluded)
    }
}

impl Subscription {
    /// A subscription to exactly these types.
    #[must_use]
    pub fn include(event_types: impl IntoIterator<Item = EventType>) -> Self {
        Self {
            policy: SubscriptionPolicy::Include,
            event_types: event_types.into_iter().collect(),
            minimum_level: None,
            operational: BTreeSet::new(),
        }
    }

    /// Whether an event of this type and level is wanted, and by which rule.
    #[must_use]
    pub fn verdict(&self, event_type: &EventType, level: Level) -> Match {
        let listed = self.event_types.contains(event_type);
        match (self.policy, listed) {
            (SubscriptionPolicy::Include, false) => Match::NotIncluded,
            (SubscriptionPolicy::Exclude, true) => Match::Excluded,
            _ if self.minimum_level.is_some_and(|minimum| level < minimum) => Match::BelowLevel,
            (SubscriptionPolicy::Include, true) => Match::Included,
            (SubscriptionPolicy::Exclude, false) => Match::NotExcluded,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscription_has_no_patterns_whatever_is_written_into_it() {
        for pattern in
            ["*", "invoice.*", ".*", "^invoice", "invoice.pai?", "(a+)+$", "[a-z]+", "invoice.paid|x"]
        {
            if let Ok(listed) = EventType::parse(pattern) {
                let other = EventType::parse("invoice.paid").unwrap();
                assert_eq!(Subscription::include([listed]).verdict(&other, Level::Info), Match::NotIncluded);
            }
        }
    }

    #[test]
    fn what_the_rules_let_through_is_wanted_and_nothing_else() {
        for wanted in [Match::Included, Match::NotExcluded] {
            assert!(wanted.is_wanted(), "{wanted:?}");
        }
        for unwanted in [Match::NotIncluded, Match::Excluded, Match::BelowLevel] {
            assert!(!unwanted.is_wanted(), "{unwanted:?}");
        }
    }

    #[test]
    fn a_type_is_wanted_as_the_policy_says_and_only_from_the_minimum_level_on() {
        let paid = EventType::parse("invoice.paid").unwrap();
        let other = EventType::parse("invoice.sent").unwrap();
        let mut subscription = Subscription::include([paid.clone()]);
        assert_eq!(subscription.verdict(&paid, Level::Trace), Match::Included);
        assert_eq!(subscription.verdict(&other, Level::Error), Match::NotIncluded);
        subscription.minimum_level = Some(Level::Warn);
        assert_eq!(subscription.verdict(&paid, Level::Info), Match::BelowLevel);
        assert_eq!(subscription.verdict(&paid, Level::Warn), Match::Included);
        subscription.policy = SubscriptionPolicy::Exclude;
        assert_eq!(subscription.verdict(&paid, Level::Error), Match::Excluded);
        assert_eq!(subscription.verdict(&other, Level::Error), Match::NotExcluded);
    }
}

//! Subscriptions.

use super::event::{read_level, write_level};
use super::known;
use crate::contract::Catalogue;
use crate::domain::event::EventType;
use crate::domain::subscription::{Subscription, SubscriptionPolicy};
use crate::domain::violation::{Rule, Violations};
use crate::grpc::proto::v1;

/// The most event types of one subscription.
const EVENT_TYPES_MAX: usize = 1000;
/// The most of them that are looked at once a type is wrong, so that the answer stays small.
const PROBLEMS_MAX: usize = 100;

/// Reads a subscription; paths begin with `path`.
pub fn read_subscription(
    subscription: &v1::Subscription,
    path: &str,
    found: &mut Violations,
) -> Subscription {
    let policy = known(subscription.policy, &format!("{path}.policy"), found);
    let policy = match policy.unwrap_or(v1::SubscriptionPolicy::Unspecified) {
        v1::SubscriptionPolicy::Include => SubscriptionPolicy::Include,
        v1::SubscriptionPolicy::Exclude => SubscriptionPolicy::Exclude,
        // Nothing listed and nothing said: everything is wanted.
        v1::SubscriptionPolicy::Unspecified if subscription.event_types.is_empty() => {
            SubscriptionPolicy::Exclude
        }
        v1::SubscriptionPolicy::Unspecified => SubscriptionPolicy::Include,
    };
    let minimum_level = known(subscription.minimum_level, &format!("{path}.minimum_level"), found);
    Subscription {
        policy,
        event_types: read_event_types(
            &subscription.event_types,
            EVENT_TYPES_MAX,
            &format!("{path}.event_types"),
            found,
        )
        .into_iter()
        .collect(),
        minimum_level: minimum_level.and_then(read_level),
        operational: read_event_types(
            &subscription.operational_event_types,
            EVENT_TYPES_MAX,
            &format!("{path}.operational_event_types"),
            found,
        )
        .into_iter()
        .collect(),
    }
}

/// Reads a list of event types.
pub fn read_event_types(texts: &[String], most: usize, path: &str, found: &mut Violations) -> Vec<EventType> {
    if texts.len() > most {
        let description = format!("has {} entries; at most {most} are allowed", texts.len());
        found.add_as(Rule::TooLong, path, description);
        return Vec::new();
    }
    let (mut event_types, mut problems) = (Vec::with_capacity(texts.len()), 0);
    for (position, text) in texts.iter().enumerate() {
        match EventType::parse(text) {
            Ok(event_type) => event_types.push(event_type),
            Err(problem) if problems < PROBLEMS_MAX => {
                problems += 1;
                found.add_as(Rule::Malformed, format!("{path}[{position}]"), problem);
            }
            Err(_) => {}
        }
    }
    event_types
}

/// Writes a subscription as it is stored.
pub fn write_subscription(subscription: &Subscription) -> v1::Subscription {
    let policy = match subscription.policy {
        SubscriptionPolicy::Include => v1::SubscriptionPolicy::Include,
        SubscriptionPolicy::Exclude => v1::SubscriptionPolicy::Exclude,
    };
    v1::Subscription {
        policy: policy.into(),
        event_types: subscription.event_types.iter().map(ToString::to_string).collect(),
        minimum_level: subscription.minimum_level.map_or(v1::Level::Unspecified, write_level).into(),
        operational_event_types: subscription.operational.iter().map(ToString::to_string).collect(),
    }
}

/// Writes what a subscription comes to: of a closed catalogue the wanted types, one by one.
pub fn write_effective(subscription: &Subscription, catalogue: Catalogue) -> v1::Subscription {
    let mut written = write_subscription(subscription);
    if let (Catalogue::Closed(known), SubscriptionPolicy::Exclude) = (catalogue, subscription.policy) {
        let wanted = |name: &&&str| !written.event_types.iter().any(|listed| listed == **name);
        written.event_types = known.iter().filter(wanted).map(ToString::to_string).collect();
        written.policy = v1::SubscriptionPolicy::Include.into();
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::event::Level;

    fn read(policy: v1::SubscriptionPolicy, event_types: &[&str]) -> (Subscription, Violations) {
        let mut found = Violations::new();
        let subscription = v1::Subscription {
            policy: policy.into(),
            event_types: event_types.iter().map(ToString::to_string).collect(),
            minimum_level: v1::Level::Warn.into(),
            operational_event_types: Vec::new(),
        };
        (read_subscription(&subscription, "destination.subscription", &mut found), found)
    }

    #[test]
    fn an_unstated_policy_includes_what_is_listed_and_is_everything_when_nothing_is() {
        let unspecified = v1::SubscriptionPolicy::Unspecified;
        assert_eq!(read(unspecified, &["a"]).0.policy, SubscriptionPolicy::Include);
        assert_eq!(read(unspecified, &[]).0.policy, SubscriptionPolicy::Exclude);
        let (stated, _) = read(v1::SubscriptionPolicy::Include, &[]);
        assert_eq!((stated.policy, stated.minimum_level), (SubscriptionPolicy::Include, Some(Level::Warn)));
    }

    #[test]
    fn a_subscription_reads_back_as_it_is_written() {
        let (subscription, _) = read(v1::SubscriptionPolicy::Exclude, &["a", "b"]);
        let mut found = Violations::new();
        let again = read_subscription(&write_subscription(&subscription), "s", &mut found);
        assert_eq!((again, found.is_empty()), (subscription, true));
    }

    #[test]
    fn bad_types_are_named_by_their_place() {
        let (_, found) = read(v1::SubscriptionPolicy::Include, &["a", "b c", ""]);
        let fields: Vec<&str> = found.iter().map(|violation| violation.field.as_str()).collect();
        let path = "destination.subscription.event_types";
        assert_eq!(fields, [format!("{path}[1]"), format!("{path}[2]")]);
    }

    #[test]
    fn of_a_closed_catalogue_the_wanted_types_are_written_out() {
        let (subscription, _) = read(v1::SubscriptionPolicy::Exclude, &["b"]);
        let effective = write_effective(&subscription, Catalogue::Closed(&["a", "b", "c"]));
        assert_eq!(effective.event_types, ["a", "c"]);
        assert_eq!(effective.policy(), v1::SubscriptionPolicy::Include);
        let open = write_effective(&subscription, Catalogue::Open(&["a"]));
        assert_eq!(open.policy(), v1::SubscriptionPolicy::Exclude);
    }
}

//! Explaining an event: for each destination whether it wanted the event, by which rule, what happened,
//! and what happens next.
//!
//! [`explain`] decides, purely, from what is known of one destination. Where there is a delivery, it speaks
//! of that; where there is none, it judges by today's settings and says whether they have changed since.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::standing::{Standing, WaitReason};
use super::{Control, Error, PageRequest, Resource};
use crate::auth::{Caller, Role};
use crate::contract;
use crate::domain::delivery::{Delivery, DeliveryState};
use crate::domain::destination::{Destination, DestinationState};
use crate::domain::event::Event;
use crate::domain::id::{DeliveryId, DestinationId, EventId, OrganizationId};
use crate::domain::settings::Guarantee;
use crate::domain::subscription::{Match, SubscriptionPolicy};
use crate::store::directory::DestinationEntry;

/// Counting what is sent before a delivery stops here.
const AHEAD_CAP: usize = 10_000;
/// The most listed types that are told by name.
const TYPES_TOLD: usize = 5;

/// What became of an event at a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The subscription does not want its type.
    NotSubscribed,
    /// Its level is below the minimum.
    BelowLevel,
    /// The destination did not exist yet.
    CreatedLater,
    /// The destination was disabled.
    Disabled,
    /// Wanted today, but not at the time.
    SubscribedLater,
    /// The delivery waits because the destination is paused.
    Paused,
    /// The delivery waits for something else.
    Waiting,
    /// An attempt is under way.
    InFlight,
    /// Delivered.
    Succeeded,
    /// Discarded by rule.
    Discarded,
    /// A dead letter.
    DeadLettered,
    /// Cancelled.
    Cancelled,
    /// There was a delivery, and its record is gone.
    RecordDeleted,
}

/// What became of an event at one destination, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The destination.
    pub destination_id: DestinationId,
    /// Its name; empty where it was deleted.
    pub display_name: String,
    /// What became of the event.
    pub verdict: Verdict,
    /// Why, for people.
    pub sentence: String,
    /// The path of the setting that decided; empty if none did.
    pub deciding_field: &'static str,
    /// The delivery, if one was created and is on record.
    pub delivery: Option<Delivery>,
    /// How many deliveries are sent before it; only where it waits.
    pub ahead: Option<usize>,
    /// Whether the destination was changed after the event was accepted.
    pub changed_since: bool,
}

/// What became of an event at some destinations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    /// The event.
    pub event: Arc<Event>,
    /// One row a destination, in order of their ids.
    pub rows: Vec<Explanation>,
    /// Where the next page begins.
    pub next: Option<DestinationId>,
}

impl Control {
    /// Explains an event for the destinations that exist and for those that it was routed to.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the event.
    pub async fn explain_event(
        &self,
        caller: &Caller,
        (organization_id, event_id): (&str, &str),
        destination_id: Option<&str>,
        page: PageRequest<DestinationId>,
    ) -> Result<Explained, Error> {
        let id = self.enter_known(caller, Role::Viewer, organization_id)?;
        let event = self.find_event(&id, event_id).await?;
        let candidates = self.candidates(&id, &event);
        if let Some(text) = destination_id.filter(|text| candidates.keys().all(|id| id.to_string() != **text))
        {
            return Err(Error::not_found(Resource::Destination, text));
        }
        let wanted = |candidate: DestinationId| {
            page.after.is_none_or(|after| candidate > after)
                && destination_id.is_none_or(|id| id == candidate.to_string())
        };
        let mut rows: Vec<Explanation> = Vec::new();
        for (candidate, entry) in candidates.into_iter().filter(|(candidate, _)| wanted(*candidate)) {
            if rows.len() == page.limit {
                let next = rows.last().map(|row| row.destination_id);
                return Ok(Explained { event, rows, next });
            }
            rows.push(self.explain_one(&event, candidate, entry.as_deref()).await?);
        }
        Ok(Explained { event, rows, next: None })
    }

    pub(super) async fn find_event(&self, id: &OrganizationId, event_id: &str) -> Result<Arc<Event>, Error> {
        if event_id.is_empty() {
            return Err(Error::invalid("event_id", "is empty; give the event's id"));
        }
        let found = match EventId::parse(event_id) {
            Ok(event_id) => self.store.find_event(id, &event_id).await?,
            Err(_) => None,
        };
        found.ok_or_else(|| Error::not_found(Resource::Event, event_id))
    }

    fn candidates(
        &self,
        id: &OrganizationId,
        event: &Event,
    ) -> BTreeMap<DestinationId, Option<Arc<DestinationEntry>>> {
        let mut candidates: BTreeMap<_, _> =
            event.routes.iter().map(|route| (route.destination_id, None)).collect();
        let present = self.directory().destinations(id);
        candidates.extend(present.iter().map(|entry| (entry.destination.id, Some(Arc::clone(entry)))));
        candidates
    }

    async fn explain_one(
        &self,
        event: &Event,
        destination_id: DestinationId,
        entry: Option<&DestinationEntry>,
    ) -> Result<Explanation, Error> {
        let id = DeliveryId::new(event.key, destination_id);
        let delivery = self.store.delivery(id).await?;
        let standing = delivery.as_ref().map(|delivery| self.standing(delivery));
        let known = Known { event, destination_id, entry, delivery: delivery.as_ref(), standing };
        let Told { verdict, sentence, deciding_field } = explain(&known);
        let ahead = match (&delivery, verdict) {
            (Some(delivery), Verdict::Waiting | Verdict::Paused) => Some(self.ahead(delivery).await?),
            _ => None,
        };
        let destination = entry.map(|entry| &entry.destination);
        Ok(Explanation {
            destination_id,
            display_name: destination.map(|one| one.display_name.clone()).unwrap_or_default(),
            verdict,
            sentence,
            deciding_field,
            delivery,
            ahead,
            changed_since: destination.is_none_or(|one| one.updated_at > event.accepted_at),
        })
    }

    /// First attempts wait in order of their events, retries in order of their times; the two take turns.
    async fn ahead(&self, delivery: &Delivery) -> Result<usize, Error> {
        let never_tried = delivery.attempt_count == 0 && delivery.cycle.started_at == delivery.created_at;
        let due = match &delivery.state {
            DeliveryState::Waiting { due } if !never_tried => Some(*due),
            _ => None,
        };
        Ok(self.store.ahead(delivery.id, due, AHEAD_CAP).await?)
    }
}

/// What is known of an event at one destination.
#[derive(Clone, Copy)]
pub struct Known<'a> {
    /// The event.
    pub event: &'a Event,
    /// The destination's id.
    pub destination_id: DestinationId,
    /// The destination, unless it was deleted.
    pub entry: Option<&'a DestinationEntry>,
    /// The delivery, if there is a record of one.
    pub delivery: Option<&'a Delivery>,
    /// How that stands.
    pub standing: Option<Standing>,
}

/// What is told of it.
#[derive(Debug, PartialEq, Eq)]
pub struct Told {
    /// What became of the event.
    pub verdict: Verdict,
    /// Why.
    pub sentence: String,
    /// By which setting.
    pub deciding_field: &'static str,
}

fn told(verdict: Verdict, deciding_field: &'static str, sentence: impl Into<String>) -> Told {
    Told { verdict, sentence: sentence.into(), deciding_field }
}

/// Decides what became of an event at a destination.
#[must_use]
pub fn explain(known: &Known<'_>) -> Told {
    if let Some(delivery) = known.delivery {
        return of_delivery(delivery, known.standing.unwrap_or_default());
    }
    let route = known.event.routes.iter().find(|route| route.destination_id == known.destination_id);
    match (route, known.entry) {
        (Some(route), Some(entry)) if route.guarantee == Guarantee::BestEffort => {
            of_best_effort(known.event, entry)
        }
        (None, Some(entry)) => of_settings(known.event, &entry.destination),
        (Some(_), _) | (None, None) => {
            told(Verdict::RecordDeleted, "", "there was a delivery, and its record was deleted")
        }
    }
}

fn of_delivery(delivery: &Delivery, standing: Standing) -> Told {
    match &delivery.state {
        DeliveryState::Waiting { .. } if standing.in_flight => {
            told(Verdict::InFlight, "", "an attempt is under way")
        }
        DeliveryState::Waiting { .. } => of_waiting(standing),
        DeliveryState::Succeeded { at } => told(
            Verdict::Succeeded,
            "",
            format!("delivered at {at}, after {} attempts", delivery.attempt_count),
        ),
        DeliveryState::DeadLettered { reason, .. } => {
            told(Verdict::DeadLettered, "settings.retry_policy", reason.as_sentence())
        }
        DeliveryState::Discarded { reason, .. } => told(Verdict::Discarded, "", reason.as_sentence()),
        DeliveryState::Cancelled { at } => told(Verdict::Cancelled, "", format!("cancelled at {at}")),
    }
}

fn of_waiting(standing: Standing) -> Told {
    let wait = standing.wait.unwrap_or(WaitReason::LaneBusy);
    let verdict = if wait == WaitReason::Paused { Verdict::Paused } else { Verdict::Waiting };
    let field = match wait {
        WaitReason::Paused | WaitReason::Disabled => "state",
        WaitReason::OrderHeld => "settings.ordered",
        WaitReason::RetryNotDue => "settings.retry_policy",
        WaitReason::LaneBusy | WaitReason::HostRate | WaitReason::Deleted => "",
    };
    match standing.next_attempt_at {
        Some(next) => told(verdict, field, format!("{}; not before {next}", wait.as_sentence())),
        None => told(verdict, field, wait.as_sentence()),
    }
}

/// A best-effort delivery has no record before its first outcome.
fn of_best_effort(event: &Event, entry: &DestinationEntry) -> Told {
    if entry.status.is_in_flight(event.key) {
        return told(Verdict::InFlight, "", "an attempt is under way");
    }
    if entry.status.lane().waiting_in_memory > 0 {
        return told(
            Verdict::Waiting,
            "settings.guarantee",
            "best effort: it waits in memory, without a record",
        );
    }
    let lost = "there is no record: best effort, and lost at a restart, or its record was deleted";
    told(Verdict::RecordDeleted, "settings.guarantee", lost)
}

/// Nothing was routed there; today's settings say why, as far as they have not changed.
fn of_settings(event: &Event, destination: &Destination) -> Told {
    if destination.created_at > event.accepted_at {
        let sentence = format!(
            "the destination was created at {}, after the event was accepted at {}",
            destination.created_at, event.accepted_at
        );
        return told(Verdict::CreatedLater, "", sentence);
    }
    let subscription = &destination.subscription;
    match contract::verdict(destination, &event.event_type, event.level) {
        None => {
            let sentence =
                format!("the contract {} has no event `{}`", destination.contract, event.event_type);
            told(Verdict::NotSubscribed, "contract", sentence)
        }
        Some(Match::NotIncluded | Match::Excluded) => {
            let rule = match subscription.policy {
                SubscriptionPolicy::Include => "includes only",
                SubscriptionPolicy::Exclude => "excludes",
            };
            let sentence = format!("the subscription {rule} {}", types_of(destination));
            told(Verdict::NotSubscribed, "subscription.event_types", sentence)
        }
        Some(Match::BelowLevel) => {
            let minimum = subscription.minimum_level.unwrap_or_default();
            let sentence = format!("the event's level {} is below the minimum {minimum}", event.level);
            told(Verdict::BelowLevel, "subscription.minimum_level", sentence)
        }
        Some(Match::Included | Match::NotExcluded) => of_wanted_today(event, destination),
    }
}

fn of_wanted_today(event: &Event, destination: &Destination) -> Told {
    match &destination.state {
        DestinationState::Disabled { since, reason } if *since <= event.accepted_at => {
            let sentence = format!("the destination was disabled then ({})", reason.as_sentence());
            told(Verdict::Disabled, "state", sentence)
        }
        _ => {
            let sentence = "wanted today, but not when the event was accepted: the subscription was changed \
                            since, or the destination was disabled then";
            told(Verdict::SubscribedLater, "subscription", sentence)
        }
    }
}

fn types_of(destination: &Destination) -> String {
    let types = &destination.subscription.event_types;
    let shown: Vec<&str> =
        types.iter().take(TYPES_TOLD).map(crate::domain::event::EventType::as_str).collect();
    match types.len().saturating_sub(TYPES_TOLD) {
        _ if shown.is_empty() => "nothing".to_owned(),
        0 => shown.join(", "),
        rest => format!("{} and {rest} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::contract::Contract;
    use crate::domain::destination::{DestinationHealth, DisabledReason};
    use crate::domain::event::{EventType, Level, Route};
    use crate::domain::id::EventKey;
    use crate::domain::payload::Payload;
    use crate::store::conformance::{at, destination, destination_id, organization_id};
    use crate::store::directory::DestinationStatus;

    fn event(routes: Vec<Route>) -> Event {
        Event {
            key: EventKey::MIN.next(at(100), 7),
            id: EventId::parse("evt-1").unwrap(),
            organization_id: organization_id(),
            event_type: EventType::parse("a.b").unwrap(),
            occurred_at: at(100),
            accepted_at: at(100),
            level: Level::Info,
            data: Payload::empty(),
            routes,
            erased_at: None,
            trace: None,
        }
    }

    fn entry(change: impl FnOnce(&mut Destination)) -> DestinationEntry {
        let mut destination = Destination { contract: Contract::StandardWebhooks, ..destination(1) };
        change(&mut destination);
        let status = Arc::new(DestinationStatus::new(DestinationHealth::default()));
        DestinationEntry { destination: Arc::new(destination), status }
    }

    fn verdict_of(event: &Event, entry: Option<&DestinationEntry>) -> Verdict {
        let destination_id = destination_id(1);
        explain(&Known { event, destination_id, entry, delivery: None, standing: None }).verdict
    }

    #[test]
    fn without_a_route_the_settings_of_today_and_their_times_decide() {
        let event = event(Vec::new());
        let disabled =
            |since| DestinationState::Disabled { since: at(since), reason: DisabledReason::Failing };
        for (state, created, expected) in [
            (DestinationState::Active, 101, Verdict::CreatedLater),
            (DestinationState::Active, 0, Verdict::SubscribedLater),
            (disabled(99), 0, Verdict::Disabled),
            (disabled(101), 0, Verdict::SubscribedLater),
        ] {
            let entry = entry(|one| (one.state, one.created_at) = (state, at(created)));
            assert_eq!(verdict_of(&event, Some(&entry)), expected);
        }
    }

    #[test]
    fn a_route_without_a_record_is_told_by_its_guarantee() {
        let to = |guarantee| event(vec![Route { destination_id: destination_id(1), guarantee }]);
        let entry = entry(|_| {});
        assert_eq!(verdict_of(&to(Guarantee::AtLeastOnce), Some(&entry)), Verdict::RecordDeleted);
        let best_effort = to(Guarantee::BestEffort);
        assert_eq!(verdict_of(&best_effort, Some(&entry)), Verdict::RecordDeleted);
        entry.status.begin_flight([(best_effort.key, 0)]);
        assert_eq!(verdict_of(&best_effort, Some(&entry)), Verdict::InFlight);
        assert_eq!(verdict_of(&best_effort, None), Verdict::RecordDeleted);
    }
}

//! Explaining an event: for each destination whether it wanted the event, by which rule, what happened,
//! and what happens next.
//!
//! [`explain`] decides, purely, from what is known of one destination. Where there is a delivery, it speaks
//! of that; where there is none, it judges by today's settings and says whether they have changed since.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::standing::{Standing, WaitReason, waits_for};
use super::{Control, Error, PageRequest, Resource};
use crate::auth::{Caller, Role};
use crate::contract;
use crate::domain::delivery::{Delivery, DeliveryState};
use crate::domain::destination::{Destination, DestinationState};
use crate::domain::event::Event;
use crate::domain::id::{DeliveryId, DestinationId, EventId, OrganizationId};
use crate::domain::operational::{is_operational, told_about};
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
    /// The destination is disabled and the delivery waits, or it was disabled and got none.
    Disabled,
    /// Wanted today, but not at the time.
    SubscribedLater,
    /// It is about this destination itself, which hears nothing about itself.
    AboutItself,
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

impl Verdict {
    /// All of them.
    pub const ALL: [Verdict; 14] = [
        Verdict::NotSubscribed,
        Verdict::BelowLevel,
        Verdict::CreatedLater,
        Verdict::Disabled,
        Verdict::SubscribedLater,
        Verdict::AboutItself,
        Verdict::Paused,
        Verdict::Waiting,
        Verdict::InFlight,
        Verdict::Succeeded,
        Verdict::Discarded,
        Verdict::DeadLettered,
        Verdict::Cancelled,
        Verdict::RecordDeleted,
    ];
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
        let standing = match (&delivery, entry) {
            (Some(delivery), _) => Some(self.standing_in_line(delivery).await?),
            (None, Some(entry)) => Some(self.standing_without_record(event, entry)),
            (None, None) => None,
        };
        let known = Known { event, destination_id, entry, delivery: delivery.as_ref(), standing };
        let Told { verdict, sentence, deciding_field } = explain(&known);
        let ahead = match (&delivery, verdict) {
            (Some(delivery), Verdict::Waiting | Verdict::Paused | Verdict::Disabled) => {
                Some(self.ahead(delivery).await?)
            }
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

    /// How a best-effort delivery stands, which has no record before its first outcome.
    fn standing_without_record(&self, event: &Event, entry: &DestinationEntry) -> Standing {
        if entry.status.is_in_flight(event.key) {
            return Standing { in_flight: true, ..Standing::default() };
        }
        if entry.status.lane().waiting_in_memory == 0 {
            return Standing::default();
        }
        let place = (event.key, event.accepted_at);
        Standing::waiting(waits_for(entry, place, &self.settings, self.clock.now()))
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
        (Some(route), Some(_)) if route.guarantee == Guarantee::BestEffort => {
            let standing = known.standing.unwrap_or_default();
            of_best_effort(standing)
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
        DeliveryState::Cancelled { at } if standing.cancel_pending => {
            let sentence =
                format!("cancelled at {at}; an attempt is still under way, and its success would count");
            told(Verdict::Cancelled, "", sentence)
        }
        DeliveryState::Cancelled { at } => told(Verdict::Cancelled, "", format!("cancelled at {at}")),
    }
}

fn of_waiting(standing: Standing) -> Told {
    let wait = standing.wait.unwrap_or(WaitReason::LaneBusy);
    let verdict = match wait {
        WaitReason::Paused => Verdict::Paused,
        WaitReason::Disabled => Verdict::Disabled,
        _ => Verdict::Waiting,
    };
    let field = match wait {
        WaitReason::Paused | WaitReason::Disabled => "state",
        WaitReason::OrderHeld => "settings.ordered",
        WaitReason::RetryNotDue => "settings.retry_policy",
        WaitReason::SwitchedOff => "contract",
        WaitReason::LaneBusy | WaitReason::HostRate | WaitReason::CircuitOpen | WaitReason::Deleted => "",
    };
    match standing.next_attempt_at {
        Some(next) => told(verdict, field, format!("{}; not before {next}", wait.as_sentence())),
        None => told(verdict, field, wait.as_sentence()),
    }
}

/// A best-effort delivery has no record before its first outcome.
fn of_best_effort(standing: Standing) -> Told {
    if standing.in_flight {
        return told(Verdict::InFlight, "", "an attempt is under way");
    }
    match standing.wait {
        None => {
            let lost = "there is no record: best effort, and lost at a restart, or its record was deleted";
            told(Verdict::RecordDeleted, "settings.guarantee", lost)
        }
        Some(_) => {
            let Told { verdict, sentence, deciding_field } = of_waiting(standing);
            told(verdict, deciding_field, format!("best effort, in memory, without a record: {sentence}"))
        }
    }
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
        Some(Match::NotIncluded) if is_operational(&event.event_type) => {
            let sentence =
                format!("the subscription does not list the operational event {}", event.event_type);
            told(Verdict::NotSubscribed, "subscription.operational_event_types", sentence)
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
    if told_about(event) == Some(destination.id) {
        let sentence = "it tells of this destination itself, which hears nothing about itself";
        return told(Verdict::AboutItself, "", sentence);
    }
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
#[path = "explain_tests.rs"]
mod tests;

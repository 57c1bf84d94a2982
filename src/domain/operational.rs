//! Operational events: what Signalpost itself has to tell an organization about its deliveries.
//!
//! They are events like any other, of types that begin with `signalpost.`, which callers can't emit. Only
//! destinations that list a type by name get it, and never the destination that it is about.

use bytes::Bytes;
use serde_json::{Value, json};

use super::delivery::EndReason;
use super::destination::DisabledReason;
use super::event::{Event, EventType, Level};
use super::id::{DeliveryId, DestinationId, EventId};
use super::time::Timestamp;

/// What the types of all operational events begin with.
pub const OPERATIONAL_PREFIX: &str = "signalpost.";

/// What the quota that may be told of is called.
const DESTINATIONS: &str = "destinations";

/// Whether events of this type tell what happened to other events.
#[must_use]
pub fn is_operational(event_type: &EventType) -> bool {
    event_type.as_str().starts_with(OPERATIONAL_PREFIX)
}

/// The destination that a stored operational event is about, if it is about one.
#[must_use]
pub fn told_about(event: &Event) -> Option<DestinationId> {
    let data: Value = serde_json::from_slice(event.data.as_bytes()).ok()?;
    let id = data.get("destinationId")?.as_str()?;
    DestinationId::parse(id).ok().filter(|_| is_operational(&event.event_type))
}

/// Something that an organization may want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OperationalEvent {
    /// A delivery ran out of attempts.
    DeliveryDeadLettered {
        /// Which delivery.
        delivery_id: DeliveryId,
        /// Its event.
        event_id: EventId,
        /// Why there is no further attempt.
        reason: EndReason,
        /// Attempts in all.
        attempt_count: u32,
        /// What went wrong last.
        last_error: String,
        /// When the cycle of attempts began that ended so; there is one event for each.
        cycle_started_at: Timestamp,
    },
    /// A destination was disabled because of what its receiver does.
    DestinationDisabled {
        /// Which destination.
        destination_id: DestinationId,
        /// Why.
        reason: DisabledReason,
        /// When.
        since: Timestamp,
    },
    /// The circuit of a destination opened: its requests fail, and deliveries are held.
    DestinationCircuitOpened {
        /// Which destination.
        destination_id: DestinationId,
        /// Failed requests since the last success.
        consecutive_failures: u32,
        /// What went wrong last.
        last_error: String,
        /// When it opened.
        opened_at: Timestamp,
    },
    /// The circuit of a destination closed again.
    DestinationRecovered {
        /// Which destination.
        destination_id: DestinationId,
        /// When its circuit had opened.
        opened_at: Timestamp,
    },
    /// A signing secret was rotated.
    SecretRotated {
        /// Whose.
        destination_id: DestinationId,
        /// When.
        rotated_at: Timestamp,
        /// Until when the old one is still used.
        overlap_ends: Timestamp,
    },
    /// Dead letters of a destination expire soon, and nobody has acted on them.
    DeadLettersExpiring {
        /// Whose.
        destination_id: DestinationId,
        /// How many.
        count: u64,
        /// When the first of them expires.
        first: Timestamp,
        /// When the last of them does.
        last: Timestamp,
        /// The beginning of the stretch of time in which they expire; there is one event for each.
        period: Timestamp,
    },
    /// The organization nearly has as many destinations as its plan allows. Rates are not told of: they come and go
    /// within a second, and whoever is over one hears of it in the answer.
    QuotaNear {
        /// The plan's limit.
        limit: u32,
        /// How much of it is used.
        usage: u32,
        /// When its usage came so near.
        at: Timestamp,
    },
}

impl OperationalEvent {
    /// All types that there are.
    pub const TYPES: [&'static str; 7] = [
        "signalpost.delivery.dead_lettered",
        "signalpost.dead_letter.expiring",
        "signalpost.destination.disabled",
        "signalpost.destination.circuit_opened",
        "signalpost.destination.recovered",
        "signalpost.secret.rotated",
        "signalpost.quota.near",
    ];

    /// Its type, one of [`OperationalEvent::TYPES`].
    #[must_use]
    pub const fn event_type(&self) -> &'static str {
        match self {
            OperationalEvent::DeliveryDeadLettered { .. } => "signalpost.delivery.dead_lettered",
            OperationalEvent::DeadLettersExpiring { .. } => "signalpost.dead_letter.expiring",
            OperationalEvent::DestinationDisabled { .. } => "signalpost.destination.disabled",
            OperationalEvent::DestinationCircuitOpened { .. } => "signalpost.destination.circuit_opened",
            OperationalEvent::DestinationRecovered { .. } => "signalpost.destination.recovered",
            OperationalEvent::SecretRotated { .. } => "signalpost.secret.rotated",
            OperationalEvent::QuotaNear { .. } => "signalpost.quota.near",
        }
    }

    /// Its level, for contracts that have levels.
    #[must_use]
    pub const fn level(&self) -> Level {
        match self {
            OperationalEvent::DeliveryDeadLettered { .. } => Level::Error,
            OperationalEvent::DeadLettersExpiring { .. }
            | OperationalEvent::DestinationDisabled { .. }
            | OperationalEvent::DestinationCircuitOpened { .. }
            | OperationalEvent::QuotaNear { .. } => Level::Warn,
            OperationalEvent::DestinationRecovered { .. } | OperationalEvent::SecretRotated { .. } => {
                Level::Info
            }
        }
    }

    /// The destination that it is about, which never gets it.
    #[must_use]
    pub const fn about(&self) -> Option<DestinationId> {
        match self {
            OperationalEvent::DeliveryDeadLettered { delivery_id, .. } => Some(delivery_id.destination_id),
            OperationalEvent::DeadLettersExpiring { destination_id, .. }
            | OperationalEvent::DestinationDisabled { destination_id, .. }
            | OperationalEvent::DestinationCircuitOpened { destination_id, .. }
            | OperationalEvent::DestinationRecovered { destination_id, .. }
            | OperationalEvent::SecretRotated { destination_id, .. } => Some(*destination_id),
            OperationalEvent::QuotaNear { .. } => None,
        }
    }

    /// Its id, by which telling it once more is recognised, also after a restart: by what it tells of, and
    /// since when.
    #[must_use]
    pub fn event_id(&self) -> Option<EventId> {
        let (what, subject, moment) = match self {
            OperationalEvent::DeliveryDeadLettered { delivery_id, cycle_started_at, .. } => {
                ("dead_lettered", delivery_id.to_string(), cycle_started_at.as_millis())
            }
            OperationalEvent::DeadLettersExpiring { destination_id, period, .. } => {
                ("expiring", destination_id.to_string(), period.as_seconds())
            }
            OperationalEvent::DestinationDisabled { destination_id, since, .. } => {
                ("disabled", destination_id.to_string(), since.as_millis())
            }
            OperationalEvent::DestinationCircuitOpened { destination_id, opened_at, .. } => {
                ("circuit_opened", destination_id.to_string(), opened_at.as_millis())
            }
            OperationalEvent::DestinationRecovered { destination_id, opened_at } => {
                ("recovered", destination_id.to_string(), opened_at.as_millis())
            }
            OperationalEvent::SecretRotated { destination_id, rotated_at, .. } => {
                ("rotated", destination_id.to_string(), rotated_at.as_millis())
            }
            OperationalEvent::QuotaNear { at, .. } => ("quota_near", DESTINATIONS.to_owned(), at.as_millis()),
        };
        EventId::parse(&format!("{what}:{subject}:{moment}")).ok()
    }

    /// Its data: a JSON object without secrets, URLs or data of events.
    #[must_use]
    pub fn data(&self) -> Bytes {
        Bytes::from(self.fields().to_string())
    }

    fn fields(&self) -> Value {
        match self {
            OperationalEvent::DeliveryDeadLettered {
                delivery_id,
                event_id,
                reason,
                attempt_count,
                last_error,
                ..
            } => json!({
                "deliveryId": delivery_id.to_string(),
                "destinationId": delivery_id.destination_id.to_string(),
                "eventId": event_id.as_str(),
                "reason": reason.as_sentence(),
                "attemptCount": attempt_count,
                "lastError": last_error,
            }),
            OperationalEvent::DeadLettersExpiring { destination_id, count, first, last, .. } => json!({
                "destinationId": destination_id.to_string(),
                "count": count,
                "firstExpires": first.to_rfc3339_millis(),
                "lastExpires": last.to_rfc3339_millis(),
            }),
            OperationalEvent::DestinationDisabled { destination_id, reason, .. } => json!({
                "destinationId": destination_id.to_string(),
                "reason": reason.as_sentence(),
            }),
            OperationalEvent::DestinationCircuitOpened {
                destination_id,
                consecutive_failures,
                last_error,
                opened_at,
            } => json!({
                "destinationId": destination_id.to_string(),
                "consecutiveFailures": consecutive_failures,
                "lastError": last_error,
                "circuitOpenedAt": opened_at.to_rfc3339_millis(),
            }),
            OperationalEvent::DestinationRecovered { destination_id, opened_at } => json!({
                "destinationId": destination_id.to_string(),
                "circuitOpenedAt": opened_at.to_rfc3339_millis(),
            }),
            OperationalEvent::SecretRotated { destination_id, overlap_ends, .. } => json!({
                "destinationId": destination_id.to_string(),
                "overlapEnds": overlap_ends.to_rfc3339_millis(),
            }),
            OperationalEvent::QuotaNear { limit, usage, .. } => json!({
                "quota": DESTINATIONS,
                "limit": limit,
                "usage": usage,
            }),
        }
    }
}

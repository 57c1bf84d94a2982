//! Events: immutable facts with a type, a time, a level and data.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;

use super::id::{DestinationId, EventId, EventKey, OrganizationId, check_name};
use super::payload::Payload;
use super::settings::Guarantee;
use super::time::Timestamp;
use super::trace::TraceContext;

/// The longest event type, in characters.
pub const EVENT_TYPE_MAX_CHARS: usize = 128;

/// What happened, for example `invoice.paid`: 1 to 128 characters of `[A-Za-z0-9_.-]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventType(Arc<str>);

impl EventType {
    /// Checks length and characters.
    ///
    /// # Errors
    /// A sentence with the rule that is violated.
    pub fn parse(text: &str) -> Result<Self, String> {
        check_name(text, EVENT_TYPE_MAX_CHARS, "_.-")?;
        Ok(Self(text.into()))
    }

    /// The type as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How severe an event is; only contracts with a minimum level look at it (seed 001).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Level {
    /// The finest detail.
    Trace,
    /// For people who look for a fault.
    Debug,
    /// The normal course of things; what an event without a level has.
    #[default]
    Info,
    /// Something that may need attention.
    Warn,
    /// Something failed.
    Error,
}

impl Level {
    /// All levels, least severe first.
    pub const ALL: [Level; 5] = [Level::Trace, Level::Debug, Level::Info, Level::Warn, Level::Error];

    /// The lower-case name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Level::Trace => "trace",
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
        }
    }
}

impl FromStr for Level {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Level::ALL
            .into_iter()
            .find(|level| level.as_str() == text)
            .ok_or_else(|| format!("`{text}` is no level; use trace, debug, info, warn or error"))
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An event as a caller sends it, before anything is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventDraft {
    /// The caller's id, where it gives one.
    pub event_id: Option<String>,
    /// What happened.
    pub event_type: String,
    /// When it happened, where the caller says so.
    pub occurred_at: Option<Timestamp>,
    /// The trace of the call that brings it, where it has one.
    pub trace: Option<TraceContext>,
    /// How severe it is.
    pub level: Level,
    /// JSON text; empty means `{}`.
    pub data: Bytes,
}

/// A validated event that is not yet in the store, with the destinations that want it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    /// Whose event it is.
    pub organization_id: OrganizationId,
    /// The caller's id, where it gave one.
    pub event_id: Option<EventId>,
    /// What happened.
    pub event_type: EventType,
    /// When it happened; the time of acceptance where the caller does not say.
    pub occurred_at: Option<Timestamp>,
    /// The span of its acceptance, where its caller has a trace.
    pub trace: Option<TraceContext>,
    /// How severe it is.
    pub level: Level,
    /// The data, as the caller wrote it.
    pub data: Payload,
    /// Where it goes.
    pub routes: Vec<Route>,
}

impl NewEvent {
    /// The event as it is accepted under this key, which gives it its id and its time where the caller
    /// gave none.
    #[must_use]
    pub fn into_event(self, key: EventKey) -> Event {
        // The time in the key, so that lists by time and by key agree even if the clock goes back.
        let accepted_at = key.made_at();
        Event {
            erased_at: None,
            trace: self.trace,
            key,
            id: self.event_id.unwrap_or_else(|| EventId::from_key(key)),
            organization_id: self.organization_id,
            event_type: self.event_type,
            occurred_at: self.occurred_at.unwrap_or(accepted_at),
            accepted_at,
            level: self.level,
            data: self.data,
            routes: self.routes,
        }
    }
}

/// One destination of an event, and what it was promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// The destination.
    pub destination_id: DestinationId,
    /// Whether the delivery survives a crash.
    pub guarantee: Guarantee,
}

/// An accepted event. It never changes, but for its data being erased.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The store's key: unique over all organizations and growing in order of acceptance.
    pub key: EventKey,
    /// The id that callers and receivers know, unique within the organization.
    pub id: EventId,
    /// Whose event it is.
    pub organization_id: OrganizationId,
    /// What happened.
    pub event_type: EventType,
    /// When it happened.
    pub occurred_at: Timestamp,
    /// When it became durable; discard times count from here.
    pub accepted_at: Timestamp,
    /// How severe it is.
    pub level: Level,
    /// The data, as the caller wrote it.
    pub data: Payload,
    /// The destinations it was routed to when it was accepted.
    pub routes: Vec<Route>,
    /// The span of its acceptance, where its caller had a trace; attempts go on from here.
    pub trace: Option<TraceContext>,
    /// When its data was erased; the data is empty then.
    pub erased_at: Option<Timestamp>,
}

/// What the store answers for one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acceptance {
    /// New: it and its deliveries are durable.
    Accepted(Arc<Event>),
    /// The same id came before with the same content; this is the first one.
    Duplicate(Arc<Event>),
    /// The same id came before with other content; nothing was written.
    Conflict,
}

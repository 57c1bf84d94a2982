//! Events and the ids that callers gave them.
//!
//! An event is one record with its routes and its body, unless that makes it too large: then routes and
//! body go into chunks, and the record keeps the rest.

use bytes::Bytes;
use prost::Message;
use sha2::{Digest, Sha256};

use super::{Place, guarantee, guarantee_code, join, level, level_code, seal, split, unseal};
use crate::domain::event::{Event, EventType, Level, NewEvent, Route};
use crate::domain::id::{DestinationId, EventId, EventKey, OrganizationId};
use crate::domain::payload::Payload;
use crate::domain::time::Timestamp;
use crate::domain::trace::TraceContext;
use crate::store::StoreError;

/// Larger bodies are chunked.
const INLINE_BODY_BYTES: usize = 3 * 1024;
/// More routes than this go into chunks with the body: 30 of 17 bytes fit beside a body of 3 KiB.
const INLINE_ROUTES: usize = 30;
/// A route is a byte for the guarantee and the destination's id.
const ROUTE_BYTES: usize = 17;

#[derive(Clone, PartialEq, Message)]
struct EventRecord {
    #[prost(string, tag = "1")]
    organization_id: String,
    /// Empty where the id is the key.
    #[prost(string, tag = "2")]
    event_id: String,
    #[prost(string, tag = "3")]
    event_type: String,
    #[prost(sint64, tag = "4")]
    occurred_at: i64,
    #[prost(sint64, tag = "5")]
    accepted_at: i64,
    #[prost(uint32, tag = "6")]
    level: u32,
    /// Zero where `content` is here.
    #[prost(uint32, tag = "7")]
    chunks: u32,
    #[prost(message, optional, tag = "8")]
    content: Option<Content>,
    #[prost(sint64, optional, tag = "9")]
    erased_at: Option<i64>,
    /// Only where the caller had a trace.
    #[prost(bytes = "vec", optional, tag = "10")]
    trace: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct Content {
    #[prost(bytes = "bytes", tag = "1")]
    routes: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    data: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct IdempotencyRecord {
    #[prost(bytes = "vec", tag = "1")]
    event_key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    digest: Vec<u8>,
}

/// An event in its stored form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvent {
    /// The record itself.
    pub record: Vec<u8>,
    /// What does not fit into it, in order; mostly empty.
    pub chunks: Vec<Vec<u8>>,
}

/// What a delivery repeats of its event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventHead {
    /// The store's key.
    pub key: EventKey,
    /// The id that callers know.
    pub id: EventId,
    /// Whose event it is.
    pub organization_id: OrganizationId,
    /// What happened.
    pub event_type: EventType,
    /// When it became durable.
    pub accepted_at: Timestamp,
}

impl From<&Event> for EventHead {
    fn from(event: &Event) -> Self {
        Self {
            key: event.key,
            id: event.id.clone(),
            organization_id: event.organization_id.clone(),
            event_type: event.event_type.clone(),
            accepted_at: event.accepted_at,
        }
    }
}

/// Which event a caller's id stands for, and what the event contained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Idempotency {
    /// The event.
    pub event_key: EventKey,
    /// See [`content_digest`].
    pub digest: [u8; 16],
}

/// What two events with the same id must share to be the same event: type, time, level and data.
#[must_use]
pub fn content_digest(event: &NewEvent) -> [u8; 16] {
    let mut hasher = Sha256::new();
    // The type has no zero byte, so the fields can't run into each other.
    hasher.update(event.event_type.as_str());
    hasher.update([0, u8::from(event.occurred_at.is_some())]);
    hasher.update(event.occurred_at.unwrap_or_default().as_millis().to_be_bytes());
    hasher.update(level_code(event.level).to_be_bytes());
    hasher.update(event.data.as_bytes());
    let whole: [u8; 32] = hasher.finalize().into();
    whole.first_chunk().copied().unwrap_or_default()
}

/// The stored form of an event.
#[must_use]
pub fn encode_event(event: &Event) -> StoredEvent {
    let content = Content { routes: encode_routes(&event.routes), data: event.data.bytes() };
    let mut record = outline(event);
    if content.data.len() <= INLINE_BODY_BYTES && event.routes.len() <= INLINE_ROUTES {
        record.content = Some(content);
        return StoredEvent { record: seal(&record), chunks: Vec::new() };
    }
    let chunks = split(&content.encode_to_vec());
    record.chunks = u32::try_from(chunks.len()).unwrap_or(u32::MAX);
    StoredEvent { record: seal(&record), chunks }
}

/// The stored form of an event in one piece, however large, for a store that bounds no values.
#[must_use]
pub fn encode_whole_event(event: &Event) -> Vec<u8> {
    let content = Content { routes: encode_routes(&event.routes), data: event.data.bytes() };
    seal(&EventRecord { content: Some(content), ..outline(event) })
}

/// The record without routes and data.
fn outline(event: &Event) -> EventRecord {
    let named_by_key = event.id.as_key() == Some(event.key);
    EventRecord {
        organization_id: event.organization_id.as_str().to_owned(),
        event_id: if named_by_key { String::new() } else { event.id.as_str().to_owned() },
        event_type: event.event_type.as_str().to_owned(),
        occurred_at: event.occurred_at.as_millis(),
        accepted_at: event.accepted_at.as_millis(),
        level: level_code(event.level),
        chunks: 0,
        content: None,
        erased_at: event.erased_at.map(Timestamp::as_millis),
        trace: event.trace.map(|trace| trace.to_bytes().to_vec()),
    }
}

/// The event out of its stored form; `chunk` answers chunks by their number.
///
/// # Errors
/// [`StoreError::Corrupt`], or what `chunk` fails with.
pub fn decode_event<C: AsRef<[u8]>>(
    key: EventKey,
    stored: &[u8],
    mut chunk: impl FnMut(u16) -> Result<Option<C>, StoreError>,
) -> Result<Event, StoreError> {
    let place = Place::new("event", key.as_bytes());
    let mut record: EventRecord = unseal(place, stored)?;
    let content = match record.content.take() {
        Some(content) => content,
        None => {
            let mut chunks = Vec::new();
            for number in 0..u16::try_from(record.chunks).map_err(|error| place.corrupt(error))? {
                chunks.push(chunk(number)?.ok_or_else(|| place.corrupt("a chunk of it is missing"))?);
            }
            Content::decode(join(place, &chunks)?).map_err(|error| place.corrupt(error))?
        }
    };
    let head = head(key, &record).map_err(|problem| place.corrupt(problem))?;
    Ok(Event {
        erased_at: record.erased_at.map(Timestamp::from_millis),
        trace: record.trace.and_then(|bytes| TraceContext::from_bytes(&bytes)),
        key,
        id: head.id,
        organization_id: head.organization_id,
        event_type: head.event_type,
        occurred_at: Timestamp::from_millis(record.occurred_at),
        accepted_at: head.accepted_at,
        level: level(record.level).map_err(|problem| place.corrupt(problem))?,
        data: Payload::from_stored(content.data),
        routes: decode_routes(&content.routes).map_err(|problem| place.corrupt(problem))?,
    })
}

/// The head of an event out of the event's record, without its chunks.
///
/// # Errors
/// [`StoreError::Corrupt`].
pub fn decode_head(key: EventKey, stored: &[u8]) -> Result<EventHead, StoreError> {
    let place = Place::new("event", key.as_bytes());
    let record: EventRecord = unseal(place, stored)?;
    head(key, &record).map_err(|problem| place.corrupt(problem))
}

/// The head of an event and its level, out of the event's record, without its chunks.
///
/// # Errors
/// [`StoreError::Corrupt`].
pub fn decode_outline(key: EventKey, stored: &[u8]) -> Result<(EventHead, Level), StoreError> {
    let place = Place::new("event", key.as_bytes());
    let record: EventRecord = unseal(place, stored)?;
    let head = head(key, &record).map_err(|problem| place.corrupt(problem))?;
    Ok((head, level(record.level).map_err(|problem| place.corrupt(problem))?))
}

/// Whether the data of a stored event was erased.
///
/// # Errors
/// [`StoreError::Corrupt`].
pub fn is_erased(key: EventKey, stored: &[u8]) -> Result<bool, StoreError> {
    let record: EventRecord = unseal(Place::new("event", key.as_bytes()), stored)?;
    Ok(record.erased_at.is_some())
}

fn head(key: EventKey, record: &EventRecord) -> Result<EventHead, String> {
    let id = match record.event_id.as_str() {
        "" => EventId::from_key(key),
        given => EventId::parse(given)?,
    };
    Ok(EventHead {
        key,
        id,
        organization_id: OrganizationId::parse(&record.organization_id)?,
        event_type: EventType::parse(&record.event_type)?,
        accepted_at: Timestamp::from_millis(record.accepted_at),
    })
}

fn encode_routes(routes: &[Route]) -> Bytes {
    let mut packed = Vec::with_capacity(routes.len() * ROUTE_BYTES);
    for route in routes {
        packed.push(u8::try_from(guarantee_code(route.guarantee)).unwrap_or_default());
        packed.extend_from_slice(route.destination_id.as_bytes());
    }
    packed.into()
}

fn decode_routes(packed: &[u8]) -> Result<Vec<Route>, String> {
    let (routes, rest) = packed.as_chunks::<ROUTE_BYTES>();
    if !rest.is_empty() {
        return Err("its routes are cut off".into());
    }
    let one = |[code, id @ ..]: &[u8; ROUTE_BYTES]| {
        let guarantee = guarantee(u32::from(*code))?;
        Ok(Route { destination_id: DestinationId::from_bytes(*id), guarantee })
    };
    routes.iter().map(one).collect()
}

/// The stored form of the note that a caller's id stands for an event.
#[must_use]
pub fn encode_idempotency(note: &Idempotency) -> Vec<u8> {
    let event_key = note.event_key.as_bytes().to_vec();
    seal(&IdempotencyRecord { event_key, digest: note.digest.to_vec() })
}

/// The note out of its stored form.
///
/// # Errors
/// [`StoreError::Corrupt`].
pub fn decode_idempotency(key: &[u8], stored: &[u8]) -> Result<Idempotency, StoreError> {
    let place = Place::new("idempotency", key);
    let record: IdempotencyRecord = unseal(place, stored)?;
    match (record.event_key.try_into(), record.digest.try_into()) {
        (Ok(event_key), Ok(digest)) => Ok(Idempotency { event_key: EventKey::from_bytes(event_key), digest }),
        _ => Err(place.corrupt("its key or digest has a wrong length")),
    }
}

//! Replays: what they cover and how far they are.

use bytes::Bytes;
use prost::Message;

use super::{Place, codes, cut, join, split};
use crate::domain::event::EventType;
use crate::domain::id::{DeliveryId, DestinationId, EventKey, OrganizationId, ReplayId};
use crate::domain::replay::{Replay, ReplayKind, ReplayScope, ReplayState};
use crate::domain::time::Timestamp;
use crate::store::StoreError;

/// How much of the text of a failure is kept.
const ERROR_BYTES: usize = 1000;

#[derive(Clone, PartialEq, Message)]
struct ReplayRecord {
    #[prost(string, tag = "1")]
    organization_id: String,
    #[prost(uint32, tag = "2")]
    kind: u32,
    /// Empty for all destinations.
    #[prost(bytes = "vec", tag = "3")]
    destination_id: Vec<u8>,
    #[prost(string, repeated, tag = "4")]
    event_types: Vec<String>,
    /// Empty for all events.
    #[prost(bytes = "vec", tag = "5")]
    event_key: Vec<u8>,
    #[prost(sint64, optional, tag = "6")]
    from: Option<i64>,
    #[prost(sint64, optional, tag = "7")]
    until: Option<i64>,
    #[prost(uint32, tag = "8")]
    per_second: u32,
    #[prost(string, tag = "9")]
    started_by: String,
    #[prost(sint64, tag = "10")]
    created_at: i64,
    #[prost(uint32, tag = "11")]
    state: u32,
    /// When it was finished.
    #[prost(sint64, tag = "12")]
    state_at: i64,
    #[prost(string, tag = "13")]
    error: String,
    /// The delivery after which it goes on: destination, event. Empty at the beginning.
    #[prost(bytes = "vec", tag = "14")]
    after: Vec<u8>,
    #[prost(uint64, tag = "15")]
    total: u64,
    #[prost(uint64, tag = "16")]
    replayed: u64,
    #[prost(uint64, tag = "17")]
    succeeded: u64,
    #[prost(uint64, tag = "18")]
    failed: u64,
    #[prost(uint64, tag = "19")]
    skipped: u64,
}

codes!(kind_code, kind, ReplayKind, {
    ReplayKind::DeadLetters = 1, ReplayKind::Succeeded = 2, ReplayKind::Missed = 3,
});

/// The stored form of a replay, in chunks: its list of event types may be long.
#[must_use]
pub fn encode_replay(replay: &Replay) -> Vec<Vec<u8>> {
    let scope = &replay.scope;
    let mut record = ReplayRecord {
        organization_id: replay.organization_id.as_str().to_owned(),
        kind: kind_code(scope.kind),
        destination_id: scope.destination_id.map(|id| id.as_bytes().to_vec()).unwrap_or_default(),
        event_types: scope.event_types.iter().map(ToString::to_string).collect(),
        event_key: scope.event_key.map(|key| key.as_bytes().to_vec()).unwrap_or_default(),
        from: scope.from.map(Timestamp::as_millis),
        until: scope.until.map(Timestamp::as_millis),
        per_second: replay.per_second,
        started_by: replay.started_by.clone(),
        created_at: replay.created_at.as_millis(),
        total: replay.total,
        replayed: replay.replayed,
        succeeded: replay.succeeded,
        failed: replay.failed,
        skipped: replay.skipped,
        ..ReplayRecord::default()
    };
    encode_state(&replay.state, &mut record);
    split(&record.encode_to_vec())
}

/// The replay out of its chunks.
///
/// # Errors
/// [`StoreError::Corrupt`].
pub fn decode_replay<C: AsRef<[u8]>>(id: ReplayId, chunks: &[C]) -> Result<Replay, StoreError> {
    let place = Place::new("replay", id.as_bytes());
    let whole: Bytes = join(place, chunks)?;
    let record = ReplayRecord::decode(whole).map_err(|error| place.corrupt(error))?;
    restore(id, record).map_err(|problem| place.corrupt(problem))
}

fn restore(id: ReplayId, record: ReplayRecord) -> Result<Replay, String> {
    let state = restore_state(&record)?;
    let event_types = record.event_types.iter().map(|text| EventType::parse(text));
    let scope = ReplayScope {
        kind: kind(record.kind)?,
        destination_id: restore_id(&record.destination_id)?.map(DestinationId::from_bytes),
        event_types: event_types.collect::<Result<_, _>>()?,
        event_key: restore_id(&record.event_key)?.map(EventKey::from_bytes),
        from: record.from.map(Timestamp::from_millis),
        until: record.until.map(Timestamp::from_millis),
    };
    Ok(Replay {
        id,
        organization_id: OrganizationId::parse(&record.organization_id)?,
        scope,
        per_second: record.per_second,
        started_by: record.started_by,
        created_at: Timestamp::from_millis(record.created_at),
        state,
        total: record.total,
        replayed: record.replayed,
        succeeded: record.succeeded,
        failed: record.failed,
        skipped: record.skipped,
    })
}

fn encode_state(state: &ReplayState, record: &mut ReplayRecord) {
    (record.state, record.state_at) = match state {
        ReplayState::Counting { .. } => (1, 0),
        ReplayState::Sending { .. } => (2, 0),
        ReplayState::Completed { at } => (3, at.as_millis()),
        ReplayState::Cancelled { at } => (4, at.as_millis()),
        ReplayState::Failed { at, .. } => (5, at.as_millis()),
    };
    if let ReplayState::Counting { after: Some(after) } | ReplayState::Sending { after: Some(after) } = state
    {
        record.after = [*after.destination_id.as_bytes(), *after.event_key.as_bytes()].concat();
    }
    if let ReplayState::Failed { error, .. } = state {
        cut(error, ERROR_BYTES).clone_into(&mut record.error);
    }
}

fn restore_state(record: &ReplayRecord) -> Result<ReplayState, String> {
    let at = Timestamp::from_millis(record.state_at);
    match record.state {
        1 => Ok(ReplayState::Counting { after: restore_after(&record.after)? }),
        2 => Ok(ReplayState::Sending { after: restore_after(&record.after)? }),
        3 => Ok(ReplayState::Completed { at }),
        4 => Ok(ReplayState::Cancelled { at }),
        5 => Ok(ReplayState::Failed { at, error: record.error.clone() }),
        other => Err(format!("{other} stands for no state")),
    }
}

fn restore_after(stored: &[u8]) -> Result<Option<DeliveryId>, String> {
    let Some((destination, event)) = stored.split_at_checked(16) else {
        return if stored.is_empty() { Ok(None) } else { Err("its place is cut off".into()) };
    };
    let destination_id = restore_id(destination)?.map(DestinationId::from_bytes);
    let event_key = restore_id(event)?.map(EventKey::from_bytes);
    Ok(destination_id.zip(event_key).map(|(destination_id, key)| DeliveryId::new(key, destination_id)))
}

fn restore_id(stored: &[u8]) -> Result<Option<[u8; 16]>, String> {
    if stored.is_empty() {
        return Ok(None);
    }
    stored.try_into().map(Some).map_err(|_| "an id in it has a wrong length".into())
}

//! Deliveries with their attempts, and the entries of the due index.
//!
//! A delivery's record has at most [`DELIVERY_MAX_BYTES`]. Where its attempts would make it larger, the
//! response bodies of the older attempts are left out first, then their error texts are shortened; the
//! latest attempt is the last to lose anything.

use std::time::Duration;

use bytes::Bytes;
use prost::Message;

use super::{Place, codes, cut, guarantee, guarantee_code, nanos, seal, unseal};
use crate::domain::attempt::{Attempt, Failure, InBatch, Outcome, Refusal, Trigger};
use crate::domain::delivery::{Cycle, CycleCause, Delivery, DeliveryState, EndReason};
use crate::domain::event::EventType;
use crate::domain::id::{BatchId, DeliveryId, EventId, OrganizationId, ReplayId};
use crate::domain::time::Timestamp;
use crate::store::{DueEntry, StoreError};

/// The largest record of a delivery, in bytes.
pub const DELIVERY_MAX_BYTES: usize = 4000;
/// What is left of an older attempt's error text when space is short.
const SHORT_DETAIL_BYTES: usize = 100;
/// What is left of the latest attempt's error text when space is short.
const LAST_DETAIL_BYTES: usize = 1000;

#[derive(Clone, PartialEq, Message)]
struct DeliveryRecord {
    #[prost(string, tag = "1")]
    organization_id: String,
    /// Empty where the id is the event's key.
    #[prost(string, tag = "2")]
    event_id: String,
    #[prost(string, tag = "3")]
    event_type: String,
    #[prost(sint64, tag = "4")]
    created_at: i64,
    #[prost(uint32, tag = "5")]
    guarantee: u32,
    #[prost(uint32, tag = "6")]
    state: u32,
    /// When it is due or when it was finished.
    #[prost(sint64, tag = "7")]
    state_at: i64,
    #[prost(uint32, tag = "8")]
    reason: u32,
    #[prost(uint32, tag = "9")]
    attempt_count: u32,
    #[prost(message, optional, tag = "10")]
    cycle: Option<CycleRecord>,
    #[prost(message, repeated, tag = "11")]
    attempts: Vec<AttemptRecord>,
    /// Empty where no replay waits for it.
    #[prost(bytes = "vec", tag = "12")]
    replay_id: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct CycleRecord {
    #[prost(uint32, tag = "1")]
    cause: u32,
    #[prost(sint64, tag = "2")]
    started_at: i64,
    #[prost(uint32, tag = "3")]
    attempts: u32,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct DueRecord {
    #[prost(uint32, tag = "1")]
    attempt_count: u32,
    #[prost(message, optional, tag = "2")]
    cycle: Option<CycleRecord>,
}

#[derive(Clone, PartialEq, Message)]
struct AttemptRecord {
    #[prost(uint32, tag = "1")]
    number: u32,
    #[prost(sint64, tag = "2")]
    started_at: i64,
    #[prost(uint64, tag = "3")]
    round_trip: u64,
    #[prost(uint32, tag = "4")]
    trigger: u32,
    #[prost(uint32, tag = "5")]
    batch_size: u32,
    #[prost(string, optional, tag = "6")]
    remote_address: Option<String>,
    /// Present where an answer came.
    #[prost(uint32, optional, tag = "7")]
    status: Option<u32>,
    #[prost(uint64, optional, tag = "8")]
    retry_after: Option<u64>,
    #[prost(bytes = "bytes", tag = "9")]
    body: Bytes,
    /// Not zero where no answer came.
    #[prost(uint32, tag = "10")]
    failure: u32,
    /// Not zero where nothing was sent.
    #[prost(uint32, tag = "11")]
    refusal: u32,
    #[prost(string, tag = "12")]
    detail: String,
    /// Empty where the request carried one delivery.
    #[prost(bytes = "vec", tag = "13")]
    batch_id: Vec<u8>,
    #[prost(uint32, tag = "14")]
    batch_position: u32,
}

codes!(cause_code, cause, CycleCause, {
    CycleCause::Routed = 1, CycleCause::Resend = 2, CycleCause::Replay = 3,
});
codes!(trigger_code, trigger, Trigger, {
    Trigger::Routed = 1, Trigger::Retry = 2, Trigger::Resend = 3, Trigger::Replay = 4, Trigger::Test = 5,
});
codes!(failure_code, failure, Failure, {
    Failure::Dns = 1, Failure::Connect = 2, Failure::Tls = 3, Failure::Timeout = 4, Failure::Reset = 5,
    Failure::InvalidResponse = 6, Failure::Refused = 7,
});
codes!(refusal_code, refusal, Refusal, {
    Refusal::AddressNotAllowed = 1, Refusal::SecretUnavailable = 2, Refusal::NotRenderable = 3, Refusal::Fault = 4,
});
codes!(reason_code, reason, EndReason, {
    EndReason::AttemptsExhausted = 1, EndReason::GaveUp = 2, EndReason::FinalStatus = 3,
    EndReason::TooOld = 4, EndReason::Lossy = 5, EndReason::WindowFull = 6, EndReason::Stopped = 7,
    EndReason::DestinationDeleted = 8, EndReason::DeadLetterDeleted = 9, EndReason::EventGone = 10,
    EndReason::DeadLetterExpired = 11,
});

/// The stored form of a delivery; see the head of this file for what it may leave out.
#[must_use]
pub fn encode_delivery(delivery: &Delivery) -> Vec<u8> {
    let (state, state_at, reason) = encode_state(&delivery.state);
    let named_by_key = delivery.event_id.as_key() == Some(delivery.id.event_key);
    let mut record = DeliveryRecord {
        organization_id: delivery.organization_id.as_str().to_owned(),
        event_id: if named_by_key { String::new() } else { delivery.event_id.as_str().to_owned() },
        event_type: delivery.event_type.as_str().to_owned(),
        created_at: delivery.created_at.as_millis(),
        guarantee: guarantee_code(delivery.guarantee),
        state,
        state_at,
        reason,
        attempt_count: delivery.attempt_count,
        cycle: Some(encode_cycle(&delivery.cycle)),
        attempts: delivery.attempts.iter().map(encode_attempt).collect(),
        replay_id: delivery.replay_id.map(|id| id.as_bytes().to_vec()).unwrap_or_default(),
    };
    trim(&mut record);
    seal(&record)
}

/// The delivery out of its stored form.
///
/// # Errors
/// [`StoreError::Corrupt`].
pub fn decode_delivery(id: DeliveryId, key: &[u8], stored: &[u8]) -> Result<Delivery, StoreError> {
    let place = Place::new("delivery", key);
    let record: DeliveryRecord = unseal(place, stored)?;
    restore_delivery(id, record).map_err(|problem| place.corrupt(problem))
}

fn restore_delivery(id: DeliveryId, record: DeliveryRecord) -> Result<Delivery, String> {
    let event_id = match record.event_id.as_str() {
        "" => EventId::from_key(id.event_key),
        given => EventId::parse(given)?,
    };
    Ok(Delivery {
        id,
        organization_id: OrganizationId::parse(&record.organization_id)?,
        event_id,
        event_type: EventType::parse(&record.event_type)?,
        created_at: Timestamp::from_millis(record.created_at),
        guarantee: guarantee(record.guarantee)?,
        state: restore_state(record.state, record.state_at, record.reason)?,
        attempt_count: record.attempt_count,
        cycle: restore_cycle(record.cycle)?,
        attempts: record.attempts.into_iter().map(restore_attempt).collect::<Result<_, _>>()?,
        replay_id: restore_replay_id(&record.replay_id)?,
    })
}

fn restore_replay_id(stored: &[u8]) -> Result<Option<ReplayId>, String> {
    if stored.is_empty() {
        return Ok(None);
    }
    let bytes = stored.try_into().map_err(|_| "its replay has no id")?;
    Ok(Some(ReplayId::from_bytes(bytes)))
}

/// The stored form of a due entry; its key holds the rest.
#[must_use]
pub fn encode_due(attempt_count: u32, cycle: &Cycle) -> Vec<u8> {
    seal(&DueRecord { attempt_count, cycle: Some(encode_cycle(cycle)) })
}

/// A due entry out of its key and its stored form.
///
/// # Errors
/// [`StoreError::Corrupt`].
pub fn decode_due(id: DeliveryId, due: Timestamp, key: &[u8], stored: &[u8]) -> Result<DueEntry, StoreError> {
    let place = Place::new("due", key);
    let record: DueRecord = unseal(place, stored)?;
    let cycle = restore_cycle(record.cycle).map_err(|problem| place.corrupt(problem))?;
    Ok(DueEntry { id, due, attempt_count: record.attempt_count, cycle })
}

fn trim(record: &mut DeliveryRecord) {
    let room = DELIVERY_MAX_BYTES - super::SEAL_BYTES;
    let latest = record.attempts.len().saturating_sub(1);
    for bodies in [true, false] {
        for position in 0..=latest {
            if record.encoded_len() <= room {
                return;
            }
            let Some(attempt) = record.attempts.get_mut(position) else { return };
            match (bodies, position == latest) {
                (true, false) => attempt.body = Bytes::new(),
                (true, true) => attempt.body.truncate(crate::domain::attempt::RESPONSE_KEPT_BYTES),
                (false, false) => attempt.detail = cut(&attempt.detail, SHORT_DETAIL_BYTES).to_owned(),
                (false, true) => attempt.detail = cut(&attempt.detail, LAST_DETAIL_BYTES).to_owned(),
            }
        }
    }
}

fn encode_state(state: &DeliveryState) -> (u32, i64, u32) {
    match state {
        DeliveryState::Waiting { due } => (1, due.as_millis(), 0),
        DeliveryState::Succeeded { at } => (2, at.as_millis(), 0),
        DeliveryState::DeadLettered { at, reason } => (3, at.as_millis(), reason_code(*reason)),
        DeliveryState::Discarded { at, reason } => (4, at.as_millis(), reason_code(*reason)),
        DeliveryState::Cancelled { at } => (5, at.as_millis(), 0),
    }
}

fn restore_state(state: u32, at: i64, why: u32) -> Result<DeliveryState, String> {
    let at = Timestamp::from_millis(at);
    match state {
        1 => Ok(DeliveryState::Waiting { due: at }),
        2 => Ok(DeliveryState::Succeeded { at }),
        3 => Ok(DeliveryState::DeadLettered { at, reason: reason(why)? }),
        4 => Ok(DeliveryState::Discarded { at, reason: reason(why)? }),
        5 => Ok(DeliveryState::Cancelled { at }),
        other => Err(format!("{other} stands for no state")),
    }
}

fn encode_cycle(cycle: &Cycle) -> CycleRecord {
    CycleRecord {
        cause: cause_code(cycle.cause),
        started_at: cycle.started_at.as_millis(),
        attempts: cycle.attempts,
    }
}

fn restore_cycle(record: Option<CycleRecord>) -> Result<Cycle, String> {
    let record = record.ok_or("it has no cycle")?;
    let started_at = Timestamp::from_millis(record.started_at);
    Ok(Cycle { cause: cause(record.cause)?, started_at, attempts: record.attempts })
}

fn encode_attempt(attempt: &Attempt) -> AttemptRecord {
    let mut record = AttemptRecord {
        number: attempt.number,
        started_at: attempt.started_at.as_millis(),
        round_trip: nanos(attempt.round_trip),
        trigger: trigger_code(attempt.trigger),
        batch_size: attempt.batch_size,
        remote_address: attempt.remote_address.map(|address| address.to_string()),
        batch_id: attempt.batch.map(|batch| batch.id.as_bytes().to_vec()).unwrap_or_default(),
        batch_position: attempt.batch.map_or(0, |batch| batch.position),
        ..AttemptRecord::default()
    };
    match &attempt.outcome {
        Outcome::Answered { status, retry_after, body } => {
            record.status = Some(u32::from(*status));
            record.retry_after = retry_after.map(nanos);
            record.body = body.clone();
        }
        Outcome::NoAnswer { failure, detail } => {
            record.failure = failure_code(*failure);
            record.detail.clone_from(detail);
        }
        Outcome::NotSent { refusal, detail } => {
            record.refusal = refusal_code(*refusal);
            record.detail.clone_from(detail);
        }
    }
    record
}

fn restore_batch(id: &[u8], position: u32) -> Result<Option<InBatch>, String> {
    if id.is_empty() {
        return Ok(None);
    }
    let id = id.try_into().map_err(|_| "its batch has no id")?;
    Ok(Some(InBatch { id: BatchId::from_bytes(id), position }))
}

fn restore_attempt(record: AttemptRecord) -> Result<Attempt, String> {
    let outcome = match record.status {
        Some(status) => Outcome::Answered {
            status: u16::try_from(status).map_err(|error| error.to_string())?,
            retry_after: record.retry_after.map(Duration::from_nanos),
            body: record.body,
        },
        None if record.refusal == 0 => {
            Outcome::NoAnswer { failure: failure(record.failure)?, detail: record.detail }
        }
        None => Outcome::NotSent { refusal: refusal(record.refusal)?, detail: record.detail },
    };
    let remote_address = record.remote_address.map(|text| text.parse()).transpose();
    Ok(Attempt {
        number: record.number,
        started_at: Timestamp::from_millis(record.started_at),
        round_trip: Duration::from_nanos(record.round_trip),
        trigger: trigger(record.trigger)?,
        outcome,
        batch_size: record.batch_size,
        batch: restore_batch(&record.batch_id, record.batch_position)?,
        remote_address: remote_address.map_err(|_| "its address is none")?,
    })
}

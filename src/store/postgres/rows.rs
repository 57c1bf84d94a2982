//! Between our values and the database's.

use tokio_postgres::Row;
use uuid::Uuid;

use crate::domain::delivery::{Delivery, DeliveryState, EndReason, StateKind};
use crate::domain::event::Event;
use crate::domain::id::{DeliveryId, DestinationId, EventKey};
use crate::domain::time::Timestamp;
use crate::store::record::{decode_delivery, decode_due, decode_event};
use crate::store::{DueEntry, StoreError};

/// Into how many buckets destinations fall. Written into the schema: it never changes.
pub(super) const BUCKETS: u16 = 256;

/// A dead letter that has expired.
const EXPIRED: i16 = 6;

/// The bucket of a destination. Ids end in random bits, so the last byte spreads them evenly.
pub(super) fn bucket_of(id: DestinationId) -> u8 {
    let [.., last] = *id.as_bytes();
    last
}

/// The bucket as the database has it.
pub(super) fn bucket_number(id: DestinationId) -> i16 {
    i16::from(bucket_of(id))
}

pub(super) fn of_key(key: EventKey) -> Uuid {
    Uuid::from_bytes(*key.as_bytes())
}

pub(super) fn of_destination(id: DestinationId) -> Uuid {
    Uuid::from_bytes(*id.as_bytes())
}

pub(super) fn key(value: Uuid) -> EventKey {
    EventKey::from_bytes(*value.as_bytes())
}

pub(super) fn destination(value: Uuid) -> DestinationId {
    DestinationId::from_bytes(*value.as_bytes())
}

/// Deliveries as two lists, which a statement takes apart with `unnest`.
pub(super) fn split(ids: impl IntoIterator<Item = DeliveryId>) -> (Vec<Uuid>, Vec<Uuid>) {
    ids.into_iter().map(|id| (of_destination(id.destination_id), of_key(id.event_key))).unzip()
}

/// The delivery that a row is about; its first columns are the destination and the event.
pub(super) fn delivery_id(row: &Row) -> DeliveryId {
    DeliveryId::new(key(row.get(1)), destination(row.get(0)))
}

/// An event out of its key and its record.
pub(super) fn event(event_key: EventKey, record: &[u8]) -> Result<Event, StoreError> {
    decode_event::<Vec<u8>>(event_key, record, |_| Ok(None))
}

/// A delivery out of its record.
pub(super) fn delivery(id: DeliveryId, record: &[u8]) -> Result<Delivery, StoreError> {
    decode_delivery(id, &place(id), record)
}

/// An entry out of its record.
pub(super) fn due_entry(id: DeliveryId, due: Timestamp, record: &[u8]) -> Result<DueEntry, StoreError> {
    decode_due(id, due, &place(id), record)
}

fn place(id: DeliveryId) -> Vec<u8> {
    [*id.destination_id.as_bytes(), *id.event_key.as_bytes()].concat()
}

pub(super) const fn state_number(kind: StateKind) -> i16 {
    match kind {
        StateKind::Waiting => 1,
        StateKind::Succeeded => 2,
        StateKind::DeadLettered => 3,
        StateKind::Discarded => 4,
        StateKind::Cancelled => 5,
    }
}

/// The state as a column. A dead letter that has expired has had its time, so it is told from other discarded ones.
pub(super) const fn state_column(state: &DeliveryState) -> i16 {
    match state {
        DeliveryState::Discarded { reason: EndReason::DeadLetterExpired, .. } => EXPIRED,
        other => state_number(other.kind()),
    }
}

/// The columns of deliveries in a state.
pub(super) fn columns_of(kind: StateKind) -> Vec<i16> {
    if kind == StateKind::Discarded { vec![state_number(kind), EXPIRED] } else { vec![state_number(kind)] }
}

/// The key right before or right behind another one.
pub(super) fn shifted(key: EventKey, by: i8) -> Option<EventKey> {
    let value = u128::from_be_bytes(*key.as_bytes());
    let moved = if by < 0 { value.checked_sub(1) } else { value.checked_add(1) };
    moved.map(|moved| EventKey::from_bytes(moved.to_be_bytes()))
}

/// A row count or a limit as the database takes it.
pub(super) fn limit(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_neighbours_but_at_the_ends() {
        assert_eq!(shifted(EventKey::MIN, -1), None);
        assert_eq!(shifted(EventKey::MAX, 1), None);
        let one = shifted(EventKey::MIN, 1).unwrap();
        assert!(one > EventKey::MIN && shifted(one, -1) == Some(EventKey::MIN));
    }
}

//! How much is stored: the bytes of keys and values of events, deliveries and ids.
//!
//! sled's file is a high-water mark: space that becomes free is used again, and only its end is ever handed
//! back. So what is compared with a limit is what is stored, counted with each commit and written along
//! with it (`mark`).

use sled::{Db, IVec};

use super::keys::{self, DELIVERY};
use super::unavailable;
use crate::domain::id::EventKey;
use crate::store::StoreError;

/// The tables of what comes and goes. What waits in an order has a row in one of them, too.
const COUNTED: [u8; 4] = [b'B', DELIVERY, b'E', b'I'];

/// By how much a write changes what is stored. `newest` is the last event before the group: what belongs to a
/// later one can't have been there, and needs no look.
pub(super) fn change(
    (key, value): (&[u8], Option<&IVec>),
    newest: EventKey,
    before: impl FnOnce() -> Result<Option<IVec>, StoreError>,
) -> Result<i64, StoreError> {
    let Some(table) = key.first().filter(|table| COUNTED.contains(table)) else { return Ok(0) };
    let is_new =
        matches!(table, b'E' | b'B') && keys::first_event_of(key).is_some_and(|event| event > newest);
    let before = if is_new { None } else { before()? };
    let bytes = |value: Option<&IVec>| value.map_or(0, |value| to_i64(key.len() + value.len()));
    Ok(bytes(value) - bytes(before.as_ref()))
}

/// Counts everything; for a store that has no count yet.
pub(super) fn measure(db: &Db) -> Result<u64, StoreError> {
    let mut bytes = 0_u64;
    for row in COUNTED.iter().flat_map(|table| db.scan_prefix([*table])) {
        let (key, value) = row.map_err(|error| unavailable(&error))?;
        bytes = bytes.saturating_add((key.len() + value.len()) as u64);
    }
    Ok(bytes)
}

fn to_i64(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

//! The stored form of what the store keeps, and nothing of where it is kept.
//!
//! Each stored value is one format byte, the CRC32 of the rest, and a protocol buffers message, whose
//! fields may be added to without a new format. The messages are the store's own and never those of the
//! API. A value that does not check is an error with its table and key; it is never served.
//!
//! No stored value is larger than [`VALUE_MAX_BYTES`]: what may be larger is split into chunks.
//! All secrets pass through `secret`, which seals them.

mod audit;
mod delivery;
mod destination;
mod event;
mod replay;
mod secret;
mod settings;

pub use audit::{decode_audit, encode_audit};
pub use delivery::{decode_delivery, decode_due, encode_delivery, encode_due};
pub use destination::{
    decode_destination, decode_health, decode_organization, encode_destination, encode_health,
    encode_organization, seals_of_destination,
};
pub use event::{
    EventHead, Idempotency, StoredEvent, content_digest, decode_event, decode_head, decode_idempotency,
    decode_outline, encode_event, encode_idempotency, encode_whole_event, is_erased,
};
pub use replay::{decode_replay, encode_replay};
pub use secret::Seals;

use std::time::Duration;

use bytes::Bytes;
use prost::Message;

use super::StoreError;
use crate::domain::event::Level;
use crate::domain::settings::Guarantee;

/// The largest stored value, in bytes. The embedded store leaks files for ever once a leaf of its tree
/// outgrows 128 KiB, so values stay far below.
pub const VALUE_MAX_BYTES: usize = 4096;

/// The format of all values that this version writes.
const FORMAT: u8 = 1;
/// The format byte and the checksum.
const SEAL_BYTES: usize = 5;
/// How much of a larger value goes into one chunk, so that the chunk with its frame stays in bounds.
const CHUNK_BYTES: usize = 4000;

/// One piece of a value that is too large to be stored whole.
#[derive(Clone, PartialEq, Message)]
struct Chunk {
    #[prost(uint32, tag = "1")]
    count: u32,
    #[prost(bytes = "bytes", tag = "2")]
    part: Bytes,
}

/// The message as it is stored.
fn seal(message: &impl Message) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(SEAL_BYTES + message.encoded_len());
    let body = message.encode_to_vec();
    sealed.push(FORMAT);
    sealed.extend_from_slice(&crc32fast::hash(&body).to_be_bytes());
    sealed.extend_from_slice(&body);
    sealed
}

/// The message out of its stored form, if format and checksum are right.
fn unseal<M: Message + Default>(place: Place<'_>, stored: &[u8]) -> Result<M, StoreError> {
    let parts = stored.split_first().and_then(|(format, rest)| Some((*format, rest.split_first_chunk()?)));
    let Some((format, (checksum, body))) = parts else {
        return Err(place.corrupt("it is too short"));
    };
    if format != FORMAT {
        return Err(place.corrupt(format!("it has format {format}, this version reads {FORMAT}")));
    }
    if crc32fast::hash(body) != u32::from_be_bytes(*checksum) {
        return Err(place.corrupt("its checksum is wrong"));
    }
    M::decode(Bytes::copy_from_slice(body)).map_err(|error| place.corrupt(error))
}

/// Splits a large value into stored chunks, at least one.
pub fn split(value: &[u8]) -> Vec<Vec<u8>> {
    let parts: Vec<&[u8]> = if value.is_empty() { vec![value] } else { value.chunks(CHUNK_BYTES).collect() };
    let count = u32::try_from(parts.len()).unwrap_or(u32::MAX);
    parts.iter().map(|part| seal(&Chunk { count, part: Bytes::copy_from_slice(part) })).collect()
}

/// Puts stored chunks together again; all of them must be there, in order.
///
/// # Errors
/// [`StoreError::Corrupt`] where one is damaged or missing.
pub fn join<C: AsRef<[u8]>>(place: Place<'_>, chunks: &[C]) -> Result<Bytes, StoreError> {
    let mut whole = Vec::with_capacity(chunks.len() * CHUNK_BYTES);
    for stored in chunks {
        let chunk: Chunk = unseal(place, stored.as_ref())?;
        if usize::try_from(chunk.count) != Ok(chunks.len()) {
            let problem = format!("{} of its {} chunks are there", chunks.len(), chunk.count);
            return Err(place.corrupt(problem));
        }
        whole.extend_from_slice(&chunk.part);
    }
    Ok(whole.into())
}

/// Where a value is stored, for messages about damage.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// What kind of record it is.
    pub table: &'static str,
    /// Its key.
    pub key: &'a [u8],
}

impl<'a> Place<'a> {
    /// The value with this key in this table.
    #[must_use]
    pub const fn new(table: &'static str, key: &'a [u8]) -> Self {
        Self { table, key }
    }

    /// The error that the value is damaged.
    pub fn corrupt(&self, problem: impl std::fmt::Display) -> StoreError {
        StoreError::Corrupt(format!("{}/{}: {problem}", self.table, hex::encode(self.key)))
    }
}

/// Durations as nanoseconds: 584 years are enough.
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Cuts a text to so many bytes, at a character.
fn cut(text: &str, max_bytes: usize) -> &str {
    text.get(..text.floor_char_boundary(max_bytes)).unwrap_or_default()
}

/// Writes both directions between an enum and its stored numbers, so that neither can miss a variant.
macro_rules! codes {
    ($to:ident, $from:ident, $type:ty, { $($variant:path = $code:literal),+ $(,)? }) => {
        fn $to(value: $type) -> u32 {
            match value { $($variant => $code),+ }
        }

        fn $from(code: u32) -> Result<$type, String> {
            match code {
                $($code => Ok($variant),)+
                other => Err(format!("{other} stands for no {}", stringify!($type))),
            }
        }
    };
}
use codes;

codes!(guarantee_code, guarantee, Guarantee, { Guarantee::AtLeastOnce = 1, Guarantee::BestEffort = 2 });
codes!(level_code, level, Level, {
    Level::Trace = 1, Level::Debug = 2, Level::Info = 3, Level::Warn = 4, Level::Error = 5,
});

#[cfg(test)]
mod tests;

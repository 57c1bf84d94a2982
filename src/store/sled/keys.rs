//! The keys of the one tree: a byte for the table, then big-endian parts, so that scans are in order.
//!
//! | table | key | value |
//! |---|---|---|
//! | `E` | event | event |
//! | `B` | event, chunk number | what does not fit into the event's record |
//! | `W` | destination, event | empty: a fresh delivery that is not young any more (`young`) |
//! | `R` | destination, due time, event | due entry: a delivery that waits for a due time |
//! | `D` | destination, event | delivery, from its first settlement on |
//! | `X` | destination, event | empty: a dead letter |
//! | `K` | opening, destination, event | empty: a best-effort delivery with a record that waits in memory |
//! | `I` | organization, caller's event id | which event that is, and a digest of its content |
//! | `C` | kind, id, chunk number | destination or organization |
//! | `H` | destination | health |
//! | `Yd` | replay, chunk number | replay |
//! | `Yo` | organization, replay | empty: for lists |
//! | `Yr` | replay | empty: a replay that runs |
//! | `Aa` | audit entry, chunk number | entry of the audit log |
//! | `Ao` | organization, audit entry | empty: for lists |
//! | `Z` | organization | empty: it is being erased |
//! | `M` | name | schema version, clean shutdown, number of the last commit, how much is stored and waits, what was removed early, up to which event `W` is complete |
//!
//! What costs in this tree is keys written, so an event is one of them (`E`), however many destinations it goes
//! to, and an outcome another one (`D`). Only what lingers is indexed one by one.

use crate::domain::id::{
    AuditEntryId, DeliveryId, DestinationId, EventId, EventKey, OrganizationId, ReplayId,
};
use crate::domain::time::Timestamp;

pub(super) const FRESH: u8 = b'W';
pub(super) const DELIVERY: u8 = b'D';
pub(super) const DEAD: u8 = b'X';
/// What all keys of deliveries that wait in memory begin with.
pub(super) const HELD: u8 = b'K';
/// What all keys of replays begin with.
pub(super) const REPLAY: u8 = b'Y';
pub(super) const DUE: u8 = b'R';

/// The version of the layout above.
pub(super) const SCHEMA_KEY: &[u8] = b"Mschema";
/// Present while no process has the store open after an orderly close.
pub(super) const CLEAN_KEY: &[u8] = b"Mclean";
/// The number of the last commit, and how many bytes are stored since then; both big-endian.
pub(super) const COMMIT_KEY: &[u8] = b"Mcommit";
/// How many bytes are stored, big-endian; for stores whose last commit has no number.
pub(super) const SIZE_KEY: &[u8] = b"Msize";
/// The event up to which all fresh deliveries are in `W`.
pub(super) const INDEXED_KEY: &[u8] = b"Mindexed";
/// How many deliveries wait and how many dead letters there are, as of the last orderly close.
pub(super) const TALLY_KEY: &[u8] = b"Mtally";
/// What was removed before its time.
pub(super) const EARLY_KEY: &[u8] = b"Mearly";
/// All entries of the audit log, all their chunks.
pub(super) const AUDIT: &[u8] = b"Aa";
/// All events.
pub(super) const EVENTS: &[u8] = b"E";
/// All destinations, all their chunks.
pub(super) const DESTINATIONS: &[u8] = b"Cd";
/// All organizations, all their chunks.
pub(super) const ORGANIZATIONS: &[u8] = b"Co";
/// The marks of all organizations that are being erased.
pub(super) const ERASURES: &[u8] = b"Z";
/// The health of all destinations.
pub(super) const HEALTH: &[u8] = b"H";
/// All replays, all their chunks.
pub(super) const REPLAYS: &[u8] = b"Yd";
/// After all of them.
pub(super) const ALL_REPLAYS_END: &[u8] = b"Ye";
/// All replays that run.
pub(super) const RUNNING_REPLAYS: &[u8] = b"Yr";

pub(super) fn event(key: EventKey) -> Vec<u8> {
    [EVENTS, key.as_bytes()].concat()
}

pub(super) fn chunk(key: EventKey, number: u16) -> Vec<u8> {
    [b"B".as_slice(), key.as_bytes(), &number.to_be_bytes()].concat()
}

/// A key of one of the tables by destination and event: [`FRESH`], [`DELIVERY`] or [`DEAD`].
pub(super) fn by_destination(table: u8, id: DeliveryId) -> Vec<u8> {
    [&[table], id.destination_id.as_bytes().as_slice(), id.event_key.as_bytes()].concat()
}

/// What all keys of a destination in such a table begin with.
pub(super) fn of_destination(table: u8, id: DestinationId) -> Vec<u8> {
    [&[table], id.as_bytes().as_slice()].concat()
}

pub(super) fn due(id: DeliveryId, due: Timestamp) -> Vec<u8> {
    // With the sign bit turned, the order of the bytes is the order of time, also before 1970.
    let ordered = due.as_millis().cast_unsigned() ^ SIGN;
    let parts: [&[u8]; 4] =
        [&[DUE], id.destination_id.as_bytes(), &ordered.to_be_bytes(), id.event_key.as_bytes()];
    parts.concat()
}

/// A best-effort delivery that waits in the memory of whoever has the store open.
pub(super) fn held(opening: u64, id: DeliveryId) -> Vec<u8> {
    let parts: [&[u8]; 4] =
        [&[HELD], &opening.to_be_bytes(), id.destination_id.as_bytes(), id.event_key.as_bytes()];
    parts.concat()
}

/// The opening and the delivery in such a key.
pub(super) fn held_of(key: &[u8]) -> Option<(u64, DeliveryId)> {
    let (opening, rest) = key.get(1..)?.split_first_chunk()?;
    let (destination, event) = rest.split_first_chunk()?;
    let id = DeliveryId::new(
        EventKey::from_bytes(event.try_into().ok()?),
        DestinationId::from_bytes(*destination),
    );
    Some((u64::from_be_bytes(*opening), id))
}

/// The delivery in a key of a table by destination.
pub(super) fn delivery_of(key: &[u8]) -> Option<DeliveryId> {
    Some(DeliveryId::new(event_of(key)?, owner_of(key)?))
}

/// What all keys of due entries of a destination begin with.
pub(super) fn due_of_destination(id: DestinationId) -> Vec<u8> {
    of_destination(DUE, id)
}

pub(super) fn idempotency(organization_id: &OrganizationId, event_id: &EventId) -> Vec<u8> {
    // A slash is in neither id.
    [b"I", organization_id.as_str().as_bytes(), b"/", event_id.as_str().as_bytes()].concat()
}

/// What the ids of an organization's events begin with.
pub(super) fn idempotency_of(organization_id: &OrganizationId) -> Vec<u8> {
    [b"I", organization_id.as_str().as_bytes(), b"/"].concat()
}

/// The mark of an organization that is being erased.
pub(super) fn erasure(id: &OrganizationId) -> Vec<u8> {
    [ERASURES, id.as_str().as_bytes()].concat()
}

/// What the chunks of an entry of the audit log begin with.
pub(super) fn audit(id: AuditEntryId) -> Vec<u8> {
    [AUDIT, id.as_bytes()].concat()
}

/// What the keys of an organization's entries begin with.
pub(super) fn audits_of(organization_id: &OrganizationId) -> Vec<u8> {
    [b"Ao", organization_id.as_str().as_bytes(), b"/"].concat()
}

pub(super) fn audit_of(organization_id: &OrganizationId, id: AuditEntryId) -> Vec<u8> {
    [audits_of(organization_id).as_slice(), id.as_bytes()].concat()
}

/// The entry behind a prefix, in a key of an organization's list or of a first chunk.
pub(super) fn audit_id_of(prefix: &[u8], key: &[u8]) -> Option<AuditEntryId> {
    let (id, chunk) = key.strip_prefix(prefix)?.split_first_chunk()?;
    matches!(chunk, [] | [0, 0]).then(|| AuditEntryId::from_bytes(*id))
}

/// What the chunks of a destination begin with.
pub(super) fn destination(id: DestinationId) -> Vec<u8> {
    [DESTINATIONS, id.as_bytes()].concat()
}

/// What the chunks of an organization begin with.
pub(super) fn organization(id: &OrganizationId) -> Vec<u8> {
    [ORGANIZATIONS, id.as_str().as_bytes(), b"/"].concat()
}

/// One chunk of a destination or an organization.
pub(super) fn numbered(prefix: &[u8], number: u16) -> Vec<u8> {
    [prefix, &number.to_be_bytes()].concat()
}

/// What the key of a chunk begins with.
pub(super) fn without_number(key: &[u8]) -> &[u8] {
    key.split_last_chunk::<2>().map_or(key, |(prefix, _)| prefix)
}

pub(super) fn health(id: DestinationId) -> Vec<u8> {
    [HEALTH, id.as_bytes()].concat()
}

/// What the chunks of a replay begin with.
pub(super) fn replay(id: ReplayId) -> Vec<u8> {
    [REPLAYS, id.as_bytes()].concat()
}

/// What the keys of an organization's replays begin with.
pub(super) fn replays_of(organization_id: &OrganizationId) -> Vec<u8> {
    [b"Yo", organization_id.as_str().as_bytes(), b"/"].concat()
}

pub(super) fn replay_of(organization_id: &OrganizationId, id: ReplayId) -> Vec<u8> {
    [replays_of(organization_id).as_slice(), id.as_bytes()].concat()
}

pub(super) fn running_replay(id: ReplayId) -> Vec<u8> {
    [RUNNING_REPLAYS, id.as_bytes()].concat()
}

/// The replay in a key that ends with one.
pub(super) fn replay_id_of(key: &[u8]) -> Option<ReplayId> {
    key.last_chunk().copied().map(ReplayId::from_bytes)
}

/// The replay in the key of one of its chunks.
pub(super) fn replay_of_chunk(key: &[u8]) -> Option<ReplayId> {
    key.get(REPLAYS.len()..)?.first_chunk().copied().map(ReplayId::from_bytes)
}

/// The event in a key that begins with one, after its table.
pub(super) fn first_event_of(key: &[u8]) -> Option<EventKey> {
    key.get(1..)?.first_chunk().copied().map(EventKey::from_bytes)
}

/// The event in a key that ends with one.
pub(super) fn event_of(key: &[u8]) -> Option<EventKey> {
    key.last_chunk().copied().map(EventKey::from_bytes)
}

/// After all keys of a destination in a table by destination.
pub(super) fn past_destination(table: u8, id: DestinationId) -> Vec<u8> {
    // Longer than any rest of a key, and not smaller.
    [of_destination(table, id), vec![u8::MAX; 32]].concat()
}

/// The destination in a key of a table by destination.
pub(super) fn owner_of(key: &[u8]) -> Option<DestinationId> {
    key.get(1..)?.first_chunk().copied().map(DestinationId::from_bytes)
}

/// The destination in a key that ends with one.
pub(super) fn destination_of(key: &[u8]) -> Option<DestinationId> {
    key.last_chunk().copied().map(DestinationId::from_bytes)
}

/// The due time in a key of a due entry.
pub(super) fn due_of(key: &[u8]) -> Option<Timestamp> {
    let ordered = u64::from_be_bytes(*key.get(17..)?.first_chunk()?);
    Some(Timestamp::from_millis((ordered ^ SIGN).cast_signed()))
}

const SIGN: u64 = 1 << 63;

//! Identifiers. Each has a type of its own, so that one can't be passed for another.

use std::fmt;
use std::sync::Arc;

use uuid::Uuid;

use super::time::Timestamp;

/// The longest organization id, in characters.
pub const ORGANIZATION_ID_MAX_CHARS: usize = 128;
/// The longest event id, in characters.
pub const EVENT_ID_MAX_CHARS: usize = 128;

/// The caller's name for an organization: 1 to 128 characters of `[A-Za-z0-9_.:-]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OrganizationId(Arc<str>);

impl OrganizationId {
    /// Checks length and characters.
    ///
    /// # Errors
    /// A sentence with the rule that is violated.
    pub fn parse(text: &str) -> Result<Self, String> {
        check_name(text, ORGANIZATION_ID_MAX_CHARS, "_.:-")?;
        Ok(Self(text.into()))
    }

    /// The id as the caller wrote it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for OrganizationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The id of an event, unique within its organization; the caller's idempotency key.
///
/// It has no dot, because the signed text of Standard Webhooks is `id.timestamp.body`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId(Arc<str>);

impl EventId {
    /// Checks length (1 to 128 characters) and characters (`[A-Za-z0-9_:-]`).
    ///
    /// # Errors
    /// A sentence with the rule that is violated.
    pub fn parse(text: &str) -> Result<Self, String> {
        check_name(text, EVENT_ID_MAX_CHARS, "_:-")?;
        Ok(Self(text.into()))
    }

    /// The id of an event whose caller gave none: its key as a UUID.
    #[must_use]
    pub fn from_key(key: EventKey) -> Self {
        Self(key.0.hyphenated().to_string().into())
    }

    /// The key that this id stands for, where the id is one that [`EventId::from_key`] makes.
    #[must_use]
    pub fn as_key(&self) -> Option<EventKey> {
        let parsed = Uuid::try_parse(&self.0).ok()?;
        (Self::from_key(EventKey(parsed)) == *self).then_some(EventKey(parsed))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The store's key of an event: a UUIDv7, given when the event is committed.
///
/// Keys of one process grow in commit order, so that a lane may remember "everything up to key K".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventKey(Uuid);

impl EventKey {
    /// The smallest and the largest key there can be, as bounds of ranges.
    pub const MIN: EventKey = EventKey(Uuid::nil());
    /// See [`EventKey::MIN`].
    pub const MAX: EventKey = EventKey(Uuid::max());

    /// A key out of its 16 bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// The 16 bytes; their order is the order of time.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// The smallest key of all that are made at or after `moment`.
    #[must_use]
    pub fn lower_bound(moment: Timestamp) -> Self {
        let mut bytes = [0_u8; 16];
        let millis = u64::try_from(moment.as_millis()).unwrap_or(0).to_be_bytes();
        let (head, _) = bytes.split_at_mut(6);
        head.copy_from_slice(millis.split_at(2).1);
        Self::from_bytes(bytes)
    }

    /// When the key was made, with millisecond precision.
    #[must_use]
    pub fn made_at(self) -> Timestamp {
        let value = self.0.as_u128() >> 80;
        Timestamp::from_millis(i64::try_from(value).unwrap_or(i64::MAX))
    }

    /// The next key after this one that is not before `now`, so that keys never go back.
    ///
    /// `draw` is random: it makes keys of different processes differ. Within a millisecond keys grow by a
    /// random step (RFC 9562, 6.2, method 2).
    #[must_use]
    pub fn next(self, now: Timestamp, draw: u64) -> Self {
        // The highest bit stays free, so that there is room to grow.
        let random = u128::from(draw) & (COUNTER_MASK >> 1);
        let fresh = Self::lower_bound(now).0.as_u128() | UUID_V7_MARKS | random;
        let is_later = Self::lower_bound(now).made_at() > self.made_at();
        Self(Uuid::from_u128(if is_later { fresh } else { grown(self.0.as_u128(), draw) }))
    }
}

/// Version 7 and variant 10 of RFC 9562, at their places in the 128 bits.
const UUID_V7_MARKS: u128 = 0x7000_8000_0000_0000_0000;
/// The 62 bits after the variant grow within a millisecond.
const COUNTER_MASK: u128 = (1 << 62) - 1;

fn grown(key: u128, draw: u64) -> u128 {
    let counter = (key & COUNTER_MASK) + 1 + u128::from(draw as u32);
    if counter > COUNTER_MASK {
        // Half a billion keys in one millisecond: borrow the next millisecond.
        return (((key >> 80) + 1) << 80) | UUID_V7_MARKS;
    }
    (key & !COUNTER_MASK) | counter
}

impl fmt::Display for EventKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.simple())
    }
}

impl fmt::Debug for EventKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EventKey({self})")
    }
}

/// The id of a destination: `dest_` and 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DestinationId(Uuid);

impl DestinationId {
    const PREFIX: &'static str = "dest_";

    /// An id out of its 16 bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// The 16 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// Makes a new, time-ordered id out of the moment and random bytes.
    #[must_use]
    pub fn make(now: Timestamp, random: [u8; 10]) -> Self {
        Self(time_ordered(now, random))
    }

    /// Reads `dest_` and 32 lower-case hexadecimal digits.
    ///
    /// # Errors
    /// A sentence that shows the form.
    pub fn parse(text: &str) -> Result<Self, String> {
        parse_hex_id(text, Self::PREFIX).map(Self).ok_or_else(|| {
            format!("`{text}` is no destination id; it looks like dest_ and 32 hexadecimal digits")
        })
    }
}

impl fmt::Display for DestinationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", Self::PREFIX, self.0.simple())
    }
}

impl fmt::Debug for DestinationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The id of a delivery: `dlv_`, the event's key and the destination's id, in hexadecimal.
///
/// It is made of the two and never stored apart, so it stays the same over retries, resends and
/// replays, and both parts can be read in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeliveryId {
    /// Which destination gets the event.
    pub destination_id: DestinationId,
    /// Which event is delivered.
    pub event_key: EventKey,
}

impl DeliveryId {
    const PREFIX: &'static str = "dlv_";

    /// The delivery of that event to that destination.
    #[must_use]
    pub const fn new(event_key: EventKey, destination_id: DestinationId) -> Self {
        Self { destination_id, event_key }
    }

    /// Reads `dlv_` and 64 lower-case hexadecimal digits.
    ///
    /// # Errors
    /// A sentence that shows the form.
    pub fn parse(text: &str) -> Result<Self, String> {
        let digits = text.strip_prefix(Self::PREFIX).filter(|digits| digits.is_ascii());
        let halves = digits.and_then(|digits| digits.split_at_checked(32));
        let parsed = halves.and_then(|(event, destination)| {
            let event = EventKey(parse_hex_id(event, "")?);
            Some(Self::new(event, DestinationId(parse_hex_id(destination, "")?)))
        });
        parsed.ok_or_else(|| {
            format!("`{text}` is no delivery id; it looks like dlv_ and 64 hexadecimal digits")
        })
    }
}

impl fmt::Display for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{}", Self::PREFIX, self.event_key, self.destination_id.0.simple())
    }
}

/// The id of a replay: `rpl_` and 26 characters of Crockford's base 32, in order of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplayId(Uuid);

impl ReplayId {
    const PREFIX: &'static str = "rpl_";

    /// An id out of its 16 bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// The 16 bytes; their order is the order of time.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// Makes a new, time-ordered id out of the moment and random bytes.
    #[must_use]
    pub fn make(now: Timestamp, random: [u8; 10]) -> Self {
        Self(time_ordered(now, random))
    }

    /// Reads `rpl_` and 26 lower-case characters.
    ///
    /// # Errors
    /// A sentence that shows the form.
    pub fn parse(text: &str) -> Result<Self, String> {
        parse_base32_id(text, Self::PREFIX)
            .map(Self)
            .ok_or_else(|| format!("`{text}` is no replay id; it looks like rpl_ and 26 letters and digits"))
    }
}

impl fmt::Display for ReplayId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_base32_id(f, Self::PREFIX, self.0)
    }
}

/// The id of an entry of the audit log: `aud_` and 26 characters of Crockford's base 32, in order of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AuditEntryId(Uuid);

impl AuditEntryId {
    const PREFIX: &'static str = "aud_";

    /// An id out of its 16 bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// The 16 bytes; their order is the order of time.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// Makes a new, time-ordered id out of the moment and random bytes.
    #[must_use]
    pub fn make(now: Timestamp, random: [u8; 10]) -> Self {
        Self(time_ordered(now, random))
    }

    /// The smallest id of all that are made at or after `moment`.
    #[must_use]
    pub fn lower_bound(moment: Timestamp) -> Self {
        Self::from_bytes(*EventKey::lower_bound(moment).as_bytes())
    }
}

impl fmt::Display for AuditEntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_base32_id(f, Self::PREFIX, self.0)
    }
}

/// The id of a request that carried several deliveries: `bat_` and 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchId(Uuid);

impl BatchId {
    /// An id out of its 16 bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// The 16 bytes; their order is the order of time.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// Makes a new, time-ordered id out of the moment and random bytes.
    #[must_use]
    pub fn make(now: Timestamp, random: [u8; 10]) -> Self {
        Self(time_ordered(now, random))
    }
}

impl fmt::Display for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bat_{}", self.0.simple())
    }
}

/// A UUID of version 7 (RFC 9562, section 5.7).
fn time_ordered(now: Timestamp, random: [u8; 10]) -> Uuid {
    let millis = u64::try_from(now.as_millis()).unwrap_or(0);
    uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
}

/// Crockford's alphabet.
const BASE32: &str = "0123456789abcdefghjkmnpqrstvwxyz";
/// How many of its digits 128 bits take.
const BASE32_DIGITS: u32 = 26;

fn write_base32_id(f: &mut fmt::Formatter<'_>, prefix: &str, id: Uuid) -> fmt::Result {
    f.write_str(prefix)?;
    for place in (0..BASE32_DIGITS).rev() {
        let digit = (id.as_u128() >> (5 * place)) & 31;
        let digit = usize::try_from(digit).ok().and_then(|digit| BASE32.chars().nth(digit));
        write!(f, "{}", digit.unwrap_or('0'))?;
    }
    Ok(())
}

fn parse_base32_id(text: &str, prefix: &str) -> Option<Uuid> {
    let digits = text.strip_prefix(prefix)?;
    let mut value = 0_u128;
    for digit in digits.chars() {
        let digit = BASE32.find(digit)?;
        value = value.checked_mul(32)?.checked_add(u128::try_from(digit).ok()?)?;
    }
    (digits.len() == usize::try_from(BASE32_DIGITS).ok()?).then_some(Uuid::from_u128(value))
}

fn parse_hex_id(text: &str, prefix: &str) -> Option<Uuid> {
    let digits = text.strip_prefix(prefix)?;
    let plain = digits.len() == 32 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    plain.then(|| Uuid::try_parse(digits).ok()).flatten()
}

/// One rule for all names that callers choose: length, ASCII letters, digits and a few marks.
pub(crate) fn check_name(text: &str, max_chars: usize, marks: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("is empty; give 1 or more characters".into());
    }
    if text.chars().count() > max_chars {
        return Err(format!("has {} characters; at most {max_chars} are allowed", text.chars().count()));
    }
    match text.chars().find(|c| !c.is_ascii_alphanumeric() && !marks.contains(*c)) {
        Some(stranger) => {
            Err(format!("contains {stranger:?}; use ASCII letters, digits and any of `{marks}` only"))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_back_as_they_are_written() {
        let destination = DestinationId::make(Timestamp::from_millis(1_700_000_000_000), [7; 10]);
        let delivery =
            DeliveryId::new(EventKey::MIN.next(Timestamp::from_millis(1_700_000_000_001), 7), destination);
        assert_eq!(DestinationId::parse(&destination.to_string()), Ok(destination));
        assert_eq!(DeliveryId::parse(&delivery.to_string()), Ok(delivery));
        for bytes in [[0; 16], [7; 16], [u8::MAX; 16]] {
            let replay = ReplayId::from_bytes(bytes);
            assert_eq!(ReplayId::parse(&replay.to_string()), Ok(replay));
            assert_eq!(replay.to_string().len(), 30);
        }
        let id = EventId::from_key(delivery.event_key);
        assert_eq!(id.as_key(), Some(delivery.event_key));
    }

    #[test]
    fn foreign_ids_are_refused_with_the_form_that_is_right() {
        for wrong in ["", "dest_", "dest_xyz", "dlv_00", "dest_0000000000000000000000000000000G"] {
            assert!(DestinationId::parse(wrong).unwrap_err().contains("dest_"), "{wrong}");
        }
        assert!(DeliveryId::parse("dlv_äöü").unwrap_err().contains("dlv_"));
        for wrong in ["", "rpl_", "rpl_8zzzzzzzzzzzzzzzzzzzzzzzzz", "rpl_0000000000000000000000000u", "rpl_0"]
        {
            assert!(ReplayId::parse(wrong).unwrap_err().contains("rpl_"), "{wrong}");
        }
        assert!(EventId::parse("a.b").unwrap_err().contains("'.'"));
        assert!(OrganizationId::parse(&"x".repeat(129)).unwrap_err().contains("at most 128"));
    }

    #[test]
    fn keys_grow_even_when_the_clock_stands_still_or_goes_back() {
        let mut last = EventKey::MIN;
        for millis in [1_700_000_000_000, 1_700_000_000_000, 1_600_000_000_000, 1_700_000_000_001] {
            let next = last.next(Timestamp::from_millis(millis), u64::MAX);
            assert!(next > last);
            last = next;
        }
        assert_eq!(last.made_at(), Timestamp::from_millis(1_700_000_000_001));
        assert_eq!(Uuid::from_bytes(*last.as_bytes()).get_version_num(), 7);
    }

    #[test]
    fn a_lower_bound_is_not_after_any_key_of_its_millisecond() {
        let moment = Timestamp::from_millis(1_700_000_000_123);
        assert!(EventKey::lower_bound(moment) < EventKey::MIN.next(moment, 0));
        assert!(
            EventKey::MIN.next(moment, u64::MAX)
                < EventKey::lower_bound(moment + std::time::Duration::from_millis(1))
        );
    }
}

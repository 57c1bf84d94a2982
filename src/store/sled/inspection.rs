//! Looking through a store that nobody has open: every record is read, and what belongs together is compared.
//!
//! The server passes over single damaged records and goes on; this finds all of them. It also finds what no
//! checksum can: an order that names a delivery which does not wait, a delivery that waits and is in no order, a count
//! that is not the number of what is counted.

use std::fs;
use std::path::Path;

use sled::{Db, IVec};

use super::group::Tally;
use super::keys::{self, DEAD, DELIVERY, DUE, FRESH, HELD};
use super::{SledStore, mark, open, replay, size, unavailable, young};
use crate::domain::delivery::{Delivery, DeliveryState};
use crate::domain::event::Event;
use crate::domain::id::{DeliveryId, EventKey};
use crate::domain::settings::Guarantee;
use crate::store::StoreError;
use crate::store::record::{
    Place, decode_audit, decode_delivery, decode_due, decode_event, decode_head, decode_health,
    decode_idempotency, decode_organization, decode_replay, seals_of_destination,
};

/// sled's cache meanwhile.
const CACHE_BYTES: u64 = 64 << 20;
/// How many problems are told in words.
const EXAMPLES: usize = 20;
/// Where sled puts values that are too large for it, and leaves them for ever.
const LEAKED: &str = "blobs";

/// What a store has, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inspection {
    /// Events.
    pub events: u64,
    /// Deliveries with a record.
    pub deliveries: u64,
    /// Deliveries that wait.
    pub waiting: u64,
    /// Dead letters.
    pub dead_letters: u64,
    /// Bytes of what `retention.max_size` bounds.
    pub bytes: u64,
    /// Whether the store was closed in an orderly way.
    pub was_closed: bool,
    /// How many things are wrong.
    pub problems: u64,
    /// The first of them, in words.
    pub examples: Vec<String>,
}

impl Inspection {
    fn note(&mut self, problem: String) {
        self.problems += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push(problem);
        }
    }

    /// A damaged record is a problem, a store that can't be read is an error.
    fn sort<T>(&mut self, read: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
        match read {
            Ok(value) => Ok(Some(value)),
            Err(StoreError::Corrupt(problem)) => {
                self.note(problem);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

impl SledStore {
    /// Looks through the store in this folder. It blocks for as long as reading everything takes, about a second
    /// for 100,000 events. What sled recovers after a crash is recovered by this, too; nothing else is changed.
    ///
    /// # Errors
    /// [`StoreError::CannotOpen`]: there is no store, it is in use, or sled can't read its files.
    pub fn inspect(folder: &Path) -> Result<Inspection, StoreError> {
        open::existing(folder, CACHE_BYTES, |db| {
            let mut walk = Walk::new(db, folder)?;
            walk.rows()?;
            walk.counts()?;
            Ok(walk.found)
        })
    }
}

struct Walk<'a> {
    db: &'a Db,
    found: Inspection,
    /// Up to which event each fresh delivery has a key of its own.
    indexed: EventKey,
    tally: Tally,
}

impl<'a> Walk<'a> {
    fn new(db: &'a Db, folder: &Path) -> Result<Self, StoreError> {
        let mark = db.get(keys::INDEXED_KEY).map_err(|error| unavailable(&error))?;
        let indexed = mark.and_then(|stored| keys::event_of(&stored)).unwrap_or(EventKey::MIN);
        let mut walk = Self { db, found: Inspection::default(), indexed, tally: Tally::default() };
        let leaked = fs::read_dir(folder.join(LEAKED)).map_or(0, Iterator::count);
        if leaked > 0 {
            walk.found.note(format!("{LEAKED}: sled has left {leaked} files that it never removes"));
        }
        Ok(walk)
    }

    fn has(&self, key: &[u8]) -> Result<bool, StoreError> {
        self.db.contains_key(key).map_err(|error| unavailable(&error))
    }

    fn get(&self, key: &[u8]) -> Result<Option<IVec>, StoreError> {
        self.db.get(key).map_err(|error| unavailable(&error))
    }

    /// What has chunks is looked at once, at its first one.
    fn whole(&self, prefix: &[u8]) -> Result<Vec<IVec>, StoreError> {
        let rows = self.db.scan_prefix(prefix).values();
        rows.map(|row| row.map_err(|error| unavailable(&error))).collect()
    }

    fn rows(&mut self) -> Result<(), StoreError> {
        for row in self.db.iter() {
            let (key, stored) = row.map_err(|error| unavailable(&error))?;
            self.tally.add(&key, 1);
            let looked = self.row(&key, &stored);
            self.found.sort(looked)?;
        }
        Ok(())
    }

    fn row(&mut self, key: &[u8], stored: &[u8]) -> Result<(), StoreError> {
        match key.first() {
            Some(b'E') => self.event(key, stored),
            Some(b'B') => self.chunk(key),
            Some(&DELIVERY) => self.delivery(key, stored),
            Some(&(FRESH | DUE | DEAD | HELD)) => self.listed(key, stored),
            Some(b'I') => self.event_id(key, stored),
            Some(b'C' | b'H' | b'Y' | b'A') => self.other(key, stored),
            Some(b'Z' | b'M') => Ok(()),
            _ => Err(Place::new("store", key).corrupt("no record has such a key")),
        }
    }

    fn event(&mut self, key: &[u8], stored: &[u8]) -> Result<(), StoreError> {
        self.found.events += 1;
        let event_key = event_in("event", key)?;
        let event = decode_event(event_key, stored, |number| self.get(&keys::chunk(event_key, number)))?;
        for id in young::begun_by(&event) {
            // A later one is fresh by having no record.
            let is_known = event_key > self.indexed
                || self.has(&keys::by_destination(DELIVERY, id))?
                || self.has(&keys::by_destination(FRESH, id))?;
            if !is_known {
                self.found.note(format!("delivery {id}: it has no record and does not wait"));
            }
        }
        self.known_by_its_id(&event)
    }

    fn known_by_its_id(&self, event: &Event) -> Result<(), StoreError> {
        if event.id.as_key() == Some(event.key) {
            return Ok(());
        }
        let key = keys::idempotency(&event.organization_id, &event.id);
        let place = Place::new("idempotency", &key);
        let stored = self
            .get(&key)?
            .ok_or_else(|| place.corrupt("an event has this id, and no note of it is there"))?;
        if decode_idempotency(&key, &stored)?.event_key != event.key {
            return Err(place.corrupt("another event has this id, too"));
        }
        Ok(())
    }

    fn chunk(&self, key: &[u8]) -> Result<(), StoreError> {
        let place = Place::new("chunk", key);
        let event = keys::first_event_of(key).ok_or_else(|| place.corrupt("its key is too short"))?;
        if self.has(&keys::event(event))? { Ok(()) } else { Err(place.corrupt("its event is not there")) }
    }

    fn delivery(&mut self, key: &[u8], stored: &[u8]) -> Result<(), StoreError> {
        self.found.deliveries += 1;
        let place = Place::new("delivery", key);
        let id = delivery_in("delivery", key)?;
        let delivery = decode_delivery(id, key, stored)?;
        if !self.has(&keys::event(id.event_key))? {
            return Err(place.corrupt("its event is not there"));
        }
        let order = match &delivery.state {
            // Others wait in memory.
            DeliveryState::Waiting { due } if delivery.guarantee == Guarantee::AtLeastOnce => {
                keys::due(id, *due)
            }
            DeliveryState::DeadLettered { .. } => keys::by_destination(DEAD, id),
            _ => return Ok(()),
        };
        if self.has(&order)? { Ok(()) } else { Err(place.corrupt("it waits, and no order has it")) }
    }

    /// A key of an order names a delivery that is as the order says.
    fn listed(&self, key: &[u8], stored: &[u8]) -> Result<(), StoreError> {
        let place = Place::new("order", key);
        let id = delivery_in("order", key)?;
        let id = keys::held_of(key).filter(|_| key.first() == Some(&HELD)).map_or(id, |(_, id)| id);
        let delivery = self.recorded(id)?;
        let is_so = match (key.first(), delivery.map(|delivery| delivery.state)) {
            (Some(&FRESH), None) => return self.fresh(id, place),
            (Some(&DUE), Some(DeliveryState::Waiting { due })) => {
                decode_due(id, due, key, stored)?;
                keys::due_of(key) == Some(due)
            }
            (Some(&HELD), Some(DeliveryState::Waiting { .. })) => true,
            (Some(&DEAD), Some(DeliveryState::DeadLettered { .. })) => true,
            _ => false,
        };
        if is_so { Ok(()) } else { Err(place.corrupt("its delivery is in another state, or not there")) }
    }

    fn fresh(&self, id: DeliveryId, place: Place<'_>) -> Result<(), StoreError> {
        match self.get(&keys::event(id.event_key))? {
            Some(stored) => decode_head(id.event_key, &stored).map(drop),
            None => Err(place.corrupt("its event is not there")),
        }
    }

    /// What is wrong with the record itself is told where the record is looked at.
    fn recorded(&self, id: DeliveryId) -> Result<Option<Delivery>, StoreError> {
        let key = keys::by_destination(DELIVERY, id);
        self.get(&key)?.map(|stored| decode_delivery(id, &key, &stored)).transpose()
    }

    fn event_id(&self, key: &[u8], stored: &[u8]) -> Result<(), StoreError> {
        let note = decode_idempotency(key, stored)?;
        if self.has(&keys::event(note.event_key))? {
            return Ok(());
        }
        Err(Place::new("idempotency", key).corrupt("its event is not there"))
    }

    fn other(&self, key: &[u8], stored: &[u8]) -> Result<(), StoreError> {
        let prefix = keys::without_number(key);
        let is_first = key.ends_with(&[0, 0]);
        let has_chunks = [keys::DESTINATIONS, keys::ORGANIZATIONS, keys::REPLAYS, keys::AUDIT];
        let table = has_chunks.into_iter().find(|table| key.starts_with(table));
        match table {
            Some(_) if !is_first => self.has_first(prefix, key),
            Some(table) if table == keys::DESTINATIONS => {
                seals_of_destination(open::destination_of(prefix)?, &self.whole(prefix)?).map(drop)
            }
            Some(table) if table == keys::ORGANIZATIONS => {
                decode_organization(prefix, &self.whole(prefix)?).map(drop)
            }
            Some(table) if table == keys::AUDIT => {
                let id = keys::audit_id_of(keys::AUDIT, key);
                let id = id.ok_or_else(|| Place::new("audit", key).corrupt("its key is too short"))?;
                decode_audit(id, &self.whole(prefix)?).map(drop)
            }
            Some(_) => self.replay(key),
            None if key.starts_with(keys::HEALTH) => match keys::destination_of(key) {
                Some(id) => decode_health(id, stored).map(drop),
                None => Err(Place::new("health", key).corrupt("its key is too short")),
            },
            None => self.listed_otherwise(key),
        }
    }

    fn has_first(&self, prefix: &[u8], key: &[u8]) -> Result<(), StoreError> {
        if self.has(&keys::numbered(prefix, 0))? {
            return Ok(());
        }
        Err(Place::new("chunk", key).corrupt("its first chunk is not there"))
    }

    fn replay(&self, key: &[u8]) -> Result<(), StoreError> {
        let Some(id) = keys::replay_of_chunk(key) else {
            return Err(Place::new("replay", key).corrupt("its key is too short"));
        };
        decode_replay(id, &replay::chunks(id, |key| self.get(key))?).map(drop)
    }

    /// Lists of replays and of entries of the audit log name what is there.
    fn listed_otherwise(&self, key: &[u8]) -> Result<(), StoreError> {
        let id: Option<[u8; 16]> = key.last_chunk().copied();
        let table = if key.starts_with(b"A") { keys::AUDIT } else { keys::REPLAYS };
        let first = id.map(|id| keys::numbered(&[table, &id].concat(), 0));
        match first {
            Some(first) if self.has(&first)? => Ok(()),
            _ => Err(Place::new("list", key).corrupt("what it names is not there")),
        }
    }

    /// What the store notes of itself is what is there.
    fn counts(&mut self) -> Result<(), StoreError> {
        let (_, young) = young::find(self.db, usize::MAX)?;
        self.tally.waiting += i64::try_from(young.len()).unwrap_or(i64::MAX);
        self.found.waiting = u64::try_from(self.tally.waiting).unwrap_or_default();
        self.found.dead_letters = u64::try_from(self.tally.dead_letters).unwrap_or_default();
        self.found.bytes = size::measure(self.db)?;
        self.found.was_closed = self.has(keys::CLEAN_KEY)?;
        let noted = mark::stored_bytes(self.db).map_err(|error| unavailable(&error))?;
        if let Some(noted) = noted.filter(|noted| *noted != self.found.bytes) {
            let bytes = self.found.bytes;
            self.found.note(format!("counts: the store notes {noted} bytes, and there are {bytes}"));
        }
        let tally = self.get(keys::TALLY_KEY)?.filter(|_| self.found.was_closed);
        if let Some(tally) =
            tally.and_then(|noted| Tally::decode(&noted)).filter(|noted| *noted != self.tally)
        {
            self.found.note(format!("counts: the store notes {tally:?}, and there are {:?}", self.tally));
        }
        Ok(())
    }
}

fn event_in(table: &'static str, key: &[u8]) -> Result<EventKey, StoreError> {
    keys::event_of(key).ok_or_else(|| Place::new(table, key).corrupt("its key is too short"))
}

fn delivery_in(table: &'static str, key: &[u8]) -> Result<DeliveryId, StoreError> {
    keys::delivery_of(key).ok_or_else(|| Place::new(table, key).corrupt("its key is too short"))
}

//! Accepting events: duplicates, keys, and what is written for them.

use std::sync::Arc;

use super::group::{Effect, Group};
use super::keys;
use super::writer::Writer;
use crate::domain::event::{Acceptance, Event, NewEvent};
use crate::domain::id::{DeliveryId, EventKey};
use crate::domain::settings::Guarantee;
use crate::domain::time::Timestamp;
use crate::store::StoreError;
use crate::store::record::{
    EventHead, Idempotency, content_digest, decode_event, decode_idempotency, encode_event,
    encode_idempotency,
};

/// An event, and the digest of its content if its caller gave it an id.
pub(super) struct Submission {
    event: NewEvent,
    digest: Option<[u8; 16]>,
}

impl From<NewEvent> for Submission {
    fn from(event: NewEvent) -> Self {
        let digest = event.event_id.is_some().then(|| content_digest(&event));
        Self { event, digest }
    }
}

impl Writer {
    pub(super) fn accept(
        &mut self,
        group: &mut Group,
        submissions: Vec<Submission>,
    ) -> Result<Vec<Acceptance>, StoreError> {
        self.watermark.check()?;
        let is_erasing = |event: &NewEvent| self.erasing.contains(&event.organization_id);
        if !self.erasing.is_empty() && submissions.iter().any(|one| is_erasing(&one.event)) {
            return Err(StoreError::Erasing);
        }
        let now = self.clock.now();
        let mut answers = Vec::with_capacity(submissions.len());
        let mut new = Vec::new();
        for Submission { event, digest } in submissions {
            if let Some(known) = known(group, &event, digest)? {
                answers.push(known);
                continue;
            }
            let event = self.take_in(group, event, digest, now);
            new.push(Arc::clone(&event));
            answers.push(Acceptance::Accepted(event));
        }
        if !new.is_empty() {
            group.effect(Effect::Accepted(new));
        }
        Ok(answers)
    }

    /// Accepts events that tell of a change of the same call, and answers whether there were any to accept.
    pub(super) fn tell(
        &mut self,
        group: &mut Group,
        told: impl IntoIterator<Item = NewEvent>,
    ) -> Result<bool, StoreError> {
        let now = self.clock.now();
        let mut new = Vec::new();
        for event in told {
            if self.erasing.contains(&event.organization_id) {
                continue;
            }
            let Submission { event, digest } = event.into();
            match known(group, &event, digest) {
                Ok(None) => new.push(self.take_in(group, event, digest, now)),
                Ok(Some(_)) => {}
                // What is told of goes on.
                Err(StoreError::Corrupt(problem)) => tracing::error!(problem, "an event was not told"),
                Err(error) => return Err(error),
            }
        }
        let any = !new.is_empty();
        if any {
            group.effect(Effect::Accepted(new));
        }
        Ok(any)
    }

    fn take_in(
        &mut self,
        group: &mut Group,
        event: NewEvent,
        digest: Option<[u8; 16]>,
        now: Timestamp,
    ) -> Arc<Event> {
        let event = Arc::new(self.name(event, now));
        write(group, &event, digest);
        self.heads.insert(EventHead::from(event.as_ref()));
        event
    }

    fn name(&mut self, event: NewEvent, now: Timestamp) -> Event {
        let key = self.last_key.next(now, fastrand::u64(..));
        self.last_key = key;
        event.into_event(key)
    }
}

fn write(group: &mut Group, event: &Event, digest: Option<[u8; 16]>) {
    let stored = encode_event(event);
    group.put(keys::event(event.key), stored.record);
    for (number, chunk) in (0_u16..).zip(stored.chunks) {
        group.put(keys::chunk(event.key, number), chunk);
    }
    for route in event.routes.iter().filter(|route| route.guarantee == Guarantee::AtLeastOnce) {
        let id = DeliveryId::new(event.key, route.destination_id);
        group.put(keys::by_destination(keys::FRESH, id), Vec::new());
    }
    if let Some(digest) = digest {
        let note = encode_idempotency(&Idempotency { event_key: event.key, digest });
        group.put(keys::idempotency(&event.organization_id, &event.id), note);
    }
}

/// The answer for an event whose id came before, in the store or in the group.
fn known(
    group: &Group,
    event: &NewEvent,
    digest: Option<[u8; 16]>,
) -> Result<Option<Acceptance>, StoreError> {
    let Some(id) = &event.event_id else { return Ok(None) };
    let note_key = keys::idempotency(&event.organization_id, id);
    if let Some(stored) = group.get(&note_key)? {
        let note = decode_idempotency(&note_key, &stored)?;
        if Some(note.digest) != digest {
            // The id is free again once its event is gone.
            let held = group.contains(&keys::event(note.event_key))?;
            return Ok(held.then_some(Acceptance::Conflict));
        }
        return Ok(load(group, note.event_key)?.map(|first| Acceptance::Duplicate(Arc::new(first))));
    }
    let Some(key) = id.as_key() else { return Ok(None) };
    let first = load(group, key)?;
    let first = first.filter(|first| first.organization_id == event.organization_id && first.id == *id);
    Ok(first.map(|first| compare(first, event)))
}

/// Compares with an event whose id was made from its key, for which no digest is kept.
fn compare(first: Event, again: &NewEvent) -> Acceptance {
    let same = first.event_type == again.event_type
        && first.level == again.level
        && first.data == again.data
        && first.occurred_at == again.occurred_at.unwrap_or(first.accepted_at);
    if same { Acceptance::Duplicate(Arc::new(first)) } else { Acceptance::Conflict }
}

pub(super) fn load(group: &Group, key: EventKey) -> Result<Option<Event>, StoreError> {
    let Some(stored) = group.get(&keys::event(key))? else { return Ok(None) };
    decode_event(key, &stored, |number| group.get(&keys::chunk(key, number))).map(Some)
}

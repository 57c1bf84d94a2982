//! An event on its way in, and what became of it.

use std::time::SystemTime;

use bytes::Bytes;
use prost::Message;
use serde::Serialize;
use uuid::Uuid;

use crate::proto::v1::{self, Level};

/// What became of an accepted event.
pub use crate::proto::v1::EmitResult as Accepted;

/// An immutable fact: something that happened.
///
/// It has an id from the beginning, so that it can be sent again safely. The server checks everything, and
/// answers with all that is wrong.
#[derive(Debug, Clone, PartialEq)]
pub struct Event(v1::Event);

impl Event {
    /// An event of this type (1 to 128 characters of `[A-Za-z0-9_.-]`) with a new id, no data, and the time
    /// of its acceptance as its time.
    #[must_use]
    pub fn new(event_type: impl Into<String>) -> Self {
        let (event_id, event_type) = (Uuid::now_v7().to_string(), event_type.into());
        Self(v1::Event { event_id: Some(event_id), r#type: event_type, ..v1::Event::default() })
    }

    /// With an id of the caller's: 1 to 128 characters of `[A-Za-z0-9_:-]`, one for one fact. A program that
    /// may crash before it remembers what it has emitted derives the id from the fact.
    #[must_use]
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.0.event_id = Some(id.into());
        self
    }

    /// When it happened; without it, the time of acceptance.
    #[must_use]
    pub fn occurred_at(mut self, time: SystemTime) -> Self {
        self.0.occurred_at = Some(time.into());
        self
    }

    /// How severe it is; without it, [`Level::Info`].
    #[must_use]
    pub fn level(mut self, level: Level) -> Self {
        self.0.level = level.into();
        self
    }

    /// The data as the text of a JSON object, delivered byte for byte. At most 256 KiB by default.
    #[must_use]
    pub fn json(mut self, text: impl Into<Bytes>) -> Self {
        self.0.data = Some(v1::event::Data::JsonData(text.into()));
        self
    }

    /// The data as anything that serialises to a JSON object.
    ///
    /// # Errors
    /// The value can't be written as JSON.
    pub fn data(self, value: &impl Serialize) -> Result<Self, serde_json::Error> {
        Ok(self.json(serde_json::to_vec(value)?))
    }

    /// The event's id.
    #[must_use]
    pub fn event_id(&self) -> &str {
        self.0.event_id()
    }

    /// The size of its message in bytes.
    pub(crate) fn size(&self) -> usize {
        self.0.encoded_len()
    }

    /// The message of the API.
    #[must_use]
    pub fn into_message(self) -> v1::Event {
        self.0
    }
}

/// Any message is an event; one without an id gets one.
impl From<v1::Event> for Event {
    fn from(mut message: v1::Event) -> Self {
        message.event_id.get_or_insert_with(|| Uuid::now_v7().to_string());
        Self(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_has_an_id_of_its_own_before_it_is_sent() {
        let (one, other) = (Event::new("kpi.alert"), Event::new("kpi.alert"));
        assert!(!one.event_id().is_empty());
        assert_ne!(one.event_id(), other.event_id());
        assert_eq!(one.id("evt-1").event_id(), "evt-1");
        assert!(!Event::from(v1::Event::default()).event_id().is_empty());
    }

    #[test]
    fn data_is_kept_byte_for_byte_or_written_from_a_value() {
        let data = |event: Event| match event.into_message().data {
            Some(v1::event::Data::JsonData(data)) => data,
            other => panic!("{other:?}"),
        };
        let text = r#"{ "digits": 12345678901234567890 }"#;
        assert_eq!(data(Event::new("t").json(text)), text);
        let value = std::collections::BTreeMap::from([("a", 1)]);
        assert_eq!(data(Event::new("t").data(&value).unwrap()), r#"{"a":1}"#);
    }
}

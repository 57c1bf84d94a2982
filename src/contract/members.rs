//! The members of a JSON object, taken apart without touching a byte of them.
//!
//! `serde_json::Map` would reformat numbers and refuse keys that are valid JSON but no valid text.

use std::collections::HashMap;
use std::fmt;

use serde::Deserializer;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;

use super::RenderProblem;

/// The members of the data object as they were written, in the order in which their keys first came.
pub(super) struct Members<'a> {
    /// The key with its quotes and the value, until they are used.
    texts: Vec<Option<(&'a str, &'a str)>>,
    /// Where each key is, by its meaning: `"status"` and `"st\u0061tus"` are the same key.
    places: HashMap<String, usize>,
}

impl<'a> Members<'a> {
    /// Takes an object apart.
    ///
    /// # Errors
    /// The bytes are no JSON object.
    pub(super) fn read(data: &'a [u8]) -> Result<Self, RenderProblem> {
        let mut parser = serde_json::Deserializer::from_slice(data);
        parser
            .deserialize_map(MembersVisitor)
            .map_err(|error| RenderProblem(format!("the stored data is no JSON object: {error}")))
    }

    fn add(&mut self, key: &'a str, value: &'a str) {
        // A key with half a surrogate pair has no meaning as text; it only equals itself.
        let meaning = serde_json::from_str(key).unwrap_or_else(|_| key.to_owned());
        let next = self.texts.len();
        let place = *self.places.entry(meaning).or_insert(next);
        match self.texts.get_mut(place) {
            Some(earlier) => *earlier = Some((key, value)),
            None => self.texts.push(Some((key, value))),
        }
    }

    /// The value of a key, as it was written; after that, the key is gone.
    pub(super) fn take(&mut self, key: &str) -> Option<&'a str> {
        let place = self.places.remove(key)?;
        self.texts.get_mut(place)?.take().map(|(_, value)| value)
    }

    /// What was not taken, keys with their quotes.
    pub(super) fn into_rest(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.texts.into_iter().flatten()
    }
}

/// Reads keys and values as raw text.
struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
        let mut members = Members { texts: Vec::new(), places: HashMap::new() };
        while let Some((key, value)) = map.next_entry::<&'de RawValue, &'de RawValue>()? {
            members.add(key.get(), value.get());
        }
        Ok(members)
    }
}

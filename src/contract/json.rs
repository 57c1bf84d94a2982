//! JSON by concatenation: what is ours is escaped, what is the customers' is inserted as it is.
//!
//! Parsing and writing again would change numbers, key order and escapes, and with them the meaning of
//! the data and every signature over it.

use bytes::Bytes;

/// Puts an object together, member by member, in the order of the calls.
pub(super) struct ObjectWriter {
    text: Vec<u8>,
}

impl ObjectWriter {
    /// An empty object with room for about so many bytes.
    pub(super) fn with_capacity(bytes: usize) -> Self {
        let mut text = Vec::with_capacity(bytes);
        text.push(b'{');
        Self { text }
    }

    /// Adds a member whose value is a text.
    #[must_use]
    pub(super) fn string(mut self, key: &str, value: &str) -> Self {
        self.key(key);
        push_string(&mut self.text, value);
        self
    }

    /// Adds a member whose value is JSON already.
    #[must_use]
    pub(super) fn raw(mut self, key: &str, value: &[u8]) -> Self {
        self.key(key);
        self.text.extend_from_slice(value);
        self
    }

    /// Adds a member of which both sides are JSON already, the key with its quotes.
    #[must_use]
    pub(super) fn raw_member(mut self, key: &str, value: &str) -> Self {
        self.separate();
        self.text.extend_from_slice(key.as_bytes());
        self.text.push(b':');
        self.text.extend_from_slice(value.as_bytes());
        self
    }

    /// Closes the object.
    pub(super) fn finish(mut self) -> Bytes {
        self.text.push(b'}');
        self.text.into()
    }

    fn key(&mut self, key: &str) {
        self.separate();
        push_string(&mut self.text, key);
        self.text.push(b':');
    }

    fn separate(&mut self) {
        if self.text.len() > 1 {
            self.text.push(b',');
        }
    }
}

/// An array of values that are JSON already.
pub(super) fn array(values: &[Bytes]) -> Bytes {
    let length: usize = values.iter().map(|value| value.len() + 1).sum();
    let mut text = Vec::with_capacity(length + 2);
    text.push(b'[');
    for (position, value) in values.iter().enumerate() {
        if position > 0 {
            text.push(b',');
        }
        text.extend_from_slice(value);
    }
    text.push(b']');
    text.into()
}

/// Appends a text as a JSON string (RFC 8259, section 7): only what must be escaped is.
fn push_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    for byte in text.bytes() {
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x00..=0x1f => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
            // Bytes of a multi-byte character are all above 0x7f and are kept.
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_text_reads_back_as_it_was_however_hostile(key: String, value: String) {
            let text = ObjectWriter::with_capacity(0).string(&key, &value).finish();
            let read: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&text).unwrap();
            prop_assert_eq!(read.len(), 1);
            prop_assert_eq!(read.get(&key).and_then(|value| value.as_str()), Some(value.as_str()));
        }
    }

    #[test]
    fn every_control_character_quote_and_backslash_is_escaped() {
        let hostile: String = (0_u8..=0x7f).map(char::from).chain("é\u{2028}🦀".chars()).collect();
        let text = ObjectWriter::with_capacity(0).string("k", &hostile).finish();
        assert!(text.iter().all(|byte| *byte >= 0x20));
        let read: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(read["k"], hostile);
    }

    #[test]
    fn raw_values_are_inserted_byte_for_byte() {
        let text = ObjectWriter::with_capacity(0).raw("a", b" { \"x\" :1.10 } ").string("b", "c").finish();
        assert_eq!(text, r#"{"a": { "x" :1.10 } ,"b":"c"}"#);
        assert_eq!(array(&[text, "1".into()]), r#"[{"a": { "x" :1.10 } ,"b":"c"},1]"#);
        assert_eq!(array(&[]), "[]");
    }
}

//! Trace contexts: how a caller's trace goes on through us to the receivers (W3C Trace Context, level 1).

use std::fmt;

/// The header and the key of gRPC metadata that carry it.
pub const TRACEPARENT: &str = "traceparent";

/// The version that we write; of later ones we read what they have in common with it.
const VERSION: &str = "00";
/// How long version 00 is, in characters.
const LENGTH: usize = 55;
const SAMPLED: u8 = 1;

/// A place in a trace: which trace, and which span of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceContext {
    trace_id: [u8; 16],
    span_id: [u8; 8],
    flags: u8,
}

impl TraceContext {
    /// How many bytes [`Self::to_bytes`] has.
    pub const BYTES: usize = 25;

    /// Reads a `traceparent`. Whatever breaks the standard is none, as the standard asks: the call goes on.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(5, '-');
        let version = number::<1>(parts.next()?)?;
        let trace_id = number::<16>(parts.next()?)?;
        let span_id = number::<8>(parts.next()?)?;
        let [flags] = number::<1>(parts.next()?)?;
        let has_more = parts.next().is_some();
        let is_readable = match version {
            [0] => text.len() == LENGTH && !has_more,
            [0xff] => false,
            _ => true,
        };
        let is_set = trace_id != [0; 16] && span_id != [0; 8];
        // Flags of later levels mean nothing to us, and what we don't know we must not pass on.
        (is_readable && is_set).then_some(Self { trace_id, span_id, flags: flags & SAMPLED })
    }

    /// Another span of the same trace; `draw` is its id, drawn anew for each.
    #[must_use]
    pub fn child(self, draw: u64) -> Self {
        // The id that is all zeros means none.
        Self { span_id: draw.max(1).to_be_bytes(), ..self }
    }

    /// Whether the caller records the trace, so that we should, too.
    #[must_use]
    pub const fn is_sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// Which trace.
    #[must_use]
    pub const fn trace_id(self) -> [u8; 16] {
        self.trace_id
    }

    /// Which span of it.
    #[must_use]
    pub const fn span_id(self) -> [u8; 8] {
        self.span_id
    }

    /// The trace's id in hexadecimal, for logs.
    #[must_use]
    pub fn trace_id_text(self) -> String {
        hex::encode(self.trace_id)
    }

    /// Trace, span, flags.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let parts = self.trace_id.iter().chain(&self.span_id).chain([&self.flags]);
        bytes.iter_mut().zip(parts).for_each(|(byte, part)| *byte = *part);
        bytes
    }

    /// What [`Self::to_bytes`] made; `None` for anything else.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (trace_id, rest) = bytes.split_first_chunk()?;
        let (span_id, rest) = rest.split_first_chunk()?;
        let [flags] = rest else { return None };
        Some(Self { trace_id: *trace_id, span_id: *span_id, flags: *flags })
    }
}

/// As a `traceparent`.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (trace_id, span_id) = (hex::encode(self.trace_id), hex::encode(self.span_id));
        write!(f, "{VERSION}-{trace_id}-{span_id}-{:02x}", self.flags)
    }
}

/// Exactly so many bytes in hexadecimal, in lower case.
fn number<const BYTES: usize>(text: &str) -> Option<[u8; BYTES]> {
    let mut bytes = [0; BYTES];
    let is_lower = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (is_lower && hex::decode_to_slice(text, &mut bytes).is_ok()).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_trace_goes_on_in_another_span() {
        let given = TraceContext::parse(GIVEN).unwrap();
        assert_eq!(given.to_string(), GIVEN);
        let child = given.child(0xabc);
        assert_eq!(child.to_string(), "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000abc-01");
        assert_eq!((child.trace_id(), child.is_sampled()), (given.trace_id(), true));
        assert_ne!(given.child(0).span_id(), [0; 8]);
        assert_eq!(TraceContext::from_bytes(&child.to_bytes()), Some(child));
        assert_eq!(TraceContext::from_bytes(&[0; 24]), None);
    }

    #[test]
    fn what_breaks_the_standard_is_no_context() {
        let zeros = "00-00000000000000000000000000000000-00f067aa0ba902b7-01";
        for text in [
            "",
            "00",
            zeros,
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01 ",
            "0x-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceContext::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn of_a_later_version_we_read_what_we_know_and_write_ours() {
        let later = "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-ff-what-the-future-brings";
        assert_eq!(TraceContext::parse(later).unwrap().to_string(), GIVEN);
        let unsampled = GIVEN.replace("-01", "-00");
        assert!(!TraceContext::parse(&unsampled).unwrap().is_sampled());
    }
}

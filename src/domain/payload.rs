//! The data of an event: JSON text, kept byte for byte.

use std::fmt;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::violation::{Rule, Violations};

/// A JSON object as the caller wrote it: numbers, key order, duplicate keys and white space kept.
#[derive(Clone, PartialEq, Eq)]
pub struct Payload(Bytes);

/// How large and how deep a payload may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PayloadLimits {
    /// The largest payload, in bytes.
    pub max_bytes: usize,
    /// The deepest nesting of objects and arrays.
    pub max_depth: usize,
}

impl Default for PayloadLimits {
    /// 256 KiB and 64 levels.
    fn default() -> Self {
        Self { max_bytes: 256 * 1024, max_depth: 64 }
    }
}

/// Why bytes are no payload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PayloadProblem {
    /// More bytes than the limit.
    #[error("has {size} bytes; at most {limit} are allowed: send less, or a link to the rest")]
    TooLarge {
        /// The size of the payload.
        size: usize,
        /// The limit in force.
        limit: usize,
    },
    /// Deeper than the limit.
    #[error("is nested deeper than {limit} levels at byte {offset}; flatten it")]
    TooDeep {
        /// The limit in force.
        limit: usize,
        /// Where the first level too many begins.
        offset: usize,
    },
    /// Not UTF-8.
    #[error("is not UTF-8 from byte {offset} on; encode the JSON text as UTF-8")]
    NotUtf8 {
        /// The first byte that is none.
        offset: usize,
    },
    /// Not JSON.
    #[error("is not valid JSON at byte {offset}: {reason}")]
    NotJson {
        /// Where reading stopped.
        offset: usize,
        /// What the parser says.
        reason: String,
    },
    /// Valid JSON, but no object.
    #[error("is a JSON {found}; give an object, for example {{}}")]
    NotAnObject {
        /// What was found instead.
        found: &'static str,
    },
}

impl PayloadProblem {
    /// Notes the problem as a violation of its rule, with its facts.
    pub fn note(&self, violations: &mut Violations, field: &str) {
        let rule = match self {
            PayloadProblem::TooLarge { .. } => Rule::PayloadTooLarge,
            PayloadProblem::TooDeep { .. } => Rule::PayloadTooDeep,
            PayloadProblem::NotUtf8 { .. } | PayloadProblem::NotJson { .. } => Rule::PayloadNotJson,
            PayloadProblem::NotAnObject { .. } => Rule::PayloadNotObject,
        };
        violations.add_as(rule, field, self.to_string());
        match self {
            PayloadProblem::TooLarge { size, limit } => {
                violations.with("limit_bytes", limit).with("actual_bytes", size)
            }
            PayloadProblem::TooDeep { limit, offset } => {
                violations.with("limit", limit).with("byte_offset", offset)
            }
            PayloadProblem::NotUtf8 { offset } | PayloadProblem::NotJson { offset, .. } => {
                violations.with("byte_offset", offset)
            }
            PayloadProblem::NotAnObject { found } => violations.with("actual_kind", found),
        };
    }
}

impl Payload {
    /// Checks the bytes and keeps them as they are; an empty input means `{}`.
    ///
    /// # Errors
    /// The first rule that the bytes violate, with the byte offset where there is one.
    pub fn parse(bytes: Bytes, limits: PayloadLimits) -> Result<Self, PayloadProblem> {
        if bytes.is_empty() {
            return Ok(Self::empty());
        }
        if bytes.len() > limits.max_bytes {
            return Err(PayloadProblem::TooLarge { size: bytes.len(), limit: limits.max_bytes });
        }
        // The depth comes first: it is one scan, and the parser below has no limit of its own.
        check_depth(&bytes, limits.max_depth)?;
        let text = std::str::from_utf8(&bytes)
            .map_err(|error| PayloadProblem::NotUtf8 { offset: error.valid_up_to() })?;
        let raw: &RawValue = serde_json::from_str(text).map_err(|error| not_json(text, &error))?;
        match raw.get().bytes().next() {
            Some(b'{') => Ok(Self(bytes)),
            first => Err(PayloadProblem::NotAnObject { found: kind_of(first) }),
        }
    }

    /// The payload `{}`.
    #[must_use]
    pub fn empty() -> Self {
        Self(Bytes::from_static(b"{}"))
    }

    /// Takes bytes that were checked before they were stored.
    #[must_use]
    pub fn from_stored(bytes: Bytes) -> Self {
        Self(bytes)
    }

    /// The JSON text.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The JSON text, shared.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        self.0.clone()
    }
}

impl fmt::Debug for Payload {
    /// Only the size: payloads are the customers' data and stay out of logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes)", self.0.len())
    }
}

fn check_depth(bytes: &[u8], limit: usize) -> Result<(), PayloadProblem> {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for (offset, byte) in bytes.iter().enumerate() {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => {
                depth += 1;
                if depth > limit {
                    return Err(PayloadProblem::TooDeep { limit, offset });
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

fn not_json(text: &str, error: &serde_json::Error) -> PayloadProblem {
    let line_start: usize =
        text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
    let reason = error.to_string();
    let reason = reason.split(" at line ").next().unwrap_or_default().to_owned();
    // The parser counts the byte that it stopped at, but neither the end nor a control character in a string.
    let counted = usize::from(!error.is_eof() && !reason.starts_with("control character"));
    let offset = (line_start + error.column().saturating_sub(counted)).min(text.len());
    PayloadProblem::NotJson { offset, reason }
}

fn kind_of(first: Option<u8>) -> &'static str {
    match first {
        Some(b'[') => "array",
        Some(b'"') => "string",
        Some(b't' | b'f') => "boolean",
        Some(b'n') => "null",
        _ => "number",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &[u8]) -> Result<Payload, PayloadProblem> {
        Payload::parse(Bytes::copy_from_slice(text), PayloadLimits { max_bytes: 1000, max_depth: 3 })
    }

    #[test]
    fn accepted_bytes_are_kept_as_they_came() {
        for text in [
            r#"{ "b":1,"a": 12345678901234567890123, "a":1.10 }"#,
            r#"{"u":"\u0000\ud800","e":1e999}"#,
            " {} ",
            r#"{"s":"}]{[\"\\"}"#,
        ] {
            assert_eq!(parse(text.as_bytes()).unwrap().as_bytes(), text.as_bytes());
        }
        assert_eq!(parse(b"").unwrap().as_bytes(), b"{}");
    }

    #[test]
    fn each_refusal_says_where_and_what_would_be_right() {
        let table: [(&[u8], &str); 9] = [
            (b"{\"a\":tru}", "byte 8"),
            (b"{\n\"a\": ,}", "byte 7"),
            (b"{\"a\":\"\x00\"}", "byte 6"),
            (b"{\"a\":\"\xff\"}", "byte 6"),
            (b"{} x", "byte 3"),
            (b"[1]", "array"),
            (b"null", "null"),
            (b"{\"a\":[[[1]]]}", "byte 7"),
            (b"{", "byte 1"),
        ];
        for (text, part) in table {
            let problem = parse(text).unwrap_err().to_string();
            assert!(problem.contains(part), "{:?}: {problem}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn brackets_count_for_the_depth_while_they_are_open_and_outside_of_texts_only() {
        for text in [
            r#"{"a":[[1]],"b":[[2]],"c":{"d":{}}}"#,
            r#"{"a":"[[[[[["}"#,
            r#"{"a":"\"[[[[[["}"#,
            r#"{"a":"\\","b":[[1]]}"#,
        ] {
            assert!(parse(text.as_bytes()).is_ok(), "{text}");
        }
        let deep = parse(br#"{"a":"\\","b":[[[1]]]}"#);
        assert_eq!(deep, Err(PayloadProblem::TooDeep { limit: 3, offset: 16 }));
    }

    #[test]
    fn what_is_no_object_is_named() {
        let table = [
            ("[]", "array"),
            ("\"x\"", "string"),
            ("true", "boolean"),
            ("false", "boolean"),
            ("7", "number"),
        ];
        for (text, found) in table {
            assert_eq!(parse(text.as_bytes()), Err(PayloadProblem::NotAnObject { found }), "{text}");
        }
    }

    #[test]
    fn a_refusal_is_a_violation_of_its_rule_with_its_facts() {
        let refused = parse(&[b' '; 1001]).unwrap_err();
        let mut violations = Violations::default();
        refused.note(&mut violations, "event.json_data");
        let noted = format!("{violations:?}");
        for part in ["PayloadTooLarge", "event.json_data", "limit_bytes", "1000", "actual_bytes", "1001"] {
            assert!(noted.contains(part), "{part}: {noted}");
        }
    }

    #[test]
    fn the_contents_are_in_no_debug_output() {
        let payload = parse(br#"{"card":"4111"}"#).unwrap();
        assert_eq!(format!("{payload:?}"), "Payload(15 bytes)");
    }

    #[test]
    fn a_payload_of_exactly_the_limit_is_taken() {
        let text = format!("{{}}{}", " ".repeat(998));
        assert_eq!(parse(text.as_bytes()).unwrap().as_bytes().len(), 1000);
    }

    #[test]
    fn a_payload_over_the_limit_is_refused_naming_both_sizes() {
        let problem = parse(&[b' '; 1001]).unwrap_err().to_string();
        assert!(problem.contains("1001") && problem.contains("1000"), "{problem}");
    }

    #[test]
    fn two_hundred_thousand_levels_are_refused_without_harm() {
        let deep = [b'['; 200_000];
        let limits = PayloadLimits { max_bytes: 1_000_000, max_depth: 64 };
        let problem = Payload::parse(Bytes::copy_from_slice(&deep), limits).unwrap_err();
        assert_eq!(problem, PayloadProblem::TooDeep { limit: 64, offset: 64 });
    }
}

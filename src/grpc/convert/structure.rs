//! `google.protobuf.Struct` as JSON text, for callers that write JSON anyway.

use bytes::Bytes;
use prost_types::value::Kind;
use prost_types::{Struct, Value};

use crate::domain::violation::{Rule, Violations};

/// Up to here (2^53) every whole number is exact in double precision.
const EXACT_INTEGERS: f64 = 9_007_199_254_740_992.0;

/// Writes a structure as a JSON object, keys in alphabetical order, whole numbers without a fraction.
///
/// Numbers that JSON has no form for are violations.
pub fn read_struct(value: &Struct, path: &str, violations: &mut Violations) -> Bytes {
    let mut json = String::new();
    write_object(value, &mut json, &mut Problems { path, violations });
    Bytes::from(json)
}

struct Problems<'a> {
    path: &'a str,
    violations: &'a mut Violations,
}

impl Problems<'_> {
    fn add(&mut self, rule: Rule, description: String) {
        self.violations.add_as(rule, self.path, description);
    }
}

fn write_object(object: &Struct, json: &mut String, problems: &mut Problems<'_>) {
    json.push('{');
    for (position, (key, value)) in object.fields.iter().enumerate() {
        if position > 0 {
            json.push(',');
        }
        write_text(key, json);
        json.push(':');
        write_value(value, json, problems);
    }
    json.push('}');
}

fn write_value(value: &Value, json: &mut String, problems: &mut Problems<'_>) {
    match &value.kind {
        Some(Kind::NullValue(_)) => json.push_str("null"),
        Some(Kind::BoolValue(true)) => json.push_str("true"),
        Some(Kind::BoolValue(false)) => json.push_str("false"),
        Some(Kind::NumberValue(number)) => write_number(*number, json, problems),
        Some(Kind::StringValue(text)) => write_text(text, json),
        Some(Kind::StructValue(object)) => write_object(object, json, problems),
        Some(Kind::ListValue(list)) => {
            json.push('[');
            for (position, value) in list.values.iter().enumerate() {
                if position > 0 {
                    json.push(',');
                }
                write_value(value, json, problems);
            }
            json.push(']');
        }
        None => problems.add(Rule::Malformed, "has a value of no kind; write null for nothing".to_owned()),
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the number is whole and within ±2^53")]
fn write_number(number: f64, json: &mut String, problems: &mut Problems<'_>) {
    if !number.is_finite() {
        let description = format!("has the number {number}, which JSON can't express; leave it out");
        return problems.add(Rule::OutOfRange, description);
    }
    if number.fract() == 0.0 && number.abs() <= EXACT_INTEGERS {
        json.push_str(&(number as i64).to_string());
    } else {
        // The shortest text that reads back as the same number.
        json.push_str(&serde_json::Value::from(number).to_string());
    }
}

fn write_text(text: &str, json: &mut String) {
    json.push_str(&serde_json::Value::from(text).to_string());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(number: f64) -> (String, String) {
        let value = Value { kind: Some(Kind::NumberValue(number)) };
        let mut violations = Violations::new();
        let object = Struct { fields: [("n".to_owned(), value)].into() };
        let json = read_struct(&object, "event.struct_data", &mut violations);
        (String::from_utf8(json.to_vec()).unwrap(), violations.to_string())
    }

    #[test]
    fn whole_numbers_have_no_fraction_and_others_keep_every_digit() {
        for (value, text) in [
            (1.0, "1"),
            (-0.0, "0"),
            (-42.0, "-42"),
            (9_007_199_254_740_992.0, "9007199254740992"),
            (0.1, "0.1"),
            (1e300, "1e+300"),
            (5e-324, "5e-324"),
        ] {
            let (json, violations) = number(value);
            assert_eq!(json, format!("{{\"n\":{text}}}"));
            assert_eq!(violations, "");
            let read: serde_json::Value = serde_json::from_str(&json).unwrap();
            assert_eq!(read["n"].as_f64(), Some(value));
        }
    }

    #[test]
    fn numbers_that_json_has_no_form_for_are_refused() {
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let (_, violations) = number(value);
            assert!(violations.starts_with("event.struct_data: has the number"), "{violations}");
        }
    }

    #[test]
    fn every_kind_of_value_becomes_its_json() {
        let value = |kind| Value { kind: Some(kind) };
        let list = prost_types::ListValue {
            values: vec![
                value(Kind::NullValue(0)),
                value(Kind::BoolValue(true)),
                value(Kind::NumberValue(2.0)),
            ],
        };
        let object = Struct {
            fields: [
                ("b\"".to_owned(), value(Kind::StringValue("line\nend".to_owned()))),
                ("a".to_owned(), value(Kind::ListValue(list))),
                ("c".to_owned(), value(Kind::StructValue(Struct::default()))),
            ]
            .into(),
        };
        let mut violations = Violations::new();
        let json = read_struct(&object, "d", &mut violations);
        assert_eq!(&json[..], br#"{"a":[null,true,2],"b\"":"line\nend","c":{}}"#);
        read_struct(
            &Struct { fields: [("x".to_owned(), Value { kind: None })].into() },
            "d",
            &mut violations,
        );
        assert_eq!(violations.len(), 1);
    }
}

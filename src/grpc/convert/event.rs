//! Events in, and what became of them out.

use bytes::Bytes;

use super::structure::read_struct;
use super::time::{read_timestamp, write_timestamp};
use super::{count, known};
use crate::control::event::Accepted;
use crate::domain::event::{Event, EventDraft, EventType, Level};
use crate::domain::id::EventId;
use crate::domain::violation::Violations;
use crate::grpc::proto::v1;
use crate::grpc::proto::v1::event::Data;

/// Reads an event; paths are relative to it.
///
/// # Errors
/// Every violated field. Where one can't be converted at all, names are checked here too, so that the
/// caller learns of them at once.
pub fn read_event(event: v1::Event) -> Result<EventDraft, Violations> {
    let mut violations = Violations::new();
    let occurred_at = read_timestamp(event.occurred_at, "occurred_at", &mut violations);
    let level = known(event.level, "level", &mut violations).and_then(read_level).unwrap_or_default();
    let data = match event.data {
        Some(Data::JsonData(json)) => json,
        Some(Data::StructData(object)) => read_struct(&object, "struct_data", &mut violations),
        None => Bytes::new(),
    };
    if !violations.is_empty() {
        if let Some(id) = &event.event_id {
            violations.check("event_id", EventId::parse(id));
        }
        violations.check("type", EventType::parse(&event.r#type));
        return Err(violations);
    }
    let (event_id, event_type) = (event.event_id, event.r#type);
    Ok(EventDraft { event_id, event_type, occurred_at, trace: None, level, data })
}

/// Whether an event brings its data as a structure; control knows only of JSON text.
pub fn has_struct(event: &v1::Event) -> bool {
    matches!(event.data, Some(Data::StructData(_)))
}

/// Puts the path of the event before the paths of its fields, in the names that the caller used.
pub fn place_violations(found: &Violations, path: &str, has_struct: bool) -> Violations {
    found.renamed(|field| {
        let field = if has_struct && field == "json_data" { "struct_data" } else { field };
        format!("{path}.{field}")
    })
}

/// Reads a level; unspecified is `None`.
pub const fn read_level(level: v1::Level) -> Option<Level> {
    match level {
        v1::Level::Unspecified => None,
        v1::Level::Trace => Some(Level::Trace),
        v1::Level::Debug => Some(Level::Debug),
        v1::Level::Info => Some(Level::Info),
        v1::Level::Warn => Some(Level::Warn),
        v1::Level::Error => Some(Level::Error),
    }
}

/// Writes a level.
pub const fn write_level(level: Level) -> v1::Level {
    match level {
        Level::Trace => v1::Level::Trace,
        Level::Debug => v1::Level::Debug,
        Level::Info => v1::Level::Info,
        Level::Warn => v1::Level::Warn,
        Level::Error => v1::Level::Error,
    }
}

/// Writes an event with its data.
pub fn write_event(event: &Event) -> v1::Event {
    v1::Event {
        event_id: Some(event.id.to_string()),
        r#type: event.event_type.to_string(),
        occurred_at: Some(write_timestamp(event.occurred_at)),
        level: write_level(event.level).into(),
        data: Some(Data::JsonData(event.data.bytes())),
    }
}

/// Writes what became of an accepted event.
pub fn write_accepted(accepted: &Accepted) -> v1::EmitResult {
    v1::EmitResult {
        event_id: accepted.event_id.to_string(),
        duplicate: accepted.duplicate,
        accept_time: Some(write_timestamp(accepted.accepted_at)),
        delivery_count: count(accepted.delivery_count),
        best_effort_count: count(accepted.best_effort_count),
    }
}

#[cfg(test)]
mod tests {
    use prost_types::{Struct, Timestamp, Value, value::Kind};

    use super::*;

    fn event(data: Option<Data>) -> v1::Event {
        v1::Event {
            event_id: Some("evt-7".into()),
            r#type: "kpi.alert".into(),
            occurred_at: Some(Timestamp { seconds: 1_700_000_000, nanos: 5_999_999 }),
            level: v1::Level::Warn.into(),
            data,
        }
    }

    #[test]
    fn json_data_is_taken_over_byte_for_byte() {
        let json = Bytes::from_static(b"{ \"a\":12345678901234567890123, \"a\":1.10 }");
        let draft = read_event(event(Some(Data::JsonData(json.clone())))).unwrap();
        assert_eq!(draft.data.as_ptr(), json.as_ptr());
        assert_eq!(draft.level, Level::Warn);
        assert_eq!(draft.occurred_at.unwrap().as_millis(), 1_700_000_000_005);
    }

    #[test]
    fn an_event_without_level_or_data_has_their_defaults() {
        let draft = read_event(v1::Event { r#type: "a".into(), ..v1::Event::default() }).unwrap();
        assert_eq!((draft.level, draft.data, draft.event_id), (Level::Info, Bytes::new(), None));
    }

    #[test]
    fn every_field_that_cannot_be_read_is_named_at_once() {
        let number = Value { kind: Some(Kind::NumberValue(f64::NAN)) };
        let mut bad = event(Some(Data::StructData(Struct { fields: [("n".into(), number)].into() })));
        bad.level = 77;
        bad.occurred_at = Some(Timestamp { seconds: i64::MAX, nanos: 0 });
        bad.event_id = Some("a.b".into());
        bad.r#type = "kpi alert".into();
        let violations = read_event(bad).unwrap_err();
        let placed = place_violations(&violations, "events[3]", true);
        let fields: Vec<&str> = placed.iter().map(|violation| violation.field.as_str()).collect();
        let expected = ["occurred_at", "level", "struct_data", "event_id", "type"];
        assert_eq!(fields, expected.map(|field| format!("events[3].{field}")));
    }

    #[test]
    fn a_violation_of_the_data_names_the_field_that_the_caller_used() {
        let found = Violations::one("json_data", "is too large");
        assert!(place_violations(&found, "event", true).to_string().starts_with("event.struct_data"));
        assert!(place_violations(&found, "event", false).to_string().starts_with("event.json_data"));
    }
}

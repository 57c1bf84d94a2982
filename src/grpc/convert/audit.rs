//! The audit log.

use std::collections::BTreeMap;

use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};

use super::known;
use super::time::{read_timestamp, write_timestamp};
use crate::control::audit::AuditFilter;
use crate::domain::audit::{AuditDenial, AuditEntry, AuditOutcome, Fields};
use crate::domain::violation::Violations;
use crate::grpc::proto::v1;

/// Reads which entries are wanted.
pub fn read_audit_filter(filter: v1::AuditFilter, found: &mut Violations) -> AuditFilter {
    let outcome = known(filter.outcome, "filter.outcome", found).unwrap_or(v1::AuditOutcome::Unspecified);
    AuditFilter {
        denied: match outcome {
            v1::AuditOutcome::Unspecified => None,
            v1::AuditOutcome::Changed => Some(false),
            v1::AuditOutcome::Denied => Some(true),
        },
        from: read_timestamp(filter.start_time, "filter.start_time", found),
        until: read_timestamp(filter.end_time, "filter.end_time", found),
        principal: filter.principal,
        method: filter.method,
        resource_id: filter.resource_id,
    }
}

/// Writes an entry.
pub fn write_audit_entry(entry: AuditEntry) -> v1::AuditEntry {
    let (outcome, reason) = match entry.outcome {
        AuditOutcome::Changed => (v1::AuditOutcome::Changed, v1::ErrorReason::Unspecified),
        AuditOutcome::Denied(denial) => (v1::AuditOutcome::Denied, write_denial(denial)),
    };
    v1::AuditEntry {
        audit_entry_id: entry.id.to_string(),
        record_time: Some(write_timestamp(entry.at)),
        organization_id: entry.organization_id,
        principal: entry.principal,
        remote_address: entry.remote_address.map(|address| address.to_string()).unwrap_or_default(),
        method: entry.method,
        resource_id: entry.resource_id,
        outcome: outcome.into(),
        error_reason: reason.into(),
        request_id: entry.request_id,
        changed_fields: entry.change.changed_fields,
        before: entry.change.before.map(write_fields),
        after: entry.change.after.map(write_fields),
        description: entry.description,
        count: i64::try_from(entry.count).unwrap_or(i64::MAX),
    }
}

const fn write_denial(denial: AuditDenial) -> v1::ErrorReason {
    match denial {
        AuditDenial::CredentialsMissing => v1::ErrorReason::CredentialsMissing,
        AuditDenial::CredentialsInvalid => v1::ErrorReason::CredentialsInvalid,
        AuditDenial::RoleMissing => v1::ErrorReason::RoleMissing,
    }
}

fn write_fields(fields: Fields) -> Struct {
    let fields: BTreeMap<_, _> = fields.into_iter().map(|(path, value)| (path, write_value(value))).collect();
    Struct { fields }
}

fn write_value(value: serde_json::Value) -> Value {
    let kind = match value {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(flag) => Kind::BoolValue(flag),
        serde_json::Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(f64::NAN)),
        serde_json::Value::String(text) => Kind::StringValue(text),
        serde_json::Value::Array(items) => {
            Kind::ListValue(ListValue { values: items.into_iter().map(write_value).collect() })
        }
        serde_json::Value::Object(fields) => Kind::StructValue(write_fields(fields)),
    };
    Value { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::audit::AuditChange;
    use crate::domain::id::AuditEntryId;
    use crate::domain::time::Timestamp;

    #[test]
    fn an_entry_is_written_with_the_changed_fields_as_values() {
        let fields = |json: serde_json::Value| json.as_object().cloned();
        let at = Timestamp::from_millis(1_700_000_000_000);
        let entry = AuditEntry {
            id: AuditEntryId::make(at, [7; 10]),
            at,
            organization_id: "acme".into(),
            principal: "ops".into(),
            remote_address: Some("192.0.2.1:9".parse().unwrap()),
            method: "m".into(),
            resource_id: "r".into(),
            outcome: AuditOutcome::Denied(AuditDenial::RoleMissing),
            request_id: "req".into(),
            change: AuditChange {
                changed_fields: vec!["a".into()],
                before: None,
                after: fields(serde_json::json!({ "a": [1, true, null, { "b": "c" }] })),
            },
            count: 3,
            description: "d".into(),
        };
        let written = write_audit_entry(entry);
        assert!(written.audit_entry_id.starts_with("aud_") && written.audit_entry_id.len() == 30);
        assert_eq!(written.error_reason(), v1::ErrorReason::RoleMissing);
        assert_eq!(written.remote_address, "192.0.2.1:9");
        assert!(written.before.is_none());
        let after = format!("{:?}", written.after.unwrap());
        for part in ["NumberValue(1.0)", "BoolValue(true)", "NullValue", "StringValue(\"c\")"] {
            assert!(after.contains(part), "{after}");
        }
    }
}

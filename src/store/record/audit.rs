//! Entries of the audit log, in chunks: what changed may be much.

use prost::Message;

use super::{Place, codes, join, split};
use crate::domain::audit::{AuditChange, AuditDenial, AuditEntry, AuditOutcome, Fields};
use crate::domain::id::AuditEntryId;
use crate::domain::time::Timestamp;
use crate::store::StoreError;

#[derive(Clone, PartialEq, Message)]
struct AuditRecord {
    #[prost(sint64, tag = "1")]
    at: i64,
    #[prost(string, tag = "2")]
    organization_id: String,
    #[prost(string, tag = "3")]
    principal: String,
    /// Empty for the server itself.
    #[prost(string, tag = "4")]
    remote_address: String,
    #[prost(string, tag = "5")]
    method: String,
    #[prost(string, tag = "6")]
    resource_id: String,
    /// Absent: something was changed.
    #[prost(uint32, optional, tag = "7")]
    denial: Option<u32>,
    #[prost(string, tag = "8")]
    request_id: String,
    #[prost(string, repeated, tag = "9")]
    changed_fields: Vec<String>,
    /// A JSON object.
    #[prost(string, optional, tag = "10")]
    before: Option<String>,
    /// A JSON object.
    #[prost(string, optional, tag = "11")]
    after: Option<String>,
    #[prost(uint64, tag = "12")]
    count: u64,
    #[prost(string, tag = "13")]
    description: String,
}

codes!(denial_code, denial, AuditDenial, {
    AuditDenial::CredentialsMissing = 1, AuditDenial::CredentialsInvalid = 2, AuditDenial::RoleMissing = 3,
});

/// The stored form of an entry, in chunks.
#[must_use]
pub fn encode_audit(entry: &AuditEntry) -> Vec<Vec<u8>> {
    let json = |fields: &Option<Fields>| {
        fields.as_ref().map(|fields| serde_json::Value::Object(fields.clone()).to_string())
    };
    let record = AuditRecord {
        at: entry.at.as_millis(),
        organization_id: entry.organization_id.clone(),
        principal: entry.principal.clone(),
        remote_address: entry.remote_address.map(|address| address.to_string()).unwrap_or_default(),
        method: entry.method.clone(),
        resource_id: entry.resource_id.clone(),
        denial: match entry.outcome {
            AuditOutcome::Changed => None,
            AuditOutcome::Denied(reason) => Some(denial_code(reason)),
        },
        request_id: entry.request_id.clone(),
        changed_fields: entry.change.changed_fields.clone(),
        before: json(&entry.change.before),
        after: json(&entry.change.after),
        count: entry.count,
        description: entry.description.clone(),
    };
    split(&record.encode_to_vec())
}

/// The entry out of its chunks.
///
/// # Errors
/// [`StoreError::Corrupt`].
pub fn decode_audit<C: AsRef<[u8]>>(id: AuditEntryId, chunks: &[C]) -> Result<AuditEntry, StoreError> {
    let place = Place::new("audit", id.as_bytes());
    let record = AuditRecord::decode(join(place, chunks)?).map_err(|error| place.corrupt(error))?;
    restore(id, record).map_err(|problem| place.corrupt(problem))
}

fn restore(id: AuditEntryId, record: AuditRecord) -> Result<AuditEntry, String> {
    let fields = |json: Option<String>| -> Result<Option<Fields>, String> {
        json.map(|json| serde_json::from_str(&json).map_err(|error| error.to_string())).transpose()
    };
    let address = record.remote_address;
    let remote_address = Some(address).filter(|address| !address.is_empty()).map(|address| address.parse());
    Ok(AuditEntry {
        id,
        at: Timestamp::from_millis(record.at),
        organization_id: record.organization_id,
        principal: record.principal,
        remote_address: remote_address.transpose().map_err(|_| "an address is none".to_owned())?,
        method: record.method,
        resource_id: record.resource_id,
        outcome: match record.denial {
            None => AuditOutcome::Changed,
            Some(code) => AuditOutcome::Denied(denial(code)?),
        },
        request_id: record.request_id,
        change: AuditChange {
            changed_fields: record.changed_fields,
            before: fields(record.before)?,
            after: fields(record.after)?,
        },
        count: record.count,
        description: record.description,
    })
}

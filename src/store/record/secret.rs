//! The one place that every stored secret passes through: it is sealed on its way in and opened on its way
//! out, for its place alone (organization, destination, field).
//!
//! Earlier versions stored secrets in the clear. Those still open, and are sealed when their destination is
//! written the next time.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use prost::Message;

use crate::domain::destination::Header;
use crate::domain::id::DestinationId;
use crate::domain::secret::{Secret, SecretSource};
use crate::store::StoreError;
use crate::store::keyring::{KeyId, Keyring, Sealed};

/// A secret or where it comes from: one of the four is present.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub(super) struct SecretRecord {
    /// In the clear, by an earlier version.
    #[prost(bytes = "vec", optional, tag = "1")]
    value: Option<Vec<u8>>,
    #[prost(string, optional, tag = "2")]
    variable: Option<String>,
    #[prost(bytes = "vec", optional, tag = "3")]
    file: Option<Vec<u8>>,
    #[prost(message, optional, tag = "4")]
    sealed: Option<SealedRecord>,
}

#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub(super) struct HeaderRecord {
    #[prost(string, tag = "1")]
    name: String,
    /// In the clear, by an earlier version; otherwise empty.
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
    #[prost(message, optional, tag = "3")]
    sealed: Option<SealedRecord>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct SealedRecord {
    #[prost(bytes = "vec", tag = "1")]
    key_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    nonce: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    ciphertext: Vec<u8>,
}

impl fmt::Debug for SecretRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretRecord(…)")
    }
}

impl fmt::Debug for HeaderRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HeaderRecord(…)")
    }
}

/// Which secret of a destination.
#[derive(Debug, Clone, Copy)]
pub(super) enum Field<'a> {
    /// The URL, which may have a token of the receiver in it.
    Url,
    /// The signing secret in force.
    Signing,
    /// The one before.
    Retiring,
    /// The password or the token.
    HttpAuth,
    /// A header's value: its place in the list and its name.
    Header(usize, &'a str),
}

/// Whose secret it is. Sealed values are bound to it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner<'a> {
    /// The organization.
    pub(super) organization_id: &'a str,
    /// Its destination.
    pub(super) destination_id: DestinationId,
}

impl Owner<'_> {
    /// The bytes that sealed values are bound to. Every part has its length before it or a fixed one, so no
    /// two places have the same.
    fn place(&self, field: Field<'_>) -> Vec<u8> {
        let mut place = b"signalpost destination secret 1\0".to_vec();
        let mut part = |bytes: &[u8]| {
            place.extend_from_slice(&u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
            place.extend_from_slice(bytes);
        };
        part(self.organization_id.as_bytes());
        part(self.destination_id.as_bytes());
        match field {
            Field::Url => part(b"url"),
            Field::Signing => part(b"signing"),
            Field::Retiring => part(b"retiring"),
            Field::HttpAuth => part(b"http_auth"),
            Field::Header(position, name) => {
                part(b"header");
                part(position.to_string().as_bytes());
                part(name.as_bytes());
            }
        }
        place
    }
}

/// What stored secrets are sealed under.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Seals {
    /// How many are stored in the clear.
    pub clear: usize,
    /// How many are sealed, by key.
    pub by_key: BTreeMap<KeyId, usize>,
}

impl Seals {
    /// How many there are.
    #[must_use]
    pub fn total(&self) -> usize {
        self.by_key.values().sum::<usize>() + self.clear
    }

    /// Whether all are sealed under this key.
    #[must_use]
    pub fn are_under(&self, key: KeyId) -> bool {
        self.clear == 0 && self.by_key.keys().all(|used| *used == key)
    }

    /// How many are not sealed under this key.
    #[must_use]
    pub fn without(&self, key: KeyId) -> usize {
        self.total() - self.by_key.get(&key).copied().unwrap_or(0)
    }

    /// Adds those of another record.
    pub fn extend(&mut self, others: &Seals) {
        self.clear += others.clear;
        for (key, count) in &others.by_key {
            *self.by_key.entry(*key).or_default() += count;
        }
    }

    pub(super) fn count(&mut self, record: &SecretRecord) {
        self.clear += usize::from(record.value.is_some());
        self.count_sealed(record.sealed.as_ref());
    }

    pub(super) fn count_header(&mut self, record: &HeaderRecord) {
        self.clear += usize::from(record.sealed.is_none());
        self.count_sealed(record.sealed.as_ref());
    }

    fn count_sealed(&mut self, sealed: Option<&SealedRecord>) {
        if let Some(key) = sealed.and_then(|sealed| KeyId::from_slice(&sealed.key_id)) {
            *self.by_key.entry(key).or_default() += 1;
        }
    }
}

pub(super) fn encode_secret(
    keyring: &Keyring,
    (owner, field): (Owner<'_>, Field<'_>),
    source: &SecretSource,
) -> Result<SecretRecord, StoreError> {
    let mut record = SecretRecord::default();
    match source {
        SecretSource::Value(secret) => record.sealed = Some(conceal(keyring, &owner.place(field), secret)?),
        SecretSource::EnvironmentVariable(name) => record.variable = Some(name.clone()),
        SecretSource::File(path) => record.file = Some(path.as_os_str().as_bytes().to_vec()),
    }
    Ok(record)
}

pub(super) fn restore_secret(
    keyring: &Keyring,
    (owner, field): (Owner<'_>, Field<'_>),
    record: SecretRecord,
) -> Result<SecretSource, String> {
    match (record.value, record.variable, record.file, record.sealed) {
        (Some(value), None, None, None) => Ok(SecretSource::Value(in_the_clear(value)?)),
        (None, Some(name), None, None) => Ok(SecretSource::EnvironmentVariable(name)),
        (None, None, Some(path), None) => Ok(SecretSource::File(PathBuf::from(OsString::from_vec(path)))),
        (None, None, None, Some(sealed)) => {
            Ok(SecretSource::Value(reveal(keyring, &owner.place(field), sealed)?))
        }
        _ => Err("a secret has no source or several".into()),
    }
}

pub(super) fn encode_headers(
    keyring: &Keyring,
    owner: Owner<'_>,
    headers: &[Header],
) -> Result<Vec<HeaderRecord>, StoreError> {
    let encode = |(position, header): (usize, &Header)| {
        let place = owner.place(Field::Header(position, &header.name));
        let sealed = Some(conceal(keyring, &place, &header.value)?);
        Ok(HeaderRecord { name: header.name.clone(), value: Vec::new(), sealed })
    };
    headers.iter().enumerate().map(encode).collect()
}

pub(super) fn restore_headers(
    keyring: &Keyring,
    owner: Owner<'_>,
    records: Vec<HeaderRecord>,
) -> Result<Vec<Header>, String> {
    let restore = |(position, record): (usize, HeaderRecord)| {
        let value = match record.sealed {
            Some(sealed) => reveal(keyring, &owner.place(Field::Header(position, &record.name)), sealed)?,
            None => in_the_clear(record.value)?,
        };
        Ok(Header { name: record.name, value })
    };
    records.into_iter().enumerate().map(restore).collect()
}

/// The stored form of a secret.
fn conceal(keyring: &Keyring, place: &[u8], secret: &Secret) -> Result<SealedRecord, StoreError> {
    let sealed = keyring.seal(place, secret);
    let Sealed { key_id, nonce, ciphertext } =
        sealed.map_err(|error| StoreError::Unavailable(error.to_string()))?;
    Ok(SealedRecord { key_id: key_id.as_bytes().to_vec(), nonce, ciphertext })
}

/// The secret out of its stored form.
fn reveal(keyring: &Keyring, place: &[u8], record: SealedRecord) -> Result<Secret, String> {
    let SealedRecord { key_id, nonce, ciphertext } = record;
    let key_id = KeyId::from_slice(&key_id).ok_or("the id of its key has another length")?;
    keyring.open(place, &Sealed { key_id, nonce, ciphertext })
}

/// A secret as earlier versions stored it.
fn in_the_clear(stored: Vec<u8>) -> Result<Secret, String> {
    crate::store::keyring::into_secret(stored)
}

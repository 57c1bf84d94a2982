//! Destinations, their health, and organizations.
//!
//! Destinations and organizations may be larger than one value and are stored in chunks.

use bytes::Bytes;
use prost::Message;

use super::secret::{
    Field, HeaderRecord, Owner, Seals, SecretRecord, encode_headers, encode_secret, restore_headers,
    restore_secret,
};
use super::settings::{
    SettingsRecord, SubscriptionRecord, encode_settings, encode_subscription, restore_settings,
    restore_subscription,
};
use super::{Place, codes, cut, join, seal, split, unseal};
use crate::domain::contract::Contract;
use crate::domain::destination::{
    Destination, DestinationHealth, DestinationState, DestinationUrl, DisabledReason,
};
use crate::domain::id::{DestinationId, OrganizationId};
use crate::domain::organization::Organization;
use crate::domain::secret::{HttpAuth, RetiringSecret, Secret, SecretSource, SigningSecrets};
use crate::domain::time::Timestamp;
use crate::store::StoreError;
use crate::store::keyring::Keyring;

/// How much of the last error's text is kept with the health.
const LAST_ERROR_BYTES: usize = 2048;

#[derive(Clone, PartialEq, Message)]
struct DestinationRecord {
    #[prost(string, tag = "1")]
    organization_id: String,
    #[prost(string, tag = "2")]
    display_name: String,
    /// In the clear, by an earlier version; otherwise empty.
    #[prost(string, tag = "3")]
    url: String,
    #[prost(uint32, tag = "4")]
    contract: u32,
    #[prost(message, optional, tag = "5")]
    subscription: Option<SubscriptionRecord>,
    #[prost(message, optional, tag = "6")]
    settings: Option<SettingsRecord>,
    #[prost(message, optional, tag = "7")]
    current_secret: Option<SecretRecord>,
    #[prost(message, optional, tag = "8")]
    retiring_secret: Option<SecretRecord>,
    #[prost(sint64, tag = "9")]
    retiring_until: i64,
    /// Present for Basic.
    #[prost(string, optional, tag = "10")]
    username: Option<String>,
    /// The password or the token; absent: no authentication.
    #[prost(message, optional, tag = "11")]
    http_secret: Option<SecretRecord>,
    #[prost(message, repeated, tag = "12")]
    headers: Vec<HeaderRecord>,
    /// Active, paused or disabled.
    #[prost(uint32, tag = "13")]
    state: u32,
    #[prost(sint64, tag = "14")]
    state_since: i64,
    #[prost(sint64, tag = "16")]
    created_at: i64,
    #[prost(sint64, tag = "17")]
    updated_at: i64,
    #[prost(uint64, tag = "18")]
    revision: u64,
    /// There may be a token of the receiver in it.
    #[prost(message, optional, tag = "19")]
    sealed_url: Option<SecretRecord>,
}

#[derive(Clone, PartialEq, Message)]
struct HealthRecord {
    #[prost(string, optional, tag = "1")]
    last_error: Option<String>,
    #[prost(sint64, optional, tag = "2")]
    last_failure_at: Option<i64>,
    #[prost(sint64, optional, tag = "3")]
    last_success_at: Option<i64>,
    #[prost(uint32, tag = "4")]
    consecutive_failures: u32,
    #[prost(sint64, optional, tag = "5")]
    failing_since: Option<i64>,
    #[prost(sint64, optional, tag = "6")]
    confirmed_at: Option<i64>,
    #[prost(sint64, optional, tag = "7")]
    circuit_opened_at: Option<i64>,
}

#[derive(Clone, PartialEq, Message)]
struct OrganizationRecord {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    display_name: String,
    #[prost(string, tag = "3")]
    plan: String,
    #[prost(sint64, tag = "4")]
    created_at: i64,
    #[prost(sint64, tag = "5")]
    updated_at: i64,
    #[prost(uint64, tag = "6")]
    revision: u64,
}

codes!(contract_code, contract, Contract, {
    Contract::Semaphor = 1, Contract::Stalwart = 2, Contract::Workspace = 3, Contract::Observer = 4,
    Contract::StandardWebhooks = 5, Contract::CloudEvents = 6,
});

/// The stored form of a destination, in chunks, its secrets sealed.
///
/// # Errors
/// [`StoreError::Unavailable`] where the system gives no random bytes.
pub fn encode_destination(destination: &Destination, keyring: &Keyring) -> Result<Vec<Vec<u8>>, StoreError> {
    let owner =
        Owner { organization_id: destination.organization_id.as_str(), destination_id: destination.id };
    let conceal = |field, source| encode_secret(keyring, (owner, field), source);
    let (state, since) = state_code(&destination.state);
    let (username, http_secret) = match &destination.http_auth {
        HttpAuth::Unauthenticated => (None, None),
        HttpAuth::Basic { username, secret } => {
            (Some(username.clone()), Some(conceal(Field::HttpAuth, secret)?))
        }
        HttpAuth::Bearer { token } => (None, Some(conceal(Field::HttpAuth, token)?)),
    };
    let current = destination.signing.current.as_ref();
    let retiring = destination.signing.retiring.as_ref();
    let record = DestinationRecord {
        organization_id: destination.organization_id.as_str().to_owned(),
        display_name: destination.display_name.clone(),
        url: String::new(),
        sealed_url: Some(conceal(Field::Url, &SecretSource::Value(Secret::new(destination.url.as_str())))?),
        contract: contract_code(destination.contract),
        subscription: Some(encode_subscription(&destination.subscription)),
        settings: Some(encode_settings(&destination.settings)),
        current_secret: current.map(|current| conceal(Field::Signing, current)).transpose()?,
        retiring_secret: retiring.map(|it| conceal(Field::Retiring, &it.source)).transpose()?,
        retiring_until: retiring.map_or(0, |retiring| retiring.until.as_millis()),
        username,
        http_secret,
        headers: encode_headers(keyring, owner, &destination.headers)?,
        state,
        state_since: since.as_millis(),
        created_at: destination.created_at.as_millis(),
        updated_at: destination.updated_at.as_millis(),
        revision: destination.revision,
    };
    Ok(split(&record.encode_to_vec()))
}

const fn state_code(state: &DestinationState) -> (u32, Timestamp) {
    match *state {
        DestinationState::Active => (1, Timestamp::from_millis(0)),
        DestinationState::Paused { since } => (2, since),
        DestinationState::Disabled { since, reason: DisabledReason::ByCaller } => (3, since),
        DestinationState::Disabled { since, reason: DisabledReason::Gone } => (4, since),
        DestinationState::Disabled { since, reason: DisabledReason::Failing } => (5, since),
    }
}

/// What the secrets of a stored destination are sealed under; no key is needed to see that.
///
/// # Errors
/// [`StoreError::Corrupt`].
pub fn seals_of_destination<C: AsRef<[u8]>>(id: DestinationId, chunks: &[C]) -> Result<Seals, StoreError> {
    let record = read_record(id, chunks)?;
    let mut seals = Seals::default();
    let secrets = [&record.sealed_url, &record.current_secret, &record.retiring_secret, &record.http_secret];
    secrets.into_iter().flatten().for_each(|secret| seals.count(secret));
    seals.clear += usize::from(record.sealed_url.is_none());
    record.headers.iter().for_each(|header| seals.count_header(header));
    Ok(seals)
}

/// The destination out of its chunks.
///
/// # Errors
/// [`StoreError::Corrupt`].
pub fn decode_destination<C: AsRef<[u8]>>(
    id: DestinationId,
    chunks: &[C],
    keyring: &Keyring,
) -> Result<Destination, StoreError> {
    let record = read_record(id, chunks)?;
    let place = Place::new("destination", id.as_bytes());
    restore_destination(id, record, keyring).map_err(|problem| place.corrupt(problem))
}

fn read_record<C: AsRef<[u8]>>(id: DestinationId, chunks: &[C]) -> Result<DestinationRecord, StoreError> {
    let place = Place::new("destination", id.as_bytes());
    DestinationRecord::decode(join(place, chunks)?).map_err(|error| place.corrupt(error))
}

fn restore_destination(
    id: DestinationId,
    record: DestinationRecord,
    keyring: &Keyring,
) -> Result<Destination, String> {
    let owner = Owner { organization_id: &record.organization_id, destination_id: id };
    let reveal = |field, record| restore_secret(keyring, (owner, field), record);
    let url = match record.sealed_url.map(|url| reveal(Field::Url, url)).transpose()? {
        Some(SecretSource::Value(url)) => DestinationUrl::parse(url.expose(), true)?,
        Some(_) => return Err("a URL is named and not given".into()),
        None => DestinationUrl::parse(&record.url, true)?,
    };
    let since = Timestamp::from_millis(record.state_since);
    let state = match record.state {
        1 => DestinationState::Active,
        2 => DestinationState::Paused { since },
        3 => DestinationState::Disabled { since, reason: DisabledReason::ByCaller },
        4 => DestinationState::Disabled { since, reason: DisabledReason::Gone },
        5 => DestinationState::Disabled { since, reason: DisabledReason::Failing },
        other => return Err(format!("{other} stands for no state")),
    };
    let http_auth = match (record.username, record.http_secret) {
        (Some(username), Some(secret)) => {
            HttpAuth::Basic { username, secret: reveal(Field::HttpAuth, secret)? }
        }
        (None, Some(token)) => HttpAuth::Bearer { token: reveal(Field::HttpAuth, token)? },
        (_, None) => HttpAuth::Unauthenticated,
    };
    let until = Timestamp::from_millis(record.retiring_until);
    let retiring = record.retiring_secret.map(|secret| reveal(Field::Retiring, secret)).transpose()?;
    let signing = SigningSecrets {
        current: record.current_secret.map(|secret| reveal(Field::Signing, secret)).transpose()?,
        retiring: retiring.map(|source| RetiringSecret { source, until }),
    };
    Ok(Destination {
        id,
        organization_id: OrganizationId::parse(&record.organization_id)?,
        display_name: record.display_name,
        // Whether plain http is allowed was judged before it was stored.
        url,
        contract: contract(record.contract)?,
        subscription: restore_subscription(&record.subscription.unwrap_or_default())?,
        settings: restore_settings(record.settings.unwrap_or_default())?,
        signing,
        http_auth,
        headers: restore_headers(keyring, owner, record.headers)?,
        state,
        created_at: Timestamp::from_millis(record.created_at),
        updated_at: Timestamp::from_millis(record.updated_at),
        revision: record.revision,
    })
}

/// The stored form of a destination's health; of a long error text only the beginning.
#[must_use]
pub fn encode_health(health: &DestinationHealth) -> Vec<u8> {
    seal(&HealthRecord {
        last_error: health.last_error.as_deref().map(|text| cut(text, LAST_ERROR_BYTES).to_owned()),
        last_failure_at: health.last_failure_at.map(Timestamp::as_millis),
        last_success_at: health.last_success_at.map(Timestamp::as_millis),
        consecutive_failures: health.consecutive_failures,
        failing_since: health.failing_since.map(Timestamp::as_millis),
        confirmed_at: health.confirmed_at.map(Timestamp::as_millis),
        circuit_opened_at: health.circuit_opened_at.map(Timestamp::as_millis),
    })
}

/// The health out of its stored form.
///
/// # Errors
/// [`StoreError::Corrupt`].
pub fn decode_health(id: DestinationId, stored: &[u8]) -> Result<DestinationHealth, StoreError> {
    let record: HealthRecord = unseal(Place::new("health", id.as_bytes()), stored)?;
    Ok(DestinationHealth {
        last_error: record.last_error,
        last_failure_at: record.last_failure_at.map(Timestamp::from_millis),
        last_success_at: record.last_success_at.map(Timestamp::from_millis),
        consecutive_failures: record.consecutive_failures,
        failing_since: record.failing_since.map(Timestamp::from_millis),
        confirmed_at: record.confirmed_at.map(Timestamp::from_millis),
        circuit_opened_at: record.circuit_opened_at.map(Timestamp::from_millis),
    })
}

/// The stored form of an organization, in chunks.
#[must_use]
pub fn encode_organization(organization: &Organization) -> Vec<Vec<u8>> {
    let record = OrganizationRecord {
        id: organization.id.as_str().to_owned(),
        display_name: organization.display_name.clone(),
        plan: organization.plan.clone(),
        created_at: organization.created_at.as_millis(),
        updated_at: organization.updated_at.as_millis(),
        revision: organization.revision,
    };
    split(&record.encode_to_vec())
}

/// The organization out of its chunks.
///
/// # Errors
/// [`StoreError::Corrupt`].
pub fn decode_organization<C: AsRef<[u8]>>(key: &[u8], chunks: &[C]) -> Result<Organization, StoreError> {
    let place = Place::new("organization", key);
    let whole: Bytes = join(place, chunks)?;
    let record = OrganizationRecord::decode(whole).map_err(|error| place.corrupt(error))?;
    Ok(Organization {
        id: OrganizationId::parse(&record.id).map_err(|problem| place.corrupt(problem))?,
        display_name: record.display_name,
        plan: record.plan,
        created_at: Timestamp::from_millis(record.created_at),
        updated_at: Timestamp::from_millis(record.updated_at),
        revision: record.revision,
    })
}

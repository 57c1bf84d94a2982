//! Destinations: drafts and patches in, what there is out.

use super::policy::{write_delays, write_policy};
use super::secret::{
    read_headers, read_http_auth, read_signing_secret, write_headers, write_http_auth, write_summary,
};
use super::settings::{overridden_fields, read_settings, write_settings};
use super::subscription::{read_subscription, write_effective, write_subscription};
use super::time::write_timestamp;
use super::{count, known, required};
use crate::contract;
use crate::control::destination::DestinationView;
use crate::control::destination_patch::{HeaderChange, HttpAuthChange, SecretChange};
use crate::domain::circuit::CircuitState;
use crate::domain::contract::Contract;
use crate::domain::destination::{Destination, DestinationDraft, DestinationState, DisabledReason, Header};
use crate::domain::secret::{HttpAuth, SecretSource};
use crate::domain::time::Timestamp;
use crate::domain::violation::{Rule, Violations};
use crate::grpc::proto::v1;
use crate::grpc::status::etag;
use crate::policy::concurrency::Concurrency;

/// Where the paths of a destination begin.
pub const PATH: &str = "destination";

/// Reads a whole destination, for creating or testing one: nothing is stored that could be kept.
///
/// There is no draft without a contract; with any other violation there is one, so that the rest of it can
/// be checked too.
pub fn read_draft(destination: v1::Destination, found: &mut Violations) -> Option<DestinationDraft> {
    let at = |field: &str| format!("{PATH}.{field}");
    let contract = read_contract(destination.contract, &at("contract"), found);
    let subscription = destination.subscription;
    let subscription = subscription.map(|given| read_subscription(&given, &at("subscription"), found));
    let settings = destination.settings.unwrap_or_default();
    let settings = read_settings(settings, &at("settings"), found);
    let signing_secret = match read_signing_secret(destination.signing_secret, &at("signing_secret"), found) {
        SecretChange::Set(source) => Some(source),
        SecretChange::Untouched | SecretChange::Stored | SecretChange::Remove => None,
    };
    let http_auth = destination.http_auth.and_then(|auth| read_http_auth(auth, &at("http_auth"), found));
    let http_auth = http_auth.map_or(HttpAuth::Unauthenticated, |change| whole_http_auth(change, found));
    let headers = whole_headers(read_headers(destination.headers), found);
    Some(DestinationDraft {
        display_name: destination.display_name,
        url: destination.url,
        contract: contract?,
        subscription,
        settings,
        signing_secret,
        http_auth,
        headers,
        enabled: destination.enabled.unwrap_or(true),
    })
}

fn whole_http_auth(change: HttpAuthChange, found: &mut Violations) -> HttpAuth {
    let mut needed = |secret: Option<SecretSource>, field: &str| {
        if secret.is_none() {
            required(&format!("{PATH}.http_auth.{field}"), "give the secret", found);
        }
        secret
    };
    let auth = match change {
        HttpAuthChange::Unauthenticated => None,
        HttpAuthChange::Basic { username, secret } => {
            needed(secret, "basic.password").map(|secret| HttpAuth::Basic { username, secret })
        }
        HttpAuthChange::Bearer { token } => {
            needed(token, "bearer.token").map(|token| HttpAuth::Bearer { token })
        }
    };
    auth.unwrap_or_default()
}

fn whole_headers(changes: Vec<HeaderChange>, found: &mut Violations) -> Vec<Header> {
    let mut headers = Vec::with_capacity(changes.len());
    for (position, HeaderChange { name, value }) in changes.into_iter().enumerate() {
        match value {
            Some(value) => headers.push(Header { name, value }),
            None => required(&format!("{PATH}.headers[{position}].value"), "give the value", found),
        }
    }
    headers
}

fn read_contract(raw: i32, path: &str, found: &mut Violations) -> Option<Contract> {
    let contract = known(raw, path, found)?;
    let read = read_contract_filter(contract);
    if read.is_none() {
        let names = Contract::ALL.map(|contract| format!("CONTRACT_{contract}")).join(", ");
        required(path, &format!("give one of {names}"), found);
    }
    read
}

/// Reads a contract; unspecified is `None`.
pub const fn read_contract_filter(contract: v1::Contract) -> Option<Contract> {
    match contract {
        v1::Contract::Unspecified => None,
        v1::Contract::Semaphor => Some(Contract::Semaphor),
        v1::Contract::Stalwart => Some(Contract::Stalwart),
        v1::Contract::Workspace => Some(Contract::Workspace),
        v1::Contract::Observer => Some(Contract::Observer),
        v1::Contract::StandardWebhooks => Some(Contract::StandardWebhooks),
        v1::Contract::Cloudevents => Some(Contract::CloudEvents),
    }
}

/// Writes a contract.
pub const fn write_contract(contract: Contract) -> v1::Contract {
    match contract {
        Contract::Semaphor => v1::Contract::Semaphor,
        Contract::Stalwart => v1::Contract::Stalwart,
        Contract::Workspace => v1::Contract::Workspace,
        Contract::Observer => v1::Contract::Observer,
        Contract::StandardWebhooks => v1::Contract::StandardWebhooks,
        Contract::CloudEvents => v1::Contract::Cloudevents,
    }
}

/// Reads an etag: the revision that the caller has read.
pub fn read_etag(text: &str, path: &str, found: &mut Violations) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    let revision = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let revision = revision.and_then(|digits| digits.parse().ok());
    if revision.is_none() {
        found.add_as(
            Rule::Malformed,
            path,
            "is no etag of this server; give the one that was read, quotes included",
        );
    }
    revision
}

/// Writes a destination with its effective policy and its health.
pub fn write_destination(view: &DestinationView) -> v1::Destination {
    let destination: &Destination = &view.destination;
    let (state, disabled_reason, since) = write_state(&destination.state);
    v1::Destination {
        destination_id: destination.id.to_string(),
        display_name: destination.display_name.clone(),
        url: destination.url.as_str().to_owned(),
        contract: write_contract(destination.contract).into(),
        subscription: Some(write_subscription(&destination.subscription)),
        settings: Some(write_settings(&destination.settings)),
        signing_secret: None,
        http_auth: Some(write_http_auth(&destination.http_auth)),
        headers: write_headers(&destination.headers),
        enabled: Some(destination.state.is_routed_to()),
        state: state.into(),
        disabled_reason: disabled_reason.into(),
        state_time: since.map(write_timestamp),
        effective_policy: Some(v1::EffectivePolicy {
            settings: Some(write_policy(&view.policy, destination.contract)),
            overridden_fields: overridden_fields(&destination.settings),
            subscription: Some(write_effective(
                &destination.subscription,
                contract::catalogue(destination.contract),
            )),
            retry_delays: write_delays(&view.policy),
            signed: destination.signing.current.is_some(),
        }),
        health: Some(write_health(view)),
        signing_secret_summary: Some(write_summary(&destination.signing)),
        create_time: Some(write_timestamp(destination.created_at)),
        update_time: Some(write_timestamp(destination.updated_at)),
        etag: etag(destination.revision),
    }
}

/// The state and the reason of a state, and since when; an active one does not say since when.
const fn write_state(
    state: &DestinationState,
) -> (v1::DestinationState, v1::DisabledReason, Option<Timestamp>) {
    match state {
        DestinationState::Active => (v1::DestinationState::Active, v1::DisabledReason::Unspecified, None),
        DestinationState::Paused { since } => {
            (v1::DestinationState::Paused, v1::DisabledReason::Unspecified, Some(*since))
        }
        DestinationState::Disabled { since, reason } => {
            (v1::DestinationState::Disabled, write_reason(*reason), Some(*since))
        }
    }
}

const fn write_reason(reason: DisabledReason) -> v1::DisabledReason {
    match reason {
        DisabledReason::ByCaller => v1::DisabledReason::ByCaller,
        DisabledReason::Gone => v1::DisabledReason::Gone,
        DisabledReason::Failing => v1::DisabledReason::Failing,
    }
}

fn write_health(view: &DestinationView) -> v1::DestinationHealth {
    let health = &view.health;
    let backlog = view.backlog.unwrap_or_default();
    let in_memory = usize::try_from(view.lane.waiting_in_memory).unwrap_or(usize::MAX);
    let reachability = match health.confirmed_at {
        Some(_) => v1::Reachability::Confirmed,
        None => v1::Reachability::Unconfirmed,
    };
    v1::DestinationHealth {
        last_error: health.last_error.clone().unwrap_or_default(),
        last_failure_time: health.last_failure_at.map(write_timestamp),
        last_success_time: health.last_success_at.map(write_timestamp),
        consecutive_failure_count: count(health.consecutive_failures),
        circuit_state: write_circuit(view.lane.circuit).into(),
        next_probe_time: view.lane.next_probe_at.map(write_timestamp),
        reachability: reachability.into(),
        reachability_confirm_time: health.confirmed_at.map(write_timestamp),
        waiting_count: i64::try_from(backlog.count.max(in_memory)).unwrap_or(i64::MAX),
        in_flight_count: count(view.lane.in_flight),
        oldest_waiting_time: backlog.oldest.map(write_timestamp),
        dead_letter_count: i64::try_from(backlog.dead_letters).unwrap_or(i64::MAX),
        current_concurrency: count(current_concurrency(view)),
    }
}

const fn write_circuit(circuit: CircuitState) -> v1::CircuitState {
    match circuit {
        CircuitState::Closed => v1::CircuitState::Closed,
        CircuitState::Open => v1::CircuitState::Open,
        CircuitState::HalfOpen => v1::CircuitState::HalfOpen,
    }
}

/// What the lane allows; where there is none, what one would begin with.
fn current_concurrency(view: &DestinationView) -> u32 {
    match view.lane.concurrency {
        0 if view.policy.ordered => 1,
        0 => Concurrency::new(view.policy.max_concurrency, view.health.consecutive_failures, true).limit(),
        limit => limit,
    }
}

#[cfg(test)]
#[path = "destination_tests.rs"]
mod tests;

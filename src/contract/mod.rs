//! The six contracts: how events become a request that a receiver understands.
//!
//! Pure: a contract takes a destination, events, secrets and a moment, and returns the exact bytes to
//! send. [`render`] is the only maker of a [`RenderedRequest`], so nothing unsigned can be sent by
//! mistake. Each contract has a file of its own with its body, its defaults, its catalogue and its test
//! event; `signature` and `key` have the schemes that they share, `headers` has who owns which header,
//! `json` and `members` put JSON together and take it apart without touching the customers' bytes,
//! `baseline` has what most contracts have in common.

mod baseline;
mod cloudevents;
mod headers;
mod json;
mod key;
mod members;
mod observer;
mod operational;
mod semaphor;
mod signature;
mod stalwart;
mod standard_webhooks;
mod workspace;

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod promises;

pub use headers::basic_credentials;
pub use operational::operational_event;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use url::Url;

use crate::domain::contract::{CloudEventsMode, Contract};
use crate::domain::destination::Destination;
use crate::domain::event::{Event, EventType, Level};
use crate::domain::id::{DestinationId, OrganizationId};
use crate::domain::operational::OPERATIONAL_PREFIX;
use crate::domain::secret::Secret;
use crate::domain::settings::EffectivePolicy;
use crate::domain::subscription::{Match, Subscription};
use crate::domain::time::Timestamp;
use crate::domain::trace::TraceContext;

/// Makes the complete request for one event, or for several where the contract groups.
///
/// The bodies and headers are those of seeds 000 to 003, of Standard Webhooks 1.0.0 and of CloudEvents
/// 1.0 with its HTTP binding. The same input gives the same bytes; over attempts, only what tells the
/// attempt (its number, its time and what they sign) changes.
///
/// # Errors
/// No event, several events for a contract that does not group, a secret that is missing or can't sign,
/// or stored data that is no JSON object: a sentence for the delivery's record.
pub fn render(context: RenderContext<'_>, events: &[&Event]) -> Result<RenderedRequest, RenderProblem> {
    let RenderContext { destination, policy, secrets, .. } = context;
    let first = check_count(destination.contract, policy.cloudevents_mode, events)?;
    check_secrets(destination, secrets)?;
    let content = match destination.contract {
        Contract::Semaphor => semaphor::content(first)?,
        Contract::Stalwart => stalwart::content(events),
        Contract::Workspace => workspace::content(first),
        Contract::Observer => observer::content(first),
        Contract::StandardWebhooks => standard_webhooks::content(first),
        Contract::CloudEvents => cloudevents::content(policy, first, events)?,
    };
    let mut headers = headers::of_request(context, events, &content)?;
    signature::sign(&mut headers, context, events, &content.body)?;
    Ok(RenderedRequest { url: destination.url.as_url().clone(), headers, body: content.body })
}

/// What is in force on a destination that sets nothing: the promises of the contract's source.
#[must_use]
pub fn defaults(contract: Contract) -> EffectivePolicy {
    match contract {
        Contract::Semaphor => semaphor::defaults(),
        Contract::Stalwart => stalwart::defaults(),
        Contract::Workspace => workspace::defaults(),
        Contract::Observer => observer::defaults(),
        Contract::StandardWebhooks => standard_webhooks::defaults(),
        Contract::CloudEvents => cloudevents::defaults(),
    }
}

/// What is in force for a destination: its settings over its contract's defaults.
///
/// Two defaults follow from settings: STALWART's backoff starts from the throttle (seed 001), and only
/// contracts that group have more than one event in a request.
#[must_use]
pub fn effective_policy(destination: &Destination) -> EffectivePolicy {
    let settings = &destination.settings;
    let mut policy = defaults(destination.contract).overridden_by(settings);
    if destination.contract == Contract::Stalwart && settings.retry.is_none() {
        policy.retry = stalwart::retry_from(policy.throttle);
    }
    if !groups(destination.contract, policy.cloudevents_mode) {
        policy.max_batch_events = 1;
    }
    policy
}

/// The event types that the contract's source names.
#[must_use]
pub fn catalogue(contract: Contract) -> Catalogue {
    match contract {
        Contract::Semaphor => Catalogue::Closed(&semaphor::EVENT_TYPES),
        Contract::Stalwart => Catalogue::Open(&stalwart::EVENT_TYPES),
        Contract::Workspace => Catalogue::Closed(&workspace::EVENT_TYPES),
        Contract::Observer => Catalogue::Closed(&observer::EVENT_TYPES),
        Contract::StandardWebhooks => Catalogue::Open(&standard_webhooks::EVENT_TYPES),
        Contract::CloudEvents => Catalogue::Open(&cloudevents::EVENT_TYPES),
    }
}

/// What a destination wants that says nothing about it.
///
/// Closed catalogues are listed type by type, so that a caller sees what can be unticked; open ones
/// exclude nothing. STALWART starts at level `info`, as upstream does (seed 001).
#[must_use]
pub fn default_subscription(contract: Contract) -> Subscription {
    match (contract, catalogue(contract)) {
        (_, Catalogue::Closed(types)) => baseline::subscription_to(types),
        (Contract::Stalwart, Catalogue::Open(_)) => stalwart::default_subscription(),
        (_, Catalogue::Open(_)) => Subscription::default(),
    }
}

/// The event that `TestDestination` sends; no subscription asks for it and no store keeps it.
///
/// SEMAPHOR's is the sample of seed 000, key by key; the others say in plain words that it is a test.
#[must_use]
pub fn test_event(contract: Contract, order: TestOrder<'_>) -> Event {
    match contract {
        Contract::Semaphor => semaphor::test_event(order),
        Contract::Stalwart
        | Contract::Workspace
        | Contract::Observer
        | Contract::StandardWebhooks
        | Contract::CloudEvents => baseline::test_event(order),
    }
}

/// Whether a text can sign for the contract.
///
/// STANDARD_WEBHOOKS and CLOUDEVENTS take `whsec_` and 24 to 64 bytes in base64 (padded or not), or
/// `whsk_` and an Ed25519 seed or key pair; the others take any text as it is.
///
/// # Errors
/// A sentence that says what would be right and shows nothing of the secret.
pub fn check_signing_secret(contract: Contract, secret: &Secret) -> Result<(), String> {
    signature::check_secret(contract, secret)
}

/// A new signing secret out of 32 random bytes, in the form that the contract's receivers expect.
#[must_use]
pub fn generate_secret(contract: Contract, random: [u8; 32]) -> Secret {
    signature::generate_secret(contract, random)
}

/// Whether a destination may have this custom header.
///
/// Names and values are those that HTTP can carry (RFC 9110, section 5), 128 and 4096 bytes at most.
/// What frames the request, what belongs to the connection and what the contract or its signature owns
/// can't be set.
///
/// # Errors
/// A sentence that says what is wrong; it shows the name, never the value.
pub fn check_header(contract: Contract, name: &str, value: &str) -> Result<(), String> {
    headers::check(contract, name, value)
}

/// The header that has the signature, spelled as in the contract's source.
#[must_use]
pub fn signature_header(contract: Contract) -> &'static str {
    signature::header(contract)
}

/// Whether requests carry a signature for each secret in force. The others have room for one.
#[must_use]
pub const fn signs_with_all(contract: Contract) -> bool {
    matches!(contract, Contract::StandardWebhooks | Contract::CloudEvents)
}

/// Whether one request may carry several events.
#[must_use]
pub fn groups(contract: Contract, mode: CloudEventsMode) -> bool {
    match contract {
        Contract::Stalwart => true,
        Contract::CloudEvents => mode == CloudEventsMode::Batch,
        Contract::Semaphor | Contract::Workspace | Contract::Observer | Contract::StandardWebhooks => false,
    }
}

/// Whether a minimum level applies (seed 001).
#[must_use]
pub fn has_levels(contract: Contract) -> bool {
    contract == Contract::Stalwart
}

/// Whether a destination gets events of this type and level.
///
/// A closed catalogue is a promise to the receiver: other types never go there, whatever the subscription
/// says. The level counts only where the contract has levels. Operational events have to be listed.
#[must_use]
pub fn wants(destination: &Destination, event_type: &EventType, level: Level) -> bool {
    verdict(destination, event_type, level).is_some_and(Match::is_wanted)
}

/// The rule by which a destination wants an event or not; `None` where its contract has no such type.
#[must_use]
pub fn verdict(destination: &Destination, event_type: &EventType, level: Level) -> Option<Match> {
    if event_type.as_str().starts_with(OPERATIONAL_PREFIX) {
        let listed = destination.subscription.operational.contains(event_type);
        let open = matches!(catalogue(destination.contract), Catalogue::Open(_));
        return Some(if listed && open { Match::Included } else { Match::NotIncluded });
    }
    if let Catalogue::Closed(known) = catalogue(destination.contract)
        && !known.contains(&event_type.as_str())
    {
        return None;
    }
    let level = if has_levels(destination.contract) { level } else { Level::Error };
    Some(destination.subscription.verdict(event_type, level))
}

/// A request that is complete: signed, with all headers, ready to be sent once.
#[derive(Clone)]
pub struct RenderedRequest {
    url: Url,
    headers: HeaderMap,
    body: Bytes,
}

impl RenderedRequest {
    /// Where it goes.
    #[must_use]
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// All headers but `host` and `content-length`.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The exact bytes that were signed.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Any request, for tests of what sends them.
    #[cfg(test)]
    pub fn for_test(url: Url, headers: HeaderMap, body: Bytes) -> Self {
        Self { url, headers, body }
    }
}

/// Secrets, read from where they are, for one request.
#[derive(Debug, Clone, Default)]
pub struct ResolvedSecrets {
    /// Signing secrets, the current one first; the one that a rotation retires after it.
    pub signing: Vec<Secret>,
    /// The password or the token of the destination's HTTP authentication.
    pub http_auth: Option<Secret>,
}

/// What a request is made of, besides the events.
#[derive(Debug, Clone, Copy)]
pub struct RenderContext<'a> {
    /// Where it goes.
    pub destination: &'a Destination,
    /// What is in force there.
    pub policy: &'a EffectivePolicy,
    /// The secrets, resolved.
    pub secrets: &'a ResolvedSecrets,
    /// The time of the attempt.
    pub now: Timestamp,
    /// Which attempt of the (first) delivery this is, from 1.
    pub attempt_number: u32,
    /// The span of the attempt, where the event's caller had a trace and the receiver is to know it.
    pub trace: Option<TraceContext>,
}

/// Which event types a contract knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Catalogue {
    /// Exactly these; others are refused.
    Closed(&'static [&'static str]),
    /// Any type; these are examples.
    Open(&'static [&'static str]),
}

/// What the test event of a contract is made of.
#[derive(Debug, Clone, Copy)]
pub struct TestOrder<'a> {
    /// Whose destination is tested.
    pub organization_id: &'a OrganizationId,
    /// The destination, or the id that stands for the unsaved one.
    pub destination_id: DestinationId,
    /// The URL under test, saved or not.
    pub url: &'a str,
    /// Who asked for the test.
    pub actor_id: &'a str,
    /// The time of the test.
    pub now: Timestamp,
    /// Random, so that two tests never have the same event id.
    pub draw: u64,
}

/// Why an event can't be rendered: a sentence for the delivery's record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RenderProblem(pub String);

/// What a contract's file makes: the part of a request that differs from contract to contract.
struct Content {
    content_type: &'static str,
    /// Headers that carry parts of the event (CloudEvents' binary mode).
    attributes: Vec<(HeaderName, HeaderValue)>,
    body: Bytes,
}

impl Content {
    /// A body of plain JSON, as most contracts have it.
    fn json(body: Bytes) -> Self {
        Self { content_type: "application/json", attributes: Vec::new(), body }
    }
}

fn check_count<'a>(
    contract: Contract,
    mode: CloudEventsMode,
    events: &[&'a Event],
) -> Result<&'a Event, RenderProblem> {
    match events {
        [] => Err(RenderProblem("there is no event to send".into())),
        [event] => Ok(event),
        [first, ..] if groups(contract, mode) => Ok(first),
        several => Err(RenderProblem(format!(
            "{contract} carries one event a request here, and {} were given",
            several.len()
        ))),
    }
}

/// A destination that has a signing secret never gets an unsigned request, whatever the caller forgot.
fn check_secrets(destination: &Destination, secrets: &ResolvedSecrets) -> Result<(), RenderProblem> {
    if destination.signing.current.is_some() && secrets.signing.is_empty() {
        return Err(RenderProblem("the destination's signing secret was not resolved".into()));
    }
    Ok(())
}

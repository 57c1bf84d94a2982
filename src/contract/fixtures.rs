//! Inputs of the tests: each builder needs only what matters to the test.

use bytes::Bytes;

use super::{RenderContext, RenderProblem, RenderedRequest, ResolvedSecrets, default_subscription, defaults};
use crate::domain::contract::{CloudEventsMode, Contract};
use crate::domain::destination::{Destination, DestinationState, DestinationUrl, Header};
use crate::domain::event::{Event, EventType, Level};
use crate::domain::id::{DestinationId, EventId, EventKey, OrganizationId};
use crate::domain::payload::Payload;
use crate::domain::secret::{HttpAuth, Secret, SigningSecrets};
use crate::domain::settings::{DeliverySettings, EffectivePolicy};
use crate::domain::time::Timestamp;
use crate::domain::trace::TraceContext;

/// The moment of all events: that of seed 000's sample.
pub(super) fn moment() -> Timestamp {
    Timestamp::parse_rfc3339("2025-06-15T14:32:08.491Z").unwrap()
}

/// The organization of all events: that of seed 000's sample.
pub(super) fn organization() -> OrganizationId {
    OrganizationId::parse("org_abc123").unwrap()
}

/// The destination's id.
pub(super) fn destination_id() -> DestinationId {
    DestinationId::parse("dest_0197743c4b3f7000800000000000d357").unwrap()
}

/// An event with the data as it is, valid or not.
pub(super) fn event(id: &str, event_type: &str, data: &str) -> Event {
    Event {
        erased_at: None,
        trace: None,
        key: EventKey::MIN.next(moment(), 0),
        id: EventId::parse(id).unwrap(),
        organization_id: organization(),
        event_type: EventType::parse(event_type).unwrap(),
        occurred_at: moment(),
        accepted_at: moment(),
        level: Level::Info,
        data: Payload::from_stored(Bytes::copy_from_slice(data.as_bytes())),
        routes: Vec::new(),
    }
}

/// A signing secret that the contract takes.
pub(super) fn signing_secret(contract: Contract) -> &'static str {
    match contract {
        Contract::StandardWebhooks | Contract::CloudEvents => "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        Contract::Semaphor | Contract::Stalwart | Contract::Workspace | Contract::Observer => "my-secret-key",
    }
}

/// All that a request is made of, besides the events.
pub(super) struct Setup {
    pub(super) destination: Destination,
    pub(super) policy: EffectivePolicy,
    pub(super) secrets: ResolvedSecrets,
    pub(super) now: Timestamp,
    pub(super) attempt_number: u32,
    pub(super) trace: Option<TraceContext>,
}

impl Setup {
    /// A signed destination with the contract's defaults; the first attempt is half a second late.
    pub(super) fn new(contract: Contract) -> Self {
        Self {
            destination: destination(contract),
            policy: defaults(contract),
            secrets: ResolvedSecrets {
                signing: vec![Secret::new(signing_secret(contract))],
                http_auth: None,
            },
            now: moment() + std::time::Duration::from_millis(509),
            attempt_number: 1,
            trace: None,
        }
    }

    pub(super) fn with_mode(mut self, mode: CloudEventsMode) -> Self {
        self.policy.cloudevents_mode = mode;
        self
    }

    pub(super) fn with_secrets(mut self, secrets: &[&str]) -> Self {
        self.secrets.signing = secrets.iter().copied().map(Secret::new).collect();
        self
    }

    pub(super) fn with_header(mut self, name: &str, value: &str) -> Self {
        self.destination.headers.push(Header { name: name.into(), value: Secret::new(value) });
        self
    }

    pub(super) fn with_auth(mut self, auth: HttpAuth, secret: &str) -> Self {
        self.destination.http_auth = auth;
        self.secrets.http_auth = Some(Secret::new(secret));
        self
    }

    pub(super) fn at_attempt(mut self, number: u32, now: Timestamp) -> Self {
        (self.attempt_number, self.now) = (number, now);
        self
    }

    pub(super) fn render(&self, events: &[&Event]) -> Result<RenderedRequest, RenderProblem> {
        let context = RenderContext {
            destination: &self.destination,
            policy: &self.policy,
            secrets: &self.secrets,
            now: self.now,
            attempt_number: self.attempt_number,
            trace: self.trace,
        };
        super::render(context, events)
    }
}

fn destination(contract: Contract) -> Destination {
    Destination {
        id: destination_id(),
        organization_id: organization(),
        display_name: String::new(),
        url: DestinationUrl::parse("https://example.com/webhook", false).unwrap(),
        contract,
        subscription: default_subscription(contract),
        settings: DeliverySettings::default(),
        signing: SigningSecrets::default(),
        http_auth: HttpAuth::Unauthenticated,
        headers: Vec::new(),
        state: DestinationState::Active,
        created_at: moment(),
        updated_at: moment(),
        revision: 1,
    }
}

//! The six contracts: how events become a request that a receiver understands.
//!
//! Pure: a contract takes a destination, events, secrets and a moment, and returns the exact bytes to
//! send. [`render`] is the only maker of a [`RenderedRequest`], so nothing unsigned can be sent by
//! mistake. Each contract has a file of its own with its body, its headers, its defaults, its catalogue
//! and its test event; `signature` has the schemes that they share.

use bytes::Bytes;
use http::HeaderMap;
use url::Url;

use crate::domain::destination::Destination;
use crate::domain::event::Event;
use crate::domain::id::{DestinationId, OrganizationId};
use crate::domain::secret::Secret;
use crate::domain::settings::EffectivePolicy;
use crate::domain::time::Timestamp;

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
}

/// Why an event can't be rendered: a sentence for the delivery's record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RenderProblem(pub String);

#[expect(dead_code, reason = "shapes for the contracts' files")]
fn shapes(_: &Event) {}

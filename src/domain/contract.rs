//! The names of the six contracts.

use std::fmt;
use std::str::FromStr;

/// What receivers of a destination were promised: body, headers, signature, grouping and defaults.
///
/// The closed set; how each looks on the wire is in the `contract` layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Contract {
    /// Semaphor's telemetry webhooks (seed 000).
    Semaphor,
    /// Stalwart's batched webhooks (seed 001).
    Stalwart,
    /// The workspace product's webhooks with dead letters (seed 002).
    Workspace,
    /// Observer's status webhooks (seed 003).
    Observer,
    /// Standard Webhooks 1.0.0.
    StandardWebhooks,
    /// CloudEvents 1.0 over HTTP.
    CloudEvents,
}

impl Contract {
    /// All six.
    pub const ALL: [Contract; 6] = [
        Contract::Semaphor,
        Contract::Stalwart,
        Contract::Workspace,
        Contract::Observer,
        Contract::StandardWebhooks,
        Contract::CloudEvents,
    ];

    /// The name as in the API, without the enum's prefix.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Contract::Semaphor => "SEMAPHOR",
            Contract::Stalwart => "STALWART",
            Contract::Workspace => "WORKSPACE",
            Contract::Observer => "OBSERVER",
            Contract::StandardWebhooks => "STANDARD_WEBHOOKS",
            Contract::CloudEvents => "CLOUDEVENTS",
        }
    }
}

impl FromStr for Contract {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Contract::ALL.into_iter().find(|contract| contract.as_str() == text).ok_or_else(|| {
            let names = Contract::ALL.map(Contract::as_str).join(", ");
            format!("`{text}` is no contract; use one of {names}")
        })
    }
}

impl fmt::Display for Contract {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// How a CloudEvents destination gets its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CloudEventsMode {
    /// One JSON envelope a request.
    #[default]
    Structured,
    /// The data as the body, attributes as `ce-` headers.
    Binary,
    /// An array of envelopes a request.
    Batch,
}

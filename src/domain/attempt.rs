//! Attempts: one HTTP request each, and what the receiver did.
//!
//! What a receiver does is data, not an error: it is recorded, and policy judges it.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use super::id::BatchId;
use super::time::Timestamp;

/// How much of a response body is kept with an attempt, in bytes.
pub const RESPONSE_KEPT_BYTES: usize = 1024;

/// Whose response bodies are kept with their attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ResponseBodies {
    /// Those of receivers at public addresses. What comes out of a network that the operator has opened, or
    /// through a proxy, may be anybody's, and is not shown.
    Public,
    /// Everybody's.
    Always,
    /// Nobody's.
    #[default]
    Never,
}

/// Why an attempt was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// The first one, because the event was routed to the destination.
    Routed,
    /// The one before failed.
    Retry,
    /// Somebody asked for it again.
    Resend,
    /// A dead letter was replayed.
    Replay,
    /// `TestDestination`.
    Test,
}

impl Trigger {
    /// All five.
    pub const ALL: [Trigger; 5] =
        [Trigger::Routed, Trigger::Retry, Trigger::Resend, Trigger::Replay, Trigger::Test];

    /// The lower-case word for logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Trigger::Routed => "routed",
            Trigger::Retry => "retry",
            Trigger::Resend => "resend",
            Trigger::Replay => "replay",
            Trigger::Test => "test",
        }
    }
}

/// What became of one HTTP request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A status line came back.
    Answered {
        /// The status code, 100 to 999.
        status: u16,
        /// How long `Retry-After` asks to wait, counted from the answer.
        retry_after: Option<Duration>,
        /// The first KiB of the body.
        body: Bytes,
    },
    /// No answer; the receiver may or may not have got the request.
    NoAnswer {
        /// What went wrong.
        failure: Failure,
        /// In words, without addresses or secrets.
        detail: String,
    },
    /// Nothing was sent, because of us or of the destination's settings.
    NotSent {
        /// Why not.
        refusal: Refusal,
        /// In words, without addresses or secrets.
        detail: String,
    },
}

/// The ways in which a request gets no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The host name has no address.
    Dns,
    /// Nothing listens at the address.
    Refused,
    /// No connection for another reason, for example because the host is not reachable.
    Connect,
    /// TLS could not be agreed, or the certificate is not valid.
    Tls,
    /// The time for the attempt ran out.
    Timeout,
    /// The connection was closed or reset before an answer came.
    Reset,
    /// What came back is not HTTP.
    InvalidResponse,
}

/// The reasons for not sending at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The address is not one that the operator's policy allows.
    AddressNotAllowed,
    /// A secret could not be read.
    SecretUnavailable,
    /// The event can't be rendered for this contract.
    NotRenderable,
    /// A fault of ours.
    Fault,
}

/// An outcome without its details: the few kinds that can be counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutcomeClass {
    /// Any 2xx.
    Success,
    /// Any 3xx; redirects are never followed.
    Redirect,
    /// Any 4xx.
    ClientError,
    /// Any 5xx.
    ServerError,
    /// Any other status.
    OtherStatus,
    /// [`Failure::Dns`].
    Dns,
    /// [`Failure::Refused`].
    Refused,
    /// [`Failure::Connect`].
    Connect,
    /// [`Failure::Tls`].
    Tls,
    /// [`Failure::Timeout`].
    Timeout,
    /// [`Failure::Reset`].
    Reset,
    /// [`Failure::InvalidResponse`].
    InvalidResponse,
    /// [`Refusal::AddressNotAllowed`].
    AddressNotAllowed,
    /// [`Refusal::SecretUnavailable`].
    SecretUnavailable,
    /// [`Refusal::NotRenderable`].
    NotRenderable,
    /// [`Refusal::Fault`].
    Fault,
}

impl OutcomeClass {
    /// All of them.
    pub const ALL: [OutcomeClass; 16] = [
        OutcomeClass::Success,
        OutcomeClass::Redirect,
        OutcomeClass::ClientError,
        OutcomeClass::ServerError,
        OutcomeClass::OtherStatus,
        OutcomeClass::Dns,
        OutcomeClass::Refused,
        OutcomeClass::Connect,
        OutcomeClass::Tls,
        OutcomeClass::Timeout,
        OutcomeClass::Reset,
        OutcomeClass::InvalidResponse,
        OutcomeClass::AddressNotAllowed,
        OutcomeClass::SecretUnavailable,
        OutcomeClass::NotRenderable,
        OutcomeClass::Fault,
    ];

    /// The lower-case word for logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            OutcomeClass::Success => "success",
            OutcomeClass::Redirect => "redirect",
            OutcomeClass::ClientError => "client_error",
            OutcomeClass::ServerError => "server_error",
            OutcomeClass::OtherStatus => "other_status",
            OutcomeClass::Dns => "dns",
            OutcomeClass::Refused => "refused",
            OutcomeClass::Connect => "connect",
            OutcomeClass::Tls => "tls",
            OutcomeClass::Timeout => "timeout",
            OutcomeClass::Reset => "reset",
            OutcomeClass::InvalidResponse => "invalid_response",
            OutcomeClass::AddressNotAllowed => "address_not_allowed",
            OutcomeClass::SecretUnavailable => "secret_unavailable",
            OutcomeClass::NotRenderable => "not_renderable",
            OutcomeClass::Fault => "fault",
        }
    }
}

impl Outcome {
    /// The kind alone.
    #[must_use]
    pub const fn class(&self) -> OutcomeClass {
        match self {
            Outcome::Answered { status, .. } => match status {
                200..=299 => OutcomeClass::Success,
                300..=399 => OutcomeClass::Redirect,
                400..=499 => OutcomeClass::ClientError,
                500..=599 => OutcomeClass::ServerError,
                _ => OutcomeClass::OtherStatus,
            },
            Outcome::NoAnswer { failure, .. } => match failure {
                Failure::Dns => OutcomeClass::Dns,
                Failure::Refused => OutcomeClass::Refused,
                Failure::Connect => OutcomeClass::Connect,
                Failure::Tls => OutcomeClass::Tls,
                Failure::Timeout => OutcomeClass::Timeout,
                Failure::Reset => OutcomeClass::Reset,
                Failure::InvalidResponse => OutcomeClass::InvalidResponse,
            },
            Outcome::NotSent { refusal, .. } => match refusal {
                Refusal::AddressNotAllowed => OutcomeClass::AddressNotAllowed,
                Refusal::SecretUnavailable => OutcomeClass::SecretUnavailable,
                Refusal::NotRenderable => OutcomeClass::NotRenderable,
                Refusal::Fault => OutcomeClass::Fault,
            },
        }
    }

    /// Whether the receiver took it: any 2xx.
    #[must_use]
    pub const fn is_success(&self) -> bool {
        matches!(self, Outcome::Answered { status: 200..=299, .. })
    }

    /// Whether it is a fault of ours, which says nothing about the receiver.
    #[must_use]
    pub const fn is_fault(&self) -> bool {
        matches!(self, Outcome::NotSent { refusal: Refusal::Fault, .. })
    }

    /// The status code, where one came back.
    #[must_use]
    pub const fn status(&self) -> Option<u16> {
        match self {
            Outcome::Answered { status, .. } => Some(*status),
            Outcome::NoAnswer { .. } | Outcome::NotSent { .. } => None,
        }
    }

    /// What went wrong, in words that help; `None` for a success.
    #[must_use]
    pub fn error(&self) -> Option<String> {
        match self {
            Outcome::Answered { status: 200..=299, .. } => None,
            Outcome::Answered { status: status @ 300..=399, .. } => {
                Some(format!("answered {status}: redirects are never followed; set the final URL"))
            }
            Outcome::Answered { status, .. } => Some(format!("answered {status}")),
            Outcome::NoAnswer { detail, .. } | Outcome::NotSent { detail, .. } => Some(detail.clone()),
        }
    }
}

/// One HTTP request for a delivery or for a batch of deliveries, on the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// 1 for the first attempt of the delivery; it goes on counting over resends and replays.
    pub number: u32,
    /// When the request was begun.
    pub started_at: Timestamp,
    /// From the start to the end of the answer, or to the failure.
    pub round_trip: Duration,
    /// Why it was made.
    pub trigger: Trigger,
    /// What the receiver did.
    pub outcome: Outcome,
    /// How many deliveries the request carried.
    pub batch_size: u32,
    /// Which batch it was, where the request carried more than one delivery.
    pub batch: Option<InBatch>,
    /// The address that was connected to.
    pub remote_address: Option<SocketAddr>,
}

/// The place of a delivery in a request that it shared with others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InBatch {
    /// The same for all deliveries of the request.
    pub id: BatchId,
    /// From 1.
    pub position: u32,
}

impl Attempt {
    /// The same attempt as the record of the delivery that was at this position, from 1, in the request.
    #[must_use]
    pub fn at_position(&self, position: u32) -> Self {
        let batch = self.batch.map(|batch| InBatch { position, ..batch });
        Self { batch, ..self.clone() }
    }
}

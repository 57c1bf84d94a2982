//! How a destination is delivered to: what was set on it, and what is in force.

use std::collections::BTreeSet;
use std::time::Duration;

use super::contract::CloudEventsMode;

/// What a destination was promised about its deliveries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Guarantee {
    /// Durable before the event is acknowledged; duplicates only around a crash.
    AtLeastOnce,
    /// In memory; a crash loses it, a clean stop delivers it.
    BestEffort,
}

/// The delays between attempts.
#[derive(Debug, Clone, PartialEq)]
pub enum RetrySchedule {
    /// The delay before the second attempt, before the third, and so on; its length bounds the attempts.
    Fixed(Vec<Duration>),
    /// `base`, `base·factor`, `base·factor²` …, never more than `cap`.
    Exponential {
        /// The delay before the second attempt.
        base: Duration,
        /// What each delay is multiplied by, at least 1.
        factor: f64,
        /// The longest delay.
        cap: Duration,
    },
}

/// When a failed delivery is attempted again, and when it is given up.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    /// The delays.
    pub schedule: RetrySchedule,
    /// Attempts in all, the first one included; `None`: as many as the schedule or the times allow.
    pub max_attempts: Option<u32>,
    /// A cycle lasts no longer than this: what has not succeeded by then ends, also while it waits.
    pub give_up_after: Option<Duration>,
    /// The largest share of a delay that is added at random, 0.0 to 1.0; it only ever makes later.
    pub jitter: f64,
    /// Statuses that end a delivery at once, besides what the contract says of 410.
    pub final_statuses: BTreeSet<u16>,
}

/// What callers set on a destination; what is absent is the contract's default.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DeliverySettings {
    /// The longest time for one attempt, response included.
    pub timeout: Option<Duration>,
    /// The whole retry policy.
    pub retry: Option<RetryPolicy>,
    /// The least time between the starts of two requests.
    pub throttle: Option<Duration>,
    /// The most events in one request, where the contract groups.
    pub max_batch_events: Option<u32>,
    /// The most body bytes in one request, where the contract groups.
    pub max_batch_bytes: Option<u32>,
    /// Deliveries older than this are discarded, also while they wait.
    pub discard_after: Option<Duration>,
    /// Drop events while the receiver is failing.
    pub lossy: Option<bool>,
    /// Durable or in memory.
    pub guarantee: Option<Guarantee>,
    /// One at a time, in order of acceptance.
    pub ordered: Option<bool>,
    /// The most requests in flight at once.
    pub max_concurrency: Option<u32>,
    /// Accept any certificate of the receiver.
    pub allow_invalid_certificates: Option<bool>,
    /// How CloudEvents are bound to HTTP.
    pub cloudevents_mode: Option<CloudEventsMode>,
    /// The `source` attribute of CloudEvents.
    pub cloudevents_source: Option<String>,
    /// The destination is disabled after this long without any success, from the first failure on.
    pub disable_after: Option<Duration>,
    /// Whether the answer 410 (Gone) disables the destination.
    pub disable_on_gone: Option<bool>,
    /// Whether the start of responses is kept with attempts, where the operator allows it.
    pub keep_response_bodies: Option<bool>,
}

/// What is in force for a destination: its settings over its contract's defaults.
#[derive(Debug, Clone, PartialEq)]
pub struct EffectivePolicy {
    /// The longest time for one attempt, response included.
    pub timeout: Duration,
    /// When to try again, when to give up.
    pub retry: RetryPolicy,
    /// The least time between the starts of two requests; zero means none.
    pub throttle: Duration,
    /// The most events in one request; 1 where the contract does not group.
    pub max_batch_events: u32,
    /// The most body bytes in one request.
    pub max_batch_bytes: u32,
    /// Deliveries older than this are discarded.
    pub discard_after: Option<Duration>,
    /// Drop events while the receiver is failing.
    pub lossy: bool,
    /// Durable or in memory.
    pub guarantee: Guarantee,
    /// One at a time, in order of acceptance.
    pub ordered: bool,
    /// The most requests in flight at once.
    pub max_concurrency: u32,
    /// Accept any certificate of the receiver.
    pub allow_invalid_certificates: bool,
    /// How CloudEvents are bound to HTTP.
    pub cloudevents_mode: CloudEventsMode,
    /// The `source` attribute of CloudEvents.
    pub cloudevents_source: Option<String>,
    /// The destination is disabled after this long without any success.
    pub disable_after: Option<Duration>,
    /// Whether the answer 410 disables the destination.
    pub gone_disables: bool,
    /// Whether the start of responses is kept with attempts, where the operator allows it.
    pub keep_response_bodies: bool,
}

impl EffectivePolicy {
    /// These defaults, overridden by what is set.
    #[must_use]
    pub fn overridden_by(mut self, settings: &DeliverySettings) -> Self {
        let s = settings.clone();
        self.timeout = s.timeout.unwrap_or(self.timeout);
        self.retry = s.retry.unwrap_or(self.retry);
        self.throttle = s.throttle.unwrap_or(self.throttle);
        self.max_batch_events = s.max_batch_events.unwrap_or(self.max_batch_events);
        self.max_batch_bytes = s.max_batch_bytes.unwrap_or(self.max_batch_bytes);
        self.discard_after = s.discard_after.or(self.discard_after);
        self.lossy = s.lossy.unwrap_or(self.lossy);
        self.guarantee = s.guarantee.unwrap_or(self.guarantee);
        self.ordered = s.ordered.unwrap_or(self.ordered);
        self.max_concurrency = s.max_concurrency.unwrap_or(self.max_concurrency);
        self.allow_invalid_certificates =
            s.allow_invalid_certificates.unwrap_or(self.allow_invalid_certificates);
        self.cloudevents_mode = s.cloudevents_mode.unwrap_or(self.cloudevents_mode);
        self.cloudevents_source = s.cloudevents_source.or(self.cloudevents_source);
        self.disable_after = s.disable_after.or(self.disable_after);
        self.gone_disables = s.disable_on_gone.unwrap_or(self.gone_disables);
        self.keep_response_bodies = s.keep_response_bodies.unwrap_or(self.keep_response_bodies);
        self
    }
}

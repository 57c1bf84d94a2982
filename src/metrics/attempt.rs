//! Requests out: what came of them and how long everything took.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::buckets;
use super::each::{Each, Words};
use crate::domain::attempt::{Attempt, OutcomeClass, Trigger};
use crate::domain::contract::Contract;

impl Words for Contract {
    const LABEL: &'static str = "contract";
    const ALL: &'static [Self] = &Contract::ALL;

    fn word(self) -> &'static str {
        self.as_str()
    }
}

impl Words for OutcomeClass {
    const LABEL: &'static str = "outcome";
    const ALL: &'static [Self] = &OutcomeClass::ALL;

    fn word(self) -> &'static str {
        self.as_str()
    }
}

impl Words for Trigger {
    const LABEL: &'static str = "trigger";
    const ALL: &'static [Self] = &Trigger::ALL;

    fn word(self) -> &'static str {
        self.as_str()
    }
}

/// Requests out. Clones share everything.
#[derive(Debug, Clone)]
pub struct AttemptMetrics {
    ended: Each<(Contract, OutcomeClass), Counter>,
    took: Each<Contract, Histogram>,
    triggered: Each<Trigger, Counter>,
    deliveries: Each<Contract, Counter>,
    in_flight: Gauge,
    kept: Gauge,
    first_attempt: Histogram,
    success: Histogram,
}

impl Default for AttemptMetrics {
    fn default() -> Self {
        Self {
            ended: Each::default(),
            took: Each::new(buckets::answers),
            triggered: Each::default(),
            deliveries: Each::default(),
            in_flight: Gauge::default(),
            kept: Gauge::default(),
            first_attempt: buckets::waits(),
            success: buckets::waits(),
        }
    }
}

impl AttemptMetrics {
    /// A request begins; it is in flight until the guard is dropped.
    #[must_use]
    pub fn begin(&self) -> InFlight {
        self.in_flight.inc();
        InFlight(self.in_flight.clone())
    }

    /// So many connections are kept.
    pub fn kept(&self, connections: usize) {
        self.kept.set(i64::try_from(connections).unwrap_or(i64::MAX));
    }

    /// A request has ended. A test of a destination counts as a request and delivers nothing.
    pub fn ended(&self, contract: Contract, attempt: &Attempt) {
        self.ended.with((contract, attempt.outcome.class()), Counter::inc);
        self.took.with(contract, |took| took.observe(attempt.round_trip.as_secs_f64()));
        self.triggered.with(attempt.trigger, Counter::inc);
        if attempt.trigger != Trigger::Test {
            self.deliveries.with(contract, |count| count.inc_by(attempt.batch_size.into()));
        }
    }

    /// So long after its acceptance, a delivery was attempted for the first time.
    pub fn first_attempt_after(&self, waited: Duration) {
        self.first_attempt.observe(waited.as_secs_f64());
    }

    /// So long after its acceptance, a delivery succeeded that nobody had asked for again.
    pub fn succeeded_after(&self, waited: Duration) {
        self.success.observe(waited.as_secs_f64());
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        self.ended.register(registry, "attempts", "Requests to receivers, by what came of them");
        let help = "Time from the start of a request to the end of the answer, or to the failure";
        self.took.register(registry, "attempt_duration_seconds", help);
        let help = "Requests to receivers, by why they were made; retry means that the one before failed";
        self.triggered.register(registry, "attempts_by_trigger", help);
        let help = "Deliveries that requests carried; more than requests where events are grouped";
        self.deliveries.register(registry, "attempted_deliveries", help);
        let help = "Requests to receivers that are under way, each with a socket of its own";
        registry.register("attempts_in_flight", help, self.in_flight.clone());
        let help = "Connections to receivers that are kept for further requests, busy or idle";
        registry.register("receiver_connections", help, self.kept.clone());
        let help = "Time from the acceptance of an event to the first attempt of a delivery";
        registry.register("delivery_first_attempt_seconds", help, self.first_attempt.clone());
        let help = "Time from the acceptance of an event to the success of a delivery, retries included";
        registry.register("delivery_success_seconds", help, self.success.clone());
    }
}

/// A request that is under way.
#[derive(Debug)]
pub struct InFlight(Gauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

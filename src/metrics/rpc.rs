//! Calls of the API, by method.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::buckets;
use super::connection::ConnectionMetrics;

type Labels = Vec<(&'static str, String)>;

/// The names of the codes, in the order of their numbers.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];
/// The code of a call that its caller gave up.
const CANCELLED: u16 = 1;
/// The code of a call whose code is none.
const UNKNOWN: usize = 2;

/// Calls of the API. Clones share everything.
#[derive(Debug, Clone)]
pub struct RpcMetrics {
    calls: Family<Labels, Counter>,
    took: Family<Labels, Histogram, fn() -> Histogram>,
    in_flight: Gauge,
    /// What calls come over.
    pub connections: ConnectionMetrics,
}

impl Default for RpcMetrics {
    fn default() -> Self {
        let took: Family<Labels, Histogram, fn() -> Histogram> = Family::new_with_constructor(buckets::work);
        let connections = ConnectionMetrics::default();
        Self { calls: Family::default(), took, in_flight: Gauge::default(), connections }
    }
}

impl RpcMetrics {
    /// The metrics of one method. Only methods that the server has may be named: each is a label's value.
    #[must_use]
    pub fn method(&self, service: &str, method: &str, is_stream: bool) -> MethodMetrics {
        let labels = vec![("service", service.to_owned()), ("method", method.to_owned())];
        // How long a stream lives is its caller's choice and says nothing of us.
        let took = (!is_stream).then(|| self.took.get_or_create_owned(&labels));
        let metrics = Arc::new(Method {
            labels,
            calls: self.calls.clone(),
            by_code: Default::default(),
            took,
            in_flight: self.in_flight.clone(),
        });
        // So that the first failure is a step up from zero, which rates can see.
        metrics.count(0, 0);
        MethodMetrics(metrics)
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Calls of the API that have ended, by their status code; a stream is one call";
        registry.register("rpc_calls", help, self.calls.clone());
        let help = "Time that calls took, streams aside";
        registry.register("rpc_duration_seconds", help, self.took.clone());
        registry.register("rpc_calls_in_flight", "Calls and streams that are open", self.in_flight.clone());
        self.connections.register(registry);
    }
}

#[derive(Debug)]
struct Method {
    labels: Labels,
    calls: Family<Labels, Counter>,
    by_code: [OnceLock<Counter>; CODES.len()],
    took: Option<Histogram>,
    in_flight: Gauge,
}

impl Method {
    fn count(&self, code: u16, calls: u64) {
        let place = Some(usize::from(code)).filter(|place| *place < CODES.len()).unwrap_or(UNKNOWN);
        if let (Some(counter), Some(name)) = (self.by_code.get(place), CODES.get(place)) {
            let counter = counter.get_or_init(|| {
                let mut labels = self.labels.clone();
                labels.push(("code", (*name).to_owned()));
                self.calls.get_or_create_owned(&labels)
            });
            counter.inc_by(calls);
        }
    }
}

/// The metrics of one method.
#[derive(Debug, Clone)]
pub struct MethodMetrics(Arc<Method>);

impl MethodMetrics {
    /// A call has come; it is open until the guard is dropped.
    #[must_use]
    pub fn begin(&self) -> OpenCall {
        self.0.in_flight.inc();
        OpenCall { method: self.clone(), begun: Instant::now(), code: None }
    }
}

/// A call that is open. One that is dropped without a code was given up by its caller.
#[derive(Debug)]
pub struct OpenCall {
    method: MethodMetrics,
    begun: Instant,
    code: Option<u16>,
}

impl OpenCall {
    /// The status code that the call ends with.
    pub fn ends_with(&mut self, code: u16) {
        self.code = Some(code);
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        let method = &self.method.0;
        method.in_flight.dec();
        method.count(self.code.unwrap_or(CANCELLED), 1);
        if let Some(took) = &method.took {
            took.observe(self.begun.elapsed().as_secs_f64());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(metrics: &RpcMetrics, code: &str) -> u64 {
        let labels = [("service", "S"), ("method", "M"), ("code", code)];
        let labels: Labels = labels.map(|(name, value)| (name, value.to_owned())).into();
        metrics.calls.get(&labels).map_or(0, |counter| counter.get())
    }

    #[test]
    fn a_call_counts_under_the_code_it_ended_with_and_one_given_up_as_cancelled() {
        let metrics = RpcMetrics::default();
        let method = metrics.method("S", "M", false);
        for code in [Some(0), Some(5), None, Some(999)] {
            let mut call = method.begin();
            assert_eq!(metrics.in_flight.get(), 1);
            if let Some(code) = code {
                call.ends_with(code);
            }
        }
        assert_eq!(metrics.in_flight.get(), 0);
        let counts =
            ["OK", "NOT_FOUND", "CANCELLED", "UNKNOWN", "INTERNAL"].map(|code| count(&metrics, code));
        assert_eq!(counts, [1, 1, 1, 1, 0]);
    }
}

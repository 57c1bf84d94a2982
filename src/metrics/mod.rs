//! What the process counts and measures, as plain handles that everybody is given by `app`.
//!
//! A handle is a few shared atomics: counting is one addition, wherever it happens, and needs no look-up by
//! name. Labels have values from closed sets only, never the id of an organization, a destination or an
//! event, so the number of series does not grow with use. Handles that are not registered ([`Default`]) count
//! all the same and are seen by nobody; tests use them.
//!
//! What can't be counted as it happens (lanes, the disk, this process) is looked up when somebody asks:
//! see [`Metrics::at_scrape`].

mod attempt;
mod buckets;
mod certificate;
mod connection;
mod each;
mod ingest;
mod lane;
mod process;
mod rpc;
mod store;

pub use attempt::{AttemptMetrics, InFlight};
pub use certificate::{CertificateMetrics, CertificateUse};
pub use connection::{ConnectionLimit, ConnectionMetrics, OpenConnection};
pub use each::{Each, Label, Pair, Words};
pub use ingest::IngestMetrics;
pub use lane::{LaneCounts, LaneMetrics, LaneState};
pub use process::ProcessMetrics;
pub use rpc::{MethodMetrics, OpenCall, RpcMetrics};
pub use store::{Room, StoreErrorKind, StoreMetrics};

use std::sync::{Mutex, PoisonError};

use prometheus_client::encoding::{prometheus_text, text};
use prometheus_client::registry::Registry;

/// The media type of OpenMetrics.
pub const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The media type of Prometheus's own text format.
pub const PROMETHEUS_TEXT: &str = prometheus_text::CONTENT_TYPE;

/// What our metrics begin with; those of the process have the names that all programs use.
const PREFIX: &str = "signalpost";

/// In which form metrics are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus's text format 0.0.4.
    Prometheus,
}

/// Looks up what is not counted as it happens.
type LookUp = Box<dyn Fn() + Send + Sync>;

/// All metrics of one server, and what writes them out.
pub struct Metrics {
    /// Calls of the API.
    pub rpc: RpcMetrics,
    /// Events in.
    pub ingest: IngestMetrics,
    /// The store.
    pub store: StoreMetrics,
    /// Requests out.
    pub attempts: AttemptMetrics,
    /// Destinations and their lanes.
    pub lanes: LaneMetrics,
    /// When certificates end.
    pub certificates: CertificateMetrics,
    registry: Registry,
    look_ups: Mutex<Vec<LookUp>>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All metrics, at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let process = ProcessMetrics::default();
        process.register(&mut registry);
        let ours = registry.sub_registry_with_prefix(PREFIX);
        let (rpc, ingest, store) = (RpcMetrics::default(), IngestMetrics::default(), StoreMetrics::default());
        let (attempts, lanes) = (AttemptMetrics::default(), LaneMetrics::default());
        let certificates = CertificateMetrics::default();
        rpc.register(ours);
        ingest.register(ours);
        store.register(ours);
        attempts.register(ours);
        lanes.register(ours);
        certificates.register(ours);
        process::register_build(ours);
        let look_ups = Mutex::default();
        let metrics = Self { rpc, ingest, store, attempts, lanes, certificates, registry, look_ups };
        metrics.at_scrape(move || process.look_up());
        metrics
    }

    /// Has something looked up each time that metrics are asked for. It may take some milliseconds, runs on a
    /// thread where it may block, and must not hold anything up that events or deliveries wait for.
    pub fn at_scrape(&self, look_up: impl Fn() + Send + Sync + 'static) {
        self.look_ups.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(look_up));
    }

    /// Everything as text. Blocks for as long as the look-ups take.
    ///
    /// # Errors
    /// Never, unless a metric has no text.
    pub fn render(&self, format: Format) -> Result<String, std::fmt::Error> {
        // One at a time: who asks more often than this takes waits, and costs no more.
        let look_ups = self.look_ups.lock().unwrap_or_else(PoisonError::into_inner);
        for look_up in look_ups.iter() {
            look_up();
        }
        let mut written = String::new();
        match format {
            Format::OpenMetrics => text::encode(&mut written, &self.registry)?,
            Format::Prometheus => prometheus_text::encode(&mut written, &self.registry)?,
        }
        Ok(written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_there_from_the_start_with_its_help_and_type() {
        let metrics = Metrics::new();
        let method = metrics.rpc.method("signalpost.v1.EventIngest", "Emit", false);
        drop(method);
        metrics.ingest.refused("STORE_FULL", 0);
        let written = metrics.render(Format::Prometheus).unwrap();
        let named = |line: &str| line.split_whitespace().nth(2).unwrap_or_default().to_owned();
        let lines = |kind: &str| -> Vec<String> {
            written.lines().filter(|line| line.starts_with(kind)).map(named).collect()
        };
        let (help, types) = (lines("# HELP"), lines("# TYPE"));
        assert_eq!(help, types);
        assert!(help.len() > 40, "{help:?}");
        for name in &help {
            let sample = written.lines().find(|line| line.starts_with(name.as_str()));
            assert!(sample.is_some(), "{name} has no sample");
            assert!(name.starts_with("signalpost_") || name.starts_with("process_"), "{name}");
        }
    }

    #[test]
    fn both_formats_say_the_same() {
        let metrics = Metrics::new();
        metrics.ingest.accepted(3, 2, 500);
        let open = metrics.render(Format::OpenMetrics).unwrap();
        let plain = metrics.render(Format::Prometheus).unwrap();
        assert!(open.ends_with("# EOF\n") && !plain.contains("# EOF"));
        for text in [&open, &plain] {
            assert!(text.contains("\nsignalpost_ingest_events_total 3\n"), "{text}");
        }
        assert!(plain.contains("# TYPE signalpost_ingest_events_total counter"));
        assert!(open.contains("# TYPE signalpost_ingest_events counter"));
    }
}

//! Events in: what was accepted, and what was refused and why.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// Events in. Clones share everything.
#[derive(Debug, Clone, Default)]
pub struct IngestMetrics {
    events: Counter,
    deliveries: Counter,
    bytes: Counter,
    duplicates: Counter,
    refused: Family<[(&'static str, &'static str); 1], Counter>,
}

impl IngestMetrics {
    /// Events are durable, with so many deliveries and so many bytes of data.
    pub fn accepted(&self, events: u64, deliveries: u64, bytes: u64) {
        self.events.inc_by(events);
        self.deliveries.inc_by(deliveries);
        self.bytes.inc_by(bytes);
    }

    /// Events came again under the id that they had before.
    pub fn duplicates(&self, events: u64) {
        self.duplicates.inc_by(events);
    }

    /// Events were refused; `reason` is the one that their callers were told, a name of the API's closed list.
    pub fn refused(&self, reason: &'static str, events: u64) {
        self.refused.get_or_create(&[("reason", reason)]).inc_by(events);
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "ingest_events",
            "Events that were accepted, which means fsynced",
            self.events.clone(),
        );
        let help = "Deliveries that accepted events were routed to";
        registry.register("ingest_deliveries", help, self.deliveries.clone());
        registry.register("ingest_bytes", "Bytes of data of accepted events", self.bytes.clone());
        let help = "Events that were accepted before under the same id and with the same content";
        registry.register("ingest_duplicates", help, self.duplicates.clone());
        let help = "Events that were refused, by the reason that callers were told";
        registry.register("ingest_refused", help, self.refused.clone());
    }
}

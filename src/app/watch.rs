//! Who watches: metrics with their port, and the export of spans.

use std::sync::Arc;

use tokio::net::TcpListener;

use super::StopStages;
use super::mistake::Mistake;
use super::opened::OpenStore;
use crate::clock::SharedClock;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::shutdown::{OnExit, Tasks};
use crate::spans::Spans;
use crate::store::survey::survey;
use crate::telemetry::metrics_port;
use crate::telemetry::traces::SpanExport;
use crate::transport::account::Account;

/// Who watches: the metrics, and the export of spans where there is one.
pub(super) struct Watch {
    pub(super) metrics: Arc<Metrics>,
    pub(super) export: Option<Arc<SpanExport>>,
}

impl Watch {
    pub(super) fn new(config: &Config) -> Result<Self, Mistake> {
        let export = SpanExport::start(&config.traces).map_err(Mistake::of)?.map(Arc::new);
        Ok(Self { metrics: Arc::default(), export })
    }

    pub(super) fn spans(&self) -> Spans {
        self.export.clone().map(|export| Spans::to(export)).unwrap_or_default()
    }

    /// Where attempts are accounted for.
    pub(super) fn account(&self, config: &Config) -> Account {
        let metrics = self.metrics.attempts.clone();
        Account { metrics, spans: self.spans(), tells_receivers: config.traces.webhook_header }
    }
}

/// What is not counted as it happens is looked up when somebody asks.
pub(super) fn observe(metrics: &Metrics, store: &OpenStore, clock: &SharedClock) {
    let (store, clock, lanes) = (store.clone(), Arc::clone(clock), metrics.lanes.clone());
    metrics.at_scrape(move || {
        store.observe();
        lanes.set(&survey(store.store().directory(), clock.now()));
    });
}

/// Metrics are served until the lanes have drained, so that the last scrape still sees what happens.
pub(super) fn serve_metrics(
    metrics: &Arc<Metrics>,
    listener: TcpListener,
    (tasks, stages): (&Tasks, &StopStages),
) {
    let drained = stages.lanes_ended.clone().cancelled_owned();
    tasks.spawn("metrics", OnExit::StopProcess, metrics_port::serve(Arc::clone(metrics), listener, drained));
}

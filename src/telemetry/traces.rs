//! Traces: spans to an OTLP receiver over gRPC, in batches, from a thread of their own.
//!
//! A receiver that is slow or away costs spans, never deliveries: what does not fit into the queue is dropped.
//! Spans come with all that is known of them, ids included, so that what the receivers of webhooks were told is what
//! is exported; nothing of OpenTelemetry is global.

use std::borrow::Cow;
use std::path::Path;
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{
    Link, SpanContext, SpanId, SpanKind as OtelKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_otlp::tonic_types::transport::{Certificate, ClientTlsConfig};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, SpanData, SpanEvents, SpanLinks, SpanProcessor,
};

use crate::config::TracesConfig;
use crate::domain::time::Timestamp;
use crate::domain::trace::TraceContext;
use crate::spans::{Fact, Span, SpanKind, SpanSink};

/// Spans that wait for the receiver; about 1 KiB each.
const QUEUE_SPANS: usize = 8192;
/// Spans in one call.
const BATCH_SPANS: usize = 512;
/// How long a span waits for others to join it.
const BATCH_DELAY: Duration = Duration::from_secs(1);
/// How long a call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the last spans may take at a stop.
const LAST_WITHIN: Duration = Duration::from_secs(2);

/// Why spans can't be exported.
#[derive(Debug, thiserror::Error)]
pub enum TracesError {
    /// The certificates can't be read.
    #[error("traces.ca_file can't be read; check the path and the permissions")]
    Certificates(#[source] std::io::Error),
    /// The exporter refuses its settings.
    #[error("traces.endpoint can't be used")]
    Exporter(#[from] ExporterBuildError),
}

/// Sends spans to an OTLP receiver.
#[derive(Debug)]
pub struct SpanExport {
    processor: BatchSpanProcessor,
    scope: InstrumentationScope,
}

impl SpanExport {
    /// Sets the export up; `None` where no receiver is configured. The connection is made with the first
    /// spans, on the runtime of the caller.
    ///
    /// # Errors
    /// [`TracesError`] for certificates or an address that can't be used.
    pub fn start(config: &TracesConfig) -> Result<Option<Self>, TracesError> {
        let Some(endpoint) = &config.endpoint else { return Ok(None) };
        let mut exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint.as_str().trim_end_matches('/'))
            .with_timeout(CALL_TIMEOUT);
        if endpoint.scheme() == "https" {
            exporter = exporter.with_tls_config(tls(config.ca_file.as_deref())?);
        }
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE_SPANS)
            .with_max_export_batch_size(BATCH_SPANS)
            .with_scheduled_delay(BATCH_DELAY);
        let builder = BatchSpanProcessor::builder(exporter.build()?);
        let mut processor = builder.with_batch_config(batches.build()).build();
        let resource = Resource::builder_empty().with_service_name(config.service_name.clone());
        let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        processor.set_resource(&resource.with_attribute(version).build());
        let scope =
            InstrumentationScope::builder("signalpost").with_version(env!("CARGO_PKG_VERSION")).build();
        Ok(Some(Self { processor, scope }))
    }

    /// Sends what waits, for some seconds at most, and ends. Blocks, so not for an asynchronous thread.
    pub fn finish(&self) {
        if let Err(error) = self.processor.shutdown_with_timeout(LAST_WITHIN) {
            tracing::warn!(%error, "the last spans were not exported");
        }
    }
}

impl SpanSink for SpanExport {
    fn take(&self, span: Span) {
        self.processor.on_end(data_of(span, self.scope.clone()));
    }
}

fn tls(ca_file: Option<&Path>) -> Result<ClientTlsConfig, TracesError> {
    let config = ClientTlsConfig::new().with_enabled_roots();
    let Some(path) = ca_file else { return Ok(config) };
    let pem = std::fs::read(path).map_err(TracesError::Certificates)?;
    Ok(config.ca_certificate(Certificate::from_pem(pem)))
}

fn data_of(span: Span, instrumentation_scope: InstrumentationScope) -> SpanData {
    let start_time = moment(span.begun_at);
    let links = span.links.into_iter().map(|link| Link::new(context_of(link), Vec::new(), 0)).collect();
    let mut span_links = SpanLinks::default();
    span_links.links = links;
    SpanData {
        span_context: context_of(span.context),
        parent_span_id: SpanId::from_bytes(span.parent.span_id()),
        // The acceptance of an event is caused by somebody else; attempts follow from it.
        parent_span_is_remote: span.kind == SpanKind::Producer,
        span_kind: match span.kind {
            SpanKind::Producer => OtelKind::Producer,
            SpanKind::Client => OtelKind::Client,
        },
        name: Cow::Borrowed(span.name),
        start_time,
        end_time: start_time + span.took,
        attributes: span.facts.into_iter().map(|(key, fact)| KeyValue::new(key, value_of(fact))).collect(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: span_links,
        status: span.error.map_or(Status::Unset, Status::error),
        instrumentation_scope,
    }
}

fn context_of(context: TraceContext) -> SpanContext {
    let flags = if context.is_sampled() { TraceFlags::SAMPLED } else { TraceFlags::NOT_SAMPLED };
    let (trace_id, span_id) = (context.trace_id(), context.span_id());
    let (trace_id, span_id) = (TraceId::from_bytes(trace_id), SpanId::from_bytes(span_id));
    SpanContext::new(trace_id, span_id, flags, false, TraceState::NONE)
}

fn value_of(fact: Fact) -> Value {
    match fact {
        Fact::Text(text) => Value::from(text),
        Fact::Number(number) => Value::from(number),
    }
}

fn moment(at: Timestamp) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(at.as_millis()).unwrap_or(0))
}

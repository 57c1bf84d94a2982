//! What an attempt leaves behind besides its record: figures, a line in the log, and a span in its caller's trace.

use crate::domain::attempt::{Attempt, Trigger};
use crate::domain::event::Event;
use crate::domain::id::DeliveryId;
use crate::domain::trace::TraceContext;
use crate::metrics::AttemptMetrics;
use crate::spans::{Span, SpanKind, Spans};
use crate::transport::courier::Order;

/// Where attempts are accounted for.
#[derive(Clone)]
pub struct Account {
    /// What is counted and measured.
    pub metrics: AttemptMetrics,
    /// Where spans go.
    pub spans: Spans,
    /// Whether receivers are told of the trace, in the header `traceparent`.
    pub tells_receivers: bool,
}

impl Default for Account {
    /// Figures that nobody sees, no spans, and receivers that are told.
    fn default() -> Self {
        Self { metrics: AttemptMetrics::default(), spans: Spans::default(), tells_receivers: true }
    }
}

/// The place of an attempt in the trace of its event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttemptTrace {
    /// The acceptance of the event.
    pub parent: TraceContext,
    /// The attempt itself; no two share it.
    pub context: TraceContext,
}

impl AttemptTrace {
    /// A new place; of several events, in the trace of the first that has one.
    #[must_use]
    pub fn of(order: Order<'_>, draw: u64) -> Option<Self> {
        let parent = order.events.iter().find_map(|event| event.trace)?;
        Some(Self { parent, context: parent.child(draw) })
    }
}

impl Account {
    /// Accounts for an attempt that has ended.
    pub fn close(&self, order: Order<'_>, attempt: &Attempt, trace: Option<AttemptTrace>) {
        self.measure(order, attempt);
        log(order, attempt, trace);
        if let Some(trace) = trace {
            self.spans.tell(trace.context, || span(order, attempt, trace));
        }
    }

    fn measure(&self, order: Order<'_>, attempt: &Attempt) {
        self.metrics.ended(order.destination.contract, attempt);
        let accepted_at = order.events.iter().map(|event| event.accepted_at);
        if attempt.trigger == Trigger::Routed {
            let waits = accepted_at.clone().map(|at| attempt.started_at.since(at));
            waits.for_each(|waited| self.metrics.first_attempt_after(waited));
        }
        if attempt.outcome.is_success() && matches!(attempt.trigger, Trigger::Routed | Trigger::Retry) {
            let ended_at = attempt.started_at + attempt.round_trip;
            accepted_at.for_each(|at| self.metrics.succeeded_after(ended_at.since(at)));
        }
    }
}

/// The one line that each attempt leaves in the log, with all that is known of it: failures at `info`, successes at
/// `debug`, so that a busy server that is well stays quiet.
fn log(order: Order<'_>, attempt: &Attempt, trace: Option<AttemptTrace>) {
    const TARGET: &str = "signalpost::attempt";
    let (succeeded, wanted) =
        (attempt.outcome.is_success(), tracing::enabled!(target: TARGET, tracing::Level::INFO));
    if !wanted || (succeeded && !tracing::enabled!(target: TARGET, tracing::Level::DEBUG)) {
        return;
    }
    let first = order.events.first();
    let event_id = first.map(|event| tracing::field::display(&event.id));
    let delivery_id = first.map(|event| tracing::field::display(delivery_of(order, event)));
    let waited_ms = first.map(|event| millis(attempt.started_at.since(event.accepted_at)));
    let trace_id = trace.map(|trace| tracing::field::display(trace.context.trace_id_text()));
    macro_rules! line {
        ($level:ident, $words:literal) => {
            tracing::$level!(
                target: TARGET,
                {
                organization.id = %order.destination.organization_id,
                destination.id = %order.destination.id,
                event.id = event_id,
                delivery.id = delivery_id,
                contract = %order.destination.contract,
                attempt.number = attempt.number,
                attempt.trigger = attempt.trigger.as_str(),
                batch_size = attempt.batch_size,
                outcome = attempt.outcome.class().as_str(),
                status = attempt.outcome.status(),
                error = attempt.outcome.error(),
                started_at = %attempt.started_at,
                waited_ms,
                took_ms = millis(attempt.round_trip),
                trace.id = trace_id,
                },
                $words
            )
        };
    }
    if succeeded {
        line!(debug, "attempt succeeded");
    } else {
        line!(info, "attempt failed");
    }
}

fn span(order: Order<'_>, attempt: &Attempt, trace: AttemptTrace) -> Span {
    let destination = order.destination;
    let mut facts = vec![
        ("signalpost.organization.id", destination.organization_id.to_string().into()),
        ("signalpost.destination.id", destination.id.to_string().into()),
        ("signalpost.contract", destination.contract.as_str().into()),
        ("signalpost.attempt.number", attempt.number.into()),
        ("signalpost.attempt.trigger", attempt.trigger.as_str().into()),
        ("signalpost.attempt.outcome", attempt.outcome.class().as_str().into()),
        ("http.request.method", "POST".into()),
        // The host alone: paths and queries may have tokens of the receiver.
        ("server.address", destination.url.as_url().host_str().unwrap_or_default().into()),
    ];
    if let [event] = order.events {
        facts.push(("signalpost.event.id", event.id.to_string().into()));
        facts.push(("signalpost.event.type", event.event_type.to_string().into()));
        facts.push(("signalpost.delivery.id", delivery_of(order, event).to_string().into()));
    } else {
        facts.push(("signalpost.batch.size", attempt.batch_size.into()));
    }
    if let Some(status) = attempt.outcome.status() {
        facts.push(("http.response.status_code", u32::from(status).into()));
    }
    Span {
        name: "webhook attempt",
        kind: SpanKind::Client,
        context: trace.context,
        parent: trace.parent,
        begun_at: attempt.started_at,
        took: attempt.round_trip,
        facts,
        links: order
            .events
            .iter()
            .filter_map(|event| event.trace)
            .filter(|one| *one != trace.parent)
            .collect(),
        error: attempt.outcome.error(),
    }
}

fn delivery_of(order: Order<'_>, event: &Event) -> DeliveryId {
    DeliveryId::new(event.key, order.destination.id)
}

fn millis(length: std::time::Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}

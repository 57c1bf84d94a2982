//! Spans: pieces of work that belong to a caller's trace, told when they have ended.
//!
//! Nobody is asked to keep one open. Who did the work knows when it began, when it ended and what came of it, and
//! tells that once; where spans go is decided in `app`. The caller decides what is recorded: only spans of traces
//! that it samples are told.

use std::sync::Arc;
use std::time::Duration;

use crate::domain::time::Timestamp;
use crate::domain::trace::TraceContext;

/// What kind of work a span stands for, in the words of OpenTelemetry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanKind {
    /// An event was accepted; its deliveries follow when they follow.
    Producer,
    /// A request to somebody else.
    Client,
}

/// A fact about a span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// A text.
    Text(String),
    /// A number.
    Number(i64),
}

impl From<String> for Fact {
    fn from(text: String) -> Self {
        Fact::Text(text)
    }
}

impl From<&str> for Fact {
    fn from(text: &str) -> Self {
        Fact::Text(text.to_owned())
    }
}

impl From<u32> for Fact {
    fn from(number: u32) -> Self {
        Fact::Number(number.into())
    }
}

/// A piece of work that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// What was done, without ids.
    pub name: &'static str,
    /// What kind of work it was.
    pub kind: SpanKind,
    /// The trace and the span's own id.
    pub context: TraceContext,
    /// What caused it; the same trace.
    pub parent: TraceContext,
    /// When it began.
    pub begun_at: Timestamp,
    /// How long it took.
    pub took: Duration,
    /// What else is known.
    pub facts: Vec<(&'static str, Fact)>,
    /// Other traces that the work was done for, too.
    pub links: Vec<TraceContext>,
    /// What went wrong, if anything did.
    pub error: Option<String>,
}

/// Where spans go. It must return at once.
pub trait SpanSink: Send + Sync {
    /// Takes a span that has ended.
    fn take(&self, span: Span);
}

/// Tells spans to whoever wants them; by default nobody does. Cheap to clone.
#[derive(Clone, Default)]
pub struct Spans(Option<Arc<dyn SpanSink>>);

impl Spans {
    /// Spans that go to this sink.
    #[must_use]
    pub fn to(sink: Arc<dyn SpanSink>) -> Self {
        Self(Some(sink))
    }

    /// Tells a span, which is only made where somebody wants it and its trace is sampled.
    pub fn tell(&self, context: TraceContext, make: impl FnOnce() -> Span) {
        if let Some(sink) = self.0.as_ref().filter(|_| context.is_sampled()) {
            sink.take(make());
        }
    }
}

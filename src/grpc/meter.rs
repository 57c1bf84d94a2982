//! Counts calls by method and code, also those that are not let in.
//!
//! The code of a call is in the headers of its answer where it failed at once, otherwise in the trailers at the
//! end of its body. A call that has neither was given up by its caller.

use std::collections::HashMap;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{HeaderMap, Response};
use hyper::body::{Body, Frame, SizeHint};
use prost::Message;
use prost_types::FileDescriptorSet;

use crate::metrics::{MethodMetrics, OpenCall, RpcMetrics};

const STATUS: &str = "grpc-status";

/// The metrics of all methods that a server has.
#[derive(Debug)]
pub struct Meter {
    by_path: HashMap<String, MethodMetrics>,
    /// For paths that the server does not have, so that callers can't make labels.
    other: MethodMetrics,
}

impl Meter {
    /// A meter for the methods of these descriptors.
    #[must_use]
    pub fn new(metrics: &RpcMetrics, sets: &[&[u8]]) -> Self {
        let mut by_path = HashMap::new();
        // What can't be read here is refused by reflection, which reads the same; it counts as `other` until then.
        for file in
            sets.iter().filter_map(|set| FileDescriptorSet::decode(*set).ok()).flat_map(|set| set.file)
        {
            for service in &file.service {
                let service_name = format!("{}.{}", file.package(), service.name());
                for method in &service.method {
                    let is_stream = method.client_streaming() || method.server_streaming();
                    let path = format!("/{service_name}/{}", method.name());
                    by_path.insert(path, metrics.method(&service_name, method.name(), is_stream));
                }
            }
        }
        Self { by_path, other: metrics.method("other", "other", true) }
    }

    /// A call of the method at this path begins.
    #[must_use]
    pub fn begin(&self, path: &str) -> OpenCall {
        self.by_path.get(path).unwrap_or(&self.other).begin()
    }
}

/// The answer of a call, which ends with it.
pub fn metered<B>(response: Response<B>, mut call: OpenCall) -> Response<Metered<B>> {
    note_status(&mut call, response.headers());
    response.map(|inner| Metered { inner, call: Some(call) })
}

fn note_status(call: &mut OpenCall, headers: &HeaderMap) {
    let status = headers.get(STATUS).and_then(|value| value.to_str().ok());
    if let Some(code) = status.and_then(|text| text.parse().ok()) {
        call.ends_with(code);
    }
}

/// The body of an answer; the call ends with it.
#[derive(Debug)]
pub struct Metered<B> {
    inner: B,
    call: Option<OpenCall>,
}

impl<B: Body + Unpin> Body for Metered<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let frame = std::task::ready!(Pin::new(&mut self.inner).poll_frame(context));
        if let (Some(Ok(frame)), Some(call)) = (&frame, &mut self.call)
            && let Some(trailers) = frame.trailers_ref()
        {
            note_status(call, trailers);
            self.call = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

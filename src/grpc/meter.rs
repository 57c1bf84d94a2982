//! Counts calls by method and code, around all services.
//!
//! The code of a call is in the headers of its answer where it failed at once, otherwise in the trailers at the
//! end of its body. A call that has neither was given up by its caller.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{HeaderMap, Request, Response};
use hyper::body::{Body, Frame, SizeHint};
use prost::Message;
use prost_types::FileDescriptorSet;
use tower::{Layer, Service};

use crate::metrics::{MethodMetrics, OpenCall, RpcMetrics};

const STATUS: &str = "grpc-status";

/// Puts a [`Meter`] around a service.
#[derive(Debug, Clone)]
pub struct MeterLayer {
    methods: Arc<Methods>,
}

/// The metrics of all methods that the server has, by path.
#[derive(Debug)]
struct Methods {
    by_path: HashMap<String, MethodMetrics>,
    /// For paths that the server does not have, so that callers can't make labels.
    other: MethodMetrics,
}

impl MeterLayer {
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
        let other = metrics.method("other", "other", true);
        Self { methods: Arc::new(Methods { by_path, other }) }
    }
}

impl<S> Layer<S> for MeterLayer {
    type Service = Meter<S>;

    fn layer(&self, inner: S) -> Meter<S> {
        Meter { inner, methods: Arc::clone(&self.methods) }
    }
}

/// A service whose calls are counted.
#[derive(Debug, Clone)]
pub struct Meter<S> {
    inner: S,
    methods: Arc<Methods>,
}

impl<S, B, R> Service<Request<B>> for Meter<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
{
    type Response = Response<Metered<R>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let method = self.methods.by_path.get(request.uri().path()).unwrap_or(&self.methods.other);
        let mut call = method.begin();
        let answered = self.inner.call(request);
        Box::pin(async move {
            let (parts, body) = answered.await?.into_parts();
            note_status(&mut call, &parts.headers);
            Ok(Response::from_parts(parts, Metered { inner: body, call: Some(call) }))
        })
    }
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

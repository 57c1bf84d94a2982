//! The port for metrics: plain HTTP with one path, `/metrics`, for Prometheus and what understands it.
//!
//! It holds nothing up: texts are made on a blocking thread, one at a time, and connections are few and short.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, ALLOW, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::metrics::{Format, Metrics, OPEN_METRICS, PROMETHEUS_TEXT};

/// The one path.
pub const METRICS_PATH: &str = "/metrics";
/// The most connections; more wait in the system's queue. A few Prometheus servers, and somebody with curl.
const CONNECTIONS_MAX: usize = 16;
/// How long the headers of a request may take.
const HEADERS_WITHIN: Duration = Duration::from_secs(5);
/// The longest life of a connection, so that a slow one frees its place.
const CONNECTION_LIFE: Duration = Duration::from_secs(300);
/// How long to wait after a connection could not be accepted, because there are no more files, say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves the metrics until `shutdown` resolves. Connections that are open then are dropped.
pub async fn serve(metrics: Arc<Metrics>, listener: TcpListener, shutdown: impl Future<Output = ()>) {
    let mut connections = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => return,
            // Also where the connection broke: that is the other end's affair.
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => { connections.spawn(serve_one(Arc::clone(&metrics), stream)); }
                Err(error) => {
                    tracing::warn!(%error, "the port for metrics can't accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

async fn serve_one(metrics: Arc<Metrics>, stream: TcpStream) {
    let service = service_fn(move |request| answer(Arc::clone(&metrics), request));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_WITHIN)
        .serve_connection(TokioIo::new(stream), service);
    if let Ok(Err(error)) = tokio::time::timeout(CONNECTION_LIFE, connection).await {
        tracing::debug!(%error, "a connection to the port for metrics ended");
    }
}

async fn answer(
    metrics: Arc<Metrics>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path() != METRICS_PATH {
        return Ok(text(StatusCode::NOT_FOUND, "metrics are at /metrics\n"));
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, "GET the metrics\n");
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Ok(refused);
    }
    let format = wanted(request.headers());
    let rendered = tokio::task::spawn_blocking(move || metrics.render(format)).await;
    let Ok(Ok(rendered)) = rendered else {
        tracing::error!("the metrics can't be written");
        return Ok(text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics can't be written; see the log\n"));
    };
    let mut response = Response::new(Full::from(rendered));
    let media_type = match format {
        Format::OpenMetrics => OPEN_METRICS,
        Format::Prometheus => PROMETHEUS_TEXT,
    };
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    Ok(response)
}

/// OpenMetrics for those who can read it, which they say; the older format for all others.
fn wanted(headers: &HeaderMap) -> Format {
    let mut accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    match accepted.any(|value| value.contains("application/openmetrics-text")) {
        true => Format::OpenMetrics,
        false => Format::Prometheus,
    }
}

fn text(status: StatusCode, words: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(words));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

//! A receiver of spans: takes any call of gRPC and keeps what came, byte by byte.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use http_body_util::{BodyExt, Full};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// The length and the flags of an empty message.
const EMPTY_MESSAGE: &[u8] = &[0; 5];

/// Collects spans, until it is dropped.
pub struct Collector {
    pub address: SocketAddr,
    taken: Arc<Mutex<Vec<u8>>>,
    _tasks: JoinSet<()>,
}

impl Collector {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let taken = Arc::<Mutex<Vec<u8>>>::default();
        let (mut tasks, kept) = (JoinSet::new(), Arc::clone(&taken));
        tasks.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let kept = Arc::clone(&kept);
                let answer = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                    let kept = Arc::clone(&kept);
                    async move {
                        let headers = format!("{:?}", request.headers()).into_bytes();
                        let body = request.into_body().collect().await?.to_bytes();
                        kept.lock().unwrap().extend([headers.as_slice(), &body].concat());
                        let status = HeaderMap::from_iter([(
                            http::HeaderName::from_static("grpc-status"),
                            HeaderValue::from_static("0"),
                        )]);
                        let body = Full::new(Bytes::from_static(EMPTY_MESSAGE));
                        let body = body.with_trailers(std::future::ready(Some(Ok(status))));
                        let answer = Response::builder().header("content-type", "application/grpc");
                        Ok::<_, hyper::Error>(answer.body(body).unwrap())
                    }
                });
                let connection = http2::Builder::new(TokioExecutor::new());
                // One connection at a time is what an exporter has.
                connection.serve_connection(TokioIo::new(stream), answer).await.ok();
            }
        });
        Self { address, taken, _tasks: tasks }
    }

    /// All that has come so far.
    pub fn taken(&self) -> Vec<u8> {
        self.taken.lock().unwrap().clone()
    }
}

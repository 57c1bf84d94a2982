//! The servers: one for the API, one for probes.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::server::{Router, TcpIncoming};
use tonic::transport::{self, Server};
use tonic_health::pb::health_server::HealthServer;
use tonic_reflection::server::Builder as ReflectionBuilder;
use tower::layer::util::{Identity, Stack};

use super::context::Context;
use super::delivery::DeliveryAdminService;
use super::destination::DestinationAdminService;
use super::event::{EventIngestService, REFUSALS};
use super::health::{HealthService, HealthState};
use super::meter::MeterLayer;
use super::organization::OrganizationAdminService;
use super::proto;
use super::proto::v1::delivery_admin_server::DeliveryAdminServer;
use super::proto::v1::destination_admin_server::DestinationAdminServer;
use super::proto::v1::event_ingest_server::EventIngestServer;
use super::proto::v1::organization_admin_server::OrganizationAdminServer;
use super::status::reason_name;
use crate::control::Control;
use crate::metrics::RpcMetrics;

/// How often a quiet connection is asked whether its other end is still there.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// How long it may take to answer that.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// The most bytes of a call's headers, unless configured otherwise.
const HEADER_LIST_BYTES: u32 = 16 * 1024;
/// The most bytes of a message on the port for probes.
const PROBE_MESSAGE_BYTES: usize = 64 * 1024;

/// What is counted by method: our services and health. Reflection is for people and counts as `other`.
const METERED: [&[u8]; 2] = [proto::DESCRIPTORS, tonic_health::pb::FILE_DESCRIPTOR_SET];

/// What the API's server takes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The largest request message, in bytes. tonic answers `OUT_OF_RANGE` above it.
    pub max_message_bytes: usize,
    /// The most calls and streams open on one connection.
    pub max_streams_per_connection: u32,
    /// The most unary calls of one connection that are worked on at the same time; others wait.
    pub max_calls_per_connection: usize,
    /// The most `EmitStream` streams in all.
    pub max_emit_streams: usize,
    /// The most bytes of a call's headers.
    pub max_header_bytes: u32,
    /// Whether reflection is served.
    pub reflection: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_message_bytes: 4 * 1024 * 1024,
            max_streams_per_connection: 256,
            // In closed loops 32 gave 1.4 times the calls a second of no limit, because both sides work
            // in batches then; 64 leaves room for slow calls besides.
            max_calls_per_connection: 64,
            max_emit_streams: 1024,
            max_header_bytes: HEADER_LIST_BYTES,
            reflection: true,
        }
    }
}

/// Why a server could not be put together or went down.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The descriptors that reflection serves are damaged: a fault of the build.
    #[error("reflection can't be served: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The transport failed.
    #[error("the gRPC server failed: {0}")]
    Transport(#[from] transport::Error),
}

/// The API over gRPC. Cheap to clone; all clones are one server.
#[derive(Clone)]
pub struct GrpcServer {
    context: Context,
    health: HealthState,
    limits: Limits,
    metrics: RpcMetrics,
}

impl GrpcServer {
    /// A server that does not listen yet.
    #[must_use]
    pub fn new(control: Arc<Control>, health: HealthState, limits: Limits) -> Self {
        for reason in REFUSALS {
            control.metrics().refused(reason_name(reason), 0);
        }
        let context = Context {
            control,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            streams: Arc::new(Semaphore::new(limits.max_emit_streams.min(Semaphore::MAX_PERMITS))),
            max_streams: limits.max_emit_streams,
            watches: Arc::new(Semaphore::new(super::watch::WATCHES_MAX)),
        };
        Self { context, health, limits, metrics: RpcMetrics::default() }
    }

    /// The same, counting calls where others see it.
    #[must_use]
    pub fn with_metrics(self, metrics: RpcMetrics) -> Self {
        Self { metrics, ..self }
    }

    /// Serves the API until `shutdown` resolves; then takes no new calls, ends its streams, finishes
    /// what runs, and returns. Who can't wait that long drops the future.
    ///
    /// # Errors
    /// [`ServeError`]; the listener is closed then.
    pub async fn serve(
        &self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), ServeError> {
        let stop = self.context.stop.clone();
        let signal = async move {
            shutdown.await;
            stop.cancel();
        };
        let served = self.router()?.serve_with_incoming_shutdown(incoming(listener), signal).await;
        // Also where the transport failed: what was begun is finished.
        self.context.stop.cancel();
        self.context.tasks.close();
        self.context.tasks.wait().await;
        Ok(served?)
    }

    fn router(&self) -> Result<Router<Stack<MeterLayer, Identity>>, ServeError> {
        let most = self.limits.max_message_bytes;
        let context = &self.context;
        let health = HealthService::new(self.health.clone(), context.tasks.clone(), context.stop.clone());
        let events = EventIngestServer::new(EventIngestService::new(context.clone()));
        let destinations = DestinationAdminServer::new(DestinationAdminService::new(context.clone()));
        let deliveries = DeliveryAdminServer::new(DeliveryAdminService::new(context.clone()));
        let organizations = OrganizationAdminServer::new(OrganizationAdminService::new(context.clone()));
        let sets =
            [proto::DESCRIPTORS, tonic_health::pb::FILE_DESCRIPTOR_SET, tonic_types::pb::FILE_DESCRIPTOR_SET];
        let router = builder()
            .http2_max_header_list_size(self.limits.max_header_bytes)
            .max_concurrent_streams(self.limits.max_streams_per_connection)
            .concurrency_limit_per_connection(self.limits.max_calls_per_connection)
            .layer(MeterLayer::new(&self.metrics, &METERED))
            .add_service(events.max_decoding_message_size(most))
            .add_service(destinations.max_decoding_message_size(most))
            .add_service(deliveries.max_decoding_message_size(most))
            .add_service(organizations.max_decoding_message_size(most))
            .add_service(HealthServer::new(health).max_decoding_message_size(PROBE_MESSAGE_BYTES));
        if !self.limits.reflection {
            return Ok(router);
        }
        Ok(router.add_service(reflection(&sets).build_v1()?).add_service(reflection(&sets).build_v1alpha()?))
    }
}

/// Serves health and its reflection alone, for probes, until `shutdown` resolves. It should outlive the
/// API's server, so that a draining process still answers that it lives.
///
/// # Errors
/// [`ServeError`]; the listener is closed then.
pub async fn serve_health(
    health: HealthState,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServeError> {
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let ending = stop.clone();
    let signal = async move {
        shutdown.await;
        ending.cancel();
    };
    let service = HealthServer::new(HealthService::new(health, tasks.clone(), stop.clone()));
    let sets = [tonic_health::pb::FILE_DESCRIPTOR_SET];
    let served = builder()
        .add_service(service.max_decoding_message_size(PROBE_MESSAGE_BYTES))
        .add_service(reflection(&sets).build_v1()?)
        .add_service(reflection(&sets).build_v1alpha()?)
        .serve_with_incoming_shutdown(incoming(listener), signal)
        .await;
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    Ok(served?)
}

fn builder() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .http2_max_header_list_size(HEADER_LIST_BYTES)
}

/// Without TCP_NODELAY, answers wait for the peer's delayed acknowledgements: a seventh of the calls a
/// second. tonic's own option has no effect on a listener that it did not open.
fn incoming(listener: TcpListener) -> TcpIncoming {
    TcpIncoming::from(listener).with_nodelay(Some(true))
}

fn reflection<'a>(sets: &[&'a [u8]]) -> ReflectionBuilder<'a> {
    sets.iter().fold(ReflectionBuilder::configure(), |builder, set| {
        builder.register_encoded_file_descriptor_set(set)
    })
}

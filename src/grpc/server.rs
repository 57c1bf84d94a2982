//! The servers: one for the API, one for probes.

use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tonic_health::pb::health_server::HealthServer;
use tonic_reflection::server::Builder as ReflectionBuilder;

use super::context::Context;
use super::delivery::DeliveryAdminService;
use super::destination::DestinationAdminService;
use super::event::{EventIngestService, REFUSALS};
use super::front::Front;
use super::health::{HealthService, HealthState};
use super::interceptor::Gate;
use super::listener::Listening;
use super::meter::Meter;
use super::options::{Limits, Reflection};
use super::organization::OrganizationAdminService;
use super::proto;
use super::proto::v1::delivery_admin_server::DeliveryAdminServer;
use super::proto::v1::destination_admin_server::DestinationAdminServer;
use super::proto::v1::event_ingest_server::EventIngestServer;
use super::proto::v1::organization_admin_server::OrganizationAdminServer;
use super::proto::v1::store_admin_server::StoreAdminServer;
use super::refusals::Refusals;
use super::shares::Shares;
use super::status::reason_name;
use super::store::StoreAdminService;
use super::tls::ServerTls;
use crate::auth::authenticator::Authenticator;
use crate::auth::denial::{DenialListener, LogDenials};
use crate::control::Control;
use crate::metrics::RpcMetrics;

/// The most bytes of a message on the port for probes.
const PROBE_MESSAGE_BYTES: usize = 64 * 1024;

/// What is counted by method: our services and health. Reflection is for people and counts as `other`.
const METERED: [&[u8]; 2] = [proto::DESCRIPTORS, tonic_health::pb::FILE_DESCRIPTOR_SET];

/// Why a server could not be put together.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The descriptors that reflection serves are damaged: a fault of the build.
    #[error("reflection can't be served: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// The API over gRPC. Cheap to clone; all clones are one server.
#[derive(Clone)]
pub struct GrpcServer {
    context: Context,
    health: HealthState,
    limits: Limits,
    authenticator: Arc<Authenticator>,
    denials: Arc<dyn DenialListener>,
    tls: Option<ServerTls>,
    metrics: RpcMetrics,
}

impl GrpcServer {
    /// A server that does not listen yet, in plaintext, for everybody who reaches it.
    #[must_use]
    pub fn new(control: Arc<Control>, health: HealthState, limits: Limits) -> Self {
        for reason in REFUSALS {
            control.metrics().refused(reason_name(reason), 0);
        }
        let context = Context {
            control,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            streams: shares(limits.max_emit_streams),
            first_message: limits.call_default,
            watches: shares(limits.max_watches),
        };
        let (authenticator, denials) = (Arc::new(Authenticator::open()), Arc::new(LogDenials));
        let metrics = RpcMetrics::default();
        Self { context, health, limits, authenticator, denials, tls: None, metrics }
    }

    /// The same, counting calls where others see it.
    #[must_use]
    pub fn with_metrics(self, metrics: RpcMetrics) -> Self {
        Self { metrics, ..self }
    }

    /// The same for callers whom the authenticator admits.
    #[must_use]
    pub fn with_authenticator(self, authenticator: Authenticator) -> Self {
        Self { authenticator: Arc::new(authenticator), ..self }
    }

    /// The same, telling somebody else of denied calls than the log.
    #[must_use]
    pub fn with_denials(self, denials: Arc<dyn DenialListener>) -> Self {
        Self { denials, ..self }
    }

    /// The same over TLS, where there is some.
    #[must_use]
    pub fn with_tls(self, tls: Option<ServerTls>) -> Self {
        Self { tls, ..self }
    }

    /// Serves the API until `shutdown` resolves; then takes no new calls, ends its streams, finishes
    /// what runs, and returns. Who can't wait that long drops the future.
    ///
    /// # Errors
    /// [`ServeError`]; nothing was served then.
    pub async fn serve(
        &self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), ServeError> {
        let front = Arc::new(self.front()?);
        let listening = Listening { listener, tls: self.tls.clone(), options: self.limits.listener, front };
        serve_until(listening, shutdown, &self.context.stop).await;
        self.context.tasks.close();
        self.context.tasks.wait().await;
        Ok(())
    }

    fn front(&self) -> Result<Front, ServeError> {
        let gate = Gate {
            authenticator: Arc::clone(&self.authenticator),
            denials: Arc::clone(&self.denials),
            control: Some(Arc::clone(&self.context.control)),
            recheck: self.limits.recheck,
        };
        Ok(Front {
            routes: self.routes()?,
            meter: Meter::new(&self.metrics, &METERED),
            gate: Arc::new(gate),
            reflection: self.limits.reflection,
            call_default: self.limits.call_default,
            connection: self.limits.connection,
            open_streams: shares(self.limits.max_open_streams),
            refusals: Arc::new(Refusals::counted_by(self.metrics.connections.clone())),
        })
    }

    fn routes(&self) -> Result<Routes, ServeError> {
        let most = self.limits.max_message_bytes;
        let context = &self.context;
        let health = HealthService::new(self.health.clone(), context.tasks.clone(), context.stop.clone());
        let events = EventIngestServer::new(EventIngestService::new(context.clone()));
        let destinations = DestinationAdminServer::new(DestinationAdminService::new(context.clone()));
        let deliveries = DeliveryAdminServer::new(DeliveryAdminService::new(context.clone()));
        let organizations = OrganizationAdminServer::new(OrganizationAdminService::new(context.clone()));
        let store = StoreAdminServer::new(StoreAdminService::new(context.clone()));
        let routes = Routes::new(events.max_decoding_message_size(most))
            .add_service(destinations.max_decoding_message_size(most))
            .add_service(deliveries.max_decoding_message_size(most))
            .add_service(organizations.max_decoding_message_size(most))
            .add_service(store.max_decoding_message_size(most))
            .add_service(HealthServer::new(health).max_decoding_message_size(PROBE_MESSAGE_BYTES));
        let sets =
            [proto::DESCRIPTORS, tonic_health::pb::FILE_DESCRIPTOR_SET, tonic_types::pb::FILE_DESCRIPTOR_SET];
        let routes =
            if self.limits.reflection == Reflection::Off { routes } else { with_reflection(routes, &sets)? };
        Ok(routes.prepare())
    }
}

/// Serves health and its reflection alone, for probes, until `shutdown` resolves. It should outlive the
/// API's server, so that a draining process still answers that it lives.
///
/// # Errors
/// [`ServeError`]; nothing was served then.
pub async fn serve_health(
    health: HealthState,
    listener: TcpListener,
    limits: Limits,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServeError> {
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let service = HealthServer::new(HealthService::new(health, tasks.clone(), stop.clone()));
    let routes = Routes::new(service.max_decoding_message_size(PROBE_MESSAGE_BYTES));
    let routes = with_reflection(routes, &[tonic_health::pb::FILE_DESCRIPTOR_SET])?.prepare();
    let gate = Gate {
        authenticator: Arc::new(Authenticator::open()),
        denials: Arc::new(LogDenials),
        control: None,
        recheck: limits.recheck,
    };
    let front = Front {
        routes,
        meter: Meter::new(&RpcMetrics::default(), &[]),
        gate: Arc::new(gate),
        reflection: Reflection::Open,
        call_default: limits.call_default,
        connection: limits.connection,
        open_streams: shares(limits.max_open_streams),
        refusals: Arc::default(),
    };
    let listening = Listening { listener, tls: None, options: limits.listener, front: Arc::new(front) };
    serve_until(listening, shutdown, &stop).await;
    tasks.close();
    tasks.wait().await;
    Ok(())
}

fn shares<One: Eq + Hash + Clone>((most, most_of_one): (usize, usize)) -> Shares<One> {
    Shares::new(most, most_of_one)
}

async fn serve_until(
    listening: Listening,
    shutdown: impl Future<Output = ()> + Send,
    stop: &CancellationToken,
) {
    let stopping = async {
        shutdown.await;
        stop.cancel();
    };
    tokio::join!(stopping, listening.serve(stop.clone()));
}

fn with_reflection(routes: Routes, sets: &[&[u8]]) -> Result<Routes, ServeError> {
    let builder = || {
        sets.iter().fold(ReflectionBuilder::configure(), |builder, set| {
            builder.register_encoded_file_descriptor_set(set)
        })
    };
    Ok(routes.add_service(builder().build_v1()?).add_service(builder().build_v1alpha()?))
}

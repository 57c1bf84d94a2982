//! The composition root: the only place that names a concrete store and transport, and that decides in
//! which order the parts start and stop.
//!
//! Start: store → delivery threads (they know what waits) → gRPC and health ports → ready. Stop: not
//! ready → no new calls → running calls end → lanes flush and finish → outcomes stored → store closed.

mod couriers;
mod delivering;
mod entrance;
mod files;
mod mistake;
mod opened;
mod sealing;
mod serving;
mod watch;

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::auth::expiry;
use crate::clock::{SharedClock, SystemClock};
use crate::config::Config;
use crate::control::denials::DenialRecorder;
use crate::control::{Control, ControlSettings};
use crate::metrics::CertificateUse;
use crate::shutdown::{OnExit, Tasks};
use crate::store::Store;
use crate::telemetry::traces::SpanExport;

use couriers::Couriers;
use delivering::start_engine;
use entrance::Entrance;
use files::egress_roots;
use serving::serve;
use watch::{Watch, observe, serve_metrics};

pub use files::mistakes_of_files;
pub use mistake::Mistake;
pub use opened::{OpenStore, open_embedded, shared_options};
pub use sealing::StoredSecrets;

/// A server that runs; what it needs to be closed.
pub struct App {
    /// Where the gRPC API listens.
    pub grpc_address: SocketAddr,
    /// Where the health service listens, in plaintext.
    pub health_address: SocketAddr,
    /// Where metrics are served, if they are.
    pub metrics_address: Option<SocketAddr>,
    store: OpenStore,
    export: Option<Arc<SpanExport>>,
}

impl App {
    /// Starts everything that the configuration describes. It runs until `tasks` are stopped.
    ///
    /// # Errors
    /// Whatever keeps the server from starting: a store that can't be opened, a port that is taken, a
    /// certificate file that can't be read; a [`Mistake`] where the settings are to blame. Nothing keeps running then but what `tasks` stops.
    pub async fn start(config: &Config, tasks: &Tasks) -> anyhow::Result<Self> {
        let machine: SharedClock = Arc::new(SystemClock);
        // What is wrong with the configuration and its files shows before anything is created.
        let entrance = Entrance::open(config, &machine)?;
        let watch = Watch::new(config)?;
        let roots = egress_roots(config)?;
        let opened = OpenStore::open(config, &machine, watch.metrics.store.clone()).await?;
        opened.watch(tasks);
        // Replicas that share a store share its time.
        let (store, clock) = (opened.store(), opened.clock(&machine));
        let mut couriers = Couriers::new(config, roots, &clock, watch.account(config))?;
        let grpc_listener = bind("listen.grpc", config.listen.grpc).await?;
        let health_listener = bind("listen.health", config.listen.health).await?;
        let metrics_listener = match config.listen.metrics {
            Some(address) => Some(bind("listen.metrics", address).await?),
            None => None,
        };
        let own = [grpc_listener.local_addr()?, health_listener.local_addr()?];
        let metrics_address = metrics_listener.as_ref().map(TcpListener::local_addr).transpose()?;
        couriers.keep_away_from(own.into_iter().chain(metrics_address).collect());

        let stages = StopStages::default();
        start_engine(config, (&store, &clock), &couriers, (tasks, &stages)).await?;
        observe(&watch.metrics, &opened, &clock);
        entrance.observe(&watch.metrics);
        couriers.observe(&watch.metrics);
        let roots = expiry::of_certificates(&couriers.options.extra_root_certificates);
        watch.metrics.certificates.end(CertificateUse::EgressAuthority, roots);
        let denials = record_denials(config, (&store, &clock), (tasks, &stages));
        let control = make_control(config, &store, &couriers, clock)?;
        let control = Arc::new(control.watched_by(watch.metrics.ingest.clone(), watch.spans()));
        let app = Self {
            grpc_address: grpc_listener.local_addr()?,
            health_address: health_listener.local_addr()?,
            metrics_address: metrics_listener.as_ref().map(TcpListener::local_addr).transpose()?,
            store: opened,
            export: watch.export,
        };
        if let Some(listener) = metrics_listener {
            serve_metrics(&watch.metrics, listener, (tasks, &stages));
        }
        entrance.watch_files(config, tasks);
        let control = (control, entrance, denials, &*watch.metrics);
        serve(config, control, (grpc_listener, health_listener), (tasks, &stages));
        Ok(app)
    }

    /// Closes the store, after the tasks have ended.
    ///
    /// # Errors
    /// Where the last outcomes could not be made durable; they will be delivered again.
    pub async fn close(self) -> anyhow::Result<()> {
        let closed = self.store.close().await;
        if let Some(export) = self.export {
            tokio::task::spawn_blocking(move || export.finish()).await?;
        }
        closed
    }
}

/// What has ended on the way to a stop; each waits for the one before.
#[derive(Clone, Default)]
struct StopStages {
    /// No call comes any more.
    calls_ended: CancellationToken,
    /// No attempt is under way, and nothing begins any more.
    lanes_ended: CancellationToken,
}

async fn bind(key: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("{key}: cannot listen on {address}"))
}

/// Writes denied calls to the audit log, until the last call has ended.
fn record_denials(
    config: &Config,
    (store, clock): (&Arc<dyn Store>, &SharedClock),
    (tasks, stages): (&Tasks, &StopStages),
) -> Arc<DenialRecorder> {
    let store = Arc::clone(store);
    let per_minute = config.limits.audited_denials;
    let (recorder, writer) = DenialRecorder::new(store, Arc::clone(clock), per_minute);
    tasks.spawn("denied calls", OnExit::StopProcess, writer.run(stages.calls_ended.clone()));
    Arc::new(recorder)
}

fn make_control(
    config: &Config,
    store: &Arc<dyn Store>,
    couriers: &Couriers,
    clock: SharedClock,
) -> anyhow::Result<Control> {
    let settings = ControlSettings {
        plans: config.plans.by_name.clone(),
        default_plan: config.plans.default.name.clone(),
        payload: config.limits.payload,
        require_organizations: config.organizations.require_create,
        plain_http_contracts: config.delivery.plain_http_contracts.iter().copied().collect(),
        address_policy: Arc::clone(&couriers.options.address_policy),
        delivery_enabled: config.delivery.enabled,
        enterprise_telemetry_enabled: config.delivery.enterprise_telemetry_enabled,
        batch_max_events: config.limits.batch_events,
        retention: config.retention,
    };
    Ok(Control::new(Arc::clone(store), couriers.make()?, Arc::clone(&couriers.secrets), clock, settings))
}

//! The composition root: the only place that names a concrete store and transport, and that decides in
//! which order the parts start and stop.
//!
//! Start: store → delivery threads (they know what waits) → gRPC and health ports → ready. Stop: not
//! ready → no new calls → running calls end → lanes flush and finish → outcomes stored → store closed.

mod opened;
mod sealing;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use anyhow::Context;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::auth::authenticator::{Authenticator, JwtWay, WaysIn};
use crate::auth::certificate::CertificateRules;
use crate::auth::expiry;
use crate::auth::jwks::{self, Fetch, FetchedKeys, KeySource};
use crate::auth::reload::Reloaded;
use crate::auth::token_file::{self, TokenTable};
use crate::clock::{SharedClock, SystemClock};
use crate::config::{Config, KeysConfig, ReflectionAccess, Scoped, TlsConfig};
use crate::control::denials::DenialRecorder;
use crate::control::{Control, ControlSettings};
use crate::engine::janitor::{Janitor, JanitorOptions};
use crate::engine::rules::ShardOptions;
use crate::engine::shard::StopSignals;
use crate::engine::{Engine, RunningEngine};
use crate::grpc::health::HealthState;
use crate::grpc::options::{ConnectionOptions, Limits, ListenerOptions, Reflection};
use crate::grpc::server::{GrpcServer, serve_health};
use crate::grpc::tls::{ClientCertificates, ServerTls, TlsFiles};
use crate::metrics::{CertificateUse, Metrics};
use crate::policy::address::AddressPolicy;
use crate::policy::host_rate::{HostRates, SharedRates};
use crate::shutdown::{OnExit, Tasks};
use crate::spans::Spans;
use crate::store::Store;
use crate::store::survey::survey;
use crate::telemetry::metrics_port;
use crate::telemetry::traces::SpanExport;
use crate::transport::account::Account;
use crate::transport::courier::Courier;
use crate::transport::fetch::Fetcher;
use crate::transport::http::{HttpOptions, HttpTransport};
use crate::transport::secrets::{Allowed, SecretReader};

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
    /// certificate file that can't be read. Nothing keeps running then but what `tasks` stops.
    pub async fn start(config: &Config, tasks: &Tasks) -> anyhow::Result<Self> {
        let machine: SharedClock = Arc::new(SystemClock);
        // What is wrong with the configuration and its files shows before anything is created.
        let entrance = Entrance::open(config, &machine)?;
        let watch = Watch::new(config)?;
        let opened = OpenStore::open(config, &machine, watch.metrics.store.clone()).await?;
        opened.watch(tasks);
        // Replicas that share a store share its time.
        let (store, clock) = (opened.store(), opened.clock(&machine));
        let mut couriers = Couriers::new(config, &clock, watch.account(config))?;
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

/// Makes couriers that share their settings; each has connections of its own.
struct Couriers {
    options: HttpOptions,
    secrets: Arc<SecretReader>,
    clock: SharedClock,
    account: Account,
    rates: Option<SharedRates>,
}

impl Couriers {
    fn new(config: &Config, clock: &SharedClock, account: Account) -> anyhow::Result<Self> {
        let ports: Vec<u16> = config.egress.ports.iter().copied().collect();
        let address_policy = AddressPolicy {
            allow: config.egress.allow.clone(),
            deny: config.egress.deny.clone(),
            deny_hosts: config.egress.deny_hosts.clone(),
            allowed_ports: (!ports.is_empty()).then_some(ports),
            own_listeners: Vec::new(),
        };
        let options = HttpOptions {
            address_policy: Arc::new(address_policy),
            extra_root_certificates: config
                .egress
                .ca_file
                .as_deref()
                .map_or(Ok(Vec::new()), |path| read_roots("egress.ca_file", path))?,
            plain_http: !config.delivery.plain_http_contracts.is_empty(),
            response_bodies: config.egress.response_bodies,
            proxy: config.egress.proxy.clone(),
            ..HttpOptions::default()
        };
        let secrets =
            SecretReader::new(allowed(&config.secrets.environment), allowed(&config.secrets.folders));
        let rates = config.egress.per_host_rate.map(|rate| Arc::new(Mutex::new(HostRates::new(rate))));
        let (secrets, clock) = (Arc::new(secrets), Arc::clone(clock));
        let couriers = Self { options, secrets, clock, account, rates };
        // A mistake in the options shows here, before any thread has started.
        couriers.make()?;
        Ok(couriers)
    }

    /// These are where this process listens, as bound: no request ever goes there.
    fn keep_away_from(&mut self, own_listeners: Vec<SocketAddr>) {
        let policy = AddressPolicy { own_listeners, ..(*self.options.address_policy).clone() };
        self.options.address_policy = Arc::new(policy);
    }

    /// A courier that keeps no connections.
    fn make(&self) -> anyhow::Result<Arc<Courier>> {
        self.make_keeping(0)
    }

    fn make_keeping(&self, max_kept_connections: usize) -> anyhow::Result<Arc<Courier>> {
        let options = HttpOptions { max_kept_connections, ..self.options.clone() };
        let transport = HttpTransport::new(options, Arc::clone(&self.clock))?;
        Ok(Arc::new(Courier {
            transport: Arc::new(transport),
            secrets: Arc::clone(&self.secrets),
            clock: Arc::clone(&self.clock),
            account: self.account.clone(),
            rates: self.rates.clone(),
        }))
    }
}

fn allowed<T: Clone>(scoped: &[Scoped<T>]) -> Vec<Allowed<T>> {
    scoped.iter().map(|Scoped { what, place }| Allowed { what: what.clone(), place: place.clone() }).collect()
}

fn read_roots(key: &str, path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(|| format!("{key}: cannot read certificates from {}", path.display()))?;
    anyhow::ensure!(!certificates.is_empty(), "{key}: {} holds no certificate", path.display());
    Ok(certificates)
}

async fn start_engine(
    config: &Config,
    (store, clock): (&Arc<dyn Store>, &SharedClock),
    couriers: &Couriers,
    (tasks, stages): (&Tasks, &StopStages),
) -> anyhow::Result<()> {
    let engine = Engine::new(config.delivery.thread_count(), config.delivery.max_bytes_waiting);
    store.listen(engine.listener());
    let backlog = store.destinations_with_work().await?;
    let options = ShardOptions {
        max_in_flight: config.delivery.max_in_flight,
        max_bytes_in_flight: config.delivery.max_bytes_in_flight,
        circuit_opens_after: config.delivery.circuit_opens_after,
        window: config.delivery.window,
        best_effort_window: config.delivery.best_effort_window,
        window_bytes: config.delivery.window_bytes,
        stop_deadline: config.delivery.shutdown_deadline,
        delivery_enabled: config.delivery.enabled,
        semaphor_enabled: config.delivery.enterprise_telemetry_enabled,
    };
    let threads = config.delivery.thread_count();
    let each_keeps = config.delivery.max_kept_connections / threads;
    let couriers = (0..threads).map(|_| couriers.make_keeping(each_keeps));
    let couriers = couriers.collect::<anyhow::Result<Vec<_>>>()?;
    let shards = engine.shards((store, clock), options, &backlog, couriers);
    // Where nothing is delivered replays wait, too.
    if config.delivery.enabled {
        let semaphor_enabled = config.delivery.enterprise_telemetry_enabled;
        let replayer = engine.replayer(store, clock, semaphor_enabled);
        tasks.spawn("replayer", OnExit::StopProcess, replayer.run(tasks.soft()));
    }
    // Lanes stop after the last call has ended: an event that was accepted late must still reach them.
    let stop = StopSignals { soft: stages.calls_ended.clone(), hard: tasks.hard() };
    start_janitor(config, store, clock, tasks);
    let running = RunningEngine::start(shards.into_iter(), &stop).context("starting the delivery threads")?;
    // Cancelled when the last of the tasks below has dropped it.
    let lanes_ended = Arc::new(stages.lanes_ended.clone().drop_guard());
    for end in running.ends() {
        let (tasks_to_fail, lanes_ended) = (tasks.clone(), Arc::clone(&lanes_ended));
        tasks.spawn("engine", OnExit::StopProcess, async move {
            if let Err(reason) = end.await {
                tasks_to_fail.fail("engine", &reason);
            }
            drop(lanes_ended);
        });
    }
    Ok(())
}

fn start_janitor(config: &Config, store: &Arc<dyn Store>, clock: &SharedClock, tasks: &Tasks) {
    let plans = config.plans.by_name.iter();
    let options = JanitorOptions {
        retention: config.retention,
        plans: plans.clone().filter_map(|(name, plan)| Some((name.clone(), plan.retention?))).collect(),
        default_plan: config.plans.default.name.clone(),
        known_plans: plans.map(|(name, _)| name.clone()).collect(),
    };
    let janitor = Janitor::new(Arc::clone(store), Arc::clone(clock), options);
    tasks.spawn("janitor", OnExit::StopProcess, janitor.run(tasks.soft()));
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

/// Who watches: the metrics, and the export of spans where there is one.
struct Watch {
    metrics: Arc<Metrics>,
    export: Option<Arc<SpanExport>>,
}

impl Watch {
    fn new(config: &Config) -> anyhow::Result<Self> {
        let export = SpanExport::start(&config.traces)?.map(Arc::new);
        Ok(Self { metrics: Arc::default(), export })
    }

    fn spans(&self) -> Spans {
        self.export.clone().map(|export| Spans::to(export)).unwrap_or_default()
    }

    /// Where attempts are accounted for.
    fn account(&self, config: &Config) -> Account {
        let metrics = self.metrics.attempts.clone();
        Account { metrics, spans: self.spans(), tells_receivers: config.traces.webhook_header }
    }
}

/// What is not counted as it happens is looked up when somebody asks.
fn observe(metrics: &Metrics, store: &OpenStore, clock: &SharedClock) {
    let (store, clock, lanes) = (store.clone(), Arc::clone(clock), metrics.lanes.clone());
    metrics.at_scrape(move || {
        store.observe();
        lanes.set(&survey(store.store().directory(), clock.now()));
    });
}

/// Metrics are served until the lanes have drained, so that the last scrape still sees what happens.
fn serve_metrics(metrics: &Arc<Metrics>, listener: TcpListener, (tasks, stages): (&Tasks, &StopStages)) {
    let drained = stages.lanes_ended.clone().cancelled_owned();
    tasks.spawn("metrics", OnExit::StopProcess, metrics_port::serve(Arc::clone(metrics), listener, drained));
}

/// How callers come in: who they are, and over what.
struct Entrance {
    tls: Option<ServerTls>,
    tokens: Option<Reloaded<TokenTable>>,
    keys: Option<KeySource>,
    authenticator: Authenticator,
}

impl Entrance {
    fn open(config: &Config, clock: &SharedClock) -> anyhow::Result<Self> {
        let tls = config.listen.tls.clone().map(|tls| ServerTls::open(tls_files(tls))).transpose()?;
        let tokens = config.auth.tokens_file.as_deref().map(token_file::open).transpose()?;
        let keys = config.auth.jwt.as_ref().map(|jwt| open_keys(&jwt.keys)).transpose()?;
        let jwt = config.auth.jwt.as_ref().zip(keys.clone());
        let ways = WaysIn {
            tokens: tokens.clone(),
            jwt: jwt.map(|(jwt, keys)| JwtWay::new(jwt.rules.clone(), keys)),
            certificates: CertificateRules::new(&config.auth.certificates),
        };
        let authenticator = if config.auth.is_configured() {
            Authenticator::new(ways, Arc::clone(clock))
        } else {
            if !config.listen.grpc.ip().to_canonical().is_loopback() {
                tracing::warn!(
                    "whoever reaches the gRPC port may do everything: no credentials are asked for"
                );
            }
            Authenticator::open()
        };
        Ok(Self { tls, tokens, keys, authenticator })
    }

    /// Files change, so what is in force is looked up when somebody asks.
    fn observe(&self, metrics: &Metrics) {
        let Some(tls) = self.tls.clone() else { return };
        let certificates = metrics.certificates.clone();
        metrics.at_scrape(move || {
            let expiry = tls.expiry();
            certificates.end(CertificateUse::Server, expiry.server);
            certificates.end(CertificateUse::ClientAuthority, expiry.client_authority);
            certificates.end(CertificateUse::RevocationList, expiry.revocation_list);
        });
    }

    fn watch_files(&self, config: &Config, tasks: &Tasks) {
        let every = config.auth.reload;
        if let Some(tls) = &self.tls {
            tasks.spawn("certificates", OnExit::StopProcess, tls.run(every, tasks.soft()));
        }
        if let Some(tokens) = &self.tokens {
            tasks.spawn("tokens", OnExit::StopProcess, tokens.run(every, tasks.soft()));
        }
        match &self.keys {
            Some(KeySource::File(file)) => {
                tasks.spawn("keys", OnExit::StopProcess, file.run(every, tasks.soft()));
            }
            Some(KeySource::Url(fetched)) => {
                tasks.spawn("keys", OnExit::StopProcess, Arc::clone(fetched).run(tasks.soft()));
            }
            None => {}
        }
    }
}

fn open_keys(keys: &KeysConfig) -> anyhow::Result<KeySource> {
    let (url, ca_file, every, at_most_every) = match keys {
        KeysConfig::File(path) => return Ok(KeySource::File(jwks::open(path)?)),
        KeysConfig::Url { url, ca_file, every, at_most_every } => (url, ca_file, every, at_most_every),
    };
    let roots = ca_file.as_deref().map_or(Ok(Vec::new()), |path| read_roots("auth.jwks_ca_file", path))?;
    let fetcher = Fetcher::new(url.clone(), &roots)?;
    let fetch: Fetch = Arc::new(move || {
        let fetcher = fetcher.clone();
        Box::pin(async move { fetcher.fetch().await })
    });
    Ok(KeySource::Url(FetchedKeys::new(fetch, *every, *at_most_every)))
}

fn tls_files(tls: TlsConfig) -> TlsFiles {
    let mode = if tls.client_certificates_required {
        ClientCertificates::Required
    } else {
        ClientCertificates::Optional
    };
    TlsFiles {
        certificate: tls.certificate,
        key: tls.key,
        clients: tls.client_ca.map(|path| (path, mode)),
        revocation_lists: tls.client_revocation_lists,
    }
}

fn limits(config: &Config) -> Limits {
    let (limits, connection) = (&config.limits, &config.limits.connection);
    Limits {
        max_message_bytes: limits.message_bytes,
        max_emit_streams: limits.emit_streams,
        max_watches: limits.watches,
        max_open_streams: (limits.health_watches, limits.health_watches_per_address),
        reflection: match config.listen.reflection {
            ReflectionAccess::Open => Reflection::Open,
            ReflectionAccess::Authenticated => Reflection::Authenticated,
            ReflectionAccess::Off => Reflection::Off,
        },
        call_default: limits.call_default,
        recheck: config.auth.reload,
        connection: ConnectionOptions {
            streams: connection.concurrent_streams,
            calls: connection.concurrent_calls,
            header_bytes: connection.header_bytes,
            handshake_timeout: connection.handshake_timeout,
            idle: connection.idle,
            age: connection.age,
            call_max: limits.call_max,
            keepalive_interval: connection.keepalive_interval,
            keepalive_timeout: connection.keepalive_timeout,
            control_frames: connection.control_frames,
        },
        listener: ListenerOptions {
            connections: connection.connections,
            connections_per_address: connection.connections_per_address,
            handshakes: connection.handshakes,
            handshakes_per_address: connection.handshakes_per_address,
        },
    }
}

fn serve(
    config: &Config,
    (control, entrance, denials, metrics): (Arc<Control>, Entrance, Arc<DenialRecorder>, &Metrics),
    (grpc_listener, health_listener): (TcpListener, TcpListener),
    (tasks, stages): (&Tasks, &StopStages),
) {
    let health = HealthState::new();
    let server = GrpcServer::new(control, health.clone(), limits(config))
        .with_metrics(metrics.rpc.clone())
        .with_denials(denials)
        .with_authenticator(entrance.authenticator)
        .with_tls(entrance.tls);
    let (stop, ended, drain) = (tasks.soft(), stages.calls_ended.clone(), health.clone());
    let (notice, tasks_to_fail) = (config.listen.stop_notice, tasks.clone());
    let hard = tasks.hard();
    tasks.spawn("grpc", OnExit::StopProcess, async move {
        // Whoever asks for health learns of the stop before calls are refused.
        let stopping = async move {
            stop.cancelled().await;
            drain.set_ready(false);
            tokio::time::sleep(notice).await;
        };
        tokio::select! {
            served = server.serve(grpc_listener, stopping) => if let Err(error) = served {
                tasks_to_fail.fail("grpc", &error.to_string());
            },
            () = hard.cancelled() => {}
        }
        // However the server ended, no call comes any more.
        ended.cancel();
    });
    // Probes are answered until the lanes have drained: the process lives for so long.
    let probe_limits = limits(config);
    let (probes, tasks_to_fail, drained) = (health.clone(), tasks.clone(), stages.lanes_ended.clone());
    tasks.spawn("health", OnExit::StopProcess, async move {
        if let Err(error) =
            serve_health(probes, health_listener, probe_limits, drained.cancelled_owned()).await
        {
            tasks_to_fail.fail("health", &error.to_string());
        }
    });
    health.set_started(true);
    health.set_ready(true);
    tracing::info!("ready");
}

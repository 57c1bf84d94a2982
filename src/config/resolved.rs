//! The configuration as the program uses it: typed, complete, valid.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use url::Url;

use crate::auth::certificate::CertificateRule;
use crate::auth::jwt::JwtRules;
use crate::domain::attempt::ResponseBodies;
use crate::domain::contract::Contract;
use crate::domain::payload::PayloadLimits;
use crate::domain::place::Place;
use crate::domain::plan::Plan;
use crate::domain::retention::Retention;
use crate::domain::secret::Secret;

/// Everything that the operator decides.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Where callers connect.
    pub listen: ListenConfig,
    /// How callers prove who they are.
    pub auth: AuthConfig,
    /// What is kept, and where.
    pub store: StoreConfig,
    /// How deliveries are made.
    pub delivery: DeliveryConfig,
    /// How long what is finished is kept; default 30 days each.
    pub retention: Retention,
    /// What callers may send.
    pub limits: LimitsConfig,
    /// Where requests may go.
    pub egress: EgressConfig,
    /// Which secrets of the machine destinations may refer to.
    pub secrets: SecretsConfig,
    /// How organizations come into being.
    pub organizations: OrganizationsConfig,
    /// The plans.
    pub plans: Plans,
    /// Where callers' traces go on.
    pub traces: TracesConfig,
    /// How the process logs.
    pub log: LogConfig,
}

/// `[listen]`: where callers connect. Port 0 takes a free one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenConfig {
    /// The gRPC API; default `127.0.0.1:8080`.
    pub grpc: SocketAddr,
    /// `grpc.health.v1` in plaintext, for probes; default `127.0.0.1:8081`.
    pub health: SocketAddr,
    /// Prometheus metrics over plain HTTP; default `127.0.0.1:9090`, `None`: no such port.
    pub metrics: Option<SocketAddr>,
    /// How the gRPC port is made secure; default not at all.
    pub tls: Option<TlsConfig>,
    /// Whether the gRPC port may be reached from other machines in plaintext; default `false`.
    pub allow_plaintext_network: bool,
    /// Whether it may be reached from other machines although nobody is authenticated; default `false`.
    pub allow_unauthenticated_network: bool,
    /// Whether metrics may be reached from other machines, in plaintext and by everybody; default `false`.
    pub allow_metrics_network: bool,
    /// Who may use server reflection; default those with valid credentials.
    pub reflection: ReflectionAccess,
    /// How long calls are still taken after health has said that a stop begins; default 500 ms.
    pub stop_notice: Duration,
}

/// Who may use server reflection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReflectionAccess {
    /// Everybody.
    Open,
    /// Callers with valid credentials; everybody, where none are asked for.
    Authenticated,
    /// Nobody.
    Off,
}

/// TLS of the gRPC port; PEM files that are read again when they change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsConfig {
    /// The certificate with its chain.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The authorities of client certificates; default none, and then none are asked for.
    pub client_ca: Option<PathBuf>,
    /// What they have revoked; default no lists, and then none are asked for.
    pub client_revocation_lists: Vec<PathBuf>,
    /// Whether a client must show a certificate, where there are authorities; default `true`.
    pub client_certificates_required: bool,
}

/// `[auth]`: how callers prove who they are. Without any way, everybody is let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthConfig {
    /// The file of static tokens; default none.
    pub tokens_file: Option<PathBuf>,
    /// What the names in client certificates stand for; default nothing.
    pub certificates: Vec<CertificateRule>,
    /// Which JSON Web Tokens are believed; default none.
    pub jwt: Option<JwtConfig>,
    /// How often files are looked at, TLS's too, and the credentials of streams; default 5 s.
    pub reload: Duration,
}

impl AuthConfig {
    /// Whether callers must prove who they are.
    #[must_use]
    pub fn is_configured(&self) -> bool {
        self.tokens_file.is_some() || self.jwt.is_some() || !self.certificates.is_empty()
    }
}

/// Which JSON Web Tokens are believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtConfig {
    /// By what, and what their claims mean.
    pub rules: JwtRules,
    /// With which keys.
    pub keys: KeysConfig,
}

/// Where the keys of the issuer are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeysConfig {
    /// In a file, which is read again when it changes.
    File(PathBuf),
    /// At a URL.
    Url {
        /// `https://` only.
        url: Url,
        /// Root certificates that are trusted besides Mozilla's, in PEM.
        ca_file: Option<PathBuf>,
        /// How often they are fetched; default 10 min.
        every: Duration,
        /// At most how often, when a token names an unknown key; default 30 s.
        at_most_every: Duration,
    },
}

/// `[store]`: what is kept, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreConfig {
    /// The folder of the embedded store; default `signalpost-data`.
    pub path: PathBuf,
    /// The shared store instead of it; default none.
    pub shared: Option<SharedStoreConfig>,
    /// The store's page cache, in bytes; default 256 MiB.
    pub cache_bytes: u64,
    /// Ingest stops below this much free disk, in bytes; `None`, the default: 1 GiB or 10 % of the disk,
    /// whichever is more.
    pub min_free_bytes: Option<u64>,
    /// The most events that share one fsync; default 64, for the shared store 500.
    pub group_events: usize,
    /// The most calls that wait for the writer before callers are told to come back; default 4096.
    pub queue_depth: usize,
}

/// A PostgreSQL database that replicas share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedStoreConfig {
    /// Its connection string, or the file that holds it.
    pub url: StoreUrl,
    /// Authorities that are trusted besides Mozilla's; default none.
    pub ca_file: Option<PathBuf>,
    /// The most connections for reads; default 8.
    pub connections: usize,
    /// How long a statement may take; default 10 s.
    pub statement_timeout: Duration,
    /// After so long without a sign of life a replica's lanes are taken over; default 10 s.
    pub lease: Duration,
    /// How this replica is called; default the name of the machine.
    pub replica: Option<String>,
}

/// Where the connection string is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreUrl {
    /// Here.
    Given(Secret),
    /// In this file.
    File(PathBuf),
}

/// `[delivery]`: how deliveries are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryConfig {
    /// Whether anything is delivered at all; where not, calls that would deliver are refused; default `true`.
    pub enabled: bool,
    /// Whether SEMAPHOR destinations are delivered to, also set by `ENTERPRISE_TELEMETRY_ENABLED`;
    /// default `false` (seed 000).
    pub enterprise_telemetry_enabled: bool,
    /// Delivery threads; `None`, the default: as many as there are cores. See [`Self::thread_count`].
    pub threads: Option<usize>,
    /// The most requests in flight, of all delivery threads together; default 512.
    pub max_in_flight: usize,
    /// The most bytes of events in flight, of all delivery threads together; default 128 MiB.
    pub max_bytes_in_flight: usize,
    /// The most connections that are kept open for further requests, an equal part on each delivery thread; default
    /// 1024.
    pub max_kept_connections: usize,
    /// So many failed requests in a row open the circuit of a destination; default 10.
    pub circuit_opens_after: u32,
    /// The most deliveries of one destination that are held in memory; default 512.
    pub window: usize,
    /// The most best-effort deliveries of one destination that are held in memory; default 512.
    pub best_effort_window: usize,
    /// The most bytes of waiting events of one destination that are held in memory; default 8 MiB.
    pub window_bytes: usize,
    /// The most bytes of waiting events of all destinations together that are held in memory; default 64 MiB.
    pub max_bytes_waiting: usize,
    /// How long a stop waits for what is running; default 25 s, inside Kubernetes's 30.
    pub shutdown_deadline: Duration,
    /// Contracts that may be delivered to `http://` URLs; default none. Only STALWART may be listed.
    pub plain_http_contracts: BTreeSet<Contract>,
}

impl DeliveryConfig {
    /// How many delivery threads to start.
    #[must_use]
    pub fn thread_count(&self) -> usize {
        self.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, Into::into))
    }
}

/// `[limits]`: what callers may send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitsConfig {
    /// Size (default 256 KiB) and depth (default 64) of an event's data.
    pub payload: PayloadLimits,
    /// The most events in one `EmitBatch`; default 1000.
    pub batch_events: usize,
    /// The largest gRPC message, in bytes; default 4 MiB.
    pub message_bytes: usize,
    /// The most streams of events in all; default 1024.
    pub emit_streams: usize,
    /// The most of them of one caller, or from one address without authentication; default 256.
    pub emit_streams_per_caller: usize,
    /// The most watches in all; default 256.
    pub watches: usize,
    /// The most of them of one organization; default 64.
    pub watches_per_organization: usize,
    /// The most watches of health, which need no credentials; default 256.
    pub health_watches: usize,
    /// The most of them from one address; default 64.
    pub health_watches_per_address: usize,
    /// How long a call may take whose caller says nothing, and a stream of events be without its first message;
    /// default 60 s.
    pub call_default: Duration,
    /// How long a call may take at most; default 5 min.
    pub call_max: Duration,
    /// The most entries of the audit log that denied calls leave in a minute; default 10.
    pub audited_denials: u32,
    /// What connections may do, and how many there may be.
    pub connection: ConnectionLimits,
}

/// The part of `[limits]` that is about connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// The largest list of request headers, in bytes; default 16 KiB.
    pub header_bytes: u32,
    /// The most calls and streams at once on one connection; default 256.
    pub concurrent_streams: u32,
    /// How many calls of one connection are worked on at once; default 64.
    pub concurrent_calls: usize,
    /// The most connections; default 4096.
    pub connections: usize,
    /// The most connections from one address; default 1024.
    pub connections_per_address: usize,
    /// The most connections that have not begun to speak HTTP/2; default 256.
    pub handshakes: usize,
    /// The most of them from one address; default 64.
    pub handshakes_per_address: usize,
    /// How long TLS, the first bytes of HTTP/2, and going when told to may each take; default 10 s.
    pub handshake_timeout: Duration,
    /// How long a connection may have no call; default 10 min.
    pub idle: Duration,
    /// How old a connection may become; `None`, the default, for any age.
    pub age: Option<Duration>,
    /// How often a quiet connection is asked whether its other end is there; default 30 s.
    pub keepalive_interval: Duration,
    /// How long the answer may take; default 20 s.
    pub keepalive_timeout: Duration,
    /// The most frames without calls a second on one connection; default 1000.
    pub control_frames: u32,
}

/// `[egress]`: where requests may go. Only global unicast addresses, unless allowed here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EgressConfig {
    /// Ranges that are allowed although they are not global; default none.
    pub allow: Vec<IpNet>,
    /// Ranges that are refused, whatever else is allowed; default none.
    pub deny: Vec<IpNet>,
    /// Host names that are refused, with all names below them; lower case; default none.
    pub deny_hosts: Vec<String>,
    /// The ports that may be called; empty, the default: any.
    pub ports: BTreeSet<u16>,
    /// A PEM file with root certificates that are trusted besides Mozilla's; default none.
    pub ca_file: Option<PathBuf>,
    /// The forward proxy for all requests; default none.
    pub proxy: Option<Url>,
    /// The most requests a second of one organization to one host; `None` is any; default 1000.
    pub per_host_rate: Option<u32>,
    /// Whose response bodies are kept; default nobody's.
    pub response_bodies: ResponseBodies,
}

/// `[secrets]`: how secrets are sealed, and which of the machine destinations may refer to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SecretsConfig {
    /// The file with the keys under which secrets are sealed; `None`, the default: those of the variable
    /// `SIGNALPOST_SEALING_KEYS`, or else a key that the store makes for itself.
    pub key_file: Option<PathBuf>,
    /// The environment variables that destinations may refer to; default none.
    pub environment: Vec<Scoped<String>>,
    /// The folders below which destinations may refer to files; absolute; default none.
    pub folders: Vec<Scoped<PathBuf>>,
}

/// Something of the machine, and the organizations whose destinations may refer to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scoped<T> {
    /// What.
    pub what: T,
    /// For whose destinations.
    pub place: Place,
}

/// `[organizations]`: how organizations come into being.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrganizationsConfig {
    /// Whether an organization must be created before its first use; default `false`.
    pub require_create: bool,
}

/// `[plans.NAME]`, with `organizations.default_plan`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plans {
    /// The plan of an organization that has not been given another; by default one without limits.
    pub default: Plan,
    /// All plans by name, the default one too.
    pub by_name: BTreeMap<String, Plan>,
}

impl Plans {
    /// The plan of that name, or the default one where the organization has none or one that was removed.
    #[must_use]
    pub fn of(&self, name: Option<&str>) -> &Plan {
        name.and_then(|name| self.by_name.get(name)).unwrap_or(&self.default)
    }
}

/// `[traces]`: where callers' traces go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TracesConfig {
    /// The OTLP receiver (gRPC) that gets our spans; default none.
    pub endpoint: Option<Url>,
    /// Whether it may be another machine without TLS; default `false`.
    pub allow_plaintext_network: bool,
    /// A PEM file with root certificates for it that are trusted besides Mozilla's; default none.
    pub ca_file: Option<PathBuf>,
    /// The name of this service in traces; default `signalpost`.
    pub service_name: String,
    /// Whether receivers get the header `traceparent`; default `true`.
    pub webhook_header: bool,
}

/// `[log]`: how the process logs, to standard error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// For people or for machines; default human.
    pub format: LogFormat,
    /// Directives as `info` or `warn,signalpost::engine=debug`; default `info`.
    pub level: String,
}

/// The two ways to write a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// A line for people, in colour on a terminal.
    Human,
    /// One JSON object a line.
    Json,
}

//! The server under test: `signalpost serve` in a process of its own, on a store of its own.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use tempfile::TempDir;
use tonic::transport::Channel;

use super::process::{Process, Usage};
use super::sinks::Sink;
use crate::grpc::proto::v1;
use crate::grpc::proto::v1::delivery_admin_client::DeliveryAdminClient;
use crate::grpc::proto::v1::destination_admin_client::DestinationAdminClient;
use crate::grpc::proto::v1::event_ingest_client::EventIngestClient;

/// Connections of the callers. One alone runs in lock-step with the server, both half idle.
const CHANNELS: usize = 4;
/// How long a stop may take; the server's own deadline is 25 s.
const STOP_LIMIT: Duration = Duration::from_secs(40);
/// How long a server that is ready may be out of reach.
const REACH_LIMIT: Duration = Duration::from_secs(10);
/// The store's folder, in the folder of the server.
const STORE: &str = "store";
/// The type of every event; the contracts in use take any.
pub const EVENT_TYPE: &str = "bench.event";

/// Which contract the destinations have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Egress {
    /// STALWART, the only contract that may use plain HTTP, set to one request per event.
    Http,
    /// STANDARD_WEBHOOKS over TLS.
    Https,
}

/// In what a scenario's server differs from the defaults, besides what loopback needs.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    /// A certificate that it trusts.
    pub certificate: Option<PathBuf>,
    /// How many seconds it keeps history.
    pub history_seconds: Option<u32>,
    /// The database of several servers, instead of a store of its own.
    pub store_url: Option<String>,
}

/// A running server; it is killed and its store removed when this is dropped.
pub struct Server {
    // Before the folder: the process must have ended when its store is removed.
    process: Process,
    channels: Vec<Channel>,
    addresses: Addresses,
    setup: Setup,
    folder: TempDir,
}

/// Where a server listens.
#[derive(Debug, Clone, Copy)]
struct Addresses {
    grpc: SocketAddr,
    metrics: SocketAddr,
}

impl Server {
    /// Starts a server on a new store below `folder`.
    ///
    /// # Errors
    /// It does not start, or can't be reached.
    pub async fn start(folder: &Path, setup: Setup) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("server-").tempdir_in(folder)?;
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let (process, addresses) = spawn(folder.path(), &setup, any).await?;
        let mut channels = Vec::with_capacity(CHANNELS);
        for _ in 0..CHANNELS {
            let endpoint = Channel::from_shared(format!("http://{}", addresses.grpc))?;
            channels.push(endpoint.connect().await.context("connecting to the server")?);
        }
        Ok(Self { process, channels, addresses, setup, folder })
    }

    /// Asks the server to end and waits for that; says how long it took.
    ///
    /// # Errors
    /// It had ended by itself, or does not end in order.
    pub async fn stop(&mut self) -> anyhow::Result<Duration> {
        self.process.terminate(STOP_LIMIT).await.context("stopping the server")
    }

    /// Ends it for good and leaves its folder, store and configuration, where it is; says where that is.
    #[must_use]
    pub fn keep(self) -> PathBuf {
        let Self { process, folder, .. } = self;
        drop(process);
        folder.keep()
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// It had ended by itself.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.process.kill().context("killing the server")
    }

    /// Starts it again after [`Server::stop`] or [`Server::kill`], on the same store and port; says how
    /// long it took until it was ready. Connections come back by themselves.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start_again(&mut self) -> anyhow::Result<Duration> {
        let began = Instant::now();
        let (process, addresses) = spawn(self.folder.path(), &self.setup, self.addresses.grpc).await?;
        let took = began.elapsed();
        (self.process, self.addresses) = (process, addresses);
        Ok(took)
    }

    /// It does nothing more, and keeps what it has (SIGSTOP).
    ///
    /// # Errors
    /// It had ended by itself.
    pub fn freeze(&mut self) -> anyhow::Result<()> {
        self.process.freeze().context("freezing the server")
    }

    /// Starts it again and kills it so long after, ready or not.
    ///
    /// # Errors
    /// It can't be started, or ended by itself before.
    pub async fn kill_while_starting(&mut self, after: Duration) -> anyhow::Result<()> {
        let config = configure(self.folder.path(), &self.setup, self.addresses.grpc)?;
        let arguments = ["serve".as_ref(), "--config".as_ref(), config.as_os_str()];
        Process::start_and_kill(&arguments, after).await.context("killing the server while it starts")
    }

    /// The store's folder.
    #[must_use]
    pub fn store(&self) -> PathBuf {
        self.folder.path().join(STORE)
    }

    /// After a start, connections that broke with the process before come back with the next calls;
    /// returns when one has.
    ///
    /// # Errors
    /// The server can't be reached in time.
    pub async fn wait_until_reached(&self) -> anyhow::Result<()> {
        let began = Instant::now();
        loop {
            let asked = self.destinations()?.list_contracts(v1::ListContractsRequest::default()).await;
            match asked {
                // Any answer of the server itself will do.
                Err(status) if status.code() == tonic::Code::Unavailable => {}
                Ok(_) | Err(_) => return Ok(()),
            }
            anyhow::ensure!(began.elapsed() < REACH_LIMIT, "the server can't be reached");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Where it shows its metrics.
    #[must_use]
    pub fn metrics_address(&self) -> SocketAddr {
        self.addresses.metrics
    }

    /// What the store takes on the disk.
    ///
    /// # Errors
    /// The folder can't be read.
    pub fn disk_bytes(&self) -> anyhow::Result<u64> {
        disk_bytes(&self.folder.path().join(STORE))
    }

    /// What the server has used so far.
    ///
    /// # Errors
    /// It has ended.
    pub fn usage(&self) -> anyhow::Result<Usage> {
        self.process.usage()
    }

    /// A client for the caller of that number; callers share a few connections.
    ///
    /// # Errors
    /// Never in practice: there are connections as long as there is a server.
    pub fn events(&self, caller: usize) -> anyhow::Result<EventIngestClient<Channel>> {
        let channel = self.channels.get(caller % CHANNELS).context("a connection")?;
        Ok(EventIngestClient::new(channel.clone()))
    }

    /// A client for deliveries.
    ///
    /// # Errors
    /// As [`Server::events`].
    pub fn deliveries(&self) -> anyhow::Result<DeliveryAdminClient<Channel>> {
        Ok(DeliveryAdminClient::new(self.channels.first().context("a connection")?.clone()))
    }

    /// A client for destinations.
    ///
    /// # Errors
    /// As [`Server::events`].
    pub fn destinations(&self) -> anyhow::Result<DestinationAdminClient<Channel>> {
        Ok(DestinationAdminClient::new(self.channels.first().context("a connection")?.clone()))
    }

    /// Creates `count` organizations with one destination each.
    ///
    /// # Errors
    /// The server refuses one of them.
    pub async fn create_destinations(&self, count: u32, sink: &Sink, egress: Egress) -> anyhow::Result<()> {
        for number in 0..count {
            let url = sink.url(number)?;
            self.create_destination(&organization(number), destination(&url, egress)).await?;
        }
        Ok(())
    }

    /// Creates a destination, and its organization with it.
    ///
    /// # Errors
    /// The server refuses it.
    pub async fn create_destination(
        &self,
        organization_id: &str,
        destination: v1::Destination,
    ) -> anyhow::Result<v1::Destination> {
        let request = v1::CreateDestinationRequest {
            organization_id: organization_id.to_owned(),
            destination: Some(destination),
            validate_only: false,
        };
        let created = self.destinations()?.create_destination(request).await;
        created.context("creating a destination")?.into_inner().destination.context("a destination")
    }
}

async fn spawn(folder: &Path, setup: &Setup, grpc: SocketAddr) -> anyhow::Result<(Process, Addresses)> {
    let config = configure(folder, setup, grpc)?;
    let arguments = ["serve".as_ref(), "--config".as_ref(), config.as_os_str()];
    let (process, ready) = Process::start(&arguments).await.context("the server")?;
    let address = |name: &str| {
        let text = ready.split_whitespace().find_map(|word| word.strip_prefix(name));
        text.context("an address of the server")?.parse().context("an address of the server")
    };
    let addresses = Addresses { grpc: address("grpc=")?, metrics: address("metrics=")? };
    Ok((process, addresses))
}

fn configure(folder: &Path, setup: &Setup, address: SocketAddr) -> anyhow::Result<PathBuf> {
    let config = folder.join("signalpost.toml");
    std::fs::write(&config, settings(&folder.join(STORE), setup, address))?;
    Ok(config)
}

/// What the files below a folder take, in blocks that are really there.
fn disk_bytes(folder: &Path) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder).context("the store's folder")? {
        let entry = entry?;
        bytes += match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => disk_bytes(&entry.path())?,
            Ok(metadata) => metadata.blocks() * 512,
            // A file that has just gone takes nothing.
            Err(_) => 0,
        };
    }
    Ok(bytes)
}

/// The organization of that number.
#[must_use]
pub fn organization(number: u32) -> String {
    format!("bench-{number}")
}

/// A new event with an id of its own, as a careful caller sends it.
#[must_use]
pub fn event(data: &Bytes) -> v1::Event {
    v1::Event {
        event_id: Some(uuid::Uuid::now_v7().simple().to_string()),
        r#type: EVENT_TYPE.into(),
        data: Some(v1::event::Data::JsonData(data.clone())),
        ..v1::Event::default()
    }
}

/// A JSON object of about that many bytes, without the repetition that compression would profit from.
#[must_use]
pub fn data(bytes: usize) -> Bytes {
    let frame = r#"{"text":""}"#.len();
    let mut random = fastrand::Rng::with_seed(1);
    let text: String = (frame..bytes).map(|_| random.alphanumeric()).collect();
    Bytes::from(format!(r#"{{"text":"{text}"}}"#))
}

/// A destination that gets one request for each event, several at a time, and lets nothing grow too old.
#[must_use]
pub fn destination(url: &str, egress: Egress) -> v1::Destination {
    let (contract, secret) = match egress {
        Egress::Http => (v1::Contract::Stalwart, "bench-key"),
        Egress::Https => {
            (v1::Contract::StandardWebhooks, "whsec_c2lnbmFscG9zdCBiZW5jaCBzZWNyZXQgMjQgYnl0ZXM=")
        }
    };
    let mut settings = v1::DeliverySettings {
        ordered: Some(false),
        max_concurrency: Some(8),
        discard_after: Some(prost_types::Duration { seconds: 24 * 3600, nanos: 0 }),
        ..Default::default()
    };
    if egress == Egress::Http {
        settings.throttle = Some(prost_types::Duration { seconds: 0, nanos: 0 });
        settings.max_batch_events = Some(1);
    }
    v1::Destination {
        display_name: "bench".into(),
        url: url.into(),
        contract: contract.into(),
        settings: Some(settings),
        signing_secret: Some(v1::SecretRef { source: Some(v1::secret_ref::Source::Value(secret.into())) }),
        ..v1::Destination::default()
    }
}

/// The defaults, but for what loopback and the scenario need.
fn settings(store: &Path, setup: &Setup, grpc: SocketAddr) -> String {
    let certificate =
        setup.certificate.as_ref().map(|path| format!("ca_file = {path:?}")).unwrap_or_default();
    let history =
        setup.history_seconds.map(|seconds| format!("history = \"{seconds}s\"")).unwrap_or_default();
    let store = match &setup.store_url {
        Some(url) => format!("url = {url:?}"),
        None => format!("path = {store:?}\n        min_free = \"64MiB\""),
    };
    format!(
        r#"
        [listen]
        grpc = "{grpc}"
        stop_notice = "0s"
        health = "127.0.0.1:0"
        metrics = "127.0.0.1:0"
        [store]
        {store}
        [delivery]
        plain_http_contracts = ["STALWART"]
        [egress]
        allow = ["127.0.0.0/8"]
        {certificate}
        [retention]
        {history}
        [log]
        level = "warn,signalpost::store::sled::seals=error"
        "#
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn the_generated_configuration_is_valid() {
        let setup = Setup {
            certificate: Some("/tmp/a \"b\".pem".into()),
            history_seconds: Some(60),
            ..Setup::default()
        };
        let shared = Setup { store_url: Some("postgres://a@localhost/b".into()), ..Setup::default() };
        for setup in [Setup::default(), setup, shared] {
            let settings = settings(Path::new("/tmp/store"), &setup, SocketAddr::from(([127, 0, 0, 1], 0)));
            Config::from_toml(&settings).unwrap();
        }
    }

    #[test]
    fn data_is_an_object_of_the_size_that_was_asked_for() {
        for bytes in [64, 1024, 100_000] {
            let data = data(bytes);
            assert_eq!(data.len(), bytes);
            assert!(serde_json::from_slice::<serde_json::Map<_, _>>(&data).is_ok());
        }
    }
}

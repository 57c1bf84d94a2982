//! The server under test: `signalpost serve` in a process of its own, on a store of its own.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context;
use bytes::Bytes;
use tempfile::TempDir;
use tonic::transport::Channel;

use super::process::{Process, Usage};
use super::sinks::Sink;
use crate::grpc::proto::v1;
use crate::grpc::proto::v1::destination_admin_client::DestinationAdminClient;
use crate::grpc::proto::v1::event_ingest_client::EventIngestClient;

/// Connections of the callers. One alone runs in lock-step with the server, both half idle.
const CHANNELS: usize = 4;
/// The type of every event; the contracts in use take any.
const EVENT_TYPE: &str = "bench.event";

/// Which contract the destinations have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Egress {
    /// STALWART, the only contract that may use plain HTTP, set to one request per event.
    Http,
    /// STANDARD_WEBHOOKS over TLS.
    Https,
}

/// A running server; it is killed and its store removed when this is dropped.
pub struct Server {
    // Before the folder: the process must have ended when its store is removed.
    process: Process,
    channels: Vec<Channel>,
    _folder: TempDir,
}

impl Server {
    /// Starts a server on a new store below `folder`; it trusts `certificate`.
    ///
    /// # Errors
    /// It does not start, or can't be reached.
    pub async fn start(folder: &Path, certificate: Option<&Path>) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("server-").tempdir_in(folder)?;
        let config = folder.path().join("signalpost.toml");
        std::fs::write(&config, settings(&folder.path().join("store"), certificate))?;
        let arguments = ["serve".as_ref(), "--config".as_ref(), config.as_os_str()];
        let (process, ready) = Process::start(&arguments).await.context("the server")?;
        let address = ready.split_whitespace().find_map(|word| word.strip_prefix("grpc="));
        let address: SocketAddr = address.context("the server's address")?.parse()?;
        let mut channels = Vec::with_capacity(CHANNELS);
        for _ in 0..CHANNELS {
            let endpoint = Channel::from_shared(format!("http://{address}"))?;
            channels.push(endpoint.connect().await.context("connecting to the server")?);
        }
        Ok(Self { process, channels, _folder: folder })
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

    /// Creates `count` organizations with one destination each.
    ///
    /// # Errors
    /// The server refuses one of them.
    pub async fn create_destinations(&self, count: u32, sink: &Sink, egress: Egress) -> anyhow::Result<()> {
        for number in 0..count {
            let url = sink.url(number)?;
            self.create_destination(&organization(number), &url, egress).await?;
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
        url: &str,
        egress: Egress,
    ) -> anyhow::Result<()> {
        let channel = self.channels.first().context("a connection")?;
        let request = v1::CreateDestinationRequest {
            organization_id: organization_id.to_owned(),
            destination: Some(destination(url, egress)),
            validate_only: false,
        };
        let mut client = DestinationAdminClient::new(channel.clone());
        client.create_destination(request).await.context("creating a destination")?;
        Ok(())
    }
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

fn destination(url: &str, egress: Egress) -> v1::Destination {
    let (contract, secret) = match egress {
        Egress::Http => (v1::Contract::Stalwart, "bench-key"),
        Egress::Https => {
            (v1::Contract::StandardWebhooks, "whsec_c2lnbmFscG9zdCBiZW5jaCBzZWNyZXQgMjQgYnl0ZXM=")
        }
    };
    // One request for each event, several at a time.
    let mut settings =
        v1::DeliverySettings { ordered: Some(false), max_concurrency: Some(8), ..Default::default() };
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

/// The defaults, but for what loopback needs.
fn settings(store: &Path, certificate: Option<&Path>) -> String {
    let certificate = certificate.map(|path| format!("ca_file = {path:?}")).unwrap_or_default();
    format!(
        r#"
        [listen]
        grpc = "127.0.0.1:0"
        health = "127.0.0.1:0"
        metrics = "127.0.0.1:0"
        [store]
        path = {store:?}
        min_free = "64MiB"
        [delivery]
        plain_http_contracts = ["STALWART"]
        [egress]
        allow = ["127.0.0.0/8"]
        {certificate}
        [log]
        level = "warn"
        "#
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn the_generated_configuration_is_valid() {
        for certificate in [None, Some(Path::new("/tmp/a \"b\".pem"))] {
            Config::from_toml(&settings(Path::new("/tmp/store"), certificate)).unwrap();
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

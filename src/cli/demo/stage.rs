//! The stage of the demo: a server on a temporary store, a receiver, and a client between them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tempfile::TempDir;
use tonic::transport::Channel;

use crate::app::App;
use crate::clock::SystemClock;
use crate::config::Config;
use crate::domain::contract::Contract;
use crate::grpc::proto::v1;
use crate::receiver::{Received, Receiver, ReceiverOptions, Script, TlsIdentity, Verified, Verifying};
use crate::shutdown::{Signals, Tasks};

/// The organization that everything in the demo belongs to; in somebody's database with a random end, so that it
/// is nobody else's.
const ORGANIZATION: &str = "acme";
/// How long the demo waits for something before it says that it did not happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long a stop may take.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// How each path of the receiver is told apart: by contract, with the secret that both sides know.
pub const PATHS: [(Contract, &str, &str); 6] = [
    (Contract::Semaphor, "/semaphor", "semaphor-demo-secret"),
    (Contract::Stalwart, "/stalwart", "stalwart-demo-key"),
    (Contract::Workspace, "/workspace", "workspace-demo-secret"),
    (Contract::Observer, "/observer", "observer-demo-secret"),
    (Contract::StandardWebhooks, "/standard", "whsec_c2lnbmFscG9zdCBkZW1vIHNlY3JldCAyNCBieXRlcw=="),
    (Contract::CloudEvents, "/cloudevents", "whsec_c2lnbmFscG9zdCBkZW1vIHNlY3JldCAyNCBieXRlcw=="),
];

/// Everything that the scenes need.
pub struct Stage {
    folder: TempDir,
    tasks: Tasks,
    app: App,
    receiver: Receiver,
    verifying: Arc<Verifying>,
    script: Arc<Script>,
    channel: Channel,
    organization: String,
    /// The store is somebody's database, which goes on being used.
    is_shared: bool,
}

impl Stage {
    /// Starts receiver and server, and connects to the server.
    pub async fn set(store_url: Option<&str>) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("signalpost-demo-").tempdir()?;
        let identity = TlsIdentity::self_signed(["localhost", "127.0.0.1"])?;
        let certificate = folder.path().join("receiver.pem");
        std::fs::write(&certificate, identity.certificate_pem())?;

        let script = Arc::new(Script::new());
        let secrets: HashMap<String, (Contract, String)> = PATHS
            .iter()
            .map(|(contract, path, secret)| ((*path).into(), (*contract, (*secret).into())))
            .collect();
        let scripted: Arc<dyn crate::receiver::Behaviour> = Arc::<Script>::clone(&script);
        let verifying = Arc::new(Verifying::new(secrets, Arc::new(SystemClock)).then(scripted));
        let behaviour: Arc<dyn crate::receiver::Behaviour> = Arc::<Verifying>::clone(&verifying);
        let receiver =
            Receiver::start(ReceiverOptions { tls: Some(identity), ..ReceiverOptions::local(behaviour) })
                .await
                .context("starting the receiver")?;

        let store = match store_url {
            Some(url) => format!("url = {url:?}"),
            None => format!("path = {:?}", folder.path().join("store")),
        };
        let config = Config::from_toml(&settings(&store, &certificate))?;
        let tasks = Tasks::new();
        let app = App::start(&config, &tasks).await.context("starting the server")?;
        let endpoint = Channel::from_shared(format!("http://{}", app.grpc_address))?;
        let channel = endpoint.connect().await.context("connecting to the server")?;
        let organization = match store_url {
            Some(_) => format!("{ORGANIZATION}-{:08x}", fastrand::u32(..)),
            None => ORGANIZATION.to_owned(),
        };
        let is_shared = store_url.is_some();
        Ok(Self { folder, tasks, app, receiver, verifying, script, channel, organization, is_shared })
    }

    /// The organization that everything belongs to.
    pub fn organization(&self) -> &str {
        &self.organization
    }

    /// Leaves everything running until a signal comes.
    pub async fn keep(&self) -> anyhow::Result<()> {
        self.tasks.run_until_stopped(Signals::of_process()?, STOP_DEADLINE).await;
        Ok(())
    }

    /// Stops everything in the order of a real stop, and removes what was stored.
    pub async fn strike(self) -> anyhow::Result<()> {
        if self.is_shared {
            self.delete_organization().await?;
        }
        drop(self.channel);
        self.tasks.stop();
        self.tasks.run_until_stopped(Signals::none(), STOP_DEADLINE).await;
        self.app.close().await?;
        self.receiver.stop().await;
        self.folder.close()?;
        Ok(())
    }

    async fn delete_organization(&self) -> anyhow::Result<()> {
        let mut client = v1::organization_admin_client::OrganizationAdminClient::new(self.channel.clone());
        let request = v1::DeleteOrganizationRequest {
            organization_id: self.organization.clone(),
            confirm_organization_id: self.organization.clone(),
            ..v1::DeleteOrganizationRequest::default()
        };
        client.delete_organization(request).await.context("removing the demo's organization")?;
        Ok(())
    }

    pub fn grpc_address(&self) -> SocketAddr {
        self.app.grpc_address
    }

    pub fn receiver_url(&self) -> String {
        self.receiver.url("")
    }

    pub fn url(&self, path: &str) -> String {
        self.receiver.url(path)
    }

    pub fn store_path(&self) -> &Path {
        self.folder.path()
    }

    /// What the receiver answers next on a path, once each, before it goes back to 200.
    pub fn script(&self) -> &Script {
        &self.script
    }

    /// Waits until the receiver has seen `count` requests on the path, and returns them.
    pub async fn wait_for(&self, path: &str, count: usize) -> anyhow::Result<Vec<Received>> {
        let on_path = |all: &[Received]| all.iter().filter(|one| one.path == path).count() >= count;
        let all = self.receiver.wait_for(on_path, PATIENCE).await;
        let all =
            all.map_err(|_| anyhow::anyhow!("{path} was not called {count} times within {PATIENCE:?}"))?;
        Ok(all.into_iter().filter(|one| one.path == path).collect())
    }

    /// What the receiver found genuine on a path, oldest first.
    pub fn verified(&self, path: &str) -> Vec<Verified> {
        self.verifying
            .verified()
            .into_iter()
            .filter(|(one, _)| one == path)
            .map(|(_, verified)| verified)
            .collect()
    }

    pub fn events(&self) -> v1::event_ingest_client::EventIngestClient<Channel> {
        v1::event_ingest_client::EventIngestClient::new(self.channel.clone())
    }

    pub fn destinations(&self) -> v1::destination_admin_client::DestinationAdminClient<Channel> {
        v1::destination_admin_client::DestinationAdminClient::new(self.channel.clone())
    }

    pub fn deliveries(&self) -> v1::delivery_admin_client::DeliveryAdminClient<Channel> {
        v1::delivery_admin_client::DeliveryAdminClient::new(self.channel.clone())
    }

    /// Asks until the answer is there, or patience ends: outcomes are recorded a moment after the receiver
    /// has answered.
    pub async fn eventually<T, F>(&self, what: &str, mut ask: impl FnMut() -> F) -> anyhow::Result<T>
    where
        F: Future<Output = anyhow::Result<Option<T>>>,
    {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while tokio::time::Instant::now() < deadline {
            if let Some(answer) = ask().await? {
                return Ok(answer);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        anyhow::bail!("{what} did not happen within {PATIENCE:?}")
    }
}

fn settings(store: &str, certificate: &Path) -> String {
    format!(
        r#"
        [listen]
        grpc = "127.0.0.1:0"
        stop_notice = "0s"
        health = "127.0.0.1:0"
        metrics = "127.0.0.1:0"
        [store]
        {store}
        cache = "64MiB"
        min_free = "64MiB"
        [delivery]
        enterprise_telemetry_enabled = true
        [egress]
        allow = ["127.0.0.0/8"]
        response_bodies = "always"
        ca_file = {certificate:?}
        "#
    )
}

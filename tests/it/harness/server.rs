//! A server in this process, with a client.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use prost_types::FieldMask;
use signalpost::app::App;
use signalpost::config::Config;
use signalpost::grpc::proto::v1;
use signalpost::grpc::proto::v1::delivery_admin_client::DeliveryAdminClient;
use signalpost::grpc::proto::v1::destination_admin_client::DestinationAdminClient;
use signalpost::grpc::proto::v1::event_ingest_client::EventIngestClient;
use signalpost::grpc::proto::v1::organization_admin_client::OrganizationAdminClient;
use signalpost::shutdown::{Signals, Stopped, Tasks};
use tempfile::TempDir;
use tonic::transport::Channel;

use super::{
    DestinationDraft, EventDraft, Refusal, Scrape, TestIdentity, database, eventually, is_store_shared,
};

/// The organization of everything that a test does not say otherwise.
pub const ORGANIZATION: &str = "org_test";

/// How long a stop may take before it is hurried.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// A server on a store of its own.
pub struct Server {
    folder: TempDir,
    stores: Option<TempDir>,
    settings: BTreeMap<String, String>,
    running: Option<Running>,
}

struct Running {
    tasks: Tasks,
    app: App,
    channel: Channel,
}

impl Server {
    /// A server with the settings that most tests need.
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// A server on the embedded store, whatever the run is about: for tests of what only that store has.
    pub async fn embedded() -> Self {
        Self::embedded_with(&[]).await
    }

    /// The same with other settings.
    pub async fn embedded_with(changes: &[(&str, &str)]) -> Self {
        let folder = tempfile::Builder::new().prefix("signalpost-it-").tempdir().unwrap();
        let store = format!("{:?}", folder.path().join("store"));
        let mut server = Self::with(&[&[("store.path", store.as_str())], changes].concat()).await;
        // Both go when the server does.
        server.stores = Some(folder);
        server
    }

    /// A server with other settings: full keys and values in TOML.
    pub async fn with(changes: &[(&str, &str)]) -> Self {
        let folder = tempfile::Builder::new().prefix("signalpost-it-").tempdir().unwrap();
        let certificate = folder.path().join("receiver.pem");
        std::fs::write(&certificate, TestIdentity::certificate_pem()).unwrap();
        let store = format!("{:?}", folder.path().join("store"));
        let certificate = format!("{certificate:?}");
        let mut settings = BTreeMap::new();
        for (key, value) in [
            ("listen.grpc", r#""127.0.0.1:0""#),
            ("listen.health", r#""127.0.0.1:0""#),
            ("listen.metrics", r#""127.0.0.1:0""#),
            ("listen.stop_notice", r#""0s""#),
            ("store.path", store.as_str()),
            ("store.cache", r#""16MiB""#),
            ("store.min_free", r#""16MiB""#),
            ("delivery.threads", "1"),
            // Tests of failures are about the schedule; the circuit has tests of its own.
            ("delivery.circuit_opens_after", "1000"),
            ("delivery.enterprise_telemetry_enabled", "true"),
            ("egress.allow", r#"["127.0.0.0/8"]"#),
            ("egress.response_bodies", r#""always""#),
            ("egress.ca_file", certificate.as_str()),
        ] {
            settings.insert(key.to_owned(), value.to_owned());
        }
        let mut server = Self { folder, stores: None, settings, running: None };
        if is_store_shared() && changes.iter().all(|(key, _)| *key != "store.path") {
            server.settings.remove("store.path");
            server.set(&[("store.url", &format!("{:?}", database()))]);
        }
        server.set(changes);
        server.resume().await;
        server
    }

    /// Stops in order and starts again on the same store.
    pub async fn restart(&mut self) {
        self.restart_with(&[]).await;
    }

    /// The same with other settings.
    pub async fn restart_with(&mut self, changes: &[(&str, &str)]) {
        self.stop().await;
        self.resume_with(changes).await;
    }

    /// Starts again after a stop.
    pub async fn resume_with(&mut self, changes: &[(&str, &str)]) {
        self.set(changes);
        self.resume().await;
    }

    fn set(&mut self, changes: &[(&str, &str)]) {
        for (key, value) in changes {
            self.settings.insert((*key).to_owned(), (*value).to_owned());
        }
    }

    async fn resume(&mut self) {
        let lines: Vec<String> =
            self.settings.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
        let config = Config::from_toml(&lines.concat()).unwrap();
        let tasks = Tasks::new();
        let app = App::start(&config, &tasks).await.unwrap();
        let endpoint = Channel::from_shared(format!("http://{}", app.grpc_address)).unwrap();
        // Tests of TLS bring channels of their own.
        let is_secure = self.settings.contains_key("listen.tls_certificate");
        let channel = if is_secure { endpoint.connect_lazy() } else { endpoint.connect().await.unwrap() };
        self.running = Some(Running { tasks, app, channel });
    }

    /// Stops in order: running calls and attempts end, best effort is flushed, the store is closed.
    pub async fn stop(&mut self) {
        let Running { tasks, app, channel } = self.running.take().unwrap();
        drop(channel);
        tasks.stop();
        let stopped = tasks.run_until_stopped(Signals::none(), STOP_DEADLINE).await;
        assert_eq!(stopped, Stopped::InTime);
        assert!(!tasks.ended_badly());
        app.close().await.unwrap();
    }

    /// Where the server keeps its things, and a place for those of a test.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A file beside the store.
    pub fn write_file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    pub fn grpc_address(&self) -> std::net::SocketAddr {
        self.running.as_ref().unwrap().app.grpc_address
    }

    pub fn health_address(&self) -> std::net::SocketAddr {
        self.running.as_ref().unwrap().app.health_address
    }

    pub fn metrics_address(&self) -> std::net::SocketAddr {
        self.running.as_ref().unwrap().app.metrics_address.unwrap()
    }

    /// What the port for metrics says now.
    pub async fn scrape(&self) -> Scrape {
        Scrape::of(self.metrics_address()).await
    }

    pub fn channel(&self) -> Channel {
        self.running.as_ref().unwrap().channel.clone()
    }

    pub fn events(&self) -> EventIngestClient<Channel> {
        EventIngestClient::new(self.channel())
    }

    pub fn destinations(&self) -> DestinationAdminClient<Channel> {
        DestinationAdminClient::new(self.channel())
    }

    pub fn deliveries(&self) -> DeliveryAdminClient<Channel> {
        DeliveryAdminClient::new(self.channel())
    }

    pub fn organizations(&self) -> OrganizationAdminClient<Channel> {
        OrganizationAdminClient::new(self.channel())
    }
}

impl Drop for Server {
    /// Threads of a test that ended must not work on for the others' account.
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            running.tasks.stop_now();
        }
    }
}

/// Destinations.
impl Server {
    pub async fn create(&self, draft: DestinationDraft) -> v1::Destination {
        self.try_create(draft).await.unwrap()
    }

    pub async fn try_create(&self, draft: DestinationDraft) -> Result<v1::Destination, Refusal> {
        self.try_create_in(ORGANIZATION, draft).await
    }

    pub async fn try_create_in(
        &self,
        organization_id: &str,
        draft: DestinationDraft,
    ) -> Result<v1::Destination, Refusal> {
        let request = v1::CreateDestinationRequest {
            organization_id: organization_id.into(),
            destination: Some(draft.0),
            validate_only: false,
        };
        let answer = self.destinations().create_destination(request).await?;
        Ok(answer.into_inner().destination.unwrap())
    }

    pub async fn get(&self, destination_id: &str) -> v1::Destination {
        self.try_get(destination_id).await.unwrap()
    }

    pub async fn try_get(&self, destination_id: &str) -> Result<v1::Destination, Refusal> {
        let request = v1::GetDestinationRequest {
            organization_id: ORGANIZATION.into(),
            destination_id: destination_id.into(),
        };
        let answer = self.destinations().get_destination(request).await?;
        Ok(answer.into_inner().destination.unwrap())
    }

    pub async fn health(&self, destination_id: &str) -> v1::DestinationHealth {
        self.get(destination_id).await.health.unwrap()
    }

    /// Waits until the health of a destination is as described.
    pub async fn until_health(
        &self,
        destination_id: &str,
        what: &str,
        is_so: impl Fn(&v1::DestinationHealth) -> bool,
    ) -> v1::DestinationHealth {
        eventually(what, async || Some(self.health(destination_id).await).filter(&is_so)).await
    }

    pub async fn try_update(
        &self,
        destination: v1::Destination,
        paths: &[&str],
    ) -> Result<v1::Destination, Refusal> {
        let paths = paths.iter().map(|path| (*path).to_owned()).collect();
        let request = v1::UpdateDestinationRequest {
            organization_id: ORGANIZATION.into(),
            destination: Some(destination),
            update_mask: Some(FieldMask { paths }),
            validate_only: false,
        };
        let answer = self.destinations().update_destination(request).await?;
        Ok(answer.into_inner().destination.unwrap())
    }

    pub async fn update(&self, destination: v1::Destination, paths: &[&str]) -> v1::Destination {
        self.try_update(destination, paths).await.unwrap()
    }

    pub async fn pause(&self, destination_id: &str) -> v1::Destination {
        let request = v1::PauseDestinationRequest {
            organization_id: ORGANIZATION.into(),
            destination_id: destination_id.into(),
        };
        self.destinations().pause_destination(request).await.unwrap().into_inner().destination.unwrap()
    }

    pub async fn resume_destination(&self, destination_id: &str) -> v1::Destination {
        let request = v1::ResumeDestinationRequest {
            organization_id: ORGANIZATION.into(),
            destination_id: destination_id.into(),
        };
        self.destinations().resume_destination(request).await.unwrap().into_inner().destination.unwrap()
    }

    pub async fn try_test(
        &self,
        subject: v1::test_destination_request::Subject,
        actor_id: &str,
    ) -> Result<v1::TestDestinationResponse, Refusal> {
        let request = v1::TestDestinationRequest {
            organization_id: ORGANIZATION.into(),
            subject: Some(subject),
            actor_id: actor_id.into(),
        };
        Ok(self.destinations().test_destination(request).await?.into_inner())
    }
}

/// Events and what became of them.
impl Server {
    pub async fn emit(&self, draft: EventDraft) -> v1::EmitResult {
        self.try_emit(draft).await.unwrap()
    }

    pub async fn try_emit(&self, draft: EventDraft) -> Result<v1::EmitResult, Refusal> {
        self.try_emit_in(ORGANIZATION, draft).await
    }

    pub async fn try_emit_in(
        &self,
        organization_id: &str,
        draft: EventDraft,
    ) -> Result<v1::EmitResult, Refusal> {
        let request = v1::EmitRequest { organization_id: organization_id.into(), event: Some(draft.0) };
        Ok(self.events().emit(request).await?.into_inner().result.unwrap())
    }

    pub async fn emit_batch(&self, drafts: Vec<EventDraft>) -> Vec<v1::emit_batch_result::Result> {
        self.try_emit_batch(drafts).await.unwrap()
    }

    pub async fn try_emit_batch(
        &self,
        drafts: Vec<EventDraft>,
    ) -> Result<Vec<v1::emit_batch_result::Result>, Refusal> {
        let events = drafts.into_iter().map(|draft| draft.0).collect();
        let request = v1::EmitBatchRequest { organization_id: ORGANIZATION.into(), events };
        let results = self.events().emit_batch(request).await?.into_inner().results;
        Ok(results.into_iter().map(|one| one.result.unwrap()).collect())
    }

    pub async fn list(&self, filter: v1::DeliveryFilter) -> Vec<v1::Delivery> {
        let request = v1::ListDeliveriesRequest {
            organization_id: ORGANIZATION.into(),
            filter: Some(filter),
            ..v1::ListDeliveriesRequest::default()
        };
        self.deliveries().list_deliveries(request).await.unwrap().into_inner().deliveries
    }

    /// All deliveries of an event, without attempts.
    pub async fn deliveries_of(&self, event_id: &str) -> Vec<v1::Delivery> {
        self.list(v1::DeliveryFilter { event_id: event_id.into(), ..v1::DeliveryFilter::default() }).await
    }

    /// The only delivery of an event, with its attempts, once it is in that state.
    pub async fn until(&self, event_id: &str, state: v1::DeliveryState) -> v1::Delivery {
        let what = format!("the delivery of {event_id} is {}", state.as_str_name());
        let found = eventually(&what, async || {
            let mut found = self.deliveries_of(event_id).await;
            assert!(found.len() <= 1, "{event_id} has several deliveries");
            found.pop().filter(|one| one.state() == state)
        });
        let found = found.await;
        self.delivery(&found.delivery_id).await
    }

    /// A delivery with everything.
    pub async fn delivery(&self, delivery_id: &str) -> v1::Delivery {
        self.try_delivery(delivery_id).await.unwrap()
    }

    pub async fn try_delivery(&self, delivery_id: &str) -> Result<v1::Delivery, Refusal> {
        let request = v1::GetDeliveryRequest {
            organization_id: ORGANIZATION.into(),
            delivery_id: delivery_id.into(),
            view: v1::DeliveryView::Full.into(),
        };
        Ok(self.deliveries().get_delivery(request).await?.into_inner().delivery.unwrap())
    }

    pub async fn dead_letters(&self) -> Vec<v1::Delivery> {
        let request = v1::ListDeadLettersRequest {
            organization_id: ORGANIZATION.into(),
            ..v1::ListDeadLettersRequest::default()
        };
        self.deliveries().list_dead_letters(request).await.unwrap().into_inner().dead_letters
    }

    pub async fn try_resend(&self, delivery_id: &str) -> Result<v1::Delivery, Refusal> {
        let request = v1::ResendDeliveryRequest {
            organization_id: ORGANIZATION.into(),
            delivery_id: delivery_id.into(),
        };
        Ok(self.deliveries().resend_delivery(request).await?.into_inner().delivery.unwrap())
    }

    pub async fn try_replay(&self, delivery_id: &str) -> Result<v1::Delivery, Refusal> {
        let request = v1::ReplayDeadLetterRequest {
            organization_id: ORGANIZATION.into(),
            delivery_id: delivery_id.into(),
        };
        Ok(self.deliveries().replay_dead_letter(request).await?.into_inner().delivery.unwrap())
    }

    pub async fn try_cancel(&self, delivery_id: &str) -> Result<v1::Delivery, Refusal> {
        let request = v1::CancelDeliveryRequest {
            organization_id: ORGANIZATION.into(),
            delivery_id: delivery_id.into(),
        };
        Ok(self.deliveries().cancel_delivery(request).await?.into_inner().delivery.unwrap())
    }
}

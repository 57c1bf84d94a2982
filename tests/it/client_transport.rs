//! Credentials and balancing of the Rust client, against gRPC servers that are not Signalpost's.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use signalpost::grpc::proto::v1;
use signalpost::grpc::proto::v1::event_ingest_server::{EventIngest, EventIngestServer};
use signalpost_client::{Client, Code, Event, Tls};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_stream::{Stream, StreamExt};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};

/// Accepts what comes with the right token, and counts it.
#[derive(Clone, Default)]
struct Service {
    token: Option<&'static str>,
    calls: Arc<AtomicUsize>,
}

impl Service {
    fn check<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let given = request.metadata().get("authorization").map(|value| value.to_str().unwrap());
        let expected = self.token.map(|token| format!("Bearer {token}"));
        if given != expected.as_deref() {
            return Err(Status::unauthenticated("no token"));
        }
        self.calls.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

#[tonic::async_trait]
impl EventIngest for Service {
    async fn emit(&self, request: Request<v1::EmitRequest>) -> Result<Response<v1::EmitResponse>, Status> {
        self.check(&request)?;
        let event_id = request.into_inner().event.unwrap().event_id.unwrap();
        let result = v1::EmitResult { event_id, ..v1::EmitResult::default() };
        Ok(Response::new(v1::EmitResponse { result: Some(result) }))
    }

    async fn emit_batch(
        &self,
        _: Request<v1::EmitBatchRequest>,
    ) -> Result<Response<v1::EmitBatchResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    type EmitStreamStream = Pin<Box<dyn Stream<Item = Result<v1::EmitStreamResponse, Status>> + Send>>;

    async fn emit_stream(
        &self,
        request: Request<Streaming<v1::EmitStreamRequest>>,
    ) -> Result<Response<Self::EmitStreamStream>, Status> {
        self.check(&request)?;
        let answers = request.into_inner().map(|request| {
            request.map(|one| v1::EmitStreamResponse { acknowledged_sequence: one.sequence, results: vec![] })
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

/// A server that ends with the returned set.
async fn serve(service: Service, tls: Option<ServerTlsConfig>) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut server = Server::builder();
    if let Some(tls) = tls {
        server = server.tls_config(tls).unwrap();
    }
    let router = server.add_service(EventIngestServer::new(service));
    let mut running = JoinSet::new();
    running.spawn(async { router.serve_with_incoming(TcpIncoming::from(listener)).await.unwrap() });
    (address, running)
}

#[tokio::test]
async fn token_and_client_certificate_reach_the_server() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(&chain, &key))
        .client_ca_root(Certificate::from_pem(&chain));
    let service = Service { token: Some("t0ken"), ..Service::default() };
    let (address, _running) = serve(service, Some(tls)).await;

    let trusting = Tls::new().ca_pem(chain.clone()).server_name("localhost");
    let known = trusting.clone().identity_pem(chain, key);
    let builder = Client::builder(format!("https://{address}")).organization("acme");
    let builder = builder.deadline(Duration::from_millis(500));
    let client = builder.clone().token("t0ken").tls(known.clone()).build().unwrap();
    assert_eq!(client.emit(Event::new("fine").id("one")).await.unwrap().event_id, "one");
    let stream = client.stream();
    let acknowledgement = stream.send(Event::new("fine").id("two")).await.unwrap();
    stream.close().await.unwrap();
    assert_eq!(acknowledgement.await.unwrap().event_id, "two");

    let wrong = builder.clone().token("wrong").tls(known).build().unwrap();
    let error = wrong.emit(Event::new("fine")).await.unwrap_err();
    assert_eq!(error.refusal().unwrap().code, Code::Unauthenticated);
    let stream = wrong.stream();
    let acknowledgement = stream.send(Event::new("fine")).await.unwrap();
    assert_eq!(acknowledgement.await.unwrap_err().refusal().unwrap().code, Code::Unauthenticated);
    assert!(stream.close().await.is_err(), "nobody waits for ever");

    let stranger = builder.token("t0ken").tls(trusting).build().unwrap();
    let error = stranger.emit(Event::new("fine")).await.unwrap_err();
    assert_eq!(error.refusal().unwrap().code, Code::DeadlineExceeded, "{error}");
}

#[tokio::test]
async fn a_balanced_client_uses_the_addresses_of_the_name_and_survives_those_that_are_dead() {
    let service = Service::default();
    // The name has ::1 as well on most machines; nobody listens there.
    let (address, _running) = serve(service.clone(), None).await;
    let builder = Client::builder(format!("http://localhost:{}", address.port())).organization("acme");
    let client = builder.balanced().build().unwrap();
    for number in 0..20 {
        let id = format!("e{number}");
        assert_eq!(client.emit(Event::new("fine").id(&id)).await.unwrap().event_id, id);
    }
    assert_eq!(service.calls.load(Ordering::Relaxed), 20);
}

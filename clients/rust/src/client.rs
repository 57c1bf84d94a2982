//! The client: calls with deadlines, repeated while that is safe.

use std::fmt;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use crate::connect::ClientBuilder;
use crate::error::{Error, Refusal};
use crate::event::{Accepted, Event};
use crate::proto::v1;
use crate::proto::v1::delivery_admin_client::DeliveryAdminClient;
use crate::proto::v1::destination_admin_client::DestinationAdminClient;
use crate::proto::v1::emit_batch_result::Result as BatchResult;
use crate::proto::v1::event_ingest_client::EventIngestClient;
use crate::proto::v1::organization_admin_client::OrganizationAdminClient;
use crate::retry::{Backoff, may_repeat};
use crate::stream::{EventStream, StreamOptions};

/// A connection that says who is calling.
pub type Authorized = InterceptedService<Channel, Bearer>;

/// Adds the token to each call.
#[derive(Clone, Default)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Bearer {
    pub(crate) fn new(token: Option<&str>) -> Result<Self, &'static str> {
        let Some(token) = token else { return Ok(Self(None)) };
        let value = MetadataValue::try_from(format!("Bearer {token}"));
        let mut value = value.map_err(|_| "has characters that a header can't carry")?;
        value.set_sensitive(true);
        Ok(Self(Some(value)))
    }
}

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Bearer(…)" } else { "Bearer(none)" })
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// Emits events of one organization. Cheap to clone; all clones share their connections.
#[derive(Debug, Clone)]
pub struct Client {
    channel: Authorized,
    organization_id: String,
    deadline: Duration,
}

impl Client {
    /// A client of the server at `http://HOST:PORT` or `https://HOST:PORT`.
    pub fn builder(target: impl Into<String>) -> ClientBuilder {
        ClientBuilder::new(target.into())
    }

    pub(crate) fn new(channel: Channel, bearer: Bearer, organization_id: String, deadline: Duration) -> Self {
        Self { channel: InterceptedService::new(channel, bearer), organization_id, deadline }
    }

    /// Emits one event. The answer means that it and its deliveries are on disk.
    ///
    /// Repeats the call while the server is unavailable, until the deadline.
    ///
    /// # Errors
    /// [`Error::Refused`]; at the deadline with the code `DEADLINE_EXCEEDED`, and then it is not known
    /// whether the event was accepted: emitting the same [`Event`] again is safe.
    pub async fn emit(&self, event: Event) -> Result<Accepted, Error> {
        let organization_id = self.organization_id.clone();
        let request = v1::EmitRequest { organization_id, event: Some(event.into_message()) };
        let call =
            |mut client: EventIngestClient<Authorized>, request| async move { client.emit(request).await };
        let response = self.repeated(request, call).await?;
        response.result.ok_or_else(|| Refusal::new(Code::Internal, "the answer has no result").into())
    }

    /// Emits 1 to 1000 events with one call. Each has its own result, in order.
    ///
    /// # Errors
    /// As [`Client::emit`], for the call as a whole.
    pub async fn emit_batch(
        &self,
        events: impl IntoIterator<Item = Event>,
    ) -> Result<Vec<Result<Accepted, Refusal>>, Error> {
        let events: Vec<_> = events.into_iter().map(Event::into_message).collect();
        let request = v1::EmitBatchRequest { organization_id: self.organization_id.clone(), events };
        let call = |mut client: EventIngestClient<Authorized>, request| async move {
            client.emit_batch(request).await
        };
        let response = self.repeated(request, call).await?;
        Ok(response.results.into_iter().map(batch_result).collect())
    }

    /// Opens a stream, which carries many more events a second than single calls.
    ///
    /// Call it within a tokio runtime.
    #[must_use]
    pub fn stream(&self) -> EventStream {
        self.stream_with(StreamOptions::default())
    }

    /// The same with other limits.
    #[must_use]
    pub fn stream_with(&self, options: StreamOptions) -> EventStream {
        EventStream::open(self.ingest(), self.organization_id.clone(), options)
    }

    /// The generated stub of `EventIngest`, without deadlines and repetitions of its own.
    #[must_use]
    pub fn ingest(&self) -> EventIngestClient<Authorized> {
        EventIngestClient::new(self.channel.clone())
    }

    /// The generated stub of `DestinationAdmin`.
    #[must_use]
    pub fn destinations(&self) -> DestinationAdminClient<Authorized> {
        DestinationAdminClient::new(self.channel.clone())
    }

    /// The generated stub of `DeliveryAdmin`.
    #[must_use]
    pub fn deliveries(&self) -> DeliveryAdminClient<Authorized> {
        DeliveryAdminClient::new(self.channel.clone())
    }

    /// The generated stub of `OrganizationAdmin`.
    #[must_use]
    pub fn organizations(&self) -> OrganizationAdminClient<Authorized> {
        OrganizationAdminClient::new(self.channel.clone())
    }

    /// Makes a call until it has an answer that repeating would not change.
    async fn repeated<Q: Clone, A, F>(
        &self,
        request: Q,
        call: impl Fn(EventIngestClient<Authorized>, Request<Q>) -> F,
    ) -> Result<A, Error>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let end = Instant::now() + self.deadline;
        let (mut backoff, mut last) = (Backoff::default(), None);
        loop {
            let mut attempt = Request::new(request.clone());
            attempt.set_timeout(end.saturating_duration_since(Instant::now()));
            let status = match timeout_at(end, call(self.ingest(), attempt)).await {
                Ok(Ok(response)) => return Ok(response.into_inner()),
                Ok(Err(status)) => status,
                Err(_) => return Err(self.too_late(last)),
            };
            if !may_repeat(&status) {
                return Err(status.into());
            }
            let refusal = Refusal::from(status);
            let pause = backoff.next(refusal.retry_after);
            if Instant::now() + pause >= end {
                return Err(self.too_late(Some(refusal)));
            }
            last = Some(refusal);
            sleep(pause).await;
        }
    }

    fn too_late(&self, last: Option<Refusal>) -> Error {
        let last = last.map(|last| format!("; the last answer was: {last}")).unwrap_or_default();
        let message = format!("no answer within the deadline of {:?}{last}", self.deadline);
        Refusal::new(Code::DeadlineExceeded, message).into()
    }
}

fn batch_result(result: v1::EmitBatchResult) -> Result<Accepted, Refusal> {
    match result.result {
        Some(BatchResult::Accepted(accepted)) => Ok(accepted),
        Some(BatchResult::Error(error)) => Err(error.into()),
        None => Err(Refusal::new(Code::Internal, "the answer has no result")),
    }
}

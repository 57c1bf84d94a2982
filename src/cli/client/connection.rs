//! A connection to a server, and the calls over it.

use std::time::Duration;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::grpc::proto::v1::delivery_admin_client::DeliveryAdminClient;
use crate::grpc::proto::v1::destination_admin_client::DestinationAdminClient;
use crate::grpc::proto::v1::event_ingest_client::EventIngestClient;

use super::failure::Failure;
use super::reach::Target;

/// What calls are made through.
pub type Client = InterceptedService<Channel, Caller>;

/// Says with each call who calls, and how long it may take.
#[derive(Debug, Clone)]
pub struct Caller {
    bearer: Option<MetadataValue<Ascii>>,
    timeout: Option<Duration>,
}

impl Caller {
    pub(super) fn new(bearer: Option<MetadataValue<Ascii>>, timeout: Duration) -> Self {
        Self { bearer, timeout: Some(timeout) }
    }

    /// The header of a token. The value is marked as sensitive, so that nothing shows it.
    pub(super) fn bearer(token: &str) -> Result<MetadataValue<Ascii>, ()> {
        if token.is_empty() || token.contains(char::is_whitespace) {
            return Err(());
        }
        let mut value: MetadataValue<Ascii> = format!("Bearer {token}").parse().map_err(drop)?;
        value.set_sensitive(true);
        Ok(value)
    }
}

impl Interceptor for Caller {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(timeout) = self.timeout {
            request.set_timeout(timeout);
        }
        if let Some(bearer) = &self.bearer {
            request.metadata_mut().insert("authorization", bearer.clone());
        }
        Ok(request)
    }
}

/// A server that was reached.
#[derive(Debug, Clone)]
pub struct Connection {
    channel: Channel,
    caller: Caller,
    target: Target,
}

impl Connection {
    /// Connects, so that a server that is not there is told before anything else.
    ///
    /// # Errors
    /// [`Failure::Unreachable`].
    pub(super) async fn make(target: Target, caller: Caller) -> Result<Self, Failure> {
        let channel = target.connect().await?;
        Ok(Self { channel, caller, target })
    }

    /// For calls that have an answer.
    pub fn calls(&self) -> Client {
        InterceptedService::new(self.channel.clone(), self.caller.clone())
    }

    /// For streams, which last as long as they last.
    pub fn streams(&self) -> Client {
        let caller = Caller { timeout: None, ..self.caller.clone() };
        InterceptedService::new(self.channel.clone(), caller)
    }

    /// Deliveries.
    pub fn deliveries(&self) -> DeliveryAdminClient<Client> {
        DeliveryAdminClient::new(self.calls())
    }

    /// Destinations.
    pub fn destinations(&self) -> DestinationAdminClient<Client> {
        DestinationAdminClient::new(self.calls())
    }

    /// Events.
    pub fn events(&self) -> EventIngestClient<Client> {
        EventIngestClient::new(self.calls())
    }

    /// The message of an answer, or the failure that a status is.
    ///
    /// # Errors
    /// The status, in the words of the command line.
    pub fn answer<T>(&self, answer: Result<Response<T>, Status>) -> Result<T, Failure> {
        answer.map(Response::into_inner).map_err(|status| self.failed(status))
    }

    /// What a status means to who called.
    pub fn failed(&self, status: Status) -> Failure {
        Failure::of_status(status, &self.target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_never_shown() {
        let caller = Caller::new(Some(Caller::bearer("planted").unwrap()), Duration::from_secs(1));
        assert!(!format!("{caller:?}").contains("planted"));
        for token in ["", "two words", "line\nbreak", "tøken\u{0}"] {
            assert!(Caller::bearer(token).is_err(), "{token:?}");
        }
    }
}

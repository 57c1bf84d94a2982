//! Transport: how a rendered request reaches the receiver.
//!
//! `http` is the only file that knows reqwest, with `pool` and `sockets` for the connections that are kept, `tls`
//! for trust and `failure` for words; `resolve`
//! decides which addresses may be connected to; `secrets` reads secrets from where they are; `courier` puts
//! the three together into one attempt, for which `account` accounts. `scripted` stands in for `http` in tests.

pub mod account;
pub mod courier;
mod echo;
pub mod failure;
pub mod fetch;
pub mod http;
mod pool;
pub mod resolve;
pub mod scripted;
pub mod secrets;
mod sockets;
pub mod tls;
pub mod turn;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::time::Duration;

use async_trait::async_trait;
use url::Url;

use crate::contract::RenderedRequest;
use crate::domain::attempt::Outcome;
use crate::policy::host_rate::Host;

/// Sends requests. One implementation talks HTTP; tests have a scripted one.
#[async_trait]
pub trait Transport: Send + Sync {
    /// Sends one request and waits for the answer, at most `options.timeout` in all.
    ///
    /// Whatever the receiver does is an [`Outcome`]; there is no error.
    async fn send(&self, request: RenderedRequest, options: SendOptions) -> Sent;

    /// Whom a request to this URL could hit, as far as it is known without asking anybody; nobody where all of it
    /// is the operator's own.
    fn known_third_parties(&self, url: &Url) -> Vec<Host> {
        url.host_str().map(|host| Host::Name(host.to_owned())).into_iter().collect()
    }

    /// Whom a request to this URL, that is sent in the next moments, could hit.
    ///
    /// # Errors
    /// What would become of the request, where it can't reach anybody.
    async fn find_third_parties(&self, url: &Url, options: SendOptions) -> Result<Vec<Host>, Sent> {
        let _ = options;
        Ok(self.known_third_parties(url))
    }
}

/// How to send a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SendOptions {
    /// From the start to the end of the response.
    pub timeout: Duration,
    /// How much of it has passed already.
    pub spent: Duration,
    /// Accept any certificate.
    pub allow_invalid_certificates: bool,
}

impl SendOptions {
    /// What is left of the time.
    #[must_use]
    pub fn left(&self) -> Duration {
        self.timeout.saturating_sub(self.spent)
    }
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// What the receiver did.
    pub outcome: Outcome,
    /// The address that was connected to, where an answer came.
    pub remote_address: Option<SocketAddr>,
}

//! Finding the server: what was tried, why it did not work, and what would help.

use std::error::Error;
use std::fmt;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use tonic::transport::{Channel, ClientTlsConfig, Endpoint, Uri};

use super::failure::Failure;

/// A silent connection is asked after this long whether its other end is there.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// A server that may be reached.
#[derive(Debug, Clone)]
pub struct Target {
    uri: Uri,
    endpoint: Endpoint,
    patience: Duration,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, authority) = (self.uri.scheme_str(), self.uri.authority());
        write!(f, "{}://{}", scheme.unwrap_or_default(), authority.map_or("", |authority| authority.as_str()))
    }
}

impl Target {
    pub(super) fn new(uri: Uri, tls: Option<ClientTlsConfig>, patience: Duration) -> Result<Self, String> {
        let mut endpoint = Endpoint::from(uri.clone())
            .connect_timeout(patience)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .tcp_nodelay(true);
        if let Some(tls) = tls {
            endpoint = endpoint.tls_config(tls).map_err(|error| describe(&error))?;
        }
        Ok(Self { uri, endpoint, patience })
    }

    /// Looks the name up and connects, or says what was tried.
    pub(super) async fn connect(&self) -> Result<Channel, Failure> {
        let addresses = self.lookup().await?;
        let connected = tokio::time::timeout(self.patience, self.endpoint.connect()).await;
        let (why, remedy) = match connected {
            Ok(Ok(channel)) => return Ok(channel),
            Ok(Err(error)) => self.judge(&error),
            Err(_) => self.silent(),
        };
        let tried = addresses.iter().map(ToString::to_string).collect();
        Err(Failure::Unreachable { server: self.to_string(), tried, why, remedy })
    }

    async fn lookup(&self) -> Result<Vec<SocketAddr>, Failure> {
        let host = self.uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = self.uri.port_u16().unwrap_or(if self.is_secure() { 443 } else { 80 });
        let found = tokio::time::timeout(self.patience, tokio::net::lookup_host((host.as_str(), port)));
        let why = match found.await {
            Ok(Ok(found)) => {
                let found: Vec<SocketAddr> = found.collect();
                if !found.is_empty() {
                    return Ok(found);
                }
                format!("the name {host} has no address")
            }
            Ok(Err(error)) => format!("the name {host} can't be resolved: {error}"),
            Err(_) => format!("the name server did not answer for {host} within {:?}", self.patience),
        };
        let remedy = "check the name in --server or SIGNALPOST_SERVER".to_owned();
        Err(Failure::Unreachable { server: self.to_string(), tried: Vec::new(), why, remedy })
    }

    /// What an error of the connection means, also of one that broke later.
    pub(super) fn judge(&self, error: &(dyn Error + 'static)) -> (String, String) {
        let text = describe(error);
        match kind_of(error) {
            Some(ErrorKind::ConnectionRefused) => (
                "nothing listens there".into(),
                "start it with `signalpost serve`, or name another with --server or SIGNALPOST_SERVER".into(),
            ),
            Some(ErrorKind::TimedOut) => self.silent(),
            _ if text.contains("certificate") && self.is_secure() => (
                format!("its certificate is not accepted: {text}"),
                "give the authority that signed it with --ca FILE, and call it by a name in the certificate"
                    .into(),
            ),
            _ if self.is_secure() => {
                (text, "if the server has no TLS, write http:// instead of https://".into())
            }
            _ => (text, "if the server has TLS, write https:// instead of http://".into()),
        }
    }

    fn silent(&self) -> (String, String) {
        let why = format!("no answer within {:?}", self.patience);
        (why, "check host, port and firewalls; --connect-timeout waits longer".into())
    }

    fn is_secure(&self) -> bool {
        self.uri.scheme_str() == Some("https")
    }
}

/// tonic's and hyper's errors keep their causes to themselves.
fn describe(error: &(dyn Error + 'static)) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        if parts.last().is_none_or(|last| !last.contains(&text)) {
            parts.push(text);
        }
        next = error.source();
    }
    parts.join(": ")
}

fn kind_of(error: &(dyn Error + 'static)) -> Option<ErrorKind> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return Some(error.kind());
        }
        next = error.source();
    }
    None
}

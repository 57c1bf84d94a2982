//! How the server is reached: the target, TLS, and one connection or several.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::mpsc;
use tonic::transport::channel::Change;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::client::{Bearer, Client};
use crate::error::Error;
use crate::tls::Tls;

/// How long making a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that is silent for this long while calls run is asked whether it lives.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// How often the addresses of a balanced target are looked up again.
const LOOKUP_INTERVAL: Duration = Duration::from_secs(30);
/// How long a call may take, attempts and pauses together, unless configured otherwise.
const DEADLINE: Duration = Duration::from_secs(30);

/// A client in the making. Nothing is connected before the first call.
#[derive(Debug, Clone)]
pub struct ClientBuilder {
    target: String,
    organization: String,
    bearer: Option<String>,
    tls: Tls,
    deadline: Duration,
    balanced: bool,
}

impl ClientBuilder {
    pub(crate) fn new(target: String) -> Self {
        let (organization, bearer, tls) = (String::new(), None, Tls::new());
        Self { target, organization, bearer, tls, deadline: DEADLINE, balanced: false }
    }

    /// The organization that the events belong to. Required.
    #[must_use]
    pub fn organization(mut self, organization_id: impl Into<String>) -> Self {
        self.organization = organization_id.into();
        self
    }

    /// Sends this token with each call, as `authorization: Bearer …`. Use it with `https://`: in the clear,
    /// everyone on the way can read it.
    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.bearer = Some(token.into());
        self
    }

    /// TLS other than the default, for an `https://` target.
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = tls;
        self
    }

    /// How long a call of `emit` or `emit_batch` may take, repetitions included. Default: 30 seconds.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Connects to every address that the target's name has, looks them up again every 30 seconds, and
    /// spreads calls over them. For a headless Service in Kubernetes, for example.
    #[must_use]
    pub fn balanced(mut self) -> Self {
        self.balanced = true;
        self
    }

    /// The client. Call it within a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Configuration`]: a setting can't be used.
    pub fn build(self) -> Result<Client, Error> {
        let wrong = |what: &str, why: &dyn std::fmt::Display| Error::Configuration(format!("{what}: {why}"));
        if self.organization.is_empty() {
            return Err(wrong("organization", &"is missing; give the organization's id"));
        }
        let target = Target::parse(&self.target).map_err(|why| wrong("target", &why))?;
        let bearer = Bearer::new(self.bearer.as_deref()).map_err(|why| wrong("token", &why))?;
        let endpoint = target.endpoint(&self.tls, None).map_err(|why| wrong("tls", &describe(&why)))?;
        let channel = match self.balanced {
            false => endpoint.connect_lazy(),
            true => balance(target, self.tls),
        };
        Ok(Client::new(channel, bearer, self.organization, self.deadline))
    }
}

/// tonic's errors keep their causes to themselves.
fn describe(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", describe(source)),
        None => error.to_string(),
    }
}

/// A server's URL, taken apart.
#[derive(Debug, Clone)]
struct Target {
    uri: Uri,
    host: String,
    port: u16,
}

impl Target {
    fn parse(text: &str) -> Result<Self, String> {
        let expected = format!("{text:?} has to be http://HOST:PORT or https://HOST:PORT");
        let uri: Uri = text.parse().map_err(|_| expected.clone())?;
        let standard = match uri.scheme_str() {
            Some("http") => 80,
            Some("https") => 443,
            _ => return Err(expected),
        };
        let host = uri.host().filter(|host| !host.is_empty()).ok_or(expected)?.to_owned();
        Ok(Self { port: uri.port_u16().unwrap_or(standard), host, uri })
    }

    fn uses_tls(&self) -> bool {
        self.uri.scheme_str() == Some("https")
    }

    /// The way to the server, or to one address of it.
    fn endpoint(&self, tls: &Tls, address: Option<SocketAddr>) -> Result<Endpoint, tonic::transport::Error> {
        let scheme = if self.uses_tls() { "https" } else { "http" };
        let endpoint = match address {
            // The server is called by its name all the same.
            Some(address) => Endpoint::from_shared(format!("{scheme}://{address}"))?.origin(self.uri.clone()),
            None => Endpoint::from(self.uri.clone()),
        };
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .tcp_nodelay(true);
        if self.uses_tls() { endpoint.tls_config(tls.config(&self.host)) } else { Ok(endpoint) }
    }

    async fn lookup(&self) -> Option<BTreeSet<SocketAddr>> {
        let host = self.host.trim_matches(['[', ']']);
        let found = tokio::net::lookup_host((host, self.port)).await.ok()?.collect::<BTreeSet<_>>();
        (!found.is_empty()).then_some(found)
    }
}

/// A channel over all addresses of the target, kept current until the channel is gone.
fn balance(target: Target, tls: Tls) -> Channel {
    let (channel, changes) = Channel::balance_channel(16);
    tokio::spawn(follow(target, tls, changes));
    channel
}

async fn follow(target: Target, tls: Tls, changes: mpsc::Sender<Change<SocketAddr, Endpoint>>) {
    let mut known = BTreeSet::new();
    loop {
        // A name server that is away for a moment takes no address away.
        if let Some(found) = target.lookup().await {
            for change in difference(&known, &found, |address| target.endpoint(&tls, Some(address)).ok()) {
                if changes.send(change).await.is_err() {
                    return;
                }
            }
            known = found;
        }
        let pause = if known.is_empty() { Duration::from_secs(1) } else { LOOKUP_INTERVAL };
        tokio::select! {
            () = changes.closed() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

fn difference<E>(
    known: &BTreeSet<SocketAddr>,
    found: &BTreeSet<SocketAddr>,
    endpoint: impl Fn(SocketAddr) -> Option<E>,
) -> Vec<Change<SocketAddr, E>> {
    let gone = known.difference(found).map(|address| Change::Remove(*address));
    let new =
        found.difference(known).filter_map(|address| Some(Change::Insert(*address, endpoint(*address)?)));
    gone.chain(new).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(builder: ClientBuilder) -> String {
        builder.build().map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn a_wrong_setting_is_named_with_what_would_be_right() {
        let builder = |target: &str| ClientBuilder::new(target.into());
        assert!(message(builder("http://127.0.0.1:1")).starts_with("organization: is missing"));
        for target in ["127.0.0.1:8080", "ftp://host", "http://", "", "dns:///host:1"] {
            let said = message(builder(target).organization("acme"));
            assert!(said.contains("http://HOST:PORT"), "{target}: {said}");
        }
        let said = message(builder("http://127.0.0.1:1").organization("acme").token("line\nbreak"));
        assert!(said.starts_with("token: "), "{said}");
        assert!(!said.contains("break"), "a token is never repeated: {said}");
        let tls = Tls::new().identity_pem("no", "pem");
        let said = message(builder("https://127.0.0.1:1").organization("acme").tls(tls));
        assert!(said.starts_with("tls: "), "{said}");
    }

    #[test]
    fn only_what_changed_about_the_addresses_changes_the_connections() {
        let addresses = |ports: &[u16]| -> BTreeSet<SocketAddr> {
            ports.iter().map(|port| SocketAddr::from(([127, 0, 0, 1], *port))).collect()
        };
        let changes = difference(&addresses(&[1, 2]), &addresses(&[2, 3]), |address| Some(address.port()));
        let shown: Vec<String> = changes
            .into_iter()
            .map(|change| match change {
                Change::Insert(_, port) => format!("+{port}"),
                Change::Remove(address) => format!("-{}", address.port()),
            })
            .collect();
        assert_eq!(shown, ["-1", "+3"]);
    }
}

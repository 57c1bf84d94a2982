//! The HTTP client: the only file that knows reqwest, but for the pool that keeps its clients.
//!
//! What must stay true: a request goes to the URL it was made for and nowhere else (no redirects, no proxy
//! but the operator's, no second try by the client itself), within its time, and no answer can take memory.
//! The engine alone decides on further attempts.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::RETRY_AFTER;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Client, Method, Proxy, Request, Response};
use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use tokio::time::Instant;
use url::{Host as UrlHost, Url};

use super::failure::{self, Stage};
use super::pool::{Loan, Pool, Receiver};
use super::resolve::{self, GuardedResolver, NameSource, SystemLookUp};
use super::sockets::{Counting, NoneLeft, Opened};
use super::{SendOptions, Sent, Transport, tls};
use crate::clock::SharedClock;
use crate::contract::RenderedRequest;
use crate::domain::attempt::{Outcome, RESPONSE_KEPT_BYTES, Refusal, ResponseBodies};
use crate::policy::address::{AddressPolicy, is_public};
use crate::policy::host_rate::Host;
use crate::policy::retry_after;

/// How much of a response is read before the rest is dropped. A small body that is read to its end keeps
/// the connection; a larger one loses it, which is cheaper than to read it.
const RESPONSE_READ_BYTES: usize = 16 * 1024;

/// How requests leave.
#[derive(Debug, Clone)]
pub struct HttpOptions {
    /// Which addresses may be called.
    pub address_policy: Arc<AddressPolicy>,
    /// Roots that are trusted besides Mozilla's.
    pub extra_root_certificates: Vec<CertificateDer<'static>>,
    /// The longest time for name, connection and TLS.
    pub connect_timeout: Duration,
    /// The most connections that are kept open for further requests; each holds 20 to 25 KB. Requests for which
    /// none is left have one of their own, which is closed after the answer.
    pub max_kept_connections: usize,
    /// How long a connection is kept without a request.
    pub kept_idle_timeout: Duration,
    /// Whether `http://` may be called besides `https://`.
    pub plain_http: bool,
    /// Who looks names up.
    pub names: NameSource,
    /// Whose response bodies are kept.
    pub response_bodies: ResponseBodies,
    /// The forward proxy that all requests go through, `http://` or `https://`; without one, the default,
    /// they go straight to their receivers. The environment is never asked for one.
    ///
    /// Through a proxy, names are looked up there: here only ports, names and literal addresses are judged.
    pub proxy: Option<Url>,
}

impl Default for HttpOptions {
    /// What the internet needs: global addresses over https only.
    fn default() -> Self {
        Self {
            address_policy: Arc::default(),
            extra_root_certificates: Vec::new(),
            connect_timeout: Duration::from_secs(5),
            max_kept_connections: 64,
            kept_idle_timeout: Duration::from_secs(10),
            plain_http: false,
            // Less than the time to connect, so that the words for it are right.
            names: NameSource { look_up: Arc::new(SystemLookUp), timeout: Duration::from_secs(4) },
            response_bodies: ResponseBodies::default(),
            proxy: None,
        }
    }
}

/// Why there is no transport.
#[derive(Debug, thiserror::Error)]
pub enum HttpSetupError {
    /// A root certificate is none, or TLS has no provider.
    #[error("the TLS client can't be set up; check the extra root certificates")]
    Tls(#[from] rustls::Error),
    /// The HTTP client refuses its settings.
    #[error("the HTTP client can't be set up")]
    Client(#[source] reqwest::Error),
}

/// Sends requests over HTTP/1.1.
///
/// Connections belong to the runtime on which they were opened: make one per delivery thread. Each keeps so many
/// connections as its options say; besides, each request in flight may have one of its own.
#[derive(Clone)]
pub struct HttpTransport {
    options: HttpOptions,
    clock: SharedClock,
    pool: Arc<Pool>,
    tls: Tls,
    /// For requests whose connections are not kept.
    clients: Clients,
    resolver: Arc<GuardedResolver>,
    /// For requests to a port at which this process listens; see [`GuardedResolver::for_own_port`].
    beside_us: HashMap<u16, (Clients, Arc<GuardedResolver>)>,
}

/// The connections that a transport keeps.
#[derive(Debug, Clone)]
pub struct KeptConnections(Weak<Pool>);

impl KeptConnections {
    /// How many there are now, busy or idle; one that its receiver has closed counts until the others to it are closed.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.upgrade().map_or(0, |pool| pool.kept(Instant::now()))
    }
}

/// Whether certificates are checked is a setting of a client, not of a request.
#[derive(Clone)]
struct Clients {
    verifying: Client,
    accepting_any: Client,
}

/// How certificates are checked.
#[derive(Clone)]
struct Tls {
    verifying: ClientConfig,
    accepting_any: ClientConfig,
}

impl HttpTransport {
    /// Sets up the clients, all of which ask guarded resolvers.
    ///
    /// # Errors
    /// [`HttpSetupError`] where a root certificate or the proxy can't be used.
    pub fn new(options: HttpOptions, clock: SharedClock) -> Result<Self, HttpSetupError> {
        let verifying = tls::verifying(&options.extra_root_certificates)?;
        let tls = Tls { verifying, accepting_any: tls::accepting_any()? };
        let (policy, names) = (&options.address_policy, &options.names);
        let resolver = Arc::new(GuardedResolver::new(Arc::clone(policy), names.clone()));
        let clients = Clients::new(&options, &tls, &resolver)?;
        let mut beside_us = HashMap::new();
        for port in policy.own_listeners.iter().map(SocketAddr::port) {
            let resolver = Arc::new(GuardedResolver::for_own_port(Arc::clone(policy), names.clone(), port));
            let clients = Clients::new(&options, &tls, &resolver)?;
            beside_us.insert(port, (clients, resolver));
        }
        let pool = Arc::new(Pool::new(options.max_kept_connections, options.kept_idle_timeout));
        Ok(Self { options, clock, pool, tls, clients, resolver, beside_us })
    }

    /// What tells how many connections are kept, for as long as there is this transport.
    #[must_use]
    pub fn kept_connections(&self) -> KeptConnections {
        KeptConnections(Arc::downgrade(&self.pool))
    }

    /// The client that keeps connections to where this URL leads, if there may be one.
    async fn keeping_client(&self, url: &Url, allow_invalid_certificates: bool) -> Option<Loan<'_>> {
        let receiver = Receiver::of(url, allow_invalid_certificates);
        let make = |opened: &Arc<Opened>| {
            let tls = if allow_invalid_certificates { &self.tls.accepting_any } else { &self.tls.verifying };
            let guard = guard(&self.options, self.resolver_of(url));
            client(&self.options, tls.clone(), guard, Some(opened))
                .inspect_err(|error| tracing::error!(%error, "no client could be made for a receiver"))
                .ok()
        };
        self.pool.lend(receiver, make).await
    }

    fn client_for(&self, url: &Url, allow_invalid_certificates: bool) -> &Client {
        let port = url.port_or_known_default().unwrap_or(0);
        let clients = self.beside_us.get(&port).map_or(&self.clients, |(clients, _)| clients);
        if allow_invalid_certificates { &clients.accepting_any } else { &clients.verifying }
    }

    /// What can be judged without a look-up: scheme, port, host and literal address.
    fn vet(&self, url: &Url) -> Result<(), Sent> {
        let refused = |detail| not_sent(Refusal::AddressNotAllowed, detail);
        if url.scheme() != "https" && !self.options.plain_http {
            return Err(refused("http:// is not allowed here; use https://".into()));
        }
        resolve::vet(url, &self.options.address_policy).map_err(|error| refused(error.0))
    }

    /// Sends over a connection that is kept; `None` where no further one may be, and nothing was sent.
    async fn send_kept(&self, request: &RenderedRequest, options: SendOptions) -> Option<Sent> {
        let url = request.url();
        let loan = self.keeping_client(url, options.allow_invalid_certificates).await?;
        let executed = loan.client().execute(outgoing(request, options.left())).await;
        if executed.as_ref().is_err_and(|error| failure::is::<NoneLeft>(error)) {
            drop(loan);
            self.pool.make_room().await;
            return None;
        }
        let sent = self.concluded(executed, url, options).await;
        loan.give_back().await;
        Some(sent)
    }

    async fn concluded(&self, executed: reqwest::Result<Response>, url: &Url, options: SendOptions) -> Sent {
        match executed {
            Ok(response) => {
                let sent = self.answered(response).await;
                self.note_answer(url, &sent);
                sent
            }
            Err(error) => self.failed(error, url, options.timeout),
        }
    }

    async fn answered(&self, mut response: Response) -> Sent {
        // Behind a proxy, what is connected to is the proxy.
        let remote_address = response.remote_addr().filter(|_| self.options.proxy.is_none());
        let status = response.status().as_u16();
        let retry_after = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| retry_after::parse(value, self.clock.now()));
        let start = read_start(&mut response).await;
        let body = if self.keeps_body(remote_address) { start } else { Bytes::new() };
        Sent { outcome: Outcome::Answered { status, retry_after, body }, remote_address }
    }

    /// An answer out of a network that the operator has opened is not for everybody's eyes.
    pub(super) fn keeps_body(&self, remote_address: Option<SocketAddr>) -> bool {
        match self.options.response_bodies {
            ResponseBodies::Public => remote_address.is_some_and(|address| is_public(address.ip())),
            ResponseBodies::Always => true,
            ResponseBodies::Never => false,
        }
    }

    fn note_answer(&self, url: &Url, sent: &Sent) {
        if let (Some(UrlHost::Domain(name)), Some(address)) = (url.host(), sent.remote_address) {
            self.resolver_of(url).note_answer(name, address.ip());
        }
    }

    fn stage(&self, url: &Url, timeout: Duration) -> Stage {
        Stage {
            timed_out: false,
            connecting: false,
            resolving: false,
            tls: url.scheme() == "https",
            proxied: self.options.proxy.is_some(),
            timeout,
            connect_timeout: self.options.connect_timeout,
        }
    }

    fn failed(&self, error: reqwest::Error, url: &Url, timeout: Duration) -> Sent {
        // The URL may carry a token of the receiver; nothing below may ever print it.
        let error = error.without_url();
        if error.is_builder() {
            return not_sent(Refusal::NotRenderable, "the request can't be sent as HTTP".into());
        }
        let stage = Stage {
            timed_out: error.is_timeout(),
            connecting: error.is_connect(),
            resolving: error.is_dns(),
            ..self.stage(url, timeout)
        };
        Sent { outcome: failure::classify(&error, stage), remote_address: None }
    }

    /// Who looks names up for this URL, and so knows where they lead.
    fn resolver_of(&self, url: &Url) -> &Arc<GuardedResolver> {
        let beside_us = url.port_or_known_default().and_then(|port| self.beside_us.get(&port));
        beside_us.map_or(&self.resolver, |(_, resolver)| resolver)
    }
}

#[async_trait]
impl Transport for HttpTransport {
    async fn send(&self, request: RenderedRequest, options: SendOptions) -> Sent {
        let url = request.url();
        if let Err(refused) = self.vet(url) {
            return refused;
        }
        if let Some(sent) = self.send_kept(&request, options).await {
            return sent;
        }
        let client = self.client_for(url, options.allow_invalid_certificates);
        let executed = client.execute(outgoing(&request, options.left())).await;
        self.concluded(executed, url, options).await
    }

    fn known_third_parties(&self, url: &Url) -> Vec<Host> {
        match url.host() {
            Some(UrlHost::Ipv4(ip)) => parties(None, &[ip.into()]),
            Some(UrlHost::Ipv6(ip)) => parties(None, &[ip.into()]),
            Some(UrlHost::Domain(name)) => parties(Some(name), &self.resolver_of(url).known(name)),
            None => Vec::new(),
        }
    }

    async fn find_third_parties(&self, url: &Url, options: SendOptions) -> Result<Vec<Host>, Sent> {
        self.vet(url)?;
        // Through a proxy, names are looked up there.
        if let (Some(UrlHost::Domain(name)), None) = (url.host(), &self.options.proxy)
            && let Err(error) = self.resolver_of(url).reach(name).await
        {
            let stage = Stage { connecting: true, resolving: true, ..self.stage(url, options.timeout) };
            return Err(Sent { outcome: failure::classify(&error, stage), remote_address: None });
        }
        Ok(self.known_third_parties(url))
    }
}

/// Whom a request could hit: the name, wherever it leads, and whoever is there. A network that the operator has
/// opened is the operator's.
fn parties(name: Option<&str>, addresses: &[IpAddr]) -> Vec<Host> {
    let mut hosts: Vec<Host> =
        addresses.iter().filter(|ip| is_public(**ip)).map(|ip| Host::at(*ip)).collect();
    let is_third = addresses.is_empty() || !hosts.is_empty();
    hosts.extend(name.filter(|_| is_third).map(|name| Host::Name(name.to_owned())));
    let mut seen = HashSet::new();
    hosts.retain(|host| seen.insert(host.clone()));
    hosts
}

impl Clients {
    fn new(
        options: &HttpOptions,
        tls: &Tls,
        resolver: &Arc<GuardedResolver>,
    ) -> Result<Self, HttpSetupError> {
        let guard = guard(options, resolver);
        Ok(Self {
            verifying: client(options, tls.verifying.clone(), Arc::clone(&guard), None)?,
            accepting_any: client(options, tls.accepting_any.clone(), guard, None)?,
        })
    }
}

/// Who looks names up. Through a proxy, the only name that is ever looked up here is the proxy's; it is the
/// operator's own word, so no policy judges it.
fn guard(options: &HttpOptions, resolver: &Arc<GuardedResolver>) -> Arc<dyn Resolve> {
    match &options.proxy {
        None => Arc::new(Guard(Arc::clone(resolver))),
        Some(proxy) => Arc::new(ProxyOnly {
            host: proxy.host_str().unwrap_or_default().to_owned(),
            names: options.names.clone(),
        }),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "this is the one place that builds clients, with safe settings"
)]
fn client(
    options: &HttpOptions,
    tls: ClientConfig,
    resolver: Arc<dyn Resolve>,
    keeps: Option<&Arc<Opened>>,
) -> Result<Client, HttpSetupError> {
    // `no_proxy` also forgets what the environment says; a proxy of the operator's comes after it.
    let mut builder = Client::builder().no_proxy();
    if let Some(proxy) = &options.proxy {
        builder = builder.proxy(Proxy::all(proxy.clone()).map_err(HttpSetupError::Client)?);
    }
    let mut kept = 0;
    if let Some(opened) = keeps {
        builder = builder.connector_layer(Counting(Arc::clone(opened)));
        kept = options.max_kept_connections;
    }
    builder
        .tls_backend_preconfigured(tls)
        .dns_resolver(resolver)
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .retry(reqwest::retry::never())
        .no_gzip()
        .no_brotli()
        .no_deflate()
        .no_zstd()
        .http1_only()
        .https_only(!options.plain_http)
        .connect_timeout(options.connect_timeout)
        .pool_max_idle_per_host(kept)
        .pool_idle_timeout(options.kept_idle_timeout)
        .build()
        .map_err(HttpSetupError::Client)
}

/// `Request::new`, because the client's own builder parses the URL again and adds headers up.
fn outgoing(request: &RenderedRequest, timeout: Duration) -> Request {
    let mut outgoing = Request::new(Method::POST, request.url().clone());
    *outgoing.headers_mut() = request.headers().clone();
    *outgoing.timeout_mut() = Some(timeout);
    *outgoing.body_mut() = Some(request.body().clone().into());
    outgoing
}

/// The first bytes of the body. The status has decided already, so a body that breaks off or runs out of
/// time is simply short.
async fn read_start(response: &mut Response) -> Bytes {
    let mut kept = Vec::new();
    let mut read = 0;
    while read < RESPONSE_READ_BYTES {
        let Ok(Some(chunk)) = response.chunk().await else { break };
        read += chunk.len();
        let room = RESPONSE_KEPT_BYTES.saturating_sub(kept.len());
        kept.extend(chunk.iter().take(room));
    }
    // A copy: a slice would keep the connection's whole buffer in memory.
    Bytes::from(kept)
}

fn not_sent(refusal: Refusal, detail: String) -> Sent {
    Sent { outcome: Outcome::NotSent { refusal, detail }, remote_address: None }
}

/// The guarded resolver, as the client wants it.
struct Guard(Arc<GuardedResolver>);

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let resolver = Arc::clone(&self.0);
        Box::pin(async move {
            let found = resolver.resolve(name.as_str()).await?;
            let addresses: Vec<SocketAddr> = found.to_vec();
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// Looks up the proxy, and nobody else.
struct ProxyOnly {
    host: String,
    names: NameSource,
}

impl Resolve for ProxyOnly {
    fn resolve(&self, name: Name) -> Resolving {
        let (names, is_proxy) = (self.names.clone(), name.as_str().eq_ignore_ascii_case(&self.host));
        Box::pin(async move {
            if !is_proxy {
                return Err("only the proxy is looked up here".into());
            }
            let found = tokio::time::timeout(names.timeout, names.look_up.look_up(name.as_str())).await??;
            Ok(Box::new(found.into_iter().map(|ip| SocketAddr::new(ip, 0))) as Addrs)
        })
    }
}

//! Makes what carries requests out: one courier for each delivery thread and one for callers, which share their settings.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::pki_types::CertificateDer;

use super::mistake::Mistake;
use crate::clock::SharedClock;
use crate::config::{Config, Scoped};
use crate::metrics::Metrics;
use crate::policy::address::AddressPolicy;
use crate::policy::host_rate::{HostRates, SharedRates};
use crate::transport::account::Account;
use crate::transport::courier::Courier;
use crate::transport::http::{HttpOptions, HttpTransport, KeptConnections};
use crate::transport::secrets::{Allowed, SecretReader};

/// Makes couriers that share their settings; each has connections of its own.
pub(super) struct Couriers {
    pub(super) options: HttpOptions,
    pub(super) secrets: Arc<SecretReader>,
    clock: SharedClock,
    account: Account,
    rates: Option<SharedRates>,
    /// What the couriers keep that were made.
    kept: Mutex<Vec<KeptConnections>>,
}

impl Couriers {
    pub(super) fn new(
        config: &Config,
        roots: Vec<CertificateDer<'static>>,
        clock: &SharedClock,
        account: Account,
    ) -> Result<Self, Mistake> {
        let ports: Vec<u16> = config.egress.ports.iter().copied().collect();
        let address_policy = AddressPolicy {
            allow: config.egress.allow.clone(),
            deny: config.egress.deny.clone(),
            deny_hosts: config.egress.deny_hosts.clone(),
            allowed_ports: (!ports.is_empty()).then_some(ports),
            own_listeners: Vec::new(),
        };
        let options = HttpOptions {
            address_policy: Arc::new(address_policy),
            extra_root_certificates: roots,
            plain_http: !config.delivery.plain_http_contracts.is_empty(),
            response_bodies: config.egress.response_bodies,
            proxy: config.egress.proxy.clone(),
            ..HttpOptions::default()
        };
        let secrets =
            SecretReader::new(allowed(&config.secrets.environment), allowed(&config.secrets.folders));
        let rates = config.egress.per_host_rate.map(|rate| Arc::new(Mutex::new(HostRates::new(rate))));
        let (secrets, clock) = (Arc::new(secrets), Arc::clone(clock));
        let couriers = Self { options, secrets, clock, account, rates, kept: Mutex::default() };
        // A mistake in the options shows here, before any thread has started.
        couriers.make()?;
        Ok(couriers)
    }

    /// These are where this process listens, as bound: no request ever goes there.
    pub(super) fn keep_away_from(&mut self, own_listeners: Vec<SocketAddr>) {
        let policy = AddressPolicy { own_listeners, ..(*self.options.address_policy).clone() };
        self.options.address_policy = Arc::new(policy);
    }

    /// Shows how many connections all couriers keep that were made so far.
    pub(super) fn observe(&self, metrics: &Metrics) {
        let (kept, connections) = (self.kept().clone(), metrics.attempts.clone());
        metrics.at_scrape(move || connections.kept(kept.iter().map(KeptConnections::count).sum()));
    }

    fn kept(&self) -> MutexGuard<'_, Vec<KeptConnections>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A courier that keeps no connections.
    pub(super) fn make(&self) -> Result<Arc<Courier>, Mistake> {
        self.make_keeping(0)
    }

    pub(super) fn make_keeping(&self, max_kept_connections: usize) -> Result<Arc<Courier>, Mistake> {
        let options = HttpOptions { max_kept_connections, ..self.options.clone() };
        let transport = HttpTransport::new(options, Arc::clone(&self.clock)).map_err(Mistake::of)?;
        if max_kept_connections > 0 {
            self.kept().push(transport.kept_connections());
        }
        Ok(Arc::new(Courier {
            transport: Arc::new(transport),
            secrets: Arc::clone(&self.secrets),
            clock: Arc::clone(&self.clock),
            account: self.account.clone(),
            rates: self.rates.clone(),
        }))
    }
}

fn allowed<T: Clone>(scoped: &[Scoped<T>]) -> Vec<Allowed<T>> {
    scoped.iter().map(|Scoped { what, place }| Allowed { what: what.clone(), place: place.clone() }).collect()
}

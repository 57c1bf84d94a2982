//! How callers come in: who they are, by which files, and over what.

use std::sync::Arc;

use super::couriers::read_roots;
use crate::auth::authenticator::{Authenticator, JwtWay, WaysIn};
use crate::auth::certificate::CertificateRules;
use crate::auth::jwks::{self, Fetch, FetchedKeys, KeySource};
use crate::auth::reload::Reloaded;
use crate::auth::token_file::{self, TokenTable};
use crate::clock::SharedClock;
use crate::config::{Config, KeysConfig, TlsConfig};
use crate::grpc::tls::{ClientCertificates, ServerTls, TlsFiles};
use crate::metrics::{CertificateUse, Metrics};
use crate::shutdown::{OnExit, Tasks};
use crate::transport::fetch::Fetcher;

/// How callers come in: who they are, and over what.
pub(super) struct Entrance {
    pub(super) tls: Option<ServerTls>,
    tokens: Option<Reloaded<TokenTable>>,
    keys: Option<KeySource>,
    pub(super) authenticator: Authenticator,
}

impl Entrance {
    pub(super) fn open(config: &Config, clock: &SharedClock) -> anyhow::Result<Self> {
        let tls = config.listen.tls.clone().map(|tls| ServerTls::open(tls_files(tls))).transpose()?;
        let tokens = config.auth.tokens_file.as_deref().map(token_file::open).transpose()?;
        let keys = config.auth.jwt.as_ref().map(|jwt| open_keys(&jwt.keys)).transpose()?;
        let jwt = config.auth.jwt.as_ref().zip(keys.clone());
        let ways = WaysIn {
            tokens: tokens.clone(),
            jwt: jwt.map(|(jwt, keys)| JwtWay::new(jwt.rules.clone(), keys)),
            certificates: CertificateRules::new(&config.auth.certificates),
        };
        let authenticator = if config.auth.is_configured() {
            Authenticator::new(ways, Arc::clone(clock))
        } else {
            if !config.listen.grpc.ip().to_canonical().is_loopback() {
                tracing::warn!(
                    "whoever reaches the gRPC port may do everything: no credentials are asked for"
                );
            }
            Authenticator::open()
        };
        Ok(Self { tls, tokens, keys, authenticator })
    }

    /// Files change, so what is in force is looked up when somebody asks.
    pub(super) fn observe(&self, metrics: &Metrics) {
        let Some(tls) = self.tls.clone() else { return };
        let certificates = metrics.certificates.clone();
        metrics.at_scrape(move || {
            let expiry = tls.expiry();
            certificates.end(CertificateUse::Server, expiry.server);
            certificates.end(CertificateUse::ClientAuthority, expiry.client_authority);
            certificates.end(CertificateUse::RevocationList, expiry.revocation_list);
        });
    }

    pub(super) fn watch_files(&self, config: &Config, tasks: &Tasks) {
        let every = config.auth.reload;
        if let Some(tls) = &self.tls {
            tasks.spawn("certificates", OnExit::StopProcess, tls.run(every, tasks.soft()));
        }
        if let Some(tokens) = &self.tokens {
            tasks.spawn("tokens", OnExit::StopProcess, tokens.run(every, tasks.soft()));
        }
        match &self.keys {
            Some(KeySource::File(file)) => {
                tasks.spawn("keys", OnExit::StopProcess, file.run(every, tasks.soft()));
            }
            Some(KeySource::Url(fetched)) => {
                tasks.spawn("keys", OnExit::StopProcess, Arc::clone(fetched).run(tasks.soft()));
            }
            None => {}
        }
    }
}

fn open_keys(keys: &KeysConfig) -> anyhow::Result<KeySource> {
    let (url, ca_file, every, at_most_every) = match keys {
        KeysConfig::File(path) => return Ok(KeySource::File(jwks::open(path)?)),
        KeysConfig::Url { url, ca_file, every, at_most_every } => (url, ca_file, every, at_most_every),
    };
    let roots = ca_file.as_deref().map_or(Ok(Vec::new()), |path| read_roots("auth.jwks_ca_file", path))?;
    let fetcher = Fetcher::new(url.clone(), &roots)?;
    let fetch: Fetch = Arc::new(move || {
        let fetcher = fetcher.clone();
        Box::pin(async move { fetcher.fetch().await })
    });
    Ok(KeySource::Url(FetchedKeys::new(fetch, *every, *at_most_every)))
}

fn tls_files(tls: TlsConfig) -> TlsFiles {
    let mode = if tls.client_certificates_required {
        ClientCertificates::Required
    } else {
        ClientCertificates::Optional
    };
    TlsFiles {
        certificate: tls.certificate,
        key: tls.key,
        clients: tls.client_ca.map(|path| (path, mode)),
        revocation_lists: tls.client_revocation_lists,
    }
}

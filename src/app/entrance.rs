//! How callers come in: who they are, by which files, and over what.

use std::sync::Arc;

use super::files::{open_keys, open_tls, open_tokens};
use super::mistake::Mistake;
use crate::auth::authenticator::{Authenticator, JwtWay, WaysIn};
use crate::auth::certificate::CertificateRules;
use crate::auth::jwks::KeySource;
use crate::auth::reload::Reloaded;
use crate::auth::token_file::TokenTable;
use crate::clock::SharedClock;
use crate::config::Config;
use crate::grpc::tls::ServerTls;
use crate::metrics::{CertificateUse, Metrics};
use crate::shutdown::{OnExit, Tasks};

/// How callers come in: who they are, and over what.
pub(super) struct Entrance {
    pub(super) tls: Option<ServerTls>,
    tokens: Option<Reloaded<TokenTable>>,
    keys: Option<KeySource>,
    pub(super) authenticator: Authenticator,
}

impl Entrance {
    pub(super) fn open(config: &Config, clock: &SharedClock) -> Result<Self, Mistake> {
        let tls = config.listen.tls.clone().map(open_tls).transpose()?;
        let tokens = config.auth.tokens_file.as_deref().map(open_tokens).transpose()?;
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

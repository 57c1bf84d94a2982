//! When certificates end.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::each::{Each, Words};
use crate::domain::time::Timestamp;

/// What certificates are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateUse {
    /// `listen.tls_certificate`, with its chain.
    Server,
    /// `listen.client_ca`.
    ClientAuthority,
    /// `listen.client_revocation_lists`: past their time, all clients are refused.
    RevocationList,
    /// `egress.ca_file`.
    EgressAuthority,
}

impl Words for CertificateUse {
    const LABEL: &'static str = "certificate";
    const ALL: &'static [Self] =
        &[Self::Server, Self::ClientAuthority, Self::RevocationList, Self::EgressAuthority];

    fn word(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::ClientAuthority => "client_authority",
            Self::RevocationList => "revocation_list",
            Self::EgressAuthority => "egress_authority",
        }
    }
}

/// When certificates end. Clones share everything.
#[derive(Debug, Clone, Default)]
pub struct CertificateMetrics {
    ends: Each<CertificateUse, Gauge<f64, AtomicU64>>,
}

impl CertificateMetrics {
    /// The first of them ends then; `None` where there is none.
    pub fn end(&self, of: CertificateUse, at: Option<Timestamp>) {
        let seconds = at.map_or(0.0, |at| at.as_seconds() as f64);
        self.ends.with(of, |gauge| gauge.set(seconds));
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "When the first of the certificates ends, in seconds since 1970; 0 where there is none";
        self.ends.register(registry, "certificate_expiry_timestamp_seconds", help);
    }
}

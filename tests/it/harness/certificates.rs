//! An authority and its certificates.

use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use super::swap;

/// An authority that signs certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

/// A certificate and its key in PEM.
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate for DNS names, addresses and URIs.
    pub fn sign(&self, names: &[&str]) -> Pair {
        let (uris, others): (Vec<&str>, Vec<&str>) = names.iter().partition(|name| name.contains("://"));
        let others: Vec<String> = others.into_iter().map(str::to_owned).collect();
        let mut params = CertificateParams::new(others).unwrap();
        let uris = uris.into_iter().map(|uri| SanType::URI(uri.try_into().unwrap()));
        params.subject_alt_names.extend(uris);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Pair { certificate, key: key.serialize_pem() }
    }
}

/// The files of a server's TLS.
pub struct TlsFolder {
    folder: tempfile::TempDir,
}

impl TlsFolder {
    pub fn new(pair: &Pair, client_ca: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("signalpost-it-").tempdir().unwrap();
        let this = Self { folder };
        this.replace(pair);
        swap(&this.path("clients.pem"), client_ca);
        this
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A path as a value in TOML.
    pub fn setting(&self, name: &str) -> String {
        format!("{:?}", self.path(name))
    }

    pub fn replace(&self, pair: &Pair) {
        swap(&self.path("certificate.pem"), &pair.certificate);
        swap(&self.path("key.pem"), &pair.key);
    }
}

/// A channel over TLS that trusts an authority, with a certificate of its own or without.
pub fn secure_endpoint(address: std::net::SocketAddr, authority: &str, identity: Option<&Pair>) -> Endpoint {
    let tls =
        ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority)).domain_name("localhost");
    let tls = match identity {
        Some(pair) => tls.identity(Identity::from_pem(&pair.certificate, &pair.key)),
        None => tls,
    };
    Channel::from_shared(format!("https://{address}")).unwrap().tls_config(tls).unwrap()
}

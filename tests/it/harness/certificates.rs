//! An authority and its certificates.

use std::path::PathBuf;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod,
    KeyPair, RevokedCertParams, SanType, SerialNumber,
};
use time::OffsetDateTime;
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
    serial: SerialNumber,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Two of the same name would be taken for each other, and told of in other words.
        params.distinguished_name.push(DnType::CommonName, format!("authority {:x}", rand_u64()));
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate for DNS names, addresses and URIs.
    pub fn sign(&self, names: &[&str]) -> Pair {
        self.sign_until(names, rcgen::date_time_ymd(4096, 1, 1))
    }

    /// The same for a limited time.
    pub fn sign_until(&self, names: &[&str], end: OffsetDateTime) -> Pair {
        let (uris, others): (Vec<&str>, Vec<&str>) = names.iter().partition(|name| name.contains("://"));
        let others: Vec<String> = others.into_iter().map(str::to_owned).collect();
        let mut params = CertificateParams::new(others).unwrap();
        let uris = uris.into_iter().map(|uri| SanType::URI(uri.try_into().unwrap()));
        params.subject_alt_names.extend(uris);
        params.not_after = end;
        // Positive, and of as many bytes as it says.
        let serial = SerialNumber::from_slice(&(rand_u64() >> 1 | 1 << 62).to_be_bytes());
        params.serial_number = Some(serial.clone());
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Pair { certificate, key: key.serialize_pem(), serial }
    }

    /// A list of what has been revoked, which is good until then.
    pub fn revocation_list(&self, revoked: &[&Pair], next_update: OffsetDateTime) -> String {
        let long_ago = rcgen::date_time_ymd(2020, 1, 1);
        let revoked = revoked.iter().map(|pair| RevokedCertParams {
            serial_number: pair.serial.clone(),
            revocation_time: long_ago,
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: long_ago,
            next_update,
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

fn rand_u64() -> u64 {
    let bytes = ring::rand::generate::<[u8; 8]>(&ring::rand::SystemRandom::new()).unwrap();
    u64::from_be_bytes(bytes.expose())
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

//! The certificate of a receiver.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// A certificate with its key, ready to serve.
#[derive(Clone)]
pub struct TlsIdentity {
    certificate_pem: String,
    config: Arc<ServerConfig>,
}

impl TlsIdentity {
    /// A new self-signed certificate for these host names and IP addresses.
    ///
    /// # Errors
    /// A name that can't stand in a certificate.
    pub fn self_signed<N: Into<String>>(names: impl IntoIterator<Item = N>) -> io::Result<Self> {
        let names: Vec<String> = names.into_iter().map(Into::into).collect();
        let made = rcgen::generate_simple_self_signed(names).map_err(io::Error::other)?;
        Self::from_pem(&made.cert.pem(), &made.signing_key.serialize_pem())
    }

    /// What a receiver on this address is reached by: `localhost`, the loopback addresses, its own.
    ///
    /// # Errors
    /// As [`TlsIdentity::self_signed`].
    pub fn for_address(address: IpAddr) -> io::Result<Self> {
        let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
        let own = address.to_string();
        if !address.is_unspecified() && !names.contains(&own) {
            names.push(own);
        }
        Self::self_signed(names)
    }

    /// A certificate chain and its private key, both in PEM.
    ///
    /// # Errors
    /// Texts that are no PEM, or a key that does not belong to the certificate.
    pub fn from_pem(certificates: &str, key: &str) -> io::Result<Self> {
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(certificates.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(invalid)?;
        if chain.is_empty() {
            return Err(invalid("there is no certificate in the PEM text"));
        }
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(invalid)?;
        // The provider is named, because a process may have none installed, or another one.
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(invalid)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { certificate_pem: certificates.to_owned(), config: Arc::new(config) })
    }

    /// The certificate, for those who are to trust it.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The settings of a TLS server with this certificate.
    #[must_use]
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }
}

impl fmt::Debug for TlsIdentity {
    /// The key stays out of logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsIdentity(…)")
    }
}

fn invalid(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_self_signed_certificate_is_for_names_and_addresses() {
        let identity = TlsIdentity::self_signed(["localhost", "127.0.0.1"]).unwrap();
        assert!(identity.certificate_pem().starts_with("-----BEGIN CERTIFICATE-----"));
        assert!(TlsIdentity::self_signed(["snowman ☃"]).is_err());
        assert!(TlsIdentity::for_address("0.0.0.0".parse().unwrap()).is_ok());
    }

    #[test]
    fn a_key_that_does_not_belong_to_the_certificate_is_refused() {
        let one = TlsIdentity::self_signed(["a.example"]).unwrap();
        let other = rcgen::generate_simple_self_signed(vec!["b.example".into()]).unwrap();
        let key = other.signing_key.serialize_pem();
        assert!(TlsIdentity::from_pem(one.certificate_pem(), &key).is_err());
        assert!(TlsIdentity::from_pem("nothing", &key).is_err());
        assert!(TlsIdentity::from_pem(one.certificate_pem(), "nothing").is_err());
    }
}

//! Server TLS: certificate, key and client authorities from files that may change at any time.
//!
//! Each handshake takes what is in force then; connections that are open stay as they are. A client certificate
//! is verified at the handshake, and again by what is in force later on, so that a connection can't outlive its
//! certificate, its authority, or its revocation.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::auth::certificate::{CertificateName, PeerCertificate};
use crate::auth::expiry;
use crate::auth::reload::{Contents, ReloadError, Reloaded};
use crate::domain::time::Timestamp;

/// The protocol of gRPC in TLS; no other is spoken.
const ALPN: &[u8] = b"h2";
/// The settings that name the files.
const CERTIFICATE: &str = "listen.tls_certificate";
const KEY: &str = "listen.tls_key";
const CLIENTS: &str = "listen.client_ca";
const REVOCATION_LISTS: &str = "listen.client_revocation_lists";
/// For so long a certificate that was verified is not verified again.
const VERIFIED_FOR: Duration = Duration::from_secs(1);

/// Whether callers must show a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientCertificates {
    /// Who shows none is let in, and must prove in another way who it is.
    Optional,
    /// Who shows none is not let in.
    Required,
}

/// The files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate and its chain, in PEM.
    pub certificate: PathBuf,
    /// Its private key, in PEM.
    pub key: PathBuf,
    /// The authorities of client certificates, in PEM, and whether one must be shown.
    pub clients: Option<(PathBuf, ClientCertificates)>,
    /// Which of their certificates they have revoked: lists in PEM, several in a file or not.
    pub revocation_lists: Vec<PathBuf>,
}

/// TLS for a port. Cheap to clone.
#[derive(Clone)]
pub struct ServerTls {
    files: Reloaded<InForce>,
}

struct InForce {
    config: Arc<ServerConfig>,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    expiry: TlsExpiry,
}

/// When what is in force ends; `None` where there is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TlsExpiry {
    /// The first of the server's certificate and its chain.
    pub server: Option<Timestamp>,
    /// The first of the client authorities.
    pub client_authority: Option<Timestamp>,
    /// The first of the revocation lists.
    pub revocation_list: Option<Timestamp>,
}

impl ServerTls {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// [`ReloadError`], with the file and what is wrong with it.
    pub fn open(files: TlsFiles) -> Result<Self, ReloadError> {
        let mode = files.clients.as_ref().map(|(_, mode)| *mode);
        let own = [(CERTIFICATE, files.certificate), (KEY, files.key)];
        let clients = files.clients.map(|(path, _)| (CLIENTS, path));
        let lists = files.revocation_lists.into_iter().map(|path| (REVOCATION_LISTS, path));
        let files = own.into_iter().chain(clients).chain(lists).collect();
        let files = Reloaded::open(CERTIFICATE, files, move |contents| make(contents, mode))?;
        Ok(Self { files })
    }

    /// Looks at the files every so often, until it is told to stop.
    pub fn run(
        &self,
        every: Duration,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + Send + 'static + use<> {
        self.files.run(every, stop)
    }

    /// When what is in force now ends.
    #[must_use]
    pub fn expiry(&self) -> TlsExpiry {
        self.files.current().expiry
    }

    /// Makes a connection secure.
    ///
    /// # Errors
    /// The handshake failed, or the peer speaks no HTTP/2.
    pub(super) async fn accept(
        &self,
        stream: TcpStream,
    ) -> io::Result<(TlsStream<TcpStream>, Option<Arc<dyn PeerCertificate>>)> {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.files.current().config));
        let stream = acceptor.accept(stream).await?;
        let session = stream.get_ref().1;
        if session.alpn_protocol() != Some(ALPN) {
            return Err(io::Error::other("the peer did not offer h2 by ALPN"));
        }
        let certificate = session.peer_certificates().map(|chain| {
            let certificate: Arc<dyn PeerCertificate> = Arc::new(self.hold(chain));
            certificate
        });
        Ok((stream, certificate))
    }

    fn hold(&self, chain: &[CertificateDer<'_>]) -> Held {
        // Not verified yet: a handshake that resumes a session verifies nothing.
        let chain: Vec<_> = chain.iter().map(|one| one.clone().into_owned()).collect();
        let names = chain.first().map(names_of).unwrap_or_default();
        Held { chain, names, tls: self.clone(), verified_at: Mutex::default() }
    }
}

/// The names of a certificate.
fn names_of(certificate: &CertificateDer<'_>) -> Vec<CertificateName> {
    let Ok(parsed) = webpki::EndEntityCert::try_from(certificate) else { return Vec::new() };
    let dns = parsed.valid_dns_names().map(|name| CertificateName::Dns(name.to_ascii_lowercase()));
    let uris = parsed.valid_uri_names().map(|uri| CertificateName::Uri(uri.to_owned()));
    // URIs first: they are the more particular names.
    uris.chain(dns).collect()
}

fn make(contents: &Contents, mode: Option<ClientCertificates>) -> Result<InForce, String> {
    let (Some(chain), Some(key)) = (contents.first(), contents.get(1)) else {
        return Err("there are no files".into());
    };
    let chain = certificates(chain, "the certificate file (listen.tls_certificate)")?;
    let mut expiry = TlsExpiry { server: expiry::of_certificates(&chain), ..TlsExpiry::default() };
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| {
        format!("the key file ({KEY}) holds no private key in PEM ({error}); give the certificate's key")
    })?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = match (contents.get(2), mode) {
        (Some(clients), Some(mode)) => {
            let clients = certificates(clients, "the file of client authorities (listen.client_ca)")?;
            let lists = contents.get(3..).unwrap_or_default().iter().map(|list| revocation_lists(list));
            let lists = lists.collect::<Result<Vec<_>, _>>()?.concat();
            expiry.client_authority = expiry::of_certificates(&clients);
            expiry.revocation_list = expiry::of_revocation_lists(&lists);
            Some(verifier((clients, lists), mode, &provider)?)
        }
        _ => None,
    };
    let builder = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match &verifier {
        Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier)),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| {
        format!("the key ({KEY}) does not belong to the certificate, or is of no kind that we know: {error}")
    })?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(InForce { config: Arc::new(config), verifier, expiry })
}

/// Where there are lists, every authority of a chain needs one: whose status nobody knows is refused, and so is
/// everybody under a list that is past its time, since whoever can keep a new one from us could keep a thief in.
fn verifier(
    (clients, lists): (Vec<CertificateDer<'static>>, Vec<CertificateRevocationListDer<'static>>),
    mode: ClientCertificates,
    provider: &Arc<rustls::crypto::CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let mut roots = RootCertStore::empty();
    for authority in clients {
        roots.add(authority).map_err(|error| format!("a client authority is none: {error}"))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    let builder = builder.with_crls(lists).enforce_revocation_expiration();
    let builder = match mode {
        ClientCertificates::Required => builder,
        ClientCertificates::Optional => builder.allow_unauthenticated(),
    };
    builder.build().map_err(|error| format!("the client authorities can't be used: {error}"))
}

fn revocation_lists(pem: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    let lists = CertificateRevocationListDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let lists = lists
        .map_err(|error| format!("a file of revocation lists ({REVOCATION_LISTS}) is not PEM: {error}"))?;
    if lists.is_empty() {
        Err(format!("a file of revocation lists ({REVOCATION_LISTS}) holds none"))
    } else {
        Ok(lists)
    }
}

fn certificates(pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let certificates = certificates.map_err(|error| format!("{what} is not PEM: {error}"))?;
    if certificates.is_empty() {
        Err(format!("{what} holds no certificate; give one in PEM"))
    } else {
        Ok(certificates)
    }
}

/// The certificate of a connection.
struct Held {
    chain: Vec<CertificateDer<'static>>,
    names: Vec<CertificateName>,
    tls: ServerTls,
    verified_at: Mutex<Option<Instant>>,
}

impl PeerCertificate for Held {
    fn names(&self) -> &[CertificateName] {
        &self.names
    }

    fn is_trusted(&self) -> bool {
        let mut verified_at = self.verified_at.lock().unwrap_or_else(PoisonError::into_inner);
        if verified_at.is_some_and(|at| at.elapsed() < VERIFIED_FOR) {
            return true;
        }
        let in_force = self.tls.files.current();
        let (Some(verifier), Some((certificate, chain))) = (&in_force.verifier, self.chain.split_first())
        else {
            return false;
        };
        let verified = verifier.verify_client_cert(certificate, chain, UnixTime::now()).is_ok();
        *verified_at = verified.then(Instant::now);
        verified
    }
}

//! TLS: whom the transport trusts, and what it says where it does not.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::*;

/// A server certificate with its key, and the root that vouches for it.
pub(super) struct Identity {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    pub(super) root: CertificateDer<'static>,
}

/// Issued by a root of its own to these names, changed by `change` before it is signed.
pub(super) fn issued(names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Identity {
    let (root_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let mut root = CertificateParams::new(Vec::new()).unwrap();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root_certificate = root.self_signed(&root_key).unwrap();
    let mut params =
        CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
    change(&mut params);
    let certificate = params.signed_by(&key, &Issuer::new(root, root_key)).unwrap();
    Identity {
        certificate: certificate.der().clone(),
        key: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        root: root_certificate.der().clone(),
    }
}

pub(super) fn receiver(identity: &Identity) -> Receiver {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![identity.certificate.clone()], identity.key.clone_key())
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let config = Arc::new(config);
    Receiver::serving(move |stream| {
        let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
        let mut stream = StreamOwned::new(connection, stream);
        if read_request(&mut stream).is_some() {
            assert_eq!(stream.conn.alpn_protocol(), Some(b"http/1.1".as_slice()));
            stream.write_all(OK.as_bytes()).unwrap();
            hold(&mut stream);
        }
    })
}

/// Sends to `localhost` with the identity's root trusted, or not.
async fn exchange(identity: &Identity, trusted: bool, allow_invalid_certificates: bool) -> Sent {
    let receiver = receiver(identity);
    let roots = if trusted { vec![identity.root.clone()] } else { Vec::new() };
    let transport = transport(HttpOptions { extra_root_certificates: roots, ..options() });
    let url = format!("https://localhost:{}/hook?token=planted", receiver.address.port());
    transport.send(request(&url), SendOptions { allow_invalid_certificates, ..within(LONG) }).await
}

#[tokio::test]
async fn a_certificate_of_an_extra_root_is_trusted() {
    let sent = exchange(&issued(&["localhost"], |_| {}), true, false).await;
    assert!(sent.remote_address.is_some());
    assert_eq!(answer(sent).0, 200);
}

#[tokio::test]
async fn an_unknown_issuer_is_a_tls_failure_unless_any_certificate_is_accepted() {
    let identity = issued(&["localhost"], |_| {});
    let (failure, detail) = no_answer(exchange(&identity, false, false).await);
    assert_eq!(failure, Failure::Tls);
    assert_eq!(detail, "certificate not trusted (self-signed or unknown issuer)");
    assert_eq!(answer(exchange(&identity, false, true).await).0, 200);
}

#[tokio::test]
async fn a_self_signed_certificate_is_a_tls_failure_also_where_it_is_a_ca() {
    for is_ca in [IsCa::NoCa, IsCa::Ca(BasicConstraints::Unconstrained)] {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.is_ca = is_ca;
        let certificate = params.self_signed(&key).unwrap().der().clone();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let identity = Identity { root: certificate.clone(), certificate, key };
        let (failure, detail) = no_answer(exchange(&identity, false, false).await);
        assert_eq!(failure, Failure::Tls);
        assert!(detail.contains("self-signed"), "{detail}");
        assert_eq!(answer(exchange(&identity, false, true).await).0, 200);
    }
}

#[tokio::test]
async fn a_certificate_that_is_expired_early_or_for_another_name_says_so() {
    let expired = issued(&["localhost"], |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
    let early = issued(&["localhost"], |params| params.not_before = rcgen::date_time_ymd(2999, 1, 1));
    let other = issued(&["other.example"], |_| {});
    for (identity, words) in [
        (expired, "the certificate has expired"),
        (early, "the certificate is not valid yet"),
        (other, "the certificate is for another name"),
    ] {
        assert_eq!(no_answer(exchange(&identity, true, false).await), (Failure::Tls, words.into()));
        assert_eq!(answer(exchange(&identity, true, true).await).0, 200);
    }
}

#[tokio::test]
async fn https_to_a_receiver_of_plain_http_says_so() {
    let receiver = Receiver::serving(|mut stream| {
        stream.peek(&mut [0]).unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        hold(&mut stream);
    });
    let (failure, detail) =
        no_answer(send(&format!("https://{}/?token=planted", receiver.address), LONG).await);
    assert_eq!(failure, Failure::Tls);
    assert!(detail.contains("plain http"), "{detail}");
}

#[tokio::test]
async fn a_connection_that_is_closed_within_the_handshake_is_a_tls_failure() {
    let receiver = Receiver::serving(|stream| drop(stream.peek(&mut [0])));
    let (failure, detail) =
        no_answer(send(&format!("https://{}/?token=planted", receiver.address), LONG).await);
    assert_eq!(failure, Failure::Tls);
    assert!(detail.contains("before TLS was agreed"), "{detail}");
}

#[tokio::test]
async fn a_handshake_that_never_ends_runs_out_of_the_time_to_connect() {
    let receiver = Receiver::serving(|mut stream| hold(&mut stream));
    let transport = transport(HttpOptions { connect_timeout: SHORT, ..options() });
    let url = format!("https://{}/?token=planted", receiver.address);
    let sent = transport.send(request(&url), within(LONG)).await;
    assert_eq!(no_answer(sent), (Failure::Timeout, "no connection within 0.2 s".into()));
}

#[test]
fn a_root_that_is_no_certificate_is_noticed_at_the_start() {
    let roots = vec![CertificateDer::from(b"nonsense".to_vec())];
    let options = HttpOptions { extra_root_certificates: roots, ..options() };
    let clock = Arc::new(crate::clock::SystemClock);
    assert!(HttpTransport::new(options, clock).is_err());
}

//! `[listen]` and `[auth]`: where callers connect, and how they prove who they are. The two are checked
//! together: what can be reached from other machines needs credentials, and secrets need TLS.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::accepts::{Read, one_of};
use super::jwt;
use super::reader::Reader;
use super::resolved::{AuthConfig, ListenConfig, ReflectionAccess, TlsConfig};
use super::units::{address, duration, flag, or_word, path};

/// Reads both sections.
pub(super) fn listen_and_auth(reader: &mut Reader<'_>) -> (Option<ListenConfig>, Option<AuthConfig>) {
    let grpc = reader.one("listen.grpc", "127.0.0.1:8080", address);
    let health = reader.one("listen.health", "127.0.0.1:8081", address);
    let metrics = reader.one("listen.metrics", "127.0.0.1:9090", or_word("off", address));
    let tls = tls(reader);
    let plaintext = reader.one("listen.allow_plaintext_network", "false", flag());
    let unauthenticated = reader.one("listen.allow_unauthenticated_network", "false", flag());
    let open_metrics = reader.one("listen.allow_metrics_network", "false", flag());
    let reflection = reader.one("listen.reflection", "authenticated", reflection());
    let notice = duration(Duration::ZERO, Duration::from_secs(60));
    let notice = reader.one("listen.stop_notice", "500ms", notice);
    let has_clients = matches!(&tls, Some(Some(TlsConfig { client_ca: Some(_), .. })));
    let auth = auth(reader, has_clients);
    let listeners = [("listen.grpc", grpc), ("listen.health", health), ("listen.metrics", metrics.flatten())];
    refuse_the_same_twice(reader, &listeners);
    let is_open = auth.as_ref().is_some_and(|auth| !auth.is_configured());
    let reachable = grpc.filter(|listener| !listener.ip().to_canonical().is_loopback());
    if let (Some(listener), true, Some(false)) = (reachable, is_open, unauthenticated) {
        reader.problem("listen.grpc", not_authenticated(listener));
    }
    if let (Some(listener), Some(None), Some(false)) = (reachable, &tls, plaintext) {
        reader.problem("listen.grpc", not_secure(listener));
    }
    let reachable = metrics.flatten().filter(|listener| !listener.ip().to_canonical().is_loopback());
    if let (Some(listener), Some(false)) = (reachable, open_metrics) {
        reader.problem("listen.metrics", not_closed(listener));
    }
    let listen = || {
        Some(ListenConfig {
            grpc: grpc?,
            health: health?,
            metrics: metrics?,
            tls: tls?,
            allow_plaintext_network: plaintext?,
            allow_unauthenticated_network: unauthenticated?,
            allow_metrics_network: open_metrics?,
            reflection: reflection?,
            stop_notice: notice?,
        })
    };
    (listen(), auth)
}

fn not_authenticated(listener: SocketAddr) -> String {
    format!(
        "`{listener}` can be reached from other machines, and callers are not authenticated; set \
         auth.tokens_file or auth.jwt_issuer, write a loopback address, or set listen.allow_unauthenticated_network = true where \
         the network is closed by other means"
    )
}

fn not_secure(listener: SocketAddr) -> String {
    format!(
        "`{listener}` can be reached from other machines, and calls are in plaintext; set \
         listen.tls_certificate and listen.tls_key, write a loopback address, or set \
         listen.allow_plaintext_network = true where TLS ends before us"
    )
}

fn not_closed(listener: SocketAddr) -> String {
    format!(
        "`{listener}` can be reached from other machines, and metrics are in plaintext and for everybody; write a \
         loopback address, or set listen.allow_metrics_network = true where the network is closed by other means"
    )
}

fn refuse_the_same_twice(reader: &mut Reader<'_>, listeners: &[(&str, Option<SocketAddr>)]) {
    for (position, (key, listener)) in listeners.iter().enumerate() {
        let taken = listeners.iter().take(position).find(|(_, other)| other == listener);
        if let (Some(listener), Some((other, _))) = (listener.filter(|at| at.port() != 0), taken) {
            reader.problem(key, format!("`{listener}` is taken by {other}; give each an address of its own"));
        }
    }
}

fn reflection() -> impl Read<Value = ReflectionAccess> {
    one_of([
        ("open", ReflectionAccess::Open),
        ("authenticated", ReflectionAccess::Authenticated),
        ("off", ReflectionAccess::Off),
    ])
}

/// The outer `None` where a problem was noted, the inner one without TLS.
fn tls(reader: &mut Reader<'_>) -> Option<Option<TlsConfig>> {
    let mut file = |key| reader.one(key, "", or_word("", path));
    let (certificate, key) = (file("listen.tls_certificate"), file("listen.tls_key"));
    let client_ca = file("listen.client_ca");
    let revocation_lists = reader.many("listen.client_revocation_lists", path);
    let required = one_of([("required", true), ("optional", false)]);
    let required = reader.one("listen.client_certificates", "required", required);
    let (certificate, key, client_ca, required) = (certificate?, key?, client_ca?, required?);
    let client_revocation_lists = revocation_lists?;
    if !client_revocation_lists.is_empty() && client_ca.is_none() {
        return alone(reader, "listen.client_revocation_lists", "listen.client_ca");
    }
    match (certificate, key) {
        (Some(certificate), Some(key)) => Some(Some(TlsConfig {
            certificate,
            key,
            client_ca,
            client_revocation_lists,
            client_certificates_required: required,
        })),
        (None, None) if client_ca.is_none() => Some(None),
        (None, None) => alone(reader, "listen.client_ca", "listen.tls_certificate and listen.tls_key"),
        (Some(_), None) => alone(reader, "listen.tls_certificate", "listen.tls_key"),
        (None, Some(_)) => alone(reader, "listen.tls_key", "listen.tls_certificate"),
    }
}

fn alone(reader: &mut Reader<'_>, key: &str, other: &str) -> Option<Option<TlsConfig>> {
    reader.problem(key, format!("has no effect alone; set {other} as well"));
    None
}

fn auth(reader: &mut Reader<'_>, has_clients: bool) -> Option<AuthConfig> {
    let tokens_file: Option<Option<PathBuf>> = reader.one("auth.tokens_file", "", or_word("", path));
    let certificates = reader.many("auth.certificates", |text: &str| text.parse());
    let limits = duration(Duration::from_millis(50), Duration::from_secs(3600));
    let reload = reader.one("auth.reload", "5s", limits);
    let jwt = jwt::jwt(reader);
    if certificates.as_ref().is_some_and(|rules| !rules.is_empty()) && !has_clients {
        reader.problem("auth.certificates", "nobody can show a certificate; set listen.client_ca");
    }
    Some(AuthConfig { tokens_file: tokens_file?, certificates: certificates?, jwt: jwt?, reload: reload? })
}

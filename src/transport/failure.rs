//! What went wrong with a request, in words for people.
//!
//! The HTTP client reports one opaque error; its cause is found by walking the chain of sources with typed
//! downcasts. The texts are ours throughout: an error's own text may contain the URL with its query, or an
//! address inside the operator's network.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::time::Duration;

use rustix::io::Errno;
use rustls::{AlertDescription, CertificateError, InvalidMessage};

use super::resolve::{AddressRefused, ResolveError};
use crate::domain::attempt::{Failure, Outcome, Refusal};

/// Nothing that a receiver could do about it, and so nothing that counts against one.
const NO_DESCRIPTORS: &str =
    "this server has no file descriptors left for a connection; raise its limit of open files (ulimit -n)";

/// What only the HTTP client itself can tell about its error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stage {
    /// A time limit was exceeded.
    pub timed_out: bool,
    /// The connection, TLS included, was not there yet.
    pub connecting: bool,
    /// The name was being resolved.
    pub resolving: bool,
    /// The request is `https://`.
    pub tls: bool,
    /// It goes through the operator's proxy.
    pub proxied: bool,
    /// The limit for the whole request.
    pub timeout: Duration,
    /// The limit for the connection.
    pub connect_timeout: Duration,
}

/// The outcome that an error means.
#[must_use]
pub fn classify(error: &(dyn Error + 'static), stage: Stage) -> Outcome {
    let causes: Vec<_> = causes(error).collect();
    if let Some(AddressRefused(detail)) = find(&causes) {
        return Outcome::NotSent { refusal: Refusal::AddressNotAllowed, detail: detail.clone() };
    }
    if find::<io::Error>(&causes).is_some_and(has_no_descriptors) {
        return Outcome::NotSent { refusal: Refusal::Fault, detail: NO_DESCRIPTORS.into() };
    }
    let (failure, detail) = explain(&causes, stage);
    Outcome::NoAnswer { failure, detail }
}

/// Whether the error has such a cause.
#[must_use]
pub fn is<E: Error + 'static>(error: &(dyn Error + 'static)) -> bool {
    find::<E>(&causes(error).collect::<Vec<_>>()).is_some()
}

fn explain(causes: &[&(dyn Error + 'static)], stage: Stage) -> (Failure, String) {
    if let Some(error) = find::<rustls::Error>(causes) {
        return (Failure::Tls, tls_words(error));
    }
    if let Some(error @ ResolveError::Slow(_)) = find(causes) {
        return (Failure::Dns, error.to_string());
    }
    if stage.timed_out {
        return (Failure::Timeout, timeout_words(stage));
    }
    if stage.connecting && stage.proxied {
        return (Failure::Connect, "the operator's proxy did not open a connection to the host".into());
    }
    if stage.resolving {
        return (Failure::Dns, "the host name could not be resolved".into());
    }
    let kind = find::<io::Error>(causes).map(io::Error::kind);
    let (failure, words) = match find::<hyper::Error>(causes) {
        _ if stage.connecting => connect_words(kind, stage.tls),
        Some(error) if error.is_parse_too_large() => {
            (Failure::InvalidResponse, "the headers of the answer are too large or too many")
        }
        Some(error) if error.is_parse() => (Failure::InvalidResponse, "the answer is not HTTP"),
        _ if kind == Some(ErrorKind::ConnectionReset) => {
            (Failure::Reset, "the receiver reset the connection before answering")
        }
        _ => (Failure::Reset, "the receiver closed the connection before answering"),
    };
    (failure, words.into())
}

fn has_no_descriptors(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE))
}

fn timeout_words(stage: Stage) -> String {
    let seconds = |limit: Duration| limit.as_secs_f64();
    if stage.connecting {
        format!("no connection within {} s", seconds(stage.connect_timeout.min(stage.timeout)))
    } else {
        format!("no answer within {} s", seconds(stage.timeout))
    }
}

fn connect_words(kind: Option<ErrorKind>, tls: bool) -> (Failure, &'static str) {
    match kind {
        Some(ErrorKind::ConnectionRefused) => (Failure::Refused, "connection refused"),
        Some(ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable | ErrorKind::AddrNotAvailable) => {
            (Failure::Connect, "the host is not reachable")
        }
        Some(
            ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::UnexpectedEof
            | ErrorKind::BrokenPipe,
        ) if tls => (Failure::Tls, "the receiver closed the connection before TLS was agreed"),
        _ => (Failure::Connect, "the connection could not be opened"),
    }
}

fn tls_words(error: &rustls::Error) -> String {
    let words = match error {
        rustls::Error::InvalidCertificate(problem) => return certificate_words(problem),
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "the receiver does not speak TLS on this port; is it plain http?"
        }
        rustls::Error::PeerIncompatible(_)
        | rustls::Error::AlertReceived(
            AlertDescription::ProtocolVersion
            | AlertDescription::HandshakeFailure
            | AlertDescription::InsufficientSecurity,
        ) => "no TLS version or cipher in common; TLS 1.2 or 1.3 is needed",
        rustls::Error::AlertReceived(AlertDescription::UnrecognisedName) => {
            "the receiver has no certificate for this name"
        }
        rustls::Error::AlertReceived(
            AlertDescription::CertificateRequired | AlertDescription::BadCertificate,
        ) => "the receiver asks for a client certificate",
        rustls::Error::NoCertificatesPresented => "the receiver sent no certificate",
        _ => "TLS could not be agreed",
    };
    words.into()
}

fn certificate_words(problem: &CertificateError) -> String {
    let words = match problem {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "the certificate has expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the certificate is not valid yet"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "the certificate is for another name"
        }
        CertificateError::UnknownIssuer => "certificate not trusted (self-signed or unknown issuer)",
        // The verifier's own error type is not exported; it prints as the name of its variant.
        CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
            "certificate not trusted (self-signed: a CA's certificate is used as the server's)"
        }
        CertificateError::Revoked => "the certificate was revoked",
        CertificateError::BadEncoding => "the certificate can't be read",
        CertificateError::BadSignature => "the certificate's signature is wrong",
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "the certificate is not meant for servers"
        }
        _ => "the certificate is not valid",
    };
    words.into()
}

/// The error and all that is behind it, outermost first.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| behind(*error))
}

/// An `io::Error` that wraps another error is looked into: its `source` skips the error that it wraps.
fn behind<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(inner) => Some(inner),
        None => error.source(),
    }
}

/// The innermost cause of this type, which knows most.
fn find<'a, E: Error + 'static>(causes: &[&'a (dyn Error + 'static)]) -> Option<&'a E> {
    causes.iter().rev().find_map(|error| error.downcast_ref::<E>())
}

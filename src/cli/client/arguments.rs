//! The flags and variables that every command for a running server has.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use tonic::transport::{Certificate, ClientTlsConfig, Identity, Uri};
use zeroize::Zeroizing;

use crate::config::parse_duration;
use crate::domain::id::OrganizationId;

use super::connection::{Caller, Connection};
use super::failure::Failure;
use super::reach::Target;

/// Holds the token where no file does. No flag has it: other users of a machine can read command lines.
const TOKEN_VARIABLE: &str = "SIGNALPOST_TOKEN";

/// Where the server is, and who calls.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Server")]
pub struct ServerArguments {
    /// The server's gRPC port, as http://HOST:PORT or https://HOST:PORT.
    #[arg(long, env = "SIGNALPOST_SERVER", value_name = "URL", default_value = "http://127.0.0.1:8080")]
    #[arg(value_parser = server)]
    server: Uri,

    /// A file with the token to call with; without it the variable SIGNALPOST_TOKEN holds the token itself.
    #[arg(long, env = "SIGNALPOST_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// Trust the certificate authorities in this PEM file, instead of Mozilla's (https only).
    #[arg(long, env = "SIGNALPOST_CA", value_name = "FILE")]
    ca: Option<PathBuf>,

    /// Show this certificate chain (PEM) to the server (https only).
    #[arg(long, env = "SIGNALPOST_CERT", value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,

    /// The private key of the certificate (PEM).
    #[arg(long, env = "SIGNALPOST_KEY", value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,

    /// How long one call may take.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    timeout: Duration,

    /// How long making the connection may take.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_duration)]
    connect_timeout: Duration,
}

/// Whose things a command is about.
#[derive(Debug, Clone, Args)]
pub struct OrganizationArguments {
    /// The organization.
    #[arg(short = 'O', long, env = "SIGNALPOST_ORGANIZATION", value_name = "ID", value_parser = organization)]
    #[arg(help_heading = "Server")]
    organization: OrganizationId,
}

impl OrganizationArguments {
    /// The id, as requests have it.
    pub fn id(&self) -> String {
        self.organization.to_string()
    }
}

fn organization(text: &str) -> Result<OrganizationId, String> {
    OrganizationId::parse(text).map_err(|why| why.to_string())
}

fn server(text: &str) -> Result<Uri, String> {
    let expected = || "write http://HOST:PORT or https://HOST:PORT".to_owned();
    let uri: Uri = text.parse().map_err(|_| expected())?;
    let plain = uri.path_and_query().is_none_or(|rest| rest.as_str() == "/");
    let host = uri.host().is_some_and(|host| !host.is_empty());
    let known = matches!(uri.scheme_str(), Some("http" | "https"));
    let bare = uri.authority().is_some_and(|authority| !authority.as_str().contains('@'));
    if known && host && plain && bare { Ok(uri) } else { Err(expected()) }
}

impl ServerArguments {
    /// Reads the files, and connects.
    ///
    /// # Errors
    /// All mistakes of the arguments; or why the server can't be reached.
    pub async fn connect(&self) -> Result<Connection, Failure> {
        let (caller, target) = self.prepare()?;
        Connection::make(target, caller).await
    }

    /// Everything that can be wrong before anything is sent.
    fn prepare(&self) -> Result<(Caller, Target), Failure> {
        let mut mistakes = Vec::new();
        let caller = self.caller(&mut mistakes);
        let tls = self.tls(&mut mistakes);
        let target = Target::new(self.server.clone(), tls, self.connect_timeout);
        let target = target.map_err(|why| mistakes.push(format!("--ca, --cert or --key: {why}"))).ok();
        match (caller, target) {
            (Some(caller), Some(target)) if mistakes.is_empty() => Ok((caller, target)),
            _ => Err(Failure::Usage(mistakes)),
        }
    }

    fn caller(&self, mistakes: &mut Vec<String>) -> Option<Caller> {
        let token = match &self.token_file {
            Some(file) => Some((format!("--token-file {}", file.display()), self.token_in(file, mistakes)?)),
            None => std::env::var_os(TOKEN_VARIABLE)
                .filter(|token| !token.is_empty())
                .map(|token| (TOKEN_VARIABLE.to_owned(), token.to_string_lossy().into_owned().into())),
        };
        let Some((from, token)) = token else { return Some(Caller::new(None, self.timeout)) };
        match Caller::bearer(&token) {
            Ok(bearer) => Some(Caller::new(Some(bearer), self.timeout)),
            Err(()) => {
                // What is in it may be most of a secret, so it is not shown.
                mistakes.push(format!("{from}: is no token; it has to be one line of visible ASCII"));
                None
            }
        }
    }

    fn token_in(&self, file: &Path, mistakes: &mut Vec<String>) -> Option<Zeroizing<String>> {
        let bytes = read("--token-file", file, mistakes)?;
        Some(Zeroizing::new(String::from_utf8_lossy(&bytes).trim().to_owned()))
    }

    fn tls(&self, mistakes: &mut Vec<String>) -> Option<ClientTlsConfig> {
        let ca = self.ca.as_deref().and_then(|file| read("--ca", file, mistakes));
        let cert = self.cert.as_deref().and_then(|file| read("--cert", file, mistakes));
        let key = self.key.as_deref().and_then(|file| read("--key", file, mistakes));
        if self.server.scheme_str() != Some("https") {
            for (flag, given) in [("--ca", ca.is_some()), ("--cert", cert.is_some())] {
                if given {
                    mistakes.push(format!("{flag} has no effect on {}: write https://", self.server));
                }
            }
            return None;
        }
        let mut config = ClientTlsConfig::new();
        config = match ca {
            Some(pem) => config.ca_certificate(Certificate::from_pem(pem)),
            None => config.with_webpki_roots(),
        };
        match (cert, key) {
            (Some(cert), Some(key)) => Some(config.identity(Identity::from_pem(cert, key))),
            _ => Some(config),
        }
    }
}

fn read(flag: &str, file: &Path, mistakes: &mut Vec<String>) -> Option<Vec<u8>> {
    std::fs::read(file)
        .map_err(|error| {
            mistakes.push(format!("{flag} {}: can't be read: {error}; check the path", file.display()));
        })
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_a_scheme_a_host_and_perhaps_a_port() {
        for text in ["http://127.0.0.1:8080", "https://signalpost.example.com", "http://[::1]:1/"] {
            assert!(server(text).is_ok(), "{text}");
        }
        for text in ["", "127.0.0.1:8080", "ftp://host", "http://", "http://u:planted@h", "http://h/path"] {
            let said = server(text).unwrap_err();
            assert!(said.contains("http://HOST:PORT") && !said.contains("planted"), "{text}: {said}");
        }
    }

    #[test]
    fn all_mistakes_of_the_arguments_are_told_at_once() {
        let arguments = ServerArguments {
            server: Uri::from_static("http://127.0.0.1:1"),
            token_file: Some("/nowhere/token".into()),
            ca: Some("/nowhere/ca.pem".into()),
            cert: Some(env!("CARGO_MANIFEST_DIR").to_owned().into()),
            key: None,
            timeout: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(1),
        };
        let Err(Failure::Usage(mistakes)) = arguments.prepare() else { panic!("no mistake is found") };
        let said = mistakes.join("\n");
        for flag in ["--token-file /nowhere/token", "--ca /nowhere/ca.pem", "--cert"] {
            assert!(said.contains(flag), "{said}");
        }
    }
}

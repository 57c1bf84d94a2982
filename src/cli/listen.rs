//! `signalpost listen`: a receiver that verifies what it gets and shows it.

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use http::StatusCode;
use tokio::signal::unix::{SignalKind, signal};
use zeroize::Zeroizing;

use crate::app::Mistake;
use crate::clock::SystemClock;
use crate::config;
use crate::contract::check_signing_secret;
use crate::domain::contract::Contract;
use crate::domain::secret::Secret;
use crate::receiver::listen::{Form, Listen, ListenOptions};
use crate::receiver::{Receiver, ReceiverOptions, TlsIdentity};

/// Receive webhooks, verify them, and show them.
///
/// Requests that are not genuine are answered 401 with the reason.
#[derive(Debug, Args)]
pub struct ListenArguments {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:9443")]
    address: SocketAddr,

    /// What is expected: SEMAPHOR, STALWART, WORKSPACE, OBSERVER, STANDARD_WEBHOOKS or CLOUDEVENTS.
    #[arg(long, default_value = "STANDARD_WEBHOOKS", value_parser = str::parse::<Contract>)]
    contract: Contract,

    /// A file with the signing secret (or a public key, whpk_…). The variable SIGNALPOST_LISTEN_SECRET may hold it
    /// instead; without either nothing is verified.
    // No argument takes the secret itself: every user of a machine can read command lines.
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,

    /// Serve HTTPS with a new self-signed certificate.
    #[arg(long)]
    tls: bool,

    /// Serve HTTPS with this certificate chain (PEM).
    #[arg(long, requires = "key", conflicts_with = "tls")]
    certificate: Option<PathBuf>,

    /// The private key of the certificate (PEM).
    #[arg(long, requires = "certificate")]
    key: Option<PathBuf>,

    /// Write the self-signed certificate to this file, for senders to trust.
    #[arg(long, requires = "tls")]
    write_certificate: Option<PathBuf>,

    /// The status code of the answer to requests that are not turned away.
    #[arg(long, default_value = "200", value_parser = clap::value_parser!(u16).range(200..=599))]
    status: u16,

    /// Show each request as one line of JSON.
    #[arg(long)]
    json: bool,

    /// Show no colours; the same as the environment variable NO_COLOR with any value but an empty one.
    #[arg(long, env = "NO_COLOR", hide_env = true, num_args = 0..=1, require_equals = true, default_missing_value = "1", value_name = "ANY")]
    no_color: Option<String>,
}

impl ListenArguments {
    /// A secret with which no request could ever be genuine is a mistake of the arguments.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> anyhow::Result<()> {
        let Some(secret) = self.secret()?.filter(|secret| !secret.expose().starts_with("whpk_")) else {
            return Ok(());
        };
        let checked = check_signing_secret(self.contract, &secret);
        checked.map_err(|problem| anyhow::anyhow!("the signing secret {problem}"))
    }

    /// The signing secret, out of the file or the environment.
    fn secret(&self) -> anyhow::Result<Option<Secret>> {
        let variable = config::listen_secret().map_err(anyhow::Error::msg)?;
        let Some(file) = &self.secret_file else {
            return Ok(variable.map(|text| Secret::new(text.as_str())));
        };
        anyhow::ensure!(
            variable.is_none(),
            "--secret-file and SIGNALPOST_LISTEN_SECRET are both given; give one of them"
        );
        let text = Zeroizing::new(text(file).context("--secret-file")?);
        Ok(Some(Secret::new(text.trim_end_matches(['\r', '\n']))))
    }
}

/// Receives until Ctrl-C, SIGTERM, or until nobody reads the output any more.
///
/// # Errors
/// The certificate or the address can't be used.
pub async fn run(arguments: ListenArguments) -> anyhow::Result<()> {
    let tls = identity(&arguments)?;
    // Before anything is said: who sees the first line may already send a signal.
    let mut terminated = signal(SignalKind::terminate()).context("SIGTERM can't be waited for")?;
    let mut interrupted = signal(SignalKind::interrupt()).context("Ctrl-C can't be waited for")?;
    let listen = Arc::new(Listen::new(options(&arguments)?, io::stdout()));
    let (address, behaviour) = (arguments.address, Arc::clone(&listen));
    let receiver = Receiver::start(ReceiverOptions { address, tls, behaviour })
        .await
        .with_context(|| format!("can't listen on {address}"))?;
    say(&arguments, &format!("Listening on {} for {}; Ctrl-C ends.", receiver.url("/"), arguments.contract));
    tokio::select! {
        _ = interrupted.recv() => {}
        _ = terminated.recv() => {}
        () = listen.output_closed() => {}
    }
    receiver.stop().await;
    say(&arguments, &listen.summary().to_string());
    Ok(())
}

fn options(arguments: &ListenArguments) -> anyhow::Result<ListenOptions> {
    let no_color = arguments.no_color.as_deref().map(AsRef::as_ref);
    let form = match arguments.json {
        true => Form::Json,
        false => Form::Block { colours: config::colours_with(io::stdout().is_terminal(), no_color) },
    };
    Ok(ListenOptions {
        contract: arguments.contract,
        secret: arguments.secret()?,
        status: StatusCode::from_u16(arguments.status).context("--status")?,
        form,
        clock: Arc::new(SystemClock),
    })
}

fn identity(arguments: &ListenArguments) -> anyhow::Result<Option<TlsIdentity>> {
    if let (Some(certificate), Some(key)) = (&arguments.certificate, &arguments.key) {
        let identity = given_identity(certificate, key).map_err(Mistake::of)?;
        return Ok(Some(identity));
    }
    if !arguments.tls {
        return Ok(None);
    }
    let identity = TlsIdentity::for_address(arguments.address.ip()).context("can't make a certificate")?;
    if let Some(file) = &arguments.write_certificate {
        fs::write(file, identity.certificate_pem()).map_err(|error| {
            Mistake::of_path(
                format!("--write-certificate: can't write {}; check the path", file.display()),
                error,
            )
        })?;
    }
    Ok(Some(identity))
}

fn given_identity(certificate: &Path, key: &Path) -> anyhow::Result<TlsIdentity> {
    let (certificate, key) = (text(certificate).context("--certificate")?, text(key).context("--key")?);
    TlsIdentity::from_pem(&certificate, &key)
        .context("--certificate and --key can't be used; give a certificate and its own key, both in PEM")
}

fn text(file: &Path) -> anyhow::Result<String> {
    fs::read_to_string(file).with_context(|| format!("can't read {}; check the path", file.display()))
}

/// For people; where the output is for programs, beside it. Nobody may be there to read it.
fn say(arguments: &ListenArguments, line: &str) {
    match arguments.json {
        true => writeln!(io::stderr().lock(), "{line}").ok(),
        false => writeln!(io::stdout().lock(), "{line}").ok(),
    };
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        listen: ListenArguments,
    }

    fn line(arguments: &[&str]) -> Result<ListenArguments, clap::Error> {
        Line::try_parse_from([&["listen"], arguments].concat()).map(|line| line.listen)
    }

    #[test]
    fn the_secret_comes_out_of_a_file_and_never_out_of_an_argument() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        let name = file.to_str().unwrap();
        fs::write(&file, "planted secret \r\n").unwrap();
        let arguments = line(&["--contract", "WORKSPACE", "--secret-file", name]).unwrap();
        arguments.check().unwrap();
        assert_eq!(arguments.secret().unwrap().unwrap().expose(), "planted secret ");
        assert!(line(&["--secret", "planted"]).is_err());
        let whole = line(&["--secret-file", name]).unwrap();
        let problem = format!("{:#}", whole.check().unwrap_err());
        assert!(problem.contains("the signing secret") && !problem.contains("planted"), "{problem}");
        let missing = line(&["--secret-file", "/nowhere/secret"]).unwrap();
        assert!(format!("{:#}", missing.check().unwrap_err()).contains("--secret-file"));
        assert_eq!(line(&[]).unwrap().secret().unwrap(), None);
    }
}

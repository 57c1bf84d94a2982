//! `signalpost demo`: the whole product in a minute, on real sockets, real TLS and a real disk.
//!
//! It starts a server on a temporary store and a local HTTPS receiver that verifies signatures with code
//! of its own, then plays scenes: one destination for each contract, a retry, a dead letter and its
//! replay. Every line with a check mark was checked; the exit code says whether all of them held.

mod page;
mod scenes;
mod stage;

use std::time::Instant;

use clap::Args;

use crate::cli::demo::page::Page;
use crate::cli::demo::stage::Stage;
use crate::cli::exit::Exit;

/// `signalpost demo`.
#[derive(Debug, Clone, Args)]
pub struct DemoArguments {
    /// Leave the server and the receiver running afterwards, and print commands to try.
    #[arg(long)]
    keep: bool,
    /// Play it on this PostgreSQL database instead of a temporary store, in an organization that is removed afterwards.
    #[arg(long, value_name = "URL", env = "SIGNALPOST_STORE_URL", hide_env_values = true)]
    store_url: Option<String>,
    /// Plain text without colours.
    #[arg(long)]
    no_color: bool,
}

/// Plays the demo.
///
/// # Errors
/// Where the stage can't be set: no temporary folder, no free port. A scene that fails is told on the page
/// and by the exit code.
pub async fn run(arguments: DemoArguments) -> anyhow::Result<Exit> {
    let mut page = Page::to_stdout(!arguments.no_color);
    let began = Instant::now();
    page.title("Signalpost", "an event in over gRPC, a signed webhook out, its history back")?;
    let stage = Stage::set(arguments.store_url.as_deref()).await?;
    page.note(&format!("server    {} (gRPC, plaintext on loopback)", stage.grpc_address()))?;
    page.note(&format!(
        "receiver  {} (HTTPS, self-signed, verifies with its own code)",
        stage.receiver_url()
    ))?;
    match &arguments.store_url {
        Some(_) => page.note("store     the PostgreSQL database of SIGNALPOST_STORE_URL")?,
        None => page.note(&format!("store     {} (sled, temporary)", stage.store_path().display()))?,
    }

    let outcome = scenes::play(&stage, &mut page).await;
    if let Err(error) = &outcome {
        page.failed(&format!("{error:#}"))?;
    }
    page.summary(began.elapsed())?;
    if arguments.keep && outcome.is_ok() {
        page.commands(&stage)?;
        stage.keep().await?;
    }
    stage.strike().await?;
    Ok(if outcome.is_ok() && page.all_held() { Exit::Success } else { Exit::Failure })
}

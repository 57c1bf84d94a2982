//! `signalpost serve`: the server, until it is told to stop.

use std::path::PathBuf;

use clap::Args;

use crate::app::App;
use crate::config::{self, Config};
use crate::shutdown::{Signals, Stopped, Tasks};
use crate::telemetry;

use super::exit::Exit;
use super::output::{complain, print};
use super::runtime::block_on;

/// `signalpost serve`.
#[derive(Debug, Args)]
pub(super) struct ServeArguments {
    /// The configuration file; without it SIGNALPOST_CONFIG, without that the environment alone.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Runs the server until a signal or a failure stops it.
pub(super) fn run(arguments: &ServeArguments) -> Exit {
    let config = match config::load(arguments.config.as_deref()) {
        Ok(loaded) => loaded.config,
        Err(error) => return complain(&error, Exit::Usage),
    };
    if let Err(error) = telemetry::logs::start(&config.log) {
        return complain(&error, Exit::Usage);
    }
    block_on(serve(&config))
}

async fn serve(config: &Config) -> anyhow::Result<Exit> {
    let tasks = Tasks::new();
    // From here on a signal is an orderly stop, also while the store is being opened.
    let signals = Signals::of_process()?;
    let app = App::start(config, &tasks).await?;
    // For people and for scripts that asked for port 0; everything else goes to the log.
    let metrics = app.metrics_address.map(|address| format!(" metrics={address}")).unwrap_or_default();
    print(&format!("ready grpc={} health={}{metrics}\n", app.grpc_address, app.health_address));
    let stopped = tasks.run_until_stopped(signals, config.delivery.shutdown_deadline).await;
    app.close().await?;
    tracing::info!(how = ?stopped, "stopped");
    let in_order = !tasks.ended_badly() && !matches!(stopped, Stopped::Abandoned(_));
    Ok(if in_order { Exit::Success } else { Exit::Failure })
}

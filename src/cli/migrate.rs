//! `signalpost migrate`: brings the database of a shared store to this version.

use std::path::PathBuf;

use clap::Args;

use crate::app::{Mistake, shared_options};
use crate::config::{self, Config};
use crate::metrics::StoreMetrics;
use crate::store::postgres::PostgresStore;
use crate::telemetry;

use super::exit::Exit;
use super::output::{complain, print};
use super::runtime::block_on;

/// `signalpost migrate`.
#[derive(Debug, Args)]
pub(super) struct MigrateArguments {
    /// The configuration file; without it SIGNALPOST_CONFIG, without that the environment alone.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Runs the command.
pub(super) fn run(arguments: &MigrateArguments) -> Exit {
    let config = match config::load(arguments.config.as_deref()) {
        Ok(loaded) => loaded.config,
        Err(error) => return complain(&error, Exit::Usage),
    };
    if let Err(error) = telemetry::logs::start(&config.log) {
        return complain(&error, Exit::Usage);
    }
    block_on(migrate(&config))
}

async fn migrate(config: &Config) -> anyhow::Result<Exit> {
    let Some(shared) = &config.store.shared else {
        let text = "store.url names no database; the embedded store needs no migration";
        return Err(Mistake::new(text).into());
    };
    let options = shared_options(config, shared, StoreMetrics::default())?;
    let (from, to) = tokio::task::spawn_blocking(move || PostgresStore::migrate(&options)).await??;
    print(&match from {
        0 => format!("The schema was made, version {to}.\n"),
        from if from == to => format!("The schema has version {to} already.\n"),
        from => format!("The schema was brought from version {from} to version {to}.\n"),
    });
    Ok(Exit::Success)
}

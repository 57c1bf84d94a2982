//! `signalpost dead-letters`: see them, send them again, or delete them.

mod delete;
mod list;
mod replay;

use clap::{Args, Subcommand};

use super::call::Call;
use super::client::Failure;
use super::exit::Exit;
use super::selection::Selection;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List dead letters, the latest first.
    List(list::ListArguments),
    /// Put dead letters back in their lanes, at a pace, and show how far it is.
    ///
    /// Ctrl-C cancels the replay: what was put back is still sent, the rest stays a dead letter. With
    /// --detach it goes on by itself, also over restarts of the server.
    Replay(replay::ReplayArguments),
    /// Show how far a replay is. Ctrl-C leaves it running.
    Follow(replay::OneArguments),
    /// Cancel a replay. What was put back is still sent, the rest stays a dead letter.
    Cancel(replay::OneArguments),
    /// Delete dead letters for good.
    Delete(delete::DeleteArguments),
}

/// Which dead letters, where something is done with them.
#[derive(Debug, Args)]
struct Chosen {
    /// These, by their delivery ids.
    #[arg(value_name = "DELIVERY", conflicts_with_all = ["all", "destination", "types", "event", "since", "until"])]
    ids: Vec<String>,
    /// All of the organization.
    #[arg(long, conflicts_with_all = ["destination", "types", "event", "since", "until"])]
    all: bool,
    #[command(flatten)]
    selection: Selection,
}

impl Chosen {
    /// Nobody acts on all by leaving something out.
    fn check(&self) -> Result<(), Failure> {
        if self.ids.is_empty() && !self.all && self.selection.is_empty() {
            return Err(Failure::usage(
                "say which dead letters: their ids, a selection such as --destination, or --all",
            ));
        }
        Ok(())
    }
}

/// Runs the command.
pub(super) async fn run(command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::List(arguments) => list::run(arguments).await,
        Command::Replay(arguments) => replay::run(arguments).await,
        Command::Follow(arguments) => replay::follow(arguments).await,
        Command::Cancel(arguments) => replay::cancel(arguments).await,
        Command::Delete(arguments) => delete::run(arguments).await,
    }
}

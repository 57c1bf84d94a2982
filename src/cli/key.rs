//! `signalpost key`: keys under which secrets are sealed at rest.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use crate::app::Mistake;
use crate::store::key_file::{as_lines, create};
use crate::store::keyring::SealingKey;

use super::exit::Exit;
use super::output::{complain, print, remark};
use super::runtime::complain_of;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a key, and print it or write it into a new file.
    New(NewArguments),
}

/// `signalpost key new`.
#[derive(Debug, Args)]
pub(super) struct NewArguments {
    /// Write it into this new file, which only you may read, instead of printing it.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// Runs the command.
pub(super) fn run(command: &Command) -> Exit {
    let Command::New(arguments) = command;
    let key = match SealingKey::generate() {
        Ok(key) => key,
        Err(error) => return complain(&error, Exit::Failure),
    };
    match &arguments.file {
        None => print(&as_lines(&key)),
        Some(path) => write(path, &key),
    }
}

fn write(path: &Path, key: &SealingKey) -> Exit {
    match create(path, key) {
        Ok(()) => {
            remark(&format!("The key {} is in {}.", key.id(), path.display()));
            Exit::Success
        }
        Err(error) => {
            let text = format!(
                "--file: {} is not written; give a new file in a folder that is there",
                path.display()
            );
            complain_of(&Mistake::of_path(text, error))
        }
    }
}

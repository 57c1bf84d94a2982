//! `signalpost completions` and `man`: made from the command line itself, so that they can't lag behind.

use std::path::PathBuf;

use clap::{Args, Command};
use clap_complete::Shell;

use super::exit::Exit;
use super::output::{complain, print, remark};
use super::runtime::complain_of;
use crate::app::Mistake;

/// `signalpost completions`.
#[derive(Debug, Args)]
pub(super) struct CompletionsArguments {
    /// The shell; for bash: signalpost completions bash > /etc/bash_completion.d/signalpost.
    #[arg(value_enum, value_name = "SHELL")]
    shell: Shell,
}

/// `signalpost man`.
#[derive(Debug, Args)]
pub(super) struct ManArguments {
    /// Write one page for each command into this folder, instead of the main page to standard output.
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
}

/// Prints a completion script.
pub(super) fn completions(arguments: &CompletionsArguments, mut command: Command) -> Exit {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command, "signalpost", &mut script);
    print(&String::from_utf8_lossy(&script))
}

/// Prints the manual, or writes all its pages.
pub(super) fn man(arguments: &ManArguments, command: Command) -> Exit {
    let Some(folder) = &arguments.folder else {
        let mut page = Vec::new();
        return match clap_mangen::Man::new(command).render(&mut page) {
            Ok(()) => print(&String::from_utf8_lossy(&page)),
            Err(error) => complain(&error, Exit::Failure),
        };
    };
    let written = std::fs::create_dir_all(folder).and_then(|()| clap_mangen::generate_to(command, folder));
    match written {
        Ok(()) => {
            remark(&format!("The pages are in {}.", folder.display()));
            Exit::Success
        }
        Err(error) => {
            let text = format!("--folder: {} can't be written; check the path", folder.display());
            complain_of(&Mistake::of_path(text, error))
        }
    }
}

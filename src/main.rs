//! The `signalpost` program; the commands are in `cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    signalpost::cli::run(std::env::args_os()).into()
}

//! The command line: thin commands, a file each, over what the library offers.
//!
//! Standard output is for results, standard error for logs and complaints; [`exit`] says what the exit
//! codes mean.

mod bench;
mod config;
mod demo;
pub mod exit;
mod key;
mod listen;
mod migrate;
pub mod output;
mod rekey;
mod runtime;
mod serve;
mod token;

use std::ffi::OsString;

use clap::{Parser, Subcommand};

use exit::Exit;
use runtime::block_on;

/// Webhook delivery: events in over gRPC, signed webhooks out.
#[derive(Debug, Parser)]
#[command(name = "signalpost", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server.
    Serve(serve::ServeArguments),
    /// See the whole product at work in a minute, on a temporary store.
    Demo(demo::DemoArguments),
    /// Receive webhooks, verify them and show them.
    Listen(Box<listen::ListenArguments>),
    /// Measure this build on this machine, in relation to what the machine can do at all.
    Bench(bench::BenchArguments),
    /// The receiving end of `bench`, which starts it.
    #[command(hide = true)]
    BenchSink(bench::sink::SinkArguments),
    /// Make keys under which secrets are sealed at rest.
    #[command(subcommand)]
    Key(key::Command),
    /// Seal all stored secrets anew, under the first of the configured keys. The server must be stopped.
    Rekey(rekey::RekeyArguments),
    /// Bring the database of a shared store to this version, and end. `serve` does the same when it starts.
    Migrate(migrate::MigrateArguments),
    /// Check, show or explain the configuration.
    #[command(subcommand)]
    Config(config::Command),
    /// Make tokens with which callers prove who they are.
    #[command(subcommand)]
    Token(token::Command),
}

/// Runs the command that the arguments (the program's name first) ask for.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> Exit {
    match Cli::try_parse_from(arguments) {
        Ok(Cli { command }) => execute(command),
        Err(answer) => explain(&answer),
    }
}

fn execute(command: Command) -> Exit {
    match command {
        Command::Serve(arguments) => serve::run(&arguments),
        Command::Demo(arguments) => block_on(demo::run(arguments)),
        Command::Listen(arguments) => match arguments.check() {
            Ok(()) => block_on(async { listen::run(*arguments).await.map(|()| Exit::Success) }),
            Err(mistake) => output::complain(mistake.as_ref(), Exit::Usage),
        },
        Command::Bench(arguments) => block_on(bench::run(arguments)),
        Command::BenchSink(arguments) => block_on(bench::sink::run(arguments)),
        Command::Key(command) => key::run(&command),
        Command::Rekey(arguments) => rekey::run(&arguments),
        Command::Migrate(arguments) => migrate::run(&arguments),
        Command::Config(command) => config::run(&command),
        Command::Token(command) => token::run(&command),
    }
}

/// Prints clap's help, version or complaint, each to its stream.
fn explain(answer: &clap::Error) -> Exit {
    let exit = if answer.use_stderr() { Exit::Usage } else { Exit::Success };
    // A reader that has gone away, as in `signalpost --help | head -1`, is no failure of ours.
    answer.print().map_or(Exit::Success, |()| exit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_is_explained() {
        fn check(command: &clap::Command) {
            for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
                assert!(inner.get_about().is_some(), "{} has no explanation", inner.get_name());
                check(inner);
            }
        }
        check(&Cli::command());
    }
}

//! The command line: thin commands, a file each, over what the library offers.
//!
//! Standard output is for results, standard error for logs and complaints; [`exit`] says what the exit
//! codes mean.

mod backup;
mod bench;
mod call;
mod check;
mod client;
mod config;
mod dead_letters;
mod demo;
mod emit;
pub mod exit;
mod explain;
mod health;
mod key;
mod listen;
mod migrate;
mod missing;
pub mod output;
mod reference;
mod rekey;
mod runtime;
mod schema;
mod selection;
mod serve;
mod show;
mod tail;
mod token;
mod transfer;
mod words;

use std::ffi::OsString;

use clap::{CommandFactory, Parser, Subcommand};

use exit::Exit;
use runtime::block_on;

/// Webhook delivery: events in over gRPC, signed webhooks out.
#[derive(Debug, Parser)]
#[command(name = "signalpost", version, arg_required_else_help = true, after_help = Exit::table())]
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
    /// Ask a server whether it lives, has started and takes calls.
    Health(Box<health::HealthArguments>),
    /// Emit one event.
    Emit(Box<emit::EmitArguments>),
    /// Show the changes of deliveries as they happen.
    Tail(Box<tail::TailArguments>),
    /// Explain what became of an event at each destination, why, and what comes next.
    Explain(Box<explain::ExplainArguments>),
    /// See dead letters, send them again, or delete them.
    #[command(subcommand)]
    DeadLetters(Box<dead_letters::Command>),
    /// Write an organization's destinations as JSON, one a line; without their secrets.
    Export(Box<transfer::export::ExportArguments>),
    /// Create destinations from such lines. All are checked before any is created.
    Import(Box<transfer::import::ImportArguments>),
    /// Write a consistent copy of everything that a running server keeps into a file. For operators.
    Backup(Box<backup::BackupArguments>),
    /// Make a store of a backup, in an empty folder.
    Restore(backup::RestoreArguments),
    /// Look through the whole store of a server that is stopped, for damage and for what does not fit together.
    Check(check::CheckArguments),
    /// Measure this build on this machine, in relation to what the machine can do at all.
    Bench(bench::BenchArguments),
    /// The receiving end of `bench`, which starts it.
    #[command(hide = true)]
    BenchSink(bench::sink::SinkArguments),
    /// The pure paths of an event, for whoever counts instructions.
    #[command(hide = true)]
    BenchPaths(bench::paths::PathsArguments),
    /// Make keys under which secrets are sealed at rest.
    #[command(subcommand)]
    Key(key::Command),
    /// Seal all stored secrets anew, under the first of the configured keys. The server of an embedded store must be
    /// stopped; replicas on a shared one go on.
    Rekey(rekey::RekeyArguments),
    /// Bring the database of a shared store to this version, and end. `serve` does the same when it starts.
    Migrate(migrate::MigrateArguments),
    /// Check, show or explain the configuration.
    #[command(subcommand)]
    Config(config::Command),
    /// Print a script that completes commands and flags in a shell.
    Completions(reference::CompletionsArguments),
    /// Print the manual page, or write all of them.
    Man(reference::ManArguments),
    /// Make tokens with which callers prove who they are.
    #[command(subcommand)]
    Token(token::Command),
}

/// Runs the command that the arguments (the program's name first) ask for.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> Exit {
    match Cli::try_parse_from(arguments) {
        Ok(Cli { command }) => execute(command),
        Err(answer) => explain(&missing::with_remedy(answer, Cli::command())),
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
        Command::Health(arguments) => block_on(health::run(*arguments)),
        Command::Emit(arguments) => block_on(emit::run(*arguments)),
        Command::Tail(arguments) => block_on(tail::run(*arguments)),
        Command::Explain(arguments) => block_on(explain::run(*arguments)),
        Command::DeadLetters(command) => block_on(dead_letters::run(*command)),
        Command::Export(arguments) => block_on(transfer::export::run(*arguments)),
        Command::Import(arguments) => block_on(transfer::import::run(*arguments)),
        Command::Backup(arguments) => block_on(backup::save(*arguments)),
        Command::Restore(arguments) => backup::restore(&arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Completions(arguments) => reference::completions(&arguments, Cli::command()),
        Command::Man(arguments) => reference::man(&arguments, Cli::command()),
        Command::Bench(arguments) => block_on(bench::run(arguments)),
        Command::BenchPaths(arguments) => block_on(async { bench::paths::run(&arguments) }),
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

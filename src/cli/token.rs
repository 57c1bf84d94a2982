//! `signalpost token`: makes static tokens.

use std::time::Duration;

use clap::{Args, Subcommand};

use crate::auth::grant::parse_grants;
use crate::auth::token::Token;
use crate::auth::token_file::{check_name, line_of};
use crate::clock::{Clock, SystemClock};
use crate::domain::time::Timestamp;

use super::exit::Exit;
use super::output::{complain, print, remark};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a new token. Prints the token, and the line for the token file, which holds its hash.
    New(New),
}

/// `signalpost token new`.
#[derive(Debug, Args)]
pub(super) struct New {
    /// The caller's name, for logs and the audit log.
    #[arg(value_name = "NAME", value_parser = name)]
    name: String,
    /// What the caller may do: emitter@acme, viewer@acme+globex, admin@*, operator; several by commas.
    #[arg(value_name = "GRANTS", value_parser = grants)]
    grants: String,
    /// From when on the token is no longer valid, for example 2027-01-01T00:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = Timestamp::parse_rfc3339, conflicts_with = "days")]
    until: Option<Timestamp>,
    /// After how many days the token is no longer valid.
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: Option<u32>,
    /// Print the line for the file alone to standard error, so that the token can be piped on.
    #[arg(long)]
    quiet: bool,
}

fn name(text: &str) -> Result<String, String> {
    check_name(text).map(|()| text.to_owned())
}

fn grants(text: &str) -> Result<String, String> {
    parse_grants(text).map(|_| text.to_owned())
}

/// Runs the command.
pub(super) fn run(command: &Command) -> Exit {
    match command {
        Command::New(new) => match Token::generate() {
            Ok(token) => show(new, &token),
            Err(why) => complain(&std::io::Error::other(why), Exit::Failure),
        },
    }
}

fn show(new: &New, token: &Token) -> Exit {
    let days = |days: u32| SystemClock.now() + Duration::from_secs(u64::from(days) * 24 * 60 * 60);
    let line = line_of(&new.name, &new.grants, &token.hash(), new.until.or(new.days.map(days)));
    if new.quiet {
        remark(&line);
        return print(&format!("{}\n", token.expose()));
    }
    print(&format!(
        "The token, shown this once; callers send it as `authorization: Bearer …`:\n{}\n\n\
         The line for the token file (auth.tokens_file):\n{line}\n",
        token.expose()
    ))
}

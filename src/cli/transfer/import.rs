//! `signalpost import`: checks every line with the server before it creates anything.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;

use clap::Args;

use crate::cli::call::Call;
use crate::cli::client::{Connection, Failure};
use crate::cli::exit::Exit;
use crate::cli::output::{complain, print};
use crate::cli::show::from_json;
use crate::grpc::proto::v1;

use super::ask;
use super::holes::{Secrets, fill};

/// `signalpost import`.
#[derive(Debug, Args)]
pub(in crate::cli) struct ImportArguments {
    /// The file with one destination a line, as `export` writes it; - for standard input.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// A JSON file with the secrets that the export has no values for, by destination and field:
    /// {"dst_…": {"signing_secret": "…", "headers.x-key": "…"}}. What is missing there, too, is asked for at the terminal.
    #[arg(long, value_name = "FILE")]
    secrets: Option<PathBuf>,
    /// Check everything, and create nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    call: Call,
}

/// What is said of a secret that nobody gave.
const NO_VALUE: &str =
    "has no value; write it there, give a file with --secrets, or run this at a terminal, which asks for it";

/// A destination of the file.
struct Line {
    number: usize,
    destination: v1::Destination,
}

/// Runs the command.
pub(in crate::cli) async fn run(arguments: ImportArguments) -> anyhow::Result<Exit> {
    let lines = read(&arguments)?;
    let connection = arguments.call.connect().await?;
    check(&connection, &arguments, &lines).await?;
    if arguments.dry_run {
        let count = lines.len();
        return Ok(print(&format!("All {count} destinations are valid; nothing was created.\n")));
    }
    let mut exit = Exit::Success;
    for line in &lines {
        match create(&connection, &arguments, line, false).await {
            Ok(made) => {
                print(&report(&arguments, line, &made));
            }
            Err(failure) => {
                exit = Exit::Failure;
                let text = format!("{}, after others were created: {failure}", called(line));
                complain(&std::io::Error::other(text), exit);
            }
        }
    }
    Ok(exit)
}

/// All lines with their secrets, or all that is wrong with them.
fn read(arguments: &ImportArguments) -> Result<Vec<Line>, Failure> {
    let secrets = secrets(arguments)?;
    let (mut lines, mut mistakes) = parsed(&text(&arguments.file)?);
    // Nobody types secrets for a file that is refused anyway.
    let asks = mistakes.is_empty() && ask::is_possible(&arguments.file);
    for line in &mut lines {
        let of = called(line);
        let mut known = secrets.get(&line.destination.destination_id).cloned().unwrap_or_default();
        let mut open = fill(&mut line.destination, &known);
        if asks {
            ask::for_secrets(&of, &open, &mut known)?;
            open = fill(&mut line.destination, &known);
        }
        mistakes.extend(open.iter().map(|path| format!("{of}: {path} {NO_VALUE}")));
    }
    if mistakes.is_empty() { Ok(lines) } else { Err(Failure::Usage(mistakes)) }
}

/// The lines that are destinations, and what is wrong with the others.
fn parsed(text: &str) -> (Vec<Line>, Vec<String>) {
    let (mut lines, mut mistakes) = (Vec::new(), Vec::new());
    for (position, text) in text.lines().enumerate().filter(|(_, text)| !text.trim().is_empty()) {
        let number = position + 1;
        match from_json::<v1::Destination>(text) {
            Ok(destination) => lines.push(Line { number, destination }),
            Err(error) => {
                let why = error.to_string();
                // The JSON reader sees one line and calls it the first.
                mistakes.push(format!("line {number}: {}", why.replace(" at line 1 column", " at column")));
            }
        }
    }
    (lines, mistakes)
}

fn text(file: &std::path::Path) -> Result<String, Failure> {
    let read = if file.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(file)
    };
    read.map_err(|error| Failure::usage(format!("{} can't be read: {error}; check the path", file.display())))
}

fn secrets(arguments: &ImportArguments) -> Result<BTreeMap<String, Secrets>, Failure> {
    let Some(file) = &arguments.secrets else { return Ok(BTreeMap::new()) };
    // The place of a mistake is told, and not what stands there.
    serde_json::from_str(&text(file)?).map_err(|error| {
        let (name, line, column) = (file.display(), error.line(), error.column());
        Failure::usage(format!(
            "--secrets {name} line {line} column {column}: has to be {{\"dst_…\": {{\"signing_secret\": \"…\"}}}}"
        ))
    })
}

/// Asks the server about each line; nothing is created.
async fn check(connection: &Connection, arguments: &ImportArguments, lines: &[Line]) -> Result<(), Failure> {
    let mut mistakes = Vec::new();
    for line in lines {
        match create(connection, arguments, line, true).await {
            Ok(_) => {}
            Err(Failure::Refused(refusal)) if refusal.is_about_the_request() => {
                mistakes.push(format!("{}: {refusal}", called(line)));
            }
            Err(failure) => return Err(failure),
        }
    }
    if mistakes.is_empty() { Ok(()) } else { Err(Failure::Usage(mistakes)) }
}

async fn create(
    connection: &Connection,
    arguments: &ImportArguments,
    line: &Line,
    validate_only: bool,
) -> Result<v1::Destination, Failure> {
    // The id is the server's to give.
    let destination = v1::Destination { destination_id: String::new(), ..line.destination.clone() };
    let request = v1::CreateDestinationRequest {
        organization_id: arguments.call.organization_id(),
        destination: Some(destination),
        validate_only,
    };
    let answer = connection.answer(connection.destinations().create_destination(request).await)?;
    Ok(answer.destination.unwrap_or_default())
}

fn called(line: &Line) -> String {
    format!("line {} ({})", line.number, line.destination.display_name)
}

fn report(arguments: &ImportArguments, line: &Line, made: &v1::Destination) -> String {
    let (id, name) = (&made.destination_id, &made.display_name);
    match arguments.call.output.is_json() {
        true => format!(
            "{}\n",
            serde_json::json!({"line": line.number, "destinationId": id, "displayName": name})
        ),
        false => format!("{}: created as {id}\n", called(line)),
    }
}

//! `signalpost emit`: one event, for trying things out and for scripts.

use std::io::Read;

use anyhow::Context;
use clap::Args;

use crate::domain::time::Timestamp;
use crate::grpc::proto::v1;

use super::call::Call;
use super::client::Failure;
use super::exit::Exit;
use super::output::print;
use super::selection::{stamp, time};
use super::show::as_json;
use super::words;

/// `signalpost emit`.
#[derive(Debug, Args)]
pub(super) struct EmitArguments {
    /// What happened, for example kpi.alert.
    #[arg(value_name = "TYPE")]
    r#type: String,
    /// The event's data, a JSON object; @FILE reads a file, - standard input.
    #[arg(short, long, value_name = "JSON", default_value = "{}")]
    data: String,
    /// The event's id. The same id with the same content is accepted once.
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// The severity: trace, debug, info, warn or error.
    #[arg(long, value_name = "LEVEL", value_parser = words::parse_level)]
    level: Option<v1::Level>,
    /// When it happened: a time, or how long ago.
    #[arg(long, value_name = "TIME", value_parser = time)]
    at: Option<Timestamp>,
    #[command(flatten)]
    call: Call,
}

/// Runs the command.
pub(super) async fn run(arguments: EmitArguments) -> anyhow::Result<Exit> {
    let data = data(&arguments.data)?;
    let connection = arguments.call.connect().await?;
    let event = v1::Event {
        event_id: arguments.id.clone(),
        r#type: arguments.r#type.clone(),
        occurred_at: arguments.at.map(stamp),
        level: arguments.level.unwrap_or_default().into(),
        data: Some(v1::event::Data::JsonData(data.into())),
    };
    let request = v1::EmitRequest { organization_id: arguments.call.organization_id(), event: Some(event) };
    let answer = connection.answer(connection.events().emit(request).await)?;
    let result = answer.result.context("the server answered without a result")?;
    Ok(print(&match arguments.call.output.is_json() {
        true => format!("{}\n", as_json(&result)?),
        false => sentence(&result),
    }))
}

fn data(text: &str) -> Result<Vec<u8>, Failure> {
    let unreadable = |what: &str, error: std::io::Error| {
        Failure::usage(format!("--data: {what} can't be read: {error}; check the path"))
    };
    if text == "-" {
        let mut data = Vec::new();
        std::io::stdin().read_to_end(&mut data).map_err(|error| unreadable("standard input", error))?;
        return Ok(data);
    }
    match text.strip_prefix('@') {
        Some(file) => std::fs::read(file).map_err(|error| unreadable(file, error)),
        None => Ok(text.as_bytes().to_vec()),
    }
}

fn sentence(result: &v1::EmitResult) -> String {
    let noun = if result.delivery_count == 1 { "destination" } else { "destinations" };
    let (id, count) = (&result.event_id, result.delivery_count);
    match (result.duplicate, count) {
        (true, _) => format!("{id} was accepted before, for {count} {noun}; nothing new was made\n"),
        (false, 0) => {
            format!("{id} is accepted; no destination wants it, `signalpost explain {id}` says why\n")
        }
        (false, _) => format!("{id} is accepted, for {count} {noun}\n"),
    }
}

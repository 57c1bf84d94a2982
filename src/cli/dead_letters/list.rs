//! `signalpost dead-letters list`.

use clap::Args;

use crate::clock::{Clock, SystemClock};
use crate::domain::time::Timestamp;
use crate::grpc::proto::v1;

use super::Call;
use crate::cli::client::Pages;
use crate::cli::exit::Exit;
use crate::cli::output::{print, remark};
use crate::cli::selection::Selection;
use crate::cli::show::{Colour, Table, as_json, elapsed, moment};
use crate::cli::words;

/// `signalpost dead-letters list`.
#[derive(Debug, Args)]
pub(in crate::cli) struct ListArguments {
    #[command(flatten)]
    selection: Selection,
    /// The most that are shown; 0 for all.
    #[arg(long, value_name = "COUNT", default_value = "100")]
    limit: usize,
    #[command(flatten)]
    call: Call,
}

pub(super) async fn run(arguments: ListArguments) -> anyhow::Result<Exit> {
    let connection = arguments.call.connect().await?;
    let (mut client, mut pages) = (connection.deliveries(), Pages::new());
    let limit = if arguments.limit == 0 { usize::MAX } else { arguments.limit };
    let mut found: Vec<v1::Delivery> = Vec::new();
    while found.len() <= limit {
        let next = pages.next(async |page_size, page_token| {
            let request = v1::ListDeadLettersRequest {
                organization_id: arguments.call.organization_id(),
                filter: Some(arguments.selection.filter()),
                page_size,
                page_token,
            };
            let answer = connection.answer(client.list_dead_letters(request).await)?;
            Ok((answer.dead_letters, answer.next_page_token))
        });
        let Some(rows) = next.await? else { break };
        found.extend(rows);
    }
    let more = found.len() > limit;
    found.truncate(limit);
    let exit = print(&text(&arguments, &found)?);
    if more {
        remark(&format!("There are more than these {limit}; --limit 0 shows all."));
    }
    Ok(exit)
}

fn text(arguments: &ListArguments, found: &[v1::Delivery]) -> anyhow::Result<String> {
    if arguments.call.output.is_json() {
        let lines: anyhow::Result<Vec<String>> =
            found.iter().map(|one| Ok(format!("{}\n", as_json(one)?))).collect();
        return Ok(lines?.concat());
    }
    if found.is_empty() {
        return Ok("No dead letters.\n".into());
    }
    let now = SystemClock.now();
    let headings = ["DEAD FOR", "DELIVERY", "EVENT", "TYPE", "DESTINATION", "ATTEMPTS", "REASON", "ERROR"];
    let mut table = Table::new(&headings);
    for one in found {
        table.row(row(one, now), &[(6, Colour::Bad)]);
    }
    Ok(table.text(arguments.call.output.paint()))
}

fn row(one: &v1::Delivery, now: Timestamp) -> [String; 8] {
    let since = one.finish_time.map_or_else(|| "-".into(), |at| elapsed(now.since(moment(at))));
    [
        since,
        one.delivery_id.clone(),
        one.event_id.clone(),
        one.event_type.clone(),
        one.destination_id.clone(),
        one.attempt_count.to_string(),
        words::reason(one.reason()),
        one.last_error.clone(),
    ]
}

//! `signalpost export`.

use clap::Args;

use crate::cli::client::{OrganizationArguments, Pages, ServerArguments};
use crate::cli::exit::Exit;
use crate::cli::output::print;
use crate::cli::show::as_json;
use crate::grpc::proto::v1;

use super::holes::exported;

/// `signalpost export`.
#[derive(Debug, Args)]
pub(in crate::cli) struct ExportArguments {
    #[command(flatten)]
    organization: OrganizationArguments,
    #[command(flatten)]
    server: ServerArguments,
}

/// Runs the command.
pub(in crate::cli) async fn run(arguments: ExportArguments) -> anyhow::Result<Exit> {
    let connection = arguments.server.connect().await?;
    let (mut client, mut pages) = (connection.destinations(), Pages::new());
    let mut lines = String::new();
    loop {
        let next = pages.next(async |page_size, page_token| {
            let request = v1::ListDestinationsRequest {
                organization_id: arguments.organization.id(),
                page_size,
                page_token,
                ..v1::ListDestinationsRequest::default()
            };
            let answer = connection.answer(client.list_destinations(request).await)?;
            Ok((answer.destinations, answer.next_page_token))
        });
        let Some(rows) = next.await? else { break };
        for row in rows {
            lines.push_str(&as_json(&exported(row))?);
            lines.push('\n');
        }
    }
    // All or nothing: an export that broke off half-way would look like a whole one.
    Ok(print(&lines))
}

//! `signalpost dead-letters delete`.

use clap::Args;

use crate::grpc::proto::v1;
use crate::grpc::proto::v1::delete_dead_letters_request::Selection;

use super::{Call, Chosen};
use crate::cli::client::Failure;
use crate::cli::exit::Exit;
use crate::cli::output::print;

/// `signalpost dead-letters delete`.
#[derive(Debug, Args)]
pub(in crate::cli) struct DeleteArguments {
    #[command(flatten)]
    chosen: Chosen,
    /// Count them, and delete nothing.
    #[arg(long)]
    dry_run: bool,
    /// Delete. Without it nothing is deleted, and how many it would be is told.
    #[arg(long, conflicts_with = "dry_run")]
    yes: bool,
    #[command(flatten)]
    call: Call,
}

pub(super) async fn run(arguments: DeleteArguments) -> anyhow::Result<Exit> {
    arguments.chosen.check()?;
    let connection = arguments.call.connect().await?;
    let chosen = &arguments.chosen;
    let selection = match (chosen.ids.is_empty(), chosen.all) {
        (false, _) => Selection::Ids(v1::DeliveryIds { delivery_ids: chosen.ids.clone() }),
        (true, true) => Selection::All(true),
        (true, false) => Selection::Filter(chosen.selection.filter()),
    };
    let request = v1::DeleteDeadLettersRequest {
        organization_id: arguments.call.organization_id(),
        validate_only: !arguments.yes,
        selection: Some(selection),
    };
    let answer = connection.answer(connection.deliveries().delete_dead_letters(request).await)?;
    let (count, done) = (answer.deleted_count, arguments.yes);
    print(&match (arguments.call.output.is_json(), done) {
        (true, _) => format!("{}\n", serde_json::json!({"count": count, "deleted": done})),
        (false, true) => format!("Deleted {count} dead letters.\n"),
        (false, false) => format!("Would delete {count} dead letters.\n"),
    });
    if done || arguments.dry_run {
        return Ok(Exit::Success);
    }
    Err(Failure::usage("nothing was deleted; add --yes to delete them, or --dry-run to only count").into())
}

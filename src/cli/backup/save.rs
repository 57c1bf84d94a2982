//! `signalpost backup`.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use crate::app::Mistake;
use crate::cli::client::{Connection, Failure, ServerArguments};
use crate::cli::exit::Exit;
use crate::cli::output::print;
use crate::cli::show::{OutputArguments, Progress};
use crate::grpc::proto::v1;
use crate::grpc::proto::v1::back_up_store_response::Part;
use crate::grpc::proto::v1::store_admin_client::StoreAdminClient;
use crate::shutdown::Signals;

use super::file::Writing;

/// `signalpost backup`.
#[derive(Debug, Args)]
pub(in crate::cli) struct BackupArguments {
    /// The file to write; it must not be there yet.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    server: ServerArguments,
    #[command(flatten)]
    output: OutputArguments,
}

struct Done {
    header: v1::BackupHeader,
    summary: v1::BackupSummary,
    bytes: u64,
    sha256: String,
}

/// Runs the command.
pub(in crate::cli) async fn run(arguments: BackupArguments) -> anyhow::Result<Exit> {
    if arguments.file.exists() {
        let mistake = format!("{} is there already; give another name", arguments.file.display());
        return Err(Failure::usage(mistake).into());
    }
    let mut signals = Signals::of_process()?;
    let connection = arguments.server.connect().await?;
    // What was written so far goes with the future that is dropped.
    let done = tokio::select! {
        done = save(&connection, &arguments) => done?,
        _ = signals.next() => return Ok(Exit::Interrupted),
    };
    Ok(print(&text(&arguments, &done)))
}

async fn save(connection: &Connection, arguments: &BackupArguments) -> anyhow::Result<Done> {
    let file = &arguments.file;
    let unwritten = || format!("{} is not written, and nothing is left of it", file.display());
    let mut client = StoreAdminClient::new(connection.streams()).max_decoding_message_size(usize::MAX);
    let answer = client.back_up_store(v1::BackUpStoreRequest::default()).await;
    let mut parts = connection.answer(answer)?;
    let mut writing = Writing::begin(file)
        .map_err(|error| Mistake::of_path(format!("{}; check the path", unwritten()), error))?;
    let (mut header, mut progress, mut entries) = (None, Progress::of(0, "entries"), 0);
    loop {
        let part =
            parts.message().await.map_err(|status| connection.failed(status)).with_context(unwritten)?;
        let part = part.context("the server ended the backup without its summary").with_context(unwritten)?;
        writing.frame(&part).with_context(unwritten)?;
        match part.part {
            Some(Part::Header(first)) => header = Some(first),
            Some(Part::Entries(some)) => {
                entries += some.entries.len() as u64;
                progress.at(entries, entries);
            }
            Some(Part::Summary(summary)) => {
                progress.end();
                let bytes = writing.bytes;
                let sha256 = writing.finish().with_context(unwritten)?;
                let header = header.context("the server sent no header")?;
                return Ok(Done { header, summary, bytes, sha256 });
            }
            None => {}
        }
    }
}

fn text(arguments: &BackupArguments, done: &Done) -> String {
    let (file, entries) = (arguments.file.display().to_string(), done.summary.entry_count);
    let Done { header, bytes, sha256, .. } = done;
    if arguments.output.is_json() {
        let line = serde_json::json!({
            "file": file, "bytes": bytes, "entries": entries, "sha256": sha256,
            "sealedSecrets": header.sealed_secret_count, "sealingKeyIds": header.sealing_key_ids,
        });
        return format!("{line}\n");
    }
    let mut text = format!("{file}: {entries} entries, {bytes} bytes, SHA-256 of the content {sha256}\n");
    text.push_str(&keys(header));
    text
}

/// What is to be kept besides.
pub(super) fn keys(header: &v1::BackupHeader) -> String {
    match header.sealing_key_ids.as_slice() {
        [] => "It has no sealed secrets.\n".to_owned(),
        ids => format!(
            "Its {} secrets are sealed under {}, which is not inside: keep the key file \
             (secrets.key_file, or signalpost.key in the store's folder) elsewhere.\n",
            header.sealed_secret_count,
            ids.join(", ")
        ),
    }
}

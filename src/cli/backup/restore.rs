//! `signalpost restore`: a store from a backup, whole or not at all.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::client::Failure;
use crate::cli::exit::Exit;
use crate::cli::output::{complain, print};
use crate::cli::show::moment;
use crate::clock::{Clock, SystemClock};
use crate::domain::audit::AuditEntry;
use crate::domain::id::AuditEntryId;
use crate::domain::time::Timestamp;
use crate::grpc::proto::v1;
use crate::grpc::proto::v1::back_up_store_response::Part;
use crate::store::StoreError;
use crate::store::backup::{BackupEntry, BackupHeader};
use crate::store::sled::Restore;

use super::file::{Damage, Reading};
use super::save::keys;

/// `signalpost restore`.
#[derive(Debug, Args)]
pub(in crate::cli) struct RestoreArguments {
    /// The backup.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The store's folder (store.path), which must be empty or not there.
    #[arg(value_name = "FOLDER", required_unless_present = "check")]
    folder: Option<PathBuf>,
    /// Read it to its end and check it, and write nothing.
    #[arg(long, conflicts_with = "folder")]
    check: bool,
}

/// Runs the command.
pub(in crate::cli) fn run(arguments: &RestoreArguments) -> Exit {
    match restore(&arguments.file, arguments.folder.as_deref()) {
        Ok((header, entries)) => print(&text(arguments, &header, entries)),
        Err(Failing::Backup(Damage::File(error))) => {
            mistake(arguments, &format!("can't be read: {error}; check the path"))
        }
        Err(Failing::Backup(damage)) => mistake(arguments, &damage.to_string()),
        Err(Failing::Store(error @ StoreError::CannotOpen(_))) => complain(&error, Exit::Usage),
        Err(Failing::Store(error)) => {
            let text = format!("the backup is not restored, and nothing is left of it: {error}");
            complain(&std::io::Error::other(text), Exit::Failure)
        }
    }
}

fn mistake(arguments: &RestoreArguments, what: &str) -> Exit {
    complain(&Failure::usage(format!("{}: {what}", arguments.file.display())), Exit::Usage)
}

enum Failing {
    Backup(Damage),
    Store(StoreError),
}

impl From<Damage> for Failing {
    fn from(damage: Damage) -> Self {
        Self::Backup(damage)
    }
}

impl From<StoreError> for Failing {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Reads the backup to its end; writes it into the folder, if there is one.
fn restore(file: &Path, folder: Option<&Path>) -> Result<(v1::BackupHeader, i64), Failing> {
    let mut reading = Reading::open(file)?;
    let header = reading.header()?;
    let mut restore = folder.map(|folder| Restore::begin(folder, &of(&header))).transpose()?;
    loop {
        match reading.next()? {
            Part::Entries(entries) => {
                if let Some(restore) = &mut restore {
                    let entry = |one: v1::BackupEntry| BackupEntry {
                        key: one.key.to_vec(),
                        value: one.value.map(|value| value.to_vec()),
                    };
                    restore.write(entries.entries.into_iter().map(entry).collect())?;
                }
            }
            Part::Summary(summary) => {
                if let Some(mut restore) = restore {
                    restore.record_audit(&noted(&header, summary.entry_count))?;
                    restore.finish()?;
                }
                return Ok((header, summary.entry_count));
            }
            Part::Header(_) => {}
        }
    }
}

/// What the restored store's audit log says of it: from here on it may lack what another store has.
fn noted(header: &v1::BackupHeader, entries: i64) -> AuditEntry {
    let (at, taken) = (SystemClock.now(), of(header).begun_at.to_rfc3339_seconds());
    let id = AuditEntryId::make(at, std::array::from_fn(|_| fastrand::u8(..)));
    let text =
        format!("the store was restored from a backup of {taken}, by version {}", header.server_version);
    AuditEntry::of_server(id, at, text, u64::try_from(entries).unwrap_or(0))
}

fn of(header: &v1::BackupHeader) -> BackupHeader {
    BackupHeader {
        layout: u32::try_from(header.layout).unwrap_or(u32::MAX),
        begun_at: header.start_time.map_or(Timestamp::from_millis(0), moment),
        sealing_keys: header.sealing_key_ids.clone(),
        sealed_secrets: usize::try_from(header.sealed_secret_count).unwrap_or(0),
    }
}

fn text(arguments: &RestoreArguments, header: &v1::BackupHeader, entries: i64) -> String {
    let (version, at) = (&header.server_version, of(header).begun_at.to_rfc3339_seconds());
    let what = format!("{}, of {at}, by version {version}", arguments.file.display());
    let done = match &arguments.folder {
        Some(folder) => format!("Restored {entries} entries into {}, from {what}.\n", folder.display()),
        None => format!("{what}: whole, {entries} entries.\n"),
    };
    format!("{done}{}", keys(header))
}

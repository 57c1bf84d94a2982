//! `signalpost backup` and `restore`: a consistent copy of a running store in one file, and a store from it.

mod file;
mod restore;
mod save;

pub(super) use restore::{RestoreArguments, run as restore};
pub(super) use save::{BackupArguments, run as save};

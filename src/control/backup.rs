//! Backups of the store, for operators.

use super::{Control, Error};
use crate::auth::{Caller, Role};
use crate::store::backup::Backup;
pub use crate::store::backup::{BackupEntry, BackupHeader, BackupPart};

/// A backup that is being made. Dropping it ends it.
pub struct RunningBackup(Box<dyn Backup>);

impl RunningBackup {
    /// The next part; `None` after the end.
    ///
    /// # Errors
    /// [`Error::Busy`] where it was read too slowly, and what the store answers.
    pub async fn next(&mut self) -> Result<Option<BackupPart>, Error> {
        Ok(self.0.next().await?)
    }
}

impl Control {
    /// Begins a backup of all that is stored; `None` where the store is a database that has backups of its own.
    ///
    /// # Errors
    /// [`Error::Denied`], and [`Error::Busy`] where one is being made.
    pub fn back_up(&self, caller: &Caller) -> Result<Option<RunningBackup>, Error> {
        caller.require(Role::Operator, None)?;
        tracing::info!(caller = caller.subject(), "a backup begins");
        Ok(self.store.back_up().transpose()?.map(RunningBackup))
    }
}

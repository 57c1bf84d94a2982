//! Backups of the store, for operators.

use super::audit::{Act, Action};
use super::{Control, Error};
use crate::auth::{Caller, Role};
use crate::store::StoreError;
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
    /// Begins a backup of all that is stored; `None` where the store is a database that has backups of its own. Who has
    /// taken one is on the record before anything of it is handed out.
    ///
    /// # Errors
    /// [`Error::Denied`], and [`Error::Busy`] where one is being made.
    pub async fn back_up(&self, caller: &Caller) -> Result<Option<RunningBackup>, Error> {
        caller.require(Role::Operator, None)?;
        let Some(backup) = self.store.back_up().transpose()? else { return Ok(None) };
        tracing::info!(caller = caller.subject(), "a backup begins");
        let entry = self.entry_of(Act::new(caller, Action::BackUpStore))?;
        match self.store.record_audit(vec![entry]).await {
            // A full disk is when a backup is needed; the log of the process has to do.
            Err(StoreError::Full { .. }) => {
                tracing::warn!(
                    caller = caller.subject(),
                    "the backup is not in the audit log: the disk is full"
                );
            }
            recorded => recorded?,
        }
        Ok(Some(RunningBackup(backup)))
    }
}

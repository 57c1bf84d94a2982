//! A backup: a consistent copy of all that is stored, as keys and values, made while the store works.
//!
//! The parts have an order: later entries replace earlier ones of the same key.

use async_trait::async_trait;

use super::StoreError;
use crate::domain::time::Timestamp;

/// What a backup is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupHeader {
    /// The layout of the entries.
    pub layout: u32,
    /// When it was begun: everything acknowledged before is inside.
    pub begun_at: Timestamp,
    /// The ids of the keys under which its secrets are sealed.
    pub sealing_keys: Vec<String>,
    /// How many secrets are sealed.
    pub sealed_secrets: usize,
}

/// A stored value, or that there is none any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupEntry {
    /// The key.
    pub key: Vec<u8>,
    /// The value; `None` where it was removed after it had been copied.
    pub value: Option<Vec<u8>>,
}

/// A part of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackupPart {
    /// Comes first, once.
    Header(BackupHeader),
    /// Some of what is stored.
    Entries(Vec<BackupEntry>),
    /// Comes last, once: how many entries there were, and as of when they are consistent.
    End {
        /// How many entries the parts had.
        entries: u64,
        /// As of when.
        as_of: Timestamp,
    },
}

/// A backup that is being made. Dropping it ends it.
#[async_trait]
pub trait Backup: Send {
    /// The next part; `None` after the end.
    ///
    /// # Errors
    /// [`StoreError::Busy`] where it was read so slowly that the changes meanwhile no longer fit into the memory set
    /// aside, [`StoreError::Unavailable`]. The backup is of no use then.
    async fn next(&mut self) -> Result<Option<BackupPart>, StoreError>;
}

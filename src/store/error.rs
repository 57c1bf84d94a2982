//! Why the store did not do what it was asked.

use crate::domain::id::ReplayId;

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Too much waits to be written; try again soon.
    #[error("the store's write queue is full")]
    Busy,
    /// The disk is full or below the free-space watermark.
    #[error("the store's disk has {free_bytes} bytes free; {needed_bytes} must stay free")]
    Full {
        /// What is free.
        free_bytes: u64,
        /// What must stay free.
        needed_bytes: u64,
    },
    /// There is no such thing.
    #[error("not found")]
    NotFound,
    /// The organization is being erased.
    #[error("the organization is being erased")]
    Erasing,
    /// There is one already.
    #[error("exists already")]
    AlreadyExists,
    /// It was changed since it was read.
    #[error("changed meanwhile: revision {found}, not {expected}")]
    Stale {
        /// What the caller had read.
        expected: u64,
        /// What is there.
        found: u64,
    },
    /// The organization has as many as its plan allows.
    #[error("the limit of {limit} is reached: {usage} exist")]
    LimitReached {
        /// The plan's limit.
        limit: u32,
        /// How many there are.
        usage: u32,
    },
    /// Another replay that runs covers the same destination.
    #[error("the replay {0} covers the same destination")]
    ReplayRunning(ReplayId),
    /// The events were routed by an older version of the directory; route them again.
    #[error("organizations or destinations have changed meanwhile")]
    RoutedByOldDirectory,
    /// Another replica has the lane now; nothing was written.
    #[error("another replica has taken the lane over")]
    LeaseLost,
    /// A stored record can't be read; it is never served.
    #[error("a stored record is damaged: {0}")]
    Corrupt(String),
    /// The store could not be opened, for a reason that the operator can mend.
    #[error("{0}")]
    CannotOpen(String),
    /// The store does not work (any more); the process should end.
    #[error("the store is not available: {0}")]
    Unavailable(String),
}

//! What goes wrong between here and the database, and what it means for the caller.

use std::fmt;

use deadpool_postgres::PoolError;
use tokio_postgres::error::SqlState;

use crate::store::StoreError;

/// How often a transaction is tried that another one got in the way of.
pub(super) const TRIES: usize = 6;

/// Why a piece of work with the database was not done.
pub(super) enum Fault {
    /// What the store has to say to its caller.
    Store(StoreError),
    /// The database, or the way to it.
    Database(tokio_postgres::Error),
    /// No answer in time; the connection is given up.
    Silent,
    /// There is no connection.
    NoConnection(String),
}

/// For logs: what the database says of the rows concerned (its *detail*) may be anybody's data, and is left out.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(error) => error.fmt(f),
            Self::Database(error) => f.write_str(&explain(error)),
            Self::Silent => f.write_str("the database does not answer"),
            Self::NoConnection(problem) => write!(f, "the database: {problem}"),
        }
    }
}

/// The same: what is written with `?` by mistake shows no more.
impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<tokio_postgres::Error> for Fault {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Database(error)
    }
}

impl From<PoolError> for Fault {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Backend(error) => Self::Database(error),
            PoolError::Timeout(_) => Self::NoConnection("all connections are in use".into()),
            other => Self::NoConnection(other.to_string()),
        }
    }
}

impl Fault {
    /// Whether another transaction was in the way, so that the same work may succeed if it is done again.
    pub(super) fn is_conflict(&self) -> bool {
        let Some(code) = self.code() else { return false };
        [SqlState::T_R_SERIALIZATION_FAILURE, SqlState::T_R_DEADLOCK_DETECTED, SqlState::UNIQUE_VIOLATION]
            .contains(code)
    }

    fn code(&self) -> Option<&SqlState> {
        match self {
            Self::Database(error) => error.code(),
            Self::Store(_) | Self::Silent | Self::NoConnection(_) => None,
        }
    }
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Store(error) => error,
            Fault::Database(error) if error.code() == Some(&SqlState::DISK_FULL) => {
                StoreError::Full { free_bytes: 0, needed_bytes: 1 }
            }
            other => StoreError::Unavailable(other.to_string()),
        }
    }
}

/// The database's own words, which the client's error leaves to its source.
pub(super) fn explain(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(error) => format!("the database: {} ({})", error.message(), error.code().code()),
        None => match std::error::Error::source(error) {
            Some(source) => format!("the database: {error}: {source}"),
            None => format!("the database: {error}"),
        },
    }
}

/// Does the work again where another transaction was in its way.
macro_rules! again {
    ($work:expr) => {{
        let mut tries = 0;
        loop {
            tries += 1;
            match $work.await {
                Err(fault) if fault.is_conflict() && tries < $crate::store::postgres::fault::TRIES => {
                    tokio::time::sleep(std::time::Duration::from_millis(fastrand::u64(1..20))).await;
                }
                done => break done,
            }
        }
    }};
}
pub(super) use again;

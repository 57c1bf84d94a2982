//! What the exit codes mean.

use std::process::ExitCode;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// It did what it was asked to do; a server was stopped in order.
    Success = 0,
    /// It failed, or a server stopped because of a failure.
    Failure = 1,
    /// The arguments or the configuration have mistakes; nothing was started.
    Usage = 2,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

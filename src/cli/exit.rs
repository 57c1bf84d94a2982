//! What the exit codes mean. Help, manual and documents have this table from here.

use std::process::ExitCode;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// It did what it was asked to do; a server was stopped in order.
    Success = 0,
    /// It failed, or what was asked about is not well.
    Failure = 1,
    /// Arguments, files, settings or input have mistakes; nothing was begun.
    Usage = 2,
    /// The server can't be reached, or did not answer in time.
    Unreachable = 3,
    /// The server wants other credentials.
    Denied = 4,
    /// It was interrupted before it was done (128 + SIGINT, as shells have it).
    Interrupted = 130,
}

impl Exit {
    /// All of them, in their order.
    pub const ALL: [Exit; 6] =
        [Exit::Success, Exit::Failure, Exit::Usage, Exit::Unreachable, Exit::Denied, Exit::Interrupted];

    /// What it means, for people.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Exit::Success => "done; a server was stopped in order",
            Exit::Failure => "failed, refused by the server, or not healthy",
            Exit::Usage => "a mistake in arguments, files, settings or input; nothing was begun",
            Exit::Unreachable => "the server can't be reached, or did not answer in time",
            Exit::Denied => "the server wants other credentials",
            Exit::Interrupted => "interrupted by Ctrl-C before it was done",
        }
    }

    /// The table for the end of `--help`.
    #[must_use]
    pub fn table() -> String {
        let rows = Self::ALL.map(|exit| format!("  {:<5}{}", exit as u8, exit.meaning()));
        format!("Exit codes:\n{}", rows.join("\n"))
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

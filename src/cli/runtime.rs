//! The runtime of a command: one thread; the delivery threads and the store have their own.

use super::client::Failure;
use super::exit::Exit;
use super::output::complain;
use crate::app::Mistake;

/// Runs a command to its end and complains about its error, with all its causes.
pub(super) fn block_on(command: impl Future<Output = anyhow::Result<Exit>>) -> Exit {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(command)) {
        Ok(exit) => exit,
        Err(error) => complain_of(&error),
    }
}

/// Complains about an error, with the exit code that its kind has.
pub(super) fn complain_of(error: &anyhow::Error) -> Exit {
    let exit = match error.downcast_ref::<Failure>() {
        Some(failure) => failure.exit(),
        None if error.is::<Mistake>() => Exit::Usage,
        None => Exit::Failure,
    };
    complain(error.as_ref(), exit)
}

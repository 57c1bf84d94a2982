//! What commands say to people: results to standard output, complaints to standard error.

use std::error::Error;
use std::io::{self, Write};

use super::exit::Exit;

/// Writes a result. A reader that has gone away (`| head`) is no failure.
pub fn print(text: &str) -> Exit {
    match write_all(io::stdout().lock(), text) {
        Ok(()) => Exit::Success,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Success,
        Err(error) => complain(&error, Exit::Failure),
    }
}

/// Writes a part of a result that goes on, and says whether anybody still reads.
///
/// # Errors
/// Why it can't be written, where somebody would read.
pub fn try_print(text: &str) -> io::Result<bool> {
    match write_all(io::stdout().lock(), text) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error),
    }
}

/// Says on standard error what goes on, for those who wait.
pub fn remark(text: &str) {
    // Where standard error is closed, nobody waits to be told.
    write_all(io::stderr().lock(), &format!("{text}\n")).ok();
}

/// Writes an error with its causes, and hands back the exit code that goes with it.
pub fn complain(error: &dyn Error, exit: Exit) -> Exit {
    let mut text = format!("signalpost: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!("\n  because: {error}"));
        cause = error.source();
    }
    text.push('\n');
    // Where standard error is closed as well, nobody is left to tell; the exit code still does.
    match write_all(io::stderr().lock(), &text) {
        Ok(()) | Err(_) => exit,
    }
}

fn write_all(mut stream: impl Write, text: &str) -> io::Result<()> {
    stream.write_all(text.as_bytes())?;
    stream.flush()
}

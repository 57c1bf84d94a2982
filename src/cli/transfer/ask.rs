//! Secrets that an export does not have, asked for at the terminal.

use std::io::{IsTerminal, stderr, stdin};
use std::path::Path;

use crate::cli::client::Failure;
use crate::cli::output::remark;

use super::holes::Secrets;

/// Whether somebody sits at a terminal who can be asked, and who is not typing the destinations themselves.
pub(super) fn is_possible(file: &Path) -> bool {
    file.as_os_str() != "-" && stdin().is_terminal() && stderr().is_terminal()
}

/// Asks for each of these; what is answered with nothing stays open. What is typed is not shown.
pub(super) fn for_secrets(of: &str, open: &[String], secrets: &mut Secrets) -> Result<(), Failure> {
    if !open.is_empty() {
        remark(&format!("{of}: exports have no secrets; type them, or nothing to stop here."));
    }
    for path in open {
        let typed = rpassword::prompt_password(format!("  {path}: "));
        let typed = typed.map_err(|error| {
            Failure::usage(format!("the terminal can't be read: {error}; give a file with --secrets"))
        })?;
        if !typed.is_empty() {
            secrets.insert(path.clone(), typed);
        }
    }
    Ok(())
}

//! What a backup or a restore builds beside its place, and what one that was killed left there.
//!
//! Whoever builds holds a lock on it, which the system takes away together with the process. So what nobody has
//! locked is nobody's, and the next one to the same place removes it.

use std::fs::{self, File};
use std::io;
use std::path::Path;

/// Holds a file or a folder for as long as this lives.
#[derive(Debug)]
pub struct Held {
    /// Where the file system has no locks, nothing is held, and nothing will be removed either.
    _lock: Option<File>,
}

impl Held {
    /// Holds what is being built at this path.
    ///
    /// # Errors
    /// It can't be opened.
    pub fn at(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let locked = file.try_lock().is_ok();
        Ok(Self { _lock: locked.then_some(file) })
    }
}

/// Removes what was left in a folder under a name with this beginning and this end, and is held by nobody.
pub fn sweep(folder: &Path, beginning: &str, end: &str) {
    // A folder that can't be read is found out by whoever writes into it.
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_ours =
            name.len() > beginning.len() + end.len() && name.starts_with(beginning) && name.ends_with(end);
        if is_ours && let Err(error) = remove(&entry.path()) {
            tracing::warn!(path = %entry.path().display(), %error, "what was left unfinished can't be removed");
        }
    }
}

/// Removes it, unless somebody holds it.
fn remove(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    if file.try_lock().is_err() {
        return Ok(());
    }
    if file.metadata()?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_holds_is_removed_and_what_somebody_holds_or_has_another_name_stays() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in [".b.left.partial", ".b.held.partial", ".b.partial", ".c.left.partial", "b"] {
            fs::write(at(name), "x").unwrap();
        }
        fs::create_dir(at(".b.folder.partial")).unwrap();
        fs::write(at(".b.folder.partial").join("inner"), "x").unwrap();
        let held = Held::at(&at(".b.held.partial")).unwrap();
        sweep(folder.path(), ".b.", ".partial");
        let left = || {
            let names = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
            let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
            names.sort();
            names
        };
        assert_eq!(left(), [".b.held.partial", ".b.partial", ".c.left.partial", "b"]);
        drop(held);
        sweep(folder.path(), ".b.", ".partial");
        assert_eq!(left(), [".b.partial", ".c.left.partial", "b"]);
    }
}

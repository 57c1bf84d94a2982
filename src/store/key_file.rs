//! Files with sealing keys: the operator's own, and the one that a store makes for itself.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;
use zeroize::Zeroizing;

use super::keyring::{Keyring, SealingKey};

/// The file beside the data in which a store keeps a key of its own, where the operator gave none.
pub const OWN_KEY_FILE: &str = "signalpost.key";
/// Room for hundreds of keys with their remarks.
const FILE_MAX_BYTES: usize = 64 * 1024;
/// Others of this machine may read.
const OTHERS_MAY_READ: u32 = 0o004;

/// Reads the keys of a file.
///
/// # Errors
/// A sentence that names the file and says what is wrong; it shows nothing of a key.
pub fn read(path: &Path) -> Result<Keyring, String> {
    let text = read_text(path).map_err(|error| unreadable(path, &error))?;
    Keyring::parse(&text).map_err(|problem| format!("the key file {}: {problem}", path.display()))
}

/// Reads the keys of a file, `None` where there is no such file.
///
/// # Errors
/// As [`read`].
pub fn read_if_there(path: &Path) -> Result<Option<Keyring>, String> {
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Ok(_) | Err(_) => read(path).map(Some),
    }
}

/// Writes a new key into a new file that only this user may read, and makes it durable.
///
/// # Errors
/// Where there is such a file already, or it can't be written.
pub fn create(path: &Path, key: &SealingKey) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(as_lines(key).as_bytes())?;
    file.sync_all()?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// A key as lines of a key file, with its id as a remark.
#[must_use]
pub fn as_lines(key: &SealingKey) -> Zeroizing<String> {
    let mut lines = Zeroizing::new(String::with_capacity(256));
    lines.push_str(&format!("# Signalpost sealing key {}\n", key.id()));
    lines.push_str(&key.to_text());
    lines.push('\n');
    lines
}

fn read_text(path: &Path) -> io::Result<Zeroizing<String>> {
    // Without `NONBLOCK` a named pipe would hold the thread until somebody writes.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    if metadata.mode() & OTHERS_MAY_READ != 0 {
        tracing::warn!(file = %path.display(), "every user of this machine may read the sealing keys");
    }
    let mut text = Zeroizing::new(String::with_capacity(FILE_MAX_BYTES + 32));
    let most = u64::try_from(FILE_MAX_BYTES).unwrap_or(u64::MAX);
    file.take(most.saturating_add(1)).read_to_string(&mut text)?;
    if text.len() > FILE_MAX_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is longer than 64 KiB"));
    }
    Ok(text)
}

fn unreadable(path: &Path, error: &io::Error) -> String {
    format!("the key file {} can't be read: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_new_key_file_is_for_its_owner_alone_and_replaces_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        let key = SealingKey::generate().unwrap();
        create(&path, &key).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(read(&path).unwrap().active(), key.id());
        let again = create(&path, &SealingKey::generate().unwrap()).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(read(&path).unwrap().active(), key.id());
    }

    #[test]
    fn a_file_that_holds_no_keys_is_named_and_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        let problem = || read(&path).unwrap_err();
        assert!(read_if_there(&path).unwrap().is_none());
        assert!(problem().contains("can't be read") && problem().contains("keys"));
        for content in ["", "planted\n", "signalpost-key-planted"] {
            fs::write(&path, content).unwrap();
            assert!(!problem().contains("planted") && problem().contains("line") != content.is_empty());
            assert!(read_if_there(&path).is_err());
        }
        fs::write(&path, "#".repeat(FILE_MAX_BYTES + 1)).unwrap();
        assert!(problem().contains("64 KiB"));
        fs::remove_file(&path).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert!(problem().contains("regular file"));
    }
}

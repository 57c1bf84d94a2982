//! Reads secrets from where they are: the value itself, the environment, a file.
//!
//! Callers choose the source, so the operator says which variables and folders may be named at all;
//! nothing is allowed by default. A secret that is not there is an error, never an empty key. Texts name
//! the variable or the file and never what is in it.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use zeroize::Zeroizing;

use crate::domain::secret::{SECRET_MAX_BYTES, Secret, SecretSource};

/// Why a secret can't be had: a sentence for the delivery's record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SecretProblem(pub String);

/// Reads secrets, at each use, from the sources that the operator allows.
#[derive(Debug, Clone, Default)]
pub struct SecretReader {
    allowed_environment: Vec<String>,
    allowed_folders: Vec<PathBuf>,
}

impl SecretReader {
    /// A reader for exactly these environment variables, and for the files below these folders.
    #[must_use]
    pub fn new(allowed_environment: Vec<String>, allowed_folders: Vec<PathBuf>) -> Self {
        Self { allowed_environment, allowed_folders }
    }

    /// Whether the operator allows this source; asked when a destination is saved.
    ///
    /// A file that is not there yet may be named; the place decides.
    ///
    /// # Errors
    /// A sentence that says what would be right.
    pub fn check_allowed(&self, source: &SecretSource) -> Result<(), String> {
        match source {
            SecretSource::Value(_) => Ok(()),
            SecretSource::EnvironmentVariable(name) => self.check_variable(name),
            SecretSource::File(path) => {
                self.check_place(path)?;
                match path.canonicalize() {
                    Ok(target) => self.check_target(path, &target).map(drop),
                    Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
                    Err(error) => Err(unreadable(path, &error)),
                }
            }
        }
    }

    /// The secret as it is now.
    ///
    /// Files are small and local, so they are read in place without a thread of their own.
    ///
    /// # Errors
    /// [`SecretProblem`] where it is not allowed, not there, empty, too long or not UTF-8.
    pub fn read(&self, source: &SecretSource) -> Result<Secret, SecretProblem> {
        match source {
            SecretSource::Value(secret) => check_text("the secret", secret.expose()).map(|()| secret.clone()),
            SecretSource::EnvironmentVariable(name) => self.read_variable(name),
            SecretSource::File(path) => self.read_file(path),
        }
        .map_err(SecretProblem)
    }

    fn check_variable(&self, name: &str) -> Result<(), String> {
        if self.allowed_environment.iter().any(|allowed| allowed == name) {
            return Ok(());
        }
        Err(format!("the environment variable {name} is not one that the operator allows for secrets"))
    }

    #[expect(clippy::disallowed_methods, reason = "secrets are the one other use of the environment")]
    fn read_variable(&self, name: &str) -> Result<Secret, String> {
        self.check_variable(name)?;
        let what = format!("the environment variable {name}");
        match std::env::var(name) {
            Ok(value) => {
                let secret = Secret::new(value);
                check_text(&what, secret.expose())?;
                Ok(secret)
            }
            Err(std::env::VarError::NotPresent) => Err(format!("{what} is not set")),
            Err(std::env::VarError::NotUnicode(_)) => Err(format!("{what} is not UTF-8")),
        }
    }

    fn read_file(&self, path: &Path) -> Result<Secret, String> {
        self.check_place(path)?;
        let bytes = match self.read_checked(path) {
            // Kubernetes may have swapped the folder between the look and the opening.
            Err(Unread::Disk(_)) => self.read_checked(path),
            read => read,
        };
        let bytes = bytes.map_err(|problem| match problem {
            Unread::Refused(problem) => problem,
            Unread::Disk(error) => unreadable(path, &error),
        })?;
        let what = format!("the file {}", path.display());
        let text = std::str::from_utf8(&bytes).map_err(|_| format!("{what} is not UTF-8"))?;
        // Editors and `echo` end a file with a newline that nobody means as a part of the secret.
        let text = text.strip_suffix('\n').map_or(text, |text| text.strip_suffix('\r').unwrap_or(text));
        check_text(&what, text)?;
        Ok(Secret::new(text))
    }

    fn read_checked(&self, path: &Path) -> Result<Zeroizing<Vec<u8>>, Unread> {
        let target = path.canonicalize().map_err(Unread::Disk)?;
        let folder = self.check_target(path, &target).map_err(Unread::Refused)?;
        read_start(open(&folder, &target).map_err(Unread::Disk)?).map_err(Unread::Disk)
    }

    /// Judges the path as written. This comes before any look at the disk, so that nobody can find out
    /// which files there are elsewhere.
    fn check_place(&self, path: &Path) -> Result<(), String> {
        let is_plain = path.is_absolute()
            && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        let is_below = |folder: &Path| path != folder && path.starts_with(folder);
        let is_allowed = self
            .allowed_folders
            .iter()
            .any(|folder| is_below(folder) || folder.canonicalize().is_ok_and(|folder| is_below(&folder)));
        if is_plain && is_allowed { Ok(()) } else { Err(not_allowed(path)) }
    }

    /// Judges where the path leads, and answers the folder, without links, that it is in. Links within an
    /// allowed folder are fine: that is how Kubernetes swaps mounted secrets.
    fn check_target(&self, path: &Path, target: &Path) -> Result<PathBuf, String> {
        let folders = self.allowed_folders.iter().filter_map(|folder| folder.canonicalize().ok());
        let mut around = folders.filter(|folder| target.starts_with(folder));
        around.next().ok_or_else(|| not_allowed(path))
    }
}

/// Why a file was not read.
enum Unread {
    /// The operator does not allow it.
    Refused(String),
    /// The system says no.
    Disk(io::Error),
}

/// Reads a little more than a secret may have, so that a longer one is noticed.
fn read_start(file: File) -> io::Result<Zeroizing<Vec<u8>>> {
    // The text, two bytes of line end, and one that shows that there is more. The buffer never grows, so
    // no copy of the secret is left behind.
    let most = SECRET_MAX_BYTES + 3;
    let mut bytes = Zeroizing::new(Vec::with_capacity(most + 32));
    file.take(u64::try_from(most).unwrap_or(u64::MAX)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Opens a regular file below a folder. The kernel follows no link on the way and does not leave the folder, so
/// nothing that was put in place after the check leads elsewhere. Without `NONBLOCK` a named pipe would hold
/// the thread until somebody writes.
fn open(folder: &Path, target: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let below = target.strip_prefix(folder).unwrap_or(target);
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let root = rustix::fs::open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let file = match openat2(&root, below, flags | OFlags::RDONLY, Mode::empty(), resolve) {
        Ok(file) => File::from(file),
        // Kernels before 5.6 and some sandboxes have no such call. What is left is that the last part is no
        // link.
        Err(Errno::NOSYS | Errno::PERM) => {
            OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(target)?
        }
        Err(error) => return Err(error.into()),
    };
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(ErrorKind::InvalidInput, "it is not a regular file"))
    }
}

fn check_text(what: &str, text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err(format!("{what} is empty"));
    }
    if text.len() > SECRET_MAX_BYTES {
        return Err(format!("{what} is longer than {SECRET_MAX_BYTES} bytes"));
    }
    Ok(())
}

fn not_allowed(path: &Path) -> String {
    format!("the file {} is not below a folder that the operator allows for secrets", path.display())
}

fn unreadable(path: &Path, error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => format!("the file {} does not exist", path.display()),
        _ => format!("the file {} can't be read: {error}", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// An allowed folder and a forbidden one beside it, which is gone after the test.
    fn folders() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let (allowed, outside) = (root.path().join("secrets"), root.path().join("outside"));
        fs::create_dir(&allowed).unwrap();
        fs::create_dir(&outside).unwrap();
        (root, allowed, outside)
    }

    fn reader(folder: &Path) -> SecretReader {
        SecretReader::new(vec!["PATH".into(), "SIGNALPOST_NOT_SET".into()], vec![folder.to_owned()])
    }

    fn problem(reader: &SecretReader, path: &Path) -> String {
        reader.read(&SecretSource::File(path.to_owned())).unwrap_err().to_string()
    }

    #[test]
    fn a_file_is_read_without_its_last_line_end() {
        let (_root, folder, _) = folders();
        for (content, secret) in
            [("key", "key"), ("key\n", "key"), ("key\r\n", "key"), ("key\n\n", "key\n"), (" k ", " k ")]
        {
            let path = folder.join("key");
            fs::write(&path, content).unwrap();
            assert_eq!(reader(&folder).read(&SecretSource::File(path)).unwrap().expose(), secret);
        }
    }

    #[test]
    fn a_file_outside_the_allowed_folders_is_never_read_whatever_the_path_looks_like() {
        let (_root, folder, outside) = folders();
        let target = outside.join("key");
        fs::write(&target, "planted").unwrap();
        symlink(&target, folder.join("link")).unwrap();
        symlink(&outside, folder.join("door")).unwrap();
        let reader = reader(&folder);
        for path in [
            target,
            folder.join("link"),
            folder.join("door/key"),
            folder.join("../outside/key"),
            PathBuf::from("secrets/key"),
            folder.with_file_name("secrets-not").join("key"),
            folder.clone(),
            PathBuf::from("/etc/hostname"),
            PathBuf::from("/no/such/file"),
        ] {
            let refused = reader.check_allowed(&SecretSource::File(path.clone())).unwrap_err();
            assert!(refused.contains("not below a folder"), "{refused}");
            assert_eq!(problem(&reader, &path), refused);
        }
    }

    #[test]
    fn a_link_within_the_allowed_folder_is_followed() {
        let (_root, folder, _) = folders();
        fs::create_dir(folder.join("..data")).unwrap();
        fs::write(folder.join("..data/key"), "mounted").unwrap();
        symlink("..data/key", folder.join("key")).unwrap();
        let source = SecretSource::File(folder.join("key"));
        assert_eq!(reader(&folder).check_allowed(&source), Ok(()));
        assert_eq!(reader(&folder).read(&source).unwrap().expose(), "mounted");
    }

    #[test]
    fn a_link_that_is_put_in_place_after_the_check_is_not_followed() {
        let (_root, folder, outside) = folders();
        let folder = folder.canonicalize().unwrap();
        fs::write(outside.join("key"), "planted").unwrap();
        symlink(&outside, folder.join("door")).unwrap();
        symlink(outside.join("key"), folder.join("key")).unwrap();
        // As if `door` had been a folder and `key` a file when they were looked at.
        for target in ["door/key", "key"] {
            assert!(open(&folder, &folder.join(target)).is_err(), "{target}");
        }
        fs::write(folder.join("plain"), "fine").unwrap();
        assert!(open(&folder, &folder.join("plain")).is_ok());
    }

    #[test]
    fn a_file_that_is_missing_empty_too_long_or_odd_is_an_error_and_never_shows_its_content() {
        let (_root, folder, _) = folders();
        let reader = reader(&folder);
        let write = |name: &str, content: &[u8]| {
            fs::write(folder.join(name), content).unwrap();
            folder.join(name)
        };
        assert_eq!(reader.check_allowed(&SecretSource::File(folder.join("later"))), Ok(()));
        assert!(problem(&reader, &folder.join("later")).contains("does not exist"));
        assert!(problem(&reader, &write("empty", b"\n")).contains("is empty"));
        assert!(problem(&reader, &write("binary", b"planted\xff")).contains("not UTF-8"));
        let long = problem(&reader, &write("long", &[b'p'; SECRET_MAX_BYTES + 1]));
        assert!(long.contains("4096") && !long.contains("ppp"), "{long}");
        assert!(reader.read(&SecretSource::File(write("full", &[b'p'; SECRET_MAX_BYTES]))).is_ok());
        fs::create_dir(folder.join("folder")).unwrap();
        assert!(problem(&reader, &folder.join("folder")).contains("regular file"));
        let pipe = folder.join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert!(problem(&reader, &pipe).contains("regular file"));
    }

    #[test]
    fn only_listed_variables_are_read_and_one_that_is_not_set_is_an_error() {
        let reader = reader(Path::new("/nowhere"));
        let variable = |name: &str| SecretSource::EnvironmentVariable(name.into());
        assert!(!reader.read(&variable("PATH")).unwrap().expose().is_empty());
        assert!(reader.check_allowed(&variable("HOME")).unwrap_err().contains("HOME"));
        assert!(reader.read(&variable("HOME")).unwrap_err().0.contains("operator allows"));
        assert_eq!(reader.check_allowed(&variable("SIGNALPOST_NOT_SET")), Ok(()));
        assert!(reader.read(&variable("SIGNALPOST_NOT_SET")).unwrap_err().0.contains("is not set"));
        assert!(SecretReader::default().read(&variable("PATH")).is_err());
    }

    #[test]
    fn an_empty_value_is_no_secret() {
        let value = |text: &str| SecretSource::Value(Secret::new(text));
        assert!(SecretReader::default().read(&value("")).unwrap_err().0.contains("is empty"));
        assert_eq!(SecretReader::default().read(&value("k")).unwrap().expose(), "k");
    }
}

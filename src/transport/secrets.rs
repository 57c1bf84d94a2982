//! Reads secrets from where they are: the value itself, the environment, a file.
//!
//! Callers choose the source, so the operator says which variables and folders may be named, and by which
//! organizations; nothing is allowed by default. What is allowed for others is refused in the same words as what
//! is allowed for nobody, and before anybody looks whether it is there. A secret that is not there is an error,
//! never an empty key. Texts name the variable or the file and never what is in it.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use zeroize::Zeroizing;

use crate::domain::id::OrganizationId;
use crate::domain::place::Place;
use crate::domain::secret::{SECRET_MAX_BYTES, Secret, SecretSource};

/// Why a secret can't be had: a sentence for the delivery's record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SecretProblem(pub String);

/// Reads secrets, at each use, from the sources that the operator allows.
#[derive(Debug, Clone, Default)]
pub struct SecretReader {
    environment: Vec<Allowed<String>>,
    folders: Vec<Allowed<PathBuf>>,
}

/// A variable or a folder, and whose destinations may take secrets from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowed<T> {
    /// What may be named.
    pub what: T,
    /// By whom.
    pub place: Place,
}

/// Whose destination a secret is for.
pub type Asker<'a> = Option<&'a OrganizationId>;

impl<T> Allowed<T> {
    /// Whether this organization may name it. Nobody in particular may name what all may.
    fn is_for(&self, asker: Asker<'_>) -> bool {
        asker.map_or(self.place == Place::Everywhere, |id| self.place.covers(id))
    }
}

impl SecretReader {
    /// A reader for exactly these environment variables, and for the files below these folders. Of several
    /// folders around a file the innermost decides, so that a part of an allowed folder can be for fewer.
    #[must_use]
    pub fn new(environment: Vec<Allowed<String>>, folders: Vec<Allowed<PathBuf>>) -> Self {
        Self { environment, folders }
    }

    /// Whether the operator allows this source to destinations of the organization; asked when one is saved.
    ///
    /// A file that is not there yet may be named; the place decides.
    ///
    /// # Errors
    /// A sentence that says what would be right.
    pub fn check_allowed(&self, asker: Asker<'_>, source: &SecretSource) -> Result<(), String> {
        match source {
            SecretSource::Value(_) => Ok(()),
            SecretSource::EnvironmentVariable(name) => self.check_variable(asker, name),
            SecretSource::File(path) => {
                self.check_place(asker, path)?;
                match path.canonicalize() {
                    Ok(target) => self.check_target(asker, path, &target).map(drop),
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
    pub fn read(&self, asker: Asker<'_>, source: &SecretSource) -> Result<Secret, SecretProblem> {
        match source {
            SecretSource::Value(secret) => check_text("the secret", secret.expose()).map(|()| secret.clone()),
            SecretSource::EnvironmentVariable(name) => self.read_variable(asker, name),
            SecretSource::File(path) => self.read_file(asker, path),
        }
        .map_err(SecretProblem)
    }

    fn check_variable(&self, asker: Asker<'_>, name: &str) -> Result<(), String> {
        if self.environment.iter().any(|allowed| allowed.what == name && allowed.is_for(asker)) {
            return Ok(());
        }
        Err(format!(
            "the environment variable {name} is not one that the operator allows for secrets of this organization"
        ))
    }

    #[expect(clippy::disallowed_methods, reason = "secrets are the one other use of the environment")]
    fn read_variable(&self, asker: Asker<'_>, name: &str) -> Result<Secret, String> {
        self.check_variable(asker, name)?;
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

    fn read_file(&self, asker: Asker<'_>, path: &Path) -> Result<Secret, String> {
        self.check_place(asker, path)?;
        let bytes = match self.read_checked(asker, path) {
            // Kubernetes may have swapped the folder between the look and the opening.
            Err(Unread::Disk(_)) => self.read_checked(asker, path),
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

    fn read_checked(&self, asker: Asker<'_>, path: &Path) -> Result<Zeroizing<Vec<u8>>, Unread> {
        let target = path.canonicalize().map_err(Unread::Disk)?;
        let folder = self.check_target(asker, path, &target).map_err(Unread::Refused)?;
        read_start(open(&folder, &target).map_err(Unread::Disk)?).map_err(Unread::Disk)
    }

    /// Judges the path as written. This comes before any look at the file, so that nobody can find out
    /// which files there are elsewhere.
    fn check_place(&self, asker: Asker<'_>, path: &Path) -> Result<(), String> {
        let is_plain = path.is_absolute()
            && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        let is_allowed = is_plain && self.innermost(asker, path).is_some();
        if is_allowed { Ok(()) } else { Err(not_allowed(path)) }
    }

    /// Judges where the path leads, and answers the folder, without links, that it is in. Links within an
    /// allowed folder are fine: that is how Kubernetes swaps mounted secrets.
    fn check_target(&self, asker: Asker<'_>, path: &Path, target: &Path) -> Result<PathBuf, String> {
        self.innermost(asker, target).ok_or_else(|| not_allowed(path))
    }

    /// The innermost folder around a path, if this organization may take secrets from there. Folders are known
    /// by their names as written and by their names without links.
    fn innermost(&self, asker: Asker<'_>, path: &Path) -> Option<PathBuf> {
        let names = |folder: &Path| [Some(folder.to_owned()), folder.canonicalize().ok()];
        let named = self.folders.iter().flat_map(|folder| names(&folder.what).map(|name| (name, folder)));
        let named = named.filter_map(|(name, folder)| Some((name?, folder)));
        let around: Vec<_> = named.filter(|(name, _)| path != name && path.starts_with(name)).collect();
        let depth = |name: &Path| name.components().count();
        let deepest = around.iter().map(|(name, _)| depth(name)).max()?;
        let mut innermost = around.into_iter().filter(|(name, _)| depth(name) == deepest);
        innermost.find(|(_, folder)| folder.is_for(asker)).map(|(name, _)| name)
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
        // Kernels before 5.6 and some sandboxes have no such call.
        Err(Errno::NOSYS | Errno::PERM) => open_step_by_step(root, below, flags)?,
        opened => opened?,
    };
    let file = File::from(file);
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(ErrorKind::InvalidInput, "it is not a regular file"))
    }
}

/// The same as one call of the kernel, by one call for each part of the path, none of which follows a link.
fn open_step_by_step(root: OwnedFd, below: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let folder_flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut parts: Vec<_> = below.components().collect();
    let last = parts.pop().ok_or(Errno::ISDIR)?;
    let enter = |folder: OwnedFd, part: Component<'_>, flags: OFlags| match part {
        Component::Normal(name) => rustix::fs::openat(&folder, name, flags, Mode::empty()),
        _ => Err(Errno::XDEV),
    };
    let folder = parts.into_iter().try_fold(root, |folder, part| enter(folder, part, folder_flags))?;
    enter(folder, last, flags | OFlags::RDONLY)
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
    format!(
        "the file {} is not below a folder that the operator allows for secrets of this organization",
        path.display()
    )
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

    fn allowed<T>(what: T, place: &str) -> Allowed<T> {
        Allowed { what, place: place.parse().unwrap() }
    }

    fn reader(folder: &Path) -> SecretReader {
        let variables = ["PATH", "SIGNALPOST_NOT_SET"].map(|name| allowed(name.to_owned(), "*"));
        SecretReader::new(variables.into(), vec![allowed(folder.to_owned(), "*")])
    }

    fn problem(reader: &SecretReader, path: &Path) -> String {
        reader.read(None, &SecretSource::File(path.to_owned())).unwrap_err().to_string()
    }

    #[test]
    fn a_file_is_read_without_its_last_line_end() {
        let (_root, folder, _) = folders();
        for (content, secret) in
            [("key", "key"), ("key\n", "key"), ("key\r\n", "key"), ("key\n\n", "key\n"), (" k ", " k ")]
        {
            let path = folder.join("key");
            fs::write(&path, content).unwrap();
            assert_eq!(reader(&folder).read(None, &SecretSource::File(path)).unwrap().expose(), secret);
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
            let refused = reader.check_allowed(None, &SecretSource::File(path.clone())).unwrap_err();
            assert!(refused.contains("not below a folder"), "{refused}");
            assert_eq!(problem(&reader, &path), refused);
        }
    }

    #[test]
    fn what_is_for_another_organization_is_refused_like_what_is_for_nobody_whether_it_is_there_or_not() {
        let (_root, folder, outside) = folders();
        let (acme, shared) = (folder.join("acme"), folder.join("shared"));
        for path in [&acme, &shared] {
            fs::create_dir(path).unwrap();
            fs::write(path.join("key"), "planted").unwrap();
        }
        symlink("../acme/key", shared.join("link")).unwrap();
        let folders = [(&folder, "*"), (&acme, "acme")].map(|(path, place)| allowed(path.clone(), place));
        let variables = vec![allowed("PATH".to_owned(), "acme"), allowed("HOME".to_owned(), "globex+acme")];
        let reader = SecretReader::new(variables, folders.into());
        let ids = ["acme", "globex"].map(|id| OrganizationId::parse(id).unwrap());
        let [acme_id, globex_id] = ids.each_ref().map(Some);
        let file = |path: PathBuf| SecretSource::File(path);
        let variable = |name: &str| SecretSource::EnvironmentVariable(name.into());
        for source in [file(acme.join("key")), file(shared.join("link")), variable("PATH")] {
            assert!(reader.read(acme_id, &source).is_ok(), "{source:?}");
            assert_eq!(reader.check_allowed(acme_id, &source), Ok(()));
        }
        let words =
            |text: String| text.replace("acme/key", "X").replace("outside/key", "X").replace("PATH", "NONE");
        let refused = |source: &SecretSource| {
            let saving = reader.check_allowed(globex_id, source).unwrap_err();
            assert_eq!(reader.read(globex_id, source).unwrap_err().0, saving);
            assert_eq!(reader.check_allowed(None, source).unwrap_err(), saving);
            saving
        };
        let nobodys = outside.join("key");
        let theirs = words(refused(&file(acme.join("key")))).replace("/secrets/", "/");
        assert_eq!(theirs, words(refused(&file(nobodys))));
        assert_eq!(
            refused(&file(acme.join("no"))),
            refused(&file(acme.join("key"))).replace("acme/key", "acme/no")
        );
        assert_eq!(words(refused(&variable("PATH"))), refused(&variable("NONE")));
        assert!(refused(&file(shared.join("link"))).contains("not below a folder"));
        assert!(reader.read(globex_id, &file(shared.join("key"))).is_ok());
        assert_eq!(reader.check_allowed(globex_id, &variable("HOME")), Ok(()));
    }

    #[test]
    fn a_link_within_the_allowed_folder_is_followed() {
        let (_root, folder, _) = folders();
        fs::create_dir(folder.join("..data")).unwrap();
        fs::write(folder.join("..data/key"), "mounted").unwrap();
        symlink("..data/key", folder.join("key")).unwrap();
        let source = SecretSource::File(folder.join("key"));
        assert_eq!(reader(&folder).check_allowed(None, &source), Ok(()));
        assert_eq!(reader(&folder).read(None, &source).unwrap().expose(), "mounted");
    }

    #[test]
    fn a_link_that_is_put_in_place_after_the_check_is_not_followed() {
        let (_root, folder, outside) = folders();
        let folder = folder.canonicalize().unwrap();
        fs::write(outside.join("key"), "planted").unwrap();
        symlink(&outside, folder.join("door")).unwrap();
        symlink(outside.join("key"), folder.join("key")).unwrap();
        // As if `door` had been a folder and `key` a file when they were looked at.
        fs::create_dir(folder.join("inner")).unwrap();
        fs::write(folder.join("inner/plain"), "fine").unwrap();
        let root = || OwnedFd::from(File::open(&folder).unwrap());
        // Both ways to open: kernels without the one call have to be as strict.
        let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let step_by_step = |target: &str| open_step_by_step(root(), Path::new(target), flags);
        for target in ["door/key", "key"] {
            assert!(open(&folder, &folder.join(target)).is_err(), "{target}");
            assert!(step_by_step(target).is_err(), "{target}");
        }
        assert!(open(&folder, &folder.join("inner/plain")).is_ok());
        assert!(step_by_step("inner/plain").is_ok());
        for target in ["", "..", "../outside/key", "inner/../inner/plain", "/etc/hostname"] {
            assert!(step_by_step(target).is_err(), "{target}");
        }
    }

    #[test]
    fn a_file_that_is_missing_empty_too_long_or_odd_is_an_error_and_never_shows_its_content() {
        let (_root, folder, _) = folders();
        let reader = reader(&folder);
        let write = |name: &str, content: &[u8]| {
            fs::write(folder.join(name), content).unwrap();
            folder.join(name)
        };
        assert_eq!(reader.check_allowed(None, &SecretSource::File(folder.join("later"))), Ok(()));
        assert!(problem(&reader, &folder.join("later")).contains("does not exist"));
        assert!(problem(&reader, &write("empty", b"\n")).contains("is empty"));
        assert!(problem(&reader, &write("binary", b"planted\xff")).contains("not UTF-8"));
        let long = problem(&reader, &write("long", &[b'p'; SECRET_MAX_BYTES + 1]));
        assert!(long.contains("4096") && !long.contains("ppp"), "{long}");
        assert!(reader.read(None, &SecretSource::File(write("full", &[b'p'; SECRET_MAX_BYTES]))).is_ok());
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
        assert!(!reader.read(None, &variable("PATH")).unwrap().expose().is_empty());
        assert!(reader.check_allowed(None, &variable("HOME")).unwrap_err().contains("HOME"));
        assert!(reader.read(None, &variable("HOME")).unwrap_err().0.contains("operator allows"));
        assert_eq!(reader.check_allowed(None, &variable("SIGNALPOST_NOT_SET")), Ok(()));
        assert!(reader.read(None, &variable("SIGNALPOST_NOT_SET")).unwrap_err().0.contains("is not set"));
        assert!(SecretReader::default().read(None, &variable("PATH")).is_err());
    }

    #[test]
    fn an_empty_value_is_no_secret() {
        let value = |text: &str| SecretSource::Value(Secret::new(text));
        assert!(SecretReader::default().read(None, &value("")).unwrap_err().0.contains("is empty"));
        assert_eq!(SecretReader::default().read(None, &value("k")).unwrap().expose(), "k");
    }
}

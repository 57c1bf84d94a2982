//! Files that are looked at again and again, and what is made of them.
//!
//! Content is compared, not times or events: Kubernetes changes a mounted Secret by swapping a symbolic link,
//! which watchers of a file do not see. What is made of the files changes only when all of it is right; a
//! broken new content is logged once, and the old one stays in force.

use std::fs::File;
use std::future::Future;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

/// The largest file that is read.
pub const FILE_MAX_BYTES: u64 = 4 * 1024 * 1024;

/// Why something could not be made of files.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// A file is not there, or can't be read.
    #[error("{what}: cannot read {}; check the path and the permissions", path.display())]
    Unreadable {
        /// What it is for: the setting.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the system says.
        #[source]
        cause: io::Error,
    },
    /// The content is wrong.
    #[error("{what}: {} cannot be used: {why}", path.display())]
    Wrong {
        /// What it is for: the setting.
        what: &'static str,
        /// The first of the files.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// The contents of the files, in their order.
pub type Contents = [Zeroizing<Vec<u8>>];

type Make<T> = dyn Fn(&Contents) -> Result<T, String> + Send + Sync;

/// A file, and the setting that names it.
pub type SettingFile = (&'static str, PathBuf);

/// What was made of some files, in its newest valid form. Cheap to clone; all clones are one.
pub struct Reloaded<T> {
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    what: &'static str,
    files: Vec<SettingFile>,
    make: Box<Make<T>>,
    value: ArcSwap<T>,
    /// The digest of the contents that were looked at last, right or wrong.
    seen: Mutex<Option<[u8; 32]>>,
}

impl<T> Clone for Reloaded<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<T: Send + Sync + 'static> Reloaded<T> {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// [`ReloadError`]; at the start nothing old can stay in force.
    pub fn open(
        what: &'static str,
        files: Vec<SettingFile>,
        make: impl Fn(&Contents) -> Result<T, String> + Send + Sync + 'static,
    ) -> Result<Self, ReloadError> {
        let contents = read_all(&files)?;
        let value = make(&contents).map_err(|why| wrong(what, &files, why))?;
        let seen = Mutex::new(Some(digest(&contents)));
        let shared = Shared { what, files, make: Box::new(make), value: ArcSwap::from_pointee(value), seen };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// What is in force now.
    #[must_use]
    pub fn current(&self) -> Arc<T> {
        self.shared.value.load_full()
    }

    /// Looks at the files; whether something new is in force. Blocks for as long as reading takes.
    ///
    /// # Errors
    /// [`ReloadError`], once for each content; what was in force stays so.
    pub fn reload(&self) -> Result<bool, ReloadError> {
        let Shared { what, files, make, value, seen } = &*self.shared;
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        let contents = match read_all(files) {
            Ok(contents) => contents,
            // Told once, until it can be read again.
            Err(error) => return if seen.take().is_some() { Err(error) } else { Ok(false) },
        };
        let digest = digest(&contents);
        if seen.replace(digest) == Some(digest) {
            return Ok(false);
        }
        let made = make(&contents).map_err(|why| wrong(what, files, why))?;
        value.store(Arc::new(made));
        Ok(true)
    }

    /// Looks at the files every so often, until it is told to stop.
    pub fn run(
        &self,
        every: Duration,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + Send + 'static + use<T> {
        let this = self.clone();
        async move {
            while stop.run_until_cancelled(tokio::time::sleep(every)).await.is_some() {
                let files = this.clone();
                // A mounted folder may be slow, or away.
                match tokio::task::spawn_blocking(move || files.reload()).await {
                    Ok(Ok(true)) => tracing::info!(setting = this.shared.what, "read again and in force"),
                    Ok(Ok(false)) | Err(_) => {}
                    Ok(Err(error)) => {
                        let cause = std::error::Error::source(&error).map(tracing::field::display);
                        tracing::error!(%error, cause, "the new content can't be used; the old one stays in force");
                    }
                }
            }
        }
    }
}

fn wrong(what: &'static str, files: &[SettingFile], why: String) -> ReloadError {
    let path = files.first().map(|(_, path)| path.clone()).unwrap_or_default();
    ReloadError::Wrong { what, path, why }
}

fn read_all(files: &[SettingFile]) -> Result<Vec<Zeroizing<Vec<u8>>>, ReloadError> {
    let read = |(what, path): &SettingFile| {
        read_file(path).map_err(|cause| ReloadError::Unreadable { what, path: path.clone(), cause })
    };
    files.iter().map(read).collect()
}

fn read_file(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut content = Zeroizing::new(Vec::new());
    File::open(path)?.take(FILE_MAX_BYTES + 1).read_to_end(&mut content)?;
    if content.len() as u64 > FILE_MAX_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 4 MiB"));
    }
    Ok(content)
}

fn digest(contents: &Contents) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for content in contents {
        hasher.update((content.len() as u64).to_be_bytes());
        hasher.update(content.as_slice());
    }
    hasher.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(path: &Path) -> Result<Reloaded<u32>, ReloadError> {
        Reloaded::open("test.number", vec![("test.number", path.to_owned())], |contents| {
            let text = String::from_utf8_lossy(&contents[0]).trim().to_owned();
            text.parse().map_err(|_| format!("`{text}` is no number"))
        })
    }

    #[test]
    fn a_new_content_comes_into_force_and_a_broken_one_is_told_once_and_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("number");
        assert!(number(&path).is_err_and(|error| error.to_string().contains("test.number: cannot read")));
        std::fs::write(&path, "1").unwrap();
        let reloaded = number(&path).unwrap();
        assert!(!reloaded.reload().unwrap());
        std::fs::write(&path, "2").unwrap();
        assert!(reloaded.reload().unwrap());
        assert_eq!(*reloaded.current(), 2);
        std::fs::write(&path, "two").unwrap();
        assert!(reloaded.reload().unwrap_err().to_string().contains("`two` is no number"));
        assert!(!reloaded.reload().unwrap());
        std::fs::remove_file(&path).unwrap();
        assert!(reloaded.reload().is_err());
        assert!(!reloaded.reload().unwrap());
        assert_eq!(*reloaded.current(), 2);
        std::fs::write(&path, "3").unwrap();
        assert!(reloaded.reload().unwrap());
        assert_eq!(*reloaded.current(), 3);
    }

    #[test]
    fn a_swapped_link_is_noticed_as_kubernetes_does_it() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for (version, content) in [("..1", "1"), ("..2", "2")] {
            std::fs::create_dir(at(version)).unwrap();
            std::fs::write(at(version).join("number"), content).unwrap();
        }
        let link = |version: &str| {
            std::os::unix::fs::symlink(version, at("..tmp")).unwrap();
            std::fs::rename(at("..tmp"), at("..data")).unwrap();
        };
        link("..1");
        std::os::unix::fs::symlink("..data/number", at("number")).unwrap();
        let reloaded = number(&at("number")).unwrap();
        link("..2");
        assert!(reloaded.reload().unwrap());
        assert_eq!(*reloaded.current(), 2);
    }

    #[test]
    fn a_file_that_is_too_large_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("number");
        File::create(&path).unwrap().set_len(FILE_MAX_BYTES + 1).unwrap();
        assert!(number(&path).is_err());
    }
}

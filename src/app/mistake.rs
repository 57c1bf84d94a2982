//! What whoever starts the program got wrong: a setting, a file that one names, a path.

use std::io;

/// A mistake of whoever started it, and not a failure of ours or of the machine: it says which setting or path, and
/// what would be right. Programs tell it by the exit code 2.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct Mistake(#[from] anyhow::Error);

impl Mistake {
    /// A mistake, in these words.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(anyhow::Error::msg(text.into()))
    }

    /// What an error says is a mistake.
    #[must_use]
    pub fn of(error: impl Into<anyhow::Error>) -> Self {
        Self(error.into())
    }

    /// Why a path can't be used, in these words: a mistake where another path would do, and a plain error where it
    /// would not, as on a disk that is full.
    #[must_use]
    pub fn of_path(text: impl Into<String>, error: io::Error) -> anyhow::Error {
        let is_mistake = is_about_the_path(&error);
        let told = anyhow::Error::from(error).context(text.into());
        if is_mistake { Self(told).into() } else { told }
    }
}

fn is_about_the_path(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::NotFound
            | Kind::PermissionDenied
            | Kind::AlreadyExists
            | Kind::NotADirectory
            | Kind::IsADirectory
            | Kind::ReadOnlyFilesystem
            | Kind::InvalidFilename
            | Kind::InvalidInput
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn another_path_helps_against_a_wrong_one_and_not_against_a_full_disk() {
        for (kind, is_mistake) in [
            (io::ErrorKind::NotFound, true),
            (io::ErrorKind::PermissionDenied, true),
            (io::ErrorKind::NotADirectory, true),
            (io::ErrorKind::StorageFull, false),
            (io::ErrorKind::Interrupted, false),
        ] {
            let error = Mistake::of_path("here", kind.into());
            assert_eq!(error.is::<Mistake>(), is_mistake, "{kind:?}");
            assert_eq!(error.to_string(), "here");
            assert!(
                std::error::Error::source(error.as_ref() as &dyn std::error::Error).is_some(),
                "{kind:?}"
            );
        }
    }

    #[test]
    fn a_mistake_stays_one_under_what_is_said_above_it() {
        let told = Err::<(), _>(Mistake::new("a.setting: no")).context("starting").unwrap_err();
        assert!(told.is::<Mistake>());
        assert_eq!(format!("{told:#}"), "starting: a.setting: no");
    }
}

//! Secrets: they go in and never come out.

use std::fmt;
use std::path::PathBuf;

use zeroize::Zeroizing;

use super::time::Timestamp;

/// The longest secret value, in bytes.
pub const SECRET_MAX_BYTES: usize = 4096;

/// A secret text. It is wiped when dropped, and `Debug` shows nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes the text as a secret.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The text itself, for signing, sending and storing only.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Where a secret comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// The value itself.
    Value(Secret),
    /// An environment variable of the server, read at each use; only names that the operator allows.
    EnvironmentVariable(String),
    /// A file on the server, read at each use; only below folders that the operator allows.
    File(PathBuf),
}

/// The secret that a rotation replaced, and until when it still signs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetiringSecret {
    /// The old secret.
    pub source: SecretSource,
    /// From here on only the new secret signs.
    pub until: Timestamp,
}

/// The signing secrets of a destination.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SigningSecrets {
    /// The secret in force; without one nothing is signed.
    pub current: Option<SecretSource>,
    /// The one before, while a rotation overlaps.
    pub retiring: Option<RetiringSecret>,
}

/// How a request authenticates itself to the receiver, besides the signature.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum HttpAuth {
    /// Not at all.
    #[default]
    Unauthenticated,
    /// `Authorization: Basic` (RFC 7617).
    Basic {
        /// The user name; it has no colon.
        username: String,
        /// The password.
        secret: SecretSource,
    },
    /// `Authorization: Bearer` (RFC 6750).
    Bearer {
        /// The token.
        token: SecretSource,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_never_shows_a_secret() {
        let auth = HttpAuth::Basic {
            username: "account".into(),
            secret: SecretSource::Value(Secret::new("hunter2-planted")),
        };
        assert!(!format!("{auth:?}").contains("planted"));
    }
}

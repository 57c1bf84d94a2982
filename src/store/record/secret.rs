//! The one place that every stored secret passes through; sealing at rest belongs here and nowhere else.

use crate::domain::secret::Secret;

/// The stored form of a secret.
pub(super) fn conceal(secret: &Secret) -> Vec<u8> {
    secret.expose().as_bytes().to_vec()
}

/// The secret out of its stored form.
pub(super) fn reveal(stored: &[u8]) -> Result<Secret, String> {
    let text = std::str::from_utf8(stored).map_err(|_| "a secret is not text".to_owned())?;
    Ok(Secret::new(text))
}

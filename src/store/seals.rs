//! What stored secrets are sealed under, and which keys that asks for: pure, and told in the same words by every
//! store.

use super::keyring::{KeyId, Keyring};
use super::record::Seals;

/// How many destinations are sealed anew in one commit.
pub(super) const RESEALED_AT_ONCE: usize = 32;

/// How far sealing anew has come.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resealed {
    /// Destinations that have been sealed anew so far.
    pub destinations: usize,
    /// Their secrets, by what they were sealed under before.
    pub secrets: Seals,
    /// How many destinations are still to be sealed anew.
    pub remaining: usize,
    /// The key that the store had made for itself and kept beside the data, where it was removed since nothing needs
    /// it any more.
    pub removed_key: Option<KeyId>,
}

/// Says what is wrong where secrets are sealed and no key is there at all.
pub(super) fn no_key(seals: &Seals) -> String {
    let sealed: usize = seals.by_key.values().sum();
    format!(
        "{sealed} of its secrets are sealed, and no key is configured; give the key {} in the file that \
         secrets.key_file names or in SIGNALPOST_SEALING_KEYS",
        list(seals.by_key.keys())
    )
}

/// Refuses to go on where a key is missing that something is sealed under.
pub(super) fn check(seals: &Seals, keyring: &Keyring) -> Result<(), String> {
    let needed = seals.by_key.keys();
    let missing: Vec<KeyId> =
        needed.filter(|needed| keyring.ids().all(|id| id != **needed)).copied().collect();
    if missing.is_empty() { Ok(()) } else { Err(missing_keys(seals, &missing, keyring)) }
}

fn missing_keys(seals: &Seals, missing: &[KeyId], keyring: &Keyring) -> String {
    let count: usize = missing.iter().filter_map(|id| seals.by_key.get(id)).sum();
    let plural = if missing.len() == 1 { "the key" } else { "the keys" };
    let there: Vec<KeyId> = keyring.ids().collect();
    format!(
        "{count} of its secrets are sealed under {plural} {}, which {} not configured (there is {}); add {} to the \
         key file below the key that seals",
        list(missing),
        if missing.len() == 1 { "is" } else { "are" },
        list(&there),
        if missing.len() == 1 { "it" } else { "them" },
    )
}

fn list<'a>(ids: impl IntoIterator<Item = &'a KeyId>) -> String {
    ids.into_iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

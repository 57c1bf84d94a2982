//! The keys under which secrets are sealed at rest, and sealing itself: XChaCha20-Poly1305 with random
//! nonces, which are long enough (192 bits) that no number of writes makes two alike.
//!
//! A key is known by an id that is made from the key, so the id can't be given to the wrong one. The first
//! key of a ring seals; all of them open. A sealed value is bound to its place: it opens only where it
//! was sealed for.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};
use ring::rand::{SecureRandom, SystemRandom};
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, Zeroizing};

use crate::domain::secret::Secret;

/// What a key's text begins with, so that people and scanners for leaked secrets know it.
const PREFIX: &str = "signalpost-key-";
const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 24;
const ID_BYTES: usize = 8;

/// What stands for a key where the key itself must not: 16 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; ID_BYTES]);

impl KeyId {
    /// As it is stored.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Out of its stored form.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

/// A key for sealing; 256 random bits, wiped when dropped.
#[derive(Clone)]
pub struct SealingKey {
    id: KeyId,
    // On the heap, so that moving the key leaves no copy behind.
    key: Zeroizing<Vec<u8>>,
}

impl SealingKey {
    /// A new key.
    ///
    /// # Errors
    /// Where the operating system gives no random bytes.
    pub fn generate() -> Result<Self, SealingFailed> {
        let mut key = Zeroizing::new(vec![0; KEY_BYTES]);
        SystemRandom::new().fill(&mut key).map_err(|_| SealingFailed)?;
        Ok(Self { id: id_of(&key), key })
    }

    /// The key with this text.
    ///
    /// # Errors
    /// A sentence that says what is wrong, and shows nothing of the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let encoded = text
            .strip_prefix(PREFIX)
            .ok_or_else(|| format!("a key begins with {PREFIX}; make one with `signalpost key new`"))?;
        let key = URL_SAFE_NO_PAD.decode(encoded).map(Zeroizing::new);
        match key {
            Ok(key) if key.len() == KEY_BYTES => Ok(Self { id: id_of(&key), key }),
            _ => Err("a key is not whole: 43 characters of base64 follow its beginning".into()),
        }
    }

    /// The text that [`SealingKey::parse`] reads.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        // Encoded into its final place: no copy is left behind.
        let mut text = Zeroizing::new(String::with_capacity(64));
        text.push_str(PREFIX);
        URL_SAFE_NO_PAD.encode_string(self.key.as_slice(), &mut text);
        text
    }

    /// What stands for it.
    #[must_use]
    pub const fn id(&self) -> KeyId {
        self.id
    }

    fn cipher(&self) -> Option<XChaCha20Poly1305> {
        XChaCha20Poly1305::new_from_slice(&self.key).ok()
    }
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealingKey({})", self.id)
    }
}

fn id_of(key: &[u8]) -> KeyId {
    let digest = Sha256::new().chain_update(b"signalpost sealing key id\0").chain_update(key).finalize();
    KeyId(digest.first_chunk().copied().unwrap_or_default())
}

/// A value that only the right key opens, and only in the right place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// Which key opens it.
    pub key_id: KeyId,
    /// Drawn for this value.
    pub nonce: Vec<u8>,
    /// The value, enciphered, and what shows that it was not changed.
    pub ciphertext: Vec<u8>,
}

/// All keys that are at hand.
#[derive(Debug, Clone)]
pub struct Keyring {
    active: SealingKey,
    others: Vec<SealingKey>,
}

impl Keyring {
    /// A ring of one key.
    #[must_use]
    pub const fn new(active: SealingKey) -> Self {
        Self { active, others: Vec::new() }
    }

    /// Reads a ring: a key a line, empty lines and those that begin with `#` left out. The first key seals,
    /// all of them open. Commas part keys as well, for environment variables.
    ///
    /// # Errors
    /// A sentence that names the line and shows nothing of a key.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut ring: Option<Self> = None;
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.starts_with('#') {
                continue;
            }
            for part in line.split([',', ' ', '\t']).filter(|part| !part.is_empty()) {
                let key = SealingKey::parse(part).map_err(|problem| format!("line {number}: {problem}"))?;
                match &mut ring {
                    Some(ring) => ring.add(key),
                    None => ring = Some(Self::new(key)),
                }
            }
        }
        ring.ok_or_else(|| "there is no key; make one with `signalpost key new`".into())
    }

    /// Adds a key for opening.
    pub fn add(&mut self, key: SealingKey) {
        if self.key(key.id).is_none() {
            self.others.push(key);
        }
    }

    /// Adds the keys of another ring for opening.
    pub fn add_all(&mut self, others: &Self) {
        others.keys().for_each(|key| self.add(key.clone()));
    }

    /// The key that seals.
    #[must_use]
    pub const fn active(&self) -> KeyId {
        self.active.id
    }

    /// The keys, the active one first.
    pub fn ids(&self) -> impl Iterator<Item = KeyId> {
        self.keys().map(SealingKey::id)
    }

    /// Seals a secret for a place, under the active key.
    ///
    /// # Errors
    /// Where the operating system gives no random bytes.
    pub fn seal(&self, place: &[u8], secret: &Secret) -> Result<Sealed, SealingFailed> {
        let mut nonce = [0; NONCE_BYTES];
        SystemRandom::new().fill(&mut nonce).map_err(|_| SealingFailed)?;
        let payload = Payload { msg: secret.expose().as_bytes(), aad: place };
        let enciphered =
            self.active.cipher().and_then(|cipher| cipher.encrypt(&XNonce::from(nonce), payload).ok());
        // It fails for a key of another length and for gigabytes of text only.
        let ciphertext = enciphered.ok_or(SealingFailed)?;
        Ok(Sealed { key_id: self.active.id, nonce: nonce.to_vec(), ciphertext })
    }

    /// Opens what was sealed for this place.
    ///
    /// # Errors
    /// A sentence that says which key is missing, or that the value is not what was sealed here.
    pub fn open(&self, place: &[u8], sealed: &Sealed) -> Result<Secret, String> {
        let id = sealed.key_id;
        let key = self
            .key(id)
            .ok_or_else(|| format!("it is sealed under the key {id}, which is not configured"))?;
        let nonce = <[u8; NONCE_BYTES]>::try_from(sealed.nonce.as_slice());
        let nonce = nonce.map_err(|_| "its nonce has another length".to_owned())?;
        let payload = Payload { msg: &sealed.ciphertext, aad: place };
        let opened = key.cipher().and_then(|cipher| cipher.decrypt(&XNonce::from(nonce), payload).ok());
        let opened = opened.ok_or_else(|| {
            format!("it does not open with its key {id}: it was changed, or sealed for another place")
        })?;
        into_secret(opened)
    }

    fn key(&self, id: KeyId) -> Option<&SealingKey> {
        self.keys().find(|key| key.id == id)
    }

    fn keys(&self) -> impl Iterator<Item = &SealingKey> {
        std::iter::once(&self.active).chain(&self.others)
    }
}

/// Takes the bytes over, so that no copy is left behind.
pub(super) fn into_secret(bytes: Vec<u8>) -> Result<Secret, String> {
    String::from_utf8(bytes).map(Secret::new).map_err(|error| {
        error.into_bytes().zeroize();
        "a secret is not text".to_owned()
    })
}

/// A secret could not be sealed, or a key not be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a secret can't be sealed: the operating system gives no random bytes")]
pub struct SealingFailed;

#[cfg(test)]
mod tests {
    use super::*;

    fn ring() -> Keyring {
        Keyring::new(SealingKey::generate().unwrap())
    }

    #[test]
    fn what_is_sealed_opens_with_its_key_in_its_place_and_nowhere_else() {
        let (ring, secret) = (ring(), Secret::new("planted"));
        let sealed = ring.seal(b"here", &secret).unwrap();
        assert_eq!(ring.open(b"here", &sealed).unwrap(), secret);
        assert!(ring.open(b"there", &sealed).unwrap_err().contains("another place"));
        let other = super::tests::ring();
        let problem = other.open(b"here", &sealed).unwrap_err();
        assert!(problem.contains(&ring.active().to_string()), "{problem}");
        assert!(!sealed.ciphertext.windows(7).any(|part| part == b"planted"));
    }

    #[test]
    fn each_changed_bit_is_noticed() {
        let ring = ring();
        let sealed = ring.seal(b"here", &Secret::new("planted")).unwrap();
        for position in 0..sealed.ciphertext.len() * 8 {
            let mut changed = sealed.clone();
            changed.ciphertext[position / 8] ^= 1 << (position % 8);
            assert!(ring.open(b"here", &changed).is_err());
        }
        let mut changed = sealed.clone();
        changed.nonce[0] ^= 1;
        assert!(ring.open(b"here", &changed).is_err());
        changed.nonce.pop();
        assert!(ring.open(b"here", &changed).unwrap_err().contains("length"));
    }

    #[test]
    fn the_same_secret_is_never_sealed_the_same_way() {
        let (ring, secret) = (ring(), Secret::new("planted"));
        let (one, two) = (ring.seal(b"", &secret).unwrap(), ring.seal(b"", &secret).unwrap());
        assert!(one.nonce != two.nonce && one.ciphertext != two.ciphertext);
    }

    #[test]
    fn the_first_key_seals_and_all_open() {
        let keys = [SealingKey::generate().unwrap(), SealingKey::generate().unwrap()];
        let old = Keyring::new(keys[1].clone());
        let sealed = old.seal(b"here", &Secret::new("planted")).unwrap();
        let (first, second) = (keys[0].to_text(), keys[1].to_text());
        for text in [format!("# new\n{}\n\n{}\n", *first, *second), format!("{},{}", *first, *second)] {
            let ring = Keyring::parse(&text).unwrap();
            assert_eq!(ring.active(), keys[0].id());
            assert_eq!(ring.open(b"here", &sealed).unwrap().expose(), "planted");
            assert_eq!(ring.ids().collect::<Vec<_>>(), [keys[0].id(), keys[1].id()]);
        }
    }

    #[test]
    fn a_text_that_is_no_key_is_refused_and_not_shown() {
        let whole = SealingKey::generate().unwrap().to_text();
        let cut = &whole[..whole.len() - 1];
        for text in ["planted", "signalpost-key-planted", cut, "# nothing else", ""] {
            let problem = Keyring::parse(text).unwrap_err();
            assert!(!problem.contains("planted") && !problem.contains(cut), "{problem}");
        }
        assert!(Keyring::parse("\n\nplanted").unwrap_err().contains("line 3"));
    }

    #[test]
    fn keys_show_nothing_of_themselves() {
        let key = SealingKey::generate().unwrap();
        let shown = format!("{key:?} {:?}", Keyring::new(key.clone()));
        let text = key.to_text();
        assert!(shown.contains(&key.id().to_string()) && !shown.contains(&text[PREFIX.len()..]), "{shown}");
        assert_eq!(shown.matches(", ").count(), 1, "bytes are not listed: {shown}");
    }
}

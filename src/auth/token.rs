//! Static bearer tokens: how they look, and what is stored of them.
//!
//! A token is `spt1_` and 256 random bits in base64url; nothing else is ever taken for one, so nobody can
//! put a guessable word in the file. What is stored is SHA-256 over a fixed prefix and the token. A slow hash
//! would add nothing: it makes guessing few possibilities dear, and there are 2^256. But it is paid with every
//! call, so it would be a way to keep the server busy.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::{SecureRandom, SystemRandom};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// What every token begins with; secret scanners can look for it. The number is the version of the form.
pub const PREFIX: &str = "spt1_";
/// What every stored hash begins with: the function, and the version of what goes into it.
const HASH_PREFIX: &str = "sha256-v1:";
/// Keeps these hashes apart from SHA-256 of tokens made for any other purpose.
const HASH_CONTEXT: &[u8] = b"signalpost token v1\0";
/// The random bytes of a token.
const SECRET_BYTES: usize = 32;
/// How long they are in base64url.
const SECRET_CHARS: usize = 43;

/// A token in the clear. Wiped when dropped, and never shown by `Debug`.
pub struct Token(Zeroizing<String>);

impl Token {
    /// A new one from the operating system's random numbers.
    ///
    /// # Errors
    /// The system gives none.
    pub fn generate() -> Result<Self, String> {
        let mut bytes = Zeroizing::new([0_u8; SECRET_BYTES]);
        let filled = SystemRandom::new().fill(bytes.as_mut_slice());
        filled.map_err(|_| "the operating system gives no random bytes".to_owned())?;
        Ok(Self(Zeroizing::new(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes.as_slice())))))
    }

    /// The text that callers send.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What is stored of it.
    #[must_use]
    pub fn hash(&self) -> TokenHash {
        hash(&self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// What is stored of a token.
#[derive(Clone, Copy)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// The hash of a text that has the form of a token; `None` for all others.
    #[must_use]
    pub fn of(token: &str) -> Option<Self> {
        let secret = token.strip_prefix(PREFIX)?;
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        (secret.len() == SECRET_CHARS && secret.bytes().all(fits)).then(|| hash(token))
    }

    /// Reads the form that the token file has.
    ///
    /// # Errors
    /// What would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut bytes = [0; 32];
        let digits = text.strip_prefix(HASH_PREFIX);
        let decoded = digits.and_then(|digits| hex::decode_to_slice(digits, &mut bytes).ok());
        decoded.map(|()| Self(bytes)).ok_or_else(|| {
            format!(
                "no token hash stands there; it is {HASH_PREFIX} and 64 hexadecimal digits: \
                 `signalpost token new` makes a token with its line"
            )
        })
    }

    /// A part of the hash by which a table may find it. It says nothing of the token, since nobody can make
    /// a token for a hash, so a table may compare it in any way.
    #[must_use]
    pub fn index(&self) -> u64 {
        let (first, _) = self.0.as_chunks::<8>();
        first.first().map_or(0, |bytes| u64::from_be_bytes(*bytes))
    }
}

impl PartialEq for TokenHash {
    /// Takes the same time wherever the two differ.
    fn eq(&self, other: &Self) -> bool {
        let differences = self.0.iter().zip(&other.0).fold(0, |all, (left, right)| all | (left ^ right));
        std::hint::black_box(differences) == 0
    }
}

impl Eq for TokenHash {}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{HASH_PREFIX}{}", hex::encode(self.0))
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(…)")
    }
}

fn hash(token: &str) -> TokenHash {
    let digest = Sha256::new().chain_update(HASH_CONTEXT).chain_update(token.as_bytes()).finalize();
    TokenHash(digest.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_is_new_and_its_hash_finds_it_again() {
        let (one, other) = (Token::generate().unwrap(), Token::generate().unwrap());
        assert_ne!(one.expose(), other.expose());
        assert!(one.hash() != other.hash());
        assert!(TokenHash::of(one.expose()) == Some(one.hash()));
        assert!(TokenHash::parse(&one.hash().to_string()) == Ok(one.hash()));
        assert!(!format!("{one:?} {:?}", one.hash()).contains(&one.expose()[5..10]));
    }

    #[test]
    fn the_stored_form_never_changes() {
        let token = format!("{PREFIX}{}", "A".repeat(43));
        let stored = TokenHash::of(&token).unwrap().to_string();
        // `printf 'signalpost token v1\0spt1_AAA…' | sha256sum`
        assert_eq!(stored, "sha256-v1:35b2708051c591612f35cd80332ad9c3f5c876a30522c0b329481d73aa775612");
    }

    #[test]
    fn only_what_was_generated_can_be_a_token() {
        let good = "A".repeat(43);
        for text in ["", "secret", "spt1_", &format!("spt1_{}", "A".repeat(42)), &format!("spt2_{good}")] {
            assert!(TokenHash::of(text).is_none(), "{text}");
        }
        assert!(TokenHash::of(&format!("spt1_{}", "A".repeat(44))).is_none());
        assert!(TokenHash::of(&format!("spt1_{}!", "A".repeat(42))).is_none());
    }

    #[test]
    fn a_hash_that_is_none_is_refused_with_the_command_that_makes_one() {
        for text in ["", "sha256-v1:", "sha256-v1:00", &format!("sha256:{}", "0".repeat(64))] {
            assert!(TokenHash::parse(text).unwrap_err().contains("signalpost token new"), "{text}");
        }
    }
}

//! The signing keys of Standard Webhooks 1.0.0: `whsec_` (HMAC-SHA256, `v1`) and `whsk_` (Ed25519, `v1a`).

use base64::Engine;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use ed25519_dalek::{Signer, SigningKey};
use zeroize::Zeroizing;

use super::RenderProblem;
use super::signature::hmac_sha256;
use crate::domain::secret::Secret;

/// What a symmetric secret begins with.
pub(super) const SYMMETRIC_PREFIX: &str = "whsec_";
const ASYMMETRIC_PREFIX: &str = "whsk_";

/// The specification does not say whether secrets are padded, and its libraries differ.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A key that can sign; its bytes are wiped when it is dropped.
pub(super) enum Key {
    /// 24 to 64 bytes for HMAC-SHA256.
    Symmetric(Zeroizing<Vec<u8>>),
    /// An Ed25519 key.
    Asymmetric(SigningKey),
}

impl Key {
    /// Reads the text form.
    ///
    /// # Errors
    /// A sentence that says what would be right and shows nothing of the secret.
    pub(super) fn parse(secret: &Secret) -> Result<Self, String> {
        let text = secret.expose();
        if let Some(encoded) = text.strip_prefix(SYMMETRIC_PREFIX) {
            return symmetric(decode(encoded)?);
        }
        if let Some(encoded) = text.strip_prefix(ASYMMETRIC_PREFIX) {
            return asymmetric(&decode(encoded)?);
        }
        Err("begins with neither whsec_ nor whsk_; give whsec_ and 24 to 64 random bytes in base64".into())
    }

    /// The version, a comma and the signature of the concatenated parts in base64.
    pub(super) fn sign(&self, parts: &[&[u8]]) -> Result<String, RenderProblem> {
        Ok(match self {
            Key::Symmetric(key) => format!("v1,{}", STANDARD.encode(hmac_sha256(key, parts)?)),
            Key::Asymmetric(key) => {
                format!("v1a,{}", STANDARD.encode(key.sign(&parts.concat()).to_bytes()))
            }
        })
    }
}

fn decode(encoded: &str) -> Result<Zeroizing<Vec<u8>>, String> {
    let decoded = LENIENT.decode(encoded).map(Zeroizing::new);
    decoded.map_err(|_| "is not standard base64 (letters, digits, + and /) after its prefix".into())
}

fn symmetric(bytes: Zeroizing<Vec<u8>>) -> Result<Key, String> {
    match bytes.len() {
        24..=64 => Ok(Key::Symmetric(bytes)),
        other => Err(format!("has {other} bytes after whsec_; give 24 to 64 random bytes in base64")),
    }
}

fn asymmetric(bytes: &[u8]) -> Result<Key, String> {
    if let Ok(seed) = <&[u8; 32]>::try_from(bytes) {
        return Ok(Key::Asymmetric(SigningKey::from_bytes(seed)));
    }
    if let Ok(pair) = <&[u8; 64]>::try_from(bytes) {
        let key = SigningKey::from_keypair_bytes(pair);
        return key.map(Key::Asymmetric).map_err(|_| "has a public half that is not the secret's".into());
    }
    Err(format!(
        "has {} bytes after whsk_; give an Ed25519 seed (32 bytes) or key pair (64 bytes) in base64",
        bytes.len()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Signs as Standard Webhooks does: `id.timestamp.body`.
    fn sign(secret: &str, id: &str, timestamp: &str, body: &str) -> String {
        let parts = [id, ".", timestamp, ".", body].map(str::as_bytes);
        Key::parse(&Secret::new(secret)).unwrap().sign(&parts).unwrap()
    }

    #[test]
    fn the_published_vectors_of_v1_hold() {
        let first = sign(
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            "1614265330",
            r#"{"test": 2432232314}"#,
        );
        assert_eq!(first, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        let second = sign(
            "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
            "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
            "1649367553",
            r#"{"email":"test@example.com","username":"test_user"}"#,
        );
        assert_eq!(second, "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=");
    }

    #[test]
    fn the_published_vector_of_v1a_holds_for_the_pair_and_for_its_seed() {
        let pair = "6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==";
        let seed = STANDARD.encode(&STANDARD.decode(pair).unwrap()[..32]);
        for encoded in [pair, &seed] {
            let signature = sign(
                &format!("whsk_{encoded}"),
                "msg_p5jXN8AQM9LWM0D4loKWxJek",
                "1614265330",
                r#"{"test": 2432232314}"#,
            );
            assert_eq!(
                signature,
                "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg=="
            );
        }
    }

    #[test]
    fn padding_of_a_secret_does_not_matter_and_its_length_does() {
        for (length, fits) in [(23, false), (24, true), (25, true), (26, true), (64, true), (65, false)] {
            let padded = STANDARD.encode(vec![7; length]);
            for encoded in [padded.as_str(), padded.trim_end_matches('=')] {
                let parsed = Key::parse(&Secret::new(format!("whsec_{encoded}")));
                assert_eq!(parsed.is_ok(), fits, "{length}");
            }
        }
    }

    #[test]
    fn a_refused_key_says_what_would_be_right_and_shows_nothing_of_itself() {
        let pair_of_two_keys = STANDARD.encode([[1; 32], [2; 32]].concat());
        let table = [
            ("planted".to_owned(), "whsec_"),
            ("whsec_pl*nted".to_owned(), "base64"),
            ("whsec_".to_owned(), "24 to 64"),
            ("whsk_AAAA".to_owned(), "32 bytes"),
            (format!("whsk_{pair_of_two_keys}"), "public half"),
        ];
        for (text, part) in table {
            let problem = Key::parse(&Secret::new(&*text)).err().unwrap();
            assert!(problem.contains(part) && !problem.contains("nted"), "{problem}");
        }
    }
}

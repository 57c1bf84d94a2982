//! The headers of Standard Webhooks 1.0.0, which the CloudEvents contract uses as well.

use base64::Engine;
use base64::alphabet;
use base64::engine::general_purpose::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::HeaderMap;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

use super::verify::{Header, Rejection, check_hmac, single};
use crate::domain::time::Timestamp;

/// Five minutes, as in all libraries of the standard.
const TOLERANCE_SECONDS: u64 = 5 * 60;

/// Keys come from people's hands, often without their padding; signatures come from programs.
const KEYS: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Checks `webhook-id`, `webhook-timestamp` and `webhook-signature`.
pub(super) fn check(secret: &str, headers: &HeaderMap, body: &[u8], now: Timestamp) -> Result<(), Rejection> {
    let key = Key::parse(secret)?;
    let id = single(headers, "webhook-id")?;
    let timestamp = single(headers, "webhook-timestamp")?;
    let signatures = single(headers, "webhook-signature")?;
    if id.value.is_empty() || id.value.contains('.') {
        // With a dot in the id the same signed bytes could be cut into other parts.
        return Err(id.malformed("an id without a dot"));
    }
    check_time(timestamp, now)?;
    let signed = [id.value.as_bytes(), b".", timestamp.value.as_bytes(), b".", body].concat();
    key.check_any(signatures.value, &signed)
}

fn check_time(header: Header<'_>, now: Timestamp) -> Result<(), Rejection> {
    let digits_only = !header.value.is_empty() && header.value.bytes().all(|byte| byte.is_ascii_digit());
    let signed_at: Option<i64> = header.value.parse().ok().filter(|_| digits_only);
    let signed_at = signed_at.ok_or_else(|| header.malformed("seconds since the Unix epoch"))?;
    let seconds = now.as_seconds().abs_diff(signed_at);
    match seconds <= TOLERANCE_SECONDS {
        true => Ok(()),
        false if signed_at < now.as_seconds() => {
            Err(Rejection::TimestampTooOld { seconds, limit: TOLERANCE_SECONDS })
        }
        false => Err(Rejection::TimestampTooNew { seconds, limit: TOLERANCE_SECONDS }),
    }
}

/// What a secret can verify.
enum Key {
    /// Version `v1`: HMAC-SHA256.
    Shared(Vec<u8>),
    /// Version `v1a`: an Ed25519 public key.
    Public(Vec<u8>),
}

impl Key {
    /// `whpk_…` and `whsk_…` are Ed25519 keys; anything else is a shared key, `whsec_` being optional.
    fn parse(secret: &str) -> Result<Self, Rejection> {
        if let Some(public) = secret.strip_prefix("whpk_") {
            let key = decode(public)?;
            let right_length = key.len() == 32;
            return right_length
                .then_some(Key::Public(key))
                .ok_or(Rejection::UnusableSecret("is no Ed25519 public key: those have 32 bytes"));
        }
        if let Some(private) = secret.strip_prefix("whsk_") {
            return public_half(&decode(private)?).map(Key::Public);
        }
        let key = decode(secret.strip_prefix("whsec_").unwrap_or(secret))?;
        match key.is_empty() {
            true => Err(Rejection::UnusableSecret("is empty")),
            false => Ok(Key::Shared(key)),
        }
    }

    fn version(&self) -> &'static str {
        match self {
            Key::Shared(_) => "v1",
            Key::Public(_) => "v1a",
        }
    }

    /// One good signature of the key's version is enough: while secrets rotate there are several.
    fn check_any(&self, list: &str, signed: &[u8]) -> Result<(), Rejection> {
        let entries = list.split(' ').filter_map(|entry| entry.split_once(','));
        let mut ours =
            entries.filter(|(version, _)| *version == self.version()).map(|(_, text)| text).peekable();
        if ours.peek().is_none() {
            return Err(Rejection::NoSuchVersion(self.version()));
        }
        match ours.filter_map(|text| STANDARD.decode(text).ok()).any(|one| self.fits(&one, signed)) {
            true => Ok(()),
            false => Err(Rejection::SignatureMismatch),
        }
    }

    fn fits(&self, signature: &[u8], signed: &[u8]) -> bool {
        match self {
            Key::Shared(key) => check_hmac(key, signed, signature).is_ok(),
            Key::Public(key) => UnparsedPublicKey::new(&ED25519, key).verify(signed, signature).is_ok(),
        }
    }
}

fn decode(text: &str) -> Result<Vec<u8>, Rejection> {
    KEYS.decode(text).map_err(|_| Rejection::UnusableSecret("is not base64 after its prefix"))
}

/// The public key of a private one: a seed of 32 bytes, with or without the public key after it.
fn public_half(private: &[u8]) -> Result<Vec<u8>, Rejection> {
    let pair = match private.split_at_checked(32) {
        Some((seed, [])) => Ed25519KeyPair::from_seed_unchecked(seed),
        Some((seed, public)) => Ed25519KeyPair::from_seed_and_public_key(seed, public),
        None => return Err(Rejection::UnusableSecret("is no Ed25519 key: those have 32 or 64 bytes")),
    };
    pair.map(|pair| pair.public_key().as_ref().to_vec())
        .map_err(|_| Rejection::UnusableSecret("is no Ed25519 key, or its two halves don't belong together"))
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const TIME: &str = "1614265330";
    const BODY: &str = r#"{"test": 2432232314}"#;
    const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
    const PRIVATE: &str =
        "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==";
    const PUBLIC: &str = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=";
    const SIGNATURE_A: &str =
        "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==";

    /// A request of vector 1, to be spoilt.
    struct Case<'a> {
        secret: &'a str,
        id: Option<&'a str>,
        time: Option<&'a str>,
        signature: Option<Cow<'a, str>>,
        body: &'a str,
        now: i64,
    }

    impl Default for Case<'_> {
        fn default() -> Self {
            let signature = Some(SIGNATURE.into());
            Self { secret: SECRET, id: Some(ID), time: Some(TIME), signature, body: BODY, now: 1_614_265_330 }
        }
    }

    impl Case<'_> {
        fn check(&self) -> Result<(), Rejection> {
            let mut headers = HeaderMap::new();
            let values = [
                ("webhook-id", self.id),
                ("webhook-timestamp", self.time),
                ("webhook-signature", self.signature.as_deref()),
            ];
            for (name, value) in values {
                value.map(|value| headers.insert(name, value.parse().unwrap()));
            }
            let now = Timestamp::from_millis(self.now * 1000);
            check(self.secret, &headers, self.body.as_bytes(), now)
        }
    }

    fn signed(signature: &str) -> Case<'_> {
        Case { signature: Some(signature.into()), ..Case::default() }
    }

    #[test]
    fn the_published_vectors_are_genuine() {
        assert_eq!(Case::default().check(), Ok(()));
        let second = Case {
            secret: "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
            id: Some("msg_27UH4WbU6Z5A5EzD8u03UvzRbpk"),
            time: Some("1649367553"),
            signature: Some("v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=".into()),
            body: r#"{"email":"test@example.com","username":"test_user"}"#,
            now: 1_649_367_553,
        };
        assert_eq!(second.check(), Ok(()));
    }

    #[test]
    fn the_published_ed25519_vector_is_genuine_with_the_public_key_or_the_private_one_or_its_seed() {
        let seed = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbc=";
        for secret in [PUBLIC, PRIVATE, seed] {
            assert_eq!(Case { secret, ..signed(SIGNATURE_A) }.check(), Ok(()), "{secret}");
            let tampered = Case { secret, body: "{}", ..signed(SIGNATURE_A) };
            assert_eq!(tampered.check(), Err(Rejection::SignatureMismatch));
            let later = Case { secret, time: Some("1614265331"), ..signed(SIGNATURE_A) };
            assert_eq!(later.check(), Err(Rejection::SignatureMismatch));
        }
    }

    #[test]
    fn each_missing_header_is_named() {
        let cases = [
            (Case { id: None, ..Case::default() }, "webhook-id"),
            (Case { time: None, ..Case::default() }, "webhook-timestamp"),
            (Case { signature: None, ..Case::default() }, "webhook-signature"),
        ];
        for (case, name) in cases {
            assert_eq!(case.check(), Err(Rejection::MissingHeader(name)));
        }
    }

    #[test]
    fn timestamps_are_digits() {
        for time in ["", "soon", "1614265330.5", "+1614265330", "-1", "99999999999999999999"] {
            let answer = Case { time: Some(time), ..Case::default() }.check();
            assert!(matches!(answer, Err(Rejection::MalformedHeader { .. })), "{time:?} {answer:?}");
        }
    }

    #[test]
    fn five_minutes_either_way_are_accepted_and_a_second_more_is_not() {
        for now in [1_614_265_330 - 300, 1_614_265_330 + 300] {
            assert_eq!(Case { now, ..Case::default() }.check(), Ok(()));
        }
        let late = Case { now: 1_614_265_330 + 301, ..Case::default() }.check();
        assert_eq!(late, Err(Rejection::TimestampTooOld { seconds: 301, limit: 300 }));
        let early = Case { now: 1_614_265_330 - 301, ..Case::default() }.check();
        assert_eq!(early, Err(Rejection::TimestampTooNew { seconds: 301, limit: 300 }));
    }

    #[test]
    fn anything_tampered_with_is_a_mismatch() {
        let cases = [
            Case { id: Some("msg_p5jXN8AQM9LWM0D4loKWxJel"), ..Case::default() },
            Case { time: Some("1614265331"), ..Case::default() },
            Case { body: r#"{"test": 2432232315}"#, ..Case::default() },
            Case { secret: "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD", ..Case::default() },
            signed("v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OA="),
            signed("v1,h0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
            signed("v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlN"),
            signed("v1,"),
        ];
        for case in cases {
            assert_eq!(case.check(), Err(Rejection::SignatureMismatch), "{:?}", case.signature);
        }
        let dotted = Case { id: Some("msg.1"), ..Case::default() }.check();
        assert!(matches!(dotted, Err(Rejection::MalformedHeader { name: "webhook-id", .. })));
    }

    #[test]
    fn entries_of_other_versions_are_ignored() {
        let other = SIGNATURE.replace("v1,", "v2,");
        for list in [other.as_str(), SIGNATURE_A, "", "v1", "garbage"] {
            assert_eq!(signed(list).check(), Err(Rejection::NoSuchVersion("v1")), "{list:?}");
        }
        assert_eq!(signed(&format!("{other} {SIGNATURE}")).check(), Ok(()));
        let only_v1 = Case { secret: PUBLIC, ..Case::default() };
        assert_eq!(only_v1.check(), Err(Rejection::NoSuchVersion("v1a")));
    }

    #[test]
    fn a_good_signature_among_bad_ones_is_enough() {
        let bad = "v1,Ceo5qEr07ixe2NLpvHk3FH9bwy/WavXrAFQ/9tdO6mc=";
        assert_eq!(signed(&format!("{bad} {bad} v1,?? {SIGNATURE} {bad}")).check(), Ok(()));
        assert_eq!(signed(&format!("{bad} {bad}")).check(), Err(Rejection::SignatureMismatch));
    }

    #[test]
    fn the_prefix_and_the_padding_of_a_secret_are_optional() {
        assert_eq!(Case { secret: &SECRET["whsec_".len()..], ..Case::default() }.check(), Ok(()));
        let public = Case { secret: PUBLIC.trim_end_matches('='), ..signed(SIGNATURE_A) };
        assert_eq!(public.check(), Ok(()));
    }

    #[test]
    fn a_secret_that_can_not_verify_is_refused() {
        let halves =
            "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfpdv90Jwek95rbU9LU31Vj81lbvbcIRzvs3iskK5sxtw==";
        for secret in ["whsec_", "whsec_???", "whpk_AAAA", "whsk_AAAA", halves] {
            let answer = Case { secret, ..Case::default() }.check();
            assert!(matches!(answer, Err(Rejection::UnusableSecret(_))), "{secret} {answer:?}");
        }
    }
}

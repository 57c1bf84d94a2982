//! Takes our own secrets out of what a receiver answered. Some receivers send back what they got, headers
//! and all; the history must not show a secret to those who may read it. Pure.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use zeroize::Zeroizing;

use crate::contract::ResolvedSecrets;
use crate::domain::destination::Destination;
use crate::domain::secret::HttpAuth;

/// Shorter texts are in many answers by chance, and no secret worth the name.
const SHORTEST: usize = 6;
/// What stands in their place.
const MARK: &[u8] = b"[secret]";

/// The answer without the destination's secrets, as they are or as Basic authentication writes them.
pub(super) fn without_secrets(body: Bytes, destination: &Destination, secrets: &ResolvedSecrets) -> Bytes {
    if body.is_empty() {
        return body;
    }
    let basic = match (&destination.http_auth, &secrets.http_auth) {
        (HttpAuth::Basic { username, secret: _ }, Some(secret)) => {
            let pair = Zeroizing::new(format!("{username}:{}", secret.expose()));
            Some(Zeroizing::new(STANDARD.encode(pair.as_bytes())))
        }
        _ => None,
    };
    let known = secrets.signing.iter().chain(&secrets.http_auth).map(|secret| secret.expose());
    let known = known.chain(destination.headers.iter().map(|header| header.value.expose()));
    let known = known.chain(basic.as_ref().map(|basic| basic.as_str()));
    let mut known: Vec<&[u8]> = known.map(str::as_bytes).filter(|one| one.len() >= SHORTEST).collect();
    // The longest first: one may be a part of another.
    known.sort_unstable_by_key(|one| std::cmp::Reverse(one.len()));
    replace(body, &known)
}

fn replace(body: Bytes, known: &[&[u8]]) -> Bytes {
    let mut clean: Option<Vec<u8>> = None;
    let mut rest: &[u8] = &body;
    let mut kept = 0;
    while let Some(first) = rest.first() {
        // At the end an answer is cut, and a secret with it.
        let found = known.iter().find_map(|one| {
            let length = one.len().min(rest.len());
            (length >= SHORTEST && one.get(..length) == rest.get(..length)).then_some(length)
        });
        match found {
            Some(length) => {
                let clean = clean.get_or_insert_with(|| body.get(..kept).unwrap_or_default().to_vec());
                clean.extend_from_slice(MARK);
                rest = rest.get(length..).unwrap_or_default();
            }
            None => {
                if let Some(clean) = &mut clean {
                    clean.push(*first);
                }
                kept += 1;
                rest = rest.get(1..).unwrap_or_default();
            }
        }
    }
    clean.map_or(body, Bytes::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cleaned(body: &'static str, known: &[&str]) -> String {
        let known: Vec<&[u8]> = known.iter().map(|one| one.as_bytes()).collect();
        String::from_utf8(replace(Bytes::from_static(body.as_bytes()), &known).to_vec()).unwrap()
    }

    #[test]
    fn secrets_are_taken_out_wherever_they_stand_also_where_the_answer_is_cut() {
        for (body, left) in [
            ("nothing here", "nothing here"),
            ("planted", "[secret]"),
            ("a planted and plantedplanted.", "a [secret] and [secret][secret]."),
            ("planted-longer", "[secret]"),
            ("ends in planted-lon", "ends in [secret]"),
            ("ends in plante", "ends in [secret]"),
            ("ends in plant", "ends in plant"),
            ("", ""),
        ] {
            assert_eq!(cleaned(body, &["planted-longer", "planted"]), left);
        }
    }
}

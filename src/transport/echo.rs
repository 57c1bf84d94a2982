//! Takes our own secrets out of what a receiver answered. Some receivers send back what they got, headers
//! and all; the history must not show a secret to those who may read it. Pure.

use bytes::Bytes;
use url::{Position, Url};
use zeroize::Zeroizing;

use crate::contract::{ResolvedSecrets, basic_credentials};
use crate::domain::destination::{Destination, Header};
use crate::domain::secret::HttpAuth;

/// Shorter texts are in many answers by chance, and no secret worth the name.
const SHORTEST: usize = 6;
/// Shorter parts of a URL are mostly words.
const SHORTEST_OF_URL: usize = 8;
/// What stands in their place.
const MARK: &[u8] = b"[secret]";

/// The answer without the destination's secrets, as they are or as Basic authentication writes them, and without what
/// may be a token in its URL.
pub(super) fn without_secrets(body: Bytes, destination: &Destination, secrets: &ResolvedSecrets) -> Bytes {
    if body.is_empty() {
        return body;
    }
    let basic = match (&destination.http_auth, &secrets.http_auth) {
        (HttpAuth::Basic { username, secret: _ }, Some(secret)) => {
            Some(basic_credentials(username, secret.expose()))
        }
        _ => None,
    };
    let of_url = parts_of(destination.url.as_url());
    // Receivers cut white space off at the ends of a header, so they send it back without.
    let known = secrets.signing.iter().chain(&secrets.http_auth).map(|secret| secret.expose().trim());
    let known = known.chain(destination.headers.iter().map(Header::sent_value));
    let known = known.chain(basic.as_ref().map(|basic| basic.as_str())).map(str::as_bytes);
    let known = known.filter(|one| one.len() >= SHORTEST).chain(of_url.iter().map(|part| part.as_slice()));
    let mut known: Vec<&[u8]> = known.collect();
    // The longest first: one may be a part of another.
    known.sort_unstable_by_key(|one| std::cmp::Reverse(one.len()));
    known.dedup();
    replace(body, &known)
}

/// What may be a token in a URL, as it is sent and decoded: the target of the request, its path and its query, and of
/// these each segment and each value.
fn parts_of(url: &Url) -> Vec<Zeroizing<Vec<u8>>> {
    let (path, query) = (url.path(), url.query().unwrap_or_default());
    let values = query.split('&').map(|pair| pair.split_once('=').map_or(pair, |(_, value)| value));
    let whole = [&url[Position::BeforePath..Position::AfterQuery], path, query];
    let parts = whole.into_iter().chain(path.split('/')).chain(values);
    let forms = parts.flat_map(|part| {
        // A plus is a space in forms, and itself elsewhere.
        let sent = Zeroizing::new(part.as_bytes().to_vec());
        let others = [decoded(part, b'+'), decoded(part, b' ')];
        let others = others.into_iter().filter(|other| *other != sent).collect::<Vec<_>>();
        std::iter::once(sent).chain(others)
    });
    forms.filter(|part| part.len() >= SHORTEST_OF_URL).collect()
}

/// The text without its percent signs (RFC 3986), and with this for a plus.
fn decoded(text: &str, plus: u8) -> Zeroizing<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let escaped = match after {
            [high, low, next @ ..] if *first == b'%' => {
                let byte = digit(*high).zip(digit(*low)).map(|(high, low)| high * 16 + low);
                byte.and_then(|byte| u8::try_from(byte).ok()).map(|byte| (byte, next))
            }
            _ => None,
        };
        let (byte, next) = escaped.unwrap_or((if *first == b'+' { plus } else { *first }, after));
        bytes.push(byte);
        rest = next;
    }
    bytes
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
    use crate::domain::contract::Contract;
    use crate::domain::destination::{DestinationState, DestinationUrl};
    use crate::domain::id::{DestinationId, OrganizationId};
    use crate::domain::secret::{Secret, SecretSource, SigningSecrets};
    use crate::domain::settings::DeliverySettings;
    use crate::domain::subscription::Subscription;
    use crate::domain::time::Timestamp;

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

    #[test]
    fn what_may_be_a_token_in_the_url_is_taken_out_as_it_was_sent_and_decoded() {
        let url =
            "https://r.example/in/planted%2Dpath/v1?key=planted%20q%2B1&planted-flag&n=1&k=planted+form";
        let url = Url::parse(url).unwrap();
        let parts = parts_of(&url);
        let known: Vec<&[u8]> = parts.iter().map(|part| part.as_slice()).collect();
        for (body, left) in [
            ("no POST /in/x", "no POST /in/x"),
            ("a planted%2Dpath, a planted-path.", "a [secret], a [secret]."),
            ("key planted%20q%2B1 or planted q+1", "key [secret] or [secret]"),
            ("planted+form, planted form", "[secret], [secret]"),
            ("planted-flag n=1 v1", "[secret] n=1 v1"),
            ("ends in planted-pat", "ends in [secret]"),
        ] {
            assert_eq!(replace(Bytes::from_static(body.as_bytes()), &known), left, "{body}");
        }
        let bare = Url::parse("https://r.example/hook?a=b").unwrap();
        let whole: Vec<_> = parts_of(&bare).iter().map(|part| part.to_vec()).collect();
        assert_eq!(whole, [b"/hook?a=b".to_vec()], "short tokens are known as a whole alone");
    }

    #[test]
    fn a_percent_sign_without_two_digits_means_itself() {
        for (text, plain) in
            [("%41%6a", "Aj"), ("100%", "100%"), ("%4", "%4"), ("%zz+%41", "%zz A"), ("", "")]
        {
            assert_eq!(decoded(text, b' ').as_slice(), plain.as_bytes(), "{text}");
        }
    }

    #[test]
    fn the_target_and_headers_with_white_space_around_them_are_taken_out_as_receivers_see_them() {
        let header = |value: &str| Header { name: "x-key".into(), value: Secret::new(value) };
        let destination = Destination {
            id: DestinationId::make(Timestamp::from_millis(1), [7; 10]),
            organization_id: OrganizationId::parse("acme").unwrap(),
            display_name: String::new(),
            url: DestinationUrl::parse("https://r.example/a/b?k=planted-query", false).unwrap(),
            contract: Contract::StandardWebhooks,
            subscription: Subscription::default(),
            settings: DeliverySettings::default(),
            signing: SigningSecrets::default(),
            http_auth: HttpAuth::Bearer { token: SecretSource::Value(Secret::new("")) },
            headers: vec![header(" \tplanted-padded "), header("planted-plain")],
            state: DestinationState::Active,
            created_at: Timestamp::from_millis(1),
            updated_at: Timestamp::from_millis(1),
            revision: 1,
        };
        let http_auth = Some(Secret::new(" planted-bearer "));
        let secrets = ResolvedSecrets { signing: vec![Secret::new("planted-signing")], http_auth };
        let body = "POST /a/b?k=planted-query HTTP/1.1|planted-padded|planted-plain|planted-bearer|planted-signing|on";
        let left = without_secrets(Bytes::from_static(body.as_bytes()), &destination, &secrets);
        assert_eq!(left, "POST [secret] HTTP/1.1|[secret]|[secret]|[secret]|[secret]|on");
    }
}

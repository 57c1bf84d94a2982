use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use serde_json::json;

use super::super::CallerKind;
use super::*;

const ISSUER: &str = "https://issuer.example";
const NOW: Timestamp = Timestamp::from_millis(1_750_000_000_000);

/// A key of 2048 bits whose private half is forgotten, and a token that was signed with it.
const RSA_MODULUS: &str = "u9XCugJWdwaaizZ298QgXEBDbT3Wn0ojKR7ecFLZOfu5pZ4EeO8Q9XwB9r_TSNKTtW5ZaJvOhgJuSW-MDMsuyyitsGhj3xZKpjNE\
     -R-ApVaRxHTjLEiDkXpSRlaaW0z1og4HPYfGk--d4Ice4quklyyF-KHWfwxevPrphHAifQWhkFXtsyEXoSr1AW_CgLiyCPKvWni0\
     zkxqGQH5m7u4oJlFu3Z4uqh3nbfDkh-F-hGUNR8tXblJ9vgxA6paX04dn6sz8V-Zz820Nup0rYNvgln-xsq52ZRrkf2fTBqBovsO\
     M86S5KJlbVBUm8V7qkYpXabmV1TOz6zNUTW2tegbPQ";
const RSA_TOKEN: &str = "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCIsImtpZCI6InJzYSJ9.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwiYXV\
     kIjoic2lnbmFscG9zdCIsInN1YiI6InN2YyIsImV4cCI6NDEwMjQ0NDgwMCwicm9sZXMiOlsiaG9va3MtYWRtaW4iXSwib3JnYW5\
     pemF0aW9ucyI6WyJhY21lIl19.mcEbAqQ1irQccrZ20H18f9SGsMvSIKpo09pzEiv8wCiSciJyMbrOfFfPXfOBWtWDN67cv4SWUO\
     bhJKZMEHQgz32d-OBUbZe6SO1seBjLeifkOx6NmhxVQCW_fDDdkbXBZB-euKL2QT_xkB_GdbhscSHELo5EbVVykG4SUrJVD4pLhx\
     CRVc1MIeRcO7GhkwxiSkQ4W_V2IPiDD7xIdunUJZIxDoMdwdgfbUm3MwEG4vFBXM7XxZgUdyx2gkOM8sn3CxIEEsDT_PEgl78Suz\
     LT9pTstDJRN6H9_oRbjKhlmGf-gXcOTE72tbvgpyfgz1vaSHHrKjlv6qFgBNNzkt1zRg";

fn rules() -> JwtRules {
    JwtRules {
        issuer: ISSUER.into(),
        audiences: vec!["signalpost".into()],
        algorithms: ["EdDSA", "ES256", "RS256"].map(|name| name.parse().unwrap()).to_vec(),
        leeway: Duration::from_secs(30),
        roles_claim: "roles".into(),
        roles: ["hooks-admin=admin", "reader=viewer@*", "root=operator", "fixed=emitter@globex"]
            .map(|rule| rule.parse().unwrap())
            .to_vec(),
        organizations_claim: "organizations".into(),
    }
}

fn encode(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

struct Issuer {
    pair: Ed25519KeyPair,
    keys: KeySet,
}

impl Issuer {
    fn new() -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap();
        let x = URL_SAFE_NO_PAD.encode(pair.public_key());
        let keys = json!({"keys": [
            {"kty": "OKP", "crv": "Ed25519", "kid": "one", "use": "sig", "x": x},
            {"kty": "RSA", "kid": "rsa", "alg": "RS256", "n": RSA_MODULUS, "e": "AQAB"},
            {"kty": "oct", "kid": "shared", "k": "c2VjcmV0"},
            {"kty": "OKP", "crv": "Ed25519", "kid": "for-encryption", "use": "enc", "x": x},
            {"kty": "novel", "kid": "novel"},
        ]});
        let keys = KeySet::parse(keys.to_string().as_bytes()).unwrap();
        Self { pair, keys }
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", encode(header), encode(claims));
        let signed = URL_SAFE_NO_PAD.encode(self.pair.sign(message.as_bytes()));
        format!("{message}.{signed}")
    }

    /// A good token, but for some claims; `null` removes one.
    fn token(&self, changes: Value) -> String {
        self.sign(&json!({"alg": "EdDSA", "typ": "JWT", "kid": "one"}), &claims(changes))
    }

    fn judge(&self, token: &str) -> Result<Believed, Doubt> {
        JwtJudge::new(rules()).judge(token, &self.keys, NOW)
    }
}

fn claims(changes: Value) -> Value {
    let good = json!({
        "iss": ISSUER, "aud": ["other", "signalpost"], "sub": "svc-backend", "exp": 1_750_000_060,
        "roles": ["hooks-admin", "unknown"], "organizations": ["acme", "not an id", 7],
    });
    let mut claims: BTreeMap<String, Value> = serde_json::from_value(good).unwrap();
    claims.extend(serde_json::from_value::<BTreeMap<String, Value>>(changes).unwrap());
    claims.retain(|_, value| !value.is_null());
    serde_json::to_value(claims).unwrap()
}

fn grants(believed: &Believed) -> Vec<String> {
    believed.identity.grants.iter().map(ToString::to_string).collect()
}

#[test]
fn a_good_token_is_believed_and_its_claims_mean_what_the_rules_say() {
    let issuer = Issuer::new();
    let believed = issuer.judge(&issuer.token(json!({}))).unwrap();
    assert_eq!(
        (believed.identity.subject.as_str(), believed.identity.kind),
        ("svc-backend", CallerKind::Jwt)
    );
    assert_eq!(grants(&believed), ["admin@acme"]);
    assert_eq!(believed.expires_at, Timestamp::from_millis(1_750_000_090_000));
    for (changes, expected) in [
        (json!({"roles": "reader root"}), vec!["viewer@*", "operator"]),
        (json!({"roles": ["fixed"], "organizations": null}), vec!["emitter@globex"]),
        (json!({"roles": ["stranger"]}), vec![]),
        (json!({"roles": null}), vec![]),
        (json!({"roles": {"hooks-admin": true}}), vec![]),
    ] {
        assert_eq!(grants(&issuer.judge(&issuer.token(changes.clone())).unwrap()), expected, "{changes}");
    }
    let nowhere = issuer.judge(&issuer.token(json!({"organizations": null}))).unwrap();
    assert!(!crate::auth::Caller::of(nowhere.identity).has_anywhere(Role::Viewer));
}

#[test]
fn claims_are_found_by_their_name_or_by_a_path() {
    let issuer = Issuer::new();
    for (path, changes) in [
        ("realm_access.roles", json!({"realm_access": {"roles": ["root"]}})),
        ("https://example.com/roles", json!({"https://example.com/roles": ["root"]})),
    ] {
        let judge = JwtJudge::new(JwtRules { roles_claim: path.into(), ..rules() });
        let believed = judge.judge(&issuer.token(changes), &issuer.keys, NOW).unwrap();
        assert_eq!(grants(&believed), ["operator"]);
    }
}

#[test]
fn a_token_for_somebody_else_or_another_time_is_not_believed() {
    let issuer = Issuer::new();
    for changes in [
        json!({"iss": "https://other.example"}),
        json!({"iss": null}),
        json!({"aud": "other"}),
        json!({"aud": null}),
        json!({"sub": null}),
        json!({"sub": ""}),
        json!({"exp": null}),
        json!({"exp": "soon"}),
        json!({"exp": 1_749_999_970}),
        json!({"nbf": 1_750_000_031}),
        json!({"nbf": "later"}),
    ] {
        assert_eq!(issuer.judge(&issuer.token(changes.clone())), Err(Doubt::Wrong), "{changes}");
    }
    for within_leeway in [json!({"exp": 1_749_999_971}), json!({"nbf": 1_750_000_030})] {
        assert!(issuer.judge(&issuer.token(within_leeway)).is_ok());
    }
}

#[test]
fn the_header_can_not_choose_how_it_is_believed() {
    let (issuer, other) = (Issuer::new(), Issuer::new());
    let claims = claims(json!({}));
    for header in [
        json!({"alg": "none", "kid": "one"}),
        json!({"alg": "HS256", "kid": "one"}),
        json!({"alg": "HS256", "kid": "rsa"}),
        json!({"alg": "ES256", "kid": "one"}),
        json!({"alg": "RS256", "kid": "one"}),
        json!({"alg": "EdDSA", "kid": "rsa"}),
        json!({"alg": "EdDSA", "kid": "one", "crit": ["exp"]}),
        json!({"alg": "EdDSA", "kid": "one", "typ": "logout+jwt"}),
        json!({"kid": "one"}),
    ] {
        assert_eq!(issuer.judge(&issuer.sign(&header, &claims)), Err(Doubt::Wrong), "{header}");
    }
    for kid in ["shared", "for-encryption", "novel", "two"] {
        let header = json!({"alg": "EdDSA", "kid": kid});
        assert_eq!(issuer.judge(&issuer.sign(&header, &claims)), Err(Doubt::UnknownKey), "{kid}");
    }
    // A key in the header is nobody's key.
    let x = URL_SAFE_NO_PAD.encode(other.pair.public_key());
    let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": x});
    let forged = other.sign(&json!({"alg": "EdDSA", "kid": "one", "jwk": jwk}), &claims);
    assert_eq!(issuer.judge(&forged), Err(Doubt::Wrong));
    // Without a key's name, all that fit are tried.
    assert!(issuer.judge(&issuer.sign(&json!({"alg": "EdDSA"}), &claims)).is_ok());
    assert!(issuer.judge(&other.sign(&json!({"alg": "EdDSA"}), &claims)).is_err());
}

#[test]
fn damaged_and_oversized_tokens_are_not_believed() {
    let issuer = Issuer::new();
    let good = issuer.token(json!({}));
    let (message, _) = good.rsplit_once('.').unwrap();
    let unsigned = format!("{message}.");
    let padded = issuer.token(json!({"padding": "x".repeat(TOKEN_MAX_BYTES)}));
    for token in ["", ".", "..", "a.b.c", &good[1..], &unsigned, &format!("{good}.x"), &padded] {
        assert!(issuer.judge(token).is_err(), "{token}");
    }
    for position in (0..good.len()).step_by(7) {
        let mut bytes = good.clone().into_bytes();
        bytes[position] = if bytes[position] == b'A' { b'B' } else { b'A' };
        assert!(issuer.judge(std::str::from_utf8(&bytes).unwrap()).is_err(), "{position}");
    }
}

#[test]
fn rsa_and_ecdsa_signatures_are_verified_by_ring() {
    let issuer = Issuer::new();
    let believed = issuer.judge(RSA_TOKEN).unwrap();
    assert_eq!((believed.identity.subject.as_str(), grants(&believed)), ("svc", vec!["admin@acme".into()]));
    let parts: Vec<&str> = RSA_TOKEN.split('.').collect();
    let other_claims = encode(&claims(json!({})));
    assert_eq!(issuer.judge(&[parts[0], &other_claims, parts[2]].join(".")), Err(Doubt::Wrong));

    let random = SystemRandom::new();
    let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).unwrap();
    let point = pair.public_key().as_ref();
    let [x, y] = [&point[1..33], &point[33..]].map(|part| URL_SAFE_NO_PAD.encode(part));
    let keys = json!({"keys": [{"kty": "EC", "crv": "P-256", "kid": "ec", "x": x, "y": y}]});
    let keys = KeySet::parse(keys.to_string().as_bytes()).unwrap();
    let header = encode(&json!({"alg": "ES256", "kid": "ec"}));
    let message = format!("{header}.{}", encode(&claims(json!({}))));
    let signed = pair.sign(&random, message.as_bytes()).unwrap();
    let token = format!("{message}.{}", URL_SAFE_NO_PAD.encode(signed.as_ref()));
    assert!(JwtJudge::new(rules()).judge(&token, &keys, NOW).is_ok());
}

#[test]
fn key_sets_without_a_usable_key_are_refused() {
    let long_secret = r#"{"keys":[{"kty":"oct","k":"c2VjcmV0","kid":"a"}]}"#;
    for (json, part) in [
        ("", "no JSON object"),
        ("[]", "no JSON object"),
        ("{}", "no list `keys`"),
        (r#"{"keys":[]}"#, "no public key"),
        (long_secret, "no public key"),
    ] {
        let why = KeySet::parse(json.as_bytes()).map(|_| ()).unwrap_err();
        assert!(why.contains(part), "{json}: {why}");
    }
}

//! Secrets in, and what can be said about them out. Nothing here writes the text of a secret.

use std::path::PathBuf;

use super::required;
use crate::control::destination_patch::{HeaderChange, HttpAuthChange, SecretChange};
use crate::domain::destination::Header;
use crate::domain::secret::{HttpAuth, Secret, SecretSource, SigningSecrets};
use crate::domain::violation::{Rule, Violations};
use crate::grpc::convert::time::write_timestamp;
use crate::grpc::proto::v1;
use crate::grpc::proto::v1::http_auth::Method;
use crate::grpc::proto::v1::secret_ref::Source;

/// Reads a signing secret of an update or a creation; absent leaves what is stored.
pub fn read_signing_secret(
    secret: Option<v1::SecretRef>,
    path: &str,
    found: &mut Violations,
) -> SecretChange {
    let Some(secret) = secret else { return SecretChange::Untouched };
    match read_source(secret, path, found) {
        Some(Some(source)) => SecretChange::Set(source),
        Some(None) => SecretChange::Remove,
        None => SecretChange::Untouched,
    }
}

/// Reads a secret that can't be `none`; absent is `None`.
pub fn read_needed_secret(
    secret: Option<v1::SecretRef>,
    path: &str,
    found: &mut Violations,
) -> Option<SecretSource> {
    let read = read_source(secret?, path, found);
    if read == Some(None) {
        found.add_as(Rule::NotAllowed, path, "is `none`; give a value, an environment variable or a file");
    }
    read.flatten()
}

/// The outer `None` is a violation, the inner one the absence of a secret.
fn read_source(secret: v1::SecretRef, path: &str, found: &mut Violations) -> Option<Option<SecretSource>> {
    match secret.source {
        Some(Source::None(_)) => Some(None),
        Some(Source::Value(value)) => Some(Some(SecretSource::Value(Secret::new(value)))),
        Some(Source::EnvironmentVariable(name)) => Some(Some(SecretSource::EnvironmentVariable(name))),
        Some(Source::File(file)) => Some(Some(SecretSource::File(PathBuf::from(file)))),
        None => {
            required(path, "give one of `none`, `value`, `environment_variable` and `file`", found);
            None
        }
    }
}

/// Reads how requests authenticate; a secret that is left out is the stored one.
pub fn read_http_auth(auth: v1::HttpAuth, path: &str, found: &mut Violations) -> Option<HttpAuthChange> {
    match auth.method {
        Some(Method::Unauthenticated(_)) => Some(HttpAuthChange::Unauthenticated),
        Some(Method::Basic(basic)) => Some(HttpAuthChange::Basic {
            username: basic.username,
            secret: read_needed_secret(basic.password, &format!("{path}.basic.password"), found),
        }),
        Some(Method::Bearer(bearer)) => Some(HttpAuthChange::Bearer {
            token: read_needed_secret(bearer.token, &format!("{path}.bearer.token"), found),
        }),
        None => {
            required(path, "give one of `unauthenticated`, `basic` and `bearer`", found);
            None
        }
    }
}

/// Reads headers; a value that is left out is the stored one.
pub fn read_headers(headers: Vec<v1::Header>) -> Vec<HeaderChange> {
    let read = |header: v1::Header| HeaderChange { name: header.name, value: header.value.map(Secret::new) };
    headers.into_iter().map(read).collect()
}

/// Writes how requests authenticate, without the secrets.
pub fn write_http_auth(auth: &HttpAuth) -> v1::HttpAuth {
    let method = match auth {
        HttpAuth::Unauthenticated => Method::Unauthenticated(v1::Unauthenticated {}),
        HttpAuth::Basic { username, secret: _ } => {
            Method::Basic(v1::BasicAuth { username: username.clone(), password: None })
        }
        HttpAuth::Bearer { token: _ } => Method::Bearer(v1::BearerAuth { token: None }),
    };
    v1::HttpAuth { method: Some(method) }
}

/// Writes headers, without their values.
pub fn write_headers(headers: &[Header]) -> Vec<v1::Header> {
    headers.iter().map(|header| v1::Header { name: header.name.clone(), value: None }).collect()
}

/// Writes what can be said about the signing secrets.
pub fn write_summary(signing: &SigningSecrets) -> v1::SecretSummary {
    let (source, reference) = match &signing.current {
        None => (v1::SecretSource::None, String::new()),
        Some(SecretSource::Value(_)) => (v1::SecretSource::Value, String::new()),
        Some(SecretSource::EnvironmentVariable(name)) => {
            (v1::SecretSource::EnvironmentVariable, name.clone())
        }
        Some(SecretSource::File(path)) => (v1::SecretSource::File, path.display().to_string()),
    };
    v1::SecretSummary {
        source: source.into(),
        reference,
        rotation_end_time: signing.retiring.as_ref().map(|retiring| write_timestamp(retiring.until)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::secret::RetiringSecret;
    use crate::domain::time::Timestamp;

    fn source(source: Source) -> v1::SecretRef {
        v1::SecretRef { source: Some(source) }
    }

    #[test]
    fn each_source_of_a_secret_is_read_and_absent_changes_nothing() {
        let mut found = Violations::new();
        let mut read = |secret| read_signing_secret(secret, "destination.signing_secret", &mut found);
        assert_eq!(read(None), SecretChange::Untouched);
        assert_eq!(read(Some(source(Source::None(v1::NoSecret {})))), SecretChange::Remove);
        let value = SecretSource::Value(Secret::new("whsec"));
        assert_eq!(read(Some(source(Source::Value("whsec".into())))), SecretChange::Set(value));
        let file = SecretSource::File("/run/key".into());
        assert_eq!(read(Some(source(Source::File("/run/key".into())))), SecretChange::Set(file));
        assert!(found.is_empty());
    }

    #[test]
    fn an_empty_reference_and_a_needed_secret_of_none_are_refused() {
        let mut found = Violations::new();
        read_signing_secret(Some(v1::SecretRef { source: None }), "signing_secret", &mut found);
        let none = v1::BearerAuth { token: Some(source(Source::None(v1::NoSecret {}))) };
        read_http_auth(v1::HttpAuth { method: Some(Method::Bearer(none)) }, "http_auth", &mut found);
        read_http_auth(v1::HttpAuth { method: None }, "http_auth", &mut found);
        let fields: Vec<&str> = found.iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!(fields, ["signing_secret", "http_auth.bearer.token", "http_auth"]);
    }

    #[test]
    fn nothing_that_is_written_shows_a_secret() {
        let secret = || SecretSource::Value(Secret::new("planted"));
        let signing = SigningSecrets {
            current: Some(secret()),
            retiring: Some(RetiringSecret { source: secret(), until: Timestamp::from_millis(1000) }),
        };
        let header = Header { name: "x-key".into(), value: Secret::new("planted") };
        let basic = HttpAuth::Basic { username: "account".into(), secret: secret() };
        let written = format!(
            "{:?} {:?} {:?} {:?}",
            write_summary(&signing),
            write_headers(&[header]),
            write_http_auth(&basic),
            write_http_auth(&HttpAuth::Bearer { token: secret() })
        );
        assert!(!written.contains("planted"), "{written}");
        assert!(written.contains("account") && written.contains("x-key"), "{written}");
    }
}

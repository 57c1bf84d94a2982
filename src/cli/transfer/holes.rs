//! Where an export has no secret, because none ever comes out: an empty value, to be filled before an import.

use std::collections::BTreeMap;

use crate::grpc::proto::v1;
use crate::grpc::proto::v1::http_auth::Method;
use crate::grpc::proto::v1::secret_ref::Source;

/// The secrets of one destination, by the path of their field.
pub(super) type Secrets = BTreeMap<String, String>;

/// A secret that is to be filled in.
fn hole() -> Option<v1::SecretRef> {
    Some(v1::SecretRef { source: Some(Source::Value(String::new())) })
}

/// What can be said of a destination in an export: what callers may set, with holes for its secrets.
pub(super) fn exported(destination: v1::Destination) -> v1::Destination {
    let summary = destination.signing_secret_summary.unwrap_or_default();
    let reference = |source: Source| Some(v1::SecretRef { source: Some(source) });
    let signing_secret = match summary.source() {
        v1::SecretSource::Unspecified | v1::SecretSource::None => None,
        v1::SecretSource::EnvironmentVariable if !summary.reference.is_empty() => {
            reference(Source::EnvironmentVariable(summary.reference))
        }
        v1::SecretSource::File if !summary.reference.is_empty() => reference(Source::File(summary.reference)),
        _ => hole(),
    };
    let mut http_auth = destination.http_auth;
    match http_auth.as_mut().and_then(|auth| auth.method.as_mut()) {
        Some(Method::Basic(basic)) => basic.password = hole(),
        Some(Method::Bearer(bearer)) => bearer.token = hole(),
        Some(Method::Unauthenticated(_)) | None => http_auth = None,
    }
    let mut headers = destination.headers;
    headers.iter_mut().for_each(|header| header.value = Some(String::new()));
    v1::Destination {
        destination_id: destination.destination_id,
        display_name: destination.display_name,
        url: destination.url,
        contract: destination.contract,
        subscription: destination.subscription,
        settings: destination.settings,
        signing_secret,
        http_auth,
        headers,
        enabled: destination.enabled,
        ..v1::Destination::default()
    }
}

/// Fills the holes of a destination; the paths of those that stay.
pub(super) fn fill(destination: &mut v1::Destination, secrets: &Secrets) -> Vec<String> {
    let mut open = Vec::new();
    let mut filled = |path: &str, value: &mut String| {
        if !value.is_empty() {
            return;
        }
        match secrets.get(path) {
            Some(secret) => value.clone_from(secret),
            None => open.push(path.to_owned()),
        }
    };
    if let Some(Source::Value(value)) =
        destination.signing_secret.as_mut().and_then(|one| one.source.as_mut())
    {
        filled("signing_secret", value);
    }
    let (path, secret) = match destination.http_auth.as_mut().and_then(|auth| auth.method.as_mut()) {
        Some(Method::Basic(basic)) => ("http_auth.basic.password", basic.password.as_mut()),
        Some(Method::Bearer(bearer)) => ("http_auth.bearer.token", bearer.token.as_mut()),
        Some(Method::Unauthenticated(_)) | None => ("", None),
    };
    if let Some(Source::Value(value)) = secret.and_then(|one| one.source.as_mut()) {
        filled(path, value);
    }
    for header in &mut destination.headers {
        filled(&format!("headers.{}", header.name), header.value.get_or_insert_default());
    }
    open
}

#[cfg(test)]
mod tests {
    use super::*;

    fn destination() -> v1::Destination {
        let summary = v1::SecretSummary { source: v1::SecretSource::Value.into(), ..Default::default() };
        let basic = v1::BasicAuth { username: "account".into(), password: None };
        v1::Destination {
            signing_secret_summary: Some(summary),
            http_auth: Some(v1::HttpAuth { method: Some(Method::Basic(basic)) }),
            headers: vec![v1::Header { name: "X-Key".into(), value: None }],
            etag: "\"3\"".into(),
            ..v1::Destination::default()
        }
    }

    #[test]
    fn an_export_has_a_hole_for_each_secret_and_nothing_that_callers_can_not_set() {
        let mut exported = exported(destination());
        assert!(exported.etag.is_empty() && exported.signing_secret_summary.is_none());
        let paths = ["signing_secret", "http_auth.basic.password", "headers.X-Key"];
        assert_eq!(fill(&mut exported, &Secrets::new()), paths);
        let secrets = paths.map(|path| (path.to_owned(), "s3cret".to_owned())).into();
        assert_eq!(fill(&mut exported, &secrets), [""; 0]);
        assert_eq!(exported.headers[0].value.as_deref(), Some("s3cret"));
    }

    #[test]
    fn a_secret_by_reference_is_exported_as_its_reference() {
        let summary = v1::SecretSummary {
            source: v1::SecretSource::File.into(),
            reference: "/run/secrets/key".into(),
            ..Default::default()
        };
        let mut exported =
            exported(v1::Destination { signing_secret_summary: Some(summary), ..Default::default() });
        assert_eq!(
            exported.signing_secret.as_ref().and_then(|secret| secret.source.clone()),
            Some(Source::File("/run/secrets/key".into()))
        );
        assert_eq!(fill(&mut exported, &Secrets::new()), [""; 0]);
    }
}

//! Stalwart's WebHook object (seed 001) as JSON: read into a change of a destination, and written. Pure.
//!
//! The keys are those that the seed prints, with the defaults that it names. The seed does not print the
//! shapes of `Bearer`, `EnvironmentVariable` and `File`; they are upstream's: `bearerToken`,
//! `variableName`, `filePath`. Durations are texts (`"30s"`); upstream's API also writes milliseconds as a
//! number, so those are read too.
//!
//! Secrets never come out: a value is written as an empty text, and so is a header's value. Read back, an
//! empty text means the stored one.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::destination_patch::{
    DestinationPatch, HeaderChange, HttpAuthChange, SecretChange, SettingsPatch, SubscriptionChange,
};
use crate::contract;
use crate::domain::destination::Destination;
use crate::domain::event::{EventType, Level};
use crate::domain::payload::{Payload, PayloadLimits};
use crate::domain::secret::{HttpAuth, Secret, SecretSource};
use crate::domain::subscription::SubscriptionPolicy;
use crate::domain::violation::Violations;

/// The largest document, in bytes.
pub const DOCUMENT_MAX_BYTES: usize = 64 * 1024;

/// The seed's default, for a contract that had none.
const DISCARD_AFTER: Duration = Duration::from_secs(5 * 60);

const KEYS: [&str; 13] = [
    "url",
    "events",
    "eventsPolicy",
    "timeout",
    "throttle",
    "discardAfter",
    "signatureKey",
    "httpHeaders",
    "httpAuth",
    "allowInvalidCerts",
    "lossy",
    "enable",
    "level",
];

/// Reads the object. A key that is missing returns to its default.
///
/// # Errors
/// Each key that is unknown or has a wrong value, by its path; the path is empty for the document itself.
pub fn parse(json: &[u8]) -> Result<DestinationPatch, Violations> {
    if json.len() > DOCUMENT_MAX_BYTES {
        let problem = format!("has {} bytes; at most {DOCUMENT_MAX_BYTES} are allowed", json.len());
        return Err(Violations::one("", problem));
    }
    // The same check as for an event's data, so that the place is told in the same way.
    let limits = PayloadLimits { max_bytes: DOCUMENT_MAX_BYTES, ..PayloadLimits::default() };
    if let Err(problem) = Payload::parse(Bytes::copy_from_slice(json), limits) {
        let mut found = Violations::new();
        problem.note(&mut found, "");
        return Err(found);
    }
    let value: Value = serde_json::from_slice(json)
        .map_err(|error| Violations::one("", format!("is not valid JSON: {error}")))?;
    let Value::Object(object) = value else {
        return Err(Violations::one("", "is no JSON object; give Stalwart's WebHook object"));
    };
    let mut reader = Reader { found: Violations::new() };
    reader.refuse_unknown("", &object, &KEYS);
    let patch = reader.patch(&object);
    reader.found.into_result(patch)
}

/// Collects what is wrong while it reads, so that all of it is told.
struct Reader {
    found: Violations,
}

impl Reader {
    fn patch(&mut self, object: &Map<String, Value>) -> DestinationPatch {
        let settings = SettingsPatch {
            timeout: Some(self.read(object, "timeout", parse_duration)),
            throttle: Some(self.read(object, "throttle", parse_duration)),
            discard_after: Some(self.read(object, "discardAfter", parse_duration)),
            allow_invalid_certificates: Some(self.read(object, "allowInvalidCerts", parse_bool)),
            lossy: Some(self.read(object, "lossy", parse_bool)),
            ..SettingsPatch::default()
        };
        DestinationPatch {
            display_name: None,
            // A missing URL is told by the check of the whole destination.
            url: Some(self.read(object, "url", parse_text).unwrap_or_default()),
            subscription: Some(self.subscription(object)),
            settings,
            signing_secret: self.signature_key(object.get("signatureKey")),
            http_auth: Some(self.http_auth(object.get("httpAuth"))),
            headers: Some(self.headers(object.get("httpHeaders"))),
            enabled: Some(self.read(object, "enable", parse_bool).unwrap_or(true)),
        }
    }

    fn read<T>(
        &mut self,
        object: &Map<String, Value>,
        key: &str,
        parse: fn(&Value) -> Result<T, String>,
    ) -> Option<T> {
        object.get(key).and_then(|value| self.found.check(key, parse(value)))
    }

    fn refuse_unknown(&mut self, path: &str, object: &Map<String, Value>, known: &[&str]) {
        for key in object.keys().filter(|key| !known.contains(&key.as_str())) {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            self.found.add(path, format!("is unknown; use {}", known.join(", ")));
        }
    }

    fn subscription(&mut self, object: &Map<String, Value>) -> SubscriptionChange {
        let policy = self.read(object, "eventsPolicy", parse_policy);
        let minimum_level = self.read(object, "level", parse_level);
        let Some(events) = object.get("events") else {
            return match policy {
                // Including nothing listed is refused by the check of the whole destination.
                Some(policy) => replace(policy, Vec::new(), minimum_level),
                None => replace(SubscriptionPolicy::Exclude, Vec::new(), minimum_level),
            };
        };
        let policy = policy.unwrap_or(SubscriptionPolicy::Include);
        let Value::Array(items) = events else {
            self.found.add("events", "is no list; give event types, for example [\"auth.success\"]");
            return SubscriptionChange::Default;
        };
        let mut types = Vec::with_capacity(items.len());
        for (position, item) in items.iter().enumerate() {
            let parsed = parse_text(item).and_then(|text| EventType::parse(&text));
            types.extend(self.found.check(&format!("events[{position}]"), parsed));
        }
        replace(policy, types, minimum_level)
    }

    fn signature_key(&mut self, value: Option<&Value>) -> SecretChange {
        match value {
            None => SecretChange::Remove,
            Some(value) if tag_of(value) == Some("None") => {
                self.check_keys("signatureKey", value, &["@type"]);
                SecretChange::Remove
            }
            Some(value) => match self.secret("signatureKey", Some(value)) {
                Some(source) => SecretChange::Set(source),
                None => SecretChange::Stored,
            },
        }
    }

    fn http_auth(&mut self, value: Option<&Value>) -> HttpAuthChange {
        let Some(value) = value else { return HttpAuthChange::Unauthenticated };
        match tag_of(value) {
            Some("Unauthenticated") => {
                self.check_keys("httpAuth", value, &["@type"]);
                HttpAuthChange::Unauthenticated
            }
            Some("Basic") => {
                self.check_keys("httpAuth", value, &["@type", "username", "secret"]);
                let username = value.get("username").map(parse_text);
                let username = username.unwrap_or_else(|| Err("is missing; give the user name".into()));
                let username = self.found.check("httpAuth.username", username).unwrap_or_default();
                let secret = self.secret("httpAuth.secret", value.get("secret"));
                HttpAuthChange::Basic { username, secret }
            }
            Some("Bearer") => {
                self.check_keys("httpAuth", value, &["@type", "bearerToken"]);
                let token = self.secret("httpAuth.bearerToken", value.get("bearerToken"));
                HttpAuthChange::Bearer { token }
            }
            _ => {
                let tags = "Unauthenticated, Basic or Bearer";
                self.found.add("httpAuth", format!("is no object with an @type of {tags}"));
                HttpAuthChange::Unauthenticated
            }
        }
    }

    /// The secret, or `None` for the stored one.
    fn secret(&mut self, path: &str, value: Option<&Value>) -> Option<SecretSource> {
        let Some(value) = value else {
            self.found.add(path, "is missing; give an object such as {\"@type\":\"Value\",\"secret\":\"…\"}");
            return None;
        };
        let key = match tag_of(value) {
            Some("Value") => "secret",
            Some("EnvironmentVariable") => "variableName",
            Some("File") => "filePath",
            _ => {
                self.found.add(path, "is no object with an @type of Value, EnvironmentVariable or File");
                return None;
            }
        };
        self.check_keys(path, value, &["@type", key]);
        let text = value.get(key).map_or_else(|| Err("is missing".to_owned()), parse_text);
        let text = self.found.check(&format!("{path}.{key}"), text)?;
        match key {
            "secret" if text.is_empty() => None,
            "secret" => Some(SecretSource::Value(Secret::new(text))),
            "variableName" => Some(SecretSource::EnvironmentVariable(text)),
            _ => Some(SecretSource::File(PathBuf::from(text))),
        }
    }

    fn check_keys(&mut self, path: &str, value: &Value, known: &[&str]) {
        if let Value::Object(object) = value {
            self.refuse_unknown(path, object, known);
        }
    }

    fn headers(&mut self, value: Option<&Value>) -> Vec<HeaderChange> {
        let object = match value {
            None => return Vec::new(),
            Some(Value::Object(object)) => object,
            Some(_) => {
                self.found.add("httpHeaders", "is no object; give names and values");
                return Vec::new();
            }
        };
        let mut headers = Vec::with_capacity(object.len());
        for (name, value) in object {
            if let Some(text) = self.found.check(&format!("httpHeaders.{name}"), parse_text(value)) {
                let value = (!text.is_empty()).then(|| Secret::new(text));
                headers.push(HeaderChange { name: name.clone(), value });
            }
        }
        headers
    }
}

fn replace(
    policy: SubscriptionPolicy,
    event_types: Vec<EventType>,
    minimum_level: Option<Level>,
) -> SubscriptionChange {
    // The object knows no operational events; what is set of them stays.
    SubscriptionChange::Parts {
        policy: Some(policy),
        event_types: Some(event_types.into_iter().collect()),
        minimum_level: Some(minimum_level),
        operational: None,
    }
}

fn tag_of(value: &Value) -> Option<&str> {
    value.get("@type").and_then(Value::as_str)
}

fn parse_text(value: &Value) -> Result<String, String> {
    value.as_str().map(str::to_owned).ok_or_else(|| "is no text; put it in quotation marks".into())
}

fn parse_bool(value: &Value) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| "is neither true nor false".into())
}

fn parse_level(value: &Value) -> Result<Level, String> {
    parse_text(value)?.parse()
}

fn parse_policy(value: &Value) -> Result<SubscriptionPolicy, String> {
    match value.as_str() {
        Some("include") => Ok(SubscriptionPolicy::Include),
        Some("exclude") => Ok(SubscriptionPolicy::Exclude),
        _ => Err("is neither \"include\" nor \"exclude\"".into()),
    }
}

const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

fn parse_duration(value: &Value) -> Result<Duration, String> {
    let wrong = || "is no duration; write for example \"30s\", \"5m\", \"1h\" or \"250ms\"".to_owned();
    if let Some(millis) = value.as_u64() {
        return Ok(Duration::from_millis(millis));
    }
    let text = value.as_str().ok_or_else(wrong)?;
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at_checked(digits).ok_or_else(wrong)?;
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let (_, millis) = UNITS.into_iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
    number.checked_mul(millis).map(Duration::from_millis).ok_or_else(wrong)
}

/// The largest unit without a remainder: `"30s"`, `"5m"`.
fn write_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 {
        return "0s".into();
    }
    let fits = |(_, unit): &(&str, u64)| millis % unit == 0;
    UNITS.into_iter().find(fits).map_or_else(String::new, |(name, unit)| format!("{}{name}", millis / unit))
}

/// Writes the object with all its keys, without the values of secrets and headers.
#[must_use]
pub fn write(destination: &Destination) -> String {
    let policy = contract::effective_policy(destination);
    let subscription = &destination.subscription;
    let events: Vec<&str> = subscription.event_types.iter().map(EventType::as_str).collect();
    let events_policy = match subscription.policy {
        SubscriptionPolicy::Include => "include",
        SubscriptionPolicy::Exclude => "exclude",
    };
    let headers: Map<String, Value> =
        destination.headers.iter().map(|header| (header.name.clone(), json!(""))).collect();
    let discard_after = policy.discard_after.unwrap_or(DISCARD_AFTER);
    let document = json!({
        "url": destination.url.as_str().to_owned(),
        "events": events,
        "eventsPolicy": events_policy,
        "timeout": write_duration(policy.timeout),
        "throttle": write_duration(policy.throttle),
        "discardAfter": write_duration(discard_after),
        "signatureKey": write_secret(destination.signing.current.as_ref()),
        "httpHeaders": headers,
        "httpAuth": write_http_auth(&destination.http_auth),
        "allowInvalidCerts": policy.allow_invalid_certificates,
        "lossy": policy.lossy,
        "enable": destination.state.is_active(),
        "level": subscription.minimum_level.unwrap_or(Level::Trace).as_str(),
    });
    format!("{document:#}")
}

fn write_secret(source: Option<&SecretSource>) -> Value {
    match source {
        None => json!({"@type": "None"}),
        Some(SecretSource::Value(_)) => json!({"@type": "Value", "secret": ""}),
        Some(SecretSource::EnvironmentVariable(name)) => {
            json!({"@type": "EnvironmentVariable", "variableName": name})
        }
        Some(SecretSource::File(path)) => json!({"@type": "File", "filePath": path.to_string_lossy()}),
    }
}

fn write_http_auth(http_auth: &HttpAuth) -> Value {
    match http_auth {
        HttpAuth::Unauthenticated => json!({"@type": "Unauthenticated"}),
        HttpAuth::Basic { username, secret } => {
            json!({"@type": "Basic", "username": username, "secret": write_secret(Some(secret))})
        }
        HttpAuth::Bearer { token } => json!({"@type": "Bearer", "bearerToken": write_secret(Some(token))}),
    }
}

/// What is set on the destination that the object can't say, as the destination's paths.
#[must_use]
pub fn omitted(destination: &Destination) -> Vec<&'static str> {
    let settings = &destination.settings;
    let candidates = [
        ("display_name", !destination.display_name.is_empty()),
        ("settings.retry_policy", settings.retry.is_some()),
        ("settings.max_batch_events", settings.max_batch_events.is_some()),
        ("settings.max_batch_bytes", settings.max_batch_bytes.is_some()),
        ("settings.guarantee", settings.guarantee.is_some()),
        ("settings.ordered", settings.ordered.is_some()),
        ("settings.max_concurrency", settings.max_concurrency.is_some()),
        ("settings.disable_after", settings.disable_after.is_some()),
        ("settings.disable_on_gone", settings.disable_on_gone.is_some()),
        ("settings.keep_response_bodies", settings.keep_response_bodies.is_some()),
    ];
    candidates.into_iter().filter(|(_, set)| *set).map(|(path, _)| path).collect()
}

/// The object's key for a path of the destination.
#[must_use]
pub fn key_of(path: &str) -> Option<&'static str> {
    let keys = [
        ("url", "url"),
        ("subscription.event_types", "events"),
        ("subscription.policy", "eventsPolicy"),
        ("subscription.minimum_level", "level"),
        ("settings.timeout", "timeout"),
        ("settings.throttle", "throttle"),
        ("settings.discard_after", "discardAfter"),
        ("settings.allow_invalid_certificates", "allowInvalidCerts"),
        ("settings.lossy", "lossy"),
        ("signing_secret", "signatureKey"),
        ("http_auth.basic.username", "httpAuth.username"),
        ("http_auth.basic.password", "httpAuth.secret"),
        ("http_auth.bearer.token", "httpAuth.bearerToken"),
        ("http_auth", "httpAuth"),
        ("headers", "httpHeaders"),
        ("enabled", "enable"),
    ];
    keys.into_iter().find(|(prefix, _)| path.starts_with(prefix)).map(|(_, key)| key)
}

#[cfg(test)]
#[path = "stalwart_tests.rs"]
mod tests;

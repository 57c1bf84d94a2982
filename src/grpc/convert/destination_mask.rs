//! Update masks of destinations: which paths there are, and what each of them changes.

use super::destination::PATH;
use super::secret::{read_headers, read_http_auth, read_signing_secret};
use super::settings::read_settings;
use super::subscription::read_subscription;
use crate::control::destination_patch::{
    DestinationPatch, HttpAuthChange, SettingsPatch, SubscriptionChange,
};
use crate::domain::settings::DeliverySettings;
use crate::domain::violation::{Rule, Violations};
use crate::grpc::proto::v1;

/// The paths that can be changed.
const WRITABLE: &str = "display_name, url, subscription, subscription.policy, subscription.event_types, \
    subscription.minimum_level, settings, settings.<field>, signing_secret, http_auth, headers, enabled";

/// Reads what the mask names; a path whose field is absent returns to its default.
pub fn read_patch(destination: v1::Destination, mask: &[String], found: &mut Violations) -> DestinationPatch {
    if mask.is_empty() {
        found.add_as(Rule::UpdateMask, "update_mask", format!("is empty; name some of {WRITABLE}"));
    }
    let mut patch = DestinationPatch::default();
    for path in mask {
        match path.as_str() {
            "display_name" => patch.display_name = Some(destination.display_name.clone()),
            "url" => patch.url = Some(destination.url.clone()),
            "enabled" => patch.enabled = Some(destination.enabled.unwrap_or(true)),
            "signing_secret" => {
                let secret = destination.signing_secret.clone();
                patch.signing_secret = read_signing_secret(secret, &format!("{PATH}.signing_secret"), found);
            }
            "http_auth" => patch.http_auth = Some(read_auth(destination.http_auth.clone(), found)),
            "headers" => patch.headers = Some(read_headers(destination.headers.clone())),
            _ => {}
        }
    }
    patch.subscription = read_subscription_change(destination.subscription.as_ref(), mask, found);
    patch.settings = read_settings_patch(destination.settings.unwrap_or_default(), mask, found);
    for path in mask.iter().filter(|path| !is_writable(path)) {
        found.add_as(Rule::UpdateMask, "update_mask", refusal(path));
    }
    patch
}

fn read_auth(auth: Option<v1::HttpAuth>, found: &mut Violations) -> HttpAuthChange {
    let change = auth.and_then(|auth| read_http_auth(auth, &format!("{PATH}.http_auth"), found));
    change.unwrap_or(HttpAuthChange::Unauthenticated)
}

fn read_subscription_change(
    subscription: Option<&v1::Subscription>,
    mask: &[String],
    found: &mut Violations,
) -> Option<SubscriptionChange> {
    let names = |path: &str| mask.iter().any(|named| named == path);
    let parts = [
        "subscription.policy",
        "subscription.event_types",
        "subscription.minimum_level",
        "subscription.operational_event_types",
    ];
    let whole = names("subscription");
    if !whole && !parts.iter().any(|part| names(part)) {
        return None;
    }
    let Some(subscription) = subscription.filter(|_| whole || subscription.is_some()) else {
        return Some(SubscriptionChange::Default);
    };
    let read = read_subscription(subscription, &format!("{PATH}.subscription"), found);
    if whole {
        return Some(SubscriptionChange::Replace(read));
    }
    let [policy, event_types, minimum_level, operational] = parts.map(names);
    Some(SubscriptionChange::Parts {
        policy: policy.then_some(read.policy),
        event_types: event_types.then_some(read.event_types),
        minimum_level: minimum_level.then_some(read.minimum_level),
        operational: operational.then_some(read.operational),
    })
}

fn read_settings_patch(
    settings: v1::DeliverySettings,
    mask: &[String],
    found: &mut Violations,
) -> SettingsPatch {
    let whole = mask.iter().any(|path| path == "settings");
    if !whole && !mask.iter().any(|path| path.starts_with("settings.")) {
        return SettingsPatch::default();
    }
    let read = read_settings(settings, &format!("{PATH}.settings"), found);
    if whole {
        return SettingsPatch::replace(read);
    }
    let mut patch = SettingsPatch::default();
    for field in mask.iter().filter_map(|path| path.strip_prefix("settings.")) {
        set_setting(&mut patch, field, &read);
    }
    patch
}

/// Takes one setting over; answers whether there is one of this name.
fn set_setting(patch: &mut SettingsPatch, field: &str, read: &DeliverySettings) -> bool {
    match field {
        "timeout" => patch.timeout = Some(read.timeout),
        "retry_policy" => patch.retry = Some(read.retry.clone()),
        "throttle" => patch.throttle = Some(read.throttle),
        "max_batch_events" => patch.max_batch_events = Some(read.max_batch_events),
        "max_batch_bytes" => patch.max_batch_bytes = Some(read.max_batch_bytes),
        "discard_after" => patch.discard_after = Some(read.discard_after),
        "lossy" => patch.lossy = Some(read.lossy),
        "guarantee" => patch.guarantee = Some(read.guarantee),
        "ordered" => patch.ordered = Some(read.ordered),
        "max_concurrency" => patch.max_concurrency = Some(read.max_concurrency),
        "allow_invalid_certificates" => {
            patch.allow_invalid_certificates = Some(read.allow_invalid_certificates);
        }
        "cloud_events_mode" => patch.cloudevents_mode = Some(read.cloudevents_mode),
        "cloud_events_source" => patch.cloudevents_source = Some(read.cloudevents_source.clone()),
        "disable_after" => patch.disable_after = Some(read.disable_after),
        "disable_on_gone" => patch.disable_on_gone = Some(read.disable_on_gone),
        "keep_response_bodies" => patch.keep_response_bodies = Some(read.keep_response_bodies),
        _ => return false,
    }
    true
}

fn is_writable(path: &str) -> bool {
    if let Some(field) = path.strip_prefix("settings.") {
        return set_setting(&mut SettingsPatch::default(), field, &DeliverySettings::default());
    }
    matches!(
        path,
        "display_name"
            | "url"
            | "enabled"
            | "signing_secret"
            | "http_auth"
            | "headers"
            | "settings"
            | "subscription"
            | "subscription.policy"
            | "subscription.event_types"
            | "subscription.minimum_level"
            | "subscription.operational_event_types"
    )
}

fn refusal(path: &str) -> String {
    match path {
        "contract" => "names `contract`, which never changes; create another destination".to_owned(),
        "*" => format!("has a star; name some of {WRITABLE}"),
        _ => format!("names `{path}`, which can't be changed; name some of {WRITABLE}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::destination_patch::SecretChange;
    use crate::domain::subscription::SubscriptionPolicy;

    fn read(destination: v1::Destination, mask: &[&str]) -> (DestinationPatch, Violations) {
        let mut found = Violations::new();
        let mask: Vec<String> = mask.iter().map(ToString::to_string).collect();
        (read_patch(destination, &mask, &mut found), found)
    }

    #[test]
    fn only_what_the_mask_names_is_changed() {
        let destination = v1::Destination {
            display_name: "new".into(),
            url: "https://example.com/".into(),
            settings: Some(v1::DeliverySettings { lossy: Some(true), ..Default::default() }),
            ..v1::Destination::default()
        };
        let (patch, found) = read(destination.clone(), &["url", "settings.timeout", "settings.lossy"]);
        assert!(found.is_empty(), "{found}");
        assert_eq!((patch.display_name, patch.url.as_deref()), (None, Some("https://example.com/")));
        assert_eq!((patch.settings.timeout, patch.settings.lossy), (Some(None), Some(Some(true))));
        assert_eq!((patch.settings.throttle, patch.enabled), (None, None));
        assert_eq!(patch.signing_secret, SecretChange::Untouched);
        let (whole, _) = read(destination, &["settings"]);
        assert_eq!((whole.settings.throttle, whole.settings.lossy), (Some(None), Some(Some(true))));
    }

    #[test]
    fn an_absent_subscription_returns_to_the_default_and_parts_change_alone() {
        let (patch, _) = read(v1::Destination::default(), &["subscription"]);
        assert_eq!(patch.subscription, Some(SubscriptionChange::Default));
        let subscription = v1::Subscription {
            policy: v1::SubscriptionPolicy::Exclude.into(),
            event_types: vec!["a".into()],
            ..v1::Subscription::default()
        };
        let destination = v1::Destination { subscription: Some(subscription), ..Default::default() };
        let (patch, _) = read(destination, &["subscription.policy"]);
        let policy = Some(SubscriptionPolicy::Exclude);
        let expected =
            SubscriptionChange::Parts { policy, event_types: None, minimum_level: None, operational: None };
        assert_eq!(patch.subscription, Some(expected));
    }

    #[test]
    fn paths_that_cannot_be_changed_are_refused_each_with_a_remedy() {
        let mask = ["*", "contract", "state", "settings.nonsense", "settings.retry_policy.jitter", "urls"];
        let (_, found) = read(v1::Destination::default(), &mask);
        assert_eq!(found.len(), mask.len());
        assert!(found.iter().all(|violation| violation.field == "update_mask"));
        assert!(found.iter().all(|violation| violation.rule == Rule::UpdateMask));
        assert_eq!(read(v1::Destination::default(), &[]).1.len(), 1);
    }
}

//! The process's environment, read once.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

/// What every variable of ours begins with.
pub(super) const PREFIX: &str = "SIGNALPOST_";
/// The variable that Semaphor's documentation promises (seed 000); another name of one key of ours.
pub(super) const TELEMETRY_VARIABLE: &str = "ENTERPRISE_TELEMETRY_ENABLED";

/// Holds sealing keys. It is no setting: what is in it is shown nowhere and not kept with the settings.
const SEALING_KEYS_VARIABLE: &str = "SIGNALPOST_SEALING_KEYS";

/// Holds the signing secret of `listen`.
const LISTEN_SECRET_VARIABLE: &str = "SIGNALPOST_LISTEN_SECRET";

/// Variables of the commands that call a server, and of `listen`. They are no settings of a server, which may be
/// started where they are set.
const COMMAND_VARIABLES: [&str; 8] = [
    "SIGNALPOST_SERVER",
    "SIGNALPOST_TOKEN",
    "SIGNALPOST_TOKEN_FILE",
    "SIGNALPOST_CA",
    "SIGNALPOST_CERT",
    "SIGNALPOST_KEY",
    "SIGNALPOST_ORGANIZATION",
    LISTEN_SECRET_VARIABLE,
];

/// The sealing keys that the environment holds, if it does.
///
/// # Errors
/// Where they are not text.
pub(super) fn sealing_keys() -> Result<Option<Zeroizing<String>>, String> {
    secret(SEALING_KEYS_VARIABLE)
}

/// The signing secret for `listen` that the environment holds, if it does.
///
/// # Errors
/// Where it is not text.
pub(super) fn listen_secret() -> Result<Option<Zeroizing<String>>, String> {
    secret(LISTEN_SECRET_VARIABLE)
}

fn secret(variable: &str) -> Result<Option<Zeroizing<String>>, String> {
    match std::env::var_os(variable).map(std::ffi::OsString::into_string) {
        None => Ok(None),
        Some(Ok(text)) => Ok(Some(Zeroizing::new(text)).filter(|text| !text.trim().is_empty())),
        Some(Err(bytes)) => {
            drop(Zeroizing::new(bytes.into_encoded_bytes()));
            Err(format!("the environment variable {variable} is not UTF-8"))
        }
    }
}

/// The variables that are settings; all others, among them people's secrets, are not even copied.
pub(super) fn read() -> BTreeMap<String, String> {
    // `vars_os`, because `vars` panics where any variable, also one of somebody else, is not UTF-8.
    std::env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value))
        .filter(|(name, _)| name.starts_with(PREFIX) || name == TELEMETRY_VARIABLE)
        .filter(|(name, _)| name != SEALING_KEYS_VARIABLE && !COMMAND_VARIABLES.contains(&name.as_str()))
        .map(|(name, value)| (name, value.to_string_lossy().into_owned()))
        .collect()
}

/// The variable of a key: `listen.grpc` is `SIGNALPOST_LISTEN_GRPC`.
pub(super) fn variable_of(key: &str) -> String {
    format!("{PREFIX}{}", key.replace(['.', '-'], "_").to_uppercase())
}

/// Whether Kubernetes made the variable, to tell of a Service that is called `signalpost…`.
///
/// It does so in every pod of the namespace unless `enableServiceLinks` is off; none of our keys looks
/// like one, so they need not be taken for mistakes.
pub(super) fn is_service_link(variable: &str) -> bool {
    let ends = variable.ends_with("_SERVICE_HOST") || variable.ends_with("_SERVICE_PORT");
    ends || variable.ends_with("_PORT")
        || variable.contains("_SERVICE_PORT_")
        || variable.split("_PORT_").skip(1).any(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// Whether text may have colours: on a terminal, unless `NO_COLOR` says otherwise.
#[must_use]
pub fn wants_colours(is_terminal: bool) -> bool {
    colours_with(is_terminal, std::env::var_os("NO_COLOR").as_deref())
}

/// The rule of <https://no-color.org>: any value counts that is not empty.
#[must_use]
pub fn colours_with(is_terminal: bool, no_color: Option<&std::ffi::OsStr>) -> bool {
    is_terminal && no_color.is_none_or(std::ffi::OsStr::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_kubernetes_services_are_no_settings_and_settings_are_no_service_links() {
        for variable in [
            "SIGNALPOST_SERVICE_HOST",
            "SIGNALPOST_SERVICE_PORT",
            "SIGNALPOST_SERVICE_PORT_GRPC",
            "SIGNALPOST_PORT",
            "SIGNALPOST_PORT_8080_TCP",
            "SIGNALPOST_HEADLESS_PORT_8080_TCP_ADDR",
        ] {
            assert!(is_service_link(variable), "{variable}");
        }
        for key in ["listen.grpc", "egress.ports", "delivery.enterprise_telemetry_enabled"] {
            assert!(!is_service_link(&variable_of(key)), "{key}");
        }
    }

    #[test]
    fn colours_are_for_terminals_whose_owners_have_not_asked_for_none() {
        for (is_terminal, no_color, wanted) in [
            (true, None, true),
            (true, Some(""), true),
            (true, Some("1"), false),
            (true, Some("0"), false),
            (false, None, false),
            (false, Some(""), false),
            (false, Some("1"), false),
        ] {
            let colours = colours_with(is_terminal, no_color.map(AsRef::as_ref));
            assert_eq!(colours, wanted, "terminal: {is_terminal}, NO_COLOR: {no_color:?}");
        }
    }
}

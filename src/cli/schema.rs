//! `signalpost config schema`: a JSON schema of the configuration file, from the settings themselves.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::config::{self, Accepts, Effective, Problems};

/// The plan that stands for all: its limits are those of any.
const ANY_PLAN: &str = "plans.default";
/// What a whole number is as a text.
const DIGITS: &str = r"\+?[0-9]+";
/// What a size is as a text.
const SIZE: &str = "[0-9]+ *(B|KiB|MiB|GiB|TiB)?";
/// What a length of time is.
const LENGTH: &str = "([0-9]+(ms|s|m|h|d))+";

/// The schema, for editors and for checks before a deployment: every key with its default, its bounds and what it
/// means. What must hold between settings only `config check` knows.
///
/// Bounds of numbers and sizes are `minimum` and `maximum`, which go for numbers; those of lengths of time, which are
/// texts, are in the description. A text in the place of a number has the form of one.
pub(super) fn schema() -> Result<Value, Problems> {
    let settings = config::resolve(None, BTreeMap::new())?.effective;
    let explained = config::explanations();
    let mut sections: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for setting in &settings {
        let (section, name) = setting.key.rsplit_once('.').unwrap_or(("", &setting.key));
        let about = explained.get(&setting.key).map(String::as_str).unwrap_or_default();
        sections.entry(section).or_default().insert(name.to_owned(), of(setting, about));
    }
    let plan = table(sections.remove(ANY_PLAN).unwrap_or_default());
    let mut all: Map<String, Value> =
        sections.into_iter().map(|(section, keys)| (section.to_owned(), table(keys))).collect();
    let plans = json!({"type": "object", "additionalProperties": plan, "propertyNames": {"pattern": "^[a-z0-9-]{1,63}$"}});
    all.insert("plans".into(), plans);
    let mut whole = table(all);
    if let Some(whole) = whole.as_object_mut() {
        whole.insert("$schema".into(), json!("https://json-schema.org/draft/2020-12/schema"));
        whole.insert("title".into(), json!("Signalpost configuration"));
    }
    Ok(whole)
}

fn table(properties: Map<String, Value>) -> Value {
    json!({"type": "object", "additionalProperties": false, "properties": properties})
}

/// A setting. Values may also be written as texts, as in variables; lists as texts with commas.
fn of(setting: &Effective, about: &str) -> Value {
    let is_list = setting.value.starts_with('[');
    let mut schema = match is_list {
        true => {
            let items = one(&setting.accepts);
            json!({"anyOf": [{"type": "array", "items": items}, {"type": "string"}]})
        }
        false => one(&setting.accepts),
    };
    let allowed = setting.accepts.to_string();
    let allowed = if allowed.is_empty() { allowed } else { format!(" Allowed: {allowed}.") };
    if let Some(schema) = schema.as_object_mut() {
        schema.insert("description".into(), json!(format!("{about}{allowed}")));
        if let Ok(default) = serde_json::from_str::<Value>(&setting.value) {
            schema.insert("default".into(), default);
        }
    }
    schema
}

/// One value.
fn one(accepts: &Accepts) -> Value {
    match accepts {
        // TOML may have a number where a text is meant.
        Accepts::Text => json!({"type": ["string", "integer"]}),
        Accepts::Characters { least, most } => {
            json!({"type": ["string", "integer"], "minLength": least, "maxLength": most})
        }
        Accepts::Flag => json!({"enum": [true, false, "true", "false"]}),
        Accepts::Number { least, most } => number(DIGITS, *least, *most),
        Accepts::Size { least, most } => number(SIZE, *least, *most),
        Accepts::Length { .. } => json!({"type": "string", "pattern": format!("^{LENGTH}$")}),
        Accepts::Words(words) => json!({"enum": words}),
        Accepts::Or("", other) if **other == Accepts::Text => one(other),
        Accepts::Or(word, other) => json!({"anyOf": [{"const": word}, one(other)]}),
    }
}

fn number(pattern: &str, least: u64, most: u64) -> Value {
    let pattern = format!("^{pattern}$");
    json!({"type": ["integer", "string"], "minimum": least, "maximum": most, "pattern": pattern})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn the_schema_has_every_key_of_the_example_and_no_other() {
        let schema = schema().unwrap();
        let mut found = 0;
        let mut section = String::new();
        for line in Config::example().lines().map(|line| line.trim_start_matches('#')) {
            if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                section = name.to_owned();
            } else if let Some((key, _)) = line.split_once(" = ").filter(|(key, _)| !key.contains(' ')) {
                if section.starts_with("plans.") {
                    continue;
                }
                found += 1;
                assert!(schema["properties"][&section]["properties"].get(key).is_some(), "{section}.{key}");
            }
        }
        assert!(found > 40, "{found}");
        assert_eq!(schema["properties"]["listen"]["properties"]["grpc"]["default"], "127.0.0.1:8080");
        assert_eq!(schema["additionalProperties"], false);
        assert!(schema["properties"]["plans"]["additionalProperties"]["properties"].get("payload").is_some());
    }

    /// Whether the check refuses this value of a setting; whatever else it says is of no interest.
    fn refused(key: &str, value: &Value) -> bool {
        // Bounds that depend on another setting are at their widest.
        let text = format!("limits.payload = \"16MiB\"\nlimits.message = \"64MiB\"\n{key} = {value}");
        let text = if key.starts_with("limits.") { format!("{key} = {value}") } else { text };
        let problems = config::resolve(Some(("file", &text)), BTreeMap::new()).err();
        // What must hold between settings is no bound of one.
        let of_key = |problem: &config::Problem| {
            problem.key == key
                && ["is not from", "is no whole number", "is none of", "is neither", "is no name"]
                    .iter()
                    .any(|word| problem.description.contains(word))
        };
        problems.is_some_and(|problems| problems.0.iter().any(of_key))
    }

    /// The bounds of a schema, where it has some: its own, or of what may stand beside a word.
    fn bounds(schema: &Value) -> Option<(u64, u64)> {
        let mut all = std::iter::once(schema).chain(schema["anyOf"].as_array().into_iter().flatten());
        all.find_map(|one| Some((one["minimum"].as_u64()?, one["maximum"].as_u64()?)))
    }

    #[test]
    fn the_bounds_of_the_schema_are_those_of_the_check() {
        let (mut numbers, mut words) = (0, 0);
        for setting in config::resolve(None, BTreeMap::new()).unwrap().effective {
            let key = &setting.key;
            let schema = one(&setting.accepts);
            if let Some((least, most)) = bounds(&schema) {
                numbers += 1;
                assert!(!refused(key, &json!(least)), "{key} = {least}");
                assert!(least == 0 || refused(key, &json!(least - 1)), "{key} = {least} - 1");
                // A number that TOML has.
                assert!(most > i64::MAX as u64 || !refused(key, &json!(most)), "{key} = {most}");
                assert!(most >= i64::MAX as u64 || refused(key, &json!(most + 1)), "{key} = {most} + 1");
            }
            if let Some(known) = schema["enum"].as_array() {
                words += 1;
                assert!(known.iter().all(|word| !refused(key, word)), "{key}: {known:?}");
                assert!(setting.value.starts_with('[') || refused(key, &json!("nonsense")), "{key}");
            }
        }
        assert!(numbers > 30 && words > 8, "{numbers} numbers, {words} words");
    }

    #[test]
    fn the_lengths_of_the_schema_are_those_of_the_check() {
        fn lengths(accepts: &Accepts) -> Option<(std::time::Duration, std::time::Duration)> {
            match accepts {
                Accepts::Length { least, most } => Some((*least, *most)),
                Accepts::Or(_, other) => lengths(other),
                _ => None,
            }
        }
        let mut count = 0;
        for setting in config::resolve(None, BTreeMap::new()).unwrap().effective {
            let Some((least, most)) = lengths(&setting.accepts) else { continue };
            count += 1;
            let millis = |length: std::time::Duration, by: i64| {
                json!(format!("{}ms", i64::try_from(length.as_millis()).unwrap() + by))
            };
            let key = &setting.key;
            assert!(!refused(key, &millis(least, 0)) && !refused(key, &millis(most, 0)), "{key}");
            assert!(refused(key, &millis(most, 1)), "{key}");
            assert!(least.is_zero() || refused(key, &millis(least, -1)), "{key}");
            assert!(of(&setting, "").to_string().contains("Allowed: "), "{key}");
        }
        assert!(count > 15, "{count}");
    }
}

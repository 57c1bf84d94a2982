//! `signalpost config schema`: a JSON schema of the configuration file, from the settings themselves.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::config::{self, Effective, Problems};

/// The plan that stands for all: its limits are those of any.
const ANY_PLAN: &str = "plans.default";

/// The schema, for editors and for checks before a deployment. It knows keys and kinds of values; `config check` knows
/// all rules.
pub(super) fn schema() -> Result<Value, Problems> {
    let settings = config::resolve(None, BTreeMap::new())?.effective;
    let mut sections: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for setting in &settings {
        let (section, name) = setting.key.rsplit_once('.').unwrap_or(("", &setting.key));
        sections.entry(section).or_default().insert(name.to_owned(), of(setting));
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

/// The kind of a setting, as its default shows it. Values may also be written as texts, as in variables.
fn of(setting: &Effective) -> Value {
    let default = setting.value.as_str();
    let kind = match default {
        "true" | "false" => json!({"type": "boolean"}),
        list if list.starts_with('[') => {
            json!({"type": ["array", "string"], "items": {"type": ["string", "integer"]}})
        }
        number if number.parse::<u64>().is_ok() => json!({"type": ["integer", "string"]}),
        _ => json!({"type": ["string", "integer"]}),
    };
    let mut kind = kind;
    if let (Some(kind), Ok(default)) = (kind.as_object_mut(), serde_json::from_str::<Value>(default)) {
        kind.insert("default".into(), default);
    }
    kind
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
}

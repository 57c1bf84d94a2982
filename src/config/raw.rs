//! Settings as typed: which key, which text, where. Nothing is judged here but the TOML grammar.
//!
//! Values stay texts until `validate` reads them by what their key means, so that a wrong type is one
//! more problem on the list and not the end of reading (as it would be with derived deserializers).

use std::collections::{BTreeMap, BTreeSet};

use toml::de::{DeTable, DeValue, Error};

use super::environment::{PREFIX, TELEMETRY_VARIABLE, is_service_link, variable_of};
use super::problem::{Origin, Problem, Problems};

/// The key that seed 000's variable sets as well.
pub(super) const TELEMETRY_KEY: &str = "delivery.enterprise_telemetry_enabled";

/// A value as typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    /// A text, or the text of a number or of `true` and `false`.
    One(String),
    /// A TOML list.
    Many(Vec<String>),
}

impl Value {
    /// The items of a list; a single text is one by its commas, as in variables.
    pub(super) fn items(&self) -> Vec<String> {
        match self {
            Value::Many(texts) => texts.clone(),
            Value::One(text) if text.trim().is_empty() => Vec::new(),
            Value::One(text) => text.split(',').map(|item| item.trim().to_owned()).collect(),
        }
    }
}

/// A value and where it was typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    /// What.
    pub(super) value: Value,
    /// Where.
    pub(super) origin: Origin,
}

/// All that the operator typed.
#[derive(Debug, Clone, Default)]
pub(super) struct Raw {
    /// By full key, from the file.
    pub(super) file: BTreeMap<String, Setting>,
    /// Tables of the file that hold nothing: a plan without limits, or a misspelt section.
    pub(super) empty_tables: BTreeMap<String, Origin>,
    /// By variable, from the environment.
    pub(super) environment: BTreeMap<String, Setting>,
}

impl Raw {
    /// Reads a TOML text with its name, and the variables.
    pub(super) fn parse(
        file: Option<(&str, &str)>,
        environment: BTreeMap<String, String>,
    ) -> Result<Self, Problems> {
        let mut raw = Self { environment: settings_of(environment), ..Self::default() };
        let Some((name, text)) = file else { return Ok(raw) };
        let source = Source { name, text };
        let (table, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            return Err(Problems(errors.iter().map(|error| source.syntax_problem(error)).collect()));
        }
        raw.flatten(&source, "", table.get_ref());
        Ok(raw)
    }

    /// What was typed for a key; the environment wins.
    pub(super) fn get(&self, key: &str) -> Option<&Setting> {
        self.environment.get(&variable_of(key)).or_else(|| self.file.get(key))
    }

    /// The names of the plans that the file or a variable (ending in one of `limits`) mentions.
    pub(super) fn plan_names(&self, limits: &[&str]) -> BTreeSet<String> {
        let plan_of = |key: &str| Some(key.strip_prefix("plans.")?.split_once('.')?.0.to_owned());
        let named = self.file.keys().filter_map(|key| plan_of(key));
        let empty = self.empty_tables.keys().filter_map(|key| plan_of(&format!("{key}.")));
        let variables = self.environment.keys().filter_map(|variable| {
            let rest = variable.strip_prefix(PREFIX)?.strip_prefix("PLANS_")?;
            let suffix = |limit: &&str| rest.strip_suffix(&format!("_{}", limit.to_uppercase()));
            limits.iter().find_map(suffix).map(|name| name.to_lowercase().replace('_', "-"))
        });
        named.chain(empty).chain(variables).collect()
    }

    fn flatten(&mut self, source: &Source<'_>, prefix: &str, table: &DeTable<'_>) {
        for (name, value) in table.iter() {
            let key = if prefix.is_empty() {
                name.get_ref().to_string()
            } else {
                format!("{prefix}.{}", name.get_ref())
            };
            let origin = source.origin_at(name.span().start);
            match value.get_ref() {
                DeValue::Table(inner) if inner.is_empty() => {
                    self.empty_tables.insert(key, origin);
                }
                DeValue::Table(inner) => self.flatten(source, &key, inner),
                DeValue::Array(items) => {
                    let items =
                        items.iter().map(|item| source.text_of(item.get_ref(), &item.span())).collect();
                    self.file.insert(key, Setting { value: Value::Many(items), origin });
                }
                scalar => {
                    let value = Value::One(source.text_of(scalar, &value.span()));
                    self.file.insert(key, Setting { value, origin });
                }
            }
        }
    }
}

fn settings_of(environment: BTreeMap<String, String>) -> BTreeMap<String, Setting> {
    let mut settings = BTreeMap::new();
    for (name, value) in environment {
        let variable = if name == TELEMETRY_VARIABLE { variable_of(TELEMETRY_KEY) } else { name.clone() };
        if is_service_link(&name) || !variable.starts_with(PREFIX) {
            continue;
        }
        // In the order of names the seed's variable comes first, so ours replaces it where both are set.
        let origin = Origin::Environment { variable: name };
        settings.insert(variable, Setting { value: Value::One(value), origin });
    }
    settings
}

/// The file, for places and for values that are shown as typed.
struct Source<'a> {
    name: &'a str,
    text: &'a str,
}

impl Source<'_> {
    fn origin_at(&self, offset: usize) -> Origin {
        let before = self.text.as_bytes().iter().take(offset);
        let line = before.filter(|byte| **byte == b'\n').count() + 1;
        Origin::File { name: self.name.to_owned(), line }
    }

    fn text_of(&self, value: &DeValue<'_>, span: &std::ops::Range<usize>) -> String {
        match value {
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(integer) => i64::from_str_radix(integer.as_str(), integer.radix())
                .map_or_else(|_| integer.as_str().to_owned(), |number| number.to_string()),
            DeValue::Boolean(flag) => flag.to_string(),
            DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => {
                self.text.get(span.clone()).unwrap_or_default().to_owned()
            }
        }
    }

    fn syntax_problem(&self, error: &Error) -> Problem {
        let origin = self.origin_at(error.span().map_or(0, |span| span.start));
        let description = format!("is not TOML: {}", error.message());
        Problem { key: String::new(), origin, description }
    }
}

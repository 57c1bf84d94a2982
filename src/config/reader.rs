//! Reads keys one by one, and remembers what was read, what is wrong and what is known.

use super::accepts::{Accepts, Read};
use super::environment::{PREFIX, variable_of};
use super::nearest::nearest;
use super::problem::{Origin, Problem, Problems};
use super::raw::{Raw, Value};

/// A key with the value in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    /// The key, for example `listen.grpc`.
    pub key: String,
    /// The value as it would be written in TOML.
    pub value: String,
    /// Where it was set.
    pub origin: Origin,
    /// What the setting accepts; each of its items, where it is a list.
    pub accepts: Accepts,
}

/// Reads the keys of one configuration.
pub(super) struct Reader<'a> {
    raw: &'a Raw,
    effective: Vec<Effective>,
    problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(raw: &'a Raw) -> Self {
        Self { raw, effective: Vec::new(), problems: Vec::new() }
    }

    /// The value of a key; `None`, and a problem on the list, where it has no meaning.
    pub(super) fn one<T>(&mut self, key: &str, default: &str, reader: impl Read<Value = T>) -> Option<T> {
        let (value, origin) = self.typed(key, || Value::One(default.to_owned()));
        let parsed = match &value {
            Value::One(text) => reader.read(text),
            Value::Many(_) => Err("is a list; give one value".to_owned()),
        };
        let shown = if let Value::One(text) = &value { show(text) } else { String::new() };
        self.effective.push(Effective {
            key: key.to_owned(),
            value: shown,
            origin,
            accepts: reader.accepts(),
        });
        parsed.map_err(|why| self.problem(key, why)).ok()
    }

    /// The value of a key that is nobody's business: it is shown as set or not, and no more.
    pub(super) fn secret<T>(&mut self, key: &str, reader: impl Read<Value = T>) -> Option<T> {
        let parsed = self.one(key, "", reader);
        if let Some(effective) = self.effective.last_mut().filter(|last| last.value != "\"\"") {
            effective.value = show("(hidden)");
        }
        parsed
    }

    /// The values of a list; empty by default. Every item that has no meaning is a problem of its own.
    pub(super) fn many<T>(&mut self, key: &str, reader: impl Read<Value = T>) -> Option<Vec<T>> {
        let (value, origin) = self.typed(key, || Value::Many(Vec::new()));
        let texts = value.items();
        let shown: Vec<String> = texts.iter().map(|text| show(text)).collect();
        let value = format!("[{}]", shown.join(", "));
        self.effective.push(Effective { key: key.to_owned(), value, origin, accepts: reader.accepts() });
        let parsed: Vec<Option<T>> =
            texts.iter().map(|text| reader.read(text).map_err(|why| self.problem(key, why)).ok()).collect();
        parsed.into_iter().collect()
    }

    /// Whether somebody typed something for the key.
    pub(super) fn is_set(&self, key: &str) -> bool {
        self.raw.get(key).is_some()
    }

    /// Whether somebody typed something for the key, and not nothing.
    pub(super) fn is_filled(&self, key: &str) -> bool {
        self.raw.get(key).is_some_and(|setting| match &setting.value {
            Value::One(text) => !text.is_empty(),
            Value::Many(texts) => !texts.is_empty(),
        })
    }

    /// Notes what is wrong with a key that was read.
    pub(super) fn problem(&mut self, key: &str, description: impl Into<String>) {
        let origin = self.raw.get(key).map_or(Origin::Default, |setting| setting.origin.clone());
        self.problems.push(Problem { key: key.to_owned(), origin, description: description.into() });
    }

    /// Notes every key and variable that nobody read; `others` are variables that may be there.
    pub(super) fn refuse_the_rest(&mut self, others: &[String]) {
        let known = |key: &str| self.effective.iter().any(|read| read.key == key);
        let keys = || self.effective.iter().map(|read| read.key.as_str());
        let mut found = Vec::new();
        for (key, setting) in self.raw.file.iter().filter(|(key, _)| !known(key)) {
            let description = unknown("key", nearest(key, keys(), '.'));
            found.push(Problem { key: key.clone(), origin: setting.origin.clone(), description });
        }
        for (table, origin) in &self.raw.empty_tables {
            let inside = format!("{table}.");
            if !keys().any(|key| key.starts_with(&inside)) && table != "plans" {
                let sections = keys().filter_map(|key| key.rsplit_once('.').map(|(section, _)| section));
                let description = unknown("section", nearest(table, sections, '.'));
                found.push(Problem { key: table.clone(), origin: origin.clone(), description });
            }
        }
        let variables: Vec<String> = keys().map(variable_of).collect();
        for (variable, setting) in &self.raw.environment {
            if !variables.contains(variable) && !others.contains(variable) {
                let near = nearest(variable, variables.iter().map(String::as_str), '\0');
                let description = unknown("variable", near);
                let key = variable.strip_prefix(PREFIX).unwrap_or(variable).to_lowercase();
                found.push(Problem { key, origin: setting.origin.clone(), description });
            }
        }
        self.problems.append(&mut found);
    }

    /// All that was read, or all that is wrong.
    pub(super) fn finish(self) -> Result<Vec<Effective>, Problems> {
        if self.problems.is_empty() { Ok(self.effective) } else { Err(Problems(self.problems)) }
    }

    fn typed(&self, key: &str, default: impl FnOnce() -> Value) -> (Value, Origin) {
        match self.raw.get(key) {
            Some(setting) => (setting.value.clone(), setting.origin.clone()),
            None => (default(), Origin::Default),
        }
    }
}

fn unknown(kind: &str, near: Option<&str>) -> String {
    match near {
        Some(near) => format!("there is no such {kind}; did you mean `{near}`?"),
        None => format!("there is no such {kind}; `signalpost config example` shows all"),
    }
}

/// A text as a TOML value: numbers and flags bare, all else quoted (JSON's escapes are TOML's).
fn show(text: &str) -> String {
    let bare = text.parse::<i64>().is_ok_and(|number| number.to_string() == text);
    if bare || text == "true" || text == "false" {
        return text.to_owned();
    }
    serde_json::Value::from(text).to_string()
}

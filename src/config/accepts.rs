//! What a setting accepts, told by the same value that reads it: so the schema, the reference and the check agree.

use std::fmt;
use std::time::Duration;

use super::units::{show_duration, show_size};

/// What a setting accepts, as far as it can be told without its parser.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accepts {
    /// A text; `config check` knows its form.
    Text,
    /// A text of so many characters.
    Characters {
        /// At least.
        least: usize,
        /// At most.
        most: usize,
    },
    /// `true` or `false`.
    Flag,
    /// A whole number.
    Number {
        /// At least.
        least: u64,
        /// At most.
        most: u64,
    },
    /// Bytes, as a number or with a unit.
    Size {
        /// At least.
        least: u64,
        /// At most.
        most: u64,
    },
    /// A length of time, with units.
    Length {
        /// At least.
        least: Duration,
        /// At most.
        most: Duration,
    },
    /// One of these words.
    Words(Vec<&'static str>),
    /// A word of its own, or something else.
    Or(&'static str, Box<Accepts>),
}

impl fmt::Display for Accepts {
    /// For people; empty where there is nothing to say.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Accepts::Text => Ok(()),
            Accepts::Characters { least, most } => write!(f, "{least} to {most} characters"),
            Accepts::Flag => f.write_str("true, false"),
            Accepts::Number { least, most } => write!(f, "{least} to {most}"),
            Accepts::Size { least, most } => write!(f, "{} to {}", show_size(*least), show_size(*most)),
            Accepts::Length { least, most } => {
                write!(f, "{} to {}", show_duration(*least), show_duration(*most))
            }
            Accepts::Words(words) => f.write_str(&words.join(", ")),
            Accepts::Or("", other) => other.fmt(f),
            Accepts::Or(word, other) if **other == Accepts::Text => write!(f, "a text, or {word}"),
            Accepts::Or(word, other) => write!(f, "{other}, or {word}"),
        }
    }
}

/// Reads what somebody typed for a setting, and tells beforehand what it accepts.
///
/// Functions are readers, too, of which no more is known than that they read texts.
pub(super) trait Read {
    /// What is read.
    type Value;

    /// The value, or what would be right.
    fn read(&self, text: &str) -> Result<Self::Value, String>;

    /// What it accepts.
    fn accepts(&self) -> Accepts;
}

impl<T, F: Fn(&str) -> Result<T, String>> Read for F {
    type Value = T;

    fn read(&self, text: &str) -> Result<T, String> {
        self(text)
    }

    fn accepts(&self) -> Accepts {
        Accepts::Text
    }
}

/// A function, and what it accepts.
pub(super) struct Known<F>(pub(super) Accepts, pub(super) F);

impl<T, F: Fn(&str) -> Result<T, String>> Read for Known<F> {
    type Value = T;

    fn read(&self, text: &str) -> Result<T, String> {
        (self.1)(text)
    }

    fn accepts(&self) -> Accepts {
        self.0.clone()
    }
}

/// One of some words, each of which means something.
pub(super) fn one_of<T: Copy, const N: usize>(words: [(&'static str, T); N]) -> impl Read<Value = T> {
    let known: Vec<&'static str> = words.iter().map(|(word, _)| *word).collect();
    Known(Accepts::Words(known.clone()), move |text: &str| {
        let found = words.iter().find(|(word, _)| *word == text);
        found.map(|(_, meaning)| *meaning).ok_or_else(|| none_of(text, &known))
    })
}

fn none_of(text: &str, known: &[&str]) -> String {
    match known {
        [one, other] => format!("`{text}` is neither {one} nor {other}; write one of the two"),
        [rest @ .., last] => {
            format!("`{text}` is none of {} and {last}; write one of them", rest.join(", "))
        }
        [] => format!("`{text}` is not known"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_accepted_is_told_as_people_would_write_it() {
        let length = Accepts::Length { least: Duration::from_millis(100), most: Duration::from_secs(86_400) };
        for (accepts, told) in [
            (Accepts::Text, ""),
            (Accepts::Number { least: 1, most: 256 }, "1 to 256"),
            (Accepts::Size { least: 2, most: 16 << 20 }, "2B to 16MiB"),
            (length, "100ms to 1d"),
            (Accepts::Or("auto", Box::new(Accepts::Number { least: 1, most: 2 })), "1 to 2, or auto"),
            (Accepts::Or("", Box::new(Accepts::Text)), ""),
            (Accepts::Or("off", Box::new(Accepts::Text)), "a text, or off"),
        ] {
            assert_eq!(accepts.to_string(), told);
        }
    }

    #[test]
    fn a_word_that_is_none_of_those_known_is_refused_with_them() {
        let two = one_of([("human", 1), ("json", 2)]);
        assert_eq!(two.read("json"), Ok(2));
        assert_eq!(two.read("xml").unwrap_err(), "`xml` is neither human nor json; write one of the two");
        let three = one_of([("a", 1), ("b", 2), ("c", 3)]);
        assert_eq!(three.read("d").unwrap_err(), "`d` is none of a, b and c; write one of them");
        assert_eq!(three.accepts(), Accepts::Words(vec!["a", "b", "c"]));
    }
}

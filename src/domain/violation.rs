//! What is wrong with an input: every violated field, by path, with the remedy.

use std::fmt;

/// Which rule a field breaks, for programs; the edge gives each a name that it never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Rule {
    /// None of the others; the description says it all.
    #[default]
    Other,
    /// It is missing or empty.
    Required,
    /// It has characters or a form that are not allowed.
    Malformed,
    /// A text or a list is too long.
    TooLong,
    /// A number, a time or a duration is outside its range.
    OutOfRange,
    /// It must not be set here, or not together with another.
    NotAllowed,
    /// An update mask names what can't be changed, or nothing.
    UpdateMask,
    /// A page token is damaged or belongs to another request.
    PageToken,
    /// A range of time ends before it begins.
    TimeRange,
    /// A batch has no entry or too many.
    BatchSize,
    /// A setting that this server, the contract or the operator does not offer.
    NotSupported,
    /// An event type that is for the server's own events.
    EventTypeReserved,
    /// An event's data has too many bytes.
    PayloadTooLarge,
    /// An event's data is not JSON in UTF-8.
    PayloadNotJson,
    /// An event's data is JSON, but no object.
    PayloadNotObject,
    /// An event's data is nested too deeply.
    PayloadTooDeep,
    /// It is no URL that can be called.
    UrlMalformed,
    /// The URL's scheme is not one that is allowed here.
    UrlScheme,
    /// The URL's host or port is not one that the operator's egress policy allows.
    UrlAddress,
    /// An event type that the contract's closed catalogue does not have.
    NotInCatalogue,
    /// A subscription that nothing could match.
    SubscriptionEmpty,
    /// A secret is not of the form that the contract needs.
    SecretMalformed,
    /// A variable or a file that the operator has not allowed.
    SecretSourceNotAllowed,
    /// Stored credentials would be sent to another host.
    CredentialsNeededAgain,
    /// A header that is not the caller's to set, or not one at all.
    HeaderNotAllowed,
    /// A part of an imported document.
    DocumentInvalid,
    /// A plan that is not configured.
    PlanUnknown,
}

impl Rule {
    /// The rule that a name breaks: it is empty, too long, or has other characters than it may have.
    #[must_use]
    pub fn of_name(text: &str, max_chars: usize) -> Self {
        match text.chars().count() {
            0 => Rule::Required,
            count if count > max_chars => Rule::TooLong,
            _ => Rule::Malformed,
        }
    }
}

/// One violated field of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The path of the field in the caller's words, for example `destination.url`.
    pub field: String,
    /// What is wrong and what would be right, in one or two sentences.
    pub description: String,
    /// Which rule it breaks.
    pub rule: Rule,
    /// What programs may want to know of it: limits, offsets, names.
    pub facts: Vec<(&'static str, String)>,
}

/// All violations of one input; empty means that the input is valid.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Violations(Vec<Violation>);

impl Violations {
    /// No violation yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A list of exactly one violation.
    #[must_use]
    pub fn one(field: impl Into<String>, description: impl Into<String>) -> Self {
        let mut violations = Self::new();
        violations.add(field, description);
        violations
    }

    /// Adds a violation.
    pub fn add(&mut self, field: impl Into<String>, description: impl Into<String>) {
        self.add_as(Rule::Other, field, description);
    }

    /// Adds a violation of a rule that programs know by name.
    pub fn add_as(&mut self, rule: Rule, field: impl Into<String>, description: impl Into<String>) {
        let (field, description) = (field.into(), description.into());
        self.0.push(Violation { field, description, rule, facts: Vec::new() });
    }

    /// Adds a fact to the violation that was added last.
    pub fn with(&mut self, name: &'static str, value: impl fmt::Display) -> &mut Self {
        if let Some(last) = self.0.last_mut() {
            last.facts.push((name, value.to_string()));
        }
        self
    }

    /// Keeps the value of a parse, or notes why there is none.
    pub fn check<T>(&mut self, field: &str, parsed: Result<T, impl fmt::Display>) -> Option<T> {
        self.check_as(Rule::Other, field, parsed)
    }

    /// Keeps the value of a parse, or notes why there is none, as a violation of this rule.
    pub fn check_as<T>(
        &mut self,
        rule: Rule,
        field: &str,
        parsed: Result<T, impl fmt::Display>,
    ) -> Option<T> {
        match parsed {
            Ok(value) => Some(value),
            Err(problem) => {
                self.add_as(rule, field, problem.to_string());
                None
            }
        }
    }

    /// Takes over the violations of a part, with `prefix` and a dot before each path.
    pub fn extend_under(&mut self, prefix: &str, inner: Violations) {
        self.extend(inner.renamed(|field| format!("{prefix}.{field}")));
    }

    /// The same violations with other paths.
    #[must_use]
    pub fn renamed(&self, rename: impl Fn(&str) -> String) -> Self {
        let moved = |one: &Violation| Violation { field: rename(&one.field), ..one.clone() };
        Self(self.0.iter().map(moved).collect())
    }

    /// Takes over violations whose paths are complete already.
    pub fn extend(&mut self, inner: Violations) {
        self.0.extend(inner.0);
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The violations, in the order in which they were found.
    pub fn iter(&self) -> impl Iterator<Item = &Violation> {
        self.0.iter()
    }

    /// `Ok` with the value where nothing is wrong, or all violations.
    ///
    /// # Errors
    /// The violations themselves, where there is any.
    pub fn into_result<T>(self, value: T) -> Result<T, Violations> {
        if self.is_empty() { Ok(value) } else { Err(self) }
    }
}

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, violation) in self.0.iter().enumerate() {
            let separator = if position == 0 { "" } else { "; " };
            write!(f, "{separator}{}: {}", violation.field, violation.description)?;
        }
        Ok(())
    }
}

impl std::error::Error for Violations {}

//! The token file: a line for each token, with its name, its grants, its hash and perhaps its end.
//!
//! ```text
//! # name   grants                   hash                  until
//! backend  emitter@acme             sha256-v1:5e88…
//! support  viewer@acme+globex       sha256-v1:03ac…       2027-01-01T00:00:00Z
//! ops      operator                 sha256-v1:a591…
//! ```
//!
//! A text becomes a table, or all that is wrong with it. Several lines may have one name, so that an old
//! and a new token of the same caller are valid together while it changes over.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use super::caller::{CallerKind, Identity};
use super::grant::parse_grants;
use super::reload::{ReloadError, Reloaded};
use super::token::TokenHash;
use crate::domain::time::Timestamp;

/// What names the file.
const SETTING: &str = "auth.tokens_file";
/// The most tokens of a file.
pub const TOKENS_MAX: usize = 10_000;
/// The longest name, in bytes.
const NAME_MAX_BYTES: usize = 64;

/// A token of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    hash: TokenHash,
    /// From when on it is no longer valid.
    expires_at: Option<Timestamp>,
    pub(super) identity: Arc<Identity>,
}

impl Entry {
    /// Whether it is still valid.
    pub(super) fn is_valid_at(&self, now: Timestamp) -> bool {
        self.expires_at.is_none_or(|end| now < end)
    }
}

/// All tokens of a file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TokenTable {
    by_index: HashMap<u64, Vec<Entry>>,
}

impl TokenTable {
    /// Reads the file.
    ///
    /// # Errors
    /// All that is wrong with it, a line each. An empty text is wrong: a file that is being written. A file
    /// that holds comments alone is right, and has no tokens.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Err("it is empty; to withdraw all tokens, leave a comment".into());
        }
        let (mut table, mut count, mut wrong) = (Self::default(), 0_usize, Vec::new());
        for (number, line) in text.lines().enumerate() {
            match parse_line(line) {
                Ok(None) => {}
                Ok(Some(entry)) => {
                    count += 1;
                    if table.find(&entry.hash).is_some() {
                        wrong.push(format!("line {}: the same hash stands there twice", number + 1));
                    }
                    table.by_index.entry(entry.hash.index()).or_default().push(entry);
                }
                Err(why) => wrong.push(format!("line {}: {why}", number + 1)),
            }
        }
        if count > TOKENS_MAX {
            wrong.push(format!("it has {count} tokens; at most {TOKENS_MAX} are allowed"));
        }
        if wrong.is_empty() { Ok(table) } else { Err(wrong.join("; ")) }
    }

    /// The token with this hash.
    pub(super) fn find(&self, hash: &TokenHash) -> Option<&Entry> {
        self.by_index.get(&hash.index())?.iter().find(|entry| entry.hash == *hash)
    }

    /// How many tokens there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_index.values().map(Vec::len).sum()
    }

    /// Whether there is no token.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_index.is_empty()
    }
}

/// Opens the file, for good: it is read again when it changes.
///
/// # Errors
/// [`ReloadError`]: it can't be read, or all that is wrong with it.
pub fn open(path: &Path) -> Result<Reloaded<TokenTable>, ReloadError> {
    Reloaded::open(SETTING, vec![(SETTING, path.to_owned())], |contents| {
        let content = contents.first().map(|content| content.as_slice()).unwrap_or_default();
        TokenTable::parse(std::str::from_utf8(content).map_err(|_| "it is not UTF-8".to_owned())?)
    })
}

/// The line of a token; what `signalpost token new` prints.
#[must_use]
pub fn line_of(name: &str, grants: &str, hash: &TokenHash, expires_at: Option<Timestamp>) -> String {
    let until = expires_at.map(|end| format!(" {}", end.to_rfc3339_seconds())).unwrap_or_default();
    format!("{name} {grants} {hash}{until}")
}

/// Checks a name.
///
/// # Errors
/// What would be right.
pub fn check_name(name: &str) -> Result<(), String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-@:".contains(&byte);
    if name.is_empty() || name.len() > NAME_MAX_BYTES || !name.bytes().all(fits) {
        return Err(format!(
            "`{}` is no name of a token; use 1 to {NAME_MAX_BYTES} of A to Z, a to z, 0 to 9 and _ . - @ :",
            name.escape_debug()
        ));
    }
    Ok(())
}

fn parse_line(line: &str) -> Result<Option<Entry>, String> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let (name, grants, hash, until) = match words.as_slice() {
        [name, grants, hash] => (*name, *grants, *hash, None),
        [name, grants, hash, until] => (*name, *grants, *hash, Some(*until)),
        // The words are not repeated: a token in the clear may be among them.
        words => {
            return Err(format!("has {} words; write NAME GRANTS HASH, and perhaps a time", words.len()));
        }
    };
    check_name(name)?;
    let grants = parse_grants(grants)?;
    let hash = TokenHash::parse(hash)?;
    let expires_at = until.map(Timestamp::parse_rfc3339).transpose()?;
    let identity = Identity::named(CallerKind::Token, name.to_owned(), grants);
    Ok(Some(Entry { hash, expires_at, identity: Arc::new(identity) }))
}

#[cfg(test)]
mod tests {
    use super::super::token::Token;
    use super::*;

    #[test]
    fn a_line_that_was_printed_is_a_line_of_the_file() {
        let token = Token::generate().unwrap();
        let end = Timestamp::parse_rfc3339("2027-01-01T00:00:00Z").unwrap();
        let line = line_of("support", "viewer@acme+globex,emitter@*", &token.hash(), Some(end));
        let table = TokenTable::parse(&format!("# callers\n\n{line}\n")).unwrap();
        let entry = table.find(&token.hash()).unwrap();
        assert_eq!((entry.identity.subject.as_str(), entry.identity.grants.len()), ("support", 2));
        assert!(entry.is_valid_at(Timestamp::from_millis(end.as_millis() - 1)) && !entry.is_valid_at(end));
        assert_eq!(table.len(), 1);
        assert!(table.find(&Token::generate().unwrap().hash()).is_none());
    }

    #[test]
    fn an_old_and_a_new_token_of_one_caller_stand_side_by_side() {
        let (old, new) = (Token::generate().unwrap(), Token::generate().unwrap());
        let lines = [&old, &new].map(|token| line_of("backend", "emitter@acme", &token.hash(), None));
        let table = TokenTable::parse(&lines.join("\n")).unwrap();
        assert!(table.find(&old.hash()).is_some() && table.find(&new.hash()).is_some());
    }

    #[test]
    fn all_mistakes_are_told_at_once_each_with_its_line() {
        let token = Token::generate().unwrap();
        let hash = token.hash();
        let text = format!(
            "a operator {hash}\nb admin {hash}\nc admin@* nonsense\nd viewer@* {hash} tomorrow\n\
             {}\nna/me viewer@* {hash}\na operator {hash}\n",
            token.expose()
        );
        let why = TokenTable::parse(&text).unwrap_err();
        for part in [
            "line 2: `admin` does not say where",
            "line 3: no token hash stands there",
            "line 4: `tomorrow` is no RFC 3339 time",
            "line 5: has 1 words",
            "line 6: `na/me` is no name of a token",
            "line 7: the same hash stands there twice",
        ] {
            assert!(why.contains(part), "{part}\nis not in\n{why}");
        }
        assert!(!why.contains(token.expose()));
    }

    #[test]
    fn a_file_that_is_being_written_is_not_taken_for_one_without_tokens() {
        for text in ["", "  \n"] {
            assert!(TokenTable::parse(text).unwrap_err().contains("empty"));
        }
        assert!(TokenTable::parse("# none at present\n").unwrap().is_empty());
        let line = line_of("a", "operator", &Token::generate().unwrap().hash(), None);
        assert!(TokenTable::parse(&line[..line.len() - 1]).is_err());
    }
}

//! Finds the paths in a Rust source text, without its comments, literals and unit tests.
//!
//! It is a tokenizer and not a parser: enough to see `a::b` in code and `use` trees, with their lines.

use std::collections::BTreeSet;

/// A path as written, with its line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub line: usize,
    pub segments: Vec<String>,
}

/// What a source text holds.
#[derive(Debug, Default)]
pub struct Scan {
    /// Paths of `use` declarations, one a leaf, and paths in code.
    pub paths: Vec<Found>,
    /// Names that mean something of ours here: declared modules, imported modules and items.
    pub local_names: BTreeSet<String>,
    /// Modules in files of their own that exist only for tests.
    pub test_modules: Vec<String>,
    /// Lines without unit tests.
    pub lines: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Token {
    text: String,
    line: usize,
}

/// Scans one source text.
pub fn scan(text: &str) -> Scan {
    let mut scan = Scan { lines: text.lines().count(), ..Scan::default() };
    let tokens = without_tests(tokenize(text), &mut scan);
    let word = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
    let mut at = 0;
    while at < tokens.len() {
        let before = if at == 0 { "" } else { word(at - 1) };
        if word(at) == "mod" && is_word(word(at + 1)) {
            scan.local_names.insert(word(at + 1).to_owned());
            at += 2;
        } else if word(at) == "use" && before != "::" {
            at = use_tree(&tokens, at + 1, &[], &mut scan);
        } else if is_word(word(at)) && before != "." {
            at = path(&tokens, at, &mut scan);
        } else {
            at += 1;
        }
    }
    scan
}

fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// A path in code, from its first word on.
fn path(tokens: &[Token], start: usize, scan: &mut Scan) -> usize {
    let word = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
    let mut segments = vec![word(start).to_owned()];
    let mut at = start + 1;
    while word(at) == "::" && is_word(word(at + 1)) {
        segments.push(word(at + 1).to_owned());
        at += 2;
    }
    // `::sled::Db` names the crate whatever is called `sled` here.
    let rooted = start > 0 && word(start - 1) == "::" && (start == 1 || !ends_a_path(word(start - 2)));
    if rooted {
        segments.insert(0, "::".into());
    }
    if segments.len() > 1 {
        let line = tokens.get(start).map_or(0, |token| token.line);
        scan.paths.push(Found { line, segments });
    }
    at
}

fn ends_a_path(text: &str) -> bool {
    text == ">" || is_word(text)
}

/// A tree of a `use` declaration, from after `use` or `::`; returns where it ends.
fn use_tree(tokens: &[Token], start: usize, prefix: &[String], scan: &mut Scan) -> usize {
    let word = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
    let line = tokens.get(start).map_or(0, |token| token.line);
    let mut segments = prefix.to_vec();
    let mut at = start;
    loop {
        match word(at) {
            "{" => {
                at += 1;
                while !matches!(word(at), "}" | "") {
                    at = use_tree(tokens, at, &segments, scan);
                    at += usize::from(word(at) == ",");
                }
                return at + 1;
            }
            "::" if segments.is_empty() => segments.push("::".into()),
            "::" => {}
            "*" => segments.push("*".into()),
            "as" => at += 1,
            text if is_word(text) => segments.push(text.to_owned()),
            _ => break,
        }
        at += 1;
    }
    let ours = segments.first().is_some_and(|first| matches!(first.as_str(), "crate" | "super" | "self"));
    if ours && let Some(name) = tokens.get(at.saturating_sub(1)).filter(|token| is_word(&token.text)) {
        scan.local_names.insert(name.text.clone());
    }
    scan.paths.push(Found { line, segments });
    at.max(start + 1)
}

/// The tokens without the items under `#[cfg(test)]`, whose lines are not counted either.
fn without_tests(tokens: Vec<Token>, scan: &mut Scan) -> Vec<Token> {
    let mark = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut kept = Vec::new();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        let marked =
            mark.iter().enumerate().all(|(i, text)| tokens.get(at + i).is_some_and(|t| t.text == *text));
        if !marked {
            kept.push(token.clone());
            at += 1;
            continue;
        }
        let item = at + mark.len();
        let end = end_of_item(&tokens, item);
        let inside = tokens.get(item..end).unwrap_or_default();
        let module = inside.iter().position(|token| token.text == "mod").filter(|position| *position < 5);
        if inside.last().is_some_and(|last| last.text == ";")
            && let Some(name) = module.and_then(|position| inside.get(position + 1))
        {
            scan.test_modules.push(name.text.clone());
        }
        let last = inside.last().map_or(token.line, |last| last.line);
        scan.lines = scan.lines.saturating_sub(last - token.line + 1);
        at = end;
    }
    kept
}

/// Where the item ends that begins at `start`: after its block, its semicolon or (a variant, a field, an
/// arm) its comma.
fn end_of_item(tokens: &[Token], start: usize) -> usize {
    const ITEMS: [&str; 13] = [
        "pub", "mod", "fn", "use", "struct", "enum", "impl", "trait", "const", "static", "type", "async", "#",
    ];
    let comma_ends = !tokens.get(start).is_some_and(|token| ITEMS.contains(&token.text.as_str()));
    let (mut depth, mut at) = (0_usize, start);
    while let Some(token) = tokens.get(at) {
        match token.text.as_str() {
            "}" if depth == 0 => return at,
            "{" | "(" | "[" => depth += 1,
            "}" if depth == 1 && !comma_ends => return at + 1,
            "}" | ")" | "]" => depth = depth.saturating_sub(1),
            ";" if depth == 0 => return at + 1,
            "," if depth == 0 && comma_ends => return at + 1,
            _ => {}
        }
        at += 1;
    }
    at
}

fn tokenize(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let peek = |at: usize| chars.get(at).copied().unwrap_or('\0');
    let (mut tokens, mut at, mut line) = (Vec::new(), 0, 1);
    while at < chars.len() {
        let end = match (peek(at), peek(at + 1)) {
            ('/', '/') => line_comment(&chars, at),
            ('/', '*') => block_comment(&chars, at),
            ('"', _) => string(&chars, at + 1),
            ('b' | 'c', '"') => string(&chars, at + 2),
            ('r', '"' | '#') | ('b' | 'c', 'r') if raw_string(&chars, at).is_some() => {
                raw_string(&chars, at).unwrap_or(at + 1)
            }
            ('\'', _) => quote(&chars, at),
            (':', ':') => {
                tokens.push(Token { text: "::".into(), line });
                at + 2
            }
            (c, _) if c.is_alphanumeric() || c == '_' => {
                let rest = chars.iter().skip(at);
                let end = at + rest.take_while(|c| c.is_alphanumeric() || **c == '_').count();
                tokens.push(Token { text: chars.iter().skip(at).take(end - at).collect(), line });
                end
            }
            (c, _) if c.is_whitespace() => at + 1,
            (c, _) => {
                tokens.push(Token { text: c.to_string(), line });
                at + 1
            }
        };
        line += chars.iter().skip(at).take(end - at).filter(|c| **c == '\n').count();
        at = end;
    }
    tokens
}

fn line_comment(chars: &[char], start: usize) -> usize {
    start + chars.iter().skip(start).take_while(|c| **c != '\n').count()
}

fn block_comment(chars: &[char], start: usize) -> usize {
    let (mut depth, mut at) = (0_usize, start);
    while at < chars.len() {
        match (chars.get(at), chars.get(at + 1)) {
            (Some('/'), Some('*')) => (depth, at) = (depth + 1, at + 2),
            (Some('*'), Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn string(chars: &[char], start: usize) -> usize {
    let mut at = start;
    while let Some(c) = chars.get(at) {
        match c {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

/// The end of `r"…"`, `r#"…"#`, `br"…"` and so on, if one begins here.
fn raw_string(chars: &[char], start: usize) -> Option<usize> {
    let mut at = start + usize::from(chars.get(start) != Some(&'r')) + 1;
    let hashes = chars.iter().skip(at).take_while(|c| **c == '#').count();
    at += hashes;
    if chars.get(at) != Some(&'"') {
        return None;
    }
    while at < chars.len() {
        at += 1;
        let closes = chars.get(at) == Some(&'"');
        if closes && chars.iter().skip(at + 1).take(hashes).filter(|c| **c == '#').count() == hashes {
            return Some(at + 1 + hashes);
        }
    }
    Some(chars.len())
}

/// The end of a character, or of a lifetime's mark.
fn quote(chars: &[char], start: usize) -> usize {
    match (chars.get(start + 1), chars.get(start + 2)) {
        (Some('\\'), _) => {
            let rest = chars.iter().skip(start + 3).take_while(|c| **c != '\'').count();
            start + 3 + rest + 1
        }
        (Some(_), Some('\'')) => start + 3,
        _ => start + 1,
    }
}

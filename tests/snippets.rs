//! Code in documents is code that runs: each block behind a mark is compared with its file.
//!
//! A mark is `<!-- path [name] -->` on a line of its own; the block behind it holds what stands in that file between
//! the lines `// [name]` and `// [/name]` (`#` in Python). With `UPDATE_SNIPPETS=1` the test writes the blocks anew,
//! and fails if that changed anything.

use std::fs;
use std::path::Path;

/// Documents with code from files.
const DOCUMENTS: &[&str] = &["README.md", "docs/INTEGRATING.md"];

/// A document with the blocks as the files have them, and how many there are; or the part that is missing.
fn renewed(document: &str, read: impl Fn(&str) -> String) -> Result<(String, usize), String> {
    let (mut renewed, mut count) = (String::new(), 0);
    let mut lines = document.lines().peekable();
    while let Some(line) = lines.next() {
        renewed.push_str(line);
        renewed.push('\n');
        let Some((path, name)) = mark(line) else { continue };
        count += 1;
        // The old block, with the empty line before it.
        if lines.peek() == Some(&"") {
            lines.next();
        }
        if lines.next_if(|next| next.starts_with("```")).is_some() {
            while lines.next().is_some_and(|next| next != "```") {}
        } else {
            renewed.push('\n');
        }
        if !renewed.ends_with("\n\n") {
            renewed.push('\n');
        }
        let language = path.rsplit('.').next().unwrap_or_default();
        let language = match language {
            "rs" => "rust",
            "py" => "python",
            other => other,
        };
        let code = snippet(&read(path), name).ok_or(format!("{path} has no part [{name}]"))?;
        renewed.push_str(&format!("```{language}\n{code}```\n"));
        if lines.peek().is_some_and(|next| !next.is_empty()) {
            renewed.push('\n');
        }
    }
    Ok((renewed, count))
}

fn mark(line: &str) -> Option<(&str, &str)> {
    let (path, name) = line.strip_prefix("<!-- ")?.strip_suffix("] -->")?.split_once(" [")?;
    Some((path, name))
}

/// The lines between `[name]` and `[/name]`.
fn snippet(text: &str, name: &str) -> Option<String> {
    let is = |line: &str, mark: String| line.trim().trim_start_matches(['/', '#', ' ']) == mark;
    let mut lines = text.lines().skip_while(|line| !is(line, format!("[{name}]")));
    lines.next()?;
    let inner: Vec<&str> = lines.take_while(|line| !is(line, format!("[/{name}]"))).collect();
    (!inner.is_empty()).then(|| inner.iter().flat_map(|line| [line, "\n"]).collect())
}

#[test]
fn code_in_documents_is_that_of_files_that_are_tested() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for document in DOCUMENTS {
        let path = root.join(document);
        let present = fs::read_to_string(&path).unwrap();
        let read = |path: &str| fs::read_to_string(root.join(path)).unwrap();
        let (expected, count) = renewed(&present, read).unwrap();
        assert!(count > 0, "{document} has no marks");
        if std::env::var_os("UPDATE_SNIPPETS").is_some() {
            fs::write(&path, &expected).unwrap();
        }
        assert!(present == expected, "{document} differs from its files: UPDATE_SNIPPETS=1 writes it anew");
    }
}

#[test]
fn a_block_that_differs_is_replaced_and_the_rest_left_as_it_is() {
    let file = "before\n// [one]\nlet a = 1;\n// [/one]\nafter\n";
    let old = "# Title\n\n<!-- a.rs [one] -->\n\n```rust\nlet a = 2;\n```\n\nText.\n";
    let new = "# Title\n\n<!-- a.rs [one] -->\n\n```rust\nlet a = 1;\n```\n\nText.\n";
    let read = |_: &str| file.to_owned();
    assert_eq!(renewed(old, read), Ok((new.into(), 1)));
    assert_eq!(renewed(new, read), Ok((new.into(), 1)), "and stays");
    let empty = "# Title\n\n<!-- a.rs [one] -->\n\nText.\n";
    assert_eq!(renewed(empty, read), Ok((new.into(), 1)), "the first time");
    assert!(renewed("<!-- a.rs [two] -->\n", read).is_err(), "a part that is not there is told");
}

#[test]
fn a_part_is_found_by_its_marks_in_any_language() {
    assert_eq!(snippet("# [x]\na\n# [/x]\n", "x").as_deref(), Some("a\n"));
    assert_eq!(snippet("  // [x]\n  a\n\n  b\n  // [/x]\n", "x").as_deref(), Some("  a\n\n  b\n"));
    assert_eq!(snippet("// [y]\n", "x"), None);
}

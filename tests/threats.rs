//! The threat model is true as far as a machine can tell: each test that it names exists, and what it says of
//! dependencies is so.

#![allow(clippy::unwrap_used, reason = "this file is a test, its helpers too")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// All Rust sources below a folder, in one text.
fn sources(folder: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            text += &sources(&path);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text += &fs::read_to_string(&path).unwrap();
        }
    }
    text
}

/// The names of tests in the rows of the tables: what is between backquotes in the last cell.
fn named_tests(page: &str) -> Vec<(usize, Vec<String>)> {
    let rows = page.lines().enumerate().filter(|(_, line)| line.starts_with('|'));
    rows.filter_map(|(number, line)| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [_, _, .., tests] = cells.as_slice() else { return None };
        let names = tests.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        (*tests != "tests" && !tests.starts_with("---")).then_some((number + 1, names))
    })
    .collect()
}

/// The tables of threats: those whose last column is of tests.
fn threat_tables(page: &str) -> String {
    let mut kept = String::new();
    let mut of_threats = false;
    for line in page.lines() {
        if !line.starts_with('|') {
            of_threats = false;
        } else if line.starts_with("| threat |") || line.starts_with("| abuse |") {
            of_threats = true;
        }
        kept += if of_threats { line } else { "" };
        kept.push('\n');
    }
    kept
}

#[test]
fn each_test_that_the_threat_model_names_exists_and_each_threat_names_one() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sources = sources(&root.join("src")) + &sources(&root.join("tests"));
    let rows = named_tests(&threat_tables(&read("docs/SECURITY.md")));
    assert!(rows.len() >= 25, "the tables were not found");
    let mut missing = BTreeSet::new();
    for (line, names) in &rows {
        assert!(!names.is_empty(), "docs/SECURITY.md line {line} names no test");
        missing.extend(names.iter().filter(|name| !sources.contains(&format!("fn {name}("))));
    }
    assert!(missing.is_empty(), "these tests do not exist: {missing:#?}");
}

#[test]
fn a_row_without_a_test_and_a_name_of_none_would_be_found() {
    let page = "| threat | what holds it | tests |\n|---|---|---|\n| a | b | |\n| c | d | `x`, `y` |\n\n| other | a | `b` |";
    let rows = named_tests(&threat_tables(page));
    assert_eq!(rows, [(3, vec![]), (4, vec!["x".to_owned(), "y".to_owned()])]);
}

/// Name and source of each package of the lock file.
fn locked() -> Vec<(String, Option<String>)> {
    let text = read("Cargo.lock");
    let value = |package: &str, key: &str| {
        let line = package.lines().find_map(|line| line.strip_prefix(&format!("{key} = \"")));
        line.map(|rest| rest.trim_end_matches('"').to_owned())
    };
    let packages = text.split("[[package]]").skip(1);
    packages.map(|package| (value(package, "name").unwrap(), value(package, "source"))).collect()
}

#[test]
fn what_cargo_deny_would_refuse_is_not_in_the_lock_file() {
    let packages = locked();
    assert!(packages.len() > 50);
    let denied = read("deny.toml");
    for (name, source) in &packages {
        assert!(!denied.contains(&format!("crate = \"{name}\"")), "{name} is denied");
        // No source is a package of this workspace.
        let fits = source.as_deref().is_none_or(|source| source.starts_with("registry+"));
        assert!(fits, "{name} comes from {source:?}");
    }
    for second in ["openssl", "native-tls", "aws-lc-rs"] {
        assert!(denied.contains(&format!("crate = \"{second}\"")), "{second} is no longer denied");
    }
}

/// What cargo says of the packages that are built on this machine.
fn metadata() -> serde_json::Value {
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let cargo = std::process::Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--offline", "--format-version", "1", "--filter-platform", &platform])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(cargo.status.success(), "{}", String::from_utf8_lossy(&cargo.stderr));
    serde_json::from_slice(&cargo.stdout).unwrap()
}

/// Whether a licence expression can be met with what is allowed: `OR` by either side, `AND` by both, inside out.
fn is_licensed(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let expression = expression.replace('/', " OR ");
    let mut rest = expression.as_str();
    let mut met = String::new();
    // What stands in brackets becomes one word first.
    while let Some((before, after)) = rest.split_once('(') {
        let (inner, behind) = after.split_once(')').unwrap();
        assert!(!inner.contains('('), "brackets within brackets: {expression}");
        met += before;
        met += if is_licensed(inner, allowed) { "YES" } else { "NO" };
        rest = behind;
    }
    met += rest;
    let fits = |word: &str| word.trim() == "YES" || allowed.contains(word.trim());
    met.split(" OR ").any(|side| side.split(" AND ").all(fits))
}

#[test]
fn every_dependency_comes_from_the_registry_under_a_licence_that_deny_toml_allows() {
    let denied = read("deny.toml");
    let list = denied.split_once("allow = [").unwrap().1.split_once(']').unwrap().0;
    let allowed: BTreeSet<String> = list.split('"').skip(1).step_by(2).map(str::to_owned).collect();
    assert!(allowed.contains("MIT") && !allowed.contains("GPL-3.0"));
    for (expression, fits) in [
        ("MIT", true),
        ("GPL-3.0-only", false),
        ("MIT OR GPL-3.0-only", true),
        ("MIT AND GPL-3.0-only", false),
        ("MIT/Apache-2.0", true),
        ("(MIT OR GPL-3.0-only) AND ISC", true),
        ("(GPL-2.0-only OR GPL-3.0-only) AND ISC", false),
        ("Apache-2.0 WITH LLVM-exception OR GPL-3.0-only", true),
    ] {
        assert_eq!(is_licensed(expression, &allowed), fits, "{expression}");
    }
    let metadata = metadata();
    let packages = metadata["packages"].as_array().unwrap();
    let used: BTreeSet<&str> = metadata["resolve"]["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| node["id"].as_str().unwrap())
        .collect();
    assert!(used.len() > 100);
    let mut registries = BTreeSet::new();
    for package in packages.iter().filter(|package| used.contains(package["id"].as_str().unwrap())) {
        let name = package["name"].as_str().unwrap();
        let source = package["source"].as_str();
        let is_ours = package["manifest_path"].as_str().unwrap().starts_with(env!("CARGO_MANIFEST_DIR"));
        let from_registry = source.is_some_and(|source| source.starts_with("registry+"));
        assert!(is_ours || from_registry, "{name} comes from {source:?}");
        registries.extend(source);
        let license = package["license"].as_str().unwrap_or("none");
        assert!(is_licensed(license, &allowed), "{name} is under {license}");
        for dependency in package["dependencies"].as_array().unwrap().iter().filter(|_| is_ours) {
            assert_ne!(dependency["req"], "*", "{name} takes any version of {}", dependency["name"]);
        }
    }
    assert_eq!(registries.len(), 1, "another registry than the default one: {registries:?}");
}

#[test]
fn the_pipeline_builds_what_the_lock_file_says() {
    let pipeline = read(".ci/run");
    let builds = pipeline.lines().filter(|line| line.starts_with("step ") && line.contains("cargo "));
    let loose: Vec<&str> =
        builds.filter(|line| !line.contains("cargo fmt") && !line.contains("--locked")).collect();
    assert!(loose.is_empty(), "{loose:#?}");
    assert!(pipeline.contains("cargo deny"));
}

#[test]
fn the_crate_forbids_unsafe_code() {
    assert!(read("Cargo.toml").contains("unsafe_code = \"forbid\""));
}

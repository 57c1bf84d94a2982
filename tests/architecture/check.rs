//! Judges sources by the table.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use super::scan::{Found, Scan, scan};
use super::{EXCLUSIVE, FILE_MAX_LINES, IMPURE, LAYERS, NAMELESS, PURE};

/// A row of the table of layers.
pub struct Layer {
    pub module: &'static str,
    pub may_import: &'static [&'static str],
    pub reason: &'static str,
}

/// A row of the table of exclusive things.
pub struct Exclusive {
    pub path: &'static str,
    pub places: &'static [&'static str],
    pub reason: &'static str,
}

/// A file of the crate; the path begins with `src/`.
pub struct Source {
    pub path: String,
    pub text: String,
}

/// All `.rs` files below a folder, in order.
pub fn read_sources(folder: &Path) -> io::Result<Vec<Source>> {
    fn walk(folder: &Path, shown: &str, sources: &mut Vec<Source>) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let shown = format!("{shown}/{}", entry.file_name().to_string_lossy());
            if entry.file_type()?.is_dir() {
                walk(&entry.path(), &shown, sources)?;
            } else if shown.ends_with(".rs") {
                sources.push(Source { text: fs::read_to_string(entry.path())?, path: shown });
            }
        }
        Ok(())
    }
    let mut sources = Vec::new();
    walk(folder, "src", &mut sources)?;
    sources.sort_by(|left, right| left.path.cmp(&right.path));
    Ok(sources)
}

/// Every violation, as `file:line: what: why`.
pub fn check(sources: &[Source]) -> Vec<String> {
    let scans: Vec<(&Source, Vec<String>, Scan)> =
        sources.iter().map(|source| (source, module_of(&source.path), scan(&source.text))).collect();
    let tests: BTreeSet<String> = scans
        .iter()
        .flat_map(|(_, module, scan)| scan.test_modules.iter().map(move |name| join(module, name)))
        .collect();
    let mut violations = Vec::new();
    for (source, module, scan) in &scans {
        let name = module.join("::");
        let is_test = name.ends_with("_tests") || tests.iter().any(|test| is_within(&name, test));
        if !is_test {
            check_file(source, &name, scan, &mut violations);
            for found in &scan.paths {
                let why = check_path(&name, module, found, scan);
                violations.extend(why.map(|why| format!("{}:{}: {why}", source.path, found.line)));
            }
        }
    }
    violations
}

/// `src/store/sled/mod.rs` is `store::sled`; the root is called `lib` or `main`.
fn module_of(path: &str) -> Vec<String> {
    let inner = path.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
    inner.split('/').map(str::to_owned).collect()
}

fn join(module: &[String], name: &str) -> String {
    let parents = module.iter().filter(|part| *part != "lib" && *part != "main").map(String::as_str);
    parents.chain([name]).collect::<Vec<_>>().join("::")
}

fn is_within(path: &str, place: &str) -> bool {
    path.strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn layer_of(module: &str) -> Option<&'static Layer> {
    LAYERS.iter().filter(|layer| is_within(module, layer.module)).max_by_key(|layer| layer.module.len())
}

fn check_file(source: &Source, module: &str, scan: &Scan, violations: &mut Vec<String>) {
    let path = &source.path;
    if layer_of(module).is_none() {
        violations
            .push(format!("{path}:1: {module} has no row in tests/architecture.rs: say what it may import"));
    }
    if module.split("::").any(|part| NAMELESS.contains(&part)) {
        violations.push(format!("{path}:1: the name says nothing: say what it owns"));
    }
    if scan.lines > FILE_MAX_LINES {
        let lines = scan.lines;
        violations
            .push(format!("{path}:1: {lines} lines without tests, at most {FILE_MAX_LINES}: find the seam"));
    }
}

fn check_path(name: &str, module: &[String], found: &Found, scan: &Scan) -> Option<String> {
    let path = resolve(module, found, &scan.local_names)?;
    if let Some(row) = EXCLUSIVE.iter().find(|row| is_within(&path, row.path)) {
        let allowed = row.places.iter().any(|place| is_within(name, place));
        if !allowed {
            return Some(format!("{name} must not use {path}: {}", row.reason));
        }
    }
    if PURE.iter().any(|place| is_within(name, place)) && IMPURE.iter().any(|thing| is_within(&path, thing)) {
        return Some(format!("{name} must not use {path}: it decides and does not act"));
    }
    let (target, layer) = (path.strip_prefix("crate::")?, layer_of(name)?);
    let own = name.split("::").next()?;
    let allowed = is_within(target, own)
        || layer.may_import.iter().any(|import| *import == "*" || is_within(target, import));
    (!allowed).then(|| format!("{name} must not import {path}: {}", layer.reason))
}

/// The whole path: `crate::…` for ours, the crate's name first for others; `None` for local names.
fn resolve(module: &[String], found: &Found, local_names: &BTreeSet<String>) -> Option<String> {
    let first = found.segments.first()?.as_str();
    let mut rest = found.segments.get(1..)?.to_vec();
    let base: Vec<String> = match first {
        "crate" | "signalpost" => Vec::new(),
        "self" => module.to_vec(),
        "super" => {
            let ups = 1 + rest.iter().take_while(|segment| *segment == "super").count();
            rest.drain(..ups - 1);
            module.iter().take(module.len().saturating_sub(ups)).cloned().collect()
        }
        "::" => return Some(rest.join("::")),
        name if local_names.contains(name) => return None,
        _ => return Some(found.segments.join("::")),
    };
    let path: Vec<String> = std::iter::once("crate".to_owned()).chain(base).chain(rest).collect();
    Some(path.join("::"))
}

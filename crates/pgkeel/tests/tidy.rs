//! The rules of this repository that no compiler checks: who may use whom, how long things may be, what is banned where.
//!
//! A file or function that is too long is named in tests/tidy_ratchet.txt with its length. A listed one may only
//! shrink, and an entry that is no longer needed must go, so the list only gets shorter.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;
const RATCHET: &str = "crates/pgkeel/tests/tidy_ratchet.txt";

/// Which crates of the workspace each crate may use. See "The house" in ARCHITECTURE.md.
const ARROWS: [(&str, &[&str]); 7] = [
    ("cluster", &[]),
    ("pgwire", &[]),
    ("identity", &[]),
    ("agent", &["cluster", "identity", "pgwire"]),
    ("proxy", &["cluster", "identity", "pgwire"]),
    ("pgkeel", &["agent", "cluster", "identity", "proxy"]),
    ("testkit", &["agent", "cluster", "identity", "pgkeel", "pgwire", "proxy"]),
];

/// What makes a result depend on anything but the arguments.
const IMPURE: [&str; 12] = [
    "std::time",
    "std::fs",
    "std::net",
    "std::thread",
    "std::env",
    "std::process",
    "std::io",
    "HashMap",
    "HashSet",
    "rand::",
    "SystemTime",
    "tokio",
];

#[test]
fn crates_use_only_what_the_arrows_allow() {
    let known: BTreeMap<&str, &[&str]> = ARROWS.into_iter().collect();
    let mut complaints = Vec::new();
    for name in crate_names() {
        let Some(allowed) = known.get(name.as_str()) else {
            complaints
                .push(format!("crates/{name} is not in the rule; add it to ARROWS and to ARCHITECTURE.md"));
            continue;
        };
        for used in dependencies(&root().join("crates").join(&name).join("Cargo.toml")) {
            if known.contains_key(used.as_str()) && !allowed.contains(&used.as_str()) {
                complaints.push(format!("crates/{name}/Cargo.toml: {name} must not use {used}"));
            }
        }
    }
    none(&complaints);
}

#[test]
fn the_proxy_sees_only_the_view() {
    none(&lines_that("crates/proxy", |line| {
        names_more_than_the_view(line).then(|| "the proxy may use cluster::view only".to_owned())
    }));
}

fn names_more_than_the_view(line: &str) -> bool {
    let elsewhere = line.match_indices("cluster::").any(|(at, _)| {
        let part_of_a_name = line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
        !part_of_a_name && !line[at..].starts_with("cluster::view")
    });
    elsewhere || line.contains("use cluster;") || line.contains("cluster as ")
}

#[test]
fn cluster_is_pure() {
    none(&lines_that("crates/cluster/src", |line| {
        impure_part(line).map(|part| format!("{part} has no place in cluster: hand in what it would give"))
    }));
}

fn impure_part(line: &str) -> Option<String> {
    if let Some(banned) = IMPURE.into_iter().find(|banned| line.contains(banned)) {
        return Some(banned.to_owned());
    }
    let group = line.trim_start().strip_prefix("use std::{")?;
    let mut parts = group.split([',', '{', '}', ';', ':', ' ']).map(|part| format!("std::{part}"));
    parts.find(|part| IMPURE.contains(&part.as_str()))
}

#[test]
fn nothing_unfinished_is_left() {
    // Put together here so that this file does not find itself.
    let banned = [["to", "do!("].concat(), ["db", "g!("].concat(), ["unimpl", "emented!("].concat()];
    none(&lines_that("crates", |line| {
        let word = banned.iter().find(|word| line.contains(word.as_str()))?;
        Some(format!("{word}...) must not stay"))
    }));
}

#[test]
fn every_crate_says_what_it_is() {
    let mut complaints = Vec::new();
    for name in crate_names() {
        let file = root().join("crates").join(&name).join("src/lib.rs");
        let first = read(&file).lines().next().unwrap_or_default().to_owned();
        if !first.starts_with("//! ") || first.len() < 20 {
            complaints
                .push(format!("{}: begins without a doc comment that says what the crate is", shown(&file)));
        }
    }
    none(&complaints);
}

#[test]
fn every_make_target_is_explained() {
    let makefile = read(&root().join("Makefile"));
    let book = read(&root().join("CONTRIBUTING.md"));
    let targets = makefile.lines().filter_map(|line| {
        let name = line.split_once(':')?.0;
        let plain = !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c == '-');
        plain.then_some(name)
    });
    let targets: BTreeSet<&str> = targets.collect();
    assert!(
        targets.contains("test") && targets.contains("demo"),
        "no targets found in the Makefile: {targets:?}"
    );
    let missing: Vec<String> = targets
        .into_iter()
        .filter(|target| !book.contains(&format!("`make {target}")))
        .map(|target| format!("CONTRIBUTING.md does not explain `make {target}`"))
        .collect();
    none(&missing);
}

#[test]
fn files_that_the_pages_name_exist() {
    let mut complaints = Vec::new();
    for page in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"] {
        for named in read(&root().join(page)).split('`').filter(|text| text.starts_with("crates/")) {
            let fixed = named.split('*').next().unwrap_or(named);
            if !root().join(fixed).exists() {
                complaints.push(format!("{page}: there is no {named}"));
            }
        }
    }
    none(&complaints);
}

#[test]
fn every_dependency_has_its_reason() {
    let book = read(&root().join("CONTRIBUTING.md"));
    let names = table_keys(&root().join("Cargo.toml"), |header| header == "[workspace.dependencies]");
    let missing: Vec<String> = names
        .iter()
        .filter(|name| {
            !ARROWS.iter().any(|(own, _)| own == name) && !book.contains(&format!("| `{name}` | "))
        })
        .map(|name| format!("CONTRIBUTING.md does not say why {name} is a dependency"))
        .collect();
    none(&missing);
}

#[test]
fn files_and_functions_stay_short() {
    let mut long: BTreeMap<String, usize> = BTreeMap::new();
    for file in rust_files(&root().join("crates")) {
        let text = read(&file);
        let lines = text.lines().count();
        if lines > FILE_LINES_MAX {
            long.insert(shown(&file), lines);
        }
        for (name, lines) in functions(&text) {
            if lines > FUNCTION_LINES_MAX {
                long.insert(format!("{} fn {name}", shown(&file)), lines);
            }
        }
    }
    none(&compare_with_ratchet(&long, &ratchet()));
}

/// What is wrong when these things are too long and those were known to be.
fn compare_with_ratchet(long: &BTreeMap<String, usize>, known: &BTreeMap<String, usize>) -> Vec<String> {
    let mut complaints = Vec::new();
    for (what, lines) in long {
        match known.get(what) {
            None => complaints.push(format!(
                "{what}: {lines} lines; files have at most {FILE_LINES_MAX} and functions {FUNCTION_LINES_MAX}: split it"
            )),
            Some(allowed) if lines > allowed => {
                complaints.push(format!("{what}: grew from {allowed} to {lines} lines; a listed one may only shrink"));
            }
            Some(allowed) if lines < allowed => {
                complaints.push(format!("{what}: has {lines} lines now; write that into {RATCHET} instead of {allowed}"));
            }
            Some(_) => {}
        }
    }
    for gone in known.keys().filter(|what| !long.contains_key(*what)) {
        complaints.push(format!("{gone}: short enough now; remove its line from {RATCHET}"));
    }
    complaints
}

/// Lines "LENGTH PATH" or "LENGTH PATH fn NAME"; "#" begins a comment.
fn ratchet() -> BTreeMap<String, usize> {
    let text = read(&root().join(RATCHET));
    let entries = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    entries
        .map(|line| {
            let (length, what) = line.split_once(' ').expect("LENGTH PATH");
            (what.to_owned(), length.parse().expect("a length in lines"))
        })
        .collect()
}

/// Every function of a file formatted by rustfmt, with its length from its `fn` line to its closing brace.
fn functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let Some(name) = function_name(line.trim_start()) else { continue };
        let closing = format!("{}}}", " ".repeat(indent));
        let ends_at_once = line.trim_end().ends_with([';', '}']);
        let end = lines[start..].iter().position(|later| {
            *later == closing || (later.len() - later.trim_start().len() == indent && later.ends_with(';'))
        });
        let length = if ends_at_once { 1 } else { end.map_or(1, |end| end + 1) };
        found.push((name.to_owned(), length));
    }
    found
}

fn function_name(line: &str) -> Option<&str> {
    let mut rest = line;
    while let Some(word) = ["pub ", "const ", "async ", "unsafe ", "extern \"C\" ", "default "]
        .into_iter()
        .find(|word| rest.starts_with(word))
    {
        rest = &rest[word.len()..];
    }
    if let Some(scoped) = rest.strip_prefix("pub(") {
        return function_name(scoped.split_once(") ")?.1);
    }
    let name = rest.strip_prefix("fn ")?;
    name.split(|c: char| !c.is_alphanumeric() && c != '_').next().filter(|name| !name.is_empty())
}

/// Names under `[dependencies]`; what tests alone use does not ship and is free.
fn dependencies(manifest: &Path) -> Vec<String> {
    table_keys(manifest, |header| {
        header == "[dependencies]" || (header.starts_with("[target.") && header.ends_with(".dependencies]"))
    })
}

/// Keys of the tables of a manifest whose header is wanted; of `a.workspace = true` it is `a`.
fn table_keys(manifest: &Path, wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let mut inside = false;
    let mut names = Vec::new();
    for line in read(manifest).lines() {
        if line.starts_with('[') {
            inside = wanted(line);
        } else if inside && line.starts_with(|c: char| c.is_ascii_alphabetic()) {
            names.extend(line.split(['.', '=', ' ']).next().map(str::to_owned));
        }
    }
    names
}

/// What `complain` says about the lines under `dir` that are not comments, each with its place.
fn lines_that(dir: &str, complain: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in rust_files(&root().join(dir)) {
        for (index, line) in read(&file).lines().enumerate() {
            let comment = line.trim_start().starts_with("//");
            if let Some(complaint) = complain(line).filter(|_| !comment) {
                complaints.push(format!("{}:{}: {complaint}", shown(&file), index + 1));
            }
        }
    }
    complaints
}

fn crate_names() -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(root().join("crates"))
        .expect("crates/")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .filter(|name| root().join("crates").join(name).join("Cargo.toml").exists())
        .collect();
    names.sort();
    names
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut waiting = vec![dir.to_owned()];
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(&dir).expect("a directory").map(|entry| entry.expect("an entry").path()) {
            if entry.is_dir() && !entry.ends_with("target") {
                waiting.push(entry);
            } else if entry.extension().is_some_and(|extension| extension == "rs") {
                files.push(entry);
            }
        }
    }
    files.sort();
    files
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the repository")
}

fn shown(file: &Path) -> String {
    file.strip_prefix(root()).unwrap_or(file).display().to_string()
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn none(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

/// The rules must be able to fail.
mod the_rules_themselves {
    use super::*;

    #[test]
    fn lengths_are_counted() {
        let text = "impl A {\n    pub(crate) async fn long(\n        a: u8,\n    ) -> u8 {\n        a\n    }\n\n    fn short(&self) {}\n}\n\
                    trait T {\n    fn declared(&self);\n}\nconst fn free() {\n    1;\n}\n";
        let expected = [("long", 5), ("short", 1), ("declared", 1), ("free", 3)];
        let found = functions(text);
        assert_eq!(found.iter().map(|(name, lines)| (name.as_str(), *lines)).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn what_is_banned_is_seen() {
        assert!(names_more_than_the_view("use cluster::{state, view};"));
        assert!(names_more_than_the_view("    let s = cluster::state::State::default();"));
        assert!(!names_more_than_the_view("use cluster::view::View; // and pgkeel_cluster::x"));
        assert_eq!(impure_part("use std::{fmt, time::Duration};"), Some("std::time".to_owned()));
        assert_eq!(impure_part("    let m: HashMap<u8, u8>;"), Some("HashMap".to_owned()));
        assert_eq!(impure_part("use std::{collections::BTreeMap, fmt};"), None);
    }

    #[test]
    fn the_ratchet_only_tightens() {
        let map = |entries: &[(&str, usize)]| entries.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect();
        let known: BTreeMap<String, usize> = map(&[("a.rs", 700), ("b.rs", 650)]);
        assert!(compare_with_ratchet(&known, &known).is_empty());
        let now = map(&[("a.rs", 701), ("c.rs", 601)]);
        let said = compare_with_ratchet(&now, &known);
        assert_eq!(said.len(), 3, "{said:?}");
        assert!(said[0].starts_with("a.rs: grew from 700 to 701"), "{said:?}");
        assert!(said[1].starts_with("c.rs: 601 lines; files have at most 600"), "{said:?}");
        assert!(said[2].starts_with("b.rs: short enough now"), "{said:?}");
    }
}

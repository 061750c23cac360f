//! docs/semantics.md and the tests hold each other to account: every statement names tests that
//! exist, and every test of semantics is named.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The statements of the document: items of lists, with the lines that go on.
fn statements(text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        if let Some(begin) = line.strip_prefix("- ") {
            found.push(begin.to_owned());
            inside = true;
        } else if inside && line.starts_with("  ") {
            let statement = found.last_mut().unwrap();
            statement.push(' ');
            statement.push_str(line.trim());
        } else {
            inside = false;
        }
    }
    found
}

/// The tests that a text names: pieces of code of words with `::` between.
fn named(text: &str) -> BTreeSet<String> {
    let word = |word: &str| {
        !word.is_empty()
            && word
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte == b'_' || byte.is_ascii_digit())
    };
    text.split('`')
        .skip(1)
        .step_by(2)
        .filter(|code| code.contains("::") && code.split("::").all(word))
        .map(str::to_owned)
        .collect()
}

/// The tests in a file, by their names.
fn tests_in(path: &Path) -> BTreeSet<String> {
    let text =
        fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut found = BTreeSet::new();
    let mut marked = false;
    for line in text.lines().map(str::trim) {
        if line == "#[test]" {
            marked = true;
        } else if let Some(rest) = line.strip_prefix("fn ").filter(|_| marked) {
            found.insert(rest.split('(').next().unwrap().to_owned());
            marked = false;
        }
    }
    found
}

/// Where a named test must be: in `tests/FILE.rs`, or in a module of the library.
fn place(name: &str) -> (PathBuf, &str) {
    let (module, test) = name.rsplit_once("::").unwrap();
    let file = format!("{}.rs", module.replace("::", "/"));
    let directory = if module.contains("::") { "src" } else { "tests" };
    (root().join(directory).join(file), test)
}

fn document() -> String {
    fs::read_to_string(root().join("docs/semantics.md")).unwrap()
}

#[test]
fn every_statement_names_tests_that_exist() {
    let statements = statements(&document());
    assert!(statements.len() > 50, "only {} statements were found", statements.len());
    for statement in statements {
        let tests = named(&statement);
        assert!(!tests.is_empty(), "no test is named: {statement}");
        for name in tests {
            let (path, test) = place(&name);
            assert!(tests_in(&path).contains(test), "{name} is not in {}", path.display());
        }
    }
}

#[test]
fn every_test_of_semantics_is_named() {
    let named = named(&document());
    let mut seen = 0;
    for entry in fs::read_dir(root().join("tests")).unwrap() {
        let path = entry.unwrap().path();
        let module = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let here = module.starts_with("semantics_") && module != "semantics_document";
        if !here && module != "mount_files" {
            continue;
        }
        for test in tests_in(&path) {
            let name = format!("{module}::{test}");
            assert!(named.contains(&name), "docs/semantics.md does not name {name}");
            seen += 1;
        }
    }
    assert!(seen > 70, "only {seen} tests were found");
}

#[test]
fn a_statement_without_a_test_is_found() {
    let text =
        "# Title\n\nText.\n\n- First,\n  with more. `file::a_test` `O_EXCL`\n- Second.\n\nEnd.\n";
    let statements = statements(text);
    assert_eq!(statements.len(), 2);
    assert_eq!(named(&statements[0]), BTreeSet::from(["file::a_test".to_owned()]));
    assert_eq!(named(&statements[1]), BTreeSet::new());
}

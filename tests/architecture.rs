//! The rules of the source tree that the compiler does not know: which module may use which, where
//! `fuser`, `unsafe` and printing may stand, and how long a file may be.
//!
//! The rules are tables here; [`violations`] applies them to one file, and is itself tested on
//! made-up files that break them.

#![allow(clippy::unwrap_used)]

#[path = "architecture/scanner.rs"]
mod scanner;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use scanner::{production_lines, references, test_modules, tokens};

/// Every part of the crate, and the parts that it may use besides itself.
const DIRECTIONS: &[(&str, &[&str])] = &[
    ("crypto", &[]),
    ("format", &["crypto"]),
    ("backing", &[]),
    ("vault", &["crypto", "format", "backing"]),
    ("check", &["crypto", "format", "backing", "vault"]),
    ("fuse", &["crypto", "format", "backing", "vault"]),
    ("tree", &[]),
    ("tree::vault", &["crypto", "format", "backing", "vault", "tree"]),
    ("archive", &["crypto", "format", "backing", "tree"]),
    ("stores", &[]),
    ("profile", &[]),
    ("repoint", &[]),
    (
        "migrate",
        &["crypto", "format", "backing", "tree", "archive", "stores", "profile", "repoint"],
    ),
    ("backup", &["crypto", "format", "backing", "tree", "archive", "stores", "profile"]),
    ("fuzzing", &["format", "archive", "backup", "stores", "profile", "repoint"]),
    (
        "cli",
        &[
            "crypto",
            "format",
            "backing",
            "vault",
            "check",
            "fuse",
            "tree",
            "tree::vault",
            "archive",
            "stores",
            "profile",
            "repoint",
            "migrate",
            "backup",
        ],
    ),
];

/// The most lines that a file may have before its tests.
const LINES_MAX: usize = 500;

/// Files that may be longer: how long, and why.
const LONGER: &[(&str, usize, &str)] = &[
    ("fuse/adapter.rs", 770, "one trait of FUSE's operations, each a few lines"),
    ("vault/namespace.rs", 750, "the operations on names share their steps' order"),
    ("vault/journal.rs", 670, "one lock and the two segments that it guards"),
];

/// What one source file does against the rules, with the lines. Tests may print.
fn violations(file: &str, source: &str, is_test: bool) -> Vec<String> {
    let mut found = Vec::new();
    let module = module_path(file);
    let unit = unit_of(&module);
    let words = tokens(source);
    let tests_from = if is_test { 0 } else { production_lines(source) };
    let mut report = |line: usize, what: String| found.push(format!("src/{file}:{line}: {what}"));

    for reference in references(&module, source) {
        let path: Vec<&str> = reference.path.iter().map(String::as_str).collect();
        let target = unit_of(&path);
        // The crate's root declares the modules and uses none of them.
        if target == unit || (unit.is_empty() && path.is_empty()) {
            continue;
        }
        let allowed = match unit.as_str() {
            "main" => target == "cli",
            _ => DIRECTIONS
                .iter()
                .any(|(part, uses)| *part == unit && uses.contains(&target.as_str())),
        };
        if !allowed {
            report(reference.line, format!("`{unit}` may not use `{}`", path.join("::")));
        }
    }
    let in_parts = |parts: &[&str]| {
        parts.iter().any(|part| {
            let steps: Vec<&str> = part.split("::").collect();
            module.starts_with(&steps)
        })
    };
    for (at, word) in words.iter().enumerate() {
        let next = words.get(at + 1).map_or("", |token| token.text);
        match word.text {
            "fuser" if !in_parts(&["fuse"]) => {
                report(word.line, "only `fuse` names `fuser`".to_owned());
            }
            "unsafe" if !in_parts(&["backing::os", "fuse::mount", "cli::demo::lmdb"]) => {
                let places = "`unsafe` stands only in `backing::os`, `fuse::mount` and \
                              `cli::demo::lmdb`";
                report(word.line, places.to_owned());
            }
            "print" | "println" | "eprint" | "eprintln" | "dbg"
                if next == "!" && word.line <= tests_from && !in_parts(&["cli"]) =>
            {
                report(word.line, "only `cli` prints".to_owned());
            }
            "exit" if at >= 3 && words[at - 3].text == "process" && !in_parts(&["cli"]) => {
                report(word.line, "only `cli` ends the process".to_owned());
            }
            _ => {}
        }
    }
    found
}

/// The module that a file below `src` is.
fn module_path(file: &str) -> Vec<&str> {
    let path = file.trim_end_matches(".rs");
    let path = path.strip_suffix("/mod").unwrap_or(path);
    if path == "lib" { Vec::new() } else { path.split('/').collect() }
}

/// The part of the crate that a path leads into.
fn unit_of(path: &[&str]) -> String {
    match path {
        [] => String::new(),
        ["tree", "vault", ..] => "tree::vault".to_owned(),
        [first, ..] => (*first).to_owned(),
    }
}

/// What is too long, and which exceptions are not needed any more.
fn too_long(file: &str, source: &str) -> Option<String> {
    let lines = production_lines(source);
    match LONGER.iter().find(|(longer, _, _)| *longer == file) {
        None if lines > LINES_MAX => {
            Some(format!("src/{file}: {lines} lines before its tests, over {LINES_MAX}"))
        }
        Some((_, limit, _)) if lines > *limit => {
            Some(format!("src/{file}: {lines} lines before its tests, over {limit}"))
        }
        Some(_) if lines <= LINES_MAX => {
            Some(format!("src/{file}: {lines} lines; it is no exception any more"))
        }
        _ => None,
    }
}

/// All source files: the path below `src`, and the text.
fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    let mut directories: Vec<PathBuf> = vec![root.clone()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
                files.push((name, std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    files.sort();
    files
}

/// The files that hold nothing but tests: modules declared with `#[cfg(test)]`, and all below.
fn test_files(sources: &[(String, String)]) -> BTreeSet<String> {
    let mut prefixes = Vec::new();
    for (file, source) in sources {
        for name in test_modules(source) {
            let mut path = module_path(file);
            path.push(&name);
            prefixes.push(path.join("/"));
        }
    }
    sources
        .iter()
        .filter(|(file, _)| {
            let path = module_path(file).join("/");
            prefixes.iter().any(|prefix| {
                path.strip_prefix(prefix.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            })
        })
        .map(|(file, _)| file.clone())
        .collect()
}

#[test]
fn every_file_keeps_the_directions() {
    let sources = sources();
    assert!(sources.len() > 50, "the sources were found");
    let tests = test_files(&sources);
    let found: Vec<String> = sources
        .iter()
        .flat_map(|(file, source)| violations(file, source, tests.contains(file)))
        .collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn every_module_stands_in_the_table() {
    let listed: BTreeSet<&str> = DIRECTIONS.iter().map(|(part, _)| *part).collect();
    for (file, _) in sources() {
        let unit = unit_of(&module_path(&file));
        let known = listed.contains(unit.as_str()) || unit.is_empty() || unit == "main";
        assert!(known, "src/{file} belongs to no part that the table knows");
    }
}

#[test]
fn no_file_is_too_long() {
    let sources = sources();
    let tests = test_files(&sources);
    let found: Vec<String> = sources
        .iter()
        .filter(|(file, _)| !tests.contains(file))
        .filter_map(|(file, source)| too_long(file, source))
        .collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
    for (file, _, _) in LONGER {
        assert!(sources.iter().any(|(known, _)| known == file), "{file} does not exist");
    }
}

/// What is found wrong in a made-up file, without the place.
fn complaints(file: &str, source: &str) -> Vec<String> {
    let place = format!("src/{file}:");
    violations(file, source, false)
        .iter()
        .map(|found| found.strip_prefix(&place).unwrap().to_owned())
        .collect()
}

#[test]
fn a_forbidden_direction_is_found_however_it_is_written() {
    for source in [
        "use crate::vault::Error;",
        "use crate::{crypto::Nonce, vault::{Error, Result}};",
        "use crate::{\n    vault,\n};",
        "fn f() -> crate::vault::Result<()> { Ok(()) }",
        "use super::vault;",
        "mod tests { use super::super::vault::Error; }",
        "mod a { mod b {} use super::super::vault; }",
        "fn f() { let _ = self::super::vault::open(); }",
        "macro_rules! m { () => { $crate::vault::Error } }",
        "pub(crate) use crate::vault as v;",
    ] {
        let found = complaints("format.rs", source);
        assert!(!found.is_empty(), "{source}");
        for complaint in found {
            assert!(complaint.contains("`format` may not use `vault"), "{source}: {complaint}");
        }
    }
}

#[test]
fn the_whole_crate_cannot_be_taken_at_once() {
    for source in ["use crate::*;", "use crate as all;", "use crate::{self as all};"] {
        assert_eq!(complaints("vault/mod.rs", source).len(), 1, "{source}");
    }
}

#[test]
fn a_reader_of_vaults_is_a_part_of_its_own() {
    assert_eq!(complaints("tree/vault.rs", "use crate::vault::FileSystem;"), [""; 0]);
    assert_eq!(complaints("tree/vault/reader.rs", "use crate::vault::FileSystem;"), [""; 0]);
    assert_eq!(complaints("tree/local.rs", "use crate::vault::FileSystem;").len(), 1);
    assert_eq!(complaints("migrate/copy.rs", "use crate::tree::vault::Reader;").len(), 1);
    assert_eq!(complaints("migrate/copy.rs", "use crate::tree::{Reader, Writer};"), [""; 0]);
    assert_eq!(complaints("tree/local.rs", "use super::vault::Reader;").len(), 1);
}

#[test]
fn what_is_no_path_is_no_violation() {
    for source in [
        "// use crate::vault::Error;\n/* crate::vault /* crate::vault */ crate::vault */",
        "//! See [`crate::vault`].\n/// And crate::vault::Error.\nfn f() {}",
        "const A: &str = \"crate::vault\"; const B: &str = r#\"a \" crate::vault\"#;",
        "const A: &[u8] = b\"\\\" crate::vault\"; const C: char = '\"'; const D: char = '\\'';",
        "pub(crate) fn f<'a>(x: &'a str) -> &'a str { x }",
        "use super::name::Name; mod tests { use super::*; use super::super::header; }",
        "impl S { fn f(&self) { self.vault(); } }",
    ] {
        assert_eq!(complaints("format/block.rs", source), [""; 0], "{source}");
    }
}

#[test]
fn the_binary_uses_the_command_line_alone() {
    assert_eq!(complaints("main.rs", "use strongroom::cli;"), [""; 0]);
    assert_eq!(complaints("main.rs", "use crate::vault;").len(), 1);
}

#[test]
fn forbidden_words_are_found_outside_of_their_places() {
    let cases = [
        ("vault/core.rs", "fuse/session.rs", "use fuser::Request;"),
        ("fuse/session.rs", "backing/os/file.rs", "fn f() { unsafe { g() } }"),
        ("backing/memory.rs", "backing/os.rs", "unsafe fn f() {}"),
        ("migrate/plan.rs", "cli/output.rs", "fn f() { println!(\"a\"); }"),
        ("vault/core.rs", "cli/mod.rs", "fn f() { std::process::exit(1); }"),
        ("lib.rs", "cli/mod.rs", "fn f() { dbg!(1); }"),
    ];
    for (forbidden, allowed, source) in cases {
        assert_eq!(complaints(forbidden, source).len(), 1, "{forbidden}: {source}");
        assert_eq!(complaints(allowed, source), [""; 0], "{allowed}: {source}");
    }
    let in_tests = "#[cfg(test)]\nmod tests { fn f() { println!(\"skipped: not root\"); } }";
    assert_eq!(complaints("vault/core.rs", in_tests), [""; 0]);
    assert_eq!(violations("vault/tests.rs", "fn f() { println!(); }", true), [""; 0]);
    assert_eq!(complaints("vault/core.rs", "#![deny(unsafe_code)] // unsafe"), [""; 0]);
}

#[test]
fn lines_are_reported_where_they_stand() {
    let source = "/* a\nb */ const A: &str = \"c\nd\";\nuse crate::vault;\n";
    assert!(complaints("format/name.rs", source)[0].starts_with("4:"));
}

#[test]
fn tests_do_not_count_into_the_length() {
    let code = "fn f() {}\n".repeat(LINES_MAX);
    let tests = "#[cfg(test)]\n#[allow(a, b)]\nmod tests {\n}\n";
    assert_eq!(too_long("vault/a.rs", &code), None);
    assert_eq!(too_long("vault/a.rs", &format!("{code}{tests}")), None);
    assert!(too_long("vault/a.rs", &format!("{code}\n")).is_some());
    // A declaration at the top of a file does not make the rest of it a test.
    assert!(too_long("vault/a.rs", &format!("#[cfg(test)]\nmod tests;\n{code}")).is_some());
    let (longer, limit, _) = LONGER[0];
    assert!(too_long(longer, "fn f() {}\n").is_some(), "an exception that is not needed");
    assert!(too_long(longer, &"fn f() {}\n".repeat(limit + 1)).is_some());
    assert_eq!(too_long(longer, &"fn f() {}\n".repeat(limit)), None);
}

#[test]
fn files_of_tests_are_known_by_their_declaration() {
    let sources = [
        ("vault/mod.rs", "#[cfg(test)]\n#[allow(x)]\nmod tests;\nmod core;"),
        ("vault/tests.rs", "mod deep;"),
        ("vault/tests/deep.rs", ""),
        ("vault/core.rs", ""),
    ]
    .map(|(file, source)| (file.to_owned(), source.to_owned()));
    let found: Vec<String> = test_files(&sources).into_iter().collect();
    assert_eq!(found, ["vault/tests.rs", "vault/tests/deep.rs"]);
}

//! `docs/profiles.md` is true: its profiles can be read, and it names every key.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::{Environment, Error, Profile};

/// The least that a profile must have; what a part of one is put behind.
const LEAST: &str = "name = \"app\"\ndata = \"~/app\"\n";

fn document() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/profiles.md");
    std::fs::read_to_string(path).unwrap()
}

fn parse(text: &str) -> Result<Profile, Error> {
    let environment = Environment { home: Some("/home/ada".into()), variables: BTreeMap::new() };
    Profile::parse(text, Path::new("docs/profiles.md"), &environment)
}

#[test]
fn its_profiles_can_be_read() {
    let text = document();
    let blocks: Vec<&str> =
        text.split("\n```toml\n").skip(1).map(|rest| rest.split_once("\n```").unwrap().0).collect();
    assert!(blocks.len() >= 7, "only {} blocks were found", blocks.len());
    let (whole, parts): (Vec<&str>, Vec<&str>) =
        blocks.into_iter().partition(|block| block.starts_with("name = "));
    assert_eq!(whole.len(), 1);
    for block in whole {
        assert_eq!(parse(block).unwrap().name, "notes");
    }
    for block in parts {
        // Relative paths need a root, which a part may bring along.
        let root = if block.starts_with("root = ") { "" } else { "root = \"~\"\n" };
        let profile = format!("{LEAST}{root}{block}\n");
        parse(&profile).unwrap_or_else(|error| panic!("{error}\n{profile}"));
    }
}

/// The keys of a table, as the complaint about an unknown one lists them.
fn keys(before: &str, after: &str) -> BTreeSet<String> {
    let text = format!("{LEAST}{before}no-such-key = 1{after}\n");
    let message = parse(&text).unwrap_err().to_string();
    let (_, expected) = message.split_once(", expected ").expect(&message);
    expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn it_names_every_key() {
    let tables = [
        ("", ""),
        ("unlock = { ", " }"),
        ("[[component]]\nname = \"a\"\nkind = \"files\"\npath = \"a\"\n", ""),
        (
            "[[component]]\nname = \"a\"\nkind = \"redis\"\npath = \"a\"\n\
             dump = { command = [\"a\"], file = \"a\", ",
            " }",
        ),
        ("[[config]]\nfile = \"/a\"\n", ""),
        ("[app]\n", ""),
        ("[app]\nhealth = { ", " }"),
        ("[backup]\n", ""),
        ("[backup.retention]\n", ""),
        ("[backup.schedule]\n", ""),
        ("[[backup.plan]]\nname = \"a\"\n", ""),
        ("[events]\n", ""),
    ];
    let document = document();
    // `[app]` and the like stand in headings.
    let named = |key: &str| {
        ["`{}`", "`{} = ", "`[{}]`", "`[[{}]]`"]
            .iter()
            .any(|form| document.contains(&form.replace("{}", key)))
    };
    for (before, after) in tables {
        for key in keys(before, after) {
            assert!(named(&key), "{key}, after {before:?}, is not in docs/profiles.md");
        }
    }
}

/// The values of an enumeration, as the complaint about an unknown one lists them.
#[test]
fn it_names_every_word() {
    let document = document();
    for (before, after) in [
        ("switch = \"", "\""),
        ("[[component]]\nname = \"a\"\npath = \"a\"\nkind = \"", "\""),
        ("[[config]]\nfile = \"/a\"\nformat = \"", "\""),
        ("[backup]\ntype = \"", "\""),
        ("[backup]\ncompression = \"", "\""),
        ("[backup]\nschedule = { frequency = \"", "\" }"),
        ("[events]\non = [\"", "\"]"),
    ] {
        let message = parse(&format!("{LEAST}{before}no-such-word{after}\n")).unwrap_err();
        let message = message.to_string();
        let (_, expected) = message.split_once(", expected ").expect(&message);
        for word in expected.split('`').skip(1).step_by(2) {
            let named = ["`{}`", "`\"{}\"`"].map(|form| form.replace("{}", word));
            let named = named.iter().any(|form| document.contains(form));
            assert!(named, "{word} is not in docs/profiles.md: {message}");
        }
    }
}

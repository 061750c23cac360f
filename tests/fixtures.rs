//! The fixture vaults: one with every feature of format version 1, which every version of the
//! program must read, and damaged ones, whose damage it must find and contain.

#![allow(clippy::unwrap_used, missing_docs)]

#[allow(dead_code, reason = "what only makes fixtures")]
#[path = "support/fixtures.rs"]
mod fixtures;

use std::collections::BTreeSet;
use std::fs;

use serde_json::{Map, Value};
use strongroom::format::config::ConfigError;
use strongroom::vault::{Vault, VaultError};
use tempfile::TempDir;

use fixtures::{expectations, observe, open_core, secrets, unpack};

fn names() -> BTreeSet<String> {
    let entries = fs::read_dir(fixtures::directory()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter_map(|name| name.strip_suffix(".json").map(str::to_owned)).collect()
}

/// The tree that a fixture shall show: the good one, changed as its expectations say.
fn expected_tree(expectations: &Value) -> Map<String, Value> {
    let mut tree = self::expectations("good")["tree"].as_object().unwrap().clone();
    for (path, change) in expectations["changes"].as_object().into_iter().flatten() {
        assert!(tree.contains_key(path), "{path} is in the good tree");
        match change {
            Value::Null => drop(tree.remove(path)),
            change => merge(&mut tree[path], change),
        }
    }
    tree
}

fn merge(value: &mut Value, change: &Value) {
    match (value, change) {
        (Value::Object(fields), Value::Object(changes)) => {
            for (name, change) in changes {
                merge(fields.entry(name).or_insert(Value::Null), change);
            }
        }
        (value, change) => *value = change.clone(),
    }
}

fn kind_of(error: &VaultError) -> &'static str {
    match error {
        VaultError::Config { error, .. } => match error {
            ConfigError::Truncated => "truncated",
            ConfigError::Checksum => "checksum",
            ConfigError::Forged => "forged",
            ConfigError::UnsupportedVersion { .. } => "unsupported-version",
            ConfigError::UnknownFeature { .. } => "unknown-feature",
            _ => "another error of the configuration",
        },
        _ => "another error",
    }
}

#[test]
fn every_fixture_is_what_it_is_expected_to_be() {
    let names = names();
    assert_eq!(names.len(), 25, "{names:?}");
    for name in names {
        let expectations = expectations(&name);
        let place = TempDir::new().unwrap();
        let path = unpack(&name, place.path());
        let unlocked = Vault::open(&path, None).and_then(|locked| locked.unlock(&secrets()[0]));
        let vault = match (unlocked, expectations.get("refused")) {
            (Ok(vault), None) => vault,
            (Err(error), Some(refused)) => {
                assert_eq!(kind_of(&error), refused.as_str().unwrap(), "{name}: {error}");
                continue;
            }
            (Ok(_), Some(_)) => panic!("{name} was opened"),
            (Err(error), None) => panic!("{name}: {error}"),
        };
        let fs = open_core(&vault);
        assert_eq!(fs.recovered().unclean, name == "unclean-end", "{name}");
        let observed = observe(&fs);
        fs.close().unwrap();
        let expected = expected_tree(&expectations);
        for path in observed.keys().chain(expected.keys()) {
            assert_eq!(observed.get(path), expected.get(path), "{name}: {path}");
        }
    }
}

#[test]
fn every_slot_of_the_good_vault_opens() {
    let place = TempDir::new().unwrap();
    let path = unpack("good", place.path());
    let locked = Vault::open(&path, None).unwrap();
    for (id, secret) in (0..).zip(&secrets()) {
        let vault = locked.unlock(secret).unwrap();
        assert_eq!(vault.unlocked_by().0, id);
        assert!(vault.copies_agree());
    }
}

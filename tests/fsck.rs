//! `check` and `strongroom fsck` on the fixture vaults: what is damaged in each is found, what can
//! be repaired is, and the rest is salvaged.

#![allow(clippy::unwrap_used)]

#[allow(dead_code, reason = "each test file uses its own part")]
#[path = "support/fixtures.rs"]
mod fixtures;
mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use fixtures::{PASSPHRASE, expectations, observe, open_core, secrets, unpack};
use serde_json::Value;
use strongroom::check::{Options, Report, Session, Unobserved};
use strongroom::vault::{Unlocked, Vault};
use tempfile::TempDir;

const DATA: Options = Options { read_data: true, threads: 2 };

fn unlock(path: &Path) -> Vault<Unlocked> {
    Vault::open(path, None).unwrap().unlock(&secrets()[0]).unwrap()
}

fn session(vault: &Vault<Unlocked>) -> Session {
    Session::open(vault.directory().unwrap(), vault.master_key(), "a test").unwrap()
}

fn codes(report: &Report) -> Vec<&'static str> {
    let mut codes: Vec<_> = report.findings.iter().map(|it| it.problem.code()).collect();
    codes.sort_unstable();
    codes
}

/// What the check finds in each fixture that can be opened, and what is left after the repair.
const FOUND: &[(&str, &[&str], &[&str])] = &[
    ("block-bit-flipped", &["blocks"], &["blocks"]),
    ("blocks-swapped", &["blocks"], &["blocks"]),
    ("blocks-swapped-between-files", &["blocks", "blocks"], &["blocks", "blocks"]),
    ("file-cut-in-a-block", &["blocks"], &["blocks"]),
    ("good", &[], &[]),
    ("header-bit-flipped", &["header"], &[]),
    ("header-of-another-file", &["blocks"], &["blocks"]),
    ("name-bit-flipped", &["name"], &[]),
    ("names-swapped-between-directories", &["name", "name"], &[]),
    ("nonce-bit-flipped", &["blocks"], &["blocks"]),
    ("overflow-missing", &["attribute", "symlink"], &["attribute", "symlink"]),
    ("record-bit-flipped", &["directory-record"], &[]),
    ("record-missing", &["directory-record"], &["directory-record"]),
    ("record-of-another-directory", &[], &[]),
    ("sidecar-missing", &["long-name"], &[]),
    ("sidecars-swapped", &["long-name", "long-name"], &[]),
    ("symlink-bit-flipped", &["symlink"], &["symlink"]),
    ("tag-bit-flipped", &["blocks"], &["blocks"]),
    ("unclean-end", &["unclean-end"], &[]),
    ("xattr-bit-flipped", &["attribute"], &["attribute"]),
];

#[test]
fn what_is_damaged_in_each_fixture_is_found_and_what_can_be_is_repaired() {
    for (name, expected, left) in FOUND {
        let place = TempDir::new().unwrap();
        let vault = unlock(&unpack(name, place.path()));
        let session = session(&vault);
        let report = session.check(DATA, &Unobserved).unwrap();
        assert_eq!(codes(&report), *expected, "{name}: {:#?}", report.findings);
        for outcome in session.repair(&report, &Unobserved).unwrap() {
            assert_eq!(outcome.failure, None, "{name}: {:?}", outcome.finding);
        }
        let again = session.check(DATA, &Unobserved).unwrap();
        assert_eq!(codes(&again), *left, "{name}: {:#?}", again.findings);
    }
}

#[test]
fn what_was_repaired_is_as_it_was() {
    let place = TempDir::new().unwrap();
    let good = expectations("good");
    let good = good["tree"].as_object().unwrap();
    for name in ["header-bit-flipped", "name-bit-flipped", "record-bit-flipped", "sidecars-swapped"]
    {
        let target = place.path().join(name);
        fs::create_dir(&target).unwrap();
        let vault = unlock(&unpack(name, &target));
        {
            let session = session(&vault);
            let report = session.check(Options::default(), &Unobserved).unwrap();
            session.repair(&report, &Unobserved).unwrap();
        }
        let core = open_core(&vault);
        let observed = observe(&core);
        core.close().unwrap();
        for path in observed.keys().chain(good.keys()) {
            assert_eq!(observed.get(path), good.get(path), "{name}: {path}");
        }
    }
}

fn fsck(vault: &Path, passphrase: &Path) -> Command {
    let mut command = Command::cargo_bin("strongroom").unwrap();
    command.env_remove("CREDENTIALS_DIRECTORY").env_remove("NO_COLOR");
    command.arg("fsck").arg(vault).arg("--passphrase-file").arg(passphrase);
    command
}

fn passphrase(place: &Path) -> PathBuf {
    let path = place.join("passphrase");
    fs::write(&path, PASSPHRASE).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

fn lines(output: &[u8]) -> Vec<Value> {
    let lines = output.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
}

#[test]
fn exit_codes_tell_clean_repaired_and_damage_left() {
    let place = TempDir::new().unwrap();
    let secret = passphrase(place.path());
    let unpacked = |name: &str| {
        let target = place.path().join(name);
        fs::create_dir(&target).unwrap();
        unpack(name, &target)
    };
    fsck(&unpacked("good"), &secret).arg("--read-data").assert().code(0);

    let vault = unpacked("record-bit-flipped");
    fsck(&vault, &secret).assert().code(20);
    // Without a terminal and without --yes nothing is changed.
    fsck(&vault, &secret).arg("--repair").assert().code(23);
    fsck(&vault, &secret).assert().code(20);
    fsck(&vault, &secret).args(["--repair", "--yes"]).assert().code(35);
    fsck(&vault, &secret).arg("--read-data").assert().code(0);

    let vault = unpacked("block-bit-flipped");
    fsck(&vault, &secret).assert().code(0);
    fsck(&vault, &secret).args(["--read-data", "--repair", "--yes"]).assert().code(20);

    // What the next mount does by itself is no damage.
    let vault = unpacked("unclean-end");
    fsck(&vault, &secret).arg("--read-data").assert().code(0);
    fsck(&vault, &secret).args(["--repair", "--yes"]).assert().code(35);
    fsck(&vault, &secret).arg("--read-data").assert().code(0);
}

#[test]
fn findings_and_the_result_are_json_lines() {
    let place = TempDir::new().unwrap();
    let secret = passphrase(place.path());
    let vault = unpack("block-bit-flipped", place.path());
    let saved = place.path().join("saved");
    let assert = fsck(&vault, &secret)
        .args(["--json", "--read-data", "--salvage"])
        .arg(&saved)
        .assert()
        .code(20);
    let lines = lines(&assert.get_output().stdout);
    let finding = lines.iter().find(|line| line["phase"] == "finding").unwrap();
    assert_eq!(finding["problem"], "blocks");
    assert_eq!(finding["severity"], "damage");
    assert_eq!(finding["path"], "/three-blocks");
    assert_eq!(finding["ranges"], serde_json::json!([[4096, 8192]]));
    let salvaged = lines.iter().find(|line| line["phase"] == "salvaged").unwrap();
    assert_eq!(salvaged["missing"], serde_json::json!([[4096, 8192]]));
    let result = lines.last().unwrap();
    assert_eq!(result["type"], "result");
    assert_eq!(result["ok"], false);
    assert_eq!(result["damage_left"], 1);
    assert_eq!(result["salvaged"], 1);

    let content = fs::read(saved.join("three-blocks")).unwrap();
    assert_eq!(content.len(), 10000);
    assert!(content[4096..8192].iter().all(|byte| *byte == 0), "the lost block is a hole");
    assert!(content[..4096].iter().any(|byte| *byte != 0), "the first block is kept");
    assert!(content[8192..].iter().any(|byte| *byte != 0), "the last block is kept");
    let listed = fs::read_to_string(saved.join("strongroom-salvage.jsonl")).unwrap();
    assert!(listed.contains("[[4096,8192]]"), "{listed}");
}

#[test]
fn files_below_a_lost_record_are_salvaged_by_content() {
    let place = TempDir::new().unwrap();
    let vault = unlock(&unpack("record-missing", place.path()));
    let session = session(&vault);
    let report = session.check(DATA, &Unobserved).unwrap();
    let target = place.path().join("saved");
    let directory = strongroom::backing::os::OsDirectory::create(&target, 0o700).unwrap();
    let salvage = session.salvage(&report, &directory, &Unobserved).unwrap();
    let good = expectations("good");
    let leaf = good["tree"]["notes/deeper/leaf"]["sha256"].as_str().unwrap();
    let [file] = &salvage.files[..] else { panic!("one file: {salvage:?}") };
    assert!(file.missing.is_empty() && file.failure.is_none(), "{file:?}");
    let path = String::from_utf8(file.target.clone().unwrap()).unwrap();
    assert!(path.starts_with("notes/deeper/?"), "{path}");
    let content = fs::read(target.join(path)).unwrap();
    assert_eq!(fixtures::hex(&strongroom::crypto::sha256(&[&content])), leaf);
}

#[test]
fn a_damaged_copy_of_the_configuration_comes_from_the_other() {
    for damaged in ["vault.json", "vault.json.backup"] {
        let place = TempDir::new().unwrap();
        let secret = passphrase(place.path());
        let vault = unpack("good", place.path());
        let whole = fs::read(vault.join("vault.json")).unwrap();
        fs::write(vault.join(damaged), &whole[..whole.len() / 2]).unwrap();
        fsck(&vault, &secret).assert().code(20);
        assert_ne!(fs::read(vault.join(damaged)).unwrap(), whole, "only --repair changes it");
        fsck(&vault, &secret).args(["--repair", "--yes"]).assert().code(35);
        for copy in ["vault.json", "vault.json.backup"] {
            assert_eq!(fs::read(vault.join(copy)).unwrap(), whole, "{copy}");
        }
        fsck(&vault, &secret).assert().code(0);
    }
}

#[test]
fn a_vault_in_use_is_left_alone() {
    let place = TempDir::new().unwrap();
    let secret = passphrase(place.path());
    let path = unpack("good", place.path());
    let vault = unlock(&path);
    let core = open_core(&vault);
    fsck(&path, &secret).assert().code(14);
    core.close().unwrap();
    fsck(&path, &secret).assert().code(0);
}

#[test]
fn what_is_salvaged_goes_into_an_empty_directory_only() {
    let place = TempDir::new().unwrap();
    let secret = passphrase(place.path());
    let vault = unpack("good", place.path());
    fsck(&vault, &secret).arg("--salvage").arg(place.path()).assert().code(15);
}

#[test]
fn few_threads_will_do_and_none_is_an_error() {
    if !support::posix::root_is_here("few_threads_will_do_and_none_is_an_error") {
        return;
    }
    // Whom no other test's processes count for.
    const USER: &str = "61235";
    let place = TempDir::new().unwrap();
    let secret = passphrase(place.path());
    let vault = unpack("good", place.path());
    let program = place.path().join("strongroom");
    // By a process of its own: see execve(2), `ETXTBSY`.
    let built = assert_cmd::cargo::cargo_bin("strongroom");
    Command::new("cp").arg(built).arg(&program).assert().success();
    Command::new("chown").args(["-R", USER]).arg(place.path()).assert().success();
    for (limit, code) in [(1, 1), (2, 0), (4, 0), (32, 0)] {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", USER, "--regid", USER, "--clear-groups", "--", "prlimit"]);
        command.arg(format!("--nproc={limit}")).arg(&program).arg("fsck").arg(&vault);
        command.arg("--read-data").arg("--passphrase-file").arg(&secret);
        command.env_remove("CREDENTIALS_DIRECTORY").env("HOME", place.path());
        let told = command.assert().code(code).get_output().stderr.clone();
        let told = String::from_utf8(told).unwrap();
        assert_eq!(told.contains("no thread can be started"), code == 1, "{limit}: {told}");
    }
}

//! The command line as a script sees it, where no mount is needed.

use assert_cmd::Command;
use predicates::prelude::*;
use predicates::str::contains;

fn strongroom() -> Command {
    let mut command = Command::cargo_bin("strongroom").expect("the binary is built");
    // Whatever the environment of the test run holds shall not answer for the user.
    command.env_remove("CREDENTIALS_DIRECTORY").env_remove("NO_COLOR");
    command
}

#[test]
fn wrong_usage_ends_with_2_and_touches_only_stderr() {
    for arguments in [&["no-such-command"][..], &["completions", "--no-such-option"], &[]] {
        strongroom()
            .args(arguments)
            .assert()
            .code(2)
            .stdout(predicate::str::is_empty())
            .stderr(contains("Usage: strongroom"));
    }
}

#[test]
fn help_and_version_are_answers() {
    strongroom().arg("--help").assert().success().stdout(contains("Examples:"));
    strongroom()
        .arg("--version")
        .assert()
        .success()
        .stdout(format!("strongroom {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn options_of_all_commands_stand_before_or_after() {
    for arguments in [["--json", "completions", "bash"], ["completions", "bash", "--json"]] {
        let output = strongroom().args(arguments).assert().success().get_output().stdout.clone();
        let lines: Vec<&[u8]> = output.split(|byte| *byte == b'\n').collect();
        assert_eq!(lines.len(), 2, "one line and nothing after it");
        let result: serde_json::Value = serde_json::from_slice(lines[0]).expect("JSON");
        assert_eq!(result["type"], "result");
        assert_eq!(result["command"], "completions");
        assert_eq!(result["ok"], true);
    }
}

#[test]
fn completions_exist_for_every_shell() {
    for shell in ["bash", "zsh", "fish"] {
        strongroom().args(["completions", shell]).assert().success().stdout(contains("strongroom"));
    }
}

//! What the documents show is what the program does: every command in them is one that it takes,
//! those of the README work one after the other, and every link leads somewhere.

#![cfg(feature = "mount")]
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Parser as _;
use strongroom::cli::args::Cli;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The README and everything below `docs`: the path, and the text.
fn documents() -> Vec<(PathBuf, String)> {
    let below = walkdir::WalkDir::new(root().join("docs")).sort_by_file_name();
    let mut paths: Vec<PathBuf> =
        below.into_iter().map(|entry| entry.unwrap().into_path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    paths.push(root().join("README.md"));
    assert!(paths.len() > 5, "the documents were found");
    paths.into_iter().map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

/// The lines of a document's blocks of code; one that ends in a backslash goes on in the next.
fn code(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut inside = false;
    let mut goes_on = false;
    for line in text.lines() {
        if line.starts_with("```") {
            inside = !inside;
        } else if inside {
            let (part, more) = match line.strip_suffix('\\') {
                Some(part) => (part, true),
                None => (line, false),
            };
            match lines.last_mut().filter(|_| goes_on) {
                Some(last) => last.push_str(part.trim_start()),
                None => lines.push(part.to_owned()),
            }
            goes_on = more;
        }
    }
    lines
}

/// The commands among lines of code that are the program's own, without comments.
fn commands(lines: &[String]) -> Vec<&str> {
    let without_comment = |line: &'_ String| line.split(" #").next().unwrap().trim().len();
    lines
        .iter()
        .filter(|line| line.starts_with("strongroom ") && !line.starts_with("strongroom: "))
        .map(|line| &line[..without_comment(line)])
        .collect()
}

#[test]
fn every_command_is_one_that_the_program_takes() {
    let mut seen = 0;
    for (path, text) in documents() {
        for command in commands(&code(&text)) {
            if let Err(error) = Cli::try_parse_from(command.split_whitespace()) {
                panic!("{}: {command}\n{error}", path.display());
            }
            seen += 1;
        }
    }
    assert!(seen >= 8, "only {seen} commands were found");
}

#[test]
fn a_command_that_the_program_does_not_take_is_found() {
    let text = "```\nstrongroom init a \\\n    --no-such-option  # b\n```\nstrongroom no-code";
    let lines = code(text);
    assert_eq!(commands(&lines), ["strongroom init a --no-such-option"]);
    assert!(Cli::try_parse_from(commands(&lines)[0].split_whitespace()).is_err());
}

#[test]
fn every_link_leads_somewhere() {
    let mut seen = 0;
    for (path, text) in documents() {
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().unwrap();
            if file.is_empty() || file.contains("://") {
                continue;
            }
            let target = path.parent().unwrap().join(file);
            assert!(target.exists(), "{}: {link}", path.display());
            seen += 1;
        }
    }
    assert!(seen >= 5, "only {seen} links were found");
}

/// What a person would answer at a terminal, as options.
const ANSWERS: &[(&str, &str)] = &[
    ("strongroom init", "--no-recovery-key --kdf-memory 64 --kdf-iterations 1"),
    ("strongroom migrate encrypt", "--yes"),
    ("strongroom migrate rollback", "--yes"),
];

#[test]
fn the_readme_works_as_written() {
    if !support::fuse_is_here("the_readme_works_as_written") {
        return;
    }
    let text = fs::read_to_string(root().join("README.md")).unwrap();
    let (_, section) = text.split_once("\n## Use it\n").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let mut script = String::from("set -eux\n");
    for line in code(section) {
        // The program that these tests were built with stands for the one installed.
        if line.starts_with("cargo install") {
            continue;
        }
        let (command, _) = line.split_once(" #").unwrap_or((&line, ""));
        let answer = ANSWERS.iter().find(|(prefix, _)| command.starts_with(prefix));
        script += &format!("{command} {}\n", answer.map_or("", |(_, answer)| answer));
    }
    assert!(script.matches("\nstrongroom ").count() >= 7, "{script}");

    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("app/data");
    fs::create_dir_all(&data).unwrap();
    fs::write(data.join("notes.txt"), "what the app keeps\n").unwrap();
    let config = format!("store:\n  path: {}  # where it all is\n", data.display());
    fs::write(home.path().join("app/app.yaml"), &config).unwrap();
    let credentials = home.path().join("credentials");
    fs::create_dir(&credentials).unwrap();
    fs::write(credentials.join("strongroom.passphrase"), "correct horse").unwrap();
    fs::set_permissions(&credentials, fs::Permissions::from_mode(0o700)).unwrap();

    // What the README calls `app`.
    let programs = home.path().join("programs");
    fs::create_dir(&programs).unwrap();
    fs::write(programs.join("app"), "#!/bin/sh\ntest -d ~/private\n").unwrap();
    fs::set_permissions(programs.join("app"), fs::Permissions::from_mode(0o755)).unwrap();

    let program = Path::new(env!("CARGO_BIN_EXE_strongroom")).parent().unwrap();
    let path =
        format!("{}:{}:{}", program.display(), programs.display(), std::env::var("PATH").unwrap());
    let output = Command::new("sh")
        .args(["-c", &script])
        .env("HOME", home.path())
        .env("PATH", path)
        .env("CREDENTIALS_DIRECTORY", &credentials)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    // Whatever failed, nothing may stay mounted.
    for mounted in ["private", "app/data-encrypted"] {
        let mount_point = home.path().join(mounted);
        let _ = support::strongroom().args(["umount", "--lazy"]).arg(mount_point).output();
    }
    assert!(output.status.success(), "{}\n{said}", String::from_utf8_lossy(&output.stdout));
    let notes = fs::read_to_string(data.join("notes.txt")).unwrap();
    assert_eq!(notes, "what the app keeps\n", "rolled back");
    assert_eq!(fs::read_to_string(home.path().join("app/app.yaml")).unwrap(), config);
}

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
use strongroom::cli::exit_code::ExitCode;

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
    // Without a comment, and what the shell does with its output.
    let cut = [" #", " > ", " | "];
    let without_comment = |line: &'_ String| {
        cut.iter().fold(line.as_str(), |line, mark| line.split(mark).next().unwrap()).trim().len()
    };
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

/// What a document's headings are called in links.
fn anchors(text: &str) -> Vec<String> {
    let plain = |heading: &str| -> String {
        let kept = heading.trim().to_lowercase();
        let kept = kept.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    text.lines()
        .filter_map(|line| line.strip_prefix('#'))
        .map(|heading| plain(heading.trim_start_matches('#')))
        .collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut seen = 0;
    for (path, text) in documents() {
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => path.clone(),
                file => path.parent().unwrap().join(file),
            };
            assert!(target.exists(), "{}: {link}", path.display());
            if !anchor.is_empty() {
                let headings = anchors(&fs::read_to_string(target).unwrap());
                assert!(headings.iter().any(|one| one == anchor), "{}: {link}", path.display());
            }
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

/// A home directory with an app, in which what a document shows is done.
struct Home {
    directory: tempfile::TempDir,
    config: String,
}

impl Home {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let home = directory.path();
        let data = home.join("app/data");
        fs::create_dir_all(&data).unwrap();
        fs::write(data.join("notes.txt"), "what the app keeps\n").unwrap();
        let config = format!("store:\n  path: {}  # where it all is\n", data.display());
        fs::write(home.join("app/app.yaml"), &config).unwrap();
        let credentials = home.join("credentials");
        fs::create_dir(&credentials).unwrap();
        fs::write(credentials.join("strongroom.passphrase"), "correct horse").unwrap();
        fs::set_permissions(&credentials, fs::Permissions::from_mode(0o700)).unwrap();
        // What the documents call `app`.
        let programs = home.join("programs");
        fs::create_dir(&programs).unwrap();
        fs::write(programs.join("app"), "#!/bin/sh\ntest -d ~/private\n").unwrap();
        fs::set_permissions(programs.join("app"), fs::Permissions::from_mode(0o755)).unwrap();
        Self { directory, config }
    }

    /// Does it, answering what a person would be asked.
    fn run(&self, lines: &[String]) {
        let mut script = String::from("set -eux\n");
        for line in lines {
            let (command, _) = line.split_once(" #").unwrap_or((line, ""));
            let answer = ANSWERS.iter().find(|(prefix, _)| command.starts_with(prefix));
            script += &format!("{command} {}\n", answer.map_or("", |(_, answer)| answer));
        }
        assert!(script.matches("\nstrongroom ").count() >= 7, "{script}");
        let home = self.directory.path();
        // The program that these tests were built with stands for the one installed.
        let program = Path::new(env!("CARGO_BIN_EXE_strongroom")).parent().unwrap();
        let path = format!(
            "{}:{}:{}",
            program.display(),
            home.join("programs").display(),
            std::env::var("PATH").unwrap()
        );
        let output = Command::new("sh")
            .args(["-c", &script])
            .env("HOME", home)
            .env("PATH", path)
            .env("CREDENTIALS_DIRECTORY", home.join("credentials"))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        // Whatever failed, nothing may stay mounted.
        for mounted in ["private", "app/data-encrypted", "app/private"] {
            let mount_point = home.join(mounted);
            let _ = support::strongroom().args(["umount", "--lazy"]).arg(mount_point).output();
        }
        assert!(output.status.success(), "{}\n{said}", String::from_utf8_lossy(&output.stdout));
        let notes = fs::read_to_string(home.join("app/data/notes.txt")).unwrap();
        assert_eq!(notes, "what the app keeps\n", "rolled back");
        assert_eq!(fs::read_to_string(home.join("app/app.yaml")).unwrap(), self.config);
    }
}

#[test]
fn the_readme_works_as_written() {
    if !support::fuse_is_here("the_readme_works_as_written") {
        return;
    }
    let text = fs::read_to_string(root().join("README.md")).unwrap();
    let (_, section) = text.split_once("\n## Use it\n").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let mut lines = code(section);
    lines.retain(|line| !line.starts_with("cargo install"));
    Home::new().run(&lines);
}

#[test]
fn getting_started_works_as_written() {
    if !support::fuse_is_here("getting_started_works_as_written") {
        return;
    }
    let text = fs::read_to_string(root().join("docs/getting-started.md")).unwrap();
    let (_, sections) = text.split_once("\n## A first vault\n").unwrap();
    let (sections, _) = sections.split_once("\n## When something is lost\n").unwrap();
    let home = Home::new();
    home.run(&code(sections));
    let mut backups = fs::read_dir(home.directory.path().join("backups")).unwrap();
    assert!(backups.any(|entry| entry.unwrap().path().extension().is_some_and(|e| e == "enc")));
}

#[test]
fn troubleshooting_knows_every_exit_code() {
    let text = fs::read_to_string(root().join("docs/troubleshooting.md")).unwrap();
    for code in ExitCode::ALL.into_iter().filter(|code| *code != ExitCode::Success) {
        let heading = format!("\n## {} {}\n", code.number(), code.name());
        assert!(text.contains(&heading), "{heading:?}");
    }
}

#[test]
fn what_troubleshooting_quotes_is_what_the_program_says() {
    let mut sources = String::new();
    for entry in walkdir::WalkDir::new(root().join("src")) {
        let path = entry.unwrap().into_path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            // As the compiler sees it: a backslash at a line's end joins it with the next.
            let text = fs::read_to_string(path).unwrap();
            let mut parts = text.split("\\\n");
            sources += parts.next().unwrap();
            sources.extend(parts.map(str::trim_start));
        }
    }
    let text = fs::read_to_string(root().join("docs/troubleshooting.md")).unwrap();
    let quotes: Vec<String> = text
        .split("**\"")
        .skip(1)
        .map(|rest| rest.split("\"**").next().unwrap().replace('\n', " "))
        .collect();
    assert!(quotes.len() > 40, "only {} messages were found", quotes.len());
    for quote in quotes {
        assert!(sources.contains(&quote), "no message has {quote:?}");
    }
}

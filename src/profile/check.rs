//! Owns the comparison of a profile with the machine that it is on.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Command, Component, ComponentKind, Profile, Switch};

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing.
    Note,
    /// Something will be skipped, or is likely a mistake.
    Warning,
    /// What the profile is for won't work.
    Error,
}

/// Something about a profile on this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// The key that it is about.
    pub key: String,
    /// What it is.
    pub message: String,
}

/// Compares a profile with this machine. `file` is the profile's file; `stores` are the stores that
/// were found in the data directory, with their paths relative to it.
pub fn check(profile: &Profile, file: &Path, stores: &[(ComponentKind, PathBuf)]) -> Vec<Finding> {
    let mut findings = Findings(Vec::new());
    findings.trust(file);
    findings.data(profile);
    for component in &profile.components {
        findings.component(profile, component, stores);
    }
    findings.uncovered(profile, stores);
    findings.configs(profile);
    findings.commands(profile);
    findings.0.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings.0
}

/// Whether a profile may be relied on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// It is this user's or root's, and nobody else can change it.
    Own,
    /// It, or its directory, can be written by others.
    Writable(PathBuf),
    /// It, or its directory, belongs to another user.
    Foreign(PathBuf),
}

/// Tells who can change a profile. Its commands run as whoever uses it: nobody else may be able to
/// write it.
pub fn trust(file: &Path) -> Trust {
    let Ok(file) = std::fs::canonicalize(file) else { return Trust::Own };
    let own = nix::unistd::geteuid().as_raw();
    for path in [Some(file.as_path()), file.parent()].into_iter().flatten() {
        let Ok(metadata) = std::fs::metadata(path) else { continue };
        let sticky = metadata.is_dir() && metadata.mode() & 0o1000 != 0;
        if metadata.mode() & 0o022 != 0 && !sticky {
            return Trust::Writable(path.to_path_buf());
        }
        if metadata.uid() != own && metadata.uid() != 0 {
            return Trust::Foreign(path.to_path_buf());
        }
    }
    Trust::Own
}

struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, severity: Severity, key: impl Into<String>, message: impl Into<String>) {
        self.0.push(Finding { severity, key: key.into(), message: message.into() });
    }

    fn trust(&mut self, file: &Path) {
        match trust(file) {
            Trust::Own => {}
            Trust::Writable(path) => {
                let message = format!(
                    "{} can be written by others, who could have their commands run",
                    path.display()
                );
                self.add(Severity::Error, "profile", message);
            }
            Trust::Foreign(path) => {
                let message = format!("{} belongs to another user", path.display());
                self.add(Severity::Warning, "profile", message);
            }
        }
    }

    fn data(&mut self, profile: &Profile) {
        let data = &profile.data;
        match std::fs::metadata(data) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => {
                self.add(Severity::Error, "data", format!("{} is no directory", data.display()))
            }
            Err(error) => self.add(Severity::Error, "data", format!("{}: {error}", data.display())),
        }
        if profile.vault.is_none() {
            self.add(Severity::Note, "vault", "is not told: it is needed on the command line");
        }
        if profile.switch == Switch::Repoint && !profile.configs.iter().any(|config| config.repoint)
        {
            self.add(
                Severity::Warning,
                "switch",
                "no configuration file is repointed: the app would go on with its old path",
            );
        }
    }

    fn component(
        &mut self,
        profile: &Profile,
        component: &Component,
        stores: &[(ComponentKind, PathBuf)],
    ) {
        let key = format!("component {}", component.name);
        let (kind, path) = (component.kind, component.path.as_str());
        let mut matching =
            stores.iter().filter(|(_, path)| component.path.matches(path)).peekable();
        if kind == ComponentKind::Files {
            if component.path.is_literal() && !profile.data.join(path).exists() {
                self.missing(component, key, format!("{path} is not there"));
            }
            return;
        }
        if matching.peek().is_none() {
            if component.dump.is_some() {
                self.add(Severity::Note, key, "no files of it were found here; it is dumped");
            } else {
                self.missing(component, key, format!("no {kind} store was found at {path}"));
            }
            return;
        }
        let other = |(found, at): &&(ComponentKind, PathBuf)| {
            // What another component describes is not this one's mistake.
            let described = profile
                .components
                .iter()
                .any(|other| other.kind == *found && other.path.matches(at));
            *found != kind && !described
        };
        let of_kind = matching.clone().any(|(found, _)| *found == kind);
        match matching.find(other) {
            Some((found, at)) if !of_kind => {
                self.add(
                    Severity::Warning,
                    key,
                    format!("{} is {found}, not {kind}", at.display()),
                );
            }
            None if !of_kind => {
                self.missing(component, key, format!("no {kind} store was found at {path}"))
            }
            _ => {}
        }
    }

    fn missing(&mut self, component: &Component, key: String, message: String) {
        let severity = if component.essential { Severity::Warning } else { Severity::Note };
        self.add(severity, key, message);
    }

    /// Stores that no component covers.
    fn uncovered(&mut self, profile: &Profile, stores: &[(ComponentKind, PathBuf)]) {
        for (kind, path) in stores {
            let covered = profile.components.iter().any(|component| component.path.matches(path))
                || profile.exclude.iter().any(|pattern| pattern.matches(path));
            if !covered && !profile.components.is_empty() {
                let message = format!("{} ({kind}) belongs to no component", path.display());
                self.add(Severity::Warning, "component", message);
            }
        }
    }

    fn configs(&mut self, profile: &Profile) {
        for config in &profile.configs {
            let file = config.file.display();
            match std::fs::metadata(&config.file) {
                Ok(metadata) if metadata.is_file() => {}
                Ok(_) => self.add(Severity::Error, "config", format!("{file} is no file")),
                Err(error) if config.optional && error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => self.add(Severity::Error, "config", format!("{file}: {error}")),
            }
        }
    }

    fn commands(&mut self, profile: &Profile) {
        let app = [
            ("app.stop", profile.app.stop.as_ref()),
            ("app.start", profile.app.start.as_ref()),
            ("app.health", profile.app.health.as_ref().map(|health| &health.command)),
            ("events.command", profile.events.command.as_ref()),
        ];
        for (key, command) in app {
            self.program(key, command, Severity::Error);
        }
        for component in &profile.components {
            let dump = component.dump.as_ref();
            let commands = [
                component.probe.as_ref(),
                component.prepare.as_ref(),
                component.finish.as_ref(),
                dump.map(|dump| &dump.command),
                dump.and_then(|dump| dump.restore.as_ref()),
            ];
            for command in commands {
                self.program(&format!("component {}", component.name), command, Severity::Warning);
            }
        }
        if profile.app.stop.is_none() {
            let message = "is not told: the app must be stopped by hand";
            self.add(Severity::Note, "app.stop", message);
        }
    }

    /// Whether a command's program is there.
    fn program(&mut self, key: &str, command: Option<&Command>, severity: Severity) {
        let Some(program) = command.and_then(|command| command.words().first()) else { return };
        // Where it lies is known only when it is run.
        if program.contains('{') || is_program(program) {
            return;
        }
        self.add(severity, key, format!("the program {program:?} is not there"));
    }
}

fn is_program(program: &str) -> bool {
    let executable =
        |path: &Path| std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.mode() & 0o111 != 0);
    if program.contains('/') {
        return executable(Path::new(program));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| executable(&directory.join(program)))
}

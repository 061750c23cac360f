//! Owns the first draft of a profile, made from what was found in a directory.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::ComponentKind;

/// What a draft is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Draft {
    /// The profile's name.
    pub name: String,
    /// The data directory, absolute.
    pub data: PathBuf,
    /// The home directory, to write paths below it with `~`.
    pub home: Option<PathBuf>,
    /// The stores that were found.
    pub components: Vec<DraftComponent>,
    /// Configuration files that name the data directory.
    pub configs: Vec<PathBuf>,
}

/// A store that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DraftComponent {
    /// What it is.
    pub kind: ComponentKind,
    /// Its path relative to the data directory; empty for the directory itself.
    pub path: PathBuf,
}

/// Text as a TOML string.
fn quote(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// A pattern that matches just this path.
fn literal(path: &str) -> String {
    let mut text = String::new();
    for character in path.chars() {
        if "*?[]{}\\".contains(character) {
            text.push('\\');
        }
        text.push(character);
    }
    text
}

/// A path's text, with `~` for the home directory.
fn tilde(path: &Path, home: Option<&Path>) -> Option<String> {
    match home.and_then(|home| path.strip_prefix(home).ok()) {
        Some(rest) if rest.as_os_str().is_empty() => Some("~".to_owned()),
        Some(rest) => Some(format!("~/{}", rest.to_str()?)),
        // A dollar sign would be a variable.
        None => path.to_str().filter(|text| !text.contains('$')).map(str::to_owned),
    }
}

/// A name made from a text.
fn name_of(text: &str) -> String {
    let mut name = String::new();
    for character in text.chars().flat_map(char::to_lowercase) {
        if character.is_ascii_lowercase() || character.is_ascii_digit() {
            name.push(character);
        } else if !name.is_empty() && !name.ends_with('-') {
            name.push('-');
        }
    }
    let name: String = name.chars().take(48).collect();
    let name = name.trim_end_matches('-');
    if name.is_empty() { "app".to_owned() } else { name.to_owned() }
}

/// Names the components after their files, each name once.
fn names(draft: &Draft) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for component in &draft.components {
        let stem = component.path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let base = if stem.is_empty() { component.kind.to_string() } else { name_of(stem) };
        let mut name = base.clone();
        let mut number = 2;
        while names.contains(&name) {
            name = format!("{base}-{number}");
            number += 1;
        }
        names.push(name);
    }
    names
}

/// Writes a profile that a person goes on from. What can't be told by looking stands there as a
/// comment.
///
/// # Errors
/// A message where the data directory can't be written in a profile.
pub fn draft(draft: &Draft) -> Result<String, String> {
    let home = draft.home.as_deref();
    // Without a `.` or `/` at its end, after which the vault's name would lie in the directory.
    let data: PathBuf = draft.data.components().collect();
    let data = tilde(&data, home)
        .ok_or_else(|| format!("{} can't be written in a profile", draft.data.display()))?;
    let mut text = String::new();
    let mut line = |content: &str| {
        text.push_str(content);
        text.push('\n');
    };
    line(
        "# What strongroom knows of an app. `strongroom profile check` compares it with this machine.",
    );
    line(&format!("name = {}", quote(&name_of(&draft.name))));
    line("# description = \"\"");
    line("");
    line("# Where the app keeps its data, and where its vault is to be.");
    line(&format!("data = {}", quote(&data)));
    line(&format!("vault = {}", quote(&format!("{data}.vault"))));
    line(
        "# How the app finds its data afterwards: \"repoint\" edits the configuration files below,",
    );
    line("# \"in-place\" mounts the vault over the data directory, \"symlink\" puts a link there.");
    let switch = if draft.configs.is_empty() { "in-place" } else { "repoint" };
    line(&format!("switch = \"{switch}\""));
    line("");
    line("# Files with secrets, which are never stored unsealed.");
    line("sensitive = [\"**/.env\", \"**/*.key\", \"**/*.pem\"]");
    line("");
    line("[app]");
    line("# How the app is stopped, started and checked.");
    line("# stop = [\"systemctl\", \"--user\", \"stop\", \"app.service\"]");
    line("# start = [\"systemctl\", \"--user\", \"start\", \"app.service\"]");
    line(
        "# health = { command = [\"curl\", \"-fsS\", \"http://127.0.0.1:8000/health\"], timeout = \"60s\" }",
    );
    let mut skipped = 0;
    for (component, name) in draft.components.iter().zip(names(draft)) {
        let path = if component.path.as_os_str().is_empty() {
            Some("*".to_owned())
        } else {
            component.path.to_str().map(literal)
        };
        let Some(path) = path else {
            skipped += 1;
            continue;
        };
        line("");
        line("[[component]]");
        line(&format!("name = {}", quote(&name)));
        line(&format!("kind = \"{}\"", component.kind));
        line(&format!("path = {}", quote(&path)));
    }
    for config in &draft.configs {
        let Some(file) = tilde(config, home) else {
            skipped += 1;
            continue;
        };
        line("");
        line("[[config]]");
        line(&format!("file = {}", quote(&file)));
    }
    line("");
    line("[backup]");
    line("# output = \"~/backups\"");
    line("retention = { keep-daily = 7, keep-weekly = 4, keep-monthly = 6 }");
    line("# schedule = { frequency = \"daily\", time = \"02:00\" }");
    if skipped > 0 {
        // Writing to a string does not fail.
        let _ = writeln!(text, "# {skipped} paths are not UTF-8 and can't stand here.");
    }
    Ok(text)
}

//! Owns app profiles: a TOML file that tells where an app keeps its data, what stores are in it,
//! how the app is stopped, started and checked, which of its configuration files name its data, and
//! how it is backed up. Parses, validates and resolves them; finds them by name; writes a first
//! draft of one. It must know nothing of what is done with a profile: it runs no command and
//! touches no data.

mod check;
mod command;
mod draft;
mod environment;
mod error;
mod library;
mod parse;
mod pattern;
mod raw;
mod schedule;
mod unlock;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use check::{Finding, Severity, Trust, check, trust};
pub use command::duration;
pub use command::{Command, PlaceholderError, Placeholders};
pub use draft::{Draft, DraftComponent, draft};
pub use environment::Environment;
pub use error::Error;
pub use library::{Library, Listed};
pub use pattern::Pattern;
pub use schedule::{Day, Frequency, Schedule, When};
pub use unlock::Unlock;

/// An app's profile, its paths resolved.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Profile {
    /// Its name: lower-case letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// What the app is.
    pub description: Option<String>,
    /// The user whose home directory `~` is, where it is not the one who runs strongroom.
    pub user: Option<String>,
    /// The directory that relative paths are below.
    pub root: Option<PathBuf>,
    /// The directory of the app's data.
    pub data: PathBuf,
    /// The vault.
    pub vault: Option<PathBuf>,
    /// Where the vault is mounted; the data directory itself where it is taken over.
    pub mount: PathBuf,
    /// The vault's configuration, where it is kept apart from the vault.
    pub vault_config: Option<PathBuf>,
    /// How it is mounted: `-o` of `mount`.
    pub mount_options: Option<String>,
    /// Where the secret comes from; nobody is asked then.
    pub unlock: Option<Unlock>,
    /// How the app finds its data after a migration.
    pub switch: Switch,
    /// Patterns of what is not migrated, relative to the data directory.
    pub exclude: Vec<Pattern>,
    /// Patterns of files with secrets, which are never stored unsealed.
    pub sensitive: Vec<Pattern>,
    /// The stores and files.
    #[serde(rename = "component")]
    pub components: Vec<Component>,
    /// The configuration files that name the data.
    #[serde(rename = "config")]
    pub configs: Vec<Config>,
    /// How the app is run.
    pub app: App,
    /// How it is backed up.
    pub backup: Backup,
    /// Who is told.
    pub events: Events,
}

/// How the app finds its data after a migration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Switch {
    /// Its configuration is edited.
    #[default]
    Repoint,
    /// The vault is mounted over the old path.
    InPlace,
    /// The old path becomes a symlink.
    Symlink,
}

/// What a component is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ComponentKind {
    /// SQLite or libSQL.
    Sqlite,
    /// An encrypted SQLite.
    SqlCipher,
    /// LMDB.
    Lmdb,
    /// RocksDB.
    RocksDb,
    /// LevelDB.
    LevelDb,
    /// ChromaDB.
    Chroma,
    /// DuckDB.
    DuckDb,
    /// PostgreSQL.
    Postgres,
    /// Redis.
    Redis,
    /// Neo4j.
    Neo4j,
    /// Files of any kind.
    Files,
}

impl fmt::Display for ComponentKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(formatter)
    }
}

/// One store, or a set of files, of an app.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Component {
    /// Its name, unique in the profile.
    pub name: String,
    /// What it is.
    pub kind: ComponentKind,
    /// Its file or directory, or a pattern of such, relative to the data directory.
    pub path: Pattern,
    /// Whether backups have it unless it is excluded; else only where it is asked for.
    pub essential: bool,
    /// Tells by its exit code whether the component's server runs. Where it fails, the commands
    /// below are skipped, and that is recorded.
    pub probe: Option<Command>,
    /// Runs before its files are read.
    pub prepare: Option<Command>,
    /// Runs after its files were read, also when that failed.
    pub finish: Option<Command>,
    /// How its content is dumped, for servers whose files can't be copied while they run.
    pub dump: Option<Dump>,
}

/// How a server's content is dumped.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Dump {
    /// Writes the dump to its standard output, or to `{file}` where a word names it.
    pub command: Command,
    /// Reads the dump from its standard input, or from `{file}`.
    pub restore: Option<Command>,
    /// The dump's file name.
    pub file: String,
}

/// A configuration file of the app.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Config {
    /// The file.
    pub file: PathBuf,
    /// Its format, where its name doesn't tell.
    pub format: Option<ConfigFormat>,
    /// Whether its values that name the data directory are edited.
    pub repoint: bool,
    /// Values to set, by key. Placeholders as in commands.
    pub set: BTreeMap<String, String>,
    /// Whether it may be missing.
    pub optional: bool,
}

impl Config {
    /// The values to set, with their placeholders filled.
    ///
    /// # Errors
    /// As [`Command::with`].
    pub fn set_with(
        &self,
        values: &Placeholders<'_>,
    ) -> Result<BTreeMap<String, String>, PlaceholderError> {
        let fill =
            |(key, text): (&String, &String)| Ok((key.clone(), command::fill_with(text, values)?));
        self.set.iter().map(fill).collect()
    }
}

/// A configuration file's format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConfigFormat {
    /// YAML.
    Yaml,
    /// TOML.
    Toml,
    /// JSON, with or without comments.
    Json,
    /// INI and systemd units.
    Ini,
    /// `.env`.
    Env,
}

/// How the app is run.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct App {
    /// Stops the app; returns when it has ended.
    pub stop: Option<Command>,
    /// Starts the app.
    pub start: Option<Command>,
    /// Tells whether it works.
    pub health: Option<Health>,
    /// Its working directory, which relative paths in its configuration are below.
    pub working_directory: Option<PathBuf>,
    /// Variables of its environment that its configuration refers to.
    pub environment: BTreeMap<String, String>,
}

/// How it is found out whether the app works.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Health {
    /// Ends with 0 where it does. Tried again until the time is over.
    pub command: Command,
    /// How long it may take after the start.
    #[serde(serialize_with = "seconds")]
    pub timeout: Duration,
}

/// How the app is backed up.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Backup {
    /// The directory of the archives.
    pub output: Option<PathBuf>,
    /// How they are compressed.
    pub compression: Compression,
    /// How hard, in the compression's own levels.
    pub compression_level: Option<u8>,
    /// Whether they are sealed.
    pub encrypt: bool,
    /// What is backed up, when: at least one, the first of which is the default.
    #[serde(rename = "plan")]
    pub plans: Vec<Plan>,
}

/// What is backed up, when, and how long it is kept.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Plan {
    /// Its name, unique in the profile; archives are tagged with it.
    pub name: String,
    /// The type of backup.
    #[serde(rename = "type")]
    pub kind: BackupType,
    /// Names of components, or patterns; empty for everything essential.
    pub include: Vec<Selector>,
    /// Names of components, or patterns.
    pub exclude: Vec<Selector>,
    /// Which are kept.
    pub retention: Retention,
    /// When it runs by itself.
    pub schedule: Option<Schedule>,
}

/// A component by its name, or a pattern of paths relative to the data directory.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Selector {
    /// A component.
    Component(String),
    /// A pattern.
    Pattern(Pattern),
}

/// The type of a backup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackupType {
    /// Everything.
    #[default]
    Full,
    /// What changed since the last one.
    Incremental,
    /// What changed since the last full one.
    Differential,
}

/// How archives are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Zstandard: levels 1 to 22.
    #[default]
    Zstd,
    /// Deflate: levels 1 to 9.
    Gzip,
    /// LZ4: no levels.
    Lz4,
    /// Not at all.
    None,
}

/// Which backups are kept. What no rule keeps may go; without any rule, everything is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Retention {
    /// The last so many.
    pub keep: Option<u32>,
    /// One an hour, for so many hours that have one.
    pub keep_hourly: Option<u32>,
    /// One a day.
    pub keep_daily: Option<u32>,
    /// One a week.
    pub keep_weekly: Option<u32>,
    /// One a month.
    pub keep_monthly: Option<u32>,
    /// One a year.
    pub keep_yearly: Option<u32>,
    /// All that are younger.
    #[serde(serialize_with = "optional_seconds")]
    pub keep_within: Option<Duration>,
}

/// Who is told of what.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Events {
    /// Is given an event as JSON on its standard input; `{event}` is its name.
    pub command: Option<Command>,
    /// Is sent the same JSON by POST.
    pub webhook: Option<String>,
    /// Which events; empty for all.
    pub on: Vec<Event>,
}

/// What may be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Event {
    /// A backup began.
    BackupStarted,
    /// A backup is complete and verified.
    BackupCompleted,
    /// A backup failed.
    BackupFailed,
    /// A backup was verified again.
    BackupValidated,
    /// A backup was verified again, and is not well.
    BackupInvalid,
    /// A backup's size or duration is out of the usual.
    BackupUnusual,
    /// A restore is complete.
    RestoreCompleted,
    /// A restore failed.
    RestoreFailed,
    /// A migration is complete.
    MigrationCompleted,
    /// A migration failed or was rolled back.
    MigrationFailed,
}

fn seconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format!("{}s", duration.as_secs()))
}

// The signature is serde's.
#[allow(clippy::ref_option)]
fn optional_seconds<S: serde::Serializer>(
    duration: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match duration {
        Some(duration) => seconds(duration, serializer),
        None => serializer.serialize_none(),
    }
}

impl Profile {
    /// Reads a profile. `path` is for messages.
    ///
    /// # Errors
    /// [`Error::Syntax`] and [`Error::Invalid`], with the line.
    pub fn parse(text: &str, path: &Path, environment: &Environment) -> Result<Self, Error> {
        parse::parse(text, path, environment)
    }

    /// Reads a profile from its file.
    ///
    /// # Errors
    /// As [`Self::parse`], and [`Error::Io`].
    pub fn read(path: &Path, environment: &Environment) -> Result<Self, Error> {
        let failed = |source| Error::Io { path: path.to_path_buf(), action: "read", source };
        let text = std::fs::read_to_string(path).map_err(failed)?;
        Self::parse(&text, path, environment)
    }

    /// Values of the placeholders that all commands know, while the data lies at `data`.
    pub fn placeholders<'a>(&'a self, data: &'a Path) -> Placeholders<'a> {
        let mut values = Placeholders::from([("data", data), ("mount", self.mount.as_path())]);
        if let Some(vault) = &self.vault {
            values.insert("vault", vault);
        }
        if let Some(root) = &self.root {
            values.insert("root", root);
        }
        values
    }

    /// A component by its name.
    pub fn component(&self, name: &str) -> Option<&Component> {
        self.components.iter().find(|component| component.name == name)
    }

    /// Whether a file holds secrets. `path` is relative to the data directory, or absolute for a
    /// configuration file.
    pub fn is_sensitive(&self, path: &Path) -> bool {
        let name = path.file_name().map(Path::new).unwrap_or(path);
        self.sensitive.iter().any(|pattern| pattern.matches(path) || pattern.matches(name))
    }

    /// The profile as TOML, everything spelled out and resolved.
    ///
    /// # Errors
    /// A message where a path is not UTF-8.
    pub fn to_toml(&self) -> Result<String, String> {
        toml::to_string(self).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod docs_tests;
#[cfg(test)]
mod tests;

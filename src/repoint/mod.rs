//! Owns format-preserving edits of configuration files: finds every value that is a path, or lies
//! under it, in whatever spelling, and changes the bytes of those values and no others. It must
//! know nothing of migrations, vaults or profiles: it maps bytes to bytes, except for
//! [`replace_file`], which puts them on disk.
//!
//! [`repoint`] and [`set`] make the edits, [`revert()`] takes them back even from a file that was
//! edited by somebody else since, [`diff`] shows them.

mod compose;
mod detect;
mod edit;
mod env;
mod error;
mod expand;
mod file;
mod ini;
mod insert;
mod json;
mod lexis;
mod revert;
mod scalar;
mod spelling;
mod toml;
mod yaml;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

pub use error::Error;

/// A configuration file's syntax.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// YAML 1.2, Compose files among them.
    Yaml,
    /// TOML 1.0.
    Toml,
    /// JSON, with or without comments and trailing commas.
    Json,
    /// `key = value` under `[section]`s: INI, systemd units and drop-ins, desktop entries.
    Ini,
    /// `KEY=value` lines as shells and Compose read them.
    Env,
}

impl fmt::Display for Format {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Yaml => "YAML",
            Self::Toml => "TOML",
            Self::Json => "JSON",
            Self::Ini => "INI",
            Self::Env => ".env",
        })
    }
}

impl Format {
    /// The format of a file: from its name, else from its content; `None` where neither tells.
    pub fn detect(path: &Path, content: &[u8]) -> Option<Self> {
        detect::detect(path, content)
    }
}

/// Where the data was, and where it is from now on. Both absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relocation {
    /// The old path, and further names of the same directory (through symlinks, say).
    pub old: Vec<PathBuf>,
    /// The new path.
    pub new: PathBuf,
}

impl Relocation {
    /// From `old` to `new`.
    pub fn new(old: impl Into<PathBuf>, new: impl Into<PathBuf>) -> Self {
        Self { old: vec![old.into()], new: new.into() }
    }

    /// Adds another name by which configuration may call the old directory.
    #[must_use]
    pub fn also_known_as(mut self, name: impl Into<PathBuf>) -> Self {
        self.old.push(name.into());
        self
    }
}

/// What the app will know when it reads the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// The home directory of the user that the app runs as: `~`, `$HOME`, `%h`.
    pub home: Option<PathBuf>,
    /// The configuration file's own directory: `%(here)s`, and what relative values of Compose
    /// files are relative to.
    pub directory: Option<PathBuf>,
    /// The app's working directory, if known. Relative values with a `/` in them are resolved
    /// against it and against `directory`.
    pub working_directory: Option<PathBuf>,
    /// The app's environment. Where a variable is itself repointed by the edit of another file,
    /// give the value that it has afterwards: what is spelled with it then needs no edit.
    pub variables: BTreeMap<String, String>,
}

/// One changed value.
///
/// Values may carry secrets next to a path (a key in a database URL), so what keeps edits should
/// keep them sealed.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Edit {
    /// Where the value's text begins in the original, in bytes.
    pub offset: usize,
    /// The value's text as it was, quotes included.
    #[serde(with = "base64_bytes")]
    pub old: Vec<u8>,
    /// The value's text as it is from now on.
    #[serde(with = "base64_bytes")]
    pub new: Vec<u8>,
    /// The key: `backup.output_dir`, `services.app.volumes[0]`, `Service.Environment[1]`.
    pub key: String,
    /// The value's first line in the original, counted from 1.
    pub line: usize,
}

/// A place that names the old path but was left alone, for a person to look at.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Mention {
    /// The key.
    pub key: String,
    /// The line, counted from 1.
    pub line: usize,
    /// Why it was left alone.
    pub reason: MentionReason,
}

/// Why a mention of the old path was left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum MentionReason {
    /// The path stands inside a longer text.
    InsideText,
    /// A key, not a value.
    IsKey,
    /// A path inside a container, which stays valid there.
    InsideContainer,
    /// A single relative name that would be the old path if it is a path at all.
    RelativeName,
}

impl fmt::Display for MentionReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::InsideText => "the old path stands inside a longer text",
            Self::IsKey => "the old path is a key, not a value",
            Self::InsideContainer => "the path is one inside the container",
            Self::RelativeName => "a relative name, which may or may not be the old path",
        })
    }
}

/// An edited text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repointed {
    /// The whole text after the edits; the original bytes where there are none.
    pub bytes: Vec<u8>,
    /// The edits, in the order of the text.
    pub edits: Vec<Edit>,
    /// What names the old path and was left alone.
    pub mentions: Vec<Mention>,
}

/// What is kept of an edit, to take it back.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Record {
    /// The file's format.
    pub format: Format,
    /// The edits, in the order of the text.
    pub edits: Vec<Edit>,
    /// The SHA-256 of the text before.
    #[serde(with = "base64_bytes")]
    pub before: [u8; 32],
    /// The SHA-256 of the text after.
    #[serde(with = "base64_bytes")]
    pub after: [u8; 32],
}

impl Repointed {
    /// What to keep, to [`revert()`] it. `original` is the text that was edited.
    pub fn record(&self, format: Format, original: &[u8]) -> Record {
        Record {
            format,
            edits: self.edits.clone(),
            before: revert::digest(original),
            after: revert::digest(&self.bytes),
        }
    }
}

/// A text with edits taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reverted {
    /// The whole text.
    pub bytes: Vec<u8>,
    /// Whether the text was changed by somebody else since: then only our own edits are taken
    /// back, and the text is not the original.
    pub changed_since: bool,
    /// Keys whose edit needed no taking back: the value is the old one again, or gone.
    pub absent: Vec<String>,
}

/// Changes every value that is `relocation.old`, or lies under it, to the new path.
///
/// # Errors
/// [`Error::Syntax`] where the text isn't of that format, [`Error::Inexpressible`] where the new
/// path can't be written in it, [`Error::SideEffect`] where the result, read again, isn't exactly
/// the original with those values changed.
pub fn repoint(
    bytes: &[u8],
    format: Format,
    relocation: &Relocation,
    context: &Context,
) -> Result<Repointed, Error> {
    edit::repoint(bytes, format, relocation, context)
}

/// Sets one value by its key (`backup.output_dir`, `volumes[0]`; parts with odd characters in
/// double quotes). An existing value keeps its place, quoting and kind where it can; a missing key
/// is added where the format has a plain place for it.
///
/// # Errors
/// As [`repoint`]; [`Error::BadKey`], [`Error::NoSuchKey`].
pub fn set(bytes: &[u8], format: Format, key: &str, value: &str) -> Result<Repointed, Error> {
    edit::set(bytes, format, key, value)
}

/// Takes a record's edits back. A text that is still as the edits left it becomes the original, byte for
/// byte; from a text that was changed elsewhere since, only the edited values are taken back.
///
/// # Errors
/// [`Error::Conflict`] where an edited value has since been changed to something else.
pub fn revert(current: &[u8], record: &Record) -> Result<Reverted, Error> {
    revert::revert(current, record)
}

/// A unified diff of two texts under the file's name, empty where they are the same. Bytes that
/// are not UTF-8 are shown as U+FFFD.
pub fn diff(name: &Path, before: &[u8], after: &[u8]) -> String {
    if before == after {
        return String::new();
    }
    let before = String::from_utf8_lossy(before);
    let after = String::from_utf8_lossy(after);
    let name = name.display().to_string();
    similar::TextDiff::from_lines(before.as_ref(), after.as_ref())
        .unified_diff()
        .header(&name, &name)
        .to_string()
}

/// Replaces a file's content atomically and durably: a temporary file in the same directory with
/// the same mode, owner, ACL and extended attributes, fsynced, renamed over the file, the
/// directory fsynced. A symlink is followed, and stays. A crash leaves the old content or the
/// new. A file that has the new content already is made durable and left.
///
/// # Errors
/// [`Error::Changed`] where the content is not `expected` any more; [`Error::HardLinked`],
/// [`Error::NotAFile`], [`Error::Io`].
pub fn replace_file(path: &Path, expected: &[u8], content: &[u8]) -> Result<(), Error> {
    file::replace(path, expected, content)
}

mod base64_bytes {
    //! Bytes as base64 text, for serde.
    use base64ct::{Base64, Encoding};
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(
        bytes: impl AsRef<[u8]>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Base64::encode_string(bytes.as_ref()))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>, T: TryFrom<Vec<u8>>>(
        deserializer: D,
    ) -> Result<T, D::Error> {
        Base64::decode_vec(&String::deserialize(deserializer)?)
            .map_err(de::Error::custom)?
            .try_into()
            .map_err(|_| de::Error::custom("of the wrong length"))
    }
}

#[cfg(test)]
mod tests;

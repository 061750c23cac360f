//! What a backup notes of itself inside the seal: where it came from, and its components.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use crate::archive::{ArchiveMetadata, SectionName};
use crate::tree::{ByteString, TreePath};

/// The `details` of a backup's `metadata.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Details {
    /// Where each section came from.
    pub sources: BTreeMap<String, ByteString>,
    /// The components in it.
    pub components: Vec<Component>,
    /// What the user called it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// What was asked to be in it; empty: everything.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub include: Vec<String>,
    /// What was asked to be left out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// Components whose servers did not run, and were not asked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_running: Vec<String>,
}

/// A part of an app's data that can be backed up and restored by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Component {
    /// What it is called.
    pub name: String,
    /// What it is, for people: `SQLite`, `files`, ….
    pub kind: String,
    /// The section that it lies in.
    pub section: SectionName,
    /// Its files and directories, with all that those hold.
    pub paths: Vec<TreePath>,
    /// Bytes of its files when it was found.
    #[serde(default)]
    pub bytes: u64,
    /// Whether it is configuration.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub config: bool,
}

impl Component {
    /// Whether `name` means this component: its name, its kind, or the last part of one of its
    /// paths with or without what follows a dot; `config` means all configuration files.
    pub fn is_called(&self, name: &str) -> bool {
        let same = |other: &str| other.eq_ignore_ascii_case(name);
        (self.config && same("config"))
            || same(&self.name)
            || same(&self.kind)
            || self.paths.iter().any(|path| {
                let last = String::from_utf8_lossy(path.name().unwrap_or_default()).into_owned();
                let stem = Path::new(&last).file_stem().map(|stem| stem.to_string_lossy());
                same(&last) || stem.is_some_and(|stem| same(&stem)) || same(&path.to_string())
            })
    }

    /// Whether this entry belongs to it.
    pub fn holds(&self, section: &SectionName, path: &TreePath) -> bool {
        *section == self.section && self.paths.iter().any(|root| path.is_within(root))
    }
}

impl Details {
    /// Reads the details of an archive; those of an archive that is no backup are empty.
    ///
    /// # Errors
    /// When they are not what a backup has.
    pub fn of(metadata: &ArchiveMetadata) -> Result<Self> {
        if metadata.details.is_null() {
            return Ok(Self::default());
        }
        serde_json::from_value(metadata.details.clone()).map_err(|error| {
            let problem = format!("its details cannot be understood: {error}");
            Error::Archive(crate::archive::Error::Malformed { entry: None, problem })
        })
    }

    /// Where a section came from.
    pub fn source(&self, section: &SectionName) -> Option<PathBuf> {
        let bytes = self.sources.get(section.as_str())?;
        Some(PathBuf::from(OsString::from_vec(bytes.0.clone())))
    }

    /// Notes where a section came from.
    pub fn set_source(&mut self, section: &SectionName, path: &Path) {
        let bytes = path.as_os_str().as_bytes().to_vec();
        self.sources.insert(section.as_str().to_owned(), ByteString(bytes));
    }
}

//! The notes beside a backup, `….metadata.json`: what lists show without a key. They hold no
//! secret and no names of files but those after which stores are called, and are not authentic.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use super::name::sidecar_path;
use crate::archive::{Amount, ArchiveId, ArchiveKind, ChainLink, Compression};
use crate::tree::Digest;

const FORMAT: &str = "strongroom-backup";
const VERSION: u32 = 1;
/// Longest sidecar that is read.
const LIMIT: u64 = 16 << 20;

/// What is noted of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sidecar {
    format: String,
    version: u32,
    /// The archive's file name.
    pub file: String,
    /// Its identity.
    pub id: ArchiveId,
    /// What it is of.
    pub name: String,
    /// What kind of backup.
    #[serde(rename = "type")]
    pub kind: ArchiveKind,
    /// When it was begun: RFC 3339 in UTC.
    pub created: String,
    /// The backups that it needs, the full one first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chain: Vec<ChainLink>,
    /// How it is compressed.
    pub compression: Compression,
    /// Whether it is sealed.
    pub sealed: bool,
    /// Bytes of the file.
    pub size: u64,
    /// SHA-256 of the file.
    pub sha256: Digest,
    /// What it stores.
    pub stored: Amount,
    /// Entries of the trees, with those stored in earlier backups.
    pub entries: u64,
    /// What the user called it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// The stores in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub components: Vec<ComponentNote>,
    /// Components whose servers did not run, and were not asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_running: Vec<String>,
    /// Files that changed while they were read.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unstable: u64,
    /// Filesystems mounted in the source, which are not in it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub mount_points: u64,
    /// Files with further names outside of the source.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub outside_links: u64,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// The program and its version.
    pub tool: String,
    /// System and processor.
    pub platform: String,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A store in a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComponentNote {
    /// What it is called.
    pub name: String,
    /// What it is.
    pub kind: String,
    /// Bytes of its files.
    pub bytes: u64,
}

impl Sidecar {
    /// Fills in what every sidecar says.
    pub(super) fn header() -> (String, u32) {
        (FORMAT.into(), VERSION)
    }

    /// Of an archive that was just written.
    #[allow(clippy::too_many_arguments, reason = "these are its fields")]
    pub(super) fn of(
        file: String,
        sealed: bool,
        written: &crate::archive::Written,
        tag: Option<String>,
        components: Vec<ComponentNote>,
        duration_ms: u64,
    ) -> Self {
        let (format, version) = Self::header();
        let metadata = &written.metadata;
        Self {
            format,
            version,
            file,
            id: metadata.id,
            name: metadata.name.clone(),
            kind: metadata.kind,
            created: metadata.created.clone(),
            chain: metadata.chain.clone(),
            compression: metadata.compression,
            sealed,
            size: written.file_len,
            sha256: written.sha256,
            stored: written.amount,
            entries: written.entries,
            tag,
            not_running: Vec::new(),
            components,
            unstable: written.noticed.unstable.len() as u64,
            mount_points: written.noticed.mount_points.len() as u64,
            outside_links: written.noticed.outside_links.len() as u64,
            duration_ms,
            tool: metadata.tool.clone(),
            platform: metadata.platform.clone(),
        }
    }

    /// Reads the sidecar of an archive; `None` where there is none.
    ///
    /// # Errors
    /// When it cannot be read, or is not one.
    pub fn read(archive: &Path) -> Result<Option<Self>> {
        let Some(path) = sidecar_path(archive) else {
            return Err(Error::NotABackup(archive.to_owned()));
        };
        let file = match File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("read", path)(error)),
        };
        let mut text = Vec::new();
        file.take(LIMIT).read_to_end(&mut text).map_err(Error::io("read", &path))?;
        Self::parse(&text).map(Some).map_err(Error::io("understand", path))
    }

    /// Reads the text of one.
    pub(super) fn parse(text: &[u8]) -> std::io::Result<Self> {
        let sidecar: Self = serde_json::from_slice(text).map_err(std::io::Error::other)?;
        if sidecar.format != FORMAT || sidecar.version != VERSION {
            return Err(std::io::Error::other("it is not the sidecar of a backup of ours"));
        }
        Ok(sidecar)
    }

    /// Writes it beside the archive, atomically; only the owner can read it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, archive: &Path) -> Result<()> {
        let path = sidecar_path(archive).ok_or_else(|| Error::NotABackup(archive.to_owned()))?;
        let directory = path.parent().unwrap_or_else(|| Path::new("."));
        let failed = |error| Error::io("write", &path)(error);
        let mut text = serde_json::to_vec_pretty(self)
            .map_err(|error| Error::io("write", &path)(std::io::Error::other(error)))?;
        text.push(b'\n');
        let mut file = tempfile::NamedTempFile::new_in(directory).map_err(failed)?;
        file.write_all(&text).map_err(|error| Error::io("write", &path)(error))?;
        file.as_file().sync_all().map_err(|error| Error::io("sync", &path)(error))?;
        file.persist(&path).map_err(|error| Error::io("name", &path)(error.error))?;
        File::open(directory)
            .and_then(|directory| directory.sync_all())
            .map_err(Error::io("sync", directory))
    }
}

//! What an archive says of itself: `metadata.json` at its beginning, the index parts among its
//! entries, and `index.json` at its end.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};

use crate::format::archive::{ArchiveId, Compression};
use crate::tree::{Digest, Entry, ManifestEntry, Timestamp};

use super::error::{Error, Result};

/// Names of the entries that are ours; everything else lies in sections.
pub(super) const METADATA_NAME: &str = "metadata.json";
pub(super) const INDEX_NAME: &str = "index.json";
pub(super) const INDEX_PREFIX: &str = "index/";
/// Longest `metadata.json` and `index.json`.
pub(super) const METADATA_LIMIT: u64 = 16 << 20;
/// Entries of one index part at most: bounds what a reader keeps in memory.
pub(super) const PART_ENTRIES: usize = 8192;
/// Entries after which an index part is written: what is left at the end is read back when all else is.
pub(super) const WRITTEN_ENTRIES: u64 = 4096;
/// Bytes after which an index part is written, however few its entries.
pub(super) const PART_BYTES: usize = 8 << 20;
/// Longest index part that is read.
pub(super) const PART_LIMIT: u64 = 32 << 20;
/// The version of the format inside the seal.
const VERSION: u32 = 1;
const FORMAT: &str = "strongroom-archive";

/// What kind of archive it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ArchiveKind {
    /// Of a migration's source.
    Snapshot,
    /// A backup that needs no other.
    Full,
    /// A backup of what changed since the last one of any kind.
    Incremental,
    /// A backup of what changed since the last full one.
    Differential,
}

impl ArchiveKind {
    /// Its name on the command line and in `metadata.json`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::Full => "full",
            Self::Incremental => "incremental",
            Self::Differential => "differential",
        }
    }
}

impl fmt::Display for ArchiveKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// The name of a section: lower-case letters, digits, `-`, `_` and `.`, beginning with a letter
/// or digit, at most 64 bytes; not a name of ours.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct SectionName(Arc<str>);

impl SectionName {
    /// Checks a name.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn new(name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let good = (1..=64).contains(&name.len())
            && name.bytes().next().is_some_and(plain)
            && name.bytes().all(|byte| plain(byte) || b"-_.".contains(&byte))
            && ![METADATA_NAME, INDEX_NAME, "index"].contains(&&*name);
        if good {
            Ok(Self(name.into()))
        } else {
            Err(Error::malformed(format!("{name:?} cannot be the name of a section")))
        }
    }

    /// The section of the data themselves: `data`.
    pub fn data() -> Self {
        Self("data".into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SectionName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl TryFrom<String> for SectionName {
    type Error = Error;

    fn try_from(name: String) -> Result<Self> {
        Self::new(name)
    }
}

impl Serialize for SectionName {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// What a caller says of an archive that it makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// What the archive is of; the beginning of its file name.
    pub name: String,
    /// What kind it is.
    pub kind: ArchiveKind,
    /// When it was begun.
    pub created: Timestamp,
    /// The archives that it needs, the full one first; none for a full one.
    pub chain: Vec<ChainLink>,
    /// What the caller wants to find again: components, sources, tags, configuration files.
    pub details: serde_json::Value,
}

/// An archive that another one needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainLink {
    /// Its identity.
    pub id: ArchiveId,
    /// Its file name when it was needed.
    pub file: String,
}

/// How much an archive holds. Up front a limit that nothing in it exceeds, at its end exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    /// Entries of all sections.
    pub entries: u64,
    /// Bytes of content stored in it, holes included.
    pub bytes: u64,
}

/// `metadata.json`, the first entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ArchiveMetadata {
    format: String,
    version: u32,
    /// The archive's identity, the same as in the sealed header.
    pub id: ArchiveId,
    /// What the archive is of.
    pub name: String,
    /// What kind it is.
    #[serde(rename = "type")]
    pub kind: ArchiveKind,
    /// When it was begun, in UTC.
    pub created: String,
    /// The archives that it needs, the full one first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chain: Vec<ChainLink>,
    /// How it is compressed.
    pub compression: Compression,
    /// The program that wrote it, and its version.
    pub tool: String,
    /// The operating system and processor that it was written on.
    pub platform: String,
    /// Its sections, in their order.
    pub sections: Vec<SectionName>,
    /// What it holds at most.
    pub limit: Amount,
    /// What the caller wanted to find again.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub details: serde_json::Value,
}

impl ArchiveMetadata {
    pub(super) fn new(
        id: ArchiveId,
        description: &Description,
        compression: Compression,
        sections: Vec<SectionName>,
        limit: Amount,
    ) -> Self {
        Self {
            format: FORMAT.into(),
            version: VERSION,
            id,
            name: description.name.clone(),
            kind: description.kind,
            created: utc(description.created),
            chain: description.chain.clone(),
            compression,
            tool: concat!("strongroom ", env!("CARGO_PKG_VERSION")).into(),
            platform: format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH),
            sections,
            limit,
            details: description.details.clone(),
        }
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self> {
        /// What every version of the format says, to tell a later one from nonsense.
        #[derive(Deserialize)]
        struct Version {
            format: String,
            version: u32,
        }
        let malformed = |error: serde_json::Error| {
            Error::malformed(format!("{METADATA_NAME} cannot be read: {error}"))
        };
        let Version { format, version } = serde_json::from_slice(bytes).map_err(malformed)?;
        if format != FORMAT {
            return Err(Error::malformed(format!("{METADATA_NAME} is not of an archive of ours")));
        }
        if version != VERSION {
            return Err(Error::malformed(format!(
                "it is of version {version}; this program reads version {VERSION}"
            )));
        }
        let metadata: Self = serde_json::from_slice(bytes).map_err(malformed)?;
        let mut sections: Vec<_> = metadata.sections.iter().collect();
        sections.sort();
        sections.dedup();
        if sections.len() != metadata.sections.len() {
            return Err(Error::malformed("a section is named twice"));
        }
        Ok(metadata)
    }
}

/// RFC 3339, to the second.
fn utc(time: Timestamp) -> String {
    jiff::Timestamp::from_second(time.seconds)
        .map_or_else(|_| "unknown".into(), |time| time.to_string())
}

/// One line of an index part: an entry of the tree, whether or not this archive stores it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexEntry {
    /// The section.
    pub section: SectionName,
    /// The entry.
    pub entry: ManifestEntry,
    /// Last change of the inode, to tell later whether it changed since.
    pub changed: Timestamp,
    /// The inode number, for the same.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub inode: u64,
    /// Where the content is, if not in this archive.
    #[serde(default, skip_serializing_if = "Where::is_here")]
    pub stored: Where,
    /// The file changed while it was being read: its content may be of no moment at all.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unstable: bool,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl IndexEntry {
    pub(super) fn new(section: &SectionName, entry: &Entry) -> Self {
        Self {
            section: section.clone(),
            entry: ManifestEntry {
                path: entry.path.clone(),
                metadata: entry.metadata.clone(),
                link_to: None,
                sha256: None,
            },
            changed: entry.changed,
            inode: entry.inode,
            stored: Where::Here,
            unstable: false,
        }
    }
}

/// Where an entry is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Where {
    /// In this archive.
    #[default]
    Here,
    /// In an archive that this one needs, unchanged since.
    In(ArchiveId),
    /// Nowhere: a socket, which no tar can hold.
    Nowhere,
}

impl Where {
    fn is_here(&self) -> bool {
        *self == Self::Here
    }
}

/// `index.json`, the last entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArchiveIndex {
    /// What the archive holds, exactly.
    pub amount: Amount,
    /// Where the index parts lie.
    pub parts: Vec<IndexPart>,
    /// The SHA-256 of all index parts, one after the other.
    pub sha256: Digest,
    /// The SHA-256 of `metadata.json`.
    pub metadata_sha256: Digest,
}

/// Where an index part lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexPart {
    /// Where in the compressed tar its frame begins.
    pub offset: u64,
    /// Bytes of the part, uncompressed.
    pub bytes: u64,
    /// Lines in it.
    pub entries: u64,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn section_names() {
        for good in ["data", "config", "0", "a-b_c.d", &"x".repeat(64)] {
            assert!(SectionName::new(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            ".a",
            "a/b",
            "Data",
            "index",
            "index.json",
            "metadata.json",
            "ü",
            &"x".repeat(65),
            "a\0",
        ] {
            assert!(SectionName::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn metadata_of_other_programs_and_versions_are_told_apart() {
        let description = Description {
            name: "notes".into(),
            kind: ArchiveKind::Full,
            created: Timestamp { seconds: 1_700_000_000, nanoseconds: 0 },
            chain: Vec::new(),
            details: serde_json::json!({"tag": "before the update"}),
        };
        let sections = vec![SectionName::data(), SectionName::new("config").unwrap()];
        let limit = Amount { entries: 3, bytes: 5 };
        let metadata = ArchiveMetadata::new(
            ArchiveId::random(),
            &description,
            Compression::Zstd,
            sections,
            limit,
        );
        assert_eq!(metadata.created, "2023-11-14T22:13:20Z");
        let json = serde_json::to_string(&metadata).unwrap();
        assert_eq!(ArchiveMetadata::decode(json.as_bytes()).unwrap(), metadata);
        for (from, to) in [
            ("\"version\":1", "\"version\":2"),
            ("strongroom-archive", "other"),
            ("\"config\"", "\"data\""),
            ("\"config\"", "\"../data\""),
            ("full", "half"),
            ("{", ""),
        ] {
            let changed = json.replacen(from, to, 1);
            assert_ne!(changed, json);
            assert!(ArchiveMetadata::decode(changed.as_bytes()).is_err(), "{from} to {to}");
        }
    }
}

//! What a tree was, entry by entry: for journals, archives and verification.

use std::io::{self, BufRead, Write};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::path::TreePath;
use super::types::{Digest, Metadata};

/// One entry of a tree with the digest of its content. Serialises to one JSON object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestEntry {
    /// Where it is.
    pub path: TreePath,
    /// What is kept of it.
    pub metadata: Metadata,
    /// The first name of the same file in the order of a walk, where this is a later one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_to: Option<TreePath>,
    /// Of a regular file's content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Digest>,
}

impl ManifestEntry {
    /// A digest of everything but the content and the last access: two entries with the same one
    /// have the same place, kind, metadata and first name.
    pub fn metadata_digest(&self) -> Digest {
        let Metadata { kind, mode, uid, gid, modified, accessed: _, size, rdev, target, xattrs } =
            &self.metadata;
        let mut hasher = Sha256::new();
        let mut bytes = |bytes: &[u8]| {
            hasher.update(u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_le_bytes());
            hasher.update(bytes);
        };
        bytes(self.path.as_bytes());
        bytes(kind.to_string().as_bytes());
        bytes(&mode.to_le_bytes());
        bytes(&uid.to_le_bytes());
        bytes(&gid.to_le_bytes());
        bytes(&modified.seconds.to_le_bytes());
        bytes(&modified.nanoseconds.to_le_bytes());
        bytes(&size.to_le_bytes());
        bytes(&rdev.to_le_bytes());
        bytes(&target.0);
        bytes(self.link_to.as_ref().map_or(&[][..], |path| path.as_bytes()));
        for xattr in xattrs {
            bytes(&xattr.name.0);
            bytes(&xattr.value.0);
        }
        Digest(hasher.finalize().into())
    }
}

/// A whole tree's entries in the order of a walk. Takes some 200 bytes of memory an entry; for
/// what is larger, write the entries to a file as they come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    entries: Vec<ManifestEntry>,
}

impl Manifest {
    /// Sorts `entries` into the order of a walk.
    pub fn new(mut entries: Vec<ManifestEntry>) -> Self {
        entries.sort_by(|left, right| left.path.cmp(&right.path));
        Self { entries }
    }

    /// The entries in the order of a walk.
    pub fn entries(&self) -> &[ManifestEntry] {
        &self.entries
    }

    /// The entry at `path`.
    pub fn get(&self, path: &TreePath) -> Option<&ManifestEntry> {
        let index = self.entries.binary_search_by(|entry| entry.path.cmp(path)).ok()?;
        self.entries.get(index)
    }

    /// Writes one line of JSON an entry.
    ///
    /// # Errors
    /// As `writer` gives them.
    pub fn write_lines(&self, mut writer: impl Write) -> io::Result<()> {
        for entry in &self.entries {
            serde_json::to_writer(&mut writer, entry)?;
            writer.write_all(b"\n")?;
        }
        Ok(())
    }

    /// Reads what [`Self::write_lines`] wrote.
    ///
    /// # Errors
    /// As `reader` gives them, or `InvalidData` for what is no manifest.
    pub fn read_lines(reader: impl BufRead) -> io::Result<Self> {
        let entries = serde_json::Deserializer::from_reader(reader)
            .into_iter()
            .collect::<Result<Vec<ManifestEntry>, _>>()?;
        Ok(Self::new(entries))
    }
}

//! The list of a tree's entries with their digests, sealed beside the journal: against it the
//! copy, the source, and later the vault and what came back are compared, streaming, whatever the
//! number of files.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use super::record::LedgerReference;
use super::sealed::{SealedReader, SealedWriter};
use super::survey::{SurveyOptions, survey};
use crate::crypto::MigrationKey;
use crate::tree::{self, ManifestEntry, Timestamp, TreePath, TreeReader};

/// One entry as it was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LedgerEntry {
    /// Place, metadata, digest.
    #[serde(flatten)]
    pub(super) entry: ManifestEntry,
    /// Last change of the inode.
    pub(super) changed: Timestamp,
    /// Names of the file, inside the tree and out.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub(super) links: u64,
}

fn one() -> u64 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_one(links: &u64) -> bool {
    *links == 1
}

/// Writes the ledger of `reader` at `path`, durably.
///
/// # Errors
/// Those of the survey and of the filesystem.
pub(super) fn write(
    path: &Path,
    key: &MigrationKey,
    reader: &dyn TreeReader,
    options: &SurveyOptions<'_>,
) -> Result<LedgerReference> {
    let failed = |error: io::Error| Error::io("write", path, error);
    let file = File::create(path).map_err(failed)?;
    let sealed = SealedWriter::new(BufWriter::new(file), key);
    let mut compressed = zstd::Encoder::new(sealed, 1).map_err(failed)?;
    let totals = survey(reader, options, &mut |entry| {
        serde_json::to_writer(&mut compressed, &entry)
            .map_err(io::Error::from)
            .and_then(|()| compressed.write_all(b"\n"))
            .map_err(failed)
    })?;
    let sealed = compressed.finish().map_err(failed)?;
    let (buffered, stream) = sealed.finish().map_err(failed)?;
    let file = buffered.into_inner().map_err(|error| failed(error.into_error()))?;
    file.sync_all().and_then(|()| super::operations::sync_parent(path)).map_err(failed)?;
    Ok(LedgerReference {
        stream: stream.iter().map(|byte| format!("{byte:02x}")).collect(),
        entries: totals.entries,
        files: totals.files,
        bytes: totals.bytes,
    })
}

/// Reads a ledger, entry by entry.
pub(super) struct LedgerReader {
    lines: BufReader<zstd::Decoder<'static, BufReader<SealedReader<BufReader<File>>>>>,
    path: std::path::PathBuf,
    line: Vec<u8>,
    left: u64,
}

/// Longest line of a ledger: paths and attributes are bounded, base64 and JSON lengthen them.
const LINE_LIMIT: u64 = 64 << 20;

impl LedgerReader {
    /// Opens the ledger at `path`, which must be the one that the journal names.
    ///
    /// # Errors
    /// When it is missing, or not that one.
    pub(super) fn open(
        path: &Path,
        key: &MigrationKey,
        reference: &LedgerReference,
    ) -> Result<Self> {
        let failed = |error: io::Error| Error::io("read", path, error);
        let mut stream = [0u8; 16];
        let digits = reference.stream.as_bytes().chunks_exact(2);
        for (byte, digits) in stream.iter_mut().zip(digits) {
            *byte = std::str::from_utf8(digits)
                .ok()
                .and_then(|digits| u8::from_str_radix(digits, 16).ok())
                .ok_or_else(|| failed(io::ErrorKind::InvalidData.into()))?;
        }
        let file = File::open(path).map_err(failed)?;
        let sealed = SealedReader::new(BufReader::new(file), key, stream);
        let decoder = zstd::Decoder::new(sealed).map_err(failed)?;
        Ok(Self {
            lines: BufReader::with_capacity(1 << 16, decoder),
            path: path.to_owned(),
            line: Vec::new(),
            left: reference.entries,
        })
    }

    /// The next entry; `None` after the last.
    ///
    /// # Errors
    /// When it cannot be read, or was changed.
    pub(super) fn next_entry(&mut self) -> Result<Option<LedgerEntry>> {
        let failed = |error: io::Error| Error::io("read", &self.path, error);
        if self.left == 0 {
            return Ok(None);
        }
        self.line.clear();
        let mut bounded = io::Read::take(&mut self.lines, LINE_LIMIT);
        bounded.read_until(b'\n', &mut self.line).map_err(failed)?;
        let entry =
            serde_json::from_slice(&self.line).map_err(|error| failed(io::Error::from(error)))?;
        self.left -= 1;
        Ok(Some(entry))
    }
}

impl Iterator for LedgerReader {
    type Item = tree::Result<ManifestEntry>;

    /// As a manifest. What cannot be read ends it with an error.
    fn next(&mut self) -> Option<Self::Item> {
        match self.next_entry() {
            Ok(entry) => entry.map(|entry| Ok(entry.entry)),
            Err(error) => {
                self.left = 0;
                Some(Err(tree::Error::Io {
                    operation: tree::Operation::Read,
                    tree: self.path.display().to_string(),
                    path: TreePath::root(),
                    source: io::Error::other(error.to_string()),
                }))
            }
        }
    }
}

/// Entries that are not what the ledger says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Changed {
    /// The first of them.
    pub(super) paths: Vec<TreePath>,
    /// How many there are.
    pub(super) count: u64,
}

impl Changed {
    fn add(&mut self, path: TreePath) {
        self.count += 1;
        if self.paths.len() < 100 {
            self.paths.push(path);
        }
    }
}

/// What of a tree changed since its ledger was written, without reading any content: every write
/// and every change of attributes moves the time of the inode's last change. The root's is left
/// out, since its own rename moves it; so of the root alone `reader` must tell extended attributes.
///
/// # Errors
/// When the ledger or the tree cannot be read.
pub(super) fn changes(
    mut ledger: LedgerReader,
    reader: &dyn TreeReader,
    options: &SurveyOptions<'_>,
) -> Result<Changed> {
    let mut changed = Changed::default();
    let mut expected = ledger.next_entry()?;
    survey(reader, &SurveyOptions { hash: false, ..*options }, &mut |actual| {
        while let Some(missing) = expected.take_if(|entry| entry.entry.path < actual.entry.path) {
            changed.add(missing.entry.path);
            expected = ledger.next_entry()?;
        }
        match expected.take_if(|entry| entry.entry.path == actual.entry.path) {
            Some(before) => {
                if !is_same(&before, &actual) {
                    changed.add(actual.entry.path);
                }
                expected = ledger.next_entry()?;
            }
            None => changed.add(actual.entry.path),
        }
        Ok(())
    })?;
    while let Some(missing) = expected {
        changed.add(missing.entry.path);
        expected = ledger.next_entry()?;
    }
    Ok(changed)
}

fn is_same(before: &LedgerEntry, after: &LedgerEntry) -> bool {
    let is_root = before.entry.path.is_root();
    // Reading moves the time of last access.
    let mut metadata = after.entry.metadata.clone();
    metadata.accessed = before.entry.metadata.accessed;
    if !is_root {
        metadata.xattrs.clone_from(&before.entry.metadata.xattrs);
    }
    before.entry.metadata == metadata
        && before.entry.link_to == after.entry.link_to
        && before.links == after.links
        && (before.changed == after.changed || is_root)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;

    use super::*;
    use crate::migrate::survey::Unobserved;
    use crate::tree::{LocalTree, exclude_nothing, sample};

    #[test]
    fn a_change_of_attributes_shows_without_reading_them() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("source");
        fs::create_dir(&root).unwrap();
        sample::fill(&root);
        let key = MigrationKey::from_bytes(&[1; 32]);
        let path = directory.path().join("ledger");
        let options =
            SurveyOptions { jobs: 2, hash: true, exclude: &exclude_nothing, observer: &Unobserved };
        let changed = |reference: &LedgerReference| {
            let ledger = LedgerReader::open(&path, &key, reference).unwrap();
            let tree = LocalTree::open(&root).unwrap().without_xattrs();
            let changed = changes(ledger, &tree, &options).unwrap();
            changed.paths.iter().map(|path| path.as_bytes().to_vec()).collect::<Vec<_>>()
        };
        let name = "user.name";
        for (entry, shown) in [("", &b""[..]), ("attributes", b"attributes"), ("many", b"many")] {
            let tree = LocalTree::open(&root).unwrap();
            let reference = write(&path, &key, &tree, &options).unwrap();
            assert_eq!(changed(&reference), [b""; 0]);
            let file = fs::File::open(root.join(entry)).unwrap();
            // The clock of the filesystem may tick only a hundred times a second.
            std::thread::sleep(std::time::Duration::from_millis(20));
            rustix::fs::fsetxattr(&file, name, b"1", rustix::fs::XattrFlags::empty()).unwrap();
            assert_eq!(changed(&reference), [shown]);
        }
    }
}

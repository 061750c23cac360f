//! Secrets in a backup that is not sealed: an archive in the archive, sealed, of the files that
//! match patterns of what is sensitive.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use tempfile::TempDir;

use super::create::{Source, refuse_cancelled};
use super::error::{Error, Result};
use super::filter::{Filter, Terms};
use crate::archive::{
    ArchiveKind, ArchiveMetadata, ArchiveReader, Control, Description, ExtractOptions, KeySet,
    Keyring, PARTIAL_PREFIX, PendingArchive, Section, SectionName, Select, WriteOptions,
};
use crate::tree::{EntryKind, LocalTree, Timestamp, TreePath, TreeWriter};

/// The section with the archive in it.
pub const SEALED_SECTION: &str = "sealed";
const FILE: &str = "sealed.tar.zst.enc";

/// What is sealed in a backup that is not.
pub struct Sensitive<'a> {
    /// Which files.
    pub files: &'a Terms,
    /// With what.
    pub keys: &'a KeySet,
}

/// The section's name.
pub(super) fn section() -> SectionName {
    SectionName::new(SEALED_SECTION).expect("a name that is allowed")
}

/// Whether an archive that is not sealed has sealed files in it.
pub fn has_sealed_files(metadata: &ArchiveMetadata) -> bool {
    metadata.sections.contains(&section())
}

/// Writes the sensitive files of `sources` to a sealed archive in a directory of its own below
/// `output`. `None` where there are none.
pub(super) fn write(
    sensitive: &Sensitive<'_>,
    sources: &[Source<'_>],
    filter: &Filter,
    output: &Path,
    created: Timestamp,
    options: &WriteOptions<'_>,
) -> Result<Option<TempDir>> {
    let excludes: Vec<_> = sources
        .iter()
        .map(|source| {
            move |path: &TreePath, kind: EntryKind| {
                let section = &source.section;
                filter.excludes(section, path, kind)
                    || (kind != EntryKind::Directory && !sensitive.files.name(section, path))
            }
        })
        .collect();
    let sections: Vec<_> = sources
        .iter()
        .zip(&excludes)
        .map(|(source, exclude)| Section {
            name: source.section.clone(),
            reader: source.reader,
            exclude,
        })
        .collect();
    let directory = tempfile::Builder::new()
        .prefix(PARTIAL_PREFIX)
        .tempdir_in(output)
        .map_err(Error::io("create a directory in", output))?;
    let description = Description {
        name: SEALED_SECTION.to_owned(),
        kind: ArchiveKind::Full,
        created,
        chain: Vec::new(),
        details: serde_json::Value::Null,
    };
    let options = WriteOptions { expected: None, progress: &(), ..*options };
    let mut pending = PendingArchive::create(directory.path())?;
    pending.write(Some(sensitive.keys), &description, &sections, None, &options)?;
    pending.publish(FILE)?;
    Ok(Some(directory))
}

/// Whether any files of the sources are sensitive.
///
/// # Errors
/// When a source cannot be read; [`Error::Cancelled`].
pub fn has_sensitive(
    sensitive: &Terms,
    sources: &[Source<'_>],
    filter: &Filter,
    cancelled: &AtomicBool,
) -> Result<bool> {
    for source in sources {
        let exclude =
            |path: &TreePath, kind: EntryKind| filter.excludes(&source.section, path, kind);
        for entry in source.reader.walk(&exclude)? {
            refuse_cancelled(cancelled)?;
            let entry = entry?;
            if entry.metadata.kind != EntryKind::Directory
                && sensitive.name(&source.section, &entry.path)
            {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// The archive in an archive, taken out of it: what lies there for a while is sealed.
pub(super) struct Inner {
    /// What it says and holds.
    pub(super) reader: ArchiveReader,
    _directory: TempDir,
}

impl Inner {
    /// Takes it out of `outer`.
    pub(super) fn take_out(
        outer: &ArchiveReader,
        keyring: &Keyring,
        control: Control<'_>,
    ) -> Result<Self> {
        let directory = tempfile::tempdir().map_err(Error::io("create", std::env::temp_dir()))?;
        let tree = LocalTree::open(directory.path())?;
        let name = section();
        let own: [(SectionName, &dyn TreeWriter); 1] = [(name.clone(), &tree)];
        let only = |section: &SectionName, _: &TreePath, _: EntryKind| *section == name;
        let options = ExtractOptions { targets: &own, select: &only, devices: false };
        let quiet = Control { cancelled: control.cancelled, progress: &() };
        outer.extract(&options, quiet)?;
        let reader = ArchiveReader::open(&directory.path().join(FILE), keyring)?;
        Ok(Self { reader, _directory: directory })
    }

    /// Extracts what is selected.
    pub(super) fn restore(
        &self,
        targets: &[(SectionName, &dyn TreeWriter)],
        select: Select<'_>,
        control: Control<'_>,
    ) -> Result<u64> {
        let options = ExtractOptions { targets, select, devices: false };
        let (_, extracted) = self.reader.extract_part(&options, control, &mut |_| Ok(()))?;
        Ok(extracted.entries)
    }
}

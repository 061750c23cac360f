//! A backup with all that it needs, and restoring what it is a backup of.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use sha2::{Digest as _, Sha256};

use super::catalog::Catalog;
use super::error::{Error, Result};
use super::sealed::{self, Inner};
use crate::archive::{
    self, ArchiveId, ArchiveReader, Control, ExtractOptions, IndexEntry, Keyring, SectionName,
    Select, TakeLine, Where, select_all,
};
use crate::tree::{Digest, EntryKind, Metadata, TreePath, TreeWriter};

/// A backup opened, with the archives that it needs.
pub struct Chain<'a> {
    last: ArchiveReader,
    keyring: &'a Keyring,
    needed: HashMap<ArchiveId, ArchiveReader>,
    /// What is sealed in a backup that is not, once it was wanted.
    inner: OnceLock<Inner>,
}

/// Archives that were found to be whole.
#[derive(Debug, Default)]
pub struct Known(pub(super) HashSet<(ArchiveId, PathBuf)>);

/// What was restored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Entries made.
    pub entries: u64,
    /// Bytes of content.
    pub bytes: u64,
    /// Sockets: listed in the backup, and not made again.
    pub sockets: u64,
    /// Device files that were left out.
    pub devices: u64,
}

/// What of a backup is wanted.
#[derive(Clone, Copy)]
pub enum Selection<'a> {
    /// All of it.
    Everything,
    /// What this says.
    Some(Select<'a>),
}

impl Selection<'_> {
    fn holds(&self, section: &SectionName, path: &TreePath, kind: EntryKind) -> bool {
        match self {
            Self::Everything => true,
            Self::Some(select) => select(section, path, kind),
        }
    }
}

/// What a backup holds of what is selected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Selected {
    /// Entries.
    pub entries: u64,
    /// Bytes of content.
    pub bytes: u64,
}

/// A selected file that another archive stores.
struct Elsewhere {
    digest: Digest,
    found: bool,
}

/// What is left to do when all files are there.
#[derive(Default)]
struct Rest {
    links: Vec<(SectionName, TreePath, TreePath)>,
    directories: Vec<(SectionName, TreePath, Metadata)>,
    elsewhere: HashMap<ArchiveId, HashMap<[u8; 16], Elsewhere>>,
    sockets: u64,
    selected: Selected,
}

impl<'a> Chain<'a> {
    /// Opens a backup, and the ones that it needs, which lie in the same directory.
    ///
    /// # Errors
    /// When one is missing, or cannot be opened.
    pub fn open(path: &Path, keyring: &'a Keyring) -> Result<Self> {
        let last = ArchiveReader::open(path, keyring)?;
        let links = &last.metadata().chain;
        let mut needed = HashMap::new();
        if !links.is_empty() {
            let directory = match path.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent,
                _ => Path::new("."),
            };
            let catalog = Catalog::read(directory)?;
            for (id, path) in catalog.resolve(path, links)? {
                let reader = ArchiveReader::open(&path, keyring)?;
                if reader.metadata().id != id {
                    let file = reader.path().display().to_string();
                    return Err(Error::MissingLink { path: path.clone(), file, id });
                }
                needed.insert(id, reader);
            }
        }
        Ok(Self { last, keyring, needed, inner: OnceLock::new() })
    }

    /// The backup itself.
    pub fn reader(&self) -> &ArchiveReader {
        &self.last
    }

    /// The archives that it needs.
    pub fn needed(&self) -> impl Iterator<Item = &ArchiveReader> {
        self.needed.values()
    }

    /// What is sealed in a backup that is not; `None` where nothing is, or no secret is at hand.
    fn inner(&self, control: Control<'_>) -> Result<Option<&Inner>> {
        if !sealed::has_sealed_files(self.last.metadata()) || !self.keyring.has_secret() {
            return Ok(None);
        }
        if let Some(inner) = self.inner.get() {
            return Ok(Some(inner));
        }
        let inner = Inner::take_out(&self.last, self.keyring, control)?;
        Ok(Some(self.inner.get_or_init(|| inner)))
    }

    /// The lines of the index; those of what is sealed in a backup that is not, too, where its secret
    /// is at hand.
    ///
    /// # Errors
    /// What is wrong with the index, or an error of `take`.
    pub fn lines(&self, control: Control<'_>, take: &mut TakeLine<'_>) -> Result<()> {
        self.last.index(control, take)?;
        if let Some(inner) = self.inner(control)? {
            let quiet = Control { cancelled: control.cancelled, progress: &() };
            inner.reader.index(quiet, &mut |line| {
                // The directories on the way to them are listed already.
                if line.entry.metadata.kind == EntryKind::Directory { Ok(()) } else { take(line) }
            })?;
        }
        Ok(())
    }

    /// How much is selected.
    ///
    /// # Errors
    /// What is wrong with the index.
    pub fn measure(&self, select: Select<'_>, control: Control<'_>) -> Result<Selected> {
        let mut selected = Selected::default();
        self.lines(control, &mut |line| {
            let metadata = &line.entry.metadata;
            if select(&line.section, &line.entry.path, metadata.kind) {
                selected.entries += 1;
                if line.entry.link_to.is_none() {
                    selected.bytes = selected.bytes.saturating_add(metadata.size);
                }
            }
            Ok(())
        })?;
        Ok(selected)
    }

    /// How many bytes of content are selected.
    ///
    /// # Errors
    /// What is wrong with the index.
    pub fn bytes(&self, selection: Selection<'_>, control: Control<'_>) -> Result<u64> {
        let select: Select<'_> = match selection {
            Selection::Some(select) => select,
            Selection::Everything => {
                let alone = self.last.metadata().chain.is_empty()
                    && !sealed::has_sealed_files(self.last.metadata());
                if let Some(amount) = self.last.amount()?.filter(|_| alone) {
                    return Ok(amount.bytes);
                }
                &select_all
            }
        };
        Ok(self.measure(select, control)?.bytes)
    }

    /// Names every entry.
    ///
    /// # Errors
    /// What is wrong with the index.
    pub fn each(
        &self,
        control: Control<'_>,
        take: &mut dyn FnMut(&SectionName, &TreePath),
    ) -> Result<()> {
        self.lines(control, &mut |line| {
            take(&line.section, &line.entry.path);
            Ok(())
        })
    }

    /// Restores what is selected to empty places, one writer for each section; device files only where
    /// they may be made. To be relied on only when this returns; the caller syncs the writers.
    ///
    /// # Errors
    /// What is wrong with an archive, or a writer's.
    pub fn restore(
        &self,
        targets: &[(SectionName, &dyn TreeWriter)],
        selection: Selection<'_>,
        devices: bool,
        control: Control<'_>,
    ) -> Result<Restored> {
        let left_out = |kind: EntryKind| !devices && kind.is_device();
        let select_what_is_made = |section: &SectionName, path: &TreePath, kind: EntryKind| {
            !left_out(kind) && selection.holds(section, path, kind)
        };
        // Another name of a file is made of its first one, which then goes again.
        let borrowed = match selection {
            Selection::Everything => HashMap::new(),
            Selection::Some(_) => self.first_names(targets, &select_what_is_made, control)?,
        };
        let select_more = |section: &SectionName, path: &TreePath, kind: EntryKind| {
            select_what_is_made(section, path, kind) || borrowed.contains_key(&key(section, path))
        };
        let options = ExtractOptions { targets, select: &select_more, devices };
        let (mut rest, mut devices_left) = (Rest::default(), 0);
        let (_, extracted) = self.last.extract_part(&options, control, &mut |line| {
            let (section, path, kind) = (&line.section, &line.entry.path, line.entry.metadata.kind);
            let wanted = targets.iter().any(|(name, _)| name == section);
            if wanted && (kind == EntryKind::Directory || select_more(section, path, kind)) {
                rest.add(line);
            } else if wanted && left_out(kind) && selection.holds(section, path, kind) {
                devices_left += 1;
            }
            Ok(())
        })?;
        let mut restored = Restored {
            entries: extracted.entries,
            bytes: extracted.bytes,
            sockets: rest.sockets,
            devices: devices_left,
        };
        for (id, files) in &mut rest.elsewhere {
            let reader = self.needed.get(id).ok_or(Error::Incomplete {
                missing: files.len() as u64,
                expected: rest.selected.entries,
            })?;
            let extracted = restore_part(reader, files, &options, control)?;
            restored.entries += extracted.entries;
            restored.bytes += extracted.bytes;
            let missing = files.values().filter(|file| !file.found).count() as u64;
            if missing > 0 {
                return Err(Error::Incomplete { missing, expected: files.len() as u64 });
            }
        }
        if sealed::has_sealed_files(self.last.metadata()) {
            let inner = self.inner(control)?.ok_or(archive::Error::NoSecret)?;
            restored.entries += inner.restore(targets, &select_more, control)?;
        }
        let writer = |section: &SectionName| {
            targets.iter().find(|(name, _)| name == section).map(|(_, writer)| *writer)
        };
        for (section, first, path) in &rest.links {
            if let Some(writer) = writer(section) {
                writer.hard_link(first, path)?;
                restored.entries += 1;
            }
        }
        for (section, path) in borrowed.values() {
            if let Some(writer) = writer(section) {
                writer.remove(path)?;
                restored.entries = restored.entries.saturating_sub(1);
            }
        }
        // The innermost first: whatever is made in a directory changes its times.
        for (section, path, metadata) in rest.directories.iter().rev() {
            if let Some(writer) = writer(section)
                && writer.existing(path)?.is_some()
            {
                writer.set_metadata(path, metadata)?;
            }
        }
        Ok(restored)
    }

    /// First names that are not selected, of files of which a later name is.
    fn first_names(
        &self,
        targets: &[(SectionName, &dyn TreeWriter)],
        select: Select<'_>,
        control: Control<'_>,
    ) -> Result<HashMap<[u8; 16], (SectionName, TreePath)>> {
        let mut borrowed = HashMap::new();
        let quiet = Control { cancelled: control.cancelled, progress: &() };
        self.last.index(quiet, &mut |line| {
            let IndexEntry { section, entry, .. } = line;
            let kind = entry.metadata.kind;
            if let Some(first) = &entry.link_to
                && targets.iter().any(|(name, _)| name == section)
                && select(section, &entry.path, kind)
                && !select(section, first, kind)
            {
                borrowed.insert(key(section, first), (section.clone(), first.clone()));
            }
            Ok(())
        })?;
        Ok(borrowed)
    }

    /// Checks that every archive of the chain is whole (but those in `known`, to which it adds the ones
    /// that are), and that what the backup needs of the others is in them.
    ///
    /// # Errors
    /// What is wrong.
    pub fn verify(&self, known: &mut Known, control: Control<'_>) -> Result<archive::Passed> {
        let passed = self.last.verify(control)?;
        if let Some(inner) = self.inner(control)? {
            inner.reader.verify(control)?;
        }
        let mut rest = Rest::default();
        let quiet = Control { cancelled: control.cancelled, progress: &() };
        if !self.needed.is_empty() {
            self.last.index(quiet, &mut |line| {
                rest.add(line);
                Ok(())
            })?;
        }
        for (id, files) in &mut rest.elsewhere {
            let expected = files.len() as u64;
            let reader =
                self.needed.get(id).ok_or(Error::Incomplete { missing: expected, expected })?;
            reader.index(quiet, &mut |line| find(files, line))?;
            if !known.0.contains(&identity(reader)) {
                reader.verify(control)?;
                known.0.insert(identity(reader));
            }
            let missing = files.values().filter(|file| !file.found).count() as u64;
            if missing > 0 {
                return Err(Error::Incomplete { missing, expected });
            }
        }
        known.0.insert(identity(&self.last));
        Ok(passed)
    }
}

impl Rest {
    fn add(&mut self, line: &IndexEntry) {
        let IndexEntry { section, entry, stored, .. } = line;
        self.selected.entries += 1;
        let path = entry.path.clone();
        match (stored, &entry.link_to) {
            (Where::Here, _) if entry.metadata.kind == EntryKind::Directory => {
                self.directories.push((section.clone(), path, entry.metadata.clone()));
            }
            (Where::In(_), Some(first)) => {
                self.links.push((section.clone(), first.clone(), path));
            }
            (Where::In(id), None) => {
                let digest = entry.sha256.unwrap_or(Digest([0; 32]));
                let file = Elsewhere { digest, found: false };
                self.elsewhere.entry(*id).or_default().insert(key(section, &path), file);
            }
            (Where::Nowhere, _) => self.sockets += 1,
            (Where::Here, _) => {}
        }
    }
}

/// Tells an archive from others, also from copies of it, which may be damaged.
fn identity(reader: &ArchiveReader) -> (ArchiveId, PathBuf) {
    let path = reader.path();
    (reader.metadata().id, path.canonicalize().unwrap_or_else(|_| path.to_owned()))
}

/// Restores those of an archive's files that a later one needs.
fn restore_part(
    reader: &ArchiveReader,
    files: &mut HashMap<[u8; 16], Elsewhere>,
    options: &ExtractOptions<'_>,
    control: Control<'_>,
) -> Result<archive::Extracted> {
    let wanted: std::collections::HashSet<[u8; 16]> = files.keys().copied().collect();
    let select = |section: &SectionName, path: &TreePath, kind: EntryKind| {
        kind == EntryKind::Regular && wanted.contains(&key(section, path))
    };
    let options = ExtractOptions { select: &select, ..*options };
    let (_, mut extracted) =
        reader.extract_part(&options, control, &mut |line| find(files, line))?;
    // Directories on the way there were counted with the last archive.
    extracted.entries = files.len() as u64;
    Ok(extracted)
}

/// Marks a file that an archive of the chain stores.
fn find(files: &mut HashMap<[u8; 16], Elsewhere>, line: &IndexEntry) -> archive::Result<()> {
    if line.stored != Where::Here || line.entry.link_to.is_some() {
        return Ok(());
    }
    let Some(file) = files.get_mut(&key(&line.section, &line.entry.path)) else { return Ok(()) };
    if line.entry.sha256 != Some(file.digest) {
        return Err(archive::Error::Mismatch {
            entry: format!("{}/{}", line.section, line.entry.path),
            problem: "an earlier archive of the chain stores something else",
        });
    }
    file.found = true;
    Ok(())
}

/// Enough of a digest to tell entries apart, in little memory.
fn key(section: &SectionName, path: &TreePath) -> [u8; 16] {
    let mut hasher = Sha256::new();
    hasher.update(section.as_str().as_bytes());
    hasher.update([0]);
    hasher.update(path.as_bytes());
    let digest: [u8; 32] = hasher.finalize().into();
    *digest.first_chunk().expect("32 bytes")
}

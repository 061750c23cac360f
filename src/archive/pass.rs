//! The one pass over an archive that both verifying and extracting are: everything in it is
//! checked before it is handed on, and all of it against its index.
//!
//! Entries must come in the order of a walk, each in a directory that came before it and is one:
//! that rules out duplicates, and that anything is written through a symlink. Memory is bounded
//! by the largest index part, and by the files of which not all names were met yet.

use std::collections::{HashMap, VecDeque};
use std::io::BufRead;
use std::sync::atomic::AtomicBool;

use sha2::{Digest as _, Sha256};

use super::error::{Error, Result};
use super::gather::check;
use super::hash::{Hashing, hash_hole, hashing};
use super::index::{Lines, parse_part, read_own};
use super::metadata::{
    Amount, ArchiveIndex, ArchiveMetadata, INDEX_NAME, INDEX_PREFIX, METADATA_LIMIT, METADATA_NAME,
    PART_ENTRIES, PART_LIMIT, SectionName, Where,
};
use super::pending::{Pending, Seen, What, check_line};
use super::sink::{Sink, SmallFile};
use super::tar::{RawEntry, RawKind, SparseMap, TarReader};
use super::write::part_name;
use crate::tree::{ContentWriter, Digest, EntryKind, Metadata, Progress, TreePath};

/// Files up to this size are read whole and handed to another thread.
pub(super) const SMALL: u64 = 256 * 1024;
/// Bytes read of a larger file at once.
const CHUNK: usize = 1 << 20;
/// Bytes of it read at once where it is only hashed: they stay in the processor's cache.
const HASHED_AT_ONCE: usize = 64 * 1024;
/// Most files of which not all names were met yet.
const LINKS_MAX: usize = 1 << 24;
/// Longest target of a symlink (`PATH_MAX`).
const TARGET_MAX: usize = 4096;

/// How a pass is stopped and watched.
#[derive(Clone, Copy)]
pub struct Control<'a> {
    /// Set by somebody else to stop.
    pub cancelled: &'a AtomicBool,
    /// Told of bytes and entries.
    pub progress: &'a dyn Progress,
}

impl Default for Control<'_> {
    fn default() -> Self {
        static NEVER: AtomicBool = AtomicBool::new(false);
        Self { cancelled: &NEVER, progress: &() }
    }
}

/// What contents are held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Contents {
    /// Their digests in the index.
    Digests,
    /// The checksums that the compression keeps of each frame: for an archive that was written a moment ago.
    /// Only where it is compressed, and nothing is extracted.
    Frames,
}

/// What a pass went over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passed {
    /// What the archive holds.
    pub amount: Amount,
    /// Entries of the trees, with those that are stored elsewhere.
    pub entries: u64,
}

/// Goes over the whole tar.
pub(super) fn pass(
    input: impl BufRead,
    metadata: &ArchiveMetadata,
    contents: Contents,
    sink: &mut dyn Sink,
    control: Control<'_>,
) -> Result<Passed> {
    let mut pass = Pass {
        tar: TarReader::new(input),
        metadata,
        contents,
        control,
        section: None,
        last: None,
        directories: Vec::new(),
        links: HashMap::new(),
        pending: VecDeque::new(),
        amount: Amount::default(),
        lines: Lines::default(),
        parts: Vec::new(),
        hash: Sha256::new(),
        metadata_hash: Digest([0; 32]),
    };
    pass.first()?;
    loop {
        check(control.cancelled)?;
        let entry = pass.tar.next_entry()?;
        let Some(entry) = entry else {
            return Err(Error::malformed("it ends without its index"));
        };
        if entry.name == INDEX_NAME.as_bytes() {
            return pass.finish(&entry, sink);
        }
        if entry.name.starts_with(INDEX_PREFIX.as_bytes()) {
            pass.part(&entry, sink)?;
        } else {
            pass.entry(entry, sink)?;
        }
    }
}

struct Pass<'a, R> {
    tar: TarReader<R>,
    metadata: &'a ArchiveMetadata,
    contents: Contents,
    control: Control<'a>,
    /// Which section the pass is in.
    section: Option<usize>,
    /// The last entry's path there.
    last: Option<TreePath>,
    directories: Vec<TreePath>,
    /// By the digest of its first name, how many names of what may still come.
    links: HashMap<[u8; 16], (u64, EntryKind)>,
    pending: VecDeque<Pending>,
    amount: Amount,
    lines: Lines,
    /// Of each part of the index its bytes and its lines.
    parts: Vec<(u64, u64)>,
    hash: Sha256,
    metadata_hash: Digest,
}

impl<R: BufRead> Pass<'_, R> {
    /// The metadata, which were read before.
    fn first(&mut self) -> Result<()> {
        let entry = self.tar.next_entry()?;
        let Some(entry) = entry.filter(|entry| entry.name == METADATA_NAME.as_bytes()) else {
            return Err(Error::malformed("it does not begin with its metadata"));
        };
        let bytes = read_own(&mut self.tar, &entry, METADATA_LIMIT)?;
        self.metadata_hash = Digest(Sha256::digest(&bytes).into());
        if ArchiveMetadata::decode(&bytes)? == *self.metadata {
            Ok(())
        } else {
            Err(Error::malformed("its metadata changed while it was read"))
        }
    }

    fn entry(&mut self, entry: RawEntry, sink: &mut dyn Sink) -> Result<()> {
        let (section, path) = self.place(&entry.name)?;
        let place = (section.clone(), path.clone());
        self.placed(section, path, entry, sink)
            .map_err(|error| error.at(place.0.as_str(), &place.1))
    }

    /// Section and path of a name.
    fn place(&self, name: &[u8]) -> Result<(SectionName, TreePath)> {
        let hostile = |problem: String| Error::Malformed {
            entry: Some(crate::tree::PathText(name).to_string()),
            problem,
        };
        let (section, path) = match name.iter().position(|byte| *byte == b'/') {
            Some(slash) => (&name[..slash], &name[slash + 1..]),
            None => (name, &[][..]),
        };
        let section = self
            .metadata
            .sections
            .iter()
            .find(|known| known.as_str().as_bytes() == section)
            .ok_or_else(|| hostile("it lies in no section of the archive".into()))?;
        let path = TreePath::new(path).map_err(|error| hostile(error.to_string()))?;
        if path.is_root() && name.ends_with(b"/") {
            return Err(hostile("it has an empty component".into()));
        }
        Ok((section.clone(), path))
    }

    fn placed(
        &mut self,
        section: SectionName,
        path: TreePath,
        entry: RawEntry,
        sink: &mut dyn Sink,
    ) -> Result<()> {
        self.check_order(&section, &path, sink)?;
        self.count(&entry)?;
        let RawEntry { kind, links, sparse, .. } = entry;
        let what = match kind {
            RawKind::HardLink(target) => {
                let (first, kind) = self.link_target(&section, &target)?;
                sink.hard_link(&section, &first, &path, kind)?;
                What::HardLink(first)
            }
            RawKind::Entry(metadata) => match metadata.kind {
                EntryKind::Directory => {
                    self.directories.push(path.clone());
                    sink.enter(&section, &path, &metadata)?;
                    What::Entry(metadata)
                }
                EntryKind::Regular => {
                    self.may_be_linked(&path, links, metadata.kind)?;
                    let content =
                        self.content(&section, &path, &metadata, sparse, links > 1, sink)?;
                    What::File(metadata, content)
                }
                _ => {
                    self.may_be_linked(&path, links, metadata.kind)?;
                    check_target(&metadata)?;
                    sink.special(&section, &path, &metadata)?;
                    What::Entry(metadata)
                }
            },
        };
        self.control.progress.entry(&path);
        self.last = Some(path.clone());
        self.pending.push_back(Pending { section, path, what });
        if self.pending.len() > PART_ENTRIES {
            return Err(Error::malformed("a part of its index is missing"));
        }
        Ok(())
    }

    /// Sections in their order, entries in the order of a walk, each in a directory.
    fn check_order(
        &mut self,
        section: &SectionName,
        path: &TreePath,
        sink: &mut dyn Sink,
    ) -> Result<()> {
        let number = self.metadata.sections.iter().position(|known| known == section);
        if number != self.section {
            if number < self.section {
                return Err(Error::malformed("its section ended before"));
            }
            self.leave_to(0, sink)?;
            (self.section, self.last) = (number, None);
            self.links.clear();
        }
        match &self.last {
            None if path.is_root() => return Ok(()),
            None => return Err(Error::malformed("its section does not begin with its root")),
            Some(last) if path == last => return Err(Error::malformed("it is there twice")),
            Some(last) if path < last => {
                return Err(Error::malformed("it is out of order, or there twice"));
            }
            Some(_) => {}
        }
        let parent = path.split().map(|(parent, _)| parent);
        let is_parent = |directory: &TreePath| Some(directory.as_bytes()) == parent;
        let depth = self.directories.iter().rposition(is_parent);
        match depth {
            Some(depth) => self.leave_to(depth + 1, sink),
            None => Err(Error::malformed("it lies in something that is no directory")),
        }
    }

    fn leave_to(&mut self, depth: usize, sink: &mut dyn Sink) -> Result<()> {
        while self.directories.len() > depth {
            self.directories.pop();
            sink.leave()?;
        }
        Ok(())
    }

    fn count(&mut self, entry: &RawEntry) -> Result<()> {
        let limit = self.metadata.limit;
        self.amount.entries += 1;
        if self.amount.entries > limit.entries {
            return Err(Error::TooMuch { limit: limit.entries, what: "entries" });
        }
        if let RawKind::Entry(metadata) = &entry.kind {
            self.amount.bytes = self.amount.bytes.saturating_add(metadata.size);
        }
        if self.amount.bytes > limit.bytes {
            return Err(Error::TooMuch { limit: limit.bytes, what: "bytes" });
        }
        Ok(())
    }

    fn may_be_linked(&mut self, path: &TreePath, links: u64, kind: EntryKind) -> Result<()> {
        if links > 1 {
            if self.links.len() >= LINKS_MAX {
                return Err(Error::malformed("too many files have names still to come"));
            }
            self.links.insert(short_hash(path), (links - 1, kind));
        }
        Ok(())
    }

    /// The first name of what a hard link is another name of, and its kind.
    fn link_target(
        &mut self,
        section: &SectionName,
        target: &[u8],
    ) -> Result<(TreePath, EntryKind)> {
        let (of, first) = self.place(target)?;
        let key = short_hash(&first);
        let left = self.links.get_mut(&key).filter(|_| of == *section);
        let Some((left, kind)) = left else {
            return Err(Error::malformed("it is a hard link to something that is not there"));
        };
        let kind = *kind;
        *left -= 1;
        if *left == 0 {
            self.links.remove(&key);
        }
        Ok((first, kind))
    }

    fn content(
        &mut self,
        section: &SectionName,
        path: &TreePath,
        metadata: &Metadata,
        sparse: Option<SparseMap>,
        at_once: bool,
        sink: &mut dyn Sink,
    ) -> Result<Seen> {
        if self.contents == Contents::Frames {
            let control = self.control;
            let mut holes = metadata.size;
            self.tar.skip_content(|passed| {
                holes = holes.saturating_sub(passed);
                control.progress.bytes(passed);
                check(control.cancelled)
            })?;
            control.progress.bytes(holes);
            return Ok(Seen::Unhashed);
        }
        let has_holes = sparse.is_some();
        let map = sparse.unwrap_or_else(|| SparseMap::dense(metadata.size));
        if metadata.size <= SMALL && !has_holes {
            let mut data = vec![0u8; usize::try_from(metadata.size).unwrap_or(0)];
            self.tar.read_content(&mut data)?;
            self.control.progress.bytes(metadata.size);
            sink.small(SmallFile { section, path, metadata, data }, at_once)?;
            return Ok(Seen::InSink);
        }
        let Some(mut writer) = sink.large(section, path, metadata)? else {
            return self.hash_alone(&map).map(Seen::Digest);
        };
        let found = self.stream(&map, &mut *writer)?;
        writer.finish(metadata)?;
        Ok(Seen::Digest(found))
    }

    /// Reads a large file's data and writes them, hashing all of it in another thread.
    fn stream(
        &mut self,
        map: &SparseMap,
        writer: &mut (dyn ContentWriter + 'static),
    ) -> Result<Digest> {
        let cancelled = self.control.cancelled;
        hashing(|hashing| {
            let mut end = 0;
            for extent in map.extents() {
                self.hole(hashing, extent.start - end)?;
                let mut at = extent.start;
                while at < extent.end {
                    check(cancelled)?;
                    let wanted = usize::try_from(extent.end - at).unwrap_or(CHUNK).min(CHUNK);
                    let mut buffer = hashing.buffer(wanted);
                    self.tar.read_content(&mut buffer)?;
                    writer.write_at(&buffer, at)?;
                    at += wanted as u64;
                    self.control.progress.bytes(wanted as u64);
                    hashing.data(buffer)?;
                }
                end = extent.end;
            }
            self.hole(hashing, map.real_size() - end)
        })
        .map(|(digest, ())| digest)
    }

    /// Other threads open and decompress meanwhile; to hand the data to one more costs more than it
    /// spares.
    fn hash_alone(&mut self, map: &SparseMap) -> Result<Digest> {
        let control = self.control;
        let mut hasher = Sha256::new();
        let hole = |hasher: &mut Sha256, length: u64| {
            control.progress.bytes(length);
            hash_hole(hasher, length, || check(control.cancelled))
        };
        let mut buffer = vec![0; HASHED_AT_ONCE];
        let mut end = 0;
        for extent in map.extents() {
            hole(&mut hasher, extent.start - end)?;
            let mut left = extent.end - extent.start;
            while left > 0 {
                check(control.cancelled)?;
                let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
                self.tar.read_content(&mut buffer[..wanted])?;
                hasher.update(&buffer[..wanted]);
                left -= wanted as u64;
                control.progress.bytes(wanted as u64);
            }
            end = extent.end;
        }
        hole(&mut hasher, map.real_size() - end)?;
        Ok(Digest(hasher.finalize().into()))
    }

    fn hole(&self, hashing: &Hashing, length: u64) -> Result<()> {
        self.control.progress.bytes(length);
        hashing.zeros(length, || check(self.control.cancelled))
    }

    /// An index part: names every entry since the last one.
    fn part(&mut self, entry: &RawEntry, sink: &mut dyn Sink) -> Result<()> {
        if entry.name != part_name(self.parts.len()).as_bytes() {
            return Err(Error::malformed("the parts of its index are out of order"));
        }
        let bytes = read_own(&mut self.tar, entry, PART_LIMIT)?;
        self.hash.update(&bytes);
        let before = self.lines.count;
        for line in parse_part(&bytes) {
            let line = line?;
            self.lines.check(&line, self.metadata)?;
            if line.stored == Where::Here {
                let pending = self.pending.pop_front();
                check_line(&line, pending, sink)?;
            }
            sink.line(&line)?;
        }
        self.parts.push((bytes.len() as u64, self.lines.count - before));
        if self.pending.is_empty() {
            Ok(())
        } else {
            Err(Error::malformed("its index leaves an entry out"))
        }
    }

    fn finish(mut self, entry: &RawEntry, sink: &mut dyn Sink) -> Result<Passed> {
        let bytes = read_own(&mut self.tar, entry, METADATA_LIMIT)?;
        let index: ArchiveIndex = serde_json::from_slice(&bytes)
            .map_err(|error| Error::malformed(format!("its index cannot be read: {error}")))?;
        if self.tar.next_entry()?.is_some() {
            return Err(Error::malformed("something follows its index"));
        }
        if !self.pending.is_empty() {
            return Err(Error::malformed("its index leaves an entry out"));
        }
        let all = self.section.map_or(0, |section| section + 1) == self.metadata.sections.len();
        let hash = Digest(std::mem::take(&mut self.hash).finalize().into());
        let parts = index.parts.iter().map(|part| (part.bytes, part.entries));
        if !all
            || index.amount != self.amount
            || !parts.eq(self.parts.iter().copied())
            || index.sha256 != hash
            || index.metadata_sha256 != self.metadata_hash
        {
            return Err(Error::malformed("its index does not add up"));
        }
        self.leave_to(0, sink)?;
        Ok(Passed { amount: self.amount, entries: self.lines.count })
    }
}

fn check_target(metadata: &Metadata) -> Result<()> {
    let target = &metadata.target.0;
    let is_link = metadata.kind == EntryKind::Symlink;
    if is_link && (target.is_empty() || target.len() > TARGET_MAX || target.contains(&0)) {
        return Err(Error::malformed("it is a symlink with an impossible target"));
    }
    Ok(())
}

/// Enough of a digest to tell paths apart, in little memory.
fn short_hash(path: &TreePath) -> [u8; 16] {
    let digest: [u8; 32] = Sha256::digest(path.as_bytes()).into();
    *digest.first_chunk().expect("32 bytes")
}

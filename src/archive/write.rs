//! The second half of writing: frames what was gathered as a tar with its index, and compresses
//! it.

use std::io::Write;
use std::num::NonZeroUsize;
use std::sync::atomic::AtomicBool;

use crossbeam_channel::{Receiver, Sender};
use sha2::{Digest as _, Sha256};

use super::compress::{Compressor, Cut};
use super::error::{Error, Result};
use super::gather::{self, Batch, Content, Counted, Item, Noticed, OnChange, Section, Unchanged};
use super::hash::hash_hole;
use super::metadata::{
    Amount, ArchiveIndex, ArchiveMetadata, Description, INDEX_NAME, INDEX_PREFIX, IndexEntry,
    IndexPart, METADATA_NAME, PART_BYTES, SectionName, WRITTEN_ENTRIES, Where,
};
use super::pipe::Output;
use super::small::{self, Answer, Found};
use super::tar::{END, SparseMap, Stored, encode_header, padding};
use super::threads::{start_in, start_some};
use crate::format::archive::{ArchiveId, Compression, FOOTER_LEN, Footer};
use crate::tree::{
    self, ByteString, ContentReader, Digest, Entry, EntryKind, Metadata, Progress, Timestamp,
    TreePath,
};

/// Bytes read of a large file and hashed at once: they stay in the processor's cache.
const READ_AT_ONCE: usize = 256 * 1024;

/// How an archive is read back from its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadBack {
    /// Not at all.
    No,
    /// Every byte, whether it came back as it was made ([`super::ArchiveReader::verify_written`]), while
    /// it is being written: from what the kernel holds of the file. Afterwards, where that fails.
    Written,
    /// The SHA-256 of every file, too ([`super::ArchiveReader::verify`]), once all is durable: from the
    /// disk, where the filesystem lets go what the kernel holds of the file.
    Whole,
}

/// How an archive is written.
#[derive(Clone, Copy)]
pub struct WriteOptions<'a> {
    /// How it is compressed.
    pub compression: Compression,
    /// The level of the compression; by default what is usual for it.
    pub level: Option<i32>,
    /// About how much there is, where somebody counted it: else that is done first.
    pub expected: Option<Amount>,
    /// Threads that compress; by default as many as there are processors.
    pub threads: Option<NonZeroUsize>,
    /// What becomes of files that change meanwhile.
    pub on_change: OnChange,
    /// How it is read back; by default not at all.
    pub read_back: ReadBack,
    /// Set by somebody else to stop.
    pub cancelled: &'a AtomicBool,
    /// Told of bytes and entries.
    pub progress: &'a dyn Progress,
}

impl Default for WriteOptions<'_> {
    fn default() -> Self {
        static NEVER: AtomicBool = AtomicBool::new(false);
        Self {
            compression: Compression::default(),
            level: None,
            expected: None,
            threads: None,
            on_change: OnChange::default(),
            read_back: ReadBack::No,
            cancelled: &NEVER,
            progress: &(),
        }
    }
}

/// What was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// What the archive says of itself.
    pub metadata: ArchiveMetadata,
    /// What it holds, exactly.
    pub amount: Amount,
    /// Entries of the trees, with those that are stored elsewhere.
    pub entries: u64,
    /// What was noticed on the way.
    pub noticed: Noticed,
    /// Bytes of the file.
    pub file_len: u64,
    /// SHA-256 of the file.
    pub sha256: Digest,
}

/// Writes a whole archive to `output`.
pub(super) fn write(
    output: Output,
    sealed: bool,
    id: ArchiveId,
    description: &Description,
    sections: &[Section<'_>],
    unchanged: Option<&mut Unchanged<'_>>,
    options: &WriteOptions<'_>,
) -> Result<Written> {
    let (on_change, cancelled) = (options.on_change, options.cancelled);
    let available = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let threads = options.threads.unwrap_or(available);
    let (send_items, batches) = gather::channel();
    let (send_jobs, jobs) = gather::channel();
    let (give_back, spare) = gather::channel();
    std::thread::scope(|scope| {
        let read_small = || {
            let (jobs, spare) = (jobs.clone(), spare.clone());
            start_in(scope, move || {
                small::read_small(sections, on_change, cancelled, &jobs, &spare);
            })
        };
        read_small()?;
        let counted = match options.expected {
            Some(amount) => Counted::about(amount),
            None => gather::count(sections, on_change, cancelled)?,
        };
        let names = sections.iter().map(|section| section.name.clone()).collect();
        let metadata =
            ArchiveMetadata::new(id, description, options.compression, names, counted.limit);
        let walk = start_in(scope, || {
            let (items, jobs) = (send_items, send_jobs);
            gather::walk(sections, counted, unchanged, on_change, cancelled, &items, &jobs)
        })?;
        let output = Compressor::new(output, options.compression, options.level, threads)?;
        // More than one only where there are threads left by those that must be.
        let _ = start_some(available.get().clamp(2, 8) - 1, read_small);
        drop((jobs, spare));
        let mut writer = Writer {
            output,
            sections,
            options,
            created: description.created,
            amount: Amount::default(),
            entries: 0,
            limit: metadata.limit,
            part: Vec::new(),
            part_entries: 0,
            parts: Vec::new(),
            hash: Sha256::new(),
            noticed: Noticed::default(),
            give_back,
        };
        let written = writer.write_all(&metadata, &batches);
        // Lets the walk notice that nobody takes its entries any more.
        drop(batches);
        let walked = walk.join().map_err(|_| Error::Worker)?;
        written?;
        writer.finish(sealed, walked?, metadata)
    })
}

struct Writer<'a> {
    output: Compressor<Output>,
    sections: &'a [Section<'a>],
    options: &'a WriteOptions<'a>,
    created: Timestamp,
    amount: Amount,
    entries: u64,
    limit: Amount,
    /// Lines of the index since the last part.
    part: Vec<u8>,
    part_entries: u64,
    /// Where each part of the index is, its bytes and its lines.
    parts: Vec<(Cut, u64, u64)>,
    hash: Sha256,
    noticed: Noticed,
    /// For the buffers of small files, once they are written.
    give_back: Sender<Vec<u8>>,
}

impl Writer<'_> {
    fn write_all(&mut self, metadata: &ArchiveMetadata, batches: &Receiver<Batch>) -> Result<()> {
        self.own_entry(METADATA_NAME, &pretty(metadata)?)?;
        for Batch { items, found, .. } in batches {
            let is_small = |item: &Item| matches!(item.content, Content::Small);
            let Answer { found, data } = match items.iter().any(is_small) {
                true => found.recv().map_err(|_| Error::Worker)?,
                false => Answer::default(),
            };
            let mut found = found.into_iter();
            for item in items {
                gather::check(self.options.cancelled)?;
                self.item(item, &mut found, &data)?;
                if self.part_entries >= WRITTEN_ENTRIES || self.part.len() >= PART_BYTES {
                    self.end_part()?;
                }
            }
            self.output.collect_done().map_err(Error::from_io)?;
            if data.len() == small::BUFFER {
                // Nobody to take it back any more: then it goes.
                let _ = self.give_back.try_send(data);
            }
        }
        Ok(())
    }

    /// The rest of the index, and the end.
    fn finish(
        mut self,
        sealed: bool,
        walked: Noticed,
        metadata: ArchiveMetadata,
    ) -> Result<Written> {
        self.end_part()?;
        let index_at = self.output.cut().map_err(Error::from_io)?;
        let index_offset = self.offset(index_at)?;
        let sha256 = Digest(std::mem::take(&mut self.hash).finalize().into());
        let parts = std::mem::take(&mut self.parts)
            .into_iter()
            .map(|(cut, bytes, entries)| {
                Ok(IndexPart { offset: self.offset(cut)?, bytes, entries })
            })
            .collect::<Result<_>>()?;
        let metadata_sha256 = Digest(Sha256::digest(pretty(&metadata)?).into());
        let index = ArchiveIndex { amount: self.amount, parts, sha256, metadata_sha256 };
        self.own_entry(INDEX_NAME, &pretty(&index)?)?;
        self.put(&END)?;
        let end = self.output.cut().map_err(Error::from_io)?;
        let compressed_len = self.offset(end)?;
        let mut output = self.output.finish().map_err(Error::from_io)?;
        if sealed {
            let footer: [u8; FOOTER_LEN] = Footer { index_offset, compressed_len }.encode();
            output.write_all(&footer).map_err(Error::from_io)?;
        }
        let (file_len, sha256) = output.finish()?;
        let Noticed { unstable, mut vanished, .. } = self.noticed;
        vanished.extend(walked.vanished);
        let noticed = Noticed { unstable, vanished, ..walked };
        let (amount, entries) = (self.amount, self.entries);
        Ok(Written { metadata, amount, entries, noticed, file_len, sha256 })
    }

    fn offset(&mut self, cut: Cut) -> Result<u64> {
        self.output.offset(cut).map_err(Error::from_io)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.output.write_all(bytes).map_err(Error::from_io)
    }

    /// An entry that is ours, not the tree's.
    fn own_entry(&mut self, name: &str, content: &[u8]) -> Result<()> {
        let metadata = Metadata {
            kind: EntryKind::Regular,
            mode: 0o600,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            modified: self.created,
            accessed: self.created,
            size: content.len() as u64,
            rdev: 0,
            target: ByteString::default(),
            xattrs: Vec::new(),
        };
        self.put(&encode_header(name.as_bytes(), &metadata, &Stored::Content, 1))?;
        self.put(content)?;
        self.put(padding(metadata.size))
    }

    /// An entry; the next of what was found where it is small, its content in `data`.
    fn item(
        &mut self,
        item: Item,
        found: &mut impl Iterator<Item = Result<Found>>,
        data: &[u8],
    ) -> Result<()> {
        let Item { mut index, links, content } = item;
        match content {
            Content::Nothing => {
                let name = archive_name(&index.section, &index.entry.path);
                let target =
                    index.entry.link_to.as_ref().map(|first| archive_name(&index.section, first));
                let stored = match &target {
                    Some(target) => Stored::HardLink(target),
                    None => Stored::Nothing,
                };
                if index.stored == Where::Here {
                    self.put(&encode_header(&name, &index.entry.metadata, &stored, links))?;
                }
            }
            Content::Small => match found.next().ok_or(Error::Worker)?? {
                Found::Gone => return self.vanished(&index),
                Found::Large(entry) => {
                    let section = self.section(&index.section)?;
                    return self.large(index, links, section, *entry);
                }
                Found::Small(small) => {
                    refresh(&mut index, &small.entry);
                    index.entry.sha256 = Some(small.digest);
                    index.unstable = small.unstable;
                    let name = archive_name(&index.section, &index.entry.path);
                    let metadata = &small.entry.metadata;
                    self.put(&encode_header(&name, metadata, &Stored::Content, links))?;
                    self.put(data.get(small.content).ok_or(Error::Worker)?)?;
                    self.put(padding(metadata.size))?;
                    self.options.progress.bytes(metadata.size);
                    self.count_bytes(metadata.size)?;
                }
            },
            Content::Large { section, entry } => return self.large(index, links, section, *entry),
        }
        self.end_entry(index)
    }

    fn section(&self, name: &SectionName) -> Result<usize> {
        self.sections.iter().position(|section| section.name == *name).ok_or(Error::Worker)
    }

    fn large(
        &mut self,
        mut index: IndexEntry,
        links: u64,
        section: usize,
        entry: Entry,
    ) -> Result<()> {
        let reader = self.sections.get(section).ok_or(Error::Worker)?.reader;
        let opened = small::open(reader, entry, self.options.on_change)?;
        let Some((entry, content)) = opened else { return self.vanished(&index) };
        refresh(&mut index, &entry);
        self.count_bytes(entry.metadata.size)?;
        let map = sparse_map(&*content, &entry)?;
        let name = archive_name(&index.section, &index.entry.path);
        let stored = map.as_ref().map_or(Stored::Content, Stored::Sparse);
        self.put(&encode_header(&name, &entry.metadata, &stored, links))?;
        if let Some(map) = &map {
            self.put(&map.encode())?;
        }
        let dense = SparseMap::dense(entry.metadata.size);
        let (digest, short) = self.stream(&*content, map.as_ref().unwrap_or(&dense))?;
        let stored_len = map.as_ref().map_or(entry.metadata.size, SparseMap::data_len);
        self.put(padding(stored_len))?;
        index.entry.sha256 = Some(digest);
        index.unstable = match content.check_unchanged() {
            Ok(()) if short => {
                let size = entry.metadata.size;
                return Err(tree::Error::Short { size, end: 0 }.into());
            }
            Ok(()) => false,
            Err(tree::Error::Changed { .. }) if self.options.on_change == OnChange::Keep => true,
            Err(error) => return Err(error.into()),
        };
        self.end_entry(index)
    }

    /// Writes the data of a file and hashes all of it. What the file no longer has is zeros; then `true`
    /// comes with the digest.
    fn stream(&mut self, content: &dyn ContentReader, map: &SparseMap) -> Result<(Digest, bool)> {
        let (cancelled, progress) = (self.options.cancelled, self.options.progress);
        let mut hasher = Sha256::new();
        let hole = |hasher: &mut Sha256, length| {
            progress.bytes(length);
            hash_hole(hasher, length, || gather::check(cancelled))
        };
        let mut short = false;
        let mut end = 0;
        for extent in map.extents() {
            hole(&mut hasher, extent.start - end)?;
            let mut at = extent.start;
            while at < extent.end {
                gather::check(cancelled)?;
                let left = usize::try_from(extent.end - at).unwrap_or(usize::MAX);
                let room = self.output.room(left.min(READ_AT_ONCE));
                let count = content.read_at(room, at)?;
                if count < room.len() {
                    room[count..].fill(0);
                    short = true;
                    if self.options.on_change == OnChange::Fail {
                        content.check_unchanged()?;
                    }
                }
                hasher.update(&*room);
                let filled = room.len();
                self.output.advance(filled).map_err(Error::from_io)?;
                at += filled as u64;
                progress.bytes(filled as u64);
            }
            end = extent.end;
        }
        hole(&mut hasher, map.real_size() - end)?;
        Ok((Digest(hasher.finalize().into()), short))
    }

    fn vanished(&mut self, index: &IndexEntry) -> Result<()> {
        self.noticed.vanished.push((index.section.clone(), index.entry.path.clone()));
        Ok(())
    }

    fn count_bytes(&mut self, bytes: u64) -> Result<()> {
        self.amount.bytes = self.amount.bytes.saturating_add(bytes);
        if self.amount.bytes > self.limit.bytes {
            return Err(Error::TooLarge("the source grew by more than a quarter meanwhile"));
        }
        Ok(())
    }

    /// The entry's line in the index.
    fn end_entry(&mut self, index: IndexEntry) -> Result<()> {
        self.entries += 1;
        if self.entries > self.limit.entries {
            return Err(Error::TooLarge("the source grew by more than a quarter meanwhile"));
        }
        if index.stored == Where::Here {
            self.amount.entries += 1;
        }
        if index.unstable {
            self.noticed.unstable.push((index.section.clone(), index.entry.path.clone()));
        }
        serde_json::to_writer(&mut self.part, &index)
            .map_err(|error| Error::malformed(error.to_string()))?;
        self.part.push(b'\n');
        self.part_entries += 1;
        self.options.progress.entry(&index.entry.path);
        Ok(())
    }

    /// Writes an index part in a frame of its own.
    fn end_part(&mut self) -> Result<()> {
        if self.part.is_empty() {
            return Ok(());
        }
        let part = std::mem::take(&mut self.part);
        let cut = self.output.cut().map_err(Error::from_io)?;
        self.own_entry(&part_name(self.parts.len()), &part)?;
        self.output.cut().map_err(Error::from_io)?;
        self.hash.update(&part);
        let bytes = part.len() as u64;
        let entries = std::mem::take(&mut self.part_entries);
        self.parts.push((cut, bytes, entries));
        self.part = part;
        self.part.clear();
        Ok(())
    }
}

/// What a file is by the time it is read.
fn refresh(index: &mut IndexEntry, entry: &Entry) {
    debug_assert!(!entry.xattrs_unread, "{} was opened without its attributes", entry.path);
    index.entry.metadata = entry.metadata.clone();
    index.changed = entry.changed;
    index.inode = entry.inode;
}

/// Where a file has data, where that is less than all of it.
fn sparse_map(content: &dyn ContentReader, entry: &Entry) -> Result<Option<SparseMap>> {
    let size = entry.metadata.size;
    if entry.allocated >= size {
        return Ok(None);
    }
    let mut map = SparseMap::new(size);
    let mut offset = 0;
    while let Some(extent) = content.next_data(offset)? {
        let (start, end) = (extent.start.max(offset), extent.end.min(size));
        if start >= end {
            break;
        }
        offset = end;
        map.push(start..end);
    }
    Ok(Some(map).filter(|map| !map.is_dense()))
}

/// An entry's name in the tar.
pub(super) fn archive_name(section: &SectionName, path: &TreePath) -> Vec<u8> {
    let mut name = section.as_str().as_bytes().to_vec();
    if !path.is_root() {
        name.push(b'/');
        name.extend_from_slice(path.as_bytes());
    }
    name
}

/// The name of an index part.
pub(super) fn part_name(number: usize) -> String {
    format!("{INDEX_PREFIX}{number:08}.jsonl")
}

fn pretty(value: &impl serde::Serialize) -> Result<Vec<u8>> {
    let mut bytes =
        serde_json::to_vec_pretty(value).map_err(|error| Error::malformed(error.to_string()))?;
    bytes.push(b'\n');
    Ok(bytes)
}

//! After an unclean end: reading the journal and writing in place what it holds. The time that
//! takes grows with the journal, which is bounded, not with the vault.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;

use super::below::{keep_modified, punch};
use super::codecs::Codecs;
use super::error::Result;
use super::journal::SEGMENT_NAMES;
use super::opening::open_against_mode;
use crate::backing::{Access, Directory, File, SetTime, Timestamp};
use crate::format::header::{FileId, HEADER_LEN};
use crate::format::journal::{
    BLOCKS_PREFIX_LEN, FIRST_RECORD, JournalCodec, Place, RECORD_HEADER_LEN, RECORD_OVERHEAD,
    Record, SEGMENT_HEADER_LEN, SegmentHeader, sealed_plain_len, split_blocks,
};
use crate::format::layout::{BlockIndex, cipher_size};

/// What recovery found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Whether there was a journal.
    pub(super) found: bool,
    /// Whether the last mount ended uncleanly.
    pub unclean: bool,
    /// From when on (seconds since 1970) changes may not be durable.
    pub since: Option<i64>,
    /// Files of which blocks were written in place.
    pub files: usize,
    /// Blocks written in place.
    pub blocks: usize,
    /// Files of the journal that are no longer there (deleted, or truncated and written anew).
    pub gone: usize,
}

/// Where the journal holds a block's newest version.
struct Change {
    segment: usize,
    offset: u64,
    len: usize,
}

#[derive(Default)]
struct Pending {
    paths: Vec<Vec<u8>>,
    blocks: BTreeMap<u64, Change>,
    /// Ranges of blocks to be made holes before the blocks are written.
    punched: Vec<(u64, u64)>,
    /// The lowest size that a record set, and the size after all of them; plain.
    sizes: Option<(u64, u64)>,
    /// The end of the furthest block recorded, though a hole may have taken its place; plain.
    end: u64,
    /// When the content was last changed, where a record tells.
    modified: Option<Timestamp>,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.blocks.is_empty()
            && self.punched.is_empty()
            && self.sizes.is_none()
            && self.modified.is_none()
    }
}

struct Reading {
    clean: bool,
    durable_until: Option<i64>,
    retired: Vec<u64>,
    files: HashMap<FileId, Pending>,
}

/// Recovers what lies in the journal of the vault directory, and removes the journal.
///
/// # Errors
/// When the filesystem below fails; nothing is lost then, and recovery can run again.
pub(super) fn recover(
    vault: &dyn Directory,
    tree: &dyn Directory,
    codecs: &Codecs,
) -> Result<Recovered> {
    let codec = JournalCodec::new(&codecs.journal);
    let Some(segments) = open_segments(vault, &codec, Access::ReadWrite)? else {
        return Ok(Recovered::default());
    };
    let reading = read_segments(&codec, &segments)?;
    let mut recovered = Recovered {
        found: true,
        unclean: !reading.clean,
        since: reading.durable_until,
        ..Recovered::default()
    };
    if !reading.clean {
        let mut touched = Vec::new();
        for (file_id, pending) in reading.files {
            if pending.is_empty() {
                continue;
            }
            match find(tree, codecs, file_id, &pending.paths)? {
                Some(file) => {
                    recovered.blocks += replay(&*file, &pending, &segments)?;
                    recovered.files += 1;
                    touched.push((file, pending.modified.is_some()));
                }
                None => recovered.gone += 1,
            }
        }
        for (file, modified) in touched {
            if modified { file.sync_all() } else { file.sync_data() }?;
        }
    }
    Ok(recovered)
}

/// Blocks that recovery writes, and ranges of blocks of which it makes holes.
type Covered = (BTreeSet<u64>, Vec<(u64, u64)>);

/// What the journal of an unmounted vault holds, without changing anything.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// Whether the last mount ended uncleanly.
    pub(crate) unclean: bool,
    /// From when on (seconds since 1970) changes may not be durable.
    pub(crate) since: Option<i64>,
    pending: HashMap<FileId, Covered>,
}

impl Survey {
    /// Reads the journal.
    ///
    /// # Errors
    /// When the filesystem below fails.
    pub(crate) fn new(vault: &dyn Directory, codecs: &Codecs) -> Result<Self> {
        let codec = JournalCodec::new(&codecs.journal);
        let Some(segments) = open_segments(vault, &codec, Access::Read)? else {
            return Ok(Self::default());
        };
        let reading = read_segments(&codec, &segments)?;
        let mut survey =
            Self { unclean: !reading.clean, since: reading.durable_until, pending: HashMap::new() };
        if survey.unclean {
            survey.pending = reading
                .files
                .into_iter()
                .filter(|(_, pending)| !pending.blocks.is_empty() || !pending.punched.is_empty())
                .map(|(id, pending)| (id, (pending.blocks.into_keys().collect(), pending.punched)))
                .collect();
        }
        Ok(survey)
    }

    /// Whether recovery will change this file.
    pub(crate) fn concerns(&self, file: FileId) -> bool {
        self.pending.contains_key(&file)
    }

    /// Whether recovery will write this block or make a hole of it.
    pub(crate) fn covers(&self, file: FileId, block: BlockIndex) -> bool {
        self.pending.get(&file).is_some_and(|(blocks, punched)| {
            blocks.contains(&block.0)
                || punched.iter().any(|(first, after)| (*first..*after).contains(&block.0))
        })
    }
}

type Segments = Vec<(SegmentHeader, Box<dyn File>)>;
/// A segment whose header may not be authentic.
type AnySegment = (Option<SegmentHeader>, Box<dyn File>);

/// The segments with authentic headers, the oldest first; `None` where there is no journal.
fn open_segments(
    vault: &dyn Directory,
    codec: &JournalCodec,
    access: Access,
) -> Result<Option<Segments>> {
    let mut segments = Vec::new();
    let mut present = false;
    for name in SEGMENT_NAMES {
        if let Some((header, file)) = open_segment(vault, codec, name, access)? {
            present = true;
            segments.extend(header.map(|header| (header, file)));
        }
    }
    segments.sort_by_key(|(header, _)| header.generation);
    Ok(present.then_some(segments))
}

/// A segment, where it is there, and its header, where that is authentic.
fn open_segment(
    vault: &dyn Directory,
    codec: &JournalCodec,
    name: &[u8],
    access: Access,
) -> io::Result<Option<AnySegment>> {
    let file = match vault.open_file(name, access) {
        Ok(file) => file,
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = [0u8; SEGMENT_HEADER_LEN];
    let whole = file.read_at(&mut bytes, 0)? == SEGMENT_HEADER_LEN;
    Ok(Some((whole.then(|| codec.decode_header(&bytes)).flatten(), file)))
}

/// Removes the journal, once everything in it is in place and what must be known of the unclean
/// end is noted.
pub(super) fn remove_journal(vault: &dyn Directory, codecs: &Codecs) -> io::Result<()> {
    let codec = JournalCodec::new(&codecs.journal);
    let mut names = Vec::new();
    for name in SEGMENT_NAMES {
        if let Some((header, _)) = open_segment(vault, &codec, name, Access::Read)? {
            names.push((header.map(|header| header.generation), name));
        }
    }
    names.sort_unstable();
    remove_segments(vault, names.into_iter().map(|(_, name)| name))
}

/// Removes segments, the oldest first: without the newer one, whose records retire and replace
/// its own, what an older one holds would be taken for the newest.
pub(super) fn remove_segments(
    vault: &dyn Directory,
    oldest_first: impl IntoIterator<Item = &'static [u8]>,
) -> io::Result<()> {
    for name in oldest_first {
        vault.unlink(name)?;
        vault.sync()?;
    }
    Ok(())
}

fn read_segments(
    codec: &JournalCodec,
    segments: &[(SegmentHeader, Box<dyn File>)],
) -> Result<Reading> {
    let mut reading =
        Reading { clean: false, durable_until: None, retired: Vec::new(), files: HashMap::new() };
    // What a newer segment retires must not be read from the older: so the newer first.
    for (header, file) in segments.iter().rev() {
        let mut retired = Vec::new();
        each_record(codec, header, &**file, &mut |record, _| match record {
            Record::Retire { generation } => retired.push(generation),
            Record::Clean => reading.clean = true,
            _ => {}
        })?;
        reading.retired.extend(retired);
        let until = Some(header.durable_until.0);
        reading.durable_until = reading.durable_until.max(until);
    }
    let mut expected = None;
    for (index, (header, file)) in segments.iter().enumerate() {
        if reading.retired.contains(&header.generation) {
            continue;
        }
        // A gap between the segments: what follows it was never promised.
        if expected.is_some_and(|(session, next)| {
            session == header.session && next != header.first_sequence
        }) {
            break;
        }
        let mut locals: HashMap<u32, FileId> = HashMap::new();
        let next = each_record(codec, header, &**file, &mut |record, offset| {
            reading.take(&mut locals, index, record, offset);
        })?;
        expected = Some((header.session, next));
    }
    Ok(reading)
}

impl Reading {
    fn take(
        &mut self,
        locals: &mut HashMap<u32, FileId>,
        segment: usize,
        record: Record,
        offset: u64,
    ) {
        match record {
            Record::File { local, file_id, path } => {
                locals.insert(local, file_id);
                self.files.entry(file_id).or_default().paths.push(path);
            }
            Record::Blocks { local, first, sealed } => {
                let Some(pending) = locals.get(&local).and_then(|id| self.files.get_mut(id)) else {
                    return;
                };
                let mut at =
                    offset + u64::try_from(RECORD_HEADER_LEN + BLOCKS_PREFIX_LEN).expect("small");
                for (index, block) in split_blocks(first, &sealed) {
                    pending
                        .blocks
                        .insert(index.0, Change { segment, offset: at, len: block.len() });
                    let len = u64::try_from(sealed_plain_len(block)).expect("a block");
                    pending.end = pending.end.max(index.plain_offset() + len);
                    if let Some((_, size)) = &mut pending.sizes {
                        *size = (*size).max(pending.end);
                    }
                    at += u64::try_from(block.len()).expect("a block");
                }
            }
            Record::Resize { local, size, tail } => {
                let Some(pending) = locals.get(&local).and_then(|id| self.files.get_mut(id)) else {
                    return;
                };
                let after = BlockIndex::count(size).0;
                drop(pending.blocks.split_off(&after));
                pending.punched.retain_mut(|(first, end)| {
                    *end = (*end).min(after);
                    first < end
                });
                let lowest = pending.sizes.map_or(size, |(lowest, _)| lowest.min(size));
                pending.sizes = Some((lowest, size));
                pending.end = pending.end.min(size);
                if !tail.is_empty() {
                    let offset = offset
                        + u64::try_from(RECORD_HEADER_LEN + BLOCKS_PREFIX_LEN).expect("small");
                    pending.blocks.insert(after - 1, Change { segment, offset, len: tail.len() });
                }
            }
            Record::Punch { local, first, count } => {
                let Some(pending) = locals.get(&local).and_then(|id| self.files.get_mut(id)) else {
                    return;
                };
                let after = first.0.saturating_add(count);
                let mut rest = pending.blocks.split_off(&first.0);
                let mut beyond = rest.split_off(&after);
                pending.blocks.append(&mut beyond);
                pending.punched.push((first.0, after));
            }
            Record::Modified { local, seconds, nanoseconds } => {
                if let Some(pending) = locals.get(&local).and_then(|id| self.files.get_mut(id)) {
                    pending.modified = Some(Timestamp { seconds, nanoseconds });
                }
            }
            Record::DurableUntil { seconds, .. } => {
                self.durable_until = self.durable_until.max(Some(seconds));
            }
            Record::Retire { .. } | Record::Clean => {}
        }
    }
}

/// Calls `sink` with each record and its offset; the sequence number after the last.
fn each_record(
    codec: &JournalCodec,
    header: &SegmentHeader,
    file: &dyn File,
    sink: &mut dyn FnMut(Record, u64),
) -> Result<u64> {
    let size = file.stat()?.size;
    let mut place = Place {
        session: header.session,
        generation: header.generation,
        offset: FIRST_RECORD,
        sequence: header.first_sequence,
    };
    let mut bytes = Vec::new();
    loop {
        let mut head = [0u8; RECORD_HEADER_LEN];
        if place.offset >= size || file.read_at(&mut head, place.offset)? < RECORD_HEADER_LEN {
            break;
        }
        let Some(len) = JournalCodec::announced_len(&head) else { break };
        bytes.resize(len + RECORD_OVERHEAD, 0);
        if file.read_at(&mut bytes, place.offset)? < bytes.len() {
            break;
        }
        let Some(record) = codec.decode(&place, &bytes) else { break };
        sink(record, place.offset);
        place.offset += u64::try_from(bytes.len()).expect("bounded");
        place.sequence += 1;
    }
    Ok(place.sequence)
}

/// The file with this ID at one of its paths.
fn find(
    tree: &dyn Directory,
    codecs: &Codecs,
    id: FileId,
    paths: &[Vec<u8>],
) -> Result<Option<Box<dyn File>>> {
    for path in paths.iter().rev() {
        let Some(file) = open_path(tree, path)? else { continue };
        let mut header = [0u8; HEADER_LEN];
        if file.read_at(&mut header, 0)? == HEADER_LEN && codecs.headers.decode(&header) == Ok(id) {
            return Ok(Some(file));
        }
    }
    Ok(None)
}

fn open_path(tree: &dyn Directory, path: &[u8]) -> Result<Option<Box<dyn File>>> {
    let mut components: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    if components.iter().any(|name| name.is_empty() || *name == b"." || *name == b"..") {
        return Ok(None);
    }
    let Some(entry) = components.pop() else { return Ok(None) };
    let mut opened: Option<Box<dyn Directory>> = None;
    for name in components {
        let next = opened.as_deref().unwrap_or(tree).open_directory(name);
        match gone_is_none(next)? {
            Some(directory) => opened = Some(directory),
            None => return Ok(None),
        }
    }
    let directory = opened.as_deref().unwrap_or(tree);
    match directory.open_file(entry, Access::ReadWrite) {
        Err(error) if error.raw_os_error() == Some(libc::EACCES) => {
            Ok(Some(open_against_mode(directory, entry, Access::ReadWrite)?))
        }
        outcome => gone_is_none(outcome),
    }
}

fn gone_is_none<T>(outcome: io::Result<T>) -> Result<Option<T>> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP | libc::EISDIR | libc::ENXIO) => {
                Ok(None)
            }
            _ => Err(error.into()),
        },
    }
}

fn replay(
    file: &dyn File,
    pending: &Pending,
    segments: &[(SegmentHeader, Box<dyn File>)],
) -> Result<usize> {
    let stat = file.stat()?;
    if let Some((lowest, _)) = pending.sizes
        && stat.size > cipher_size(lowest)
    {
        file.set_len(cipher_size(lowest))?;
    }
    for (first, after) in &pending.punched {
        let from = BlockIndex(*first).cipher_offset();
        punch(file, from, BlockIndex(*after).cipher_offset() - from)?;
    }
    for (index, Change { segment, offset, len }) in &pending.blocks {
        let mut sealed = vec![0; *len];
        segments[*segment].1.read_at(&mut sealed, *offset)?;
        file.write_at(&sealed, BlockIndex(*index).cipher_offset())?;
    }
    match pending.sizes {
        Some((_, size)) => file.set_len(cipher_size(size))?,
        None if file.stat()?.size < cipher_size(pending.end) => {
            file.set_len(cipher_size(pending.end))?;
        }
        None => {}
    }
    let modified = pending.modified.unwrap_or(stat.modified);
    keep_modified(file, SetTime::At(modified))?;
    Ok(pending.blocks.len())
}

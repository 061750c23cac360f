//! Writing: which blocks go in place and which through the journal, and in what order.
//!
//! - A block that is durable, or of which the journal has a record, goes through the journal.
//! - A fresh block goes in place: no power cut can take from it what was never promised. But not
//!   while the durable block before the fresh ones is still shorter on disk than a full one: bytes
//!   after it would make it unreadable. Its extension must be durable in the journal first; few
//!   fresh bytes join it there, many wait for one sync.
//! - Small appends to a file that is synced often join the journal too: one sync of preallocated
//!   space serves them, where the file itself would need its size committed as well.

use std::io;
use std::sync::Arc;

use super::below::keep_modified;
use super::content::{Content, FileKeyed, LiveBlock, OpenFile, to_u64};
use super::core::Core;
use super::error::{Error, Result};
use super::inode::{DATA_DIRTY, Inode, ROOM_DIRTY, ROOM_TOLD};
use super::journal::{AppendError, BlockPlace, FileRecord, RecordOwner};
use super::mending::{mend_holes, mend_tail};
use super::opening::Permission;
use super::sealing::Sealing;
use crate::backing::SetTime;
use crate::format::header::{FileId, HEADER_LEN};
use crate::format::journal::split_blocks;
use crate::format::layout::{
    BLOCK_SIZE, BlockIndex, CIPHER_BLOCK_SIZE, MAX_PLAIN_SIZE, cipher_size,
};

/// Fresh bytes that join a tail's extension in the journal instead of waiting for it.
const JOIN_TAIL: u64 = 64 << 10;
/// Bytes written since the last sync up to which a file counts as synced often.
const JOIN_SYNCED: u64 = 256 << 10;
/// Bytes of a write that have room in the smallest journal.
const ALWAYS_WHOLE: usize = 128 << 10;
/// Blocks that one run in place may have.
const RUN_BLOCKS: u64 = 512;

const BLOCK: u64 = BLOCK_SIZE as u64;

/// Why an operation on a file's content stopped.
pub(super) enum Stop {
    /// The journal has no room: give up the content lock, wait, begin again.
    Full,
    /// It failed.
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.into())
    }
}

impl From<AppendError> for Stop {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Full => Self::Full,
            AppendError::Failed(error) => Self::Failed(error.into()),
        }
    }
}

/// Where a run of blocks goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    InPlace,
    Journal,
}

/// A run of blocks with one route, in a file that will have this size.
#[derive(Clone, Copy)]
pub(super) struct Run {
    pub(super) route: Route,
    pub(super) first: BlockIndex,
    pub(super) after: BlockIndex,
    pub(super) new_size: u64,
}

impl Core {
    /// Runs an operation under the file's content lock, again from the start whenever the journal
    /// had no room.
    pub(super) fn with_content<T>(
        &self,
        file: &OpenFile,
        mut run: impl FnMut(&mut Content) -> Result<T, Stop>,
    ) -> Result<T> {
        loop {
            let outcome = {
                let _paths = self.paths.read();
                run(&mut file.content.write())
            };
            match outcome {
                Ok(value) => return Ok(value),
                Err(Stop::Failed(error)) => return Err(error),
                Err(Stop::Full) => {
                    if let Some(journal) = self.journal() {
                        journal.wait_for_room()?;
                    }
                }
            }
        }
    }

    /// Writes all of `data`; whether the file may take other room below than was told.
    pub(super) fn write(&self, inode: &Arc<Inode>, offset: u64, data: &[u8]) -> Result<bool> {
        self.check_writable()?;
        offset
            .checked_add(to_u64(data.len()))
            .filter(|end| *end <= MAX_PLAIN_SIZE)
            .ok_or(Error::TooLarge)?;
        if data.is_empty() {
            return Ok(false);
        }
        let file = self.held_content(inode)?;
        let mut takes_room = false;
        let mut offset = offset;
        for data in data.chunks(self.journal_part(data.len())) {
            let end = offset + to_u64(data.len());
            let (first, after) = (BlockIndex::containing(offset), BlockIndex::count(end));
            let mut sealing = Sealing::new(first);
            sealing.seal_ahead(&file, offset, data);
            self.with_content(&file, |content| {
                takes_room |= (content.sparse || end > content.placed)
                    && !content.all_in_journal(first, after);
                let outcome = self.write_sealing(inode, content, offset, data, &mut sealing);
                file.note_key(content);
                outcome
            })?;
            offset = end;
        }
        Ok(takes_room && inode.clear_flag(ROOM_TOLD))
    }

    /// What of a write of so many bytes may be done at once: it begins again where the journal is
    /// full, so all of it must have room in an empty one.
    fn journal_part(&self, len: usize) -> usize {
        if len <= ALWAYS_WHOLE {
            return len;
        }
        match self.journal() {
            Some(journal) => journal.run_limit().max(ALWAYS_WHOLE),
            // It may yet be made, and then a small one.
            None if self.options.journal => ALWAYS_WHOLE,
            None => len,
        }
    }

    pub(super) fn write_content(
        &self,
        inode: &Arc<Inode>,
        content: &mut Content,
        offset: u64,
        data: &[u8],
    ) -> Result<(), Stop> {
        let mut sealing = Sealing::new(BlockIndex::containing(offset));
        self.write_sealing(inode, content, offset, data, &mut sealing)
    }

    fn write_sealing(
        &self,
        inode: &Arc<Inode>,
        content: &mut Content,
        offset: u64,
        data: &[u8],
        sealing: &mut Sealing,
    ) -> Result<(), Stop> {
        let before = content.size;
        let outcome = self.write_blocks(inode, content, offset, data, sealing);
        if matches!(outcome, Err(Stop::Failed(_))) && (before + 1..=offset).contains(&content.size)
        {
            // Of what was to be written, nothing is there but the gap before it.
            self.shrink_back(inode, content, before);
        }
        outcome
    }

    fn write_blocks(
        &self,
        inode: &Arc<Inode>,
        content: &mut Content,
        offset: u64,
        data: &[u8],
        sealing: &mut Sealing,
    ) -> Result<(), Stop> {
        self.writable(inode, content, Permission::Held)?;
        self.ensure_keyed(content);
        let end = offset + to_u64(data.len());
        let new_size = content.size.max(end);
        let first = BlockIndex::containing(offset);
        let after = BlockIndex::count(end);

        // A gap between the old end and the write: the old last block becomes a full one.
        let tail = BlockIndex::containing(content.size);
        if offset > content.size {
            content.sparse = true;
            if !content.size.is_multiple_of(BLOCK) && tail < first {
                self.extend_tail(inode, content, tail.next().plain_offset())?;
            }
        }
        let join = self.joins_journal(content, first, after, new_size);
        let mut at = first;
        while at < after {
            let route = self.route(content, at, join)?;
            let limit = match route {
                Route::InPlace => RUN_BLOCKS,
                Route::Journal => self.journal_run_blocks(),
            };
            let mut run_after = at.next();
            while run_after < after
                && run_after.0 < at.0 + limit
                && self.route(content, run_after, join)? == route
            {
                run_after = run_after.next();
            }
            let run = Run { route, first: at, after: run_after, new_size };
            self.write_run(inode, content, run, offset, data, sealing)?;
            // What is written is there, also if the rest fails.
            content.size = content.size.max(run_after.plain_offset().min(end));
            at = run_after;
        }
        content.written_since_sync = content.written_since_sync.saturating_add(to_u64(data.len()));
        Ok(())
    }

    /// The route of a block.
    pub(super) fn route(&self, content: &Content, block: BlockIndex, join: bool) -> Result<Route> {
        if !self.options.journal {
            return Ok(Route::InPlace);
        }
        if !join && !content.must_journal(block) {
            return Ok(Route::InPlace);
        }
        if self.journal().is_none() {
            // The disk had no room for a journal; perhaps it has now.
            self.create_journal()?;
        }
        if self.journal().is_none() {
            // What is durable can't be replaced safely.
            return Err(Error::Backing(io::Error::from_raw_os_error(libc::ENOSPC)));
        }
        Ok(Route::Journal)
    }

    fn journal_run_blocks(&self) -> u64 {
        let bytes = self.journal().map_or(0, |journal| journal.run_limit());
        to_u64(bytes / CIPHER_BLOCK_SIZE).max(1)
    }

    /// Whether the fresh blocks of a write join the journal.
    fn joins_journal(
        &self,
        content: &Content,
        first: BlockIndex,
        after: BlockIndex,
        new_size: u64,
    ) -> bool {
        let Some(journal) = self.journal() else { return false };
        let fresh =
            after.0.saturating_sub(BlockIndex::count(content.durable).0.max(first.0)) * BLOCK;
        if fresh == 0 || content.orphan {
            return false;
        }
        let durable_tail = BlockIndex::containing(content.durable);
        let tail_is_short = !content.durable.is_multiple_of(BLOCK)
            && new_size > durable_tail.next().plain_offset()
            && !content.live.get(&durable_tail.0).is_some_and(LiveBlock::is_full);
        let tail_waits = tail_is_short
            || content.tail_sequence.is_some_and(|sequence| sequence > journal.durable_sequence());
        let synced_often = content.syncs >= 2 && content.written_since_sync + fresh <= JOIN_SYNCED;
        synced_often || (tail_waits && fresh <= JOIN_TAIL)
    }

    /// Makes the last block longer, with zeros, up to `new_size`, which is within that block.
    pub(super) fn extend_tail(
        &self,
        inode: &Arc<Inode>,
        content: &mut Content,
        new_size: u64,
    ) -> Result<(), Stop> {
        let tail = BlockIndex::containing(content.size);
        let route = self.route(content, tail, false)?;
        let offset = content.size;
        let zeros = vec![0; offset_in(new_size, offset)];
        self.write_run(
            inode,
            content,
            Run { route, first: tail, after: tail.next(), new_size },
            offset,
            &zeros,
            &mut Sealing::new(tail),
        )?;
        content.size = new_size;
        Ok(())
    }

    /// Seals the blocks of a run, with `data` at `offset` over what they hold, and writes them.
    pub(super) fn write_run(
        &self,
        inode: &Arc<Inode>,
        content: &mut Content,
        run: Run,
        offset: u64,
        data: &[u8],
        sealing: &mut Sealing,
    ) -> Result<(), Stop> {
        let keyed = content.keyed.clone().ok_or(Error::Damaged { what: "a file header" })?;
        let len = self.seal_run(content, &keyed, run, offset, data, sealing)?;
        let buffer = sealing.run(run, len);
        match run.route {
            Route::InPlace => self.place(inode, content, &keyed, run, buffer),
            Route::Journal => {
                self.journal_blocks(inode, content, &keyed, run.first, &buffer[HEADER_LEN..])
            }
        }
    }

    /// Writes sealed blocks in place; `buffer` has room for a header before them.
    fn place(
        &self,
        inode: &Arc<Inode>,
        content: &mut Content,
        keyed: &FileKeyed,
        run: Run,
        buffer: &mut [u8],
    ) -> Result<(), Stop> {
        if let (Some(sequence), Some(journal)) = (content.tail_sequence, self.journal()) {
            journal.commit(sequence)?;
            content.tail_sequence = None;
        }
        self.mark_dirty(inode);
        let written = if content.header_pending && run.first.0 == 0 {
            buffer[..HEADER_LEN].copy_from_slice(&self.codecs.headers.encode(keyed.id));
            content.handle.write_at(buffer, 0)
        } else {
            self.write_header(content, keyed)?;
            content.handle.write_at(&buffer[HEADER_LEN..], run.first.cipher_offset())
        };
        let written = written.and_then(|()| match content.modified {
            Some(modified) => keep_modified(&*content.handle, SetTime::At(modified)),
            None => Ok(()),
        });
        if let Err(error) = written {
            // Part of a block past the end would count into the size. A header that is written
            // stays: it will not be written again.
            if run.after.plain_offset() > content.placed {
                let header = if content.header_pending { 0 } else { HEADER_LEN };
                let end = cipher_size(content.placed).max(to_u64(header));
                let _ = content.handle.set_len(end);
            }
            mend_holes(content, run, &buffer[HEADER_LEN..]);
            mend_tail(content, keyed, run, &buffer[HEADER_LEN..]);
            return Err(error.into());
        }
        content.header_pending = false;
        content.placed = content.placed.max(run.after.plain_offset().min(run.new_size));
        if content.orphan {
            for index in run.first.0..run.after.0 {
                content.live.remove(&index);
            }
        }
        Ok(())
    }

    /// Appends sealed blocks to the journal and notes where they are.
    pub(super) fn journal_blocks(
        &self,
        inode: &Arc<Inode>,
        content: &mut Content,
        keyed: &FileKeyed,
        first: BlockIndex,
        sealed: &[u8],
    ) -> Result<(), Stop> {
        let journal = self.journal().ok_or(Error::Damaged { what: "the journal" })?;
        if content.header_pending {
            self.mark_dirty(inode);
            self.write_header(content, keyed)?;
        }
        if reserve_space(content, first, sealed.len())? {
            inode.set_flag(ROOM_DIRTY);
        }
        if !self.options.kernel_keeps_times {
            // The file itself is not touched until the blocks are written in place.
            keep_modified(&*content.handle, SetTime::Now)?;
        }
        let owner = RecordOwner { inode, file_id: keyed.id, reference: &mut content.reference };
        let record = FileRecord::Blocks { first, sealed };
        let appended = journal.append(owner, &record, || self.journal_path(inode))?;
        self.list_for_commit(inode);
        content.sequence = appended.sequence;
        let mut offset = appended.payload;
        let durable_tail = BlockIndex::containing(content.durable);
        for (index, block) in split_blocks(first, sealed) {
            let place = BlockPlace { generation: appended.generation, offset, len: block.len() };
            let live = LiveBlock { place, applied: false };
            if index == durable_tail && !content.durable.is_multiple_of(BLOCK) {
                content.tail_sequence = Some(appended.sequence);
            }
            content.live.insert(index.0, live);
            offset += to_u64(block.len());
        }
        Ok(())
    }

    /// Gives a file without content its identity; the header is written with the first block.
    pub(super) fn ensure_keyed(&self, content: &mut Content) {
        if content.keyed.is_none() {
            content.keyed = Some(self.key_file(FileId::random()));
            content.header_pending = true;
        }
    }

    /// Writes the header where that is still to be done.
    pub(super) fn write_header(&self, content: &mut Content, keyed: &FileKeyed) -> io::Result<()> {
        if content.header_pending {
            content.handle.write_at(&self.codecs.headers.encode(keyed.id), 0)?;
            content.header_pending = false;
        }
        Ok(())
    }

    /// Notes that the file was written in place.
    pub(super) fn mark_dirty(&self, inode: &Arc<Inode>) {
        inode.set_flag(DATA_DIRTY);
        self.list_for_commit(inode);
    }
}

/// Reserves the room that blocks will need when they are written in place, so that what the journal
/// promised can't fail for a full disk; whether any was reserved.
fn reserve_space(content: &Content, first: BlockIndex, len: usize) -> io::Result<bool> {
    let end = first.cipher_offset() + to_u64(len);
    let after = BlockIndex(first.0 + to_u64(len.div_ceil(CIPHER_BLOCK_SIZE)));
    let in_place = end <= cipher_size(content.placed) && !content.sparse;
    if in_place || content.all_in_journal(first, after) {
        return Ok(false);
    }
    match content.handle.allocate(first.cipher_offset(), to_u64(len)) {
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::EOPNOTSUPP | libc::EINVAL | libc::ENOSYS)
            ) =>
        {
            Ok(false)
        }
        outcome => outcome.map(|()| true),
    }
}

pub(super) fn offset_in(offset: u64, base: u64) -> usize {
    usize::try_from(offset - base).expect("within the data")
}

//! Changing a file's size and its holes: truncate and fallocate.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::below::{self, keep_modified};
use super::content::{Content, FileKeyed, LiveBlock};
use super::core::Core;
use super::error::{Error, Result};
use super::inode::Inode;
use super::journal::{BlockPlace, FileRecord, FileReference, RecordOwner};
use super::opening::Permission;
use super::types::FallocateMode;
use super::write::{Route, Stop};
use crate::backing::SetTime;
use crate::format::layout::{BLOCK_OVERHEAD, BLOCK_SIZE, BlockIndex, MAX_PLAIN_SIZE, cipher_size};

const BLOCK: u64 = BLOCK_SIZE as u64;

impl Core {
    /// `ftruncate(2)`.
    pub(super) fn truncate(&self, inode: &Arc<Inode>, size: u64) -> Result<()> {
        self.check_writable()?;
        if size > MAX_PLAIN_SIZE {
            return Err(Error::TooLarge);
        }
        let held = inode.opens.load(Ordering::Relaxed) > 0;
        let permission = if held { Permission::Held } else { Permission::Mode };
        let file = self.open_content_by(inode, permission)?;
        self.with_content(&file, |content| {
            self.writable(inode, content, permission)?;
            self.resize(inode, content, size)?;
            self.touch(content)
        })
    }

    /// Sets the times that a change of content sets, where the transport does not.
    fn touch(&self, content: &Content) -> Result<(), Stop> {
        if !self.options.kernel_keeps_times {
            keep_modified(&*content.handle, SetTime::Now)?;
        }
        Ok(())
    }

    fn resize(&self, inode: &Arc<Inode>, content: &mut Content, size: u64) -> Result<(), Stop> {
        if size == 0 {
            self.empty(inode, content)
        } else if size < content.size {
            self.shrink(inode, content, size)
        } else if size > content.size {
            self.grow(inode, content, size)
        } else {
            Ok(())
        }
    }

    /// Truncates to nothing. Records of the old content name the old file ID, so they are void.
    fn empty(&self, inode: &Arc<Inode>, content: &mut Content) -> Result<(), Stop> {
        if content.size == 0 && content.keyed.is_none() {
            return Ok(());
        }
        self.mark_dirty(inode);
        content.handle.set_len(0)?;
        content.keyed = None;
        content.header_pending = false;
        content.size = 0;
        content.placed = 0;
        content.durable = 0;
        content.shrinks += 1;
        content.sparse = false;
        content.live.clear();
        content.punched.clear();
        content.resized = None;
        content.timed = None;
        content.reference = FileReference::default();
        content.tail_sequence = None;
        Ok(())
    }

    fn shrink(&self, inode: &Arc<Inode>, content: &mut Content, size: u64) -> Result<(), Stop> {
        let tail = BlockIndex::containing(size);
        let tail_len = tail.plain_len(size);
        let keep = BlockIndex::count(size);
        let keyed = content.keyed.clone().ok_or(Error::Damaged { what: "a file header" })?;

        let mut sealed = Vec::new();
        let mut route = Route::InPlace;
        if tail_len > 0 {
            let mut block = [0u8; BLOCK_SIZE];
            self.read_old_block(content, tail, &mut block)?;
            sealed.resize(tail_len + BLOCK_OVERHEAD, 0);
            keyed.cipher.seal(tail, &block[..tail_len], &mut sealed);
            route = self.route(content, tail, false)?;
        }
        // A cut through durable blocks is made whole by recovery: the filesystem below may write
        // the zeros behind the new end without the new end.
        let through_journal = !content.orphan
            && (content.durable > size
                || route == Route::Journal
                || content.live.range(keep.0..).next().is_some()
                || content.punched.iter().any(|(range, _)| range.end > keep.0)
                || content.resized.is_some());
        if through_journal {
            self.record_size(inode, content, &keyed, size, &sealed)?;
        } else if !ends_in_journal(content, size) {
            // Only the size below tells of it.
            self.cut(inode, content, &keyed, size, false)?;
        }
        for index in keys(content, keep, BlockIndex(u64::MAX)) {
            content.live.remove(&index);
        }
        content.shrinks += 1;
        content.durable = content.durable.min(size);
        content.size = size;
        if ends_in_journal(content, size) {
            // The ciphertext file is shorter still: what was cut lay in the journal only.
            return Ok(());
        }
        if through_journal {
            self.cut(inode, content, &keyed, size, true)?;
        }
        content.placed = size;
        if tail_len > 0 {
            content.handle.write_at(&sealed, tail.cipher_offset())?;
            if let Some(block) = content.live.get_mut(&tail.0) {
                block.applied = true;
            }
        }
        Ok(())
    }

    /// Makes the file shorter below, once what the journal has of that is durable.
    fn cut(
        &self,
        inode: &Arc<Inode>,
        content: &mut Content,
        keyed: &FileKeyed,
        size: u64,
        recorded: bool,
    ) -> Result<(), Stop> {
        self.mark_dirty(inode);
        if let (Some(journal), true) = (self.journal(), recorded || content.tail_sequence.is_some())
        {
            journal.commit(content.sequence)?;
            content.tail_sequence = None;
        }
        self.write_header(content, keyed)?;
        Ok(content.handle.set_len(cipher_size(size))?)
    }

    /// Appends a record of the file's new size, with the block that then ends it, where there is a
    /// journal.
    fn record_size(
        &self,
        inode: &Arc<Inode>,
        content: &mut Content,
        keyed: &FileKeyed,
        size: u64,
        tail: &[u8],
    ) -> Result<(), Stop> {
        let Some(journal) = self.journal() else { return Ok(()) };
        let owner = RecordOwner { inode, file_id: keyed.id, reference: &mut content.reference };
        let record = FileRecord::Resize { size, tail };
        let appended = journal.append(owner, &record, || self.journal_path(inode))?;
        self.list_for_commit(inode);
        content.sequence = appended.sequence;
        let lowest = content.resized.map_or(size, |(lowest, _)| lowest.min(size));
        content.resized = Some((lowest, appended.generation));
        if !tail.is_empty() {
            let place = BlockPlace {
                generation: appended.generation,
                offset: appended.payload,
                len: tail.len(),
            };
            content
                .live
                .insert(BlockIndex::containing(size).0, LiveBlock { place, applied: false });
        }
        Ok(())
    }

    fn grow(&self, inode: &Arc<Inode>, content: &mut Content, size: u64) -> Result<(), Stop> {
        let before = content.size;
        let outcome = self.grow_to(inode, content, size);
        if matches!(outcome, Err(Stop::Failed(_))) && content.size > before {
            self.shrink_back(inode, content, before);
        }
        outcome
    }

    /// After a file could not grow: its longer last block would be seen.
    pub(super) fn shrink_back(&self, inode: &Arc<Inode>, content: &mut Content, before: u64) {
        let shrunk = if before == 0 {
            self.empty(inode, content)
        } else {
            self.shrink(inode, content, before)
        };
        if shrunk.is_err() {
            tracing::warn!("a file that could not grow is longer than before, by zeros");
        }
    }

    fn grow_to(&self, inode: &Arc<Inode>, content: &mut Content, size: u64) -> Result<(), Stop> {
        self.ensure_keyed(content);
        content.sparse = true;
        if !content.size.is_multiple_of(BLOCK) {
            let block_end = BlockIndex::containing(content.size).next().plain_offset();
            self.extend_tail(inode, content, block_end.min(size))?;
        }
        if size > content.size {
            if let (Some(sequence), Some(journal)) = (content.tail_sequence, self.journal()) {
                journal.commit(sequence)?;
                content.tail_sequence = None;
            }
            self.mark_dirty(inode);
            if let Some(keyed) = content.keyed.clone() {
                self.write_header(content, &keyed)?;
                // Before it is recorded: a size that the filesystem below refuses must not be.
                let length = content.handle.stat()?.size;
                content.handle.set_len(cipher_size(size))?;
                if content.resized.is_some() && !content.orphan {
                    let recorded = self.record_size(inode, content, &keyed, size, &[]);
                    if recorded.is_err() {
                        // Opened again, the file would be as long as it is below.
                        let _ = content.handle.set_len(length);
                    }
                    recorded?;
                }
            }
            content.placed = size;
            content.size = size;
        }
        Ok(())
    }

    /// `fallocate(2)`.
    pub(super) fn allocate(
        &self,
        inode: &Arc<Inode>,
        mode: FallocateMode,
        offset: u64,
        len: u64,
    ) -> Result<()> {
        self.check_writable()?;
        if len == 0 {
            return Err(Error::Invalid);
        }
        let end =
            offset.checked_add(len).filter(|end| *end <= MAX_PLAIN_SIZE).ok_or(Error::TooLarge)?;
        let file = self.held_content(inode)?;
        self.with_content(&file, |content| {
            self.writable(inode, content, Permission::Held)?;
            let zero = matches!(
                mode,
                FallocateMode::PunchHole
                    | FallocateMode::ZeroRange
                    | FallocateMode::ZeroRangeKeepSize
            );
            if zero {
                self.punch(inode, content, offset, end.min(content.size))?;
            }
            if mode != FallocateMode::PunchHole {
                let from = BlockIndex::containing(offset).cipher_offset();
                let from = if offset < BLOCK { 0 } else { from };
                // A sync must make the reservation durable.
                self.mark_dirty(inode);
                content.handle.allocate(from, BlockIndex::count(end).cipher_offset() - from)?;
            }
            if matches!(mode, FallocateMode::Allocate | FallocateMode::ZeroRange)
                && end > content.size
            {
                self.grow(inode, content, end)?;
            }
            self.touch(content)
        })
    }

    /// Makes `offset..end`, which lies within the file, read as zeros, and gives its whole blocks
    /// back to the filesystem below.
    fn punch(
        &self,
        inode: &Arc<Inode>,
        content: &mut Content,
        offset: u64,
        end: u64,
    ) -> Result<(), Stop> {
        if offset >= end {
            return Ok(());
        }
        let first = BlockIndex::count(offset);
        let after =
            if end == content.size { BlockIndex::count(end) } else { BlockIndex::containing(end) };
        if first >= after {
            return self.write_zeros(inode, content, offset, end);
        }
        self.write_zeros(inode, content, offset, first.plain_offset())?;
        self.write_zeros(inode, content, after.plain_offset().min(end), end)?;
        content.sparse = true;
        let through_journal = content.must_journal(first)
            || content.live.range(first.0..after.0).next().is_some()
            || content
                .punched
                .iter()
                .any(|(range, _)| range.start < after.0 && first.0 < range.end);
        if through_journal && self.route(content, first, true)? == Route::Journal && !content.orphan
        {
            let journal = self.journal().ok_or(Error::Damaged { what: "the journal" })?;
            let keyed = content.keyed.clone().ok_or(Error::Damaged { what: "a file header" })?;
            let owner = RecordOwner { inode, file_id: keyed.id, reference: &mut content.reference };
            let record = FileRecord::Punch { first, count: after.0 - first.0 };
            let appended = journal.append(owner, &record, || self.journal_path(inode))?;
            content.sequence = appended.sequence;
            content.punched.push((first.0..after.0, appended.generation));
            journal.commit(appended.sequence)?;
        }
        self.mark_dirty(inode);
        if content.placed < content.size {
            if let (Some(sequence), Some(journal)) = (content.tail_sequence, self.journal()) {
                journal.commit(sequence)?;
                content.tail_sequence = None;
            }
            if let Some(keyed) = content.keyed.clone() {
                self.write_header(content, &keyed)?;
            }
            content.handle.set_len(cipher_size(content.size))?;
            content.placed = content.size;
        }
        let from = first.cipher_offset();
        below::punch(&*content.handle, from, after.cipher_offset() - from)?;
        for index in keys(content, first, after) {
            content.live.remove(&index);
        }
        Ok(())
    }

    fn write_zeros(
        &self,
        inode: &Arc<Inode>,
        content: &mut Content,
        from: u64,
        until: u64,
    ) -> Result<(), Stop> {
        if from >= until {
            return Ok(());
        }
        let zeros = vec![0; usize::try_from(until - from).map_err(|_| Error::Invalid)?];
        self.write_content(inode, content, from, &zeros)
    }
}

/// Whether the block that ends a file of this size lies in the journal only.
fn ends_in_journal(content: &Content, size: u64) -> bool {
    let last = BlockIndex::containing(size.saturating_sub(1));
    size > content.placed && content.live.get(&last.0).is_some_and(LiveBlock::is_pending)
}

fn keys(content: &Content, first: BlockIndex, after: BlockIndex) -> Vec<u64> {
    content.live.range(first.0..after.0).map(|(index, _)| *index).collect()
}

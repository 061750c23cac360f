//! The sealed blocks of one write. Those that it replaces whole are sealed before the content's lock
//! is taken, so that writes of one file at the same time share nothing but the writing itself.

use std::ops::Range;
use std::sync::Arc;

use super::content::{Content, FileKeyed, OpenFile, prefix, to_u64, with_scratch};
use super::core::Core;
use super::write::{Run, Stop, offset_in};
use crate::format::header::HEADER_LEN;
use crate::format::layout::{BLOCK_OVERHEAD, BLOCK_SIZE, BlockIndex, CIPHER_BLOCK_SIZE};

/// Fewer blocks are not worth a look at the file's key before the lock is taken.
const AHEAD: u64 = 4;

/// Sealed blocks from one on, behind room for a header, in a buffer of this thread.
pub(super) struct Sealing {
    buffer: Vec<u8>,
    first: BlockIndex,
    /// What is sealed already, and with which key.
    ahead: Range<u64>,
    keyed: Option<Arc<FileKeyed>>,
}

impl Sealing {
    /// None yet, from the block `first` on.
    pub(super) fn new(first: BlockIndex) -> Self {
        let buffer = with_scratch(|scratch| std::mem::take(&mut scratch.cipher));
        Self { buffer, first, ahead: 0..0, keyed: None }
    }

    /// Seals the blocks that `data` at `offset` replaces whole, with the key that the file had last.
    pub(super) fn seal_ahead(&mut self, file: &OpenFile, offset: u64, data: &[u8]) {
        let first = offset.div_ceil(to_u64(BLOCK_SIZE));
        let after = (offset + to_u64(data.len())) / to_u64(BLOCK_SIZE);
        if after.saturating_sub(first) < AHEAD {
            return;
        }
        let Some(keyed) = file.keyed() else { return };
        for index in (first..after).map(BlockIndex) {
            let from = offset_in(index.plain_offset(), offset);
            let slot = self.slot(index, CIPHER_BLOCK_SIZE);
            keyed.cipher.seal(index, &data[from..from + BLOCK_SIZE], slot);
        }
        self.ahead = first..after;
        self.keyed = Some(keyed);
    }

    /// Where the sealed block lies.
    fn slot(&mut self, index: BlockIndex, len: usize) -> &mut [u8] {
        let from = HEADER_LEN + offset_in(index.0, self.first.0) * CIPHER_BLOCK_SIZE;
        &mut prefix(&mut self.buffer, from + len)[from..]
    }

    /// The sealed blocks of a run, whose sealing gave `len`, behind as many bytes as a header has.
    pub(super) fn run(&mut self, run: Run, len: usize) -> &mut [u8] {
        let from = offset_in(run.first.0, self.first.0) * CIPHER_BLOCK_SIZE;
        &mut self.buffer[from..from + HEADER_LEN + len]
    }
}

impl Drop for Sealing {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        with_scratch(|scratch| scratch.cipher = buffer);
    }
}

impl Core {
    /// Seals the blocks of a run, with `data` at `offset` over what they hold; their length.
    pub(super) fn seal_run(
        &self,
        content: &Content,
        keyed: &Arc<FileKeyed>,
        run: Run,
        offset: u64,
        data: &[u8],
        sealing: &mut Sealing,
    ) -> Result<usize, Stop> {
        let end = offset + to_u64(data.len());
        if !sealing.keyed.as_ref().is_some_and(|used| Arc::ptr_eq(used, keyed)) {
            // The file was emptied since.
            sealing.ahead = 0..0;
        }
        let mut used = 0;
        let mut block = [0u8; BLOCK_SIZE];
        for index in (run.first.0..run.after.0).map(BlockIndex) {
            let start = index.plain_offset();
            let len = index.plain_len(run.new_size);
            used += len + BLOCK_OVERHEAD;
            if sealing.ahead.contains(&index.0) {
                continue;
            }
            let (from, until) = (offset.max(start), end.min(start + to_u64(len)));
            let source = &data[offset_in(from, offset)..offset_in(until, offset)];
            let plain = if source.len() == len {
                source
            } else {
                self.read_old_block(content, index, &mut block)?;
                block[offset_in(from, start)..offset_in(until, start)].copy_from_slice(source);
                &block[..len]
            };
            keyed.cipher.seal(index, plain, sealing.slot(index, len + BLOCK_OVERHEAD));
        }
        Ok(used)
    }
}

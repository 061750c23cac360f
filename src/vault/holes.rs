//! Finding data and holes (`lseek(2)`), to the block.
//!
//! Cipher blocks are longer than those of the filesystem below and lie across their borders, so a
//! hole below begins and ends within cipher blocks, of which the rest is allocated zeros. What the
//! filesystem below tells leads to the neighbourhood; reading a block there decides.

use std::io;
use std::sync::Arc;

use super::content::{Content, LiveBlock, to_u64};
use super::core::Core;
use super::error::{Error, Result};
use super::inode::Inode;
use super::types::SeekWhence;
use crate::format::block::is_hole;
use crate::format::header::HEADER_LEN;
use crate::format::layout::{BlockIndex, CIPHER_BLOCK_SIZE};

impl Core {
    /// `lseek(2)` for data and holes.
    pub(super) fn seek_content(
        &self,
        inode: &Arc<Inode>,
        offset: u64,
        whence: SeekWhence,
    ) -> Result<u64> {
        let file = self.held_content(inode)?;
        let content = file.content.read();
        if offset >= content.size {
            return Err(Error::NoOffset);
        }
        let start = BlockIndex::containing(offset);
        let found = match whence {
            SeekWhence::Data => next_data(&content, start)?
                .map(|block| block.plain_offset().max(offset))
                .filter(|at| *at < content.size),
            SeekWhence::Hole => {
                Some(next_hole(&content, start)?.plain_offset().max(offset).min(content.size))
            }
        };
        found.ok_or(Error::NoOffset)
    }
}

/// The first block at or after `from` with data.
fn next_data(content: &Content, from: BlockIndex) -> io::Result<Option<BlockIndex>> {
    let live = content
        .live
        .range(from.0..)
        .find(|(_, block)| block.is_pending())
        .map(|(index, _)| BlockIndex(*index));
    let mut at = from;
    loop {
        let placed = content.handle.seek_data(at.cipher_offset())?.map(|data| around(data).max(at));
        match (live, placed) {
            (live, None) => return Ok(live),
            (Some(live), Some(placed)) if live <= placed => return Ok(Some(live)),
            (_, Some(placed)) if !is_empty(content, placed)? => return Ok(Some(placed)),
            (_, Some(placed)) => at = placed.next(),
        }
    }
}

/// The first block at or after `from` that is a hole; the one after the last where there is none.
fn next_hole(content: &Content, from: BlockIndex) -> io::Result<BlockIndex> {
    let end = BlockIndex::count(content.size);
    let mut at = from;
    while at < end {
        // `None`: past the end of what lies in place.
        let hole = match content.handle.seek_hole(at.cipher_offset())? {
            Some(hole) => around(hole).max(at),
            None => at,
        };
        // The hole below begins within this block or with the next.
        for candidate in [hole, hole.next()] {
            if candidate >= end || is_empty(content, candidate)? {
                return Ok(candidate.min(end));
            }
        }
        at = hole.next().next();
    }
    Ok(end)
}

/// The block that this offset of the ciphertext file lies in; the first, where in the header.
fn around(cipher_offset: u64) -> BlockIndex {
    BlockIndex(cipher_offset.saturating_sub(to_u64(HEADER_LEN)) / to_u64(CIPHER_BLOCK_SIZE))
}

/// Whether a block is a hole.
fn is_empty(content: &Content, index: BlockIndex) -> io::Result<bool> {
    if content.live.get(&index.0).is_some_and(LiveBlock::is_pending) {
        return Ok(false);
    }
    let mut cipher = [0; CIPHER_BLOCK_SIZE];
    let read = content.handle.read_at(&mut cipher, index.cipher_offset())?;
    Ok(is_hole(&cipher[..read]))
}

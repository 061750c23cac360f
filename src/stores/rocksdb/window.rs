//! Owns the reading of a file from its beginning to its end in large pieces, for a reader that
//! wants small ones. It knows nothing of what they mean.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::stores::Error;
use crate::stores::source::Source;

/// How much is read at once, in bytes: a mount and a disk serve that in one go.
const PIECE: usize = 1 << 20;

/// A piece of a file that moves on with its reader.
pub(super) struct Window<'a> {
    source: &'a Source,
    cancelled: &'a AtomicBool,
    buffer: Vec<u8>,
    /// Where the buffer's first byte lies, and how many bytes are in it.
    start: u64,
    filled: usize,
}

impl<'a> Window<'a> {
    /// The most that [`Self::get`] hands over, in bytes.
    pub(super) const MOST: usize = PIECE;

    pub(super) fn new(source: &'a Source, cancelled: &'a AtomicBool) -> Self {
        Self { source, cancelled, buffer: Vec::new(), start: 0, filled: 0 }
    }

    pub(super) fn source(&self) -> &'a Source {
        self.source
    }

    /// So many bytes at an offset, at most [`Self::MOST`]; fewer only where the file ends. What
    /// lies behind them is read with them, as it is what is asked for next.
    pub(super) fn get(&mut self, offset: u64, length: usize) -> Result<&[u8], Error> {
        let length = length.min(Self::MOST);
        if let Some(range) = self.range(offset, length) {
            return Ok(&self.buffer[range]);
        }
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(Error::Cancelled { path: self.source.path().to_path_buf() });
        }
        // No more than a small table needs.
        let size = usize::try_from(self.source.length()).unwrap_or(PIECE).min(PIECE);
        self.buffer.resize(size.max(length), 0);
        // What is there of it already needs not be read again.
        let known = offset
            .checked_sub(self.start)
            .and_then(|skip| usize::try_from(skip).ok())
            .filter(|skip| *skip < self.filled);
        let kept = known.map_or(0, |skip| {
            self.buffer.copy_within(skip..self.filled, 0);
            self.filled - skip
        });
        self.start = offset;
        self.filled = kept;
        let next = offset.saturating_add(u64::try_from(kept).unwrap_or(u64::MAX));
        self.filled += self.source.read_at(&mut self.buffer[kept..], next)?;
        Ok(&self.buffer[..length.min(self.filled)])
    }

    /// Hands over so many bytes from an offset on, in pieces; fewer only where the file ends.
    pub(super) fn pieces(
        &mut self,
        mut offset: u64,
        mut length: u64,
        mut each: impl FnMut(&[u8]),
    ) -> Result<(), Error> {
        while length > 0 {
            let wanted = usize::try_from(length).unwrap_or(Self::MOST).min(Self::MOST);
            let piece = self.get(offset, wanted)?;
            if piece.is_empty() {
                break;
            }
            each(piece);
            let count = u64::try_from(piece.len()).unwrap_or(u64::MAX);
            offset = offset.saturating_add(count);
            length = length.saturating_sub(count);
        }
        Ok(())
    }

    /// Where in the buffer these bytes are, if all of them are there.
    fn range(&self, offset: u64, length: usize) -> Option<std::ops::Range<usize>> {
        let from = usize::try_from(offset.checked_sub(self.start)?).ok()?;
        let to = from.checked_add(length)?;
        (to <= self.filled).then_some(from..to)
    }
}

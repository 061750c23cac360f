//! A file that is read while it is being written: how far it is, and where its pieces lie as far as that
//! is known.

use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use super::pipe::PLAIN_BUFFER;
use crate::crypto::TAG_LEN;
use crate::format::archive::{ArchiveFormatError, FOOTER_LEN, SegmentLayout};

const TAG: u64 = TAG_LEN as u64;

/// How far a file has been written. Its writer and its reader share it.
#[derive(Default)]
pub(super) struct Growth {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Bytes written.
    length: u64,
    /// Nothing follows, whether it is whole or the writer failed.
    ended: bool,
}

/// Ends the growth when it goes, however that comes.
pub(super) struct End<'a>(&'a Growth);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.state.lock().ended = true;
        self.0.changed.notify_all();
    }
}

impl Growth {
    /// What ends it, for its writer to hold.
    pub(super) fn end(&self) -> End<'_> {
        End(self)
    }

    /// So many bytes more were written.
    pub(super) fn add(&self, count: u64) {
        let mut state = self.state.lock();
        state.length = state.length.saturating_add(count);
        self.changed.notify_all();
    }

    /// Waits until there are more bytes than `length`: `None`; or until there will not be: how many there
    /// are.
    pub(super) fn wait(&self, length: u64) -> Option<u64> {
        let mut state = self.state.lock();
        while state.length <= length && !state.ended {
            self.changed.wait(&mut state);
        }
        (state.length <= length).then_some(state.length)
    }
}

/// Where a piece of an archive's payload lies in its file.
pub(super) struct Place {
    pub(super) offset: u64,
    /// Bytes in the file, with the tag of a segment.
    pub(super) length: usize,
    /// The segment's number, and whether it is the last, as its cipher wants them.
    pub(super) number: u32,
    pub(super) last: bool,
    /// Bytes of it that count, once it is opened.
    pub(super) kept: usize,
}

/// An archive file that is being written. Its payload ends before the footer.
pub(super) struct Growing {
    growth: Arc<Growth>,
    /// Length of the header, and the segments' size, where it is sealed.
    sealed: Option<(u64, u8)>,
}

impl Growing {
    pub(super) fn new(growth: Arc<Growth>, sealed: Option<(u64, u8)>) -> Self {
        Self { growth, sealed }
    }

    /// Bytes of a piece, once it is opened; the last may be shorter.
    pub(super) fn piece_len(&self) -> u64 {
        self.sealed.map_or(PLAIN_BUFFER as u64, |(_, segment_log2)| 1 << segment_log2)
    }

    /// Where the piece with this index lies, once it is there; `None` past the end.
    ///
    /// # Errors
    /// When the file ended, and no archive has such a length.
    pub(super) fn place(&self, index: u64) -> Result<Option<Place>, ArchiveFormatError> {
        match self.sealed {
            None => Ok(self.plain(index)),
            Some((header_len, segment_log2)) => self.segment(index, header_len, segment_log2),
        }
    }

    fn plain(&self, index: u64) -> Option<Place> {
        let piece = PLAIN_BUFFER as u64;
        let (offset, end) = (index.saturating_mul(piece), (index + 1).saturating_mul(piece));
        let end = self.growth.wait(end).unwrap_or(end);
        let length = usize::try_from(end.checked_sub(offset)?).ok()?;
        Some(Place { offset, length, number: 0, last: false, kept: length })
    }

    fn segment(
        &self,
        index: u64,
        header_len: u64,
        segment_log2: u8,
    ) -> Result<Option<Place>, ArchiveFormatError> {
        let sealed_len = (1u64 << segment_log2) + TAG;
        // Where one more segment follows whole, and then something, this one is not the last, and no
        // part of the footer is in it.
        let next_end = header_len.saturating_add((index + 2).saturating_mul(sealed_len));
        let at_least = next_end.saturating_add(TAG + 1);
        let file_len = self.growth.wait(next_end).unwrap_or(at_least);
        let layout = SegmentLayout::new(header_len, segment_log2, file_len)?;
        let Some((offset, length, number, last)) = layout.segment(index) else { return Ok(None) };
        let before = index * layout.segment_len();
        let tar = layout.payload_len().saturating_sub(FOOTER_LEN as u64).saturating_sub(before);
        let kept = usize::try_from(tar).unwrap_or(usize::MAX).min(length - TAG_LEN);
        Ok(Some(Place { offset, length, number, last, kept }))
    }
}

//! One of the journal's two segments at run time: its file, and how far it is filled. What its records
//! are, and when it is filled, retired and used again, is the journal's.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use super::inode::Inode;
use crate::backing::{Directory, File};
use crate::format::journal::FIRST_RECORD;

/// How far ahead of small records a new segment is written. A filesystem that notes which of its
/// allocated blocks were written would otherwise do so, durably, at every sync.
const WRITE_AHEAD: u64 = 256 << 10;

/// Where a segment is in its life.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum SegmentState {
    Free,
    Active,
    Filled,
}

/// A segment of a mounted vault's journal.
pub(super) struct Segment {
    pub(super) file: Arc<dyn File>,
    pub(super) state: SegmentState,
    pub(super) generation: u64,
    pub(super) head: u64,
    pub(super) size: u64,
    /// Up to where it was ever written.
    written: u64,
    /// Whether it has records that no sync has covered.
    pub(super) dirty: bool,
    pub(super) next_local: u32,
    /// The inodes with records in it, by where they are in memory: their numbers are used again,
    /// also by the same file once it was let go of.
    pub(super) members: HashMap<usize, Arc<Inode>>,
}

impl Segment {
    /// A free segment in a file of `size` bytes that was never written.
    pub(super) fn new(file: Arc<dyn File>, size: u64) -> Self {
        Self {
            file,
            state: SegmentState::Free,
            generation: 0,
            head: FIRST_RECORD,
            size,
            written: FIRST_RECORD,
            dirty: false,
            next_local: 0,
            members: HashMap::new(),
        }
    }

    /// Makes sure that a record of `len` bytes at the head comes where the segment was written before.
    /// Nothing is in flight there: whatever is lies before the head.
    pub(super) fn write_ahead(&mut self, len: u64) -> io::Result<()> {
        debug_assert!(self.head <= self.written, "zeros would go over records");
        let end = self.head + len;
        if end <= self.written {
            return Ok(());
        }
        if len >= WRITE_AHEAD / 4 {
            self.written = end;
            return Ok(());
        }
        let until = (end + WRITE_AHEAD).min(self.size);
        let zeros = vec![0; usize::try_from(until - self.written).expect("at most a segment")];
        match self.file.write_at(&zeros, self.written) {
            Ok(()) => self.written = until,
            // Where room cannot be reserved, what is left may still do for the record.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT)) => {
                self.written = end;
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// Makes a segment's file anew and reserves its room.
pub(super) fn create(
    directory: &dyn Directory,
    name: &[u8],
    size: u64,
) -> io::Result<Arc<dyn File>> {
    match directory.unlink(name) {
        Err(error) if error.raw_os_error() != Some(libc::ENOENT) => return Err(error),
        _ => {}
    }
    let file = directory.create_file(name, 0o600)?;
    match file.allocate(0, size) {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
        other => other?,
    }
    file.set_len(size)?;
    Ok(Arc::from(file))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::backing::fault::{Fault, Faults, Operation};
    use crate::backing::memory::MemoryDirectory;

    /// Zeros ahead are for speed: a record may still have the last room, and later zeros leave it.
    #[test]
    fn zeros_without_room_do_not_stop_a_record() {
        let faults = Faults::default();
        let directory = faults.wrap(MemoryDirectory::new().open_directory(b".").unwrap());
        let file = create(&directory, b"segment", 1 << 20).unwrap();
        let mut segment = Segment::new(file, 1 << 20);
        let write = |operation| operation == Operation::Write;

        faults.arm(Fault::once(write, libc::EIO));
        assert!(segment.write_ahead(5000).is_err());
        faults.arm(Fault::once(write, libc::ENOSPC));
        segment.write_ahead(5000).unwrap();
        assert_eq!(faults.failed(), 2);
        segment.file.write_at(&[7; 5000], segment.head).unwrap();
        segment.head += 5000;
        segment.write_ahead(5000).unwrap();
        let mut read = [0; 5001];
        segment.file.read_at(&mut read, FIRST_RECORD).unwrap();
        assert_eq!(read[..5000], [7; 5000]);
        assert_eq!(read[5000], 0);
        assert_eq!(segment.written, segment.head + 5000 + WRITE_AHEAD);
    }
}

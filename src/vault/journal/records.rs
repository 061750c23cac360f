//! What is said of a file in the journal, and what is told of a record that was appended.

use std::io;
use std::sync::Arc;

use crate::backing::Timestamp;
use crate::format::header::FileId;
use crate::format::layout::BlockIndex;
use crate::vault::inode::Inode;

/// Where a sealed block lies in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::vault) struct BlockPlace {
    pub(in crate::vault) generation: u64,
    pub(in crate::vault) offset: u64,
    pub(in crate::vault) len: usize,
}

/// A record appended.
#[derive(Clone, Copy, Debug)]
pub(in crate::vault) struct Appended {
    pub(in crate::vault) generation: u64,
    /// Where the record's payload begins.
    pub(in crate::vault) payload: u64,
    pub(in crate::vault) sequence: u64,
}

/// Why a record was not appended.
#[derive(Debug)]
pub(in crate::vault) enum AppendError {
    /// Both segments are in use: give up the locks held, wait for [`super::Journal::wait_for_room`], and
    /// begin again.
    Full,
    /// The journal failed before, or now.
    Failed(io::Error),
}

/// The number by which a segment calls a file.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::vault) struct FileReference {
    pub(super) generation: u64,
    pub(super) local: u32,
}

/// What a record about a file says.
pub(in crate::vault) enum FileRecord<'a> {
    Blocks { first: BlockIndex, sealed: &'a [u8] },
    Resize { size: u64, tail: &'a [u8] },
    Punch { first: BlockIndex, count: u64 },
    Modified(Timestamp),
}

/// The file that a record is about.
pub(in crate::vault) struct RecordOwner<'a> {
    pub(in crate::vault) inode: &'a Arc<Inode>,
    pub(in crate::vault) file_id: FileId,
    pub(in crate::vault) reference: &'a mut FileReference,
}

//! Owns the footers of tables: which kind a table is, where its outermost blocks lie and how its
//! blocks are summed. It knows nothing of blocks.

use super::checksum::{self, Kind};
use super::numbers::Cursor;
use crate::stores::source::{u32_at, u64_at};

/// What ends LevelDB's tables, and RocksDB's of format version 0.
pub(super) const LEVELDB: u64 = 0xdb47_7524_8b80_fb57;
const BLOCK_BASED: u64 = 0x88e2_41b7_85f4_cff7;
/// What ends tables that are not made of blocks: plain ones, of format version 0 and later, and
/// cuckoo tables.
const PLAIN: [u64; 2] = [0x8242_2296_63bf_9564, 0x4f34_18eb_7a8f_13b8];
const CUCKOO: u64 = 0x9267_89d0_c5f1_7873;

/// The format versions of RocksDB's block-based tables that are known.
const KNOWN: std::ops::RangeInclusive<u32> = 1..=7;
/// From which on a footer has a checksum, and the index stands in the metaindex.
const SUMMED: u32 = 6;
/// What such a footer has where older ones begin with a handle.
const EXTENDED: [u8; 4] = [0x3e, 0x00, 0x7a, 0x00];

/// The length of a footer in bytes: of LevelDB's, and of RocksDB's.
const SHORT: usize = 48;
pub(super) const LONG: usize = 53;

/// Bytes behind the contents of each block: how they are compressed, and the checksum.
pub(super) const TRAILER: u64 = 5;

/// Where a block lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Handle {
    /// Where its contents begin.
    pub(super) offset: u64,
    /// How long they are, without the trailer, in bytes.
    pub(super) size: u64,
}

impl Handle {
    /// Reads the two numbers that stand for one.
    pub(super) fn read(cursor: &mut Cursor<'_>) -> Option<Self> {
        Some(Self { offset: cursor.number()?, size: cursor.number()? })
    }

    /// Where the trailer ends; `None` for one past all bounds.
    pub(super) fn end(self) -> Option<u64> {
        self.offset.checked_add(self.size)?.checked_add(TRAILER)
    }
}

/// The footer of a table that is made of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Footer {
    /// RocksDB's format version; 0 also for LevelDB.
    pub(super) version: u32,
    pub(super) checksum: Kind,
    /// What the checksums are shifted by; 0 for nothing.
    pub(super) base: u32,
    pub(super) metaindex: Handle,
    /// The index, where the metaindex does not name it.
    pub(super) index: Option<Handle>,
    /// Where the footer begins.
    pub(super) offset: u64,
    /// Whether bytes that mean nothing are not zero.
    pub(super) stray: bool,
}

/// What the end of a table tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Blocks(Footer),
    /// A table of another kind, called this.
    Other(&'static str),
    /// Made of blocks in a format version that is not known.
    Unknown(u32),
    /// Nothing that ends a table.
    None,
    /// Damaged, in this way.
    Damaged(&'static str),
}

/// Reads the last [`LONG`] bytes of a file, or all of a shorter one, of this length in bytes.
pub(super) fn read(tail: &[u8], length: u64) -> Ending {
    let magic = tail.len().checked_sub(8).and_then(|at| u64_at(tail, at));
    match magic {
        Some(LEVELDB) => read_short(tail, length),
        Some(BLOCK_BASED) => read_long(tail, length),
        Some(CUCKOO) => Ending::Other("cuckoo"),
        Some(magic) if PLAIN.contains(&magic) => Ending::Other("plain"),
        _ => Ending::None,
    }
}

/// The last so many bytes, and where in the file they begin.
fn last<const N: usize>(tail: &[u8], length: u64) -> Option<([u8; N], u64)> {
    let bytes = tail.last_chunk::<N>()?;
    Some((*bytes, length.checked_sub(u64::try_from(N).ok()?)?))
}

fn read_short(tail: &[u8], length: u64) -> Ending {
    let Some((bytes, offset)) = last::<SHORT>(tail, length) else { return Ending::None };
    let mut cursor = Cursor(&bytes[..SHORT - 8]);
    match handles(&mut cursor) {
        None => Ending::Damaged("its footer names no blocks"),
        Some((metaindex, index)) => Ending::Blocks(Footer {
            version: 0,
            checksum: Kind::Crc32c,
            base: 0,
            metaindex,
            index: Some(index),
            offset,
            stray: is_stray(&bytes[..SHORT - 8], cursor.0),
        }),
    }
}

/// Whether what follows the handles in their room is not zero, or a number is longer than it need
/// be: its engine writes neither.
fn is_stray(room: &[u8], rest: &[u8]) -> bool {
    let longer = |pair: &[u8]| pair[0] & 0x80 != 0 && pair[1] == 0;
    !is_zero(rest) || room.windows(2).any(longer)
}

fn handles(cursor: &mut Cursor<'_>) -> Option<(Handle, Handle)> {
    Some((Handle::read(cursor)?, Handle::read(cursor)?))
}

fn read_long(tail: &[u8], length: u64) -> Ending {
    let Some((bytes, offset)) = last::<LONG>(tail, length) else { return Ending::None };
    let version = u32_at(&bytes, LONG - 12).unwrap_or(0);
    if !KNOWN.contains(&version) {
        return Ending::Unknown(version);
    }
    let Some(checksum) = Kind::from_number(bytes[0]) else {
        return Ending::Damaged("its footer names no kind of checksum that there is");
    };
    if version >= SUMMED {
        return read_summed(bytes, offset, version, checksum);
    }
    let mut cursor = Cursor(&bytes[1..LONG - 12]);
    match handles(&mut cursor) {
        None => Ending::Damaged("its footer names no blocks"),
        Some((metaindex, index)) => Ending::Blocks(Footer {
            version,
            checksum,
            base: 0,
            metaindex,
            index: Some(index),
            offset,
            stray: is_stray(&bytes[1..LONG - 12], cursor.0),
        }),
    }
}

fn read_summed(mut bytes: [u8; LONG], offset: u64, version: u32, checksum: Kind) -> Ending {
    let field = |bytes: &[u8], at| u32_at(bytes, at).unwrap_or(0);
    if bytes[1..5] != EXTENDED {
        return Ending::Damaged("its footer is not one of its format version");
    }
    let (stored, base, size) = (field(&bytes, 5), field(&bytes, 9), field(&bytes, 13));
    // The checksum is made with zero in its place.
    bytes[5..9].fill(0);
    if base == 0 || checksum.of(&bytes).wrapping_add(checksum::context(base, offset)) != stored {
        return Ending::Damaged("its footer does not match its checksum");
    }
    let size = u64::from(size);
    let before = offset.checked_sub(TRAILER).and_then(|end| end.checked_sub(size));
    match before {
        None => Ending::Damaged("its footer names no blocks"),
        Some(start) => Ending::Blocks(Footer {
            version,
            checksum,
            base,
            metaindex: Handle { offset: start, size },
            index: None,
            offset,
            stray: !is_zero(&bytes[17..LONG - 12]),
        }),
    }
}

/// Whether all of it is zero.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

//! Owns what is in the blocks of tables that lead to other blocks: how such a block is compressed,
//! its entries, and the handles that an index holds. It knows nothing of files, and nothing of what
//! the keys and values of an app mean.

use std::io::Read;
use std::ops::Range;

use super::footer::{Handle, TRAILER};
use super::numbers::Cursor;
use crate::stores::source::u32_at;

/// The longest block that is taken into memory, before and after it is decompressed, in bytes.
pub(super) const LONGEST: u64 = 64 << 20;

/// What begins a frame of zstd.
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Why a block whose checksum holds says nothing to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unread {
    /// It is not what its engine writes.
    Malformed,
    /// It is written in a way that is not known here.
    Unknown(&'static str),
}

/// Whose rules a table's blocks follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Engine {
    LevelDb,
    /// RocksDB, with the table's format version.
    RocksDb(u32),
}

/// Decompresses a block's contents; `kind` is the first byte of its trailer.
pub(super) fn decompress(kind: u8, contents: Vec<u8>, engine: Engine) -> Result<Vec<u8>, Unread> {
    match (kind, engine) {
        (0, _) => Ok(contents),
        (1, _) => snappy(&contents),
        // Engines that are made after LevelDB use the number for something else.
        (2, Engine::LevelDb) if contents.starts_with(&ZSTD) => zstd(&contents),
        (2, Engine::RocksDb(version)) => {
            let (size, rest) =
                if version < 2 { (LONGEST, &contents[..]) } else { sized(&contents)? };
            let inflated = bounded(flate2::read::DeflateDecoder::new(rest))?;
            let whole = u64::try_from(inflated.len()).is_ok_and(|length| length == size);
            if version < 2 || whole { Ok(inflated) } else { Err(Unread::Malformed) }
        }
        (3, _) => Err(Unread::Unknown("its index is compressed with bzip2")),
        (4 | 5, Engine::RocksDb(version)) => lz4(&contents, version),
        (7 | 0x40, Engine::RocksDb(_)) => zstd(sized(&contents)?.1),
        _ => Err(Unread::Unknown("its index is compressed in a way that is not known")),
    }
}

const TOO_LONG: Unread = Unread::Unknown("its index is too long");

/// The length that stands before compressed contents, and the contents.
fn sized(contents: &[u8]) -> Result<(u64, &[u8]), Unread> {
    let mut cursor = Cursor(contents);
    match cursor.number() {
        Some(size) if size <= LONGEST => Ok((size, cursor.0)),
        Some(_) => Err(TOO_LONG),
        None => Err(Unread::Malformed),
    }
}

fn snappy(contents: &[u8]) -> Result<Vec<u8>, Unread> {
    let size = snap::raw::decompress_len(contents).map_err(|_| Unread::Malformed)?;
    if u64::try_from(size).is_ok_and(|size| size > LONGEST) {
        return Err(TOO_LONG);
    }
    snap::raw::Decoder::new().decompress_vec(contents).map_err(|_| Unread::Malformed)
}

fn zstd(frame: &[u8]) -> Result<Vec<u8>, Unread> {
    bounded(zstd::stream::read::Decoder::with_buffer(frame).map_err(|_| Unread::Malformed)?)
}

fn lz4(contents: &[u8], version: u32) -> Result<Vec<u8>, Unread> {
    let (size, rest) = if version < 2 {
        // The length had eight bytes, of which four were used.
        let size = u32_at(contents, 0).map(u64::from).ok_or(Unread::Malformed)?;
        (size, contents.get(8..).ok_or(Unread::Malformed)?)
    } else {
        sized(contents)?
    };
    if size > LONGEST {
        return Err(TOO_LONG);
    }
    let mut bytes = vec![0; usize::try_from(size).map_err(|_| TOO_LONG)?];
    let count =
        lz4_flex::block::decompress_into(rest, &mut bytes).map_err(|_| Unread::Malformed)?;
    if count == bytes.len() { Ok(bytes) } else { Err(Unread::Malformed) }
}

/// All that a decompressor gives, up to the longest that is taken.
fn bounded(reader: impl Read) -> Result<Vec<u8>, Unread> {
    let mut bytes = Vec::new();
    reader.take(LONGEST + 1).read_to_end(&mut bytes).map_err(|_| Unread::Malformed)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length <= LONGEST) {
        Ok(bytes)
    } else {
        Err(TOO_LONG)
    }
}

/// The entries of a block, without the list of places to begin at that ends it.
fn entries(block: &[u8]) -> Result<&[u8], Unread> {
    /// Whether the keys lie evenly, which is a hint for the engine.
    const EVENLY: u32 = 1 << 30;
    /// The most places that the engine makes; what lies above are marks of what is not known here.
    const MOST: u32 = (1 << 28) - 1;
    let count_at = block.len().checked_sub(4).ok_or(Unread::Malformed)?;
    let count = u32_at(block, count_at).ok_or(Unread::Malformed)? & !EVENLY;
    if count > MOST {
        return Err(Unread::Unknown("its index has a form that is not known"));
    }
    let places = usize::try_from(count).ok().and_then(|count| count.checked_mul(4));
    let end = places.and_then(|places| count_at.checked_sub(places)).ok_or(Unread::Malformed)?;
    block.get(..end).ok_or(Unread::Malformed)
}

/// Tells each key of a block, and where in the block its value is. `false` ends it.
pub(super) fn for_each(
    block: &[u8],
    mut each: impl FnMut(&[u8], Range<usize>) -> bool,
) -> Result<(), Unread> {
    let all = entries(block)?;
    let mut cursor = Cursor(all);
    let mut key: Vec<u8> = Vec::new();
    while !cursor.0.is_empty() {
        let value = entry(&mut cursor, &mut key).ok_or(Unread::Malformed)?;
        let end = all.len() - cursor.0.len();
        if !each(&key, end - value.len()..end) {
            break;
        }
    }
    Ok(())
}

fn entry<'a>(cursor: &mut Cursor<'a>, key: &mut Vec<u8>) -> Option<&'a [u8]> {
    let (shared, own, length) = (cursor.number()?, cursor.number()?, cursor.number()?);
    let shared = usize::try_from(shared).ok().filter(|shared| *shared <= key.len())?;
    key.truncate(shared);
    key.extend_from_slice(cursor.bytes(own)?);
    cursor.bytes(length)
}

/// How an index holds its handles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Form {
    /// A handle whose key begins like the one before it is written as the difference in size.
    pub(super) differences: bool,
    /// A block's first key follows its handle.
    pub(super) first_keys: bool,
}

/// Reads the handles of an index, one after the other.
pub(super) struct Handles<'a> {
    cursor: Cursor<'a>,
    form: Form,
    previous: Option<Handle>,
}

impl<'a> Handles<'a> {
    pub(super) fn new(block: &'a [u8], form: Form) -> Result<Self, Unread> {
        Ok(Self { cursor: Cursor(entries(block)?), form, previous: None })
    }

    /// The next one; `None` after the last.
    pub(super) fn next(&mut self) -> Option<Result<Handle, Unread>> {
        if self.cursor.0.is_empty() {
            return None;
        }
        let handle = if self.form.differences { self.difference() } else { self.whole() };
        self.previous = handle;
        Some(handle.ok_or(Unread::Malformed))
    }

    fn whole(&mut self) -> Option<Handle> {
        let (_, own, length) =
            (self.cursor.number()?, self.cursor.number()?, self.cursor.number()?);
        self.cursor.bytes(own)?;
        Handle::read(&mut Cursor(self.cursor.bytes(length)?))
    }

    fn difference(&mut self) -> Option<Handle> {
        let (shared, own) = (self.cursor.number()?, self.cursor.number()?);
        self.cursor.bytes(own)?;
        let handle = if shared == 0 {
            Handle::read(&mut self.cursor)?
        } else {
            let previous = self.previous?;
            let offset = previous.offset.checked_add(previous.size)?.checked_add(TRAILER)?;
            Handle { offset, size: previous.size.checked_add_signed(self.cursor.signed()?)? }
        };
        if self.form.first_keys {
            self.cursor.string()?;
        }
        Some(handle)
    }
}

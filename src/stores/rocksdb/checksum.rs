//! Owns the checksums of tables, files of large values and logs: which kinds there are, and how each
//! is made. It knows nothing of what is summed.

use std::hash::Hasher as _;

use twox_hash::{XxHash3_64, XxHash32, XxHash64};

/// What RocksDB multiplies a last byte with that its XXH3 takes apart.
const LAST_BYTE: u32 = 0x6b90_83d9;
/// What LevelDB adds to a CRC that is stored beside what it is made of.
const MASK: u32 = 0xa282_ead8;

/// The CRC-32C of something as LevelDB stores it.
pub(super) fn masked_crc(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(MASK)
}

/// A kind of checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// None: zero stands in its place.
    None,
    /// CRC-32C, masked.
    Crc32c,
    /// XXH32.
    XxHash,
    /// The lower half of XXH64.
    XxHash64,
    /// The lower half of XXH3 with 64 bits, of all but the last byte, which is added by itself.
    Xxh3,
}

impl Kind {
    /// The kind that a footer's number tells.
    pub(super) fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::None,
            1 => Self::Crc32c,
            2 => Self::XxHash,
            3 => Self::XxHash64,
            4 => Self::Xxh3,
            _ => return None,
        })
    }

    /// The checksum of some bytes.
    pub(super) fn of(self, bytes: &[u8]) -> u32 {
        match self {
            Self::None => 0,
            Self::Crc32c => masked_crc(crc32c::crc32c(bytes)),
            Self::XxHash => XxHash32::oneshot(0, bytes),
            Self::XxHash64 => lower(XxHash64::oneshot(0, bytes)),
            Self::Xxh3 => match bytes.split_last() {
                Some((last, bytes)) => with_last(lower(XxHash3_64::oneshot(bytes)), *last),
                None => 0,
            },
        }
    }

    /// The same of bytes that come in pieces.
    pub(super) fn begin(self) -> Running {
        match self {
            Self::None => Running::None,
            Self::Crc32c => Running::Crc32c(0),
            Self::XxHash => Running::XxHash(Box::new(XxHash32::with_seed(0))),
            Self::XxHash64 => Running::XxHash64(Box::new(XxHash64::with_seed(0))),
            Self::Xxh3 => Running::Xxh3(Box::new(XxHash3_64::new()), None),
        }
    }
}

/// A checksum that is being made.
pub(super) enum Running {
    None,
    Crc32c(u32),
    XxHash(Box<XxHash32>),
    XxHash64(Box<XxHash64>),
    /// With the last byte so far, which is not in it.
    Xxh3(Box<XxHash3_64>, Option<u8>),
}

impl Running {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::None => {}
            Self::Crc32c(crc) => *crc = crc32c::crc32c_append(*crc, bytes),
            Self::XxHash(hasher) => hasher.write(bytes),
            Self::XxHash64(hasher) => hasher.write(bytes),
            Self::Xxh3(hasher, held) => {
                if let Some((last, bytes)) = bytes.split_last() {
                    if let Some(byte) = held.replace(*last) {
                        hasher.write(&[byte]);
                    }
                    hasher.write(bytes);
                }
            }
        }
    }

    pub(super) fn finish(self) -> u32 {
        match self {
            Self::None => 0,
            Self::Crc32c(crc) => masked_crc(crc),
            Self::XxHash(hasher) => lower(hasher.finish()),
            Self::XxHash64(hasher) => lower(hasher.finish()),
            Self::Xxh3(hasher, held) => {
                held.map_or(0, |last| with_last(lower(hasher.finish()), last))
            }
        }
    }
}

/// What is added to the checksums of a table that has a base of its own: a block that lies in
/// another table's place, or at another offset, is noticed.
pub(super) fn context(base: u32, offset: u64) -> u32 {
    if base == 0 { 0 } else { base ^ lower(offset).wrapping_add(lower(offset >> 32)) }
}

fn with_last(checksum: u32, last: u8) -> u32 {
    checksum ^ u32::from(last).wrapping_mul(LAST_BYTE)
}

fn lower(value: u64) -> u32 {
    u32::try_from(value & u64::from(u32::MAX)).unwrap_or(0)
}

//! Owns the logs that LevelDB and RocksDB write: records in blocks of fixed length, each with a
//! checksum. It knows nothing of what a record says.

use super::checksum::masked_crc;
use super::footer::is_zero;
use crate::stores::Error;
use crate::stores::source::Source;

/// A log's blocks, in bytes.
const BLOCK: usize = 32 * 1024;
/// What begins a record, and a record of a log that is written over an older one: that has the log's
/// number besides, in bytes.
const HEADER: usize = 7;
const NUMBERED: usize = 11;

/// How the reading of a log ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Whole.
    Whole,
    /// With a record that was being written.
    CutOff,
    /// Where an older log goes on that this one is written over.
    Older,
    /// At a record whose checksum fails, at this offset.
    Damaged(u64),
}

/// Whether records of a kind have the log's number; `None` for kinds that are not known.
fn is_numbered(kind: u8) -> Option<bool> {
    match kind {
        1..=4 | 9 | 10 => Some(false),
        5..=8 | 11 => Some(true),
        _ => None,
    }
}

/// The length of a record's header, if its checksum holds.
fn header(block: &[u8], at: usize, stored: u32, size: usize, kind: u8) -> Option<usize> {
    let holds = |header: usize| {
        let summed = block.get(at + HEADER - 1..at + header + size);
        summed.is_some_and(|summed| masked_crc(crc32c::crc32c(summed)) == stored)
    };
    let (plain, numbered) = match is_numbered(kind) {
        Some(numbered) => (!numbered, numbered),
        // The checksum tells.
        None => (true, true),
    };
    if plain && holds(HEADER) {
        return Some(HEADER);
    }
    (numbered && holds(NUMBERED)).then_some(NUMBERED)
}

/// Reads a log's records, handing each over; longer ones than `limit` only in part.
pub(super) fn read(
    source: &Source,
    limit: usize,
    mut each: impl FnMut(&[u8]),
) -> Result<End, Error> {
    let mut buffer = vec![0; BLOCK];
    let mut record = Vec::new();
    let mut offset = 0;
    // Whether the records that hold the log's content have its number: all or none of them do.
    let mut numbered = None;
    loop {
        let length = source.read_at(&mut buffer, offset)?;
        let block = &buffer[..length];
        if length == 0 {
            return Ok(if record.is_empty() { End::Whole } else { End::CutOff });
        }
        let mut at = 0;
        while at + HEADER <= length {
            let place = offset + u64::try_from(at).unwrap_or(0);
            let stored =
                u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
            let size = usize::from(u16::from_le_bytes([block[at + 4], block[at + 5]]));
            let kind = block[at + 6];
            if kind == 0 && size == 0 {
                // Preallocated: nothing follows in this block.
                at = length;
                break;
            }
            let Some(header) = header(block, at, stored, size, kind) else {
                let end = offset + u64::try_from(length).unwrap_or(0);
                let last = end >= source.length();
                return Ok(match (is_numbered(kind), numbered) {
                    (Some(true), None) | (_, Some(true)) => End::Older,
                    _ if last && at + HEADER + size > length => End::CutOff,
                    _ => End::Damaged(place),
                });
            };
            if (1..=8).contains(&kind) {
                numbered.get_or_insert(header == NUMBERED);
            }
            let data = &block[at + header..at + header + size];
            if matches!(kind, 1 | 2 | 5 | 6) {
                record.clear();
            }
            record.extend_from_slice(&data[..data.len().min(limit.saturating_sub(record.len()))]);
            if matches!(kind, 1 | 4 | 5 | 8) {
                each(&record);
                record.clear();
            }
            at += header + size;
        }
        // Too little for a record: a block that is full ends with zeros.
        if length < BLOCK && !is_zero(&block[at..]) {
            return Ok(End::CutOff);
        }
        offset += u64::try_from(BLOCK).unwrap_or(0);
    }
}

//! Owns the check of one of RocksDB's files of large values: every record's checksums are verified.
//! It knows nothing of the store that the file is in.

use std::sync::atomic::AtomicBool;

use super::checksum::{Kind, masked_crc};
use super::window::Window;
use crate::stores::Error;
use crate::stores::report::Findings;
use crate::stores::source::{Source, u32_at, u64_at};

/// What begins and what ends such a file.
const MAGIC: u32 = 0x0024_8f37;
/// The only version that is known.
const VERSION: u32 = 1;
/// Lengths of what begins the file, what begins each record and what ends the file, in bytes.
const HEADER: u64 = 30;
const RECORD: u64 = 32;
const FOOTER: u64 = 32;

/// Checks a file of large values. Damage goes to the findings, after the file's name. Tells why not
/// all of it was verified; nothing for one that was.
pub(super) fn check(
    source: &Source,
    name: &str,
    cancelled: &AtomicBool,
    findings: &mut Findings,
) -> Result<Option<String>, Error> {
    let mut window = Window::new(source, cancelled);
    let header = window.get(0, usize::try_from(HEADER).unwrap_or(0))?;
    if u32_at(header, 0) != Some(MAGIC) {
        findings.damage(format!("{name} does not begin like one"));
        return Ok(None);
    }
    if let Some(version) = u32_at(header, 4).filter(|version| *version != VERSION) {
        return Ok(Some(format!("version {version} is not known")));
    }
    let Some(end) = source.length().checked_sub(FOOTER).filter(|end| *end >= HEADER) else {
        findings.damage(format!("{name} is cut off"));
        return Ok(None);
    };
    let (mut at, mut count) = (HEADER, 0_u64);
    while at < end {
        let Some(record) = Record::read(&mut window, at, end)? else {
            findings.damage(format!("{name}: the record at byte {at} is damaged"));
            return Ok(None);
        };
        if !record.is_sound(&mut window)? {
            findings.damage(format!("{name}: the record at byte {at} does not match its checksum"));
            if findings.is_full() {
                return Ok(None);
            }
        }
        count += 1;
        at = record.end;
    }
    let footer = window.get(end, usize::try_from(FOOTER).unwrap_or(0))?;
    if !ends(footer, count) {
        findings.damage(format!("{name}: what ends it at byte {end} is damaged"));
    }
    Ok(None)
}

/// Whether these bytes end a file with so many records.
fn ends(footer: &[u8], count: u64) -> bool {
    let Some((summed, stored)) = footer.split_last_chunk::<4>() else { return false };
    u32_at(footer, 0) == Some(MAGIC)
        && u64_at(footer, 4) == Some(count)
        && Kind::Crc32c.of(summed) == u32::from_le_bytes(*stored)
}

/// A record whose header is sound.
struct Record {
    /// Where its key and value begin, and where they end.
    start: u64,
    end: u64,
    stored: u32,
}

impl Record {
    /// Reads one that lies before `end`; `None` for one that is damaged.
    fn read(window: &mut Window<'_>, at: u64, end: u64) -> Result<Option<Self>, Error> {
        let header = window.get(at, usize::try_from(RECORD).unwrap_or(0))?;
        Ok(Self::parse(header, at, end))
    }

    fn parse(header: &[u8], at: u64, end: u64) -> Option<Self> {
        // The times of expiry are summed with the lengths.
        let sum = Kind::Crc32c.of(header.get(..24)?);
        if u32_at(header, 24) != Some(sum) {
            return None;
        }
        let start = at.checked_add(RECORD)?;
        let length = u64_at(header, 0)?.checked_add(u64_at(header, 8)?)?;
        let last = start.checked_add(length).filter(|last| *last <= end)?;
        Some(Self { start, end: last, stored: u32_at(header, 28)? })
    }

    fn is_sound(&self, window: &mut Window<'_>) -> Result<bool, Error> {
        let mut crc = 0;
        window.pieces(self.start, self.end - self.start, |piece| {
            crc = crc32c::crc32c_append(crc, piece);
        })?;
        Ok(masked_crc(crc) == self.stored)
    }
}

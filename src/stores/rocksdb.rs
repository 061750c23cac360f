//! Owns RocksDB and LevelDB directories, as far as they can be checked without their engine: the
//! log of versions is read and its checksums verified, the tables that it names must be there with
//! their sizes and footers, the write-ahead logs' checksums must hold. What lies in the tables is
//! not read.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crc::{CRC_32_ISCSI, Crc};

use super::report::Findings;
use super::source::{Source, has_content, is_file};
use super::{CheckReport, Error, LiveState, Outcome, StoreKind, Summary};

const CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// Footers of tables: RocksDB's block-based, plain and cuckoo tables, LevelDB's tables.
const FOOTERS: [u64; 4] =
    [0x88e2_41b7_85f4_cff7, 0x8242_2296_63bf_9564, 0x9267_89d0_c5f1_7873, LEVELDB_FOOTER];
const LEVELDB_FOOTER: u64 = 0xdb47_7524_8b80_fb57;

/// A log's blocks.
const BLOCK: usize = 32 * 1024;

/// The largest log of versions that is read, and the largest record in one, in bytes.
const MAX_MANIFEST: u64 = 1 << 30;

/// The log of versions that `CURRENT` names, if there is one.
pub(super) fn manifest(directory: &Path) -> Result<Option<PathBuf>, Error> {
    let Some(current) = Source::open_if_there(&directory.join("CURRENT")).ok().flatten() else {
        return Ok(None);
    };
    let head = current.head(64)?;
    let Some(name) = head.strip_suffix(b"\n").and_then(|name| std::str::from_utf8(name).ok())
    else {
        return Ok(None);
    };
    let number = name.strip_prefix("MANIFEST-").unwrap_or_default();
    let valid = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    Ok(valid.then(|| directory.join(name)))
}

/// The kind of file that a name in such a directory tells, with its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FileName {
    Table(u64),
    Blob(u64),
    Log,
    Other,
}

fn parse_name(name: &str) -> Option<FileName> {
    if let Some((number, extension)) = name.rsplit_once('.')
        && let Ok(number) = number.parse()
    {
        return match extension {
            "sst" | "ldb" => Some(FileName::Table(number)),
            "log" => Some(FileName::Log),
            "blob" => Some(FileName::Blob(number)),
            "dbtmp" => Some(FileName::Other),
            _ => None,
        };
    }
    let others = ["CURRENT", "LOCK", "LOG", "IDENTITY"];
    let prefixes = ["MANIFEST-", "OPTIONS-", "LOG.old"];
    (others.contains(&name) || prefixes.iter().any(|prefix| name.starts_with(prefix)))
        .then_some(FileName::Other)
}

/// The store's files by name.
pub(super) fn files(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = |error| Error::io(directory, "list", error);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_name().to_str().and_then(parse_name).is_some() && is_file(&entry.path()) {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

/// The store's files that a test picks, by number.
fn numbered(files: &[PathBuf], pick: impl Fn(FileName) -> Option<u64>) -> BTreeMap<u64, &PathBuf> {
    let number = |path: &PathBuf| parse_name(path.file_name()?.to_str()?).and_then(&pick);
    files.iter().filter_map(|path| Some((number(path)?, path))).collect()
}

/// The store's tables by number.
fn tables(files: &[PathBuf]) -> BTreeMap<u64, &PathBuf> {
    numbered(files, |name| match name {
        FileName::Table(number) => Some(number),
        _ => None,
    })
}

/// The store's files of large values by number.
fn blobs(files: &[PathBuf]) -> BTreeMap<u64, &PathBuf> {
    numbered(files, |name| match name {
        FileName::Blob(number) => Some(number),
        _ => None,
    })
}

/// The store's write-ahead logs.
fn logs(files: &[PathBuf]) -> impl Iterator<Item = &PathBuf> {
    files.iter().filter(|path| path.extension().is_some_and(|extension| extension == "log"))
}

fn footer(path: &Path) -> Result<Option<u64>, Error> {
    let source = Source::open(path)?;
    let Some(at) = source.length().checked_sub(8) else { return Ok(None) };
    Ok(source.bytes_at::<8>(at)?.map(u64::from_le_bytes))
}

/// RocksDB or LevelDB, by the tables' footers or else by the files that only RocksDB makes.
pub(super) fn kind(files: &[PathBuf]) -> Result<StoreKind, Error> {
    let named = |start: &str| {
        files.iter().any(|path| {
            path.file_name()
                .and_then(|name| name.to_str())
                .is_some_and(|name| name.starts_with(start))
        })
    };
    if named("IDENTITY") || named("OPTIONS-") {
        return Ok(StoreKind::RocksDb);
    }
    match tables(files).values().next() {
        Some(table) if footer(table)? != Some(LEVELDB_FOOTER) => Ok(StoreKind::RocksDb),
        _ => Ok(StoreKind::LevelDb),
    }
}

/// Whether a write-ahead log holds something.
pub(super) fn state(files: &[PathBuf]) -> LiveState {
    if logs(files).any(|log| has_content(log)) { LiveState::PendingLog } else { LiveState::Clean }
}

/// How the reading of a log ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Whole.
    Whole,
    /// With a record that was being written, or zeros.
    CutOff,
    /// At a record whose checksum fails, at this offset.
    Damaged(u64),
}

/// Reads a log's records, handing each over; longer ones than `limit` only in part.
fn read_log(source: &Source, limit: usize, mut each: impl FnMut(&[u8])) -> Result<End, Error> {
    let mut block = vec![0; BLOCK];
    let mut record = Vec::new();
    let mut offset = 0;
    loop {
        let length = source.read_at(&mut block, offset)?;
        if length == 0 {
            return Ok(if record.is_empty() { End::Whole } else { End::CutOff });
        }
        let mut at = 0;
        while at + 7 <= length {
            let place = offset + u64::try_from(at).unwrap_or(0);
            let stored =
                u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
            let size = usize::from(u16::from_le_bytes([block[at + 4], block[at + 5]]));
            let kind = block[at + 6];
            if kind == 0 && size == 0 {
                // Preallocated: nothing follows in this block.
                break;
            }
            // Recycled logs have the log's number in each header.
            let recycled = (5..=8).contains(&kind) || kind == 130 || kind == 131;
            let start = at + if recycled { 11 } else { 7 };
            let Some(data) = block.get(start..start + size).filter(|_| start + size <= length)
            else {
                let last = offset + u64::try_from(length).unwrap_or(0) >= source.length();
                return Ok(if last { End::CutOff } else { End::Damaged(place) });
            };
            if unmask(stored) != CRC.checksum(&block[at + 6..start + size]) {
                // What follows the last record of a recycled log is the older log.
                return Ok(if recycled { End::CutOff } else { End::Damaged(place) });
            }
            if matches!(kind, 1 | 2 | 5 | 6) {
                record.clear();
            }
            record.extend_from_slice(&data[..data.len().min(limit.saturating_sub(record.len()))]);
            if matches!(kind, 1 | 4 | 5 | 8) {
                each(&record);
                record.clear();
            }
            at = start + size;
        }
        offset += u64::try_from(BLOCK).unwrap_or(0);
    }
}

fn unmask(stored: u32) -> u32 {
    stored.wrapping_sub(0xa282_ead8).rotate_left(15)
}

/// Reads the numbers and strings of a version edit.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn number(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7F).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn string(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        let (string, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(string)
    }
}

/// What the log of versions says of a table.
#[derive(Clone, Copy)]
struct Table {
    /// Its size in bytes.
    size: u64,
    /// The file of large values that it refers to, the oldest of them; 0 for none.
    blob: u64,
}

/// What the log of versions adds up to.
#[derive(Default)]
struct Version {
    /// Tables by column family and number.
    tables: BTreeMap<(u64, u64), Table>,
    families: BTreeMap<u64, Vec<u8>>,
    last_sequence: u64,
    /// Whether an edit had a field that this reader doesn't know.
    unknown: bool,
}

impl Version {
    /// Applies one edit.
    fn apply(&mut self, edit: &[u8]) {
        let mut cursor = Cursor(edit);
        let mut family = 0;
        let mut added = Vec::new();
        let mut removed = Vec::new();
        while !cursor.0.is_empty() {
            if self.field(&mut cursor, &mut family, &mut added, &mut removed).is_none() {
                self.unknown = true;
                break;
            }
        }
        for number in removed {
            self.tables.remove(&(family, number));
        }
        for (number, table) in added {
            self.tables.insert((family, number), table);
        }
    }

    /// Reads one field; `None` where it is unknown or malformed.
    fn field(
        &mut self,
        cursor: &mut Cursor<'_>,
        family: &mut u64,
        added: &mut Vec<(u64, Table)>,
        removed: &mut Vec<u64>,
    ) -> Option<()> {
        match cursor.number()? {
            // Comparator.
            1 => drop(cursor.string()?),
            // Log numbers, next file, largest column family, atomic group.
            2 | 3 | 9 | 10 | 203 | 300 => drop(cursor.number()?),
            4 => self.last_sequence = cursor.number()?,
            5 => {
                cursor.number()?;
                cursor.string()?;
            }
            6 => {
                cursor.number()?;
                removed.push(cursor.number()?);
            }
            tag @ (7 | 100 | 102 | 103) => {
                cursor.number()?;
                let number = cursor.number()?;
                if tag == 102 {
                    cursor.number()?;
                }
                let size = cursor.number()?;
                cursor.string()?;
                cursor.string()?;
                if tag != 7 {
                    cursor.number()?;
                    cursor.number()?;
                }
                let mut blob = 0;
                let mut next = if tag == 103 { cursor.number()? } else { 1 };
                while next != 1 {
                    let value = cursor.string()?;
                    if next == 4 {
                        blob = Cursor(value).number()?;
                    }
                    next = cursor.number()?;
                }
                added.push((number, Table { size, blob }));
            }
            200 => *family = cursor.number()?,
            201 => {
                let name = cursor.string()?.to_vec();
                self.families.insert(*family, name);
            }
            202 => {
                self.families.remove(family);
                self.tables.retain(|(owner, _), _| owner != family);
            }
            // Files of large values: added, and what in them is not wanted any more.
            tag @ (400 | 401) => {
                for _ in 0..3 {
                    cursor.number()?;
                }
                if tag == 400 {
                    cursor.string()?;
                    cursor.string()?;
                }
                while cursor.number()? != 0 {
                    cursor.string()?;
                }
            }
            // Fields that may be skipped.
            tag if tag & (1 << 13) != 0 => drop(cursor.string()?),
            _ => return None,
        }
        Some(())
    }
}

fn read_version(manifest: &Source) -> Result<(Version, End), Error> {
    let mut version = Version::default();
    version.families.insert(0, b"default".to_vec());
    let limit = usize::try_from(MAX_MANIFEST).unwrap_or(usize::MAX);
    let end = read_log(manifest, limit, |record| version.apply(record))?;
    Ok((version, end))
}

/// Checks everything but the tables' content.
pub(super) fn check(directory: &Path) -> Result<CheckReport, Error> {
    let mut findings = Findings::default();
    let files = files(directory)?;
    match manifest(directory)?.map(|path| Source::open_if_there(&path)).transpose()?.flatten() {
        None => findings.damage("CURRENT names no log of versions that is there"),
        Some(source) if source.length() > MAX_MANIFEST => {
            findings.remark("the log of versions is too long to be read");
        }
        Some(source) => {
            let (version, end) = read_version(&source)?;
            if let End::Damaged(at) = end {
                findings.damage(format!("the log of versions is damaged at byte {at}"));
            }
            check_version(&version, end, &files, &mut findings)?;
        }
    }
    for log in logs(&files) {
        if let End::Damaged(at) = read_log(&Source::open(log)?, 0, |_| ())? {
            let name = log.file_name().unwrap_or_default().to_string_lossy();
            findings.damage(format!("the write-ahead log {name} is damaged at byte {at}"));
        }
    }
    let method = "log of versions, tables' sizes and footers, write-ahead logs; tables' content was not read";
    Ok(findings.report(Outcome::StructureOnly, method))
}

fn check_version(
    version: &Version,
    end: End,
    files: &[PathBuf],
    findings: &mut Findings,
) -> Result<(), Error> {
    if version.unknown || end != End::Whole {
        findings.remark("the log of versions was not understood to its end");
        return Ok(());
    }
    let (present, values) = (tables(files), blobs(files));
    for ((_, number), Table { size, blob }) in &version.tables {
        if *blob != 0 && !values.contains_key(blob) {
            findings.damage(format!("the file of large values {blob:06} is missing"));
        }
        let Some(path) = present.get(number) else {
            findings.damage(format!("table {number:06} is missing"));
            continue;
        };
        let length = path.symlink_metadata().map_or(0, |metadata| metadata.len());
        if length != *size {
            findings.damage(format!("table {number:06} has {length} bytes, {size} expected"));
        } else if !footer(path)?.is_some_and(|footer| FOOTERS.contains(&footer)) {
            findings.damage(format!("table {number:06} has no footer"));
        }
    }
    Ok(())
}

/// Facts of the newest version.
pub(super) fn summary(directory: &Path) -> Result<Option<Summary>, Error> {
    let Some(path) = manifest(directory)? else { return Ok(None) };
    let Some(source) = Source::open_if_there(&path)?.filter(|s| s.length() <= MAX_MANIFEST) else {
        return Ok(None);
    };
    let (version, _) = read_version(&source)?;
    let mut summary = Summary::default();
    let mut put = |name: &str, value: String| summary.facts.insert(name.to_owned(), value);
    let numbers: BTreeSet<u64> = version.tables.keys().map(|(_, number)| *number).collect();
    put("tables", numbers.len().to_string());
    put(
        "bytes in tables",
        version.tables.values().map(|table| table.size).sum::<u64>().to_string(),
    );
    put("last sequence", version.last_sequence.to_string());
    let names: Vec<_> =
        version.families.values().map(|name| name.escape_ascii().to_string()).collect();
    put("column families", names.join(", "));
    Ok(Some(summary))
}

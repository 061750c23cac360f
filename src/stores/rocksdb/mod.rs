//! Owns RocksDB and LevelDB directories: which files are part of such a store, and how they are checked
//! without its engine. The log of versions is read and its checksums verified; the tables and files of
//! large values that it names must be there, and all checksums in them and in the write-ahead logs
//! must hold. What keys and values mean, it must not know.

mod blob;
mod block;
mod checksum;
mod footer;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod index;
mod log;
mod numbers;
mod reader;
mod table;
mod version;
mod window;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use log::End;
use version::{Table, Version};

use super::report::Findings;
use super::source::{Source, has_content, is_file};
use super::{CheckReport, Error, LiveState, Outcome, StoreKind, Summary};

/// The file that names the log of versions.
pub(super) const CURRENT: &str = "CURRENT";

/// The log of versions that `CURRENT` names, if there is one.
pub(super) fn manifest(directory: &Path) -> Result<Option<PathBuf>, Error> {
    let Some(current) = Source::open_if_there(&directory.join(CURRENT)).ok().flatten() else {
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

/// What kind of table a file's last bytes tell.
fn magic(path: &Path) -> Result<Option<u64>, Error> {
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
        Some(table) if magic(table)? != Some(footer::LEVELDB) => Ok(StoreKind::RocksDb),
        _ => Ok(StoreKind::LevelDb),
    }
}

/// Whether a write-ahead log holds something.
pub(super) fn state(files: &[PathBuf]) -> LiveState {
    if logs(files).any(|log| has_content(log)) { LiveState::PendingLog } else { LiveState::Clean }
}

/// Why files were not verified in full: how many, and the first of them.
#[derive(Default)]
struct Unverified(BTreeMap<String, (String, usize)>);

impl Unverified {
    fn add(&mut self, name: &str, reasons: impl IntoIterator<Item = String>) {
        for reason in reasons {
            self.0.entry(reason).or_insert_with(|| (name.to_owned(), 0)).1 += 1;
        }
    }

    /// Whether there were any. They go to the findings.
    fn tell(self, findings: &mut Findings) -> bool {
        let any = !self.0.is_empty();
        for (reason, (name, count)) in self.0 {
            let others = match count {
                0 | 1 => String::new(),
                2 => " and another one".to_owned(),
                count => format!(" and {} others", count - 1),
            };
            findings.remark(format!("{name}{others}: not verified in full: {reason}"));
        }
        any
    }
}

/// Checks the log of versions, the write-ahead logs, and every block of the tables and every record
/// of the files of large values that are part of the store.
pub(super) fn check(directory: &Path, cancelled: &AtomicBool) -> Result<CheckReport, Error> {
    let mut findings = Findings::default();
    let files = files(directory)?;
    let mut complete = false;
    match manifest(directory)?.map(|path| Source::open_if_there(&path)).transpose()?.flatten() {
        None => findings.damage("CURRENT names no log of versions that is there"),
        Some(source) if source.length() > version::LONGEST => {
            findings.remark("the log of versions is too long to be read");
        }
        Some(source) => {
            let (version, end) = version::read(&source)?;
            if let End::Damaged(at) = end {
                findings.damage(format!("the log of versions is damaged at byte {at}"));
            }
            if version.unknown || end != End::Whole {
                findings.remark("the log of versions was not understood to its end");
            } else if !version.begun {
                findings.damage("the log of versions is cut off");
            } else {
                complete = check_version(&version, &files, cancelled, &mut findings)?;
            }
        }
    }
    for log in logs(&files) {
        let name = log.file_name().unwrap_or_default().to_string_lossy();
        match log::read(&Source::open(log)?, 0, |_| ())? {
            End::Damaged(at) => {
                findings.damage(format!("the write-ahead log {name} is damaged at byte {at}"));
            }
            // As a power cut leaves it: the engine takes what is before.
            End::CutOff => {
                findings.remark(format!("the write-ahead log {name} ends within a record"));
            }
            End::Whole | End::Older => {}
        }
    }
    let method = "checksums of the log of versions, of the write-ahead logs and of every block of \
                  the tables";
    let outcome = if complete { Outcome::Sound } else { Outcome::StructureOnly };
    Ok(findings.report(outcome, method))
}

/// Checks the tables and the files of large values that a version names. Whether all of them could
/// be verified in full.
fn check_version(
    version: &Version,
    files: &[PathBuf],
    cancelled: &AtomicBool,
    findings: &mut Findings,
) -> Result<bool, Error> {
    let (present, values) = (tables(files), blobs(files));
    let mut unverified = Unverified::default();
    for ((_, number), Table { size, blob }) in &version.tables {
        if *blob != 0 && !values.contains_key(blob) {
            findings.damage(format!("the file of large values {blob:06} is missing"));
        }
        let Some(path) = present.get(number) else {
            findings.damage(format!("table {number:06} is missing"));
            continue;
        };
        let source = Source::open(path)?;
        let length = source.length();
        if length != *size {
            findings.damage(format!("table {number:06} has {length} bytes, {size} expected"));
        } else if !findings.is_full() {
            let name = format!("table {number:06}");
            unverified.add(&name, table::check(&source, &name, cancelled, findings)?);
        }
    }
    for number in &version.values {
        if let Some(path) = values.get(number)
            && !findings.is_full()
        {
            let name = format!("the file of large values {number:06}");
            let source = Source::open(path)?;
            unverified.add(&name, blob::check(&source, &name, cancelled, findings)?);
        }
    }
    Ok(!unverified.tell(findings))
}

/// Facts of the newest version.
pub(super) fn summary(directory: &Path) -> Result<Option<Summary>, Error> {
    let Some(path) = manifest(directory)? else { return Ok(None) };
    let Some(source) = Source::open_if_there(&path)?.filter(|s| s.length() <= version::LONGEST)
    else {
        return Ok(None);
    };
    let (version, _) = version::read(&source)?;
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

#[cfg(test)]
mod tests;

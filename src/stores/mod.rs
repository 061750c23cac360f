//! Owns what strongroom knows of the stores that apps keep: finds them by content, checks and
//! summarises them, and tells who holds them open. It must know nothing of migrations, vaults or
//! profiles. Nothing here changes a byte, a name or a modification time of what it looks at.
//!
//! [`scan()`] finds the components of a tree, [`check`] runs a store's own check, [`summary`] tells
//! facts to compare before and after a copy, [`open_files()`] tells which processes are in the way,
//! [`copy_live`] copies stores that are in use.

mod ahead;
mod chroma;
mod duckdb;
mod elsewhere;
mod error;
mod live;
mod lmdb;
mod marks;
mod neo4j;
mod open_files;
mod path_text;
mod postgres;
mod redis;
mod report;
mod rocksdb;
mod scan;
mod scratch;
mod source;
mod sqlite;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

pub use error::Error;
pub use live::{LiveCopy, copy_live};
pub use open_files::{Holder, OpenFile, OpenFiles, open_files};
#[cfg(any(test, fuzzing))]
pub use rocksdb::fuzzing;
pub use scratch::remove_leftovers;

/// The kind of a store.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum StoreKind {
    /// A SQLite or libSQL database file with its journal files.
    Sqlite,
    /// An encrypted SQLite database (SQLCipher and kin) with its salt file: opaque to us.
    SqlCipher,
    /// An LMDB environment.
    Lmdb,
    /// A RocksDB directory.
    RocksDb,
    /// A LevelDB directory.
    LevelDb,
    /// A ChromaDB directory: its SQLite and its index directories.
    Chroma,
    /// A DuckDB database file with its write-ahead log.
    DuckDb,
    /// A PostgreSQL cluster directory.
    Postgres,
    /// A Redis dump or append-only directory.
    Redis,
    /// A Neo4j database directory.
    Neo4j,
}

impl fmt::Display for StoreKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Sqlite => "SQLite",
            Self::SqlCipher => "encrypted SQLite",
            Self::Lmdb => "LMDB",
            Self::RocksDb => "RocksDB",
            Self::LevelDb => "LevelDB",
            Self::Chroma => "ChromaDB",
            Self::DuckDb => "DuckDB",
            Self::Postgres => "PostgreSQL",
            Self::Redis => "Redis",
            Self::Neo4j => "Neo4j",
        })
    }
}

/// What a store's files say of how it was last closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum LiveState {
    /// Closed cleanly: nothing waits in a log.
    Clean,
    /// In use, or not closed cleanly: a log or journal holds changes that belong to the store. Its
    /// files are one unit; a copy of all of them is good if no process wrote meanwhile.
    PendingLog,
    /// The files don't tell.
    Unknown,
}

/// One store of an app.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Component {
    /// What it is.
    pub kind: StoreKind,
    /// Its main file or its directory, relative to the scanned root (empty: the root itself).
    #[serde(with = "path_text")]
    pub path: PathBuf,
    /// Every regular file that belongs to it, relative to the scanned root, sorted.
    #[serde(with = "path_text::list")]
    pub files: Vec<PathBuf>,
    /// The sum of those files' sizes in bytes.
    pub bytes: u64,
    /// How it was last closed.
    pub state: LiveState,
}

/// What [`scan()`] found.
#[derive(Debug, Default)]
pub struct Scan {
    /// The stores, in the order of their paths. A store inside another one's directory (Chroma's
    /// SQLite) belongs to the outer one and is not listed again.
    pub components: Vec<Component>,
    /// What could not be looked at.
    pub unreadable: Vec<Error>,
    /// How many entries the tree has, as far as they were met: what belongs to a store is counted by
    /// its files.
    pub entries: u64,
    /// The lengths of its files in bytes, holes included.
    pub bytes: u64,
}

/// How far a check could go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Outcome {
    /// The whole store was read by its own rules and is sound.
    Sound,
    /// Its outer structure is sound; its content was not read.
    StructureOnly,
    /// It is damaged; [`CheckReport::findings`] says where.
    Damaged,
    /// It could not be checked here; [`CheckReport::findings`] says why.
    NotChecked,
}

/// The result of [`check`].
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CheckReport {
    /// How it came out.
    pub outcome: Outcome,
    /// What was done: "PRAGMA integrity_check", "every page", "file sizes and footers", …
    pub method: String,
    /// Damage, reasons and remarks, at most [`CheckReport::MAX_FINDINGS`].
    pub findings: Vec<String>,
}

impl CheckReport {
    /// A check stops after so many findings.
    pub const MAX_FINDINGS: usize = 100;

    /// Of a store that was not checked, for this reason.
    pub fn not_checked(reason: impl Into<String>) -> Self {
        report::not_checked(reason)
    }
}

/// How [`check`] and [`summary`] may work.
#[derive(Clone, Debug, Default)]
pub struct CheckOptions<'a> {
    /// A directory that may hold plaintext for the time of the check: on an encrypted mount. Used
    /// for stores that can only be read by replaying their log, which must not happen in place.
    /// Without it memory serves, for stores that fit; what doesn't is
    /// [`Outcome::NotChecked`].
    pub scratch: Option<PathBuf>,
    /// Is set by somebody else to end the check of a SQLite, LMDB, RocksDB or LevelDB store early,
    /// with [`Error::Cancelled`].
    pub cancelled: Option<&'a AtomicBool>,
}

/// What is never cancelled.
static NEVER: AtomicBool = AtomicBool::new(false);

/// Facts of a store that a faithful copy shares: table and row counts, entry counts,
/// collections. Compare them with `==`.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Summary {
    /// The facts by name, such as `rows of "messages"` = `1042`.
    pub facts: BTreeMap<String, String>,
}

/// Finds the stores in a tree, by content. Symlinks are not followed, mounts below are.
///
/// # Errors
/// Where `root` itself can't be read; trouble below it is listed in [`Scan::unreadable`].
pub fn scan(root: &Path) -> Result<Scan, Error> {
    scan_until(root, &AtomicBool::new(false))
}

/// The same, until `cancelled` is set by somebody else: of a large tree that nobody has read lately it
/// takes minutes.
///
/// # Errors
/// Those of [`scan()`]; [`Error::Cancelled`].
pub fn scan_until(root: &Path, cancelled: &AtomicBool) -> Result<Scan, Error> {
    scan::scan(root, ahead::Look { cancelled, every_file: true, lister: None })
}

/// The same without opening the files that [are hardly of a store](is_unlikely), which of a tree of many
/// small files spares most of the time. It may miss a store that consists of such files: for whoever reads
/// them anyway, asks [`may_be_of_store`] of what they begin with, and [scans](scan_until) anew where that
/// is so. Directories are listed by `lister`, as far as it can.
///
/// # Errors
/// Those of [`scan_until`].
pub fn scan_likely(
    root: &Path,
    lister: Option<&dyn Lister>,
    cancelled: &AtomicBool,
) -> Result<Scan, Error> {
    scan::scan(root, ahead::Look { cancelled, every_file: false, lister })
}

/// Lists directories for a [look for stores](scan_likely): for whoever wants to know what is in them anyway.
pub trait Lister: Sync {
    /// Tells `each` the name of everything in `directory` (a path that begins with the root of the look),
    /// and what it is, in any order. False where that is not possible: what was told does not count then,
    /// and the directory is listed without it. Called from several threads.
    fn list(&self, directory: &Path, each: &mut dyn FnMut(&[u8], Listed)) -> bool;
}

/// What a name in a directory is of. Symlinks are not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listed {
    /// A directory.
    Directory,
    /// A regular file.
    Regular {
        /// In bytes.
        length: u64,
    },
    /// Something else.
    Other,
}

/// Whether a file of this name and of `length` bytes is hardly of a store: it is short, and not made of whole
/// pages, as all are but Redis's unless they are damaged, and its name speaks for none either.
pub fn is_unlikely(name: &[u8], length: u64) -> bool {
    marks::is_unlikely(name, length)
}

/// How much of a file [`may_be_of_store`] wants to see, in bytes.
pub const GLANCE_LEN: usize = marks::SAMPLE;

/// Whether a file of `length` bytes that begins with `head` may be of a store: the first [`GLANCE_LEN`]
/// bytes, or all of it. No store is found by [`scan()`] in a tree in which neither this is true of a file
/// nor [`is_name_of_store`] of a name; where one is true, there may be none all the same.
pub fn may_be_of_store(length: u64, head: &[u8]) -> bool {
    marks::may_be_of_store(length, head)
}

/// Whether a file of this name may make the directory that it lies in a store.
pub fn is_name_of_store(name: &[u8]) -> bool {
    marks::is_name_of_store(name)
}

/// Runs the store's own check, reading only. The store must be at rest: what a process writes
/// meanwhile can look like damage.
///
/// # Errors
/// Where its files can't be read; [`Error::Cancelled`]. Damage is no error but [`Outcome::Damaged`].
pub fn check(
    root: &Path,
    component: &Component,
    options: &CheckOptions<'_>,
) -> Result<CheckReport, Error> {
    let path = absolute(root, &component.path);
    match component.kind {
        StoreKind::Sqlite => sqlite::check(&path, options),
        StoreKind::SqlCipher => {
            Ok(report::not_checked("encrypted by the app: opaque to strongroom"))
        }
        StoreKind::Lmdb => {
            lmdb::check(&source::Source::open(&path)?, options.cancelled.unwrap_or(&NEVER))
        }
        StoreKind::RocksDb | StoreKind::LevelDb => {
            rocksdb::check(&path, options.cancelled.unwrap_or(&NEVER))
        }
        StoreKind::Chroma => chroma::check(&database(root, component)?, options),
        StoreKind::DuckDb => duckdb::check(&path),
        StoreKind::Postgres => postgres::check(&path),
        StoreKind::Redis => redis::check(&redis_files(root, component)),
        StoreKind::Neo4j => neo4j::check(&path),
    }
}

/// Tells facts to compare before and after a copy. `None` where the store can't be read here (it
/// is opaque, or its log would have to be replayed; see [`CheckOptions::scratch`]).
///
/// # Errors
/// Where its files can't be read, or are damaged.
pub fn summary(
    root: &Path,
    component: &Component,
    options: &CheckOptions<'_>,
) -> Result<Option<Summary>, Error> {
    let path = absolute(root, &component.path);
    match component.kind {
        StoreKind::Sqlite => sqlite::summary(&path, options),
        StoreKind::SqlCipher => Ok(None),
        StoreKind::Lmdb => lmdb::summary(&source::Source::open(&path)?),
        StoreKind::RocksDb | StoreKind::LevelDb => rocksdb::summary(&path),
        StoreKind::Chroma => chroma::summary(&database(root, component)?, options),
        StoreKind::DuckDb => duckdb::summary(&path),
        StoreKind::Postgres => postgres::summary(&path),
        StoreKind::Redis => redis::summary(&redis_files(root, component)),
        StoreKind::Neo4j => neo4j::summary(&path),
    }
}

/// A component's path on disk; the root itself for an empty one.
fn absolute(root: &Path, path: &Path) -> PathBuf {
    if path.as_os_str().is_empty() { root.to_path_buf() } else { root.join(path) }
}

/// The SQLite database of a Chroma component: its only file with SQLite's mark next to the index
/// directories.
fn database(root: &Path, component: &Component) -> Result<PathBuf, Error> {
    let beside = |path: &&PathBuf| path.parent() == Some(component.path.as_path());
    for file in component.files.iter().filter(beside) {
        let path = root.join(file);
        let source = source::Source::open_if_there(&path)?;
        if let Some(source) = source
            && source.head(sqlite::MAGIC.len())? == sqlite::MAGIC
        {
            return Ok(path);
        }
    }
    Err(Error::Damaged {
        path: absolute(root, &component.path),
        detail: "its SQLite database is missing".to_owned(),
    })
}

/// A Redis component's files, its main one first.
fn redis_files(root: &Path, component: &Component) -> Vec<PathBuf> {
    let others = component.files.iter().filter(|file| **file != component.path);
    std::iter::once(&component.path).chain(others).map(|file| absolute(root, file)).collect()
}

#[cfg(test)]
mod tests;

//! Owns the finding of stores in a tree: which kind, which files, how last closed.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::source::{Source, is_file};
use super::sqlite::with_suffix;
use super::{
    Component, Error, LiveState, Scan, StoreKind, chroma, duckdb, lmdb, neo4j, postgres, redis,
    rocksdb, sqlite,
};

/// How much of a file is read to recognise it, in bytes.
const HEAD: usize = 4096;
/// How many threads look at files side by side, at how many each at least, and how many files are
/// listed before that.
const READERS: usize = 16;
const PART: usize = 16;
const BATCH: usize = 4096;

/// A store with absolute paths.
struct Found {
    kind: StoreKind,
    path: PathBuf,
    files: Vec<PathBuf>,
    state: LiveState,
}

/// See [`super::scan()`].
pub(super) fn scan(root: &Path) -> Result<Scan, Error> {
    let mut scanner = Scanner { root, scan: Scan::default(), claimed: HashSet::new() };
    let metadata = std::fs::metadata(root).map_err(|error| Error::io(root, "look at", error))?;
    if metadata.is_file() {
        scanner.file(root);
        scanner.finish();
        return Ok(scanner.scan);
    }
    let mut directories = vec![root.to_path_buf()];
    while let Some(directory) = directories.pop() {
        match scanner.directory(&directory, &mut directories) {
            Ok(()) => {}
            Err(error) if directory == root => return Err(error),
            Err(error) => scanner.scan.unreadable.push(error),
        }
    }
    scanner.finish();
    Ok(scanner.scan)
}

struct Scanner<'a> {
    root: &'a Path,
    scan: Scan,
    /// Files and directories that belong to a store found already.
    claimed: HashSet<PathBuf>,
}

impl Scanner<'_> {
    fn finish(&mut self) {
        self.scan.components.sort_by(|a, b| (&a.path, a.kind).cmp(&(&b.path, b.kind)));
    }

    /// Looks at a directory: as a store by itself, else at what is in it.
    fn directory(&mut self, directory: &Path, below: &mut Vec<PathBuf>) -> Result<(), Error> {
        if self.claimed.contains(directory) {
            return Ok(());
        }
        match directory_store(directory) {
            Ok(Some((found, whole))) => {
                self.add(found);
                if whole {
                    return Ok(());
                }
            }
            Ok(None) => {}
            Err(error) => self.scan.unreadable.push(error),
        }
        let failed = |error| Error::io(directory, "list", error);
        let mut files = Vec::new();
        for entry in std::fs::read_dir(directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => below.push(entry.path()),
                Ok(kind) if kind.is_file() => files.push(entry.path()),
                Ok(_) => {}
                Err(error) => self.scan.unreadable.push(Error::io(entry.path(), "look at", error)),
            }
            if files.len() >= BATCH {
                self.files(&std::mem::take(&mut files));
            }
        }
        self.files(&files);
        Ok(())
    }

    /// Looks at files side by side: what takes time is the disk, which serves many at once.
    fn files(&mut self, paths: &[PathBuf]) {
        if paths.len() <= PART {
            return paths.iter().for_each(|path| self.file(path));
        }
        let part = paths.len().div_ceil(READERS).max(PART);
        let found: Vec<_> = std::thread::scope(|scope| {
            let readers: Vec<_> = paths
                .chunks(part)
                .map(|paths| {
                    scope.spawn(|| paths.iter().map(|path| file_store(path)).collect::<Vec<_>>())
                })
                .collect();
            readers.into_iter().map(std::thread::ScopedJoinHandle::join).collect()
        });
        let mut paths = paths.iter();
        for part in found {
            match part {
                Ok(part) => part.into_iter().zip(paths.by_ref()).for_each(|(found, path)| {
                    self.take(path, found);
                }),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    }

    fn file(&mut self, path: &Path) {
        self.take(path, file_store(path));
    }

    /// Takes what a look at a file found, unless the file belongs to a store found before.
    fn take(&mut self, path: &Path, found: Result<Option<Found>, Error>) {
        if self.claimed.contains(path) {
            return;
        }
        match found {
            Ok(Some(found)) => self.add(found),
            Ok(None) => {}
            Err(error) => self.scan.unreadable.push(error),
        }
    }

    fn add(&mut self, found: Found) {
        let relative = |path: &Path| path.strip_prefix(self.root).unwrap_or(path).to_path_buf();
        let mut files: Vec<PathBuf> = found.files.iter().map(|path| relative(path)).collect();
        files.sort();
        files.dedup();
        let length = |path: &PathBuf| path.symlink_metadata().map_or(0, |metadata| metadata.len());
        let bytes = found.files.iter().map(length).sum();
        let path = relative(&found.path);
        // What was listed as a store of its own, and turns out to be a part, goes.
        self.scan.components.retain(|component| !files.contains(&component.path));
        self.claimed.extend(found.files);
        let component = Component { kind: found.kind, path, files, bytes, state: found.state };
        self.scan.components.push(component);
    }
}

/// A directory that is a store, and whether everything in it is.
fn directory_store(directory: &Path) -> Result<Option<(Found, bool)>, Error> {
    let path = directory.to_path_buf();
    if postgres::recognise(directory) {
        let state = postgres::state(directory)?;
        let files = all_files(directory)?;
        return Ok(Some((Found { kind: StoreKind::Postgres, path, files, state }, true)));
    }
    if neo4j::recognise(directory) {
        let state = neo4j::state(directory);
        let mut files = all_files(directory)?;
        if let Some(logs) = neo4j::transactions(directory) {
            files.extend(all_files(&logs)?);
        }
        return Ok(Some((Found { kind: StoreKind::Neo4j, path, files, state }, true)));
    }
    if rocksdb::manifest(directory)?.is_some() {
        let files = rocksdb::files(directory)?;
        let (kind, state) = (rocksdb::kind(&files)?, rocksdb::state(&files));
        return Ok(Some((Found { kind, path, files, state }, false)));
    }
    Ok(None)
}

/// Every regular file below a directory.
fn all_files(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut files = Vec::new();
    for entry in walkdir::WalkDir::new(directory) {
        let entry = entry.map_err(|error| {
            let path = error.path().unwrap_or(directory).to_path_buf();
            Error::io(path, "list", error.into())
        })?;
        if entry.file_type().is_file() {
            files.push(entry.into_path());
        }
    }
    Ok(files)
}

/// A file that is a store, with what belongs to it.
fn file_store(path: &Path) -> Result<Option<Found>, Error> {
    let Some(source) = Source::open_if_there(path)? else { return Ok(None) };
    let head = source.head(HEAD)?;
    let found = |kind, path: PathBuf, files, state| Ok(Some(Found { kind, path, files, state }));
    let own = path.to_path_buf();
    if head.starts_with(sqlite::MAGIC) {
        if let Some(salt) = salt(path) {
            let files = sqlite::files(path).into_iter().chain([salt]).collect();
            return found(StoreKind::SqlCipher, own, files, sqlite::state(path)?);
        }
        return sqlite_store(path).map(Some);
    }
    if lmdb::recognise(&head).is_some() {
        let lock = if path.file_name().is_some_and(|name| name == "data.mdb") {
            path.with_file_name("lock.mdb")
        } else {
            with_suffix(path, "-lock")
        };
        let files = [own.clone()].into_iter().chain(is_file(&lock).then_some(lock)).collect();
        return found(StoreKind::Lmdb, own, files, LiveState::Clean);
    }
    if duckdb::recognise(&head) {
        return found(StoreKind::DuckDb, own, duckdb::files(path), duckdb::state(path));
    }
    if let Some(kind) = redis::recognise(&head) {
        let files = redis::files(path, kind)?;
        return found(StoreKind::Redis, own, files, LiveState::Clean);
    }
    if is_opaque(path, &head, source.length())? {
        let files = sqlite::files(path).into_iter().chain(salt(path)).collect();
        return found(StoreKind::SqlCipher, own, files, sqlite::state(path)?);
    }
    Ok(None)
}

fn sqlite_store(path: &Path) -> Result<Found, Error> {
    let mut files = sqlite::files(path);
    let state = sqlite::state(path)?;
    if !chroma::recognise(path) {
        return Ok(Found { kind: StoreKind::Sqlite, path: path.to_path_buf(), files, state });
    }
    let directory = path.parent().unwrap_or(Path::new("")).to_path_buf();
    for index in chroma::indexes(&directory)? {
        files.extend(all_files(&index)?);
    }
    Ok(Found { kind: StoreKind::Chroma, path: directory, files, state })
}

/// The salt file of an encrypted database.
fn salt(path: &Path) -> Option<PathBuf> {
    [with_suffix(path, ".salt"), path.with_extension("salt")]
        .into_iter()
        .find(|salt| salt != path && is_file(salt))
}

/// Whether a file is an encrypted database: it looks random from its first byte on and is made of
/// whole pages, which alone would be true of other files too; so something must speak for a
/// database besides: a salt file, a log with SQLite's mark, or the name.
fn is_opaque(path: &Path, head: &[u8], length: u64) -> Result<bool, Error> {
    /// Of the two byte orders.
    const LOG_MAGIC: [[u8; 4]; 2] = [[0x37, 0x7F, 0x06, 0x82], [0x37, 0x7F, 0x06, 0x83]];
    const NAMES: [&str; 6] = ["db", "db3", "sqlite", "sqlite3", "sqlcipher", "s3db"];
    if length < 1024 || !length.is_multiple_of(512) || !looks_random(head) {
        return Ok(false);
    }
    let named = path
        .extension()
        .and_then(|extension| extension.to_str())
        .is_some_and(|extension| NAMES.contains(&extension.to_ascii_lowercase().as_str()));
    if named || salt(path).is_some() {
        return Ok(true);
    }
    let log = match Source::open_if_there(&with_suffix(path, "-wal"))? {
        Some(log) => log.bytes_at::<4>(0)?,
        None => None,
    };
    Ok(log.is_some_and(|magic| LOG_MAGIC.contains(&magic)))
}

/// Whether bytes are spread as evenly as random ones. Compressed files begin with a mark and tables
/// that are not.
fn looks_random(bytes: &[u8]) -> bool {
    if bytes.len() < 1024 {
        return false;
    }
    let mut counts = [0_u32; 256];
    for byte in bytes {
        counts[usize::from(*byte)] += 1;
    }
    // Pearson's chi-squared test against an even spread: 255 degrees of freedom, deviation 22.6.
    let expected = f64::from(u32::try_from(bytes.len()).unwrap_or(u32::MAX)) / 256.0;
    let chi: f64 =
        counts.iter().map(|count| (f64::from(*count) - expected).powi(2) / expected).sum();
    chi < 400.0
}

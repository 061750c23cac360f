//! Owns the finding of stores in a tree: which kind, which files, how last closed.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use super::ahead::{Ahead, Content, Look, Looked, check, side_by_side};
use super::marks::{self, HEAD, Mark, SAMPLE};
use super::source::{Directory, Source, is_file};
use super::sqlite::with_suffix;
use super::{
    Component, Error, LiveState, NEVER, Scan, StoreKind, chroma, duckdb, neo4j, postgres, redis,
    rocksdb, sqlite,
};

/// How many files of a directory that has many are listed before they are looked at.
const BATCH: usize = 4096;

/// A store with absolute paths.
pub(super) struct Found {
    kind: StoreKind,
    path: PathBuf,
    files: Vec<PathBuf>,
    state: LiveState,
}

/// See [`super::scan_until`].
pub(super) fn scan(root: &Path, look: Look<'_>) -> Result<Scan, Error> {
    let mut scanner = Scanner { root, look, scan: Scan::default(), claimed: HashSet::new() };
    let metadata = std::fs::metadata(root).map_err(|error| Error::io(root, "look at", error))?;
    if metadata.is_file() {
        let seen = look.at_file(&Directory::default(), root);
        (scanner.scan.entries, scanner.scan.bytes) = (1, seen.length);
        scanner.take(root, seen.found);
        return scanner.finish();
    }
    let ahead = Ahead::new(root, look);
    std::thread::scope(|scope| {
        let _end = ahead.begin(scope);
        let mut directories = BinaryHeap::from([Reverse(root.to_path_buf())]);
        while let Some(Reverse(directory)) = directories.pop() {
            let looked = ahead.take(&directory)?;
            match scanner.directory(&directory, looked, &mut directories, &ahead) {
                Ok(()) => {}
                Err(error) if directory == root => return Err(error),
                Err(error @ Error::Cancelled { .. }) => return Err(error),
                Err(error) => scanner.scan.unreadable.push(error),
            }
        }
        scanner.finish()
    })
}

struct Scanner<'a> {
    root: &'a Path,
    look: Look<'a>,
    scan: Scan,
    /// Files and directories that belong to a store found already.
    claimed: HashSet<PathBuf>,
}

impl Scanner<'_> {
    fn finish(mut self) -> Result<Scan, Error> {
        check(self.look.cancelled, self.root)?;
        self.scan.components.sort_by(|a, b| (&a.path, a.kind).cmp(&(&b.path, b.kind)));
        Ok(self.scan)
    }

    /// Takes what a look at a directory found: a store by itself, else what is in it.
    fn directory(
        &mut self,
        directory: &Path,
        looked: Looked,
        below: &mut BinaryHeap<Reverse<PathBuf>>,
        ahead: &Ahead<'_>,
    ) -> Result<(), Error> {
        if self.claimed.contains(directory) {
            return Ok(());
        }
        match looked.store {
            Ok(Some((found, whole))) => {
                let files = u64::try_from(found.files.len()).unwrap_or(u64::MAX);
                let bytes = self.add(found);
                if whole {
                    self.scan.entries += files;
                    self.scan.bytes = self.scan.bytes.saturating_add(bytes);
                    return Ok(());
                }
            }
            Ok(None) => {}
            Err(error) => self.scan.unreadable.push(error),
        }
        if let Some(content) = looked.content {
            return self.content(content, below);
        }
        let failed = |error| Error::io(directory, "list", error);
        let opened = Directory::open(directory);
        let mut batch = Content::default();
        for entry in std::fs::read_dir(directory).map_err(failed)? {
            check(self.look.cancelled, directory)?;
            batch.add(&entry.map_err(failed)?);
            if batch.files.len() >= BATCH {
                self.batch(&opened, std::mem::take(&mut batch), below, ahead)?;
            }
        }
        self.batch(&opened, batch, below, ahead)
    }

    /// A part of a directory with many files.
    fn batch(
        &mut self,
        directory: &Directory,
        mut batch: Content,
        below: &mut BinaryHeap<Reverse<PathBuf>>,
        ahead: &Ahead<'_>,
    ) -> Result<(), Error> {
        let files = std::mem::take(&mut batch.files);
        let seen = side_by_side(&files, |file| self.look.at_file(directory, file));
        check(self.look.cancelled, self.root)?;
        for (file, seen) in files.into_iter().zip(seen) {
            batch.saw(file, seen);
        }
        ahead.add(&batch.below);
        self.content(batch, below)
    }

    fn content(
        &mut self,
        content: Content,
        below: &mut BinaryHeap<Reverse<PathBuf>>,
    ) -> Result<(), Error> {
        self.scan.entries += content.entries;
        self.scan.bytes = self.scan.bytes.saturating_add(content.bytes);
        below.extend(content.below.into_iter().map(Reverse));
        self.scan.unreadable.extend(content.unreadable);
        for (path, found) in content.found {
            self.take(&path, found.map(Some));
        }
        content.failed.map_or(Ok(()), Err)
    }

    /// Takes what a look at a file found, unless the file belongs to a store found before.
    fn take(&mut self, path: &Path, found: Result<Option<Found>, Error>) {
        if self.claimed.contains(path) {
            return;
        }
        match found {
            Ok(Some(found)) => drop(self.add(found)),
            Ok(None) => {}
            Err(error) => self.scan.unreadable.push(error),
        }
    }

    /// Takes a store; the bytes of its files.
    fn add(&mut self, found: Found) -> u64 {
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
        bytes
    }
}

/// A directory that is a store, and whether everything in it is.
pub(super) fn directory_store(
    directory: &Path,
    cancelled: &AtomicBool,
) -> Result<Option<(Found, bool)>, Error> {
    let path = directory.to_path_buf();
    if postgres::recognise(directory) {
        let state = postgres::state(directory)?;
        let files = all_files(directory, cancelled)?;
        return Ok(Some((Found { kind: StoreKind::Postgres, path, files, state }, true)));
    }
    if neo4j::recognise(directory) {
        let state = neo4j::state(directory);
        let mut files = all_files(directory, cancelled)?;
        if let Some(logs) = neo4j::transactions(directory) {
            files.extend(all_files(&logs, cancelled)?);
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
fn all_files(directory: &Path, cancelled: &AtomicBool) -> Result<Vec<PathBuf>, Error> {
    let mut files = Vec::new();
    for entry in walkdir::WalkDir::new(directory) {
        check(cancelled, directory)?;
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

/// A file that is a store, with what belongs to it. Its length is told in any case.
pub(super) fn file_store(
    directory: &Directory,
    path: &Path,
    length: &mut u64,
) -> Result<Option<Found>, Error> {
    let Some(source) = Source::open_if_in(directory, path)? else { return Ok(None) };
    *length = source.length();
    let mut head = [0; HEAD];
    let count = source.read_at(&mut head, 0)?;
    let head = &head[..count];
    let found = |kind, path: PathBuf, files, state| Ok(Some(Found { kind, path, files, state }));
    let own = path.to_path_buf();
    match marks::mark(head) {
        Some(Mark::Sqlite) => {
            if let Some(salt) = salt(path) {
                let files = sqlite::files(path).into_iter().chain([salt]).collect();
                return found(StoreKind::SqlCipher, own, files, sqlite::state(path)?);
            }
            return sqlite_store(path).map(Some);
        }
        Some(Mark::Lmdb) => {
            let lock = if path.file_name().is_some_and(|name| name == "data.mdb") {
                path.with_file_name("lock.mdb")
            } else {
                with_suffix(path, "-lock")
            };
            let files = [own.clone()].into_iter().chain(is_file(&lock).then_some(lock)).collect();
            return found(StoreKind::Lmdb, own, files, LiveState::Clean);
        }
        Some(Mark::DuckDb) => {
            return found(StoreKind::DuckDb, own, duckdb::files(path), duckdb::state(path));
        }
        Some(Mark::Redis(kind)) => {
            let files = redis::files(path, kind)?;
            return found(StoreKind::Redis, own, files, LiveState::Clean);
        }
        None => {}
    }
    if is_opaque(path, &source)? {
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
        files.extend(all_files(&index, &NEVER)?);
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
fn is_opaque(path: &Path, source: &Source) -> Result<bool, Error> {
    /// Of the two byte orders.
    const LOG_MAGIC: [[u8; 4]; 2] = [[0x37, 0x7F, 0x06, 0x82], [0x37, 0x7F, 0x06, 0x83]];
    const NAMES: [&str; 6] = ["db", "db3", "sqlite", "sqlite3", "sqlcipher", "s3db"];
    let length = source.length();
    if !marks::is_whole_pages(length) || !marks::looks_random(&source.head(SAMPLE)?) {
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

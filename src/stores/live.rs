//! Owns consistent copies of stores that a process writes to: SQLite by its backup API, LMDB by a
//! reading that is repeated until no commit came between. The stores are not stopped.

use std::fs::File;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};

use super::source::{u32_at, u64_at};
use super::{Component, Error, StoreKind, absolute};

/// How long a lock of another process is waited for.
const PATIENCE: Duration = Duration::from_secs(30);
/// Readings of an LMDB environment before giving up.
const READINGS: u32 = 25;
/// Bytes copied at once.
const CHUNK: usize = 1 << 20;
/// Where an LMDB meta page has its fields.
const META_MAGIC: usize = 16;
const META_PAGE_SIZE: usize = 40;
const META_LAST_PAGE: usize = 136;
const META_TRANSACTION: usize = 144;
const META_END: usize = 152;
/// What lies beside a SQLite database and is part of it.
const SQLITE_SIBLINGS: [&str; 3] = ["-wal", "-shm", "-journal"];
const LMDB_LOCK: &str = "lock.mdb";
const LMDB_DATA: &str = "data.mdb";

/// A consistent copy of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveCopy {
    /// The file of the store that was copied, relative to the root.
    pub file: PathBuf,
    /// The copy.
    pub copy: PathBuf,
    /// Files of the store, relative to the root, that the copy needs no more.
    pub replaced: Vec<PathBuf>,
}

/// Copies a store that may be written to meanwhile into `copy`, a file that does not exist yet and
/// that only the owner may read. `None` for stores of which only their own server can make a
/// consistent copy.
///
/// # Errors
/// When it cannot be read, or stays locked, or is written to without a pause.
pub fn copy_live(
    root: &Path,
    component: &Component,
    copy: &Path,
) -> Result<Option<LiveCopy>, Error> {
    let (file, replaced) = match component.kind {
        StoreKind::Sqlite => {
            let file = component.path.clone();
            copy_sqlite(&root.join(&file), copy)?;
            let beside = |end: &str| {
                let mut name = file.clone().into_os_string();
                name.push(end);
                PathBuf::from(name)
            };
            (file.clone(), SQLITE_SIBLINGS.map(beside).to_vec())
        }
        StoreKind::Lmdb => {
            let file = if absolute(root, &component.path).is_dir() {
                component.path.join(LMDB_DATA)
            } else {
                component.path.clone()
            };
            copy_lmdb(&root.join(&file), copy)?;
            let lock = if file.file_name().is_some_and(|name| name == LMDB_DATA) {
                file.with_file_name(LMDB_LOCK)
            } else {
                let mut name = file.clone().into_os_string();
                name.push("-lock");
                PathBuf::from(name)
            };
            (file, vec![lock])
        }
        _ => return Ok(None),
    };
    Ok(Some(LiveCopy { file, copy: copy.to_owned(), replaced }))
}

fn create(copy: &Path) -> Result<File, Error> {
    File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(copy)
        .map_err(|error| Error::io(copy, "create", error))
}

fn copy_sqlite(path: &Path, copy: &Path) -> Result<(), Error> {
    let failed = |source| Error::Sqlite { path: path.to_owned(), source };
    // Made here, so that it is the owner's alone from the beginning.
    drop(create(copy)?);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let from = Connection::open_with_flags(path, flags).map_err(failed)?;
    from.busy_timeout(PATIENCE).map_err(failed)?;
    let mut into = Connection::open(copy).map_err(failed)?;
    // A copy that is cut short is thrown away.
    into.execute_batch("PRAGMA journal_mode=off; PRAGMA synchronous=off;").map_err(failed)?;
    let begun = Instant::now();
    let backup = Backup::new(&from, &mut into).map_err(failed)?;
    loop {
        // All pages in one transaction: whatever is written meanwhile is not in the copy.
        match backup.step(-1).map_err(failed)? {
            StepResult::Done => return Ok(()),
            _ if begun.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(50)),
            _ => return Err(locked(path)),
        }
    }
}

fn locked(path: &Path) -> Error {
    let error = std::io::Error::other("it is locked, or written to without a pause");
    Error::io(path, "make a consistent copy of", error)
}

/// The newest of the two meta pages.
struct Meta {
    page: Vec<u8>,
    page_size: u64,
    last_page: u64,
    transaction: u64,
}

/// Copies an environment's data file. A transaction writes only to pages that no longer belong to
/// the last two committed states, so that a state stays readable until the second commit after
/// it: a reading during which at most one commit came is consistent.
fn copy_lmdb(path: &Path, copy: &Path) -> Result<(), Error> {
    let failed = |error| Error::io(path, "read", error);
    let from = File::open(path).map_err(failed)?;
    let into = create(copy)?;
    for _ in 0..READINGS {
        let meta = newest_meta(&from, path)?;
        copy_pages(&from, &into, &meta, path, copy)?;
        let newest = newest_meta(&from, path)?.transaction;
        if newest <= meta.transaction.saturating_add(1) {
            return into.sync_data().map_err(|error| Error::io(copy, "write", error));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err(locked(path))
}

fn copy_pages(
    from: &File,
    into: &File,
    meta: &Meta,
    path: &Path,
    copy: &Path,
) -> Result<(), Error> {
    let written = |error| Error::io(copy, "write", error);
    let end = (meta.last_page + 1) * meta.page_size;
    into.set_len(0).and_then(|()| into.set_len(end)).map_err(written)?;
    // Both pages describe the state that was copied, one as if it were older.
    for slot in [meta.transaction.wrapping_sub(1), meta.transaction] {
        let mut page = meta.page.clone();
        page[META_TRANSACTION..META_END].copy_from_slice(&slot.to_le_bytes());
        page[..8].copy_from_slice(&(slot & 1).to_le_bytes());
        into.write_all_at(&page, (slot & 1) * meta.page_size).map_err(written)?;
    }
    let mut buffer = vec![0u8; CHUNK];
    let mut offset = 2 * meta.page_size;
    while offset < end {
        let wanted = usize::try_from(end - offset).unwrap_or(CHUNK).min(CHUNK);
        let count = match from.read_at(&mut buffer[..wanted], offset) {
            // Pages that were never written yet.
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Error::io(path, "read", error)),
        };
        let data = &buffer[..count];
        if data.iter().any(|byte| *byte != 0) {
            into.write_all_at(data, offset).map_err(written)?;
        }
        offset += count as u64;
    }
    Ok(())
}

fn newest_meta(file: &File, path: &Path) -> Result<Meta, Error> {
    let damaged =
        |detail: &str| Error::Damaged { path: path.to_owned(), detail: detail.to_owned() };
    let read = |offset: u64, length: usize| {
        let mut page = vec![0u8; length];
        file.read_exact_at(&mut page, offset)
            .map_err(|error| Error::io(path, "read", error))
            .map(|()| page)
    };
    let head = read(0, META_END)?;
    let page_size = u64::from(u32_at(&head, META_PAGE_SIZE).unwrap_or(0));
    if !page_size.is_power_of_two() || !(512..=65536).contains(&page_size) {
        return Err(damaged("its page size makes no sense"));
    }
    let length = usize::try_from(page_size).map_err(|_| damaged("its page size makes no sense"))?;
    let mut newest: Option<Meta> = None;
    for slot in 0..2 {
        let page = read(slot * page_size, length)?;
        let field = |at| u64_at(&page, at).unwrap_or(0);
        let (last_page, transaction) = (field(META_LAST_PAGE), field(META_TRANSACTION));
        if u32_at(&page, META_MAGIC) != Some(super::lmdb::MAGIC) {
            return Err(damaged("a meta page is missing"));
        }
        if last_page.checked_add(1).and_then(|pages| pages.checked_mul(page_size)).is_none() {
            return Err(damaged("its size makes no sense"));
        }
        if newest.as_ref().is_none_or(|newest| transaction > newest.transaction) {
            newest = Some(Meta { page, page_size, last_page, transaction });
        }
    }
    newest.ok_or_else(|| damaged("a meta page is missing"))
}

#[cfg(test)]
mod tests;

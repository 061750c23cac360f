//! Owns SQLite databases: opening one without changing it, its own check, its facts.
//!
//! Opening a database in place would replay its log, make a `-shm` file or move its times. So:
//! a cleanly closed one is opened as immutable; one with a log is copied to a private place and
//! opened there; one that is too large for that, and has its `-shm` file, is opened with that
//! read-only, where SQLite keeps the index of the log in memory (as root it then sets the owner
//! of the log to what it is: the change time moves, nothing else).

use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Builder;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, bounded};
use rusqlite::{Connection, ErrorCode, OpenFlags};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::report::{Findings, not_checked};
use super::scratch::{Place, place};
use super::source::{Source, has_content, is_file};
use super::{CheckOptions, CheckReport, Error, LiveState, Outcome, Summary};

/// What every database begins with.
pub(super) const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// What a rollback journal that holds something begins with.
const JOURNAL_MAGIC: [u8; 8] = [0xD9, 0xD5, 0x05, 0xF9, 0x20, 0xA1, 0x63, 0xD7];

/// Endings of the files that may lie next to a database. The last two are libSQL's.
const SIBLINGS: [&str; 5] = ["-wal", "-shm", "-journal", "-info", "-client_wal_index"];

/// A path with something appended to its name.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(suffix);
    PathBuf::from(name)
}

/// The files that belong to a database, itself first.
pub(super) fn files(path: &Path) -> Vec<PathBuf> {
    let siblings = SIBLINGS.iter().map(|suffix| with_suffix(path, suffix)).filter(|p| is_file(p));
    std::iter::once(path.to_path_buf()).chain(siblings).collect()
}

/// How a database was last closed.
pub(super) fn state(path: &Path) -> Result<LiveState, Error> {
    if has_content(&with_suffix(path, "-wal")) {
        return Ok(LiveState::PendingLog);
    }
    let journal = Source::open_if_there(&with_suffix(path, "-journal"))?;
    let hot = match journal {
        Some(journal) => journal.bytes_at::<8>(0)? == Some(JOURNAL_MAGIC),
        None => false,
    };
    Ok(if hot { LiveState::PendingLog } else { LiveState::Clean })
}

/// What came of opening.
pub(super) enum Opening {
    Open(Connection),
    /// It is no database that can be read.
    Damaged(String),
    /// It can't be read here.
    NotHere(String),
}

/// Opens a database without changing it.
pub(super) fn open(path: &Path, options: &CheckOptions<'_>) -> Result<Opening, Error> {
    open_with(path, |bytes| place(options, bytes))
}

/// The same, with a private place for so many bytes from elsewhere.
fn open_with(
    path: &Path,
    place: impl FnOnce(u64) -> Result<Place, Error>,
) -> Result<Opening, Error> {
    let opened = match state(path)? {
        LiveState::PendingLog => {
            let length = |p: &Path| p.symlink_metadata().map_or(0, |metadata| metadata.len());
            let bytes = files(path).iter().map(|file| length(file)).sum();
            match place(bytes)? {
                Place::Here(directory) => open_copy(path, directory),
                Place::Nowhere(_) if is_file(&with_suffix(path, "-shm")) => {
                    open_uri(path, "mode=ro&readonly_shm=1")
                }
                Place::Nowhere(reason) => {
                    return Ok(Opening::NotHere(format!(
                        "its log would have to be replayed: {reason}"
                    )));
                }
            }
        }
        _ => open_uri(path, "immutable=1"),
    };
    let opened = opened.and_then(|connection| prepare(&connection).map(|()| connection));
    match opened {
        Ok(connection) => Ok(Opening::Open(connection)),
        Err(Failure::Ours(error)) => Err(error),
        Err(Failure::Sqlite(error)) => match damage(&error) {
            Some(text) => Ok(Opening::Damaged(text)),
            None if is_of_the_system(&error) => {
                Err(Error::Sqlite { path: path.to_path_buf(), source: error })
            }
            None => Ok(Opening::NotHere(format!("SQLite cannot open it here: {error}"))),
        },
    }
}

/// Opens a database without regard to its log: good for a look at its schema.
pub(super) fn open_as_it_is(path: &Path) -> Result<Connection, Error> {
    let opened = open_uri(path, "immutable=1").and_then(|connection| {
        prepare(&connection)?;
        Ok(connection)
    });
    opened.map_err(|failure| match failure {
        Failure::Ours(error) => error,
        Failure::Sqlite(source) => Error::Sqlite { path: path.to_path_buf(), source },
    })
}

enum Failure {
    Sqlite(rusqlite::Error),
    Ours(Error),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

fn open_uri(path: &Path, parameters: &str) -> Result<Connection, Failure> {
    let mut uri = String::from("file:");
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' => uri.push(char::from(*byte)),
            byte if byte.is_ascii_alphanumeric() => uri.push(char::from(*byte)),
            byte => {
                // Writing to a string does not fail.
                let _ = write!(uri, "%{byte:02X}");
            }
        }
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_URI
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Ok(Connection::open_with_flags(format!("{uri}?{parameters}"), flags)?)
}

/// Opens a private copy, and takes its names away as soon as they are not needed any more, so that
/// not even a killed process leaves it behind.
fn open_copy(path: &Path, directory: TempDir) -> Result<Connection, Failure> {
    let copy = directory.path().join("store");
    for suffix in ["", "-wal", "-journal"] {
        if let Some(source) =
            Source::open_if_there(&with_suffix(path, suffix)).map_err(Failure::Ours)?
        {
            source.copy_to(&with_suffix(&copy, suffix)).map_err(Failure::Ours)?;
        }
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(&copy, flags)?;
    // Exclusive: the index of the log lives in memory, not in a file.
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    let path = directory.path().to_path_buf();
    directory
        .close()
        .map_err(|error| Failure::Ours(Error::io(path, "remove the private directory", error)))?;
    Ok(connection)
}

/// Keeps a hostile schema from doing anything.
fn prepare(connection: &Connection) -> Result<(), Failure> {
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    Ok(())
}

/// What an error says of the database's damage; `None` for other errors.
fn damage(error: &rusqlite::Error) -> Option<String> {
    let code = error.sqlite_error_code()?;
    matches!(code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase).then(|| error.to_string())
}

/// Whether the operating system failed, and not SQLite's understanding of the database.
fn is_of_the_system(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::PermissionDenied
                | ErrorCode::OutOfMemory
                | ErrorCode::SystemIoFailure
                | ErrorCode::DiskFull
                | ErrorCode::CannotOpen
                | ErrorCode::OperationInterrupted
        )
    )
}

/// Whether a message is about an extension that is missing here, not about the database.
fn is_missing_extension(message: &str) -> bool {
    [
        "no such module",
        "no such collation",
        "unable to validate",
        "no such function",
        "unknown function",
    ]
    .iter()
    .any(|text| message.contains(text))
}

const METHOD: &str = "PRAGMA integrity_check and foreign_key_check";
/// How often a check looks whether it is wanted still.
const PATIENCE: Duration = Duration::from_millis(50);

/// Does some work on a database, which SQLite gives up with an error once that is cancelled.
fn interruptible<T>(
    connection: &Connection,
    cancelled: &AtomicBool,
    work: impl FnOnce() -> T,
) -> T {
    let handle = connection.get_interrupt_handle();
    let (done, ended) = bounded::<()>(0);
    std::thread::scope(|scope| {
        let watch = move || {
            while ended.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                if cancelled.load(Ordering::Relaxed) {
                    handle.interrupt();
                }
            }
        };
        // Where the system gives no thread, nobody can end it.
        let _ = Builder::new().spawn_scoped(scope, watch);
        let outcome = work();
        drop(done);
        outcome
    })
}

/// SQLite's own check.
pub(super) fn check(path: &Path, options: &CheckOptions<'_>) -> Result<CheckReport, Error> {
    let connection = match open(path, options)? {
        Opening::Open(connection) => connection,
        Opening::NotHere(reason) => return Ok(not_checked(reason)),
        Opening::Damaged(text) => {
            let mut findings = Findings::default();
            findings.damage(text);
            return Ok(findings.report(Outcome::Damaged, METHOD));
        }
    };
    let Some(cancelled) = options.cancelled else { return examine(path, &connection) };
    let report = interruptible(&connection, cancelled, || examine(path, &connection));
    match cancelled.load(Ordering::Relaxed) {
        true => Err(Error::Cancelled { path: path.to_path_buf() }),
        false => report,
    }
}

fn examine(path: &Path, connection: &Connection) -> Result<CheckReport, Error> {
    let mut findings = Findings::default();
    let failed = |source| Error::Sqlite { path: path.to_path_buf(), source };
    let limit = CheckReport::MAX_FINDINGS;
    let mut outcome = Outcome::Sound;
    match messages(connection, &format!("PRAGMA integrity_check({limit})")) {
        Ok(messages) => sort(messages, &mut findings),
        Err(error) => match damage(&error) {
            Some(text) => findings.damage(text),
            None if is_of_the_system(&error) => return Err(failed(error)),
            None => {
                findings.remark(format!("not checked as a whole: {error}"));
                match check_tables(connection, &mut findings) {
                    Ok(true) => {}
                    Ok(false) => outcome = Outcome::NotChecked,
                    Err(error) if is_of_the_system(&error) => return Err(failed(error)),
                    Err(error) => {
                        outcome = Outcome::NotChecked;
                        findings.remark(format!("its tables cannot be listed: {error}"));
                    }
                }
            }
        },
    }
    if !findings.is_damaged() {
        foreign_keys(connection, &mut findings);
    }
    Ok(findings.report(outcome, METHOD))
}

fn messages(connection: &Connection, pragma: &str) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare(pragma)?;
    let rows = statement.query_map([], |row| row.get(0))?;
    rows.collect()
}

fn sort(messages: Vec<String>, findings: &mut Findings) {
    for message in messages {
        if message == "ok" {
        } else if is_missing_extension(&message) {
            findings.remark(message);
        } else {
            findings.damage(message);
        }
    }
}

/// Table by table, for databases whose schema needs an extension somewhere. Whether every table that
/// holds data of its own was checked.
fn check_tables(connection: &Connection, findings: &mut Findings) -> rusqlite::Result<bool> {
    let mut whole = true;
    for table in tables(connection)? {
        let pragma = format!("PRAGMA integrity_check({})", quote(&table));
        match messages(connection, &pragma) {
            Ok(messages) => sort(messages, findings),
            Err(error) if is_of_the_system(&error) => return Err(error),
            Err(error) => match damage(&error) {
                Some(text) => findings.damage(text),
                None => {
                    // The data of a virtual table lie in other tables.
                    whole &= is_virtual(connection, &table);
                    findings.remark(format!("table {table} was not checked: {error}"));
                }
            },
        }
    }
    Ok(whole)
}

fn is_virtual(connection: &Connection, table: &str) -> bool {
    let sql = connection.query_row(
        "SELECT coalesce(sql, '') FROM sqlite_schema WHERE type = 'table' AND name = ?1",
        [table],
        |row| row.get::<_, String>(0),
    );
    sql.is_ok_and(|sql| sql.trim_start().to_ascii_uppercase().starts_with("CREATE VIRTUAL"))
}

/// Broken references are the app's business and no damage, but worth a remark.
fn foreign_keys(connection: &Connection, findings: &mut Findings) {
    let count = || -> rusqlite::Result<u64> {
        let mut statement = connection.prepare("PRAGMA foreign_key_check")?;
        let mut rows = statement.query([])?;
        let mut count = 0;
        while rows.next()?.is_some() {
            count += 1;
        }
        Ok(count)
    };
    match count() {
        Ok(0) => {}
        Ok(count) => findings.remark(format!("{count} rows refer to rows that don't exist")),
        Err(error) => findings.remark(format!("foreign keys were not checked: {error}")),
    }
}

fn tables(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name",
    )?;
    let rows = statement.query_map([], |row| row.get(0))?;
    rows.collect()
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Facts of a database: its schema's digest, its versions, and the rows of each table.
pub(super) fn summary(path: &Path, options: &CheckOptions<'_>) -> Result<Option<Summary>, Error> {
    let connection = match open(path, options)? {
        Opening::Open(connection) => connection,
        Opening::NotHere(_) => return Ok(None),
        Opening::Damaged(detail) => {
            return Err(Error::Damaged { path: path.to_path_buf(), detail });
        }
    };
    facts(&connection).map(Some).map_err(|error| match damage(&error) {
        Some(detail) => Error::Damaged { path: path.to_path_buf(), detail },
        None => Error::Sqlite { path: path.to_path_buf(), source: error },
    })
}

pub(super) fn facts(connection: &Connection) -> rusqlite::Result<Summary> {
    let mut summary = Summary::default();
    let mut put = |name: String, value: String| summary.facts.insert(name, value);
    for pragma in ["application_id", "encoding", "page_size", "user_version"] {
        let value: rusqlite::types::Value =
            connection.pragma_query_value(None, pragma, |row| row.get(0))?;
        let text = match value {
            rusqlite::types::Value::Text(text) => text,
            rusqlite::types::Value::Integer(number) => number.to_string(),
            other => format!("{other:?}"),
        };
        put(pragma.to_owned(), text);
    }
    put("schema".to_owned(), schema_digest(connection)?);
    for table in tables(connection)? {
        let count =
            connection.query_row(&format!("SELECT count(*) FROM {}", quote(&table)), [], |row| {
                row.get::<_, i64>(0)
            });
        let count = match count {
            Ok(count) => count.to_string(),
            Err(error) if damage(&error).is_some() => return Err(error),
            // A virtual table of an extension that is not here. Its data is in other tables.
            Err(_) => "not readable here".to_owned(),
        };
        put(format!("rows of {}", quote(&table)), count);
    }
    Ok(summary)
}

fn schema_digest(connection: &Connection) -> rusqlite::Result<String> {
    let mut digest = Sha256::new();
    let mut statement = connection
        .prepare("SELECT type, name, coalesce(sql, '') FROM sqlite_schema ORDER BY 1, 2")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        for column in 0..3 {
            digest.update(row.get::<_, String>(column)?.as_bytes());
            digest.update([0]);
        }
    }
    let mut text = String::from("sha256:");
    for byte in digest.finalize().iter().take(16) {
        let _ = write!(text, "{byte:02x}");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_takes_for_ever_ends_when_it_is_cancelled() {
        let connection = Connection::open_in_memory().unwrap();
        let endless = "WITH RECURSIVE c(x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM c) \
                       SELECT count(*) FROM c";
        let cancelled = AtomicBool::new(true);
        let outcome = interruptible(&connection, &cancelled, || {
            connection.query_row(endless, [], |row| row.get::<_, i64>(0))
        });
        let code = outcome.unwrap_err().sqlite_error_code();
        assert_eq!(code, Some(ErrorCode::OperationInterrupted));
    }

    #[test]
    fn what_has_no_place_is_read_through_its_shared_memory_file() {
        let directory = tempfile::tempdir().unwrap();
        let live = directory.path().join("live.db");
        let writer = Connection::open(&live).unwrap();
        writer
            .execute_batch(
                "PRAGMA journal_mode = WAL; CREATE TABLE t (x); INSERT INTO t VALUES (1);",
            )
            .unwrap();
        let path = directory.path().join("copy.db");
        for suffix in ["", "-wal", "-shm"] {
            std::fs::copy(with_suffix(&live, suffix), with_suffix(&path, suffix)).unwrap();
        }
        let seen = || -> Vec<_> {
            let time = |p: &PathBuf| std::fs::metadata(p).unwrap().modified().unwrap();
            files(&path).into_iter().map(|p| (time(&p), std::fs::read(&p).unwrap(), p)).collect()
        };
        let before = seen();
        assert_eq!(before.len(), 3);
        let nowhere = |_| Ok(Place::Nowhere("no place".to_owned()));
        let Opening::Open(connection) = open_with(&path, nowhere).unwrap() else { panic!() };
        assert_eq!(facts(&connection).unwrap().facts["rows of \"t\""], "1");
        drop(connection);
        assert!(before == seen());
        std::fs::remove_file(with_suffix(&path, "-shm")).unwrap();
        let nowhere = |_| Ok(Place::Nowhere("no place".to_owned()));
        assert!(matches!(open_with(&path, nowhere).unwrap(), Opening::NotHere(_)));
    }
}

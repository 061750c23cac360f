//! Owns ChromaDB directories: a SQLite database of collections, segments and records, and a
//! directory for each vector index.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::report::Findings;
use super::source::{Source, is_file, u32_at, u64_at};
use super::sqlite::{self, Opening};
use super::{CheckOptions, CheckReport, Error, Outcome, Summary};

/// Tables that Chroma's database has, and hardly another one.
const TABLES: [&str; 4] = ["collections", "segments", "embeddings", "embeddings_queue"];
/// The name that Chroma gives its database, for one whose tables are still in its log.
const NAME: &str = "chroma.sqlite3";
/// Files of a vector index on disk.
const INDEX_FILES: [&str; 4] = ["header.bin", "data_level0.bin", "length.bin", "link_lists.bin"];

/// Whether a SQLite database is Chroma's.
pub(super) fn recognise(path: &Path) -> bool {
    // Immutable whatever its log says: the schema is older than the last change.
    match sqlite::open_as_it_is(path) {
        Ok(connection) if has_tables(&connection) => true,
        _ => path.file_name().is_some_and(|name| name == NAME),
    }
}

fn has_tables(connection: &Connection) -> bool {
    TABLES.iter().all(|table| {
        connection
            .query_row(
                "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1",
                [table],
                |_| Ok(()),
            )
            .is_ok()
    })
}

/// Whether a name is a UUID's, as index directories have.
fn is_uuid(name: &str) -> bool {
    name.len() == 36
        && name.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// The index directories next to the database.
pub(super) fn indexes(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = |error| Error::io(directory, "list", error);
    let mut indexes = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_directory && entry.file_name().to_str().is_some_and(is_uuid) {
            indexes.push(entry.path());
        }
    }
    indexes.sort();
    Ok(indexes)
}

/// SQLite's own check, and that the indexes that were written are there.
pub(super) fn check(database: &Path, options: &CheckOptions<'_>) -> Result<CheckReport, Error> {
    let mut report = sqlite::check(database, options)?;
    if report.outcome != Outcome::Sound {
        return Ok(report);
    }
    let Opening::Open(connection) = sqlite::open(database, options)? else { return Ok(report) };
    let mut findings = Findings::default();
    let directory = database.parent().unwrap_or(Path::new(""));
    let (Ok(written), Ok(known)) = (written_segments(&connection), segments(&connection)) else {
        // SQLite has found it sound; a schema that is not known here is no damage.
        findings.remark("its tables are those of another version: its indexes were not checked");
        report.findings.splice(0..0, findings.report(report.outcome, "").findings);
        report.findings.truncate(CheckReport::MAX_FINDINGS);
        return Ok(report);
    };
    for segment in written {
        let index = directory.join(&segment);
        if !is_uuid(&segment) {
            findings.damage(format!("the segment {segment:?} has no proper name"));
        } else if !index.is_dir() {
            findings.damage(format!("the index directory {segment} is missing"));
        } else {
            check_index(&index, &segment, &mut findings)?;
        }
    }
    let known: BTreeSet<String> = known.into_iter().collect();
    for index in indexes(directory)? {
        let name = index.file_name().unwrap_or_default().to_string_lossy();
        if !known.contains(name.as_ref()) {
            findings.remark(format!("the index directory {name} belongs to no segment"));
        }
    }
    let ours = findings.report(report.outcome, "");
    report.outcome = ours.outcome;
    report.method.push_str(", index directories");
    report.findings.splice(0..0, ours.findings);
    report.findings.truncate(CheckReport::MAX_FINDINGS);
    Ok(report)
}

/// The files of an index, and that they hold as many elements as their header says.
fn check_index(index: &Path, segment: &str, findings: &mut Findings) -> Result<(), Error> {
    for name in INDEX_FILES.iter().filter(|name| !is_file(&index.join(name))) {
        findings.damage(format!("{segment}/{name} is missing"));
    }
    let Some(header) = Source::open_if_there(&index.join("header.bin"))? else { return Ok(()) };
    let header = header.head(36)?;
    let (Some(1), Some(elements), Some(size)) =
        (u32_at(&header, 0), u64_at(&header, 20), u64_at(&header, 28))
    else {
        findings.remark(format!("{segment}/header.bin is of another version"));
        return Ok(());
    };
    for (name, size) in [("data_level0.bin", size), ("length.bin", 4)] {
        let length = index.join(name).symlink_metadata().map_or(u64::MAX, |m| m.len());
        let needed = elements.saturating_mul(size);
        if length < needed {
            findings.damage(format!("{segment}/{name} has {length} bytes, {needed} needed"));
        }
    }
    Ok(())
}

fn strings(connection: &Connection, query: &str) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare(query)?;
    let rows = statement.query_map([], |row| row.get(0))?;
    rows.collect()
}

fn segments(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    strings(connection, "SELECT id FROM segments")
}

/// Vector segments whose index has been written to its directory: those that have a position in
/// the queue. Younger ones live in the queue alone.
fn written_segments(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let query = "SELECT s.id FROM segments s JOIN max_seq_id m ON m.segment_id = s.id \
                 WHERE s.scope = 'VECTOR' AND s.type LIKE '%hnsw-local-persisted'";
    match strings(connection, query) {
        Ok(segments) => Ok(segments),
        // An early version, without positions.
        Err(rusqlite::Error::SqliteFailure(..) | rusqlite::Error::SqlInputError { .. }) => {
            Ok(Vec::new())
        }
        Err(error) => Err(error),
    }
}

/// SQLite's facts, and the number of records of each collection.
pub(super) fn summary(
    database: &Path,
    options: &CheckOptions<'_>,
) -> Result<Option<Summary>, Error> {
    let Some(mut summary) = sqlite::summary(database, options)? else { return Ok(None) };
    let Opening::Open(connection) = sqlite::open(database, options)? else { return Ok(None) };
    let counts = || -> rusqlite::Result<Vec<(String, String, i64)>> {
        let mut statement = connection.prepare(
            "SELECT c.id, c.name, (SELECT count(*) FROM segments s JOIN embeddings e ON e.segment_id = s.id \
             WHERE s.collection = c.id) FROM collections c ORDER BY c.name, c.id",
        )?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        rows.collect()
    };
    // Of another version only SQLite's facts are known.
    let Ok(counts) = counts() else { return Ok(Some(summary)) };
    for (id, name, count) in counts {
        // Other tenants may have collections of the same name.
        let mut fact = format!("records of collection {name:?}");
        if summary.facts.contains_key(&fact) {
            fact = format!("{fact} ({id})");
        }
        summary.facts.insert(fact, count.to_string());
    }
    Ok(Some(summary))
}

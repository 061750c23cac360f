//! Owns what shows at a glance that a file may be of a store: the marks that files begin with, and the
//! names that directories of stores are known by.

use super::{duckdb, lmdb, neo4j, postgres, redis, rocksdb, sqlite};

/// How much of a file is read to recognise it by its mark, in bytes, and how much to tell whether it is
/// encrypted.
pub(super) const HEAD: usize = 512;
pub(super) const SAMPLE: usize = 4096;

/// What a file begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    Sqlite,
    Lmdb,
    DuckDb,
    Redis(redis::Kind),
}

/// The mark of a file, of which the first [`HEAD`] bytes are given, or all.
pub(super) fn mark(head: &[u8]) -> Option<Mark> {
    if head.starts_with(sqlite::MAGIC) {
        return Some(Mark::Sqlite);
    }
    if lmdb::recognise(head).is_some() {
        return Some(Mark::Lmdb);
    }
    if duckdb::recognise(head) {
        return Some(Mark::DuckDb);
    }
    redis::recognise(head).map(Mark::Redis)
}

/// Whether a file of this length in bytes may be an encrypted database, which is made of whole pages and
/// [looks random](looks_random) from its first byte on.
pub(super) fn is_whole_pages(length: u64) -> bool {
    length >= 1024 && length.is_multiple_of(512)
}

/// See [`super::is_unlikely`].
pub(super) fn is_unlikely(name: &[u8], length: u64) -> bool {
    /// Longer ones are few, and take long to read again.
    const SHORT: u64 = 256 << 10;
    // What Redis calls its files, which are not made of whole pages, and people a database.
    const PARTS: [&[u8]; 5] = [b"db", b"sql", b"aof", b"redis", b"dump"];
    let has = |part: &[u8]| name.windows(part.len()).any(|one| one.eq_ignore_ascii_case(part));
    length <= SHORT && !length.is_multiple_of(512) && !PARTS.iter().any(|part| has(part))
}

/// See [`super::may_be_of_store`].
pub(super) fn may_be_of_store(length: u64, sample: &[u8]) -> bool {
    mark(&sample[..sample.len().min(HEAD)]).is_some()
        || is_whole_pages(length) && looks_random(sample)
}

/// See [`super::is_name_of_store`].
pub(super) fn is_name_of_store(name: &[u8]) -> bool {
    // In any case: on a filesystem that folds it, they are found so.
    [postgres::VERSION, neo4j::STORE, rocksdb::CURRENT]
        .iter()
        .any(|mark| name.eq_ignore_ascii_case(mark.as_bytes()))
}

/// Whether bytes are spread as evenly as random ones. Compressed files begin with a mark and tables
/// that are not.
pub(super) fn looks_random(bytes: &[u8]) -> bool {
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

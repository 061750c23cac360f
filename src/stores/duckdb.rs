//! Owns DuckDB files, as far as they can be checked without their engine: the headers' checksums,
//! that the file is as long as they say, and the blocks' checksums. What the blocks hold is not
//! understood.

use std::path::{Path, PathBuf};

use super::report::{Findings, not_checked};
use super::source::{Source, has_content, is_file, u64_at};
use super::sqlite::with_suffix;
use super::{CheckReport, Error, LiveState, Outcome, Summary};

const HEADER: usize = 4096;
/// The largest block that is read; DuckDB makes them of 256 KiB at most.
const MAX_BLOCK: usize = 1 << 24;

/// Whether a file begins as DuckDB's do.
pub(super) fn recognise(head: &[u8]) -> bool {
    head.get(8..12) == Some(b"DUCK")
}

/// The file and its write-ahead log.
pub(super) fn files(path: &Path) -> Vec<PathBuf> {
    let log = with_suffix(path, ".wal");
    std::iter::once(path.to_path_buf()).chain(is_file(&log).then_some(log)).collect()
}

/// Whether its write-ahead log holds something.
pub(super) fn state(path: &Path) -> LiveState {
    if has_content(&with_suffix(path, ".wal")) { LiveState::PendingLog } else { LiveState::Clean }
}

/// Whether the first eight bytes of a header or block are the checksum of the rest.
fn is_sound(block: &[u8]) -> bool {
    let words = block.get(8..).unwrap_or_default().chunks_exact(8);
    let sum = words.fold(5381, |sum: u64, word| {
        sum ^ u64_at(word, 0).unwrap_or(0).wrapping_mul(0xbf58_476d_1ce4_e5b9)
    });
    block.len() >= HEADER && u64_at(block, 0) == Some(sum)
}

/// How many blocks fail their checksum.
fn failing_blocks(source: &Source, state: &State) -> Result<u64, Error> {
    let Ok(size) = usize::try_from(state.block_size) else { return Ok(0) };
    if !(HEADER..=MAX_BLOCK).contains(&size) {
        return Ok(0);
    }
    let mut block = vec![0; size];
    let mut failing = 0;
    for index in 0..state.blocks {
        let headers = u64::try_from(3 * HEADER).unwrap_or(0);
        let offset = index.saturating_mul(state.block_size).saturating_add(headers);
        if source.read_at(&mut block, offset)? < size {
            break;
        }
        failing += u64::from(!is_sound(&block));
    }
    Ok(failing)
}

/// One of the two descriptions of the file's state.
struct State {
    iteration: u64,
    blocks: u64,
    block_size: u64,
}

struct Headers {
    main: Vec<u8>,
    /// The newer of those whose checksum holds.
    state: Option<State>,
}

fn headers(source: &Source) -> Result<Headers, Error> {
    let all = source.head(3 * HEADER)?;
    let part = |index: usize| all.get(index * HEADER..(index + 1) * HEADER).unwrap_or_default();
    let read = |header: &[u8]| {
        is_sound(header)
            .then(|| {
                let block_size = u64_at(header, 40)?;
                Some(State {
                    iteration: u64_at(header, 8)?,
                    blocks: u64_at(header, 32)?,
                    // Early versions have no such field.
                    block_size: if block_size == 0 { 262_144 } else { block_size },
                })
            })
            .flatten()
    };
    let (first, second) = (read(part(1)), read(part(2)));
    let state = match (first, second) {
        (Some(first), Some(second)) if second.iteration > first.iteration => Some(second),
        (Some(first), _) => Some(first),
        (None, second) => second,
    };
    Ok(Headers { main: part(0).to_vec(), state })
}

/// Checks the headers and the blocks' checksums.
pub(super) fn check(path: &Path) -> Result<CheckReport, Error> {
    let source = Source::open(path)?;
    let headers = headers(&source)?;
    let mut findings = Findings::default();
    if !is_sound(&headers.main) {
        findings.damage("the main header's checksum fails");
    } else if u64_at(&headers.main, 20).is_some_and(|flags| flags & 1 != 0) {
        return Ok(not_checked("the database is encrypted"));
    }
    match headers.state {
        None => findings.damage("the checksums of both state headers fail"),
        Some(state) => {
            let headers = u64::try_from(3 * HEADER).unwrap_or(0);
            let needed = state.blocks.saturating_mul(state.block_size).saturating_add(headers);
            if source.length() < needed {
                findings.damage(format!("{} bytes long, {needed} needed", source.length()));
            }
            let failing = failing_blocks(&source, &state)?;
            if failing > 0 {
                // Which blocks are in use, only the engine knows.
                findings.remark(format!(
                    "the checksums of {failing} blocks fail: damage, if these blocks are in use"
                ));
            }
        }
    }
    Ok(findings.report(Outcome::StructureOnly, "headers, length and checksums of blocks"))
}

/// Facts of the headers.
pub(super) fn summary(path: &Path) -> Result<Option<Summary>, Error> {
    let source = Source::open(path)?;
    let headers = headers(&source)?;
    let Some(state) = headers.state else { return Ok(None) };
    let mut summary = Summary::default();
    let mut put = |name: &str, value: u64| summary.facts.insert(name.to_owned(), value.to_string());
    put("storage version", u64_at(&headers.main, 12).unwrap_or(0));
    put("iteration", state.iteration);
    put("blocks", state.blocks);
    Ok(Some(summary))
}

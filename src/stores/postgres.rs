//! Owns PostgreSQL cluster directories, as far as they can be checked without the server: the
//! control file's checksum and what it says of the last shutdown.

use std::path::Path;

use crc::{CRC_32_ISCSI, Crc};

use super::report::Findings;
use super::source::{Source, is_file, u32_at, u64_at};
use super::{CheckReport, Error, LiveState, Outcome, Summary};

const CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);
/// The file that names a cluster's version, in its directory.
pub(super) const VERSION: &str = "PG_VERSION";
const CONTROL: &str = "global/pg_control";

/// Whether a directory is a cluster.
pub(super) fn recognise(directory: &Path) -> bool {
    is_file(&directory.join(VERSION)) && is_file(&directory.join(CONTROL))
}

/// The part of the control file that its checksum covers; `None` where no checksum holds. Where
/// the checksum lies depends on the server's version.
fn control(directory: &Path) -> Result<Option<Vec<u8>>, Error> {
    let head = Source::open(&directory.join(CONTROL))?.head(1024)?;
    let end = (64..head.len()).step_by(4).find(|end| {
        u32_at(&head, *end).is_some_and(|sum| sum != 0 && sum == CRC.checksum(&head[..*end]))
    });
    Ok(end.map(|end| head[..end].to_vec()))
}

/// How the server ended.
pub(super) fn state(directory: &Path) -> Result<LiveState, Error> {
    /// `DB_SHUTDOWNED` and `DB_SHUTDOWNED_IN_RECOVERY`.
    const DOWN: [u32; 2] = [1, 2];
    let state = control(directory)?.and_then(|control| u32_at(&control, 16));
    Ok(match state {
        _ if is_file(&directory.join("postmaster.pid")) => LiveState::PendingLog,
        Some(state) if DOWN.contains(&state) => LiveState::Clean,
        Some(_) => LiveState::PendingLog,
        None => LiveState::Unknown,
    })
}

/// Checks the control file.
pub(super) fn check(directory: &Path) -> Result<CheckReport, Error> {
    let mut findings = Findings::default();
    if control(directory)?.is_none() {
        findings.damage("the control file's checksum fails");
    }
    for name in ["base", "global", "pg_wal", "pg_xact"] {
        if !directory.join(name).symlink_metadata().is_ok_and(|m| m.is_dir() || m.is_symlink()) {
            findings.damage(format!("the directory {name} is missing"));
        }
    }
    if state(directory)? == LiveState::PendingLog {
        findings.remark("the server runs, or was not shut down: its log holds changes");
    }
    Ok(findings
        .report(Outcome::StructureOnly, "control file and directories; tables were not read"))
}

/// Facts of the control file.
pub(super) fn summary(directory: &Path) -> Result<Option<Summary>, Error> {
    let Some(control) = control(directory)? else { return Ok(None) };
    let version = Source::open(&directory.join("PG_VERSION"))?.head(16)?;
    let mut summary = Summary::default();
    let mut put = |name: &str, value: String| summary.facts.insert(name.to_owned(), value);
    put("version", String::from_utf8_lossy(version.trim_ascii()).into_owned());
    put("system identifier", u64_at(&control, 0).unwrap_or(0).to_string());
    put("catalog version", u32_at(&control, 12).unwrap_or(0).to_string());
    Ok(Some(summary))
}

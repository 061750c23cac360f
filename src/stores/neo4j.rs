//! Owns Neo4j database directories: recognising them, and that their parts are there. They have
//! no mark in their content, so they are known by the names of their files.

use std::path::{Path, PathBuf};

use super::report::Findings;
use super::source::is_file;
use super::{CheckReport, Error, LiveState, Outcome, Summary};

/// The file that names a database's directory.
pub(super) const STORE: &str = "neostore";

/// The stores of a database in the record format.
const RECORD_STORES: [&str; 5] = [
    "neostore",
    "neostore.nodestore.db",
    "neostore.relationshipstore.db",
    "neostore.propertystore.db",
    "neostore.labeltokenstore.db",
];

/// Whether a directory is a database.
pub(super) fn recognise(directory: &Path) -> bool {
    [STORE, "neostore.nodestore.db"].iter().all(|name| is_file(&directory.join(name)))
}

/// The directory of the database's transaction logs: next to the databases' directory, or itself.
pub(super) fn transactions(directory: &Path) -> Option<PathBuf> {
    let name = directory.file_name()?;
    let data = directory.parent()?.parent()?;
    let logs = data.join("transactions").join(name);
    logs.is_dir().then_some(logs)
}

/// Whether the last shutdown was clean can't be told from the outside.
pub(super) fn state(_directory: &Path) -> LiveState {
    LiveState::Unknown
}

/// Checks that the parts are there.
pub(super) fn check(directory: &Path) -> Result<CheckReport, Error> {
    let mut findings = Findings::default();
    for name in RECORD_STORES {
        if !is_file(&directory.join(name)) {
            findings.damage(format!("{name} is missing"));
        }
    }
    Ok(findings.report(Outcome::StructureOnly, "presence of the record stores; they were not read"))
}

/// Facts: the sizes of the record stores.
pub(super) fn summary(directory: &Path) -> Result<Option<Summary>, Error> {
    let mut summary = Summary::default();
    for name in RECORD_STORES {
        if let Ok(metadata) = directory.join(name).symlink_metadata() {
            summary.facts.insert(format!("bytes of {name}"), metadata.len().to_string());
        }
    }
    Ok(Some(summary))
}

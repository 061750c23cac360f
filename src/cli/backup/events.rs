//! What is told of backups: the facts, and what is out of the usual.

use std::path::Path;

use serde_json::{Value, json};

use crate::backup::{Backup, Catalog, Sidecar};

/// How many earlier backups tell what is usual.
const USUAL_COUNT: usize = 4;
/// What takes less time is never unusual.
const UNUSUAL_MS: u64 = 10_000;

/// What is out of the usual about a new backup, compared with earlier ones of its kind.
pub(super) fn unusual(new: &Sidecar, catalog: &Catalog) -> Vec<String> {
    let earlier: Vec<&Sidecar> = catalog
        .backups()
        .iter()
        .rev()
        .filter(|backup: &&Backup| backup.name.name == new.name)
        .filter_map(|backup| backup.sidecar.as_ref().ok())
        .filter(|sidecar| sidecar.kind == new.kind && sidecar.id != new.id)
        .take(12)
        .collect();
    if earlier.len() < USUAL_COUNT {
        return Vec::new();
    }
    let median = |number: &dyn Fn(&Sidecar) -> u64| {
        let mut all: Vec<u64> = earlier.iter().map(|sidecar| number(sidecar)).collect();
        all.sort_unstable();
        all[all.len() / 2]
    };
    let mut found = Vec::new();
    let size = median(&|sidecar| sidecar.size);
    // Increments differ by nature.
    let usual_size = new.kind != crate::archive::ArchiveKind::Full
        || (new.size >= size / 2 && new.size <= size.saturating_mul(2));
    if !usual_size {
        found.push(format!("{} bytes, where {size} are usual", new.size));
    }
    let duration = median(&|sidecar| sidecar.duration_ms);
    if new.duration_ms > UNUSUAL_MS && new.duration_ms > duration.saturating_mul(3) {
        found.push(format!("{} ms, where {duration} are usual", new.duration_ms));
    }
    found
}

/// What an event tells of a backup.
pub(super) fn facts(path: &Path, sidecar: &Sidecar) -> Vec<(&'static str, Value)> {
    vec![
        ("archive", json!(path.display().to_string())),
        ("type", json!(sidecar.kind)),
        ("size", json!(sidecar.size)),
        ("entries", json!(sidecar.entries)),
        ("duration_ms", json!(sidecar.duration_ms)),
    ]
}

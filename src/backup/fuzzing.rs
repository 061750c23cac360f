//! Doors for fuzzing into what reads the notes beside a backup, and the names of backups.

use super::name::{BackupName, sidecar_path};
use super::sidecar::Sidecar;
use std::path::Path;

/// A sidecar, and what it calls its archive.
pub fn sidecar(bytes: &[u8]) -> bool {
    let Ok(sidecar) = Sidecar::parse(bytes) else { return false };
    let text = serde_json::to_vec(&sidecar).expect("plain values serialise");
    assert_eq!(Sidecar::parse(&text).ok().as_ref(), Some(&sidecar));
    if let Some(name) = BackupName::parse(&sidecar.file) {
        assert_eq!(name.file_name(), sidecar.file);
        assert!(!sidecar.file.contains(['/', '\0']), "no name leads elsewhere");
        assert!(sidecar_path(Path::new(&sidecar.file)).is_some());
    }
    true
}

/// What [`sidecar`] takes.
pub fn sidecar_examples() -> Vec<Vec<u8>> {
    let id = "07".repeat(32);
    let text = format!(
        r#"{{"format":"strongroom-backup","version":1,"file":"notes-20251017-123000.tar.zst.enc",
"id":"{id}","name":"notes","type":"incremental","created":"2025-10-17T12:30:00Z",
"chain":[{{"id":"{id}","file":"notes-20251016-123000.tar.zst.enc"}}],"compression":"zstd",
"sealed":true,"size":1000,"sha256":"{id}","stored":{{"entries":3,"bytes":5}},"entries":3,
"tag":"before the update","components":[{{"name":"notes.db","kind":"sqlite","bytes":5}}],"unstable":1,
"duration_ms":5,"tool":"strongroom 0.1.0","platform":"linux-x86_64"}}"#
    );
    vec![text.into_bytes()]
}

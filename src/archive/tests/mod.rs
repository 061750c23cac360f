//! Whole archives: written, damaged, forged, read.
#![allow(clippy::unwrap_used)]

mod arbitrary;
mod damage;
mod growing;
mod hostile;
mod late;
mod round_trip;
mod source;

use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::*;
use crate::crypto::{Argon2Parameters, Passphrase, Secret};
use crate::tree::{
    CompareOptions, EntryKind, LocalTree, Timestamp, TreePath, TreeReader, TreeWriter, compare,
    exclude_nothing,
};

fn passphrase(text: &str) -> Secret {
    Secret::Passphrase(Passphrase::new(Zeroizing::new(text.as_bytes().to_vec())).unwrap())
}

fn key_set(secret: &Secret) -> KeySet {
    let cost = Argon2Parameters::insecure_for_tests();
    KeySet::of_secrets(&[(secret, "test")], || Ok(cost), 1_700_000_000).unwrap()
}

fn description(kind: ArchiveKind) -> Description {
    Description {
        name: "test".into(),
        kind,
        created: Timestamp { seconds: 1_700_000_000, nanoseconds: 5 },
        chain: Vec::new(),
        details: serde_json::json!({"tag": "a test"}),
    }
}

/// Archives one directory as the section `data`.
fn archive(
    source: &Path,
    into: &Path,
    name: &str,
    keys: Option<&KeySet>,
    options: &WriteOptions<'_>,
) -> Result<(PathBuf, Written)> {
    let tree = LocalTree::open(source).unwrap();
    let sections =
        [Section { name: SectionName::data(), reader: &tree, exclude: &exclude_nothing }];
    let mut pending = PendingArchive::create(into)?;
    let written = pending.write(
        keys.map(|keys| keys as &dyn SealingKeys),
        &description(ArchiveKind::Full),
        &sections,
        None,
        options,
    )?;
    Ok((pending.publish(name)?, written))
}

fn extract_all(reader: &ArchiveReader, into: &Path) -> Result<(Passed, Extracted)> {
    let tree = LocalTree::open(into).unwrap();
    let targets: [(SectionName, &dyn TreeWriter); 1] = [(SectionName::data(), &tree)];
    let options = ExtractOptions { targets: &targets, select: &select_all, devices: true };
    reader.extract(&options, Control::default())
}

fn is_socket(_: &TreePath, kind: EntryKind) -> bool {
    kind == EntryKind::Socket
}

/// Compares everything but sockets.
fn assert_equal(left: &Path, right: &Path) {
    let (left, right) = (LocalTree::open(left).unwrap(), LocalTree::open(right).unwrap());
    let options = CompareOptions { exclude: &is_socket, ..CompareOptions::default() };
    let comparison = compare(&left, &right, &options).unwrap();
    assert!(comparison.is_equal(), "{:#?}", comparison.differences);
    assert!(comparison.entries > 0);
}

fn index_of(reader: &ArchiveReader) -> Result<Vec<IndexEntry>> {
    let mut lines = Vec::new();
    reader.index(Control::default(), &mut |line| {
        lines.push(line.clone());
        Ok(())
    })?;
    Ok(lines)
}

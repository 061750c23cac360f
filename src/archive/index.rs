//! The lines of an index, by themselves: how they are read, and what each may say.

use std::io::Read;

use super::error::{Error, Result};
use super::metadata::{ArchiveMetadata, IndexEntry, SectionName, Where};
use super::tar::{RawEntry, RawKind, TarReader};
use crate::tree::{EntryKind, TreePath};

/// The lines of an index, checked by themselves.
#[derive(Default)]
pub(super) struct Lines {
    pub(super) count: u64,
    last: Option<(SectionName, TreePath)>,
}

impl Lines {
    /// Lines come in the order of the archive, and say nothing impossible.
    pub(super) fn check(&mut self, line: &IndexEntry, metadata: &ArchiveMetadata) -> Result<()> {
        let bad = |problem: &str| {
            Err(Error::Malformed {
                entry: Some(format!("{}/{}", line.section, line.entry.path)),
                problem: format!("its line in the index is wrong: {problem}"),
            })
        };
        self.count += 1;
        let limit = metadata.limit.entries;
        if self.count > limit {
            return Err(Error::TooMuch { limit, what: "entries" });
        }
        let number = |name| metadata.sections.iter().position(|known| known == name);
        if number(&line.section).is_none() {
            return bad("it lies in no section");
        }
        if let Some((section, path)) = &self.last {
            let last = (number(section), path);
            if (number(&line.section), &line.entry.path) <= last {
                return bad("it is out of order, or there twice");
            }
        }
        self.last = Some((line.section.clone(), line.entry.path.clone()));
        let kind = line.entry.metadata.kind;
        let first = line.entry.link_to.as_ref();
        if first.is_some_and(|first| *first >= line.entry.path || kind == EntryKind::Directory) {
            return bad("it is a link to something after it");
        }
        let is_file = kind == EntryKind::Regular && first.is_none();
        if is_file != line.entry.sha256.is_some() {
            return bad("it has a digest and no content, or the reverse");
        }
        match line.stored {
            Where::Here if kind == EntryKind::Socket => bad("a socket cannot be stored"),
            Where::Nowhere if kind != EntryKind::Socket => bad("it is stored nowhere"),
            Where::In(_) if kind != EntryKind::Regular => bad("it must be stored here"),
            Where::In(id) if !metadata.chain.iter().any(|link| link.id == id) => {
                bad("it is stored in an archive that this one does not need")
            }
            _ => Ok(()),
        }
    }
}

/// The lines of a part.
pub(super) fn parse_part(bytes: &[u8]) -> impl Iterator<Item = Result<IndexEntry>> {
    let lines = bytes.split_inclusive(|byte| *byte == b'\n');
    lines.map(|line| {
        line.strip_suffix(b"\n")
            .and_then(|line| serde_json::from_slice(line).ok())
            .ok_or_else(|| Error::malformed("a part of its index cannot be read"))
    })
}

/// Reads one of our own entries whole.
pub(super) fn read_own<R: Read>(
    tar: &mut TarReader<R>,
    entry: &RawEntry,
    limit: u64,
) -> Result<Vec<u8>> {
    let is_file = matches!(
        &entry.kind,
        RawKind::Entry(metadata) if metadata.kind == EntryKind::Regular && entry.sparse.is_none()
    );
    if !is_file {
        return Err(Error::malformed("an entry of its own is no plain file"));
    }
    if tar.content_left() > limit {
        return Err(Error::malformed("an entry of its own is too long"));
    }
    let mut bytes = vec![0u8; usize::try_from(tar.content_left()).unwrap_or(0)];
    tar.read_content(&mut bytes)?;
    Ok(bytes)
}

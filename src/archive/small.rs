//! Reading small files whole, ahead of who writes them and side by side.

use std::sync::atomic::AtomicBool;

use crossbeam_channel::{Receiver, Sender};
use sha2::{Digest as _, Sha256};

use super::error::{Error, Result};
use super::gather::{OnChange, Section, check, may_vanish};
use crate::tree::{self, ContentReader, Digest, Entry, EntryKind, TreeReader};

/// Files up to this size are read ahead, whole.
const SMALL: u64 = 256 * 1024;
/// No hole is smaller: a page.
const HOLE: u64 = 4096;
/// How often a file that keeps changing is read again.
const READ_ATTEMPTS: usize = 3;
/// How often a file that keeps changing is opened again: one must be met unchanged.
const OPEN_ATTEMPTS: usize = 100;

/// Small files for a reading thread, of one section. Many at once: handing over costs as much as
/// reading one.
pub(super) struct Job {
    pub(super) section: usize,
    pub(super) entries: Vec<Entry>,
    /// Gets what was found, in the order of the entries; as far as the first error.
    pub(super) answer: Sender<Vec<Result<Found>>>,
}

/// What a reading thread found.
pub(super) enum Found {
    /// The file, read whole.
    Small(Box<Small>),
    /// It grew: to be read by whoever takes the item.
    Large(Box<Entry>),
    /// It vanished.
    Gone,
}

/// A file read whole.
pub(super) struct Small {
    pub(super) entry: Entry,
    pub(super) data: Vec<u8>,
    pub(super) digest: Digest,
    pub(super) unstable: bool,
}

/// What a reading thread does.
pub(super) fn read_small(
    sections: &[Section<'_>],
    on_change: OnChange,
    cancelled: &AtomicBool,
    jobs: &Receiver<Job>,
) {
    for Job { section, entries, answer } in jobs {
        let mut found = Vec::with_capacity(entries.len());
        for entry in entries {
            let read = check(cancelled)
                .and_then(|()| sections.get(section).ok_or(Error::Worker))
                .and_then(|section| small(section.reader, entry, on_change));
            let failed = read.is_err();
            found.push(read);
            if failed {
                break;
            }
        }
        // Nobody waits for it any more: then it is not wanted.
        let _ = answer.send(found);
    }
}

/// Whether a file is read ahead, as far as can be told before it is opened.
pub(super) fn is_small(entry: &Entry) -> bool {
    entry.metadata.size <= SMALL && !may_have_holes(entry)
}

/// Whether a file may have a hole that is worth keeping.
fn may_have_holes(entry: &Entry) -> bool {
    entry.allocated.saturating_add(HOLE) <= entry.metadata.size
}

fn small(reader: &dyn TreeReader, mut entry: Entry, on_change: OnChange) -> Result<Found> {
    for attempt in 1.. {
        let Some((fresh, content)) = open(reader, entry, on_change)? else {
            return Ok(Found::Gone);
        };
        entry = fresh;
        let size = entry.metadata.size;
        if !is_small(&entry) {
            return Ok(Found::Large(Box::new(entry)));
        }
        let mut data = vec![0u8; usize::try_from(size).unwrap_or(0)];
        let end = u64::try_from(content.read_at(&mut data, 0)?).unwrap_or(u64::MAX);
        let unstable = match content.check_unchanged() {
            Ok(()) if end == size => false,
            Ok(()) => return Err(tree::Error::Short { size, end }.into()),
            Err(tree::Error::Changed { .. }) if on_change == OnChange::Keep => true,
            Err(error) => return Err(error.into()),
        };
        if !unstable || attempt == READ_ATTEMPTS {
            let digest = Digest(Sha256::digest(&data).into());
            return Ok(Found::Small(Box::new(Small { entry, data, digest, unstable })));
        }
    }
    Err(Error::Worker)
}

/// Opens a file's content. One that changed since it was met is met again, where that is allowed;
/// `None` where it is gone.
pub(super) fn open(
    reader: &dyn TreeReader,
    mut entry: Entry,
    on_change: OnChange,
) -> Result<Option<(Entry, Box<dyn ContentReader>)>> {
    for _ in 0..OPEN_ATTEMPTS {
        match reader.content(&entry) {
            Ok(content) => {
                if entry.xattrs_unread {
                    entry.metadata.xattrs = content.xattrs()?;
                    entry.xattrs_unread = false;
                }
                return Ok(Some((entry, content)));
            }
            Err(tree::Error::Changed { .. }) if on_change == OnChange::Keep => {}
            Err(error) if may_vanish(on_change, &error) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        entry = match reader.entry(&entry.path) {
            Ok(fresh) if fresh.metadata.kind == EntryKind::Regular => fresh,
            Ok(_) => return Ok(None),
            Err(error) if may_vanish(on_change, &error) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
    }
    Err(Error::Tree(tree::Error::Changed { tree: reader.describe(), path: entry.path }))
}

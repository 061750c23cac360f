//! Reading small files whole, ahead of who writes them and side by side.

use std::ops::Range;
use std::sync::atomic::AtomicBool;

use crossbeam_channel::{Receiver, Sender};
use sha2::{Digest as _, Sha256};

use super::error::{Error, Result};
use super::gather::{OnChange, Section, check, may_vanish};
use crate::tree::{self, ContentReader, Digest, Entry, EntryKind, TreeReader};

/// Files up to this size are read ahead, whole.
const SMALL: u64 = 256 << 10;
/// Bytes of a buffer for the files of a job: what a batch has, with its last file.
pub(super) const BUFFER: usize = (256 << 10) + (256 << 10);
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
    pub(super) answer: Sender<Answer>,
}

/// What was found in the files of a job.
#[derive(Default)]
pub(super) struct Answer {
    /// In the order of the entries; as far as the first error.
    pub(super) found: Vec<Result<Found>>,
    /// Their contents are in it.
    pub(super) data: Vec<u8>,
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
    /// Where in the answer's data it is.
    pub(super) content: Range<usize>,
    pub(super) digest: Digest,
    pub(super) unstable: bool,
}

/// What a reading thread does; with buffers that come back, where there are any.
pub(super) fn read_small(
    sections: &[Section<'_>],
    on_change: OnChange,
    cancelled: &AtomicBool,
    jobs: &Receiver<Job>,
    spare: &Receiver<Vec<u8>>,
) {
    for Job { section, entries, answer } in jobs {
        let mut found = Vec::with_capacity(entries.len());
        let mut data = spare.try_recv().unwrap_or_default();
        if data.is_empty() {
            // Room for most jobs: it grows where that takes more.
            data = vec![0; BUFFER];
        }
        let mut filled = 0;
        for entry in entries {
            let read = check(cancelled)
                .and_then(|()| sections.get(section).ok_or(Error::Worker))
                .and_then(|section| small(section.reader, entry, on_change, &mut data, filled));
            if let Ok(Found::Small(small)) = &read {
                filled = small.content.end;
            }
            let failed = read.is_err();
            found.push(read);
            if failed {
                break;
            }
        }
        // Nobody waits for it any more: then it is not wanted.
        let _ = answer.send(Answer { found, data });
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

/// Reads a file to the bytes of `data` from `start` on.
fn small(
    reader: &dyn TreeReader,
    mut entry: Entry,
    on_change: OnChange,
    data: &mut Vec<u8>,
    start: usize,
) -> Result<Found> {
    for attempt in 1.. {
        let Some((fresh, content)) = open(reader, entry, on_change)? else {
            return Ok(Found::Gone);
        };
        entry = fresh;
        let size = entry.metadata.size;
        if !is_small(&entry) {
            return Ok(Found::Large(Box::new(entry)));
        }
        let place = start..start + usize::try_from(size).unwrap_or(0);
        if data.len() < place.end {
            data.resize(place.end, 0);
        }
        let bytes = data.get_mut(place.clone()).ok_or(Error::Worker)?;
        let count = content.read_at(bytes, 0)?;
        // Of one that became shorter; another file may have been there before.
        bytes[count..].fill(0);
        let end = u64::try_from(count).unwrap_or(u64::MAX);
        let unstable = match content.check_unchanged() {
            Ok(()) if end == size => false,
            Ok(()) => return Err(tree::Error::Short { size, end }.into()),
            Err(tree::Error::Changed { .. }) if on_change == OnChange::Keep => true,
            Err(error) => return Err(error.into()),
        };
        if !unstable || attempt == READ_ATTEMPTS {
            let digest = Digest(Sha256::digest(&*bytes).into());
            return Ok(Found::Small(Box::new(Small { entry, content: place, digest, unstable })));
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

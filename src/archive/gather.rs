//! The first half of writing: walks the sections, finds hard links and what is unchanged, and
//! has small files read ahead by several threads. What it hands on is in the order of the archive.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};
use sha2::{Digest as _, Sha256};

use super::error::{Error, Result};
use super::metadata::{Amount, IndexEntry, SectionName, Where};
use crate::format::archive::ArchiveId;
use crate::tree::{self, ContentReader, Digest, Entry, EntryKind, Exclude, TreePath, TreeReader};

/// Files up to this size are read ahead, whole.
const SMALL: u64 = 256 * 1024;
/// No hole is smaller: a page.
const HOLE: u64 = 4096;
/// Entries on their way; also bounds what is read ahead.
const QUEUE: usize = 64;
/// Entries kept from the counting walk, so that most trees are walked once.
const KEPT_ENTRIES: usize = 50_000;
/// How often a file that keeps changing is read again.
const READ_ATTEMPTS: usize = 3;
/// How often a file that keeps changing is opened again: one must be met unchanged.
const OPEN_ATTEMPTS: usize = 100;

/// Finds the content of a file that an earlier archive stored and that did not change since. Asked
/// in the order of the archive, from one thread.
pub type Unchanged<'a> = dyn FnMut(&SectionName, &Entry) -> Option<(Digest, ArchiveId)> + Send + 'a;

/// One tree of an archive.
#[derive(Clone)]
pub struct Section<'a> {
    /// Its name in the archive.
    pub name: SectionName,
    /// The tree.
    pub reader: &'a dyn TreeReader,
    /// What is left out of it.
    pub exclude: Exclude<'a>,
}

/// What becomes of a file that changes while it is being read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnChange {
    /// The archive fails.
    #[default]
    Fail,
    /// It is read again, and kept as it was read last, marked in the index. What vanishes is left
    /// out.
    Keep,
}

/// What was noticed on the way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Noticed {
    /// Sockets: listed in the index, stored nowhere.
    pub sockets: Vec<(SectionName, TreePath)>,
    /// Where other filesystems are mounted that the walk did not visit.
    pub mount_points: Vec<(SectionName, TreePath)>,
    /// Files with names outside their tree.
    pub outside_links: Vec<(SectionName, TreePath)>,
    /// Files that changed while they were read (only with [`OnChange::Keep`]).
    pub unstable: Vec<(SectionName, TreePath)>,
    /// Entries that vanished meanwhile (only with [`OnChange::Keep`]).
    pub vanished: Vec<(SectionName, TreePath)>,
}

/// An entry for the archive.
pub(super) struct Item {
    pub(super) index: IndexEntry,
    /// Names of the file, on the first of several.
    pub(super) links: u64,
    pub(super) content: Content,
}

/// Where an item's content comes from.
pub(super) enum Content {
    /// None is stored: not a regular file, or another name of one, or stored elsewhere.
    Nothing,
    /// It is being read by another thread.
    Small(Receiver<Result<Found>>),
    /// To be read by whoever takes the item.
    Large { section: usize, entry: Box<Entry> },
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

/// The sections' entries counted, and kept where there are few.
pub(super) struct Counted {
    /// What the archive will hold at most.
    pub(super) limit: Amount,
    kept: Option<Vec<Vec<Entry>>>,
}

/// Walks everything once, for the limits that stand at the archive's beginning.
pub(super) fn count(
    sections: &[Section<'_>],
    on_change: OnChange,
    cancelled: &AtomicBool,
) -> Result<Counted> {
    let mut amount = Amount::default();
    let mut kept = Some(Vec::new());
    for section in sections {
        let mut entries = Vec::new();
        for entry in section.reader.walk(section.exclude)? {
            check(cancelled)?;
            let entry = match entry {
                Err(error) if may_vanish(on_change, &error) => continue,
                other => other?,
            };
            amount.entries += 1;
            amount.bytes = amount.bytes.saturating_add(entry.metadata.size);
            if kept.is_some() {
                entries.push(entry);
            }
            if usize::try_from(amount.entries).unwrap_or(usize::MAX) > KEPT_ENTRIES {
                (kept, entries) = (None, Vec::new());
            }
        }
        if let Some(kept) = &mut kept {
            kept.push(entries);
        }
    }
    if kept.is_none() || on_change == OnChange::Keep {
        // Another walk may find more: the limit is there against bombs, not to be exact.
        amount.entries = amount.entries.saturating_add(amount.entries / 4 + 10_000);
        amount.bytes = amount.bytes.saturating_add(amount.bytes / 4 + (1 << 30));
    }
    Ok(Counted { limit: amount, kept })
}

/// Walks the sections and hands on their entries in order; the walk's part of what was noticed.
pub(super) fn walk(
    sections: &[Section<'_>],
    counted: Counted,
    unchanged: &mut Unchanged<'_>,
    on_change: OnChange,
    cancelled: &AtomicBool,
    items: &Sender<Item>,
    jobs: &Sender<Job>,
) -> Result<Noticed> {
    let mut noticed = Noticed::default();
    let mut kept = counted.kept.map(Vec::into_iter);
    for (number, section) in sections.iter().enumerate() {
        let entries: tree::Walk<'_> = match kept.as_mut().and_then(Iterator::next) {
            Some(entries) => Box::new(entries.into_iter().map(Ok)),
            None => section.reader.walk(section.exclude)?,
        };
        let mut links = Links::default();
        for entry in entries {
            check(cancelled)?;
            let entry = match entry {
                Err(error) if may_vanish(on_change, &error) => {
                    if let Some(path) = error.path() {
                        noticed.vanished.push((section.name.clone(), path.clone()));
                    }
                    continue;
                }
                other => other?,
            };
            let place = || (section.name.clone(), entry.path.clone());
            if entry.mount_point {
                noticed.mount_points.push(place());
            }
            if entry.metadata.kind == EntryKind::Socket {
                noticed.sockets.push(place());
            }
            let item = links.item(section, number, entry, unchanged, jobs)?;
            items.send(item).map_err(|_| Error::Cancelled)?;
        }
        noticed.outside_links.extend(links.left().map(|path| (section.name.clone(), path)));
    }
    Ok(noticed)
}

/// The files of a section of which not all names were met yet.
#[derive(Default)]
struct Links(HashMap<(u64, u64), Group>);

struct Group {
    first: TreePath,
    stored: Where,
    seen: u64,
    count: u64,
}

impl Links {
    fn item(
        &mut self,
        section: &Section<'_>,
        number: usize,
        entry: Entry,
        unchanged: &mut Unchanged<'_>,
        jobs: &Sender<Job>,
    ) -> Result<Item> {
        let mut index = IndexEntry::new(&section.name, &entry);
        let nothing = |index| Ok(Item { index, links: 1, content: Content::Nothing });
        if entry.metadata.kind == EntryKind::Socket {
            index.stored = Where::Nowhere;
            return nothing(index);
        }
        let link = entry.hard_link;
        let key = link.map(|link| (link.device, link.inode));
        if let Some(group) = key.and_then(|key| self.0.get_mut(&key)) {
            index.entry.link_to = Some(group.first.clone());
            index.stored = group.stored;
            group.seen += 1;
            if let Some(key) = key.filter(|_| group.seen >= group.count) {
                self.0.remove(&key);
            }
            return nothing(index);
        }
        let is_file = entry.metadata.kind == EntryKind::Regular;
        if let Some((digest, archive)) = is_file.then(|| unchanged(&section.name, &entry)).flatten()
        {
            index.stored = Where::In(archive);
            index.entry.sha256 = Some(digest);
        }
        if let (Some(link), Some(key)) = (link, key) {
            let (first, stored) = (entry.path.clone(), index.stored);
            self.0.insert(key, Group { first, stored, seen: 1, count: link.count });
        }
        let links = link.map_or(1, |link| link.count);
        let content = if !is_file || index.stored != Where::Here {
            Content::Nothing
        } else if entry.metadata.size > SMALL || may_have_holes(&entry) {
            Content::Large { section: number, entry: Box::new(entry) }
        } else {
            let (answer, wait) = bounded(1);
            jobs.send(Job { section: number, entry, answer }).map_err(|_| Error::Worker)?;
            Content::Small(wait)
        };
        Ok(Item { index, links, content })
    }

    /// The first names of files that have names elsewhere.
    fn left(self) -> impl Iterator<Item = TreePath> {
        let mut left: Vec<_> = self.0.into_values().map(|group| group.first).collect();
        left.sort();
        left.into_iter()
    }
}

/// A small file for a reading thread.
pub(super) struct Job {
    section: usize,
    entry: Entry,
    answer: Sender<Result<Found>>,
}

/// A channel from the walk to the writer, or to the reading threads.
pub(super) fn channel<T>() -> (Sender<T>, Receiver<T>) {
    bounded(QUEUE)
}

/// What a reading thread does.
pub(super) fn read_small(sections: &[Section<'_>], on_change: OnChange, jobs: &Receiver<Job>) {
    for Job { section, entry, answer } in jobs {
        let read = sections
            .get(section)
            .ok_or(Error::Worker)
            .and_then(|section| small(section.reader, entry, on_change));
        // Nobody waits for it any more: then it is not wanted.
        let _ = answer.send(read);
    }
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
        if size > SMALL || may_have_holes(&entry) {
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
            Ok(content) => return Ok(Some((entry, content))),
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

fn may_vanish(on_change: OnChange, error: &tree::Error) -> bool {
    on_change == OnChange::Keep && error.raw_os_error() == Some(libc::ENOENT)
}

pub(super) fn check(cancelled: &AtomicBool) -> Result<()> {
    if cancelled.load(Ordering::Relaxed) { Err(Error::Cancelled) } else { Ok(()) }
}

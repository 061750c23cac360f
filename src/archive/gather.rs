//! The first half of writing: walks the sections, finds hard links and what is unchanged, and
//! has small files read ahead by several threads. What it hands on is in the order of the archive.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::error::{Error, Result};
use super::metadata::{Amount, IndexEntry, SectionName, Where};
use super::small::{Answer, Job, is_small};
use crate::format::archive::ArchiveId;
use crate::tree::{self, Digest, Entry, EntryKind, Exclude, TreePath, TreeReader};

/// Batches on their way; also bounds what is read ahead.
const QUEUE: usize = 16;
/// Entries of a batch at most, and bytes of the small files in it, but for the last one. Few: to hand a
/// batch over takes less than the first use of the memory of a large one.
const BATCH_ENTRIES: usize = 32;
const BATCH_BYTES: u64 = 256 << 10;
/// Entries kept from the counting walk, so that most trees are walked once.
const KEPT_ENTRIES: usize = 50_000;

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

/// Some entries for the archive.
pub(super) struct Batch {
    pub(super) items: Vec<Item>,
    /// What was found in those whose content is [`Content::Small`], in their order.
    pub(super) found: Receiver<Answer>,
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
    Small,
    /// To be read by whoever takes the item.
    Large { section: usize, entry: Box<Entry> },
}

/// The sections' entries counted, and kept where there are few.
pub(super) struct Counted {
    /// What the archive will hold at most.
    pub(super) limit: Amount,
    kept: Option<Vec<Vec<Entry>>>,
}

impl Counted {
    /// Of what was counted elsewhere, or a moment ago. Another walk may find more: the limit is there
    /// against bombs, not to be exact.
    pub(super) fn about(amount: Amount) -> Self {
        let Amount { entries, bytes } = amount;
        let entries = entries.saturating_add(entries / 4 + 10_000);
        let bytes = bytes.saturating_add(bytes / 4 + (1 << 30));
        Self { limit: Amount { entries, bytes }, kept: None }
    }
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
    let limit = match kept.is_none() || on_change == OnChange::Keep {
        true => Counted::about(amount).limit,
        false => amount,
    };
    Ok(Counted { limit, kept })
}

/// Walks the sections and hands on their entries in order; the walk's part of what was noticed.
pub(super) fn walk(
    sections: &[Section<'_>],
    counted: Counted,
    mut unchanged: Option<&mut Unchanged<'_>>,
    on_change: OnChange,
    cancelled: &AtomicBool,
    items: &Sender<Batch>,
    jobs: &Sender<Job>,
) -> Result<Noticed> {
    let send = |(batch, job): (Batch, Option<Job>)| {
        job.map(|job| jobs.send(job)).transpose().map_err(|_| Error::Worker)?;
        items.send(batch).map_err(|_| Error::Cancelled)
    };
    let mut noticed = Noticed::default();
    let mut kept = counted.kept.map(Vec::into_iter);
    for (number, section) in sections.iter().enumerate() {
        let entries: tree::Walk<'_> = match kept.as_mut().and_then(Iterator::next) {
            Some(entries) => Box::new(entries.into_iter().map(Ok)),
            // What an earlier archive stores is not read.
            None if unchanged.is_some() => section.reader.walk(section.exclude)?,
            None => section.reader.walk_to_read(section.exclude)?,
        };
        let mut batches = Batches::new(section, number);
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
            let batch = batches.take(entry, unchanged.as_deref_mut(), &mut noticed);
            batch.map(send).transpose()?;
        }
        batches.finish(&mut noticed).map(send).transpose()?;
    }
    Ok(noticed)
}

/// Puts the entries of a section together.
struct Batches<'a> {
    section: &'a Section<'a>,
    number: usize,
    links: Links,
    items: Vec<Item>,
    /// The small files among them, and their bytes.
    small: Vec<Entry>,
    bytes: u64,
}

impl<'a> Batches<'a> {
    fn new(section: &'a Section<'a>, number: usize) -> Self {
        let (links, items, small) = (Links::default(), Vec::new(), Vec::new());
        Self { section, number, links, items, small, bytes: 0 }
    }

    /// Takes an entry; a batch that is complete with it, and what of it is to be read.
    fn take(
        &mut self,
        entry: Entry,
        unchanged: Option<&mut Unchanged<'_>>,
        noticed: &mut Noticed,
    ) -> Option<(Batch, Option<Job>)> {
        let place = || (self.section.name.clone(), entry.path.clone());
        if entry.mount_point {
            noticed.mount_points.push(place());
        }
        if entry.metadata.kind == EntryKind::Socket {
            noticed.sockets.push(place());
        }
        let (mut item, read) = self.links.item(self.section, &entry, unchanged);
        debug_assert!(
            read || !entry.xattrs_unread,
            "{} is known without its attributes",
            entry.path
        );
        if read && is_small(&entry) {
            item.content = Content::Small;
            self.bytes += entry.metadata.size;
            self.small.push(entry);
        } else if read {
            item.content = Content::Large { section: self.number, entry: Box::new(entry) };
        }
        self.items.push(item);
        let full = self.items.len() >= BATCH_ENTRIES || self.bytes >= BATCH_BYTES;
        full.then(|| self.batch())
    }

    fn batch(&mut self) -> (Batch, Option<Job>) {
        let (answer, found) = bounded(1);
        let items = std::mem::take(&mut self.items);
        let entries = std::mem::take(&mut self.small);
        let job = (!entries.is_empty()).then_some(Job { section: self.number, entries, answer });
        self.bytes = 0;
        (Batch { items, found }, job)
    }

    /// The rest of the section.
    fn finish(mut self, noticed: &mut Noticed) -> Option<(Batch, Option<Job>)> {
        let rest = (!self.items.is_empty()).then(|| self.batch());
        let name = &self.section.name;
        noticed.outside_links.extend(self.links.left().map(|path| (name.clone(), path)));
        rest
    }
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
    /// The item of an entry, and whether its content is to be read.
    fn item(
        &mut self,
        section: &Section<'_>,
        entry: &Entry,
        unchanged: Option<&mut Unchanged<'_>>,
    ) -> (Item, bool) {
        let mut index = IndexEntry::new(&section.name, entry);
        let nothing = |index, links| Item { index, links, content: Content::Nothing };
        if entry.metadata.kind == EntryKind::Socket {
            index.stored = Where::Nowhere;
            return (nothing(index, 1), false);
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
            return (nothing(index, 1), false);
        }
        let is_file = entry.metadata.kind == EntryKind::Regular;
        let found = unchanged.filter(|_| is_file).and_then(|find| find(&section.name, entry));
        if let Some((digest, archive)) = found {
            index.stored = Where::In(archive);
            index.entry.sha256 = Some(digest);
        }
        if let (Some(link), Some(key)) = (link, key) {
            let (first, stored) = (entry.path.clone(), index.stored);
            self.0.insert(key, Group { first, stored, seen: 1, count: link.count });
        }
        let read = is_file && index.stored == Where::Here;
        (nothing(index, link.map_or(1, |link| link.count)), read)
    }

    /// The first names of files that have names elsewhere.
    fn left(self) -> impl Iterator<Item = TreePath> {
        let mut left: Vec<_> = self.0.into_values().map(|group| group.first).collect();
        left.sort();
        left.into_iter()
    }
}

/// A channel from the walk to the writer, or to the reading threads.
pub(super) fn channel<T>() -> (Sender<T>, Receiver<T>) {
    bounded(QUEUE)
}

/// Whether an entry may be gone by the time that it is looked at.
pub(super) fn may_vanish(on_change: OnChange, error: &tree::Error) -> bool {
    on_change == OnChange::Keep && error.raw_os_error() == Some(libc::ENOENT)
}

/// Refuses to go on once somebody asked to stop.
pub(super) fn check(cancelled: &AtomicBool) -> Result<()> {
    if cancelled.load(Ordering::Relaxed) { Err(Error::Cancelled) } else { Ok(()) }
}

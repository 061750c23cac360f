//! Copies a tree: in parallel, hashing while reading, in bounded memory.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::directories::OpenDirectory;
use super::error::{Error, Result};
use super::manifest::ManifestEntry;
use super::path::TreePath;
use super::stream::{Control, stream};
use super::threads::{start_in, start_some};
use super::types::{Digest, Entry, EntryKind};
use super::{ContentWriter, Exclude, Progress, TreeReader, TreeWriter, exclude_nothing};

/// Entries on their way to the workers. Each may hold a descriptor of the target.
const QUEUE: usize = 64;

/// How a tree is copied.
#[derive(Clone, Copy)]
pub struct CopyOptions<'a> {
    /// What is left out.
    pub exclude: Exclude<'a>,
    /// Files copied at the same time; by default as many as there are processors.
    pub jobs: Option<NonZeroUsize>,
    /// Set by somebody else to stop the copy.
    pub cancelled: &'a AtomicBool,
    /// Told of bytes and entries.
    pub progress: &'a dyn Progress,
    /// The digest of a regular file that an earlier run copied and that can be relied on: it is
    /// taken as it lies in the target.
    pub copied_before: &'a (dyn Fn(&Entry) -> Option<Digest> + Sync),
    /// Whether what is in the way in the target is removed (directories stay and are filled);
    /// else it is an error.
    pub replace: bool,
}

impl Default for CopyOptions<'_> {
    fn default() -> Self {
        static NEVER: AtomicBool = AtomicBool::new(false);
        Self {
            exclude: &exclude_nothing,
            jobs: None,
            cancelled: &NEVER,
            progress: &(),
            copied_before: &|_| None,
            replace: false,
        }
    }
}

/// A file with more names than the tree holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutsideLink {
    /// Its first name in the tree.
    pub path: TreePath,
    /// Names in the tree.
    pub inside: u64,
    /// Names in all.
    pub count: u64,
}

/// What was copied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Entries, the root included.
    pub entries: u64,
    /// Regular files, each hard-linked one once.
    pub files: u64,
    /// Bytes of content, holes included.
    pub bytes: u64,
    /// Files taken as an earlier run left them.
    pub skipped: u64,
    /// Files with names outside the tree: there they stay apart from the copy.
    pub outside_links: Vec<OutsideLink>,
    /// Where other filesystems are mounted that the walk did not visit.
    pub mount_points: Vec<TreePath>,
}

/// Copies every entry that `reader` walks, the root's metadata included, to `writer`.
///
/// `record` is given each entry when it is complete (content written, metadata set; not yet
/// synced), from several threads and in no order, those of `copied_before` too. The caller
/// syncs the writer.
///
/// Directories get their metadata when all they hold is complete. A file that changes while it
/// is read stops the copy.
///
/// # Errors
/// The first that any thread met, or that there is none. The target is left as it is then.
pub fn copy(
    reader: &dyn TreeReader,
    writer: &dyn TreeWriter,
    options: &CopyOptions<'_>,
    record: &(dyn Fn(ManifestEntry) -> Result<()> + Sync),
) -> Result<Copied> {
    let stopped = AtomicBool::new(false);
    let state = State {
        reader,
        writer,
        options,
        record,
        stopped: &stopped,
        failure: Mutex::new(None),
        totals: Totals::default(),
    };
    let (sender, receiver) = bounded(QUEUE);
    let jobs = options.jobs.or_else(|| std::thread::available_parallelism().ok());
    let mut copied = std::thread::scope(|scope| {
        let started = start_some(jobs.map_or(1, NonZeroUsize::get), || {
            let (receiver, state) = (receiver.clone(), &state);
            start_in(scope, move || state.work(&receiver))
        });
        drop(receiver);
        if let Err(error) = started {
            state.fail(error);
            return Copied::default();
        }
        let mut copier =
            Copier { state: &state, sender, directories: Vec::new(), links: HashMap::new() };
        match copier.walk() {
            Ok(copied) => copier.close(copied),
            Err(error) => {
                state.fail(error);
                Copied::default()
            }
        }
    });
    let State { failure, totals, .. } = state;
    if let Some(error) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    copied.files = totals.files.into_inner();
    copied.bytes = totals.bytes.into_inner();
    copied.skipped = totals.skipped.into_inner();
    Ok(copied)
}

#[derive(Default)]
struct Totals {
    files: AtomicU64,
    bytes: AtomicU64,
    skipped: AtomicU64,
}

struct State<'a> {
    reader: &'a dyn TreeReader,
    writer: &'a dyn TreeWriter,
    options: &'a CopyOptions<'a>,
    record: &'a (dyn Fn(ManifestEntry) -> Result<()> + Sync),
    stopped: &'a AtomicBool,
    failure: Mutex<Option<Error>>,
    totals: Totals,
}

type Directory = OpenDirectory<ManifestEntry>;

/// An entry for a worker.
struct Job {
    entry: Entry,
    /// Already created, where other names were to be made of it at once.
    file: Option<Box<dyn ContentWriter>>,
    directory: Option<Arc<Directory>>,
}

struct Group {
    first: TreePath,
    seen: u64,
    count: u64,
}

/// The walking thread: it makes directories and hard links, and leaves the rest to the workers.
struct Copier<'a> {
    state: &'a State<'a>,
    sender: Sender<Job>,
    /// The directories that the walk is in.
    directories: Vec<(TreePath, Arc<Directory>)>,
    /// Files of which not all names were met yet.
    links: HashMap<(u64, u64), Group>,
}

impl Copier<'_> {
    fn walk(&mut self) -> Result<Copied> {
        let state = self.state;
        let mut copied = Copied::default();
        for entry in state.reader.walk(state.options.exclude)? {
            state.control().check()?;
            let entry = entry?;
            copied.entries += 1;
            if entry.mount_point {
                copied.mount_points.push(entry.path.clone());
            }
            while let Some((path, _)) = self.directories.last() {
                if entry.path.is_within(path) {
                    break;
                }
                self.leave()?;
            }
            self.visit(entry)?;
        }
        while !self.directories.is_empty() {
            self.leave()?;
        }
        Ok(copied)
    }

    fn close(self, mut copied: Copied) -> Copied {
        copied.outside_links = self
            .links
            .into_values()
            .map(|group| OutsideLink { path: group.first, inside: group.seen, count: group.count })
            .collect();
        copied.outside_links.sort_by(|left, right| left.path.cmp(&right.path));
        copied
    }

    fn leave(&mut self) -> Result<()> {
        self.directories.pop().map_or(Ok(()), |(_, directory)| self.state.release(Some(directory)))
    }

    fn visit(&mut self, entry: Entry) -> Result<()> {
        let parent = self.directories.last().map(|(_, directory)| Arc::clone(directory));
        if entry.metadata.kind == EntryKind::Directory {
            self.state.make_directory(&entry.path)?;
            let path = entry.path.clone();
            let done = Some(manifest_entry(entry, None, None));
            self.directories.push((path, Directory::new(done, parent)));
            return Ok(());
        }
        let Some(link) = entry.hard_link else {
            return self.send(Job { entry, file: None, directory: parent });
        };
        let key = (link.device, link.inode);
        if let Some(group) = self.links.get_mut(&key) {
            group.seen += 1;
            let first = group.first.clone();
            if group.seen >= group.count {
                self.links.remove(&key);
            }
            let state = self.state;
            state.displacing(&entry.path, || state.writer.hard_link(&first, &entry.path))?;
            return state.complete(manifest_entry(entry, Some(first), None), parent);
        }
        // Made here and now, so that the other names can be made of it while its content is
        // still being copied.
        let group = Group { first: entry.path.clone(), seen: 1, count: link.count };
        self.links.insert(key, group);
        let state = self.state;
        if entry.metadata.kind != EntryKind::Regular {
            return state.copy_special(Job { entry, file: None, directory: parent });
        }
        let file = match (state.options.copied_before)(&entry) {
            Some(_) => None,
            None => Some(state.create_file(&entry)?),
        };
        self.send(Job { entry, file, directory: parent })
    }

    fn send(&self, job: Job) -> Result<()> {
        self.sender.send(job).map_err(|_| Error::Worker)
    }
}

impl State<'_> {
    fn control(&self) -> Control<'_> {
        let CopyOptions { cancelled, progress, .. } = *self.options;
        Control { cancelled, stopped: self.stopped, progress }
    }

    fn work(&self, receiver: &Receiver<Job>) {
        // After a failure the queue is still emptied, so that the walk never waits for ever.
        for job in receiver {
            let done = self.control().check().and_then(|()| match job.entry.metadata.kind {
                EntryKind::Regular => self.copy_file(job),
                _ => self.copy_special(job),
            });
            if let Err(error) = done {
                self.fail(error);
            }
        }
    }

    /// Stops everything. Others notice, and fail in turn: theirs is not the error to tell.
    fn fail(&self, error: Error) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        if failure.as_ref().is_none_or(|first| matches!(first, Error::Cancelled)) {
            *failure = Some(error);
        }
        self.stopped.store(true, Ordering::Relaxed);
    }

    fn copy_file(&self, job: Job) -> Result<()> {
        let Job { entry, file, directory } = job;
        let size = entry.metadata.size;
        let before = if file.is_none() { (self.options.copied_before)(&entry) } else { None };
        let digest = match before {
            Some(digest) => {
                self.totals.skipped.fetch_add(1, Ordering::Relaxed);
                self.options.progress.bytes(size);
                digest
            }
            None => {
                let content = self.reader.content(&entry)?;
                let mut file = file.map_or_else(|| self.create_file(&entry), Ok)?;
                let digest = stream(&*content, size, Some(&mut *file), self.control())?;
                content.check_unchanged()?;
                file.finish(&entry.metadata)?;
                digest
            }
        };
        self.totals.files.fetch_add(1, Ordering::Relaxed);
        self.totals.bytes.fetch_add(size, Ordering::Relaxed);
        self.complete(manifest_entry(entry, None, Some(digest)), directory)
    }

    fn copy_special(&self, job: Job) -> Result<()> {
        let Job { entry, directory, .. } = job;
        let path = &entry.path;
        self.displacing(path, || self.writer.create_special(path, &entry.metadata))?;
        self.complete(manifest_entry(entry, None, None), directory)
    }

    fn create_file(&self, entry: &Entry) -> Result<Box<dyn ContentWriter>> {
        let Entry { path, metadata, .. } = entry;
        self.displacing(path, || self.writer.create_file_for(path, metadata))
    }

    fn make_directory(&self, path: &TreePath) -> Result<()> {
        if path.is_root() {
            return Ok(());
        }
        match self.writer.create_directory(path) {
            Err(error) if self.options.replace && is_taken(&error) => {
                let kind = self.writer.existing(path)?.map(|entry| entry.metadata.kind);
                if kind == Some(EntryKind::Directory) {
                    return Ok(());
                }
                self.writer.remove(path)?;
                self.writer.create_directory(path)
            }
            made => made,
        }
    }

    /// Runs `create`, once more after removing what is in the way, where that is allowed.
    fn displacing<T>(&self, path: &TreePath, create: impl Fn() -> Result<T>) -> Result<T> {
        match create() {
            Err(error) if self.options.replace && is_taken(&error) => {
                self.writer.remove(path)?;
                create()
            }
            made => made,
        }
    }

    fn complete(&self, entry: ManifestEntry, directory: Option<Arc<Directory>>) -> Result<()> {
        self.options.progress.entry(&entry.path);
        (self.record)(entry)?;
        self.release(directory)
    }

    fn release(&self, directory: Option<Arc<Directory>>) -> Result<()> {
        Directory::release(directory, |done| {
            self.writer.set_metadata(&done.path, &done.metadata)?;
            self.options.progress.entry(&done.path);
            (self.record)(done)
        })
    }
}

fn is_taken(error: &Error) -> bool {
    error.raw_os_error() == Some(libc::EEXIST)
}

fn manifest_entry(
    entry: Entry,
    link_to: Option<TreePath>,
    sha256: Option<Digest>,
) -> ManifestEntry {
    ManifestEntry { path: entry.path, metadata: entry.metadata, link_to, sha256 }
}

#[cfg(test)]
mod tests;

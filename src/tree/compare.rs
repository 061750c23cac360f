//! Compares two trees completely, or a tree with a manifest: in parallel, in bounded memory.

use std::collections::HashMap;
use std::fmt;
use std::iter::Peekable;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crossbeam_channel::{Receiver, Sender, bounded};
use serde::Serialize;

use super::bytes::ByteString;
use super::error::{Error, Result};
use super::manifest::ManifestEntry;
use super::path::TreePath;
use super::stream::{Control, stream};
use super::threads::{start_in, start_some};
use super::types::{Digest, Entry, EntryKind, Metadata, Timestamp, Xattr};
use super::{Exclude, Progress, TreeReader, exclude_nothing};

const QUEUE: usize = 256;

/// How trees are compared.
#[derive(Clone, Copy)]
pub struct CompareOptions<'a> {
    /// What is left out, on both sides.
    pub exclude: Exclude<'a>,
    /// Files hashed at the same time; by default as many as there are processors.
    pub jobs: Option<NonZeroUsize>,
    /// Set by somebody else to stop the comparison.
    pub cancelled: &'a AtomicBool,
    /// Set by somebody else for whom the comparison has become pointless, and set when it fails. It
    /// ends as a cancelled one does.
    pub stopped: Option<&'a AtomicBool>,
    /// Told of bytes (each side's) and entries.
    pub progress: &'a dyn Progress,
    /// The digest of a regular file of the left tree, where it is known already: then only the
    /// right one's content is read.
    pub known: &'a (dyn Fn(&Entry) -> Option<Digest> + Sync),
    /// How many differences are kept; the rest are only counted.
    pub limit: usize,
    /// Says of a difference that it does not count at all.
    pub overlook: &'a (dyn Fn(&TreePath, &Mismatch) -> bool + Sync),
}

impl Default for CompareOptions<'_> {
    fn default() -> Self {
        static NEVER: AtomicBool = AtomicBool::new(false);
        Self {
            exclude: &exclude_nothing,
            jobs: None,
            cancelled: &NEVER,
            stopped: None,
            progress: &(),
            known: &|_| None,
            limit: 10_000,
            overlook: &|_, _| false,
        }
    }
}

/// The outcome of a comparison.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Comparison {
    /// Entries of the left side.
    pub entries: u64,
    /// Regular files whose contents were compared.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The differences, in the order of a walk; no more than [`CompareOptions::limit`].
    pub differences: Vec<Difference>,
    /// How many there are in all.
    pub total_differences: u64,
    /// How many of them are entries that cannot be read.
    pub unreadable: u64,
}

impl Comparison {
    /// Whether nothing differs.
    pub fn is_equal(&self) -> bool {
        self.total_differences == 0
    }
}

/// One way in which one entry differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The entry.
    pub path: TreePath,
    /// How it differs.
    #[serde(flatten)]
    pub mismatch: Mismatch,
}

/// How an entry differs. Last access, inode numbers and where a file's holes are do not count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "difference", rename_all = "kebab-case")]
#[allow(missing_docs, reason = "left and right are the two sides' values, everywhere")]
pub enum Mismatch {
    /// Only the left side has it.
    OnlyLeft { kind: EntryKind },
    /// Only the right side has it.
    OnlyRight { kind: EntryKind },
    /// Not the same kind of entry.
    Kind { left: EntryKind, right: EntryKind },
    /// Not the same permission bits.
    Mode { left: u32, right: u32 },
    /// Not the same owner and group.
    Owner { left: (u32, u32), right: (u32, u32) },
    /// Not the same time of last change.
    Modified { left: Timestamp, right: Timestamp },
    /// Not the same size.
    Size { left: u64, right: u64 },
    /// The same size, but not the same content.
    Content { left: Digest, right: Digest },
    /// Not the same target of a symlink.
    Target { left: ByteString, right: ByteString },
    /// Not the same device.
    Device { left: u64, right: u64 },
    /// Not the same value of an extended attribute, or only on one side.
    Xattr { name: ByteString, left: Option<ByteString>, right: Option<ByteString> },
    /// Not the same file under several names: the first name of each side's.
    HardLink { left: Option<TreePath>, right: Option<TreePath> },
    /// It cannot be read.
    Unreadable { error: String },
}

impl fmt::Display for Mismatch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OnlyLeft { kind } => {
                write!(formatter, "the {kind} is missing in the second tree")
            }
            Self::OnlyRight { kind } => write!(formatter, "the {kind} is only in the second tree"),
            Self::Kind { left, right } => write!(formatter, "{left} against {right}"),
            Self::Mode { left, right } => write!(formatter, "mode {left:04o} against {right:04o}"),
            Self::Owner { left, right } => {
                write!(formatter, "owner {}:{} against {}:{}", left.0, left.1, right.0, right.1)
            }
            Self::Modified { left, right } => write!(
                formatter,
                "last change {}.{:09} against {}.{:09}",
                left.seconds, left.nanoseconds, right.seconds, right.nanoseconds
            ),
            Self::Size { left, right } => write!(formatter, "{left} bytes against {right}"),
            Self::Content { left, right } => write!(formatter, "SHA-256 {left} against {right}"),
            Self::Target { .. } => formatter.write_str("the symlinks' targets differ"),
            Self::Device { left, right } => write!(formatter, "device {left} against {right}"),
            Self::Xattr { name, .. } => write!(
                formatter,
                "the extended attribute {} differs",
                super::path::PathText(&name.0)
            ),
            Self::HardLink { left, right } => {
                let name = |path: &Option<TreePath>| {
                    path.as_ref().map_or("no other name".to_owned(), |path| path.to_string())
                };
                write!(formatter, "the same file as {} against {}", name(left), name(right))
            }
            Self::Unreadable { error } => formatter.write_str(error),
        }
    }
}

/// Compares all that both trees hold, the roots' metadata included. What cannot be read is a
/// difference, so that a damaged tree is reported in full.
///
/// # Errors
/// When a root cannot be read, on cancellation, or where the system gives no thread.
pub fn compare(
    left: &dyn TreeReader,
    right: &dyn TreeReader,
    options: &CompareOptions<'_>,
) -> Result<Comparison> {
    let mut names = FirstNames::default();
    let entries = left.walk(options.exclude)?.map(|entry| {
        entry.map(|entry| {
            let link_to = names.of(&entry);
            let Entry { path, metadata, .. } = entry.clone();
            let sha256 = (options.known)(&entry);
            Item { manifest: ManifestEntry { path, metadata, link_to, sha256 }, entry: Some(entry) }
        })
    });
    join(Box::new(entries), Some(left), right, options)
}

/// Compares a tree with what a manifest says of it; `manifest` is in the order of a walk.
///
/// # Errors
/// When the root cannot be read, the manifest ends in an error, on cancellation, or where the system gives
/// no thread.
pub fn compare_manifest<'a>(
    manifest: impl Iterator<Item = Result<ManifestEntry>> + 'a,
    right: &dyn TreeReader,
    options: &CompareOptions<'_>,
) -> Result<Comparison> {
    let items = manifest.map(|entry| entry.map(|manifest| Item { manifest, entry: None }));
    join(Box::new(items), None, right, options)
}

/// An entry of the left side; without `entry` it comes from a manifest.
struct Item {
    manifest: ManifestEntry,
    entry: Option<Entry>,
}

/// Finds the first name of each file that has several.
#[derive(Default)]
struct FirstNames(HashMap<(u64, u64), (TreePath, u64)>);

impl FirstNames {
    /// The first name, where `entry` is a later one.
    fn of(&mut self, entry: &Entry) -> Option<TreePath> {
        let link = entry.hard_link?;
        let key = (link.device, link.inode);
        let Some((first, seen)) = self.0.get_mut(&key) else {
            self.0.insert(key, (entry.path.clone(), 1));
            return None;
        };
        *seen += 1;
        let first = first.clone();
        if *seen >= link.count {
            self.0.remove(&key);
        }
        Some(first)
    }
}

/// A pair of entries for a worker, or what is different without looking further.
struct Job {
    left: Item,
    right: Entry,
    right_link: Option<TreePath>,
}

#[derive(Default)]
struct Found {
    differences: Vec<Difference>,
    total: u64,
    unreadable: u64,
}

struct State<'a> {
    left: Option<&'a dyn TreeReader>,
    right: &'a dyn TreeReader,
    options: &'a CompareOptions<'a>,
    stopped: &'a AtomicBool,
    failed: Mutex<Option<Error>>,
    found: Mutex<Found>,
    files: AtomicU64,
    bytes: AtomicU64,
}

fn join<'a>(
    left_items: Box<dyn Iterator<Item = Result<Item>> + 'a>,
    left: Option<&dyn TreeReader>,
    right: &dyn TreeReader,
    options: &CompareOptions<'_>,
) -> Result<Comparison> {
    let own = AtomicBool::new(false);
    let state = State {
        left,
        right,
        options,
        stopped: options.stopped.unwrap_or(&own),
        failed: Mutex::new(None),
        found: Mutex::default(),
        files: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
    };
    let (sender, receiver) = bounded(QUEUE);
    let jobs = options.jobs.or_else(|| std::thread::available_parallelism().ok());
    let entries = std::thread::scope(|scope| {
        let started = start_some(jobs.map_or(1, NonZeroUsize::get), || {
            let (receiver, state) = (receiver.clone(), &state);
            start_in(scope, move || state.work(&receiver))
        });
        drop(receiver);
        if let Err(error) = started {
            state.fail(error);
            return 0;
        }
        state.pair(left_items.peekable(), sender).unwrap_or_else(|error| {
            state.fail(error);
            0
        })
    });
    let State { failed, found, files, bytes, .. } = state;
    if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    let Found { mut differences, total, unreadable } =
        found.into_inner().unwrap_or_else(PoisonError::into_inner);
    differences.sort_by(|left, right| left.path.cmp(&right.path));
    Ok(Comparison {
        entries,
        files: files.into_inner(),
        bytes: bytes.into_inner(),
        differences,
        total_differences: total,
        unreadable,
    })
}

impl State<'_> {
    fn control(&self) -> Control<'_> {
        let CompareOptions { cancelled, progress, .. } = *self.options;
        Control { cancelled, stopped: self.stopped, progress }
    }

    fn report(&self, path: &TreePath, mismatch: Mismatch) {
        if (self.options.overlook)(path, &mismatch) {
            return;
        }
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.total += 1;
        found.unreadable += u64::from(matches!(mismatch, Mismatch::Unreadable { .. }));
        if found.differences.len() < self.options.limit {
            found.differences.push(Difference { path: path.clone(), mismatch });
        }
    }

    /// An error about an entry is a difference; others end the comparison.
    fn report_error(&self, error: Error) -> Result<()> {
        match (&error, error.path()) {
            (Error::Io { .. } | Error::BadName { .. } | Error::Changed { .. }, Some(path)) => {
                self.report(&path.clone(), Mismatch::Unreadable { error: error.to_string() });
                Ok(())
            }
            _ => Err(error),
        }
    }

    /// Walks both sides at the same pace; how many entries the left one has.
    fn pair<'a>(
        &self,
        mut left: Peekable<Box<dyn Iterator<Item = Result<Item>> + 'a>>,
        sender: Sender<Job>,
    ) -> Result<u64> {
        let mut right = self.right.walk(self.options.exclude)?.peekable();
        let mut right_names = FirstNames::default();
        let mut entries = 0;
        loop {
            self.control().check()?;
            if let Some(error) = left.next_if(|item| item.is_err()).and_then(Result::err) {
                self.report_error(error)?;
                continue;
            }
            if let Some(error) = right.next_if(|item| item.is_err()).and_then(Result::err) {
                self.report_error(error)?;
                continue;
            }
            let order = match (left.peek(), right.peek()) {
                (None, None) => return Ok(entries),
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some(Ok(left)), Some(Ok(right))) => left.manifest.path.cmp(&right.path),
                // Errors were taken above.
                _ => continue,
            };
            let item = if order.is_le() { left.next().transpose()? } else { None };
            let entry = if order.is_ge() { right.next().transpose()? } else { None };
            entries += u64::from(item.is_some());
            let right_link = entry.as_ref().and_then(|entry| right_names.of(entry));
            match (item, entry) {
                (Some(left), Some(right)) => {
                    sender.send(Job { left, right, right_link }).map_err(|_| Error::Worker)?;
                }
                (Some(Item { manifest, .. }), None) => {
                    let kind = manifest.metadata.kind;
                    self.report(&manifest.path, Mismatch::OnlyLeft { kind });
                }
                (None, Some(entry)) => {
                    let kind = entry.metadata.kind;
                    self.report(&entry.path, Mismatch::OnlyRight { kind });
                }
                (None, None) => {}
            }
        }
    }

    fn work(&self, receiver: &Receiver<Job>) {
        for job in receiver {
            let done = self.control().check().and_then(|()| self.compare_entry(&job));
            if let Err(error) = done {
                self.fail(error);
            }
        }
    }

    /// Stops everything. Others notice, and fail in turn: theirs is not the error to tell.
    fn fail(&self, error: Error) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if failed.as_ref().is_none_or(|first| matches!(first, Error::Cancelled)) {
            *failed = Some(error);
        }
        self.stopped.store(true, Ordering::Relaxed);
    }

    fn compare_entry(&self, job: &Job) -> Result<()> {
        let Job { left, right, right_link } = job;
        let path = &right.path;
        let before = &left.manifest.metadata;
        let after = &right.metadata;
        self.options.progress.entry(path);
        if before.kind != after.kind {
            self.report(path, Mismatch::Kind { left: before.kind, right: after.kind });
            return Ok(());
        }
        self.compare_metadata(path, before, after);
        let left_link = &left.manifest.link_to;
        if left_link != right_link {
            let (left, right) = (left_link.clone(), right_link.clone());
            self.report(path, Mismatch::HardLink { left, right });
        }
        let compared_already = left_link.is_some() && left_link == right_link;
        if before.kind == EntryKind::Regular && before.size == after.size && !compared_already {
            self.compare_content(left, right).or_else(|error| self.report_error(error))?;
        }
        Ok(())
    }

    fn compare_metadata(&self, path: &TreePath, left: &Metadata, right: &Metadata) {
        if left.mode != right.mode {
            self.report(path, Mismatch::Mode { left: left.mode, right: right.mode });
        }
        let owners = ((left.uid, left.gid), (right.uid, right.gid));
        if owners.0 != owners.1 {
            self.report(path, Mismatch::Owner { left: owners.0, right: owners.1 });
        }
        if left.modified != right.modified {
            let (left, right) = (left.modified, right.modified);
            self.report(path, Mismatch::Modified { left, right });
        }
        if left.size != right.size {
            self.report(path, Mismatch::Size { left: left.size, right: right.size });
        }
        if left.rdev != right.rdev {
            self.report(path, Mismatch::Device { left: left.rdev, right: right.rdev });
        }
        if left.target != right.target {
            let (left, right) = (left.target.clone(), right.target.clone());
            self.report(path, Mismatch::Target { left, right });
        }
        let value = |xattrs: &[Xattr], name: &ByteString| {
            xattrs.iter().find(|xattr| xattr.name == *name).map(|xattr| xattr.value.clone())
        };
        for Xattr { name, value: before } in &left.xattrs {
            let after = value(&right.xattrs, name);
            if after.as_ref() != Some(before) {
                let (name, left) = (name.clone(), Some(before.clone()));
                self.report(path, Mismatch::Xattr { name, left, right: after });
            }
        }
        for Xattr { name, value: after } in &right.xattrs {
            if value(&left.xattrs, name).is_none() {
                let (name, right) = (name.clone(), Some(after.clone()));
                self.report(path, Mismatch::Xattr { name, left: None, right });
            }
        }
    }

    fn compare_content(&self, left: &Item, right: &Entry) -> Result<()> {
        let known = match (left.manifest.sha256, self.left, &left.entry) {
            (Some(digest), _, _) => Some(digest),
            (None, Some(reader), Some(entry)) => Some(self.digest(reader, entry)?),
            (None, _, _) => None,
        };
        let Some(known) = known else {
            let error = "the manifest has no digest of its content".to_owned();
            self.report(&right.path, Mismatch::Unreadable { error });
            return Ok(());
        };
        let found = self.digest(self.right, right)?;
        self.files.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(right.metadata.size, Ordering::Relaxed);
        if known != found {
            self.report(&right.path, Mismatch::Content { left: known, right: found });
        }
        Ok(())
    }

    fn digest(&self, reader: &dyn TreeReader, entry: &Entry) -> Result<Digest> {
        let content = reader.content(entry)?;
        let digest = stream(&*content, entry.metadata.size, None, self.control())?;
        content.check_unchanged()?;
        Ok(digest)
    }
}

#[cfg(test)]
mod tests;

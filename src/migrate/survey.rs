//! Reads a whole tree in the order of a walk, hashing files on several threads. Memory is bounded
//! by one batch of entries and one buffer a thread.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::Builder;

use parking_lot::Mutex;

use super::error::{Error, Result};
use super::ledger::LedgerEntry;
use crate::tree::{self, Digest, Entry, EntryKind, ManifestEntry, TreePath, TreeReader};

/// Entries that are hashed together.
const BATCH: usize = 1024;

/// Is told what long work has done, and says whether it shall stop.
pub trait Observer: Send + Sync {
    /// A stage begins; `bytes` and `files` are what it will go through, where known.
    fn stage(&self, stage: Stage, totals: Option<Totals>);
    /// So much more is done.
    fn advance(&self, entries: u64, bytes: u64);
    /// Something worth telling a person.
    fn note(&self, text: &str);
    /// Set when somebody asks to stop.
    fn cancelled(&self) -> &AtomicBool;
}

impl dyn Observer + '_ {
    /// Stops here when somebody asked to.
    pub(super) fn check(&self) -> Result<()> {
        if self.cancelled().load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
    }
}

/// Passes on what a tree's copy or comparison tells.
pub(super) struct TreeProgress<'a>(pub(super) &'a dyn Observer);

impl tree::Progress for TreeProgress<'_> {
    fn bytes(&self, count: u64) {
        self.0.advance(0, count);
    }

    fn entry(&self, _: &TreePath) {
        self.0.advance(1, 0);
    }
}

/// A stage of a migration that takes time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Looking at the source.
    Plan,
    /// Stopping the app.
    Quiesce,
    /// Reading the source whole.
    Survey,
    /// Checking the stores.
    Check,
    /// Writing the snapshot.
    Snapshot,
    /// Reading the snapshot back.
    ReadBack,
    /// Copying into the vault.
    Copy,
    /// Reading the vault through a fresh mount.
    VerifyVault,
    /// The same, and beside it reading the source again.
    VerifyBoth,
    /// Reading the source again.
    VerifySource,
    /// Bringing the app to the vault.
    Switch,
    /// Starting the app.
    Health,
    /// Destroying the originals.
    Wipe,
    /// Looking for what changed since.
    Changes,
    /// Writing the tree that comes back.
    Restore,
    /// Reading it back.
    VerifyRestored,
    /// Bringing the app back.
    SwitchBack,
}

/// Counts of a tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Totals {
    /// Entries of every kind, the root among them.
    pub entries: u64,
    /// Regular files.
    pub files: u64,
    /// Their bytes; a file with several names counts once.
    pub bytes: u64,
}

/// Observes nothing.
pub struct Unobserved;

impl Observer for Unobserved {
    fn stage(&self, _: Stage, _: Option<Totals>) {}
    fn advance(&self, _: u64, _: u64) {}
    fn note(&self, _: &str) {}
    fn cancelled(&self) -> &AtomicBool {
        static NEVER: AtomicBool = AtomicBool::new(false);
        &NEVER
    }
}

/// How a survey works.
pub(super) struct SurveyOptions<'a> {
    /// Threads that hash.
    pub(super) jobs: usize,
    /// Whether content is read at all.
    pub(super) hash: bool,
    /// What is left out.
    pub(super) exclude: tree::Exclude<'a>,
    /// Told of progress.
    pub(super) observer: &'a dyn Observer,
}

/// Reads `reader` whole and hands every entry to `sink`, in the order of a walk.
///
/// # Errors
/// The first of the tree's, those of `sink`, and [`Error::Interrupted`].
pub(super) fn survey(
    reader: &dyn TreeReader,
    options: &SurveyOptions<'_>,
    sink: &mut dyn FnMut(LedgerEntry) -> Result<()>,
) -> Result<Totals> {
    let mut walk = reader.walk(options.exclude)?;
    let mut first_names = HashMap::new();
    let mut totals = Totals::default();
    loop {
        let entries: Vec<Entry> = walk.by_ref().take(BATCH).collect::<tree::Result<_>>()?;
        if entries.is_empty() {
            return Ok(totals);
        }
        let links: Vec<Option<TreePath>> =
            entries.iter().map(|entry| link_to(&mut first_names, entry)).collect();
        let digests = if options.hash {
            hash_batch(reader, &entries, &links, options)?
        } else {
            vec![None; entries.len()]
        };
        for ((entry, link_to), sha256) in entries.into_iter().zip(links).zip(digests) {
            options.observer.check()?;
            totals.entries += 1;
            if entry.metadata.kind == EntryKind::Regular && link_to.is_none() {
                totals.files += 1;
                totals.bytes = totals.bytes.saturating_add(entry.metadata.size);
            }
            let changed = entry.changed;
            let links = entry.hard_link.map_or(1, |link| link.count);
            let manifest =
                ManifestEntry { path: entry.path, metadata: entry.metadata, link_to, sha256 };
            sink(LedgerEntry { entry: manifest, changed, links })?;
        }
    }
}

/// The first name of the same file, where `entry` is a later one.
fn link_to(first: &mut HashMap<(u64, u64), TreePath>, entry: &Entry) -> Option<TreePath> {
    let link = entry.hard_link?;
    let known = first.entry((link.device, link.inode)).or_insert_with(|| entry.path.clone());
    (*known != entry.path).then(|| known.clone())
}

fn hash_batch(
    reader: &dyn TreeReader,
    entries: &[Entry],
    links: &[Option<TreePath>],
    options: &SurveyOptions<'_>,
) -> Result<Vec<Option<Digest>>> {
    let due: Vec<usize> = (0..entries.len())
        .filter(|at| entries[*at].metadata.kind == EntryKind::Regular && links[*at].is_none())
        .collect();
    let digests = Mutex::new(vec![None; entries.len()]);
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let failure = Mutex::new(None);
    let work = || {
        while !failed.load(Ordering::Relaxed) {
            let Some(at) = due.get(next.fetch_add(1, Ordering::Relaxed)) else { return };
            match hash(reader, &entries[*at], options.observer, &failed) {
                Ok(digest) => digests.lock()[*at] = Some(digest),
                Err(error) => {
                    failed.store(true, Ordering::Relaxed);
                    // Others notice, and are cancelled in turn: theirs is not the error to tell.
                    let mut first = failure.lock();
                    if first.as_ref().is_none_or(|first| matches!(first, Error::Interrupted)) {
                        *first = Some(error);
                    }
                }
            }
        }
    };
    let threads = options.jobs.clamp(1, 64).min(due.len());
    if threads <= 1 {
        work();
    } else {
        std::thread::scope(|scope| {
            for _ in 1..threads {
                // As many as the system gives: this one goes on in any case.
                if Builder::new().spawn_scoped(scope, work).is_err() {
                    break;
                }
            }
            work();
        });
    }
    match failure.into_inner() {
        Some(error) => Err(error),
        None => Ok(digests.into_inner()),
    }
}

fn hash(
    reader: &dyn TreeReader,
    entry: &Entry,
    observer: &dyn Observer,
    stopped: &AtomicBool,
) -> Result<Digest> {
    let content = reader.content(entry)?;
    let progress = TreeProgress(observer);
    let control =
        tree::stream::Control { cancelled: observer.cancelled(), stopped, progress: &progress };
    let digest = tree::stream::stream(&*content, entry.metadata.size, None, control)?;
    content.check_unchanged()?;
    observer.advance(1, 0);
    Ok(digest)
}

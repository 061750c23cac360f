//! Putting what was restored in place: from a directory of its own, by renames, with the way back
//! written down before the first of them.
//!
//! Everything happens below one directory that stays: the target itself where only parts of it
//! change (or something is mounted there), else the directory that holds it. What was restored
//! lies in `.strongroom-restore-ID/new` there, what it replaces ends up in the same place or in
//! `old`. A journal names each rename with the inodes it is about; whoever finds one undoes what was
//! done. It is removed when everything of the restore, in all its places, is where it belongs: only then
//! what was replaced is.

mod plan;
mod recover;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use self::plan::Plan;
pub(super) use self::recover::UNDONE;
use self::recover::undo;
pub use self::recover::{Recovered, recover, unfinished};
use super::error::{Error, Result};
use crate::backing::ExclusiveLock;
use crate::crypto::random_array;
use crate::tree::{self, EntryKind, LocalTree, Rename, TreePath, TreeReader as _, TreeWriter as _};

pub(super) const PREFIX: &str = ".strongroom-restore-";
const JOURNAL: &[u8] = b"journal.json";
/// The journal while it is being written.
const JOURNAL_NEW: &[u8] = b"journal.new";
/// The journal once what it names is being undone.
const UNDOING: &[u8] = b"undo.json";
const NEW: &[u8] = b"new";
const OLD: &[u8] = b"old";
/// What lies beside a SQLite database and belongs to it.
const SIBLINGS: [&[u8]; 3] = [b"-wal", b"-shm", b"-journal"];

/// How much of the target changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All of it.
    Whole,
    /// These files and directories; the rest stays as it is.
    Parts(Vec<TreePath>),
    /// What is missing; nothing that is there changes.
    Missing,
    /// All of it but these, which stay as they are.
    Keeping(Vec<TreePath>),
}

/// A target being prepared.
pub struct Place {
    base: LocalTree,
    shown: PathBuf,
    /// The target, below the base; the root where the base is the target.
    target: TreePath,
    staging: TreePath,
    extent: Extent,
    _lock: ExclusiveLock,
    /// Renames that were made.
    journal: Journal,
    /// What lies in the staging directory must not be removed.
    kept: bool,
    /// The way back was given up.
    settled: bool,
}

/// The way back.
#[derive(Default, Serialize, Deserialize)]
struct Journal {
    steps: Vec<Step>,
}

/// One entry of the target that changes.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Step {
    /// Where it goes, below the base.
    target: TreePath,
    /// What comes there, and its inode.
    new: Option<(TreePath, u64)>,
    /// The inode of what is there, and where that goes if the two cannot change places.
    old: Option<(TreePath, u64)>,
}

/// What was put in place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Placed {
    /// Entries (with all they hold) that were put in place.
    pub put: u64,
    /// Entries that were replaced or removed.
    pub replaced: u64,
    /// Entries that stayed because they were there already.
    pub skipped: u64,
}

impl Place {
    /// Prepares `target`, which need not exist, and in which nothing may be [`unfinished`].
    ///
    /// # Errors
    /// When nothing can be written there.
    pub fn prepare(target: &Path, extent: Extent) -> Result<Self> {
        let known = target.canonicalize().ok();
        // Where nothing is, parts of it are all of it.
        let extent = if known.is_none() { Extent::Whole } else { extent };
        let inside = match &known {
            None => None,
            Some(path) if !path.is_dir() => {
                let problem = "it is not a directory".to_owned();
                return Err(Error::Target { path: path.clone(), problem });
            }
            Some(path)
                if extent != Extent::Whole
                    || is_mount_point(path)
                    || !may_be_written_beside(path) =>
            {
                Some(path.clone())
            }
            Some(_) => None,
        };
        let (shown, target) = match (inside, known) {
            (Some(path), _) => (path, TreePath::root()),
            (None, known) => split(&known.unwrap_or_else(|| target.to_owned()))?,
        };
        std::fs::create_dir_all(&shown).map_err(Error::io("create", &shown))?;
        let base = LocalTree::open(&shown)?;
        let id: String = random_array::<8>().iter().map(|byte| format!("{byte:02x}")).collect();
        let staging = name(format!("{PREFIX}{id}").as_bytes())?;
        base.create_directory(&staging)?;
        let lock = lock(&shown.join(staging.as_path()))?;
        base.create_directory(&below(&staging, NEW)?)?;
        base.create_directory(&below(&staging, OLD)?)?;
        let journal = Journal::default();
        let (kept, settled) = (false, false);
        Ok(Self { base, shown, target, staging, extent, _lock: lock, journal, kept, settled })
    }

    /// Where to restore to.
    pub fn new_root(&self) -> PathBuf {
        self.shown.join(self.staging.as_path()).join("new")
    }

    /// What is there now and would go, below the target; the root where all of it would. Empty
    /// directories do not count.
    ///
    /// # Errors
    /// When the target cannot be looked at.
    pub fn replaced(&self) -> Result<Vec<TreePath>> {
        let (steps, _) = self.plan()?;
        steps
            .iter()
            .filter(|step| step.old.is_some() && !self.is_empty(&step.target))
            .map(|step| self.below_target(&step.target))
            .collect()
    }

    fn below_target(&self, path: &TreePath) -> Result<TreePath> {
        path.components()
            .skip(self.target.depth())
            .try_fold(TreePath::root(), |path, name| below(&path, name))
    }

    fn is_empty(&self, path: &TreePath) -> bool {
        let path = self.shown.join(path.as_path());
        std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
    }

    /// Puts everything in place. What fails is undone.
    ///
    /// # Errors
    /// When something cannot be renamed: then the target is as before. [`Error::HalfWay`] where
    /// it could not be made so again.
    pub fn commit(&mut self) -> Result<Placed> {
        let (steps, skipped) = self.plan()?;
        let mut placed = Placed { skipped, ..Placed::default() };
        let metadata = if self.target.is_root() && self.extent == Extent::Whole {
            Some(self.base.entry(&below(&self.staging, NEW)?)?)
        } else {
            None
        };
        self.journal.steps = steps;
        self.write_journal()?;
        // From the first rename on, what was there may lie in the staging directory.
        self.kept = true;
        for at in 0..self.journal.steps.len() {
            let step = self.journal.steps[at].clone();
            if let Err(error) = self.take(&step) {
                return Err(self.undo_after(error));
            }
            placed.put += u64::from(step.new.is_some());
            placed.replaced += u64::from(step.old.is_some());
        }
        if let Some(entry) = metadata
            && let Err(error) = self.base.set_metadata(&TreePath::root(), &entry.metadata)
            // Somebody else's directory stays as that one wants it.
            && !matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES))
        {
            return Err(self.undo_after(error.into()));
        }
        if let Err(error) = self.base.sync() {
            return Err(self.undo_after(error.into()));
        }
        Ok(placed)
    }

    /// Makes the target again what it was before [`Self::commit`].
    ///
    /// # Errors
    /// [`Error::HalfWay`].
    pub fn undo(&mut self) -> Result<()> {
        undo(&self.base, &self.journal)?;
        self.base.sync()?;
        self.kept = false;
        self.journal.steps.clear();
        Ok(())
    }

    /// Undoes, and tells why: `error`, or that this failed, too.
    pub(super) fn undo_after(&mut self, error: Error) -> Error {
        match self.undo() {
            Ok(()) => error,
            Err(again) => Error::HalfWay {
                problem: format!("{error}; and undoing it failed: {again}"),
                aside: self.shown.join(self.staging.as_path()),
            },
        }
    }

    /// Gives up the way back: what was put in place stays, whatever happens.
    ///
    /// # Errors
    /// When that cannot be written down. Everything is in place all the same, and what it replaced is
    /// kept.
    pub fn settle(&mut self) -> Result<()> {
        self.remove_journal()?;
        self.settled = true;
        Ok(())
    }

    /// Removes what was replaced, if the way back is given up. Where it cannot all be removed, the rest
    /// of it is left in the directory that is returned.
    pub fn finish(mut self) -> Option<PathBuf> {
        let removed = self.settled && self.base.remove(&self.staging).is_ok();
        self.kept = true;
        (!removed).then(|| self.shown.join(self.staging.as_path()))
    }

    fn remove_journal(&self) -> Result<()> {
        let journal = below(&self.staging, JOURNAL)?;
        if self.base.existing(&journal)?.is_some() {
            self.base.remove(&journal)?;
            self.base.sync()?;
        }
        Ok(())
    }

    fn take(&self, step: &Step) -> Result<()> {
        let Step { target, new, old } = step;
        match (new, old) {
            (None, None) => Ok(()),
            (None, Some((aside, _))) => Ok(self.base.rename(target, aside, Rename::NoReplace)?),
            (Some((new, _)), None) => Ok(self.base.rename(new, target, Rename::NoReplace)?),
            (Some((new, _)), Some((aside, _))) => {
                match self.base.rename(new, target, Rename::Exchange) {
                    Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                        self.base.rename(target, aside, Rename::NoReplace)?;
                        Ok(self.base.rename(new, target, Rename::NoReplace)?)
                    }
                    exchanged => Ok(exchanged?),
                }
            }
        }
    }

    /// The steps, and how much stays because it is there already.
    fn plan(&self) -> Result<(Vec<Step>, u64)> {
        let mut plan = Plan {
            base: &self.base,
            target: &self.target,
            new: below(&self.staging, NEW)?,
            old: below(&self.staging, OLD)?,
            steps: Vec::new(),
            skipped: 0,
        };
        match &self.extent {
            Extent::Whole if !self.target.is_root() => plan.put(&TreePath::root())?,
            Extent::Whole => plan.all()?,
            Extent::Parts(parts) => {
                for part in parts {
                    plan.part(part)?;
                }
            }
            Extent::Missing => plan.missing()?,
            Extent::Keeping(kept) => plan.keeping(kept)?,
        }
        Ok((plan.steps, plan.skipped))
    }

    fn write_journal(&self) -> Result<()> {
        let path = below(&self.staging, JOURNAL)?;
        let bytes = serde_json::to_vec(&self.journal).map_err(|error| {
            Error::io("write", self.shown.join(path.as_path()))(std::io::Error::other(error))
        })?;
        let mut metadata = self.base.entry(&self.staging)?.metadata;
        metadata.kind = EntryKind::Regular;
        metadata.mode = 0o600;
        metadata.size = bytes.len() as u64;
        metadata.xattrs.clear();
        // Whoever finds a journal finds all of it.
        let unnamed = below(&self.staging, JOURNAL_NEW)?;
        let mut file = self.base.create_file(&unnamed)?;
        file.write_at(&bytes, 0)?;
        file.finish(&metadata)?;
        self.base.sync()?;
        self.base.rename(&unnamed, &path, Rename::NoReplace)?;
        Ok(self.base.sync()?)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // The journal first: what is left of the rest must not be taken for something half done.
        if !self.kept && self.remove_journal().is_ok() {
            // A leftover is found and removed later.
            let _ = self.base.remove(&self.staging);
        }
    }
}

/// Whether this is the directory of a restore that was interrupted, or is at work, with the way back in
/// it: what it replaced may lie there and nowhere else.
pub(super) fn holds_way_back(directory: &Path) -> bool {
    let named = directory.file_name();
    named.is_some_and(|name| name.as_bytes().starts_with(PREFIX.as_bytes()))
        && [JOURNAL, UNDOING]
            .iter()
            .any(|name| directory.join(OsStr::from_bytes(name)).symlink_metadata().is_ok())
}

/// The names in a directory.
fn children(base: &LocalTree, directory: &TreePath) -> Result<Vec<TreePath>> {
    base.names(directory)?.iter().map(|bytes| name(bytes)).collect()
}

pub(super) fn lock(directory: &Path) -> Result<ExclusiveLock> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::open(directory, flags, Mode::empty())
        .map_err(Error::errno("open", directory))?;
    ExclusiveLock::take(opened).map_err(Error::errno("lock", directory))
}

/// The directory that holds a target, and its name there.
fn split(target: &Path) -> Result<(PathBuf, TreePath)> {
    let refused =
        |problem: &str| Error::Target { path: target.to_owned(), problem: problem.to_owned() };
    let last = target.file_name().ok_or_else(|| refused("it has no name"))?;
    let parent = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    Ok((parent, name(last.as_bytes())?))
}

/// Whether the directory that holds this one can be written, so that it can be replaced as a whole.
fn may_be_written_beside(path: &Path) -> bool {
    use rustix::fs::{Access, AtFlags, CWD};
    let Some(parent) = path.parent() else { return false };
    let access = Access::WRITE_OK | Access::EXEC_OK;
    let asked = rustix::fs::accessat(CWD, parent, access, AtFlags::EACCESS);
    !matches!(asked, Err(Errno::ACCESS | Errno::ROFS | Errno::PERM))
}

fn is_mount_point(path: &Path) -> bool {
    let Some((parent, name)) = path.parent().zip(path.file_name()) else { return true };
    let entry = TreePath::new(name.as_bytes())
        .ok()
        .and_then(|name| LocalTree::open(parent).ok()?.entry(&name).ok());
    entry.is_some_and(|entry| entry.mount_point)
}

fn name(bytes: &[u8]) -> Result<TreePath> {
    TreePath::root().join(bytes).map_err(bad_path)
}

fn below(directory: &TreePath, name: &[u8]) -> Result<TreePath> {
    directory.join(name).map_err(bad_path)
}

fn join(directory: &TreePath, path: &TreePath) -> Result<TreePath> {
    directory.join_path(path).map_err(bad_path)
}

fn bad_path(error: tree::PathError) -> Error {
    Error::Target { path: PathBuf::from("."), problem: error.to_string() }
}

#[cfg(test)]
mod tests;

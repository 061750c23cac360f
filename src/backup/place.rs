//! Putting what was restored in place: from a directory of its own, by renames, with the way back
//! written down before the first of them.
//!
//! Everything happens below one directory that stays: the target itself where only parts of it
//! change (or something is mounted there), else the directory that holds it. What was restored
//! lies in `.strongroom-restore-ID/new` there, what it replaces ends up in the same place or in
//! `old`. A journal names each rename with the inodes it is about; whoever finds one that was not
//! completed undoes it.

mod plan;

use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};
use serde::{Deserialize, Serialize};

use self::plan::Plan;
use super::error::{Error, Result};
use crate::crypto::random_array;
use crate::tree::{self, EntryKind, LocalTree, Rename, TreePath, TreeReader as _, TreeWriter as _};

const PREFIX: &str = ".strongroom-restore-";
const JOURNAL: &[u8] = b"journal.json";
const NEW: &[u8] = b"new";
const OLD: &[u8] = b"old";
/// Longest journal that is read.
const JOURNAL_LIMIT: u64 = 1 << 30;
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
    _lock: OwnedFd,
    /// Renames that were made.
    journal: Journal,
    kept: bool,
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
    /// Prepares `target`, which need not exist. Undoes what an earlier restore to it left
    /// unfinished; `true` beside the place where there was one.
    ///
    /// # Errors
    /// When nothing can be written there.
    pub fn prepare(target: &Path, extent: Extent) -> Result<(Self, bool)> {
        let known = target.canonicalize().ok();
        // Where nothing is, parts of it are all of it.
        let extent = if known.is_none() { Extent::Whole } else { extent };
        let inside = match &known {
            None => None,
            Some(path) if !path.is_dir() => {
                let problem = "it is not a directory".to_owned();
                return Err(Error::Target { path: path.clone(), problem });
            }
            Some(path) if extent != Extent::Whole || is_mount_point(path) => Some(path.clone()),
            Some(_) => None,
        };
        let (shown, target) = match (inside, known) {
            (Some(path), _) => (path, TreePath::root()),
            (None, known) => split(&known.unwrap_or_else(|| target.to_owned()))?,
        };
        std::fs::create_dir_all(&shown).map_err(Error::io("create", &shown))?;
        let base = LocalTree::open(&shown)?;
        let recovered = recover(&base, &shown)?;
        let id: String = random_array::<8>().iter().map(|byte| format!("{byte:02x}")).collect();
        let staging = name(format!("{PREFIX}{id}").as_bytes())?;
        base.create_directory(&staging)?;
        let lock = lock(&shown.join(staging.as_path()))?;
        base.create_directory(&below(&staging, NEW)?)?;
        base.create_directory(&below(&staging, OLD)?)?;
        let journal = Journal::default();
        let place =
            Self { base, shown, target, staging, extent, _lock: lock, journal, kept: false };
        Ok((place, recovered))
    }

    /// Where to restore to.
    pub fn new_root(&self) -> PathBuf {
        self.shown.join(self.staging.as_path()).join("new")
    }

    /// Whether anything that is there now would go.
    ///
    /// # Errors
    /// When the target cannot be looked at.
    pub fn replaces(&self) -> Result<bool> {
        Ok(self.plan()?.0.iter().any(|step| step.old.is_some() && !self.is_empty(&step.target)))
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
        undo(&self.base, &self.journal).inspect_err(|_| self.kept = true)?;
        self.journal.steps.clear();
        Ok(self.base.sync()?)
    }

    fn undo_after(&mut self, error: Error) -> Error {
        match self.undo() {
            Ok(()) => error,
            Err(again) => Error::HalfWay {
                problem: format!("{error}; and undoing it failed: {again}"),
                aside: self.shown.join(self.staging.as_path()),
            },
        }
    }

    /// Gives up the way back, and removes what was replaced. Where it cannot all be removed, the rest
    /// of it is left in the directory that is returned.
    ///
    /// # Errors
    /// When the way back cannot be given up: the next restore takes it then.
    pub fn finish(mut self) -> Result<Option<PathBuf>> {
        let journal = below(&self.staging, JOURNAL)?;
        if self.base.existing(&journal)?.is_some() {
            self.base.remove(&journal)?;
            // From here on what is left is only to be removed.
            self.base.sync()?;
        }
        self.kept = true;
        let removed = self.base.remove(&self.staging);
        Ok(removed.is_err().then(|| self.shown.join(self.staging.as_path())))
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
            Extent::Whole => plan.all(&self.staging)?,
            Extent::Parts(parts) => {
                for part in parts {
                    plan.part(part)?;
                }
            }
            Extent::Missing => plan.missing()?,
            Extent::Keeping(kept) => plan.keeping(kept, &self.staging)?,
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
        let mut file = self.base.create_file(&path)?;
        file.write_at(&bytes, 0)?;
        file.finish(&metadata)?;
        Ok(self.base.sync()?)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.kept {
            // Whatever was put in place was undone; a leftover is found and removed later.
            let _ = self.base.remove(&self.staging);
        }
    }
}

/// The names in a directory.
fn children(base: &LocalTree, directory: &TreePath) -> Result<Vec<TreePath>> {
    base.names(directory)?.iter().map(|bytes| name(bytes)).collect()
}

/// Undoes what an interrupted restore left below this directory, and removes what is left of
/// others; whether there was anything to undo.
fn recover(base: &LocalTree, shown: &Path) -> Result<bool> {
    let mut recovered = false;
    for staging in children(base, &TreePath::root())? {
        if !staging.as_bytes().starts_with(PREFIX.as_bytes()) {
            continue;
        }
        let shown = shown.join(staging.as_path());
        // Somebody is at work there.
        let Ok(_lock) = lock(&shown) else { continue };
        let journal = shown.join("journal.json");
        if journal.metadata().is_ok_and(|status| status.is_file() && status.len() < JOURNAL_LIMIT) {
            let bytes = std::fs::read(&journal).map_err(Error::io("read", &journal))?;
            let journal: Journal = serde_json::from_slice(&bytes)
                .map_err(|error| Error::io("understand", &journal)(std::io::Error::other(error)))?;
            undo(base, &journal)?;
            base.remove(&below(&staging, JOURNAL)?)?;
            base.sync()?;
            recovered = true;
        }
        // What cannot be removed is in nobody's way.
        let _ = base.remove(&staging);
    }
    Ok(recovered)
}

/// Takes the steps back, the last one first; those that were not made are passed over.
fn undo(base: &LocalTree, journal: &Journal) -> Result<()> {
    let inode = |path: &TreePath| -> Result<Option<u64>> {
        Ok(base.existing(path)?.map(|entry| entry.inode))
    };
    for Step { target, new, old } in journal.steps.iter().rev() {
        let present = inode(target)?;
        if let Some((staged, number)) = new
            && present == Some(*number)
            && inode(staged)? != Some(*number)
        {
            match old {
                Some((_, old)) if inode(staged)? == Some(*old) => {
                    base.rename(staged, target, Rename::Exchange)?;
                    continue;
                }
                _ => base.rename(target, staged, Rename::NoReplace)?,
            }
        }
        if let Some((aside, number)) = old
            && inode(aside)? == Some(*number)
        {
            base.rename(aside, target, Rename::NoReplace)?;
        }
    }
    Ok(())
}

fn lock(directory: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::open(directory, flags, Mode::empty())
        .map_err(Error::errno("open", directory))?;
    rustix::fs::flock(&opened, FlockOperation::NonBlockingLockExclusive)
        .map_err(Error::errno("lock", directory))?;
    Ok(opened)
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

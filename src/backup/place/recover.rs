//! What an interrupted restore left: found, and undone. What it had put in place, which an app may have
//! written to since, is kept under a name that is told. One all of whose renames were made is no
//! different: others of the same restore may not have been, or undoing it was what failed.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::{JOURNAL, Journal, PREFIX, Step, UNDOING, below, children, lock, name, split};
use crate::backing::ExclusiveLock;
use crate::backup::error::{Error, Result};
use crate::tree::{LocalTree, Rename, TreePath, TreeWriter as _};

/// Begins the names of directories with what an undone restore had put in place.
pub(in crate::backup) const UNDONE: &str = "strongroom-undone-";

/// What was found of interrupted restores, and done about them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// What those that were undone had put in place, by the directory that it lies in now.
    pub undone: Vec<PathBuf>,
    /// Those whose way back cannot be read: nothing was undone, and what was replaced may lie in these.
    pub unreadable: Vec<PathBuf>,
}

impl Recovered {
    /// Whether there was anything.
    pub fn is_any(&self) -> bool {
        !self.undone.is_empty() || !self.unreadable.is_empty()
    }
}

/// How far a restore came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing of the target was changed, or all that was left is to be removed.
    Leftover,
    /// Some of its renames were made, or all; or they were being undone.
    Half,
    /// The way back cannot be read: whatever lies there is to be kept.
    Unknown,
}

struct Found {
    staging: TreePath,
    state: State,
    journal: Journal,
    /// Nobody else takes care of it meanwhile.
    _lock: ExclusiveLock,
}

/// Where restores to `target` were interrupted between their renames: the directories in which they
/// lie. Changes nothing.
///
/// # Errors
/// When what they left cannot be looked at.
pub fn unfinished(target: &Path) -> Result<Vec<PathBuf>> {
    let mut places = Vec::new();
    for (directory, about) in bases(target) {
        let Ok(base) = LocalTree::open(&directory) else { continue };
        let found = find(&base, &directory, &about)?;
        let half = found.iter().filter(|one| matches!(one.state, State::Half | State::Unknown));
        places.extend(half.map(|one| directory.join(one.staging.as_path())));
    }
    Ok(places)
}

/// Brings to an end what interrupted restores to `target` left.
///
/// # Errors
/// When one cannot be undone; it can be tried again.
pub fn recover(target: &Path) -> Result<Recovered> {
    let mut recovered = Recovered::default();
    for (directory, about) in bases(target) {
        let Ok(base) = LocalTree::open(&directory) else { continue };
        for found in find(&base, &directory, &about)? {
            let Found { staging, state, journal, _lock } = found;
            match state {
                State::Half => {
                    take_back(&base, &staging, &journal)?;
                    // With its journal: without it, what lies under the old name would be removed.
                    let kept = keep(&base, &staging)?;
                    let _ = base.remove(&below(&kept, UNDOING)?);
                    base.sync()?;
                    recovered.undone.push(directory.join(kept.as_path()));
                }
                State::Unknown => {
                    let kept = keep(&base, &staging)?;
                    base.sync()?;
                    recovered.unreadable.push(directory.join(kept.as_path()));
                }
                State::Leftover => {
                    let journal = below(&staging, JOURNAL)?;
                    if base.existing(&journal)?.is_some() {
                        base.remove(&journal)?;
                        base.sync()?;
                    }
                    // What cannot be removed is in nobody's way.
                    let _ = base.remove(&staging);
                }
            }
        }
    }
    Ok(recovered)
}

/// Undoes a restore. From the first step on, what lies in its directory may have been written to by
/// an app: the name of the journal says so to whoever comes next, also when all is undone.
pub(super) fn take_back(base: &LocalTree, staging: &TreePath, journal: &Journal) -> Result<()> {
    let written = below(staging, JOURNAL)?;
    if base.existing(&written)?.is_some() {
        base.rename(&written, &below(staging, UNDOING)?, Rename::NoReplace)?;
        base.sync()?;
    }
    undo(base, journal)?;
    Ok(base.sync()?)
}

/// Takes a restore's directory out of the way, with all that it holds.
fn keep(base: &LocalTree, staging: &TreePath) -> Result<TreePath> {
    let text = String::from_utf8_lossy(staging.as_bytes()).into_owned();
    let id = text.strip_prefix(PREFIX).unwrap_or(&text);
    let kept = name(format!("{UNDONE}{id}").as_bytes())?;
    base.rename(staging, &kept, Rename::NoReplace)?;
    Ok(kept)
}

/// The directories in which a restore to `target` works, and where that is below them: the one that
/// holds it, and itself.
fn bases(target: &Path) -> Vec<(PathBuf, TreePath)> {
    let known = target.canonicalize().ok();
    let beside = split(known.as_deref().unwrap_or(target)).ok();
    let itself = known.filter(|path| path.is_dir()).map(|path| (path, TreePath::root()));
    // The outer one first: undoing it may bring another directory to the inner one's place.
    beside.into_iter().chain(itself).collect()
}

/// What restores left in a directory; of those that are half done, the ones that are about a path.
fn find(base: &LocalTree, directory: &Path, about: &TreePath) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    let owner = directory.metadata().map_err(Error::io("look at", directory))?.uid();
    let own = rustix::process::geteuid().as_raw();
    for staging in children(base, &TreePath::root())? {
        if !staging.as_bytes().starts_with(PREFIX.as_bytes()) {
            continue;
        }
        let shown = directory.join(staging.as_path());
        // In a directory where everybody may write, others' journals are nothing to follow.
        let trusted = shown
            .symlink_metadata()
            .is_ok_and(|status| status.is_dir() && (status.uid() == own || status.uid() == owner));
        // Somebody is at work there.
        let Some(lock) = lock(&shown).ok().filter(|_| trusted) else { continue };
        let read = |name| std::fs::read(shown.join(OsStr::from_bytes(name)));
        let (bytes, undoing) = match read(UNDOING) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => (read(JOURNAL), false),
            bytes => (bytes, true),
        };
        let (state, journal) = match bytes {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                (State::Leftover, Journal::default())
            }
            // It may be about anything here, or nothing: that must not stop what it is not about.
            Err(_) => (State::Unknown, Journal::default()),
            Ok(bytes) => match serde_json::from_slice::<Journal>(&bytes) {
                Ok(journal) if undoing => (State::Half, journal),
                Ok(journal) => (state(base, &journal)?, journal),
                // It has its name only when it is whole, and nothing is renamed before: torn ones are
                // of earlier versions, or of a disk that fails.
                Err(_) if bytes.is_empty() => (State::Leftover, Journal::default()),
                Err(_) => (State::Unknown, Journal::default()),
            },
        };
        let mut targets = journal.steps.iter().map(|step| &step.target);
        if state == State::Half && !targets.any(|at| at.is_within(about) || about.is_within(at)) {
            continue;
        }
        found.push(Found { staging, state, journal, _lock: lock });
    }
    Ok(found)
}

/// How far a restore came. Told by what lies in its own directory, which nobody else changes: what is in
/// its place may have been replaced since.
fn state(base: &LocalTree, journal: &Journal) -> Result<State> {
    for step in &journal.steps {
        let Step { target, new, old } = step;
        let moved = match new {
            Some((staged, number)) => inode(base, staged)? != Some(*number),
            None => true,
        };
        let aside = old_place(base, step)?.is_some();
        if aside || (old.is_none() && new.is_some() && moved && base.existing(target)?.is_some()) {
            return Ok(State::Half);
        }
    }
    Ok(State::Leftover)
}

/// Takes the steps back, the last one first; those that were not made are passed over. What is in
/// place now goes where what was restored came from.
pub(super) fn undo(base: &LocalTree, journal: &Journal) -> Result<()> {
    for step in journal.steps.iter().rev() {
        let Step { target, new, old } = step;
        let present = base.existing(target)?.is_some();
        match (new, old) {
            (_, Some(_)) => {
                let Some(from) = old_place(base, step)? else { continue };
                if present {
                    change_places(base, from, target)?;
                } else {
                    base.rename(from, target, Rename::NoReplace)?;
                }
            }
            // One that is back may have another inode by now, and something else be in its place.
            (Some((staged, _)), None) => {
                if present && base.existing(staged)?.is_none() {
                    base.rename(target, staged, Rename::NoReplace)?;
                }
            }
            (None, None) => {}
        }
    }
    Ok(())
}

fn change_places(base: &LocalTree, from: &TreePath, target: &TreePath) -> Result<()> {
    match base.rename(from, target, Rename::Exchange) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            let since = name_beside(from, b"-since")?;
            base.rename(target, &since, Rename::NoReplace)?;
            Ok(base.rename(from, target, Rename::NoReplace)?)
        }
        exchanged => Ok(exchanged?),
    }
}

/// Where in the restore's own directory lies what was replaced; `None`: it was not, or is back.
fn old_place<'a>(base: &LocalTree, step: &'a Step) -> Result<Option<&'a TreePath>> {
    let Step { new, old: Some((aside, number)), .. } = step else { return Ok(None) };
    for place in new.iter().map(|(staged, _)| staged).chain([aside]) {
        if inode(base, place)? == Some(*number) {
            return Ok(Some(place));
        }
    }
    Ok(None)
}

fn inode(base: &LocalTree, path: &TreePath) -> Result<Option<u64>> {
    Ok(base.existing(path)?.map(|entry| entry.inode))
}

fn name_beside(path: &TreePath, ending: &[u8]) -> Result<TreePath> {
    let parent = path.parent().unwrap_or_else(TreePath::root);
    below(&parent, &[path.name().unwrap_or_default(), ending].concat())
}

//! Destroys the originals, entry by entry along the ledger: what is not in it, or is no longer
//! what was verified, stays. Nothing is followed, nothing outside the tree is touched.
//!
//! A file is renamed to a name of ours (from then on it counts as wiped, whatever interrupts),
//! overwritten once, synced, unlinked. Renames and overwrites of small files share one sync. A
//! file with several names loses them one by one and is overwritten under its last; one that has
//! names outside the tree is never overwritten.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::account::{Account, Fate, FateSink};
use super::disk::Wipeability;
use super::error::{Error, Result};
use super::ledger::{LedgerEntry, LedgerReader};
use super::operations::{Change, Hands, open_directory, parent_of, sync_parent};
use super::overwrite::{
    ManyFiles, Noise, PREFIX, is_as_verified, names_in, open_for_writing, overwrite_data, take,
    taken_name,
};
use super::survey::Observer;
use crate::tree::{EntryKind, TreePath};

/// Removals that share one sync.
const BATCH: usize = 4096;
/// Directories entered between two syncs; the removals hold each of them open.
const ENTERED: usize = 256;
/// Bytes overwritten between two syncs, about: they wait in memory.
const UNSYNCED: u64 = 256 << 20;
/// A file of more bytes is synced by itself.
const LARGE: u64 = 4 << 20;

/// One wipe under way.
pub(super) struct Wipe<'a> {
    pub(super) hands: &'a Hands,
    pub(super) observer: &'a dyn Observer,
    pub(super) root: PathBuf,
    pub(super) wipeability: Wipeability,
    pub(super) sink: FateSink<'a>,
}

struct Level {
    directory: Rc<OwnedFd>,
    path: TreePath,
    names: std::vec::IntoIter<Vec<u8>>,
    /// Whether the ledger has this directory, so that it goes when it is empty.
    known: bool,
}

enum Removal {
    File { directory: Rc<OwnedFd>, name: Vec<u8>, path: TreePath },
    Directory { parent: Rc<OwnedFd>, name: Vec<u8>, path: TreePath },
}

struct Work<'a, 'b> {
    wipe: &'a mut Wipe<'b>,
    ledger: LedgerReader,
    next: Option<LedgerEntry>,
    removals: Vec<Removal>,
    /// Bytes overwritten since the last sync.
    unsynced: u64,
    /// Directories entered since then.
    entered: usize,
    noise: Noise,
    /// How many names in the ledger a file with several has, by the first of them.
    names: HashMap<TreePath, u64>,
    /// How many of them this run has taken away.
    gone: HashMap<TreePath, u64>,
    account: Account,
}

/// How far a file was destroyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Destroyed {
    /// With its last name.
    Whole,
    /// This name of it: the content lives on under another one.
    Linked,
}

impl Wipe<'_> {
    /// Destroys what the ledger lists below the root, durably. May be repeated until it is done.
    ///
    /// # Errors
    /// When the tree cannot be read, and [`Error::Interrupted`]. What cannot be removed is in the
    /// account.
    pub(super) fn run(mut self, open: &dyn Fn() -> Result<LedgerReader>) -> Result<Account> {
        let _many = ManyFiles::allow();
        let names = count_names(open()?)?;
        let mut ledger = open()?;
        // The root's own entry comes first.
        ledger.next_entry()?;
        let next = ledger.next_entry()?;
        let mut work = Work {
            wipe: &mut self,
            ledger,
            next,
            removals: Vec::new(),
            unsynced: 0,
            entered: 0,
            noise: Noise::new(),
            names,
            gone: HashMap::new(),
            account: Account::default(),
        };
        match open_directory(&work.wipe.root) {
            Ok(root) => {
                let root = Rc::new(root);
                work.tree(&root)?;
                work.flush(&root)?;
                work.skip_to(None)?;
                let account = work.account;
                self.sync(&root)?;
                Ok(account)
            }
            // A wipe that was interrupted after its last step.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                work.skip_to(None)?;
                Ok(work.account)
            }
            Err(error) => Err(Error::io("open", &self.root, error)),
        }
    }

    fn sync(&self, root: &OwnedFd) -> Result<()> {
        self.hands.perform(Change::Sync, &self.root, || {
            rustix::fs::syncfs(root)
                .map_err(|error| Error::io("sync", &self.root, io::Error::from(error)))
        })
    }
}

/// Removes the root that a wipe has emptied; one that holds more stays.
pub(super) fn remove_root(hands: &Hands, root: &Path) -> Result<()> {
    hands.perform(Change::RemoveDirectory, root, || match std::fs::remove_dir(root) {
        Err(error)
            if !matches!(
                error.kind(),
                io::ErrorKind::NotFound
                    // What is excluded, or was left.
                    | io::ErrorKind::DirectoryNotEmpty
                    // A mount point of the user's.
                    | io::ErrorKind::ResourceBusy
            ) =>
        {
            Err(Error::io("remove", root, error))
        }
        _ => sync_parent(root).map_err(|error| Error::io("sync", parent_of(root), error)),
    })
}

/// How many names the ledger has of each file that has several.
fn count_names(mut ledger: LedgerReader) -> Result<HashMap<TreePath, u64>> {
    let mut names = HashMap::new();
    while let Some(entry) = ledger.next_entry()? {
        if entry.links > 1 {
            let first = entry.entry.link_to.unwrap_or(entry.entry.path);
            *names.entry(first).or_insert(0) += 1;
        }
    }
    Ok(names)
}

fn fate_of(wipeability: Wipeability) -> Fate {
    match wipeability {
        Wipeability::InPlace => Fate::OverwrittenInPlace,
        Wipeability::BestEffort => Fate::BestEffort,
        Wipeability::Never => Fate::CannotBeWiped,
    }
}

impl Work<'_, '_> {
    fn tree(&mut self, root: &Rc<OwnedFd>) -> Result<()> {
        let names = self.list(root, &TreePath::root())?;
        let mut levels =
            vec![Level { directory: Rc::clone(root), path: TreePath::root(), names, known: true }];
        while let Some(level) = levels.last_mut() {
            self.wipe.observer.check()?;
            if self.is_due() {
                self.flush(root)?;
                continue;
            }
            let directory = Rc::clone(&level.directory);
            let Some(name) = level.names.next() else {
                let left = levels.pop();
                if let (Some(left), Some(parent)) = (left, levels.last())
                    && left.known
                    && let Some(name) = left.path.name()
                {
                    self.removals.push(Removal::Directory {
                        parent: Rc::clone(&parent.directory),
                        name: name.to_vec(),
                        path: left.path.clone(),
                    });
                }
                continue;
            };
            let Ok(path) = level.path.join(&name) else { continue };
            if let Some(level) = self.entry(&directory, name, path)? {
                levels.push(level);
                self.entered += 1;
            }
        }
        Ok(())
    }

    /// Deals with one name; a directory comes back to be entered.
    fn entry(
        &mut self,
        directory: &Rc<OwnedFd>,
        name: Vec<u8>,
        path: TreePath,
    ) -> Result<Option<Level>> {
        let stat = match rustix::fs::statat(directory, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(self.error("inspect", &path, error)),
        };
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let is_socket = FileType::from_raw_mode(stat.st_mode) == FileType::Socket;
        if is_socket || (name.starts_with(PREFIX) && !is_directory) {
            // A socket holds nothing and no copy; the other an earlier run took, and was
            // interrupted.
            // What an earlier run took was accounted for, or is by the ledger.
            let _ = self.destroy(directory, name, &path, &stat)?;
            return Ok(None);
        }
        let expected = self.skip_to(Some(&path))?;
        if is_directory {
            let known =
                expected.is_some_and(|entry| entry.entry.metadata.kind == EntryKind::Directory);
            if !known {
                return Ok(None);
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let opened = rustix::fs::openat(directory, name.as_slice(), flags, Mode::empty())
                .map_err(|error| self.error("open", &path, error))?;
            let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
            if !mode.contains(Mode::RWXU) && !rustix::process::geteuid().is_root() {
                // Its owner may not remove what is in it. Where this fails, that is told of each.
                let _ = rustix::fs::fchmod(&opened, mode | Mode::RWXU);
            }
            let opened = Rc::new(opened);
            let names = self.list(&opened, &path)?;
            return Ok(Some(Level { directory: opened, path, names, known }));
        }
        let Some(expected) = expected else {
            // Excluded from the migration, or made since: not ours to destroy.
            return Ok(None);
        };
        if !is_as_verified(&expected, &stat) {
            self.left(&path, expected.entry.metadata.size, "it changed after it was verified");
            return Ok(None);
        }
        let taken = taken_name();
        let renamed = self.wipe.hands.perform(Change::Rename, &self.shown(&path), || {
            take(directory, &name, &taken).map_err(|error| self.error("rename", &path, error))
        });
        let destroyed = renamed.and_then(|()| self.destroy(directory, taken, &path, &stat));
        let size = expected.entry.metadata.size;
        match destroyed {
            Ok(destroyed) => {
                if let Some(fate) = self.fate_of(&expected) {
                    let alone = expected.links == 1;
                    let linked = alone && destroyed == Destroyed::Linked;
                    self.settle(&path, size, if linked { Fate::LinkedOutside } else { fate });
                }
                self.correct(&expected, &path, destroyed);
            }
            Err(Error::Io { source, .. }) => self.left(&path, size, &source.to_string()),
            Err(error) => return Err(error),
        }
        Ok(None)
    }

    /// What becomes of a file, told at its first name.
    fn fate_of(&self, entry: &LedgerEntry) -> Option<Fate> {
        let manifest = &entry.entry;
        if manifest.metadata.kind != EntryKind::Regular || manifest.link_to.is_some() {
            return None;
        }
        let listed = self.names.get(&manifest.path).copied().unwrap_or(1);
        Some(if entry.links > listed {
            Fate::LinkedOutside
        } else {
            fate_of(self.wipe.wipeability)
        })
    }

    /// Overwrites what was renamed to `name`, where that helps, and queues its removal.
    fn destroy(
        &mut self,
        directory: &Rc<OwnedFd>,
        name: Vec<u8>,
        path: &TreePath,
        stat: &Stat,
    ) -> Result<Destroyed> {
        let mut last_name = stat.st_nlink == 1;
        if last_name && FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
            last_name = self.overwrite(directory, &name, path, stat)?;
        }
        let directory = Rc::clone(directory);
        let removal = Removal::File { directory, name, path: path.clone() };
        if last_name {
            self.removals.push(removal);
            Ok(Destroyed::Whole)
        } else {
            // At once: the file's next name must see the true count.
            self.remove(removal)?;
            Ok(Destroyed::Linked)
        }
    }

    /// Sets the account right for a file of several names, told of at the first of them, of which
    /// another name turned up outside the tree when the last went.
    fn correct(&mut self, entry: &LedgerEntry, path: &TreePath, destroyed: Destroyed) {
        let manifest = &entry.entry;
        if manifest.metadata.kind != EntryKind::Regular || entry.links == 1 {
            return;
        }
        let first = manifest.link_to.as_ref().unwrap_or(&manifest.path);
        let listed = self.names.get(first).copied().unwrap_or(1);
        let gone = self.gone.entry(first.clone()).or_insert(0);
        *gone += 1;
        let told = fate_of(self.wipe.wipeability);
        if *gone == listed && entry.links <= listed && destroyed == Destroyed::Linked {
            let size = manifest.metadata.size;
            let wrong = self.account.tally(told);
            wrong.files = wrong.files.saturating_sub(1);
            wrong.bytes = wrong.bytes.saturating_sub(size);
            let right = self.account.tally(Fate::LinkedOutside);
            right.files += 1;
            right.bytes += size;
            (self.wipe.sink)(path, Fate::LinkedOutside);
        }
    }

    /// Overwrites the file, unless it is not the one that was looked at, or has got another name
    /// since: then `false`.
    fn overwrite(
        &mut self,
        directory: &OwnedFd,
        name: &[u8],
        path: &TreePath,
        stat: &Stat,
    ) -> Result<bool> {
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        if self.wipe.wipeability == Wipeability::Never || size == 0 {
            return Ok(true);
        }
        let shown = self.shown(path);
        let (hands, observer) = (self.wipe.hands, self.wipe.observer);
        let noise = &mut self.noise;
        let overwritten = hands.perform(Change::Overwrite, &shown, || {
            let failed = |error: io::Error| Error::io("overwrite", &shown, error);
            let file = open_for_writing(directory, name).map_err(failed)?;
            let now = rustix::fs::fstat(&file).map_err(|error| failed(error.into()))?;
            if (now.st_dev, now.st_ino) != (stat.st_dev, stat.st_ino) {
                return Err(failed(io::Error::other("another file has taken its name")));
            }
            if now.st_nlink != 1 {
                return Ok(false);
            }
            overwrite_data(&file, size, noise, observer).map_err(|error| match error.kind() {
                io::ErrorKind::Interrupted => Error::Interrupted,
                _ => failed(error),
            })?;
            if size > LARGE {
                rustix::fs::fdatasync(&file).map_err(|error| failed(error.into()))?;
            }
            Ok::<_, Error>(true)
        })?;
        if overwritten && size <= LARGE {
            self.unsynced += size;
        }
        Ok(overwritten)
    }

    /// Whether enough waits for a sync.
    fn is_due(&self) -> bool {
        let removals = self.removals.len();
        removals >= BATCH
            || self.unsynced >= UNSYNCED
            // With nothing to remove, a flush would let none of them go.
            || (self.entered >= ENTERED && removals > 0)
    }

    /// Makes the overwrites durable, then removes what is queued.
    fn flush(&mut self, root: &OwnedFd) -> Result<()> {
        self.entered = 0;
        if std::mem::take(&mut self.unsynced) > 0 {
            self.wipe.sync(root)?;
        }
        for removal in std::mem::take(&mut self.removals) {
            self.remove(removal)?;
        }
        Ok(())
    }

    fn remove(&mut self, removal: Removal) -> Result<()> {
        match removal {
            Removal::File { directory, name, path } => {
                let outcome = self.wipe.hands.perform(Change::Unlink, &self.shown(&path), || {
                    rustix::fs::unlinkat(&directory, name.as_slice(), AtFlags::empty())
                        .map_err(|error| self.error("remove", &path, error))
                });
                match outcome {
                    Err(Error::Io { source, .. }) => self.left(&path, 0, &source.to_string()),
                    outcome => outcome?,
                }
            }
            Removal::Directory { parent, name, path } => {
                let shown = self.shown(&path);
                let outcome = self.wipe.hands.perform(Change::RemoveDirectory, &shown, || {
                    match rustix::fs::unlinkat(&parent, name.as_slice(), AtFlags::REMOVEDIR) {
                        // It holds what is excluded, or what was left.
                        Ok(()) | Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOENT) => Ok(()),
                        Err(error) => Err(self.error("remove", &path, error)),
                    }
                });
                match outcome {
                    Err(Error::Io { source, .. }) => self.left(&path, 0, &source.to_string()),
                    outcome => outcome?,
                }
            }
        }
        Ok(())
    }

    /// Skips the ledger's entries before `path` (all, for `None`): they are gone already. The
    /// entry at `path`, if it has one.
    fn skip_to(&mut self, path: Option<&TreePath>) -> Result<Option<LedgerEntry>> {
        while let Some(entry) = self.next.take() {
            match path {
                Some(path) if entry.entry.path == *path => {
                    self.next = self.ledger.next_entry()?;
                    return Ok(Some(entry));
                }
                Some(path) if entry.entry.path > *path => {
                    self.next = Some(entry);
                    return Ok(None);
                }
                _ => {
                    if entry.links > 1 {
                        let first = entry.entry.link_to.clone();
                        let first = first.unwrap_or_else(|| entry.entry.path.clone());
                        *self.gone.entry(first).or_insert(0) += 1;
                    }
                    if let Some(fate) = self.fate_of(&entry) {
                        let tally = self.account.tally(fate);
                        tally.files += 1;
                        tally.bytes += entry.entry.metadata.size;
                    }
                    self.next = self.ledger.next_entry()?;
                }
            }
        }
        Ok(None)
    }

    fn list(&self, directory: &OwnedFd, path: &TreePath) -> Result<std::vec::IntoIter<Vec<u8>>> {
        let names = names_in(directory).map_err(|error| self.error("list", path, error))?;
        Ok(names.into_iter())
    }

    fn settle(&mut self, path: &TreePath, size: u64, fate: Fate) {
        let tally = self.account.tally(fate);
        tally.files += 1;
        tally.bytes += size;
        self.wipe.observer.advance(1, 0);
        (self.wipe.sink)(path, fate);
    }

    fn left(&mut self, path: &TreePath, size: u64, why: &str) {
        if self.account.left_paths.len() < 1000 {
            self.account.left_paths.push((path.clone(), why.to_owned()));
        }
        self.settle(path, size, Fate::Left);
    }

    fn shown(&self, path: &TreePath) -> PathBuf {
        if path.is_root() { self.wipe.root.clone() } else { self.wipe.root.join(path.as_path()) }
    }

    fn error(&self, doing: &'static str, path: &TreePath, error: Errno) -> Error {
        Error::io(doing, &self.shown(path), io::Error::from(error))
    }
}

#[cfg(test)]
#[path = "wipe_tests.rs"]
mod tests;

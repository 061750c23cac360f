//! Looks at directories and the files in them before it is their turn, many at once: what takes time is
//! the disk, which serves many, or the system, which has several processors. What is found is taken in
//! the order of their turns all the same: what is part of a store depends on what came before.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::DirEntry;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, Scope};

use parking_lot::{Condvar, Mutex};

use super::Error;
use super::marks::{is_name_of_store, is_unlikely};
use super::scan::{Found, directory_store, file_store};
use super::source::Directory;
use super::{Listed, Lister};

/// How many threads look at files or directories side by side.
const READERS: usize = 16;
/// How many files each is given at least, of a directory that has many.
const PART: usize = 16;
/// A directory with more files is only listed when it is its turn, and several threads look at them:
/// one with fewer is looked at by one thread.
const FEW: usize = 8 * PART;
/// No more directories are looked at before their turn when so many were.
const AHEAD_MAX: usize = 4096;

/// Whether to go on, asked before each file and directory.
pub(super) fn check(cancelled: &AtomicBool, path: &Path) -> Result<(), Error> {
    if cancelled.load(Ordering::Relaxed) {
        return Err(Error::Cancelled { path: path.to_path_buf() });
    }
    Ok(())
}

/// How files and directories are looked at.
#[derive(Clone, Copy)]
pub(super) struct Look<'a> {
    pub(super) cancelled: &'a AtomicBool,
    /// Whether files that are hardly of a store are opened, too.
    pub(super) every_file: bool,
    /// Lists directories, as far as it can.
    pub(super) lister: Option<&'a dyn Lister>,
}

/// A directory that was looked at.
pub(super) struct Looked {
    /// The store that it is by itself, and whether everything in it is.
    pub(super) store: Result<Option<(Found, bool)>, Error>,
    /// What is in it; `None` where that does not matter, or is too much.
    pub(super) content: Option<Content>,
}

/// What is in a directory.
#[derive(Default)]
pub(super) struct Content {
    pub(super) entries: u64,
    pub(super) bytes: u64,
    pub(super) below: Vec<PathBuf>,
    /// Files that were not looked at yet.
    pub(super) files: Vec<PathBuf>,
    pub(super) unreadable: Vec<Error>,
    /// Why not all of it was listed.
    pub(super) failed: Option<Error>,
    /// What a look at the files found.
    pub(super) found: Vec<(PathBuf, Result<Found, Error>)>,
    /// Whether a name in it may make it a store.
    named: bool,
}

/// A file that was looked at.
pub(super) struct Seen {
    pub(super) length: u64,
    pub(super) found: Result<Option<Found>, Error>,
}

/// Directories looked at before it is their turn: it comes in the order of their paths.
pub(super) struct Ahead<'a> {
    look: Look<'a>,
    state: Mutex<State>,
    /// A directory was looked at.
    looked: Condvar,
    /// There are directories to be looked at, or room for them again.
    wanted: Condvar,
}

struct State {
    /// Those to be looked at: who takes one takes the one whose turn comes first.
    unseen: BinaryHeap<Reverse<PathBuf>>,
    being_looked_at: HashSet<PathBuf>,
    looked: HashMap<PathBuf, Looked>,
    /// Threads that wait for more.
    idle: usize,
    /// Nobody wants more, or a thread panicked.
    ended: bool,
}

/// Ends the threads when it goes.
pub(super) struct End<'a>(&'a Ahead<'a>);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.state.lock().ended = true;
        self.0.wanted.notify_all();
        self.0.looked.notify_all();
    }
}

impl<'a> Ahead<'a> {
    pub(super) fn new(root: &Path, look: Look<'a>) -> Self {
        let state = State {
            unseen: BinaryHeap::from([Reverse(root.to_path_buf())]),
            being_looked_at: HashSet::new(),
            looked: HashMap::new(),
            idle: 0,
            ended: false,
        };
        let (looked, wanted) = (Condvar::new(), Condvar::new());
        Self { look, state: Mutex::new(state), looked, wanted }
    }

    /// Lets the threads begin, as many as the system gives: without any, all is looked at in its turn.
    pub(super) fn begin<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) -> End<'scope> {
        let end = End(self);
        for _ in 0..READERS {
            if Builder::new().spawn_scoped(scope, || self.work()).is_err() {
                break;
            }
        }
        end
    }

    /// What a directory is. One that nobody looks at yet is looked at here.
    pub(super) fn take(&self, directory: &Path) -> Result<Looked, Error> {
        let mut state = self.state.lock();
        loop {
            check(self.look.cancelled, directory)?;
            if let Some(looked) = state.looked.remove(directory) {
                if state.looked.len() + 1 == AHEAD_MAX {
                    self.wanted.notify_all();
                }
                return Ok(looked);
            }
            if state.ended {
                // By a panic, which goes on where the threads are waited for.
                return Err(Error::Cancelled { path: directory.to_path_buf() });
            }
            if !state.being_looked_at.contains(directory) {
                break;
            }
            self.looked.wait(&mut state);
        }
        // Nothing comes before it: it is the first one, where it is there.
        if state.unseen.peek().is_some_and(|Reverse(first)| first == directory) {
            state.unseen.pop();
        }
        drop(state);
        let looked = self.look.at_directory(directory);
        if let Some(content) = &looked.content {
            self.add(&content.below);
        }
        Ok(looked)
    }

    /// Takes more directories to be looked at.
    pub(super) fn add(&self, directories: &[PathBuf]) {
        self.more(&mut self.state.lock(), directories);
    }

    fn more(&self, state: &mut State, directories: &[PathBuf]) {
        state.unseen.extend(directories.iter().cloned().map(Reverse));
        for _ in 0..state.idle.min(directories.len()) {
            self.wanted.notify_one();
        }
    }

    /// What a thread does.
    fn work(&self) {
        loop {
            let mut state = self.state.lock();
            let directory = loop {
                if state.ended {
                    return;
                }
                let room = state.looked.len() < AHEAD_MAX;
                if let Some(Reverse(directory)) = room.then(|| state.unseen.pop()).flatten() {
                    break directory;
                }
                state.idle += 1;
                self.wanted.wait(&mut state);
                state.idle -= 1;
            };
            state.being_looked_at.insert(directory.clone());
            drop(state);
            let unless_it_panics = End(self);
            let looked = self.look.at_directory(&directory);
            std::mem::forget(unless_it_panics);
            let mut state = self.state.lock();
            if let Some(content) = &looked.content {
                self.more(&mut state, &content.below);
            }
            state.being_looked_at.remove(&directory);
            state.looked.insert(directory, looked);
            self.looked.notify_one();
        }
    }
}

impl Look<'_> {
    /// `directory` is the one that holds it.
    pub(super) fn at_file(self, directory: &Directory, file: &Path) -> Seen {
        if let Err(error) = check(self.cancelled, file) {
            return Seen { length: 0, found: Err(error) };
        }
        if !self.every_file
            && let Some(length) = directory.length_of(file)
            && file.file_name().is_some_and(|name| is_unlikely(name.as_bytes(), length))
        {
            return Seen { length, found: Ok(None) };
        }
        let mut length = 0;
        let found = file_store(directory, file, &mut length);
        Seen { length, found }
    }

    /// What somebody else lists.
    fn listed(self, directory: &Path) -> Option<Content> {
        let mut content = Content::default();
        let mut each = |name: &[u8], listed| content.listed(directory, name, listed, self);
        self.lister?.list(directory, &mut each).then_some(content)
    }

    fn at_directory(self, directory: &Path) -> Looked {
        if let Err(error) = check(self.cancelled, directory) {
            return Looked { store: Err(error), content: None };
        }
        let listed = match self.listed(directory) {
            Some(content) => Some(content),
            None => Content::of(directory),
        }
        .filter(|content| content.files.len() <= FEW);
        let store = match &listed {
            Some(content) if !content.named && content.failed.is_none() => Ok(None),
            _ => directory_store(directory, self.cancelled),
        };
        let mut content = match &store {
            Ok(Some((_, true))) | Err(Error::Cancelled { .. }) => None,
            _ => listed,
        };
        // What is left out once nobody wants it any more is noticed by who asks for it.
        if let Some(content) = content.as_mut().filter(|content| !content.files.is_empty()) {
            let opened = Directory::open(directory);
            for file in std::mem::take(&mut content.files) {
                let seen = self.at_file(&opened, &file);
                content.saw(file, seen);
            }
        }
        Looked { store, content }
    }
}

impl Content {
    /// Lists a directory, not to its end where it has more than [`FEW`] files.
    fn of(directory: &Path) -> Option<Self> {
        let mut content = Self::default();
        let failed = |error| Some(Error::io(directory, "list", error));
        match std::fs::read_dir(directory) {
            Ok(entries) => {
                for entry in entries {
                    match entry {
                        Ok(entry) => content.add(&entry),
                        Err(error) => {
                            content.failed = failed(error);
                            break;
                        }
                    }
                    if content.files.len() > FEW {
                        return None;
                    }
                }
            }
            Err(error) => content.failed = failed(error),
        }
        Some(content)
    }

    /// Takes what somebody else listed: a file that is not looked at is no more than counted.
    fn listed(&mut self, directory: &Path, name: &[u8], listed: Listed, look: Look<'_>) {
        let path = || directory.join(OsStr::from_bytes(name));
        self.entries += 1;
        self.named |= listed != Listed::Directory && is_name_of_store(name);
        match listed {
            Listed::Directory => self.below.push(path()),
            Listed::Regular { length } if !look.every_file && is_unlikely(name, length) => {
                self.bytes = self.bytes.saturating_add(length);
            }
            Listed::Regular { .. } => self.files.push(path()),
            Listed::Other => {}
        }
    }

    pub(super) fn saw(&mut self, file: PathBuf, seen: Seen) {
        self.bytes = self.bytes.saturating_add(seen.length);
        if let Some(found) = seen.found.transpose() {
            self.found.push((file, found));
        }
    }

    pub(super) fn add(&mut self, entry: &DirEntry) {
        self.entries += 1;
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => self.below.push(entry.path()),
            Ok(kind) => {
                let path = entry.path();
                self.named |=
                    path.file_name().is_some_and(|name| is_name_of_store(name.as_bytes()));
                if kind.is_file() {
                    self.files.push(path);
                }
            }
            Err(error) => {
                self.named = true;
                self.unreadable.push(Error::io(entry.path(), "look at", error));
            }
        }
    }
}

/// Looks at all of them, several threads at some each; what came of it, in their order.
pub(super) fn side_by_side<T: Sync, R: Send>(items: &[T], look: impl Fn(&T) -> R + Sync) -> Vec<R> {
    if items.len() <= PART {
        return items.iter().map(look).collect();
    }
    let part = items.len().div_ceil(READERS).max(PART);
    std::thread::scope(|scope| {
        let look = &look;
        let readers: Vec<_> = items
            .chunks(part)
            .map(|items| {
                let look_at_all = move || items.iter().map(look).collect::<Vec<_>>();
                Builder::new().spawn_scoped(scope, look_at_all).map_err(|_| items)
            })
            .collect();
        let results = readers.into_iter().map(|reader| match reader {
            Ok(reader) => reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            // For which the system gave no thread.
            Err(items) => items.iter().map(look).collect(),
        });
        results.flatten().collect()
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// The system may give no threads.
    #[test]
    fn what_nobody_looked_at_is_looked_at_in_its_turn() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("a/b")).unwrap();
        std::fs::write(root.path().join("a/file"), "text").unwrap();
        let never = AtomicBool::new(false);
        let ahead =
            Ahead::new(root.path(), Look { cancelled: &never, every_file: true, lister: None });
        let content = |path: &Path| ahead.take(path).unwrap().content.unwrap();
        assert_eq!(content(root.path()).below, [root.path().join("a")]);
        let inner = content(&root.path().join("a"));
        assert_eq!((inner.entries, inner.bytes, inner.below.len()), (2, 4, 1));
        assert_eq!(content(&root.path().join("a/b")).entries, 0);
        assert!(ahead.state.lock().unseen.is_empty());
    }

    /// Whoever stops does not wait for the rest.
    #[test]
    fn threads_end_with_who_wants_them() {
        let root = tempfile::tempdir().unwrap();
        for number in 0..500 {
            std::fs::create_dir(root.path().join(number.to_string())).unwrap();
        }
        let stop = AtomicBool::new(false);
        let ahead =
            Ahead::new(root.path(), Look { cancelled: &stop, every_file: true, lister: None });
        std::thread::scope(|scope| {
            let _end = ahead.begin(scope);
            assert!(ahead.take(root.path()).is_ok());
            stop.store(true, Ordering::Relaxed);
            let next = ahead.take(&root.path().join("0"));
            assert!(matches!(next, Err(Error::Cancelled { .. })));
        });
    }
}

//! Looks at directories and the files in them before it is their turn, many at once: what takes time is
//! the disk, which serves many, or the system, which has several processors. What is found is taken in
//! the order of their turns all the same: what is part of a store depends on what came before.

use std::collections::{HashMap, HashSet};
use std::fs::DirEntry;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Scope;

use parking_lot::{Condvar, Mutex};

use super::Error;
use super::marks::is_name_of_store;
use super::scan::{Found, directory_store, file_store};

/// How many threads look at files or directories side by side.
const READERS: usize = 16;
/// How many files each is given at least, of a directory that has many.
const PART: usize = 16;
/// A directory with more files is only listed when it is its turn: then all threads look at them.
const FEW: usize = READERS * PART;
/// How many directories are held that were looked at before their turn.
const AHEAD_MAX: usize = 4096;

/// Whether to go on, asked before each file and directory.
pub(super) fn check(cancelled: &AtomicBool, path: &Path) -> Result<(), Error> {
    if cancelled.load(Ordering::Relaxed) {
        return Err(Error::Cancelled { path: path.to_path_buf() });
    }
    Ok(())
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

/// Directories looked at before it is their turn.
pub(super) struct Ahead<'a> {
    cancelled: &'a AtomicBool,
    state: Mutex<State>,
    /// A directory was looked at.
    looked: Condvar,
    /// There are directories to be looked at, or room for them again.
    wanted: Condvar,
}

struct State {
    /// Those to be looked at, the next one last.
    unseen: Vec<PathBuf>,
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
    pub(super) fn new(root: &Path, cancelled: &'a AtomicBool) -> Self {
        let state = State {
            unseen: vec![root.to_path_buf()],
            being_looked_at: HashSet::new(),
            looked: HashMap::new(),
            idle: 0,
            ended: false,
        };
        let (looked, wanted) = (Condvar::new(), Condvar::new());
        Self { cancelled, state: Mutex::new(state), looked, wanted }
    }

    /// Lets the threads begin.
    pub(super) fn begin<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) -> End<'scope> {
        for _ in 0..READERS {
            scope.spawn(|| self.work());
        }
        End(self)
    }

    /// What a directory is. One that nobody looks at yet is looked at here.
    pub(super) fn take(&self, directory: &Path) -> Result<Looked, Error> {
        let mut state = self.state.lock();
        loop {
            check(self.cancelled, directory)?;
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
        if let Some(at) = state.unseen.iter().rposition(|unseen| unseen == directory) {
            state.unseen.remove(at);
        }
        drop(state);
        let looked = Looked::at(directory, self.cancelled);
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
        state.unseen.extend_from_slice(directories);
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
                if let Some(directory) = room.then(|| state.unseen.pop()).flatten() {
                    break directory;
                }
                state.idle += 1;
                self.wanted.wait(&mut state);
                state.idle -= 1;
            };
            state.being_looked_at.insert(directory.clone());
            drop(state);
            let unless_it_panics = End(self);
            let looked = Looked::at(&directory, self.cancelled);
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

impl Seen {
    pub(super) fn at(file: &Path, cancelled: &AtomicBool) -> Self {
        let mut length = 0;
        let found = check(cancelled, file).and_then(|()| file_store(file, &mut length));
        Self { length, found }
    }
}

impl Looked {
    fn at(directory: &Path, cancelled: &AtomicBool) -> Self {
        if let Err(error) = check(cancelled, directory) {
            return Self { store: Err(error), content: None };
        }
        let listed = Content::of(directory);
        let store = match &listed {
            Some(content) if !content.named && content.failed.is_none() => Ok(None),
            _ => directory_store(directory, cancelled),
        };
        let mut content = match &store {
            Ok(Some((_, true))) | Err(Error::Cancelled { .. }) => None,
            _ => listed,
        };
        // What is left out once nobody wants it any more is noticed by who asks for it.
        if let Some(content) = &mut content {
            for file in std::mem::take(&mut content.files) {
                let seen = Seen::at(&file, cancelled);
                content.saw(file, seen);
            }
        }
        Self { store, content }
    }
}

impl Content {
    /// Lists a directory; `None` where it has many files.
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
            Err(error) => self.unreadable.push(Error::io(entry.path(), "look at", error)),
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
            .map(|items| scope.spawn(move || items.iter().map(look).collect::<Vec<_>>()))
            .collect();
        let results = readers
            .into_iter()
            .map(|reader| reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        results.flatten().collect()
    })
}

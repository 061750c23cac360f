//! Directories that are listed for a purpose of somebody else's, in any order and by several threads, and
//! kept for the walk that follows. Must not know that purpose.

use std::collections::HashMap;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags, Statx};

use super::super::error::{Error, Operation, Result};
use super::super::path::TreePath;
use super::super::types::{Entry, EntryKind, Timestamp};
use super::super::{ContentReader, Exclude, TreeReader, Walk};
use super::LocalTree;
use super::inspect::{self, Identity, XattrsOf};
use super::names::Names;

/// A local tree of which directories are listed before it is walked. Its first
/// [`TreeReader::walk_to_read`] gives what was listed, if that is everything and no directory changed since;
/// else, and in every other walk, what there is by then. A file that changed since is found when its content
/// is asked for, as after every walk.
pub struct Listing<'a> {
    tree: &'a LocalTree,
    memory_max: usize,
    /// `None` once it was walked, or cannot become whole.
    kept: Mutex<Option<Kept>>,
    walked: AtomicBool,
}

#[derive(Default)]
struct Kept {
    directories: HashMap<TreePath, Directory>,
    /// Bytes that their entries take, or are about to.
    memory: usize,
}

/// A directory that was listed.
struct Directory {
    state: State,
    /// Sorted by their names.
    entries: Vec<Entry>,
}

/// Which directory it is, and when its names or its metadata changed last.
#[derive(Clone, Copy, PartialEq, Eq)]
struct State {
    identity: Identity,
    changed: Timestamp,
}

impl State {
    fn of(stat: &Statx) -> Self {
        Self { identity: inspect::identity(stat), changed: inspect::time(stat.stx_ctime) }
    }
}

impl<'a> Listing<'a> {
    /// Keeps entries up to about `memory_max` bytes; of a tree that takes more, none.
    pub fn new(tree: &'a LocalTree, memory_max: usize) -> Self {
        let (kept, walked) = (Mutex::new(Some(Kept::default())), AtomicBool::new(false));
        Self { tree, memory_max, kept, walked }
    }

    /// Lists a directory: tells `each` the name, the kind and the length in bytes (0 of what is not a
    /// regular file) of everything in it. False, and nothing told, where it cannot be listed or is too
    /// much to keep: nothing is kept then, and nothing listed any more.
    pub fn list(&self, path: &TreePath, mut each: impl FnMut(&[u8], EntryKind, u64)) -> bool {
        let Ok(Some(listed)) = self.read(path) else {
            *self.kept.lock() = None;
            return false;
        };
        for entry in &listed.entries {
            let metadata = &entry.metadata;
            each(entry.path.name().unwrap_or_default(), metadata.kind, metadata.size);
        }
        if let Some(kept) = &mut *self.kept.lock() {
            kept.directories.insert(path.clone(), listed);
        }
        true
    }

    /// Whether a walk gave what was listed before.
    pub fn was_walked(&self) -> bool {
        self.walked.load(Ordering::Relaxed)
    }

    /// `None` where it is too much.
    fn read(&self, path: &TreePath) -> Result<Option<Directory>> {
        if self.kept.lock().is_none() {
            return Ok(None);
        }
        let tree = self.tree;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK;
        let opened = tree
            .open_below(path.as_bytes(), flags, Mode::empty())
            .map_err(|errno| tree.error(Operation::Open, path, errno))?;
        let failed = |errno| tree.error(Operation::List, path, errno);
        // Before the names: what changes meanwhile is noticed.
        let state = State::of(&inspect::stat(opened.as_fd(), b"").map_err(failed)?);
        let names = Names::list(opened.as_fd()).map_err(failed)?;
        let each = size_of::<Entry>() + path.as_bytes().len() + 1;
        let memory = names.iter().map(|name| each + name.len()).sum();
        if !self.has_room(memory) {
            return Ok(None);
        }
        let mut entries = Vec::with_capacity(names.len());
        for name in names.iter() {
            let path = path.join(name).map_err(|error| Error::BadName {
                tree: tree.describe(),
                path: path.clone(),
                error,
            })?;
            let (entry, _) = tree.inspect(opened.as_fd(), name, path, XattrsOf::AllButFiles)?;
            entries.push(entry);
        }
        Ok(Some(Directory { state, entries }))
    }

    /// Whether there is room for so many bytes more; it is taken then.
    fn has_room(&self, memory: usize) -> bool {
        self.kept.lock().as_mut().is_some_and(|kept| {
            kept.memory = kept.memory.saturating_add(memory);
            kept.memory <= self.memory_max
        })
    }

    /// Whether a walk enters it.
    fn is_entered(&self, entry: &Entry) -> bool {
        entry.metadata.kind == EntryKind::Directory
            && (!entry.mount_point || self.tree.cross_mounts)
    }

    /// Whether every directory was listed, is the one that is in the list of the one above it, and is now what
    /// it was then.
    fn is_whole(&self, root: &Entry, kept: &Kept) -> bool {
        let inside = kept.directories.values().flat_map(|directory| &directory.entries);
        std::iter::once(root).chain(inside).filter(|entry| self.is_entered(entry)).all(|entry| {
            kept.directories.get(&entry.path).is_some_and(|Directory { state, .. }| {
                let inode = state.identity.inode;
                (inode, state.changed) == (entry.inode, entry.changed)
                    && inspect::stat(self.tree.root.as_fd(), entry.path.as_bytes())
                        .is_ok_and(|stat| State::of(&stat) == *state)
            })
        })
    }
}

impl TreeReader for Listing<'_> {
    fn describe(&self) -> String {
        TreeReader::describe(self.tree)
    }

    fn walk<'a>(&'a self, exclude: Exclude<'a>) -> Result<Walk<'a>> {
        self.tree.walk(exclude)
    }

    fn walk_to_read<'a>(&'a self, exclude: Exclude<'a>) -> Result<Walk<'a>> {
        let Some(kept) = self.kept.lock().take() else { return self.tree.walk_to_read(exclude) };
        let root = self.tree.entry(&TreePath::root())?;
        if !self.is_whole(&root, &kept) {
            return self.tree.walk_to_read(exclude);
        }
        self.walked.store(true, Ordering::Relaxed);
        let levels = vec![vec![root].into_iter()];
        Ok(Box::new(ListedWalk { listing: self, kept, exclude, levels }))
    }

    fn entry(&self, path: &TreePath) -> Result<Entry> {
        self.tree.entry(path)
    }

    fn content(&self, entry: &Entry) -> Result<Box<dyn ContentReader>> {
        self.tree.content(entry)
    }
}

/// A walk of what was listed, in the order of every walk.
struct ListedWalk<'a> {
    listing: &'a Listing<'a>,
    kept: Kept,
    exclude: Exclude<'a>,
    /// What is left of the directories on the way down.
    levels: Vec<std::vec::IntoIter<Entry>>,
}

impl Iterator for ListedWalk<'_> {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some(entry) = self.levels.last_mut()?.next() else {
                self.levels.pop();
                continue;
            };
            if !entry.path.is_root() && (self.exclude)(&entry.path, entry.metadata.kind) {
                continue;
            }
            if self.listing.is_entered(&entry)
                && let Some(directory) = self.kept.directories.remove(&entry.path)
            {
                self.levels.push(directory.entries.into_iter());
            }
            return Some(Ok(entry));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::Path;

    use super::super::super::exclude_nothing;
    use super::super::super::sample::{fill, path};
    use super::*;

    /// Lists everything below `directory`, as whoever looks at it does: the last comes first.
    fn list_all(listing: &Listing<'_>, directory: &TreePath) -> bool {
        let mut below = Vec::new();
        let listed = listing.list(directory, |name, kind, _| {
            if kind == EntryKind::Directory {
                below.push(directory.join(name).unwrap());
            }
        });
        below.iter().rev().fold(listed, |all, inner| list_all(listing, inner) && all)
    }

    /// What a walk visits, but for the last access, which it moves, and what a filesystem decides later.
    fn entries(walk: Result<Walk<'_>>) -> Vec<Entry> {
        let mut entries: Vec<Entry> = walk.unwrap().collect::<Result<_>>().unwrap();
        for entry in &mut entries {
            entry.metadata.accessed = Timestamp::default();
            entry.allocated = 0;
        }
        entries
    }

    fn filled() -> (tempfile::TempDir, LocalTree) {
        let directory = tempfile::tempdir().unwrap();
        fill(directory.path());
        let tree = LocalTree::open(directory.path()).unwrap();
        (directory, tree)
    }

    #[test]
    fn the_walk_is_that_of_the_tree() {
        let (_directory, tree) = filled();
        let sub = path("sub");
        let some = |path: &TreePath, kind: EntryKind| {
            kind == EntryKind::Socket || *path == sub || path.name() == Some(b"77")
        };
        let excludes: [Exclude<'_>; 2] = [&exclude_nothing, &some];
        for exclude in excludes {
            let listing = Listing::new(&tree, usize::MAX);
            assert!(list_all(&listing, &TreePath::root()));
            let expected = entries(tree.walk_to_read(exclude));
            assert!(expected.len() > 200);
            assert!(entries(listing.walk_to_read(exclude)) == expected);
            // What was listed is gone.
            assert!(entries(listing.walk_to_read(exclude)) == expected);
            assert!(entries(listing.walk(exclude)) == entries(tree.walk(exclude)));
        }
    }

    #[test]
    fn names_kinds_and_lengths_are_told() {
        let (directory, tree) = filled();
        let listing = Listing::new(&tree, usize::MAX);
        let mut told = Vec::new();
        assert!(listing.list(&TreePath::root(), |name, kind, length| {
            told.push((path(name), kind, length));
        }));
        let inside = |entry: &&Entry| entry.path.split().is_some_and(|(parent, _)| parent == b"");
        let expected: Vec<_> = entries(tree.walk(&exclude_nothing))
            .iter()
            .filter(inside)
            .map(|entry| (entry.path.clone(), entry.metadata.kind, entry.metadata.size))
            .collect();
        assert_eq!(told, expected);
        assert_eq!(told.len(), std::fs::read_dir(directory.path()).unwrap().count());
    }

    /// Whether the walk gives what was listed; it is that of the tree in any case.
    fn is_replayed(tree: &LocalTree, listing: &Listing<'_>) -> bool {
        let found = entries(listing.walk_to_read(&exclude_nothing));
        assert!(found == entries(tree.walk_to_read(&exclude_nothing)));
        listing.was_walked()
    }

    #[test]
    fn only_a_whole_listing_counts() {
        let (_directory, tree) = filled();
        let listed = |memory_max| {
            let listing = Listing::new(&tree, memory_max);
            (list_all(&listing, &TreePath::root()), listing)
        };
        let (all, listing) = listed(usize::MAX);
        let memory = listing.kept.lock().as_ref().unwrap().memory;
        assert!(all && (10_000..1_000_000).contains(&memory), "{memory}");
        let (all, listing) = listed(memory);
        assert!(all && is_replayed(&tree, &listing));
        // Nothing, or not everything, was listed.
        assert!(!is_replayed(&tree, &Listing::new(&tree, memory)));
        let listing = Listing::new(&tree, memory);
        assert!(listing.list(&TreePath::root(), |_, _, _| {}));
        assert!(!is_replayed(&tree, &listing));
        // Too much.
        let (all, listing) = listed(memory - 1);
        assert!(!all && !listing.list(&TreePath::root(), |_, _, _| {}));
        assert!(!is_replayed(&tree, &listing));
        // One that is not there.
        let (_, listing) = listed(memory);
        assert!(!listing.list(&path("missing"), |_, _, _| {}));
        assert!(!is_replayed(&tree, &listing));
    }

    /// What is done to a directory.
    type Change<'a> = &'a dyn Fn(&Path);

    #[test]
    fn a_listing_of_what_changed_since_does_not_count() {
        let (directory, tree) = filled();
        let root = directory.path();
        let changes: [(&str, Change<'_>); 6] = [
            ("a file more", &|root| std::fs::write(root.join("many/more"), "text").unwrap()),
            ("a file less", &|root| std::fs::remove_file(root.join("many/more")).unwrap()),
            ("another name", &|root| std::fs::rename(root.join("-rf"), root.join("rf")).unwrap()),
            ("another mode", &|root| {
                let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
                std::fs::set_permissions(root.join("sub-b"), private).unwrap();
            }),
            ("another directory", &|root| {
                let (new, old) = (root.join("new"), root.join("empty directory"));
                std::fs::create_dir(&new).unwrap();
                std::fs::rename(new, old).unwrap();
            }),
            ("a symlink instead", &|root| {
                std::fs::remove_dir(root.join("empty directory")).unwrap();
                std::os::unix::fs::symlink("many", root.join("empty directory")).unwrap();
            }),
        ];
        for (what, change) in changes {
            let listing = Listing::new(&tree, usize::MAX);
            assert!(list_all(&listing, &TreePath::root()));
            // A change within one tick of the kernel's clock shows in no time.
            std::thread::sleep(std::time::Duration::from_millis(20));
            change(root);
            assert!(!is_replayed(&tree, &listing), "{what}");
        }
        // Between the listing of a directory and that of one in it.
        let listing = Listing::new(&tree, usize::MAX);
        assert!(listing.list(&TreePath::root(), |_, _, _| {}));
        std::thread::sleep(std::time::Duration::from_millis(20));
        std::fs::write(root.join("sub/more"), "text").unwrap();
        for inner in entries(tree.walk(&exclude_nothing)) {
            if inner.metadata.kind == EntryKind::Directory && !inner.path.is_root() {
                assert!(listing.list(&inner.path, |_, _, _| {}));
            }
        }
        assert!(!is_replayed(&tree, &listing));
    }
}

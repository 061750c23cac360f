//! Directories that are listed for a purpose of somebody else's, in any order and by several threads, and
//! kept for the walk that follows. Must not know that purpose.

use std::collections::HashMap;
use std::os::fd::AsFd as _;

use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags};

use super::super::error::{Error, Operation, Result};
use super::super::path::TreePath;
use super::super::types::{Entry, EntryKind};
use super::super::{ContentReader, Exclude, TreeReader, Walk};
use super::LocalTree;
use super::inspect::{self, XattrsOf};
use super::names::Names;

/// A local tree of which directories are listed before it is walked. Its first
/// [`TreeReader::walk_to_read`] gives what was listed, if that is everything; else, and in every other walk,
/// what there is by then.
pub struct Listing<'a> {
    tree: &'a LocalTree,
    entries_max: usize,
    /// `None` once it was walked, or cannot become whole.
    kept: Mutex<Option<Kept>>,
}

#[derive(Default)]
struct Kept {
    directories: HashMap<TreePath, Directory>,
    /// How many are in them, or about to be.
    entries: usize,
}

/// A directory that was listed.
struct Directory {
    inode: u64,
    /// Sorted by their names.
    entries: Vec<Entry>,
}

impl<'a> Listing<'a> {
    /// Keeps up to so many entries, each of some 300 bytes; of a tree that has more, none.
    pub fn new(tree: &'a LocalTree, entries_max: usize) -> Self {
        Self { tree, entries_max, kept: Mutex::new(Some(Kept::default())) }
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
        let inode = inspect::identity(&inspect::stat(opened.as_fd(), b"").map_err(failed)?).inode;
        let names = Names::list(opened.as_fd()).map_err(failed)?;
        if !self.has_room(names.len()) {
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
        Ok(Some(Directory { inode, entries }))
    }

    /// Whether there is room for so many more; it is taken then.
    fn has_room(&self, count: usize) -> bool {
        self.kept.lock().as_mut().is_some_and(|kept| {
            kept.entries = kept.entries.saturating_add(count);
            kept.entries <= self.entries_max
        })
    }

    /// Whether a walk enters it.
    fn is_entered(&self, entry: &Entry) -> bool {
        entry.metadata.kind == EntryKind::Directory
            && (!entry.mount_point || self.tree.cross_mounts)
    }

    /// Whether every directory was listed, and is the one that is in the list of the one above it.
    fn is_whole(&self, root: &Entry, kept: &Kept) -> bool {
        let inside = kept.directories.values().flat_map(|directory| &directory.entries);
        std::iter::once(root).chain(inside).filter(|entry| self.is_entered(entry)).all(|entry| {
            let listed = kept.directories.get(&entry.path);
            listed.is_some_and(|directory| directory.inode == entry.inode)
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
    use super::super::super::types::Timestamp;
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

    /// What a walk visits, but for the last access, which it moves.
    fn entries(walk: Result<Walk<'_>>) -> Vec<Entry> {
        let mut entries: Vec<Entry> = walk.unwrap().collect::<Result<_>>().unwrap();
        entries.iter_mut().for_each(|entry| entry.metadata.accessed = Timestamp::default());
        entries
    }

    fn filled() -> (tempfile::TempDir, LocalTree) {
        let directory = tempfile::tempdir().unwrap();
        fill(directory.path());
        let tree = LocalTree::open(directory.path()).unwrap();
        (directory, tree)
    }

    /// Whether a walk of what is left of a listing gives what was there when it was listed.
    fn gives_what_was_listed(root: &Path, listing: &Listing<'_>) -> bool {
        let late = root.join("late");
        std::fs::write(&late, "text").unwrap();
        let found = entries(listing.walk_to_read(&exclude_nothing));
        std::fs::remove_file(late).unwrap();
        !found.iter().any(|entry| entry.path == path("late"))
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
            let listing = Listing::new(&tree, 1000);
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
        let listing = Listing::new(&tree, 1000);
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

    #[test]
    fn only_a_whole_listing_counts() {
        let (directory, tree) = filled();
        let root = directory.path();
        let listed = |entries_max| {
            let listing = Listing::new(&tree, entries_max);
            (list_all(&listing, &TreePath::root()), listing)
        };
        let count = entries(tree.walk(&exclude_nothing)).len() - 1;
        let (all, listing) = listed(count);
        assert!(all && gives_what_was_listed(root, &listing));
        // Nothing, or not everything, was listed.
        assert!(!gives_what_was_listed(root, &Listing::new(&tree, count)));
        let listing = Listing::new(&tree, count);
        assert!(listing.list(&TreePath::root(), |_, _, _| {}));
        assert!(!gives_what_was_listed(root, &listing));
        // One too many.
        let (all, listing) = listed(count - 1);
        assert!(!all && !gives_what_was_listed(root, &listing));
        assert!(!listing.list(&TreePath::root(), |_, _, _| {}));
        // One that is not there.
        let (_, listing) = listed(count);
        assert!(!listing.list(&path("missing"), |_, _, _| {}));
        assert!(!gives_what_was_listed(root, &listing));
        // Another one by the time that it is listed, or gone.
        std::fs::create_dir(root.join("other")).unwrap();
        let listing = Listing::new(&tree, 1000);
        assert!(listing.list(&TreePath::root(), |_, _, _| {}));
        std::fs::create_dir(root.join("another")).unwrap();
        std::fs::rename(root.join("another"), root.join("other")).unwrap();
        for inner in entries(tree.walk(&exclude_nothing)) {
            if inner.metadata.kind == EntryKind::Directory && !inner.path.is_root() {
                assert!(listing.list(&inner.path, |_, _, _| {}));
            }
        }
        assert!(!gives_what_was_listed(root, &listing));
    }
}

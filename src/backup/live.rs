//! A source that is in use: stores of which a consistent copy can be made are read from that copy,
//! in the place of their files.

use std::collections::{HashMap, HashSet};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::error::{Error, Result};
use crate::stores::{self, Component, Holder, OpenFile};
use crate::tree::{
    self, ContentReader, Entry, Exclude, LocalTree, Metadata, TreePath, TreeReader,
    TreeWriter as _, Walk,
};

/// How the directory with the copies is called.
const SCRATCH_PREFIX: &str = ".strongroom-live-";
/// A younger one may be another backup's, at work.
const LEFTOVER_AGE: std::time::Duration = std::time::Duration::from_secs(24 * 3600);

/// What is done about processes that use the source.
#[derive(Clone, Debug, Default)]
pub struct InUse {
    /// Files that processes hold in ways that may change them, and of which no consistent copy can
    /// be made.
    pub in_the_way: Vec<OpenFile>,
    /// Stores to be copied.
    pub to_copy: Vec<Component>,
    /// Processes that could not be looked into.
    pub unseen: usize,
}

/// Whether a consistent copy can be made of a store while it is written to.
fn can_be_copied(component: &Component) -> bool {
    matches!(component.kind, stores::StoreKind::Sqlite | stores::StoreKind::Lmdb)
}

/// The store that a file is of, its path relative to the source, if it can be copied.
pub fn store_of<'a>(path: &Path, components: &'a [Component]) -> Option<&'a Component> {
    components.iter().find(|component| can_be_copied(component) && is_of(path, component))
}

/// Finds out who uses a source, given its stores.
///
/// # Errors
/// When `/proc` or the source cannot be read.
pub fn in_use(root: &Path, components: &[Component]) -> Result<InUse> {
    let failed = |error: stores::Error| Error::io("look into", root)(std::io::Error::other(error));
    let open = stores::open_files(root).map_err(failed)?;
    let canonical = root.canonicalize().map_err(Error::io("find", root))?;
    let mut found = InUse { unseen: open.unseen.len(), ..InUse::default() };
    // A container's process names a path of its own; whatever it holds counts for every store.
    let belongs = |file: &OpenFile, component: &Component| {
        file.path.strip_prefix(&canonical).map_or(true, |path| is_of(path, component))
    };
    for component in components.iter().filter(|component| can_be_copied(component)) {
        let held = open.files.iter().any(|file| belongs(file, component));
        let pending = component.state == stores::LiveState::PendingLog;
        if held || (pending && found.unseen > 0) {
            found.to_copy.push(component.clone());
        }
    }
    found.in_the_way = open
        .files
        .iter()
        .filter(|file| matches!(file.how, Holder::WritableDescriptor | Holder::Map))
        .filter(|file| {
            let copied = |component: &&Component| {
                file.path.strip_prefix(&canonical).is_ok() && belongs(file, component)
            };
            let maps_a_program = file.how == Holder::Map
                && !components.iter().any(|component| belongs(file, component));
            !maps_a_program && !found.to_copy.iter().any(|component| copied(&component))
        })
        .cloned()
        .collect();
    Ok(found)
}

/// Whether a file, its path relative to the source, is one of a store's.
fn is_of(path: &Path, component: &Component) -> bool {
    path.starts_with(&component.path)
        || component.files.iter().any(|other| other == path)
        || is_beside(path, &component.path)
}

/// Whether a file is one that SQLite makes beside its database.
fn is_beside(path: &Path, database: &Path) -> bool {
    let (path, database) = (path.as_os_str().as_bytes(), database.as_os_str().as_bytes());
    path.strip_prefix(database)
        .is_some_and(|end| [&b"-wal"[..], b"-shm", b"-journal", b"-lock"].contains(&end))
}

/// One file that is read from elsewhere.
struct Override {
    /// As it is shown.
    entry: Entry,
    /// The copy, among the copies.
    copy: Entry,
}

/// A directory whose live stores are read from consistent copies.
pub struct LiveTree {
    tree: LocalTree,
    copies: LocalTree,
    overrides: HashMap<TreePath, Override>,
    left_out: HashSet<TreePath>,
    /// As the root was before the copies were made in it.
    root: Metadata,
    source: PathBuf,
    scratch: Option<TempDir>,
}

impl LiveTree {
    /// Copies `components` into a directory of its own in `scratch`, or in the source: what lies
    /// there is as well protected as the data themselves.
    ///
    /// # Errors
    /// When a copy cannot be made.
    pub fn new(source: &Path, components: &[Component], scratch: Option<&Path>) -> Result<Self> {
        let tree = LocalTree::open(source)?;
        let root = tree.entry(&TreePath::root())?.metadata;
        remove_leftovers(source);
        let place = scratch.unwrap_or(source);
        let directory = tempfile::Builder::new()
            .prefix(SCRATCH_PREFIX)
            .tempdir_in(place)
            .map_err(Error::io("create a directory for copies of live stores in", place))?;
        let copies = LocalTree::open(directory.path())?;
        let mut live = Self {
            tree,
            copies,
            overrides: HashMap::new(),
            left_out: HashSet::new(),
            root,
            source: source.to_owned(),
            scratch: None,
        };
        for (number, component) in components.iter().enumerate() {
            live.copy(component, &directory.path().join(number.to_string()), number)?;
        }
        live.scratch = Some(directory);
        Ok(live)
    }

    fn copy(&mut self, component: &Component, copy: &Path, number: usize) -> Result<()> {
        let failed =
            |error: stores::Error| Error::io("copy", &component.path)(std::io::Error::other(error));
        let Some(made) = stores::copy_live(&self.source, component, copy).map_err(failed)? else {
            return Ok(());
        };
        let path = tree_path(&made.file)?;
        let original = self.tree.entry(&path)?;
        let copied = self.copies.entry(&tree_path(Path::new(&number.to_string()))?)?;
        let metadata = Metadata { size: copied.metadata.size, ..original.metadata };
        // Of the copy: no later backup may take this for the file as it is then.
        let Entry { changed, inode, allocated, .. } = copied;
        let entry = Entry { path, metadata, changed, inode, allocated, ..original };
        let entry = Entry { hard_link: None, ..entry };
        for path in &made.replaced {
            self.left_out.insert(tree_path(path)?);
        }
        self.overrides.insert(entry.path.clone(), Override { entry, copy: copied });
        Ok(())
    }

    /// The directory of the copies, for what else is to be as well protected as the source.
    pub fn scratch(&self) -> Option<&Path> {
        self.scratch.as_ref().map(TempDir::path)
    }

    /// How many files are read from copies.
    pub fn copied(&self) -> usize {
        self.overrides.len()
    }

    /// A walk of the source, with the copies in the place of what they are copies of.
    fn with_copies<'a>(&'a self, walk: Walk<'a>) -> Walk<'a> {
        Box::new(walk.filter_map(|entry| match entry {
            Ok(entry) if self.left_out.contains(&entry.path) || is_scratch(&entry.path) => None,
            Ok(entry) if entry.path.is_root() => {
                let modified = self.root.modified;
                let metadata = Metadata { modified, ..entry.metadata };
                Some(Ok(Entry { metadata, ..entry }))
            }
            Ok(entry) => Some(Ok(match self.overrides.get(&entry.path) {
                Some(over) => over.entry.clone(),
                None => entry,
            })),
            Err(error) => Some(Err(error)),
        }))
    }
}

impl TreeReader for LiveTree {
    fn describe(&self) -> String {
        TreeReader::describe(&self.tree)
    }

    fn walk<'a>(&'a self, exclude: Exclude<'a>) -> tree::Result<Walk<'a>> {
        Ok(self.with_copies(self.tree.walk(exclude)?))
    }

    fn walk_to_read<'a>(&'a self, exclude: Exclude<'a>) -> tree::Result<Walk<'a>> {
        Ok(self.with_copies(self.tree.walk_to_read(exclude)?))
    }

    fn entry(&self, path: &TreePath) -> tree::Result<Entry> {
        match self.overrides.get(path) {
            Some(over) => Ok(over.entry.clone()),
            None => self.tree.entry(path),
        }
    }

    fn content(&self, entry: &Entry) -> tree::Result<Box<dyn ContentReader>> {
        match self.overrides.get(&entry.path) {
            Some(over) => self.copies.content(&over.copy),
            None => self.tree.content(entry),
        }
    }
}

impl Drop for LiveTree {
    fn drop(&mut self) {
        // The directory's own time is the user's.
        if let Some(scratch) = self.scratch.take() {
            let inside = scratch.path().parent() == Some(&self.source);
            let _ = scratch.close();
            // Nothing else is set back: it may have been changed meanwhile.
            if inside && let Ok(now) = self.tree.entry(&TreePath::root()) {
                let metadata = Metadata { modified: self.root.modified, ..now.metadata };
                let _ = self.tree.set_metadata(&TreePath::root(), &metadata);
            }
        }
    }
}

/// Whether this is a directory in which we work, or in one.
pub(super) fn is_scratch(path: &TreePath) -> bool {
    let prefixes = [SCRATCH_PREFIX, super::place::PREFIX, super::verify::TEST_PREFIX];
    path.components().any(|name| prefixes.iter().any(|prefix| name.starts_with(prefix.as_bytes())))
}

/// Removes what a process that was killed left in the source.
fn remove_leftovers(source: &Path) {
    let Ok(entries) = std::fs::read_dir(source) else { return };
    for entry in entries.flatten() {
        let old = |time: std::time::SystemTime| {
            time.elapsed().is_ok_and(|elapsed| elapsed > LEFTOVER_AGE)
        };
        if entry.file_name().as_bytes().starts_with(SCRATCH_PREFIX.as_bytes())
            && entry.metadata().and_then(|status| status.modified()).is_ok_and(old)
        {
            // What cannot be removed is left out all the same.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

pub(super) fn tree_path(path: &Path) -> Result<TreePath> {
    TreePath::new(path.as_os_str().as_bytes())
        .map_err(|error| Error::Target { path: path.to_owned(), problem: error.to_string() })
}

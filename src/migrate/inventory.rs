//! What a source holds, as a plan tells it.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component as PathComponent, Path};

use serde::Serialize;

use super::error::Result;
use super::place::{is_marker_name, refuse_marker};
use super::survey::{Observer, Totals};
use crate::format::name::NAME_MAX_WITHOUT_SIDECAR;
use crate::tree::{Entry, EntryKind, LocalTree, Patterns, TreePath, TreeReader};

/// How many paths of each kind of remark a plan keeps.
const KEPT: usize = 20;

/// Paths worth naming: the first of them, and how many there are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Remarks {
    /// How many.
    pub count: u64,
    /// The first of them.
    pub paths: Vec<TreePath>,
}

impl Remarks {
    fn add(&mut self, path: &TreePath) {
        self.count += 1;
        if self.paths.len() < KEPT {
            self.paths.push(path.clone());
        }
    }
}

/// Symlinks by where they lead.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Symlinks {
    /// Relative, to something inside.
    pub inside: Remarks,
    /// Relative, out of the source: from the mount point it leads elsewhere.
    pub leaving: Remarks,
    /// Absolute, into the source: leads to the old path.
    pub absolute_inside: Remarks,
    /// Absolute, to something outside.
    pub absolute_outside: Remarks,
}

/// What was found in the source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Inventory {
    /// Entries, files and their bytes.
    pub totals: Totals,
    /// Bytes that the files take on the disk.
    pub allocated: u64,
    /// Inodes that a vault takes for it all: one for each file and two for each directory, the
    /// second for its record, and one more for each name that is long.
    pub vault_inodes: u64,
    /// Directories.
    pub directories: u64,
    /// Symlinks.
    pub symlinks: Symlinks,
    /// FIFOs.
    pub fifos: u64,
    /// Sockets: the app makes them anew.
    pub sockets: Remarks,
    /// Device files.
    pub devices: Remarks,
    /// Files with holes.
    pub sparse: u64,
    /// Files with several names.
    pub hard_linked: u64,
    /// Those with names outside the source: their content stays readable there.
    pub linked_outside: Remarks,
    /// Entries that belong to somebody else than who runs this.
    pub foreign: Remarks,
    /// Entries with extended attributes that only root may set.
    pub privileged_attributes: Remarks,
    /// Immutable and append-only entries: no copy can keep that, and no wipe can remove them.
    pub fixed: Remarks,
    /// Other filesystems mounted inside.
    pub mounted_below: Remarks,
}

/// Walks the source, and counts.
///
/// # Errors
/// When it cannot be read, or holds the source of an unfinished migration.
pub(super) fn inventory(
    tree: &LocalTree,
    source: &Path,
    patterns: &Patterns,
    observer: &dyn Observer,
) -> Result<Inventory> {
    let mut found = Inventory::default();
    let mut links: HashMap<(u64, u64), (TreePath, u64, u64)> = HashMap::new();
    let user = rustix::process::geteuid().as_raw();
    let exclude = |path: &TreePath, kind| patterns.matches(path, kind);
    for entry in tree.walk(&exclude)? {
        observer.check()?;
        let entry = entry?;
        if entry.path.name().is_some_and(is_marker_name) {
            let marker = source.join(entry.path.as_path());
            refuse_marker(&marker, &source.join(entry.path.as_path()))?;
        }
        let first = count_names(&mut links, &entry);
        found.add(&entry, source, user, first);
        observer.advance(1, 0);
    }
    for (path, seen, count) in links.into_values() {
        found.hard_linked += 1;
        if count > seen {
            found.linked_outside.add(&path);
        }
    }
    Ok(found)
}

/// Counts a name of a file with several; whether it is the first, or the only one.
fn count_names(links: &mut HashMap<(u64, u64), (TreePath, u64, u64)>, entry: &Entry) -> bool {
    let Some(link) = entry.hard_link else { return true };
    let known = links
        .entry((link.device, link.inode))
        .or_insert_with(|| (entry.path.clone(), 0, link.count));
    known.1 += 1;
    known.1 == 1
}

impl Inventory {
    fn add(&mut self, entry: &Entry, source: &Path, user: u32, first: bool) {
        let (path, metadata) = (&entry.path, &entry.metadata);
        self.totals.entries += 1;
        self.vault_inodes += match metadata.kind {
            EntryKind::Directory => 2,
            _ => u64::from(first),
        };
        let long = |name: &[u8]| name.len() > NAME_MAX_WITHOUT_SIDECAR;
        self.vault_inodes += u64::from(path.name().is_some_and(long));
        match metadata.kind {
            EntryKind::Regular if first => {
                self.totals.files += 1;
                self.totals.bytes = self.totals.bytes.saturating_add(metadata.size);
                self.allocated =
                    self.allocated.saturating_add(entry.allocated.min(metadata.size + 4096));
                // Inline and compressed files take less than their size, too; a hole is a page
                // at least.
                if entry.allocated + 4096 <= metadata.size {
                    self.sparse += 1;
                }
            }
            EntryKind::Regular => {}
            EntryKind::Directory => self.directories += 1,
            EntryKind::Symlink => self.add_symlink(path, &metadata.target.0, source),
            EntryKind::Fifo => self.fifos += 1,
            EntryKind::Socket => self.sockets.add(path),
            EntryKind::CharacterDevice | EntryKind::BlockDevice => self.devices.add(path),
        }
        if metadata.uid != user {
            self.foreign.add(path);
        }
        let privileged =
            |name: &[u8]| name.starts_with(b"trusted.") || name == b"security.capability";
        if metadata.xattrs.iter().any(|xattr| privileged(&xattr.name.0)) {
            self.privileged_attributes.add(path);
        }
        if entry.is_fixed {
            self.fixed.add(path);
        }
        if entry.mount_point && !path.is_root() {
            self.mounted_below.add(path);
        }
    }

    fn add_symlink(&mut self, path: &TreePath, target: &[u8], source: &Path) {
        let target = Path::new(std::ffi::OsStr::from_bytes(target));
        let links = &mut self.symlinks;
        if target.is_absolute() {
            let inside = target.starts_with(source);
            if inside { &mut links.absolute_inside } else { &mut links.absolute_outside }.add(path);
        } else if stays_inside(path, target) {
            links.inside.add(path);
        } else {
            links.leaving.add(path);
        }
    }
}

/// Whether a relative target, read as text, stays below the root.
fn stays_inside(link: &TreePath, target: &Path) -> bool {
    let mut depth = link.depth().saturating_sub(1);
    target.components().all(|component| match component {
        PathComponent::ParentDir => match depth.checked_sub(1) {
            Some(up) => {
                depth = up;
                true
            }
            None => false,
        },
        PathComponent::Normal(_) => {
            depth += 1;
            true
        }
        _ => true,
    })
}

//! Owns which operations concern which files: what a sync forces, and what builds upon what.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::backing::FileKind;
use crate::backing::memory::{Change, InodeId, State};

/// What an operation on metadata concerns.
struct Keys {
    /// The inodes that it makes, names, unnames or changes.
    objects: Vec<InodeId>,
    /// The directories whose entries it changes.
    directories: Vec<InodeId>,
    names: Vec<(InodeId, Vec<u8>)>,
    /// Whether `fdatasync` of the objects wants it.
    data: bool,
    /// Whether it moves a directory.
    moves_directory: bool,
}

/// The operations on metadata that are not on every disk.
pub(super) struct Touches {
    keys: BTreeMap<usize, Keys>,
    /// Inode numbers and kinds. Numbers are used again, and a file must not appear with the
    /// number of one whose removal is not on the disk.
    inodes: HashMap<InodeId, (u64, FileKind)>,
}

impl Touches {
    pub(super) fn new(base: &State) -> Self {
        Self { keys: BTreeMap::new(), inodes: base.identities().collect() }
    }

    pub(super) fn add(&mut self, number: usize, change: &Change) {
        let mut keys = Keys {
            objects: Vec::new(),
            directories: Vec::new(),
            names: Vec::new(),
            data: false,
            moves_directory: false,
        };
        match change {
            Change::Create { parent, name, inode } => {
                self.inodes.insert(inode.id, (inode.ino, inode.kind));
                keys.objects.push(inode.id);
                keys.directories.push(*parent);
                keys.names.push((*parent, name.clone()));
                keys.data = true;
            }
            Change::Link { id, parent, name } | Change::Unlink { id, parent, name } => {
                keys.objects.push(*id);
                keys.directories.push(*parent);
                keys.names.push((*parent, name.clone()));
            }
            Change::Rename { id, parent, name, target_parent, target_name, replaced, .. } => {
                keys.objects.push(*id);
                keys.objects.extend(replaced);
                keys.directories.extend([*parent, *target_parent]);
                keys.names.push((*parent, name.clone()));
                keys.names.push((*target_parent, target_name.clone()));
                keys.moves_directory = keys.objects.iter().any(|id| self.is_directory(*id));
            }
            Change::SetLen { id, .. } | Change::Allocate { id, .. } | Change::Punch { id, .. } => {
                keys.objects.push(*id);
                keys.data = true;
            }
            Change::SetMode { id, .. }
            | Change::SetOwner { id, .. }
            | Change::SetTimes { id, .. }
            | Change::SetXattr { id, .. }
            | Change::RemoveXattr { id, .. } => keys.objects.push(*id),
            Change::Write { .. } => return,
        }
        self.keys.insert(number, keys);
    }

    /// Operations below `number` are on every disk.
    pub(super) fn forget_below(&mut self, number: usize) {
        self.keys = self.keys.split_off(&number);
    }

    /// The operations that a sync of `id` makes durable by itself.
    pub(super) fn of(&self, id: InodeId, data_only: bool) -> impl Iterator<Item = usize> {
        self.keys
            .iter()
            .filter(move |(_, keys)| {
                (keys.objects.contains(&id) && (keys.data || !data_only))
                    || keys.directories.contains(&id)
            })
            .map(|(number, _)| *number)
    }

    /// The same with all that they build upon.
    pub(super) fn closure(&self, id: InodeId, data_only: bool) -> BTreeSet<usize> {
        let mut found: BTreeSet<usize> = BTreeSet::new();
        let mut open: Vec<usize> = self.of(id, data_only).collect();
        while let Some(number) = open.pop() {
            if found.insert(number)
                && let Some(keys) = self.keys.get(&number)
            {
                let earlier = self.keys.range(..number);
                let needed = earlier.filter(|(_, earlier)| self.builds_upon(keys, earlier));
                open.extend(needed.map(|(number, _)| *number));
                // Filesystems that sync so give a number again only once its end is on the disk
                // with all that came before.
                let earlier = self.keys.range(..number);
                if let Some((last, _)) = earlier.rev().find(|(_, it)| self.reuses(keys, it)) {
                    open.extend(self.keys.range(..=last).map(|(number, _)| *number));
                }
            }
        }
        found
    }

    fn builds_upon(&self, later: &Keys, earlier: &Keys) -> bool {
        let same = |a: &[InodeId], b: &[InodeId]| a.iter().any(|a| b.contains(a));
        same(&later.objects, &earlier.objects)
            || same(&later.directories, &earlier.objects)
            || same(&later.objects, &earlier.directories)
            || later.names.iter().any(|name| earlier.names.contains(name))
            // Without the one, the other could put a directory below itself.
            || (later.moves_directory && earlier.moves_directory)
    }

    /// Whether `later` concerns an inode with the number that another had in `earlier`.
    fn reuses(&self, later: &Keys, earlier: &Keys) -> bool {
        let ino = |id: &InodeId| self.inodes.get(id).map(|(ino, _)| *ino);
        let same = |a: &InodeId, b: &InodeId| a != b && ino(a).is_some() && ino(a) == ino(b);
        later.objects.iter().any(|a| earlier.objects.iter().any(|b| same(a, b)))
    }

    fn is_directory(&self, id: InodeId) -> bool {
        self.inodes.get(&id).is_some_and(|(_, kind)| *kind == FileKind::Directory)
    }
}

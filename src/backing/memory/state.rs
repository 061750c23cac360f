//! Owns the inodes of a filesystem in memory and the changes that can be made to them. It must
//! know nothing of handles or of what the trait promises: [`super`] checks, this changes.
//!
//! Every change is a value, so that the crash double can record it and play it again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::content::Content;
use crate::backing::{FileKind, Timestamp};

/// What tells inodes apart for ever; inode numbers are used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct InodeId(pub(crate) u64);

/// The root directory.
pub(crate) const ROOT: InodeId = InodeId(0);
/// Its inode number, as on ext4.
const ROOT_INO: u64 = 2;
/// The first number of another inode.
const FIRST_INO: u64 = 11;
/// Cookies of `.` and `..`; those of other entries follow.
pub(super) const DOT_COOKIES: u64 = 2;

/// An inode that a change makes.
#[derive(Clone, Debug)]
pub(crate) struct NewInode {
    pub(crate) id: InodeId,
    pub(crate) ino: u64,
    pub(crate) kind: FileKind,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) rdev: u64,
    /// Of a symlink.
    pub(crate) target: Vec<u8>,
}

/// One change. Those of names carry the inode that they move or remove.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Create {
        parent: InodeId,
        name: Vec<u8>,
        inode: NewInode,
    },
    Link {
        id: InodeId,
        parent: InodeId,
        name: Vec<u8>,
    },
    /// Of a file of any kind, an empty directory too.
    Unlink {
        id: InodeId,
        parent: InodeId,
        name: Vec<u8>,
    },
    Rename {
        id: InodeId,
        parent: InodeId,
        name: Vec<u8>,
        target_parent: InodeId,
        target_name: Vec<u8>,
        /// What had the target's name.
        replaced: Option<InodeId>,
        exchange: bool,
    },
    Write {
        id: InodeId,
        offset: u64,
        data: Arc<[u8]>,
    },
    SetLen {
        id: InodeId,
        len: u64,
    },
    Allocate {
        id: InodeId,
        offset: u64,
        len: u64,
    },
    Punch {
        id: InodeId,
        offset: u64,
        len: u64,
    },
    SetMode {
        id: InodeId,
        mode: u32,
    },
    SetOwner {
        id: InodeId,
        uid: Option<u32>,
        gid: Option<u32>,
    },
    SetTimes {
        id: InodeId,
        accessed: Option<Timestamp>,
        modified: Option<Timestamp>,
    },
    SetXattr {
        id: InodeId,
        attribute: Vec<u8>,
        value: Vec<u8>,
    },
    RemoveXattr {
        id: InodeId,
        attribute: Vec<u8>,
    },
}

/// The entries of a directory.
#[derive(Clone)]
pub(super) struct Entries {
    pub(super) parent: InodeId,
    by_name: HashMap<Vec<u8>, u64>,
    by_cookie: BTreeMap<u64, (Vec<u8>, InodeId)>,
    last_cookie: u64,
}

impl Entries {
    fn new(parent: InodeId) -> Self {
        Self {
            parent,
            by_name: HashMap::new(),
            by_cookie: BTreeMap::new(),
            last_cookie: DOT_COOKIES,
        }
    }

    pub(super) fn get(&self, name: &[u8]) -> Option<InodeId> {
        let cookie = self.by_name.get(name)?;
        self.by_cookie.get(cookie).map(|(_, id)| *id)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// The entries after `cookie`, each with its own.
    pub(super) fn after(&self, cookie: u64) -> impl Iterator<Item = (u64, &[u8], InodeId)> {
        let from = cookie.checked_add(1);
        from.into_iter()
            .flat_map(|from| self.by_cookie.range(from..))
            .map(|(cookie, (name, id))| (*cookie, name.as_slice(), *id))
    }

    fn insert(&mut self, name: &[u8], id: InodeId) {
        if let Some(cookie) = self.by_name.get(name) {
            if let Some(entry) = self.by_cookie.get_mut(cookie) {
                entry.1 = id;
            }
            return;
        }
        self.last_cookie += 1;
        self.by_name.insert(name.to_vec(), self.last_cookie);
        self.by_cookie.insert(self.last_cookie, (name.to_vec(), id));
    }

    fn remove(&mut self, name: &[u8]) {
        if let Some(cookie) = self.by_name.remove(name) {
            self.by_cookie.remove(&cookie);
        }
    }
}

/// What only some kinds of file have.
#[derive(Clone)]
pub(super) enum Body {
    Regular(Content),
    Directory(Entries),
    Symlink(Vec<u8>),
    Node,
}

/// An inode.
#[derive(Clone)]
pub(super) struct Inode {
    pub(super) ino: u64,
    pub(super) kind: FileKind,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) rdev: u64,
    pub(super) links: u64,
    pub(super) accessed: Timestamp,
    pub(super) modified: Timestamp,
    pub(super) changed: Timestamp,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(super) body: Body,
    /// Handles, which keep an inode without names.
    pub(super) open: u64,
}

impl Inode {
    fn new(new: &NewInode, parent: InodeId, now: Timestamp) -> Self {
        Self {
            ino: new.ino,
            kind: new.kind,
            mode: new.mode,
            uid: new.uid,
            gid: new.gid,
            rdev: new.rdev,
            links: if new.kind == FileKind::Directory { 2 } else { 1 },
            accessed: now,
            modified: now,
            changed: now,
            xattrs: BTreeMap::new(),
            body: match new.kind {
                FileKind::Regular => Body::Regular(Content::default()),
                FileKind::Directory => Body::Directory(Entries::new(parent)),
                FileKind::Symlink => Body::Symlink(new.target.clone()),
                _ => Body::Node,
            },
            open: 0,
        }
    }
}

/// All of a filesystem in memory.
#[derive(Clone)]
pub(crate) struct State {
    pub(super) inodes: BTreeMap<InodeId, Inode>,
    /// Inode numbers given up, to be used again at once, as a filesystem does.
    free: BTreeSet<u64>,
    next_ino: u64,
    next_id: u64,
    clock: Timestamp,
}

impl State {
    /// An empty root directory.
    pub(crate) fn new(uid: u32, gid: u32) -> Self {
        let clock = Timestamp { seconds: 1_600_000_000, nanoseconds: 0 };
        let root = NewInode {
            id: ROOT,
            ino: ROOT_INO,
            kind: FileKind::Directory,
            mode: 0o755,
            uid,
            gid,
            rdev: 0,
            target: Vec::new(),
        };
        Self {
            inodes: BTreeMap::from([(ROOT, Inode::new(&root, ROOT, clock))]),
            free: BTreeSet::new(),
            next_ino: FIRST_INO,
            next_id: ROOT.0 + 1,
            clock,
        }
    }

    /// The same without its handles, and so without inodes that have no name.
    pub(crate) fn without_handles(mut self) -> Self {
        self.inodes.values_mut().for_each(|inode| inode.open = 0);
        let ids: Vec<InodeId> = self.inodes.keys().copied().collect();
        ids.into_iter().for_each(|id| self.collect(id));
        self
    }

    pub(super) fn inode(&self, id: InodeId) -> Option<&Inode> {
        self.inodes.get(&id)
    }

    pub(super) fn inodes(&self) -> impl Iterator<Item = &Inode> {
        self.inodes.values()
    }

    pub(super) fn entries(&self, id: InodeId) -> Option<&Entries> {
        match &self.inode(id)?.body {
            Body::Directory(entries) => Some(entries),
            _ => None,
        }
    }

    pub(crate) fn content(&self, id: InodeId) -> Option<&Content> {
        match &self.inode(id)?.body {
            Body::Regular(content) => Some(content),
            _ => None,
        }
    }

    /// For what no change describes: what a disk does behind the filesystem's back.
    pub(crate) fn content_mut(&mut self, id: InodeId) -> Option<&mut Content> {
        match &mut self.inodes.get_mut(&id)?.body {
            Body::Regular(content) => Some(content),
            _ => None,
        }
    }

    /// The IDs of all regular files.
    pub(crate) fn regular_files(&self) -> Vec<InodeId> {
        let regular = |(id, inode): (&InodeId, &Inode)| match inode.body {
            Body::Regular(_) => Some(*id),
            _ => None,
        };
        self.inodes.iter().filter_map(regular).collect()
    }

    /// The numbers and kinds of all inodes.
    pub(crate) fn identities(&self) -> impl Iterator<Item = (InodeId, (u64, FileKind))> {
        self.inodes.iter().map(|(id, inode)| (*id, (inode.ino, inode.kind)))
    }

    /// Tells every name: its directory, itself, and what it leads to.
    pub(crate) fn names(&self, tell: &mut dyn FnMut(InodeId, &[u8], InodeId)) {
        for (&parent, inode) in &self.inodes {
            if let Body::Directory(entries) = &inode.body {
                entries.after(0).for_each(|(_, name, id)| tell(parent, name, id));
            }
        }
    }

    /// A number and an ID for an inode to be made.
    pub(super) fn new_identity(&mut self) -> (InodeId, u64) {
        let ino = self.free.first().copied().unwrap_or(self.next_ino);
        (InodeId(self.next_id), ino)
    }

    /// A time later than all before.
    pub(super) fn tick(&mut self) -> Timestamp {
        // Coarse, as a kernel's: an application can meet two equal times.
        self.clock.nanoseconds += 250_000_000;
        if self.clock.nanoseconds >= 1_000_000_000 {
            self.clock.nanoseconds = 0;
            self.clock.seconds += 1;
        }
        self.clock
    }

    pub(super) fn open(&mut self, id: InodeId) {
        if let Some(inode) = self.inodes.get_mut(&id) {
            inode.open += 1;
        }
    }

    pub(super) fn close(&mut self, id: InodeId) {
        if let Some(inode) = self.inodes.get_mut(&id) {
            inode.open = inode.open.saturating_sub(1);
        }
        self.collect(id);
    }

    /// Makes a change that has been checked. Changes of inodes that are gone do nothing.
    pub(crate) fn apply(&mut self, change: &Change, now: Timestamp) {
        self.clock = self.clock.max(now);
        match change {
            Change::Create { parent, name, inode } => {
                self.next_id = self.next_id.max(inode.id.0 + 1);
                self.next_ino = self.next_ino.max(inode.ino + 1);
                self.free.remove(&inode.ino);
                self.inodes.insert(inode.id, Inode::new(inode, *parent, now));
                self.insert_entry(*parent, name, inode.id, now);
                if inode.kind == FileKind::Directory {
                    self.add_links(*parent, 1);
                }
            }
            Change::Link { id, parent, name } => {
                self.insert_entry(*parent, name, *id, now);
                self.add_links(*id, 1);
                self.touch(*id, now);
            }
            Change::Unlink { id, parent, name } => {
                self.with_entries(*parent, now, |entries| entries.remove(name));
                self.drop_name(*id, *parent, now);
            }
            Change::Rename { id, parent, name, target_parent, target_name, replaced, exchange } => {
                if *exchange {
                    let other = replaced.unwrap_or(*id);
                    self.insert_entry(*parent, name, other, now);
                    self.move_parent(other, *target_parent, *parent, now);
                } else {
                    self.with_entries(*parent, now, |entries| entries.remove(name));
                    if let Some(replaced) = replaced {
                        self.drop_name(*replaced, *target_parent, now);
                    }
                }
                self.insert_entry(*target_parent, target_name, *id, now);
                self.move_parent(*id, *parent, *target_parent, now);
            }
            Change::Write { id, offset, data } => {
                self.change_content(*id, now, |content| content.write(data, *offset));
            }
            Change::SetLen { id, len } => {
                self.change_content(*id, now, |content| content.set_len(*len));
            }
            Change::Allocate { id, offset, len } => {
                if let Some(content) = self.content_mut(*id) {
                    content.allocate(*offset, *len);
                }
                self.touch(*id, now);
            }
            Change::Punch { id, offset, len } => {
                self.change_content(*id, now, |content| content.punch(*offset, *len));
            }
            Change::SetMode { id, mode } => self.with(*id, now, |inode| inode.mode = *mode),
            Change::SetOwner { id, uid, gid } => self.with(*id, now, |inode| {
                inode.uid = uid.unwrap_or(inode.uid);
                inode.gid = gid.unwrap_or(inode.gid);
                if inode.kind != FileKind::Directory {
                    inode.mode &= !0o4000;
                    if inode.mode & 0o010 != 0 {
                        inode.mode &= !0o2000;
                    }
                }
            }),
            Change::SetTimes { id, accessed, modified } => self.with(*id, now, |inode| {
                inode.accessed = accessed.unwrap_or(inode.accessed);
                inode.modified = modified.unwrap_or(inode.modified);
            }),
            Change::SetXattr { id, attribute, value } => self.with(*id, now, |inode| {
                inode.xattrs.insert(attribute.clone(), value.clone());
            }),
            Change::RemoveXattr { id, attribute } => self.with(*id, now, |inode| {
                inode.xattrs.remove(attribute);
            }),
        }
    }

    /// Changes an inode and its time of change.
    fn with(&mut self, id: InodeId, now: Timestamp, change: impl FnOnce(&mut Inode)) {
        if let Some(inode) = self.inodes.get_mut(&id) {
            change(inode);
            inode.changed = now;
        }
    }

    fn touch(&mut self, id: InodeId, now: Timestamp) {
        self.with(id, now, |_| ());
    }

    fn add_links(&mut self, id: InodeId, links: u64) {
        if let Some(inode) = self.inodes.get_mut(&id) {
            inode.links += links;
        }
    }

    fn change_content(&mut self, id: InodeId, now: Timestamp, change: impl FnOnce(&mut Content)) {
        self.with(id, now, |inode| {
            if let Body::Regular(content) = &mut inode.body {
                change(content);
            }
            inode.modified = now;
        });
    }

    fn with_entries(&mut self, id: InodeId, now: Timestamp, change: impl FnOnce(&mut Entries)) {
        self.with(id, now, |inode| {
            if let Body::Directory(entries) = &mut inode.body {
                change(entries);
            }
            inode.modified = now;
        });
    }

    fn insert_entry(&mut self, parent: InodeId, name: &[u8], id: InodeId, now: Timestamp) {
        self.with_entries(parent, now, |entries| entries.insert(name, id));
    }

    /// One name less for an inode, a directory's only one included.
    fn drop_name(&mut self, id: InodeId, parent: InodeId, now: Timestamp) {
        let mut directory = false;
        self.with(id, now, |inode| {
            directory = inode.kind == FileKind::Directory;
            inode.links = if directory { 0 } else { inode.links.saturating_sub(1) };
        });
        if directory && let Some(parent) = self.inodes.get_mut(&parent) {
            parent.links = parent.links.saturating_sub(1);
        }
        self.collect(id);
    }

    /// Tells a directory of its new parent, and counts `..`.
    fn move_parent(&mut self, id: InodeId, from: InodeId, to: InodeId, now: Timestamp) {
        let mut directory = false;
        self.with(id, now, |inode| {
            if let Body::Directory(entries) = &mut inode.body {
                entries.parent = to;
                directory = true;
            }
        });
        if directory && from != to {
            if let Some(from) = self.inodes.get_mut(&from) {
                from.links = from.links.saturating_sub(1);
            }
            self.add_links(to, 1);
        }
    }

    /// Frees an inode that has neither name nor handle.
    fn collect(&mut self, id: InodeId) {
        if self.inodes.get(&id).is_some_and(|inode| inode.links == 0 && inode.open == 0)
            && let Some(inode) = self.inodes.remove(&id)
        {
            self.free.insert(inode.ino);
        }
    }
}

//! Owns inodes and names, and the changes that can be made to them. A change is a value, so that
//! it can be made to what everybody sees at once and to what is durable later, or never. Knows
//! nothing of the content of files.

use std::collections::{BTreeMap, HashMap};
use std::time::SystemTime;

/// The root directory's number.
pub const ROOT: u64 = 1;

/// What a name leads to.
#[derive(Clone, Copy)]
pub struct Slot {
    /// The inode.
    pub ino: u64,
    /// Where a listing goes on after it.
    pub cookie: u64,
}

/// One inode.
#[derive(Clone)]
pub struct Inode {
    /// Kind and permissions, as `st_mode` has them.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Of a device.
    pub rdev: u32,
    /// How many names it has; a directory, 1.
    pub links: u32,
    /// Of a symlink.
    pub target: Vec<u8>,
    /// Extended attributes.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Of a directory.
    pub entries: BTreeMap<Vec<u8>, Slot>,
    /// Last access.
    pub accessed: SystemTime,
    /// Last change of content.
    pub modified: SystemTime,
    /// Last change of anything.
    pub changed: SystemTime,
}

impl Inode {
    /// An inode without names.
    pub fn new(mode: u32, uid: u32, gid: u32, now: SystemTime) -> Self {
        Self {
            mode,
            uid,
            gid,
            rdev: 0,
            links: 1,
            target: Vec::new(),
            xattrs: BTreeMap::new(),
            entries: BTreeMap::new(),
            accessed: now,
            modified: now,
            changed: now,
        }
    }

    /// Whether it is of this kind (`S_IFREG`, …).
    pub fn is(&self, kind: u32) -> bool {
        self.mode & libc::S_IFMT == kind
    }
}

/// A directory and a name in it.
pub type Place = (u64, Vec<u8>);

/// One change of names or attributes.
#[derive(Clone)]
pub enum Change {
    /// A new inode of any kind.
    Create { ino: u64, at: Place, inode: Box<Inode> },
    /// Another name.
    Link { ino: u64, at: Place },
    /// A name less; an empty directory's only one, too.
    Unlink { ino: u64, at: Place },
    /// Another name for what has one. `other` is what had that: gone, or exchanged.
    Rename { ino: u64, from: Place, to: Place, other: Option<u64>, exchange: bool },
    /// Attributes of an inode.
    Set {
        ino: u64,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        accessed: Option<SystemTime>,
        modified: Option<SystemTime>,
    },
    /// An extended attribute, or with `None` one less.
    Xattr { ino: u64, name: Vec<u8>, value: Option<Vec<u8>> },
}

/// What a change concerns.
pub struct Concern<'a> {
    /// The inodes that it makes, names or changes.
    pub inodes: Vec<u64>,
    /// The places whose meaning it changes.
    pub places: Vec<&'a Place>,
}

impl Change {
    /// What it concerns.
    pub fn concern(&self) -> Concern<'_> {
        match self {
            Self::Create { ino, at, .. } | Self::Link { ino, at } | Self::Unlink { ino, at } => {
                Concern { inodes: vec![*ino], places: vec![at] }
            }
            Self::Rename { ino, from, to, other, .. } => Concern {
                inodes: other.iter().copied().chain([*ino]).collect(),
                places: vec![from, to],
            },
            Self::Set { ino, .. } | Self::Xattr { ino, .. } => {
                Concern { inodes: vec![*ino], places: Vec::new() }
            }
        }
    }

    /// Whether a sync of `ino` makes it durable: a sync of a directory does for its entries, and
    /// `fdatasync` leaves out what reading the file does not take.
    pub fn is_synced_with(&self, ino: u64, data_only: bool) -> bool {
        let concern = self.concern();
        let attributes = concern.places.is_empty();
        (concern.inodes.contains(&ino) && !(data_only && attributes))
            || concern.places.iter().any(|place| place.0 == ino)
    }

    /// Whether it cannot be made without `earlier`.
    pub fn builds_upon(&self, earlier: &Self) -> bool {
        let (own, other) = (self.concern(), earlier.concern());
        own.inodes.iter().any(|ino| other.inodes.contains(ino))
            || own.places.iter().any(|place| other.inodes.contains(&place.0))
            || other.places.iter().any(|place| own.inodes.contains(&place.0))
            || own.places.iter().any(|place| other.places.contains(place))
            // Two moves of directories could put one below itself, one without the other.
            || (own.places.len() == 2 && other.places.len() == 2)
    }
}

/// All inodes, by number.
#[derive(Clone, Default)]
pub struct Tree {
    /// Those with names, and where somebody uses them those without.
    pub inodes: HashMap<u64, Inode>,
    /// Cookies are never given twice.
    pub last_cookie: u64,
}

impl Tree {
    /// A root directory.
    pub fn new() -> Self {
        let root = Inode::new(libc::S_IFDIR | 0o755, 0, 0, SystemTime::now());
        Self { inodes: HashMap::from([(ROOT, root)]), last_cookie: 0 }
    }

    /// What a name leads to.
    pub fn find(&self, place: &Place) -> Option<u64> {
        Some(self.inodes.get(&place.0)?.entries.get(&place.1)?.ino)
    }

    /// Makes a change. `keep` says whether an inode without a name is still in use.
    pub fn apply(&mut self, change: &Change, now: SystemTime, keep: impl Fn(u64) -> bool) {
        match change {
            Change::Create { ino, at, inode } => {
                self.inodes.insert(*ino, (**inode).clone());
                self.name(at, *ino, now);
            }
            Change::Link { ino, at } => {
                self.with(*ino, now, |inode| inode.links += 1);
                self.name(at, *ino, now);
            }
            Change::Unlink { ino, at } => {
                self.unname(at, now);
                self.lose_name(*ino, now, keep);
            }
            Change::Rename { ino, from, to, other, exchange } => {
                self.unname(from, now);
                match other {
                    Some(other) if *exchange => self.name(from, *other, now),
                    Some(other) => self.lose_name(*other, now, keep),
                    None => {}
                }
                self.name(to, *ino, now);
                self.with(*ino, now, |_| ());
            }
            Change::Set { ino, mode, uid, gid, accessed, modified } => {
                self.with(*ino, now, |inode| {
                    if let Some(mode) = mode {
                        inode.mode = inode.mode & libc::S_IFMT | mode & 0o7777;
                    }
                    inode.uid = uid.unwrap_or(inode.uid);
                    inode.gid = gid.unwrap_or(inode.gid);
                    inode.accessed = accessed.unwrap_or(inode.accessed);
                    inode.modified = modified.unwrap_or(inode.modified);
                });
            }
            Change::Xattr { ino, name, value } => self.with(*ino, now, |inode| {
                match value {
                    Some(value) => inode.xattrs.insert(name.clone(), value.clone()),
                    None => inode.xattrs.remove(name),
                };
            }),
        }
    }

    fn with(&mut self, ino: u64, now: SystemTime, change: impl FnOnce(&mut Inode)) {
        if let Some(inode) = self.inodes.get_mut(&ino) {
            change(inode);
            inode.changed = now;
        }
    }

    fn name(&mut self, at: &Place, ino: u64, now: SystemTime) {
        self.last_cookie += 1;
        let slot = Slot { ino, cookie: self.last_cookie };
        self.with(at.0, now, |directory| {
            directory.entries.insert(at.1.clone(), slot);
            directory.modified = now;
        });
    }

    fn unname(&mut self, at: &Place, now: SystemTime) {
        self.with(at.0, now, |directory| {
            directory.entries.remove(&at.1);
            directory.modified = now;
        });
    }

    fn lose_name(&mut self, ino: u64, now: SystemTime, keep: impl Fn(u64) -> bool) {
        self.with(ino, now, |inode| inode.links = inode.links.saturating_sub(1));
        if self.inodes.get(&ino).is_some_and(|inode| inode.links == 0) && !keep(ino) {
            self.inodes.remove(&ino);
        }
    }
}

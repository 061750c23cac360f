//! The inodes that the kernel, or an operation under way, knows: one entry each, found by number.
//!
//! An inode remembers the names by which it was reached, so that its file can be opened again by
//! path when its descriptor was given up; about 200 bytes an inode.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use parking_lot::{Mutex, RwLock};

use super::content::OpenFile;
use super::directory::OpenDirectory;
use super::types::InodeNumber;
use crate::backing::{File, FileKind};

/// One name of an inode.
#[derive(Clone)]
pub(super) struct Location {
    /// The directory.
    pub(super) parent: Arc<Inode>,
    /// The entry's name in the ciphertext directory.
    pub(super) entry: Box<[u8]>,
}

/// What is open of an inode.
pub(super) enum Open {
    /// A directory's descriptor and name cipher.
    Directory(Arc<OpenDirectory>),
    /// A regular file's descriptor and content state.
    File(Arc<OpenFile>),
    /// Anything else, kept because its last known name is gone; with a symlink's stored target.
    Pin(Arc<dyn File>, Option<Box<[u8]>>),
}

/// Known to have no extended attributes.
pub(super) const NO_XATTRS: u64 = 1;
/// Written in place since the last sync of its data began.
pub(super) const DATA_DIRTY: u64 = 2;
/// Attributes changed since the last sync began.
pub(super) const METADATA_DIRTY: u64 = 4;
/// Listed for the periodic commit.
pub(super) const LISTED: u64 = 8;
/// Room was reserved below that a sync of the file need not make durable, but the next commit does.
pub(super) const ROOM_DIRTY: u64 = 512;
/// A directory with names changed since its last sync began.
pub(super) const NAMES_DIRTY: u64 = 32;
/// The room that it takes below was told, and the kernel may believe it.
pub(super) const ROOM_TOLD: u64 = 128;
/// Used since the descriptor cache last looked.
pub(super) const USED: u64 = 16;
/// A directory whose record is not known to be durable. It stays known until it is, so that its
/// name is.
pub(super) const RECORD_DIRTY: u64 = 64;
/// Known to have extended attributes, of whatever kind.
pub(super) const HAS_XATTRS: u64 = 256;

/// The flags that a sync clears when it begins, each with where in [`Inode::state`] the syncs under
/// way that cleared it are counted, in 16 bits: until they return, nothing is durable yet.
const SYNCED: [(u64, u32); 3] = [(DATA_DIRTY, 16), (METADATA_DIRTY, 32), (NAMES_DIRTY, 48)];

/// An inode in memory.
pub(super) struct Inode {
    pub(super) number: InodeNumber,
    pub(super) generation: u64,
    pub(super) kind: FileKind,
    lookups: AtomicU64,
    /// For directories: how many locations of inodes in memory are in it. While there are any it
    /// stays known, so that a rename of it is seen by all of them.
    members: AtomicU32,
    /// Opens that are not yet released; 0 where the transport sends none.
    pub(super) opens: AtomicU32,
    /// Counts the changes of extended attributes, as they begin and end.
    xattr_changes: AtomicU32,
    /// The flags, and above them the syncs under way.
    state: AtomicU64,
    /// For directories: held while an operation changes their entries. Of two, the one with the
    /// lower number is taken first. Taken before any other lock.
    pub(super) entries: Mutex<()>,
    /// The known names; empty once the last known one is removed.
    pub(super) locations: Mutex<Vec<Location>>,
    /// Taken after `entries`; never held while waiting for a content lock.
    pub(super) open: Mutex<Option<Open>>,
}

impl Inode {
    pub(super) fn flag(&self, flag: u64) -> bool {
        self.state.load(Ordering::Acquire) & flag != 0
    }

    /// Sets a flag; whether it was set before.
    pub(super) fn set_flag(&self, flag: u64) -> bool {
        self.state.fetch_or(flag, Ordering::AcqRel) & flag != 0
    }

    /// Clears a flag; whether it was set before.
    pub(super) fn clear_flag(&self, flag: u64) -> bool {
        self.state.fetch_and(!flag, Ordering::AcqRel) & flag != 0
    }

    /// Before extended attributes are changed, and again after: what is known of them goes.
    pub(super) fn xattrs_change(&self) {
        // Nobody notes what it read before this, and thinks it true, in between.
        let _noted = self.open.lock();
        self.xattr_changes.fetch_add(1, Ordering::AcqRel);
        self.clear_flag(NO_XATTRS | HAS_XATTRS);
    }

    /// Calls `list`, and notes whether there are extended attributes unless they changed meanwhile;
    /// whether there are.
    pub(super) fn note_xattrs(
        &self,
        list: impl FnOnce() -> io::Result<Vec<Vec<u8>>>,
    ) -> io::Result<bool> {
        let changes = self.xattr_changes.load(Ordering::Acquire);
        let any = !list()?.is_empty();
        let _noted = self.open.lock();
        if self.xattr_changes.load(Ordering::Acquire) == changes {
            self.set_flag(if any { HAS_XATTRS } else { NO_XATTRS });
        }
        Ok(any)
    }

    /// Whether one of these kinds of changes may not be durable: its flag is set, or a sync that
    /// cleared it has not returned.
    pub(super) fn is_dirty(&self, kinds: u64) -> bool {
        dirty_kinds(self.state.load(Ordering::Acquire), kinds) != 0
    }

    /// Clears these flags because a sync of such changes begins; until what is returned is told
    /// that it succeeded, they count as dirty. Flags of content are cleared under its lock, so that
    /// no write is under way that set them and has yet to be done.
    pub(super) fn begin_sync(self: &Arc<Self>, kinds: u64) -> Syncing {
        let begin = |state| Some((state & !kinds) + counts(kinds));
        let before = self
            .state
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, begin)
            .unwrap_or_else(|state| state);
        Syncing { inode: self.clone(), kinds, dirty: dirty_kinds(before, kinds) }
    }

    /// One of its names; `None` when no known one is left.
    pub(super) fn location(&self) -> Option<Location> {
        self.locations.lock().last().cloned()
    }

    /// Adds a name, unless it is known. A directory has but one.
    pub(super) fn add_location(&self, parent: &Arc<Inode>, entry: &[u8]) {
        let mut locations = self.locations.lock();
        if !locations.iter().any(|known| known.is(parent, entry)) {
            if self.kind == FileKind::Directory {
                leave(locations.drain(..));
            }
            parent.members.fetch_add(1, Ordering::AcqRel);
            // Nearly all have one.
            locations.reserve_exact(1);
            locations.push(Location { parent: parent.clone(), entry: entry.into() });
        }
    }

    /// Removes a name; whether no known one is left.
    pub(super) fn remove_location(&self, parent: &Arc<Inode>, entry: &[u8]) -> bool {
        let mut locations = self.locations.lock();
        locations.retain(|known| {
            let stays = !known.is(parent, entry);
            if !stays {
                known.parent.members.fetch_sub(1, Ordering::AcqRel);
            }
            stays
        });
        locations.shrink_to_fit();
        locations.is_empty()
    }

    /// Removes all names: none is left on disk either.
    pub(super) fn remove_locations(&self) {
        leave(self.locations.lock().drain(..));
    }

    /// Whether this name is the only one known.
    pub(super) fn has_only_location(&self, parent: &Arc<Inode>, entry: &[u8]) -> bool {
        self.locations.lock().iter().all(|known| known.is(parent, entry))
    }

    /// The open file, if it is open.
    pub(super) fn open_file(&self) -> Option<Arc<OpenFile>> {
        match &*self.open.lock() {
            Some(Open::File(file)) => Some(file.clone()),
            _ => None,
        }
    }
}

/// Those of these kinds of changes that are not durable in a state.
fn dirty_kinds(state: u64, kinds: u64) -> u64 {
    let under_way = |(_, shift): &&(u64, u32)| (state >> shift) & 0xffff != 0;
    let syncing: u64 = SYNCED.iter().filter(under_way).map(|(kind, _)| kind).sum();
    (state | syncing) & kinds
}

/// One sync under way of each of these kinds.
fn counts(kinds: u64) -> u64 {
    let wanted = |(kind, _): &&(u64, u32)| kinds & kind != 0;
    SYNCED.iter().filter(wanted).map(|(_, shift)| 1 << shift).sum()
}

/// A sync of an inode that is under way. Dropped without [`Self::succeeded`] it failed: what it was
/// to make durable is dirty again.
pub(super) struct Syncing {
    pub(super) inode: Arc<Inode>,
    kinds: u64,
    dirty: u64,
}

impl Syncing {
    /// Whether a change of this kind, or one of these, was not durable when it began.
    pub(super) fn found(&self, kinds: u64) -> bool {
        self.dirty & kinds != 0
    }

    /// All that was done before it began is durable.
    pub(super) fn succeeded(mut self) {
        self.dirty = 0;
    }
}

impl Drop for Syncing {
    fn drop(&mut self) {
        let end = |state| Some((state | self.dirty) - counts(self.kinds));
        let _ = self.inode.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, end);
    }
}

impl Drop for Inode {
    fn drop(&mut self) {
        // Not one within the other: directories can lie in each other by the thousand.
        let mut left = std::mem::take(self.locations.get_mut());
        while let Some(Location { parent, .. }) = left.pop() {
            parent.members.fetch_sub(1, Ordering::AcqRel);
            if let Some(mut parent) = Arc::into_inner(parent) {
                left.append(parent.locations.get_mut());
            }
        }
    }
}

/// Tells the directories that these locations are in no longer.
fn leave(locations: impl Iterator<Item = Location>) {
    for location in locations {
        location.parent.members.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Location {
    fn is(&self, parent: &Arc<Inode>, entry: &[u8]) -> bool {
        self.parent.number == parent.number && *self.entry == *entry
    }
}

const SHARDS: usize = 16;

/// All known inodes.
pub(super) struct InodeTable {
    shards: [RwLock<HashMap<u64, Arc<Inode>>>; SHARDS],
    root: Arc<Inode>,
    len: AtomicUsize,
    /// Directories that nobody refers to any more but their members in memory.
    parents_left: AtomicBool,
    next_generation: AtomicU64,
}

impl InodeTable {
    /// With nothing but the root, which is never forgotten.
    pub(super) fn new() -> Self {
        let root = Arc::new(new_inode(InodeNumber::ROOT, FileKind::Directory, 0));
        root.lookups.store(1, Ordering::Relaxed);
        let table = Self {
            shards: std::array::from_fn(|_| RwLock::default()),
            root: root.clone(),
            len: AtomicUsize::new(1),
            parents_left: AtomicBool::new(false),
            next_generation: AtomicU64::new(1),
        };
        table.shard(InodeNumber::ROOT).write().insert(InodeNumber::ROOT.0, root);
        table
    }

    pub(super) fn root(&self) -> &Arc<Inode> {
        &self.root
    }

    pub(super) fn get(&self, number: InodeNumber) -> Option<Arc<Inode>> {
        self.shard(number).read().get(&number.0).cloned()
    }

    /// The inode with this number and kind, made where unknown, with one lookup more. An inode
    /// whose number was reused for another file is replaced.
    pub(super) fn look_up(&self, number: InodeNumber, kind: FileKind, is_new: bool) -> Arc<Inode> {
        let mut shard = self.shard(number).write();
        if let Some(known) = shard.get(&number.0) {
            let dead = is_new || known.kind != kind || {
                // A file whose last name went and that nothing holds open is gone: its number
                // stands for another file now.
                known.locations.lock().is_empty()
                    && number != InodeNumber::ROOT
                    && known.open.lock().is_none()
            };
            if !dead {
                known.lookups.fetch_add(1, Ordering::Relaxed);
                return known.clone();
            }
            let inode = Arc::new(new_inode(
                number,
                kind,
                self.next_generation.fetch_add(1, Ordering::Relaxed),
            ));
            // The kernel's references to the old inode are still to be forgotten under this number.
            inode.lookups.store(known.lookups.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            shard.insert(number.0, inode.clone());
            return inode;
        }
        let inode = Arc::new(new_inode(number, kind, 0));
        inode.lookups.store(1, Ordering::Relaxed);
        shard.insert(number.0, inode.clone());
        self.len.fetch_add(1, Ordering::Relaxed);
        inode
    }

    /// Gives back lookups; the inode when it was the last one.
    pub(super) fn forget(&self, number: InodeNumber, count: u64) -> Option<Arc<Inode>> {
        let inode = self.get(number)?;
        let before = inode.lookups.fetch_update(Ordering::AcqRel, Ordering::Acquire, |lookups| {
            Some(lookups.saturating_sub(count))
        });
        before.is_ok_and(|before| before <= count).then_some(inode)
    }

    /// Removes an inode that nobody refers to, unless something of it is still to be kept; whether
    /// it did.
    pub(super) fn remove_if(
        &self,
        inode: &Arc<Inode>,
        may_go: impl FnOnce(&Inode) -> bool,
    ) -> bool {
        if inode.number == InodeNumber::ROOT {
            return false;
        }
        let mut shard = self.shard(inode.number).write();
        let is_current = shard.get(&inode.number.0).is_some_and(|known| Arc::ptr_eq(known, inode));
        if !is_current || inode.lookups.load(Ordering::Acquire) > 0 {
            return false;
        }
        if inode.members.load(Ordering::Acquire) > 0 {
            self.parents_left.store(true, Ordering::Release);
            return false;
        }
        let goes = may_go(inode);
        if goes {
            shard.remove(&inode.number.0);
            self.len.fetch_sub(1, Ordering::Relaxed);
        }
        goes
    }

    /// Those whose last known name is gone.
    pub(super) fn nameless(&self) -> Vec<Arc<Inode>> {
        let nameless = |inode: &&Arc<Inode>| {
            inode.number != InodeNumber::ROOT && inode.locations.lock().is_empty()
        };
        let found = |shard: &RwLock<HashMap<u64, Arc<Inode>>>| {
            shard.read().values().filter(nameless).cloned().collect::<Vec<_>>()
        };
        self.shards.iter().flat_map(found).collect()
    }

    /// What `wanted` finds in one of them.
    pub(super) fn find<T>(&self, wanted: impl Fn(&Arc<Inode>) -> Option<T>) -> Option<T> {
        self.shards.iter().find_map(|shard| shard.read().values().find_map(&wanted))
    }

    /// Directories that nobody refers to any more and that have no members in memory now, where
    /// there may be such.
    pub(super) fn parents_left(&self) -> Vec<Arc<Inode>> {
        if !self.parents_left.swap(false, Ordering::AcqRel) {
            return Vec::new();
        }
        let left = |inode: &&Arc<Inode>| {
            inode.kind == FileKind::Directory && inode.lookups.load(Ordering::Acquire) == 0
        };
        let mut found = Vec::new();
        for shard in &self.shards {
            found.extend(shard.read().values().filter(left).cloned());
        }
        found
    }

    /// How many are known.
    pub(super) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// The numbers in one of `parts` parts of the table.
    pub(super) fn part(&self, part: usize, parts: usize) -> Vec<InodeNumber> {
        let shards = self.shards.iter().skip(part).step_by(parts.max(1));
        shards
            .flat_map(|shard| shard.read().keys().copied().collect::<Vec<_>>())
            .map(InodeNumber)
            .collect()
    }

    fn shard(&self, number: InodeNumber) -> &RwLock<HashMap<u64, Arc<Inode>>> {
        let index = usize::try_from(number.0 % SHARDS as u64).expect("below the shard count");
        &self.shards[index]
    }
}

fn new_inode(number: InodeNumber, kind: FileKind, generation: u64) -> Inode {
    Inode {
        number,
        generation,
        kind,
        lookups: AtomicU64::new(0),
        members: AtomicU32::new(0),
        opens: AtomicU32::new(0),
        xattr_changes: AtomicU32::new(0),
        state: AtomicU64::new(0),
        entries: Mutex::new(()),
        locations: Mutex::new(Vec::new()),
        open: Mutex::new(None),
    }
}

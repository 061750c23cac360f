//! A test double: a filesystem in memory that behaves as Linux does, down to the errno. It owns
//! what the trait promises of names, kinds and handles; it must know nothing of crashes and
//! faults, which other doubles add.
//!
//! What it simplifies: the caller is root and passes every permission check; there is one clock,
//! which ticks by a quarter of a second at each change, and reading sets no time; ACLs are
//! attributes like others; there is room for everything but a single allocation over 1 GiB.
//! Symlinks are followed by nothing, so a name with a `/` needs a real directory before it.

mod content;
mod file;
mod operations;
mod state;

use std::any::Any;
use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use rustix::io::Errno;

pub(super) use self::content::{Content, PAGE};
use self::file::{MemoryFile, Mode};
pub(super) use self::operations::{Event, Record};
use self::operations::{LINKS_MAX, Shared, TARGET_MAX, check_xattr_sizes, effective_owner};
use self::state::Body;
pub(super) use self::state::{Change, InodeId, ROOT, State};
use super::{
    Access, Directory, File, FileKind, FilesystemStat, LockOutcome, RawEntry, RenameMode, SetTime,
    Stat, XattrMode, names,
};

/// What keeps an inode: an open file or directory, or a pin.
struct Handle {
    shared: Arc<Mutex<Shared>>,
    id: InodeId,
}

impl Handle {
    /// `held` is the filesystem's lock, held by the caller.
    fn new(shared: &Arc<Mutex<Shared>>, held: &mut Shared, id: InodeId) -> Self {
        held.state.open(id);
        Self { shared: Arc::clone(shared), id }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.lock().state.close(self.id);
    }
}

/// A directory in memory. A new one is the root of its own filesystem.
pub struct MemoryDirectory {
    handle: Handle,
}

impl Default for MemoryDirectory {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryDirectory {
    /// An empty filesystem; its root.
    pub fn new() -> Self {
        let (uid, gid) = effective_owner();
        Self::of_state(State::new(uid, gid), None)
    }

    /// The root of an independent copy of the filesystem as it stands. Files without a name are
    /// not in it, as after a power cut.
    pub fn copy(&self) -> Self {
        let state = self.handle.lock().state.clone();
        Self::of_state(state.without_handles(), None)
    }

    pub(super) fn of_state(state: State, record: Option<Vec<Record>>) -> Self {
        let locked = HashSet::new();
        let shared = Arc::new(Mutex::new(Shared { state, locked, record }));
        let handle = Handle::new(&shared, &mut shared.lock(), ROOT);
        Self { handle }
    }

    /// The root, through any directory of the filesystem.
    pub(super) fn root(&self) -> Self {
        self.at(&mut self.handle.lock(), ROOT)
    }

    /// A copy of the state as it stands.
    pub(super) fn state(&self) -> State {
        self.handle.lock().state.clone()
    }

    /// Lets `read` see what was recorded.
    pub(super) fn with_record<T>(&self, read: impl FnOnce(&[Record]) -> T) -> T {
        read(self.handle.lock().record.as_deref().unwrap_or_default())
    }

    fn at(&self, held: &mut Shared, id: InodeId) -> Self {
        Self { handle: Handle::new(&self.handle.shared, held, id) }
    }

    /// The other directory of an operation on two.
    fn other<'a>(&self, other: &'a dyn Directory) -> io::Result<&'a Self> {
        other
            .as_any()
            .downcast_ref::<Self>()
            .filter(|other| Arc::ptr_eq(&other.handle.shared, &self.handle.shared))
            .ok_or_else(|| Errno::XDEV.into())
    }

    fn file(&self, held: &mut Shared, id: InodeId, mode: Mode) -> Box<dyn File> {
        Box::new(MemoryFile { handle: Handle::new(&self.handle.shared, held, id), mode })
    }
}

impl Directory for MemoryDirectory {
    fn stat(&self, name: &[u8]) -> io::Result<Stat> {
        let name = names::component(name)?;
        let shared = self.handle.lock();
        shared.stat(shared.find(self.handle.id, name)?)
    }

    fn open_directory(&self, name: &[u8]) -> io::Result<Box<dyn Directory>> {
        let name = names::component(name)?;
        let mut shared = self.handle.lock();
        let id = shared.find(self.handle.id, name)?;
        shared.state.entries(id).ok_or(Errno::NOTDIR)?;
        Ok(Box::new(self.at(&mut shared, id)))
    }

    fn open_file(&self, name: &[u8], access: Access) -> io::Result<Box<dyn File>> {
        let name = names::component(name)?;
        let mut shared = self.handle.lock();
        let id = shared.find(self.handle.id, name)?;
        match shared.inode(id)?.kind {
            FileKind::Regular => {}
            FileKind::Directory => return Err(Errno::ISDIR.into()),
            FileKind::Symlink => return Err(Errno::LOOP.into()),
            _ => return Err(Errno::NXIO.into()),
        }
        let mode = match access {
            Access::Read => Mode::Read,
            Access::ReadWrite => Mode::ReadWrite,
        };
        Ok(self.file(&mut shared, id, mode))
    }

    fn create_file(&self, name: &[u8], mode: u32) -> io::Result<Box<dyn File>> {
        let name = names::component(name)?;
        let mut shared = self.handle.lock();
        let id = shared.create(self.handle.id, name, FileKind::Regular, mode, 0, b"")?;
        Ok(self.file(&mut shared, id, Mode::ReadWrite))
    }

    fn pin(&self, name: &[u8]) -> io::Result<Box<dyn File>> {
        let name = names::component(name)?;
        let mut shared = self.handle.lock();
        let id = shared.find(self.handle.id, name)?;
        Ok(self.file(&mut shared, id, Mode::Pinned))
    }

    fn make_directory(&self, name: &[u8], mode: u32) -> io::Result<()> {
        let name = names::component(name)?;
        let mut shared = self.handle.lock();
        shared.create(self.handle.id, name, FileKind::Directory, mode, 0, b"").map(drop)
    }

    fn make_symlink(&self, target: &[u8], name: &[u8]) -> io::Result<()> {
        names::one_or_two_components(name)?;
        if target.contains(&0) {
            return Err(Errno::INVAL.into());
        }
        if target.is_empty() {
            return Err(Errno::NOENT.into());
        }
        if target.len() > TARGET_MAX {
            return Err(Errno::NAMETOOLONG.into());
        }
        let mut shared = self.handle.lock();
        let (parent, last) = shared.find_parent(self.handle.id, name)?;
        shared.create(parent, last, FileKind::Symlink, 0o777, 0, target).map(drop)
    }

    fn make_node(&self, name: &[u8], kind: FileKind, mode: u32, rdev: u64) -> io::Result<()> {
        let name = names::component(name)?;
        let rdev = match kind {
            FileKind::CharacterDevice | FileKind::BlockDevice => rdev,
            FileKind::Fifo | FileKind::Socket => 0,
            FileKind::Regular | FileKind::Directory | FileKind::Symlink => {
                return Err(Errno::INVAL.into());
            }
        };
        let mut shared = self.handle.lock();
        shared.create(self.handle.id, name, kind, mode, rdev, b"").map(drop)
    }

    fn read_link(&self, name: &[u8]) -> io::Result<Vec<u8>> {
        let shared = self.handle.lock();
        let (parent, last) = shared.find_parent(self.handle.id, name)?;
        match &shared.inode(shared.find(parent, last)?)?.body {
            Body::Symlink(target) => Ok(target.clone()),
            _ => Err(Errno::INVAL.into()),
        }
    }

    fn hard_link(
        &self,
        name: &[u8],
        target_directory: &dyn Directory,
        target_name: &[u8],
    ) -> io::Result<()> {
        let (name, target_name) = (names::component(name)?, names::component(target_name)?);
        let parent = self.other(target_directory)?.handle.id;
        let mut shared = self.handle.lock();
        let id = shared.find(self.handle.id, name)?;
        shared.check_vacant(parent, target_name)?;
        let inode = shared.inode(id)?;
        if inode.kind == FileKind::Directory {
            return Err(Errno::PERM.into());
        }
        if inode.links >= LINKS_MAX {
            return Err(Errno::MLINK.into());
        }
        shared.apply(Change::Link { id, parent, name: target_name.to_vec() });
        Ok(())
    }

    fn rename(
        &self,
        name: &[u8],
        target_directory: &dyn Directory,
        target_name: &[u8],
        mode: RenameMode,
    ) -> io::Result<()> {
        let (name, target_name) = (names::component(name)?, names::component(target_name)?);
        let target_parent = self.other(target_directory)?.handle.id;
        self.handle.lock().rename(self.handle.id, name, target_parent, target_name, mode)
    }

    fn unlink(&self, name: &[u8]) -> io::Result<()> {
        let mut shared = self.handle.lock();
        let (parent, last) = shared.find_parent(self.handle.id, name)?;
        let id = shared.find(parent, last)?;
        if shared.inode(id)?.kind == FileKind::Directory {
            return Err(Errno::ISDIR.into());
        }
        shared.apply(Change::Unlink { id, parent, name: last.to_vec() });
        Ok(())
    }

    fn remove_directory(&self, name: &[u8]) -> io::Result<()> {
        let name = names::component(name)?;
        if name == b"." {
            return Err(Errno::INVAL.into());
        }
        let mut shared = self.handle.lock();
        let parent = self.handle.id;
        let id = shared.find(parent, name)?;
        if !shared.state.entries(id).ok_or(Errno::NOTDIR)?.is_empty() {
            return Err(Errno::NOTEMPTY.into());
        }
        shared.apply(Change::Unlink { id, parent, name: name.to_vec() });
        Ok(())
    }

    fn set_mode(&self, name: &[u8], mode: u32) -> io::Result<()> {
        let name = names::component(name)?;
        let mut shared = self.handle.lock();
        let id = shared.find(self.handle.id, name)?;
        shared.set_mode(id, mode)
    }

    fn set_owner(&self, name: &[u8], uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        let name = names::component(name)?;
        let mut shared = self.handle.lock();
        let id = shared.find(self.handle.id, name)?;
        shared.set_owner(id, uid, gid)
    }

    fn set_times(&self, name: &[u8], accessed: SetTime, modified: SetTime) -> io::Result<()> {
        let name = names::component(name)?;
        let mut shared = self.handle.lock();
        let id = shared.find(self.handle.id, name)?;
        shared.set_times(id, accessed, modified)
    }

    fn get_xattr(&self, name: &[u8], attribute: &[u8]) -> io::Result<Vec<u8>> {
        let name = names::component(name)?;
        check_xattr_sizes(attribute, b"")?;
        let shared = self.handle.lock();
        shared.get_xattr(shared.find(self.handle.id, name)?, attribute)
    }

    fn list_xattr(&self, name: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        let name = names::component(name)?;
        let shared = self.handle.lock();
        shared.list_xattr(shared.find(self.handle.id, name)?)
    }

    fn set_xattr(
        &self,
        name: &[u8],
        attribute: &[u8],
        value: &[u8],
        mode: XattrMode,
    ) -> io::Result<()> {
        let name = names::component(name)?;
        check_xattr_sizes(attribute, value)?;
        let mut shared = self.handle.lock();
        let id = shared.find(self.handle.id, name)?;
        shared.set_xattr(id, attribute, value, mode)
    }

    fn remove_xattr(&self, name: &[u8], attribute: &[u8]) -> io::Result<()> {
        let name = names::component(name)?;
        check_xattr_sizes(attribute, b"")?;
        let mut shared = self.handle.lock();
        let id = shared.find(self.handle.id, name)?;
        shared.remove_xattr(id, attribute)
    }

    fn read_entries(
        &self,
        cookie: u64,
        sink: &mut dyn FnMut(RawEntry<'_>) -> bool,
    ) -> io::Result<()> {
        let mut cookie = cookie;
        loop {
            // The lock is not held while the sink runs: it may come back here.
            let piece = self.handle.lock().listing(self.handle.id, cookie)?;
            if piece.is_empty() {
                return Ok(());
            }
            for (next_cookie, name, ino, kind) in piece {
                cookie = next_cookie;
                if !sink(RawEntry { name: &name, ino, kind: Some(kind), next_cookie }) {
                    return Ok(());
                }
            }
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.handle.lock().sync(Event::Sync { id: self.handle.id, data_only: false });
        Ok(())
    }

    fn sync_filesystem(&self) -> io::Result<bool> {
        self.handle.lock().sync(Event::SyncFilesystem);
        Ok(true)
    }

    fn filesystem_stat(&self) -> io::Result<FilesystemStat> {
        let shared = self.handle.lock();
        let contents = shared.state.inodes().filter_map(|inode| match &inode.body {
            Body::Regular(content) => Some(content.allocated() / PAGE),
            _ => None,
        });
        let (blocks, files) = (1 << 24, 1 << 20);
        let blocks_free = u64::saturating_sub(blocks, contents.sum());
        let inodes = u64::try_from(shared.state.inodes().count()).unwrap_or(u64::MAX);
        Ok(FilesystemStat {
            block_size: PAGE,
            blocks,
            blocks_free,
            blocks_available: blocks_free,
            files,
            files_free: u64::saturating_sub(files, inodes),
            name_max: 255,
        })
    }

    fn lock(&self, name: &[u8], owner: &[u8]) -> io::Result<LockOutcome> {
        let name = names::component(name)?;
        let mut shared = self.handle.lock();
        let id = match shared.find(self.handle.id, name) {
            Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => {
                shared.create(self.handle.id, name, FileKind::Regular, 0o600, 0, b"")?
            }
            other => other?,
        };
        match shared.inode(id)?.kind {
            FileKind::Regular => {}
            FileKind::Directory => return Err(Errno::ISDIR.into()),
            FileKind::Symlink => return Err(Errno::LOOP.into()),
            _ => return Err(Errno::NXIO.into()),
        }
        if !shared.locked.insert(id) {
            let content = shared.state.content(id).cloned().unwrap_or_default();
            let mut text = vec![0; 4096];
            let count = content.read(&mut text, 0);
            text.truncate(count);
            return Ok(LockOutcome::Busy(text));
        }
        shared.apply(Change::SetLen { id, len: 0 });
        shared.apply(Change::Write { id, offset: 0, data: owner.into() });
        let handle = Handle::new(&self.handle.shared, &mut shared, id);
        Ok(LockOutcome::Held(Box::new(Lock { handle })))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Held for as long as it lives.
struct Lock {
    handle: Handle,
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.handle.lock().locked.remove(&self.handle.id);
    }
}

#[cfg(test)]
mod tests {
    use super::MemoryDirectory;

    mod conformance {
        use super::MemoryDirectory;
        use crate::backing::conformance::instantiate;

        instantiate!((MemoryDirectory::new(), ()));
    }
}

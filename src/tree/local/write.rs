//! Writing a local directory.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, StatxFlags, Timespec, Timestamps, Uid,
};
use rustix::io::Errno;

use super::super::error::{Error, Operation, Result};
use super::super::path::TreePath;
use super::super::types::{Entry, EntryKind, Metadata, Timestamp};
use super::super::{ContentWriter, TreeReader as _, TreeWriter};
use super::{LocalTree, inspect, xattr};

/// What metadata are set of.
pub(super) struct Target<'a> {
    /// Of any kind, also `O_PATH`.
    pub(super) fd: BorrowedFd<'a>,
    /// Whether it is open for more than its path.
    pub(super) open: bool,
    /// Whether it has no attributes that nobody set.
    pub(super) bare: bool,
}

/// Sets owner, attributes, mode and times of what the descriptor stands for, in the order in which
/// they don't undo each other: a new owner clears capabilities and set-user-ID bits, an ACL changes
/// the mode, and everything moves the times. What is right already is left alone: on a mount each
/// change is a message.
///
/// Where `left` counts, what only root may set is let go.
pub(super) fn apply(
    target: Target<'_>,
    metadata: &Metadata,
    left: Option<&AtomicU64>,
) -> std::result::Result<(), (Operation, Errno)> {
    let Target { fd, open, bare } = target;
    let wanted = StatxFlags::MODE | StatxFlags::UID | StatxFlags::GID;
    let stat = inspect::stat_some(fd, b"", wanted).map_err(|errno| (Operation::Inspect, errno))?;
    let path = xattr::descriptor_path(fd);
    let (uid, gid) = (metadata.uid, metadata.gid);
    let mut mode = metadata.mode & 0o7777;
    let mut whole = true;
    let owned = (stat.stx_uid, stat.stx_gid) == (uid, gid);
    if !owned {
        let own = |uid: Option<u32>| {
            let (uid, gid) = (uid.map(Uid::from_raw), Some(Gid::from_raw(gid)));
            rustix::fs::chownat(fd, c"", uid, gid, AtFlags::EMPTY_PATH)
        };
        match own(Some(uid)) {
            Err(Errno::PERM) if left.is_some() => {
                whole = false;
                mode = without_foreign_bits(mode, metadata.kind, own(None).is_err());
            }
            owned => owned.map_err(|errno| (Operation::SetOwner, errno))?,
        }
    }
    whole &= xattr::replace_all(fd, &metadata.xattrs, bare, left.is_some())
        .map_err(|errno| (Operation::SetXattr, errno))?;
    if let Some(left) = left.filter(|_| !whole) {
        left.fetch_add(1, Ordering::Relaxed);
    }
    let untouched = owned && bare && metadata.xattrs.is_empty();
    let right = untouched && u32::from(stat.stx_mode) & 0o7777 == mode;
    if metadata.kind != EntryKind::Symlink && !right {
        let mode = Mode::from_raw_mode(mode);
        let set = if open { rustix::fs::fchmod(fd, mode) } else { rustix::fs::chmod(&*path, mode) };
        set.map_err(|errno| (Operation::SetMode, errno))?;
    }
    let times = Timestamps {
        last_access: timespec(metadata.accessed),
        last_modification: timespec(metadata.modified),
    };
    let set = if open {
        rustix::fs::futimens(fd, &times)
    } else {
        // Through `/proc` a symlink's descriptor stands for the symlink itself.
        rustix::fs::utimensat(rustix::fs::CWD, &*path, &times, AtFlags::empty())
    };
    set.map_err(|errno| (Operation::SetTimes, errno))
}

/// A mode without what would let others act as an owner, or a group, that was not meant.
fn without_foreign_bits(mode: u32, kind: EntryKind, other_group: bool) -> u32 {
    let of_group = if other_group && kind != EntryKind::Directory { 0o2000 } else { 0 };
    mode & !(0o4000 | of_group)
}

fn timespec(time: Timestamp) -> Timespec {
    Timespec { tv_sec: time.seconds, tv_nsec: time.nanoseconds.into() }
}

impl LocalTree {
    /// Pins what is there without opening it: it can't be exchanged any more.
    fn pin(&self, path: &TreePath) -> rustix::io::Result<OwnedFd> {
        self.open_below(path.as_bytes(), OFlags::PATH, Mode::empty())
    }
}

impl TreeWriter for LocalTree {
    fn describe(&self) -> String {
        super::super::TreeReader::describe(self)
    }

    fn existing(&self, path: &TreePath) -> Result<Option<Entry>> {
        match self.entry(path) {
            Ok(entry) => Ok(Some(entry)),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn create_directory(&self, path: &TreePath) -> Result<()> {
        let error = |errno| self.error(Operation::Create, path, errno);
        let (parent, name) = self.parent(path).map_err(error)?;
        rustix::fs::mkdirat(&parent, name, Mode::RWXU).map_err(error)
    }

    fn create_file(&self, path: &TreePath) -> Result<Box<dyn ContentWriter>> {
        self.create_content(path, None)
    }

    fn create_file_for(
        &self,
        path: &TreePath,
        metadata: &Metadata,
    ) -> Result<Box<dyn ContentWriter>> {
        self.create_content(path, Some(metadata))
    }

    fn create_special(&self, path: &TreePath, metadata: &Metadata) -> Result<()> {
        let error = |errno| self.error(Operation::Create, path, errno);
        let (parent, name) = self.parent(path).map_err(error)?;
        let node = |kind| {
            let mode = Mode::RUSR | Mode::WUSR;
            rustix::fs::mknodat(&parent, name, kind, mode, metadata.rdev)
        };
        match metadata.kind {
            EntryKind::Symlink => rustix::fs::symlinkat(&*metadata.target.0, &parent, name),
            EntryKind::Fifo => node(FileType::Fifo),
            EntryKind::Socket => node(FileType::Socket),
            EntryKind::CharacterDevice => node(FileType::CharacterDevice),
            EntryKind::BlockDevice => node(FileType::BlockDevice),
            EntryKind::Regular | EntryKind::Directory => {
                return Err(Error::Kind {
                    operation: Operation::Create,
                    tree: super::super::TreeReader::describe(self),
                    path: path.clone(),
                    kind: metadata.kind,
                });
            }
        }
        .map_err(error)?;
        self.set_metadata(path, metadata)
    }

    fn hard_link(&self, original: &TreePath, path: &TreePath) -> Result<()> {
        let error = |errno| self.error(Operation::Link, path, errno);
        let (from, from_name) = self.parent(original).map_err(error)?;
        let (to, to_name) = self.parent(path).map_err(error)?;
        rustix::fs::linkat(&from, from_name, &to, to_name, AtFlags::empty()).map_err(error)
    }

    fn set_metadata(&self, path: &TreePath, metadata: &Metadata) -> Result<()> {
        let pinned = self.pin(path).map_err(|errno| self.error(Operation::Open, path, errno))?;
        let stat = inspect::stat(pinned.as_fd(), b"")
            .map_err(|errno| self.error(Operation::Inspect, path, errno))?;
        if !inspect::kind(&stat).is_ok_and(|kind| kind == metadata.kind) {
            return Err(self.changed(path));
        }
        if metadata.kind == EntryKind::Directory {
            self.gives_on(metadata);
        }
        let target = Target { fd: pinned.as_fd(), open: false, bare: false };
        apply(target, metadata, self.left.as_deref())
            .map_err(|(operation, errno)| self.error(operation, path, errno))?;
        if self.each_file && metadata.kind == EntryKind::Directory {
            self.sync_directory(path)?;
        }
        Ok(())
    }

    fn remove(&self, path: &TreePath) -> Result<()> {
        self.remove_all(path)
    }

    fn sync(&self) -> Result<()> {
        if self.each_file {
            self.sync_directory(&TreePath::root())
        } else {
            rustix::fs::syncfs(&self.root)
                .map_err(|errno| self.error(Operation::Sync, &TreePath::root(), errno))
        }
    }
}

/// How [`LocalTree::rename`] treats what is at the new place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rename {
    /// It is an error (`EEXIST`).
    NoReplace,
    /// The two change places, in one step.
    Exchange,
}

impl LocalTree {
    /// Renames an entry, within the filesystem. Neither path is followed through a symlink.
    ///
    /// # Errors
    /// `EEXIST` and `ENOENT` as [`Rename`] says; `EINVAL` where the filesystem has no such rename.
    pub fn rename(&self, from: &TreePath, to: &TreePath, how: Rename) -> Result<()> {
        let renamed = self.rename_as_it_is(from, to, how);
        if !matches!(&renamed, Err(error) if error.raw_os_error() == Some(libc::EACCES)) {
            return renamed;
        }
        // A directory that its owner may not write goes nowhere else: its `..` is in it.
        let opened: Vec<_> =
            [from, to].into_iter().filter_map(|path| self.let_go(path).ok().flatten()).collect();
        if opened.is_empty() {
            return renamed;
        }
        let renamed = self.rename_as_it_is(from, to, how);
        for (pinned, mode) in opened {
            let again = rustix::fs::chmod(&*xattr::descriptor_path(pinned.as_fd()), mode);
            again.map_err(|errno| self.error(Operation::SetMode, to, errno))?;
        }
        renamed
    }

    /// Lets its owner write a directory who may not; what it is and its mode, to be set again.
    fn let_go(&self, path: &TreePath) -> rustix::io::Result<Option<(OwnedFd, Mode)>> {
        let pinned = self.pin(path)?;
        let stat = inspect::stat(pinned.as_fd(), b"")?;
        let mode = Mode::from_raw_mode(u32::from(stat.stx_mode) & 0o7777);
        let is_directory = FileType::from_raw_mode(u32::from(stat.stx_mode)) == FileType::Directory;
        if !is_directory || mode.contains(Mode::WUSR) {
            return Ok(None);
        }
        rustix::fs::chmod(&*xattr::descriptor_path(pinned.as_fd()), mode | Mode::WUSR)?;
        Ok(Some((pinned, mode)))
    }

    fn rename_as_it_is(&self, from: &TreePath, to: &TreePath, how: Rename) -> Result<()> {
        let error = |errno| self.error(Operation::Rename, from, errno);
        let (old, old_name) = self.parent(from).map_err(error)?;
        let (new, new_name) = self.parent(to).map_err(error)?;
        let flags = match how {
            Rename::NoReplace => RenameFlags::NOREPLACE,
            Rename::Exchange => RenameFlags::EXCHANGE,
        };
        match rustix::fs::renameat_with(&old, old_name, &new, new_name, flags) {
            Err(Errno::INVAL | Errno::NOSYS) if how == Rename::NoReplace => {
                // The next best: a file made there between the two steps would be replaced.
                if inspect::stat(new.as_fd(), new_name).is_ok() {
                    return Err(error(Errno::EXIST));
                }
                rustix::fs::renameat(&old, old_name, &new, new_name).map_err(error)
            }
            renamed => renamed.map_err(error),
        }
    }

    fn sync_directory(&self, path: &TreePath) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK;
        self.open_below(path.as_bytes(), flags, Mode::empty())
            .and_then(rustix::fs::fsync)
            .map_err(|errno| self.error(Operation::Sync, path, errno))
    }
}

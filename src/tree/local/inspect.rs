//! What the kernel tells of an entry, as the types of the tree.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, FileType, Statx, StatxAttributes, StatxFlags};

use super::super::bytes::ByteString;
use super::super::error::{Operation, Result};
use super::super::path::TreePath;
use super::super::types::{Entry, EntryKind, HardLink, Metadata, Timestamp};
use super::{LocalTree, xattr};

/// What tells two directories apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) device: u64,
    pub(super) inode: u64,
}

/// `statx(2)` of a name, or of the descriptor itself where the name is empty; never follows.
pub(super) fn stat(at: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<Statx> {
    stat_some(at, name, StatxFlags::BASIC_STATS)
}

/// The same, of which only some fields are wanted: a mount need not be asked for the others. What
/// it reads moves the last access, so that the whole would always be asked for anew.
pub(super) fn stat_some(
    at: BorrowedFd<'_>,
    name: &[u8],
    wanted: StatxFlags,
) -> rustix::io::Result<Statx> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::EMPTY_PATH;
    rustix::fs::statx(at, name, flags, wanted)
}

/// `statx(2)` of a path in `/proc`.
pub(super) fn stat_followed(path: &[u8]) -> rustix::io::Result<Statx> {
    rustix::fs::statx(rustix::fs::CWD, path, AtFlags::empty(), StatxFlags::BASIC_STATS)
}

pub(super) fn kind(stat: &Statx) -> io::Result<EntryKind> {
    Ok(match FileType::from_raw_mode(u32::from(stat.stx_mode)) {
        FileType::RegularFile => EntryKind::Regular,
        FileType::Directory => EntryKind::Directory,
        FileType::Symlink => EntryKind::Symlink,
        FileType::Fifo => EntryKind::Fifo,
        FileType::Socket => EntryKind::Socket,
        FileType::CharacterDevice => EntryKind::CharacterDevice,
        FileType::BlockDevice => EntryKind::BlockDevice,
        _ => return Err(io::Error::other("an unknown kind of file")),
    })
}

pub(super) fn device(stat: &Statx) -> u64 {
    rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor)
}

pub(super) fn identity(stat: &Statx) -> Identity {
    Identity { device: device(stat), inode: stat.stx_ino }
}

pub(super) fn time(time: rustix::fs::StatxTimestamp) -> Timestamp {
    Timestamp { seconds: time.tv_sec, nanoseconds: time.tv_nsec }
}

/// Whose extended attributes are read with the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum XattrsOf {
    /// Everything's.
    All,
    /// Those of files with one name come with their content: by the open file they are read in a tenth
    /// of the time that the way by `/proc` takes.
    AllButFiles,
}

impl LocalTree {
    /// One entry, by the directory that holds it.
    pub(super) fn inspect(
        &self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        path: TreePath,
        xattrs_of: XattrsOf,
    ) -> Result<(Entry, Identity)> {
        let error = |source: io::Error| self.error(Operation::Inspect, &path, source);
        let stat = stat(directory, name).map_err(|errno| error(errno.into()))?;
        let kind = kind(&stat).map_err(error)?;
        let target = match kind {
            EntryKind::Symlink => rustix::fs::readlinkat(directory, name, Vec::new())
                .map_err(|errno| self.error(Operation::ReadLink, &path, errno))?
                .into_bytes(),
            _ => Vec::new(),
        };
        let wanted = self.xattrs || path.is_root();
        let xattrs_unread = wanted
            && xattrs_of == XattrsOf::AllButFiles
            && kind == EntryKind::Regular
            && stat.stx_nlink <= 1;
        let xattrs = if wanted && !xattrs_unread {
            xattr::read_all(&xattr::name_path(directory, name))
                .map_err(|errno| self.error(Operation::ReadXattr, &path, errno))?
        } else {
            Vec::new()
        };
        let metadata = Metadata {
            kind,
            mode: u32::from(stat.stx_mode) & 0o7777,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            modified: time(stat.stx_mtime),
            accessed: time(stat.stx_atime),
            size: if kind == EntryKind::Regular { stat.stx_size } else { 0 },
            rdev: if kind.is_device() {
                rustix::fs::makedev(stat.stx_rdev_major, stat.stx_rdev_minor)
            } else {
                0
            },
            target: ByteString(target),
            xattrs,
        };
        let identity = identity(&stat);
        let hard_link = (kind != EntryKind::Directory && stat.stx_nlink > 1).then_some(HardLink {
            device: identity.device,
            inode: identity.inode,
            count: u64::from(stat.stx_nlink),
        });
        let fixed = StatxAttributes::IMMUTABLE | StatxAttributes::APPEND;
        let mount_point = !path.is_root() && self.is_mount_point(&stat);
        let entry = Entry {
            path,
            metadata,
            changed: time(stat.stx_ctime),
            inode: identity.inode,
            hard_link,
            allocated: stat.stx_blocks.saturating_mul(512),
            mount_point,
            xattrs_unread,
            is_fixed: stat.stx_attributes.intersects(fixed),
        };
        Ok((entry, identity))
    }

    /// A subvolume of btrfs has a device number of its own without being mounted, and a bind
    /// mount of the same filesystem has none: only the attribute tells. Kernels before 5.8 don't
    /// have it.
    pub(super) fn is_mount_point(&self, stat: &Statx) -> bool {
        if stat.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT) {
            stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)
        } else {
            device(stat) != self.device
        }
    }
}

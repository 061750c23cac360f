//! The content of a local file, being read or being written.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use rustix::fs::{Advice, Mode, OFlags, SeekFrom, StatxFlags};
use rustix::io::Errno;

use super::super::error::{Error, Operation, Result};
use super::super::path::TreePath;
use super::super::types::{Entry, EntryKind, Extent, Metadata, Timestamp, Xattr};
use super::super::{ContentReader, ContentWriter, TreeReader as _};
use super::direct::Direct;
use super::{LocalTree, inspect, xattr};

/// What shows that a file changed: every write and every change of attributes moves the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    size: u64,
    modified: Timestamp,
    changed: Timestamp,
}

/// Up to this size a file that takes as much room as it is long is not searched for holes: to look
/// takes longer than to read what they may hold, above all on a mount.
const NOT_SEARCHED: u64 = 1 << 20;

/// Smaller files are read by way of the cache: it takes as long.
const READ_DIRECTLY: u64 = 1 << 20;

struct LocalContent {
    file: OwnedFd,
    tree: Arc<str>,
    path: TreePath,
    stamp: Stamp,
    /// Whether it is taken to have no holes.
    dense: bool,
    direct: Option<Direct>,
}

impl LocalTree {
    pub(super) fn open_content(&self, entry: &Entry) -> Result<Box<dyn ContentReader>> {
        let path = &entry.path;
        if entry.metadata.kind != EntryKind::Regular {
            return Err(Error::Kind {
                operation: Operation::Read,
                tree: self.describe(),
                path: path.clone(),
                kind: entry.metadata.kind,
            });
        }
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = self
            .open_below(path.as_bytes(), flags | OFlags::NOATIME, Mode::empty())
            .or_else(|errno| match errno {
                // Only the owner may leave the last access as it is.
                Errno::PERM => self.open_below(path.as_bytes(), flags, Mode::empty()),
                other => Err(other),
            })
            .map_err(|errno| self.error(Operation::Open, path, errno))?;
        let stamp = Stamp {
            size: entry.metadata.size,
            modified: entry.metadata.modified,
            changed: entry.changed,
        };
        let dense = stamp.size <= NOT_SEARCHED && entry.allocated >= stamp.size;
        let direct =
            (self.direct && stamp.size >= READ_DIRECTLY).then(|| Direct::begin(&file)).flatten();
        let (tree, path) = (Arc::clone(&self.described), path.clone());
        let content = LocalContent { file, tree, path, stamp, dense, direct };
        content.check_unchanged()?;
        if content.direct.is_none() && entry.metadata.size > 128 * 1024 {
            // A hint: where it is not taken nothing is lost.
            let _ = rustix::fs::fadvise(&content.file, 0, None, Advice::Sequential);
        }
        Ok(Box::new(content))
    }

    /// Creates a file, which is going to have `metadata` where they are known already.
    pub(super) fn create_content(
        &self,
        path: &TreePath,
        metadata: Option<&Metadata>,
    ) -> Result<Box<dyn ContentWriter>> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let bare = self.is_bare();
        let private = Mode::RUSR | Mode::WUSR;
        let mode = metadata.filter(|_| bare).and_then(mode_at_once).unwrap_or(private);
        let file = self
            .open_below(path.as_bytes(), flags, mode)
            .map_err(|errno| self.error(Operation::Create, path, errno))?;
        Ok(Box::new(LocalFile {
            file,
            tree: Arc::clone(&self.described),
            path: path.clone(),
            end: 0,
            sync: self.each_file,
            bare,
            left: self.left.clone(),
        }))
    }
}

impl LocalContent {
    fn error(&self, operation: Operation, errno: Errno) -> Error {
        Error::Io {
            operation,
            tree: self.tree.to_string(),
            path: self.path.clone(),
            source: errno.into(),
        }
    }

    fn seek(&self, position: SeekFrom) -> Result<Option<u64>> {
        match rustix::fs::seek(&self.file, position) {
            Ok(offset) => Ok(Some(offset)),
            Err(Errno::NXIO) => Ok(None),
            Err(errno) => Err(self.error(Operation::Read, errno)),
        }
    }
}

impl ContentReader for LocalContent {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            let at = offset.saturating_add(u64::try_from(filled).unwrap_or(u64::MAX));
            let rest = &mut buffer[filled..];
            let read = match &self.direct {
                Some(direct) => direct.read(&self.file, rest, at),
                None => rustix::io::pread(&self.file, rest, at),
            };
            match read {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(self.error(Operation::Read, errno)),
            }
        }
        Ok(filled)
    }

    fn next_data(&self, offset: u64) -> Result<Option<Extent>> {
        if offset >= self.stamp.size {
            return Ok(None);
        }
        if self.dense {
            return Ok(Some(offset..self.stamp.size));
        }
        match self.seek(SeekFrom::Data(offset)) {
            Ok(None) => Ok(None),
            Ok(Some(start)) => {
                let end = self.seek(SeekFrom::Hole(start))?.unwrap_or(self.stamp.size);
                Ok(Some(start..end.min(self.stamp.size)).filter(|extent| !extent.is_empty()))
            }
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                Ok(Some(offset..self.stamp.size))
            }
            Err(error) => Err(error),
        }
    }

    fn xattrs(&self) -> Result<Vec<Xattr>> {
        xattr::read_open(self.file.as_fd()).map_err(|errno| self.error(Operation::ReadXattr, errno))
    }

    fn check_unchanged(&self) -> Result<()> {
        let wanted = StatxFlags::TYPE | StatxFlags::SIZE | StatxFlags::MTIME | StatxFlags::CTIME;
        let stat = inspect::stat_some(self.file.as_fd(), b"", wanted)
            .map_err(|errno| self.error(Operation::Inspect, errno))?;
        let stamp = Stamp {
            size: stat.stx_size,
            modified: inspect::time(stat.stx_mtime),
            changed: inspect::time(stat.stx_ctime),
        };
        if stamp == self.stamp && inspect::kind(&stat).is_ok_and(|kind| kind == EntryKind::Regular)
        {
            Ok(())
        } else {
            Err(Error::Changed { tree: self.tree.to_string(), path: self.path.clone() })
        }
    }
}

struct LocalFile {
    file: OwnedFd,
    tree: Arc<str>,
    path: TreePath,
    /// Where the file ends so far.
    end: u64,
    sync: bool,
    /// Whether it is known to have inherited nothing.
    bare: bool,
    left: Option<Arc<AtomicU64>>,
}

/// The mode with which a file may be created at once, in a directory that is private: the one it
/// is going to have, where no change of its owner or of its ACL lies between.
fn mode_at_once(metadata: &Metadata) -> Option<Mode> {
    let private = 0o600;
    let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let plain = (metadata.uid, metadata.gid) == own
        && metadata.xattrs.is_empty()
        && metadata.mode & !0o777 == 0
        // Else it could not be opened again, where creating takes two steps.
        && metadata.mode & private == private;
    plain.then(|| Mode::from_raw_mode(metadata.mode))
}

impl LocalFile {
    fn error(&self, operation: Operation, errno: Errno) -> Error {
        Error::Io {
            operation,
            tree: self.tree.to_string(),
            path: self.path.clone(),
            source: errno.into(),
        }
    }
}

impl ContentWriter for LocalFile {
    fn write_at(&mut self, data: &[u8], offset: u64) -> Result<()> {
        let mut rest = data;
        let mut at = offset;
        while !rest.is_empty() {
            match rustix::io::pwrite(&self.file, rest, at) {
                Ok(0) => return Err(self.error(Operation::Write, Errno::IO)),
                Ok(count) => {
                    rest = &rest[count..];
                    at = at.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(self.error(Operation::Write, errno)),
            }
        }
        self.end = self.end.max(at);
        Ok(())
    }

    fn finish(self: Box<Self>, metadata: &Metadata) -> Result<()> {
        if self.end != metadata.size {
            rustix::fs::ftruncate(&self.file, metadata.size)
                .map_err(|errno| self.error(Operation::Write, errno))?;
        }
        let target = super::write::Target { fd: self.file.as_fd(), open: true, bare: self.bare };
        super::write::apply(target, metadata, self.left.as_deref())
            .map_err(|(operation, errno)| self.error(operation, errno))?;
        if self.sync {
            rustix::fs::fsync(&self.file).map_err(|errno| self.error(Operation::Sync, errno))?;
        }
        Ok(())
    }
}

//! Owns open and pinned files.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FallocateFlags, Mode, SeekFrom};
use rustix::io::Errno;

use super::{attributes, retry};
use crate::backing::{File, FileKind, SetTime, Stat, XattrMode};

/// A file of the operating system.
#[derive(Debug)]
pub(super) struct OsFile {
    descriptor: OwnedFd,
    /// Whether the descriptor is `O_PATH`.
    pinned: bool,
}

impl OsFile {
    pub(super) fn opened(descriptor: OwnedFd) -> Self {
        Self { descriptor, pinned: false }
    }

    pub(super) fn pinned(descriptor: OwnedFd) -> Self {
        Self { descriptor, pinned: true }
    }

    fn xattrs(&self) -> io::Result<attributes::Descriptor<'_>> {
        attributes::Descriptor::new(&self.descriptor, self.pinned)
    }

    fn seek(&self, to: SeekFrom) -> io::Result<Option<u64>> {
        match rustix::fs::seek(&self.descriptor, to) {
            Ok(offset) => Ok(Some(offset)),
            Err(Errno::NXIO) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl File for OsFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            let position = advance(offset, done)?;
            match rustix::io::pread(&self.descriptor, &mut buffer[done..], position) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(done)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let mut done = 0;
        while done < data.len() {
            let position = advance(offset, done)?;
            match rustix::io::pwrite(&self.descriptor, &data[done..], position) {
                // No filesystem should do so; going round for ever would be worse.
                Ok(0) => return Err(Errno::IO.into()),
                Ok(count) => done += count,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn reopen(&self) -> io::Result<Box<dyn File>> {
        if self.stat()?.kind != FileKind::Regular {
            return Err(Errno::NXIO.into());
        }
        Ok(Box::new(Self::opened(attributes::reopen(&self.descriptor)?)))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        Ok(retry(|| rustix::fs::ftruncate(&self.descriptor, len))?)
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        let mode = FallocateFlags::KEEP_SIZE;
        Ok(retry(|| rustix::fs::fallocate(&self.descriptor, mode, offset, len))?)
    }

    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(retry(|| rustix::fs::fallocate(&self.descriptor, mode, offset, len))?)
    }

    fn seek_data(&self, offset: u64) -> io::Result<Option<u64>> {
        self.seek(SeekFrom::Data(offset))
    }

    fn seek_hole(&self, offset: u64) -> io::Result<Option<u64>> {
        self.seek(SeekFrom::Hole(offset))
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(retry(|| rustix::fs::fdatasync(&self.descriptor))?)
    }

    fn sync_all(&self) -> io::Result<()> {
        Ok(retry(|| rustix::fs::fsync(&self.descriptor))?)
    }

    fn stat(&self) -> io::Result<Stat> {
        attributes::stat(&rustix::fs::fstat(&self.descriptor)?)
    }

    fn set_mode(&self, mode: u32) -> io::Result<()> {
        let mode = Mode::from_raw_mode(mode);
        if self.pinned {
            return attributes::set_mode_of_pinned(&self.descriptor, mode);
        }
        Ok(rustix::fs::fchmod(&self.descriptor, mode)?)
    }

    fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        let (uid, gid) = attributes::owner(uid, gid)?;
        if self.pinned {
            return Ok(rustix::fs::chownat(&self.descriptor, c"", uid, gid, AtFlags::EMPTY_PATH)?);
        }
        Ok(rustix::fs::fchown(&self.descriptor, uid, gid)?)
    }

    fn set_times(&self, accessed: SetTime, modified: SetTime) -> io::Result<()> {
        let times = attributes::timestamps(accessed, modified);
        if self.pinned {
            return attributes::set_times_of_pinned(&self.descriptor, &times);
        }
        Ok(rustix::fs::futimens(&self.descriptor, &times)?)
    }

    fn get_xattr(&self, attribute: &[u8]) -> io::Result<Vec<u8>> {
        self.xattrs()?.get(attribute)
    }

    fn list_xattr(&self) -> io::Result<Vec<Vec<u8>>> {
        self.xattrs()?.list()
    }

    fn set_xattr(&self, attribute: &[u8], value: &[u8], mode: XattrMode) -> io::Result<()> {
        self.xattrs()?.set(attribute, value, mode)
    }

    fn remove_xattr(&self, attribute: &[u8]) -> io::Result<()> {
        self.xattrs()?.remove(attribute)
    }
}

/// `offset + done`, refused past what an offset can be.
fn advance(offset: u64, done: usize) -> io::Result<u64> {
    u64::try_from(done)
        .ok()
        .and_then(|done| offset.checked_add(done))
        .ok_or_else(|| Errno::INVAL.into())
}

//! Owns the handles of files in memory.

use std::io;

use rustix::io::Errno;

use super::content::Content;
use super::operations::{ALLOCATION_MAX, FILE_MAX};
use super::{Change, Event, Handle};
use crate::backing::{File, FileKind, SetTime, Stat, XattrMode};

/// What a handle allows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Read,
    ReadWrite,
    Pinned,
}

/// An open or pinned file.
pub(super) struct MemoryFile {
    pub(super) handle: Handle,
    pub(super) mode: Mode,
}

/// The largest offset of the kernel.
const OFFSET_MAX: u64 = i64::MAX.unsigned_abs();

impl MemoryFile {
    fn check_open(&self) -> io::Result<()> {
        if self.mode == Mode::Pinned { Err(Errno::BADF.into()) } else { Ok(()) }
    }

    fn check_writable(&self) -> io::Result<()> {
        if self.mode == Mode::ReadWrite { Ok(()) } else { Err(Errno::BADF.into()) }
    }

    fn with_content<T>(&self, read: impl FnOnce(&Content) -> T) -> io::Result<T> {
        self.check_open()?;
        let shared = self.handle.lock();
        Ok(read(shared.state.content(self.handle.id).ok_or(Errno::BADF)?))
    }

    fn apply(&self, change: Change) {
        self.handle.lock().apply(change);
    }

    fn sync(&self, data_only: bool) -> io::Result<()> {
        self.check_open()?;
        self.handle.lock().sync(Event::Sync { id: self.handle.id, data_only });
        Ok(())
    }
}

/// Refuses ranges as `fallocate(2)` does.
fn check_range(offset: u64, len: u64) -> io::Result<()> {
    if len == 0 || len > OFFSET_MAX || offset > OFFSET_MAX {
        return Err(Errno::INVAL.into());
    }
    if offset + len > FILE_MAX {
        return Err(Errno::FBIG.into());
    }
    Ok(())
}

impl File for MemoryFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if offset > OFFSET_MAX {
            return Err(Errno::INVAL.into());
        }
        self.with_content(|content| content.read(buffer, offset))
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        if offset > OFFSET_MAX {
            return Err(Errno::INVAL.into());
        }
        self.check_writable()?;
        let len = u64::try_from(data.len()).unwrap_or(u64::MAX);
        if offset.saturating_add(len) > FILE_MAX {
            return Err(Errno::FBIG.into());
        }
        self.apply(Change::Write { id: self.handle.id, offset, data: data.into() });
        Ok(())
    }

    fn reopen(&self) -> io::Result<Box<dyn File>> {
        let mut shared = self.handle.lock();
        if shared.inode(self.handle.id)?.kind != FileKind::Regular {
            return Err(Errno::NXIO.into());
        }
        let handle = Handle::new(&self.handle.shared, &mut shared, self.handle.id);
        Ok(Box::new(Self { handle, mode: Mode::ReadWrite }))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if len > OFFSET_MAX {
            return Err(Errno::INVAL.into());
        }
        self.check_open()?;
        if self.mode == Mode::Read {
            return Err(Errno::INVAL.into());
        }
        if len > FILE_MAX {
            return Err(Errno::FBIG.into());
        }
        self.apply(Change::SetLen { id: self.handle.id, len });
        Ok(())
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.check_open()?;
        check_range(offset, len).and_then(|()| self.check_writable())?;
        if len > ALLOCATION_MAX {
            return Err(Errno::NOSPC.into());
        }
        self.apply(Change::Allocate { id: self.handle.id, offset, len });
        Ok(())
    }

    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        self.check_open()?;
        check_range(offset, len).and_then(|()| self.check_writable())?;
        self.apply(Change::Punch { id: self.handle.id, offset, len });
        Ok(())
    }

    fn seek_data(&self, offset: u64) -> io::Result<Option<u64>> {
        self.with_content(|content| content.seek_data(offset))
    }

    fn seek_hole(&self, offset: u64) -> io::Result<Option<u64>> {
        self.with_content(|content| content.seek_hole(offset))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync(true)
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync(false)
    }

    fn stat(&self) -> io::Result<Stat> {
        self.handle.lock().stat(self.handle.id)
    }

    fn set_mode(&self, mode: u32) -> io::Result<()> {
        self.handle.lock().set_mode(self.handle.id, mode)
    }

    fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        self.handle.lock().set_owner(self.handle.id, uid, gid)
    }

    fn set_times(&self, accessed: SetTime, modified: SetTime) -> io::Result<()> {
        self.handle.lock().set_times(self.handle.id, accessed, modified)
    }

    fn get_xattr(&self, attribute: &[u8]) -> io::Result<Vec<u8>> {
        self.handle.lock().get_xattr(self.handle.id, attribute)
    }

    fn list_xattr(&self) -> io::Result<Vec<Vec<u8>>> {
        self.handle.lock().list_xattr(self.handle.id)
    }

    fn set_xattr(&self, attribute: &[u8], value: &[u8], mode: XattrMode) -> io::Result<()> {
        self.handle.lock().set_xattr(self.handle.id, attribute, value, mode)
    }

    fn remove_xattr(&self, attribute: &[u8]) -> io::Result<()> {
        self.handle.lock().remove_xattr(self.handle.id, attribute)
    }
}

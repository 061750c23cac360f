//! Owns the handles that may fail.

use std::any::Any;
use std::io;

use super::{Faults, Operation};
use crate::backing::{
    Access, Directory, File, FileKind, FilesystemStat, LockOutcome, RawEntry, RenameMode, SetTime,
    Stat, XattrMode,
};

/// A directory that fails as its [`Faults`] say.
pub struct FaultDirectory {
    faults: Faults,
    inner: Box<dyn Directory>,
}

impl FaultDirectory {
    pub(super) fn new(faults: Faults, inner: Box<dyn Directory>) -> Self {
        Self { faults, inner }
    }

    fn file(&self, inner: Box<dyn File>) -> Box<dyn File> {
        Box::new(FaultFile { faults: self.faults.clone(), inner })
    }
}

/// The directory behind one of ours, so that the inner one knows its own kind.
fn behind(directory: &dyn Directory) -> &dyn Directory {
    directory.as_any().downcast_ref().map_or(directory, |ours: &FaultDirectory| &*ours.inner)
}

impl Directory for FaultDirectory {
    fn stat(&self, name: &[u8]) -> io::Result<Stat> {
        self.faults.check(Operation::Stat)?;
        self.inner.stat(name)
    }

    fn open_directory(&self, name: &[u8]) -> io::Result<Box<dyn Directory>> {
        self.faults.check(Operation::OpenDirectory)?;
        let opened = self.inner.open_directory(name)?;
        Ok(Box::new(FaultDirectory::new(self.faults.clone(), opened)))
    }

    fn open_file(&self, name: &[u8], access: Access) -> io::Result<Box<dyn File>> {
        self.faults.check(Operation::OpenFile)?;
        let opened = self.inner.open_file(name, access)?;
        Ok(self.file(opened))
    }

    fn create_file(&self, name: &[u8], mode: u32) -> io::Result<Box<dyn File>> {
        self.faults.check(Operation::CreateFile)?;
        let opened = self.inner.create_file(name, mode)?;
        Ok(self.file(opened))
    }

    fn pin(&self, name: &[u8]) -> io::Result<Box<dyn File>> {
        self.faults.check(Operation::Pin)?;
        let opened = self.inner.pin(name)?;
        Ok(self.file(opened))
    }

    fn make_directory(&self, name: &[u8], mode: u32) -> io::Result<()> {
        self.faults.check(Operation::MakeDirectory)?;
        self.inner.make_directory(name, mode)
    }

    fn make_symlink(&self, target: &[u8], name: &[u8]) -> io::Result<()> {
        self.faults.check(Operation::MakeSymlink)?;
        self.inner.make_symlink(target, name)
    }

    fn make_node(&self, name: &[u8], kind: FileKind, mode: u32, rdev: u64) -> io::Result<()> {
        self.faults.check(Operation::MakeNode)?;
        self.inner.make_node(name, kind, mode, rdev)
    }

    fn read_link(&self, name: &[u8]) -> io::Result<Vec<u8>> {
        self.faults.check(Operation::ReadLink)?;
        self.inner.read_link(name)
    }

    fn hard_link(
        &self,
        name: &[u8],
        target_directory: &dyn Directory,
        target_name: &[u8],
    ) -> io::Result<()> {
        self.faults.check(Operation::HardLink)?;
        self.inner.hard_link(name, behind(target_directory), target_name)
    }

    fn rename(
        &self,
        name: &[u8],
        target_directory: &dyn Directory,
        target_name: &[u8],
        mode: RenameMode,
    ) -> io::Result<()> {
        self.faults.check(Operation::Rename)?;
        self.faults.watched(Operation::Rename, || {
            self.inner.rename(name, behind(target_directory), target_name, mode)
        })
    }

    fn unlink(&self, name: &[u8]) -> io::Result<()> {
        self.faults.check(Operation::Unlink)?;
        self.faults.watched(Operation::Unlink, || self.inner.unlink(name))
    }

    fn remove_directory(&self, name: &[u8]) -> io::Result<()> {
        self.faults.check(Operation::RemoveDirectory)?;
        self.inner.remove_directory(name)
    }

    fn set_mode(&self, name: &[u8], mode: u32) -> io::Result<()> {
        self.faults.check(Operation::SetAttributes)?;
        self.inner.set_mode(name, mode)
    }

    fn set_owner(&self, name: &[u8], uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        self.faults.check(Operation::SetAttributes)?;
        self.inner.set_owner(name, uid, gid)
    }

    fn set_times(&self, name: &[u8], accessed: SetTime, modified: SetTime) -> io::Result<()> {
        self.faults.check(Operation::SetAttributes)?;
        self.inner.set_times(name, accessed, modified)
    }

    fn get_xattr(&self, name: &[u8], attribute: &[u8]) -> io::Result<Vec<u8>> {
        self.faults.check(Operation::ReadXattr)?;
        self.inner.get_xattr(name, attribute)
    }

    fn list_xattr(&self, name: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        self.faults.check(Operation::ReadXattr)?;
        self.inner.list_xattr(name)
    }

    fn set_xattr(
        &self,
        name: &[u8],
        attribute: &[u8],
        value: &[u8],
        mode: XattrMode,
    ) -> io::Result<()> {
        self.faults.check(Operation::ChangeXattr)?;
        self.inner.set_xattr(name, attribute, value, mode)
    }

    fn remove_xattr(&self, name: &[u8], attribute: &[u8]) -> io::Result<()> {
        self.faults.check(Operation::ChangeXattr)?;
        self.inner.remove_xattr(name, attribute)
    }

    fn read_entries(
        &self,
        cookie: u64,
        sink: &mut dyn FnMut(RawEntry<'_>) -> bool,
    ) -> io::Result<()> {
        self.faults.check(Operation::ReadEntries)?;
        self.inner.read_entries(cookie, sink)
    }

    fn sync(&self) -> io::Result<()> {
        self.faults.check(Operation::SyncDirectory)?;
        self.inner.sync()
    }

    fn sync_filesystem(&self) -> io::Result<bool> {
        self.faults.check(Operation::SyncFilesystem)?;
        self.inner.sync_filesystem()
    }

    fn filesystem_stat(&self) -> io::Result<FilesystemStat> {
        self.faults.check(Operation::FilesystemStat)?;
        self.inner.filesystem_stat()
    }

    fn lock(&self, name: &[u8], owner: &[u8]) -> io::Result<LockOutcome> {
        self.faults.check(Operation::Lock)?;
        self.inner.lock(name, owner)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A file that fails as its [`Faults`] say.
struct FaultFile {
    faults: Faults,
    inner: Box<dyn File>,
}

impl File for FaultFile {
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        if let Some(failure) = self.faults.failure(Operation::Write) {
            if failure.partial {
                self.inner.write_at(&data[..data.len() / 2], offset)?;
            }
            return Err(failure.error);
        }
        let len = u64::try_from(data.len()).unwrap_or(u64::MAX);
        self.faults.before_change(&*self.inner, offset, len)?;
        let missing = self.faults.take_space(&*self.inner, offset.saturating_add(len), false)?;
        if missing == 0 {
            return self.faults.watched(Operation::Write, || self.inner.write_at(data, offset));
        }
        let fits = data.len().saturating_sub(usize::try_from(missing).unwrap_or(usize::MAX));
        self.inner.write_at(&data[..fits], offset)?;
        Err(io::Error::from_raw_os_error(libc::ENOSPC))
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.faults.check(Operation::Allocate)?;
        if self.faults.take_space(&*self.inner, offset.saturating_add(len), true)? > 0 {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        self.inner.allocate(offset, len)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.faults.check(Operation::Read)?;
        self.inner.read_at(buffer, offset)
    }

    fn reopen(&self) -> io::Result<Box<dyn File>> {
        self.faults.check(Operation::OpenFile)?;
        let opened = self.inner.reopen()?;
        Ok(Box::new(FaultFile { faults: self.faults.clone(), inner: opened }))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.faults.check(Operation::SetLen)?;
        self.inner.set_len(len)
    }

    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        self.faults.check(Operation::PunchHole)?;
        let within = self.inner.stat()?.size.saturating_sub(offset).min(len);
        self.faults.before_change(&*self.inner, offset, within)?;
        self.inner.punch_hole(offset, len)
    }

    fn seek_data(&self, offset: u64) -> io::Result<Option<u64>> {
        self.faults.check(Operation::Seek)?;
        self.inner.seek_data(offset)
    }

    fn seek_hole(&self, offset: u64) -> io::Result<Option<u64>> {
        self.faults.check(Operation::Seek)?;
        self.inner.seek_hole(offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.faults.sync(Operation::SyncData, &*self.inner)?;
        self.faults.watched(Operation::SyncData, || self.inner.sync_data())
    }

    fn sync_all(&self) -> io::Result<()> {
        self.faults.sync(Operation::SyncAll, &*self.inner)?;
        self.inner.sync_all()
    }

    fn stat(&self) -> io::Result<Stat> {
        self.faults.check(Operation::Stat)?;
        self.inner.stat()
    }

    fn set_mode(&self, mode: u32) -> io::Result<()> {
        self.faults.check(Operation::SetAttributes)?;
        self.inner.set_mode(mode)
    }

    fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        self.faults.check(Operation::SetAttributes)?;
        self.inner.set_owner(uid, gid)
    }

    fn set_times(&self, accessed: SetTime, modified: SetTime) -> io::Result<()> {
        self.faults.check(Operation::SetAttributes)?;
        self.inner.set_times(accessed, modified)
    }

    fn get_xattr(&self, attribute: &[u8]) -> io::Result<Vec<u8>> {
        self.faults.check(Operation::ReadXattr)?;
        self.inner.get_xattr(attribute)
    }

    fn list_xattr(&self) -> io::Result<Vec<Vec<u8>>> {
        self.faults.check(Operation::ReadXattr)?;
        self.inner.list_xattr()
    }

    fn set_xattr(&self, attribute: &[u8], value: &[u8], mode: XattrMode) -> io::Result<()> {
        self.faults.check(Operation::ChangeXattr)?;
        self.inner.set_xattr(attribute, value, mode)
    }

    fn remove_xattr(&self, attribute: &[u8]) -> io::Result<()> {
        self.faults.check(Operation::ChangeXattr)?;
        self.inner.remove_xattr(attribute)
    }
}

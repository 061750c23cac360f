//! The operations of a mounted vault, by inode number.

use super::error::{Error, Result};
use super::types::{
    Attributes, Caller, DirectoryEntry, Entry, FallocateMode, InodeNumber, SeekWhence,
    SetAttributes,
};
use crate::backing::{Access, FilesystemStat, RenameMode, XattrMode};

/// A mounted vault. All operations may be called from several threads at once.
pub struct FileSystem {
    _private: (),
}

#[expect(unused_variables, reason = "bodies follow")]
impl FileSystem {
    /// Resolves a name; counts one lookup.
    pub fn lookup(&self, parent: InodeNumber, name: &[u8]) -> Result<Entry> {
        Err(Error::NotSupported)
    }
    /// Gives back `count` lookups.
    pub fn forget(&self, ino: InodeNumber, count: u64) {}
    /// `stat(2)`.
    pub fn attributes(&self, ino: InodeNumber) -> Result<Attributes> {
        Err(Error::NotSupported)
    }
    /// `chmod`, `chown`, `truncate`, `utimensat` in one; the new attributes.
    pub fn set_attributes(&self, ino: InodeNumber, changes: &SetAttributes) -> Result<Attributes> {
        Err(Error::NotSupported)
    }
    /// The target of a symlink.
    pub fn read_link(&self, ino: InodeNumber) -> Result<Vec<u8>> {
        Err(Error::NotSupported)
    }
    /// Creates a regular file and opens it (pair with [`Self::release`]); counts one lookup.
    pub fn create(
        &self,
        caller: &Caller,
        parent: InodeNumber,
        name: &[u8],
        mode: u32,
    ) -> Result<Entry> {
        Err(Error::NotSupported)
    }
    /// Creates a file of any kind but directory and symlink; `mode` with its type bits. Counts
    /// one lookup.
    pub fn make_node(
        &self,
        caller: &Caller,
        parent: InodeNumber,
        name: &[u8],
        mode: u32,
        rdev: u32,
    ) -> Result<Entry> {
        Err(Error::NotSupported)
    }
    /// Creates a directory; counts one lookup.
    pub fn make_directory(
        &self,
        caller: &Caller,
        parent: InodeNumber,
        name: &[u8],
        mode: u32,
    ) -> Result<Entry> {
        Err(Error::NotSupported)
    }
    /// Creates a symlink; counts one lookup.
    pub fn make_symlink(
        &self,
        caller: &Caller,
        parent: InodeNumber,
        name: &[u8],
        target: &[u8],
    ) -> Result<Entry> {
        Err(Error::NotSupported)
    }
    /// Creates a hard link; counts one lookup.
    pub fn hard_link(&self, ino: InodeNumber, parent: InodeNumber, name: &[u8]) -> Result<Entry> {
        Err(Error::NotSupported)
    }
    /// Removes a name of anything but a directory.
    pub fn unlink(&self, parent: InodeNumber, name: &[u8]) -> Result<()> {
        Err(Error::NotSupported)
    }
    /// Removes an empty directory.
    pub fn remove_directory(&self, parent: InodeNumber, name: &[u8]) -> Result<()> {
        Err(Error::NotSupported)
    }
    /// Renames.
    pub fn rename(
        &self,
        parent: InodeNumber,
        name: &[u8],
        new_parent: InodeNumber,
        new_name: &[u8],
        mode: RenameMode,
    ) -> Result<()> {
        Err(Error::NotSupported)
    }
    /// Opens a regular file, checking that the backing file can be opened so (pair with
    /// [`Self::release`]). Where a transport sends no opens, reads and writes work without.
    pub fn open(&self, ino: InodeNumber, access: Access) -> Result<()> {
        Err(Error::NotSupported)
    }
    /// Ends what [`Self::open`] or [`Self::create`] began.
    pub fn release(&self, ino: InodeNumber) {}
    /// Reads into `buffer`; the count, short only at the end of the file.
    pub fn read(&self, ino: InodeNumber, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        Err(Error::NotSupported)
    }
    /// Writes all of `data`.
    pub fn write(&self, ino: InodeNumber, offset: u64, data: &[u8]) -> Result<()> {
        Err(Error::NotSupported)
    }
    /// `fsync(2)`, or `fdatasync(2)` with `data_only`.
    pub fn sync(&self, ino: InodeNumber, data_only: bool) -> Result<()> {
        Err(Error::NotSupported)
    }
    /// `fsync(2)` of a directory.
    pub fn sync_directory(&self, ino: InodeNumber) -> Result<()> {
        Err(Error::NotSupported)
    }
    /// `fallocate(2)`.
    pub fn fallocate(
        &self,
        ino: InodeNumber,
        mode: FallocateMode,
        offset: u64,
        len: u64,
    ) -> Result<()> {
        Err(Error::NotSupported)
    }
    /// `lseek(2)` for data and holes.
    pub fn seek(&self, ino: InodeNumber, offset: u64, whence: SeekWhence) -> Result<u64> {
        Err(Error::NotSupported)
    }
    /// Lists a directory from `cookie` (0: from the start) until `sink` answers `false`; an entry
    /// for which it does is listed again next time. With `attributes`, each entry comes with its
    /// [`Entry`] and counts one lookup when taken.
    pub fn read_directory(
        &self,
        ino: InodeNumber,
        cookie: u64,
        attributes: bool,
        sink: &mut dyn FnMut(DirectoryEntry<'_>) -> bool,
    ) -> Result<()> {
        Err(Error::NotSupported)
    }
    /// The value of an extended attribute.
    pub fn get_xattr(&self, ino: InodeNumber, name: &[u8]) -> Result<Vec<u8>> {
        Err(Error::NotSupported)
    }
    /// The names of the extended attributes.
    pub fn list_xattr(&self, ino: InodeNumber) -> Result<Vec<Vec<u8>>> {
        Err(Error::NotSupported)
    }
    /// Sets an extended attribute.
    pub fn set_xattr(
        &self,
        ino: InodeNumber,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
    ) -> Result<()> {
        Err(Error::NotSupported)
    }
    /// Removes an extended attribute.
    pub fn remove_xattr(&self, ino: InodeNumber, name: &[u8]) -> Result<()> {
        Err(Error::NotSupported)
    }
    /// `statvfs(3)`, of the filesystem below, with plain name lengths.
    pub fn filesystem_stat(&self) -> Result<FilesystemStat> {
        Err(Error::NotSupported)
    }
    /// Makes everything durable.
    pub fn sync_all(&self) -> Result<()> {
        Err(Error::NotSupported)
    }
    /// Makes everything durable and ends cleanly: the journal is emptied and the lock given up.
    pub fn close(self) -> Result<()> {
        Err(Error::NotSupported)
    }
}

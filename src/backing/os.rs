//! Owns the ciphertext directory on the operating system: system calls relative to an open
//! directory, never following a symlink that lies in it, never blocking on a FIFO. It must know
//! nothing of what the names and bytes mean.
//!
//! - A directory is one descriptor, for its entries, its listing and its `fsync`.
//! - A name is one component, which keeps a planted symlink from leading out of the vault. Where
//!   the trait allows one `/` (`record in a directory just made`), only the last component is
//!   protected: whoever may plant a symlink for the first can have an entry of the record's name
//!   made or removed elsewhere, and nothing of another name.
//! - Attributes that have no system call relative to a directory on the kernels of today (xattrs,
//!   modes without following, everything of a pinned file) go through `/proc/self/fd`. Where
//!   `/proc` is not mounted those operations fail with `EOPNOTSUPP`, and the log says why.

mod attributes;
mod file;
mod lock;

use std::any::Any;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use parking_lot::Mutex;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, RenameFlags, SeekFrom};
use rustix::io::Errno;

use self::file::OsFile;
use super::{
    Access, Directory, File, FileKind, FilesystemStat, LockOutcome, RawEntry, RenameMode, SetTime,
    Stat, XattrMode, names,
};

/// How every directory is opened.
const DIRECTORY_FLAGS: OFlags = OFlags::DIRECTORY.union(OFlags::CLOEXEC);
/// How every other file is opened: a FIFO must not block, a symlink not be followed.
const FILE_FLAGS: OFlags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

/// A directory listing is read in pieces that grow from the first of these sizes to the second,
/// in bytes: who takes only a few entries should not pay for a thousand.
const LISTING_BUFFER: (usize, usize) = (16 << 10, 64 << 10);

/// An open directory of the operating system.
#[derive(Debug)]
pub struct OsDirectory {
    /// Open for reading; `O_PATH` where this process may search the directory but not read it.
    descriptor: OwnedFd,
    /// Held while the descriptor's position is set and used, since listings share it.
    listing: Mutex<()>,
}

impl OsDirectory {
    /// Opens the directory at `path`, which may be, or lead through, symlinks: it is the user's.
    ///
    /// # Errors
    ///
    /// Those of `open(2)`.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::open_at(rustix::fs::CWD, path, OFlags::empty())
    }

    /// Makes the directory at `path` with `mode`, and opens it.
    ///
    /// # Errors
    ///
    /// Those of `mkdir(2)` and `open(2)`; `EEXIST` where the path is taken.
    pub fn create(path: &Path, mode: u32) -> io::Result<Self> {
        rustix::fs::mkdir(path, Mode::from_raw_mode(mode))?;
        Self::open(path)
    }

    fn open_at(
        directory: impl AsFd,
        path: impl rustix::path::Arg + Copy,
        flags: OFlags,
    ) -> io::Result<Self> {
        let flags = DIRECTORY_FLAGS | flags;
        let descriptor = match open(&directory, path, flags | OFlags::RDONLY) {
            Err(Errno::ACCESS) => open(&directory, path, flags | OFlags::PATH),
            other => other,
        }?;
        Ok(Self { descriptor, listing: Mutex::new(()) })
    }

    fn open_entry(&self, name: &[u8], flags: OFlags, mode: u32) -> io::Result<OwnedFd> {
        Ok(retry(|| {
            rustix::fs::openat(
                &self.descriptor,
                name,
                FILE_FLAGS | flags,
                Mode::from_raw_mode(mode),
            )
        })?)
    }
}

impl Directory for OsDirectory {
    fn stat(&self, name: &[u8]) -> io::Result<Stat> {
        let name = names::component(name)?;
        let stat = rustix::fs::statat(&self.descriptor, name, AtFlags::SYMLINK_NOFOLLOW)?;
        attributes::stat(&stat)
    }

    fn open_directory(&self, name: &[u8]) -> io::Result<Box<dyn Directory>> {
        let opened = Self::open_at(&self.descriptor, names::component(name)?, OFlags::NOFOLLOW)?;
        Ok(Box::new(opened))
    }

    fn open_file(&self, name: &[u8], access: Access) -> io::Result<Box<dyn File>> {
        let flags = match access {
            Access::Read => OFlags::RDONLY,
            Access::ReadWrite => OFlags::RDWR,
        };
        let descriptor = self.open_entry(names::component(name)?, flags, 0)?;
        let stat = rustix::fs::fstat(&descriptor)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Ok(Box::new(OsFile::opened(descriptor))),
            FileType::Directory => Err(Errno::ISDIR.into()),
            _ => Err(Errno::NXIO.into()),
        }
    }

    fn create_file(&self, name: &[u8], mode: u32) -> io::Result<Box<dyn File>> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let descriptor = self.open_entry(names::component(name)?, flags, mode)?;
        Ok(Box::new(OsFile::opened(descriptor)))
    }

    fn pin(&self, name: &[u8]) -> io::Result<Box<dyn File>> {
        let descriptor = self.open_entry(names::component(name)?, OFlags::PATH, 0)?;
        Ok(Box::new(OsFile::pinned(descriptor)))
    }

    fn make_directory(&self, name: &[u8], mode: u32) -> io::Result<()> {
        let mode = Mode::from_raw_mode(mode);
        Ok(rustix::fs::mkdirat(&self.descriptor, names::component(name)?, mode)?)
    }

    fn make_symlink(&self, target: &[u8], name: &[u8]) -> io::Result<()> {
        names::one_or_two_components(name)?;
        Ok(rustix::fs::symlinkat(target, &self.descriptor, name)?)
    }

    fn make_node(&self, name: &[u8], kind: FileKind, mode: u32, rdev: u64) -> io::Result<()> {
        let kind = match kind {
            FileKind::Fifo => FileType::Fifo,
            FileKind::Socket => FileType::Socket,
            FileKind::CharacterDevice => FileType::CharacterDevice,
            FileKind::BlockDevice => FileType::BlockDevice,
            FileKind::Regular | FileKind::Directory | FileKind::Symlink => {
                return Err(Errno::INVAL.into());
            }
        };
        let mode = Mode::from_raw_mode(mode);
        Ok(rustix::fs::mknodat(&self.descriptor, names::component(name)?, kind, mode, rdev)?)
    }

    fn read_link(&self, name: &[u8]) -> io::Result<Vec<u8>> {
        names::one_or_two_components(name)?;
        // Most targets fit the first buffer; rustix would grow a vector, and trim it, for each.
        let mut buffer = [MaybeUninit::uninit(); 1024];
        let (target, rest) = rustix::fs::readlinkat_raw(&self.descriptor, name, &mut buffer)?;
        if !rest.is_empty() {
            return Ok(target.to_vec());
        }
        let whole = rustix::fs::readlinkat(&self.descriptor, name, Vec::with_capacity(4096))?;
        Ok(whole.into_bytes())
    }

    fn hard_link(
        &self,
        name: &[u8],
        target_directory: &dyn Directory,
        target_name: &[u8],
    ) -> io::Result<()> {
        let (name, target_name) = (names::component(name)?, names::component(target_name)?);
        let target = &same_kind(target_directory)?.descriptor;
        Ok(rustix::fs::linkat(&self.descriptor, name, target, target_name, AtFlags::empty())?)
    }

    fn rename(
        &self,
        name: &[u8],
        target_directory: &dyn Directory,
        target_name: &[u8],
        mode: RenameMode,
    ) -> io::Result<()> {
        let (name, target_name) = (names::component(name)?, names::component(target_name)?);
        let target = &same_kind(target_directory)?.descriptor;
        let flags = match mode {
            RenameMode::Replace => {
                return Ok(rustix::fs::renameat(&self.descriptor, name, target, target_name)?);
            }
            RenameMode::NoReplace => RenameFlags::NOREPLACE,
            RenameMode::Exchange => RenameFlags::EXCHANGE,
        };
        match rustix::fs::renameat_with(&self.descriptor, name, target, target_name, flags) {
            // Filesystems without the mode (NFS, older ZFS) say EINVAL, kernels without the call
            // ENOSYS. A vault has a single owner, so nobody takes the name between the two calls.
            Err(Errno::INVAL | Errno::NOSYS) if mode == RenameMode::NoReplace => {
                match rustix::fs::statat(target, target_name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(_) => Err(Errno::EXIST.into()),
                    Err(Errno::NOENT) => {
                        Ok(rustix::fs::renameat(&self.descriptor, name, target, target_name)?)
                    }
                    Err(error) => Err(error.into()),
                }
            }
            other => Ok(other?),
        }
    }

    fn unlink(&self, name: &[u8]) -> io::Result<()> {
        names::one_or_two_components(name)?;
        Ok(rustix::fs::unlinkat(&self.descriptor, name, AtFlags::empty())?)
    }

    fn remove_directory(&self, name: &[u8]) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.descriptor, names::component(name)?, AtFlags::REMOVEDIR)?)
    }

    fn set_mode(&self, name: &[u8], mode: u32) -> io::Result<()> {
        let mode = Mode::from_raw_mode(mode);
        // fchmodat2(2), which does not follow, came with Linux 6.6.
        let pinned = self.open_entry(names::component(name)?, OFlags::PATH, 0)?;
        attributes::set_mode_of_pinned(&pinned, mode)
    }

    fn set_owner(&self, name: &[u8], uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        let name = names::component(name)?;
        let (uid, gid) = attributes::owner(uid, gid)?;
        Ok(rustix::fs::chownat(&self.descriptor, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    fn set_times(&self, name: &[u8], accessed: SetTime, modified: SetTime) -> io::Result<()> {
        let name = names::component(name)?;
        let times = attributes::timestamps(accessed, modified);
        Ok(rustix::fs::utimensat(&self.descriptor, name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    fn get_xattr(&self, name: &[u8], attribute: &[u8]) -> io::Result<Vec<u8>> {
        attributes::Entry::new(&self.descriptor, names::component(name)?)?.get(attribute)
    }

    fn list_xattr(&self, name: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        attributes::Entry::new(&self.descriptor, names::component(name)?)?.list()
    }

    fn set_xattr(
        &self,
        name: &[u8],
        attribute: &[u8],
        value: &[u8],
        mode: XattrMode,
    ) -> io::Result<()> {
        attributes::Entry::new(&self.descriptor, names::component(name)?)?
            .set(attribute, value, mode)
    }

    fn remove_xattr(&self, name: &[u8], attribute: &[u8]) -> io::Result<()> {
        attributes::Entry::new(&self.descriptor, names::component(name)?)?.remove(attribute)
    }

    fn read_entries(
        &self,
        cookie: u64,
        sink: &mut dyn FnMut(RawEntry<'_>) -> bool,
    ) -> io::Result<()> {
        let (first, largest) = LISTING_BUFFER;
        let mut buffer = [MaybeUninit::uninit(); LISTING_BUFFER.1];
        let mut size = first;
        let mut cookie = cookie;
        loop {
            let mut piece = RawDir::new(&self.descriptor, &mut buffer[..size]);
            let mut first_of_piece = true;
            while first_of_piece || !piece.is_buffer_empty() {
                // The lock is not held while the sink runs: it may list this directory itself.
                let guard = first_of_piece.then(|| self.listing.lock());
                if guard.is_some() {
                    // Also where the position is right already: some filesystems (btrfs, tmpfs)
                    // show entries made after the directory was opened only after such a call.
                    rustix::fs::seek(&self.descriptor, SeekFrom::Start(cookie))?;
                }
                first_of_piece = false;
                let entry = match piece.next() {
                    None => return Ok(()),
                    Some(entry) => entry?,
                };
                drop(guard);
                cookie = entry.next_entry_cookie();
                let taken = sink(RawEntry {
                    name: entry.file_name().to_bytes(),
                    ino: entry.ino(),
                    kind: attributes::kind(entry.file_type()),
                    next_cookie: cookie,
                });
                if !taken {
                    return Ok(());
                }
            }
            size = (size * 2).min(largest);
        }
    }

    fn sync(&self) -> io::Result<()> {
        Ok(retry(|| rustix::fs::fsync(&self.descriptor))?)
    }

    fn sync_filesystem(&self) -> io::Result<bool> {
        let statfs = rustix::fs::fstatfs(&self.descriptor)?;
        if !attributes::syncfs_is_reliable(&statfs) {
            return Ok(false);
        }
        retry(|| rustix::fs::syncfs(&self.descriptor))?;
        Ok(true)
    }

    fn filesystem_stat(&self) -> io::Result<FilesystemStat> {
        let stat = rustix::fs::fstatvfs(&self.descriptor)?;
        Ok(FilesystemStat {
            block_size: stat.f_frsize,
            blocks: stat.f_blocks,
            blocks_free: stat.f_bfree,
            blocks_available: stat.f_bavail,
            files: stat.f_files,
            files_free: stat.f_ffree,
            name_max: stat.f_namemax,
        })
    }

    fn lock(&self, name: &[u8], owner: &[u8]) -> io::Result<LockOutcome> {
        lock::take(&self.descriptor, names::component(name)?, owner)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn open(
    directory: impl AsFd,
    path: impl rustix::path::Arg + Copy,
    flags: OFlags,
) -> rustix::io::Result<OwnedFd> {
    retry(|| rustix::fs::openat(&directory, path, flags, Mode::empty()))
}

/// Repeats a call that a signal interrupted.
fn retry<T>(call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    rustix::io::retry_on_intr(call)
}

/// The directory behind the trait, where it is one of ours.
fn same_kind(directory: &dyn Directory) -> io::Result<&OsDirectory> {
    directory.as_any().downcast_ref().ok_or_else(|| Errno::XDEV.into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::OsDirectory;

    mod conformance {
        use super::OsDirectory;
        use crate::backing::conformance::instantiate;

        instantiate!({
            let directory = tempfile::tempdir().unwrap();
            (OsDirectory::open(directory.path()).unwrap(), directory)
        });
    }
}

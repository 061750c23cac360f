//! Owns every access to the ciphertext directory: a small trait, its implementation on the
//! operating system, and the doubles that tests put in its place. It must know nothing of keys,
//! formats or plaintext: it moves names and bytes.
//!
//! Everything durable passes through [`Directory`] and [`File`], so that a fault or a power cut
//! can be played at one place. Errors are [`io::Error`]s that carry an errno
//! ([`io::Error::raw_os_error`]).

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod conformance;
pub mod crash;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod differential;
pub mod fault;
mod lock;
pub mod memory;
mod names;
pub mod os;

use std::any::Any;
use std::io;

pub use self::lock::ExclusiveLock;

/// A point in time, as the kernel keeps it. Nanoseconds are below 1,000,000,000, also before 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Seconds since 1970-01-01 00:00 UTC.
    pub seconds: i64,
    /// Nanoseconds after that second.
    pub nanoseconds: u32,
}

/// What a directory entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A FIFO.
    Fifo,
    /// A Unix domain socket.
    Socket,
    /// A character device.
    CharacterDevice,
    /// A block device.
    BlockDevice,
}

/// What `stat(2)` tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// The filesystem's device number.
    pub device: u64,
    /// The inode number.
    pub ino: u64,
    /// The kind of file.
    pub kind: FileKind,
    /// Permission bits, set-user-ID, set-group-ID and sticky (`0o7777`).
    pub mode: u32,
    /// Hard links.
    pub links: u64,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device file.
    pub rdev: u64,
    /// Size in bytes.
    pub size: u64,
    /// Allocated blocks of 512 bytes.
    pub blocks: u64,
    /// Last access.
    pub accessed: Timestamp,
    /// Last change of content.
    pub modified: Timestamp,
    /// Last change of the inode.
    pub changed: Timestamp,
}

/// What the whole filesystem below reports (`statvfs(3)`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FilesystemStat {
    /// Block size in bytes, in which the counts below are given.
    pub block_size: u64,
    /// Blocks in all.
    pub blocks: u64,
    /// Free blocks.
    pub blocks_free: u64,
    /// Blocks that an unprivileged user can take.
    pub blocks_available: u64,
    /// Inodes in all.
    pub files: u64,
    /// Free inodes.
    pub files_free: u64,
    /// Longest name in bytes.
    pub name_max: u64,
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// For reading.
    Read,
    /// For reading and writing.
    ReadWrite,
}

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// Leave it.
    Keep,
    /// The filesystem's present time.
    Now,
    /// This time.
    At(Timestamp),
}

/// How an extended attribute is set (`setxattr(2)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XattrMode {
    /// Create or replace.
    Any,
    /// Fail with `EEXIST` where it exists.
    Create,
    /// Fail with `ENODATA` where it does not.
    Replace,
}

/// How a rename treats an existing target (`renameat2(2)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenameMode {
    /// Replace it.
    Replace,
    /// Fail with `EEXIST`.
    NoReplace,
    /// Exchange the two.
    Exchange,
}

/// One entry of a directory listing. `.` and `..` are listed too.
#[derive(Clone, Copy, Debug)]
pub struct RawEntry<'a> {
    /// The name.
    pub name: &'a [u8],
    /// Its inode number.
    pub ino: u64,
    /// Its kind, where the filesystem tells it in the listing.
    pub kind: Option<FileKind>,
    /// Where the listing goes on after this entry.
    pub next_cookie: u64,
}

/// The outcome of [`Directory::lock`].
pub enum LockOutcome {
    /// Held until the guard is dropped or the process ends.
    Held(Box<dyn Any + Send + Sync>),
    /// Somebody else holds it and left this text in the lock file.
    Busy(Vec<u8>),
}

/// An open directory of the backing filesystem. Names are single components, never followed when
/// they are symlinks; the name `.` is the directory itself.
pub trait Directory: Send + Sync {
    /// `fstatat(2)` without following a symlink.
    fn stat(&self, name: &[u8]) -> io::Result<Stat>;
    /// Opens a directory below.
    fn open_directory(&self, name: &[u8]) -> io::Result<Box<dyn Directory>>;
    /// Opens an existing regular file. Anything else is an error (`ELOOP`, `EISDIR`, `ENXIO`, …);
    /// a FIFO never blocks.
    fn open_file(&self, name: &[u8], access: Access) -> io::Result<Box<dyn File>>;
    /// Creates a regular file and opens it for reading and writing; `EEXIST` where the name is
    /// taken. The mode is taken as it is (the process's umask is 0).
    fn create_file(&self, name: &[u8], mode: u32) -> io::Result<Box<dyn File>>;
    /// Pins a file of any kind without opening it (`O_PATH`): it stays, and its attributes can be
    /// read and set, after its last name is gone. Reading and writing fail with `EBADF`.
    fn pin(&self, name: &[u8]) -> io::Result<Box<dyn File>>;
    /// `mkdirat(2)`.
    fn make_directory(&self, name: &[u8], mode: u32) -> io::Result<()>;
    /// `symlinkat(2)`. `name` may hold one `/`, so that a directory just made can be given its
    /// record without being opened.
    fn make_symlink(&self, target: &[u8], name: &[u8]) -> io::Result<()>;
    /// `mknodat(2)` for FIFOs, sockets and devices.
    fn make_node(&self, name: &[u8], kind: FileKind, mode: u32, rdev: u64) -> io::Result<()>;
    /// `readlinkat(2)`, whole. `name` may hold one `/`.
    fn read_link(&self, name: &[u8]) -> io::Result<Vec<u8>>;
    /// `linkat(2)`. `target_directory` is of the same implementation.
    fn hard_link(
        &self,
        name: &[u8],
        target_directory: &dyn Directory,
        target_name: &[u8],
    ) -> io::Result<()>;
    /// `renameat2(2)`. `target_directory` is of the same implementation.
    fn rename(
        &self,
        name: &[u8],
        target_directory: &dyn Directory,
        target_name: &[u8],
        mode: RenameMode,
    ) -> io::Result<()>;
    /// `unlinkat(2)` of anything but a directory. `name` may hold one `/`.
    fn unlink(&self, name: &[u8]) -> io::Result<()>;
    /// `unlinkat(2)` with `AT_REMOVEDIR`.
    fn remove_directory(&self, name: &[u8]) -> io::Result<()>;
    /// `fchmodat(2)`; not for symlinks.
    fn set_mode(&self, name: &[u8], mode: u32) -> io::Result<()>;
    /// `fchownat(2)` without following.
    fn set_owner(&self, name: &[u8], uid: Option<u32>, gid: Option<u32>) -> io::Result<()>;
    /// `utimensat(2)` without following.
    fn set_times(&self, name: &[u8], accessed: SetTime, modified: SetTime) -> io::Result<()>;
    /// `lgetxattr(2)`, whole.
    fn get_xattr(&self, name: &[u8], attribute: &[u8]) -> io::Result<Vec<u8>>;
    /// `llistxattr(2)`, the names.
    fn list_xattr(&self, name: &[u8]) -> io::Result<Vec<Vec<u8>>>;
    /// `lsetxattr(2)`.
    fn set_xattr(
        &self,
        name: &[u8],
        attribute: &[u8],
        value: &[u8],
        mode: XattrMode,
    ) -> io::Result<()>;
    /// `lremovexattr(2)`.
    fn remove_xattr(&self, name: &[u8], attribute: &[u8]) -> io::Result<()>;
    /// Lists from `cookie` (0: from the start) until `sink` answers `false`. Cookies stay valid
    /// while the directory changes, as `seekdir(3)` wants.
    fn read_entries(
        &self,
        cookie: u64,
        sink: &mut dyn FnMut(RawEntry<'_>) -> bool,
    ) -> io::Result<()>;
    /// `fsync(2)` of the directory: its entries survive a power cut.
    fn sync(&self) -> io::Result<()>;
    /// `syncfs(2)`: everything written to the filesystem so far survives a power cut. `false`
    /// where the filesystem below is not known to keep that promise.
    fn sync_filesystem(&self) -> io::Result<bool>;
    /// `fstatvfs(3)`.
    fn filesystem_stat(&self) -> io::Result<FilesystemStat>;
    /// Takes an exclusive lock on the lock file `name` (made where missing) and leaves `owner` in
    /// it as text.
    fn lock(&self, name: &[u8], owner: &[u8]) -> io::Result<LockOutcome>;
    /// For implementations to recognise their own.
    fn as_any(&self) -> &dyn Any;
}

/// An open (or pinned) file of the backing filesystem.
pub trait File: Send + Sync {
    /// Reads until `buffer` is full or the file ends; the count.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `data`.
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()>;
    /// Opens the same regular file anew, for reading and writing, though it may have no name any more.
    fn reopen(&self) -> io::Result<Box<dyn File>>;
    /// `ftruncate(2)`.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// `fallocate(2)` with `KEEP_SIZE`.
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()>;
    /// `fallocate(2)` with `PUNCH_HOLE | KEEP_SIZE`.
    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()>;
    /// `lseek(2)` with `SEEK_DATA`; `None` when only a hole follows or the file ends.
    fn seek_data(&self, offset: u64) -> io::Result<Option<u64>>;
    /// `lseek(2)` with `SEEK_HOLE`; `None` past the end.
    fn seek_hole(&self, offset: u64) -> io::Result<Option<u64>>;
    /// `fdatasync(2)`.
    fn sync_data(&self) -> io::Result<()>;
    /// `fsync(2)`.
    fn sync_all(&self) -> io::Result<()>;
    /// `fstat(2)`.
    fn stat(&self) -> io::Result<Stat>;
    /// `fchmod(2)`.
    fn set_mode(&self, mode: u32) -> io::Result<()>;
    /// `fchown(2)`.
    fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> io::Result<()>;
    /// `futimens(3)`.
    fn set_times(&self, accessed: SetTime, modified: SetTime) -> io::Result<()>;
    /// `fgetxattr(2)`, whole.
    fn get_xattr(&self, attribute: &[u8]) -> io::Result<Vec<u8>>;
    /// `flistxattr(2)`, the names.
    fn list_xattr(&self) -> io::Result<Vec<Vec<u8>>>;
    /// `fsetxattr(2)`.
    fn set_xattr(&self, attribute: &[u8], value: &[u8], mode: XattrMode) -> io::Result<()>;
    /// `fremovexattr(2)`.
    fn remove_xattr(&self, attribute: &[u8]) -> io::Result<()>;
}

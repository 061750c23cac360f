//! Owns the conversions of attributes, the ways to those that need `/proc`, and what is known of
//! the filesystems below.

use std::ffi::CStr;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Once, OnceLock};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, StatFs, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid,
    XattrFlags,
};
use rustix::io::Errno;

use super::retry;
use crate::backing::{FileKind, SetTime, Stat, Timestamp, XattrMode, names};

/// The kind behind a `d_type` or a mode.
pub(super) fn kind(kind: FileType) -> Option<FileKind> {
    Some(match kind {
        FileType::RegularFile => FileKind::Regular,
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Symlink,
        FileType::Fifo => FileKind::Fifo,
        FileType::Socket => FileKind::Socket,
        FileType::CharacterDevice => FileKind::CharacterDevice,
        FileType::BlockDevice => FileKind::BlockDevice,
        FileType::Unknown => return None,
    })
}

/// What the kernel told.
#[allow(clippy::useless_conversion, reason = "the widths differ between architectures")]
pub(super) fn stat(stat: &rustix::fs::Stat) -> io::Result<Stat> {
    let time = |seconds, nanoseconds: u64| Timestamp {
        seconds,
        nanoseconds: u32::try_from(nanoseconds).unwrap_or(0),
    };
    Ok(Stat {
        device: stat.st_dev,
        ino: stat.st_ino,
        kind: kind(FileType::from_raw_mode(stat.st_mode)).ok_or(Errno::IO)?,
        mode: stat.st_mode & 0o7777,
        links: u64::from(stat.st_nlink),
        uid: stat.st_uid,
        gid: stat.st_gid,
        rdev: stat.st_rdev,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        blocks: u64::try_from(stat.st_blocks).unwrap_or(0),
        accessed: time(stat.st_atime, u64::from(stat.st_atime_nsec)),
        modified: time(stat.st_mtime, u64::from(stat.st_mtime_nsec)),
        changed: time(stat.st_ctime, u64::from(stat.st_ctime_nsec)),
    })
}

/// Owner and group as the calls want them. The number that means "leave it" is refused as one to
/// set: the kernel would silently leave it.
pub(super) fn owner(uid: Option<u32>, gid: Option<u32>) -> io::Result<(Option<Uid>, Option<Gid>)> {
    if uid == Some(u32::MAX) || gid == Some(u32::MAX) {
        return Err(Errno::INVAL.into());
    }
    Ok((uid.map(Uid::from_raw), gid.map(Gid::from_raw)))
}

/// Times as the calls want them.
pub(super) fn timestamps(accessed: SetTime, modified: SetTime) -> Timestamps {
    let time = |time| match time {
        SetTime::Keep => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        SetTime::Now => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        SetTime::At(time) => Timespec { tv_sec: time.seconds, tv_nsec: time.nanoseconds.into() },
    };
    Timestamps { last_access: time(accessed), last_modification: time(modified) }
}

/// Sets the mode of a file behind an `O_PATH` descriptor; `EOPNOTSUPP` for a symlink.
pub(super) fn set_mode_of_pinned(descriptor: impl AsFd, mode: Mode) -> io::Result<()> {
    let descriptor = descriptor.as_fd();
    let stat = rustix::fs::fstat(descriptor)?;
    // Kernels before 6.6 report this failure and change the mode all the same.
    if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
        return Err(Errno::OPNOTSUPP.into());
    }
    let path = ProcPath::of_descriptor(descriptor)?;
    rustix::fs::chmod(path.as_c_str(), mode).map_err(|error| without_proc(error, true))
}

/// Sets the times of a file behind an `O_PATH` descriptor.
pub(super) fn set_times_of_pinned(descriptor: impl AsFd, times: &Timestamps) -> io::Result<()> {
    let descriptor = descriptor.as_fd();
    match rustix::fs::utimensat(descriptor, c"", times, AtFlags::EMPTY_PATH) {
        // Kernels before 5.8 know no AT_EMPTY_PATH here.
        Err(Errno::INVAL | Errno::NOENT) => {
            let path = ProcPath::of_descriptor(descriptor)?;
            // Following the link of `/proc` leads to the very file, also where that is a symlink.
            rustix::fs::utimensat(rustix::fs::CWD, path.as_c_str(), times, AtFlags::empty())
                .map_err(|error| without_proc(error, true))
        }
        other => Ok(other?),
    }
}

/// Opens the regular file behind a descriptor for reading and writing.
pub(super) fn reopen(descriptor: impl AsFd) -> io::Result<OwnedFd> {
    let path = ProcPath::of_descriptor(descriptor.as_fd())?;
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    retry(|| rustix::fs::open(path.as_c_str(), flags, Mode::empty()))
        .map_err(|error| without_proc(error, true))
}

/// A path below `/proc/self/fd`, on the stack.
struct ProcPath {
    bytes: [u8; Self::CAPACITY],
}

impl ProcPath {
    /// The prefix, a descriptor, a slash, a name of 255 bytes, and the NUL.
    const CAPACITY: usize = 14 + 10 + 1 + 255 + 1;

    fn of_descriptor(descriptor: BorrowedFd<'_>) -> io::Result<Self> {
        let mut path = Self { bytes: [0; Self::CAPACITY] };
        write!(&mut path.bytes[..], "/proc/self/fd/{}\0", descriptor.as_raw_fd())?;
        Ok(path)
    }

    fn of_entry(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<Self> {
        names::check(name)?;
        let mut path = Self { bytes: [0; Self::CAPACITY] };
        let mut rest = &mut path.bytes[..];
        write!(rest, "/proc/self/fd/{}/", directory.as_raw_fd())?;
        rest.write_all(name)?;
        Ok(path)
    }

    fn as_c_str(&self) -> &CStr {
        // The array is a byte longer than anything written to it.
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or(c"")
    }
}

/// The error of an operation through `/proc`, which a missing `/proc` must not make look like a
/// missing file. `exists`: whether the file is known to be there.
fn without_proc(error: Errno, exists: bool) -> io::Error {
    static TOLD: Once = Once::new();
    if exists && matches!(error, Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) {
        let proc = rustix::fs::accessat(
            rustix::fs::CWD,
            c"/proc/self/fd",
            rustix::fs::Access::EXEC_OK,
            AtFlags::empty(),
        );
        if proc.is_err() {
            TOLD.call_once(|| {
                tracing::warn!(
                    "/proc is not mounted: extended attributes and some modes and times cannot \
                     be read or set"
                );
            });
            return Errno::OPNOTSUPP.into();
        }
    }
    error.into()
}

/// The longest value of an extended attribute, and the longest list of names (`XATTR_SIZE_MAX`,
/// `XATTR_LIST_MAX`).
const XATTR_MAX: usize = 64 << 10;

/// Reads something whole whose size is not known; most of it is small.
fn read_whole(
    mut read: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>,
) -> rustix::io::Result<Vec<u8>> {
    let mut small = [0; 512];
    match read(&mut small) {
        Ok(count) => return Ok(small.get(..count).unwrap_or_default().to_vec()),
        Err(Errno::RANGE) => {}
        Err(error) => return Err(error),
    }
    let mut whole = vec![0; XATTR_MAX];
    let count = read(&mut whole)?;
    whole.truncate(count);
    whole.shrink_to_fit();
    Ok(whole)
}

fn split_list(list: &[u8]) -> Vec<Vec<u8>> {
    list.split(|&byte| byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect()
}

fn flags(mode: XattrMode) -> XattrFlags {
    match mode {
        XattrMode::Any => XattrFlags::empty(),
        XattrMode::Create => XattrFlags::CREATE,
        XattrMode::Replace => XattrFlags::REPLACE,
    }
}

/// The extended attributes of a directory's entry.
pub(super) struct Entry<'a> {
    directory: BorrowedFd<'a>,
    name: &'a [u8],
    path: ProcPath,
}

impl<'a> Entry<'a> {
    pub(super) fn new(directory: &'a impl AsFd, name: &'a [u8]) -> io::Result<Self> {
        let directory = directory.as_fd();
        Ok(Self { directory, name, path: ProcPath::of_entry(directory, name)? })
    }

    fn error(&self, error: Errno) -> io::Error {
        let exists = matches!(error, Errno::NOENT | Errno::NOTDIR)
            && rustix::fs::statat(self.directory, self.name, AtFlags::SYMLINK_NOFOLLOW).is_ok();
        without_proc(error, exists)
    }

    pub(super) fn get(&self, attribute: &[u8]) -> io::Result<Vec<u8>> {
        read_whole(|buffer| rustix::fs::lgetxattr(self.path.as_c_str(), attribute, buffer))
            .map_err(|error| self.error(error))
    }

    pub(super) fn list(&self) -> io::Result<Vec<Vec<u8>>> {
        let list = read_whole(|buffer| rustix::fs::llistxattr(self.path.as_c_str(), buffer))
            .map_err(|error| self.error(error))?;
        Ok(split_list(&list))
    }

    pub(super) fn set(&self, attribute: &[u8], value: &[u8], mode: XattrMode) -> io::Result<()> {
        rustix::fs::lsetxattr(self.path.as_c_str(), attribute, value, flags(mode))
            .map_err(|error| self.error(error))
    }

    pub(super) fn remove(&self, attribute: &[u8]) -> io::Result<()> {
        rustix::fs::lremovexattr(self.path.as_c_str(), attribute).map_err(|error| self.error(error))
    }
}

/// The extended attributes of an open or pinned file.
pub(super) struct Descriptor<'a> {
    descriptor: BorrowedFd<'a>,
    /// Where the descriptor is `O_PATH`, which the calls on descriptors refuse.
    path: Option<ProcPath>,
}

impl<'a> Descriptor<'a> {
    pub(super) fn new(descriptor: &'a impl AsFd, pinned: bool) -> io::Result<Self> {
        let descriptor = descriptor.as_fd();
        let path = if pinned { Some(ProcPath::of_descriptor(descriptor)?) } else { None };
        Ok(Self { descriptor, path })
    }

    fn error(&self, error: Errno) -> io::Error {
        without_proc(error, self.path.is_some())
    }

    pub(super) fn get(&self, attribute: &[u8]) -> io::Result<Vec<u8>> {
        read_whole(|buffer| match &self.path {
            Some(path) => rustix::fs::getxattr(path.as_c_str(), attribute, buffer),
            None => rustix::fs::fgetxattr(self.descriptor, attribute, buffer),
        })
        .map_err(|error| self.error(error))
    }

    pub(super) fn list(&self) -> io::Result<Vec<Vec<u8>>> {
        let list = read_whole(|buffer| match &self.path {
            Some(path) => rustix::fs::listxattr(path.as_c_str(), buffer),
            None => rustix::fs::flistxattr(self.descriptor, buffer),
        })
        .map_err(|error| self.error(error))?;
        Ok(split_list(&list))
    }

    pub(super) fn set(&self, attribute: &[u8], value: &[u8], mode: XattrMode) -> io::Result<()> {
        match &self.path {
            Some(path) => rustix::fs::setxattr(path.as_c_str(), attribute, value, flags(mode)),
            None => rustix::fs::fsetxattr(self.descriptor, attribute, value, flags(mode)),
        }
        .map_err(|error| self.error(error))
    }

    pub(super) fn remove(&self, attribute: &[u8]) -> io::Result<()> {
        match &self.path {
            Some(path) => rustix::fs::removexattr(path.as_c_str(), attribute),
            None => rustix::fs::fremovexattr(self.descriptor, attribute),
        }
        .map_err(|error| self.error(error))
    }
}

/// Whether `syncfs(2)` makes everything written so far durable, and tells when it failed. Known
/// of these filesystems, from Linux 5.8 on: before, the call hid failed writes.
pub(super) fn syncfs_is_reliable(statfs: &StatFs) -> bool {
    // linux/magic.h, and for xfs and f2fs the magic of their super blocks. ext2 to ext4 share one.
    const RELIABLE: [u64; 5] = [0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010, 0x0102_1994];
    static KERNEL: OnceLock<bool> = OnceLock::new();
    let kernel = *KERNEL.get_or_init(|| {
        nix::sys::utsname::uname()
            .ok()
            .and_then(|name| name.release().to_str().and_then(release))
            .is_some_and(|release| release >= (5, 8))
    });
    #[allow(clippy::useless_conversion, reason = "the type differs between architectures")]
    let magic = u64::try_from(statfs.f_type);
    kernel && magic.is_ok_and(|magic| RELIABLE.contains(&(magic & 0xffff_ffff)))
}

/// The first two numbers of a kernel's release.
fn release(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|letter: char| !letter.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::release;

    #[test]
    fn releases_are_read_as_kernels_write_them() {
        assert_eq!(release("6.18.44-fc-v669"), Some((6, 18)));
        assert_eq!(release("5.4-generic"), Some((5, 4)));
        assert_eq!(release("6.1"), Some((6, 1)));
        assert_eq!(release("odd"), None);
    }
}

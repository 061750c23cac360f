//! Owns the lock that keeps a vault to a single owner.
//!
//! The lock is an [`ExclusiveLock`] of the lock file.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::{FILE_FLAGS, retry};
use crate::backing::{ExclusiveLock, LockOutcome};

/// The owner's text is read up to this many bytes.
const OWNER_MAX: usize = 4096;

/// Takes the lock on the file `name`. The owner's text stays in the file and means nothing without it.
pub(super) fn take(directory: impl AsFd, name: &[u8], owner: &[u8]) -> io::Result<LockOutcome> {
    loop {
        let (descriptor, writable) = open(&directory, name)?;
        let lock = match ExclusiveLock::take(descriptor.try_clone()?) {
            Ok(lock) => lock,
            Err(Errno::WOULDBLOCK) => return Ok(LockOutcome::Busy(read_owner(&descriptor)?)),
            Err(error) => return Err(error.into()),
        };
        if !writable {
            return Ok(LockOutcome::Held(Box::new(lock)));
        }
        // Somebody may have removed the file between the two calls; a lock on a file that has no
        // name keeps nobody out.
        let held = rustix::fs::fstat(&lock)?;
        match rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(named) if (named.st_dev, named.st_ino) == (held.st_dev, held.st_ino) => {}
            Ok(_) | Err(Errno::NOENT) => continue,
            Err(error) => return Err(error.into()),
        }
        rustix::fs::ftruncate(&lock, 0)?;
        let mut rest = owner;
        while !rest.is_empty() {
            let offset = u64::try_from(owner.len() - rest.len()).unwrap_or(u64::MAX);
            let count = retry(|| rustix::io::pwrite(&lock, rest, offset))?;
            rest = rest.get(count..).unwrap_or_default();
        }
        return Ok(LockOutcome::Held(Box::new(lock)));
    }
}

/// The lock file, made where missing, and whether it can be written. On a filesystem mounted
/// read-only an existing file, or else the directory itself, takes the lock.
fn open(directory: impl AsFd, name: &[u8]) -> io::Result<(OwnedFd, bool)> {
    let directory = directory.as_fd();
    let mode = Mode::RUSR | Mode::WUSR;
    let open = |name: &[u8], flags: OFlags| {
        retry(|| rustix::fs::openat(directory, name, FILE_FLAGS | flags, mode))
    };
    let descriptor = match open(name, OFlags::RDWR | OFlags::CREATE) {
        Ok(descriptor) => descriptor,
        Err(Errno::ROFS) => {
            return match open(name, OFlags::RDONLY) {
                Ok(descriptor) => Ok((descriptor, false)),
                Err(Errno::NOENT) => Ok((open(b".", OFlags::RDONLY | OFlags::DIRECTORY)?, false)),
                Err(error) => Err(error.into()),
            };
        }
        Err(error) => return Err(error.into()),
    };
    let stat = rustix::fs::fstat(&descriptor)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Errno::NXIO.into());
    }
    Ok((descriptor, true))
}

fn read_owner(descriptor: &OwnedFd) -> io::Result<Vec<u8>> {
    let stat = rustix::fs::fstat(descriptor)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Ok(Vec::new());
    }
    let mut text = vec![0; OWNER_MAX];
    let count = retry(|| rustix::io::pread(descriptor, &mut text[..], 0))?;
    text.truncate(count);
    Ok(text)
}

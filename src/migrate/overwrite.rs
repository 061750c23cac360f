//! The system calls of a wipe.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rand::Rng as _;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, SeekFrom, Stat};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::ledger::LedgerEntry;
use super::survey::Observer;
use crate::crypto::random_array;
use crate::tree::EntryKind;

/// Names that a wipe gives to what it is about to destroy.
pub(super) const PREFIX: &[u8] = b".strongroom-wipe-";

/// Lets this process open as many files as it may, as long as this lives: a wipe holds a directory
/// open for each level that it is below the root.
pub(super) struct ManyFiles(Rlimit);

impl ManyFiles {
    pub(super) fn allow() -> Self {
        let before = getrlimit(Resource::Nofile);
        let raised = Rlimit { current: before.maximum, maximum: before.maximum };
        // Where this fails, trees of ordinary depth are no trouble.
        let _ = setrlimit(Resource::Nofile, raised);
        Self(before)
    }
}

impl Drop for ManyFiles {
    fn drop(&mut self) {
        let _ = setrlimit(Resource::Nofile, self.0);
    }
}

/// The names in a directory, sorted by their bytes as a walk is.
pub(super) fn names_in(directory: &OwnedFd) -> std::result::Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Renames to a name of ours, never over something.
pub(super) fn take(
    directory: &OwnedFd,
    name: &[u8],
    taken: &[u8],
) -> std::result::Result<(), Errno> {
    match rustix::fs::renameat_with(directory, name, directory, taken, RenameFlags::NOREPLACE) {
        // A filesystem without the flag; 64 random bits are not there already.
        Err(Errno::INVAL | Errno::NOSYS) => rustix::fs::renameat(directory, name, directory, taken),
        outcome => outcome,
    }
}

pub(super) fn taken_name() -> Vec<u8> {
    let mut name = PREFIX.to_vec();
    let random: [u8; 8] = random_array();
    name.extend(random.iter().flat_map(|byte| format!("{byte:02x}").into_bytes()));
    name
}

/// Whether a file still is what the ledger says. The time of the inode's last change is left out:
/// the loss of another name moves it.
pub(super) fn is_as_verified(expected: &LedgerEntry, stat: &Stat) -> bool {
    let metadata = &expected.entry.metadata;
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => EntryKind::Regular,
        FileType::Directory => EntryKind::Directory,
        FileType::Symlink => EntryKind::Symlink,
        FileType::Fifo => EntryKind::Fifo,
        FileType::Socket => EntryKind::Socket,
        FileType::CharacterDevice => EntryKind::CharacterDevice,
        FileType::BlockDevice => EntryKind::BlockDevice,
        FileType::Unknown => return false,
    };
    let size_counts = kind == EntryKind::Regular;
    kind == metadata.kind
        && (!size_counts || u64::try_from(stat.st_size) == Ok(metadata.size))
        && stat.st_mtime == metadata.modified.seconds
        && i128::from(stat.st_mtime_nsec) == i128::from(metadata.modified.nanoseconds)
}

/// Opens a file for writing even where its mode forbids that to its owner.
pub(super) fn open_for_writing(directory: &OwnedFd, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::openat(directory, name, flags, Mode::empty()) {
        Err(Errno::ACCESS) => {
            rustix::fs::chmodat(directory, name, Mode::RUSR | Mode::WUSR, AtFlags::empty())?;
            Ok(rustix::fs::openat(directory, name, flags, Mode::empty())?)
        }
        outcome => Ok(outcome?),
    }
}

/// Writes random bytes over every stretch of data; holes stay holes.
pub(super) fn overwrite_data(
    file: &OwnedFd,
    size: u64,
    buffer: &mut [u8],
    observer: &dyn Observer,
) -> io::Result<()> {
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL) => at,
            Err(error) => return Err(error.into()),
        };
        let end = match rustix::fs::seek(file, SeekFrom::Hole(start)) {
            Ok(end) => end.min(size),
            Err(Errno::INVAL) => size,
            Err(error) => return Err(error.into()),
        };
        observer.advance(0, start.saturating_sub(at));
        at = start;
        while at < end {
            if observer.cancelled().load(std::sync::atomic::Ordering::Relaxed) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let step = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
            rand::rng().fill_bytes(&mut buffer[..step]);
            let written = rustix::io::pwrite(file.as_fd(), &buffer[..step], at)?;
            let written = u64::try_from(written).unwrap_or(0);
            observer.advance(0, written);
            at += written;
        }
    }
    Ok(())
}

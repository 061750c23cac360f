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

/// Random bytes to be written past the kernel's cache (`O_DIRECT` of open(2)), where they need no
/// page each: addresses, offsets and lengths are multiples of [`ALIGNMENT`] then.
pub(super) struct Noise(Vec<u8>);

const ALIGNMENT: usize = 4096;
/// Smaller files are written by way of the cache, and synced many at once.
const DIRECTLY: u64 = 4 << 20;
/// Bytes written at once.
const PIECE: usize = 1 << 20;

impl Noise {
    pub(super) fn new() -> Self {
        Self(vec![0; PIECE + ALIGNMENT])
    }

    /// Fresh ones, no more than [`PIECE`].
    fn next(&mut self, length: usize) -> &[u8] {
        let begin = self.0.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        let piece = &mut self.0[begin..begin + length.min(PIECE)];
        rand::rng().fill_bytes(piece);
        piece
    }
}

fn set_direct(file: &OwnedFd, direct: bool) -> rustix::io::Result<()> {
    let mut flags = rustix::fs::fcntl_getfl(file)?;
    flags.set(OFlags::DIRECT, direct);
    rustix::fs::fcntl_setfl(file, flags)
}

/// Overwrites `length` bytes at an offset, at least one of them; how many. `direct` goes where the
/// filesystem has no such thing.
fn overwrite_piece(
    file: &OwnedFd,
    at: u64,
    length: u64,
    noise: &mut Noise,
    direct: &mut bool,
) -> io::Result<u64> {
    let length = usize::try_from(length).unwrap_or(usize::MAX).min(PIECE);
    let whole = length - length % ALIGNMENT;
    if *direct && whole > 0 && at.is_multiple_of(ALIGNMENT as u64) {
        match set_direct(file, true)
            .and_then(|()| rustix::io::pwrite(file.as_fd(), noise.next(whole), at))
        {
            // Less than a block: the rest goes the usual way.
            Ok(written) if written > 0 => return Ok(u64::try_from(written).unwrap_or(0)),
            Ok(_) | Err(Errno::INVAL | Errno::OPNOTSUPP) => *direct = false,
            Err(errno) => return Err(errno.into()),
        }
    }
    set_direct(file, false)?;
    let written = rustix::io::pwrite(file.as_fd(), noise.next(length), at)?;
    Ok(u64::try_from(written).unwrap_or(0))
}

/// Writes random bytes over every stretch of data; holes stay holes.
pub(super) fn overwrite_data(
    file: &OwnedFd,
    size: u64,
    noise: &mut Noise,
    observer: &dyn Observer,
) -> io::Result<()> {
    let mut direct = size >= DIRECTLY;
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
            let written = overwrite_piece(file, at, end - at, noise, &mut direct)?;
            observer.advance(0, written);
            at += written;
        }
    }
    set_direct(file, false)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::{FileExt as _, MetadataExt as _};

    use super::super::survey::Unobserved;
    use super::*;

    fn check(size: u64, holes: &[std::ops::Range<u64>]) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let file = std::fs::File::options().read(true).write(true).create_new(true).open(path);
        let file = file.unwrap();
        let before = vec![0xAB; usize::try_from(size).unwrap()];
        file.write_all_at(&before, 0).unwrap();
        for hole in holes {
            let flags =
                rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
            // Where there are no holes, all of it is data.
            let _ = rustix::fs::fallocate(&file, flags, hole.start, hole.end - hole.start);
        }
        file.sync_all().unwrap();
        let blocks = file.metadata().unwrap().blocks();
        let is_hole = |at: u64| {
            rustix::fs::seek(&file, SeekFrom::Hole(at)).is_ok_and(|hole| hole == at && at < size)
        };
        let holes: Vec<_> = holes.iter().filter(|hole| is_hole(hole.start)).collect();
        let fd = file.try_clone().unwrap().into();
        overwrite_data(&fd, size, &mut Noise::new(), &Unobserved).unwrap();
        drop(fd);
        file.sync_all().unwrap();
        let status = file.metadata().unwrap();
        assert_eq!((status.len(), status.blocks()), (size, blocks), "{size}");
        let mut after = vec![0; before.len()];
        file.read_exact_at(&mut after, 0).unwrap();
        for (number, chunk) in after.chunks(512).enumerate() {
            let at = number as u64 * 512;
            let in_hole = holes.iter().any(|hole| hole.contains(&at));
            if in_hole {
                assert!(chunk.iter().all(|byte| *byte == 0), "{size}: the hole at {at} was filled");
            } else {
                // Of what was there, as much as chance leaves.
                let left = chunk.iter().filter(|byte| **byte == 0xAB).count();
                assert!(left < chunk.len() / 4 + 2, "{size}: {left} bytes left at {at}");
                assert!(chunk.len() < 32 || chunk.windows(16).all(|some| some != [0; 16]));
            }
        }
    }

    #[test]
    fn every_byte_of_data_is_overwritten_and_no_hole() {
        for size in [1, 4096, 4097, DIRECTLY - 1, DIRECTLY, DIRECTLY + 1, DIRECTLY + 3 * 4096 + 7] {
            check(size, &[]);
        }
        let size = DIRECTLY + (2 << 20) + 100;
        check(size, &[0..4096, 12_288..1_048_576, (2 << 20) + 8192..DIRECTLY + 4096]);
    }
}

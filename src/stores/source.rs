//! Owns the quiet reading of a store's files: never following a symlink, never waiting on a FIFO,
//! leaving the access time alone where the system permits it.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatxFlags};
use rustix::io::Errno;

use super::Error;

/// A regular file, open for reading.
#[derive(Debug)]
pub(super) struct Source {
    file: File,
    path: PathBuf,
    length: u64,
}

/// Opens the files of a directory, of which each would be found by the whole way to it otherwise.
#[derive(Debug, Default)]
pub(super) struct Directory(Option<OwnedFd>);

impl Directory {
    /// A directory that cannot be opened is no hindrance: then the whole way is taken.
    pub(super) fn open(path: &Path) -> Self {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Self(rustix::fs::open(path, flags, Mode::empty()).ok())
    }

    /// The length of a regular file of it, in bytes, without opening it; `None` where only that would tell.
    pub(super) fn length_of(&self, path: &Path) -> Option<u64> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        let wanted = StatxFlags::TYPE | StatxFlags::SIZE;
        let stat = rustix::fs::statx(self.0.as_ref()?, path.file_name()?, flags, wanted).ok()?;
        let kind = FileType::from_raw_mode(u32::from(stat.stx_mode));
        (kind == FileType::RegularFile).then_some(stat.stx_size)
    }

    fn open_file(&self, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        match (&self.0, path.file_name()) {
            (Some(directory), Some(name)) => {
                rustix::fs::openat(directory, name, flags, Mode::empty())
            }
            _ => rustix::fs::open(path, flags, Mode::empty()),
        }
    }
}

/// Whether an error says that there is no such file.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidFilename)
}

impl Source {
    /// Opens a regular file; anything else is an error.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        Self::try_open(&Directory::default(), path)
            .map_err(|source| Error::io(path, "read", source))
    }

    /// Opens a file if there is one.
    pub(super) fn open_if_there(path: &Path) -> Result<Option<Self>, Error> {
        Self::open_if_in(&Directory::default(), path)
    }

    /// The same of a file of this directory; `path` is its whole path.
    pub(super) fn open_if_in(directory: &Directory, path: &Path) -> Result<Option<Self>, Error> {
        match Self::try_open(directory, path) {
            Ok(source) => Ok(Some(source)),
            // A name of 255 bytes has no room for a suffix.
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(Error::io(path, "read", error)),
        }
    }

    fn try_open(directory: &Directory, path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let open = |flags| directory.open_file(path, flags);
        #[cfg(target_os = "linux")]
        let opened = match open(flags | OFlags::NOATIME) {
            // Only the owner may leave the access time alone.
            Err(Errno::PERM) => open(flags),
            other => other,
        };
        #[cfg(not(target_os = "linux"))]
        let opened = open(flags);
        let file = File::from(opened?);
        // No more than is needed: a mount has to ask for the time of the last access.
        let wanted = StatxFlags::TYPE | StatxFlags::SIZE;
        let stat = rustix::fs::statx(&file, c"", AtFlags::EMPTY_PATH, wanted)?;
        if FileType::from_raw_mode(u32::from(stat.stx_mode)) != FileType::RegularFile {
            return Err(io::Error::other("not a regular file"));
        }
        Ok(Self { file, path: path.to_path_buf(), length: stat.stx_size })
    }

    /// The length in bytes at the time of opening.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads up to a buffer's length at an offset; less only at the end of the file.
    pub(super) fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, Error> {
        let mut filled = 0;
        while filled < buffer.len() {
            let at = offset.saturating_add(u64::try_from(filled).unwrap_or(u64::MAX));
            match self.file.read_at(&mut buffer[filled..], at) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io(&self.path, "read", error)),
            }
        }
        Ok(filled)
    }

    /// Reads exactly so many bytes, or `None` where the file ends before.
    pub(super) fn bytes_at<const N: usize>(&self, offset: u64) -> Result<Option<[u8; N]>, Error> {
        let mut buffer = [0; N];
        let count = self.read_at(&mut buffer, offset)?;
        Ok((count == N).then_some(buffer))
    }

    /// The first bytes, at most `limit`.
    pub(super) fn head(&self, limit: usize) -> Result<Vec<u8>, Error> {
        let mut buffer = vec![0; limit.min(usize::try_from(self.length).unwrap_or(limit))];
        let count = self.read_at(&mut buffer, 0)?;
        buffer.truncate(count);
        Ok(buffer)
    }

    /// Hands the whole file over in pieces, from an offset on.
    pub(super) fn for_each_piece(
        &self,
        offset: u64,
        mut each: impl FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut buffer = vec![0; 256 * 1024];
        let mut at = offset;
        loop {
            let count = self.read_at(&mut buffer, at)?;
            if count == 0 {
                return Ok(());
            }
            each(&buffer[..count])?;
            at += u64::try_from(count).unwrap_or(u64::MAX);
        }
    }

    /// Copies the file to a new one that only this user can read.
    pub(super) fn copy_to(&self, path: &Path) -> Result<(), Error> {
        use std::io::Write;
        use std::os::unix::fs::OpenOptionsExt;
        let failed = |error| Error::io(path, "write", error);
        let mut target =
            File::options().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
        self.for_each_piece(0, |piece| target.write_all(piece).map_err(failed))
    }
}

/// Whether a path is a regular file with something in it, itself and not through a symlink.
pub(super) fn has_content(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() > 0)
}

/// Whether a path is a regular file, itself and not through a symlink.
pub(super) fn is_file(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.is_file())
}

/// A little-endian number in a slice; `None` past its end.
pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

/// A little-endian number in a slice; `None` past its end.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// A little-endian number in a slice; `None` past its end.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

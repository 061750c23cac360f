//! Every durable change that a migration makes outside the vault's filesystem, each passing a
//! [`Watch`] before and after, so that a test can end the process there, a fault can be played,
//! and an interrupt can stop the engine between two steps and never within one.

use std::fmt;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, IFlags, Mode, OFlags, RenameFlags, linkat};

use super::error::{Error, Result};

/// What kind of change is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// A transition written to the journal.
    Journal,
    /// The marker beside the source.
    Marker,
    /// A vault created.
    CreateVault,
    /// A command of the user's run.
    Command,
    /// The snapshot written.
    Snapshot,
    /// A mount made.
    Mount,
    /// A mount given up.
    Unmount,
    /// An entry copied into the vault, or back out of it.
    Copy,
    /// A tree made durable.
    Sync,
    /// A file's content replaced.
    ReplaceFile,
    /// A rename, or an exchange of two names.
    Rename,
    /// A directory made.
    MakeDirectory,
    /// A directory removed.
    RemoveDirectory,
    /// A symlink made.
    MakeSymlink,
    /// A name removed.
    Unlink,
    /// The immutable flag set or cleared, or a mode changed.
    Protect,
    /// Plaintext overwritten.
    Overwrite,
}

impl Change {
    /// Whether it ends what was begun, so that whoever asks to stop still wants it made.
    pub fn ends_something(self) -> bool {
        matches!(self, Self::Unmount | Self::Sync)
    }
}

/// One durable change, as a [`Watch`] sees it.
#[derive(Clone, Copy, Debug)]
pub struct Operation<'a> {
    /// What kind of change.
    pub change: Change,
    /// What it is made to.
    pub path: &'a Path,
}

impl fmt::Display for Operation<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?} {}", self.change, self.path.display())
    }
}

/// Sees every durable change before it is made and after.
pub trait Watch: Send + Sync {
    /// Before the change. An error keeps it from being made.
    ///
    /// # Errors
    /// [`io::ErrorKind::Interrupted`] when somebody asked to stop; anything else is a fault.
    fn before(&self, operation: &Operation<'_>) -> io::Result<()>;

    /// After the change.
    fn after(&self, operation: &Operation<'_>);
}

/// Lets everything pass.
pub struct Unwatched;

impl Watch for Unwatched {
    fn before(&self, _: &Operation<'_>) -> io::Result<()> {
        Ok(())
    }

    fn after(&self, _: &Operation<'_>) {}
}

/// The engine's hands: durable changes, watched.
#[derive(Clone)]
pub struct Hands {
    watch: Arc<dyn Watch>,
}

impl Hands {
    /// Hands that `watch` looks at.
    pub fn new(watch: Arc<dyn Watch>) -> Self {
        Self { watch }
    }

    /// Makes a change of any kind under the watch's eyes.
    ///
    /// # Errors
    /// Those of the watch, and those of `change` itself.
    pub fn perform<T, E: From<Error>>(
        &self,
        change: Change,
        path: &Path,
        make: impl FnOnce() -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        let operation = Operation { change, path };
        self.watch.before(&operation).map_err(|source| match source.kind() {
            io::ErrorKind::Interrupted => Error::Interrupted,
            _ => Error::io("change", path, source),
        })?;
        let made = make()?;
        self.watch.after(&operation);
        Ok(made)
    }

    fn io<T>(
        &self,
        change: Change,
        doing: &'static str,
        path: &Path,
        make: impl FnOnce() -> io::Result<T>,
    ) -> Result<T> {
        self.perform(change, path, || make().map_err(|source| Error::io(doing, path, source)))
    }

    /// Exchanges two names in one step, durably; `from` takes the place of `to` and the other way
    /// round. Both are in the same directory.
    ///
    /// # Errors
    /// As `renameat2(2)` gives them; `EINVAL` where the filesystem cannot exchange.
    pub fn exchange(&self, from: &Path, to: &Path) -> Result<()> {
        self.io(Change::Rename, "exchange", from, || {
            rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::EXCHANGE)?;
            sync_parent(from)
        })
    }

    /// Renames, durably, never over something.
    ///
    /// # Errors
    /// `EEXIST` where `to` is taken.
    pub fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.io(Change::Rename, "rename", from, || {
            match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
                Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
                    // A filesystem without RENAME_NOREPLACE. The names are the engine's own, so
                    // nobody races for them.
                    if to.symlink_metadata().is_ok() {
                        return Err(io::Error::from_raw_os_error(libc::EEXIST));
                    }
                    std::fs::rename(from, to)?;
                }
                outcome => outcome?,
            }
            sync_parent(from)?;
            if from.parent() == to.parent() { Ok(()) } else { sync_parent(to) }
        })
    }

    /// Makes a directory with exactly this mode, durably.
    ///
    /// # Errors
    /// `EEXIST` where the name is taken.
    pub fn make_directory(&self, path: &Path, mode: u32) -> Result<()> {
        self.io(Change::MakeDirectory, "create", path, || {
            rustix::fs::mkdir(path, Mode::from_raw_mode(0o700))?;
            rustix::fs::chmod(path, Mode::from_raw_mode(mode))?;
            sync_parent(path)
        })
    }

    /// Removes an empty directory, durably.
    ///
    /// # Errors
    /// `ENOTEMPTY`, `EBUSY` for a mount point, and what else `rmdir(2)` gives.
    pub fn remove_directory(&self, path: &Path) -> Result<()> {
        self.io(Change::RemoveDirectory, "remove", path, || {
            std::fs::remove_dir(path)?;
            sync_parent(path)
        })
    }

    /// Makes a symlink, durably.
    ///
    /// # Errors
    /// `EEXIST` where the name is taken.
    pub fn make_symlink(&self, target: &Path, path: &Path) -> Result<()> {
        self.io(Change::MakeSymlink, "create", path, || {
            std::os::unix::fs::symlink(target, path)?;
            sync_parent(path)
        })
    }

    /// Removes a name of anything but a directory, durably.
    ///
    /// # Errors
    /// As `unlink(2)` gives them.
    pub fn unlink(&self, path: &Path) -> Result<()> {
        self.io(Change::Unlink, "remove", path, || {
            std::fs::remove_file(path)?;
            sync_parent(path)
        })
    }

    /// Writes a new small file beside others, mode 0600, whole or not at all.
    ///
    /// # Errors
    /// `EEXIST` where the name is taken.
    pub fn create_file(&self, change: Change, path: &Path, content: &[u8]) -> Result<()> {
        self.io(change, "create", path, || {
            match create_unnamed(parent_of(path)) {
                Ok(mut file) => {
                    file.write_all(content)?;
                    file.sync_all()?;
                    let place = format!("/proc/self/fd/{}", file.as_raw_fd());
                    linkat(CWD, place, CWD, path, AtFlags::SYMLINK_FOLLOW)?;
                }
                Err(error) if lacks_unnamed_files(&error) => {
                    let mut temporary = tempfile::Builder::new()
                        .prefix(".strongroom-new-")
                        .tempfile_in(parent_of(path))?;
                    temporary.write_all(content)?;
                    temporary.as_file().sync_all()?;
                    temporary.persist_noclobber(path).map_err(|error| error.error)?;
                }
                Err(error) => return Err(error),
            }
            sync_parent(path)
        })
    }

    /// Sets or clears the immutable flag of a directory; `false` where the filesystem or the
    /// caller's rights do not allow it.
    ///
    /// # Errors
    /// When the directory cannot be opened.
    pub fn set_immutable(&self, path: &Path, immutable: bool) -> Result<bool> {
        self.io(Change::Protect, "protect", path, || {
            let directory = open_directory(path)?;
            let Ok(flags) = rustix::fs::ioctl_getflags(&directory) else { return Ok(false) };
            let mut wanted = flags;
            wanted.set(IFlags::IMMUTABLE, immutable);
            Ok(wanted == flags || rustix::fs::ioctl_setflags(&directory, wanted).is_ok())
        })
    }
}

/// A file that nothing is left of when this process is killed before it got its name.
fn create_unnamed(directory: &Path) -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(directory, flags, Mode::RUSR | Mode::WUSR)?))
}

/// Whether the filesystem does not know `O_TMPFILE`; see open(2).
fn lacks_unnamed_files(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR | libc::ENOENT))
}

/// Clears the immutable flag of a bare mount point, where it is set and may be; for whoever removes
/// a directory in which a migration was tried.
pub fn unprotect(path: &Path) {
    if let Ok(directory) = open_directory(path)
        && let Ok(flags) = rustix::fs::ioctl_getflags(&directory)
        && flags.contains(IFlags::IMMUTABLE)
    {
        let _ = rustix::fs::ioctl_setflags(&directory, flags - IFlags::IMMUTABLE);
    }
}

/// Opens a directory, never through a symlink in its last component.
pub(super) fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

/// The directory that a path is in.
pub(super) fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// A sibling of `path`: its name between `prefix` and `suffix`.
pub(super) fn sibling(path: &Path, prefix: &str, suffix: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default();
    // The longest prefix and suffix in use leave room for 200 bytes of 255.
    let kept = &name.as_bytes()[..name.len().min(200)];
    let mut bytes = prefix.as_bytes().to_vec();
    bytes.extend_from_slice(kept);
    bytes.extend_from_slice(suffix.as_bytes());
    parent_of(path).join(std::ffi::OsStr::from_bytes(&bytes))
}

/// Makes the entries of the directory that holds `path` durable.
pub(super) fn sync_parent(path: &Path) -> io::Result<()> {
    std::fs::File::open(parent_of(path))?.sync_all()
}

/// Whether a path names something, a dangling symlink included.
///
/// # Errors
/// When that cannot be told.
pub(super) fn exists(path: &Path) -> io::Result<bool> {
    match rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

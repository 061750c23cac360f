//! A tree in a local directory.
//!
//! Everything is reached from one open directory, downwards, without following a symlink: who
//! swaps a directory for a symlink while it is being read or written gets an error.

mod content;
mod descent;
mod direct;
mod inspect;
mod listing;
mod names;
mod remove;
mod walk;
mod write;
mod xattr;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::error::{Error, Operation, Result};
use super::path::{PathText, TreePath};
use super::types::{Entry, EntryKind, Metadata};
use super::{ContentReader, Exclude, TreeReader, Walk};
use inspect::XattrsOf;
pub use listing::Listing;
pub use write::Rename;

/// Bytes of a path handed to the kernel at once; `PATH_MAX` is 4096 with its NUL.
const PATH_CHUNK: usize = 4000;

/// How a [`LocalTree`] makes what it wrote durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// By one `syncfs(2)` where the filesystem keeps that promise, else (FUSE) file by file.
    #[default]
    Automatic,
    /// By one `syncfs(2)` at [`super::TreeWriter::sync`].
    Filesystem,
    /// By an `fsync(2)` of each file and directory as it is finished.
    EachFile,
}

/// A directory of this machine, as a reader and a writer.
///
/// Other filesystems mounted below it are reported, not visited, unless
/// [`Self::crossing_mounts`]. Extended attributes of what cannot be opened are reached through
/// `/proc`, which must be mounted.
pub struct LocalTree {
    root: OwnedFd,
    /// What messages call it.
    described: Arc<str>,
    device: u64,
    cross_mounts: bool,
    xattrs: bool,
    each_file: bool,
    /// Whether large files are read past the kernel's cache.
    direct: bool,
    /// Of how many entries not everything was set, where that is no error.
    left: Option<Arc<AtomicU64>>,
    /// Whether what is made here inherits nothing, and nobody else is let in to it.
    bare: AtomicBool,
    /// False where the kernel or a sandbox withholds `openat2(2)`.
    resolve_at_once: bool,
}

impl LocalTree {
    /// Opens an existing directory. `path` itself may be or lead through symlinks: whoever
    /// names it means what it leads to.
    ///
    /// # Errors
    /// When it cannot be opened, is no directory, or `/proc` is not mounted.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let shown = path.as_ref();
        let error = |source: io::Error| Error::Io {
            operation: Operation::Open,
            tree: shown.display().to_string(),
            path: TreePath::root(),
            source,
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root =
            rustix::fs::open(shown, flags, Mode::empty()).map_err(|errno| error(errno.into()))?;
        let tree = Self::from_directory(root, shown).map_err(error)?;
        Ok(tree)
    }

    /// Takes over an open directory; `shown` is what messages call it.
    ///
    /// # Errors
    /// When it is no directory, or `/proc` is not mounted.
    pub fn from_directory(root: OwnedFd, shown: impl Into<PathBuf>) -> io::Result<Self> {
        let stat = inspect::stat(root.as_fd(), b"")?;
        if inspect::kind(&stat)? != EntryKind::Directory {
            return Err(Errno::NOTDIR.into());
        }
        if inspect::stat_followed(&xattr::descriptor_path(root.as_fd())).is_err() {
            return Err(io::Error::other("/proc is not mounted, and extended attributes need it"));
        }
        let resolve_at_once =
            rustix::fs::openat2(&root, ".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), BENEATH)
                .is_ok();
        let each_file = is_fuse(root.as_fd());
        let device = inspect::device(&stat);
        let shown = shown.into();
        Ok(Self {
            root,
            described: PathText(shown.as_os_str().as_bytes()).to_string().into(),
            device,
            cross_mounts: false,
            xattrs: true,
            each_file,
            direct: false,
            left: None,
            bare: AtomicBool::new(false),
            resolve_at_once,
        })
    }

    /// Visits what is mounted below, too.
    #[must_use]
    pub fn crossing_mounts(mut self) -> Self {
        self.cross_mounts = true;
        self
    }

    /// Leaves out the extended attributes of all but the root: for whoever tells by the time of the
    /// inode's last change whether they are what they were.
    #[must_use]
    pub fn without_xattrs(mut self) -> Self {
        self.xattrs = false;
        self
    }

    /// Reads large files from the disk, whatever the kernel holds of them, where the filesystem
    /// permits it.
    #[must_use]
    pub fn from_the_disk(mut self) -> Self {
        self.direct = true;
        self
    }

    /// Chooses how what is written becomes durable.
    #[must_use]
    pub fn with_durability(mut self, durability: Durability) -> Self {
        self.each_file = match durability {
            Durability::Automatic => is_fuse(self.root.as_fd()),
            Durability::Filesystem => false,
            Durability::EachFile => true,
        };
        self
    }

    /// Lets go what only root may set, which is an error otherwise: other owners, `trusted`
    /// attributes, capabilities. A set-user-ID bit is not given to another owner.
    #[must_use]
    pub fn as_permitted(mut self) -> Self {
        self.left = Some(Arc::default());
        self
    }

    /// Makes an empty directory, which is about to be filled, private until it gets its metadata.
    /// Where it has neither a default ACL nor the set-group-ID bit (both stay), that also spares asking
    /// what is made in it for what it inherited, and changing its mode. Nobody else may make entries in
    /// it meanwhile.
    #[must_use]
    pub fn filling_an_empty_one(self) -> Self {
        let bare = self.make_private_if_empty().unwrap_or(false);
        self.bare.store(bare, Ordering::Relaxed);
        self
    }

    fn make_private_if_empty(&self) -> rustix::io::Result<bool> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let opened = self.open_below(b"", flags, Mode::empty())?;
        if names::Names::list(opened.as_fd())?.get(0).is_some() {
            return Ok(false);
        }
        let before = u32::from(inspect::stat(opened.as_fd(), b"")?.stx_mode);
        rustix::fs::fchmod(&opened, Mode::RWXU | Mode::from_raw_mode(before & 0o2000))?;
        // As the filesystem has it, which may keep the one bit.
        let stat = inspect::stat(opened.as_fd(), b"")?;
        // The descriptor's own path is a symlink, which would not be followed.
        let xattrs = xattr::read_all(&xattr::name_path(opened.as_fd(), b"."))?;
        Ok(u32::from(stat.stx_mode) & 0o7777 == 0o700
            && !xattrs.iter().any(|xattr| xattr.name.0 == xattr::DEFAULT_ACL))
    }

    fn is_bare(&self) -> bool {
        self.bare.load(Ordering::Relaxed)
    }

    /// To be called before a directory gets its metadata: what is made in it afterwards may inherit.
    fn gives_on(&self, metadata: &Metadata) {
        let acl = metadata.xattrs.iter().any(|xattr| xattr.name.0 == xattr::DEFAULT_ACL);
        if acl || metadata.mode & 0o2000 != 0 {
            self.bare.store(false, Ordering::Relaxed);
        }
    }

    /// Of how many entries something was let go.
    pub fn let_go_of(&self) -> u64 {
        self.left.as_ref().map_or(0, |left| left.load(Ordering::Relaxed))
    }

    /// The names in a directory, sorted by their bytes.
    ///
    /// # Errors
    /// When it cannot be listed.
    pub fn names(&self, directory: &TreePath) -> Result<Vec<Vec<u8>>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK;
        let names = self
            .open_below(directory.as_bytes(), flags, Mode::empty())
            .and_then(|opened| names::Names::list(opened.as_fd()))
            .map_err(|errno| self.error(Operation::List, directory, errno))?;
        Ok(names.iter().map(<[u8]>::to_vec).collect())
    }

    /// Opens `path` without following symlinks, anywhere in it.
    fn open_below(&self, path: &[u8], flags: OFlags, mode: Mode) -> rustix::io::Result<OwnedFd> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut directory: Option<OwnedFd> = None;
        let mut rest = path;
        loop {
            let at = directory.as_ref().map_or(self.root.as_fd(), |fd| fd.as_fd());
            let head = self.next_step(rest);
            if head == rest.len() {
                let name = if rest.is_empty() { &b"."[..] } else { rest };
                return self.open_step(at, name, flags, mode);
            }
            let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            directory = Some(self.open_step(at, &rest[..head], step, Mode::empty())?);
            rest = &rest[head + 1..];
        }
    }

    /// How much of a path the kernel is given at once.
    fn next_step(&self, path: &[u8]) -> usize {
        let slash = |bytes: &[u8]| bytes.iter().position(|byte| *byte == b'/');
        if !self.resolve_at_once {
            return slash(path).unwrap_or(path.len());
        }
        if path.len() <= PATH_CHUNK {
            return path.len();
        }
        // Components are at most 255 bytes, so there is a slash.
        path[..PATH_CHUNK].iter().rposition(|byte| *byte == b'/').unwrap_or(path.len())
    }

    fn open_step(
        &self,
        at: BorrowedFd<'_>,
        path: &[u8],
        flags: OFlags,
        mode: Mode,
    ) -> rustix::io::Result<OwnedFd> {
        if self.resolve_at_once {
            rustix::fs::openat2(at, path, flags, mode, BENEATH)
        } else {
            rustix::fs::openat(at, path, flags, mode)
        }
    }

    /// The directory that holds `path`, and the name in it (`.` for the root).
    fn parent<'a>(&'a self, path: &'a TreePath) -> rustix::io::Result<(Parent<'a>, &'a [u8])> {
        match path.split() {
            None => Ok((Parent::Root(self.root.as_fd()), b".")),
            Some((b"", name)) => Ok((Parent::Root(self.root.as_fd()), name)),
            Some((parent, name)) => {
                let flags = OFlags::PATH | OFlags::DIRECTORY;
                Ok((Parent::Below(self.open_below(parent, flags, Mode::empty())?), name))
            }
        }
    }

    fn error(&self, operation: Operation, path: &TreePath, source: impl Into<io::Error>) -> Error {
        Error::Io { operation, tree: self.describe(), path: path.clone(), source: source.into() }
    }

    fn changed(&self, path: &TreePath) -> Error {
        Error::Changed { tree: self.describe(), path: path.clone() }
    }
}

const BENEATH: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

enum Parent<'a> {
    Root(BorrowedFd<'a>),
    Below(OwnedFd),
}

impl AsFd for Parent<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Root(fd) => fd.as_fd(),
            Self::Below(fd) => fd.as_fd(),
        }
    }
}

/// Whether a FUSE daemon stands behind the directory: `syncfs(2)` doesn't reach one.
fn is_fuse(directory: BorrowedFd<'_>) -> bool {
    const FUSE_SUPER_MAGIC: rustix::fs::FsWord = 0x6573_5546;
    rustix::fs::fstatfs(directory).is_ok_and(|stat| stat.f_type == FUSE_SUPER_MAGIC)
}

impl TreeReader for LocalTree {
    fn describe(&self) -> String {
        self.described.to_string()
    }

    fn walk<'a>(&'a self, exclude: Exclude<'a>) -> Result<Walk<'a>> {
        Ok(Box::new(walk::LocalWalk::new(self, exclude, XattrsOf::All)))
    }

    fn walk_to_read<'a>(&'a self, exclude: Exclude<'a>) -> Result<Walk<'a>> {
        Ok(Box::new(walk::LocalWalk::new(self, exclude, XattrsOf::AllButFiles)))
    }

    fn entry(&self, path: &TreePath) -> Result<Entry> {
        let error = |errno| self.error(Operation::Inspect, path, errno);
        let (parent, name) = self.parent(path).map_err(error)?;
        let (entry, _) = self.inspect(parent.as_fd(), name, path.clone(), XattrsOf::All)?;
        Ok(entry)
    }

    fn content(&self, entry: &Entry) -> Result<Box<dyn ContentReader>> {
        self.open_content(entry)
    }
}

#[cfg(test)]
mod tests;

//! A FUSE filesystem that shows a directory as it is, with the adapter and the kernel settings
//! that vaults are mounted with, and no encryption: what they could reach at best.
//!
//! `passthrough SOURCE MOUNTPOINT [--allow-other]` serves until it is unmounted. Keeps a
//! descriptor for every directory that the kernel knows, and for some files.

use std::collections::{HashMap, VecDeque, hash_map};
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock};
use rustix::fs::{
    AtFlags, FallocateFlags, Gid, Mode, OFlags, RenameFlags, SeekFrom, Timespec, Uid,
};
use rustix::fs::{UTIME_NOW, UTIME_OMIT, XattrFlags};
use rustix::io::Errno;
use strongroom::backing::{
    Access, FileKind, FilesystemStat, RenameMode, SetTime, Timestamp, XattrMode,
};
use strongroom::fuse::{MountOptions, MountPoint, MountedVault, Operations};
use strongroom::vault::{
    Attributes, CachedName, Caller, DirectoryEntry, Entry, Error, FallocateMode, InodeNumber,
    Result, SeekWhence, SetAttributes,
};

/// Files that are kept open, of those that the kernel knows and that have a name.
const KEPT_OPEN: usize = 1000;

struct Node {
    /// Of a directory, `O_PATH`.
    directory: Option<OwnedFd>,
    /// The directory that it is in and its name there; `None` for the root, and once it has none.
    location: Mutex<Option<(Arc<Node>, CString)>>,
    /// Opened for reading and writing when first needed.
    content: Mutex<Option<Arc<OwnedFd>>>,
    lookups: Mutex<u64>,
}

impl Node {
    /// What names are looked up in.
    fn directory(&self) -> Result<BorrowedFd<'_>> {
        self.directory.as_ref().map(OwnedFd::as_fd).ok_or(Error::NotDirectory)
    }

    /// Runs with the directory and the name by which it is found.
    fn at<T>(&self, run: impl FnOnce(BorrowedFd<'_>, &CStr) -> Result<T>) -> Result<T> {
        let location = self.location.lock().clone();
        match location {
            Some((parent, name)) => run(parent.directory()?, &name),
            None => run(self.directory()?, c"."),
        }
    }
}

struct Passthrough {
    root_ino: u64,
    nodes: RwLock<HashMap<u64, Arc<Node>>>,
    kept_open: Mutex<VecDeque<Weak<Node>>>,
}

fn fail(errno: Errno) -> Error {
    Error::Backing(io::Error::from_raw_os_error(errno.raw_os_error()))
}

fn text(name: &[u8]) -> Result<CString> {
    CString::new(name).map_err(|_| Error::Invalid)
}

fn kind(mode: u32) -> FileKind {
    match mode & libc::S_IFMT {
        libc::S_IFDIR => FileKind::Directory,
        libc::S_IFLNK => FileKind::Symlink,
        libc::S_IFIFO => FileKind::Fifo,
        libc::S_IFSOCK => FileKind::Socket,
        libc::S_IFCHR => FileKind::CharacterDevice,
        libc::S_IFBLK => FileKind::BlockDevice,
        _ => FileKind::Regular,
    }
}

impl Passthrough {
    fn new(source: &Path) -> Result<Self> {
        let place = rustix::fs::open(source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .map_err(fail)?;
        let root_ino = rustix::fs::fstat(&place).map_err(fail)?.st_ino;
        let root = Node {
            directory: Some(place),
            location: Mutex::default(),
            content: Mutex::default(),
            lookups: 1.into(),
        };
        let nodes = RwLock::new(HashMap::from([(1, Arc::new(root))]));
        Ok(Self { root_ino, nodes, kept_open: Mutex::default() })
    }

    fn node(&self, ino: InodeNumber) -> Result<Arc<Node>> {
        self.nodes.read().get(&ino.0).cloned().ok_or(Error::Stale)
    }

    fn number(&self, ino: u64) -> u64 {
        if ino == self.root_ino { 1 } else { ino }
    }

    fn attributes_of(&self, stat: &rustix::fs::Stat) -> Attributes {
        let time = |seconds, nanoseconds| Timestamp {
            seconds,
            nanoseconds: u32::try_from(nanoseconds).unwrap_or(0),
        };
        Attributes {
            ino: InodeNumber(self.number(stat.st_ino)),
            kind: kind(stat.st_mode),
            mode: stat.st_mode & 0o7777,
            links: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
            uid: stat.st_uid,
            gid: stat.st_gid,
            rdev: u32::try_from(stat.st_rdev).unwrap_or(0),
            size: u64::try_from(stat.st_size).unwrap_or(0),
            blocks: u64::try_from(stat.st_blocks).unwrap_or(0),
            accessed: time(stat.st_atime, stat.st_atime_nsec),
            modified: time(stat.st_mtime, stat.st_mtime_nsec),
            changed: time(stat.st_ctime, stat.st_ctime_nsec),
        }
    }

    fn entry(&self, parent: &Arc<Node>, name: &[u8], content: Option<OwnedFd>) -> Result<Entry> {
        let name = text(name)?;
        let at = parent.directory()?;
        let stat = match &content {
            Some(content) => rustix::fs::fstat(content),
            None => rustix::fs::statat(at, &name, AtFlags::SYMLINK_NOFOLLOW),
        };
        let attributes = self.attributes_of(&stat.map_err(fail)?);
        let mut nodes = self.nodes.write();
        let node = match nodes.entry(attributes.ino.0) {
            hash_map::Entry::Occupied(known) => known.get().clone(),
            hash_map::Entry::Vacant(place) => {
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let directory = match attributes.kind {
                    FileKind::Directory => {
                        Some(rustix::fs::openat(at, &name, flags, Mode::empty()).map_err(fail)?)
                    }
                    _ => None,
                };
                place
                    .insert(Arc::new(Node {
                        directory,
                        location: Mutex::default(),
                        content: Mutex::default(),
                        lookups: 0.into(),
                    }))
                    .clone()
            }
        };
        *node.lookups.lock() += 1;
        drop(nodes);
        *node.location.lock() = Some((parent.clone(), name));
        if let Some(content) = content {
            *node.content.lock() = Some(Arc::new(content));
            self.keep_open(&node);
        }
        Ok(Entry { attributes, generation: 0 })
    }

    fn content(&self, node: &Arc<Node>) -> Result<Arc<OwnedFd>> {
        if let Some(content) = &*node.content.lock() {
            return Ok(content.clone());
        }
        let opened = node.at(|at, name| {
            let open = |flags| rustix::fs::openat(at, name, flags | OFlags::CLOEXEC, Mode::empty());
            open(OFlags::RDWR).or_else(|_| open(OFlags::RDONLY)).map_err(fail)
        })?;
        let opened = node.content.lock().get_or_insert_with(|| Arc::new(opened)).clone();
        self.keep_open(node);
        Ok(opened)
    }

    /// Closes the file that was opened first, where there are too many.
    fn keep_open(&self, node: &Arc<Node>) {
        let mut kept = self.kept_open.lock();
        kept.push_back(Arc::downgrade(node));
        if kept.len() > KEPT_OPEN
            && let Some(first) = kept.pop_front().and_then(|first| first.upgrade())
            && first.location.lock().is_some()
        {
            *first.content.lock() = None;
        }
    }

    /// Before a name goes: what the kernel knows by it stays open, so that its number stays its own.
    fn pin(&self, parent: &Node, name: &CStr) -> Result<()> {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let Ok(stat) = rustix::fs::statat(parent.directory()?, name, flags) else { return Ok(()) };
        let known = self.nodes.read().get(&self.number(stat.st_ino)).cloned();
        if let Some(node) = known
            && kind(stat.st_mode) == FileKind::Regular
        {
            self.content(&node)?;
            if stat.st_nlink == 1 {
                *node.location.lock() = None;
            }
        }
        Ok(())
    }

    fn own(&self, caller: &Caller, node: &Node, name: &[u8]) -> Result<()> {
        if caller.uid == 0 && caller.gid == 0 {
            return Ok(());
        }
        let (uid, gid) = (Uid::from_raw(caller.uid), Gid::from_raw(caller.gid));
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::chownat(node.directory()?, text(name)?, Some(uid), Some(gid), flags)
            .map_err(fail)
    }

    /// A path for what takes no directory.
    fn path_of(node: &Node) -> Result<Vec<u8>> {
        node.at(|at, name| {
            let mut path = format!("/proc/self/fd/{}/", at.as_raw_fd()).into_bytes();
            path.extend_from_slice(name.to_bytes());
            Ok(path)
        })
    }
}

impl Operations for Passthrough {
    fn lookup(&self, parent: InodeNumber, name: &[u8]) -> Result<Entry> {
        let parent = self.node(parent)?;
        self.entry(&parent, name, None).map_err(|error| match error.errno() {
            libc::ENOENT => Error::NotFound,
            _ => error,
        })
    }
    fn forget(&self, ino: InodeNumber, count: u64) {
        let mut nodes = self.nodes.write();
        let gone = nodes.get(&ino.0).is_some_and(|node| {
            let mut lookups = node.lookups.lock();
            *lookups = lookups.saturating_sub(count);
            *lookups == 0
        });
        if gone {
            nodes.remove(&ino.0);
        }
    }
    fn attributes(&self, ino: InodeNumber) -> Result<Attributes> {
        let node = self.node(ino)?;
        let content = node.content.lock().clone();
        let stat = match content {
            Some(content) => rustix::fs::fstat(content).map_err(fail)?,
            None => node.at(|at, name| {
                rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW).map_err(fail)
            })?,
        };
        Ok(self.attributes_of(&stat))
    }
    fn set_attributes(&self, ino: InodeNumber, changes: &SetAttributes) -> Result<Attributes> {
        let node = self.node(ino)?;
        if let Some(mode) = changes.mode {
            let mode = Mode::from_raw_mode(mode);
            node.at(|at, name| {
                rustix::fs::chmodat(at, name, mode, AtFlags::empty()).map_err(fail)
            })?;
        }
        if changes.uid.is_some() || changes.gid.is_some() {
            let (uid, gid) = (changes.uid.map(Uid::from_raw), changes.gid.map(Gid::from_raw));
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            node.at(|at, name| rustix::fs::chownat(at, name, uid, gid, flags).map_err(fail))?;
        }
        if let Some(size) = changes.size {
            rustix::fs::ftruncate(&*self.content(&node)?, size).map_err(fail)?;
        }
        if (changes.accessed, changes.modified) != (SetTime::Keep, SetTime::Keep) {
            let time = |time| match time {
                SetTime::Keep => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
                SetTime::Now => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
                SetTime::At(at) => Timespec { tv_sec: at.seconds, tv_nsec: at.nanoseconds.into() },
            };
            let times = rustix::fs::Timestamps {
                last_access: time(changes.accessed),
                last_modification: time(changes.modified),
            };
            let content = node.content.lock().clone();
            match content {
                Some(content) => rustix::fs::futimens(content, &times).map_err(fail)?,
                None => node.at(|at, name| {
                    let flags = AtFlags::SYMLINK_NOFOLLOW;
                    rustix::fs::utimensat(at, name, &times, flags).map_err(fail)
                })?,
            }
        }
        self.attributes(ino)
    }
    fn read_link(&self, ino: InodeNumber) -> Result<Vec<u8>> {
        let node = self.node(ino)?;
        let target =
            node.at(|at, name| rustix::fs::readlinkat(at, name, Vec::new()).map_err(fail))?;
        Ok(target.into_bytes())
    }
    fn create(
        &self,
        caller: &Caller,
        parent: InodeNumber,
        name: &[u8],
        mode: u32,
    ) -> Result<Entry> {
        let node = self.node(parent)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(mode & !caller.umask);
        let content =
            rustix::fs::openat(node.directory()?, text(name)?, flags, mode).map_err(fail)?;
        self.own(caller, &node, name)?;
        self.entry(&node, name, Some(content))
    }
    fn make_node(
        &self,
        caller: &Caller,
        parent: InodeNumber,
        name: &[u8],
        mode: u32,
        rdev: u32,
    ) -> Result<Entry> {
        let node = self.node(parent)?;
        let kind = rustix::fs::FileType::from_raw_mode(mode);
        let bits = Mode::from_raw_mode(mode & 0o7777 & !caller.umask);
        rustix::fs::mknodat(node.directory()?, text(name)?, kind, bits, rdev.into())
            .map_err(fail)?;
        self.own(caller, &node, name)?;
        self.entry(&node, name, None)
    }
    fn make_directory(
        &self,
        caller: &Caller,
        parent: InodeNumber,
        name: &[u8],
        mode: u32,
    ) -> Result<Entry> {
        let node = self.node(parent)?;
        let mode = Mode::from_raw_mode(mode & !caller.umask);
        rustix::fs::mkdirat(node.directory()?, text(name)?, mode).map_err(fail)?;
        self.own(caller, &node, name)?;
        self.entry(&node, name, None)
    }
    fn make_symlink(
        &self,
        caller: &Caller,
        parent: InodeNumber,
        name: &[u8],
        target: &[u8],
    ) -> Result<Entry> {
        let node = self.node(parent)?;
        rustix::fs::symlinkat(text(target)?, node.directory()?, text(name)?).map_err(fail)?;
        self.own(caller, &node, name)?;
        self.entry(&node, name, None)
    }
    fn hard_link(&self, ino: InodeNumber, parent: InodeNumber, name: &[u8]) -> Result<Entry> {
        let (node, parent) = (self.node(ino)?, self.node(parent)?);
        node.at(|at, old| {
            rustix::fs::linkat(at, old, parent.directory()?, text(name)?, AtFlags::empty())
                .map_err(fail)
        })?;
        self.entry(&parent, name, None)
    }
    fn unlink(&self, parent: InodeNumber, name: &[u8]) -> Result<()> {
        let node = self.node(parent)?;
        let name = text(name)?;
        self.pin(&node, &name)?;
        rustix::fs::unlinkat(node.directory()?, &name, AtFlags::empty()).map_err(fail)
    }
    fn remove_directory(&self, parent: InodeNumber, name: &[u8]) -> Result<()> {
        let node = self.node(parent)?;
        rustix::fs::unlinkat(node.directory()?, text(name)?, AtFlags::REMOVEDIR).map_err(fail)
    }
    fn rename(
        &self,
        parent: InodeNumber,
        name: &[u8],
        new_parent: InodeNumber,
        new_name: &[u8],
        mode: RenameMode,
    ) -> Result<()> {
        let (from, to) = (self.node(parent)?, self.node(new_parent)?);
        let flags = match mode {
            RenameMode::Replace => RenameFlags::empty(),
            RenameMode::NoReplace => RenameFlags::NOREPLACE,
            RenameMode::Exchange => RenameFlags::EXCHANGE,
        };
        let (name, new_name) = (text(name)?, text(new_name)?);
        if mode == RenameMode::Replace {
            self.pin(&to, &new_name)?;
        }
        let (old, new) = (from.directory()?, to.directory()?);
        rustix::fs::renameat_with(old, &name, new, &new_name, flags).map_err(fail)?;
        let mut moved = vec![(to, new_name)];
        if mode == RenameMode::Exchange {
            moved.push((from, name));
        }
        for (parent, name) in moved {
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            let stat = rustix::fs::statat(parent.directory()?, &name, flags).map_err(fail)?;
            let known = self.nodes.read().get(&self.number(stat.st_ino)).cloned();
            if let Some(node) = known {
                *node.location.lock() = Some((parent, name));
            }
        }
        Ok(())
    }
    fn open_file(&self, ino: InodeNumber, _access: Access) -> Result<()> {
        self.content(&self.node(ino)?).map(drop)
    }
    fn release(&self, _ino: InodeNumber) {}
    fn read(&self, ino: InodeNumber, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let node = self.node(ino)?;
        let content = self.content(&node)?;
        let mut filled = 0;
        while filled < buffer.len() {
            let at = offset + u64::try_from(filled).unwrap_or(0);
            match rustix::io::pread(&*content, &mut buffer[filled..], at).map_err(fail)? {
                0 => break,
                count => filled += count,
            }
        }
        Ok(filled)
    }
    fn write(&self, ino: InodeNumber, mut offset: u64, mut data: &[u8]) -> Result<bool> {
        let node = self.node(ino)?;
        let content = self.content(&node)?;
        while !data.is_empty() {
            let count = rustix::io::pwrite(&*content, data, offset).map_err(fail)?;
            data = &data[count..];
            offset += u64::try_from(count).unwrap_or(0);
        }
        Ok(false)
    }
    fn sync(&self, ino: InodeNumber, data_only: bool) -> Result<()> {
        let node = self.node(ino)?;
        let content = self.content(&node)?;
        if data_only { rustix::fs::fdatasync(&*content) } else { rustix::fs::fsync(&*content) }
            .map_err(fail)
    }
    fn sync_directory(&self, ino: InodeNumber) -> Result<()> {
        let node = self.node(ino)?;
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory =
            rustix::fs::openat(node.directory()?, ".", flags, Mode::empty()).map_err(fail)?;
        rustix::fs::fsync(directory).map_err(fail)
    }
    fn fallocate(
        &self,
        ino: InodeNumber,
        mode: FallocateMode,
        offset: u64,
        len: u64,
    ) -> Result<()> {
        let keep = FallocateFlags::KEEP_SIZE;
        let flags = match mode {
            FallocateMode::Allocate => FallocateFlags::empty(),
            FallocateMode::AllocateKeepSize => keep,
            FallocateMode::PunchHole => FallocateFlags::PUNCH_HOLE | keep,
            FallocateMode::ZeroRange => FallocateFlags::ZERO_RANGE,
            FallocateMode::ZeroRangeKeepSize => FallocateFlags::ZERO_RANGE | keep,
        };
        rustix::fs::fallocate(&*self.content(&self.node(ino)?)?, flags, offset, len).map_err(fail)
    }
    fn seek(&self, ino: InodeNumber, offset: u64, whence: SeekWhence) -> Result<u64> {
        let from = match whence {
            SeekWhence::Data => SeekFrom::Data(offset),
            SeekWhence::Hole => SeekFrom::Hole(offset),
        };
        rustix::fs::seek(&*self.content(&self.node(ino)?)?, from).map_err(fail)
    }
    fn read_directory(
        &self,
        ino: InodeNumber,
        cookie: u64,
        attributes: bool,
        sink: &mut dyn FnMut(DirectoryEntry<'_>) -> bool,
    ) -> Result<()> {
        let node = self.node(ino)?;
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory =
            rustix::fs::openat(node.directory()?, ".", flags, Mode::empty()).map_err(fail)?;
        rustix::fs::seek(&directory, SeekFrom::Start(cookie)).map_err(fail)?;
        let mut space = Vec::with_capacity(64 * 1024);
        let mut listing = rustix::fs::RawDir::new(&directory, space.spare_capacity_mut());
        while let Some(raw) = listing.next() {
            let raw = raw.map_err(fail)?;
            let name = raw.file_name().to_bytes();
            let dots = matches!(name, b"." | b"..");
            let entry = if attributes && !dots {
                match self.entry(&node, name, None) {
                    Ok(entry) => Some(entry),
                    Err(_) => continue,
                }
            } else {
                None
            };
            let kind = entry
                .map_or_else(|| kind(raw.file_type().as_raw_mode()), |entry| entry.attributes.kind);
            let taken = sink(DirectoryEntry {
                name,
                ino: InodeNumber(self.number(raw.ino())),
                kind,
                next_cookie: raw.next_entry_cookie(),
                entry: entry.as_ref(),
            });
            if !taken {
                if let Some(entry) = entry {
                    self.forget(entry.attributes.ino, 1);
                }
                break;
            }
        }
        Ok(())
    }
    fn get_xattr(&self, ino: InodeNumber, name: &[u8]) -> Result<Vec<u8>> {
        let node = self.node(ino)?;
        let mut value = vec![0; 64 * 1024];
        let len = rustix::fs::lgetxattr(Self::path_of(&node)?, text(name)?, &mut value[..])
            .map_err(fail)?;
        value.truncate(len);
        Ok(value)
    }
    fn list_xattr(&self, ino: InodeNumber) -> Result<Vec<Vec<u8>>> {
        let node = self.node(ino)?;
        let mut list = vec![0u8; 64 * 1024];
        let len = rustix::fs::llistxattr(Self::path_of(&node)?, &mut list[..]).map_err(fail)?;
        let names = list[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty());
        Ok(names.map(<[u8]>::to_vec).collect())
    }
    fn set_xattr(
        &self,
        ino: InodeNumber,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
    ) -> Result<()> {
        let flags = match mode {
            XattrMode::Any => XattrFlags::empty(),
            XattrMode::Create => XattrFlags::CREATE,
            XattrMode::Replace => XattrFlags::REPLACE,
        };
        rustix::fs::lsetxattr(Self::path_of(&*self.node(ino)?)?, text(name)?, value, flags)
            .map_err(fail)
    }
    fn remove_xattr(&self, ino: InodeNumber, name: &[u8]) -> Result<()> {
        rustix::fs::lremovexattr(Self::path_of(&*self.node(ino)?)?, text(name)?).map_err(fail)
    }
    fn cached_inodes(&self) -> usize {
        self.nodes.read().len()
    }
    fn cached_part(&self, _part: usize, _parts: usize) -> Vec<InodeNumber> {
        Vec::new()
    }
    fn cached_name(&self, _ino: InodeNumber) -> Option<CachedName> {
        None
    }
    fn filesystem_stat(&self) -> Result<FilesystemStat> {
        let node = self.node(InodeNumber::ROOT)?;
        let stat = rustix::fs::fstatvfs(node.directory()?).map_err(fail)?;
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
    fn sync_all(&self) -> Result<()> {
        let node = self.node(InodeNumber::ROOT)?;
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root =
            rustix::fs::openat(node.directory()?, ".", flags, Mode::empty()).map_err(fail)?;
        rustix::fs::syncfs(root).map_err(fail)
    }
    fn close(self) -> Result<()> {
        self.sync_all()
    }
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(source), Some(place)) = (arguments.next(), arguments.next()) else {
        return Err("usage: passthrough SOURCE MOUNTPOINT [--allow-other]".into());
    };
    let (source, place) = (PathBuf::from(source), PathBuf::from(place));
    let mut options = MountOptions::default();
    options.kernel.allow_other = arguments.next().is_some_and(|option| option == "--allow-other");
    rustix::process::umask(Mode::empty());
    let mount_point = MountPoint::check(&place, &source, false)?;
    let core = Passthrough::new(&source)?;
    let mounted = MountedVault::mount(core, &source, &mount_point, &options)?;
    mounted.wait()?;
    Ok(())
}

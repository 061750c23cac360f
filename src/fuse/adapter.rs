//! The kernel's requests, each handed to one operation of the core and answered with its result
//! or errno. No knowledge of its own but the protocol's.
//!
//! A panic in an operation answers that request with `EIO` and a line in the log; the mount lives
//! on. The vault has one owner, so whatever the kernel was told stays true until the kernel itself
//! changes it: names, absent names and attributes are given to it for good.

mod answers;

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags,
    Generation, INodeNo, IoctlFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags, RenameFlags,
    ReplyAttr, ReplyBmap, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr,
    Request, TimeOrNow, WriteFlags,
};

pub(super) use self::answers::guarded;
use self::answers::{answer_sized, caller, loses_set_group_id};
use super::access::permits;
use super::convert::{
    fallocate_mode, file_attributes, file_type, inode, no_file, set_time, xattr_mode,
};
use super::cpu_latency::CpuLatency;
use super::negotiation::{AdapterSettings, negotiate};
use super::operations::Operations;
use super::pool::Pool;
use super::prune::{Means, Pruner};
use super::seek::{Seek, Seeker};
use crate::backing::{Access, RenameMode};
use crate::vault::{self, DirectoryEntry, SeekWhence, SetAttributes};

/// How long the kernel may believe what it was told: for good, in practice.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);
/// The extended attribute that holds a file's access ACL.
const ACCESS_ACL: &[u8] = b"system.posix_acl_access";

/// A core, served to the kernel.
pub(super) struct Adapter<C> {
    core: Arc<C>,
    settings: AdapterSettings,
    /// Whether the kernel takes `ENOSYS` for "opens need no message".
    stateless_opens: bool,
    stateless_directory_opens: bool,
    seeker: Seeker,
    pruner: Pruner,
    /// Server threads that are making something durable.
    syncing: AtomicUsize,
    /// Requests so far, by which idleness is known.
    requests: Arc<AtomicU64>,
    cpu_latency: CpuLatency,
    pool: Pool,
}

thread_local! {
    /// What is read goes through here, so that reading allocates nothing.
    static READ_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl<C: Operations> Adapter<C> {
    pub(super) fn new(
        core: Arc<C>,
        settings: AdapterSettings,
        seeker: Seeker,
        pruner: Pruner,
    ) -> Self {
        let requests = Arc::<AtomicU64>::default();
        Self {
            core,
            settings,
            stateless_opens: false,
            stateless_directory_opens: false,
            seeker,
            pruner,
            syncing: AtomicUsize::new(0),
            cpu_latency: CpuLatency::new(Arc::clone(&requests), !settings.power_saving),
            requests,
            pool: Pool::default(),
        }
    }

    /// Counts the requests; for whoever watches.
    pub(super) fn requests(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.requests)
    }
}

impl<C> Drop for Adapter<C> {
    fn drop(&mut self) {
        // The pool waits for all its work.
        self.pruner.close();
    }
}

impl<C: Operations> Filesystem for Adapter<C> {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let agreed = negotiate(config, self.settings);
        self.stateless_opens = agreed.stateless_opens;
        self.stateless_directory_opens = agreed.stateless_directory_opens;
        let abi = config.kernel_abi();
        self.pruner.use_means(Means::of_version(abi.0, abi.1));
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.call("lookup", |core| match core.lookup(inode(parent), name.as_bytes()) {
            Err(vault::Error::NotFound) => Ok(None),
            other => other.map(Some),
        });
        match found {
            Ok(Some(entry)) => reply.entry(
                &FOREVER,
                &file_attributes(&entry.attributes),
                Generation(entry.generation),
            ),
            Ok(None) => return reply.entry(&FOREVER, &no_file(), Generation(0)),
            Err(errno) => return reply.error(errno),
        }
        self.pruner.inodes_were_added(&self.core, &self.pool);
    }

    fn forget(&self, _request: &Request, ino: INodeNo, count: u64) {
        let _ = self.call("forget", |core| {
            core.forget(inode(ino), count);
            Ok(())
        });
    }

    fn getattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        match self.call("getattr", |core| core.attributes(inode(ino))) {
            Ok(attributes) => reply.attr(&FOREVER, &file_attributes(&attributes)),
            Err(errno) => reply.error(errno),
        }
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        accessed: Option<TimeOrNow>,
        modified: Option<TimeOrNow>,
        _changed: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _created: Option<SystemTime>,
        _change_time: Option<SystemTime>,
        _backed_up: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        // The kernel's own flag for it is not delivered; root is who has CAP_FSETID.
        let kill_privileges = size.is_some() && request.uid() != 0;
        let changed = self.call("setattr", |core| {
            let changes = SetAttributes {
                mode: mode.map(|mode| mode & 0o7777),
                uid,
                gid,
                size,
                accessed: set_time(accessed),
                modified: set_time(modified),
                kill_privileges,
                outside_group: kill_privileges && loses_set_group_id(core, request, inode(ino))?,
            };
            core.set_attributes(inode(ino), &changes)
        });
        match changed {
            Ok(attributes) => reply.attr(&FOREVER, &file_attributes(&attributes)),
            Err(errno) => reply.error(errno),
        }
    }

    fn readlink(&self, _request: &Request, ino: INodeNo, reply: ReplyData) {
        match self.call("readlink", |core| core.read_link(inode(ino))) {
            Ok(target) => reply.data(&target),
            Err(errno) => reply.error(errno),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let caller = caller(request, umask);
        self.answer_entry("mknod", reply, |core| {
            core.make_node(&caller, inode(parent), name.as_bytes(), mode, rdev)
        });
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let caller = caller(request, umask);
        self.answer_entry("mkdir", reply, |core| {
            core.make_directory(&caller, inode(parent), name.as_bytes(), mode & 0o7777)
        });
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.answer("unlink", reply, |core| core.unlink(inode(parent), name.as_bytes()));
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.answer("rmdir", reply, |core| core.remove_directory(inode(parent), name.as_bytes()));
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let caller = caller(request, 0);
        self.answer_entry("symlink", reply, |core| {
            let target = target.as_os_str().as_bytes();
            core.make_symlink(&caller, inode(parent), name.as_bytes(), target)
        });
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mode = if flags.is_empty() {
            RenameMode::Replace
        } else if flags == RenameFlags::RENAME_NOREPLACE {
            RenameMode::NoReplace
        } else if flags == RenameFlags::RENAME_EXCHANGE {
            RenameMode::Exchange
        } else {
            return reply.error(Errno::EINVAL);
        };
        self.answer("rename", reply, |core| {
            core.rename(
                inode(parent),
                name.as_bytes(),
                inode(new_parent),
                new_name.as_bytes(),
                mode,
            )
        });
    }

    fn link(
        &self,
        _request: &Request,
        ino: INodeNo,
        parent: INodeNo,
        name: &OsStr,
        reply: ReplyEntry,
    ) {
        self.answer_entry("link", reply, |core| {
            core.hard_link(inode(ino), inode(parent), name.as_bytes())
        });
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if self.stateless_opens {
            return reply.error(Errno::ENOSYS);
        }
        // With the kernel's writeback cache a file open for writing is read, too.
        let access = match flags.acc_mode() {
            OpenAccMode::O_RDONLY => Access::Read,
            OpenAccMode::O_WRONLY | OpenAccMode::O_RDWR => Access::ReadWrite,
        };
        let opened = self.call("open", |core| {
            // The core may have the file open already, with the permissions of another day.
            if !self.settings.kernel_permissions {
                let attributes = core.attributes(inode(ino))?;
                let mask = match flags.acc_mode() {
                    OpenAccMode::O_RDONLY => AccessFlags::R_OK,
                    OpenAccMode::O_WRONLY => AccessFlags::W_OK,
                    OpenAccMode::O_RDWR => AccessFlags::R_OK | AccessFlags::W_OK,
                };
                if attributes.uid == request.uid() && !permits(&attributes, request, mask) {
                    return Err(io::Error::from_raw_os_error(libc::EACCES).into());
                }
            }
            core.open_file(inode(ino), access)
        });
        match opened {
            Ok(()) => {
                if access == Access::ReadWrite {
                    self.seeker.opened_for_writing(inode(ino));
                }
                reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn read(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Ok(size) = usize::try_from(size) else { return reply.error(Errno::EINVAL) };
        READ_BUFFER.with_borrow_mut(|buffer| {
            if buffer.len() < size {
                buffer.resize(size, 0);
            }
            let buffer = &mut buffer[..size];
            match self.call("read", |core| core.read(inode(ino), offset, buffer)) {
                Ok(count) => reply.data(&buffer[..count.min(size)]),
                Err(errno) => reply.error(errno),
            }
        });
    }

    fn write(
        &self,
        request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let ino = inode(ino);
        let written = self.call("write", |core| core.write(ino, offset, data)).and_then(|untold| {
            if write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID) {
                self.drop_privileges(request, ino)?;
            }
            Ok((u32::try_from(data.len()).map_err(|_| Errno::EINVAL)?, untold))
        });
        match written {
            Ok((count, untold)) => {
                reply.written(count);
                if untold {
                    self.seeker.attributes_changed(ino, &self.pool);
                }
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn flush(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        // The kernel writes its pages on close without being asked, and nothing is buffered here:
        // it need not ask again.
        reply.error(Errno::ENOSYS);
    }

    fn release(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        if flags.acc_mode() != OpenAccMode::O_RDONLY {
            self.seeker.closed_for_writing(inode(ino));
        }
        self.answer("release", reply, |core| {
            core.release(inode(ino));
            Ok(())
        });
    }

    fn fsync(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        self.answer_sync("fsync", reply, move |core| core.sync(inode(ino), data_only));
    }

    fn opendir(&self, request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        if self.stateless_directory_opens {
            return reply.error(Errno::ENOSYS);
        }
        let allowed = self.settings.kernel_permissions
            || match self.call("opendir", |core| core.attributes(inode(ino))) {
                Ok(attributes) => permits(&attributes, request, AccessFlags::R_OK),
                Err(errno) => return reply.error(errno),
            };
        if allowed {
            let flags = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR;
            reply.opened(FileHandle(0), flags);
        } else {
            reply.error(Errno::EACCES);
        }
    }

    fn readdir(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let mut any = false;
        let mut sink = |entry: DirectoryEntry<'_>| {
            let full = reply.add(
                INodeNo(entry.ino.0),
                entry.next_cookie,
                file_type(entry.kind),
                OsStr::from_bytes(entry.name),
            );
            any |= !full;
            !full
        };
        let listed =
            self.call("readdir", |core| core.read_directory(inode(ino), offset, false, &mut sink));
        match listed {
            Err(errno) if !any => reply.error(errno),
            // What was listed before the error counts; the next request meets it first.
            _ => reply.ok(),
        }
    }

    fn readdirplus(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let mut any = false;
        let mut sink = |entry: DirectoryEntry<'_>| {
            // `.` and `..` have no attributes, and the kernel takes none for them.
            let (attributes, generation) = match entry.entry {
                Some(entry) => (file_attributes(&entry.attributes), entry.generation),
                None => {
                    let mut attributes = no_file();
                    attributes.ino = INodeNo(entry.ino.0);
                    attributes.kind = file_type(entry.kind);
                    (attributes, 0)
                }
            };
            let full = reply.add(
                attributes.ino,
                entry.next_cookie,
                OsStr::from_bytes(entry.name),
                &FOREVER,
                &attributes,
                Generation(generation),
            );
            any |= !full;
            !full
        };
        let listed = self
            .call("readdirplus", |core| core.read_directory(inode(ino), offset, true, &mut sink));
        match listed {
            Err(errno) if !any => reply.error(errno),
            _ => reply.ok(),
        }
        self.pruner.inodes_were_added(&self.core, &self.pool);
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        self.answer_sync("fsyncdir", reply, move |core| core.sync_directory(inode(ino)));
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        match self.call("statfs", |core| core.filesystem_stat()) {
            Ok(stat) => {
                let block_size = u32::try_from(stat.block_size).unwrap_or(4096);
                reply.statfs(
                    stat.blocks,
                    stat.blocks_free,
                    stat.blocks_available,
                    stat.files,
                    stat.files_free,
                    block_size,
                    u32::try_from(stat.name_max).unwrap_or(255),
                    block_size,
                );
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn setxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let Some(mode) = xattr_mode(flags) else { return reply.error(Errno::EINVAL) };
        let (ino, name) = (inode(ino), name.as_bytes());
        self.answer("setxattr", reply, |core| {
            core.set_xattr(ino, name, value, mode)?;
            // As a chmod(2) by the same caller would; the kernel's own flag for it is not delivered.
            if name == ACCESS_ACL && request.uid() != 0 && loses_set_group_id(core, request, ino)? {
                let mode = core.attributes(ino)?.mode & !libc::S_ISGID;
                core.set_attributes(
                    ino,
                    &SetAttributes { mode: Some(mode), ..Default::default() },
                )?;
            }
            Ok(())
        });
    }

    fn getxattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        match self.call("getxattr", |core| core.get_xattr(inode(ino), name.as_bytes())) {
            Ok(value) => answer_sized(&value, size, reply),
            Err(errno) => reply.error(errno),
        }
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        match self.call("listxattr", |core| core.list_xattr(inode(ino))) {
            Ok(mut names) => {
                // Nobody else can read them, and ext4 does not name them to others.
                if request.uid() != 0 {
                    names.retain(|name| !name.starts_with(b"trusted."));
                }
                let mut list = Vec::with_capacity(names.iter().map(|name| name.len() + 1).sum());
                for name in &names {
                    list.extend_from_slice(name);
                    list.push(0);
                }
                answer_sized(&list, size, reply);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn removexattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.answer("removexattr", reply, |core| core.remove_xattr(inode(ino), name.as_bytes()));
    }

    fn access(&self, request: &Request, ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        // Asked by access(2) and chdir(2) where the kernel does not check permissions itself.
        match self.call("access", |core| core.attributes(inode(ino))) {
            Ok(attributes) if permits(&attributes, request, mask) => reply.ok(),
            Ok(_) => reply.error(Errno::EACCES),
            Err(errno) => reply.error(errno),
        }
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        if self.stateless_opens {
            // The kernel then makes a node and opens that, of which no end is told either.
            return reply.error(Errno::ENOSYS);
        }
        let caller = caller(request, umask);
        let created = self.call("create", |core| {
            core.create(&caller, inode(parent), name.as_bytes(), mode & 0o7777)
        });
        match created {
            Ok(entry) => {
                if OpenFlags(flags).acc_mode() != OpenAccMode::O_RDONLY {
                    self.seeker.opened_for_writing(entry.attributes.ino);
                }
                reply.created(
                    &FOREVER,
                    &file_attributes(&entry.attributes),
                    Generation(entry.generation),
                    FileHandle(0),
                    FopenFlags::FOPEN_KEEP_CACHE,
                );
            }
            Err(errno) => reply.error(errno),
        }
        self.pruner.inodes_were_added(&self.core, &self.pool);
    }

    fn bmap(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _block_size: u32,
        _index: u64,
        reply: ReplyBmap,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    fn poll(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _notifier: fuser::PollNotifier,
        _events: fuser::PollEvents,
        _flags: fuser::PollFlags,
        reply: ReplyPoll,
    ) {
        // Always ready, as any regular file; the kernel need not ask again.
        reply.error(Errno::ENOSYS);
    }

    fn fallocate(
        &self,
        request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        len: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let Some(mode) = fallocate_mode(mode) else { return reply.error(Errno::EOPNOTSUPP) };
        let ino = inode(ino);
        let done =
            self.call("fallocate", |core| core.fallocate(ino, mode, offset, len)).and_then(|()| {
                if request.uid() == 0 { Ok(()) } else { self.drop_privileges(request, ino) }
            });
        match done {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn lseek(
        &self,
        request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let whence = match whence {
            libc::SEEK_DATA => SeekWhence::Data,
            libc::SEEK_HOLE => SeekWhence::Hole,
            _ => return reply.error(Errno::EINVAL),
        };
        let Ok(offset) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
        let seek = Seek { ino: inode(ino), offset, whence, pid: request.pid(), reply };
        self.seeker.seek(&self.core, &self.pool, seek);
    }

    fn copy_file_range(
        &self,
        _request: &Request,
        _ino_in: INodeNo,
        _handle_in: FileHandle,
        _offset_in: u64,
        _ino_out: INodeNo,
        _handle_out: FileHandle,
        _offset_out: u64,
        _len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        // The kernel then copies through its page cache, which sees what is not written back yet.
        reply.error(Errno::ENOSYS);
    }
}

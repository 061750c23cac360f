//! Owns the adapter between the kernel's requests and the disk. Reads and writes come as they are
//! made: the kernel keeps nothing back here, so what a process wrote, the disk has in its cache.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyStatfs, ReplyWrite, ReplyXattr,
    Request, TimeOrNow, WriteFlags,
};

use super::content::length;
use super::disk::Disk;
use super::machine::Machine;
use super::tree::{Change, Inode};

/// Nothing changes but through the kernel.
const BELIEVED: Duration = Duration::from_secs(3600);
const BLOCK: u32 = 4096;
/// Blocks and inodes that the disk claims to have, half of them free.
const ROOM: u64 = 1 << 24;

/// The filesystem.
pub struct Served(pub Arc<Machine>);

/// What an inode's mode says of its kind.
fn kind(mode: u32) -> FileType {
    match mode & libc::S_IFMT {
        libc::S_IFDIR => FileType::Directory,
        libc::S_IFLNK => FileType::Symlink,
        libc::S_IFIFO => FileType::NamedPipe,
        libc::S_IFSOCK => FileType::Socket,
        libc::S_IFCHR => FileType::CharDevice,
        libc::S_IFBLK => FileType::BlockDevice,
        _ => FileType::RegularFile,
    }
}

fn attributes(disk: &Disk, ino: u64) -> Result<FileAttr, Errno> {
    let inode = disk.tree.inodes.get(&ino).ok_or(Errno::ENOENT)?;
    let (size, allocated) = match disk.file(ino) {
        Some(content) => (content.size, content.allocated()),
        None => (length(inode.target.len()), 0),
    };
    let directories = inode.entries.values();
    let is_directory = |ino| disk.tree.inodes.get(ino).is_some_and(|it| it.is(libc::S_IFDIR));
    let below = directories.filter(|slot| is_directory(&slot.ino)).count();
    let links = if inode.is(libc::S_IFDIR) && inode.links > 0 { 2 + below } else { 0 };
    Ok(FileAttr {
        ino: INodeNo(ino),
        size,
        blocks: allocated / 512,
        atime: inode.accessed,
        mtime: inode.modified,
        ctime: inode.changed,
        crtime: SystemTime::UNIX_EPOCH,
        kind: kind(inode.mode),
        perm: u16::try_from(inode.mode & 0o7777).unwrap_or_default(),
        nlink: u32::try_from(links).unwrap_or(u32::MAX).max(inode.links),
        uid: inode.uid,
        gid: inode.gid,
        rdev: inode.rdev,
        blksize: BLOCK,
        flags: 0,
    })
}

/// The attributes of what a reply tells the kernel of, which then knows it.
fn entry(disk: &mut Disk, ino: u64) -> Result<FileAttr, Errno> {
    let found = attributes(disk, ino)?;
    disk.looked_up(ino);
    Ok(found)
}

fn answer_entry(found: Result<FileAttr, Errno>, reply: ReplyEntry) {
    match found {
        Ok(attributes) => reply.entry(&BELIEVED, &attributes, Generation(0)),
        Err(errno) => reply.error(errno),
    }
}

fn answer(done: Result<(), Errno>, reply: ReplyEmpty) {
    match done {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

fn answer_sized(found: Result<Vec<u8>, Errno>, size: u32, reply: ReplyXattr) {
    match found.map(|value| (u32::try_from(value.len()).unwrap_or(u32::MAX), value)) {
        Ok((len, _)) if size == 0 => reply.size(len),
        Ok((len, value)) if len <= size => reply.data(&value),
        Ok(_) => reply.error(Errno::ERANGE),
        Err(errno) => reply.error(errno),
    }
}

fn place(parent: INodeNo, name: &OsStr) -> (u64, Vec<u8>) {
    (parent.0, name.as_bytes().to_vec())
}

/// A new inode of whoever asks; root's rules for groups and modes will do here.
fn new_inode(request: &Request, mode: u32) -> Inode {
    Inode::new(mode, request.uid(), request.gid(), SystemTime::now())
}

impl Served {
    fn create_at(&self, parent: INodeNo, name: &OsStr, inode: Inode) -> Result<FileAttr, Errno> {
        let at = place(parent, name);
        self.0.change(|disk| {
            if name.len() > 255 {
                return Err(Errno::ENAMETOOLONG);
            }
            if disk.tree.find(&at).is_some() {
                return Err(Errno::EEXIST);
            }
            let ino = disk.create(at, inode);
            entry(disk, ino)
        })
    }

    fn remove(&self, parent: INodeNo, name: &OsStr, directory: bool) -> Result<(), Errno> {
        let at = place(parent, name);
        self.0.change(|disk| {
            let ino = disk.tree.find(&at).ok_or(Errno::ENOENT)?;
            let inode = disk.tree.inodes.get(&ino).ok_or(Errno::ENOENT)?;
            match (directory, inode.is(libc::S_IFDIR)) {
                (true, false) => return Err(Errno::ENOTDIR),
                (false, true) => return Err(Errno::EISDIR),
                _ if !inode.entries.is_empty() => return Err(Errno::ENOTEMPTY),
                _ => disk.change(Change::Unlink { ino, at }),
            }
            Ok(())
        })
    }
}

impl Filesystem for Served {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let _ = config.set_max_write(1 << 20);
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let at = place(parent, name);
        let found = self.0.with(|disk| match disk.tree.find(&at) {
            Some(ino) => entry(disk, ino),
            None if name.len() > 255 => Err(Errno::ENAMETOOLONG),
            None => Err(Errno::ENOENT),
        });
        answer_entry(found, reply);
    }

    fn forget(&self, _request: &Request, ino: INodeNo, count: u64) {
        self.0.with(|disk| disk.forget(ino.0, count));
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.0.with(|disk| attributes(disk, ino.0)) {
            Ok(attributes) => reply.attr(&BELIEVED, &attributes),
            Err(errno) => reply.error(errno),
        }
    }

    fn setattr(
        &self,
        _request: &Request,
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
        let time = |time| match time {
            TimeOrNow::Now => SystemTime::now(),
            TimeOrNow::SpecificTime(time) => time,
        };
        let ino = ino.0;
        let (accessed, modified) = (accessed.map(time), modified.map(time));
        let changed = self.0.change(|disk| {
            attributes(disk, ino)?;
            if let Some(size) = size {
                disk.change_file(ino, |file| file.set_size(size));
            }
            if mode.is_some()
                || uid.is_some()
                || gid.is_some()
                || (accessed, modified) != (None, None)
            {
                disk.change(Change::Set { ino, mode, uid, gid, accessed, modified });
            }
            attributes(disk, ino)
        });
        match changed {
            Ok(attributes) => reply.attr(&BELIEVED, &attributes),
            Err(errno) => reply.error(errno),
        }
    }

    fn readlink(&self, _request: &Request, ino: INodeNo, reply: ReplyData) {
        match self.0.with(|disk| disk.tree.inodes.get(&ino.0).map(|inode| inode.target.clone())) {
            Some(target) => reply.data(&target),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let inode = Inode { rdev, ..new_inode(request, mode) };
        answer_entry(self.create_at(parent, name, inode), reply);
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let inode = new_inode(request, libc::S_IFDIR | mode & 0o7777);
        answer_entry(self.create_at(parent, name, inode), reply);
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let target = target.as_os_str().as_bytes().to_vec();
        let inode = Inode { target, ..new_inode(request, libc::S_IFLNK | 0o777) };
        answer_entry(self.create_at(parent, name, inode), reply);
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let inode = new_inode(request, libc::S_IFREG | mode & 0o7777);
        match self.create_at(parent, name, inode) {
            Ok(found) => {
                reply.created(&BELIEVED, &found, Generation(0), FileHandle(0), FopenFlags::empty())
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(self.remove(parent, name, false), reply);
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(self.remove(parent, name, true), reply);
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
        let (from, to) = (place(parent, name), place(new_parent, new_name));
        let exchange = flags == RenameFlags::RENAME_EXCHANGE;
        let done = self.0.change(|disk| {
            if new_name.len() > 255 {
                return Err(Errno::ENAMETOOLONG);
            }
            let ino = disk.tree.find(&from).ok_or(Errno::ENOENT)?;
            let other = disk.tree.find(&to);
            let full = |ino| disk.tree.inodes.get(&ino).is_some_and(|it| !it.entries.is_empty());
            match other {
                None if exchange => return Err(Errno::ENOENT),
                Some(_) if flags == RenameFlags::RENAME_NOREPLACE => return Err(Errno::EEXIST),
                Some(other) if other == ino => return Ok(()),
                Some(other) if !exchange && full(other) => return Err(Errno::ENOTEMPTY),
                _ => disk.change(Change::Rename { ino, from, to, other, exchange }),
            }
            Ok(())
        });
        answer(done, reply);
    }

    fn link(
        &self,
        _request: &Request,
        ino: INodeNo,
        parent: INodeNo,
        name: &OsStr,
        reply: ReplyEntry,
    ) {
        let at = place(parent, name);
        let linked = self.0.change(|disk| {
            if disk.tree.find(&at).is_some() {
                return Err(Errno::EEXIST);
            }
            disk.change(Change::Link { ino: ino.0, at });
            entry(disk, ino.0)
        });
        answer_entry(linked, reply);
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
        match self.0.with(|disk| disk.file(ino.0).map(|file| file.read(offset, size.into()))) {
            Some(bytes) => reply.data(&bytes),
            None => reply.error(Errno::EIO),
        }
    }

    fn write(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.0.change(|disk| disk.write(ino.0, offset, data));
        reply.written(u32::try_from(data.len()).unwrap_or_default());
    }

    fn fallocate(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        len: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let change = |disk: &mut Disk| match mode {
            0 | libc::FALLOC_FL_KEEP_SIZE => {
                disk.change_file(ino.0, |file| {
                    file.allocate(offset, len);
                    if mode == 0 && offset + len > file.cache.size {
                        file.set_size(offset + len);
                    }
                });
                Ok(())
            }
            _ if mode == punch => {
                disk.change_file(ino.0, |file| file.punch(offset, len));
                Ok(())
            }
            _ => Err(Errno::EOPNOTSUPP),
        };
        answer(self.0.change(change), reply);
    }

    fn lseek(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let found = self.0.with(|disk| {
            let (file, offset) = (disk.file(ino.0)?, u64::try_from(offset).ok()?);
            match whence {
                libc::SEEK_DATA => file.seek_data(offset),
                libc::SEEK_HOLE => file.seek_hole(offset),
                _ => None,
            }
        });
        match found.and_then(|found| i64::try_from(found).ok()) {
            Some(found) => reply.offset(found),
            None => reply.error(Errno::ENXIO),
        }
    }

    fn fsync(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        self.0.sync(ino.0, data_only);
        reply.ok();
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        self.0.sync(ino.0, data_only);
        reply.ok();
    }

    fn readdir(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        // `.` and `..` have the first two cookies; programs need no number for the latter.
        const DOTS: [&str; 2] = [".", ".."];
        let listed = self.0.with(|disk| {
            let entries = &disk.tree.inodes.get(&ino.0)?.entries;
            let mut rest: Vec<_> = entries
                .iter()
                .map(|(name, slot)| {
                    let found = disk.tree.inodes.get(&slot.ino);
                    (slot.cookie + 2, slot.ino, kind(found.map_or(0, |it| it.mode)), name.clone())
                })
                .filter(|(cookie, ..)| *cookie > offset)
                .collect();
            rest.sort_unstable_by_key(|(cookie, ..)| *cookie);
            Some(rest)
        });
        let Some(listed) = listed else { return reply.error(Errno::ENOENT) };
        let dots = (1..).zip(DOTS).filter(|(cookie, _)| *cookie > offset);
        let dots = dots
            .map(|(cookie, name)| (cookie, ino.0, FileType::Directory, name.as_bytes().to_vec()));
        for (cookie, ino, kind, name) in dots.chain(listed) {
            if reply.add(INodeNo(ino), cookie, kind, OsStr::from_bytes(&name)) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        reply.statfs(ROOM, ROOM / 2, ROOM / 2, ROOM, ROOM / 2, BLOCK, 255, BLOCK);
    }

    fn setxattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let (ino, name) = (ino.0, name.as_bytes().to_vec());
        let done = self.0.change(|disk| {
            let inode = disk.tree.inodes.get(&ino).ok_or(Errno::ENOENT)?;
            match (flags, inode.xattrs.contains_key(&name)) {
                (libc::XATTR_CREATE, true) => return Err(Errno::EEXIST),
                (libc::XATTR_REPLACE, false) => return Err(Errno::ENODATA),
                _ => disk.change(Change::Xattr { ino, name, value: Some(value.to_vec()) }),
            }
            Ok(())
        });
        answer(done, reply);
    }

    fn getxattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        let found = self.0.with(|disk| {
            let inode = disk.tree.inodes.get(&ino.0).ok_or(Errno::ENOENT)?;
            inode.xattrs.get(name.as_bytes()).cloned().ok_or(Errno::ENODATA)
        });
        answer_sized(found, size, reply);
    }

    fn listxattr(&self, _request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let found = self.0.with(|disk| {
            let inode = disk.tree.inodes.get(&ino.0).ok_or(Errno::ENOENT)?;
            Ok(inode.xattrs.keys().flat_map(|name| name.iter().copied().chain([0])).collect())
        });
        answer_sized(found, size, reply);
    }

    fn removexattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (ino, name) = (ino.0, name.as_bytes().to_vec());
        let done = self.0.change(|disk| {
            let inode = disk.tree.inodes.get(&ino).ok_or(Errno::ENOENT)?;
            if !inode.xattrs.contains_key(&name) {
                return Err(Errno::ENODATA);
            }
            disk.change(Change::Xattr { ino, name, value: None });
            Ok(())
        });
        answer(done, reply);
    }
}

//! Owns the operations of a filesystem in memory: what Linux checks before it changes something,
//! in its order, so that the errno is the same where several apply.

use std::collections::HashSet;
use std::io;

use rustix::io::Errno;

use super::content::PAGE;
use super::state::{Body, Change, DOT_COOKIES, Inode, InodeId, NewInode, ROOT, State};
use crate::backing::{FileKind, RenameMode, SetTime, Stat, Timestamp, XattrMode, names};

/// The device number that every inode shows.
const DEVICE: u64 = 0xbac;
/// The largest file, as on ext4 with blocks of 4 KiB.
pub(super) const FILE_MAX: u64 = 0xffff_ffff * PAGE;
/// The largest allocation at once.
pub(super) const ALLOCATION_MAX: u64 = 1 << 30;
/// The most hard links, as on ext4.
pub(super) const LINKS_MAX: u64 = 65_000;
/// The longest symlink target.
pub(super) const TARGET_MAX: usize = 4095;
/// Room for a file's extended attributes, as in the one block of ext4.
const XATTRS_MAX: usize = 4096 - 36;
/// Entries taken from a listing at once.
const LISTING_PIECE: usize = 64;

/// What happened, as [`crate::backing::crash`] records it.
#[derive(Clone, Debug)]
pub(in crate::backing) enum Event {
    /// A change.
    Change(Change),
    /// `fsync` of a file or directory, or `fdatasync`.
    Sync { id: InodeId, data_only: bool },
    /// `syncfs`.
    SyncFilesystem,
}

/// An event and its time.
#[derive(Clone, Debug)]
pub(in crate::backing) struct Record {
    pub(in crate::backing) event: Event,
    pub(in crate::backing) now: Timestamp,
}

/// What all handles of one filesystem share.
pub(super) struct Shared {
    pub(super) state: State,
    pub(super) locked: HashSet<InodeId>,
    /// Everything that happened, where somebody wants to know.
    pub(super) record: Option<Vec<Record>>,
}

/// An entry of a listing: cookie, name, inode number, kind.
pub(super) type Listed = (u64, Vec<u8>, u64, FileKind);

impl Shared {
    fn event(&mut self, event: Event, now: Timestamp) {
        if let Some(record) = &mut self.record {
            record.push(Record { event, now });
        }
    }

    pub(super) fn apply(&mut self, change: Change) {
        let now = self.state.tick();
        self.state.apply(&change, now);
        self.event(Event::Change(change), now);
    }

    pub(super) fn sync(&mut self, event: Event) {
        let now = self.state.tick();
        self.event(event, now);
    }

    pub(super) fn inode(&self, id: InodeId) -> io::Result<&Inode> {
        // A handle keeps its inode, so this can only miss by a defect of this double.
        self.state.inode(id).ok_or_else(|| Errno::STALE.into())
    }

    /// The inode behind a name in `directory`, `.` included.
    pub(super) fn find(&self, directory: InodeId, name: &[u8]) -> io::Result<InodeId> {
        if name == b"." {
            return Ok(directory);
        }
        self.entry(directory, name)?.ok_or_else(|| Errno::NOENT.into())
    }

    /// What an ordinary name leads to.
    fn entry(&self, directory: InodeId, name: &[u8]) -> io::Result<Option<InodeId>> {
        let entries = self.state.entries(directory).ok_or(Errno::NOTDIR)?;
        names::check(name)?;
        Ok(entries.get(name))
    }

    /// The directory and the last component of a name that may hold one `/`.
    pub(super) fn find_parent<'a>(
        &self,
        directory: InodeId,
        name: &'a [u8],
    ) -> io::Result<(InodeId, &'a [u8])> {
        match names::one_or_two_components(name)? {
            (None, last) => Ok((directory, last)),
            (Some(first), last) => {
                let parent = self.find(directory, first)?;
                self.state.entries(parent).ok_or(Errno::NOTDIR)?;
                Ok((parent, last))
            }
        }
    }

    /// Checks that `name` can be made in `directory`.
    pub(super) fn check_vacant(&self, directory: InodeId, name: &[u8]) -> io::Result<()> {
        if name == b"." || self.entry(directory, name)?.is_some() {
            return Err(Errno::EXIST.into());
        }
        if self.inode(directory)?.links == 0 {
            return Err(Errno::NOENT.into());
        }
        Ok(())
    }

    /// Makes an inode under a vacant name.
    pub(super) fn create(
        &mut self,
        directory: InodeId,
        name: &[u8],
        kind: FileKind,
        mode: u32,
        rdev: u64,
        target: &[u8],
    ) -> io::Result<InodeId> {
        self.check_vacant(directory, name)?;
        let parent = self.inode(directory)?;
        let inherits = parent.mode & 0o2000 != 0;
        let gid = if inherits { parent.gid } else { effective_owner().1 };
        let mode = match kind {
            FileKind::Directory if inherits => mode & 0o1777 | 0o2000,
            FileKind::Directory => mode & 0o1777,
            _ => mode & 0o7777,
        };
        let (id, ino) = self.state.new_identity();
        let uid = effective_owner().0;
        let target = target.to_vec();
        let inode = NewInode { id, ino, kind, mode, uid, gid, rdev, target };
        self.apply(Change::Create { parent: directory, name: name.to_vec(), inode });
        Ok(id)
    }

    pub(super) fn stat(&self, id: InodeId) -> io::Result<Stat> {
        let inode = self.inode(id)?;
        let (size, blocks) = match &inode.body {
            Body::Regular(content) => (content.size(), content.allocated() / 512),
            Body::Directory(_) => (PAGE, PAGE / 512),
            Body::Symlink(target) => (u64::try_from(target.len()).unwrap_or(u64::MAX), 0),
            Body::Node => (0, 0),
        };
        Ok(Stat {
            device: DEVICE,
            ino: inode.ino,
            kind: inode.kind,
            mode: inode.mode,
            links: inode.links,
            uid: inode.uid,
            gid: inode.gid,
            rdev: inode.rdev,
            size,
            blocks,
            accessed: inode.accessed,
            modified: inode.modified,
            changed: inode.changed,
        })
    }

    pub(super) fn set_mode(&mut self, id: InodeId, mode: u32) -> io::Result<()> {
        if self.inode(id)?.kind == FileKind::Symlink {
            return Err(Errno::OPNOTSUPP.into());
        }
        self.apply(Change::SetMode { id, mode: mode & 0o7777 });
        Ok(())
    }

    pub(super) fn set_owner(
        &mut self,
        id: InodeId,
        uid: Option<u32>,
        gid: Option<u32>,
    ) -> io::Result<()> {
        if uid == Some(u32::MAX) || gid == Some(u32::MAX) {
            return Err(Errno::INVAL.into());
        }
        self.apply(Change::SetOwner { id, uid, gid });
        Ok(())
    }

    pub(super) fn set_times(
        &mut self,
        id: InodeId,
        accessed: SetTime,
        modified: SetTime,
    ) -> io::Result<()> {
        let now = self.state.tick();
        let time = |time| match time {
            SetTime::Keep => Ok(None),
            SetTime::Now => Ok(Some(now)),
            SetTime::At(at) if at.nanoseconds < 1_000_000_000 => Ok(Some(at)),
            SetTime::At(_) => Err(Errno::INVAL),
        };
        let (accessed, modified) = (time(accessed)?, time(modified)?);
        if accessed.is_some() || modified.is_some() {
            self.apply(Change::SetTimes { id, accessed, modified });
        }
        Ok(())
    }

    pub(super) fn get_xattr(&self, id: InodeId, attribute: &[u8]) -> io::Result<Vec<u8>> {
        check_xattr_name(attribute)?;
        let value = self.inode(id)?.xattrs.get(attribute).cloned();
        value.ok_or_else(|| Errno::NODATA.into())
    }

    pub(super) fn list_xattr(&self, id: InodeId) -> io::Result<Vec<Vec<u8>>> {
        Ok(self.inode(id)?.xattrs.keys().cloned().collect())
    }

    pub(super) fn set_xattr(
        &mut self,
        id: InodeId,
        attribute: &[u8],
        value: &[u8],
        mode: XattrMode,
    ) -> io::Result<()> {
        check_xattr_sizes(attribute, value)?;
        let inode = self.inode(id)?;
        check_xattr_change(inode.kind, attribute)?;
        match (mode, inode.xattrs.contains_key(attribute)) {
            (XattrMode::Create, true) => return Err(Errno::EXIST.into()),
            (XattrMode::Replace, false) => return Err(Errno::NODATA.into()),
            _ => {}
        }
        let room = |(name, value): (&[u8], &[u8])| {
            16 + name.len().next_multiple_of(4) + value.len().next_multiple_of(4)
        };
        let others = inode.xattrs.iter().filter(|(name, _)| name.as_slice() != attribute);
        let taken: usize = others.map(|(name, value)| room((name, value))).sum();
        if taken + room((attribute, value)) > XATTRS_MAX {
            return Err(Errno::NOSPC.into());
        }
        let (attribute, value) = (attribute.to_vec(), value.to_vec());
        self.apply(Change::SetXattr { id, attribute, value });
        Ok(())
    }

    pub(super) fn remove_xattr(&mut self, id: InodeId, attribute: &[u8]) -> io::Result<()> {
        let inode = self.inode(id)?;
        check_xattr_change(inode.kind, attribute)?;
        if !inode.xattrs.contains_key(attribute) {
            return Err(Errno::NODATA.into());
        }
        self.apply(Change::RemoveXattr { id, attribute: attribute.to_vec() });
        Ok(())
    }

    pub(super) fn rename(
        &mut self,
        parent: InodeId,
        name: &[u8],
        target_parent: InodeId,
        target_name: &[u8],
        mode: RenameMode,
    ) -> io::Result<()> {
        if name == b"." {
            return Err(Errno::BUSY.into());
        }
        if target_name == b"." {
            let taken = mode == RenameMode::NoReplace;
            return Err(if taken { Errno::EXIST } else { Errno::BUSY }.into());
        }
        let id = self.find(parent, name)?;
        let replaced = self.entry(target_parent, target_name)?;
        match (mode, replaced) {
            (RenameMode::NoReplace, Some(_)) => return Err(Errno::EXIST.into()),
            (RenameMode::Exchange, None) => return Err(Errno::NOENT.into()),
            _ => {}
        }
        let exchange = mode == RenameMode::Exchange;
        if self.is_ancestor(id, target_parent) {
            return Err(Errno::INVAL.into());
        }
        if replaced.is_some_and(|replaced| self.is_ancestor(replaced, parent)) {
            return Err(if exchange { Errno::INVAL } else { Errno::NOTEMPTY }.into());
        }
        if replaced == Some(id) {
            return Ok(());
        }
        if self.inode(target_parent)?.links == 0 {
            return Err(Errno::NOENT.into());
        }
        if let Some(replaced) = replaced.filter(|_| !exchange) {
            let directory = self.inode(id)?.kind == FileKind::Directory;
            match (directory, self.state.entries(replaced)) {
                (true, None) => return Err(Errno::NOTDIR.into()),
                (false, Some(_)) => return Err(Errno::ISDIR.into()),
                (true, Some(entries)) if !entries.is_empty() => {
                    return Err(Errno::NOTEMPTY.into());
                }
                _ => {}
            }
        }
        self.apply(Change::Rename {
            id,
            parent,
            name: name.to_vec(),
            target_parent,
            target_name: target_name.to_vec(),
            replaced,
            exchange,
        });
        Ok(())
    }

    /// Whether `id` is `directory` or lies above it.
    fn is_ancestor(&self, id: InodeId, directory: InodeId) -> bool {
        let mut at = directory;
        loop {
            if at == id {
                return true;
            }
            match self.state.entries(at) {
                Some(entries) if at != ROOT => at = entries.parent,
                _ => return false,
            }
        }
    }

    /// Some entries after `cookie`; none at the end.
    pub(super) fn listing(&self, directory: InodeId, cookie: u64) -> io::Result<Vec<Listed>> {
        if self.inode(directory)?.links == 0 {
            return Err(Errno::NOENT.into());
        }
        let entries = self.state.entries(directory).ok_or(Errno::NOTDIR)?;
        let dots = [(1, b".".as_slice(), directory), (DOT_COOKIES, b"..", entries.parent)];
        dots.into_iter()
            .filter(|(own, ..)| *own > cookie)
            .chain(entries.after(cookie.max(DOT_COOKIES)))
            .take(LISTING_PIECE)
            .map(|(own, name, id)| {
                let inode = self.inode(id)?;
                Ok((own, name.to_vec(), inode.ino, inode.kind))
            })
            .collect()
    }
}

/// Who makes files: this process, so that the double agrees with the system.
pub(super) fn effective_owner() -> (u32, u32) {
    (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

/// What is refused before the file is even looked for.
pub(super) fn check_xattr_sizes(attribute: &[u8], value: &[u8]) -> io::Result<()> {
    if attribute.contains(&0) {
        return Err(Errno::INVAL.into());
    }
    if attribute.is_empty() || attribute.len() > 255 {
        return Err(Errno::RANGE.into());
    }
    if value.len() > 64 << 10 {
        return Err(Errno::TOOBIG.into());
    }
    Ok(())
}

fn check_xattr_name(attribute: &[u8]) -> io::Result<()> {
    check_xattr_sizes(attribute, b"")?;
    const SPACES: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];
    let known = SPACES.iter().any(|space| attribute.starts_with(space))
        || attribute == b"system.posix_acl_access"
        || attribute == b"system.posix_acl_default";
    if known { Ok(()) } else { Err(Errno::OPNOTSUPP.into()) }
}

fn check_xattr_change(kind: FileKind, attribute: &[u8]) -> io::Result<()> {
    check_xattr_name(attribute)?;
    if attribute.starts_with(b"user.") && !matches!(kind, FileKind::Regular | FileKind::Directory) {
        return Err(Errno::PERM.into());
    }
    Ok(())
}

impl State {
    /// The file's content was changed at this time, if nothing of it was changed later.
    pub(in crate::backing) fn changed_at(&mut self, id: InodeId, time: Timestamp) {
        if let Some(inode) = self.inodes.get_mut(&id)
            && inode.changed < time
        {
            inode.changed = time;
            inode.modified = time;
        }
    }
}

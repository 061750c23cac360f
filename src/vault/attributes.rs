//! Attributes: reading them, changing them, and what they become for plain files.

use std::io;
use std::sync::Arc;

use super::content::Content;
use super::core::Core;
use super::error::{Error, Result};
use super::inode::{Inode, METADATA_DIRTY, Open, ROOM_TOLD};
use super::journal::{FileRecord, RecordOwner};
use super::types::{Attributes, InodeNumber, SetAttributes};
use super::write::Stop;
use crate::backing::{File, FileKind, SetTime, Stat, Timestamp};
use crate::format::layout::plain_size;
use crate::format::symlink::{TARGET_MAX, plain_len};

const SET_USER_ID: u32 = 0o4000;
const SET_GROUP_ID: u32 = 0o2000;
const GROUP_EXECUTE: u32 = 0o0010;

/// Something through which an inode's attributes are reached.
pub(super) enum Handle {
    /// An open or pinned file.
    File(Arc<dyn File>),
    /// A name in a directory.
    Name(Arc<super::directory::OpenDirectory>, Box<[u8]>),
}

impl Handle {
    pub(super) fn stat(&self) -> io::Result<Stat> {
        match self {
            Self::File(file) => file.stat(),
            Self::Name(directory, entry) => directory.directory.stat(entry),
        }
    }

    pub(super) fn set_mode(&self, mode: u32) -> io::Result<()> {
        match self {
            Self::File(file) => file.set_mode(mode),
            Self::Name(directory, entry) => directory.directory.set_mode(entry, mode),
        }
    }

    fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        match self {
            Self::File(file) => file.set_owner(uid, gid),
            Self::Name(directory, entry) => directory.directory.set_owner(entry, uid, gid),
        }
    }

    fn set_times(&self, accessed: SetTime, modified: SetTime) -> io::Result<()> {
        match self {
            Self::File(file) => file.set_times(accessed, modified),
            Self::Name(directory, entry) => {
                directory.directory.set_times(entry, accessed, modified)
            }
        }
    }

    pub(super) fn get_xattr(&self, name: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Self::File(file) => file.get_xattr(name),
            Self::Name(directory, entry) => directory.directory.get_xattr(entry, name),
        }
    }

    pub(super) fn list_xattr(&self) -> io::Result<Vec<Vec<u8>>> {
        match self {
            Self::File(file) => file.list_xattr(),
            Self::Name(directory, entry) => directory.directory.list_xattr(entry),
        }
    }

    pub(super) fn set_xattr(
        &self,
        name: &[u8],
        value: &[u8],
        mode: crate::backing::XattrMode,
    ) -> io::Result<()> {
        match self {
            Self::File(file) => file.set_xattr(name, value, mode),
            Self::Name(directory, entry) => directory.directory.set_xattr(entry, name, value, mode),
        }
    }

    pub(super) fn remove_xattr(&self, name: &[u8]) -> io::Result<()> {
        match self {
            Self::File(file) => file.remove_xattr(name),
            Self::Name(directory, entry) => directory.directory.remove_xattr(entry, name),
        }
    }
}

impl Core {
    /// The way to an inode's attributes: what is open of it, else its name.
    pub(super) fn handle(&self, inode: &Arc<Inode>) -> Result<Handle> {
        if let Some(file) = inode.open_file() {
            return Ok(Handle::File(file.content.read().handle.clone()));
        }
        match &*inode.open.lock() {
            Some(Open::Pin(file, _)) => return Ok(Handle::File(file.clone())),
            Some(Open::Directory(directory)) => {
                return Ok(Handle::Name(directory.clone(), b"."[..].into()));
            }
            _ => {}
        }
        let (directory, entry) = self.holder(inode)?;
        Ok(Handle::Name(directory, entry))
    }

    /// `stat(2)`.
    pub(super) fn attributes(&self, inode: &Arc<Inode>) -> Result<Attributes> {
        // Before it is looked at: a write from here on is told of.
        inode.set_flag(ROOM_TOLD);
        let stat = {
            let _paths = self.paths.read();
            let handle = self.handle(inode)?;
            let _modes = self.modes.read();
            handle.stat()?
        };
        self.plain_attributes(inode, &stat)
    }

    /// The plain attributes of an inode with this backing `stat`.
    pub(super) fn plain_attributes(&self, inode: &Arc<Inode>, stat: &Stat) -> Result<Attributes> {
        let size = match stat.kind {
            FileKind::Regular => match inode.open_file() {
                Some(file) => file.content.read().size,
                None => plain_size(stat.size),
            },
            FileKind::Symlink => self.target_len(inode, stat)?,
            _ => stat.size,
        };
        inode.set_flag(ROOM_TOLD);
        Ok(Attributes {
            ino: inode.number,
            kind: stat.kind,
            mode: stat.mode,
            links: u32::try_from(stat.links).unwrap_or(u32::MAX),
            uid: stat.uid,
            gid: stat.gid,
            rdev: u32::try_from(stat.rdev).unwrap_or(0),
            size,
            blocks: stat.blocks,
            accessed: stat.accessed,
            modified: stat.modified,
            changed: stat.changed,
        })
    }

    fn target_len(&self, inode: &Arc<Inode>, stat: &Stat) -> Result<u64> {
        // Only a target of the greatest length can have an overflow.
        if stat.size < u64::try_from(TARGET_MAX).expect("small") {
            return Ok(plain_len(stat.size));
        }
        match self.read_target(inode) {
            Ok(target) => Ok(u64::try_from(target.len()).expect("at most 4095")),
            // Reading it fails; but it must be seen, to be removed.
            Err(Error::Damaged { .. }) => Ok(stat.size),
            Err(error) => Err(error),
        }
    }

    /// Changes attributes; the new ones.
    pub(super) fn set_attributes(
        &self,
        inode: &Arc<Inode>,
        changes: &SetAttributes,
    ) -> Result<Attributes> {
        self.check_writable()?;
        if let Some(size) = changes.size {
            self.truncate(inode, size)?;
        }
        // It stays open for as long as this is held.
        let file = inode.open_file();
        let mut stat = self.set_by_handle(inode, changes, file.is_none())?;
        let mut in_journal = false;
        let times = sets_times(changes);
        let nothing_else =
            *changes == SetAttributes { modified: changes.modified, ..SetAttributes::default() };
        if (times || self.options.kernel_keeps_times)
            && let Some(file) = file.or_else(|| inode.open_file())
        {
            in_journal = self.with_content(&file, |content| {
                if times {
                    // While nobody writes: who writes in place puts back the time found before.
                    match content.handle.set_times(changes.accessed, changes.modified) {
                        // The kernel writes back the time of what was written to another user's
                        // file, which this process may write, too, but not give times.
                        Err(error)
                            if error.raw_os_error() == Some(libc::EPERM)
                                && self.options.kernel_keeps_times
                                && nothing_else => {}
                        outcome => outcome?,
                    }
                    let _modes = self.modes.read();
                    stat = Some(content.handle.stat()?);
                }
                let Some(stat) = stat.filter(|_| self.options.kernel_keeps_times) else {
                    return Ok(false);
                };
                content.modified = Some(stat.modified);
                let recorded = changes.modified != SetTime::Keep
                    && self.record_modified(inode, content, stat.modified)?;
                Ok(recorded)
            })?;
        }
        if !(in_journal && nothing_else) {
            inode.set_flag(METADATA_DIRTY);
        }
        self.list_for_commit(inode);
        match &stat {
            Some(stat) => self.plain_attributes(inode, stat),
            None => self.attributes(inode),
        }
    }

    /// Changes what is not of the content, `times` among it; what `stat` then tells, unless the times
    /// are still to be changed.
    fn set_by_handle(
        &self,
        inode: &Arc<Inode>,
        changes: &SetAttributes,
        times: bool,
    ) -> Result<Option<Stat>> {
        let _paths = self.paths.read();
        let handle = self.handle(inode)?;
        if changes.kill_privileges {
            self.kill_privileges(inode, &handle, changes.outside_group)?;
        }
        let _modes = self.modes.read();
        if changes.uid.is_some() || changes.gid.is_some() {
            handle.set_owner(changes.uid, changes.gid)?;
        }
        if let Some(mode) = changes.mode {
            handle.set_mode(mode)?;
        }
        if times && sets_times(changes) {
            match handle.set_times(changes.accessed, changes.modified) {
                // The kernel writes back the times of a file that was just deleted.
                Err(error)
                    if error.raw_os_error() == Some(libc::ENOENT)
                        && inode.number != InodeNumber::ROOT => {}
                outcome => outcome?,
            }
        }
        let changed = times || !sets_times(changes);
        Ok(changed.then(|| handle.stat()).transpose()?)
    }

    /// Appends a record of a file's time of last change, which was just set, where the journal has
    /// others of the file: a sync that commits those need not sync the file itself, too, and
    /// recovery does not bring an older time back. Whether it was appended.
    fn record_modified(
        &self,
        inode: &Arc<Inode>,
        content: &mut Content,
        modified: Timestamp,
    ) -> Result<bool, Stop> {
        let Some((journal, keyed)) = self.journal().zip(content.keyed.clone()) else {
            return Ok(false);
        };
        if content.orphan || !content.has_records() {
            return Ok(false);
        }
        let owner = RecordOwner { inode, file_id: keyed.id, reference: &mut content.reference };
        let record = FileRecord::Modified(modified);
        match journal.append(owner, &record, || self.journal_path(inode)) {
            Ok(appended) => {
                content.sequence = appended.sequence;
                content.timed = Some(appended.generation);
                Ok(true)
            }
            Err(error) if content.timed.is_some() => Err(error.into()),
            Err(_) => Ok(false),
        }
    }

    /// Clears set-user-ID, set-group-ID and file capabilities, as a write by somebody without
    /// privilege does (`inode(7)`).
    fn kill_privileges(
        &self,
        inode: &Arc<Inode>,
        handle: &Handle,
        outside_group: bool,
    ) -> Result<()> {
        {
            let _modes = self.modes.read();
            let stat = handle.stat()?;
            if stat.kind != FileKind::Regular {
                return Ok(());
            }
            let mut mode = stat.mode & !SET_USER_ID;
            if mode & GROUP_EXECUTE != 0 || outside_group {
                mode &= !SET_GROUP_ID;
            }
            if mode != stat.mode {
                handle.set_mode(mode)?;
            }
        }
        match self.remove_xattr(inode, b"security.capability") {
            Err(error)
                if !matches!(error.errno(), libc::ENODATA | libc::EOPNOTSUPP | libc::EPERM) =>
            {
                Err(error)
            }
            _ => Ok(()),
        }
    }
}

fn sets_times(changes: &SetAttributes) -> bool {
    changes.accessed != SetTime::Keep || changes.modified != SetTime::Keep
}

//! Extended attributes of plain files.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::attributes::Handle;
use super::core::{Core, is_not_found};
use super::error::{Error, Result};
use super::inode::{HAS_XATTRS, Inode, METADATA_DIRTY, NO_XATTRS, Open};
use crate::backing::{Access, XattrMode};
use crate::format::symlink::new_overflow_id;
use crate::format::xattr::{
    Classified, StoredName, StoredValue, XATTR_NAME_MAX, inline_value, overflow_value, parse_value,
};

/// The longest value (`XATTR_SIZE_MAX` of the kernel), in bytes.
const VALUE_MAX: usize = 65536;

impl Core {
    pub(super) fn get_xattr(&self, inode: &Arc<Inode>, name: &[u8]) -> Result<Vec<u8>> {
        check_name(name)?;
        if inode.flag(NO_XATTRS) {
            return Err(Error::NoAttribute);
        }
        let _paths = self.paths.read();
        let handle = self.handle(inode)?;
        // Most files have none, and are asked for several by whoever lists a directory.
        if !inode.flag(HAS_XATTRS) && matches!(inode.note_xattrs(|| handle.list_xattr()), Ok(false))
        {
            return Err(Error::NoAttribute);
        }
        match self.codecs.xattrs.stored_name(name) {
            StoredName::PassThrough => Ok(handle.get_xattr(name)?),
            StoredName::Encrypted(stored) => {
                let value = match handle.get_xattr(&stored) {
                    Err(error) if is_capabilities(name) && is_missing(&error) => {
                        return Ok(handle.get_xattr(name)?);
                    }
                    value => value?,
                };
                Ok(self.open_xattr(&stored, &value)?.1)
            }
        }
    }

    pub(super) fn list_xattr(&self, inode: &Arc<Inode>) -> Result<Vec<Vec<u8>>> {
        if inode.flag(NO_XATTRS) {
            return Ok(Vec::new());
        }
        let _paths = self.paths.read();
        let handle = self.handle(inode)?;
        let stored = match handle.list_xattr() {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Vec::new(),
            outcome => outcome?,
        };
        let mut names = Vec::with_capacity(stored.len());
        for attribute in stored {
            match self.codecs.xattrs.classify(&attribute) {
                Classified::PassThrough => names.push(attribute),
                Classified::Plain(name) => names.push(name),
                Classified::Long => {
                    let value = handle.get_xattr(&attribute)?;
                    match self.open_xattr(&attribute, &value) {
                        // Its name is lost; the others' are not.
                        Err(Error::Damaged { .. }) => {}
                        opened => names.extend(opened?.0),
                    }
                }
                Classified::Foreign => {}
            }
        }
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    pub(super) fn set_xattr(
        &self,
        inode: &Arc<Inode>,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
    ) -> Result<()> {
        self.check_writable()?;
        check_name(name)?;
        if value.len() > VALUE_MAX {
            return Err(Error::Backing(io::Error::from_raw_os_error(libc::E2BIG)));
        }
        let _paths = self.paths.read();
        let handle = self.handle(inode)?;
        inode.xattrs_change();
        let outcome = self.store_xattr(inode, &handle, name, value, mode);
        inode.xattrs_change();
        // Not before it is changed: a sync in between would leave it out.
        self.metadata_changed(inode);
        outcome
    }

    fn store_xattr(
        &self,
        inode: &Arc<Inode>,
        handle: &Handle,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
    ) -> Result<()> {
        match self.codecs.xattrs.stored_name(name) {
            StoredName::PassThrough => {
                {
                    // An ACL is a mode, too.
                    let _modes = self.modes.read();
                    handle.set_xattr(name, value, mode)?;
                }
                if let Some(Open::Directory(directory)) = &*inode.open.lock() {
                    directory.acl_changed();
                }
                Ok(())
            }
            StoredName::Encrypted(stored) => {
                let before = self.overflow_of(handle, &stored);
                let sealed = self.codecs.xattrs.seal_value(&stored, name, value);
                match handle.set_xattr(&stored, &inline_value(&sealed), mode) {
                    Err(error) if no_room(&error) => {
                        self.set_overflow(handle, &stored, &sealed, mode)?
                    }
                    outcome => outcome?,
                }
                self.replaced_overflow(inode, before);
                if is_capabilities(name) {
                    // Those of an older version's.
                    let _ = handle.remove_xattr(name);
                }
                Ok(())
            }
        }
    }

    pub(super) fn remove_xattr(&self, inode: &Arc<Inode>, name: &[u8]) -> Result<()> {
        self.check_writable()?;
        check_name(name)?;
        if inode.flag(NO_XATTRS) {
            return Err(Error::NoAttribute);
        }
        // Perhaps held already, for another change of attributes.
        let _paths = self.paths.read_recursive();
        let handle = self.handle(inode)?;
        inode.xattrs_change();
        let outcome = self.delete_xattr(inode, &handle, name);
        inode.xattrs_change();
        self.metadata_changed(inode);
        outcome
    }

    /// Notes that attributes were changed.
    fn metadata_changed(&self, inode: &Arc<Inode>) {
        inode.set_flag(METADATA_DIRTY);
        self.list_for_commit(inode);
    }

    fn delete_xattr(&self, inode: &Arc<Inode>, handle: &Handle, name: &[u8]) -> Result<()> {
        match self.codecs.xattrs.stored_name(name) {
            StoredName::PassThrough => {
                handle.remove_xattr(name)?;
                if let Some(Open::Directory(directory)) = &*inode.open.lock() {
                    directory.acl_changed();
                }
            }
            StoredName::Encrypted(stored) => {
                let before = self.overflow_of(handle, &stored);
                match handle.remove_xattr(&stored) {
                    Err(error) if is_capabilities(name) && is_missing(&error) => {
                        handle.remove_xattr(name)?;
                    }
                    outcome => outcome?,
                }
                self.replaced_overflow(inode, before);
            }
        }
        Ok(())
    }

    /// The overflow files of an inode whose last name is about to go.
    pub(super) fn overflows_of(&self, handle: &Handle) -> Vec<String> {
        if !self.overflow_used.load(Ordering::Acquire) {
            return Vec::new();
        }
        let stored = handle.list_xattr().unwrap_or_default();
        stored.iter().filter_map(|name| self.overflow_of(handle, name)).collect()
    }

    /// Removes the overflow files of an inode that was open when its last name went, and that
    /// nobody holds any more.
    pub(super) fn remove_overflows_of(&self, inode: &Arc<Inode>) {
        if !self.overflow_used.load(Ordering::Acquire) {
            return;
        }
        let Ok(handle) = self.handle(inode) else { return };
        // It may have names that nobody looked up.
        if handle.stat().is_ok_and(|stat| stat.links == 0) {
            self.remove_overflows_later(self.overflows_of(&handle));
        }
    }

    /// Removes an overflow file that nothing refers to any more. One that stays is only litter.
    pub(super) fn remove_overflow(&self, id: Option<String>) {
        if let Some(id) = id {
            let _ = self.overflow.unlink(id.as_bytes());
        }
    }

    fn replaced_overflow(&self, inode: &Arc<Inode>, id: Option<String>) {
        if id.is_some() {
            self.metadata_changed(inode);
            self.remove_overflows_later(id);
        }
    }

    /// Removes overflow files once it is durable that nothing refers to them: the filesystem below
    /// need not keep the order (btrfs does not). What refers no more is listed for the commit.
    pub(super) fn remove_overflows_later(&self, ids: impl IntoIterator<Item = String>) {
        self.overflows_left.lock().extend(ids);
    }

    fn open_xattr(&self, stored: &[u8], value: &[u8]) -> Result<(Option<Vec<u8>>, Vec<u8>)> {
        let damaged = Error::Damaged { what: "an extended attribute" };
        let sealed = match parse_value(value) {
            Some(StoredValue::Inline(sealed)) => sealed.to_vec(),
            Some(StoredValue::Overflow(id)) => {
                let file = match self.overflow.open_file(id.as_bytes(), Access::Read) {
                    Err(error) if is_not_found(&error) => return Err(damaged),
                    file => file?,
                };
                let mut sealed = vec![0; VALUE_MAX + 1024];
                let read = file.read_at(&mut sealed, 0)?;
                sealed.truncate(read);
                sealed
            }
            None => return Err(damaged),
        };
        self.codecs.xattrs.open_value(stored, &sealed).map_err(|_| damaged)
    }

    /// The overflow file that a stored attribute refers to now.
    fn overflow_of(&self, handle: &Handle, stored: &[u8]) -> Option<String> {
        if !self.overflow_used.load(Ordering::Acquire) {
            return None;
        }
        match parse_value(&handle.get_xattr(stored).ok()?) {
            Some(StoredValue::Overflow(id)) => Some(id.to_owned()),
            _ => None,
        }
    }

    /// Stores a value that has no room in the inode: durable in its own file before the inode
    /// refers to it.
    fn set_overflow(
        &self,
        handle: &Handle,
        stored: &[u8],
        sealed: &[u8],
        mode: XattrMode,
    ) -> Result<()> {
        self.overflow_used.store(true, Ordering::Release);
        let id = new_overflow_id();
        let file = self.overflow.create_file(id.as_bytes(), 0o600)?;
        let outcome = file
            .write_at(sealed, 0)
            .and_then(|()| file.sync_all())
            .and_then(|()| self.overflow.sync())
            .and_then(|()| handle.set_xattr(stored, &overflow_value(&id), mode));
        if outcome.is_err() {
            self.remove_overflow(Some(id));
        }
        Ok(outcome?)
    }
}

fn check_name(name: &[u8]) -> Result<()> {
    if name.len() > XATTR_NAME_MAX {
        return Err(Error::Range);
    }
    // A namespace alone names nothing (xattr(7)).
    if matches!(name, b"user." | b"trusted.") {
        return Err(Error::Invalid);
    }
    Ok(())
}

/// File capabilities were once stored as they are; there they are still found.
fn is_capabilities(name: &[u8]) -> bool {
    name == b"security.capability"
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENODATA | libc::EOPNOTSUPP))
}

fn no_room(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::E2BIG | libc::ERANGE))
}
